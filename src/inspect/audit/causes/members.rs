//! The members of archives: tar, ar, cpio (newc and odc) and zip, in the order in which they lie there.
//! Knows headers, not why they differ. Whatever is no archive to its end has no members.

use std::ops::Range;

/// Most members that are read.
const MOST: usize = 200_000;

/// A form of archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Tar,
    Ar,
    Cpio,
    Zip,
}

impl Form {
    pub(super) fn name(self) -> &'static str {
        match self {
            Form::Tar => "tar",
            Form::Ar => "ar",
            Form::Cpio => "cpio",
            Form::Zip => "zip",
        }
    }
}

/// A member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Its name; empty for what follows a cpio, which is no member.
    pub(super) name: Vec<u8>,
    /// Its time, as it is written there.
    pub(super) time: u64,
    /// Mode, owner, group; inode and device numbers; target of a link: by place, whatever the form has.
    pub(super) other: Vec<u64>,
    /// Where its content lies in the archive.
    pub(super) content: Range<usize>,
    /// Length of the content, where it is compressed by deflate.
    pub(super) deflated: Option<usize>,
}

/// The members of an archive; none where it is not one.
pub(super) fn members(bytes: &[u8]) -> Option<(Form, Vec<Member>)> {
    let found = if bytes.starts_with(b"!<arch>\n") {
        (Form::Ar, ar(bytes)?)
    } else if is_cpio(bytes) {
        (Form::Cpio, cpio(bytes)?)
    } else if bytes.starts_with(b"PK\x03\x04") {
        (Form::Zip, zip(bytes)?)
    } else if bytes.get(257..262) == Some(b"ustar") {
        (Form::Tar, tar(bytes)?)
    } else {
        return None;
    };
    Some(found)
}

fn tar(bytes: &[u8]) -> Option<Vec<Member>> {
    let mut members = Vec::new();
    let mut archive = tar::Archive::new(bytes);
    for entry in archive.entries().ok()?.take(MOST) {
        let entry = entry.ok()?;
        let header = entry.header();
        let number = |number: std::io::Result<u64>| number.unwrap_or_default();
        let other = vec![
            u64::from(header.mode().unwrap_or_default()),
            number(header.uid()),
            number(header.gid()),
        ];
        let start = usize::try_from(entry.raw_file_position()).ok()?;
        let content = start..start.checked_add(usize::try_from(entry.size()).ok()?)?;
        bytes.get(content.clone())?;
        let name = entry.path_bytes().into_owned();
        members.push(Member {
            name,
            time: number(header.mtime()),
            other,
            content,
            deflated: None,
        });
    }
    Some(members)
}

/// A number in digits, with blanks behind them.
fn digits(bytes: &[u8], base: u32) -> Option<u64> {
    let text = std::str::from_utf8(bytes)
        .ok()?
        .trim_end_matches([' ', '\0']);
    if text.is_empty() {
        Some(0)
    } else {
        u64::from_str_radix(text, base).ok()
    }
}

fn ar(bytes: &[u8]) -> Option<Vec<Member>> {
    let (mut at, mut members) = (8, Vec::new());
    while at < bytes.len() && members.len() < MOST {
        let header = bytes
            .get(at..at + 60)
            .filter(|header| header.ends_with(b"`\n"))?;
        let field = |place: Range<usize>, base| digits(&header[place], base);
        let start = at + 60;
        let content = start..start.checked_add(usize::try_from(field(48..58, 10)?).ok()?)?;
        bytes.get(content.clone())?;
        // Padded to an even length.
        at = content.end + content.end % 2;
        let name = header[..16].trim_ascii_end();
        let name = if name.len() > 1 {
            name.strip_suffix(b"/").unwrap_or(name)
        } else {
            name
        };
        let other = vec![field(40..48, 8)?, field(28..34, 10)?, field(34..40, 10)?];
        members.push(Member {
            name: name.to_vec(),
            time: field(16..28, 10)?,
            other,
            content,
            deflated: None,
        });
    }
    Some(members)
}

fn is_cpio(bytes: &[u8]) -> bool {
    [&b"070701"[..], b"070702", b"070707"]
        .iter()
        .any(|magic| bytes.starts_with(magic))
}

/// One archive or several, as the kernel takes them, and perhaps something compressed behind them.
fn cpio(bytes: &[u8]) -> Option<Vec<Member>> {
    let (mut at, mut members) = (0_usize, Vec::new());
    while members.len() < MOST {
        at += bytes
            .get(at..)?
            .iter()
            .take_while(|byte| **byte == 0)
            .count();
        let rest = bytes.get(at..)?;
        if rest.is_empty() {
            break;
        }
        if !is_cpio(rest) {
            let content = at..bytes.len();
            members.push(Member {
                name: Vec::new(),
                time: 0,
                other: Vec::new(),
                content,
                deflated: None,
            });
            break;
        }
        let (member, end) = if rest.starts_with(b"070707") {
            odc(bytes, at)?
        } else {
            newc(bytes, at)?
        };
        at = end;
        if member.name != b"TRAILER!!!" {
            members.push(member);
        }
    }
    Some(members)
}

/// A member in the form that the kernel takes (its `buffer-format.rst`), and where the next one begins.
fn newc(bytes: &[u8], at: usize) -> Option<(Member, usize)> {
    let header = bytes.get(at..at.checked_add(110)?)?;
    let field = |index: usize| digits(header.get(6 + index * 8..14 + index * 8)?, 16);
    let [ino, mode, uid, gid, links, time, size] = [
        field(0)?,
        field(1)?,
        field(2)?,
        field(3)?,
        field(4)?,
        field(5)?,
        field(6)?,
    ];
    let device = [field(7)?, field(8)?];
    let node = [field(9)?, field(10)?];
    let padded = |end: usize| at.checked_add(end.checked_sub(at)?.checked_next_multiple_of(4)?);
    let name_end = (at + 110).checked_add(usize::try_from(field(11)?).ok()?)?;
    let name = bytes.get(at + 110..name_end)?;
    let start = padded(name_end)?;
    let content = start..start.checked_add(usize::try_from(size).ok()?)?;
    bytes.get(content.clone())?;
    let end = padded(content.end)?.min(bytes.len());
    let name = name.strip_suffix(b"\0").unwrap_or(name).to_vec();
    let other = [&[mode, uid, gid, ino, links][..], &device, &node].concat();
    Some((
        Member {
            name,
            time,
            other,
            content,
            deflated: None,
        },
        end,
    ))
}

/// A member in POSIX's portable form (`cpio -H odc`).
fn odc(bytes: &[u8], at: usize) -> Option<(Member, usize)> {
    let header = bytes.get(at..at.checked_add(76)?)?;
    let field = |place: Range<usize>| digits(header.get(place)?, 8);
    let other = [18..24, 24..30, 30..36, 12..18, 36..42, 6..12, 42..48].map(field);
    let other = other.into_iter().collect::<Option<Vec<_>>>()?;
    let start = (at + 76).checked_add(usize::try_from(field(59..65)?).ok()?)?;
    let name = bytes.get(at + 76..start)?;
    let content = start..start.checked_add(usize::try_from(field(65..76)?).ok()?)?;
    bytes.get(content.clone())?;
    let name = name.strip_suffix(b"\0").unwrap_or(name).to_vec();
    let end = content.end;
    Some((
        Member {
            name,
            time: field(48..59)?,
            other,
            content,
            deflated: None,
        },
        end,
    ))
}

/// The central directory's members (APPNOTE, 4.3.12).
fn zip(bytes: &[u8]) -> Option<Vec<Member>> {
    let number = |at: usize, width: usize| {
        let bytes = bytes.get(at..at.checked_add(width)?)?;
        usize::try_from(
            bytes
                .iter()
                .rev()
                .fold(0_u64, |number, byte| number << 8 | u64::from(*byte)),
        )
        .ok()
    };
    // The end record stands last, before a comment.
    let from = bytes.len().saturating_sub(22 + 0xffff);
    let end = from
        + bytes
            .get(from..)?
            .windows(4)
            .rposition(|window| window == b"PK\x05\x06")?;
    let (count, mut at) = (number(end + 10, 2)?, number(end + 16, 4)?);
    let mut members = Vec::new();
    for _ in 0..count {
        if bytes.get(at..at.checked_add(4)?)? != b"PK\x01\x02" {
            return None;
        }
        let [method, time, size, length] = [
            number(at + 10, 2)?,
            number(at + 12, 4)?,
            number(at + 20, 4)?,
            number(at + 24, 4)?,
        ];
        let [name, extra, comment] = [
            number(at + 28, 2)?,
            number(at + 30, 2)?,
            number(at + 32, 2)?,
        ];
        let (mode, local) = (number(at + 38, 4)?, number(at + 42, 4)?);
        let start = local + 30 + number(local + 26, 2)? + number(local + 28, 2)?;
        let content = start..start.checked_add(size)?;
        bytes.get(content.clone())?;
        let name_bytes = bytes.get(at + 46..at + 46 + name)?.to_vec();
        let deflated = (method == 8).then_some(length);
        members.push(Member {
            name: name_bytes,
            time: time as u64,
            other: vec![mode as u64],
            content,
            deflated,
        });
        at += 46 + name + extra + comment;
    }
    Some(members)
}
