//! What the command line makes of a store that is damaged, foreign, full or read-only.

use std::process::Command;

use crate::base::tool;
use crate::project::{Project, ran, sha256};

const RECIPE: &str = r#"
stage "fetch" "base" { path = "base.qcow2" }
stage "run" "a" {
  from     = stage.base
  commands = ["echo a > /root/a"]
  output   = { "a.txt" = "/root/a" }
}
stage "run" "b" {
  from     = stage.a
  commands = ["echo b > /root/b"]
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

/// The store's files that a predicate picks, sorted.
fn files(project: &Project, pick: impl Fn(&str) -> bool) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(project.store()).sort_by_file_name() {
        let entry = entry.unwrap();
        let name = entry
            .path()
            .strip_prefix(project.store())
            .unwrap()
            .display()
            .to_string();
        if entry.file_type().is_file() && pick(&name) {
            found.push(entry.into_path());
        }
    }
    found
}

#[test]
fn a_damaged_file_is_made_again_with_one_warning_and_verify_names_it() {
    let project = Project::with(RECIPE);
    project.build(&[]);
    let recipe = project.read("impasto.hcl");
    let good_store = project.path("good-store");
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let _ = std::fs::remove_dir_all(to);
        tool("cp", &["-a", from.to_str().unwrap(), to.to_str().unwrap()]);
    };
    copy(&project.store(), &good_store);
    // Layers, manifests, blobs and their records, claims, the caches of `state/`, and the root.
    let objects = ["disks/", "blobs/", "claims/", "state/", "roots/"];
    let names = files(&project, |name| {
        objects.iter().any(|kind| name.starts_with(kind)) && !name.starts_with("state/logs")
    });
    assert!(names.len() > 12, "{names:?}");
    for path in names {
        let name = path
            .strip_prefix(project.store())
            .unwrap()
            .display()
            .to_string();
        let good = std::fs::read(&path).unwrap();
        for at in [9.min(good.len() - 1), good.len() / 2, good.len() - 1] {
            copy(&good_store, &project.store());
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            let found = project.run(&["store", "verify", "--json"]);
            assert_eq!(found.code, 5, "{name} at {at}: {}", found.stdout);
            assert!(
                found.stdout.contains(&name),
                "{name} is not in {}",
                found.stdout
            );
            // The next build that reads it, and the one after, give the right image.
            for word in ["c", "b"] {
                project.write(
                    "impasto.hcl",
                    &recipe.replace("echo b >", &format!("echo {word} >")),
                );
                std::fs::remove_dir_all(project.path("out")).unwrap();
                let build = project.run(&["build"]);
                assert_eq!(build.code, 0, "{name} at {at}: {}", build.stderr);
                let warnings = build
                    .stderr
                    .lines()
                    .filter(|line| line.contains("warning"))
                    .count();
                assert!(warnings <= 1, "{}", build.stderr);
                assert_eq!(
                    project.in_guest("b", "cat /root/a /root/b"),
                    format!("a\n{word}\n"),
                    "{name} at {at}"
                );
                assert_eq!(project.read("out/it/a.txt"), "a\n");
                // Bytes that ran again may differ, what is said of them may not.
                let sum = project.read("out/it.qcow2.sha256");
                assert_eq!(
                    sum.split(' ').next().unwrap(),
                    sha256(&project.path("out/it.qcow2"))
                );
            }
            project.run(&["store", "verify", "--repair"]);
            assert_eq!(project.run(&["store", "verify"]).code, 0, "{name} at {at}");
        }
    }
}

#[test]
fn a_damaged_format_is_served_by_its_copies_until_none_is_left() {
    let project = Project::with(RECIPE);
    project.build(&[]);
    let path = project.store().join("format");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[3] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(project.build(&[]), (0, 4));
    let verify = project.run(&["store", "verify"]);
    assert_eq!(verify.code, 5);
    assert!(
        verify.stdout.contains("format-copy-damaged"),
        "{}",
        verify.stdout
    );
    std::fs::write(&path, vec![b'x'; bytes.len()]).unwrap();
    let build = project.run(&["build"]);
    assert_eq!(build.code, 5);
    assert!(
        build.stderr.contains("none of its three copies is valid"),
        "{}",
        build.stderr
    );
    assert!(
        build.stderr.contains("help: remove the store (rm -r "),
        "{}",
        build.stderr
    );
    let again = format!(
        "`impasto store verify --repair --new-format --store {}`",
        project.store().display()
    );
    assert!(build.stderr.contains(&again), "{}", build.stderr);
    assert_eq!(
        project.run(&["store", "verify", "--new-format"]).code,
        2,
        "a request of its own"
    );
    project.ok(&["store", "verify", "--repair", "--new-format"]);
    assert_eq!(project.build(&[]), (0, 4));
    std::fs::remove_file(&path).unwrap();
    let build = project.run(&["build"]);
    assert_eq!(build.code, 5);
    assert!(
        build.stderr.contains("has lost its file `format`") && build.stderr.contains(&again),
        "{}",
        build.stderr
    );
    project.ok(&["store", "verify", "--repair", "--new-format"]);
    assert_eq!(project.build(&[]), (0, 4));
}

#[test]
fn what_is_not_a_regular_file_is_made_again_with_one_warning_and_collected_around() {
    let project = Project::with(RECIPE);
    project.build(&[]);
    let recipe = project.read("impasto.hcl");
    let names = files(&project, |name| {
        ["disks/", "blobs/", "claims/", "state/index"]
            .iter()
            .any(|top| name.starts_with(top))
    });
    let directories =
        ["claims", "disks", "blobs", "state", "tmp"].map(|name| project.store().join(name));
    for (word, path) in names.iter().chain(&directories).enumerate() {
        if !path.exists() {
            // What an edit before made superfluous.
            continue;
        }
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
        tool("mkfifo", &[path.to_str().unwrap()]);
        let name = path
            .strip_prefix(project.store())
            .unwrap()
            .display()
            .to_string();
        let found = project.run(&["store", "verify", "--json"]);
        assert_eq!(found.code, 5, "{name}: {}", found.stdout);
        assert!(
            found.stdout.contains(&format!("{name}\"")),
            "{name} is not in {}",
            found.stdout
        );
        // It neither waits nor deletes what is needed.
        project.run(&["gc"]);
        project.write(
            "impasto.hcl",
            &recipe.replace("echo b >", &format!("echo {word} >")),
        );
        let build = project.run(&["build"]);
        assert_eq!(build.code, 0, "{name}: {}", build.stderr);
        let warnings = build
            .stderr
            .lines()
            .filter(|line| line.contains("warning"))
            .count();
        assert!(warnings <= 1, "{name}: {}", build.stderr);
        assert_eq!(
            project.in_guest("b", "cat /root/a /root/b"),
            format!("a\n{word}\n"),
            "{name}"
        );
        project.run(&["store", "verify", "--repair"]);
        assert_eq!(project.run(&["store", "verify"]).code, 0, "{name}");
    }
}

#[test]
fn a_directory_that_is_no_store_is_left_alone() {
    let project = Project::with(RECIPE);
    project.write("store/letter.txt", "dear\n");
    let build = project.run(&["build"]);
    assert_eq!(build.code, 5);
    assert!(build.stderr.contains("is not a store"), "{}", build.stderr);
    assert_eq!(std::fs::read_dir(project.store()).unwrap().count(), 1);
}

#[test]
fn a_full_disk_is_named_with_the_way_out() {
    let project = Project::with(RECIPE);
    std::fs::create_dir(project.store()).unwrap();
    let mount = Mount::tmpfs(&project, "size=3m");
    let build = project.run(&["build"]);
    assert_ne!(build.code, 0);
    assert!(build.stderr.contains("no space for"), "{}", build.stderr);
    assert!(
        build.stderr.contains("help: free some space"),
        "{}",
        build.stderr
    );
    mount.remount("size=200m");
    assert_eq!(project.build(&[]), (4, 0), "with space it goes on");
}

#[test]
fn a_read_only_store_is_named_with_the_way_out() {
    let project = Project::with(RECIPE);
    std::fs::create_dir(project.store()).unwrap();
    let mount = Mount::tmpfs(&project, "size=200m");
    project.build(&[]);
    mount.remount("ro");
    assert_eq!(project.build(&[]), (0, 4), "what is known needs no writing");
    let recipe = project.read("impasto.hcl");
    project.write("impasto.hcl", &recipe.replace("echo b", "echo c"));
    let build = project.run(&["build"]);
    assert_eq!(build.code, 1, "{}", build.stderr);
    assert!(
        build.stderr.contains("the store is read-only"),
        "{}",
        build.stderr
    );
    assert!(
        build
            .stderr
            .contains("help: choose a store that you may write to with --store"),
        "{}",
        build.stderr
    );
}

#[test]
fn a_missing_host_tool_is_named_with_the_way_out() {
    let project = Project::with(RECIPE);
    let empty = project.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let mut command = project.command(&["build"]);
    let build = ran({
        command.env("PATH", &empty);
        command
    });
    assert_eq!(build.code, 4, "{}", build.stderr);
    assert!(
        build.stderr.contains("qemu-storage-daemon"),
        "{}",
        build.stderr
    );
    assert!(
        build
            .stderr
            .contains("help: `impasto doctor` shows what is missing"),
        "{}",
        build.stderr
    );
    let mut doctor = project.command(&["doctor"]);
    doctor.env("PATH", &empty);
    let doctor = ran(doctor);
    assert_eq!(doctor.code, 1);
    assert!(
        doctor.stdout.contains("help: apt-get install"),
        "{}",
        doctor.stdout
    );
}

#[test]
fn the_collector_keeps_what_the_last_builds_need() {
    let project = Project::with(RECIPE);
    project.build(&[]);
    let recipe = project.read("impasto.hcl");
    project.write("impasto.hcl", &recipe.replace("echo b", "echo c"));
    project.build(&[]);
    let plenty = project.ok(&["gc", "--keep", "2", "--min-age", "0s"]);
    assert!(plenty.starts_with("deleted 0 objects"), "{plenty}");
    project.write("impasto.hcl", &recipe);
    assert_eq!(project.build(&[]), (0, 4), "the one before is there");
    // The last results are those that were found last.
    let one = project.ok(&["gc"]);
    assert!(!one.starts_with("deleted 0 objects"), "{one}");
    assert_eq!(project.build(&[]), (0, 4));
    project.write("impasto.hcl", &recipe.replace("echo b", "echo c"));
    assert_eq!(
        project.build(&[]),
        (2, 2),
        "what was collected is built again"
    );
    assert_eq!(project.run(&["store", "verify"]).code, 0);
}

/// A file system on the project's store, for as long as it lives.
struct Mount(String);

impl Mount {
    fn tmpfs(project: &Project, options: &str) -> Self {
        let at = project.store().display().to_string();
        tool(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                &format!("{options},mode=700"),
                "tmpfs",
                &at,
            ],
        );
        Mount(at)
    }

    fn remount(&self, options: &str) {
        tool("mount", &["-o", &format!("remount,{options}"), &self.0]);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", &self.0]).status();
    }
}
