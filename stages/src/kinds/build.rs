//! `build`: files made by a script in a root that is not the image.
//! Knows parameters and units of work; which packages the root is made of is the lock's business.
//!
//! The root is made of locked packages, or it is the disk of another stage; of what the steps write only the outputs are
//! kept. Roots of the same packages are one root, whatever is built in them.

use std::collections::BTreeMap;

use crate::action::{ActionTemplate, Step};
use crate::disk::UserSpec;
use crate::error::ParamError;
use crate::kinds::{archives, bootstrap, builder, common, disk, steps};
use crate::package_set::{ARCHITECTURE, PackageRequest, RequestRoot};
use crate::params::{Params, Secret};
use crate::registry::{Kind, Lowered, Makes, ParamSpec, StageContext, Type};

pub(crate) const KIND: Kind = Kind {
    name: "build",
    version: 1,
    summary: "runs a script or commands in a root that is not the image, and keeps the files they make",
    example: r#"stage "build" "tool" {
  suite    = "bookworm"
  packages = ["gcc", "libc6-dev", "make"]
  source   = "tool"
  commands = ["make"]
  output   = { tool = "tool" }
}"#,
    makes: Makes::File,
    files: &[],
    params: &[
        PARAMS,
        steps::STEPS,
        FURTHER,
        ARCHIVES,
        common::SANDBOXED_FILES,
    ],
    lower,
    expand: None,
};

/// The directory in which the steps run.
const WORK: &str = "/build";

/// The user that every root of packages has.
const USER: &str = "builder";

/// The input that the working directory is made of.
const SOURCE: &str = "source";

/// What only a root of packages takes.
const OF_PACKAGES: [&str; 5] = ["suite", "components", "recommends", "repositories", "pins"];

const PARAMS: &[ParamSpec] = &[
    ParamSpec::optional(
        "packages",
        Type::List(&Type::Text),
        "Packages that the root is made of, with the essential ones. impasto.lock pins their exact versions; none of them \
         gets into an image. Either `packages` or `from`.",
    ),
    ParamSpec::optional(
        "suite",
        Type::Text,
        "The release that the packages are of, by its code name, such as \"bookworm\". Required with `packages`.",
    ),
    ParamSpec::optional(
        "from",
        Type::Disk,
        "The stage whose disk the steps run on, in place of `packages`. What they change there is not kept.",
    ),
    ParamSpec::optional(
        "source",
        Type::File,
        "A directory that is copied into the working directory, /build, where the steps run: your own, or a tree that \
         another stage makes. Belongs to `user`.",
    ),
];

const FURTHER: &[ParamSpec] = &[
    ParamSpec::optional(
        "user",
        Type::Text,
        "The user that the steps run as, and who can read the secrets: `builder`, which every root of packages has, or \
         another that the root knows. Default: root.",
    ),
    ParamSpec::optional(
        "caches",
        Type::Map(&Type::Text),
        "Directories that are still there when the stage runs again: NAME = CACHE is /run/impasto/caches/NAME, kept in the \
         store under the name CACHE, which stages can share. They are not part of the key and may be lost, so the \
         outputs must not depend on them. With them, the files of `source` get the present time, as make and cargo would \
         else take a changed file for an old one.",
    ),
    ParamSpec::required(
        "output",
        Type::Map(&Type::Text),
        "The files to keep, as { name = path }; paths are relative to the working directory. Other stages use them as \
         stage.NAME.files[\"…\"].",
    ),
];

const ARCHIVES: &[ParamSpec] = &[
    ParamSpec::optional(
        "components",
        Type::List(&Type::Text),
        "Components of the distribution's archive to take packages from. Default: [\"main\"].",
    ),
    ParamSpec::optional(
        "recommends",
        Type::Bool,
        "Also installs recommended packages. Default: false.",
    ),
    archives::REPOSITORIES,
    archives::PINS,
];

fn lower(params: &Params, context: &StageContext) -> Result<Lowered, Vec<ParamError>> {
    let mut errors = Vec::new();
    let (mut action, secrets) =
        common::sandboxed(KIND.name, KIND.version, params, context, &mut errors);
    let from = action.parent.take();
    let packages = params.get("packages").map(|_| params.texts("packages"));
    match (&from, &packages) {
        (None, None) => errors.push(
            ParamError::stage("there is no root to build in: neither `packages` nor `from` is set")
                .help("set `suite` and `packages`, or `from = stage.NAME`"),
        ),
        (Some(_), Some(_)) => errors.push(
            ParamError::new("packages", "both `packages` and `from` are set")
                .help("remove one of them; a `packages` stage installs packages into a disk"),
        ),
        (Some(_), None) => {
            for param in OF_PACKAGES
                .into_iter()
                .filter(|param| params.get(param).is_some())
            {
                let error = ParamError::new(param, "it has no effect without `packages`");
                errors.push(error.help(format!("remove `{param}`")));
            }
        }
        (None, Some(_)) => {}
    }
    let mut actions = Vec::new();
    let mut request = None;
    let disk = match packages {
        Some(packages) => {
            let (asked, units) = root(params, &action, packages, &secrets, &mut errors);
            request = Some(asked);
            actions.extend(units);
            Some(builder::disk_slot())
        }
        None => from,
    };
    builder::keep_files_only(&mut action, disk);
    if request.is_some() {
        common::remember_lines(&mut actions[0], params, "packages", "install");
        common::remember_lines(&mut actions[0], params, "suite", "suite");
    }
    prepare(&mut action, params, &mut errors);
    steps::add(&mut action, params, Some(WORK), &mut errors);
    if action.inputs.contains_key(SOURCE) {
        // Steps read it at the same place as other inputs.
        let error = ParamError::new("inputs", "the name \"source\" is the parameter `source`'s");
        errors.push(error.help("use another name"));
    }
    action.inputs.extend(
        params
            .get(SOURCE)
            .and_then(common::file_slot)
            .map(|slot| common::without(slot, &params.texts("ignore")))
            .map(|slot| (SOURCE.to_owned(), slot)),
    );
    if action.outputs.is_empty() && params.get("output").is_some() {
        let error = ParamError::new("output", "nothing of what is built would be kept");
        errors.push(error.help("name the files to keep, as { name = path }"));
    }
    for (name, cache) in params.text_map("caches") {
        errors.extend(common::check_name("caches", &name).err());
        errors.extend(builder::check_cache("caches", &cache).err());
        action.hints.caches.insert(name, cache);
    }
    actions.push(action);
    if errors.is_empty() {
        Ok(Lowered {
            actions,
            secrets,
            request,
        })
    } else {
        Err(errors)
    }
}

/// What is asked of the lock for the root, and the units that make it.
fn root(
    params: &Params,
    common: &ActionTemplate,
    mut packages: Vec<String>,
    secrets: &BTreeMap<String, Secret>,
    errors: &mut Vec<ParamError>,
) -> (PackageRequest, [ActionTemplate; 2]) {
    for package in &packages {
        errors.extend(bootstrap::check_package("packages", package).err());
    }
    packages.sort_unstable();
    packages.dedup();
    let (suite, components) = bootstrap::suite_and_components(params, errors);
    if params.get("suite").is_none() {
        let error = ParamError::new("packages", "`suite` does not say which release they are of");
        errors.push(error.help("add `suite = \"bookworm\"`, or another release's code name"));
    }
    let mut spec = builder::root(packages.clone());
    spec.suite.clone_from(&suite);
    spec.components.clone_from(&components);
    spec.recommends = params.flag("recommends");
    let request = PackageRequest {
        root: RequestRoot::Own {
            distribution: spec.distribution.clone(),
            architecture: ARCHITECTURE.to_owned(),
            variant: spec.variant.clone(),
        },
        install: packages,
        recommends: spec.recommends,
        suite: Some(suite),
        components,
        repositories: archives::repositories(params, secrets, errors),
        pins: archives::pins(params, errors),
        ..PackageRequest::default()
    };
    let user = UserSpec {
        shell: "/bin/sh".to_owned(),
        ..UserSpec::default()
    };
    let mut disk_spec = builder::disk("impasto builder");
    disk_spec.users.insert(USER.to_owned(), user);
    // The kinds that make roots and disks: equal ones are one, whichever stage they are made for.
    let names = builder::BuilderKinds {
        root: (bootstrap::KIND.name, bootstrap::KIND.version),
        disk: (disk::KIND.name, disk::KIND.version),
    };
    (request, builder::units(names, common, spec, disk_spec))
}

/// The steps before the user's own: the working directory, and what it is made of.
fn prepare(action: &mut ActionTemplate, params: &Params, errors: &mut Vec<ParamError>) {
    let user = params.text("user").filter(|user| *user != "root");
    if let Some(user) = user {
        let letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if user.is_empty() || user.starts_with('-') || !user.chars().all(letter) {
            let error = ParamError::new("user", format!("{user:?} is not a valid user name"));
            errors.push(error.help("write the name of a user, such as \"builder\""));
        }
    }
    let has_source = params.get(SOURCE).is_some();
    if has_source {
        action.steps.push(Step::CopyIn {
            input: SOURCE.to_owned(),
            dest: WORK.to_owned(),
            mode: None,
            owner: None,
            keep_times: false,
        });
    }
    action.steps.push(Step::WorkIn {
        dir: WORK.to_owned(),
        user: user.map(str::to_owned),
    });
    if has_source && params.pairs("caches").next().is_some() {
        // No command, as those that the recipe has are counted.
        let text = "find . -type f -exec touch {} +\n".to_owned();
        action.steps.push(Step::Script { text });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::action::{Executor, SandboxRoot, Slot};
    use crate::value::{Data, Value};

    fn text(text: &str) -> Value {
        Value::string(text)
    }

    fn texts(texts: &[&str]) -> Value {
        Value::list(texts.iter().map(|text| Value::string(*text)).collect())
    }

    fn object(name: &str, value: &str) -> Value {
        Value::object([(name.to_owned(), Value::string(value))].into())
    }

    fn stage(name: &str) -> Value {
        Value::new(Data::Stage(Arc::from(name)))
    }

    fn lowered(own: &[(&str, Value)]) -> Result<Lowered, Vec<ParamError>> {
        let mut params = vec![
            ("commands", texts(&["make"])),
            ("output", object("tool", "src/tool")),
        ];
        params.extend(own.iter().cloned());
        let params = params
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        lower(&Params(params.collect()), &StageContext::default())
    }

    fn wrong(own: &[(&str, Value)]) -> Vec<String> {
        let errors = lowered(own).unwrap_err();
        errors.iter().map(ToString::to_string).collect()
    }

    fn of_packages<'a>(more: &[(&'a str, Value)]) -> Vec<(&'a str, Value)> {
        let mut params = vec![("packages", texts(&["make"])), ("suite", text("bookworm"))];
        params.extend(more.iter().cloned());
        params
    }

    #[test]
    fn a_root_of_packages_is_the_same_whatever_is_built_in_it() {
        let one = lowered(&of_packages(&[("source", text("src"))])).unwrap();
        let more = [
            ("user", text("builder")),
            ("env", object("CC", "gcc")),
            ("secrets", object("token", "x")),
            ("caches", object("target", "tool")),
        ];
        let other = lowered(&of_packages(&more)).unwrap();
        assert_eq!(one.actions.len(), 3);
        assert_eq!(one.actions[..2], other.actions[..2]);
        assert_eq!(one.request, other.request);
        let build = &other.actions[2];
        assert_eq!(build.executor, Executor::Sandbox(SandboxRoot::Scratch));
        assert_eq!(build.parent, Some(builder::disk_slot()));
        assert_eq!(build.outputs["tool"], "/build/src/tool");
        assert_eq!(build.hints.caches["target"], "tool");
    }

    #[test]
    fn a_disk_in_place_of_packages_needs_no_lock() {
        let lowered = lowered(&[
            ("from", stage("base")),
            ("source", text("src")),
            ("user", text("builder")),
        ]);
        let lowered = lowered.unwrap();
        assert!(lowered.request.is_none());
        let [build] = lowered.actions.as_slice() else {
            panic!("one unit")
        };
        assert_eq!(build.parent, Some(Slot::Stage("base".to_owned())));
        let [
            Step::CopyIn { dest, .. },
            Step::WorkIn { dir, user },
            Step::Command { .. },
        ] = build.steps.as_slice()
        else {
            panic!("{:?}", build.steps)
        };
        assert_eq!((dir.as_str(), dest.as_str()), (WORK, WORK));
        assert_eq!(user.as_deref(), Some(USER));
    }

    #[test]
    fn sources_have_the_present_time_only_where_a_cache_may_remember_an_older_one() {
        let count = |own: &[(&str, Value)]| {
            let mut own = of_packages(own);
            own.push(("source", text("src")));
            lowered(&own).unwrap().actions[2].steps.len()
        };
        assert_eq!(count(&[]), 3);
        assert_eq!(count(&[("caches", object("target", "tool"))]), 4);
    }

    #[test]
    fn what_cannot_be_is_told() {
        let packages = ("packages", texts(&["make"]));
        assert_eq!(
            wrong(&[]),
            ["there is no root to build in: neither `packages` nor `from` is set"]
        );
        assert_eq!(
            wrong(std::slice::from_ref(&packages)),
            ["`suite` does not say which release they are of"]
        );
        assert_eq!(
            wrong(&[
                packages,
                ("suite", text("bookworm")),
                ("from", stage("base"))
            ]),
            ["both `packages` and `from` are set"]
        );
        assert_eq!(
            wrong(&[("from", stage("base")), ("suite", text("bookworm"))]),
            ["it has no effect without `packages`"]
        );
        for (name, value, message) in [
            ("user", text("a b"), "\"a b\" is not a valid user name"),
            (
                "caches",
                object("target", "../x"),
                "\"../x\" is not a valid name for a cache",
            ),
            (
                "caches",
                object("a/b", "x"),
                "\"a/b\" is not a plain file name",
            ),
            (
                "output",
                object("tool", "../tool"),
                "the path \"/build/../tool\" in the image leads through `..`",
            ),
            (
                "inputs",
                object("source", "src"),
                "the name \"source\" is the parameter `source`'s",
            ),
        ] {
            assert_eq!(wrong(&of_packages(&[(name, value)])), [message]);
        }
    }
}
