//! Virtual machines: a guest's disk booted by QEMU in a throwaway overlay.
//! Knows disks, firmware and devices; knows no recipe and no stage, and never writes the image.
//!
//! [`command`] is the whole of QEMU's command line as a pure function of a [`Spec`]; [`seed`] makes the small disk that
//! cloud-init reads; [`machine`] starts the process, talks to it, and makes sure that it ends with impasto; [`access`] runs
//! lines in the guest; [`server`] answers what the guest asks; [`pool`] keeps machines within the host's memory; [`probe`] tries on a disk of one sector whether
//! all that works here.

pub mod access;
pub mod agent;
mod channel;
pub mod command;
mod console_shell;
pub mod machine;
pub mod pool;
pub mod probe;
pub mod qmp;
mod screen;
pub mod seed;
pub mod server;
pub mod ssh;
mod transcript;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use impasto_stages::action::FirmwarePart;
use impasto_store::chain::open_file_path;
use impasto_store::qcow2::{GateError, Qcow2, WriteError, create_overlay};

use crate::base::io::IoError;
use crate::disk::image::{self, ForeignFormat, ImageKind};
use crate::disk::packed::{ImageUnpackError, ImageUnpacker};

pub use command::{
    Accel, Backing, Console, DirectKernel, Firmware, MachineDisk, MachineType, Network, Spec,
};
pub use machine::{ConsoleMatch, Machine};

/// The program that is the machine.
pub const QEMU: &str = "qemu-system-x86_64";

/// Where Debian's and Ubuntu's `ovmf` keeps UEFI firmware.
pub const OVMF: &str = "/usr/share/OVMF";

/// Code and variable store of the firmware that boots anything.
const UEFI: [&str; 2] = ["OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"];
/// The same with Secure Boot on and the usual keys enrolled.
const SECURE: [&str; 2] = ["OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd"];

/// Where Debian's and Ubuntu's `qemu-efi-aarch64` keeps it for arm64, and its files: with Secure Boot only the variables
/// are others.
const AAVMF: &str = "/usr/share/AAVMF";
const UEFI_ARM64: [&str; 2] = ["AAVMF_CODE.fd", "AAVMF_VARS.fd"];
const SECURE_ARM64: [&str; 2] = ["AAVMF_CODE.ms.fd", "AAVMF_VARS.ms.fd"];

/// Why a machine could not be made, or did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// QEMU is not installed.
    #[error("{QEMU} is not in the PATH")]
    NoQemu,
    /// Another program that machines need is not installed.
    #[error("{program} is not in the PATH")]
    NoProgram {
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// UEFI firmware is not installed.
    #[error("there is no UEFI firmware at `{}`", path.display())]
    NoFirmware {
        /// The file that was looked for.
        path: PathBuf,
        machine: MachineType,
    },
    /// A disk that only UEFI could start.
    #[error("a machine for arm64 has no BIOS")]
    NoBios,
    /// A qcow2 file that no honest writer made, or that needs other files.
    #[error("`{}` is refused", path.display())]
    Gate {
        path: PathBuf,
        source: Box<GateError>,
    },
    /// A file that is not a disk image.
    #[error("`{}` is not a disk image: {reason}", path.display())]
    NoImage {
        path: PathBuf,
        /// What speaks against it.
        reason: &'static str,
    },
    /// A format that is not read here.
    #[error("`{}` cannot be booted: it is {format}", path.display())]
    Format {
        path: PathBuf,
        format: ForeignFormat,
        /// What of it is not read, where the format is.
        source: Option<Box<GateError>>,
    },
    /// A compressed file that gives no disk image.
    #[error("`{}` cannot be booted", path.display())]
    Unpack {
        path: PathBuf,
        source: ImageUnpackError,
    },
    /// A disk that would be smaller than its image.
    #[error("the disk cannot be {asked} bytes: the image already has {least}")]
    TooSmall {
        /// Bytes that were asked for.
        asked: u64,
        /// Bytes of the image.
        least: u64,
    },
    /// The overlay cannot be made.
    #[error("cannot make the overlay `{}`", path.display())]
    Overlay { path: PathBuf, source: WriteError },
    /// A path that QEMU's command line cannot carry.
    #[error("`{}` is not UTF-8, which paths for QEMU must be", path.display())]
    NotText { path: PathBuf },
    /// A socket whose path is longer than the kernel takes (unix(7): 108 bytes with the zero at the end).
    #[error("`{}` is too long for a socket: at most 107 bytes", path.display())]
    LongSocket { path: PathBuf },
    #[error(transparent)]
    Io(#[from] IoError),
    #[error("{QEMU} exited with {status}{}", if .words.is_empty() { String::new() } else { format!(": {words}") })]
    Failed {
        status: std::process::ExitStatus,
        /// What it said, on one line.
        words: String,
    },
    /// The guest's agent, or QEMU's control socket, did not answer.
    #[error("{who} did not respond within {seconds} s")]
    Silent {
        who: &'static str,
        /// How long it was asked.
        seconds: u64,
    },
}

impl VmError {
    /// The same, with the image's name in QEMU's words.
    pub fn naming(self, backing: &Backing, name: &str) -> Self {
        match (self, backing) {
            (
                VmError::Failed { status, words },
                Backing::Qcow2(path) | Backing::Foreign(_, path) | Backing::Raw(path),
            ) => VmError::Failed {
                status,
                words: words.replace(&*path.to_string_lossy(), name),
            },
            (error, _) => error,
        }
    }

    pub(crate) fn io(verb: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        IoError::at(verb, path)
    }
}

/// An image file that may be booted: what was examined is what QEMU opens, whatever the file's name stands for by then.
#[derive(Debug)]
pub struct Examined {
    /// What lies below the overlay; it holds for as long as `file`.
    pub backing: Backing,
    /// Bytes of the disk.
    pub size: u64,
    /// The file itself, open: to be kept until the machine has ended.
    pub file: File,
}

/// What a file is as a disk. A qcow2 has passed the gate; of a compressed file it is what that holds.
///
/// The first bytes decide, here: QEMU never probes.
///
/// # Errors
/// It cannot be read, or is no image that may be booted.
pub fn examine(path: &Path, unpacker: &ImageUnpacker<'_>) -> Result<Examined, VmError> {
    let read = || VmError::io("read", path);
    let none = |reason| VmError::NoImage {
        path: path.to_owned(),
        reason,
    };
    let (file, image) = image::open(path).map_err(read())?;
    let (file, image) =
        image::unpacked(file, image, unpacker).map_err(|source| VmError::Unpack {
            path: path.to_owned(),
            source,
        })?;
    let length = file.metadata().map_err(read())?.len();
    let shown = open_file_path(&file);
    let (backing, size) = match image {
        ImageKind::Qcow2 => {
            let gate = |source| VmError::Gate {
                path: path.to_owned(),
                source: Box::new(source),
            };
            let checked = Qcow2::open(file.try_clone().map_err(read())?).map_err(gate)?;
            (Backing::Qcow2(shown), checked.header().virtual_size)
        }
        ImageKind::Raw => (Backing::Raw(shown), length),
        ImageKind::Iso if image::is_raw(&file, length).map_err(read())? => {
            (Backing::Raw(shown), length)
        }
        ImageKind::Other(format) => {
            let refused = |source| VmError::Format {
                path: path.to_owned(),
                format,
                source,
            };
            let readable = format.readable().ok_or_else(|| refused(None))?;
            let checked = readable
                .open(file.try_clone().map_err(read())?)
                .map_err(|error| refused(Some(Box::new(error))))?;
            (Backing::Foreign(readable, shown), checked.virtual_size())
        }
        ImageKind::Iso | ImageKind::Unknown if length == 0 || !length.is_multiple_of(512) => {
            return Err(none(
                "it has no qcow2 header, and its length is not a multiple of the sector size",
            ));
        }
        ImageKind::Iso | ImageKind::Unknown => {
            return Err(none(
                "it has no qcow2 header, no partition table and no file system that impasto knows",
            ));
        }
    };
    Ok(Examined {
        backing,
        size,
        file,
    })
}

/// Makes the overlay that takes all writes: as large as the image, or larger where that is asked for.
///
/// # Errors
/// It is asked to be smaller than the image, or cannot be written.
pub fn overlay(work: &Path, image_size: u64, disk_size: Option<u64>) -> Result<PathBuf, VmError> {
    let size = disk_size.unwrap_or(image_size);
    if size < image_size {
        return Err(VmError::TooSmall {
            asked: size,
            least: image_size,
        });
    }
    let path = work.join("overlay.qcow2");
    let file = create(&path)?;
    create_overlay(&file, size).map_err(|source| VmError::Overlay {
        path: path.clone(),
        source,
    })?;
    Ok(path)
}

/// Where a file of the UEFI firmware lies.
pub fn uefi_file(machine: MachineType, secure: bool, part: FirmwarePart) -> PathBuf {
    let (dir, [code, variables]) = match (machine, secure) {
        (MachineType::Q35, false) => (OVMF, UEFI),
        (MachineType::Q35, true) => (OVMF, SECURE),
        (MachineType::Virt, false) => (AAVMF, UEFI_ARM64),
        (MachineType::Virt, true) => (AAVMF, SECURE_ARM64),
    };
    Path::new(dir).join(match part {
        FirmwarePart::Code => code,
        FirmwarePart::Variables => variables,
    })
}

/// UEFI firmware with a variable store of the machine's own.
///
/// # Errors
/// It is not installed, or cannot be copied.
pub fn uefi(work: &Path, machine: MachineType, secure: bool) -> Result<Firmware, VmError> {
    let parts = [FirmwarePart::Code, FirmwarePart::Variables];
    let [code, vars] = parts.map(|part| uefi_file(machine, secure, part));
    for path in [&code, &vars] {
        if !path.is_file() {
            return Err(VmError::NoFirmware {
                path: path.clone(),
                machine,
            });
        }
    }
    let copy = work.join("efivars.fd");
    std::fs::copy(&vars, &copy).map_err(VmError::io("copy", &vars))?;
    Ok(Firmware::Uefi {
        code,
        vars: copy,
        secure,
    })
}

/// Makes a file that must not be there.
fn create(path: &Path) -> Result<File, VmError> {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path);
    file.map_err(VmError::io("create", path))
}
