//! Reading a disk through a chain of 11 layers against reading one flat layer of the same chunks: `tar` of everything
//! inside the sandbox, with an empty page cache.
//!
//! The chain is Debian and ten `run` stages, each of which writes every tenth file again, so that all layers hold a share.
//! The flat layer is the converted result, fetched. The time is `tar`'s own: the sandbox's set-up is not counted.

use std::path::Path;
use std::time::Duration;

use crate::measure::{Goal, Row, detail, interleaved, median, quiet, sized};
use crate::site;

const ROUNDS: usize = 5;
/// GNU tar reads nothing where it sees that it writes to /dev/null.
const READ: &str = "a=$(date +%s%N); tar --one-file-system -cf - / 2>/dev/null | cat > /dev/null; b=$(date +%s%N); echo $(((b - a) / 1000))";

/// Busybox, which the small disk has, knows neither these options nor such short times.
const READ_SMALL: &str = "a=1000; tar -cf - /bin | cat > /dev/null; echo $a";

pub(crate) fn rows() -> Vec<Row> {
    let stages = sized(10, 2);
    println!("chain: tar through {} layers and through one", stages + 1);
    let (dir, store) = (site::fresh("chain"), site::fresh("chain-store"));
    let mut text = head("chain", &site::debian().qcow2);
    let mut from = "base".to_owned();
    for stage in 0..stages {
        text += &format!(
            "\nstage \"run\" \"tenth-{stage}\" {{\n  from   = stage.{from}\n  script = <<-EOT\n    \
             find /usr /etc /var /boot -xdev -type f | LC_ALL=C sort | awk 'NR % {stages} == {stage}' > /tmp/list\n    \
             while read -r name; do cp -p \"$name\" \"$name.new\" && mv \"$name.new\" \"$name\"; done < /tmp/list\n  \
             EOT\n}}\n"
        );
        from = format!("tenth-{stage}");
    }
    text += &format!(
        "\nstage \"convert\" \"flat\" {{\n  from   = stage.{from}\n  format = \"qcow2\"\n}}\n"
    );
    let chain = dir.join("chain.hcl");
    std::fs::write(&chain, text).expect("a recipe");
    build(&chain, &store);
    let flat = dir.join("flat.hcl");
    std::fs::write(&flat, head("flat", &dir.join("out/flat.qcow2"))).expect("a recipe");
    // In a store of its own: the other one knows this disk already, as the chain's top.
    let flat_store = site::fresh("chain-flat-store");
    build(&flat, &flat_store);
    quiet();
    let [ours, peer] = interleaved(ROUNDS, |side, _| {
        site::drop_caches();
        if side == 0 {
            read(&chain, &store, &from)
        } else {
            read(&flat, &flat_store, "base")
        }
    });
    detail("11 layers", &ours);
    detail("one layer", &peer);
    for path in [&dir, &store, &flat_store] {
        site::remove(path);
    }
    vec![Row::against(
        "tar through 11 layers vs one flat layer, cold",
        median(&ours),
        median(&peer),
        Goal::AtMost(1.2),
    )]
}

fn head(name: &str, base: &Path) -> String {
    format!(
        "recipe {{\n  name              = \"{name}\"\n  source_date_epoch = 1700000000\n}}\n\n\
         stage \"fetch\" \"base\" {{\n  path = \"{}\"\n}}\n",
        base.display()
    )
}

fn build(recipe: &Path, store: &Path) {
    let out = recipe.with_file_name("out");
    site::run(
        site::impasto(store)
            .arg("build")
            .arg(recipe)
            .arg("--out")
            .arg(out),
    );
}

fn read(recipe: &Path, store: &Path, stage: &str) -> Duration {
    let output = site::run(
        site::impasto(store)
            .arg("shell")
            .arg(recipe)
            .arg(stage)
            .args(["-c", sized(READ, READ_SMALL)]),
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let micros = text
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("{text:?} is no number"));
    Duration::from_micros(micros)
}
