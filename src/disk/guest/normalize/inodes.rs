//! Inodes that were changed: no time later than the epoch, no number that the kernel drew, and nothing left of those
//! that were deleted. Knows bitmaps, and of inodes what the kernel keeps for itself; not what they are of.
//!
//! The kernel draws the generation of every new inode at random (only NFS asks for it), and counts versions by its clock.
//! Programs like `mke2fs` write zero for both, and so does this: equal writes give equal bytes. Checksums of the inode and
//! of its blocks begin with the generation, so they change with it; where one of them cannot be written the inode keeps
//! what it has.

use std::io;
use std::ops::Range;

use impasto_store::qcow2::CHUNK;

use super::{Ext4Volume, Pair, Patch};
use crate::disk::guest::ext4::ReadError;
use crate::disk::guest::ext4::inode::{
    ATIME_EXTRA, CTIME_EXTRA, FLAG_EA_INODE, GENERATION, MTIME_EXTRA, OLD_SIZE, extra_size, field,
    own_seed, sum_is_right, sum_of, sum_places,
};
use crate::disk::guest::ext4::superblock::BlockGroup;
use crate::disk::guest::ext4::time::{decode, encode};
use crate::disk::guest::{ReadAt, bytes_at, le32};

/// Nobody has written the group's bitmap since the file system was made: none of its inodes is used.
const INODE_UNINIT: u16 = 0x1;

/// Inodes before it are the file system's own.
const FIRST_INODE: u32 = 11;

const FLAGS: usize = 0x20;
const ATIME: usize = 0x8;
const CTIME: usize = 0xc;
const MTIME: usize = 0x10;
const CRTIME: usize = 0x90;
const CRTIME_EXTRA: usize = 0x94;
const VERSION_LOW: usize = 0x24;
const VERSION_HIGH: usize = 0x98;

/// Times, and the fields behind the oldest form that belong to them.
const TIMES: [(usize, usize); 4] = [
    (ATIME, ATIME_EXTRA),
    (CTIME, CTIME_EXTRA),
    (MTIME, MTIME_EXTRA),
    (CRTIME, CRTIME_EXTRA),
];

/// The inode of an attribute has its hash and its count of users in place of the other times and of the version.
const TIMES_OF_ATTRIBUTES: [(usize, usize); 2] = [(MTIME, MTIME_EXTRA), (CRTIME, CRTIME_EXTRA)];

/// What the kernel changes although nothing that a program can set is another: change time, access time, version.
const BOOKKEEPING: [usize; 6] = [
    ATIME,
    ATIME_EXTRA,
    CTIME,
    CTIME_EXTRA,
    VERSION_LOW,
    VERSION_HIGH,
];

/// Which inodes of a group are in use: a bitmap, from the first.
struct Used(Option<Vec<u8>>);

impl Used {
    /// `None` where the group cannot be believed.
    fn read<D: ReadAt + ?Sized>(
        volume: &Ext4Volume<'_, D>,
        group: &BlockGroup,
    ) -> io::Result<Option<Self>> {
        if !group.sum_is_right {
            return Ok(None);
        }
        if group.flags & INODE_UNINIT != 0 {
            return Ok(Some(Self(None)));
        }
        let Some(at) = volume.superblock.place(group.inode_bitmap) else {
            return Ok(None);
        };
        let count = volume.superblock.inodes_per_group;
        let mut bitmap = vec![0; volume.superblock.block_size as usize];
        volume.disk.read_exact_at(&mut bitmap, at)?;
        let used = Self(Some(bitmap));
        let free = (0..count).filter(|index| !used.has(*index)).count();
        Ok((free as u64 == u64::from(group.free_inodes)).then_some(used))
    }

    fn has(&self, index: u32) -> bool {
        let byte = self
            .0
            .as_ref()
            .and_then(|bitmap| bitmap.get(index as usize / 8));
        byte.is_some_and(|byte| byte >> (index % 8) & 1 == 1)
    }
}

impl<B: ReadAt + ?Sized, A: ReadAt + ?Sized> Pair<'_, B, A> {
    /// Patches of inodes that are not as before.
    pub(super) fn inodes(&self, patches: &mut Vec<Patch>) -> io::Result<()> {
        for number in 0..self.now.groups.len() {
            self.group(number, patches)?;
        }
        Ok(())
    }

    fn group(&self, number: usize, patches: &mut Vec<Patch>) -> io::Result<()> {
        let (sb, group) = (&self.now.superblock, &self.now.groups[number]);
        let Some(table) = sb.place(group.inode_table) else {
            return Ok(());
        };
        let size = sb.inode_size;
        let end = table + u64::from(sb.inodes_per_group) * size;
        if end > sb.blocks * sb.block_size {
            return Ok(());
        }
        let pieces = self.present_pieces(table..end, size);
        if pieces.is_empty() {
            return Ok(());
        }
        let Some(used) = Used::read(self.now, group)? else {
            return Ok(());
        };
        // Without what was there before, everything counts as new.
        let old = self.was.and_then(|was| {
            Some((
                was,
                was.groups
                    .get(number)
                    .filter(|old| old.inode_table == group.inode_table)?,
            ))
        });
        let old_used = old
            .map(|(was, old)| Used::read(was, old))
            .transpose()?
            .flatten();
        for piece in pieces {
            let (mut now, mut before) = (vec![0; (piece.end - piece.start) as usize], None);
            self.now.disk.read_exact_at(&mut now, piece.start)?;
            if let Some((was, _)) = old {
                let mut bytes = vec![0; now.len()];
                was.disk.read_exact_at(&mut bytes, piece.start)?;
                before = Some(bytes);
            }
            let first = ((piece.start - table) / size) as u32;
            for (place, raw) in (0..).zip(now.chunks_exact(size as usize)) {
                let index = first + place;
                let at = place as usize * raw.len();
                let old = before.as_deref().map(|before| &before[at..at + raw.len()]);
                if old == Some(raw) {
                    continue;
                }
                let settled = if used.has(index) {
                    self.used(
                        number as u32 * sb.inodes_per_group + index + 1,
                        raw,
                        old,
                        patches,
                    )?
                } else {
                    // A file of this job alone, or one that it deleted.
                    let was_free = old_used.as_ref().is_some_and(|used| !used.has(index));
                    Some(
                        old.filter(|_| was_free)
                            .map_or_else(|| vec![0; raw.len()], <[u8]>::to_vec),
                    )
                };
                if let Some(settled) = settled.filter(|settled| settled != raw) {
                    patches.push((self.start + piece.start + at as u64, settled));
                }
            }
        }
        Ok(())
    }

    /// Whether an inode's modification time is one that files were to keep.
    fn is_kept(&self, raw: &[u8]) -> bool {
        let more = field(raw, MTIME_EXTRA).unwrap_or(0);
        let second = u64::try_from(decode(le32(raw, MTIME), more));
        more >> 2 == 0 && second.is_ok_and(|second| self.kept.contains(&second))
    }

    /// The parts of a table of things of `size` bytes that lie wholly in chunks that may differ.
    fn present_pieces(&self, table: Range<u64>, size: u64) -> Vec<Range<u64>> {
        let mut pieces: Vec<Range<u64>> = Vec::new();
        let mut at = table.start;
        while at < table.end {
            // To the end of the chunk, and the one that crosses it.
            let chunk_end = ((self.start + at) / CHUNK as u64 + 1) * CHUNK as u64 - self.start;
            let whole = (chunk_end - at) / size * size;
            let end = (at + whole.max(size)).min(table.end);
            if self.all_present(&(at..end)) {
                match pieces.last_mut() {
                    Some(last) if last.end == at && last.end - last.start < (1 << 20) => {
                        last.end = end
                    }
                    _ => pieces.push(at..end),
                }
            }
            at = end;
        }
        pieces
    }

    /// An inode in use, normalized; `None` where it is not understood. The checksums of its blocks become patches.
    fn used(
        &self,
        number: u32,
        raw: &[u8],
        old: Option<&[u8]>,
        patches: &mut Vec<Patch>,
    ) -> io::Result<Option<Vec<u8>>> {
        let Ok(epoch) = i64::try_from(self.epoch) else {
            return Ok(None);
        };
        let sb = &self.now.superblock;
        let mut seed = own_seed(sb.seed, number, raw);
        let is_attribute = le32(raw, FLAGS) & FLAG_EA_INODE != 0;
        let impossible = OLD_SIZE + extra_size(raw) > raw.len();
        // Without what was there before, an attribute may be one of Lustre's, which are found by generation and time.
        if impossible || sb.has_sums() && !sum_is_right(seed, raw) || is_attribute && old.is_none()
        {
            return Ok(None);
        }
        if let Some(old) = old.filter(|old| same_but_for_bookkeeping(raw, old)) {
            return Ok(if is_attribute {
                None
            } else {
                Some(old.to_vec())
            });
        }
        let mut settled = raw.to_vec();
        // One of the same number, but not the same file, differs in this.
        let same_file = old.filter(|old| old[GENERATION] == raw[GENERATION]);
        if same_file.is_none() {
            settled[GENERATION].fill(0);
            let new_seed = own_seed(sb.seed, number, &settled);
            match self.reseeded(number, new_seed)? {
                Some(sums) => {
                    patches.extend(sums);
                    seed = new_seed;
                }
                None => settled[GENERATION].copy_from_slice(&raw[GENERATION]),
            }
        }
        let times = if is_attribute {
            TIMES_OF_ATTRIBUTES.as_slice()
        } else {
            &TIMES
        };
        // What this run did not write is of the time of who did.
        let unwritten = |old: &[u8]| {
            le32(old, MTIME) == le32(raw, MTIME)
                && field(old, MTIME_EXTRA) == field(raw, MTIME_EXTRA)
        };
        let keeps_mtime = !is_attribute && (same_file.is_some_and(unwritten) || self.is_kept(raw));
        for (low, extra) in times
            .iter()
            .copied()
            .filter(|(low, _)| *low != MTIME || !keeps_mtime)
        {
            clamp(&mut settled, low, extra, epoch);
        }
        if !is_attribute {
            for at in [VERSION_LOW, VERSION_HIGH]
                .into_iter()
                .filter(|at| *at < OLD_SIZE || field(raw, *at).is_some())
            {
                let before = same_file.filter(|old| at < OLD_SIZE || field(old, at).is_some());
                let version = before.map_or([0; 4], |old| bytes_at(old, at));
                settled[at..at + 4].copy_from_slice(&version);
            }
            // Such as a directory in which a file was for a while.
            if let Some(old) = old.filter(|old| same_but_for_bookkeeping(&settled, old)) {
                return Ok(Some(old.to_vec()));
            }
        }
        if sb.has_sums() {
            let sum = sum_of(seed, &settled).to_le_bytes();
            let (low, high) = sum_places(&settled);
            settled[low..low + 2].copy_from_slice(&sum[..2]);
            if let Some(high) = high {
                settled[high..high + 2].copy_from_slice(&sum[2..]);
            }
        }
        Ok(Some(settled))
    }

    /// The checksums of an inode's blocks if they begin with `seed`; `None` where not all of them can be written.
    fn reseeded(&self, number: u32, seed: u32) -> io::Result<Option<Vec<Patch>>> {
        // The checksums of the blocks of deleted files begin with the generation of the file that they are in.
        if number < FIRST_INODE
            || number == self.now.superblock.orphan_file
            || self.blocks_left.get() == 0
        {
            return Ok(None);
        }
        let io_only = |error| {
            if let ReadError::Io(error) = error {
                Err(error)
            } else {
                Ok(None)
            }
        };
        let inode = match self.now.ext.inode(number) {
            Ok(inode) => inode,
            Err(error) => return io_only(error),
        };
        // Inodes that share their blocks would be read as often, and so would those whose blocks make no sense.
        let sums = match self.now.ext.reseeded(&inode, seed) {
            Ok(sums) => sums,
            Err(error) => {
                self.blocks_left.set(0);
                return io_only(error);
            }
        };
        self.blocks_left
            .set(self.blocks_left.get().saturating_sub(sums.len() as u64));
        let patch = |(at, sum): (u64, u32)| {
            self.all_present(&(at..at + 4))
                .then(|| (self.start + at, sum.to_le_bytes().to_vec()))
        };
        Ok(sums.into_iter().map(patch).collect())
    }
}

/// Makes a time that is later than the epoch the epoch. Times that the inode has no room for stay.
fn clamp(raw: &mut [u8], low: usize, extra: usize, epoch: i64) {
    if low >= OLD_SIZE && field(raw, low).is_none() {
        return;
    }
    let more = field(raw, extra);
    let time = (
        decode(le32(raw, low), more.unwrap_or(0)),
        more.unwrap_or(0) >> 2,
    );
    let (new_low, new_extra) = encode(epoch);
    let fits = more.is_some() || new_extra == 0;
    if time > (epoch, 0) && fits && decode(new_low, new_extra) == epoch {
        raw[low..low + 4].copy_from_slice(&new_low.to_le_bytes());
        if more.is_some() {
            raw[extra..extra + 4].copy_from_slice(&new_extra.to_le_bytes());
        }
    }
}

/// Whether two inodes are equal but for what the kernel keeps for itself, and so for their checksums.
fn same_but_for_bookkeeping(new: &[u8], old: &[u8]) -> bool {
    if new.len() != old.len() || extra_size(new) != extra_size(old) {
        return false;
    }
    let (low, high) = sum_places(new);
    let mut masked = new.to_vec();
    let mut copy = |range: Range<usize>| masked[range.clone()].copy_from_slice(&old[range]);
    copy(low..low + 2);
    high.into_iter().for_each(|high| copy(high..high + 2));
    let fields = BOOKKEEPING
        .into_iter()
        .filter(|at| *at < OLD_SIZE || field(new, *at).is_some());
    fields.for_each(|at| copy(at..at + 4));
    masked == old
}
