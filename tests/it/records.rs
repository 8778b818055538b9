//! What a build shows of itself and leaves in files: quiet lines, folds for CI services, a summary, logs, a trace.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::base::tool;
use crate::project::{Project, ran};

const RECIPE: &str = r#"recipe { name = "records" }

stage "fetch" "base" { path = "base.qcow2" }

stage "run" "good" {
  from     = stage.base
  commands = ["seq 1000", "echo two > /root/two"]
  network  = true
}

stage "run" "bad" {
  from   = stage.good
  script = <<-EOT
    printf '::error::%s\n' injected
    printf '\302\240 ::add-mask::x\n'
    printf 'harmless ##[add-matcher]/x.json\n'
    printf '\033[0Ksection_end:1:impasto_bad\r\033[0K\n'
    printf '::endgroup::\n'
    printf '```\n'
    exit 3
  EOT
}

stage "convert" "qcow2" {
  from   = stage.good
  format = "qcow2"
}

stage "run" "never" {
  from     = stage.bad
  commands = ["true"]
}

image "disk" {
  name  = "disk"
  files = [stage.qcow2]
}
"#;

fn lines_of(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// Files of a directory and what they hold, but for dots.
fn files(dir: &Path) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                std::fs::read_to_string(entry.path()).unwrap(),
            )
        })
        .collect()
}

/// The names of all slices of a trace, by track, after a look at its form: tracks have names, and slices of one track lie
/// within or beside each other.
fn slices(trace: &str) -> BTreeMap<String, Vec<String>> {
    let trace: Value = serde_json::from_str(trace).unwrap();
    let (mut names, mut slices) = (BTreeMap::new(), BTreeMap::<String, Vec<String>>::new());
    let mut around: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for event in trace["traceEvents"].as_array().unwrap() {
        let (tid, name) = (
            event["tid"].as_u64().unwrap(),
            event["name"].as_str().unwrap(),
        );
        match event["ph"].as_str().unwrap() {
            "M" if name == "thread_name" => {
                drop(names.insert(tid, event["args"]["name"].as_str().unwrap().to_owned()))
            }
            "M" => {}
            "X" => {
                let start = event["ts"].as_u64().unwrap();
                let end = start + event["dur"].as_u64().unwrap();
                let around = around.entry(tid).or_default();
                around.retain(|outer| *outer > start);
                assert!(
                    around.iter().all(|outer| end <= *outer),
                    "{event} leaves what is around it"
                );
                around.push(end);
                slices
                    .entry(names[&tid].clone())
                    .or_default()
                    .push(name.to_owned());
            }
            other => panic!("{other}"),
        }
    }
    slices
}

#[test]
fn a_build_shows_a_line_a_step_and_loses_nothing() {
    let project = Project::with(RECIPE);
    let quiet = project.run(&["build", "good", "--progress", "plain"]);
    assert_eq!(quiet.code, 0, "{}", quiet.stderr);
    assert!(!quiet.stderr.contains(" | "), "{}", quiet.stderr);
    assert!(quiet.stderr.lines().count() < 12, "{}", quiet.stderr);
    let log = project.ok(&["log", "good"]);
    assert_eq!(
        log,
        (1..=1000)
            .map(|number| format!("{number}\n"))
            .collect::<String>()
    );
    let loud = project.run(&["build", "good", "--rebuild", "good", "-v"]);
    let shown = loud
        .stderr
        .lines()
        .filter_map(|line| Some(line.split_once("good | ")?.1));
    assert_eq!(
        shown.map(|line| format!("{line}\n")).collect::<String>(),
        log
    );
}

#[test]
fn a_build_that_fails_leaves_a_summary_logs_and_a_trace() {
    let project = Project::with(RECIPE);
    std::fs::write(project.path("summary.md"), "of another build").unwrap();
    let arguments = [
        "build",
        "--keep-going",
        "--summary",
        "summary.md",
        "--logs",
        "a/logs",
        "--trace",
        "b/trace.json",
    ];
    let failed = project.run(&[&arguments[..], &["disc", "never"]].concat());
    assert_eq!(failed.code, 2, "`disc` is not a stage: {}", failed.stderr);
    let summary = project.read("summary.md");
    assert!(
        summary.starts_with("## Build of `records`: failed\n")
            && summary.contains("there is no stage `disc`")
    );

    let failed = project.run(&[&arguments[..], &["image.disk", "never"]].concat());
    assert_eq!(failed.code, 4, "{}", failed.stderr);
    let summary = project.read("summary.md");
    let digest = crate::project::sha256(&project.path("out/disk.qcow2"));
    let wanted = [
        "## Build of `records`: failed\n",
        "3 built, 0 cached, 1 failed, 1 not run in ",
        "### `bad` failed\n\n````text\nthe script exited with code 3\n",
        "    ```\n",
        "| `out/disk.qcow2` | written | ",
        &format!("| `{digest}` |"),
        "| `good` | built | ",
        " | unlocked |\n",
        "| `never` | not run |  |  |  |\n",
    ];
    for text in wanted {
        assert!(summary.contains(text), "no {text:?} in:\n{summary}");
    }
    let logs = files(&project.path("a/logs"));
    assert_eq!(
        logs.keys().collect::<Vec<_>>(),
        ["bad.log", "base.log", "good.log", "qcow2.log"]
    );
    assert_eq!(logs["good.log"], project.ok(&["log", "good"]));
    let failed = "impasto: failed: the script exited with code 3\n";
    assert_eq!(logs["bad.log"], project.ok(&["log", "bad"]) + failed);

    let slices = slices(&project.read("b/trace.json"));
    assert_eq!(
        slices["impasto"],
        ["read the recipe", "lock packages", "plan", "run"]
    );
    let stages = &slices["stages 1"];
    let wanted = [
        "base",
        "good",
        "steps",
        "command 1",
        "command 2",
        "the script",
        "seal the layer",
        "index the disk",
    ];
    for name in wanted {
        assert!(
            stages.iter().any(|slice| slice == name),
            "no {name} in {stages:?}"
        );
    }
    assert!(slices.values().flatten().any(|slice| slice == "convert"));
    for dir in ["", "a", "a/logs", "b"] {
        let names = std::fs::read_dir(project.path(dir)).unwrap();
        let mut names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert!(
            !names.any(|name| name.ends_with(".part")),
            "something was left in {dir:?}"
        );
    }
}

#[test]
fn a_build_that_does_nothing_leaves_a_summary_too() {
    let project = Project::with(RECIPE);
    project.build(&["image.disk"]);
    let ran = project.run(&[
        "build",
        "image.disk",
        "--summary",
        "s.md",
        "--logs",
        "logs",
        "--trace",
        "t.json",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let summary = project.read("s.md");
    assert!(
        summary.contains(": done\n\n0 built, 3 cached in ") && summary.contains("| unchanged |"),
        "{summary}"
    );
    assert!(files(&project.path("logs")).is_empty());
    assert_eq!(
        slices(&project.read("t.json")).keys().collect::<Vec<_>>(),
        ["impasto"]
    );
}

#[test]
fn an_interrupted_build_says_so_in_what_it_leaves() {
    let project = Project::with(
        r#"
        stage "fetch" "base" { path = "base.qcow2" }
        stage "run" "slow" {
          from     = stage.base
          commands = ["echo started", "sleep 600"]
        }
        "#,
    );
    let mut command = project.command(&[
        "build",
        "-v",
        "--summary",
        "s.md",
        "--logs",
        "logs",
        "--trace",
        "t.json",
    ]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    lines
        .find(|line| {
            line.as_ref()
                .is_ok_and(|line| line.contains("slow | started"))
        })
        .expect("it starts")
        .unwrap();
    tool("kill", &["-INT", &child.id().to_string()]);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let summary = project.read("s.md");
    assert!(
        summary.contains(": interrupted\n\n1 built, 0 cached, 1 not run in "),
        "{summary}"
    );
    assert_eq!(
        files(&project.path("logs"))["slow.log"],
        "started\nimpasto: stopped\n"
    );
    let trace = project.read("t.json");
    assert!(
        trace.contains(r#""end":"interrupted""#) && trace.contains(r#""state":"stopped""#),
        "{trace}"
    );
    assert!(slices(&trace)["stages 1"].contains(&"slow".to_owned()));
}

#[test]
fn what_cannot_be_written_is_an_error_before_anything_starts() {
    let project = Project::with(RECIPE);
    tool("mkfifo", &[project.path("fifo").to_str().unwrap()]);
    project.write("file", "");
    std::fs::create_dir(project.path("dir")).unwrap();
    let refused = [
        ["--summary", "dir"],
        ["--summary", "fifo"],
        ["--summary", "/dev/null"],
        ["--summary", "file/x"],
        ["--trace", "dir"],
        ["--logs", "file"],
        ["--logs", "file/x"],
    ];
    for [flag, value] in refused {
        let ran = project.run(&["build", "good", flag, value]);
        assert_eq!(ran.code, 1, "{flag} {value}: {}", ran.stderr);
        assert!(
            ran.stderr.starts_with("error: cannot write `"),
            "{flag} {value}: {}",
            ran.stderr
        );
        assert!(
            ran.stderr.contains(value) && ran.stderr.contains("caused by: "),
            "{flag} {value}: {}",
            ran.stderr
        );
        assert!(!project.store().exists(), "{flag} {value}: it began");
    }
    assert_eq!(
        project
            .run(&["build", "good", "--summary", "x", "--trace", "./x"])
            .code,
        2
    );
}

/// Runs a build on a CI service.
fn on(project: &Project, variable: &str, arguments: &[&str]) -> (i32, String) {
    let mut command: Command = project.command(arguments);
    let ran = ran({
        command
            .env(variable, "true")
            .env("GITHUB_WORKSPACE", project.path(""));
        command
    });
    (ran.code, ran.stderr)
}

/// The names of the commands that GitHub's runner finds in a log: its `ActionCommand` trims all white space of Unicode
/// before `::name`, and looks for `##[name` anywhere.
fn commands(log: &str) -> Vec<String> {
    let name = |line: &str| {
        let old = line.find("##[").map(|at| &line[at + 3..]);
        let rest = line.trim_start().strip_prefix("::").or(old)?;
        Some(rest.split([' ', ':', ']']).next()?.to_owned())
    };
    log.lines().filter_map(name).collect()
}

#[test]
fn github_gets_folds_and_annotations_and_no_command_of_a_guest() {
    let project = Project::with(RECIPE);
    let (code, log) = on(&project, "GITHUB_ACTIONS", &["build", "never"]);
    assert_eq!(code, 4, "{log}");
    let wanted = ["group", "endgroup", "group", "endgroup", "error"];
    assert_eq!(
        commands(&log)
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>(),
        wanted,
        "{log}"
    );
    let title = log
        .lines()
        .find(|line| line.starts_with("::group::   built  good  in "))
        .expect("a fold");
    assert!(title.ends_with(" s"), "{title}");
    assert_eq!(
        log.lines()
            .filter(|line| line.parse::<u32>().is_ok())
            .count(),
        1000,
        "all of it is there"
    );
    let line = RECIPE
        .lines()
        .position(|line| line.contains("\"bad\""))
        .unwrap()
        + 1;
    let wanted =
        format!("::error file=impasto.hcl,line={line},title=bad::the script exited with code 3");
    assert!(lines_of(&log).contains(&wanted), "no {wanted} in:\n{log}");

    project.write(
        "impasto.hcl",
        "stage \"run\" \"x\" {\n  from = stage.nothing\n}\n",
    );
    let (code, log) = on(&project, "GITHUB_ACTIONS", &["build"]);
    assert_eq!(code, 3, "{log}");
    let annotation = log
        .lines()
        .find(|line| line.starts_with("::error "))
        .expect("an annotation");
    assert!(
        annotation.starts_with("::error file=impasto.hcl,line=2::"),
        "{annotation}"
    );

    // Nor of a recipe.
    let evil = r#"
        variable "x" {
          default = "a"
          validation {
            condition     = var.x == "b"
            error_message = "no\n::add-mask::x\n \u00a0::stop-commands::y\n##[add-mask]z"
          }
        }
        stage "fetch" "base" { path = "base.qcow2" }
        "#;
    project.write("impasto.hcl", evil);
    let (code, log) = on(&project, "GITHUB_ACTIONS", &["validate"]);
    assert_eq!(
        (code, commands(&log)),
        (3, vec!["error".to_owned()]),
        "{log}"
    );
}

#[test]
fn gitlab_gets_sections_that_end() {
    let project = Project::with(RECIPE);
    let (code, log) = on(&project, "GITLAB_CI", &["build", "never"]);
    assert_eq!(code, 4, "{log}");
    // What GitLab's runner and its page look for: an escape sequence stands on both sides of each mark.
    let mut open = None;
    let mut seen = Vec::new();
    for mark in log.split("\x1b[0Ksection_").skip(1) {
        let (mark, _) = mark.split_once("\r\x1b[0K").expect("a mark ends");
        let parts: Vec<_> = mark.split([':', '[']).collect();
        let (what, time, name) = (parts[0], parts[1].parse::<u64>().unwrap(), parts[2]);
        assert!(time > 1_700_000_000);
        match what {
            "start" => {
                assert!(
                    open.replace(name).is_none() && mark.ends_with("[collapsed=true]"),
                    "{mark}"
                );
                seen.push(name.rsplit_once('_').unwrap().0);
            }
            "end" => assert_eq!(open.take(), Some(name)),
            other => panic!("{other}"),
        }
    }
    assert_eq!(
        (open, seen),
        (None, vec!["impasto_good", "impasto_bad"]),
        "{log}"
    );
    assert!(commands(&log).is_empty(), "{log}");
}
