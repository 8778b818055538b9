//! Archives as they are now, verified, in memory: their releases, and where in their indexes a package stands.
//! Knows stanzas; chooses no version.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use impasto_stages::package_set::LockedPackage;
use impasto_store::sha256::Sha256;
use impasto_store::{Scratch, Store};

use crate::base::cancel::CancelToken;
use crate::base::human::with_causes;
use crate::deb::control::{Stanza, stanzas};
use crate::debian::archive::{ArchiveError, ArchiveSource, Cache, Client, PackageIndex, Release};
use crate::debian::mirror::Mirrors;
use crate::debian::packages::files;
use crate::lock::{LockPackage, ManagerError};
use crate::net::{DownloadCause, Options};

/// An archive, as it was verified.
pub(super) struct VerifiedArchive {
    pub(super) source: ArchiveSource,
    pub(super) release: Release,
    pub(super) indexes: Vec<PackageIndex>,
}

/// A package of an archive.
#[derive(Clone, Copy)]
pub(super) struct ArchivePackage<'a> {
    pub(super) archive: &'a VerifiedArchive,
    pub(super) stanza: Stanza<'a>,
}

impl VerifiedArchive {
    /// Every package of its indexes.
    pub(super) fn packages(&self) -> impl Iterator<Item = Stanza<'_>> {
        self.indexes.iter().flat_map(|index| stanzas(&index.text))
    }

    /// Whether packages of it are taken only where somebody asks for it by name.
    pub(super) fn is_on_demand(&self) -> bool {
        let field = stanzas(&self.release.text)
            .next()
            .and_then(|stanza| stanza.get("NotAutomatic"));
        field.is_some_and(|value| value == "yes")
    }
}

impl ArchivePackage<'_> {
    /// What the package says it takes when it is installed, in KiB.
    pub(super) fn installed(&self) -> Option<u64> {
        let said = self.stanza.get("Installed-Size")?.trim().parse().ok();
        // Nonsense is no reason to refuse a package.
        said.filter(|said| *said <= crate::lock::MAX_INSTALLED)
    }

    /// The file that it names, as the lock has it; none where it names none.
    pub(super) fn package(&self) -> Option<LockPackage> {
        let names = [
            "Package",
            "Version",
            "Architecture",
            "Size",
            "SHA256",
            "Filename",
        ];
        let [name, version, architecture, size, sha256, path] = self.stanza.get_all(names);
        Some(LockPackage {
            file: LockedPackage {
                name: name?.to_owned(),
                architecture: architecture?.to_owned(),
                version: version?.to_owned(),
                sha256: sha256?.to_ascii_lowercase().parse().ok()?,
                size: size?.parse().ok()?,
            },
            installed: self.installed(),
            archive: Some(self.archive.source.name.clone()),
            path: path?.trim_start_matches("./").to_owned(),
        })
    }
}

/// The archives that were asked in this run.
pub(super) struct Archives<'a> {
    store: &'a Store,
    mirrors: &'a Mirrors,
    now: u64,
    cancel: CancelToken,
    known: Mutex<HashMap<String, Option<Arc<VerifiedArchive>>>>,
    client: OnceLock<Result<(Client, Scratch), String>>,
}

/// Keeps texts of indexes in the store, as files by their SHA-256.
struct IndexCache<'a> {
    store: &'a Store,
    now: u64,
}

impl Cache for IndexCache<'_> {
    fn get(&self, sha256: Sha256) -> Option<Vec<u8>> {
        let blob = files::find(self.store, sha256).ok()??;
        self.store.open_blob(&blob.digest).ok()?.into_bytes().ok()
    }

    fn put(&self, sha256: Sha256, text: &[u8]) {
        let package = LockedPackage {
            name: "index".to_owned(),
            architecture: String::new(),
            version: String::new(),
            sha256,
            size: text.len() as u64,
        };
        // It is fetched again where it cannot be kept.
        if let Err(error) = files::keep(self.store, &package, text, self.now) {
            tracing::debug!(%error, "an index cannot be cached");
        }
    }
}

impl<'a> Archives<'a> {
    pub(super) fn new(
        store: &'a Store,
        mirrors: &'a Mirrors,
        now: u64,
        cancel: CancelToken,
    ) -> Self {
        Archives {
            store,
            mirrors,
            now,
            cancel,
            known: Mutex::default(),
            client: OnceLock::new(),
        }
    }

    /// The archives of some sources, in their order. What may be missing, and is, is left out.
    pub(super) fn get(
        &self,
        sources: &[(ArchiveSource, bool)],
    ) -> Result<Vec<Arc<VerifiedArchive>>, ManagerError> {
        let found: Vec<_> = std::thread::scope(|scope| {
            // What they wait for is the network.
            let asked: Vec<_> = sources
                .iter()
                .map(|source| scope.spawn(|| self.find(source)))
                .collect();
            asked
                .into_iter()
                .map(|asked| asked.join().expect("BUG: asking an archive panicked"))
                .collect()
        });
        found.into_iter().filter_map(Result::transpose).collect()
    }

    fn find(
        &self,
        (source, optional): &(ArchiveSource, bool),
    ) -> Result<Option<Arc<VerifiedArchive>>, ManagerError> {
        let key = format!("{source:?}");
        let known = self.lock().get(&key).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let found = self
            .ask(source, *optional)
            .map_err(|error| explain(&error, &source.suite))?
            .map(Arc::new);
        self.lock().insert(key, found.clone());
        Ok(found)
    }

    /// None where it has no Release and may be missing. What a Release names must be there.
    fn ask(
        &self,
        source: &ArchiveSource,
        optional: bool,
    ) -> Result<Option<VerifiedArchive>, ArchiveError> {
        let made = self.client.get_or_init(|| {
            let scratch = self.store.scratch().map_err(|error| error.to_string())?;
            let options = Options {
                meter: self.store.meter().cloned(),
                ..Options::default()
            };
            let client = Client::new(self.mirrors, scratch.path(), &self.cancel, options);
            Ok((client.map_err(|error| error.to_string())?, scratch))
        });
        let (client, _) = made
            .as_ref()
            .map_err(|reason| ArchiveError::unready(&source.name, reason.clone()))?;
        let release = match client.release(source, self.now) {
            Err(error) if optional && is_missing(&error) => return Ok(None),
            other => other?,
        };
        let indexes = client.indexes(
            source,
            &release,
            &IndexCache {
                store: self.store,
                now: self.now,
            },
        )?;
        Ok(Some(VerifiedArchive {
            source: source.clone(),
            release,
            indexes,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Option<Arc<VerifiedArchive>>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_missing(error: &ArchiveError) -> bool {
    matches!(error, ArchiveError::Download { source, .. } if matches!(source.cause, DownloadCause::Gone { .. }))
}

fn explain(error: &ArchiveError, suite: &str) -> ManagerError {
    ManagerError {
        message: with_causes(error),
        help: Some(error.help()),
        said: Vec::new(),
        about: vec![format!("suite {suite}")],
    }
}
