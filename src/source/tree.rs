//! A tree of files as a tar archive that is the same whenever the files are: sorted, without times.
//! Knows paths and archives; where the files come from is the caller's knowledge.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::bounded;

/// A path that a tree cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// Absolute, empty, or with `.`, `..` or a NUL byte in it.
    #[error("{path:?} is not a path within a tree")]
    Path { path: String },
    #[error("{path:?} is there twice")]
    Twice { path: String },
    #[error("{path:?} lies below {parent:?}, which is not a directory")]
    Below { path: String, parent: String },
}

/// What a file of a tree holds.
#[derive(Debug)]
pub enum TreeContent {
    Bytes(Vec<u8>),
    /// What a file of impasto's own holds, which nobody else changes meanwhile.
    File(PathBuf),
    /// A part of such a file.
    Part {
        file: Arc<File>,
        /// Where it begins, in bytes.
        offset: u64,
        /// Bytes.
        size: u64,
    },
}

#[derive(Debug)]
enum BuiltNode {
    Dir {
        mode: u32,
    },
    File {
        mode: u32,
        content: TreeContent,
    },
    /// A symbolic link to this.
    Link {
        target: String,
    },
}

/// Collects the files of a tree. Directories above a file need not be named: they get the mode 0755.
#[derive(Debug, Default)]
pub struct TreeBuilder {
    nodes: BTreeMap<String, BuiltNode>,
    /// User and group by path, where that is not root.
    owners: BTreeMap<String, (u64, u64)>,
}

impl TreeBuilder {
    pub fn new() -> Self {
        TreeBuilder::default()
    }

    /// How many files, links and directories it has, those above them included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds a directory, or gives one that is there its permission bits.
    ///
    /// # Errors
    /// The path is no path within a tree, or something else is there.
    pub fn dir(&mut self, path: &str, mode: u32) -> Result<(), TreeError> {
        self.above(path)?;
        match self.nodes.get_mut(path) {
            Some(BuiltNode::Dir { mode: known }) => *known = mode,
            Some(_) => return Err(twice(path)),
            None => {
                self.nodes.insert(path.to_owned(), BuiltNode::Dir { mode });
            }
        }
        Ok(())
    }

    /// Adds a file with its permission bits.
    ///
    /// # Errors
    /// The path is no path within a tree, or something is there.
    pub fn file(&mut self, path: &str, mode: u32, content: TreeContent) -> Result<(), TreeError> {
        self.add(path, BuiltNode::File { mode, content })
    }

    /// Adds a symbolic link. Where it leads is not examined: see [`leads_out`].
    ///
    /// # Errors
    /// The path is no path within a tree, or something is there.
    pub fn link(&mut self, path: &str, target: &str) -> Result<(), TreeError> {
        let target = target.to_owned();
        self.add(path, BuiltNode::Link { target })
    }

    /// Gives something that was added to a user and a group, by their numbers; else it is root's.
    pub fn own(&mut self, path: &str, owner: (u64, u64)) {
        if owner != (0, 0) {
            self.owners.insert(path.to_owned(), owner);
        }
    }

    fn add(&mut self, path: &str, node: BuiltNode) -> Result<(), TreeError> {
        self.above(path)?;
        if self.nodes.contains_key(path) {
            return Err(twice(path));
        }
        self.nodes.insert(path.to_owned(), node);
        Ok(())
    }

    /// Makes sure that directories lead to a path.
    fn above(&mut self, path: &str) -> Result<(), TreeError> {
        check_path(path)?;
        for (at, _) in path.match_indices('/') {
            let parent = &path[..at];
            match self.nodes.get(parent) {
                Some(BuiltNode::Dir { .. }) => {}
                Some(_) => {
                    return Err(TreeError::Below {
                        path: path.to_owned(),
                        parent: parent.to_owned(),
                    });
                }
                None => {
                    let node = BuiltNode::Dir { mode: 0o755 };
                    self.nodes.insert(parent.to_owned(), node);
                }
            }
        }
        Ok(())
    }

    /// Writes the archive: entries in the order of their paths, with the time 0.
    ///
    /// # Errors
    /// A file cannot be read, or the archive not be written.
    pub fn write(self, out: impl Write) -> io::Result<()> {
        let mut tar = tar::Builder::new(out);
        for (path, node) in self.nodes {
            let mut header = tar::Header::new_gnu();
            let (user, group) = self.owners.get(&path).copied().unwrap_or_default();
            header.set_uid(user);
            header.set_gid(group);
            header.set_mtime(0);
            match node {
                BuiltNode::Dir { mode } => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(mode);
                    header.set_size(0);
                    tar.append_data(&mut header, path, io::empty())?;
                }
                BuiltNode::Link { target } => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    tar.append_link(&mut header, path, target)?;
                }
                BuiltNode::File { mode, content } => {
                    header.set_entry_type(tar::EntryType::Regular);
                    header.set_mode(mode);
                    match content {
                        TreeContent::Bytes(bytes) => {
                            header.set_size(bytes.len() as u64);
                            tar.append_data(&mut header, path, bytes.as_slice())?;
                        }
                        TreeContent::File(from) => {
                            let file = bounded::open(&from)?;
                            header.set_size(file.metadata()?.len());
                            tar.append_data(&mut header, path, file)?;
                        }
                        TreeContent::Part { file, offset, size } => {
                            header.set_size(size);
                            let part = FilePart::new(&file, offset, size);
                            tar.append_data(&mut header, path, part)?;
                        }
                    }
                }
            }
        }
        tar.into_inner()?.flush()
    }
}

/// Whether a tree can have such a path.
///
/// # Errors
/// [`TreeError::Path`].
pub fn check_path(path: &str) -> Result<(), TreeError> {
    let is_name = |name: &str| !matches!(name, "" | "." | "..") && !name.contains('\0');
    match path.split('/').all(is_name) {
        true => Ok(()),
        false => Err(TreeError::Path {
            path: path.to_owned(),
        }),
    }
}

/// Reads a part of a file, wherever others read in it.
pub(super) struct FilePart<'f> {
    file: &'f File,
    begin: u64,
    at: u64,
    end: u64,
}

impl<'f> FilePart<'f> {
    /// So many bytes of a file, from a place on.
    pub(super) fn new(file: &'f File, begin: u64, size: u64) -> FilePart<'f> {
        FilePart {
            file,
            begin,
            at: begin,
            end: begin.saturating_add(size),
        }
    }
}

impl Seek for FilePart<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Start(place) = to else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        self.at = self.begin.saturating_add(place).min(self.end);
        Ok(place)
    }
}

impl Read for FilePart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let room = buffer.len().min(left);
        let count = self.file.read_at(&mut buffer[..room], self.at)?;
        if count == 0 && room > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        Ok(count)
    }
}

fn twice(path: &str) -> TreeError {
    TreeError::Twice {
        path: path.to_owned(),
    }
}

/// Whether a symbolic link at this path of a tree leads out of it, whatever the links on the way.
pub fn leads_out(path: &str, target: &str) -> bool {
    let mut depth = path.matches('/').count();
    if target.starts_with('/') {
        return true;
    }
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." if depth == 0 => return true,
            ".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

/// Copies an archive of [`TreeBuilder::write`], giving each entry this time, in seconds since 1970.
///
/// # Errors
/// It is no such archive, or the copy cannot be written.
pub fn with_time(archive: impl Read, time: u64, out: &mut impl Write) -> io::Result<()> {
    const BLOCK: usize = 512;
    let mut archive = tar::Archive::new(archive);
    // Long names are entries of their own, which stay before those that they name.
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        let mut header = entry.header().clone();
        header.set_mtime(time);
        header.set_cksum();
        out.write_all(header.as_bytes())?;
        let size = io::copy(&mut entry, out)?;
        let rest = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
        out.write_all(&[0; BLOCK][..rest])?;
    }
    out.write_all(&[0; 2 * BLOCK])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> TreeContent {
        TreeContent::Bytes(text.as_bytes().to_vec())
    }

    fn archive(tree: TreeBuilder) -> Vec<u8> {
        let mut archive = Vec::new();
        tree.write(&mut archive).unwrap();
        archive
    }

    /// Path, permission bits, time and content of each entry.
    fn entries(archive: &[u8]) -> Vec<(String, u32, u64, String)> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            if let Some(target) = entry.link_name().unwrap() {
                text = format!("→ {}", target.display());
            }
            let path = entry.path().unwrap().display().to_string();
            let header = entry.header();
            (path, header.mode().unwrap(), header.mtime().unwrap(), text)
        });
        entries.collect()
    }

    #[test]
    fn the_archive_is_the_same_in_whatever_order_files_come() {
        let long = format!("src/{}.rs", "x".repeat(200));
        let mut one = TreeBuilder::new();
        one.file(&long, 0o644, bytes("long")).unwrap();
        one.file("run.sh", 0o755, bytes("#!/bin/sh")).unwrap();
        one.link("src/run", "../run.sh").unwrap();
        one.dir("empty", 0o700).unwrap();
        let mut other = TreeBuilder::new();
        other.dir("src", 0o755).unwrap();
        other.link("src/run", "../run.sh").unwrap();
        other.dir("empty", 0o755).unwrap();
        other.dir("empty", 0o700).unwrap();
        other.file("run.sh", 0o755, bytes("#!/bin/sh")).unwrap();
        other.file(&long, 0o644, bytes("long")).unwrap();
        let archive = archive(one);
        assert_eq!(archive, self::archive(other));
        let text = |path: &str, mode, text: &str| (path.to_owned(), mode, 0, text.to_owned());
        let expected = [
            text("empty", 0o700, ""),
            text("run.sh", 0o755, "#!/bin/sh"),
            text("src", 0o755, ""),
            text("src/run", 0o777, "→ ../run.sh"),
            text(&long, 0o644, "long"),
        ];
        assert_eq!(entries(&archive), expected);
        let mut later = Vec::new();
        with_time(archive.as_slice(), 1_700_000_000, &mut later).unwrap();
        let expected = expected.map(|(path, mode, _, text)| (path, mode, 1_700_000_000, text));
        assert_eq!(entries(&later), expected);
        let mut again = Vec::new();
        with_time(later.as_slice(), 0, &mut again).unwrap();
        assert_eq!(again, archive);
    }

    #[test]
    fn paths_that_no_tree_has_are_refused() {
        for path in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "a\0b",
        ] {
            let error = TreeBuilder::new().file(path, 0o644, bytes("")).unwrap_err();
            let path = path.to_owned();
            assert_eq!(error, TreeError::Path { path });
        }
        let mut tree = TreeBuilder::new();
        tree.file("a", 0o644, bytes("")).unwrap();
        tree.link("l", "/etc").unwrap();
        let refused = |error: Result<(), TreeError>| error.unwrap_err().to_string();
        assert_eq!(refused(tree.link("a", "b")), r#""a" is there twice"#);
        assert_eq!(refused(tree.dir("a", 0o755)), r#""a" is there twice"#);
        let below = refused(tree.file("l/passwd", 0o644, bytes("")));
        assert_eq!(
            below,
            r#""l/passwd" lies below "l", which is not a directory"#
        );
    }

    #[test]
    fn links_that_lead_out_are_known() {
        for (path, target) in [
            ("a", ".."),
            ("a", "/etc"),
            ("d/a", "../../x"),
            ("d/a", "b/../../.."),
        ] {
            assert!(leads_out(path, target), "{path} → {target}");
        }
        for (path, target) in [("a", "b"), ("d/a", "../b"), ("d/a", "./b/../c/..")] {
            assert!(!leads_out(path, target), "{path} → {target}");
        }
    }
}
