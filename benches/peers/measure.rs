//! Medians of interleaved runs, and the table of what came out.
//! Knows durations and goals, not what is measured.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How often each side of a comparison runs.
pub(crate) const ROUNDS: usize = 7;

static SMALL: AtomicBool = AtomicBool::new(false);

/// From now on everything is tiny, runs once, and no figure is judged: only whether the rows still run.
pub(crate) fn make_small() {
    SMALL.store(true, Ordering::Relaxed);
}

/// Whether everything is tiny.
pub(crate) fn small() -> bool {
    SMALL.load(Ordering::Relaxed)
}

/// The first in an ordinary run, the second where everything is tiny.
pub(crate) fn sized<T>(ordinary: T, tiny: T) -> T {
    if small() { tiny } else { ordinary }
}

/// How a row's figure is judged.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
}

impl Goal {
    fn holds(self, value: f64) -> bool {
        match self {
            _ if small() => true,
            Goal::AtMost(limit) => value <= limit,
            Goal::AtLeast(limit) => value >= limit,
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    what: String,
    ours: String,
    peer: String,
    ratio: String,
    goal: String,
    ok: bool,
}

impl Row {
    /// A figure that stands for itself: seconds, or whatever `show` makes of it.
    pub(crate) fn absolute(
        what: &str,
        value: f64,
        goal: Goal,
        show: impl Fn(f64) -> String,
    ) -> Row {
        let goal_text = match goal {
            Goal::AtMost(limit) => format!("<= {}", show(limit)),
            Goal::AtLeast(limit) => format!(">= {}", show(limit)),
        };
        let (what, ours) = (what.to_owned(), show(value));
        Row {
            what,
            ours,
            peer: "-".to_owned(),
            ratio: "-".to_owned(),
            goal: goal_text,
            ok: goal.holds(value),
        }
    }

    /// Our time against a peer's, zero where it was left out. For [`Goal::AtMost`] the ratio is ours over theirs; for [`Goal::AtLeast`] it is our
    /// speed over theirs.
    pub(crate) fn against(what: &str, ours: Duration, peer: Duration, goal: Goal) -> Row {
        if peer.is_zero() {
            return Row::fact(what, seconds(ours.as_secs_f64()), "a peer", small());
        }
        let (ours_s, peer_s) = (ours.as_secs_f64(), peer.as_secs_f64());
        let (ratio, goal_text) = match goal {
            Goal::AtMost(limit) => (ours_s / peer_s, format!("<= {limit} x time")),
            Goal::AtLeast(limit) => (peer_s / ours_s, format!(">= {limit} x speed")),
        };
        Row {
            what: what.to_owned(),
            ours: seconds(ours_s),
            peer: seconds(peer_s),
            ratio: format!("{ratio:.2}"),
            goal: goal_text,
            ok: goal.holds(ratio),
        }
    }

    /// Our bytes against a peer's, which must be more.
    pub(crate) fn fewer_bytes(what: &str, ours: u64, peer: u64) -> Row {
        Row {
            what: what.to_owned(),
            ours: megabytes(ours as f64),
            peer: megabytes(peer as f64),
            ratio: format!("{:.2}", ours as f64 / peer as f64),
            goal: "fewer".to_owned(),
            ok: ours < peer || small(),
        }
    }

    /// Something that is true or not.
    pub(crate) fn fact(what: &str, found: String, goal: &str, ok: bool) -> Row {
        let (what, dash) = (what.to_owned(), "-".to_owned());
        Row {
            what,
            ours: found,
            peer: dash.clone(),
            ratio: dash,
            goal: goal.to_owned(),
            ok,
        }
    }

    /// What could not be measured at all.
    pub(crate) fn failed(what: &str) -> Row {
        Row::fact(what, "FAILED".to_owned(), "it runs", false)
    }

    /// Whether the goal is reached.
    pub(crate) fn ok(&self) -> bool {
        self.ok
    }
}

/// Rows as a Markdown table.
pub(crate) fn table(rows: &[Row]) -> String {
    let head = [
        "what",
        "ours (median)",
        "peer (median)",
        "ratio",
        "goal",
        "ok?",
    ]
    .map(str::to_owned);
    let cells = rows.iter().map(|row| {
        let ok = if row.ok { "ok" } else { "MISSED" }.to_owned();
        [
            row.what.clone(),
            row.ours.clone(),
            row.peer.clone(),
            row.ratio.clone(),
            row.goal.clone(),
            ok,
        ]
    });
    let lines: Vec<_> = std::iter::once(head).chain(cells).collect();
    let widths: Vec<_> = (0..6)
        .map(|column| {
            lines
                .iter()
                .map(|line| line[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for (at, line) in lines.iter().enumerate() {
        let padded: Vec<_> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        let _ = writeln!(text, "| {} |", padded.join(" | "));
        if at == 0 {
            let rules: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
            let _ = writeln!(text, "| {} |", rules.join(" | "));
        }
    }
    text
}

/// A time as people read it.
pub(crate) fn seconds(value: f64) -> String {
    if value < 1.0 {
        format!("{:.1} ms", value * 1e3)
    } else {
        format!("{value:.2} s")
    }
}

/// Bytes as people read them.
pub(crate) fn megabytes(value: f64) -> String {
    format!("{:.1} MB", value / 1e6)
}

/// How long something takes, and what it gives.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}

/// The middle one; of an even number the mean of the two in the middle.
pub(crate) fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        (sorted[middle - 1] + sorted[middle]) / 2
    }
}

/// Runs all sides in turns, so that what else the machine does meets all of them: their times, side by side. One turn
/// before the first is not counted.
pub(crate) fn interleaved<const N: usize>(
    rounds: usize,
    mut side: impl FnMut(usize, usize) -> Duration,
) -> [Vec<Duration>; N] {
    let mut times = std::array::from_fn(|_| Vec::with_capacity(rounds));
    let (first, rounds) = sized((0, rounds), (1, 1));
    for round in first..=rounds {
        for (which, times) in times.iter_mut().enumerate() {
            let time = side(which, round);
            if round > 0 {
                times.push(time);
            }
        }
    }
    times
}

/// One line about a side: its median and how far the runs lie apart.
pub(crate) fn detail(name: &str, times: &[Duration]) {
    let show = |time: Option<&Duration>| seconds(time.map_or(0.0, Duration::as_secs_f64));
    println!(
        "  {name}: median {}, from {} to {}, {} runs",
        show(Some(&median(times))),
        show(times.iter().min()),
        show(times.iter().max()),
        times.len()
    );
}

/// Waits until the machine does nothing else, for a while; says so where that does not come.
pub(crate) fn quiet() {
    const ENOUGH: f64 = 0.1;
    if small() {
        return;
    }
    let mut busy = 1.0;
    for _ in 0..40 {
        busy = busy_share(Duration::from_millis(500));
        if busy < ENOUGH {
            return;
        }
    }
    println!(
        "  (the machine is {:.0} % busy with something else)",
        busy * 100.0
    );
}

/// Which share of all processors was in use, over a time.
fn busy_share(over: Duration) -> f64 {
    let read = || {
        let text = std::fs::read_to_string("/proc/stat").expect("/proc/stat");
        let numbers: Vec<u64> = text
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .filter_map(|n| n.parse().ok())
            .collect();
        // proc(5): user nice system idle iowait …
        (numbers.iter().take(8).sum::<u64>(), numbers[3] + numbers[4])
    };
    let (all_before, idle_before) = read();
    std::thread::sleep(over);
    let (all, idle) = read();
    1.0 - (idle - idle_before) as f64 / (all - all_before).max(1) as f64
}
