//! The live view, on a terminal that the test reads.

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
    sight.log(
        "users",
        "adduser: a line that is much longer than this terminal is wide, and then some more of it",
    );
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
