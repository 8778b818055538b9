//! What a run tells of how far it is: bytes of what takes long, and how long the rest will take.
//! Knows meters and durations; nothing here decides what runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use impasto_store::meter::{Meter, Reading};

use super::{Engine, NodeRun};
use crate::engine::event::EventKind;
use crate::engine::forecast::{Durations, Left, Rest, Work, left};
use crate::engine::graph::{NodeId, NodeMap};
use crate::engine::job::WAITING;
use crate::engine::schedule::TaskState;

/// How often meters are read.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often it is judged how long the rest takes.
const JUDGE_EVERY: Duration = Duration::from_secs(1);
/// Work that took less says nothing of how fast the machine is now.
const TELLING: Duration = Duration::from_secs(1);
/// For so much work the machine is taken to be as fast as before, whatever it says: the first seconds say little.
const AS_BEFORE: Duration = Duration::from_secs(10);
/// How many lines of a stage are counted.
const LINES: usize = 100_000;

/// How far a node is, and how far it came before.
#[derive(Default)]
pub(super) struct NodeProgress {
    /// What its job that runs counts on.
    meter: Option<Arc<Meter>>,
    /// What was last told of that.
    told: Option<Reading>,
    /// What it did when it last ran; none where nothing is known, or nothing runs.
    before: Option<Work>,
    /// When in its work it wrote lines.
    lines: Vec<Duration>,
    /// How long it waited for downloads.
    waited: Duration,
}

impl NodeProgress {
    /// The meter of the job that runs, or is about to.
    pub(super) fn meter(&mut self) -> Arc<Meter> {
        self.meter.get_or_insert_default().clone()
    }

    pub(super) fn ended(&mut self) {
        (self.meter, self.told) = (None, None);
    }
}

/// What a run knows of time.
#[derive(Default)]
pub(super) struct Progress {
    /// What this run has to add to what is known of durations.
    news: Durations,
    /// Work that was done in this run, and how long it took before.
    took: Duration,
    expected: Duration,
    /// What was last told of the packages that come.
    packages: Option<Reading>,
    looked: Option<Instant>,
    judged: Option<Instant>,
    told: Option<(Instant, Left)>,
}

impl Engine<'_> {
    /// Reads how long stages took before, where something is to run.
    pub(super) fn begin_forecast(&mut self) {
        if self.has_work {
            let durations = self.planner.state().durations();
            self.nodes
                .iter_mut()
                .for_each(|(id, node)| node.progress.before = durations.of(self.graph, id));
            self.judge();
        }
    }

    /// Tells how long a node that starts took before.
    pub(super) fn emit_expected(&mut self, id: NodeId) {
        if let Some(wall_ms) = self.nodes[id]
            .progress
            .before
            .as_ref()
            .map(|work| work.work_ms)
        {
            let stage = self.label(id);
            self.emit(EventKind::Expected { stage, wall_ms });
        }
    }

    /// Takes note of how long a node took.
    pub(super) fn learn(&mut self, id: NodeId, wall_ms: u64) {
        let (node, progress) = (&mut self.nodes[id].progress, &mut self.progress);
        let work = Duration::from_millis(wall_ms).saturating_sub(node.waited);
        if let Some(time) = node
            .before
            .as_ref()
            .map(Work::time)
            .filter(|time| *time >= TELLING)
        {
            progress.expected += time;
            progress.took += work;
        }
        let work = Work::new(work, &std::mem::take(&mut node.lines));
        for name in self.graph.stable_names(id) {
            progress.news.stages.insert(name, work.clone());
        }
    }

    /// Remembers how long stages took.
    pub(super) fn save_durations(&mut self) {
        if !self.progress.news.stages.is_empty()
            && let Err(error) = self.planner.state().add_durations(&self.progress.news)
        {
            self.cache_lost(&error);
        }
    }

    /// Takes note that a node wrote a line.
    pub(super) fn note_line(&mut self, id: NodeId) {
        let at = self.nodes[id].worked();
        let lines = &mut self.nodes[id].progress.lines;
        if lines.len() < LINES {
            lines.push(at);
        }
    }

    /// Tells, now and then, how far all is.
    pub(super) fn look(&mut self) {
        let since = self.progress.looked.map(|looked| looked.elapsed());
        if since.is_some_and(|since| since < LOOK_EVERY) {
            return;
        }
        self.progress.looked = Some(Instant::now());
        let mut news = Vec::new();
        for (id, NodeRun { progress, .. }) in self.nodes.iter_mut() {
            let Some(meter) = &progress.meter else {
                continue;
            };
            let reading = meter.read();
            if reading.is_some_and(|reading| reading.what == WAITING) {
                progress.waited += since.unwrap_or_default();
            }
            if reading != progress.told {
                // What is over is all there, however little of it was seen.
                let over = progress
                    .told
                    .filter(|_| reading.is_none())
                    .map(Reading::finished);
                progress.told = reading;
                news.extend(reading.or(over).map(|reading| (Some(id), reading)));
            }
        }
        let packages = self
            .packages
            .as_ref()
            .and_then(|packages| packages.meter().read());
        if packages.is_some() && packages != self.progress.packages {
            self.progress.packages = packages;
            news.extend(packages.map(|reading| (None, reading)));
        }
        for (
            id,
            Reading {
                what,
                done: done_bytes,
                total: total_bytes,
            },
        ) in news
        {
            let stage = id.map(|id| self.label(id));
            self.emit(EventKind::Progress {
                stage,
                what,
                done_bytes,
                total_bytes,
            });
        }
        if self
            .progress
            .judged
            .is_none_or(|judged| judged.elapsed() >= JUDGE_EVERY)
        {
            self.judge();
        }
    }

    /// Judges how long the rest takes, and tells it where that is news.
    fn judge(&mut self) {
        let now = Instant::now();
        self.progress.judged = Some(now);
        if !self.has_work {
            return;
        }
        // What runs says by its lines, too, how fast the machine is.
        let (mut took, mut expected) = (self.progress.took, self.progress.expected);
        let mut rest = NodeMap::filled(Rest::Nothing, self.graph.len());
        for (id, node) in self.nodes.iter() {
            let state = self.schedule.state(id);
            if matches!(
                state,
                TaskState::Unwanted | TaskState::Done | TaskState::Failed | TaskState::Cancelled
            ) {
                continue;
            }
            rest[id] = match &node.progress.before {
                // Only its files are written.
                _ if node.result.is_some() => Rest::Known(Duration::ZERO),
                None => Rest::Unknown,
                Some(before) => {
                    let worked = node.worked();
                    let reached = before.reached(worked, node.progress.lines.len());
                    if reached >= TELLING {
                        took += worked;
                        expected += reached;
                    }
                    Rest::Known(before.time().saturating_sub(reached))
                }
            };
        }
        // The machine may be faster or slower than it was then.
        let factor = (took + AS_BEFORE).as_secs_f64() / (expected + AS_BEFORE).as_secs_f64();
        rest.values_mut().for_each(|rest| {
            if let Rest::Known(time) = rest {
                *time = time.mul_f64(factor);
            }
        });
        let left = left(self.graph, &rest, self.config.jobs);
        let is_news = self.progress.told.as_ref().is_none_or(|(then, told)| {
            let passed = told
                .time
                .map(|time| time.saturating_sub(now.saturating_duration_since(*then)));
            let moved = left
                .time
                .zip(passed)
                .map(|(time, passed)| time.abs_diff(passed));
            told.unknown != left.unknown || moved.is_none_or(|moved| moved >= JUDGE_EVERY)
        });
        if is_news {
            self.progress.told = Some((now, left));
            let remaining_ms = left.time.map(|time| time.as_millis() as u64);
            self.emit(EventKind::Estimate {
                remaining_ms,
                unknown: left.unknown,
            });
        }
    }
}

impl NodeRun<'_> {
    /// How long it works.
    fn worked(&self) -> Duration {
        self.started.map_or(Duration::ZERO, |start| {
            start.elapsed().saturating_sub(self.progress.waited)
        })
    }
}
