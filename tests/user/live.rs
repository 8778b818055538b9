//! What is to be seen of a build while it runs: on terminals of all sizes, without colours, in a pipe, and by machines.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::Stdio;
use std::sync::{Arc, Condvar, Mutex};

use regex::Regex;

use crate::base::tool;
use crate::project::{Project, ran};
use crate::pty::Pty;

/// A server of files of which each comes to its half until it is let go.
struct Slow {
    port: u16,
    go: Arc<(Mutex<bool>, Condvar)>,
}

/// Bytes of each file.
const SIZE: usize = 1_000_000;

impl Slow {
    fn new() -> Slow {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let go = Arc::new((Mutex::new(false), Condvar::new()));
        let gate = go.clone();
        std::thread::spawn(move || {
            for visitor in listener.incoming() {
                let (mut visitor, gate) = (visitor.unwrap(), gate.clone());
                std::thread::spawn(move || {
                    let mut lines = BufReader::new(visitor.try_clone().unwrap()).lines();
                    let first = lines.next().unwrap().unwrap();
                    while lines
                        .next()
                        .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
                    {
                    }
                    let path = first
                        .split(' ')
                        .nth(1)
                        .unwrap()
                        .trim_start_matches('/')
                        .parse()
                        .unwrap();
                    let content = content(path);
                    let (head, tail) = content.split_at(SIZE / 2);
                    // Who goes away is none of its business.
                    let _ = write!(
                        visitor,
                        "HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\nConnection: close\r\n\r\n"
                    );
                    let _ = visitor.write_all(head);
                    let mut open = gate.0.lock().unwrap();
                    while !*open {
                        open = gate.1.wait(open).unwrap();
                    }
                    let _ = visitor.write_all(tail);
                });
            }
        });
        Slow { port, go }
    }

    fn go(&self) {
        *self.go.0.lock().unwrap() = true;
        self.go.1.notify_all();
    }

    /// A recipe that gets so many of its files.
    fn project(&self, files: usize) -> Project {
        let project = Project::empty();
        let stages = (0..files).map(|number| {
            let file = project.path("file");
            std::fs::write(&file, content(number)).unwrap();
            let (sha256, port) = (crate::project::sha256(&file), self.port);
            format!(
                "stage \"fetch\" \"file-{number:02}\" {{\n  url = \"http://127.0.0.1:{port}/{number}\"\n  checksum = \
                 \"sha256:{sha256}\"\n}}\n"
            )
        });
        project.write("impasto.hcl", &stages.collect::<String>());
        project
    }
}

/// What the server says of a number.
fn content(number: usize) -> Vec<u8> {
    vec![b'0' + number as u8; SIZE]
}

/// What differs from run to run made equal.
fn shown(rows: &[String]) -> String {
    let mut text = rows.join("\n");
    for (pattern, stand_in) in [
        (r"\d+(\.\d+)? (min \d+ )?s\b", "TIME"),
        (r", \d+(\.\d+)? [kM]?B/s(, ~TIME left)?", ""),
        (r" +TIME", " TIME"),
        (r"[0-9a-f]{12}…", "DIGEST…"),
    ] {
        text = Regex::new(pattern)
            .unwrap()
            .replace_all(&text, stand_in)
            .into_owned();
    }
    text + "\n"
}

/// Whether every stage that is to be seen has half of its file.
fn at_half(rows: &[String], stages: usize) -> bool {
    rows.iter()
        .filter(|row| row.contains("download 500 kB of 1.0 MB"))
        .count()
        == stages
}

#[test]
fn thirty_stages_at_once_on_terminals_of_all_sizes() {
    let server = Slow::new();
    let project = server.project(30);
    let mut text = String::new();
    let mut pty = Pty::start(project.command(&["build", "--jobs", "30"]), 80, 24);
    for (columns, rows, stages) in [(80, 24, 21), (200, 50, 30), (60, 12, 9), (80, 24, 21)] {
        pty.resize(columns, rows);
        pty.wait_for("half of every file", |rows| {
            at_half(rows, stages) && rows.len() <= stages + 2
        });
        let seen = pty.rows();
        assert_eq!(
            seen.iter()
                .filter(|row| row.contains("of 30 stages"))
                .count(),
            1,
            "{seen:#?}"
        );
        text += &format!("== {columns}x{rows}\n{}", shown(&seen));
    }
    server.go();
    assert_eq!(pty.end(), Some(0));
    let rows = pty.rows();
    assert!(
        rows.last()
            .unwrap()
            .starts_with("done: 30 built, 0 cached in "),
        "{rows:#?}"
    );
    assert!(
        !rows.iter().any(|row| row.contains("     run  ")),
        "nothing of the view is left: {rows:#?}"
    );
    insta::assert_snapshot!("thirty", text);
}

#[test]
fn without_colours_in_a_pipe_and_for_machines() {
    let server = Slow::new();
    server.go();
    // `NO_COLOR` is set by `command`.
    let project = server.project(2);
    let mut pty = Pty::start(project.command(&["build"]), 80, 24);
    assert_eq!(pty.end(), Some(0));
    let colours = Regex::new("\x1b\\[[0-9;]*m").unwrap();
    assert!(!colours.is_match(&pty.written), "{:?}", pty.written);
    let mut command = project.command(&["build", "--rebuild", "file-00"]);
    let mut pty = Pty::start(
        {
            command.env_remove("NO_COLOR");
            command
        },
        80,
        24,
    );
    assert_eq!(pty.end(), Some(0));
    assert!(colours.is_match(&pty.written), "{:?}", pty.written);

    let piped = project.run(&["build", "--rebuild", "file-00"]);
    assert!(
        !piped.stderr.contains('\x1b') && piped.stdout.is_empty(),
        "{piped:?}"
    );
    insta::assert_snapshot!(
        "piped",
        shown(&piped.stderr.lines().map(str::to_owned).collect::<Vec<_>>())
    );

    // Nothing to do: no view at all, in any of them.
    let mut pty = Pty::start(project.command(&["build"]), 80, 24);
    assert_eq!(pty.end(), Some(0));
    assert!(!pty.written.contains('\x1b'), "{:?}", pty.written);
}

#[test]
fn an_interrupted_build_says_so_and_leaves_no_view_behind() {
    let server = Slow::new();
    let project = server.project(3);
    let mut pty = Pty::start(project.command(&["build", "--jobs", "3"]), 80, 24);
    pty.wait_for("half of every file", |rows| at_half(rows, 3));
    tool("kill", &["-INT", &pty.id().to_string()]);
    assert_eq!(pty.end(), Some(130));
    let rows = pty.rows();
    let last = rows.last().unwrap();
    assert!(
        last.starts_with("interrupted: 0 built, 0 cached, 3 not run in "),
        "{rows:#?}"
    );
    assert!(
        !rows.iter().any(|row| row.contains("     run  ")),
        "{rows:#?}"
    );

    // In a log too.
    let mut child = project
        .command(&["build", "--jobs", "3"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    lines
        .find(|line| line.contains("run  file"))
        .expect("it starts");
    tool("kill", &["-TERM", &child.id().to_string()]);
    let last = lines.last().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(last.starts_with("interrupted: "), "{last}");
    server.go();
}

#[test]
fn a_build_in_which_nothing_runs_reads_no_durations() {
    let project = Project::with("stage \"fetch\" \"base\" { path = \"base.qcow2\" }\n");
    project.build(&[]);
    let trace = project.path("trace");
    let mut command = std::process::Command::new("strace");
    let build = project.command(&["build"]);
    command.args([
        "-f",
        "-e",
        "trace=openat,openat2,open",
        "-o",
        trace.to_str().unwrap(),
    ]);
    command
        .arg(build.get_program())
        .args(build.get_args())
        .current_dir(project.path(""))
        .env("NO_COLOR", "1");
    command.env_remove("SUDO_UID");
    assert_eq!(ran(command).code, 0);
    let trace = std::fs::read_to_string(trace).unwrap();
    assert!(
        trace.contains("index") && !trace.contains("durations"),
        "{trace}"
    );
}
