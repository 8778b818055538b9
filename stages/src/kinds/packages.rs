//! `packages`: Debian packages into the image, out of it, and brought up to date.
//! Knows parameters and the script that does it; which files are installed is the lock's business.

use crate::action::{Slot, Step};
use crate::error::ParamError;
use crate::kinds::{archives, common};
use crate::package_set::{PackageRequest, PackageSet, RequestRoot};
use crate::params::Params;
use crate::registry::{Kind, Lowered, Makes, ParamSpec, StageContext, Type};

pub(crate) const KIND: Kind = Kind {
    name: "packages",
    version: 2,
    summary: "installs, removes and upgrades Debian packages",
    example: r#"stage "packages" "tools" {
  from    = stage.base
  install = ["qemu-guest-agent", "htop"]
  remove  = ["nano"]
  upgrade = true
}"#,
    makes: Makes::Disk,
    files: &[],
    params: &[
        common::FROM,
        PARAMS,
        common::CUTOFF,
        common::SANDBOXED_BY_KIND,
    ],
    lower,
    expand: None,
};

const PARAMS: &[ParamSpec] = &[
    ParamSpec::optional(
        "install",
        Type::List(&Type::Text),
        "Packages to install, as NAME, NAME=VERSION, NAME/SUITE or NAME:ARCHITECTURE. impasto.lock pins the exact \
         versions, dependencies included; `impasto update` resolves them again.",
    ),
    ParamSpec::optional(
        "remove",
        Type::List(&Type::Text),
        "Packages to remove, with their configuration. A package that is not installed is not an error; one that does \
         not exist is.",
    ),
    ParamSpec::optional(
        "upgrade",
        Type::Bool,
        "Also upgrades every installed package, without removing any. Default: false.",
    ),
    ParamSpec::optional(
        "autoremove",
        Type::Bool,
        "Removes packages that were installed as dependencies and are no longer needed. Default: false.",
    ),
    ParamSpec::optional(
        "hold",
        Type::List(&Type::Text),
        "Packages to keep at their version, in this stage and, as holds of apt, in the image.",
    ),
    ParamSpec::optional(
        "files",
        Type::List(&Type::Path),
        "Your own package files (.deb) to install as well, relative to the recipe.",
    ),
    ParamSpec::optional(
        "recommends",
        Type::Bool,
        "Also installs recommended packages. Default: false, regardless of the image's apt configuration.",
    ),
    ParamSpec::optional(
        "debconf",
        Type::List(&Type::Text),
        "Answers to debconf questions, each \"PACKAGE QUESTION TYPE VALUE\", set before anything is installed. \
         Packages that are already installed are not reconfigured.",
    ),
    ParamSpec::optional(
        "suite",
        Type::Text,
        "The Debian release. Default: the image's. Its updates and security updates are used if the mirrors have them. \
         The mirrors are those of the host's own apt, unless --mirror or IMPASTO_MIRROR names others.",
    ),
    ParamSpec::optional(
        "components",
        Type::List(&Type::Text),
        "Components of Debian's archive, such as [\"main\", \"non-free-firmware\"]. Default: those of the stage it \
         builds on, else main.",
    ),
    ParamSpec::optional(
        "architectures",
        Type::List(&Type::Text),
        "Foreign architectures whose packages can be installed, such as [\"i386\"].",
    ),
    archives::REPOSITORIES,
    archives::PINS,
];

fn lower(params: &Params, context: &StageContext) -> Result<Lowered, Vec<ParamError>> {
    let mut errors = Vec::new();
    let (mut action, secrets) =
        common::sandboxed(KIND.name, KIND.version, params, context, &mut errors);
    let request = PackageRequest {
        root: RequestRoot::Disk,
        install: params.texts("install"),
        remove: params.texts("remove"),
        hold: params.texts("hold"),
        files: params.texts("files"),
        upgrade: params.flag("upgrade"),
        autoremove: params.flag("autoremove"),
        recommends: params.flag("recommends"),
        suite: params.text("suite").map(str::to_owned),
        components: params.texts("components"),
        architectures: params.texts("architectures"),
        keys: None,
        repositories: archives::repositories(params, &secrets, &mut errors),
        pins: archives::pins(params, &mut errors),
        named_only: false,
    };
    let debconf = params.texts("debconf");
    for (param, names) in [
        ("install", &request.install),
        ("remove", &request.remove),
        ("hold", &request.hold),
    ] {
        errors.extend(
            names
                .iter()
                .filter_map(|name| check_package(param, name).err()),
        );
    }
    for name in request
        .remove
        .iter()
        .filter(|name| request.install.contains(name))
    {
        errors.push(ParamError::new(
            "remove",
            format!("{name:?} is both in `install` and in `remove`"),
        ));
    }
    for file in request.files.iter().filter(|file| !file.ends_with(".deb")) {
        errors.push(
            ParamError::new("files", format!("{file:?} is not a package file"))
                .help("name files that end in .deb"),
        );
    }
    errors.extend(debconf.iter().filter_map(|line| check_answer(line).err()));
    for (param, words) in [
        ("suite", request.suite.as_slice()),
        ("components", &request.components),
        ("architectures", &request.architectures),
    ] {
        for word in words.iter().filter(|word| !archives::is_word(word)) {
            errors.push(ParamError::new(
                param,
                format!("{word:?} is not a valid name"),
            ));
        }
    }
    for (place, file) in request.files.iter().enumerate() {
        action
            .inputs
            .insert(format!("package-{place}"), Slot::Local(file.clone()));
    }
    for repository in &request.repositories {
        action.steps.extend(archives::keep_repository(repository));
    }
    let PackageRequest {
        install,
        remove,
        hold,
        files,
        ..
    } = &request;
    let names = [install, remove, hold, files, &debconf];
    let nothing =
        names.iter().all(|names| names.is_empty()) && !request.upgrade && !request.autoremove;
    if nothing && action.steps.is_empty() {
        let error = ParamError::stage(
            "there is nothing to do: no packages are named, and `upgrade` is not set",
        );
        errors.push(error.help("set `install = [\"…\"]`, `remove = [\"…\"]` or `upgrade = true`"));
    }
    common::remember_lines(&mut action, params, "install", "install");
    common::remember_lines(&mut action, params, "suite", "suite");
    action.packages = Some(PackageSet::default());
    action.steps.push(Step::Script {
        text: script(&request, &debconf),
    });
    if errors.is_empty() {
        Ok(Lowered {
            actions: vec![action],
            secrets,
            request: Some(request),
        })
    } else {
        Err(errors)
    }
}

/// The script, with what it is told before it. Everything in it has been checked to be plain.
fn script(request: &PackageRequest, debconf: &[String]) -> String {
    let names = |words: &[String]| {
        let words: Vec<_> = words
            .iter()
            .map(|word| word.split(['=', '/']).next().unwrap_or_default())
            .collect();
        words.join(" ")
    };
    let mut text = format!("wanted='{}'\n", names(&request.install));
    text += &format!("hold='{}'\n", names(&request.hold));
    text += &format!("architectures='{}'\n", names(&request.architectures));
    text += "answers() {\n";
    for line in debconf {
        text += &format!("    printf '%s\\n' '{}'\n", line.replace('\'', r"'\''"));
    }
    text + "    :\n}\n\n" + include_str!("packages.sh")
}

/// Debian's rules for names and versions (Debian Policy §5.6.7 and §5.6.12), and apt's ways to ask for one of several.
fn check_package(param: &'static str, text: &str) -> Result<(), ParamError> {
    let (name, more) = match text.find(['=', '/']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let (name, architecture) = name
        .split_once(':')
        .map_or((name, None), |(name, arch)| (name, Some(arch)));
    let plain = |text: &str, more: &str| {
        text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && text
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || more.contains(c))
    };
    let version = |text: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || ".+-~:".contains(c))
    };
    // apt takes a `-` at the end for an order to remove.
    let right = name.len() > 1
        && plain(name, "+.-")
        && !name.ends_with('-')
        && architecture.is_none_or(|architecture| plain(architecture, "-"))
        && more.is_none_or(|more| param == "install" && version(more));
    if right {
        return Ok(());
    }
    let help = match param {
        "install" => {
            "write a package's name, NAME=VERSION or NAME/SUITE; patterns are not supported"
        }
        _ => "write a package's name; patterns are not supported",
    };
    Err(ParamError::new(param, format!("{text:?} is not a valid package")).help(help))
}

/// The types of debconf's questions (debconf-devel(7)).
const ANSWER_TYPES: [&str; 9] = [
    "string",
    "boolean",
    "select",
    "multiselect",
    "note",
    "text",
    "password",
    "title",
    "error",
];

fn check_answer(line: &str) -> Result<(), ParamError> {
    let fields: Vec<_> = line.split_whitespace().take(3).collect();
    let problem = match fields[..] {
        _ if line.contains(|c: char| c.is_control() && c != '\t') => "contains more than one line",
        [package, ..] if package.starts_with('#') => "is a comment",
        [_, _, ty] if !ANSWER_TYPES.contains(&ty) => "has an unknown debconf type",
        [_, _, _] => return Ok(()),
        _ => "has too few parts",
    };
    Err(
        ParamError::new("debconf", format!("the answer {line:?} {problem}")).help(
            "write \"PACKAGE QUESTION TYPE VALUE\", such as \"tzdata tzdata/Areas select Europe\"",
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_packages_are_checked() {
        for right in [
            "bash",
            "g++",
            "libstdc++6:i386",
            "openssl=3.0.15-1~deb12u1",
            "linux-image-amd64/bookworm-backports",
        ] {
            assert_eq!(check_package("install", right), Ok(()), "{right}");
        }
        let wrong = [
            "",
            "-y",
            "a",
            "bash-",
            "Bash",
            "*",
            "?essential",
            "a b",
            "x';rm",
            "bash=",
            "bash=1 2",
            "--purge",
            "~n",
        ];
        for wrong in wrong {
            assert!(check_package("install", wrong).is_err(), "{wrong}");
        }
        assert!(check_package("remove", "bash=1").is_err());
    }

    #[test]
    fn answers_are_checked() {
        assert_eq!(check_answer("tzdata tzdata/Areas select Europe"), Ok(()));
        assert_eq!(
            check_answer("grub-pc\tgrub-pc/install_devices multiselect "),
            Ok(())
        );
        for wrong in [
            "",
            "tzdata tzdata/Areas",
            "a b kind c",
            "a b string c\nd",
            "# a string c",
        ] {
            assert!(check_answer(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_script_is_told_what_is_wanted() {
        let wanted = PackageRequest {
            install: vec!["gdb=1".to_owned(), "strace".to_owned()],
            ..PackageRequest::default()
        };
        let text = script(&wanted, &["a b string it's".to_owned()]);
        let expected = "wanted='gdb strace'\nhold=''\narchitectures=''\n\
                        answers() {\n    printf '%s\\n' 'a b string it'\\''s'\n    :\n}\n";
        assert!(text.starts_with(expected), "{text}");
    }
}
