//! Tarballs: what a package-lock.json names, and the cache that npm reads them from by their hashes.
//! Knows lock files of npm 7 and later and the layout of npm's cache; reads no package.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use impasto_store::sha256::Sha512;
use serde::Deserialize;

use super::host::VendorHost;
use super::{
    LockedFile, VendorError, VendorFile, VendorItem, download, is_plain, lock_error, sha512,
};
use crate::net::{Checksum, Place};
use crate::source::tree::{TreeBuilder, TreeContent};

/// A package's archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tarball {
    /// With its scope, such as `@types/node`.
    name: String,
    version: String,
    /// Where the lock says that it is.
    resolved: String,
    sha512: Sha512,
}

#[derive(Deserialize)]
struct NpmLock {
    #[serde(rename = "lockfileVersion")]
    version: Option<u32>,
    #[serde(default)]
    packages: BTreeMap<String, NpmPackage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NpmPackage {
    /// Where the directory is called otherwise: an alias.
    name: Option<String>,
    version: Option<String>,
    resolved: Option<String>,
    integrity: Option<String>,
    #[serde(default)]
    link: bool,
    #[serde(default)]
    in_bundle: bool,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    os: Vec<String>,
    #[serde(default)]
    cpu: Vec<String>,
    #[serde(default)]
    libc: Vec<String>,
}

/// What npm has before the name of an installed package.
const INSTALLED: &str = "node_modules/";

pub(super) fn read(machine: &str, path: &str, text: &str) -> Result<Vec<VendorItem>, VendorError> {
    let lock: NpmLock = serde_json::from_str(text).map_err(|error| {
        let place = format!("{path}:{}", error.line());
        let problem = format!("it is not a package-lock.json: {error}");
        lock_error(
            &place,
            problem,
            "let npm write it: `npm install --package-lock-only`",
        )
    })?;
    if !matches!(lock.version, Some(2 | 3)) {
        let problem = "its format is not version 2 or 3, which npm 7 and later write";
        let help =
            "let a newer npm write it: `npm install --package-lock-only --lockfile-version 3`";
        return Err(lock_error(path, problem, help));
    }
    let (mut items, mut known) = (Vec::new(), HashSet::new());
    for (place, package) in &lock.packages {
        // What lies elsewhere, or is a link to there, is a package of the repository itself.
        let Some((_, installed)) = place.rsplit_once(INSTALLED) else {
            continue;
        };
        if package.link || package.in_bundle || package.optional && !package.fits(machine) {
            continue;
        }
        let item = package.item(path, installed)?;
        if known.insert(item.key.clone()) {
            items.push(item);
        }
    }
    Ok(items)
}

impl NpmPackage {
    /// Whether npm installs it on this machine.
    fn fits(&self, machine: &str) -> bool {
        let cpu = if machine == "arm64" { "arm64" } else { "x64" };
        let allows = |list: &[String], own: &str| {
            let (not, only): (Vec<_>, Vec<_>) = list.iter().partition(|word| word.starts_with('!'));
            !not.iter().any(|word| word[1..] == *own)
                && (only.is_empty() || only.iter().any(|word| *word == own || *word == "any"))
        };
        allows(&self.os, "linux") && allows(&self.cpu, cpu) && allows(&self.libc, "glibc")
    }

    fn item(&self, path: &str, installed: &str) -> Result<VendorItem, VendorError> {
        let name = self.name.as_deref().unwrap_or(installed);
        let version = self.version.as_deref().unwrap_or_default();
        let called = format!("{name} {version}");
        let wrong = |problem: String, help: &str| Err(lock_error(path, problem, help));
        let plain = match name.strip_prefix('@').map(|name| name.split_once('/')) {
            None => is_plain(name),
            Some(Some((scope, name))) => is_plain(scope) && is_plain(name),
            Some(None) => false,
        };
        let again = "let npm write the lock again: `npm install --package-lock-only`";
        if !plain || !is_plain(version) {
            return wrong(format!("{called:?} is not a package"), again);
        }
        let Some(resolved) = &self.resolved else {
            let problem = format!(
                "it does not say where {called} is (`resolved`), and npm then asks the network"
            );
            let help = "let npm write it with `npm install --package-lock-only \
                        --omit-lockfile-registry-resolved=false`";
            return wrong(problem, help);
        };
        if !resolved.starts_with("https://") && !resolved.starts_with("http://") {
            let shown = resolved.rsplit('@').next().unwrap_or_default();
            let problem = format!("{called} does not come from a registry, but from {shown}");
            return wrong(problem, "depend on a release of it");
        }
        let mut hashes = self
            .integrity
            .iter()
            .flat_map(|text| text.split_whitespace());
        let sha512 = hashes.find_map(|hash| {
            let hash = hash.strip_prefix("sha512-")?;
            sha512(&hex(&base64(hash.split('?').next()?)?))
        });
        let Some(sha512) = sha512 else {
            let problem = format!("{called} has no hash by SHA-512 (`integrity`)");
            return wrong(problem, again);
        };
        Ok(VendorItem {
            name: called,
            key: format!("npm {name} {version} sha512:{sha512}"),
            what: LockedFile::Tarball(Tarball {
                name: name.to_owned(),
                version: version.to_owned(),
                resolved: resolved.clone(),
                sha512,
            }),
        })
    }
}

fn wanted(item: &VendorItem) -> &Tarball {
    match &item.what {
        LockedFile::Tarball(wanted) => wanted,
        _ => panic!("BUG: not a tarball"),
    }
}

/// First where the host's registry has it, then where the lock says.
pub(super) fn locate(
    items: &[&VendorItem],
    host: &VendorHost,
) -> Result<Vec<VendorFile>, VendorError> {
    // Asking npm takes a second.
    let mut registries = BTreeMap::new();
    let file = |item: &&VendorItem| {
        let wanted = wanted(item);
        let Tarball { name, version, .. } = wanted;
        let scope = name.split_once('/').map(|(scope, _)| scope.to_owned());
        let registry = match registries.entry(scope) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let registry = host.npm(new.key().as_deref())?;
                new.insert(registry)
            }
        };
        let base = name.rsplit('/').next().unwrap_or(name);
        let own = format!(
            "{}/{name}/-/{base}-{version}.tgz",
            registry.trim_end_matches('/')
        );
        let mut urls = vec![own];
        if urls[0] != wanted.resolved {
            urls.push(wanted.resolved.clone());
        }
        let places = urls
            .iter()
            .filter_map(|url| Some(host.npm_place(Place::url(url)?, url)));
        Ok(VendorFile {
            name: format!("{base}-{version}.tgz"),
            download: download(
                &item.name,
                Checksum::Sha512(wanted.sha512),
                places.collect(),
            ),
        })
    };
    items.iter().map(file).collect()
}

/// Puts it where npm's cache has what it knows by this hash.
pub(super) fn add(
    tree: &mut TreeBuilder,
    wanted: &Tarball,
    file: PathBuf,
) -> Result<(), VendorError> {
    let hex = wanted.sha512.to_string();
    let path = format!(
        "_cacache/content-v2/sha512/{}/{}/{}",
        &hex[..2],
        &hex[2..4],
        &hex[4..]
    );
    Ok(tree.file(&path, 0o644, TreeContent::File(file))?)
}

/// Decodes base64 with padding (RFC 4648, section 4); none where it is none.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut buffer, mut bits) = (0_u32, 0);
    for c in text.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        buffer = buffer << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((buffer >> bits) as u8);
            buffer &= (1 << bits) - 1;
        }
    }
    Some(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
