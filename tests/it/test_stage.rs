//! Tests of images: stages of kind `test`, `impasto test`, and what `impasto boot` does with a running machine.
//!
//! Machines boot some bytes of machine code here, which takes a second; `recipes` tests real systems.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::project::{Project, ran};
use crate::vm::{quick, shows, spawn, talking_disk};

/// 16-bit code that sends what follows it to the first serial port, to a byte that is zero, and halts.
const PROGRAM: [u8; 22] =
    *b"\xfa\x31\xc0\x8e\xd8\xbe\x16\x7c\xba\xf8\x03\xac\x84\xc0\x74\x03\xee\xeb\xf8\xf4\xeb\xfd";

/// A disk that says something when it boots: once, or for ever.
fn saying(project: &Project, name: &str, text: &str, forever: bool) {
    let mut disk = PROGRAM.to_vec();
    if forever {
        // Instead of halting it begins again.
        disk[19..].copy_from_slice(&[0x90, 0xeb, 0xef]);
    }
    disk.extend(text.as_bytes());
    disk.resize(446, 0);
    // A partition, so that it is a disk to all who look.
    disk.extend([0x80, 0, 2, 0, 0x83, 0, 0, 0]);
    disk.extend(2048u32.to_le_bytes());
    disk.extend(2048u32.to_le_bytes());
    disk.resize(510, 0);
    disk.extend([0x55, 0xaa]);
    disk.resize(2 << 20, 0);
    std::fs::write(project.path(name), disk).unwrap();
}

fn is_png(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x89PNG\r\n\x1a\n"))
}

#[test]
fn a_test_that_passed_starts_no_machine_again() {
    let project = Project::with(
        r#"stage "fetch" "hello" { path = "hello.raw" }
           stage "test" "greets" {
             image  = stage.hello
             memory = "64MiB"
             checks = {
               hello = { console = "hello from the disk", tags = ["quick"] }
               bye   = { console = "and good bye", after = ["hello"] }
             }
           }
           image "it" { files = [stage.greets.files["report.xml"]] }"#,
    );
    saying(
        &project,
        "hello.raw",
        "hello from the disk, and good bye\r\n",
        false,
    );
    // A build does not test.
    let tested = project.run(&["test"]);
    assert_eq!(tested.code, 0, "{}", tested.stderr);
    let report: serde_json::Value =
        serde_json::from_str(&project.read("out/greets/report.json")).unwrap();
    let suite = &report["suites"][0];
    assert_eq!(suite["name"], "bios");
    assert_eq!(suite["checks"][0]["name"], "hello");
    assert_eq!(suite["checks"][0]["status"], "passed");
    assert_eq!(suite["checks"][1]["name"], "bye");
    assert!(
        project
            .read("out/greets/report.xml")
            .contains("failures=\"0\"")
    );
    assert!(
        project
            .read("out/greets/serial-bios.log")
            .starts_with("hello from the disk")
    );
    // Without QEMU nothing could be started.
    let mut again = project.command(&["test"]);
    again.env("PATH", "/nonexistent");
    let again = ran(again);
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert!(again.stderr.contains("0 built"), "{}", again.stderr);
    // Other checks are another test; a time limit is none.
    let text = project.read("impasto.hcl");
    project.write(
        "impasto.hcl",
        &text.replace("image  =", "timeout = \"20m\"\nimage  ="),
    );
    assert!(project.run(&["test"]).stderr.contains("0 built"));
    project.write("impasto.hcl", &text.replace("and good bye", "good"));
    assert!(project.run(&["test"]).stderr.contains("1 built"));
    assert_eq!(project.run(&["store", "verify"]).code, 0);
}

#[test]
fn tags_select_checks() {
    let project = Project::with(
        r#"stage "fetch" "hello" { path = "hello.raw" }
           stage "test" "greets" {
             image  = stage.hello
             memory = "64MiB"
             checks = {
               hello = { console = "hello", tags = ["quick"] }
               never = { console = "never", timeout = "1s" }
             }
           }
           stage "test" "other" {
             image  = stage.hello
             memory = "64MiB"
             checks = { never = { console = "never", timeout = "1s" } }
           }"#,
    );
    saying(&project, "hello.raw", "hello\r\n", false);
    // Without images a build makes all stages but tests.
    assert_eq!(project.build(&[]), (1, 0));
    let quick = project.run(&["test", "--tag", "quick"]);
    assert_eq!(quick.code, 0, "{}", quick.stderr);
    assert!(!project.path("out/other").exists());
    let all = project.run(&["test", "greets"]);
    assert_eq!(all.code, 4, "{}", all.stderr);
    let unknown = project.run(&["test", "--tag", "slow"]);
    assert_eq!(unknown.code, 2, "{}", unknown.stderr);
    assert!(
        unknown.stderr.contains("no check has the tag slow"),
        "{}",
        unknown.stderr
    );
    let no_test = project.run(&["test", "hello"]);
    assert_eq!(no_test.code, 2, "{}", no_test.stderr);
    assert!(
        no_test.stderr.contains("the tests are: greets, other"),
        "{}",
        no_test.stderr
    );
}

#[test]
fn what_passed_with_more_tags_passes_with_fewer() {
    let project = Project::with(
        r#"stage "fetch" "hello" { path = "hello.raw" }
           stage "test" "greets" {
             image  = stage.hello
             memory = "64MiB"
             checks = {
               hello = { console = "hello", tags = ["quick"] }
               bye   = { console = "good bye", tags = ["full"] }
               never = { console = "never", timeout = "1s", tags = ["broken"] }
             }
           }"#,
    );
    saying(&project, "hello.raw", "hello, and good bye\r\n", false);
    let test = |tags: &[&str], machines: bool| {
        let mut command = project.command(&["test"]);
        command.args(tags.iter().flat_map(|tag| ["--tag", tag]));
        if !machines {
            command.env("PATH", "/nonexistent");
        }
        ran(command)
    };
    let both = test(&["quick", "full"], true);
    assert_eq!(both.code, 0, "{}", both.stderr);
    for tag in ["quick", "full"] {
        let one = test(&[tag], false);
        assert_eq!(one.code, 0, "{}", one.stderr);
        assert!(one.stderr.contains("0 built"), "{}", one.stderr);
    }
    // What failed, or was not asked, serves nobody; nor does what another disk passed.
    assert_eq!(test(&["quick", "broken"], true).code, 4);
    assert_ne!(test(&["full", "broken"], false).code, 0);
    saying(&project, "hello.raw", "hello, or good bye\r\n", false);
    assert_ne!(test(&["quick"], false).code, 0);
    assert_eq!(test(&["quick"], true).code, 0);
    // Less than was asked is not enough.
    assert_ne!(test(&["quick", "full"], false).code, 0);
}

#[test]
fn a_report_of_a_failure_holds_the_machines_that_passed_before() {
    let project = Project::with(
        r#"stage "fetch" "hello" { path = "hello.raw" }
           stage "test" "greets" {
             image    = stage.hello
             memory   = "128MiB"
             firmware = ["bios", "uefi"]
             checks   = { hello = { console = "hello from the disk", timeout = "20s" } }
           }"#,
    );
    saying(&project, "hello.raw", "hello from the disk\r\n", false);
    let tested = project.run(&["test"]);
    assert_eq!(tested.code, 4, "{}", tested.stderr);
    assert!(
        tested.stderr.contains("1 of 1 check under uefi failed"),
        "{}",
        tested.stderr
    );
    let report: serde_json::Value =
        serde_json::from_str(&project.read("out/greets/report.json")).unwrap();
    let came = |suite: usize| {
        let suite = &report["suites"][suite];
        format!("{} {}", suite["name"], suite["checks"][0]["status"])
    };
    assert_eq!(came(0), "\"bios\" \"passed\"");
    assert_eq!(came(1), "\"uefi\" \"failed\"");
    let junit = project.read("out/greets/report.xml");
    assert!(junit.contains("tests=\"2\" failures=\"1\""), "{junit}");
    let console = project.read("out/greets/serial-bios.log");
    assert!(console.starts_with("hello from the disk"), "{console}");
}

#[test]
fn a_server_that_cannot_be_started_is_told() {
    let project = Project::with(
        r#"stage "fetch" "hello" { path = "hello.raw" }
           stage "test" "asks" {
             image  = stage.hello
             memory = "64MiB"
             serve  = { "8080" = "api" }
             checks = { asked = { served = "POST /v1/", timeout = "60s" } }
           }"#,
    );
    saying(&project, "hello.raw", "hello\r\n", false);
    for (program, message) in [
        ("#!/usr/bin/env python9\n", "this host has no `python9` in "),
        ("echo\n", "it does not begin with `#!`"),
        (
            "#!/bin/sh\necho no such database >&2; exit 3\n",
            "the server for port 8080 ended",
        ),
    ] {
        project.write("api", program);
        let tested = project.run(&["test"]);
        assert_eq!(tested.code, 4, "{}", tested.stderr);
        assert!(tested.stderr.contains(message), "{}", tested.stderr);
    }
    let report = project.read("out/asks/report.json");
    assert!(report.contains("port 8080: no such database"), "{report}");
    assert!(report.contains("exit status: 3"), "{report}");
}

#[test]
fn what_fails_fails_as_what_it_is_with_console_and_picture() {
    let project = Project::with(
        r#"stage "fetch" "panic" { path = "panic.raw" }
           stage "fetch" "flood" { path = "flood.raw" }
           stage "fetch" "grub" { path = "grub.raw" }
           stage "fetch" "mute" { path = "silent.raw" }
           stage "test" "panics" {
             image  = stage.panic
             memory = "64MiB"
             checks = { a = { console = "never" }, b = { run = "true" } }
           }
           stage "test" "floods" {
             image  = stage.flood
             memory = "64MiB"
             checks = { a = { console = "never", timeout = "4s" } }
           }
           stage "test" "hangs" {
             image        = stage.grub
             memory       = "64MiB"
             boot_timeout = "20s"
             checks       = { a = { run = "true" } }
           }
           stage "test" "silent" {
             image        = stage.mute
             memory       = "64MiB"
             boot_timeout = "3s"
             checks       = { a = { target = "multi-user" }, b = { ssh = "true" }, c = { guest_agent = true } }
           }"#,
    );
    saying(
        &project,
        "panic.raw",
        "[ 1.0] Kernel panic - not syncing: no init\r\n",
        false,
    );
    saying(&project, "flood.raw", "0123456789abcdef\r\n", true);
    saying(
        &project,
        "grub.raw",
        "error: no such device\r\ngrub rescue> ",
        false,
    );
    saying(&project, "silent.raw", "", false);
    let begun = Instant::now();
    let tested = project.run(&["test", "--keep-going"]);
    assert_eq!(tested.code, 4, "{}", tested.stderr);
    for expected in [
        "the kernel panicked: [ 1.0] Kernel panic - not syncing: no init",
        "the console did not show `never` in time",
        "the boot loader found nothing to boot and waits for commands: grub rescue>",
        "nothing came on its serial console",
    ] {
        assert!(
            tested.stderr.contains(expected),
            "{expected}: {}",
            tested.stderr
        );
    }
    assert!(
        begun.elapsed() < Duration::from_secs(300),
        "{:?}",
        begun.elapsed()
    );
    for name in ["panics", "floods", "hangs", "silent"] {
        let dir = project.path("out").join(name);
        assert!(is_png(&dir.join("screen-bios.png")), "{name}");
        let report = project.read(&format!("out/{name}/report.json"));
        assert!(report.contains("\"failed\""), "{report}");
        assert!(
            project
                .read(&format!("out/{name}/report.xml"))
                .contains("<failure ")
        );
    }
    // What comes after a panic is not asked.
    let report = project.read("out/panics/report.json");
    assert!(report.contains("the machine was gone"), "{report}");
    let silent = project.read("out/silent/report.json");
    assert!(silent.contains("it cannot be decided"), "{silent}");
    assert!(
        silent.contains("the guest agent did not answer in time"),
        "{silent}"
    );
    let flood = std::fs::metadata(project.path("out/floods/serial-bios.log"))
        .unwrap()
        .len();
    assert!(flood < 4 << 20, "{flood}");
    // Nothing that failed is cached.
    assert_eq!(project.run(&["test", "panics"]).code, 4);
}

#[test]
fn what_needs_no_machine_is_decided_by_reading_the_disk() {
    let recipe = |checks: &str, files: &str| {
        format!(
            r#"recipe {{ source_date_epoch = 1700000000 }}
               stage "fetch" "base" {{ path = "base.qcow2" }}
               stage "copy" "files" {{
                 from  = stage.base
                 files = {{ "/etc/motd" = {{ content = "hello\n" }}, {files} }}
               }}
               stage "test" "it" {{
                 image  = stage.files
                 checks = {{ {checks} }}
               }}"#
        )
    };
    let project = Project::with(&recipe("x = { exists = [\"/etc/motd\"] }", ""));
    assert_eq!(project.run(&["test"]).code, 0);
    std::fs::write(
        project.path("index.txt"),
        project.ok(&["layer", "index", "files"]),
    )
    .unwrap();
    let good = r#"
        there  = { exists = ["/etc/motd", "/bin/sh"] }
        absent = { absent = ["/root/.bash_history", "/etc/mo"] }
        drift  = { diff = "index.txt" }
        secret = { no_secrets = true }"#;
    project.write("impasto.hcl", &recipe(good, ""));
    let passed = project.run(&["test"]);
    assert_eq!(passed.code, 0, "{}", passed.stderr);
    let planted = r#"
        "/root/key"         = { content = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n" }
        "/etc/environment"  = { content = "API_TOKEN=abcdef123456\n" }
        "/etc/shadow"       = { content = "root:$y$j9T$abc:1::::::\n" }
        "/root/.bash_history" = { content = "ls\n" }"#;
    project.write("impasto.hcl", &recipe(good, planted));
    let failed = project.run(&["test"]);
    assert_eq!(failed.code, 4, "{}", failed.stderr);
    let report = project.read("out/it/report.json");
    for expected in [
        "/root/key: a private key",
        "/etc/environment: a value for API_TOKEN",
        "/etc/shadow: root logs in with a password",
        "/root/.bash_history: the history of a shell",
        "/root/.bash_history is there",
        "+ /root/key",
    ] {
        assert!(report.contains(expected), "{expected}: {report}");
    }
    // No machine was needed, so there is no picture of one.
    assert!(!report.contains("abcdef123456"), "{report}");
    assert!(!project.path("out/it/screen-bios.png").exists());
    let allowed = good
        .replace(
            "no_secrets = true",
            "no_secrets = true, allow = [\"/root\", \"/etc/*\"]",
        )
        .replace(
            "\"index.txt\"",
            "\"index.txt\", allow = [\"/root\", \"/etc\"]",
        )
        .replace("\"/root/.bash_history\", ", "");
    project.write("impasto.hcl", &recipe(&allowed, planted));
    let passed = project.run(&["test"]);
    // That a file was put into it changes a directory too.
    let report = project.read("out/it/report.json");
    assert_eq!(passed.code, 0, "{}{report}", passed.stderr);
    // A baseline that is none decides nothing.
    project.write("index.txt", "nonsense\n");
    let failed = project.run(&["test"]);
    assert_eq!(failed.code, 4, "{}", failed.stderr);
    assert!(
        failed.stderr.contains("it cannot be decided"),
        "{}",
        failed.stderr
    );
}

#[test]
fn wrong_checks_are_told_where_they_stand() {
    let project = Project::with(
        r#"stage "fetch" "base" { path = "base.qcow2" }
stage "test" "wrong" {
  image    = stage.base
  cpus     = 0
  firmware = ["bios", "bios"]
  checks = {
    none    = {}
    two     = { run = "true", target = "multi-user" }
    typo    = { taget = "multi-user" }
    empty   = { run = " " }
    false   = { no_secrets = false }
    after   = { run = "true", after = ["ater"] }
    allow   = { run = "true", allow = ["/x"] }
    first   = { exists = ["/x"], after = ["after"] }
    path    = { exists = ["etc"] }
  }
}
stage "test" "circle" {
  image  = stage.base
  checks = {
    a = { run = "true", after = ["b"] }
    b = { run = "true", after = ["a"] }
  }
}
stage "test" "nothing" {
  checks = { a = { run = "true" } }
}
"#,
    );
    let ran = project.run(&["validate"]);
    assert_eq!(ran.code, 3);
    insta::assert_snapshot!(ran.stderr);
    // Of values of wrong types the kind is not asked.
    let text = project.read("impasto.hcl");
    project.write(
        "impasto.hcl",
        &text.replace("    typo    = { taget = \"multi-user\" }\n", ""),
    );
    let ran = project.run(&["validate"]);
    assert_eq!(ran.code, 3);
    insta::assert_snapshot!("wrong_checks_beyond_types", ran.stderr);
}

#[test]
fn a_booted_machine_shows_its_screen_and_can_be_left_running() {
    let project = Project::new();
    talking_disk(&project.path(""));
    let shot = ran(quick(
        &project,
        "talking.raw",
        &[
            "--wait-for",
            "written",
            "--timeout",
            "2m",
            "--screenshot",
            "screen.png",
        ],
    ));
    assert_eq!(shot.code, 0, "{}", shot.stderr);
    assert!(is_png(&project.path("screen.png")));

    assert_eq!(project.run(&["boot", "--stop"]).code, 2);
    let started = ran(quick(&project, "talking.raw", &["--background"]));
    assert_eq!(started.code, 0, "{}", started.stderr);
    assert!(
        started.stderr.contains("machine-1 runs talking.raw"),
        "{}",
        started.stderr
    );
    let log = project.store().join("state/machines/machine-1.log");
    let begun = Instant::now();
    while !std::fs::read_to_string(&log).unwrap().contains("written") {
        assert!(begun.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(50));
    }
    // Its code has no idea of a power button: it is ended by QEMU. That takes what a guest may take.
    let stopped = project.run(&["boot", "--stop=machine-1", "--timeout", "1s"]);
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
    assert!(
        stopped.stderr.contains("its power was cut"),
        "{}",
        stopped.stderr
    );
    // The process that stayed with it ends right after it.
    let begun = Instant::now();
    while !crate::base::leftovers(&project.store()).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!log.exists());
    assert_eq!(project.run(&["boot", "--stop"]).code, 2);
}

#[test]
fn a_command_that_gets_into_no_guest_is_told_so() {
    let project = Project::new();
    talking_disk(&project.path(""));
    let (mut child, console) = spawn({
        let mut command =
            project.command(&["boot", "talking.raw", "--memory", "64MiB", "--cpus", "1"]);
        command.args(["--run", "true", "--timeout", "3s", "--network", "none"]);
        command
    });
    assert_eq!(child.wait().unwrap().code(), Some(4));
    // The console is not the command's output.
    assert!(!shows(&console, "written", Duration::from_millis(1)));
}
