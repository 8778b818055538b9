//! Events as a view that is redrawn: what runs now with its last line, and how far all of it is, below what is done.
//! Knows terminals; what is said of an event is [`Plain`]'s.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::plain::Plain;
use super::report::MANY_CACHED;
use super::style::{BUSY, FAINT};
use super::{Reporter, bytes, message, seconds, strip};
use crate::event::{Event, EventKind, How};

/// How often the view is drawn. Lines of logs come faster than anybody reads.
const EVERY: Duration = Duration::from_millis(100);

/// Draws the view on standard error, which must be a terminal.
#[derive(Debug)]
pub struct Live {
    shared: Arc<Shared>,
    /// Draws while nothing happens; started with the first stage.
    ticker: Option<JoinHandle<()>>,
    start: Instant,
}

#[derive(Debug)]
struct Shared {
    view: Mutex<View>,
    over: Condvar,
}

/// What is shown.
#[derive(Debug)]
struct View {
    plain: Plain,
    colour: bool,
    /// Where lines go and bars are; made with the first stage, so that a run of nothing touches no terminal.
    bars: Option<Bars>,
    target: Option<ProgressDrawTarget>,
    running: BTreeMap<String, Running>,
    nodes: usize,
    /// How many of them were cached when the run began.
    known: usize,
    cached: usize,
    built: usize,
    failed: usize,
    over: bool,
}

#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    total: ProgressBar,
}

#[derive(Debug)]
struct Running {
    since: Duration,
    last: String,
    bar: ProgressBar,
}

impl Live {
    /// Paths below `cwd` are shown relative to it; `start` is when the run's clock began.
    pub fn new(cwd: &Path, colour: bool, start: Instant) -> Self {
        let view = View::new(cwd, colour, ProgressDrawTarget::stderr());
        let shared = Shared { view: Mutex::new(view), over: Condvar::new() };
        Live { shared: Arc::new(shared), ticker: None, start }
    }

    fn tick(&mut self) {
        let (shared, start) = (self.shared.clone(), self.start);
        let draw = move || {
            let mut view = shared.lock();
            while !view.over {
                view.draw(start.elapsed());
                view = shared.over.wait_timeout(view, EVERY).unwrap_or_else(PoisonError::into_inner).0;
            }
        };
        // Without the thread the view is drawn when something happens.
        self.ticker = std::thread::Builder::new().name("view".to_owned()).spawn(draw).ok();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reporter for Live {
    fn event(&mut self, event: &Event) {
        self.shared.lock().event(event);
        if self.ticker.is_none() && matches!(event.kind, EventKind::StageStarted { .. }) {
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

impl View {
    fn new(cwd: &Path, colour: bool, target: ProgressDrawTarget) -> View {
        View {
            plain: Plain::new(cwd),
            colour,
            bars: None,
            target: Some(target),
            running: BTreeMap::new(),
            nodes: 0,
            known: 0,
            cached: 0,
            built: 0,
            failed: 0,
            over: false,
        }
    }

    fn event(&mut self, event: &Event) {
        let lines = self.plain.lines(event);
        match &event.kind {
            EventKind::RunStarted { nodes, cached } => (self.nodes, self.known) = (*nodes, *cached),
            EventKind::StageStarted { stage, .. } => {
                self.begin(stage, event.at);
                self.draw(event.at);
                return;
            }
            EventKind::Log { stage, line } => {
                // Drawn with the next tick.
                if let Some(running) = self.running.get_mut(stage) {
                    running.last.clone_from(line);
                }
                return;
            }
            EventKind::StageFinished { stage, how, result_bytes, .. } => {
                self.end(stage);
                match how {
                    How::Built => self.built += 1,
                    How::Cached => self.cached += 1,
                }
                // Where all is cached, or most of it, the totals say so.
                if *how == How::Cached && self.known < self.nodes && self.known <= MANY_CACHED {
                    let size = result_bytes.map_or(String::new(), |size| format!("  {}", bytes(size)));
                    self.say(&format!("{BUSY}  cached{BUSY:#}  {stage}{size}"));
                }
            }
            EventKind::StageFailed { stage, .. } => {
                self.end(stage);
                self.failed += 1;
            }
            EventKind::RunFinished { .. } => self.finish(),
            EventKind::StageCancelled { stage } => self.end(stage),
            EventKind::Warning { .. } | EventKind::Published { .. } => {}
        }
        if let Some(lines) = lines {
            self.say(&lines);
        }
        self.draw(event.at);
    }

    fn begin(&mut self, stage: &str, at: Duration) {
        let target = &mut self.target;
        let bars = self.bars.get_or_insert_with(|| {
            let target = target.take().expect("BUG: the bars are made once");
            let all = MultiProgress::with_draw_target(target);
            let total = all.add(line());
            Bars { all, total }
        });
        // A stage starts a second time where a result that it needs was lost.
        self.running.entry(stage.to_owned()).or_insert_with(|| {
            let bar = bars.all.insert_before(&bars.total, line());
            Running { since: at, last: String::new(), bar }
        });
    }

    fn end(&mut self, stage: &str) {
        if let (Some(running), Some(bars)) = (self.running.remove(stage), &self.bars) {
            running.bar.finish_and_clear();
            bars.all.remove(&running.bar);
        }
    }

    /// Writes lines above the bars, where they stay.
    fn say(&self, lines: &str) {
        let Some(bars) = &self.bars else {
            message(lines);
            return;
        };
        let lines = if self.colour { lines.to_owned() } else { strip(lines) };
        // A terminal that is gone shows nothing; the run goes on.
        let _ = bars.all.println(lines);
    }

    /// Draws what runs and the totals, `now` after the start of the run.
    fn draw(&mut self, now: Duration) {
        let Some(bars) = self.bars.as_ref().filter(|_| !self.over) else { return };
        let shown = |text: String| if self.colour { text } else { strip(&text) };
        let width = self.running.keys().map(|stage| stage.chars().count()).max().unwrap_or(0);
        for (stage, Running { since, last, bar }) in &self.running {
            let time = seconds(now.saturating_sub(*since));
            bar.set_message(shown(format!(
                "{BUSY}     run{BUSY:#}  {stage:<width$}  {time:>7}  {FAINT}{last}{FAINT:#}"
            )));
        }
        let done = self.cached + self.built + self.failed;
        let mut parts = vec![format!("{} cached", self.cached), format!("{} built", self.built)];
        if self.failed > 0 {
            parts.push(format!("{} failed", self.failed));
        }
        parts.push(format!("{} running", self.running.len()));
        let text = format!("{done} of {} stages: {}; {}", self.nodes, parts.join(", "), seconds(now));
        bars.total.set_message(shown(text));
        // Whatever the drawing library thinks of how often that is: the last state of a burst must be seen.
        bars.total.force_draw();
    }

    /// Takes the bars away.
    fn finish(&mut self) {
        self.over = true;
        if let Some(bars) = &self.bars {
            for running in self.running.values() {
                running.bar.finish_and_clear();
            }
            bars.total.finish_and_clear();
            // As above.
            let _ = bars.all.clear();
        }
        self.running.clear();
    }
}

/// One line of the view, clipped to the terminal whenever it is drawn.
fn line() -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_msg}").expect("BUG: the template is constant");
    ProgressBar::new_spinner().with_style(style)
}

#[cfg(test)]
mod tests {
    use indicatif::InMemoryTerm;

    use super::*;

    /// A run on a terminal of 60 columns; what it shows after each step.
    struct Screen {
        view: View,
        term: InMemoryTerm,
        at: Duration,
        text: String,
    }

    impl Screen {
        fn new() -> Screen {
            let term = InMemoryTerm::new(24, 60);
            // So often that no step is left out.
            let target = ProgressDrawTarget::term_like_with_hz(Box::new(term.clone()), 255);
            let view = View::new(Path::new("/home/me"), false, target);
            Screen { view, term, at: Duration::ZERO, text: String::new() }
        }

        fn event(&mut self, ms: u64, kind: EventKind) {
            self.at += Duration::from_millis(ms);
            self.view.event(&Event { at: self.at, kind });
        }

        fn log(&mut self, stage: &str, line: &str) {
            self.event(100, EventKind::Log { stage: stage.to_owned(), line: line.to_owned() });
        }

        fn start(&mut self, stage: &str) {
            let (stage, reason) = (stage.to_owned(), "never built".to_owned());
            self.event(100, EventKind::StageStarted { stage, kind: "run", reason });
        }

        fn finish(&mut self, stage: &str, how: How) {
            let (stage, result_bytes) = (stage.to_owned(), Some(1_500_000));
            let (wall_ms, stored_bytes) = (2500, 1_500_000);
            self.event(100, EventKind::StageFinished { stage, how, wall_ms, stored_bytes, result_bytes });
        }

        /// What a reader sees a second later.
        fn look(&mut self, title: &str) {
            self.at += Duration::from_secs(1);
            self.view.draw(self.at);
            self.text += &format!("== {title}\n{}\n", self.term.contents());
        }
    }

    #[test]
    fn a_run_as_it_goes() {
        let mut screen = Screen::new();
        screen.event(0, EventKind::RunStarted { nodes: 5, cached: 1 });
        screen.start("packages[variant=debug]");
        screen.finish("base", How::Cached);
        screen.start("users");
        screen.look("two stages, without a word yet");
        screen.log("users", "adduser: a line that is much longer than this terminal is wide, and then some more of it");
        screen.log("packages[variant=debug]", "überlang: 漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字");
        screen.look("long lines are clipped");
        screen.event(10, EventKind::Warning { stage: None, message: "something".repeat(10) });
        screen.finish("users", How::Built);
        screen.look("what is done stays above");
        let (error, last_lines) = ("exit code 7".to_owned(), vec!["one".to_owned(), "two".to_owned()]);
        let stage = "packages[variant=debug]".to_owned();
        let help = Some("look at it".to_owned());
        let (causes, diagnosis, wall_ms) = (Vec::new(), Default::default(), 61_000);
        screen.event(10, EventKind::StageFailed { stage, error, causes, help, last_lines, diagnosis, wall_ms });
        screen.look("a failure");
        let (built, cached, failed, cancelled, wall_ms) = (1, 1, 1, 2, 5000);
        screen.event(10, EventKind::RunFinished { built, cached, failed, cancelled, wall_ms });
        screen.look("the end");
        insta::assert_snapshot!(screen.text);
    }

    #[test]
    fn ten_thousand_lines_are_cheap_and_none_but_the_last_is_seen() {
        let mut screen = Screen::new();
        screen.event(0, EventKind::RunStarted { nodes: 1, cached: 0 });
        screen.start("noisy");
        let before = screen.term.moves_since_last_check().len();
        for number in 0..10_000 {
            screen.log("noisy", &format!("line {number}"));
        }
        assert!(before > 0 && screen.term.moves_since_last_check().is_empty(), "a log line draws nothing by itself");
        screen.look("");
        assert!(screen.text.contains("line 9999") && !screen.text.contains("line 9998"), "{}", screen.text);
    }

    #[test]
    fn a_run_of_nothing_touches_no_terminal() {
        let mut screen = Screen::new();
        screen.event(0, EventKind::RunStarted { nodes: 1, cached: 1 });
        screen.finish("base", How::Cached);
        assert_eq!(screen.term.contents(), "");
        assert!(screen.view.bars.is_none());
    }
}
