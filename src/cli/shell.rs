//! `impasto shell`: a shell in a stage's disk, or in the state in which it failed.
//! Knows which disk is meant; the sandbox opens the shell.

use clap::Args;

use super::error::CliError;
use super::session::{Loaded, Session};
use super::{RecipeArgs, SandboxChoice, exit};
use crate::plan::State;
use crate::sandbox::ShellJob;
use crate::shell::{FailedState, StoredRoot};
use crate::ui;

#[derive(Debug, Args)]
pub(crate) struct Shell {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Runs one line instead of an interactive shell
    #[arg(short = 'c', long = "command", value_name = "LINE")]
    line: Option<String>,
    /// Lets the shell use the network
    #[arg(long)]
    network: bool,
    /// Opens the stage's result, also where its last run failed
    #[arg(long)]
    result: bool,
}

impl Shell {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let loaded = session.load(&self.recipe)?;
        let selector = loaded.one_selector()?;
        let picked = loaded.graph.select(selector)?;
        let [id] = picked.nodes.as_slice() else {
            let labels: Vec<_> = picked.nodes.iter().map(|id| loaded.graph.node(*id).label.clone()).collect();
            let message = format!("{selector} names several: {}", labels.join(", "));
            return Err(CliError::usage(message, "name one of them, such as STAGE[axis=value]"));
        };
        let sandbox = session.sandbox(SandboxChoice::Auto).map_err(|message| CliError::Other {
            message,
            help: None,
            code: exit::INTERNAL,
        })?;
        let store = session.store()?;
        let node = loaded.graph.node(*id);
        let name = loaded.graph.stable_name(&node.stage, node.combinations[0]);
        let failed = if self.result { None } else { FailedState::find(&loaded.state(&store).failed()?, &name) };
        let (mut chain, disk, root) = match &failed {
            Some((_, state)) => (store.chain(&state.disk.layer)?.paths, state.disk, state.root.clone()),
            None => {
                let (disk, root) = self.cached_disk(&loaded, &store, *id)?;
                (store.chain(&disk.layer)?.paths, disk, root)
            }
        };
        let what = match failed {
            Some((overlay, _)) => {
                chain.push(overlay);
                "the state in which it failed"
            }
            None => "its result",
        };
        if self.line.is_none() {
            ui::message(&format!("{}: {what}. What you change is thrown away when the shell ends.", node.label));
        }
        // Keeps the collector off the layers that the shell stands on, and off its overlay.
        let _lease = store.lease()?;
        let scratch = store.scratch()?;
        let code = sandbox.shell(ShellJob {
            work: scratch.path(),
            chain,
            virtual_size: disk.virtual_size,
            root: root.into(),
            line: self.line,
            env: node.lowered.actions[0].env.clone().into_iter().collect(),
            network: self.network,
        })?;
        Ok(u8::try_from(code).unwrap_or(exit::INTERNAL))
    }

    /// The disk that a node made when it last ran with what it depends on now.
    fn cached_disk(
        &self,
        loaded: &Loaded,
        store: &impasto_store::Store,
        id: crate::graph::NodeId,
    ) -> Result<(impasto_store::layer::DiskRef, StoredRoot), CliError> {
        let node = loaded.graph.node(id);
        let mut planner = loaded.planner(store, &[])?;
        let states = planner.plan(&[id])?;
        match &states[id.index()] {
            Some(State::Cached(hit)) => match hit.result.disk {
                Some(disk) => {
                    let action = &node.lowered.actions[0];
                    // A stage that a chain begins with says itself where the root is.
                    let root = if action.parent.is_some() { action.root.clone() } else { node.root.clone() };
                    Ok((disk, StoredRoot::from(&root)))
                }
                None => Err(CliError::usage(format!("{} made no disk", node.label), "name a stage that makes one")),
            },
            _ => Err(CliError::Other {
                message: format!("{} is not built", node.label),
                help: Some(format!("build it first: impasto build '{}'", node.label)),
                code: exit::INTERNAL,
            }),
        }
    }
}
