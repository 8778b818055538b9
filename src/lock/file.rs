//! The lock's text: TOML, sorted, a package a line, so that a difference of two locks reads well.
//! Knows the format, not what is in it.
//!
//! It is read entry by entry: each begins at a line with its title, `[[toolbox]]`, `[[stage]]` or `[[source]]`. An entry that cannot be used
//! takes no other with it, and stays in the text as it is until its stage is locked again.

use std::collections::HashSet;
use std::fmt;

use impasto_stages::package_set::{LockedPackage, PackageName, PackageSet};
use impasto_store::sha256::Sha256;
use serde::Deserialize;

use super::source::LockSource;

/// The version of the format that is written. The first one, which has no sources, is read too.
const VERSION: u32 = 2;

/// The name of the entry for the tools that impasto itself uses.
pub const TOOLBOX: &str = "toolbox";

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LockFile {
    /// The tools that impasto uses, by the machine that it runs on.
    pub toolbox: Vec<LockEntry>,
    pub stages: Vec<LockEntry>,
    /// What stages get from elsewhere.
    pub sources: Vec<LockSource>,
    /// Entries that cannot be used, in the order of the text.
    pub refused: Vec<RefusedEntry>,
}

/// An entry that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedEntry {
    /// What it names.
    pub table: LockTable,
    /// The stage; [`TOOLBOX`] for the tools.
    pub name: String,
    /// What is wrong: with which field of which package, or at which line.
    pub reason: String,
    /// Its text, title included.
    text: String,
}

/// What an entry is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LockTable {
    /// The tools of impasto itself.
    Toolbox,
    /// A stage's packages.
    Stage,
    /// What a stage gets from elsewhere.
    Source,
}

/// What stands before the entries.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LockHead {
    version: Option<u32>,
}

/// The packages of one stage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockEntry {
    pub name: String,
    /// The combinations of the matrix that it is for, each `axis=value,…`; none where there is no matrix.
    #[serde(default)]
    pub combinations: Vec<String>,
    /// The distribution's name of the machine.
    pub architecture: String,
    /// What was asked for: [`lines`](impasto_stages::package_set::PackageRequest::lines).
    #[serde(default)]
    pub request: Vec<String>,
    /// What it was resolved against: a digest of what the stages below put into the disk.
    #[serde(default)]
    pub against: String,
    /// The archives that were asked, in order of their names.
    #[serde(default)]
    pub archives: Vec<LockArchive>,
    /// What is put in, in order of name and architecture.
    #[serde(default)]
    pub packages: Vec<LockPackage>,
    /// What is taken out, in order of name and architecture.
    #[serde(default)]
    pub removed: Vec<PackageName>,
}

/// An archive as it was when it was asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockArchive {
    /// How packages name it.
    pub name: String,
    /// Its own date, in UTC (RFC 3339).
    pub date: String,
    /// SHA-256 of its signed list of indexes.
    pub release: Sha256,
    /// Whether it was believed without a signature.
    #[serde(default)]
    pub trusted: bool,
}

/// A package file, and where it was had.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PackageRow")]
pub struct LockPackage {
    pub file: LockedPackage,
    /// What the package says it takes when it is installed, in KiB; none where it does not say, or the lock is older.
    pub installed: Option<u64>,
    /// The archive's name; none for a file of the user's.
    pub archive: Option<String>,
    /// The file's path below the archive's address, or below the recipe's directory.
    pub path: String,
}

/// A package as a line of the text has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PackageRow {
    name: String,
    version: String,
    architecture: String,
    size: u64,
    #[serde(default)]
    installed: Option<u64>,
    sha256: String,
    #[serde(default)]
    archive: Option<String>,
    path: String,
}

impl TryFrom<PackageRow> for LockPackage {
    type Error = String;

    fn try_from(row: PackageRow) -> Result<Self, String> {
        let PackageRow { name, sha256, .. } = &row;
        let wrong = |_| {
            format!(
                "`sha256` of package {name:?} is {sha256:?}, which is not a SHA-256: 64 digits of 0-9 and a-f"
            )
        };
        let sha256 = sha256.parse().map_err(wrong)?;
        Ok(LockPackage {
            file: LockedPackage {
                name: row.name,
                architecture: row.architecture,
                version: row.version,
                sha256,
                size: row.size,
            },
            installed: row.installed,
            archive: row.archive,
            path: row.path,
        })
    }
}

impl LockFile {
    /// Reads a lock's text. Entries that cannot be used are [`LockFile::refused`].
    ///
    /// # Errors
    /// What is wrong, and at which line, where that concerns the whole lock or nobody knows whose entry it is in.
    pub fn parse(text: &str) -> Result<LockFile, String> {
        let (head, blocks) = split(text)?;
        let head: LockHead = toml::from_str(head).map_err(|error| explain(&error, head, 1))?;
        match head.version {
            Some(1..=VERSION) => {}
            Some(other) => {
                return Err(format!(
                    "its version is {other}, but this impasto supports versions up to {VERSION}"
                ));
            }
            None => return Err("it has no version".to_owned()),
        }
        let mut lock = LockFile::default();
        let mut known = HashSet::new();
        for block in blocks {
            let Block { table, line, text } = block;
            let read = match table {
                LockTable::Source => read_source(block.body(), line + 1)
                    .and_then(|source| {
                        let (name, whose) = (&source.name, &source.combinations);
                        single(table, name, whose, &mut known)?;
                        Ok(source)
                    })
                    .map(|source| lock.sources.push(source)),
                LockTable::Toolbox | LockTable::Stage => read_entry(block.body(), line + 1)
                    .and_then(|entry| {
                        let whose = match table {
                            LockTable::Toolbox => std::slice::from_ref(&entry.architecture),
                            _ => &entry.combinations,
                        };
                        single(table, &entry.name, whose, &mut known)?;
                        Ok(entry)
                    })
                    .map(|entry| match table {
                        LockTable::Toolbox => lock.toolbox.push(entry),
                        _ => lock.stages.push(entry),
                    }),
            };
            if let Err(reason) = read {
                let Some(name) = block.name() else {
                    return Err(reason);
                };
                lock.refused.push(RefusedEntry {
                    table,
                    name,
                    reason,
                    text: text.trim_end().to_owned(),
                });
            }
        }
        Ok(lock)
    }

    /// Brings the entries into the order of their text.
    pub fn sort(&mut self) {
        self.toolbox
            .sort_by(|a, b| a.architecture.cmp(&b.architecture));
        self.stages
            .sort_by(|a, b| (&a.name, &a.combinations).cmp(&(&b.name, &b.combinations)));
        self.sources
            .sort_by(|a, b| (&a.name, &a.combinations).cmp(&(&b.name, &b.combinations)));
    }
}

/// Whether an entry is the only one for each of the combinations that it is for: else nothing would say which counts.
fn single(
    table: LockTable,
    name: &str,
    whose: &[String],
    known: &mut HashSet<(LockTable, String, String)>,
) -> Result<(), String> {
    let all = match whose {
        [] => &[String::new()],
        whose => whose,
    };
    let twice = all
        .iter()
        .find(|whose| !known.insert((table, name.to_owned(), (*whose).clone())));
    match twice {
        None => Ok(()),
        Some(whose) if whose.is_empty() => Err("it has two entries".to_owned()),
        Some(whose) => Err(format!("it has two entries for {whose}")),
    }
}

/// The text of an entry.
#[derive(Clone, Copy)]
struct Block<'a> {
    table: LockTable,
    /// The title's line, from 1.
    line: usize,
    text: &'a str,
}

impl<'a> Block<'a> {
    /// What follows the title.
    fn body(&self) -> &'a str {
        self.text.split_once('\n').map_or("", |(_, body)| body)
    }

    /// Whose entry it is, which is found where the rest of it cannot be read.
    fn name(&self) -> Option<String> {
        if self.table == LockTable::Toolbox {
            return Some(TOOLBOX.to_owned());
        }
        let value = |line: &'a str| {
            line.trim()
                .strip_prefix("name")?
                .trim_start()
                .strip_prefix('=')
        };
        let (name, _) = self
            .body()
            .lines()
            .find_map(value)?
            .trim_start()
            .strip_prefix('"')?
            .split_once('"')?;
        (!name.is_empty() && !name.contains(char::is_control)).then(|| name.to_owned())
    }
}

/// What stands before the entries, and the entries.
fn split(text: &str) -> Result<(&str, Vec<Block<'_>>), String> {
    let mut titles = Vec::new();
    let mut at = 0;
    for (line, content) in text.split_inclusive('\n').enumerate() {
        if content.trim_start().starts_with("[[") {
            let title = content.split('#').next().unwrap_or(content).trim();
            let table = match title {
                "[[toolbox]]" => LockTable::Toolbox,
                "[[stage]]" => LockTable::Stage,
                "[[source]]" => LockTable::Source,
                _ => {
                    return Err(format!(
                        "line {}: {title:?} is not a table of a lock",
                        line + 1
                    ));
                }
            };
            titles.push((table, line + 1, at));
        }
        at += content.len();
    }
    let ends = titles
        .iter()
        .skip(1)
        .map(|(.., start)| *start)
        .chain([text.len()]);
    let blocks = titles
        .iter()
        .zip(ends)
        .map(|(&(table, line, start), end)| Block {
            table,
            line,
            text: &text[start..end],
        });
    Ok((
        &text[..titles.first().map_or(text.len(), |(.., start)| *start)],
        blocks.collect(),
    ))
}

/// Reads an entry and checks it. `line` is the line of the lock that the text begins at.
fn read_entry(text: &str, line: usize) -> Result<LockEntry, String> {
    let entry: LockEntry = toml::from_str(text).map_err(|error| explain(&error, text, line))?;
    entry.check()?;
    Ok(entry)
}

/// The same for what a stage gets from elsewhere.
fn read_source(text: &str, line: usize) -> Result<LockSource, String> {
    let source: LockSource = toml::from_str(text).map_err(|error| explain(&error, text, line))?;
    source.check()?;
    Ok(source)
}

/// What is wrong with a text that begins at a line of the lock, and at which line.
fn explain(error: &toml::de::Error, text: &str, line: usize) -> String {
    let at = error
        .span()
        .and_then(|span| text.get(..span.start))
        .map_or(0, |before| before.matches('\n').count());
    format!(
        "line {}: {}",
        line + at,
        error.message().trim().replace('\n', " ")
    )
}

impl LockSource {
    /// Checks that the next run can use it: it is checked, written, and read as a lock is read.
    ///
    /// # Errors
    /// What the next run would refuse.
    pub fn check_written(&self) -> Result<(), String> {
        self.check()?;
        match read_source(&self.to_string(), 1)? == *self {
            true => Ok(()),
            false => Err("it would not read back as written".to_owned()),
        }
    }
}

impl LockEntry {
    /// Checks that the next run can use it: it is checked, written, and read as a lock is read.
    ///
    /// # Errors
    /// What the next run would refuse.
    pub fn check_written(&self) -> Result<(), String> {
        self.check()?;
        match read_entry(&self.to_string(), 1)? == *self {
            true => Ok(()),
            false => Err("it would not read back as written".to_owned()),
        }
    }

    /// What an Action is given.
    pub fn set(&self) -> PackageSet {
        PackageSet {
            install: self.packages.iter().map(|p| p.file.clone()).collect(),
            remove: self.removed.clone(),
        }
    }

    /// Bytes of its package files.
    pub fn bytes(&self) -> u64 {
        self.packages.iter().map(|package| package.file.size).sum()
    }
}

/// Text as TOML has it between quotes.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

pub(super) fn write_list(f: &mut fmt::Formatter<'_>, name: &str, items: &[String]) -> fmt::Result {
    match items {
        [] => Ok(()),
        [only] => writeln!(f, "{name} = [{}]", quoted(only)),
        _ => {
            writeln!(f, "{name} = [")?;
            items
                .iter()
                .try_for_each(|item| writeln!(f, "  {},", quoted(item)))?;
            writeln!(f, "]")
        }
    }
}

impl fmt::Display for LockEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LockEntry {
            name,
            combinations,
            architecture,
            request,
            against,
            archives,
            packages,
            removed,
        } = self;
        writeln!(f, "name = {}", quoted(name))?;
        write_list(f, "combinations", combinations)?;
        writeln!(f, "architecture = {}", quoted(architecture))?;
        write_list(f, "request", request)?;
        if !against.is_empty() {
            writeln!(f, "against = {}", quoted(against))?;
        }
        if !archives.is_empty() {
            writeln!(f, "archives = [")?;
            for LockArchive {
                name,
                date,
                release,
                trusted,
            } in archives
            {
                let trusted = if *trusted { ", trusted = true" } else { "" };
                let (name, date) = (quoted(name), quoted(date));
                writeln!(
                    f,
                    "  {{ name = {name}, date = {date}, release = \"{release}\"{trusted} }},"
                )?;
            }
            writeln!(f, "]")?;
        }
        if !packages.is_empty() {
            writeln!(f, "packages = [")?;
            for LockPackage {
                file,
                installed,
                archive,
                path,
            } in packages
            {
                let LockedPackage {
                    name,
                    architecture,
                    version,
                    sha256,
                    size,
                } = file;
                let archive = archive.as_ref().map_or(String::new(), |archive| {
                    format!("archive = {}, ", quoted(archive))
                });
                let installed = installed.map_or(String::new(), |installed| {
                    format!("installed = {installed}, ")
                });
                let (name, version) = (quoted(name), quoted(version));
                let (architecture, path) = (quoted(architecture), quoted(path));
                writeln!(
                    f,
                    "  {{ name = {name}, version = {version}, architecture = {architecture}, size = {size}, \
                     {installed}sha256 = \"{sha256}\", {archive}path = {path} }},"
                )?;
            }
            writeln!(f, "]")?;
        }
        if !removed.is_empty() {
            writeln!(f, "removed = [")?;
            for PackageName {
                name,
                architecture,
                version,
            } in removed
            {
                let (name, version, architecture) =
                    (quoted(name), quoted(version), quoted(architecture));
                writeln!(
                    f,
                    "  {{ name = {name}, version = {version}, architecture = {architecture} }},"
                )?;
            }
            writeln!(f, "]")?;
        }
        Ok(())
    }
}

impl fmt::Display for LockFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Which files the stages of this recipe get from elsewhere. impasto wrote it; keep it with the recipe."
        )?;
        writeln!(
            f,
            "# `impasto outdated` tells what is newer, `impasto update` takes it."
        )?;
        writeln!(f, "version = {VERSION}")?;
        for (table, entries) in [("toolbox", &self.toolbox), ("stage", &self.stages)] {
            entries
                .iter()
                .try_for_each(|entry| write!(f, "\n[[{table}]]\n{entry}"))?;
        }
        self.sources
            .iter()
            .try_for_each(|source| write!(f, "\n[[source]]\n{source}"))?;
        self.refused
            .iter()
            .try_for_each(|entry| write!(f, "\n{}\n", entry.text))
    }
}
