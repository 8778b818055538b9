//! The lock's text: TOML, sorted, a package a line, so that a difference of two locks reads well.
//! Knows the format, not what is in it.

use std::fmt;

use impasto_stages::packages::{LockedPackage, PackageName, PackageSet};
use serde::Deserialize;

/// The version of the format.
const VERSION: u32 = 1;

/// The name of the entry for the tools that impasto itself uses.
pub const TOOLBOX: &str = "toolbox";

/// A recipe's lock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockFile {
    version: Option<u32>,
    /// The tools that impasto uses, by the machine that it runs on.
    #[serde(default)]
    pub toolbox: Vec<Entry>,
    /// The stages' packages.
    #[serde(default, rename = "stage")]
    pub stages: Vec<Entry>,
}

/// The packages of one stage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The stage.
    pub name: String,
    /// The combinations of the matrix that it is for, each `axis=value,…`; none where there is no matrix.
    #[serde(default)]
    pub combinations: Vec<String>,
    /// The distribution's name of the machine.
    pub architecture: String,
    /// What was asked for: [`lines`](impasto_stages::packages::PackageRequest::lines).
    #[serde(default)]
    pub request: Vec<String>,
    /// What it was settled against: a digest of what the stages below put into the disk.
    #[serde(default)]
    pub against: String,
    /// The archives that were asked, in order of their names.
    #[serde(default)]
    pub archives: Vec<Archive>,
    /// What is put in, in order of name and architecture.
    #[serde(default)]
    pub packages: Vec<Package>,
    /// What is taken out, in order of name and architecture.
    #[serde(default)]
    pub removed: Vec<Removed>,
}

/// An archive as it was when it was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// How packages name it.
    pub name: String,
    /// Its own date, in UTC (RFC 3339).
    pub date: String,
    /// SHA-256 of its signed list of indexes.
    pub release: String,
    /// Whether it was believed without a signature.
    #[serde(default)]
    pub trusted: bool,
}

/// A package file, and where it was had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// The package's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The machine that it is for, or `all`.
    pub architecture: String,
    /// Length of the file in bytes.
    pub size: u64,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// The archive's name; none for a file of the user's.
    #[serde(default)]
    pub archive: Option<String>,
    /// The file's path below the archive's address, or below the recipe's directory.
    pub path: String,
}

/// A package that is taken out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removed {
    /// The package's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The machine that it is for, or `all`.
    pub architecture: String,
}

impl LockFile {
    /// Reads a lock's text.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str) -> Result<LockFile, String> {
        let lock: LockFile = toml::from_str(text).map_err(|error| error.to_string().trim().replace('\n', "\n  "))?;
        match lock.version {
            Some(VERSION) => {}
            Some(other) => return Err(format!("its version is {other}, and this impasto knows version {VERSION}")),
            None => return Err("it does not say its version".to_owned()),
        }
        for entry in lock.toolbox.iter().chain(&lock.stages) {
            entry.check()?;
        }
        Ok(lock)
    }
}

/// Name, version and architecture are arguments of programs.
fn check_words(name: &str, version: &str, architecture: &str) -> Result<(), String> {
    for (what, text) in [("name", name), ("version", version), ("architecture", architecture)] {
        let plain = |c: char| c.is_ascii_alphanumeric() || "+-.~:_".contains(c);
        if text.is_empty() || text.starts_with(['-', '.']) || !text.chars().all(plain) {
            return Err(format!("package {name:?}: {text:?} is no {what}"));
        }
    }
    Ok(())
}

impl Entry {
    /// Whoever offers a change of a recipe offers one of its lock: nothing in it is believed.
    fn check(&self) -> Result<(), String> {
        let texts = [&self.name, &self.architecture, &self.against].into_iter().chain(&self.combinations);
        if let Some(text) = texts.chain(&self.request).find(|text| text.contains(char::is_control)) {
            return Err(format!("{text:?} holds a control character"));
        }
        for package in &self.packages {
            let hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            if package.sha256.len() != 64 || !package.sha256.bytes().all(hexadecimal) {
                return Err(format!("package {}: {:?} is no SHA-256", package.name, package.sha256));
            }
            check_words(&package.name, &package.version, &package.architecture)?;
            if package.path.starts_with('/') || package.path.split('/').any(|part| part == "..") {
                return Err(format!("package {}: the path {:?} leads out of its archive", package.name, package.path));
            }
        }
        self.removed.iter().try_for_each(|package| check_words(&package.name, &package.version, &package.architecture))
    }

    /// What an Action is given.
    pub fn set(&self) -> PackageSet {
        let install = self.packages.iter().map(|package| LockedPackage {
            name: package.name.clone(),
            architecture: package.architecture.clone(),
            version: package.version.clone(),
            sha256: package.sha256.clone(),
            size: package.size,
        });
        let remove = self.removed.iter().map(|package| PackageName {
            name: package.name.clone(),
            architecture: package.architecture.clone(),
            version: package.version.clone(),
        });
        PackageSet { install: install.collect(), remove: remove.collect() }
    }

    /// Bytes of its package files.
    pub fn bytes(&self) -> u64 {
        self.packages.iter().map(|package| package.size).sum()
    }
}

/// Text as TOML has it between quotes.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn write_list(f: &mut fmt::Formatter<'_>, name: &str, items: &[String]) -> fmt::Result {
    match items {
        [] => Ok(()),
        [only] => writeln!(f, "{name} = [{}]", quoted(only)),
        _ => {
            writeln!(f, "{name} = [")?;
            items.iter().try_for_each(|item| writeln!(f, "  {},", quoted(item)))?;
            writeln!(f, "]")
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Entry { name, combinations, architecture, request, against, archives, packages, removed } = self;
        writeln!(f, "name = {}", quoted(name))?;
        write_list(f, "combinations", combinations)?;
        writeln!(f, "architecture = {}", quoted(architecture))?;
        write_list(f, "request", request)?;
        if !against.is_empty() {
            writeln!(f, "against = {}", quoted(against))?;
        }
        if !archives.is_empty() {
            writeln!(f, "archives = [")?;
            for Archive { name, date, release, trusted } in archives {
                let trusted = if *trusted { ", trusted = true" } else { "" };
                let (name, date, release) = (quoted(name), quoted(date), quoted(release));
                writeln!(f, "  {{ name = {name}, date = {date}, release = {release}{trusted} }},")?;
            }
            writeln!(f, "]")?;
        }
        if !packages.is_empty() {
            writeln!(f, "packages = [")?;
            for Package { name, version, architecture, size, sha256, archive, path } in packages {
                let archive =
                    archive.as_ref().map_or(String::new(), |archive| format!("archive = {}, ", quoted(archive)));
                let (name, version) = (quoted(name), quoted(version));
                let (architecture, sha256, path) = (quoted(architecture), quoted(sha256), quoted(path));
                writeln!(
                    f,
                    "  {{ name = {name}, version = {version}, architecture = {architecture}, size = {size}, \
                     sha256 = {sha256}, {archive}path = {path} }},"
                )?;
            }
            writeln!(f, "]")?;
        }
        if !removed.is_empty() {
            writeln!(f, "removed = [")?;
            for Removed { name, version, architecture } in removed {
                let (name, version, architecture) = (quoted(name), quoted(version), quoted(architecture));
                writeln!(f, "  {{ name = {name}, version = {version}, architecture = {architecture} }},")?;
            }
            writeln!(f, "]")?;
        }
        Ok(())
    }
}

impl fmt::Display for LockFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Which package files the stages of this recipe get. impasto wrote it; keep it with the recipe.")?;
        writeln!(f, "# `impasto outdated` tells what is newer, `impasto update` takes it.")?;
        writeln!(f, "version = {VERSION}")?;
        for (table, entries) in [("toolbox", &self.toolbox), ("stage", &self.stages)] {
            entries.iter().try_for_each(|entry| write!(f, "\n[[{table}]]\n{entry}"))?;
        }
        Ok(())
    }
}
