//! Brings package files into the store while stages run that do not need them yet.
//! Knows digests and where files can be had; what an archive is, and how bytes come, is the downloader's business.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use impasto_stages::package_set::{LockedPackage, PackageSet};
use impasto_store::blob::BlobRef;
use impasto_store::meter::Meter;
use impasto_store::sha256::Sha256;
use impasto_store::{Error as StoreError, Store};

use super::files;
use crate::base::bounded;
use crate::base::cancel::CancelToken;
use crate::base::human::with_causes;
pub use crate::debian::archive::DownloadSource;
use crate::debian::archive::{Client, LOGIN};
use crate::debian::mirror::Mirrors;
use crate::lock::PackageHint;
use crate::net::{DownloadCause, Options};

/// A package file that may be needed, and where it can be had.
#[derive(Debug, Clone)]
pub struct PackageDownload {
    pub package: LockedPackage,
    /// Places, in the order to try.
    pub places: Vec<DownloadSource>,
    /// Whether it is the user's own: stages have it beside the recipe.
    pub own: bool,
}

/// A package file that cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot get package {package}: {reason}")]
pub struct PackageFetchError {
    /// Name, version and architecture.
    pub package: String,
    /// What happened at which address.
    pub reason: String,
    pub help: Option<PackageHint>,
}

/// Package files that are needed in a run. Clones are one.
#[derive(Clone)]
pub struct Fetcher {
    shared: Arc<FetchShared>,
}

struct FetchShared {
    store: Store,
    supply: Result<Supply, PackageFetchError>,
    now: u64,
    cancel: CancelToken,
    files: Mutex<HashMap<Sha256, FetchedFile>>,
    changed: Condvar,
    downloads: Mutex<Vec<Download>>,
    meter: Arc<Meter>,
}

/// What came together, when that began and when it ended.
type Download = (String, Instant, Instant);

/// Where package files come from.
#[derive(Default)]
pub struct Supply {
    /// The host's mirrors and proxies.
    pub mirrors: Mirrors,
    /// Files that may be needed, by their SHA-256.
    pub wanted: HashMap<Sha256, PackageDownload>,
}

/// What is known of a file.
#[derive(Clone)]
enum FetchedFile {
    Coming,
    Here(BlobRef),
    Failed(PackageFetchError),
}

impl Fetcher {
    /// Gets files out of `supply`; where there is none, those that the store lacks fail with its error. `now` is in
    /// seconds since 1970, for records; `cancel` ends all downloads, as [`Fetcher::stop`] does.
    pub fn new(
        store: Store,
        supply: Result<Supply, PackageFetchError>,
        now: u64,
        cancel: CancelToken,
    ) -> Self {
        let (files, changed) = (Mutex::default(), Condvar::new());
        let meter = store.meter().cloned().unwrap_or_default();
        let downloads = Mutex::default();
        Fetcher {
            shared: Arc::new(FetchShared {
                store,
                supply,
                now,
                cancel,
                files,
                changed,
                downloads,
                meter,
            }),
        }
    }

    /// Begins to get what the store lacks of some sets, in their order; returns at once.
    pub fn begin<'a>(&self, sets: impl Iterator<Item = &'a PackageSet>) {
        let Ok(supply) = &self.shared.supply else {
            return;
        };
        let own = |package: &&LockedPackage| {
            supply
                .wanted
                .get(&package.sha256)
                .is_some_and(|wanted| wanted.own)
        };
        // Whoever needs a file asks again where this fails.
        let Ok(batch) = self.claim(
            sets.flat_map(|set| &set.install)
                .filter(|package| !own(package)),
        ) else {
            return;
        };
        if batch.is_empty() {
            return;
        }
        let (shared, names) = (
            self.shared.clone(),
            batch.iter().map(|wanted| wanted.package.sha256),
        );
        let names: Vec<_> = names.collect();
        if std::thread::Builder::new()
            .spawn(move || shared.get(&batch, false))
            .is_err()
        {
            // Nobody gets them: whoever needs one does.
            let mut files = self.shared.lock();
            names.iter().for_each(|name| drop(files.remove(name)));
        }
    }

    /// The files of a set, which are waited for.
    ///
    /// # Errors
    /// One of them cannot be had, or the store fails.
    pub fn demand(
        &self,
        set: &PackageSet,
        cancel: &CancelToken,
    ) -> Result<Vec<BlobRef>, DemandError> {
        let batch = self.claim(set.install.iter())?;
        if !batch.is_empty() {
            self.shared.get(&batch, true);
        }
        let mut blobs = Vec::with_capacity(set.install.len());
        for package in &set.install {
            let mut files = self.shared.lock();
            loop {
                match files.get(&package.sha256) {
                    Some(FetchedFile::Here(blob)) => break blobs.push(*blob),
                    Some(FetchedFile::Failed(error)) => {
                        return Err(DemandError::Package(error.clone()));
                    }
                    Some(FetchedFile::Coming) if cancel.is_cancelled() => {
                        return Err(DemandError::Cancelled);
                    }
                    Some(FetchedFile::Coming) => {
                        let waited = self
                            .shared
                            .changed
                            .wait_timeout(files, Duration::from_millis(100));
                        files = waited
                            .map_or_else(|poisoned| poisoned.into_inner().0, |(files, _)| files);
                    }
                    // What came ahead was given up for the sake of another file.
                    None => {
                        drop(files);
                        let batch = self.claim(std::iter::once(package))?;
                        if !batch.is_empty() {
                            self.shared.get(&batch, true);
                        }
                        files = self.shared.lock();
                    }
                }
            }
        }
        Ok(blobs)
    }

    /// The downloads that came to their end since this was last asked.
    pub fn take_downloads(&self) -> Vec<(String, Instant, Instant)> {
        std::mem::take(
            &mut *self
                .shared
                .downloads
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }

    /// How much has come of what is to come.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.shared.meter
    }

    pub fn stop(&self) {
        self.shared.cancel.cancel();
    }

    /// Of some packages those that nobody gets yet and the store lacks: now they are the caller's to get.
    fn claim<'a>(
        &self,
        packages: impl Iterator<Item = &'a LockedPackage>,
    ) -> Result<Vec<PackageDownload>, StoreError> {
        let mut batch = Vec::new();
        let mut files = self.shared.lock();
        for package in packages {
            if matches!(
                files.get(&package.sha256),
                Some(FetchedFile::Coming | FetchedFile::Here(_))
            ) {
                continue;
            }
            let found = files::find(&self.shared.store, package.sha256).inspect_err(|_| {
                // Nobody will get what was claimed so far.
                batch.iter().for_each(|wanted: &PackageDownload| {
                    drop(files.remove(&wanted.package.sha256))
                });
            })?;
            let state = match found {
                Some(blob) => FetchedFile::Here(blob),
                None => match self
                    .shared
                    .supply
                    .as_ref()
                    .map(|supply| supply.wanted.get(&package.sha256))
                {
                    Ok(Some(wanted)) => {
                        batch.push(wanted.clone());
                        FetchedFile::Coming
                    }
                    Err(error) => FetchedFile::Failed(PackageFetchError {
                        package: title(package),
                        ..error.clone()
                    }),
                    Ok(None) => FetchedFile::Failed(PackageFetchError {
                        package: title(package),
                        reason: "no source for it is known".to_owned(),
                        help: Some(PackageHint::Settle("lock the packages again".to_owned())),
                    }),
                },
            };
            files.insert(package.sha256, state);
        }
        Ok(batch)
    }
}

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DemandError {
    /// One of them cannot be had.
    #[error(transparent)]
    Package(PackageFetchError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The run was stopped.
    #[error("cancelled")]
    Cancelled,
}

impl FetchShared {
    fn lock(&self) -> MutexGuard<'_, HashMap<Sha256, FetchedFile>> {
        self.files
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn set(&self, sha256: Sha256, file: FetchedFile) {
        self.lock().insert(sha256, file);
        self.changed.notify_all();
    }

    /// Gets a batch into the store: files are taken in on other threads while the next ones come.
    ///
    /// What did not come any more after one failed has no reason of its own. Where it is `needed` together, that is the
    /// reason; else whoever needs it asks again.
    fn get(&self, batch: &[PackageDownload], needed: bool) {
        let begun = Instant::now();
        self.get_all(batch, needed);
        let bytes = batch.iter().map(|wanted| wanted.package.size).sum();
        let name = match batch {
            [only] => format!(
                "{}, {}",
                title(&only.package),
                crate::base::human::bytes(bytes)
            ),
            _ => format!(
                "{} packages, {}",
                batch.len(),
                crate::base::human::bytes(bytes)
            ),
        };
        let mut downloads = self
            .downloads
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        downloads.push((name, begun, Instant::now()));
    }

    fn get_all(&self, batch: &[PackageDownload], needed: bool) {
        if let Err(reason) = self.try_get(batch) {
            let mut files = self.lock();
            for wanted in batch {
                let key = &wanted.package.sha256;
                if let Some(FetchedFile::Coming) = files.get(key) {
                    match needed {
                        true => drop(files.insert(*key, FetchedFile::Failed(reason.clone()))),
                        false => drop(files.remove(key)),
                    }
                }
            }
        }
        self.changed.notify_all();
    }

    fn try_get(&self, batch: &[PackageDownload]) -> Result<(), PackageFetchError> {
        let Ok(supply) = &self.supply else {
            return Ok(());
        };
        let failed = |wanted: &PackageDownload, reason: String, help: Option<PackageHint>| {
            PackageFetchError {
                package: title(&wanted.package),
                reason,
                help,
            }
        };
        let first = &batch[0];
        let scratch = self
            .store
            .scratch()
            .map_err(|error| failed(first, with_causes(&error), None))?;
        let options = Options {
            meter: Some(self.meter.clone()),
            ..Options::default()
        };
        let client = Client::new(&supply.mirrors, scratch.path(), &self.cancel, options);
        let client = client.map_err(|error| failed(first, with_causes(&error), None))?;
        let files: Vec<_> = batch
            .iter()
            .map(
                |PackageDownload {
                     package,
                     places,
                     own: _,
                 }| crate::debian::archive::DownloadRequest {
                    name: title(package),
                    size: package.size,
                    sha256: package.sha256,
                    places: places.clone(),
                },
            )
            .collect();
        let errors = rayon::in_place_scope(|scope| {
            let mut done = |place: usize, path: &Path| {
                let wanted = &batch[place];
                // The client removes the file after the call; what is open stays.
                let file = bounded::open(path);
                scope.spawn(move |_| {
                    let keep = |file| {
                        files::keep(
                            &self.store,
                            &wanted.package,
                            io::BufReader::new(file),
                            self.now,
                        )
                    };
                    let kept = file.map_err(|error| with_causes(&error));
                    let kept =
                        kept.and_then(|file| keep(file).map_err(|error| with_causes(&error)));
                    let failed = |reason| FetchedFile::Failed(failed(wanted, reason, None));
                    self.set(
                        wanted.package.sha256,
                        kept.map_or_else(failed, FetchedFile::Here),
                    );
                });
            };
            client
                .get(&files, &mut done, &mut |_, _| {})
                .err()
                .unwrap_or_default()
        });
        let mut told = None;
        for (place, error) in errors {
            let help = match &error.cause {
                DownloadCause::Gone { .. } => PackageHint::Gone,
                DownloadCause::Unreachable { .. } => {
                    PackageHint::Mirror("check the network, or choose another mirror".to_owned())
                }
                DownloadCause::Status { code: 401, .. } => LOGIN.into(),
                _ => PackageHint::Mirror("try again, or choose another mirror".to_owned()),
            };
            let causes = with_causes(&error.cause);
            let error = failed(
                &batch[place],
                format!("{}: {causes}", error.url),
                Some(help),
            );
            told.get_or_insert_with(|| error.clone());
            self.set(batch[place].package.sha256, FetchedFile::Failed(error));
        }
        let stopped = failed(first, "it was stopped".to_owned(), None);
        Err(told.unwrap_or(stopped))
    }
}

/// How messages call a package file.
pub fn title(package: &LockedPackage) -> String {
    format!(
        "{} {} ({})",
        package.name, package.version, package.architecture
    )
}
