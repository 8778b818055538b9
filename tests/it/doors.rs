//! What steps cannot reach: a program inside the sandbox tries every door.

use std::path::PathBuf;
use std::sync::OnceLock;

use impasto::sandbox::{AgentStep, Outcome, SandboxInput, SandboxJob};

use crate::base::{ROOT_START, base, tool};
use crate::project::Project;
use crate::sandbox::{Bench, commands};

/// The program that tries them, static.
fn doors() -> &'static PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/doors.c");
        let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("doors.{}", std::process::id()));
        tool(
            "cc",
            &[
                "-static",
                "-O1",
                "-Wall",
                "-o",
                program.to_str().unwrap(),
                source,
            ],
        );
        program
    })
}

fn input() -> Vec<SandboxInput<'static>> {
    vec![SandboxInput {
        name: "doors".to_owned(),
        mode: 0o755,
        path: doors(),
    }]
}

fn steps() -> Vec<AgentStep> {
    commands(&["/run/impasto/inputs/doors"])
}

#[test]
fn every_door_is_shut() {
    let bench = Bench::new();
    // The image brings a device file, which no step could make: it is the host's first loop device.
    let (raw, lower) = (
        bench.dir.path().join("lower.raw"),
        bench.dir.path().join("lower.qcow2"),
    );
    std::fs::copy(&base().raw, &raw).unwrap();
    let device = format!("{}?offset={}", raw.display(), ROOT_START * 512);
    tool(
        "debugfs",
        &["-w", "-R", "mknod device-of-the-image b 7 0", &device],
    );
    tool(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            raw.to_str().unwrap(),
            lower.to_str().unwrap(),
        ],
    );
    let job = SandboxJob {
        chain: vec![lower],
        steps: steps(),
        inputs: input(),
        ..bench.job()
    };
    let outcome = bench.run(job).unwrap().outcome;
    let log = bench.log();
    std::fs::remove_file(doors()).unwrap();
    assert_eq!(outcome, Outcome::Ok, "{log}");
    let tried = log.lines().filter(|line| line.contains(": ")).count();
    assert!(tried >= 70 && log.contains("0 open"), "{tried}: {log}");
    let of = |door: &str| {
        log.lines()
            .find_map(|line| line.strip_prefix(door)?.strip_prefix(": "))
            .unwrap_or("not tried")
    };
    for (door, reason) in [
        ("mknod loop device", "EPERM"),
        ("mount cgroup v1", "EPERM"),
        ("remount /proc/sys", "EPERM"),
        ("unshare user", "EPERM"),
        ("clone3 user", "ENOSYS"),
        ("session keyring", "EPERM"),
        ("socket to the hypervisor", "EAFNOSUPPORT"),
        ("open_by_handle_at", "EPERM"),
        ("open device of the image", "EACCES"),
    ] {
        assert_eq!(of(door), reason, "{door}: {log}");
    }
    #[cfg(target_arch = "x86_64")]
    for (door, reason) in [
        ("32 bits: unshare user", "EPERM"),
        ("32 bits: keyctl", "EPERM"),
        ("x32: mount", "ENOSYS"),
    ] {
        // A kernel without that ABI has no such call, and no such door.
        assert!([reason, "ENOSYS"].contains(&of(door)), "{door}: {log}");
    }
}

#[test]
fn a_privileged_step_mounts_and_reaches_neither_keys_nor_modules() {
    let bench = Bench::new();
    let line = "mkdir -p /mnt; mount -t tmpfs none /mnt; echo in >/mnt/file; cat /mnt/file; mknod /tmp/null c 1 3; \
                unshare -m /run/impasto/inputs/doors | grep -e key -e module -e bpf -e hypervisor -e clock -e kexec || true";
    let job = SandboxJob {
        steps: commands(&[line]),
        inputs: input(),
        privileged: true,
        ..bench.job()
    };
    let outcome = bench.run(job).unwrap().outcome;
    let log = bench.log();
    std::fs::remove_file(doors()).unwrap();
    assert_eq!(outcome, Outcome::Ok, "{log}");
    assert!(
        log.starts_with("in\n") && log.contains("init_module: EPERM"),
        "{log}"
    );
    // Its own program unmounts what hides the keys, before it looks at them.
    let open: Vec<_> = log.lines().filter(|line| line.contains("OPEN")).collect();
    assert!(
        open.iter().all(|line| line.starts_with("read keys")),
        "{log}"
    );
}

#[test]
fn a_privileged_stage_is_marked_and_so_is_what_builds_on_it() {
    let recipe = |privileged: &str| {
        format!(
            r#"
            stage "fetch" "base" {{ path = "base.qcow2" }}
            stage "run" "mounts" {{
              from     = stage.base
              commands = ["mkdir -p /mnt; mount -t tmpfs none /mnt"]
              {privileged}
            }}
            stage "run" "after" {{
              from     = stage.mounts
              commands = ["touch /after"]
            }}
            "#
        )
    };
    let project = Project::with(&recipe(""));
    let ran = project.run(&["build"]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    project.write("impasto.hcl", &recipe("privileged = true"));
    let ran = project.run(&["build"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for stage in ["mounts", "after"] {
        let why = project.ok(&["why", stage]);
        assert!(why.contains("weak isolation"), "{why}");
    }
    let plan = project.ok(&["plan", "--json"]);
    assert!(!plan.contains("dirty"), "{plan}");
}
