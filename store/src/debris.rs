//! What is left in `tmp/` by processes that are gone, and in `trash/`.
//! Knows whose something is by its name; what is in it matters to nobody any more.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::fs::{StoreDirEntry, StoreFs};
use crate::holder::{FOREIGN_SECS, Holder};
use crate::store::Store;

impl Store {
    /// Deletes what processes that are gone left in `tmp/`: the bytes that this freed. What belongs to a process that
    /// cannot be looked at is left until it was not written for a day.
    ///
    /// # Errors
    /// The directory cannot be read, or something in it cannot be deleted: the rest is, all the same.
    pub fn sweep_tmp(&self) -> Result<u64> {
        let (mut freed, mut first) = (0, Ok(()));
        for fs in self.all_fs() {
            for entry in entries(fs, "tmp")? {
                let alive = Holder::of_name(&entry.name).and_then(|holder| holder.is_alive());
                if alive != Some(true) {
                    match sweep(
                        fs,
                        &format!("tmp/{}", entry.name),
                        entry.is_dir,
                        alive.is_none(),
                    ) {
                        Ok(bytes) => freed += bytes,
                        Err(error) => first = first.and(Err(error)),
                    }
                }
            }
        }
        first.map(|()| freed)
    }

    /// Empties `trash/`, for as long as nobody takes a lease: a tree may lie there that is still used.
    pub(crate) fn sweep_trash(&self) -> Result<u64> {
        let mut freed = 0;
        for fs in self.all_fs() {
            for entry in entries(fs, "trash")? {
                if !self.live_leases(None)?.is_empty() {
                    return Ok(freed);
                }
                freed += sweep(fs, &format!("trash/{}", entry.name), entry.is_dir, false)?;
            }
        }
        Ok(freed)
    }

    /// The store's directory and, where root works for its owner, root's own.
    fn all_fs(&self) -> impl Iterator<Item = &Arc<StoreFs>> {
        std::iter::once(self.fs()).chain(self.private_apart())
    }
}

/// What a directory holds. What else has its name is moved out of the way.
fn entries(fs: &Arc<StoreFs>, top: &str) -> Result<Vec<StoreDirEntry>> {
    match fs.list(top) {
        Err(Error::WrongType { .. }) => fs.make_dirs(top, &mut Vec::new()).map(|()| Vec::new()),
        other => other,
    }
}

/// Deletes one thing, but not what is `foreign` and young: the bytes that this freed.
fn sweep(fs: &Arc<StoreFs>, name: &str, is_dir: bool, foreign: bool) -> Result<u64> {
    let Some(stat) = fs.stat(name)? else {
        return Ok(0);
    };
    let mut bytes = if is_dir { 0 } else { stat.len() };
    let mut newest = stat.mtime();
    if is_dir {
        fs.files_below(name, &mut |_, size, modified| {
            bytes += size;
            newest = newest.max(modified.secs);
        })?;
    }
    if foreign && fs.now()?.secs - newest < FOREIGN_SECS {
        return Ok(0);
    }
    if is_dir {
        fs.remove_tree(name)?
    } else {
        fs.remove(name, false)?
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn what_is_left_of_a_dead_process_goes_and_of_a_living_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let scratch = store.scratch().unwrap();
        std::fs::write(scratch.path().join("overlay"), "x").unwrap();
        let mine = Holder::this();
        // This process' number, but of another start, boot, and machine.
        let named = |holder: &Holder| {
            let boot: String = holder
                .boot
                .chars()
                .filter(char::is_ascii_hexdigit)
                .take(12)
                .collect();
            let (namespace, pid, started) = (holder.pid_namespace, holder.pid, holder.started);
            dir.path()
                .join(format!("tmp/{boot}-{namespace:x}-{pid:x}-{started:x}-0123"))
        };
        let dead = named(&Holder {
            started: mine.started + 1,
            ..mine.clone()
        });
        let foreign = named(&Holder {
            pid_namespace: 1,
            ..mine.clone()
        });
        let foreign_old = named(&Holder {
            pid_namespace: 2,
            ..mine
        });
        let earlier_version = dir.path().join("tmp/0123456789abcdef0123456789abcdef");
        for path in [&dead, &foreign, &foreign_old, &earlier_version] {
            std::fs::create_dir_all(path.join("sub")).unwrap();
            std::fs::write(path.join("sub/overlay"), vec![1; 5000]).unwrap();
        }
        let now = store.now().unwrap().secs as u64;
        let yesterday = UNIX_EPOCH + Duration::from_secs(now - FOREIGN_SECS as u64 - 1);
        for path in [
            foreign_old.join("sub/overlay"),
            foreign_old.join("sub"),
            foreign_old.clone(),
        ] {
            std::fs::File::open(path)
                .unwrap()
                .set_modified(yesterday)
                .unwrap();
        }
        assert_eq!(store.sweep_tmp().unwrap(), 10_000);
        assert!(!dead.exists() && !foreign_old.exists());
        assert!(scratch.path().join("overlay").exists(), "its process lives");
        assert!(
            foreign.exists() && earlier_version.exists(),
            "nobody knows, and they are young"
        );
        assert_eq!(store.sweep_tmp().unwrap(), 0);
    }
}
