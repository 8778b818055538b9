//! Results in use are never deleted: whoever built them, however they were found, whatever was damaged meanwhile.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::base::tool;
use crate::project::Project;

/// Nothing that needs a sandbox: what is kept does not depend on it.
const RECIPE: &str = r#"
stage "fetch" "base" { path = "base.qcow2" }
stage "convert" "qcow2" {
  from   = stage.base
  format = "qcow2"
}
stage "fetch" "note" { path = "note.txt" }
stage "fetch" "other" { path = "other.txt" }
image "it" {
  name  = "it"
  files = [stage.qcow2, stage.note, stage.other]
}
"#;

/// Nodes of the recipe.
const NODES: u64 = 4;

fn project() -> Project {
    let project = Project::with(RECIPE);
    project.write("note.txt", "one\n");
    project.write("other.txt", "other\n");
    project
}

/// A second checkout of the recipe, which uses the same store: the arguments that name it.
fn checkout(project: &Project, dir: &str) -> Vec<String> {
    for file in ["impasto.hcl", "base.qcow2", "note.txt", "other.txt"] {
        std::fs::create_dir_all(project.path(dir)).unwrap();
        std::fs::copy(project.path(file), project.path(&format!("{dir}/{file}"))).unwrap();
    }
    let (recipe, out) = (format!("./{dir}"), format!("{dir}/out"));
    vec!["--recipe".to_owned(), recipe, "--out".to_owned(), out]
}

fn build(project: &Project, arguments: &[String]) -> (u64, u64) {
    project.build(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The roots of a store.
fn roots(project: &Project) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(project.store().join("roots"));
    entries.map_or_else(
        |_| Vec::new(),
        |entries| entries.map(|entry| entry.unwrap().path()).collect(),
    )
}

fn only_root(project: &Project) -> PathBuf {
    let [root] = roots(project).try_into().unwrap();
    root
}

/// Every file of the store that `gc` could change, with what it holds.
fn content(project: &Project) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = walkdir::WalkDir::new(project.store())
        .into_iter()
        .map(Result::unwrap);
    files
        .filter(|file| file.file_type().is_file())
        .map(|f| (f.path().to_owned(), std::fs::read(f.path()).unwrap()))
        .collect()
}

fn used_days_ago(root: &Path, days: u64) {
    let at = SystemTime::now() - Duration::from_secs(days * 24 * 3600);
    std::fs::File::open(root).unwrap().set_modified(at).unwrap();
}

fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn what_was_found_is_kept_like_what_was_made() {
    let project = project();
    project.build(&[]);
    project.write("note.txt", "two\n");
    assert_eq!(project.build(&[]), (1, NODES - 1));
    project.write("note.txt", "one\n");
    assert_eq!(project.build(&[]), (0, NODES));
    let said = project.ok(&["gc"]);
    assert!(
        !said.starts_with("deleted 0 objects"),
        "the other edit is gone: {said}"
    );
    assert_eq!(
        project.build(&[]),
        (0, NODES),
        "the results of the last build are there"
    );
    project.write("note.txt", "two\n");
    assert_eq!(project.build(&[]), (1, NODES - 1));
}

#[test]
fn a_second_checkout_keeps_what_it_found_when_the_first_goes_on_or_is_gone() {
    let project = project();
    let first = checkout(&project, "first");
    let second = checkout(&project, "second");
    assert_eq!(build(&project, &first), (NODES, 0));
    assert_eq!(build(&project, &second), (0, NODES));
    assert_eq!(roots(&project).len(), 2);
    project.write("first/note.txt", "two\n");
    assert_eq!(build(&project, &first), (1, NODES - 1));
    project.ok(&["gc"]);
    assert_eq!(build(&project, &second), (0, NODES));
    assert_eq!(build(&project, &first), (0, NODES));
    std::fs::remove_dir_all(project.path("first")).unwrap();
    project.ok(&["gc"]);
    assert_eq!(build(&project, &second), (0, NODES));
    // The first is forgotten some day.
    for root in roots(&project) {
        used_days_ago(&root, 31);
    }
    assert_eq!(
        build(&project, &second),
        (0, NODES),
        "which notes that it is used"
    );
    let said = project.ok(&["gc"]);
    assert!(
        said.contains("nothing for 1 recipe that was not used for 30d"),
        "{said}"
    );
    assert_eq!(roots(&project).len(), 1);
    assert_eq!(build(&project, &second), (0, NODES));
}

#[test]
fn a_checkout_that_is_not_used_any_more_keeps_nothing() {
    let project = project();
    project.build(&[]);
    let root = only_root(&project);
    used_days_ago(&root, 29);
    project.ok(&["gc"]);
    assert_eq!(project.build(&[]), (0, NODES));
    used_days_ago(&root, 3);
    assert!(
        project
            .ok(&["gc", "--dry-run", "--expire", "2d"])
            .starts_with("would delete")
    );
    assert!(root.exists());
    project.ok(&["gc", "--expire", "4d"]);
    assert_eq!(project.build(&[]), (0, NODES));
    used_days_ago(&root, 3);
    project.ok(&["gc", "--expire", "2d"]);
    assert!(!root.exists());
    // What is remembered does not bring it back.
    project.ok(&["gc"]);
    assert!(!root.exists());
    assert_eq!(project.build(&[]), (NODES, 0));
}

#[test]
fn a_build_in_which_nothing_changed_writes_no_root_and_notes_its_use_once_an_hour() {
    let project = project();
    project.build(&[]);
    let root = only_root(&project);
    let before = std::fs::metadata(&root).unwrap();
    project.build(&[]);
    let same = std::fs::metadata(&root).unwrap();
    assert_eq!(
        (same.ino(), same.mtime_nsec()),
        (before.ino(), before.mtime_nsec())
    );
    let hour = SystemTime::now() - Duration::from_secs(3700);
    std::fs::File::open(&root)
        .unwrap()
        .set_modified(hour)
        .unwrap();
    project.build(&[]);
    let used = std::fs::metadata(&root).unwrap();
    assert_eq!(used.ino(), before.ino());
    assert!(used.modified().unwrap() > hour + Duration::from_secs(3600));
}

#[test]
fn a_part_of_the_recipe_keeps_the_rest_and_the_whole_drops_what_is_gone() {
    let project = project();
    project.build(&[]);
    project.write("note.txt", "two\n");
    assert_eq!(project.build(&["note"]), (1, 0));
    project.ok(&["gc"]);
    assert_eq!(project.build(&[]), (0, NODES));
    // A stage that is gone keeps its result until the whole recipe was built without it.
    let without = RECIPE
        .replace("stage.note, stage.other", "stage.note")
        .replace("stage \"fetch\" \"other\" { path = \"other.txt\" }\n", "");
    project.write("impasto.hcl", &without);
    assert_eq!(project.build(&["note"]), (0, 1));
    project.ok(&["gc"]);
    project.write("impasto.hcl", RECIPE);
    assert_eq!(project.build(&[]), (0, NODES));
    project.write("impasto.hcl", &without);
    assert_eq!(project.build(&[]), (0, NODES - 1));
    project.ok(&["gc"]);
    project.write("impasto.hcl", RECIPE);
    assert_eq!(project.build(&[]), (1, NODES - 1));
}

#[test]
fn a_failed_build_keeps_what_it_made_and_what_the_rest_came_to_before() {
    let project = project();
    project.build(&[]);
    project.write("note.txt", "two\n");
    // Nobody listens there.
    let checksum = "0".repeat(64);
    let url =
        format!("{{\n  url = \"http://127.0.0.1:1/other\"\n  checksum = \"sha256:{checksum}\"\n}}");
    project.write(
        "impasto.hcl",
        &RECIPE.replace(r#"{ path = "other.txt" }"#, &url),
    );
    let (code, counts) = project.try_build(&["--keep-going"]);
    assert_eq!((code, counts.built, counts.failed), (4, 1, 1), "{counts:?}");
    project.ok(&["gc"]);
    project.write("impasto.hcl", RECIPE);
    assert_eq!(
        project.build(&[]),
        (0, NODES),
        "the new note, and the others as they were"
    );
}

#[test]
fn combinations_keep_their_results_whichever_are_chosen() {
    let recipe = r#"
matrix { variant = ["a", "b"] }
stage "fetch" "note" { path = "${matrix.variant}.txt" }
image "it" {
  name  = "it-${matrix.variant}"
  files = [stage.note]
}
"#;
    let project = Project::with(recipe);
    project.write("a.txt", "a\n");
    project.write("b.txt", "b\n");
    assert_eq!(project.build(&[]), (2, 0));
    project.write("a.txt", "c\n");
    assert_eq!(project.build(&["--only", "variant=a"]), (1, 0));
    project.ok(&["gc"]);
    assert_eq!(project.build(&[]), (0, 2));
    // Both are one node now.
    project.write(
        "impasto.hcl",
        &recipe.replace("${matrix.variant}.txt", "b.txt"),
    );
    assert_eq!(project.build(&["--only", "variant=a"]), (0, 1));
    project.ok(&["gc"]);
    assert_eq!(project.build(&[]), (0, 1));
}

/// Damages a file that tells what to keep: `gc` refuses, again and again, until what it says is done.
fn refused(project: &Project, path: &Path, follow: impl FnOnce(&str)) {
    damage(path);
    let before = content(project);
    let refusals: Vec<_> = (0..2).map(|_| project.run(&["gc"])).collect();
    assert_eq!(refusals[0].code, 1, "{refusals:?}");
    assert_eq!(refusals[0].stderr, refusals[1].stderr);
    assert!(
        refusals[0].stderr.contains(&path.display().to_string()),
        "{refusals:?}"
    );
    assert!(content(project) == before, "nothing was touched");
    // A part of the recipe does not tell what the rest needs.
    assert_eq!(project.build(&["other"]), (0, 1));
    assert_eq!(project.run(&["gc"]).stderr, refusals[0].stderr);
    follow(&refusals[0].stderr);
}

#[test]
fn an_unreadable_root_stops_the_collector_until_its_recipe_is_built() {
    let project = project();
    project.build(&[]);
    let root = only_root(&project);
    refused(&project, &root, |said| {
        assert!(said.contains("`impasto build` without selectors"), "{said}");
        assert_eq!(project.build(&[]), (0, NODES));
    });
    project.ok(&["gc"]);
    assert_eq!(project.build(&[]), (0, NODES));
    assert_eq!(project.run(&["store", "verify"]).code, 0);
    refused(&project, &root, |said| {
        assert!(
            said.contains(&format!("rm -r {}", root.display())),
            "{said}"
        );
        tool("rm", &[root.to_str().unwrap()]);
    });
    project.ok(&["gc"]);
    assert_eq!(
        project.build(&[]),
        (0, NODES),
        "what is remembered brings it back once more"
    );
}

/// What is remembered of the only recipe.
fn memory(project: &Project) -> PathBuf {
    let root = only_root(project);
    project
        .store()
        .join("state")
        .join(root.file_name().unwrap())
        .join("memory")
}

#[test]
fn an_unreadable_memory_deletes_nothing() {
    let project = project();
    project.build(&[]);
    damage(&memory(&project));
    project.ok(&["gc"]);
    project.ok(&["gc"]);
    assert_eq!(project.build(&[]), (0, NODES));
}

#[test]
fn a_store_of_a_version_without_roots_loses_nothing() {
    let project = project();
    project.build(&[]);
    let (root, memory) = (only_root(&project), memory(&project));
    let forget = || std::fs::remove_file(&root).unwrap();
    // The collector makes a root of what is remembered; so does a build of a part.
    forget();
    project.ok(&["gc"]);
    assert_eq!(project.build(&[]), (0, NODES));
    forget();
    assert_eq!(project.build(&["note"]), (0, 1));
    project.ok(&["gc"]);
    assert_eq!(project.build(&[]), (0, NODES));
    // Where it cannot be read, nobody knows what to keep.
    forget();
    refused(&project, &memory, |_| {
        assert_eq!(project.build(&[]), (0, NODES))
    });
    project.ok(&["gc"]);
    assert_eq!(project.build(&[]), (0, NODES));
}
