//! Finds the parts of an ext4 file system whose content means nothing: free blocks, and an empty journal's.
//!
//! Knows bitmaps and journals, not files. What it names may be dropped, so it is strict: a group whose bitmap does not
//! agree with its own count of free blocks, or a feature that is not known here, is left alone.

use std::io;
use std::ops::Range;

use super::ext4::superblock::Superblock;
use super::ext4::superblock::feature::{INCOMPAT_META_BG, RO_COMPAT_BIGALLOC};
use super::ext4::{Ext4, InodeContent, ReadError};
use super::{ReadAt, bytes_at};

const GROUP_BLOCK_UNINIT: u16 = 0x2;
pub(super) const JOURNAL_INODE: u32 = 8;
const JOURNAL_MAGIC: u32 = 0xc03b_3998;

/// Size of a journal's superblock.
const HEAD: u64 = 1024;

/// `None` unless this is a clean ext file system of a kind that is understood.
pub(super) fn read_superblock<D: ReadAt + ?Sized>(disk: &D) -> io::Result<Option<Superblock>> {
    Ok(Superblock::read(disk)?.filter(|sb| {
        let known = !sb.incompat(INCOMPAT_META_BG) && !sb.ro_compat(RO_COMPAT_BIGALLOC);
        known && sb.complaint().is_none() && sb.fault(disk.size()).is_none()
    }))
}

/// Byte ranges of a file system without meaning: sorted, apart, within it. Empty where nothing is known for sure.
pub fn unused<D: ReadAt + ?Sized>(disk: &D) -> io::Result<Vec<Range<u64>>> {
    let Some(sb) = read_superblock(disk)? else {
        return Ok(Vec::new());
    };
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
        let Some(at) = sb.place(group.block_bitmap) else {
            continue;
        };
        disk.read_exact_at(&mut bitmap, at)?;
        let first = sb.first_block + index * sb.blocks_per_group;
        let count = sb.blocks_per_group.min(sb.blocks - first);
        let free = zero_runs(&bitmap, count as usize);
        if free.iter().map(|run| run.len() as u64).sum::<u64>() == u64::from(group.free_blocks) {
            let bytes = |block: usize| (first + block as u64) * sb.block_size;
            ranges.extend(free.into_iter().map(|run| bytes(run.start)..bytes(run.end)));
        }
    }
    if sb.journal_inode == JOURNAL_INODE {
        ranges.extend(journal(disk)?.into_iter().flat_map(|journal| journal.rest));
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
        if bit % 8 == 0
            && bit + 8 <= count
            && (byte == 0 && start.is_some() || byte == 0xff && start.is_none())
        {
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

/// A journal that holds nothing to replay.
pub(super) struct Journal {
    /// Its superblock, in bytes.
    pub(super) first: u64,
    /// Its other blocks, in bytes.
    rest: Vec<Range<u64>>,
}

/// The journal, if it holds nothing to replay; `None` where it cannot be understood.
pub(super) fn journal<D: ReadAt + ?Sized>(disk: &D) -> io::Result<Option<Journal>> {
    let read = || {
        let ext = Ext4::open(disk)?;
        let InodeContent::Extents(extents) = ext.content(&ext.inode(JOURNAL_INODE)?)? else {
            return Ok(None);
        };
        let Some(first) = extents
            .first()
            .filter(|first| first.offset == 0 && first.length >= HEAD)
        else {
            return Ok(None);
        };
        let mut head = [0; HEAD as usize];
        disk.read_exact_at(&mut head, first.start)
            .map_err(ReadError::Io)?;
        let word = |at| u32::from_be_bytes(bytes_at(&head, at));
        let empty = word(0) == JOURNAL_MAGIC && matches!(word(4), 3 | 4) && word(0x1c) == 0;
        let block = u64::from(ext.identity().block_size);
        let mut rest: Vec<_> = extents
            .iter()
            .map(|extent| extent.start..extent.start + extent.length)
            .collect();
        rest[0].start = rest[0].end.min(first.start + block);
        Ok(empty.then_some(Journal {
            first: first.start,
            rest,
        }))
    };
    match read() {
        Err(ReadError::Io(error)) => Err(error),
        result => Ok(result.ok().flatten()),
    }
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
