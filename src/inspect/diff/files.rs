//! How files differ: what is there on each disk, and in which respects it is not the same.
//!
//! Knows entries of trees; hard links are followed, so that each name tells what its file is.

use std::collections::BTreeMap;

use serde::Serialize;

use super::text::{self, TextDiff};
use super::{DiffChange, features, plain, xattr};
use crate::disk::tree::compare::{self, aspects};
use crate::disk::tree::{EntryKind, IndexEntry, Tree};

/// A path at which two disks differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileChange {
    /// Number of the partition that its file system is on; 0 is the disk itself.
    pub partition: u32,
    /// Path in the guest; in its file system, where the report's `mounts` do not have its partition.
    pub path: String,
    /// Whether it is there at all.
    pub change: DiffChange,
    /// In which respects it differs, where both disks have it.
    pub aspects: Vec<Aspect>,
    /// What the first disk has there.
    pub before: Option<FileState>,
    /// What the second disk has there.
    pub after: Option<FileState>,
    /// How its lines differ, where it is a text.
    pub text: Option<TextDiff>,
}

/// A respect in which a file differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Aspect {
    /// What kind of file it is.
    Type,
    Content,
    /// Where a symbolic link leads.
    Target,
    /// The numbers of a device.
    Device,
    Mode,
    Owner,
    Time,
    /// What `chattr` sets.
    Attributes,
    Xattrs,
    /// Of which file it is another name.
    Links,
}

/// A file on one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileState {
    /// `file`, `directory`, `symlink`, `character device`, `block device`, `pipe` or `socket`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Size of a file in bytes.
    pub size: Option<u64>,
    /// The digest of a file's content, as tree indexes have it.
    pub content: Option<String>,
    /// Where a symbolic link leads.
    pub target: Option<String>,
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
    /// The earlier path of the same file, which this is another name of.
    pub hard_link_to: Option<String>,
    /// Permission bits, four octal digits.
    pub mode: String,
    pub uid: u32,
    pub gid: u32,
    /// Modification time: RFC 3339, UTC.
    pub time: String,
    /// What `chattr` sets, by name.
    pub attributes: Vec<String>,
    /// Extended attributes: capabilities and ACLs by name, texts in quotes, the rest in hexadecimal.
    pub xattrs: BTreeMap<String, String>,
}

impl FileChange {
    /// Whether it is a changed file that is small enough to be compared line by line.
    pub(super) fn may_be_text(&self) -> bool {
        let small = |state: &Option<FileState>| {
            state.as_ref().is_some_and(|state| {
                state.kind == "file"
                    && state.hard_link_to.is_none()
                    && state.size.is_some_and(|size| size <= text::LIMIT)
            })
        };
        self.aspects.contains(&Aspect::Content) && small(&self.before) && small(&self.after)
    }
}

impl FileState {
    /// Bytes that it takes; another name of a file takes none.
    pub fn bytes(&self) -> u64 {
        if self.hard_link_to.is_some() {
            0
        } else {
            self.size.unwrap_or(0)
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == "directory"
    }
}

/// Describes a change between the files of two trees.
pub(super) fn describe(
    before: &Tree,
    after: &Tree,
    change: &compare::TreeChange<'_>,
) -> FileChange {
    let partition = change.partition;
    let resolved = |tree, entry: Option<&'_ IndexEntry>| {
        entry.map(|entry| resolve(tree, partition, entry).clone())
    };
    let (a, b) = (
        resolved(before, change.before),
        resolved(after, change.after),
    );
    let links = [change.before, change.after].map(|entry| match entry.map(|entry| &entry.kind) {
        Some(EntryKind::HardLink { first }) => Some(plain::name(first)),
        _ => None,
    });
    let mut found = Vec::new();
    if let (Some(a), Some(b)) = (&a, &b) {
        found = list(a, b);
        if links[0] != links[1] {
            found.push(Aspect::Links);
        }
    }
    let [a_link, b_link] = links;
    FileChange {
        partition,
        path: plain::name(change.path()),
        change: DiffChange::of(change.before, change.after),
        aspects: found,
        before: a.map(|entry| state(&entry, a_link)),
        after: b.map(|entry| state(&entry, b_link)),
        text: None,
    }
}

/// The entry that tells what a file is.
fn resolve<'t>(tree: &'t Tree, partition: u32, entry: &'t IndexEntry) -> &'t IndexEntry {
    match &entry.kind {
        EntryKind::HardLink { .. } => tree
            .volume(partition)
            .and_then(|volume| volume.find(&entry.path))
            .unwrap_or(entry),
        _ => entry,
    }
}

fn list(a: &IndexEntry, b: &IndexEntry) -> Vec<Aspect> {
    let compare::Aspects {
        kind,
        content,
        mode,
        owner,
        mtime,
        flags,
        xattrs,
    } = aspects(a, b);
    let content_is = match b.kind {
        EntryKind::Symlink { .. } => Aspect::Target,
        EntryKind::Char(..) | EntryKind::Block(..) => Aspect::Device,
        _ => Aspect::Content,
    };
    let all = [
        (kind, Aspect::Type),
        (content && !kind, content_is),
        (mode, Aspect::Mode),
        (owner, Aspect::Owner),
        (mtime, Aspect::Time),
        (flags, Aspect::Attributes),
        (xattrs, Aspect::Xattrs),
    ];
    all.into_iter()
        .filter_map(|(differs, aspect)| differs.then_some(aspect))
        .collect()
}

fn state(entry: &IndexEntry, hard_link_to: Option<String>) -> FileState {
    let IndexEntry {
        path: _,
        kind,
        mode,
        uid,
        gid,
        mtime,
        flags,
        xattrs,
    } = entry;
    let mut state = FileState {
        kind: match kind {
            EntryKind::Dir => "directory",
            EntryKind::File { .. } | EntryKind::HardLink { .. } => "file",
            EntryKind::Symlink { .. } => "symlink",
            EntryKind::Char(..) => "character device",
            EntryKind::Block(..) => "block device",
            EntryKind::Fifo => "pipe",
            EntryKind::Socket => "socket",
        },
        size: None,
        content: None,
        target: None,
        device: None,
        hard_link_to,
        mode: format!("{mode:04o}"),
        uid: *uid,
        gid: *gid,
        time: time(*mtime),
        attributes: features::attributes(*flags),
        xattrs: xattrs
            .iter()
            .map(|(name, value)| (plain::name(name), xattr::value(name, value)))
            .collect(),
    };
    match kind {
        EntryKind::File { size, content } => {
            (state.size, state.content) = (Some(*size), Some(content.to_string()))
        }
        EntryKind::Symlink { target } => state.target = Some(plain::name(target)),
        EntryKind::Char(major, minor) | EntryKind::Block(major, minor) => {
            state.device = Some((*major, *minor))
        }
        EntryKind::Dir | EntryKind::HardLink { .. } | EntryKind::Fifo | EntryKind::Socket => {}
    }
    state
}

/// A time; as numbers where a calendar does not reach that far.
fn time((seconds, nanos): (i64, u32)) -> String {
    let calendar = i32::try_from(nanos).ok().and_then(|nanos| {
        if nanos > 999_999_999 {
            None
        } else {
            jiff::Timestamp::new(seconds, nanos).ok()
        }
    });
    calendar.map_or_else(
        || format!("{seconds} s, {nanos} ns"),
        |time| time.to_string(),
    )
}
