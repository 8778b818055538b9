//! `impasto layer packages` on a real Debian, with dpkg as the oracle, and its documents against the published schemas.
//!
//! Needs root, as all tests with Debian. The schema and SPDX's own validator are fetched once, from the package registries
//! of Rust and Python; where they cannot be had the test says so, and checks what it can.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::base::tool;
use crate::debian::{base, once};
use crate::guest_ext4::mounted;
use crate::project::{Project, ran};

const RECIPE: &str = r#"
recipe {
  name              = "sbom"
  source_date_epoch = 1700000123
}
stage "fetch" "base" { path = "debian.qcow2" }
stage "run" "more" {
  from     = stage.base
  commands = ["echo x > /etc/own", "mkdir -p /lib/modules && echo x > /lib/modules/own.ko"]
}
"#;

fn project() -> Project {
    let project = Project::empty();
    fs::copy(base(), project.path("debian.qcow2")).unwrap();
    project.write("impasto.hcl", RECIPE);
    project
}

/// What dpkg itself says, by name and architecture.
fn asked(disk: &Path) -> BTreeMap<(String, String), Vec<String>> {
    let raw = disk.with_extension("raw");
    tool(
        "qemu-img",
        &[
            "convert",
            "-O",
            "raw",
            disk.to_str().unwrap(),
            raw.to_str().unwrap(),
        ],
    );
    let mut text = String::new();
    mounted(&raw, "offset=1048576", |root| {
        let format = "${Package}\t${Architecture}\t${Version}\t${Installed-Size}\t${source:Package}\t${source:Version}\n";
        text = tool(
            "chroot",
            &[
                root.to_str().unwrap(),
                "dpkg-query",
                "--show",
                &format!("--showformat={format}"),
            ],
        );
    });
    fs::remove_file(raw).unwrap();
    let rows = text
        .lines()
        .map(|line| line.split('\t').map(str::to_owned).collect::<Vec<_>>());
    rows.map(|row| ((row[0].clone(), row[1].clone()), row[2..].to_vec()))
        .collect()
}

#[test]
fn packages_are_those_that_dpkg_tells_and_the_document_is_valid() {
    let project = project();
    project.build(&["more"]);
    let expected = asked(&project.path("debian.qcow2"));
    assert!(expected.len() > 80, "{} packages", expected.len());

    let json: Value =
        serde_json::from_str(&project.ok(&["layer", "packages", "more", "--format", "json"]))
            .unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let told: BTreeMap<_, _> = json
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let size = (one["size"].as_u64().unwrap() / 1024).to_string();
            let row = vec![
                text(&one["version"]),
                size,
                text(&one["source"]["name"]),
                text(&one["source"]["version"]),
            ];
            ((text(&one["name"]), text(&one["architecture"])), row)
        })
        .collect();
    assert_eq!(told, expected);
    let table = project.ok(&["layer", "packages", "more"]);
    assert_eq!(table.lines().count(), expected.len() + 1);
    assert!(
        table
            .lines()
            .any(|line| line.starts_with("base-files ") && line.contains(" amd64 ")),
        "{table}"
    );

    let document = project.ok(&["layer", "packages", "more", "--format", "spdx"]);
    let again = project.ok(&["layer", "packages", "more", "--format", "spdx"]);
    assert_eq!(document, again);
    let json: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(json["creationInfo"]["created"], "2023-11-14T22:15:23Z");
    let packages = json["packages"].as_array().unwrap();
    assert_eq!(packages.len(), expected.len() + 1);
    let dash = packages.iter().find(|one| one["name"] == "dash").unwrap();
    let purl = dash["externalRefs"][0]["referenceLocator"]
        .as_str()
        .unwrap();
    assert!(
        purl.starts_with("pkg:deb/debian/dash@") && purl.ends_with("?arch=amd64&distro=debian-12"),
        "{purl}"
    );
    let declared = packages
        .iter()
        .filter(|one| one["licenseDeclared"] != "NOASSERTION")
        .count();
    println!(
        "{declared} of {} packages declare their licences",
        expected.len()
    );
    assert!(declared > expected.len() / 3, "{declared}");
    let comment = packages[0]["comment"].as_str().unwrap();
    assert!(
        comment.contains("Debian GNU/Linux 12") && comment.contains(", 1 of them kernel modules"),
        "{comment}"
    );
    fs::write(project.path("document.spdx.json"), &document).unwrap();
    validate(&project.path("document.spdx.json"));
    let cyclonedx = project.ok(&["layer", "packages", "more", "--format", "cyclonedx"]);
    fs::write(project.path("document.cdx.json"), &cyclonedx).unwrap();
    validate(&project.path("document.cdx.json"));
    let bill: Value = serde_json::from_str(&cyclonedx).unwrap();
    let purls = |bill: &Value| -> Vec<String> {
        let components = bill["components"].as_array().unwrap();
        components
            .iter()
            .map(|one| one["purl"].as_str().unwrap().to_owned())
            .collect()
    };
    let spdx: Value = serde_json::from_str(&document).unwrap();
    let of_spdx: Vec<String> = spdx["packages"].as_array().unwrap()[1..]
        .iter()
        .map(|one| {
            one["externalRefs"][0]["referenceLocator"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(purls(&bill), of_spdx);

    tool("chmod", &["-R", "a+rX", project.path("").to_str().unwrap()]);
    tool("chown", &["-R", "65534", project.store().to_str().unwrap()]);
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        env!("CARGO_BIN_EXE_impasto"),
    ]);
    command.args([
        "layer",
        "packages",
        "more",
        "--format",
        "spdx",
        "--store",
        project.store().to_str().unwrap(),
    ]);
    command
        .current_dir(project.path(""))
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null());
    let nobody = ran(command);
    assert_eq!((nobody.code, nobody.stderr.as_str()), (0, ""));
    assert!(
        nobody.stdout == document,
        "another user gets another document"
    );
    tool("chown", &["-R", "0", project.store().to_str().unwrap()]);

    // A file has no recipe, and a disk without packages says so.
    let file = project.ok(&["layer", "packages", "./debian.qcow2", "--format", "spdx"]);
    assert_ne!(file, document);
    fs::write(project.path("file.spdx.json"), file).unwrap();
    validate(&project.path("file.spdx.json"));
    fs::copy(&crate::base::base().qcow2, project.path("busybox.qcow2")).unwrap();
    let ran = project.run(&["layer", "packages", "./busybox.qcow2"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.contains("has no dpkg packages"),
        "{}",
        ran.stderr
    );
}

/// Where the validator and the schema lie; why not, where they cannot be had.
fn validator() -> Result<PathBuf, String> {
    let dir = once("bill-validators", |dir| {
        if let Err(why) = fetch_validator(dir) {
            fs::write(dir.join("missing"), why).unwrap();
        }
    });
    match fs::read_to_string(dir.join("missing")) {
        Ok(why) => {
            // The next run tries again.
            fs::remove_dir_all(&dir).unwrap();
            Err(why)
        }
        Err(_) => Ok(dir),
    }
}

fn fetch_validator(dir: &Path) -> Result<(), String> {
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(dir)
            .output();
        let output = output.map_err(|error| format!("{program}: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr)
            .trim()
            .lines()
            .last()
            .unwrap_or_default()
            .to_owned();
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(format!("{program} {}: {said}", arguments[0]))
        }
    };
    // This crate was generated from the schema, and has it with it.
    fs::create_dir_all(dir.join("schema/src")).unwrap();
    fs::write(dir.join("schema/src/lib.rs"), "").unwrap();
    let manifest = "[package]\nname = \"schema\"\nedition = \"2024\"\n[dependencies]\nserde-spdx = \"=0.10.0\"\n[workspace]\n";
    fs::write(dir.join("schema/Cargo.toml"), manifest).unwrap();
    let metadata = run(
        "cargo",
        &[
            "metadata",
            "--format-version",
            "1",
            "--manifest-path",
            "schema/Cargo.toml",
        ],
    )?;
    let metadata: Value = serde_json::from_slice(&metadata).unwrap();
    let package = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == "serde-spdx")
        .unwrap();
    let schema = Path::new(package["manifest_path"].as_str().unwrap())
        .with_file_name("schemas/spdx_2_3.json");
    fs::copy(schema, dir.join("spdx-2.3.json")).map_err(|error| error.to_string())?;
    // Not a virtual environment, which remembers where it lies.
    let packages = [
        "spdx-tools==0.8.5",
        "jsonschema==4.26.0",
        "cyclonedx-python-lib[json-validation]==11.12.0",
    ];
    run(
        "python3",
        &[
            &["-m", "pip", "install", "--quiet", "--target", "python"],
            &packages[..],
        ]
        .concat(),
    )?;
    Ok(())
}

const VALIDATE: &str = r#"
import json, sys
import jsonschema
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
schema, document = sys.argv[1:]
if document.endswith(".cdx.json"):
    error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(document).read())
    sys.exit(str(error) if error else 0)
jsonschema.validate(json.load(open(document)), json.load(open(schema)))
messages = validate_full_spdx_document(parse_file(document))
sys.exit("\n".join(f"{m.validation_message} {m.context.spdx_id}" for m in messages) or 0)
"#;

fn validate(document: &Path) {
    let dir = match validator() {
        Ok(dir) => dir,
        Err(why) => {
            return println!(
                "the document is not validated, as its schema or validator cannot be had: {why}"
            );
        }
    };
    let schema = dir.join("spdx-2.3.json");
    let output = Command::new("python3")
        .args([
            "-c",
            VALIDATE,
            schema.to_str().unwrap(),
            document.to_str().unwrap(),
        ])
        .env("PYTHONPATH", dir.join("python"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", document.display());
}
