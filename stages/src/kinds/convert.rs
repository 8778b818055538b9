//! `convert`: the disk as one file, or as one of each of several formats, that others read.
//! Knows parameters and steps, not how a file is made.

use crate::action::{ActionTemplate, Executor, Format, Step};
use crate::error::ParamError;
use crate::kinds::common;
use crate::params::Params;
use crate::registry::{Kind, Lowered, Makes, ParamSpec, StageContext, Type};

pub(crate) const KIND: Kind = Kind {
    name: "convert",
    version: 1,
    summary: "writes the disk as a file: qcow2, raw, or what VMware, Hyper-V, VirtualBox and clouds take",
    example: r#"stage "convert" "qcow2" {
  from   = stage.clean
  format = "qcow2"
}

stage "convert" "others" {
  from    = stage.clean
  formats = ["vmdk", "vhd", "raw.xz"]
}"#,
    makes: Makes::File,
    files: &[],
    params: &[common::FROM, PARAMS],
    lower,
    expand: None,
};

const NAMES: &[&str] = &[
    "qcow2", "raw", "raw.gz", "raw.xz", "raw.zst", "vmdk", "vhd", "vhdx", "vdi", "gce",
];

const PARAMS: &[ParamSpec] = &[
    ParamSpec::optional(
        "format",
        Type::OneOf(NAMES),
        "The file's format. raw is sparse; raw.gz, raw.xz and raw.zst are compressed. vmdk is streamOptimized (VMware); vhd is \
         fixed, its size a multiple of 1 MiB (Azure); vhdx (Hyper-V) and vdi (VirtualBox) are dynamic; gce is a disk.raw, its \
         size a multiple of 1 GiB, in a tar.gz (Google Compute Engine).",
    ),
    ParamSpec::optional(
        "formats",
        Type::List(&Type::OneOf(NAMES)),
        "Several formats in place of `format`, all written while the disk is read once. Each is also \
         stage.NAME.files[\"disk.EXTENSION\"].",
    ),
    ParamSpec::optional(
        "compression",
        Type::OneOf(&["zstd", "zlib", "none"]),
        "How a qcow2 is compressed. Default: zstd, which needs QEMU 5.1; every QEMU reads zlib.",
    ),
    ParamSpec::optional(
        "compression_level",
        Type::Int,
        "Level of a qcow2's compression: 1 to 19 for zstd, 1 to 12 for zlib. Default: 1; with zstd the layers' frames are \
         then copied as they are, which is fastest.",
    ),
];

/// The formats that a stage asks for.
fn formats(params: &Params) -> Result<Vec<Format>, ParamError> {
    let several = params.texts("formats");
    let names = match (params.text("format"), &several[..]) {
        (Some(_), [_, ..]) => {
            let error = ParamError::new("formats", "`format` is given too");
            return Err(error.help("list all of them in `formats`"));
        }
        (Some(name), []) => vec![name.to_owned()],
        (None, []) => {
            let error = ParamError::new("format", "no format is given");
            return Err(error.help("for example `format = \"qcow2\"`"));
        }
        (None, _) => several,
    };
    let mut formats = Vec::new();
    for name in names {
        let format = match (name.as_str(), params.text("compression")) {
            ("qcow2", Some("zlib")) => Format::Qcow2Zlib,
            ("qcow2", Some("none")) => Format::Qcow2Plain,
            (name, _) => named(name),
        };
        if formats.contains(&format) {
            return Err(ParamError::new(
                "formats",
                format!("{name:?} is listed twice"),
            ));
        }
        formats.push(format);
    }
    Ok(formats)
}

fn named(name: &str) -> Format {
    match name {
        "raw" => Format::Raw,
        "raw.gz" => Format::RawGzip,
        "raw.xz" => Format::RawXz,
        "raw.zst" => Format::RawZstd,
        "vmdk" => Format::Vmdk,
        "vhd" => Format::Vhd,
        "vhdx" => Format::Vhdx,
        "vdi" => Format::Vdi,
        "gce" => Format::Gce,
        _ => Format::Qcow2,
    }
}

/// Names of the files that a stage with several formats makes; nothing where it makes one.
pub(crate) fn files(params: &Params) -> Vec<String> {
    if params.list("formats").is_empty() {
        return Vec::new();
    }
    let formats = formats(params).unwrap_or_default();
    formats.into_iter().map(Format::file_name).collect()
}

/// What is wrong with the compression of a qcow2, or that there is none.
fn compression(params: &Params, formats: &[Format]) -> Result<Option<i32>, Vec<ParamError>> {
    let qcow2 = formats.iter().find(|format| format.extension() == "qcow2");
    let mut errors = Vec::new();
    if params.get("compression").is_some() && qcow2.is_none() {
        errors.push(no_qcow2("compression"));
    }
    let level = params.int("compression_level");
    match (level, qcow2.map(|format| format.levels())) {
        (None, _) => {}
        (Some(_), None) => errors.push(no_qcow2("compression_level")),
        (Some(_), Some(None)) => {
            let error = ParamError::new("compression_level", "nothing is compressed");
            errors.push(error.help("remove it, or `compression = \"none\"`"));
        }
        (Some(level), Some(Some(levels))) => {
            if !i32::try_from(level).is_ok_and(|level| levels.contains(&level)) {
                let error =
                    ParamError::new("compression_level", format!("{level} is out of range"));
                errors.push(error.help(format!("use {} to {}", levels.start(), levels.end())));
            }
        }
    }
    match errors.is_empty() {
        true => Ok(level.map(|level| level as i32)),
        false => Err(errors),
    }
}

fn no_qcow2(param: &'static str) -> ParamError {
    let error = ParamError::new(param, "it is only for qcow2");
    error.help(format!("remove `{param}`, or use `format = \"qcow2\"`"))
}

fn lower(params: &Params, _: &StageContext) -> Result<Lowered, Vec<ParamError>> {
    let formats = formats(params).map_err(|error| vec![error])?;
    let level = compression(params, &formats)?;
    let mut action = ActionTemplate::new(KIND.name, KIND.version, Executor::Host);
    action.parent = common::from(params);
    for format in formats {
        let level = level.filter(|_| format.levels().is_some());
        let encoder = format.encoder(level);
        action.steps.push(Step::Convert {
            format,
            level,
            encoder,
        });
    }
    Ok(Lowered {
        actions: vec![action],
        ..Lowered::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::Number;
    use crate::value::{Data, Value};

    fn steps(params: &[(&str, Value)]) -> Result<Vec<Step>, Vec<ParamError>> {
        let params = params
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()));
        let lowered = lower(&Params(params.collect()), &StageContext::default())?;
        Ok(lowered.actions[0].steps.clone())
    }

    fn list(names: &[&str]) -> Value {
        Value::list(names.iter().map(|name| Value::string(*name)).collect())
    }

    #[test]
    fn each_format_is_a_step_and_names_its_encoder() {
        let formats = list(&["qcow2", "vmdk", "raw"]);
        let zlib = ("compression", Value::string("zlib"));
        let made = steps(&[("formats", formats), zlib]).unwrap();
        let encoders: Vec<_> = made
            .iter()
            .map(|step| match step {
                Step::Convert {
                    format, encoder, ..
                } => (format.extension(), &**encoder),
                step => panic!("{step:?}"),
            })
            .collect();
        let deflate = "libdeflate-1.26.1/level-1";
        assert_eq!(
            encoders,
            [("qcow2", deflate), ("vmdk", deflate), ("raw", "")]
        );
    }

    #[test]
    fn what_does_not_fit_together_is_refused_by_its_name() {
        let format = |name| ("format", Value::string(name));
        let level = |level| {
            (
                "compression_level",
                Value::new(Data::Number(Number::Int(level))),
            )
        };
        let zlib = || ("compression", Value::string("zlib"));
        for (params, wrong) in [
            (vec![], "no format is given"),
            (
                vec![format("raw"), ("formats", list(&["vdi"]))],
                "given too",
            ),
            (vec![("formats", list(&["vdi", "vdi"]))], "listed twice"),
            (vec![format("vdi"), zlib()], "only for qcow2"),
            (vec![format("raw"), level(3)], "only for qcow2"),
            (vec![format("qcow2"), level(20)], "out of range"),
            (vec![format("qcow2"), zlib(), level(13)], "out of range"),
            (
                vec![
                    format("qcow2"),
                    ("compression", Value::string("none")),
                    level(1),
                ],
                "nothing",
            ),
        ] {
            let errors = steps(&params).unwrap_err();
            assert!(
                errors[0].to_string().contains(wrong),
                "{params:?}: {errors:?}"
            );
        }
    }
}
