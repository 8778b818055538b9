//! Steps that write to the disk that they run on: what they leave is looked at from outside before it counts.

use impasto::sandbox::protocol::ProblemKind;
use impasto::sandbox::{Outcome, SandboxJob};

use crate::base;
use crate::project::Project;
use crate::sandbox::{Bench, commands};

#[test]
fn a_file_system_that_is_gone_is_no_success() {
    for line in [
        "dd if=/dev/zero of=/dev/vda1 bs=1M count=2 conv=notrunc; sync",
        "dd if=/dev/zero of=/dev/vda bs=1M conv=notrunc; sync",
        "dd if=/dev/zero of=/dev/vda bs=512 count=34 conv=notrunc; dd if=/dev/zero of=/dev/vda bs=1k seek=65500 conv=notrunc; sync",
    ] {
        let bench = Bench::new();
        let finished = bench
            .run(SandboxJob {
                steps: commands(&[line]),
                ..bench.job()
            })
            .unwrap();
        let Outcome::Damaged { problem } = &finished.outcome else {
            panic!("{line}: {:?}: {}", finished.outcome, bench.log())
        };
        assert_eq!(problem.kind, ProblemKind::Dirty);
        let text = problem.to_string();
        assert!(
            text.contains("/dev/vda1") && text.contains("did a step write to its own disk?"),
            "{text}"
        );
        assert_eq!(base::leftovers(bench.dir.path()), Vec::<String>::new());
    }
}

/// What lies where in the base's file system: blocks of 4096 bytes.
fn damage(blocks: std::ops::Range<u32>) -> String {
    let count = blocks.end - blocks.start;
    format!(
        "sync; dd if=/dev/urandom of=/dev/vda1 bs=4096 seek={} count={count} conv=notrunc; sync",
        blocks.start
    )
}

#[test]
fn a_damaged_file_system_is_no_success_and_is_not_cached() {
    let first = |what: &str| -> u32 {
        let bench = Bench::new();
        bench.lines(&["true"]);
        let flat = base::flatten(&[&base::base().qcow2, &bench.overlay()], bench.dir.path());
        let text = flat.debugfs("stats");
        let at = text.find(what).unwrap_or_else(|| panic!("{what}: {text}"));
        let digits = text[at + what.len()..]
            .trim_start()
            .chars()
            .take_while(char::is_ascii_digit);
        digits.collect::<String>().parse().unwrap()
    };
    let inodes = first("inode table at ");
    for (name, line) in [
        ("group descriptors", damage(1..2)),
        ("inode table", damage(inodes..inodes + 4)),
        (
            "superblock",
            "sync; dd if=/dev/zero of=/dev/vda bs=1k seek=1025 count=1 conv=notrunc; \
                        dd if=/dev/zero of=/dev/vda1 bs=1k seek=1 count=1 conv=notrunc; sync"
                .to_owned(),
        ),
    ] {
        let project = Project::with(&format!(
            r#"
            stage "fetch" "base" {{ path = "base.qcow2" }}
            stage "run" "wipes" {{
              from     = stage.base
              commands = [{line:?}]
            }}
            "#
        ));
        for _ in 0..2 {
            let ran = project.run(&["build"]);
            assert_eq!(ran.code, 4, "{name}: {}", ran.stderr);
            assert!(
                ran.stderr.contains("wipes") && ran.stderr.contains("file system"),
                "{name}: {}",
                ran.stderr
            );
        }
        let plan: serde_json::Value =
            serde_json::from_str(&project.ok(&["plan", "--json"])).unwrap();
        let wipes = plan["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .find(|node| node["stage"] == "wipes");
        assert_ne!(
            wipes.map(|node| &node["state"]),
            Some(&"cached".into()),
            "{name}: {plan}"
        );
    }
}
