//! System calls that fail in the middle of a build: it ends soon, says what and where, and the next one is right.
//!
//! `strace` makes the calls of the real program fail; a call is picked by its number among those of one thread.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::base::leftovers;
use crate::project::{Project, Ran, ran};
use crate::random::Random;
use crate::torture;

/// How long a build may take longer than without a fault.
const LIMIT: Duration = Duration::from_secs(10);

/// Imports and converts: everything but a sandbox.
const RECIPE: &str = r#"
stage "fetch" "base" { path = "base.qcow2" }
stage "fetch" "notes" { path = "notes.txt" }
stage "convert" "qcow2" {
  from   = stage.base
  format = "qcow2"
}
stage "convert" "raw" {
  from   = stage.base
  format = "raw"
}
image "it" {
  name  = "it"
  files = [stage.qcow2, stage.raw, stage.notes]
}
"#;

/// Calls, and how they fail on real machines.
const FAULTS: [(&str, &[&str]); 14] = [
    ("openat", &["EMFILE", "EIO", "ESTALE", "ENFILE"]),
    ("openat2", &["EMFILE", "EIO", "ESTALE", "ENFILE"]),
    ("renameat", &["EIO", "ESTALE", "ENOSPC", "EDQUOT"]),
    ("linkat", &["EIO", "ESTALE", "ENOSPC", "EDQUOT"]),
    ("mkdirat", &["EIO", "ENOSPC", "EDQUOT"]),
    ("mkdir", &["EIO", "ENOSPC", "EDQUOT"]),
    ("unlinkat", &["EIO", "ESTALE"]),
    ("fsync", &["EIO", "ENOSPC", "EDQUOT"]),
    ("write", &["EIO", "ENOSPC", "EDQUOT"]),
    ("pwrite64", &["EIO", "ENOSPC", "EDQUOT"]),
    ("read", &["EIO", "ESTALE"]),
    ("pread64", &["EIO", "ESTALE"]),
    ("statx", &["EIO", "ESTALE"]),
    ("getdents64", &["EIO", "ESTALE"]),
];

/// The same command, with system calls that fail or wait, all of them or `only` those with one of these paths: strace(1),
/// `-e inject=` and `-P`.
fn under_strace(command: &Command, injected: &[&str], only: &[String]) -> Command {
    let mut strace = Command::new("strace");
    let calls: Vec<_> = injected
        .iter()
        .filter_map(|inject| inject.split(':').next())
        .collect();
    strace.args([
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        &format!("trace={}", calls.join(",")),
    ]);
    strace.args(injected.iter().map(|inject| format!("--inject={inject}")));
    strace.args(only.iter().flat_map(|path| ["-P", path]));
    strace
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(command.get_current_dir().unwrap());
    strace
        .env("NO_COLOR", "1")
        .stdin(std::process::Stdio::null());
    strace
}

fn build(project: &Project, arguments: &[&str], injected: &[&str]) -> (Ran, Duration) {
    let start = Instant::now();
    let command = project.command(&[&["build"], arguments].concat());
    let ran = ran(under_strace(&command, injected, &[]));
    (ran, start.elapsed())
}

fn sums(project: &Project) -> String {
    let dir = project.path("out");
    let sum = |name: &str| crate::project::sha256(&dir.join(name));
    format!(
        "{} {} {}",
        sum("it.qcow2"),
        sum("it.raw"),
        project.read("out/it/notes")
    )
}

/// No fault makes a build hang, panic, lie or damage the store.
#[test]
fn torture_faults_end_a_build_soon_and_the_next_one_is_right() {
    let (rounds, seed) = (torture::count("faults", 16), torture::seed());
    let mut random = Random::new(seed);
    let mut pick = |below: usize| random.below(below as u64) as usize;
    let project = Project::new();
    project.write("impasto.hcl", RECIPE);
    project.write("notes.txt", "first\n");
    let (first, time) = build(&project, &[], &["openat:delay_enter=1:when=1"]);
    assert_eq!(first.code, 0, "{}", first.stderr);
    let whole = sums(&project);
    let images = whole.rsplit_once(' ').unwrap().0;
    let (mut hit, mut codes) = (0, std::collections::BTreeMap::new());
    for round in 0..rounds {
        let (call, errors) = FAULTS[(round as usize) % FAULTS.len()];
        let error = errors[pick(errors.len())];
        // Early calls are every thread's; late ones are those of the main thread. Some faults stay.
        let number = if pick(2) == 0 {
            1 + pick(8)
        } else {
            1 + pick(120)
        };
        let more = if pick(4) == 0 { "+" } else { "" };
        let fault = format!("{call}:error={error}:when={number}{more}");
        if pick(2) == 0 {
            std::fs::remove_dir_all(project.store()).unwrap();
        }
        let notes = format!("round {round}\n");
        project.write("notes.txt", &notes);
        let (ended, took) = build(&project, &[], &[&fault]);
        let story = || {
            format!(
                "seed {seed}, round {round}, {fault}: code {}\n{}{}",
                ended.code, ended.stdout, ended.stderr
            )
        };
        assert!(took < time + LIMIT, "{took:?}: {}", story());
        // The dynamic linker has an exit code of its own.
        let linker = ended.code == 127 && ended.stderr.contains("shared libraries");
        assert!(
            linker || [0, 1, 3, 4, 5].contains(&ended.code),
            "{}",
            story()
        );
        assert!(
            !ended.stderr.contains("panicked") && !ended.stderr.contains("BUG"),
            "{}",
            story()
        );
        // Every thread counts for itself: the write that fails may be that of the message too.
        let mute = call == "write";
        assert!(
            ended.code == 0 || linker || mute || said_where(&ended, &project),
            "{}",
            story()
        );
        hit += u64::from(ended.code != 0 || ended.stderr.contains("warning"));
        *codes.entry(ended.code).or_insert(0) += 1;
        let verified = project.run(&["store", "verify"]);
        assert_eq!(
            verified.code,
            0,
            "{}\n{}{}",
            story(),
            verified.stdout,
            verified.stderr
        );
        let next = project.run(&["build"]);
        assert_eq!(next.code, 0, "{}\nthe next build: {}", story(), next.stderr);
        assert_eq!(sums(&project), format!("{images} {notes}"), "{}", story());
        if round % 50 == 49 {
            println!(
                "{} faults: exit codes {codes:?}; {hit} were noticed",
                round + 1
            );
        }
    }
    println!("{rounds} faults: exit codes {codes:?}; {hit} were noticed");
    assert!(hit > 0, "no fault was met at all");
}

/// Whether a message names a cause and a place.
fn said_where(ended: &Ran, project: &Project) -> bool {
    let cause = ended.stderr.contains("(os error")
        || ended.stderr.contains("no space")
        || ended.stderr.contains("quota");
    let dir = project.path("").display().to_string();
    // Standard output or error may be what failed.
    ended.stderr.is_empty()
        || cause
            && (["`", "impasto.hcl", dir.trim_end_matches('/')]
                .iter()
                .any(|place| ended.stderr.contains(place)))
}

/// Caches and roots are replaced by `renameat`, as the user's files are, of which there are none here; what counts is linked.
#[test]
fn a_cache_that_cannot_be_written_is_one_warning() {
    let project = Project::new();
    project.write("impasto.hcl", RECIPE);
    project.write("notes.txt", "notes\n");
    project.build(&["notes"]);
    // The directories into which caches are renamed; that of roots is another.
    let state = project.store().join("state");
    let of_recipe = std::fs::read_dir(&state)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let of_recipe = of_recipe.filter(|path| path.join("memory").exists());
    let only: Vec<_> = of_recipe
        .chain([state.clone()])
        .map(|path| path.display().to_string())
        .collect();
    assert_eq!(only.len(), 2, "{only:?}");
    let command = project.command(&["build", "base"]);
    let ran = ran(under_strace(&command, &["renameat:error=EIO"], &only));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("warning").count(), 1, "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("the history of this build cannot be recorded: cannot replace `"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("Input/output error"), "{}", ran.stderr);
    assert_eq!(
        project.build(&["base"]),
        (0, 1),
        "what it made is there all the same"
    );
}

/// What no root names the collector may delete, so that is no cache.
#[test]
fn a_root_that_cannot_be_written_ends_the_build() {
    let project = Project::new();
    project.write("impasto.hcl", RECIPE);
    project.write("notes.txt", "notes\n");
    // Long enough that roots are written while jobs run.
    let (ran, time) = build(
        &project,
        &["base"],
        &["renameat:error=EIO", "fsync:delay_enter=150000"],
    );
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(time < Duration::from_secs(60), "{time:?}");
    assert_eq!(
        ran.stderr
            .matches("cannot be protected from `impasto gc`: cannot replace `")
            .count(),
        1,
        "{}",
        ran.stderr
    );
    project.build(&["base"]);
    assert_eq!(project.build(&["base"]), (0, 1), "the next one is right");
}

#[test]
fn a_full_disk_ends_the_build_with_the_remedy() {
    let project = Project::new();
    project.write("impasto.hcl", RECIPE);
    project.write("notes.txt", "notes\n");
    for (fault, help) in [
        ("linkat:error=ENOSPC", "help: free some space"),
        ("linkat:error=EDQUOT", "help: raise the quota"),
        ("linkat:error=EIO", "help: the disk may be failing"),
        ("renameat:error=ENOSPC", "help: free some space"),
        ("fsync:error=EMFILE", "help: allow more open files"),
    ] {
        // Whoever keeps going cannot keep going here.
        std::fs::remove_dir_all(project.store()).ok();
        project.ok(&["layer", "list"]);
        let (ran, _) = build(&project, &["--keep-going", "--jobs", "1"], &[fault]);
        assert_eq!(ran.code, 1, "{fault}: {}", ran.stderr);
        assert!(ran.stderr.contains(help), "{fault}: {}", ran.stderr);
        assert!(
            ran.stderr.matches("failed").count() <= 3,
            "{fault}: one stage failed, not all: {}",
            ran.stderr
        );
    }
}

/// The supervisor, the storage daemon and the agent meet faults too.
#[test]
fn torture_sandbox_faults_leave_nothing() {
    let (rounds, seed) = (torture::count("sandbox_faults", 2), torture::seed());
    let mut random = Random::new(seed);
    let project = Project::with(
        r#"
        variable "round" { type = string }
        stage "fetch" "base" { path = "base.qcow2" }
        stage "run" "it" {
          from     = stage.base
          commands = ["echo ${var.round} > /root/it"]
        }
        "#,
    );
    let start = Instant::now();
    project.build(&["--var", "round=first"]);
    let time = start.elapsed() * 3;
    for round in 0..rounds {
        let (call, errors) = FAULTS[random.below(FAULTS.len() as u64) as usize];
        let error = errors[random.below(errors.len() as u64) as usize];
        let fault = format!("{call}:error={error}:when={}", 1 + random.below(60));
        let var = format!("round={round}");
        let command = project.command(&["build", "--var", &var]);
        let start = Instant::now();
        let ended = ran(under_strace(&command, &[&fault], &[]));
        let story = || {
            format!(
                "seed {seed}, round {round}, {fault}: code {}\n{}",
                ended.code, ended.stderr
            )
        };
        assert!(
            start.elapsed() < time + LIMIT,
            "{:?}: {}",
            start.elapsed(),
            story()
        );
        assert!(
            ended.code == 127 || [0, 1, 3, 4, 5].contains(&ended.code),
            "{}",
            story()
        );
        assert!(
            !ended.stderr.contains("panicked") && !ended.stderr.contains("BUG"),
            "{}",
            story()
        );
        gone(&project.store(), &story());
        project.build(&["--var", &var]);
        assert_eq!(
            project.in_guest_with("it", "cat /root/it", &["--var", &var]),
            format!("{round}\n")
        );
    }
    println!("{rounds} faults in builds with a sandbox");
}

fn gone(store: &Path, story: &str) {
    let start = Instant::now();
    while !leftovers(store).is_empty() {
        assert!(start.elapsed() < LIMIT, "{:?}\n{story}", leftovers(store));
        std::thread::sleep(Duration::from_millis(5));
    }
}
