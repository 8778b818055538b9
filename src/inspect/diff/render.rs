//! A report as text for people: one section for each kind of thing that differs, a line for each thing.
//!
//! Knows reports, whose texts are neutralised already. Lines that say the same of many files become one with a count.

use std::collections::HashMap;

use super::files::{Aspect, FileChange, FileState};
use super::installed::{PackageChange, PackageState};
use super::layout::AreaChange;
use super::{DiffChange, DiffField, DiffReport, Sizes};
use crate::base::human;
use crate::disk::tree::PartitionName;

/// The attribute that gives a program rights.
const CAPABILITY: &str = "security.capability";
/// More files than this that differ only in their time become one line.
const FEW: usize = 20;

/// The report as text. With `all`, every file has a line of its own.
pub fn render(report: &DiffReport, all: bool) -> String {
    let mut out = format!("{} → {}\n", report.before, report.after);
    if let Some(Sizes { before, after }) = report.disk_size {
        out += &format!("\ndisk size: {}\n", sizes(before, after));
    }
    section(
        &mut out,
        "partition table",
        report.partition_table.iter().map(field),
    );
    section(
        &mut out,
        "boot areas and other bytes",
        report.areas.iter().map(area),
    );
    for volume in &report.file_systems {
        let title = match (volume.change, volume.partition) {
            (DiffChange::Changed, number) => {
                format!("file system on {} ({})", PartitionName(number), volume.kind)
            }
            (DiffChange::Added, number) => format!(
                "new file system on {} ({})",
                PartitionName(number),
                volume.kind
            ),
            (DiffChange::Removed, number) => {
                format!(
                    "removed file system on {} ({})",
                    PartitionName(number),
                    volume.kind
                )
            }
        };
        section(&mut out, &title, volume.fields.iter().map(field));
    }
    section(&mut out, "packages", report.packages.iter().map(package));
    let several = report
        .files
        .iter()
        .any(|file| file.partition != report.files[0].partition);
    // A path that is the guest's needs no partition.
    let is_clear = |file: &FileChange| !several || report.mounts.contains_key(&file.partition);
    let parts: Vec<_> = report
        .files
        .chunk_by(|a, b| a.partition == b.partition)
        .collect();
    let clear = parts
        .iter()
        .filter(|files| is_clear(&files[0]))
        .flat_map(|files| lines(files, all));
    section(&mut out, "files", clear);
    for files in parts.iter().filter(|files| !is_clear(&files[0])) {
        section(
            &mut out,
            &format!("files on {}", PartitionName(files[0].partition)),
            lines(files, all).into_iter(),
        );
    }
    for file in &report.files {
        texts(&mut out, file, !is_clear(file));
    }
    if report.texts_left_out > 0 {
        out += &format!(
            "\n{} more files that may be text were not compared line by line\n",
            report.texts_left_out
        );
    }
    out
}

fn section(out: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        *out += &format!("\n{title}:\n");
        lines.for_each(|line| *out += &format!("  {line}\n"));
    }
}

fn field(field: &DiffField) -> String {
    let DiffField {
        what,
        before,
        after,
    } = field;
    match (before, after) {
        (Some(before), Some(after)) => format!("~ {what}: {before} → {after}"),
        (Some(value), None) => format!("- {what}: {value}"),
        (None, Some(value)) => format!("+ {what}: {value}"),
        (None, None) => format!("~ {what}"),
    }
}

fn area(area: &AreaChange) -> String {
    let AreaChange {
        what,
        start,
        size,
        change,
        partition: _,
    } = area;
    let note = match change {
        DiffChange::Added => ", was empty",
        DiffChange::Removed => ", is empty now",
        DiffChange::Changed => "",
    };
    format!(
        "{} {what}: {} at {start}{note}",
        change.sign(),
        human::bytes(*size)
    )
}

fn package(change: &PackageChange) -> String {
    let PackageChange {
        name,
        before,
        after,
        several_architectures,
    } = change;
    let architecture = match before.as_ref().or(after.as_ref()) {
        Some(state) if *several_architectures => format!(":{}", state.architecture),
        _ => String::new(),
    };
    let state = |package: &PackageState| {
        package
            .state
            .as_ref()
            .map(|state| format!(" ({state})"))
            .unwrap_or_default()
    };
    let told = |package: &PackageState| format!("{}{}", package.version, state(package));
    match (before, after) {
        (None, None) => String::new(),
        (Some(package), None) => format!("- {name}{architecture} {}", told(package)),
        (None, Some(package)) => format!("+ {name}{architecture} {}", told(package)),
        (Some(a), Some(b)) => {
            let mut line = format!("~ {name}{architecture}");
            if (&a.version, &a.state) != (&b.version, &b.state) {
                line += &format!(" {} → {}", told(a), told(b));
            }
            if a.architecture != b.architecture {
                line += &format!(" {} → {}", a.architecture, b.architecture);
            }
            line
        }
    }
}

/// A new or lost directory with all that is in it.
#[derive(Default)]
struct Inside {
    files: usize,
    bytes: u64,
}

/// The lines of one file system's files.
fn lines(files: &[FileChange], all: bool) -> Vec<String> {
    let only_time = |file: &&FileChange| file.aspects == [Aspect::Time];
    let is_dir = |file: &&FileChange| file.after.as_ref().is_some_and(FileState::is_directory);
    let timed_dirs = files.iter().filter(only_time).filter(is_dir).count();
    let timed_files = files.iter().filter(only_time).count() - timed_dirs;
    let (hide_dirs, hide_files) = (!all && timed_dirs > 0, !all && timed_files > FEW);
    // By path: the place among `shown` of the topmost directory that came or went with it. Directories come before what is
    // in them.
    let mut whole: [HashMap<&str, usize>; 2] = Default::default();
    let mut shown: Vec<(&FileChange, [Option<Inside>; 2])> = Vec::new();
    for file in files {
        if only_time(&file) && if is_dir(&file) { hide_dirs } else { hide_files } {
            continue;
        }
        let parent = file
            .path
            .rfind('/')
            .map_or("", |end| &file.path[..end.max(1)]);
        let side = usize::from(file.change == DiffChange::Removed);
        let state = if side == 0 { &file.after } else { &file.before };
        if !all
            && file.change != DiffChange::Changed
            && file.path != "/"
            && !state.as_ref().is_some_and(is_notable)
            && let Some(place) = whole[side].get(parent).copied()
        {
            let is_dir = state.as_ref().is_some_and(FileState::is_directory);
            if let Some(inside) = &mut shown[place].1[side] {
                inside.files += usize::from(!is_dir);
                inside.bytes = inside
                    .bytes
                    .saturating_add(state.as_ref().map_or(0, FileState::bytes));
            }
            if is_dir {
                whole[side].insert(&file.path, place);
            }
            continue;
        }
        let mut inside = [None, None];
        for (side, (this, other)) in [(&file.after, &file.before), (&file.before, &file.after)]
            .into_iter()
            .enumerate()
        {
            let is_dir =
                |state: &Option<FileState>| state.as_ref().is_some_and(FileState::is_directory);
            if is_dir(this) && !is_dir(other) && !all {
                whole[side].insert(&file.path, shown.len());
                inside[side] = Some(Inside::default());
            }
        }
        shown.push((file, inside));
    }
    let mut lines: Vec<_> = shown
        .iter()
        .map(|(file, inside)| line(file, inside))
        .collect();
    let many = |count: usize, one: &str, more: &str| match count {
        1 => format!("~ 1 {one} differs only in its time"),
        count => format!("~ {count} {more} differ only in their time"),
    };
    lines.extend(hide_dirs.then(|| many(timed_dirs, "directory", "directories")));
    lines.extend(hide_files.then(|| many(timed_files, "file", "files")));
    lines
}

fn line(file: &FileChange, inside: &[Option<Inside>; 2]) -> String {
    let FileChange {
        path,
        change,
        before,
        after,
        ..
    } = file;
    let slash = |state: &FileState| {
        if state.is_directory() && path != "/" {
            "/"
        } else {
            ""
        }
    };
    match (before, after) {
        (Some(a), Some(b)) => {
            let mut told: Vec<_> = file
                .aspects
                .iter()
                .map(|aspect| aspect_text(*aspect, a, b))
                .collect();
            told.extend(
                inside
                    .iter()
                    .zip(["new in it: ", "was in it: "])
                    .filter_map(|(inside, words)| {
                        inside
                            .as_ref()
                            .map(|inside| format!("{words}{}", inside_text(inside)))
                    }),
            );
            format!("~ {path}{}: {}", slash(b), told.join(", "))
        }
        (Some(state), None) | (None, Some(state)) => {
            let inside = inside.iter().flatten().next();
            format!(
                "{} {path}{}: {}",
                change.sign(),
                slash(state),
                state_text(state, inside)
            )
        }
        (None, None) => path.clone(),
    }
}

fn inside_text(inside: &Inside) -> String {
    match inside.files {
        0 => "nothing".to_owned(),
        1 => format!("1 file, {}", human::bytes(inside.bytes)),
        files => format!("{files} files, {}", human::bytes(inside.bytes)),
    }
}

/// Whether a file runs with other rights than its caller's: it has a line of its own wherever it is.
fn is_notable(state: &FileState) -> bool {
    is_set_id(state) || state.xattrs.contains_key(CAPABILITY)
}

fn is_set_id(state: &FileState) -> bool {
    state.kind == "file"
        && state.hard_link_to.is_none()
        && matches!(state.mode.as_bytes(), [b'2'..=b'7', ..])
}

/// A file that only one disk has.
fn state_text(state: &FileState, inside: Option<&Inside>) -> String {
    let mut text = match (&state.hard_link_to, state.size, &state.target, state.device) {
        (Some(first), ..) => format!("hard link to {first}"),
        (_, Some(size), ..) => human::bytes(size),
        (_, _, Some(target), _) => format!("symlink to {target}"),
        (.., Some((major, minor))) => format!("{} {major}:{minor}", state.kind),
        _ => match inside {
            Some(Inside { files: 0, .. }) => "empty directory".to_owned(),
            Some(inside) => inside_text(inside),
            None => state.kind.to_owned(),
        },
    };
    if is_set_id(state) {
        text += &format!(", mode {}", state.mode);
    }
    for (name, value) in state.xattrs.iter().filter(|(name, _)| *name == CAPABILITY) {
        text += &format!(", {name} {value}");
    }
    text
}

fn aspect_text(aspect: Aspect, a: &FileState, b: &FileState) -> String {
    match aspect {
        Aspect::Type => {
            let told = |state: &FileState| match &state.target {
                Some(target) => format!("symlink to {target}"),
                None => state.kind.to_owned(),
            };
            format!("{} → {}", told(a), told(b))
        }
        Aspect::Content => match (a.size, b.size) {
            (Some(a), Some(b)) if a == b => format!("content ({} as before)", human::bytes(a)),
            (a, b) => format!("content {}", sizes(a.unwrap_or(0), b.unwrap_or(0))),
        },
        Aspect::Target => {
            let target = |state: &FileState| state.target.clone().unwrap_or_default();
            format!("leads to {} → {}", target(a), target(b))
        }
        Aspect::Device => {
            let device = |state: &FileState| {
                state
                    .device
                    .map(|(a, b)| format!("{a}:{b}"))
                    .unwrap_or_default()
            };
            format!("device {} → {}", device(a), device(b))
        }
        Aspect::Mode => format!("mode {} → {}", a.mode, b.mode),
        Aspect::Owner => format!("owner {}:{} → {}:{}", a.uid, a.gid, b.uid, b.gid),
        Aspect::Time => format!("time {} → {}", a.time, b.time),
        Aspect::Attributes => {
            let list = |state: &FileState| match state.attributes.join(" ") {
                list if list.is_empty() => "none".to_owned(),
                list => list,
            };
            format!("attributes {} → {}", list(a), list(b))
        }
        Aspect::Xattrs => {
            let mut told = Vec::new();
            let mut names: Vec<_> = a.xattrs.keys().chain(b.xattrs.keys()).collect();
            names.sort_unstable();
            names.dedup();
            for name in names {
                match (a.xattrs.get(name), b.xattrs.get(name)) {
                    (Some(a), Some(b)) if a == b => {}
                    (Some(a), Some(b)) => told.push(format!("{name} {a} → {b}")),
                    (Some(a), None) => told.push(format!("without {name} {a}")),
                    (None, Some(b)) => told.push(format!("with {name} {b}")),
                    (None, None) => {}
                }
            }
            told.join(", ")
        }
        Aspect::Links => match (&a.hard_link_to, &b.hard_link_to) {
            (_, Some(first)) => format!("hard link to {first}"),
            (Some(first), None) => format!("no longer a hard link to {first}"),
            (None, None) => "hard links".to_owned(),
        },
    }
}

/// Two sizes, exact where rounded ones would look equal.
fn sizes(before: u64, after: u64) -> String {
    match (human::bytes(before), human::bytes(after)) {
        (a, b) if a == b => format!("{before} B → {after} B"),
        (a, b) => format!("{a} → {b}"),
    }
}

fn texts(out: &mut String, file: &FileChange, with_place: bool) {
    let Some(text) = &file.text else { return };
    let place = if with_place {
        format!("{}: ", PartitionName(file.partition))
    } else {
        String::new()
    };
    *out += &format!("\n{place}{}\n", file.path);
    text.lines
        .iter()
        .for_each(|line| *out += &format!("{line}\n"));
    match text.lines_left_out {
        0 => {}
        1 => *out += "… 1 more line\n",
        more => *out += &format!("… {more} more lines\n"),
    }
}
