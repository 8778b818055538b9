//! The command line, as far as no program of a stage runs: names, places, help, and what is told to machines.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::base::base;
use crate::project::{Project, Ran, ran};

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

#[path = "../../src/build.rs"]
#[allow(dead_code, reason = "a build script, of which one function is asked")]
mod build_script;

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
fn the_images_of_recipes_that_users_begin_with_have_one_disk() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let project = Project::new();
    project.ok(&["init", "starter"]);
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let example = readme
        .split("```hcl\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    project.write("readme/impasto.hcl", example);
    project.write("readme/scripts/versions.sh", "true\n");
    let debian = root.join("recipes/debian-12");
    for (recipe, image) in [
        (project.path("starter"), "image.starter"),
        (project.path("readme"), "image.web[variant=debug]"),
        (debian, "image.debian[variant=minimal]"),
    ] {
        let ran = project.run(&[
            "diff",
            "--recipe",
            recipe.to_str().unwrap(),
            image,
            "base.qcow2",
        ]);
        refused(
            ran,
            1,
            &["clean", "is not built from its current dependencies"],
        );
    }
}

#[test]
fn init_makes_a_directory_and_leaves_recipes_alone() {
    let project = Project::new();
    let said = project.ok(&["init", "new dir"]);
    has(
        &said,
        &["wrote new dir/impasto.hcl", "cd 'new dir'; impasto build;"],
    );
    refused(
        project.run(&["init", "new dir"]),
        2,
        &["new dir/impasto.hcl already exists"],
    );
    refused(
        project.run(&["init", "x.hcl"]),
        2,
        &["`x.hcl` is the name of a recipe file"],
    );
    project.write("mine/web.hcl", RECIPE);
    refused(
        project.run(&["init", "mine"]),
        2,
        &["mine/web.hcl is already a recipe", "name another directory"],
    );
    project.write("packer/x.pkr.hcl", "build {}\n");
    project.write("packer/x.vars.hcl", "a = 1\n");
    project.ok(&["init", "packer"]);
}

#[test]
fn names_of_no_file_and_no_stage_say_so() {
    let project = Project::new();
    fs::create_dir(project.path("empty")).unwrap();
    let in_empty = |arguments: &[&str]| {
        let mut command = project.command(arguments);
        ran({
            command.current_dir(project.path("empty"));
            command
        })
    };
    refused(
        in_empty(&["diff", "../base.qcow2", "typo.img"]),
        1,
        &["cannot read `typo.img`", "No such file"],
    );
    refused(
        in_empty(&["diff", "../base.qcow2", "typo"]),
        2,
        &["`typo` is not a file, and no recipe here"],
    );
    refused(
        in_empty(&["boot", "typo.qcow2"]),
        1,
        &["typo.qcow2", "No such file"],
    );
    // A path of a stage's name is the recipe, unless one stands before it.
    project.write("impasto.hcl", RECIPE);
    project.write("setup/notes", "");
    refused(
        project.run(&["plan", "setup"]),
        3,
        &[
            "there is no recipe in",
            "for a stage of this name write `. setup`",
        ],
    );
    has(
        &project.ok(&["plan", ".", "setup"]),
        &["setup[variant=small]"],
    );
}

#[test]
fn a_home_that_is_no_place_is_looked_up() {
    let project = Project::new();
    let store = |home: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_impasto"));
        command
            .arg("config")
            .current_dir(project.path(""))
            .env_remove("XDG_CACHE_HOME")
            .env_remove("IMPASTO_STORE");
        command.env_remove("SUDO_UID").env_remove("XDG_CONFIG_HOME");
        match home {
            Some(home) => command.env("HOME", home),
            None => command.env_remove("HOME"),
        };
        let ran = ran(command);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stdout
            .lines()
            .find(|line| line.contains("store"))
            .unwrap()
            .to_owned()
    };
    let uid = crate::base::tool("id", &["-u"]);
    let passwd = crate::base::tool("getent", &["passwd", uid.trim()]);
    let home = PathBuf::from(passwd.split(':').nth(5).unwrap()).join(".cache/impasto");
    for odd in [None, Some(""), Some("relative/home")] {
        has(&store(odd), &[home.to_str().unwrap()]);
    }
    has(&store(Some("/somewhere")), &["/somewhere/.cache/impasto"]);
}

#[test]
fn odd_places_and_names_have_words() {
    let project = Project::new();
    // A name of bytes that are no text.
    let name = OsStr::from_bytes(b"caf\xe9");
    let dir = project.path("").join(name);
    fs::create_dir(&dir).unwrap();
    fs::copy(&base().qcow2, dir.join("base.qcow2")).unwrap();
    fs::write(dir.join("impasto.hcl"), RECIPE).unwrap();
    for arguments in [vec![name], vec![OsStr::new("--recipe"), name]] {
        let mut command = project.command(&["validate"]);
        command.args(&arguments);
        let ran = ran(command);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.stderr);
    }
    let mut command = project.command(&["plan", "impasto.hcl"]);
    command.arg(name).current_dir(&dir);
    refused(ran(command), 2, &["there is no stage `caf\u{fffd}`"]);

    // A directory that is gone.
    let gone = project.path("gone");
    let line = r#"mkdir "$1" && cd "$1" && rmdir "$1" && exec "$2" validate"#;
    let mut command = Command::new("sh");
    command.args([
        "-c",
        line,
        "sh",
        gone.to_str().unwrap(),
        env!("CARGO_BIN_EXE_impasto"),
    ]);
    refused(
        ran(command),
        1,
        &["the current directory", "it was deleted", "help: change to"],
    );
}

fn fed(mut command: Command, text: &[u8]) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran {
        code: output.status.code().unwrap(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

#[test]
fn standard_input_is_formatted_to_standard_output() {
    let project = Project::new();
    let fmt = |arguments: &[&str], text: &[u8]| {
        fed(project.command(&[&["fmt", "-"], arguments].concat()), text)
    };
    let done = fmt(&[], b"locals {\na=1\n}\n");
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (0, "locals {\n  a = 1\n}\n")
    );
    let checked = fmt(&["--check"], b"locals {\na=1\n}\n");
    assert_eq!((checked.code, checked.stdout.as_str()), (1, ""));
    assert_eq!(fmt(&["--check"], b"locals {\n  a = 1\n}\n").code, 0);
    refused(fmt(&[], b"locals {"), 3, &["standard input:1:8"]);
    refused(fmt(&[], b"\xff"), 3, &["standard input is not UTF-8"]);
}

#[test]
fn what_is_wrong_with_a_recipe_is_told_to_machines() {
    let project = Project::with(RECIPE);
    let lines = |code: i32| -> Vec<Value> {
        let ran = project.run(&["validate", "--progress", "json"]);
        assert_eq!(
            (ran.code, ran.stderr.as_str()),
            (code, ""),
            "{}",
            ran.stdout
        );
        ran.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let [valid] = lines(0).try_into().unwrap();
    assert_eq!(
        (&valid["event"], &valid["v"], &valid["images"]),
        (&"valid".into(), &1.into(), &2.into())
    );
    project.write(
        "impasto.hcl",
        &RECIPE.replace("stage.setup\n  format", "stage.setpu\n  format"),
    );
    let [problem] = lines(3).try_into().unwrap();
    assert_eq!(problem["severity"], "error");
    assert_eq!(problem["message"], "unknown stage `setpu`");
    assert_eq!(
        (&problem["file"], &problem["line"], &problem["column"]),
        (&"impasto.hcl".into(), &18.into(), &18.into())
    );
    assert_eq!(problem["help"][0], "did you mean `setup`?");
}

#[test]
fn help_explains_commands_kinds_and_topics() {
    let project = Project::new();
    let help = |words: &[&str]| project.ok(&[&["help"], words].concat());
    has(
        &help(&[]),
        &["Commands:", "Topics", "selectors", "exit-codes"],
    );
    assert_eq!(help(&["gc"]), project.ok(&["gc", "--help"]));
    assert_eq!(
        help(&["layer", "blame"]),
        project.ok(&["layer", "blame", "--help"])
    );
    assert_eq!(help(&["run"]), project.ok(&["stages", "run"]));
    for name in ["build", "fetch"] {
        let (usage, kind) = (
            format!("Usage: impasto {name}"),
            format!("`impasto stages {name}`"),
        );
        has(&help(&[name]), &[&usage, &kind]);
    }
    for line in help(&[])
        .lines()
        .skip_while(|line| !line.starts_with("Topics"))
        .skip(1)
    {
        let topic = line.split_whitespace().next().unwrap();
        assert!(help(&[topic]).lines().count() > 2, "{topic}");
    }
    refused(
        project.run(&["help", "selector"]),
        2,
        &["did you mean `impasto help selectors`?"],
    );
    refused(
        project.run(&["help", "layer", "blam"]),
        2,
        &["there is no command `layer blam`"],
    );
}

#[test]
fn the_version_names_the_format_of_stores_and_where_known_the_commit() {
    let project = Project::new();
    let said = project.ok(&["-V"]);
    let expected = regex::Regex::new(
        r"^impasto \d+\.\d+\.\d+\S* \((commit [0-9a-f]{12}, )?store format \d+\)\n$",
    )
    .unwrap();
    assert!(expected.is_match(&said), "{said}");

    let dir = project.path("checkout");
    let git = |name: &str, text: &str| {
        let path = dir.join(".git").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let commit = || build_script::commit(&dir).map(|(commit, _)| commit);
    let (one, two, three) = ("1".repeat(40), "2".repeat(40), "3".repeat(40));
    assert_eq!(commit(), None);
    git("HEAD", &format!("{one}\n"));
    assert_eq!(commit(), Some(one));
    git("HEAD", "ref: refs/heads/main\n");
    assert_eq!(commit(), None, "a branch without commits");
    git(
        "packed-refs",
        &format!("# pack-refs with: peeled\n{two} refs/heads/main\n"),
    );
    assert_eq!(commit(), Some(two));
    git("refs/heads/main", &format!("{three}\n"));
    assert_eq!(commit(), Some(three.clone()));
    // A worktree has a file, and its branches lie in the first checkout.
    let worktree = project.path("worktree");
    fs::create_dir_all(&worktree).unwrap();
    git("worktrees/it/HEAD", "ref: refs/heads/main\n");
    git("worktrees/it/commondir", "../..\n");
    fs::write(
        worktree.join(".git"),
        format!("gitdir: {}\n", dir.join(".git/worktrees/it").display()),
    )
    .unwrap();
    assert_eq!(
        build_script::commit(&worktree).map(|(commit, _)| commit),
        Some(three)
    );
}
