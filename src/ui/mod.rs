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

use crate::base::escape::without_commands;
use crate::engine::event::Event;

pub use ci::{Level, Place, Service, place as ci_place};
pub use json::{Json, schema as event_schema};
pub use live::Live;
pub use plain::Plain;
pub use record::{Ending, RecordError, RecordPaths, Records, Verdict};
pub use wait::{Wait, follow};

pub use screen::clear_at_exit;

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
