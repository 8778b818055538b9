//! What `disk` and `system` say of a machine alike: users, host name, kernel arguments, and what each of them may be.
//! Knows values, not who writes them into the image.

use std::collections::BTreeMap;

use crate::disk::UserSpec;
use crate::error::ParamError;
use crate::number::Number;
use crate::registry::{ParamSpec, Type};
use crate::ssh_key;
use crate::value::{Data, Value};

pub(super) const USER: &[ParamSpec] = &[
    ParamSpec::optional(
        "ssh_keys",
        Type::List(&Type::Text),
        "Public keys that may log in, as lines of authorized_keys.",
    ),
    ParamSpec::optional(
        "password_hash",
        Type::Text,
        "Hash of the password, as `mkpasswd` or `openssl passwd -6` prints it. It can be read in the recipe, the key \
         and the image. Default: no password.",
    ),
    ParamSpec::optional(
        "sudo",
        Type::Bool,
        "Whether the user may use sudo without a password. Default: false.",
    ),
    ParamSpec::optional(
        "shell",
        Type::Text,
        "The login shell. Default: \"/bin/bash\".",
    ),
    ParamSpec::optional(
        "groups",
        Type::List(&Type::Text),
        "Existing groups of the tree to add the user to.",
    ),
    ParamSpec::optional(
        "uid",
        Type::Int,
        "The user's UID. Default: the next free one from 1000.",
    ),
];

pub(super) fn user(name: &str, value: &Value, errors: &mut Vec<ParamError>) -> UserSpec {
    let mut wrong =
        |message: String, help: &str| errors.push(ParamError::new("users", message).help(help));
    if !is_user_name(name) {
        wrong(
            format!("{name:?} is not a valid user name"),
            "use up to 32 of a-z, 0-9, `_` and `-`, starting with a letter",
        );
    }
    let ssh_keys: Vec<String> = texts(value, "ssh_keys")
        .iter()
        .map(|key| key.trim().to_owned())
        .collect();
    for (index, key) in ssh_keys.iter().enumerate() {
        if let Err(problem) = ssh_key::check(key) {
            let message = format!(
                "users[{name:?}].ssh_keys[{index}] is not a valid SSH public key: {problem}"
            );
            wrong(message, problem.help());
        }
    }
    let password_hash = text(value, "password_hash").map(str::to_owned);
    if let Some(hash) = &password_hash
        && !is_password_hash(hash)
    {
        // Not shown: it may be the password itself.
        wrong(
            format!("users[{name:?}].password_hash is not a crypt(5) hash"),
            "use the output of `openssl passwd -6`, which starts with `$6$`",
        );
    }
    let shell = text(value, "shell").unwrap_or("/bin/bash").to_owned();
    if !shell.starts_with('/')
        || shell
            .chars()
            .any(|c| c == ':' || c.is_whitespace() || c.is_control())
    {
        wrong(
            format!("users[{name:?}].shell: {shell:?} is not a valid path of a shell"),
            "use a path such as \"/bin/bash\"",
        );
    }
    let groups = texts(value, "groups");
    for group in groups.iter().filter(|group| !is_user_name(group)) {
        wrong(
            format!("users[{name:?}].groups: {group:?} is not a valid group name"),
            "name a group of the tree, such as \"adm\"",
        );
    }
    let number = match &value.data {
        Data::Object(pairs) => pairs.get("uid").map(|value| &value.data),
        _ => None,
    };
    let uid = match number {
        // Up to 999 is the distribution's, 65534 and 65535 mean nobody (Debian policy, 9.2.2).
        Some(Data::Number(Number::Int(uid @ (1000..=65533 | 65536..=4_294_967_293)))) => {
            Some(*uid as u32)
        }
        Some(Data::Number(uid)) => {
            wrong(
                format!("users[{name:?}].uid: {uid} is out of range"),
                "use 1000 to 59999",
            );
            None
        }
        _ => None,
    };
    let sudo = matches!(&value.data, Data::Object(p) if p.get("sudo").is_some_and(|v| v.data == Data::Bool(true)));
    if name == "root" {
        let given = |field: &str| match &value.data {
            Data::Object(pairs) => pairs
                .get(field)
                .is_some_and(|value| value.data != Data::Null),
            _ => false,
        };
        if let Some(field) = ["sudo", "shell", "groups", "uid"]
            .into_iter()
            .find(|field| given(field))
        {
            wrong(
                format!("users[\"root\"].{field} cannot be set: root is in the tree"),
                "only `ssh_keys` and `password_hash` of root can be set",
            );
        }
    }
    UserSpec {
        ssh_keys,
        password_hash,
        sudo,
        shell,
        groups,
        uid,
    }
}

/// Two users with one number are one user to the kernel.
pub(super) fn check_uids(users: &BTreeMap<String, UserSpec>, errors: &mut Vec<ParamError>) {
    let mut seen = BTreeMap::new();
    for (name, user) in users {
        if let Some(uid) = user.uid
            && let Some(other) = seen.insert(uid, name)
        {
            let error = ParamError::new(
                "users",
                format!("{other:?} and {name:?} both have the UID {uid}"),
            );
            errors.push(error.help("give each user its own `uid`, or omit it"));
        }
    }
}

/// What Debian's adduser takes, and useradd's underscore.
pub(super) fn is_user_name(name: &str) -> bool {
    let first = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    first && name.len() <= 32 && name.chars().all(rest)
}

/// `$id$…` with an id of crypt(5), or what locks an account.
fn is_password_hash(hash: &str) -> bool {
    let known = [
        "$1$", "$2a$", "$2b$", "$2y$", "$5$", "$6$", "$7$", "$y$", "$gy$",
    ];
    let plain = hash.chars().all(|c| c.is_ascii_graphic() && c != ':');
    matches!(hash, "!" | "*")
        || plain && hash.len() > 12 && known.iter().any(|id| hash.starts_with(id))
}

/// Labels of RFC 1123, 64 bytes in all: the kernel's limit.
pub(super) fn check_host_name(name: &str, errors: &mut Vec<ParamError>) {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    if name.len() > 64 || !name.split('.').all(label) {
        let error = ParamError::new("hostname", format!("{name:?} is not a valid host name"));
        errors.push(error.help("use letters, digits, `-` inside, and dots between parts"));
    }
}

/// Two readers take the arguments apart, a shell and GRUB: what either would see as more than a letter is refused.
/// Checks that a text is one argument to every boot loader.
pub(super) fn single_argument(param: &'static str, argument: &str) -> Result<(), ParamError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.,:=/+@%^".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        return Ok(());
    }
    let error = ParamError::new(
        param,
        format!("{argument:?} is not a single kernel argument"),
    );
    Err(error.help(
        "write each argument as its own element, without spaces, quotes and shell characters",
    ))
}

pub(super) fn check_kernel_argument(argument: &str, errors: &mut Vec<ParamError>) {
    if let Err(error) = single_argument("kernel_arguments", argument) {
        errors.push(error);
    } else if argument.starts_with("root=") {
        let error = ParamError::new("kernel_arguments", "the root is already set by its UUID");
        errors.push(error.help("remove `root=…`"));
    }
}

pub(super) fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    match &value.data {
        Data::Object(pairs) => pairs.get(name).and_then(Value::as_str),
        _ => None,
    }
}

pub(super) fn texts(value: &Value, name: &str) -> Vec<String> {
    match &value.data {
        Data::Object(pairs) => match pairs.get(name).map(|value| &value.data) {
            Some(Data::List(items)) => items
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}
