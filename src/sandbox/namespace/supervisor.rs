//! The supervisor: processes between impasto and the guest that make sure nothing outlives either.
//!
//! Knows processes, namespaces and the disk, not steps: while the agent runs, the socket is the agent's.
//!
//! ```text
//! impasto ── outer   outside; dies with impasto (death signal, and end of the socket), starts inner, waits
//!              └─ inner   pid 1 of pid and mount namespace A: storage daemon, loop device
//!                   ├─ qemu-storage-daemon
//!                   └─ agent   pid 1 of pid namespace B, mount namespace B: the only one that mounts the guest
//! ```
//!
//! The kernel kills all of A when inner dies. A process that serves FUSE must never be the last one of a mount name
//! space with a file system on that export: unmounting would wait for itself. So the guest's are in B only.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, Mode, memfd_create};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{
    Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal, setsid,
};
use rustix::thread::UnshareFlags;

use super::export::{DAEMON, Export};
use super::loopdev::LoopDevice;
use super::request::{GuestSpec, MAX_RANGES, SupervisorEvent, SupervisorRequest};
use super::{container, probe, server};
use crate::disk::guest::{self, DiskFile, DiskLayout, FileSystem};
use crate::sandbox::emulate::{self, MAP_IDS};
use crate::sandbox::protocol::{self, Problem, ProblemKind};
use crate::sandbox::terminal::{self, ShellTerminal};
use crate::sandbox::{AGENT, Perform, sys};

/// First argument that makes the impasto binary a supervisor instead of a command line.
pub const SUPERVISOR_ARGUMENT: &str = "__supervisor";

const INNER: &str = "inner";

/// Runs as supervisor if the command line says so; `None` where this is an ordinary start. `perform` does the tasks of
/// toolboxes.
///
/// To be called first thing in `main`, while the process has one thread.
pub fn supervisor_main(perform: Perform) -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != SUPERVISOR_ARGUMENT {
        return None;
    }
    let result = match arguments.next() {
        Some(argument) if argument == INNER => inner_main(perform),
        Some(argument) if argument == MAP_IDS => emulate::map_ids(),
        Some(argument) if argument == probe::USER_NAMESPACE => probe::user_namespace(),
        Some(argument) if argument == server::SERVER => server::outer(arguments),
        Some(argument) if argument == server::SERVER_INNER => server::inner(arguments),
        Some(argument) if argument == server::RELAY => server::relay(arguments),
        _ => outer_main(),
    };
    if let Err(error) = &result {
        // It is kept beside the job; the socket carried the reason where there was somebody to tell.
        let _ = writeln!(io::stderr(), "{error}");
    }
    Some(if matches!(result, Ok(true)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Dies with the parent's thread, however that ends.
pub(super) fn die_with_parent(socket: impl AsFd) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before that; then the other end of the socket is closed.
    if hung_up(socket)? {
        Err(io::ErrorKind::BrokenPipe.into())
    } else {
        Ok(())
    }
}

fn hung_up(socket: impl AsFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(&socket, PollFlags::empty())];
    poll(
        &mut fds,
        Some(&rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        }),
    )?;
    Ok(fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR))
}

/// Waits until `watched` has ended (true) or the socket has (false).
fn ends_first(watched: &[&OwnedFd], socket: impl AsFd) -> io::Result<Option<usize>> {
    loop {
        let mut fds: Vec<PollFd<'_>> = watched
            .iter()
            .map(|fd| PollFd::new(*fd, PollFlags::IN))
            .collect();
        fds.push(PollFd::new(&socket, PollFlags::empty()));
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        if let Some(index) = fds.iter().position(|fd| !fd.revents().is_empty()) {
            return Ok((index < watched.len()).then_some(index));
        }
    }
}

fn outer_main() -> io::Result<bool> {
    let socket = io::stdin();
    die_with_parent(&socket)?;
    sys::close_inherited_on_exec()?;
    // The user's would decide what a toolbox's programs may read of each other's.
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    let name_spaces = sys::unshare(UnshareFlags::NEWPID | UnshareFlags::NEWNS);
    name_spaces.map_err(|error| io::Error::other(format!("cannot create namespaces: {error}")))?;
    sys::leave_keyring()?;
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )?;
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the sandbox, which runs programs"
    )]
    let mut inner = Command::new("/proc/self/exe")
        .arg0("impasto")
        .args([SUPERVISOR_ARGUMENT, INNER])
        .spawn()?;
    let pidfd = pidfd_open(Pid::from_child(&inner), PidfdFlags::empty())?;
    if ends_first(&[&pidfd], &socket)?.is_none() {
        inner.kill()?;
    }
    Ok(inner.wait()?.success())
}

fn inner_main(perform: Perform) -> io::Result<bool> {
    let mut socket = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    die_with_parent(&socket)?;
    let plan = match protocol::read::<SupervisorRequest>(&mut socket)? {
        None => return Ok(false),
        Some(SupervisorRequest::Guest(plan)) => plan,
        Some(SupervisorRequest::Tools(plan)) => {
            setsid()?;
            return container::serve(&plan, perform, &mut socket);
        }
        Some(SupervisorRequest::Probe(plan)) => {
            setsid()?;
            return probe::serve(&plan, &mut socket);
        }
    };
    if !plan.terminal {
        // Signals of a terminal are impasto's business.
        setsid()?;
    }
    let terminal = if plan.terminal {
        Some(terminal::receive(&socket)?)
    } else {
        None
    };
    match supervise(&plan, terminal, &mut socket) {
        Ok(report) => {
            protocol::write(&mut socket, &report)?;
            Ok(true)
        }
        Err(problem) => {
            protocol::write(&mut socket, &SupervisorEvent::Problem(problem))?;
            Ok(false)
        }
    }
}

/// Milliseconds by phase.
struct Clock {
    last: Instant,
    phases: Vec<(String, f64)>,
}

impl Clock {
    fn new() -> Self {
        Self {
            last: Instant::now(),
            phases: Vec::new(),
        }
    }

    fn lap(&mut self, phase: &str) {
        let now = Instant::now();
        self.phases
            .push((phase.to_owned(), (now - self.last).as_secs_f64() * 1e3));
        self.last = now;
    }
}

fn supervise(
    plan: &GuestSpec,
    terminal: Option<ShellTerminal>,
    socket: &mut File,
) -> Result<SupervisorEvent, Problem> {
    let mut clock = Clock::new();
    isolate(plan.network)?;
    clock.lap("isolate");
    let export = Export::start(&plan.disk)?;
    clock.lap("storage daemon");
    let disk = open_disk(export.path())?;
    let layout = read_layout(&disk)?;
    let backing = disk
        .try_clone()
        .map_err(|e| Problem::io("duplicate", "the disk", &e))?;
    let mut device = LoopDevice::attach(&backing)?;
    let partitions = device.set_partitions(&layout.partitions)?;
    let ready = SupervisorEvent::Ready {
        layout: layout.clone(),
        disk: device.device()?,
        partitions,
        phases: std::mem::take(&mut clock.phases),
    };
    clock.lap("loop device");
    protocol::write(socket, &ready).map_err(|e| Problem::io("write to", "impasto", &e))?;
    run_agent(plan, &export, terminal, socket)?;
    clock.lap("agent");
    device.detach()?;
    clock.lap("loop detach");
    let before = layout;
    let layout = read_layout(&disk)?;
    let dirty = dirty(&before, &layout);
    report_unused(&disk, &layout, socket)?;
    // The daemon unmounts its export, which open files would keep.
    drop((disk, backing));
    clock.lap("check");
    export.stop()?;
    clock.lap("storage daemon stop");
    Ok(SupervisorEvent::Closed {
        dirty,
        phases: clock.phases,
    })
}

/// Name spaces that the guest has for itself.
pub(super) fn isolate(network: bool) -> Result<(), Problem> {
    let mut flags = UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    if !network {
        flags |= UnshareFlags::NEWNET;
    }
    sys::unshare(flags).map_err(|e| Problem::io("create", "namespaces", &e))?;
    if !network {
        let family = rustix::net::AddressFamily::INET;
        let socket = rustix::net::socket(family, rustix::net::SocketType::DGRAM, None);
        socket
            .map_err(io::Error::from)
            .and_then(|socket| sys::loopback_up(&socket))
            .map_err(|e| Problem::io("bring up", "lo", &e))?;
    }
    Ok(())
}

fn open_disk(path: &Path) -> Result<File, Problem> {
    let file = File::options().read(true).write(true).open(path);
    file.map_err(|e| Problem::io("open", path.to_string_lossy(), &e))
}

fn read_layout(disk: &File) -> Result<DiskLayout, Problem> {
    let read = || guest::read_layout(&DiskFile::new(disk.try_clone()?)?);
    read().map_err(|e| Problem::io("read", "the partition table", &e))
}

/// Starts the agent on the socket and waits for its success, watching daemon and socket.
fn run_agent(
    plan: &GuestSpec,
    export: &Export,
    terminal: Option<ShellTerminal>,
    socket: &File,
) -> Result<(), Problem> {
    sys::unshare(UnshareFlags::NEWPID).map_err(|e| Problem::io("create", "a PID namespace", &e))?;
    let failed = |what: &str, error: &io::Error| Problem::io(what, "the agent", error);
    let mut agent = spawn_agent(plan, terminal, socket).map_err(|e| failed("start", &e))?;
    let watch = |pid| pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from);
    let agent_fd = watch(Pid::from_child(&agent)).map_err(|e| failed("watch", &e))?;
    let daemon_fd = watch(export.pid()).map_err(|e| Problem::io("watch", DAEMON, &e))?;
    let first = ends_first(&[&agent_fd, &daemon_fd], socket).map_err(|e| failed("wait for", &e))?;
    if first != Some(0) {
        agent.kill().map_err(|e| failed("kill", &e))?;
    }
    let status = agent.wait().map_err(|e| failed("wait for", &e))?;
    match first {
        Some(0) if status.success() => Ok(()),
        Some(0) => Err(Problem::new(
            ProblemKind::Io,
            format!("the agent exited with {}", describe(status)),
        )),
        Some(_) => Err(Problem::new(
            ProblemKind::WriteBack,
            format!("{DAEMON} died while the guest was running"),
        )),
        None => Err(Problem::new(ProblemKind::Io, "impasto is gone")),
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no status".to_owned(),
    }
}

/// The agent out of our own executable: a file in memory, so nothing needs to be installed.
fn spawn_agent(
    plan: &GuestSpec,
    terminal: Option<ShellTerminal>,
    socket: &File,
) -> io::Result<Child> {
    let memory = memfd_create("impasto-agent", MemfdFlags::CLOEXEC)?;
    let mut file = File::from(memory);
    file.write_all(AGENT)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the sandbox, which runs programs"
    )]
    let mut command = Command::new(path);
    command
        .arg0("impasto-agent")
        .env_clear()
        .stdin(Stdio::from(socket.try_clone()?));
    sys::start_in_groups(&mut command, open_groups(&plan.groups)?);
    match terminal {
        None => command.spawn(),
        Some(ShellTerminal {
            stdin,
            stdout,
            stderr,
        }) => {
            // Its standard input is taken, so this one goes by number.
            rustix::io::fcntl_setfd(&stdin, rustix::io::FdFlags::empty())?;
            command
                .arg(stdin.as_raw_fd().to_string())
                .stdout(stdout)
                .stderr(stderr)
                .spawn()
        }
    }
}

/// The files of control groups that name their processes.
pub(super) fn open_groups(groups: &[PathBuf]) -> io::Result<Vec<File>> {
    groups
        .iter()
        .map(|path| File::options().write(true).open(path))
        .collect()
}

/// File systems with which something is wrong: they say so themselves, or are not the ones that were there before.
fn dirty(before: &DiskLayout, now: &DiskLayout) -> Vec<(u32, String)> {
    let wrong = |(number, _, was): (u32, u64, &FileSystem)| {
        let Some((.., is)) = now.file_systems().find(|(other, ..)| *other == number) else {
            return Some((
                number,
                format!("is gone: nothing known is where {} was", was.kind),
            ));
        };
        // An ext3 that becomes an ext4 is still the same.
        if is.kind != was.kind && is.kind.mount_type() != was.kind.mount_type() {
            return Some((
                number,
                format!("is gone: it was {}, and is {}", was.kind, is.kind),
            ));
        }
        if is.uuid != was.uuid {
            let name = |fs: &FileSystem| fs.uuid.clone().unwrap_or_else(|| "none".to_owned());
            return Some((
                number,
                format!(
                    "is a different one: its UUID was {}, and is {}",
                    name(was),
                    name(is)
                ),
            ));
        }
        Some((number, is.dirty.clone()?))
    };
    before.file_systems().filter_map(wrong).collect()
}

/// Tells what sealing may drop. The guest's file systems are closed, so what is free now stays so.
fn report_unused(disk: &File, layout: &DiskLayout, socket: &mut File) -> Result<(), Problem> {
    let failed = |e: io::Error| Problem::io("read", "the block bitmaps", &e);
    let disk = DiskFile::new(disk.try_clone().map_err(failed)?).map_err(failed)?;
    for (number, ..) in layout.file_systems() {
        let ranges = guest::unused_of(&disk, layout, number).map_err(failed)?;
        for ranges in ranges.chunks(MAX_RANGES) {
            let ranges = ranges
                .iter()
                .map(|range| (range.start, range.end))
                .collect();
            let report = SupervisorEvent::Unused { number, ranges };
            protocol::write(socket, &report).map_err(|e| Problem::io("write to", "impasto", &e))?;
        }
    }
    Ok(())
}
