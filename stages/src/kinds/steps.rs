//! What a recipe has run in a sandbox: a script or commands, what they read, and the files that are taken out.
//! Knows these parameters, not where the steps run.

use crate::action::{ActionTemplate, Step};
use crate::error::ParamError;
use crate::kinds::common;
use crate::params::Params;
use crate::registry::{ParamSpec, Type};
use crate::value::Value;

/// What is run, and what it reads.
pub(crate) const STEPS: &[ParamSpec] = &[
    ParamSpec::optional(
        "script",
        Type::Text,
        "The script's content, such as file(\"scripts/setup.sh\"). Run by /bin/sh -e unless its first line names an \
         interpreter.",
    ),
    ParamSpec::optional(
        "commands",
        Type::List(&Type::Text),
        "Commands to run one after the other, each by /bin/sh -ec.",
    ),
    ParamSpec::optional(
        "inputs",
        Type::Map(&Type::File),
        "Files and directories that the steps can read, as /run/impasto/inputs/NAME: paths, or other stages' files.",
    ),
    common::IGNORE,
];

/// Adds what [`STEPS`] and `output` say to an Action. Paths of outputs that are not absolute begin in the directory `work`.
pub(crate) fn add(
    action: &mut ActionTemplate,
    params: &Params,
    work: Option<&str>,
    errors: &mut Vec<ParamError>,
) {
    let first = action.steps.len();
    match (params.text("script"), params.list("commands")) {
        (Some(text), []) => {
            if text.trim().is_empty() {
                errors.push(ParamError::new("script", "the script is empty"));
            }
            if let Some(origin) = params.origin("script") {
                action
                    .hints
                    .origins
                    .insert(format!("steps[{first}].script"), origin.clone());
            }
            action.steps.push(Step::Script {
                text: text.to_owned(),
            });
        }
        (None, lines @ [_, ..]) => {
            for (index, line) in lines.iter().enumerate() {
                if let Some(origin) = &line.origin {
                    let name = format!("steps[{}].command", first + index);
                    action.hints.origins.insert(name, (**origin).clone());
                }
            }
            let lines = lines.iter().filter_map(Value::as_str);
            action.steps.extend(lines.map(|line| Step::Command {
                line: line.to_owned(),
            }));
        }
        (None, []) => errors.push(
            ParamError::stage("there is nothing to run: neither `script` nor `commands` is set")
                .help("set `script = file(\"…\")` or `commands = [\"…\"]`"),
        ),
        (Some(_), [_, ..]) => errors.push(
            ParamError::new("commands", "both `script` and `commands` are set")
                .help("remove one of them, or split the stage in two"),
        ),
    }
    let ignore = params.texts("ignore");
    for (name, value) in params.pairs("inputs") {
        errors.extend(common::check_name("inputs", name).err());
        let slot = common::file_slot(value).map(|slot| common::without(slot, &ignore));
        action.inputs.extend(slot.map(|slot| (name.clone(), slot)));
    }
    action.outputs = params.text_map("output");
    for (name, path) in &mut action.outputs {
        if let Some(work) = work.filter(|_| !path.starts_with('/')) {
            *path = format!("{work}/{path}");
        }
        errors.extend(common::check_name("output", name).err());
        errors.extend(common::check_guest_path("output", path).err());
        let parts: Vec<_> = path
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
            .collect();
        if parts.starts_with(&["run", "impasto"]) {
            let error = ParamError::new(
                "output",
                format!("{path:?} is among the inputs and secrets, which cannot be outputs"),
            );
            errors.push(error.help("let the script write the file elsewhere, such as under /tmp"));
        }
    }
}
