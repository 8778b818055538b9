//! One name, one type: a word that several modules use for different things is found by none of their readers.

use std::collections::BTreeMap;
use std::path::Path;

use regex::Regex;

/// How many names may be defined more than once. Lower it when one goes.
const MOST: usize = 10;

#[test]
fn names_of_types_are_hardly_ever_defined_twice() {
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let definition =
        Regex::new(r"(?m)^(?:pub(?:\([^)]*\))? )?type ([A-Z]\w*)|^[ \t]*(?:pub(?:\([^)]*\))? )?(?:struct|enum|trait|union) ([A-Z]\w*)")
            .unwrap();
    let tests = Regex::new(r"#\[cfg\(test\)\]\s*(?:pub(?:\([^)]*\))? )?mod \w+ \{").unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for top in ["src", "stages/src", "store/src"] {
        for entry in walkdir::WalkDir::new(root.join(top)).sort_by_file_name() {
            let entry = entry.unwrap();
            let path = entry
                .path()
                .strip_prefix(root)
                .unwrap()
                .display()
                .to_string();
            if !path.ends_with(".rs") || path.contains("tests") {
                continue;
            }
            let text = std::fs::read_to_string(entry.path()).unwrap();
            let code = tests
                .find(&text)
                .map_or(&*text, |tests| &text[..tests.start()]);
            for found in definition.captures_iter(code) {
                let name = found.get(1).or(found.get(2)).unwrap();
                let line = code[..name.start()].matches('\n').count() + 1;
                names
                    .entry(name.as_str().to_owned())
                    .or_default()
                    .push(format!("{path}:{line}"));
            }
        }
    }
    let all = names.len();
    let twice: Vec<_> = names
        .into_iter()
        .filter(|(_, places)| places.len() > 1)
        .collect();
    println!(
        "{} of {all} names of types are defined more than once",
        twice.len()
    );
    let list: Vec<String> = twice
        .iter()
        .map(|(name, places)| format!("{name}: {}", places.join(", ")))
        .collect();
    assert!(
        twice.len() <= MOST,
        "{} names are defined more than once:\n{}",
        twice.len(),
        list.join("\n")
    );
}
