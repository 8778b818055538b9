//! The room in which our own work with the toolbox's programs is done: the toolbox, read-only, with one directory to
//! write in; of the host only its kernel. Where there is no toolbox, the host's `/` stands in for it.
//!
//! Knows mounts and name spaces, not the work. Runs as pid 1 of its pid name space: nothing of it outlives it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root};
use serde_bytes::ByteBuf;

use super::emulate::{self, Mapper};
use super::plan::{ToolPlan, ToolReport};
use super::protocol::{self, MAX_LOG, Problem, ProblemKind, RUN_DIR};
use super::supervisor::isolate;
use super::sys;
use crate::toolbox::{self, MOUNT_POINTS};

/// Where the directory that can be written is, in a toolbox and on the host's `/`.
const WORK: &str = "/work";
const WORK_ON_HOST: &str = "/run/impasto/work";

/// Devices that programs may expect.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Makes the room, does the work in it, and tells what came of it. True where the work is done.
pub(super) fn serve(plan: &ToolPlan, socket: &mut File) -> io::Result<bool> {
    let work = match isolate(plan.network).and_then(|()| enter(plan)) {
        Ok(work) => work,
        Err(problem) => {
            protocol::write(socket, &ToolReport::Problem(problem))?;
            return Ok(false);
        }
    };
    let mut broken = None;
    let result = toolbox::perform(&plan.task, Path::new(work), &mut |bytes| {
        for piece in bytes.chunks(MAX_LOG) {
            if let Err(error) = protocol::write(socket, &ToolReport::Log(ByteBuf::from(piece))) {
                broken.get_or_insert(error);
            }
        }
    });
    if let Some(error) = broken {
        return Err(error);
    }
    let report = match result {
        Ok(()) => ToolReport::Done,
        Err(failure) => ToolReport::Failed(failure),
    };
    protocol::write(socket, &report)?;
    // A failure that was told is no failure of the supervisor.
    Ok(true)
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(rustix::io::Errno) -> Problem {
    move |error| Problem::io(what, path.to_string_lossy(), &error.into())
}

fn file_failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Problem {
    move |error| Problem::io(what, path.to_string_lossy(), &error)
}

fn make_dir(path: &Path) -> Result<(), Problem> {
    fs::create_dir_all(path).map_err(file_failed("make", path))
}

fn memory(target: &Path, mode: &std::ffi::CStr, flags: MountFlags) -> Result<(), Problem> {
    mount("tmpfs", target, "tmpfs", flags, Some(mode)).map_err(failed("mount a tmpfs at", target))
}

/// Leaves the host's `/` for the room, and tells where its directory to write in is.
fn enter(plan: &ToolPlan) -> Result<&'static str, Problem> {
    let work = &plan.work;
    rustix::system::sethostname(b"impasto").map_err(failed("set", Path::new("the host name")))?;
    let foreign = plan.task.foreign();
    let mapper = foreign.map(|_| Mapper::start()).transpose()?;
    let room = work.with_extension("room");
    make_dir(&room)?;
    let inside = |path: &str| room.join(path.trim_start_matches('/'));
    let (place, resolver) = match &plan.toolbox {
        Some(toolbox) => {
            show_toolbox(toolbox, &room)?;
            (WORK, Resolver(None))
        }
        None => {
            let resolver = Resolver::of_host();
            show_host(&room)?;
            (WORK_ON_HOST, resolver)
        }
    };
    let safe = MountFlags::NOSUID | MountFlags::NODEV;
    mount("proc", inside("/proc"), "proc", safe | MountFlags::NOEXEC, None)
        .map_err(failed("mount", Path::new("/proc")))?;
    memory(&inside("/run"), c"mode=0755", safe)?;
    // Programs unpack devices and set-user-id files there.
    memory(&inside("/tmp"), c"mode=1777", MountFlags::empty())?;
    make_devices(&inside("/dev"))?;
    make_dir(&inside(place))?;
    mount_bind(work, inside(place)).map_err(failed("bind", work))?;
    show_policy(plan, &inside(RUN_DIR))?;
    chdir(&room).map_err(failed("enter", &room))?;
    // The old root is put over the new one and taken away again: no directory is needed for it (pivot_root(2)).
    pivot_root(".", ".").map_err(failed("make the root", &room))?;
    unmount(".", UnmountFlags::DETACH).map_err(failed("leave the old root for", &room))?;
    chdir("/").map_err(failed("enter", Path::new("/")))?;
    resolver.restore()?;
    // What comes of the work is read, hashed and made durable by impasto; a crash before that loses it anyway.
    sys::ignore_syncs().map_err(|error| Problem::io("install", "a filter of system calls", &error))?;
    if let (Some(architecture), Some(mapper)) = (foreign, mapper) {
        emulate::enter(architecture, mapper)?;
    }
    Ok(place)
}

/// Makes the room's root of a toolbox.
fn show_toolbox(toolbox: &Path, room: &Path) -> Result<(), Problem> {
    for name in MOUNT_POINTS {
        let path = toolbox.join(name);
        // A link would lead out of the room.
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        if !is_dir {
            return Err(Problem::new(ProblemKind::HostLacks, format!("the toolbox lacks the directory {name}")));
        }
    }
    mount_bind(toolbox, room).map_err(failed("bind", toolbox))?;
    mount_change(room, MountPropagationFlags::PRIVATE).map_err(failed("make private", room))?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount_remount(room, flags, "").map_err(failed("make read-only", room))
}

/// Makes the room's root of the host's `/`.
fn show_host(room: &Path) -> Result<(), Problem> {
    mount_bind_recursive("/", room).map_err(failed("bind / at", room))?;
    mount_change(room, MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .map_err(failed("make private", room))?;
    // What is the kernel's or this boot's is made anew; below it nothing of the host's stays.
    for name in ["proc", "sys", "dev", "run", "tmp"] {
        drop_mounts(&room.join(name))?;
    }
    make_read_only(room)?;
    let (sys, flags) = (room.join("sys"), MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC);
    mount_bind("/sys", &sys).map_err(failed("bind", Path::new("/sys")))?;
    mount_remount(&sys, MountFlags::BIND | MountFlags::RDONLY | flags, "")
        .map_err(failed("make read-only", Path::new("/sys")))
}

/// What the host's owner says of mirrors: files, and directories that are mirrors.
fn show_policy(plan: &ToolPlan, run: &Path) -> Result<(), Problem> {
    for (path, mode, content) in &plan.policy {
        let path = run.join(path);
        make_dir(path.parent().unwrap_or(run))?;
        fs::write(&path, content).map_err(file_failed("write", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(*mode))
            .map_err(file_failed("change the mode of", &path))?;
    }
    for (path, host) in &plan.trees {
        let path = run.join(path);
        make_dir(&path)?;
        mount_bind(host.as_str(), &path).map_err(failed("bind", Path::new(host)))?;
        mount_remount(&path, MountFlags::BIND | MountFlags::RDONLY, "").map_err(failed("make read-only", &path))?;
    }
    Ok(())
}

/// Takes away what is mounted at and below a directory.
fn drop_mounts(path: &Path) -> Result<(), Problem> {
    loop {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there, or there is no such directory.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(failed("unmount", path)(error)),
        }
    }
}

/// Makes every mount at and below a directory read-only.
fn make_read_only(root: &Path) -> Result<(), Problem> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(table).map_err(file_failed("read", table))?;
    for line in text.lines() {
        // proc(5): the fifth field is the mount point, the sixth its options.
        let mut fields = line.split(' ').skip(4);
        let (Some(point), Some(options)) = (fields.next(), fields.next()) else { continue };
        let point = PathBuf::from(unescape(point));
        if !point.starts_with(root) {
            continue;
        }
        let mut flags = MountFlags::BIND | MountFlags::RDONLY;
        for (name, flag) in [
            ("nosuid", MountFlags::NOSUID),
            ("nodev", MountFlags::NODEV),
            ("noexec", MountFlags::NOEXEC),
            ("noatime", MountFlags::NOATIME),
            ("nodiratime", MountFlags::NODIRATIME),
            ("relatime", MountFlags::RELATIME),
        ] {
            if options.split(',').any(|option| option == name) {
                flags |= flag;
            }
        }
        mount_remount(&point, flags, "").map_err(failed("make read-only", &point))?;
    }
    Ok(())
}

/// Octal escapes of mountinfo: blanks and backslashes.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// Private devices: the few that every program may use, none of the host's disks.
fn make_devices(dev: &Path) -> Result<(), Problem> {
    memory(dev, c"mode=0755", MountFlags::NOSUID)?;
    for name in DEVICES {
        let (from, to) = (Path::new("/dev").join(name), dev.join(name));
        if from.exists() {
            File::create(&to).map_err(file_failed("make", &to))?;
            mount_bind(&from, &to).map_err(failed("bind", &from))?;
        }
    }
    for (name, target) in
        [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"), ("ptmx", "pts/ptmx")]
    {
        symlink(target, dev.join(name)).map_err(file_failed("link", &dev.join(name)))?;
    }
    for name in ["pts", "shm"] {
        make_dir(&dev.join(name))?;
    }
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    let options = c"newinstance,ptmxmode=0666,mode=0620,gid=5";
    mount("devpts", dev.join("pts"), "devpts", flags, Some(options)).map_err(failed("mount", Path::new("/dev/pts")))?;
    memory(&dev.join("shm"), c"mode=1777", MountFlags::NOSUID | MountFlags::NODEV)
}

/// The host's resolver configuration, where it is a link to a file of this boot's.
struct Resolver(Option<(PathBuf, Vec<u8>)>);

impl Resolver {
    fn of_host() -> Self {
        let target = fs::canonicalize("/etc/resolv.conf").ok().filter(|target| target.starts_with("/run"));
        // A host without one resolves without it.
        Resolver(target.and_then(|target| Some((target.clone(), fs::read(&target).ok()?))))
    }

    /// Puts it where the link leads to.
    fn restore(self) -> Result<(), Problem> {
        let Some((path, content)) = self.0 else { return Ok(()) };
        make_dir(path.parent().unwrap_or(&path))?;
        fs::write(&path, content).map_err(file_failed("write", &path))
    }
}
