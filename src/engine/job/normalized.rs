//! What a stage's disk is, but for the time at which the stage ran.
//!
//! Knows the overlay and the disk below it; what is normalized in a file system is `guest`'s.

use std::collections::BTreeSet;
use std::io;
use std::time::Instant;

use impasto_stages::action::{Action, Bound};
use impasto_store::chain::DiskReader;
use impasto_store::qcow2::ChunkSource;

use super::sandboxed::keeps_times;
use super::{Job, JobError, JobInput};
use crate::disk::guest::{Normalizer, OverlayView, Patch, read_layout};
use crate::sandbox::Finished;

impl Job {
    /// What to write over a finished job's overlay, which lies over the disk `below`.
    pub(super) fn normalized(
        &self,
        overlay: &dyn ChunkSource,
        finished: &Finished,
        action: &Action<Bound>,
        below: &DiskReader,
    ) -> Result<Vec<Patch>, JobError> {
        let begun = Instant::now();
        let patches = || -> io::Result<Vec<Patch>> {
            let Some(epoch) = action.source_date_epoch else {
                return Ok(Vec::new());
            };
            let before = OverlayView::whole(below).map_err(io::Error::other)?;
            let after = OverlayView::over(overlay, below).map_err(io::Error::other)?;
            let layout = read_layout(&after)?;
            let is_present = |chunk| after.is_present(chunk);
            let (before, after, mounted) = (&before, &after, &finished.mounted);
            let kept = self
                .inputs
                .iter()
                .filter(|(name, _)| keeps_times(action, name));
            let kept: BTreeSet<u64> = kept.flat_map(|(_, input)| times(input)).collect();
            Normalizer {
                before,
                after,
                layout: &layout,
                mounted,
                is_present: &is_present,
                epoch,
                kept: &kept,
            }
            .patches()
        };
        let patches = patches().map_err(|error| self.broken(error))?;
        tracing::debug!(stage = self.label, elapsed = ?begun.elapsed(), patches = patches.len(), "settled");
        Ok(patches)
    }
}

/// The times of an input's files, each in seconds since 1970; stages' files have none.
fn times(input: &JobInput) -> Vec<u64> {
    match input {
        JobInput::Local { input, .. } => input.times(),
        JobInput::Blob { .. } | JobInput::Tree { .. } | JobInput::Derived { .. } => Vec::new(),
    }
}
