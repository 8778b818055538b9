//! The text of a tree index: one line for each thing, in one order and one spelling, so that it is as stable as its tree.
//!
//! Knows spelling, not where a tree comes from. Fields are separated by single blanks; in names, labels, paths and
//! targets every byte that is not a visible ASCII character, and the backslash, is written `\xNN`; an empty one is `-`,
//! and `-` alone is `\x2d`. Numbers are decimal, modes octal, attributes and values hexadecimal.
//!
//! ```text
//! impasto tree 1
//! disk SIZE
//! table none | gpt GUID | mbr SIGNATURE
//! partition NUMBER START SIZE TYPE UUID NAME
//! area PARTITION|- START SIZE CONTENT
//! volume PARTITION KIND UUID LABEL NAME=VALUE…
//! d MODE UID GID MTIME PATH
//! f MODE UID GID MTIME SIZE CONTENT PATH
//! l MODE UID GID MTIME TARGET PATH
//! h FIRST PATH
//! c|b MODE UID GID MTIME MAJOR,MINOR PATH
//! p|s MODE UID GID MTIME PATH
//! a ATTRIBUTES           of the entry before
//! x NAME VALUE           of the entry before
//! ```
//!
//! A change of it, or of what goes into it, is a new number in its first line, and an `ENGINE_EPOCH`.

use std::io::Write as _;

use impasto_store::digest::Digest;

use super::{Area, EntryKind, IndexEntry, TableIdentity, Tree, TreePartition, Volume};

/// The first line.
const MAGIC: &str = "impasto tree 1";

/// A text is not the index of a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the tree index {problem}")]
pub struct ParseError {
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Writes a tree down.
pub fn write(tree: &Tree) -> Vec<u8> {
    let entries: usize = tree.volumes.iter().map(|volume| volume.entries.len()).sum();
    let mut out = Vec::with_capacity(1024 + entries * 160);
    let mut writer = TreeTextWriter(&mut out);
    writer.tree(tree);
    out
}

struct TreeTextWriter<'a>(&'a mut Vec<u8>);

macro_rules! put {
    ($writer:expr, $($arg:tt)*) => { write!($writer.0, $($arg)*).expect("BUG: memory cannot be written") };
}

impl TreeTextWriter<'_> {
    fn tree(&mut self, tree: &Tree) {
        put!(self, "{MAGIC}\ndisk {}\n", tree.size);
        match &tree.table {
            TableIdentity::None => put!(self, "table none\n"),
            TableIdentity::Gpt(guid) => put!(self, "table gpt {guid}\n"),
            TableIdentity::Mbr(signature) => put!(self, "table mbr {signature:08x}\n"),
        }
        for partition in &tree.partitions {
            let TreePartition {
                number,
                start,
                size,
                kind,
                uuid,
                name,
            } = partition;
            put!(self, "partition {number} {start} {size} ");
            self.words([kind.as_bytes(), uuid.as_bytes(), name.as_bytes()]);
        }
        for Area {
            partition,
            start,
            size,
            content,
        } in &tree.areas
        {
            match partition {
                Some(number) => put!(self, "area {number}"),
                None => put!(self, "area -"),
            }
            put!(self, " {start} {size} {content}\n");
        }
        for volume in &tree.volumes {
            self.volume(volume);
        }
    }

    fn volume(&mut self, volume: &Volume) {
        let Volume {
            partition,
            kind,
            uuid,
            label,
            facts,
            entries,
        } = volume;
        put!(self, "volume {partition} ");
        let facts: Vec<String> = facts
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let fixed = [kind.as_bytes(), uuid.as_bytes(), label];
        self.words(fixed.into_iter().chain(facts.iter().map(String::as_bytes)));
        for entry in entries {
            self.entry(entry);
        }
    }

    fn entry(&mut self, entry: &IndexEntry) {
        let IndexEntry {
            path,
            kind,
            mode,
            uid,
            gid,
            mtime,
            flags,
            xattrs,
        } = entry;
        let letter = match kind {
            EntryKind::Dir => 'd',
            EntryKind::File { .. } => 'f',
            EntryKind::Symlink { .. } => 'l',
            EntryKind::HardLink { first } => {
                put!(self, "h ");
                return self.words([first.as_slice(), path]);
            }
            EntryKind::Char(..) => 'c',
            EntryKind::Block(..) => 'b',
            EntryKind::Fifo => 'p',
            EntryKind::Socket => 's',
        };
        put!(self, "{letter} {mode:o} {uid} {gid} {}", mtime.0);
        if mtime.1 > 0 {
            put!(self, ".{:09}", mtime.1);
        }
        match kind {
            EntryKind::Dir | EntryKind::Fifo | EntryKind::Socket | EntryKind::HardLink { .. } => {}
            EntryKind::File { size, content } => {
                put!(self, " {size} ");
                self.hex(content.as_bytes());
            }
            EntryKind::Symlink { target } => {
                self.0.push(b' ');
                self.word(target);
            }
            EntryKind::Char(major, minor) | EntryKind::Block(major, minor) => {
                put!(self, " {major},{minor}")
            }
        }
        self.0.push(b' ');
        self.words([path.as_slice()]);
        if *flags != 0 {
            put!(self, "a {flags:x}\n");
        }
        for (name, value) in xattrs {
            put!(self, "x ");
            self.word(name);
            self.0.push(b' ');
            if value.is_empty() {
                self.0.push(b'-');
            }
            self.hex(value);
            self.0.push(b'\n');
        }
    }

    /// Fields to the end of the line.
    fn words<'w>(&mut self, words: impl IntoIterator<Item = &'w [u8]>) {
        for (place, word) in words.into_iter().enumerate() {
            if place > 0 {
                self.0.push(b' ');
            }
            self.word(word);
        }
        self.0.push(b'\n');
    }

    fn hex(&mut self, bytes: &[u8]) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.0.extend(bytes.iter().flat_map(|byte| {
            [
                DIGITS[usize::from(byte >> 4)],
                DIGITS[usize::from(byte & 15)],
            ]
        }));
    }

    fn word(&mut self, word: &[u8]) {
        if word.is_empty() {
            return self.0.push(b'-');
        }
        if word == b"-" {
            return self.0.extend_from_slice(b"\\x2d");
        }
        for &byte in word {
            if byte.is_ascii_graphic() && byte != b'\\' {
                self.0.push(byte);
            } else {
                put!(self, "\\x{byte:02x}");
            }
        }
    }
}

/// Reads a text that [`write()`] made.
///
/// # Errors
/// The first line that is none of an index, or a path that is not in its place, which look-ups rely on.
pub fn parse(text: &[u8]) -> Result<Tree, ParseError> {
    let mut tree = Tree::default();
    let mut line = 0;
    for bytes in text.split(|&byte| byte == b'\n') {
        line += 1;
        let read = match line {
            1 => (bytes == MAGIC.as_bytes()).then_some(()),
            _ if bytes.is_empty() => Some(()),
            _ => parse_line(&mut tree, bytes),
        };
        read.ok_or(ParseError {
            line,
            problem: "cannot be read",
        })?;
    }
    if is_sorted(&tree) {
        Ok(tree)
    } else {
        Err(ParseError {
            line,
            problem: "ends an index whose paths do not ascend",
        })
    }
}

fn is_sorted(tree: &Tree) -> bool {
    tree.volumes
        .iter()
        .all(|volume| volume.entries.is_sorted_by(|a, b| a.path < b.path))
}

fn parse_line(tree: &mut Tree, line: &[u8]) -> Option<()> {
    let mut fields = line.split(|&byte| byte == b' ');
    match fields.next()? {
        b"disk" => tree.size = number(fields.next()?)?,
        b"table" => {
            tree.table = match fields.next()? {
                b"none" => TableIdentity::None,
                b"gpt" => TableIdentity::Gpt(text_of(fields.next()?)?),
                b"mbr" => TableIdentity::Mbr(
                    u32::from_str_radix(std::str::from_utf8(fields.next()?).ok()?, 16).ok()?,
                ),
                _ => return None,
            }
        }
        b"partition" => tree.partitions.push(TreePartition {
            number: number(fields.next()?)?,
            start: number(fields.next()?)?,
            size: number(fields.next()?)?,
            kind: text_of(fields.next()?)?,
            uuid: text_of(fields.next()?)?,
            name: text_of(fields.next()?)?,
        }),
        b"area" => tree.areas.push(Area {
            partition: match fields.next()? {
                b"-" => None,
                field => Some(number(field)?),
            },
            start: number(fields.next()?)?,
            size: number(fields.next()?)?,
            content: digest(fields.next()?)?,
        }),
        b"volume" => tree.volumes.push(Volume {
            partition: number(fields.next()?)?,
            kind: text_of(fields.next()?)?,
            uuid: text_of(fields.next()?)?,
            label: unescape(fields.next()?)?,
            facts: fields.by_ref().map(fact).collect::<Option<_>>()?,
            entries: Vec::new(),
        }),
        b"a" => tree.volumes.last_mut()?.entries.last_mut()?.flags = hexadecimal(fields.next()?)?,
        b"x" => {
            let (name, value) = (unescape(fields.next()?)?, hex_bytes(fields.next()?)?);
            tree.volumes
                .last_mut()?
                .entries
                .last_mut()?
                .xattrs
                .push((name, value));
        }
        [letter] => tree
            .volumes
            .last_mut()?
            .entries
            .push(parse_entry(*letter, &mut fields)?),
        _ => return None,
    }
    fields.next().is_none().then_some(())
}

fn parse_entry<'t>(letter: u8, fields: &mut impl Iterator<Item = &'t [u8]>) -> Option<IndexEntry> {
    if letter == b'h' {
        let (first, path) = (unescape(fields.next()?)?, unescape(fields.next()?)?);
        let kind = EntryKind::HardLink { first };
        return Some(IndexEntry {
            path,
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            flags: 0,
            xattrs: Vec::new(),
        });
    }
    let mode = u16::from_str_radix(std::str::from_utf8(fields.next()?).ok()?, 8).ok()?;
    let (uid, gid) = (number(fields.next()?)?, number(fields.next()?)?);
    let time = fields.next()?;
    let mut parts = time.splitn(2, |&byte| byte == b'.');
    let seconds = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let mtime = (seconds, parts.next().map_or(Some(0), number)?);
    let kind = match letter {
        b'd' => EntryKind::Dir,
        b'f' => EntryKind::File {
            size: number(fields.next()?)?,
            content: digest(fields.next()?)?,
        },
        b'l' => EntryKind::Symlink {
            target: unescape(fields.next()?)?,
        },
        b'c' | b'b' => {
            let mut device = fields.next()?.splitn(2, |&byte| byte == b',');
            let (major, minor) = (number(device.next()?)?, number(device.next()?)?);
            if letter == b'c' {
                EntryKind::Char(major, minor)
            } else {
                EntryKind::Block(major, minor)
            }
        }
        b'p' => EntryKind::Fifo,
        b's' => EntryKind::Socket,
        _ => return None,
    };
    Some(IndexEntry {
        path: unescape(fields.next()?)?,
        kind,
        mode,
        uid,
        gid,
        mtime,
        flags: 0,
        xattrs: Vec::new(),
    })
}

fn number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn hexadecimal(field: &[u8]) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(field).ok()?, 16).ok()
}

fn digest(field: &[u8]) -> Option<Digest> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn text_of(field: &[u8]) -> Option<String> {
    String::from_utf8(unescape(field)?).ok()
}

fn fact(field: &[u8]) -> Option<(String, String)> {
    let text = text_of(field)?;
    let (name, value) = text.split_once('=')?;
    Some((name.to_owned(), value.to_owned()))
}

fn hex_bytes(field: &[u8]) -> Option<Vec<u8>> {
    match field {
        b"-" => Some(Vec::new()),
        _ if field.len().is_multiple_of(2) => field
            .chunks_exact(2)
            .map(|pair| hexadecimal(pair).map(|byte| byte as u8))
            .collect(),
        _ => None,
    }
}

fn unescape(field: &[u8]) -> Option<Vec<u8>> {
    if field == b"-" {
        return Some(Vec::new());
    }
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.iter().position(|&byte| byte == b'\\') {
        out.extend_from_slice(&rest[..at]);
        let escape = rest
            .get(at + 1..at + 4)
            .filter(|escape| escape[0] == b'x')?;
        out.push(hexadecimal(&escape[1..])? as u8);
        rest = &rest[at + 4..];
    }
    out.extend_from_slice(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..12)
    }

    fn kind() -> impl Strategy<Value = EntryKind> {
        prop_oneof![
            Just(EntryKind::Dir),
            (any::<u64>(), any::<[u8; 32]>()).prop_map(|(size, content)| EntryKind::File {
                size,
                content: Digest::from_bytes(content)
            }),
            bytes().prop_map(|target| EntryKind::Symlink { target }),
            (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| EntryKind::Char(major, minor)),
            (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| EntryKind::Block(major, minor)),
            Just(EntryKind::Fifo),
            Just(EntryKind::Socket),
        ]
    }

    fn entry() -> impl Strategy<Value = IndexEntry> {
        let access = (
            0u16..0o10000,
            any::<u32>(),
            any::<u32>(),
            any::<i64>(),
            0u32..1_000_000_000,
            any::<u32>(),
        );
        (
            bytes(),
            kind(),
            access,
            proptest::collection::btree_map(bytes(), bytes(), 0..3),
        )
            .prop_map(
                |(path, kind, (mode, uid, gid, seconds, nanos, flags), xattrs)| {
                    let xattrs = xattrs.into_iter().collect();
                    IndexEntry {
                        path,
                        kind,
                        mode,
                        uid,
                        gid,
                        mtime: (seconds, nanos),
                        flags,
                        xattrs,
                    }
                },
            )
    }

    fn tree() -> impl Strategy<Value = Tree> {
        let entries = proptest::collection::vec(entry(), 0..6).prop_map(|mut entries| {
            entries.sort_by(|a, b| a.path.cmp(&b.path));
            entries.dedup_by(|a, b| a.path == b.path);
            if let [first, .., last] = entries.as_mut_slice() {
                let kind = EntryKind::HardLink {
                    first: first.path.clone(),
                };
                let path = last.path.clone();
                *last = IndexEntry {
                    path,
                    kind,
                    mode: 0,
                    uid: 0,
                    gid: 0,
                    mtime: (0, 0),
                    flags: 0,
                    xattrs: Vec::new(),
                };
            }
            entries
        });
        (any::<u64>(), bytes(), ".{0,6}", any::<[u8; 32]>(), entries).prop_map(
            |(size, label, name, digest, entries)| {
                let (kind, uuid) = ("ext4".to_owned(), String::new());
                let facts = vec![
                    ("block".to_owned(), "4096".to_owned()),
                    ("odd name".to_owned(), "-".to_owned()),
                ];
                Tree {
                    size,
                    table: TableIdentity::Mbr(7),
                    partitions: vec![TreePartition {
                        number: 1,
                        start: 0,
                        size,
                        kind: "0c".to_owned(),
                        uuid: "-".to_owned(),
                        name,
                    }],
                    areas: vec![Area {
                        partition: None,
                        start: 0,
                        size: 440,
                        content: Digest::from_bytes(digest),
                    }],
                    volumes: vec![Volume {
                        partition: 1,
                        kind,
                        uuid,
                        label,
                        facts,
                        entries,
                    }],
                }
            },
        )
    }

    proptest! {
        #[test]
        fn a_tree_comes_back(tree in tree()) {
            let text = write(&tree);
            prop_assert_eq!(parse(&text), Ok(tree));
            prop_assert!(text.iter().all(|byte| byte.is_ascii_graphic() || b" \n".contains(byte)), "it can be shown");
        }

        #[test]
        fn damaged_texts_are_read_or_refused(tree in tree(), at: prop::sample::Index, byte: u8) {
            let mut text = write(&tree);
            let at = at.index(text.len());
            text[at] = byte;
            if let Ok(tree) = parse(&text) {
                prop_assert!(parse(&write(&tree)).is_ok());
            }
        }
    }

    #[test]
    fn the_form_is_pinned() {
        let entry = |path: &[u8], kind, mode| {
            let xattrs = vec![(b"security.capability".to_vec(), vec![1, 0, 0, 2])];
            IndexEntry {
                path: path.to_vec(),
                kind,
                mode,
                uid: 0,
                gid: 7,
                mtime: (1_700_000_000, 5),
                flags: 0x10,
                xattrs,
            }
        };
        let tree = Tree {
            size: 1 << 20,
            table: TableIdentity::Gpt("6a3b2c1d".to_owned()),
            volumes: vec![Volume {
                partition: 0,
                kind: "ext4".to_owned(),
                uuid: String::new(),
                label: b"a b".to_vec(),
                facts: Vec::new(),
                entries: vec![
                    entry(
                        b"/new\nline",
                        EntryKind::File {
                            size: 3,
                            content: Digest::ZERO,
                        },
                        0o4755,
                    ),
                    entry(b"/null", EntryKind::Char(1, 3), 0o666),
                ],
            }],
            ..Tree::default()
        };
        insta::assert_snapshot!(String::from_utf8(write(&tree)).unwrap());
    }
}
