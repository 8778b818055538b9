//! Disks that grow in place, made by the host's sfdisk and mke2fs as others make them: faultless to the tools that know
//! them, the same bytes twice, and refused by name where they cannot grow.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use impasto::assemble::{ResizeError, resize};
use impasto::disk::guest::RootSelector;
use tempfile::TempDir;

use crate::base::{ROOT_START, base, tool};
use crate::debian::mirror;
use crate::project::{Project, ran};

const EPOCH: u64 = 1_700_000_000;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The partitions of a cloud image: the root is the first in number and the last in place.
const CLOUD: &str = "label: gpt\n\
    14: start=2048, size=6144, type=21686148-6449-6E6F-744E-656564454649\n\
    15: start=8192, size=57344, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp\n\
    1: start=65536, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=root\n";
const CLOUD_ROOT: u64 = 65536 * 512;
const DOS: &str = "label: dos\n1: start=2048, type=83, bootable\n";
const DOS_ROOT: u64 = MIB;

/// A directory for disks.
struct Disks(TempDir);

impl Disks {
    fn new() -> Self {
        Disks(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    /// A disk with this table for sfdisk, or none where it is empty.
    fn disk(&self, name: &str, size: u64, table: &str) -> PathBuf {
        let path = self.0.path().join(name);
        File::create(&path).unwrap().set_len(size).unwrap();
        if !table.is_empty() {
            let script = self.0.path().join("script");
            fs::write(&script, table).unwrap();
            let line = "sfdisk -q --no-reread --no-tell-kernel \"$1\" <\"$2\"";
            let (disk, script) = (path.to_str().unwrap(), script.to_str().unwrap());
            tool("sh", &["-euc", line, "sh", disk, script]);
        }
        path
    }

    /// The same with files in an ext4 at `start`, which has `size` bytes.
    fn ext4(&self, disk: &Path, start: u64, size: u64, options: &[&str]) {
        let tree = self.0.path().join("tree");
        if !tree.exists() {
            fs::create_dir_all(tree.join("many")).unwrap();
            fs::write(tree.join("large"), vec![7; 9 << 20]).unwrap();
            for number in 0..300 {
                let text = format!("file {number}\n").repeat(700);
                fs::write(tree.join(format!("many/{number}")), text).unwrap();
            }
        }
        let (offset, blocks) = (format!("offset={start}"), format!("{}k", size / 1024));
        // The last of two options of this name would count.
        let options: Vec<_> = options
            .iter()
            .map(|option| match option.strip_prefix("resize=") {
                Some(_) => format!("{offset},{option}"),
                None => (*option).to_owned(),
            })
            .collect();
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let fixed = ["-q", "-F", "-E", &offset, "-d", tree.to_str().unwrap()];
        let place = [disk.to_str().unwrap(), &blocks];
        tool("mke2fs", &[&fixed[..], &options[..], &place[..]].concat());
    }

    /// A cloud image's disk with an ext4 that fills it.
    fn cloud(&self, name: &str, size: u64, options: &[&str]) -> PathBuf {
        let disk = self.disk(name, size, CLOUD);
        let end = size / MIB * MIB - MIB;
        self.ext4(&disk, CLOUD_ROOT, end - CLOUD_ROOT, options);
        disk
    }

    /// Demands that the tools find no fault, and that the files are those that were put in.
    fn check(&self, disk: &Path, start: u64) {
        let device = format!("{}?offset={start}", disk.display());
        tool("e2fsck", &["-fn", &device]);
        if start != 0 {
            tool("sfdisk", &["--verify", "-q", disk.to_str().unwrap()]);
        }
        let out = self.0.path().join("out");
        let _ = fs::remove_dir_all(&out);
        fs::create_dir(&out).unwrap();
        let dump = format!("rdump /large /many {}", out.display());
        tool("debugfs", &["-R", &dump, &device]);
        let tree = self.0.path().join("tree");
        tool(
            "diff",
            &[
                "-r",
                tree.to_str().unwrap(),
                out.to_str().unwrap(),
                "-x",
                "lost+found",
            ],
        );
    }
}

fn grow(disk: &Path, size: u64, selector: &RootSelector) -> Result<Vec<String>, ResizeError> {
    let file = File::options().write(true).open(disk).unwrap();
    let was = file.metadata().unwrap().len();
    file.set_len(size).unwrap();
    let mut lines = Vec::new();
    let mut log = |line: &str| lines.push(line.to_owned());
    resize(disk, was, selector, EPOCH, &mut log, &mut |_| {})?;
    // resize2fs would make the file as long as the file system.
    assert_eq!(file.metadata().unwrap().len(), size);
    Ok(lines)
}

/// How many blocks an ext4 has, by its own words.
fn blocks(disk: &Path, start: u64) -> u64 {
    let device = format!("{}?offset={start}", disk.display());
    let said = tool("dumpe2fs", &["-h", &device]);
    let line = said.lines().find(|line| line.starts_with("Block count:"));
    line.unwrap()
        .split_whitespace()
        .last()
        .unwrap()
        .parse()
        .unwrap()
}

/// Every block of 4 KiB that is not zero, by its place.
fn content(disk: &Path) -> (u64, blake3::Hash) {
    let mut file = File::open(disk).unwrap();
    let (mut hasher, mut count, mut at) = (blake3::Hasher::new(), 0, 0);
    while let Ok(data) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
        let end = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(data)).unwrap();
        file.seek(SeekFrom::Start(data)).unwrap();
        let mut bytes = vec![0; (end - data) as usize];
        file.read_exact(&mut bytes).unwrap();
        for (index, block) in (0..).zip(bytes.chunks(4096)) {
            if block.iter().any(|byte| *byte != 0) {
                count += 1;
                hasher.update(&(data + index * 4096).to_le_bytes());
                hasher.update(block);
            }
        }
        at = end;
    }
    (count * 4096, hasher.finalize())
}

#[test]
fn every_make_of_ext4_grows_from_3_gib_to_20() {
    let disks = Disks::new();
    // The last ones have no room for so many group descriptors: what lies behind these has to move.
    for (name, options) in [
        ("as Debian makes it", &["-t", "ext4"][..]),
        (
            "without resize_inode",
            &["-t", "ext4", "-O", "^resize_inode"],
        ),
        ("meta_bg", &["-t", "ext4", "-O", "meta_bg,^resize_inode"]),
        ("without 64bit", &["-t", "ext4", "-O", "^64bit"]),
        (
            "without metadata_csum",
            &["-t", "ext4", "-O", "^metadata_csum,^64bit"],
        ),
        ("without flex_bg", &["-t", "ext4", "-O", "^flex_bg"]),
        (
            "orphan_file",
            &["-t", "ext4", "-O", "orphan_file,metadata_csum_seed"],
        ),
        ("ext3", &["-t", "ext3"]),
        ("blocks of 1 KiB", &["-t", "ext4", "-b", "1024"]),
        (
            "reserved for 4 GiB",
            &["-t", "ext4", "-E", "resize=1048576", "-b", "4096"],
        ),
        (
            "blocks of 1 KiB for 4 GiB",
            &["-t", "ext4", "-b", "1024", "-E", "resize=4194304"],
        ),
    ] {
        let disk = disks.cloud("disk", 3 * GIB, options);
        // So many groups that checking them takes its time.
        let (block, to) = match name.contains("1 KiB") {
            true => (1024, 6 * GIB),
            false => (4096, 20 * GIB),
        };
        let (before, begun) = (content(&disk).0, Instant::now());
        let lines =
            grow(&disk, to, &RootSelector::Auto).unwrap_or_else(|error| panic!("{name}: {error}"));
        let took = begun.elapsed();
        disks.check(&disk, CLOUD_ROOT);
        let have = blocks(&disk, CLOUD_ROOT) * block;
        // A last group that would hold next to nothing is left out.
        let room = to - MIB - CLOUD_ROOT;
        assert!(
            (room - 8 * MIB..=room).contains(&have),
            "{name}: {have} of {room}"
        );
        let after = content(&disk).0;
        println!("{name}: {took:?}, {before} to {after} bytes, {lines:?}");
        assert!(after < before + 64 * MIB, "{name}");
        fs::remove_file(&disk).unwrap();
    }
}

#[test]
fn growing_twice_gives_the_same_bytes_and_no_work_the_third_time() {
    let disks = Disks::new();
    let disk = disks.cloud("disk", 256 * MIB, &["-t", "ext4"]);
    let again = disks.0.path().join("again");
    tool(
        "cp",
        &[
            "--sparse=always",
            disk.to_str().unwrap(),
            again.to_str().unwrap(),
        ],
    );
    grow(&disk, 2 * GIB, &RootSelector::Auto).unwrap();
    // Times are in seconds.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1100) {
        std::thread::yield_now();
    }
    grow(&again, 2 * GIB, &RootSelector::Number(1)).unwrap();
    assert_eq!(content(&disk), content(&again));
    let lines = grow(&disk, 2 * GIB, &RootSelector::Auto).unwrap();
    assert_eq!(lines, ["the file system is as large as its disk already"]);
    assert_eq!(content(&disk), content(&again));
    // In two steps the backup of the table has been at two places.
    grow(&disk, 3 * GIB, &RootSelector::Auto).unwrap();
    disks.check(&disk, CLOUD_ROOT);
    let mut bytes = [0; 8];
    for (place, is_there) in [(2 * GIB, false), (3 * GIB, true)] {
        File::open(&disk)
            .unwrap()
            .read_exact_at(&mut bytes, place - 512)
            .unwrap();
        assert_eq!(&bytes == b"EFI PART", is_there);
    }
}

#[test]
fn a_root_of_an_mbr_and_one_without_any_table_grow_too() {
    let disks = Disks::new();
    let disk = disks.disk("mbr", 300 * MIB, DOS);
    disks.ext4(&disk, DOS_ROOT, 299 * MIB, &["-t", "ext4", "-b", "4096"]);
    grow(&disk, 9 * GIB, &RootSelector::Auto).unwrap();
    disks.check(&disk, DOS_ROOT);
    assert_eq!(blocks(&disk, DOS_ROOT), (9 * GIB - MIB) / 4096);
    let refused = grow(&disk, 3 << 40, &RootSelector::Auto).unwrap_err();
    assert!(refused.to_string().contains("beyond 2 TiB"), "{refused}");

    let disk = disks.disk("bare", 300 * MIB, "");
    disks.ext4(&disk, 0, 300 * MIB, &["-t", "ext4", "-b", "4096"]);
    grow(&disk, GIB, &RootSelector::Auto).unwrap();
    disks.check(&disk, 0);
    assert_eq!(blocks(&disk, 0), GIB / 4096);
}

/// What is said of a disk that cannot grow, and the way out; and that nothing was written.
fn refusal(disk: &Path) -> String {
    let before = content(disk);
    let size = fs::metadata(disk).unwrap().len();
    let error = grow(disk, size + GIB, &RootSelector::Auto).unwrap_err();
    assert_eq!(content(disk), before, "{error}");
    format!("{error}\nhelp: {}\n", error.help().expect("a way out"))
}

#[test]
fn what_cannot_grow_is_named_with_the_way_out() {
    let disks = Disks::new();
    let size = 128 * MIB;
    let ext4 = |name: &str, table: &str, start: u64| {
        let disk = disks.disk(name, size, table);
        disks.ext4(&disk, start, 64 * MIB, &["-t", "ext4"]);
        disk
    };
    let write = |disk: &Path, at: u64, bytes: &[u8]| {
        let file = File::options().write(true).open(disk).unwrap();
        file.write_all_at(bytes, at).unwrap();
    };
    let in_fs = |disk: &Path, request: &str| {
        let device = format!("{}?offset={CLOUD_ROOT}", disk.display());
        tool("debugfs", &["-w", "-R", request, &device]);
    };
    let mut said = String::new();

    let disk = ext4(
        "swap",
        "label: gpt\n1: start=65536, size=131072, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\n2: start=196608, size=16384, type=S\n",
        CLOUD_ROOT,
    );
    let mut page = vec![0; 4096];
    page[4086..].copy_from_slice(b"SWAPSPACE2");
    write(&disk, (65536 + 131_072) * 512, &page);
    said += &refusal(&disk);
    let disk = ext4(
        "data",
        "label: gpt\n1: start=65536, size=131072\n2: start=196608, size=16384\n",
        CLOUD_ROOT,
    );
    said += &refusal(&disk);
    let disk = ext4(
        "extended",
        "label: dos\n1: start=65536, size=131072, type=83\n2: start=196608, size=16384, type=5\n",
        CLOUD_ROOT,
    );
    said += &refusal(&disk);
    let disk = ext4(
        "logical",
        "label: dos\n2: start=2048, type=5\n5: start=65536, type=83\n",
        CLOUD_ROOT,
    );
    said += &refusal(&disk);

    let disk = ext4("hybrid", CLOUD, CLOUD_ROOT);
    let mut entry = [0; 16];
    entry[4] = 0x83;
    entry[8..12].copy_from_slice(&65536_u32.to_le_bytes());
    entry[12..].copy_from_slice(&131_072_u32.to_le_bytes());
    write(&disk, 446 + 16, &entry);
    said += &refusal(&disk);
    let disk = ext4("table", CLOUD, CLOUD_ROOT);
    write(&disk, 512 + 60, b"x");
    said += &refusal(&disk);
    said += &refusal(&disks.disk("nothing", size, ""));

    let disk = ext4("journal", CLOUD, CLOUD_ROOT);
    in_fs(&disk, "feature needs_recovery");
    said += &refusal(&disk);
    let disk = ext4("errors", CLOUD, CLOUD_ROOT);
    in_fs(&disk, "set_super_value error_count 3");
    said += &refusal(&disk);
    let disk = ext4("damaged", CLOUD, CLOUD_ROOT);
    in_fs(&disk, "set_bg 0 free_blocks_count 7");
    said += &refusal(&disk);
    let disk = ext4("lost", CLOUD, CLOUD_ROOT);
    in_fs(&disk, "clri /large");
    said += &refusal(&disk);
    let disk = ext4("unknown", CLOUD, CLOUD_ROOT);
    in_fs(&disk, "feature FEATURE_I29");
    said += &refusal(&disk);
    let disk = disks.disk("bigalloc", size, CLOUD);
    disks.ext4(
        &disk,
        CLOUD_ROOT,
        64 * MIB,
        &["-t", "ext4", "-O", "bigalloc"],
    );
    said += &refusal(&disk);

    let disk = disks.disk("xfs", 400 * MIB, "");
    tool("mkfs.xfs", &["-q", disk.to_str().unwrap()]);
    said += &refusal(&disk);
    let disk = disks.disk("btrfs", 400 * MIB, "");
    tool("mkfs.btrfs", &["-q", disk.to_str().unwrap()]);
    said += &refusal(&disk);
    let disk = disks.disk("lvm", size, CLOUD);
    let mut label = [0; 512];
    label[..8].copy_from_slice(b"LABELONE");
    label[24..32].copy_from_slice(b"LVM2 001");
    write(&disk, CLOUD_ROOT + 512, &label);
    said += &refusal(&disk);
    insta::assert_snapshot!(said);
}

/// Grows the base disk of the tests, by the tools that the frozen mirror has.
#[test]
fn a_stage_grows_the_disk_below_it_by_a_small_layer() {
    let project = Project::with(
        r#"recipe {
             name = "large"
             source_date_epoch = 1700000000
           }
           stage "fetch" "base" { path = "base.qcow2" }
           stage "resize" "large" {
             from = stage.base
             size = "3GiB"
           }
           stage "run" "more" {
             from     = stage.large
             commands = ["df -m / >/size"]
           }
           stage "resize" "same" {
             from      = stage.more
             size      = "3GiB"
             partition = "LABEL=root"
           }
           stage "resize" "less" {
             from = stage.more
             size = "1GiB"
           }
           stage "convert" "image" {
             from   = stage.large
             format = "qcow2"
           }
           # Of a machine that was switched off: its journal is to be replayed.
           stage "fetch" "off" { path = "off.raw" }
           stage "resize" "refused" {
             from = stage.off
             size = "128MiB"
           }
           stage "run" "replayed" {
             from     = stage.off
             commands = ["true"]
           }
           stage "resize" "grown" {
             from = stage.replayed
             size = "128MiB"
           }"#,
    );
    tool(
        "cp",
        &[
            "--sparse=always",
            base().raw.to_str().unwrap(),
            project.path("off.raw").to_str().unwrap(),
        ],
    );
    let device = format!(
        "{}?offset={}",
        project.path("off.raw").display(),
        ROOT_START * 512
    );
    tool("debugfs", &["-w", "-R", "feature needs_recovery", &device]);
    let build = |stage: &str| {
        let mut command = project.command(&["build", stage]);
        command.env("IMPASTO_MIRROR", format!("file:{}", mirror().display()));
        ran(command)
    };
    let built = build("same");
    assert_eq!(built.code, 0, "{}", built.stderr);
    let df = project.in_guest("more", "cat /size");
    let size = df.lines().last().unwrap().split_whitespace().nth(1);
    let size: u64 = size.unwrap().parse().unwrap();
    assert!((2800..3072).contains(&size), "{size} MiB");
    // Group descriptors and bitmaps, not the disk.
    let layers = project.ok(&["layer", "list"]);
    let large = layers.lines().find(|line| line.contains(" large "));
    let large = large.unwrap_or_else(|| panic!("{layers}"));
    assert!(
        large.contains("3.2 GB") && large.contains(" kB "),
        "{large}"
    );
    let again = build("same");
    assert!(
        again.stderr.contains("nothing to do: 0 built, 4 cached"),
        "{}",
        again.stderr
    );
    // What is known of the disk below is not read again, and what is known then is what a whole reading gives.
    assert_eq!(build("image").code, 0);
    let recipe = project.read("impasto.hcl")
        + "\nstage \"fetch\" \"whole\" { path = \"out/image.qcow2\" }\n";
    project.write("impasto.hcl", &recipe);
    assert_eq!(build("whole").code, 0);
    let index = |stage: &str| project.ok(&["layer", "index", stage]);
    assert_eq!(index("large"), index("whole"));

    let refused = build("refused");
    assert!(
        refused.stderr.contains("has a journal to replay"),
        "{}",
        refused.stderr
    );
    let grown = build("grown");
    assert_eq!(grown.code, 0, "{}", grown.stderr);

    let less = build("less");
    assert_eq!(less.code, 4, "{}", less.stderr);
    let said = "the disk has 3 GiB, and would have 1 GiB: nothing is shrunk";
    assert!(less.stderr.contains(said), "{}", less.stderr);
    assert_eq!(project.run(&["store", "verify"]).code, 0);
}
