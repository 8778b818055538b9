//! One stage that writes a disk in several formats, and what comes in again of what it wrote.
//!
//! Needs QEMU's tools, and root for the base.

use std::fs;

use crate::base::tool;
use crate::project::Project;

const FORMATS: [(&str, &str); 5] = [
    ("qcow2", "qcow2"),
    ("vmdk", "vmdk"),
    ("vhd", "vpc"),
    ("vhdx", "vhdx"),
    ("vdi", "vdi"),
];

fn recipe(more: &str) -> String {
    format!(
        "stage \"fetch\" \"base\" {{\n  path = \"base.qcow2\"\n}}\n\n\
         stage \"convert\" \"all\" {{\n  from    = stage.base\n  \
         formats = [\"qcow2\", \"raw\", \"vmdk\", \"vhd\", \"vhdx\", \"vdi\", \"raw.zst\"]\n  compression = \"zlib\"\n}}\n\n\
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

    let stages: String = FORMATS
        .iter()
        .map(|(extension, _)| {
            format!(
                "\nstage \"fetch\" \"{extension}\" {{\n  path = \"out/web.{extension}\"\n  as   = \"disk\"\n}}\n"
            )
        })
        .collect();
    project.write("impasto.hcl", &recipe(&stages));
    for (extension, _) in FORMATS {
        project.build(&[extension]);
        assert_eq!(project.ok(&["diff", "base", extension]), "", "{extension}");
        let file = format!("out/web.{extension}");
        assert_eq!(project.ok(&["diff", "base", &file]), "", "{file}");
    }
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
