//! Where benchmarks work: `target/bench/`, the program, the Debian disk, and how other programs are started.
//! Knows files and processes, not what is measured.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use impasto_store::qcow2::{CHUNK, ChunkSource, Content, RawFile};

use crate::measure::{sized, small, timed};

/// The directory that all is written to.
pub(crate) fn dir() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name(sized("bench", "bench-small"));
    std::fs::create_dir_all(&dir).expect("target/bench can be made");
    dir
}

/// An empty directory below it.
pub(crate) fn fresh(name: &str) -> PathBuf {
    let path = dir().join(name);
    remove(&path);
    std::fs::create_dir_all(&path).expect("a directory can be made");
    path
}

/// Deletes a directory or a file, if it is there.
pub(crate) fn remove(path: &Path) {
    let _ = if path.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    assert!(!path.exists(), "{} cannot be removed", path.display());
}

/// A program, with nothing to read and its output kept.
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The measured program, with a store.
pub(crate) fn impasto(store: &Path) -> Command {
    let mut command = program(env!("CARGO_BIN_EXE_impasto"));
    // Under sudo, too, what is measured is root's.
    command.env_remove("SUDO_UID");
    command.arg("--store").arg(store);
    command
}

/// Runs a program to its end, which must be a success.
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Whether a peer is there. One that is not is left out where everything is tiny; else it is needed.
pub(crate) fn has(peer: &str, package: &str) -> bool {
    let found = program(peer).arg("--version").output().is_ok();
    if !found && small() {
        println!("  {peer} is left out: it is not installed (apt-get install {package})");
    }
    found || !small()
}

/// How long a program takes from its start to its end.
pub(crate) fn time(command: &mut Command) -> Duration {
    timed(|| run(command)).0
}

/// What a build's last event says about nodes: how many were built, and how many were found.
pub(crate) fn summary(output: &Output) -> (u64, u64) {
    let text = String::from_utf8_lossy(&output.stdout);
    let last: serde_json::Value =
        serde_json::from_str(text.lines().last().unwrap_or_default()).expect("JSON events");
    assert_eq!(last["event"], "run_finished");
    (
        last["built"].as_u64().expect("a number"),
        last["cached"].as_u64().expect("a number"),
    )
}

/// A disk of Debian, made once; where everything is tiny, the small disk of `recipes/tiny`.
pub(crate) struct Debian {
    /// A raw image with holes.
    pub(crate) raw: PathBuf,
    /// The same as a plain qcow2.
    pub(crate) qcow2: PathBuf,
    /// The chunks of it that are not zero, one after the other.
    pub(crate) data: PathBuf,
}

/// The Debian disk.
pub(crate) fn debian() -> Debian {
    let at = dir().join("debian");
    if small() {
        std::fs::create_dir_all(&at).expect("a directory");
        let image = |from: &Path, to: &str, format| {
            let (mut convert, to) = (program("qemu-img"), at.join(to));
            run(convert
                .args(["convert", "-q", "-O", format])
                .arg(from)
                .arg(to));
        };
        image(&tiny(), "base.raw", "raw");
        image(&tiny(), "base.qcow2", "qcow2");
        remove(&at.join("base.data"));
    } else {
        script("benches/peers/make-base.sh", &at);
    }
    let debian = Debian {
        raw: at.join("base.raw"),
        qcow2: at.join("base.qcow2"),
        data: at.join("base.data"),
    };
    if !debian.data.exists() {
        let source = RawFile::new(File::open(&debian.raw).expect("the base")).expect("the base");
        let part = at.join("base.data.part");
        let mut out = std::io::BufWriter::new(File::create(&part).expect("the data"));
        let mut chunk = Box::new([0; CHUNK]);
        source
            .for_each_present(&mut |index| {
                let content = source.read_chunk(index, &mut chunk)?;
                if content != Content::Zero && chunk.iter().any(|byte| *byte != 0) {
                    std::io::Write::write_all(&mut out, &*chunk).expect("the data");
                }
                Ok(())
            })
            .expect("the base can be read");
        out.into_inner().expect("the data");
        std::fs::rename(part, &debian.data).expect("the data");
    }
    debian
}

/// The small disk of `recipes/tiny`.
pub(crate) fn tiny() -> PathBuf {
    let at = dir().join("tiny");
    script("recipes/tiny/make-base.sh", &at);
    at.join("base.qcow2")
}

fn script(name: &str, at: &Path) {
    run(Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).arg(at));
}

/// Reads a file, so that it is in the page cache.
pub(crate) fn warm(path: &Path) {
    std::io::copy(
        &mut File::open(path).expect("a file to read"),
        &mut std::io::sink(),
    )
    .expect("a readable file");
}

/// Waits until all is written, so that what one run leaves behind is not paid for by the next.
pub(crate) fn settle() {
    run(&mut program("sync"));
}

/// A file's SHA-256, by another program.
pub(crate) fn sha256(path: &Path) -> String {
    let output = run(program("sha256sum").arg(path));
    String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// Empties the page cache.
pub(crate) fn drop_caches() {
    settle();
    if small() {
        return;
    }
    std::fs::write("/proc/sys/vm/drop_caches", "3").expect("root can empty the page cache");
}

/// How many system calls of these kinds with all of these texts a program makes; their list lies in `dir` for a while.
pub(crate) fn traced(command: &Command, dir: &Path, calls: &str, texts: &[&str]) -> usize {
    let trace = dir.join("trace");
    let mut strace = program("strace");
    strace
        .args(["-f", "-qq", "-e", &format!("trace={calls}"), "-o"])
        .arg(&trace);
    run(strace.arg(command.get_program()).args(command.get_args()));
    let text = std::fs::read_to_string(trace).expect("a trace");
    let has_all = |line: &&str| texts.iter().all(|text| line.contains(text));
    text.lines().filter(has_all).count()
}
