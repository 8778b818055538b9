//! The same recipe and lock on hosts of different distributions: user lands of Debian 12 and Debian 13, made by impasto
//! itself, in which impasto runs as it would there.
//!
//! Needs root, and the host's mirror for Debian 13.

use std::path::Path;

use crate::base::tool;
use crate::debian;
use crate::project::Project;

/// What both hosts build.
const RECIPE: &str = r#"
recipe {
  name              = "same"
  source_date_epoch = 1700000000
}

stage "bootstrap" "root" {
  suite    = "bookworm"
  packages = ["systemd-sysv"]
}

stage "disk" "base" {
  tree       = stage.root
  size       = "1GiB"
  bootloader = []
}
"#;

/// A user land with nothing but what is essential, and apt.
fn user_land(project: &Project, suite: &str) {
    let recipe = format!(
        "recipe {{\n  source_date_epoch = 1700000000\n}}\n\nstage \"bootstrap\" \"{suite}\" {{\n  suite = \"{suite}\"\n}}\n"
    );
    project.write(&format!("lands/{suite}.hcl"), &recipe);
    project.ok(&["build", &format!("lands/{suite}.hcl"), suite]);
    let root = project.path(suite);
    std::fs::create_dir(&root).unwrap();
    let tree = project.path("out").join(format!("{suite}.tar"));
    tool(
        "tar",
        &["-xf", tree.to_str().unwrap(), "-C", root.to_str().unwrap()],
    );
}

/// Builds in a user land, and gives the names of the tree and of the disk.
fn build(project: &Project, suite: &str, mirror: &Path) -> (String, String) {
    let root = project.path(suite);
    for dir in ["mirror", "work"] {
        std::fs::create_dir(root.join(dir)).unwrap();
    }
    std::fs::copy(env!("CARGO_BIN_EXE_impasto"), root.join("usr/bin/impasto")).unwrap();
    for file in ["impasto.hcl", "impasto.lock"] {
        std::fs::copy(
            project.path("same").join(file),
            root.join("work").join(file),
        )
        .unwrap();
    }
    // A root must be a mount point, for the sandbox to leave it.
    let line = "mount --bind \"$1\" \"$1\"; cd \"$1\"
        mount --rbind /proc proc; mount --rbind /dev dev; mount --rbind /sys sys; mount --bind \"$2\" mirror
        exec chroot . /bin/sh -euc 'cd /work; export HOME=/root NO_COLOR=1 IMPASTO_MIRROR=file:/mirror
            impasto build --locked --store store root base >&2; cat out/root.tar.sha256; impasto layer show --store store base'";
    let (root, mirror) = (root.to_str().unwrap(), mirror.to_str().unwrap());
    let said = tool(
        "unshare",
        &[
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-euc",
            line,
            "sh",
            root,
            mirror,
        ],
    );
    let tree = said.split_whitespace().next().unwrap().to_owned();
    let disk = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("disk:"))
        .unwrap();
    (tree, disk.trim().to_owned())
}

#[test]
fn hosts_of_two_distributions_make_the_same_tree_and_disk() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test needs root: it installs Debian"
    );
    let mirror = debian::mirror();
    let project = Project::empty();
    ["bookworm", "trixie"]
        .iter()
        .for_each(|suite| user_land(&project, suite));
    project.write("same/impasto.hcl", RECIPE);
    project.ok(&[
        "update",
        "same",
        "--mirror",
        &format!("file:{}", mirror.display()),
    ]);
    let twelve = build(&project, "bookworm", mirror);
    let thirteen = build(&project, "trixie", mirror);
    assert_eq!(twelve, thirteen);
    assert_eq!(twelve.0.len(), 64, "{twelve:?}");
    for (suite, version) in [("bookworm", "12"), ("trixie", "13")] {
        let release = std::fs::read_to_string(project.path(suite).join("etc/os-release")).unwrap();
        assert!(
            release.contains(&format!("VERSION_ID=\"{version}\"")),
            "{release}"
        );
    }
}
