//! cpio archives in the form that kernels take as ramdisks (`newc`: Documentation/driver-api/early-userspace/buffer-format).
//! Knows the form; extended attributes have no place in it.

use std::collections::BTreeMap;

use super::stream::{MediaStream, StreamBuilder};
use super::{ArchiveMember, MemberError, MemberKind};

/// What the form can say of a file's size.
const MOST: u64 = u32::MAX as u64;
/// The name behind the last member.
const END: &[u8] = b"TRAILER!!!";
/// Archives are filled up to this, as every cpio does.
const BLOCK: u64 = 512;

/// What a head says beside the name.
#[derive(Default)]
struct CpioHead {
    inode: u32,
    mode: u32,
    uid: u32,
    gid: u32,
    links: u32,
    size: u64,
    device: (u32, u32),
}

/// The archive of these members, each with the time `epoch`. They are sorted by path, a file's first name before its
/// others.
///
/// # Errors
/// A file is larger than the form can say, or `epoch` is.
pub fn stream(members: &[ArchiveMember], epoch: u64) -> Result<MediaStream, MemberError> {
    let time = u32::try_from(epoch).map_err(|_| MemberError {
        path: b"source_date_epoch".to_vec(),
        problem: "is later than a cpio archive can say",
    })?;
    let linked = linked(members);
    let mut builder = StreamBuilder::default();
    for member in members {
        let first = match &member.kind {
            MemberKind::HardLink { first } => first,
            _ => &member.path,
        };
        let names = linked.get(first.as_slice());
        // The content comes with the last name, where other programs look for it.
        let file = match (&member.kind, names) {
            (MemberKind::File { .. } | MemberKind::HardLink { .. }, Some(names)) => {
                (names.last == member.path).then_some((names.file, names.size))
            }
            (MemberKind::File { file, size }, None) => Some((*file, *size)),
            _ => None,
        };
        let target = match &member.kind {
            MemberKind::Symlink { target } => target.as_slice(),
            _ => &[],
        };
        let size = file.map_or(target.len() as u64, |(_, size)| size);
        if size > MOST {
            return Err(MemberError {
                path: member.path.clone(),
                problem: "has more than 4 GiB, which a cpio archive cannot say",
            });
        }
        let (kind, device) = match member.kind {
            MemberKind::Dir => (0o040_000, (0, 0)),
            MemberKind::File { .. } | MemberKind::HardLink { .. } => (0o100_000, (0, 0)),
            MemberKind::Symlink { .. } => (0o120_000, (0, 0)),
            MemberKind::Char(major, minor) => (0o020_000, (major, minor)),
            MemberKind::Block(major, minor) => (0o060_000, (major, minor)),
            MemberKind::Fifo => (0o010_000, (0, 0)),
            MemberKind::Socket => (0o140_000, (0, 0)),
        };
        let head = CpioHead {
            inode: names.map_or(0, |names| names.inode),
            mode: kind | member.mode,
            uid: member.uid,
            gid: member.gid,
            links: match (&member.kind, names) {
                (MemberKind::Dir, _) => 2,
                (_, Some(names)) => names.count,
                (_, None) => 1,
            },
            size,
            device,
        };
        builder.begin(&member.path);
        put_head(&mut builder, &member.path, &head, time);
        match file {
            Some((file, size)) => builder.file(file, size),
            None => builder.bytes(target),
        }
        builder.pad(4);
    }
    let links = 1;
    put_head(
        &mut builder,
        END,
        &CpioHead {
            links,
            ..CpioHead::default()
        },
        0,
    );
    builder.pad(BLOCK);
    Ok(builder.finish())
}

fn put_head(builder: &mut StreamBuilder, name: &[u8], head: &CpioHead, time: u32) {
    let time = if name == END { 0 } else { time };
    let fields = [
        head.inode,
        head.mode,
        head.uid,
        head.gid,
        head.links,
        time,
        head.size as u32,
        0,
        0,
        head.device.0,
        head.device.1,
        name.len() as u32 + 1,
        0,
    ];
    let mut text = String::from("070701");
    for field in fields {
        text.push_str(&format!("{field:08X}"));
    }
    builder.bytes(text.as_bytes());
    builder.bytes(name);
    builder.bytes(&[0]);
    builder.pad(4);
}

/// The names of one file.
struct LinkedNames<'m> {
    /// The last of them.
    last: &'m [u8],
    count: u32,
    file: usize,
    size: u64,
    /// A number that no other file with several names has.
    inode: u32,
}

/// Files with several names, by the first.
fn linked(members: &[ArchiveMember]) -> BTreeMap<&[u8], LinkedNames<'_>> {
    let mut linked: BTreeMap<&[u8], LinkedNames<'_>> = BTreeMap::new();
    for member in members {
        if let MemberKind::HardLink { first } = &member.kind {
            let names = linked.entry(first).or_insert(LinkedNames {
                last: &member.path,
                count: 1,
                file: 0,
                size: 0,
                inode: 0,
            });
            names.last = &member.path;
            names.count += 1;
        }
    }
    // By the name, not by the place: what is added elsewhere changes no other's head.
    let mut taken = std::collections::BTreeSet::from([0]);
    for member in members {
        if let (MemberKind::File { file, size }, Some(names)) =
            (&member.kind, linked.get_mut(member.path.as_slice()))
        {
            let hash = blake3::hash(&member.path);
            let [a, b, c, d, ..] = *hash.as_bytes();
            let mut inode = u32::from_le_bytes([a, b, c, d]);
            while !taken.insert(inode) {
                inode = inode.wrapping_add(1);
            }
            (names.file, names.size, names.inode) = (*file, *size, inode);
        }
    }
    linked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::stream::Memory;

    fn member(path: &str, kind: MemberKind) -> ArchiveMember {
        ArchiveMember {
            path: path.as_bytes().to_vec(),
            kind,
            mode: 0o644,
            uid: 7,
            gid: 8,
            xattrs: Vec::new(),
        }
    }

    fn link(path: &str, first: &str) -> ArchiveMember {
        let first = first.as_bytes().to_vec();
        member(path, MemberKind::HardLink { first })
    }

    #[test]
    fn heads_are_those_of_newc_and_content_comes_with_the_last_name() {
        let memory = Memory(vec![b"hello".to_vec()]);
        let members = [
            member(".", MemberKind::Dir),
            member("a", MemberKind::File { file: 0, size: 5 }),
            link("b", "a"),
            member("null", MemberKind::Char(1, 3)),
        ];
        let stream = stream(&members, 1_700_000_000).unwrap();
        let pieces = stream.pieces().iter();
        let bytes: Vec<u8> = pieces
            .flat_map(|piece| piece.read(&memory).unwrap())
            .collect();
        assert_eq!(bytes.len() % 512, 0);
        let text = String::from_utf8(bytes).unwrap();
        assert!(
            text.starts_with(
                "07070100000000000041A4000000070000000800000002655\
             3F10000000000000000000000000000000000000000000000000200000000.\0"
            ),
            "{text}"
        );
        let heads: Vec<_> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(heads.len(), 5);
        let field = |head: usize, index: usize| {
            let start = heads[head] + 6 + 8 * index;
            &text[start..start + 8]
        };
        // The same inode, two links; the size stands with the last.
        assert_eq!(field(1, 0), field(2, 0));
        assert_ne!(field(1, 0), "00000000");
        assert_eq!((field(1, 4), field(2, 4)), ("00000002", "00000002"));
        assert_eq!((field(1, 6), field(2, 6)), ("00000000", "00000005"));
        assert_eq!(
            (field(3, 1), field(3, 9), field(3, 10)),
            ("000021A4", "00000001", "00000003")
        );
        assert_eq!(&text[heads[2] + 112..][..5], "hello");
        assert!(text[heads[4]..].contains("TRAILER!!!"));
    }

    #[test]
    fn a_file_that_is_too_large_is_named() {
        let size = MOST + 1;
        let error = stream(&[member("big", MemberKind::File { file: 0, size })], 0).unwrap_err();
        let text = error.to_string();
        assert_eq!(
            text,
            "big has more than 4 GiB, which a cpio archive cannot say"
        );
    }
}
