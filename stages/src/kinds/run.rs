//! `run`: a script or commands inside the image; files can be taken out.
//! Knows parameters and steps, not how they are run.

use crate::error::ParamError;
use crate::kinds::{common, steps};
use crate::params::Params;
use crate::registry::{Kind, Lowered, Makes, ParamSpec, StageContext, Type};

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
    params: &[
        common::FROM,
        steps::STEPS,
        OUTPUT,
        common::CUTOFF,
        common::SANDBOXED,
    ],
    lower,
    expand: None,
};

const OUTPUT: &[ParamSpec] = &[ParamSpec::optional(
    "output",
    Type::Map(&Type::Text),
    "Files to copy out of the image when the steps are done, as { name = path }. Other stages use them as \
     stage.NAME.files[\"…\"].",
)];

fn lower(params: &Params, context: &StageContext) -> Result<Lowered, Vec<ParamError>> {
    let mut errors = Vec::new();
    let (mut action, secrets) =
        common::sandboxed(KIND.name, KIND.version, params, context, &mut errors);
    steps::add(&mut action, params, None, &mut errors);
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
