//! Disks of another machine: their programs run by the toolbox's emulator, in a stage as in a shell.

use std::fs;
use std::path::{Path, PathBuf};

use impasto::deb::control;
use impasto::debian::toolbox::EMULATOR;
use impasto::sandbox::{Emulator, Outcome, SandboxInput, SandboxJob};
use impasto::vm::MachineType;

use crate::debian::{once, run};
use crate::project::Project;
use crate::sandbox::{Bench, commands};
use crate::toolbox::{fetch, foreign_mirror, make_toolbox};
use crate::torture;

const MACHINE: &str = "arm64";

/// One static program for arm64 that is a shell and much else.
fn busybox() -> PathBuf {
    once("busybox-arm64-1", |dir| {
        let mirror = foreign_mirror();
        let text = fs::read(mirror.join("Packages")).unwrap();
        let path = control::stanzas(&text)
            .find(|stanza| stanza.get("Package") == Some("busybox-static"))
            .and_then(|stanza| stanza.get("Filename"))
            .unwrap();
        fetch(&mirror, path);
        run(
            "dpkg-deb --fsys-tarfile \"$1\" | tar -xOf - ./bin/busybox > \"$2/busybox\"; chmod 755 \"$2/busybox\"",
            &[&mirror.join(path), dir],
        );
    })
    .join("busybox")
}

fn emulator() -> Emulator {
    let tools = make_toolbox("toolbox-1-emulator", &[EMULATOR]);
    Emulator::of_tools(&tools, MACHINE).unwrap()
}

fn registry() -> usize {
    fs::read_dir("/proc/sys/fs/binfmt_misc")
        .map(|list| list.count())
        .unwrap_or_default()
}

#[test]
fn programs_of_another_machine_run_and_may_no_more_than_others() {
    let before = registry();
    let (bench, busybox) = (Bench::new(), busybox());
    fn job<'b>(
        bench: &'b Bench,
        busybox: &'b Path,
        emulator: Option<Emulator>,
        lines: &[&str],
    ) -> SandboxJob<'b> {
        SandboxJob {
            steps: commands(lines),
            inputs: vec![SandboxInput {
                name: "busybox".to_owned(),
                mode: 0o755,
                path: busybox,
            }],
            emulator,
            ..bench.job()
        }
    }
    // A shell for arm64, which starts further programs for arm64.
    let shell = |line: &str| format!("b=/run/impasto/inputs/busybox; $b sh -c '{line}'");
    let host = Bench::new();
    let none = host
        .run(job(&host, &busybox, None, &[&shell("true")]))
        .unwrap();
    assert!(!none.outcome.is_ok(), "this host runs arm64 programs");

    let lines = [
        shell("b=/run/impasto/inputs/busybox; $b uname -m; $b echo uid $($b id -u)"),
        shell(
            "b=/run/impasto/inputs/busybox; echo x > /owned; $b chown 1000:1000 /owned; $b stat -c %u:%g /owned",
        ),
        "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status".to_owned(),
        shell(
            "b=/run/impasto/inputs/busybox; $b mount -t tmpfs none /mnt 2>/dev/null && echo mounted || echo refused",
        ),
        shell(
            "b=/run/impasto/inputs/busybox; $b mknod /node b 7 0 2>/dev/null && echo made || echo refused",
        ),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let finished = bench
        .run(job(&bench, &busybox, Some(emulator()), &lines))
        .unwrap();
    assert_eq!(finished.outcome, Outcome::Ok, "{}", bench.log());
    let log = bench.log();
    for text in [
        "aarch64\nuid 0\n",
        "1000:1000\n",
        "Seccomp:\t2",
        "refused\nrefused\n",
    ] {
        assert!(log.contains(text), "no {text:?} in {log}");
    }
    // What a step may, it may here: of the same capabilities.
    let capabilities = |log: &str| {
        let line = log.lines().find(|line| line.starts_with("CapEff:"));
        line.map(str::to_owned).unwrap()
    };
    let native = Bench::new();
    native.lines(&["grep CapEff: /proc/self/status"]);
    assert_eq!(capabilities(&log), capabilities(&native.log()));
    assert_eq!(registry(), before, "the host's registry is as it was");
}

/// A root for arm64 with a kernel, packages and scripts on it, and one module, all on this machine.
#[test]
fn a_fetched_disk_says_which_machine_it_is_for() {
    let project = Project::new();
    let work = tempfile::tempdir().unwrap();
    let image = project.path("arm.raw");
    run(
        "mkdir -p \"$2/bin\" \"$2/etc\" && cp \"$1\" \"$2/bin/sh\" && mke2fs -q -t ext4 -d \"$2\" \"$3\" 64M",
        &[&busybox(), work.path(), &image],
    );
    let recipe = |more: &str| {
        format!(
            "recipe {{\n  name = \"arm\"\n}}\nstage \"fetch\" \"base\" {{\n  path = \"arm.raw\"\n{more}}}\n\
             stage \"run\" \"use\" {{\n  from     = stage.base\n  commands = [\"echo > /etc/it-runs\"]\n}}\n"
        )
    };
    project.write("impasto.hcl", &recipe(""));
    let refused = project.run(&["build", "use"]);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    for words in [
        "the image's programs are for arm64, and the recipe does not say so",
        "set architecture = \"arm64\" in the stage that the disk comes from",
    ] {
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
    project.write("impasto.hcl", &recipe("  architecture = \"arm64\"\n"));
    assert_eq!(project.build(&["use"]), (1, 1));
}

#[test]
fn torture_an_image_for_arm64_is_built() {
    if torture::count("MACHINES", 1) < 2 {
        println!("left out: emulated programs take minutes; `make torture` runs them");
        return;
    }
    let project = Project::with(
        r#"
recipe {
  name              = "foreign"
  source_date_epoch = 1700000000
}
stage "bootstrap" "root" {
  suite        = "bookworm"
  architecture = "arm64"
  packages = [
    "linux-image-cloud-arm64", "initramfs-tools", "systemd-sysv", "udev", "kmod", "grub2-common", "grub-efi-arm64-signed",
    "shim-signed",
  ]
}
stage "disk" "base" {
  tree       = stage.root
  size       = "2GiB"
  bootloader = ["efi"]
  growpart   = false
}
stage "packages" "tools" {
  from    = stage.base
  install = ["hello"]
}
stage "run" "use" {
  from     = stage.tools
  commands = ["hello > /etc/greeting", "uname -m >> /etc/greeting", "dpkg --print-architecture >> /etc/greeting"]
  output   = { greeting = "/etc/greeting" }
}
stage "test" "boots" {
  image        = stage.use
  firmware     = ["uefi"]
  boot_timeout = "20m"
  timeout      = "30m"
  checks       = { login = { console = "login:" } }
}
stage "test" "bios" {
  image  = stage.use
  checks = { login = { console = "login:" } }
}
"#,
    );
    assert_eq!(project.build(&["use"]), (4, 0));
    let greeting = project.in_guest("use", "cat /etc/greeting; uname -m");
    assert_eq!(greeting, "Hello, world!\naarch64\narm64\naarch64\n");
    assert!(project.claims().contains("emulated"), "claims tell of it");
    assert_eq!(project.build(&["use"]), (0, 4));

    let (program, package) = MachineType::of(MACHINE).unwrap().program();
    if std::process::Command::new(program)
        .arg("--version")
        .output()
        .is_err()
    {
        println!("not booted: there is no {program} (package {package})");
        return;
    }
    let ran = project.run(&["build", "bios"]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("a machine for arm64 has no BIOS"),
        "{}",
        ran.stderr
    );
    assert_eq!(project.build(&["boots"]), (1, 4));
}
