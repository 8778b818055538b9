//! How partition tables, boot areas and file systems differ, by their usual names.
//!
//! Knows where boot loaders and partition tables lie; of the bytes there it reads only as many as tell which of them it is.

use serde::Serialize;

use super::{DiffChange, DiffField, Side, features, plain};
use crate::base::human;
use crate::disk::guest::SECTOR;
use crate::disk::guest::ext4::ReadError;
use crate::disk::tree::compare::Changes;
use crate::disk::tree::{Area, PartitionName, TableIdentity, Tree, TreePartition, Volume};

/// Largest area before the first partition that is taken apart, in bytes.
const TAKEN_APART: u64 = 16 << 20;
/// Bytes of boot code in a master boot record.
const BOOT_CODE: u64 = 440;
/// Sectors of a GPT with its usual 128 entries: header and entries. A copy lies at the end of the disk.
const GPT_SECTORS: u64 = 33;

/// Kinds of partition that hold no file system of Linux, with what they are.
const KINDS: &[(&str, &str)] = &[
    ("21686148-6449-6e6f-744e-656564454649", "BIOS boot loader"),
    (
        "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
        "EFI system partition",
    ),
    ("9e1a2d38-c612-4316-aa26-8b49521e5a8b", "PReP boot loader"),
    ("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "swap"),
    ("ef", "EFI system partition"),
    ("41", "PReP boot loader"),
    ("82", "swap"),
];

/// An area that is compared by its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AreaChange {
    pub what: String,
    /// The partition that it lies in; `null` outside partitions.
    pub partition: Option<u32>,
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
    /// `added`: it was all zero; `removed`: it is all zero now.
    pub change: DiffChange,
}

/// A file system in itself, without its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VolumeChange {
    /// Number of its partition; 0 is the disk itself.
    pub partition: u32,
    /// What it is: `ext4`, `vfat`, …
    pub kind: String,
    /// Whether it is there at all.
    pub change: DiffChange,
    /// What differs; all that it says of itself where it is new or gone.
    pub fields: Vec<DiffField>,
}

/// How the partition tables differ.
pub(super) fn table(before: &Tree, after: &Tree) -> Vec<DiffField> {
    let kind = |table: &TableIdentity| match table {
        TableIdentity::None => "none".to_owned(),
        TableIdentity::Gpt(guid) => format!("GPT {}", plain::name(guid.as_bytes())),
        TableIdentity::Mbr(signature) => format!("MBR {signature:08x}"),
    };
    let mut fields: Vec<_> = DiffField::changed("table", kind(&before.table), kind(&after.table))
        .into_iter()
        .collect();
    let of = |tree: &'_ Tree, number| {
        tree.partitions
            .iter()
            .find(|one| one.number == number)
            .cloned()
    };
    let mut numbers: Vec<_> = before
        .partitions
        .iter()
        .chain(&after.partitions)
        .map(|one| one.number)
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    for number in numbers {
        let what = format!("partition {number}");
        match (of(before, number), of(after, number)) {
            (Some(a), Some(b)) => fields.extend(partition(&what, &a, &b)),
            (a, b) => {
                let told = |one: Option<TreePartition>| one.map(|one| partition_text(&one));
                fields.push(DiffField {
                    what,
                    before: told(a),
                    after: told(b),
                });
            }
        }
    }
    fields
}

fn partition(what: &str, a: &TreePartition, b: &TreePartition) -> Vec<DiffField> {
    let TreePartition {
        number: _,
        start,
        size,
        kind,
        uuid,
        name,
    } = a;
    let field =
        |name: &str, a: String, b: String| DiffField::changed(format!("{what}: {name}"), a, b);
    let text = |text: &str| plain::name(text.as_bytes());
    let all = [
        field("start", start.to_string(), b.start.to_string()),
        field("size", bytes(*size), bytes(b.size)),
        field("type", kind_text(kind), kind_text(&b.kind)),
        field("UUID", text(uuid), text(&b.uuid)),
        field("name", quoted(name.as_bytes()), quoted(b.name.as_bytes())),
    ];
    all.into_iter().flatten().collect()
}

fn partition_text(one: &TreePartition) -> String {
    let name = if one.name.is_empty() {
        String::new()
    } else {
        format!(", name {}", quoted(one.name.as_bytes()))
    };
    let (kind, uuid) = (kind_text(&one.kind), plain::name(one.uuid.as_bytes()));
    format!(
        "{} at {}, type {kind}, UUID {uuid}{name}",
        bytes(one.size),
        one.start
    )
}

fn kind_text(kind: &str) -> String {
    match special(kind) {
        Some(name) => format!("{} ({name})", plain::name(kind.as_bytes())),
        None => plain::name(kind.as_bytes()),
    }
}

fn special(kind: &str) -> Option<&'static str> {
    KINDS
        .iter()
        .find(|(known, _)| *known == kind)
        .map(|(_, name)| *name)
}

/// Which areas differ. What lies before the first partition is taken apart.
pub(super) fn areas(
    before: &Side<'_>,
    after: &Side<'_>,
    changes: &Changes<'_>,
) -> Result<Vec<AreaChange>, ReadError> {
    let mut found = Vec::new();
    for (a, b) in &changes.areas {
        let Some(area) = b.or(*a) else { continue };
        let tree = if b.is_some() { after.tree } else { before.tree };
        let change = DiffChange::of(*a, *b);
        let Area {
            partition,
            start,
            size,
            ..
        } = *area;
        let same_place =
            a.is_none_or(|a| b.is_none_or(|b| a.size == b.size && a.partition == b.partition));
        let fits = size <= TAKEN_APART && size <= before.tree.size && size <= after.tree.size;
        if partition.is_none() && start == 0 && same_place && fits {
            take_apart(before, after, size, &mut found)?;
        } else {
            found.push(AreaChange {
                what: area_name(tree, area),
                partition,
                start,
                size,
                change,
            });
        }
    }
    Ok(found)
}

/// Which of the parts before the first partition differ.
fn take_apart(
    before: &Side<'_>,
    after: &Side<'_>,
    size: u64,
    found: &mut Vec<AreaChange>,
) -> Result<(), ReadError> {
    let length = size as usize;
    let (a, b) = (
        before.contents.range(0, length)?,
        after.contents.range(0, length)?,
    );
    let gpt = matches!(after.tree.table, TableIdentity::Gpt(_))
        || matches!(before.tree.table, TableIdentity::Gpt(_));
    let ends: &[(&str, u64)] = if gpt {
        &[
            ("boot code in the MBR", BOOT_CODE),
            ("table in the MBR", SECTOR),
            ("GPT", (1 + GPT_SECTORS) * SECTOR),
            ("gap before the first partition", u64::MAX),
        ]
    } else {
        &[
            ("boot code in the MBR", BOOT_CODE),
            ("table in the MBR", SECTOR),
            ("gap before the first partition", u64::MAX),
        ]
    };
    let mut start = 0;
    for (what, end) in ends {
        let end = (*end).min(size);
        let range = start as usize..end as usize;
        let (a, b) = (&a[range.clone()], &b[range]);
        if a != b {
            let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
            let change = DiffChange::of((!zero(a)).then_some(()), (!zero(b)).then_some(()));
            found.push(AreaChange {
                what: (*what).to_owned(),
                partition: None,
                start,
                size: end - start,
                change,
            });
        }
        start = end;
    }
    Ok(())
}

fn area_name(tree: &Tree, area: &Area) -> String {
    let Some(number) = area.partition else {
        let at_end = area.start.saturating_add(area.size) == tree.size;
        return match (&tree.table, at_end, area.start) {
            (_, _, 0) => "boot code, partition table and gap before the first partition",
            (TableIdentity::Gpt(_), true, _) => "backup of the GPT, and the gap before it",
            (_, true, _) => "gap after the last partition",
            _ => "gap between partitions",
        }
        .to_owned();
    };
    let place = PartitionName(number);
    let kind = tree
        .partitions
        .iter()
        .find(|one| one.number == number)
        .and_then(|one| special(&one.kind));
    match (tree.volume(number), kind) {
        (Some(volume), _) if volume.kind != "vfat" => {
            format!("boot block of the file system on {place}")
        }
        (_, Some(kind)) => format!("{kind}, {place}, byte by byte"),
        _ => format!("{place}, byte by byte"),
    }
}

/// How file systems differ.
pub(super) fn volumes(changes: &Changes<'_>) -> Vec<VolumeChange> {
    let describe = |(a, b): &(Option<&Volume>, Option<&Volume>)| {
        let volume = b.or(*a)?;
        let change = DiffChange::of(*a, *b);
        let mut fields = Vec::new();
        let shown = |of: fn(&Volume) -> String| (a.map(of), b.map(of));
        let mut field = |what: &str, (before, after): (Option<String>, Option<String>)| {
            if before != after {
                fields.push(DiffField {
                    what: what.to_owned(),
                    before,
                    after,
                });
            }
        };
        field("type", shown(|volume| plain::name(volume.kind.as_bytes())));
        field("UUID", shown(|volume| plain::name(volume.uuid.as_bytes())));
        field("label", shown(|volume| quoted(&volume.label)));
        fields.extend(facts(*a, *b));
        Some(VolumeChange {
            partition: volume.partition,
            kind: plain::name(volume.kind.as_bytes()),
            change,
            fields,
        })
    };
    changes.volumes.iter().filter_map(describe).collect()
}

fn facts(a: Option<&Volume>, b: Option<&Volume>) -> Vec<DiffField> {
    let of = |volume: Option<&Volume>, name: &str| {
        volume.and_then(|volume| {
            Some(
                volume
                    .facts
                    .iter()
                    .find(|(other, _)| other == name)?
                    .1
                    .clone(),
            )
        })
    };
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in [a, b]
        .into_iter()
        .flatten()
        .flat_map(|volume| &volume.facts)
    {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut fields = Vec::new();
    for name in names {
        let (before, after) = (of(a, name), of(b, name));
        if before == after {
            continue;
        }
        let bits = |value: &Option<String>| {
            value
                .as_ref()
                .and_then(|value| features::of_fact(name, value))
        };
        match (bits(&before), bits(&after)) {
            (None, None) => {
                let shown =
                    |value: Option<String>| value.map(|value| plain::name(value.as_bytes()));
                let what = plain::name(name.as_bytes());
                fields.push(DiffField {
                    what,
                    before: shown(before),
                    after: shown(after),
                });
            }
            (before, after) => {
                let what = before
                    .as_ref()
                    .or(after.as_ref())
                    .map_or("", |(what, _)| *what);
                let list =
                    |set: Option<(_, Vec<String>)>| set.map(|(_, names)| names).unwrap_or_default();
                let (before, after) = (list(before), list(after));
                let field = |before, after| DiffField {
                    what: what.to_owned(),
                    before,
                    after,
                };
                let gone = before.iter().filter(|name| !after.contains(name));
                fields.extend(gone.map(|name| field(Some(name.clone()), None)));
                let new = after.iter().filter(|name| !before.contains(name));
                fields.extend(new.map(|name| field(None, Some(name.clone()))));
            }
        }
    }
    fields
}

fn quoted(name: &[u8]) -> String {
    format!("\"{}\"", plain::name(name))
}

/// A size, and the exact number where rounding could hide something.
fn bytes(size: u64) -> String {
    if size < 1000 {
        human::bytes(size)
    } else {
        format!("{} ({size} B)", human::bytes(size))
    }
}
