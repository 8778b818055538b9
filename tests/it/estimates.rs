//! How long a build will take, by what earlier ones took.

use serde_json::Value;

use crate::project::{Project, ran};

/// Events of one kind.
fn of<'e>(events: &'e [Value], kind: &'e str) -> impl Iterator<Item = &'e Value> {
    events.iter().filter(move |event| event["event"] == kind)
}

#[test]
fn a_second_build_knows_how_long_it_takes_and_the_first_one_says_that_it_does_not() {
    let project = Project::with(
        r#"
        matrix { size = ["small", "large"] }
        stage "fetch" "base" { path = "base.qcow2" }
        stage "run" "work" {
          from     = stage.base
          commands = ["sleep 2; echo ${matrix.size} > /size"]
        }
        stage "run" "never" {
          from     = stage.work
          commands = ["true"]
        }
        "#,
    );
    let plan = |arguments: &[&str]| -> Value {
        serde_json::from_str(&project.ok(&[&["plan", "--json"], arguments].concat())).unwrap()
    };
    let cost = plan(&[])["cost"].clone();
    assert_eq!(
        (
            cost["wall_ms"].as_u64(),
            cost["unknown"].as_array().unwrap().len()
        ),
        (None, 5)
    );
    assert!(project.ok(&["plan"]).contains("build time unknown"));
    let (code, events) = project.events(&["work[size=small]"]);
    assert_eq!(code, 0);
    let estimate = of(&events, "estimate").next().unwrap();
    assert_eq!(
        (
            estimate["remaining_ms"].as_u64(),
            estimate["unknown"].as_u64()
        ),
        (None, Some(2))
    );

    // What never ran takes as long as its siblings, or nobody knows.
    let cost = plan(&[])["cost"].clone();
    let wall_ms = cost["wall_ms"].as_u64().unwrap();
    assert!((2000..6000).contains(&wall_ms), "{cost}");
    let unknown = serde_json::json!(["never[size=large]", "never[size=small]"]);
    let sorted = |list: &Value| {
        let mut names: Vec<_> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(sorted(&cost["unknown"]), sorted(&unknown));
    let text = project.ok(&["plan"]);
    assert!(
        text.contains(", plus 2 stages that were never timed\n"),
        "{text}"
    );

    let again = ["work[size=small]", "--rebuild", "work[size=small]"];
    let (code, events) = project.events(&again);
    assert_eq!(code, 0);
    let took = events.last().unwrap()["wall_ms"].as_u64().unwrap();
    let estimate = of(&events, "estimate").next().unwrap();
    assert_eq!(estimate["unknown"], 0);
    let said = estimate["remaining_ms"].as_u64().unwrap();
    assert!(
        said >= 2000 && said.abs_diff(took) < 3000,
        "{said} ms were expected, and it took {took} ms"
    );
    let expected = of(&events, "expected")
        .find(|event| event["stage"] == "work[size=small]")
        .unwrap();
    assert!(expected["wall_ms"].as_u64().unwrap() >= 2000, "{expected}");

    // Nothing to do costs nothing, and what was learned may be lost or damaged.
    assert_eq!(plan(&["work[size=small]"])["cost"]["wall_ms"], 0);
    let lost = walkdir::WalkDir::new(project.store().join("state"))
        .into_iter()
        .flatten();
    let lost: Vec<_> = lost
        .filter(|entry| entry.file_name() == "durations")
        .collect();
    assert_eq!(lost.len(), 1);
    std::fs::write(lost[0].path(), "no durations").unwrap();
    assert_eq!(plan(&["--rebuild", "work"])["cost"]["wall_ms"], Value::Null);
    let ran = ran(project.command(&["build", "work[size=small]"]));
    assert_eq!(ran.code, 0, "{ran:?}");
}
