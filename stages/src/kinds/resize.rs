//! `resize`: a larger disk, with its last partition and the ext4 in it grown.
//! Knows parameters and what they may be; that a disk can be grown is found out where it is.

use crate::action::{Executor, SandboxRoot, Slot, Step};
use crate::error::ParamError;
use crate::kinds::common::{self, size};
use crate::params::Params;
use crate::registry::{Kind, Lowered, Makes, ParamSpec, StageContext, Type};

pub(crate) const KIND: Kind = Kind {
    name: "resize",
    version: 1,
    summary: "grows a disk, and with it the last partition and its ext4; nothing is mounted",
    example: r#"stage "resize" "large" {
  from = stage.base
  size = "20GiB"
}"#,
    makes: Makes::Disk,
    files: &[],
    params: &[
        common::FROM,
        PARAMS,
        common::CUTOFF,
        common::SANDBOX_AND_TIMEOUT,
    ],
    lower,
    expand: None,
};

const PARAMS: &[ParamSpec] = &[
    ParamSpec::required(
        "size",
        Type::Text,
        "Size of the disk, such as \"20GiB\", in whole MiB, GiB or TiB. Never less than the disk has: nothing is shrunk.",
    ),
    ParamSpec::optional(
        "partition",
        Type::Either(&[Type::Int, Type::Text]),
        "The partition that grows, which must be the last on the disk: \"root\", its number, \"LABEL=…\" or \
         \"UUID=…\". Default: \"root\".",
    ),
];

fn lower(params: &Params, context: &StageContext) -> Result<Lowered, Vec<ParamError>> {
    let mut errors = Vec::new();
    let (mut action, secrets) =
        common::sandboxed(KIND.name, KIND.version, params, context, &mut errors);
    action.executor = Executor::Sandbox(SandboxRoot::Toolbox);
    action.toolbox = Some(Slot::Toolbox);
    let size = params
        .text("size")
        .map_or(0, |text| size("size", "`size`", text, &mut errors));
    let partition = match params.text("partition") {
        Some("root") => None,
        None if params.get("partition").is_none() => None,
        _ => match common::partition(params, "partition") {
            Ok(partition) => Some(partition),
            Err(error) => {
                errors.push(error.help("use \"root\", a number from 1, \"LABEL=…\" or \"UUID=…\""));
                None
            }
        },
    };
    action.steps.push(Step::Resize { size, partition });
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Lowered {
        actions: vec![action],
        secrets,
        request: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::RootSpec;
    use crate::number::Number;
    use crate::value::{Data, Value};

    fn step(params: &[(&str, Value)]) -> Result<Step, Vec<ParamError>> {
        let params = params
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()));
        let lowered = lower(&Params(params.collect()), &StageContext::default())?;
        Ok(lowered.actions[0].steps[0].clone())
    }

    #[test]
    fn sizes_are_bytes_and_the_root_needs_no_name() {
        let size = ("size", Value::string("20GiB"));
        let of = |partition| step(&[size.clone(), ("partition", partition)]).unwrap();
        let grown = |partition| Step::Resize {
            size: 20 << 30,
            partition,
        };
        assert_eq!(step(std::slice::from_ref(&size)).unwrap(), grown(None));
        assert_eq!(of(Value::string("root")), grown(None));
        let number = Value::new(Data::Number(Number::Int(3)));
        assert_eq!(of(number), grown(Some(RootSpec::Number(3))));
        let label = Value::string("LABEL=data");
        assert_eq!(of(label), grown(Some(RootSpec::Label("data".to_owned()))));
    }

    #[test]
    fn what_is_no_size_and_no_partition_is_told_at_once() {
        let errors = step(&[
            ("size", Value::string("20GB")),
            ("partition", Value::string("last")),
        ])
        .unwrap_err();
        let shown: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors[0].param, Some("size"));
        assert!(
            shown[0].contains("\"20GB\" is not a valid size"),
            "{shown:?}"
        );
        assert_eq!(errors[1].param, Some("partition"));
        assert!(
            shown[1].contains("\"last\" is not a valid partition"),
            "{shown:?}"
        );
    }
}
