//! `state/trees/` and `state/caches/`: directories that may be lost. Trees are made of something else, and never change;
//! caches are what programs keep for themselves.
//! Under sudo they are root's, not in the user's store: what lies in them is executed.
//! Knows how they get their names; whether what is in them is sound is for those to check who made them.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::digest::Digest;
use crate::error::Result;
use crate::store::{Scratch, Store};

pub(crate) const TREES: &str = "state/trees/";

/// Where directories lie in which programs keep what they want to find again.
pub(crate) const CACHES: &str = "state/caches/";

fn name(digest: &Digest) -> String {
    format!("{TREES}{digest}")
}

impl Store {
    /// Where the directory of this name is, or would be.
    pub fn tree_path(&self, digest: &Digest) -> PathBuf {
        self.private().full(&name(digest))
    }

    /// Gives a directory this name, in the place of the one that has it: at once, so that there is one at any time. What it
    /// takes the place of goes to the trash, where those who use it still have it until the next collection.
    pub fn publish_tree(&self, scratch: Scratch, digest: &Digest) -> Result<PathBuf> {
        let name = name(digest);
        self.private().publish_dir(scratch.name(), &name)?;
        Ok(self.private().full(&name))
    }

    /// Moves directories to the trash whose names `keep` does not hold and that were made more than `min_age_secs` ago, by
    /// the store's own clock; with `dry_run` only tells. Gives their names.
    pub fn collect_trees(
        &self,
        keep: &BTreeSet<String>,
        min_age_secs: u64,
        dry_run: bool,
    ) -> Result<Vec<String>> {
        // Who is building may be about to use one.
        if !dry_run && !self.live_leases(None)?.is_empty() {
            return Ok(Vec::new());
        }
        let before = self.private().now()?.secs - min_age_secs as i64;
        let mut gone = Vec::new();
        for entry in self.private().list(TREES.trim_end_matches('/'))? {
            let name = format!("{TREES}{}", entry.name);
            let young = self
                .private()
                .stat(&name)?
                .is_none_or(|stat| stat.mtime() > before);
            if young || keep.contains(&entry.name) {
                continue;
            }
            if !dry_run {
                // A build may have begun since, and have found just this.
                if !self.live_leases(None)?.is_empty() {
                    break;
                }
                self.private().trash(&name)?;
            }
            gone.push(entry.name);
        }
        Ok(gone)
    }

    /// The path of the cache of this name, made where it is missing: a directory that programs write to as they like.
    ///
    /// # Errors
    /// The name is no plain file name, or the directory cannot be made.
    pub fn cache_dir(&self, name: &str) -> Result<PathBuf> {
        let name = crate::state::name(&["caches", name])?;
        self.private().make_dirs(&name, &mut Vec::new())?;
        Ok(self.private().full(&name))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_last_tree_counts_and_the_one_before_lies_in_the_trash() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let made = |text: &str| {
            let scratch = store.scratch().unwrap();
            fs::write(scratch.path().join("file"), text).unwrap();
            store.publish_tree(scratch, &Digest::ZERO).unwrap()
        };
        let path = made("one");
        assert_eq!(path, store.tree_path(&Digest::ZERO));
        let held = fs::File::open(path.join("file")).unwrap();
        assert_eq!(made("two"), path);
        assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "two");
        assert_eq!(std::io::read_to_string(held).unwrap(), "one");
        assert_eq!(fs::read_dir(dir.path().join("trash")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
        assert_eq!(
            store.verify(false).unwrap().findings,
            [],
            "trees have no checksum"
        );
    }

    #[test]
    fn caches_hold_what_programs_like() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let cache = store.cache_dir("modules").unwrap();
        assert_eq!(cache, store.cache_dir("modules").unwrap());
        fs::write(cache.join("file"), "anything").unwrap();
        assert_eq!(store.verify(false).unwrap().findings, []);
        for wrong in ["", "..", "a/b", ".hidden"] {
            assert!(store.cache_dir(wrong).is_err(), "{wrong}");
        }
    }
}
