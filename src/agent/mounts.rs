//! Makes the guest's world: its root as `/`, its other file systems, and the kernel's own in their places.
//!
//! Knows mounts and mount points, not what runs there. Everything that it adds to the image to mount on is remembered,
//! with the times it changes, to be undone.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_bind, mount_change, mount_remount, move_mount, open_tree,
};
use rustix::process::{chdir, pivot_root, umask};

use crate::base::bounded;
use crate::kernel;
use crate::nodes;
use crate::placement;
use crate::protocol::{CACHES, DiskNode, Problem, ProblemKind, ROOT, RUN_DIR, Setup};
use crate::sys;

/// Symbolic links followed to find where a file would be.
const MAX_LINKS: usize = 16;

/// The guest, mounted; the agent's own root is the guest's.
pub(crate) struct GuestMounts {
    pub(crate) setup: Setup,
    /// The root's own directory, open from the beginning: an error in writing back is told to those who were there
    /// before it.
    pub(crate) directory: File,
    /// What must be undone, in order; the root's mount is not among it.
    pub(crate) undo_log: Vec<UndoStep>,
    root: u32,
}

/// Something done that must be undone.
pub(crate) enum UndoStep {
    /// A file system of the disk was mounted.
    Mounted { number: u32, path: PathBuf },
    /// Something was added to the image.
    Made(CreatedPath),
}

/// Something added to the image that must not stay.
pub(crate) struct CreatedPath {
    pub(crate) path: PathBuf,
    pub(crate) directory: bool,
    /// Modification time of the directory that holds it, before and after.
    pub(crate) parent_before: (i64, i64),
    pub(crate) parent_after: (i64, i64),
}

pub(crate) fn io_problem(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Problem {
    move |error| Problem::io(what, path.to_string_lossy(), &error)
}

pub(crate) fn mount_at(
    source: &str,
    target: &Path,
    kind: &str,
    flags: MountFlags,
    data: &str,
) -> Result<(), Problem> {
    let data = std::ffi::CString::new(data)
        .map_err(|_| Problem::new(ProblemKind::Protocol, "a mount option contains NUL"))?;
    mount(source, target, kind, flags, Some(data.as_c_str())).map_err(|e| {
        Problem::io(
            "mount",
            format!("{source} ({kind}) at {}", target.display()),
            &e.into(),
        )
    })
}

impl GuestMounts {
    /// Builds it. On an error nothing needs to be undone: the namespace ends with the agent, and nothing was written.
    pub(crate) fn make(setup: Setup) -> Result<Self, Problem> {
        sys::unshare_own().map_err(|e| Problem::io("create", "namespaces", &e))?;
        mount_change(
            "/",
            MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
        )
        .map_err(|e| Problem::io("make private", "/", &e.into()))?;
        rustix::system::sethostname(setup.host_name.as_bytes())
            .map_err(|e| Problem::io("set", "the host name", &e.into()))?;
        if let Some(cpus) = setup.cpus {
            limit_cpus(cpus).map_err(|e| Problem::io("set", "the number of CPUs", &e.into()))?;
        }
        umask(Mode::empty());
        let trees = open_trees(&setup.trees)?;
        let caches = open_trees(&setup.caches)?;
        let settings = placement::MountSettings::open();
        enter_scaffold(&setup.disk)?;
        let root = choose_root(&setup)?;
        let disk = Path::new("/disk");
        mount_disk(root, disk, false)?;
        enter(disk)?;
        let directory = bounded::open_directory("/").map_err(io_problem("open", Path::new("/")))?;
        let mut guest_mounts = Self {
            root: root.number,
            directory,
            undo_log: Vec::new(),
            setup: setup.clone(),
        };
        for path in kernel::MOUNT_POINTS.map(Path::new) {
            guest_mounts.make_dir(path)?;
        }
        kernel::mount_all(&guest_mounts.setup)?;
        guest_mounts.mount_fstab()?;
        let mounted = guest_mounts.mounted();
        setup
            .disk
            .iter()
            .filter(|node| mounted.contains(&node.number))
            .for_each(|node| settings.apply(node.device));
        for (path, content) in &setup.overlays {
            guest_mounts.overlay(Path::new(path), content)?;
        }
        for (path, mode, content) in &setup.policy {
            let path = below_run(path)?;
            fs::write(&path, content).map_err(io_problem("write", &path))?;
            chmod(&path, *mode)?;
        }
        for ((path, _), tree) in setup.trees.iter().zip(trees) {
            show_tree(&tree, &below_run(path)?, MountFlags::RDONLY)?;
        }
        for ((name, _), cache) in setup.caches.iter().zip(caches) {
            show_tree(
                &cache,
                &below_run(&format!("{CACHES}/{name}"))?,
                MountFlags::empty(),
            )?;
        }
        umask(Mode::WGRP | Mode::WOTH);
        Ok(guest_mounts)
    }

    /// Number of the root's node.
    pub(crate) fn root(&self) -> u32 {
        self.root
    }

    /// Where a node is mounted.
    pub(crate) fn mount_point(&self, number: u32) -> Option<&Path> {
        if number == self.root {
            return Some(Path::new("/"));
        }
        self.undo_log.iter().find_map(|trace| match trace {
            UndoStep::Mounted {
                number: mounted,
                path,
            } if *mounted == number => Some(path.as_path()),
            _ => None,
        })
    }

    /// Where the file systems of the disk are mounted, the root first.
    pub(crate) fn mount_points(&self) -> impl Iterator<Item = &Path> {
        let others = self.undo_log.iter().filter_map(|trace| match trace {
            UndoStep::Mounted { path, .. } => Some(path.as_path()),
            UndoStep::Made(_) => None,
        });
        std::iter::once(Path::new("/")).chain(others)
    }

    /// Numbers of all nodes that are mounted.
    pub(crate) fn mounted(&self) -> Vec<u32> {
        let others = self.undo_log.iter().filter_map(|trace| match trace {
            UndoStep::Mounted { number, .. } => Some(*number),
            UndoStep::Made(_) => None,
        });
        std::iter::once(self.root).chain(others).collect()
    }

    /// File systems of the image's own disk that its fstab names.
    fn mount_fstab(&mut self) -> Result<(), Problem> {
        let path = Path::new("/etc/fstab");
        let text = match bounded::read(path, bounded::TEXT) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_problem("read", path)(error)),
        };
        for line in String::from_utf8_lossy(&text).lines() {
            let mut fields = line.split_whitespace();
            let (Some(source), Some(target), Some(kind)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let options = fields.next().unwrap_or_default();
            let waits = options.split(',').any(|option| option == "noauto");
            if source.starts_with('#')
                || target == "/"
                || !target.starts_with('/')
                || kind == "swap"
                || waits
            {
                continue;
            }
            let Some(node) = find(&self.setup.disk, source).cloned() else {
                self.demand_no_container(source, target)?;
                continue;
            };
            if self.mounted().contains(&node.number) {
                continue;
            }
            if node.mount_type.is_none() {
                // The ESP is edited as bytes, never mounted. Anything else would leave a hole where files belong.
                if node.describe == "vfat" {
                    continue;
                }
                let what = format!(
                    "fstab mounts {source} at {target}: cannot use a {}",
                    node.describe
                );
                return Err(Problem::new(ProblemKind::NoRoot, what));
            }
            let target = PathBuf::from(unescape(target));
            self.make_dir(&target)?;
            mount_disk(&node, &target, false)?;
            self.undo_log.push(UndoStep::Mounted {
                number: node.number,
                path: target,
            });
        }
        Ok(())
    }

    /// What fstab names and the disk does not show may lie in a container; without it files would go to the wrong place.
    fn demand_no_container(&self, source: &str, target: &str) -> Result<(), Problem> {
        let container = self.setup.disk.iter().find(|node| node.is_container);
        let Some(node) = container else { return Ok(()) };
        let (number, describe) = (node.number, &node.describe);
        let what = format!(
            "fstab mounts {source} at {target}, and partition {number} is a {describe}: cannot use that"
        );
        Err(Problem::new(ProblemKind::NoRoot, what))
    }

    /// Lays a file of the host over the image's; the image's own stays as it is.
    fn overlay(&mut self, path: &Path, content: &[u8]) -> Result<(), Problem> {
        let name = path.file_name().unwrap_or(path.as_os_str());
        let source = Path::new(RUN_DIR).join("host").join(name);
        fs::create_dir_all(Path::new(RUN_DIR).join("host")).map_err(io_problem("make", &source))?;
        fs::write(&source, content).map_err(io_problem("write", &source))?;
        chmod(&source, 0o644)?;
        let target = self.make_file(path)?;
        mount_bind(&source, &target).map_err(|e| io_problem("bind over", &target)(e.into()))
    }

    /// The file that `path` leads to, made where it is missing, even if only the target of a link is.
    fn make_file(&mut self, path: &Path) -> Result<PathBuf, Problem> {
        let mut path = path.to_path_buf();
        for _ in 0..MAX_LINKS {
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_symlink() => {
                    let target = fs::read_link(&path).map_err(io_problem("read", &path))?;
                    path = path.parent().unwrap_or(Path::new("/")).join(target);
                }
                Ok(found) if found.is_file() => return Ok(path),
                Ok(_) => {
                    return Err(Problem::new(
                        ProblemKind::Io,
                        format!("{} is not a file", path.display()),
                    ));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if let Some(parent) = path.parent() {
                        self.make_dir(parent)?;
                    }
                    self.remember(&path, false, |path| File::create_new(path).map(drop))?;
                    return Ok(path);
                }
                Err(error) => return Err(io_problem("examine", &path)(error)),
            }
        }
        Err(Problem::io(
            "follow",
            path.to_string_lossy(),
            &rustix::io::Errno::LOOP.into(),
        ))
    }

    /// A directory, made where it is missing together with those above it.
    fn make_dir(&mut self, path: &Path) -> Result<(), Problem> {
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => return Ok(()),
            Ok(_) => {
                return Err(Problem::io(
                    "mount at",
                    path.to_string_lossy(),
                    &rustix::io::Errno::NOTDIR.into(),
                ));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_problem("examine", path)(error));
            }
            Err(_) => {}
        }
        if let Some(parent) = path.parent() {
            self.make_dir(parent)?;
        }
        self.remember(path, true, |path| {
            fs::DirBuilder::new().mode(0o755).create(path)
        })
    }

    /// Mounts the root once more, without what is mounted on it. Closing the guest unmounts it.
    pub(crate) fn show_root(&self) -> Result<(), Problem> {
        let path = Path::new(RUN_DIR).join(ROOT);
        fs::DirBuilder::new()
            .mode(0o755)
            .create(&path)
            .map_err(io_problem("make", &path))?;
        mount_bind("/", &path).map_err(|e| io_problem("bind the root at", &path)(e.into()))
    }

    fn remember(
        &mut self,
        path: &Path,
        directory: bool,
        make: impl Fn(&Path) -> io::Result<()>,
    ) -> Result<(), Problem> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        let parent_before = modified(parent)?;
        make(path).map_err(io_problem("make", path))?;
        let made = CreatedPath {
            path: path.to_path_buf(),
            directory,
            parent_before,
            parent_after: modified(parent)?,
        };
        self.undo_log.push(UndoStep::Made(made));
        Ok(())
    }
}

/// Leaves this process, and so all that it starts, the first few of the CPUs that it has.
fn limit_cpus(count: u32) -> rustix::io::Result<()> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let all = sched_getaffinity(None)?;
    let mut some = CpuSet::new();
    let usable = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu));
    usable.take(count as usize).for_each(|cpu| some.set(cpu));
    sched_setaffinity(None, &some)
}

/// Takes hold of the host's directories while they can still be named.
fn open_trees(named: &[(String, String)]) -> Result<Vec<OwnedFd>, Problem> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let open = |(_, host): &(String, String)| {
        open_tree(CWD, host.as_str(), flags)
            .map_err(|e| Problem::io("open", host.clone(), &e.into()))
    };
    named.iter().map(open).collect()
}

/// Mounts a directory of the host, with one more flag than every such directory has.
fn show_tree(tree: &OwnedFd, path: &Path, flag: MountFlags) -> Result<(), Problem> {
    fs::DirBuilder::new()
        .mode(0o755)
        .create(path)
        .map_err(io_problem("make", path))?;
    move_mount(tree, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|e| io_problem("bind", path)(e.into()))?;
    let flags =
        MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | flag;
    mount_remount(path, flags, "").map_err(|e| io_problem("guard", path)(e.into()))
}

/// A path below [`RUN_DIR`], whose directory is made.
fn below_run(path: &str) -> Result<PathBuf, Problem> {
    let path = Path::new(RUN_DIR).join(path);
    let parent = path.parent().unwrap_or(Path::new(RUN_DIR));
    fs::DirBuilder::new()
        .mode(0o755)
        .recursive(true)
        .create(parent)
        .map_err(io_problem("make", parent))?;
    Ok(path)
}

/// Modification time in seconds and nanoseconds.
pub(crate) fn modified(path: &Path) -> Result<(i64, i64), Problem> {
    let found = fs::metadata(path).map_err(io_problem("examine", path))?;
    Ok((found.mtime(), found.mtime_nsec()))
}

fn chmod(path: &Path, mode: u32) -> Result<(), Problem> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(io_problem("change the mode of", path))
}

/// Leaves the host's file systems for a tmpfs that holds the disk's nodes and a mount point.
fn enter_scaffold(disk: &[DiskNode]) -> Result<(), Problem> {
    // `/dev` is the one directory that every host has and that nothing needs from here on.
    let scaffold = Path::new("/dev");
    mount_at("tmpfs", scaffold, "tmpfs", MountFlags::empty(), "mode=0755")?;
    enter(scaffold)?;
    for dir in ["/dev", "/disk"].map(Path::new) {
        fs::create_dir(dir).map_err(io_problem("make", dir))?;
    }
    nodes::make_disk(Path::new("/dev"), disk)
}

/// Makes a mount the root and lets go of the old one.
fn enter(root: &Path) -> Result<(), Problem> {
    let failed = |what| {
        move |error: rustix::io::Errno| Problem::io(what, root.to_string_lossy(), &error.into())
    };
    chdir(root).map_err(failed("enter"))?;
    // The old root is put over the new one and taken away again: no directory is needed for it (pivot_root(2)).
    pivot_root(".", ".").map_err(failed("make the root"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(failed("leave the old root for"))?;
    chdir("/").map_err(failed("enter"))
}

/// Mounts a node of the disk. To probe means to leave no trace.
fn mount_disk(node: &DiskNode, target: &Path, probe: bool) -> Result<(), Problem> {
    let kind = node.mount_type.as_deref().unwrap_or_default();
    let source = format!("/dev/{}", nodes::name(node.number));
    let access = if probe {
        MountFlags::RDONLY
    } else {
        MountFlags::empty()
    };
    // A device file of the image would be a device of the host.
    let flags = access | MountFlags::NOATIME | MountFlags::NODEV;
    // What is free at the end is found by reading the bitmaps: QEMU refuses discards that are not whole clusters.
    if (kind, probe) == ("ext4", false) {
        // Inode tables that mke2fs left to the kernel would be zeroed as far as the job's time allows.
        let mut result = Ok(());
        for options in placement::OPTIONS {
            result = mount_at(
                &source,
                target,
                kind,
                flags,
                &format!("noinit_itable,{options}"),
            );
            if result.is_ok() {
                break;
            }
        }
        return result;
    }
    let data = match (kind, probe) {
        ("ext4", true) => "noload",
        // Several sandboxes mount the same image, so the same UUID, at the same time.
        ("xfs", false) => "discard,nouuid",
        ("xfs", true) => "norecovery,nouuid",
        ("btrfs", false) => "discard",
        _ => "",
    };
    mount_at(&source, target, kind, flags, data)
}

/// The node of the root; where several are possible the only one that holds a shell.
fn choose_root(setup: &Setup) -> Result<&DiskNode, Problem> {
    let nodes: Vec<&DiskNode> = setup
        .root
        .iter()
        .filter_map(|number| setup.disk.iter().find(|node| node.number == *number))
        .collect();
    if let [only] = nodes.as_slice() {
        return Ok(only);
    }
    let disk = Path::new("/disk");
    let mut with_shell = Vec::new();
    for node in &nodes {
        mount_disk(node, disk, true)?;
        let found = has_shell(disk);
        rustix::mount::unmount(disk, UnmountFlags::empty())
            .map_err(|e| io_problem("unmount", disk)(e.into()))?;
        if found {
            with_shell.push(*node);
        }
    }
    if let [only] = with_shell.as_slice() {
        return Ok(only);
    }
    let name = |nodes: &[&DiskNode]| {
        let names: Vec<String> = nodes
            .iter()
            .map(|node| format!("{} ({})", node.number, node.describe))
            .collect();
        names.join(", ")
    };
    let what = if with_shell.is_empty() {
        format!("no partition contains /bin/sh; looked at {}", name(&nodes))
    } else {
        format!("several partitions contain /bin/sh: {}", name(&with_shell))
    };
    Err(Problem::new(ProblemKind::NoRoot, what))
}

/// `/bin/sh` below a directory that is not the root: links stay inside, and a dangling one counts.
fn has_shell(root: &Path) -> bool {
    use rustix::fs::{OFlags, ResolveFlags, openat2};
    let Ok(dir) = bounded::open_directory(root) else {
        return false;
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(&dir, "bin/sh", flags, Mode::empty(), inside).is_ok()
}

/// The node that an fstab source names.
fn find<'a>(disk: &'a [DiskNode], source: &str) -> Option<&'a DiskNode> {
    let (key, value) = source.split_once('=').unwrap_or((source, ""));
    let value = unescape(value.trim_matches('"'));
    let same = |have: &Option<String>| {
        have.as_ref()
            .is_some_and(|have| have.eq_ignore_ascii_case(&value))
    };
    let tail = |prefix| source.strip_prefix(prefix);
    disk.iter().find(|node| match key {
        "UUID" => same(&node.uuid),
        "PARTUUID" => same(&node.part_uuid),
        "LABEL" => node.label.as_ref() == Some(&value),
        _ => tail("/dev/").is_some_and(|name| {
            name == nodes::name(node.number)
                || name
                    .strip_prefix("disk/by-uuid/")
                    .is_some_and(|uuid| node.uuid.as_deref() == Some(uuid))
                || name
                    .strip_prefix("disk/by-partuuid/")
                    .is_some_and(|uuid| node.part_uuid.as_deref() == Some(uuid))
                || name
                    .strip_prefix("disk/by-label/")
                    .is_some_and(|label| node.label.as_deref() == Some(label))
        }),
    })
}

/// A field of fstab: blanks are written in octal (fstab(5)).
fn unescape(field: &str) -> String {
    field
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}
