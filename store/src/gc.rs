//! The collector: deletes what no root needs, and nothing else that is kept.
//! Knows what needs what; what is kept besides the roots is the caller's knowledge.

use std::collections::HashSet;

use crate::claim::{Claim, FileContent};
use crate::crash;
use crate::digest::{ActionDigest, ClaimId, DiskDigest};
use crate::error::{ObjectKind, Result};
use crate::fs::FsTime;
use crate::lease::Lease;
use crate::refs::{Root, RootFile};
use crate::store::Store;
use crate::walk::{Object, ObjectId};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcOptions {
    /// Only say what would be deleted.
    pub dry_run: bool,
    /// What was made or used within so many seconds, by the store's own clock, is kept.
    pub min_age_secs: u64,
    /// How many of the last results of each unit of work of a checkout are kept.
    pub keep: usize,
    /// A checkout that was not used for so many seconds, by the store's own clock, keeps nothing: its root is deleted.
    pub expire_secs: u64,
}

/// How long a checkout keeps its results after it was last used, in seconds: 30 days.
pub const EXPIRE_SECS: u64 = 30 * 24 * 3600;

impl Default for GcOptions {
    fn default() -> Self {
        GcOptions {
            dry_run: false,
            min_age_secs: 0,
            keep: 1,
            expire_secs: EXPIRE_SECS,
        }
    }
}

/// What the collector did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// What was deleted: kind, name in the store, bytes.
    pub removed: Vec<(ObjectKind, String, u64)>,
    /// Bytes that this freed, with debris.
    pub freed_bytes: u64,
    /// Roots of checkouts that were not used for too long, by their names.
    pub expired: Vec<String>,
    /// Objects kept because a root needs them.
    pub kept_needed: u64,
    /// Objects kept because they are young.
    pub kept_young: u64,
    /// Files kept because their names mean nothing to this version.
    pub kept_unknown: u64,
    /// Leases of running builds: while there are any, nothing is deleted.
    pub leases: Vec<String>,
}

#[derive(Debug, Default)]
struct LiveSet {
    objects: HashSet<ObjectId>,
    disks: HashSet<DiskDigest>,
}

impl Store {
    /// Deletes what neither a root nor `keep` nor youth keeps, unless a lease other than `own` lives. Any error while the
    /// store is listed or marked ends it before anything is deleted.
    ///
    /// Of the claims `bare` only the claim itself is kept, not what it names, whatever root names it: whoever has the
    /// results that were made of it needs no more, and who does will miss it and make it again.
    pub fn gc(
        &self,
        keep: &[Root],
        bare: &[(ActionDigest, ClaimId)],
        own: Option<&Lease>,
        options: GcOptions,
    ) -> Result<GcReport> {
        // What is damaged is for a build or `verify` to move away: this only looks.
        self.without_quarantine(true)
            .collect(keep, bare, own, options)
    }

    fn collect(
        &self,
        keep: &[Root],
        bare: &[(ActionDigest, ClaimId)],
        own: Option<&Lease>,
        options: GcOptions,
    ) -> Result<GcReport> {
        let mut report = GcReport {
            leases: self.live_leases(own)?,
            ..GcReport::default()
        };
        if !report.leases.is_empty() && !options.dry_run {
            return Ok(report);
        }
        let before = self
            .fs()
            .now()?
            .secs
            .saturating_sub(i64::try_from(options.min_age_secs).unwrap_or(i64::MAX));
        let old = |modified: FsTime| modified.secs <= before;
        let objects = self.objects()?;
        let (mut marks, expired) = self.marked(keep, bare, options)?;
        report.expired = expired;
        let needed = marks.objects.clone();
        for object in objects.iter().filter(|object| !old(object.modified)) {
            self.mark_object(&mut marks, object.id)?;
        }
        tracing::debug!(
            needed = needed.len(),
            all = marks.objects.len(),
            objects = objects.len(),
            "marked"
        );

        // The way back from a name to what it needs is cut first, so that an interruption leaves no hit to nothing.
        let order = |object: &&Object| match object.id {
            ObjectId::Claim(..) => 0,
            ObjectId::Derived(_) | ObjectId::BlobSha256(_) | ObjectId::Manifest(_) => 1,
            _ => 2,
        };
        let mut doomed = Vec::new();
        for object in &objects {
            match object.id {
                ObjectId::Unknown => report.kept_unknown += 1,
                id if needed.contains(&id) => report.kept_needed += 1,
                id if marks.objects.contains(&id) => report.kept_young += 1,
                _ => doomed.push(object),
            }
        }
        doomed.sort_by_key(order);
        for object in doomed {
            if !options.dry_run {
                crash::point("gc.before-unlink");
                // A build may have begun, or used just this, since the marking.
                report.leases = self.live_leases(own)?;
                if !report.leases.is_empty() {
                    break;
                }
                let now = self.fs().stat(&object.name)?.map(|stat| {
                    use std::os::unix::fs::MetadataExt;
                    FsTime {
                        secs: stat.mtime(),
                        nanos: stat.mtime_nsec(),
                    }
                });
                if now != Some(object.modified) {
                    report.kept_young += 1;
                    continue;
                }
                if let ObjectId::Claim(action, id) = object.id {
                    self.index_remove(&action, &id);
                }
                self.fs().remove(&object.name, false)?;
            }
            report.freed_bytes += object.bytes;
            report
                .removed
                .push((object.id.kind(), object.name.clone(), object.bytes));
        }
        if !options.dry_run && report.leases.is_empty() {
            for root in &report.expired {
                self.remove_root(root)?;
            }
            report.freed_bytes += self.sweep_tmp()? + self.sweep_trash()?;
            self.remove_empty_dirs()?;
            self.flush_index()?;
        }
        Ok(report)
    }

    /// What roots need, and the names of the roots that expired.
    fn marked(
        &self,
        keep: &[Root],
        bare: &[(ActionDigest, ClaimId)],
        options: GcOptions,
    ) -> Result<(LiveSet, Vec<String>)> {
        let mut marks = LiveSet::default();
        // Marked before any root is followed, so that nothing goes further from them.
        marks.objects.extend(
            bare.iter()
                .map(|(action, claim)| ObjectId::Claim(*action, *claim)),
        );
        let (checkouts, expired) = self.checkouts(options.expire_secs)?;
        for checkout in checkouts.values() {
            checkout
                .last(options.keep)
                .try_for_each(|target| self.mark(&mut marks, &target))?;
        }
        for root in self.roots()? {
            if let Some(RootFile::Targets(targets)) = self.root_file(&root)? {
                targets
                    .iter()
                    .try_for_each(|target| self.mark(&mut marks, target))?;
            }
        }
        for target in keep {
            self.mark(&mut marks, target)?;
        }
        Ok((marks, expired))
    }

    fn remove_empty_dirs(&self) -> Result<()> {
        for top in ["claims", "disks"] {
            for prefix in self
                .fs()
                .list(top)?
                .into_iter()
                .filter(|entry| entry.is_dir)
            {
                let prefix = format!("{top}/{}", prefix.name);
                for entry in self
                    .fs()
                    .list(&prefix)?
                    .into_iter()
                    .filter(|entry| entry.is_dir)
                {
                    // One that is not empty stays.
                    self.fs()
                        .remove(&format!("{prefix}/{}", entry.name), true)?;
                }
            }
        }
        Ok(())
    }

    fn mark(&self, marks: &mut LiveSet, root: &Root) -> Result<()> {
        match root {
            Root::Claim(action, id) => self.mark_object(marks, ObjectId::Claim(*action, *id)),
            Root::Layer(layer) => self.mark_object(marks, ObjectId::Manifest(*layer)),
            Root::Blob(blob) => self.mark_object(marks, ObjectId::Blob(blob.digest)),
        }
    }

    /// Marks an object and all that it needs. What is missing or damaged needs nothing.
    fn mark_object(&self, marks: &mut LiveSet, first: ObjectId) -> Result<()> {
        let mut stack = vec![first];
        while let Some(id) = stack.pop() {
            if !marks.objects.insert(id) {
                continue;
            }
            match id {
                ObjectId::Claim(action, claim) => match self.claim(&action, &claim) {
                    Ok(claim) => self.needs_of(&claim, marks, &mut stack)?,
                    Err(error) => drop(error.into_miss()?),
                },
                ObjectId::Manifest(layer) => {
                    stack.push(ObjectId::LayerFile(layer));
                    match self.manifest(&layer) {
                        Ok(manifest) => {
                            if let Some(parent) = manifest.parent {
                                stack.push(ObjectId::Manifest(parent));
                                // Where it is missing, another representation stands in for it.
                                if self.fs().stat(&parent.manifest_name())?.is_none() {
                                    self.mark_disk(marks, &parent.disk, &mut stack)?;
                                }
                            }
                        }
                        Err(error) => drop(error.into_miss()?),
                    }
                }
                ObjectId::Blob(blob) => {
                    stack.push(ObjectId::BlobSha256(blob));
                    match self.blob_references(&blob) {
                        Ok(others) => stack.extend(others.into_iter().map(ObjectId::Blob)),
                        Err(error) => drop(error.into_miss()?),
                    }
                }
                // Young ones: what they lie beside is to be kept too.
                ObjectId::LayerFile(layer) => stack.push(ObjectId::Manifest(layer)),
                ObjectId::BlobSha256(_) | ObjectId::Derived(_) | ObjectId::Unknown => {}
            }
        }
        Ok(())
    }

    fn needs_of(
        &self,
        claim: &Claim,
        marks: &mut LiveSet,
        stack: &mut Vec<ObjectId>,
    ) -> Result<()> {
        stack.extend(claim.result.disk.map(|disk| ObjectId::Manifest(disk.layer)));
        stack.extend(claim.result.tree.map(|tree| ObjectId::Blob(tree.digest)));
        stack.extend(claim.log.map(|log| ObjectId::Blob(log.digest)));
        for file in claim.result.files.values() {
            match &file.content {
                FileContent::Blob(blob) => stack.push(ObjectId::Blob(blob.digest)),
                FileContent::Derived(derived) => {
                    stack.push(ObjectId::Derived(derived.key.digest()));
                    self.mark_disk(marks, &derived.key.disk, stack)?;
                }
            }
        }
        if let Some(disk) = &claim.result.disk
            && self.fs().stat(&disk.layer.manifest_name())?.is_none()
        {
            self.mark_disk(marks, &disk.layer.disk, stack)?;
        }
        Ok(())
    }

    /// Marks every representation of a disk.
    fn mark_disk(
        &self,
        marks: &mut LiveSet,
        disk: &DiskDigest,
        stack: &mut Vec<ObjectId>,
    ) -> Result<()> {
        if marks.disks.insert(*disk) {
            stack.extend(self.layers_of(disk)?.into_iter().map(ObjectId::Manifest));
        }
        Ok(())
    }
}

impl ObjectId {
    pub(crate) fn kind(self) -> ObjectKind {
        match self {
            ObjectId::Claim(..) => ObjectKind::Claim,
            ObjectId::Manifest(_) => ObjectKind::Manifest,
            ObjectId::LayerFile(_) => ObjectKind::Layer,
            ObjectId::Blob(_) => ObjectKind::Blob,
            ObjectId::BlobSha256(_) | ObjectId::Derived(_) => ObjectKind::BlobNote,
            ObjectId::Unknown => ObjectKind::Other,
        }
    }
}
