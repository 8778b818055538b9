//! All objects of the store, one by one.
//! Knows which name belongs to which kind of object; opens none.

use std::os::unix::fs::MetadataExt;

use crate::digest::{ActionDigest, BlobDigest, ClaimId, Digest};
use crate::error::{Error, ObjectKind, Result};
use crate::fs::{ExpectedType, FsTime, StoreFs};
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

#[derive(Debug)]
pub(crate) struct Object {
    /// Unknown where what has an object's name is not a regular file.
    pub(crate) id: ObjectId,
    /// What is wrong with it, as far as that is known without opening it.
    pub(crate) wrong: Option<(ObjectKind, Error)>,
    /// Its name in the store.
    pub(crate) name: String,
    /// Bytes that its content takes.
    pub(crate) bytes: u64,
    pub(crate) modified: FsTime,
}

impl Store {
    /// Every file below `claims/`, `disks/` and `blobs/`, in this order, each sorted by name. Any error in listing is one, as
    /// is something else in the place of a directory.
    pub(crate) fn objects(&self) -> Result<Vec<Object>> {
        self.readable_objects(&mut |_, error| Err(error))
    }

    /// Like [`Store::objects`], but goes on after an error in listing, where `failed`, which is given the name, lets it.
    pub(crate) fn readable_objects(
        &self,
        failed: &mut dyn FnMut(&str, Error) -> Result<()>,
    ) -> Result<Vec<Object>> {
        let mut objects = Vec::new();
        let mut stack: Vec<_> = ["blobs", "disks", "claims"].map(str::to_owned).into();
        while let Some(name) = stack.pop() {
            // It may just have been deleted.
            let stat = match self.fs().stat(&name) {
                Ok(Some(stat)) => stat,
                Ok(None) => continue,
                Err(error) => {
                    failed(&name, error)?;
                    continue;
                }
            };
            let id = identify(&name);
            if id == ObjectId::Unknown && (stat.is_dir() || is_directory(&name)) {
                match self.fs().list(&name) {
                    Ok(entries) => stack.extend(
                        entries
                            .into_iter()
                            .rev()
                            .map(|entry| format!("{name}/{}", entry.name)),
                    ),
                    Err(error) => failed(&name, error)?,
                }
                continue;
            }
            let wrong = match id {
                ObjectId::Unknown => None,
                id => self
                    .fs()
                    .wrong_type(&name, &stat, ExpectedType::File)
                    .map(|error| (id.kind(), error)),
            };
            let id = if wrong.is_some() {
                ObjectId::Unknown
            } else {
                id
            };
            let modified = FsTime {
                secs: stat.mtime(),
                nanos: stat.mtime_nsec(),
            };
            objects.push(Object {
                id,
                wrong,
                name,
                bytes: stat.len(),
                modified,
            });
        }
        Ok(objects)
    }
}

impl StoreFs {
    /// Every file below a directory: name, bytes, time of its last change.
    pub(crate) fn files_below(
        &self,
        top: &str,
        each: &mut dyn FnMut(String, u64, FsTime),
    ) -> Result<()> {
        let mut stack = vec![(top.to_owned(), true)];
        while let Some((name, is_dir)) = stack.pop() {
            if is_dir {
                let entries = self.list(&name)?;
                stack.extend(
                    entries
                        .into_iter()
                        .rev()
                        .map(|entry| (format!("{name}/{}", entry.name), entry.is_dir)),
                );
                continue;
            }
            // It may just have been deleted, or be a symbolic link, which is nothing of ours.
            match self.stat(&name) {
                Ok(Some(stat)) => {
                    each(
                        name,
                        stat.len(),
                        FsTime {
                            secs: stat.mtime(),
                            nanos: stat.mtime_nsec(),
                        },
                    );
                }
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether a directory of the store has this name.
fn is_directory(name: &str) -> bool {
    let parts: Vec<_> = name.split('/').collect();
    let prefix = |part: &str| {
        part.len() == 2
            && part
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    match parts[..] {
        ["claims" | "disks" | "blobs"] => true,
        ["claims" | "disks" | "blobs", ab] => prefix(ab),
        ["claims" | "disks", ab, digest] => {
            prefix(ab) && digest.starts_with(ab) && digest.parse::<Digest>().is_ok()
        }
        _ => false,
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
            let layer = LayerRef {
                disk: third.parse().ok()?,
                layer: layer.parse().ok()?,
            };
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
