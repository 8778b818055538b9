//! The namespace sandbox: the host's kernel, name spaces, and a supervisor that lets nothing outlive impasto.
//!
//! Knows how a job becomes a conversation with supervisor and agent. For recipes and images that are trusted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use impasto_stages::Secret;
use rustix::rand::{GetRandomFlags, getrandom};
use serde_bytes::ByteBuf;

use super::export::DAEMON;
use super::host_view::HostView;
use super::link::{Link, Stop};
use super::plan::{Order, Plan, Report, ToolPlan, ToolReport};
use super::process::{Supervisor, io_error};
use super::protocol::{Answer, Device, DiskNode, MAX_DATA, Place, Problem, ProblemKind, Request, Setup, VERSION};
use super::terminal::Saved;
use super::{
    AgentStep, Content, Finished, Input, Job, Outcome, Output, Sandbox, SandboxError, SandboxEvent, SandboxFacts,
    ShellJob, Surroundings, ToolEnd, ToolJob, agent_digest,
};
use crate::bounded;
use crate::guest::{FileSystem, Layout, RootChoice, RootSpec, choose_root};
use crate::mirror::{MirrorChoice, MirrorError, Mirrors};

/// Where steps look for programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs jobs by the host's kernel. Needs root.
#[derive(Debug)]
pub struct NamespaceSandbox {
    executable: PathBuf,
    storage: OnceLock<Option<String>>,
    choice: MirrorChoice,
    /// Read when the first job with network needs it.
    mirrors: OnceLock<Result<Mirrors, MirrorError>>,
    surroundings: Surroundings,
}

impl NamespaceSandbox {
    /// `executable` is the impasto binary, which is started again as supervisor.
    pub fn new(executable: PathBuf) -> Self {
        Self {
            executable,
            storage: OnceLock::new(),
            choice: MirrorChoice::default(),
            mirrors: OnceLock::new(),
            surroundings: Surroundings::default(),
        }
    }

    /// The same, in other surroundings.
    #[must_use]
    pub fn in_surroundings(self, surroundings: Surroundings) -> Self {
        Self { surroundings, ..self }
    }

    /// The same, with what the user chose of the mirrors that steps with network see.
    #[must_use]
    pub fn with_mirrors(self, choice: MirrorChoice) -> Self {
        Self { choice, ..self }
    }

    fn mirrors(&self) -> Result<&Mirrors, SandboxError> {
        let mirrors = self.mirrors.get_or_init(|| self.choice.resolve());
        mirrors.as_ref().map_err(|error| SandboxError::Mirror(error.clone()))
    }

    /// What steps see of the host because they have its network.
    fn host_view(&self, network: bool) -> Result<HostView, SandboxError> {
        if network {
            HostView::with_network(self.mirrors()?, &self.surroundings.host_name)
        } else {
            Ok(HostView::default())
        }
    }
}

impl Sandbox for NamespaceSandbox {
    fn run(&self, job: Job<'_>, events: &mut dyn FnMut(SandboxEvent<'_>)) -> Result<Finished, SandboxError> {
        demand_root()?;
        let mut host = self.host_view(job.network)?;
        host.trees.extend(directories(&job.trees)?);
        host.caches.extend(directories(&job.caches)?);
        let begun = Instant::now();
        make_overlay(job.overlay, job.virtual_size)?;
        let plan = Plan {
            work: job.work.to_path_buf(),
            overlay: job.overlay.to_path_buf(),
            chain: job.chain.clone(),
            network: job.network,
            terminal: false,
        };
        let mut supervisor = Supervisor::start(&self.executable, job.work)?;
        let deadline = job.timeout.map(|timeout| begun + timeout);
        let mut link = supervisor.link(deadline, job.cancel.clone())?;
        let timeout = job.timeout.unwrap_or_default();
        let mut talk = Talk { surroundings: &self.surroundings, link: &mut link, timings: Vec::new(), last: begun };
        let result = talk.hold(plan, job, host, events);
        let mut timings = talk.timings;
        // Closing the channel ends everything at once; after success the processes are about to end by themselves.
        let link = result.is_ok().then_some(link);
        let success = supervisor.end()?;
        drop(link);
        timings.push(("all".to_owned(), begun.elapsed()));
        let finished = |outcome| Finished {
            outcome,
            outputs: Vec::new(),
            unused: Vec::new(),
            mounted: Vec::new(),
            timings: Vec::new(),
        };
        let finished = match result {
            Ok(End { outcome, outputs, unused, mounted }) if success => {
                Finished { outputs, unused, mounted, ..finished(outcome) }
            }
            Ok(_) => return Err(supervisor.broken("its supervisor failed".to_owned())),
            Err(Trouble::Stop(Stop::TimedOut)) => finished(Outcome::TimedOut { after: timeout }),
            Err(Trouble::Stop(Stop::Cancelled)) => finished(Outcome::Cancelled),
            Err(Trouble::Stop(Stop::Broken(reason))) => return Err(supervisor.broken(reason)),
            Err(Trouble::Problem(problem)) => match problem.kind {
                ProblemKind::WriteBack | ProblemKind::Dirty => finished(Outcome::Damaged { problem }),
                _ => return Err(problem_error(problem)),
            },
            Err(Trouble::Error(error)) => return Err(error),
        };
        Ok(Finished { timings, ..finished })
    }

    fn shell(&self, job: ShellJob<'_>) -> Result<i32, SandboxError> {
        demand_root()?;
        let host = self.host_view(job.network)?;
        let overlay = job.work.join("overlay.qcow2");
        make_overlay(&overlay, job.virtual_size)?;
        let plan =
            Plan { work: job.work.to_path_buf(), overlay, chain: job.chain, network: job.network, terminal: true };
        let mut supervisor = Supervisor::start(&self.executable, job.work)?;
        let mut link = supervisor.link(None, job.cancel)?;
        let mut talk =
            Talk { surroundings: &self.surroundings, link: &mut link, timings: Vec::new(), last: Instant::now() };
        let saved = Saved::new();
        let result = talk.hold_shell(&plan, &job.root, &job.env, host, job.line);
        // The overlay is thrown away, so nothing needs to be closed in order.
        drop(link);
        let ended = supervisor.end();
        saved.restore();
        ended?;
        match result {
            Ok(code) => Ok(code),
            Err(Trouble::Problem(problem)) => Err(problem_error(problem)),
            Err(Trouble::Error(error)) => Err(error),
            Err(Trouble::Stop(Stop::Broken(reason))) => Err(supervisor.broken(reason)),
            Err(Trouble::Stop(Stop::Cancelled)) => Ok(crate::interrupt::EXIT_CODE.into()),
            Err(Trouble::Stop(Stop::TimedOut)) => Err(supervisor.broken("it stopped without cause".to_owned())),
        }
    }

    fn run_tools(&self, job: ToolJob<'_>, log: &mut dyn FnMut(&[u8])) -> Result<ToolEnd, SandboxError> {
        demand_root()?;
        let deadline = job.timeout.map(|timeout| Instant::now() + timeout);
        let after = job.timeout.unwrap_or_default();
        let scratch = job.work.parent().unwrap_or(job.work);
        let mut supervisor = Supervisor::start(&self.executable, scratch)?;
        let mut link = supervisor.link(deadline, job.cancel)?;
        let plan = ToolPlan { work: job.work.to_path_buf(), toolbox: job.toolbox.to_path_buf(), task: job.task };
        let result = hold_tools(&mut link, plan, log);
        // Closing the channel ends everything at once; after success the processes are about to end by themselves.
        let link = result.is_ok().then_some(link);
        let success = supervisor.end()?;
        drop(link);
        match result {
            Ok(ToolEnd::Done) if !success => Err(supervisor.broken("its supervisor failed".to_owned())),
            Ok(end) => Ok(end),
            Err(Trouble::Stop(Stop::TimedOut)) => Ok(ToolEnd::TimedOut { after }),
            Err(Trouble::Stop(Stop::Cancelled)) => Ok(ToolEnd::Cancelled),
            Err(Trouble::Stop(Stop::Broken(reason))) => Err(supervisor.broken(reason)),
            Err(Trouble::Problem(problem)) => Err(problem_error(problem)),
            Err(Trouble::Error(error)) => Err(error),
        }
    }

    fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    fn facts(&self) -> SandboxFacts {
        let storage = self.storage.get_or_init(storage_version).clone();
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let network = match self.mirrors.get() {
            Some(Ok(mirrors)) => mirrors.facts(),
            _ => BTreeMap::new(),
        };
        SandboxFacts { name: "namespace", isolation: "shared-kernel", kernel, agent: agent_digest(), storage, network }
    }

    fn network_secrets(&self) -> Result<Vec<Secret>, SandboxError> {
        Ok(self.mirrors()?.secrets().into_iter().map(Secret::new).collect())
    }
}

/// Directories of the host by name, as the protocol has them.
fn directories(named: &[(String, PathBuf)]) -> Result<Vec<(String, String)>, SandboxError> {
    let text = |(name, path): &(String, PathBuf)| {
        let text = path.to_str().ok_or_else(|| io_error("name", path, io::Error::other("it is no UTF-8")))?;
        Ok((name.clone(), text.to_owned()))
    };
    named.iter().map(text).collect()
}

fn make_overlay(path: &Path, virtual_size: u64) -> Result<(), SandboxError> {
    let file = File::create_new(path).map_err(|e| io_error("create", path, e))?;
    impasto_store::qcow2::create_overlay(&file, virtual_size)
        .map_err(|source| SandboxError::Overlay { path: path.to_path_buf(), source })
}

fn demand_root() -> Result<(), SandboxError> {
    let uid = rustix::process::geteuid();
    if uid.is_root() { Ok(()) } else { Err(SandboxError::NotRoot { uid: uid.as_raw() }) }
}

/// A problem that ends a job without outcome.
fn problem_error(problem: Problem) -> SandboxError {
    match problem.kind {
        ProblemKind::HostLacks => SandboxError::HostLacks(problem),
        ProblemKind::NoRoot => SandboxError::NoRoot(problem),
        _ => SandboxError::Failed(problem),
    }
}

fn storage_version() -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "this is the sandbox, which runs programs")]
    let output = Command::new(DAEMON).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.lines().next()?.trim().to_owned())
}

/// A conversation that came to its end.
struct End {
    outcome: Outcome,
    outputs: Vec<Output>,
    unused: Vec<Range<u64>>,
    mounted: Vec<u32>,
}

/// Why a conversation ended early.
enum Trouble {
    Stop(Stop),
    Problem(Problem),
    Error(SandboxError),
}

impl From<Stop> for Trouble {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl From<SandboxError> for Trouble {
    fn from(error: SandboxError) -> Self {
        Self::Error(error)
    }
}

fn unexpected() -> Trouble {
    Trouble::Stop(Stop::Broken("an answer came out of order".to_owned()))
}

/// The conversation with supervisor and agent.
struct Talk<'a> {
    surroundings: &'a Surroundings,
    link: &'a mut Link,
    timings: Vec<(String, Duration)>,
    last: Instant,
}

impl Talk<'_> {
    fn lap(&mut self, phase: &str) {
        let now = Instant::now();
        self.timings.push((phase.to_owned(), now - self.last));
        self.last = now;
    }

    fn note(&mut self, phases: Vec<(String, f64)>) {
        let valid = phases.into_iter().filter(|(_, ms)| ms.is_finite() && *ms >= 0.0);
        self.timings
            .extend(valid.map(|(phase, ms)| (format!("supervisor: {phase}"), Duration::from_secs_f64(ms / 1e3))));
    }

    fn hold(
        &mut self,
        plan: Plan,
        job: Job<'_>,
        host: HostView,
        events: &mut dyn FnMut(SandboxEvent<'_>),
    ) -> Result<End, Trouble> {
        let surroundings = self.surroundings;
        let (nonce, mounted) = self.begin(&plan, &job.root, |disk, root| {
            Ok(Setup {
                disk,
                root,
                host_name: surroundings.host_name.clone(),
                cpus: surroundings.cpus,
                env: environment(surroundings, job.source_date_epoch, &job.env),
                overlays: host.overlays,
                policy: host.policy,
                trees: host.trees,
                caches: host.caches,
                source_date_epoch: job.source_date_epoch,
            })
        })?;
        self.put_all(job.inputs, &job.scripts, &job.secrets)?;
        self.lap("inputs");
        self.demand_ok(&Request::Note { volatile: job.volatile })?;
        self.lap("volatile files noted");
        let mut outcome = self.run_steps(&job.steps, events)?;
        self.lap("steps");
        self.demand_ok(&Request::Settle)?;
        let mut outputs = Vec::new();
        if outcome.is_ok() {
            (outcome, outputs) = self.collect_all(&job.outputs, job.work)?;
        }
        self.lap("outputs");
        // Who looks at a failed state wants its logs.
        if outcome.is_ok() {
            self.demand_ok(&Request::PutBack)?;
        }
        self.lap("volatile files");
        let unused = self.finish(nonce, &mounted)?;
        Ok(End { outcome, outputs, unused, mounted })
    }

    /// A shell's conversation: the exit code.
    fn hold_shell(
        &mut self,
        plan: &Plan,
        root: &RootSpec,
        env: &[(String, String)],
        host: HostView,
        line: Option<String>,
    ) -> Result<i32, Trouble> {
        let surroundings = self.surroundings;
        self.begin(plan, root, |disk, root| {
            Ok(Setup {
                disk,
                root,
                host_name: surroundings.host_name.clone(),
                cpus: surroundings.cpus,
                env: environment(surroundings, None, env),
                overlays: host.overlays,
                policy: host.policy,
                trees: host.trees,
                caches: host.caches,
                source_date_epoch: None,
            })
        })?;
        match self.ask(&Request::Shell { line })? {
            Answer::Exited { code: Some(code), .. } => Ok(code),
            Answer::Exited { signal, .. } => Ok(128 + signal.unwrap_or(0)),
            Answer::Problem(problem) => Err(Trouble::Problem(problem)),
            _ => Err(unexpected()),
        }
    }

    /// From nothing to a mounted guest: the nonce, and the numbers of what is mounted.
    fn begin(
        &mut self,
        plan: &Plan,
        root: &RootSpec,
        setup: impl FnOnce(Vec<DiskNode>, Vec<u32>) -> Result<Setup, SandboxError>,
    ) -> Result<([u8; 16], Vec<u32>), Trouble> {
        self.link.send(&Order::Guest(plan.clone()))?;
        if plan.terminal {
            self.link.send_terminal()?;
        }
        let (layout, disk, partitions) = match self.link.receive()? {
            Report::Ready { layout, disk, partitions, phases } => {
                self.note(phases);
                (layout, disk, partitions)
            }
            Report::Problem(problem) => return Err(Trouble::Problem(problem)),
            Report::Closed { .. } | Report::Unused { .. } => return Err(unexpected()),
        };
        self.lap("disk");
        let root = match choose_root(&layout, root).map_err(SandboxError::Root)? {
            RootChoice::Whole => vec![0],
            RootChoice::Partition(number) => vec![number],
            RootChoice::Probe(numbers) => numbers,
        };
        let nonce = self.greet()?;
        let mounted = self.set_up(setup(disk_nodes(&layout, disk, &partitions), root)?)?;
        self.lap("mount");
        Ok((nonce, mounted))
    }

    fn greet(&mut self) -> Result<[u8; 16], Trouble> {
        let mut nonce = [0; 16];
        getrandom(&mut nonce, GetRandomFlags::empty())
            .map_err(|e| io_error("read", Path::new("random bytes"), e.into()))?;
        self.demand_ok(&Request::Hello { version: VERSION, nonce })?;
        Ok(nonce)
    }

    fn set_up(&mut self, setup: Setup) -> Result<Vec<u32>, Trouble> {
        match self.ask(&Request::Setup(setup))? {
            Answer::Made { mounted, .. } => Ok(mounted),
            Answer::Problem(problem) => Err(Trouble::Problem(problem)),
            _ => Err(unexpected()),
        }
    }

    /// One request, one answer.
    fn ask(&mut self, request: &Request) -> Result<Answer, Trouble> {
        self.link.send(request)?;
        Ok(self.link.receive()?)
    }

    fn demand_ok(&mut self, request: &Request) -> Result<(), Trouble> {
        match self.ask(request)? {
            Answer::Ok => Ok(()),
            Answer::Problem(problem) => Err(Trouble::Problem(problem)),
            _ => Err(unexpected()),
        }
    }

    fn put_all(
        &mut self,
        inputs: Vec<Input<'_>>,
        scripts: &[(String, Vec<u8>)],
        secrets: &[(String, Vec<u8>)],
    ) -> Result<(), Trouble> {
        for (name, bytes) in scripts {
            self.put(Place::Scripts, name, 0o755, &mut bytes.as_slice())?;
        }
        for (name, bytes) in secrets {
            self.put(Place::Secrets, name, 0o400, &mut bytes.as_slice())?;
        }
        for Input { name, mode, content } in inputs {
            match content {
                Content::Bytes(mut bytes) => self.put(Place::Inputs, &name, mode, &mut bytes)?,
                Content::Reader(mut reader) => self.put(Place::Inputs, &name, mode, &mut reader)?,
                Content::Path(path) => {
                    let mut file = bounded::open(path).map_err(|e| io_error("open", path, e))?;
                    self.put(Place::Inputs, &name, mode, &mut file)?;
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, place: Place, name: &str, mode: u32, content: &mut dyn Read) -> Result<(), Trouble> {
        self.link.send(&Request::PutFile { place, name: name.to_owned(), mode })?;
        let mut buffer = vec![0; MAX_DATA];
        loop {
            match content.read(&mut buffer) {
                Ok(0) => return self.demand_ok(&Request::End),
                Ok(count) => self.link.send(&Request::Data(ByteBuf::from(&buffer[..count])))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io_error("read", Path::new(name), error).into()),
            }
        }
    }

    fn run_steps(&mut self, steps: &[AgentStep], events: &mut dyn FnMut(SandboxEvent<'_>)) -> Result<Outcome, Trouble> {
        for (index, step) in steps.iter().enumerate() {
            events(SandboxEvent::StepStarted { index });
            self.link.send(&Request::Step(step.clone()))?;
            loop {
                match self.link.receive()? {
                    Answer::Log { stream, bytes } => events(SandboxEvent::Log { stream, bytes: &bytes }),
                    Answer::Exited { code: Some(0), .. } => break,
                    Answer::Exited { code, signal } => return Ok(Outcome::StepFailed { index, code, signal }),
                    // The supervisor speaks where the agent should: the disk itself has failed.
                    Answer::Problem(problem) if problem.kind == ProblemKind::WriteBack => {
                        return Err(Trouble::Problem(problem));
                    }
                    Answer::Problem(problem) => return Ok(Outcome::StepRefused { index, problem }),
                    _ => return Err(unexpected()),
                }
            }
            events(SandboxEvent::StepFinished { index });
        }
        Ok(Outcome::Ok)
    }

    fn collect_all(&mut self, outputs: &[(String, String)], work: &Path) -> Result<(Outcome, Vec<Output>), Trouble> {
        let mut collected = Vec::with_capacity(outputs.len());
        for (index, (name, path)) in outputs.iter().enumerate() {
            let file = work.join(format!("output-{index}"));
            match self.collect(name, path, &file)? {
                Ok(output) => collected.push(output),
                Err(problem) => return Ok((Outcome::OutputRefused { name: name.clone(), problem }, Vec::new())),
            }
        }
        Ok((Outcome::Ok, collected))
    }

    fn collect(&mut self, name: &str, path: &str, to: &Path) -> Result<Result<Output, Problem>, Trouble> {
        let (size, mode) = match self.ask(&Request::Collect { path: path.to_owned() })? {
            Answer::Output { size, mode } => (size, mode),
            Answer::Problem(problem) => return Ok(Err(problem)),
            _ => return Err(unexpected()),
        };
        let mut file = File::create_new(to).map_err(|e| io_error("create", to, e))?;
        let mut left = size;
        loop {
            match self.link.receive()? {
                Answer::Data(bytes) if bytes.len() as u64 <= left => {
                    file.write_all(&bytes).map_err(|e| io_error("write", to, e))?;
                    left -= bytes.len() as u64;
                }
                Answer::Ok if left == 0 => break,
                Answer::Problem(problem) => return Ok(Err(problem)),
                _ => return Err(unexpected()),
            }
        }
        Ok(Ok(Output { name: name.to_owned(), path: to.to_path_buf(), size, mode }))
    }

    /// Nothing counts as success before this is through.
    fn finish(&mut self, nonce: [u8; 16], mounted: &[u32]) -> Result<Vec<Range<u64>>, Trouble> {
        match self.ask(&Request::Finish)? {
            Answer::Done { nonce: repeated } if repeated == nonce => {}
            Answer::Problem(problem) => return Err(Trouble::Problem(problem)),
            _ => return Err(unexpected()),
        }
        self.lap("unmount");
        let mut unused = Vec::new();
        let dirty = loop {
            match self.link.receive()? {
                Report::Unused { number, ranges } if mounted.contains(&number) => {
                    unused.extend(ranges.into_iter().map(|(start, end)| start..end));
                }
                Report::Unused { .. } => {}
                Report::Closed { dirty, phases } => {
                    self.note(phases);
                    break dirty;
                }
                Report::Problem(problem) => return Err(Trouble::Problem(problem)),
                Report::Ready { .. } => return Err(unexpected()),
            }
        };
        self.lap("close");
        // What was dirty before and is not ours stays as it was.
        match dirty.into_iter().find(|(number, _)| mounted.contains(number)) {
            None => {
                unused.sort_unstable_by_key(|range| range.start);
                Ok(unused)
            }
            Some((number, reason)) => {
                let what = if number == 0 { "the disk".to_owned() } else { format!("partition {number}") };
                let what = format!("the file system of {what} {reason} after unmounting");
                Err(Trouble::Problem(Problem::new(ProblemKind::Dirty, what)))
            }
        }
    }
}

/// From the order to the end of work with the toolbox's programs.
fn hold_tools(link: &mut Link, plan: ToolPlan, log: &mut dyn FnMut(&[u8])) -> Result<ToolEnd, Trouble> {
    link.send(&Order::Tools(plan))?;
    loop {
        match link.receive()? {
            ToolReport::Log(bytes) => log(&bytes),
            ToolReport::Done => return Ok(ToolEnd::Done),
            ToolReport::Failed(failure) => return Ok(ToolEnd::Failed(failure)),
            ToolReport::Problem(problem) => return Err(Trouble::Problem(problem)),
        }
    }
}

/// Environment of every step; what a job adds comes after.
fn environment(
    surroundings: &Surroundings,
    source_date_epoch: Option<u64>,
    more: &[(String, String)],
) -> Vec<(String, String)> {
    let Surroundings { lang, timezone, .. } = surroundings;
    let fixed = [("PATH", PATH), ("HOME", "/root"), ("LANG", lang), ("TZ", timezone)];
    let fixed = fixed.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    let epoch = source_date_epoch.map(|seconds| ("SOURCE_DATE_EPOCH".to_owned(), seconds.to_string()));
    fixed.chain(epoch).chain(more.iter().cloned()).collect()
}

fn disk_nodes(layout: &Layout, disk: Device, partitions: &[(u32, Device)]) -> Vec<DiskNode> {
    let node = |number, device, fs: Option<&FileSystem>, part_uuid| DiskNode {
        number,
        device,
        mount_type: fs.and_then(|fs| fs.kind.mount_type()).map(str::to_owned),
        describe: fs.map_or_else(|| "partition without file system".to_owned(), |fs| fs.kind.to_string()),
        is_container: fs.is_some_and(|fs| fs.kind.is_container()),
        uuid: fs.and_then(|fs| fs.uuid.clone()),
        label: fs.and_then(|fs| fs.label.clone()),
        part_uuid,
    };
    let mut nodes = vec![node(0, disk, layout.bare.as_ref(), None)];
    for partition in &layout.partitions {
        let device = partitions.iter().find(|(number, _)| *number == partition.number);
        if let Some((_, device)) = device {
            nodes.push(node(partition.number, *device, partition.fs.as_ref(), Some(partition.uuid.clone())));
        }
    }
    nodes
}
