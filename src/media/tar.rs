//! tar archives in the form of POSIX: ustar, with pax records where that cannot say something.
//! Knows the form, not who reads it.

use super::stream::{MediaStream, StreamBuilder};
use super::{ArchiveMember, MemberError, MemberKind};

/// Bytes of a record.
const RECORD: u64 = 512;
/// The largest number that eleven octal digits can say.
const MOST: u64 = (1 << 33) - 1;

/// The archive of these members, each with the time `epoch`. A file's first name comes before its others.
///
/// # Errors
/// A member is a socket, which the form does not know.
pub fn stream(members: &[ArchiveMember], epoch: u64) -> Result<MediaStream, MemberError> {
    let mut builder = StreamBuilder::default();
    for member in members {
        builder.begin(&member.path);
        put(&mut builder, member, epoch)?;
    }
    // Two empty records end an archive, which is filled up to twenty as by every tar.
    builder.bytes(&[0; 2 * RECORD as usize]);
    builder.pad(20 * RECORD);
    Ok(builder.finish())
}

fn put(builder: &mut StreamBuilder, member: &ArchiveMember, epoch: u64) -> Result<(), MemberError> {
    let mut path = member.path.clone();
    let (kind, link): (_, &[u8]) = match &member.kind {
        MemberKind::Dir => {
            path.push(b'/');
            (b'5', &[])
        }
        MemberKind::File { .. } => (b'0', &[]),
        MemberKind::HardLink { first } => (b'1', first),
        MemberKind::Symlink { target } => (b'2', target),
        MemberKind::Char(..) => (b'3', &[]),
        MemberKind::Block(..) => (b'4', &[]),
        MemberKind::Fifo => (b'6', &[]),
        MemberKind::Socket => {
            return Err(MemberError {
                path: member.path.clone(),
                problem: "is a socket, which a tar archive cannot hold",
            });
        }
    };
    let (file, size) = match member.kind {
        MemberKind::File { file, size } => (Some(file), size),
        _ => (None, 0),
    };
    let device = match member.kind {
        MemberKind::Char(major, minor) | MemberKind::Block(major, minor) => (major, minor),
        _ => (0, 0),
    };
    let mut more = Vec::new();
    let (prefix, name) = split(&path).unwrap_or_else(|| {
        record(&mut more, b"path", &path);
        (&[], &path[..path.len().min(100)])
    });
    if link.len() > 100 {
        record(&mut more, b"linkpath", link);
    }
    let mut number = |name: &[u8], value: u64, most: u64| {
        if value > most {
            record(&mut more, name, value.to_string().as_bytes());
        }
        value.min(most)
    };
    let size_there = number(b"size", size, MOST);
    let time = number(b"mtime", epoch, MOST);
    let uid = number(b"uid", u64::from(member.uid), 0o7_777_777);
    let gid = number(b"gid", u64::from(member.gid), 0o7_777_777);
    for (name, value) in &member.xattrs {
        record(
            &mut more,
            &[b"SCHILY.xattr.", name.as_slice()].concat(),
            value,
        );
    }
    if !more.is_empty() {
        let head = TarHead {
            prefix: &[],
            name: b"pax",
            link: &[],
            kind: b'x',
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: more.len() as u64,
            time,
            device: (0, 0),
        };
        builder.bytes(&head.record());
        builder.bytes(&more);
        builder.pad(RECORD);
    }
    let head = TarHead {
        prefix,
        name,
        link: &link[..link.len().min(100)],
        kind,
        mode: member.mode,
        uid,
        gid,
        size: size_there,
        time,
        device,
    };
    builder.bytes(&head.record());
    if let Some(file) = file {
        builder.file(file, size);
        builder.pad(RECORD);
    }
    Ok(())
}

/// A path as prefix and name; none where it does not fit.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((&[], path));
    }
    let slash = |at: &usize| path[*at] == b'/' && path.len() - at - 1 <= 100 && at + 1 < path.len();
    let at = (1..=155.min(path.len() - 1)).rev().find(slash)?;
    Some((&path[..at], &path[at + 1..]))
}

/// Adds a pax record: its own length, a blank, name, `=`, value, a line's end.
fn record(records: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let rest = name.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend(format!("{length} ").bytes());
    records.extend_from_slice(name);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

struct TarHead<'a> {
    prefix: &'a [u8],
    name: &'a [u8],
    link: &'a [u8],
    kind: u8,
    mode: u32,
    uid: u64,
    gid: u64,
    size: u64,
    time: u64,
    device: (u32, u32),
}

impl TarHead<'_> {
    fn record(&self) -> [u8; RECORD as usize] {
        let mut head = [0; RECORD as usize];
        let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, self.name);
        put(100, format!("{:07o}", self.mode).as_bytes());
        put(108, format!("{:07o}", self.uid).as_bytes());
        put(116, format!("{:07o}", self.gid).as_bytes());
        put(124, format!("{:011o}", self.size).as_bytes());
        put(136, format!("{:011o}", self.time).as_bytes());
        put(148, b"        ");
        put(156, &[self.kind]);
        put(157, self.link);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}", self.device.0).as_bytes());
        put(337, format!("{:07o}", self.device.1).as_bytes());
        put(345, self.prefix);
        let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        head
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::media::stream::Memory;

    #[test]
    fn what_is_long_or_large_reads_back() {
        let long = format!("{}/{}", "d".repeat(140), "f".repeat(90));
        let longer = format!("{}/{}", "d".repeat(200), "f".repeat(190));
        let target = "t".repeat(300);
        let member = |path: &str, kind| ArchiveMember {
            path: path.as_bytes().to_vec(),
            kind,
            mode: 0o4755,
            uid: 5,
            gid: 1 << 22,
            xattrs: vec![(b"security.capability".to_vec(), vec![1, 0, 2])],
        };
        let first = longer.as_bytes().to_vec();
        let members = [
            member("dir", MemberKind::Dir),
            member(&long, MemberKind::File { file: 0, size: 5 }),
            member(&longer, MemberKind::File { file: 1, size: 600 }),
            member("link", MemberKind::HardLink { first }),
            member(
                "symbolic",
                MemberKind::Symlink {
                    target: target.clone().into_bytes(),
                },
            ),
            member("null", MemberKind::Char(1, 3)),
        ];
        let memory = Memory(vec![b"hello".to_vec(), vec![7; 600]]);
        let stream = stream(&members, 1_700_000_000).unwrap();
        let pieces = stream.pieces().iter();
        let bytes: Vec<u8> = pieces
            .flat_map(|piece| piece.read(&memory).unwrap())
            .collect();
        assert_eq!(bytes.len() % 10240, 0);
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let xattrs = entry.pax_extensions().unwrap().unwrap();
            let xattrs: Vec<_> = xattrs
                .map(|pair| pair.unwrap().value_bytes().to_vec())
                .collect();
            assert!(xattrs.contains(&vec![1, 0, 2]), "{xattrs:?}");
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let head = entry.header();
            assert_eq!(
                (head.mode().unwrap(), head.mtime().unwrap()),
                (0o4755, 1_700_000_000)
            );
            assert_eq!(
                (head.uid().unwrap(), entry.header().as_ustar().is_some()),
                (5, true)
            );
            let link = entry.link_name_bytes().map(|link| link.into_owned());
            found.push((entry.path_bytes().into_owned(), content, link));
        }
        let paths: Vec<_> = found
            .iter()
            .map(|one| String::from_utf8_lossy(&one.0).into_owned())
            .collect();
        assert_eq!(paths, ["dir/", &long, &longer, "link", "symbolic", "null"]);
        assert_eq!((&found[1].1[..], found[2].1.len()), (&b"hello"[..], 600));
        assert_eq!(found[3].2.as_deref(), Some(longer.as_bytes()));
        assert_eq!(found[4].2.as_deref(), Some(target.as_bytes()));
    }
}
