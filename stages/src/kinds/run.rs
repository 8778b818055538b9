//! `run`: a script or commands inside the image; files can be taken out.
//! Knows parameters and steps, not how they are run.

use crate::action::Step;
use crate::error::ParamError;
use crate::kinds::common;
use crate::params::Params;
use crate::registry::{Kind, Lowered, Makes, ParamSpec, StageContext, Type};
use crate::value::Value;

pub(crate) const KIND: Kind = Kind {
    name: "run",
    version: 1,
    summary: "runs a script or commands inside the image",
    example: r#"stage "run" "versions" {
  from   = stage.base
  script = file("scripts/detect-versions.sh")
  output = { "image-version.txt" = "/tmp/image-version.txt" }
}"#,
    makes: Makes::Disk,
    files: &[],
    params: &[common::FROM, PARAMS, common::CUTOFF, common::SANDBOXED],
    lower,
    expand: None,
};

const PARAMS: &[ParamSpec] = &[
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
    ParamSpec::optional(
        "output",
        Type::Map(&Type::Text),
        "Files to copy out of the image when the steps are done, as { name = path }. Other stages use them as \
         stage.NAME.files[\"…\"].",
    ),
];

fn lower(params: &Params, context: &StageContext) -> Result<Lowered, Vec<ParamError>> {
    let mut errors = Vec::new();
    let (mut action, secrets) =
        common::sandboxed(KIND.name, KIND.version, params, context, &mut errors);
    match (params.text("script"), params.list("commands")) {
        (Some(text), []) => {
            if text.trim().is_empty() {
                errors.push(ParamError::new("script", "the script is empty"));
            }
            if let Some(origin) = params.origin("script") {
                action
                    .hints
                    .origins
                    .insert("steps[0].script".to_owned(), origin.clone());
            }
            action.steps.push(Step::Script {
                text: text.to_owned(),
            });
        }
        (None, lines @ [_, ..]) => {
            for (index, line) in lines.iter().enumerate() {
                if let Some(origin) = &line.origin {
                    action
                        .hints
                        .origins
                        .insert(format!("steps[{index}].command"), (**origin).clone());
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
    for (name, path) in &action.outputs {
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
    if errors.is_empty() {
        Ok(Lowered {
            actions: vec![action],
            secrets,
            request: None,
        })
    } else {
        Err(errors)
    }
}
