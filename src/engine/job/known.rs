//! What a disk contains, and earlier results of the node that contain the same.
//!
//! Knows trees, claims and the store; not how the disk was made. Where an earlier result that may be believed has the same
//! tree, its disk is the result: nothing is stored, and what builds on the node is what it was (early cutoff).

use std::io;
use std::path::Path;
use std::time::Instant;

use impasto_stages::action::{Action, Bound, Cutoff, Executor};
use impasto_store::Error as StoreError;
use impasto_store::blob::BlobRef;
use impasto_store::chain::DiskReader;
use impasto_store::claim::{Claim, Isolation};
use impasto_store::digest::{BlobDigest, ClaimId};
use impasto_store::disk::CHUNK;
use impasto_store::index::ClaimSummary;
use impasto_store::layer::DiskRef;
use impasto_store::meter::Meter;
use impasto_store::qcow2::{ChunkSource, Content, Qcow2, SourceError};
use impasto_store::seal::{Absent, Sealed};

use super::rebase::Rebase;
use super::{Job, JobError, StageFailure, host_failure};
use crate::base::bounded;
use crate::disk::guest::OverlayView;
use crate::disk::tree::make::{self, BaseIndex, Unread};
use crate::disk::tree::{Tree, text};
use crate::engine::plan::TrustPolicy;
use crate::sandbox::{Finished, TrimmedOverlay};

/// A disk that the store has.
pub(super) struct StoredDisk {
    pub(super) disk: DiskRef,
    pub(super) tree: BlobRef,
    pub(super) stored_bytes: u64,
    /// The earlier claim whose disk it is.
    pub(super) same_as: Option<ClaimId>,
}

/// The disk that a stage began with.
#[derive(Clone, Copy)]
pub(super) struct Start<'a> {
    pub(super) disk: DiskRef,
    pub(super) reader: &'a DiskReader,
    /// Its tree, where the store has it: what is lost saves nothing, that is all.
    pub(super) tree: Option<&'a Tree>,
}

impl Job {
    /// Keeps a disk: a whole one, or what a stage changed on the disk that it began with.
    pub(super) fn keep(
        &self,
        action: &Action<Bound>,
        source: &dyn ChunkSource,
        start: Option<Start<'_>>,
    ) -> Result<StoredDisk, JobError> {
        let begun = Instant::now();
        let base = start.map(|start| start.reader as &dyn ChunkSource);
        self.meter.begin("listing files", None);
        let counted = Counted {
            source,
            meter: &self.meter,
        };
        let view = self.view(&counted, base)?;
        let below = start.and_then(|start| start.tree);
        let (tree, unread) =
            self.phase("index the disk", || self.tree_of(&view, base.zip(below)))?;
        self.demand_undamaged(&unread, below)?;
        self.warn_unread(&unread, below);
        let text = text::write(&tree);
        let digest = BlobDigest::of(&text);
        let earlier: Vec<_> = self.earlier().collect();
        // Nearer than the disk below, of which a stage may have changed much.
        let like = earlier
            .iter()
            .find_map(|(_, claim)| claim.result.tree)
            .or(self.below);
        let is_new = !self.store.has_blob(&digest)?;
        let like = like.map(|blob| blob.digest);
        let blob = self.phase("store the index", || {
            self.store.put_blob_like(text.as_slice(), like.as_ref())
        })?;
        let index_bytes = if is_new {
            self.store.blob_length(&digest)?.unwrap_or(0)
        } else {
            0
        };
        tracing::debug!(stage = self.label, elapsed = ?begun.elapsed(), bytes = text.len(), "tree index");
        if let Some((claim, disk)) = self.equal_earlier(action, &earlier, &digest)? {
            return Ok(StoredDisk {
                disk,
                tree: blob,
                stored_bytes: index_bytes,
                same_as: Some(claim),
            });
        }
        let kept = |sealed: Sealed| {
            let stored_bytes = sealed.stored_bytes + index_bytes;
            StoredDisk {
                disk: sealed.disk,
                tree: blob,
                stored_bytes,
                same_as: None,
            }
        };
        let previous = earlier
            .iter()
            .find_map(|(_, claim)| claim.result.disk.map(|disk| (disk, claim.result.tree)));
        if self.cutoff == Cutoff::Tree
            && let (Some(start), Some((earlier, Some(earlier_tree)))) = (below, previous)
            && let Some(earlier_tree) = Tree::load(&self.store, &earlier_tree)?
        {
            let earlier_tree = &earlier_tree;
            let rebase = Rebase {
                view: &view,
                tree: &tree,
                text: &text,
                start,
                earlier,
                earlier_tree,
            };
            match self.phase("rebase onto the previous disk", || {
                self.rebase(action, &rebase)
            }) {
                Ok(Some(sealed)) => return Ok(kept(sealed)),
                Ok(None) => {}
                Err(JobError::Cancelled) => return Err(JobError::Cancelled),
                // It only saves space: the result is there as it is.
                Err(error) => {
                    tracing::debug!(stage = self.label, %error, "cannot be rebased onto the previous disk")
                }
            }
        }
        let absent = if start.is_some() {
            Absent::AsParent
        } else {
            Absent::Zero
        };
        let parent = start.map(|start| start.disk.layer);
        let previous = previous.map(|(disk, _)| disk.layer);
        let seal = || {
            self.store
                .seal_like(parent.as_ref(), previous.as_ref(), source, absent)
        };
        let sealed = self.phase("seal the layer", seal);
        Ok(kept(sealed.map_err(|error| self.missed_below(error))?))
    }

    /// A disk as bytes.
    pub(super) fn view<'v>(
        &self,
        source: &'v dyn ChunkSource,
        base: Option<&'v dyn ChunkSource>,
    ) -> Result<OverlayView<'v>, JobError> {
        let view = match base {
            Some(base) => OverlayView::over(source, base),
            None => OverlayView::whole(source),
        };
        view.map_err(|error| self.broken(io::Error::other(error)))
    }

    /// The tree of a disk, from that of the disk below it where there is one.
    pub(super) fn tree_of(
        &self,
        view: &OverlayView<'_>,
        below: Option<(&dyn ChunkSource, &Tree)>,
    ) -> Result<(Tree, Vec<Unread>), JobError> {
        let below_view = below.map(|(disk, _)| self.view(disk, None)).transpose()?;
        let below = below
            .zip(below_view.as_ref())
            .map(|((_, tree), disk)| BaseIndex { tree, disk });
        make::tree(view, below.as_ref()).map_err(|error| self.broken(error))
    }

    /// What an Action's job left in an overlay over the disk `below`, to be read: without what was deleted, and without
    /// the traces of when it ran and of having been mounted.
    pub(super) fn with_overlay<T>(
        &self,
        action: &Action<Bound>,
        (overlay, finished): (&Path, &Finished),
        below: &DiskReader,
        use_it: impl FnOnce(&dyn ChunkSource) -> Result<T, JobError>,
    ) -> Result<T, JobError> {
        let source = Qcow2::open(bounded::open(overlay).map_err(JobError::io("open", overlay))?);
        let source = source.map_err(|source| JobError::Gate {
            what: "the overlay".to_owned(),
            source: Box::new(source),
        })?;
        let patches = self.normalized(&source, finished, action, below)?;
        let source = TrimmedOverlay::new(&source, &finished.unused).patched(&patches);
        use_it(
            &source
                .skip_unchanged(below)
                .map_err(|error| self.broken(io::Error::other(error)))?,
        )
    }

    /// An earlier result with this tree, that could be taken for what was just made.
    fn equal_earlier(
        &self,
        action: &Action<Bound>,
        earlier: &[(ClaimId, Claim)],
        tree: &BlobDigest,
    ) -> Result<Option<(ClaimId, DiskRef)>, JobError> {
        if self.cutoff != Cutoff::Tree {
            return Ok(None);
        }
        let isolation = match (action.executor, &self.context.sandbox.sandbox) {
            (Executor::Sandbox(_), Ok(sandbox)) => sandbox.facts().isolation,
            _ => Isolation::Host,
        };
        let asked = TrustPolicy::of(action, &self.caveats, isolation);
        for (id, claim) in earlier {
            let same = claim.result.tree.is_some_and(|blob| blob.digest == *tree);
            if let Some(disk) = claim.result.disk.filter(|_| same)
                && asked.rejection(&ClaimSummary::of(claim, *id)).is_none()
                && self.is_whole(&disk)?
            {
                return Ok(Some((*id, disk)));
            }
        }
        Ok(None)
    }

    /// Whether a disk is there, and undamaged.
    fn is_whole(&self, disk: &DiskRef) -> Result<bool, StoreError> {
        match self.store.chain(&disk.layer) {
            Ok(_) => Ok(true),
            Err(error) => error.into_miss().map(|_| false),
        }
    }

    /// The claims of the node's earlier runs that are still there, the last run first.
    fn earlier(&self) -> impl Iterator<Item = (ClaimId, Claim)> {
        self.previous
            .iter()
            .filter_map(|(action, id)| Some((*id, self.store.claim(action, id).ok()?)))
    }

    /// A file system that could be read before the stage, and is damaged after it, is no result.
    fn demand_undamaged(&self, unread: &[Unread], below: Option<&Tree>) -> Result<(), JobError> {
        let was_read =
            |unread: &&Unread| below.is_some_and(|below| below.volume(unread.place.0).is_some());
        let Some(Unread { place, reason, .. }) =
            unread.iter().filter(|unread| unread.damaged).find(was_read)
        else {
            return Ok(());
        };
        Err(JobError::Stage(Box::new(StageFailure {
            message: format!("the file system of {place} is damaged after the steps: {reason}"),
            help: Some(
                "a step that writes directly to the disk it runs on (/dev/vda and its partitions) causes this"
                    .to_owned(),
            ),
            ..StageFailure::default()
        })))
    }

    /// Tells what is compared by its bytes from here on; what already was, was told before.
    fn warn_unread(&self, unread: &[Unread], below: Option<&Tree>) {
        for unread in unread {
            if below.is_none_or(|below| !unread.listed && below.volume(unread.place.0).is_some()) {
                let consequence =
                    "it is compared byte by byte, so stages built on this one run again after it";
                self.warn(format!("{unread}; {consequence}"));
            }
        }
    }

    /// A disk that cannot be read: its own chunks or those below.
    pub(super) fn broken(&self, error: io::Error) -> JobError {
        let (kind, text, errno) = (error.kind(), error.to_string(), host_failure(&error));
        let store =
            error
                .into_inner()
                .and_then(|inner| match *inner.downcast::<SourceError>().ok()? {
                    SourceError::Stopped(inner) => Some(*inner.downcast::<StoreError>().ok()?),
                    _ => None,
                });
        match store {
            Some(error) => self.missed_below(error),
            // What the system said counts for more than where in the disk it said so.
            None => {
                let cause = errno.map_or_else(|| io::Error::new(kind, text), io::Error::from);
                JobError::io("read", Path::new("the disk"))(cause)
            }
        }
    }

    /// The disk that the job began with being gone means that its node runs again.
    fn missed_below(&self, error: StoreError) -> JobError {
        match self.disk {
            Some((node, _)) => Self::missed(node)(error),
            None => error.into(),
        }
    }
}

/// A disk of which a meter counts what is read.
struct Counted<'a> {
    source: &'a dyn ChunkSource,
    meter: &'a Meter,
}

impl ChunkSource for Counted<'_> {
    fn virtual_size(&self) -> u64 {
        self.source.virtual_size()
    }

    fn next_present(&self, from: u64) -> Result<Option<u64>, SourceError> {
        self.source.next_present(from)
    }

    fn read_chunk(&self, index: u64, buffer: &mut [u8; CHUNK]) -> Result<Content, SourceError> {
        self.meter.add(CHUNK as u64);
        self.source.read_chunk(index, buffer)
    }
}
