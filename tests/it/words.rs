//! What users read, as a whole: looked at as a reader would, then pinned.

use regex::Regex;

use crate::project::{Project, Ran};

/// A command's output with what differs from run to run made equal.
fn shown(project: &Project, ran: &Ran) -> String {
    let mut text = format!("exit {}\n{}{}", ran.code, ran.stdout, ran.stderr);
    let dir = project.path("").display().to_string();
    text = text.replace(dir.trim_end_matches('/'), "DIR");
    for (pattern, stand_in) in [
        (r"\b[0-9a-f]{64}\b", "DIGEST"),
        (r"\b[0-9a-f]{12}\b", "DIGEST"),
        (r"[~<]\d+ (min \d+ s|min|s)\b", "TIME"),
        (r"\b\d+(\.\d+)? (min \d+ )?s\b", "TIME"),
        (r"\b\d+(\.\d+)? [kMG]?B\b", "SIZE"),
        // Numbers are flush right.
        (r" {2,}(TIME|SIZE)\b", "  $1"),
    ] {
        text = Regex::new(pattern)
            .unwrap()
            .replace_all(&text, stand_in)
            .into_owned();
    }
    text
}

const RECIPE: &str = r#"recipe {
  name = "words"
}

matrix {
  variant = ["minimal", "debug"]
}

stage "fetch" "base" {
  path = "base.qcow2"
}

stage "copy" "config" {
  from = stage.base
  files = {
    "/etc/app.conf" = "app.conf"
    "/etc/motd"     = { content = "Welcome to ${matrix.variant}.\n" }
  }
}

stage "run" "setup" {
  from   = stage.config
  script = file("setup.sh")
  env    = { LEVEL = "1" }
}

stage "convert" "qcow2" {
  from   = stage.setup
  format = "qcow2"
}

image "words" {
  name  = "words-${matrix.variant}"
  files = [stage.qcow2]
}
"#;

fn project() -> Project {
    let project = Project::with(RECIPE);
    project.write("app.conf", "x = 1\n");
    project.write("setup.sh", "echo one\necho two\ncat /etc/motd\n");
    project
}

#[test]
fn help_and_reference() {
    let project = Project::new();
    let mut text = String::new();
    for arguments in [
        &["--help"][..],
        &["build", "-h"],
        &["plan", "-h"],
        &["why", "-h"],
        &["shell", "-h"],
        &["boot", "-h"],
        &["diff", "-h"],
        &["layer", "-h"],
        &["layer", "show", "-h"],
        &["layer", "blame", "-h"],
        &["store", "-h"],
        &["gc", "-h"],
        &["fetch", "-h"],
        &["update", "-h"],
        &["outdated", "-h"],
        &["stages"],
        &["stages", "fetch"],
        &["stages", "run"],
        &["stages", "copy"],
        &["stages", "convert"],
        &["stages", "system"],
        &["stages", "disk"],
        &["stages", "kernel_module"],
        &["stages", "packages"],
        &["stages", "bootstrap"],
        &["stages", "rum"],
    ] {
        text += &format!(
            "$ impasto {}\n{}\n",
            arguments.join(" "),
            shown(&project, &project.run(arguments))
        );
    }
    insta::assert_snapshot!("help", text);
}

#[test]
fn plans_reasons_and_builds() {
    let project = project();
    let mut text = String::new();
    let mut run = |arguments: &[&str]| {
        text += &format!(
            "$ impasto {}\n{}\n",
            arguments.join(" "),
            shown(&project, &project.run(arguments))
        );
    };
    run(&["validate"]);
    run(&["plan"]);
    run(&["build", "--jobs", "1", "--only", "variant=debug"]);
    run(&["build", "--only", "variant=debug"]);
    run(&["plan"]);
    run(&["why", "setup[variant=debug]"]);
    project.write("setup.sh", "echo one\necho 2\ncat /etc/motd\n");
    project.write(
        "impasto.hcl",
        &RECIPE
            .replace("LEVEL = \"1\"", "LEVEL = \"2\"")
            .replace("Welcome to", "Hello,"),
    );
    project.write("app.conf", "x = 2\n");
    run(&["plan", "--only", "variant=debug"]);
    run(&["why", "config", "setup", "qcow2", "--only", "variant=debug"]);
    run(&["build", "--jobs", "1", "--only", "variant=debug"]);
    run(&["plan", "--only", "variant=debug", "--rebuild", "base"]);
    run(&["graph", "--only", "variant=debug"]);
    run(&["layer", "show", "base"]);
    insta::assert_snapshot!("plans", text);
}

#[test]
fn errors() {
    let project = project();
    let mut text = String::new();
    let mut run = |arguments: &[&str]| {
        text += &format!(
            "$ impasto {}\n{}\n",
            arguments.join(" "),
            shown(&project, &project.run(arguments))
        );
    };
    run(&["biuld"]);
    run(&["build", "setpu"]);
    run(&["build", "image.worts"]);
    run(&["build", "setup[varaint=debug]"]);
    run(&["build", "setup[variant=large]"]);
    run(&["build", "setup[variant]"]);
    run(&["build", "--only", "variant=large"]);
    run(&["build", "--var", "x"]);
    run(&["build", "nowhere/recipe.hcl"]);
    run(&["log", "setup"]);
    run(&["log"]);
    run(&["shell", "setup[variant=debug]"]);
    run(&["boot", "setup[variant=debug]"]);
    run(&["boot", "image.words"]);
    run(&["boot"]);
    run(&["boot", "nowhere.qcow2"]);
    project.write("text.img", "no image");
    run(&["boot", "text.img"]);
    run(&["boot", "base.qcow2", "--disk-size", "1MiB"]);
    run(&["boot", "base.qcow2", "--memory", "much"]);
    run(&["boot", "base.qcow2", "--ssh-key", "app.conf"]);
    run(&["boot", "base.qcow2", "--ssh-port", "70000"]);
    run(&[
        "boot",
        "base.qcow2",
        "--ssh-port",
        "auto",
        "--network",
        "none",
    ]);
    run(&["boot", "base.qcow2", "--timeout", "soon"]);
    run(&["layer", "show", "setup"]);
    run(&["layer", "show", "abcdef"]);
    run(&["layer", "show", "base.qcow2"]);
    run(&["layer", "blame"]);
    run(&["diff", "setup[variant=debug]"]);
    run(&["gc", "--min-age", "soon"]);
    run(&["init"]);
    run(&["init", "new"]);
    run(&["init", "new"]);
    project.write("setup.sh", "echo one\necho two >&2\nexit 7\n");
    run(&["build", "--jobs", "1", "setup[variant=minimal]"]);
    project.write(
        "impasto.hcl",
        &RECIPE
            .replace("app.conf\"", "app.cnf\"")
            .replace("stage.config", "stage.confg"),
    );
    run(&["build"]);
    insta::assert_snapshot!("errors", text);
}

#[test]
fn a_new_recipe_is_valid_and_formatted() {
    let project = Project::empty();
    project.ok(&["init"]);
    assert!(
        project
            .ok(&["validate"])
            .starts_with("starter is valid: 6 nodes")
    );
    project.ok(&["fmt", "--check", "."]);
}
