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
