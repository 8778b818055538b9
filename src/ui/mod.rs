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

pub use ci::{FileLine, Level, Service, place as ci_place};
pub use json::{Json, schema as event_schema};
pub use live::Live;
pub use plain::Plain;
pub use record::{Ending, RecordPaths, Records, Verdict};
pub use wait::Wait;

pub use screen::clear_at_exit;

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
/// It cannot be written. A reader that went away is not an error.
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
