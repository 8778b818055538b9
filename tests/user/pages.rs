//! The pages of the repository: that what they name exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use regex::Regex;

use crate::help::topics;
use crate::project::Project;

const PAGES: [&str; 5] = [
    "README.md",
    "CONTRIBUTING.md",
    "src/ARCHITECTURE.md",
    "store/FORMAT.md",
    "benches/README.md",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The pages of the repository and the topics of help: paths and texts.
fn pages() -> Vec<(String, String)> {
    let topics = fs::read_dir(root().join("src/cli/help"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let topics = topics
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.ends_with(".md"));
    let paths = PAGES
        .into_iter()
        .map(str::to_owned)
        .chain(topics.map(|name| format!("src/cli/help/{name}")));
    paths.map(|path| (path.clone(), read(&path))).collect()
}

/// All files of the repository, but for what is built and for what git ignores at the top.
fn files() -> Vec<String> {
    fn add(dir: &Path, files: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path
                .strip_prefix(root())
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            match path.is_dir() && !path.is_symlink() {
                true if ["target", "out", ".git"].contains(&&*name) => {}
                true => {
                    files.push(format!("{name}/"));
                    add(&path, files);
                }
                false => files.push(name),
            }
        }
    }
    let mut all = Vec::new();
    add(root(), &mut all);
    all
}

/// A page's blocks of code with their languages, and its text without them.
fn parts(text: &str) -> (Vec<(String, String)>, String) {
    let fence = Regex::new(r"(?ms)^```(\w*)\n(.*?)^```$").unwrap();
    let blocks = fence
        .captures_iter(text)
        .map(|found| (found[1].to_owned(), found[2].to_owned()))
        .collect();
    (blocks, fence.replace_all(text, "").into_owned())
}

/// What stands between backquotes.
fn spans(text: &str) -> Vec<String> {
    let span = Regex::new("`([^`]+)`").unwrap();
    span.captures_iter(text)
        .map(|found| found[1].replace('\n', " "))
        .collect()
}

#[test]
fn the_readme_is_short_and_lists_all_topics() {
    let readme = read("README.md");
    assert!(
        readme.lines().count() < 200,
        "{} lines",
        readme.lines().count()
    );
    for topic in topics(&Project::empty()) {
        let title = read(&format!("src/cli/help/{topic}.md"));
        let (name, summary) = title.lines().next().unwrap().split_once(": ").unwrap();
        assert_eq!(name, format!("# {topic}"));
        assert!(
            readme.contains(&format!(
                "| [{topic}](src/cli/help/{topic}.md) | {summary} |\n"
            )),
            "{topic}"
        );
    }
}

#[test]
fn links_lead_somewhere() {
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    for (page, text) in pages() {
        let (_, prose) = parts(&text);
        for found in link
            .captures_iter(&prose)
            .filter(|found| !found[1].starts_with("http"))
        {
            let (path, anchor) = found[1].split_once('#').unwrap_or((&found[1], ""));
            let target = match path {
                "" => root().join(&page),
                path => root().join(&page).parent().unwrap().join(path),
            };
            assert!(target.exists(), "{page} links to {path}");
            if !anchor.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let headings = text.lines().filter_map(|line| {
                    Some(line.strip_prefix('#')?.trim_start_matches('#').trim())
                });
                let plain = |c: &char| c.is_alphanumeric() || " -".contains(*c);
                let known = headings.map(|heading| {
                    heading
                        .to_lowercase()
                        .chars()
                        .filter(plain)
                        .collect::<String>()
                });
                assert!(
                    known
                        .map(|heading| heading.replace(' ', "-"))
                        .any(|id| id == anchor),
                    "{page}: #{anchor}"
                );
            }
        }
    }
}

#[test]
fn files_that_are_named_exist() {
    let files = files();
    let path = Regex::new(
        r"^[A-Za-z0-9_.-]*(/[A-Za-z0-9_.-]+)*\.(rs|md|sh)$|^(src|stages|store|tests|benches|recipes)/[a-z0-9_/-]*$",
    )
    .unwrap();
    for (page, text) in pages()
        .into_iter()
        .filter(|(page, _)| PAGES.contains(&&**page))
    {
        for name in spans(&parts(&text).1)
            .iter()
            .filter(|name| path.is_match(name))
        {
            // Of a file that a reader is to write.
            if name.contains("NAME") || name.ends_with("timezone.rs") || name.starts_with('.') {
                continue;
            }
            let (name, inner) = (
                name.trim_end_matches('/'),
                format!("/{}", name.trim_end_matches('/')),
            );
            let is_it = |file: &str| file == name || file.ends_with(&inner);
            assert!(
                files.iter().any(|file| is_it(file.trim_end_matches('/'))),
                "{page} names {name}"
            );
        }
    }
}

#[test]
fn identifiers_that_the_architecture_names_exist() {
    let sources = files()
        .into_iter()
        .filter(|file| file.ends_with(".rs") || file.ends_with("Cargo.toml"));
    let sources: Vec<String> = sources.map(|file| read(&file)).collect();
    let words = |text: &str| -> Vec<String> {
        text.split(|c: char| !c.is_alphanumeric() && c != '_')
            .map(str::to_owned)
            .collect()
    };
    let known: BTreeSet<String> = sources.iter().flat_map(|text| words(text)).collect();
    let identifier = Regex::new(r"^(\w+::)*\w+(\(.*\))?$").unwrap();
    let unknown: BTreeSet<String> = spans(&parts(&read("src/ARCHITECTURE.md")).1)
        .into_iter()
        .filter(|span| identifier.is_match(span))
        .flat_map(|span| words(&span))
        .filter(|name| !known.contains(name))
        .collect();
    assert!(
        unknown.is_empty(),
        "src/ARCHITECTURE.md names what is not there: {unknown:?}"
    );
}

#[test]
fn rooms_are_all_on_the_map() {
    let library = read("src/lib.rs");
    let rooms = library
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let map = read("src/ARCHITECTURE.md");
    for room in rooms {
        assert!(
            map.contains(&format!("\n| `{room}` | ")),
            "{room} is not on the map of src/ARCHITECTURE.md"
        );
        assert!(root().join("src").join(room).is_dir(), "{room}");
    }
}

/// The words of a line of shell after `impasto`, up to the end of the command.
fn commands(line: &str) -> Vec<Vec<String>> {
    let line = line.split(" #").next().unwrap_or_default();
    let parts = line
        .split(" && ")
        .flat_map(|part| part.split("; "))
        .flat_map(|part| part.split(" | "));
    let called = parts.filter_map(|part| {
        let words: Vec<_> = part
            .split_whitespace()
            .map(|word| word.trim_end_matches([',', '.', ')']))
            .collect();
        let program = words
            .iter()
            .position(|word| *word == "impasto" || word.ends_with("/impasto"))?;
        Some(
            words[program + 1..]
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>(),
        )
    });
    called.filter(|words| !words.is_empty()).collect()
}

#[test]
fn commands_that_are_named_exist() {
    let mut program = impasto::cli::Cli::command();
    program.build();
    let topics = topics(&Project::empty());
    let mut count = 0;
    for (page, text) in pages() {
        let (blocks, prose) = parts(&text);
        let shell = blocks
            .iter()
            .filter(|(language, _)| language == "sh")
            .flat_map(|(_, text)| text.lines());
        let spans: Vec<String> = spans(&prose)
            .into_iter()
            .filter(|span| span.contains("impasto "))
            .collect();
        for words in shell
            .chain(spans.iter().map(String::as_str))
            .flat_map(commands)
        {
            // A placeholder, or not a command line: `command: impasto` of a file of settings.
            if words[0].chars().all(|c| !c.is_lowercase()) || words[0].starts_with("help://") {
                continue;
            }
            let line = format!("{page}: impasto {}", words.join(" "));
            let mut command = program
                .find_subcommand(&words[0])
                .unwrap_or_else(|| panic!("{line}: no such command"));
            if let Some(inner) = words.get(1).and_then(|word| command.find_subcommand(word)) {
                command = inner;
            }
            for word in words.iter().filter_map(|word| word.strip_prefix("--")) {
                let flag = word.split('=').next().unwrap_or_default();
                let known = command.get_arguments().any(|arg| {
                    arg.get_long() == Some(flag)
                        || arg.get_all_aliases().is_some_and(|all| all.contains(&flag))
                });
                assert!(known, "{line}: no such flag");
            }
            if words[0] == "help" && words.len() > 1 && words[1].chars().all(char::is_lowercase) {
                let known =
                    topics.contains(&words[1]) || program.find_subcommand(&words[1]).is_some();
                assert!(known || words[1] == "run", "{line}: no such topic");
            }
            count += 1;
        }
    }
    assert!(count > 80, "{count} commands");
}

#[test]
fn targets_of_make_that_are_named_exist() {
    let makefile = read("Makefile");
    let named = Regex::new(r"\bmake ([a-z][a-z-]*)").unwrap();
    let mut paths = Vec::new();
    for (page, text) in pages() {
        let (blocks, prose) = parts(&text);
        let shell = blocks
            .into_iter()
            .filter(|(language, _)| language == "sh")
            .map(|(_, text)| text);
        for code in shell.chain(spans(&prose)) {
            for found in named.captures_iter(&code) {
                let target = format!("\n{}:", &found[1]);
                assert!(makefile.contains(&target), "{page}: make {}", &found[1]);
                paths.push(PathBuf::from(&page));
            }
        }
    }
    assert!(paths.len() > 10, "{} targets", paths.len());
}

#[test]
fn every_variable_that_is_read_is_explained() {
    let project = Project::new();
    let help = project.ok(&["help", "environment"]);
    let literal = Regex::new(r#""(IMPASTO_[A-Z_]*)""#).unwrap();
    // Of the build and of our own processes among themselves.
    let internal = [
        "IMPASTO_AGENT",
        "IMPASTO_COMMIT",
        "IMPASTO_",
        "IMPASTO_VAR_",
    ];
    let mut found = BTreeSet::new();
    for entry in walkdir::WalkDir::new(root().join("src")) {
        let entry = entry.unwrap();
        if entry
            .path()
            .extension()
            .is_some_and(|ending| ending == "rs")
        {
            let text = fs::read_to_string(entry.path()).unwrap();
            found.extend(literal.captures_iter(&text).map(|name| name[1].to_owned()));
        }
    }
    assert!(found.len() > internal.len(), "{found:?}");
    for name in found
        .iter()
        .filter(|name| !internal.contains(&name.as_str()))
    {
        assert!(
            help.lines().any(|line| line == name),
            "`impasto help environment` does not explain {name}"
        );
    }
}
