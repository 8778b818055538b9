//! Files that others may have written: nothing is waited for, nothing is read without a limit.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use impasto::base::bounded::{LINES, TEXT, open_directory, read, read_text};
use rustix::fs::Mode;

use crate::base::base;
use crate::project::{Ran, ran};

fn message(result: io::Result<Vec<u8>>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn what_is_not_a_regular_file_is_named_and_never_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path("fifo"),
        rustix::fs::FileType::Fifo,
        Mode::RUSR,
        0,
    )
    .unwrap();
    let _socket = UnixListener::bind(path("socket")).unwrap();
    std::os::unix::fs::symlink("fifo", path("link")).unwrap();
    assert_eq!(
        message(read(path("fifo"), TEXT)),
        "it is a FIFO, not a regular file"
    );
    assert_eq!(
        message(read(path("link"), TEXT)),
        "it is a FIFO, not a regular file"
    );
    assert_eq!(
        message(read("/dev/zero", TEXT)),
        "it is a character device, not a regular file"
    );
    assert_eq!(
        read(dir.path(), TEXT).unwrap_err().kind(),
        io::ErrorKind::IsADirectory
    );
    assert!(read(path("socket"), TEXT).is_err());
    assert_eq!(
        read(path("missing"), TEXT).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
    assert!(open_directory(path("fifo")).is_err());
}

#[test]
fn no_more_is_read_than_allowed_whatever_the_size_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, "12345").unwrap();
    assert_eq!(read(&path, 5).unwrap(), b"12345");
    assert_eq!(
        message(read(&path, 4)),
        "it is larger than the limit of 4 bytes"
    );
    // Its size is 0, and there is more.
    assert_eq!(std::fs::metadata("/proc/self/mountinfo").unwrap().len(), 0);
    assert_eq!(
        message(read("/proc/self/mountinfo", 9)),
        "it is larger than the limit of 9 bytes"
    );
    assert!(!read("/proc/self/mountinfo", LINES).unwrap().is_empty());
    // Sparse: refused by its size, before anything is read.
    File::create(&path).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(
        message(read(&path, TEXT)),
        "it is larger than the limit of 64 MiB"
    );
    std::fs::write(&path, [0xff]).unwrap();
    assert_eq!(
        read_text(&path, TEXT).unwrap_err().to_string(),
        "it is not UTF-8 text"
    );
}

/// Runs impasto in a directory; a run that waits for a FIFO is ended, with another exit code.
fn run(dir: &Path, arguments: &[&str]) -> Ran {
    let mut command = Command::new("timeout");
    command
        .args([
            "--signal=KILL",
            "30",
            env!("CARGO_BIN_EXE_impasto"),
            "--store",
            "store",
        ])
        .args(arguments);
    command
        .current_dir(dir)
        .env("NO_COLOR", "1")
        .env("XDG_CONFIG_HOME", dir.join("config"))
        .stdin(Stdio::null());
    ran(command)
}

const RECIPE: &str = "stage \"fetch\" \"base\" {\n  path = \"base.raw\"\n}\n";

#[test]
fn a_fifo_is_refused_wherever_a_file_is_read() {
    let fifo = |path: &Path| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path,
            rustix::fs::FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
    };
    // What the FIFO is called, the recipe, the command.
    let stage = |parameters: &str| {
        format!("{RECIPE}stage \"run\" \"x\" {{\n  from = stage.base\n  {parameters}\n}}\n")
    };
    let plain = RECIPE.to_owned();
    let cases: Vec<(&str, String, &[&str])> = vec![
        ("z.hcl", plain.clone(), &["validate"]),
        ("z.hcl", plain.clone(), &["validate", "z.hcl"]),
        ("z.hcl", plain.clone(), &["fmt", "z.hcl"]),
        (
            "values",
            plain.clone(),
            &["validate", "--var-file", "values"],
        ),
        ("impasto.lock", plain.clone(), &["validate"]),
        (".impasto.toml", plain.clone(), &["validate"]),
        ("config/impasto/config.toml", plain.clone(), &["validate"]),
        ("base.raw", plain.clone(), &["plan"]),
        ("text", stage("script = file(\"text\")"), &["validate"]),
        (
            "text",
            stage("script = template(\"text\", {})"),
            &["validate"],
        ),
        ("disk", plain.clone(), &["diff", "./disk", "./disk"]),
        ("disk", plain.clone(), &["boot", "./disk"]),
    ];
    for (name, recipe, command) in cases {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("base.raw"), "disk").unwrap();
        std::fs::write(dir.path().join("recipe.hcl"), recipe).unwrap();
        let _ = std::fs::remove_file(dir.path().join(name));
        fifo(&dir.path().join(name));
        let ran = run(dir.path(), command);
        assert!((1..=3).contains(&ran.code), "{name} {command:?}: {ran:?}");
        let last = name.rsplit('/').next().unwrap();
        let says = ran.stderr.contains("FIFO") || ran.stderr.contains("neither a file");
        assert!(
            ran.stderr.contains(last) && says,
            "{name} {command:?}: {}",
            ran.stderr
        );
    }
}

#[test]
fn a_device_without_end_is_refused_wherever_a_file_is_read() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("base.raw"), "disk").unwrap();
    std::fs::write(dir.path().join("recipe.hcl"), RECIPE).unwrap();
    let ran = run(dir.path(), &["validate", "--var-file", "/dev/zero"]);
    assert!(
        ran.code == 3 && ran.stderr.contains("character device"),
        "{ran:?}"
    );
    let disk = &base().qcow2;
    let ran = run(
        dir.path(),
        &["boot", disk.to_str().unwrap(), "--ssh-key", "/dev/zero"],
    );
    assert!(ran.code != 0 && ran.stderr.contains("/dev/zero"), "{ran:?}");
    std::os::unix::fs::symlink("/dev/zero", dir.path().join("impasto.lock")).unwrap();
    let ran = run(dir.path(), &["validate"]);
    assert!(
        ran.code == 1 && ran.stderr.contains("character device"),
        "{ran:?}"
    );
    std::fs::remove_file(dir.path().join("impasto.lock")).unwrap();
    // In a pull request: it is a link that leads out of the repository.
    std::os::unix::fs::symlink("/dev/zero", dir.path().join("z.hcl")).unwrap();
    let ran = run(dir.path(), &["validate"]);
    assert!(
        ran.code == 3 && ran.stderr.contains("z.hcl") && ran.stderr.contains("/dev/zero"),
        "{ran:?}"
    );
}
