//! `kernel_module`: modules that are not part of the kernel, compiled for every kernel of an image, and put into it.
//! Knows parameters and the units of work; which packages compile them is the lock's business.
//!
//! The units are two chains, joined by files: a root with compiler and headers, a disk of it, on which the source is
//! compiled; then the image's own disk, which gets what came of that. An edited source runs the last two.

mod script;

use std::collections::BTreeMap;

use crate::action::{ActionTemplate, Slot, Step};
use crate::error::ParamError;
use crate::kinds::{bootstrap, builder, common};
use crate::package_set::{PackageRequest, RequestRoot};
use crate::params::{Params, Secret};
use crate::registry::{Kind, Lowered, Makes, ParamSpec, StageContext, Type};
use crate::value::{Data, Value};

pub(crate) const KIND: Kind = Kind {
    name: "kernel_module",
    version: 1,
    summary: "compiles modules for every kernel of the image, and installs them",
    example: r#"stage "kernel_module" "fs" {
  from         = stage.base
  source       = "impastofs"
  modules      = ["impastofs"]
  modules_load = ["impastofs"]
}"#,
    makes: Makes::DiskOrFile,
    files: &[MODULES, REPORT],
    params: &[
        common::FROM,
        PARAMS,
        common::CUTOFF,
        common::SANDBOXED_BY_KIND,
    ],
    lower,
    expand: None,
};

/// What came of the compilation: `RELEASE/NAME.ko`, compressed or not.
const MODULES: &str = "modules.tar";

/// A line for each module.
const REPORT: &str = "report.txt";

/// Inputs' names in the Actions.
const SOURCE: &str = "source";
const CERTIFICATE: &str = "certificate";

/// What compiles, unpacks, compresses and looks at modules, beside what the headers' packages need. The compiler's cache is
/// always among them: whether it is used is in no key.
const BUILDER: [&str; 7] = [
    "bzip2", "ccache", "kmod", "make", "patch", "xz-utils", "zstd",
];

const PARAMS: &[ParamSpec] = &[
    ParamSpec::required(
        "source",
        Type::File,
        "The modules' source: a directory, or an archive that tar reads (such as .tar.xz), your own, fetched, or made \
         by another stage. The stage has no network: a commit of a repository comes by `fetch` with `git`.",
    ),
    common::IGNORE,
    ParamSpec::optional(
        "directory",
        Type::Text,
        "The directory in the source whose Makefile or Kbuild defines the modules (`obj-m`). Default: the top of the \
         source, or the only directory of an archive.",
    ),
    ParamSpec::optional(
        "modules",
        Type::List(&Type::Text),
        "Modules that must be built, without .ko. Default: at least one of any name. All modules that are built are \
         kept.",
    ),
    ParamSpec::optional(
        "make",
        Type::Map(&Type::Text),
        "Further variables for make, such as { CONFIG_FOO = \"m\" }.",
    ),
    ParamSpec::optional(
        "kernels",
        Type::List(&Type::Text),
        "Kernel releases to compile for, such as [\"6.1.*\", \"*-cloud-amd64\"]; `*` matches any characters. \
         Default: every kernel of the image.",
    ),
    ParamSpec::optional(
        "packages",
        Type::List(&Type::Text),
        "Further packages needed for compiling. The headers and compiler of each kernel are included automatically. \
         None of them get into the image; impasto.lock pins their exact versions.",
    ),
    ParamSpec::optional(
        "ccache",
        Type::Text,
        "The name of a compiler cache in the store, shared by all stages that name it. It is not part of the key and \
         may be lost. Default: none.",
    ),
    ParamSpec::optional(
        "compress",
        Type::OneOf(&["xz", "zstd", "none"]),
        "How the modules are compressed. Default: like the kernel's own.",
    ),
    ParamSpec::optional(
        "sign",
        Type::Object(SIGN),
        "Signs the modules with the kernel's own scripts/sign-file: { key, certificate }. Default: they are not signed.",
    ),
    ParamSpec::optional(
        "install",
        Type::Bool,
        "Whether to install the modules into the image, in /lib/modules/RELEASE/updates. Otherwise the stage makes \
         files only, and `from` only determines the kernels: stage.NAME.files[\"modules.tar\"] contains \
         RELEASE/NAME.ko, files[\"report.txt\"] a line for each. Default: true.",
    ),
    ParamSpec::optional(
        "modules_load",
        Type::List(&Type::Text),
        "Modules to load at boot, listed in /etc/modules-load.d/STAGE.conf.",
    ),
    ParamSpec::optional(
        "initramfs",
        Type::Bool,
        "Rebuilds the initramfs of these kernels, for modules that are needed before the root is mounted. Default: \
         false.",
    ),
];

const SIGN: &[ParamSpec] = &[
    ParamSpec::required(
        "key",
        Type::Text,
        "The name of one of the stage's `secrets`, whose value is the private key, as PEM.",
    ),
    ParamSpec::required(
        "certificate",
        Type::File,
        "The key's X.509 certificate, as PEM or DER.",
    ),
];

/// The unit that compiles, after those of the builder.
const COMPILE_UNIT: usize = 2;

fn lower(params: &Params, context: &StageContext) -> Result<Lowered, Vec<ParamError>> {
    let mut errors = Vec::new();
    let (common, secrets) =
        common::sandboxed(KIND.name, KIND.version, params, context, &mut errors);
    let own = params.texts("packages");
    errors.extend(
        own.iter()
            .filter_map(|package| bootstrap::check_package("packages", package).err()),
    );
    let mut packages: Vec<_> = own.into_iter().chain(BUILDER.map(str::to_owned)).collect();
    packages.sort_unstable();
    packages.dedup();
    let image = match &common.parent {
        Some(Slot::Stage(stage)) => stage.clone(),
        _ => String::new(),
    };
    let request = PackageRequest {
        root: RequestRoot::Builder { image },
        install: packages.clone(),
        ..PackageRequest::default()
    };
    let names = builder::BuilderKinds {
        root: (KIND.name, KIND.version),
        disk: (KIND.name, KIND.version),
    };
    let disk = builder::disk("impasto builder of kernel modules");
    let [root, disk] = builder::units(names, &common, builder::root(packages), disk);
    let compile = compile(&common, params, &secrets, &mut errors);
    let mut actions = vec![root, disk, compile];
    if params.get("install").is_none() || params.flag("install") {
        actions.push(install(common, params, context, &mut errors));
    } else {
        for param in ["modules_load", "initramfs"]
            .into_iter()
            .filter(|param| params.get(param).is_some())
        {
            let error = ParamError::new(param, "it has no effect, because `install` is false");
            errors.push(error.help(format!("remove `{param}`, or `install = false`")));
        }
    }
    if errors.is_empty() {
        Ok(Lowered {
            actions,
            secrets,
            request: Some(request),
        })
    } else {
        Err(errors)
    }
}

/// The unit that compiles, on the builder's disk.
fn compile(
    common: &ActionTemplate,
    params: &Params,
    secrets: &BTreeMap<String, Secret>,
    errors: &mut Vec<ParamError>,
) -> ActionTemplate {
    let mut action = common.clone();
    builder::keep_files_only(&mut action, Some(builder::disk_slot()));
    action.inputs.extend(
        params
            .get(SOURCE)
            .and_then(common::file_slot)
            .map(|slot| common::without(slot, &params.texts("ignore")))
            .map(|slot| (SOURCE.to_owned(), slot)),
    );
    if let Some(name) = params.text("ccache").filter(|name| !name.is_empty()) {
        errors.extend(builder::check_cache("ccache", name).err());
        let name = name.to_owned();
        action.hints.caches.insert(name.clone(), name);
    }
    let field = |name: &str| match params.get("sign").map(|value| &value.data) {
        Some(Data::Object(fields)) => fields.get(name),
        _ => None,
    };
    let key = field("key").and_then(Value::as_str);
    if let Some(key) = key.filter(|key| !secrets.contains_key(*key)) {
        let error = ParamError::new("sign", format!("there is no secret {key:?} to sign with"));
        errors.push(error.help(format!(
            "add it: `secrets = {{ {key} = file(\"signing-key.pem\") }}`"
        )));
    }
    action.inputs.extend(
        field("certificate")
            .and_then(common::file_slot)
            .map(|slot| (CERTIFICATE.to_owned(), slot)),
    );
    action.outputs = [MODULES, REPORT]
        .map(|name| (name.to_owned(), format!("{}/{name}", script::WORK)))
        .into();
    action.steps.push(Step::Script {
        text: script::compile(params, key, errors),
    });
    action
}

/// The unit that puts the modules into the image.
fn install(
    common: ActionTemplate,
    params: &Params,
    context: &StageContext,
    errors: &mut Vec<ParamError>,
) -> ActionTemplate {
    let mut action = common;
    // What the compilation is told is no business of the image's programs.
    action.env = BTreeMap::new();
    action.secrets = BTreeMap::new();
    for name in [MODULES, REPORT] {
        let made = Slot::Unit {
            unit: COMPILE_UNIT,
            file: Some(name.to_owned()),
        };
        action.inputs.insert(name.to_owned(), made);
        action
            .outputs
            .insert(name.to_owned(), format!("{}/{name}", script::WORK));
    }
    action.steps.push(Step::Script {
        text: script::install(params),
    });
    let load = params.texts("modules_load");
    script::check_modules("modules_load", &load, errors);
    if !load.is_empty() {
        let text = load.iter().map(|name| format!("{name}\n")).collect();
        let dest = format!("/etc/modules-load.d/{}.conf", context.name);
        action.steps.push(Step::WriteFile {
            dest,
            text,
            mode: 0o644,
            owner: None,
        });
    }
    action
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn text(text: &str) -> Value {
        Value::string(text)
    }

    fn list(texts: &[&str]) -> Value {
        Value::list(texts.iter().map(|text| Value::string(*text)).collect())
    }

    fn object(fields: &[(&str, Value)]) -> Value {
        Value::object(
            fields
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        )
    }

    fn with(more: &[(&str, Value)]) -> Result<Lowered, Vec<ParamError>> {
        let from = Value::new(Data::Stage(Arc::from("base")));
        let all = [("from", from), ("source", text("fs"))]
            .into_iter()
            .chain(more.iter().cloned());
        let params = Params(all.map(|(name, value)| (name.to_owned(), value)).collect());
        let context = StageContext {
            name: "fs".to_owned(),
            source_date_epoch: Some(7),
            sandboxes: Vec::new(),
            tags: Vec::new(),
        };
        lower(&params, &context)
    }

    fn wrong(name: &str, value: Value) -> String {
        with(&[(name, value)])
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ")
    }

    fn made(name: &str) -> Slot {
        Slot::Unit {
            unit: COMPILE_UNIT,
            file: Some(name.to_owned()),
        }
    }

    #[test]
    fn two_chains_are_joined_by_files() {
        let lowered = with(&[
            ("packages", list(&["libelf-dev"])),
            ("ccache", text("modules")),
        ])
        .unwrap();
        let [root, disk, compile, install] = lowered.actions.as_slice() else {
            panic!("four units")
        };
        let request = lowered.request.unwrap();
        assert_eq!(
            request.root,
            RequestRoot::Builder {
                image: "base".to_owned()
            }
        );
        assert!(
            request.install.contains(&"libelf-dev".to_owned())
                && request.install.contains(&"make".to_owned())
        );
        assert_eq!(
            (&root.packages, &root.toolbox),
            (
                &Some(crate::package_set::PackageSet::default()),
                &Some(Slot::Toolbox)
            )
        );
        assert_eq!(
            disk.inputs["tree"],
            Slot::Unit {
                unit: 0,
                file: None
            }
        );
        assert_eq!(
            compile.parent,
            Some(Slot::Unit {
                unit: 1,
                file: None
            })
        );
        assert_eq!(compile.inputs[SOURCE], Slot::Local("fs".to_owned()));
        assert_eq!(install.parent, Some(Slot::Stage("base".to_owned())));
        assert_eq!(
            (&install.inputs[MODULES], &install.inputs[REPORT]),
            (&made(MODULES), &made(REPORT))
        );
        // Only what is compiled knows the source; nothing that is keyed knows the cache.
        let know = |action: &&ActionTemplate| {
            action
                .slots()
                .any(|slot| *slot == Slot::Local("fs".to_owned()))
        };
        assert_eq!(lowered.actions.iter().filter(know).count(), 1);
        assert_eq!(compile.hints.caches["modules"], "modules");
        let without = with(&[("packages", list(&["libelf-dev"]))]).unwrap();
        assert_eq!(without.actions[COMPILE_UNIT].steps, compile.steps);
    }

    #[test]
    fn files_only_leave_the_image_alone() {
        let off = Value::new(Data::Bool(false));
        let lowered = with(&[("install", off.clone())]).unwrap();
        assert_eq!(lowered.actions.len(), 3);
        assert!(
            lowered
                .actions
                .iter()
                .all(|action| action.parent != Some(Slot::Stage("base".to_owned())))
        );
        let params = Params([("install".to_owned(), off.clone())].into());
        assert_eq!(
            (KIND.made(&params), KIND.made(&Params::default())),
            (Makes::File, Makes::Disk)
        );
        let errors = with(&[("install", off), ("modules_load", list(&["fs"]))]).unwrap_err();
        assert_eq!(errors[0].param, Some("modules_load"));
    }

    #[test]
    fn a_key_is_a_secret_of_the_compilation_only() {
        let sign = object(&[("key", text("modules")), ("certificate", text("cert.pem"))]);
        let secrets = object(&[("modules", text("PEM"))]);
        let lowered = with(&[("sign", sign.clone()), ("secrets", secrets)]).unwrap();
        let knows: Vec<_> = lowered
            .actions
            .iter()
            .map(|action| action.secrets.contains_key("modules"))
            .collect();
        assert_eq!(knows, [false, false, true, false]);
        assert_eq!(
            lowered.actions[COMPILE_UNIT].inputs[CERTIFICATE],
            Slot::Local("cert.pem".to_owned())
        );
        assert_eq!(
            wrong("sign", sign),
            "there is no secret \"modules\" to sign with"
        );
    }

    #[test]
    fn what_cannot_be_is_told() {
        let cases = [
            (
                "directory",
                text("../src"),
                "\"../src\" is not a directory inside the source",
            ),
            (
                "modules",
                list(&["fs.ko"]),
                "\"fs.ko\" is not a valid module name",
            ),
            (
                "kernels",
                list(&["6.1; rm"]),
                "\"6.1; rm\" is not a valid kernel release",
            ),
            (
                "make",
                object(&[("A B", text("1"))]),
                "\"A B\" is not a valid name for a make variable",
            ),
            (
                "ccache",
                text("../x"),
                "\"../x\" is not a valid name for a cache",
            ),
            (
                "packages",
                list(&["-y"]),
                "\"-y\" is not a valid package name",
            ),
            (
                "modules_load",
                list(&["a b"]),
                "\"a b\" is not a valid module name",
            ),
        ];
        for (name, value, message) in cases {
            assert_eq!(wrong(name, value), message);
        }
    }

    #[test]
    fn modules_are_loaded_at_boot_by_a_file_of_the_stages_name() {
        let lowered = with(&[("modules_load", list(&["impastofs"]))]).unwrap();
        let Some(Step::WriteFile { dest, text, .. }) = lowered.actions[3].steps.last() else {
            panic!("a file")
        };
        assert_eq!(
            (dest.as_str(), text.as_str()),
            ("/etc/modules-load.d/fs.conf", "impastofs\n")
        );
    }
}
