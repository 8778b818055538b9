//! The parameters that every kind with a sandbox takes, and how they enter its Action.
//! Knows no kind.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::action::{
    ActionTemplate, Cutoff, Executor, RootSpec, SandboxRequirement, SandboxRoot, Slot,
};
use crate::disk::MIB;
use crate::error::ParamError;
use crate::limits::{LIMITS, limits};
use crate::media::PackCompression;
use crate::number::Number;
use crate::params::{Params, Secret, parse_size};
use crate::registry::{ParamSpec, StageContext, Type};
use crate::value::{Data, Value};

/// The time that stands for now where a recipe says none: 1980-01-01, the first day that FAT and zip can tell. In seconds
/// since 1970.
pub(crate) const DEFAULT_EPOCH: u64 = 315_532_800;

/// The disk that a stage builds on.
pub(crate) const FROM: &[ParamSpec] = &[ParamSpec::required(
    "from",
    Type::Disk,
    "The stage whose disk this one builds on.",
)];

/// What of a disk is left out.
pub(crate) const EXCLUDE: ParamSpec = ParamSpec::optional(
    "exclude",
    Type::List(&Type::Text),
    "Paths of the disk that are left out, such as [\"/boot/*\", \"/usr/share/doc/*\"]. `*` matches any characters but `/`; a \
     directory means everything under it. Default: nothing is.",
);

/// How much a file is compressed.
pub(crate) const LEVEL: ParamSpec = ParamSpec::optional(
    "level",
    Type::Int,
    "Level of the compression: 1 to 9 for gzip, 1 to 19 for zstd, 0 to 9 for xz. Default: 6, 9 for zstd.",
);

/// The paths of [`EXCLUDE`].
pub(crate) fn exclude(params: &Params, errors: &mut Vec<ParamError>) -> Vec<String> {
    let paths = params.texts("exclude");
    let wrong = paths
        .iter()
        .filter_map(|path| check_guest_path("exclude", path).err());
    errors.extend(wrong);
    paths
}

/// The level of [`LEVEL`]; 0 where nothing is compressed.
pub(crate) fn level(
    params: &Params,
    compression: PackCompression,
    errors: &mut Vec<ParamError>,
) -> i64 {
    match (params.int("level"), compression.levels()) {
        (None, None) => 0,
        (None, Some((_, usual))) => usual,
        (Some(level), Some((levels, _))) if levels.contains(&level) => level,
        (Some(level), Some((levels, usual))) => {
            let error = ParamError::new("level", format!("{level} is out of range"));
            errors.push(error.help(format!("use {} to {}", levels.start(), levels.end())));
            usual
        }
        (Some(_), None) => {
            let error = ParamError::new("level", "nothing is compressed");
            errors.push(error.help("remove `level`, or choose a compression"));
            0
        }
    }
}

const CUTOFF_PARAM: ParamSpec = ParamSpec::optional(
    "cutoff",
    Type::OneOf(Cutoff::NAMES),
    "When stages built on this one run again after it has run: \"tree\": if the disk's files differ, \"bytes\": if any \
     byte differs, \"off\": always. Not part of the key. Default: the recipe's, which is \"tree\".",
);

/// Remembers where the texts of a parameter stand, as the lines of a request of packages that begin with `word`.
pub(crate) fn remember_lines(action: &mut ActionTemplate, params: &Params, name: &str, word: &str) {
    let own = params.get(name).filter(|value| value.as_str().is_some());
    for value in own.into_iter().chain(params.list(name)) {
        if let (Some(text), Some(origin)) = (value.as_str(), &value.origin) {
            action
                .hints
                .origins
                .insert(format!("{word} {text}"), (**origin).clone());
        }
    }
}

/// What every stage takes that makes a disk.
pub(crate) const CUTOFF: &[ParamSpec] = &[CUTOFF_PARAM];

const ENV: ParamSpec = ParamSpec::optional(
    "env",
    Type::Map(&Type::Text),
    "Environment variables of the steps. Part of the key.",
);

pub(crate) const SECRETS: ParamSpec = ParamSpec::optional(
    "secrets",
    Type::Secrets,
    "Secrets by name, each a string or { value, version }. A step reads one from /run/impasto/secrets/NAME; its value \
     is in no key, layer or log. Change the version to run the stage again.",
);

const SANDBOX: ParamSpec = ParamSpec::optional(
    "sandbox",
    Type::OneOf(&["namespace", "vm"]),
    "The sandbox to require. Default: the one that --sandbox or the host selects.",
);

const NETWORK: ParamSpec = ParamSpec::optional(
    "network",
    Type::Bool,
    "Gives the steps network access. The result, and everything built on it, is marked as unlocked. Default: false.",
);

const TIMEOUT: ParamSpec = ParamSpec::optional(
    "timeout",
    Type::Duration,
    "Stops the stage after this time, such as \"90s\" or \"1h30m\". Not part of the key.",
);

const PRIVILEGED: ParamSpec = ParamSpec::optional(
    "privileged",
    Type::Bool,
    "Lets the steps mount, create device files and create namespaces, as `mount`, `losetup`, `unshare` and container \
     tools do. They could then change the host: the result, and everything built on it, is marked as weakly isolated. \
     Default: false.",
);

const VOLATILE: ParamSpec = ParamSpec::optional(
    "volatile",
    Type::List(&Type::Text),
    "Paths in the image whose content depends on when or where the stage ran, in addition to the built-in ones, such \
     as [\"/var/log/foo/*.log\"]. When the stage ends, files that the steps changed there are emptied, and new ones \
     are removed. `*` matches any characters but `/`; a directory means everything under it.",
);

/// What every stage in a sandbox takes whose steps are the recipe's.
pub(crate) const SANDBOXED: &[ParamSpec] = &[
    ENV, SECRETS, SANDBOX, NETWORK, PRIVILEGED, TIMEOUT, LIMITS, VOLATILE,
];

/// The same where no disk is made.
pub(crate) const SANDBOXED_FILES: &[ParamSpec] =
    &[ENV, SECRETS, SANDBOX, NETWORK, PRIVILEGED, TIMEOUT, LIMITS];

/// What every stage in a sandbox takes whose kind decides about the network.
pub(crate) const SANDBOXED_BY_KIND: &[ParamSpec] =
    &[ENV, SECRETS, SANDBOX, TIMEOUT, LIMITS, VOLATILE];

/// What a stage takes that works in a sandbox and runs nothing of the recipe's there.
pub(crate) const SANDBOX_AND_TIMEOUT: &[ParamSpec] = &[SANDBOX, TIMEOUT, LIMITS];

/// An Action of a kind in a sandbox, with the common parameters in it, and the secrets' values.
pub(crate) fn sandboxed(
    kind: &'static str,
    version: u32,
    params: &Params,
    context: &StageContext,
    errors: &mut Vec<ParamError>,
) -> (ActionTemplate, BTreeMap<String, Secret>) {
    let mut action = ActionTemplate::new(kind, version, Executor::Sandbox(SandboxRoot::Guest));
    action.parent = from(params);
    action.env = params.text_map("env");
    action.source_date_epoch = Some(context.source_date_epoch.unwrap_or(DEFAULT_EPOCH));
    action.sandbox = match params.text("sandbox") {
        Some("namespace") => SandboxRequirement::Namespace,
        Some("vm") => SandboxRequirement::Vm,
        _ => SandboxRequirement::Any,
    };
    if let Some(name) = action.sandbox.name()
        && !context.sandboxes.contains(&name)
    {
        let error = ParamError::new("sandbox", format!("this version has no sandbox {name:?}"));
        let names: Vec<_> = context
            .sandboxes
            .iter()
            .map(|name| format!("{name:?}"))
            .collect();
        errors.push(match names.as_slice() {
            [] => error.help("omit `sandbox`"),
            names => error.help(format!("omit `sandbox`, or use {}", names.join(" or "))),
        });
    }
    for name in action
        .env
        .keys()
        .filter(|name| name.is_empty() || name.contains(['=', '\0']))
    {
        errors.push(ParamError::new(
            "env",
            format!("{name:?} is not a valid name for an environment variable"),
        ));
    }
    action.network = params.flag("network");
    action.privileged = params.flag("privileged");
    action.hints.limits = limits(params, errors);
    action.hints.timeout = params.duration("timeout");
    if action.hints.timeout == Some(Duration::ZERO) {
        errors.push(
            ParamError::new("timeout", "a timeout of zero would stop every stage")
                .help("omit `timeout` for no limit"),
        );
    }
    action.volatile = params.texts("volatile");
    errors.extend(
        action
            .volatile
            .iter()
            .filter_map(|path| check_volatile(path).err()),
    );
    let secrets = secrets(params, errors);
    action.secrets = secrets.versions;
    (action, secrets.values)
}

pub(crate) struct Secrets {
    /// What of them is keyed: the version that the recipe declares, by name.
    pub(crate) versions: BTreeMap<String, Option<String>>,
    /// Their values by name.
    pub(crate) values: BTreeMap<String, Secret>,
}

/// The secrets that a stage is given.
pub(crate) fn secrets(params: &Params, errors: &mut Vec<ParamError>) -> Secrets {
    let mut secrets = Secrets {
        versions: BTreeMap::new(),
        values: BTreeMap::new(),
    };
    for (name, value) in params.pairs("secrets") {
        errors.extend(check_name("secrets", name).err());
        let (secret, version) = match &value.data {
            Data::Object(parts) => (
                parts.get("value").and_then(Value::as_str),
                parts
                    .get("version")
                    .and_then(|version| match &version.data {
                        Data::Number(number) => Some(number.to_string()),
                        _ => version.as_str().map(str::to_owned),
                    }),
            ),
            _ => (value.as_str(), None),
        };
        secrets.versions.insert(name.clone(), version);
        secrets
            .values
            .insert(name.clone(), Secret::new(secret.unwrap_or_default()));
    }
    secrets
}

/// The recipe's time, for kinds whose every file would else tell when it was made.
pub(crate) fn demand_epoch(context: &StageContext, errors: &mut Vec<ParamError>) -> Option<u64> {
    if context.source_date_epoch.is_none() {
        let error = ParamError::stage(
            "the recipe sets no `source_date_epoch`, the time stamp for what it makes",
        );
        errors.push(
            error.help(
                "add `source_date_epoch = 1700000000`, or another time, to the block `recipe`",
            ),
        );
    }
    context.source_date_epoch
}

/// The slot of the `from` parameter.
pub(crate) fn from(params: &Params) -> Option<Slot> {
    params.get("from").and_then(file_slot)
}

/// The slot that a value of type [`Type::Disk`], [`Type::File`] or [`Type::Path`] stands for.
pub(crate) fn file_slot(value: &Value) -> Option<Slot> {
    match &value.data {
        Data::Stage(stage) => Some(Slot::Stage(stage.to_string())),
        Data::StageFile { stage, file } => Some(Slot::StageFile {
            stage: stage.to_string(),
            file: file.to_string(),
        }),
        Data::String(path) => Some(Slot::Local(path.to_string())),
        _ => None,
    }
}

/// What of directories is left out, for kinds that read directories of the user's.
pub(crate) const IGNORE: ParamSpec = ParamSpec::optional(
    "ignore",
    Type::List(&Type::Text),
    "Patterns of files that are left out of directories, as in gitignore(5): \"target/\", \"*.orig\", \"!keep.orig\". A \
     file `.impastoignore` beside the recipe or in a directory does the same for everything below it.",
);

/// The slot without what patterns name, where it is a directory of the user's.
pub(crate) fn without(slot: Slot, ignore: &[String]) -> Slot {
    match slot {
        Slot::Local(path) if !ignore.is_empty() => Slot::LocalPart {
            path,
            ignore: ignore.to_vec(),
            with_times: false,
        },
        slot => slot,
    }
}

/// Checks a path inside the guest: absolute, without `..`, without NUL.
pub(crate) fn check_guest_path(param: &'static str, path: &str) -> Result<(), ParamError> {
    let problem = if !path.starts_with('/') {
        "is not absolute"
    } else if path.split('/').any(|part| part == "..") {
        "leads through `..`"
    } else if path.contains('\0') {
        "contains a NUL byte"
    } else {
        return Ok(());
    };
    Err(
        ParamError::new(param, format!("the path {path:?} in the image {problem}"))
            .help("write an absolute path, as seen inside the image"),
    )
}

/// Checks a path of volatile files.
pub(crate) fn check_volatile(path: &str) -> Result<(), ParamError> {
    check_guest_path("volatile", path)?;
    if path.split('/').all(|part| matches!(part, "" | ".")) {
        let error = ParamError::new(
            "volatile",
            format!("{path:?} matches every file of the image"),
        );
        return Err(error.help("name only the files that depend on when or where the stage ran"));
    }
    Ok(())
}

/// Checks the name of an output or input: a plain file name.
pub(crate) fn check_name(param: &'static str, name: &str) -> Result<(), ParamError> {
    let plain = !name.is_empty()
        && name.len() <= 200
        && name != "."
        && name != ".."
        && !name.starts_with('-')
        && !name.chars().any(|c| c == '/' || c.is_control());
    if plain {
        return Ok(());
    }
    Err(
        ParamError::new(param, format!("{name:?} is not a plain file name"))
            .help("use a name without `/` and control characters that does not start with `-`"),
    )
}

/// The `root` parameter of a stage that a chain of disks begins with.
pub(crate) fn root(params: &Params) -> Result<RootSpec, ParamError> {
    partition(params, "root")
}

/// A parameter that names a file system of a disk.
pub(crate) fn partition(params: &Params, name: &'static str) -> Result<RootSpec, ParamError> {
    let wrong = |shown: String| {
        Err(
            ParamError::new(name, format!("{shown} is not a valid partition"))
                .help("use a number from 1, \"LABEL=…\" or \"UUID=…\""),
        )
    };
    match params.get(name).map(|value| &value.data) {
        None => Ok(RootSpec::Auto),
        Some(Data::Number(number)) => match number {
            Number::Int(number @ 1..=128) => Ok(RootSpec::Number(*number as u32)),
            other => wrong(other.to_string()),
        },
        Some(Data::String(text)) => match text.split_once('=') {
            Some(("LABEL", label)) if !label.is_empty() => Ok(RootSpec::Label(label.to_owned())),
            Some(("UUID", uuid)) if !uuid.is_empty() => {
                Ok(RootSpec::Uuid(uuid.to_ascii_lowercase()))
            }
            _ => wrong(format!("{text:?}")),
        },
        Some(_) => wrong("the value".to_owned()),
    }
}

/// Disks beyond this are more likely a slip than a wish. In bytes.
const MAX_SIZE: u64 = 16 << 40;

/// A size in bytes; 0 where it is none, which is an error already.
pub(crate) fn size(
    param: &'static str,
    place: &str,
    text: &str,
    errors: &mut Vec<ParamError>,
) -> u64 {
    let problem = match parse_size(text) {
        Some(bytes) if bytes > 0 && bytes % MIB == 0 && bytes <= MAX_SIZE => return bytes,
        Some(bytes) if bytes > MAX_SIZE => "is more than 16TiB",
        Some(0) => "is zero",
        Some(_) => "is not a multiple of 1MiB",
        None => "is not a valid size",
    };
    let error = ParamError::new(param, format!("{place}: {text:?} {problem}"));
    errors.push(error.help("use whole numbers of MiB, GiB or TiB, such as \"8GiB\""));
    0
}

/// A word of the shell that means exactly this text.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
