//! Where locked package files can be had on this host: mirrors, archives of the recipe, a snapshot of what is gone.
//! Knows addresses; fetches nothing.

use std::collections::HashMap;
use std::path::Path;

use impasto_stages::package_set::Repository;
use impasto_store::sha256::Sha256;

use super::fetch::{DownloadSource, PackageDownload};
use crate::debian::distribution::OwnArchive;
use crate::debian::mirror::{Mirror, MirrorError, Mirrors};
use crate::lock::LockEntry;

/// The variable that names a snapshot of archives: an address in which `{archive}` and `{timestamp}` are replaced.
pub const SNAPSHOT_VARIABLE: &str = "IMPASTO_SNAPSHOT";

/// The addresses of this host and of a recipe.
pub struct PackageSources<'a> {
    pub mirrors: &'a Mirrors,
    /// The pattern of a snapshot's address, where one is known.
    pub snapshot: Option<&'a str>,
    pub dir: &'a Path,
}

impl PackageSources<'_> {
    /// The package files of one entry, by SHA-256, which come from a distribution's archives alone.
    pub fn of_entry(&self, entry: &LockEntry) -> HashMap<Sha256, PackageDownload> {
        let mut wanted = HashMap::new();
        self.add(&mut wanted, entry, &|_| None);
        wanted
    }

    /// Adds the package files of one entry, by SHA-256. `named` finds a recipe's archives.
    pub fn add(
        &self,
        wanted: &mut HashMap<Sha256, PackageDownload>,
        entry: &LockEntry,
        named: &dyn Fn(&str) -> Option<Mirror>,
    ) {
        for package in &entry.packages {
            let places = match &package.archive {
                None => vec![DownloadSource {
                    mirror: Mirror::of_directory(self.dir),
                    path: package.path.clone(),
                }],
                Some(archive) => {
                    let date = entry
                        .archives
                        .iter()
                        .find(|known| known.name == *archive)
                        .map(|known| &*known.date);
                    let snapshot = self.snapshot_of(archive, date.unwrap_or_default());
                    let bases = self.base(archive, named).into_iter().chain(snapshot);
                    bases
                        .map(|mirror| DownloadSource {
                            mirror,
                            path: package.path.clone(),
                        })
                        .collect()
                }
            };
            let own = package.archive.is_none();
            wanted
                .entry(package.file.sha256)
                .or_insert(PackageDownload {
                    package: package.file.clone(),
                    places,
                    own,
                });
        }
    }

    /// The address of an archive that a lock calls so.
    pub fn base(&self, archive: &str, named: &dyn Fn(&str) -> Option<Mirror>) -> Option<Mirror> {
        match OwnArchive::of_lock(archive) {
            Some((own, _)) => self.mirrors.of(own).cloned(),
            None => named(archive),
        }
    }

    fn snapshot_of(&self, archive: &str, date: &str) -> Option<Mirror> {
        let place = archive.split('/').next().unwrap_or(archive);
        // `2026-11-14T10:00:00Z` as snapshots spell it.
        let timestamp: String = date.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
        let address = self
            .snapshot?
            .replace("{archive}", place)
            .replace("{timestamp}", &timestamp);
        Mirror::parse(address.trim_end_matches("{path}")).ok()
    }
}

/// The address of a recipe's archive, with its login; none where it is the host's mirror.
///
/// # Errors
/// It is no address.
pub fn address(
    repository: &Repository,
    secrets: &std::collections::BTreeMap<String, impasto_stages::Secret>,
) -> Result<Option<Mirror>, MirrorError> {
    let Some(uri) = &repository.uri else {
        return Ok(None);
    };
    let mirror = Mirror::parse(uri)?;
    let login = repository
        .login
        .as_ref()
        .and_then(|name| secrets.get(name))
        .map(|secret| secret.expose());
    Ok(Some(
        match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            Some((user, password)) => mirror.with_login(user, password),
            None => mirror,
        },
    ))
}
