//! The Debian 12 recipe beside what people use today, on the same machine and from the same mirror:
//!
//! * cold: the minimal image from nothing, against `by-hand.sh` (mmdebstrap, mke2fs -d, qemu-img convert -c with zstd) with
//!   the same packages. Ours partitions, configures, makes it boot, and stores every step;
//! * edit: one line of the script above `cleanup` and `convert`, up to the compressed image with its checksum, against
//!   Packer's qemu builder that runs the edited script and a cleanup on the same image (`packer.sh`), and against mkosi's
//!   incremental mode (`mkosi.sh`).
//!
//! Needs the host's mirror of Debian. A peer that is not installed is left out, and said so.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use impasto::debian::mirror::MirrorChoice;

use crate::measure::{Goal, Row, detail, interleaved, median, quiet, seconds, sized, small};
use crate::site;

/// A cold build takes about a minute.
const COLD_RUNS: usize = 3;
const EDIT_RUNS: usize = 7;
/// A run of Packer boots a system under TCG.
const PEER_RUNS: usize = 3;

pub(crate) fn rows() -> Vec<Row> {
    println!("demo: a Debian 12, cold and after an edit");
    let dir = site::fresh("demo");
    let recipe = dir.join("recipe");
    recipe_at(&recipe);
    let store = dir.join("store");
    quiet();
    let [ours, by_hand] = interleaved(COLD_RUNS, |which, _| match which {
        0 => {
            site::remove(&store);
            let time = site::time(&mut build(&recipe, &store));
            site::settle();
            time
        }
        _ if small() => Duration::ZERO,
        _ => cold_by_hand(&dir),
    });
    detail("impasto build, cold", &ours);
    detail("by hand, cold", &by_hand);
    let mut rows = vec![Row::against(
        "cold build of Debian 12",
        median(&ours),
        median(&by_hand),
        Goal::AtMost(1.2),
    )];

    let script = recipe.join(sized("scripts/configure.sh", "scripts/users.sh"));
    let text = std::fs::read_to_string(&script).expect("the script");
    let edit = |round: usize| {
        std::fs::write(&script, format!("{text}\necho {round} > /etc/edit\n")).expect("the script")
    };
    quiet();
    let [edited] = interleaved(EDIT_RUNS, |_, round| {
        edit(round);
        let time = site::time(&mut build(&recipe, &store));
        site::settle();
        time
    });
    detail("impasto build after an edit", &edited);
    let ours = median(&edited);
    println!("  {} for the edit", seconds(ours.as_secs_f64()));
    let image = recipe.join("out/debian-12-minimal.qcow2");
    for (peer, package, goal) in [("packer", "packer", 20.0), ("mkosi", "mkosi", 1.0)] {
        // They take minutes.
        if small() || Command::new(peer).arg("--version").output().is_err() {
            println!(
                "  {peer} is left out: {}",
                sized(&*format!("apt-get install {package}"), "it takes minutes")
            );
            continue;
        }
        let [times] = interleaved(PEER_RUNS, |_, round| {
            edit(100 + round);
            edit_by_peer(peer, &dir, &image, &script)
        });
        detail(peer, &times);
        let what = format!("edit of a script, up to the image, against {peer}");
        rows.push(Row::against(
            &what,
            ours,
            median(&times),
            Goal::AtLeast(goal),
        ));
    }
    rows
}

/// The recipe that is measured: Debian 12, or where everything is tiny `recipes/tiny` with its base.
pub(crate) fn recipe_at(dir: &Path) {
    let from = sized("recipes/debian-12", "recipes/tiny");
    site::run(site::program("cp").args(["-rL", from]).arg(dir));
    if small() {
        std::fs::copy(site::tiny(), dir.join("base.qcow2")).expect("the base");
    }
}

fn build(recipe: &Path, store: &Path) -> Command {
    let mut command = site::impasto(store);
    command
        .arg("build")
        .arg(recipe)
        .args(["--only", "variant=minimal"])
        .arg("--out")
        .arg(recipe.join("out"));
    command
}

/// The same packages from the same mirrors.
fn cold_by_hand(dir: &Path) -> Duration {
    let at = dir.join("by-hand");
    site::remove(&at);
    std::fs::create_dir_all(&at).expect("a directory");
    let text = std::fs::read_to_string("recipes/debian-12/recipe.hcl").expect("the recipe");
    let list = text
        .split_once("packages = concat([")
        .and_then(|(_, rest)| rest.split_once(']'))
        .expect("packages")
        .0;
    let packages: Vec<_> = list
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(quoted)
        .collect();
    let mut command = site::program("benches/peers/by-hand.sh");
    command
        .arg(&at)
        .args(["bookworm", "4G", &packages.join(",")]);
    command.args(sources());
    let time = site::time(&mut command);
    site::remove(&at);
    site::settle();
    time
}

/// Lines of sources for the host's own mirrors.
pub(crate) fn sources() -> [String; 3] {
    let environment: Vec<(String, String)> = std::env::vars().collect();
    let variable = |name: &str| {
        environment
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    let mirrors = MirrorChoice::read(None, variable)
        .expect("a mirror")
        .resolve()
        .expect("a mirror");
    let archive = mirrors
        .archive
        .expect("the host knows a mirror of Debian")
        .to_string();
    let security = mirrors
        .security
        .expect("the host knows the security archive")
        .to_string();
    let deb = |url: &str, suite: &str| {
        format!("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {url} {suite} main")
    };
    [
        deb(&archive, "bookworm"),
        deb(&archive, "bookworm-updates"),
        deb(&security, "bookworm-security"),
    ]
}

/// The texts between quotes.
pub(crate) fn quoted(line: &str) -> Vec<String> {
    line.split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn edit_by_peer(peer: &str, dir: &Path, image: &Path, script: &Path) -> Duration {
    let at = dir.join(peer);
    std::fs::create_dir_all(&at).expect("a directory");
    let mut command = site::program(&format!("benches/peers/{peer}.sh"));
    command
        .arg(&at)
        .arg(image)
        .arg(script)
        .arg("benches/peers/peer-cleanup.sh");
    let time = site::time(&mut command);
    site::settle();
    time
}
