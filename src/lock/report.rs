//! What became otherwise from one lock to another, for people.
//! Knows two locks; decides nothing.

use std::collections::BTreeMap;

use super::file::{LockEntry, LockFile, TOOLBOX};
use impasto_store::sha256::Sha256;

/// The differences of two locks, a line each: the entry, then what was added, changed and left out of it.
pub fn changes(before: &LockFile, after: &LockFile) -> Vec<String> {
    let all = |lock: &LockFile| -> BTreeMap<String, LockEntry> {
        let entries = lock.toolbox.iter().chain(&lock.stages);
        entries.map(|entry| (label(entry), entry.clone())).collect()
    };
    let (old, new) = (all(before), all(after));
    let mut lines = Vec::new();
    for (name, entry) in &new {
        match old.get(name) {
            None => lines.push(format!(
                "{name}: {} packages, {}",
                entry.packages.len(),
                crate::base::human::bytes(entry.bytes())
            )),
            Some(before) => lines.extend(
                differences(before, entry)
                    .into_iter()
                    .map(|line| format!("{name}: {line}")),
            ),
        }
    }
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    lines.extend(gone.map(|name| format!("{name}: no longer in the recipe")));
    let renewed = |name: &str| {
        after
            .toolbox
            .iter()
            .chain(&after.stages)
            .any(|entry| entry.name == name)
    };
    let gone = before
        .refused
        .iter()
        .filter(|entry| !after.refused.contains(entry) && !renewed(&entry.name));
    lines.extend(gone.map(|entry| format!("{}: no longer in the recipe", entry.name)));
    lines
}

fn label(entry: &LockEntry) -> String {
    if entry.name == TOOLBOX {
        return format!("{TOOLBOX} ({})", entry.architecture);
    }
    match entry.combinations.as_slice() {
        [] => entry.name.clone(),
        [only] => format!("{}[{only}]", entry.name),
        [first, rest @ ..] => format!("{}[{first}] (and {} more)", entry.name, rest.len()),
    }
}

fn differences(before: &LockEntry, after: &LockEntry) -> Vec<String> {
    let installs = |entry: &LockEntry| -> BTreeMap<(String, String), (String, Sha256)> {
        let files = entry.packages.iter().map(|package| &package.file);
        files
            .map(|p| {
                (
                    (p.name.clone(), p.architecture.clone()),
                    (p.version.clone(), p.sha256),
                )
            })
            .collect()
    };
    let removals = |entry: &LockEntry| -> BTreeMap<String, String> {
        entry
            .removed
            .iter()
            .map(|package| (package.name.clone(), package.version.clone()))
            .collect()
    };
    let (old, new) = (installs(before), installs(after));
    let mut lines = Vec::new();
    for ((name, architecture), (version, sha256)) in &new {
        match old.get(&(name.clone(), architecture.clone())) {
            None => lines.push(format!("+ {name} {version}")),
            Some((was, _)) if was != version => lines.push(format!("{name} {was} → {version}")),
            Some((_, was)) if was != sha256 => {
                lines.push(format!("{name} {version}: different file"))
            }
            Some(_) => {}
        }
    }
    let gone = old.iter().filter(|(key, _)| !new.contains_key(*key));
    lines.extend(gone.map(|((name, _), (version, _))| format!("- {name} {version}")));
    let (old, new) = (removals(before), removals(after));
    let more = new.iter().filter(|(name, _)| !old.contains_key(*name));
    lines.extend(more.map(|(name, version)| format!("removes {name} {version}")));
    let fewer = old.iter().filter(|(name, _)| !new.contains_key(*name));
    lines.extend(fewer.map(|(name, _)| format!("no longer removes {name}")));
    lines
}
