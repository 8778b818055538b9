//! The lock at work: what it keeps from changing, what it tells is newer, what a renewal runs again, and when it is refused.

use std::fmt::Write as _;

use serde_json::Value;

use crate::repository::Package;
use crate::site::Site;

/// Two stages with packages, and one that stands on the first.
fn site() -> Site {
    let site = Site::new();
    let stages = [
        site.packages("one", "base", "install = [\"program\"]"),
        "stage \"run\" \"after\" {\n  from = stage.one\n  commands = [\"cat /usr/share/library\"]\n}\n".to_owned(),
        site.packages("two", "base", "install = [\"small\"]"),
    ];
    site.recipe(&stages.concat());
    site
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn library(version: &str) -> Package {
    Package::new("library", version).file("usr/share/library", &format!("library {version}\n"))
}

#[test]
fn what_is_locked_stays_until_it_is_renewed() {
    let mut site = site();
    let done = site.build(&[]).ok();
    assert_eq!(
        (done.built, done.cached),
        (names(&["after", "one", "two"]), names(&["base"])),
        "the base was read to lock"
    );
    let lock = site.lock();
    let all = ["after", "base", "one", "two"];

    // What no stage has may change: nobody is told, and nothing runs.
    site.publish(&Package::new("unrelated", "2.0"));
    assert_eq!(site.build(&[]).ok().cached, all);
    let ran = site.run(&["outdated"]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "everything locked is up to date\n"),
        "{}",
        ran.stderr
    );

    // What a stage has changes nothing by itself either, and is told.
    site.publish(&library("2.0"));
    assert_eq!(site.build(&[]).ok().cached, all);
    assert_eq!(site.lock(), lock);
    let ran = site.run(&["outdated"]);
    assert_eq!(ran.code, 10, "{}", ran.stderr);
    let expected = "library  1.0 → 2.0  one  own\n1 newer, 0 of them for security\nan update rebuilds one, after, \
                    which last took ";
    assert!(ran.stdout.starts_with(expected), "{}", ran.stdout);
    let ran = site.run(&["outdated", "--json"]);
    assert_eq!(ran.code, 10);
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    let package = serde_json::json!({
        "stage": "one", "images": [], "name": "library", "architecture": "all", "locked": "1.0", "newest": "2.0",
        "archive": "own", "security": false,
    });
    assert_eq!(document["packages"], serde_json::json!([package]));
    let stages: Vec<_> = document["rebuild"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["stage"])
        .collect();
    assert_eq!(stages, ["one", "after"]);
    assert!(
        document["rebuild"][0]["last_ms"].as_u64().unwrap() > 0,
        "{document}"
    );
    assert_eq!(site.run(&["outdated", "two"]).code, 0);
    assert_eq!(site.run(&["outdated", "--security"]).code, 0);

    // A renewal tells what it changes, and only what holds it runs, with what stands on that.
    let change = "one: library 1.0 → 2.0\n";
    assert_eq!(site.ok(&["update", "--dry-run"]), change);
    assert_eq!(site.lock(), lock);
    assert_eq!(site.ok(&["update"]), change);
    let done = site.build(&[]).ok();
    assert_eq!(
        (done.built, done.cached),
        (names(&["after", "one"]), names(&["base", "two"]))
    );
    assert_eq!(
        site.project.in_guest("one", "cat /usr/share/library"),
        "library 2.0\n"
    );
    assert_eq!(site.run(&["outdated"]).code, 0);
    assert_eq!(
        site.ok(&["update"]),
        "nothing is newer: the lock is unchanged\n"
    );
}

#[test]
fn a_package_is_renewed_alone() {
    let mut site = Site::new();
    site.recipe(
        &[
            site.packages("one", "base", "install = [\"program\", \"small\"]"),
            site.packages("two", "base", "install = [\"library\"]"),
        ]
        .concat(),
    );
    site.build(&[]).ok();
    let lock = site.lock();
    // The versions that are locked are in no index any more, and in the store.
    site.repository
        .add("stable", "main", &Package::new("small", "2.0"));
    site.repository.add(
        "stable",
        "main",
        &Package::new("program", "2.0").depends("library"),
    );
    site.publish(&library("2.0"));
    assert_eq!(
        site.ok(&["update", "library"]),
        "one: library 1.0 → 2.0\ntwo: library 1.0 → 2.0\n"
    );
    let packages = |lock: &str| -> Vec<String> {
        lock.lines()
            .filter(|line| line.contains("archive = \"own\""))
            .map(str::to_owned)
            .collect()
    };
    let (before, after) = (packages(&lock), packages(&site.lock()));
    assert_eq!(before.len(), after.len());
    let changed: Vec<_> = before
        .iter()
        .zip(&after)
        .filter(|(before, after)| before != after)
        .collect();
    assert_eq!(changed.len(), 2, "{changed:?}");
    assert_eq!(
        site.ok(&["update", "two"]),
        "nothing is newer: the lock is unchanged\n"
    );
    assert_eq!(
        site.ok(&["update", "one"]),
        "one: program 1.0 → 2.0\none: small 1.0 → 2.0\n"
    );
    site.build(&["--locked"]).ok();
    let ran = site.run(&["update", "libary"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr
            .contains("`libary` is neither a stage nor a locked package"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("did you mean `library`?"),
        "{}",
        ran.stderr
    );
}

#[test]
fn what_is_newer_for_security_is_named() {
    let mut site = Site::new();
    let uri = site.repository.mirror();
    let archive = |name: &str, suite: &str| {
        format!(
            "{name} = {{ uri = \"{uri}\", suite = \"{suite}\", signed_by = file(\"key.asc\") }}"
        )
    };
    let (own, fixes) = (
        archive("own", "stable"),
        archive("fixes", "stable-security"),
    );
    site.recipe(&format!(
        "stage \"packages\" \"one\" {{\n  from = stage.base\n  repositories = {{\n    {own}\n    {fixes}\n  }}\n  \
         install = [\"program\", \"small\"]\n}}\n\
         image \"site\" {{ files = [stage.raw] }}\n\
         stage \"convert\" \"raw\" {{\n  from = stage.one\n  format = \"qcow2\"\n}}\n"
    ));
    site.repository
        .add("stable-security", "main", &Package::new("other", "1.0"));
    let publish = |site: &Site| {
        site.repository.publish();
        site.repository.resign("stable-security", |text| {
            text.replace("Label: Test\n", "Label: Test-Security\n")
        });
    };
    publish(&site);
    site.ok(&["update"]);
    site.repository
        .add("stable", "main", &Package::new("small", "1.1"));
    site.repository
        .add("stable-security", "main", &library("1.0+fix1"));
    publish(&site);
    let said = site.said(&["outdated"]);
    let expected = "exit 10\nsite:\n\
                    library  1.0 → 1.0+fix1  one  fixes  security\n\
                    small    1.0 → 1.1       one  own\n\
                    2 newer, 1 of them for security\nan update rebuilds one, raw\n";
    assert_eq!(said, expected);
    let said = site.said(&["outdated", "--security"]);
    assert!(
        said.contains("library") && !said.contains("small"),
        "{said}"
    );
}

#[test]
fn a_lock_that_is_not_right_is_an_error_with_the_way_out() {
    let site = site();
    let mut all = String::new();
    let mut say = |what: &str, text: String| write!(all, "# {what}\n{text}\n").unwrap();
    std::fs::remove_file(site.project.path("impasto.lock")).unwrap();
    say("no lock", site.said(&["build", "--locked"]));
    assert!(!site.project.path("impasto.lock").exists());
    site.build(&[]).ok();
    let lock = site.lock();
    assert_eq!(site.build(&["--locked"]).ok().built, [""; 0]);
    assert_eq!(site.lock(), lock);

    // Another order of the same is the same.
    let recipe = site.project.read("impasto.hcl");
    site.project.write(
        "impasto.hcl",
        &recipe.replace(
            "install = [\"program\"]",
            "install = [\"program\", \"program\"]",
        ),
    );
    site.build(&["--locked", "two"]).ok();
    site.project.write(
        "impasto.hcl",
        &recipe.replace(
            "install = [\"program\"]",
            "install = [\"program\", \"unrelated\"]",
        ),
    );
    say("other packages, locked", site.said(&["build", "--locked"]));
    say("other packages", site.said(&["build"]));
    say("other packages, fetch", site.said(&["fetch"]));
    say("other packages, outdated", site.said(&["outdated"]));
    assert_eq!(site.lock(), lock);
    // What does not need them is built.
    assert_eq!(site.build(&["two"]).ok().cached, ["base", "two"]);
    say("update", site.said(&["update", "one"]));
    assert_eq!(site.build(&["--locked"]).ok().built, ["after", "one"]);

    let more = format!(
        "{recipe}{}",
        site.packages("three", "one", "install = [\"unrelated\"]")
    );
    site.project.write("impasto.hcl", &more);
    say("a stage more, locked", site.said(&["build", "--locked"]));
    site.ok(&["update", "one"]);
    site.ok(&["update", "three"]);
    site.project.write(
        "impasto.hcl",
        &more.replacen("install = [\"program\"]", "install = [\"library\"]", 1),
    );
    say("other packages below", site.said(&["build"]));
    // Renewing what is below renews what stands on it, each package as it was.
    say("update of what is below", site.said(&["update", "one"]));
    site.build(&["--locked"]).ok();
    insta::assert_snapshot!("stale", all);
}

#[test]
fn the_lock_is_sorted_text_and_the_same_each_time() {
    let site = Site::new();
    let stages = [
        "matrix { variant = [\"small\", \"large\", \"larger\"] }\n".to_owned(),
        site.packages(
            "b",
            "base",
            "install = matrix.variant == \"small\" ? [\"small\"] : [\"unrelated\", \"program\"]",
        ),
        site.packages("a", "base", "install = [\"small\"]"),
    ];
    site.recipe(&stages.concat());
    site.ok(&["update"]);
    let lock = site.lock();
    let lines = |word: &str| {
        lock.lines()
            .filter(|line| line.starts_with(word))
            .collect::<Vec<_>>()
    };
    // What is the same for two combinations is one entry.
    assert_eq!(
        lines("name ="),
        [
            "name = \"toolbox\"",
            "name = \"a\"",
            "name = \"b\"",
            "name = \"b\""
        ]
    );
    for entry in lock.split("\n[[").skip(1) {
        let names: Vec<_> = entry
            .lines()
            .filter(|line| line.contains("sha256 = "))
            .collect();
        assert!(!names.is_empty() && names.is_sorted(), "{entry}");
    }
    site.ok(&["update"]);
    assert_eq!(site.lock(), lock);
    std::fs::remove_file(site.project.path("impasto.lock")).unwrap();
    site.ok(&["update"]);
    assert_eq!(site.lock(), lock);
    insta::assert_snapshot!(
        "lock",
        site.shown_text(lock.split_once("[[stage]]").unwrap().1)
    );
}

#[test]
fn a_matrix_that_a_variable_chooses_keeps_what_is_locked_for_other_values() {
    let site = Site::new();
    let stages = |axis: &str| {
        [
            "variable \"size\" { default = \"all\" }\n".to_owned(),
            format!(
                "matrix {{ {axis} = var.size == \"all\" ? [\"small\", \"large\"] : [var.size] }}\n"
            ),
            site.packages("a", "base", "install = [\"small\"]"),
            site.packages(
                "b",
                "base",
                &format!("install = matrix.{axis} == \"small\" ? [\"small\"] : [\"unrelated\"]"),
            ),
        ]
        .concat()
    };
    site.recipe(&stages("size"));
    site.ok(&["fetch"]);
    let lock = site.lock();
    for size in ["small", "large", "small"] {
        site.ok(&["fetch", "--var", &format!("size={size}")]);
        assert_eq!(site.lock(), lock, "{size}");
    }
    // An axis that is no more is nobody's.
    site.recipe(&stages("other"));
    site.ok(&["fetch"]);
    let lock = site.lock();
    assert!(!lock.contains("\"size="), "{lock}");
}

#[test]
fn a_lock_that_somebody_changed_is_refused() {
    let site = site();
    site.ok(&["update"]);
    let lock = site.lock();
    let (head, rest) = lock.split_once("\n[[toolbox]]").unwrap();
    let (tools, stages) = rest.split_once("\n[[stage]]").unwrap();
    // Places in the text must not depend on how many tools there are.
    let lock = format!("{head}\n[[stage]]{stages}\n[[toolbox]]{tools}");
    let hash = stages
        .split("sha256 = \"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .to_owned();
    let other: String = hash.chars().rev().collect();
    let cases: &[(&str, &str, &str)] = &[
        ("a version to come", "version = 2\n", "version = 3\n"),
        ("no version", "version = 2\n", ""),
        ("a hash that is none", &hash, "0123"),
        ("a hash that is a path", &hash, "../../../../etc/passwd"),
        (
            "a path that leads out",
            "pool/main/program/",
            "pool/../../../program/",
        ),
        (
            "a path from the root",
            "path = \"pool/main/program/",
            "path = \"/etc/program/",
        ),
        (
            "a name that is an option",
            "name = \"program\"",
            "name = \"-oDpkg::Pre=x\"",
        ),
        (
            "a version with a shell's words",
            "name = \"program\", version = \"1.0\"",
            "name = \"program\", version = \"1.0 $(id)\"",
        ),
        (
            "a field that nobody knows",
            "name = \"program\", ",
            "name = \"program\", colour = \"red\", ",
        ),
        ("a package without a size", "size = ", "# size = "),
        ("no text", "version = 2\n", "\u{0}"),
        ("marks of a merge", "[[stage]]", "<<<<<<< HEAD\n[[stage]]"),
        ("another hash", &hash, &other),
        ("another size", "size = ", "size = 1"),
    ];
    let mut all = String::new();
    for (what, from, to) in cases {
        let changed = lock.replacen(from, to, 1);
        assert_ne!(changed, lock, "{what}");
        site.project.write("impasto.lock", &changed);
        let said = site.said(&["build", "one", "--progress", "plain"]);
        assert!(
            !said.starts_with("exit 0") && !said.starts_with("exit 1\n"),
            "{what}: {said}"
        );
        write!(all, "# {what}\n{said}\n").unwrap();
    }
    insta::assert_snapshot!("tampered", all);
    // Nothing of it stays.
    site.project.write("impasto.lock", &lock);
    site.build(&["--locked"]).ok();
}

#[test]
fn an_image_that_is_not_what_was_locked_is_refused() {
    let site = Site::new();
    let pool = |name: &str| format!("repository/pool/main/{name}/{name}_1.0_all.deb");
    let run = |name: &str, from: &str, line: &str| {
        format!(
            "stage \"run\" \"{name}\" {{\n  from = stage.{from}\n  commands = [\"{line}\"]\n}}\n"
        )
    };
    let stages = [
        site.packages("first", "base", "install = [\"library\"]"),
        run("takes_out", "first", "dpkg --purge library"),
        site.packages("lacks", "takes_out", "install = [\"program\"]"),
        format!(
            "stage \"copy\" \"file\" {{\n  from = stage.base\n  files = {{ \"/library.deb\" = \"{}\" }}\n}}\n",
            pool("library")
        ),
        run("puts_in", "file", "dpkg -i /library.deb"),
        site.packages("has", "puts_in", "install = [\"program\"]"),
    ];
    site.recipe(&stages.concat());
    let mut all = String::new();
    for stage in ["lacks", "has"] {
        let ran = site.run(&["build", stage, "--progress", "plain"]);
        assert_eq!(ran.code, 4, "{}", ran.stderr);
        let log = site.project.ok(&["log", stage]);
        let said: Vec<_> = log
            .lines()
            .skip_while(|line| !line.starts_with("Reading"))
            .collect();
        writeln!(
            all,
            "# {stage}\n{}\n",
            if said.is_empty() {
                log.clone()
            } else {
                said.join("\n")
            }
        )
        .unwrap();
        assert!(
            ran.stderr
                .contains("this image is not what the lock was made for"),
            "{}",
            ran.stderr
        );
    }
    insta::assert_snapshot!("prediction", all);
}

#[test]
fn a_chain_is_locked_on_what_is_below_without_building_any_of_it() {
    let mut site = Site::new();
    let own = format!(
        "repositories = {{ own = {{ uri = \"{}\", suite = \"stable\", signed_by = file(\"key.asc\") }} }}",
        site.uri
    );
    site.recipe(&format!(
        "stage \"bootstrap\" \"root\" {{\n  suite = \"bookworm\"\n  packages = [\"library\"]\n  {own}\n}}\n\
         stage \"disk\" \"system\" {{\n  tree = stage.root\n  size = \"2GiB\"\n  growpart = false\n}}\n\
         stage \"packages\" \"first\" {{\n  from = stage.system\n  install = [\"program\", \"hello\"]\n}}\n\
         stage \"packages\" \"second\" {{\n  from = stage.first\n  install = [\"library\", \"small\"]\n}}\n"
    ));
    site.ok(&["update", "root", "first", "second"]);
    let names = |stage: &str| -> Vec<String> {
        let lock = site.lock();
        let entry = lock
            .split("\n[[stage]]")
            .find(|entry| entry.contains(&format!("\nname = \"{stage}\"\n")))
            .unwrap();
        let lines = entry.lines().filter_map(|line| {
            line.strip_prefix("  { name = \"")?
                .split_once("\", version")
        });
        lines.map(|(name, _)| name.to_owned()).collect()
    };
    let root = names("root");
    assert!(
        ["library", "apt", "dpkg"]
            .iter()
            .all(|name| root.iter().any(|other| other == name)),
        "{root:?}"
    );
    assert_eq!(
        names("first"),
        ["hello", "program"],
        "what is below is not installed again"
    );
    assert_eq!(names("second"), ["small"]);
    let plan = site.ok(&["plan"]);
    assert!(plan.contains("\n1 dirty, 3 pending, 1 cached\n"), "{plan}");
    site.publish(&library("2.0"));
    let ran = site.run(&["outdated", "second"]);
    assert_eq!(ran.code, 10, "{}", ran.stderr);
    assert!(
        ran.stdout.starts_with("library  1.0 → 2.0  root  own\n"),
        "{}",
        ran.stdout
    );
    assert!(
        ran.stdout
            .ends_with("an update rebuilds root, system, first, second\n"),
        "{}",
        ran.stdout
    );
    let said = site.ok(&["update", "library"]);
    assert_eq!(said, "root: library 1.0 → 2.0\n");
    // What stands on it was resolved again, as it was.
    let ran = site.run(&["outdated"]);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
}
