//! What a user can do about what went wrong in a run, as far as that takes the words of a command: who starts the run
//! hands them in. Knows errors, not words.

use std::path::Path;

use impasto_store::Error as StoreError;

use crate::engine::cause::About;
use crate::engine::job::JobError;

/// Words about what went wrong.
pub trait Hints {
    /// What to do about a job's error, a line each. `about` is the stage, called `label`.
    fn job(&self, error: &JobError, label: &str, about: &About) -> Option<String>;

    /// A warning: the collector may delete what this run uses, as that cannot be written down.
    fn not_kept(&self, error: &StoreError) -> String;

    /// A warning: what the collector is to keep for this checkout is not known, as the root with this path is damaged.
    fn root_damaged(&self, path: &Path) -> String;
}
