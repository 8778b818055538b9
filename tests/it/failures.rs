//! What goes wrong in a build: the exit code, what is kept, and what the user is told.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use crate::base::{base, tool};
use crate::project::{Counts, Project, ran};

const BASE: &str =
    "recipe {\n  name = \"it\"\n}\n\nstage \"fetch\" \"base\" { path = \"base.qcow2\" }\n";

#[test]
fn a_failing_script_is_not_cached_and_what_was_finished_stays() {
    let project = Project::with(&format!(
        r#"{BASE}
        stage "run" "good" {{
          from     = stage.base
          commands = ["echo good > /root/good"]
        }}
        stage "run" "bad" {{
          from   = stage.good
          script = <<-EOT
            echo made > /root/made
            for i in $(seq 30); do echo "line $i"; done
            exit 3
          EOT
        }}
        stage "run" "after" {{
          from     = stage.bad
          commands = ["true"]
        }}
        "#
    ));
    let first = project.run(&["build"]);
    assert_eq!(first.code, 4, "{}", first.stderr);
    let wanted = [
        "failed  bad  after ",
        ": the script exited with code 3\n",
        "bad | line 11\n",
        "bad | line 30\n",
        "help: full log: impasto log 'bad' --store ",
        "help: inspect it as it failed, where /run/impasto/again runs the step again: impasto shell 'bad' --store ",
        "stopped: 2 built, 0 cached, 1 failed, 1 not run in ",
    ];
    for text in wanted {
        assert!(
            first.stderr.contains(text),
            "no {text:?} in:\n{}",
            first.stderr
        );
    }
    let tail = first.stderr.split("its last lines:").nth(1).unwrap();
    assert!(
        !tail.contains("line 10\n"),
        "twenty lines are enough:\n{tail}"
    );
    let (code, counts) = project.try_build(&[]);
    assert_eq!(
        (code, counts),
        (
            4,
            Counts {
                built: 0,
                cached: 2,
                failed: 1,
                cancelled: 1
            }
        )
    );
    assert_eq!(project.ok(&["log", "bad"]).lines().count(), 30);
    assert_eq!(
        project.in_guest("bad", "cat /root/good /root/made"),
        "good\nmade\n",
        "the state in which it failed"
    );
    let plan = project.ok(&["plan"]);
    assert!(plan.contains("1 dirty, 1 pending, 2 cached"), "{plan}");
}

#[test]
fn keep_going_builds_what_does_not_need_the_failed_stage() {
    let project = Project::with(&format!(
        r#"{BASE}
        stage "run" "bad" {{
          from     = stage.base
          commands = ["exit 1"]
        }}
        stage "run" "child" {{
          from     = stage.bad
          commands = ["true"]
        }}
        stage "run" "other" {{
          from     = stage.base
          commands = ["sleep 0.3; echo other > /root/other"]
        }}
        stage "run" "last" {{
          from     = stage.other
          commands = ["true"]
        }}
        "#
    ));
    let (code, counts) = project.try_build(&["--keep-going", "--jobs", "1"]);
    assert_eq!(
        (code, counts),
        (
            4,
            Counts {
                built: 3,
                cached: 0,
                failed: 1,
                cancelled: 1
            }
        )
    );
    let (code, counts) = project.try_build(&["--jobs", "1"]);
    assert_eq!(
        (code, counts.cancelled),
        (4, 1),
        "without it, one job at a time: everything else is known"
    );
}

#[test]
fn a_stage_that_takes_too_long_is_stopped() {
    let project = Project::with(&format!(
        r#"{BASE}
        stage "run" "slow" {{
          from     = stage.base
          commands = ["sleep 600"]
          timeout  = "1s"
        }}
        "#
    ));
    let start = Instant::now();
    let ran = project.run(&["build"]);
    assert_eq!(ran.code, 4);
    assert!(
        ran.stderr
            .contains("it was stopped after its timeout of 1.0 s"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr
            .contains("help: if it needs longer, raise `timeout` in the stage"),
        "{}",
        ran.stderr
    );
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn an_interrupt_stops_the_build_and_keeps_what_is_finished() {
    let project = Project::with(&format!(
        r#"{BASE}
        stage "run" "slow" {{
          from     = stage.base
          commands = ["echo started", "sleep 600"]
        }}
        "#
    ));
    let mut command = project.command(&["build", "--verbose"]);
    let mut child = command
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let mut text = String::new();
    let mut byte = [0];
    while !text.contains("slow | started") {
        assert_eq!(stderr.read(&mut byte).unwrap(), 1, "it ended early: {text}");
        text.push(byte[0] as char);
    }
    tool("kill", &["-INT", &child.id().to_string()]);
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{:?}", status.signal());
    assert_eq!(
        std::fs::read_dir(project.store().join("tmp")).map_or(0, Iterator::count),
        0,
        "nothing is left"
    );
    assert_eq!(
        std::fs::read_dir(project.store().join("leases")).map_or(0, Iterator::count),
        0
    );
    let (_, counts) = project.try_build(&["base"]);
    assert_eq!(counts.cached, 1);
}

#[test]
fn an_output_that_is_not_there_is_named() {
    let project = Project::with(&format!(
        r#"{BASE}
        stage "run" "out" {{
          from     = stage.base
          commands = ["ln -s /etc/hosts /tmp/link"]
          output   = {{ "a" = "/tmp/link" }}
        }}
        "#
    ));
    let ran = project.run(&["build"]);
    assert_eq!(ran.code, 4);
    assert!(
        ran.stderr.contains("the output \"a\" cannot be copied out"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("/tmp/link"), "{}", ran.stderr);
}

#[test]
fn a_secret_is_in_memory_for_its_stage_and_nowhere_else() {
    let recipe = |version: u32| {
        format!(
            r#"{BASE}
        variable "token" {{
          type      = string
          sensitive = true
        }}
        stage "run" "use" {{
          from     = stage.base
          secrets  = {{ token = {{ value = var.token, version = {version} }} }}
          commands = [
            "cat /run/impasto/secrets/token",
            "base64 < /run/impasto/secrets/token",
            "test \"$(cat /run/impasto/secrets/token | wc -c)\" = 26",
            "grep -q ' /run tmpfs ' /proc/mounts",
          ]
        }}
        "#
        )
    };
    let project = Project::with(&recipe(1));
    let secret = "s3cr3t-Kanarienvogel-73519";
    let build = |secret: &str| {
        let mut command = project.command(&["build", "--progress", "json"]);
        command
            .env("IMPASTO_VAR_token", secret)
            .env("IMPASTO_LOG", "debug");
        ran(command)
    };
    let first = build(secret);
    assert_eq!(first.code, 0, "{}{}", first.stdout, first.stderr);
    assert!(first.stdout.contains("[secret]"), "{}", first.stdout);
    let mut searched = 0;
    let encodings = [
        secret.to_owned(),
        "czNjcjN0LUthbmFyaWVudm9nZWw".to_owned(),
        "73336372337".to_owned(),
    ];
    let clean = |what: &str, bytes: &[u8]| {
        for encoding in &encodings {
            let found = bytes
                .windows(encoding.len())
                .any(|window| window == encoding.as_bytes());
            assert!(!found, "{encoding} is in {what}");
        }
    };
    clean("the output", first.stdout.as_bytes());
    clean("the developer's log", first.stderr.as_bytes());
    for entry in walkdir::WalkDir::new(project.store()) {
        let entry = entry.unwrap();
        if entry.file_type().is_file() {
            searched += 1;
            clean(
                &entry.path().display().to_string(),
                &std::fs::read(entry.path()).unwrap(),
            );
        }
    }
    assert!(searched > 5);
    project.ok(&[
        "layer", "export", "use", "-o", "use.raw", "--var", "token=x",
    ]);
    clean("the disk", &std::fs::read(project.path("use.raw")).unwrap());
    // Another value of the same version is no other input; another version is.
    assert!(
        build("another-value-of-26-bytes-")
            .stdout
            .contains("\"built\":0")
    );
    project.write("impasto.hcl", &recipe(2));
    let why = project.ok(&["why", "use", "--var", "token=x"]);
    assert!(why.contains("secrets[\"token\"]: 1 → 2"), "{why}");
}

#[test]
fn what_goes_in_comes_out_with_equal_content() {
    // Raw and qcow2, partitioned and bare, and a file that is not a disk.
    let project = Project::new();
    std::fs::copy(&base().raw, project.path("disk.raw")).unwrap();
    std::fs::copy(&base().bare, project.path("bare.qcow2")).unwrap();
    project.write("notes.txt", "no disk\n");
    project.write(
        "impasto.hcl",
        r#"
        stage "fetch" "raw" { path = "disk.raw" }
        stage "fetch" "bare" { path = "bare.qcow2" }
        stage "fetch" "notes" { path = "notes.txt" }
        stage "convert" "a" {
          from   = stage.raw
          format = "qcow2"
        }
        stage "convert" "b" {
          from              = stage.bare
          format            = "qcow2"
          compression_level = 9
        }
        stage "run" "use" {
          from     = stage.bare
          inputs   = { "notes" = stage.notes, "image" = stage.a, "tree" = "tree" }
          commands = [
            "cp /run/impasto/inputs/notes /root/notes",
            "test $(head -c 3 /run/impasto/inputs/image) = QFI",
            "cp -a /run/impasto/inputs/tree /root/tree",
          ]
        }
        image "it" {
          name  = "it"
          files = [stage.a, stage.notes]
        }
        "#,
    );
    project.write("tree/sub/file", "deep\n");
    project.write("tree/run.sh", "#!/bin/sh\n");
    tool(
        "chmod",
        &["750", project.path("tree/run.sh").to_str().unwrap()],
    );
    project.build(&["b", "use", "image.it"]);
    let compare = |ours: &str, theirs: &std::path::Path| {
        tool(
            "qemu-img",
            &[
                "compare",
                "-q",
                project.path(ours).to_str().unwrap(),
                theirs.to_str().unwrap(),
            ],
        );
        tool(
            "qemu-img",
            &["check", "-q", project.path(ours).to_str().unwrap()],
        );
    };
    compare("out/it.qcow2", &base().raw);
    compare("out/b.qcow2", &base().bare);
    assert_eq!(project.read("out/it/notes"), "no disk\n");
    let seen = project.in_guest(
        "use",
        "cat /root/notes /root/tree/sub/file; stat -c %a /root/tree/run.sh",
    );
    assert_eq!(seen, "no disk\ndeep\n750\n");
}

#[test]
fn copies_land_with_owner_and_mode() {
    let project = Project::with(&format!(
        r#"{BASE}
        stage "copy" "files" {{
          from  = stage.base
          files = {{
            "/etc/app/app.conf" = "app.conf"
            "/opt/app"          = {{ source = "app", owner = "builder:builder" }}
            "/etc/motd"         = {{ content = "hello\n", mode = "0600", owner = "1000:0" }}
          }}
        }}
        "#
    ));
    project.write("app.conf", "x = 1\n");
    project.write("app/bin/run", "#!/bin/sh\n");
    project.build(&[]);
    let line = "cat /etc/app/app.conf /etc/motd; stat -c '%n %a %u:%g' /etc/app/app.conf /opt/app/bin/run /etc/motd";
    let seen = project.in_guest("files", line);
    let expected = "x = 1\nhello\n/etc/app/app.conf 644 0:0\n/opt/app/bin/run 644 1000:1000\n/etc/motd 600 1000:0\n";
    assert_eq!(seen, expected);
    project.write("app/bin/run", "#!/bin/sh\necho changed\n");
    let why = project.ok(&["why", "files"]);
    assert!(why.contains("app: bin/run changed"), "{why}");
}

#[test]
fn no_root_is_said_with_the_candidates() {
    let project = Project::with(
        r#"stage "fetch" "base" {
          path = "base.qcow2"
          root = 7
        }
        stage "run" "it" {
          from     = stage.base
          commands = ["true"]
        }
        "#,
    );
    let ran = project.run(&["build"]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(ran.stderr.contains("no root file system"), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("help: select one with `root`"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_lost_layer_below_a_converted_file_is_made_again() {
    let recipe = |word: &str| {
        format!(
            r#"{BASE}
        stage "run" "one" {{
          from     = stage.base
          commands = ["echo one > /root/one"]
        }}
        stage "convert" "disk" {{
          from   = stage.one
          format = "qcow2"
        }}
        stage "run" "two" {{
          from     = stage.base
          inputs   = {{ "image" = stage.disk }}
          commands = ["head -c 3 /run/impasto/inputs/image > /root/{word}"]
        }}
        stage "run" "three" {{
          from     = stage.one
          commands = ["echo {word} > /root/three"]
        }}
        "#
        )
    };
    let project = Project::with(&recipe("a"));
    project.build(&[]);
    let layer = project.ok(&["why", "one"]);
    let disk = layer
        .lines()
        .find_map(|line| line.trim().strip_prefix("disk:"))
        .unwrap()
        .trim();
    let (disk, _) = disk.split_once(' ').unwrap();
    let dir = walkdir::WalkDir::new(project.store().join("disks"))
        .into_iter()
        .flatten();
    let dir = dir
        .into_iter()
        .find(|entry| entry.file_name().to_str().unwrap().starts_with(disk))
        .unwrap();
    std::fs::remove_dir_all(dir.path()).unwrap();
    // Two stages find the same loss, one of them through a file that is not kept.
    project.write("impasto.hcl", &recipe("b"));
    // The stage writes the same bytes again, so what was converted is the same as well.
    assert_eq!(project.build(&[]).0, 3, "one, and the two that were edited");
    assert_eq!(project.in_guest("two", "cat /root/b"), "QFI");
    assert_eq!(
        project.in_guest("three", "cat /root/one /root/three"),
        "one\nb\n"
    );
    assert_eq!(project.build(&[]), (0, 5));
}

#[test]
fn what_is_built_on_an_unlocked_result_is_unlocked_too() {
    let recipe = |network: bool| {
        format!(
            r#"{BASE}
        stage "run" "a" {{
          from     = stage.base
          network  = {network}
          commands = ["echo a > /tmp/a"]
          output   = {{ "a" = "/tmp/a" }}
        }}
        stage "run" "child" {{
          from     = stage.base
          inputs   = {{ "a" = stage.a.files["a"] }}
          commands = ["cat /run/impasto/inputs/a > /root/a"]
        }}
        "#
        )
    };
    let project = Project::with(&recipe(false));
    project.build(&[]);
    assert!(!project.ok(&["why", "child"]).contains("unlocked"));
    project.write("impasto.hcl", &recipe(true));
    assert_eq!(project.build(&[]), (1, 2), "the same file");
    assert!(project.ok(&["why", "a"]).contains("with:  unlocked"));
    assert!(
        project.ok(&["why", "child"]).contains("with:  unlocked"),
        "equal content launders nothing"
    );
}
