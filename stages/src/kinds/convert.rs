//! `convert`: the disk as one file, in a format that others read.
//! Knows parameters and steps, not how the file is made.

use impasto_store::qcow2::{ENCODER, EncoderId};

use crate::action::{ActionTemplate, Executor, Format, Step};
use crate::error::ParamError;
use crate::kinds::common;
use crate::params::Params;
use crate::registry::{Kind, Lowered, Makes, ParamSpec, StageContext, Type};

pub(crate) const KIND: Kind = Kind {
    name: "convert",
    version: 1,
    summary: "writes the disk as one file: compressed qcow2 or raw",
    example: r#"stage "convert" "qcow2" {
  from   = stage.clean
  format = "qcow2"
}"#,
    makes: Makes::File,
    files: &[],
    params: &[common::FROM, PARAMS],
    lower,
    expand: None,
};

const PARAMS: &[ParamSpec] = &[
    ParamSpec::required(
        "format",
        Type::OneOf(&["qcow2", "raw"]),
        "The file's format. qcow2 is compressed with zstd; raw is sparse.",
    ),
    ParamSpec::optional(
        "compression_level",
        Type::Int,
        "zstd level of a qcow2, 1 to 19. Default: the layers' frames are copied as they are, which is fastest.",
    ),
];

fn lower(params: &Params, _: &StageContext) -> Result<Lowered, Vec<ParamError>> {
    let mut action = ActionTemplate::new(KIND.name, KIND.version, Executor::Host);
    action.parent = common::from(params);
    let format = if params.text("format") == Some("raw") {
        Format::Raw
    } else {
        Format::Qcow2
    };
    let level = match params.int("compression_level") {
        None => None,
        Some(_) if format == Format::Raw => {
            let error = ParamError::new("compression_level", "raw files are not compressed");
            return Err(vec![
                error.help("remove `compression_level`, or use `format = \"qcow2\"`"),
            ]);
        }
        Some(level @ 1..=19) => Some(level as i32),
        Some(level) => {
            return Err(vec![
                ParamError::new("compression_level", format!("{level} is out of range"))
                    .help("use 1 to 19"),
            ]);
        }
    };
    let encoder = match format {
        Format::Qcow2 => EncoderId {
            level: level.unwrap_or(ENCODER.level),
            ..ENCODER
        }
        .to_string(),
        Format::Raw => String::new(),
    };
    action.steps.push(Step::Convert {
        format,
        level,
        encoder,
    });
    Ok(Lowered {
        actions: vec![action],
        ..Lowered::default()
    })
}
