//! One command's work on a lock: packages are resolved, compared and fetched, and what happens is told.
//! Knows threads, events and interrupts; how a lock changes is `renew`'s, and who resolves is a package manager.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use impasto_stages::package_set::PackageSet;
use impasto_store::meter::{Meter, Reading};
use impasto_store::{Error as StoreError, Store};

use super::renew::{Choice, RenewError, Renewal, Renewer};
use super::wanted::fetcher;
use crate::base::cancel::CancelToken;
use crate::debian::packages::fetch::DemandError;
use crate::debian::packages::host::ManagerContext;
use crate::engine::event::{Event, EventKind};
use crate::engine::graph::{Graph, NodeMap};
use crate::engine::history::RecipeState;
use crate::engine::roots::{InUse, UsedPackages};
use crate::engine::run::RunConfig;
use crate::lock::{self, LockEntry, LockSource, PackageManager};
use crate::recipe::Recipe;

/// How often it is told how much has come.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What a command does with its recipe's lock, before anything is built or instead of it.
pub struct LockRun<'a> {
    pub(super) recipe: &'a Recipe,
    /// Counts what comes into it.
    pub(super) store: Store,
    pub(super) meter: Arc<Meter>,
    /// Tells whoever is asked that the user interrupts it.
    pub(super) cancel: CancelToken,
    pub(super) config: RunConfig<'a>,
    pub(super) start: Instant,
    pub(super) events: &'a mut dyn FnMut(&Event),
    /// What was last told of the meter.
    told: Option<Reading>,
}

impl<'a> LockRun<'a> {
    /// `start` is when the command began.
    pub fn new(
        recipe: &'a Recipe,
        store: &Store,
        config: RunConfig<'a>,
        start: Instant,
        events: &'a mut dyn FnMut(&Event),
    ) -> LockRun<'a> {
        let meter = Arc::<Meter>::default();
        LockRun {
            recipe,
            store: store.metered(meter.clone()),
            meter,
            cancel: CancelToken::new(),
            config,
            start,
            events,
            told: None,
        }
    }

    /// Resolves what the lock has nothing for, of the nodes that are needed.
    ///
    /// # Errors
    /// Packages cannot be resolved, or the lock cannot be written.
    pub fn lock_missing(
        &mut self,
        graph: &mut Graph,
        needed: &NodeMap<bool>,
    ) -> Result<(), RenewError> {
        let choices = needed.values().map(|needed| needed.then_some(Choice::Stay));
        let renewal = Renewal {
            choices: choices.collect(),
            tools: false,
            prune: false,
            dry_run: false,
        };
        self.renew(graph, &renewal).map(drop)
    }

    /// Resolves what the choices name, and writes the lock where that changed it. Gives the changes, a line each.
    ///
    /// # Errors
    /// Packages cannot be resolved, or the lock cannot be written.
    pub fn renew(
        &mut self,
        graph: &mut Graph,
        renewal: &Renewal,
    ) -> Result<Vec<String>, RenewError> {
        let before = graph.lock().clone();
        let mut after = before.clone();
        // Keeps the collector off indexes and package files that come.
        let _lease = self
            .store
            .lease()
            .inspect_err(|error| tracing::debug!(%error, "no lease"));
        self.with_manager(|run, manager| {
            Renewer {
                run,
                graph,
                manager,
                renewal,
                images: Default::default(),
            }
            .renew(&mut after)
        })?;
        let (changes, is_new) = (lock::changes(&before, &after), after != before);
        let (path, written) = (lock::path_of(self.recipe), is_new && !renewal.dry_run);
        if written {
            after.save(&path, self.store.owner())?;
        }
        graph.set_lock(after);
        if is_new {
            let changes = changes.clone();
            self.emit(EventKind::Locked {
                path,
                changes,
                written,
            });
        }
        if !renewal.dry_run
            && let Err(error) = self.keep(graph)
        {
            tracing::debug!(%error, "the packages cannot be stored and will be fetched again");
        }
        Ok(changes)
    }

    /// Asks the package manager, until the user interrupts that.
    pub(super) fn with_manager<T>(
        &mut self,
        ask: impl FnOnce(&mut Self, &dyn PackageManager) -> Result<T, RenewError>,
    ) -> Result<T, RenewError> {
        let interrupt = self.config.interrupt.listen();
        self.cancel = interrupt.token();
        let (store, sandbox) = (self.store.clone(), self.config.sandbox.clone());
        let manager = self.config.packages.manager(ManagerContext {
            store: &store,
            dir: &self.recipe.dir,
            sandbox: &sandbox.sandbox,
            cancel: interrupt.token(),
        });
        let manager = manager.map_err(|reason| RenewError::Mirror { reason })?;
        let answer = ask(self, &*manager);
        if answer.is_err() && interrupt.token().is_cancelled() {
            self.emit(EventKind::Interrupted);
            return Err(RenewError::Interrupted);
        }
        answer
    }

    /// Brings the package files of some sets into the store: how many, and their bytes.
    ///
    /// # Errors
    /// One of them cannot be had, the store fails, or the user interrupts it.
    pub fn fetch(
        &mut self,
        graph: &Graph,
        sets: &[&PackageSet],
    ) -> Result<(usize, u64), DemandError> {
        let interrupt = self.config.interrupt.listen();
        let begun = Instant::now();
        // Named before they come, so that they are kept should this be interrupted.
        let _lease = self.store.lease()?;
        self.keep(graph)?;
        let (host, dir) = (self.config.packages, &self.recipe.dir);
        let fetcher = fetcher(host, &self.store, dir, graph, interrupt.token());
        fetcher.begin(sets.iter().copied());
        let token: CancelToken = interrupt.token();
        let come = self.watch(None, || {
            sets.iter()
                .try_for_each(|set| fetcher.demand(set, &token).map(drop))
        });
        if come.is_err() && interrupt.token().is_cancelled() {
            self.emit(EventKind::Interrupted);
            return Err(DemandError::Cancelled);
        }
        come?;
        let mut files: Vec<_> = sets.iter().flat_map(|set| &set.install).collect();
        files.sort_unstable_by_key(|file| &file.sha256);
        files.dedup_by_key(|file| &file.sha256);
        let bytes = files.iter().map(|file| file.size).sum();
        self.emit(EventKind::PackagesFetched {
            packages: files.len(),
            bytes,
            wall_ms: begun.elapsed().as_millis() as u64,
        });
        Ok((files.len(), bytes))
    }

    /// Keeps the package files of a graph's lock from the collector.
    fn keep(&self, graph: &Graph) -> Result<(), StoreError> {
        let packages = UsedPackages::of(graph);
        RecipeState::new(&self.store, self.recipe).keep(&InUse {
            packages: Some(&packages),
            ..InUse::default()
        })
    }

    /// Tells that the packages of a stage, or of the toolbox, are being resolved.
    pub(super) fn begin(&mut self, stage: &str) -> Instant {
        let stage = stage.to_owned();
        self.emit(EventKind::ResolveStarted { stage });
        Instant::now()
    }

    /// Tells that they are.
    pub(super) fn end(&mut self, stage: &str, entry: &LockEntry, begun: Instant) {
        self.emit(EventKind::ResolveFinished {
            stage: stage.to_owned(),
            packages: entry.packages.len(),
            bytes: entry.bytes(),
            wall_ms: begun.elapsed().as_millis() as u64,
        });
    }

    /// Tells that what a stage gets from elsewhere is known.
    pub(super) fn end_source(&mut self, stage: &str, entry: &LockSource, begun: Instant) {
        self.emit(EventKind::ResolveFinished {
            stage: stage.to_owned(),
            packages: 0,
            bytes: entry.size.unwrap_or_default(),
            wall_ms: begun.elapsed().as_millis() as u64,
        });
    }

    /// Does work on a thread of its own, and tells meanwhile how much has come of what it downloads, for a stage where it
    /// is for one.
    pub(super) fn watch<T: Send>(
        &mut self,
        stage: Option<&str>,
        work: impl FnOnce() -> T + Send,
    ) -> T {
        let result = std::thread::scope(|scope| {
            let (over, ended) = channel::<()>();
            let worker = scope.spawn(move || {
                let _over = over;
                work()
            });
            while ended.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                self.look(stage);
            }
            worker.join()
        });
        // However little was seen of it.
        self.look(stage);
        self.meter.end();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Tells how much has come, where that is news.
    fn look(&mut self, stage: Option<&str>) {
        let reading = self.meter.read();
        if reading == self.told {
            return;
        }
        self.told = reading;
        // Of a list of indexes the size is not known before it is there.
        if let Some(Reading { what, done, total }) = reading
            && total != Some(0)
        {
            self.emit(EventKind::Progress {
                stage: stage.map(str::to_owned),
                what,
                done_bytes: done,
                total_bytes: total,
            });
        }
    }

    pub(super) fn emit(&mut self, kind: EventKind) {
        (self.events)(&Event {
            at: self.start.elapsed(),
            kind,
        });
    }
}
