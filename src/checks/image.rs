//! Checks that are decided by reading the disk: paths, packages, drift, secrets.
//! Knows tree indexes and the files on the disk; boots nothing.

use std::collections::BTreeMap;
use std::time::Instant;

use impasto_stages::test_spec::{Question, TestCheck};

use super::secrets::SearchedFiles;
use super::{CheckResult, CheckStatus, SuiteReport, secrets};
use crate::base::escape::neutralise;
use crate::disk::contents::Contents;
use crate::disk::guest::ext4::ReadError;
use crate::disk::tree::{EntryKind, IndexEntry, Tree, Volume, compare, text};
use crate::inspect::diff::installed;
use crate::inspect::diff::mounts::Mounts;

/// The most differences that are told one by one.
const SHOWN: usize = 40;
/// How often a symbolic link may lead on, as in the kernel.
const MAX_LINKS: usize = 40;

/// A disk that is examined.
pub struct ExaminedDisk<'a> {
    pub tree: &'a Tree,
    pub contents: &'a dyn Contents,
    /// What checks compare it with, by name.
    pub baselines: &'a BTreeMap<String, Vec<u8>>,
    /// Where no secrets were found before.
    pub searched: &'a SearchedFiles,
}

/// What came of a question: nothing where it passed.
type CheckAnswer = Result<(), (String, Vec<String>)>;

/// Makes these checks.
///
/// # Errors
/// The disk cannot be read, or is not what its tree says.
pub fn examine(disk: &ExaminedDisk<'_>, checks: &[TestCheck]) -> Result<SuiteReport, ReadError> {
    let paths = GuestPaths::new(disk)?;
    let mut results: Vec<CheckResult> = Vec::new();
    for check in checks {
        let begun = Instant::now();
        let missed = check.after.iter().find(|name| {
            results
                .iter()
                .any(|result| result.name == **name && result.status != CheckStatus::Passed)
        });
        let (status, message, output) = match missed {
            Some(name) => (
                CheckStatus::Skipped,
                format!("`{name}` did not pass"),
                Vec::new(),
            ),
            None => match answer(disk, &paths, &check.question)? {
                Ok(()) => (CheckStatus::Passed, String::new(), Vec::new()),
                Err((message, output)) => (CheckStatus::Failed, message, shortened(output)),
            },
        };
        results.push(CheckResult {
            name: check.name.clone(),
            status,
            question: asked(&check.question),
            message,
            output,
            seconds: begun.elapsed().as_secs_f64(),
        });
    }
    Ok(SuiteReport {
        name: "image".to_owned(),
        machine: None,
        access: None,
        boot_seconds: None,
        checks: results,
    })
}

/// A question in a few words.
fn asked(question: &Question) -> String {
    match question {
        Question::Exists(paths) => format!("{} exist", neutralise(paths.join(", ").as_bytes())),
        Question::Absent(names) => {
            format!("{} are absent", neutralise(names.join(", ").as_bytes()))
        }
        Question::Packages(_) => "the packages are those of the list".to_owned(),
        Question::Diff { .. } => "the files are those of the index".to_owned(),
        Question::NoSecrets { .. } => "no secret is in it".to_owned(),
        _ => panic!("BUG: a machine was to be asked"),
    }
}

fn answer(
    disk: &ExaminedDisk<'_>,
    paths: &GuestPaths<'_>,
    question: &Question,
) -> Result<CheckAnswer, ReadError> {
    Ok(match question {
        Question::Exists(wanted) => {
            let missing = wanted.iter().filter(|path| paths.find(path).is_none());
            told(missing, "is missing", "are missing")
        }
        Question::Absent(names) => {
            let mut there = Vec::new();
            let mut packages = None;
            for name in names {
                let found = if name.starts_with('/') {
                    paths.find(name).is_some()
                } else {
                    if packages.is_none() {
                        packages = Some(read_packages(disk)?);
                    }
                    let packages = packages.as_ref().and_then(Option::as_ref);
                    packages.is_some_and(|packages| packages.contains_key(name))
                };
                if found {
                    there.push(name);
                }
            }
            told(there.into_iter(), "is there", "are there")
        }
        Question::Packages(input) => match (read_packages(disk)?, disk.baselines.get(input)) {
            (None, _) => Err(undecided("the image has no dpkg packages")),
            (Some(packages), Some(list)) => same_packages(&packages, list),
            (_, None) => panic!("BUG: a check without its input"),
        },
        Question::Diff { input, allow } => drift(disk, paths, &disk.baselines[input], allow),
        Question::NoSecrets { allow } => {
            let allowed = Patterns::new(allow);
            let mut found = secrets::find(disk.tree, disk.contents, disk.searched)?;
            found.retain(|secret| !allowed.matches(&paths.shown(secret.partition, &secret.path)));
            if found.is_empty() {
                return Ok(Ok(()));
            }
            let lines: Vec<_> = found
                .iter()
                .map(|secret| {
                    format!(
                        "{}: {}",
                        paths.shown(secret.partition, &secret.path),
                        secret.what
                    )
                })
                .collect();
            Err((
                match lines.as_slice() {
                    [only] => format!("a secret is in the image: {only}"),
                    all => format!("{} secrets are in the image, such as {}", all.len(), all[0]),
                },
                lines,
            ))
        }
        _ => panic!("BUG: a machine was to be asked"),
    })
}

fn undecided(reason: &str) -> (String, Vec<String>) {
    (format!("it cannot be decided: {reason}"), Vec::new())
}

/// What some things came to; none of them is what passes.
fn told<'n>(names: impl Iterator<Item = &'n String>, one: &str, several: &str) -> CheckAnswer {
    let names: Vec<_> = names.map(|name| neutralise(name.as_bytes())).collect();
    match names.as_slice() {
        [] => Ok(()),
        [name] => Err((format!("{name} {one}"), Vec::new())),
        [first, rest @ ..] => Err((
            format!("{first} and {} more {several}", rest.len()),
            names.clone(),
        )),
    }
}

fn shortened(mut lines: Vec<String>) -> Vec<String> {
    if lines.len() > SHOWN {
        let more = lines.len() - SHOWN;
        lines.truncate(SHOWN);
        lines.push(format!("and {more} more"));
    }
    lines
}

/// Versions of the installed packages by name; none without dpkg.
fn read_packages(disk: &ExaminedDisk<'_>) -> Result<Option<BTreeMap<String, String>>, ReadError> {
    let Some((partition, place)) = installed::place(disk.tree) else {
        return Ok(None);
    };
    let path = format!("{place}/status");
    let status = disk
        .contents
        .files(&[(partition, path.as_bytes())], installed::STATUS_LIMIT)?
        .pop()
        .flatten()
        .unwrap_or_default();
    let all = installed::parse(&status).into_iter();
    Ok(Some(
        all.map(|((name, _), package)| (name, package.version))
            .collect(),
    ))
}

/// Compares packages with a list: a name on each line, and a version where the list has one. A head line is passed over.
fn same_packages(packages: &BTreeMap<String, String>, list: &[u8]) -> CheckAnswer {
    let list = String::from_utf8_lossy(list);
    let mut wanted = BTreeMap::new();
    for line in list.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            None | Some("PACKAGE") => {}
            Some(word) if word.starts_with('#') => {}
            Some(name) => {
                let name = name.split(':').next().unwrap_or_default();
                wanted.insert(name.to_owned(), words.next());
            }
        }
    }
    if wanted.is_empty() {
        return Err(undecided("the list names no packages"));
    }
    let mut lines = Vec::new();
    for (name, version) in packages {
        match wanted.get(name) {
            None => lines.push(format!("+ {name} {version}: not in the list")),
            Some(Some(other)) if other != version => {
                lines.push(format!("~ {name} {version}: {other} in the list"));
            }
            Some(_) => {}
        }
    }
    let missing = wanted.keys().filter(|name| !packages.contains_key(*name));
    lines.extend(missing.map(|name| format!("- {name}: only in the list")));
    match lines.as_slice() {
        [] => Ok(()),
        [only] => Err((format!("a package differs: {only}"), lines)),
        all => Err((
            format!("{} packages differ, such as {}", all.len(), all[0]),
            lines,
        )),
    }
}

/// Compares the files with an index.
fn drift(
    disk: &ExaminedDisk<'_>,
    paths: &GuestPaths<'_>,
    baseline: &[u8],
    allow: &[String],
) -> CheckAnswer {
    let Ok(before) = text::parse(baseline) else {
        return Err(undecided("the baseline is not a tree index"));
    };
    let allowed = Patterns::new(allow);
    let changes = compare::compare(&before, disk.tree);
    let mut lines = Vec::new();
    for file in &changes.files {
        let path = paths.shown(file.partition, file.path());
        if allowed.matches(&path) {
            continue;
        }
        let sign = match (file.before, file.after) {
            (None, _) => '+',
            (_, None) => '-',
            _ => '~',
        };
        lines.push(format!("{sign} {path}"));
    }
    match lines.as_slice() {
        [] => Ok(()),
        [only] => Err((format!("a file differs: {only}"), lines)),
        all => Err((
            format!("{} files differ, such as {}", all.len(), all[0]),
            lines,
        )),
    }
}

/// Paths as the guest sees them, over the file systems of a disk.
struct GuestPaths<'a> {
    root: Option<&'a Volume>,
    tree: &'a Tree,
    mounts: Mounts,
}

impl<'a> GuestPaths<'a> {
    fn new(disk: &ExaminedDisk<'a>) -> Result<Self, ReadError> {
        let mounts = Mounts::read(disk.tree, disk.contents)?;
        let volumes = &disk.tree.volumes;
        let named = mounts
            .partition("/")
            .and_then(|partition| disk.tree.volume(partition));
        let likely = volumes
            .iter()
            .find(|volume| volume.find(b"/etc").is_some())
            .or(volumes.first());
        Ok(GuestPaths {
            root: named.or(likely),
            tree: disk.tree,
            mounts,
        })
    }

    /// A path as messages write it.
    fn shown(&self, partition: u32, path: &[u8]) -> String {
        let path = neutralise(path);
        self.mounts.path(partition, &path).unwrap_or(path)
    }

    /// What is at a path, links on the way followed, but for the last.
    fn find(&self, path: &str) -> Option<&IndexEntry> {
        let mut parts: Vec<Vec<u8>> = split(path.as_bytes());
        parts.reverse();
        let (mut at, mut links) = (Vec::new(), 0);
        while let Some(part) = parts.pop() {
            if part == b".." {
                let cut = at.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                at.truncate(cut);
                continue;
            }
            let before = at.len();
            at.push(b'/');
            at.extend(&part);
            let entry = self.entry(&at)?;
            if let (EntryKind::Symlink { target }, false) = (&entry.kind, parts.is_empty()) {
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                at.truncate(if target.starts_with(b"/") { 0 } else { before });
                parts.extend(split(target).into_iter().rev());
            }
        }
        if at.is_empty() {
            return self.root?.find(b"/");
        }
        self.entry(&at)
    }

    /// The entry at a path without links: on the file system that is mounted there.
    fn entry(&self, path: &[u8]) -> Option<&IndexEntry> {
        let text = std::str::from_utf8(path).ok();
        let mounted = text.and_then(|text| self.mounts.below(text));
        if let Some((partition, rest)) = mounted
            && let Some(volume) = self.tree.volume(partition)
        {
            return volume.find(rest.as_bytes());
        }
        self.root?.find(path)
    }
}

fn split(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

/// Paths that are passed over.
pub(crate) struct Patterns(Vec<regex::Regex>);

impl Patterns {
    /// `*` matches any characters but `/`; a directory means all under it.
    pub(crate) fn new(patterns: &[String]) -> Self {
        let compile = |pattern: &String| {
            let body = regex::escape(pattern.trim_end_matches('/')).replace(r"\*", "[^/]*");
            regex::Regex::new(&format!("^(?:{body})(?:/.*)?$")).ok()
        };
        Patterns(patterns.iter().filter_map(compile).collect())
    }

    pub(crate) fn matches(&self, path: &str) -> bool {
        self.0.iter().any(|pattern| pattern.is_match(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_paths_with_stars() {
        let patterns = Patterns::new(&["/usr/share/doc/*".to_owned(), "/etc/x.d".to_owned()]);
        for path in [
            "/usr/share/doc/a",
            "/usr/share/doc/a/b",
            "/etc/x.d",
            "/etc/x.d/y",
        ] {
            assert!(patterns.matches(path), "{path}");
        }
        for path in ["/usr/share/doc", "/etc/x.d2", "/x/etc/x.d"] {
            assert!(!patterns.matches(path), "{path}");
        }
    }

    #[test]
    fn lists_of_packages_are_compared_by_name_and_by_version_where_they_have_one() {
        let packages = BTreeMap::from([
            ("bash".to_owned(), "5.2".to_owned()),
            ("docker-ce".to_owned(), "24".to_owned()),
        ]);
        let differs = |list: &str| {
            same_packages(&packages, list.as_bytes())
                .err()
                .map(|(_, lines)| lines)
                .unwrap_or_default()
        };
        assert_eq!(
            differs("PACKAGE VERSION\nbash 5.2 amd64\ndocker-ce\n"),
            [""; 0]
        );
        assert_eq!(
            differs("bash 5.1\nvim\n"),
            [
                "~ bash 5.2: 5.1 in the list",
                "+ docker-ce 24: not in the list",
                "- vim: only in the list"
            ]
        );
    }
}
