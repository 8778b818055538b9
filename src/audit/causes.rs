//! Where differences between two builds usually come from.
//! Knows paths and contents of files.

use serde::Serialize;

use crate::tree::Entry;

/// A file in one of the builds.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// What the tree says of it.
    pub entry: &'a Entry,
    /// Its content, where it is a file that is not too long.
    pub content: Option<&'a [u8]>,
}

/// One of the builds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Host name of the stages.
    pub host_name: String,
    /// `LANG`.
    pub lang: String,
    /// `TZ`.
    pub timezone: String,
    /// Path of the recipe.
    pub path: String,
    /// CPUs that stages may use.
    pub cpus: u32,
    /// When it began, in seconds since 1970.
    pub started: u64,
    /// When it ended.
    pub ended: u64,
}

/// Where a difference probably comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// In one sentence.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// The probable cause of a difference.
pub fn cause(_path: &[u8], _before: Option<&Seen<'_>>, _after: Option<&Seen<'_>>, _runs: &[Run; 2]) -> Option<Cause> {
    None
}
