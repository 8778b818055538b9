//! Events as lines of text, on standard error: for logs, pipes and CI.
//! Knows events, not terminals.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anstyle::{AnsiColor, Style};

use super::{Reporter, bytes, message, seconds};
use crate::event::{Event, EventKind, How};

/// Writes every event that a reader of a log wants to see as one or more lines.
#[derive(Debug)]
pub struct Plain {
    /// Paths below it are shown relative to it.
    cwd: PathBuf,
    /// Stages that ran or failed: without any, the run was a no-op.
    ran: usize,
}

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const BUSY: Style = AnsiColor::Cyan.on_default();
const NOTE: Style = AnsiColor::Yellow.on_default();
const FAINT: Style = Style::new().dimmed();

impl Plain {
    /// Paths below `cwd` are shown relative to it.
    pub fn new(cwd: &Path) -> Self {
        Plain { cwd: cwd.to_owned(), ran: 0 }
    }

    /// The event's lines, without the last line feed; none where there is nothing to say.
    fn lines(&mut self, event: &Event) -> Option<String> {
        let wall = |ms: u64| seconds(Duration::from_millis(ms));
        Some(match &event.kind {
            EventKind::RunStarted { .. } => return None,
            EventKind::StageStarted { stage, kind, reason } => {
                self.ran += 1;
                format!("{BUSY}     run{BUSY:#}  {stage}  ({kind}: {reason})")
            }
            EventKind::Log { stage, line } => format!("{FAINT}          {stage} |{FAINT:#} {line}"),
            // What was found needs no line: the last one counts it.
            EventKind::StageFinished { how: How::Cached, .. } => return None,
            EventKind::StageFinished { stage, how: How::Built, wall_ms, stored_bytes } => {
                format!("{GOOD}   built{GOOD:#}  {stage}  in {}, {} stored", wall(*wall_ms), bytes(*stored_bytes))
            }
            EventKind::StageFailed { stage, error, causes, help, last_lines, wall_ms } => {
                self.ran += 1;
                let mut text = format!("{BAD}  failed{BAD:#}  {stage}  after {}: {error}", wall(*wall_ms));
                for cause in causes {
                    text += &format!("\n          caused by: {cause}");
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
            EventKind::Published { path, bytes: size, written, .. } => {
                let verb = if *written { "   wrote" } else { "      is" };
                if !written && self.ran == 0 {
                    return None;
                }
                format!(
                    "{GOOD}{verb}{GOOD:#}  {}  ({})",
                    path.strip_prefix(&self.cwd).unwrap_or(path).display(),
                    bytes(*size)
                )
            }
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
                format!("{verdict}: {} in {}", parts.join(", "), wall(*wall_ms))
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
