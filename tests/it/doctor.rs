//! `impasto doctor`: what it tries, on this host and on hosts where something is missing.
//!
//! Needs root, and unshare, setpriv and mount of util-linux: hosts that lack something are namespaces of this one.

use std::path::Path;
use std::process::Command;

use regex::Regex;
use serde_json::Value;

use crate::project::{Project, Ran, ran};

/// A mirror that is there, whatever the network is.
const MIRROR: (&str, &str) = ("IMPASTO_MIRROR", "file:/usr");

/// `impasto doctor`, behind a program that makes the host another one.
fn doctor(project: &Project, before: &[&str], arguments: &[&str]) -> Command {
    let own = project.command(&[&["doctor"], arguments].concat());
    let mut command = match before {
        [] => return own,
        [program, rest @ ..] => {
            let mut command = Command::new(program);
            command
                .args(rest)
                .arg(own.get_program())
                .args(own.get_args());
            command
        }
    };
    command
        .current_dir(project.path(""))
        .env(MIRROR.0, MIRROR.1)
        .env("NO_COLOR", "1")
        .env_remove("SUDO_UID");
    command
}

fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", ran.stdout, ran.stderr))
}

/// Status and text of a check.
fn check<'v>(document: &'v Value, name: &str) -> (&'v str, &'v str) {
    let checks = document["checks"].as_array().unwrap();
    let check = checks
        .iter()
        .find(|check| check["check"] == name)
        .unwrap_or_else(|| panic!("no {name}"));
    (
        check["status"].as_str().unwrap(),
        check["found"].as_str().unwrap(),
    )
}

/// Text with what differs from host to host made equal.
fn shown(project: &Project, ran: &Ran) -> String {
    let mut text = format!("exit {}\n{}{}", ran.code, ran.stdout, ran.stderr);
    let dir = std::fs::canonicalize(project.path("")).unwrap();
    for (path, stand_in) in [
        (dir.as_path(), "DIR"),
        (Path::new(env!("CARGO_BIN_EXE_impasto")), "IMPASTO"),
    ] {
        text = text.replace(path.to_str().unwrap(), stand_in);
    }
    for (pattern, stand_in) in [
        (
            r"(?m)^(ok|warning)( +)(limits|emulators|user-name-spaces|out|kvm|ovmf) .*\n( +help: .*\n)*",
            "STATUS $3\n",
        ),
        (r"Linux \S+, \d+ CPUs", "Linux VERSION, N CPUs"),
        (r"\d+(\.\d+)? [kMGT]?B free", "SIZE free"),
        (r"\d+ warnings?,", "N warnings,"),
    ] {
        text = Regex::new(pattern)
            .unwrap()
            .replace_all(&text, stand_in)
            .into_owned();
    }
    text
}

#[test]
fn what_stages_need_is_tried_and_works_here() {
    let project = Project::empty();
    let mut command = doctor(&project, &[], &["--json"]);
    command.env(MIRROR.0, MIRROR.1);
    let ran = ran(command);
    let document = json(&ran);
    assert_eq!(
        (ran.code, &document["v"], &document["ok"]),
        (0, &1.into(), &true.into()),
        "{document:#}"
    );
    for (name, found) in [
        ("root", "yes"),
        (
            "name-spaces",
            "created, with a loopback interface that is up",
        ),
        ("fuse", "a disk was served as a file"),
        ("loop", "a disk was attached and detached"),
        ("ports", "a free port of 127.0.0.1 was opened and reached"),
    ] {
        assert_eq!(check(&document, name), ("ok", found));
    }
    assert!(
        check(&document, "qemu")
            .1
            .contains("; a small machine booted in "),
        "{document:#}"
    );
    // A /dev/kvm that opens is not yet one that boots: it is one or the other.
    let (status, found) = check(&document, "kvm");
    let is_told = match status {
        "ok" => found.starts_with("a small machine booted in "),
        _ => found.contains("/dev/kvm"),
    };
    assert!(status != "error" && is_told, "{found}");
    let sandbox = &document["sandboxes"][0];
    assert_eq!(
        (&sandbox["sandbox"], &sandbox["works"]),
        (&"namespace".into(), &true.into())
    );
    // Names are part of the interface.
    let names: Vec<_> = document["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| check["check"].as_str().unwrap())
        .collect();
    let help = project.ok(&["doctor", "--help"]);
    let told = help
        .split("check: ")
        .nth(1)
        .unwrap()
        .split("; status")
        .next()
        .unwrap();
    let told: Vec<_> = told.split(',').map(str::trim).collect();
    assert_eq!(names, told);
    // Nothing is left, in the store neither.
    assert_eq!(
        std::fs::read_dir(project.store().join("tmp"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_host_without_devices_and_programs_is_told_what_mends_it() {
    let project = Project::empty();
    let line = "mkdir dev none; mount -t tmpfs none dev; cp -a /dev/null /dev/zero /dev/urandom /dev/random dev/
        mount --bind dev /dev; PATH=\"$PWD/none\"; exec \"$@\"";
    let ran = ran(doctor(
        &project,
        &["unshare", "--mount", "sh", "-euc", line, "sh"],
        &[],
    ));
    insta::assert_snapshot!("doctor_nothing", shown(&project, &ran));
}

#[test]
fn an_ordinary_user_gets_the_command_that_tries_the_rest() {
    let project = Project::empty();
    std::fs::create_dir(project.store()).unwrap();
    project.write("sudo", "");
    crate::base::tool("chown", &["54321:54321", project.store().to_str().unwrap()]);
    crate::base::tool("chmod", &["755", project.path("").to_str().unwrap()]);
    let user = [
        "setpriv",
        "--reuid",
        "54321",
        "--regid",
        "54321",
        "--clear-groups",
    ];
    let mut command = doctor(&project, &user, &["--json"]);
    let path = format!(
        "{}:{}",
        std::env::var("PATH").unwrap(),
        project.path("").display()
    );
    command.env("PATH", path).env("HOME", project.path(""));
    let ran = ran(command);
    let document = json(&ran);
    assert_eq!(ran.code, 1, "{document:#}");
    assert_eq!(check(&document, "root"), ("error", "not running as root"));
    let help = document["checks"][0]["help"][0].as_str().unwrap();
    assert!(
        help.starts_with("sudo --preserve-env=") && help.contains("IMPASTO_MIRROR"),
        "{help}"
    );
    assert!(
        help.contains(&format!("{} doctor --json", env!("CARGO_BIN_EXE_impasto"))),
        "{help}"
    );
    for name in ["name-spaces", "fuse", "loop", "limits"] {
        assert_eq!(
            check(&document, name),
            ("skipped", "only root can check this")
        );
    }
    assert_eq!(document["sandboxes"][0]["works"], Value::Null);
}

#[test]
fn a_root_that_may_not_mount_is_told_so() {
    let project = Project::empty();
    let weak = [
        "setpriv",
        "--bounding-set",
        "-sys_admin",
        "--inh-caps",
        "-sys_admin",
    ];
    let ran = ran(doctor(&project, &weak, &["--json"]));
    let document = json(&ran);
    assert_eq!(ran.code, 1);
    let (status, found) = check(&document, "name-spaces");
    assert!(
        status == "error" && found.contains("cannot create namespaces: Operation not permitted"),
        "{found}"
    );
    assert_eq!(
        check(&document, "fuse"),
        ("skipped", "a check before it failed")
    );
    let sandbox = &document["sandboxes"][0];
    assert_eq!(sandbox["works"], false);
    assert!(
        sandbox["why"]
            .as_str()
            .unwrap()
            .starts_with("name-spaces: "),
        "{sandbox}"
    );
}

#[test]
fn a_store_without_space_is_told_what_frees_some() {
    let project = Project::empty();
    let line = "mkdir store; mount -t tmpfs -o size=64M,mode=755 none store; exec \"$@\"";
    let ran = ran(doctor(
        &project,
        &["unshare", "--mount", "sh", "-euc", line, "sh"],
        &["--json"],
    ));
    let document = json(&ran);
    let (status, found) = check(&document, "store");
    assert!(status == "warning" && found.ends_with("MB free"), "{found}");
    let checks = document["checks"].as_array().unwrap();
    let store = checks
        .iter()
        .find(|check| check["check"] == "store")
        .unwrap();
    assert_eq!(store["help"][0], "impasto gc deletes what no recipe uses");
}
