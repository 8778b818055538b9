//! What an image may cost: sizes, times and packages against the recipe's limits, and what brought them.
//! Knows limits and results; measures nothing.

use std::time::Duration;

use impasto_stages::print_duration;
use serde_json::Value;

use super::{Candidate, parent};
use crate::base::human;
use crate::engine::graph::NodeId;
use crate::engine::run::ImageRefusal;
use crate::inspect::diff::blame::{self, By};
use crate::inspect::diff::installed;
use crate::inspect::diff::mounts::Mounts;

/// How many of those that brought most are named.
const NAMED: usize = 3;

/// Checks an image's budget; gives warnings about stages that took too long before.
pub(super) fn check(subject: &Candidate<'_, '_>) -> Result<Vec<String>, ImageRefusal> {
    files(subject)?;
    packages(subject)?;
    let mut warnings = times(subject)?;
    warnings.extend(boot(subject)?);
    Ok(warnings)
}

fn over(what: &str, is: &str, limit: &str, help: Option<String>) -> ImageRefusal {
    ImageRefusal {
        error: format!("{what}: {is}, but its budget is {limit}"),
        help,
    }
}

fn files(subject: &Candidate<'_, '_>) -> Result<(), ImageRefusal> {
    let budget = &subject.node.text.budget;
    let files = &subject.facts.files;
    for (name, limit) in &budget.files {
        let found = files.iter().find(|file| file.path.ends_with(name));
        let Some(file) = found else {
            let names: Vec<_> = files
                .iter()
                .filter_map(|file| Some(file.path.file_name()?.to_string_lossy().into_owned()))
                .collect();
            return Err(ImageRefusal {
                error: format!("`budget.files` names {name:?}, which is no file of the image"),
                help: Some(format!("its files: {}", names.join(", "))),
            });
        };
        if file.size > *limit {
            let (is, limit) = (human::bytes(file.size), human::bytes(*limit));
            return Err(over(name, &is, &limit, brought(subject)?));
        }
    }
    let sum: u64 = files.iter().map(|file| file.size).sum();
    match budget.size {
        Some(limit) if sum > limit => {
            let (is, limit) = (human::bytes(sum), human::bytes(limit));
            Err(over("its files", &is, &limit, brought(subject)?))
        }
        _ => Ok(()),
    }
}

fn packages(subject: &Candidate<'_, '_>) -> Result<(), ImageRefusal> {
    let Some(limit) = subject.node.text.budget.packages else {
        return Ok(());
    };
    let count = subject.bill()?.map_or(0, |bill| bill.packages.len() as u64);
    if count <= limit {
        return Ok(());
    }
    // What each stage added, the most first.
    let mut added = Vec::new();
    for id in chain(subject) {
        let node = subject.gate.graph.node(id);
        let sets = node
            .lowered
            .actions
            .iter()
            .filter_map(|action| action.packages.as_ref());
        let number: usize = sets.map(|set| set.install.len()).sum();
        if number > 0 {
            added.push((number, node.label.clone()));
        }
    }
    added.sort_by(|a, b| b.cmp(a));
    let stages = added
        .iter()
        .take(NAMED)
        .map(|(number, stage)| format!("{stage}: {number}"));
    let help = format!(
        "packages by stage: {}",
        stages.collect::<Vec<_>>().join(", ")
    );
    let (is, limit) = (format!("{count} packages"), format!("{limit} packages"));
    Err(over(
        "its disk",
        &is,
        &limit,
        Some(help).filter(|_| !added.is_empty()),
    ))
}

/// The nodes whose disks lie under the image's first disk, and that one, the bottom first.
fn chain(subject: &Candidate<'_, '_>) -> Vec<NodeId> {
    let mut chain: Vec<_> = std::iter::successors(subject.disks().first().copied(), |id| {
        parent(subject.gate.graph, *id)
    })
    .collect();
    chain.reverse();
    chain
}

/// Which stages and packages brought the bytes of its first disk.
fn brought(subject: &Candidate<'_, '_>) -> Result<Option<String>, ImageRefusal> {
    let mut trees = Vec::new();
    for id in chain(subject) {
        if let Some(tree) = subject.tree(id)? {
            trees.push((subject.gate.graph.node(id).label.clone(), tree));
        }
    }
    let Some(&id) = subject.disks().first().filter(|_| !trees.is_empty()) else {
        return Ok(None);
    };
    let read = subject.with_disk(id, |tree, contents| {
        let owners = installed::listed_files(tree, contents)?;
        Ok((owners, Mounts::read(tree, contents)?))
    })?;
    let Some((owners, mounts)) = read else {
        return Ok(None);
    };
    let by = match &owners {
        Some((partition, owners)) => By::Package {
            partition: *partition,
            owners,
        },
        None => By::Directory(2),
    };
    let blame = blame::blame(&trees, &by, &mounts);
    let stages = blame
        .stages
        .iter()
        .filter(|stage| stage.bytes > 0)
        .take(NAMED);
    let lines = stages.map(|stage| {
        let parts = stage.parts.iter().take(NAMED).map(|part| {
            let name = part.name.as_deref().unwrap_or("files of no package");
            format!("{name} {}", human::bytes(part.bytes))
        });
        let parts = parts.collect::<Vec<_>>().join(", ");
        format!(
            "stage {} brought {}: {parts}",
            stage.stage,
            human::bytes(stage.bytes)
        )
    });
    Ok(Some(lines.collect::<Vec<_>>().join("\n")))
}

/// How long the tested machines took to boot: an emulated one is slower than any that somebody will use, so it only warns.
fn boot(subject: &Candidate<'_, '_>) -> Result<Vec<String>, ImageRefusal> {
    let (Some(limit), false) = (subject.node.text.budget.boot, subject.gate.skip_tests) else {
        return Ok(Vec::new());
    };
    let mut warnings = Vec::new();
    let mut booted = false;
    for &id in &subject.node.requires {
        let label = &subject.gate.graph.node(id).label;
        let report = subject.read(id, Some(&"report.json".to_owned())).ok();
        let report = report.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        for (machine, seconds) in boots(&report.unwrap_or_default()) {
            booted = true;
            let took = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            if took <= limit {
                continue;
            }
            let (what, took) = (format!("booting in test {label}"), human::seconds(took));
            let limit = print_duration(limit);
            if !machine.ends_with("tcg") {
                return Err(over(&what, &took, &limit, None));
            }
            warnings.push(format!(
                "{what} took {took} in an emulated machine, its budget is {limit}"
            ));
        }
    }
    if !booted {
        warnings.push(
            "its budget of boot time is not checked: no test that it requires boots it".to_owned(),
        );
    }
    Ok(warnings)
}

/// The machines of a test's report, and how many seconds each took to boot.
fn boots(report: &Value) -> Vec<(&str, f64)> {
    let suites = report["suites"].as_array();
    let boot = |suite: &'_ Value| suite["boot_seconds"].as_f64();
    suites
        .into_iter()
        .flatten()
        .filter_map(|suite| Some((suite["machine"].as_str()?, boot(suite)?)))
        .collect()
}

/// Times: of what ran now; of stages that were cached it is only said that they took too long.
fn times(subject: &Candidate<'_, '_>) -> Result<Vec<String>, ImageRefusal> {
    let budget = &subject.node.text.budget;
    let graph = subject.gate.graph;
    let mut warnings = Vec::new();
    let all = graph.closure(&subject.facts.image.nodes);
    let nodes: Vec<_> = graph.ids().filter(|id| all[*id]).collect();
    for (name, limit) in &budget.stages {
        let mut known = false;
        for &id in nodes.iter().filter(|id| *graph.node(**id).stage == **name) {
            known = true;
            let label = &graph.node(id).label;
            let limit_text = print_duration(*limit);
            match (subject.facts.ran)(id) {
                Some(took) if took > *limit => {
                    let took = human::seconds(took);
                    return Err(over(&format!("stage {label}"), &took, &limit_text, None));
                }
                Some(_) => {}
                None => {
                    let took = Duration::from_millis(subject.hit(id).wall_ms);
                    if took > *limit {
                        let took = human::seconds(took);
                        warnings.push(format!(
                            "stage {label} took {took} when it ran, its budget is {limit_text}"
                        ));
                    }
                }
            }
        }
        if !known {
            return Err(ImageRefusal {
                error: format!(
                    "`budget.stages` names {name:?}, on which the image does not depend"
                ),
                help: Some("name a stage that the image is made of".to_owned()),
            });
        }
    }
    let ran: Vec<_> = nodes
        .iter()
        .filter_map(|id| Some(((subject.facts.ran)(*id)?, *id)))
        .collect();
    if let (Some(limit), Some((took, slowest))) = (budget.build, ran.iter().max())
        && subject.facts.elapsed > limit
    {
        let slowest = &graph.node(*slowest).label;
        let help = format!("stage {slowest} took longest: {}", human::seconds(*took));
        let elapsed = human::seconds(subject.facts.elapsed);
        return Err(over(
            "the build",
            &elapsed,
            &print_duration(limit),
            Some(help),
        ));
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_of_a_report_tell_how_long_they_booted() {
        let report = serde_json::json!({ "name": "smoke", "suites": [
            { "name": "image", "checks": [] },
            { "name": "bios", "machine": "QEMU 7.2, tcg", "boot_seconds": 31.25, "checks": [] },
            { "name": "uefi", "machine": "QEMU 9.0, kvm", "boot_seconds": 4.0, "checks": [] },
        ] });
        let expected = vec![("QEMU 7.2, tcg", 31.25), ("QEMU 9.0, kvm", 4.0)];
        assert_eq!(boots(&report), expected);
        assert!(boots(&Value::Null).is_empty());
    }
}
