//! `packages`: Debian packages into the image, out of it, and brought up to date.
//! Knows parameters and the script that does it; knows no mirror, which is the host's policy.

use std::collections::BTreeMap;

use crate::action::Step;
use crate::error::ParamError;
use crate::kinds::common;
use crate::params::Params;
use crate::registry::{Kind, Lowered, Makes, ParamSpec, StageContext, Type};
use crate::value::{Data, Value};

pub(crate) const KIND: Kind = Kind {
    name: "packages",
    version: 1,
    summary: "installs, removes and upgrades Debian packages",
    example: r#"stage "packages" "tools" {
  from    = stage.base
  install = ["qemu-guest-agent", "htop"]
  remove  = ["nano"]
  upgrade = true
}"#,
    makes: Makes::Disk,
    params: &[common::FROM, PARAMS, common::CUTOFF, common::SANDBOXED_BY_KIND],
    lower,
    expand: None,
};

const PARAMS: &[ParamSpec] = &[
    ParamSpec::optional(
        "install",
        Type::List(&Type::Text),
        "Packages to install, as NAME, NAME=VERSION or NAME/SUITE. They come from the mirror that the host's own apt uses, \
         or from --mirror or IMPASTO_MIRROR; the image says of which release. They are not locked yet: the result \
         counts as unlocked, does not go stale by itself, and is renewed by --again.",
    ),
    ParamSpec::optional(
        "remove",
        Type::List(&Type::Text),
        "Packages to remove, with their configuration. One that is not installed is no error; one that does not exist is.",
    ),
    ParamSpec::optional(
        "upgrade",
        Type::Bool,
        "Brings every installed package up to date first; nothing is removed for it. Default: false.",
    ),
    ParamSpec::optional(
        "autoremove",
        Type::Bool,
        "At the end, removes packages that were installed for others and are not needed any more. Default: false.",
    ),
    ParamSpec::optional(
        "recommends",
        Type::Bool,
        "Installs what the packages recommend, too. Default: false, whatever the image's apt is configured to do.",
    ),
    ParamSpec::optional(
        "debconf",
        Type::List(&Type::Text),
        "Answers to packages' questions, each \"PACKAGE QUESTION TYPE VALUE\", set before anything is installed. \
         Packages that are installed already are not configured again.",
    ),
    ParamSpec::optional(
        "suite",
        Type::Text,
        "The release of Debian. Default: what the image says in /etc/os-release. Updates and security updates of it are \
         used where the mirror has them.",
    ),
    ParamSpec::optional(
        "components",
        Type::List(&Type::Text),
        "Parts of Debian's archive, such as [\"main\", \"non-free-firmware\"]. Default: those that the image's own sources \
         of Debian name, else main.",
    ),
    ParamSpec::optional(
        "repositories",
        Type::Map(&Type::Object(REPOSITORY)),
        "Further archives, by a name: NAME = { uri, suite, components, key }. They stay in the image, as \
         /etc/apt/sources.list.d/NAME.sources and /etc/apt/keyrings/NAME.asc, and are used in this and later stages. \
         Archives that a `copy` stage added are used as well.",
    ),
];

const REPOSITORY: &[ParamSpec] = &[
    ParamSpec::required("uri", Type::Text, "Its address."),
    ParamSpec::required("suite", Type::Text, "Its suite, or a path that ends in /, which has no components."),
    ParamSpec::optional("components", Type::List(&Type::Text), "Its components. Default: main."),
    ParamSpec::required("key", Type::Text, "The key that signs it, armored, such as file(\"keys/vendor.asc\")."),
];

/// What the script is told. A lock will stand here for the mirror, once there is one.
#[derive(Debug, Default)]
struct Wanted {
    install: Vec<String>,
    remove: Vec<String>,
    upgrade: bool,
    autoremove: bool,
    recommends: bool,
    debconf: Vec<String>,
    suite: String,
    components: Vec<String>,
}

fn lower(params: &Params, context: &StageContext) -> Result<Lowered, Vec<ParamError>> {
    let mut errors = Vec::new();
    let (mut action, secrets) = common::sandboxed(KIND.name, KIND.version, params, context, &mut errors);
    action.network = true;
    let wanted = Wanted {
        install: params.texts("install"),
        remove: params.texts("remove"),
        upgrade: params.flag("upgrade"),
        autoremove: params.flag("autoremove"),
        recommends: params.flag("recommends"),
        debconf: params.texts("debconf"),
        suite: params.text("suite").unwrap_or_default().to_owned(),
        components: params.texts("components"),
    };
    for (param, names) in [("install", &wanted.install), ("remove", &wanted.remove)] {
        errors.extend(names.iter().filter_map(|name| check_package(param, name).err()));
    }
    for name in wanted.remove.iter().filter(|name| wanted.install.contains(name)) {
        errors.push(ParamError::new("remove", format!("{name:?} is to be installed and to be removed")));
    }
    errors.extend(wanted.debconf.iter().filter_map(|line| check_answer(line).err()));
    if params.get("suite").is_some() && !is_word(&wanted.suite) {
        errors.push(ParamError::new("suite", format!("{:?} is no name of a release", wanted.suite)));
    }
    for name in wanted.components.iter().filter(|name| !is_word(name)) {
        errors.push(ParamError::new("components", format!("{name:?} is no name of a component")));
    }
    for (name, value) in params.pairs("repositories") {
        action.steps.extend(repository(name, value, &mut errors));
    }
    let nothing = wanted.install.is_empty() && wanted.remove.is_empty() && !wanted.upgrade && !wanted.autoremove;
    if nothing && action.steps.is_empty() && wanted.debconf.is_empty() {
        let error = ParamError::stage("there is nothing to do: no packages are named, and `upgrade` is not set");
        errors.push(error.help("give `install = [\"…\"]`, `remove = [\"…\"]` or `upgrade = true`"));
    }
    action.steps.push(Step::Script { text: script(&wanted) });
    if errors.is_empty() { Ok(Lowered { actions: vec![action], secrets }) } else { Err(errors) }
}

/// The script, with what is wanted before it. Everything in it has been checked to be plain.
fn script(wanted: &Wanted) -> String {
    let Wanted { install, remove, upgrade, autoremove, recommends, debconf, suite, components } = wanted;
    let mut text = String::new();
    let list = |words: &[String]| words.join(" ");
    let variables = [
        ("install", list(install)),
        ("remove", list(remove)),
        ("upgrade", upgrade.to_string()),
        ("autoremove", autoremove.to_string()),
        ("recommends", recommends.to_string()),
        ("suite", suite.clone()),
        ("components", list(components)),
    ];
    for (name, value) in variables {
        text += &format!("{name}='{value}'\n");
    }
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
    let (name, architecture) = name.split_once(':').map_or((name, None), |(name, arch)| (name, Some(arch)));
    let plain = |text: &str, more: &str| {
        text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || more.contains(c))
    };
    let version =
        |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || ".+-~:".contains(c));
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
        "install" => "write a package's name, NAME=VERSION or NAME/SUITE; patterns are not taken",
        _ => "write a package's name; patterns are not taken",
    };
    Err(ParamError::new(param, format!("{text:?} names no package")).help(help))
}

/// The types of debconf's questions (debconf-devel(7)).
const ANSWER_TYPES: [&str; 9] =
    ["string", "boolean", "select", "multiselect", "note", "text", "password", "title", "error"];

fn check_answer(line: &str) -> Result<(), ParamError> {
    let fields: Vec<_> = line.split_whitespace().take(3).collect();
    let problem = match fields[..] {
        _ if line.contains(|c: char| c.is_control() && c != '\t') => "holds more than one line",
        [package, ..] if package.starts_with('#') => "is a comment",
        [_, _, ty] if !ANSWER_TYPES.contains(&ty) => "has no type that debconf knows",
        [_, _, _] => return Ok(()),
        _ => "has too few parts",
    };
    Err(ParamError::new("debconf", format!("the answer {line:?} {problem}"))
        .help("write \"PACKAGE QUESTION TYPE VALUE\", such as \"tzdata tzdata/Areas select Europe\""))
}

/// Whether it can stand in a list of sources, and between quotes in a shell.
fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./+~".contains(c);
    !text.is_empty() && !text.starts_with('-') && text.chars().all(plain)
}

/// The steps that add an archive to the image.
fn repository(name: &str, value: &Value, errors: &mut Vec<ParamError>) -> Vec<Step> {
    let mut wrong = |problem: String, help: &str| {
        errors.push(ParamError::new("repositories", format!("{name:?}: {problem}")).help(help));
    };
    let empty = BTreeMap::new();
    let fields = if let Data::Object(fields) = &value.data { fields } else { &empty };
    let text = |field: &str| fields.get(field).and_then(Value::as_str).unwrap_or_default();
    let (uri, suite, key) = (text("uri"), text("suite"), text("key"));
    // The name of a file that apt reads (sources.list(5)).
    if !is_word(name) || name.contains(['/', '+', '~']) {
        wrong("it is no name for a file of sources".to_owned(), "use letters, digits, `-`, `_` and `.`");
    }
    let authority = uri.split_once("://").map(|(_, rest)| rest.split('/').next().unwrap_or_default());
    if !uri.contains(":/") || uri.contains(|c: char| c.is_whitespace() || c.is_control()) {
        wrong(format!("{uri:?} is no address"), "write one such as https://HOST/PATH");
    } else if authority.is_some_and(|authority| authority.contains('@')) {
        let help = "leave the name and the password out of the address: it stays in the image";
        wrong("its address holds a user's name".to_owned(), help);
    }
    let flat = suite.ends_with('/');
    let components: Vec<_> = match fields.get("components").map(|value| &value.data) {
        Some(Data::List(items)) => items.iter().filter_map(Value::as_str).collect(),
        _ if flat => Vec::new(),
        _ => vec!["main"],
    };
    if !is_word(suite) || !components.iter().all(|component| is_word(component)) || flat != components.is_empty() {
        let help = "give `suite` and `components` as in apt's sources, or a `suite` that ends in / alone";
        wrong("its suite and components are none".to_owned(), help);
    }
    if !key.trim_start().starts_with("-----BEGIN PGP PUBLIC KEY BLOCK-----") {
        let help = "give the text of an armored public key, such as file(\"keys/vendor.asc\")";
        wrong("its key is no armored public key".to_owned(), help);
    }
    let write = |dest: String, text: String| Step::WriteFile { dest, text, mode: 0o644, owner: None };
    let keyring = format!("/etc/apt/keyrings/{name}.asc");
    let mut source = format!("Types: deb\nURIs: {uri}\nSuites: {suite}\n");
    if !components.is_empty() {
        source += &format!("Components: {}\n", components.join(" "));
    }
    source += &format!("Signed-By: {keyring}\n");
    vec![write(keyring, key.to_owned()), write(format!("/etc/apt/sources.list.d/{name}.sources"), source)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_packages_are_checked() {
        for right in
            ["bash", "g++", "libstdc++6:i386", "openssl=3.0.15-1~deb12u1", "linux-image-amd64/bookworm-backports"]
        {
            assert_eq!(check_package("install", right), Ok(()), "{right}");
        }
        let wrong =
            ["", "-y", "a", "bash-", "Bash", "*", "?essential", "a b", "x';rm", "bash=", "bash=1 2", "--purge", "~n"];
        for wrong in wrong {
            assert!(check_package("install", wrong).is_err(), "{wrong}");
        }
        assert!(check_package("remove", "bash=1").is_err());
    }

    #[test]
    fn answers_are_checked() {
        assert_eq!(check_answer("tzdata tzdata/Areas select Europe"), Ok(()));
        assert_eq!(check_answer("grub-pc\tgrub-pc/install_devices multiselect "), Ok(()));
        for wrong in ["", "tzdata tzdata/Areas", "a b kind c", "a b string c\nd", "# a string c"] {
            assert!(check_answer(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_script_is_told_what_is_wanted() {
        let wanted = Wanted {
            install: vec!["gdb".to_owned(), "strace".to_owned()],
            debconf: vec!["a b string it's".to_owned()],
            ..Wanted::default()
        };
        let text = script(&wanted);
        let expected = "install='gdb strace'\nremove=''\nupgrade='false'\nautoremove='false'\nrecommends='false'\n\
                        suite=''\ncomponents=''\nanswers() {\n    printf '%s\\n' 'a b string it'\\''s'\n    :\n}\n";
        assert!(text.starts_with(expected), "{text}");
    }
}
