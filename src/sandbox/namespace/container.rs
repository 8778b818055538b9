//! The container in which our own work with the toolbox's programs is done: the toolbox, read-only, with one directory to
//! write in; of the host only its kernel, and no network.
//!
//! Knows mounts and namespaces, not the work, which `main` hands in. Runs as pid 1 of its pid namespace: nothing of it outlives it.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change,
    mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root};
use rustix::thread::UnshareFlags;
use serde_bytes::ByteBuf;

use super::export::Export;
use super::request::ToolPlan;
use super::supervisor::{SUPERVISOR_ARGUMENT, isolate, open_groups};
use crate::sandbox::emulate::{self, EmulateError, Mapper};
use crate::sandbox::memory::{self, TmpfsDir};
use crate::sandbox::protocol::{self, Ceiling, Limit, MAX_LOG, Problem, ProblemKind};
use crate::sandbox::sys;
use crate::sandbox::tools::{GUEST_DISK, MOUNT_POINTS, Perform, ToolReport};
use crate::sandbox::usage::Watcher;

/// Where the directory that can be written is.
const WORK: &str = "/work";

/// How often the container is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Devices that programs may expect.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Makes the container, does the work in it, and tells what came of it. True where the work is done.
pub(super) fn serve(plan: &ToolPlan, perform: Perform, socket: &mut File) -> io::Result<bool> {
    let export = match open(plan) {
        Ok(export) => export,
        Err(problem) => {
            protocol::write(socket, &ToolReport::Problem(problem))?;
            return Ok(false);
        }
    };
    let socket = Mutex::new(socket.try_clone()?);
    let report = |report: &ToolReport| {
        let mut socket = socket.lock().unwrap_or_else(PoisonError::into_inner);
        protocol::write(&mut *socket, report)
    };
    let broken = RefCell::new(None);
    let tell = |event: &ToolReport| {
        if let Err(error) = report(event) {
            broken.borrow_mut().get_or_insert(error);
        }
    };
    let (done, watched) = std::sync::mpsc::channel::<()>();
    let result = std::thread::scope(|scope| {
        let report = &report;
        scope.spawn(move || watch(plan.watch, &watched, report));
        let mut log = |bytes: &[u8]| {
            bytes
                .chunks(MAX_LOG)
                .for_each(|piece| tell(&ToolReport::Log(ByteBuf::from(piece))))
        };
        let mut phase = |name: &str| tell(&ToolReport::Phase(name.to_owned()));
        let result = perform(&plan.task.body, Path::new(WORK), &mut log, &mut phase);
        drop(done);
        result
    });
    if let Some(error) = broken.into_inner() {
        return Err(error);
    }
    // What the work wrote is in the overlay when the daemon has closed it.
    if let (Ok(()), Some(Err(problem))) = (&result, export.map(Export::stop)) {
        report(&ToolReport::Problem(problem))?;
        return Ok(false);
    }
    report(&match result {
        _ if memory::is_full(Path::new("/run")) => ToolReport::Limit(Limit::Tmpfs),
        Ok(()) => ToolReport::Done,
        Err(failure) => ToolReport::Failed(failure),
    })?;
    // A failure that was told is no failure of the supervisor.
    Ok(true)
}

/// Makes the container and enters it; the daemon that serves its disk, where it has one, is outside of it and of its limits.
fn open(plan: &ToolPlan) -> Result<Option<Export>, Problem> {
    isolate(false)?;
    let export = plan.disk.as_ref().map(Export::start).transpose()?;
    join(plan)?;
    enter(plan)?;
    Ok(export)
}

/// Ends the container when a limit is reached; returns when the work is done.
fn watch(
    ceiling: Option<Ceiling>,
    done: &Receiver<()>,
    report: &dyn Fn(&ToolReport) -> io::Result<()>,
) {
    let mut watcher = ceiling.map(Watcher::new);
    while let Err(RecvTimeoutError::Timeout) = done.recv_timeout(LOOK_INTERVAL) {
        let full = memory::is_full(Path::new("/run")).then_some(Limit::Tmpfs);
        if let Some(limit) = full.or_else(|| watcher.as_mut()?.look()) {
            // impasto sees the end in either case; with this it knows why.
            let _ = report(&ToolReport::Limit(limit));
            // This process is the first of its namespace: all others end with it.
            std::process::exit(1);
        }
    }
}

/// Joins the job's control groups, which become the root of those that the container sees.
fn join(plan: &ToolPlan) -> Result<(), Problem> {
    let enter = || {
        open_groups(&plan.groups)?
            .iter()
            .try_for_each(sys::enter_group)?;
        sys::unshare(UnshareFlags::NEWCGROUP)
    };
    enter().map_err(|error| Problem::io("enter", "the job's control groups", &error))
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

/// Leaves the host's `/` for the container.
fn enter(plan: &ToolPlan) -> Result<(), Problem> {
    let work = &plan.work;
    rustix::system::sethostname(b"impasto").map_err(failed("set", Path::new("the host name")))?;
    let foreign = plan.task.foreign.as_deref();
    let mapper = foreign.map(|_| Mapper::start(&[SUPERVISOR_ARGUMENT]));
    let mapper = mapper.transpose().map_err(not_emulated)?;
    let room = work.with_extension("room");
    make_dir(&room)?;
    let inside = |path: &str| room.join(path.trim_start_matches('/'));
    show_toolbox(&plan.toolbox, &room)?;
    let safe = MountFlags::NOSUID | MountFlags::NODEV;
    mount(
        "proc",
        inside("/proc"),
        "proc",
        safe | MountFlags::NOEXEC,
        None,
    )
    .map_err(failed("mount", Path::new("/proc")))?;
    make_devices(&inside("/dev"))?;
    // Programs unpack devices and set-user-id files below /tmp.
    let places = [
        ("/run", 0o755, safe),
        ("/tmp", 0o1777, MountFlags::empty()),
        ("/dev/shm", 0o1777, safe),
    ];
    let paths = places.map(|(path, ..)| inside(path));
    let places: Vec<_> = paths
        .iter()
        .zip(places)
        .map(|(path, (_, mode, flags))| TmpfsDir { path, mode, flags })
        .collect();
    memory::share(plan.tmpfs, &places)?;
    mount_bind(work, inside(WORK)).map_err(failed("bind", work))?;
    if let Some(disk) = &plan.disk {
        // A bind mount of a directory leaves behind what is mounted in it.
        let shown = inside(WORK).join(GUEST_DISK);
        mount_bind(&disk.path, shown).map_err(failed("bind", &disk.path))?;
    }
    chdir(&room).map_err(failed("enter", &room))?;
    // The old root is put over the new one and taken away again: no directory is needed for it (pivot_root(2)).
    pivot_root(".", ".").map_err(failed("make the root", &room))?;
    unmount(".", UnmountFlags::DETACH).map_err(failed("leave the old root for", &room))?;
    chdir("/").map_err(failed("enter", Path::new("/")))?;
    // What comes of the work is read, hashed and made durable by impasto; a crash before that loses it anyway.
    sys::ignore_syncs()
        .map_err(|error| Problem::io("install", "a filter of system calls", &error))?;
    if let (Some(architecture), Some(mapper)) = (foreign, mapper) {
        let emulator = emulate::emulator_of(architecture).map_err(not_emulated)?;
        let emulator = Path::new("/usr/bin").join(emulator);
        emulate::enter(architecture, &emulator, mapper, sys::unshare).map_err(not_emulated)?;
    }
    Ok(())
}

fn not_emulated(error: EmulateError) -> Problem {
    match error {
        EmulateError::Lacks(what) => Problem::new(ProblemKind::HostLacks, what),
        EmulateError::Io(verb, what, source) => Problem::io(verb, what, &source),
    }
}

/// Makes the container's root of a toolbox.
fn show_toolbox(toolbox: &Path, room: &Path) -> Result<(), Problem> {
    for name in MOUNT_POINTS {
        let path = toolbox.join(name);
        // A link would lead out of the container.
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        if !is_dir {
            return Err(Problem::new(
                ProblemKind::HostLacks,
                format!("the toolbox lacks the directory {name}"),
            ));
        }
    }
    mount_bind(toolbox, room).map_err(failed("bind", toolbox))?;
    mount_change(room, MountPropagationFlags::PRIVATE).map_err(failed("make private", room))?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount_remount(room, flags, "").map_err(failed("make read-only", room))
}

/// Private devices: the few that every program may use, none of the host's disks.
pub(super) fn make_devices(dev: &Path) -> Result<(), Problem> {
    mount(
        "tmpfs",
        dev,
        "tmpfs",
        MountFlags::NOSUID,
        Some(c"mode=0755,size=1m"),
    )
    .map_err(failed("mount a tmpfs at", dev))?;
    for name in DEVICES {
        let (from, to) = (Path::new("/dev").join(name), dev.join(name));
        if from.exists() {
            File::create(&to).map_err(file_failed("make", &to))?;
            mount_bind(&from, &to).map_err(failed("bind", &from))?;
        }
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(target, dev.join(name)).map_err(file_failed("link", &dev.join(name)))?;
    }
    for name in ["pts", "shm"] {
        make_dir(&dev.join(name))?;
    }
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    let options = c"newinstance,ptmxmode=0666,mode=0620,gid=5";
    mount("devpts", dev.join("pts"), "devpts", flags, Some(options))
        .map_err(failed("mount", Path::new("/dev/pts")))
}
