//! Stamps: which layer files were hashed since the machine started, so that they need not be hashed again.
//! Knows files' identity; a stamp that is lost costs a hash, and one of another boot counts for nothing.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{ObjectKind, Result};
use crate::record::{MAGIC_LEN, decode_unchecked, encode, frame, unframe};
use crate::state::LIMIT;
use crate::store::{Store, lock};

const NAME: &str = "state/stamps";
pub(crate) const MAGIC: &[u8; MAGIC_LEN] = b"impaSTMP";

/// Which version of a file's content was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    ctime: (i64, i64),
    size: u64,
    digest: Digest,
}

/// The boot, and for each device and inode what was hashed.
type SavedStamps = (String, Vec<((u64, u64), Stamp)>);

#[derive(Debug, Default)]
pub(crate) struct Stamps {
    boot: String,
    by_inode: HashMap<(u64, u64), Stamp>,
    dirty: bool,
}

/// Names the time since the machine started; `None` where the system does not say.
pub fn boot_id() -> Option<String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a file of the kernel, of one line"
    )]
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}

impl Store {
    /// Whether a file, as it is now, was found to have this digest since the machine started.
    pub(crate) fn has_stamp(&self, stat: &Metadata, digest: &Digest) -> bool {
        let mut guard = lock(&self.inner.stamps);
        let stamps = guard.get_or_insert_with(|| self.load_stamps());
        let stamp = Stamp {
            ctime: (stat.ctime(), stat.ctime_nsec()),
            size: stat.len(),
            digest: *digest,
        };
        stamps.by_inode.get(&(stat.dev(), stat.ino())) == Some(&stamp)
    }

    /// Remembers that a file has this digest; `stat` was taken before it was hashed.
    pub(crate) fn put_stamp(&self, stat: &Metadata, digest: &Digest) {
        let mut guard = lock(&self.inner.stamps);
        let stamps = guard.get_or_insert_with(|| self.load_stamps());
        let stamp = Stamp {
            ctime: (stat.ctime(), stat.ctime_nsec()),
            size: stat.len(),
            digest: *digest,
        };
        stamps.by_inode.insert((stat.dev(), stat.ino()), stamp);
        stamps.dirty = true;
    }

    fn load_stamps(&self) -> Stamps {
        let boot = boot_id();
        // Whose files may be executed as root has no say in which of them were found sound.
        let body = match self.private_apart() {
            None => self.cache_read(NAME, MAGIC).ok().flatten(),
            Some(private) => {
                let bytes = private.read(ObjectKind::State, NAME, LIMIT).ok().flatten();
                bytes.and_then(|bytes| unframe(MAGIC, &bytes).ok().map(<[u8]>::to_vec))
            }
        };
        let saved: Option<SavedStamps> = body.and_then(|body| decode_unchecked(&body).ok());
        let by_inode = match saved {
            Some((saved_boot, list)) if Some(&saved_boot) == boot.as_ref() => {
                list.into_iter().collect()
            }
            _ => HashMap::new(),
        };
        Stamps {
            boot: boot.unwrap_or_default(),
            by_inode,
            dirty: false,
        }
    }

    pub(crate) fn flush_stamps(&self) -> Result<()> {
        let mut guard = lock(&self.inner.stamps);
        let Some(stamps) = guard
            .as_mut()
            .filter(|stamps| stamps.dirty && !stamps.boot.is_empty())
        else {
            return Ok(());
        };
        let mut list: Vec<_> = stamps
            .by_inode
            .iter()
            .map(|(inode, stamp)| (*inode, *stamp))
            .collect();
        list.sort_unstable_by_key(|(inode, _)| *inode);
        self.private()
            .replace(NAME, &frame(MAGIC, &encode(&(&stamps.boot, list))))?;
        stamps.dirty = false;
        Ok(())
    }
}
