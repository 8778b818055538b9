//! Volatile files: paths of an image whose content says when or where a stage ran, and nothing that an image needs.
//! Knows names, not how or when they are restored.
//!
//! What belongs here differs between two equal runs and is made again, or missed by nobody, where it is empty. Left out on
//! purpose, because two equal runs write them equally: older copies of lists (`/etc/passwd-`, `/var/lib/dpkg/status-old`,
//! debconf's `*-old`), lock files, and caches that keep to `SOURCE_DATE_EPOCH` (fontconfig's, the initramfs). apt's
//! lists are left out because a later stage may want to install by them. What makes a machine itself (`/etc/machine-id`,
//! ssh's host keys) is the work of `cleanup`: programs of the image rely on it.

/// Bumped when [`BUILT_IN`] changes: part of every key.
pub const VERSION: u32 = 1;

/// Absolute paths. `*` stands for any bytes within one part of a path; a directory means all that is below it.
pub const BUILT_IN: &[&str] = &[
    // Logs of packages being installed: every line begins with a time.
    "/var/log/apt",
    "/var/log/aptitude",
    "/var/log/alternatives.log",
    "/var/log/bootstrap.log",
    "/var/log/dpkg.log",
    "/var/log/fontconfig.log",
    "/var/log/unattended-upgrades",
    // Records of who logged in, and when.
    "/var/log/btmp",
    "/var/log/faillog",
    "/var/log/lastlog",
    "/var/log/tallylog",
    "/var/log/wtmp",
    "/var/lib/wtmpdb/wtmp.db",
    "/var/lib/lastlog/lastlog2.db",
    // The journal of a systemd that a step started: times, boot ids, machine ids.
    "/var/log/journal",
    // Inode numbers and change times of libraries; ldconfig does without.
    "/var/cache/ldconfig/aux-cache",
    // Times of package lists, and addresses of memory; apt makes them when it next runs.
    "/var/cache/apt/*.bin",
    // What was being fetched when a step ended.
    "/var/cache/apt/archives/partial",
    "/var/lib/apt/lists/partial",
    // Times of manual pages; `mandb` makes it, every day where man-db's timer is on.
    "/var/cache/man/index.db",
    "/var/cache/man/*/index.db",
    // Random by nature, and of no use to two machines.
    "/var/lib/misc/random-seed",
    "/var/lib/random-seed",
    "/var/lib/systemd/random-seed",
    "/var/lib/urandom/random-seed",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::check_volatile;

    #[test]
    fn the_list_is_sorted_out() {
        let mut seen = std::collections::BTreeSet::new();
        for path in BUILT_IN {
            assert!(check_volatile(path).is_ok() && seen.insert(path), "{path}");
        }
    }
}
