//! What commands do before they need packages: they have them locked, or say why that cannot be.
//! Knows flags and words; the engine locks.

use impasto_store::Store;

use super::error::CliError;
use super::session::{Loaded, Session, shown};
use super::{RecipeArgs, exit};
use crate::debian::mirror::MirrorChoice;
use crate::debian::packages::host::PackageHost;
use crate::debian::packages::places::SNAPSHOT_VARIABLE;
use crate::engine::event::Event;
use crate::engine::graph::{NodeId, Selection};
use crate::engine::locking::{LockGap, LockRun, source_request};
use crate::engine::run::RunConfig;
use crate::lock;

/// What a command wants of the lock.
pub(super) struct LockNeed<'a> {
    pub(super) recipe: &'a RecipeArgs,
    pub(super) selection: &'a Selection,
    /// Whether the lock may not change.
    pub(super) locked: bool,
    /// Whether nobody may be asked.
    pub(super) offline: bool,
    /// Selectors of what runs in any case, where the command is a build.
    pub(super) rebuild: Option<&'a [String]>,
}

impl Session {
    /// Where packages come from: from the mirrors that the user chose.
    pub(super) fn package_host(&self, mirrors: MirrorChoice) -> PackageHost {
        let snapshot = self.host.var(SNAPSHOT_VARIABLE);
        let snapshot = snapshot.filter(|pattern| !pattern.is_empty());
        PackageHost::new(mirrors, snapshot.map(str::to_owned), self.host.now())
    }

    /// Sees to it that every node that a selection needs has its packages resolved: what the lock has nothing for is
    /// resolved now, unless it may not change; what is stale or cannot be used is an error. A lock that may not change must
    /// be usable as a whole, whatever of it is needed.
    ///
    /// Root, where locking needs it, is demanded first, and of a build what else needs it is said as well.
    pub(super) fn lock(
        &self,
        loaded: &mut Loaded,
        store: &Store,
        need: &LockNeed<'_>,
        config: RunConfig<'_>,
        events: &mut dyn FnMut(&Event),
    ) -> Result<(), CliError> {
        let LockNeed {
            recipe,
            selection,
            locked,
            offline,
            rebuild,
        } = *need;
        let foreign = locked.then(|| loaded.graph.foreign_entry(&loaded.recipe));
        if let Some(gap) = foreign.flatten() {
            return Err(self.not_locked(loaded, need, gap));
        }
        let needed = loaded.graph.closure(&selection.nodes);
        let open = loaded.graph.unlocked(&needed);
        if let Some(gap) = loaded.graph.lock_gap(&open) {
            // What is wrong with the lock is said by whoever runs it.
            if locked || offline || gap.is_stale {
                return Err(self.not_locked(loaded, need, gap));
            }
            // What is no package is found out by our own code.
            let packages = |id: &NodeId| source_request(loaded.graph.node(*id)).is_none();
            let packages: Vec<_> = open.iter().copied().filter(packages).collect();
            self.demand_root_to_lock(loaded, store, selection, &packages, rebuild)?;
            LockRun::new(&loaded.recipe, store, config, self.start, events)
                .lock_missing(&mut loaded.graph, &needed)?;
            if let Some(gap) = loaded.graph.lock_gap(&loaded.graph.unlocked(&needed)) {
                return Err(self.not_locked(loaded, need, gap));
            }
        }
        if !locked && recipe.only.is_empty() {
            loaded.graph.tidy_lock(&loaded.recipe, store);
        }
        Ok(())
    }

    fn not_locked(&self, loaded: &Loaded, need: &LockNeed<'_>, gap: LockGap) -> CliError {
        let path = lock::path_of(&loaded.recipe);
        let help = if need.offline && !gap.is_stale {
            "build once without --offline, which writes it".to_owned()
        } else if need.locked && !gap.is_stale {
            "build once without --locked, which writes it, and keep the file with the recipe"
                .to_owned()
        } else {
            let (names, place) = (gap.names.join(" "), self.place(need.recipe));
            format!("lock them again: impasto update {names}{place}")
        };
        CliError::Other {
            message: format!("{} {}", shown(&path, &self.host.cwd).display(), gap.problem),
            help: Some(help),
            code: exit::RECIPE,
        }
    }
}
