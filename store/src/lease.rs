//! Leases: while a build holds one, nothing that it may have found is collected.
//! Knows processes and boots; a lease is no lock, and no build waits for one.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use crate::error::{Error, ObjectKind, Result};
use crate::fs::{StoreFs, random_name};
use crate::holder::{FOREIGN_SECS, Holder};
use crate::record::{MAGIC_LEN, decode, encode, frame, unframe};
use crate::store::Store;

const MAGIC: &[u8; MAGIC_LEN] = b"impaLSE1";
/// A lease of this process; given up when dropped.
#[derive(Debug)]
pub struct Lease {
    fs: Arc<StoreFs>,
    name: String,
}

impl Lease {
    /// Says that the holder still lives, for readers that cannot look at its process: to be called every few hours.
    pub fn renew(&self) {
        self.fs.freshen(&self.name);
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // One that stays is seen to be dead by its process, or after a day.
        let _ = self.fs.remove(&self.name, false);
    }
}

impl Store {
    /// Takes a lease, and deletes those of the dead. What was looked up before must be looked up again, as it may just
    /// have been collected.
    pub fn lease(&self) -> Result<Lease> {
        self.live_leases(None)?;
        let name = format!("leases/{}", random_name());
        let mut temp = self.fs().temp()?;
        temp.write_all(&frame(MAGIC, &encode(&Holder::this())))?;
        self.fs().publish(&[(&temp, &name)])?;
        Ok(Lease {
            fs: self.fs().clone(),
            name,
        })
    }

    /// The names of leases that live, but for `own`; the dead ones are deleted on the way. Any error in reading is one.
    pub(crate) fn live_leases(&self, own: Option<&Lease>) -> Result<Vec<String>> {
        let mut live = Vec::new();
        for entry in self.fs().list("leases")? {
            let name = format!("leases/{}", entry.name);
            if own.is_some_and(|own| own.name() == name) {
                continue;
            }
            // Gone between the two calls: given up.
            let bytes = match self.fs().read(ObjectKind::Other, &name, 1 << 16) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => continue,
                Err(Error::TooLarge { .. } | Error::WrongType { .. }) => Vec::new(),
                Err(error) => return Err(error),
            };
            let holder = unframe(MAGIC, &bytes).and_then(decode::<Holder>).ok();
            let alive = match holder.as_ref().and_then(Holder::is_alive) {
                Some(alive) => alive,
                // Of another boot or container, or damaged: nobody knows, so it counts for a day.
                None => match self.fs().stat(&name)? {
                    Some(stat) => self.fs().now()?.secs - stat.mtime() < FOREIGN_SECS,
                    None => false,
                },
            };
            match (alive, &holder) {
                (true, _) => live.push(name),
                (false, Some(_)) => self.fs().remove(&name, false)?,
                // It may be a directory.
                (false, None) => self.fs().trash(&name)?,
            }
        }
        Ok(live)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(store: &Store, holder: &Holder) -> String {
        let name = format!("leases/{}", random_name());
        let mut temp = store.fs().temp().unwrap();
        temp.write_all(&frame(MAGIC, &encode(holder))).unwrap();
        store.fs().publish(&[(&temp, &name)]).unwrap();
        name
    }

    #[test]
    fn a_lease_lives_as_long_as_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let lease = store.lease().unwrap();
        assert_eq!(store.live_leases(None).unwrap(), [lease.name()]);
        assert!(
            store.live_leases(Some(&lease)).unwrap().is_empty(),
            "one's own does not count"
        );
        drop(lease);
        assert!(store.live_leases(None).unwrap().is_empty());
    }

    #[test]
    fn a_dead_holder_is_seen_and_an_unknown_one_counts_for_a_day() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let me = Holder::this();
        let used_again = put(
            &store,
            &Holder {
                started: me.started + 1,
                ..me.clone()
            },
        );
        let other_boot = put(
            &store,
            &Holder {
                boot: "another".to_owned(),
                ..me.clone()
            },
        );
        let other_container = put(
            &store,
            &Holder {
                pid_namespace: 1,
                pid: 4_000_000,
                ..me
            },
        );
        let mut expected = vec![other_boot.clone(), other_container];
        expected.sort();
        assert_eq!(store.live_leases(None).unwrap(), expected);
        assert!(
            store.fs().stat(&used_again).unwrap().is_none(),
            "the dead one is gone"
        );
        let file = std::fs::File::open(dir.path().join(&other_boot)).unwrap();
        let now = store.now().unwrap().secs as u64;
        let yesterday =
            std::time::UNIX_EPOCH + std::time::Duration::from_secs(now - FOREIGN_SECS as u64 - 1);
        file.set_modified(yesterday).unwrap();
        expected.retain(|name| *name != other_boot);
        assert_eq!(store.live_leases(None).unwrap(), expected);
    }

    #[test]
    fn a_renewed_lease_counts_for_another_day() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let lease = store.lease().unwrap();
        let file = std::fs::File::open(dir.path().join(lease.name())).unwrap();
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
        file.set_modified(old).unwrap();
        lease.renew();
        assert!(store.fs().stat(lease.name()).unwrap().unwrap().mtime() > 1_000_000_000);
    }
}
