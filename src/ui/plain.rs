//! Events as lines of text, on standard error: for logs, pipes and CI.
//! Knows events, not terminals.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::report::Report;
use super::style::{BAD, BUSY, FAINT, GOOD, NOTE};
use super::{Reporter, bytes, message, seconds};
use crate::event::{Event, EventKind, How};

/// Writes every event that a reader of a log wants to see as one or more lines.
#[derive(Debug)]
pub struct Plain {
    /// Paths below it are shown relative to it.
    cwd: PathBuf,
    report: Report,
}

impl Plain {
    /// Paths below `cwd` are shown relative to it.
    pub fn new(cwd: &Path) -> Self {
        Plain { cwd: cwd.to_owned(), report: Report::default() }
    }

    /// The event's lines, without the last line feed; none where there is nothing to say.
    pub(super) fn lines(&mut self, event: &Event) -> Option<String> {
        self.report.event(&event.kind);
        let wall = |ms: u64| seconds(Duration::from_millis(ms));
        Some(match &event.kind {
            EventKind::RunStarted { .. } => return None,
            EventKind::StageStarted { stage, kind, reason } => {
                format!("{BUSY}     run{BUSY:#}  {stage}  ({kind}: {reason})")
            }
            EventKind::Log { stage, line } => format!("{FAINT}          {stage} |{FAINT:#} {line}"),
            // What was found needs no line: the last one counts it.
            EventKind::StageFinished { how: How::Cached, .. } => return None,
            EventKind::StageFinished { stage, how: How::Built, wall_ms, stored_bytes, .. } => {
                let stored = match stored_bytes {
                    0 => String::new(),
                    size => format!(", {} stored", bytes(*size)),
                };
                format!("{GOOD}   built{GOOD:#}  {stage}  in {}{stored}", wall(*wall_ms))
            }
            EventKind::StageFailed { stage, error, causes, help, last_lines, diagnosis, wall_ms } => {
                let mut text = format!("{BAD}  failed{BAD:#}  {stage}  after {}: {error}", wall(*wall_ms));
                for cause in causes {
                    text += &format!("\n          caused by: {cause}");
                }
                for line in diagnosis.lines(last_lines) {
                    text += &format!("\n          {line}");
                }
                if !last_lines.is_empty() {
                    text += "\n          its last lines:";
                    for line in last_lines {
                        text += &format!("\n{FAINT}          {stage} |{FAINT:#} {line}");
                    }
                }
                if let Some(help) = help {
                    for line in help.lines() {
                        text += &format!("\n          {NOTE}help:{NOTE:#} {line}");
                    }
                }
                text
            }
            EventKind::StageCancelled { .. } => return None,
            EventKind::Warning { stage: Some(stage), message } => format!("{NOTE} warning{NOTE:#}  {stage}: {message}"),
            EventKind::Warning { stage: None, message } => format!("{NOTE} warning{NOTE:#}  {message}"),
            // The report lists the files.
            EventKind::Published { .. } => return None,
            EventKind::RunFinished { built, cached, failed, cancelled, wall_ms } => {
                let mut parts = vec![format!("{built} built"), format!("{cached} cached")];
                if *failed > 0 {
                    parts.push(format!("{BAD}{failed} failed{BAD:#}"));
                }
                if *cancelled > 0 {
                    parts.push(format!("{cancelled} not run"));
                }
                let verdict = if *failed + *cancelled == 0 && *built == 0 { "nothing to do" } else { "done" };
                let verdict = if *failed + *cancelled > 0 { "stopped" } else { verdict };
                let report = self.report.text(&self.cwd);
                format!("{report}{verdict}: {} in {}", parts.join(", "), wall(*wall_ms))
            }
        })
    }
}

impl Reporter for Plain {
    fn event(&mut self, event: &Event) {
        if let Some(lines) = self.lines(event) {
            message(&lines);
        }
    }
}
