//! Settings: the user's, the system's and the repository's files, and which of them holds.
//! Knows keys and their places; what they mean is the commands' knowledge.
//!
//! What comes first holds: a flag, the environment, `~/.config/impasto/config.toml`, `/etc/impasto/config.toml`, the
//! repository's `.impasto.toml`. The last one is written by whoever writes the recipe, so it may set only what can
//! neither reach the host's files nor the store.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use impasto_stages::parse_duration;
use toml::de::{DeTable, DeValue};

use crate::base::bounded;
use crate::base::host::Host;
use crate::recipe::suggest::did_you_mean;

const SYSTEM: &str = "/etc/impasto/config.toml";
/// The repository's file, in its top directory.
pub const REPOSITORY: &str = ".impasto.toml";

/// All keys, as they are written in a path of tables, and what they are for.
pub const KEYS: [(&str, &str); 4] = [
    (
        "allow_paths",
        "Directories beside its repository that a recipe may read: those of all files.",
    ),
    (
        "gc.expire",
        "How long the results of a checkout are kept after their last use. Default: 30d.",
    ),
    (
        "jobs",
        "How many stages may run at once. Default: the number of CPUs.",
    ),
    (
        "store",
        "The store's directory. Default: `impasto` in the user's cache directory.",
    ),
];

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingOrigin {
    /// A flag of the command.
    Flag(&'static str),
    /// A variable of the environment.
    Environment(&'static str),
    File(PathBuf),
    /// Nobody says anything else.
    Default,
}

impl std::fmt::Display for SettingOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SettingOrigin::Flag(flag) => f.write_str(flag),
            SettingOrigin::Environment(name) => f.write_str(name),
            SettingOrigin::File(path) => path.display().fmt(f),
            SettingOrigin::Default => f.write_str("default"),
        }
    }
}

/// A value and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting<T> {
    pub value: T,
    /// Where it comes from.
    pub origin: SettingOrigin,
}

/// What the files say, the first file that says something before all others.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Directories beside its repository that a recipe may read, absolute: those of all files.
    pub allow_paths: Vec<Setting<PathBuf>>,
    /// How long the results of a checkout are kept after their last use.
    pub gc_expire: Option<Setting<Duration>>,
    /// How many stages may run at once.
    pub jobs: Option<Setting<u16>>,
    /// The store's directory, absolute.
    pub store: Option<Setting<PathBuf>>,
    /// The files that were looked for, and whether they are there.
    pub files: Vec<(PathBuf, bool)>,
}

/// A file of settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the settings in {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// Something in it is wrong.
    #[error("{}:{line}: {message}", path.display())]
    Wrong {
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        message: String,
        /// What to write instead.
        help: Option<String>,
    },
}

/// Whose file it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SettingsOwner {
    /// The user's or the system's.
    Host,
    Repository,
}

impl Settings {
    /// Reads the user's and the system's files.
    ///
    /// # Errors
    /// One of them cannot be read, or is wrong.
    pub fn read(host: &Host) -> Result<Settings, ConfigError> {
        let mut settings = Settings::default();
        settings.file(
            &host.config_dir().join("impasto/config.toml"),
            host,
            SettingsOwner::Host,
        )?;
        settings.file(Path::new(SYSTEM), host, SettingsOwner::Host)?;
        Ok(settings)
    }

    /// Adds what a repository says, after everything else.
    ///
    /// # Errors
    /// Its file cannot be read, or is wrong.
    pub fn add_repository(&mut self, repository: &Path, host: &Host) -> Result<(), ConfigError> {
        self.file(
            &repository.join(REPOSITORY),
            host,
            SettingsOwner::Repository,
        )
    }

    fn file(&mut self, path: &Path, host: &Host, owner: SettingsOwner) -> Result<(), ConfigError> {
        let read = match owner {
            // It is part of what a recipe's author wrote: a link in its place leads to nothing that is to be shown.
            SettingsOwner::Repository
                if std::fs::symlink_metadata(path).is_ok_and(|stat| stat.is_symlink()) =>
            {
                Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "it is a symbolic link, not a regular file",
                ))
            }
            _ => bounded::read_text(path, bounded::LINES),
        };
        let text = match read {
            Ok(text) => text,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                self.files.push((path.to_owned(), false));
                return Ok(());
            }
            Err(source) => {
                return Err(ConfigError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        self.files.push((path.to_owned(), true));
        let wrong = |span: Range<usize>, message: String, help: Option<String>| {
            let line = 1 + text
                .get(..span.start)
                .unwrap_or_default()
                .matches('\n')
                .count();
            ConfigError::Wrong {
                path: path.to_owned(),
                line,
                message,
                help,
            }
        };
        let table = DeTable::parse(&text).map_err(|error| {
            wrong(
                error.span().unwrap_or_default(),
                error.message().to_owned(),
                None,
            )
        })?;
        let mut found = Vec::new();
        flatten("", table.get_ref(), &mut found);
        let origin = SettingOrigin::File(path.to_owned());
        for (key, value, span) in found {
            let known = KEYS.map(|(name, _)| name);
            if !known.contains(&&*key) {
                let help = did_you_mean("keys", &key, known);
                return Err(wrong(span, format!("`{key}` is not a setting"), help));
            }
            if owner == SettingsOwner::Repository && key != "jobs" {
                let message = format!(
                    "a repository may not set `{key}`: whoever writes the recipe writes this file"
                );
                let user = host.config_dir().join("impasto/config.toml");
                return Err(wrong(
                    span,
                    message,
                    Some(format!("set it in {}", user.display())),
                ));
            }
            let expected = |what: &str| wrong(span.clone(), format!("`{key}` takes {what}"), None);
            let directory = |value: &DeValue<'_>| {
                let path = value.as_str().and_then(|text| absolute(text, host));
                path.ok_or_else(|| {
                    expected("the absolute path of a directory, or one that starts with `~/`")
                })
            };
            match &*key {
                "allow_paths" => {
                    let items = value
                        .as_array()
                        .ok_or_else(|| expected("a list of directories"))?;
                    for item in items.iter() {
                        let value = directory(item.get_ref())?;
                        self.allow_paths.push(Setting {
                            value,
                            origin: origin.clone(),
                        });
                    }
                }
                "gc.expire" => {
                    let time = value.as_str().and_then(parse_duration);
                    let value =
                        time.ok_or_else(|| expected("a time such as \"30d\" or \"12h\""))?;
                    self.gc_expire.get_or_insert(Setting {
                        value,
                        origin: origin.clone(),
                    });
                }
                "jobs" => {
                    let number = value
                        .as_integer()
                        .and_then(|number| number.as_str().parse::<u16>().ok());
                    let value = number.filter(|number| *number > 0);
                    let value = value.ok_or_else(|| expected("a whole number from 1 to 65535"))?;
                    self.jobs.get_or_insert(Setting {
                        value,
                        origin: origin.clone(),
                    });
                }
                _ => {
                    let value = directory(value)?;
                    self.store.get_or_insert(Setting {
                        value,
                        origin: origin.clone(),
                    });
                }
            }
        }
        Ok(())
    }
}

/// Keys by their paths, each with its value and its place. A table that is a known key's parent is not a value.
fn flatten<'t>(
    prefix: &str,
    table: &'t DeTable<'t>,
    out: &mut Vec<(String, &'t DeValue<'t>, Range<usize>)>,
) {
    for (name, value) in table.iter() {
        let key = format!("{prefix}{}", name.get_ref());
        match value.get_ref() {
            DeValue::Table(inner)
                if KEYS
                    .iter()
                    .any(|(known, _)| known.starts_with(&format!("{key}."))) =>
            {
                flatten(&format!("{key}."), inner, out);
            }
            value => out.push((key, value, name.span())),
        }
    }
}

fn absolute(text: &str, host: &Host) -> Option<PathBuf> {
    let path = match text.strip_prefix("~/") {
        Some(rest) => host.home()?.join(rest),
        None => PathBuf::from(text),
    };
    path.is_absolute().then_some(path)
}
