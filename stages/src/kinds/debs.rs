//! `debs`: locked packages as files, with an index of them, for media and mirrors.
//! Knows parameters; which files these are is the lock's business.

use crate::action::{ActionTemplate, Executor, Step};
use crate::error::ParamError;
use crate::kinds::{archives, bootstrap, common};
use crate::package_set::{ARCHITECTURE, PackageRequest, PackageSet, RequestRoot};
use crate::params::Params;
use crate::registry::{Kind, Lowered, Makes, ParamSpec, StageContext, Type};

pub(crate) const KIND: Kind = Kind {
    name: "debs",
    version: 1,
    summary: "gives package files with an index of them, for installation media and mirrors",
    example: r#"stage "debs" "mirror" {
  suite    = "bookworm"
  packages = ["linux-image-cloud-amd64", "openssh-server"]
}"#,
    makes: Makes::Tree,
    files: &[],
    params: &[PARAMS, ARCHIVES],
    lower,
    expand: None,
};

const PARAMS: &[ParamSpec] = &[
    ParamSpec::required(
        "packages",
        Type::List(&Type::Text),
        "Packages to give, with all that they need and the essential packages: what a new root can be installed from. \
         impasto.lock pins their exact versions. The stage is a directory of .deb files with a file Packages, which apt \
         reads as `deb [trusted=yes] file:/DIRECTORY ./`.",
    ),
    ParamSpec::required(
        "suite",
        Type::Text,
        "The release, by its code name, such as \"bookworm\".",
    ),
    ParamSpec::optional(
        "architecture",
        Type::OneOf(&["amd64", "arm64"]),
        "The architecture. Default: the host's.",
    ),
    ParamSpec::optional(
        "variant",
        Type::OneOf(&["essential", "minbase"]),
        "What else to give: only the essential packages (default), or all of priority \"required\".",
    ),
    ParamSpec::optional(
        "components",
        Type::List(&Type::Text),
        "Components of the archive to take packages from. Default: [\"main\"].",
    ),
    ParamSpec::optional(
        "recommends",
        Type::Bool,
        "Also gives recommended packages. Default: false.",
    ),
];

const ARCHIVES: &[ParamSpec] = &[archives::REPOSITORIES, archives::PINS, common::SECRETS];

fn lower(params: &Params, _: &StageContext) -> Result<Lowered, Vec<ParamError>> {
    let mut errors = Vec::new();
    let mut packages = params.texts("packages");
    for package in &packages {
        errors.extend(bootstrap::check_package("packages", package).err());
    }
    packages.sort_unstable();
    packages.dedup();
    let (suite, components) = bootstrap::suite_and_components(params, &mut errors);
    let secrets = common::secrets(params, &mut errors);
    let text = |name: &str, default: &str| params.text(name).unwrap_or(default).to_owned();
    let request = PackageRequest {
        root: RequestRoot::Own {
            distribution: "debian".to_owned(),
            architecture: text("architecture", ARCHITECTURE),
            variant: text("variant", "essential"),
        },
        install: packages,
        recommends: params.flag("recommends"),
        suite: Some(suite),
        components,
        repositories: archives::repositories(params, &secrets.values, &mut errors),
        pins: archives::pins(params, &mut errors),
        ..PackageRequest::default()
    };
    let mut action = ActionTemplate::new(KIND.name, KIND.version, Executor::Host);
    common::remember_lines(&mut action, params, "packages", "install");
    common::remember_lines(&mut action, params, "suite", "suite");
    // The files themselves are the key: what was asked for does not matter.
    action.packages = Some(PackageSet::default());
    action.steps.push(Step::Debs);
    if errors.is_empty() {
        Ok(Lowered {
            actions: vec![action],
            secrets: secrets.values,
            request: Some(request),
        })
    } else {
        Err(errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;

    #[test]
    fn packages_are_asked_for_as_for_a_root_of_their_own() {
        let list =
            |texts: &[&str]| Value::list(texts.iter().map(|text| Value::string(*text)).collect());
        let lowered = |packages: &[&str]| {
            let params = [
                ("packages".to_owned(), list(packages)),
                ("suite".to_owned(), Value::string("bookworm")),
                ("architecture".to_owned(), Value::string("arm64")),
            ];
            lower(&Params(params.into()), &StageContext::default())
        };
        let some = lowered(&["make", "gcc", "make"]).unwrap();
        let request = some.request.unwrap();
        assert_eq!(request.install, ["gcc", "make"]);
        assert_eq!(request.suite.as_deref(), Some("bookworm"));
        let RequestRoot::Own { architecture, .. } = &request.root else {
            panic!("{:?}", request.root)
        };
        assert_eq!(architecture, "arm64");
        assert_eq!(some.actions[0].steps, [Step::Debs]);
        let errors = lowered(&["-y"]).unwrap_err();
        assert_eq!(errors[0].to_string(), "\"-y\" is not a valid package name");
    }
}
