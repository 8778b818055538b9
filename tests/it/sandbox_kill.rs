//! Kills: of impasto and of each process of a sandbox, at any moment. Nothing may be left, and nothing may hang.

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use impasto::sandbox::{Outcome, Sandbox, SandboxError, SandboxEvent, SandboxJob, ShellCommand};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::base::{DISK_SIZE, base, flatten, leftovers};
use crate::sandbox::{Bench, commands, sandbox};

const DIR: &str = "IMPASTO_TEST_DIR";
const LINE: &str = "IMPASTO_TEST_LINE";

/// Writes for ever, in ways that keep every layer below busy.
const BUSY: &str = "echo up; i=0; while :; do dd if=/dev/urandom of=/root/$((i%8)) bs=64k count=48 2>/dev/null; \
                    [ $((i%5)) = 4 ] && sync; [ $((i%11)) = 3 ] && rm -f /root/*; i=$((i+1)); done";

/// A process of its own that runs a job until it is killed.
#[test]
#[ignore = "the victim, started by other tests"]
fn victim() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        return;
    };
    let bench = Bench::new();
    let overlay = dir.join("overlay.qcow2");
    let line = std::env::var(LINE).unwrap();
    let job = SandboxJob {
        work: &dir,
        overlay: &overlay,
        steps: commands(&[&line]),
        timeout: None,
        ..bench.job()
    };
    let mut print = |event: SandboxEvent<'_>| {
        if let SandboxEvent::Log { bytes, .. } = event {
            fs::write(dir.join("log"), bytes).unwrap();
        }
    };
    let result = sandbox().run(job, &mut print);
    fs::write(
        dir.join("result"),
        format!("{:?}", result.map(|finished| finished.outcome)),
    )
    .unwrap();
}

/// A process of its own whose standard streams a shell gets.
#[test]
#[ignore = "the victim, started by other tests"]
fn shell_victim() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        return;
    };
    let overlay = dir.join("overlay.qcow2");
    let job = SandboxJob {
        work: &dir,
        overlay: &overlay,
        chain: vec![base().qcow2.clone()],
        virtual_size: DISK_SIZE,
        shell: Some(ShellCommand {
            line: std::env::var(LINE).ok(),
        }),
        ..SandboxJob::empty()
    };
    let finished = sandbox().run(job, &mut |_| {}).unwrap();
    std::process::exit(finished.shell_code().unwrap());
}

fn start(test: &str, dir: &Path, line: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        &format!("sandbox_kill::{test}"),
        "--ignored",
        "--nocapture",
    ]);
    command
        .env(DIR, dir)
        .env(LINE, line)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    command
}

/// Parent of every process, with what tells it from a later one of the same number: its start time.
fn processes() -> HashMap<i32, (i32, String)> {
    let mut found = HashMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // The name in parentheses may hold blanks.
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        if fields[0] == "Z" {
            // Dead, and nothing but a number until its new parent asks.
            continue;
        }
        found.insert(pid, (fields[1].parse().unwrap(), fields[19].to_owned()));
    }
    found
}

/// All descendants of a process, with their start times.
fn family(root: i32) -> Vec<(i32, String)> {
    let all = processes();
    let is_below = |mut pid: i32| {
        while let Some((parent, _)) = all.get(&pid) {
            if *parent == root {
                return true;
            }
            pid = *parent;
        }
        false
    };
    all.iter()
        .filter(|(pid, _)| is_below(**pid))
        .map(|(pid, (_, start))| (*pid, start.clone()))
        .collect()
}

/// Waits until nothing of a sandbox is left, at most for a time; what is left then.
fn wait_until_gone(dir: &Path, family: &[(i32, String)], at_most: Duration) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let mut left = leftovers(dir);
        let now = processes();
        left.extend(
            family
                .iter()
                .filter(|(pid, start)| now.get(pid).is_some_and(|(_, s)| s == start))
                .map(|(pid, _)| {
                    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                    format!("process {state}")
                }),
        );
        if left.is_empty() || begun.elapsed() > at_most {
            return left;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// `sync` must return; a file system on a dead server would hold it for ever.
fn demand_sync() {
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || {
        rustix::fs::sync();
        done.send(()).unwrap();
    });
    wait.recv_timeout(Duration::from_secs(30))
        .expect("sync returns");
}

fn wait_for(path: &Path, child: &mut Child) {
    let begun = Instant::now();
    while !path.exists() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "the victim ended early: {:?}",
            fs::read_to_string(path.with_file_name("result"))
        );
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{}",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn nothing_outlives_impasto() {
    base();
    // A spread of moments over the start, which takes some 40 ms, and over the run; no two rounds alike.
    let mut seed = u64::from(std::process::id());
    let mut slowest = Duration::ZERO;
    for round in 0..36 {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let span = if round % 2 == 0 { 60_000 } else { 600_000 };
        let moment = Duration::from_micros((seed >> 33) % span);
        let dir = tempfile::tempdir().unwrap();
        let mut victim = start("victim", dir.path(), BUSY).spawn().unwrap();
        std::thread::sleep(moment);
        let family = family(victim.id().cast_signed());
        victim.kill().unwrap();
        let killed = Instant::now();
        victim.wait().unwrap();
        let left = wait_until_gone(dir.path(), &family, Duration::from_secs(1));
        assert!(
            left.is_empty(),
            "round {round}, killed after {moment:?}: {left:?}"
        );
        slowest = slowest.max(killed.elapsed());
        demand_sync();
        let bytes: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        let known = ["disk.raw", "overlay.qcow2", "supervisor.log", "log"];
        assert!(
            bytes
                .iter()
                .all(|name| known.iter().any(|known| name == known)),
            "{bytes:?}"
        );
    }
    println!("slowest clean-up: {slowest:?}");
    // The next job finds nothing in its way.
    Bench::new().lines(&["echo x > /x"]);
}

#[test]
fn nothing_outlives_an_interrupt_from_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let mut victim = start("victim", dir.path(), BUSY).spawn().unwrap();
    wait_for(&dir.path().join("log"), &mut victim);
    let family = family(victim.id().cast_signed());
    assert!(family.len() >= 5, "{family:?}");
    kill_process_group(Pid::from_child(&victim), Signal::INT).unwrap();
    victim.wait().unwrap();
    assert_eq!(
        wait_until_gone(dir.path(), &family, Duration::from_secs(1)),
        Vec::<String>::new()
    );
    demand_sync();
}

/// Pid of a process of the victim, by a word of its command line.
fn find(family: &[(i32, String)], word: &str) -> i32 {
    let is_it = |pid: &&(i32, String)| {
        let line = fs::read(format!("/proc/{}/cmdline", pid.0)).unwrap_or_default();
        String::from_utf8_lossy(&line)
            .replace('\0', " ")
            .trim()
            .starts_with(word)
    };
    family
        .iter()
        .find(is_it)
        .unwrap_or_else(|| panic!("no {word} among {family:?}"))
        .0
}

#[test]
fn the_death_of_any_process_is_a_failure_that_leaves_nothing() {
    let impasto = format!("{} __supervisor", env!("CARGO_BIN_EXE_impasto"));
    let expected = [
        ("qemu-storage-daemon", "Ok(Damaged"),
        ("impasto-agent", "Err(Broken"),
        ("impasto __supervisor inner", "Err(Broken"),
        (impasto.as_str(), "Err(Broken"),
    ];
    for (word, result) in expected {
        let dir = tempfile::tempdir().unwrap();
        let mut victim = start("victim", dir.path(), BUSY).spawn().unwrap();
        wait_for(&dir.path().join("log"), &mut victim);
        let family = family(victim.id().cast_signed());
        kill_process(Pid::from_raw(find(&family, word)).unwrap(), Signal::KILL).unwrap();
        let begun = Instant::now();
        victim.wait().unwrap();
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{word}: {:?}",
            begun.elapsed()
        );
        assert_eq!(
            wait_until_gone(dir.path(), &family, Duration::from_secs(1)),
            Vec::<String>::new(),
            "{word}"
        );
        let seen = fs::read_to_string(dir.path().join("result")).unwrap();
        assert!(seen.starts_with(result), "{word}: {seen}");
    }
    demand_sync();
}

#[test]
fn a_time_out_leaves_nothing_while_the_disk_is_busy() {
    for _ in 0..3 {
        let bench = Bench::new();
        let timeout = Some(Duration::from_millis(300));
        let outcome = bench
            .run(SandboxJob {
                steps: commands(&[BUSY]),
                timeout,
                ..bench.job()
            })
            .unwrap()
            .outcome;
        assert!(matches!(outcome, Outcome::TimedOut { .. }), "{outcome:?}");
        assert_eq!(
            wait_until_gone(bench.dir.path(), &[], Duration::from_secs(1)),
            Vec::<String>::new()
        );
    }
    demand_sync();
}

#[test]
fn without_root_the_error_says_so() {
    let bench = Bench::new();
    // Made by root, before the thread is somebody else.
    crate::base::base();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let nobody = rustix::process::Uid::from_raw(65534);
            // The effective user of this thread only.
            rustix::thread::set_thread_res_uid(
                None::<rustix::process::Uid>,
                nobody,
                None::<rustix::process::Uid>,
            )
            .unwrap();
            bench.run(bench.job())
        });
        let error = thread.join().unwrap().unwrap_err();
        assert!(
            matches!(error, SandboxError::NotRoot { uid: 65534 }),
            "{error:?}"
        );
    });
    assert!(!bench.overlay().exists());
}

#[test]
fn a_shell_has_the_streams_of_its_caller() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = start(
        "shell_victim",
        dir.path(),
        "cat; echo err >&2; hostname; ls /proc/self/fd; exit 7",
    );
    let stdin = dir.path().join("stdin");
    fs::write(&stdin, "typed\n").unwrap();
    command
        .stdin(fs::File::open(&stdin).unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    let text = String::from_utf8_lossy(&output.stdout);
    // What comes before is the test harness's.
    assert!(text.ends_with("typed\nimpasto\n0\n1\n2\n3\n"), "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "err\n");
    assert_eq!(
        wait_until_gone(dir.path(), &[], Duration::from_secs(1)),
        Vec::<String>::new()
    );
}

#[test]
fn a_shell_on_the_state_of_a_failed_stage_sees_it() {
    let failed = Bench::new();
    let job = SandboxJob {
        steps: commands(&["echo half > /done; exit 1"]),
        ..failed.job()
    };
    assert!(failed.run(job).unwrap().outcome.leaves_a_disk());
    let before = fs::read(failed.overlay()).unwrap();
    let second = Bench::new();
    let job = SandboxJob {
        chain: vec![base().qcow2.clone(), failed.overlay()],
        steps: commands(&["cat /done; rm /done"]),
        ..second.job()
    };
    assert_eq!(second.run(job).unwrap().outcome, Outcome::Ok);
    assert_eq!(second.log(), "half\n");
    assert!(before == fs::read(failed.overlay()).unwrap());
    flatten(&[&base().qcow2, &failed.overlay()], second.dir.path()).check();
}
