//! `impasto fetch`: brings everything that a build needs from elsewhere into the store; the build then needs no network.
//! Knows which inputs come from elsewhere, not how they come.

use std::collections::BTreeSet;

use clap::Args;
use impasto_store::Store;

use super::build::{engine_config, exit_code};
use super::error::CliError;
use super::hint::package_help;
use super::lock_context::LockContext;
use super::session::{Loaded, Session};
use super::{RecipeArgs, RunArgs, exit};
use crate::base::cancel::CancelToken;
use crate::base::human;
use crate::debian::packages::fetch::DemandError;
use crate::debian::packages::tools;
use crate::engine::event::{Event, EventKind};
use crate::engine::graph::Selection;
use crate::engine::roots::{InUse, UsedPackages};
use crate::engine::run::{Engine, Summary};
use crate::ui;

#[derive(Debug, Args)]
pub(crate) struct Fetch {
    #[command(flatten)]
    recipe: RecipeArgs,
    #[command(flatten)]
    run: RunArgs,
    /// Fails if the lock would have to change
    #[arg(long)]
    locked: bool,
}

impl Fetch {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let (mut loaded, store) = session.load_with_store(&self.recipe)?;
        loaded.sandbox = self.run.sandbox.kind();
        let selection = loaded.selection()?;
        let mirrors = session.mirrors(self.run.mirror.as_deref())?;
        let sandbox = session.sandbox(self.run.sandbox, mirrors.clone());
        let context = LockContext::new(session, &store, mirrors, sandbox.clone());
        context.ensure(&mut loaded, &self.recipe, &selection, self.locked, None)?;
        // Named before they come, so that they are kept should this be interrupted.
        let _lease = store.lease()?;
        keep(&loaded, &store)?;
        let fetcher = context.fetcher(&loaded);
        let needed = loaded.graph.closure(&selection.nodes);
        let needed: Vec<_> = loaded.graph.ids().filter(|id| needed[*id]).collect();
        let sets = loaded.graph.package_sets(needed.iter().copied());
        fetcher.begin(sets.iter().copied());
        let wait = ui::Wait::new(&session.host, "fetch", "packages", fetcher.meter());
        let (mut count, mut bytes) = (0, 0);
        let mut digests = BTreeSet::new();
        for set in &sets {
            fetcher
                .demand(set, &CancelToken::new())
                .map_err(package_error)?;
            for package in &set.install {
                if digests.insert(package.sha256) {
                    count += 1;
                    bytes += package.size;
                }
            }
        }
        // Images and files that stages name by URL and checksum.
        let fetched = needed
            .iter()
            .copied()
            .filter(|id| loaded.graph.node(*id).kind.name == "fetch");
        let selection = Selection {
            nodes: fetched.collect(),
            images: Vec::new(),
        };
        let mut summary = Summary::default();
        if !selection.nodes.is_empty() {
            let packages = || fetcher.clone();
            let config = engine_config(
                session,
                &self.recipe,
                &self.run,
                &loaded,
                sandbox,
                &packages,
            );
            let planner = loaded.planner(&store, &[])?;
            let mut events = |event: &Event| {
                ui::follow(fetcher.meter(), event);
                if let EventKind::StageFailed {
                    stage,
                    error,
                    causes,
                    ..
                } = &event.kind
                {
                    ui::message(&format!("error: {stage}: {error}"));
                    causes
                        .iter()
                        .for_each(|cause| ui::message(&format!("  caused by: {cause}")));
                }
            };
            let engine = Engine::new(planner, &selection, config, session.start, &mut events)?;
            summary = engine.run();
        }
        drop(wait);
        let images = match selection.nodes.len() {
            0 => String::new(),
            1 => ", and 1 file used by a stage".to_owned(),
            more => format!(", and {more} files used by stages"),
        };
        ui::output(&format!(
            "{count} packages, {}{images} are in the store\n",
            human::bytes(bytes)
        ))?;
        Ok(exit_code(&summary))
    }
}

/// What of packages a recipe's lock names.
pub(super) fn used_packages(loaded: &Loaded) -> UsedPackages {
    let entries = loaded.lock.toolbox.iter().chain(&loaded.lock.stages);
    let files = entries
        .flat_map(|entry| &entry.packages)
        .map(|package| package.sha256.to_string())
        .collect();
    let trees = loaded
        .graph
        .toolbox
        .iter()
        .map(|set| tools::name(set).to_string())
        .collect();
    UsedPackages { files, trees }
}

/// Keeps the package files of a recipe's lock from the collector.
pub(super) fn keep(loaded: &Loaded, store: &Store) -> Result<(), CliError> {
    let packages = used_packages(loaded);
    Ok(loaded.state(store).keep(&InUse {
        packages: Some(&packages),
        ..InUse::default()
    })?)
}

fn package_error(error: DemandError) -> CliError {
    match error {
        DemandError::Package(error) => CliError::Other {
            message: error.to_string(),
            help: error.help.as_ref().map(package_help),
            code: exit::STAGE,
        },
        DemandError::Store(error) => CliError::Store(error),
        DemandError::Cancelled => CliError::Other {
            message: "cancelled".to_owned(),
            help: None,
            code: exit::INTERRUPTED,
        },
    }
}
