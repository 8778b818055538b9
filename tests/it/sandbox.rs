//! The namespace sandbox on a small real disk: what steps see, what they leave, how jobs end.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use impasto::base::cancel::CancelToken;
use impasto::disk::guest::RootSelector;
use impasto::sandbox::protocol::ProblemKind;
use impasto::sandbox::{
    AgentStep, FileOwner, Finished, GuestEnvironment, InputKind, NamespaceSandbox, Outcome,
    Sandbox, SandboxError, SandboxEvent, SandboxInput, SandboxJob, Stream,
};
use impasto_stages::Limits;

use crate::base::{self, DISK_SIZE, base};

pub(crate) fn sandbox() -> NamespaceSandbox {
    NamespaceSandbox::new(PathBuf::from(env!("CARGO_BIN_EXE_impasto")))
}

/// Directory and log of one job.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    log: Mutex<Vec<u8>>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root: they mount file systems"
        );
        Self {
            dir: tempfile::tempdir().unwrap(),
            log: Mutex::default(),
        }
    }

    pub(crate) fn overlay(&self) -> PathBuf {
        self.dir.path().join("overlay.qcow2")
    }

    /// A job without steps on the base disk.
    pub(crate) fn job(&self) -> SandboxJob<'_> {
        SandboxJob {
            work: self.dir.path(),
            // The bench lives as long as the test.
            overlay: Box::leak(self.overlay().into_boxed_path()),
            chain: vec![base().qcow2.clone()],
            virtual_size: DISK_SIZE,
            root: RootSelector::Auto,
            steps: Vec::new(),
            inputs: Vec::new(),
            trees: Vec::new(),
            caches: Vec::new(),
            scripts: Vec::new(),
            emulator: None,
            secrets: Vec::new(),
            outputs: Vec::new(),
            volatile: Vec::new(),
            env: Vec::new(),
            suspects: |_| Vec::new(),
            source_date_epoch: Some(1_700_000_000),
            environment: GuestEnvironment::default(),
            network: None,
            privileged: false,
            limits: Limits::default(),
            timeout: Some(Duration::from_secs(60)),
            shell: None,
            cancel: CancelToken::new(),
        }
    }

    pub(crate) fn run(&self, job: SandboxJob<'_>) -> Result<Finished, SandboxError> {
        sandbox().run(job, &mut |event| {
            if let SandboxEvent::Log { bytes, .. } = event {
                self.log.lock().unwrap().extend_from_slice(bytes);
            }
        })
    }

    /// Runs lines of shell on the base disk and demands success.
    pub(crate) fn lines(&self, lines: &[&str]) -> Finished {
        let finished = self
            .run(SandboxJob {
                steps: commands(lines),
                ..self.job()
            })
            .unwrap();
        assert_eq!(finished.outcome, Outcome::Ok, "{}", self.log());
        finished
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap()).into_owned()
    }
}

pub(crate) fn commands(lines: &[&str]) -> Vec<AgentStep> {
    lines
        .iter()
        .map(|line| AgentStep::Command {
            line: (*line).to_owned(),
        })
        .collect()
}

fn script(name: &str) -> AgentStep {
    AgentStep::Script {
        name: name.to_owned(),
    }
}

fn pair(a: &str, b: &str) -> (String, String) {
    (a.to_owned(), b.to_owned())
}

#[test]
fn a_step_sees_a_fixed_world() {
    let bench = Bench::new();
    let lines = [
        "env | grep -v -e ^SHLVL= -e ^PWD= | sort; echo umask $(umask) host $(hostname) cwd $(pwd) id $(id -u):$(id -g)",
        "echo stdin $(readlink /proc/self/fd/0); echo fds $(ls /proc/self/fd | grep -v 3)",
        "cut -d' ' -f1-3 /proc/mounts | grep -v -e ' /proc/' -e ' /sys/'; ls /dev /dev/disk/*; readlink /dev/disk/by-label/root; ls /run/impasto",
        "grep -e NoNewPrivs -e CapEff /proc/self/status; ls /sys/class/net; (echo 1 > /sys/kernel/profiling) 2>&1 || true",
    ];
    let job = SandboxJob {
        steps: commands(&lines),
        env: vec![pair("GREETING", "hello world")],
        ..bench.job()
    };
    assert_eq!(
        bench.run(job).unwrap().outcome,
        Outcome::Ok,
        "{}",
        bench.log()
    );
    insta::assert_snapshot!(bench.log());
}

#[test]
fn a_script_runs_by_its_shebang_or_by_the_shell() {
    let bench = Bench::new();
    let job = SandboxJob {
        steps: vec![script("plain"), script("with-shebang")],
        scripts: vec![
            (
                "plain".to_owned(),
                b"echo $0 $-; false; echo not reached".to_vec(),
            ),
            ("with-shebang".to_owned(), b"#!/bin/cat\nbody\n".to_vec()),
        ],
        ..bench.job()
    };
    let outcome = bench.run(job).unwrap().outcome;
    assert_eq!(
        outcome,
        Outcome::StepFailed {
            index: 0,
            code: Some(1),
            signal: None
        }
    );
    assert_eq!(bench.log(), "/run/impasto/scripts/plain e\n");

    let bench = Bench::new();
    let scripts = vec![("cat".to_owned(), b"#!/bin/cat\nbody\n".to_vec())];
    let job = SandboxJob {
        steps: vec![script("cat")],
        scripts,
        ..bench.job()
    };
    assert_eq!(bench.run(job).unwrap().outcome, Outcome::Ok);
    assert_eq!(bench.log(), "#!/bin/cat\nbody\n");
}

#[test]
fn a_missing_interpreter_is_exit_code_127() {
    let bench = Bench::new();
    let scripts = vec![("s".to_owned(), b"#!/no/such/thing\n".to_vec())];
    let outcome = bench
        .run(SandboxJob {
            steps: vec![script("s")],
            scripts,
            ..bench.job()
        })
        .unwrap()
        .outcome;
    assert_eq!(
        outcome,
        Outcome::StepFailed {
            index: 0,
            code: Some(127),
            signal: None
        }
    );
    assert!(
        bench
            .log()
            .starts_with("impasto: cannot start /run/impasto/scripts/s: No such file"),
        "{}",
        bench.log()
    );
}

#[test]
fn a_failed_step_ends_the_job_and_leaves_a_clean_disk() {
    let bench = Bench::new();
    let steps = commands(&["echo state > /left-behind", "kill -9 $$", "echo never"]);
    let finished = bench
        .run(SandboxJob {
            steps,
            ..bench.job()
        })
        .unwrap();
    assert_eq!(
        finished.outcome,
        Outcome::StepFailed {
            index: 1,
            code: None,
            signal: Some(9)
        }
    );
    assert!(finished.outcome.leaves_a_disk());
    assert_eq!(bench.log(), "");
    let disk = base::flatten(&[&base().qcow2, &bench.overlay()], bench.dir.path());
    assert_eq!(disk.check().cat("/left-behind"), "state\n");
}

#[test]
fn events_tell_of_steps_and_streams_in_order() {
    let bench = Bench::new();
    let mut told = Vec::new();
    let job = SandboxJob {
        steps: commands(&["echo out", "echo err >&2; exit 3", "true"]),
        ..bench.job()
    };
    sandbox()
        .run(job, &mut |event| {
            told.push(match event {
                SandboxEvent::Log {
                    stream: Stream::Stdout,
                    bytes,
                } => format!("stdout {bytes:?}"),
                SandboxEvent::Log {
                    stream: Stream::Stderr,
                    bytes,
                } => format!("stderr {bytes:?}"),
                other => format!("{other:?}"),
            });
        })
        .unwrap();
    let expected = [
        "StepStarted { index: 0 }".to_owned(),
        format!("stdout {:?}", b"out\n"),
        "StepFinished { index: 0 }".to_owned(),
        "StepStarted { index: 1 }".to_owned(),
        format!("stderr {:?}", b"err\n"),
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_flood_of_output_arrives_whole() {
    let bench = Bench::new();
    bench.lines(&["dd if=/dev/zero bs=1M count=20 2>/dev/null; printf end"]);
    let log = bench.log();
    assert_eq!(log.len(), (20 << 20) + 3);
    assert!(log.ends_with("\0end"));
}

#[test]
fn what_steps_put_into_a_cache_is_found_again_and_is_not_on_the_disk() {
    let cache = tempfile::tempdir().unwrap();
    let caches = || vec![("kept".to_owned(), cache.path().to_path_buf())];
    let bench = Bench::new();
    let steps = commands(&["cd /run/impasto/caches/kept; echo found >file"]);
    let finished = bench
        .run(SandboxJob {
            steps,
            caches: caches(),
            ..bench.job()
        })
        .unwrap();
    assert_eq!(finished.outcome, Outcome::Ok, "{}", bench.log());
    assert_eq!(
        std::fs::read_to_string(cache.path().join("file")).unwrap(),
        "found\n"
    );
    let bench = Bench::new();
    let steps = commands(&["cat /run/impasto/caches/kept/file; ls /run/impasto/caches"]);
    let finished = bench
        .run(SandboxJob {
            steps,
            caches: caches(),
            ..bench.job()
        })
        .unwrap();
    assert_eq!(finished.outcome, Outcome::Ok, "{}", bench.log());
    assert_eq!(bench.log(), "found\nkept\n");
}

#[test]
fn inputs_are_copied_with_mode_and_owner() {
    let bench = Bench::new();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mode(0o750);
    header.set_mtime(1_600_000_000);
    header.set_size(0);
    tar.append_data(&mut header, "dir", std::io::empty())
        .unwrap();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o4711);
    header.set_size(3);
    tar.append_data(&mut header, "dir/file", &b"tar"[..])
        .unwrap();
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    link.set_mode(0o777);
    link.set_mtime(1_600_000_000);
    tar.append_link(&mut link, "dir/link", "/etc/passwd")
        .unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = bench.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let one = file("host-one", b"bytes ");
    let two = file("host-two", b"from a file");
    let tree = file("host-tree", &tar.into_inner().unwrap());

    let copy = |input: &str, dest: &str, mode, owner, kind| AgentStep::CopyIn {
        input: input.to_owned(),
        dest: dest.to_owned(),
        mode,
        owner,
        kind,
        modified: None,
    };
    let builder = || {
        Some(FileOwner {
            user: "builder".to_owned(),
            group: "1000".to_owned(),
        })
    };
    let steps = vec![
        copy("one", "/new/dir/one", Some(0o640), None, InputKind::File),
        copy("two", "/etc/link", None, builder(), InputKind::File),
        copy("tree", "/tree", None, builder(), InputKind::Tar),
        AgentStep::WriteFile {
            path: "/etc/written".to_owned(),
            content: b"w".to_vec().into(),
            mode: 0o600,
        },
        AgentStep::Remove {
            path: "/var".to_owned(),
        },
        AgentStep::Remove {
            path: "/no/such".to_owned(),
        },
    ];
    let look = "cd /; stat -c '%n %A %U %G %Y' new/dir/one etc/link tree/dir tree/dir/file tree/dir/link etc/written; \
                cat new/dir/one etc/link tree/dir/file; readlink tree/dir/link; cat etc/passwd | head -1; ls -d var || true";
    let mut all = commands(&["ln -s passwd /etc/link"]);
    all.extend(steps);
    all.extend(commands(&[look]));
    let input = |name: &str, mode, path| SandboxInput {
        name: name.to_owned(),
        mode,
        path,
    };
    let inputs = vec![
        input("one", 0o755, &one),
        input("two", 0o755, &two),
        input("tree", 0o644, &tree),
    ];
    assert_eq!(
        bench
            .run(SandboxJob {
                steps: all,
                inputs,
                ..bench.job()
            })
            .unwrap()
            .outcome,
        Outcome::Ok,
        "{}",
        bench.log()
    );
    insta::assert_snapshot!(bench.log());
}

#[test]
fn a_tar_stream_cannot_lead_out_of_its_directory() {
    let bench = Bench::new();
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o644);
    header.set_mtime(0);
    let name = b"../../escaped";
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_cksum();
    let mut tar = tar::Builder::new(Vec::new());
    tar.append(&header, std::io::empty()).unwrap();
    let tree = bench.dir.path().join("host-tree");
    std::fs::write(&tree, tar.into_inner().unwrap()).unwrap();
    let step = AgentStep::CopyIn {
        input: "tree".to_owned(),
        dest: "/a/b".to_owned(),
        mode: None,
        owner: None,
        kind: InputKind::Tar,
        modified: None,
    };
    let inputs = vec![SandboxInput {
        name: "tree".to_owned(),
        mode: 0o644,
        path: &tree,
    }];
    let finished = bench
        .run(SandboxJob {
            steps: vec![step],
            inputs,
            ..bench.job()
        })
        .unwrap();
    let Outcome::StepRefused { index: 0, problem } = finished.outcome else {
        panic!("{:?}", finished.outcome)
    };
    assert!(
        problem.to_string().contains("leads out of the archive"),
        "{problem}"
    );
}

#[test]
fn outputs_are_brought_back() {
    let bench = Bench::new();
    let steps = commands(&[
        "echo version > /tmp/version; chmod 751 /tmp/version; dd if=/dev/zero of=/big bs=1M count=3; ln -s / /self",
    ]);
    let outputs = vec![pair("version", "/tmp/version"), pair("big", "/self/big")];
    let finished = bench
        .run(SandboxJob {
            steps,
            outputs,
            ..bench.job()
        })
        .unwrap();
    assert_eq!(finished.outcome, Outcome::Ok);
    let [version, big] = finished.outputs.as_slice() else {
        panic!("{:?}", finished.outputs)
    };
    assert_eq!(
        (version.name.as_str(), version.size, version.mode),
        ("version", 8, 0o751)
    );
    assert_eq!(std::fs::read(&version.path).unwrap(), b"version\n");
    assert_eq!(std::fs::metadata(&big.path).unwrap().len(), 3 << 20);
    assert!(big.path.starts_with(bench.dir.path()));
}

#[test]
fn what_is_no_regular_file_is_refused_as_output() {
    let cases = [
        ("true", ProblemKind::OutputMissing),
        ("ln -s /etc/passwd /out", ProblemKind::OutputRefused),
        ("mkdir /out", ProblemKind::OutputRefused),
        ("mkfifo /out", ProblemKind::OutputRefused),
        ("mknod /out b 7 0", ProblemKind::OutputRefused),
        (
            "ln -s ../../../../../../etc/hostname /out",
            ProblemKind::OutputRefused,
        ),
        (
            "ln -s loop /loop; ln -s /loop /out",
            ProblemKind::OutputRefused,
        ),
    ];
    for (line, kind) in cases {
        let bench = Bench::new();
        let (steps, outputs) = (commands(&[line]), vec![pair("name", "/out")]);
        // A device file takes one that may make some.
        let finished = bench
            .run(SandboxJob {
                steps,
                outputs,
                privileged: true,
                ..bench.job()
            })
            .unwrap();
        let Outcome::OutputRefused { name, problem } = &finished.outcome else {
            panic!("{line}: {:?}", finished.outcome)
        };
        assert_eq!((name.as_str(), problem.kind), ("name", kind), "{line}");
        assert!(finished.outputs.is_empty() && finished.outcome.leaves_a_disk());
    }
}

#[test]
fn processes_left_behind_are_killed_before_the_disk_is_closed() {
    let bench = Bench::new();
    let begun = Instant::now();
    let steps = commands(&[
        "(while :; do echo x >> /root/grow; done) & setsid sleep 1000 > /root/held & trap '' TERM; echo $! > /pid",
        "kill -0 $(cat /pid); unshare -m -p -f sleep 1000 & sleep 0.1",
    ]);
    let finished = bench
        .run(SandboxJob {
            steps,
            privileged: true,
            ..bench.job()
        })
        .unwrap();
    assert_eq!(finished.outcome, Outcome::Ok, "{}", bench.log());
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    base::flatten(&[&base().qcow2, &bench.overlay()], bench.dir.path()).check();
}

#[test]
fn a_job_ends_when_its_time_is_over() {
    let bench = Bench::new();
    let timeout = Duration::from_millis(400);
    let begun = Instant::now();
    let job = SandboxJob {
        steps: commands(&["trap '' TERM INT; sleep 100"]),
        timeout: Some(timeout),
        ..bench.job()
    };
    assert_eq!(
        bench.run(job).unwrap().outcome,
        Outcome::TimedOut { after: timeout }
    );
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(base::leftovers(bench.dir.path()), Vec::<String>::new());
}

#[test]
fn a_cancelled_job_ends_at_once() {
    let bench = Bench::new();
    let cancel = CancelToken::new();
    let job = SandboxJob {
        steps: commands(&["echo go; sleep 100"]),
        cancel: cancel.clone(),
        ..bench.job()
    };
    let begun = Instant::now();
    let finished = sandbox()
        .run(job, &mut |event| {
            if let SandboxEvent::Log { .. } = event {
                cancel.cancel();
            }
        })
        .unwrap();
    assert_eq!(finished.outcome, Outcome::Cancelled);
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(base::leftovers(bench.dir.path()), Vec::<String>::new());
}

#[test]
fn an_image_without_shell_refuses_commands() {
    let bench = Bench::new();
    bench.lines(&["rm /bin/sh"]);
    let chain = vec![base().qcow2.clone(), bench.overlay()];
    let second = Bench::new();
    let steps = vec![
        AgentStep::WriteFile {
            path: "/fine".to_owned(),
            content: b"1".to_vec().into(),
            mode: 0o644,
        },
        AgentStep::Command {
            line: "true".to_owned(),
        },
    ];
    let finished = second
        .run(SandboxJob {
            steps,
            chain,
            ..second.job()
        })
        .unwrap();
    let Outcome::StepRefused { index: 1, problem } = finished.outcome else {
        panic!("{:?}", finished.outcome)
    };
    assert_eq!(
        (problem.kind, problem.to_string().as_str()),
        (ProblemKind::NoShell, "the image has no /bin/sh")
    );
}

#[test]
fn two_sandboxes_run_side_by_side() {
    let both = Arc::new(std::sync::Barrier::new(2));
    let threads: Vec<_> = (0..2)
        .map(|index| {
            let both = both.clone();
            std::thread::spawn(move || {
                let bench = Bench::new();
                let mut waited = false;
                let line = format!(
                    "echo started; echo {index} > /index; cat /index; sleep 0.2; cat /index"
                );
                let mut log = Vec::new();
                let finished = sandbox()
                    .run(
                        SandboxJob {
                            steps: commands(&[&line]),
                            ..bench.job()
                        },
                        &mut |event| {
                            if let SandboxEvent::Log { bytes, .. } = event {
                                log.extend_from_slice(bytes);
                                if !std::mem::replace(&mut waited, true) {
                                    both.wait();
                                }
                            }
                        },
                    )
                    .unwrap();
                assert_eq!(finished.outcome, Outcome::Ok);
                assert_eq!(
                    String::from_utf8(log).unwrap(),
                    format!("started\n{index}\n{index}\n")
                );
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

#[test]
fn the_agent_is_out_of_reach_of_its_steps() {
    let bench = Bench::new();
    bench.lines(&[
        "kill -9 1; kill -STOP 1; for fd in /proc/1/fd/*; do cat $fd; done 2>&1 | cut -d: -f3 | sort -u",
        "for file in mem cwd root; do cat /proc/1/$file/etc/hosts; done 2>&1 || true",
        "for file in sys/kernel/printk sysrq-trigger; do (echo 0 > /proc/$file) 2>/dev/null || echo refused; done",
        "insmod /bin/sh 2>/dev/null || date -s 2001-01-01 2>&1 || true",
    ]);
    insta::assert_snapshot!(bench.log());
}

fn chain_error(error: &SandboxError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[test]
fn a_root_that_is_not_there_is_an_error_with_the_candidates() {
    let bench = Bench::new();
    let error = bench
        .run(SandboxJob {
            root: RootSelector::Label("other".to_owned()),
            ..bench.job()
        })
        .unwrap_err();
    assert_eq!(
        chain_error(&error),
        format!(
            "no root file system: no file system matches root = LABEL=other; the disk has 1 (ext4 LABEL=root UUID={})",
            base::ROOT_UUID
        )
    );
    assert_eq!(base::leftovers(bench.dir.path()), Vec::<String>::new());
}

#[test]
fn a_blank_disk_has_no_root() {
    let bench = Bench::new();
    let error = bench
        .run(SandboxJob {
            chain: Vec::new(),
            ..bench.job()
        })
        .unwrap_err();
    assert_eq!(
        chain_error(&error),
        "no root file system: the disk has no file system that can be the root; it has no partitions"
    );
}

#[test]
fn a_missing_layer_is_an_error_of_the_storage_daemon() {
    let bench = Bench::new();
    let chain = vec![Path::new("/no/such/layer").to_path_buf()];
    let error = bench
        .run(SandboxJob {
            chain,
            ..bench.job()
        })
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("qemu-storage-daemon exited immediately")
            && error.contains("/no/such/layer"),
        "{error}"
    );
    assert_eq!(base::leftovers(bench.dir.path()), Vec::<String>::new());
}
