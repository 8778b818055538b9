//! Signals: the first ends a command in order and soon, the second at once, whatever it does.

use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::base::{leftovers, tool};
use crate::project::Project;

/// A disk whose conversion takes much longer than any of these tests.
fn long_conversion() -> Project {
    let project = Project::empty();
    let noise = "head -c 200M /dev/urandom > \"$1\" && printf 'label: dos\\nstart=2048\\n' | sfdisk -q \"$1\"";
    tool(
        "sh",
        &[
            "-ec",
            noise,
            "sh",
            project.path("disk.raw").to_str().unwrap(),
        ],
    );
    project.write(
        "impasto.hcl",
        r#"
        stage "fetch" "disk" { path = "disk.raw" }
        stage "convert" "qcow2" {
          from              = stage.disk
          format            = "qcow2"
          compression_level = 19
        }
        "#,
    );
    project
}

/// Starts a build and waits until a stage runs.
fn running(mut command: Command, stage: &str) -> Child {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let started = |line: &String| {
        line.contains("stage_started") && line.contains(&format!("\"stage\":\"{stage}\""))
    };
    lines
        .find(|line| line.as_ref().is_ok_and(started))
        .expect("the stage starts")
        .unwrap();
    // Whoever reads no more must not end it.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

fn send(child: &Child, signal: &str) {
    tool("kill", &[&format!("-{signal}"), &child.id().to_string()]);
}

/// The exit code, and how long it took to come.
fn end(child: &mut Child) -> (Option<i32>, Duration) {
    let start = Instant::now();
    let status = child.wait().unwrap();
    (status.code(), start.elapsed())
}

/// Whether a process ignores a signal, by its number (proc(5)).
fn ignores(child: &Child, signal: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() & 1 << (signal - 1) != 0
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn one_signal_ends_a_conversion_soon_and_a_second_one_at_once() {
    let project = long_conversion();
    project.build(&["disk"]);
    let build = || project.command(&["build", "--progress", "json"]);

    let mut child = running(build(), "qcow2");
    send(&child, "INT");
    let (code, time) = end(&mut child);
    assert_eq!(code, Some(130));
    assert!(time < Duration::from_secs(5), "{time:?}");

    // Started as by `nohup`.
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' HUP; exec \"$0\" \"$@\""])
        .arg(build().get_program())
        .args(build().get_args());
    let mut child = running(
        {
            command.current_dir(project.path(""));
            command
        },
        "qcow2",
    );
    assert!(ignores(&child, 1), "SIGHUP stays ignored");
    send(&child, "HUP");
    send(&child, "TERM");
    // Pending signals of one kind are one, so the second is of another.
    wait_until("the first signal was taken", || !pending(&child));
    send(&child, "INT");
    let (code, time) = end(&mut child);
    assert_eq!(code, Some(130));
    assert!(
        time < Duration::from_secs(1),
        "{time:?}: the first signal alone takes longer"
    );
}

fn pending(child: &Child) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let masks = status.lines().filter_map(|line| {
        line.strip_prefix("SigPnd:")
            .or(line.strip_prefix("ShdPnd:"))
    });
    masks
        .into_iter()
        .any(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() != 0)
}

#[test]
fn what_has_nothing_to_put_in_order_ends_at_the_first_signal() {
    let project = Project::empty();
    let huge = project.path("huge.raw");
    std::fs::File::create(&huge)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    project.write(
        "impasto.hcl",
        "stage \"fetch\" \"huge\" { path = \"huge.raw\" }\n",
    );
    for arguments in [&["plan"][..], &["build"], &["why", "huge"]] {
        let mut child = project
            .command(arguments)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let files = format!("/proc/{}/fd", child.id());
        let hashes = || {
            let links = std::fs::read_dir(&files)
                .unwrap()
                .flatten()
                .map(|entry| std::fs::read_link(entry.path()));
            links.flatten().any(|link| link == huge)
        };
        wait_until("it hashes its input", hashes);
        send(&child, "TERM");
        let start = Instant::now();
        let status = child.wait().unwrap();
        // As any program that does not handle it, so that a shell's script that runs it ends as well.
        assert_eq!(status.signal(), Some(15), "{arguments:?}");
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{arguments:?}: {:?}",
            start.elapsed()
        );
    }
}

#[test]
fn a_shell_and_an_audit_end_with_all_that_they_started() {
    let project = Project::with(
        r#"
        stage "fetch" "base" { path = "base.qcow2" }
        stage "run" "slow" {
          from     = stage.base
          commands = ["test \"$(hostname)\" = impasto || sleep 600"]
        }
        "#,
    );
    project.build(&[]);
    let shell = project.command(&["shell", "base", "-c", "sleep 601"]);
    let audit = project.command(&["audit"]);
    for (mut command, sleeps) in [(shell, "601"), (audit, "600")] {
        // A group of its own, as under a terminal; only the leader gets the signal.
        let mut child = command
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the guest sleeps", || sleeper(sleeps));
        send(&child, "TERM");
        let (code, time) = end(&mut child);
        assert_eq!(code, Some(130), "{sleeps}");
        assert!(time < Duration::from_secs(5), "{sleeps}: {time:?}");
        wait_until("nothing is left", || leftovers(&project.store()).is_empty());
        let left = std::fs::read_dir(project.store().join("tmp")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{sleeps}: nothing is left in tmp/");
    }
}

/// Whether a process sleeps for so long.
fn sleeper(seconds: &str) -> bool {
    let wanted = format!("sleep\0{seconds}\0");
    let is_it = |path: &Path| {
        std::fs::read(path.join("cmdline")).is_ok_and(|line| line == wanted.as_bytes())
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .any(|entry| is_it(&entry.path()))
}
