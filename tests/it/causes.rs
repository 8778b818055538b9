//! The table of causes: each failure of a first day for real, what it is called, where it is said to stand, and the words.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::base::tool;
use crate::project::{Project, Ran, ran};
use crate::site::Site;

/// A stage that fails in the image: its name, its block's lines beside `from`, its cause, and the nearest place.
struct Case {
    name: &'static str,
    lines: &'static str,
    cause: &'static str,
    place: &'static str,
}

const fn case(
    name: &'static str,
    lines: &'static str,
    cause: &'static str,
    place: &'static str,
) -> Case {
    Case {
        name,
        lines,
        cause,
        place,
    }
}

const CASES: &[Case] = &[
    case(
        "offline",
        r#"commands = ["true", "wget http://files.example/tool.tar.gz"]"#,
        "offline",
        "impasto.hcl:11",
    ),
    case(
        "interpreter",
        r#"script = file("scripts/hello.py")"#,
        "no_interpreter",
        "scripts/hello.py:1",
    ),
    case(
        "env",
        r#"script = file("scripts/env.py")"#,
        "no_program",
        "scripts/env.py:1",
    ),
    case(
        "line-ends",
        r#"script = file("scripts/windows.sh")"#,
        "line_ends",
        "scripts/windows.sh:1",
    ),
    case(
        "no-shebang",
        r#"script = file("scripts/windows2.sh")"#,
        "line_ends",
        "scripts/windows2.sh:1",
    ),
    case(
        "program",
        r#"script = file("scripts/build.sh")"#,
        "no_program",
        "scripts/build.sh:4",
    ),
    case(
        "path",
        r#"commands = ["/opt/absent/tool --version"]"#,
        "no_program",
        "impasto.hcl:LINE",
    ),
    case(
        "mode",
        r#"commands = ["/opt/run.sh"]"#,
        "not_executable",
        "impasto.hcl:LINE",
    ),
    case(
        "input-mode",
        "inputs = { tool = \"tool.sh\" }\n  commands = [\"/run/impasto/inputs/tool\"]",
        "not_executable",
        "",
    ),
    case(
        "own-interpreter",
        r#"commands = ["/opt/tool.lua"]"#,
        "no_interpreter",
        "",
    ),
    case("directory", r#"commands = ["/opt"]"#, "is_directory", ""),
    case(
        "full",
        r#"script = file("scripts/fill.sh")"#,
        "image_disk_full",
        "scripts/fill.sh:1",
    ),
    case(
        "inodes",
        r#"commands = ["mkdir /many; cd /many; seq 1 17000 | xargs touch"]"#,
        "image_no_inodes",
        "",
    ),
    case(
        "mount",
        r#"commands = ["mkdir -p /mnt; mount -t tmpfs none /mnt"]"#,
        "not_privileged",
        "",
    ),
    case(
        "limit",
        "limits = { log = \"1MiB\" }\n  commands = [\"yes\"]",
        "limit",
        "",
    ),
];

const RECIPE: &str = "recipe { name = \"causes\" }\n\nstage \"fetch\" \"base\" { path = \"base.qcow2\" }\n\n\
                      stage \"copy\" \"tools\" {\n  from = stage.base\n  files = { \"/opt/run.sh\" = \"tool.sh\", \
                      \"/opt/tool.lua\" = { content = \"#!/usr/bin/lua5.4\\n\", mode = \"0755\" } }\n}\n";

/// What differs from run to run is taken out of what users read.
fn shown(project: &Project, text: &str) -> String {
    let mut text = text.replace(
        project.path("").display().to_string().trim_end_matches('/'),
        "DIR",
    );
    for (pattern, stand_in) in [
        (r"\b\d+(\.\d+)? (min \d+ )?s\b", "TIME"),
        (r"\b\d+(\.\d+)? [kMG]?B\b", "SIZE"),
        (r"line \d+ of its log", "line N of its log"),
        (r"has \d+, one per file", "has N, one per file"),
    ] {
        text = regex::Regex::new(pattern)
            .unwrap()
            .replace_all(&text, stand_in)
            .into_owned();
    }
    text
}

/// The words of a build about what failed, without what it says of stages that did not.
fn failures(project: &Project, ran: &Ran) -> String {
    let mut failed = false;
    let lines = ran.stderr.lines().filter(|line| {
        failed = line.starts_with("  failed") && line.contains(" after ")
            || failed
                && line.starts_with("          ")
                && !line.contains(" built")
                && !line.contains("stage  ");
        failed
    });
    let text: Vec<_> = lines.collect();
    shown(project, &text.join("\n"))
}

/// The event in which a stage failed.
fn event(events: &[Value], stage: &str) -> Value {
    let of = |event: &&Value| event["event"] == "stage_failed" && event["stage"] == stage;
    events
        .iter()
        .find(of)
        .unwrap_or_else(|| panic!("{stage} did not fail: {events:?}"))
        .clone()
}

fn place(event: &Value) -> String {
    let place = &event["places"][0];
    format!(
        "{}:{}",
        place["file"].as_str().unwrap_or_default(),
        place["line"]
    )
}

#[test]
fn what_fails_in_the_image_has_its_cause_its_place_and_the_way_out() {
    let mut recipe = RECIPE.to_owned();
    let mut lines = Vec::new();
    for case in CASES {
        lines.push(recipe.lines().count() + 2);
        recipe += &format!(
            "stage \"run\" \"{}\" {{\n  from = stage.tools\n  {}\n}}\n",
            case.name, case.lines
        );
    }
    let project = Project::with(&recipe);
    project.write("tool.sh", "#!/bin/sh\necho tool\n");
    project.write("scripts/hello.py", "#!/usr/bin/python3\nprint('hello')\n");
    project.write("scripts/env.py", "#!/bin/env python3\nprint('hello')\n");
    project.write("scripts/windows.sh", "#!/bin/sh\r\necho hello\r\n");
    project.write(
        "scripts/windows2.sh",
        "set -u\r\nif true; then\r\n  echo hello\r\nfi\r\n",
    );
    project.write(
        "scripts/build.sh",
        "set -u\necho configure\necho build\ngcc --version\necho done\n",
    );
    // As dpkg does: what was written goes before the end, and the last lines say nothing.
    project.write(
        "scripts/fill.sh",
        // As a package manager it takes a while to give back what it took: the agent looks 50 times a second.
        "dd if=/dev/zero of=/big bs=1M count=200 || failed=yes\nsleep 1\nrm /big\n\
         for i in $(seq 40); do echo \"removing part $i\"; done\ntest -z \"${failed:-}\"\n",
    );
    let arguments = ["--keep-going", "--jobs", "1"];
    let (code, events) = project.events(&arguments);
    assert_eq!(code, 4);
    for (case, line) in CASES.iter().zip(&lines) {
        let event = event(&events, case.name);
        assert_eq!(event["cause"], case.cause, "{}: {event:#}", case.name);
        let expected = case.place.replace("LINE", &(line + 1).to_string());
        if !expected.is_empty() && case.name != "offline" {
            assert_eq!(place(&event), expected, "{}", case.name);
        }
        let last = event["places"].as_array().unwrap().last().unwrap();
        assert_eq!(last["file"], "impasto.hcl", "{}: {last}", case.name);
        assert!(
            !event["help"].as_str().unwrap().starts_with("full log"),
            "{}: {event:#}",
            case.name
        );
    }
    let full = event(&events, "full");
    assert!(
        full["log_line"]["text"]
            .as_str()
            .unwrap()
            .contains("No space left on device"),
        "{full:#}"
    );
    let words: Vec<_> = CASES
        .iter()
        .map(|case| told(&event(&events, case.name)))
        .collect();
    insta::assert_snapshot!("image", shown(&project, &words.join("\n")));
}

#[test]
fn a_disk_that_is_full_for_a_moment_only_is_named() {
    let commands =
        r#"commands = ["dd if=/dev/zero of=/big bs=1M count=200 || { rm /big; false; }"]"#;
    let project = Project::with(&format!(
        "{RECIPE}stage \"run\" \"full\" {{\n  from = stage.tools\n  {commands}\n}}\n"
    ));
    project.write("tool.sh", "#!/bin/sh\n");
    let (code, events) = project.events(&[]);
    assert_eq!(code, 4);
    assert_eq!(
        event(&events, "full")["cause"],
        "image_disk_full",
        "{events:#?}"
    );
}

/// What a user reads of a failure, but for the log and the two lines that every failure has.
fn told(event: &Value) -> String {
    let texts = |name: &str| {
        event[name]
            .as_array()
            .unwrap()
            .iter()
            .map(|text| text.as_str().unwrap().to_owned())
    };
    let place = |place: &Value| {
        format!(
            "{} {}:{}",
            place["what"],
            place["file"].as_str().unwrap(),
            place["line"]
        )
    };
    let places: Vec<_> = event["places"]
        .as_array()
        .unwrap()
        .iter()
        .map(place)
        .collect();
    let mut text = format!(
        "# {}: {}\n",
        event["stage"].as_str().unwrap(),
        event["error"].as_str().unwrap()
    );
    texts("causes").for_each(|cause| text += &format!("caused by: {cause}\n"));
    text += &format!("{}\n", places.join(", ").replace('"', ""));
    text += &event["log_line"]["text"]
        .as_str()
        .map_or(String::new(), |line| format!("log: {line}\n"));
    let help = event["help"]
        .as_str()
        .unwrap()
        .lines()
        .filter(|line| !line.contains("impasto log '") && !line.contains("impasto shell '"));
    help.for_each(|line| text += &format!("help: {line}\n"));
    text
}

#[test]
fn a_name_that_nobody_knows_is_no_question_of_the_switch_where_the_network_is_on() {
    let project = Project::with(&format!(
        "{RECIPE}stage \"run\" \"typo\" {{\n  from = stage.base\n  network = true\n  \
         commands = [\"wget http://no-such-host.invalid/x\"]\n}}\n"
    ));
    project.write("tool.sh", "");
    let (code, events) = project.events(&["typo"]);
    let event = event(&events, "typo");
    assert_eq!(
        (code, event["cause"].as_str()),
        (4, Some("unknown_host")),
        "{event:#}"
    );
    assert!(
        event["causes"][0]
            .as_str()
            .unwrap()
            .contains("`no-such-host.invalid`"),
        "{event:#}"
    );
}

/// A small file system of the host, unmounted when it is dropped.
struct Small(PathBuf);

impl Small {
    fn mount(project: &Project, options: &str) -> Small {
        let dir = project.path("small");
        std::fs::create_dir(&dir).unwrap();
        tool(
            "mount",
            &["-t", "tmpfs", "-o", options, "small", dir.to_str().unwrap()],
        );
        Small(dir)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        tool("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

/// A build in a store of a small file system.
fn in_store(project: &Project, store: &Path, arguments: &[&str]) -> Ran {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_impasto"));
    command
        .args(["build", "--progress", "plain"])
        .args(arguments)
        .arg("--store")
        .arg(store);
    command
        .current_dir(project.path(""))
        .env_remove("IMPASTO_LOG")
        .env("NO_COLOR", "1")
        .env_remove("SUDO_UID");
    ran(command)
}

const WRITES: &str = "stage \"fetch\" \"base\" { path = \"base.qcow2\" }\n\
    stage \"run\" \"writes\" {\n  from = stage.base\n  commands = [\"dd if=/dev/urandom of=/big bs=1M count=30; sync\"]\n}\n";

#[test]
fn a_full_disk_of_the_host_is_named_with_its_free_bytes_and_not_taken_for_a_damaged_image() {
    let project = Project::with(WRITES);
    let small = Small::mount(&project, "size=12m");
    assert_eq!(
        in_store(&project, &small.0.join("store"), &["base"]).code,
        0
    );
    let ran = in_store(&project, &small.0.join("store"), &["--jobs", "1"]);
    assert_eq!(ran.code, 1, "the host failed: {}", ran.stderr);
    insta::assert_snapshot!("host_full", failures(&project, &ran));
}

#[test]
fn a_disk_of_the_host_without_inodes_is_not_called_full() {
    let project = Project::with(WRITES);
    let small = Small::mount(&project, "size=200m,nr_inodes=400");
    let store = small.0.join("store");
    assert_eq!(in_store(&project, &store, &["base"]).code, 0);
    // All but a few, which the build's own directories take.
    let files: Vec<_> = (0..400)
        .map(|number| small.0.join(format!("file-{number}")))
        .collect();
    let made = files
        .iter()
        .take_while(|file| std::fs::write(file, "").is_ok())
        .count();
    assert!(made < 400, "they are limited");
    files[..made]
        .iter()
        .take(6)
        .for_each(|file| std::fs::remove_file(file).unwrap());
    let ran = in_store(&project, &store, &["--jobs", "1"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("has no inodes left"), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("it has 400, one per file, in "),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr
            .contains("help: free some space there: impasto gc"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_quota_of_the_host_is_not_called_a_full_disk() {
    let project = Project::with(WRITES);
    let (image, dir) = (project.path("btrfs.img"), project.path("small"));
    std::fs::File::create(&image)
        .unwrap()
        .set_len(256 << 20)
        .unwrap();
    std::fs::create_dir(&dir).unwrap();
    tool("mkfs.btrfs", &["-q", image.to_str().unwrap()]);
    tool(
        "mount",
        &["-o", "loop", image.to_str().unwrap(), dir.to_str().unwrap()],
    );
    let small = Small(dir);
    let limited = small.0.join("limited");
    let (top, limited) = (small.0.to_str().unwrap(), limited.to_str().unwrap());
    tool("btrfs", &["subvolume", "create", limited]);
    tool("btrfs", &["quota", "enable", top]);
    tool("btrfs", &["qgroup", "limit", "20M", limited]);
    let store = Path::new(limited).join("store");
    assert_eq!(in_store(&project, &store, &["base"]).code, 0);
    let ran = in_store(&project, &store, &["--jobs", "1"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("caused by: the quota on the host's disk is used up, in "),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr
            .contains("help: raise the quota, or choose a store elsewhere"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_limit_of_file_sizes_is_named_and_ends_no_process_without_a_word() {
    let project = Project::with(WRITES);
    for limit in ["2097152", "12582912"] {
        let mut command = std::process::Command::new("prlimit");
        command
            .arg(format!("--fsize={limit}:{limit}"))
            .arg(env!("CARGO_BIN_EXE_impasto"));
        command
            .args(["build", "--progress", "plain", "--jobs", "1", "--store"])
            .arg(project.store());
        command
            .current_dir(project.path(""))
            .env("NO_COLOR", "1")
            .env_remove("SUDO_UID");
        let ran = ran(command);
        assert_eq!(ran.code, 1, "{limit}: {}", ran.stderr);
        assert!(
            ran.stderr
                .contains("that impasto was started with (ulimit -f)"),
            "{limit}: {}",
            ran.stderr
        );
        assert!(
            ran.stderr
                .contains("help: raise it before starting impasto: ulimit -f unlimited"),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn memory_that_others_took_is_not_called_a_limit_of_the_stage() {
    // A container's limit, above that of the stage, which is larger.
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let of = |name: &str| {
        groups
            .lines()
            .find_map(|line| line.split_once(&format!(":{name}:")))
            .map(|(_, path)| path)
    };
    let (dir, file) = match (of("memory"), of("")) {
        (Some(path), _) => (
            format!(
                "/sys/fs/cgroup/memory{path}/it-memory-{}",
                std::process::id()
            ),
            "memory.limit_in_bytes",
        ),
        (None, Some(path)) => (
            format!("/sys/fs/cgroup{path}/it-memory-{}", std::process::id()),
            "memory.max",
        ),
        (None, None) => panic!("this host has no control groups: {groups}"),
    };
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(format!("{dir}/{file}"), "180000000").unwrap();
    let _ = std::fs::write(format!("{dir}/memory.memsw.limit_in_bytes"), "180000000");
    let project = Project::with(
        "stage \"fetch\" \"base\" { path = \"base.qcow2\" }\nstage \"run\" \"hungry\" {\n  from = stage.base\n  \
         limits = { memory = \"2GiB\" }\n  commands = [\"a=$(dd if=/dev/zero bs=1M count=16 2>/dev/null | tr '\\\\0' x); \
         a=$a$a$a$a; a=$a$a$a$a; echo survived\"]\n}\n",
    );
    project.build(&["base"]);
    let mut command = std::process::Command::new("sh");
    command.args([
        "-c",
        "echo $$ > \"$1/cgroup.procs\"; shift; exec \"$@\"",
        "sh",
        &dir,
    ]);
    command
        .arg(env!("CARGO_BIN_EXE_impasto"))
        .args(["build", "--progress", "plain", "--store"])
        .arg(project.store());
    command
        .current_dir(project.path(""))
        .env("NO_COLOR", "1")
        .env_remove("SUDO_UID");
    let ran = ran(command);
    std::fs::remove_dir(&dir).unwrap();
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(!ran.stderr.contains("limit `memory`"), "{}", ran.stderr);
    assert!(
        ran.stderr.contains(
            "caused by: this machine ran out of memory: the kernel killed a process of the stage"
        ),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("help: run fewer stages at once"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_release_that_is_none_is_named_with_those_there_are() {
    let site = Site::new();
    site.recipe(
        "stage \"bootstrap\" \"root\" {\n  suite = \"bokworm\"\n  packages = [\"apt\"]\n}\n",
    );
    let said = site.said(&["build", "root"]);
    assert!(said.starts_with("exit 4\n"), "{said}");
    insta::assert_snapshot!("suite", said);
}

#[test]
fn a_disk_that_the_lock_knows_to_be_too_small_is_refused_before_anything_is_built() {
    let site = Site::new();
    let recipe = |size: &str| {
        format!(
            "stage \"bootstrap\" \"root\" {{\n  suite = \"bookworm\"\n  packages = [\"systemd-sysv\"]\n}}\n\
             stage \"disk\" \"small\" {{\n  tree = stage.root\n  size = \"{size}\"\n  bootloader = []\n}}\n"
        )
    };
    site.recipe(&recipe("96MiB"));
    let said = site.said(&["build", "small"]);
    assert!(said.starts_with("exit 3\n"), "{said}");
    assert!(!said.contains("  run  "), "{said}");
    insta::assert_snapshot!(
        "too_small",
        regex::Regex::new("its [0-9]+ packages")
            .unwrap()
            .replace(&said, "its N packages")
    );
    let said = site.said(&["build", "small", "--locked"]);
    assert!(
        said.contains("the disk of stage small (impasto.hcl:"),
        "the lock alone says it: {said}"
    );
    // What might fit is tried: packages say 200 MB and more.
    let needed = site.project.read("impasto.lock");
    let (_, needed) = needed.split_once("name = \"root\"").unwrap();
    let kib = regex::Regex::new("installed = ([0-9]+)").unwrap();
    let needed: u64 = kib
        .captures_iter(needed)
        .map(|found| found[1].parse::<u64>().unwrap())
        .sum();
    assert!(needed > 150_000, "{needed} KiB");
    site.recipe(&recipe(&format!("{}MiB", needed * 3 / 4 / 1024 + 1)));
    let plan = site.run(&["build", "small", "--locked", "--rebuild", "base"]);
    assert!(
        plan.stderr.contains("--rebuild base matches nothing"),
        "it is not refused for its size: {}",
        plan.stderr
    );
    // And so is a disk of an archive that leaves files out: nobody knows how many.
    let trimmed = "stage \"archive\" \"some\" {\n  from = stage.small\n  format = \"tar\"\n  exclude = [\"/usr/share/*\"]\n}\n\
                   stage \"disk\" \"smaller\" {\n  tree = stage.some\n  size = \"64MiB\"\n  table = \"none\"\n}\n";
    let build = |exclude: &str| {
        let trimmed = trimmed.replace("[\"/usr/share/*\"]", exclude);
        site.recipe(&(recipe("2GiB") + &trimmed));
        let built = site.run(&["build", "smaller", "--locked", "--rebuild", "base"]);
        built.stderr
    };
    let said = build("[\"/usr/share/*\"]");
    assert!(said.contains("--rebuild base matches nothing"), "{said}");
    let said = build("[]");
    assert!(said.contains("the disk of stage smaller"), "{said}");
}

#[test]
fn apt_in_a_stage_without_network_is_told_what_to_do() {
    let site = Site::new();
    site.recipe(
        "stage \"run\" \"tools\" {\n  from = stage.base\n  commands = [\"apt-get update\", \"apt-get install -y htop\"]\n}\n",
    );
    let said = site.said(&["build", "--progress", "plain", "tools"]);
    let at = said
        .find("  failed  tools")
        .unwrap_or_else(|| panic!("{said}"));
    let said = &said[at..];
    assert!(
        said.contains("caused by: apt in the image does not know the package `htop`, and the stage has no network"),
        "{said}"
    );
    assert!(
        said.contains(
            "help: install it in a `packages` stage before this one: install = [\"htop\"]"
        ),
        "{said}"
    );
}

#[test]
fn a_failed_stage_is_entered_with_all_that_its_steps_had_and_one_command_runs_the_failed_one_again()
{
    let project = Project::with(
        r#"
        variable "token" {
          type      = string
          sensitive = true
        }
        stage "fetch" "base" { path = "base.qcow2" }
        stage "run" "bad" {
          from    = stage.base
          env     = { LEVEL = "7" }
          secrets = { token = var.token }
          inputs  = { tool = "tool.sh", tree = "tree" }
          script  = file("scripts/bad.sh")
        }
        stage "run" "second" {
          from     = stage.base
          commands = ["echo one >> /root/log", "cat '/root/it is missing' && echo \"$0\""]
        }
        stage "run" "slow" {
          from     = stage.base
          timeout  = "1s"
          commands = ["sleep 100"]
        }
        "#,
    );
    project.write("tool.sh", "echo tool\n");
    project.write("tree/file", "leaf\n");
    let script = "echo begun >> /root/begun\ntest \"$LEVEL\" = 7\nsh /run/impasto/inputs/tool\n\
                  cat /run/impasto/inputs/tree/file\ntest \"$(cat /run/impasto/secrets/token)\" = s3cret\n\
                  grep fixed /root/state\n";
    project.write("scripts/bad.sh", script);
    let run = |arguments: &[&str]| {
        let mut command = project.command(arguments);
        command.env("IMPASTO_VAR_token", "s3cret");
        ran(command)
    };
    let build = run(&["build", "--keep-going", "--progress", "plain"]);
    assert_eq!(build.code, 4, "{}", build.stderr);
    let command = format!("impasto shell 'bad' --store {}", project.store().display());
    assert!(build.stderr.contains(&command), "{}", build.stderr);
    assert!(
        build.stderr.contains("impasto shell 'slow' --store")
            && build.stderr.contains(" --fresh\n"),
        "{}",
        build.stderr
    );

    let again = run(&["shell", "bad", "-c", "/run/impasto/again"]);
    assert_eq!(
        (again.code, again.stdout.as_str()),
        (2, "tool\nleaf\n"),
        "as in the build: {}",
        again.stderr
    );
    let mended = run(&[
        "shell",
        "bad",
        "-c",
        "echo fixed > /root/state; /run/impasto/again && cat /root/begun",
    ]);
    assert_eq!(
        mended.stdout, "tool\nleaf\nfixed\nbegun\nbegun\n",
        "on the disk that it left: {}",
        mended.stderr
    );
    let traced = run(&["shell", "bad", "-c", "/run/impasto/again -x"]);
    assert!(
        traced.stderr.contains("+ grep fixed /root/state\n"),
        "{}",
        traced.stderr
    );
    let fresh = run(&[
        "shell",
        "bad",
        "--fresh",
        "-c",
        "ls /root; cat /run/impasto/inputs/tool; echo $LEVEL",
    ]);
    assert_eq!(
        (fresh.code, fresh.stdout.as_str()),
        (0, "echo tool\n7\n"),
        "{}",
        fresh.stderr
    );

    let second = run(&["shell", "second", "-c", "/run/impasto/again; cat /root/log"]);
    assert_eq!(
        second.stdout, "one\n",
        "only the step that failed: {}",
        second.stderr
    );
    let slow = run(&[
        "shell",
        "slow",
        "--fresh",
        "-c",
        "test -x /run/impasto/again && echo there",
    ]);
    assert_eq!(slow.stdout, "there\n", "{}", slow.stderr);
    let slow = run(&["shell", "slow", "-c", "true"]);
    assert!(
        slow.code == 1 && slow.stderr.contains("--fresh"),
        "{}",
        slow.stderr
    );
    let base = run(&["shell", "base", "--fresh", "-c", "true"]);
    assert!(
        base.code == 2 && base.stderr.contains("runs no programs"),
        "{}",
        base.stderr
    );
    // What was done there is gone, and no secret is kept.
    assert_eq!(
        project.in_guest_with("bad", "cat /root/begun", &["--var", "token=s3cret"]),
        "begun\n"
    );
}
