//! The namespace sandbox and the disk: which root, what stays in the layer, what must not.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use impasto::disk::guest::RootSelector;
use impasto::sandbox::protocol::ProblemKind;
use impasto::sandbox::{
    AgentStep, Finished, NetworkPolicy, Outcome, SandboxError, SandboxJob, TrimmedOverlay,
};
use impasto_store::qcow2::{CHUNK, ChunkSource, Content, Qcow2};

use crate::base::{ROOT_START, base, flatten, tool};
use crate::sandbox::{Bench, commands};

/// What sealing reads of a finished job, in one piece.
fn sealed_bytes(bench: &Bench, finished: &Finished) -> Vec<u8> {
    let overlay = Qcow2::open(File::open(bench.overlay()).unwrap()).unwrap();
    let scrubbed = TrimmedOverlay::new(&overlay, &finished.unused);
    let (mut all, mut buffer) = (Vec::new(), Box::new([0; CHUNK]));
    scrubbed
        .for_each_present(&mut |index| {
            if scrubbed.read_chunk(index, &mut buffer)? == Content::Data {
                all.extend_from_slice(&buffer[..]);
            }
            Ok(())
        })
        .unwrap();
    all
}

fn count(haystack: &[u8], needle: &str) -> usize {
    haystack
        .windows(needle.len())
        .filter(|window| *window == needle.as_bytes())
        .count()
}

#[test]
fn the_disk_is_closed_clean() {
    let bench = Bench::new();
    bench.lines(&[
        "mkdir /new; i=0; while [ $i -lt 500 ]; do echo $i > /new/$i; i=$((i+1)); done",
        "rm -r /new/1*",
    ]);
    let disk = flatten(&[&base().qcow2, &bench.overlay()], bench.dir.path()).check();
    assert_eq!(disk.cat("/new/499"), "499\n");
    let superblock = disk.debugfs("show_super_stats -h");
    assert!(
        superblock.contains("Last mounted on:          /\n"),
        "{superblock}"
    );
    assert!(
        superblock.contains("Filesystem state:         clean\n"),
        "{superblock}"
    );
}

#[test]
fn what_was_deleted_is_not_sealed() {
    let bench = Bench::new();
    let finished = bench.lines(&[
        "mkdir /d; i=0; while [ $i -lt 300 ]; do echo canary-$((i%10))-small > /d/$i; i=$((i+1)); done",
        "yes canary-large-file | head -c 9000000 > /large; echo canary-that-stays > /kept; sync; rm -rf /d /large",
    ]);
    let raw = fs::read(bench.overlay()).unwrap();
    let sealed = sealed_bytes(&bench, &finished);
    assert!(
        count(&raw, "canary-large-file") > 100_000,
        "the overlay itself keeps it, or this test shows nothing"
    );
    for needle in ["canary-large-file", "-small"] {
        assert_eq!(count(&sealed, needle), 0, "{needle}");
    }
    assert_eq!(count(&sealed, "canary-that-stays"), 1);
    assert!(sealed.len() < 40 * CHUNK, "{} chunks", sealed.len() / CHUNK);
}

#[test]
fn what_is_deleted_of_a_layer_below_becomes_zero() {
    let below = Bench::new();
    below.lines(&["yes canary | head -c 3000000 > /large"]);
    let above = Bench::new();
    let chain = vec![base().qcow2.clone(), below.overlay()];
    let finished = above
        .run(SandboxJob {
            chain,
            steps: commands(&["rm /large"]),
            ..above.job()
        })
        .unwrap();
    let overlay = Qcow2::open(File::open(above.overlay()).unwrap()).unwrap();
    let scrubbed = TrimmedOverlay::new(&overlay, &finished.unused);
    let lower = Qcow2::open(File::open(below.overlay()).unwrap()).unwrap();
    let (mut with_canary, mut buffer) = (0, Box::new([0; CHUNK]));
    lower
        .for_each_present(&mut |index| {
            lower.read_chunk(index, &mut buffer)?;
            // Chunks that are canaries all over; the first and last of the file may hold other files as well.
            if count(&buffer[..], "canary") > 9000 {
                with_canary += 1;
                assert_eq!(scrubbed.next_present(index)?, Some(index), "{index}");
                assert_eq!(
                    scrubbed.read_chunk(index, &mut buffer)?,
                    Content::Zero,
                    "{index}"
                );
            }
            Ok(())
        })
        .unwrap();
    assert!(with_canary >= 40, "{with_canary}");
}

#[test]
fn a_sealed_disk_is_a_clean_file_system() {
    let bench = Bench::new();
    let finished =
        bench.lines(&["cp -a /bin /copy; rm -r /copy/[a-m]*; sync; cp -a /etc /etc2; rm -r /copy"]);
    let flat = flatten(&[&base().qcow2, &bench.overlay()], bench.dir.path());
    // Every unused byte zeroed, as sealing does, in the raw disk.
    let path = bench.dir.path().join("flat-2.raw");
    let mut bytes = flat.bytes();
    for range in &finished.unused {
        bytes[range.start as usize..range.end as usize].fill(0);
    }
    fs::write(&path, bytes).unwrap();
    let zeroed: u64 = finished
        .unused
        .iter()
        .map(|range| range.end - range.start)
        .sum();
    assert!(zeroed > 20 << 20, "{zeroed}");
    flat.check();
    // And it mounts: the journal's blocks are zero but for its superblock.
    let compressed = bench.dir.path().join("flat.qcow2");
    tool(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            path.to_str().unwrap(),
            compressed.to_str().unwrap(),
        ],
    );
    let again = Bench::new();
    let job = SandboxJob {
        chain: vec![compressed.clone()],
        steps: commands(&["cat /etc2/hosts; echo x > /x"]),
        ..again.job()
    };
    assert_eq!(again.run(job).unwrap().outcome, Outcome::Ok);
    assert_eq!(again.log(), "127.0.0.1 image\n");
    flatten(&[&compressed, &again.overlay()], again.dir.path()).check();
}

#[test]
fn secrets_are_in_memory_only() {
    let bench = Bench::new();
    let secret = "hunter2-hunter2-hunter2";
    let line = "stat -c '%a %u:%g' /run/impasto/secrets /run/impasto/secrets/token; stat -f -c %T /run/impasto/secrets; \
                sha256sum < /run/impasto/secrets/token; env | grep -c hunter2 || true";
    let job = SandboxJob {
        steps: commands(&[line]),
        secrets: vec![("token".to_owned(), secret.as_bytes().to_vec())],
        ..bench.job()
    };
    assert_eq!(
        bench.run(job).unwrap().outcome,
        Outcome::Ok,
        "{}",
        bench.log()
    );
    insta::assert_snapshot!(bench.log());
    for file in fs::read_dir(bench.dir.path()).unwrap().flatten() {
        assert_eq!(
            count(&fs::read(file.path()).unwrap(), "hunter2"),
            0,
            "{}",
            file.path().display()
        );
    }
}

#[test]
fn mount_points_that_were_missing_are_gone_again() {
    let untouched = Bench::new();
    // The base without two mount points, as no step can make it.
    let (raw, lower) = (
        untouched.dir.path().join("lower.raw"),
        untouched.dir.path().join("lower.qcow2"),
    );
    fs::copy(&base().raw, &raw).unwrap();
    let device = format!("{}?offset={}", raw.display(), ROOT_START * 512);
    for request in [
        "rmdir /sys",
        "rmdir /tmp",
        "set_inode_field / mtime 0x3a7b8372",
    ] {
        tool("debugfs", &["-w", "-R", request, &device]);
    }
    tool(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            raw.to_str().unwrap(),
            lower.to_str().unwrap(),
        ],
    );
    let job = SandboxJob {
        chain: vec![lower.clone()],
        steps: commands(&["ls -d /sys/block /tmp"]),
        ..untouched.job()
    };
    assert_eq!(untouched.run(job).unwrap().outcome, Outcome::Ok);
    let disk = flatten(&[&lower, &untouched.overlay()], untouched.dir.path()).check();
    let (names, root) = (disk.debugfs("ls /"), disk.debugfs("stat /"));
    assert!(!names.contains("sys") && !names.contains("tmp"), "{names}");
    assert!(root.contains("mtime: 0x3a7b8372"), "{root}");

    let touched = Bench::new();
    let steps = commands(&["touch /new; umount /tmp; touch -d '2002-02-02 02:02:02' /"]);
    assert_eq!(
        touched
            .run(SandboxJob {
                chain: vec![lower.clone()],
                steps,
                privileged: true,
                ..touched.job()
            })
            .unwrap()
            .outcome,
        Outcome::Ok
    );
    let disk = flatten(&[&lower, &touched.overlay()], touched.dir.path()).check();
    let (names, root) = (disk.debugfs("ls /"), disk.debugfs("stat /"));
    assert!(!names.contains("tmp") && names.contains("new"), "{names}");
    assert!(root.contains("mtime: 0x3c5b489a"), "{root}");
}

#[test]
fn the_network_is_off_unless_asked_for() {
    let bench = Bench::new();
    bench.lines(&[
        "ls /sys/class/net; ip route | wc -l; ip addr show lo | grep -q LOWER_UP && echo lo is up; cat /etc/hosts",
    ]);
    assert_eq!(bench.log(), "lo\n0\nlo is up\n127.0.0.1 image\n");
}

#[test]
fn with_network_the_hosts_resolver_is_laid_over_the_images() {
    let policy = NetworkPolicy::default();
    let on = |bench: &Bench, chain: Vec<PathBuf>, lines: &[&str]| {
        let finished = bench
            .run(SandboxJob {
                chain,
                network: Some(&policy),
                steps: commands(lines),
                ..bench.job()
            })
            .unwrap();
        assert_eq!(finished.outcome, Outcome::Ok, "{}", bench.log());
    };
    let bench = Bench::new();
    on(
        &bench,
        vec![base().qcow2.clone()],
        &[
            "cat /etc/resolv.conf /etc/hosts",
            "rm -f /etc/hosts || true",
        ],
    );
    let host = ["/etc/resolv.conf", "/etc/hosts"]
        .map(|path| fs::read_to_string(path).unwrap_or_default())
        .concat();
    assert!(bench.log().starts_with(&host), "{}", bench.log());
    let disk = flatten(&[&base().qcow2, &bench.overlay()], bench.dir.path()).check();
    assert_eq!(disk.cat("/etc/hosts"), "127.0.0.1 image\n");
    assert_eq!(disk.cat("/etc/resolv.conf"), "nameserver 192.0.2.1\n");

    // An image without the files, or with a link that leads nowhere yet.
    for (prepare, after) in [
        ("rm /etc/resolv.conf /etc/hosts", None),
        (
            "ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf",
            Some("../run/systemd/resolve/stub-resolv.conf"),
        ),
        (
            "ln -sf /no/such/dir/resolv.conf /etc/resolv.conf",
            Some("/no/such/dir/resolv.conf"),
        ),
    ] {
        let below = Bench::new();
        below.lines(&[prepare, "touch -d '2001-02-03 04:05:06' /etc"]);
        let above = Bench::new();
        on(
            &above,
            vec![base().qcow2.clone(), below.overlay()],
            &["cat /etc/resolv.conf"],
        );
        assert_eq!(
            above.log(),
            fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
            "{prepare}"
        );
        let disk = flatten(
            &[&base().qcow2, &below.overlay(), &above.overlay()],
            above.dir.path(),
        )
        .check();
        let names = disk.debugfs("ls /etc");
        assert_eq!(
            names.contains("resolv.conf"),
            after.is_some(),
            "{prepare}: {names}"
        );
        let (root, etc) = (disk.debugfs("ls /"), disk.debugfs("stat /etc"));
        assert!(!root.contains(" no "), "{prepare}: {root}");
        assert!(etc.contains("mtime: 0x3a7b8372"), "{prepare}: {etc}");
        if let Some(target) = after {
            assert!(
                disk.debugfs("stat /etc/resolv.conf").contains(target),
                "{prepare}"
            );
        }
    }
}

#[test]
fn a_bare_file_system_is_the_root() {
    let bench = Bench::new();
    let size = fs::metadata(base().bare_raw.clone()).unwrap().len();
    let job = SandboxJob {
        chain: vec![base().bare.clone()],
        virtual_size: size,
        steps: commands(&["cut -d' ' -f1-3 /proc/mounts | head -1; ls /dev/vda*; echo x > /x"]),
        ..bench.job()
    };
    let finished = bench.run(job).unwrap();
    assert_eq!(finished.outcome, Outcome::Ok, "{}", bench.log());
    assert_eq!(bench.log(), "/dev/vda / ext4\n/dev/vda\n");
    assert!(!finished.unused.is_empty());
    assert_eq!(
        flatten(&[&base().bare, &bench.overlay()], bench.dir.path())
            .check()
            .cat("/x"),
        "x\n"
    );
}

#[test]
fn a_chain_of_three_reads_as_one() {
    let mut chain = vec![base().qcow2.clone()];
    let benches: Vec<Bench> = (0..3)
        .map(|index| {
            let bench = Bench::new();
            let line = format!(
                "cat /log 2>/dev/null || true; echo {index} >> /log; rm -f /was-{}; echo > /was-{index}",
                index - 1
            );
            let job = SandboxJob { chain: chain.clone(), steps: commands(&[&line]), ..bench.job() };
            assert_eq!(bench.run(job).unwrap().outcome, Outcome::Ok);
            chain.push(bench.overlay());
            bench
        })
        .collect();
    assert_eq!(benches[2].log(), "0\n1\n");
    let chain: Vec<&Path> = chain.iter().map(PathBuf::as_path).collect();
    let disk = flatten(&chain, benches[2].dir.path()).check();
    assert_eq!(disk.cat("/log"), "0\n1\n2\n");
    let names = disk.debugfs("ls /");
    assert!(
        names.contains("was-2") && !names.contains("was-1"),
        "{names}"
    );
}

/// A disk of three partitions: data, the root, an ESP; the table as `sfdisk` makes it.
pub(crate) fn three_partitions(dir: &Path, label: &str, data: bool) -> PathBuf {
    let raw = dir.join("three.raw");
    File::create(&raw).unwrap().set_len(64 << 20).unwrap();
    let raw = raw.to_str().unwrap();
    let esp = if label == "gpt" {
        "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
    } else {
        "ef"
    };
    let table = format!("label: {label}\nsize=16MiB\nsize=40MiB\nsize=6MiB, type={esp}\n");
    fs::write(dir.join("table"), table).unwrap();
    tool(
        "sh",
        &[
            "-c",
            &format!(
                "sfdisk -q --no-reread --no-tell-kernel '{raw}' < '{}/table'",
                dir.display()
            ),
        ],
    );
    let offset = |mib: u64| format!("offset={},lazy_itable_init=0,nodiscard", mib << 20);
    if data {
        tool(
            "mke2fs",
            &[
                "-q",
                "-F",
                "-t",
                "ext4",
                "-L",
                "data",
                "-E",
                &offset(1),
                raw,
                "16M",
            ],
        );
    }
    let tree = base().tree.to_str().unwrap();
    tool(
        "mke2fs",
        &[
            "-q",
            "-F",
            "-t",
            "ext4",
            "-L",
            "system",
            "-E",
            &offset(17),
            "-d",
            tree,
            raw,
            "40M",
        ],
    );
    tool(
        "mkfs.vfat",
        &[
            "--offset",
            &(57 * 2048).to_string(),
            "-n",
            "ESP",
            "-F",
            "12",
            raw,
            "6144",
        ],
    );
    let qcow2 = dir.join("three.qcow2");
    tool(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            raw,
            qcow2.to_str().unwrap(),
        ],
    );
    qcow2
}

#[test]
fn the_partition_with_a_shell_is_the_root() {
    for label in ["gpt", "dos"] {
        let bench = Bench::new();
        let chain = vec![three_partitions(bench.dir.path(), label, true)];
        let steps = commands(&[
            "cut -d' ' -f1-3 /proc/mounts | head -1; ls /dev/vda*; ls /dev/disk/by-label",
        ]);
        let job = SandboxJob {
            chain,
            steps,
            virtual_size: 64 << 20,
            ..bench.job()
        };
        assert_eq!(
            bench.run(job).unwrap().outcome,
            Outcome::Ok,
            "{}",
            bench.log()
        );
        let expected =
            "/dev/vda2 / ext4\n/dev/vda\n/dev/vda1\n/dev/vda2\n/dev/vda3\nESP\ndata\nsystem\n";
        assert_eq!(bench.log(), expected, "{label}");
    }
}

#[test]
fn a_root_can_be_named() {
    for (root, expected) in [
        (RootSelector::Number(2), "/dev/vda2\n"),
        (RootSelector::Label("system".to_owned()), "/dev/vda2\n"),
        (RootSelector::Number(1), "the image has no /bin/sh"),
        (
            RootSelector::Number(3),
            "no root file system: the disk has no file system",
        ),
        (
            RootSelector::Number(4),
            "no root file system: no file system matches root = 4",
        ),
    ] {
        let bench = Bench::new();
        let chain = vec![three_partitions(bench.dir.path(), "gpt", true)];
        let steps = commands(&["cut -d' ' -f1 /proc/mounts | head -1"]);
        let job = SandboxJob {
            chain,
            steps,
            root: root.clone(),
            virtual_size: 64 << 20,
            ..bench.job()
        };
        let seen = match bench.run(job) {
            Ok(Finished {
                outcome: Outcome::Ok,
                ..
            }) => bench.log(),
            Ok(Finished {
                outcome: Outcome::StepRefused { problem, .. },
                ..
            }) => problem.to_string(),
            Err(SandboxError::Root(error)) => format!("no root file system: {error}"),
            other => panic!("{root}: {other:?}"),
        };
        assert!(seen.starts_with(expected), "{root}: {seen}");
    }
}

#[test]
fn several_partitions_with_a_shell_are_an_error_that_lists_them() {
    let bench = Bench::new();
    let chain = vec![three_partitions(bench.dir.path(), "gpt", true)];
    let job = || SandboxJob {
        chain: chain.clone(),
        virtual_size: 64 << 20,
        ..bench.job()
    };
    let steps = commands(&[
        "mkdir /mnt; mount /dev/vda1 /mnt; mkdir /mnt/bin; ln -s nothing /mnt/bin/sh; ls /mnt",
    ]);
    assert_eq!(
        bench
            .run(SandboxJob {
                steps,
                privileged: true,
                ..job()
            })
            .unwrap()
            .outcome,
        Outcome::Ok,
        "{}",
        bench.log()
    );
    // The dangling link does not count; a file does.
    let second = Bench::new();
    let chain = vec![chain[0].clone(), bench.overlay()];
    let steps = commands(&["mount /dev/vda1 /mnt; echo > /mnt/bin/nothing"]);
    let job = SandboxJob {
        chain: chain.clone(),
        steps,
        virtual_size: 64 << 20,
        privileged: true,
        ..second.job()
    };
    assert_eq!(second.run(job).unwrap().outcome, Outcome::Ok);
    let third = Bench::new();
    let chain = [chain, vec![second.overlay()]].concat();
    let error = third
        .run(SandboxJob {
            chain,
            virtual_size: 64 << 20,
            ..third.job()
        })
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "no root file system: several partitions contain /bin/sh: 1 (ext4), 2 (ext4)"
    );
}

#[test]
fn file_systems_of_fstab_are_mounted_and_closed() {
    let bench = Bench::new();
    let chain = vec![three_partitions(bench.dir.path(), "gpt", true)];
    let fstab = "# all\nLABEL=data /srv/with\\040blank ext4 defaults 0 2\nLABEL=ESP /boot/efi vfat umask=077 0 1\n\
                 UUID=none /nowhere ext4 defaults 0 0\n/swapfile none swap sw 0 0\n";
    let write = AgentStep::WriteFile {
        path: "/etc/fstab".to_owned(),
        content: fstab.as_bytes().to_vec().into(),
        mode: 0o644,
    };
    let job = SandboxJob {
        chain: chain.clone(),
        steps: vec![write],
        virtual_size: 64 << 20,
        ..bench.job()
    };
    assert_eq!(bench.run(job).unwrap().outcome, Outcome::Ok);
    let second = Bench::new();
    let chain = vec![chain[0].clone(), bench.overlay()];
    let steps =
        commands(&["echo data > '/srv/with blank/file'; grep vda /proc/mounts | cut -d' ' -f1-3"]);
    let finished = second
        .run(SandboxJob {
            chain: chain.clone(),
            steps,
            virtual_size: 64 << 20,
            ..second.job()
        })
        .unwrap();
    assert_eq!(finished.outcome, Outcome::Ok, "{}", second.log());
    assert_eq!(
        second.log(),
        "/dev/vda2 / ext4\n/dev/vda1 /srv/with\\040blank ext4\n"
    );
    let third = Bench::new();
    let chain = [chain, vec![second.overlay()]].concat();
    let steps = commands(&[
        "mkdir -p /mnt; umount /dev/vda1; ls /srv 2>&1; mount /dev/vda1 /mnt; cat /mnt/file",
    ]);
    let outcome = third
        .run(SandboxJob {
            chain,
            steps,
            virtual_size: 64 << 20,
            privileged: true,
            ..third.job()
        })
        .unwrap()
        .outcome;
    assert_eq!(
        (outcome, third.log().as_str()),
        (Outcome::Ok, "with blank\ndata\n")
    );
}

#[test]
fn errors_of_the_disk_are_never_a_success() {
    let bench = Bench::new();
    // The overlay's own file system is full: a small tmpfs as place for it.
    let small = bench.dir.path().join("small");
    fs::create_dir(&small).unwrap();
    tool(
        "mount",
        &[
            "-t",
            "tmpfs",
            "-o",
            "size=3m",
            "small",
            small.to_str().unwrap(),
        ],
    );
    let overlay = small.join("overlay.qcow2");
    let steps = commands(&["dd if=/dev/urandom of=/big bs=1M count=12 conv=fsync || true; sync"]);
    let result = bench.run(SandboxJob {
        overlay: &overlay,
        steps,
        timeout: Some(Duration::from_secs(50)),
        ..bench.job()
    });
    tool("umount", &[small.to_str().unwrap()]);
    let outcome = result.unwrap().outcome;
    let Outcome::Damaged { problem } = &outcome else {
        panic!("{outcome:?}")
    };
    assert!(
        matches!(problem.kind, ProblemKind::WriteBack | ProblemKind::Dirty),
        "{problem}"
    );
    assert!(!outcome.leaves_a_disk());
}

#[test]
fn the_base_is_never_written() {
    let before = fs::read(&base().qcow2).unwrap();
    Bench::new().lines(&[
        "dd if=/dev/zero of=/dev/vda1 bs=4096 seek=9000 count=1 conv=notrunc; echo x > /x",
    ]);
    assert!(before == fs::read(&base().qcow2).unwrap());
}
