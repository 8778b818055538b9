//! The namespace sandbox: the host's kernel, namespaces, and a supervisor that lets nothing outlive impasto.
//!
//! Knows how a supervisor gives the agent a disk, not what is said to the agent. For recipes and images that are trusted.

mod container;
mod export;
mod loopdev;
mod probe;
mod process;
mod request;
mod server;
mod supervisor;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use impasto_stages::Limits;

pub use probe::{ProbePiece, UserNameSpace, probe, probe_user_namespace};
pub use server::{RELAY, SERVER, lacks, server_socket};
pub use supervisor::{SUPERVISOR_ARGUMENT, supervisor_main};

use export::DAEMON;
use process::Supervisor;
use request::{ExportSpec, GuestSpec, SupervisorEvent, SupervisorRequest, ToolPlan};

use super::limits::{Bounds, Group};
use super::link::{Link, LinkError};
use super::protocol::Ceiling;
use super::session::{
    ClosedDisk, GuestHost, GuestSession, SessionDisk, SessionEnd, SessionError, unexpected,
};
use super::terminal::SavedTerminal;
use super::tools::run_tools_session;
use super::{
    Finished, GUEST_DISK, Sandbox, SandboxError, SandboxEvent, SandboxFacts, SandboxJob,
    SandboxKind, ToolEnd, ToolEvent, ToolJob, agent_digest,
};
use crate::base::bounded;

/// Runs jobs by the host's kernel. Needs root.
pub struct NamespaceSandbox {
    executable: PathBuf,
    storage: OnceLock<Option<String>>,
    /// Whether control groups are used where the host has them.
    groups: bool,
}

impl NamespaceSandbox {
    /// `executable` is the impasto binary, which is started again as supervisor.
    pub fn new(executable: PathBuf) -> Self {
        Self {
            executable,
            storage: OnceLock::new(),
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
}

impl Sandbox for NamespaceSandbox {
    fn run(
        &self,
        job: SandboxJob<'_>,
        events: &mut dyn FnMut(SandboxEvent<'_>),
    ) -> Result<Finished, SandboxError> {
        demand_root()?;
        let (timeout, terminal) = (job.timeout, job.shell.is_some());
        let begun = Instant::now();
        let oom_kills = oom_kills();
        make_overlay(job.overlay, job.virtual_size)?;
        // Whoever types is there to stop it.
        let (bounds, group, watch) = match terminal {
            true => (Bounds::new(job.limits), None, None),
            false => self.bounds(job.limits),
        };
        let deadline = timeout.filter(|_| !terminal).map(|timeout| begun + timeout);
        let mut host = NamespaceHost {
            spec: GuestSpec {
                work: job.work.to_path_buf(),
                disk: ExportSpec {
                    path: job.work.join("disk.raw"),
                    overlay: job.overlay.to_path_buf(),
                    chain: job.chain.clone(),
                },
                network: job.network.is_some(),
                terminal,
                groups: group.as_ref().map(Group::doors).unwrap_or_default(),
            },
        };
        let mut supervisor = Supervisor::start(&self.executable, job.work)?;
        let mut link = supervisor.link(deadline, job.cancel.clone(), group)?;
        let saved = terminal.then(SavedTerminal::new);
        let mut session = GuestSession::new(&mut host, &mut link, &bounds, watch, begun);
        let result = session.run(job, events);
        let mut timings = session.timings();
        let group = link.take_group();
        // Closing the channel ends everything at once; after success the processes are about to end by themselves. A
        // shell's overlay is thrown away, so nothing needs to be closed in order.
        let link = (result.is_ok() && !terminal).then_some(link);
        let ended = supervisor.end();
        drop((link, group));
        if let Some(saved) = saved {
            saved.restore();
        }
        let success = ended?;
        timings.push(("all".to_owned(), begun.elapsed()));
        let SessionEnd {
            outcome,
            outputs,
            unused,
            mounted,
            facts,
        } = match result {
            Ok(end) if success || terminal => end,
            Ok(_) => return Err(supervisor.broken("its supervisor failed".to_owned())),
            Err(error) => error.into_end(timeout, |reason| supervisor.broken(reason))?,
        };
        Ok(Finished {
            outcome,
            outputs,
            unused,
            mounted,
            facts,
            oom_kills: self::oom_kills().saturating_sub(oom_kills),
            begun,
            timings,
        })
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
        let disk = job.disk.map(|disk| -> Result<_, SandboxError> {
            make_overlay(disk.overlay, disk.virtual_size)?;
            Ok(ExportSpec {
                path: job.work.join(GUEST_DISK),
                overlay: disk.overlay.to_path_buf(),
                chain: disk.chain,
            })
        });
        let disk = disk.transpose()?;
        let mut supervisor = Supervisor::start(&self.executable, scratch)?;
        let (bounds, group, watch) = self.bounds(job.limits);
        let request = SupervisorRequest::Tools(ToolPlan {
            work: job.work.to_path_buf(),
            toolbox: job.toolbox.to_path_buf(),
            task: job.task,
            disk,
            groups: group.as_ref().map(Group::doors).unwrap_or_default(),
            tmpfs: bounds.tmpfs,
            watch,
        });
        let mut link = supervisor.link(deadline, job.cancel, group)?;
        let result = run_tools_session(&mut link, &request, &bounds, events);
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
            Err(error) => Err(error.into_failure(|reason| supervisor.broken(reason))),
        }
    }

    fn facts(&self) -> SandboxFacts {
        let storage = self.storage.get_or_init(storage_version).clone();
        let kernel = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        SandboxFacts {
            name: SandboxKind::Namespace.name(),
            isolation: SandboxKind::Namespace.isolation(),
            kernel,
            agent: agent_digest(),
            storage,
        }
    }
}

/// A supervisor as a session sees it.
struct NamespaceHost {
    spec: GuestSpec,
}

impl GuestHost for NamespaceHost {
    fn open(&mut self, link: &mut Link) -> Result<SessionDisk, SessionError> {
        link.send(&SupervisorRequest::Guest(self.spec.clone()))?;
        if self.spec.terminal {
            link.send_terminal()?;
        }
        match link.receive()? {
            SupervisorEvent::Ready {
                layout,
                disk: device,
                partitions,
                phases,
            } => Ok(SessionDisk {
                layout,
                device,
                partitions,
                phases: durations(phases),
            }),
            SupervisorEvent::Problem(problem) => Err(SessionError::Problem(problem)),
            SupervisorEvent::Closed { .. } | SupervisorEvent::Unused { .. } => Err(unexpected()),
        }
    }

    fn directory(&self, path: &Path) -> Result<String, SandboxError> {
        // The agent mounts it from where it is.
        let text = path.to_str();
        text.map(str::to_owned)
            .ok_or_else(|| SandboxError::io("name", path)(io::Error::other("it is not UTF-8")))
    }

    fn close(&mut self, link: &mut Link) -> Result<ClosedDisk, SessionError> {
        let mut unused = Vec::new();
        loop {
            match link.receive()? {
                SupervisorEvent::Unused { number, ranges } => {
                    let ranges = ranges.into_iter().map(|(start, end)| start..end);
                    unused.push((number, ranges.collect()));
                }
                SupervisorEvent::Closed { dirty, phases } => {
                    let phases = durations(phases);
                    return Ok(ClosedDisk {
                        unused,
                        dirty,
                        phases,
                    });
                }
                SupervisorEvent::Problem(problem) => return Err(SessionError::Problem(problem)),
                SupervisorEvent::Ready { .. } => return Err(unexpected()),
            }
        }
    }
}

/// What a supervisor says that it took, in milliseconds by phase.
fn durations(phases: Vec<(String, f64)>) -> Vec<(String, Duration)> {
    let valid = phases
        .into_iter()
        .filter(|(_, ms)| ms.is_finite() && *ms >= 0.0);
    let named = |(phase, ms)| {
        (
            format!("supervisor: {phase}"),
            Duration::from_secs_f64(ms / 1e3),
        )
    };
    valid.map(named).collect()
}

fn make_overlay(path: &Path, virtual_size: u64) -> Result<(), SandboxError> {
    let file = File::create_new(path).map_err(SandboxError::io("create", path))?;
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
