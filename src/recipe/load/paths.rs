//! Where a recipe lies, and which files it is made of.
//! Knows names of files; reads none of them.

use std::path::{Path, PathBuf};

use crate::recipe::diagnostic::{Diagnostic, Lack};
use crate::recipe::packer;

/// Where a recipe lies.
pub(in crate::recipe) struct RecipePaths {
    pub(super) path: PathBuf,
    pub(super) dir: PathBuf,
    /// `dir` as the user would type it.
    pub(super) shown: PathBuf,
    /// Its files: as the user would type them, and absolute.
    pub(in crate::recipe) files: Vec<(PathBuf, PathBuf)>,
    /// Names of files beside them that hold values for Packer.
    pub(super) values: Vec<String>,
    pub(super) name: String,
}

impl RecipePaths {
    pub(in crate::recipe) fn new(path: &Path) -> Result<RecipePaths, Diagnostic> {
        let shown = path.display();
        let cannot = |error: std::io::Error| {
            let diagnostic = Diagnostic::error(format!("cannot read the recipe {shown}: {error}"));
            match error.kind() {
                std::io::ErrorKind::NotFound => diagnostic.lacks(Lack::Path),
                _ => diagnostic,
            }
        };
        let full = std::fs::canonicalize(path).map_err(cannot)?;
        let meta = std::fs::metadata(&full).map_err(cannot)?;
        if !meta.is_dir() {
            let dir = full
                .parent()
                .map_or_else(|| PathBuf::from("/"), Path::to_owned);
            let stem = full
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or("recipe");
            let name = match stem.split('.').next().unwrap_or_default() {
                "" | "recipe" | "main" => directory_name(&dir),
                stem => stem.to_owned(),
            };
            let shown = path.parent().unwrap_or(Path::new("")).to_owned();
            return Ok(RecipePaths {
                path: full.clone(),
                dir,
                shown,
                files: vec![(path.to_owned(), full)],
                values: Vec::new(),
                name,
            });
        }
        let (mut files, mut packer_files) = (Vec::new(), Vec::new());
        for name in list(&full).map_err(cannot)? {
            if packer::is_file(&name) {
                packer_files.push(name);
            } else if is_recipe_file(&name) {
                let shown = if path == Path::new(".") {
                    PathBuf::from(&name)
                } else {
                    path.join(&name)
                };
                files.push((shown, full.join(name)));
            }
        }
        if files.is_empty() {
            let mut diagnostic = Diagnostic::error(format!("there is no recipe in {shown}"))
                .note(
                    "a recipe is one or more files that end in `.hcl` (those that end in `.vars.hcl` hold values of \
                     variables)",
                )
                .lacks(Lack::Recipe);
            if let Some(template) = packer_files.iter().find(|name| name.ends_with(".pkr.hcl")) {
                diagnostic = diagnostic.note(format!(
                    "`{template}` is a Packer template, which impasto does not read"
                ));
            }
            return Err(diagnostic);
        }
        let name = directory_name(&full);
        let values = packer_files
            .into_iter()
            .filter(|name| packer::is_values(name))
            .collect();
        let shown = if path == Path::new(".") {
            PathBuf::new()
        } else {
            path.to_owned()
        };
        Ok(RecipePaths {
            path: full.clone(),
            dir: full,
            shown,
            files,
            values,
            name,
        })
    }
}

/// The names of a directory's files that are not hidden, in order.
fn list(dir: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        names.extend(
            entry?
                .file_name()
                .to_str()
                .filter(|name| !name.starts_with('.'))
                .map(str::to_owned),
        );
    }
    names.sort_unstable();
    Ok(names)
}

fn is_recipe_file(name: &str) -> bool {
    name.ends_with(".hcl") && !name.ends_with(".vars.hcl") && !packer::is_file(name)
}

/// The names of a directory's files that are read as a recipe; none where it cannot be read.
pub fn recipe_files(dir: &Path) -> Vec<String> {
    let mut names = list(dir).unwrap_or_default();
    names.retain(|name| is_recipe_file(name));
    names
}

fn directory_name(dir: &Path) -> String {
    dir.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("recipe")
        .to_owned()
}
