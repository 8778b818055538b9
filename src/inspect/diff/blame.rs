//! Which stage brought the bytes that a disk holds.
//!
//! Knows the trees of a chain of disks; reads nothing. A file's bytes belong to the last stage in which its content
//! changed or appeared at its path. A file with several names counts once, at the first of them.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::mounts::Mounts;
use super::{plain, stat};
use crate::base::human;
use crate::base::table;
use crate::disk::tree::{EntryKind, IndexEntry, Tree, Volume};

/// Rows of a stage that the table shows.
const ROWS: usize = 10;

/// Where a disk's bytes come from. As JSON it is what `impasto layer blame --json` prints; names do not change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blame {
    /// Version of this form: 1.
    pub v: u32,
    /// Sum of the sizes of all files on the disk, in bytes.
    pub bytes: u64,
    /// Number of files on the disk.
    pub files: u64,
    /// The stages of the chain, those that brought most first.
    pub stages: Vec<BlameStage>,
}

/// What one stage brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlameStage {
    pub stage: String,
    /// Bytes of its files.
    pub bytes: u64,
    pub files: u64,
    /// The same by directory, or by package; the largest first.
    pub parts: Vec<BlamePart>,
}

/// A part of what a stage brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlamePart {
    /// Directory or package; `null` for files that no package lists.
    pub name: Option<String>,
    /// Bytes of its files.
    pub bytes: u64,
    pub files: u64,
}

/// How a stage's files are summed up.
pub enum By<'a> {
    /// By directory, so many levels deep.
    Directory(usize),
    /// By the package that lists them: those of one partition, by path.
    Package {
        /// The partition on which dpkg is.
        partition: u32,
        /// Packages by the paths that they list.
        owners: &'a BTreeMap<Vec<u8>, String>,
    },
}

/// Finds out for a chain of disks, the bottom first, where the files of the last one come from.
/// `mounts` are those of the last one.
pub fn blame(chain: &[(String, Tree)], by: &By<'_>, mounts: &Mounts) -> Blame {
    let mut blame = Blame {
        v: 1,
        bytes: 0,
        files: 0,
        stages: Vec::new(),
    };
    let Some(((_, last), below)) = chain.split_last() else {
        return blame;
    };
    let mut parts: Vec<HashMap<Option<String>, BlamePart>> = vec![HashMap::new(); chain.len()];
    let several = last
        .volumes
        .iter()
        .filter(|volume| volume.entries.len() > 1)
        .count()
        > 1;
    for volume in &last.volumes {
        let directories = Directories::new(volume);
        for entry in &volume.entries {
            let EntryKind::File { size, .. } = &entry.kind else {
                continue;
            };
            let stage = (0..below.len())
                .rev()
                .find(|at| !has(&below[*at].1, volume, entry))
                .map_or(0, |at| at + 1);
            let name = match by {
                By::Directory(depth) => {
                    let path = plain::name(&entry.path);
                    Some(match mounts.path(volume.partition, &path) {
                        Some(path) => stat::directory(&path, *depth).to_owned(),
                        None if !several => stat::directory(&path, *depth).to_owned(),
                        None => format!(
                            "partition {}: {}",
                            volume.partition,
                            stat::directory(&path, *depth)
                        ),
                    })
                }
                By::Package { partition, owners } if *partition == volume.partition => directories
                    .names(&entry.path)
                    .find_map(|path| owners.get(&path).cloned()),
                By::Package { .. } => None,
            };
            let part = parts[stage].entry(name.clone()).or_insert(BlamePart {
                name,
                bytes: 0,
                files: 0,
            });
            part.bytes = part.bytes.saturating_add(*size);
            part.files += 1;
        }
    }
    for ((stage, _), parts) in chain.iter().zip(parts) {
        let mut parts: Vec<_> = parts.into_values().collect();
        parts.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
        let bytes = parts
            .iter()
            .fold(0u64, |sum, part| sum.saturating_add(part.bytes));
        let files = parts.iter().map(|part| part.files).sum();
        blame.bytes = blame.bytes.saturating_add(bytes);
        blame.files += files;
        blame.stages.push(BlameStage {
            stage: plain::name(stage.as_bytes()),
            bytes,
            files,
            parts,
        });
    }
    // A stable sort: where two brought the same, the lower one comes first.
    blame
        .stages
        .sort_by_key(|stage| std::cmp::Reverse(stage.bytes));
    blame
}

/// Whether a disk has the same content at the same path.
fn has(tree: &Tree, volume: &Volume, entry: &IndexEntry) -> bool {
    tree.volume(volume.partition)
        .and_then(|old| old.find(&entry.path))
        .is_some_and(|old| old.kind == entry.kind)
}

/// Symbolic links to directories, through which packages list files: `/lib` is `usr/lib`.
pub(crate) struct Directories {
    /// Links in `/` and where they lead, both as absolute paths.
    links: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Directories {
    pub(crate) fn new(volume: &Volume) -> Self {
        let link = |entry: &IndexEntry| match &entry.kind {
            EntryKind::Symlink { target } if !entry.path[1..].contains(&b'/') => {
                let target = target.strip_prefix(b"/").unwrap_or(target);
                Some((entry.path.clone(), [b"/", target].concat()))
            }
            _ => None,
        };
        Directories {
            links: volume
                .entries
                .iter()
                .filter(|entry| entry.path.len() > 1)
                .filter_map(link)
                .collect(),
        }
    }

    /// The names by which a file can be called.
    pub(crate) fn names<'p>(&'p self, path: &'p [u8]) -> impl Iterator<Item = Vec<u8>> + 'p {
        let through = move |(link, target): &(Vec<u8>, Vec<u8>)| {
            let rest = path
                .strip_prefix(target.as_slice())
                .filter(|rest| rest.starts_with(b"/"))?;
            Some([link, rest].concat())
        };
        std::iter::once(path.to_vec()).chain(self.links.iter().filter_map(through))
    }
}

/// The table: stages, and under each its largest parts.
pub fn render(blame: &Blame) -> String {
    let mut rows = vec![
        ["STAGE", "BYTES", "SHARE", "FILES", ""]
            .map(str::to_owned)
            .to_vec(),
    ];
    let share = |bytes: u64| match blame.bytes {
        0 => "-".to_owned(),
        all => format!("{:.1} %", bytes as f64 * 100.0 / all as f64),
    };
    let mut row = |stage: &str, bytes: u64, files: u64, name: &str| {
        rows.push(vec![
            stage.to_owned(),
            human::bytes(bytes),
            share(bytes),
            files.to_string(),
            name.to_owned(),
        ]);
    };
    for stage in &blame.stages {
        row(&stage.stage, stage.bytes, stage.files, "");
        let (shown, rest) = stage.parts.split_at(stage.parts.len().min(ROWS));
        for part in shown {
            row(
                "",
                part.bytes,
                part.files,
                part.name.as_deref().unwrap_or("(in no package)"),
            );
        }
        if !rest.is_empty() {
            let bytes = rest
                .iter()
                .fold(0u64, |sum, part| sum.saturating_add(part.bytes));
            row(
                "",
                bytes,
                rest.iter().map(|part| part.files).sum(),
                &format!("({} more)", rest.len()),
            );
        }
    }
    row("all", blame.bytes, blame.files, "");
    table::columns(&rows)
}

#[cfg(test)]
mod tests {
    use impasto_store::digest::BlobDigest;

    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let entry = |(path, content): &(&str, &str)| IndexEntry {
            path: path.as_bytes().to_vec(),
            kind: match content.split_once(' ') {
                Some(("link", target)) => EntryKind::Symlink {
                    target: target.into(),
                },
                Some(("hard", first)) => EntryKind::HardLink {
                    first: first.into(),
                },
                _ => EntryKind::File {
                    size: content.len() as u64,
                    content: BlobDigest::of(content.as_bytes()).0,
                },
            },
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            flags: 0,
            xattrs: Vec::new(),
        };
        let mut entries: Vec<_> = files.iter().map(entry).collect();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let volume = Volume {
            partition: 1,
            kind: "ext4".to_owned(),
            uuid: String::new(),
            label: Vec::new(),
            facts: Vec::new(),
            entries,
        };
        Tree {
            volumes: vec![volume],
            ..Tree::default()
        }
    }

    fn chain() -> Vec<(String, Tree)> {
        let base = tree(&[
            ("/usr/bin/a", "aaaa"),
            ("/etc/x", "1"),
            ("/etc/y", "yy"),
            ("/lib", "link usr/lib"),
        ]);
        let middle = tree(&[
            ("/usr/bin/a", "aaaa"),
            ("/etc/x", "2222222"),
            ("/usr/lib/m", "mmmmmm"),
            ("/lib", "link usr/lib"),
        ]);
        let top = tree(&[
            ("/usr/bin/a", "aaaa"),
            ("/usr/bin/hard", "hard /usr/bin/a"),
            ("/etc/x", "2222222"),
            ("/etc/y", "yy"),
            ("/usr/lib/m", "mmmmmm"),
            ("/lib", "link usr/lib"),
        ]);
        [("base", base), ("middle", middle), ("top", top)]
            .map(|(name, tree)| (name.to_owned(), tree))
            .into()
    }

    #[test]
    fn bytes_belong_to_the_last_stage_that_changed_them() {
        let blame = blame(&chain(), &By::Directory(2), &Mounts::default());
        assert_eq!((blame.bytes, blame.files), (19, 4));
        insta::assert_snapshot!(render(&blame));
    }

    #[test]
    fn packages_list_files_through_links() {
        let lists: [(String, &[u8]); 2] = [
            ("m".to_owned(), b"/lib/m\n"),
            ("a".to_owned(), b"/usr/bin/a\n/usr/bin/hard\n"),
        ];
        let owners = super::super::installed::owners(lists);
        let blame = blame(
            &chain(),
            &By::Package {
                partition: 1,
                owners: &owners,
            },
            &Mounts::default(),
        );
        insta::assert_snapshot!(render(&blame));
        insta::assert_snapshot!(serde_json::to_string(&blame.stages[2]).unwrap());
    }

    #[test]
    fn nothing_is_lost_however_many_stages_there_are() {
        for length in 1..=3 {
            let chain = &chain()[..length];
            let sum: u64 = chain[length - 1].1.volumes[0]
                .entries
                .iter()
                .map(|entry| {
                    if let EntryKind::File { size, .. } = entry.kind {
                        size
                    } else {
                        0
                    }
                })
                .sum();
            let blame = blame(chain, &By::Directory(1), &Mounts::default());
            assert_eq!(
                (
                    blame.bytes,
                    blame.stages.iter().map(|stage| stage.bytes).sum::<u64>()
                ),
                (sum, sum)
            );
        }
    }
}
