//! Files that come in as disks: formats that are not read here are named, and what was checked is what other programs open.
//!
//! Needs root, FUSE, QEMU and qemu-utils.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use impasto::base::cancel::CancelToken;
use impasto::disk::image::{self, ForeignFormat, ImageKind};
use impasto::disk::packed::ImageUnpacker;
use impasto::sandbox::Outcome;
use impasto::vm::{Accel, Console, ConsoleMatch, Firmware, Machine, MachineDisk, Network, Spec};
use impasto_store::chain::open_file_path;

use crate::base::{base, tool};
use crate::project::{Project, ran};
use crate::sandbox::{Bench, commands};
use crate::torture::count;
use crate::vm::talking_disk;

/// A disk of 4 MiB with a partition, and data in it.
fn small_disk() -> Vec<u8> {
    let mut disk = vec![0; 4 << 20];
    disk[450] = 0x83;
    disk[454..458].copy_from_slice(&2048u32.to_le_bytes());
    disk[458..462].copy_from_slice(&4096u32.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[1 << 20..][..13].copy_from_slice(b"in the middle");
    disk
}

/// Files of formats of others that are read here, as QEMU makes them.
const READ: [&str; 9] = [
    "stream.vmdk",
    "fixed.vhd",
    "fixed.vhdx",
    "dynamic.vhdx",
    "dynamic.vdi",
    "static.vdi",
    "gzip",
    "xz",
    "zstd",
];

/// As many bytes of a compressed image as fit, into a directory.
pub(crate) fn unpacker(dir: &Path) -> ImageUnpacker<'_> {
    static NOBODY: OnceLock<CancelToken> = OnceLock::new();
    ImageUnpacker {
        dir,
        limit: 1 << 30,
        cancel: NOBODY.get_or_init(CancelToken::new),
        meter: None,
    }
}

/// Files of every format of others, as the usual programs make them.
fn files_of_others(dir: &Path) -> Vec<(&'static str, ForeignFormat)> {
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let raw = at("disk.raw");
    fs::write(&raw, small_disk()).unwrap();
    let mut made = Vec::new();
    let mut convert = |name: &'static str, driver: &str, options: &str, format| {
        let key = ["--object", "secret,id=key,data=secret"];
        let line = [
            "convert",
            "-f",
            "raw",
            "-O",
            driver,
            "-o",
            options,
            &raw,
            &at(name),
        ];
        let object: &[&str] = if driver == "luks" { &key } else { &[] };
        let arguments = [&line[..1], object, &line[1..]].concat();
        // For LUKS it measures its own speed, and gives up where it is not given the processor.
        let tries = if driver == "luks" { 10 } else { 1 };
        let made_it = (1..tries).any(|_| {
            Command::new("qemu-img")
                .args(&arguments)
                .status()
                .unwrap()
                .success()
        });
        if !made_it {
            tool("qemu-img", &arguments);
        }
        made.push((name, format));
    };
    for (name, options) in [
        ("sparse.vmdk", "subformat=monolithicSparse"),
        ("stream.vmdk", "subformat=streamOptimized"),
        ("flat.vmdk", "subformat=monolithicFlat"),
        ("two-sparse.vmdk", "subformat=twoGbMaxExtentSparse"),
        ("two-flat.vmdk", "subformat=twoGbMaxExtentFlat"),
    ] {
        convert(name, "vmdk", options, ForeignFormat::Vmdk);
    }
    convert(
        "fixed.vhd",
        "vpc",
        "subformat=fixed,force_size=on",
        ForeignFormat::Vhd,
    );
    convert(
        "dynamic.vhd",
        "vpc",
        "subformat=dynamic",
        ForeignFormat::Vhd,
    );
    convert("fixed.vhdx", "vhdx", "subformat=fixed", ForeignFormat::Vhdx);
    convert(
        "dynamic.vhdx",
        "vhdx",
        "subformat=dynamic",
        ForeignFormat::Vhdx,
    );
    convert("dynamic.vdi", "vdi", "static=off", ForeignFormat::Vdi);
    convert("static.vdi", "vdi", "static=on", ForeignFormat::Vdi);
    convert("disk.qed", "qed", "cluster_size=65536", ForeignFormat::Qed);
    convert(
        "disk.hdd",
        "parallels",
        "cluster_size=1048576",
        ForeignFormat::Parallels,
    );
    convert("disk.qcow", "qcow", "encryption=off", ForeignFormat::Qcow1);
    convert(
        "disk.luks",
        "luks",
        "key-secret=key,iter-time=10",
        ForeignFormat::Luks,
    );
    made.push(("two-sparse-s001.vmdk", ForeignFormat::Vmdk));

    // What no program here makes: headers by the formats' descriptions, in front of or behind the disk.
    let disk = small_disk();
    let mut put = |name: &'static str, bytes: Vec<u8>, format| {
        fs::write(at(name), bytes).unwrap();
        made.push((name, format));
    };
    let mut bochs = disk.clone();
    bochs[..80].fill(0);
    bochs[..22].copy_from_slice(b"Bochs Virtual HD Image");
    bochs[32..39].copy_from_slice(b"Redolog");
    bochs[48..55].copy_from_slice(b"Growing");
    bochs[64..68].copy_from_slice(&0x2_0000u32.to_le_bytes());
    put("disk.bochs", bochs, ForeignFormat::Bochs);
    let trailer = [
        &b"koly"[..],
        &4u32.to_be_bytes(),
        &512u32.to_be_bytes(),
        &[0; 500],
    ]
    .concat();
    put(
        "disk.dmg",
        [disk.clone(), trailer].concat(),
        ForeignFormat::Dmg,
    );
    let preamble =
        b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";
    put(
        "disk.cloop",
        [&preamble[..], &[0; 4096]].concat(),
        ForeignFormat::Cloop,
    );
    put(
        "disk.lz4",
        b"\x04\x22\x4d\x18\x64\x40\xa7\0\0\0\0".to_vec(),
        ForeignFormat::Lz4,
    );
    put(
        "disk.7z",
        b"7z\xbc\xaf\x27\x1c\0\x04".to_vec(),
        ForeignFormat::SevenZip,
    );
    put(
        "disk.zip",
        b"PK\x03\x04\x14\0\0\0".to_vec(),
        ForeignFormat::Zip,
    );

    for (name, format) in [
        ("gzip", ForeignFormat::Gzip),
        ("xz", ForeignFormat::Xz),
        ("zstd", ForeignFormat::Zstd),
        ("bzip2", ForeignFormat::Bzip2),
    ] {
        let output = Command::new(name)
            .arg("-c")
            .stdin(File::open(&raw).unwrap())
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}");
        put(name, output.stdout, format);
    }
    tool("tar", &["-C", &at(""), "-cf", &at("disk.tar"), "disk.raw"]);
    fs::write(at("box.ovf"), "<Envelope/>").unwrap();
    tool(
        "tar",
        &[
            "-C",
            &at(""),
            "-cf",
            &at("box.ova"),
            "box.ovf",
            "stream.vmdk",
        ],
    );
    made.extend([
        ("disk.tar", ForeignFormat::Tar),
        ("box.ova", ForeignFormat::Ova),
    ]);
    made
}

#[test]
fn formats_of_others_are_named_with_what_to_do() {
    let project = Project::empty();
    let made = files_of_others(&project.path(""));
    let mut told = String::new();
    for (name, format) in &made {
        let file = File::open(project.path(name)).unwrap();
        assert_eq!(
            image::recognize(&file).unwrap(),
            ImageKind::Other(*format),
            "{name}"
        );
        assert_eq!(image::format_of(file).unwrap(), Some(*format), "{name}");
        if READ.contains(name) {
            assert_eq!(project.ok(&["diff", "disk.raw", &format!("./{name}")]), "");
            let examined =
                impasto::vm::examine(&project.path(name), &unpacker(&project.path(""))).unwrap();
            assert_eq!(examined.size, 4 << 20, "{name}");
            continue;
        }
        let boot = project.run(&["boot", &format!("./{name}")]);
        let diff = project.run(&["diff", "disk.raw", &format!("./{name}")]);
        assert_eq!(
            (boot.code, diff.code),
            (1, 1),
            "{name}: {}{}",
            boot.stderr,
            diff.stderr
        );
        for text in [&boot.stderr, &diff.stderr] {
            assert!(
                text.contains(&format!("it is {format}")) && text.contains(&format.help()),
                "{name}: {text}"
            );
        }
        if !told.contains(&format!("it is {format}\n")) {
            told += &boot
                .stderr
                .replace(project.path("").to_str().unwrap(), "DIR/");
        }
    }
    insta::assert_snapshot!("formats", told);
    // The extents of a flat VMDK are raw disks.
    for name in ["disk.raw", "flat-flat.vmdk", "two-flat-f001.vmdk"] {
        assert_eq!(
            image::recognize(&File::open(project.path(name)).unwrap()).unwrap(),
            ImageKind::Raw,
            "{name}"
        );
    }
}

#[test]
fn a_fetched_file_of_another_format_is_a_file_until_it_is_used_as_a_disk() {
    let project = Project::empty();
    files_of_others(&project.path(""));
    let mut told = String::new();
    for name in ["dynamic.vhd", "sparse.vmdk", "xz", "bzip2"] {
        let recipe = |more: &str| {
            format!(
                "stage \"fetch\" \"it\" {{\n  path = \"{name}\"\n{more}}}\n\nstage \"copy\" \"more\" {{\n  from  = stage.it\n  \
                 files = {{ \"/x\" = {{ content = \"x\" }} }}\n}}\n"
            )
        };
        project.write(
            "impasto.hcl",
            &format!("stage \"fetch\" \"it\" {{\n  path = \"{name}\"\n  as   = \"file\"\n}}\n"),
        );
        project.ok(&["build", "it"]);
        project.write("impasto.hcl", &recipe(""));
        project.ok(&["build", "it"]);
        for line in [
            &["build", "more"][..],
            &["boot", "it"],
            &["diff", "it", "disk.raw"],
        ] {
            let ran = project.run(line);
            assert_ne!(ran.code, 0, "{name}: {line:?}");
            told += &format!("$ impasto {}\n{}", line.join(" "), ran.stderr);
        }
        project.write("impasto.hcl", &recipe("  as   = \"disk\"\n"));
        let ran = project.run(&["build", "it"]);
        let code = if name == "xz" { 0 } else { 4 };
        assert_eq!(ran.code, code, "{name}: {}", ran.stderr);
        told += &ran.stderr;
    }
    for sentence in [
        "it made no disk: it is a VHD image",
        "it made a file, but a disk is needed: it is a VMDK image",
        "it made a file, but a disk is needed: it is compressed with xz",
        "help: if it holds a disk image, write `as = \"disk\"` in the stage that fetches it",
        "`bzip2` cannot be used as a disk: it is compressed with bzip2",
        "help: decompress it first: bzip2 -d FILE",
        "help: convert it first, if you trust it: qemu-img convert -f vpc -O qcow2 FILE NEW.qcow2",
    ] {
        assert!(told.contains(sentence), "{sentence}\n{told}");
    }
}

#[test]
fn a_raw_disk_is_one_whatever_its_boot_code_begins_with() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let vdi = [&[0; 0x40][..], &[0x7f, 0x10, 0xda, 0xbe]].concat();
    let beginnings: &[&[u8]] = &[
        b"KDMV",
        b"COWD",
        b"# Disk DescriptorFile",
        b"QED\0",
        b"vhdxfile",
        b"WithoutFreeSpace",
        b"Bochs Virtual HD Image\0",
        b"conectix",
        b"LUKS\xba\xbe",
        b"\x1f\x8b\x08",
        b"\xfd7zXZ\0",
        b"\x28\xb5\x2f\xfd",
        b"BZh9",
        b"\x04\x22\x4d\x18",
        b"PK\x03\x04",
        b"7z\xbc\xaf\x27\x1c",
        b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop",
        &vdi,
    ];
    for beginning in beginnings {
        let mut disk = small_disk();
        disk[..beginning.len()].copy_from_slice(beginning);
        fs::write(&path, &disk).unwrap();
        assert_eq!(
            image::recognize(&File::open(&path).unwrap()).unwrap(),
            ImageKind::Raw,
            "{}",
            beginning.escape_ascii()
        );
    }
    // Trailers that are not whole.
    for (at, bytes) in [
        ((4 << 20) - 512, &b"conectix"[..]),
        ((4 << 20) - 512, b"koly"),
        (257, b"ustar"),
    ] {
        let mut disk = small_disk();
        disk[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(&path, &disk).unwrap();
        assert_eq!(
            image::recognize(&File::open(&path).unwrap()).unwrap(),
            ImageKind::Raw,
            "{}",
            bytes.escape_ascii()
        );
    }
}

#[test]
fn a_qcow2_that_is_an_iso_too_is_refused_everywhere() {
    let project = Project::with("stage \"fetch\" \"it\" {\n  path = \"both.img\"\n}\n");
    let both = project.path("both.img");
    fs::copy(&base().qcow2, &both).unwrap();
    let file = File::options().write(true).open(&both).unwrap();
    file.write_all_at(b"\x01CD001\x01\0", 0x8000).unwrap();
    let sentence = "it is both a qcow2 image and an ISO 9660 image";
    for (line, code) in [
        (&["build"][..], 4),
        (&["boot", "both.img"], 1),
        (&["diff", "both.img", "both.img"], 1),
    ] {
        let ran = project.run(line);
        assert!(
            ran.code == code && ran.stderr.contains(sentence),
            "{line:?}: {} {}",
            ran.code,
            ran.stderr
        );
    }
    // What is an ISO only is a file.
    let mut iso = vec![0; 64 << 10];
    iso[0x8000..0x8006].copy_from_slice(b"\x01CD001");
    fs::write(&both, iso).unwrap();
    project.build(&[]);
}

/// A file that nobody may open: it tells how often somebody did.
struct Forbidden {
    path: PathBuf,
    opened: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

impl Forbidden {
    /// Makes it, and the qcow2 that names it as its data file.
    fn with_image(dir: &Path) -> (Forbidden, PathBuf) {
        let (path, hostile) = (dir.join("foreign"), dir.join("hostile.qcow2"));
        let options = format!("data_file={},data_file_raw=on", path.display());
        tool(
            "qemu-img",
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-o",
                &options,
                hostile.to_str().unwrap(),
                "64M",
            ],
        );
        fs::remove_file(&path).unwrap();
        tool("mkfifo", &[path.to_str().unwrap()]);
        let (opened, done) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let watcher = std::thread::spawn({
            let (path, opened, done) = (path.clone(), opened.clone(), done.clone());
            move || {
                // Opening a FIFO for writing waits until somebody opens it for reading.
                while File::options().write(true).open(&path).is_ok()
                    && !done.load(Ordering::SeqCst)
                {
                    opened.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        (
            Forbidden {
                path,
                opened,
                done,
                watcher: Some(watcher),
            },
            hostile,
        )
    }

    fn opened(&self) -> u64 {
        self.opened.load(Ordering::SeqCst)
    }
}

impl Drop for Forbidden {
    fn drop(&mut self) {
        self.done.store(true, Ordering::SeqCst);
        drop(File::open(&self.path));
        if let Some(watcher) = self.watcher.take() {
            watcher.join().unwrap();
        }
    }
}

/// Puts a file under a name at once.
fn put(file: &Path, name: &Path) {
    let link = name.with_extension("link");
    fs::hard_link(file, &link).unwrap();
    fs::rename(link, name).unwrap();
}

#[test]
fn a_forbidden_file_that_is_opened_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (forbidden, hostile) = Forbidden::with_image(dir.path());
    // Whether it likes what it opened is its own business.
    let mut opener = Command::new("qemu-io");
    opener
        .args(["-r", "-f", "qcow2", "-c", "read 0 512"])
        .arg(hostile)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    opener.status().unwrap();
    let begun = Instant::now();
    while forbidden.opened() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(10));
        std::thread::yield_now();
    }
}

#[test]
fn what_was_examined_is_what_is_booted() {
    let dir = tempfile::tempdir().unwrap();
    let (forbidden, hostile) = Forbidden::with_image(dir.path());
    let raw = talking_disk(dir.path());
    let qcow2 = dir.path().join("good.qcow2");
    tool(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            raw.to_str().unwrap(),
            qcow2.to_str().unwrap(),
        ],
    );
    for (turn, good) in [raw, qcow2].iter().enumerate() {
        let name = dir.path().join("image");
        put(good, &name);
        let image = impasto::vm::examine(&name, &unpacker(dir.path())).unwrap();
        put(&hostile, &name);
        let work = dir.path().join(format!("work{turn}"));
        fs::create_dir(&work).unwrap();
        let spec = Spec {
            machine: impasto::vm::MachineType::Q35,
            accel: Accel::Tcg,
            firmware: Firmware::Bios,
            memory: 64 << 20,
            cpus: 1,
            disk: Some(MachineDisk {
                backing: image.backing,
                overlay: impasto::vm::overlay(&work, image.size, None).unwrap(),
            }),
            kernel: None,
            cdrom: None,
            seed: None,
            files: None,
            network: Network::None,
            served: Vec::new(),
            guest_agent: None,
            console: Console::Pipe,
            control: false,
        };
        let mut machine = Machine::start(&spec, &work, None).unwrap();
        let deadline = Some(Instant::now() + Duration::from_secs(120));
        assert_eq!(
            machine
                .wait_for("written", deadline, &CancelToken::new())
                .unwrap(),
            ConsoleMatch::Text,
            "{good:?}"
        );
    }
    assert_eq!(forbidden.opened(), 0);
}

#[test]
fn torture_an_image_that_is_swapped_while_it_is_booted_opens_no_other_file() {
    let tries = count("BOOT_SWAPS", 20);
    let project = Project::empty();
    let (forbidden, hostile) = Forbidden::with_image(&project.path(""));
    let (good, name) = (project.path("good.qcow2"), project.path("x.qcow2"));
    fs::copy(&base().qcow2, &good).unwrap();
    put(&good, &name);
    let (started, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                put(&hostile, &name);
                std::thread::yield_now();
                put(&good, &name);
                std::thread::yield_now();
            }
        });
        let boots: Vec<_> = (0..4)
            .map(|worker| {
                let (project, started) = (&project, &started);
                scope.spawn(move || {
                    for _ in 0..(tries + worker) / 4 {
                        let line = [
                            "boot",
                            "x.qcow2",
                            "--network",
                            "none",
                            "--memory",
                            "64MiB",
                            "--timeout",
                            "1s",
                        ];
                        let ran = ran(project.command(&line));
                        let is_refused = ran.code == 1 && ran.stderr.contains("is refused");
                        assert!(is_refused || ran.code == 4, "{}: {}", ran.code, ran.stderr);
                        started.fetch_add(u64::from(!is_refused), Ordering::SeqCst);
                    }
                })
            })
            .collect();
        let results: Vec<_> = boots.into_iter().map(|boot| boot.join()).collect();
        done.store(true, Ordering::SeqCst);
        swapper.join().unwrap();
        results.into_iter().for_each(|result| result.unwrap());
    });
    let started = started.into_inner();
    println!(
        "{tries} tries, {started} machines started, {} times the foreign file was opened",
        forbidden.opened()
    );
    assert!(started > 0);
    assert_eq!(forbidden.opened(), 0);
}

#[test]
fn a_layer_that_is_swapped_before_the_storage_daemon_opens_it_opens_no_other_file() {
    let bench = Bench::new();
    let (forbidden, hostile) = Forbidden::with_image(bench.dir.path());
    let name = bench.dir.path().join("layer.qcow2");
    fs::copy(&base().qcow2, &name).unwrap();
    let checked = File::open(&name).unwrap();
    put(&hostile, &name);
    let job = impasto::sandbox::SandboxJob {
        chain: vec![open_file_path(&checked)],
        steps: commands(&["cat /etc/hosts"]),
        ..bench.job()
    };
    assert_eq!(
        bench.run(job).unwrap().outcome,
        Outcome::Ok,
        "{}",
        bench.log()
    );
    assert_eq!(forbidden.opened(), 0);
}

#[test]
fn a_failed_state_that_somebody_exchanged_is_refused() {
    let project = Project::with(
        "stage \"fetch\" \"base\" {\n  path = \"base.qcow2\"\n}\n\nstage \"run\" \"it\" {\n  from     = stage.base\n  \
         commands = [\"echo here > /mark; false\"]\n}\n",
    );
    assert_eq!(project.run(&["build"]).code, 4);
    assert_eq!(project.ok(&["shell", "it", "-c", "cat /mark"]), "here\n");
    let (forbidden, hostile) = Forbidden::with_image(&project.path(""));
    let find = "find \"$1\" -path '*failed*' -name '*.qcow2'";
    let kept = tool("sh", &["-c", find, "sh", project.store().to_str().unwrap()]);
    assert_eq!(kept.lines().count(), 1, "{kept}");
    put(&hostile, Path::new(kept.trim_end()));
    let ran = project.run(&["shell", "it", "-c", "cat /mark"]);
    assert!(
        ran.code == 1 && ran.stderr.contains("is refused"),
        "{}: {}",
        ran.code,
        ran.stderr
    );
    assert_eq!(forbidden.opened(), 0);
}
