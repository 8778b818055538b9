//! Files in memory: one tmpfs of a given size that several directories share.
//!
//! Knows mounts, not who writes; compiled into impasto and into the agent.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_remount, move_mount,
    open_tree, unmount,
};

use super::protocol::Problem;

/// A directory of the shared tmpfs, and where it is seen.
pub(crate) struct TmpfsDir<'a> {
    /// A directory that is there.
    pub(crate) path: &'a Path,
    pub(crate) mode: u32,
    pub(crate) flags: MountFlags,
}

/// Mounts an empty tmpfs of `size` bytes at all `places`, each with a directory of its own.
pub(crate) fn share(size: u64, places: &[TmpfsDir<'_>]) -> Result<(), Problem> {
    let failed = |what: &'static str, path: &Path| {
        let path = path.to_string_lossy().into_owned();
        move |error: io::Error| Problem::io(what, path, &error)
    };
    let Some(first) = places.first() else {
        return Ok(());
    };
    // The first place is where it is prepared.
    let workshop = first.path;
    let options = std::ffi::CString::new(format!("size={size},mode=0700"))
        .expect("BUG: a number holds no NUL");
    mount(
        "tmpfs",
        workshop,
        "tmpfs",
        MountFlags::empty(),
        Some(options.as_c_str()),
    )
    .map_err(|e| failed("mount a tmpfs at", workshop)(e.into()))?;
    let mut trees = Vec::with_capacity(places.len());
    for (index, place) in places.iter().enumerate() {
        let dir = workshop.join(index.to_string());
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .map_err(failed("make", &dir))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(place.mode))
            .map_err(failed("change", &dir))?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        trees.push(open_tree(CWD, &dir, flags).map_err(|e| failed("open", &dir)(e.into()))?);
    }
    unmount(workshop, UnmountFlags::DETACH).map_err(|e| failed("unmount", workshop)(e.into()))?;
    for (place, tree) in places.iter().zip(trees) {
        move_mount(
            &tree,
            "",
            CWD,
            place.path,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .map_err(|e| failed("mount a tmpfs at", place.path)(e.into()))?;
        mount_remount(place.path, MountFlags::BIND | place.flags, "")
            .map_err(|e| failed("guard", place.path)(e.into()))?;
    }
    Ok(())
}

/// Whether the tmpfs at `path` takes nothing more.
pub(crate) fn is_full(path: &Path) -> bool {
    // What cannot be examined is not known to be full.
    rustix::fs::statfs(path).is_ok_and(|found| found.f_bavail == 0 || found.f_ffree == 0)
}
