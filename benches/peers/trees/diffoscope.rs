//! Whether `impasto diff` names all that diffoscope finds between two disks.
//!
//! diffoscope leaves out what `stat` tells (`--exclude-directory-metadata=yes`), so it names what is there on one side only,
//! and what differs in type, content or target. Of ours, what differs in its time alone does not count as named.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use impasto::inspect::diff::plain;
use serde_json::Value;

use super::missing;
use super::sixty::Sixty;
use crate::measure::{Row, seconds};
use crate::site;

/// How long diffoscope may take.
const LIMIT: Duration = Duration::from_secs(20 * 60);
/// Missed paths that are printed.
const SHOWN: usize = 20;

pub(super) fn rows(sixty: &Sixty) -> Vec<Row> {
    if let Some(row) = missing("diffoscope", "diffoscope-minimal") {
        return vec![row];
    }
    let (partition, ours) = named_by_us(&sixty.diff(&["--json"]).stdout);
    let (time, theirs) = named_by_diffoscope(sixty, partition);
    let missed: Vec<_> = theirs.difference(&ours).collect();
    println!(
        "  diffoscope: {} paths in {}; impasto diff: {} paths; missed: {}",
        theirs.len(),
        seconds(time.as_secs_f64()),
        ours.len(),
        missed.len()
    );
    missed
        .iter()
        .take(SHOWN)
        .for_each(|path| println!("    {path}"));
    let found = format!("{} of {}", missed.len(), theirs.len());
    // Had it found nothing, there would be nothing to miss.
    let ok = missed.is_empty() && !theirs.is_empty();
    vec![Row::fact(
        "paths that diffoscope names and impasto diff does not",
        found,
        "0, of some",
        ok,
    )]
}

/// The partition that files differ on, and their paths.
fn named_by_us(json: &[u8]) -> (u64, BTreeSet<String>) {
    let report: Value = serde_json::from_slice(json).expect("JSON of impasto diff");
    let files = report["files"].as_array().expect("files");
    let partition = files
        .first()
        .and_then(|file| file["partition"].as_u64())
        .expect("the disks differ");
    assert!(
        files.iter().all(|file| file["partition"] == partition),
        "files differ on more than one partition"
    );
    let counts = |file: &&Value| file["aspects"] != serde_json::json!(["time"]);
    let path = |file: &Value| file["path"].as_str().expect("a path").to_owned();
    (partition, files.iter().filter(counts).map(path).collect())
}

fn named_by_diffoscope(sixty: &Sixty, partition: u64) -> (Duration, BTreeSet<String>) {
    let dir = sixty.dir.join("diffoscope");
    std::fs::create_dir_all(&dir).expect("a directory");
    let disks = [1, 0].map(|back| {
        let path = dir.join(format!("tools-{back}.raw"));
        sixty.export(&format!("tools~{back}"), &path);
        path
    });
    let mut command = site::program("benches/peers/diffoscope.sh");
    command
        .arg(&dir)
        .args(&disks)
        .arg(partition.to_string())
        .arg(LIMIT.as_secs().to_string());
    let time = site::time(&mut command);
    let json = std::fs::read(dir.join("found.json")).expect("what diffoscope found");
    let found: Value = serde_json::from_slice(&json).expect("JSON of diffoscope");
    let mut paths = BTreeSet::new();
    collect(&found, &[&dir.join("a"), &dir.join("b")], &mut paths);
    site::remove(&dir);
    (time, paths)
}

/// The paths that a comparison of two directories names, below their roots: a directory tells what only one side has as a
/// list of names, and what both have one by one. What is inside files is not followed.
fn collect(node: &Value, roots: &[&Path; 2], paths: &mut BTreeSet<String>) {
    let Some(places) = below(node, roots) else {
        return;
    };
    let details = node["details"].as_array().map_or(&[][..], Vec::as_slice);
    let (mut is_directory, mut listed) = (false, false);
    for detail in details {
        if detail["source1"] == "file list" {
            listed = true;
            let lines = detail["unified_diff"]
                .as_str()
                .expect("a list of names")
                .lines();
            let names = |sign| {
                lines
                    .clone()
                    .filter_map(move |line| line.strip_prefix(sign))
                    .collect()
            };
            let [removed, added]: [BTreeSet<&str>; 2] = [names('-'), names('+')];
            // A name that is in both is the last of one list: there, no new line follows it.
            paths.extend(
                (&removed ^ &added)
                    .into_iter()
                    .map(|name| plain_path(&places[0].join(name))),
            );
        }
        is_directory |= below(detail, roots).is_some();
    }
    if is_directory || listed {
        details
            .iter()
            .for_each(|detail| collect(detail, roots, paths));
    } else {
        paths.extend(places.map(plain_path));
    }
}

/// The paths below both roots that a node compares; none where it is about something inside a file.
fn below<'n>(node: &'n Value, roots: &[&Path; 2]) -> Option<[&'n Path; 2]> {
    let one = |at: usize, name: &str| Path::new(node[name].as_str()?).strip_prefix(roots[at]).ok();
    Some([one(0, "source1")?, one(1, "source2")?])
}

/// A path as `impasto diff --json` writes it.
fn plain_path(below_root: &Path) -> String {
    plain::name(
        Path::new("/")
            .join(below_root)
            .as_os_str()
            .as_encoded_bytes(),
    )
}
