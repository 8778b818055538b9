//! What an entry of a lock must be to be used: the same for one that was read and for one that is to be written.
//! Knows the form of names, versions and paths; does not know the recipe.

use std::collections::HashSet;

use impasto_stages::package_set::LockedPackage;

use super::file::{LockArchive, LockEntry, LockPackage};
use crate::deb::relation::is_name;
use crate::deb::version::Version;

/// Largest package file, in bytes. The members of one have at most ten decimal digits (deb(5)).
const MAX_SIZE: u64 = 32 << 30;

/// Most that a package may say that it takes, in KiB.
pub const MAX_INSTALLED: u64 = 1 << 32;

impl LockEntry {
    /// Checks every field. Whoever offers a change of a recipe offers one of its lock, and whoever signs an archive can
    /// write anything into its index: nothing in an entry is believed.
    ///
    /// # Errors
    /// The first field that cannot be used: of which package and archive, its value, and what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        plain("name", &self.name)?;
        self.combinations
            .iter()
            .try_for_each(|text| plain("combinations", text))?;
        self.request
            .iter()
            .try_for_each(|text| plain("request", text))?;
        plain("against", &self.against)?;
        check_architecture(&self.architecture)?;
        let mut archives = HashSet::with_capacity(self.archives.len());
        for archive in &self.archives {
            let of = |problem| format!("archive {:?}: {problem}", archive.name);
            check_archive(archive).map_err(of)?;
            if !archives.insert(archive.name.as_str()) {
                return Err(of("it is listed twice".to_owned()));
            }
        }
        let mut names = HashSet::with_capacity(self.packages.len());
        for package in &self.packages {
            let of = |problem| match &package.archive {
                Some(archive) => format!(
                    "package {:?} of the archive {archive:?}: {problem}",
                    package.file.name
                ),
                None => format!("package {:?}: {problem}", package.file.name),
            };
            check_package(package).map_err(of)?;
            if let Some(archive) = package
                .archive
                .as_ref()
                .filter(|name| !archives.contains(name.as_str()))
            {
                return Err(of(unusable(
                    "archive",
                    archive,
                    "which is not among the entry's archives",
                )));
            }
            if !names.insert((&package.file.name, &package.file.architecture)) {
                return Err(of("it is listed twice".to_owned()));
            }
        }
        let mut names = HashSet::with_capacity(self.removed.len());
        for package in &self.removed {
            let of = |problem| format!("removed package {:?}: {problem}", package.name);
            check_words(&package.name, &package.version, &package.architecture).map_err(of)?;
            if !names.insert((&package.name, &package.architecture)) {
                return Err(of("it is listed twice".to_owned()));
            }
        }
        Ok(())
    }
}

/// Whether a text can be shown.
pub(super) fn plain(field: &str, text: &str) -> Result<(), String> {
    match text.contains(char::is_control) {
        true => Err(unusable(field, text, "which contains a control character")),
        false => Ok(()),
    }
}

/// Says which value of a field cannot be used, and why.
pub(super) fn unusable(field: &str, value: &str, problem: &str) -> String {
    let mut short: String = value.chars().take(80).collect();
    if short.len() < value.len() {
        short.push('…');
    }
    format!("`{field}` is {short:?}, {problem}")
}

fn check_archive(archive: &LockArchive) -> Result<(), String> {
    let LockArchive {
        name,
        date,
        release: _,
        trusted: _,
    } = archive;
    if name.is_empty() || name.contains(char::is_control) {
        return Err(unusable(
            "name",
            name,
            "which is not a valid name of an archive",
        ));
    }
    if date.parse::<jiff::Timestamp>().is_err() {
        return Err(unusable("date", date, "which is not a valid time"));
    }
    Ok(())
}

fn check_package(package: &LockPackage) -> Result<(), String> {
    let LockPackage {
        file,
        installed,
        archive: _,
        path,
    } = package;
    let LockedPackage {
        name,
        architecture,
        version,
        sha256: _,
        size,
    } = file;
    check_words(name, version, architecture)?;
    if !(1..=MAX_SIZE).contains(size) {
        return Err(unusable(
            "size",
            &size.to_string(),
            "which is not the size of a package: 1 byte to 32 GiB",
        ));
    }
    if let Some(installed) = installed.filter(|installed| *installed > MAX_INSTALLED) {
        return Err(unusable(
            "installed",
            &installed.to_string(),
            "which is more than the limit of 4 TiB, in KiB",
        ));
    }
    if path.is_empty() || path.contains(char::is_control) {
        return Err(unusable("path", path, "which is not a valid path"));
    }
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(unusable("path", path, "which points outside its archive"));
    }
    Ok(())
}

/// Name, version and architecture are arguments of programs.
fn check_words(name: &str, version: &str, architecture: &str) -> Result<(), String> {
    if !is_name(name) {
        return Err(unusable(
            "name",
            name,
            "which is not a valid name of a package",
        ));
    }
    match Version::parse(version) {
        Ok(parsed) if parsed.as_str() == version => {}
        Ok(_) => return Err(unusable("version", version, "which has blanks around it")),
        Err(error) => {
            return Err(unusable(
                "version",
                version,
                &format!("which is not a valid version: {}", error.problem),
            ));
        }
    }
    check_architecture(architecture)
}

fn check_architecture(architecture: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if architecture.is_empty() || architecture.starts_with('-') || !architecture.bytes().all(plain)
    {
        return Err(unusable(
            "architecture",
            architecture,
            "which is not a valid architecture",
        ));
    }
    Ok(())
}
