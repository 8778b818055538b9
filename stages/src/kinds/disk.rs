//! `disk`: a bootable disk out of a tree.
//! Knows parameters and what they may be; the assembly knows how the disk is made.

use crate::action::{Executor, SandboxRoot, Slot, Step};
use crate::disk::{
    DiskSpec, DiskTable, ExtraFileSystem, MIB, MIN_EFI_SIZE, MIN_ROOT_SIZE, Networking,
    PartitionSpec, RootFileSystem,
};
use crate::error::ParamError;
use crate::kinds::common::{self, size};
use crate::kinds::machine::{USER, check_host_name, check_kernel_argument, check_uids, text, user};
use crate::params::Params;
use crate::registry::{Kind, Lowered, Makes, ParamSpec, StageContext, Type};
use crate::value::Value;

pub(crate) const KIND: Kind = Kind {
    name: "disk",
    version: 1,
    summary: "makes a bootable disk from a tree: partitions, file systems, boot loaders, users, network",
    example: r#"stage "disk" "base" {
  tree      = stage.root
  size      = "8GiB"
  hostname  = "debian"
  users     = {
    admin = { ssh_keys = [file("admin.pub")], sudo = true }
  }
}"#,
    makes: Makes::Disk,
    files: &[],
    params: &[PARAMS, common::CUTOFF, common::SANDBOX_AND_TIMEOUT],
    lower,
    expand: None,
};

/// The input's name in the Action.
const TREE: &str = "tree";

const PARAMS: &[ParamSpec] = &[
    ParamSpec::required(
        "tree",
        Type::File,
        "The files of the root file system: a `bootstrap` stage or a tar file.",
    ),
    ParamSpec::required(
        "size",
        Type::Text,
        "Size of the disk, such as \"8GiB\", in whole MiB, GiB or TiB.",
    ),
    ParamSpec::optional(
        "table",
        Type::OneOf(&["gpt", "none"]),
        "\"gpt\": a GUID partition table. \"none\": no partitions; the root file system is the whole disk, which has no boot \
         loader: for ramdisks, and for what is booted with a kernel from elsewhere. Default: \"gpt\".",
    ),
    ParamSpec::optional(
        "bootloader",
        Type::List(&Type::OneOf(&["bios", "efi"])),
        "The firmware that can boot it. An empty list makes a disk that does not boot. Default: [\"bios\", \"efi\"], and \
         [] without partition table.",
    ),
    ParamSpec::optional(
        "seed",
        Type::Text,
        "The seed of every GUID and UUID of the disk. Disks attached to the same machine need different ones. Default: \
         derived from `hostname`.",
    ),
    ParamSpec::optional(
        "file_system",
        Type::OneOf(&["ext4", "xfs", "btrfs"]),
        "The root's file system. Only ext4 is supported so far. Default: \"ext4\".",
    ),
    ParamSpec::optional(
        "label",
        Type::Text,
        "Label of the root file system. Default: \"root\".",
    ),
    ParamSpec::optional(
        "efi_size",
        Type::Text,
        "Size of the EFI system partition. Default: \"64MiB\".",
    ),
    ParamSpec::optional(
        "partitions",
        Type::List(&Type::Object(PARTITION)),
        "Further partitions, numbered after those of the boot loaders and before the root. One may omit its `size` where \
         `root_size` is set. Files of the tree under a mount point go into its partition, if that is an ext4.",
    ),
    ParamSpec::optional(
        "root_size",
        Type::Text,
        "Size of the root partition, where a further partition takes the rest of the disk. Default: the rest.",
    ),
    ParamSpec::optional(
        "hostname",
        Type::Text,
        "The image's host name. Default: \"debian\".",
    )
    .once_called("host_name"),
    ParamSpec::optional(
        "users",
        Type::Map(&Type::Object(USER)),
        "Users by name. None of them may be in the tree already, except `root`, whose keys and password can be set.",
    ),
    ParamSpec::optional(
        "networking",
        Type::OneOf(&["dhcp", "none"]),
        "\"dhcp\": every Ethernet interface is configured by DHCP. \"none\": the tree is left as it is. Default: \
         \"dhcp\".",
    ),
    ParamSpec::optional(
        "console",
        Type::Bool,
        "Whether boot loader, kernel and login also use the first serial port, at 115200 baud. Default: true.",
    ),
    ParamSpec::optional(
        "kernel_arguments",
        Type::List(&Type::Text),
        "Further kernel arguments, one per element.",
    ),
    ParamSpec::optional(
        "growpart",
        Type::Bool,
        "Whether the partition that takes the rest of the disk grows at boot to fill a larger one: the root, if \
         `root_size` is not set. Default: true.",
    ),
];

const PARTITION: &[ParamSpec] = &[
    ParamSpec::required("name", Type::Text, "Its name in the partition table."),
    ParamSpec::optional(
        "size",
        Type::Text,
        "Its size, such as \"512MiB\". Default, for one partition at most: what the others leave of the disk. It then \
         lies behind them, and grows at boot.",
    ),
    ParamSpec::optional(
        "file_system",
        Type::OneOf(&["ext4", "vfat", "swap", "xfs", "btrfs", "none"]),
        "Its file system. That of \"xfs\" and \"btrfs\" is empty, and compared by its bytes. Default: \"ext4\".",
    ),
    ParamSpec::optional(
        "mount",
        Type::Text,
        "Where the image mounts it. Default: nowhere; swap is always used.",
    ),
    ParamSpec::optional(
        "label",
        Type::Text,
        "Label of its file system. Default: none.",
    ),
];

/// What boots the image, and what it makes while it runs.
const NOT_APART: &[&str] = &[
    "/boot", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/dev",
    "/proc", "/sys", "/run",
];

fn lower(params: &Params, context: &StageContext) -> Result<Lowered, Vec<ParamError>> {
    let mut errors = Vec::new();
    let (mut action, secrets) =
        common::sandboxed(KIND.name, KIND.version, params, context, &mut errors);
    action.executor = Executor::Sandbox(SandboxRoot::Toolbox);
    action.toolbox = Some(Slot::Toolbox);
    common::demand_epoch(context, &mut errors);
    action.inputs.extend(
        params
            .get(TREE)
            .and_then(common::file_slot)
            .map(|slot| (TREE.to_owned(), slot)),
    );
    let spec = spec(params, &mut errors);
    if errors.is_empty()
        && let Err(overfull) = spec.layout()
    {
        let help = format!(
            "make `size` at least \"{}MiB\", and more for the tree",
            overfull.needed / MIB
        );
        errors.push(ParamError::new("size", overfull.to_string()).help(help));
    }
    action.steps.push(Step::AssembleDisk {
        input: TREE.to_owned(),
        spec: Box::new(spec),
    });
    if errors.is_empty() {
        Ok(Lowered {
            actions: vec![action],
            secrets,
            request: None,
        })
    } else {
        Err(errors)
    }
}

fn spec(params: &Params, errors: &mut Vec<ParamError>) -> DiskSpec {
    let on = |name| params.get(name).is_none() || params.flag(name);
    let table = match params.text("table") {
        Some("none") => DiskTable::None,
        _ => DiskTable::Gpt,
    };
    let boots = |name: &str| {
        (params.get("bootloader").is_none() && table == DiskTable::Gpt)
            || params
                .texts("bootloader")
                .iter()
                .any(|loader| loader == name)
    };
    let host_name = params.text("hostname").unwrap_or("debian").to_owned();
    check_host_name(&host_name, errors);
    let seed = match params.text("seed") {
        Some("") => {
            errors.push(
                ParamError::new("seed", "the seed is empty").help("omit it, or use any string"),
            );
            String::new()
        }
        Some(seed) => seed.to_owned(),
        None => format!("impasto disk of {host_name}"),
    };
    if let Some(other @ ("xfs" | "btrfs")) = params.text("file_system") {
        let error = ParamError::new(
            "file_system",
            format!("a root of {other} is not supported yet"),
        );
        errors.push(error.help("use \"ext4\", or omit `file_system`"));
    }
    let label = params.text("label").unwrap_or("root").to_owned();
    check_label(
        "label",
        "`label`",
        &label,
        Some(ExtraFileSystem::Ext4),
        errors,
    );
    let (bios, efi) = (boots("bios"), boots("efi"));
    let efi_size = match params.text("efi_size") {
        Some(text) => size("efi_size", "`efi_size`", text, errors),
        None => 64 * MIB,
    };
    if efi && efi_size != 0 && !(MIN_EFI_SIZE..=32 << 30).contains(&efi_size) {
        let error = ParamError::new(
            "efi_size",
            format!("an EFI system partition of {} MiB", efi_size / MIB),
        );
        errors.push(error.help("use \"16MiB\" to \"32GiB\"; 64MiB is enough for most"));
    }
    if table == DiskTable::None {
        check_bare(params, errors);
    }
    let kernel_arguments = params.texts("kernel_arguments");
    for argument in &kernel_arguments {
        check_kernel_argument(argument, errors);
    }
    let users = params
        .pairs("users")
        .map(|(name, value)| (name.clone(), user(name, value, errors)))
        .collect();
    let spec = DiskSpec {
        size: params
            .text("size")
            .map_or(0, |text| size("size", "`size`", text, errors)),
        table,
        bios,
        efi,
        seed,
        file_system: RootFileSystem::Ext4,
        label,
        efi_size,
        partitions: partitions(params, errors),
        root_size: root_size(params, errors),
        host_name,
        users,
        networking: if params.text("networking") == Some("none") {
            Networking::None
        } else {
            Networking::Dhcp
        },
        console: on("console"),
        kernel_arguments,
        growpart: on("growpart"),
    };
    check_uids(&spec.users, errors);
    spec
}

/// What only a disk with partitions can have.
fn check_bare(params: &Params, errors: &mut Vec<ParamError>) {
    for (name, what) in [
        ("bootloader", "a boot loader"),
        ("partitions", "further partitions"),
    ] {
        if !params.list(name).is_empty() {
            let error = ParamError::new(
                name,
                format!("a disk without partition table cannot have {what}"),
            );
            errors.push(error.help(format!("remove `{name}`, or `table = \"none\"`")));
        }
    }
    if params.get("root_size").is_some() {
        let error = ParamError::new(
            "root_size",
            "the root is all of a disk without partition table",
        );
        errors.push(error.help("remove `root_size`, or `table = \"none\"`"));
    }
    for name in ["efi_size", "kernel_arguments"] {
        if params.get(name).is_some() {
            let error = ParamError::new(name, "a disk without partition table does not boot");
            errors.push(error.help(format!("remove `{name}`, or `table = \"none\"`")));
        }
    }
}

/// What is wrong with the place where a further partition is to be mounted, and the hint. `mounts` are the others'.
fn wrong_mount(
    mount: &str,
    is_absolute: bool,
    file_system: Option<ExtraFileSystem>,
    mounts: &[String],
) -> Option<(String, &'static str)> {
    if matches!(file_system, None | Some(ExtraFileSystem::Swap)) {
        return Some((
            "it has no file system that could be mounted".to_owned(),
            "omit `mount`",
        ));
    }
    let unplain = |c: char| c.is_whitespace() || c.is_control() || "\\#\"".contains(c);
    let odd = |part: &str| part.is_empty() || part == "." || part == "..";
    if !is_absolute || mount.split('/').skip(1).any(odd) || mount.chars().any(unplain) {
        return Some((
            format!("{mount:?} is not a valid mount point"),
            "use a plain absolute path, such as \"/srv\"",
        ));
    }
    if let Some(own) = NOT_APART
        .iter()
        .find(|own| mount == **own || mount.starts_with(&format!("{own}/")))
    {
        let message = format!("{own} cannot be separate from the root: {mount:?}");
        return Some((message, "mount it elsewhere, such as at \"/srv\""));
    }
    let taken = mounts.iter().any(|other| other == mount);
    taken.then(|| {
        (
            format!("something else is mounted at {mount:?}"),
            "use another path",
        )
    })
}

/// The size of a root that does not take what is left.
fn root_size(params: &Params, errors: &mut Vec<ParamError>) -> Option<u64> {
    let bytes = size(
        "root_size",
        "`root_size`",
        params.text("root_size")?,
        errors,
    );
    let growing = |value: &Value| text(value, "size").is_none();
    let error = if !params.list("partitions").iter().any(growing) {
        ParamError::new(
            "root_size",
            "nothing takes what the root leaves of the disk",
        )
        .help("omit `root_size`, or the `size` of the partition that is to have the rest")
    } else if bytes != 0 && bytes < MIN_ROOT_SIZE {
        ParamError::new("root_size", format!("a root of {} MiB", bytes / MIB))
            .help(format!("use at least \"{}MiB\"", MIN_ROOT_SIZE / MIB))
    } else {
        return Some(bytes);
    };
    errors.push(error);
    None
}

/// What is wrong with a partition that has no size, and the hint. `grows` is whether something else takes what is left.
fn wrong_growth(
    value: &Value,
    file_system: Option<ExtraFileSystem>,
    grows: Option<&str>,
) -> Option<(String, &'static str)> {
    if let Some(other) = grows {
        return Some((
            format!("it has no `size`, and {other} takes the rest of the disk"),
            match other {
                "the root" => "set its `size`, or that of the root: `root_size`",
                _ => "set its `size`",
            },
        ));
    }
    if text(value, "mount").is_none() || !file_system.is_some_and(ExtraFileSystem::grows) {
        return Some((
            "it takes the rest of the disk, and could not grow with it".to_owned(),
            "set its `size`, or give it a `mount` and the file system \"ext4\", \"xfs\" or \"btrfs\"",
        ));
    }
    None
}

fn partitions(params: &Params, errors: &mut Vec<ParamError>) -> Vec<PartitionSpec> {
    // What takes the rest of the disk, once that is known.
    let mut grows = params
        .get("root_size")
        .is_none()
        .then(|| "the root".to_owned());
    let mut seen = vec!["bios".to_owned(), "esp".to_owned(), "root".to_owned()];
    let mut mounts: Vec<String> = Vec::new();
    let mut made = Vec::new();
    for (index, value) in params.list("partitions").iter().enumerate() {
        let place = format!("partitions[{index}]");
        let mut wrong = |message: String, help: &str| {
            errors.push(ParamError::new("partitions", format!("{place}: {message}")).help(help));
        };
        let name = text(value, "name").unwrap_or_default().to_owned();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 36 || !name.chars().all(plain) {
            wrong(
                format!("{name:?} is not a valid name for a partition"),
                "use up to 36 letters, digits, `-`, `_` and `.`",
            );
        } else if seen.contains(&name) {
            wrong(
                format!("there is another partition named {name:?}"),
                "give each partition its own name",
            );
        }
        seen.push(name.clone());
        let file_system = match text(value, "file_system") {
            Some("none") => None,
            Some("swap") => Some(ExtraFileSystem::Swap),
            Some("vfat") => Some(ExtraFileSystem::Vfat),
            Some("xfs") => Some(ExtraFileSystem::Xfs),
            Some("btrfs") => Some(ExtraFileSystem::Btrfs),
            _ => Some(ExtraFileSystem::Ext4),
        };
        let mount = text(value, "mount").map(|path| format!("/{}", path.trim_matches('/')));
        if let Some(mount) = &mount {
            let is_absolute = text(value, "mount").is_some_and(|path| path.starts_with('/'));
            if let Some((message, help)) = wrong_mount(mount, is_absolute, file_system, &mounts) {
                wrong(message, help);
            }
            mounts.push(mount.clone());
        }
        let label = text(value, "label").map(str::to_owned);
        if let Some(label) = &label {
            check_label(
                "partitions",
                &format!("{place}.label"),
                label,
                file_system,
                errors,
            );
        }
        let bytes = text(value, "size")
            .map(|text| size("partitions", &format!("{place}.size"), text, errors));
        let least = file_system.map_or(MIB, ExtraFileSystem::smallest);
        let mut wrong = |message: String, help: &str| {
            errors.push(ParamError::new("partitions", format!("{place}: {message}")).help(help));
        };
        match bytes {
            None => {
                if let Some((message, help)) = wrong_growth(value, file_system, grows.as_deref()) {
                    wrong(message, help);
                }
                grows.get_or_insert_with(|| format!("{name:?}"));
            }
            Some(bytes) if bytes != 0 && bytes < least => wrong(
                format!("{} MiB is too small", bytes / MIB),
                &format!("use at least \"{}MiB\"", least / MIB),
            ),
            Some(_) => {}
        }
        made.push(PartitionSpec {
            name,
            size: bytes,
            file_system,
            mount,
            label,
        });
    }
    made
}

fn check_label(
    param: &'static str,
    place: &str,
    label: &str,
    fs: Option<ExtraFileSystem>,
    errors: &mut Vec<ParamError>,
) {
    let (most, what) = match fs {
        Some(ExtraFileSystem::Ext4) => (16, "ext4"),
        Some(ExtraFileSystem::Vfat) => (11, "FAT"),
        Some(ExtraFileSystem::Swap) => (16, "swap"),
        Some(ExtraFileSystem::Xfs) => (12, "xfs"),
        Some(ExtraFileSystem::Btrfs) => (255, "btrfs"),
        None => (0, "a partition without file system"),
    };
    let lower = fs == Some(ExtraFileSystem::Vfat) && label.chars().any(|c| c.is_ascii_lowercase());
    let plain = label
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if label.is_empty() || label.len() > most || !plain || lower {
        let error = ParamError::new(
            param,
            format!("{place}: {label:?} is not a valid label for {what}"),
        );
        errors.push(error.help(match fs {
            None => "omit the label".to_owned(),
            Some(ExtraFileSystem::Vfat) => {
                "use up to 11 capital letters, digits, `-`, `_` and `.`".to_owned()
            }
            Some(_) => format!("use up to {most} letters, digits, `-`, `_` and `.`"),
        }));
    }
}

#[cfg(test)]
mod tests;
