//! Compares what one stage gave in two builds.
//! Knows outputs and trees; what its parents' differences are, it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use impasto_store::claim::{FileContent, OutputFile, Outputs};
use impasto_store::layer::DiskRef;
use impasto_store::qcow2::ChunkSource;
use impasto_store::{Error as StoreError, Store};

use super::causes::{AuditRun, SeenFile, cause};
use super::tar::TarTree;
use super::{AuditStage, Difference, StageVerdict, bytes};
use crate::disk::contents::{Contents, OnDisk};
use crate::disk::guest::OverlayView;
use crate::disk::guest::ext4::ReadError;
use crate::disk::tree::compare::{TreeChange, aspects, compare};
use crate::disk::tree::{EntryKind, IndexEntry, PartitionName, Tree, make};
use crate::inspect::diff::plain;

/// Longest file that is looked into, in bytes.
const LIMIT: u64 = 8 << 20;
/// The same below `/boot`, where the initramfs is.
const BOOT_LIMIT: u64 = 128 << 20;
/// Files that are looked into at once: what is in memory.
const BATCH: usize = 32;

/// What a stage gave in one build.
#[derive(Clone, Copy)]
pub struct AuditInput<'a> {
    /// The store that it is in.
    pub store: &'a Store,
    pub outputs: &'a Outputs,
}

/// What differed already in what a stage was given: of each path the two contents, as far as entries tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KnownStage {
    paths: BTreeMap<Vec<u8>, (Option<EntryKind>, Option<EntryKind>)>,
    /// What differs and is not a file, by its name.
    others: BTreeSet<String>,
    /// Whether disks that stages were made of are equal in content, but not in bytes.
    moved: bool,
}

impl KnownStage {
    /// What differs in any of several inputs.
    pub fn all<'k>(inputs: impl IntoIterator<Item = &'k KnownStage>) -> KnownStage {
        let mut all = KnownStage::default();
        for KnownStage {
            paths,
            others,
            moved,
        } in inputs
        {
            all.others.extend(others.iter().cloned());
            all.paths.extend(
                paths
                    .iter()
                    .map(|(path, kinds)| (path.clone(), kinds.clone())),
            );
            all.moved |= moved;
        }
        all
    }

    fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.others.is_empty()
    }
}

/// A stage's results cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A store failed, or has the result no more.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A disk or an archive cannot be read.
    #[error("what {stage} made cannot be read")]
    Read { stage: String, source: ReadError },
}

/// Compares; gives what differs in the stage's result, for those that build on it.
///
/// # Errors
/// A result cannot be read.
pub fn stage(
    name: &str,
    first: AuditInput<'_>,
    second: AuditInput<'_>,
    inputs: &KnownStage,
    runs: &[AuditRun; 2],
) -> Result<(AuditStage, KnownStage), CompareError> {
    let mut comparison = Comparison {
        name,
        runs,
        inputs,
        files: Vec::new(),
        inherited: 0,
        known: KnownStage::default(),
        identical: true,
    };
    if let (Some(a), Some(b)) = (first.outputs.disk, second.outputs.disk)
        && a.layer.disk != b.layer.disk
    {
        comparison.identical = false;
        comparison.known.moved = true;
        comparison.disks(first, a, second, b)?;
    }
    for (file, a) in &first.outputs.files {
        match second.outputs.files.get(file) {
            Some(b) => comparison.outputs(file, first, a, second, b)?,
            None => comparison.other(
                format!("output {}", plain::name(file.as_bytes())),
                "only in the first",
            ),
        }
    }
    let Comparison {
        files,
        inherited,
        known,
        identical,
        ..
    } = comparison;
    let verdict = match (identical, files.len() + inherited) {
        (true, _) => StageVerdict::Identical,
        (false, 0) => StageVerdict::Equal,
        _ => StageVerdict::Different,
    };
    let bytes = match (verdict, first.outputs.disk, second.outputs.disk) {
        (StageVerdict::Equal, Some(a), Some(b)) if known.moved => {
            let (a, b) = (
                first.store.disk_reader(&a.layer)?,
                second.store.disk_reader(&b.layer)?,
            );
            let unreadable = |error| CompareError::Read {
                stage: name.to_owned(),
                source: ReadError::Io(error),
            };
            Some(bytes::compare(&a, &b).map_err(unreadable)?)
        }
        _ => None,
    };
    Ok((
        AuditStage {
            stage: name.to_owned(),
            verdict,
            files,
            inherited,
            bytes,
        },
        known,
    ))
}

struct Comparison<'a> {
    name: &'a str,
    runs: &'a [AuditRun; 2],
    inputs: &'a KnownStage,
    files: Vec<Difference>,
    inherited: usize,
    known: KnownStage,
    identical: bool,
}

impl Comparison<'_> {
    fn disks(
        &mut self,
        first: AuditInput<'_>,
        a: DiskRef,
        second: AuditInput<'_>,
        b: DiskRef,
    ) -> Result<(), CompareError> {
        let open = |store: &Store, disk: DiskRef| {
            let store = store.clone();
            move || {
                let reader = store.disk_reader(&disk.layer).map_err(io::Error::other)?;
                Ok(Box::new(reader) as Box<dyn ChunkSource>)
            }
        };
        let (open_a, open_b) = (open(first.store, a), open(second.store, b));
        let (tree_a, tree_b) = (self.tree(first, &open_a)?, self.tree(second, &open_b)?);
        let changes = compare(&tree_a, &tree_b);
        if let Some((before, after)) = changes.size {
            self.other(
                "the disk's size".to_owned(),
                &format!("{before} and {after} bytes"),
            );
        }
        if changes.table {
            self.other("partition table".to_owned(), "content");
        }
        for (before, after) in &changes.areas {
            let Some(area) = after.or(*before) else {
                continue;
            };
            let place = match area.partition {
                Some(number) => PartitionName(number).to_string(),
                None => "outside of partitions".to_owned(),
            };
            // The bytes of a FAT differ because its files do, which are told by their names.
            let is_fat = |number| {
                tree_b
                    .volume(number)
                    .is_some_and(|volume| volume.kind == "vfat")
            };
            let mut files = changes.files.iter();
            let told = area.partition.is_some_and(is_fat)
                && files.any(|change| Some(change.partition) == area.partition);
            if !told {
                self.other(
                    format!("{place}, {} bytes from {}", area.size, area.start),
                    "content",
                );
            }
        }
        for (before, after) in &changes.volumes {
            if let Some(volume) = after.or(*before) {
                self.other(
                    format!("file system of {}", PartitionName(volume.partition)),
                    "identity or features",
                );
            }
        }
        let contents = |open, tree| OnDisk { open, tree };
        let (a, b) = (contents(&open_a, &tree_a), contents(&open_b, &tree_b));
        self.changes(&changes.files, &a, &b)
    }

    fn tree(
        &self,
        given: AuditInput<'_>,
        open: &dyn Fn() -> io::Result<Box<dyn ChunkSource>>,
    ) -> Result<Tree, CompareError> {
        if let Some(blob) = &given.outputs.tree
            && let Some(tree) = Tree::load(given.store, blob)?
        {
            return Ok(tree);
        }
        let source = open().map_err(|error| self.unreadable(error))?;
        let view = OverlayView::whole(&*source)
            .map_err(|error| self.unreadable(io::Error::other(error)))?;
        Ok(make::tree(&view, None)
            .map_err(|error| self.unreadable(error))?
            .0)
    }

    fn outputs(
        &mut self,
        name: &str,
        first: AuditInput<'_>,
        a: &OutputFile,
        second: AuditInput<'_>,
        b: &OutputFile,
    ) -> Result<(), CompareError> {
        let what = format!("output {}", plain::name(name.as_bytes()));
        if a.mode != b.mode {
            self.identical = false;
            self.other(
                what.clone(),
                &format!("mode {:04o} and {:04o}", a.mode, b.mode),
            );
        }
        let (FileContent::Blob(blob_a), FileContent::Blob(blob_b)) = (&a.content, &b.content)
        else {
            let same = matches!((&a.content, &b.content), (FileContent::Derived(a), FileContent::Derived(b)) if a.digest == b.digest);
            if !same {
                self.identical = false;
                // What is made of a disk's bytes tells of these, and they are compared where they are made.
                match (self.inputs.is_empty(), self.inputs.moved) {
                    (true, true) => {}
                    (false, _) => self.inherited += 1,
                    (true, false) => self.other(what, "content"),
                }
            }
            return Ok(());
        };
        if blob_a.digest == blob_b.digest {
            return Ok(());
        }
        self.identical = false;
        if name.ends_with(".tar") {
            let archive =
                |given: AuditInput<'_>, digest| TarTree::read(given.store.clone(), digest);
            // What is no archive whatever its name, or no sound one, is a file like others.
            if let (Some(a), Some(b)) = (
                archive(first, &blob_a.digest)?,
                archive(second, &blob_b.digest)?,
            ) {
                let changes = compare(&a.tree, &b.tree);
                if changes.is_empty() {
                    self.other(what, "order or form of the archive's entries");
                }
                return self.changes(&changes.files, &a, &b);
            }
        }
        let read = |given: AuditInput<'_>, digest, size| -> Result<Option<Vec<u8>>, CompareError> {
            if size > LIMIT {
                return Ok(None);
            }
            let reader = given.store.open_blob(digest)?;
            Ok(Some(
                reader
                    .into_bytes()
                    .map_err(|error| self.unreadable(error))?,
            ))
        };
        let (a, b) = (
            read(first, &blob_a.digest, blob_a.size)?,
            read(second, &blob_b.digest, blob_b.size)?,
        );
        let entry = |size, content| IndexEntry {
            path: name.as_bytes().to_vec(),
            kind: EntryKind::File { size, content },
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            flags: 0,
            xattrs: Vec::new(),
        };
        let (entry_a, entry_b) = (
            entry(blob_a.size, blob_a.digest.0),
            entry(blob_b.size, blob_b.digest.0),
        );
        let (a, b) = (
            SeenFile {
                entry: &entry_a,
                content: a.as_deref(),
            },
            SeenFile {
                entry: &entry_b,
                content: b.as_deref(),
            },
        );
        let cause = cause(name.as_bytes(), Some(&a), Some(&b), self.runs);
        if self.inputs.is_empty() || cause.is_some() {
            self.files.push(Difference {
                path: what,
                change: "content".to_owned(),
                cause,
            });
        } else {
            self.inherited += 1;
        }
        Ok(())
    }

    fn changes(
        &mut self,
        changes: &[TreeChange<'_>],
        a: &dyn Contents,
        b: &dyn Contents,
    ) -> Result<(), CompareError> {
        let kind = |entry: Option<&IndexEntry>| entry.map(|entry| entry.kind.clone());
        for change in changes {
            self.known.paths.insert(
                change.path().to_vec(),
                (kind(change.before), kind(change.after)),
            );
        }
        let is_own = |change: &&TreeChange<'_>| {
            let known = self.inputs.paths.get(change.path());
            known.is_none_or(|known| *known != (kind(change.before), kind(change.after)))
        };
        let own: Vec<_> = changes.iter().filter(is_own).collect();
        self.inherited += changes.len() - own.len();
        for batch in own
            .chunk_by(|a, b| in_boot(a) == in_boot(b))
            .flat_map(|alike| alike.chunks(BATCH))
        {
            self.batch(batch, a, b)?;
        }
        Ok(())
    }

    fn batch(
        &mut self,
        own: &[&TreeChange<'_>],
        a: &dyn Contents,
        b: &dyn Contents,
    ) -> Result<(), CompareError> {
        let limit = if own.first().is_some_and(in_boot) {
            BOOT_LIMIT
        } else {
            LIMIT
        };
        let wanted: Vec<_> = own
            .iter()
            .map(|change| (change.partition, change.path()))
            .collect();
        let broken = |source| CompareError::Read {
            stage: self.name.to_owned(),
            source,
        };
        let before = a.files(&wanted, limit).map_err(broken)?;
        let after = b.files(&wanted, limit).map_err(broken)?;
        for ((change, before), after) in own.iter().zip(&before).zip(&after) {
            let before = change.before.map(|entry| SeenFile {
                entry,
                content: before.as_deref(),
            });
            let after = change.after.map(|entry| SeenFile {
                entry,
                content: after.as_deref(),
            });
            let cause = cause(change.path(), before.as_ref(), after.as_ref(), self.runs);
            let path = plain::name(change.path());
            self.files.push(Difference {
                path,
                change: how(change),
                cause,
            });
        }
        Ok(())
    }

    /// Something that differs and is not a file.
    fn other(&mut self, path: String, change: &str) {
        self.known.others.insert(path.clone());
        if self.inputs.others.contains(&path) {
            self.inherited += 1;
            return;
        }
        self.files.push(Difference {
            path,
            change: change.to_owned(),
            cause: None,
        });
    }

    fn unreadable(&self, error: io::Error) -> CompareError {
        CompareError::Read {
            stage: self.name.to_owned(),
            source: ReadError::Io(error),
        }
    }
}

fn in_boot(change: &&TreeChange<'_>) -> bool {
    change.path().starts_with(b"/boot/")
}

fn how(change: &TreeChange<'_>) -> String {
    let (before, after) = match (change.before, change.after) {
        (Some(before), Some(after)) => (before, after),
        (Some(_), None) => return "only in the first".to_owned(),
        (None, _) => return "only in the second".to_owned(),
    };
    let aspects = aspects(before, after);
    let named = [
        (aspects.kind, "kind"),
        (aspects.content, "content"),
        (aspects.mode, "mode"),
        (aspects.owner, "owner"),
        (aspects.mtime, "time"),
        (aspects.flags, "attributes"),
        (aspects.xattrs, "extended attributes"),
    ];
    let names: Vec<_> = named
        .into_iter()
        .filter(|(differs, _)| *differs)
        .map(|(_, name)| name)
        .collect();
    names.join(", ")
}
