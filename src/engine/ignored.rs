//! Which files of a directory do not count: patterns of gitignore(5), of the recipe and of files `.impastoignore`.
//! Knows patterns; reads nothing but such files.
//!
//! One beside the recipe holds for everything below the recipe's directory, one in an input or below it for what is below
//! itself; the nearest that has an opinion decides, and the recipe's own `ignore` before all. The files with the patterns
//! are no part of what they are for: who edits a comment in one runs nothing.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::inputs::InputError;
use crate::base::io::IoError;
use crate::recipe::scope::Scope;

/// What files with patterns are called.
const NAME: &str = ".impastoignore";

/// Bytes of such a file, at most.
const MAX: u64 = 1 << 20;

/// The patterns that hold in a directory that is walked.
pub(super) struct Ignored {
    /// The recipe's own, from the directory on.
    own: Gitignore,
    /// Those of files, the outermost first, each with the directory that it holds for.
    files: Vec<(PathBuf, Gitignore)>,
}

impl Ignored {
    /// The patterns for a directory of a recipe in `dir`, before the directory itself is looked at.
    ///
    /// # Errors
    /// A pattern cannot be read.
    pub(super) fn new(
        scope: &Scope,
        dir: &Path,
        input: &Path,
        patterns: &[String],
    ) -> Result<Ignored, InputError> {
        let own = compile(input, "`ignore`", patterns.iter().map(String::as_str))?;
        let mut ignored = Ignored {
            own,
            files: Vec::new(),
        };
        let below =
            input.starts_with(dir) && !input.components().any(|part| part.as_os_str() == "..");
        if below && input != dir {
            ignored.add(scope, dir)?;
        }
        Ok(ignored)
    }

    /// Goes on into a directory.
    ///
    /// # Errors
    /// Its file with patterns cannot be read.
    pub(super) fn enter(&mut self, scope: &Scope, dir: &Path) -> Result<(), InputError> {
        self.files.retain(|(of, _)| dir.starts_with(of));
        self.add(scope, dir)
    }

    fn add(&mut self, scope: &Scope, dir: &Path) -> Result<(), InputError> {
        let path = dir.join(NAME);
        let file = match scope.open_file(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(IoError::at("read", &path)(error)),
        };
        let mut text = String::new();
        file.take(MAX)
            .read_to_string(&mut text)
            .map_err(IoError::at::<InputError>("read", &path))?;
        let patterns = compile(dir, &path.display().to_string(), text.lines())?;
        self.files.push((dir.to_owned(), patterns));
        Ok(())
    }

    /// Whether something in the directory that was entered last does not count.
    pub(super) fn has(&self, path: &Path, is_dir: bool) -> bool {
        if path.file_name().is_some_and(|name| name == NAME) && !is_dir {
            return true;
        }
        let of_files = self.files.iter().rev();
        let of_files = of_files.filter(|(dir, _)| path.starts_with(dir));
        let all = std::iter::once(&self.own).chain(of_files.map(|(_, patterns)| patterns));
        for patterns in all {
            match patterns.matched(path, is_dir) {
                Match::None => {}
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
            }
        }
        false
    }
}

fn compile<'p>(
    dir: &Path,
    place: &str,
    patterns: impl Iterator<Item = &'p str>,
) -> Result<Gitignore, InputError> {
    let wrong = |error: ignore::Error| InputError::Pattern {
        place: place.to_owned(),
        reason: error.to_string(),
    };
    let mut builder = GitignoreBuilder::new(dir);
    for pattern in patterns {
        builder.add_line(None, pattern).map_err(wrong)?;
    }
    builder.build().map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of a directory's files.
    fn left(dir: &Path, input: &str, patterns: &[&str]) -> Vec<String> {
        let scope = Scope::new(dir, None, &[]).unwrap();
        let patterns: Vec<_> = patterns.iter().map(|text| (*text).to_owned()).collect();
        let input = dir.join(input);
        let mut ignored = Ignored::new(&scope, dir, &input, &patterns).unwrap();
        let mut walk = walkdir::WalkDir::new(&input)
            .sort_by_file_name()
            .into_iter();
        let mut names = Vec::new();
        while let Some(entry) = walk.next() {
            let entry = entry.unwrap();
            let is_dir = entry.file_type().is_dir();
            if entry.depth() > 0 && ignored.has(entry.path(), is_dir) {
                if is_dir {
                    walk.skip_current_dir();
                }
                continue;
            }
            match is_dir {
                true => ignored.enter(&scope, entry.path()).unwrap(),
                false => names.push(
                    entry
                        .path()
                        .strip_prefix(&input)
                        .unwrap()
                        .display()
                        .to_string(),
                ),
            }
        }
        names
    }

    #[test]
    fn the_nearest_pattern_decides() {
        let dir = tempfile::tempdir().unwrap();
        let dir = std::fs::canonicalize(dir.path()).unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        for name in [
            "src/a.c",
            "src/a.o",
            "src/keep.o",
            "src/target/x",
            "src/sub/a.log",
            "src/sub/target",
            "src/sub/b.c",
        ] {
            write(name, "");
        }
        let all = left(&dir, "src", &[]);
        assert_eq!(all.len(), 7);
        assert_eq!(
            left(&dir, "src", &["*.o", "!keep.o", "target/"]),
            ["a.c", "keep.o", "sub/a.log", "sub/b.c", "sub/target"]
        );
        assert_eq!(left(&dir, "src", &["/a.*", "sub"]), ["keep.o", "target/x"]);
        write(".impastoignore", "# all\n*.log\n/src/target/\n");
        write("src/.impastoignore", "*.o\n");
        write("src/sub/.impastoignore", "!a.log\n");
        assert_eq!(
            left(&dir, "src", &[]),
            ["a.c", "sub/a.log", "sub/b.c", "sub/target"]
        );
        assert_eq!(
            left(&dir, "src", &["*.log", "!a.o"]),
            ["a.c", "a.o", "sub/b.c", "sub/target"]
        );
    }
}
