//! A chain of stages: what runs again after which change, and how it is explained.

use crate::base::tool;
use crate::project::{Counts, Project, sha256};

/// A fetch, ten runs, a convert: each run appends a line and step 5 reads a script's file.
fn chain() -> Project {
    let mut recipe = String::from(
        "recipe {\n  name = \"chain\"\n}\n\nstage \"fetch\" \"base\" {\n  path = \"base.qcow2\"\n}\n",
    );
    let mut before = "base".to_owned();
    for step in 1..=10 {
        let body = match step {
            5 => "script = file(\"scripts/five.sh\")".to_owned(),
            _ => format!("commands = [\"echo step {step} >> /root/steps\"]"),
        };
        recipe +=
            &format!("\nstage \"run\" \"s{step}\" {{\n  from     = stage.{before}\n  {body}\n}}\n");
        before = format!("s{step}");
    }
    recipe += "\nstage \"convert\" \"qcow2\" {\n  from   = stage.s10\n  format = \"qcow2\"\n}\n";
    recipe += "\nimage \"chain\" {\n  name  = \"chain\"\n  files = [stage.qcow2]\n}\n";
    let project = Project::with(&recipe);
    project.write(
        "scripts/five.sh",
        "# the fifth\necho step 5 >> /root/steps\ntrue\n",
    );
    project
}

#[test]
fn only_what_a_change_touches_runs_again() {
    let project = chain();
    assert_eq!(project.build(&[]), (12, 0), "cold");
    let image = project.path("out/chain.qcow2");
    let first = sha256(&image);
    let line = project.read("out/chain.qcow2.sha256");
    assert_eq!(line, format!("{first}  chain.qcow2\n"));
    tool("qemu-img", &["check", "-q", image.to_str().unwrap()]);
    assert_eq!(project.build(&[]), (0, 12), "no-op");
    let steps: String = (1..=10).map(|step| format!("step {step}\n")).collect();
    assert_eq!(project.in_guest("s10", "cat /root/steps"), steps);

    // In the middle: only what follows.
    let recipe = project.read("impasto.hcl");
    project.write("impasto.hcl", &recipe.replace("echo step 8", "echo STEP 8"));
    let plan = project.ok(&["plan"]);
    assert!(
        plan.contains("command 1: \"echo step 8 >> /root/steps\" → \"echo STEP 8 >> /root/steps\""),
        "{plan}"
    );
    assert!(plan.contains("waits for s8"), "{plan}");
    assert_eq!(project.build(&[]), (4, 8), "edit of the eighth");
    assert_ne!(sha256(&image), first);

    // Back: everything is known, and the file is what it was.
    project.write("impasto.hcl", &recipe);
    assert_eq!(project.build(&[]), (0, 12), "back");
    assert_eq!(sha256(&image), first, "same disk, same bytes");

    // A comment, and a file that was touched but not changed.
    project.write("impasto.hcl", &format!("# a comment\n{recipe}"));
    assert_eq!(project.build(&[]), (0, 12), "comment");
    project.write("scripts/five.sh", &project.read("scripts/five.sh"));
    assert_eq!(project.build(&[]), (0, 12), "touched");

    // A file that a `file()` reads.
    project.write(
        "scripts/five.sh",
        "# the fifth\necho step five >> /root/steps\ntrue\n",
    );
    let why = project.ok(&["why", "s5"]);
    assert_eq!(
        why,
        "s5 (run) is dirty, because since its last run:\n  script: line 2 changed (scripts/five.sh:2)\n"
    );
    let why = project.ok(&["why", "s7"]);
    assert!(
        why.starts_with("s7 (run) is pending: it depends on s6, which depends on s5\n"),
        "{why}"
    );
    assert_eq!(project.build(&[]), (7, 5));

    // A lost output is written again without running a stage.
    std::fs::remove_file(&image).unwrap();
    assert_eq!(project.build(&[]), (0, 12), "written again");
    assert!(image.exists());
    assert_eq!(
        project.ok(&["store", "verify"]).lines().count(),
        1,
        "no findings"
    );
}

#[test]
fn again_runs_a_clean_stage_and_stops_where_the_content_is_equal() {
    let project = Project::with(
        r#"
        stage "fetch" "base" { path = "base.qcow2" }
        stage "run" "a" {
          from     = stage.base
          commands = ["head -c 4 /dev/urandom > /tmp/r", "cat /tmp/r > /dev/null"]
          output   = { "fixed" = "/etc/hosts" }
        }
        stage "run" "b" {
          from     = stage.base
          inputs   = { "hosts" = stage.a.files["fixed"] }
          commands = ["cp /run/impasto/inputs/hosts /etc/hosts.copy"]
        }
        "#,
    );
    assert_eq!(project.build(&[]), (3, 0));
    let (code, counts) = project.try_build(&["--again", "a"]);
    assert_eq!(
        (code, counts),
        (
            0,
            Counts {
                built: 1,
                cached: 2,
                failed: 0,
                cancelled: 0
            }
        ),
        "b's input is as before"
    );
    assert_eq!(project.build(&[]), (0, 3));
}

#[test]
fn the_matrix_shares_what_is_equal() {
    let project = Project::with(
        r#"
        matrix { variant = ["minimal", "debug"] }
        stage "fetch" "base" { path = "base.qcow2" }
        stage "run" "common" {
          from     = stage.base
          commands = ["echo common > /root/common"]
        }
        stage "run" "own" {
          from     = stage.common
          commands = ["echo ${matrix.variant} > /root/variant"]
        }
        stage "convert" "raw" {
          from   = stage.own
          format = "raw"
        }
        image "it" {
          name  = "it-${matrix.variant}"
          files = [stage.raw]
        }
        "#,
    );
    assert_eq!(project.build(&["--only", "variant=debug"]), (4, 0));
    assert_eq!(
        project.build(&[]),
        (2, 4),
        "only the second variant's own stages run"
    );
    assert_eq!(
        project.in_guest("own[variant=minimal]", "cat /root/variant"),
        "minimal\n"
    );
    for variant in ["minimal", "debug"] {
        assert!(project.path(&format!("out/it-{variant}.raw")).exists());
    }
    let plan: serde_json::Value = serde_json::from_str(&project.ok(&["plan", "--json"])).unwrap();
    let common = plan["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|node| node["stage"] == "common")
        .unwrap();
    assert_eq!(common["state"], "cached");
    assert_eq!(common["matrix"]["variant"], "minimal");
    assert_eq!(common["combinations"].as_array().unwrap().len(), 2);
}
