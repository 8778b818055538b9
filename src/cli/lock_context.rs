//! Settling packages: what `build`, `fetch`, `update` and `outdated` share.
//! Knows choices and words; who resolves is a package manager.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use impasto_stages::package_set::ARCHITECTURE;
use impasto_store::Store;
use impasto_store::lease::Lease;
use impasto_store::meter::Meter;
use impasto_store::sha256::Sha256;

use super::error::CliError;
use super::session::{Loaded, Session};
use super::{RecipeArgs, exit};
use crate::debian::mirror::{MirrorChoice, MirrorError, Mirrors};
use crate::debian::packages::apt::Apt;
use crate::debian::packages::fetch::{Fetcher, PackageDownload, PackageFetchError, Supply};
use crate::debian::packages::places::{PackageSources, SNAPSHOT_VARIABLE};
use crate::engine::graph::{NodeId, NodeMap, Selection};
use crate::engine::locking::{self, Choice, LockState, Renewal};
use crate::lock::{self, LockEntry, LockFile, TOOLBOX};
use crate::sandbox::SandboxSetup;
use crate::ui;

/// What settling needs of this host.
pub(crate) struct LockContext<'a> {
    pub(crate) session: &'a Session,
    pub(crate) store: &'a Store,
    pub(crate) choice: MirrorChoice,
    pub(crate) sandbox: SandboxSetup,
    /// Read when something is to be asked of them: a build of nothing does not ask.
    mirrors: OnceLock<Result<Mirrors, MirrorError>>,
    /// Keeps the collector off indexes and package files that come.
    lease: OnceLock<Option<Lease>>,
    /// The store, with what tells how much has come of archives.
    metered: OnceLock<(Store, Arc<Meter>)>,
}

impl<'a> LockContext<'a> {
    pub(crate) fn new(
        session: &'a Session,
        store: &'a Store,
        choice: MirrorChoice,
        sandbox: SandboxSetup,
    ) -> Self {
        let (mirrors, lease, metered) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        LockContext {
            session,
            store,
            choice,
            sandbox,
            mirrors,
            lease,
            metered,
        }
    }

    fn mirrors(&self) -> Result<&Mirrors, MirrorError> {
        self.mirrors
            .get_or_init(|| self.choice.resolve())
            .as_ref()
            .map_err(Clone::clone)
    }

    /// What gets package files for a recipe as its lock is now.
    pub(crate) fn fetcher(&self, loaded: &Loaded) -> Fetcher {
        self.fetcher_of(&loaded.recipe.dir, |places| {
            locking::wanted(places, &loaded.graph, &loaded.lock, &loaded.locks)
        })
    }

    fn fetcher_of(
        &self,
        dir: &Path,
        wanted: impl FnOnce(&PackageSources<'_>) -> HashMap<Sha256, PackageDownload>,
    ) -> Fetcher {
        let snapshot = self
            .session
            .host
            .var(SNAPSHOT_VARIABLE)
            .filter(|pattern| !pattern.is_empty());
        let supply = self.mirrors().map_err(|error| PackageFetchError {
            package: String::new(),
            reason: error.to_string(),
            help: Some("choose another mirror with --mirror or IMPASTO_MIRROR".into()),
        });
        let supply = supply.map(|mirrors| Supply {
            mirrors: mirrors.clone(),
            wanted: wanted(&PackageSources {
                mirrors,
                snapshot,
                dir,
            }),
        });
        let store = self.metered.get().map_or(self.store, |(store, _)| store);
        Fetcher::new(store.clone(), supply, self.session.host.now())
    }

    /// The package manager, with what it needs.
    pub(crate) fn manager<'m>(&'m self, dir: &'m Path) -> Result<Apt<'m>, CliError> {
        let mirrors = self.mirrors().map_err(|error| {
            let help = "choose another with --mirror or IMPASTO_MIRROR";
            CliError::usage(format!("the mirror cannot be used: {error}"), help)
        })?;
        self.lease.get_or_init(|| {
            self.store
                .lease()
                .inspect_err(|error| tracing::debug!(%error, "no lease"))
                .ok()
        });
        let get = move |entry: &LockEntry| self.fetcher_of(dir, |places| places.of_entry(entry));
        let (store, _) = self.metered();
        Ok(Apt::new(
            store,
            mirrors,
            &self.sandbox.sandbox,
            self.session.host.now(),
            Box::new(get),
        ))
    }

    /// The store whose meter tells how much has come of what a manager asked for.
    fn metered(&self) -> &(Store, Arc<Meter>) {
        self.metered.get_or_init(|| {
            let meter = Arc::<Meter>::default();
            (self.store.metered(meter.clone()), meter)
        })
    }

    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.metered().1
    }

    /// Resolves what the choices name, and writes the lock where that changed it. Gives the changes.
    pub(crate) fn renew(
        &self,
        loaded: &mut Loaded,
        choices: NodeMap<Option<Choice>>,
        tools: bool,
        prune: bool,
        dry_run: bool,
    ) -> Result<Vec<String>, CliError> {
        let before = loaded.lock.clone();
        let mut after = before.clone();
        let (dir, scope) = (loaded.recipe.dir.clone(), loaded.recipe.scope.clone());
        let shown_dir = self.session.shown_dir(loaded);
        let manager = self.manager(&dir)?;
        let wait = ui::Wait::new(&self.session.host, "locking", "packages", self.meter());
        let renewal = Renewal {
            graph: &loaded.graph,
            machine: ARCHITECTURE,
            manager: &manager,
            dir: &dir,
            shown_dir: &shown_dir,
            scope: &scope,
            choices,
            tools,
            prune: prune.then_some(&loaded.recipe.stage_names),
            image: &|id| self.image_files(loaded, id),
            progress: &|stage| wait.next("locking", &format!("the packages of {stage}")),
        };
        renewal.renew(&mut after)?;
        drop(renewal);
        drop(wait);
        let changes = lock::changes(&before, &after);
        if after != before && !dry_run {
            after.save(&loaded.lock_path, self.store.owner())?;
        }
        loaded.take_lock(after);
        if !dry_run && let Err(error) = super::fetch::keep(loaded, self.store) {
            tracing::debug!(%error, "the packages cannot be stored and will be fetched again");
        }
        Ok(changes)
    }

    /// Sees to it that every node that a selection needs has its packages resolved: what the lock has nothing for is
    /// resolved now, unless `locked` forbids it; what is stale or cannot be used is an error. With `locked` all of the lock
    /// must be usable, whatever of it is needed.
    ///
    /// Root, where locking needs it, is demanded first; with `again`, of a build, what else needs it is said as well.
    pub(crate) fn ensure(
        &self,
        loaded: &mut Loaded,
        recipe: &RecipeArgs,
        selection: &Selection,
        locked: bool,
        again: Option<&[String]>,
    ) -> Result<(), CliError> {
        let needed = loaded.graph.closure(&selection.nodes);
        let open = |loaded: &Loaded| -> Vec<NodeId> {
            let unsettled = |id: &NodeId| needed[*id] && !loaded.locks[*id].is_locked();
            loaded.graph.ids().filter(unsettled).collect()
        };
        if locked {
            self.check_whole(loaded, recipe)?;
        }
        let to_lock = open(loaded);
        let wrong = |state: &LockState| {
            matches!(state, LockState::Stale { .. } | LockState::Refused { .. })
        };
        let stale = to_lock.iter().any(|id| wrong(&loaded.locks[*id]));
        // What is wrong with the lock is said by whoever runs it.
        if !locked && !stale {
            self.session
                .demand_root_to_lock(loaded, self.store, selection, &to_lock, again)?;
        }
        if to_lock.is_empty() {
            if !locked {
                self.tidy(loaded, recipe);
            }
            return Ok(());
        }
        if !locked && !stale {
            let choices = needed
                .values()
                .map(|needed| needed.then_some(Choice::Stay))
                .collect();
            for change in self.renew(loaded, choices, false, false, false)? {
                ui::message(&format!("locked {change}"));
            }
        }
        let open = open(loaded);
        let Some(first) = open.first() else {
            self.tidy(loaded, recipe);
            return Ok(());
        };
        let lock = self.shown_lock(loaded);
        let label = |id: &NodeId| loaded.graph.node(*id).label.clone();
        let mut message = match &loaded.locks[*first] {
            LockState::Stale { why, .. } => {
                format!("{lock} is stale: stage {}: {why}", label(first))
            }
            LockState::Refused { name, why } => refusal(&lock, name, why),
            LockState::NoToolbox => format!(
                "{lock} does not list the tools that stage {} needs",
                label(first)
            ),
            _ => format!("{lock} has no packages for stage {}", label(first)),
        };
        for id in &open[1..] {
            match &loaded.locks[*id] {
                LockState::Stale { why, .. } => {
                    message += &format!("\n  stage {}: {why}", label(id))
                }
                LockState::Refused { name, why } if name != TOOLBOX => {
                    message += &format!("\n  stage {name}: {why}")
                }
                _ => {}
            }
        }
        let mut names: Vec<_> = open
            .iter()
            .map(|id| match &loaded.locks[*id] {
                LockState::Refused { name, .. } => name.clone(),
                _ => loaded.graph.node(*id).stage.to_string(),
            })
            .collect();
        names.dedup();
        let help = if locked && !stale {
            "build once without --locked, which writes it, and keep the file with the recipe"
                .to_owned()
        } else {
            format!(
                "lock them again: impasto update {}{}",
                names.join(" "),
                self.session.place(recipe)
            )
        };
        Err(CliError::Other {
            message,
            help: Some(help),
            code: exit::RECIPE,
        })
    }

    /// Makes the lock what a build of all combinations writes: parts of the matrix that were built alone leave entries
    /// that name only themselves, or that nothing uses any more.
    fn tidy(&self, loaded: &mut Loaded, recipe: &RecipeArgs) {
        let tidied = || locking::tidied(&loaded.graph, &loaded.lock, &loaded.locks);
        let Some(tidied) = recipe.only.is_empty().then(tidied).flatten() else {
            return;
        };
        match tidied.save(&loaded.lock_path, self.store.owner()) {
            Ok(()) => loaded.take_lock(tidied),
            // It serves as it is.
            Err(error) => tracing::debug!(%error, "the lock cannot be tidied"),
        }
    }

    /// Whether every entry can be used and is of a stage of the recipe, needed or not.
    fn check_whole(&self, loaded: &Loaded, recipe: &RecipeArgs) -> Result<(), CliError> {
        let lock = self.shown_lock(loaded);
        let ghost = loaded
            .lock
            .stages
            .iter()
            .find(|entry| !loaded.recipe.stage_names.contains(entry.name.as_str()));
        let (name, message) = match (loaded.lock.refused.first(), ghost) {
            (Some(entry), _) => (&entry.name, refusal(&lock, &entry.name, &entry.reason)),
            (None, Some(entry)) => (
                &entry.name,
                format!(
                    "{lock} has packages for stage {}, which the recipe does not have",
                    entry.name
                ),
            ),
            (None, None) => return Ok(()),
        };
        let help = format!(
            "lock them again: impasto update {name}{}",
            self.session.place(recipe)
        );
        Err(CliError::Other {
            message,
            help: Some(help),
            code: exit::RECIPE,
        })
    }

    /// The lock's path, as messages show it.
    fn shown_lock(&self, loaded: &Loaded) -> String {
        super::session::shown(&loaded.lock_path, &self.session.host.cwd)
            .display()
            .to_string()
    }

    /// The files of a fetched disk image that tell which packages it has; the image is fetched where it is not there.
    fn image_files(
        &self,
        loaded: &Loaded,
        id: NodeId,
    ) -> Result<locking::ImageFiles, locking::RenewError> {
        let failed = |reason: String| locking::RenewError::Image {
            stage: loaded.graph.node(id).label.clone(),
            reason,
        };
        super::image_files::read(self, loaded, id).map_err(|error| failed(error.to_string()))
    }
}

/// Says which entry of a lock cannot be used, and why.
fn refusal(lock: &str, name: &str, why: &str) -> String {
    let whose = if name == TOOLBOX {
        "the toolbox".to_owned()
    } else {
        format!("stage {name}")
    };
    format!("{lock} cannot be used for {whose}: {why}")
}

impl Loaded {
    /// Goes on with another lock.
    pub(crate) fn take_lock(&mut self, lock: LockFile) {
        self.locks = locking::apply(&mut self.graph, &lock, ARCHITECTURE);
        self.lock = lock;
    }
}
