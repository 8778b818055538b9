//! What a recipe's functions and parameters see of the disk: texts, directories, whether a path exists.
//! Each is read once for all combinations. Knows paths relative to the recipe; never writes.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use impasto_store::inputs::Access;

use crate::base::bounded;
use crate::recipe::scope::{Outside, Scope};

/// Most files and directories that `dir()` looks at.
const MAX_FILES: usize = 100_000;

/// A problem with a path: what is wrong, and the hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileProblem {
    pub(super) message: String,
    pub(super) help: Option<String>,
    /// Whether the recipe may not know what is there.
    pub(super) outside: bool,
}

impl FileProblem {
    fn new(message: String, help: Option<String>) -> Self {
        FileProblem {
            message,
            help,
            outside: false,
        }
    }
}

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Is {
    File,
    Directory,
    Other,
}

/// Reads below the recipe's directory, and remembers what it read.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
    /// The same directory as the user would type it; empty for the current one.
    shown: PathBuf,
    scope: Arc<Scope>,
    env: std::collections::BTreeMap<String, String>,
    texts: HashMap<String, Result<Arc<str>, FileProblem>>,
    lists: HashMap<String, Result<Arc<[String]>, FileProblem>>,
    kinds: HashMap<String, Result<Is, FileProblem>>,
}

impl Files {
    pub(super) fn new(
        dir: PathBuf,
        shown: PathBuf,
        scope: Arc<Scope>,
        env: std::collections::BTreeMap<String, String>,
    ) -> Self {
        Files {
            dir,
            shown,
            scope,
            env,
            texts: HashMap::new(),
            lists: HashMap::new(),
            kinds: HashMap::new(),
        }
    }

    /// A path below the recipe's directory as the user would type it.
    pub(super) fn shown(&self, path: &str) -> String {
        self.shown.join(path).display().to_string()
    }

    /// A variable of the environment.
    pub(super) fn env(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str)
    }

    /// The text of a file, and whether it was read now.
    pub(super) fn text(&mut self, path: &str) -> Result<(Arc<str>, bool), FileProblem> {
        if let Some(known) = self.texts.get(path) {
            return known.clone().map(|text| (text, false));
        }
        let read = self.read(path);
        self.texts.insert(path.to_owned(), read.clone());
        read.map(|text| (text, true))
    }

    fn read(&self, path: &str) -> Result<Arc<str>, FileProblem> {
        let full = self.full(path)?;
        let bytes = self
            .scope
            .open_file(&full)
            .and_then(|file| bounded::read_open(file, bounded::TEXT));
        let whole = "pass its path to a parameter that takes a file, such as `inputs` of `run`";
        let bytes = bytes.map_err(|error| {
            let help = match error.kind() {
                io::ErrorKind::IsADirectory => "`dir(PATH)` lists the files of a directory",
                io::ErrorKind::FileTooLarge => whole,
                _ => return self.problem(path, &error),
            };
            FileProblem::new(format!("cannot read {path:?}: {error}"), Some(help.into()))
        })?;
        String::from_utf8(bytes).map(Arc::from).map_err(|_| {
            FileProblem::new(format!("{path:?} is not UTF-8 text"), Some(whole.into()))
        })
    }

    /// The files below a directory, as paths relative to it, sorted.
    pub(super) fn list(&mut self, path: &str) -> Result<Arc<[String]>, FileProblem> {
        if let Some(known) = self.lists.get(path) {
            return known.clone();
        }
        let read = self.walk(path);
        self.lists.insert(path.to_owned(), read.clone());
        read
    }

    fn walk(&self, path: &str) -> Result<Arc<[String]>, FileProblem> {
        let full = self.full(path)?;
        let is_dir = self
            .scope
            .open(&full, Access::Examine)
            .and_then(|file| file.metadata());
        if !is_dir.map_err(|error| self.problem(path, &error))?.is_dir() {
            return Err(FileProblem::new(
                format!("{path:?} is not a directory"),
                None,
            ));
        }
        let mut found = Vec::new();
        for (count, entry) in walkdir::WalkDir::new(&full).into_iter().enumerate() {
            let entry = entry.map_err(|error| {
                FileProblem::new(format!("cannot list {path:?}: {error}"), None)
            })?;
            if count > MAX_FILES {
                let message =
                    format!("{path:?} contains more than {MAX_FILES} files and directories");
                return Err(FileProblem::new(message, None));
            }
            if entry.file_type().is_dir() {
                continue;
            }
            let relative = entry.path().strip_prefix(&full).unwrap_or(entry.path());
            let Some(text) = relative.to_str() else {
                let message = format!(
                    "{path:?} contains a file whose name is not UTF-8: {}",
                    relative.display()
                );
                return Err(FileProblem::new(message, None));
            };
            found.push(text.to_owned());
        }
        found.sort_unstable();
        Ok(found.into())
    }

    /// What stands at a path.
    pub(super) fn is(&mut self, path: &str) -> Result<Is, FileProblem> {
        if let Some(known) = self.kinds.get(path) {
            return known.clone();
        }
        let result = self.full(path).and_then(|full| {
            let meta = self
                .scope
                .open(&full, Access::Examine)
                .and_then(|file| file.metadata());
            let meta = meta.map_err(|error| self.problem(path, &error))?;
            Ok(match () {
                () if meta.is_file() => Is::File,
                () if meta.is_dir() => Is::Directory,
                () => Is::Other,
            })
        });
        self.kinds.insert(path.to_owned(), result.clone());
        result
    }

    fn full(&self, path: &str) -> Result<PathBuf, FileProblem> {
        if path.is_empty() || path.contains('\0') {
            return Err(FileProblem::new(
                format!("{path:?} is not a valid path"),
                None,
            ));
        }
        Ok(self.dir.join(path))
    }

    fn problem(&self, path: &str, error: &io::Error) -> FileProblem {
        if let Some(outside) = Outside::of(error) {
            let message = format!("the recipe may not read {path:?}: {outside}");
            return FileProblem {
                message,
                help: Some(outside.help()),
                outside: true,
            };
        }
        let message = match error.kind() {
            io::ErrorKind::NotFound => format!("there is no file {path:?}"),
            _ => format!("cannot read {path:?}: {error}"),
        };
        let help = if path.starts_with('~') {
            "`~` is not expanded; paths are relative to the recipe's directory".to_owned()
        } else if let Some(near) = self.near(path) {
            format!("did you mean {near:?}?")
        } else {
            "paths are relative to the recipe's directory".to_owned()
        };
        FileProblem::new(message, Some(help))
    }

    /// A file beside the missing one with nearly its name.
    fn near(&self, path: &str) -> Option<String> {
        let full = self.dir.join(path);
        let (parent, name) = (full.parent()?, full.file_name()?.to_str()?);
        let entries = std::fs::read_dir(parent).ok()?.take(1000);
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        let near = super::suggest::nearest(name, names.iter().map(String::as_str))?;
        let shown = Path::new(path).with_file_name(near);
        Some(shown.to_str()?.to_owned())
    }
}
