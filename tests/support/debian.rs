//! Real Debian for tests: a frozen mirror in a directory, and a base disk made of its packages.
//!
//! Both are made once, into the target directory's place for tests, by the host's `apt` and `mmdebstrap`, over the
//! network from the host's own mirror. Later runs need no network. To get newer packages remove `debian-*` there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::base::tool;
use crate::mirror::frozen_mirror;

/// The release that tests use.
pub(crate) const SUITE: &str = "bookworm";

/// Packages of the frozen mirror, beside the essential ones, apt and the tools of impasto: with what these need.
const PACKAGES: [&str; 12] = [
    "debian-archive-keyring",
    "hello",
    "tzdata",
    "cron",
    "systemd-sysv",
    "linux-image-cloud-amd64",
    "initramfs-tools",
    "grub-pc-bin",
    "grub-efi-amd64-signed",
    "shim-signed",
    "isolinux",
    "syslinux-common",
];

/// Of the base disk's root file system.
pub(crate) const ROOT_UUID: &str = "0d4f4a66-1b2c-4d3e-8f90-a1b2c3d4e5f6";

pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// Makes a directory once per machine, whichever process comes first.
pub(crate) fn once(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let done = target().join(name);
    // Tests are processes of their own, and this takes long enough that all of them would begin it.
    let lock = fs::File::create(target().join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    if !done.exists() {
        let dir = target().join(format!("{name}.new"));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        make(&dir);
        fs::rename(&dir, &done).unwrap();
    }
    done
}

pub(crate) fn run(line: &str, arguments: &[&Path]) -> String {
    let arguments = arguments.iter().map(|path| path.to_str().unwrap());
    tool(
        "sh",
        &["-euc", line, "sh"]
            .into_iter()
            .chain(arguments)
            .collect::<Vec<_>>(),
    )
}

/// The frozen mirror that the tests share.
pub(crate) fn mirror() -> &'static Path {
    static MIRROR: OnceLock<PathBuf> = OnceLock::new();
    MIRROR.get_or_init(|| frozen_mirror("tests-3", &PACKAGES))
}

/// A disk with a small Debian in a GPT with one ext4: the essential packages and apt, of [`mirror`]. It has no kernel.
pub(crate) fn base() -> &'static Path {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root: they install Debian"
        );
        once("debian-base-tests-2", |dir| make_base(dir, mirror())).join("debian.qcow2")
    })
}

fn make_base(dir: &Path, mirror: &Path) {
    // dpkg waits for the disk again and again, so memory is several times as fast; where there is enough of it.
    let memory =
        rustix::fs::statvfs("/dev/shm").is_ok_and(|shm| shm.f_bavail * shm.f_frsize > 2 << 30);
    let place = tempfile::tempdir_in(if memory { Path::new("/dev/shm") } else { dir }).unwrap();
    let (tree, raw, qcow2) = (
        place.path().join("tree"),
        dir.join("raw"),
        dir.join("debian.qcow2"),
    );
    let source = format!(
        "deb [signed-by={KEYRING}] copy:{} {SUITE} main",
        mirror.display()
    );
    run(
        &format!(
            "SOURCE_DATE_EPOCH=1700000000 mmdebstrap -q --mode=root --variant=apt --dpkgopt=force-unsafe-io \
             --aptopt='Acquire::Languages \"none\"' --aptopt='Acquire::Check-Valid-Until \"false\"' \
             --include=debian-archive-keyring {SUITE} \"$1\" '{source}'"
        ),
        &[&tree],
    );
    let write = |path: &str, text: &str| fs::write(tree.join(path), text).unwrap();
    write("etc/hostname", "debian\n");
    write("etc/resolv.conf", "nameserver 192.0.2.1\n");
    write(
        "etc/fstab",
        &format!("UUID={ROOT_UUID} / ext4 defaults 0 1\n"),
    );
    // Not the mirror that tests use, so that using it would be seen.
    write(
        "etc/apt/sources.list",
        &format!("deb http://image.example.org/debian {SUITE} main\n"),
    );
    let sectors = (2 << 30) / 512;
    let blocks = (sectors - 4096) / 8;
    fs::File::create(&raw)
        .unwrap()
        .set_len(sectors * 512)
        .unwrap();
    run(
        &format!(
            "printf 'label: gpt\nunit: sectors\nstart=2048, size={}, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\n' |
                sfdisk -q --no-reread --no-tell-kernel \"$2\"
             mke2fs -q -F -t ext4 -b 4096 -L root -U {ROOT_UUID} -E offset=1048576,hash_seed={ROOT_UUID},nodiscard \
                -d \"$1\" \"$2\" {blocks}
             qemu-img convert -f raw -O qcow2 -c -o compression_type=zstd \"$2\" \"$3\"
             rm \"$2\"",
            sectors - 4096
        ),
        &[&tree, &raw, &qcow2],
    );
}
