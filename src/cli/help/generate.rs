//! The parts of help topics that are made of the descriptions in the code: blocks, functions, settings, events, exit codes.
//! Knows where each description is; what they say is said there.

use serde_json::Value;

use super::markdown::{code, description, sentence};
use crate::cli::{disk_names, exit, settings};
use crate::disk::packed;
use crate::recipe::blocks::{BLOCKS, Block, VALIDATION};
use crate::recipe::{self, Function};
use crate::ui;

/// The part of this name, as Markdown.
pub(super) fn part(name: &str) -> String {
    match name {
        "blocks" => BLOCKS.into_iter().map(block).collect::<String>() + &block(&VALIDATION),
        "functions" => recipe::reference().into_iter().map(function).collect(),
        "disks" => sentence(disk_names::HELP),
        "environment" => VARIABLES
            .iter()
            .map(|(name, help)| entry(name, help))
            .collect(),
        "settings" => settings::KEYS
            .iter()
            .map(|(name, help)| entry(name, help))
            .collect(),
        "events" => events(&ui::event_schema()),
        "exit-codes" => exit::ALL
            .iter()
            .map(|(code, help)| entry(&code.to_string(), help))
            .collect(),
        _ => unreachable!("BUG: no part of help is called {name}"),
    }
}

/// The variables of the environment that decide something.
const VARIABLES: [(&str, &str); 15] = [
    (
        "IMPASTO_STORE",
        "The store's directory; `--store` takes precedence.",
    ),
    (
        "IMPASTO_VAR_NAME",
        "The value of the variable NAME of a recipe: see `impasto help variables`.",
    ),
    (
        "IMPASTO_MIRROR",
        "Where Debian's packages come from; `--mirror` takes precedence. Default: as the host's own apt.",
    ),
    (
        "IMPASTO_SECURITY_MIRROR",
        "The same for the security archive, or `none`.",
    ),
    (
        "IMPASTO_UBUNTU_MIRROR",
        "Where Ubuntu's packages come from. Default: as the host's own apt, if the host is Ubuntu.",
    ),
    (
        "IMPASTO_UBUNTU_PORTS_MIRROR",
        "The same for architectures other than amd64 and i386.",
    ),
    (
        "IMPASTO_SNAPSHOT",
        "A snapshot archive, for packages that mirrors no longer have: see `impasto help lock`.",
    ),
    (
        packed::LIMIT_VARIABLE,
        "The most that a compressed disk image may unpack to, holes included, such as `128GiB`. Default: 64GiB.",
    ),
    (
        "IMPASTO_LOG",
        "Logs for developers, such as `impasto=debug`.",
    ),
    ("NO_COLOR", "Turns colours off."),
    (
        "XDG_CACHE_HOME",
        "Where the store is, in `impasto`. Default: `~/.cache`.",
    ),
    (
        "XDG_CONFIG_HOME",
        "Where the user's settings are, in `impasto/config.toml`. Default: `~/.config`.",
    ),
    (
        "TMPDIR",
        "Where compressed images are unpacked that are compared. Default: `/var/tmp`.",
    ),
    (
        "http_proxy, https_proxy, no_proxy",
        "Proxies for downloads, also in capitals.",
    ),
    (
        "GITHUB_ACTIONS, GITLAB_CI",
        "Which CI service reads the output: see `impasto help ci`.",
    ),
];

/// A name and what it is.
fn entry(name: &str, help: &str) -> String {
    format!("### `{name}`\n\n{}", description(help))
}

fn block(block: &Block) -> String {
    let mut text = format!("## `{}`\n\n{}", block.head(), description(block.help));
    if !block.example.is_empty() {
        text += &code("hcl", block.example);
    }
    for attribute in block.attributes {
        text += &format!(
            "### `{}` ({})\n\n{}",
            attribute.name,
            sentence(attribute.ty),
            description(attribute.help)
        );
    }
    text
}

/// A function's signature, what it gives, and an example.
pub(super) fn function(function: &Function) -> String {
    let example = function
        .example()
        .map(|(call, value)| code("text", &format!("{call}  →  {value}")));
    entry(function.signature, function.help) + &example.unwrap_or_default()
}

/// The events of a schema: names, fields, and what they mean.
fn events(schema: &Value) -> String {
    let mut text = String::new();
    for event in schema["oneOf"].as_array().into_iter().flatten() {
        let name = event["properties"]["event"]["const"]
            .as_str()
            .unwrap_or_default();
        let about = event["description"].as_str().unwrap_or_default();
        text += &entry(name, &about.replace('\n', " "));
        let (own, shared) = (
            fields(event, schema),
            event
                .get("$ref")
                .map(|name| fields(resolve(name, schema), schema)),
        );
        let all: String = own
            .into_iter()
            .chain(shared.into_iter().flatten())
            .collect();
        text += &format!("{all}\n");
    }
    text
}

/// The fields of an object, an item of a list each.
fn fields(object: &Value, schema: &Value) -> Vec<String> {
    let Some(properties) = object["properties"].as_object() else {
        return Vec::new();
    };
    let own = properties
        .iter()
        .filter(|(name, _)| *name != "event")
        .map(|(name, field)| {
            let about = field["description"]
                .as_str()
                .unwrap_or_default()
                .replace('\n', " ");
            let ty = type_name(field, schema);
            format!("- `{name}` ({ty}): {}\n", sentence(&about))
        });
    own.collect()
}

/// A type of JSON as people say it.
fn type_name(field: &Value, schema: &Value) -> String {
    if let Some(name) = field.get("$ref") {
        return type_name(resolve(name, schema), schema);
    }
    for choice in ["anyOf", "oneOf"] {
        if let Some(types) = field[choice].as_array() {
            let mut names: Vec<_> = types.iter().map(|ty| type_name(ty, schema)).collect();
            names.dedup();
            return names.join(" or ");
        }
    }
    if let Some(word) = field["const"].as_str() {
        return format!("{word:?}");
    }
    if let Some(words) = field["enum"].as_array() {
        return words
            .iter()
            .map(Value::to_string)
            .collect::<Vec<_>>()
            .join(" or ");
    }
    match &field["type"] {
        Value::Array(types) => types
            .iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(" or "),
        Value::String(ty) if ty == "array" => {
            format!("list of {}", type_name(&field["items"], schema))
        }
        Value::String(ty) => ty.clone(),
        _ => "any".to_owned(),
    }
}

/// What a reference such as `#/$defs/Place` leads to.
fn resolve<'s>(reference: &Value, schema: &'s Value) -> &'s Value {
    let path = reference
        .as_str()
        .and_then(|name| name.strip_prefix('#'))
        .unwrap_or_default();
    schema.pointer(path).unwrap_or(&Value::Null)
}
