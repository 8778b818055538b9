//! The command line as strangers use it: names, pipes, odd places, and what is said then.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::base::base;
use crate::project::{Project, Ran, ran};
use crate::sandbox_disk::three_partitions;
use crate::site::Site;
use crate::vm::{quick, shows, spawn, talking_disk};

#[path = "../../src/build.rs"]
#[allow(dead_code, reason = "a build script, of which one function is asked")]
mod build_script;

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
    assert_eq!(help(&["build"]), project.ok(&["build", "--help"]));
    assert_eq!(
        help(&["layer", "blame"]),
        project.ok(&["layer", "blame", "--help"])
    );
    assert_eq!(help(&["run"]), project.ok(&["stages", "run"]));
    has(
        &help(&["fetch"]),
        &["Usage: impasto fetch", "`impasto stages fetch`"],
    );
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
