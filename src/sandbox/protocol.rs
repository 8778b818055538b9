//! The framed protocol between impasto and the agent that runs steps inside a sandbox.
//!
//! Knows messages and frames, not how they travel: a socket pair here, a virtio port in a vm, so nothing but bytes
//! crosses. This file is compiled into impasto and into the agent. A frame is a length (u32, little-endian, at most
//! [`MAX_FRAME`]) and one message in MessagePack.
//!
//! impasto asks, the agent answers: every request but `Data` gets exactly one answer, which `Log` frames may precede.

use std::fmt;
use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Bumped when a message changes its meaning; both sides are built together, so a difference is a broken build.
pub const VERSION: u32 = 4;

/// Longest frame in bytes.
pub const MAX_FRAME: usize = 1 << 20;

/// Longest piece of a file in one `Data` message, in bytes.
pub const MAX_DATA: usize = 256 << 10;

/// Longest piece of a step's output in one `Log` message, in bytes.
pub const MAX_LOG: usize = 32 << 10;

/// Most files of one [`Request::Examine`].
pub const MAX_EXAMINED: usize = 8;

/// Where the agent keeps what belongs to the job, inside the guest. A tmpfs.
pub const RUN_DIR: &str = "/run/impasto";

/// Below [`RUN_DIR`]: the root file system once more, after [`AgentStep::ShowRoot`].
pub const ROOT: &str = "root";

/// Below [`RUN_DIR`]: directories of the host that steps can write to.
pub const CACHES: &str = "caches";

/// A request to the agent.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// The first frame.
    Hello {
        /// [`VERSION`] of the sender.
        version: u32,
        /// To be repeated in `Done`, which nothing else in the guest can forge.
        nonce: [u8; 16],
    },
    /// Make the guest: devices, mounts, environment.
    Setup(Setup),
    /// A file for the job follows, as `Data` and one `End`; the answer comes after `End`.
    PutFile {
        place: RunSubdir,
        /// Its name: one path component.
        name: String,
        mode: u32,
    },
    /// A piece of the file.
    Data(ByteBuf),
    /// The file is complete.
    End,
    /// Remember what is at these paths before the first step.
    SnapshotVolatile {
        /// Absolute paths in the guest; `*` stands for any bytes within one part, a directory for all that is below it.
        volatile: Vec<String>,
    },
    Step(AgentStep),
    /// Run a shell, or one line of it, on the agent's own terminal.
    Shell {
        /// The line; `None` is an interactive shell.
        line: Option<String>,
    },
    /// What there is to see after a step failed. Files: absolute paths, or names to look for in the steps' `PATH`.
    Examine {
        /// At most [`MAX_EXAMINED`] of them are looked at.
        files: Vec<String>,
    },
    /// Kill every process that steps left behind.
    KillRemaining,
    /// Send back a regular file.
    Collect {
        /// Its absolute path in the guest.
        path: String,
        /// Most bytes of data; holes do not count.
        most: u64,
    },
    /// Empty or remove the files that are at the noted paths and were not there before, or not like this. To be asked
    /// after `KillRemaining`.
    RestoreVolatile,
    /// Unmount everything and exit.
    Finish,
}

/// What the agent answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The request is done.
    Ok,
    /// The guest's world is made.
    Made {
        /// Number of the node that is the root.
        root: u32,
        /// Numbers of all nodes that are mounted.
        mounted: Vec<u32>,
    },
    /// The request failed; but for `Setup` the agent stays usable, so that file systems can be closed.
    Problem(Problem),
    /// Output of a step, as it came.
    Log {
        /// Which of its outputs.
        stream: Stream,
        /// At most [`MAX_LOG`].
        bytes: ByteBuf,
    },
    /// A step's process ended.
    Exited {
        /// Its exit code, `None` where a signal ended it.
        code: Option<i32>,
        signal: Option<i32>,
    },
    /// The job has reached a limit, and is worth nothing.
    Limit(Limit),
    Facts(StepFacts),
    /// A collected file begins; `Data`, `Hole` and `Ok` follow.
    Output {
        /// Its length in bytes.
        size: u64,
        mode: u32,
    },
    /// A piece of it.
    Data(ByteBuf),
    /// So many zeros of it, in bytes.
    Hole(u64),
    /// Everything is unmounted; the last frame.
    Done {
        /// The nonce of `Hello`.
        nonce: [u8; 16],
    },
}

/// What the agent saw of steps of which one failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepFacts {
    /// The disk's file systems, the root first.
    pub spaces: Vec<Space>,
    /// The files that were asked for, those that can be told something of.
    pub files: Vec<FileFacts>,
}

/// Space on a file system: what it has, and the least that was free while steps ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Where it is mounted.
    pub path: String,
    /// Bytes that it has for files.
    pub size: u64,
    /// Bytes that were free.
    pub free: u64,
    /// Inodes that it has; 0 where it makes them as they are needed.
    pub inodes: u64,
    /// Inodes that were free.
    pub free_inodes: u64,
}

/// A file in the guest that a step may have failed to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// As it was asked for.
    pub name: String,
    /// Its permission bits; none where there is no such file.
    pub mode: Option<u32>,
    /// It is a directory.
    pub directory: bool,
    /// No program can be started from its file system.
    pub noexec: bool,
    /// The program that its first line or its header names to start it, where the guest does not have that.
    pub lacks: Option<String>,
}

/// A directory below [`RUN_DIR`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunSubdir {
    /// Files that steps read, or that the agent copies into the image.
    Inputs,
    /// Scripts that steps run.
    Scripts,
    /// Secrets: never on a disk, readable by root only.
    Secrets,
}

impl RunSubdir {
    /// Name of the directory.
    pub fn dir(self) -> &'static str {
        match self {
            Self::Inputs => "inputs",
            Self::Scripts => "scripts",
            Self::Secrets => "secrets",
        }
    }
}

/// Which output of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// A block device by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub major: u32,
    pub minor: u32,
}

/// The disk or one of its partitions, as the guest shall see it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiskNode {
    /// 0 is the disk itself.
    pub number: u32,
    pub device: Device,
    /// Type to mount it as, where it can be mounted.
    pub mount_type: Option<String>,
    /// Type in words, for messages.
    pub describe: String,
    /// It holds other volumes: LVM2, LUKS, md.
    pub is_container: bool,
    pub uuid: Option<String>,
    pub label: Option<String>,
    /// UUID of the partition.
    pub part_uuid: Option<String>,
}

/// What to make before the first step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// The disk and its partitions.
    pub disk: Vec<DiskNode>,
    /// Numbers of the nodes that may be the root. One: it is. Several: the only one that holds `/bin/sh`.
    pub root: Vec<u32>,
    pub host_name: String,
    /// How many CPUs steps may use, where not all.
    pub cpus: Option<u32>,
    /// Environment of steps, complete.
    pub env: Vec<(String, String)>,
    /// Files of the host to lay over the image's, for steps with network: path in the guest and content.
    pub overlays: Vec<(String, ByteBuf)>,
    /// Files of the host's policy to write below [`RUN_DIR`], for steps with network: relative path, permission bits and
    /// content.
    pub policy: Vec<(String, u32, ByteBuf)>,
    /// Directories of the host to show below [`RUN_DIR`], read-only: relative path, and the host's path.
    pub trees: Vec<(String, String)>,
    /// Directories of the host to show in [`CACHES`] below [`RUN_DIR`], writable: name, and the host's path.
    pub caches: Vec<(String, String)>,
    /// Modification time of the files that the agent writes, in seconds.
    pub source_date_epoch: Option<u64>,
    /// Whether steps may mount, make devices and make namespaces.
    pub privileged: bool,
    /// The machine that the steps' programs are for, where it is another one: [`EMULATOR`] among the scripts runs them.
    pub emulated: Option<String>,
    /// Most bytes of files in memory.
    pub tmpfs: u64,
    /// What the agent watches, where no control group does.
    pub watch: Option<Ceiling>,
}

/// The name of the emulator's program among [`RunSubdir::Scripts`]. No step's script is called so.
pub const EMULATOR: &str = "-emulator";

/// What all processes of a job may use together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ceiling {
    pub processes: u64,
    /// Bytes of memory.
    pub memory: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    Processes,
    Memory,
    Tmpfs,
    /// The length of a secret.
    Secret,
    Log,
    /// The data of an output.
    Output,
}

/// One primitive that the agent does. Closed: a new one is a change of the engine epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentStep {
    /// Runs a file of [`RunSubdir::Scripts`] as `/bin/sh -e FILE`, or by its shebang.
    Script { name: String },
    /// Runs `/bin/sh -ec LINE`.
    Command { line: String },
    /// Copies a file of [`RunSubdir::Inputs`] into the image.
    CopyIn {
        input: String,
        /// Absolute path in the guest: the file to be, or the directory a tar stream is laid out in.
        dest: String,
        /// Permission bits of the file; `None` keeps the input's. A tar stream carries its own.
        mode: Option<u32>,
        /// Owner; `None` is root, or what a tar stream says.
        owner: Option<FileOwner>,
        /// What the input is.
        kind: InputKind,
        /// Time of the file, in seconds since 1970; `None` is the job's `source_date_epoch`. A tar stream carries its own.
        modified: Option<u64>,
    },
    /// Writes a small file.
    WriteFile {
        /// Absolute path in the guest.
        path: String,
        content: ByteBuf,
        mode: u32,
    },
    /// Applies the [`Change`]s in a file of [`RunSubdir::Inputs`] to one file system.
    Patch {
        input: String,
        /// The partition's number, 0 is the disk itself.
        partition: u32,
    },
    /// Runs the processes of further steps in this directory, which is made where it is not there, as this user.
    WorkIn {
        /// Absolute path in the guest.
        dir: String,
        /// A name of the guest's `/etc/passwd`; `None` is root. The directory, the secrets and the caches become the user's.
        user: Option<String>,
    },
    /// Mounts the root once more at [`ROOT`] below [`RUN_DIR`], without what is mounted on it.
    ShowRoot,
    /// Removes a file or a directory with all below it; fine if it is not there. Symbolic links are not followed.
    Remove {
        /// Absolute path in the guest.
        path: String,
    },
}

/// A change of one file, in a file of [`RunSubdir::Inputs`]: each is a frame; the content of a [`PatchNode::File`] follows it as
/// bare bytes, its runs one after the other.
///
/// What is removed comes first, the deepest first; then what is put, ascending by path. A directory whose content
/// changes is put too, as its time is to be given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Nothing shall be at this path.
    Remove {
        /// From the file system's root on.
        path: ByteBuf,
    },
    Put(Put),
}

/// What shall be at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// From the file system's root on.
    pub path: ByteBuf,
    pub node: PatchNode,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Modification time: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes, all of them.
    pub xattrs: Vec<(ByteBuf, ByteBuf)>,
}

/// What is put at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PatchNode {
    /// What is there, with another owner, mode, time or attributes.
    Kept,
    Dir,
    File {
        /// Its length in bytes.
        size: u64,
        /// Offset and length of its content, ascending; all else is zero.
        runs: Vec<(u64, u64)>,
        /// Not the file that is there: that one has other names, or had.
        fresh: bool,
    },
    Symlink {
        target: ByteBuf,
    },
    /// Another name of a file.
    HardLink {
        first: ByteBuf,
    },
    Char(u32, u32),
    /// A block device.
    Block(u32, u32),
    Fifo,
    Socket,
}

/// User and group, each a number or a name that the guest's `/etc/passwd` and `/etc/group` know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileOwner {
    pub user: String,
    pub group: String,
}

/// What an input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InputKind {
    File,
    /// A tree, as a tar stream that impasto made.
    Tar,
}

/// What went wrong in the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Class of it, where somebody acts on that.
    pub kind: ProblemKind,
    /// What was tried: "mount", "read the output".
    pub what: String,
    /// The path it was tried on.
    pub path: Option<String>,
    /// The system's error number.
    pub errno: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProblemKind {
    /// A system call failed.
    Io,
    /// The host lacks something: the path names it.
    HostLacks,
    /// The image has no `/bin/sh`.
    NoShell,
    /// The image's `/bin/sh` is for another machine, whose programs are not emulated: the path is that machine's name.
    ForeignShell,
    /// No file system, or several, can be the root.
    NoRoot,
    /// An output is not there.
    OutputMissing,
    /// An output is no regular file.
    OutputRefused,
    /// Guest data could not be written.
    WriteBack,
    /// A file system is not clean after unmounting.
    Dirty,
    /// A message that makes no sense here.
    Protocol,
}

impl Problem {
    /// A failed system call.
    pub fn io(what: &str, path: impl Into<String>, error: &io::Error) -> Self {
        let errno = error.raw_os_error();
        let path = Some(path.into());
        if errno.is_some() {
            return Self {
                kind: ProblemKind::Io,
                what: what.to_owned(),
                path,
                errno,
            };
        }
        // An error that is not the system's own tells its reason in words, sometimes in those of its causes.
        let mut text = format!("cannot {what} ({error}");
        let mut cause = error.get_ref().and_then(|error| error.source());
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        Self {
            kind: ProblemKind::Io,
            what: text + "):",
            path,
            errno,
        }
    }

    /// A problem without error number.
    pub fn new(kind: ProblemKind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            path: None,
            errno: None,
        }
    }

    /// The same, of another class.
    #[must_use]
    pub fn of_kind(mut self, kind: ProblemKind) -> Self {
        self.kind = kind;
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.errno.is_some() {
            f.write_str("cannot ")?;
        }
        f.write_str(&self.what)?;
        if let Some(path) = &self.path {
            write!(f, " {}", path.escape_debug())?;
        }
        match self.errno {
            Some(errno) => write!(f, ": {}", io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}

/// A frame that is not one.
#[derive(Debug)]
pub enum FrameError {
    /// Longer than [`MAX_FRAME`], in bytes.
    TooLong(usize),
    /// No message of this protocol.
    Garbage(String),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(length) => write!(
                f,
                "a frame claims {length} bytes, at most {MAX_FRAME} are allowed"
            ),
            Self::Garbage(reason) => write!(f, "a frame holds no message: {reason}"),
        }
    }
}

impl std::error::Error for FrameError {}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Makes a frame of a message.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; 4];
    rmp_serde::encode::write(&mut frame, message)
        .map_err(|error| FrameError::Garbage(error.to_string()))?;
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(frame)
}

/// Reads the first message of `bytes` and how many bytes it took; `None` where the frame is not complete yet.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<Option<(T, usize)>, FrameError> {
    let Some((head, rest)) = bytes.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*head) as usize;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    let Some(body) = rest.get(..length) else {
        return Ok(None);
    };
    let mut reader = rmp_serde::Deserializer::new(body);
    // No message nests deeper than a handful; a bomb ends here.
    reader.set_max_depth(32);
    let message =
        T::deserialize(&mut reader).map_err(|error| FrameError::Garbage(error.to_string()))?;
    let left = reader.get_ref().len();
    if left > 0 {
        return Err(FrameError::Garbage(format!("{left} bytes are left over")));
    }
    Ok(Some((message, 4 + length)))
}

/// Reads one message from a blocking stream; `None` at its end.
pub fn read<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<Option<T>> {
    let mut frame = vec![0; 4];
    let mut got = 0;
    while got < 4 {
        match stream.read(&mut frame[got..]) {
            Ok(0) if got == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let length = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length).into());
    }
    frame.resize(4 + length, 0);
    stream.read_exact(&mut frame[4..])?;
    match decode(&frame)? {
        Some((message, _)) => Ok(Some(message)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Writes one message to a blocking stream.
pub fn write<T: Serialize>(stream: &mut impl Write, message: &T) -> io::Result<()> {
    stream.write_all(&encode(message)?)
}
