//! Why a file differs between two builds of a stage, and what to write in the recipe so that it does not.
//!
//! Knows paths, contents and the conditions of both builds; does not know how files are compared, where contents come from,
//! or who shows what it tells. All of it is likely, nothing certain: a content that two reasons explain is told with the
//! more specific one. Contents are a guest's: any bytes are taken, work and memory are bounded, and what of them is told
//! is neutralised.
//!
//! * `known` goes by the path, for files whose meaning it gives; `remedy` says what helps.
//! * `archive` compares archives by their `members`, `packed` looks into compressed files, both for any reason within.
//! * `elf` and `pyc` know compiled files; `random` knows bytes without meaning.
//! * `order` finds the same lines in another order; `masks` what is equal but for a host's name, a time, an identifier;
//!   `spoken` finds the times that a text tells, `stamp` those that are numbers; `conditions` says what is a run's own.

mod archive;
mod conditions;
mod elf;
mod known;
mod masks;
mod members;
mod order;
mod packed;
mod pyc;
mod random;
mod remedy;
mod spoken;
mod stamp;
#[cfg(test)]
mod tests;

use std::cell::Cell;

use serde::Serialize;

use crate::disk::tree::compare::{Aspects, aspects};
use crate::disk::tree::{EntryKind, IndexEntry};
use crate::inspect::diff::plain;

/// Most bytes that one question may unpack, of both contents together.
const UNPACK_LIMIT: usize = 128 << 20;
/// How deep archives are looked into: a package's tar in its `ar`, what is packed there.
const MAX_DEPTH: usize = 6;
/// Characters of a member's name that are shown.
const NAME_SHOWN: usize = 80;

/// A file as one build left it.
#[derive(Clone, Copy, Debug)]
pub struct SeenFile<'a> {
    /// Its entry in the tree.
    pub entry: &'a IndexEntry,
    /// Its content; none where it is not a file, or longer than the caller reads (8 MiB).
    pub content: Option<&'a [u8]>,
}

/// The conditions of one build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRun {
    /// Host name that steps saw.
    pub host_name: String,
    /// `LANG`.
    pub lang: String,
    /// `TZ`, of POSIX's form or the name of a zone.
    pub timezone: String,
    /// Path of the recipe.
    pub path: String,
    /// CPUs that steps saw.
    pub cpus: u32,
    /// When the build started: seconds since 1970; 0 where that is not known.
    pub started: u64,
    /// When it ended: seconds since 1970.
    pub ended: u64,
}

/// Why a file differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DifferenceCause {
    pub kind: CauseKind,
    /// What was seen: one sentence, neutralised.
    pub what: String,
    /// What to write in the recipe or its scripts: one or two sentences.
    pub remedy: String,
}

/// Reasons for which two builds differ. Their names in JSON are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CauseKind {
    /// The identity of a systemd machine.
    MachineId,
    /// Keys of an ssh server.
    SshHostKey,
    /// Another private key or certificate that the build made.
    GeneratedKey,
    /// A seed of random numbers, or random bytes.
    RandomSeed,
    /// Compiled Python that names the time of its source (PEP 552).
    PycTimestamp,
    /// Build id of an ELF file.
    BuildId,
    /// The same lines or words in another order.
    DirectoryOrder,
    /// Lines sorted by another locale's rules.
    Collation,
    /// Order, times or numbers of an initramfs' members.
    Initramfs,
    /// Members of an archive in another order.
    ArchiveOrder,
    /// Members of an archive with other times.
    ArchiveTimes,
    /// Members of an archive with other owners, modes or inode numbers.
    ArchiveOwners,
    /// Time in the header of a gzip file.
    GzipTime,
    /// The time of the build.
    BuildTime,
    /// Name of the building host.
    HostName,
    /// `LANG`.
    Locale,
    /// `TZ`.
    TimeZone,
    /// Where the recipe lies.
    BuildPath,
    CpuCount,
    /// The mask of permission bits that the build had.
    Umask,
    /// UUIDs and other random identifiers.
    RandomId,
    PasswordSalt,
    /// Nothing but the file's modification time.
    ModificationTime,
    /// Other versions of packages.
    PackageVersion,
    /// Checksums of files that differ.
    Checksums,
    /// A cache that names inodes or times.
    Cache,
    Log,
}

/// Tells why a file differs between the first build and the second; none where that is not known. A file that is missing in
/// one of them is `None` there. `runs` are the conditions of the two.
pub fn cause(
    path: &[u8],
    before: Option<&SeenFile<'_>>,
    after: Option<&SeenFile<'_>>,
    runs: &[AuditRun; 2],
) -> Option<DifferenceCause> {
    let scope = CauseScope {
        path,
        runs,
        depth: 0,
        left: &Cell::new(UNPACK_LIMIT),
    };
    let found = match (before, after) {
        (Some(before), Some(after)) => changed(&scope, before, after)?,
        (Some(_), None) => known::lone(&scope, 0)?,
        (None, Some(_)) => known::lone(&scope, 1)?,
        (None, None) => return None,
    };
    Some(found.cause(path))
}

/// What is asked, handed down to what lies within.
#[derive(Clone, Copy)]
struct CauseScope<'a> {
    /// The file's path, or a member's name.
    path: &'a [u8],
    runs: &'a [AuditRun; 2],
    depth: usize,
    /// Bytes that may still be unpacked.
    left: &'a Cell<usize>,
}

/// A reason that was found.
#[derive(Debug)]
struct CauseMatch {
    kind: CauseKind,
    /// What the file does, to stand behind "it": `holds the host name`.
    what: String,
    /// The member of archives that it is about, outermost first.
    members: Vec<String>,
}

impl CauseMatch {
    fn new(kind: CauseKind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            members: Vec::new(),
        }
    }

    fn cause(self, path: &[u8]) -> DifferenceCause {
        let what = match self.members.as_slice() {
            [] => format!("It {}.", self.what),
            members => format!("Its member {} {}.", members.join(", in it "), self.what),
        };
        DifferenceCause {
            kind: self.kind,
            what,
            remedy: remedy::remedy(self.kind, path, !self.members.is_empty()),
        }
    }
}

/// A name of a guest, fit to be shown.
fn shown(name: &[u8]) -> String {
    let text = plain::name(name);
    match text.char_indices().nth(NAME_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn changed(
    scope: &CauseScope<'_>,
    before: &SeenFile<'_>,
    after: &SeenFile<'_>,
) -> Option<CauseMatch> {
    let differs = aspects(before.entry, after.entry);
    if differs.kind {
        return None;
    }
    if !differs.content {
        return metadata(&differs, before.entry, after.entry);
    }
    let pair = match (&before.entry.kind, &after.entry.kind) {
        (EntryKind::Symlink { target: before }, EntryKind::Symlink { target: after }) => {
            Some((before.as_slice(), after.as_slice()))
        }
        _ => before.content.zip(after.content),
    };
    if let Some(found) = known::exact(scope, pair) {
        return Some(found);
    }
    pair.and_then(|(before, after)| content(scope, before, after))
        .or_else(|| known::likely(scope))
}

/// Looks for one reason in two contents.
type CauseFinder = fn(&CauseScope<'_>, &[u8], &[u8]) -> Option<CauseMatch>;

/// Why two contents differ, whatever they are called. The most specific reason comes first.
fn content(scope: &CauseScope<'_>, before: &[u8], after: &[u8]) -> Option<CauseMatch> {
    if before == after || scope.depth > MAX_DEPTH {
        return None;
    }
    let reasons: [CauseFinder; 10] = [
        pyc::find,
        packed::find,
        archive::find,
        elf::find,
        random::key,
        order::find,
        masks::find,
        stamp::find,
        random::find,
        masks::among_others,
    ];
    reasons
        .iter()
        .find_map(|reason| reason(scope, before, after))
}

/// Why two files with one content differ.
fn metadata(differs: &Aspects, before: &IndexEntry, after: &IndexEntry) -> Option<CauseMatch> {
    let only = |aspects: Aspects| *differs == aspects;
    if only(Aspects {
        mtime: true,
        ..Aspects::default()
    }) {
        return Some(CauseMatch::new(
            CauseKind::ModificationTime,
            "differs only in its modification time",
        ));
    }
    // A directory's time follows from what is in it.
    let mode = Aspects {
        mode: true,
        ..Aspects::default()
    };
    if only(mode)
        || only(Aspects {
            mtime: true,
            ..mode
        })
    {
        return umask(before.mode, after.mode);
    }
    None
}

/// Bits for group and others that one mode lacks and the other does not.
fn umask(before: u16, after: u16) -> Option<CauseMatch> {
    let (differs, both) = (before ^ after, before & after);
    let masked = differs != 0 && differs & !0o077 == 0 && (both == before || both == after);
    masked.then(|| {
        let what = format!("has mode {before:o} in one build and {after:o} in the other");
        CauseMatch::new(CauseKind::Umask, what)
    })
}
