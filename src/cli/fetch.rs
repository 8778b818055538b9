//! `impasto fetch`: brings everything that a build needs from elsewhere into the store; the build then needs no network.
//! Knows which inputs come from elsewhere, not how they come.

use clap::Args;

use super::build::{engine_config, exit_code};
use super::error::CliError;
use super::hint::package_help;
use super::locking::LockNeed;
use super::record::{RecordArgs, view};
use super::session::Session;
use super::{RecipeArgs, RunArgs, exit};
use crate::base::human;
use crate::debian::packages::fetch::DemandError;
use crate::engine::event::Event;
use crate::engine::graph::Selection;
use crate::engine::locking::LockRun;
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
        loaded.sandbox = session.sandbox_kind(self.run.sandbox);
        let selection = loaded.selection()?;
        let mirrors = session.mirrors(self.run.mirror.as_deref())?;
        let sandbox = session.sandbox(self.run.sandbox, mirrors.clone());
        let packages = session.package_host(mirrors);
        let config = engine_config(
            session,
            &self.recipe,
            &self.run,
            &loaded,
            sandbox,
            &packages,
        )?;
        let need = LockNeed {
            recipe: &self.recipe,
            selection: &selection,
            locked: self.locked,
            offline: false,
            rebuild: None,
        };
        let mut reporter = view(session, &RecordArgs::default(), &loaded);
        let mut events = |event: &Event| reporter.event(event);
        session.lock(&mut loaded, &store, &need, config.clone(), &mut events)?;
        let graph = &loaded.graph;
        let needed = graph.closure(&selection.nodes);
        let needed: Vec<_> = graph.ids().filter(|id| needed[*id]).collect();
        let sets = graph.package_sets(needed.iter().copied());
        let (count, bytes) = LockRun::new(
            &loaded.recipe,
            &store,
            config.clone(),
            session.start,
            &mut events,
        )
        .fetch(graph, &sets)
        .map_err(package_error)?;
        // Images and files that stages name by URL and checksum.
        let fetched = needed
            .iter()
            .copied()
            .filter(|id| graph.node(*id).kind.name == "fetch");
        let selection = Selection {
            nodes: fetched.collect(),
            images: Vec::new(),
        };
        let mut summary = Summary::default();
        if !selection.nodes.is_empty() {
            let planner = loaded.planner(&store, &[])?;
            let engine = Engine::new(planner, &selection, config, session.start, &mut events)?;
            summary = engine.run();
        }
        reporter.finish()?;
        if session.global.progress.is_json() {
            return Ok(exit_code(&summary));
        }
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
