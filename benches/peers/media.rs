//! What is made of a disk beside disks: ramdisks and ISO images. Whole builds, from the program's start to the files in `out/`,
//! durable; the peers neither sync nor hash. All of them read from a warm page cache.
//!
//! * Ramdisk: the files of the Debian disk of all rows against `find | cpio | pigz` at the same level, on the files laid out.
//!   Each of our builds is of a stage of its own, so that nothing of an earlier ramdisk is taken over.
//! * One changed file in 500 MB of overlay: `copy`, `initramfs` and the image run again.
//! * ISO: kernel, ramdisk and 300 MB of files against `xorriso -as mkisofs` on what our image holds, with the same loaders.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::measure::{Goal, Row, detail, interleaved, median, quiet, seconds, sized};
use crate::site;

const ROUNDS: usize = 3;
/// What `gzip` of a stage takes where no level is given, and the highest.
const LEVELS: [u32; 2] = [6, 9];

pub(crate) fn rows() -> Vec<Row> {
    let debian = site::debian();
    let head = format!(
        "recipe {{\n  name              = \"media\"\n  source_date_epoch = 1700000000\n}}\n\n\
         stage \"fetch\" \"base\" {{\n  path = \"{}\"\n}}\n",
        debian.qcow2.display()
    );
    let mut rows = ramdisks(&head);
    rows.extend(one_file(&head));
    rows.push(iso(&head));
    rows
}

fn ramdisks(head: &str) -> Vec<Row> {
    let (dir, store) = (site::fresh("media"), site::fresh("media-store"));
    // The same files for the peer, laid out.
    let tree = dir.join("tree");
    std::fs::create_dir(&tree).expect("a directory");
    let bundle = "\nstage \"archive\" \"files\" {\n  from   = stage.base\n  format = \"tar\"\n}\n\
                  \nimage \"files\" {\n  layout = \"flat\"\n  files  = { \"files.tar\" = stage.files }\n}\n";
    write(&dir, &format!("{head}{bundle}"));
    site::run(&mut build(&store, &dir));
    let tar = dir.join("out/files.tar");
    site::run(
        site::program("tar")
            .arg("-xpf")
            .arg(&tar)
            .arg("-C")
            .arg(&tree),
    );
    site::remove(&tar);
    let peer = site::has("pigz", "pigz") && site::has("cpio", "cpio");
    quiet();
    let mut rows = Vec::new();
    for level in LEVELS {
        let mut sums = Vec::new();
        let [ours, pigz, gzip] = interleaved(sized(ROUNDS, 1), |side, round| match side {
            0 => {
                let stage = format!(
                    "\nstage \"initramfs\" \"r{level}-{round}\" {{\n  from    = stage.base\n  level   = {level}\n  \
                     exclude = [\"/none-{round}\"]\n}}\n\nimage \"media\" {{\n  layout = \"flat\"\n  \
                     files  = {{ initrd = stage.r{level}-{round} }}\n}}\n"
                );
                write(&dir, &format!("{head}{stage}"));
                site::settle();
                let time = site::time(&mut build(&store, &dir));
                sums.push(site::sha256(&dir.join("out/initrd")));
                time
            }
            _ if !peer => Duration::ZERO,
            1 => packed(&tree, &format!("pigz -{level}"), &dir.join("by-pigz")),
            // A round of it takes a minute, and tells little.
            _ if round > 1 => Duration::ZERO,
            _ => packed(&tree, &format!("gzip -{level}"), &dir.join("by-gzip")),
        });
        detail(&format!("ramdisk, gzip level {level}"), &ours);
        detail("find | cpio | pigz", &pigz);
        let gzip = gzip.into_iter().max().unwrap_or_default();
        println!("  find | cpio | gzip: {}", seconds(gzip.as_secs_f64()));
        rows.push(Row::against(
            &format!("ramdisk of Debian 12, gzip level {level}, vs cpio | pigz -{level}"),
            median(&ours),
            median(&pigz),
            Goal::AtLeast(2.0),
        ));
        rows.push(Row::fact(
            "the same: same bytes",
            format!("{} runs", sums.len()),
            "every run",
            sums.iter().all(|sum| *sum == sums[0]),
        ));
    }
    site::remove(&dir);
    site::remove(&store);
    rows
}

/// How long the usual way to a ramdisk takes.
fn packed(tree: &Path, compress: &str, out: &Path) -> Duration {
    let script = format!(
        "cd {} && find . -print0 | LC_ALL=C sort -z | cpio --quiet --null -o -H newc | {compress} > {}",
        tree.display(),
        out.display()
    );
    site::time(site::program("bash").args(["-euo", "pipefail", "-c", &script]))
}

fn one_file(head: &str) -> Vec<Row> {
    let (dir, store) = (site::fresh("overlay"), site::fresh("overlay-store"));
    let overlay = dir.join("overlay");
    let (files, size) = sized((500, 1 << 20), (8, 32 << 10));
    fill(&overlay, files, size);
    let stages = "\nstage \"copy\" \"overlay\" {\n  from  = stage.base\n  files = { \"/overlay\" = \"overlay\" }\n}\n\
        \nstage \"initramfs\" \"ramdisk\" {\n  from    = stage.overlay\n  \
        exclude = [\"/boot/*\", \"/etc/*\", \"/usr/*\", \"/var/*\"]\n}\n\
        \nimage \"overlay\" {\n  layout = \"flat\"\n  files  = { initrd = stage.ramdisk }\n}\n";
    write(&dir, &format!("{head}{stages}"));
    site::run(&mut build(&store, &dir));
    site::settle();
    quiet();
    let mut pieces = (0, 0);
    let [times] = interleaved(sized(5, 1), |_, round| {
        let path = overlay.join(format!("file-{:04}", files / 2));
        let mut text = std::fs::read_to_string(&path).expect("a file");
        // The same length: what comes behind it stays where it is.
        let mark = format!("round {round}");
        text.replace_range(100..100 + mark.len(), &mark);
        std::fs::write(&path, text).expect("a file");
        let time = site::time(&mut build(&store, &dir));
        let mut log = site::impasto(&store);
        let log = site::run(log.args(["log", "ramdisk", "--recipe"]).arg(&dir));
        pieces = again(&String::from_utf8_lossy(&log.stdout));
        time
    });
    detail("one changed file in an overlay directory", &times);
    site::remove(&dir);
    site::remove(&store);
    let (made, of) = pieces;
    vec![
        Row::absolute(
            "one changed file in 500 MB of overlay, until the ramdisk lies in out/",
            median(&times).as_secs_f64(),
            Goal::AtMost(5.0),
            seconds,
        ),
        Row::fact(
            "the same: pieces compressed again",
            format!("{made} of {of}"),
            "<= 5 %",
            made * 20 <= of || crate::measure::small(),
        ),
    ]
}

/// How many pieces a ramdisk's log says were compressed again, and of how many.
fn again(log: &str) -> (u64, u64) {
    let line = log
        .lines()
        .find(|line| line.contains("pieces were compressed"));
    let line = line.unwrap_or_else(|| panic!("no such line in {log}"));
    let mut numbers = line.split(' ').filter_map(|word| word.parse().ok());
    let mut next = || numbers.next().expect("two numbers");
    (next(), next())
}

fn iso(head: &str) -> Row {
    let what = "ISO of kernel, ramdisk and 300 MB, vs xorriso -as mkisofs";
    let (dir, store) = (site::fresh("iso"), site::fresh("iso-store"));
    let (files, size) = sized((300, 1 << 20), (8, 32 << 10));
    fill(&dir.join("data"), files, size);
    for (name, size) in [
        ("kernel", sized(8 << 20, 64 << 10)),
        ("initrd", sized(64 << 20, 64 << 10)),
    ] {
        std::fs::write(dir.join(name), text(size, 7)).expect("a file");
    }
    let recipe = |label: &str| {
        let mut text = head.to_owned();
        write!(
            text,
            "\nstage \"iso\" \"cd\" {{\n  kernel    = \"kernel\"\n  initramfs = \"initrd\"\n  \
             files     = {{ data = \"data\" }}\n  label     = \"{label}\"\n}}\n\
             \nimage \"cd\" {{\n  layout = \"flat\"\n  files  = {{ \"cd.iso\" = stage.cd }}\n}}\n"
        )
        .expect("text");
        write(&dir, &text);
    };
    recipe("FIRST");
    site::run(&mut build(&store, &dir));
    let ours_at = dir.join("out/cd.iso");
    if !site::has("xorriso", "xorriso") {
        return Row::against(what, Duration::ZERO, Duration::ZERO, Goal::AtMost(1.2));
    }
    let tree = dir.join("tree");
    let mut extract = site::program("xorriso");
    extract.args(["-osirrox", "on", "-indev"]).arg(&ours_at);
    site::run(extract.args(["-extract", "/"]).arg(&tree));
    site::run(site::program("chmod").args(["-R", "u+w"]).arg(&tree));
    quiet();
    let mut sums = Vec::new();
    let [ours, theirs] = interleaved(sized(5, 1), |side, round| {
        if side == 1 {
            let out = dir.join("by-xorriso.iso");
            site::remove(&out);
            site::settle();
            return site::time(&mut xorriso(&tree, &out));
        }
        recipe(&format!("R{round}"));
        site::settle();
        let time = site::time(&mut build(&store, &dir));
        sums.push(site::sha256(&ours_at));
        time
    });
    sums.sort();
    sums.dedup();
    assert_eq!(
        sums.len(),
        ours.len() + usize::from(!crate::measure::small()),
        "a build was a cached one"
    );
    detail("impasto build of an ISO", &ours);
    detail("xorriso -as mkisofs", &theirs);
    site::remove(&dir);
    site::remove(&store);
    Row::against(what, median(&ours), median(&theirs), Goal::AtMost(1.2))
}

/// The same image by hand: for BIOS and UEFI, with Rock Ridge and Joliet.
fn xorriso(tree: &Path, out: &Path) -> Command {
    let mut command = site::program("xorriso");
    command.args([
        "-as",
        "mkisofs",
        "-quiet",
        "-V",
        "BYHAND",
        "-R",
        "-J",
        "-joliet-long",
    ]);
    command.args([
        "-b",
        "isolinux/isolinux.bin",
        "-c",
        "isolinux/boot.cat",
        "-no-emul-boot",
    ]);
    command.args([
        "-boot-load-size",
        "4",
        "-boot-info-table",
        "-eltorito-alt-boot",
    ]);
    command.args(["-e", "boot/grub/efi.img", "-no-emul-boot", "-o"]);
    command.arg(out).arg(tree);
    command
}

/// Makes a directory of files of the same length.
fn fill(dir: &Path, files: u64, size: usize) {
    std::fs::create_dir(dir).expect("a directory");
    for number in 0..files {
        let path = dir.join(format!("file-{number:04}"));
        std::fs::write(path, text(size, number)).expect("a file");
    }
}

/// Text that compresses as text does, to about a half.
fn text(size: usize, seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::with_capacity(size + 32);
    while text.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        writeln!(text, "{state:016x}").expect("text");
    }
    text.truncate(size);
    text
}

fn write(dir: &Path, recipe: &str) {
    std::fs::write(dir.join("impasto.hcl"), recipe).expect("a recipe");
}

fn build(store: &Path, dir: &Path) -> Command {
    let mut command = site::impasto(store);
    let out: PathBuf = dir.join("out");
    command.arg("build").arg(dir).arg("--out").arg(out);
    command
}
