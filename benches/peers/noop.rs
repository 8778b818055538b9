//! A build in which nothing is to be done: a recipe of 20 stages, from process start to exit, with a warm store.
//!
//! The files that a process opens are counted by `strace` in a run of its own: no layer file may be among them. The same
//! recipe once more, with an image that requires a test of a machine, which passed before.

use std::path::Path;
use std::process::Command;

use crate::measure::{Goal, Row, detail, interleaved, median, quiet, sized};
use crate::site;

const RUNS: usize = 40;

/// 16-bit code that sends `up` and a line's end to the first serial port, and halts.
const BOOT_CODE: [u8; 17] = *b"\xfa\xba\xf8\x03\xb0u\xee\xb0p\xee\xb0\n\xee\xf4\xeb\xfd\0";

pub(crate) fn rows() -> Vec<Row> {
    let stages = sized(20, 5);
    println!("noop: {stages} stages");
    let (dir, store) = (site::fresh("noop"), site::fresh("noop-store"));
    std::fs::create_dir(dir.join("scripts")).expect("a directory");
    let mut text = format!(
        "recipe {{\n  name              = \"noop\"\n  source_date_epoch = 1700000000\n}}\n\n\
         stage \"fetch\" \"base\" {{\n  path = \"{}\"\n}}\n",
        site::tiny().display()
    );
    let mut from = "base".to_owned();
    for stage in 1..=stages - 2 {
        let what = if stage % 2 == 0 {
            std::fs::write(
                dir.join(format!("scripts/{stage}.sh")),
                format!("echo {stage} > /root/file-{stage}\n"),
            )
            .expect("a script");
            format!("script = file(\"scripts/{stage}.sh\")")
        } else {
            format!("commands = [\"echo {stage} > /root/file-{stage}\"]")
        };
        text +=
            &format!("\nstage \"run\" \"step-{stage}\" {{\n  from = stage.{from}\n  {what}\n}}\n");
        from = format!("step-{stage}");
    }
    text += &format!(
        "\nstage \"convert\" \"qcow2\" {{\n  from   = stage.{from}\n  format = \"qcow2\"\n}}\n"
    );
    text += "\nimage \"noop\" {\n  name  = \"noop\"\n  files = [stage.qcow2]\n}\n";
    std::fs::write(dir.join("impasto.hcl"), text).expect("a recipe");

    let output = site::run(build(&dir, &store).args(["--progress", "json"]));
    assert_eq!(site::summary(&output), (stages, 0));
    let output = site::run(build(&dir, &store).args(["--progress", "json"]));
    assert_eq!(site::summary(&output), (0, stages));

    let opened = opened_layers(&dir, &store);
    let (tested, nodes) = with_a_test(&dir, &store);
    site::settle();
    quiet();
    let [times, with_test] = interleaved(RUNS, |side, _| {
        site::time(&mut build(if side == 0 { &dir } else { &tested }, &store))
    });
    detail("impasto build", &times);
    detail("the same with a test", &with_test);
    let machines = site::traced(&build(&tested, &store), &tested, "execve", &["qemu-system"]);
    let more = median(&with_test).saturating_sub(median(&times));
    vec![
        Row::absolute(
            "no-op build of 20 stages",
            median(&times).as_secs_f64(),
            Goal::AtMost(0.025),
            crate::measure::seconds,
        ),
        Row::fact(
            "the same: layer files opened",
            opened.to_string(),
            "0",
            opened == 0,
        ),
        Row::absolute(
            "the same with a test that is cached: beyond that",
            more.as_secs_f64(),
            Goal::AtMost(0.005),
            crate::measure::seconds,
        ),
        Row::fact(
            "the same: machines started",
            format!("{machines}, {nodes} nodes cached"),
            "0",
            machines == 0,
        ),
    ]
}

/// The recipe beside itself, with an image that requires a test, built once: and how many nodes are cached then.
fn with_a_test(dir: &Path, store: &Path) -> (std::path::PathBuf, u64) {
    let tested = site::fresh("noop-test");
    site::run(
        site::program("cp")
            .arg("-r")
            .arg(dir.join("scripts"))
            .arg(&tested),
    );
    let mut disk = BOOT_CODE.to_vec();
    disk.resize(446, 0);
    // A partition, so that it is a disk to all who look.
    disk.extend([0x80, 0, 2, 0, 0x83, 0, 0, 0]);
    disk.extend([2048_u32.to_le_bytes(), 2048_u32.to_le_bytes()].concat());
    disk.resize(510, 0);
    disk.extend([0x55, 0xaa]);
    disk.resize(2 << 20, 0);
    std::fs::write(tested.join("up.raw"), disk).expect("a disk");
    let text = std::fs::read_to_string(dir.join("impasto.hcl")).expect("the recipe");
    let required = "  requires = [stage.boots]\n}\n";
    let text = text.trim_end().trim_end_matches('}').to_owned()
        + required
        + "\nstage \"fetch\" \"up\" {\n  path = \"up.raw\"\n}\n\nstage \"test\" \"boots\" {\n  \
           image  = stage.up\n  memory = \"64MiB\"\n  checks = { up = { console = \"up\" } }\n}\n";
    std::fs::write(tested.join("impasto.hcl"), text).expect("a recipe");
    site::run(&mut build(&tested, store));
    let output = site::run(build(&tested, store).args(["--progress", "json"]));
    let (built, cached) = site::summary(&output);
    assert_eq!(built, 0);
    (tested, cached)
}

fn build(dir: &Path, store: &Path) -> Command {
    let mut command = site::impasto(store);
    command
        .arg("build")
        .arg(dir)
        .arg("--out")
        .arg(dir.join("out"));
    command
}

/// How many layer files a build opens.
fn opened_layers(dir: &Path, store: &Path) -> usize {
    let calls = "open,openat,openat2";
    let build = build(dir, store);
    let of_store = site::traced(&build, dir, calls, &["\"format\""]);
    assert!(of_store > 0, "the trace does not show the store's files");
    site::traced(&build, dir, calls, &["disks/", ".qcow2"])
}
