//! A small base disk for tests: busybox in a GPT with one ext4, as raw file and as qcow2.
//!
//! Built once into the target directory's place for tests, by `sfdisk` and `mke2fs -d`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// First sector of the root partition.
pub(crate) const ROOT_START: u64 = 2048;

/// Bytes of the whole disk.
pub(crate) const DISK_SIZE: u64 = 64 << 20;

/// UUID of the root file system.
pub(crate) const ROOT_UUID: &str = "7d1f4a66-1b2c-4d3e-8f90-a1b2c3d4e5f6";

/// Files of the base.
pub(crate) struct Base {
    /// The disk, raw.
    pub(crate) raw: PathBuf,
    /// The disk as qcow2 with zstd clusters.
    pub(crate) qcow2: PathBuf,
    /// Its file system alone, without partition table, as qcow2.
    pub(crate) bare: PathBuf,
    /// The same, raw.
    pub(crate) bare_raw: PathBuf,
    /// The tree, as a directory.
    pub(crate) tree: PathBuf,
}

/// The base disk; built by the first test that needs it.
pub(crate) fn base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    BASE.get_or_init(|| build(Path::new(env!("CARGO_TARGET_TMPDIR"))))
}

/// Runs a host tool and demands success.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("cannot start {program}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

fn build(target: &Path) -> Base {
    // Tests run as processes of their own: each builds under its own name, and the first to finish wins.
    // What is on the disk belongs to whoever made it, and root's tests look at owners.
    let name = match rustix::process::geteuid().is_root() {
        true => "base-2",
        false => "base-2-of-a-user",
    };
    let done = target.join(name);
    if !done.exists() {
        let dir = target.join(format!("{name}.{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        make_tree(&dir.join("tree"));
        make_disk(&dir);
        if fs::rename(&dir, &done).is_err() {
            fs::remove_dir_all(&dir).unwrap();
        }
    }
    let file = |name| done.join(name);
    Base {
        raw: file("disk.raw"),
        qcow2: file("disk.qcow2"),
        bare: file("bare.qcow2"),
        bare_raw: file("bare.raw"),
        tree: file("tree"),
    }
}

fn make_tree(tree: &Path) {
    for dir in [
        "bin", "etc", "root", "var", "usr/bin", "proc", "sys", "dev", "run", "tmp",
    ] {
        fs::create_dir_all(tree.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox"))
        .expect("the package busybox-static is installed");
    let applets = tool("/bin/busybox", &["--list"]);
    for applet in applets.lines().filter(|name| *name != "busybox") {
        symlink("busybox", tree.join("bin").join(applet)).unwrap();
    }
    fs::write(
        tree.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nbuilder:x:1000:1000::/:/bin/sh\n",
    )
    .unwrap();
    fs::write(tree.join("etc/group"), "root:x:0:\nbuilder:x:1000:\n").unwrap();
    fs::write(tree.join("etc/hosts"), "127.0.0.1 image\n").unwrap();
    fs::write(
        tree.join("etc/fstab"),
        format!("UUID={ROOT_UUID} / ext4 defaults 0 1\n"),
    )
    .unwrap();
    fs::write(tree.join("etc/resolv.conf"), "nameserver 192.0.2.1\n").unwrap();
}

fn make_disk(dir: &Path) {
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (raw, tree) = (path("disk.raw"), path("tree"));
    fs::File::create(&raw).unwrap().set_len(DISK_SIZE).unwrap();
    let table = format!(
        "label: gpt\nlabel-id: 6A3B2C1D-0000-4000-8000-000000000001\nunit: sectors\n\
         start={ROOT_START}, size={}, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, \
         uuid=6A3B2C1D-0000-4000-8000-000000000013, name=root\n",
        DISK_SIZE / 512 - ROOT_START - 2048
    );
    let script = path("table");
    fs::write(&script, table).unwrap();
    tool(
        "sh",
        &[
            "-c",
            &format!("sfdisk -q --no-reread --no-tell-kernel '{raw}' < '{script}'"),
        ],
    );
    let blocks = ((DISK_SIZE / 512 - ROOT_START - 2048) / 8).to_string();
    let make = |target: &str, offset: u64| {
        let options = format!(
            "offset={offset},hash_seed={ROOT_UUID},lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0"
        );
        let base = [
            "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "root", "-U", ROOT_UUID, "-E", &options,
            "-d", &tree,
        ];
        tool("mke2fs", &[&base[..], &[target, &blocks]].concat());
    };
    make(&raw, ROOT_START * 512);
    let bare = path("bare.raw");
    fs::File::create(&bare)
        .unwrap()
        .set_len(blocks.parse::<u64>().unwrap() * 4096)
        .unwrap();
    make(&bare, 0);
    for (from, to) in [(&raw, "disk.qcow2"), (&bare, "bare.qcow2")] {
        let options = [
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            "-c",
            "-o",
            "compression_type=zstd",
        ];
        tool("qemu-img", &[&options[..], &[from, &path(to)]].concat());
    }
}

/// A raw disk with the base's one partition, read without mounting.
pub(crate) struct Flat {
    path: PathBuf,
    offset: u64,
}

/// Makes a raw disk of a chain of qcow2 files, bottom first, after checking each.
pub(crate) fn flatten(chain: &[&Path], dir: &Path) -> Flat {
    let mut node = "null".to_owned();
    for file in chain {
        let file = file.to_str().unwrap();
        tool("qemu-img", &["check", "-q", "-f", "qcow2", file]);
        node = format!(
            r#"{{"driver":"qcow2","backing":{node},"file":{{"driver":"file","filename":"{file}"}}}}"#
        );
    }
    let path = dir.join(format!("flat-{}.raw", chain.len()));
    tool(
        "qemu-img",
        &[
            "convert",
            "-O",
            "raw",
            &format!("json:{node}"),
            path.to_str().unwrap(),
        ],
    );
    flat(&path)
}

/// A raw disk that is there already.
pub(crate) fn flat(path: &Path) -> Flat {
    let partitioned = fs::metadata(path).unwrap().len() == DISK_SIZE;
    Flat {
        path: path.to_path_buf(),
        offset: if partitioned { ROOT_START * 512 } else { 0 },
    }
}

impl Flat {
    fn device(&self) -> String {
        format!("{}?offset={}", self.path.display(), self.offset)
    }

    /// Demands that the file system is without fault.
    pub(crate) fn check(self) -> Self {
        tool("e2fsck", &["-fn", &self.device()]);
        self
    }

    /// What `debugfs` says to a request.
    pub(crate) fn debugfs(&self, request: &str) -> String {
        tool("debugfs", &["-R", request, &self.device()])
    }

    /// Content of a file.
    pub(crate) fn cat(&self, path: &str) -> String {
        self.debugfs(&format!("cat {path}"))
    }

    /// All its bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }
}

/// What is left of a sandbox: processes, mounts and loop devices that name its directory.
pub(crate) fn leftovers(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let is_process = process
            .file_name()
            .to_str()
            .is_some_and(|name| name.parse::<u32>().is_ok());
        for file in ["cmdline", "mountinfo"] {
            let text = fs::read(process.path().join(file)).unwrap_or_default();
            if is_process && String::from_utf8_lossy(&text).contains(dir) {
                found.push(format!("{}/{file}", process.path().display()));
            }
        }
    }
    for device in fs::read_dir("/sys/block").unwrap().flatten() {
        let backing =
            fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        if backing.contains(dir) {
            found.push(device.path().display().to_string());
        }
    }
    found
}
