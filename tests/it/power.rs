//! Power cuts: what was acknowledged is there when the machine is back, and when the collector has been.
//!
//! The file system of a loop device is shut down in the midst of its work, as xfs and ext4 can do: nothing that was not
//! synced reaches the device. Nothing but the device of the test itself is ever shut down.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::base::tool;
use crate::project::Project;
use crate::random::Random;
use crate::torture::{count, seed};

/// Stages without sandbox, so that no process but the build works on the file system.
const RECIPE: &str = r#"
variable "round" { type = string }
stage "fetch" "a" { path = "a-${var.round}.txt" }
stage "fetch" "disk" {
  path = "disk-${var.round}.raw"
  as   = "disk"
}
stage "fetch" "b" { path = "b.txt" }
stage "convert" "qcow2" {
  from   = stage.disk
  format = "qcow2"
}
stage "fetch" "c" { path = "c-${var.round}.txt" }
image "it" {
  name  = "it"
  files = [stage.qcow2, stage.a, stage.b, stage.c]
}
"#;

/// Set where the test is alone with its mounts.
const ALONE: &str = "IMPASTO_TEST_ALONE";

/// Nodes of the recipe.
const NODES: u64 = 5;

/// A file system on a loop device, where a project's store lies.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    fn new(project: &Project, file_system: &str) -> Disk {
        let disk = Disk {
            image: project.path("disk.img"),
            at: project.path("mnt"),
        };
        std::fs::create_dir(&disk.at).unwrap();
        // No smaller xfs can be made.
        std::fs::File::create(&disk.image)
            .unwrap()
            .set_len(320 << 20)
            .unwrap();
        tool(
            &format!("mkfs.{file_system}"),
            &["-q", disk.image.to_str().unwrap()],
        );
        disk.mount();
        disk
    }

    fn mount(&self) {
        tool(
            "mount",
            &[
                "-o",
                "loop",
                self.image.to_str().unwrap(),
                self.at.to_str().unwrap(),
            ],
        );
    }

    /// Stops the file system; with `flush` the journal that is in memory is written first, as it might just have been.
    fn cut(&self, flush: bool) {
        let shutdown = if flush { "shutdown -f" } else { "shutdown" };
        tool("xfs_io", &["-x", "-c", shutdown, self.at.to_str().unwrap()]);
    }

    /// The machine is back.
    fn back(&self) {
        tool("umount", &[self.at.to_str().unwrap()]);
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

/// A recipe whose store lies on a disk of its own.
struct Machine {
    project: Project,
    disk: Disk,
}

impl Machine {
    fn new(file_system: &str) -> Machine {
        let project = Project::empty();
        project.write("impasto.hcl", RECIPE);
        project.write("b.txt", "the same in every round\n");
        let disk = Disk::new(&project, file_system);
        Machine { project, disk }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_impasto"));
        command
            .args(arguments)
            .arg("--store")
            .arg(self.disk.at.join("store"))
            .current_dir(self.project.path(""));
        command.env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    /// Runs a command that must succeed.
    fn ok(&self, arguments: &[&str]) -> String {
        let ran = crate::project::ran(self.command(arguments));
        assert_eq!(
            ran.code, 0,
            "impasto {arguments:?}: {}{}",
            ran.stdout, ran.stderr
        );
        ran.stdout
    }

    /// Builds: the stages that ran.
    fn build(&self, var: &str) -> BTreeSet<String> {
        self.ok(&["build", "--progress", "json", "--var", var])
            .lines()
            .filter_map(built)
            .collect()
    }

    /// Builds, and cuts the power after so many microseconds: the stages that were acknowledged.
    fn cut_build(&self, var: &str, after: u64, flush: bool) -> BTreeSet<String> {
        let mut command = self.command(&["build", "--progress", "json", "--var", var]);
        let mut build = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(build.stdout.take().unwrap()).lines();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                lines
                    .map_while(Result::ok)
                    .filter_map(|line| built(&line))
                    .collect()
            });
            std::thread::sleep(Duration::from_micros(after));
            self.disk.cut(flush);
            build.kill().unwrap();
            build.wait().unwrap();
            reader.join().unwrap()
        })
    }
}

/// The stage that an event says was built.
fn built(line: &str) -> Option<String> {
    let event: Value = serde_json::from_str(line).ok()?;
    let is_built = event["event"] == "stage_finished" && event["how"] == "built";
    is_built.then(|| event["stage"].as_str().unwrap().to_owned())
}

/// Cuts the power `cuts` times, half of them in a build and half when one has just ended.
fn survive(file_system: &str, cuts: u64) {
    let mut random = Random::new(seed());
    let machine = Machine::new(file_system);
    let (mut length, mut acknowledged, mut in_work) = (100_000, 0, 0);
    for round in 0..cuts.div_ceil(2) {
        let what = |when: &str| format!("{file_system}, round {round}, {when}");
        let var = format!("round={round}");
        for name in ["a", "c"] {
            machine
                .project
                .write(&format!("{name}-{round}.txt"), &format!("{name} {round}\n"));
        }
        let raw = machine.project.path(&format!("disk-{round}.raw"));
        std::fs::File::create(&raw)
            .unwrap()
            .set_len(2 << 20)
            .unwrap();
        tool("mke2fs", &["-q", "-t", "ext4", raw.to_str().unwrap()]);

        let after = random.below(length * 5 / 4);
        let before = machine.cut_build(&var, after, random.below(2) == 0);
        machine.disk.back();
        let start = Instant::now();
        let again = machine.build(&var);
        // As long as a build that does all of it.
        if before.is_empty() {
            length = start.elapsed().as_micros() as u64;
        }
        assert!(
            again.is_disjoint(&before),
            "{}: {again:?} ran again of {before:?}",
            what("after a cut")
        );
        acknowledged += before.len() as u64;
        in_work += u64::from(!before.is_empty() && before.len() < NODES as usize);
        // A build that found everything acknowledges it, too.
        assert_eq!(
            machine.build(&var),
            BTreeSet::new(),
            "{}",
            what("a second build")
        );
        machine.disk.cut(random.below(2) == 0);
        machine.disk.back();
        machine.ok(&["gc", "--min-age", "0s"]);
        assert_eq!(
            machine.build(&var),
            BTreeSet::new(),
            "{}",
            what("after a cut and the collector")
        );
        acknowledged += NODES;
        machine.ok(&["store", "verify"]);
        for name in ["a", "c"] {
            std::fs::remove_file(machine.project.path(&format!("{name}-{round}.txt"))).unwrap();
        }
        std::fs::remove_file(raw).unwrap();
    }
    println!(
        "{file_system}: {cuts} cuts, {in_work} of them amidst results; {acknowledged} acknowledged results, 0 lost"
    );
}

/// Runs a test again in a mount namespace of its own: what others mount must not hold its file system, which would then
/// come back as it was shut down, and whatever becomes of the test, the kernel unmounts it.
fn alone(test: &str, survive: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return survive();
    }
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ALONE, "1");
    assert!(command.status().unwrap().success(), "see above");
}

#[test]
fn torture_power_cuts_on_ext4_lose_nothing() {
    alone("power::torture_power_cuts_on_ext4_lose_nothing", || {
        survive("ext4", count("power", 4))
    });
}

#[test]
fn torture_power_cuts_on_xfs_lose_nothing() {
    alone("power::torture_power_cuts_on_xfs_lose_nothing", || {
        survive("xfs", count("power", 4))
    });
}
