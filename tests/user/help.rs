//! Help topics, the manual and the HTML reference: what they say, and that what they name exists.

use std::collections::BTreeSet;
use std::fs;

use regex::Regex;
use serde_json::Value;

use crate::project::Project;

/// The topics that `impasto help` lists.
pub(crate) fn topics(project: &Project) -> Vec<String> {
    let list = project.ok(&["help"]);
    let (_, list) = list.split_once("Topics (impasto help TOPIC):\n").unwrap();
    list.lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn topics_are_listed_and_explained() {
    let project = Project::empty();
    let list = project.ok(&["help"]);
    let (_, list) = list.split_once("Topics (impasto help TOPIC):\n").unwrap();
    insta::assert_snapshot!("topics", list);
    for topic in topics(&project) {
        let page = project.ok(&["help", &topic]);
        assert!(page.starts_with(&format!("{topic}: ")), "{page}");
        assert!(
            !page.contains("<!--") && !page.contains("](") && !page.contains("\n\n\n"),
            "{topic}: {page}"
        );
        for line in page.lines().filter(|line| !line.starts_with("    ")) {
            assert!(line.chars().count() <= 100, "{topic}: {line}");
        }
    }
    insta::assert_snapshot!("blocks", project.ok(&["help", "blocks"]));
    insta::assert_snapshot!("environment", project.ok(&["help", "environment"]));
    insta::assert_snapshot!("exit_codes", project.ok(&["help", "exit-codes"]));
}

#[test]
fn functions_are_explained_by_name() {
    let project = Project::empty();
    assert_eq!(
        project.ok(&["help", "functions", "concat"]),
        "concat(lists...)\n    The elements of all lists, in order.\n    concat([\"a\"], [\"b\", \"c\"])  →  [\"a\", \"b\", \"c\"]\n"
    );
    let all = project.ok(&["help", "functions"]);
    for function in impasto::recipe::reference() {
        assert!(
            all.contains(&format!("\n{}\n    ", function.signature)),
            "{}",
            function.signature
        );
    }
    let ran = project.run(&["help", "functions", "concatt"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr
            .contains("did you mean `impasto help functions concat`?"),
        "{}",
        ran.stderr
    );
}

#[test]
fn schemas_say_what_is_printed() {
    let project = Project::empty();
    let schema = |what: &str| -> Value {
        serde_json::from_str(&project.ok(&["help", "json", "--schema", what])).unwrap()
    };
    let events = schema("events");
    let lines = events["oneOf"].as_array().unwrap().iter().map(|event| {
        let fields: Vec<_> = event["properties"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        format!(
            "{}: {}",
            event["properties"]["event"]["const"].as_str().unwrap(),
            fields.join(" ")
        )
    });
    insta::assert_snapshot!("events", lines.collect::<Vec<_>>().join("\n"));
    let stages = schema("stages");
    let printed: Value = serde_json::from_str(&project.ok(&["stages", "--json"])).unwrap();
    let names = |value: &Value| -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(names(&stages["properties"]), names(&printed));
    assert_eq!(
        names(&stages["$defs"]["Kind"]["properties"]),
        names(&printed["kinds"][0])
    );
    assert_eq!(
        names(&stages["$defs"]["Parameter"]["properties"]),
        names(&printed["kinds"][0]["parameters"][0])
    );
}

#[test]
fn events_of_a_build_have_the_fields_of_their_schema() {
    let project = Project::with(
        "stage \"fetch\" \"base\" {\n  path = \"base.qcow2\"\n}\n\nstage \"convert\" \"qcow2\" {\n  from   = stage.base\n  format = \"qcow2\"\n}\n",
    );
    let schema: Value = serde_json::from_str(&project.ok(&["help", "--schema", "events"])).unwrap();
    let printed = project.ok(&["build", "--progress", "json"]);
    assert!(printed.lines().count() > 4, "{printed}");
    for line in printed.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let variants = schema["oneOf"].as_array().unwrap();
        let variant = variants
            .iter()
            .find(|variant| variant["properties"]["event"]["const"] == event["event"])
            .unwrap();
        for name in event.as_object().unwrap().keys() {
            assert!(
                !variant["properties"][name].is_null() || !schema["properties"][name].is_null(),
                "{name} of {line}"
            );
        }
        for name in variant["required"].as_array().into_iter().flatten() {
            assert!(
                !event[name.as_str().unwrap()].is_null()
                    || event.get(name.as_str().unwrap()).is_some(),
                "{line}"
            );
        }
    }
}

#[test]
fn the_html_reference_is_whole_and_its_links_lead_somewhere() {
    let project = Project::empty();
    let index = project.ok(&["help", "--html", "reference"]);
    assert!(
        index.trim_end().ends_with("reference/index.html"),
        "{index}"
    );
    let dir = project.path("reference");
    let page = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    for name in [
        "lock.html",
        "functions.html",
        "stage-run.html",
        "impasto-build.html",
        "impasto-layer-show.html",
    ] {
        assert!(
            page("index.html").contains(&format!("href=\"{name}\"")),
            "{name}"
        );
    }
    let link = Regex::new("href=\"([^\"#]*)(?:#([^\"]*))?\"").unwrap();
    let code = Regex::new("(<a [^>]*>)?<code>(impasto [^<]*)</code>").unwrap();
    let mut links = 0;
    for entry in fs::read_dir(&dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let text = page(&name);
        assert!(
            !text.contains("<script") && !text.contains("http-equiv"),
            "{name}"
        );
        for found in link.captures_iter(&text) {
            assert!(
                dir.join(&found[1]).is_file(),
                "{name} links to {}",
                &found[1]
            );
            links += 1;
        }
        // Code that names a page leads there, but on that page.
        for found in code
            .captures_iter(&text)
            .filter(|found| found.get(1).is_none())
        {
            let words: Vec<_> = found[2].split_whitespace().skip(1).collect();
            let own = ["", "stage-", "impasto-"].iter().any(|subject| {
                words
                    .iter()
                    .any(|word| name == format!("{subject}{word}.html"))
                    || name == format!("{subject}{}.html", words.join("-"))
            });
            assert!(
                own || words[0].chars().all(|c| c.is_uppercase()),
                "{name}: {}",
                &found[2]
            );
        }
    }
    assert!(links > 150, "{links} links");
    assert!(page("functions.html").contains("<h3 id=\"concat\">"));
}

#[test]
fn topics_and_kinds_are_pages_of_the_manual() {
    let project = Project::empty();
    project.ok(&["man-pages", "man"]);
    for name in ["man1/impasto-build.1", "man7/impasto-run.7"] {
        assert!(project.path("man").join(name).is_file(), "{name}");
    }
    for topic in topics(&project) {
        let path = project.path("man").join(format!("man7/impasto-{topic}.7"));
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.contains(&format!(".TH IMPASTO-{} 7", topic.to_uppercase())),
            "{text}"
        );
    }
    insta::assert_snapshot!(
        "manual",
        fs::read_to_string(project.path("man/man7/impasto-exit-codes.7")).unwrap()
    );
}
