//! Files whose path tells what they are: identities, seeds, lists of packages and passwords, caches, logs.
//! Knows names of Debian and its kin, and the forms of a few files.

use std::collections::BTreeMap;

use super::{CauseKind, CauseMatch, CauseScope, conditions, masks, shown};
use crate::inspect::diff::installed;

/// Packages that are named.
const NAMED: usize = 8;

/// A path and what it tells; `*` at the end of a path's last part stands for anything, `/` at the end for all below it.
const PATHS: &[(&str, CauseKind, &str)] = &[
    (
        "/etc/machine-id",
        CauseKind::MachineId,
        "is a machine's identity, created while the image was built",
    ),
    (
        "/var/lib/dbus/machine-id",
        CauseKind::MachineId,
        "is a machine's identity, created while the image was built",
    ),
    (
        "/etc/ssh/ssh_host_*",
        CauseKind::SshHostKey,
        "is a key of the SSH server, created while the image was built",
    ),
    (
        "/etc/dropbear/dropbear_*",
        CauseKind::SshHostKey,
        "is a key of the SSH server, created while the image was built",
    ),
    (
        "/var/lib/systemd/credential.secret",
        CauseKind::RandomSeed,
        "is random: the key of systemd's credentials",
    ),
    (
        "/var/lib/NetworkManager/secret_key",
        CauseKind::RandomSeed,
        "is random: NetworkManager's key",
    ),
    (
        "/etc/localtime",
        CauseKind::TimeZone,
        "is the time zone of the build",
    ),
    (
        "/etc/timezone",
        CauseKind::TimeZone,
        "is the time zone of the build",
    ),
    (
        "/var/cache/ldconfig/",
        CauseKind::Cache,
        "is ldconfig's cache, which records inodes and times of libraries",
    ),
    (
        "/etc/ld.so.cache",
        CauseKind::Cache,
        "is ldconfig's list of libraries, in the order of their directories",
    ),
    (
        "/var/cache/man/",
        CauseKind::Cache,
        "is man-db's index, which records times of pages",
    ),
    (
        "/var/cache/fontconfig/",
        CauseKind::Cache,
        "is fontconfig's cache, which records times of directories",
    ),
    (
        "/var/cache/apt/",
        CauseKind::Cache,
        "is apt's cache, which records times of its lists",
    ),
    (
        "/var/cache/debconf/",
        CauseKind::Cache,
        "is debconf's cache of questions and answers",
    ),
    (
        "/var/lib/apt/lists/",
        CauseKind::PackageVersion,
        "is apt's list of a repository that changed between the builds",
    ),
    (
        "/var/log/",
        CauseKind::Log,
        "is a log, which records when and how the image was built",
    ),
    (
        "/var/lib/apt/periodic/",
        CauseKind::Log,
        "is apt's record of when it did something",
    ),
    (
        "/var/lib/systemd/timers/",
        CauseKind::Log,
        "is systemd's record of when a timer ran",
    ),
    (
        "/var/backups/",
        CauseKind::Cache,
        "is a backup copy of a database",
    ),
];

/// What the path tells, and the content where it is given.
pub(super) fn exact(scope: &CauseScope<'_>, content: Option<(&[u8], &[u8])>) -> Option<CauseMatch> {
    let path = scope.path;
    if let Some((before, after)) = content {
        if ends(
            path,
            &[
                "/etc/shadow",
                "/etc/shadow-",
                "/etc/gshadow",
                "/etc/gshadow-",
            ],
        ) {
            return shadow(scope, before, after);
        }
        if ends(path, &["/lib/dpkg/status", "/lib/dpkg/status-old"]) {
            return versions(before, after);
        }
    }
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    if ends(path, &["/random-seed", "/random.seed", "/entropy"]) || name.starts_with(b"random-seed")
    {
        return Some(CauseMatch::new(CauseKind::RandomSeed, "is a random seed"));
    }
    listed(path)
}

/// What the name alone lets one suppose.
pub(super) fn likely(scope: &CauseScope<'_>) -> Option<CauseMatch> {
    let name = scope
        .path
        .rsplit(|byte| *byte == b'/')
        .next()
        .unwrap_or_default();
    name.ends_with(b".log")
        .then(|| CauseMatch::new(CauseKind::Log, "is a log, by its name"))
}

/// Why a file is there in one build only.
pub(super) fn lone(scope: &CauseScope<'_>, side: usize) -> Option<CauseMatch> {
    let found = listed(scope.path)
        .or_else(|| masks::of_name(scope, side))
        .or_else(|| likely(scope))?;
    let what = match found.what.strip_prefix("exists in only one build") {
        Some(_) => found.what,
        None => format!("exists in only one build, and {}", found.what),
    };
    Some(CauseMatch { what, ..found })
}

fn listed(path: &[u8]) -> Option<CauseMatch> {
    // Where /var is a file system of its own, its files' paths begin below it.
    let of = |pattern: &str, path: &[u8]| match (pattern.strip_suffix('*'), pattern.ends_with('/'))
    {
        (Some(begin), _) => path
            .strip_prefix(begin.as_bytes())
            .is_some_and(|rest| !rest.contains(&b'/')),
        (None, true) => path.starts_with(pattern.as_bytes()),
        (None, false) => path == pattern.as_bytes(),
    };
    let is = |pattern: &str| {
        let short = pattern
            .strip_prefix("/var")
            .filter(|short| short.starts_with("/log/") || short.starts_with("/cache/"));
        of(pattern, path) || short.is_some_and(|short| of(short, path))
    };
    PATHS
        .iter()
        .find(|(pattern, ..)| is(pattern))
        .map(|(_, kind, what)| CauseMatch::new(*kind, *what))
}

fn ends(path: &[u8], endings: &[&str]) -> bool {
    endings
        .iter()
        .any(|ending| path.ends_with(ending.as_bytes()))
}

/// Lines of shadow(5): name, password, day of its last change, and six more fields.
fn shadow(scope: &CauseScope<'_>, before: &[u8], after: &[u8]) -> Option<CauseMatch> {
    let users = |content| {
        let line = |line| {
            let fields: Vec<&[u8]> = <[u8]>::split(line, |byte| *byte == b':').collect();
            Some((*fields.first()?, fields))
        };
        <[u8]>::split(content, |byte: &u8| *byte == b'\n')
            .filter_map(line)
            .collect::<BTreeMap<_, _>>()
    };
    let (before, after) = (users(before), users(after));
    let (mut salts, mut days) = (Vec::new(), Vec::new());
    for (name, fields) in &before {
        let other = after
            .get(name)
            .filter(|other| other.len() == fields.len())?;
        for (place, (field, other)) in fields
            .iter()
            .zip(other)
            .enumerate()
            .filter(|(_, (field, other))| field != other)
        {
            match place {
                1 if method(field).is_some() && method(field) == method(other) => {
                    salts.push(shown(name))
                }
                2 if is_day(scope, 1, other) => days.push(shown(name)),
                _ => return None,
            }
        }
    }
    match (salts.is_empty(), days.is_empty()) {
        (false, _) => {
            let what = format!(
                "contains passwords that were hashed with new salts: {}",
                few(&salts)
            );
            Some(CauseMatch::new(CauseKind::PasswordSalt, what))
        }
        (true, false) => {
            let what = format!(
                "contains the day of the build as the day on which passwords were set: {}",
                few(&days)
            );
            Some(CauseMatch::new(CauseKind::BuildTime, what))
        }
        (true, true) => None,
    }
}

/// The method of a hashed password, `$6$…`.
fn method(password: &[u8]) -> Option<&[u8]> {
    let mut parts = password.strip_prefix(b"$")?.split(|byte| *byte == b'$');
    parts.next().filter(|_| parts.next().is_some())
}

/// Whether a field is a day on which the build of this side ran.
fn is_day(scope: &CauseScope<'_>, side: usize, field: &[u8]) -> bool {
    let day = std::str::from_utf8(field)
        .ok()
        .and_then(|text| text.parse::<i64>().ok());
    let (first, last) = conditions::window(&scope.runs[side]);
    // Whichever time zone is meant.
    let days =
        first.div_euclid(86_400).saturating_sub(1)..=last.div_euclid(86_400).saturating_add(1);
    day.is_some_and(|day| days.contains(&day))
}

/// dpkg's list of packages.
fn versions(before: &[u8], after: &[u8]) -> Option<CauseMatch> {
    let changes = installed::compare(&installed::parse(before), &installed::parse(after));
    if changes.is_empty() {
        return None;
    }
    let told: Vec<_> = changes
        .iter()
        .map(|change| {
            let version = |state: &Option<installed::PackageState>| {
                state.as_ref().map_or_else(
                    || "none".to_owned(),
                    |state| shown(state.version.as_bytes()),
                )
            };
            format!(
                "{} {} → {}",
                shown(change.name.as_bytes()),
                version(&change.before),
                version(&change.after)
            )
        })
        .collect();
    Some(CauseMatch::new(
        CauseKind::PackageVersion,
        format!("lists different versions of packages: {}", few(&told)),
    ))
}

/// A list that is cut where it is long.
fn few(all: &[String]) -> String {
    let shown = all[..all.len().min(NAMED)].join(", ");
    if all.len() > NAMED {
        format!("{shown} and {} more", all.len() - NAMED)
    } else {
        shown
    }
}
