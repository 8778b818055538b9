//! `bootstrap`: a distribution's root file system out of its packages.
//! Knows parameters and steps, not how packages are installed.

use crate::action::{ActionTemplate, Executor, SandboxRoot, Slot, Step};
use crate::bootstrap::BootstrapSpec;
use crate::error::ParamError;
use crate::kinds::{archives, common};
use crate::limits::{LIMITS, limits};
use crate::package_set::{ARCHITECTURE, PackageRequest, PackageSet, RequestRoot};
use crate::params::Params;
use crate::registry::{Kind, Lowered, Makes, ParamSpec, StageContext, Type};

pub(crate) const KIND: Kind = Kind {
    name: "bootstrap",
    version: 2,
    summary: "makes a distribution's root file system from its packages, as a tree for `disk`",
    example: r#"stage "bootstrap" "root" {
  suite    = "bookworm"
  packages = ["linux-image-cloud-amd64", "systemd-sysv", "grub-pc-bin", "grub2-common"]
}"#,
    makes: Makes::File,
    files: &[],
    params: &[PARAMS, ARCHIVES],
    lower,
    expand: None,
};

const PARAMS: &[ParamSpec] = &[
    ParamSpec::required(
        "suite",
        Type::Text,
        "The release, by its code name, such as \"bookworm\".",
    ),
    ParamSpec::optional(
        "distribution",
        Type::OneOf(&["debian", "ubuntu"]),
        "The distribution. Default: debian. Ubuntu's packages come from the mirror IMPASTO_UBUNTU_MIRROR (for \
         architectures other than amd64, IMPASTO_UBUNTU_PORTS_MIRROR), or as on a host that is Ubuntu itself.",
    ),
    ParamSpec::optional(
        "signed_by",
        Type::Text,
        "The armored keys that sign the distribution's archives, such as file(\"keys/mirror.asc\"), where a mirror of \
         your own signs them again. Default: the distribution's own keys, which impasto knows.",
    ),
    ParamSpec::optional(
        "packages",
        Type::List(&Type::Text),
        "Packages to install, in addition to `apt`.",
    ),
    ParamSpec::optional(
        "variant",
        Type::OneOf(&["essential", "minbase"]),
        "What else to install: only the essential packages (default), or all of priority \"required\".",
    ),
    ParamSpec::optional(
        "components",
        Type::List(&Type::Text),
        "Components of the archive to install from, and of the image's own sources. Default: [\"main\"]; for Ubuntu \
         [\"main\", \"universe\"].",
    ),
    ParamSpec::optional(
        "recommends",
        Type::Bool,
        "Also installs recommended packages. Default: false.",
    ),
    ParamSpec::optional(
        "architecture",
        Type::OneOf(&["amd64", "arm64"]),
        "The architecture. Default: the host's. Programs of others run in an emulator.",
    ),
    ParamSpec::optional(
        "sources",
        Type::List(&Type::Text),
        "Lines of the image's /etc/apt/sources.list. Default: those of the distribution's own example for apt. The \
         packages come from the host's mirror (--mirror), which is not part of the key and not written into the image. \
         impasto.lock pins their exact versions; `impasto update` resolves them again.",
    ),
    ParamSpec::optional(
        "timeout",
        Type::Duration,
        "Stops the stage after this time, such as \"15m\". Not part of the key.",
    ),
    LIMITS,
];

const ARCHIVES: &[ParamSpec] = &[archives::REPOSITORIES, archives::PINS, common::SECRETS];

fn lower(params: &Params, context: &StageContext) -> Result<Lowered, Vec<ParamError>> {
    let mut errors = Vec::new();
    let mut packages = params.texts("packages");
    for package in &packages {
        errors.extend(check_package("packages", package).err());
    }
    // Without apt nothing could be added to the image.
    if !packages.iter().any(|package| package == "apt") {
        packages.push("apt".to_owned());
    }
    // In which order they are named changes nothing.
    packages.sort_unstable();
    packages.dedup();
    let distribution = params.text("distribution").unwrap_or("debian").to_owned();
    let (suite, components) = suite_and_components(params, &mut errors);
    let architecture = params
        .text("architecture")
        .unwrap_or(ARCHITECTURE)
        .to_owned();
    let sources = params.get("sources").map(|_| params.texts("sources"));
    if sources
        .iter()
        .flatten()
        .any(|line| line.contains(['\n', '\0']))
    {
        errors.push(ParamError::new("sources", "a line break within a line"));
    }
    let secrets = common::secrets(params, &mut errors);
    let request = PackageRequest {
        root: RequestRoot::Own {
            distribution: distribution.clone(),
            architecture: architecture.clone(),
            variant: params.text("variant").unwrap_or("essential").to_owned(),
        },
        install: packages.clone(),
        recommends: params.flag("recommends"),
        suite: Some(suite.clone()),
        components: components.clone(),
        keys: params.text("signed_by").map(str::to_owned),
        repositories: archives::repositories(params, &secrets.values, &mut errors),
        pins: archives::pins(params, &mut errors),
        ..PackageRequest::default()
    };
    let spec = BootstrapSpec {
        distribution,
        suite,
        components,
        architecture,
        variant: params.text("variant").unwrap_or("essential").to_owned(),
        packages,
        recommends: params.flag("recommends"),
        sources,
    };
    let mut action = ActionTemplate::new(
        KIND.name,
        KIND.version,
        Executor::Sandbox(SandboxRoot::Toolbox),
    );
    action.source_date_epoch = common::demand_epoch(context, &mut errors);
    common::remember_lines(&mut action, params, "packages", "install");
    common::remember_lines(&mut action, params, "suite", "suite");
    action.packages = Some(PackageSet::default());
    action.toolbox = Some(Slot::Toolbox);
    action.hints.timeout = params.duration("timeout");
    action.hints.limits = limits(params, &mut errors);
    action.steps.push(Step::Bootstrap {
        spec: Box::new(spec),
    });
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

/// The parameters `suite`, empty where there is none, and `components`.
pub(crate) fn suite_and_components(
    params: &Params,
    errors: &mut Vec<ParamError>,
) -> (String, Vec<String>) {
    let suite = params.text("suite").unwrap_or_default().to_owned();
    let word = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || b"-./+_".contains(&c))
    };
    if params.get("suite").is_some() && !word(&suite) || suite.starts_with('-') {
        let error = ParamError::new("suite", format!("{suite:?} is not a valid release name"));
        errors.push(error.help("write the release's code name, such as \"bookworm\""));
    }
    let mut components = params.texts("components");
    if let Some(wrong) = components.iter().find(|component| !word(component)) {
        errors.push(ParamError::new(
            "components",
            format!("{wrong:?} is not a valid component of an archive"),
        ));
    }
    if components.is_empty() {
        components.push("main".to_owned());
        let is_ubuntu = params.text("distribution") == Some("ubuntu");
        components.extend(is_ubuntu.then(|| "universe".to_owned()));
    }
    (suite, components)
}

/// Checks a package as apt-get takes it: name, perhaps with `:ARCH`, `=VERSION` or `/SUITE`
/// (Debian Policy 5.6.1 and 5.6.12).
pub(crate) fn check_package(param: &'static str, package: &str) -> Result<(), ParamError> {
    let end = package.find([':', '=', '/']).unwrap_or(package.len());
    let (name, rest) = package.split_at(end);
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let named = name.len() >= 2
        && name.starts_with(letter)
        && name.chars().all(|c| letter(c) || "+-.".contains(c));
    let chosen = rest.len() != 1
        && rest
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.~:=/_".contains(c));
    // apt-get reads a `-` or `+` at the end as an order to remove or install.
    if named && chosen && !package.ends_with(['-', '+']) || named && package.ends_with("++") {
        return Ok(());
    }
    Err(
        ParamError::new(param, format!("{package:?} is not a valid package name")).help(
            "write one package per element, such as \"openssh-server\" or \"openssl=3.0.15-1\"",
        ),
    )
}
