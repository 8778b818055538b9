//! The one loop that runs a plan: starts jobs as the schedule allows, takes their results, tells what happens.
//! Knows nodes and results; prints nothing, and knows no sandbox from another.

mod images;
mod jobs;
mod keep;
mod progress;
mod results;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use impasto_stages::action::{Action, Bound};
use impasto_store::claim::{FileContent, OutputFile};
use impasto_store::lease::Lease;

use crate::base::cancel::CancelToken;
use crate::base::interrupt::Interrupt;
use crate::debian::packages::fetch::Fetcher;
use crate::debian::packages::host::PackageHost;
use crate::engine::chain::ActionChain;
use crate::engine::event::{Event, EventKind, How};
use crate::engine::graph::{Graph, NodeId, NodeMap, Selection};
use crate::engine::hints::Hints;
use crate::engine::job::{Job, JobContext, JobError, JobTask, Message};
use crate::engine::locking;
use crate::engine::plan::{Hit, PlanError, PlanState, Planner};
use crate::engine::publish::{Target, is_current};
use crate::engine::reason::Reason;
use crate::engine::roots::UsedPackages;
use crate::engine::schedule::{Schedule, TaskState};
use crate::net::Proxies;
use crate::sandbox::SandboxSetup;

pub use images::{Description, HeldImage, ImageFacts, ImageGate, ImageRefusal, TargetFacts};

/// What a run is told beside its plan.
#[derive(Clone)]
pub struct RunConfig<'a> {
    pub recipe: String,
    /// How many jobs may run at once.
    pub jobs: usize,
    /// Whether a failure cancels only what needs the failed stage.
    pub keep_going: bool,
    /// Files to write for the user, by the node that makes them.
    pub targets: HashMap<NodeId, Vec<Target>>,
    /// Images whose files appear together.
    pub images: Vec<HeldImage>,
    /// What decides whether they do.
    pub gate: Option<&'a dyn ImageGate>,
    /// Where Actions with a sandbox run, and what their steps see there.
    pub sandbox: SandboxSetup,
    /// Where packages come from.
    pub packages: &'a PackageHost,
    /// The proxies of this host; asked where something is fetched.
    pub proxies: Arc<dyn Fn() -> Proxies + Send + Sync>,
    /// Where reports of tests that failed go, and how messages call that, with a `/` at its end.
    pub reports: (PathBuf, String),
    /// Bytes that a compressed disk image may unpack to.
    pub unpack_limit: u64,
    /// Seconds since 1970, for records.
    pub now: u64,
    /// What users are told to do about failures.
    pub hints: Rc<dyn Hints>,
    /// How messages call the recipe's directory, with a `/` at its end; empty for the current one.
    pub dir: String,
    /// What claims record of the host.
    pub facts: std::collections::BTreeMap<String, String>,
    /// What the user may ask while it runs.
    pub interrupt: Interrupt,
    /// Whether everything that the recipe names is to be built.
    pub whole: bool,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    pub built: usize,
    /// Nodes whose results were found.
    pub cached: usize,
    /// Nodes that gave no result.
    pub failed: usize,
    /// Nodes that did not run.
    pub cancelled: usize,
    /// Images whose files were not written.
    pub not_written: usize,
    /// Whether the user stopped it.
    pub interrupted: bool,
    /// Whether the host failed (a full disk, an I/O error), not a stage.
    pub host_failed: bool,
}

/// A run that could not begin.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The plan could not be made.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

pub struct Engine<'a> {
    graph: &'a Graph,
    planner: Planner<'a>,
    config: RunConfig<'a>,
    /// What gets package files.
    packages: Option<Fetcher>,
    /// What of packages the recipe's lock names.
    used: UsedPackages,
    /// What jobs share, made for the first one.
    context: Option<Arc<JobContext>>,
    schedule: Schedule,
    nodes: NodeMap<NodeRun<'a>>,
    progress: progress::Progress,
    /// Counts what happens to nodes, so that it can be told what came first.
    ticks: u64,
    /// Taken with the first job: the collector keeps what this run uses.
    lease: Option<Lease>,
    renewed: Instant,
    /// When what this run adds to roots and history was last written.
    saved: Instant,
    /// Whether something came since then.
    unsaved: bool,
    /// Results that were missed in this run, each told once.
    missed: BTreeSet<PathBuf>,
    images: images::Images,
    cancel: CancelToken,
    /// Set where the run has to end early: until when it waits for the jobs that were told to stop.
    deadline: Option<Instant>,
    sender: SyncSender<Message>,
    receiver: Receiver<Message>,
    events: &'a mut dyn FnMut(&Event),
    start: Instant,
    interrupted: bool,
    host_failed: bool,
    /// Whether the user was warned that caches cannot be written.
    cache_warned: bool,
    /// Whether some result was not there when the run began: else it says as little, as fast, as it can.
    has_work: bool,
}

/// What a run knows of one node.
#[derive(Default)]
struct NodeRun<'a> {
    /// Its result, where it is there.
    result: Option<Hit>,
    /// How far it is, where its result is not there.
    units: Option<ActionChain<'a>>,
    /// Why it runs, where it does.
    reason: Option<Reason>,
    /// Whether its result was made in this run.
    built: bool,
    /// When its first job began.
    started: Option<Instant>,
    /// How long it took where it ran.
    ran: Duration,
    /// Bytes that it added to the store.
    stored_bytes: u64,
    /// When its last job began, in ticks, and when its result was last lost.
    spawned: u64,
    lost: u64,
    /// How often it was bound again because its inputs changed under it.
    rebinds: u32,
    progress: progress::NodeProgress,
}

impl NodeRun<'_> {
    /// The result of a node that another one needs, and which is done.
    fn known(&self) -> &Hit {
        self.result.as_ref().expect("BUG: a parent has no result")
    }

    fn wall_ms(&self) -> u64 {
        self.started
            .map_or(0, |start| start.elapsed().as_millis() as u64)
    }
}

/// How often inputs that change while they are read are read again.
const REBINDS: u32 = 5;
/// How many messages may wait to be told: a stage that writes faster than they are read waits.
const MESSAGES: usize = 1024;
/// How soon an interrupt is noticed.
const TICK: Duration = Duration::from_millis(20);
/// How long jobs that were told to stop are waited for. What does not end by then (a file being converted, a call that
/// hangs in the kernel) ends with the process, and its sandbox with it. Below [`crate::base::interrupt::GRACE`].
const PATIENCE: Duration = Duration::from_secs(3);
/// How often what is used and remembered is written while a run goes on: what a run that is killed lost of it, the
/// collector may delete.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// How often a lease is renewed: collectors in other containers believe one for a day after it was written.
const RENEW_EVERY: Duration = Duration::from_secs(3600);

impl<'a> Engine<'a> {
    /// A run of what a selection names. `start` is when the command began.
    ///
    /// # Errors
    /// The plan cannot be made.
    pub fn new(
        mut planner: Planner<'a>,
        selection: &Selection,
        config: RunConfig<'a>,
        start: Instant,
        events: &'a mut dyn FnMut(&Event),
    ) -> Result<Self, EngineError> {
        let graph = planner.graph();
        let states = planner.plan(&selection.nodes)?;
        let needs = |id: NodeId| {
            graph
                .node(id)
                .parents
                .iter()
                .map(|(_, parent)| *parent)
                .collect()
        };
        let schedule = Schedule::new(
            graph.ids().map(needs).collect(),
            &selection.nodes,
            config.keep_going,
        );
        let nodes = states.map(|state| match state {
            Some(PlanState::Cached(hit)) => NodeRun {
                result: Some(hit),
                ..NodeRun::default()
            },
            Some(PlanState::Dirty { reason, .. }) => NodeRun {
                reason: Some(reason),
                ..NodeRun::default()
            },
            Some(PlanState::Pending { .. }) | None => NodeRun::default(),
        });
        let (sender, receiver) = sync_channel(MESSAGES);
        Ok(Engine {
            graph,
            planner,
            config,
            packages: None,
            used: UsedPackages::of(graph),
            context: None,
            schedule,
            nodes,
            progress: progress::Progress::default(),
            ticks: 0,
            lease: None,
            renewed: Instant::now(),
            saved: Instant::now(),
            unsaved: false,
            missed: BTreeSet::new(),
            images: images::Images::default(),
            cancel: CancelToken::new(),
            deadline: None,
            sender,
            receiver,
            events,
            start,
            interrupted: false,
            host_failed: false,
            cache_warned: false,
            has_work: false,
        })
    }

    /// Nodes that are wanted and whose result is not known.
    pub fn open(&self) -> impl Iterator<Item = NodeId> + '_ {
        let open = move |id: &NodeId| {
            self.schedule.state(*id) != TaskState::Unwanted && self.nodes[*id].result.is_none()
        };
        self.graph.ids().filter(open)
    }

    /// Runs to the end. What fails, stages or the host, is part of the summary.
    pub fn run(mut self) -> Summary {
        let known = self
            .nodes
            .values()
            .filter(|node| node.result.is_some())
            .count();
        let nodes = self
            .schedule
            .ids()
            .filter(|id| self.schedule.state(*id) != TaskState::Unwanted)
            .count();
        self.has_work = known < nodes;
        // Before any line tells that something runs: who reads it may interrupt it.
        let mut interrupt = self.has_work.then(|| self.config.interrupt.listen());
        self.emit(EventKind::RunStarted {
            nodes,
            cached: known,
        });
        self.begin();
        self.begin_packages();
        self.begin_forecast();
        while !self.schedule.is_finished() {
            self.start_ready();
            if self.schedule.running() > 0 {
                let interrupt = interrupt.get_or_insert_with(|| self.config.interrupt.listen());
                self.wait(&interrupt.token());
            }
        }
        if let Some(packages) = &self.packages {
            packages.stop();
            for (name, start, end) in packages.take_downloads() {
                self.emit_phase(None, name, start, end);
            }
        }
        self.finish()
    }

    /// Begins to get the package files of all that may run: they come while other stages run.
    fn begin_packages(&mut self) {
        if !self.has_work {
            return;
        }
        let sets = self.graph.package_sets(self.open());
        // Who needs none does not ask the host's apt where its mirrors are.
        if !sets.is_empty() {
            let packages = self.fetcher();
            packages.begin(sets.into_iter());
            self.packages = Some(packages);
        }
    }

    /// What gets the package files of the lock.
    fn fetcher(&self) -> Fetcher {
        let (store, dir) = (self.planner.store(), self.planner.dir());
        locking::fetcher(
            self.config.packages,
            store,
            dir,
            self.graph,
            CancelToken::new(),
        )
    }

    /// Takes the next message of a job, or notices that there is no more time for any.
    fn wait(&mut self, interrupt: &CancelToken) {
        match self.receiver.recv_timeout(TICK) {
            Ok(Message::Log { id, line }) => {
                self.note_line(id);
                let stage = self.label(id);
                self.emit(EventKind::Log { stage, line });
            }
            Ok(Message::Warning { id, message }) => self.warn(Some(id), message),
            Ok(Message::Phase {
                id,
                name,
                start,
                end,
            }) => {
                let stage = Some(self.label(id));
                self.emit_phase(stage, name, start, end);
            }
            Ok(Message::Done { id, result }) => self.take(id, *result),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => panic!("BUG: the engine holds a sender itself"),
        }
        self.look();
        if self.unsaved && self.saved.elapsed() > SAVE_EVERY {
            self.save(false);
        }
        if let Some(lease) = &self.lease
            && self.renewed.elapsed() > RENEW_EVERY
        {
            lease.renew();
            self.renewed = Instant::now();
        }
        if interrupt.is_cancelled() && !self.interrupted {
            self.interrupted = true;
            self.emit(EventKind::Interrupted);
            self.stop();
        }
        if self
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
        {
            for id in self.schedule.ids() {
                if self.schedule.state(id) == TaskState::Running {
                    self.schedule.cancelled(id);
                }
            }
        }
    }

    /// Ends the run early: nothing starts any more, and what runs is told to stop.
    fn stop(&mut self) {
        self.schedule.stop();
        self.cancel.cancel();
        if let Some(packages) = &self.packages {
            packages.stop();
        }
        self.deadline
            .get_or_insert_with(|| Instant::now() + PATIENCE);
    }

    fn start_ready(&mut self) {
        while self.schedule.running() < self.config.jobs {
            let Some(id) = self.schedule.start() else {
                break;
            };
            self.start_node(id);
        }
    }

    /// Starts a node that has all it needs: takes its result where it is there, else starts a job.
    fn start_node(&mut self, id: NodeId) {
        if self.nodes[id].result.is_none() {
            let graph = self.graph;
            let mut units = self.nodes[id]
                .units
                .take()
                .unwrap_or_else(|| ActionChain::new(graph.node(id)));
            let found = self
                .planner
                .advance(id, &mut units, |parent| self.nodes[parent].known());
            let node = &mut self.nodes[id];
            node.units = Some(units);
            match found {
                Ok((None, PlanState::Cached(hit))) => node.result = Some(hit),
                Ok((Some(action), PlanState::Dirty { reason, .. })) => {
                    // Told once, also where it starts a second time because a parent had to be made again.
                    node.reason.get_or_insert(reason);
                    return self.start_job(id, action);
                }
                Ok((_, state)) => panic!("BUG: a node that has all it needs is {}", state.word()),
                Err(error) => return self.fail(id, JobError::plan(error)),
            }
        }
        let hit = self.nodes[id].result.as_ref().expect("BUG: just found");
        let targets = self.config.targets.get(&id).into_iter().flatten();
        let missing =
            |target: &&Target| !is_current(target, hit, self.planner.published(&target.path));
        let missing: Vec<_> = targets.filter(missing).cloned().collect();
        if missing.is_empty() {
            return self.finish_cached(id);
        }
        let hit = hit.clone();
        self.nodes[id].started = Some(Instant::now());
        let job = self.job(id, JobTask::Publish(Box::new(hit)), missing);
        self.spawn(job);
    }

    /// A node's result was found, and its files are there.
    fn finish_cached(&mut self, id: NodeId) {
        for target in self.config.targets.get(&id).into_iter().flatten() {
            if let Some(file) = self.planner.published(&target.path) {
                let (bytes, sha256) = (file.size, file.sha256);
                let event = EventKind::Published {
                    path: target.path.clone(),
                    bytes,
                    sha256,
                    written: false,
                };
                (self.events)(&Event {
                    at: self.start.elapsed(),
                    kind: event,
                });
            }
        }
        self.nodes[id].built = false;
        self.schedule.done(id);
        self.look_at_images(id);
        let stage = self.label(id);
        let result_bytes = if self.has_work {
            self.result_bytes(id)
        } else {
            None
        };
        let (how, caveats) = (How::Cached, self.caveats(id));
        self.emit(EventKind::StageFinished {
            stage,
            how,
            wall_ms: 0,
            stored_bytes: 0,
            result_bytes,
            caveats,
        });
    }

    fn start_job(&mut self, id: NodeId, action: Action<Bound>) {
        let node = &mut self.nodes[id];
        if node.started.is_none() {
            node.started = Some(Instant::now());
            let reason = node
                .reason
                .as_ref()
                .map(Reason::to_string)
                .unwrap_or_default();
            let (stage, kind) = (self.label(id), self.graph.node(id).kind.name);
            self.emit(EventKind::StageStarted {
                stage,
                kind,
                reason,
            });
            self.emit_expected(id);
        }
        // The node's files are those of its last unit.
        let is_last = self.nodes[id]
            .units
            .as_ref()
            .is_none_or(ActionChain::is_last);
        let targets = if is_last {
            self.config.targets.get(&id).cloned()
        } else {
            None
        };
        let job = self.job(
            id,
            JobTask::Run(Box::new(action)),
            targets.unwrap_or_default(),
        );
        self.spawn(job);
    }

    fn spawn(&mut self, job: Job) {
        let id = job.id;
        if let Err(error) = self.hold() {
            return self.fail(id, error.into());
        }
        self.ticks += 1;
        self.nodes[id].spawned = self.ticks;
        let name = job.label.clone();
        // A thread of its own, which lives as long as the sandbox: the kernel ends the sandbox with it.
        if let Err(source) = std::thread::Builder::new()
            .name(name)
            .spawn(move || job.run())
        {
            self.fail(id, JobError::Thread { source });
        }
    }

    /// With what a node's result is to be believed.
    fn caveats(&self, id: NodeId) -> Vec<String> {
        let hit = self.nodes[id].result.as_ref();
        hit.map_or(Vec::new(), |hit| {
            hit.caveats.iter().map(ToString::to_string).collect()
        })
    }

    /// Bytes of a result: of its layer's own file, or of its files where it has no disk. No file is opened. None where the
    /// store does not say: a number in a report is not worth a build.
    fn result_bytes(&self, id: NodeId) -> Option<u64> {
        let hit = self.nodes[id].result.as_ref()?;
        let size = |file: &OutputFile| match &file.content {
            FileContent::Blob(blob) => blob.size,
            FileContent::Derived(derived) => derived.size,
        };
        match &hit.result.disk {
            Some(disk) => self.planner.store().layer_length(&disk.layer).ok()?,
            None => Some(hit.result.files.values().map(size).sum()),
        }
    }

    /// Writes what is to be kept and remembered. What cannot be kept the collector may delete, so the run ends there.
    fn save(&mut self, whole: bool) {
        match self.keep(whole) {
            Ok(true) => {
                if let Err(error) = self.planner.save_history() {
                    self.cache_lost(&error);
                }
            }
            Ok(false) => {}
            Err(error) => {
                if !std::mem::replace(&mut self.host_failed, true) {
                    self.warn(None, self.config.hints.not_kept(&error));
                }
                self.stop();
            }
        }
    }

    /// Caches: without them the next run takes longer and explains less, that is all.
    fn cache_lost(&mut self, error: &impasto_store::Error) {
        tracing::debug!(%error, "a cache cannot be written");
        let read_only = matches!(error, impasto_store::Error::ReadOnly { .. });
        if !read_only && !std::mem::replace(&mut self.cache_warned, true) {
            self.warn(
                None,
                format!(
                    "the history of this build cannot be recorded: {}",
                    crate::base::human::with_causes(error)
                ),
            );
        }
    }

    fn finish(mut self) -> Summary {
        self.end_images();
        self.save(self.is_whole());
        self.save_durations();
        self.release();
        if let Err(error) = self.planner.store().flush() {
            self.cache_lost(&error);
        }
        let mut summary = Summary {
            interrupted: self.interrupted,
            host_failed: self.host_failed,
            not_written: self.images.not_written,
            ..Summary::default()
        };
        for id in self.graph.ids() {
            match self.schedule.state(id) {
                TaskState::Done if self.nodes[id].built => summary.built += 1,
                TaskState::Done => summary.cached += 1,
                TaskState::Failed => summary.failed += 1,
                // It was stopped before its turn came, which would have changed nothing.
                TaskState::Cancelled if self.nodes[id].result.is_some() => summary.cached += 1,
                TaskState::Cancelled => {
                    summary.cancelled += 1;
                    let stage = self.label(id);
                    self.emit(EventKind::StageCancelled { stage });
                }
                TaskState::Unwanted => {}
                state => panic!("BUG: {} is {state:?} after the run", self.label(id)),
            }
        }
        let Summary {
            built,
            cached,
            failed,
            cancelled,
            ..
        } = summary;
        let wall_ms = self.start.elapsed().as_millis() as u64;
        self.emit(EventKind::RunFinished {
            built,
            cached,
            failed,
            cancelled,
            wall_ms,
        });
        summary
    }

    fn label(&self, id: NodeId) -> String {
        self.graph.node(id).label.clone()
    }

    fn warn(&mut self, id: Option<NodeId>, message: String) {
        let stage = id.map(|id| self.label(id));
        self.emit(EventKind::Warning { stage, message });
    }

    fn emit_phase(&mut self, stage: Option<String>, name: String, start: Instant, end: Instant) {
        let wall = end.saturating_duration_since(start);
        self.emit(EventKind::Phase {
            stage,
            name,
            start: start.saturating_duration_since(self.start),
            wall,
        });
    }

    fn emit(&mut self, kind: EventKind) {
        (self.events)(&Event {
            at: self.start.elapsed(),
            kind,
        });
    }
}
