//! Where this host has packages from: the mirrors that its user chose, and the package manager that asks them.
//! Knows how a manager and a fetcher are made; which packages are wanted is the caller's business.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use impasto_store::Store;
use impasto_store::sha256::Sha256;

use super::apt::Apt;
use super::fetch::{Fetcher, PackageDownload, PackageFetchError, Supply};
use super::places::PackageSources;
use crate::base::cancel::CancelToken;
use crate::debian::mirror::{MirrorChoice, MirrorError, Mirrors};
use crate::lock::{LockEntry, PackageHint, PackageManager};
use crate::sandbox::Sandbox;

/// Where packages come from on this host.
#[derive(Debug, Default)]
pub struct PackageHost {
    choice: MirrorChoice,
    /// The pattern of a snapshot's address, where one is named.
    snapshot: Option<String>,
    /// Seconds since 1970, for records and for how old an archive may be.
    now: u64,
    /// Read when something is to be asked of them: a build of nothing does not ask.
    mirrors: OnceLock<Result<Mirrors, MirrorError>>,
}

/// What a package manager works with.
pub struct ManagerContext<'m> {
    pub store: &'m Store,
    /// The recipe's directory.
    pub dir: &'m Path,
    /// Where its solver runs; why it cannot, where it cannot.
    pub sandbox: &'m Result<Arc<dyn Sandbox>, String>,
    pub cancel: CancelToken,
}

impl PackageHost {
    /// `now` is in seconds since 1970.
    pub fn new(choice: MirrorChoice, snapshot: Option<String>, now: u64) -> PackageHost {
        PackageHost {
            choice,
            snapshot,
            now,
            mirrors: OnceLock::new(),
        }
    }

    fn mirrors(&self) -> Result<&Mirrors, MirrorError> {
        self.mirrors
            .get_or_init(|| self.choice.resolve())
            .as_ref()
            .map_err(Clone::clone)
    }

    /// What gets package files into a store, until `cancel`: those that `wanted` finds places for.
    pub fn fetcher(
        &self,
        store: &Store,
        dir: &Path,
        cancel: CancelToken,
        wanted: impl FnOnce(&PackageSources<'_>) -> HashMap<Sha256, PackageDownload>,
    ) -> Fetcher {
        let supply = self.mirrors().map_err(|error| PackageFetchError {
            package: String::new(),
            reason: error.to_string(),
            help: Some(PackageHint::Mirror("choose another mirror".to_owned())),
        });
        let supply = supply.map(|mirrors| Supply {
            mirrors: mirrors.clone(),
            wanted: wanted(&PackageSources {
                mirrors,
                snapshot: self.snapshot.as_deref(),
                dir,
            }),
        });
        Fetcher::new(store.clone(), supply, self.now, cancel)
    }

    /// The package manager.
    ///
    /// # Errors
    /// A mirror cannot be used.
    pub fn manager<'m>(
        &'m self,
        context: ManagerContext<'m>,
    ) -> Result<Box<dyn PackageManager + 'm>, MirrorError> {
        let mirrors = self.mirrors()?;
        let ManagerContext {
            store,
            dir,
            sandbox,
            cancel,
        } = context;
        let token = cancel.clone();
        let get = move |entry: &LockEntry| {
            self.fetcher(store, dir, token.clone(), |places| places.of_entry(entry))
        };
        let get = Box::new(get);
        Ok(Box::new(Apt::new(
            store, mirrors, sandbox, self.now, get, cancel,
        )))
    }
}
