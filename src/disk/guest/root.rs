//! Chooses the root file system of a disk.
//!
//! Knows tables and superblocks. Which of several partitions holds a shell it cannot know: that answer needs a mount,
//! so it is a list to probe.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{DiskLayout, FileSystem, FsKind, Partition, PartitionKind};

/// What the user said about the root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootSelector {
    #[default]
    Auto,
    /// The partition of this number.
    Number(u32),
    /// The file system with this label.
    Label(String),
    /// The file system with this UUID.
    Uuid(String),
}

impl fmt::Display for RootSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Label(label) => write!(f, "LABEL={label}"),
            Self::Uuid(uuid) => write!(f, "UUID={uuid}"),
        }
    }
}

/// Where the root is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootChoice {
    /// The disk itself, without partitions.
    Whole,
    Partition(u32),
    /// The only one of these partitions that holds `/bin/sh`.
    Probe(Vec<u32>),
}

/// Why no root can be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// No partition or file system fits what the user said.
    #[error("no file system matches root = {spec}; the disk has {}", list(.candidates))]
    NotFound {
        /// What was asked for.
        spec: RootSelector,
        candidates: Vec<String>,
    },
    #[error("several file systems match root = {spec}: {}", list(.candidates))]
    Ambiguous {
        /// What was asked for.
        spec: RootSelector,
        candidates: Vec<String>,
    },
    /// The root lies in a container that is not opened here.
    #[error("{what} is a {kind}, which cannot be used as a root")]
    Container {
        /// The partition or disk.
        what: String,
        kind: FsKind,
    },
    /// Nothing that can be mounted.
    #[error("the disk has no file system that can be the root; it has {}", list(.candidates))]
    Nothing { candidates: Vec<String> },
}

fn list(candidates: &[String]) -> String {
    if candidates.is_empty() {
        "no partitions".to_owned()
    } else {
        candidates.join(", ")
    }
}

/// Root types of the Discoverable Partitions Specification.
const ROOT_TYPE: &str = if cfg!(target_arch = "x86_64") {
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
} else if cfg!(target_arch = "aarch64") {
    "b921b045-1df0-41c3-af44-4c6f280d3fae"
} else {
    ""
};

/// Chooses by what the user said; else the GPT root type, a bare file system, the only partition with `/bin/sh`.
pub fn choose_root(layout: &DiskLayout, spec: &RootSelector) -> Result<RootChoice, RootError> {
    match spec {
        RootSelector::Auto => automatic(layout),
        RootSelector::Number(number) => named(layout, spec, |partition, _| {
            partition.is_some_and(|p| p.number == *number)
        }),
        RootSelector::Label(label) => named(layout, spec, |_, fs| {
            fs.is_some_and(|fs| fs.label.as_ref() == Some(label))
        }),
        RootSelector::Uuid(uuid) => named(layout, spec, |_, fs| {
            fs.and_then(|fs| fs.uuid.as_ref())
                .is_some_and(|found| found.eq_ignore_ascii_case(uuid))
        }),
    }
}

fn named(
    layout: &DiskLayout,
    spec: &RootSelector,
    fits: impl Fn(Option<&Partition>, Option<&FileSystem>) -> bool,
) -> Result<RootChoice, RootError> {
    if layout.bare.is_some() && fits(None, layout.bare.as_ref()) {
        return usable("the disk", layout.bare.as_ref(), RootChoice::Whole, layout);
    }
    let found: Vec<&Partition> = layout
        .partitions
        .iter()
        .filter(|p| fits(Some(p), p.fs.as_ref()))
        .collect();
    match found.as_slice() {
        [] => Err(RootError::NotFound {
            spec: spec.clone(),
            candidates: candidates(layout),
        }),
        [one] => {
            let what = format!("partition {}", one.number);
            usable(
                &what,
                one.fs.as_ref(),
                RootChoice::Partition(one.number),
                layout,
            )
        }
        several => Err(RootError::Ambiguous {
            spec: spec.clone(),
            candidates: several
                .iter()
                .map(|partition| describe(partition))
                .collect(),
        }),
    }
}

fn automatic(layout: &DiskLayout) -> Result<RootChoice, RootError> {
    if let Some(bare) = &layout.bare {
        return usable("the disk", Some(bare), RootChoice::Whole, layout);
    }
    let typed = |p: &&Partition| matches!(&p.kind, PartitionKind::Guid(guid) if guid == ROOT_TYPE);
    let typed: Vec<&Partition> = layout.partitions.iter().filter(typed).collect();
    if let [one] = typed.as_slice() {
        let what = format!("partition {}", one.number);
        return usable(
            &what,
            one.fs.as_ref(),
            RootChoice::Partition(one.number),
            layout,
        );
    }
    // Several of the root type: those are the ones to look into, not the rest of the disk.
    let pool: Vec<&Partition> = if typed.is_empty() {
        layout.partitions.iter().collect()
    } else {
        typed
    };
    let mountable: Vec<u32> = pool
        .iter()
        .filter(|p| {
            p.fs.as_ref()
                .is_some_and(|fs| fs.kind.mount_type().is_some())
        })
        .map(|p| p.number)
        .collect();
    if !mountable.is_empty() {
        return Ok(RootChoice::Probe(mountable));
    }
    for partition in pool {
        if let Some(fs) = partition.fs.as_ref().filter(|fs| fs.kind.is_container()) {
            return Err(RootError::Container {
                what: format!("partition {}", partition.number),
                kind: fs.kind,
            });
        }
    }
    Err(RootError::Nothing {
        candidates: candidates(layout),
    })
}

fn usable(
    what: &str,
    fs: Option<&FileSystem>,
    choice: RootChoice,
    layout: &DiskLayout,
) -> Result<RootChoice, RootError> {
    match fs {
        Some(fs) if fs.kind.is_container() => Err(RootError::Container {
            what: what.to_owned(),
            kind: fs.kind,
        }),
        Some(fs) if fs.kind.mount_type().is_some() => Ok(choice),
        _ => Err(RootError::Nothing {
            candidates: candidates(layout),
        }),
    }
}

fn candidates(layout: &DiskLayout) -> Vec<String> {
    let bare = layout
        .bare
        .iter()
        .map(|fs| format!("the disk itself ({})", describe_fs(fs)));
    bare.chain(layout.partitions.iter().map(describe)).collect()
}

fn describe(partition: &Partition) -> String {
    match &partition.fs {
        Some(fs) => format!("{} ({})", partition.number, describe_fs(fs)),
        None => format!("{} (nothing known)", partition.number),
    }
}

fn describe_fs(fs: &FileSystem) -> String {
    let mut text = fs.kind.to_string();
    if let Some(label) = &fs.label {
        text.push_str(&format!(" LABEL={}", label.escape_debug()));
    }
    if let Some(uuid) = &fs.uuid {
        text.push_str(&format!(" UUID={}", uuid.escape_debug()));
    }
    text
}
