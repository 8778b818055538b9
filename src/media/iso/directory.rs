//! Directories of an ISO 9660 image: names that every reader can read, and beside them the real ones (Rock Ridge).
//! Knows names and records, not what is in files.

use std::collections::{BTreeMap, BTreeSet};

use super::{Date, IsoError, SECTOR, both16, both32};
use crate::media::{ArchiveMember, MemberError, MemberKind};

/// Letters of a file's plain name with its extension.
const LONGEST: usize = 30;
/// Bytes of a record before the name.
const HEAD: usize = 33;
/// The most that a record can have: its length is a byte, and even.
const RECORD: usize = 254;

/// Where a file or directory lies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct IsoExtent {
    /// First sector.
    pub(super) start: u64,
    /// Bytes.
    pub(super) size: u64,
}

/// A directory.
#[derive(Debug)]
struct IsoDirectory {
    path: Vec<u8>,
    /// Its plain name.
    name: Vec<u8>,
    /// The number of the one above it, from 0.
    above: usize,
    /// What is in it: plain names with paths, in the order of the medium.
    entries: Vec<(Vec<u8>, Vec<u8>)>,
    extent: IsoExtent,
}

/// All directories, in the order of the table of paths: the root first, then level by level.
#[derive(Debug)]
pub(super) struct IsoDirectories(Vec<IsoDirectory>);

impl IsoDirectories {
    /// The directories of these members.
    ///
    /// # Errors
    /// Names differ in case only, or are too long.
    pub(super) fn of(
        members: &BTreeMap<Vec<u8>, ArchiveMember>,
    ) -> Result<IsoDirectories, IsoError> {
        let mut below: BTreeMap<&[u8], Vec<&ArchiveMember>> = BTreeMap::new();
        for member in members.values() {
            below.entry(split(&member.path).0).or_default().push(member);
        }
        let mut all = vec![IsoDirectory {
            path: Vec::new(),
            name: vec![0],
            above: 0,
            entries: Vec::new(),
            extent: IsoExtent::default(),
        }];
        let mut at = 0;
        while at < all.len() {
            let path = all[at].path.clone();
            let inside = below.remove(path.as_slice()).unwrap_or_default();
            let entries = named(&inside)?;
            for (name, path) in &entries {
                if members[path].kind == MemberKind::Dir {
                    all.push(IsoDirectory {
                        path: path.clone(),
                        name: name.clone(),
                        above: at,
                        entries: Vec::new(),
                        extent: IsoExtent::default(),
                    });
                }
            }
            all[at].entries = entries;
            at += 1;
        }
        let mut directories = IsoDirectories(all);
        for at in 0..directories.0.len() {
            let mut size = 0;
            for length in directories.lengths(at, members)? {
                let left = SECTOR - size % SECTOR;
                if length > left {
                    size += left;
                }
                size += length;
            }
            directories.0[at].extent.size = size.next_multiple_of(SECTOR);
        }
        Ok(directories)
    }

    /// Gives each directory its place, from a sector on; the sector behind them.
    pub(super) fn place(&mut self, mut next: u64) -> u64 {
        for directory in &mut self.0 {
            directory.extent.start = next;
            next += directory.extent.size / SECTOR;
        }
        next
    }

    /// Bytes of the table of paths.
    pub(super) fn table_size(&self) -> u64 {
        let sizes = self
            .0
            .iter()
            .map(|directory| 8 + directory.name.len().next_multiple_of(2));
        sizes.sum::<usize>() as u64
    }

    /// The table of paths, in one order of bytes or the other.
    pub(super) fn table(&self, big: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        for directory in &self.0 {
            let (start, above) = (directory.extent.start as u32, directory.above as u16 + 1);
            bytes.extend([directory.name.len() as u8, 0]);
            match big {
                true => {
                    bytes.extend(start.to_be_bytes());
                    bytes.extend(above.to_be_bytes());
                }
                false => {
                    bytes.extend(start.to_le_bytes());
                    bytes.extend(above.to_le_bytes());
                }
            }
            bytes.extend(&directory.name);
            bytes.resize(bytes.len().next_multiple_of(2), 0);
        }
        bytes
    }

    /// The root's record in the descriptor of the volume.
    pub(super) fn root(&self, date: &Date) -> Vec<u8> {
        record(&[0], self.0[0].extent, true, date, &[])
    }

    /// The directories themselves.
    ///
    /// # Errors
    /// A name or a link is too long.
    pub(super) fn records(
        &self,
        members: &BTreeMap<Vec<u8>, ArchiveMember>,
        extents: &BTreeMap<Vec<u8>, IsoExtent>,
        date: &Date,
    ) -> Result<Vec<u8>, IsoError> {
        let by_path: BTreeMap<&[u8], IsoExtent> = self
            .0
            .iter()
            .map(|directory| (directory.path.as_slice(), directory.extent))
            .collect();
        let mut bytes = Vec::new();
        for directory in &self.0 {
            let begin = bytes.len();
            let mut put = |record: Vec<u8>| {
                let left = SECTOR as usize - bytes.len() % SECTOR as usize;
                if record.len() > left {
                    bytes.resize(bytes.len() + left, 0);
                }
                bytes.extend(record);
            };
            let links = self.links(directory, members);
            let above = &self.0[directory.above];
            put(record(
                &[0],
                directory.extent,
                true,
                date,
                &own(directory, members, links),
            ));
            let more = attributes(0o040_755, self.links(above, members));
            put(record(&[1], above.extent, true, date, &more));
            for (name, path) in &directory.entries {
                let member = &members[path];
                let is_directory = member.kind == MemberKind::Dir;
                let extent = match is_directory {
                    true => by_path[path.as_slice()],
                    false => extents.get(path).copied().unwrap_or_default(),
                };
                put(record(name, extent, is_directory, date, &more_of(member)));
            }
            bytes.resize(begin + directory.extent.size as usize, 0);
        }
        Ok(bytes)
    }

    /// Lengths of a directory's records.
    fn lengths(
        &self,
        at: usize,
        members: &BTreeMap<Vec<u8>, ArchiveMember>,
    ) -> Result<Vec<u64>, IsoError> {
        let length = |name: usize, more: usize| (HEAD + name).next_multiple_of(2) + more;
        let directory = &self.0[at];
        let mut lengths = vec![
            length(1, own(directory, members, 2).len()) as u64,
            length(1, attributes(0, 2).len()) as u64,
        ];
        for (name, path) in &directory.entries {
            let length = length(name.len(), more_of(&members[path]).len());
            if length > RECORD {
                return Err(IsoError::Member(MemberError {
                    path: path.clone(),
                    problem: "has a name, or is a link to one, that is too long for an ISO image",
                }));
            }
            lengths.push(length as u64);
        }
        Ok(lengths)
    }

    /// Names of a directory: its own, `.`, and `..` of those in it.
    fn links(&self, directory: &IsoDirectory, members: &BTreeMap<Vec<u8>, ArchiveMember>) -> u32 {
        let inside = directory
            .entries
            .iter()
            .filter(|(_, path)| members[path].kind == MemberKind::Dir);
        2 + inside.count() as u32
    }
}

/// A path as that of the directory and the name in it.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

/// A plain name, and the path of what it is for.
type NamePair = (Vec<u8>, Vec<u8>);

/// Plain names for what is in a directory, in their order, with the paths.
fn named(inside: &[&ArchiveMember]) -> Result<Vec<NamePair>, IsoError> {
    let mut lower: BTreeMap<String, &[u8]> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    let mut named = Vec::new();
    for member in inside {
        let name = split(&member.path).1;
        let shown = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        if let Some(other) = lower.insert(shown(name).to_lowercase(), &member.path) {
            return Err(IsoError::Case {
                one: shown(other),
                other: shown(&member.path),
            });
        }
        let is_directory = member.kind == MemberKind::Dir;
        let mut count = 0;
        let plain = loop {
            let plain = plain(name, is_directory, count);
            if taken.insert(plain.clone()) {
                break plain;
            }
            count += 1;
        };
        named.push((plain, member.path.clone()));
    }
    named.sort_unstable();
    Ok(named)
}

/// A name of capital letters, digits and `_`, with an extension where it is a file's: the one of this number where several
/// would be the same.
fn plain(name: &[u8], is_directory: bool, count: usize) -> Vec<u8> {
    let letter = |byte: &u8| match byte.to_ascii_uppercase() {
        upper @ (b'A'..=b'Z' | b'0'..=b'9') => upper,
        _ => b'_',
    };
    let (base, end) = match name.iter().rposition(|byte| *byte == b'.') {
        Some(at) if !is_directory && at > 0 => (&name[..at], &name[at + 1..]),
        _ => (name, &[][..]),
    };
    let end: Vec<u8> = end.iter().take(8).map(letter).collect();
    let number = match count {
        0 => String::new(),
        count => format!("_{count}"),
    };
    let room = LONGEST - end.len() - number.len();
    let mut plain: Vec<u8> = base.iter().take(room).map(letter).collect();
    plain.extend(number.bytes());
    if !is_directory {
        plain.push(b'.');
        plain.extend(end);
        plain.extend(b";1");
    }
    plain
}

/// A record of a directory; `more` is what Rock Ridge says.
fn record(name: &[u8], extent: IsoExtent, is_directory: bool, date: &Date, more: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0];
    bytes.extend(both32(extent.start as u32));
    bytes.extend(both32(extent.size as u32));
    bytes.extend(date.short());
    bytes.extend([if is_directory { 2 } else { 0 }, 0, 0]);
    bytes.extend(both16(1));
    bytes.push(name.len() as u8);
    bytes.extend(name);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    bytes.extend(more);
    bytes[0] = bytes.len() as u8;
    bytes
}

/// What a directory says of itself; that of the root says that there are such fields.
fn own(
    directory: &IsoDirectory,
    members: &BTreeMap<Vec<u8>, ArchiveMember>,
    links: u32,
) -> Vec<u8> {
    let mode = members
        .get(&directory.path)
        .map_or(0o755, |member| member.mode);
    let attributes = attributes(0o040_000 | mode, links);
    if !directory.path.is_empty() {
        return attributes;
    }
    let mut more = b"SP\x07\x01\xbe\xef\0".to_vec();
    more.extend(attributes);
    more.extend(b"ER\x12\x01\x0a\0\0\x01RRIP_1991A");
    more.resize(more.len().next_multiple_of(2), 0);
    more
}

/// Mode and number of names; owned by root.
fn attributes(mode: u32, links: u32) -> Vec<u8> {
    let mut bytes = b"PX\x24\x01".to_vec();
    for number in [mode, links, 0, 0] {
        bytes.extend(both32(number));
    }
    bytes
}

/// What Rock Ridge says of a member.
fn more_of(member: &ArchiveMember) -> Vec<u8> {
    let mode = member.mode
        | match member.kind {
            MemberKind::Dir => 0o040_000,
            MemberKind::Symlink { .. } => 0o120_000,
            _ => 0o100_000,
        };
    let mut more = attributes(mode, 1);
    let name = split(&member.path).1;
    more.extend(b"NM");
    // Too long a name is found by the length of the whole.
    more.extend([(5 + name.len()).min(255) as u8, 1, 0]);
    more.extend(name);
    if let MemberKind::Symlink { target } = &member.kind {
        let mut parts = Vec::new();
        if target.starts_with(b"/") {
            parts.extend([8, 0]);
        }
        for part in target
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty())
        {
            match part {
                b"." => parts.extend([2, 0]),
                b".." => parts.extend([4, 0]),
                part => {
                    parts.extend([0, part.len().min(255) as u8]);
                    parts.extend(part);
                }
            }
        }
        more.extend(b"SL");
        more.extend([(5 + parts.len()).min(255) as u8, 1, 0]);
        more.extend(parts);
    }
    more.resize(more.len().next_multiple_of(2), 0);
    more
}
