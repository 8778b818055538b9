//! Limits of stages: each is reached for real, names itself, and ends the job soon.

use std::time::{Duration, Instant};

use impasto::sandbox::{
    Culprit, Finished, Limit, NamespaceSandbox, Outcome, Sandbox, SandboxEvent, SandboxJob,
};
use impasto_stages::Limits;

use crate::base;
use crate::project::Project;
use crate::sandbox::{Bench, commands, sandbox};

/// Long enough for a busy machine, and far less than what the steps would take.
const SOON: Duration = Duration::from_secs(10);

/// A machine without control groups, and one with them where there are any.
fn sandboxes() -> [NamespaceSandbox; 2] {
    [sandbox(), sandbox().without_groups()]
}

/// Runs a line that reaches a limit, and demands that it is that one.
fn reach(
    sandbox: &NamespaceSandbox,
    bench: &Bench,
    job: SandboxJob<'_>,
    limit: Limit,
    by: &Culprit,
) -> Finished {
    let begun = Instant::now();
    let finished = sandbox.run(job, &mut |_| {}).unwrap();
    let Outcome::LimitReached(reached) = &finished.outcome else {
        panic!("{limit:?}: {:?}", finished.outcome)
    };
    assert_eq!(
        (reached.limit, reached.by.as_ref()),
        (limit, Some(by)),
        "{reached}"
    );
    assert!(
        reached.to_string().contains(limit.field()) && reached.help().contains(limit.field()),
        "{reached}"
    );
    assert!(!finished.outcome.leaves_a_disk() && finished.outputs.is_empty());
    assert!(begun.elapsed() < SOON, "{limit:?}: {:?}", begun.elapsed());
    assert_eq!(base::leftovers(bench.dir.path()), Vec::<String>::new());
    finished
}

fn line<'a>(bench: &'a Bench, line: &str, limits: Limits) -> SandboxJob<'a> {
    SandboxJob {
        steps: commands(&["true", line]),
        limits,
        ..bench.job()
    }
}

#[test]
fn many_processes_end_at_their_limit() {
    for sandbox in sandboxes() {
        let bench = Bench::new();
        let limits = Limits {
            processes: 200,
            ..Limits::default()
        };
        // Grows until it is stopped, but never beyond a few hundred of its own.
        let bomb = "i=0; while [ $i -lt 600 ]; do sleep 100 & i=$((i + 1)); done; wait";
        reach(
            &sandbox,
            &bench,
            line(&bench, bomb, limits),
            Limit::Processes,
            &Culprit::Step(1),
        );
    }
}

#[test]
fn a_step_that_survives_the_limit_of_processes_fails_all_the_same() {
    let bench = Bench::new();
    let limits = Limits {
        processes: 50,
        ..Limits::default()
    };
    let line_ = "(i=0; while [ $i -lt 100 ]; do sleep 2 & i=$((i + 1)); done) 2>/dev/null; exit 0";
    let finished = sandboxes()[0]
        .run(line(&bench, line_, limits), &mut |_| {})
        .unwrap();
    assert!(
        matches!(finished.outcome, Outcome::LimitReached(_)),
        "{:?}",
        finished.outcome
    );
}

#[test]
fn much_memory_ends_at_its_limit() {
    for sandbox in sandboxes() {
        let bench = Bench::new();
        let limits = Limits {
            memory: Some(96 << 20),
            ..Limits::default()
        };
        // The shell keeps what it has read: 16 MiB, twice as much in every turn, 1 GiB at most; then it waits.
        let hog = "a=$(dd if=/dev/zero bs=1M count=16 2>/dev/null | tr '\\0' x); i=0; \
                   while [ $i -lt 6 ]; do a=$a$a; i=$((i + 1)); done; sleep 100";
        reach(
            &sandbox,
            &bench,
            line(&bench, hog, limits),
            Limit::Memory,
            &Culprit::Step(1),
        );
    }
}

#[test]
fn files_in_memory_are_limited_together() {
    for sandbox in sandboxes() {
        let bench = Bench::new();
        let limits = Limits {
            tmpfs: Some(24 << 20),
            ..Limits::default()
        };
        let fill = "for at in /tmp /run /dev/shm; do dd if=/dev/zero of=$at/big bs=1M count=10; done; sleep 100";
        reach(
            &sandbox,
            &bench,
            line(&bench, fill, limits),
            Limit::Tmpfs,
            &Culprit::Step(1),
        );
    }
    // What is within it passes.
    let bench = Bench::new();
    let limits = Limits {
        tmpfs: Some(24 << 20),
        ..Limits::default()
    };
    let job = line(
        &bench,
        "dd if=/dev/zero of=/tmp/big bs=1M count=20; rm /tmp/big; echo >/dev/shm/x",
        limits,
    );
    assert_eq!(
        bench.run(job).unwrap().outcome,
        Outcome::Ok,
        "{}",
        bench.log()
    );
}

#[test]
fn a_log_ends_at_its_limit() {
    let bench = Bench::new();
    let limits = Limits {
        log: 1 << 20,
        ..Limits::default()
    };
    let mut printed = 0;
    let begun = Instant::now();
    let finished = sandbox()
        .run(line(&bench, "yes", limits), &mut |event| {
            if let SandboxEvent::Log { bytes, .. } = event {
                printed += bytes.len();
            }
        })
        .unwrap();
    let Outcome::LimitReached(reached) = finished.outcome else {
        panic!("{:?}", finished.outcome)
    };
    assert_eq!(
        (reached.limit, reached.by),
        (Limit::Log, Some(Culprit::Step(1)))
    );
    assert!(
        printed < 2 << 20 && begun.elapsed() < SOON,
        "{printed} bytes in {:?}",
        begun.elapsed()
    );
}

#[test]
fn an_output_is_limited_by_its_data_and_holes_are_not_read() {
    let sparse = "truncate -s 200G /big; echo begin | dd of=/big conv=notrunc; \
                  echo end | dd of=/big bs=1M seek=100000 conv=notrunc";
    let outputs = || vec![("big".to_owned(), "/big".to_owned())];
    let bench = Bench::new();
    let limits = Limits {
        output: 1 << 20,
        ..Limits::default()
    };
    let begun = Instant::now();
    let job = SandboxJob {
        outputs: outputs(),
        ..line(&bench, sparse, limits)
    };
    let finished = bench.run(job).unwrap();
    assert_eq!(finished.outcome, Outcome::Ok, "{}", bench.log());
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    let [big] = finished.outputs.as_slice() else {
        panic!("{:?}", finished.outputs)
    };
    let found = std::fs::metadata(&big.path).unwrap();
    let (size, allocated) = (
        found.len(),
        std::os::unix::fs::MetadataExt::blocks(&found) * 512,
    );
    // `truncate` of busybox is not wider than the file system: what counts is that length and places are the same.
    assert_eq!((big.size, size), (200 << 30, 200 << 30));
    assert!(allocated < 4 << 20, "{allocated} bytes");
    let file = std::fs::File::open(&big.path).unwrap();
    let mut end = [0; 3];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut end, 100_000 << 20).unwrap();
    assert_eq!(&end, b"end");

    let bench = Bench::new();
    let data = "dd if=/dev/urandom of=/big bs=1M count=2 seek=50000";
    let job = SandboxJob {
        outputs: outputs(),
        ..line(&bench, data, limits)
    };
    reach(
        &sandbox(),
        &bench,
        job,
        Limit::Output,
        &Culprit::Named("big".to_owned()),
    );
}

#[test]
fn a_secret_is_limited_and_nothing_can_be_put_beside_it() {
    let bench = Bench::new();
    let secrets = vec![("key".to_owned(), vec![b'x'; (1 << 20) + 1])];
    let job = SandboxJob {
        secrets,
        ..bench.job()
    };
    reach(
        &sandbox(),
        &bench,
        job,
        Limit::Secret,
        &Culprit::Named("key".to_owned()),
    );
    let bench = Bench::new();
    let secrets = vec![("key".to_owned(), vec![b'x'; 1 << 20])];
    let steps = commands(&["wc -c </run/impasto/secrets/key; ! echo x >/run/impasto/secrets/more"]);
    assert_eq!(
        bench
            .run(SandboxJob {
                secrets,
                steps,
                ..bench.job()
            })
            .unwrap()
            .outcome,
        Outcome::Ok,
        "{}",
        bench.log()
    );
}

#[test]
fn a_stage_at_its_limit_fails_says_so_and_is_not_cached() {
    let recipe = |limits: &str| {
        format!(
            r#"
            stage "fetch" "base" {{ path = "base.qcow2" }}
            stage "run" "prints" {{
              from     = stage.base
              commands = ["head -c 3000000 /dev/zero | base64", "touch /done"]
              {limits}
            }}
            "#
        )
    };
    let project = Project::with(&recipe("limits = { log = \"2MiB\" }"));
    for _ in 0..2 {
        let ran = project.run(&["build", "--progress", "plain"]);
        assert_eq!(ran.code, 4, "{}", ran.stderr);
        for part in [
            "prints",
            "command 1 reached the limit `log`: more than 2 MiB printed",
            "limits = { log = \"4MiB\" }",
        ] {
            assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
        }
    }
    // A limit that is not reached is in no key.
    project.write("impasto.hcl", &recipe(""));
    assert_eq!(project.build(&[]), (1, 1));
    project.write(
        "impasto.hcl",
        &recipe("limits = { log = \"1GiB\", processes = 20000 }"),
    );
    assert_eq!(project.build(&[]), (0, 2));
}

#[test]
fn control_groups_of_a_killed_build_are_removed_by_the_next() {
    // Nobody holds a lock on it.
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let Some(path) = groups
        .lines()
        .find_map(|line| line.split_once(":pids:"))
        .map(|(_, path)| path)
    else {
        eprintln!("this host has no control groups of version 1");
        return;
    };
    let stale = format!("/sys/fs/cgroup/pids{path}/impasto-0000000000000000");
    std::fs::create_dir(&stale).unwrap();
    Bench::new().lines(&["true"]);
    assert!(!std::path::Path::new(&stale).exists(), "{stale}");
}
