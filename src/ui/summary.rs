//! A build as a page of Markdown (GitHub Flavored Markdown): stages, files, and why something failed.
//! Knows what the events said.
//!
//! Texts that others may have chosen stand in code, where nothing of them is a link, an image or HTML.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::record::{Ending, Verdict};
use super::report::MANY_CACHED;
use crate::base::human::{bytes, seconds};
use crate::engine::event::{EventKind, How};

/// What a page will say.
pub(super) struct SummaryPage {
    cwd: PathBuf,
    /// In the order in which they ended.
    rows: Vec<SummaryRow>,
    /// Where each stage's row is: a stage may end twice, and the last word counts.
    places: HashMap<String, usize>,
    files: Vec<String>,
    failures: Vec<(String, String)>,
    warnings: Vec<String>,
    /// What changed in the lock.
    locked: Vec<String>,
    counts: Option<String>,
}

struct SummaryRow {
    stage: String,
    state: &'static str,
    time: String,
    size: String,
    caveats: String,
}

/// Longest line of a stage's that is shown, in characters: services take pages of a certain size only.
const LINE: usize = 1000;

impl SummaryPage {
    pub(super) fn new(cwd: &Path) -> Self {
        SummaryPage {
            cwd: cwd.to_owned(),
            rows: Vec::new(),
            places: HashMap::new(),
            files: Vec::new(),
            failures: Vec::new(),
            warnings: Vec::new(),
            locked: Vec::new(),
            counts: None,
        }
    }

    pub(super) fn event(&mut self, kind: &EventKind) {
        let time = |ms: u64| seconds(Duration::from_millis(ms));
        match kind {
            EventKind::StageFinished {
                stage,
                how,
                wall_ms,
                result_bytes,
                caveats,
                ..
            } => {
                let (state, time) = match how {
                    How::Built => ("built", time(*wall_ms)),
                    How::Cached => ("cached", String::new()),
                };
                let size = result_bytes.map_or(String::new(), bytes);
                self.row(SummaryRow {
                    stage: stage.clone(),
                    state,
                    time,
                    size,
                    caveats: caveats.join(", "),
                });
            }
            EventKind::StageFailed {
                stage,
                error,
                causes,
                help,
                last_lines,
                diagnosis,
                wall_ms,
            } => {
                self.row(SummaryRow {
                    time: time(*wall_ms),
                    ..SummaryRow::of(stage, "**failed**")
                });
                let mut lines = vec![error.clone()];
                lines.extend(causes.iter().map(|cause| format!("  caused by: {cause}")));
                let cause = diagnosis.lines(last_lines);
                lines.extend(cause.iter().map(|line| format!("  {}", clipped(line))));
                if !last_lines.is_empty() {
                    lines.push("  its last lines:".to_owned());
                    lines.extend(
                        last_lines
                            .iter()
                            .map(|line| format!("    {}", clipped(line))),
                    );
                }
                self.failure(stage, lines, help.as_deref());
            }
            EventKind::ImageNotWritten { image, error, help } => {
                let lines = vec![format!("not written: {error}")];
                self.failure(image, lines, help.as_deref());
            }
            EventKind::Locked {
                changes,
                written: true,
                ..
            } => self.locked.extend(changes.iter().cloned()),
            EventKind::StageCancelled { stage } => self.row(SummaryRow::of(stage, "not run")),
            EventKind::Warning { stage, message } => {
                let stage = stage
                    .as_ref()
                    .map_or(String::new(), |stage| format!("{stage}: "));
                self.warnings.push(format!("{stage}{}", clipped(message)));
            }
            EventKind::Published {
                path,
                bytes: size,
                sha256,
                written,
            } => {
                let path = path
                    .strip_prefix(&self.cwd)
                    .unwrap_or(path)
                    .display()
                    .to_string();
                let was = if *written { "written" } else { "unchanged" };
                self.files.push(format!(
                    "| {} | {was} | {} | {} |\n",
                    cell(&path),
                    bytes(*size),
                    cell(&sha256.to_string())
                ));
            }
            EventKind::RunFinished {
                built,
                cached,
                failed,
                cancelled,
                ..
            } => {
                let mut counts = format!("{built} built, {cached} cached");
                for (count, what) in [(failed, "failed"), (cancelled, "not run")] {
                    if *count > 0 {
                        counts += &format!(", {count} {what}");
                    }
                }
                self.counts = Some(counts);
            }
            _ => {}
        }
    }

    /// Takes note of what failed: the lines that say why, then what to do about it.
    fn failure(&mut self, whose: &str, mut lines: Vec<String>, help: Option<&str>) {
        let help = help.into_iter().flat_map(str::lines);
        lines.extend(help.map(|line| format!("  help: {line}")));
        self.failures
            .push((whose.to_owned(), lines.join("\n") + "\n"));
    }

    fn row(&mut self, row: SummaryRow) {
        match self.places.get(&row.stage) {
            Some(place) => self.rows[*place] = row,
            None => {
                self.places.insert(row.stage.clone(), self.rows.len());
                self.rows.push(row);
            }
        }
    }

    pub(super) fn text(&self, ending: &Ending) -> String {
        let verdict = match &ending.verdict {
            Verdict::Done => "done",
            Verdict::Failed | Verdict::Error(_) => "failed",
            Verdict::Interrupted => "interrupted",
        };
        let recipe = ending
            .recipe
            .as_ref()
            .map_or(String::new(), |recipe| format!(" of {}", code(recipe)));
        let mut text = format!("## Build{recipe}: {verdict}\n\n");
        let counts = self
            .counts
            .as_ref()
            .map_or(String::new(), |counts| format!("{counts} "));
        text += &format!("{counts}in {}\n", seconds(ending.at));
        if let Verdict::Error(message) = &ending.verdict {
            text += &format!("\n{}", block(message));
        }
        for (stage, failure) in &self.failures {
            text += &format!("\n### {} failed\n\n{}", code(stage), block(failure));
        }
        if !self.files.is_empty() {
            text += "\n### Files\n\n| file | | size | SHA-256 |\n| :-- | :-- | --: | :-- |\n";
            text += &self.files.concat();
        }
        if !self.rows.is_empty() {
            text += &self.stages();
        }
        if !self.locked.is_empty() {
            text += &format!("\n### Lock\n\n{}", block(&self.locked.join("\n")));
        }
        if !self.warnings.is_empty() {
            text += &format!("\n### Warnings\n\n{}", block(&self.warnings.join("\n")));
        }
        text
    }

    fn stages(&self) -> String {
        let mut text =
            "\n### Stages\n\n| stage | | time | size | caveats |\n| :-- | :-- | --: | --: | :-- |\n".to_owned();
        let cached = self.rows.iter().filter(|row| row.state == "cached").count();
        let list_cached = cached <= MANY_CACHED;
        for SummaryRow {
            stage,
            state,
            time,
            size,
            caveats,
        } in &self.rows
        {
            if list_cached || *state != "cached" {
                text += &format!(
                    "| {} | {state} | {time} | {size} | {caveats} |\n",
                    cell(stage)
                );
            }
        }
        if !list_cached {
            text += &format!("| {cached} more | cached | | | |\n");
        }
        text
    }
}

impl SummaryRow {
    fn of(stage: &str, state: &'static str) -> SummaryRow {
        SummaryRow {
            stage: stage.to_owned(),
            state,
            time: String::new(),
            size: String::new(),
            caveats: String::new(),
        }
    }
}

fn clipped(line: &str) -> String {
    match line.char_indices().nth(LINE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// A text as a code span in a table, where `|` is escaped also in code (GFM, tables).
fn cell(text: &str) -> String {
    code(text).replace('|', r"\|")
}

/// A text as a code span: its delimiter is longer than any run of backticks in it (CommonMark, code spans).
fn code(text: &str) -> String {
    let text = text.replace(['\n', '\r'], " ");
    let fence = "`".repeat(longest_run(&text) + 1);
    let space = if text.starts_with('`') || text.ends_with('`') {
        " "
    } else {
        ""
    };
    format!("{fence}{space}{text}{space}{fence}")
}

/// Lines as a fenced block (CommonMark, fenced code blocks).
fn block(text: &str) -> String {
    let fence = "`".repeat(longest_run(text).max(2) + 1);
    format!("{fence}text\n{}\n{fence}\n", text.trim_end())
}

/// How many backticks stand together at most.
fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(verdict: Verdict) -> Ending {
        Ending {
            recipe: Some("web".to_owned()),
            verdict,
            at: Duration::from_millis(55_200),
        }
    }

    #[test]
    fn a_failed_build_as_a_page() {
        let mut summary = SummaryPage::new(Path::new("/home/me"));
        let built = |stage: &str, how, caveats| EventKind::StageFinished {
            stage: stage.to_owned(),
            how,
            wall_ms: 48_600,
            stored_bytes: 1,
            result_bytes: Some(533_000_000),
            caveats,
        };
        summary.event(&built("root", How::Cached, Vec::new()));
        summary.event(&built(
            "base",
            How::Built,
            vec!["unlocked".to_owned(), "weak isolation".to_owned()],
        ));
        summary.event(&EventKind::Warning {
            stage: Some("base".to_owned()),
            message: "![x](http://y) <b>".to_owned(),
        });
        summary.event(&EventKind::StageFailed {
            stage: "run[v=a|b]".to_owned(),
            error: "the script exited with code 1".to_owned(),
            causes: vec!["something".to_owned()],
            help: Some("one\ntwo".to_owned()),
            last_lines: vec!["```".to_owned(), "# no heading".to_owned()],
            diagnosis: Default::default(),
            wall_ms: 100,
        });
        summary.event(&EventKind::StageCancelled {
            stage: "qcow2".to_owned(),
        });
        summary.event(&EventKind::Published {
            path: "/home/me/out/web`x`.qcow2".into(),
            bytes: 226_000_000,
            sha256: "0123456789abcdef".repeat(4).parse().unwrap(),
            written: true,
        });
        summary.event(&EventKind::RunFinished {
            built: 1,
            cached: 1,
            failed: 1,
            cancelled: 1,
            wall_ms: 1,
        });
        insta::assert_snapshot!(summary.text(&ending(Verdict::Failed)));
    }

    #[test]
    fn a_build_that_could_not_begin_says_why() {
        let text = SummaryPage::new(Path::new("/"))
            .text(&ending(Verdict::Error("error: no such stage\n".to_owned())));
        assert_eq!(
            text,
            "## Build of `web`: failed\n\nin 55.2 s\n\n```text\nerror: no such stage\n```\n"
        );
        let text = SummaryPage::new(Path::new("/")).text(&ending(Verdict::Interrupted));
        assert!(
            text.starts_with("## Build of `web`: interrupted\n"),
            "{text}"
        );
    }

    #[test]
    fn nothing_leaves_its_code() {
        assert_eq!(code("a`b"), "``a`b``");
        assert_eq!(code("`a|b\n"), "`` `a|b  ``");
        assert_eq!(cell("a|b"), r"`a\|b`");
        assert_eq!(block("a\n````\nb"), "`````text\na\n````\nb\n`````\n");
    }
}
