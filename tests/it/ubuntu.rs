//! Ubuntu's form of an archive: pockets, components, keys, sources of the image.
//!
//! Ubuntu's own archive is not reached from here. A stand-in takes its place: signed by a key of ours, in Ubuntu's form,
//! of Debian's packages, of which those that tell the release are repacked as Ubuntu has them.

use std::fs;
use std::path::{Path, PathBuf};

use impasto::deb::control;

use crate::base::tool;
use crate::debian::{SUITE, mirror, once, run};
use crate::mirror::{frozen_mirror, serve};
use crate::project::{Project, Ran, ran};
use crate::repository::{Key, Package, Repository};
use crate::torture;

const OS_RELEASE: &str = "PRETTY_NAME=\"Ubuntu 24.04 LTS (stand-in)\"\nNAME=\"Ubuntu\"\nVERSION_ID=\"24.04\"\n\
    VERSION=\"24.04 LTS (Noble Numbat)\"\nVERSION_CODENAME=noble\nID=ubuntu\nID_LIKE=debian\n";

const SOURCES: &str = "# Ubuntu's example for apt\nTypes: deb\nURIs: http://archive.ubuntu.example/ubuntu\n\
    Suites: noble noble-updates noble-backports\nComponents: main restricted universe multiverse\n\
    Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg\n\n\
    Types: deb\nURIs: http://security.ubuntu.example/ubuntu\nSuites: noble-security\n\
    Components: main restricted universe multiverse\nSigned-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg\n";

const COMPONENTS: [&str; 2] = ["main", "universe"];

/// Who signs the stand-in.
fn key() -> Key {
    Key::new(2404)
}

/// An archive in Ubuntu's form, of a frozen mirror's packages.
fn stand_in(name: &str, debian: &Path) -> PathBuf {
    once(&format!("ubuntu-stand-in-{name}-3"), |dir| {
        let mut repository = Repository::new(dir, key());
        let index = debian
            .join("dists")
            .join(SUITE)
            .join("main/binary-amd64/Packages.xz");
        let text = run("xz -dc \"$1\"", &[&index]);
        for stanza in control::stanzas(&text) {
            let (name, path) = (
                stanza.get("Package").unwrap(),
                stanza.get("Filename").unwrap(),
            );
            let deb = debian.join(path);
            if !deb.exists() {
                continue;
            }
            let to = dir.join(path);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            let text = match name {
                "base-files" | "apt" => repacked(name, &deb, dir, path),
                _ => {
                    fs::hard_link(&deb, &to).unwrap();
                    format!("{}\n", String::from_utf8_lossy(stanza.text()).trim_end())
                }
            };
            repository.add_paragraph("noble", "main", name, text);
        }
        let kernel = Package::new("linux-image-virtual", "6.8.0-31.31")
            .architecture("amd64")
            .depends("linux-image-cloud-amd64");
        repository.add("noble", "main", &kernel);
        let tool =
            |version| Package::new("impasto-tool", version).file("usr/share/impasto-tool", version);
        repository.add("noble", "universe", &tool("1.0"));
        // Pockets of a release that got next to nothing yet; all have all components.
        for pocket in ["noble-updates", "noble-security"] {
            for component in COMPONENTS {
                add_nothing(&mut repository, pocket, component);
            }
        }
        repository.publish();
    })
}

/// Adds a package that nobody asks for, so that the component is there.
fn add_nothing(repository: &mut Repository, suite: &str, component: &str) {
    let name = format!("of-{suite}-{component}");
    repository.add(suite, component, &Package::new(&name, "1.0"));
}

/// Packs a package anew as Ubuntu does, with its own files for the release: its paragraph of the index.
fn repacked(name: &str, deb: &Path, dir: &Path, path: &str) -> String {
    let place = tempfile::tempdir_in(dir).unwrap();
    let tree = place.path().join("tree");
    let line = "dpkg-deb --raw-extract \"$1\" \"$2\"; rm -f \"$2/DEBIAN/md5sums\"";
    run(line, &[deb, &tree]);
    if name == "base-files" {
        fs::write(tree.join("usr/lib/os-release"), OS_RELEASE).unwrap();
    } else {
        let examples = tree.join("usr/share/doc/apt/examples");
        for entry in fs::read_dir(&examples).unwrap() {
            let path = entry.unwrap().path();
            if path.to_string_lossy().contains("sources") {
                fs::remove_file(path).unwrap();
            }
        }
        fs::write(examples.join("ubuntu.sources"), SOURCES).unwrap();
    }
    let to = dir.join(path);
    run(
        "SOURCE_DATE_EPOCH=1700000000 dpkg-deb -Zzstd --build --root-owner-group \"$1\" \"$2\" >&2",
        &[&tree, &to],
    );
    let control = run("dpkg-deb --field \"$1\"", &[&to]);
    let sha256 = run("sha256sum \"$1\"", &[&to]);
    format!(
        "{}\nFilename: {path}\nSize: {}\nSHA256: {}\n",
        control.trim_end(),
        fs::metadata(&to).unwrap().len(),
        sha256.split(' ').next().unwrap()
    )
}

/// A copy that can be changed.
fn copied(from: &Path, project: &Project) -> PathBuf {
    let to = project.path("archive");
    tool("cp", &["-al", from.to_str().unwrap(), to.to_str().unwrap()]);
    to
}

fn small() -> Project {
    assert!(
        rustix::process::geteuid().is_root(),
        "these tests need root: they install packages"
    );
    let project = Project::with(
        r#"
recipe {
  name              = "ubuntu"
  source_date_epoch = 1700000000
}
stage "bootstrap" "root" {
  distribution = "ubuntu"
  suite        = "noble"
  signed_by    = file("archive.asc")
  packages     = ["systemd-sysv"]
}
stage "disk" "base" {
  tree       = stage.root
  size       = "1GiB"
  bootloader = []
  networking = "none"
  growpart   = false
}
stage "packages" "tool" {
  from    = stage.base
  install = ["impasto-tool"]
}
"#,
    );
    project.write("archive.asc", &key().armored());
    project
}

/// Runs a command with the stand-in for Ubuntu's mirror, and the frozen mirror for Debian's, of which impasto's tools are.
fn with_mirror(project: &Project, ubuntu: Option<u16>, arguments: &[&str]) -> Ran {
    let mut command = project.command(arguments);
    command.env("IMPASTO_MIRROR", format!("file:{}", mirror().display()));
    match ubuntu {
        Some(port) => {
            command.env(
                "IMPASTO_UBUNTU_MIRROR",
                format!("http://127.0.0.1:{port}/ubuntu"),
            );
        }
        None => {
            command.env_remove("IMPASTO_UBUNTU_MIRROR");
        }
    }
    ran(command)
}

#[test]
fn a_root_of_ubuntus_archive_is_its_release() {
    let project = small();
    // Without a mirror nothing is taken from elsewhere.
    let none = with_mirror(&project, None, &["build", "tool"]);
    assert_eq!(none.code, 4, "{}", none.stderr);
    for text in [
        "no Ubuntu mirror is known: this host's apt has none configured",
        "set one: IMPASTO_UBUNTU_MIRROR=URL",
    ] {
        assert!(none.stderr.contains(text), "{}", none.stderr);
    }
    let archive = copied(&stand_in("small", mirror()), &project);
    let port = serve(&archive, None);

    // Its keys are not Ubuntu's.
    let recipe = project.read("impasto.hcl");
    project.write(
        "impasto.hcl",
        &recipe.replace("signed_by    = file(\"archive.asc\")\n", ""),
    );
    let refused = with_mirror(&project, Some(port), &["build", "tool"]);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    assert!(
        refused
            .stderr
            .contains("the known keys are Ubuntu's own, built into impasto"),
        "{}",
        refused.stderr
    );
    project.write("impasto.hcl", &recipe);

    let built = with_mirror(&project, Some(port), &["build", "tool"]);
    assert_eq!(built.code, 0, "{}", built.stderr);
    let lock = project.read("impasto.lock");
    for archive in [
        "ubuntu/noble",
        "ubuntu/noble-updates",
        "ubuntu/noble-security",
    ] {
        assert!(lock.contains(&format!("name = \"{archive}\"")), "{lock}");
    }
    assert!(
        lock.contains("root ubuntu amd64 essential") && lock.contains("component universe"),
        "{lock}"
    );
    let shown = project.in_guest(
        "tool",
        "cat /etc/os-release /etc/apt/sources.list.d/ubuntu.sources /usr/share/impasto-tool; ls /etc/apt/sources.list || true",
    );
    assert!(shown.contains("VERSION_CODENAME=noble"), "{shown}");
    assert!(
        shown.matches("Components: main universe\n").count() == 2 && shown.contains("1.0"),
        "{shown}"
    );
    assert!(!shown.contains("Components: main restricted"), "{shown}");
    let bill = project.ok(&["layer", "packages", "tool", "--format", "spdx"]);
    assert!(
        bill.contains("pkg:deb/ubuntu/impasto-tool@1.0?arch=all&distro=ubuntu-24.04"),
        "{bill}"
    );

    // A fix appears in the pocket for security, and nowhere else.
    let mut fix = Repository::new(&archive, key());
    let fixed =
        Package::new("impasto-tool", "1.0-1ubuntu0.1").file("usr/share/impasto-tool", "fixed");
    fix.add("noble-security", "universe", &fixed);
    add_nothing(&mut fix, "noble-security", "main");
    fix.publish();
    let newer = with_mirror(&project, Some(port), &["outdated", "--security"]);
    assert_eq!(newer.code, 10, "{}{}", newer.stdout, newer.stderr);
    assert!(
        newer.stdout.contains("impasto-tool") && newer.stdout.contains("1.0-1ubuntu0.1"),
        "{}",
        newer.stdout
    );
    let updated = with_mirror(&project, Some(port), &["update", "tool"]);
    assert_eq!(updated.code, 0, "{}", updated.stderr);
    let built = with_mirror(&project, Some(port), &["build", "tool"]);
    assert_eq!(built.code, 0, "{}", built.stderr);
    assert_eq!(
        project.in_guest("tool", "cat /usr/share/impasto-tool"),
        "fixed"
    );
}

#[test]
fn torture_the_recipe_for_ubuntu_is_built_and_boots() {
    if torture::count("MACHINES", 1) < 2 {
        println!("left out: three machines take minutes without KVM; `make torture` boots them");
        return;
    }
    let packages = [
        "linux-image-cloud-amd64",
        "initramfs-tools",
        "zstd",
        "systemd-sysv",
        "udev",
        "dbus",
        "grub2-common",
        "grub-pc-bin",
        "grub-efi-amd64-bin",
        "grub-efi-amd64-signed",
        "shim-signed",
        "iproute2",
        "netbase",
        "systemd-resolved",
        "systemd-timesyncd",
        "openssh-server",
        "ca-certificates",
        "sudo",
        "cloud-init",
        "cloud-guest-utils",
        "e2fsprogs",
        "qemu-guest-agent",
    ];
    let port = serve(
        &stand_in("whole", &frozen_mirror("ubuntu-1", &packages)),
        None,
    );
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/ubuntu-24.04/recipe.hcl");
    let project = Project::with(&fs::read_to_string(recipe).unwrap());
    project.write("archive.asc", &key().armored());
    let variable = ["--var", "archive_keys=archive.asc"];
    let built = with_mirror(&project, Some(port), &[&["build"], &variable[..]].concat());
    assert_eq!(built.code, 0, "{}", built.stderr);
    let tested = with_mirror(&project, Some(port), &[&["test"], &variable[..]].concat());
    assert_eq!(tested.code, 0, "{}{}", tested.stdout, tested.stderr);
    println!("{}", tested.stdout);
}
