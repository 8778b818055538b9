//! Damaged file systems: what e2fsck complains about never has the tree index of the sound one.
//!
//! Needs the packages e2fsprogs and dosfstools; mounts nothing.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};

use impasto::disk::guest::OverlayView;
use impasto::disk::tree::make::{Unread, tree};
use impasto::disk::tree::text;
use impasto_store::qcow2::RawFile;

use crate::base::tool;
use crate::random::Random;
use crate::torture::count;

/// How a file system is made, and what checks it.
struct Made {
    name: &'static str,
    make: &'static [&'static str],
    check: &'static [&'static str],
}

const EXT: &[&str] = &["e2fsck", "-f", "-n"];

const MADE: &[Made] = &[
    Made {
        name: "ext2",
        make: &["mke2fs", "-t", "ext2"],
        check: EXT,
    },
    Made {
        name: "ext3",
        make: &["mke2fs", "-t", "ext3"],
        check: EXT,
    },
    Made {
        name: "ext4 without sums",
        make: &["mke2fs", "-t", "ext4", "-O", "^metadata_csum"],
        check: EXT,
    },
    Made {
        name: "ext4 without any sums",
        make: &[
            "mke2fs",
            "-t",
            "ext4",
            "-O",
            "^metadata_csum,^uninit_bg,^64bit",
        ],
        check: EXT,
    },
    Made {
        name: "ext4",
        make: &["mke2fs", "-t", "ext4"],
        check: EXT,
    },
    Made {
        name: "ext4 of 1 KiB",
        make: &["mke2fs", "-t", "ext4", "-b", "1024"],
        check: EXT,
    },
    Made {
        name: "vfat",
        make: &["mkfs.vfat", "-F", "16"],
        check: &["fsck.vfat", "-n"],
    },
];

/// Makes a file system with files, links, and directories of one block and of many.
fn make(made: &Made, dir: &Path) -> Vec<u8> {
    let (image, tree) = (dir.join("image"), dir.join("tree"));
    let [image_text, tree_text] = [&image, &tree].map(|path| path.to_str().unwrap().to_owned());
    fs::create_dir_all(tree.join("large")).unwrap();
    for number in 0..120 {
        let name =
            format!("large/a file whose name takes much of a directory's block {number:060}");
        fs::write(tree.join(name), format!("{number}\n")).unwrap();
    }
    fs::create_dir_all(tree.join("a/b/c")).unwrap();
    fs::write(tree.join("a/content"), vec![7; 600_000]).unwrap();
    fs::write(tree.join("a/b/c/deep"), "deep").unwrap();
    fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let [program, options @ ..] = made.make else {
        panic!()
    };
    if *program == "mkfs.vfat" {
        tool(program, &[options, &[&image_text]].concat());
        tool(
            "mcopy",
            &["-s", "-i", &image_text, &format!("{tree_text}/a"), "::/"],
        );
    } else {
        fs::hard_link(tree.join("a/content"), tree.join("a/b/again")).unwrap();
        std::os::unix::fs::symlink("a/b/c", tree.join("short")).unwrap();
        std::os::unix::fs::symlink("d/".repeat(100), tree.join("long")).unwrap();
        tool(
            program,
            &[
                &["-q", "-F"],
                options,
                &["-N", "256", "-d", &tree_text, &image_text],
            ]
            .concat(),
        );
        // Gives the large directory its hash tree.
        assert!(code(Command::new("e2fsck").args(["-f", "-y", "-D", &image_text])) < 2);
    }
    let bytes = fs::read(&image).unwrap();
    assert!(is_sound(made, &image), "{}", made.name);
    fs::remove_dir_all(tree).unwrap();
    bytes
}

fn code(command: &mut Command) -> i32 {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .code()
        .unwrap()
}

fn is_sound(made: &Made, image: &Path) -> bool {
    let [program, options @ ..] = made.check else {
        panic!()
    };
    code(Command::new(program).args(options).arg(image)) == 0
}

/// Where the metadata of the file system is, in bytes, by its sort.
fn metadata(made: &Made, image: &Path, bytes: &[u8]) -> Vec<Vec<Range<usize>>> {
    if made.name == "vfat" {
        // Boot sector, both tables, the root directory.
        return vec![vec![0..512], vec![512..40_000]];
    }
    let debugfs = |line: &str| {
        let output = Command::new("debugfs")
            .args(["-R", line, image.to_str().unwrap()])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let block = 1024 << word(1024 + 0x18);
    let descriptors = (1024 / block + 1) * block;
    let bitmap =
        |at: usize| std::iter::once(word(at) * block..word(at) * block + 256).collect::<Vec<_>>();
    let inodes = word(descriptors + 8) * block;
    let of_directories =
        ["/", "/large", "/a", "/a/b", "/lost+found"].map(|path| debugfs(&format!("blocks {path}")));
    let numbers = of_directories
        .iter()
        .flat_map(|list| list.split_whitespace());
    let directories = numbers.map(|number| number.parse::<usize>().unwrap() * block);
    vec![
        vec![1024..2048],
        vec![descriptors..descriptors + 64],
        bitmap(descriptors),
        bitmap(descriptors + 4),
        // Those that are in use, and some that are not.
        vec![inodes..inodes + 160 * 256],
        directories.map(|start| start..start + block).collect(),
    ]
}

/// Changes a bit, a byte or a word somewhere in these ranges; gives where.
fn mutate(bytes: &mut [u8], places: &[Vec<Range<usize>>], random: &mut Random) -> usize {
    let places = &places[random.below(places.len() as u64) as usize];
    let place = &places[random.below(places.len() as u64) as usize];
    let at = place.start + random.below((place.end - place.start - 4) as u64) as usize;
    match random.below(4) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.below(256) as u8,
        2 => bytes[at..at + 2].copy_from_slice(&(random.below(1 << 16) as u16).to_le_bytes()),
        _ => {
            let word = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            bytes[at..at + 4].copy_from_slice(&word.wrapping_add(1).to_le_bytes());
        }
    }
    at
}

/// The index of an image, as text.
fn index(image: &Path) -> (Vec<u8>, Vec<Unread>) {
    let disk = RawFile::new(fs::File::open(image).unwrap()).unwrap();
    let (tree, unread) = tree(&OverlayView::whole(&disk).unwrap(), None).unwrap();
    (text::write(&tree), unread)
}

#[test]
fn torture_a_damaged_file_system_is_never_the_same() {
    let mutants = count("DAMAGE", 24);
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let mut wrong = Vec::new();
    for (seed, made) in MADE.iter().enumerate() {
        let good = make(made, dir.path());
        let (places, (sound, unread)) = (metadata(made, &image, &good), index(&image));
        assert!(
            unread.iter().all(|unread| unread.listed),
            "{}: {unread:?}",
            made.name
        );
        let mut random = Random::new(0x5eed_0000 + seed as u64);
        let (mut damaged, mut same) = (0, 0);
        for mutant in 0..mutants {
            let mut bytes = good.clone();
            let at = mutate(&mut bytes, &places, &mut random);
            fs::write(&image, &bytes).unwrap();
            if bytes == good || is_sound(made, &image) {
                continue;
            }
            damaged += 1;
            if index(&image).0 == sound {
                same += 1;
                wrong.push(format!(
                    "{} mutant {mutant}: byte {at:#x} {:02x?} -> {:02x?}",
                    made.name,
                    &good[at..at + 4],
                    &bytes[at..at + 4]
                ));
            }
        }
        println!(
            "{}: {mutants} mutants, {damaged} damaged, {same} of them the same",
            made.name
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
