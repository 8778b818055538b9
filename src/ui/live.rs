//! Events as a view that is redrawn: what runs now with its last line or how far it is, and how far all of it is, below
//! what is done.
//! Knows the lines; how they are drawn is [`Screen`]'s, and what is said of an event is [`Plain`]'s.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Reporter;
use super::pace::Pace;
use super::plain::Plain;
use super::report::MANY_CACHED;
use super::screen::{Screen, Stderr, Terminal, clip};
use super::style::{BUSY, FAINT};
use crate::base::human::{about, bytes, seconds};
use crate::base::table::width;
use crate::engine::event::{Event, EventKind, How};

/// How often the view is drawn. Lines of logs come faster than anybody reads.
pub(super) const EVERY: Duration = Duration::from_millis(100);

/// Draws the view on standard error, which must be a terminal.
#[derive(Debug)]
pub struct Live {
    shared: Arc<LiveShared>,
    /// Draws while nothing happens; started with the first work.
    ticker: Option<JoinHandle<()>>,
    start: Instant,
}

#[derive(Debug)]
struct LiveShared {
    view: Mutex<LiveView<Stderr>>,
    over: Condvar,
}

#[derive(Debug)]
struct LiveView<T> {
    plain: Plain,
    screen: Screen<T>,
    /// Whether something was started: a run of nothing draws nothing.
    started: bool,
    /// The stage whose packages are resolved, or compared with what is newer.
    locking: Option<Running>,
    /// The longest running first.
    running: Vec<Running>,
    /// What comes for several stages.
    common: Option<Far>,
    estimate: Option<Estimate>,
    nodes: usize,
    /// How many of them were cached when the run began.
    known: usize,
    cached: usize,
    built: usize,
    failed: usize,
    interrupted: bool,
    over: bool,
}

#[derive(Debug)]
struct Running {
    stage: String,
    since: Duration,
    /// How long it took before.
    expected: Option<Duration>,
    last: String,
    far: Option<Far>,
}

/// How far something is.
#[derive(Debug)]
struct Far {
    what: &'static str,
    done: u64,
    total: Option<u64>,
    pace: Pace,
}

#[derive(Debug)]
struct Estimate {
    at: Duration,
    left: Duration,
    unknown: usize,
}

impl Live {
    /// Paths below `cwd` are shown relative to it; `start` is when the run's clock began.
    pub fn new(cwd: &Path, colour: bool, start: Instant) -> Self {
        let view = LiveView::new(cwd, colour, Stderr);
        let shared = LiveShared {
            view: Mutex::new(view),
            over: Condvar::new(),
        };
        Live {
            shared: Arc::new(shared),
            ticker: None,
            start,
        }
    }

    fn tick(&mut self) {
        let (shared, start) = (self.shared.clone(), self.start);
        let draw = move || {
            let mut view = shared.lock();
            while !view.over {
                view.draw(start.elapsed());
                view = shared
                    .over
                    .wait_timeout(view, EVERY)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
        };
        // Without the thread the view is drawn when something happens.
        self.ticker = std::thread::Builder::new()
            .name("view".to_owned())
            .spawn(draw)
            .ok();
    }
}

impl LiveShared {
    fn lock(&self) -> MutexGuard<'_, LiveView<Stderr>> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reporter for Live {
    fn event(&mut self, event: &Event) {
        self.shared.lock().event(event);
        let starts = matches!(
            event.kind,
            EventKind::StageStarted { .. }
                | EventKind::ResolveStarted { .. }
                | EventKind::CompareStarted { .. }
                | EventKind::Progress { stage: None, .. }
        );
        if self.ticker.is_none() && starts {
            self.tick();
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.shared.lock().finish();
        self.shared.over.notify_all();
        if let Some(ticker) = self.ticker.take() {
            // A view that could not be drawn is no reason to fail.
            let _ = ticker.join();
        }
    }
}

impl<T: Terminal> LiveView<T> {
    fn new(cwd: &Path, colour: bool, terminal: T) -> LiveView<T> {
        LiveView {
            plain: Plain::new(cwd),
            screen: Screen::new(terminal, colour),
            started: false,
            locking: None,
            running: Vec::new(),
            common: None,
            estimate: None,
            nodes: 0,
            known: 0,
            cached: 0,
            built: 0,
            failed: 0,
            interrupted: false,
            over: false,
        }
    }

    fn event(&mut self, event: &Event) {
        let lines = self.plain.lines(event);
        match &event.kind {
            EventKind::ResolveStarted { stage } | EventKind::CompareStarted { stage } => {
                self.started = true;
                self.locking = Some(Running::new(stage, event.at));
                self.draw(event.at);
                return;
            }
            EventKind::ResolveFinished { .. } => self.locking = None,
            EventKind::Locked { .. } => {}
            EventKind::PackagesFetched { .. } => self.common = None,
            EventKind::RunStarted { nodes, cached } => {
                (self.nodes, self.known) = (*nodes, *cached);
                self.locking = None;
            }
            EventKind::StageStarted { stage, .. } => {
                self.started = true;
                // A stage starts a second time where a result that it needs was lost.
                if self.find(stage).is_none() {
                    self.running.push(Running::new(stage, event.at));
                }
                self.draw(event.at);
                return;
            }
            // Drawn with the next tick.
            EventKind::Log { stage, line } => {
                if let Some(running) = self.find(stage) {
                    running.last.clone_from(line);
                    running.far = None;
                }
                return;
            }
            EventKind::Progress {
                stage,
                what,
                done_bytes,
                total_bytes,
            } => {
                self.progress(stage.as_deref(), what, *done_bytes, *total_bytes, event.at);
                return;
            }
            EventKind::Estimate {
                remaining_ms,
                unknown,
            } => {
                self.estimate = remaining_ms.map(|ms| {
                    let left = Duration::from_millis(ms);
                    Estimate {
                        at: event.at,
                        left,
                        unknown: *unknown,
                    }
                });
                return;
            }
            EventKind::Expected { stage, wall_ms } => {
                if let Some(running) = self.find(stage) {
                    running.expected = Some(Duration::from_millis(*wall_ms));
                }
                return;
            }
            EventKind::Interrupted => self.interrupted = true,
            EventKind::StageFinished {
                stage,
                how,
                result_bytes,
                ..
            } => {
                self.end(stage);
                match how {
                    How::Built => self.built += 1,
                    How::Cached => self.cached += 1,
                }
                // Where all is cached, or most of it, the totals say so.
                if *how == How::Cached && self.known < self.nodes && self.known <= MANY_CACHED {
                    let size =
                        result_bytes.map_or(String::new(), |size| format!("  {}", bytes(size)));
                    self.screen
                        .say(&format!("{BUSY}  cached{BUSY:#}  {stage}{size}"));
                }
            }
            EventKind::StageFailed { stage, .. } => {
                self.end(stage);
                self.failed += 1;
            }
            EventKind::Phase { .. } => return,
            EventKind::RunFinished { .. } => self.finish(),
            EventKind::StageCancelled { stage } => self.end(stage),
            EventKind::Warning { .. }
            | EventKind::Published { .. }
            | EventKind::ImageNotWritten { .. } => {}
        }
        if let Some(lines) = lines {
            self.screen.say(&lines);
        }
        self.draw(event.at);
    }

    fn find(&mut self, stage: &str) -> Option<&mut Running> {
        self.running
            .iter_mut()
            .find(|running| running.stage == stage)
    }

    fn end(&mut self, stage: &str) {
        self.running.retain(|running| running.stage != stage);
    }

    fn progress(
        &mut self,
        stage: Option<&str>,
        what: &'static str,
        done: u64,
        total: Option<u64>,
        at: Duration,
    ) {
        self.started |= stage.is_none();
        let place = if let Some(locking) = &mut self.locking {
            // Whatever it is for: an image may have to be fetched to know what it has.
            &mut locking.far
        } else if let Some(stage) = stage {
            match self.find(stage) {
                Some(running) => &mut running.far,
                None => return,
            }
        } else {
            &mut self.common
        };
        let mut pace = place.take().map(|far| far.pace).unwrap_or_default();
        pace.note(what, done, at);
        // What is all there is not what is waited for.
        if total != Some(done) {
            *place = Some(Far {
                what,
                done,
                total,
                pace,
            });
        }
    }

    /// Draws what runs and the totals, `now` after the start of the run.
    fn draw(&mut self, now: Duration) {
        if self.over || !self.started {
            return;
        }
        let (columns, rows) = self.screen.size();
        let mut lines = Vec::new();
        if let Some(locking) = &mut self.locking {
            let (stage, time) = (clip(&locking.stage, columns / 2), locking.time(now));
            let what = locking.what(now);
            lines.push(format!(
                "{BUSY}    lock{BUSY:#}  {stage}  {time}  {FAINT}{what}{FAINT:#}"
            ));
            self.screen.draw(&lines);
            return;
        }
        // The last line is that of the totals.
        let mut room = rows - 1;
        if let Some(far) = &mut self.common
            && room > 1
        {
            room -= 1;
            let text = far.pace.text(far.what, far.done, far.total, now);
            lines.push(format!(
                "{BUSY}   fetch{BUSY:#}  packages  {FAINT}{text}{FAINT:#}"
            ));
        }
        let shown = if self.running.len() > room {
            room.saturating_sub(1)
        } else {
            self.running.len()
        };
        let more = self.running.len() - shown;
        let (running, _) = self.running.split_at_mut(shown);
        let times: Vec<_> = running.iter().map(|running| running.time(now)).collect();
        let label = running
            .iter()
            .map(|running| width(&running.stage))
            .max()
            .unwrap_or(0)
            .min(columns / 2);
        let time = times.iter().map(|time| width(time)).max().unwrap_or(0);
        for (running, text) in running.iter_mut().zip(&times) {
            let stage = clip(&running.stage, label);
            let blanks = " ".repeat(label - width(&stage));
            let what = running.what(now);
            lines.push(format!(
                "{BUSY}     run{BUSY:#}  {stage}{blanks}  {text:>time$}  {FAINT}{what}{FAINT:#}"
            ));
        }
        if more > 0 && room > 0 {
            lines.push(format!("          {FAINT}… {more} more{FAINT:#}"));
        }
        // Packages that come without a run have no stages.
        if self.nodes > 0 {
            lines.push(self.totals(now, columns));
        }
        self.screen.draw(&lines);
    }

    /// How far all of it is, in as many words as fit.
    fn totals(&self, now: Duration, columns: usize) -> String {
        let (done, nodes, running) = (
            self.cached + self.built + self.failed,
            self.nodes,
            self.running.len(),
        );
        let mut parts = vec![
            format!("{} cached", self.cached),
            format!("{} built", self.built),
        ];
        if self.failed > 0 {
            parts.push(format!("{} failed", self.failed));
        }
        parts.push(format!("{running} running"));
        let took = seconds(now);
        if self.interrupted {
            return clip(
                &format!("interrupted: waiting for {running} running to stop; {took}"),
                columns,
            );
        }
        let left = self.left(now);
        let left = left.map_or(String::new(), |left| format!(", {left}"));
        let long = format!(
            "{done} of {nodes} stages: {}; {took}{left}",
            parts.join(", ")
        );
        let short = format!("{done} of {nodes} stages, {running} running; {took}{left}");
        let shortest = format!("{done} of {nodes}; {took}{left}");
        let fits = [long, short]
            .into_iter()
            .find(|text| width(text) <= columns);
        fits.unwrap_or_else(|| clip(&shortest, columns))
    }

    /// How long the rest takes, as far as that is known.
    fn left(&self, now: Duration) -> Option<String> {
        let Estimate { at, left, unknown } = self.estimate.as_ref()?;
        let mut left = left.saturating_sub(now.saturating_sub(*at));
        if let Some(Far { total, pace, .. }) = &self.common {
            left += pace.left(*total, now).unwrap_or_default();
        }
        if *unknown > 0 {
            return (left >= Duration::from_secs(1))
                .then(|| format!("at least {} left", about(left)));
        }
        if left < Duration::from_millis(500) {
            // What runs now says itself how long it took before.
            return None;
        }
        let share = 100.0 * now.as_secs_f64() / (now + left).as_secs_f64();
        Some(format!("~{share:.0} %, {} left", about(left)))
    }

    /// Takes away what is drawn.
    fn finish(&mut self) {
        self.over = true;
        self.running.clear();
        self.screen.draw(&[]);
    }
}

impl Running {
    fn new(stage: &str, since: Duration) -> Running {
        Running {
            stage: stage.to_owned(),
            since,
            expected: None,
            last: String::new(),
            far: None,
        }
    }

    /// How long it runs, and how long it took before.
    fn time(&self, now: Duration) -> String {
        let time = now.saturating_sub(self.since);
        match self.expected {
            // Of what is over in a moment nobody wants to know.
            Some(expected) if expected < Duration::from_secs(1) => seconds(time),
            Some(expected) if time > expected => {
                format!("{}, {} before", seconds(time), about(expected))
            }
            Some(expected) => format!("{} of {}", seconds(time), about(expected)),
            None => seconds(time),
        }
    }

    /// How far it is, or what it said last.
    fn what(&mut self, now: Duration) -> String {
        match &mut self.far {
            Some(far) => far.pace.text(far.what, far.done, far.total, now),
            None => self.last.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
