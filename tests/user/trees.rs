//! Trees of files made of directories and archives: what is left out, what is refused, and which file changed.

use std::io::Read as _;
use std::process::Command;

use crate::project::Project;

/// A recipe of one tree, with these lines.
fn recipe(project: &Project, lines: &str) {
    let stage = format!("stage \"fetch\" \"tree\" {{\n  as = \"tree\"\n{lines}\n}}\n");
    let image = "image \"it\" {\n  name  = \"it\"\n  files = { \"tree.tar\" = stage.tree }\n}\n";
    project.write("impasto.hcl", &(stage + image));
}

/// The paths of the tree that was built, each with its permission bits and what is in it.
fn tree(project: &Project) -> Vec<String> {
    let archive = std::fs::read(project.path("out/it/tree.tar")).unwrap();
    let mut archive = tar::Archive::new(archive.as_slice());
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        let mode = entry.header().mode().unwrap();
        format!("{} {mode:o} {text}", entry.path().unwrap().display())
    });
    entries.collect()
}

fn tar(project: &Project, words: &[&str]) {
    let status = Command::new("tar")
        .current_dir(project.path(""))
        .args(words)
        .status();
    assert!(status.unwrap().success(), "{words:?}");
}

#[test]
fn a_directory_without_what_is_ignored_is_a_tree_and_why_names_the_file() {
    let project = Project::empty();
    project.write("src/a.c", "a");
    project.write("src/net/b.c", "b");
    project.write("src/a.o", "object");
    recipe(&project, "  path = \"src\"\n  ignore = [\"*.o\"]");
    assert_eq!(project.build(&[]), (1, 0));
    assert_eq!(tree(&project), ["a.c 644 a", "net 755 ", "net/b.c 644 b"]);
    project.write("src/b.o", "object");
    project.write(".impastoignore", "# logs\n*.log\n");
    project.write("src/net/x.log", "log");
    assert_eq!(
        project.build(&[]),
        (0, 1),
        "what is left out changes nothing"
    );
    for (change, told) in [
        (("src/net/x.gz", "new"), "src: net/x.gz is new"),
        (("src/a.c", "other"), "src: a.c changed"),
    ] {
        let (path, text) = change;
        project.write(path, text);
        let why = project.ok(&["why", "tree"]);
        assert!(why.contains(told), "{told} is not in:\n{why}");
        let plan = project.ok(&["plan"]);
        assert!(plan.contains(told), "{told} is not in:\n{plan}");
        assert_eq!(project.build(&[]), (1, 0));
    }
    std::fs::remove_file(project.path("src/net/b.c")).unwrap();
    project.write("src/c.c", "c");
    let why = project.ok(&["why", "tree"]);
    assert!(why.contains("src: c.c is new, and 1 more"), "{why}");
}

#[test]
fn archives_of_others_are_trees_within_bounds() {
    let project = Project::empty();
    project.write("linux-6.1/net/xt_TCPMSS.h", "upper");
    project.write("linux-6.1/net/xt_tcpmss.h", "lower");
    project.write("linux-6.1/README", "read me");
    for (name, option) in [
        ("l.tar", "-cf"),
        ("l.tar.gz", "-czf"),
        ("l.tar.xz", "-cJf"),
        ("l.tar.zst", "--zstd"),
    ] {
        match option {
            "--zstd" => tar(&project, &["--zstd", "-cf", name, "linux-6.1"]),
            option => tar(&project, &[option, name, "linux-6.1"]),
        }
        recipe(
            &project,
            &format!("  path = \"{name}\"\n  strip = 1\n  subdirectory = \"net\""),
        );
        project.ok(&["build"]);
        assert_eq!(
            tree(&project),
            ["xt_TCPMSS.h 644 upper", "xt_tcpmss.h 644 lower"],
            "{name}"
        );
    }
    let refused = |lines: &str, expected: &[&str]| {
        recipe(&project, lines);
        let ran = project.run(&["build"]);
        assert_eq!(ran.code, 4, "{}", ran.stderr);
        for text in expected {
            assert!(
                ran.stderr.contains(text),
                "{text:?} is not in:\n{}",
                ran.stderr
            );
        }
    };
    refused(
        "  path = \"l.tar\"\n  subdirectory = \"net\"",
        &[
            "`l.tar` cannot be used as a tree of files",
            "it has nothing below \"net\"",
            "help: at its top it has linux-6.1",
        ],
    );
    refused(
        "  path = \"impasto.hcl\"",
        &[
            "it is not a tar archive, plain or compressed",
            "help: remove `as = \"tree\"`",
        ],
    );
    tar(&project, &["-cPf", "absolute.tar", "/etc/hostname"]);
    refused(
        "  path = \"absolute.tar\"",
        &[
            "its member \"/etc/hostname\" cannot be part of a tree",
            "help: use it as a file, and unpack it in a `run` stage",
        ],
    );
    std::os::unix::fs::symlink("../../etc", project.path("linux-6.1/out")).unwrap();
    tar(&project, &["-cf", "link.tar", "linux-6.1"]);
    refused(
        "  path = \"link.tar\"",
        &["its link \"linux-6.1/out\" leads out of it, to \"../../etc\""],
    );
    tar(
        &project,
        &["-cf", "twice.tar", "linux-6.1/README", "./linux-6.1/README"],
    );
    refused(
        "  path = \"twice.tar\"",
        &["\"linux-6.1/README\" is there twice"],
    );
    // A few bytes that unpack to very many.
    std::fs::File::create(project.path("zeros"))
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    tar(&project, &["-czf", "bomb.tgz", "zeros"]);
    recipe(&project, "  path = \"bomb.tgz\"");
    let mut command = project.command(&["build"]);
    command.env("IMPASTO_UNPACK_LIMIT", "1MiB");
    let ran = crate::project::ran(command);
    assert!(
        ran.code == 4 && ran.stderr.contains("it unpacks to more than the limit of"),
        "{}",
        ran.stderr
    );
}
