//! Overlays: made by us, written by qemu-storage-daemon over a chain of layers, read back by us and by qemu-img.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use impasto_store::qcow2::{
    CHUNK, Chain, ChainError, ChunkSource, Presence, Qcow2, WriteError, create_overlay,
};
use tempfile::tempdir;

use crate::support::{Random, open, qemu_img, read_all, run};
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
    socket: std::path::PathBuf,
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
    let below: Vec<&Path> = paths[..3].iter().map(|path| path.as_path()).collect();
    let daemon = Daemon::start(dir.path(), &below, &paths[3]);
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
    let graph = paths.iter().fold("null".to_string(), |backing, path| {
        format!(
            r#"{{"driver":"qcow2","backing":{backing},"file":{{"driver":"file","filename":"{}"}}}}"#,
            path.display()
        )
    });
    let flat = dir.path().join("flat.raw");
    run(
        "qemu-img",
        &[
            "convert",
            "-O",
            "raw",
            &format!("json:{graph}"),
            flat.to_str().unwrap(),
        ],
    );

    let chain = Chain::new(paths.iter().map(|path| open(path)).collect()).unwrap();
    assert!(
        read_all(&chain) == fs::read(&flat).unwrap(),
        "the chain reads differently"
    );
    let top = &chain.layers()[3];
    for index in 20..23 {
        assert_eq!(
            top.presence(index).unwrap(),
            Presence::Zero,
            "chunk {index}"
        );
    }
    // Presence is what an overlay is sealed by: what it does not name must be as below.
    let below = Chain::new(below.iter().map(|path| open(path)).collect()).unwrap();
    let (mut ours, mut theirs) = ([0; CHUNK], [0; CHUNK]);
    let mut named = 0;
    for index in 0..200 {
        if top.next_present(index).unwrap() == Some(index) {
            named += 1;
            continue;
        }
        assert_eq!(top.presence(index).unwrap(), Presence::Absent);
        chain.read_chunk(index, &mut ours).unwrap();
        below.read_chunk(index, &mut theirs).unwrap();
        assert!(ours == theirs, "chunk {index} is not named and differs");
    }
    assert!((4..200).contains(&named), "{named} chunks");
}

#[test]
fn disks_that_grow_and_shrink_along_a_chain_read_as_qemu_reads_them() {
    let dir = tempdir().unwrap();
    let mut random = Random::new(11);
    // In chunks; the odd sectors make the last chunk of each a partial one.
    let orders = [[10, 20, 30], [30, 20, 10], [20, 9, 25], [9, 25, 20]];
    let sizes = orders.repeat(4);
    for (case, sizes) in sizes.into_iter().enumerate() {
        let mut paths = Vec::new();
        let mut graph = "null".to_string();
        for (number, chunks) in sizes.into_iter().enumerate() {
            let path = dir.path().join(format!("{case}-{number}.qcow2"));
            write_layer(
                &path,
                chunks * CHUNK as u64 - 1536,
                &random_chunks(&mut random, chunks, 50),
            );
            graph = format!(
                r#"{{"driver":"qcow2","backing":{graph},"file":{{"driver":"file","filename":"{}"}}}}"#,
                path.display()
            );
            paths.push(path);
        }
        let flat = dir.path().join(format!("{case}.raw"));
        run(
            "qemu-img",
            &[
                "convert",
                "-O",
                "raw",
                &format!("json:{graph}"),
                flat.to_str().unwrap(),
            ],
        );
        let chain = Chain::new(paths.iter().map(|path| open(path)).collect()).unwrap();
        assert!(read_all(&chain) == fs::read(&flat).unwrap(), "case {case}");

        // The next present chunk does not depend on what was asked before. A layer that ends hides those below.
        let says = |index: u64| {
            let mut layers = chain
                .layers()
                .iter()
                .rev()
                .take_while(|layer| index < layer.chunks());
            layers.any(|layer| layer.presence(index).unwrap() != Presence::Absent)
        };
        for _ in 0..200 {
            let from = random.below(32);
            let expected = (from..chain.chunks()).find(|&index| says(index));
            assert_eq!(
                chain.next_present(from).unwrap(),
                expected,
                "case {case} from {from}"
            );
        }
    }
}

#[test]
fn a_chain_of_layers_that_could_hold_parts_of_chunks_is_refused() {
    let dir = tempdir().unwrap();
    let (small, large) = (dir.path().join("small"), dir.path().join("large"));
    qemu_img("create -q -f qcow2 -o cluster_size=4k {} 1M", &[&small]);
    qemu_img("create -q -f qcow2 -o cluster_size=2M {} 1M", &[&large]);
    assert!(matches!(
        Chain::new(Vec::<Qcow2>::new()),
        Err(ChainError::Empty)
    ));
    assert!(Chain::new(vec![open(&small), open(&large)]).is_ok());
    assert!(matches!(
        Chain::new(vec![open(&large), open(&small)]),
        Err(ChainError::SmallClusters {
            position: 1,
            cluster_size: 4096
        })
    ));
}
