//! `initramfs`: the files of a disk as a ramdisk, and the kernel beside it.
//! Knows parameters and what they may be; how a disk is read is the engine's knowledge.

use crate::action::{ActionTemplate, Executor, Step};
use crate::error::ParamError;
use crate::kinds::common;
use crate::media::{ENCODERS, InitramfsSpec, PackCompression};
use crate::params::Params;
use crate::registry::{Kind, Lowered, Makes, ParamSpec, StageContext, Type};

pub(crate) const KIND: Kind = Kind {
    name: "initramfs",
    version: 1,
    summary: "makes a ramdisk of a disk's files, with the kernel beside it",
    example: r#"stage "initramfs" "ramdisk" {
  from    = stage.clean
  exclude = ["/boot/*", "/usr/share/doc/*", "/var/cache/*"]
}

image "it" {
  files = { initrd = stage.ramdisk, vmlinuz = stage.ramdisk.files["kernel"] }
}"#,
    makes: Makes::File,
    files: &["initramfs", "kernel"],
    params: &[common::FROM, PARAMS],
    lower,
    expand: None,
};

const PARAMS: &[ParamSpec] = &[
    common::EXCLUDE,
    ParamSpec::optional(
        "compression",
        Type::OneOf(PackCompression::NAMES),
        "How the ramdisk is compressed. Of gzip, what did not change is taken over from the ramdisk that the stage made \
         before, which is much faster; the bytes are the same. Every kernel reads gzip; Debian's read all. Default: \
         \"gzip\".",
    ),
    common::LEVEL,
    ParamSpec::optional(
        "kernel",
        Type::Text,
        "The release of the kernel that becomes stage.NAME.files[\"kernel\"], such as \"6.12.48-amd64\": \
         /boot/vmlinuz-RELEASE of the disk. Default: the newest; without any, the stage makes no such file.",
    ),
];

fn lower(params: &Params, context: &StageContext) -> Result<Lowered, Vec<ParamError>> {
    let mut errors = Vec::new();
    let mut action = ActionTemplate::new(KIND.name, KIND.version, Executor::Host);
    action.parent = common::from(params);
    action.source_date_epoch = common::demand_epoch(context, &mut errors);
    let compression = params.text("compression").and_then(PackCompression::named);
    let compression = compression.unwrap_or(PackCompression::Gzip);
    let kernel = params.text("kernel").map(str::to_owned);
    if let Some(kernel) = &kernel
        && (kernel.is_empty() || kernel.contains('/') || kernel.chars().any(char::is_whitespace))
    {
        let error = ParamError::new("kernel", format!("{kernel:?} is not a kernel release"));
        errors.push(error.help("use what follows `vmlinuz-` in /boot, such as \"6.12.48-amd64\""));
    }
    let spec = InitramfsSpec {
        exclude: common::exclude(params, &mut errors),
        compression,
        level: common::level(params, compression, &mut errors),
        kernel,
        encoder: ENCODERS.to_owned(),
    };
    action.steps.push(Step::Initramfs {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::number::Number;
    use crate::value::{Data, Value};

    fn lowered(params: &[(&str, Value)]) -> Result<Lowered, Vec<ParamError>> {
        let stage = Value::new(Data::Stage("clean".into()));
        let from = ("from".to_owned(), stage);
        let own = params
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()));
        let params = Params(BTreeMap::from_iter(own.chain([from])));
        let context = StageContext {
            source_date_epoch: Some(1),
            ..StageContext::default()
        };
        lower(&params, &context)
    }

    #[test]
    fn levels_are_those_of_the_compressor() {
        let int = |number| Value::new(Data::Number(Number::Int(number)));
        let refusal = |compression: &str, level| {
            let compression = ("compression", Value::string(compression));
            let errors = lowered(&[compression, ("level", int(level))]).map(drop);
            errors.map_err(|errors| errors[0].to_string()).err()
        };
        assert_eq!(refusal("gzip", 9), None);
        assert_eq!(refusal("zstd", 19), None);
        assert_eq!(refusal("gzip", 10).as_deref(), Some("10 is out of range"));
        assert_eq!(refusal("none", 1).as_deref(), Some("nothing is compressed"));
        let lowered = lowered(&[]).unwrap();
        let Step::Initramfs { spec } = &lowered.actions[0].steps[0] else {
            panic!("{lowered:?}")
        };
        assert_eq!((spec.compression, spec.level), (PackCompression::Gzip, 6));
    }

    #[test]
    fn excluded_paths_are_absolute() {
        let exclude = Value::list(vec![Value::string("usr/share/doc")]);
        let errors = lowered(&[("exclude", exclude)]).unwrap_err();
        assert!(
            errors[0].to_string().contains("is not absolute"),
            "{errors:?}"
        );
    }
}
