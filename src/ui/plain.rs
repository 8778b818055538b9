//! Events as lines of text, on standard error: for logs, pipes and CI.
//! Knows events, not terminals.
//!
//! What a stage writes is kept in its log, and not shown again unless that is asked for; a CI service that can fold lines
//! away gets it folded.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ci::{FileLine, Fold, Level, Service};
use super::report::Report;
use super::style::{BAD, BUSY, FAINT, GOOD, NOTE};
use super::{Reporter, commands, message};
use crate::base::human::seconds;
use crate::engine::event::{Event, EventKind, How};

/// Writes every event that a reader of a log wants to see as one or more lines.
#[derive(Debug)]
pub struct Plain {
    /// Paths below it are shown relative to it.
    cwd: PathBuf,
    report: Report,
    /// Whether what stages write is shown as it comes.
    verbose: bool,
    folds: Option<Folds>,
    /// When something was last shown.
    shown: Duration,
    /// Whether the user ended the run.
    interrupted: bool,
    /// How many images were not written.
    not_written: usize,
    /// When each stage began.
    begun: HashMap<String, Duration>,
}

/// After so long without a line of ours one says that a stage still runs, if it writes anything.
const SILENCE: Duration = Duration::from_secs(60);
/// Most bytes of a stage's log that are folded away, the last ones.
const FOLDED: usize = 1 << 20;

/// What stages wrote, for a service that folds lines away.
#[derive(Debug)]
struct Folds {
    service: Service,
    /// When the run's clock began, in seconds since 1970.
    epoch: u64,
    /// Where stages are defined, by their names.
    places: HashMap<String, FileLine>,
    running: HashMap<String, Written>,
}

/// What a stage wrote.
#[derive(Debug, Default)]
struct Written {
    begun: Duration,
    lines: VecDeque<String>,
    bytes: usize,
    /// Lines that were dropped.
    dropped: usize,
}

impl Plain {
    /// Paths below `cwd` are shown relative to it.
    pub fn new(cwd: &Path) -> Self {
        Plain {
            cwd: cwd.to_owned(),
            report: Report::default(),
            verbose: false,
            folds: None,
            shown: Duration::ZERO,
            interrupted: false,
            not_written: 0,
            begun: HashMap::new(),
        }
    }

    /// Shows what stages write as it comes.
    pub fn verbose(mut self) -> Self {
        self.verbose = true;
        self
    }

    /// Writes for a CI service. `epoch` is when the run's clock began, in seconds since 1970; `places` are where the stages
    /// are defined, by their names.
    pub fn for_service(
        mut self,
        service: Service,
        epoch: u64,
        places: HashMap<String, FileLine>,
    ) -> Self {
        self.folds = Some(Folds {
            service,
            epoch,
            places,
            running: HashMap::new(),
        });
        self
    }

    /// The event's lines, without the last line feed; none where there is nothing to say.
    pub(super) fn lines(&mut self, event: &Event) -> Option<String> {
        self.report.event(&event.kind);
        let wall = |ms: u64| seconds(Duration::from_millis(ms));
        Some(match &event.kind {
            EventKind::ResolveStarted { stage } => {
                format!("{BUSY}    lock{BUSY:#}  {stage}")
            }
            EventKind::Locked {
                changes,
                written: true,
                ..
            } if !changes.is_empty() => {
                let line = |change: &String| format!("{GOOD}  locked{GOOD:#}  {change}");
                changes.iter().map(line).collect::<Vec<_>>().join("\n")
            }
            EventKind::Locked { .. } => return None,
            EventKind::RunStarted { .. } | EventKind::Phase { .. } => return None,
            // For who watches.
            EventKind::ResolveFinished { .. }
            | EventKind::CompareStarted { .. }
            | EventKind::PackagesFetched { .. }
            | EventKind::Estimate { .. }
            | EventKind::Expected { .. }
            | EventKind::Progress { .. } => return None,
            EventKind::Interrupted => {
                self.interrupted = true;
                return None;
            }
            EventKind::StageStarted {
                stage,
                kind,
                reason,
            } => {
                self.begun.insert(stage.clone(), event.at);
                format!("{BUSY}     run{BUSY:#}  {stage}  ({kind}: {reason})")
            }
            EventKind::Log { stage, line } if self.verbose => {
                format!("{FAINT}          {stage} |{FAINT:#} {line}")
            }
            EventKind::Log { stage, line } if event.at.saturating_sub(self.shown) >= SILENCE => {
                let begun = self.begun.get(stage).copied().unwrap_or_default();
                let time = seconds(event.at.saturating_sub(begun));
                format!("{BUSY}     run{BUSY:#}  {stage}  for {time}: {FAINT}{line}{FAINT:#}")
            }
            EventKind::Log { .. } => return None,
            // What was found needs no line: the last one counts it.
            EventKind::StageFinished {
                how: How::Cached, ..
            } => return None,
            // The report has its size.
            EventKind::StageFinished {
                stage,
                how: How::Built,
                wall_ms,
                ..
            } => {
                format!("{GOOD}   built{GOOD:#}  {stage}  in {}", wall(*wall_ms))
            }
            EventKind::StageFailed { .. } => failure(&event.kind)?,
            EventKind::StageCancelled { .. } => return None,
            EventKind::Warning {
                stage: Some(stage),
                message,
            } => format!("{NOTE} warning{NOTE:#}  {stage}: {message}"),
            EventKind::Warning {
                stage: None,
                message,
            } => format!("{NOTE} warning{NOTE:#}  {message}"),
            // The report lists the files.
            EventKind::Published { .. } => return None,
            EventKind::ImageNotWritten { image, error, help } => {
                self.not_written += 1;
                let text = format!("{BAD} refused{BAD:#}  {image} is not written: {error}");
                text + &help_lines(help.as_deref())
            }
            EventKind::RunFinished { wall_ms, .. } => {
                let ending = self.ending(&event.kind)?;
                let report = self.report.text(&self.cwd);
                format!("{report}{ending} in {}", wall(*wall_ms))
            }
        })
    }

    /// How a run ended, and what became of its stages.
    fn ending(&self, event: &EventKind) -> Option<String> {
        let EventKind::RunFinished {
            built,
            cached,
            failed,
            cancelled,
            ..
        } = event
        else {
            return None;
        };
        let mut parts = vec![format!("{built} built"), format!("{cached} cached")];
        if *failed > 0 {
            parts.push(format!("{BAD}{failed} failed{BAD:#}"));
        }
        if *cancelled > 0 {
            parts.push(format!("{cancelled} not run"));
        }
        if self.not_written > 0 {
            let images = match self.not_written {
                1 => "1 image".to_owned(),
                many => format!("{many} images"),
            };
            parts.push(format!("{BAD}{images} not written{BAD:#}"));
        }
        let verdict = if *built == 0 { "nothing to do" } else { "done" };
        let verdict = match *failed + *cancelled {
            _ if self.interrupted => "interrupted",
            0 if self.not_written == 0 => verdict,
            _ => "stopped",
        };
        Some(format!("{verdict}: {}", parts.join(", ")))
    }
}

/// What is said of a stage that gave no result.
fn failure(event: &EventKind) -> Option<String> {
    let EventKind::StageFailed {
        stage,
        error,
        causes,
        help,
        last_lines,
        diagnosis,
        wall_ms,
    } = event
    else {
        return None;
    };
    let time = seconds(Duration::from_millis(*wall_ms));
    let mut text = format!("{BAD}  failed{BAD:#}  {stage}  after {time}: {error}");
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
    Some(text + &help_lines(help.as_deref()))
}

fn help_lines(help: Option<&str>) -> String {
    let lines = help.into_iter().flat_map(str::lines);
    lines
        .map(|line| format!("\n          {NOTE}help:{NOTE:#} {line}"))
        .collect()
}

impl Reporter for Plain {
    fn event(&mut self, event: &Event) {
        let lines = self.lines(event);
        if lines.is_some() {
            self.shown = event.at;
        }
        let lines = match &mut self.folds {
            Some(folds) if !self.verbose => folds.event(event, lines),
            Some(folds) => folds.annotate(&event.kind, lines),
            None => lines,
        };
        if let Some(lines) = lines {
            message(&lines);
        }
    }
}

impl Folds {
    /// Writes what is to be folded, and gives the lines that remain to be shown of those of an event.
    fn event(&mut self, event: &Event, lines: Option<String>) -> Option<String> {
        match &event.kind {
            EventKind::StageStarted { stage, .. } => {
                self.running.insert(
                    stage.clone(),
                    Written {
                        begun: event.at,
                        ..Written::default()
                    },
                );
            }
            EventKind::Log { stage, line } => {
                if let Some(written) = self.running.get_mut(stage) {
                    written.push(line);
                }
            }
            EventKind::StageFinished { stage, .. } => {
                let title = lines.as_deref().unwrap_or_default();
                return if self.close(stage, title, event.at) {
                    None
                } else {
                    lines
                };
            }
            EventKind::StageFailed { stage, .. } => {
                self.close(stage, &format!("what {stage} wrote"), event.at);
            }
            EventKind::StageCancelled { stage } => {
                self.close(stage, &format!(" stopped  {stage}"), event.at);
            }
            _ => {}
        }
        self.annotate(&event.kind, lines)
    }

    /// Writes a stage's fold; false where it has nothing to fold.
    fn close(&mut self, stage: &str, title: &str, at: Duration) -> bool {
        let Some(written) = self
            .running
            .remove(stage)
            .filter(|written| written.bytes > 0)
        else {
            return false;
        };
        let time = |at: Duration| self.epoch + at.as_secs();
        let time = (time(written.begun), time(at));
        let lines = written.into_lines();
        commands(&self.service.fold(&Fold {
            title,
            name: stage,
            lines: &lines,
            time,
        }));
        true
    }

    /// Writes an event's annotation, and gives the lines that remain to be shown.
    fn annotate(&self, kind: &EventKind, lines: Option<String>) -> Option<String> {
        let place = |stage: &str| self.places.get(stage.split('[').next().unwrap_or(stage));
        let (level, stage, text) = match kind {
            EventKind::StageFailed {
                stage,
                error,
                causes,
                ..
            } => {
                let causes: String = causes
                    .iter()
                    .map(|cause| format!("\ncaused by: {cause}"))
                    .collect();
                (Level::Error, Some(stage), format!("{error}{causes}"))
            }
            EventKind::ImageNotWritten { image, error, .. } => {
                (Level::Error, Some(image), error.clone())
            }
            EventKind::Warning { stage, message } => {
                (Level::Warning, stage.as_ref(), message.clone())
            }
            _ => return lines,
        };
        let title = stage.map_or("", String::as_str);
        let annotation =
            self.service
                .annotation(level, title, stage.and_then(|stage| place(stage)), &text);
        let Some(annotation) = annotation else {
            return lines;
        };
        // The service shows a warning's words where it stands.
        let lines = lines.filter(|_| level == Level::Error);
        lines.iter().for_each(|lines| message(lines));
        commands(&annotation);
        None
    }
}

impl Written {
    fn push(&mut self, line: &str) {
        self.bytes += line.len() + 1;
        self.lines.push_back(line.to_owned());
        while self.bytes > FOLDED {
            let Some(line) = self.lines.pop_front() else {
                break;
            };
            self.bytes -= line.len() + 1;
            self.dropped += 1;
        }
    }

    fn into_lines(self) -> Vec<String> {
        let dropped = match self.dropped {
            0 => None,
            count => Some(format!(
                "… {count} earlier lines: `impasto log`, or `--logs DIR`"
            )),
        };
        dropped.into_iter().chain(self.lines).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::table::strip;

    #[test]
    fn what_stages_write_is_left_to_their_logs_unless_it_is_asked_for() {
        let log = |at: u64| {
            let (stage, line) = ("root".to_owned(), "Unpacking zlib1g".to_owned());
            Event {
                at: Duration::from_secs(at),
                kind: EventKind::Log { stage, line },
            }
        };
        let mut plain = Plain::new(Path::new("/"));
        assert_eq!(plain.lines(&log(59)), None);
        let still = plain.lines(&log(60)).unwrap();
        assert_eq!(
            strip(&still),
            "     run  root  for 60.0 s: Unpacking zlib1g",
            "nobody takes it for dead"
        );
        let mut verbose = Plain::new(Path::new("/")).verbose();
        assert_eq!(
            strip(&verbose.lines(&log(1)).unwrap()),
            "          root | Unpacking zlib1g"
        );
    }

    #[test]
    fn of_a_long_log_the_end_is_folded() {
        let mut written = Written::default();
        (0..300_000).for_each(|number| written.push(&format!("line {number}")));
        assert!(
            written
                .lines
                .iter()
                .map(|line| line.len() + 1)
                .sum::<usize>()
                == written.bytes
        );
        let lines = written.into_lines();
        assert!(
            lines[0].starts_with("… 2") && lines[0].contains("earlier lines"),
            "{}",
            lines[0]
        );
        assert_eq!(lines.last().unwrap(), "line 299999");
    }
}
