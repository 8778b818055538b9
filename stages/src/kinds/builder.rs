//! A root that is not the image: locked packages, a disk of them, and steps on it of which only files are kept.
//! Knows units of work, not what is built; `build` and `kernel_module` use it.

use std::collections::BTreeMap;

use crate::action::{ActionTemplate, Executor, SandboxRoot, Slot, Step};
use crate::bootstrap::BootstrapSpec;
use crate::disk::{DiskSpec, DiskTable, MIB, Networking, RootFileSystem};
use crate::error::ParamError;
use crate::package_set::{ARCHITECTURE, PackageSet};

/// The units' places: what comes after them works on the disk.
const ROOT_UNIT: usize = 0;
const DISK_UNIT: usize = 1;

/// How the disk's unit calls the root.
const TREE: &str = "tree";

/// Size of the disk in bytes, of which only what is used takes space.
const SIZE: u64 = 16 << 30;

/// The kinds, with their versions, that the keys of the two units name.
#[derive(Clone, Copy)]
pub(crate) struct BuilderKinds {
    pub(crate) root: (&'static str, u32),
    pub(crate) disk: (&'static str, u32),
}

/// The units that make a root out of packages, and a disk of it. Limits and the like are those of `common`.
pub(crate) fn units(
    names: BuilderKinds,
    common: &ActionTemplate,
    root: BootstrapSpec,
    disk: DiskSpec,
) -> [ActionTemplate; 2] {
    let with_tools = |(kind, version), step| {
        let mut action =
            ActionTemplate::new(kind, version, Executor::Sandbox(SandboxRoot::Toolbox));
        action.source_date_epoch = common.source_date_epoch;
        action.toolbox = Some(Slot::Toolbox);
        action.sandbox = common.sandbox;
        action.hints.timeout = common.hints.timeout;
        action.hints.limits = common.hints.limits;
        action.steps.push(step);
        action
    };
    let spec = Box::new(root);
    let mut root = with_tools(names.root, Step::Bootstrap { spec });
    root.packages = Some(PackageSet::default());
    let (input, spec) = (TREE.to_owned(), Box::new(disk));
    let mut disk = with_tools(names.disk, Step::AssembleDisk { input, spec });
    let tree = Slot::Unit {
        unit: ROOT_UNIT,
        file: None,
    };
    disk.inputs.insert(TREE.to_owned(), tree);
    [root, disk]
}

/// The disk that [`units`] make, for the units after them.
pub(crate) fn disk_slot() -> Slot {
    Slot::Unit {
        unit: DISK_UNIT,
        file: None,
    }
}

/// Makes an Action one that works on this disk and keeps only files.
pub(crate) fn keep_files_only(action: &mut ActionTemplate, disk: Option<Slot>) {
    action.executor = Executor::Sandbox(SandboxRoot::Scratch);
    action.parent = disk;
    action.volatile = Vec::new();
}

/// A root of these packages and the essential ones, for the machine that impasto runs on. `suite` and `components` are
/// empty where the lock alone says what they are.
pub(crate) fn root(packages: Vec<String>) -> BootstrapSpec {
    BootstrapSpec {
        distribution: "debian".to_owned(),
        // Exact files are installed, so it names nothing.
        suite: String::new(),
        components: vec!["main".to_owned()],
        architecture: ARCHITECTURE.to_owned(),
        variant: "essential".to_owned(),
        packages,
        recommends: false,
        // Nothing is installed into it later.
        sources: Some(Vec::new()),
    }
}

/// A disk that nothing boots. Its identifiers come of `seed`.
pub(crate) fn disk(seed: &str) -> DiskSpec {
    DiskSpec {
        table: DiskTable::Gpt,
        size: SIZE,
        bios: false,
        efi: false,
        seed: seed.to_owned(),
        file_system: RootFileSystem::Ext4,
        label: "builder".to_owned(),
        efi_size: 64 * MIB,
        partitions: Vec::new(),
        root_size: None,
        host_name: "builder".to_owned(),
        users: BTreeMap::new(),
        networking: Networking::None,
        console: false,
        kernel_arguments: Vec::new(),
        growpart: false,
    }
}

/// Checks the name of a cache in the store.
pub(crate) fn check_cache(param: &'static str, name: &str) -> Result<(), ParamError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+~".contains(c);
    if !name.is_empty() && !name.starts_with(['-', '.']) && name.chars().all(plain) {
        return Ok(());
    }
    Err(
        ParamError::new(param, format!("{name:?} is not a valid name for a cache"))
            .help("use letters, digits, `-`, `_` and `.`"),
    )
}
