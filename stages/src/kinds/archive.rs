//! `archive`: files of stages and the user's own in one tar or cpio, or all files of a disk.
//! Knows parameters and what they may be; how an archive is written is the engine's knowledge.

use crate::action::{ActionTemplate, Executor, Step};
use crate::error::ParamError;
use crate::kinds::common;
use crate::media::{ArchiveForm, ArchiveSpec, ENCODERS, PackCompression};
use crate::params::Params;
use crate::registry::{Kind, Lowered, Makes, ParamSpec, StageContext, Type};

pub(crate) const KIND: Kind = Kind {
    name: "archive",
    version: 1,
    summary: "puts files into a tar or cpio archive: those of stages, your own, or all of a disk",
    example: r#"stage "archive" "bundle" {
  format = "tar.gz"
  files  = {
    initrd  = stage.ramdisk
    vmlinuz = stage.ramdisk.files["kernel"]
    doc     = "doc"
  }
}"#,
    makes: Makes::File,
    files: &[],
    params: &[PARAMS],
    lower,
    expand: None,
};

const FORMATS: &[&str] = &[
    "tar", "tar.gz", "tar.xz", "tar.zst", "cpio", "cpio.gz", "cpio.xz", "cpio.zst",
];

const PARAMS: &[ParamSpec] = &[
    ParamSpec::required("format", Type::OneOf(FORMATS), "The archive's format."),
    ParamSpec::optional(
        "files",
        Type::Map(&Type::File),
        "What is in it, by path: files and trees of stages, your own files and directories. All are owned by root and \
         get the recipe's `source_date_epoch` as time.",
    ),
    ParamSpec::optional(
        "from",
        Type::Disk,
        "In place of `files`: the stage whose disk's root file system becomes the archive, with owners, modes, devices, \
         links and, in a tar archive, extended attributes.",
    ),
    common::EXCLUDE,
    common::LEVEL,
];

fn lower(params: &Params, context: &StageContext) -> Result<Lowered, Vec<ParamError>> {
    let mut errors = Vec::new();
    let mut action = ActionTemplate::new(KIND.name, KIND.version, Executor::Host);
    action.parent = common::from(params);
    action.source_date_epoch = common::demand_epoch(context, &mut errors);
    let format = params.text("format").unwrap_or("tar");
    let (form, end) = format.split_once('.').unwrap_or((format, ""));
    let form = match form {
        "cpio" => ArchiveForm::Cpio,
        _ => ArchiveForm::Tar,
    };
    let compression = match end {
        "gz" => PackCompression::Gzip,
        "xz" => PackCompression::Xz,
        "zst" => PackCompression::Zstd,
        _ => PackCompression::None,
    };
    for (path, value) in params.pairs("files") {
        errors.extend(check_path(path).err());
        let slot = common::file_slot(value);
        action.inputs.extend(slot.map(|slot| (path.clone(), slot)));
    }
    match (&action.parent, params.get("files")) {
        (None, None) => {
            let error = ParamError::stage("the archive has neither `files` nor `from`");
            errors.push(error.help("say what is in it: `files = { \"name\" = stage.NAME }`"));
        }
        (Some(_), Some(_)) => {
            let error = ParamError::new("files", "`from` is given too");
            errors.push(error.help("make two archives, or copy the files into the disk before"));
        }
        _ => {}
    }
    if action.parent.is_none() && params.get("exclude").is_some() {
        let error = ParamError::new("exclude", "it is only for the files of a disk");
        errors.push(error.help("remove `exclude`, or the files from `files`"));
    }
    let spec = ArchiveSpec {
        form,
        compression,
        level: common::level(params, compression, &mut errors),
        exclude: common::exclude(params, &mut errors),
        encoder: ENCODERS.to_owned(),
    };
    action.steps.push(Step::Archive {
        spec: Box::new(spec),
    });
    match errors.is_empty() {
        true => Ok(Lowered {
            actions: vec![action],
            ..Lowered::default()
        }),
        false => Err(errors),
    }
}

/// The end of the name of the file that a stage makes.
pub fn extension(spec: &ArchiveSpec) -> &'static str {
    let place = match spec.form {
        ArchiveForm::Tar => 0,
        ArchiveForm::Cpio => 4,
    };
    let place = place
        + match spec.compression {
            PackCompression::None => 0,
            PackCompression::Gzip => 1,
            PackCompression::Xz => 2,
            PackCompression::Zstd => 3,
        };
    FORMATS[place]
}

/// Checks a path within an archive.
pub(crate) fn check_path(path: &str) -> Result<(), ParamError> {
    let is_name = |name: &str| !matches!(name, "" | "." | "..") && name.len() <= 255;
    if path.split('/').all(is_name) && !path.chars().any(char::is_control) {
        return Ok(());
    }
    let error = ParamError::new("files", format!("{path:?} is not a path within an archive"));
    Err(error.help("use a relative path without `.` and `..`, such as \"boot/vmlinuz\""))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::value::Value;

    fn refusal(format: &str, files: Option<&[&str]>) -> Option<String> {
        let mut params = BTreeMap::from([("format".to_owned(), Value::string(format))]);
        if let Some(files) = files {
            let pairs = files
                .iter()
                .map(|path| ((*path).to_owned(), Value::string("f")));
            params.insert("files".to_owned(), Value::object(pairs.collect()));
        }
        let context = StageContext {
            source_date_epoch: Some(1),
            ..StageContext::default()
        };
        let lowered = lower(&Params(params), &context).map(drop);
        lowered.map_err(|errors| errors[0].to_string()).err()
    }

    #[test]
    fn paths_stay_within_the_archive() {
        assert_eq!(refusal("tar", Some(&["a", "b/c"])), None);
        for path in ["/a", "../a", "a//b", "a/./b", "", "a\n"] {
            let refused = refusal("cpio.gz", Some(&[path])).unwrap();
            assert!(
                refused.ends_with("is not a path within an archive"),
                "{refused}"
            );
        }
        assert!(
            refusal("tar", None)
                .unwrap()
                .contains("neither `files` nor `from`")
        );
    }

    #[test]
    fn names_end_as_their_formats() {
        for format in FORMATS {
            let params = [
                ("format", Value::string(*format)),
                (
                    "files",
                    Value::object([("a".to_owned(), Value::string("f"))].into()),
                ),
            ];
            let params = params.map(|(name, value)| (name.to_owned(), value));
            let context = StageContext {
                source_date_epoch: Some(1),
                ..StageContext::default()
            };
            let lowered = lower(&Params(params.into()), &context).unwrap();
            let Step::Archive { spec } = &lowered.actions[0].steps[0] else {
                panic!("{lowered:?}")
            };
            assert_eq!(extension(spec), *format);
        }
    }
}
