//! `impasto shell`: a shell in a stage's disk, or in a stage as it was when it failed, or as it begins.
//! Knows which of them is meant; the sandbox opens the shell.

use std::fs::File;
use std::path::Path;

use clap::Args;
use impasto_stages::action::{Executor, SandboxRoot};
use impasto_stages::package_set::ARCHITECTURE;
use impasto_store::Store;
use impasto_store::chain::open_file_path;
use impasto_store::digest::ActionDigest;
use impasto_store::qcow2::Qcow2;

use super::build::engine_config;
use super::disk_names::{disk_node, no_disk};
use super::error::CliError;
use super::hint::job_help;
use super::session::{Loaded, Session};
use super::{RecipeArgs, RunArgs, SandboxChoice, exit};
use crate::base::cancel::CancelToken;
use crate::base::{bounded, human};
use crate::debian::packages;
use crate::debian::packages::host::PackageHost;
use crate::engine::cause::About;
use crate::engine::event::Event;
use crate::engine::failed::{AGAIN, FailedState, StoredRoot};
use crate::engine::graph::{Node, NodeId, Selection};
use crate::engine::job::{JobError, ShellRequest};
use crate::engine::locking;
use crate::engine::plan::PlanState;
use crate::engine::run::Engine;
use crate::sandbox::{Emulator, SandboxJob, ShellCommand};
use crate::ui;
use crate::vm::VmError;

#[derive(Debug, Args)]
pub(crate) struct Shell {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Runs one line instead of an interactive shell
    #[arg(short = 'c', long = "command", value_name = "LINE")]
    line: Option<String>,
    /// Gives the shell network access even if the stage has none
    #[arg(long)]
    network: bool,
    /// Enters the stage as it was before its first step, even if it is built or failed
    #[arg(long)]
    fresh: bool,
}

impl Shell {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        session.demand_sandbox("a shell runs programs on a stage's disk")?;
        let loaded = session.load(&self.recipe)?;
        let id = entered(&loaded, loaded.one_selector()?)?;
        let mirrors = session.mirrors(None)?;
        let sandbox = session.sandbox(SandboxChoice::Auto, mirrors.clone());
        let no_sandbox = |message: &String| CliError::Other {
            message: message.clone(),
            help: None,
            code: exit::INTERNAL,
        };
        sandbox.sandbox.as_ref().map_err(no_sandbox)?;
        let store = session.store()?;
        // Keeps the collector off the layers until they are open; what it deletes then stays there for the shell.
        let lease = store.lease()?;
        loaded.state(&store).touch(session.host.now());
        let node = loaded.graph.node(id);
        let again: &[String] = if self.fresh { loaded.selectors() } else { &[] };
        let mut planner = loaded.planner(&store, again)?;
        let state = planner.plan(&[id])?.into_value(id);
        let interrupt = session.interrupt.listen();
        let code = match state {
            Some(PlanState::Cached(hit)) => {
                let Some(disk) = hit.result.disk else {
                    return Err(match makes_files(node) {
                        true => only_files(&node.label, &session.place(&self.recipe)),
                        false => no_disk(&store, &node.label, &hit.result)?,
                    });
                };
                self.say(&format!("{}: its result.", node.label));
                // It stays open until the shell has ended.
                let chain = store.chain(&disk.layer)?;
                drop(lease);
                let scratch = store.scratch()?;
                let overlay = scratch.path().join("overlay.qcow2");
                let action = &node.lowered.actions[0];
                let emulator = (node.architecture != ARCHITECTURE)
                    .then(|| {
                        let host = session.package_host(mirrors);
                        emulator(&loaded, &store, &host, interrupt.token(), id)
                    })
                    .transpose()?;
                let job = SandboxJob {
                    emulator,
                    work: scratch.path(),
                    overlay: &overlay,
                    chain: chain.paths(),
                    virtual_size: disk.virtual_size,
                    root: StoredRoot::from(&node.root).into(),
                    env: action.env.clone().into_iter().collect(),
                    environment: session.environment.clone(),
                    network: match self.network {
                        true => Some(sandbox.policy.get()?),
                        false => None,
                    },
                    privileged: action.privileged,
                    cancel: interrupt.token(),
                    shell: Some(ShellCommand { line: self.line }),
                    ..SandboxJob::empty()
                };
                let sandbox = sandbox.sandbox.as_ref().map_err(no_sandbox)?;
                sandbox.run(job, &mut |_| {})?.shell_code()?
            }
            Some(PlanState::Dirty { action, .. }) => {
                // It stays open until the shell has ended.
                let failed = if self.fresh {
                    None
                } else {
                    failed_state(&loaded, &store, id, &action)?
                };
                if failed.is_none() && !self.fresh {
                    return Err(not_built(&node.label, &session.place(&self.recipe), true));
                }
                let (run, packages) = (RunArgs::default(), session.package_host(mirrors));
                let config =
                    engine_config(session, &self.recipe, &run, &loaded, sandbox, &packages)?;
                let selection = Selection {
                    nodes: vec![id],
                    images: Vec::new(),
                };
                let planner = loaded.planner(&store, again)?;
                let mut nobody = |_: &Event| {};
                let engine = Engine::new(planner, &selection, config, session.start, &mut nobody)?;
                let job = engine.job_of(id)?.filter(|job| job.runs_in_the_image());
                let Some(job) = job else {
                    return Err(no_steps(&node.label));
                };
                let what = if failed.is_some() {
                    "as it was when it failed"
                } else {
                    "as it was before its first step"
                };
                self.say(&format!(
                    "{}: {what}. Its scripts, inputs and secrets are in /run/impasto; {AGAIN} runs the step again, with -x \
                     line by line.",
                    node.label
                ));
                let failed = failed.as_ref();
                let request = ShellRequest {
                    failed: failed.map(|(file, state)| {
                        (open_file_path(file), state.step.map(|step| step as usize))
                    }),
                    line: self.line,
                    network: self.network,
                    cancel: interrupt.token(),
                };
                job.shell(request)
                    .map_err(|error| failed_shell(&node.label, error))?
            }
            _ => return Err(not_built(&node.label, &session.place(&self.recipe), false)),
        };
        Ok(u8::try_from(code).unwrap_or(exit::INTERNAL))
    }

    /// What somebody should know who types.
    fn say(&self, text: &str) {
        if self.line.is_none() {
            ui::message(&format!(
                "{text} Changes are discarded when the shell exits."
            ));
        }
    }
}

/// The node that a selector means: that of a disk, or one whose steps make files in a root of their own.
fn entered(loaded: &Loaded, selector: &str) -> Result<NodeId, CliError> {
    let picked = loaded.graph.select(selector)?;
    match picked.nodes.as_slice() {
        [id] if picked.images.is_empty() && makes_files(loaded.graph.node(*id)) => Ok(*id),
        _ => disk_node(loaded, selector),
    }
}

/// Whether a node's steps run in a root of which nothing but files is kept.
fn makes_files(node: &Node) -> bool {
    let last = node.lowered.actions.last();
    let runs = last.is_some_and(|action| {
        matches!(
            action.executor,
            Executor::Sandbox(SandboxRoot::Guest | SandboxRoot::Scratch)
        )
    });
    runs && !node.kind.makes.disk()
}

fn only_files(label: &str, place: &str) -> CliError {
    CliError::usage(
        format!("{label} is built, and only its files are kept"),
        format!("enter it as it was before its first step: impasto shell '{label}'{place} --fresh"),
    )
}

/// What runs the programs of a node's disk, which are for another machine: of the tools that the lock names.
fn emulator(
    loaded: &Loaded,
    store: &Store,
    host: &PackageHost,
    cancel: CancelToken,
    id: NodeId,
) -> Result<Emulator, CliError> {
    let node = loaded.graph.node(id);
    let failed = |message: String| CliError::Other {
        message,
        help: None,
        code: exit::INTERNAL,
    };
    let tools = loaded.graph.toolbox().ok_or_else(|| {
        failed(format!(
            "the lock has no tools that could run programs for {}",
            node.architecture
        ))
    })?;
    let fetcher = || {
        locking::fetcher(
            host,
            store,
            &loaded.recipe.dir,
            &loaded.graph,
            cancel.clone(),
        )
    };
    let tools = packages::tools::tools(store, tools, &fetcher, &cancel)
        .map_err(|error| failed(human::with_causes(&error)))?;
    Ok(Emulator::of_tools(&tools, &node.architecture)?)
}

/// The state in which a node failed, with its overlay, where that was with what it is to do now.
fn failed_state(
    loaded: &Loaded,
    store: &Store,
    id: NodeId,
    action: &ActionDigest,
) -> Result<Option<(File, FailedState)>, CliError> {
    let dir = loaded.state(store).failed()?;
    let failed = loaded
        .graph
        .stable_names(id)
        .find_map(|name| FailedState::find(&dir, &name));
    let failed = failed.filter(|(_, state)| state.action == *action);
    failed
        .map(|(path, state)| Ok((checked(&path)?, state)))
        .transpose()
}

/// The overlay of a failed stage, which nothing has checked since it was kept.
fn checked(overlay: &Path) -> Result<File, CliError> {
    let read = || CliError::io("read", overlay);
    let file = bounded::open(overlay).map_err(read())?;
    let gate = |source| VmError::Gate {
        path: overlay.to_owned(),
        source: Box::new(source),
    };
    Qcow2::open(file.try_clone().map_err(read())?).map_err(gate)?;
    Ok(file)
}

/// `ready`: what it needs is built.
fn not_built(label: &str, place: &str, ready: bool) -> CliError {
    let fresh = if ready {
        format!(
            "\nor enter it as it was before its first step: impasto shell '{label}'{place} --fresh"
        )
    } else {
        String::new()
    };
    CliError::Other {
        message: format!("{label} has neither been built nor failed with its current dependencies"),
        help: Some(format!(
            "build it first: impasto build '{label}'{place}{fresh}"
        )),
        code: exit::INTERNAL,
    }
}

fn no_steps(label: &str) -> CliError {
    let message = format!("{label} runs no programs in an image, so there is nothing to enter");
    CliError::Other {
        message,
        help: None,
        code: exit::USAGE,
    }
}

fn failed_shell(label: &str, error: JobError) -> CliError {
    match error {
        JobError::Sandbox(error) => CliError::Sandbox(error),
        JobError::Store(error) => CliError::Store(error),
        error => {
            let help = job_help(&error, label, &About::default(), "");
            CliError::Other {
                message: crate::base::human::with_causes(&error),
                help,
                code: exit::INTERNAL,
            }
        }
    }
}
