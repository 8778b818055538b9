//! Two builds of one recipe, on all CPUs and on one, give the same disks byte for byte.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::base::{base, flat, tool};
use crate::project::{Project, ran, sha256};
use crate::torture;

/// Choices that a seed makes.
struct Choices(u64);

impl Choices {
    fn below(&mut self, end: u64) -> u64 {
        // Knuth's generator; its low bits are poor.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Lines that make, change and delete files of all kinds; no directory, whose blocks may be used again only after a
/// commit of the journal, and any `sync` on this machine is one.
fn script(choices: &mut Choices, stage: &str, lines: usize) -> String {
    let mut text = "mkdir -p /w/0 /w/1 /w/2 /w/3 /srv/more\n".to_owned();
    for line in (0..lines).map(|line| format!("{stage}{line}")) {
        let (dir, other, count) = (choices.below(4), choices.below(4), 20 + choices.below(300));
        let (size, digit) = (1 + choices.below(400_000), choices.below(10));
        text += &match choices.below(8) {
            0 => format!(
                "for i in $(seq {count}); do echo $i >/w/{dir}/a-name-that-fills-directories-{line}-$i; done"
            ),
            1 => format!(
                "for i in $(seq {count}); do head -c $((i * 77)) /bin/busybox >/w/{dir}/f{line}-$i; done"
            ),
            2 => format!("rm -f /w/{dir}/*{digit}"),
            3 => format!(
                "head -c {size} /bin/busybox >/w/{dir}/l{line}; ln /w/{dir}/l{line} /w/{other}/h{line}; \
                 ln -s ../{dir}/l{line} /w/{other}/s{line}; mkfifo /w/{other}/p{line}"
            ),
            4 => format!(
                "for f in /w/{dir}/f*{digit}; do [ ! -e $f ] || head -c {size} /bin/busybox >>$f; done"
            ),
            5 => format!(
                "for i in $(seq {count}); do head -c 3000 /bin/busybox >>/w/x{dir}; echo $i >>/w/y{other}; done"
            ),
            6 => format!(
                "mkdir -p /srv/more/{line}/a/b; mv /w/{dir} /srv/more/{line}/a; mkdir /w/{dir}; sync"
            ),
            _ => format!(
                "dd if=/bin/busybox of=/w/sparse{line} bs=1000 count=3 seek={size} 2>/dev/null; \
                 echo x >/w/gone; rm /w/gone; touch /w/{dir}; chmod 711 /w/{other}"
            ),
        };
        text.push('\n');
    }
    text
}

/// The recipe: a directory and files copied, scripts, and attributes that do not fit an inode.
fn recipe(choices: &mut Choices) -> String {
    let mut text = "recipe {\n  source_date_epoch = 1700000000\n}\nstage \"fetch\" \"base\" {\n  path = \"base.qcow2\"\n}\n\
                    stage \"copy\" \"copied\" {\n  from = stage.base\n  files = {\n    \"/opt\" = { source = \"tree\" }\n    \
                    \"/etc/motd\" = { content = \"hello\\n\" }\n  }\n}\n"
        .to_owned();
    let acl = "acl=; for i in $(seq 30); do acl=$acl,u:$((i + 1000)):rw; done; mkdir -p /w/acl; cd /w/acl; touch a b c; \
               for i in a b c; do /opt/lib/ld.so --library-path /opt/lib /opt/lib/setfacl -m ${acl#,} $i; done\n";
    for (name, from, more) in [
        ("one", "copied", acl),
        ("two", "one", ""),
        ("three", "two", ""),
    ] {
        let script = script(choices, name, 8) + more;
        text +=
            &format!("stage \"run\" \"{name}\" {{\n  from   = stage.{from}\n  script = <<-EOT\n");
        text += &script.replace("${", "$${");
        text += "EOT\n}\n";
    }
    text + "stage \"convert\" \"raw\" {\n  from   = stage.three\n  format = \"raw\"\n}\nimage \"twin\" {\n  files = [stage.raw]\n}\n"
}

/// A program of the host and its libraries, for a disk that has none.
fn set_acl(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let libraries = tool("ldd", &["/usr/bin/setfacl"]);
    for path in libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .chain(["/usr/bin/setfacl"])
    {
        let name = Path::new(path).file_name().unwrap().to_str().unwrap();
        std::fs::copy(
            path,
            dir.join(if name.starts_with("ld-") {
                "ld.so"
            } else {
                name
            }),
        )
        .unwrap();
    }
}

/// Builds on all CPUs, or on the first that there is; the image's SHA-256 and the digests of all disks.
fn build(recipe: &str, kind: &[&str], one_cpu: bool) -> (String, BTreeSet<String>, Project) {
    let project = Project::with(recipe);
    set_acl(&project.path("tree/lib"));
    for number in 0..150 {
        project.write(
            &format!("tree/files/{}/{number}", number % 7),
            &"text\n".repeat(number * 9),
        );
    }
    if !kind.is_empty() {
        let (image, target) = (project.path("fs.raw"), project.path("base.qcow2"));
        let (image, tree) = (image.to_str().unwrap(), base().tree.to_str().unwrap());
        let fixed = [
            "-U",
            crate::base::ROOT_UUID,
            "-E",
            "hash_seed=7d1f4a66-1b2c-4d3e-8f90-a1b2c3d4e5f6,root_owner=0:0",
        ];
        let arguments = [
            &["-q", "-F", "-t", "ext4"],
            &fixed[..],
            kind,
            &["-d", tree, image, "96M"],
        ]
        .concat();
        let output = Command::new("mke2fs")
            .args(arguments)
            .env("E2FSPROGS_FAKE_TIME", "1600000000")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        tool(
            "qemu-img",
            &[
                "convert",
                "-O",
                "qcow2",
                "-f",
                "raw",
                image,
                target.to_str().unwrap(),
            ],
        );
    }
    let plain = project.command(&["build"]);
    let built = if one_cpu {
        let mut pinned = Command::new("taskset");
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let allowed = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .unwrap();
        let first: String = allowed
            .trim()
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        pinned
            .args(["-c", &first])
            .arg(plain.get_program())
            .args(plain.get_args())
            .current_dir(project.path(""));
        ran(pinned)
    } else {
        ran(plain)
    };
    assert_eq!(built.code, 0, "{}{}", built.stdout, built.stderr);
    let image = project.path("out/twin.raw");
    flat(&image).check();
    let disks = walkdir::WalkDir::new(project.store().join("disks"))
        .min_depth(2)
        .max_depth(2)
        .into_iter();
    let disks = disks
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned())
        .collect();
    (sha256(&image), disks, project)
}

/// Options of `mke2fs` for bases; none is the usual one, with a partition table.
const KINDS: [&[&str]; 4] = [
    &[],
    &["-b", "1024", "-O", "ea_inode,inline_data", "-J", "size=4"],
    &["-O", "^metadata_csum,uninit_bg,^64bit", "-I", "128"],
    &["-O", "^has_journal,metadata_csum_seed"],
];

#[test]
fn torture_twins_are_equal_files() {
    let (count, mut choices) = (torture::count("twins", 3), Choices(torture::seed()));
    for pair in 0..count {
        let kind = KINDS[pair as usize % KINDS.len()];
        let recipe = recipe(&mut choices);
        println!("pair {pair} {kind:?}");
        let (first, disks, one) = build(&recipe, kind, false);
        let (second, others, two) = build(&recipe, kind, true);
        let same = first == second && disks == others;
        if !same {
            let (one, two) = (one.path("out/twin.raw"), two.path("out/twin.raw"));
            println!("{}", ran_cmp(&one, &two));
        }
        assert!(same && disks.len() == 5, "pair {pair}, {kind:?}: {recipe}");
    }
    println!("{count} of {count} pairs are equal");
}

/// The first bytes that differ.
fn ran_cmp(one: &Path, two: &Path) -> String {
    let mut cmp = Command::new("sh");
    cmp.args(["-c", "cmp -l \"$1\" \"$2\" | head -n 40", "sh"])
        .arg(one)
        .arg(two);
    ran(cmp).stdout
}
