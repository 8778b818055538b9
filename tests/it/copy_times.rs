//! Which times the files have that impasto brings into an image: the recipe's, or their own where a recipe asks for it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::base::tool;
use crate::project::Project;

/// `source_date_epoch` of the recipes.
const EPOCH: &str = "2023-11-14T22:13:20Z";
/// Before it.
const EARLIER: &str = "2022-04-15T05:20:00Z";
/// After it.
const LATER: &str = "2026-01-15T08:00:00Z";

/// Sets the time of the user's own files.
fn touch(project: &Project, names: &[&str], time: &str) {
    let paths = names
        .iter()
        .map(|name| project.path(name).display().to_string());
    let arguments: Vec<_> = ["-h", "-d", time]
        .map(str::to_owned)
        .into_iter()
        .chain(paths)
        .collect();
    tool(
        "touch",
        &arguments.iter().map(String::as_str).collect::<Vec<_>>(),
    );
}

/// A recipe over the base, and a directory and two files of the user's.
fn project(stages: &str) -> Project {
    let head = "recipe { source_date_epoch = 1700000000 }\nstage \"fetch\" \"base\" { path = \"base.qcow2\" }\n";
    let project = Project::with(&format!("{head}{stages}"));
    project.write("site/index.html", "<p>one</p>\n");
    project.write("site/sub/text", "text\n");
    std::os::unix::fs::symlink("index.html", project.path("site/link")).unwrap();
    project.write("single", "single\n");
    project.write("late", "late\n");
    touch(
        &project,
        &[
            "site/index.html",
            "site/sub/text",
            "site/link",
            "site/sub",
            "site",
            "single",
        ],
        EARLIER,
    );
    touch(&project, &["late"], LATER);
    project
}

/// The times of what a stage put into the disk below it, by path, as our own reader finds them on the disk.
fn times(project: &Project, from: &str, to: &str) -> BTreeMap<String, String> {
    let ran = project.run(&["diff", "--json", from, to]);
    assert_eq!(ran.code, 10, "{}", ran.stderr);
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let files = json["files"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|file| !file["after"].is_null());
    files
        .map(|file| (text(&file["path"]), text(&file["after"]["time"])))
        .collect()
}

#[test]
fn what_comes_into_an_image_is_of_the_recipes_time_or_its_own() {
    let project = project(
        r#"
stage "run" "version" {
  from     = stage.base
  commands = ["echo 1 >/tmp/v"]
  output   = { "v" = "/tmp/v" }
}
stage "copy" "copied" {
  from  = stage.base
  files = {
    "/srv/dir"       = "site"
    "/srv/one"       = "single"
    "/srv/new/one"   = "late"
    "/srv/text"      = { content = "text\n" }
    "/srv/made"      = stage.version.files["v"]
    "/own/dir"       = { source = "site", mtime = "keep", owner = "1:1" }
    "/own/new/one"   = { source = "single", mtime = "keep" }
    "/own/late"      = { source = "late", mtime = "keep" }
    "/own/epoch"     = { source = "late", mtime = "epoch" }
  }
}
stage "run" "changed" {
  from     = stage.copied
  inputs   = { dir = "site", file = "late" }
  commands = [
    "chmod 0600 /own/late /own/dir/index.html",
    "cp -a /run/impasto/inputs/dir /taken; cp -a /run/impasto/inputs/file /taken/file; touch /own/dir/sub/text",
    "stat -c %Y /run/impasto/inputs/file /run/impasto/inputs/dir /run/impasto/inputs/dir/index.html >/seen",
  ]
}
"#,
    );
    project.build(&[]);
    let found = times(&project, "base", "copied");
    let mut expected: BTreeMap<&str, &str> = [
        "/srv",
        "/srv/dir",
        "/srv/dir/index.html",
        "/srv/dir/link",
        "/srv/dir/sub",
        "/srv/dir/sub/text",
        "/srv/one",
        "/srv/new",
        "/srv/new/one",
        "/srv/text",
        "/srv/made",
        "/own",
        "/own/new",
        "/own/epoch",
    ]
    .map(|path| (path, EPOCH))
    .into();
    expected.extend(
        [
            "/own/dir",
            "/own/dir/index.html",
            "/own/dir/link",
            "/own/dir/sub",
            "/own/dir/sub/text",
            "/own/new/one",
        ]
        .map(|path| (path, EARLIER)),
    );
    expected.insert("/own/late", LATER);
    let brought: BTreeMap<&str, &str> = found
        .iter()
        .filter(|(path, _)| path.starts_with("/srv") || path.starts_with("/own"))
        .map(|(path, time)| (path.as_str(), time.as_str()))
        .collect();
    assert_eq!(brought, expected);

    // Whoever changes a file's mode later does not write it; who writes it gives it the recipe's time.
    let found = times(&project, "copied", "changed");
    for (path, time) in [
        ("/own/late", LATER),
        ("/own/dir/index.html", EARLIER),
        ("/own/dir/sub/text", EPOCH),
        ("/taken", EPOCH),
        ("/taken/file", EPOCH),
        ("/taken/index.html", EPOCH),
        ("/taken/link", EPOCH),
        ("/taken/sub", EPOCH),
    ] {
        assert_eq!(
            found.get(path).map(String::as_str),
            Some(time),
            "{path}: {found:?}"
        );
    }
    assert_eq!(
        project.in_guest("changed", "cat /seen"),
        "1700000000\n1700000000\n1700000000\n"
    );
}

#[test]
fn a_time_that_is_kept_is_part_of_the_key_and_no_other_is() {
    let project = project(
        r#"
stage "copy" "plain" {
  from  = stage.base
  files = { "/srv/dir" = "site", "/srv/one" = "single" }
}
stage "copy" "tree" {
  from  = stage.base
  files = { "/srv/dir" = { source = "site", mtime = "keep" } }
}
stage "copy" "file" {
  from  = stage.base
  files = { "/srv/one" = { source = "single", mtime = "keep" } }
}
"#,
    );
    assert_eq!(project.build(&[]), (4, 0));
    assert_eq!(project.build(&[]), (0, 4));
    touch(&project, &["site/sub/text"], LATER);
    assert_eq!(
        project.build(&[]),
        (1, 3),
        "only the tree that keeps its times"
    );
    assert_eq!(times(&project, "base", "tree")["/srv/dir/sub/text"], LATER);
    touch(&project, &["single"], LATER);
    assert!(
        project.ok(&["why", "file"]).contains("single"),
        "{}",
        project.ok(&["why", "file"])
    );
    assert_eq!(
        project.build(&[]),
        (1, 3),
        "only the file that keeps its time"
    );

    // What a web server makes an ETag of, time and length: an edit of equal length shows only where the time is kept.
    let tag = |stage: &str| project.in_guest(stage, "stat -c '%Y %s' /srv/dir/index.html");
    let before = (tag("plain"), tag("tree"));
    project.write("site/index.html", "<p>two</p>\n");
    assert_eq!(project.build(&[]), (2, 2));
    assert_eq!(tag("plain"), before.0);
    assert_ne!(tag("tree"), before.1);
}

#[test]
fn only_files_of_the_users_have_a_time_to_keep() {
    let project = project(
        r#"
stage "run" "version" {
  from     = stage.base
  commands = ["echo 1 >/tmp/v"]
  output   = { "v" = "/tmp/v" }
}
stage "copy" "copied" {
  from  = stage.base
  files = {
    "/a" = { source = stage.version.files["v"], mtime = "keep" }
    "/b" = { content = "b", mtime = "keep" }
    "/c" = { source = "single", mtime = "now" }
  }
}
"#,
    );
    let ran = project.run(&["validate"]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    let recipe = project
        .read("impasto.hcl")
        .replace("mtime = \"now\"", "mtime = \"keep\"");
    assert!(
        ran.stderr.contains("\"now\"") && ran.stderr.contains("\"keep\""),
        "{}",
        ran.stderr
    );
    project.write("impasto.hcl", &recipe);
    let ran = project.run(&["validate"]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    for problem in [
        "\"/a\" cannot keep its `mtime`: files made by stages have none",
        "\"/b\" cannot keep its `mtime`: `content` has none",
    ] {
        assert!(ran.stderr.contains(problem), "{}", ran.stderr);
    }
    assert!(ran.stderr.contains("omit `mtime`"), "{}", ran.stderr);
}
