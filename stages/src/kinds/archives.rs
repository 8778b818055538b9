//! The parameters that name archives of packages and choose between versions, for the kinds that install packages.
//! Knows their words; fetches nothing.

use std::collections::BTreeMap;

use crate::action::Step;
use crate::error::ParamError;
use crate::number::Number;
use crate::package_set::{Pin, Repository};
use crate::params::{Params, Secret};
use crate::registry::{ParamSpec, Type};
use crate::value::{Data, Value};

pub(crate) const REPOSITORIES: ParamSpec = ParamSpec::optional(
    "repositories",
    Type::Map(&Type::Object(REPOSITORY)),
    "Further repositories: NAME = { uri, suite, components, signed_by }. This stage and those built on it use them. A \
     `packages` stage leaves them in the image, as /etc/apt/sources.list.d/NAME.sources and \
     /etc/apt/keyrings/NAME.asc. Without `uri`, it is another suite of the host's mirror, such as backports.",
);

const REPOSITORY: &[ParamSpec] = &[
    ParamSpec::optional(
        "uri",
        Type::Text,
        "Its URL. Default: the Debian mirror that the host uses.",
    ),
    ParamSpec::required(
        "suite",
        Type::Text,
        "Its suite, or for a flat repository a path that ends in /.",
    ),
    ParamSpec::optional(
        "components",
        Type::List(&Type::Text),
        "Its components. Default: main.",
    ),
    ParamSpec::optional(
        "signed_by",
        Type::Text,
        "The armored keys that it may be signed with, such as file(\"keys/vendor.asc\"). Required with `uri`; without \
         it, Debian's archive keys.",
    ),
    ParamSpec::optional(
        "trusted",
        Type::Bool,
        "Uses it without any signature, which the lock records. Whoever controls its address controls the image. \
         Default: false.",
    ),
    ParamSpec::optional(
        "login",
        Type::Text,
        "The name of one of the stage's `secrets`, with the value USER:PASSWORD. It does not get into the image.",
    ),
];

/// Which of several versions is chosen.
pub(crate) const PINS: ParamSpec = ParamSpec::optional(
    "pins",
    Type::List(&Type::Object(PIN)),
    "Which of several versions to choose: { package, pin, priority }, as in apt_preferences(5).",
);

const PIN: &[ParamSpec] = &[
    ParamSpec::optional(
        "package",
        Type::Text,
        "A package name or pattern. Default: \"*\".",
    ),
    ParamSpec::required(
        "pin",
        Type::Text,
        "The versions to match: \"version 1.2*\", \"release n=bookworm-backports\".",
    ),
    ParamSpec::required(
        "priority",
        Type::Int,
        "Their priority: 500 is the default, 990 is preferred, -1 is never.",
    ),
];

/// Whether it can stand in a list of sources, and between quotes in a shell.
pub(crate) fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./+~".contains(c);
    !text.is_empty() && !text.starts_with('-') && text.chars().all(plain)
}

/// The archives that a stage names, whose passwords are among `secrets`.
pub(crate) fn repositories(
    params: &Params,
    secrets: &BTreeMap<String, Secret>,
    errors: &mut Vec<ParamError>,
) -> Vec<Repository> {
    params
        .pairs("repositories")
        .map(|(name, value)| repository(name, value, secrets, errors))
        .collect()
}

fn repository(
    name: &str,
    value: &Value,
    secrets: &BTreeMap<String, Secret>,
    errors: &mut Vec<ParamError>,
) -> Repository {
    let mut wrong = |problem: String, help: &str| {
        errors.push(ParamError::new("repositories", format!("{name:?}: {problem}")).help(help));
    };
    let empty = BTreeMap::new();
    let fields = if let Data::Object(fields) = &value.data {
        &**fields
    } else {
        &empty
    };
    let text = |field: &str| fields.get(field).and_then(Value::as_str).map(str::to_owned);
    let repository = Repository {
        name: name.to_owned(),
        uri: text("uri"),
        suite: text("suite").unwrap_or_default(),
        components: match fields.get("components").map(|value| &value.data) {
            Some(Data::List(items)) => items
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            _ if text("suite").is_some_and(|suite| suite.ends_with('/')) => Vec::new(),
            _ => vec!["main".to_owned()],
        },
        signed_by: text("signed_by"),
        trusted: matches!(
            fields.get("trusted").map(|value| &value.data),
            Some(Data::Bool(true))
        ),
        login: text("login"),
    };
    let Repository {
        name: _,
        uri,
        suite,
        components,
        signed_by,
        trusted,
        login,
    } = &repository;
    // The name of a file that apt reads (sources.list(5)).
    if !is_word(name) || name.contains(['/', '+', '~']) {
        wrong(
            "it is not a valid name for a sources file".to_owned(),
            "use letters, digits, `-`, `_` and `.`",
        );
    }
    if let Some(uri) = uri {
        let authority = uri
            .split_once("://")
            .map(|(_, rest)| rest.split('/').next().unwrap_or_default());
        if !uri.contains(":/") || uri.contains(|c: char| c.is_whitespace() || c.is_control()) {
            wrong(
                format!("{uri:?} is not a valid URL"),
                "write one such as https://HOST/PATH",
            );
        } else if authority.is_some_and(|authority| authority.contains('@')) {
            let help = "pass them as a secret: `secrets = { NAME = … }` and `login = \"NAME\"`";
            wrong("its URL contains a user name or password".to_owned(), help);
        }
        if signed_by.is_none() && !trusted {
            let help = "set its armored public key: `signed_by = file(\"keys/vendor.asc\")`";
            wrong("it has no `signed_by` with its keys".to_owned(), help);
        }
    }
    let flat = suite.ends_with('/');
    if !is_word(suite)
        || !components.iter().all(|component| is_word(component))
        || flat != components.is_empty()
    {
        let help =
            "set `suite` and `components` as in apt's sources, or only a `suite` that ends in /";
        wrong("its suite and components are not valid".to_owned(), help);
    }
    let armored = |key: &String| {
        key.trim_start()
            .starts_with("-----BEGIN PGP PUBLIC KEY BLOCK-----")
    };
    if !signed_by.as_ref().is_none_or(armored) {
        let help = "use an armored public key, such as file(\"keys/vendor.asc\")";
        wrong("its key is not an armored public key".to_owned(), help);
    }
    if *trusted && signed_by.is_some() {
        wrong(
            "it has both `signed_by` and `trusted`".to_owned(),
            "remove `signed_by` or `trusted`",
        );
    }
    if let Some(login) = login.as_ref().filter(|login| !secrets.contains_key(*login)) {
        wrong(
            format!("there is no secret {login:?}"),
            "name one of the stage's `secrets`",
        );
    }
    repository
}

/// The rules that a stage gives.
pub(crate) fn pins(params: &Params, errors: &mut Vec<ParamError>) -> Vec<Pin> {
    let mut pins = Vec::new();
    for value in params.list("pins") {
        let Data::Object(fields) = &value.data else {
            continue;
        };
        let text = |field: &str| {
            fields
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let priority = match fields.get("priority").map(|value| &value.data) {
            Some(Data::Number(Number::Int(priority))) => *priority,
            _ => 0,
        };
        let package = fields
            .get("package")
            .map_or("*".to_owned(), |_| text("package"));
        let pin = Pin {
            package,
            pin: text("pin"),
            priority,
        };
        let known = ["version ", "release ", "origin "]
            .iter()
            .any(|word| pin.pin.starts_with(word));
        if !known || pin.pin.contains('\n') || pin.package.contains('\n') || pin.package.is_empty()
        {
            let error = ParamError::new("pins", format!("{:?} is not a valid pin", pin.pin));
            errors
                .push(error.help("write \"version 1.2*\", \"release n=SUITE\" or \"origin HOST\""));
        }
        if !(-32768..=32767).contains(&pin.priority) || pin.priority == 0 {
            errors.push(ParamError::new(
                "pins",
                format!("{} is not a valid priority", pin.priority),
            ));
        }
        pins.push(pin);
    }
    pins
}

/// The steps that leave an archive's address and keys in the image; none for one that is the host's mirror.
pub(crate) fn keep_repository(repository: &Repository) -> Vec<Step> {
    let Repository {
        name,
        uri: Some(uri),
        suite,
        components,
        signed_by,
        trusted,
        login: _,
    } = repository
    else {
        return Vec::new();
    };
    let write = |dest: String, text: String| Step::WriteFile {
        dest,
        text,
        mode: 0o644,
        owner: None,
    };
    let mut source = format!("Types: deb\nURIs: {uri}\nSuites: {suite}\n");
    if !components.is_empty() {
        source += &format!("Components: {}\n", components.join(" "));
    }
    let mut steps = Vec::new();
    if let Some(keys) = signed_by {
        let keyring = format!("/etc/apt/keyrings/{name}.asc");
        source += &format!("Signed-By: {keyring}\n");
        steps.push(write(keyring, keys.clone()));
    }
    if *trusted {
        source += "Trusted: yes\n";
    }
    steps.push(write(
        format!("/etc/apt/sources.list.d/{name}.sources"),
        source,
    ));
    steps
}
