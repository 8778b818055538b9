//! The namespace sandbox: the host's kernel, namespaces, and a supervisor that lets nothing outlive impasto.
//!
//! Knows how a job becomes a conversation with supervisor and agent. For recipes and images that are trusted.

mod container;
mod emulate;
mod export;
mod loopdev;
mod probe;
pub(super) mod process;
pub(super) mod request;
mod supervisor;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Instant;

use impasto_stages::{Limits, Secret};

use crate::base::bounded;
use crate::sandbox::host_view::{HostView, NetworkPolicy, PolicyError, ReadPolicy};
use crate::sandbox::limits::{Bounds, Group};
use crate::sandbox::link::LinkError;
use crate::sandbox::protocol::{Ceiling, Problem, ProblemKind};
use crate::sandbox::session::{End, GuestSession, SessionError, run_tools_session};
use crate::sandbox::terminal::SavedTerminal;
use crate::sandbox::{
    Finished, GuestEnvironment, Outcome, Sandbox, SandboxError, SandboxEvent, SandboxFacts,
    SandboxJob, ToolEnd, ToolEvent, ToolJob, agent_digest,
};
use export::DAEMON;
use process::{Supervisor, io_error};
use request::{GuestSpec, ToolPlan};

pub use container::{MOUNT_POINTS, Perform, ToolFailure, ToolTask};
pub use probe::{ProbePiece, UserNameSpace, probe, probe_user_namespace};
pub use supervisor::{SUPERVISOR_ARGUMENT, supervisor_main};

/// Runs jobs by the host's kernel. Needs root.
pub struct NamespaceSandbox {
    executable: PathBuf,
    storage: OnceLock<Option<String>>,
    read_policy: ReadPolicy,
    policy: OnceLock<Result<NetworkPolicy, PolicyError>>,
    environment: GuestEnvironment,
    /// Whether control groups are used where the host has them.
    groups: bool,
}

impl NamespaceSandbox {
    /// `executable` is the impasto binary, which is started again as supervisor.
    pub fn new(executable: PathBuf) -> Self {
        Self {
            executable,
            storage: OnceLock::new(),
            read_policy: Box::new(|| Ok(NetworkPolicy::default())),
            policy: OnceLock::new(),
            environment: GuestEnvironment::default(),
            groups: true,
        }
    }

    /// The same, without control groups, as on a host that has none to give: what processes use is counted instead.
    #[must_use]
    pub fn without_groups(self) -> Self {
        Self {
            groups: false,
            ..self
        }
    }

    /// A job's limits in numbers, the control groups that enforce them, and what is to be watched where there are none.
    fn bounds(&self, limits: Limits) -> (Bounds, Option<Group>, Option<Ceiling>) {
        let bounds = Bounds::new(limits);
        let group = self.groups.then(|| Group::make(&bounds.ceiling)).flatten();
        let watch = group.is_none().then_some(bounds.ceiling);
        (bounds, group, watch)
    }

    /// The same, in another environment.
    #[must_use]
    pub fn in_surroundings(self, environment: GuestEnvironment) -> Self {
        Self {
            environment,
            ..self
        }
    }

    /// The same, with the host's policy for steps with network, which has none of its own.
    #[must_use]
    pub fn with_policy(self, read_policy: ReadPolicy) -> Self {
        Self {
            read_policy,
            ..self
        }
    }

    fn policy(&self) -> Result<&NetworkPolicy, SandboxError> {
        let policy = self.policy.get_or_init(&self.read_policy);
        policy
            .as_ref()
            .map_err(|error| SandboxError::Policy(error.clone()))
    }

    /// What steps see of the host because they have its network.
    fn host_view(&self, network: bool) -> Result<HostView, SandboxError> {
        if network {
            HostView::with_network(self.policy()?, &self.environment.host_name)
        } else {
            Ok(HostView::default())
        }
    }
}

impl Sandbox for NamespaceSandbox {
    fn run(
        &self,
        job: SandboxJob<'_>,
        events: &mut dyn FnMut(SandboxEvent<'_>),
    ) -> Result<Finished, SandboxError> {
        demand_root()?;
        let mut host = self.host_view(job.network)?;
        host.trees.extend(directories(&job.trees)?);
        host.caches.extend(directories(&job.caches)?);
        let begun = Instant::now();
        let oom_kills = oom_kills();
        make_overlay(job.overlay, job.virtual_size)?;
        let (bounds, group, watch) = self.bounds(job.limits);
        let plan = GuestSpec {
            work: job.work.to_path_buf(),
            overlay: job.overlay.to_path_buf(),
            chain: job.chain.clone(),
            network: job.network,
            terminal: false,
            groups: group.as_ref().map(Group::doors).unwrap_or_default(),
        };
        let mut supervisor = Supervisor::start(&self.executable, job.work)?;
        let deadline = job.timeout.map(|timeout| begun + timeout);
        let mut link = supervisor.link(deadline, job.cancel.clone(), group)?;
        let timeout = job.timeout.unwrap_or_default();
        let mut talk = GuestSession::new(&self.environment, &mut link, &bounds, watch, begun);
        let result = talk.run_job(plan, job, host, events);
        let mut timings = talk.timings();
        let group = link.take_group();
        // Closing the channel ends everything at once; after success the processes are about to end by themselves.
        let link = result.is_ok().then_some(link);
        let success = supervisor.end()?;
        drop((link, group));
        timings.push(("all".to_owned(), begun.elapsed()));
        let finished = |outcome| Finished {
            outcome,
            outputs: Vec::new(),
            unused: Vec::new(),
            mounted: Vec::new(),
            begun,
            facts: None,
            oom_kills: self::oom_kills().saturating_sub(oom_kills),
            timings: Vec::new(),
        };
        let finished = match result {
            Ok(End {
                outcome,
                outputs,
                unused,
                mounted,
                facts,
            }) if success => Finished {
                outputs,
                unused,
                mounted,
                facts,
                ..finished(outcome)
            },
            Ok(_) => return Err(supervisor.broken("its supervisor failed".to_owned())),
            Err(SessionError::Stop(LinkError::TimedOut)) => {
                finished(Outcome::TimedOut { after: timeout })
            }
            Err(SessionError::Stop(LinkError::Cancelled)) => finished(Outcome::Cancelled),
            Err(SessionError::Limit(reached)) => finished(Outcome::LimitReached(reached)),
            Err(SessionError::Stop(LinkError::Limit(_))) => {
                panic!("BUG: a limit without its number")
            }
            Err(SessionError::Stop(LinkError::Broken(reason))) => {
                return Err(supervisor.broken(reason));
            }
            Err(SessionError::Problem(problem)) => match problem.kind {
                ProblemKind::WriteBack | ProblemKind::Dirty => {
                    finished(Outcome::Damaged { problem })
                }
                _ => return Err(problem_error(problem)),
            },
            Err(SessionError::Error(error)) => return Err(error),
        };
        Ok(Finished {
            timings,
            ..finished
        })
    }

    fn shell(&self, job: SandboxJob<'_>, line: Option<String>) -> Result<i32, SandboxError> {
        demand_root()?;
        let mut host = self.host_view(job.network)?;
        host.trees.extend(directories(&job.trees)?);
        host.caches.extend(directories(&job.caches)?);
        make_overlay(job.overlay, job.virtual_size)?;
        // Whoever types is there to stop it.
        let bounds = Bounds::new(job.limits);
        let plan = GuestSpec {
            work: job.work.to_path_buf(),
            overlay: job.overlay.to_path_buf(),
            chain: job.chain.clone(),
            network: job.network,
            terminal: true,
            groups: Vec::new(),
        };
        let mut supervisor = Supervisor::start(&self.executable, job.work)?;
        let mut link = supervisor.link(None, job.cancel.clone(), None)?;
        let mut talk =
            GuestSession::new(&self.environment, &mut link, &bounds, None, Instant::now());
        let saved = SavedTerminal::new();
        let result = talk.run_shell(&plan, job, host, line);
        // The overlay is thrown away, so nothing needs to be closed in order.
        drop(link);
        let ended = supervisor.end();
        saved.restore();
        ended?;
        match result {
            Ok(code) => Ok(code),
            Err(SessionError::Problem(problem)) => Err(problem_error(problem)),
            Err(SessionError::Error(error)) => Err(error),
            Err(SessionError::Stop(LinkError::Broken(reason))) => Err(supervisor.broken(reason)),
            Err(SessionError::Stop(LinkError::Cancelled)) => {
                Ok(crate::base::interrupt::EXIT_CODE.into())
            }
            Err(SessionError::Limit(reached)) => {
                Err(SandboxError::Prepare(format!("the {reached} is reached")))
            }
            Err(SessionError::Stop(LinkError::TimedOut | LinkError::Limit(_))) => {
                Err(supervisor.broken("it stopped without a cause".to_owned()))
            }
        }
    }

    fn run_tools(
        &self,
        job: ToolJob<'_>,
        events: &mut dyn FnMut(ToolEvent<'_>),
    ) -> Result<ToolEnd, SandboxError> {
        demand_root()?;
        let deadline = job.timeout.map(|timeout| Instant::now() + timeout);
        let after = job.timeout.unwrap_or_default();
        let scratch = job.work.parent().unwrap_or(job.work);
        let mut supervisor = Supervisor::start(&self.executable, scratch)?;
        let (bounds, group, watch) = self.bounds(job.limits);
        let plan = ToolPlan {
            work: job.work.to_path_buf(),
            toolbox: job.toolbox.to_path_buf(),
            task: job.task,
            groups: group.as_ref().map(Group::doors).unwrap_or_default(),
            tmpfs: bounds.tmpfs,
            watch,
        };
        let mut link = supervisor.link(deadline, job.cancel, group)?;
        let result = run_tools_session(&mut link, plan, &bounds, events);
        let group = link.take_group();
        // Closing the channel ends everything at once; after success the processes are about to end by themselves.
        let link = matches!(result, Ok(ToolEnd::Done | ToolEnd::Failed(_))).then_some(link);
        let success = supervisor.end()?;
        drop((link, group));
        match result {
            Ok(ToolEnd::Done) if !success => {
                Err(supervisor.broken("its supervisor failed".to_owned()))
            }
            Ok(end) => Ok(end),
            Err(SessionError::Stop(LinkError::TimedOut)) => Ok(ToolEnd::TimedOut { after }),
            Err(SessionError::Stop(LinkError::Cancelled)) => Ok(ToolEnd::Cancelled),
            Err(SessionError::Limit(_) | SessionError::Stop(LinkError::Limit(_))) => {
                panic!("BUG: a limit that is not an end")
            }
            Err(SessionError::Stop(LinkError::Broken(reason))) => Err(supervisor.broken(reason)),
            Err(SessionError::Problem(problem)) => Err(problem_error(problem)),
            Err(SessionError::Error(error)) => Err(error),
        }
    }

    fn environment(&self) -> &GuestEnvironment {
        &self.environment
    }

    fn facts(&self) -> SandboxFacts {
        let storage = self.storage.get_or_init(storage_version).clone();
        let kernel = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        let network = match self.policy.get() {
            Some(Ok(policy)) => policy.facts.clone(),
            _ => BTreeMap::new(),
        };
        SandboxFacts {
            name: "namespace",
            isolation: "shared-kernel",
            kernel,
            agent: agent_digest(),
            storage,
            network,
        }
    }

    fn network_secrets(&self) -> Result<Vec<Secret>, SandboxError> {
        Ok(self.policy()?.secrets.clone())
    }
}

/// Directories of the host by name, as the protocol has them.
fn directories(named: &[(String, PathBuf)]) -> Result<Vec<(String, String)>, SandboxError> {
    let text = |(name, path): &(String, PathBuf)| {
        let text = path
            .to_str()
            .ok_or_else(|| io_error("name", path, io::Error::other("it is not UTF-8")))?;
        Ok((name.clone(), text.to_owned()))
    };
    named.iter().map(text).collect()
}

fn make_overlay(path: &Path, virtual_size: u64) -> Result<(), SandboxError> {
    let file = File::create_new(path).map_err(|e| io_error("create", path, e))?;
    impasto_store::qcow2::create_overlay(&file, virtual_size).map_err(|source| {
        SandboxError::Overlay {
            path: path.to_path_buf(),
            source,
        }
    })
}

fn demand_root() -> Result<(), SandboxError> {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        Ok(())
    } else {
        Err(SandboxError::NotRoot { uid: uid.as_raw() })
    }
}

/// A problem that ends a job without outcome.
fn problem_error(problem: Problem) -> SandboxError {
    match problem.kind {
        ProblemKind::HostLacks => SandboxError::HostLacks(problem),
        ProblemKind::NoRoot => SandboxError::NoRoot(problem),
        _ => SandboxError::Failed(problem),
    }
}

/// How many processes the kernel has ended so far because memory ran out, whosever limit that was.
fn oom_kills() -> u64 {
    let text = bounded::read_text("/proc/vmstat", bounded::LINES).unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// What the program that serves disks says of its version; `None` where it cannot be asked.
pub fn storage_version() -> Option<String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the sandbox, which runs programs"
    )]
    let output = Command::new(DAEMON).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.lines().next()?.trim().to_owned())
}
