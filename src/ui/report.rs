//! The end of a run: a table of its stages, and where the files are.
//! Knows what the events said; writes nothing.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::style::{BAD, BUSY, FAINT, GOOD};
use crate::base::human::{bytes, seconds};
use crate::base::table;
use crate::engine::event::{EventKind, How};
use impasto_store::sha256::Sha256;

/// More cached stages than these are counted, not listed: what ran is easier to see then.
pub(super) const MANY_CACHED: usize = 30;
/// Digits of a checksum that are shown; the whole of it lies beside the file.
const SHORT: usize = 12;
/// Columns of a line of files that no terminal wraps; without its checksum a longer one is shorter.
const COLUMNS: usize = 80;

/// What the run's events say about its stages and files.
#[derive(Debug, Default)]
pub(super) struct Report {
    stages: Vec<ReportRow>,
    files: Vec<WrittenFile>,
}

#[derive(Debug)]
struct ReportRow {
    stage: String,
    state: RowState,
    wall_ms: Option<u64>,
    result_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowState {
    Built,
    Cached,
    Failed,
    NotRun,
}

#[derive(Debug)]
struct WrittenFile {
    path: PathBuf,
    bytes: u64,
    sha256: Sha256,
    written: bool,
}

impl Report {
    /// Takes note of an event.
    pub(super) fn event(&mut self, kind: &EventKind) {
        let (stage, state, wall_ms, result_bytes) = match kind {
            EventKind::StageFinished {
                stage,
                how: How::Built,
                wall_ms,
                result_bytes,
                ..
            } => (stage, RowState::Built, Some(*wall_ms), *result_bytes),
            EventKind::StageFinished {
                stage,
                how: How::Cached,
                result_bytes,
                ..
            } => (stage, RowState::Cached, None, *result_bytes),
            EventKind::StageFailed { stage, wall_ms, .. } => {
                (stage, RowState::Failed, Some(*wall_ms), None)
            }
            EventKind::StageCancelled { stage } => (stage, RowState::NotRun, None, None),
            EventKind::Published {
                path,
                bytes,
                sha256,
                written,
            } => {
                let file = WrittenFile {
                    path: path.clone(),
                    bytes: *bytes,
                    sha256: *sha256,
                    written: *written,
                };
                self.files.push(file);
                return;
            }
            _ => return,
        };
        self.stages.push(ReportRow {
            stage: stage.clone(),
            state,
            wall_ms,
            result_bytes,
        });
    }

    /// The table and the files, each line ended; nothing where there is nothing to say. Paths below `cwd` are shown
    /// relative to it.
    pub(super) fn text(&self, cwd: &Path) -> String {
        let mut text = String::new();
        // Where nothing ran, a table would say the same on every line.
        if self.stages.iter().any(|row| row.state != RowState::Cached) {
            text += &self.table();
        }
        let shown: Vec<_> = self
            .files
            .iter()
            .map(|file| {
                file.path
                    .strip_prefix(cwd)
                    .unwrap_or(&file.path)
                    .display()
                    .to_string()
            })
            .collect();
        let width = widest(shown.iter());
        let fits =
            "   wrote  ".len() + width + "  123 MB  sha256 …".chars().count() + SHORT <= COLUMNS;
        for (file, path) in self.files.iter().zip(&shown) {
            let verb = if file.written { "   wrote" } else { "      is" };
            let (size, digest) = (bytes(file.bytes), file.sha256.to_string());
            let digest = if fits {
                format!("  sha256 {}…", &digest[..SHORT])
            } else {
                String::new()
            };
            let blanks = " ".repeat(width - table::width(path));
            text += &format!("{GOOD}{verb}{GOOD:#}  {path}{blanks}  {size:>7}{digest}\n");
        }
        text
    }

    fn table(&self) -> String {
        // A stage whose result was lost while the run went on finishes twice; the last word counts.
        let mut seen = HashSet::new();
        let mut rows: Vec<_> = self
            .stages
            .iter()
            .rev()
            .filter(|row| seen.insert(&row.stage))
            .collect();
        rows.reverse();
        let cached = rows
            .iter()
            .filter(|row| row.state == RowState::Cached)
            .count();
        let list_cached = cached <= MANY_CACHED;
        rows.retain(|row| list_cached || row.state != RowState::Cached);
        let width = widest(rows.iter().map(|row| &row.stage)).max("stage".len());
        let mut text = format!(
            "\n{FAINT}          {:<width$}  {:>12}  {:>8}{FAINT:#}\n",
            "stage", "time", "size"
        );
        for ReportRow {
            stage,
            state,
            wall_ms,
            result_bytes,
        } in rows
        {
            let (style, word) = match state {
                RowState::Built => (GOOD, "built"),
                RowState::Cached => (BUSY, "cached"),
                RowState::Failed => (BAD, "failed"),
                RowState::NotRun => (FAINT, "not run"),
            };
            let time = wall_ms.map_or(String::new(), |ms| seconds(Duration::from_millis(ms)));
            let size = result_bytes.map_or(String::new(), bytes);
            let blanks = " ".repeat(width - table::width(stage));
            let line = format!("{style}{word:>8}{style:#}  {stage}{blanks}  {time:>12}  {size:>8}");
            text += line.trim_end();
            text.push('\n');
        }
        if !list_cached {
            text += &format!("{BUSY}  cached{BUSY:#}  {cached} more\n");
        }
        text + "\n"
    }
}

fn widest<'t>(texts: impl Iterator<Item = &'t String>) -> usize {
    texts.map(|text| table::width(text)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::table::strip;

    fn built(stage: &str, how: How, wall_ms: u64, result_bytes: u64) -> EventKind {
        let (stage, result_bytes) = (stage.to_owned(), Some(result_bytes));
        EventKind::StageFinished {
            stage,
            how,
            wall_ms,
            stored_bytes: 0,
            result_bytes,
            caveats: Vec::new(),
        }
    }

    fn published(path: &str, written: bool) -> EventKind {
        let sha256 = "0123456789abcdef".repeat(4).parse().unwrap();
        EventKind::Published {
            path: path.into(),
            bytes: 226_000_000,
            sha256,
            written,
        }
    }

    fn shown(events: impl IntoIterator<Item = EventKind>) -> String {
        let mut report = Report::default();
        events.into_iter().for_each(|event| report.event(&event));
        strip(&report.text(Path::new("/home/me")))
    }

    #[test]
    fn a_run_is_told_as_a_table_with_its_files() {
        let failed = EventKind::StageFailed {
            stage: "versions".to_owned(),
            error: String::new(),
            causes: Vec::new(),
            help: None,
            last_lines: Vec::new(),
            diagnosis: Default::default(),
            wall_ms: 3600,
        };
        insta::assert_snapshot!(shown([
            built("base", How::Cached, 0, 569_000_000),
            built("packages[variant=debug]", How::Built, 130_000, 34_000_000),
            failed,
            built("qcow2", How::Built, 20, 226_000_000),
            published("/home/me/out/debian-12.qcow2", true),
            published("/srv/other.qcow2", false),
            EventKind::StageCancelled {
                stage: "last".to_owned()
            },
        ]));
    }

    #[test]
    fn files_with_long_names_fit_a_terminal_without_their_checksums() {
        let long = format!("/home/me/out/{}.txt", "long-".repeat(8));
        let text = shown([
            published("/home/me/out/漢字.qcow2", true),
            published(&long, true),
        ]);
        assert!(
            text.lines().all(|line| table::width(line) <= COLUMNS) && !text.contains("sha256"),
            "{text}"
        );
        let ends: Vec<_> = text.lines().map(table::width).collect();
        assert_eq!(ends[0], ends[1], "{text}");
        assert!(
            shown([published("/home/me/out/a.qcow2", true)]).contains("  sha256 0123456789ab…\n")
        );
    }

    #[test]
    fn many_cached_stages_are_counted_and_a_run_of_nothing_has_no_table() {
        let cached =
            || (0..=MANY_CACHED).map(|number| built(&format!("s{number}"), How::Cached, 0, 1));
        assert_eq!(shown(cached()), "");
        let text = shown(cached().chain([built("last", How::Built, 1000, 1)]));
        assert!(
            text.contains("  cached  31 more\n") && text.lines().count() == 5,
            "{text}"
        );
        let again = shown([
            built("a", How::Built, 1000, 1),
            built("a", How::Built, 2000, 1),
        ]);
        assert_eq!(again.matches("built").count(), 1, "{again}");
    }
}
