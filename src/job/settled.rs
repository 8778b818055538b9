//! What a stage's disk is, but for the time at which the stage ran.
//!
//! Knows the overlay and the disk below it; what is settled in a file system is `guest`'s.

use std::io;
use std::time::Instant;

use impasto_stages::action::{Action, Bound};
use impasto_store::chain::DiskReader;
use impasto_store::qcow2::ChunkSource;

use super::{Job, JobError};
use crate::guest::{Patch, Settle, View, read_layout};
use crate::sandbox::Finished;

impl Job {
    /// What to write over a finished job's overlay, which lies over the disk `below`.
    pub(super) fn settled(
        &self,
        overlay: &dyn ChunkSource,
        finished: &Finished,
        action: &Action<Bound>,
        below: &DiskReader,
    ) -> Result<Vec<Patch>, JobError> {
        let begun = Instant::now();
        let patches = || -> io::Result<Vec<Patch>> {
            let Some(epoch) = action.source_date_epoch else { return Ok(Vec::new()) };
            let before = View::whole(below).map_err(io::Error::other)?;
            let after = View::over(overlay, below).map_err(io::Error::other)?;
            let layout = read_layout(&after)?;
            let is_present = |chunk| after.is_present(chunk);
            let (before, after, mounted) = (&before, &after, &finished.mounted);
            Settle { before, after, layout: &layout, mounted, is_present: &is_present, epoch }.patches()
        };
        let patches = patches().map_err(|error| self.broken(error))?;
        tracing::debug!(stage = self.label, elapsed = ?begun.elapsed(), patches = patches.len(), "settled");
        Ok(patches)
    }
}
