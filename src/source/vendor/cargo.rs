//! Crates: what a Cargo.lock names, and the directory that cargo reads in place of a registry.
//! Knows Cargo.lock, registries' `config.json` and cargo's directory sources; reads no crate's manifest.
//!
//! A lock that cargo would have to change, as Cargo.toml asks for more, is not noticed here: `cargo build --locked` says so.
//! Nor is a crate that was yanked: cargo itself takes one that a lock names.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use impasto_store::sha256::Sha256;
use serde::Deserialize;

use super::host::{CrateIndex, VendorHost};
use super::{
    GetPages, LockedFile, VendorError, VendorFile, VendorItem, download, is_plain, lock_error,
    sha256,
};
use crate::base::bounded;
use crate::base::io::IoError;
use crate::net::{Checksum, Download, Expected, Place};
use crate::source::tree::{TreeBuilder, TreeContent};

/// The directory of the crates in the tree.
const VENDOR: &str = "vendor";

/// Bytes that a crate may unpack to, and files that it may have.
const MOST_UNPACKED: u64 = 1 << 30;
const MOST_FILES: usize = 100_000;

/// Bytes of a file of a crate that is kept in memory until the tree is written; larger ones lie on the disk meanwhile.
const IN_MEMORY: usize = 64 << 10;

/// Bytes of a registry's `config.json`.
const MOST_CONFIG: u64 = 1 << 20;

/// A crate of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LockedCrate {
    name: String,
    version: String,
    /// The registry, as locks name it: `registry+URL` or `sparse+URL`.
    source: String,
    sha256: Sha256,
}

#[derive(Deserialize)]
struct CargoLock {
    version: Option<u32>,
    #[serde(default)]
    package: Vec<CargoPackage>,
}

#[derive(Deserialize)]
struct CargoPackage {
    name: String,
    version: String,
    source: Option<String>,
    checksum: Option<String>,
}

pub(super) fn read(path: &str, text: &str) -> Result<Vec<VendorItem>, VendorError> {
    let lock: CargoLock = toml::from_str(text).map_err(|error| {
        let line = error
            .span()
            .map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let place = line.map_or(path.to_owned(), |line| format!("{path}:{line}"));
        let problem = format!("it is not a Cargo.lock: {}", error.message());
        lock_error(
            &place,
            problem,
            "let cargo write it: `cargo generate-lockfile`",
        )
    })?;
    if lock.version.is_none_or(|version| version < 3) {
        let problem =
            "its format is older than version 3, which has the checksums beside the crates";
        let help = "let a cargo of this decade write it again: `cargo update --workspace`";
        return Err(lock_error(path, problem, help));
    }
    let mut items = Vec::new();
    for package in lock.package {
        let name = format!("{} {}", package.name, package.version);
        if !is_plain(&package.name) || !is_plain(&package.version) {
            let help = "let cargo write the lock again: `cargo generate-lockfile`";
            return Err(lock_error(path, format!("{name:?} is not a crate"), help));
        }
        // Without a source it is a package of the repository itself.
        let Some(source) = package.source else {
            continue;
        };
        if !source.starts_with("registry+") && !source.starts_with("sparse+") {
            let problem = format!(
                "{name} does not come from a registry, but from {}",
                shown(&source)
            );
            let help = "depend on a release of it, or take its repository by a `fetch` stage and name that directory \
                        in [patch]";
            return Err(lock_error(path, problem, help));
        }
        let Some(sha256) = package.checksum.as_deref().and_then(sha256) else {
            let problem = format!("{name} has no checksum");
            let help = "let cargo write it: `cargo update --workspace`; a replaced source may have left it out";
            return Err(lock_error(path, problem, help));
        };
        let key = format!("crate {name} sha256:{sha256}");
        let what = LockedFile::Crate(LockedCrate {
            name: package.name,
            version: package.version,
            source,
            sha256,
        });
        items.push(VendorItem { name, key, what });
    }
    Ok(items)
}

/// An address without what may be a password.
fn shown(source: &str) -> &str {
    source.rsplit('@').next().unwrap_or(source)
}

fn wanted(item: &VendorItem) -> &LockedCrate {
    match &item.what {
        LockedFile::Crate(wanted) => wanted,
        _ => panic!("BUG: not a crate"),
    }
}

/// What a registry says of itself.
#[derive(Deserialize)]
struct RegistryConfig {
    /// The address of a crate, with marks for its name and version.
    dl: String,
}

pub(super) fn locate(
    items: &[&VendorItem],
    host: &VendorHost,
    get: &mut GetPages<'_>,
) -> Result<Vec<VendorFile>, VendorError> {
    let sources: BTreeSet<_> = items.iter().map(|item| &wanted(item).source).collect();
    let mut registries = BTreeMap::new();
    for source in sources {
        let index = host.crates(source)?;
        let url = format!("{}/config.json", index.url.trim_end_matches('/'));
        let page = Download {
            name: Some("the registry's config.json".to_owned()),
            expected: Expected::at_most(MOST_CONFIG),
            places: vec![index.place(&url)?],
        };
        let said = get(vec![page])?.pop().flatten();
        let config = said.and_then(|page| serde_json::from_slice::<RegistryConfig>(&page).ok());
        let Some(config) = config else {
            return Err(VendorError::Settings {
                problem: format!("{} is not a registry of crates", index.shown()),
                help: "name a sparse registry in [source] or [registries] of cargo's config.toml"
                    .to_owned(),
            });
        };
        registries.insert(source, (index, config.dl));
    }
    let file = |item: &&VendorItem| {
        let wanted = wanted(item);
        let (index, dl): &(CrateIndex, String) = &registries[&wanted.source];
        let place: Place = index.place(&address(dl, wanted))?;
        Ok(VendorFile {
            name: format!("{}-{}.crate", wanted.name, wanted.version),
            download: download(&item.name, Checksum::Sha256(wanted.sha256), vec![place]),
        })
    };
    items.iter().map(file).collect()
}

/// The address of a crate by a registry's template (The Cargo Book, "Index Format").
fn address(template: &str, wanted: &LockedCrate) -> String {
    let LockedCrate {
        name,
        version,
        sha256,
        ..
    } = wanted;
    let prefix = |name: &str| match name.len() {
        1 => "1".to_owned(),
        2 => "2".to_owned(),
        3 => format!("3/{}", &name[..1]),
        _ => format!("{}/{}", &name[..2], &name[2..4]),
    };
    let marks = [
        ("{crate}", name.clone()),
        ("{version}", version.clone()),
        ("{prefix}", prefix(name)),
        ("{lowerprefix}", prefix(&name.to_ascii_lowercase())),
        ("{sha256-checksum}", sha256.to_string()),
    ];
    if marks.iter().all(|(mark, _)| !template.contains(mark)) {
        return format!(
            "{}/{name}/{version}/download",
            template.trim_end_matches('/')
        );
    }
    marks
        .iter()
        .fold(template.to_owned(), |address, (mark, text)| {
            address.replace(mark, text)
        })
}

/// Unpacks a crate, with the list of its files' checksums that cargo demands of directory sources.
pub(super) fn add(
    tree: &mut TreeBuilder,
    wanted: &LockedCrate,
    file: &Path,
    scratch: &Path,
) -> Result<(), VendorError> {
    let LockedCrate {
        name,
        version,
        sha256,
        ..
    } = wanted;
    let wrong = |problem: String| VendorError::Content {
        item: format!("{name} {version}"),
        problem,
    };
    let dir = format!("{name}-{version}");
    let opened = bounded::open(file).map_err(IoError::at::<VendorError>("open", file))?;
    let unpacked = flate2::read::GzDecoder::new(opened).take(MOST_UNPACKED);
    let mut archive = tar::Archive::new(unpacked);
    let mut files = BTreeMap::new();
    let broken = |error: std::io::Error| wrong(error.to_string());
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = entry.path().map_err(broken)?.into_owned();
        let path = path.to_str().map(str::to_owned);
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            continue;
        }
        // Cargo takes nothing out of a crate that lies beside this directory.
        let below = path
            .as_deref()
            .and_then(|path| path.strip_prefix(&dir)?.strip_prefix('/'));
        let Some(below) = below.filter(|_| kind.is_file()) else {
            let path = path.unwrap_or_default();
            return Err(wrong(format!("{path:?} is not a file below {dir}")));
        };
        let mode = entry.header().mode().map_err(broken)?;
        let mode = if mode & 0o100 == 0 { 0o644 } else { 0o755 };
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(broken)?;
        files.insert(below.to_owned(), Sha256::of(&bytes).to_string());
        if files.len() > MOST_FILES {
            return Err(wrong(format!("it has more than {MOST_FILES} files")));
        }
        let content = if bytes.len() > IN_MEMORY {
            let path = scratch.join(format!("{dir}-{}", files.len()));
            std::fs::write(&path, bytes).map_err(IoError::at::<VendorError>("write", &path))?;
            TreeContent::File(path)
        } else {
            TreeContent::Bytes(bytes)
        };
        tree.file(&format!("{VENDOR}/{dir}/{below}"), mode, content)?;
    }
    if !files.contains_key("Cargo.toml") {
        return Err(wrong("it has no Cargo.toml".to_owned()));
    }
    let checksums = serde_json::json!({ "files": files, "package": sha256.to_string() });
    let path = format!("{VENDOR}/{dir}/.cargo-checksum.json");
    let bytes = checksums.to_string().into_bytes();
    Ok(tree.file(&path, 0o644, TreeContent::Bytes(bytes))?)
}

/// Adds `.cargo/config.toml`, which has cargo read the crates out of the tree, wherever that lies.
pub(super) fn finish(tree: &mut TreeBuilder, items: &[VendorItem]) -> Result<(), VendorError> {
    let mut text = String::new();
    let sources: BTreeSet<_> = items.iter().map(|item| &wanted(item).source).collect();
    for source in sources {
        if is_default(source) {
            text += "[source.crates-io]\n";
        } else {
            let registry = source.strip_prefix("registry+").unwrap_or(source);
            text += &format!("[source.{registry:?}]\nregistry = {registry:?}\n");
        }
        text += "replace-with = \"impasto\"\n\n";
    }
    // Relative to the directory that holds `.cargo`.
    text += &format!("[source.impasto]\ndirectory = \"{VENDOR}\"\n");
    tree.dir(VENDOR, 0o755)?;
    let content = TreeContent::Bytes(text.into_bytes());
    Ok(tree.file(".cargo/config.toml", 0o644, content)?)
}

/// Whether a source of a lock is the registry that cargo calls `crates-io`: its index is called after it.
pub(super) fn is_default(source: &str) -> bool {
    let index = format!("/{}-index", super::host::DEFAULT_REGISTRY.replace('-', "."));
    source.starts_with("registry+") && source.trim_end_matches('/').ends_with(&index)
}
