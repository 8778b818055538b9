//! Extended attributes: in the inode, in a block of their own, and as inodes whose content is a value.
//!
//! Knows the format, not what attributes mean; only the one that holds a small file's content is kept apart.

use std::ops::Range;

use super::inode::{FLAG_EA_INODE, Inode};
use super::{Ext4, InodeContent, ReadError, Xattrs, corrupt, unsupported};
use crate::disk::guest::crc::crc32c;
use crate::disk::guest::{ReadAt, le16, le32};

const MAGIC: u32 = 0xea02_0000;

/// Header of a block of attributes; that in an inode is only the magic.
const BLOCK_HEAD: usize = 32;
const CHECKSUM: Range<usize> = 0x10..0x14;

/// Bytes of an entry before its name.
const HEAD: usize = 16;

/// The kernel hands out no longer value.
const MAX_VALUE: u32 = 1 << 16;

/// The attribute that a small file's content continues in: `system.` and its name.
const SYSTEM: u8 = 7;
const INLINE_NAME: &[u8] = b"data";

/// One attribute as it is stored.
struct XattrEntry<'a> {
    prefix: u8,
    name: &'a [u8],
    /// Where the value is among the bytes of attributes.
    offset: usize,
    size: u32,
    /// The inode that holds the value, 0 where it is here.
    inode: u32,
}

impl<D: ReadAt + ?Sized> Ext4<'_, D> {
    /// Extended attributes by full name, sorted; values as on disk (those of ACLs are not what `getxattr` gives).
    pub fn xattrs(&self, inode: &Inode) -> Result<Xattrs, ReadError> {
        let mut found = Vec::new();
        if let Some(body) = body(inode) {
            self.collect(inode, body, 0, &mut found)?;
        }
        if let Some((_, block)) = self.attribute_block(inode)? {
            self.collect(inode, &block, BLOCK_HEAD, &mut found)?;
        }
        found.sort_unstable();
        if found.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(corrupt(format!(
                "inode {}: an attribute appears twice",
                inode.number
            )));
        }
        Ok(found)
    }

    /// Where extended attributes lie outside the inode, in bytes: the block that it names, and the inodes, maps and
    /// contents of large values. Inode and these unchanged, the attributes are as they were.
    pub fn blocks_of_xattrs(&self, inode: &Inode) -> Result<Vec<Range<u64>>, ReadError> {
        let mut ranges = Vec::new();
        let mut add = |entries: Vec<XattrEntry<'_>>| -> Result<(), ReadError> {
            for entry in entries.iter().filter(|entry| entry.inode != 0) {
                let value = self.value_inode(inode, entry)?;
                ranges.push(self.inode_place(value.number)?);
                ranges.extend(self.blocks_of_map(&value)?);
                if let InodeContent::Extents(extents) = self.content(&value)? {
                    ranges.extend(
                        extents
                            .iter()
                            .map(|extent| extent.start..extent.start + extent.length),
                    );
                }
            }
            Ok(())
        };
        if let Some(body) = body(inode) {
            add(entries(inode, body, 0)?)?;
        }
        if let Some((place, block)) = self.attribute_block(inode)? {
            add(entries(inode, &block, BLOCK_HEAD)?)?;
            ranges.push(place..place + self.superblock.block_size);
        }
        Ok(ranges)
    }

    /// What a small file holds beyond the bytes in place of its map.
    pub(super) fn inline_rest<'a>(&self, inode: &'a Inode) -> Result<&'a [u8], ReadError> {
        let missing = || corrupt(format!("inode {}: its content is missing", inode.number));
        let body = body(inode).ok_or_else(missing)?;
        let entries = entries(inode, body, 0)?;
        let entry = entries
            .iter()
            .find(|entry| entry.prefix == SYSTEM && entry.name == INLINE_NAME && entry.inode == 0);
        let entry = entry.ok_or_else(missing)?;
        body.get(entry.offset..)
            .and_then(|value| value.get(..entry.size as usize))
            .ok_or_else(missing)
    }

    /// The block that an inode's attributes lie in, and where that is.
    fn attribute_block(&self, inode: &Inode) -> Result<Option<(u64, Vec<u8>)>, ReadError> {
        let number = inode.attribute_block;
        if number == 0 {
            return Ok(None);
        }
        let wrong = |what: &str| corrupt(format!("inode {}: {what}", inode.number));
        let place = self.superblock.place(number);
        let place = place.ok_or_else(|| wrong("its attributes lie outside the file system"))?;
        let mut block = Vec::new();
        self.read_block(number, &mut block)?;
        if le32(&block, 0) != MAGIC || le32(&block, 8) != 1 {
            return Err(wrong("its attribute block is not valid"));
        }
        if self.superblock.has_sums() {
            let sum = crc32c(
                crc32c(self.superblock.seed, &number.to_le_bytes()),
                &block[..CHECKSUM.start],
            );
            let sum = crc32c(crc32c(sum, &[0; 4]), &block[CHECKSUM.end..]);
            if sum != le32(&block, CHECKSUM.start) {
                return Err(wrong("the checksum of its attributes is wrong"));
            }
        }
        Ok(Some((place, block)))
    }

    /// Takes the attributes that users can see out of `area`, in which entries begin at `first`.
    fn collect(
        &self,
        inode: &Inode,
        area: &[u8],
        first: usize,
        found: &mut Xattrs,
    ) -> Result<(), ReadError> {
        for entry in entries(inode, area, first)? {
            let Some(mut name) = prefix(inode, &entry)? else {
                continue;
            };
            name.extend_from_slice(entry.name);
            let value = if entry.inode == 0 {
                area[entry.offset..entry.offset + entry.size as usize].to_vec()
            } else {
                self.large_value(inode, &entry)?
            };
            found.push((name, value));
        }
        Ok(())
    }

    /// The inode that holds a value.
    fn value_inode(&self, inode: &Inode, entry: &XattrEntry<'_>) -> Result<Inode, ReadError> {
        let value = self.inode(entry.inode)?;
        if value.has(FLAG_EA_INODE) && value.is_file() && value.size == u64::from(entry.size) {
            Ok(value)
        } else {
            Err(corrupt(format!(
                "inode {}: inode {} is not one of its attributes",
                inode.number, entry.inode
            )))
        }
    }

    /// A value that is an inode, which has its hash there where others have a time.
    fn large_value(&self, inode: &Inode, entry: &XattrEntry<'_>) -> Result<Vec<u8>, ReadError> {
        let stored = self.value_inode(inode, entry)?;
        let value = self.read_small(&stored, entry.size as usize)?;
        // Lustre wrote no hash but the inode that the value belongs to.
        let is_lustre =
            stored.mtime.0 as u32 == inode.number && stored.generation == inode.generation;
        if is_lustre || crc32c(self.superblock.seed, &value) == stored.atime.0 as u32 {
            Ok(value)
        } else {
            Err(corrupt(format!(
                "inode {}: the hash of attribute inode {} is wrong",
                inode.number, stored.number
            )))
        }
    }
}

/// The attributes in an inode; `None` where it has none.
fn body(inode: &Inode) -> Option<&[u8]> {
    let body = inode.body();
    (body.len() >= 8 && le32(body, 0) == MAGIC).then(|| &body[4..])
}

/// Beginning of an attribute's full name; `None` for what the kernel keeps to itself.
fn prefix(inode: &Inode, entry: &XattrEntry<'_>) -> Result<Option<Vec<u8>>, ReadError> {
    let prefix: &[u8] = match entry.prefix {
        1 => b"user.",
        2 => b"system.posix_acl_access",
        3 => b"system.posix_acl_default",
        4 => b"trusted.",
        6 => b"security.",
        8 => b"system.richacl",
        10 => b"gnu.",
        // Inline content, and what verity knows of a file.
        SYSTEM if entry.name == INLINE_NAME => return Ok(None),
        11 => return Ok(None),
        other => {
            return Err(unsupported(format!(
                "inode {}: an attribute of kind {other}",
                inode.number
            )));
        }
    };
    Ok(Some(prefix.to_vec()))
}

/// The entries of `area`, which begin at `first`; each value that is there lies behind the last of them.
fn entries<'a>(
    inode: &Inode,
    area: &'a [u8],
    first: usize,
) -> Result<Vec<XattrEntry<'a>>, ReadError> {
    let wrong = |what: &str| corrupt(format!("inode {}: {what}", inode.number));
    let mut entries = Vec::new();
    let mut at = first;
    loop {
        // Four zeroes end the list, even where an entry needs more.
        let end = area
            .get(at..at + 4)
            .ok_or_else(|| wrong("its attributes have no end"))?;
        if end == [0; 4] {
            break;
        }
        let head = area
            .get(at..at + HEAD)
            .ok_or_else(|| wrong("its attributes have no end"))?;
        let name = at + HEAD..at + HEAD + usize::from(head[0]);
        entries.push(XattrEntry {
            prefix: head[1],
            name: area
                .get(name.clone())
                .ok_or_else(|| wrong("its attributes have no end"))?,
            offset: usize::from(le16(head, 2)),
            inode: le32(head, 4),
            size: le32(head, 8),
        });
        at = name.end.next_multiple_of(4);
    }
    for entry in &mut entries {
        if entry.inode != 0 || entry.size == 0 {
            entry.offset = at;
        }
        let fits = entry.inode != 0
            || entry.offset >= at && entry.offset + entry.size as usize <= area.len();
        if entry.size > MAX_VALUE || !fits {
            return Err(wrong("an attribute's value is out of bounds"));
        }
    }
    Ok(entries)
}
