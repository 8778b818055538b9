//! What differs between two disks, and which stage a disk's bytes come from, in the words of those who build images.
//!
//! Knows trees, and reads out of the disks only what is shown; does not know recipes, stores or command lines. All that a
//! guest wrote is neutralised where it enters a [`DiffReport`], so whatever shows one may print it.
//!
//! * [`DiffReport`] is everything that differs; [`render`] and [`stat`] are two ways to show it, its JSON a third.
//! * [`layout`] describes partition table, boot areas and file systems; [`files`] files; [`installed`] Debian's packages;
//!   [`text`] the lines of text files.
//! * [`mounts`] tells where a guest mounts its file systems.
//! * [`blame`] gives every file's bytes to the stage that brought them.
//! * [`plain`] makes a guest's bytes fit for a terminal; `features` and `xattr` know the names of bits.

pub mod blame;
mod features;
pub mod files;
pub mod installed;
pub mod layout;
pub mod mounts;
pub mod plain;
pub mod render;
pub mod stat;
pub mod text;
mod xattr;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::disk::guest::ext4::ReadError;
use crate::disk::tree::Tree;
use crate::disk::tree::compare::compare;

use crate::disk::contents::Contents;
use files::FileChange;
use installed::{InstalledPackages, PackageChange};
use layout::{AreaChange, VolumeChange};
use mounts::Mounts;
use text::{TextBudget, TextDiff};

/// One of the two disks.
pub struct Side<'a> {
    /// How the user named it.
    pub name: &'a str,
    pub tree: &'a Tree,
    /// Where to read what the tree does not tell.
    pub contents: &'a dyn Contents,
}

/// All that differs between two disks. As JSON it is what `impasto diff --json` prints: names do not change, new ones may
/// come. In all texts what is not plain is written `\xNN`, byte by byte; in paths and names the backslash is too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiffReport {
    /// Version of this form: 1.
    pub v: u32,
    /// The first disk, as it was named.
    pub before: String,
    /// The second disk, as it was named.
    pub after: String,
    /// Whether nothing differs; all that follows is empty then.
    pub equal: bool,
    /// Sizes of the disks in bytes, where they differ.
    pub disk_size: Option<Sizes>,
    /// The partition table and its partitions.
    pub partition_table: Vec<DiffField>,
    /// What lies outside file systems, and file systems that are compared by their bytes.
    pub areas: Vec<AreaChange>,
    /// File systems in themselves, without their files.
    pub file_systems: Vec<VolumeChange>,
    /// Debian's packages, by name.
    pub packages: Vec<PackageChange>,
    /// Where the guest mounts the file systems of these partitions; empty where there is one file system, or no fstab.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub mounts: BTreeMap<u32, String>,
    /// Files, by partition and path.
    pub files: Vec<FileChange>,
    /// Changed text files that were not compared line by line, as there are too many.
    pub texts_left_out: usize,
}

/// Two sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// The first disk's.
    pub before: u64,
    /// The second disk's.
    pub after: u64,
}

/// One thing that two disks say differently of themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiffField {
    pub what: String,
    /// What the first disk says; `null` where it says nothing.
    pub before: Option<String>,
    /// What the second disk says.
    pub after: Option<String>,
}

impl DiffField {
    fn changed(
        what: impl Into<String>,
        before: impl ToString,
        after: impl ToString,
    ) -> Option<DiffField> {
        let (before, after) = (before.to_string(), after.to_string());
        (before != after).then(|| DiffField {
            what: what.into(),
            before: Some(before),
            after: Some(after),
        })
    }
}

/// Whether a thing is new, gone or different.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DiffChange {
    /// Only the second disk has it.
    Added,
    /// Only the first disk has it.
    Removed,
    Changed,
}

impl DiffChange {
    fn of<T>(before: Option<T>, after: Option<T>) -> DiffChange {
        match (before.is_some(), after.is_some()) {
            (false, _) => DiffChange::Added,
            (true, false) => DiffChange::Removed,
            (true, true) => DiffChange::Changed,
        }
    }

    /// How a line of it begins.
    pub fn sign(self) -> char {
        match self {
            DiffChange::Added => '+',
            DiffChange::Removed => '-',
            DiffChange::Changed => '~',
        }
    }
}

/// Compares two disks; text files line by line where `texts` asks for it.
///
/// # Errors
/// A disk cannot be read, or is not what its tree says.
pub fn report(before: &Side<'_>, after: &Side<'_>, texts: bool) -> Result<DiffReport, ReadError> {
    let changes = compare(before.tree, after.tree);
    let mut report = DiffReport {
        v: 1,
        before: plain::name(before.name.as_bytes()),
        after: plain::name(after.name.as_bytes()),
        equal: changes.is_empty(),
        disk_size: changes.size.map(|(before, after)| Sizes { before, after }),
        partition_table: layout::table(before.tree, after.tree),
        areas: layout::areas(before, after, &changes)?,
        file_systems: layout::volumes(&changes),
        packages: changed_packages(before, after)?,
        mounts: BTreeMap::new(),
        files: changes
            .files
            .iter()
            .map(|change| files::describe(before.tree, after.tree, change))
            .collect(),
        texts_left_out: 0,
    };
    if texts {
        compare_texts(before, after, &changes.files, &mut report)?;
    }
    mount(before, after, &mut report)?;
    Ok(report)
}

/// Gives files the paths by which the guest knows them.
fn mount(before: &Side<'_>, after: &Side<'_>, report: &mut DiffReport) -> Result<(), ReadError> {
    if report.files.is_empty() {
        return Ok(());
    }
    let read = |side: &Side<'_>| Mounts::read(side.tree, side.contents);
    let (a, b) = rayon::join(|| read(before), || read(after));
    let (a, b) = (a?, b?);
    for file in &mut report.files {
        let sides = if file.change == DiffChange::Removed {
            [&a, &b]
        } else {
            [&b, &a]
        };
        if let Some(path) = sides
            .iter()
            .find_map(|mounts| mounts.path(file.partition, &file.path))
        {
            file.path = path;
        }
    }
    report.mounts = a.0.into_iter().chain(b.0).collect();
    Ok(())
}

fn changed_packages(before: &Side<'_>, after: &Side<'_>) -> Result<Vec<PackageChange>, ReadError> {
    let places = [before, after].map(|side| installed::place(side.tree));
    let status = |side: &Side<'_>, place: Option<(u32, &str)>| {
        let (partition, dir) = place?;
        let path = format!("{dir}/status").into_bytes();
        let entry = side.tree.volume(partition)?.find(&path)?;
        Some((partition, path, entry.kind.clone()))
    };
    let [a, b] = [status(before, places[0]), status(after, places[1])];
    if a.as_ref().map(|(_, _, kind)| kind) == b.as_ref().map(|(_, _, kind)| kind) {
        return Ok(Vec::new());
    }
    let read = |side: &Side<'_>,
                status: Option<(u32, Vec<u8>, _)>|
     -> Result<InstalledPackages, ReadError> {
        let Some((partition, path, _)) = status else {
            return Ok(InstalledPackages::new());
        };
        let mut found = side
            .contents
            .files(&[(partition, &path)], installed::STATUS_LIMIT)?;
        Ok(found
            .pop()
            .flatten()
            .map(|bytes| installed::parse(&bytes))
            .unwrap_or_default())
    };
    let (a, b) = rayon::join(|| read(before, a), || read(after, b));
    Ok(installed::compare(&a?, &b?))
}

/// Compares the changed text files line by line, but for those of which [`installed`] tells the same.
fn compare_texts(
    before: &Side<'_>,
    after: &Side<'_>,
    changes: &[crate::disk::tree::compare::TreeChange<'_>],
    report: &mut DiffReport,
) -> Result<(), ReadError> {
    let told = |path: &[u8]| path.starts_with(b"/var/lib/dpkg/") || path.starts_with(b"/lib/dpkg/");
    let wanted: Vec<_> = (0..changes.len())
        .filter(|at| report.files[*at].may_be_text() && !told(changes[*at].path()))
        .collect();
    let budget = TextBudget::new();
    let (mut seen, mut compared) = (0, 0);
    // Whether a file is a text shows when it is read: others do not count, but are not read without end either.
    for batch in wanted
        .chunks(text::MOST_FILES)
        .take(text::MOST_READ / text::MOST_FILES)
    {
        let paths: Vec<_> = batch
            .iter()
            .map(|at| (changes[*at].partition, changes[*at].path()))
            .collect();
        let (a, b) = rayon::join(
            || before.contents.files(&paths, text::LIMIT),
            || after.contents.files(&paths, text::LIMIT),
        );
        for (at, (a, b)) in batch.iter().zip(a?.iter().zip(&b?)) {
            if compared == text::MOST_FILES {
                break;
            }
            seen += 1;
            let diff: Option<TextDiff> = a
                .as_ref()
                .zip(b.as_ref())
                .and_then(|(a, b)| budget.diff(a, b));
            compared += usize::from(diff.is_some());
            report.files[*at].text = diff;
        }
        if compared == text::MOST_FILES {
            break;
        }
    }
    report.texts_left_out = wanted.len() - seen;
    Ok(())
}

#[cfg(test)]
mod tests;
