//! GRUB: its configuration, and its image for BIOS, embedded by our own code.
//! Knows boot.img's and diskboot.img's fields (grub-core/boot/i386/pc), and Debian's names of kernels.
//!
//! `grub-bios-setup` asks the host for the device of the root, which no raw file has; so the images are placed here.

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use impasto_stages::disk::DiskSpec;

use super::architecture::Architecture;
use super::error::AssembleError;
use super::partitions::PlannedPartition;
use super::tool::Tool;
use super::tree::{RootTree, TreeAccess};
use crate::disk::guest::SECTOR;

const PUBLIC: TreeAccess = TreeAccess::root(0o644);
const MODULES: &str = "/usr/lib/grub/i386-pc";
const INSTALLED: &str = "/boot/grub/i386-pc";

/// What the core image needs to read its configuration and boot without loading anything more.
const CORE_MODULES: &[&str] = &[
    "biosdisk",
    "part_gpt",
    "part_msdos",
    "fat",
    "ext2",
    "normal",
    "configfile",
    "linux",
    "search",
    "search_fs_uuid",
    "search_label",
    "echo",
    "test",
    "serial",
    "terminal",
    "gzio",
    "boot",
];

/// What GRUB does first, wherever it was started from: finds the root and goes on there.
pub(super) fn early_config(root: &PlannedPartition) -> String {
    let id = root.fs_id();
    format!(
        "search.fs_uuid {id} root\nset prefix=($root)/boot/grub\nconfigfile ($root)/boot/grub/grub.cfg\n"
    )
}

/// Writes `/boot/grub/grub.cfg`, and what `update-grub` needs to write one with the same command line.
pub(super) fn configure(
    tree: &RootTree,
    spec: &DiskSpec,
    machine: Architecture,
    root: &PlannedPartition,
) -> Result<(), AssembleError> {
    let kernels = kernels(tree)?;
    if kernels.is_empty() {
        return Err(AssembleError::missing(
            "kernel in /boot, which a bootable disk needs",
            machine.kernel_package(),
        ));
    }
    for kernel in &kernels {
        if !tree.is_file(&format!("/boot/initrd.img-{kernel}"))? {
            return Err(AssembleError::NoInitramfs {
                kernel: kernel.clone(),
            });
        }
    }
    let arguments = arguments(spec, machine);
    let serial = "serial --unit=0 --speed=115200";
    let mut config =
        "# Written by impasto; update-grub writes it anew.\nset default=0\nset timeout=1\n"
            .to_owned();
    if spec.console {
        // Firmware without a serial port has the screen still.
        config += &format!(
            "if {serial}; then\n  terminal_input console serial\n  terminal_output console serial\nfi\n"
        );
    }
    let id = root.fs_id();
    let name = pretty_name(&tree.read_text("/etc/os-release")?);
    for kernel in &kernels {
        config += &format!(
            "menuentry '{name}, with Linux {kernel}' {{\n  search --no-floppy --fs-uuid --set=root {id}\n  \
             linux /boot/vmlinuz-{kernel} root=UUID={id} ro{}{arguments}\n  initrd /boot/initrd.img-{kernel}\n}}\n",
            if arguments.is_empty() { "" } else { " " },
        );
    }
    tree.write("/boot/grub/grub.cfg", config, TreeAccess::root(0o600))?;
    let mut defaults =
        "# Written by impasto: what the image was made with.\nGRUB_TIMEOUT=1\n".to_owned();
    defaults += &format!("GRUB_CMDLINE_LINUX_DEFAULT=\"\"\nGRUB_CMDLINE_LINUX=\"{arguments}\"\n");
    // It would write what it finds on the machine that builds.
    defaults += "GRUB_DISABLE_OS_PROBER=true\n";
    if spec.console {
        defaults +=
            &format!("GRUB_TERMINAL=\"console serial\"\nGRUB_SERIAL_COMMAND=\"{serial}\"\n");
    }
    tree.write("/etc/default/grub.d/50-impasto.cfg", defaults, PUBLIC)
}

fn arguments(spec: &DiskSpec, machine: Architecture) -> String {
    // The last one is where the login of the emergency shell appears.
    let serial = format!("console={},115200", machine.serial_port());
    let console = if spec.console {
        vec!["console=tty0", &serial]
    } else {
        Vec::new()
    };
    let arguments = console
        .into_iter()
        .chain(spec.kernel_arguments.iter().map(String::as_str));
    arguments.collect::<Vec<_>>().join(" ")
}

/// `PRETTY_NAME` of os-release(5), without what GRUB's quotes would not hold.
fn pretty_name(os_release: &str) -> String {
    let value = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let plain = |c: &char| c.is_ascii_alphanumeric() || " ()/.,_+:-".contains(*c);
    let name: String = value.unwrap_or("Linux").chars().filter(plain).collect();
    name.trim().to_owned()
}

/// Versions of the kernels in `/boot`, the newest first.
fn kernels(tree: &RootTree) -> Result<Vec<String>, AssembleError> {
    let plain = |version: &String| {
        version
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._+~".contains(c))
    };
    let names = tree.list("/boot")?;
    let versions = names
        .iter()
        .filter_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned));
    let mut versions: Vec<String> = versions.filter(plain).collect();
    versions.sort_by(|a, b| compare(b, a));
    Ok(versions)
}

/// Runs of digits by their number, the rest letter by letter.
fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    while !a.is_empty() && !b.is_empty() {
        let (text_a, text_b) = (
            take(&mut a, |c| !c.is_ascii_digit()),
            take(&mut b, |c| !c.is_ascii_digit()),
        );
        let (number_a, number_b) = (
            take(&mut a, |c| c.is_ascii_digit()),
            take(&mut b, |c| c.is_ascii_digit()),
        );
        let (number_a, number_b) = (
            number_a.trim_start_matches('0'),
            number_b.trim_start_matches('0'),
        );
        let order = text_a
            .cmp(text_b)
            .then(number_a.len().cmp(&number_b.len()))
            .then(number_a.cmp(number_b));
        if order != Ordering::Equal {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

fn take<'a>(rest: &mut &'a str, wanted: impl Fn(char) -> bool) -> &'a str {
    let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
    let (run, after) = rest.split_at(end);
    *rest = after;
    run
}

/// GRUB's two images for BIOS.
pub(super) struct Bios {
    boot: [u8; SECTOR as usize],
    core: Vec<u8>,
}

/// Installs GRUB's modules in the tree and makes its images, with the tree's own GRUB, so that both fit together.
pub(super) fn bios_images(
    tree: &RootTree,
    machine: Architecture,
    root: &PlannedPartition,
) -> Result<Bios, AssembleError> {
    if machine != Architecture::Amd64 {
        return Err(AssembleError::NoBios {
            machine: machine.name(),
        });
    }
    let boot = tree.read(&format!("{MODULES}/boot.img"))?;
    let boot = boot.ok_or_else(|| AssembleError::missing("GRUB for BIOS", "grub-pc-bin"))?;
    let boot = boot.try_into().map_err(|_| AssembleError::BadFile {
        path: format!("{MODULES}/boot.img"),
        problem: "it is not 512 bytes long".to_owned(),
    })?;
    if !tree.is_file("/usr/bin/grub-mkimage")? {
        return Err(AssembleError::missing(
            "grub-mkimage, which makes GRUB's image for BIOS",
            "grub-common",
        ));
    }
    for name in tree.list(MODULES)? {
        if name.ends_with(".mod") || name.ends_with(".lst") {
            let content = tree.read(&format!("{MODULES}/{name}"))?.unwrap_or_default();
            tree.write(&format!("{INSTALLED}/{name}"), content, PUBLIC)?;
        }
    }
    let config = format!("{INSTALLED}/load.cfg");
    tree.write(&config, early_config(root), PUBLIC)?;
    let tool = Tool::in_tree(
        "grub-mkimage",
        "/usr/bin/grub-mkimage",
        tree.host_path(),
        tree.epoch(),
    );
    // Not to its standard output, which it would sync.
    let output = format!("{INSTALLED}/core.img");
    let tool = tool.args([
        "-O",
        "i386-pc",
        "-d",
        MODULES,
        "-p",
        "/boot/grub",
        "-c",
        &config,
        "-o",
        &output,
    ]);
    tool.args(CORE_MODULES).run()?;
    let core = tree.read(&output)?.unwrap_or_default();
    tree.write(&output, &core, PUBLIC)?;
    tree.write(&format!("{INSTALLED}/boot.img"), boot, PUBLIC)?;
    if core.len() < 2 * SECTOR as usize {
        let message = format!("it made an image of {} bytes", core.len());
        return Err(AssembleError::Tool {
            program: "grub-mkimage",
            message,
        });
    }
    Ok(Bios { boot, core })
}

// Fields of boot.img (grub-core/boot/i386/pc/boot.S, include/grub/i386/pc/boot.h).
const BPB: std::ops::Range<usize> = 0x3..0x5a;
const KERNEL_SECTOR: usize = 0x5c;
const BOOT_DRIVE: usize = 0x64;
const DRIVE_CHECK: usize = 0x66;
const TABLE: std::ops::Range<usize> = 440..512;
// The last block list of diskboot.img, the core's first sector: start, count, segment.
const LIST_START: usize = 0x1f4;
const LIST_COUNT: usize = 0x1fc;
const LIST_SEGMENT: usize = 0x1fe;
/// Where the core's second sector is loaded to: 0x8200.
const SEGMENT: u16 = 0x820;

impl Bios {
    /// Embeds the images: boot.img around the partition table that is there, the core into its partition.
    pub(super) fn embed(&self, disk: &File, part: &PlannedPartition) -> Result<(), AssembleError> {
        let needed = (self.core.len() as u64).next_multiple_of(SECTOR);
        if needed > part.size {
            return Err(AssembleError::BootLoaderTooLarge {
                needed,
                size: part.size,
            });
        }
        let write = || -> io::Result<()> {
            let first = part.start / SECTOR;
            let mut mbr = [0; SECTOR as usize];
            disk.read_exact_at(&mut mbr, 0)?;
            disk.write_all_at(&boot_sector(&self.boot, &mbr, first), 0)?;
            disk.write_all_at(&core_image(&self.core, first), part.start)
        };
        write().map_err(AssembleError::io("write", "the disk"))
    }
}

fn boot_sector(
    boot: &[u8; SECTOR as usize],
    mbr: &[u8; SECTOR as usize],
    first: u64,
) -> [u8; SECTOR as usize] {
    let mut sector = *boot;
    sector[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&first.to_le_bytes());
    // The drive that the BIOS says; and no check of it, which is for floppy disks.
    sector[BOOT_DRIVE] = 0xff;
    sector[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
    sector[BPB].copy_from_slice(&mbr[BPB]);
    sector[TABLE].copy_from_slice(&mbr[TABLE]);
    sector
}

fn core_image(core: &[u8], first: u64) -> Vec<u8> {
    let mut core = core.to_vec();
    core.resize(core.len().next_multiple_of(SECTOR as usize), 0);
    // The partition has 1 MiB, so the count fits.
    let rest = (core.len() as u64 / SECTOR - 1) as u16;
    core[LIST_START..LIST_START + 8].copy_from_slice(&(first + 1).to_le_bytes());
    core[LIST_COUNT..LIST_COUNT + 2].copy_from_slice(&rest.to_le_bytes());
    core[LIST_SEGMENT..LIST_SEGMENT + 2].copy_from_slice(&SEGMENT.to_le_bytes());
    core
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_kernels_come_first() {
        let mut versions = [
            "6.1.0-9-amd64",
            "6.1.0-50-amd64",
            "6.12.3-amd64",
            "6.1.0-50-cloud-amd64",
            "6.1.0-9",
        ];
        versions.sort_by(|a, b| compare(b, a));
        let expected = [
            "6.12.3-amd64",
            "6.1.0-50-cloud-amd64",
            "6.1.0-50-amd64",
            "6.1.0-9-amd64",
            "6.1.0-9",
        ];
        assert_eq!(versions, expected);
    }

    #[test]
    fn boot_code_leaves_the_partition_table() {
        let sector = boot_sector(&[0x11; 512], &[0x22; 512], 2048);
        assert_eq!(sector[..3], [0x11; 3]);
        assert_eq!((sector[3], sector[0x59], sector[0x5a]), (0x22, 0x22, 0x11));
        assert_eq!(
            sector[0x5c..0x68],
            [0, 8, 0, 0, 0, 0, 0, 0, 0xff, 0x11, 0x90, 0x90]
        );
        assert_eq!((sector[439], sector[440], sector[511]), (0x11, 0x22, 0x22));
        let core = core_image(&[0x33; 1025], 2048);
        assert_eq!(core.len(), 1536);
        assert_eq!(
            core[0x1f4..0x200],
            [1, 8, 0, 0, 0, 0, 0, 0, 2, 0, 0x20, 0x08]
        );
    }

    #[test]
    fn names_hold_nothing_that_ends_a_quote() {
        assert_eq!(
            pretty_name("ID=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            "Debian GNU/Linux 12 (bookworm)"
        );
        assert_eq!(pretty_name("PRETTY_NAME='a'; evil {$x}'"), "a evil x");
        assert_eq!(pretty_name(""), "Linux");
    }
}
