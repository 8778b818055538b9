//! The conversation of impasto with the agent, from a disk to the end of a job: handshake, files, steps, limits, outputs.
//!
//! Knows requests, answers and their order, not how the agent got its disk: that is the business of a [`GuestHost`].

mod files;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::rand::{GetRandomFlags, getrandom};

use super::host_view::HostView;
use super::limits::{Bounds, Culprit, Reached};
use super::link::{Link, LinkError};
use super::protocol::{
    Answer, Ceiling, Device, DiskNode, Limit, Problem, ProblemKind, RUN_DIR, Request, RunSubdir,
    Setup, StepFacts, VERSION,
};
use super::{
    AgentStep, GuestEnvironment, Outcome, Output, SandboxError, SandboxEvent, SandboxJob,
    ShellCommand,
};
use crate::disk::guest::{DiskLayout, FileSystem, RootChoice, choose_root};

/// Where steps look for programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How much of what a step printed last is searched for files that could not be started, in bytes.
const TAIL: usize = 4 << 10;

/// What each sandbox does in its own way: gives the agent a disk and takes it back. Between the two the link is the agent's.
pub(super) trait GuestHost {
    /// Makes the disk there. When it returns, the agent listens.
    fn open(&mut self, link: &mut Link) -> Result<SessionDisk, SessionError>;

    /// How the agent calls a directory of the host that the job names.
    fn directory(&self, path: &Path) -> Result<String, SandboxError>;

    /// Closes the disk, from which the agent has unmounted everything.
    fn close(&mut self, link: &mut Link) -> Result<ClosedDisk, SessionError>;
}

/// A disk as the agent finds it.
pub(super) struct SessionDisk {
    /// What lies on it.
    pub(super) layout: DiskLayout,
    pub(super) device: Device,
    /// Devices of its partitions, by number.
    pub(super) partitions: Vec<(u32, Device)>,
    /// What it took, by phase.
    pub(super) phases: Vec<(String, Duration)>,
}

/// A disk that nobody writes to any more. Its partitions go by number, 0 is the disk.
pub(super) struct ClosedDisk {
    /// Bytes that mean nothing any more.
    pub(super) unused: Vec<(u32, Vec<Range<u64>>)>,
    /// What is wrong with file systems.
    pub(super) dirty: Vec<(u32, String)>,
    /// What it took, by phase.
    pub(super) phases: Vec<(String, Duration)>,
}

/// A conversation that came to its end.
pub(super) struct SessionEnd {
    pub(super) outcome: Outcome,
    pub(super) outputs: Vec<Output>,
    pub(super) unused: Vec<Range<u64>>,
    pub(super) mounted: Vec<u32>,
    pub(super) facts: Option<StepFacts>,
}

impl SessionEnd {
    /// One of which nothing but the outcome is left.
    fn of(outcome: Outcome) -> Self {
        SessionEnd {
            outcome,
            outputs: Vec::new(),
            unused: Vec::new(),
            mounted: Vec::new(),
            facts: None,
        }
    }
}

/// Why a conversation ended early.
pub(super) enum SessionError {
    Stop(LinkError),
    Limit(Reached),
    Problem(Problem),
    Error(SandboxError),
}

impl SessionError {
    /// How the job ended by that, where this is an end of a job and no failure of the sandbox. `broken` makes an error of
    /// what happened to the link.
    pub(super) fn into_end(
        self,
        timeout: Option<Duration>,
        broken: impl FnOnce(String) -> SandboxError,
    ) -> Result<SessionEnd, SandboxError> {
        let after = timeout.unwrap_or_default();
        Ok(SessionEnd::of(match self {
            SessionError::Stop(LinkError::TimedOut) => Outcome::TimedOut { after },
            SessionError::Stop(LinkError::Cancelled) => Outcome::Cancelled,
            SessionError::Limit(reached) => Outcome::LimitReached(reached),
            SessionError::Problem(problem)
                if matches!(problem.kind, ProblemKind::WriteBack | ProblemKind::Dirty) =>
            {
                Outcome::Damaged { problem }
            }
            error => return Err(error.into_failure(broken)),
        }))
    }

    /// The failure of the sandbox that this is.
    pub(super) fn into_failure(self, broken: impl FnOnce(String) -> SandboxError) -> SandboxError {
        match self {
            SessionError::Stop(LinkError::Broken(reason)) => broken(reason),
            SessionError::Problem(problem) => match problem.kind {
                ProblemKind::HostLacks => SandboxError::HostLacks(problem),
                ProblemKind::NoRoot => SandboxError::NoRoot(problem),
                _ => SandboxError::Failed(problem),
            },
            SessionError::Error(error) => error,
            SessionError::Stop(
                LinkError::TimedOut | LinkError::Cancelled | LinkError::Limit(_),
            )
            | SessionError::Limit(_) => panic!("BUG: an end of a job taken for a failure"),
        }
    }
}

impl From<LinkError> for SessionError {
    fn from(stop: LinkError) -> Self {
        Self::Stop(stop)
    }
}

impl From<SandboxError> for SessionError {
    fn from(error: SandboxError) -> Self {
        Self::Error(error)
    }
}

pub(super) fn unexpected() -> SessionError {
    SessionError::Stop(LinkError::Broken("an answer came out of order".to_owned()))
}

/// The conversation with the agent.
pub(super) struct GuestSession<'a> {
    host: &'a mut dyn GuestHost,
    link: &'a mut Link,
    bounds: &'a Bounds,
    /// What the agent watches.
    watch: Option<Ceiling>,
    /// The step that runs.
    step: Option<usize>,
    /// What it printed last.
    tail: Vec<u8>,
    timings: Vec<(String, Duration)>,
    last: Instant,
}

impl<'a> GuestSession<'a> {
    pub(super) fn new(
        host: &'a mut dyn GuestHost,
        link: &'a mut Link,
        bounds: &'a Bounds,
        watch: Option<Ceiling>,
        begun: Instant,
    ) -> Self {
        GuestSession {
            host,
            link,
            bounds,
            watch,
            step: None,
            tail: Vec::new(),
            timings: Vec::new(),
            last: begun,
        }
    }

    /// Where the time went.
    pub(super) fn timings(self) -> Vec<(String, Duration)> {
        self.timings
    }

    /// Holds a job's conversation to its end.
    pub(super) fn run(
        &mut self,
        job: SandboxJob<'_>,
        events: &mut dyn FnMut(SandboxEvent<'_>),
    ) -> Result<SessionEnd, SessionError> {
        let end = self.run_unlimited(job, events);
        // Control groups also count what a step did not notice, or what ended the agent itself.
        let stopped = match &end {
            Err(SessionError::Stop(LinkError::Limit(limit))) => Some(*limit),
            Err(SessionError::Stop(LinkError::TimedOut | LinkError::Cancelled)) => None,
            _ => self.link.reached(),
        };
        match stopped {
            Some(limit) => Err(self.reached(limit)),
            None => end,
        }
    }

    fn reached(&self, limit: Limit) -> SessionError {
        SessionError::Limit(self.bounds.reached(limit, self.step.map(Culprit::Step)))
    }

    fn lap(&mut self, phase: &str) {
        let now = Instant::now();
        self.timings.push((phase.to_owned(), now - self.last));
        self.last = now;
    }

    fn run_unlimited(
        &mut self,
        mut job: SandboxJob<'_>,
        events: &mut dyn FnMut(SandboxEvent<'_>),
    ) -> Result<SessionEnd, SessionError> {
        let (nonce, mounted) = self.open(&job)?;
        if let Some(emulator) = &job.emulator {
            self.put_emulator(&emulator.program)?;
        }
        self.put_all(std::mem::take(&mut job.inputs), &job.scripts, &job.secrets)?;
        self.lap("inputs");
        // Of what is done in a shell nothing is kept.
        let volatile = match job.shell {
            Some(_) => Vec::new(),
            None => std::mem::take(&mut job.volatile),
        };
        self.demand_ok(&Request::SnapshotVolatile { volatile })?;
        self.lap("volatile files noted");
        let mut outcome = self.run_steps(&job.steps, events)?;
        self.lap("steps");
        if let Some(shell) = job.shell {
            let code = self.run_shell(outcome, shell)?;
            return Ok(SessionEnd::of(Outcome::ShellEnded { code }));
        }
        let facts = if outcome.is_ok() {
            None
        } else {
            Some(self.examine(&job.steps, job.suspects)?)
        };
        self.demand_ok(&Request::KillRemaining)?;
        let mut outputs = Vec::new();
        if outcome.is_ok() {
            (outcome, outputs) = self.collect_all(&job.outputs, job.work)?;
        }
        self.lap("outputs");
        // Who looks at a failed state wants its logs.
        if outcome.is_ok() {
            self.demand_ok(&Request::RestoreVolatile)?;
        }
        self.lap("volatile files");
        let unused = self.finish(nonce, &mounted)?;
        Ok(SessionEnd {
            outcome,
            outputs,
            unused,
            mounted,
            facts,
        })
    }

    /// Gives the terminal to a shell, once the steps before it have come to `prepared`: its exit code.
    fn run_shell(&mut self, prepared: Outcome, shell: ShellCommand) -> Result<i32, SessionError> {
        match prepared {
            Outcome::Ok => {}
            Outcome::StepRefused { problem, .. } => return Err(SessionError::Problem(problem)),
            outcome => return Err(SandboxError::Prepare(format!("{outcome:?}")).into()),
        }
        match self.ask(&Request::Shell { line: shell.line })? {
            Answer::Exited {
                code: Some(code), ..
            } => Ok(code),
            Answer::Exited { signal, .. } => Ok(128 + signal.unwrap_or(0)),
            Answer::Problem(problem) => Err(SessionError::Problem(problem)),
            _ => Err(unexpected()),
        }
    }

    /// From nothing to a mounted guest: the nonce, and the numbers of what is mounted.
    fn open(&mut self, job: &SandboxJob<'_>) -> Result<([u8; 16], Vec<u32>), SessionError> {
        let environment = &job.environment;
        let view = HostView::new(job.network, &environment.host_name)?;
        let SessionDisk {
            layout,
            device,
            partitions,
            phases,
        } = self.host.open(self.link)?;
        self.timings.extend(phases);
        self.lap("disk");
        let root = match choose_root(&layout, &job.root).map_err(SandboxError::Root)? {
            RootChoice::Whole => vec![0],
            RootChoice::Partition(number) => vec![number],
            RootChoice::Probe(numbers) => numbers,
        };
        let nonce = self.handshake()?;
        let shared = job.network.map_or(&[][..], |policy| &policy.directories);
        let mounted = self.set_up(Setup {
            disk: disk_nodes(&layout, device, &partitions),
            root,
            host_name: environment.host_name.clone(),
            cpus: environment.cpus,
            env: step_environment(environment, job.source_date_epoch, &job.env),
            overlays: view.overlays,
            policy: view.policy,
            trees: self.directories(shared.iter().chain(&job.trees))?,
            caches: self.directories(job.caches.iter())?,
            source_date_epoch: job.source_date_epoch,
            privileged: job.privileged,
            emulated: job
                .emulator
                .as_ref()
                .map(|emulator| emulator.architecture.clone()),
            tmpfs: self.bounds.tmpfs,
            watch: self.watch,
        })?;
        self.lap("mount");
        Ok((nonce, mounted))
    }

    /// Directories of the host by name, as the agent calls them.
    fn directories<'d>(
        &self,
        named: impl Iterator<Item = &'d (String, PathBuf)>,
    ) -> Result<Vec<(String, String)>, SandboxError> {
        named
            .map(|(name, path)| Ok((name.clone(), self.host.directory(path)?)))
            .collect()
    }

    fn handshake(&mut self) -> Result<[u8; 16], SessionError> {
        let mut nonce = [0; 16];
        getrandom(&mut nonce, GetRandomFlags::empty())
            .map_err(|error| SandboxError::io("read", "random bytes")(error.into()))?;
        self.demand_ok(&Request::Hello {
            version: VERSION,
            nonce,
        })?;
        Ok(nonce)
    }

    fn set_up(&mut self, setup: Setup) -> Result<Vec<u32>, SessionError> {
        match self.ask(&Request::Setup(setup))? {
            Answer::Made { mounted, .. } => Ok(mounted),
            Answer::Problem(problem) => Err(SessionError::Problem(problem)),
            _ => Err(unexpected()),
        }
    }

    /// One request, one answer.
    fn ask(&mut self, request: &Request) -> Result<Answer, SessionError> {
        self.link.send(request)?;
        Ok(self.link.receive()?)
    }

    fn demand_ok(&mut self, request: &Request) -> Result<(), SessionError> {
        match self.ask(request)? {
            Answer::Ok => Ok(()),
            Answer::Problem(problem) => Err(SessionError::Problem(problem)),
            _ => Err(unexpected()),
        }
    }

    fn run_steps(
        &mut self,
        steps: &[AgentStep],
        events: &mut dyn FnMut(SandboxEvent<'_>),
    ) -> Result<Outcome, SessionError> {
        let mut printed = 0;
        for (index, step) in steps.iter().enumerate() {
            self.step = Some(index);
            self.tail.clear();
            events(SandboxEvent::StepStarted { index });
            self.link.send(&Request::Step(step.clone()))?;
            loop {
                match self.link.receive()? {
                    Answer::Log { stream, bytes } => {
                        events(SandboxEvent::Log {
                            stream,
                            bytes: &bytes,
                        });
                        self.tail.extend_from_slice(&bytes);
                        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
                        printed += bytes.len() as u64;
                        if printed > self.bounds.limits.log {
                            return Err(self.reached(Limit::Log));
                        }
                    }
                    Answer::Limit(limit) => return Err(self.reached(limit)),
                    Answer::Exited { code: Some(0), .. } => break,
                    Answer::Exited { code, signal } => {
                        return Ok(Outcome::StepFailed {
                            index,
                            code,
                            signal,
                        });
                    }
                    // The supervisor speaks where the agent should: the disk itself has failed.
                    Answer::Problem(problem) if problem.kind == ProblemKind::WriteBack => {
                        return Err(SessionError::Problem(problem));
                    }
                    Answer::Problem(problem) => return Ok(Outcome::StepRefused { index, problem }),
                    _ => return Err(unexpected()),
                }
            }
            events(SandboxEvent::StepFinished { index });
        }
        self.step = None;
        Ok(Outcome::Ok)
    }

    /// Asks the agent what there is to see of the step that has just failed.
    fn examine(
        &mut self,
        steps: &[AgentStep],
        suspects: fn(&[u8]) -> Vec<String>,
    ) -> Result<StepFacts, SessionError> {
        let script = match self.step.and_then(|step| steps.get(step)) {
            Some(AgentStep::Script { name }) => {
                Some(format!("{RUN_DIR}/{}/{name}", RunSubdir::Scripts.dir()))
            }
            _ => None,
        };
        let files = script.into_iter().chain(suspects(&self.tail)).collect();
        match self.ask(&Request::Examine { files })? {
            Answer::Facts(facts) => Ok(facts),
            Answer::Problem(problem) => Err(SessionError::Problem(problem)),
            _ => Err(unexpected()),
        }
    }

    /// Nothing counts as success before this is through.
    fn finish(
        &mut self,
        nonce: [u8; 16],
        mounted: &[u32],
    ) -> Result<Vec<Range<u64>>, SessionError> {
        match self.ask(&Request::Finish)? {
            Answer::Done { nonce: repeated } if repeated == nonce => {}
            Answer::Problem(problem) => return Err(SessionError::Problem(problem)),
            _ => return Err(unexpected()),
        }
        self.lap("unmount");
        let ClosedDisk {
            unused,
            dirty,
            phases,
        } = self.host.close(self.link)?;
        self.timings.extend(phases);
        self.lap("close");
        // What was dirty before and is not ours stays as it was.
        match dirty
            .into_iter()
            .find(|(number, _)| mounted.contains(number))
        {
            None => {
                let ours = unused
                    .into_iter()
                    .filter(|(number, _)| mounted.contains(number));
                let mut unused: Vec<_> = ours.flat_map(|(_, ranges)| ranges).collect();
                unused.sort_unstable_by_key(|range| range.start);
                Ok(unused)
            }
            Some((number, reason)) => {
                let device = if number == 0 {
                    "/dev/vda".to_owned()
                } else {
                    format!("/dev/vda{number}")
                };
                let what = format!(
                    "the file system on {device} {reason}, after it was unmounted; did a step write to its own disk?"
                );
                Err(SessionError::Problem(Problem::new(
                    ProblemKind::Dirty,
                    what,
                )))
            }
        }
    }
}

/// Environment of every step; what a job adds comes after.
fn step_environment(
    environment: &GuestEnvironment,
    source_date_epoch: Option<u64>,
    more: &[(String, String)],
) -> Vec<(String, String)> {
    let GuestEnvironment { lang, timezone, .. } = environment;
    let fixed = [
        ("PATH", PATH),
        ("HOME", "/root"),
        ("LANG", lang),
        ("TZ", timezone),
    ];
    let fixed = fixed
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let epoch =
        source_date_epoch.map(|seconds| ("SOURCE_DATE_EPOCH".to_owned(), seconds.to_string()));
    fixed.chain(epoch).chain(more.iter().cloned()).collect()
}

fn disk_nodes(layout: &DiskLayout, disk: Device, partitions: &[(u32, Device)]) -> Vec<DiskNode> {
    let node = |number, device, fs: Option<&FileSystem>, part_uuid| DiskNode {
        number,
        device,
        mount_type: fs.and_then(|fs| fs.kind.mount_type()).map(str::to_owned),
        describe: fs.map_or_else(
            || "partition without file system".to_owned(),
            |fs| fs.kind.to_string(),
        ),
        is_container: fs.is_some_and(|fs| fs.kind.is_container()),
        uuid: fs.and_then(|fs| fs.uuid.clone()),
        label: fs.and_then(|fs| fs.label.clone()),
        part_uuid,
    };
    let mut nodes = vec![node(0, disk, layout.bare.as_ref(), None)];
    for partition in &layout.partitions {
        let device = partitions
            .iter()
            .find(|(number, _)| *number == partition.number);
        if let Some((_, device)) = device {
            nodes.push(node(
                partition.number,
                *device,
                partition.fs.as_ref(),
                Some(partition.uuid.clone()),
            ));
        }
    }
    nodes
}
