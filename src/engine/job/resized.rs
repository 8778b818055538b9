//! Disks that grow: the toolbox works on an overlay over the disk that the stage began with.
//! Knows sizes and layers, not what grows on the disk.

use impasto_stages::action::{Action, Bound, RootSpec};
use impasto_store::claim::Outputs;
use impasto_store::qcow2::Qcow2;

use super::known::Start;
use super::sandboxed::root;
use super::{Job, JobError, JobOutput, StageFailure};
use crate::base::bounded;
use crate::debian::toolbox::ToolboxTask;
use crate::disk::tree::Tree;
use crate::sandbox::{ToolDisk, TrimmedOverlay};

impl Job {
    /// Grows the disk to `size` bytes, and on it the last partition, which must be `partition`, or else the root.
    pub(super) fn resized(
        &self,
        action: &Action<Bound>,
        size: u64,
        partition: Option<&RootSpec>,
    ) -> Result<JobOutput, JobError> {
        let (from, disk) = self.disk.expect("BUG: nothing to resize");
        let was = disk.virtual_size;
        if size < was {
            return Err(JobError::Stage(Box::new(self.shrinks(was, size))));
        }
        let chain = self.store.chain(&disk.layer).map_err(Self::missed(from))?;
        let scratch = self.store.scratch()?;
        let work = scratch.path().join("work");
        std::fs::create_dir(&work).map_err(JobError::io("make", &work))?;
        let overlay = scratch.path().join("overlay.qcow2");
        let epoch = action.source_date_epoch;
        let task = ToolboxTask::Resize {
            was,
            partition: root(partition.unwrap_or(&action.root)),
            epoch: epoch.expect("BUG: a resize without a time"),
        };
        let guest = ToolDisk {
            overlay: &overlay,
            chain: chain.paths(),
            virtual_size: size,
        };
        self.use_tools(action, &work, &task, Some(guest), &overlay)?;

        let reader = self
            .store
            .disk_reader(&disk.layer)
            .map_err(Self::missed(from))?;
        let below = match &self.below {
            Some(blob) => Tree::load(&self.store, blob)?,
            None => None,
        };
        let start = Start {
            disk,
            reader: &reader,
            tree: below.as_ref(),
        };
        let file = bounded::open(&overlay).map_err(JobError::io("open", &overlay))?;
        let source = Qcow2::open(file).map_err(|source| JobError::Gate {
            what: "the overlay".to_owned(),
            source: Box::new(source),
        })?;
        // Nothing was mounted, so no time is to be normalised, and nothing was deleted.
        let kept = self.keep(action, &TrimmedOverlay::new(&source, &[]), Some(start))?;
        self.phase("clean up", || drop(scratch));
        let result = Outputs {
            disk: Some(kept.disk),
            tree: Some(kept.tree),
            ..Outputs::default()
        };
        self.tools_output(action, result, kept.stored_bytes, kept.same_as)
    }

    fn shrinks(&self, was: u64, size: u64) -> StageFailure {
        let exact = |bytes: u64| match bytes {
            bytes if bytes.is_multiple_of(1 << 30) => format!("{} GiB", bytes >> 30),
            bytes if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
            bytes => format!("{bytes} bytes"),
        };
        StageFailure {
            message: format!(
                "the disk has {}, and would have {}: nothing is shrunk",
                exact(was),
                exact(size)
            ),
            help: Some(format!(
                "set `size` to at least \"{}MiB\", or make the disk smaller where it comes from",
                was.div_ceil(1 << 20)
            )),
            places: self.about.stage.iter().cloned().collect(),
            ..StageFailure::default()
        }
    }
}
