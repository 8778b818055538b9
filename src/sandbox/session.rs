//! The conversation of impasto with supervisor and agent, from the order to the end of a job.
//!
//! Knows requests, answers and their order, not how processes are started.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use serde_bytes::ByteBuf;

use super::host_view::HostView;
use super::limits::{Bounds, Culprit, Reached};
use super::link::{Link, LinkError};
use super::namespace::process::io_error;
use super::namespace::request::{
    GuestSpec, SupervisorEvent, SupervisorRequest, ToolPlan, ToolReport,
};
use super::protocol::{
    Answer, Ceiling, Device, DiskNode, Limit, MAX_DATA, Problem, ProblemKind, RUN_DIR, Request,
    RunSubdir, Setup, StepFacts, VERSION,
};
use super::{
    AgentStep, GuestEnvironment, InputContent, Outcome, Output, SandboxError, SandboxEvent,
    SandboxInput, SandboxJob, ToolEnd, ToolEvent,
};
use crate::base::bounded;
use crate::disk::guest::{DiskLayout, FileSystem, RootChoice, RootSelector, choose_root};

/// Where steps look for programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How much of what a step printed last is searched for files that could not be started, in bytes.
const TAIL: usize = 4 << 10;

/// A conversation that came to its end.
pub(super) struct End {
    pub(super) outcome: Outcome,
    pub(super) outputs: Vec<Output>,
    pub(super) unused: Vec<Range<u64>>,
    pub(super) mounted: Vec<u32>,
    pub(super) facts: Option<StepFacts>,
}

/// Why a conversation ended early.
pub(super) enum SessionError {
    Stop(LinkError),
    Limit(Reached),
    Problem(Problem),
    Error(SandboxError),
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

fn unexpected() -> SessionError {
    SessionError::Stop(LinkError::Broken("an answer came out of order".to_owned()))
}

/// The conversation with supervisor and agent.
pub(super) struct GuestSession<'a> {
    environment: &'a GuestEnvironment,
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
        environment: &'a GuestEnvironment,
        link: &'a mut Link,
        bounds: &'a Bounds,
        watch: Option<Ceiling>,
        begun: Instant,
    ) -> Self {
        GuestSession {
            environment,
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
    pub(super) fn run_job(
        &mut self,
        plan: GuestSpec,
        job: SandboxJob<'_>,
        host: HostView,
        events: &mut dyn FnMut(SandboxEvent<'_>),
    ) -> Result<End, SessionError> {
        let end = self.run_job_unlimited(plan, job, host, events);
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

    fn note(&mut self, phases: Vec<(String, f64)>) {
        let valid = phases
            .into_iter()
            .filter(|(_, ms)| ms.is_finite() && *ms >= 0.0);
        self.timings.extend(valid.map(|(phase, ms)| {
            (
                format!("supervisor: {phase}"),
                Duration::from_secs_f64(ms / 1e3),
            )
        }));
    }

    fn run_job_unlimited(
        &mut self,
        plan: GuestSpec,
        job: SandboxJob<'_>,
        host: HostView,
        events: &mut dyn FnMut(SandboxEvent<'_>),
    ) -> Result<End, SessionError> {
        let (nonce, mounted) = self.open(&plan, &job, host)?;
        self.put_all(job.inputs, &job.scripts, &job.secrets)?;
        self.lap("inputs");
        self.demand_ok(&Request::SnapshotVolatile {
            volatile: job.volatile,
        })?;
        self.lap("volatile files noted");
        let mut outcome = self.run_steps(&job.steps, events)?;
        self.lap("steps");
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
        Ok(End {
            outcome,
            outputs,
            unused,
            mounted,
            facts,
        })
    }

    /// A shell's conversation: the exit code.
    pub(super) fn run_shell(
        &mut self,
        plan: &GuestSpec,
        job: SandboxJob<'_>,
        host: HostView,
        line: Option<String>,
    ) -> Result<i32, SessionError> {
        self.open(plan, &job, host)?;
        self.put_all(job.inputs, &job.scripts, &job.secrets)?;
        self.demand_ok(&Request::SnapshotVolatile {
            volatile: Vec::new(),
        })?;
        match self.run_steps(&job.steps, &mut |_| {})? {
            Outcome::Ok => {}
            Outcome::StepRefused { problem, .. } => return Err(SessionError::Problem(problem)),
            outcome => return Err(SandboxError::Prepare(format!("{outcome:?}")).into()),
        }
        match self.ask(&Request::Shell { line })? {
            Answer::Exited {
                code: Some(code), ..
            } => Ok(code),
            Answer::Exited { signal, .. } => Ok(128 + signal.unwrap_or(0)),
            Answer::Problem(problem) => Err(SessionError::Problem(problem)),
            _ => Err(unexpected()),
        }
    }

    /// Makes a job's guest: the nonce, and the numbers of what is mounted.
    fn open(
        &mut self,
        plan: &GuestSpec,
        job: &SandboxJob<'_>,
        host: HostView,
    ) -> Result<([u8; 16], Vec<u32>), SessionError> {
        let (tmpfs, watch) = (self.bounds.tmpfs, self.watch);
        let environment = self.environment;
        self.begin(plan, &job.root, |disk, root| {
            Ok(Setup {
                disk,
                root,
                host_name: environment.host_name.clone(),
                cpus: environment.cpus,
                env: step_environment(environment, job.source_date_epoch, &job.env),
                overlays: host.overlays,
                policy: host.policy,
                trees: host.trees,
                caches: host.caches,
                source_date_epoch: job.source_date_epoch,
                privileged: job.privileged,
                tmpfs,
                watch,
            })
        })
    }

    /// From nothing to a mounted guest: the nonce, and the numbers of what is mounted.
    fn begin(
        &mut self,
        plan: &GuestSpec,
        root: &RootSelector,
        setup: impl FnOnce(Vec<DiskNode>, Vec<u32>) -> Result<Setup, SandboxError>,
    ) -> Result<([u8; 16], Vec<u32>), SessionError> {
        self.link.send(&SupervisorRequest::Guest(plan.clone()))?;
        if plan.terminal {
            self.link.send_terminal()?;
        }
        let (layout, disk, partitions) = match self.link.receive()? {
            SupervisorEvent::Ready {
                layout,
                disk,
                partitions,
                phases,
            } => {
                self.note(phases);
                (layout, disk, partitions)
            }
            SupervisorEvent::Problem(problem) => return Err(SessionError::Problem(problem)),
            SupervisorEvent::Closed { .. } | SupervisorEvent::Unused { .. } => {
                return Err(unexpected());
            }
        };
        self.lap("disk");
        let root = match choose_root(&layout, root).map_err(SandboxError::Root)? {
            RootChoice::Whole => vec![0],
            RootChoice::Partition(number) => vec![number],
            RootChoice::Probe(numbers) => numbers,
        };
        let nonce = self.handshake()?;
        let mounted = self.set_up(setup(disk_nodes(&layout, disk, &partitions), root)?)?;
        self.lap("mount");
        Ok((nonce, mounted))
    }

    fn handshake(&mut self) -> Result<[u8; 16], SessionError> {
        let mut nonce = [0; 16];
        getrandom(&mut nonce, GetRandomFlags::empty())
            .map_err(|e| io_error("read", Path::new("random bytes"), e.into()))?;
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

    fn put_all(
        &mut self,
        inputs: Vec<SandboxInput<'_>>,
        scripts: &[(String, Vec<u8>)],
        secrets: &[(String, Vec<u8>)],
    ) -> Result<(), SessionError> {
        for (name, bytes) in scripts {
            self.put(RunSubdir::Scripts, name, 0o755, &mut bytes.as_slice())?;
        }
        for (name, bytes) in secrets {
            if bytes.len() as u64 > self.bounds.limits.secret {
                return Err(self.reached_by(Limit::Secret, name));
            }
            self.put(RunSubdir::Secrets, name, 0o400, &mut bytes.as_slice())?;
        }
        for SandboxInput {
            name,
            mode,
            content,
        } in inputs
        {
            match content {
                InputContent::Bytes(mut bytes) => {
                    self.put(RunSubdir::Inputs, &name, mode, &mut bytes)?
                }
                InputContent::Reader(mut reader) => {
                    self.put(RunSubdir::Inputs, &name, mode, &mut reader)?
                }
                InputContent::Path(path) => {
                    let mut file = bounded::open(path).map_err(|e| io_error("open", path, e))?;
                    self.put(RunSubdir::Inputs, &name, mode, &mut file)?;
                }
            }
        }
        Ok(())
    }

    fn reached_by(&self, limit: Limit, name: &str) -> SessionError {
        SessionError::Limit(
            self.bounds
                .reached(limit, Some(Culprit::Named(name.to_owned()))),
        )
    }

    fn put(
        &mut self,
        place: RunSubdir,
        name: &str,
        mode: u32,
        content: &mut dyn Read,
    ) -> Result<(), SessionError> {
        self.link.send(&Request::PutFile {
            place,
            name: name.to_owned(),
            mode,
        })?;
        let mut buffer = vec![0; MAX_DATA];
        loop {
            match content.read(&mut buffer) {
                Ok(0) => {
                    return self
                        .demand_ok(&Request::End)
                        .map_err(|problem| match problem {
                            // Files for the job lie in memory too.
                            SessionError::Problem(problem)
                                if problem.errno == Some(Errno::NOSPC.raw_os_error()) =>
                            {
                                self.reached_by(Limit::Tmpfs, name)
                            }
                            other => other,
                        });
                }
                Ok(count) => self
                    .link
                    .send(&Request::Data(ByteBuf::from(&buffer[..count])))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io_error("read", Path::new(name), error).into()),
            }
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

    fn collect_all(
        &mut self,
        outputs: &[(String, String)],
        work: &Path,
    ) -> Result<(Outcome, Vec<Output>), SessionError> {
        let mut collected = Vec::with_capacity(outputs.len());
        for (index, (name, path)) in outputs.iter().enumerate() {
            let file = work.join(format!("output-{index}"));
            match self.collect(name, path, &file)? {
                Ok(output) => collected.push(output),
                Err(problem) => {
                    return Ok((
                        Outcome::OutputRefused {
                            name: name.clone(),
                            problem,
                        },
                        Vec::new(),
                    ));
                }
            }
        }
        Ok((Outcome::Ok, collected))
    }

    fn collect(
        &mut self,
        name: &str,
        path: &str,
        to: &Path,
    ) -> Result<Result<Output, Problem>, SessionError> {
        let (size, mode) = match self.ask(&Request::Collect {
            path: path.to_owned(),
            most: self.bounds.limits.output,
        })? {
            Answer::Output { size, mode } => (size, mode),
            Answer::Problem(problem) => return Ok(Err(problem)),
            _ => return Err(unexpected()),
        };
        let mut file = File::create_new(to).map_err(|e| io_error("create", to, e))?;
        let mut left = size;
        loop {
            match self.link.receive()? {
                Answer::Data(bytes) if bytes.len() as u64 <= left => {
                    file.write_all(&bytes)
                        .map_err(|e| io_error("write", to, e))?;
                    left -= bytes.len() as u64;
                }
                Answer::Hole(count) if count <= left => {
                    file.seek_relative(count.cast_signed())
                        .map_err(|e| io_error("write", to, e))?;
                    left -= count;
                }
                Answer::Limit(limit) => return Err(self.reached_by(limit, name)),
                Answer::Ok if left == 0 => break,
                Answer::Problem(problem) => return Ok(Err(problem)),
                _ => return Err(unexpected()),
            }
        }
        // A hole at the end is not written.
        file.set_len(size).map_err(|e| io_error("write", to, e))?;
        Ok(Ok(Output {
            name: name.to_owned(),
            path: to.to_path_buf(),
            size,
            mode,
        }))
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
        let mut unused = Vec::new();
        let dirty = loop {
            match self.link.receive()? {
                SupervisorEvent::Unused { number, ranges } if mounted.contains(&number) => {
                    unused.extend(ranges.into_iter().map(|(start, end)| start..end));
                }
                SupervisorEvent::Unused { .. } => {}
                SupervisorEvent::Closed { dirty, phases } => {
                    self.note(phases);
                    break dirty;
                }
                SupervisorEvent::Problem(problem) => return Err(SessionError::Problem(problem)),
                SupervisorEvent::Ready { .. } => return Err(unexpected()),
            }
        };
        self.lap("close");
        // What was dirty before and is not ours stays as it was.
        match dirty
            .into_iter()
            .find(|(number, _)| mounted.contains(number))
        {
            None => {
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

/// From the order to the end of work with the toolbox's programs.
pub(super) fn run_tools_session(
    link: &mut Link,
    plan: ToolPlan,
    bounds: &Bounds,
    events: &mut dyn FnMut(ToolEvent<'_>),
) -> Result<ToolEnd, SessionError> {
    let end = run_tools_unlimited(link, plan, bounds, events);
    let stopped = match &end {
        Err(SessionError::Stop(LinkError::Limit(limit))) => Some(*limit),
        Err(SessionError::Stop(LinkError::TimedOut | LinkError::Cancelled)) => None,
        _ => link.reached(),
    };
    match stopped {
        Some(limit) => Ok(ToolEnd::LimitReached(bounds.reached(limit, None))),
        None => end,
    }
}

fn run_tools_unlimited(
    link: &mut Link,
    plan: ToolPlan,
    bounds: &Bounds,
    events: &mut dyn FnMut(ToolEvent<'_>),
) -> Result<ToolEnd, SessionError> {
    link.send(&SupervisorRequest::Tools(plan))?;
    let mut printed = 0;
    loop {
        match link.receive()? {
            ToolReport::Log(bytes) => {
                events(ToolEvent::Log(&bytes));
                printed += bytes.len() as u64;
                if printed > bounds.limits.log {
                    return Ok(ToolEnd::LimitReached(bounds.reached(Limit::Log, None)));
                }
            }
            ToolReport::Phase(name) => events(ToolEvent::Phase(&name)),
            ToolReport::Limit(limit) => {
                return Ok(ToolEnd::LimitReached(bounds.reached(limit, None)));
            }
            ToolReport::Done => return Ok(ToolEnd::Done),
            ToolReport::Failed(failure) => return Ok(ToolEnd::Failed(failure)),
            ToolReport::Problem(problem) => return Err(SessionError::Problem(problem)),
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
