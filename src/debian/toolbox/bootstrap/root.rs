//! The new root as a place in which programs run: its first links and files, its mounts, and what is taken away again.
//! Knows a root's environment, not its packages.
//!
//! What is mounted on the root is not seen through [`BootstrapRoot::bare`], so nothing has to be unmounted, which a namespace of
//! ids would not allow.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount_bind, mount_bind_recursive, mount_remount};

use crate::base::bounded;
use crate::debian::toolbox::program::HostProgram;
use crate::sandbox::ToolFailure;

/// Inside: where dpkg finds packages.
pub(super) const PACKAGES: &str = "/run/impasto/packages";

/// Where the root is seen without what is mounted on it.
const BARE: &str = "/run/root";

/// Where programs look for programs, in the new root.
const PATH: &str = "/run/impasto:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Asked whether services are started (invoke-rc.d(8)); 101 is no.
const POLICY: &str = "#!/bin/sh\n# of impasto\nexit 101\n";

/// Every kernel, and every package with a hook, would make the initramfs again: once at the end is enough.
const LATER: &str = "#!/bin/sh\nprintf '%s\\n' \"$*\" >>/run/impasto/initramfs\n";

/// Directories in the place of which a root of one `/usr` has links.
const MERGED: [&str; 3] = ["bin", "sbin", "lib"];

pub(super) struct BootstrapRoot {
    path: PathBuf,
    bare: PathBuf,
    epoch: u64,
}

impl BootstrapRoot {
    /// Makes an empty root at `path`.
    pub(super) fn make(
        path: &Path,
        architecture: &str,
        epoch: u64,
    ) -> Result<BootstrapRoot, ToolFailure> {
        let loader = (architecture == "amd64").then_some("lib64");
        for name in MERGED.into_iter().chain(loader) {
            let dir = path.join("usr").join(name);
            fs::create_dir_all(&dir).map_err(ToolFailure::io("make", &dir))?;
            let link = path.join(name);
            symlink(Path::new("usr").join(name), &link).map_err(ToolFailure::io("link", &link))?;
        }
        for name in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/apt"] {
            let dir = path.join(name);
            fs::create_dir_all(&dir).map_err(ToolFailure::io("make", &dir))?;
        }
        let root = BootstrapRoot {
            path: path.to_path_buf(),
            bare: PathBuf::from(BARE),
            epoch,
        };
        root.write("var/lib/dpkg/status", "", 0o644)?;
        Ok(root)
    }

    /// Mounts what programs need, once the root has its directories; the files of `packages` at [`PACKAGES`].
    pub(super) fn furnish(&self, packages: &Path) -> Result<(), ToolFailure> {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |error: rustix::io::Errno| ToolFailure::io("mount", &path)(error.into())
        };
        fs::create_dir(&self.bare).map_err(ToolFailure::io("make", &self.bare))?;
        mount_bind(&self.path, &self.bare).map_err(failed(&self.bare))?;
        for name in ["dev", "proc"] {
            let to = self.path.join(name);
            fs::create_dir_all(&to).map_err(ToolFailure::io("make", &to))?;
            mount_bind_recursive(Path::new("/").join(name), &to).map_err(failed(&to))?;
        }
        // Of the one memory that this place has.
        let memory = Path::new("/tmp/impasto-root");
        for (name, mode) in [("run", 0o755), ("tmp", 0o1777)] {
            let (from, to) = (memory.join(name), self.path.join(name));
            for dir in [&from, &to] {
                fs::create_dir_all(dir).map_err(ToolFailure::io("make", dir))?;
            }
            fs::set_permissions(&from, fs::Permissions::from_mode(mode))
                .map_err(ToolFailure::io("change", &from))?;
            mount_bind(&from, &to).map_err(failed(&to))?;
            let flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
            mount_remount(&to, flags, "").map_err(failed(&to))?;
        }
        let place = self.path.join(PACKAGES.trim_start_matches('/'));
        // Scripts that take a lock look for its directory.
        for dir in [&place, &self.path.join("run/lock")] {
            fs::create_dir_all(dir).map_err(ToolFailure::io("make", dir))?;
        }
        mount_bind(packages, &place).map_err(failed(&place))?;
        self.write("run/impasto/update-initramfs", LATER, 0o755)?;
        self.write("usr/sbin/policy-rc.d", POLICY, 0o755)
    }

    /// Writes a file, whose path is relative.
    pub(super) fn write(&self, name: &str, text: &str, mode: u32) -> Result<(), ToolFailure> {
        let path = self.path.join(name);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(ToolFailure::io("make", dir))?;
        }
        fs::write(&path, text).map_err(ToolFailure::io("write", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .map_err(ToolFailure::io("change", &path))
    }

    /// A program of the root, in the environment of packages' scripts.
    pub(super) fn program(&self, name: &str) -> HostProgram {
        HostProgram::new("chroot")
            .args([self.path.as_os_str(), name.as_ref()])
            .env("PATH", PATH)
            .env("LC_ALL", "C.UTF-8")
            .env("SOURCE_DATE_EPOCH", self.epoch.to_string())
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("DEBCONF_NONINTERACTIVE_SEEN", "true")
            .env("DEBCONF_NOWARNINGS", "yes")
            // What is compiled by chance, in passing, would be kept.
            .env("PYTHONDONTWRITEBYTECODE", "1")
    }

    /// The root's own dpkg, which knows what its release and its machine are.
    pub(super) fn dpkg(&self) -> HostProgram {
        self.program("dpkg")
            .args(["--force-unsafe-io", "--log=/dev/null"])
    }

    /// Makes the initramfs that hooks asked for: of every kernel, once. Not every release's hooks say of which.
    pub(super) fn make_initramfs(&self, log: &mut dyn FnMut(&[u8])) -> Result<(), ToolFailure> {
        // Where dracut or tiny-initramfs is in the place of initramfs-tools, hooks only found the one that takes notes.
        let asked = ["run/impasto/initramfs", "usr/sbin/update-initramfs"];
        if !asked.iter().all(|name| self.path.join(name).exists()) {
            return Ok(());
        }
        let boot = self.path.join("boot");
        let mut versions = Vec::new();
        for entry in fs::read_dir(&boot).map_err(ToolFailure::io("list", &boot))? {
            let name = entry.map_err(ToolFailure::io("list", &boot))?.file_name();
            versions.extend(
                name.to_str()
                    .and_then(|name| name.strip_prefix("vmlinuz-"))
                    .map(str::to_owned),
            );
        }
        versions.sort_unstable();
        for version in versions {
            // Not the one that only takes notes.
            self.program("/usr/sbin/update-initramfs")
                .args(["-c", "-k", &version])
                .succeed(log)?;
        }
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The root without what is mounted on it.
    pub(super) fn bare(&self) -> &Path {
        &self.bare
    }

    /// Takes away the policy about services, unless a package put its own there.
    pub(super) fn allow_services(&self) -> Result<(), ToolFailure> {
        let path = self.bare.join("usr/sbin/policy-rc.d");
        if bounded::read_text(&path, bounded::LINES).is_ok_and(|text| text == POLICY) {
            fs::remove_file(&path).map_err(ToolFailure::io("remove", &path))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_initramfs_is_made_where_initramfs_tools_is() {
        let dir = tempfile::tempdir().unwrap();
        let root = BootstrapRoot {
            path: dir.path().to_path_buf(),
            bare: dir.path().to_path_buf(),
            epoch: 1,
        };
        root.write("boot/vmlinuz-1", "", 0o644).unwrap();
        // Nobody asked; then a hook did, in a root that has dracut.
        root.make_initramfs(&mut |_| ()).unwrap();
        root.write("run/impasto/initramfs", "-u\n", 0o644).unwrap();
        root.make_initramfs(&mut |_| ()).unwrap();
        // A root without a shell runs nothing: the program was looked for.
        root.write("usr/sbin/update-initramfs", "#!/bin/sh\n", 0o755)
            .unwrap();
        root.make_initramfs(&mut |_| ()).unwrap_err();
    }
}
