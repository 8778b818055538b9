//! `vendor`: what a language's own lock names, as a tree that the language's tool reads without network.
//! Knows parameters; locks are read when the stage runs.

use crate::action::{ActionTemplate, Executor, Slot, Step};
use crate::error::ParamError;
use crate::package_set::ARCHITECTURE;
use crate::params::Params;
use crate::registry::{Kind, Lowered, Makes, ParamSpec, StageContext, Type};
use crate::vendor::{PythonTarget, VendorSpec};

pub(crate) const KIND: Kind = Kind {
    name: "vendor",
    version: 1,
    summary: "fetches what a Cargo.lock, requirements.txt or package-lock.json names, for builds without network",
    example: r#"stage "vendor" "wheels" {
  lock   = "requirements.txt"
  python = "cp311"
}"#,
    makes: Makes::Tree,
    files: &[],
    params: &[PARAMS],
    lower,
    expand: None,
};

/// The input with the lock.
const LOCK: &str = "lock";

/// Debian 12's, which later ones are compatible with.
const GLIBC: u32 = 36;

const PARAMS: &[ParamSpec] = &[
    ParamSpec::required(
        "lock",
        Type::Path,
        "The lock file: Cargo.lock, package-lock.json (or npm-shrinkwrap.json), or a requirements file, *.txt, in which \
         every version is pinned and has hashes. Files are fetched by the hashes in it. Addresses, certificates and logins \
         of indexes are those of the host's own cargo, pip or npm; they are not part of the key.",
    ),
    ParamSpec::optional(
        "python",
        Type::Text,
        "The interpreter that wheels are for, such as \"cp311\", which is CPython 3.11. Required for requirements.",
    ),
    ParamSpec::optional(
        "machine",
        Type::OneOf(&["amd64", "arm64"]),
        "The machine that wheels and npm's packages are for. Default: the host's.",
    ),
    ParamSpec::optional(
        "glibc",
        Type::Text,
        "The oldest C library that wheels have to work with. Default: \"2.36\", that of Debian 12.",
    ),
    ParamSpec::optional(
        "timeout",
        Type::Duration,
        "Stops the stage after this time, such as \"15m\". Not part of the key.",
    ),
];

fn lower(params: &Params, _: &StageContext) -> Result<Lowered, Vec<ParamError>> {
    let mut errors = Vec::new();
    let lock = params.text(LOCK).unwrap_or_default();
    let machine = params.text("machine").unwrap_or(ARCHITECTURE).to_owned();
    let spec = match lock.rsplit('/').next().unwrap_or_default() {
        "Cargo.lock" => Some((VendorSpec::Cargo, &["python", "machine", "glibc"][..])),
        "package-lock.json" | "npm-shrinkwrap.json" => {
            Some((VendorSpec::Npm { machine }, &["python", "glibc"][..]))
        }
        name if name.ends_with(".txt") => {
            let target = PythonTarget {
                minor: python(params, &mut errors),
                machine,
                glibc: glibc(params, &mut errors),
            };
            Some((VendorSpec::Python(target), &[][..]))
        }
        _ => None,
    };
    let Some((spec, useless)) = spec else {
        let problem = format!("{lock:?} is not the name of a lock file that is known here");
        let help =
            "name a Cargo.lock, a package-lock.json, or a requirements file that ends in .txt";
        return Err(vec![ParamError::new("lock", problem).help(help)]);
    };
    for param in useless.iter().filter(|param| params.get(param).is_some()) {
        let error = ParamError::new(param, format!("it has no effect with {lock:?}"));
        errors.push(error.help(format!("remove `{param}`")));
    }
    let mut action = ActionTemplate::new(KIND.name, KIND.version, Executor::Host);
    action
        .inputs
        .insert(LOCK.to_owned(), Slot::Local(lock.to_owned()));
    action.hints.timeout = params.duration("timeout");
    action.steps.push(Step::Vendor {
        lock: LOCK.to_owned(),
        spec: Box::new(spec),
    });
    if errors.is_empty() {
        Ok(Lowered {
            actions: vec![action],
            ..Lowered::default()
        })
    } else {
        Err(errors)
    }
}

/// The minor version that the tag of an interpreter names.
fn python(params: &Params, errors: &mut Vec<ParamError>) -> u32 {
    let help = "write the tag of CPython's version, such as \"cp311\" for 3.11";
    let Some(tag) = params.text("python") else {
        let error = ParamError::new(
            "lock",
            "`python` does not say which interpreter wheels are for",
        );
        errors.push(error.help("add the tag of CPython's version, such as `python = \"cp311\"`"));
        return 0;
    };
    let minor = tag.strip_prefix("cp3").filter(|rest| is_number(rest));
    minor
        .and_then(|minor| minor.parse().ok())
        .unwrap_or_else(|| {
            let error = ParamError::new("python", format!("{tag:?} is not a tag of CPython 3"));
            errors.push(error.help(help));
            0
        })
}

/// The minor version of the C library.
fn glibc(params: &Params, errors: &mut Vec<ParamError>) -> u32 {
    let Some(text) = params.text("glibc") else {
        return GLIBC;
    };
    let minor = text.strip_prefix("2.").filter(|rest| is_number(rest));
    minor
        .and_then(|minor| minor.parse().ok())
        .unwrap_or_else(|| {
            let error = ParamError::new("glibc", format!("{text:?} is not a version of glibc"));
            errors.push(error.help("write it as 2.MINOR, such as \"2.36\""));
            GLIBC
        })
}

fn is_number(text: &str) -> bool {
    (1..=3).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;

    fn lowered(params: &[(&str, &str)]) -> Result<VendorSpec, Vec<String>> {
        let params = params
            .iter()
            .map(|(name, text)| ((*name).to_owned(), Value::string(*text)));
        let lowered = lower(&Params(params.collect()), &StageContext::default());
        let texts = |errors: Vec<ParamError>| -> Vec<_> {
            errors.iter().map(ToString::to_string).collect()
        };
        let lowered = lowered.map_err(texts)?;
        match &lowered.actions[0].steps[..] {
            [Step::Vendor { spec, .. }] => Ok((**spec).clone()),
            steps => panic!("{steps:?}"),
        }
    }

    #[test]
    fn the_name_of_a_lock_says_whose_it_is() {
        assert_eq!(
            lowered(&[("lock", "src/Cargo.lock")]),
            Ok(VendorSpec::Cargo)
        );
        let target = PythonTarget {
            minor: 11,
            machine: "arm64".to_owned(),
            glibc: 36,
        };
        let params = [
            ("lock", "requirements-dev.txt"),
            ("python", "cp311"),
            ("machine", "arm64"),
        ];
        assert_eq!(lowered(&params), Ok(VendorSpec::Python(target)));
        assert!(matches!(
            lowered(&[("lock", "web/package-lock.json")]),
            Ok(VendorSpec::Npm { .. })
        ));
    }

    #[test]
    fn what_cannot_be_is_told() {
        for (params, message) in [
            (
                &[("lock", "go.sum")][..],
                "\"go.sum\" is not the name of a lock file that is known here",
            ),
            (
                &[("lock", "r.txt")],
                "`python` does not say which interpreter wheels are for",
            ),
            (
                &[("lock", "r.txt"), ("python", "3.11")],
                "\"3.11\" is not a tag of CPython 3",
            ),
            (
                &[("lock", "r.txt"), ("python", "cp311"), ("glibc", "musl")],
                "\"musl\" is not a version of glibc",
            ),
            (
                &[("lock", "Cargo.lock"), ("machine", "arm64")],
                "it has no effect with \"Cargo.lock\"",
            ),
        ] {
            assert_eq!(lowered(params), Err(vec![message.to_owned()]));
        }
    }
}
