//! What the user sees: subscribers of the run's events, and the output of commands. The only place that prints.
//! Knows events, not how they come about.

mod ci;
mod json;
mod live;
mod pace;
mod plain;
mod record;
mod report;
mod screen;
mod stage_logs;
mod style;
mod summary;
mod trace;
mod wait;

use std::io::Write;
use std::time::Duration;

use crate::engine::event::Event;
use crate::engine::log::without_commands;

pub use ci::{Level, Place, Service, place as ci_place};
pub use json::Json;
pub use live::Live;
pub use plain::Plain;
pub use record::{Ending, RecordError, RecordPaths, Records, Verdict};
pub use wait::{Wait, follow};

pub(crate) use screen::clear_at_exit;

/// A subscriber of a run's events.
pub trait Reporter {
    /// Takes the next event.
    fn event(&mut self, event: &Event);

    /// Ends: what was drawn is taken away.
    ///
    /// # Errors
    /// An event could not be written.
    fn finish(self: Box<Self>) -> Result<(), OutputError> {
        Ok(())
    }
}

/// Standard output could not be written, for another reason than that nobody reads it any more (`| head`): nobody would see
/// that the output is not whole.
#[derive(Debug, thiserror::Error)]
#[error("cannot write standard output")]
pub struct OutputError(#[source] std::io::Error);

impl OutputError {
    /// What writing to standard output came to.
    ///
    /// # Errors
    /// It failed, and somebody still reads it.
    pub fn check(written: std::io::Result<()>) -> Result<(), OutputError> {
        match written {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(OutputError(error)),
            _ => Ok(()),
        }
    }
}

/// Writes a command's output to standard output.
///
/// # Errors
/// It cannot be written. A reader that went away is no error.
pub fn output(text: &str) -> Result<(), OutputError> {
    let mut out = anstream::stdout().lock();
    OutputError::check(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Writes a file's bytes to standard output as they are.
///
/// # Errors
/// As [`output`].
pub fn output_file(bytes: &[u8]) -> Result<(), OutputError> {
    OutputError::check(output_bytes(bytes))
}

/// Writes bytes to standard output as they are.
pub fn output_bytes(bytes: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Writes a message to standard error. Whatever its words are and whoever chose them, no line is a command to a CI service.
pub fn message(text: &str) {
    let lines: Vec<_> = text.split('\n').map(without_commands).collect();
    let mut err = anstream::stderr().lock();
    let _ = writeln!(err, "{}", lines.join("\n"));
}

/// Writes commands to the CI service that reads standard error, as they are.
pub fn commands(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// An error and its causes on one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}

/// A text without its colours.
pub fn strip(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

/// A duration as people say it: `0.02 s`, `3.6 s`, `2 min 10 s`.
pub fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 0.995 {
        format!("{seconds:.2} s")
    } else if seconds < 119.95 {
        format!("{seconds:.1} s")
    } else {
        let whole = seconds.round() as u64;
        format!("{} min {} s", whole / 60, whole % 60)
    }
}

/// How long something takes that is not known for sure: `<1 s`, `~9 s`, `~2 min 10 s`, `~1 h 5 min`.
pub fn about(duration: Duration) -> String {
    let seconds = duration.as_secs_f64().round() as u64;
    match seconds {
        0 => "<1 s".to_owned(),
        1..60 => format!("~{seconds} s"),
        60..600 => {
            // Seconds would pretend.
            let tens = (seconds + 5) / 10 * 10;
            match tens % 60 {
                0 => format!("~{} min", tens / 60),
                rest => format!("~{} min {rest} s", tens / 60),
            }
        }
        600..3600 => format!("~{} min", (seconds + 30) / 60),
        _ => match (seconds + 30) / 60 {
            minutes if minutes % 60 == 0 => format!("~{} h", minutes / 60),
            minutes => format!("~{} h {} min", minutes / 60, minutes % 60),
        },
    }
}

/// A number of bytes as people say it: `512 B`, `1.2 kB`, `569 MB`.
pub fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if value < 999.5 || unit == "TB" {
            return if unit == "B" || value >= 99.95 {
                format!("{value:.0} {unit}")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1000.0;
    }
    unreachable!("BUG: the last unit takes every number")
}

/// Texts in columns, two spaces apart; the last column is not padded. On a terminal that is narrower than a line, the last
/// column goes on below itself, and what has no room at all goes onto a line of its own.
pub fn columns(rows: &[Vec<String>]) -> String {
    columns_within(rows, screen::output_width())
}

/// The same on a terminal of so many columns; none where it goes elsewhere, whose lines are as long as they are.
fn columns_within(rows: &[Vec<String>], terminal: Option<usize>) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest = |column: usize| {
        // What is last in its row pushes nothing aside.
        let cells = rows.iter().filter(|row| column + 1 < row.len()).map(|row| screen::width(&row[column]));
        cells.max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..count).map(widest).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        let mut below = false;
        for (column, text) in row.iter().enumerate() {
            let is_last = column + 1 == row.len();
            let (used, needed) = (screen::width(&line), screen::width(text));
            let room = terminal.map(|terminal| terminal.saturating_sub(used));
            let wraps = is_last && room.is_some_and(|room| room >= LEAST);
            if room.is_some_and(|room| room < needed) && !wraps && !line.trim().is_empty() {
                // What does not fit beside the others goes below them.
                out.push_str(line.trim_end());
                out.push('\n');
                line = "    ".to_owned();
                below = true;
            }
            if !is_last {
                line.push_str(text);
                let width = if below { needed } else { widths[column] };
                line.extend(std::iter::repeat_n(' ', width - needed + 2));
                continue;
            }
            let indent = screen::width(&line);
            let room = terminal.map(|terminal| terminal.saturating_sub(indent));
            for (place, part) in wrap(text, room).into_iter().enumerate() {
                if place > 0 {
                    out.push_str(line.trim_end());
                    out.push('\n');
                    line = " ".repeat(indent);
                }
                line.push_str(part);
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Columns below which a column of a table would be one word a line.
const LEAST: usize = 16;

/// A text as lines of so many columns, cut at blanks; as it is where there is no room worth using, or no bound.
fn wrap(text: &str, room: Option<usize>) -> Vec<&str> {
    let Some(room) = room.filter(|room| *room >= LEAST) else { return vec![text] };
    let mut lines = Vec::new();
    let mut rest = text;
    while screen::width(rest) > room {
        let fits = |at: &usize| screen::width(&rest[..*at]) <= room;
        let blanks = || rest.match_indices(' ').map(|(at, _)| at).filter(|at| *at > 0);
        // A word that is longer than a line stays whole, so that it can be copied.
        let Some(at) = blanks().take_while(fits).last().or_else(|| blanks().next()) else { break };
        lines.push(&rest[..at]);
        rest = &rest[at + 1..];
    }
    lines.push(rest);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_said_as_people_say_them() {
        let durations: Vec<_> = [0, 20, 3600, 130_000].map(|ms| seconds(Duration::from_millis(ms))).into();
        assert_eq!(durations, ["0.00 s", "0.02 s", "3.6 s", "2 min 10 s"]);
        let left = [0, 9400, 59_600, 61_000, 127_000, 599_000, 3_540_000, 3_900_000].map(Duration::from_millis);
        assert_eq!(
            left.map(about),
            ["<1 s", "~9 s", "~1 min", "~1 min", "~2 min 10 s", "~10 min", "~59 min", "~1 h 5 min"]
        );
        let sizes: Vec<_> = [0, 999, 1000, 1_234_567, 569_000_000, 999_999_999, u64::MAX].map(bytes).into();
        assert_eq!(sizes, ["0 B", "999 B", "1.0 kB", "1.2 MB", "569 MB", "1.0 GB", "18446744 TB"]);
    }

    #[test]
    fn columns_line_up() {
        let row = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(columns(&[row(&["a", "bb", "c"]), row(&["aaa", "b", ""])]), "a    bb  c\naaa  b\n");
        assert_eq!(columns(&[row(&["漢字", "b"]), row(&["a", "b"])]), "漢字  b\na     b\n");
        let rows = [row(&["dirty", "run", "line 14 of the script changed, and more"]), row(&["cached", "x", ""])];
        assert_eq!(
            columns_within(&rows, Some(32)),
            "dirty   run  line 14 of the\n             script changed, and\n             more\ncached  x\n"
        );
        let word = "a-word-that-is-longer-than-the-terminal-is-wide";
        assert_eq!(columns_within(&[row(&["a", word])], Some(30)), format!("a  {word}\n"));
        // Where there is no room beside it, it goes below.
        let row = row(&[
            "openssl",
            "3.0.15-1~deb12u1 → 3.0.17-1~deb12u2",
            "tools",
            "debian-security/bookworm-security",
            "security",
        ]);
        assert_eq!(
            columns_within(&[row], Some(80)),
            "openssl  3.0.15-1~deb12u1 → 3.0.17-1~deb12u2  tools\n    debian-security/bookworm-security  security\n"
        );
    }
}
