//! `impasto shell`: a shell in a stage's disk, or in the state in which it failed.
//! Knows which disk is meant; the sandbox opens the shell.

use std::fs::File;
use std::path::Path;

use clap::Args;
use impasto_store::chain::open_file_path;
use impasto_store::qcow2::Qcow2;

use super::disk_names::{disk_node, no_disk};
use super::error::CliError;
use super::session::Session;
use super::{RecipeArgs, SandboxChoice, exit};
use crate::bounded;
use crate::plan::State;
use crate::sandbox::ShellJob;
use crate::shell::{FailedState, StoredRoot};
use crate::ui;
use crate::vm::VmError;

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
}

impl Shell {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        session.demand_root("a shell runs programs on a stage's disk")?;
        let loaded = session.load(&self.recipe)?;
        let id = disk_node(&loaded, loaded.one_selector()?)?;
        let mirrors = session.mirrors(None)?;
        let sandbox = session.sandbox(SandboxChoice::Auto, mirrors).map_err(|message| CliError::Other {
            message,
            help: None,
            code: exit::INTERNAL,
        })?;
        let store = session.store()?;
        // Keeps the collector off the layers until they are open; what it deletes then stays there for the shell.
        let lease = store.lease()?;
        loaded.state(&store).touch(session.host.now());
        let node = loaded.graph.node(id);
        let mut planner = loaded.planner(&store, &[])?;
        let state = planner.plan(&[id])?.swap_remove(id.index());
        let failed_dir = loaded.state(&store).failed()?;
        // Both stay open until the shell has ended.
        let (chain, failed, disk, root, what) = match state {
            Some(State::Cached(hit)) => {
                let Some(disk) = hit.result.disk else {
                    return Err(no_disk(&store, &node.label, &hit.result)?);
                };
                (store.chain(&disk.layer)?, None, disk, StoredRoot::from(&node.root), "its result")
            }
            Some(State::Dirty { action, .. }) => {
                let failed = loaded.names(id).find_map(|name| FailedState::find(&failed_dir, &name));
                let Some((overlay, state)) = failed.filter(|(_, state)| state.action == action) else {
                    return Err(not_built(&node.label));
                };
                let chain = store.chain(&state.disk.layer)?;
                (chain, Some(checked(&overlay)?), state.disk, state.root, "the state in which it failed")
            }
            _ => return Err(not_built(&node.label)),
        };
        drop(lease);
        if self.line.is_none() {
            ui::message(&format!("{}: {what}. What you change is thrown away when the shell ends.", node.label));
        }
        let interrupt = session.interrupt.listen();
        let scratch = store.scratch()?;
        let code = sandbox.shell(ShellJob {
            work: scratch.path(),
            chain: chain.paths().into_iter().chain(failed.iter().map(open_file_path)).collect(),
            virtual_size: disk.virtual_size,
            root: root.into(),
            line: self.line,
            env: node.lowered.actions[0].env.clone().into_iter().collect(),
            network: self.network,
            cancel: interrupt.token(),
            privileged: node.lowered.actions[0].privileged,
        })?;
        Ok(u8::try_from(code).unwrap_or(exit::INTERNAL))
    }
}

/// The overlay of a failed stage, which nothing has checked since it was kept.
fn checked(overlay: &Path) -> Result<File, CliError> {
    let read = || CliError::io("read", overlay);
    let file = bounded::open(overlay).map_err(read())?;
    let gate = |source| VmError::Gate { path: overlay.to_owned(), source: Box::new(source) };
    Qcow2::open(file.try_clone().map_err(read())?).map_err(gate)?;
    Ok(file)
}

fn not_built(label: &str) -> CliError {
    CliError::Other {
        message: format!("{label} is not built, and did not fail with what it depends on now"),
        help: Some(format!("build it first: impasto build '{label}'")),
        code: exit::INTERNAL,
    }
}
