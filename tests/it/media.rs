//! Ramdisks and archives: what other programs read in them, and what a change costs.
//!
//! One test boots a real kernel with a ramdisk of ours, by itself and from a CD.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::base::tool;
use crate::debian::mirror;
use crate::project::{Project, ran};
use crate::torture;

/// A ramdisk of the base disk with an /init, some links, devices and two kernels.
const RAMDISK: &str = r#"
recipe { source_date_epoch = 1700000000 }
stage "fetch" "base" { path = "base.qcow2" }
stage "run" "system" {
  from     = stage.base
  commands = [
    "ln -s /bin/busybox /init",
    "mkdir -p /boot /data /usr/share/doc/x; echo no >/usr/share/doc/x/readme",
    "echo old >/boot/vmlinuz-6.1.0-9-amd64; echo new >/boot/vmlinuz-6.1.0-10-amd64",
    "echo one >/data/one; ln /data/one /data/two; ln /data/one /data/three; chown 7:8 /data/one; chmod 4750 /data/one",
    "ln -s one /data/link; truncate -s 3M /data/hole; echo end >>/data/hole",
  ]
}
stage "copy" "overlay" {
  from  = stage.system
  files = { "/overlay" = "overlay" }
}
stage "initramfs" "ramdisk" {
  from    = stage.overlay
  exclude = ["/usr/share/doc/*", "/boot/*"]
}
image "it" {
  files = { "it.gz" = stage.ramdisk, "vmlinuz" = stage.ramdisk.files["kernel"] }
}
"#;

/// Pipes bytes through a program of the host.
fn piped(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {program}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    // A program that has what it wants reads no further.
    let _ = writer.join().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}");
    output.stdout
}

/// Files of an overlay: many small ones and a large one.
fn overlay(project: &Project) {
    for n in 0..600_u32 {
        let hash = blake3::hash(&n.to_le_bytes()).to_hex();
        let text = format!("{hash}\n").repeat(40 + n as usize % 500);
        project.write(&format!("overlay/d{}/f{n}", n % 20), &text);
    }
    project.write("overlay/large", &"a large file\n".repeat(400_000));
}

#[test]
fn a_ramdisk_is_what_other_programs_read_and_keeps_what_did_not_change() {
    let project = Project::with(RAMDISK);
    overlay(&project);
    let built = project.run(&["build"]);
    assert_eq!(built.code, 0, "{}", built.stderr);
    assert_eq!(project.read("out/it/vmlinuz"), "new\n");
    let packed = fs::read(project.path("out/it/it.gz")).unwrap();
    let plain = piped("gzip", &["-dc"], &packed);
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("archive");
    fs::write(&archive, &plain).unwrap();
    let list = String::from_utf8(piped("cpio", &["-itvn", "--quiet"], &plain)).unwrap();
    let line = |end: &str| {
        let found = list.lines().find(|line| line.ends_with(end));
        found
            .unwrap_or_else(|| panic!("no {end}: {list}"))
            .to_owned()
    };
    for name in ["data/one", "data/two", "data/three"] {
        let line = line(&format!(" {name}"));
        assert!(line.starts_with("-rwsr-x---   3 7        8"), "{line}");
    }
    assert!(line("init -> /bin/busybox").starts_with("lrwxrwxrwx"));
    assert!(line(" .").starts_with("drwxr-xr-x"));
    // Half of the year ago the hour is shown no more.
    assert!(
        list.lines().all(|line| line.contains("Nov 14  2023")),
        "{list}"
    );
    assert!(
        !list.contains("vmlinuz") && !list.contains("usr/share/doc/"),
        "{list}"
    );
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    tool(
        "sh",
        &[
            "-c",
            &format!(
                "cd {} && cpio -idm --quiet <{}",
                out.display(),
                archive.display()
            ),
        ],
    );
    assert_eq!(fs::read_to_string(out.join("data/two")).unwrap(), "one\n");
    let hole = fs::read(out.join("data/hole")).unwrap();
    assert!(hole.len() == (3 << 20) + 4 && hole.ends_with(b"\0end\n"));
    tool(
        "diff",
        &[
            "-r",
            project.path("overlay").to_str().unwrap(),
            out.join("overlay").to_str().unwrap(),
        ],
    );

    // One file grows: few pieces are compressed, and the bytes are those of a store that knows nothing.
    project.write("overlay/d7/f7", &"something else entirely\n".repeat(999));
    let changed = project.run(&["build"]);
    assert_eq!(changed.code, 0, "{}", changed.stderr);
    let log = project.ok(&["log", "ramdisk"]);
    let line = log
        .lines()
        .find(|line| line.contains("compressed again"))
        .unwrap();
    let numbers: Vec<u32> = line
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    assert!(numbers[0] <= 3 && numbers[1] > 15, "{line}");
    let shared = fs::read(project.path("out/it/it.gz")).unwrap();
    assert_ne!(shared, packed);
    let fresh = Project::with(RAMDISK);
    overlay(&fresh);
    fresh.write("overlay/d7/f7", &"something else entirely\n".repeat(999));
    assert_eq!(fresh.run(&["build"]).code, 0);
    assert!(fs::read(fresh.path("out/it/it.gz")).unwrap() == shared);
    assert_eq!(project.run(&["store", "verify"]).code, 0);
}

#[test]
fn the_same_files_in_another_disk_are_the_same_ramdisk() {
    let recipe = |command: &str| {
        format!(
            r#"recipe {{ source_date_epoch = 1700000000 }}
               stage "fetch" "base" {{ path = "base.qcow2" }}
               stage "run" "files" {{
                 from     = stage.base
                 commands = ["{command}", "ln -s /bin/busybox /init"]
               }}
               stage "initramfs" "ramdisk" {{ from = stage.files }}"#
        )
    };
    let project = Project::with(&recipe("echo a >/a; echo b >/b"));
    assert_eq!(project.build(&[]), (3, 0));
    project.write("impasto.hcl", &recipe("echo b >/b; echo a >/a"));
    // The stage ran; its files are the same, and so nothing is made of them again.
    assert_eq!(project.build(&[]), (1, 2));
}

#[test]
fn a_ramdisk_without_a_kernel_says_where_one_is_missing() {
    let recipe = |more: &str| {
        format!(
            r#"recipe {{ source_date_epoch = 1700000000 }}
               stage "fetch" "base" {{ path = "base.qcow2" }}
               stage "initramfs" "ramdisk" {{ from = stage.base }}
               {more}"#
        )
    };
    let image = r#"image "it" { files = { vmlinuz = stage.ramdisk.files["kernel"] } }"#;
    let bundle = r#"stage "archive" "bundle" {
      format = "tar"
      files  = { vmlinuz = stage.ramdisk.files["kernel"] }
    }"#;
    for more in [image, bundle] {
        let project = Project::with(&recipe(more));
        let refused = project.run(&["build"]);
        assert_ne!(refused.code, 0);
        for words in [
            "ramdisk made no file \"kernel\"",
            "its disk has no /boot/vmlinuz-",
        ] {
            assert!(
                refused.stderr.contains(words),
                "{words}: {}",
                refused.stderr
            );
        }
    }
}

#[test]
fn an_archive_has_files_of_all_kinds_under_their_names() {
    let recipe = |format: &str| {
        format!(
            r#"recipe {{ source_date_epoch = 1700000000 }}
               stage "fetch" "base" {{ path = "base.qcow2" }}
               stage "run" "files" {{
                 from     = stage.base
                 commands = ["echo made >/made; chmod 755 /made"]
                 output   = {{ made = "/made" }}
               }}
               stage "convert" "disk" {{
                 from   = stage.files
                 format = "raw"
               }}
               stage "archive" "bundle" {{
                 format = "{format}"
                 files  = {{
                   "a/made"   = stage.files.files["made"]
                   "disk.raw" = stage.disk
                   doc        = "doc"
                   "note"     = "note.txt"
                 }}
               }}"#
        )
    };
    let project = Project::with(&recipe("tar.gz"));
    project.write("doc/one.txt", "one\n");
    project.write("doc/deep/two.txt", "two\n");
    std::os::unix::fs::symlink("one.txt", project.path("doc/link")).unwrap();
    project.write("note.txt", "note\n");
    for format in ["tar.gz", "tar.zst", "tar.xz", "tar", "cpio.gz"] {
        project.write("impasto.hcl", &recipe(format));
        let built = project.run(&["build", "bundle"]);
        assert_eq!(built.code, 0, "{format}: {}", built.stderr);
        let file = project.path(&format!("out/bundle.{format}"));
        let dir = tempfile::tempdir().unwrap();
        let (file, to) = (file.to_str().unwrap(), dir.path().to_str().unwrap());
        match format {
            "cpio.gz" => drop(tool(
                "sh",
                &[
                    "-c",
                    &format!("cd {to} && gzip -dc <{file} | cpio -idm --quiet"),
                ],
            )),
            _ => drop(tool("tar", &["-C", to, "-xf", file])),
        }
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(
            [
                read("a/made"),
                read("doc/one.txt"),
                read("doc/deep/two.txt"),
                read("doc/link"),
                read("note")
            ],
            ["made\n", "one\n", "two\n", "one\n", "note\n"]
        );
        let raw = fs::metadata(dir.path().join("disk.raw")).unwrap();
        assert_eq!(raw.len(), crate::base::DISK_SIZE);
        if format == "tar" {
            let list = tool("tar", &["--numeric-owner", "--full-time", "-tvf", file]);
            assert!(
                list.lines()
                    .all(|line| line.contains(" 0/0 ") && line.contains("2023-11-14 22:13:20")),
                "{list}"
            );
            let names: Vec<_> = list
                .lines()
                .filter_map(|line| line.split(' ').nth_back(0))
                .collect();
            let mut sorted = names.clone();
            sorted.sort_unstable();
            assert!(names.len() == 9, "{list}");
        }
    }
    // What cannot be beside each other is told by name.
    let text = recipe("tar").replace("\"note\" ", "\"doc/one.txt\" ");
    project.write("impasto.hcl", &text);
    let twice = project.run(&["build", "bundle"]);
    assert_eq!(twice.code, 4, "{}", twice.stderr);
    assert!(
        twice.stderr.contains("doc/one.txt is there twice"),
        "{}",
        twice.stderr
    );
    project.write(
        "impasto.hcl",
        &recipe("tar").replace("\"note\" ", "\"a/made/x\" "),
    );
    let below = project.run(&["build", "bundle"]);
    assert!(
        below
            .stderr
            .contains("a/made/x lies below a/made, which is not a directory"),
        "{}",
        below.stderr
    );
}

#[test]
fn a_disk_is_an_archive_with_its_owners_and_attributes() {
    let project = Project::with(
        r#"recipe { source_date_epoch = 1700000000 }
           stage "fetch" "base" { path = "base.qcow2" }
           stage "run" "files" {
             from     = stage.base
             commands = ["mkdir /srv; echo x >/srv/x; chown 33:34 /srv/x; chmod 2640 /srv/x; ln /srv/x /srv/y; mkfifo /srv/p"]
           }
           stage "archive" "all" {
             from    = stage.files
             format  = "tar.zst"
             exclude = ["/lost+found"]
           }"#,
    );
    let built = project.run(&["build", "all"]);
    assert_eq!(built.code, 0, "{}", built.stderr);
    let file = project.path("out/all.tar.zst");
    let list = tool("tar", &["--numeric-owner", "-tvf", file.to_str().unwrap()]);
    assert!(list.contains("-rw-r-S--- 33/34"), "{list}");
    assert!(list.contains("srv/y link to srv/x"), "{list}");
    assert!(list.lines().any(|line| line.starts_with('p')), "{list}");
    assert!(!list.contains("lost+found"), "{list}");
}

#[test]
fn what_is_wrong_with_a_ramdisk_is_told() {
    let recipe = |more: &str| {
        format!(
            r#"recipe {{ source_date_epoch = 1700000000 }}
               stage "fetch" "base" {{ path = "base.qcow2" }}
               stage "initramfs" "ramdisk" {{
                 from = stage.base
                 {more}
               }}"#
        )
    };
    let project = Project::with(&recipe(""));
    let built = project.run(&["build"]);
    assert_eq!(built.code, 0, "{}", built.stderr);
    assert!(
        built.stderr.contains("the ramdisk has no /init"),
        "{}",
        built.stderr
    );
    project.write("impasto.hcl", &recipe("kernel = \"6.1.0-1-amd64\""));
    let none = project.run(&["build"]);
    assert_eq!(none.code, 4, "{}", none.stderr);
    assert!(
        none.stderr.contains("the disk has no kernel 6.1.0-1-amd64"),
        "{}",
        none.stderr
    );
    // No kernel is no file of that name, and that is told where it is needed.
    let text = recipe("")
        + "\nstage \"archive\" \"a\" {\n  format = \"tar\"\n  files = { k = stage.ramdisk.files[\"kernel\"] }\n}\n";
    project.write("impasto.hcl", &text);
    let missing = project.run(&["build"]);
    assert_ne!(missing.code, 0);
    assert!(
        missing.stderr.contains("made no file \"kernel\""),
        "{}",
        missing.stderr
    );
}

/// Debian as a ramdisk on a CD. What is tested is that kernel, boot loaders and firmware take what we made.
const BOOTED: &str = r#"
recipe { source_date_epoch = 1700000000 }
stage "bootstrap" "root" {
  suite    = "bookworm"
  packages = ["linux-image-cloud-amd64", "systemd-sysv"]
}
stage "disk" "base" {
  tree  = stage.root
  size  = "1GiB"
  table = "none"
  networking = "none"
}
stage "run" "init" {
  from     = stage.base
  commands = ["printf '#!/bin/sh\necho the ramdisk runs >/dev/console\nexec sleep 9999\n' >/init", "chmod 755 /init"]
}
stage "initramfs" "ramdisk" {
  from        = stage.init
  exclude     = ["/boot/*", "/lib/modules/*", "/usr/lib/modules/*", "/usr/share/*", "/var/*"]
  compression = "COMPRESSION"
}
stage "iso" "cd" {
  kernel    = stage.ramdisk.files["kernel"]
  initramfs = stage.ramdisk
  arguments = ["console=ttyS0"]
  suite     = "bookworm"
}
stage "test" "direct" {
  kernel    = stage.ramdisk.files["kernel"]
  initramfs = stage.ramdisk
  checks    = { runs = { console = "the ramdisk runs" } }
}
stage "test" "medium" {
  iso      = stage.cd
  firmware = ["bios", "uefi", "secure-boot"]
  checks   = { runs = { console = "the ramdisk runs" } }
}
"#;

fn boots(compression: &str, tests: &[&str]) {
    let project = Project::empty();
    project.write("impasto.hcl", &BOOTED.replace("COMPRESSION", compression));
    let mut command = project.command(&[&["test"], tests].concat());
    command.env("IMPASTO_MIRROR", format!("file:{}", mirror().display()));
    let tested = ran(command);
    assert_eq!(tested.code, 0, "{}", tested.stderr);
}

#[test]
fn a_kernel_starts_a_gzip_ramdisk() {
    boots("gzip", &["direct"]);
}

#[test]
fn torture_ramdisks_of_all_forms_and_a_cd_boot() {
    if torture::count("MACHINES", 1) < 2 {
        println!("left out: six machines take minutes without KVM; `make torture` boots them");
        return;
    }
    for compression in ["xz", "zstd", "none"] {
        boots(compression, &["direct"]);
    }
    boots("gzip", &["direct", "medium"]);
}
