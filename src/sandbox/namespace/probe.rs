//! Tries what the namespace sandbox needs of the host, piece by piece, and lets go of it again.
//! Knows pieces, and no job: what is served and attached is an empty disk, and nothing is ever mounted on it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{getegid, geteuid};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use super::export::Export;
use super::loopdev::LoopDevice;
use super::make_overlay;
use super::process::Supervisor;
use super::request::{ExportSpec, GuestSpec, SupervisorRequest};
use super::supervisor::{SUPERVISOR_ARGUMENT, isolate};
use crate::base::cancel::CancelToken;
use crate::sandbox::link::LinkError;
use crate::sandbox::protocol::{self, Problem};
use crate::sandbox::{SandboxError, sys};

/// Second argument that makes a supervisor the process that becomes root of a user namespace.
pub(super) const USER_NAMESPACE: &str = "user-namespace";

/// How long all pieces may take together; they take a tenth of a second.
const DEADLINE: Duration = Duration::from_secs(15);

/// Bytes of the disk that is served.
const DISK_SIZE: u64 = 1 << 20;

/// What the sandbox needs, in the order in which it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbePiece {
    /// Name spaces of processes, mounts, IPC, host name and network, with a loopback interface that is up.
    NameSpaces,
    /// A disk that the storage daemon serves as a file, by FUSE.
    Served,
    /// A loop device on that file, or where there is none on another one.
    LoopDevice,
}

const PIECES: [ProbePiece; 3] = [
    ProbePiece::NameSpaces,
    ProbePiece::Served,
    ProbePiece::LoopDevice,
];

/// How it went with one piece. Each is one frame to impasto.
#[derive(Debug, Serialize, Deserialize)]
struct Tried {
    piece: ProbePiece,
    problem: Option<Problem>,
}

/// How it went in a user namespace: what failed, where something did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNameSpace {
    /// To become root in one, and mount there.
    pub root: Result<(), String>,
    /// To give it emulators of its own, for programs of another architecture.
    pub emulators: Result<(), String>,
}

/// Tries every piece, as root. `executable` is the impasto binary, `work` a private, empty directory.
///
/// What was not reached has no entry: a piece without which the others cannot be tried is the last one.
pub fn probe(
    executable: &Path,
    work: &Path,
    cancel: CancelToken,
) -> Vec<(ProbePiece, Result<(), String>)> {
    let mut tried = Vec::new();
    if let Err(reason) = hold(executable, work, cancel, &mut tried)
        && let Some(piece) = PIECES.get(tried.len())
    {
        tried.push((*piece, Err(reason)));
    }
    tried
}

fn hold(
    executable: &Path,
    work: &Path,
    cancel: CancelToken,
    tried: &mut Vec<(ProbePiece, Result<(), String>)>,
) -> Result<(), String> {
    let said = |error: SandboxError| crate::base::human::with_causes(&error);
    let overlay = work.join("overlay.qcow2");
    make_overlay(&overlay, DISK_SIZE).map_err(said)?;
    let mut supervisor = Supervisor::start(executable, work).map_err(said)?;
    let mut link = supervisor
        .link(Some(Instant::now() + DEADLINE), cancel, None)
        .map_err(said)?;
    let plan = GuestSpec {
        work: work.to_path_buf(),
        disk: ExportSpec {
            path: work.join("disk.raw"),
            overlay,
            chain: Vec::new(),
        },
        network: false,
        terminal: false,
        groups: Vec::new(),
    };
    let ask = || -> Result<(), LinkError> {
        link.send(&SupervisorRequest::Probe(plan))?;
        while tried.len() < PIECES.len() {
            let Tried { piece, problem } = link.receive()?;
            tried.push((
                piece,
                problem.map_or(Ok(()), |problem| Err(problem.to_string())),
            ));
        }
        Ok(())
    };
    let asked = ask();
    // Closing the channel ends everything at once; after success the processes are about to end by themselves.
    let link = asked.is_ok().then_some(link);
    let ended = supervisor.end();
    drop(link);
    match asked {
        Ok(()) => ended.map(drop).map_err(said),
        Err(LinkError::TimedOut) => Err(format!("no answer in {} s", DEADLINE.as_secs())),
        Err(LinkError::Cancelled) => Err("interrupted".to_owned()),
        Err(LinkError::Limit(_)) => panic!("BUG: a probe has no limits"),
        Err(LinkError::Broken(reason)) => Err(said(supervisor.broken(reason))),
    }
}

pub(super) fn serve(plan: &GuestSpec, socket: &mut File) -> io::Result<bool> {
    let mut tell =
        |piece, problem: Option<Problem>| protocol::write(socket, &Tried { piece, problem });
    tell(ProbePiece::NameSpaces, isolate(false).err())?;
    let export = Export::start(&plan.disk);
    tell(ProbePiece::Served, export.as_ref().err().cloned())?;
    let path = export
        .as_ref()
        .map_or(plan.disk.overlay.as_path(), Export::path);
    let attach = || {
        let file = File::options().read(true).write(true).open(path);
        let file = file.map_err(|error| Problem::io("open", path.to_string_lossy(), &error))?;
        LoopDevice::attach(&file)?.detach()
    };
    let attached = attach();
    // It is ended before the answer, after which nobody waits any more.
    let stopped = export.is_err() || export.is_ok_and(|export| export.stop().is_ok());
    tell(ProbePiece::LoopDevice, attached.err())?;
    Ok(stopped)
}

/// Tries to be root of a user namespace, as whatever user this is. `executable` is the impasto binary.
pub fn probe_user_namespace(executable: &Path) -> UserNameSpace {
    let failed = |reason: String| UserNameSpace {
        root: Err(reason.clone()),
        emulators: Err(reason),
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the sandbox, which runs programs"
    )]
    let output = Command::new(executable)
        .args([SUPERVISOR_ARGUMENT, USER_NAMESPACE])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    match output {
        Ok(output) => serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| failed("it ended without a message".into())),
        Err(error) => failed(format!("cannot start {}: {error}", executable.display())),
    }
}

/// What that process does: tells on standard output how it went.
pub(super) fn user_namespace() -> io::Result<bool> {
    let said = |what: &'static str| move |error: io::Error| format!("cannot {what}: {error}");
    let root = become_root();
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let emulators = root
        .as_ref()
        .map_err(Clone::clone)
        .and_then(|()| {
            let mounted = mount("binfmt_misc", "/tmp", "binfmt_misc", flags, None);
            mounted.map_err(|errno| said("mount binfmt_misc in a user namespace")(errno.into()))
        })
        .map(drop);
    let text = serde_json::to_vec(&UserNameSpace { root, emulators })?;
    io::stdout().write_all(&text)?;
    Ok(true)
}

/// Makes a user and a group outside the root of this process's new user namespace.
pub(super) fn map_root((uid, gid): (u32, u32)) -> Result<(), String> {
    let said = |what: &'static str| move |error: io::Error| format!("cannot {what}: {error}");
    // Who has no right over groups must give that up first (user_namespaces(7)).
    fs::write("/proc/self/setgroups", "deny")
        .map_err(said("give up groups in a user namespace"))?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))
        .map_err(said("map the user of a user namespace"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
        .map_err(said("map the group of a user namespace"))
}

fn become_root() -> Result<(), String> {
    let said = |what: &'static str| move |error: io::Error| format!("cannot {what}: {error}");
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    sys::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)
        .map_err(said("create a user namespace"))?;
    map_root((uid, gid))?;
    if !geteuid().is_root() {
        return Err("the user of a new user namespace is not its root".to_owned());
    }
    let private = mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    );
    private.map_err(|errno| said("take mounts into a user namespace")(errno.into()))?;
    let mounted = mount(
        "tmpfs",
        "/tmp",
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        None,
    );
    mounted.map_err(|errno| said("mount a tmpfs in a user namespace")(errno.into()))
}
