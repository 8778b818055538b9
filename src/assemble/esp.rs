//! The EFI system partition: FAT, with the tree's signed boot loaders in it.
//! Knows where firmware, shim and GRUB look; knows no partition table.

use std::path::Path;

use super::architecture::Architecture;
use super::error::AssembleError;
use super::fat;
use super::grub;
use super::partitions::PlannedPartition;
use super::tree::RootTree;

/// Where Debian's shim lies.
const SHIM: &str = "/usr/lib/shim";

/// The name of a signed GRUB's own directory begins like this, in its bytes.
const PREFIX: &[u8] = b"/EFI/";

/// Files of the partition: path in it, and content.
pub(super) struct EfiFiles(Vec<(String, Vec<u8>)>);

/// Gathers the tree's boot loaders for UEFI: shim, which starts GRUB, or GRUB alone where the tree has no shim.
///
/// # Errors
/// The tree has no signed GRUB.
pub(super) fn efi_files(
    tree: &RootTree,
    machine: Architecture,
    root: &PlannedPartition,
) -> Result<EfiFiles, AssembleError> {
    let suffix = machine.efi_suffix();
    let grub = tree.read(&format!(
        "{}/grub{suffix}.efi.signed",
        machine.signed_grub()
    ))?;
    let grub =
        grub.ok_or_else(|| AssembleError::missing("signed GRUB for UEFI", machine.efi_packages()))?;
    // The place that firmware looks in when nothing tells it another (UEFI specification, 3.5.1.1).
    let boot = format!("/EFI/BOOT/BOOT{}.EFI", suffix.to_ascii_uppercase());
    let config = grub::early_config(root).into_bytes();
    let mut files = vec![(format!("{}/grub.cfg", vendor_dir(&grub)), config)];
    match tree.read(&format!("{SHIM}/shim{suffix}.efi.signed"))? {
        Some(shim) => {
            files.push((boot, shim));
            files.push((format!("/EFI/BOOT/grub{suffix}.efi"), grub));
            // Enrols keys; shim starts it when asked to.
            if let Some(manager) = tree.read(&format!("{SHIM}/mm{suffix}.efi.signed"))? {
                files.push((format!("/EFI/BOOT/mm{suffix}.efi"), manager));
            }
        }
        None => files.push((boot, grub)),
    }
    files.sort();
    Ok(EfiFiles(files))
}

/// Where a signed GRUB looks for its configuration: its prefix is in its bytes, as it can have no other.
fn vendor_dir(grub: &[u8]) -> String {
    let is_name = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'-';
    let names = grub
        .windows(PREFIX.len())
        .enumerate()
        .filter(|(_, window)| *window == PREFIX)
        .map(|(at, _)| {
            let name: Vec<u8> = grub[at + PREFIX.len()..]
                .iter()
                .take_while(is_name)
                .copied()
                .collect();
            String::from_utf8(name).expect("BUG: letters and digits are no text")
        });
    let name = names
        .into_iter()
        .find(|name| !name.is_empty() && !name.eq_ignore_ascii_case("boot"));
    format!("/EFI/{}", name.as_deref().unwrap_or("debian"))
}

impl EfiFiles {
    /// Makes the file system in its partition of `disk`, and copies the files into it.
    pub(super) fn write(
        &self,
        disk: &Path,
        part: &PlannedPartition,
        epoch: u64,
        work: &Path,
    ) -> Result<(), AssembleError> {
        let needed: u64 = self.0.iter().map(|(_, content)| content.len() as u64).sum();
        // The two tables, the directories and half a cluster for every file.
        if needed + part.size / 64 > part.size {
            return Err(AssembleError::BootLoaderTooLarge {
                needed,
                size: part.size,
            });
        }
        fat::make(disk, part, Some("ESP"), epoch)?;
        fat::copy_in(disk, part, &self.0, epoch, work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_lies_where_the_signed_image_looks() {
        assert_eq!(vendor_dir(b"..\0/EFI/debian\0.."), "/EFI/debian");
        assert_eq!(vendor_dir(b"/EFI/BOOT\0/EFI/ubuntu\0"), "/EFI/ubuntu");
        assert_eq!(vendor_dir(b"nothing"), "/EFI/debian");
    }
}
