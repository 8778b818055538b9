//! Stages' logs as files of a directory: what each wrote when it last ran, under a name that is the same in every build.
//! Knows events and files.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use impasto_store::Owner;

use super::record::MODE;
use crate::base::io::IoError;
use crate::engine::event::EventKind;
use crate::engine::history::file_name;
use crate::engine::publish::Draft;

/// Writes the logs of the stages that run.
pub(super) struct StageLogs {
    dir: PathBuf,
    owner: Owner,
    open: HashMap<String, OpenLog>,
    /// What could not be written first.
    error: Option<IoError>,
}

/// The log of a stage that runs.
struct OpenLog {
    draft: Draft,
    text: BufWriter<File>,
}

impl StageLogs {
    pub(super) fn new(dir: &Path, owner: &Owner) -> Self {
        StageLogs {
            dir: dir.to_owned(),
            owner: owner.clone(),
            open: HashMap::new(),
            error: None,
        }
    }

    pub(super) fn event(&mut self, kind: &EventKind) {
        match kind {
            EventKind::StageStarted { stage, .. } => self.write(stage, &[]),
            EventKind::Log { stage, line } => self.write(stage, &[line]),
            EventKind::StageFailed {
                stage,
                error,
                causes,
                ..
            } => {
                let causes: Vec<_> = causes
                    .iter()
                    .map(|cause| format!("  caused by: {cause}"))
                    .collect();
                let failed = format!("impasto: failed: {error}");
                let lines: Vec<_> = std::iter::once(failed.as_str())
                    .chain(causes.iter().map(String::as_str))
                    .collect();
                self.write(stage, &lines);
                self.place(stage);
            }
            EventKind::StageFinished { stage, .. } => self.place(stage),
            EventKind::StageCancelled { stage } if self.open.contains_key(stage) => {
                self.write(stage, &["impasto: stopped"]);
                self.place(stage);
            }
            _ => {}
        }
    }

    /// Makes visible what is still open, and gives what could not be written.
    pub(super) fn close(mut self) -> Option<IoError> {
        let open: Vec<_> = self.open.keys().cloned().collect();
        open.iter().for_each(|stage| self.place(stage));
        self.error
    }

    fn write(&mut self, stage: &str, lines: &[&str]) {
        let result = self.open(stage).and_then(|open| {
            lines
                .iter()
                .try_for_each(|line| writeln!(open.text, "{line}"))
        });
        if let Err(source) = result {
            self.failed(stage, source);
        }
    }

    fn open(&mut self, stage: &str) -> io::Result<&mut OpenLog> {
        if !self.open.contains_key(stage) {
            let draft = Draft::new(&self.path(stage), &self.owner)?;
            let text = BufWriter::new(draft.file().try_clone()?);
            self.open.insert(stage.to_owned(), OpenLog { draft, text });
        }
        Ok(self.open.get_mut(stage).expect("BUG: just opened"))
    }

    fn place(&mut self, stage: &str) {
        let Some(OpenLog { draft, mut text }) = self.open.remove(stage) else {
            return;
        };
        if let Err(source) = text.flush().and_then(|()| draft.place(MODE)) {
            self.failed(stage, source);
        }
    }

    fn failed(&mut self, stage: &str, source: io::Error) {
        let error = IoError::at("write", self.path(stage))(source);
        self.error.get_or_insert(error);
    }

    fn path(&self, stage: &str) -> PathBuf {
        self.dir.join(log_name(stage))
    }
}

/// The name of a stage's file: `tools.log`, `tools.variant=debug,size=big.log`; with a digest where its label has what no
/// file name should.
fn log_name(label: &str) -> String {
    let (stage, values) = label.split_once('[').unwrap_or((label, ""));
    let values = values.strip_suffix(']').unwrap_or(values);
    let plain = |text: &str| {
        text.chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_=,+.".contains(c))
    };
    let name = match values {
        "" => stage.to_owned(),
        values => format!("{stage}.{values}"),
    };
    let is_name =
        plain(&name) && !stage.contains('.') && !name.starts_with('.') && name.len() <= 200;
    if is_name {
        name + ".log"
    } else {
        file_name(label) + ".log"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_plain_and_apart() {
        assert_eq!(log_name("root"), "root.log");
        assert_eq!(
            log_name("tools[variant=debug,size=1.5]"),
            "tools.variant=debug,size=1.5.log"
        );
        let odd = [
            "tools[v=../../x]",
            "tools[v=a b]",
            "tools[v=a_b]",
            "tools[v=a/b]",
            ".x",
            "a.b",
            "a[b]",
        ];
        let names: std::collections::HashSet<_> = odd.iter().map(|label| log_name(label)).collect();
        assert_eq!(names.len(), odd.len());
        assert!(
            names
                .iter()
                .all(|name| !name.contains('/') && !name.starts_with('.')),
            "{names:?}"
        );
    }
}
