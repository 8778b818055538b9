//! `state/`: small checksummed files that may be lost, such as the last claim of each node, durations, logs.
//! Knows names and damage, not what is remembered.

use std::path::PathBuf;

use crate::error::{Error, ObjectKind, Result};
use crate::record::{MAGIC_LEN, frame, unframe};
use crate::store::Store;

const MAGIC: &[u8; MAGIC_LEN] = b"impaSTAT";
/// Largest state file, in bytes.
pub(crate) const LIMIT: u64 = 1 << 30;

/// Where files without checksums lie.
pub(crate) const LOGS: &str = "state/logs/";

/// The name of a state file from its components, each of which must be a plain file name.
pub(crate) fn name(components: &[&str]) -> Result<String> {
    let mut name = "state".to_owned();
    for component in components {
        let plain = !component.is_empty()
            && component.len() <= 200
            && !component.starts_with('.')
            && !component.contains(['/', '\0']);
        if !plain {
            return Err(Error::BadName {
                name: (*component).to_owned(),
            });
        }
        name.push('/');
        name.push_str(component);
    }
    Ok(name)
}

impl Store {
    /// What was last written under this name; `None` where there is nothing, or it was damaged.
    pub fn state_read(&self, components: &[&str]) -> Result<Option<Vec<u8>>> {
        self.cache_read(&name(components)?, MAGIC)
    }

    /// What was last written under this name, which stays where it is where it is damaged: `None` where there is nothing,
    /// and within why it cannot be read.
    pub fn state_look(
        &self,
        components: &[&str],
    ) -> Result<Option<std::result::Result<Vec<u8>, String>>> {
        let name = name(components)?;
        match self.fs().read(ObjectKind::State, &name, LIMIT) {
            Ok(bytes) => Ok(bytes.map(|bytes| {
                unframe(MAGIC, &bytes)
                    .map(<[u8]>::to_vec)
                    .map_err(|e| e.to_string())
            })),
            Err(Error::TooLarge { .. }) => Ok(Some(Err("it is too large".to_owned()))),
            Err(error) => Err(error),
        }
    }

    /// Remembers bytes under a name. They replace what was there at once, but a crash may lose them.
    pub fn state_write(&self, components: &[&str], bytes: &[u8]) -> Result<()> {
        self.fs().replace(&name(components)?, &frame(MAGIC, bytes))
    }

    /// Forgets what stands under a name.
    pub fn state_remove(&self, components: &[&str]) -> Result<()> {
        self.fs().remove(&name(components)?, false)
    }

    /// The names below a name, sorted.
    pub fn state_list(&self, components: &[&str]) -> Result<Vec<String>> {
        let entries = self.entries(&name(components)?)?;
        Ok(entries.into_iter().map(|entry| entry.name).collect())
    }

    /// The path of a directory below `state/logs/`, made where it is missing: for logs, which are written as they come
    /// and have no checksum.
    pub fn log_dir(&self, components: &[&str]) -> Result<PathBuf> {
        let name = name(&[&["logs"], components].concat())?;
        self.fs().make_dirs(&name, &mut Vec::new())?;
        Ok(self.fs().full(&name))
    }

    /// The path of a directory like [`Store::log_dir`]'s for what is given to other programs later on.
    pub fn private_dir(&self, components: &[&str]) -> Result<PathBuf> {
        let name = name(&[&["logs"], components].concat())?;
        self.private().make_dirs(&name, &mut Vec::new())?;
        Ok(self.private().full(&name))
    }

    /// Says what is wrong with a state file of any sort.
    pub(crate) fn check_state(&self, name: &str) -> Result<Result<(), String>> {
        let bytes = match self.read_object(ObjectKind::State, name, LIMIT) {
            Err(Error::Miss(miss)) if miss.is_damage() => return Ok(Err(miss.reason.to_string())),
            Err(Error::Miss(_)) => return Ok(Ok(())),
            other => other?,
        };
        let magic = match name {
            "state/index" => crate::index::MAGIC,
            "state/inputs" => crate::inputs::MAGIC,
            "state/stamps" => crate::stamp::MAGIC,
            _ => MAGIC,
        };
        let Err(error) = unframe(magic, &bytes) else {
            return Ok(Ok(()));
        };
        self.damaged(ObjectKind::State, name, error);
        // It is not synced, and this is what a power cut leaves of such a file: lost, as may be, and not damaged.
        let lost = bytes.iter().all(|byte| *byte == 0);
        Ok(if lost { Ok(()) } else { Err(error.to_string()) })
    }

    /// The body of a checksummed cache; a damaged one is moved away and counts as none.
    pub(crate) fn cache_read(
        &self,
        name: &str,
        magic: &[u8; MAGIC_LEN],
    ) -> Result<Option<Vec<u8>>> {
        let mut bytes = match self.read_object(ObjectKind::State, name, LIMIT) {
            Ok(bytes) => bytes,
            Err(error) => return error.into_miss().map(|_| None),
        };
        match unframe(magic, &bytes) {
            Ok(body) => {
                let length = body.len();
                bytes.copy_within(MAGIC_LEN + 8..MAGIC_LEN + 8 + length, 0);
                bytes.truncate(length);
                Ok(Some(bytes))
            }
            Err(error) => {
                self.damaged(ObjectKind::State, name, error);
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_comes_back_until_it_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let at = ["recipe", "durations"];
        assert_eq!(store.state_read(&at).unwrap(), None);
        store.state_write(&at, b"one").unwrap();
        store.state_write(&at, b"two").unwrap();
        assert_eq!(store.state_read(&at).unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(store.state_list(&["recipe"]).unwrap(), ["durations"]);
        let path = dir.path().join("state/recipe/durations");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[17] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(store.state_read(&at).unwrap(), None);
        assert!(!path.exists(), "it lies in the trash");
    }

    #[test]
    fn what_a_power_cut_leaves_of_a_file_is_not_damage() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let path = dir.path().join("state/x");
        for (left, is_damage) in [(&[][..], false), (&[0; 100], false), (&[0, 1], true)] {
            store.state_write(&["x"], b"y").unwrap();
            std::fs::write(&path, left).unwrap();
            assert_eq!(
                store.check_state("state/x").unwrap().is_err(),
                is_damage,
                "{left:?}"
            );
            assert!(!path.exists(), "{left:?}");
        }
    }

    #[test]
    fn names_cannot_leave_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for bad in ["..", ".", "", "a/b", "a\0", ".hidden"] {
            assert!(
                matches!(store.state_write(&[bad], b""), Err(Error::BadName { .. })),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("state")).unwrap();
        store.state_write(&["x"], b"y").unwrap();
        assert_eq!(
            store.state_read(&["x"]).unwrap().as_deref(),
            Some(&b"y"[..]),
            "the link is in the trash"
        );
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
