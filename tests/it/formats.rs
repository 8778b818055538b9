//! One stage that writes a disk in several formats, and what comes in again of what it wrote.
//!
//! Needs QEMU's tools, and root for the base.

use std::fs;

use crate::base::tool;
use crate::project::{Project, ran};

const FORMATS: [(&str, &str); 5] = [
    ("qcow2", "qcow2"),
    ("vmdk", "vmdk"),
    ("vhd", "vpc"),
    ("vhdx", "vhdx"),
    ("vdi", "vdi"),
];

/// Files that hold a raw disk in another form, and a name for the stage that takes each in.
const PACKED: [(&str, &str); 4] = [
    ("raw.gz", "gzip"),
    ("raw.xz", "xz"),
    ("raw.zst", "zstd"),
    ("tar.gz", "gce"),
];

fn recipe(more: &str) -> String {
    format!(
        "stage \"fetch\" \"base\" {{\n  path = \"base.qcow2\"\n}}\n\n\
         stage \"convert\" \"all\" {{\n  from    = stage.base\n  \
         formats = [\"qcow2\", \"raw\", \"vmdk\", \"vhd\", \"vhdx\", \"vdi\", \"raw.gz\", \"raw.xz\", \"raw.zst\", \"gce\"]\n  compression = \"zlib\"\n}}\n\n\
         image \"web\" {{\n  files = [stage.all]\n}}\n{more}"
    )
}

#[test]
fn a_stage_of_several_formats_writes_them_all_and_all_of_them_come_in_again() {
    let project = Project::with(&recipe(""));
    project.build(&[]);
    let out = |extension: &str| project.path(&format!("out/web.{extension}"));
    let raw = out("raw");
    for (extension, driver) in FORMATS {
        let file = out(extension);
        let (raw, file) = (raw.to_str().unwrap(), file.to_str().unwrap());
        tool(
            "qemu-img",
            &["compare", "-f", "raw", "-F", driver, raw, file],
        );
        let sum = fs::read_to_string(format!("{file}.sha256")).unwrap();
        assert!(
            tool("sha256sum", &[file]).starts_with(&sum[..64]),
            "{extension}"
        );
    }
    let packed = tool(
        "sh",
        &[
            "-c",
            "zstd -dcq \"$1\" | sha256sum",
            "sh",
            out("raw.zst").to_str().unwrap(),
        ],
    );
    assert_eq!(
        packed[..64],
        tool("sha256sum", &[raw.to_str().unwrap()])[..64]
    );

    // Nothing is to be done again; what was removed is written again without a stage that runs.
    let first = fs::read(out("vmdk")).unwrap();
    fs::remove_file(out("vmdk")).unwrap();
    fs::remove_file(out("vdi")).unwrap();
    project.build(&[]);
    assert!(fs::read(out("vmdk")).unwrap() == first);
    assert!(out("vdi").is_file());

    let images = FORMATS.map(|(extension, _)| (extension, extension));
    let names = || images.iter().chain(&PACKED);
    let stages: String = names()
        .map(|(extension, stage)| {
            format!(
                "\nstage \"fetch\" \"{stage}\" {{\n  path = \"out/web.{extension}\"\n  as   = \"disk\"\n}}\n"
            )
        })
        .collect();
    project.write("impasto.hcl", &recipe(&stages));
    for (extension, stage) in names() {
        project.build(&[stage]);
        // By its content, whatever it is called.
        let file = format!("out/web.{extension}");
        fs::copy(project.path(&file), project.path("nameless")).unwrap();
        for disk in [*stage, "nameless"] {
            let ran = project.run(&["diff", "base", disk]);
            // Google takes disks of whole GiB: what is behind the last partition is larger.
            let (lines, code) = if *stage == "gce" { (4, 10) } else { (0, 0) };
            let is_like = (ran.stdout.trim().lines().skip(2).count(), ran.code) == (lines, code);
            let grown = ["disk size: 67.1 MB → 1.1 GB", "~ backup of the GPT"];
            assert!(
                is_like && (code == 0 || grown.iter().all(|text| ran.stdout.contains(text))),
                "{disk} of {file}: {}",
                ran.stdout
            );
        }
    }
}

#[test]
fn a_bomb_is_refused_by_a_limit_that_can_be_raised() {
    // 4 GiB of zeros in a few kB.
    let frame = zstd::encode_all(&vec![0; 128 << 20][..], 1).unwrap();
    let project =
        Project::with("stage \"fetch\" \"it\" {\n  path = \"bomb\"\n  as   = \"disk\"\n}\n");
    fs::write(project.path("bomb"), frame.repeat(32)).unwrap();
    let run = |limit: &str, arguments: &[&str]| {
        let mut command = project.command(arguments);
        command.env("IMPASTO_UNPACK_LIMIT", limit);
        ran(command)
    };
    for line in [
        &["build"][..],
        &["boot", "./bomb"],
        &["diff", "base.qcow2", "./bomb"],
    ] {
        let refused = run("1GiB", line);
        let told = "it unpacks to more than the limit of 1GiB";
        let help = "help: if it should be that large, raise the limit: IMPASTO_UNPACK_LIMIT=2GiB";
        assert_ne!(refused.code, 0, "{line:?}");
        assert!(
            refused.stderr.contains(told) && refused.stderr.contains(help),
            "{line:?}: {}",
            refused.stderr
        );
        let left = fs::read_dir(project.store().join("tmp")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{line:?}");
    }
    // It is a disk of nothing, and takes no room.
    let refused = run("8GiB", &["build"]);
    assert!(
        refused
            .stderr
            .contains("is not a disk: it has no qcow2 header"),
        "{}",
        refused.stderr
    );
    let wrong = run("much", &["build"]);
    let told = "IMPASTO_UNPACK_LIMIT=much is not a valid size";
    assert!(
        wrong.code == 2 && wrong.stderr.contains(told),
        "{}",
        wrong.stderr
    );
}

#[test]
fn one_of_several_files_is_used_by_its_name() {
    let use_of = |file: &str| {
        recipe(&format!(
            "\nstage \"copy\" \"in\" {{\n  from  = stage.base\n  files = {{ \"/disk\" = {{ source = {file} }} }}\n}}\n"
        ))
    };
    let project = Project::with(&use_of("stage.all.files[\"disk.vmdk\"]"));
    project.ok(&["validate"]);
    for (file, sentence) in [
        ("stage.all", "a file is needed, but `all` makes several"),
        (
            "stage.all.files[\"disk.gce\"]",
            "the stage `all` makes no file \"disk.gce\"",
        ),
    ] {
        project.write("impasto.hcl", &use_of(file));
        let ran = project.run(&["validate"]);
        assert!(
            ran.code == 3 && ran.stderr.contains(sentence),
            "{}",
            ran.stderr
        );
    }
}
