//! Overlays: made by us, written by qemu-storage-daemon over a chain of layers, read back by us and by qemu-img.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use impasto_store::qcow2::{CHUNK, ChunkSource, WriteError, create_overlay};
use tempfile::tempdir;

use crate::support::{Random, open, qemu_img, run};
use crate::write::{random_chunks, write_layer};

fn new_overlay(path: &Path, virtual_size: u64) {
    create_overlay(&File::create_new(path).unwrap(), virtual_size).unwrap();
}

#[test]
fn an_empty_overlay_is_clean_and_says_nothing() {
    let dir = tempdir().unwrap();
    for (case, size) in [0, 512, 65536, 3 << 30, (16 << 40) + 512, 64 << 40]
        .into_iter()
        .enumerate()
    {
        let path = dir.path().join(format!("{case}.qcow2"));
        new_overlay(&path, size);
        qemu_img("check -q -f qcow2 {}", &[&path]);
        let image = open(&path);
        assert_eq!(image.virtual_size(), size);
        assert_eq!(image.next_present(0).unwrap(), None);
        let info = qemu_img("info --output=json -f qcow2 {}", &[&path]);
        let info = String::from_utf8(info.stdout).unwrap();
        assert!(!info.contains("backing"), "{info}");
        assert!(fs::metadata(&path).unwrap().len() <= 19 * CHUNK as u64);
    }
}

#[test]
fn an_overlay_of_an_impossible_size_is_refused() {
    let dir = tempdir().unwrap();
    let file = File::create(dir.path().join("x")).unwrap();
    for size in [1, 511, 513, (64 << 40) + 512, u64::MAX] {
        let result = create_overlay(&file, size);
        assert!(
            matches!(result, Err(WriteError::VirtualSize { virtual_size }) if virtual_size == size),
            "{size}"
        );
    }
}

/// A `qemu-storage-daemon` that exports the topmost overlay over a unix socket, each driver named.
struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    fn start(dir: &Path, chain: &[&Path], overlay: &Path) -> Daemon {
        let mut command = Command::new("qemu-storage-daemon");
        let mut backing = "null".to_string();
        for (number, layer) in chain.iter().enumerate() {
            command.arg("--blockdev").arg(format!(
                r#"{{"driver":"qcow2","node-name":"c{number}","read-only":true,"backing":{backing},"file":{{"driver":"file","filename":"{}","read-only":true}}}}"#,
                layer.display()
            ));
            backing = format!(r#""c{number}""#);
        }
        let (socket, pidfile) = (dir.join("nbd"), dir.join("pid"));
        let child = command
            .arg("--blockdev")
            .arg(format!(
                r#"{{"driver":"qcow2","node-name":"top","discard":"unmap","detect-zeroes":"unmap","backing":{backing},"file":{{"driver":"file","filename":"{}","discard":"unmap","cache":{{"no-flush":true}}}}}}"#,
                overlay.display()
            ))
            .arg("--nbd-server")
            .arg(format!("addr.type=unix,addr.path={}", socket.display()))
            .args(["--export", "type=nbd,id=e,node-name=top,name=disk,writable=on", "--pidfile"])
            .arg(&pidfile)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start qemu-storage-daemon: {error}; these tests need it installed"));
        let mut daemon = Daemon { child, socket };
        // The daemon writes its pid file once everything is exported.
        while !pidfile.exists() {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("qemu-storage-daemon ended with {status}");
            }
            std::thread::yield_now();
        }
        daemon
    }

    /// Runs `qemu-io` commands on the exported disk.
    fn io(&self, commands: &[String]) {
        let mut arguments = vec!["-f".to_string(), "raw".to_string()];
        arguments.extend(
            commands
                .iter()
                .flat_map(|command| ["-c".to_string(), command.clone()]),
        );
        arguments.push(format!("nbd+unix:///disk?socket={}", self.socket.display()));
        run("qemu-io", &arguments);
    }

    fn stop(mut self) {
        run("kill", &[self.child.id().to_string()]);
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Only where an assertion failed before `stop`; there is nothing more to be done about an error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_daemon_writes_an_overlay_over_a_chain_and_we_read_it_as_qemu_does() {
    let dir = tempdir().unwrap();
    let mut random = Random::new(5);
    let size = 200 * CHUNK as u64 - 4096;
    let paths: Vec<_> = (0..4)
        .map(|number| dir.path().join(format!("{number}.qcow2")))
        .collect();
    for (path, density) in paths[..3].iter().zip([80, 20, 10]) {
        write_layer(path, size, &random_chunks(&mut random, 200, density));
    }
    new_overlay(&paths[3], size);
    let chain: Vec<&Path> = paths[..3].iter().map(|path| path.as_path()).collect();
    let daemon = Daemon::start(dir.path(), &chain, &paths[3]);
    let mut commands = Vec::new();
    for _ in 0..60 {
        let offset = random.below(size / 512 - 400) * 512;
        let length = (1 + random.below(400)) * 512;
        commands.push(match random.below(4) {
            0 => format!("write -z {offset} {length}"),
            1 => format!("discard {offset} {length}"),
            _ => format!("write -P {} {offset} {length}", 1 + random.below(255)),
        });
    }
    // Whole chunks of zeros over content: explicit zeros, not absence.
    commands.push(format!("write -z {} {}", 20 * CHUNK, 3 * CHUNK));
    daemon.io(&commands);
    daemon.stop();

    qemu_img("check -q -f qcow2 {}", &[&paths[3]]);
    let top = open(&paths[3]);
    let whole = flat(&dir.path().join("whole.raw"), &paths);
    let below = flat(&dir.path().join("below.raw"), &paths[..3]);
    // What the overlay does not name must be as below: that is what a stage's changes are sealed by.
    let (mut named, mut chunk) = (0, [0; CHUNK]);
    for index in 0..200 {
        let start = index as usize * CHUNK;
        let range = start..whole.len().min(start + CHUNK);
        if top.next_present(index).unwrap() == Some(index) {
            named += 1;
            // Where clusters of the overlay are chunks it holds all of one that it names.
            top.read_chunk(index, &mut chunk).unwrap();
            assert!(
                chunk[..range.len()] == whole[range],
                "chunk {index} reads differently"
            );
        } else {
            assert!(
                whole[range.clone()] == below[range],
                "chunk {index} is not named and differs"
            );
        }
    }
    for index in 20..23 {
        assert_eq!(
            top.next_present(index).unwrap(),
            Some(index),
            "zeros over content"
        );
    }
    assert!((4..200).contains(&named), "{named} chunks");
}

/// What QEMU reads of a chain, the lowest layer first, written to a raw file.
fn flat(to: &Path, chain: &[PathBuf]) -> Vec<u8> {
    let graph = chain.iter().fold("null".to_string(), |backing, path| {
        format!(
            r#"{{"driver":"qcow2","backing":{backing},"file":{{"driver":"file","filename":"{}"}}}}"#,
            path.display()
        )
    });
    let (graph, raw) = (format!("json:{graph}"), to.to_str().unwrap());
    run("qemu-img", &["convert", "-O", "raw", &graph, raw]);
    fs::read(to).unwrap()
}
