//! Packages: from nothing and from the store, how old they are, and one more of them; `sixty.hcl`, from the host's mirror.
//!
//! * cold: `bootstrap`, `disk` and `packages` up to the stored layers, against mmdebstrap with the same packages into a tar
//!   archive. The lock is there, as it is in a project; the store is empty, or has the packages (`impasto fetch`);
//! * outdated: against `apt-get update && apt list --upgradable` in mmdebstrap's tree: first with neither lists nor indexes,
//!   then with both;
//! * one more small package: what a build takes beyond apt's own work, as the stage's log tells it.

use std::path::Path;
use std::time::Duration;

use crate::demo::{quoted, sources};
use crate::measure::{Goal, Row, detail, interleaved, median, quiet, seconds, sized, small};
use crate::site;

const RUNS: usize = 3;
const QUICK_RUNS: usize = 7;

pub(crate) fn rows() -> Vec<Row> {
    println!("packages: sixty of them, and what they need");
    let dir = site::fresh("packages");
    let recipe = dir.join("recipe.hcl");
    let text = sized(
        "benches/peers/sixty.hcl",
        "benches/peers/small-packages.hcl",
    );
    std::fs::copy(text, &recipe).expect("a recipe");
    let (store, fetched, tree) = (dir.join("store"), dir.join("fetched"), dir.join("tree"));
    let impasto = |command: &str, store: &Path, more: &[&str]| {
        let mut line = site::impasto(store);
        line.args([command, "--recipe"]).arg(&recipe).args(more);
        line
    };
    site::run(&mut impasto("update", &store, &[]));
    quiet();
    let [ours, warm, peer] = interleaved(RUNS, |which, _| match which {
        0 => {
            site::remove(&store);
            let time = site::time(
                impasto("build", &store, &["tools"])
                    .args(["--locked", "--out"])
                    .arg(&dir),
            );
            site::settle();
            time
        }
        _ if small() => Duration::ZERO,
        1 => {
            site::remove(&fetched);
            site::run(&mut impasto("fetch", &fetched, &["tools"]));
            site::settle();
            let time = site::time(
                impasto("build", &fetched, &["tools"])
                    .args(["--locked", "--out"])
                    .arg(&dir),
            );
            site::settle();
            time
        }
        _ => mmdebstrap(&dir),
    });
    detail("impasto build, empty store", &ours);
    detail("impasto build, packages in the store", &warm);
    detail("mmdebstrap", &peer);
    let mut rows = vec![
        Row::against(
            "sixty packages from nothing, against mmdebstrap",
            median(&ours),
            median(&peer),
            Goal::AtMost(1.0),
        ),
        Row::against(
            "the same with packages in the store",
            median(&warm),
            median(&peer),
            Goal::AtMost(0.75),
        ),
    ];

    if small() {
        println!("  mmdebstrap and apt are left out: they take long");
    } else {
        std::fs::create_dir_all(&tree).expect("a directory");
        site::run(
            site::program("tar")
                .args(["-xf"])
                .arg(dir.join("peer.tar"))
                .arg("-C")
                .arg(&tree),
        );
        std::fs::write(
            tree.join("etc/apt/sources.list"),
            sources().join("\n") + "\n",
        )
        .expect("sources");
    }
    for (what, cold) in [
        ("neither lists nor indexes", true),
        ("lists and indexes", false),
    ] {
        let [ours, peer] = interleaved(QUICK_RUNS, |which, round| match which {
            0 => {
                let place = if cold {
                    dir.join(format!("empty-{round}"))
                } else {
                    store.clone()
                };
                site::time(&mut impasto("outdated", &place, &["tools"]))
            }
            _ if small() => Duration::ZERO,
            _ => {
                if cold {
                    site::run(
                        site::program("find")
                            .arg(tree.join("var/lib/apt/lists"))
                            .args(["-type", "f", "-delete"]),
                    );
                }
                let line = "cp /etc/resolv.conf \"$1/etc/\"; chroot \"$1\" sh -c 'apt-get update && apt list --upgradable'";
                site::time(site::program("sh").args(["-ec", line, "sh"]).arg(&tree))
            }
        });
        detail(&format!("impasto outdated, {what}"), &ours);
        detail(&format!("apt, {what}"), &peer);
        let what = format!("outdated, with {what}, against apt in the chroot");
        rows.push(Row::against(
            &what,
            median(&ours),
            median(&peer),
            Goal::AtMost(1.0),
        ));
    }

    // That takes a disk with sixty packages.
    if small() {
        return rows;
    }
    let some = ["tree", "pv", "figlet", "sl", "ncdu"];
    let mut beyond = Vec::new();
    for package in some {
        let more = format!("one={package}");
        let settle = site::time(&mut impasto("update", &store, &["tools", "--var", &more]));
        let time = site::time(
            impasto("build", &store, &["tools", "--var", &more])
                .arg("--out")
                .arg(&dir),
        );
        let log = site::run(&mut impasto("log", &store, &["tools", "--var", &more]));
        let log = String::from_utf8_lossy(&log.stdout).into_owned();
        let apt = log.lines().find_map(|line| {
            line.split_once("apt took ")?
                .1
                .strip_suffix(" ms")?
                .parse()
                .ok()
        });
        let apt = Duration::from_millis(apt.expect("the log tells how long apt took"));
        println!(
            "  {package}: settled in {}, built in {}, of which apt {}",
            seconds(settle.as_secs_f64()),
            seconds(time.as_secs_f64()),
            seconds(apt.as_secs_f64())
        );
        beyond.push(time.saturating_sub(apt));
        site::settle();
    }
    let beyond = median(&beyond).as_secs_f64();
    rows.push(Row::absolute(
        "one small package more, beyond apt's own work",
        beyond,
        Goal::AtMost(1.5),
        seconds,
    ));
    rows
}

/// The same packages by mmdebstrap, from the same mirrors, into `peer.tar`.
fn mmdebstrap(dir: &Path) -> Duration {
    let text = std::fs::read_to_string("benches/peers/sixty.hcl").expect("the recipe");
    let lists = text
        .lines()
        .filter(|line| line.trim_start().starts_with('"') || line.contains("packages     ="));
    let packages: Vec<_> = lists.flat_map(quoted).chain(["gdb".to_owned()]).collect();
    let archive = dir.join("peer.tar");
    site::remove(&archive);
    let mut command = site::program("mmdebstrap");
    command.env("SOURCE_DATE_EPOCH", "1700000000").args([
        "--quiet",
        "--mode=root",
        "--variant=essential",
    ]);
    command.args([
        "--aptopt=Acquire::Languages \"none\"",
        "--aptopt=APT::Install-Recommends \"false\"",
    ]);
    command
        .arg(format!("--include={}", packages.join(",")))
        .arg("bookworm")
        .arg(&archive)
        .args(sources());
    let time = site::time(&mut command);
    site::settle();
    time
}
