//! What became otherwise from one lock to another, for people.
//! Knows two locks; decides nothing.

use std::collections::BTreeMap;

use super::file::{LockEntry, LockFile, TOOLBOX};
use super::source::LockSource;
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
    sources(before, after, &mut lines);
    let renewed = |name: &str| {
        after
            .toolbox
            .iter()
            .chain(&after.stages)
            .any(|entry| entry.name == name)
            || after.sources.iter().any(|source| source.name == name)
    };
    let gone = before
        .refused
        .iter()
        .filter(|entry| !after.refused.contains(entry) && !renewed(&entry.name));
    lines.extend(gone.map(|entry| format!("{}: no longer in the recipe", entry.name)));
    lines
}

/// The differences of what stages get from elsewhere.
fn sources(before: &LockFile, after: &LockFile, lines: &mut Vec<String>) {
    let all = |lock: &LockFile| -> BTreeMap<String, LockSource> {
        let sources = lock.sources.iter();
        sources
            .map(|source| (of_stage(&source.name, &source.combinations), source.clone()))
            .collect()
    };
    let (old, new) = (all(before), all(after));
    for (name, source) in &new {
        let now = match source.size {
            Some(size) => format!("{}, {}", source.day(), crate::base::human::bytes(size)),
            None => source.day().to_owned(),
        };
        match old.get(name) {
            None => lines.push(format!("{name}: {} of {now}", source.short())),
            Some(was) if was.short() != source.short() => lines.push(format!(
                "{name}: {} of {} → {} of {now}",
                was.short(),
                was.day(),
                source.short()
            )),
            Some(was) if was.request != source.request => {
                lines.push(format!("{name}: the same as before"));
            }
            Some(_) => {}
        }
    }
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    lines.extend(gone.map(|name| format!("{name}: no longer in the recipe")));
}

fn label(entry: &LockEntry) -> String {
    if entry.name == TOOLBOX {
        return format!("{TOOLBOX} ({})", entry.architecture);
    }
    of_stage(&entry.name, &entry.combinations)
}

/// A stage with what sets it apart.
fn of_stage(name: &str, combinations: &[String]) -> String {
    match combinations {
        [] => name.to_owned(),
        [only] => format!("{name}[{only}]"),
        [first, rest @ ..] => format!("{name}[{first}] (and {} more)", rest.len()),
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
