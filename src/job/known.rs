//! What a disk contains, and earlier results of the node that contain the same.
//!
//! Knows trees, claims and the store; not how the disk was made. Where an earlier result that may be believed has the same
//! tree, its disk is the result: nothing is stored, and what builds on the node is what it was (early cutoff).

use std::io;
use std::path::Path;
use std::time::Instant;

use impasto_stages::action::{Action, Bound, Cutoff};
use impasto_store::blob::BlobRef;
use impasto_store::claim::Claim;
use impasto_store::digest::{BlobDigest, ClaimId};
use impasto_store::index::ClaimSummary;
use impasto_store::layer::DiskRef;
use impasto_store::qcow2::{ChunkSource, SourceError};
use impasto_store::seal::Absent;
use impasto_store::{Error as StoreError, Store};

use super::{Job, JobError};
use crate::graph::NodeId;
use crate::guest::View;
use crate::plan::Asked;
use crate::tree::make::{self, Below, Unread};
use crate::tree::{Tree, text};

/// A disk that the store has.
pub(super) struct Kept {
    pub(super) disk: DiskRef,
    pub(super) tree: BlobRef,
    pub(super) stored_bytes: u64,
    /// The earlier claim whose disk it is.
    pub(super) same_as: Option<ClaimId>,
}

impl Job {
    /// Keeps a disk: a whole one, or what a stage changed on the disk `from`.
    pub(super) fn keep(
        &self,
        action: &Action<Bound>,
        source: &dyn ChunkSource,
        from: Option<(NodeId, DiskRef)>,
    ) -> Result<Kept, JobError> {
        let start = Instant::now();
        let broken = |error: io::Error| self.broken(from, error);
        let missed = |error| match from {
            Some((node, _)) => Self::missed(node)(error),
            None => error.into(),
        };
        let reader = from.map(|(_, disk)| self.store.disk_reader(&disk.layer)).transpose().map_err(missed)?;
        let view = match &reader {
            Some(reader) => View::over(source, reader),
            None => View::whole(source),
        };
        let view = view.map_err(|error| broken(io::Error::other(error)))?;
        let below_view = reader.as_ref().map(|reader| View::whole(reader)).transpose();
        let below_view = below_view.map_err(|error| broken(io::Error::other(error)))?;
        // An index that is lost saves nothing, that is all.
        let below_tree = self.below.and_then(|blob| load_tree(&self.store, &blob).ok().flatten());
        let below = below_tree.as_ref().zip(below_view.as_ref()).map(|(tree, disk)| Below { tree, disk });
        let (tree, unread) = make::tree(&view, below.as_ref()).map_err(broken)?;
        self.tell_unread(&unread, below_tree.as_ref());
        let text = text::write(&tree);
        let digest = BlobDigest::of(&text);
        tracing::debug!(stage = self.label, elapsed = ?start.elapsed(), bytes = text.len(), "tree index");
        let tree = self.store.put_blob_like(text.as_slice(), self.below.map(|blob| blob.digest).as_ref())?;
        if let Some((claim, disk)) = self.equal_earlier(action, &digest)? {
            return Ok(Kept { disk, tree, stored_bytes: 0, same_as: Some(claim) });
        }
        let absent = if from.is_some() { Absent::AsParent } else { Absent::Zero };
        let parent = from.map(|(_, disk)| disk.layer);
        let previous = self.earlier().find_map(|(_, claim)| claim.result.disk).map(|disk| disk.layer);
        let sealed = self.store.seal_like(parent.as_ref(), previous.as_ref(), source, absent).map_err(missed)?;
        Ok(Kept { disk: sealed.disk, tree, stored_bytes: sealed.stored_bytes, same_as: None })
    }

    /// An earlier result with this tree, that could be taken for what was just made.
    fn equal_earlier(&self, action: &Action<Bound>, tree: &BlobDigest) -> Result<Option<(ClaimId, DiskRef)>, JobError> {
        if self.cutoff != Cutoff::Tree {
            return Ok(None);
        }
        let asked = Asked::of(action, &self.caveats);
        for (id, claim) in self.earlier() {
            let same = claim.result.tree.is_some_and(|blob| blob.digest == *tree);
            if let Some(disk) = claim.result.disk.filter(|_| same)
                && asked.objection(&ClaimSummary::of(&claim, id)).is_none()
                && self.store.has_layer(&disk.layer)?
            {
                return Ok(Some((id, disk)));
            }
        }
        Ok(None)
    }

    /// The claims of the node's earlier runs that are still there, the last run first.
    fn earlier(&self) -> impl Iterator<Item = (ClaimId, Claim)> {
        self.previous.iter().filter_map(|(action, id)| Some((*id, self.store.claim(action, id).ok()?)))
    }

    /// Tells what is compared by its bytes from here on; what already was, was told before.
    fn tell_unread(&self, unread: &[Unread], below: Option<&Tree>) {
        for Unread { place, reason } in unread {
            if below.is_none_or(|below| below.volume(place.0).is_some()) {
                let consequence = "it is compared by its bytes, so what builds on this stage runs again after it";
                self.warn(format!("the files of {place} cannot be listed: {reason}; {consequence}"));
            }
        }
    }

    /// A disk that cannot be read: its own chunks or those below.
    pub(super) fn broken(&self, from: Option<(NodeId, DiskRef)>, error: io::Error) -> JobError {
        let (kind, text) = (error.kind(), error.to_string());
        let store = error.into_inner().and_then(|inner| match *inner.downcast::<SourceError>().ok()? {
            SourceError::Stopped(inner) => Some(*inner.downcast::<StoreError>().ok()?),
            _ => None,
        });
        match (store, from) {
            (Some(error), Some((node, _))) => Self::missed(node)(error),
            (Some(error), None) => error.into(),
            (None, _) => JobError::io("read", Path::new("the disk"))(io::Error::new(kind, text)),
        }
    }
}

/// A tree out of the store; none where it is not there any more.
pub(crate) fn load_tree(store: &Store, blob: &BlobRef) -> Result<Option<Tree>, StoreError> {
    let reader = match store.open_blob(&blob.digest) {
        Ok(reader) => reader,
        Err(error) => return error.into_miss().map(|_| None),
    };
    let text =
        reader.into_bytes().map_err(|source| StoreError::Io { verb: "read", path: "a tree index".into(), source })?;
    Ok(text::parse(&text).ok())
}
