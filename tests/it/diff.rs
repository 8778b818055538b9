//! `impasto diff` and `impasto layer blame` on disks that the kernel wrote to, and on stages.
//!
//! Needs root, loop devices, and the packages acl, e2fsprogs, libcap2-bin and util-linux.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use regex::Regex;
use serde_json::Value;

use crate::base::{ROOT_START, base, tool};
use crate::guest_ext4::mounted;
use crate::project::{Project, Ran, ran};

const DIFFERENT: i32 = 10;

/// Output without what differs from run to run.
fn shown(text: &str) -> String {
    Regex::new(r"\d{4}-\d\d-\d\dT[0-9:.]+Z")
        .unwrap()
        .replace_all(text, "TIME")
        .into_owned()
}

/// Runs a line of shell in the root file system of a raw disk.
fn change(disk: &Path, line: &str) {
    mounted(disk, &format!("offset={}", ROOT_START * 512), |root| {
        tool("sh", &["-euc", &format!("cd '{}'; {line}", root.display())]);
    });
}

/// A project with two copies of the base disk, `a.raw` and `b.raw`, changed by two lines of shell.
fn pair(first: &str, second: &str) -> Project {
    let project = Project::empty();
    for (name, line) in [("a.raw", first), ("b.raw", second)] {
        fs::copy(&base().raw, project.path(name)).unwrap();
        if !line.is_empty() {
            change(&project.path(name), line);
        }
    }
    project
}

const STATUS: &str = "Package: openssl\nStatus: install ok installed\nArchitecture: amd64\nVersion: 3.0.15-1\n\n\
    Package: nano\nStatus: install ok installed\nArchitecture: amd64\nVersion: 7.2-1\n";

#[test]
fn what_the_kernel_changed_is_told() {
    let dpkg = |text: &str| {
        format!(
            "mkdir -p var/lib/dpkg; printf '{}' > var/lib/dpkg/status; ",
            text.replace('\n', "\\n")
        )
    };
    let before = dpkg(STATUS) + "ln -s target link; mkdir old; echo 1 > old/one; echo 2 > old/two";
    let after = dpkg(&STATUS.replace("15-1", "16-1").replace("nano", "gdb"))
        + r"ln -s other link; echo 192.0.2.7 printer >> etc/hosts; chmod 600 etc/group; chown 7:8 etc/group
            mkdir -p new/deep; head -c 5000 /dev/zero > new/zero; ln new/zero new/deep/again
            cp bin/busybox new/ping; setcap cap_net_raw+ep new/ping
            setfacl -m u:1000:rw etc/fstab
            chattr +i etc/resolv.conf; mknod new/null c 1 3; mkfifo pipe
            echo x > $(printf 'a\033[31mred')";
    let project = pair(&before, &after);
    // Boot code, and a file of the gap behind it.
    let disk = fs::File::options()
        .write(true)
        .open(project.path("b.raw"))
        .unwrap();
    disk.write_all_at(b"boot", 0).unwrap();
    disk.write_all_at(b"core", 40_000).unwrap();
    tool(
        "e2label",
        &[
            &format!(
                "{}?offset={}",
                project.path("b.raw").display(),
                ROOT_START * 512
            ),
            "other",
        ],
    );
    let told = project.run(&["diff", "a.raw", "b.raw"]);
    assert_eq!((told.code, told.stderr.as_str()), (DIFFERENT, ""));
    insta::assert_snapshot!("kernel", shown(&told.stdout));
    let stat = project.run(&["diff", "--stat", "a.raw", "b.raw"]);
    assert_eq!(stat.code, DIFFERENT);
    insta::assert_snapshot!("kernel_stat", stat.stdout);

    let told = project.run(&["diff", "--json", "a.raw", "b.raw"]);
    assert_eq!(told.code, DIFFERENT);
    let json: Value = serde_json::from_str(&told.stdout).unwrap();
    let file = |path: &str| {
        json["files"]
            .as_array()
            .unwrap()
            .iter()
            .find(|file| file["path"] == path)
            .cloned()
            .unwrap()
    };
    assert_eq!(
        file("/new/ping")["after"]["xattrs"]["security.capability"],
        "cap_net_raw=ep"
    );
    assert_eq!(file("/etc/hosts")["text"]["lines"][2], "+192.0.2.7 printer");
    assert_eq!(json["packages"].as_array().unwrap().len(), 3);

    // The other form of an image is the same disk.
    tool(
        "qemu-img",
        &[
            "convert",
            "-O",
            "qcow2",
            &text(&project, "b.raw"),
            &text(&project, "b.qcow2"),
        ],
    );
    let same = project.run(&["diff", "b.qcow2", "b.raw"]);
    assert_eq!(
        (same.code, same.stdout.as_str()),
        (0, ""),
        "{}",
        same.stderr
    );
    assert_eq!(project.run(&["diff", "--json", "b.qcow2", "b.raw"]).code, 0);
    assert!(!project.store().exists(), "files need no store");
}

fn text(project: &Project, name: &str) -> String {
    project.path(name).to_str().unwrap().to_owned()
}

#[test]
fn damaged_and_hostile_images_are_refused_or_compared_by_their_bytes() {
    let project = pair("", "echo x > x");
    project.write("notes.txt", "no image");
    fs::write(
        project.path("cut.qcow2"),
        &fs::read(&base().qcow2).unwrap()[..1000],
    )
    .unwrap();
    fs::write(project.path("empty.raw"), "").unwrap();
    let mut told = String::new();
    for name in [
        "notes.txt",
        "cut.qcow2",
        "empty.raw",
        "./nowhere.raw",
        "/dev/null",
    ] {
        let ran = project.run(&["diff", "a.raw", name]);
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{name}");
        told += &ran.stderr.replace(&text(&project, ""), "DIR/");
    }
    insta::assert_snapshot!("refused", told);

    // A bit of an inode table: its checksum is wrong, so no file is believed.
    let disk = fs::File::options()
        .write(true)
        .read(true)
        .open(project.path("b.raw"))
        .unwrap();
    let superblock = ROOT_START * 512 + 1024;
    let mut byte = [0];
    disk.read_exact_at(&mut byte, superblock + 0x78).unwrap();
    disk.write_all_at(&[byte[0] ^ 1], superblock + 0x78)
        .unwrap();
    let ran = project.run(&["diff", "a.raw", "b.raw"]);
    assert_eq!(ran.code, DIFFERENT, "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("warning: b.raw: the files of partition 1 cannot be listed"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stdout.contains("partition 1, byte by byte"),
        "{}",
        ran.stdout
    );
}

#[test]
fn every_user_may_compare_what_they_can_read() {
    let project = pair("", "echo x > x");
    project.write("impasto.hcl", "recipe {\n  name = \"nobody\"\n}\n\nstage \"fetch\" \"a\" {\n  path = \"a.raw\"\n}\n\nstage \"fetch\" \"b\" {\n  path = \"b.raw\"\n}\n");
    project.build(&[]);
    tool("chmod", &["-R", "a+rX", &text(&project, "")]);
    tool("chown", &["-R", "65534", project.store().to_str().unwrap()]);
    let nobody = |arguments: &[&str]| -> Ran {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command
            .arg(env!("CARGO_BIN_EXE_impasto"))
            .args(arguments)
            .args(["--store", &text(&project, "store")]);
        command
            .current_dir(project.path(""))
            .env("HOME", "/nonexistent")
            .stdin(Stdio::null());
        ran(command)
    };
    for names in [["a.raw", "b.raw"], ["a", "b"], ["a", "b.raw"]] {
        let told = nobody(&[&["diff", "--stat"][..], &names].concat());
        assert_eq!(
            (told.code, told.stderr.as_str()),
            (DIFFERENT, ""),
            "{names:?}: {}",
            told.stdout
        );
        assert!(
            told.stdout
                .contains("all        1      0        1        +2 B"),
            "{}",
            told.stdout
        );
    }
    assert_eq!(nobody(&["diff", "a", "a.raw"]).code, 0);
}

const RECIPE: &str = r#"recipe {
  name = "stages"
}

matrix {
  variant = ["small", "large"]
}

stage "fetch" "base" {
  path = "base.qcow2"
}

stage "run" "tools" {
  from     = stage.base
  commands = ["mkdir -p /opt/tools; echo one > /opt/tools/one; echo 127.0.0.1 tools >> /etc/hosts"]
}

stage "run" "config" {
  from     = stage.tools
  commands = ["echo ${matrix.variant} > /etc/variant; echo more >> /opt/tools/one"]
}

stage "convert" "qcow2" {
  from   = stage.config
  format = "qcow2"
}

image "words" {
  name  = "words-${matrix.variant}"
  files = [stage.qcow2]
}
"#;

#[test]
fn stages_are_compared_by_name_and_with_their_earlier_runs() {
    let project = Project::with(RECIPE);
    let mut told = String::new();
    let mut run = |arguments: &[&str]| {
        let ran = project.run(arguments);
        let output = format!("exit {}\n{}{}", ran.code, ran.stdout, ran.stderr)
            .replace(&text(&project, ""), "DIR/");
        told += &format!("$ impasto {}\n{}\n", arguments.join(" "), shown(&output));
    };
    run(&["diff", "tools"]);
    project.build(&[]);
    run(&["diff", "tools"]);
    run(&["diff", "base", "config[variant=small]", "--no-text"]);
    run(&[
        "diff",
        "config[variant=small]",
        "image.words[variant=large]",
    ]);
    run(&[
        "diff",
        "image.words[variant=large]",
        "out/words-large.qcow2",
    ]);
    run(&["diff", "image.words[variant=large]", "--stat"]);
    run(&["diff", "base"]);
    run(&["diff", "out/words-large.qcow2"]);
    run(&["diff", "config", "base"]);
    run(&["diff", "tolls", "base"]);
    run(&["diff", "tools~1", "tools"]);
    run(&["diff", "tools~x", "tools"]);
    run(&["diff"]);

    project.write("impasto.hcl", &RECIPE.replace("echo one", "echo two"));
    run(&["diff", "tools"]);
    run(&["diff", "tools~0", "base", "--stat"]);
    project.build(&[]);
    run(&["diff", "tools~1", "tools"]);
    run(&["diff", "config[variant=small]~1"]);
    run(&["diff", "tools~7", "tools"]);
    project.write("other/impasto.hcl", RECIPE);
    fs::copy(&base().qcow2, project.path("other/base.qcow2")).unwrap();
    run(&["diff", "other:tools", "tools", "--stat"]);
    run(&["diff", "other", "base", "tools", "--stat"]);
    run(&[
        "diff",
        "impasto.hcl:tools",
        "other/impasto.hcl:base",
        "--stat",
    ]);
    insta::assert_snapshot!("stages", told);

    // A layer by its digest has no claim, and is read.
    let list = project.ok(&["layer", "list"]);
    let layers: Vec<_> = list
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .collect();
    assert_eq!(project.run(&["diff", &layers[0], &layers[0]]).code, 0);
    assert_eq!(
        project.run(&["diff", &layers[0], &layers[1]]).code,
        DIFFERENT
    );
}

#[test]
fn every_byte_has_its_stage() {
    let project = Project::with(RECIPE);
    project.build(&["--only", "variant=small"]);
    let json: Value = serde_json::from_str(&project.ok(&[
        "layer",
        "blame",
        "image.words[variant=small]",
        "--json",
    ]))
    .unwrap();
    let bytes = |value: &Value| value["bytes"].as_u64().unwrap();
    let stages = json["stages"].as_array().unwrap();
    let of = |name: &str| stages.iter().find(|stage| stage["stage"] == name).unwrap();
    assert_eq!(stages.iter().map(bytes).sum::<u64>(), bytes(&json));
    for stage in stages {
        assert_eq!(
            stage["parts"]
                .as_array()
                .unwrap()
                .iter()
                .map(bytes)
                .sum::<u64>(),
            bytes(stage)
        );
    }
    // /etc/hosts is the tools stage's, /opt/tools/one and /etc/variant the config stage's.
    assert_eq!(
        bytes(of("tools")),
        "127.0.0.1 image\n127.0.0.1 tools\n".len() as u64
    );
    assert_eq!(
        bytes(of("config[variant=small]")),
        "small\none\nmore\n".len() as u64
    );
    let find = project.in_guest(
        "config[variant=small]",
        "find / -xdev -type f -not -path '/run/*' -exec stat -c '%i %s' {} + | sort -u",
    );
    let sum: u64 = find
        .lines()
        .filter_map(|line| line.split(' ').nth(1)?.parse::<u64>().ok())
        .sum();
    assert_eq!(bytes(&json), sum, "{find}");

    let table = project.ok(&[
        "layer",
        "blame",
        "config",
        "--only",
        "variant=small",
        "--depth",
        "1",
    ]);
    assert!(table.lines().nth(1).unwrap().starts_with("base"), "{table}");
    let ran = project.run(&["layer", "blame", "tools", "--packages"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.contains("tools has no dpkg packages"),
        "{}",
        ran.stderr
    );
}

#[test]
fn packages_of_a_debian_are_told_and_blamed() {
    let project = Project::empty();
    project.link(crate::debian::base(), "debian.qcow2");
    project.write(
        "impasto.hcl",
        r#"recipe {
  name = "debian"
}

stage "fetch" "base" {
  path = "debian.qcow2"
}

stage "run" "edit" {
  from     = stage.base
  commands = ["sed -i '/^Package: tar$/,/^$/s/^Version: .*/Version: 99/' /var/lib/dpkg/status", "echo x >> /bin/tar"]
}
"#,
    );
    project.build(&[]);
    let told = project.run(&["diff", "edit"]).stdout;
    let line = told
        .lines()
        .find(|line| line.starts_with("  ~ tar "))
        .unwrap_or_else(|| panic!("{told}"));
    assert!(line.ends_with("→ 99"), "{line}");
    let json: Value =
        serde_json::from_str(&project.ok(&["layer", "blame", "edit", "--packages", "--json"]))
            .unwrap();
    let parts = |name: &str| -> Vec<Value> {
        let stages = json["stages"].as_array().unwrap();
        stages.iter().find(|stage| stage["stage"] == name).unwrap()["parts"]
            .as_array()
            .unwrap()
            .clone()
    };
    let names = |parts: Vec<Value>| {
        parts
            .into_iter()
            .map(|part| part["name"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(parts("edit")), ["tar".into(), Value::Null], "{json}");
    assert!(names(parts("base")).contains(&"coreutils".into()));
    let lost = parts("base")
        .iter()
        .find(|part| part["name"].is_null())
        .unwrap()["bytes"]
        .as_u64()
        .unwrap();
    assert!(
        lost * 3 < json["bytes"].as_u64().unwrap(),
        "nearly all files are in packages: {lost} bytes are not"
    );
}

#[test]
fn files_of_an_efi_partition_are_told_beside_its_bytes() {
    let project = Project::empty();
    for (name, words) in [("a", "set timeout=1"), ("b", "set timeout=5")] {
        let line = format!(
            "cd '{}'; truncate -s 16M {name}.raw
            echo 'label: gpt\nlabel-id: 6A3B2C1D-0000-4000-8000-000000000001
            start=2048, size=16384, type=uefi, uuid=6A3B2C1D-0000-4000-8000-000000000013' | sfdisk -q {name}.raw
            mkfs.vfat -C -i 12345678 {name}.fat 8192 > {name}.log
            echo '{words}' > grub.cfg; touch -d @1700000000 grub.cfg
            mmd -i {name}.fat ::EFI; mcopy -m -i {name}.fat grub.cfg ::EFI/grub.cfg
            dd if={name}.fat of={name}.raw bs=512 seek=2048 conv=notrunc status=none",
            project.path("").display()
        );
        tool("sh", &["-euc", &line]);
    }
    let told = project.run(&["diff", "a.raw", "b.raw"]);
    assert_eq!((told.code, told.stderr.as_str()), (DIFFERENT, ""));
    // The directory is made by the clock.
    let text: Vec<_> = told
        .stdout
        .lines()
        .filter(|line| !line.contains("only in its time"))
        .collect();
    insta::assert_snapshot!("efi", text.join("\n"));
}
