//! Roots out of packages, and disks out of roots: what they must be the same in, and what they must not tell.

use std::path::Path;

use crate::base::{leftovers, tool};
use crate::debian::{SUITE, mirror};
use crate::project::{Project, Ran, ran};

/// A bootable Debian of what the frozen mirror has.
const RECIPE: &str = r#"
recipe {
  name              = "small"
  source_date_epoch = 1700000000
}
variable "suite" { default = "bookworm" }
variable "size" { default = "2GiB" }
variable "packages" {
  default = ["linux-image-cloud-amd64", "initramfs-tools", "systemd-sysv", "grub-pc-bin", "grub-efi-amd64-signed", "shim-signed"]
}
stage "bootstrap" "root" {
  suite    = var.suite
  packages = var.packages
}
stage "disk" "base" {
  tree = stage.root
  size = var.size
  # The frozen mirror has no package for it.
  growpart = false
}
"#;

fn project() -> Project {
    assert!(
        rustix::process::geteuid().is_root(),
        "these tests need root: they install Debian"
    );
    let project = Project::empty();
    project.write("impasto.hcl", RECIPE);
    project
}

fn build(project: &Project, mirror: &Path, arguments: &[&str]) -> Ran {
    let mut command = project.command(&[&["build"], arguments].concat());
    command.env("IMPASTO_MIRROR", format!("file:{}", mirror.display()));
    ran(command)
}

/// The digests of all disks of a project's store, in the order of their names.
fn disks(project: &Project) -> Vec<String> {
    let list = project.ok(&["layer", "list"]);
    let mut disks: Vec<_> = list
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().nth(1).unwrap().to_owned())
        .collect();
    disks.sort();
    disks
}

#[test]
fn two_cold_builds_give_the_same_disk_which_tells_nothing_of_the_host() {
    let (first, second) = (project(), project());
    // The same packages elsewhere, and another recipe's directory and store: none of it may be in the result.
    let elsewhere = second.path("elsewhere");
    tool(
        "cp",
        &[
            "-al",
            mirror().to_str().unwrap(),
            elsewhere.to_str().unwrap(),
        ],
    );
    std::thread::scope(|scope| {
        for (project, mirror) in [(&first, mirror()), (&second, elsewhere.as_path())] {
            scope.spawn(move || {
                let ran = build(project, mirror, &["base"]);
                assert_eq!(ran.code, 0, "{}", ran.stderr);
            });
        }
    });
    assert_eq!(disks(&first).len(), 1);
    assert_eq!(disks(&first), disks(&second));
    let ran = build(&first, mirror(), &[]);
    assert!(
        ran.stderr.contains("nothing to do: 0 built, 2 cached"),
        "{}",
        ran.stderr
    );
    assert!(!first.path("out").exists(), "nobody asked for the tree");

    // The tree itself.
    let ran = build(&first, mirror(), &["root"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let tree = first.path("out/root.tar");
    let list = tool("tar", &["--numeric-owner", "-tvf", tree.to_str().unwrap()]);
    assert!(list.contains("./bin -> usr/bin"), "it is a root");
    for name in [
        "./etc/hostname",
        "./etc/resolv.conf",
        "ssh_host_",
        "99mmdebstrap",
        "lib/systemd/random-seed",
    ] {
        assert!(!list.contains(name), "{name} is in the tree");
    }
    let machine_id = list
        .lines()
        .find(|line| line.ends_with("./etc/machine-id"))
        .expect("an empty one is there");
    assert!(machine_id.contains(" 0 "), "{machine_id}");
    let sources = tool(
        "tar",
        &["-xOf", tree.to_str().unwrap(), "./etc/apt/sources.list"],
    );
    let releases: Vec<_> = sources
        .lines()
        .map(|line| line.split(' ').nth(2).unwrap())
        .collect();
    assert_eq!(
        releases,
        [
            SUITE.to_owned(),
            format!("{SUITE}-updates"),
            format!("{SUITE}-security")
        ]
    );
    assert!(
        sources.lines().all(|line| line.ends_with(" main")),
        "{sources}"
    );
    let host = std::fs::read_to_string("/etc/hostname").unwrap();
    for word in [
        mirror().to_str().unwrap(),
        elsewhere.to_str().unwrap(),
        first.path("").to_str().unwrap(),
    ] {
        let found = tool(
            "sh",
            &[
                "-c",
                "grep -a -c -F -e \"$1\" \"$2\" || true",
                "sh",
                word,
                tree.to_str().unwrap(),
            ],
        );
        assert_eq!(found.trim(), "0", "{word} is in the tree");
    }
    let found = tool(
        "sh",
        &[
            "-c",
            "tar -xOf \"$2\" ./etc | grep -a -x -F -e \"$1\" || true",
            "sh",
            host.trim(),
            tree.to_str().unwrap(),
        ],
    );
    assert_eq!(found, "", "the host's name is in the tree");

    // The collector may drop what the disk was made of; it is missed only when the disk must be made again.
    let freed = first.ok(&["gc", "--trees", "--min-age", "0s"]);
    // The archive's index goes with the tree.
    assert!(freed.starts_with("deleted 4 objects"), "{freed}");
    let ran = build(&first, mirror(), &["base"]);
    assert!(
        ran.stderr.contains("nothing to do: 0 built, 2 cached"),
        "{}",
        ran.stderr
    );
    let ran = build(&first, mirror(), &["base", "--var", "size=3GiB"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("done: 2 built, 0 cached"),
        "{}",
        ran.stderr
    );
}

#[test]
fn what_cannot_be_installed_is_named_with_the_way_out() {
    let project = project();
    let cases: [(&[&str], &str); 3] = [
        (&["--var", "suite=bookwurm"], "file"),
        (
            &["--var", "packages=[\"no-such-package\", \"nor-this\"]"],
            "file",
        ),
        (&[], "closed"),
    ];
    let mut text = String::new();
    for (arguments, kind) in cases {
        let mut command = project.command(&[&["build", "root"], arguments].concat());
        match kind {
            "file" => command.env("IMPASTO_MIRROR", format!("file:{}", mirror().display())),
            // Nobody listens there.
            _ => command.env("IMPASTO_MIRROR", "http://127.0.0.1:9/debian"),
        };
        let ran = ran(command);
        assert_eq!(ran.code, 4, "{}", ran.stderr);
        text += &format!(
            "# {arguments:?}\n{}\n",
            ran.stderr.replace(mirror().to_str().unwrap(), "MIRROR")
        );
    }
    insta::assert_snapshot!(text);
    // Nothing is locked by halves.
    assert!(!project.path("impasto.lock").exists());
}

#[test]
fn a_bootstrap_that_is_killed_leaves_nothing_behind() {
    use std::io::BufRead;
    let project = project();
    for (signal, code) in [("KILL", None), ("TERM", Some(130))] {
        let mut command = project.command(&["build", "root", "--verbose"]);
        command
            .env("IMPASTO_MIRROR", format!("file:{}", mirror().display()))
            .stderr(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = std::io::BufReader::new(child.stderr.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let seen = lines
            .into_iter()
            .find(|line| line.contains("essential files"));
        assert!(seen.is_some(), "it was at work");
        assert!(
            !leftovers(&project.store()).is_empty(),
            "its processes are there"
        );
        tool("kill", &["-s", signal, &child.id().to_string()]);
        assert_eq!(child.wait().unwrap().code(), code, "{signal}");
        let begun = std::time::Instant::now();
        while !leftovers(&project.store()).is_empty() {
            assert!(
                begun.elapsed().as_secs() < 20,
                "{signal}: {:?}",
                leftovers(&project.store())
            );
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(disks(&project).is_empty(), "nothing half-made is kept");
    }
}
