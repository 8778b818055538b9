//! Runs the processes of steps, and passes on what they print.
//!
//! Knows processes, not the image's content. The agent is pid 1 of the guest's namespace, so every orphan is its child.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, chdir, getpgrp, kill_process_group,
    pidfd_open, setpgid, setsid, umask, wait,
};
use rustix::termios::tcsetpgrp;
use serde_bytes::ByteBuf;

use crate::base::bounded;
use crate::confine;
use crate::emulate::{self, EmulateError, Mapper};
use crate::facts::Gauge;
use crate::files;
use crate::memory;
use crate::mounts::GuestMounts;
use crate::protocol::{
    AgentStep, Answer, EMULATOR, Limit, MAX_LOG, Problem, ProblemKind, RUN_DIR, RunSubdir,
    StepFacts, Stream,
};
use crate::serve::Channel;
use crate::sys;
use crate::usage::Watcher;
use crate::workplace::{self, Workplace};

/// First argument of the agent when it turns itself into a step's process.
pub(crate) const LAUNCH: &str = "launch";

/// Argument after it: the step may mount, make devices and make namespaces, or not.
const PRIVILEGED: &str = "privileged";
const CONFINED: &str = "confined";

/// The argument after that: the architecture of the programs, where they are emulated, or this.
const NATIVE: &str = "native";

/// What the kernel shall end first where the host itself runs out of memory (proc_pid_oom_score_adj(5)).
const FIRST_TO_GO: &str = "500";

/// How often orphans are reaped while a step runs.
const REAP_INTERVAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

const SHELL: &str = "/bin/sh";

/// Starts steps. Their outputs are one pair of pipes for the whole job: a process that stays behind may still print.
pub(crate) struct Runner {
    /// The agent's own executable, to become a step with.
    executable: OwnedFd,
    outputs: [(Stream, OwnedFd); 2],
    inputs: [OwnedFd; 2],
    /// What a shell reads from.
    terminal: Option<OwnedFd>,
    /// How full the disk becomes.
    gauge: Gauge,
    /// Where the steps from now on run.
    workplace: RefCell<Workplace>,
}

impl Runner {
    pub(crate) fn new(terminal: Option<OwnedFd>) -> io::Result<Self> {
        if let Some(terminal) = &terminal {
            fcntl_setfd(terminal, FdFlags::CLOEXEC)?;
        }
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let executable = rustix::fs::open("/proc/self/exe", flags, Mode::empty())?;
        let (stdout, stdout_in) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, stderr_in) = pipe_with(PipeFlags::CLOEXEC)?;
        for pipe in [&stdout, &stderr] {
            fcntl_setfl(pipe, OFlags::NONBLOCK)?;
        }
        let outputs = [(Stream::Stdout, stdout), (Stream::Stderr, stderr)];
        Ok(Self {
            executable,
            outputs,
            inputs: [stdout_in, stderr_in],
            terminal,
            gauge: Gauge::new(),
            workplace: RefCell::default(),
        })
    }

    /// Does one step. The outer error is a broken channel.
    pub(crate) fn run(
        &self,
        channel: &mut Channel,
        guest_mounts: &GuestMounts,
        step: &AgentStep,
    ) -> io::Result<Result<Answer, Problem>> {
        let answer = self.run_unlimited(channel, guest_mounts, step)?;
        Ok(if tmpfs_is_full() {
            Ok(Answer::Limit(Limit::Tmpfs))
        } else {
            answer
        })
    }

    fn run_unlimited(
        &self,
        channel: &mut Channel,
        guest_mounts: &GuestMounts,
        step: &AgentStep,
    ) -> io::Result<Result<Answer, Problem>> {
        let arguments = match step {
            AgentStep::Script { name } => match script(name) {
                Ok(arguments) => arguments,
                Err(problem) => return Ok(Err(problem)),
            },
            AgentStep::Command { line } => vec![SHELL.into(), "-ec".into(), line.into()],
            AgentStep::WorkIn { dir, user } => {
                let made = Workplace::make(dir, user.as_deref(), self.inputs.iter());
                return Ok(made.map(|workplace| {
                    self.workplace.replace(workplace);
                    Answer::Exited {
                        code: Some(0),
                        signal: None,
                    }
                }));
            }
            AgentStep::ShowRoot => {
                return Ok(guest_mounts.show_root().map(|()| Answer::Exited {
                    code: Some(0),
                    signal: None,
                }));
            }
            other => {
                return Ok(files::apply(guest_mounts, other).map(|()| Answer::Exited {
                    code: Some(0),
                    signal: None,
                }));
            }
        };
        if let Err(problem) = demand_shell(&arguments, guest_mounts) {
            return Ok(Err(problem));
        }
        match self.spawn(guest_mounts, &arguments) {
            Ok(pid) => self.follow(channel, guest_mounts, pid),
            Err(error) => Ok(Err(Problem::io(
                "start",
                arguments[0].to_string_lossy(),
                &error,
            ))),
        }
    }

    fn command(
        &self,
        guest_mounts: &GuestMounts,
        workplace: &Workplace,
        arguments: &[OsString],
    ) -> Command {
        let executable = PathBuf::from(format!("/proc/self/fd/{}", self.executable.as_raw_fd()));
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the sandbox, which runs programs"
        )]
        let mut command = Command::new(executable);
        let confinement = if guest_mounts.setup.privileged {
            PRIVILEGED
        } else {
            CONFINED
        };
        let emulated = guest_mounts.setup.emulated.as_deref();
        command
            .args([LAUNCH, confinement, emulated.unwrap_or(NATIVE)])
            .args(workplace.arguments())
            .args(arguments)
            .env_clear()
            .envs(
                guest_mounts
                    .setup
                    .env
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .envs(workplace.env());
        command
    }

    fn spawn(&self, guest_mounts: &GuestMounts, arguments: &[OsString]) -> io::Result<Pid> {
        let child = self
            .command(guest_mounts, &self.workplace.borrow(), arguments)
            .stdin(Stdio::null())
            .stdout(self.inputs[0].try_clone()?)
            .stderr(self.inputs[1].try_clone()?)
            .spawn()?;
        Ok(Pid::from_child(&child))
    }

    /// Passes on output until the process has ended.
    fn follow(
        &self,
        channel: &mut Channel,
        guest_mounts: &GuestMounts,
        pid: Pid,
    ) -> io::Result<Result<Answer, Problem>> {
        let mut watcher = guest_mounts.setup.watch.map(Watcher::new);
        let ended = pidfd_open(pid, PidfdFlags::empty())?;
        loop {
            let mut fds = [
                PollFd::new(&self.outputs[0].1, PollFlags::IN),
                PollFd::new(&self.outputs[1].1, PollFlags::IN),
                PollFd::new(&ended, PollFlags::IN),
            ];
            match poll(&mut fds, Some(&REAP_INTERVAL)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.gauge.look(guest_mounts);
            // Exit is looked at before output: what was printed before it is then in the pipes.
            let status = reap(Some(pid));
            self.pass_on(channel)?;
            if let Some(status) = status {
                let answer = Answer::Exited {
                    code: status.exit_status(),
                    signal: status.terminating_signal(),
                };
                return Ok(Ok(answer));
            }
            let full = tmpfs_is_full().then_some(Limit::Tmpfs);
            if let Some(limit) = full.or_else(|| watcher.as_mut()?.look()) {
                self.kill_remaining();
                return Ok(Ok(Answer::Limit(limit)));
            }
        }
    }

    fn pass_on(&self, channel: &mut Channel) -> io::Result<()> {
        let mut buffer = vec![0; MAX_LOG];
        for (stream, pipe) in &self.outputs {
            // One pipe's worth per turn: a process that never stops printing must not hide its own end.
            for _ in 0..4 {
                match rustix::io::read(pipe, &mut buffer[..]) {
                    Ok(0) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => break,
                    Ok(count) => {
                        let bytes = ByteBuf::from(&buffer[..count]);
                        channel.send(&Answer::Log {
                            stream: *stream,
                            bytes,
                        })?;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Runs a shell on the agent's own standard output and error, and the terminal that it was given.
    pub(crate) fn shell(
        &self,
        guest_mounts: &GuestMounts,
        line: Option<&str>,
    ) -> Result<Answer, Problem> {
        let mut arguments: Vec<OsString> = vec![SHELL.into()];
        arguments.extend(
            line.map(|line| ["-c".into(), line.into()])
                .into_iter()
                .flatten(),
        );
        demand_shell(&arguments, guest_mounts)?;
        let run = || -> io::Result<WaitStatus> {
            let stdin = match &self.terminal {
                Some(terminal) => Stdio::from(terminal.try_clone()?),
                None => Stdio::null(),
            };
            let child = self
                .command(guest_mounts, &Workplace::default(), &arguments)
                .stdin(stdin)
                .spawn()?;
            let pid = Pid::from_child(&child);
            loop {
                // Whoever ends is reaped, as pid 1 has to.
                if let Some((ended, status)) = wait(WaitOptions::empty())?
                    && ended == pid
                {
                    return Ok(status);
                }
            }
        };
        let status = run().map_err(|e| Problem::io("run", SHELL, &e))?;
        Ok(Answer::Exited {
            code: status.exit_status(),
            signal: status.terminating_signal(),
        })
    }

    /// What there is to see of the step that has just failed.
    pub(crate) fn facts(&self, guest_mounts: &GuestMounts, files: &[String]) -> StepFacts {
        self.gauge.facts(guest_mounts, files)
    }

    /// Kills every process but the agent, and waits until they are gone.
    pub(crate) fn kill_remaining(&self) {
        // As process group this is kill(-1): everything that a process may signal, which for pid 1 is its namespace.
        // An error says that nobody is left.
        let _ = kill_process_group(Pid::INIT, Signal::KILL);
        while !matches!(wait(WaitOptions::empty()), Err(rustix::io::Errno::CHILD)) {}
    }
}

/// Reaps every child that has ended; the status of `wanted` if it is among them.
fn reap(wanted: Option<Pid>) -> Option<WaitStatus> {
    let mut found = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if Some(pid) == wanted {
            found = Some(status);
        }
    }
    found
}

/// A script runs by its shebang, or as `/bin/sh -e FILE`.
fn script(name: &str) -> Result<Vec<OsString>, Problem> {
    let path = files::job_path(RunSubdir::Scripts, name)?;
    let mut start = [0; 2];
    let mut file =
        bounded::open(&path).map_err(|e| Problem::io("open", path.to_string_lossy(), &e))?;
    let has_shebang = file.read_exact(&mut start).is_ok() && &start == b"#!";
    Ok(if has_shebang {
        vec![path.into()]
    } else {
        vec![SHELL.into(), "-e".into(), path.into()]
    })
}

fn demand_shell(arguments: &[OsString], guest_mounts: &GuestMounts) -> Result<(), Problem> {
    if arguments[0] != SHELL {
        return Ok(());
    }
    let mut header = [0; 20];
    let read = bounded::open(Path::new(SHELL)).and_then(|mut shell| shell.read_exact(&mut header));
    // What cannot be read, or is no ELF file, fails when it is started.
    let machine = match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Problem::new(
                ProblemKind::NoShell,
                "the image has no /bin/sh",
            ));
        }
        Ok(()) if header.starts_with(b"\x7fELF") => {
            match u16::from_le_bytes([header[18], header[19]]) {
                62 => "amd64",
                183 => "arm64",
                _ => return Ok(()),
            }
        }
        _ => return Ok(()),
    };
    let own = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    if machine == own || guest_mounts.setup.emulated.as_deref() == Some(machine) {
        return Ok(());
    }
    Err(Problem {
        kind: ProblemKind::ForeignShell,
        what: "the image's /bin/sh is a program for".to_owned(),
        path: Some(machine.to_owned()),
        errno: None,
    })
}

/// Becomes a step's process: what a parent cannot set for it, then the program.
pub(crate) fn launch(arguments: Vec<OsString>) -> ExitCode {
    let complain = |what: &str, error: io::Error| {
        // The reader of the log is the only one left to tell.
        let _ = writeln!(io::stderr(), "impasto: cannot {what}: {error}");
        ExitCode::from(if error.kind() == io::ErrorKind::NotFound {
            127
        } else {
            126
        })
    };
    let [confinement, machine, dir, uid, gid, program, rest @ ..] = arguments.as_slice() else {
        return complain("start nothing", io::ErrorKind::InvalidInput.into());
    };
    let emulated = machine.to_str().filter(|machine| *machine != NATIVE);
    let prepared = prepare(confinement == PRIVILEGED, Path::new(dir), emulated)
        .and_then(|()| workplace::parse_user(uid, gid));
    let user = match prepared {
        Ok(user) => user,
        Err(error) => return complain("prepare the process", error),
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the sandbox, which runs programs"
    )]
    let mut command = Command::new(program);
    if let Some((uid, gid)) = user {
        // Further groups are dropped with it.
        command.uid(uid).gid(gid);
    }
    let error = command.args(rest).exec();
    complain(&format!("start {}", Path::new(program).display()), error)
}

fn prepare(privileged: bool, dir: &Path, emulated: Option<&str>) -> io::Result<()> {
    let stdin = io::stdin();
    if rustix::termios::isatty(stdin.as_fd()) {
        // In front of the terminal in a group of its own, as a shell expects that wants to control jobs.
        setpgid(None, None)?;
        sys::ignore_background_output(true);
        tcsetpgrp(stdin.as_fd(), getpgrp())?;
        sys::ignore_background_output(false);
    } else {
        // No terminal that the step was not given.
        setsid()?;
    }
    umask(Mode::WGRP | Mode::WOTH);
    chdir(dir)?;
    // Where somebody else has decided it, that stands.
    let _ = fs::write("/proc/self/oom_score_adj", FIRST_TO_GO);
    if let Some(architecture) = emulated {
        emulate(architecture).map_err(|error| io::Error::other(error.to_string()))?;
    }
    // Not before: a new user namespace would give all of them.
    confine::drop_capabilities(privileged)?;
    // The right to install a filter ends with the program that is started now.
    sys::filter_calls(&confine::filter(privileged))
}

/// Lets the emulator that came with the job run programs of another machine.
fn emulate(architecture: &str) -> Result<(), EmulateError> {
    let emulator = Path::new(RUN_DIR)
        .join(RunSubdir::Scripts.dir())
        .join(EMULATOR);
    let mapper = Mapper::start(&[])?;
    emulate::enter(architecture, &emulator, mapper, sys::unshare)
}

/// Whether the files in memory have come to their limit.
fn tmpfs_is_full() -> bool {
    memory::is_full(Path::new("/run"))
}
