//! Lays a new result onto the node's previous disk: file systems place files again each time, so two results that differ in
//! one package differ in most of their chunks. The previous disk, brought to the new tree, differs in a few.
//!
//! Knows trees and what the agent can change; what comes out counts only where its tree is the very same.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Write};

use impasto_stages::action::{Action, Bound};
use impasto_store::layer::DiskRef;
use impasto_store::qcow2::CHUNK;
use impasto_store::seal::{Absent, Sealed};
use serde_bytes::ByteBuf;

use super::sandboxed::root;
use super::{Job, JobError, create};
use crate::disk::guest::ext4::{Ext4, Extent, InodeContent, Paths, ReadError};
use crate::disk::guest::{self, OverlayView, ReadAt, Window};
use crate::disk::tree::compare::{Changes, TreeChange, aspects, compare};
use crate::disk::tree::{EntryKind, IndexEntry, Tree, Volume};
use crate::sandbox::protocol::{self, Change, PatchNode, Put};
use crate::sandbox::{self, AgentStep, Outcome};

/// A stage that changed fewer bytes than this costs little as it is.
const WORTH: u64 = 4 << 20;
/// Largest patch, in bytes: the sandbox holds it in memory.
const LARGEST: u64 = 256 << 20;

/// A new result, and the earlier one to lay it onto.
pub(super) struct Rebase<'a> {
    pub(super) view: &'a OverlayView<'a>,
    pub(super) tree: &'a Tree,
    pub(super) text: &'a [u8],
    /// The tree that the stage began with.
    pub(super) start: &'a Tree,
    pub(super) earlier: DiskRef,
    pub(super) earlier_tree: &'a Tree,
}

impl Job {
    /// Tries it; none where it is not possible, or not worth it.
    pub(super) fn rebase(
        &self,
        action: &Action<Bound>,
        rebase: &Rebase<'_>,
    ) -> Result<Option<Sealed>, JobError> {
        let Ok(sandbox) = &self.context.sandbox.sandbox else {
            return Ok(None);
        };
        let as_it_is = changed_bytes(&compare(rebase.start, rebase.tree));
        let changes = compare(rebase.earlier_tree, rebase.tree);
        let only_files = changes.size.is_none()
            && !changes.table
            && changes.areas.is_empty()
            && changes.volumes.is_empty();
        // What is brought over is read, sent and written once more: it should be worth it.
        if !only_files || as_it_is < WORTH || changed_bytes(&changes) > (as_it_is / 2).min(LARGEST)
        {
            return Ok(None);
        }
        let scratch = self.store.scratch()?;
        let (mut steps, mut inputs, mut bytes) = (Vec::new(), Vec::new(), 0);
        for files in changes.files.chunk_by(|a, b| a.partition == b.partition) {
            let partition = files[0].partition;
            let name = format!("changes-{partition}");
            let path = scratch.path().join(&name);
            match write_changes(create(&path)?, rebase, files) {
                Ok(Some(written)) => bytes += written,
                Ok(None) => return Ok(None),
                Err(error) => {
                    tracing::debug!(stage = self.label, %error, "cannot be rebased onto the previous disk");
                    return Ok(None);
                }
            }
            steps.push(AgentStep::Patch {
                input: name.clone(),
                partition,
            });
            inputs.push((name, path));
        }
        let Ok(chain) = self.store.chain(&rebase.earlier.layer) else {
            return Ok(None);
        };
        let work = scratch.path().join("sandbox");
        std::fs::create_dir(&work).map_err(JobError::io("make", &work))?;
        let overlay = scratch.path().join("overlay.qcow2");
        let inputs = inputs.iter().map(|(name, path)| sandbox::SandboxInput {
            name: name.clone(),
            mode: 0o600,
            path,
        });
        let job = sandbox::SandboxJob {
            work: &work,
            overlay: &overlay,
            chain: chain.paths(),
            virtual_size: rebase.earlier.virtual_size,
            root: root(&action.root),
            steps,
            inputs: inputs.collect(),
            environment: self.context.sandbox.environment.clone(),
            limits: action.hints.limits,
            timeout: action.hints.timeout,
            cancel: self.context.cancel.clone(),
            ..sandbox::SandboxJob::empty()
        };
        let finished = sandbox.run(job, &mut |_| {})?;
        if matches!(finished.outcome, Outcome::Cancelled) {
            return Err(JobError::Cancelled);
        }
        if !finished.outcome.is_ok() {
            tracing::debug!(stage = self.label, outcome = ?finished.outcome, "cannot be rebased onto the previous disk");
            return Ok(None);
        }
        let reader = match self.store.disk_reader(&rebase.earlier.layer) {
            Ok(reader) => reader,
            Err(error) => return Ok(error.into_miss().map(|_| None)?),
        };
        self.with_overlay(action, (&overlay, &finished), &reader, |source| {
            let view = self.view(source, Some(&reader))?;
            let (tree, _) = self.tree_of(&view, Some((&reader, rebase.earlier_tree)))?;
            if crate::disk::tree::text::write(&tree) != rebase.text {
                tracing::debug!(
                    stage = self.label,
                    "rebasing onto the previous disk gave a different tree"
                );
                return Ok(None);
            }
            let sealed = self
                .store
                .seal(Some(&rebase.earlier.layer), source, Absent::AsParent)?;
            tracing::debug!(
                stage = self.label,
                bytes,
                stored = sealed.stored_bytes,
                "rebased onto the previous disk"
            );
            Ok(Some(sealed))
        })
    }
}

/// Writes what brings a file system of the earlier disk to the new one; the bytes of content that takes. None where that
/// cannot be said.
fn write_changes(
    file: File,
    rebase: &Rebase<'_>,
    changes: &[TreeChange<'_>],
) -> Result<Option<u64>, ReadError> {
    let partition = changes[0].partition;
    let (Some(old), Some(new)) = (
        rebase.earlier_tree.volume(partition),
        rebase.tree.volume(partition),
    ) else {
        return Ok(None);
    };
    let layout = guest::read_layout(rebase.view).map_err(ReadError::Io)?;
    let Some((_, start, _)) = layout
        .file_systems()
        .find(|(number, ..)| *number == partition)
    else {
        return Ok(None);
    };
    let window = Window::new(rebase.view, start, rebase.view.size().saturating_sub(start));
    let fs = Ext4::open(&window)?;
    let plan = RebasePlan::new(old, new, changes);
    if plan.puts.values().any(|(entry, _)| !can_be_made(entry)) {
        return Ok(None);
    }
    let mut out = BufWriter::new(file);
    let mut paths = Paths::new(&fs);
    let mut sum = 0;
    for change in changes.iter().rev().filter(|change| change.after.is_none()) {
        send(
            &mut out,
            &Change::Remove {
                path: ByteBuf::from(change.path()),
            },
        )?;
    }
    for (path, (entry, how)) in &plan.puts {
        let mut extents = Vec::new();
        let node = match &entry.kind {
            _ if *how == Placement::Kept => PatchNode::Kept,
            EntryKind::Dir => PatchNode::Dir,
            EntryKind::File { size, .. } => {
                let mut inline = Vec::new();
                let missing = || ReadError::Io(io::ErrorKind::NotFound.into());
                let runs = match fs.content(&fs.inode(paths.find(path)?.ok_or_else(missing)?)?)? {
                    InodeContent::Inline(bytes) => {
                        inline = bytes;
                        vec![(0, inline.len() as u64)]
                    }
                    InodeContent::Extents(found) => {
                        extents = found;
                        extents
                            .iter()
                            .map(|extent| (extent.offset, extent.length))
                            .collect()
                    }
                };
                // Holes, and blocks that were set aside and never written, are not the same: who mounts a swap file knows.
                let held = runs.iter().map(|run| run.1).sum::<u64>();
                if held < *size {
                    return Ok(None);
                }
                sum += held;
                // Names of one file may bring more with them than changed.
                if sum > LARGEST {
                    return Ok(None);
                }
                let node = PatchNode::File {
                    size: *size,
                    runs,
                    fresh: *how == Placement::Fresh,
                };
                send(&mut out, &Change::Put(put(entry, node)))?;
                out.write_all(&inline).map_err(ReadError::Io)?;
                copy_extents(&window, &extents, &mut out).map_err(ReadError::Io)?;
                continue;
            }
            EntryKind::Symlink { target } => PatchNode::Symlink {
                target: ByteBuf::from(target.clone()),
            },
            EntryKind::HardLink { first } => PatchNode::HardLink {
                first: ByteBuf::from(first.clone()),
            },
            EntryKind::Char(major, minor) => PatchNode::Char(*major, *minor),
            EntryKind::Block(major, minor) => PatchNode::Block(*major, *minor),
            EntryKind::Fifo => PatchNode::Fifo,
            EntryKind::Socket => PatchNode::Socket,
        };
        send(&mut out, &Change::Put(put(entry, node)))?;
    }
    out.flush().map_err(ReadError::Io)?;
    Ok(Some(sum))
}

/// Writes what lies in a file's extents, one after the other.
fn copy_extents(disk: &dyn ReadAt, extents: &[Extent], out: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    for extent in extents {
        for at in (0..extent.length).step_by(CHUNK) {
            let part = &mut buffer[..(extent.length - at).min(CHUNK as u64) as usize];
            disk.read_exact_at(part, extent.start + at)?;
            out.write_all(part)?;
        }
    }
    Ok(())
}

/// Bytes of the files that are new or have another content.
fn changed_bytes(changes: &Changes<'_>) -> u64 {
    let size = |change: &TreeChange<'_>| match (
        change.before.map(|entry| &entry.kind),
        change.after.map(|entry| &entry.kind),
    ) {
        (before, after) if before == after => 0,
        (_, Some(EntryKind::File { size, .. })) => *size,
        _ => 0,
    };
    changes.files.iter().map(size).sum()
}

fn send(out: &mut impl Write, change: &Change) -> Result<(), ReadError> {
    protocol::write(out, change).map_err(ReadError::Io)
}

fn put(entry: &IndexEntry, node: PatchNode) -> Put {
    let IndexEntry {
        path,
        kind: _,
        mode,
        uid,
        gid,
        mtime,
        flags: _,
        xattrs,
    } = entry;
    let xattrs = xattrs
        .iter()
        .map(|(name, value)| (ByteBuf::from(name.clone()), ByteBuf::from(value.clone())));
    let path = ByteBuf::from(path.clone());
    Put {
        path,
        node,
        mode: (*mode).into(),
        uid: *uid,
        gid: *gid,
        mtime: *mtime,
        xattrs: xattrs.collect(),
    }
}

/// ACLs have another form on the disk than in system calls, projects a call of their own, and attributes such as
/// immutable stand in the way.
fn can_be_made(entry: &IndexEntry) -> bool {
    let settable = |name: &[u8]| name.contains(&b'.') && !name.starts_with(b"system.");
    entry.flags == 0 && entry.xattrs.iter().all(|(name, _)| settable(name))
}

/// How something is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placement {
    /// Its content is there.
    Kept,
    /// Over what is there.
    Over,
    /// In place of what is there, which has other names, or is to have them.
    Fresh,
}

/// What is to be put, by path.
struct RebasePlan<'a> {
    puts: BTreeMap<&'a [u8], (&'a IndexEntry, Placement)>,
}

impl<'a> RebasePlan<'a> {
    fn new(old: &'a Volume, new: &'a Volume, changes: &[TreeChange<'a>]) -> Self {
        let changed: HashSet<&[u8]> = changes
            .iter()
            .filter_map(|change| change.after.or(change.before))
            .map(|entry| entry.path.as_slice())
            .collect();
        // Names of one file go together: where one of them changes, all are made again.
        let mut linked: HashSet<&[u8]> = HashSet::new();
        let groups: Vec<_> = [old, new].into_iter().flat_map(groups).collect();
        loop {
            let before = linked.len();
            for group in &groups {
                if group
                    .iter()
                    .any(|path| changed.contains(path) || linked.contains(path))
                {
                    linked.extend(group);
                }
            }
            if linked.len() == before {
                break;
            }
        }
        let mut puts = BTreeMap::new();
        for change in changes {
            if let Some(after) = change.after {
                let same = change.before.is_some_and(|before| {
                    let aspects = aspects(before, after);
                    !aspects.kind
                        && !aspects.content
                        && !matches!(after.kind, EntryKind::Dir | EntryKind::HardLink { .. })
                });
                puts.insert(
                    after.path.as_slice(),
                    (
                        after,
                        if same {
                            Placement::Kept
                        } else {
                            Placement::Over
                        },
                    ),
                );
            }
        }
        for entry in &new.entries {
            if linked.contains(entry.path.as_slice()) {
                puts.insert(&entry.path, (entry, Placement::Fresh));
            }
        }
        // The directories whose times what is done in them changes.
        let touched = puts.keys().copied().chain(changed.iter().copied());
        let parents: HashSet<&[u8]> = touched.filter_map(parent).collect();
        for entry in new
            .entries
            .iter()
            .filter(|entry| entry.kind == EntryKind::Dir && parents.contains(entry.path.as_slice()))
        {
            puts.entry(&entry.path).or_insert((entry, Placement::Over));
        }
        RebasePlan { puts }
    }
}

/// The paths of each file that has several.
fn groups(volume: &Volume) -> Vec<Vec<&[u8]>> {
    let mut groups: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
    for entry in &volume.entries {
        if let EntryKind::HardLink { first } = &entry.kind {
            groups
                .entry(first)
                .or_insert_with(|| vec![first])
                .push(&entry.path);
        }
    }
    groups.into_values().collect()
}

fn parent(path: &[u8]) -> Option<&[u8]> {
    let at = path.iter().rposition(|&byte| byte == b'/')?;
    match at {
        0 if path.len() == 1 => None,
        0 => Some(b"/"),
        at => Some(&path[..at]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: EntryKind, mode: u16) -> IndexEntry {
        IndexEntry {
            path: path.into(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            flags: 0,
            xattrs: Vec::new(),
        }
    }

    fn file(path: &str, byte: u8) -> IndexEntry {
        let content = impasto_store::digest::Digest::from_bytes([byte; 32]);
        entry(path, EntryKind::File { size: 1, content }, 0o644)
    }

    fn link(path: &str, first: &str) -> IndexEntry {
        entry(
            path,
            EntryKind::HardLink {
                first: first.into(),
            },
            0,
        )
    }

    fn tree(mut entries: Vec<IndexEntry>) -> Tree {
        entries.extend([
            entry("/", EntryKind::Dir, 0o755),
            entry("/d", EntryKind::Dir, 0o755),
        ]);
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let (kind, uuid, label) = ("ext4".to_owned(), String::new(), Vec::new());
        Tree {
            volumes: vec![Volume {
                partition: 1,
                kind,
                uuid,
                label,
                facts: Vec::new(),
                entries,
            }],
            ..Tree::default()
        }
    }

    fn plan(old: &Tree, new: &Tree) -> Vec<(String, Placement)> {
        let changes = compare(old, new);
        let plan = RebasePlan::new(&old.volumes[0], &new.volumes[0], &changes.files);
        plan.puts
            .iter()
            .map(|(path, (_, how))| (String::from_utf8_lossy(path).into_owned(), *how))
            .collect()
    }

    fn puts(list: &[(&str, Placement)]) -> Vec<(String, Placement)> {
        list.iter()
            .map(|(path, how)| ((*path).to_owned(), *how))
            .collect()
    }

    #[test]
    fn what_changes_is_put_and_its_directory_gets_its_time_back() {
        let old = tree(vec![file("/d/a", 1), file("/d/b", 1), file("/e", 1)]);
        let mut new = tree(vec![file("/d/a", 2), file("/d/b", 1), file("/e", 1)]);
        assert_eq!(
            plan(&old, &new),
            puts(&[("/d", Placement::Over), ("/d/a", Placement::Over)])
        );
        new.volumes[0]
            .entries
            .iter_mut()
            .find(|entry| entry.path == b"/e")
            .unwrap()
            .mode = 0o600;
        let wanted = [
            ("/", Placement::Over),
            ("/d", Placement::Over),
            ("/d/a", Placement::Over),
            ("/e", Placement::Kept),
        ];
        assert_eq!(plan(&old, &new), puts(&wanted));
        let gone = tree(vec![file("/d/b", 1), file("/e", 1)]);
        assert_eq!(plan(&old, &gone), puts(&[("/d", Placement::Over)]));
    }

    #[test]
    fn all_names_of_a_file_are_made_anew_where_one_changes() {
        let old = tree(vec![
            file("/a", 1),
            link("/b", "/a"),
            link("/c", "/a"),
            file("/x", 1),
            link("/y", "/x"),
        ]);
        let new = tree(vec![
            file("/a", 1),
            file("/b", 2),
            link("/c", "/b"),
            file("/x", 1),
            link("/y", "/x"),
        ]);
        let wanted = [
            ("/", Placement::Over),
            ("/a", Placement::Fresh),
            ("/b", Placement::Fresh),
            ("/c", Placement::Fresh),
        ];
        assert_eq!(plan(&old, &new), puts(&wanted));
    }

    #[test]
    fn what_no_system_call_of_ours_makes_is_left_alone() {
        assert!(can_be_made(&file("/a", 1)));
        assert!(!can_be_made(&IndexEntry {
            flags: 0x10,
            ..file("/a", 1)
        }));
        let acl = (b"system.posix_acl_access".to_vec(), Vec::new());
        assert!(!can_be_made(&IndexEntry {
            xattrs: vec![acl],
            ..file("/a", 1)
        }));
    }
}
