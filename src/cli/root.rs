//! What needs root: said before anything starts, once, with the command that does it.
//! Knows which stages run programs; runs none.

use impasto_stages::action::Executor;
use impasto_store::Store;

use super::error::CliError;
use super::session::{Loaded, Session, quoted};
use super::{SandboxChoice, exit};
use crate::base::host::Host;
use crate::engine::graph::{NodeId, Selection};
use crate::engine::plan::PlanState;
use crate::engine::run::Engine;

/// Where sudo looks for programs, as Debian and Ubuntu configure it (`secure_path` of sudoers(5)).
const SECURE_PATH: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// Variables beside `IMPASTO_*` that decide what impasto does, and which sudo does not pass on.
const VARIABLES: [&str; 8] = [
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];

impl Session {
    /// Demands root; `what` is the sentence's beginning, such as "an audit runs programs".
    ///
    /// # Errors
    /// This user is not root.
    pub(crate) fn demand_root(&self, what: &str) -> Result<(), CliError> {
        if self.host.root {
            return Ok(());
        }
        let message = format!("{what}, which needs root");
        Err(CliError::Other {
            message,
            help: Some(self.as_root()),
            code: exit::INTERNAL,
        })
    }

    /// Demands root for something that happens in the sandbox that is used where none is chosen.
    pub(crate) fn demand_sandbox(&self, what: &str) -> Result<(), CliError> {
        match self.can_use(self.sandbox_kind(SandboxChoice::Auto)) {
            true => Ok(()),
            false => self.demand_root(what),
        }
    }

    /// Demands root where packages have to be locked. `again` are the selectors of nodes that the build which asks runs in
    /// any case: what else it needs root for is said with it. `None` is a command that locks only.
    ///
    /// # Errors
    /// This user is not root, and there is something to lock; or the plan cannot be made.
    pub(crate) fn demand_root_to_lock(
        &self,
        loaded: &Loaded,
        store: &Store,
        selection: &Selection,
        to_lock: &[NodeId],
        again: Option<&[String]>,
    ) -> Result<(), CliError> {
        if self.can_use(loaded.sandbox) || to_lock.is_empty() {
            return Ok(());
        }
        let to_run = match again {
            Some(again) => {
                let states = loaded.planner(store, again)?.plan(&selection.nodes)?;
                let open = |id: &NodeId| {
                    matches!(
                        &states[*id],
                        Some(PlanState::Dirty { .. } | PlanState::Pending { .. })
                    )
                };
                running_programs(loaded, loaded.graph.ids().filter(open))
            }
            None => Vec::new(),
        };
        let locked = format!("packages must be locked for {}", names(loaded, to_lock));
        self.demand_root(&match to_run.as_slice() {
            [] => locked,
            ids => format!(
                "{locked}, and programs must be run for {}",
                names(loaded, ids)
            ),
        })
    }

    /// Demands root where a build that is about to begin runs programs.
    ///
    /// # Errors
    /// This user is not root, and a stage runs programs.
    pub(crate) fn demand_root_to_run(
        &self,
        loaded: &Loaded,
        engine: &Engine<'_>,
    ) -> Result<(), CliError> {
        if self.can_use(loaded.sandbox) {
            return Ok(());
        }
        match running_programs(loaded, engine.open()).as_slice() {
            [] => Ok(()),
            ids => self.demand_root(&format!("programs must be run for {}", names(loaded, ids))),
        }
    }

    /// How to run this command as root.
    pub(super) fn as_root(&self) -> String {
        match sudo_line(&self.host, &self.arguments) {
            Some(line) => format!(
                "{line}\n(with sudo, the store, the written files and the lock remain yours)"
            ),
            None => "run it as root".to_owned(),
        }
    }
}

/// The stages' names, each once, in the order of the recipe.
fn names(loaded: &Loaded, ids: &[NodeId]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for id in ids {
        let name = &*loaded.graph.node(*id).stage;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    match names.as_slice() {
        [one] => format!("stage {one}"),
        several => format!("the stages {}", several.join(", ")),
    }
}

/// Those of `open`, nodes without a known result, that run programs. What waits for another one counts too: it is better to
/// ask for root in vain, where a stage comes out as before, than after a download.
fn running_programs(loaded: &Loaded, open: impl Iterator<Item = NodeId>) -> Vec<NodeId> {
    let runs = |id: &NodeId| {
        loaded
            .graph
            .node(*id)
            .lowered
            .actions
            .iter()
            .any(|action| matches!(action.executor, Executor::Sandbox(_)))
    };
    open.filter(runs).collect()
}

/// This command line with sudo before it; none where there is no sudo.
fn sudo_line(host: &Host, arguments: &[String]) -> Option<String> {
    let in_path = |name: &str| {
        host.path_dirs()
            .map(|dir| dir.join(name))
            .find(|path| path.is_file())
    };
    in_path("sudo")?;
    let (program, arguments) = arguments.split_first()?;
    let secure = in_path(program).is_some_and(|path| {
        SECURE_PATH
            .iter()
            .any(|dir| path.parent() == Some(dir.as_ref()))
    });
    // What sudo would not find goes by its path.
    let program = if program.contains('/') || secure {
        program.clone()
    } else {
        host.exe.to_string_lossy().into_owned()
    };
    let passed = |name: &&str| name.starts_with("IMPASTO_") || VARIABLES.contains(name);
    let mut variables: Vec<&str> = host
        .env
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(passed)
        .collect();
    variables.sort_unstable();
    let mut line = "sudo".to_owned();
    if !variables.is_empty() {
        line += &format!(" --preserve-env={}", variables.join(","));
    }
    for word in std::iter::once(&program).chain(arguments) {
        line += &format!(" {}", quoted(word));
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suggested_command_is_the_same_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display().to_string();
        let env = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
                .collect()
        };
        let words = |line: &[&str]| {
            line.iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        let mut host = Host::read().unwrap();
        host.env = env(&[
            ("PATH", &path),
            ("IMPASTO_STORE", "/s"),
            ("HOME", "/h"),
            ("XDG_CACHE_HOME", "/c"),
        ]);
        host.exe = "/home/u/.cargo/bin/impasto".into();
        let line = words(&["impasto", "build", "--var", "text=a b"]);
        assert_eq!(sudo_line(&host, &line), None, "there is no sudo");
        std::fs::write(dir.path().join("sudo"), "").unwrap();
        std::fs::write(dir.path().join("impasto"), "").unwrap();
        // sudo does not look where the user does, and keeps variables to itself.
        let expected = "sudo --preserve-env=IMPASTO_STORE,XDG_CACHE_HOME /home/u/.cargo/bin/impasto build --var 'text=a b'";
        assert_eq!(sudo_line(&host, &line).as_deref(), Some(expected));
        host.env = env(&[("PATH", &path)]);
        let line = words(&["target/release/impasto", "build"]);
        assert_eq!(
            sudo_line(&host, &line).as_deref(),
            Some("sudo target/release/impasto build")
        );
    }
}
