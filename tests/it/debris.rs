//! What is in `tmp/`: nobody's but its owner's while that lives, and no build's later than the next.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::project::Project;
use crate::random::Random;
use crate::torture::{count, seed};

/// A stage whose work directory is large, and one whose is not.
const RECIPE: &str = r#"
variable "round" { type = string }
stage "fetch" "base" { path = "base.qcow2" }
stage "run" "large" {
  from     = stage.base
  commands = ["echo ${var.round} > /root/a", "dd if=/dev/urandom of=/root/noise bs=64k count=40 2> /dev/null"]
}
stage "run" "small" {
  from     = stage.large
  commands = ["rm /root/noise"]
}
stage "convert" "qcow2" {
  from   = stage.small
  format = "qcow2"
}
image "it" {
  name  = "it"
  files = [stage.qcow2]
}
"#;

/// Bytes that lie in `tmp/`.
fn debris(project: &Project) -> u64 {
    let files = walkdir::WalkDir::new(project.store().join("tmp"))
        .into_iter()
        .filter_map(Result::ok);
    files
        .filter_map(|file| file.metadata().ok())
        .filter(|stat| stat.is_file())
        .map(|stat| stat.len())
        .sum()
}

#[test]
fn torture_builds_that_are_killed_leave_no_more_than_one_would() {
    let (kills, mut random) = (count("debris", 8), Random::new(seed()));
    let project = Project::with(RECIPE);
    let start = Instant::now();
    // The largest that lies there while a build runs that is not killed.
    let mut build = project
        .command(&["build", "--var", "round=warm"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut largest = 0;
    while build.try_wait().unwrap().is_none() {
        largest = largest.max(debris(&project));
        std::thread::yield_now();
    }
    let length = start.elapsed().as_micros() as u64;
    assert_eq!(debris(&project), 0, "a build that ends leaves nothing");
    let mut most = 0;
    for round in 0..kills {
        let var = format!("round={round}");
        let mut build = project
            .command(&["build", "--var", &var])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(random.below(length)));
        build.kill().unwrap();
        build.wait().unwrap();
        most = most.max(debris(&project));
    }
    project.build(&["--var", "round=last"]);
    let left = debris(&project);
    println!(
        "{kills} kills: at most {most} bytes in tmp/ after a kill, {left} after one more build; {largest} while one runs"
    );
    assert_eq!(left, 0);
    assert!(
        most <= largest * 2,
        "{most} bytes after a kill, {largest} while one runs"
    );
    let out = std::fs::read_dir(project.path("out"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert_eq!(
        out.filter(|name| name.to_string_lossy().starts_with('.'))
            .count(),
        0,
        "drafts of dead builds"
    );
    let leases = std::fs::read_dir(project.store().join("leases")).map_or(0, Iterator::count);
    assert_eq!(leases, 0, "leases of dead builds");
}

#[test]
fn torture_builds_beside_a_collector_that_never_rests_do_not_fail() {
    let rounds = count("collector", 60);
    let recipe = r#"
variable "round" { type = string }
stage "fetch" "base" { path = "base.qcow2" }
stage "convert" "qcow2" {
  from              = stage.base
  format            = "qcow2"
  compression_level = 1
}
stage "fetch" "note" { path = "${var.round}.txt" }
image "it" {
  name  = "it"
  files = [stage.qcow2, stage.note]
}
"#;
    let project = Project::empty();
    let builders = ["first", "second"];
    for dir in builders {
        project.write(&format!("{dir}/impasto.hcl"), recipe);
        std::fs::copy(
            &crate::base::base().qcow2,
            project.path(&format!("{dir}/base.qcow2")),
        )
        .unwrap();
    }
    let (done, collections) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let gc = project.run(&["gc", "--min-age", "0s"]);
                assert!(
                    gc.code == 0 || gc.stderr.contains("still using this store"),
                    "{gc:?}"
                );
                collections.fetch_add(u64::from(gc.code == 0), Ordering::Relaxed);
            }
        });
        let builds = builders.map(|dir| {
            let project = &project;
            scope.spawn(move || {
                for round in 0..rounds / 2 {
                    project.write(&format!("{dir}/{round}.txt"), &format!("{dir} {round}\n"));
                    let (out, var) = (format!("{dir}/out"), format!("round={round}"));
                    project.build(&[
                        "--recipe",
                        &format!("./{dir}"),
                        "--out",
                        &out,
                        "--var",
                        &var,
                    ]);
                }
            })
        });
        // A failed build is told when all is over: the collector must not go on for ever.
        let results = builds.map(|build| build.join());
        done.store(true, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.unwrap());
    });
    println!(
        "{rounds} builds beside {} collections",
        collections.into_inner()
    );
    assert_eq!(project.run(&["store", "verify"]).code, 0);
    assert_eq!(debris(&project), 0);
}
