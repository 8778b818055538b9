//! What a run holds and keeps: a lease while it works, and in the checkout's root what it found and made.
//! Knows names and results; writes no memory and starts no job.

use std::collections::HashMap;
use std::time::Instant;

use impasto_store::Error as StoreError;

use super::Engine;
use crate::engine::chain::chain_step_name;
use crate::engine::roots::InUse;
use crate::engine::schedule::TaskState;

impl Engine<'_> {
    /// Begins: what builds left that were killed is deleted, and the collector kept off all that this run will find and
    /// make. Where nothing is to be done that is one look at a directory that is nearly empty.
    pub(super) fn begin(&mut self) {
        if let Err(error) = self.planner.store().sweep_tmp() {
            tracing::debug!(%error, "left in tmp/");
        }
        // A store that cannot be written fails the first stage that runs, which says so.
        if self.has_work
            && let Err(error) = self.hold()
        {
            tracing::debug!(%error, "no lease");
        }
    }

    /// Keeps the collector off until [`Engine::release`].
    pub(super) fn hold(&mut self) -> Result<(), StoreError> {
        if self.lease.is_none() {
            self.lease = Some(self.planner.store().lease()?);
            self.renewed = Instant::now();
            self.unsaved = true;
        }
        Ok(())
    }

    /// Writes what is to be kept, where that is news. `whole`: the recipe has nothing but what this run knows. Whether
    /// it was written: what is kept already may be damaged.
    pub(super) fn keep(&mut self, whole: bool) -> Result<bool, StoreError> {
        self.saved = Instant::now();
        self.unsaved = false;
        match self.planner.state().keep(&self.in_use(whole)) {
            Ok(()) => Ok(true),
            Err(StoreError::RootDamaged { path, .. }) => {
                // What it kept is not known any more, so nothing may be written in its place.
                if self.missed.insert(path.clone()) {
                    self.warn(None, self.config.hints.root_damaged(&path));
                }
                Ok(false)
            }
            // Nothing ran: results were found, in a store that others may write.
            Err(error) if self.lease.is_none() => {
                tracing::debug!(%error, "what is used is not kept");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether all that the recipe has was built, or found.
    pub(super) fn is_whole(&self) -> bool {
        let done = |id| {
            matches!(
                self.schedule.state(id),
                TaskState::Done | TaskState::Unwanted
            )
        };
        self.config.whole && self.schedule.ids().all(done)
    }

    /// Gives the lease up, when all is kept that is to be.
    pub(super) fn release(&mut self) {
        self.planner.state().touch(self.config.now);
        self.lease = None;
    }

    /// What this run uses of the store, as far as it is known.
    fn in_use(&self, whole: bool) -> InUse<'_> {
        let mut results = Vec::new();
        let mut names = HashMap::new();
        for id in self.graph.ids() {
            let used = self.planner.in_use(id);
            if used.is_empty() && !whole {
                continue;
            }
            for name in self.graph.stable_names(id) {
                results.extend(
                    used.iter()
                        .enumerate()
                        .map(|(unit, run)| (chain_step_name(name.clone(), unit), *run)),
                );
                if whole {
                    names.insert(name, Some(used.len()).filter(|units| *units > 0));
                }
            }
        }
        InUse {
            results,
            packages: Some(&self.used),
            whole: whole.then_some(names),
        }
    }
}
