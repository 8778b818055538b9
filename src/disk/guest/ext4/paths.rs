//! Finds inodes by path, reading each directory once.
//! Knows names; follows no symbolic link.

use std::collections::HashMap;

use super::{Ext4, ReadError};
use crate::disk::guest::ReadAt;

/// The directories of a file system that were looked into.
pub struct Paths<'a, 'd, D: ReadAt + ?Sized> {
    fs: &'a Ext4<'d, D>,
    /// Names in directories, by inode.
    known: HashMap<u32, HashMap<Vec<u8>, u32>>,
}

impl<'a, 'd, D: ReadAt + ?Sized> Paths<'a, 'd, D> {
    /// None was, so far.
    pub fn new(fs: &'a Ext4<'d, D>) -> Self {
        Paths {
            fs,
            known: HashMap::new(),
        }
    }

    /// The inode at an absolute path; none where nothing is.
    ///
    /// # Errors
    /// A directory on the way cannot be read.
    pub fn find(&mut self, path: &[u8]) -> Result<Option<u32>, ReadError> {
        let mut number = self.fs.root();
        for part in path
            .split(|&byte| byte == b'/')
            .filter(|part| !part.is_empty())
        {
            if !self.known.contains_key(&number) {
                let inode = self.fs.inode(number)?;
                let names = if inode.is_directory() {
                    self.fs.entries(&inode)?
                } else {
                    Vec::new()
                };
                self.known.insert(
                    number,
                    names
                        .into_iter()
                        .map(|name| (name.name, name.inode))
                        .collect(),
                );
            }
            match self.known[&number].get(part) {
                Some(next) => number = *next,
                None => return Ok(None),
            }
        }
        Ok(Some(number))
    }
}
