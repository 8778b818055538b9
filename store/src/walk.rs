//! All objects of the store, one by one.
//! Knows which name belongs to which kind of object; opens none.

use std::os::unix::fs::MetadataExt;

use crate::digest::{ActionDigest, BlobDigest, ClaimId, Digest};
use crate::error::Result;
use crate::fs::{FsTime, StoreFs};
use crate::layer::LayerRef;
use crate::store::Store;

/// What a file of the store is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ObjectId {
    Claim(ActionDigest, ClaimId),
    Manifest(LayerRef),
    LayerFile(LayerRef),
    Blob(BlobDigest),
    BlobSha256(BlobDigest),
    Derived(Digest),
    Unknown,
}

#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) id: ObjectId,
    /// Its name in the store.
    pub(crate) name: String,
    /// Bytes that its content takes.
    pub(crate) bytes: u64,
    pub(crate) modified: FsTime,
}

impl Store {
    /// Every file below `claims/`, `disks/` and `blobs/`, in this order, each sorted by name. Any error in listing is one.
    pub(crate) fn objects(&self) -> Result<Vec<Object>> {
        let mut objects = Vec::new();
        for top in ["claims", "disks", "blobs"] {
            self.fs().files_below(top, &mut |name, bytes, modified| {
                objects.push(Object { id: identify(&name), name, bytes, modified });
            })?;
        }
        Ok(objects)
    }
}

impl StoreFs {
    /// Every file below a directory: name, bytes, time of its last change.
    pub(crate) fn files_below(&self, top: &str, each: &mut dyn FnMut(String, u64, FsTime)) -> Result<()> {
        let mut stack = vec![(top.to_owned(), true)];
        while let Some((name, is_dir)) = stack.pop() {
            if is_dir {
                let entries = self.list(&name)?;
                stack.extend(entries.into_iter().rev().map(|entry| (format!("{name}/{}", entry.name), entry.is_dir)));
                continue;
            }
            // It may just have been deleted, or be a symbolic link, which is nothing of ours.
            match self.stat(&name) {
                Ok(Some(stat)) => {
                    each(name, stat.len(), FsTime { secs: stat.mtime(), nanos: stat.mtime_nsec() });
                }
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn identify(name: &str) -> ObjectId {
    parse(name).unwrap_or(ObjectId::Unknown)
}

fn parse(name: &str) -> Option<ObjectId> {
    let mut parts = name.split('/');
    let (top, prefix, third) = (parts.next()?, parts.next()?, parts.next()?);
    let fourth = parts.next();
    if parts.next().is_some() || !third.starts_with(prefix) || prefix.len() != 2 {
        return None;
    }
    match (top, fourth) {
        ("claims", Some(claim)) => Some(ObjectId::Claim(third.parse().ok()?, claim.parse().ok()?)),
        ("disks", Some(file)) => {
            let (layer, extension) = file.split_once('.')?;
            let layer = LayerRef { disk: third.parse().ok()?, layer: layer.parse().ok()? };
            match extension {
                "manifest" => Some(ObjectId::Manifest(layer)),
                "qcow2" => Some(ObjectId::LayerFile(layer)),
                _ => None,
            }
        }
        ("blobs", None) => match third.split_once('.') {
            None => Some(ObjectId::Blob(third.parse().ok()?)),
            Some((blob, "sha256")) => Some(ObjectId::BlobSha256(blob.parse().ok()?)),
            Some((key, "derived")) => Some(ObjectId::Derived(key.parse().ok()?)),
            Some(_) => None,
        },
        _ => None,
    }
}
