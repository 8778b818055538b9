//! The one loop that runs a plan: starts jobs as the schedule allows, takes their results, tells what happens.
//! Knows nodes and results; prints nothing, and knows no sandbox from another.

mod jobs;
mod keep;
mod progress;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use impasto_store::claim::{FileContent, OutputFile};
use impasto_store::lease::Lease;

use crate::base::cancel::CancelToken;
use crate::base::interrupt::Interrupt;
use crate::debian::packages::fetch::Fetcher;
use crate::engine::cause::About;
use crate::engine::event::{Event, EventKind, How};
use crate::engine::graph::{NodeId, Selection};
use crate::engine::history::{Memory, NodeMemory, RecipeState};
use crate::engine::job::{Job, JobError, Message, Success};
use crate::engine::plan::{Completed, Hit, PlanError, Planner, State, Units, unit_name};
use crate::engine::publish::{Target, is_current};
use crate::engine::reason::Reason;
use crate::engine::roots::UsedPackages;
use crate::engine::schedule::{Schedule, State as TaskState, TaskId};
use crate::sandbox::Sandbox;

/// What a run is told beside its plan.
pub struct RunConfig<'a> {
    /// The recipe's name.
    pub recipe: String,
    /// How many jobs may run at once.
    pub jobs: usize,
    /// Whether a failure cancels only what needs the failed stage.
    pub keep_going: bool,
    /// Files to write for the user, by the node that makes them.
    pub targets: HashMap<NodeId, Vec<Target>>,
    /// Where Actions with a sandbox run; why they cannot, where they cannot.
    pub sandbox: Result<Arc<dyn Sandbox>, String>,
    /// Makes what gets package files; asked where something is to run.
    pub packages: &'a dyn Fn() -> Fetcher,
    /// Seconds since 1970, for records.
    pub now: u64,
    /// What a command that the user is told to run needs besides its name and a selector, with a blank before each.
    pub place: String,
    /// How messages call the recipe's directory, with a `/` at its end; empty for the current one.
    pub dir: String,
    /// What claims record of the host.
    pub facts: std::collections::BTreeMap<String, String>,
    /// What the user may ask while it runs.
    pub interrupt: Interrupt,
    /// What of packages the recipe's lock names.
    pub used: UsedPackages,
    /// Whether everything that the recipe names is to be built.
    pub whole: bool,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Nodes that ran.
    pub built: usize,
    /// Nodes whose results were found.
    pub cached: usize,
    /// Nodes that gave no result.
    pub failed: usize,
    /// Nodes that did not run.
    pub cancelled: usize,
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

/// One run.
pub struct Engine<'a> {
    planner: Planner<'a>,
    config: RunConfig<'a>,
    /// What gets package files.
    packages: Option<Fetcher>,
    state: RecipeState<'a>,
    schedule: Schedule,
    /// Each node's result, where it is there.
    results: Vec<Option<Hit>>,
    /// How far each node is whose result is not there.
    units: HashMap<NodeId, Units<'a>>,
    /// How each node's result came.
    how: Vec<Option<How>>,
    /// Why each node that runs does.
    reasons: Vec<Option<Reason>>,
    started: Vec<Option<Instant>>,
    /// How far the running nodes are, and what is told of that.
    meters: HashMap<NodeId, progress::Shown>,
    progress: progress::Progress,
    /// Bytes that each node added to the store.
    stored_bytes: Vec<u64>,
    /// When each node's last job began, and when each node's result was last lost: counted, so that the two compare.
    spawned: Vec<u64>,
    lost: Vec<u64>,
    ticks: u64,
    /// Taken with the first job: the collector keeps what this run uses.
    lease: Option<Lease>,
    /// What this run has to add to what is remembered, and when that was last done.
    news: Memory,
    saved: Instant,
    /// Whether something came since then.
    unsaved: bool,
    /// How often a node was bound again because its inputs changed under it.
    rebinds: Vec<u32>,
    /// Results that were missed in this run, each told once.
    missed: BTreeSet<PathBuf>,
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

impl<'a> Engine<'a> {
    /// A run of what a selection names. `start` is when the command began.
    ///
    /// # Errors
    /// The plan cannot be made.
    pub fn new(
        mut planner: Planner<'a>,
        selection: &Selection,
        config: RunConfig<'a>,
        state: RecipeState<'a>,
        start: Instant,
        events: &'a mut dyn FnMut(&Event),
    ) -> Result<Self, EngineError> {
        let graph = planner.graph;
        let states = planner.plan(&selection.nodes)?;
        let needs = |id: NodeId| graph.node(id).parents.iter().map(|(_, parent)| TaskId(parent.0)).collect();
        let wanted: Vec<_> = selection.nodes.iter().map(|id| TaskId(id.0)).collect();
        let schedule = Schedule::new(graph.ids().map(needs).collect(), &wanted, config.keep_going);
        let count = graph.len();
        let mut results = vec![None; count];
        let mut reasons = vec![None; count];
        for (index, state) in states.into_iter().enumerate() {
            match state {
                Some(State::Cached(hit)) => results[index] = Some(hit),
                Some(State::Dirty { reason, .. }) => reasons[index] = Some(reason),
                Some(State::Pending { .. }) | None => {}
            }
        }
        let (sender, receiver) = sync_channel(MESSAGES);
        Ok(Engine {
            planner,
            config,
            packages: None,
            state,
            schedule,
            results,
            units: HashMap::new(),
            how: vec![None; count],
            reasons,
            started: vec![None; count],
            meters: HashMap::new(),
            progress: progress::Progress::default(),
            stored_bytes: vec![0; count],
            spawned: vec![0; count],
            lost: vec![0; count],
            ticks: 0,
            lease: None,
            news: Memory::default(),
            saved: Instant::now(),
            unsaved: false,
            rebinds: vec![0; count],
            missed: BTreeSet::new(),
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
        let unwanted = |id: &NodeId| self.schedule.state(TaskId(id.0)) == TaskState::Unwanted;
        self.planner.graph.ids().filter(move |id| !unwanted(id) && self.results[id.index()].is_none())
    }

    /// Runs to the end. What fails, stages or the host, is part of the summary.
    pub fn run(mut self) -> Summary {
        let known = self.results.iter().flatten().count();
        let nodes = self.schedule.ids().filter(|id| self.schedule.state(*id) != TaskState::Unwanted).count();
        self.has_work = known < nodes;
        self.tell(EventKind::RunStarted { nodes, cached: known });
        self.begin();
        self.begin_packages();
        self.begin_forecast();
        let mut interrupt = None;
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
                self.tell_phase(None, name, start, end);
            }
        }
        self.finish()
    }

    /// Begins to get the package files of all that may run: they come while other stages run.
    fn begin_packages(&mut self) {
        if !self.has_work {
            return;
        }
        let sets = self.planner.graph.package_sets(self.open());
        // Who needs none does not ask the host's apt where its mirrors are.
        if !sets.is_empty() {
            let packages = (self.config.packages)();
            packages.begin(sets.into_iter());
            self.packages = Some(packages);
        }
    }

    /// Takes the next message of a job, or notices that there is no more time for any.
    fn wait(&mut self, interrupt: &CancelToken) {
        match self.receiver.recv_timeout(TICK) {
            Ok(Message::Log { id, line }) => {
                self.note_line(id);
                let stage = self.label(id);
                self.tell(EventKind::Log { stage, line });
            }
            Ok(Message::Warning { id, message }) => self.warn(Some(id), message),
            Ok(Message::Phase { id, name, start, end }) => {
                let stage = Some(self.label(id));
                self.tell_phase(stage, name, start, end);
            }
            Ok(Message::Done { id, result }) => self.take(id, *result),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => panic!("BUG: the engine holds a sender itself"),
        }
        self.look();
        if self.unsaved && self.saved.elapsed() > SAVE_EVERY {
            self.save(false);
        }
        if interrupt.is_cancelled() && !self.interrupted {
            self.interrupted = true;
            self.tell(EventKind::Interrupted);
            self.stop();
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
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
        self.deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
    }

    fn start_ready(&mut self) {
        while self.schedule.running() < self.config.jobs {
            let Some(task) = self.schedule.start() else { break };
            self.start_node(NodeId(task.0));
        }
    }

    /// Starts a node that has all it needs: takes its result where it is there, else starts a job.
    fn start_node(&mut self, id: NodeId) {
        let index = id.index();
        if self.results[index].is_none() {
            let results = &self.results;
            let result = |parent: NodeId| results[parent.index()].as_ref().expect("BUG: a parent has no result");
            let node = self.planner.graph.node(id);
            let units = self.units.entry(id).or_insert_with(|| Units::new(node));
            match self.planner.advance(id, units, result) {
                Ok((None, State::Cached(hit))) => self.results[index] = Some(hit),
                Ok((Some(action), State::Dirty { reason, .. })) => {
                    // Told once, also where it starts a second time because a parent had to be made again.
                    let reason = self.reasons[index].get_or_insert(reason).clone();
                    return self.start_job(id, action, reason);
                }
                Ok((_, state)) => panic!("BUG: a node that has all it needs is {}", state.word()),
                Err(error) => return self.fail(id, JobError::plan(error)),
            }
        }
        let hit = self.results[index].as_ref().expect("BUG: just found");
        let missing: Vec<_> = self.config.targets.get(&id).map_or(Vec::new(), |targets| {
            let current = |target: &&Target| !is_current(target, hit, self.planner.memory.get());
            targets.iter().filter(current).cloned().collect()
        });
        if missing.is_empty() {
            return self.finish_cached(id);
        }
        let job = self.publish_job(id, missing);
        self.spawn(job);
    }

    /// A node's result was found, and its files are there.
    fn finish_cached(&mut self, id: NodeId) {
        for target in self.config.targets.get(&id).into_iter().flatten() {
            if let Some(file) = self.planner.memory.get().files.get(&*target.path.to_string_lossy()) {
                let (bytes, sha256) = (file.size, file.sha256.clone());
                let event = EventKind::Published { path: target.path.clone(), bytes, sha256, written: false };
                (self.events)(&Event { at: self.start.elapsed(), kind: event });
            }
        }
        self.how[id.index()] = Some(How::Cached);
        self.schedule.done(TaskId(id.0));
        let stage = self.label(id);
        let result_bytes = if self.has_work { self.result_bytes(id) } else { None };
        let (how, caveats) = (How::Cached, self.caveats(id));
        self.tell(EventKind::StageFinished { stage, how, wall_ms: 0, stored_bytes: 0, result_bytes, caveats });
    }

    fn start_job(&mut self, id: NodeId, action: impasto_stages::Action<impasto_stages::action::Bound>, reason: Reason) {
        let node = self.planner.graph.node(id);
        let index = id.index();
        if self.started[index].is_none() {
            self.started[index] = Some(Instant::now());
            let (stage, kind) = (node.label.clone(), node.kind.name);
            self.tell(EventKind::StageStarted { stage, kind, reason: reason.to_string() });
            self.tell_expected(id);
        }
        let mut job = self.job(id);
        // The node's files are those of its last unit.
        if self.units.get(&id).is_none_or(Units::is_last) {
            job.targets = self.config.targets.get(&id).cloned().unwrap_or_default();
        }
        job.action = Some(action);
        self.spawn(job);
    }

    fn spawn(&mut self, job: Job) {
        let id = job.id;
        if let Err(error) = self.hold() {
            return self.fail(id, error.into());
        }
        self.ticks += 1;
        self.spawned[id.index()] = self.ticks;
        let name = job.label.clone();
        // A thread of its own, which lives as long as the sandbox: the kernel ends the sandbox with it.
        if let Err(source) = std::thread::Builder::new().name(name).spawn(move || job.run()) {
            self.fail(id, JobError::Thread { source });
        }
    }

    /// Takes what a job came to.
    fn take(&mut self, id: NodeId, result: Result<Success, JobError>) {
        self.meters.remove(&id);
        match result {
            Ok(success) => self.succeed(id, success),
            Err(JobError::Miss { from, miss }) => self.miss(id, from, &miss),
            Err(JobError::Changed { path, .. }) if self.rebinds[id.index()] < REBINDS => {
                self.rebinds[id.index()] += 1;
                let paths: Vec<_> =
                    crate::engine::graph::local_paths(self.planner.graph.node(id)).map(str::to_owned).collect();
                for name in paths {
                    self.planner.inputs.forget(&name);
                }
                let message = format!("`{}` changed while it was read; reading it again", path.display());
                self.warn(Some(id), message);
                self.results[id.index()] = None;
                self.start_node(id);
            }
            Err(JobError::Cancelled) => self.schedule.cancelled(TaskId(id.0)),
            Err(error) => self.fail(id, error),
        }
    }

    fn succeed(&mut self, id: NodeId, success: Success) {
        let index = id.index();
        let wall_ms = self.wall_ms(id);
        let stage = self.label(id);
        let how = if success.ran { How::Built } else { How::Cached };
        for published in &success.published {
            let path = published.path.to_string_lossy().into_owned();
            self.planner.memory.get_mut().files.insert(path.clone(), published.memory.clone());
            self.news.files.insert(path, published.memory.clone());
            let (bytes, sha256) = (published.memory.size, published.memory.sha256.clone());
            self.tell(EventKind::Published { path: published.path.clone(), bytes, sha256, written: true });
        }
        let mut completed = Completed::Node(Box::new(success.hit.clone()));
        if success.ran {
            let reason = self.reasons[index].as_ref().map(ToString::to_string).unwrap_or_default();
            let (action, claim, at) = (success.hit.action, success.hit.claim, self.config.now);
            let memory = NodeMemory { action, claim, reason, at, wall_ms, earlier: Vec::new() };
            let units = self.units.get_mut(&id).expect("BUG: a node ran without units");
            let unit = units.done();
            completed = match self.planner.complete(id, units, success.hit) {
                Ok(completed) => completed,
                Err(error) => return self.fail(id, JobError::plan(error)),
            };
            for name in self.names(id) {
                let name = unit_name(name, unit);
                let memory = memory.clone().after(self.planner.memory.get().nodes.get(&name));
                self.planner.memory.get_mut().nodes.insert(name.clone(), memory.clone());
                self.news.nodes.insert(name, memory);
            }
            self.stored_bytes[index] += success.stored_bytes;
        }
        self.unsaved = true;
        // The result is durable already; this keeps it, and is what `why` and the next plan's choice remember.
        if self.saved.elapsed() > SAVE_EVERY {
            self.save(false);
        }
        let Completed::Node(hit) = completed else {
            // Further units: it goes on as soon as a place is free.
            self.schedule.expand(TaskId(id.0), Vec::new());
            return;
        };
        self.planner.again[index] = false;
        self.results[index] = Some(*hit);
        self.units.remove(&id);
        self.how[index] = Some(how);
        if how == How::Built {
            self.learn(id, wall_ms);
        }
        self.schedule.done(TaskId(id.0));
        let stored_bytes = self.stored_bytes[index];
        let result_bytes = self.result_bytes(id);
        let caveats = self.caveats(id);
        self.tell(EventKind::StageFinished { stage, how, wall_ms, stored_bytes, result_bytes, caveats });
    }

    /// With what a node's result is to be believed.
    fn caveats(&self, id: NodeId) -> Vec<String> {
        let hit = self.results[id.index()].as_ref();
        hit.map_or(Vec::new(), |hit| hit.caveats.iter().map(ToString::to_string).collect())
    }

    /// Bytes of a result: of its layer's own file, or of its files where it has no disk. No file is opened. None where the
    /// store does not say: a number in a report is not worth a build.
    fn result_bytes(&self, id: NodeId) -> Option<u64> {
        let hit = self.results[id.index()].as_ref()?;
        let size = |file: &OutputFile| match &file.content {
            FileContent::Blob(blob) => blob.size,
            FileContent::Derived(derived) => derived.size,
        };
        match &hit.result.disk {
            Some(disk) => self.planner.store.layer_length(&disk.layer).ok()?,
            None => Some(hit.result.files.values().map(size).sum()),
        }
    }

    /// A result that was there is there no more: the node that made it runs again, then this one.
    fn miss(&mut self, id: NodeId, from: NodeId, miss: &impasto_store::Miss) {
        // A job that began before the result was lost tells nothing new.
        let known = self.lost[from.index()] > self.spawned[id.index()];
        if !known {
            if self.missed.insert(miss.path.clone()) && miss.is_damage() {
                self.warn(Some(from), format!("{miss}; it is made again"));
            }
            self.ticks += 1;
            self.lost[from.index()] = self.ticks;
            self.planner.again[from.index()] = true;
            self.results[from.index()] = None;
            self.units.remove(&from);
            self.reasons[from.index()] = Some(Reason::Collected);
        }
        if from == id || (known && self.schedule.state(TaskId(from.0)) == TaskState::Done) {
            self.schedule.expand(TaskId(id.0), Vec::new());
        } else {
            self.schedule.rewind(TaskId(id.0), TaskId(from.0));
        }
        self.forget_dependents(from);
    }

    /// Results that were found for what depends on a node are those of its old content: they are looked up again. What
    /// is done, or runs with the old content, stays as it is.
    fn forget_dependents(&mut self, lost: NodeId) {
        let mut affected = vec![false; self.results.len()];
        affected[lost.index()] = true;
        for id in self.planner.graph.ids().skip(lost.index() + 1) {
            let parents = &self.planner.graph.node(id).parents;
            let depends = parents.iter().any(|(_, parent)| affected[parent.index()]);
            let settled = matches!(self.schedule.state(TaskId(id.0)), TaskState::Done | TaskState::Running);
            if depends && !settled {
                affected[id.index()] = true;
                self.results[id.index()] = None;
                self.units.remove(&id);
            }
        }
    }

    /// A node gives no result. Where that is the host's failure the whole run ends: the next stage would meet it too.
    fn fail(&mut self, id: NodeId, error: JobError) {
        if error.is_host_failure() {
            self.host_failed = true;
            self.stop();
        }
        let stage = self.label(id);
        let wall_ms = self.wall_ms(id);
        let help = error.help(&stage, &self.about(id));
        let (message, causes, last_lines, diagnosis) = error.into_parts();
        self.tell(EventKind::StageFailed { stage, error: message, causes, help, last_lines, diagnosis, wall_ms });
        self.schedule.failed(TaskId(id.0));
    }

    /// Writes what is to be kept and remembered. What cannot be kept the collector may delete, so the run ends there.
    fn save(&mut self, whole: bool) {
        match self.keep(whole) {
            Ok(true) if !self.news.nodes.is_empty() || !self.news.files.is_empty() => {
                match self.state.add(&self.news) {
                    Ok(()) => self.news = Memory::default(),
                    Err(error) => self.cache_lost(&error),
                }
            }
            Ok(_) => {}
            Err(error) => {
                let causes = crate::base::human::with_causes(&error);
                if !std::mem::replace(&mut self.host_failed, true) {
                    let cause = crate::engine::cause::of_error(&error);
                    let help = cause.map_or(String::new(), |cause| {
                        format!(
                            "\n          caused by: {cause}\n          help: {}",
                            cause.help(&About::default()).join("\n          help: ")
                        )
                    });
                    self.warn(None, format!("what this build uses cannot be kept from `impasto gc`: {causes}{help}"));
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
                format!("what this build learned is not remembered: {}", crate::base::human::with_causes(error)),
            );
        }
    }

    fn finish(mut self) -> Summary {
        self.save(self.is_whole());
        self.save_durations();
        self.release();
        if let Err(error) = self.planner.store.flush() {
            self.cache_lost(&error);
        }
        let mut summary =
            Summary { interrupted: self.interrupted, host_failed: self.host_failed, ..Summary::default() };
        for id in self.planner.graph.ids() {
            match self.schedule.state(TaskId(id.0)) {
                TaskState::Done if self.how[id.index()] == Some(How::Built) => summary.built += 1,
                TaskState::Done => summary.cached += 1,
                TaskState::Failed => summary.failed += 1,
                // It was stopped before its turn came, which would have changed nothing.
                TaskState::Cancelled if self.results[id.index()].is_some() => summary.cached += 1,
                TaskState::Cancelled => {
                    summary.cancelled += 1;
                    let stage = self.label(id);
                    self.tell(EventKind::StageCancelled { stage });
                }
                TaskState::Unwanted => {}
                state => panic!("BUG: {} is {state:?} after the run", self.label(id)),
            }
        }
        let Summary { built, cached, failed, cancelled, .. } = summary;
        let wall_ms = self.start.elapsed().as_millis() as u64;
        self.tell(EventKind::RunFinished { built, cached, failed, cancelled, wall_ms });
        summary
    }

    fn names(&self, id: NodeId) -> Vec<String> {
        let node = self.planner.graph.node(id);
        node.combinations.iter().map(|place| self.planner.graph.stable_name(&node.stage, *place)).collect()
    }

    fn label(&self, id: NodeId) -> String {
        self.planner.graph.node(id).label.clone()
    }

    fn wall_ms(&self, id: NodeId) -> u64 {
        self.started[id.index()].map_or(0, |start| start.elapsed().as_millis() as u64)
    }

    fn warn(&mut self, id: Option<NodeId>, message: String) {
        let stage = id.map(|id| self.label(id));
        self.tell(EventKind::Warning { stage, message });
    }

    fn tell_phase(&mut self, stage: Option<String>, name: String, start: Instant, end: Instant) {
        let wall = end.saturating_duration_since(start);
        self.tell(EventKind::Phase { stage, name, start: start.saturating_duration_since(self.start), wall });
    }

    fn tell(&mut self, kind: EventKind) {
        (self.events)(&Event { at: self.start.elapsed(), kind });
    }
}
