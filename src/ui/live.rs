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
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    /// Two terminals at once that treat long lines differently when their size changes: avt wraps them again, as VTE and
    /// kitty do, vt100 cuts them, as xterm does.
    struct Both {
        wrapping: avt::Terminal,
        cutting: vt100::Parser,
        /// Bytes that were written.
        written: Rc<Cell<usize>>,
    }

    impl Terminal for Both {
        fn size(&self) -> (usize, usize) {
            self.wrapping.size()
        }

        fn write(&mut self, text: &str) {
            // What a terminal's driver makes of a line feed.
            let text = text.replace("\r\n", "\n").replace('\n', "\r\n");
            self.wrapping.feed(text.as_str());
            self.cutting.process(text.as_bytes());
            self.written.set(self.written.get() + text.len());
        }
    }

    /// A run on a terminal; what it shows after each step.
    struct Sight {
        view: LiveView<Both>,
        at: Duration,
        text: String,
        written: Rc<Cell<usize>>,
    }

    impl Sight {
        fn new(columns: usize, rows: usize) -> Sight {
            let written = Rc::new(Cell::new(0));
            let terminal = Both {
                wrapping: avt::Terminal::with_scrollback(columns, rows, Some(200)).expect("a size"),
                cutting: vt100::Parser::new(rows as u16, columns as u16, 200),
                written: written.clone(),
            };
            let view = LiveView::new(Path::new("/home/me"), false, terminal);
            Sight {
                view,
                at: Duration::ZERO,
                text: String::new(),
                written,
            }
        }

        fn event(&mut self, ms: u64, kind: EventKind) {
            self.at += Duration::from_millis(ms);
            self.view.event(&Event { at: self.at, kind });
        }

        fn log(&mut self, stage: &str, line: &str) {
            self.event(
                100,
                EventKind::Log {
                    stage: stage.to_owned(),
                    line: line.to_owned(),
                },
            );
        }

        fn start(&mut self, stage: &str) {
            let (stage, reason) = (stage.to_owned(), "never built".to_owned());
            self.event(
                100,
                EventKind::StageStarted {
                    stage,
                    kind: "run",
                    reason,
                },
            );
        }

        fn finish(&mut self, stage: &str, how: How) {
            let (stage, result_bytes) = (stage.to_owned(), Some(1_500_000));
            let (wall_ms, stored_bytes) = (2500, 1_500_000);
            self.event(
                100,
                EventKind::StageFinished {
                    stage,
                    how,
                    wall_ms,
                    stored_bytes,
                    result_bytes,
                    caveats: Vec::new(),
                },
            );
        }

        fn progress(&mut self, stage: Option<&str>, what: &'static str, done: u64, total: u64) {
            let (stage, done_bytes, total_bytes) = (stage.map(str::to_owned), done, Some(total));
            self.event(
                100,
                EventKind::Progress {
                    stage,
                    what,
                    done_bytes,
                    total_bytes,
                },
            );
        }

        fn resize(&mut self, columns: usize, rows: usize) {
            let terminal = self.view.screen.terminal();
            terminal.wrapping.resize(columns, rows);
            terminal
                .cutting
                .screen_mut()
                .set_size(rows as u16, columns as u16);
        }

        /// The rows of both terminals.
        fn rows(&mut self) -> [Vec<String>; 2] {
            let terminal = self.view.screen.terminal();
            let wrapping = terminal
                .wrapping
                .screen()
                .visible_lines()
                .map(|line| line.text().trim_end().to_owned())
                .collect();
            let (_, columns) = terminal.cutting.screen().size();
            let cutting = terminal
                .cutting
                .screen()
                .rows(0, columns)
                .map(|line| line.trim_end().to_owned())
                .collect();
            [wrapping, cutting].map(|mut rows: Vec<String>| {
                while rows.last().is_some_and(String::is_empty) {
                    rows.pop();
                }
                rows
            })
        }

        /// What a reader sees a second later on either terminal.
        fn look(&mut self, title: &str) {
            self.see(title);
            let [wrapping, cutting] = self.rows();
            assert_eq!(wrapping, cutting, "{title}");
        }

        /// What a reader sees on the terminal that keeps all of a line when it becomes narrower.
        fn see(&mut self, title: &str) {
            self.at += Duration::from_secs(1);
            self.view.draw(self.at);
            let [rows, _] = self.rows();
            self.text += &format!("== {title}\n{}\n", rows.join("\n"));
        }
    }

    #[test]
    fn a_run_as_it_goes() {
        let mut sight = Sight::new(60, 24);
        sight.event(
            0,
            EventKind::RunStarted {
                nodes: 5,
                cached: 1,
            },
        );
        sight.start("packages[variant=debug]");
        sight.finish("base", How::Cached);
        sight.start("users");
        sight.look("two stages, without a word yet");
        sight.log("users", "adduser: a line that is much longer than this terminal is wide, and then some more of it");
        sight.log(
            "packages[variant=debug]",
            "überlang: 漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字",
        );
        sight.look("long lines are clipped");
        sight.event(
            10,
            EventKind::Warning {
                stage: None,
                message: "something".repeat(10),
            },
        );
        sight.finish("users", How::Built);
        sight.look("what is done stays above");
        let (error, last_lines) = (
            "exit code 7".to_owned(),
            vec!["one".to_owned(), "two".to_owned()],
        );
        let stage = "packages[variant=debug]".to_owned();
        let help = Some("look at it".to_owned());
        let (causes, diagnosis, wall_ms) = (Vec::new(), Default::default(), 61_000);
        sight.event(
            10,
            EventKind::StageFailed {
                stage,
                error,
                causes,
                help,
                last_lines,
                diagnosis,
                wall_ms,
            },
        );
        sight.look("a failure");
        let (built, cached, failed, cancelled, wall_ms) = (1, 1, 1, 2, 5000);
        sight.event(
            10,
            EventKind::RunFinished {
                built,
                cached,
                failed,
                cancelled,
                wall_ms,
            },
        );
        sight.look("the end");
        insta::assert_snapshot!(sight.text);
    }

    /// Thirty stages of which some tell how far they are, beside a download.
    fn thirty(columns: usize, rows: usize) -> Sight {
        let mut sight = Sight::new(columns, rows);
        sight.event(
            0,
            EventKind::RunStarted {
                nodes: 90,
                cached: 42,
            },
        );
        sight.event(
            0,
            EventKind::Estimate {
                remaining_ms: Some(272_000),
                unknown: 0,
            },
        );
        for number in 0..30 {
            let stage = format!("compile[target=arch-{number:02}]");
            sight.start(&stage);
            sight.event(
                0,
                EventKind::Expected {
                    stage: stage.clone(),
                    wall_ms: 40_000 + 1000 * number,
                },
            );
            match number % 3 {
                0 => sight.log(
                    &stage,
                    &format!("[{number}/40] cc -O2 -c a/rather/long/path/to/file-{number}.c"),
                ),
                1 => sight.progress(Some(&stage), "sealing", number * 10_000_000, 524_000_000),
                _ => {}
            }
        }
        for second in 0..3 {
            sight.progress(None, "download", second * 12_300_000, 187_000_000);
            sight.at += Duration::from_millis(900);
        }
        sight
    }

    #[test]
    fn thirty_stages_at_once_are_shown_as_far_as_they_fit() {
        let mut text = String::new();
        for (columns, rows) in [(80, 24), (200, 50), (40, 8), (30, 3), (20, 2), (10, 1)] {
            let mut sight = thirty(columns, rows);
            sight.look(&format!("{columns}x{rows}"));
            let [shown, _] = sight.rows();
            assert!(
                shown.len() < rows.max(2),
                "{columns}x{rows}: {}",
                sight.text
            );
            text += &sight.text;
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_terminal_that_changes_its_size_shows_one_view_and_all_that_was_said() {
        let mut sight = thirty(200, 50);
        sight.view.draw(sight.at);
        sight.finish("compile[target=arch-07]", How::Built);
        sight.look("200x50");
        // Narrower and lower, wider and higher, step by step as under a mouse.
        let sizes = [
            (150, 40),
            (90, 40),
            (61, 30),
            (60, 20),
            (33, 10),
            (80, 10),
            (80, 24),
            (120, 50),
            (119, 12),
            (80, 24),
        ];
        for (columns, rows) in sizes {
            sight.resize(columns, rows);
            sight.at += EVERY;
            sight.view.draw(sight.at);
            for rows in sight.rows() {
                let totals = rows.iter().filter(|row| row.contains("of 90")).count();
                assert_eq!(totals, 1, "{columns}: {rows:#?}");
                for number in (0..30).filter(|number| *number != 7) {
                    let stage = rows
                        .iter()
                        .filter(|row| row.contains(&format!("arch-{number:02}]")));
                    assert!(stage.count() <= 1, "{columns}: {rows:#?}");
                }
            }
        }
        sight.log("compile[target=arch-00]", "the last line");
        sight.see("80x24 in the end");
        let all = sight
            .view
            .screen
            .terminal()
            .wrapping
            .screen()
            .text()
            .join("\n");
        assert_eq!(
            all.matches("built  compile[target=arch-07]").count(),
            1,
            "what was said stays, once: {all}"
        );
        insta::assert_snapshot!(sight.text);
    }

    #[test]
    fn packages_are_resolved_before_the_run_begins() {
        let mut sight = Sight::new(80, 24);
        let resolve = |stage: &str| EventKind::ResolveStarted {
            stage: stage.to_owned(),
        };
        let resolved = |stage: &str| EventKind::ResolveFinished {
            stage: stage.to_owned(),
            packages: 2,
            bytes: 1_500_000,
            wall_ms: 1000,
        };
        sight.event(0, resolve("toolbox"));
        for step in 0..=20 {
            sight.progress(Some("toolbox"), "download", step * 400_000, 9_000_000);
        }
        sight.look("indexes come");
        sight.event(100, resolved("toolbox"));
        sight.event(0, resolve("web"));
        sight.look("the next stage");
        sight.event(100, resolved("web"));
        sight.event(
            0,
            EventKind::Locked {
                path: "/home/me/impasto.lock".into(),
                changes: vec![
                    "toolbox (amd64): 42 packages, 12 MB".to_owned(),
                    "web: 2 packages, 1.5 MB".to_owned(),
                ],
                written: true,
            },
        );
        sight.look("what was locked stays");
        sight.event(
            0,
            EventKind::RunStarted {
                nodes: 2,
                cached: 1,
            },
        );
        sight.start("web");
        sight.look("the run");
        insta::assert_snapshot!(sight.text);
    }

    #[test]
    fn packages_that_come_without_a_run_are_shown_alone() {
        let mut sight = Sight::new(80, 24);
        for step in 0..=20 {
            sight.progress(None, "download", step * 400_000, 9_000_000);
        }
        sight.look("packages come");
        sight.event(
            100,
            EventKind::PackagesFetched {
                packages: 2,
                bytes: 9_000_000,
                wall_ms: 1000,
            },
        );
        sight.look("they are there");
        insta::assert_snapshot!(sight.text);
    }

    #[test]
    fn downloads_and_what_is_left_are_told_as_far_as_they_are_known() {
        let mut sight = Sight::new(80, 24);
        sight.event(
            0,
            EventKind::RunStarted {
                nodes: 3,
                cached: 0,
            },
        );
        sight.event(
            0,
            EventKind::Estimate {
                remaining_ms: None,
                unknown: 3,
            },
        );
        sight.start("root");
        for step in 0..=20 {
            sight.progress(None, "download", step * 4_000_000, 187_000_000);
        }
        sight.look("nothing is known but the download");
        sight.progress(None, "download", 187_000_000, 187_000_000);
        sight.event(
            0,
            EventKind::Estimate {
                remaining_ms: Some(12_000),
                unknown: 1,
            },
        );
        sight.event(
            0,
            EventKind::Expected {
                stage: "root".to_owned(),
                wall_ms: 10_000,
            },
        );
        sight.look("all of it is there, and one stage was never timed");
        sight.event(
            0,
            EventKind::Estimate {
                remaining_ms: Some(8_000),
                unknown: 0,
            },
        );
        for step in 0..=20 {
            sight.progress(Some("root"), "sealing", step * 10_000_000, 524_000_000);
        }
        sight.look("every stage is known");
        sight.log("root", "a line");
        sight.progress(Some("root"), "sealing", 524_000_000, 524_000_000);
        sight.look("what is over is not shown any more");
        sight.at += Duration::from_secs(30);
        sight.look("it takes longer than before");
        sight.event(0, EventKind::Interrupted);
        sight.look("interrupted");
        let (built, cached, failed, cancelled, wall_ms) = (0, 0, 0, 3, 5000);
        sight.event(
            10,
            EventKind::RunFinished {
                built,
                cached,
                failed,
                cancelled,
                wall_ms,
            },
        );
        sight.look("the end");
        insta::assert_snapshot!(sight.text);
    }

    #[test]
    fn ten_thousand_lines_are_cheap_and_none_but_the_last_is_seen() {
        let mut sight = Sight::new(60, 24);
        sight.event(
            0,
            EventKind::RunStarted {
                nodes: 1,
                cached: 0,
            },
        );
        sight.start("noisy");
        let before = sight.written.get();
        for number in 0..10_000 {
            sight.log("noisy", &format!("line {number}"));
        }
        assert!(
            before > 0 && sight.written.get() == before,
            "a log line draws nothing by itself"
        );
        sight.look("");
        assert!(
            sight.text.contains("line 9999") && !sight.text.contains("line 9998"),
            "{}",
            sight.text
        );
    }

    #[test]
    fn a_run_of_nothing_touches_no_terminal() {
        let mut sight = Sight::new(60, 24);
        sight.event(
            0,
            EventKind::RunStarted {
                nodes: 1,
                cached: 1,
            },
        );
        sight.finish("base", How::Cached);
        assert_eq!(sight.written.get(), 0);
    }

    #[test]
    fn without_colour_nothing_is_coloured() {
        for colour in [false, true] {
            let mut text = String::new();
            struct Text<'t>(&'t mut String);
            impl Terminal for Text<'_> {
                fn size(&self) -> (usize, usize) {
                    (80, 24)
                }
                fn write(&mut self, text: &str) {
                    self.0.push_str(text);
                }
            }
            let mut view = LiveView::new(Path::new("/"), colour, Text(&mut text));
            let stage = "users".to_owned();
            let kind = EventKind::StageStarted {
                stage: stage.clone(),
                kind: "run",
                reason: String::new(),
            };
            view.event(&Event {
                at: Duration::ZERO,
                kind,
            });
            let kind = EventKind::Warning {
                stage: Some(stage),
                message: "x".to_owned(),
            };
            view.event(&Event {
                at: Duration::ZERO,
                kind,
            });
            let sequences = text.split("\x1b[").skip(1);
            let colours = sequences.filter(|rest| {
                rest.find(char::is_alphabetic)
                    .is_some_and(|at| rest[at..].starts_with('m'))
            });
            assert_eq!(colours.count() > 0, colour, "{text:?}");
        }
    }
}
