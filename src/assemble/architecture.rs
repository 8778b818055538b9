//! Which machine a tree is for, by its shell's ELF header, and what firmware and partition types call it.
//! Knows names, not files.

use std::io::Read;

use super::error::AssembleError;
use super::tree::RootTree;

/// A machine that disks can be made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Architecture {
    /// x86-64.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl Architecture {
    /// The machine that the tree's programs are for.
    ///
    /// # Errors
    /// The tree has no programs, or they are for another machine.
    pub(super) fn of(tree: &RootTree) -> Result<Architecture, AssembleError> {
        let programs = ["/usr/bin/dpkg", "/usr/bin/bash", "/usr/bin/dash", "/bin/sh"];
        let program = tree
            .first_file(&programs)?
            .ok_or_else(|| AssembleError::missing("shell", "dash or bash"))?;
        let mut header = Vec::new();
        if let Some(file) = tree.open_file(program)? {
            file.take(20)
                .read_to_end(&mut header)
                .map_err(AssembleError::io("read", program))?;
        }
        // ELF: magic, 64-bit, little-endian; e_machine at 18 (elf(5)).
        let found = match header.as_slice() {
            [0x7f, b'E', b'L', b'F', 2, 1, .., low, high] if header.len() == 20 => {
                u16::from_le_bytes([*low, *high])
            }
            _ => {
                return Err(AssembleError::Machine {
                    found: format!("{program} is not a 64-bit ELF file"),
                });
            }
        };
        match found {
            62 => Ok(Architecture::Amd64),
            183 => Ok(Architecture::Arm64),
            other => Err(AssembleError::Machine {
                found: format!("ELF machine {other}"),
            }),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Architecture::Amd64 => "amd64",
            Architecture::Arm64 => "arm64",
        }
    }

    /// The type of a root partition (the Discoverable Partitions Specification).
    pub(super) fn root_type(self) -> &'static str {
        match self {
            Architecture::Amd64 => "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
            Architecture::Arm64 => "b921b045-1df0-41c3-af44-4c6f280d3fae",
        }
    }

    /// What UEFI puts into its files' names.
    pub(super) fn efi_suffix(self) -> &'static str {
        match self {
            Architecture::Amd64 => "x64",
            Architecture::Arm64 => "aa64",
        }
    }

    /// The directory of GRUB's signed images for UEFI.
    pub(super) fn signed_grub(self) -> &'static str {
        match self {
            Architecture::Amd64 => "/usr/lib/grub/x86_64-efi-signed",
            Architecture::Arm64 => "/usr/lib/grub/arm64-efi-signed",
        }
    }

    /// Packages that bring what a UEFI boots.
    pub(super) fn efi_packages(self) -> &'static str {
        match self {
            Architecture::Amd64 => "grub-efi-amd64-signed and shim-signed",
            Architecture::Arm64 => "grub-efi-arm64-signed and shim-signed",
        }
    }

    /// The kernel of virtual machines.
    pub(super) fn kernel_package(self) -> &'static str {
        match self {
            Architecture::Amd64 => "linux-image-cloud-amd64",
            Architecture::Arm64 => "linux-image-cloud-arm64",
        }
    }

    /// The first serial port, as the kernel calls it.
    pub(super) fn serial_port(self) -> &'static str {
        match self {
            Architecture::Amd64 => "ttyS0",
            Architecture::Arm64 => "ttyAMA0",
        }
    }
}
