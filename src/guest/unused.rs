//! Finds the parts of an ext4 file system whose content means nothing: free blocks, and an empty journal's.
//!
//! Knows bitmaps and extents, not files. What it names may be dropped, so it is strict: a group whose bitmap does not
//! agree with its own count of free blocks, or a feature that is not known here, is left alone.

use std::io;
use std::ops::Range;

use super::ext4::ReadError;
use super::ext4::superblock::feature::{INCOMPAT_META_BG, RO_COMPAT_BIGALLOC};
use super::ext4::superblock::{Group, Superblock};
use super::{ReadAt, bytes_at, le16, le32};

const GROUP_BLOCK_UNINIT: u16 = 0x2;
const INODE_EXTENTS: u32 = 0x8_0000;
const JOURNAL_INODE: u32 = 8;
const JOURNAL_MAGIC: u32 = 0xc03b_3998;
const EXTENT_MAGIC: u16 = 0xf30a;

/// A journal of 1 GiB in pieces of one block group each has eight extents.
const MAX_EXTENT_NODES: usize = 64;

/// `None` unless this is a clean ext file system of a kind that is understood.
fn read_superblock<D: ReadAt + ?Sized>(disk: &D) -> io::Result<Option<Superblock>> {
    Ok(Superblock::read(disk)?.filter(|sb| {
        let known = !sb.incompat(INCOMPAT_META_BG) && !sb.ro_compat(RO_COMPAT_BIGALLOC);
        known && sb.complaint().is_none() && sb.fault(disk.size()).is_none()
    }))
}

/// Byte ranges of a file system without meaning: sorted, apart, within it. Empty where nothing is known for sure.
pub fn unused<D: ReadAt + ?Sized>(disk: &D) -> io::Result<Vec<Range<u64>>> {
    let Some(sb) = read_superblock(disk)? else { return Ok(Vec::new()) };
    let groups = match sb.read_groups(disk) {
        Ok(groups) => groups,
        Err(ReadError::Io(error)) => return Err(error),
        Err(_) => return Ok(Vec::new()),
    };
    let mut ranges = Vec::new();
    let mut bitmap = vec![0; sb.block_size as usize];
    for (index, group) in (0..).zip(&groups) {
        // Nobody has written there since the file system was made; or it cannot be believed.
        if group.flags & GROUP_BLOCK_UNINIT != 0 || !group.sum_is_right {
            continue;
        }
        let Some(at) = sb.place(group.block_bitmap) else { continue };
        disk.read_exact_at(&mut bitmap, at)?;
        let first = sb.first_block + index * sb.blocks_per_group;
        let count = sb.blocks_per_group.min(sb.blocks - first);
        let free = zero_runs(&bitmap, count as usize);
        if free.iter().map(|run| run.len() as u64).sum::<u64>() == u64::from(group.free_blocks) {
            let bytes = |block: usize| (first + block as u64) * sb.block_size;
            ranges.extend(free.into_iter().map(|run| bytes(run.start)..bytes(run.end)));
        }
    }
    if sb.journal_inode == JOURNAL_INODE
        && let Some(group) = groups.first()
    {
        ranges.extend(journal(disk, &sb, group)?.unwrap_or_default());
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
fn journal<D: ReadAt + ?Sized>(disk: &D, sb: &Superblock, group: &Group) -> io::Result<Option<Vec<Range<u64>>>> {
    let Some(table) = sb.place(group.inode_table) else { return Ok(None) };
    let mut inode = [0; 128];
    disk.read_exact_at(&mut inode, table + u64::from(JOURNAL_INODE - 1) * sb.inode_size)?;
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
                let Some(at) = sb.place(u64::from(le16(entry, 8)) << 32 | u64::from(le32(entry, 4))) else {
                    return Ok(None);
                };
                let mut below = vec![0; sb.block_size as usize];
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
            if length == 0 || length > 32768 || sb.place(start).is_none() || start + length > sb.blocks {
                return Ok(None);
            }
            let skip = u64::from(logical == 0);
            first = if logical == 0 { Some(start * sb.block_size) } else { first };
            ranges.push((start + skip) * sb.block_size..(start + length) * sb.block_size);
        }
    }
    let Some(first) = first else { return Ok(None) };
    let mut head = [0; 1024];
    disk.read_exact_at(&mut head, first)?;
    let word = |at| u32::from_be_bytes(bytes_at(&head, at));
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
