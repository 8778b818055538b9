//! Normalized disks: nothing of when a stage ran, nothing of a mount, and file systems in order.

use std::collections::BTreeMap;

use crate::base::{Flat, base, flat, tool};
use crate::project::Project;

const HEAD: &str = "recipe {\n  source_date_epoch = 1700000000\n}\nstage \"fetch\" \"base\" {\n  path = \"base.qcow2\"\n}\n";

/// A stage of lines.
fn run(name: &str, from: &str, lines: &[&str]) -> String {
    format!("stage \"run\" \"{name}\" {{\n  from     = stage.{from}\n  commands = {lines:?}\n}}\n")
}

/// An image of a stage as a raw disk.
fn raw(from: &str) -> String {
    format!(
        "stage \"convert\" \"raw_{from}\" {{\n  from   = stage.{from}\n  format = \"raw\"\n}}\n\
         image \"{from}\" {{\n  files = [stage.raw_{from}]\n}}\n"
    )
}

fn layers(project: &Project) -> usize {
    let entries = walkdir::WalkDir::new(project.store().join("disks"))
        .into_iter()
        .map(Result::unwrap);
    entries
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".qcow2"))
        .count()
}

fn disk(project: &Project, stage: &str) -> Flat {
    flat(&project.path(&format!("out/{stage}.raw"))).check()
}

/// What `debugfs` says of a file, by word: `mtime` and the others with their raw words and nanoseconds.
fn times(disk: &Flat, path: &str) -> BTreeMap<String, String> {
    let text = disk.debugfs(&format!("stat {path}"));
    let line = |line: &str| {
        let (name, rest) = line.trim().split_once(": ")?;
        let time = rest.split_once(" -- ")?.0;
        Some((name.to_owned(), time.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

const EPOCH: &str = "0x6553f100:00000000";

#[test]
fn a_stage_that_changes_nothing_adds_no_layer() {
    let lines = [
        ("a", "base", vec!["true"]),
        (
            "b",
            "a",
            vec![
                "cat /etc/passwd /bin/sh >/tmp/x; sync",
                "grep ' / ' /proc/mounts | grep noinit_itable",
            ],
        ),
        (
            "c",
            "b",
            vec![
                "chmod 644 /etc/hosts; chown 0:0 /etc/hosts; touch -r /etc/hosts /tmp/r; touch -r /tmp/r /etc/hosts",
            ],
        ),
        (
            "work",
            "c",
            vec!["mkdir /made; echo x >/made/x; rm /etc/hosts"],
        ),
        ("d", "work", vec!["true"]),
    ];
    let stages: String = lines
        .iter()
        .map(|(name, from, lines)| run(name, from, lines))
        .collect();
    let project = Project::with(&format!("{HEAD}{stages}{}", raw("d")));
    assert_eq!(project.build(&["work"]), (5, 0));
    assert_eq!(
        layers(&project),
        2,
        "of the base, and of the stage that works"
    );
    assert_eq!(project.build(&[]), (2, 5));
    assert_eq!(layers(&project), 2);
    assert!(disk(&project, "d").debugfs("ls /made").contains(" x"));
}

#[test]
fn what_a_stage_changed_is_of_the_epoch_and_what_is_older_stays() {
    let work = "mkdir /new; echo x >/new/file; ln -s file /new/link; ln /new/file /new/hard; echo x >/old; \
                touch -d @1000000000 /old; touch -d @2000000000 /new/late; touch -d @1700000000 /new/equal; mkfifo /new/pipe";
    let project = Project::with(&format!(
        "{HEAD}{}{}{}",
        run("work", "base", &[work]),
        raw("work"),
        raw("base")
    ));
    assert_eq!(project.build(&[]), (4, 0));
    let (before, after) = (disk(&project, "base"), disk(&project, "work"));
    for path in [
        "/new",
        "/new/file",
        "/new/link",
        "/new/late",
        "/new/equal",
        "/new/pipe",
        "/",
    ] {
        let times = times(&after, path);
        assert!(
            times["ctime"] == EPOCH && times["mtime"] == EPOCH && times["atime"] == EPOCH,
            "{path}: {times:?}"
        );
        assert!(path == "/" || times["crtime"] == EPOCH, "{path}: {times:?}");
    }
    let old = times(&after, "/old");
    assert_eq!(
        (old["mtime"].as_str(), old["atime"].as_str()),
        ("0x3b9aca00:00000000", "0x3b9aca00:00000000")
    );
    assert_eq!(old["ctime"], EPOCH);
    assert_eq!(
        times(&before, "/bin/busybox"),
        times(&after, "/bin/busybox"),
        "not touched, not settled"
    );
    for field in [
        "Mount count",
        "Last mount time",
        "Last write time",
        "Last mounted on",
        "Lifetime writes",
        "Last checked",
    ] {
        let line = |disk: &Flat| {
            disk.debugfs("show_super_stats -h")
                .lines()
                .find(|line| line.starts_with(field))
                .map(str::to_owned)
        };
        assert_eq!(line(&before), line(&after));
    }
    assert_eq!(
        project.in_guest("work", "cat /new/hard; stat -c %y /new/late"),
        "x\n2023-11-14 22:13:20.000000000 +0000\n"
    );
}

/// All that a program in the image can see of its files, and when they were made.
fn tree(project: &Project, stage: &str) -> String {
    let line = "find / -xdev | grep -v -e ^/dev -e ^/proc -e ^/run -e ^/sys -e ^/tmp | sort | while read -r path; do stat -c '%n %f %u %g %s %h %x %y %z' \"$path\"; done; \
                find / -xdev -type f | sort | xargs sha256sum; find / -xdev -type l | sort | xargs -n 1 readlink";
    project.in_guest(stage, line)
}

#[test]
fn two_runs_at_different_times_leave_equal_trees() {
    let first = "mkdir -p /a/b /c; for i in 1 2 3 4 5 6 7 8 9; do echo $i >/a/b/$i; ln /a/b/$i /c/hard$i; ln -s ../a/b/$i /c/link$i; done; \
                 rm /a/b/3 /c/hard3 /etc/hosts; echo line >>/etc/passwd; cp -a /bin/busybox /c; mv /a/b/4 /a/four; mkdir -p /var/log; \
                 date >/var/log/dpkg.log; echo kept >/var/log/kept";
    let second = "rm -r /a/b; date >>/var/log/dpkg.log; touch /c; chmod 700 /c; echo x >/c/x; rm /c/x; mkdir /c/d; rmdir /c/d";
    let recipe = format!(
        "{HEAD}{}{}{}",
        run("one", "base", &[first]),
        run("two", "one", &[second]),
        raw("two")
    );
    let trees: Vec<_> = (0..2)
        .map(|_| {
            let project = Project::with(&recipe);
            assert_eq!(project.build(&[]), (4, 0));
            let disk = disk(&project, "two");
            let made = times(&disk, "/c/busybox")["crtime"].clone();
            (
                tree(&project, "one"),
                tree(&project, "two"),
                made,
                disk.debugfs("show_super_stats -h"),
            )
        })
        .collect();
    assert!(
        trees[0].0.contains("/c/hard9 ") && !trees[0].0.contains("dpkg.log"),
        "{}",
        trees[0].0
    );
    // Whole trees are too long to be read in a message.
    assert!(trees[0] == trees[1]);
    assert_eq!(trees[0].2, EPOCH);
}

#[test]
fn a_settled_stage_is_found_equal_when_it_runs_again() {
    let work = "echo x >/x; date +%N >/var/random-seed; rm /etc/hosts; mkdir -p /var/lib; cat /proc/uptime >/var/lib/random-seed";
    let stage =
        run("work", "base", &[work]).replace("\n}\n", "\n  volatile = [\"/var/random-*\"]\n}\n");
    let project = Project::with(&format!("{HEAD}{stage}{}", run("after", "work", &["true"])));
    assert_eq!(project.build(&[]), (3, 0));
    assert_eq!(
        project.build(&["--rebuild", "work"]),
        (1, 2),
        "what comes after is what it was"
    );
    assert_eq!(
        project.in_guest("after", "ls /var /var/lib"),
        "/var:\nlib\n\n/var/lib:\n"
    );
}

/// File systems that images have: name for messages, type, and options of `mke2fs`.
const KINDS: [(&str, &str, &[&str]); 9] = [
    ("ext2", "ext2", &[]),
    ("ext3", "ext3", &[]),
    ("small inodes", "ext4", &["-I", "128"]),
    ("large inodes", "ext4", &["-I", "1024"]),
    ("small blocks", "ext4", &["-b", "1024"]),
    (
        "no sums",
        "ext4",
        &["-O", "^metadata_csum,uninit_bg,^64bit"],
    ),
    (
        "seed and orphan file",
        "ext4",
        &["-O", "metadata_csum_seed,orphan_file"],
    ),
    ("inline data", "ext4", &["-O", "inline_data"]),
    (
        "large attributes",
        "ext4",
        &["-O", "ea_inode", "-E", "lazy_itable_init=1"],
    ),
];

#[test]
fn every_kind_of_file_system_is_in_order_afterwards() {
    let work = "mkdir /w; i=0; while [ $i -lt 300 ]; do echo $i >/w/$i; i=$((i+1)); done; rm /w/1* /etc/hosts; ln -s x /w/l; \
                yes | head -c 3000000 >/w/big; setfattr -n user.x -v $(yes | head -c 5000 | tr '\\n' y) /w/big 2>/dev/null || :";
    let stages = [
        run("nothing", "base", &["true"]),
        run("work", "nothing", &[work]),
        run(
            "more",
            "work",
            &[
                "echo more >>/w/200; rm /w/big; cat /w/2*",
                "sync; echo again >/w/again",
            ],
        ),
        run("last", "more", &["true"]),
        raw("work"),
        raw("last"),
    ];
    for (name, kind, options) in KINDS {
        let project = Project::with(&format!("{HEAD}{}", stages.concat()));
        let (image, tree) = (
            project.path("fs.raw"),
            base().tree.to_str().unwrap().to_owned(),
        );
        let arguments = [
            &["-q", "-F", "-t", kind],
            options,
            &["-d", &tree, image.to_str().unwrap(), "40M"],
        ]
        .concat();
        tool("mke2fs", &arguments);
        let target = project.path("base.qcow2");
        tool(
            "qemu-img",
            &[
                "convert",
                "-O",
                "qcow2",
                "-f",
                "raw",
                image.to_str().unwrap(),
                target.to_str().unwrap(),
            ],
        );
        assert_eq!(project.build(&[]), (7, 0), "{name}");
        assert_eq!(layers(&project), 3, "{name}: of the base and of two stages");
        let (work, last) = (disk(&project, "work"), disk(&project, "last"));
        assert_eq!(
            last.cat("/w/200").trim_end_matches('\0'),
            "200\nmore\n",
            "{name}"
        );
        for path in ["/w", "/w/0", "/w/l", "/etc"] {
            let stat = work.debugfs(&format!("stat {path}"));
            assert!(stat.contains("Generation: 0 "), "{name}: {path}: {stat}");
            let times = times(&work, path);
            let all = ["atime", "ctime", "mtime"]
                .map(|word| times.get(word).map(|time| time[..10].to_owned()));
            // An inode without room for more has no nanoseconds to show.
            assert!(
                all[1..]
                    .iter()
                    .all(|time| time.as_deref().is_none_or(|time| time == &EPOCH[..10])),
                "{name}: {path}: {times:?}"
            );
        }
    }
}
