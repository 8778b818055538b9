//! SIGKILL of whole builds at random moments: the next build succeeds, nothing is left, the store is right.

use std::time::{Duration, Instant};

use crate::base::leftovers;
use crate::project::Project;
use crate::random::Random;

const RECIPE: &str = r#"
variable "round" { type = string }
stage "fetch" "base" { path = "base.qcow2" }
stage "run" "a" {
  from     = stage.base
  commands = ["echo ${var.round} > /root/a", "dd if=/dev/urandom of=/root/noise bs=64k count=20 2> /dev/null"]
  output   = { "a.txt" = "/root/a" }
}
stage "run" "b" {
  from     = stage.a
  commands = ["cat /root/a > /root/b", "rm /root/noise"]
}
stage "convert" "qcow2" {
  from   = stage.b
  format = "qcow2"
}
image "it" {
  name  = "it"
  files = [stage.qcow2, stage.a.files["a.txt"]]
}
"#;

#[test]
fn torture_a_hundred_kills_leave_nothing_and_lose_nothing() {
    let (kills, seed) = (crate::torture::count("kills", 100), crate::torture::seed());
    let mut random = Random::new(seed);
    let project = Project::with(RECIPE);
    let start = Instant::now();
    project.build(&["--var", "round=warm"]);
    // A build as long as the first is hit anywhere, its very end and beyond among it.
    let length = start.elapsed().as_micros() as u64 * 11 / 10;
    let mut hit = 0u64;
    for round in 0..kills {
        let var = format!("round={round}");
        let mut child = project
            .command(&["build", "--var", &var])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(random.below(length)));
        hit += u64::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        let killed = Instant::now();
        loop {
            let left = leftovers(&project.store());
            if left.is_empty() {
                break;
            }
            // One second after the last write has ended: the machine that runs this may be busy writing.
            assert!(
                killed.elapsed() < Duration::from_secs(10),
                "round {round}, seed {seed}: {left:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        let sync = Instant::now();
        crate::base::tool("sync", &[]);
        assert!(sync.elapsed() < Duration::from_secs(60), "sync hung");
        project.build(&["--var", &var]);
        assert_eq!(project.read("out/it/a.txt"), format!("{round}\n"));
        if round % 10 == 9 {
            assert_eq!(
                project.in_guest_with("b", "cat /root/b; ls /root", &["--var", &var]),
                format!("{round}\na\nb\n")
            );
            assert_eq!(
                project.run(&["store", "verify"]).code,
                0,
                "round {round}, seed {seed}"
            );
        }
    }
    // The first build was slower than the others where the machine was busy then.
    assert!(
        hit > kills / 4,
        "only {hit} of {kills} builds were still running when they were killed"
    );
    // What the kills left is debris, and the collector's.
    project.ok(&["gc", "--min-age", "0s"]);
    for debris in ["tmp", "leases"] {
        let left = std::fs::read_dir(project.store().join(debris)).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{debris}/ after gc");
    }
}

#[test]
fn what_a_killed_build_finished_is_kept() {
    let recipe = |line: &str| {
        format!(
            "stage \"fetch\" \"base\" {{ path = \"base.qcow2\" }}\n\
             stage \"run\" \"slow\" {{\n  from = stage.base\n  commands = [\"{line}\"]\n}}\n"
        )
    };
    let project = Project::with(&recipe("sleep 1000"));
    let mut build = project
        .command(&["build"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    // Within about a second after it was made, while the next stage runs.
    let named = || {
        let roots = std::fs::read_dir(project.store().join("roots"));
        let mut roots = roots.into_iter().flatten();
        roots.any(|root| root.unwrap().metadata().unwrap().len() > 100)
    };
    while !named() && start.elapsed() < Duration::from_secs(60) {
        std::thread::yield_now();
    }
    build.kill().unwrap();
    build.wait().unwrap();
    assert!(named(), "no root is written while a stage runs");
    project.ok(&["gc"]);
    project.write("impasto.hcl", &recipe("true"));
    assert_eq!(project.build(&[]), (1, 1));
}
