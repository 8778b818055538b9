//! Tells two trees apart: what was added, removed and changed, and how.
//!
//! Knows trees, not what their files mean to people.

use std::cmp::Ordering;

use super::{Area, EntryKind, IndexEntry, Tree, Volume};

/// All differences of two trees; nothing is in it where they are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes<'a> {
    /// Sizes of the disks, where they differ.
    pub size: Option<(u64, u64)>,
    /// Whether partition table or partitions differ.
    pub table: bool,
    /// Areas that differ: by partition, or by their place.
    pub areas: Vec<(Option<&'a Area>, Option<&'a Area>)>,
    /// File systems that differ in themselves, without their files; one may be missing.
    pub volumes: Vec<(Option<&'a Volume>, Option<&'a Volume>)>,
    /// Files, by partition and path.
    pub files: Vec<TreeChange<'a>>,
}

/// A path at which two trees differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeChange<'a> {
    /// The partition of its file system.
    pub partition: u32,
    /// What is there in the first tree.
    pub before: Option<&'a IndexEntry>,
    /// What is there in the second.
    pub after: Option<&'a IndexEntry>,
}

impl TreeChange<'_> {
    pub fn path(&self) -> &[u8] {
        self.after.or(self.before).map_or(b"", |entry| &entry.path)
    }
}

impl Changes<'_> {
    /// Whether the trees are equal.
    pub fn is_empty(&self) -> bool {
        *self == Changes::default()
    }
}

pub fn compare<'a>(before: &'a Tree, after: &'a Tree) -> Changes<'a> {
    let mut changes = Changes {
        size: (before.size != after.size).then_some((before.size, after.size)),
        table: before.table != after.table || before.partitions != after.partitions,
        ..Changes::default()
    };
    merge(&before.areas, &after.areas, area_order, |before, after| {
        if before != after {
            changes.areas.push((before, after));
        }
    });
    let order = |a: &Volume, b: &Volume| a.partition.cmp(&b.partition);
    merge(&before.volumes, &after.volumes, order, |before, after| {
        if !before
            .zip(after)
            .is_some_and(|(before, after)| same_volume(before, after))
        {
            changes.volumes.push((before, after));
        }
        let partition = after.or(before).map_or(0, |volume| volume.partition);
        let entries = |volume: Option<&'a Volume>| {
            volume.map_or(&[] as &[IndexEntry], |volume| &volume.entries)
        };
        merge(
            entries(before),
            entries(after),
            |a, b| a.path.cmp(&b.path),
            |before, after| {
                if before != after {
                    changes.files.push(TreeChange {
                        partition,
                        before,
                        after,
                    });
                }
            },
        );
    });
    changes
}

fn same_volume(a: &Volume, b: &Volume) -> bool {
    let Volume {
        partition,
        kind,
        uuid,
        label,
        facts,
        entries: _,
    } = a;
    (partition, kind, uuid, label, facts) == (&b.partition, &b.kind, &b.uuid, &b.label, &b.facts)
}

fn area_order(a: &Area, b: &Area) -> Ordering {
    a.start.cmp(&b.start)
}

/// Goes through two ascending lists, pairing what is equal by `order`.
fn merge<'a, T>(
    before: &'a [T],
    after: &'a [T],
    order: impl Fn(&T, &T) -> Ordering,
    mut each: impl FnMut(Option<&'a T>, Option<&'a T>),
) {
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let which = match (before.peek(), after.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => order(a, b),
        };
        match which {
            Ordering::Less => each(before.next(), None),
            Ordering::Greater => each(None, after.next()),
            Ordering::Equal => each(before.next(), after.next()),
        }
    }
}

/// How an entry differs from another at the same path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aspects {
    /// Another type of file.
    pub kind: bool,
    /// Content, target of a link, device numbers, or the file that a hard link is a name of.
    pub content: bool,
    pub mode: bool,
    pub owner: bool,
    pub mtime: bool,
    pub flags: bool,
    pub xattrs: bool,
}

/// In what two entries differ.
pub fn aspects(before: &IndexEntry, after: &IndexEntry) -> Aspects {
    let IndexEntry {
        path: _,
        kind,
        mode,
        uid,
        gid,
        mtime,
        flags,
        xattrs,
    } = before;
    let same_kind = std::mem::discriminant(kind) == std::mem::discriminant(&after.kind);
    let linked = matches!(kind, EntryKind::HardLink { .. })
        || matches!(after.kind, EntryKind::HardLink { .. });
    // Another name of a file says nothing of its own but which file it is.
    if linked {
        return Aspects {
            kind: !same_kind,
            content: *kind != after.kind,
            ..Aspects::default()
        };
    }
    Aspects {
        kind: !same_kind,
        content: same_kind && *kind != after.kind,
        mode: *mode != after.mode,
        owner: (*uid, *gid) != (after.uid, after.gid),
        mtime: *mtime != after.mtime,
        flags: *flags != after.flags,
        xattrs: *xattrs != after.xattrs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, mode: u16) -> IndexEntry {
        let (path, kind) = (path.as_bytes().to_vec(), EntryKind::Fifo);
        IndexEntry {
            path,
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            flags: 0,
            xattrs: Vec::new(),
        }
    }

    fn tree(entries: Vec<IndexEntry>) -> Tree {
        let volume = Volume {
            partition: 2,
            kind: "ext4".to_owned(),
            uuid: String::new(),
            label: Vec::new(),
            facts: Vec::new(),
            entries,
        };
        Tree {
            volumes: vec![volume],
            ..Tree::default()
        }
    }

    #[test]
    fn added_removed_and_changed_are_told_by_path() {
        let before = tree(vec![entry("/a", 1), entry("/b", 1), entry("/d", 1)]);
        let after = tree(vec![entry("/b", 2), entry("/c", 1), entry("/d", 1)]);
        let changes = compare(&before, &after);
        let found: Vec<_> = changes
            .files
            .iter()
            .map(|change| {
                (
                    change.path(),
                    change.before.is_some(),
                    change.after.is_some(),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                (b"/a".as_slice(), true, false),
                (b"/b", true, true),
                (b"/c", false, true)
            ]
        );
        let changed = aspects(&before.volumes[0].entries[1], &after.volumes[0].entries[0]);
        assert_eq!(
            changed,
            Aspects {
                mode: true,
                ..Aspects::default()
            }
        );
        assert!(changes.volumes.is_empty() && !changes.is_empty());
        assert!(compare(&before, &before).is_empty());
    }

    #[test]
    fn a_file_system_that_is_gone_takes_its_files_with_it() {
        let (before, after) = (tree(vec![entry("/a", 1)]), Tree::default());
        let changes = compare(&before, &after);
        assert_eq!((changes.volumes.len(), changes.files.len()), (1, 1));
    }
}
