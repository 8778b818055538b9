//! What is told while packages are resolved, compared and fetched, and how such a command ends when it is interrupted.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::base::{leftovers, tool};
use crate::mirror::serve;
use crate::project::ran;
use crate::repository::Package;
use crate::server::{Answer, Server};
use crate::site::Site;

/// A site whose repository is reached by HTTP, with a stage that installs two of its packages.
fn site() -> Site {
    let mut site = Site::new();
    site.uri = format!(
        "http://127.0.0.1:{}/own",
        serve(site.repository.dir(), None)
    );
    site.recipe(&site.packages("one", "base", "install = [\"program\"]"));
    site
}

/// The events of a command, without when they came and how long they took.
fn events(site: &Site, arguments: &[&str]) -> Vec<Value> {
    let ran = ran(site.command(&[arguments, &["--progress", "json"]].concat()));
    let lines = ran.stdout.lines();
    let mut events: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
        .collect();
    for event in &mut events {
        let fields = event.as_object_mut().unwrap();
        for field in ["v", "at_ms", "wall_ms"] {
            fields.remove(field);
        }
    }
    assert_eq!(ran.stderr, "", "all of it is events");
    events
}

/// Those of some names, in their order.
fn of(events: &[Value], names: &[&str]) -> Vec<Value> {
    let is_one = |event: &&Value| names.iter().any(|name| event["event"] == *name);
    events.iter().filter(is_one).cloned().collect()
}

fn place(events: &[Value], name: &str) -> usize {
    let found = events.iter().position(|event| event["event"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {events:?}"))
}

#[test]
fn a_build_that_locks_tells_so_before_it_runs() {
    let mut site = site();
    // Another index than those that the store knows.
    site.publish(&Package::new("other", "1.0"));
    let told = events(&site, &["build"]);
    let names = ["resolve_started", "resolve_finished", "locked"];
    let resolved = of(&told, &names);
    let bytes = resolved[1]["bytes"].as_u64().unwrap();
    let lock = site.project.path("impasto.lock");
    let change = resolved[2]["changes"][0].as_str().unwrap();
    assert!(change.starts_with("one: 2 packages, "), "{change}");
    assert!(bytes > 0);
    assert_eq!(
        resolved,
        [
            json!({ "event": "resolve_started", "stage": "one" }),
            json!({ "event": "resolve_finished", "stage": "one", "packages": 2, "bytes": bytes }),
            json!({ "event": "locked", "path": lock, "changes": [change], "written": true }),
        ]
    );
    // How much of the indexes came is told with the stage that they are for.
    let (begun, ended) = (
        place(&told, "resolve_started"),
        place(&told, "resolve_finished"),
    );
    let came = of(&told[begun..ended], &["progress"]);
    let download = came
        .iter()
        .find(|event| event["stage"] == "one" && event["what"] == "download");
    assert!(
        download.is_some_and(|event| event["done_bytes"].as_u64() > Some(0)),
        "{came:?}"
    );
    assert!(place(&told, "locked") < place(&told, "run_started"));
    // A second build has nothing to resolve, and says nothing of it.
    assert_eq!(of(&events(&site, &["build"]), &names), [Value::Null; 0]);
}

#[test]
fn what_locks_compares_and_fetches_without_building_tells_it_too() {
    let mut site = site();
    let update = events(&site, &["update", "--dry-run"]);
    let locked = of(&update, &["locked"]);
    assert_eq!(locked[0]["written"], false);
    assert!(!site.lock().contains("[[stage]]"), "{}", site.lock());
    let update = events(&site, &["update"]);
    assert_eq!(
        of(&update, &["resolve_started", "locked"])[..2],
        [
            json!({ "event": "resolve_started", "stage": "toolbox" }),
            json!({ "event": "resolve_started", "stage": "one" })
        ]
    );
    assert_eq!(of(&update, &["locked"])[0]["written"], true);

    let fetch = events(&site, &["fetch"]);
    let fetched = of(&fetch, &["packages_fetched"]);
    assert_eq!((fetched.len(), &fetched[0]["packages"]), (1, &json!(2)));

    site.publish(&Package::new("library", "2.0"));
    let outdated = events(&site, &["outdated", "--json"]);
    assert_eq!(
        of(&outdated, &["compare_started"]),
        [json!({ "event": "compare_started", "stage": "one" })]
    );
    // The answer is the last line.
    assert_eq!(outdated.last().unwrap()["packages"][0]["newest"], "2.0");
}

#[test]
fn people_read_it_line_by_line() {
    let site = site();
    insta::assert_snapshot!("plain", site.said(&["build", "--progress", "plain"]));
}

#[test]
fn a_build_that_is_interrupted_while_it_locks_ends_in_order() {
    let mut site = site();
    let server = Server::new(|_, _| Answer {
        silence: Some(Duration::from_secs(60)),
        ..Answer::ok(b"not all of it").cut(3)
    });
    site.uri = server.url("own");
    site.recipe(&site.packages("one", "base", "install = [\"program\"]"));
    let before = site.lock();
    let arguments = [
        "build",
        "--progress",
        "json",
        "--summary",
        "s.md",
        "--trace",
        "t.json",
    ];
    let mut command = site.command(&arguments);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let started = |line: &String| line.contains("\"resolve_started\"");
    lines
        .find(|line| line.as_ref().is_ok_and(started))
        .expect("it resolves")
        .unwrap();
    while server.requests().is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    tool("kill", &["-INT", &child.id().to_string()]);
    let rest: Vec<_> = lines.map(Result::unwrap).collect();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), &*stderr), (Some(130), ""));
    assert!(
        rest.last()
            .is_some_and(|line| line.contains("\"interrupted\"")),
        "{rest:?}"
    );
    let summary = site.project.read("s.md");
    assert!(
        summary.starts_with("## Build of `site`: interrupted\n"),
        "{summary}"
    );
    let trace = site.project.read("t.json");
    assert!(trace.contains("\"end\":\"interrupted\""), "{trace}");
    assert_eq!(site.lock(), before);
    assert_eq!(leftovers(&site.project.store()), Vec::<String>::new());
}
