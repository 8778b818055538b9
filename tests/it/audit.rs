//! `impasto audit` finds every planted reason for which two builds differ, and nothing else.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::project::Project;

/// Stage, path and kind of each planted reason.
const PLANTED: &[(&str, &[&str], &str)] = &[
    ("machine_id", &["/etc/machine-id"], "machine-id"),
    (
        "ssh_host_keys",
        &[
            "/etc/ssh/ssh_host_ecdsa_key",
            "/etc/ssh/ssh_host_ecdsa_key.pub",
            "/etc/ssh/ssh_host_ed25519_key",
            "/etc/ssh/ssh_host_ed25519_key.pub",
        ],
        "ssh-host-key",
    ),
    (
        "bytecode",
        &["/usr/lib/python3/__pycache__/own.cpython-311.pyc"],
        "pyc-timestamp",
    ),
    ("build_id", &["/usr/bin/own"], "build-id"),
    ("random_seed", &["/srv/pool"], "random-seed"),
    ("directory_order", &["/srv/list"], "directory-order"),
    ("build_time", &["/srv/built"], "build-time"),
    ("host_name", &["/srv/host"], "host-name"),
    ("initramfs", &["/boot/initrd.img"], "initramfs"),
    ("locale", &["/srv/lang"], "locale"),
    ("time_zone", &["/srv/zone"], "time-zone"),
    ("salt", &["/etc/shadow"], "password-salt"),
    ("log", &["/var/log/own.log"], "log"),
];

fn planted() -> Project {
    let project = Project::with(include_str!("audit/planted.hcl"));
    for name in ["init", "bin/one", "bin/two", "etc/three", "zero"] {
        project.write(&format!("tree/{name}"), &format!("{name}\n"));
    }
    project
}

/// Waits for the next second: some files tell no finer time.
fn next_second() {
    let second = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs()
    };
    let begun = second();
    while second() == begun {
        std::thread::yield_now();
    }
}

#[test]
fn every_planted_reason_is_named_with_its_remedy() {
    let project = planted();
    assert_eq!(project.try_build(&[]).0, 0);
    next_second();
    let ran = project.run(&["audit", "--json"]);
    assert_eq!(ran.code, 10, "{}{}", ran.stdout, ran.stderr);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let stages = report["stages"].as_array().unwrap();
    assert_eq!(stages.len(), PLANTED.len() + 2);
    let stage = |name: &str| stages.iter().find(|stage| stage["stage"] == *name).unwrap();
    for name in ["base", "clean"] {
        // What was restored may have been elsewhere on the disk.
        assert_ne!(stage(name)["verdict"], "different", "{}", stage(name));
    }
    for (name, paths, kind) in PLANTED {
        let stage = stage(name);
        assert_eq!(stage["verdict"], "different", "{name}");
        let files = stage["files"].as_array().unwrap();
        let found: Vec<_> = files
            .iter()
            .map(|file| file["path"].as_str().unwrap())
            .collect();
        assert_eq!(found, *paths, "{stage:#}");
        for file in files {
            assert_eq!(file["cause"]["kind"], *kind, "{stage:#}");
            let remedy = file["cause"]["remedy"].as_str().unwrap();
            assert!(remedy.contains('`') && remedy.ends_with('.'), "{remedy}");
        }
    }
    assert_eq!(report["first"], PLANTED[0].0);
}

#[test]
fn a_recipe_without_such_reasons_is_equal() {
    let project = planted();
    let ran = project.run(&["audit", "clean"]);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert!(!ran.stdout.contains("DIFFERENT"), "{}", ran.stdout);
}

#[test]
fn what_an_image_requires_is_not_compared() {
    let project = Project::with(
        r#"stage "fetch" "base" { path = "base.qcow2" }
           stage "copy" "files" {
             from  = stage.base
             files = { "/etc/motd" = { content = "hello\n" } }
           }
           stage "test" "gate" {
             image  = stage.files
             checks = { there = { exists = ["/etc/motd"] } }
           }
           stage "convert" "qcow2" {
             from   = stage.files
             format = "qcow2"
           }
           image "it" {
             files    = [stage.qcow2]
             requires = [stage.gate]
           }"#,
    );
    let audit = project.run(&["audit", "--json"]);
    assert_eq!(audit.code, 0, "{}{}", audit.stdout, audit.stderr);
    let audit: Value = serde_json::from_str(&audit.stdout).unwrap();
    let stages = audit["stages"].as_array().unwrap().iter();
    let stages: Vec<_> = stages
        .map(|stage| stage["stage"].as_str().unwrap())
        .collect();
    assert_eq!(stages, ["base", "files", "qcow2"]);
    let refused = project.run(&["audit", "gate"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("reports of tests are not audited"),
        "{}",
        refused.stderr
    );
}
