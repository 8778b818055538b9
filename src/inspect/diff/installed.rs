//! Debian's packages: which a disk has, and which another has instead; the one place that knows where that is read.
//!
//! Knows dpkg's `status` file and what may be wrong with it; reads no disk. Lines that make no sense are left out, as a
//! file system's guest may have written anything.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::plain;
use crate::deb::status;
use crate::disk::contents::Contents;
use crate::disk::guest::ext4::ReadError;
use crate::disk::tree::{EntryKind, Tree};

/// Where dpkg keeps what it knows; where `/var` is a file system of its own, without the first part.
const PLACES: [&str; 2] = ["/var/lib/dpkg", "/lib/dpkg"];

/// Largest `status` file that is read, in bytes.
pub const STATUS_LIMIT: u64 = 64 << 20;

/// A partition, and the packages of its files by path.
pub type Listed = (u32, BTreeMap<Vec<u8>, String>);

/// Packages by name and architecture, with what there is to tell of each.
pub type InstalledPackages = BTreeMap<(String, String), Installed>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Its version; empty where none is told.
    pub version: String,
    /// How far its installation went; none where it is done.
    pub state: Option<String>,
}

/// A package in which two disks differ. Texts are neutralised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PackageChange {
    pub name: String,
    /// What the first disk has; `null` where it has none.
    pub before: Option<PackageState>,
    /// What the second disk has.
    pub after: Option<PackageState>,
    /// Whether the package is there for several architectures, so that its name alone does not tell which one it is.
    pub several_architectures: bool,
}

/// A package on one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PackageState {
    pub version: String,
    /// Architecture, or `all`.
    pub architecture: String,
    /// How far its installation went, such as `half-configured`; `null` where it is done.
    pub state: Option<String>,
}

/// Partition and directory in which dpkg keeps what it knows.
pub(crate) fn place(tree: &Tree) -> Option<(u32, &'static str)> {
    PLACES.into_iter().find_map(|place| {
        let status = format!("{place}/status");
        let has =
            |entry: &crate::disk::tree::IndexEntry| matches!(entry.kind, EntryKind::File { .. });
        let volume = tree
            .volumes
            .iter()
            .find(|volume| volume.find(status.as_bytes()).is_some_and(has))?;
        Some((volume.partition, place))
    })
}

/// Where images without dpkg keep a file for each package.
pub(crate) fn parts_place(tree: &Tree) -> Option<(u32, &'static str)> {
    PLACES.into_iter().find_map(|place| {
        let parts = format!("{place}/status.d/");
        let has = |entry: &crate::disk::tree::IndexEntry| entry.path.starts_with(parts.as_bytes());
        let volume = tree
            .volumes
            .iter()
            .find(|volume| volume.entries.iter().any(has))?;
        Some((volume.partition, place))
    })
}

/// A package as a disk's package database has it. Texts are neutralised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabasePackage {
    pub name: String,
    pub version: String,
    /// Its architecture, or `all`.
    pub architecture: String,
    /// How far its installation went; none where it is done.
    pub state: Option<String>,
    /// Bytes that it says its files take.
    pub size: Option<u64>,
    /// Whether it is there only because others need it.
    pub automatic: bool,
    /// Name and version of the source package that it was built from.
    pub source: (String, String),
}

/// What a disk's package database tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageDatabase {
    pub partition: u32,
    /// The packages, by name and architecture.
    pub packages: Vec<DatabasePackage>,
    /// When it was last written: seconds since 1970.
    pub written: i64,
}

/// The type of its packages in a package URL.
pub const PURL_TYPE: &str = "deb";

/// Reads the package database of a disk; none where it has none.
///
/// # Errors
/// The disk cannot be read.
pub fn database(
    tree: &Tree,
    contents: &dyn Contents,
) -> Result<Option<PackageDatabase>, ReadError> {
    let Some((partition, dir)) = place(tree).or_else(|| parts_place(tree)) else {
        return Ok(None);
    };
    let status = format!("{dir}/status").into_bytes();
    // Images without dpkg have a file for each package.
    let parts = format!("{dir}/status.d/").into_bytes();
    let is_status =
        |path: &[u8]| path == status || (path.starts_with(&parts) && !path.ends_with(b".md5sums"));
    let found: Vec<_> = tree
        .volume(partition)
        .iter()
        .flat_map(|volume| &volume.entries)
        .filter(|entry| is_status(&entry.path))
        .collect();
    let written = found.iter().map(|entry| entry.mtime.0).max().unwrap_or(0);
    let mut wanted: Vec<_> = found
        .iter()
        .map(|entry| (partition, entry.path.as_slice()))
        .collect();
    let states = format!(
        "{}/apt/extended_states",
        dir.strip_suffix("/dpkg").unwrap_or(dir)
    )
    .into_bytes();
    wanted.push((partition, &states));
    let mut texts = contents.files(&wanted, STATUS_LIMIT)?;
    let states = texts.pop().flatten().unwrap_or_default();
    let texts: Vec<Vec<u8>> = texts.into_iter().flatten().collect();
    let entries: Vec<_> = texts
        .iter()
        .flat_map(|text| status::entries(text))
        .collect();
    let automatic = status::automatic(&states);
    // Dpkg's own package is never for all architectures.
    let native = entries
        .iter()
        .find(|entry| entry.name == b"dpkg")
        .map_or(&b""[..], |entry| entry.architecture);
    let package = |entry: &status::StatusEntry<'_>| {
        let (source, source_version) = entry.source();
        let size = entry
            .stanza
            .get("Installed-Size")
            .and_then(|size| size.parse::<u64>().ok());
        DatabasePackage {
            name: plain::name(entry.name),
            version: plain::name(entry.version),
            architecture: plain::name(entry.architecture),
            state: (!entry.is_installed()).then(|| plain::name(entry.state)),
            size: size.and_then(|kib| kib.checked_mul(1024)),
            automatic: status::is_automatic(entry, &automatic, native),
            source: (plain::name(source), plain::name(source_version)),
        }
    };
    let mut packages: Vec<_> = entries.iter().map(package).collect();
    packages.sort_by(|a, b| {
        (&a.name, &a.architecture, &a.version).cmp(&(&b.name, &b.architecture, &b.version))
    });
    packages.dedup_by(|b, a| {
        (&a.name, &a.architecture, &a.version) == (&b.name, &b.architecture, &b.version)
    });
    Ok(Some(PackageDatabase {
        partition,
        packages,
        written,
    }))
}

/// Reads a `status` file: the packages that are installed, wholly or not.
pub fn parse(status: &[u8]) -> InstalledPackages {
    let installed = |entry: status::StatusEntry<'_>| {
        let state = (!entry.is_installed()).then(|| plain::name(entry.state));
        let key = (plain::name(entry.name), plain::name(entry.architecture));
        (
            key,
            Installed {
                version: plain::name(entry.version),
                state,
            },
        )
    };
    status::entries(status).map(installed).collect()
}

/// What is different, by name.
pub fn compare(before: &InstalledPackages, after: &InstalledPackages) -> Vec<PackageChange> {
    let names: BTreeSet<&str> = before
        .keys()
        .chain(after.keys())
        .map(|(name, _)| name.as_str())
        .collect();
    let of = |packages: &InstalledPackages, name: &str| -> Vec<PackageState> {
        let all = packages
            .range((name.to_owned(), String::new())..)
            .take_while(|((other, _), _)| other == name);
        all.map(|((_, architecture), package)| PackageState {
            version: package.version.clone(),
            architecture: architecture.clone(),
            state: package.state.clone(),
        })
        .collect()
    };
    let mut changes = Vec::new();
    for name in names {
        let (mut before, mut after) = (of(before, name), of(after, name));
        let mut push = |before, after, several_architectures| {
            if before != after {
                changes.push(PackageChange {
                    name: name.to_owned(),
                    before,
                    after,
                    several_architectures,
                });
            }
        };
        // One of each is the same package, even for another architecture.
        if before.len() <= 1 && after.len() <= 1 {
            push(before.pop(), after.pop(), false);
            continue;
        }
        let architectures: BTreeSet<String> = before
            .iter()
            .chain(&after)
            .map(|package| package.architecture.clone())
            .collect();
        for architecture in architectures {
            let of = |all: &[PackageState]| {
                all.iter()
                    .find(|one| one.architecture == architecture)
                    .cloned()
            };
            push(of(&before), of(&after), true);
        }
    }
    changes
}

/// Which package every file came with, and the partition on which this is known; none without dpkg. What dpkg keeps about
/// a package counts as the package's.
///
/// # Errors
/// The disk cannot be read.
pub fn listed_files(tree: &Tree, contents: &dyn Contents) -> Result<Option<Listed>, ReadError> {
    let Some((partition, dir)) = place(tree) else {
        return Ok(None);
    };
    let prefix = format!("{dir}/info/").into_bytes();
    let mut lists = Vec::new();
    let mut kept = Vec::new();
    for entry in tree
        .volume(partition)
        .iter()
        .flat_map(|volume| &volume.entries)
    {
        let Some(name) = entry.path.strip_prefix(prefix.as_slice()) else {
            continue;
        };
        let Some(dot) = name.iter().rposition(|&byte| byte == b'.') else {
            continue;
        };
        if &name[dot..] == b".list" {
            lists.push((partition, entry.path.as_slice()));
        }
        kept.push((entry.path.clone(), plain::name(&name[..dot])));
    }
    let found = contents.files(&lists, STATUS_LIMIT)?;
    let package = |path: &[u8]| plain::name(&path[prefix.len()..path.len() - b".list".len()]);
    let listed = lists
        .iter()
        .zip(&found)
        .filter_map(|((_, path), list)| Some((package(path), list.as_deref()?)));
    let mut owners = owners(listed);
    for (path, package) in kept {
        owners.entry(path).or_insert(package);
    }
    Ok(Some((partition, owners)))
}

/// Which package a file came with, by absolute path: out of the `.list` files of `info/`, by package name. A path that
/// several packages name belongs to the first.
pub fn owners<'a>(
    lists: impl IntoIterator<Item = (String, &'a [u8])>,
) -> BTreeMap<Vec<u8>, String> {
    let mut owners = BTreeMap::new();
    for (package, list) in lists {
        for line in list
            .split(|&byte| byte == b'\n')
            .filter(|line| line.starts_with(b"/"))
        {
            owners
                .entry(line.to_vec())
                .or_insert_with(|| package.clone());
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "\
Package: openssl
Status: install ok installed
Architecture: amd64
Version: 3.0.15-1
Description: words
 Version: 9

Package: nano
Status: deinstall ok config-files
Version: 7

Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36

Package: libc6
Status: install ok half-configured
Architecture: i386
Version: 2.36
";

    #[test]
    fn installed_packages_are_found() {
        let packages = parse(STATUS.as_bytes());
        let shown: Vec<_> = packages
            .iter()
            .map(|((name, architecture), one)| {
                format!("{name}:{architecture} {} {:?}", one.version, one.state)
            })
            .collect();
        assert_eq!(
            shown,
            [
                "libc6:amd64 2.36 None",
                "libc6:i386 2.36 Some(\"half-configured\")",
                "openssl:amd64 3.0.15-1 None"
            ]
        );
    }

    #[test]
    fn junk_is_left_out_and_neutralised() {
        let packages =
            parse(b"\xff\xff:\n: :\n \n\nVersion: 1\n\nPackage: a\x1b[1mb\nVersion:\xff\n\n\n");
        let all: Vec<_> = packages.into_iter().collect();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].0.0, r"a\x1b[1mb");
        assert_eq!(all[0].1.version, r"\xff");
    }

    #[test]
    fn changes_are_told_by_name_and_by_architecture_where_there_are_several() {
        let before = parse(STATUS.as_bytes());
        let after = parse(
            STATUS
                .replace("3.0.15-1", "3.0.16-1")
                .replace("deinstall ok config-files", "install ok installed")
                .replace(
                    "half-configured\nArchitecture: i386\nVersion: 2.36",
                    "installed\nArchitecture: i386\nVersion: 2.37",
                )
                .as_bytes(),
        );
        let shown: Vec<_> = compare(&before, &after)
            .into_iter()
            .map(|change| {
                let version = |state: Option<PackageState>| {
                    state.map(|state| state.version).unwrap_or_default()
                };
                format!(
                    "{} {} {} {}",
                    change.name,
                    version(change.before),
                    version(change.after),
                    change.several_architectures
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                "libc6 2.36 2.37 true",
                "nano  7 false",
                "openssl 3.0.15-1 3.0.16-1 false"
            ]
        );
        assert!(compare(&before, &before).is_empty());
    }

    #[test]
    fn the_first_package_that_lists_a_file_owns_it() {
        let lists: [(String, &[u8]); 2] = [
            ("a".to_owned(), b"/.\n/bin\n/bin/x\n"),
            ("b".to_owned(), b"/bin\n/bin/y\njunk"),
        ];
        let owners = owners(lists);
        assert_eq!(owners[b"/bin".as_slice()], "a");
        assert_eq!(owners[b"/bin/y".as_slice()], "b");
        assert_eq!(owners.len(), 4);
    }
}
