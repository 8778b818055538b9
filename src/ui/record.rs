//! What a build leaves in files where it is asked to: a summary, its stages' logs, a trace.
//! Knows where they go and when they are written, not what is in them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use impasto_store::Owner;

use super::stage_logs::StageLogs;
use super::summary::SummaryPage;
use super::trace::Trace;
use crate::base::io::IoError;
use crate::engine::event::Event;
use crate::engine::publish::{Draft, writable_dir};

/// Where they go, absolute; none of what is not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordPaths {
    pub summary: Option<PathBuf>,
    /// A directory: a file for each stage that runs.
    pub logs: Option<PathBuf>,
    /// A file, trace events in JSON.
    pub trace: Option<PathBuf>,
}

/// How a build ended.
#[derive(Debug)]
pub struct Ending {
    /// The recipe's name, where it could be read.
    pub recipe: Option<String>,
    pub verdict: Verdict,
    /// Since the start of the run.
    pub at: Duration,
}

/// What a build ended with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Done,
    Failed,
    /// The user stopped it.
    Interrupted,
    /// It could not begin, or the host failed: what was said of that, as text without colours.
    Error(String),
}

/// What is being recorded. Where nothing is, it does nothing.
#[derive(Default)]
pub struct Records {
    summary: Option<(Draft, SummaryPage)>,
    logs: Option<StageLogs>,
    trace: Option<(Draft, Trace)>,
}

/// Permission bits of the files.
pub(super) const MODE: u32 = 0o644;

impl Records {
    /// Opens everything, so that nothing is started whose record could not be written. Paths below `cwd` are shown relative
    /// to it.
    ///
    /// # Errors
    /// Something cannot be written, or is not a regular file.
    pub fn open(paths: &RecordPaths, owner: &Owner, cwd: &Path) -> Result<Records, IoError> {
        let draft =
            |path: &PathBuf| Draft::new(path, owner).map_err(IoError::at::<IoError>("write", path));
        let mut records = Records::default();
        if let Some(path) = &paths.summary {
            records.summary = Some((draft(path)?, SummaryPage::new(cwd)));
        }
        if let Some(dir) = &paths.logs {
            writable_dir(dir, owner).map_err(IoError::at::<IoError>("write", dir))?;
            records.logs = Some(StageLogs::new(dir, owner));
        }
        if let Some(path) = &paths.trace {
            records.trace = Some((draft(path)?, Trace::default()));
        }
        Ok(records)
    }

    /// Takes the next event.
    pub fn event(&mut self, event: &Event) {
        if let Some((_, summary)) = &mut self.summary {
            summary.event(&event.kind);
        }
        if let Some(logs) = &mut self.logs {
            logs.event(&event.kind);
        }
        if let Some((_, trace)) = &mut self.trace {
            trace.event(event);
        }
    }

    /// A part of the work before the run is over, `at` after the start; it began where the last one ended.
    pub fn lap(&mut self, name: &str, at: Duration) {
        if let Some((_, trace)) = &mut self.trace {
            trace.lap(name, at);
        }
    }

    /// Writes what is to be written, whatever the build ended with, and gives what could not be.
    pub fn close(self, ending: &Ending) -> Vec<IoError> {
        let mut errors = Vec::new();
        let mut place = |draft: Draft, written: io::Result<()>| {
            let path = draft.path().to_owned();
            if let Err(source) = written.and_then(|()| draft.place(MODE)) {
                errors.push(IoError::at("write", path)(source));
            }
        };
        if let Some((draft, summary)) = self.summary {
            let written = draft.file().write_all(summary.text(ending).as_bytes());
            place(draft, written);
        }
        if let Some((draft, trace)) = self.trace {
            let written = trace.write(ending, draft.file());
            place(draft, written);
        }
        errors.extend(self.logs.and_then(StageLogs::close));
        errors
    }
}
