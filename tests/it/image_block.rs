//! Images as users get them: names, layouts, what must hold before they appear, and what is said of them.
//!
//! Needs root, FUSE and QEMU, but for what `validate` says.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::project::{Project, ran};

/// A recipe whose image is this block; `CHECK` is the command of what it requires.
fn recipe(image: &str, check: &str) -> String {
    format!(
        r#"
recipe {{
  name              = "it"
  source_date_epoch = 1700000000
}}
stage "fetch" "base" {{ path = "base.qcow2" }}
stage "run" "made" {{
  from     = stage.base
  commands = ["printf 'VERSION=8.2\nNAME=\"A b\"\n' > /root/v", "head -c 3000000 /dev/urandom > /root/random"]
  output   = {{ "version.txt" = "/root/v" }}
}}
stage "run" "check" {{
  from     = stage.made
  commands = ["{check}"]
}}
stage "convert" "qcow2" {{
  from   = stage.made
  format = "qcow2"
}}
stage "convert" "raw" {{
  from   = stage.made
  format = "raw"
}}
image "it" {{
{image}
}}
"#
    )
}

/// The files below a directory with their sizes, without those of single sums.
fn listed(project: &Project, dir: &str) -> Vec<String> {
    let root = project.path(dir);
    let mut names: Vec<String> = walkdir::WalkDir::new(&root)
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| {
            entry
                .path()
                .strip_prefix(&root)
                .unwrap()
                .display()
                .to_string()
        })
        .filter(|name| !name.ends_with(".sha256"))
        .collect();
    names.sort();
    names
}

fn sums_hold(project: &Project, dir: &str) {
    let mut check = Command::new("sha256sum");
    let ran = ran({
        check
            .args(["--strict", "-c", "SHA256SUMS"])
            .current_dir(project.path(dir));
        check
    });
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
}

const FULL: &str = r#"
  name     = "web-1"
  files    = { "web.img" = stage.raw, "doc/version" = stage.made.files["version.txt"], "web.qcow2" = stage.qcow2 }
  layout   = "directory"
  tags     = { os = "debian-12", type = "minimal" }
  metadata = { versions = stage.made.files["version.txt"] }
  requires = [stage.check]
  manifest = "manifest.json"
"#;

#[test]
fn an_image_is_described_and_an_equal_build_describes_it_equally() {
    let project = Project::with(&recipe(FULL, "true"));
    project.build(&[]);
    let files = [
        "SHA256SUMS",
        "doc/version",
        "manifest.json",
        "web.img",
        "web.qcow2",
    ];
    assert_eq!(listed(&project, "out/web-1"), files);
    sums_hold(&project, "out/web-1");
    let text = project.read("out/web-1/manifest.json");
    let manifest: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(manifest["tags"]["os"], "debian-12");
    assert_eq!(manifest["metadata"]["versions"]["NAME"], "A b");
    assert_eq!(manifest["tests"][0]["stage"], "check");
    assert_eq!(manifest["tests"][0]["result"], "passed");
    let names: Vec<_> = manifest["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["doc/version", "web.img", "web.qcow2"]);
    let stages = manifest["stages"].as_array().unwrap();
    assert!(
        stages.iter().all(|stage| stage["key"].is_string()),
        "{stages:?}"
    );
    assert!(
        stages.iter().all(|stage| stage["stage"] != "check"),
        "{stages:?}"
    );

    // Nothing is written where nothing changed.
    let stamps = || -> Vec<(u64, i64)> {
        let stat = |name: &&str| fs::metadata(project.path(&format!("out/web-1/{name}"))).unwrap();
        let stats = files.iter().map(stat);
        stats.map(|stat| (stat.ino(), stat.mtime_nsec())).collect()
    };
    let before = stamps();
    let (code, events) = project.events(&[]);
    assert_eq!(code, 0);
    assert!(
        events
            .iter()
            .all(|event| event["event"] != "published" || event["written"] == false),
        "{events:?}"
    );
    assert_eq!(stamps(), before);

    // What is lost is written again, alone.
    fs::remove_file(project.path("out/web-1/manifest.json")).unwrap();
    project.build(&[]);
    assert_eq!(project.read("out/web-1/manifest.json"), text);

    // The random data makes another disk in another store, but the form is the same; with the same layers, so is the text.
    let other = Project::with(&recipe(FULL, "true"));
    fs::remove_dir_all(other.store()).ok();
    let copy = Command::new("cp")
        .arg("-a")
        .arg(project.store())
        .arg(other.store())
        .status();
    assert!(copy.unwrap().success());
    other.build(&[]);
    assert_eq!(other.read("out/web-1/manifest.json"), text);

    // As lines.
    project.write(
        "impasto.hcl",
        &recipe(FULL, "true").replace("manifest.json", "manifest.txt"),
    );
    project.build(&[]);
    let lines = project.read("out/web-1/manifest.txt");
    for line in [
        "tags.type = minimal\n",
        "metadata.versions.VERSION = 8.2\n",
        "tests.0.result = passed\n",
    ] {
        assert!(lines.contains(line), "{lines}");
    }
}

#[test]
fn nothing_is_written_before_what_is_required_passes() {
    let image = "  files = [stage.qcow2]\n  requires = [stage.check]\n  manifest = \"it.json\"";
    let project = Project::with(&recipe(image, "true"));
    project.build(&[]);
    let old = fs::read(project.path("out/it.qcow2")).unwrap();
    let inode = fs::metadata(project.path("out/it.qcow2")).unwrap().ino();
    assert_eq!(listed(&project, "out"), ["it.qcow2", "it/it.json"]);

    let broken = recipe(image, "exit 3").replace("VERSION=8.2", "VERSION=9");
    project.write("impasto.hcl", &broken);
    let (code, events) = project.events(&["--keep-going"]);
    assert_eq!(code, 4);
    let refusal = events
        .iter()
        .find(|event| event["event"] == "image_not_written")
        .unwrap();
    assert_eq!(refusal["image"], "image.it");
    assert_eq!(refusal["error"], "check failed");
    assert_eq!(fs::read(project.path("out/it.qcow2")).unwrap(), old);
    assert_eq!(
        fs::metadata(project.path("out/it.qcow2")).unwrap().ino(),
        inode
    );
    assert_eq!(
        listed(&project, "out"),
        ["it.qcow2", "it/it.json"],
        "no draft is left"
    );
    let told = project.run(&["build"]);
    assert!(
        told.stderr
            .contains("image.it is not written: check failed"),
        "{}",
        told.stderr
    );
    assert!(
        told.stderr.contains("1 image not written"),
        "{}",
        told.stderr
    );

    // A stage that is named runs all the same.
    assert_eq!(project.run(&["build", "check", "--skip-tests"]).code, 4);

    // Without its tests it is written, and says so.
    project.ok(&["build", "--skip-tests"]);
    assert_ne!(fs::read(project.path("out/it.qcow2")).unwrap(), old);
    assert!(
        project
            .read("out/it/it.json")
            .contains("\"result\": \"skipped\"")
    );

    // Passed, its manifest says that: the disk was there before.
    project.write("impasto.hcl", &broken.replace("exit 3", "true"));
    project.build(&[]);
    assert!(
        project
            .read("out/it/it.json")
            .contains("\"result\": \"passed\"")
    );
}

#[test]
fn an_image_with_planted_things_is_not_written_and_each_is_named() {
    let status = |names: &[&str]| -> String {
        let entry = |name: &&str| {
            format!(
                "Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.0\n\n"
            )
        };
        names.iter().map(entry).collect()
    };
    let recipe = |planted: &str| {
        format!(
            r#"stage "fetch" "base" {{ path = "base.qcow2" }}
               stage "copy" "files" {{
                 from  = stage.base
                 files = {{ {planted} }}
               }}
               stage "test" "gate" {{
                 image  = stage.files
                 checks = {{
                   lean    = {{ absent = ["docker-ce"] }}
                   list    = {{ packages = "packages.txt" }}
                   secrets = {{ no_secrets = true }}
                 }}
               }}
               stage "convert" "qcow2" {{
                 from   = stage.files
                 format = "qcow2"
               }}
               image "it" {{
                 files    = [stage.qcow2]
                 requires = [stage.gate]
               }}"#
        )
    };
    let clean = r#""/var/lib/dpkg/status" = { source = "status" }"#;
    let project = Project::with(&recipe(clean));
    project.write("packages.txt", "base-files 1.0\n");
    project.write("status", &status(&["base-files"]));
    project.build(&[]);
    let old = fs::read(project.path("out/it.qcow2")).unwrap();

    project.write("status", &status(&["base-files", "docker-ce"]));
    let planted = format!(
        r#"{clean}
           "/root/.ssh/id_ed25519" = {{ content = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n" }}
           "/etc/environment"      = {{ content = "GITHUB_TOKEN=abcdef123456\n" }}
           "/etc/shadow"           = {{ content = "tester:$y$j9T$abc:1::::::\n" }}"#
    );
    project.write("impasto.hcl", &recipe(&planted));
    let refused = project.run(&["build"]);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    let report = project.read("out/gate/report.json");
    for expected in [
        "docker-ce is there",
        "+ docker-ce 1.0: not in the list",
        "/root/.ssh/id_ed25519: a private key",
        "/etc/environment: a value for GITHUB_TOKEN",
        "/etc/shadow: tester logs in with a password",
    ] {
        assert!(report.contains(expected), "{expected}: {report}");
    }
    assert!(!report.contains("abcdef123456"), "{report}");
    assert!(
        refused.stderr.contains("image.it is not written"),
        "{}",
        refused.stderr
    );
    assert_eq!(fs::read(project.path("out/it.qcow2")).unwrap(), old);

    // What was searched is remembered where the collector and the check of the store know it.
    project.ok(&["gc", "--min-age", "0s"]);
    project.ok(&["store", "verify"]);
    let again = project.run(&["build"]);
    assert_eq!(again.code, 4, "{}", again.stderr);
    let report = project.read("out/gate/report.json");
    for secret in ["id_ed25519", "/etc/environment", "/etc/shadow"] {
        assert!(report.contains(secret), "{secret}: {report}");
    }
}

/// Removes a stage's list of files from the store, whose manifest names it.
fn lose_the_tree(project: &Project, manifest: &str, stage: &str) {
    let manifest: Value = serde_json::from_str(manifest).unwrap();
    let stages = manifest["stages"].as_array().unwrap();
    let stage = stages.iter().find(|one| one["stage"] == stage).unwrap();
    let tree = stage["tree"].as_str().unwrap();
    let name = tree.rsplit(':').next().unwrap();
    let files = walkdir::WalkDir::new(project.store());
    let files = files.into_iter().filter_map(Result::ok);
    let mut gone = 0;
    for file in files.filter(|file| file.file_type().is_file()) {
        let path = file.path().to_string_lossy().into_owned();
        if path.contains("blobs") && path.replace('/', "").contains(&name[2..]) {
            fs::remove_file(file.path()).unwrap();
            gone += 1;
        }
    }
    assert_eq!(gone, 1, "{name}");
}

#[test]
fn a_lost_list_of_files_is_told_where_it_is_needed_and_nowhere_else() {
    let project = Project::with(&recipe(FULL, "true"));
    project.build(&[]);
    let manifest = project.read("out/web-1/manifest.json");
    // Also an image that has only a budget, whose packages were counted.
    let counted = "files = [stage.qcow2]\n  budget = { packages = 10 }";
    project.write("impasto.hcl", &recipe(counted, "true"));
    project.build(&[]);
    lose_the_tree(&project, &manifest, "made");
    project.build(&[]);

    project.write("impasto.hcl", &recipe(FULL, "true"));
    fs::remove_file(project.path("out/web-1/manifest.json")).unwrap();
    let lost = project.run(&["build"]);
    assert_eq!(lost.code, 4, "{}", lost.stderr);
    for text in [
        "cannot describe the disk of made: the list of its files is missing from the store",
        "build that again: --rebuild 'made'",
    ] {
        assert!(lost.stderr.contains(text), "{}", lost.stderr);
    }
    project.ok(&["build", "--rebuild", "made"]);
    assert!(project.path("out/web-1/manifest.json").exists());
}

#[test]
fn an_image_over_its_budget_is_not_written() {
    let with = |budget: &str| {
        let image = format!("  files = [stage.qcow2, stage.raw]\n  budget = {{ {budget} }}");
        recipe(&image, "true")
    };
    let project = Project::with(&with("size = \"1MB\""));
    let refused = |budget: &str| -> String {
        project.write("impasto.hcl", &with(budget));
        let ran = project.run(&["build"]);
        assert_eq!(ran.code, 4, "{}", ran.stderr);
        assert!(!project.path("out/it.qcow2").exists());
        ran.stderr
    };
    let text = refused("size = \"1MB\"");
    assert!(
        text.contains("image.it is not written: its files: "),
        "{text}"
    );
    assert!(text.contains("but its budget is 1.0 MB"), "{text}");
    assert!(text.contains("stage made brought 3.0 MB: "), "{text}");
    let text = refused("files = { \"it.raw\" = \"1.5MiB\" }");
    assert!(text.contains("it.raw: "), "{text}");
    let text = refused("files = { \"other\" = \"1GB\" }");
    assert!(
        text.contains("names \"other\", which is no file of the image"),
        "{text}"
    );
    assert!(text.contains("its files: it.qcow2, it.raw"), "{text}");
    let text = refused("stages = { other = \"1m\" }");
    assert!(
        text.contains("names \"other\", on which the image does not depend"),
        "{text}"
    );

    // Times judge what ran now.
    project.write("impasto.hcl", &with("stages = { made = \"0s\" }"));
    let ran = project.run(&["build", "--rebuild", "made"]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(ran.stderr.contains("stage made: "), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("but its budget is 0s"),
        "{}",
        ran.stderr
    );
    let ran = project.run(&["build"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("stage made took "), "{}", ran.stderr);
    assert!(project.path("out/it.qcow2").exists());

    project.write("impasto.hcl", &with("size = \"1MB\""));
    project.ok(&["build", "--no-budget"]);
    project.write(
        "impasto.hcl",
        &with("size = \"100GB\", files = { \"it.qcow2\" = \"1GB\" }, build = \"10h\""),
    );
    project.ok(&["build"]);
}

#[test]
fn wrong_images_are_refused_where_they_stand() {
    let project = Project::with("");
    let mut all = String::new();
    for image in [
        r#"files = { "../x" = stage.raw, "/y" = stage.qcow2 }"#,
        r#"files = { "a" = stage.raw, "a/b" = stage.qcow2 }"#,
        r#"files = { "a.sha256" = stage.raw }"#,
        r#"files = { "SHA256SUMS" = stage.raw }
  layout = "directory""#,
        r#"files = [stage.raw]
  manifest = "manifest.yaml""#,
        r#"files = { "m.json" = stage.raw }
  manifest = "m.json""#,
        r#"files = [stage.raw]
  layout = "tree""#,
        r#"files = [stage.raw]
  sbom = ["x.json"]"#,
        r#"files = [stage.raw]
  requires = ["check"]"#,
        r#"files = [stage.raw]
  requires = stage.check"#,
        r#"files = [stage.raw]
  metadata = { a = "x" }"#,
        r#"files = [stage.raw]
  budget = { size = "big", packages = -1 }"#,
        r#"files = [stage.raw]
  budget = { sizes = "1GB" }"#,
        r#"files = [stage.raw]
  requires = [stage.made.files["version.txt"]]"#,
    ] {
        project.write("impasto.hcl", &recipe(&format!("  {image}"), "true"));
        let ran = project.run(&["validate"]);
        assert_eq!(ran.code, 3, "{image}: {}{}", ran.stdout, ran.stderr);
        all += &format!("{image}\n{}\n", ran.stderr.trim_end());
    }
    insta::assert_snapshot!(all);
}

#[test]
fn layouts_put_files_where_they_say() {
    let files = r#"files = [stage.qcow2, stage.made.files["version.txt"]]"#;
    let project = Project::with(&recipe(&format!("  {files}\n  layout = \"flat\""), "true"));
    project.build(&[]);
    assert_eq!(listed(&project, "out"), ["it.qcow2", "version.txt"]);
    let standard: PathBuf = project.path("standard");
    project.write(
        "impasto.hcl",
        &recipe(&format!("  {files}\n  checksums = \"SHA256SUMS\""), "true"),
    );
    project.build(&["--out", standard.to_str().unwrap()]);
    assert_eq!(
        listed(&project, "standard"),
        ["it.qcow2", "it/SHA256SUMS", "it/version.txt"]
    );
    sums_hold(&project, "standard/it");
}
