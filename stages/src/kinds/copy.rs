//! `copy`: files, directories, texts and other stages' files into the image.
//! Knows parameters and steps, not how they are run.

use crate::action::{Slot, Step};
use crate::error::ParamError;
use crate::kinds::common;
use crate::params::{Params, parse_mode};
use crate::registry::{Kind, Lowered, Makes, ParamSpec, StageContext, Type};
use crate::value::{Data, Value};

pub(crate) const KIND: Kind = Kind {
    name: "copy",
    version: 1,
    summary: "copies files, directories, inline text and other stages' files into the image",
    example: r#"stage "copy" "config" {
  from  = stage.base
  files = {
    "/etc/app.conf"  = "files/app.conf"
    "/opt/app"       = { source = "app", owner = "app:app" }
    "/etc/motd"      = { content = "Welcome\n", mode = "0644" }
    "/etc/version"   = stage.versions.files["image-version.txt"]
  }
}"#,
    makes: Makes::Disk,
    files: &[],
    params: &[common::FROM, PARAMS, common::CUTOFF, common::SANDBOXED],
    lower,
    expand: None,
};

const PARAMS: &[ParamSpec] = &[ParamSpec::required(
    "files",
    Type::Map(&Type::Either(&[Type::File, Type::Object(ENTRY)])),
    "What to copy: the path in the image to a file, a directory, another stage's file, or an object. Missing \
     directories are created; a directory is merged into an existing one.",
)];

const ENTRY: &[ParamSpec] = &[
    ParamSpec::optional(
        "source",
        Type::File,
        "A file or directory, or another stage's file.",
    ),
    common::IGNORE,
    ParamSpec::optional(
        "content",
        Type::Text,
        "The content itself, such as template(\"motd.tpl\", { name = \"x\" }).",
    ),
    ParamSpec::optional(
        "mode",
        Type::Mode,
        "Permission bits, such as \"0644\". Default: the source's; 0644 for `content`.",
    ),
    ParamSpec::optional(
        "owner",
        Type::Text,
        "`user`, `user:group` or numbers, as the image knows them. Default: root.",
    ),
    ParamSpec::optional(
        "mtime",
        Type::OneOf(MTIMES),
        "The modification time of the files in the image: \"epoch\" is the recipe's source_date_epoch, \"keep\" each \
         file's own in whole seconds, which is then part of the stage's key. Default: \"epoch\". Web servers derive \
         `ETag` and `Last-Modified` from time and length: with \"epoch\", browsers miss an edit that keeps the \
         length.",
    ),
];

/// Values of `mtime`.
const MTIMES: &[&str] = &["epoch", KEEP];

/// The value of `mtime` with which files keep their times.
const KEEP: &str = "keep";

fn lower(params: &Params, context: &StageContext) -> Result<Lowered, Vec<ParamError>> {
    let mut errors = Vec::new();
    let (mut action, secrets) =
        common::sandboxed(KIND.name, KIND.version, params, context, &mut errors);
    for (dest, value) in params.pairs("files") {
        errors.extend(common::check_guest_path("files", dest).err());
        let first = dest
            .split('/')
            .find(|part| !part.is_empty() && *part != ".");
        if let Some(first @ ("tmp" | "run" | "dev" | "proc" | "sys")) = first {
            let error = ParamError::new(
                "files",
                format!("/{first} of a stage is not part of its disk: {dest:?} would be lost"),
            );
            errors.push(
                error.help("copy it to another directory, or pass it to a `run` stage in `inputs`"),
            );
        }
        let entry = |name: &str| match &value.data {
            Data::Object(entry) => entry.get(name).filter(|value| value.data != Data::Null),
            _ => None,
        };
        let mode = entry("mode").and_then(Value::as_str).and_then(parse_mode);
        let owner = entry("owner").and_then(Value::as_str).map(str::to_owned);
        let keep_times = entry("mtime").and_then(Value::as_str) == Some(KEEP);
        let source = if let Data::Object(_) = value.data {
            entry("source")
        } else {
            Some(value)
        };
        let index = action.steps.len();
        match (source.and_then(common::file_slot), entry("content")) {
            (Some(Slot::Stage(_) | Slot::StageFile { .. }), None) if keep_times => errors.push(
                ParamError::new(
                    "files",
                    format!("{dest:?} cannot keep its `mtime`: files made by stages have none"),
                )
                .help("omit `mtime`: the file gets the recipe's source_date_epoch"),
            ),
            (None, Some(_)) if keep_times => errors.push(
                ParamError::new(
                    "files",
                    format!("{dest:?} cannot keep its `mtime`: `content` has none"),
                )
                .help("omit `mtime`: the file gets the recipe's source_date_epoch"),
            ),
            (Some(slot), None) => {
                let slot = match (slot, ignored(entry("ignore"))) {
                    (Slot::Local(path), ignore) if !ignore.is_empty() => Slot::LocalPart {
                        path,
                        ignore,
                        with_times: keep_times,
                    },
                    (Slot::Local(path), _) if keep_times => Slot::LocalWithTimes(path),
                    (slot, _) => slot,
                };
                let input = format!("{index:04}-{}", name_of(&slot));
                action.inputs.insert(input.clone(), slot);
                action.steps.push(Step::CopyIn {
                    input,
                    dest: dest.clone(),
                    mode,
                    owner,
                    keep_times,
                });
            }
            (None, Some(content)) => {
                if let Some(origin) = &content.origin {
                    action
                        .hints
                        .origins
                        .insert(format!("steps[{index}].content"), (**origin).clone());
                }
                let text = content.as_str().unwrap_or_default().to_owned();
                action.steps.push(Step::WriteFile {
                    dest: dest.clone(),
                    text,
                    mode: mode.unwrap_or(0o644),
                    owner,
                });
            }
            (None, None) => errors.push(
                ParamError::new(
                    "files",
                    format!("{dest:?} has neither `source` nor `content`"),
                )
                .help("set one of them"),
            ),
            (Some(_), Some(_)) => errors.push(
                ParamError::new("files", format!("{dest:?} has both `source` and `content`"))
                    .help("remove one of them"),
            ),
        }
    }
    if action.steps.is_empty() && errors.is_empty() {
        errors.push(ParamError::new("files", "there is nothing to copy"));
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

/// The patterns of an entry.
fn ignored(value: Option<&Value>) -> Vec<String> {
    let items = match value.map(|value| &value.data) {
        Some(Data::List(items)) => items.as_slice(),
        _ => &[],
    };
    items
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// A short name for people: the last part of a path, or the file's name.
fn name_of(slot: &Slot) -> &str {
    let path = match slot {
        Slot::Local(path) | Slot::LocalWithTimes(path) | Slot::LocalPart { path, .. } => path,
        Slot::StageFile { file, .. } => file,
        Slot::Stage(stage) => stage,
        Slot::Unit { .. } => "unit",
        Slot::Toolbox => "toolbox",
        Slot::Firmware { .. } => "firmware",
    };
    path.rsplit('/')
        .find(|part| !part.is_empty() && *part != "." && *part != "..")
        .unwrap_or("root")
}
