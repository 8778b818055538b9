//! A build in which nothing is to be done: a recipe of 20 stages, from process start to exit, with a warm store.
//!
//! The files that a process opens are counted by `strace` in a run of its own: no layer file may be among them.

use std::path::Path;
use std::process::Command;

use crate::measure::{Goal, Row, detail, interleaved, median, quiet, sized};
use crate::site;

const RUNS: usize = 40;

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
    site::settle();
    quiet();
    let [times] = interleaved(RUNS, |_, _| site::time(&mut build(&dir, &store)));
    detail("impasto build", &times);
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
    ]
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
    let trace = dir.join("trace");
    let build = build(dir, store);
    let mut strace = site::program("strace");
    strace
        .args(["-f", "-qq", "-e", "trace=open,openat,openat2", "-o"])
        .arg(&trace);
    site::run(strace.arg(build.get_program()).args(build.get_args()));
    let text = std::fs::read_to_string(trace).expect("a trace");
    assert!(
        text.contains("\"format\""),
        "the trace does not show the store's files"
    );
    text.lines()
        .filter(|line| line.contains("disks/") && line.contains(".qcow2"))
        .count()
}
