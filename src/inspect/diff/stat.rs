//! A report's files as counts and bytes by directory, two levels deep.
//!
//! Knows reports; a file that changed counts with the difference of its sizes.

use std::collections::BTreeMap;

use super::{DiffChange, DiffReport};
use crate::base::human;
use crate::base::table;

#[derive(Default)]
struct StatRow {
    added: u64,
    removed: u64,
    changed: u64,
    /// Bytes that came and bytes that went.
    plus: u64,
    minus: u64,
}

/// The table; nothing where no file differs.
pub fn render(report: &DiffReport) -> String {
    let several = report
        .files
        .iter()
        .any(|file| file.partition != report.files[0].partition);
    let mut rows: BTreeMap<(u32, &str), StatRow> = BTreeMap::new();
    let mut total = StatRow::default();
    for file in &report.files {
        let row = rows
            .entry((file.partition, directory(&file.path, 2)))
            .or_default();
        let bytes = |state: &Option<super::files::FileState>| {
            state.as_ref().map_or(0, |state| state.bytes())
        };
        let (before, after) = (bytes(&file.before), bytes(&file.after));
        for row in [row, &mut total] {
            match file.change {
                DiffChange::Added => row.added += 1,
                DiffChange::Removed => row.removed += 1,
                DiffChange::Changed => row.changed += 1,
            }
            row.plus = row.plus.saturating_add(after.saturating_sub(before));
            row.minus = row.minus.saturating_add(before.saturating_sub(after));
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let mut table = vec![
        ["DIRECTORY", "ADDED", "REMOVED", "CHANGED", "BYTES"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for ((partition, path), row) in &rows {
        let with_place = several && !report.mounts.contains_key(partition);
        let place = if with_place {
            format!("partition {partition}: {path}")
        } else {
            (*path).to_owned()
        };
        table.push(line(place, row));
    }
    table.push(line("all".to_owned(), &total));
    table::columns(&table)
}

fn line(place: String, row: &StatRow) -> Vec<String> {
    let StatRow {
        added,
        removed,
        changed,
        plus,
        minus,
    } = row;
    let bytes = match (plus, minus) {
        (0, 0) => "0 B".to_owned(),
        (plus, 0) => format!("+{}", human::bytes(*plus)),
        (0, minus) => format!("-{}", human::bytes(*minus)),
        (plus, minus) => format!("+{} -{}", human::bytes(*plus), human::bytes(*minus)),
    };
    vec![
        place,
        added.to_string(),
        removed.to_string(),
        changed.to_string(),
        bytes,
    ]
}

/// The directory that a path lies in, at most `depth` levels deep: `/usr/lib` of `/usr/lib/x/y`, with a depth of 2.
pub(super) fn directory(path: &str, depth: usize) -> &str {
    let dir = path.rfind('/').map_or("", |end| &path[..end]);
    let end = dir
        .match_indices('/')
        .nth(depth)
        .map_or(dir.len(), |(at, _)| at);
    if end == 0 { "/" } else { &dir[..end] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_cut_at_their_depth() {
        let cut = ["/a", "/a/b", "/a/b/c", "/a/b/c/d", "/"].map(|path| directory(path, 2));
        assert_eq!(cut, ["/", "/a", "/a/b", "/a/b", "/"]);
        assert_eq!(directory("/a/b/c/d", 1), "/a");
        assert_eq!(directory("/a/b/c/d", 0), "/");
    }
}
