//! The namespace sandbox, on a small real disk.

use std::path::{Path, PathBuf};

use impasto::guest::RootSpec;
use impasto::sandbox::{AgentStep, CancelToken, Finished, Job, NamespaceSandbox, Sandbox, SandboxError, SandboxEvent};

use crate::base::{DISK_SIZE, base};

fn sandbox() -> NamespaceSandbox {
    NamespaceSandbox::new(PathBuf::from(env!("CARGO_BIN_EXE_impasto")))
}

fn job<'a>(work: &'a Path, overlay: &'a Path, steps: Vec<AgentStep>) -> Job<'a> {
    Job {
        work,
        overlay,
        chain: vec![base().qcow2.clone()],
        virtual_size: DISK_SIZE,
        root: RootSpec::Auto,
        steps,
        inputs: Vec::new(),
        scripts: Vec::new(),
        secrets: Vec::new(),
        outputs: Vec::new(),
        env: Vec::new(),
        source_date_epoch: Some(1_700_000_000),
        network: false,
        timeout: None,
        cancel: CancelToken::new(),
    }
}

fn run(job: Job<'_>) -> (Result<Finished, SandboxError>, String) {
    let mut log = Vec::new();
    let result = sandbox().run(job, &mut |event| {
        if let SandboxEvent::Log { bytes, .. } = event {
            log.extend_from_slice(bytes);
        }
    });
    (result, String::from_utf8_lossy(&log).into_owned())
}

#[test]
fn steps_run_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = dir.path().join("overlay.qcow2");
    let line = |line: &str| AgentStep::Command { line: line.to_owned() };
    let steps = vec![line("echo one > /file; cat /proc/mounts; ls -la /dev; env; id"), line("cat /file")];
    let (result, log) = run(job(dir.path(), &overlay, steps));
    eprintln!("{log}");
    let finished = result.unwrap();
    eprintln!("{:#?}", finished);
    assert!(finished.outcome.is_ok());
}

/// What may be left of a sandbox: processes, mounts and loop devices that name its directory.
fn leftovers(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let path = process.path();
        for file in ["cmdline", "mountinfo"] {
            if let Ok(bytes) = std::fs::read(path.join(file)) {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                if text.contains(dir) && !(file == "cmdline" && text.contains("kill_loop")) {
                    found.push(format!("{} {file}", path.display()));
                }
            }
        }
    }
    for device in std::fs::read_dir("/sys/block").unwrap().flatten() {
        if let Ok(backing) = std::fs::read_to_string(device.path().join("loop/backing_file")) {
            if backing.contains(dir) {
                found.push(format!("{} {backing}", device.path().display()));
            }
        }
    }
    found
}

/// The victim of the kill loop: a process that runs a job that writes until it is killed.
#[test]
#[ignore = "started by the kill loop"]
fn kill_loop_victim() {
    let dir = PathBuf::from(std::env::var_os("IMPASTO_TEST_DIR").unwrap());
    let overlay = dir.join("overlay.qcow2");
    let line =
        "i=0; while :; do dd if=/dev/urandom of=/root/f$((i%8)) bs=64k count=64 2>/dev/null; i=$((i+1)); sync; done";
    let _ = run(job(&dir, &overlay, vec![AgentStep::Command { line: line.to_owned() }]));
}

#[test]
fn nothing_outlives_a_kill() {
    base();
    for round in 0..40 {
        let dir = tempfile::tempdir().unwrap();
        let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sandbox::kill_loop_victim", "--ignored"])
            .env("IMPASTO_TEST_DIR", dir.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(7 * round + 5));
        victim.kill().unwrap();
        victim.wait().unwrap();
        let killed = std::time::Instant::now();
        let mut left = leftovers(dir.path());
        while !left.is_empty() && killed.elapsed().as_secs() < 10 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            left = leftovers(dir.path());
        }
        eprintln!("round {round}: clean after {:?} {left:?}", killed.elapsed());
        assert!(left.is_empty(), "{left:?}");
    }
    let synced = std::time::Instant::now();
    rustix::fs::sync();
    eprintln!("sync {:?}", synced.elapsed());
}

/// A process whose standard streams a shell gets.
#[test]
#[ignore = "started by the tests of shells"]
fn shell_victim() {
    use impasto::sandbox::ShellJob;
    let dir = PathBuf::from(std::env::var_os("IMPASTO_TEST_DIR").unwrap());
    let job = ShellJob {
        work: &dir,
        chain: vec![base().qcow2.clone()],
        virtual_size: DISK_SIZE,
        root: RootSpec::Auto,
        line: std::env::var("IMPASTO_TEST_LINE").ok(),
        env: vec![("TERM".to_owned(), "dumb".to_owned())],
        network: false,
    };
    std::process::exit(sandbox().shell(job).unwrap());
}
