//! What the user sees: subscribers of the run's events, and the output of commands. The only place that prints.
//! Knows events, not how they come about.

mod json;
mod live;
mod plain;
mod report;
mod style;

use std::io::Write;
use std::time::Duration;

use crate::event::Event;

pub use json::Json;
pub use live::Live;
pub use plain::Plain;

/// A subscriber of a run's events.
pub trait Reporter {
    /// Takes the next event.
    fn event(&mut self, event: &Event);
}

/// Writes a command's output to standard output. A reader that went away (`| head`) is no error; anything else ends the
/// program, as nobody would see that the output is not whole.
pub fn output(text: &str) {
    let mut out = anstream::stdout().lock();
    written(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Writes a file's bytes to standard output as they are; as [`output`] otherwise.
pub fn output_file(bytes: &[u8]) {
    written(output_bytes(bytes));
}

/// Ends the program where standard output could not be written, for another reason than that nobody reads it any more.
pub fn written(result: std::io::Result<()>) {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            message(&format!("error: cannot write standard output\n  caused by: {error}"));
            std::process::exit(1);
        }
        _ => {}
    }
}

/// Writes bytes to standard output as they are.
pub fn output_bytes(bytes: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Writes a message to standard error.
pub fn message(text: &str) {
    let mut err = anstream::stderr().lock();
    let _ = writeln!(err, "{text}");
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
fn strip(text: &str) -> String {
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

/// Texts in columns, two spaces apart; the last column is not padded.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|text| text.chars().count()).max();
    let widths: Vec<_> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, text) in row.iter().enumerate() {
            line.push_str(text);
            if column + 1 < row.len() {
                line.extend(std::iter::repeat_n(' ', widths[column] - text.chars().count() + 2));
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_said_as_people_say_them() {
        let durations: Vec<_> = [0, 20, 3600, 130_000].map(|ms| seconds(Duration::from_millis(ms))).into();
        assert_eq!(durations, ["0.00 s", "0.02 s", "3.6 s", "2 min 10 s"]);
        let sizes: Vec<_> = [0, 999, 1000, 1_234_567, 569_000_000, 999_999_999, u64::MAX].map(bytes).into();
        assert_eq!(sizes, ["0 B", "999 B", "1.0 kB", "1.2 MB", "569 MB", "1.0 GB", "18446744 TB"]);
    }

    #[test]
    fn columns_line_up() {
        let row = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(columns(&[row(&["a", "bb", "c"]), row(&["aaa", "b", ""])]), "a    bb  c\naaa  b\n");
    }
}
