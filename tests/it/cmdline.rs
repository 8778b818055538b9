//! The command line as strangers use it: names, pipes, odd places, and what is said then.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::project::{Project, Ran, ran};
use crate::sandbox_disk::three_partitions;
use crate::site::Site;
use crate::vm::{quick, shows, spawn, talking_disk};

/// As `recipes/debian-12`, in small: an image of a converted disk and of a file that another stage wrote.
const RECIPE: &str = r#"
matrix { variant = ["small", "large"] }

stage "fetch" "base" { path = "base.qcow2" }

stage "run" "setup" {
  from     = stage.base
  commands = ["echo ${matrix.variant} > /etc/variant; echo said"]
}

stage "run" "versions" {
  from     = stage.setup
  commands = ["echo 1 > /tmp/v"]
  output   = { "version.txt" = "/tmp/v" }
}

stage "convert" "qcow2" {
  from   = stage.setup
  format = "qcow2"
}

image "web" {
  name  = "web-${matrix.variant}"
  files = [stage.qcow2, stage.versions.files["version.txt"]]
}
"#;

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
}

/// A command that is refused: its exit code and words.
fn refused(ran: Ran, code: i32, parts: &[&str]) {
    assert_eq!(ran.code, code, "{}{}", ran.stdout, ran.stderr);
    has(&ran.stderr, parts);
}

#[test]
fn an_image_means_the_disk_that_its_files_are_converted_from() {
    let project = Project::with(RECIPE);
    project.build(&[]);
    for image in [
        "image.web[variant=small]",
        "web[variant=small]",
        "web-small",
    ] {
        assert_eq!(
            project.in_guest(image, "cat /etc/variant"),
            "small\n",
            "{image}"
        );
        has(&project.ok(&["layer", "show", image]), &["layer "]);
    }
    let ran = project.run(&["diff", "image.web[variant=small]", "web-large"]);
    assert_eq!(ran.code, 10, "{}", ran.stderr);
    has(&ran.stdout, &["/etc/variant"]);
    let booted = [
        "boot",
        "web-small",
        "--network",
        "none",
        "--memory",
        "64MiB",
        "--timeout",
        "1s",
    ];
    refused(
        project.run(&booted),
        4,
        &["booting qcow2[variant=small]", "was still running after 1s"],
    );
    let several =
        "image.web names several disks: image.web[variant=small], image.web[variant=large]";
    for command in ["shell", "boot", "diff"] {
        refused(
            project.run(&[command, "image.web"]),
            2,
            &[several, "such as 'image.web[variant=small]'"],
        );
    }
    refused(
        project.run(&["build", "web[variant=smal]"]),
        2,
        &["values of `variant`: small, large"],
    );
    refused(
        project.run(&["build", "nothing"]),
        2,
        &["there is no stage `nothing`"],
    );
    for command in ["build", "plan", "shell", "boot", "diff"] {
        refused(project.run(&[command, ""]), 2, &["`` is not a selector"]);
    }
}

#[test]
fn an_earlier_run_of_one_combination_is_named_either_way() {
    let project = Project::with(RECIPE);
    project.build(&[]);
    project.write(
        "impasto.hcl",
        &RECIPE.replace("echo said", "echo more >> /etc/variant"),
    );
    project.build(&[]);
    for before in ["setup~1[variant=small]", "setup[variant=small]~1"] {
        let ran = project.run(&["diff", before, "setup[variant=small]"]);
        assert_eq!(ran.code, 10, "{}", ran.stderr);
        has(&ran.stdout, &["/etc/variant", "+more"]);
    }
    refused(
        project.run(&["diff", "setup~x[variant=small]"]),
        2,
        &["not a valid number of runs"],
    );
    refused(
        project.run(&["diff", "base", "setup", "versions"]),
        2,
        &["more than two disks"],
    );
    let list = project.ok(&["layer", "list"]);
    let dir = project
        .path("")
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .replace('.', "_");
    has(
        &list,
        &[
            "STAGE",
            "RECIPE",
            "setup[variant=small]",
            "setup~1[variant=small]",
            &dir,
        ],
    );
    assert!(
        list.lines()
            .skip(1)
            .all(|line| line.trim_end().ends_with(&dir)),
        "{list}"
    );
}

#[test]
fn a_log_without_a_selector_is_that_of_the_stage_that_failed_or_ran_last() {
    let project = Project::with(RECIPE);
    refused(
        project.run(&["log"]),
        1,
        &["there is no log of any stage of this recipe"],
    );
    project.build(&["setup", "--only", "variant=small"]);
    let ran = project.run(&["log"]);
    has(&ran.stderr, &["the log of setup", "which ran last"]);
    has(&ran.stdout, &["said"]);
    project.write(
        "impasto.hcl",
        &RECIPE.replace("echo 1 > /tmp/v", "echo wrong; exit 3"),
    );
    assert_eq!(project.run(&["build", "--only", "variant=small"]).code, 4);
    has(
        &project.ok(&["log", "setup", "versions", "--only", "variant=small"]),
        &["==> setup <==", "==> versions <=="],
    );
    let ran = project.run(&["log"]);
    has(&ran.stderr, &["the log of versions", "which failed"]);
    has(&ran.stdout, &["wrong"]);
}

/// A command whose reader has gone away.
fn unread(mut command: Command) -> Ran {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    ran({
        command.stdout(writer).stderr(Stdio::piped());
        command
    })
}

#[test]
fn output_that_nobody_reads_is_no_error_and_what_cannot_be_written_is_one() {
    let project = Project::with(RECIPE);
    project.build(&["--only", "variant=small"]);
    let commands: [&[&str]; 16] = [
        &["--help"],
        &["build", "--help"],
        &["-V"],
        &["help"],
        &["help", "selectors"],
        &["stages"],
        &["validate"],
        &["plan"],
        &["why"],
        &["log", "setup"],
        &["graph"],
        &["layer", "list"],
        &["diff", "base", "setup"],
        &["config"],
        &["completions", "bash"],
        &["build", "--progress", "json"],
    ];
    for arguments in commands {
        let only: &[&str] = match arguments[0] {
            "validate" | "plan" | "why" | "log" | "graph" | "diff" | "build" => {
                &["--only", "variant=small"]
            }
            _ => &[],
        };
        let all = [arguments, only].concat();
        let read = project.run(&all);
        let away = unread(project.command(&all));
        assert_eq!(away.code, read.code, "{arguments:?}: {}", away.stderr);
        assert!(
            !away.stderr.contains("error"),
            "{arguments:?}: {}",
            away.stderr
        );
        let mut full = project.command(&all);
        full.stdout(File::options().write(true).open("/dev/full").unwrap())
            .stderr(Stdio::piped());
        let full = ran(full);
        assert_eq!(full.code, 1, "{arguments:?}: {}", full.stderr);
        has(
            &full.stderr,
            &["cannot write standard output", "No space left on device"],
        );
    }
}

#[test]
fn without_an_image_only_what_was_converted_or_named_is_published() {
    let project = Project::with(RECIPE.split("image \"web\"").next().unwrap());
    let published = || {
        let mut names: Vec<_> = fs::read_dir(project.path("out"))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with(".sha256"))
            .collect();
        names.sort();
        names
    };
    project.build(&[]);
    assert_eq!(
        published(),
        ["qcow2[variant=large].qcow2", "qcow2[variant=small].qcow2"]
    );
}

#[test]
fn paths_of_other_file_systems_are_those_of_the_guest() {
    let project = Project::empty();
    fs::rename(
        three_partitions(&project.path(""), "gpt", true),
        project.path("three.qcow2"),
    )
    .unwrap();
    project.write(
        "impasto.hcl",
        r#"
stage "fetch" "base" { path = "three.qcow2" }

stage "copy" "mounts" {
  from  = stage.base
  files = { "/etc/fstab" = { content = "LABEL=data /srv ext4 defaults 0 2\nLABEL=ESP /boot/efi vfat umask=077 0 1\n" } }
}

stage "run" "site" {
  from     = stage.mounts
  commands = ["mkdir /srv/www; echo one > /srv/www/index.html; echo x > /etc/motd"]
}
"#,
    );
    project.build(&[]);
    let ran = project.run(&["diff", "site"]);
    assert_eq!(ran.code, 10, "{}", ran.stderr);
    has(&ran.stdout, &["+ /srv/www/: 1 file", "+ /etc/motd"]);
    assert!(!ran.stdout.contains("partition 1"), "{}", ran.stdout);
    has(
        &project.run(&["diff", "site", "--stat"]).stdout,
        &["/srv/www  "],
    );
    let json: Value =
        serde_json::from_str(&project.run(&["diff", "site", "--json"]).stdout).unwrap();
    assert_eq!(json["mounts"]["1"], "/srv");
    let file = json["files"]
        .as_array()
        .unwrap()
        .iter()
        .find(|file| file["path"] == "/srv/www/index.html")
        .unwrap();
    assert_eq!(file["partition"], 1);
    has(&project.ok(&["layer", "blame", "site"]), &["/srv/www"]);
}

/// A process that ends with its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_collector_works_beside_a_machine_that_runs() {
    let project = Project::with(r#"stage "fetch" "disk" { path = "talking.raw" }"#);
    talking_disk(&project.path(""));
    project.build(&[]);
    let (child, console) = spawn(quick(&project, "disk", &[]));
    let mut child = Ended(child);
    assert!(shows(&console, "written", Duration::from_secs(120)));
    // The layers go, also those that the machine stands on.
    fs::remove_dir_all(project.store().join("roots")).unwrap();
    fs::remove_dir_all(project.store().join("state")).unwrap();
    let said = project.ok(&["gc", "--min-age", "0s"]);
    assert!(
        said.starts_with("deleted ") && !said.starts_with("deleted 0 "),
        "{said}"
    );
    assert!(child.0.try_wait().unwrap().is_none(), "it still runs");
    crate::base::tool("kill", &["-s", "TERM", &child.0.id().to_string()]);
    assert_eq!(child.0.wait().unwrap().code(), Some(130));
}

#[test]
fn a_part_of_the_matrix_leaves_no_stale_entries_in_the_lock() {
    let site = Site::new();
    let stages = |large: &str| {
        let own = format!("install = matrix.variant == \"large\" ? [{large}] : [\"small\"]");
        let matrix = "matrix { variant = [\"small\", \"large\"] }\n".to_owned();
        site.recipe(
            &(matrix
                + &site.packages("own", "base", &own)
                + &site.packages("same", "base", "install = [\"program\"]")),
        );
    };
    let fresh = || {
        let kept = site.lock();
        let toolbox = kept.split("\n[[stage]]").next().unwrap().to_owned();
        fs::write(site.project.path("impasto.lock"), toolbox).unwrap();
        site.build(&[]).ok();
        let fresh = site.lock();
        fs::write(site.project.path("impasto.lock"), kept).unwrap();
        fresh
    };
    stages("\"unrelated\"");
    site.build(&["--only", "variant=small"]).ok();
    site.build(&[]).ok();
    assert_eq!(site.lock(), fresh(), "built in parts and as a whole");
    // Two combinations become one stage, whose entry for both is the first one's.
    stages("\"small\"");
    site.build(&["--only", "variant=small"]).ok();
    site.build(&[]).ok();
    assert_eq!(
        site.lock().matches("[[stage]]\nname = \"own\"").count(),
        1,
        "{}",
        site.lock()
    );
    let lock = site.lock();
    site.build(&["--locked"]).ok();
    site.build(&[]).ok();
    assert_eq!(site.lock(), lock);
}
