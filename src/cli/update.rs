//! `impasto update`: resolves packages and what else comes from elsewhere again, and updates the lock.
//! Knows names of stages and packages; the package manager decides.

use std::collections::BTreeSet;

use clap::Args;

use super::build::engine_config;
use super::error::CliError;
use super::record::{RecordArgs, view};
use super::session::{Loaded, Session};
use super::{RecipeArgs, RunArgs, SandboxChoice, exit};
use crate::engine::event::{Event, EventKind};
use crate::engine::graph::{NodeId, NodeMap};
use crate::engine::locking::{Choice, LockRun, LockState, Renewal};
use crate::lock::TOOLBOX;
use crate::recipe::suggest;
use crate::ui;

#[derive(Debug, Args)]
#[command(after_help = "\
Names after the recipe are stages, packages, or `toolbox` for the tools that impasto itself uses.
For a stage, all its packages are resolved again, or what it fetches is looked up again. A package gets its newest version wherever it is locked, and the
others keep theirs. The entry of a stage that is no longer in the recipe is removed.
Without names everything is resolved again.")]
pub(crate) struct Update {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Where Debian's packages come from: http://…, https://…, file:/… or copy:/… [default: IMPASTO_MIRROR, else the mirrors of the host's apt]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Only shows what would change
    #[arg(long)]
    dry_run: bool,
}

impl Update {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let (mut loaded, store) = session.load_with_store(&self.recipe)?;
        let (choices, tools, gone) = choose(&loaded)?;
        let asks_apt = |id: &NodeId| {
            let open = !matches!(choices[*id], Some(Choice::Stay))
                || !loaded.graph.lock_state(*id).is_locked();
            open && loaded.graph.node(*id).lowered.request.is_some()
        };
        if loaded.graph.ids().any(|id| asks_apt(&id)) {
            session.demand_sandbox("an update runs apt")?;
        }
        let prune = gone || (loaded.selectors().is_empty() && self.recipe.only.is_empty());
        let mirrors = session.mirrors(self.mirror.as_deref())?;
        let sandbox = session.sandbox(SandboxChoice::Auto, mirrors.clone());
        let (run, packages) = (RunArgs::default(), session.package_host(mirrors));
        let config = engine_config(session, &self.recipe, &run, &loaded, sandbox, &packages)?;
        let renewal = Renewal {
            choices,
            tools,
            prune,
            dry_run: self.dry_run,
        };
        let is_json = session.global.progress.is_json();
        let mut reporter = view(session, &RecordArgs::default(), &loaded);
        let mut events = |event: &Event| {
            // To people the changes are the command's answer.
            if is_json || !matches!(event.kind, EventKind::Locked { .. }) {
                reporter.event(event);
            }
        };
        let changes = LockRun::new(&loaded.recipe, &store, config, session.start, &mut events)
            .renew(&mut loaded.graph, &renewal)?;
        reporter.finish()?;
        if is_json {
            return Ok(exit::OK);
        }
        let text = match changes.as_slice() {
            [] => "nothing is newer: the lock is unchanged\n".to_owned(),
            changes => changes.iter().map(|change| format!("{change}\n")).collect(),
        };
        ui::output(&text)?;
        Ok(exit::OK)
    }
}

/// What the names mean for every node, whether the tools are resolved again, and whether entries go whose stage is gone.
fn choose(loaded: &Loaded) -> Result<(NodeMap<Option<Choice>>, bool, bool), CliError> {
    let names = loaded.selectors();
    let everything = if names.is_empty() {
        Choice::All
    } else {
        Choice::Stay
    };
    let mut choices = NodeMap::filled(Some(everything), loaded.graph.len());
    let mut tools = names.is_empty();
    let mut gone = false;
    let entries = || {
        let lock = loaded.graph.lock();
        let refused = lock.refused.iter().map(|entry| &entry.name);
        let sources = lock.sources.iter().map(|source| &source.name);
        let packages = lock.stages.iter().map(|entry| &entry.name);
        packages.chain(sources).chain(refused)
    };
    let mut packages = BTreeSet::new();
    for name in names {
        if name == TOOLBOX {
            tools = true;
        } else if let Ok(selection) = loaded.graph.select(name)
            && (selection.images.is_empty() || name.starts_with("image."))
        {
            // A bare name of an image may be a package's, and an image itself has none.
            selection
                .nodes
                .iter()
                .for_each(|id| choices[*id] = Some(Choice::All));
        } else if entries().any(|entry| entry == name)
            && !loaded.recipe.stage_names.contains(name.as_str())
        {
            gone = true;
        } else {
            packages.insert(name.clone());
        }
    }
    for name in &packages {
        let mut found = false;
        for id in loaded.graph.ids() {
            let place = match loaded.graph.lock_state(id) {
                LockState::Locked(place) | LockState::Stale { entry: place, .. } => *place,
                _ => continue,
            };
            let locked = loaded.graph.lock().stages[place]
                .packages
                .iter()
                .any(|package| package.file.name == *name);
            let request = loaded.graph.node(id).lowered.request.as_ref();
            if !locked && !request.is_some_and(|request| request.names(name)) {
                continue;
            }
            found = true;
            match &mut choices[id] {
                Some(Choice::Only(names)) => names.push(name.clone()),
                Some(Choice::All) => {}
                choice => *choice = Some(Choice::Only(vec![name.clone()])),
            }
        }
        if !found {
            let stages = loaded
                .graph
                .ids()
                .map(|id| loaded.graph.node(id).stage.to_string());
            let known = loaded
                .graph
                .lock()
                .stages
                .iter()
                .flat_map(|entry| &entry.packages);
            let known: BTreeSet<String> = known
                .map(|package| package.file.name.clone())
                .chain(stages)
                .collect();
            let nearest = suggest::nearest(name, known.iter().map(String::as_str));
            let help = nearest.map_or("name a stage or a locked package".to_owned(), |name| {
                format!("did you mean `{name}`?")
            });
            return Err(CliError::usage(
                format!("`{name}` is neither a stage nor a locked package"),
                help,
            ));
        }
    }
    Ok((choices, tools, gone))
}
