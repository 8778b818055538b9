//! The repository's recipe of the Ironic Python Agent's ramdisk: what it would build. `tests/it/tinyipa.rs` builds it.

use std::collections::BTreeSet;

use crate::project::Project;

#[test]
fn the_ramdisks_of_both_machines_are_planned() {
    let project = Project::tinyipa();
    let said = project.ok(&["validate", "--var", "arch=all"]);
    assert!(said.contains("2 images, 2 combinations"), "{said}");
    let plan = project.run(&["plan", "--var", "arch=all"]);
    insta::assert_snapshot!("plan", plan.stdout);

    // The environment of those who used Packer, and what is not in it.
    let mut command = project.command(&["graph"]);
    command.env("ARCH", "aarch64").env("BRANCH_PATH", "mine");
    let graph = crate::project::ran(command).stdout;
    assert!(
        graph.contains("ramdisk") && !graph.contains("cd"),
        "{graph}"
    );
    let refused = project.run(&["validate", "--var", "arch=riscv64"]);
    assert!(
        refused.stderr.contains("arch is x86_64, aarch64 or all"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_line_of_the_overlay_is_made_into_ramdisk_archive_and_cd_and_nothing_else() {
    let project = Project::tinyipa();
    let graph = project.ok(&["graph", "--var", "arch=x86_64"]);
    let (mut names, mut edges) = (Vec::new(), Vec::new());
    for line in graph.lines() {
        if let Some((_, label)) = line.split_once("label = \"") {
            names.push(label.split("\\n").next().unwrap());
        } else if let Some((from, to)) = line.split_once(" -> ") {
            let number = |text: &str| text.trim().parse::<usize>().unwrap();
            edges.push((number(from), number(to.trim_end_matches(" [ ]"))));
        }
    }
    let overlay = names.iter().position(|name| *name == "overlay").unwrap();
    let mut after = BTreeSet::from([overlay]);
    // Edges go from a stage to those that come later in the recipe.
    edges.sort_unstable();
    for (from, to) in edges {
        if after.contains(&from) {
            after.insert(to);
        }
    }
    let after: BTreeSet<_> = after.into_iter().map(|place| names[place]).collect();
    assert_eq!(
        after,
        BTreeSet::from(["overlay", "ramdisk", "bundle", "cd"]),
        "{graph}"
    );
}
