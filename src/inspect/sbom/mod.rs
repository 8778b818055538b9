//! What a disk is made of: its packages, where they came from, and their licences.
//!
//! Knows what dpkg left on a disk; mounts nothing and runs nothing. Equal disks and origins give equal bytes. Does not know
//! recipes or stores: who asks says where packages came from.
//!
//! * [`Bill`] is the list of packages; [`text`] and [`json`] show it.
//! * [`copyright`] reads a package's copyright file; [`licenses`] says it in SPDX's words.
//! * [`spdx`] and [`cyclonedx`] write the document.

pub mod copyright;
pub mod cyclonedx;
pub mod licenses;
pub mod spdx;

use std::collections::BTreeMap;

use impasto_stages::package_set::PackageName;
use impasto_store::sha256::Sha256;
use serde::Serialize;

use crate::base::human;
use crate::base::table;
use crate::deb::relation;
use crate::disk::contents::Contents;
use crate::disk::guest::ext4::ReadError;
use crate::disk::tree::{EntryKind, Tree, Volume};
use crate::inspect::diff::blame::Directories;
use crate::inspect::diff::installed::{self, DatabasePackage};
use crate::inspect::diff::plain;

/// Largest copyright file that is read, in bytes.
const COPYRIGHT_LIMIT: u64 = 4 << 20;
/// Links that are followed on the way to one file.
const MOST_LINKS: usize = 16;

/// Where a package came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PackageOrigin {
    /// That of the `.deb`.
    pub sha256: Option<Sha256>,
    pub archive: Option<String>,
    /// The path of the `.deb` there.
    pub path: Option<String>,
}

/// Where packages came from.
pub type Origins = BTreeMap<PackageName, PackageOrigin>;

/// The packages of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bill {
    /// The packages, by name and architecture.
    pub packages: Vec<SbomPackage>,
    /// The system, as its `os-release` names it.
    pub system: System,
    /// Files that no package lists, where dpkg has lists of files.
    pub unlisted: Option<Unlisted>,
    /// When dpkg last wrote: seconds since 1970.
    pub written: i64,
}

/// A package of a disk. Texts are neutralised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SbomPackage {
    pub name: String,
    pub version: String,
    /// Its architecture, or `all`.
    pub architecture: String,
    /// How far its installation went, such as `half-configured`; `null` where it is done.
    pub state: Option<String>,
    /// Bytes that it says its files take.
    pub size: Option<u64>,
    /// Whether it is there only because others need it.
    pub automatic: bool,
    pub source: SourcePackage,
    /// Where it came from; `null` where that is not known.
    pub origin: Option<PackageOrigin>,
}

/// What a package was built from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourcePackage {
    pub name: String,
    pub version: String,
}

/// What a system calls itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct System {
    /// `ID`, such as `debian`.
    pub id: Option<String>,
    /// `VERSION_ID`, such as `12`; `VERSION_CODENAME` where there is none.
    pub version: Option<String>,
    /// `PRETTY_NAME`.
    pub name: Option<String>,
}

/// Files that no package lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unlisted {
    /// All of them, links among them and directories not.
    pub files: u64,
    /// The kernel modules among them.
    pub kernel_modules: u64,
}

/// What dpkg tells of a disk; none where it has no dpkg.
///
/// # Errors
/// The disk cannot be read.
pub fn read(
    tree: &Tree,
    contents: &dyn Contents,
    origins: &Origins,
) -> Result<Option<Bill>, ReadError> {
    let Some(database) = installed::database(tree, contents)? else {
        return Ok(None);
    };
    let Some(volume) = tree.volume(database.partition) else {
        return Ok(None);
    };
    let packages = database.packages.into_iter();
    let packages = packages.map(|package| SbomPackage::of(package, origins));
    let listed = installed::listed_files(tree, contents)?;
    let unlisted = listed.map(|(_, owners)| unlisted(volume, &owners));
    Ok(Some(Bill {
        packages: packages.collect(),
        system: system(tree, contents)?,
        unlisted,
        written: database.written,
    }))
}

impl SbomPackage {
    fn of(package: DatabasePackage, origins: &Origins) -> SbomPackage {
        let DatabasePackage {
            name,
            version,
            architecture,
            state,
            size,
            automatic,
            source: (source, source_version),
        } = package;
        let key = PackageName {
            name,
            architecture,
            version,
        };
        let origin = origins.get(&key).cloned();
        SbomPackage {
            name: key.name,
            version: key.version,
            architecture: key.architecture,
            state,
            size,
            automatic,
            source: SourcePackage {
                name: source,
                version: source_version,
            },
            origin,
        }
    }
}

fn unlisted(volume: &Volume, owners: &BTreeMap<Vec<u8>, String>) -> Unlisted {
    let directories = Directories::new(volume);
    let mut counts = Unlisted::default();
    for entry in volume
        .entries
        .iter()
        .filter(|entry| entry.kind != EntryKind::Dir)
    {
        if !directories
            .names(&entry.path)
            .any(|path| owners.contains_key(&path))
        {
            counts.files += 1;
            let module = [&b".ko"[..], b".ko.xz", b".ko.zst", b".ko.gz"]
                .iter()
                .any(|end| entry.path.ends_with(end));
            counts.kernel_modules += u64::from(module);
        }
    }
    counts
}

/// What `os-release` says (os-release(5)).
fn system(tree: &Tree, contents: &dyn Contents) -> Result<System, ReadError> {
    let places: [&[u8]; 2] = [b"/etc/os-release", b"/usr/lib/os-release"];
    let found = places.into_iter().find_map(|path| locate(tree, path));
    let Some((partition, path)) = found else {
        return Ok(System::default());
    };
    let text = contents
        .files(&[(partition, &path)], 1 << 16)?
        .pop()
        .flatten()
        .unwrap_or_default();
    let field = |name: &str| {
        let value = text.split(|&byte| byte == b'\n').find_map(|line| {
            line.strip_prefix(name.as_bytes())?
                .strip_prefix(b"=")
                .map(<[u8]>::trim_ascii)
        })?;
        let value = value
            .strip_prefix(b"\"")
            .and_then(|value| value.strip_suffix(b"\""))
            .unwrap_or(value);
        (!value.is_empty()).then(|| plain::name(value))
    };
    let version = field("VERSION_ID").or_else(|| field("VERSION_CODENAME"));
    Ok(System {
        id: field("ID"),
        version,
        name: field("PRETTY_NAME"),
    })
}

/// The copyright files of packages, in their order; none where there is none.
///
/// # Errors
/// The disk cannot be read.
pub fn copyrights(
    tree: &Tree,
    contents: &dyn Contents,
    packages: &[SbomPackage],
) -> Result<Vec<Option<Vec<u8>>>, ReadError> {
    let places: Vec<_> = packages
        .iter()
        .map(|package| {
            // What is not a name of a package is not a part of a path either.
            let name = Some(&package.name).filter(|name| relation::is_name(name))?;
            locate(tree, format!("/usr/share/doc/{name}/copyright").as_bytes())
        })
        .collect();
    let wanted: Vec<_> = places
        .iter()
        .flatten()
        .map(|(partition, path)| (*partition, path.as_slice()))
        .collect();
    let mut texts = contents.files(&wanted, COPYRIGHT_LIMIT)?.into_iter();
    Ok(places
        .iter()
        .map(|place| place.as_ref().and_then(|_| texts.next().flatten()))
        .collect())
}

/// Partition and true path of a file, through the links of its file system.
fn locate(tree: &Tree, path: &[u8]) -> Option<(u32, Vec<u8>)> {
    tree.volumes
        .iter()
        .find_map(|volume| Some((volume.partition, resolve(volume, path)?)))
}

fn resolve(volume: &Volume, path: &[u8]) -> Option<Vec<u8>> {
    let parts = |path: &[u8]| {
        path.split(|&byte| byte == b'/')
            .rev()
            .map(<[u8]>::to_vec)
            .collect::<Vec<_>>()
    };
    let (mut rest, mut done, mut links) = (parts(path), Vec::new(), 0);
    while let Some(part) = rest.pop() {
        match part.as_slice() {
            b"" | b"." => continue,
            b".." => {
                done.truncate(done.iter().rposition(|&byte| byte == b'/').unwrap_or(0));
                continue;
            }
            _ => {}
        }
        let next = [&done, &b"/"[..], &part].concat();
        match &volume.find(&next)?.kind {
            EntryKind::Symlink { target } => {
                links += 1;
                if links > MOST_LINKS {
                    return None;
                }
                if target.starts_with(b"/") {
                    done.clear();
                }
                rest.extend(parts(target));
            }
            _ => done = next,
        }
    }
    let is_file = matches!(volume.find(&done)?.kind, EntryKind::File { .. });
    is_file.then_some(done)
}

pub fn text(bill: &Bill) -> String {
    let mut rows = vec![
        ["PACKAGE", "VERSION", "ARCHITECTURE", "SIZE", "ORIGIN"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for package in &bill.packages {
        let state = package
            .state
            .as_ref()
            .map(|state| format!(" ({state})"))
            .unwrap_or_default();
        let origin = package
            .origin
            .as_ref()
            .and_then(|origin| origin.archive.clone());
        rows.push(vec![
            package.name.clone(),
            format!("{}{state}", package.version),
            package.architecture.clone(),
            package.size.map_or("-".to_owned(), human::bytes),
            origin.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table::columns(&rows)
}

/// One array; names do not change, new ones may come.
pub fn json(bill: &Bill) -> String {
    serde_json::to_string(&bill.packages).expect("BUG: packages are not JSON") + "\n"
}

#[cfg(test)]
mod tests;
