//! Makes empty btrfs file systems, through `mkfs.btrfs`, which takes the time and random UUIDs: both are put right afterwards.
//! Knows mkfs.btrfs' options, the superblock and the leaves of its trees (fs/btrfs/ctree.h); knows no file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::error::AssembleError;
use super::partitions::{DiskIdentity, PlannedPartition};
use super::separate::{SeparateFile, pieces};
use super::tool::Tool;
use crate::disk::guest::crc::crc32c;

const SECTOR: usize = 4096;
const NODE: usize = 16384;

/// Makes a file system in a partition of `disk`.
///
/// # Errors
/// mkfs.btrfs fails, or a file.
pub(super) fn make(
    disk: &File,
    part: &PlannedPartition,
    label: Option<&str>,
    epoch: u64,
    work: &Path,
) -> Result<(), AssembleError> {
    let DiskIdentity::Uuid { uuid, .. } = part.identity else {
        panic!("BUG: a btrfs without UUID")
    };
    let made = SeparateFile::create(work, part)?;
    let (sector, node) = (SECTOR.to_string(), NODE.to_string());
    // Not with our UUID: it refuses one that a device of the host has, too.
    let tool = Tool::new("mkfs.btrfs", epoch)
        .args(["-q", "-K", "-m", "dup", "-d", "single", "--csum", "crc32c"])
        .args(["-s", &sector, "-n", &node]);
    let tool = match label {
        Some(label) => tool.args(["-L", label]),
        None => tool,
    };
    tool.arg(made.path()).run()?;
    made.edit(|file| normalize(file, &uuid.0, epoch))?;
    made.place(disk)
}

type UuidBytes = [u8; 16];

/// Where the copies of the superblock lie, as far as the disk reaches.
const SUPERBLOCKS: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
const MAGIC: Range<usize> = 64..72;
/// Of the superblock: the UUID of the device.
const DEVICE: Range<usize> = 267..283;

/// Of a node: what its sum is, what it is of, and how many items it has.
const SUM: Range<usize> = 0..4;
const SUMMED: usize = 32;
const FILE_SYSTEM: Range<usize> = 32..48;
const CHUNK_TREE: Range<usize> = 64..80;
const ITEMS: Range<usize> = 96..100;
const LEVEL: usize = 100;
const HEADER: usize = 101;
const ITEM: usize = 25;

/// Types of items, and what in them is of now.
const INODE_ITEM: u8 = 1;
const ROOT_ITEM: u8 = 132;
const UUID_KEY: u8 = 251;
const INODE_TIMES: [usize; 4] = [112, 124, 136, 148];
const ROOT_UUID: Range<usize> = 247..263;
const ROOT_TIMES: [usize; 4] = [327, 339, 351, 363];

/// Gives an empty file system its UUID, replaces its other random ones by such that follow from it, and every time by `epoch`,
/// in seconds since 1970.
fn normalize(file: &File, uuid: &UuidBytes, epoch: u64) -> io::Result<()> {
    let odd = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "mkfs.btrfs wrote something else",
        )
    };
    let mut first = vec![0; SECTOR];
    file.read_exact_at(&mut first, SUPERBLOCKS[0])?;
    let random_uuid = UuidBytes::try_from(&first[FILE_SYSTEM]).map_err(|_| odd())?;
    let mut nodes = Vec::new();
    let mut supers = Vec::new();
    pieces(file, |at, bytes| {
        for (index, head) in bytes.chunks_exact(SECTOR).enumerate() {
            let place = at + (index * SECTOR) as u64;
            if SUPERBLOCKS.contains(&place) && &head[MAGIC] == b"_BHRfS_M" {
                supers.push((place, head.to_vec()));
            } else if head[FILE_SYSTEM] == random_uuid {
                nodes.push(place);
            }
        }
        Ok(())
    })?;
    if supers.is_empty() || nodes.is_empty() {
        return Err(odd());
    }
    let mut random = BTreeMap::from([(random_uuid, *uuid)]);
    let mut rename = |old: &[u8], what: u8| {
        let known = UuidBytes::try_from(old).unwrap_or_default();
        if known != UuidBytes::default() {
            random.entry(known).or_insert_with(|| derived(uuid, what));
        }
    };
    let mut read = Vec::new();
    for place in nodes {
        let mut node = vec![0; NODE];
        file.read_exact_at(&mut node, place)?;
        // What only looks like one has no such sum.
        if node[SUM] != sum(&node) {
            continue;
        }
        rename(&node[CHUNK_TREE], 1);
        for (kind, data) in items(&node) {
            if kind == ROOT_ITEM && data.len() >= ROOT_TIMES[3] + 12 {
                rename(
                    &node[data.start + ROOT_UUID.start..data.start + ROOT_UUID.end],
                    2,
                );
            }
        }
        read.push((place, node));
    }
    rename(&first[DEVICE], 3);
    for (place, mut node) in read {
        set_times(&mut node, epoch);
        replace(&mut node[SUMMED..], &random);
        let sum = sum(&node);
        node[SUM].copy_from_slice(&sum);
        file.write_all_at(&node, place)?;
    }
    for (place, mut block) in supers {
        replace(&mut block[SUMMED..], &random);
        let sum = sum(&block);
        block[SUM].copy_from_slice(&sum);
        file.write_all_at(&block, place)?;
    }
    Ok(())
}

fn sum(block: &[u8]) -> [u8; 4] {
    (!crc32c(!0, &block[SUMMED..])).to_le_bytes()
}

/// Another UUID that follows from one.
fn derived(uuid: &UuidBytes, what: u8) -> UuidBytes {
    let mut derived = *uuid;
    derived[15] ^= what;
    derived
}

/// The types of a leaf's items, with the place of what belongs to each; nothing of a node that is not a leaf.
fn items(node: &[u8]) -> Vec<(u8, Range<usize>)> {
    let le32 = |at: usize| u32::from_le_bytes([node[at], node[at + 1], node[at + 2], node[at + 3]]);
    if node[LEVEL] != 0 {
        return Vec::new();
    }
    let count = (le32(ITEMS.start) as usize).min((NODE - HEADER) / ITEM);
    let item = |index: usize| {
        let at = HEADER + index * ITEM;
        let start = HEADER.saturating_add(le32(at + 17) as usize);
        let end = start.saturating_add(le32(at + 21) as usize);
        (end <= NODE).then_some((node[at + 8], start..end))
    };
    (0..count).filter_map(item).collect()
}

fn set_times(node: &mut [u8], epoch: u64) {
    for (kind, data) in items(node) {
        let times = match kind {
            INODE_ITEM if data.len() >= INODE_TIMES[3] + 12 => INODE_TIMES,
            // The inode in it has none.
            ROOT_ITEM if data.len() >= ROOT_TIMES[3] + 12 => ROOT_TIMES,
            _ => continue,
        };
        for time in times {
            let at = data.start + time;
            if node[at..at + 12].iter().any(|byte| *byte != 0) {
                node[at..at + 8].copy_from_slice(&epoch.to_le_bytes());
                node[at + 8..at + 12].fill(0);
            }
        }
    }
}

/// Puts the new UUIDs in the place of the random ones, wherever they stand. The key of a UUID's item has it in two halves,
/// around the type.
fn replace(bytes: &mut [u8], random: &BTreeMap<UuidBytes, UuidBytes>) {
    for (old, new) in random {
        let mut at = 0;
        while let Some(found) = bytes[at..].windows(16).position(|window| window == old) {
            bytes[at + found..at + found + 16].copy_from_slice(new);
            at += found + 16;
        }
        let key = [&old[..8], &[UUID_KEY], &old[8..]].concat();
        at = 0;
        while let Some(found) = bytes[at..].windows(17).position(|window| window == key) {
            let place = at + found;
            bytes[place..place + 8].copy_from_slice(&new[..8]);
            bytes[place + 9..place + 17].copy_from_slice(&new[8..]);
            at = place + 17;
        }
    }
}
