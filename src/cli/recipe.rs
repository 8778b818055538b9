//! `impasto validate` and `impasto fmt`: a recipe as text.
//! Knows files; the recipe modules know the language.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::error::CliError;
use super::session::{Session, shown};
use super::{RecipeArgs, exit};
use crate::bounded;
use crate::recipe;
use crate::ui;

#[derive(Debug, Args)]
pub(crate) struct Validate {
    #[command(flatten)]
    recipe: RecipeArgs,
}

impl Validate {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let loaded = session.load(&self.recipe)?;
        // A selector that names nothing is an error here too.
        loaded.selection()?;
        let (nodes, combinations) = (loaded.graph.len(), loaded.recipe.combinations.len());
        let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
        let images = plural(loaded.graph.images().len(), "image");
        let combinations = plural(combinations, "combination");
        let nodes = plural(nodes, "node");
        ui::output(&format!("{} is valid: {nodes}, {images}, {combinations}\n", loaded.recipe.name));
        Ok(exit::OK)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Fmt {
    /// Recipes: files, or directories whose .hcl files are meant
    #[arg(default_value = ".")]
    paths: Vec<PathBuf>,
    /// Changes nothing; exits with 1 where a file is not formatted
    #[arg(long)]
    check: bool,
}

impl Fmt {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let mut unformatted = false;
        for path in &self.paths {
            let path = session.host.cwd.join(path);
            // A link in a directory leads where the recipe's author says; a file that is named is the user's choice.
            let scope = path.is_dir().then(|| session.scope_of(&path)).transpose()?;
            for file in hcl_files(&path)? {
                // Where it is a symbolic link, what it points at is formatted.
                let file = std::fs::canonicalize(&file).map_err(CliError::io("read", &file))?;
                let opened = match &scope {
                    Some(scope) => scope.open_file(&file),
                    None => bounded::open(&file),
                };
                let bytes = opened.and_then(|file| bounded::read_open(file, bounded::TEXT));
                let bytes = bytes.map_err(CliError::io("read", &file))?;
                let text = String::from_utf8(bytes).map_err(|_| CliError::Other {
                    message: format!("{} is not UTF-8", file.display()),
                    help: Some("save it in UTF-8".to_owned()),
                    code: exit::RECIPE,
                })?;
                let name = shown(&file, &session.host.cwd).display().to_string();
                let formatted = recipe::format(&name, &text).map_err(|errors| CliError::Recipe(Box::new(errors)))?;
                if formatted == text {
                    continue;
                }
                unformatted = true;
                ui::output(&format!("{name}\n"));
                if !self.check {
                    replace(&file, &formatted).map_err(CliError::io("write", &file))?;
                }
            }
        }
        Ok(if self.check && unformatted { exit::INTERNAL } else { exit::OK })
    }
}

fn hcl_files(path: &Path) -> Result<Vec<PathBuf>, CliError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(CliError::io("read", path))?;
    let mut files: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "hcl") && file.is_file());
    files.sort();
    Ok(files)
}

/// Replaces a file's text at once, with its permissions kept.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let known = std::fs::metadata(path)?;
    let mut temp = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    temp.write_all(text.as_bytes())?;
    // Root formats a file of somebody else's, who keeps it.
    if temp.as_file().metadata()?.uid() != known.uid() {
        std::os::unix::fs::fchown(temp.as_file(), Some(known.uid()), Some(known.gid()))?;
    }
    temp.as_file().set_permissions(known.permissions())?;
    temp.persist(path).map(drop).map_err(|error| error.error)
}
