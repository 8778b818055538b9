//! Actions of the host that make ISO images: boot loaders come out of locked packages, the rest out of inputs.
//! Knows where packages have their boot loaders; [`crate::media::iso`] writes the image.

use std::collections::BTreeMap;
use std::io::Read;

use impasto_stages::action::{Action, Bound};
use impasto_stages::media::IsoSpec;
use impasto_stages::package_set::PackageSet;

use super::media::ARCHIVE;
use super::sandboxed::LogFile;
use super::{Job, JobError, JobOutput};
use crate::deb::package::Package;
use crate::debian::packages::fetch::{DemandError, title};
use crate::media::MemberKind;
use crate::media::iso::{self, BiosLoader, EfiLoader, IsoError, IsoImage};
use crate::media::pack::StreamPacking;
use crate::media::stream::ByteSource;

/// Largest file that is taken out of a package, in bytes.
const LIMIT: u64 = 64 << 20;

/// Where packages have what BIOS starts.
const ISOLINUX: &str = "usr/lib/ISOLINUX/isolinux.bin";
const RECORD: &str = "usr/lib/ISOLINUX/isohdpfx.bin";
const MODULE: &str = "usr/lib/syslinux/modules/bios/ldlinux.c32";
/// Where packages have what UEFI starts, and its name on the medium.
const EFI: [(&str, &str); 2] = [
    ("usr/lib/shim/shimx64.efi.signed", "BOOTX64.EFI"),
    (
        "usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed",
        "GRUBX64.EFI",
    ),
];
const EFI_ON_ARM: [(&str, &str); 2] = [
    ("usr/lib/shim/shimaa64.efi.signed", "BOOTAA64.EFI"),
    (
        "usr/lib/grub/arm64-efi-signed/gcdaa64.efi.signed",
        "GRUBAA64.EFI",
    ),
];

fn efi_files(spec: &IsoSpec) -> [(&'static str, &'static str); 2] {
    match spec.architecture.as_str() {
        "arm64" => EFI_ON_ARM,
        _ => EFI,
    }
}

/// Bytes that tell a kernel's machine.
const KERNEL_HEAD: usize = 0x206;

/// The machine that a kernel is for, by its header (Documentation/arch/x86/boot.rst, arch/arm64/booting.rst).
fn kernel_machine(head: &[u8]) -> Option<&'static str> {
    let is = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);
    if is(0x202, b"HdrS") {
        Some("amd64")
    } else if is(0x38, b"ARM\x64") {
        Some("arm64")
    } else {
        None
    }
}

impl Job {
    pub(super) fn iso(
        &self,
        action: &Action<Bound>,
        spec: &IsoSpec,
    ) -> Result<JobOutput, JobError> {
        let set = action.packages.clone().unwrap_or_default();
        let mut found = self.phase("boot loaders", || self.boot_loaders(spec, &set))?;
        let mut take = |path: &str| {
            let missing = || {
                let message = format!("none of the packages of boot loaders has /{path}");
                self.failed(message, "use another `suite`")
            };
            found.remove(path).ok_or_else(missing)
        };
        let bios = match spec.bios {
            true => Some(BiosLoader {
                program: take(ISOLINUX)?,
                module: take(MODULE)?,
                record: take(RECORD)?,
            }),
            false => None,
        };
        let efi = match spec.efi {
            true => {
                let programs =
                    efi_files(spec).map(|(path, name)| Ok((name.to_owned(), take(path)?)));
                let programs = programs.into_iter().collect::<Result<_, JobError>>()?;
                Some(EfiLoader { programs })
            }
            false => None,
        };
        let scratch = self.store.scratch()?;
        let place = |name: &str| match name {
            "kernel" => iso::KERNEL.to_owned(),
            "initramfs" => iso::RAMDISK.to_owned(),
            name => name.strip_prefix("files/").unwrap_or(name).to_owned(),
        };
        let collected = self.phase("collect", || self.collected(scratch.path(), &place));
        let (members, files) = collected?;
        let kernel = members.get(iso::KERNEL.as_bytes());
        if let Some(MemberKind::File { file, size }) = kernel.map(|kernel| &kernel.kind) {
            let mut head = vec![0; KERNEL_HEAD.min(usize::try_from(*size).unwrap_or(KERNEL_HEAD))];
            let read = files.read(*file, 0, &mut head);
            read.map_err(JobError::io("read", scratch.path()))?;
            let machine = kernel_machine(&head);
            if let Some(machine) = machine.filter(|machine| *machine != spec.architecture) {
                let wanted = &spec.architecture;
                return Err(self.failed(
                    format!("the kernel is for {machine}, and the boot loaders for {wanted}"),
                    format!("set `architecture = {machine:?}`"),
                ));
            }
        }
        let stream = iso::stream(IsoImage {
            members,
            bios: bios.as_ref(),
            efi: efi.as_ref(),
            arguments: &spec.arguments,
            label: &spec.label,
            hybrid: spec.hybrid,
            epoch: action.source_date_epoch.unwrap_or_default(),
        });
        let stream = stream.map_err(|error| {
            let help = match &error {
                IsoError::Case { .. } | IsoError::Taken { .. } | IsoError::Member(_) => {
                    "rename it, or leave it out of `files`"
                }
                IsoError::Time => "use an earlier time",
                IsoError::Esp(_) => "use another `suite`",
                IsoError::Size => "put less into it",
            };
            self.failed(error.to_string(), help)
        })?;
        let mut log = LogFile::create(self, &[]);
        for package in &set.install {
            log.bytes(format!("boot loaders: {}\n", title(package)).as_bytes());
        }
        let made = self.packed(&stream, &files, StreamPacking::None, ARCHIVE, &mut log);
        log.finish();
        made
    }

    /// The files of boot loaders, by their paths in the packages.
    fn boot_loaders(
        &self,
        spec: &IsoSpec,
        set: &PackageSet,
    ) -> Result<BTreeMap<String, Vec<u8>>, JobError> {
        let mut wanted = Vec::new();
        if spec.bios {
            wanted.extend([ISOLINUX, RECORD, MODULE]);
        }
        if spec.efi {
            wanted.extend(efi_files(spec).map(|(path, _)| path));
        }
        let fetcher = self.context.packages.as_ref();
        let fetcher = fetcher.expect("BUG: a run without packages");
        self.meter.begin(super::WAITING, None);
        let blobs = fetcher.demand(set, &self.context.cancel);
        let blobs = blobs.map_err(|error| match error {
            DemandError::Package(error) => JobError::Package(error),
            DemandError::Store(error) => JobError::Store(error),
            DemandError::Cancelled => JobError::Cancelled,
        })?;
        self.meter.end();
        let mut found = BTreeMap::new();
        for (package, blob) in set.install.iter().zip(&blobs) {
            let reader = self.store.open_blob(&blob.digest);
            let reader = reader.map_err(Self::missed(self.id))?;
            let unusable = |reason: String| JobError::NoPackage {
                package: title(package),
                reason,
            };
            let data = Package::read(reader).map_err(|error| unusable(error.to_string()))?;
            let data = data.data().map_err(|error| unusable(error.to_string()))?;
            let read = files_of(data, &wanted, &mut found);
            read.map_err(|error| unusable(error.to_string()))?;
        }
        Ok(found)
    }
}

/// Adds the wanted files of a package.
fn files_of(
    data: impl Read,
    wanted: &[&str],
    found: &mut BTreeMap<String, Vec<u8>>,
) -> std::io::Result<()> {
    let mut archive = tar::Archive::new(data);
    for entry in archive.entries()? {
        let entry = entry?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let path = path.trim_start_matches("./").to_owned();
        if wanted.contains(&path.as_str()) && entry.header().entry_type().is_file() {
            let mut bytes = Vec::new();
            entry.take(LIMIT).read_to_end(&mut bytes)?;
            found.insert(path, bytes);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_tells_its_machine() {
        let with = |at: usize, magic: &[u8]| {
            let mut head = vec![0; KERNEL_HEAD];
            head[at..at + magic.len()].copy_from_slice(magic);
            head
        };
        assert_eq!(kernel_machine(&with(0x202, b"HdrS")), Some("amd64"));
        assert_eq!(kernel_machine(&with(0x38, b"ARM\x64")), Some("arm64"));
        assert_eq!(kernel_machine(b"a script"), None);
    }
}
