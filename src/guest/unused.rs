//! Finds the parts of an ext4 file system whose content means nothing: free blocks, and an empty journal's.
//!
//! Knows bitmaps and extents, not files. What it names may be dropped, so it is strict: a group whose bitmap does not
//! agree with its own count of free blocks, or a feature that is not known here, is left alone.

use std::io;
use std::ops::Range;

use super::superblock::ext_is_clean;
use super::{ReadAt, bytes_at, le16, le32};

const HAS_JOURNAL: u32 = 0x4;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_64BIT: u32 = 0x80;
const RO_COMPAT_BIGALLOC: u32 = 0x200;
const GROUP_BLOCK_UNINIT: u16 = 0x2;
const INODE_EXTENTS: u32 = 0x8_0000;
const JOURNAL_INODE: u32 = 8;
const JOURNAL_MAGIC: u32 = 0xc03b_3998;
const EXTENT_MAGIC: u16 = 0xf30a;

/// 32 TiB in groups of 128 MiB; descriptors of larger file systems are not read into memory.
const MAX_GROUPS: u64 = 1 << 18;

/// A journal of 1 GiB in pieces of one block group each has eight extents.
const MAX_EXTENT_NODES: usize = 64;

/// What the superblock says that is needed here.
struct Geometry {
    block_size: u64,
    blocks: u64,
    first_block: u64,
    blocks_per_group: u64,
    inodes_per_group: u64,
    inode_size: u64,
    descriptor_size: usize,
    has_journal: bool,
}

impl Geometry {
    /// `None` unless this is a clean ext file system of a kind that is understood.
    fn read<D: ReadAt + ?Sized>(disk: &D) -> io::Result<Option<Self>> {
        let mut sb = [0; 1024];
        if disk.size() < 4096 {
            return Ok(None);
        }
        disk.read_exact_at(&mut sb, 1024)?;
        let (compat, incompat, ro_compat) = (le32(&sb, 0x5c), le32(&sb, 0x60), le32(&sb, 0x64));
        if !ext_is_clean(&sb) || incompat & INCOMPAT_META_BG != 0 || ro_compat & RO_COMPAT_BIGALLOC != 0 {
            return Ok(None);
        }
        let wide = incompat & INCOMPAT_64BIT != 0;
        let high = if wide { u64::from(le32(&sb, 0x150)) << 32 } else { 0 };
        let geometry = Self {
            block_size: 1024 << le32(&sb, 0x18),
            blocks: high | u64::from(le32(&sb, 0x4)),
            first_block: u64::from(le32(&sb, 0x14)),
            blocks_per_group: u64::from(le32(&sb, 0x20)),
            inodes_per_group: u64::from(le32(&sb, 0x28)),
            inode_size: u64::from(le16(&sb, 0x58)),
            descriptor_size: if wide { usize::from(le16(&sb, 0xfe)) } else { 32 },
            has_journal: compat & HAS_JOURNAL != 0 && le32(&sb, 0xe0) == JOURNAL_INODE,
        };
        Ok(geometry.is_sane(disk.size()).then_some(geometry))
    }

    fn is_sane(&self, size: u64) -> bool {
        self.blocks.checked_mul(self.block_size).is_some_and(|bytes| bytes <= size)
            && self.first_block < self.blocks
            && (8..=self.block_size * 8).contains(&self.blocks_per_group)
            && self.inodes_per_group >= u64::from(JOURNAL_INODE)
            && (128..=self.block_size).contains(&self.inode_size)
            && matches!(self.descriptor_size, 32 | 64)
            && self.groups() <= MAX_GROUPS
    }

    fn groups(&self) -> u64 {
        (self.blocks - self.first_block).div_ceil(self.blocks_per_group)
    }

    /// A block that lies on the disk.
    fn check(&self, block: u64) -> Option<u64> {
        (self.first_block..self.blocks).contains(&block).then(|| block * self.block_size)
    }
}

/// One group's descriptor.
struct Group {
    bitmap: u64,
    inode_table: u64,
    free_blocks: u32,
    flags: u16,
}

impl Group {
    fn parse(bytes: &[u8]) -> Self {
        let wide = bytes.len() >= 64;
        let high = |at| if wide { u64::from(le32(bytes, at)) << 32 } else { 0 };
        let high_free = if wide { u32::from(le16(bytes, 0x2c)) << 16 } else { 0 };
        Self {
            bitmap: high(0x20) | u64::from(le32(bytes, 0)),
            inode_table: high(0x28) | u64::from(le32(bytes, 8)),
            free_blocks: high_free | u32::from(le16(bytes, 0xc)),
            flags: le16(bytes, 0x12),
        }
    }
}

/// Byte ranges of a file system without meaning: sorted, apart, within it. Empty where nothing is known for sure.
pub fn unused<D: ReadAt + ?Sized>(disk: &D) -> io::Result<Vec<Range<u64>>> {
    let Some(geometry) = Geometry::read(disk)? else { return Ok(Vec::new()) };
    let mut descriptors = vec![0; geometry.groups() as usize * geometry.descriptor_size];
    let start = (geometry.first_block + 1) * geometry.block_size;
    if start + descriptors.len() as u64 > disk.size() {
        return Ok(Vec::new());
    }
    disk.read_exact_at(&mut descriptors, start)?;
    let groups: Vec<Group> = descriptors.chunks_exact(geometry.descriptor_size).map(Group::parse).collect();
    let mut ranges = Vec::new();
    let mut bitmap = vec![0; geometry.block_size as usize];
    for (index, group) in (0..).zip(&groups) {
        // Nobody has written there since the file system was made.
        if group.flags & GROUP_BLOCK_UNINIT != 0 {
            continue;
        }
        let Some(at) = geometry.check(group.bitmap) else { continue };
        disk.read_exact_at(&mut bitmap, at)?;
        let first = geometry.first_block + index * geometry.blocks_per_group;
        let count = geometry.blocks_per_group.min(geometry.blocks - first);
        let free = zero_runs(&bitmap, count as usize);
        if free.iter().map(|run| run.len() as u64).sum::<u64>() == u64::from(group.free_blocks) {
            let bytes = |block: usize| (first + block as u64) * geometry.block_size;
            ranges.extend(free.into_iter().map(|run| bytes(run.start)..bytes(run.end)));
        }
    }
    if geometry.has_journal
        && let Some(group) = groups.first()
    {
        ranges.extend(journal(disk, &geometry, group)?.unwrap_or_default());
    }
    Ok(merge(ranges))
}

/// Runs of zero bits among the first `count`.
fn zero_runs(bitmap: &[u8], count: usize) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut start = None;
    let mut bit = 0;
    while bit < count {
        let byte = bitmap[bit / 8];
        // Whole bytes of one kind are the rule.
        if bit % 8 == 0 && bit + 8 <= count && (byte == 0 && start.is_some() || byte == 0xff && start.is_none()) {
            bit += 8;
            continue;
        }
        match (byte >> (bit % 8) & 1 == 0, start) {
            (true, None) => start = Some(bit),
            (false, Some(begun)) => {
                runs.push(begun..bit);
                start = None;
            }
            _ => {}
        }
        bit += 1;
    }
    runs.extend(start.map(|begun| begun..count));
    runs
}

/// The journal's blocks but its first, if it holds nothing to replay; `None` where it cannot be understood.
fn journal<D: ReadAt + ?Sized>(disk: &D, geometry: &Geometry, group: &Group) -> io::Result<Option<Vec<Range<u64>>>> {
    let Some(table) = geometry.check(group.inode_table) else { return Ok(None) };
    let mut inode = [0; 128];
    disk.read_exact_at(&mut inode, table + u64::from(JOURNAL_INODE - 1) * geometry.inode_size)?;
    if le32(&inode, 0x20) & INODE_EXTENTS == 0 {
        return Ok(None);
    }
    let mut nodes = vec![inode[0x28..0x28 + 60].to_vec()];
    let (mut ranges, mut first, mut seen) = (Vec::new(), None, 0);
    while let Some(node) = nodes.pop() {
        seen += 1;
        let (entries, depth) = (usize::from(le16(&node, 2)), le16(&node, 6));
        if seen > MAX_EXTENT_NODES || le16(&node, 0) != EXTENT_MAGIC || depth > 5 || 12 + entries * 12 > node.len() {
            return Ok(None);
        }
        for entry in node[12..12 + entries * 12].chunks_exact(12) {
            if depth > 0 {
                let Some(at) = geometry.check(u64::from(le16(entry, 8)) << 32 | u64::from(le32(entry, 4))) else {
                    return Ok(None);
                };
                let mut below = vec![0; geometry.block_size as usize];
                disk.read_exact_at(&mut below, at)?;
                // A tree that does not get lower has no end.
                if le16(&below, 6) >= depth {
                    return Ok(None);
                }
                nodes.push(below);
                continue;
            }
            let (logical, length) = (le32(entry, 0), u64::from(le16(entry, 4)));
            let start = u64::from(le16(entry, 6)) << 32 | u64::from(le32(entry, 8));
            // A length above 32768 marks blocks that were never written.
            if length == 0 || length > 32768 || geometry.check(start).is_none() || start + length > geometry.blocks {
                return Ok(None);
            }
            let skip = u64::from(logical == 0);
            first = if logical == 0 { Some(start * geometry.block_size) } else { first };
            ranges.push((start + skip) * geometry.block_size..(start + length) * geometry.block_size);
        }
    }
    let Some(first) = first else { return Ok(None) };
    let mut sb = [0; 1024];
    disk.read_exact_at(&mut sb, first)?;
    let word = |at| u32::from_be_bytes(bytes_at(&sb, at));
    let empty = word(0) == JOURNAL_MAGIC && matches!(word(4), 3 | 4) && word(0x1c) == 0;
    Ok(empty.then_some(ranges))
}

fn merge(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}
