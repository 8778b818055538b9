//! Archives as trees of files: tar, plain or compressed with gzip, xz or zstd. What is in one comes from others, so names,
//! links, numbers and sizes are held to bounds before anything is made of it.
//! Knows archives; what the files are for is the caller's knowledge.
//!
//! Names that differ only in case are different files, as they are to Linux: its own source has such.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;

use super::tree::{TreeBuilder, TreeContent, TreeError, check_path, leads_out};
use crate::base::cancel::CancelToken;
use crate::base::human;

/// Entries of an archive, at most.
const MAX_ENTRIES: usize = 1_000_000;

/// Memory that a decompressor may take: xz's level 9 needs 65 MiB, zstd's level 22 128 MiB.
const MEMORY_LIMIT: u64 = 256 << 20;

/// log2 of the largest window of zstd, in bytes.
const WINDOW_LOG: u32 = 27;

/// Bytes of a record of an archive.
const RECORD: u64 = 512;

/// What is read at once.
const PIECE: usize = 1 << 18;

/// An archive that gives no tree.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveTreeError {
    #[error("it cannot be read")]
    Read { source: io::Error },
    /// What it holds cannot be written.
    #[error("what it holds cannot be written")]
    Write { source: io::Error },
    #[error("it is truncated")]
    Truncated,
    /// Something in it is not what its format says.
    #[error("it is damaged: {reason}")]
    Damaged { reason: String },
    #[error("it is not a tar archive, plain or compressed with gzip, xz or zstd")]
    NoArchive,
    /// More comes out than is allowed.
    #[error("it unpacks to more than the limit of {}", human::bytes(*limit))]
    TooLarge { limit: u64 },
    #[error("it has more than {MAX_ENTRIES} entries")]
    TooMany,
    /// A name that no tree can have, or has twice.
    #[error("its member {name:?} cannot be part of a tree")]
    Member { name: String, source: TreeError },
    #[error("its link {name:?} leads out of it, to {target:?}")]
    LeadsOut { name: String, target: String },
    /// Neither file, directory nor link.
    #[error("its member {name:?} is {what}, which a tree of files cannot have")]
    Special { name: String, what: &'static str },
    #[error("its member {name:?} is a link to {target:?}, which does not stand before it")]
    HardLink { name: String, target: String },
    /// Nothing is where the recipe looks.
    #[error("it has nothing {place}")]
    Nothing {
        /// Where was looked.
        place: String,
        /// What it has at its top.
        top: Vec<String>,
    },
    #[error("cancelled")]
    Cancelled,
}

/// What of an archive becomes the tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreePart {
    /// Directories at the beginning of each name that are left out.
    pub strip: u32,
    /// What of the rest is taken: the path of a directory; all of it where it is empty.
    pub subdirectory: String,
}

impl TreePart {
    /// The path in the tree of a member; none where it is no part of it.
    pub(super) fn path<'n>(&self, name: &'n str) -> Option<&'n str> {
        let mut rest = name;
        for _ in 0..self.strip {
            rest = rest.split_once('/').map_or("", |(_, rest)| rest);
        }
        let part = self.subdirectory.trim_matches('/');
        if !part.is_empty() {
            rest = rest.strip_prefix(part)?;
            rest = match rest.strip_prefix('/') {
                Some(below) => below,
                None if rest.is_empty() => "",
                None => return None,
            };
        }
        (!rest.is_empty()).then_some(rest)
    }

    pub(super) fn shown(&self) -> String {
        let below = match &*self.subdirectory {
            "" => String::new(),
            part => format!("below {part:?}"),
        };
        match self.strip {
            0 => below,
            1 => format!("{below} once its first directory is left out")
                .trim()
                .to_owned(),
            more => format!("{below} once {more} directories are left out")
                .trim()
                .to_owned(),
        }
    }
}

/// Unpacks archives into trees.
pub struct TreeUnpacker<'u> {
    /// A directory on a file system with room.
    pub dir: &'u Path,
    /// Bytes that an archive may have when it is not compressed any more.
    pub limit: u64,
    pub cancel: &'u CancelToken,
}

impl TreeUnpacker<'_> {
    /// The tar archive in a file, as a file without a name.
    ///
    /// # Errors
    /// It is damaged or too large, or no archive.
    pub fn plain(&self, packed: impl Read) -> Result<File, ArchiveTreeError> {
        let read = |source| ArchiveTreeError::Read { source };
        let write = |source| ArchiveTreeError::Write { source };
        let mut packed = io::BufReader::with_capacity(PIECE, packed);
        let head = io::BufRead::fill_buf(&mut packed).map_err(read)?;
        let mut decoder: Box<dyn Read> = match head {
            [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
                let flags = liblzma::stream::CONCATENATED;
                let stream = liblzma::stream::Stream::new_stream_decoder(MEMORY_LIMIT, flags);
                let stream = stream.map_err(|error| read(error.into()))?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(packed, stream))
            }
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                let mut decoder = zstd::Decoder::with_buffer(packed).map_err(read)?;
                decoder.window_log_max(WINDOW_LOG).map_err(read)?;
                Box::new(decoder)
            }
            _ => Box::new(packed),
        };
        let mut out = tempfile::tempfile_in(self.dir).map_err(write)?;
        let mut piece = vec![0; PIECE];
        let mut size = 0;
        loop {
            if self.cancel.is_cancelled() {
                return Err(ArchiveTreeError::Cancelled);
            }
            let count = match decoder.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(error)),
            };
            size += count as u64;
            if size > self.limit {
                return Err(ArchiveTreeError::TooLarge { limit: self.limit });
            }
            out.write_all(&piece[..count]).map_err(write)?;
        }
        out.rewind().map_err(write)?;
        Ok(out)
    }

    /// Whether it may go on, after so many entries.
    pub(super) fn go_on(&self, entries: usize) -> Result<(), ArchiveTreeError> {
        match entries {
            _ if self.cancel.is_cancelled() => Err(ArchiveTreeError::Cancelled),
            MAX_ENTRIES.. => Err(ArchiveTreeError::TooMany),
            _ => Ok(()),
        }
    }

    /// A part of a plain tar archive as a tree. The archive must not change until the tree is written.
    ///
    /// # Errors
    /// It is damaged, or something in it cannot be in a tree.
    pub fn tree(&self, archive: File, part: &TreePart) -> Result<TreeBuilder, ArchiveTreeError> {
        let length = archive
            .metadata()
            .map_err(|source| ArchiveTreeError::Read { source })?
            .len();
        let content = archive
            .try_clone()
            .map_err(|source| ArchiveTreeError::Read { source })?;
        let mut members = Members {
            part,
            archive: Arc::new(content),
            tree: TreeBuilder::new(),
            files: BTreeMap::new(),
            top: BTreeSet::new(),
        };
        let mut tar = tar::Archive::new(archive);
        for (count, entry) in tar.entries_with_seek().map_err(broken)?.enumerate() {
            self.go_on(count)?;
            let entry = entry.map_err(|error| match count {
                0 if error.raw_os_error().is_none() => ArchiveTreeError::NoArchive,
                _ => broken(error),
            })?;
            // Members are padded to whole records; the library takes what is cut off for an end.
            let end = entry.raw_file_position().saturating_add(entry.size());
            if end
                .checked_next_multiple_of(RECORD)
                .is_none_or(|end| end > length)
            {
                return Err(ArchiveTreeError::Truncated);
            }
            members.add(&entry)?;
        }
        if members.tree.is_empty() && *part != TreePart::default() {
            return Err(ArchiveTreeError::Nothing {
                place: part.shown(),
                top: members.top.into_iter().take(12).collect(),
            });
        }
        Ok(members.tree)
    }
}

/// The members of an archive, as they are read.
struct Members<'m> {
    part: &'m TreePart,
    archive: Arc<File>,
    tree: TreeBuilder,
    /// Files that later members can be further names of: where their bytes are, how many, and permission bits.
    files: BTreeMap<String, (u64, u64, u32)>,
    /// What the archive has at its top.
    top: BTreeSet<String>,
}

impl Members<'_> {
    fn add<R: Read>(&mut self, entry: &tar::Entry<'_, R>) -> Result<(), ArchiveTreeError> {
        let header = entry.header();
        let kind = header.entry_type();
        let name = text(&entry.path_bytes())?;
        let special = |what| {
            Err(ArchiveTreeError::Special {
                name: name.clone(),
                what,
            })
        };
        let plain = name
            .strip_prefix("./")
            .unwrap_or(&name)
            .trim_end_matches('/');
        if matches!(plain, "" | ".") || kind.is_pax_global_extensions() {
            return Ok(());
        }
        if self.top.len() <= MAX_ENTRIES {
            self.top
                .insert(plain.split('/').next().unwrap_or(plain).to_owned());
        }
        let wrong = |source| ArchiveTreeError::Member {
            name: name.clone(),
            source,
        };
        // What is left out is held to the same rules.
        let path = self.part.path(plain);
        check_path(plain).map_err(wrong)?;
        let mode = header.mode().map_err(broken)?;
        match kind {
            tar::EntryType::Directory => match path {
                Some(path) => self.tree.dir(path, 0o755).map_err(wrong),
                None => Ok(()),
            },
            tar::EntryType::Symlink => {
                let target = text(&entry.link_name_bytes().unwrap_or_default())?;
                if leads_out(plain, &target) {
                    return Err(ArchiveTreeError::LeadsOut { name, target });
                }
                match path {
                    Some(path) => self.tree.link(path, &target).map_err(wrong),
                    None => Ok(()),
                }
            }
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let mode = if mode & 0o100 == 0 { 0o644 } else { 0o755 };
                let file = (entry.raw_file_position(), entry.size(), mode);
                self.file(plain, path, file).map_err(wrong)
            }
            tar::EntryType::Link => {
                let target = text(&entry.link_name_bytes().unwrap_or_default())?;
                let known = target.strip_prefix("./").unwrap_or(&target);
                let Some(file) = self.files.get(known).copied() else {
                    return Err(ArchiveTreeError::HardLink { name, target });
                };
                self.file(plain, path, file).map_err(wrong)
            }
            tar::EntryType::Block | tar::EntryType::Char => special("a device"),
            tar::EntryType::Fifo => special("a pipe"),
            tar::EntryType::GNUSparse => special("a file with holes"),
            _ => special("of an unknown type"),
        }
    }

    fn file(
        &mut self,
        name: &str,
        path: Option<&str>,
        (offset, size, mode): (u64, u64, u32),
    ) -> Result<(), TreeError> {
        self.files.insert(name.to_owned(), (offset, size, mode));
        let Some(path) = path else { return Ok(()) };
        let file = self.archive.clone();
        let content = TreeContent::Part { file, offset, size };
        self.tree.file(path, mode, content)
    }
}

pub(super) fn text(bytes: &[u8]) -> Result<String, ArchiveTreeError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ArchiveTreeError::Damaged {
        reason: format!("the name {} is not UTF-8", bytes.escape_ascii()),
    });
    text.map(str::to_owned)
}

/// What an error of a decompressor or an archive means.
pub(super) fn broken(error: io::Error) -> ArchiveTreeError {
    match error.kind() {
        // Decompressors make errors of their own, without a number of the system's.
        _ if error.raw_os_error().is_some() => ArchiveTreeError::Read { source: error },
        io::ErrorKind::UnexpectedEof => ArchiveTreeError::Truncated,
        _ => ArchiveTreeError::Damaged {
            reason: error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member: type, name, and what it holds or leads to.
    type Member<'m> = (tar::EntryType, &'m str, &'m str);

    const FILE: tar::EntryType = tar::EntryType::Regular;

    fn archive(members: &[Member<'_>]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (kind, name, text) in members {
            let mut header = tar::Header::new_gnu();
            // As others write them: the library refuses some.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o775);
            let content = if *kind == FILE { *text } else { "" };
            header.set_size(content.len() as u64);
            if *kind != FILE && !text.is_empty() {
                header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
            }
            header.set_cksum();
            tar.append(&header, content.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn tree_of(bytes: &[u8], limit: u64, part: &TreePart) -> Result<Vec<String>, ArchiveTreeError> {
        let dir = tempfile::tempdir().unwrap();
        let cancel = CancelToken::new();
        let unpacker = TreeUnpacker {
            dir: dir.path(),
            limit,
            cancel: &cancel,
        };
        let tree = unpacker.tree(unpacker.plain(bytes)?, part)?;
        let mut written = Vec::new();
        tree.write(&mut written).unwrap();
        let mut names = Vec::new();
        for entry in tar::Archive::new(written.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            let mode = entry.header().mode().unwrap();
            names.push(format!(
                "{} {mode:o} {text}",
                entry.path().unwrap().display()
            ));
        }
        Ok(names)
    }

    fn tree(members: &[Member<'_>], part: &TreePart) -> Result<Vec<String>, ArchiveTreeError> {
        tree_of(&archive(members), 1 << 20, part)
    }

    const LINUX: &[Member<'static>] = &[
        (tar::EntryType::Directory, "linux-6.1/", ""),
        (FILE, "linux-6.1/net/xt_TCPMSS.h", "upper"),
        (FILE, "./linux-6.1/net/xt_tcpmss.h", "lower"),
        (
            tar::EntryType::Link,
            "linux-6.1/net/again.h",
            "linux-6.1/net/xt_TCPMSS.h",
        ),
        (
            tar::EntryType::Symlink,
            "linux-6.1/net/link",
            "../../linux-6.1/net",
        ),
    ];

    #[test]
    fn a_part_of_an_archive_is_a_tree_however_it_is_packed() {
        let part = TreePart {
            strip: 1,
            subdirectory: "net".to_owned(),
        };
        let plain = archive(LINUX);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&plain).unwrap();
        let packed = [
            plain.clone(),
            gzip.finish().unwrap(),
            xz.finish().unwrap(),
            zstd::encode_all(plain.as_slice(), 1).unwrap(),
        ];
        for bytes in packed {
            let names = tree_of(&bytes, 1 << 20, &part).unwrap();
            assert_eq!(
                names,
                [
                    "again.h 755 upper",
                    "link 777 ",
                    "xt_TCPMSS.h 755 upper",
                    "xt_tcpmss.h 755 lower"
                ]
            );
            for cut in [20, bytes.len() / 2] {
                assert!(tree_of(&bytes[..cut], 1 << 20, &part).is_err(), "{cut}");
            }
            let error = tree_of(&bytes, 1000, &part).unwrap_err();
            assert!(
                matches!(error, ArchiveTreeError::TooLarge { limit: 1000 }),
                "{error}"
            );
        }
        let part = TreePart {
            strip: 0,
            subdirectory: "drivers".to_owned(),
        };
        let error = tree(LINUX, &part).unwrap_err();
        assert_eq!(error.to_string(), r#"it has nothing below "drivers""#);
    }

    #[test]
    fn members_that_no_tree_may_have_are_refused() {
        let link = tar::EntryType::Symlink;
        let cases: &[(&[Member<'_>], &str)] = &[
            (
                &[(FILE, "/etc/passwd", "")],
                r#"its member "/etc/passwd" cannot be part of a tree"#,
            ),
            (
                &[(FILE, "a/../../b", "")],
                r#"its member "a/../../b" cannot be part of a tree"#,
            ),
            (
                &[(FILE, "a", "1"), (FILE, "./a", "2")],
                r#"its member "./a" cannot be part of a tree"#,
            ),
            (
                &[(link, "a", "/etc")],
                r#"its link "a" leads out of it, to "/etc""#,
            ),
            (
                &[(link, "d/a", "../../x")],
                r#"its link "d/a" leads out of it, to "../../x""#,
            ),
            (
                &[(link, "a", "b"), (FILE, "a/c", "")],
                r#"its member "a/c" cannot be part of a tree"#,
            ),
            (
                &[(tar::EntryType::Link, "a", "/etc/passwd")],
                r#"its member "a" is a link to "/etc/passwd", which does not stand before it"#,
            ),
            (
                &[(tar::EntryType::Char, "null", "")],
                r#"its member "null" is a device, which a tree of files cannot have"#,
            ),
            (
                &[(tar::EntryType::Fifo, "p", "")],
                r#"its member "p" is a pipe, which a tree of files cannot have"#,
            ),
        ];
        for (members, expected) in cases {
            let error = tree(members, &TreePart::default()).unwrap_err();
            assert_eq!(error.to_string(), *expected);
        }
        let error = tree_of(&[b'x'; 2000], 1 << 20, &TreePart::default()).unwrap_err();
        assert!(matches!(error, ArchiveTreeError::NoArchive), "{error}");
    }
}
