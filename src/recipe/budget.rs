//! How much a recipe's evaluation may cost: steps and bytes of values, counted over all of it.
//! Knows counts and places; knows no values.
//!
//! A few lines can ask for more than any machine has: a list of two copies of a list of two copies, or a `for` in a `for`.
//! The counts do not depend on the machine, so a recipe is accepted everywhere or nowhere.

use super::diagnostic::{Diagnostic, Span};
use super::eval::Failed;

/// Steps that every recipe may take; in a release build about ten million of them are a second.
const STEPS: u64 = 2_000_000;
/// Bytes of values that every recipe may make.
const BYTES: u64 = 24 << 20;
/// Further steps for each byte of text.
const STEPS_A_BYTE: u64 = 8;
/// Further bytes for each byte of text.
const BYTES_A_BYTE: u64 = 48;

/// What one recipe may still cost.
#[derive(Debug)]
pub(super) struct Budget {
    steps: u64,
    bytes: u64,
    /// Where it was used up: reported at the end, because `try` and `can` take reports back.
    exhausted: Option<Diagnostic>,
}

impl Budget {
    pub(super) fn new() -> Self {
        Budget {
            steps: STEPS,
            bytes: BYTES,
            exhausted: None,
        }
    }

    /// Allows more for a text that was read: larger recipes may cost more.
    pub(super) fn add_text(&mut self, bytes: usize) {
        self.steps += bytes as u64 * STEPS_A_BYTE;
        self.bytes += bytes as u64 * BYTES_A_BYTE;
    }

    /// Takes steps, and bytes of values that are made. Once it has failed it always fails.
    pub(super) fn charge(&mut self, span: Span, steps: u64, bytes: u64) -> Result<(), Failed> {
        if self.exhausted.is_some() {
            return Err(Failed);
        }
        let what = match (self.steps.checked_sub(steps), self.bytes.checked_sub(bytes)) {
            (Some(steps), Some(bytes)) => {
                (self.steps, self.bytes) = (steps, bytes);
                return Ok(());
            }
            (None, _) => {
                format!(
                    "its budget of {STEPS} steps, plus {STEPS_A_BYTE} for each byte of its source, is used up here"
                )
            }
            (_, None) => format!(
                "its budget of {} MiB of values, plus {BYTES_A_BYTE} bytes for each byte of its source, is used up \
                 here",
                BYTES >> 20
            ),
        };
        let diagnostic =
            Diagnostic::at(span, "the recipe is too expensive to evaluate").label(what);
        let help =
            "look for values that contain others several times, and for nested `for` expressions";
        self.exhausted = Some(diagnostic.help(help));
        Err(Failed)
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted.is_some()
    }

    /// How many values of so many bytes may still be made; at least one, which then may be one too many.
    pub(super) fn values_left(&self, bytes: u64) -> u64 {
        self.steps.min(self.bytes / bytes).max(1)
    }

    /// The report, if it was used up.
    pub(super) fn into_report(self) -> Option<Diagnostic> {
        self.exhausted
    }
}
