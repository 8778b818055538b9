//! What there is to see after a step failed: how full the disk was, and what a file lacks that could not be started.
//!
//! Knows the guest's files, not what was wrong: impasto draws the conclusions.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{StatVfsMountFlags, statvfs};

use crate::base::bounded;
use crate::mounts::GuestMounts;
use crate::protocol::{FileFacts, MAX_EXAMINED, Space, StepFacts};

/// At least this long lies between two looks at the file systems.
const INTERVAL: Duration = Duration::from_millis(20);

/// Longest first line of a script that the kernel reads (BINPRM_BUF_SIZE of linux/binfmts.h), in bytes.
const FIRST_LINE: u64 = 256;

/// The least that was free on each file system of the disk since it was looked at first.
pub(crate) struct Gauge {
    least: RefCell<Vec<Space>>,
    next: Cell<Instant>,
}

impl Gauge {
    pub(crate) fn new() -> Self {
        Self {
            least: RefCell::default(),
            next: Cell::new(Instant::now()),
        }
    }

    /// Looks, where it is time to.
    pub(crate) fn look(&self, guest_mounts: &GuestMounts) {
        if Instant::now() >= self.next.get() {
            self.look_now(guest_mounts);
        }
    }

    /// A program that fails for lack of space often gives back at its end what it had taken.
    fn look_now(&self, guest_mounts: &GuestMounts) {
        self.next.set(Instant::now() + INTERVAL);
        let mut least = self.least.borrow_mut();
        for path in guest_mounts.mount_points() {
            let Ok(found) = statvfs(path) else { continue };
            let name = path.to_string_lossy();
            let (free, free_inodes) = (found.f_bfree * found.f_frsize, found.f_ffree);
            match least.iter_mut().find(|space| space.path == name) {
                Some(space) => {
                    space.free = space.free.min(free);
                    space.free_inodes = space.free_inodes.min(free_inodes);
                }
                None => least.push(Space {
                    path: name.into_owned(),
                    size: found.f_blocks * found.f_frsize,
                    free,
                    inodes: found.f_files,
                    free_inodes,
                }),
            }
        }
    }

    /// All that can be said of a step that has just failed.
    pub(crate) fn facts(&self, guest_mounts: &GuestMounts, files: &[String]) -> StepFacts {
        self.look_now(guest_mounts);
        let path = guest_mounts
            .setup
            .env
            .iter()
            .find(|(name, _)| name == "PATH")
            .map_or("", |(_, value)| value.as_str());
        let files = files
            .iter()
            .take(MAX_EXAMINED)
            .map(|name| examine(name, path))
            .collect();
        StepFacts {
            spaces: self.least.borrow().clone(),
            files,
        }
    }
}

/// A file by its absolute path, or by its name in the directories of `path`.
fn examine(name: &str, path: &str) -> FileFacts {
    let absent = FileFacts {
        name: name.to_owned(),
        mode: None,
        directory: false,
        noexec: false,
        lacks: None,
    };
    let found = match name.contains('/') {
        true => Some(PathBuf::from(name)).filter(|file| file.is_absolute() && file.exists()),
        false => path
            .split(':')
            .map(|dir| Path::new(dir).join(name))
            .find(|file| file.is_file()),
    };
    let Some(file) = found else { return absent };
    let Ok(metadata) = fs::metadata(&file) else {
        return absent;
    };
    let noexec = statvfs(&file).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::NOEXEC));
    let lacks = interpreter(&file).filter(|program| !Path::new(program).exists());
    FileFacts {
        mode: Some(metadata.permissions().mode() & 0o7777),
        directory: metadata.is_dir(),
        noexec,
        lacks,
        ..absent
    }
}

/// The program that starts a file: named by a script's first line, or by the header of a program.
fn interpreter(file: &Path) -> Option<String> {
    let file = bounded::open(file).ok()?;
    let mut start = [0; 2];
    file.read_exact_at(&mut start, 0).ok()?;
    if &start != b"#!" {
        return loader(&file);
    }
    let mut line = Vec::new();
    BufReader::new(file.take(FIRST_LINE))
        .read_until(b'\n', &mut line)
        .ok()?;
    let line = String::from_utf8_lossy(&line[2..]);
    // A carriage return is part of the name, to the kernel too.
    let mut words = line
        .trim_end_matches('\n')
        .split([' ', '\t'])
        .filter(|word| !word.is_empty());
    words.next().map(str::to_owned)
}

/// The dynamic linker that an ELF program of 64 bits names (elf(5), PT_INTERP).
fn loader(file: &fs::File) -> Option<String> {
    const HEADER: usize = 64;
    const PT_INTERP: u32 = 3;
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0).ok()?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let number =
        |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("BUG: eight bytes"));
    let short = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let (table, size, count) = (number(32), short(54), short(56));
    for index in 0..count {
        let mut entry = [0; 40];
        file.read_exact_at(&mut entry, table.checked_add(index * size)?)
            .ok()?;
        if u32::from_le_bytes(entry[..4].try_into().expect("BUG: four bytes")) != PT_INTERP {
            continue;
        }
        let offset = u64::from_le_bytes(entry[8..16].try_into().expect("BUG: eight bytes"));
        let length = u64::from_le_bytes(entry[32..40].try_into().expect("BUG: eight bytes"));
        let mut name = vec![0; usize::try_from(length.min(FIRST_LINE)).ok()?];
        file.read_exact_at(&mut name, offset).ok()?;
        return Some(
            String::from_utf8_lossy(&name)
                .trim_end_matches('\0')
                .to_owned(),
        );
    }
    None
}
