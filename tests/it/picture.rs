//! The live view as a picture, out of a run on a real terminal: `make picture` draws the README's of the demo.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use avt::{Color, Line, Pen};

use crate::project::Project;
use crate::pty::Pty;

const COLUMNS: u16 = 80;
const ROWS: u16 = 24;
/// Pictures of one run, but for the one of its end.
const FRAMES: u32 = 12;
/// How long each is to be seen, and how long the last one, in seconds.
const FRAME: f64 = 1.0;
const LAST: f64 = 5.0;

/// The picture of the README.
fn picture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/live.svg")
}

/// Runs a command on a terminal, and looks at it at even intervals of the time that it took before.
fn record(command: Command, typed: &str, took: Duration) -> Vec<Vec<Line>> {
    let mut frames = Vec::new();
    let mut pty = Pty::start(command, COLUMNS, ROWS);
    pty.show(&format!("$ {typed}\r\n"));
    let lines = |pty: &Pty| pty.terminal().screen().visible_lines().cloned().collect();
    let start = Instant::now();
    while pty.read(Duration::from_millis(20)) {
        let next = took.mul_f64((f64::from(frames.len() as u32) + 0.5) / f64::from(FRAMES));
        if start.elapsed() >= next && (frames.len() as u32) < FRAMES && pty.rows().len() > 1 {
            frames.push(lines(&pty));
        }
    }
    assert_eq!(pty.end(), Some(0), "{}", pty.rows().join("\n"));
    frames.push(lines(&pty));
    frames
}

/// The name of a pen's look.
fn class(pen: &Pen) -> String {
    let colour = match pen.foreground() {
        Some(Color::Indexed(index)) => {
            ["k", "r", "g", "y", "b", "m", "c", "w"][usize::from(index % 8)]
        }
        _ => "",
    };
    [
        colour,
        if pen.is_bold() { "B" } else { "" },
        if pen.is_faint() { "F" } else { "" },
    ]
    .join(" ")
    .trim()
    .to_owned()
}

/// Frames as one picture that moves; who cannot show that shows the last one.
fn svg(frames: &[Vec<Line>]) -> String {
    let (width, height) = (
        f64::from(COLUMNS) * 8.4 + 24.0,
        f64::from(ROWS) * 18.0 + 24.0,
    );
    let all = (frames.len() - 1) as f64 * FRAME + LAST;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\">\n<style>\n\
         text{{font:14px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre;fill:#d4d8dd}}\n\
         .r{{fill:#ff6b68}}.g{{fill:#5ac778}}.y{{fill:#e5c07b}}.c{{fill:#56c8d8}}.B{{font-weight:bold}}.F{{opacity:.6}}\n\
         .f{{visibility:hidden;animation:{all}s step-end infinite}}.f:last-child{{visibility:visible}}\n"
    );
    let percent = |seconds: f64| 100.0 * seconds / all;
    for number in 0..frames.len() {
        let (start, end) = (
            percent(number as f64 * FRAME),
            percent((number + 1) as f64 * FRAME),
        );
        let end = if number + 1 == frames.len() {
            String::new()
        } else {
            format!("{end:.2}%{{visibility:hidden}}")
        };
        let begin = if number == 0 {
            ""
        } else {
            "0%{visibility:hidden}"
        };
        writeln!(
            out,
            "@keyframes f{number}{{{begin}{start:.2}%{{visibility:visible}}{end}}}"
        )
        .unwrap();
    }
    out += "</style>\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#1c2026\"/>\n";
    for (number, frame) in frames.iter().enumerate() {
        writeln!(out, "<g class=\"f\" style=\"animation-name:f{number}\">").unwrap();
        for (row, line) in frame.iter().enumerate() {
            let mut column = 0;
            for run in line.chunks(|a, b| a.pen() != b.pen()) {
                let text: String = run
                    .iter()
                    .filter(|cell| cell.width() > 0)
                    .map(avt::Cell::char)
                    .collect();
                let start = column;
                column += run.len();
                if text.trim().is_empty() {
                    continue;
                }
                let blanks = text.chars().take_while(|c| *c == ' ').count();
                let text = text.trim().replace('&', "&amp;").replace('<', "&lt;");
                let (x, y) = (
                    12.0 + (start + blanks) as f64 * 8.4,
                    26.0 + row as f64 * 18.0,
                );
                let class = class(run[0].pen());
                let class = if class.is_empty() {
                    class
                } else {
                    format!(" class=\"{class}\"")
                };
                writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.0}\"{class}>{text}</text>").unwrap();
            }
        }
        out += "</g>\n";
    }
    out + "</svg>\n"
}

fn check(svg: &str) {
    assert!(svg.len() < 60_000, "{} bytes", svg.len());
    for element in ["svg", "g", "text", "style"] {
        let starts = svg.matches(&format!("<{element} ")).count()
            + svg.matches(&format!("<{element}>")).count();
        assert_eq!(
            starts,
            svg.matches(&format!("</{element}>")).count(),
            "{element}"
        );
    }
    for word in ["     run", "   built"] {
        assert!(svg.contains(&format!(">{}<", word.trim())), "{word}");
    }
}

#[test]
fn the_live_view_as_a_picture() {
    // A directory for the store and what is built of the demo: the second time it is quick.
    let demo = std::env::var_os("IMPASTO_PICTURE").map(PathBuf::from);
    let project = Project::with(
        r#"
        stage "fetch" "base" { path = "base.qcow2" }
        stage "run" "work" {
          from     = stage.base
          commands = ["echo '<now> & then'; sleep 1"]
        }
        "#,
    );
    let dir = demo.clone().unwrap_or_else(|| project.path(""));
    let recipe = demo
        .as_ref()
        .map(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/debian-12"));
    let stages = [
        "root",
        "base",
        "settings",
        "configure",
        "versions",
        "clean",
        "qcow2",
    ];
    let stages = if demo.is_some() {
        &stages[..]
    } else {
        &["work"]
    };
    let command = |first: &[&str], again: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_impasto"));
        command
            .args(first)
            .args(again.iter().flat_map(|stage| ["--rebuild", stage]))
            .arg("--store")
            .arg(dir.join("store"));
        if let Some(recipe) = &recipe {
            command.arg(recipe).args(["--only", "variant=minimal"]);
        }
        command
            .env_remove("IMPASTO_LOG")
            .env_remove("NO_COLOR")
            .env_remove("SUDO_UID")
            .current_dir(&dir);
        command
    };
    assert!(command(&["build"], &[]).status().unwrap().success());
    let plan = command(&["plan", "--json"], stages)
        .output()
        .unwrap()
        .stdout;
    let plan: serde_json::Value = serde_json::from_slice(&plan).unwrap();
    let took = Duration::from_millis(plan["cost"]["wall_ms"].as_u64().expect("it was timed"));
    let typed = "impasto build recipes/debian-12 --only variant=minimal";
    let svg = svg(&record(command(&["build"], stages), typed, took));
    check(&svg);
    if demo.is_some() {
        std::fs::write(picture(), svg).unwrap();
    }
    check(&std::fs::read_to_string(picture()).unwrap());
}
