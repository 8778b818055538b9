//! Unified diffs of text files, bounded in time and length.
//!
//! Knows two contents; reads nothing. A hostile file can make a diff coarse, but not slow, and its lines are neutralised.

use std::time::{Duration, Instant};

use serde::Serialize;
use similar::{Algorithm, ChangeTag, TextDiff as Similar};

use super::plain;

/// Largest file that is compared line by line, in bytes.
pub const LIMIT: u64 = 256 << 10;
/// Most files of one comparison whose lines are shown.
pub const MOST_FILES: usize = 200;
/// Most files of one comparison that are read to find out whether they are texts.
pub const MOST_READ: usize = 5 * MOST_FILES;
/// Most lines of one file's diff, without its head.
const MOST_LINES: usize = 40;
/// Most characters of a line.
const MOST_CHARACTERS: usize = 300;
/// Time for one file, after which its diff is coarser than it could be.
const ONE: Duration = Duration::from_millis(300);
/// Time for all files.
const ALL: Duration = Duration::from_secs(3);

/// The unified diff of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TextDiff {
    /// Its lines: heads of hunks, and lines that begin with ` `, `-` or `+`. Neutralised.
    pub lines: Vec<String>,
    /// Lines that were left out at the end.
    pub lines_left_out: usize,
}

/// The time that is left for text diffs.
pub(super) struct TextBudget(Instant);

impl TextBudget {
    pub(super) fn new() -> Self {
        TextBudget(Instant::now() + ALL)
    }

    /// The diff of two contents; none where one is not a text: not UTF-8, or with a NUL in it.
    pub(super) fn diff(&self, before: &[u8], after: &[u8]) -> Option<TextDiff> {
        let text = |bytes| {
            std::str::from_utf8(bytes)
                .ok()
                .filter(|text| !text.contains('\0'))
        };
        let (before, after) = (text(before)?, text(after)?);
        let deadline = self.0.min(Instant::now() + ONE);
        let diff = Similar::configure()
            .algorithm(Algorithm::Myers)
            .deadline(deadline)
            .diff_lines(before, after);
        let mut unified = diff.unified_diff();
        let mut lines = Vec::new();
        let mut count = 0;
        for hunk in unified.context_radius(3).iter_hunks() {
            push(&mut lines, &mut count, || hunk.header().to_string());
            for change in hunk.iter_changes() {
                let sign = match change.tag() {
                    ChangeTag::Equal => ' ',
                    ChangeTag::Delete => '-',
                    ChangeTag::Insert => '+',
                };
                push(&mut lines, &mut count, || {
                    format!("{sign}{}", shown(change.value()))
                });
                if change.missing_newline() {
                    push(&mut lines, &mut count, || {
                        "\\ No newline at end of file".to_owned()
                    });
                }
            }
        }
        Some(TextDiff {
            lines_left_out: count - lines.len(),
            lines,
        })
    }
}

fn push(lines: &mut Vec<String>, count: &mut usize, line: impl FnOnce() -> String) {
    if lines.len() < MOST_LINES {
        lines.push(line());
    }
    *count += 1;
}

fn shown(line: &str) -> String {
    let line = line.strip_suffix('\n').unwrap_or(line);
    let mut end = line.char_indices().skip(MOST_CHARACTERS);
    match end.next() {
        Some((at, _)) => format!("{}…", plain::line(&line.as_bytes()[..at])),
        None => plain::line(line.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diff(before: &str, after: &str) -> TextDiff {
        TextBudget::new()
            .diff(before.as_bytes(), after.as_bytes())
            .unwrap()
    }

    #[test]
    fn lines_are_compared_and_neutralised() {
        let diff = diff("one\ntwo\nthree\n", "one\n\x1b]0;pwned\x07two\r\nthree");
        assert_eq!(
            diff.lines.join("\n"),
            "@@ -1,3 +1,3 @@\n one\n-two\n-three\n+\\x1b]0;pwned\\x07two\\x0d\n+three\n\\ No newline at end of file"
        );
    }

    #[test]
    fn what_is_no_text_has_no_diff() {
        assert_eq!(TextBudget::new().diff(b"a\0b", b"a"), None);
        assert_eq!(TextBudget::new().diff(b"a", b"\xff"), None);
    }

    #[test]
    fn long_diffs_and_lines_are_cut() {
        let before: String = (0..100).map(|line| format!("{line}\n")).collect();
        let diff = diff(&before, &"x".repeat(1000));
        assert_eq!((diff.lines.len(), diff.lines_left_out), (MOST_LINES, 63));
        assert_eq!(
            shown(&"ä".repeat(1000)).chars().count(),
            MOST_CHARACTERS + 1
        );
    }

    #[test]
    fn a_hostile_pair_does_not_stall() {
        // Two texts without a common line, of a quarter of a million lines together.
        let text = |seed: u32| -> String {
            (0..60_000u32)
                .map(|line| format!("{}\n", (line.wrapping_mul(2_654_435_761) ^ seed) % 1000))
                .collect()
        };
        let start = Instant::now();
        let diff = diff(&text(1), &text(77));
        assert!(diff.lines_left_out > 0);
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{:?}",
            start.elapsed()
        );
    }
}
