//! `impasto validate` and `impasto fmt`: a recipe as text.
//! Knows files; the recipe modules know the language.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::error::CliError;
use super::session::{Session, shown};
use super::{RecipeArgs, exit};
use crate::base::bounded;
use crate::recipe::{self, Diagnostic, Diagnostics, Severity};
use crate::ui::{self, OutputError};

#[derive(Debug, Args)]
pub(crate) struct Validate {
    #[command(flatten)]
    recipe: RecipeArgs,
}

impl Validate {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        if session.global.progress.is_json() {
            return self.json(session);
        }
        let loaded = session.load(&self.recipe)?;
        // A selector that names nothing is an error here too.
        loaded.selection()?;
        let (nodes, combinations) = (loaded.graph.len(), loaded.recipe.combinations.len());
        let plural = |count: usize, word: &str| {
            format!("{count} {word}{}", if count == 1 { "" } else { "s" })
        };
        let images = plural(loaded.graph.images().len(), "image");
        let combinations = plural(combinations, "combination");
        let nodes = plural(nodes, "node");
        ui::output(&format!(
            "{} is valid: {nodes}, {images}, {combinations}\n",
            loaded.recipe.name
        ))?;
        Ok(exit::OK)
    }
}

/// What is wrong with a recipe, or its sizes where nothing is: one line of `validate --progress json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum ValidateLine<'a> {
    Problem {
        severity: Severity,
        message: &'a str,
        file: Option<String>,
        line: Option<u32>,
        column: Option<u32>,
        label: &'a str,
        notes: &'a [String],
        help: &'a [String],
    },
    Valid {
        recipe: &'a str,
        nodes: usize,
        images: usize,
        combinations: usize,
    },
}

fn print(line: &ValidateLine<'_>) -> Result<(), OutputError> {
    #[derive(Serialize)]
    struct Versioned<'l, 'a> {
        v: u32,
        #[serde(flatten)]
        line: &'l ValidateLine<'a>,
    }
    ui::output(
        &(serde_json::to_string(&Versioned { v: 1, line }).expect("BUG: a line is not JSON")
            + "\n"),
    )
}

fn print_problems(problems: &Diagnostics, cwd: &Path) -> Result<(), OutputError> {
    for Diagnostic {
        severity,
        message,
        primary,
        notes,
        help,
        ..
    } in &problems.list
    {
        let place = primary.as_ref().map(|primary| {
            let name = problems
                .sources
                .get(primary.span.file)
                .map(|text| Path::new(&text.name));
            let name = name.map(|name| shown(name, cwd).display().to_string());
            (name, problems.sources.position(primary.span))
        });
        let label = primary.as_ref().map_or("", |primary| &primary.text);
        let (line, column) = place.as_ref().map(|(_, position)| *position).unzip();
        let file = place.and_then(|(file, _)| file);
        print(&ValidateLine::Problem {
            severity: *severity,
            message,
            file,
            line,
            column,
            label,
            notes,
            help,
        })?;
    }
    Ok(())
}

impl Validate {
    fn json(self, session: &Session) -> Result<u8, CliError> {
        let loaded = match session.load_quietly(&self.recipe) {
            Ok(loaded) => loaded,
            Err(CliError::Recipe(problems)) => {
                print_problems(&problems, &session.host.cwd)?;
                return Ok(exit::RECIPE);
            }
            Err(error) => return Err(error),
        };
        loaded.selection()?;
        print_problems(&loaded.recipe.warnings, &session.host.cwd)?;
        let (nodes, combinations) = (loaded.graph.len(), loaded.recipe.combinations.len());
        print(&ValidateLine::Valid {
            recipe: &loaded.recipe.name,
            nodes,
            images: loaded.graph.images().len(),
            combinations,
        })?;
        Ok(exit::OK)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Fmt {
    /// Files, or directories whose .hcl files to format; `-` formats standard input to standard output
    #[arg(default_value = ".")]
    paths: Vec<PathBuf>,
    /// Changes nothing; exits with 1 if a file is not formatted
    #[arg(long)]
    check: bool,
}

impl Fmt {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let mut unformatted = false;
        for path in &self.paths {
            if path.as_os_str() == "-" {
                unformatted |= self.standard_input()?;
                continue;
            }
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
                let name = shown(&file, &session.host.cwd).display().to_string();
                let text = utf8(bytes, &name)?;
                let formatted = recipe::format(&name, &text)
                    .map_err(|errors| CliError::Recipe(Box::new(errors)))?;
                if formatted == text {
                    continue;
                }
                unformatted = true;
                ui::output(&format!("{name}\n"))?;
                if !self.check {
                    replace(&file, &formatted).map_err(CliError::io("write", &file))?;
                }
            }
        }
        Ok(if self.check && unformatted {
            exit::INTERNAL
        } else {
            exit::OK
        })
    }

    /// Formats standard input, and tells whether it was not.
    fn standard_input(&self) -> Result<bool, CliError> {
        let name = "standard input";
        let mut bytes = Vec::new();
        std::io::stdin()
            .take(bounded::TEXT + 1)
            .read_to_end(&mut bytes)
            .map_err(CliError::io("read", name))?;
        if bytes.len() as u64 > bounded::TEXT {
            return Err(CliError::usage(
                "standard input is too large for a recipe",
                "name a file",
            ));
        }
        let text = utf8(bytes, name)?;
        let formatted =
            recipe::format(name, &text).map_err(|errors| CliError::Recipe(Box::new(errors)))?;
        if !self.check {
            ui::output(&formatted)?;
        }
        Ok(formatted != text)
    }
}

fn utf8(bytes: Vec<u8>, name: &str) -> Result<String, CliError> {
    String::from_utf8(bytes).map_err(|_| CliError::Other {
        message: format!("{name} is not UTF-8"),
        help: Some("save it as UTF-8".to_owned()),
        code: exit::RECIPE,
    })
}

fn hcl_files(path: &Path) -> Result<Vec<PathBuf>, CliError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(CliError::io("read", path))?;
    let mut files: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|file| {
        file.extension().is_some_and(|extension| extension == "hcl") && file.is_file()
    });
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
