//! One loop device for the whole disk, and its partitions by `BLKPG`: the kernel may know no partition table.
//!
//! Knows block devices, not file systems. The device goes away with its last user, so nothing is left after a kill.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mknodat};

use crate::base::bounded;
use crate::disk::guest::Partition;
use crate::sandbox::protocol::{Device, Problem, ProblemKind};
use crate::sandbox::sys;

const LOOP_MAJOR: u32 = 7;

/// Others may take the free device between asking and binding.
const BIND_ATTEMPTS: u32 = 200;

/// File systems that left-over mount namespaces held are closed by kernel threads.
const RELEASE_DEADLINE: Duration = Duration::from_secs(60);

/// A bound loop device.
pub(super) struct LoopDevice {
    file: File,
    number: u32,
    partitions: Vec<u32>,
}

impl LoopDevice {
    /// Binds a free device to `backing`.
    pub(super) fn attach(backing: &File) -> Result<Self, Problem> {
        let lacks = |path: &str, error: &io::Error| {
            Problem::io("open", path, error).of_kind(ProblemKind::HostLacks)
        };
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/loop-control")
            .map_err(|e| lacks("/dev/loop-control", &e))?;
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for _ in 0..BIND_ATTEMPTS {
            let number =
                sys::loop_get_free(&control).map_err(|e| lacks("/dev/loop-control", &e))?;
            let file = open_node(number).map_err(|e| lacks(&format!("/dev/loop{number}"), &e))?;
            let flags = sys::LO_FLAGS_AUTOCLEAR | sys::LO_FLAGS_PARTSCAN;
            match sys::loop_configure(&file, backing.as_fd(), flags) {
                Ok(()) => {
                    return Ok(Self {
                        file,
                        number,
                        partitions: Vec::new(),
                    });
                }
                Err(error)
                    if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) =>
                {
                    last = error
                }
                Err(error) => {
                    return Err(Problem::io("bind", format!("/dev/loop{number}"), &error));
                }
            }
        }
        Err(Problem::io("bind", "a loop device", &last))
    }

    fn name(&self) -> String {
        format!("loop{}", self.number)
    }

    /// The disk's device number.
    pub(super) fn device(&self) -> Result<Device, Problem> {
        read_device(&Path::new("/sys/block").join(self.name()))
    }

    /// Makes the kernel's view of the partitions the one that `partitions` gives.
    pub(super) fn set_partitions(
        &mut self,
        partitions: &[Partition],
    ) -> Result<Vec<(u32, Device)>, Problem> {
        let dir = Path::new("/sys/block").join(self.name());
        // A kernel that knows the table has scanned it by itself, and may have read it in another way.
        let mut there = scanned(&dir, &self.name());
        there.retain(|number| {
            let path = dir.join(format!("{}p{number}", self.name()));
            partitions
                .iter()
                .any(|partition| partition.number == *number && is_same(&path, partition))
        });
        for number in scanned(&dir, &self.name()) {
            if !there.contains(&number) {
                self.delete(number)?;
            }
        }
        let mut devices = Vec::with_capacity(partitions.len());
        for partition in partitions {
            if !there.contains(&partition.number) {
                sys::add_partition(
                    &self.file,
                    partition.number,
                    partition.start,
                    partition.size,
                )
                .map_err(|error| {
                    Problem::io(
                        "add a partition to",
                        format!("{} (number {})", self.name(), partition.number),
                        &error,
                    )
                })?;
            }
            self.partitions.push(partition.number);
            let name = format!("{}p{}", self.name(), partition.number);
            devices.push((partition.number, read_device(&dir.join(name))?));
        }
        Ok(devices)
    }

    /// Removes a partition once nobody uses it: a file system that is being closed, a host's udev that looks at it.
    fn delete(&self, number: u32) -> Result<(), Problem> {
        let begun = Instant::now();
        loop {
            match sys::delete_partition(&self.file, number) {
                Ok(()) => return Ok(()),
                Err(error) if is_busy(&error) && begun.elapsed() < RELEASE_DEADLINE => pause(),
                Err(error) => {
                    let problem = Problem::io("release a partition of", self.name(), &error);
                    return Err(problem.of_kind(ProblemKind::WriteBack));
                }
            }
        }
    }

    /// Unbinds the device once nobody uses it any more, and waits until its data is with the backing file.
    pub(super) fn detach(mut self) -> Result<(), Problem> {
        for number in std::mem::take(&mut self.partitions) {
            self.delete(number)?;
        }
        let begun = Instant::now();
        // A bare file system sits on the disk itself: an exclusive open succeeds only when it is gone.
        let path = format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&self.file)
        );
        loop {
            let exclusive = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(OFlags::EXCL.bits().cast_signed())
                .open(&path);
            match exclusive {
                Ok(_) => break,
                Err(error) if is_busy(&error) && begun.elapsed() < RELEASE_DEADLINE => pause(),
                Err(error) => {
                    return Err(
                        Problem::io("release", self.name(), &error).of_kind(ProblemKind::WriteBack)
                    );
                }
            }
        }
        let written = |error: &io::Error| {
            Problem::io("write back", self.name(), error).of_kind(ProblemKind::WriteBack)
        };
        self.file.sync_all().map_err(|e| written(&e))?;
        sys::loop_clear(&self.file).map_err(|e| written(&e))
    }
}

fn is_busy(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ResourceBusy
}

fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}

/// Opens `/dev/loopN`; a node of our own stands in where `/dev` has none.
fn open_node(number: u32) -> io::Result<File> {
    let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
    match open(&PathBuf::from(format!("/dev/loop{number}"))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => return result,
    }
    let path = std::env::temp_dir().join(format!("impasto-loop{number}-{}", std::process::id()));
    mknodat(
        CWD,
        &path,
        FileType::BlockDevice,
        Mode::RUSR | Mode::WUSR,
        makedev(LOOP_MAJOR, number),
    )?;
    let file = open(&path);
    fs::remove_file(&path)?;
    file
}

/// Numbers of the partitions that the kernel knows of a disk.
fn scanned(dir: &Path, name: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let prefix = format!("{name}p");
    entries
        .filter_map(|entry| {
            entry
                .ok()?
                .file_name()
                .to_str()?
                .strip_prefix(&prefix)?
                .parse()
                .ok()
        })
        .collect()
}

/// Whether the kernel's partition lies where ours does. It counts in 512 bytes.
fn is_same(path: &Path, partition: &Partition) -> bool {
    let number = |name| {
        bounded::read_text(path.join(name), bounded::LINES)
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    number("start") == Some(partition.start / 512) && number("size") == Some(partition.size / 512)
}

fn read_device(dir: &Path) -> Result<Device, Problem> {
    let path = dir.join("dev");
    let text = bounded::read_text(&path, bounded::LINES)
        .map_err(|e| Problem::io("read", path.to_string_lossy(), &e))?;
    let parsed = text.trim().split_once(':').and_then(|(major, minor)| {
        Some(Device {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    });
    parsed.ok_or_else(|| {
        Problem::new(
            ProblemKind::Io,
            format!("{} contains no device number", path.display()),
        )
    })
}
