//! Tests of images: what is decided by reading the disk, and a machine beside the same machine started by hand.
//!
//! * Checks: whole runs of `impasto test`, from the program's start to its reports, on the Debian disk of all rows (20,353
//!   files, 600 MB), whose layer is in the store. Nine checks that need no machine, one of them a list of all packages and
//!   one a tree index; `no_secrets` alone, with an empty page cache and again with a warm one.
//! * Boot: the demo from the machine's power-on to the login prompt on its serial console, under TCG, against QEMU with the
//!   same devices, a seed of the same files and an overlay on the converted image. Ours is the whole run, with its report.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use impasto::vm::command::arguments;
use impasto::vm::{Accel, Backing, Console, Firmware, MachineDisk, Network, Spec, overlay, seed};

use crate::demo::recipe_at;
use crate::measure::{Goal, Row, detail, interleaved, median, quiet, seconds, sized, small, timed};
use crate::site;

const RUNS: usize = 9;
/// The page cache of the whole machine is emptied for each.
const COLD_RUNS: usize = 3;
/// A boot takes more than a minute.
const BOOTS: usize = 2;
const PROMPT: &str = "login:";

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = checks();
    rows.extend(boots());
    rows
}

fn checks() -> Vec<Row> {
    let (dir, store) = (site::fresh("checks"), site::fresh("checks-store"));
    let debian = site::debian();
    let base = format!(
        "recipe {{\n  name = \"checks\"\n}}\n\nstage \"fetch\" \"base\" {{\n  path = \"{}\"\n}}\n",
        debian.qcow2.display()
    );
    write(&dir, &base);
    site::run(impasto(&store, "build", &dir).arg("base"));
    for (what, file) in [("packages", "packages.txt"), ("index", "files.txt")] {
        // The tiny disk has no packages, and its row no list of them.
        if what == "index" || !small() {
            let mut list = site::impasto(&store);
            let list = site::run(list.args(["layer", what, "base"]).arg("--recipe").arg(&dir));
            std::fs::write(dir.join(file), list.stdout).expect("a list");
        }
    }
    let packages = sized(
        "{ packages = \"packages.txt\" }",
        "{ absent = [\"/packages\"] }",
    );
    let test = |name: &str, checks: &str| {
        format!(
            "\nstage \"test\" \"{name}\" {{\n  image  = stage.base\n  checks = {{{checks}\n  }}\n}}\n"
        )
    };
    let nine = format!(
        "
    one   = {{ exists = [\"/bin/sh\"] }}
    two   = {{ exists = [\"/etc/passwd\", \"/etc\"] }}
    three = {{ exists = [\"/dev\"] }}
    four  = {{ absent = [\"/root/.bash_history\"] }}
    five  = {{ absent = [\"/etc/ssh/no_such_key\", \"/no/such/file\"] }}
    six   = {{ absent = [\"no-such-package\", \"another-one\"] }}
    seven = {packages}
    eight = {{ diff = \"files.txt\" }}
    nine  = {{ exists = [\"/usr/bin\"], after = [\"eight\"] }}"
    );
    let secrets = "\n    secrets = { no_secrets = true, allow = [\"/etc/ssh/*\"] }";
    write(
        &dir,
        &(base + &test("nine", &nine) + &test("secrets", secrets)),
    );
    let run = |name: &str| {
        let mut command = impasto(&store, "test", &dir);
        site::time(command.args([name, "--rebuild", name]))
    };
    quiet();
    let [nine] = interleaved(sized(RUNS, 1), |_, _| run("nine"));
    let [first, again] = interleaved(sized(COLD_RUNS, 1), |side, _| {
        if side == 0 {
            site::drop_caches();
        }
        run("secrets")
    });
    detail("nine checks", &nine);
    detail("no_secrets, first", &first);
    detail("no_secrets, again", &again);
    site::remove(&store);
    let row = |what: &str, times: &[Duration], limit: f64| {
        Row::absolute(
            what,
            median(times).as_secs_f64(),
            Goal::AtMost(limit),
            seconds,
        )
    };
    vec![
        row(
            "nine checks of 20,000 files that need no machine",
            &nine,
            0.2,
        ),
        row("no_secrets on the same disk, cold", &first, 5.0),
        row("the same again", &again, 0.2),
    ]
}

fn boots() -> Vec<Row> {
    let dir = site::fresh("boot-row");
    let (recipe, store) = (dir.join("recipe"), dir.join("store"));
    recipe_at(&recipe);
    let what = "boot test of Debian 12 under TCG, to its login prompt";
    if small() {
        // The tiny disk has no boot loader; `noop` tests a machine.
        return vec![Row::against(
            what,
            Duration::ZERO,
            Duration::ZERO,
            Goal::AtMost(1.05),
        )];
    }
    let test = format!(
        "\nstage \"test\" \"prompt\" {{\n  image        = stage.clean\n  network      = false\n  \
         boot_timeout = \"10m\"\n  checks       = {{ login = {{ console = \"{PROMPT}\", timeout = \"10m\" }} }}\n}}\n"
    );
    std::fs::write(recipe.join("prompt.hcl"), test).expect("a recipe");
    let minimal = ["--only", "variant=minimal"];
    site::run(impasto(&store, "build", &recipe).args(minimal));
    let image = recipe.join("out/debian-12-minimal.qcow2");
    site::warm(&image);
    quiet();
    let [ours, by_hand] = interleaved_once(|side| match side {
        0 => {
            let mut command = impasto(&store, "test", &recipe);
            let command = command.args(minimal);
            site::time(command.args(["prompt", "--rebuild", "prompt"]))
        }
        _ => boot_by_hand(&dir, &image),
    });
    detail("impasto test", &ours);
    detail("QEMU by hand", &by_hand);
    site::remove(&dir);
    vec![Row::against(
        what,
        median(&ours),
        median(&by_hand),
        Goal::AtMost(1.05),
    )]
}

/// As [`interleaved`], but every turn counts: one takes minutes, and nothing is warmed by it.
fn interleaved_once(mut side: impl FnMut(usize) -> Duration) -> [Vec<Duration>; 2] {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..BOOTS {
        for (which, times) in times.iter_mut().enumerate() {
            times.push(side(which));
        }
    }
    times
}

/// From the start of QEMU to the prompt.
fn boot_by_hand(dir: &Path, image: &Path) -> Duration {
    let work = dir.join("by-hand");
    site::remove(&work);
    std::fs::create_dir(&work).expect("a directory");
    let mut files = seed::for_keys(&[], "impasto", "impasto-test");
    files.retain(|file| file.name != "vendor-data");
    let seed = work.join("seed.img");
    std::fs::write(&seed, seed::image(&files).expect("a small seed")).expect("the seed");
    let size = impasto_store::qcow2::Qcow2::open(File::open(image).expect("the image"));
    let size = size.expect("our own image").header().virtual_size;
    let spec = Spec {
        machine: impasto::vm::MachineType::Q35,
        accel: Accel::Tcg,
        firmware: Firmware::Bios,
        memory: 1 << 30,
        cpus: 2,
        disk: Some(MachineDisk {
            backing: Backing::Qcow2(image.to_owned()),
            overlay: overlay(&work, size, None).expect("an overlay"),
        }),
        kernel: None,
        cdrom: None,
        seed: Some(seed),
        files: None,
        network: Network::None,
        served: Vec::new(),
        guest_agent: Some("agent.sock".into()),
        console: Console::Pipe,
        control: true,
    };
    let arguments = arguments(&spec).expect("paths of ours are text");
    timed(|| {
        let mut qemu = site::program("qemu-system-x86_64");
        let mut child = qemu
            .args(arguments)
            .current_dir(&work)
            .spawn()
            .expect("QEMU starts");
        let mut console = child.stdout.take().expect("its console");
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        while !String::from_utf8_lossy(&seen).contains(PROMPT) {
            let count = console.read(&mut buffer).expect("its console");
            assert!(count > 0, "no prompt: {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&buffer[..count]);
        }
        child.kill().expect("QEMU ends");
        child.wait().expect("QEMU ends");
    })
    .0
}

fn impasto(store: &Path, command: &str, recipe: &Path) -> Command {
    let mut program = site::impasto(store);
    program
        .arg(command)
        .arg(recipe)
        .arg("--out")
        .arg(recipe.join("out"));
    program
}

fn write(dir: &Path, recipe: &str) {
    std::fs::write(dir.join("impasto.hcl"), recipe).expect("a recipe");
}
