//! Grows a disk in place: its partition table, the last partition, and the ext4 in it.
//! Runs inside a sandbox, on a file that is as large as the disk shall be; mounts nothing, and leaves the same bytes every
//! time. Does not know where the disk comes from.

mod error;
mod table;

use std::fs::File;
use std::path::Path;

use impasto_stages::disk::MIB;

pub use error::ResizeError;

use super::error::AssembleError;
use super::tool::Tool;
use crate::disk::guest::ext4::{Ext4, Ext4Identity, Paths, ReadError};
use crate::disk::guest::{
    self, DiskFile, DiskLayout, FileSystem, FsKind, PartitionTable, ReadAt, RootChoice, RootError,
    RootSelector, Window,
};

/// The feature that gives space in clusters of blocks, which resize2fs calls untested.
const BIGALLOC: u32 = 0x200;

/// What is to grow.
struct GrowTarget<'l> {
    /// Its number; 0 is the disk itself.
    number: u32,
    /// First byte.
    start: u64,
    /// Length in bytes.
    size: u64,
    fs: &'l FileSystem,
}

impl GrowTarget<'_> {
    /// As messages name it.
    fn name(&self) -> String {
        match self.number {
            0 => "the disk".to_owned(),
            number => format!("partition {number}"),
        }
    }
}

/// Grows the disk in the file `path`, which had `was` bytes and has as many as it shall have; what is new is zero.
/// `selector` is the partition that is to grow, `epoch` stands for now. `log` takes lines for the stage's log, `phase` which
/// part of the work is over. Where everything is as large as it can be, nothing is written.
///
/// Programs that it runs: `e2fsck` and `resize2fs`.
///
/// # Errors
/// Something lies behind the partition, or is not what can be grown here; or a program or a file fails.
pub fn resize(
    path: &Path,
    was: u64,
    selector: &RootSelector,
    epoch: u64,
    log: &mut dyn FnMut(&str),
    phase: &mut dyn FnMut(&str),
) -> Result<(), ResizeError> {
    let io = |verb| AssembleError::io(verb, path);
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(io("open"))?;
    let disk = DiskFile::new(file.try_clone().map_err(io("open"))?).map_err(io("examine"))?;
    let before = Window::new(&disk, 0, was);
    let layout = guest::read_layout(&before).map_err(io("read"))?;
    let target = find(&before, &layout, selector)?;
    demand_last(&layout, &target)?;
    let identity = examine(&before, &target)?;

    let size = table::room(&file, disk.size(), &layout, &target).map_err(io("read"))??;
    let blocks = size / u64::from(identity.block_size);
    if size == target.size && blocks <= identity.blocks {
        // The table's backup may have to move all the same.
        table::grow(&file, disk.size(), &layout, &target, size).map_err(io("write"))??;
        log("the file system is as large as its disk already");
        return Ok(());
    }
    check(path, &target, epoch)?;
    phase("check");
    table::grow(&file, disk.size(), &layout, &target, size).map_err(io("write"))??;
    grow(path, &target, blocks, epoch)?;
    phase("grow");
    check(path, &target, epoch).map_err(ResizeError::after)?;
    phase("check again");
    log(&format!(
        "{} grew from {} to {} MiB, its file system from {} to {blocks} blocks",
        target.name(),
        target.size / MIB,
        size / MIB,
        identity.blocks
    ));
    Ok(())
}

/// The partition that is meant.
fn find<'l, D: ReadAt + ?Sized>(
    disk: &D,
    layout: &'l DiskLayout,
    selector: &RootSelector,
) -> Result<GrowTarget<'l>, ResizeError> {
    if let PartitionTable::Gpt {
        from_backup: true, ..
    } = layout.table
    {
        return Err(ResizeError::DamagedTable);
    }
    if layout.partitions.is_empty() && layout.bare.is_none() {
        return Err(ResizeError::Nothing);
    }
    let choice = guest::choose_root(layout, selector).map_err(|error| match error {
        RootError::Container { what, kind } => ResizeError::Kind { what, kind },
        error => ResizeError::NotFound(error),
    })?;
    let number = match choice {
        RootChoice::Whole => 0,
        RootChoice::Partition(number) => number,
        RootChoice::Probe(numbers) => match numbers[..] {
            [number] => number,
            _ => the_one_with_a_shell(disk, layout, &numbers)?,
        },
    };
    if let (0, Some(fs)) = (number, &layout.bare) {
        let (start, size) = (0, disk.size());
        return Ok(GrowTarget {
            number,
            start,
            size,
            fs,
        });
    }
    let one = layout.partitions.iter().find(|one| one.number == number);
    let one = one.expect("BUG: a partition was chosen that is not there");
    let fs = one.fs.as_ref().ok_or(ResizeError::Nothing)?;
    Ok(GrowTarget {
        number,
        start: one.start,
        size: one.size,
        fs,
    })
}

/// The only one of these partitions in which there is `/bin/sh`.
fn the_one_with_a_shell<D: ReadAt + ?Sized>(
    disk: &D,
    layout: &DiskLayout,
    numbers: &[u32],
) -> Result<u32, ResizeError> {
    let has_shell = |number: &u32| {
        let one = layout.partitions.iter().find(|one| one.number == *number)?;
        let window = Window::new(disk, one.start, one.size);
        // One that cannot be read is not known to have one.
        let fs = Ext4::open(&window).ok()?;
        let mut paths = Paths::new(&fs);
        // `/bin` may be a link, which is not followed.
        ["/bin/sh", "/usr/bin/sh"]
            .iter()
            .any(|path| matches!(paths.find(path.as_bytes()), Ok(Some(_))))
            .then_some(*number)
    };
    let found: Vec<u32> = numbers.iter().filter_map(has_shell).collect();
    match found[..] {
        [number] => Ok(number),
        _ => Err(ResizeError::Several {
            numbers: numbers.to_vec(),
        }),
    }
}

/// Nothing may lie behind what is to grow.
fn demand_last(layout: &DiskLayout, target: &GrowTarget<'_>) -> Result<(), ResizeError> {
    let behind = layout
        .partitions
        .iter()
        .filter(|one| one.number != target.number && one.start > target.start);
    let Some(one) = behind.min_by_key(|one| one.start) else {
        return Ok(());
    };
    Err(ResizeError::Behind {
        number: target.number,
        behind: one.number,
        kind: one.fs.as_ref().map(|fs| fs.kind),
        size: one.size,
    })
}

/// What the file system says of itself, where it is one that can be grown.
fn examine<D: ReadAt + ?Sized>(
    disk: &D,
    target: &GrowTarget<'_>,
) -> Result<Ext4Identity, ResizeError> {
    let what = || target.name();
    match target.fs.kind {
        FsKind::Ext2 | FsKind::Ext3 | FsKind::Ext4 => {}
        kind => return Err(ResizeError::Kind { what: what(), kind }),
    }
    let window = Window::new(disk, target.start, target.size);
    let identity = match Ext4::open(&window) {
        Ok(fs) => fs.identity().clone(),
        Err(ReadError::NotClean { reason }) => {
            return Err(ResizeError::NotClean {
                what: what(),
                reason,
            });
        }
        Err(ReadError::Unsupported { what: feature }) => {
            return Err(ResizeError::Feature {
                what: what(),
                feature,
            });
        }
        Err(error) => {
            return Err(ResizeError::Damaged {
                what: what(),
                reason: crate::base::human::with_causes(&error),
            });
        }
    };
    if identity.ro_compat & BIGALLOC != 0 {
        let feature = "space in clusters (bigalloc)".to_owned();
        return Err(ResizeError::Feature {
            what: what(),
            feature,
        });
    }
    Ok(identity)
}

/// A program of e2fsprogs with the file system as its argument, and nothing of the host's or of now.
fn tool(
    program: &'static str,
    option: &str,
    path: &Path,
    target: &GrowTarget<'_>,
    epoch: u64,
) -> Tool {
    // Zero would mean the real time.
    let now = epoch.max(1).to_string();
    let device = format!("{}?offset={}", path.display(), target.start);
    Tool::new(program, epoch)
        .env("E2FSPROGS_FAKE_TIME", now)
        // What the host's kernel could do later would decide otherwise.
        .env("RESIZE2FS_FORCE_ITABLE_INIT", "1")
        .arg(option)
        .arg(device)
}

/// Demands that e2fsck finds nothing; it changes nothing.
fn check(path: &Path, target: &GrowTarget<'_>, epoch: u64) -> Result<(), ResizeError> {
    let output = tool("e2fsck", "-fn", path, target, epoch).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let what = target.name();
    if let Some((_, features)) = said.split_once("unsupported feature(s):") {
        let feature = features.lines().next().unwrap_or_default().trim();
        let feature = format!("the feature {feature}");
        return Err(ResizeError::Feature { what, feature });
    }
    // What was found comes after the title of the pass that found it, and before the question that -n answers.
    let is_title = |line: &&str| line.starts_with("Pass ") || line.starts_with("e2fsck ");
    let found = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !is_title(line))
        .take(3)
        .collect::<Vec<_>>();
    let reason = match &found[..] {
        [] => output.status.to_string(),
        lines => lines.join("; "),
    };
    Err(ResizeError::Damaged { what, reason })
}

fn grow(path: &Path, target: &GrowTarget<'_>, blocks: u64, epoch: u64) -> Result<(), ResizeError> {
    // It would ask for a check by e2fsck that writes; the one that was just made found nothing.
    let tool = tool("resize2fs", "-f", path, target, epoch);
    // It takes the file for the file system's own, and would cut the disk off where that would end.
    tool.arg(blocks.to_string()).keep_sizes().run()?;
    Ok(())
}
