//! Points at which a test makes the process die, to show that any moment is survived.
//! Knows names of moments; nothing arms it but a test's own code.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

static ARMED: OnceLock<(String, AtomicU32)> = OnceLock::new();

/// Makes the process abort when it comes to the point `name` for the `nth` time (from 1). For tests; once per process.
pub fn arm(name: &str, nth: u32) {
    // A second call is a test's mistake that shows itself: the process does not die.
    let _ = ARMED.set((name.to_owned(), AtomicU32::new(nth)));
}

/// The process comes to the point `name`.
#[inline]
pub(crate) fn point(name: &str) {
    if let Some((armed, left)) = ARMED.get()
        && armed == name
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        std::process::abort();
    }
}

/// Every point, in the order in which a build comes to them.
pub const POINTS: [&str; 10] = [
    "temp.created",
    "seal.frames-written",
    "publish.before-sync",
    "publish.synced",
    "publish.linked",
    "publish.half-linked",
    "claim.before",
    "root.before-rename",
    "state.before-rename",
    "gc.before-unlink",
];
