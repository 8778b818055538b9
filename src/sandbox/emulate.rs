//! Runs programs of another machine by an emulator: registered with binfmt_misc in a user namespace of its own, so that
//! the host's registry stays as it is and the registration ends with the processes that it is for.
//!
//! Knows namespaces and the kernel's format of registrations (binfmt-misc.rst), not what is run. Compiled into impasto and
//! into the agent.
//!
//! Ids in the new namespace are those outside; a process that stayed outside must say so to the kernel, as the one that
//! left has no right to any more (user_namespaces(7)). It starts before, while its program can be found.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;

use crate::base::bounded;

/// Last argument of the process that tells the kernel its parent's ids.
pub(crate) const MAP_IDS: &str = "map-ids";

/// Where the registry is mounted.
const REGISTRY: &str = "/run/binfmt_misc";

/// Why programs of another machine cannot be run.
#[derive(Debug)]
pub(crate) enum EmulateError {
    /// The kernel, or the place, lacks something.
    Lacks(String),
    /// What could not be done, to what.
    Io(&'static str, String, io::Error),
}

impl fmt::Display for EmulateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EmulateError::Lacks(what) => f.write_str(what),
            EmulateError::Io(verb, what, source) => write!(f, "cannot {verb} {what}: {source}"),
        }
    }
}

fn failed(verb: &'static str, what: &str) -> impl FnOnce(io::Error) -> EmulateError {
    move |source| EmulateError::Io(verb, what.to_owned(), source)
}

/// The process that waits to tell the kernel this one's ids.
pub(crate) struct Mapper(Child);

impl Mapper {
    /// Starts it: this process's own program, with these arguments before [`MAP_IDS`].
    pub(crate) fn start(arguments: &[&str]) -> Result<Mapper, EmulateError> {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the sandbox, which runs programs"
        )]
        let mut command = Command::new("/proc/self/exe");
        command
            .args(arguments)
            .arg(MAP_IDS)
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        command
            .spawn()
            .map(Mapper)
            .map_err(failed("start", "a process that maps IDs"))
    }

    /// Lets it do its work, once.
    fn map(mut self) -> io::Result<bool> {
        let mut pipe = self.0.stdin.take();
        if let Some(pipe) = &mut pipe {
            pipe.write_all(b"\n")?;
        }
        drop(pipe);
        Ok(self.0.wait()?.success())
    }
}

/// What that process does: waits for its parent to have left for its namespace; then ids are there what they are here.
pub(crate) fn map_ids() -> io::Result<bool> {
    let here = |name: &str| bounded::read_text(format!("/proc/self/{name}"), bounded::LINES);
    if io::stdin().read(&mut [0])? == 0 {
        return Ok(false);
    }
    let parent = rustix::process::getppid().ok_or(io::ErrorKind::NotFound)?;
    for name in ["uid_map", "gid_map"] {
        // Lines of: first id inside, first id outside, how many (user_namespaces(7)).
        let same = here(name)?
            .lines()
            .filter_map(|line| {
                let mut fields = line.split_whitespace();
                let (inside, _, count) = (fields.next()?, fields.next()?, fields.next()?);
                Some(format!("{inside} {inside} {count}\n"))
            })
            .collect::<String>();
        fs::write(format!("/proc/{}/{name}", parent.as_raw_nonzero()), same)?;
    }
    Ok(true)
}

/// First bytes of a machine's programs, which of their bits matter, and the name of the emulator's program.
struct BinfmtEntry {
    magic: [u8; 20],
    mask: [u8; 20],
    emulator: &'static str,
}

impl BinfmtEntry {
    fn of(architecture: &str) -> Option<BinfmtEntry> {
        // 64 bits, little-endian, any ABI; an executable or a shared object; e_machine (elf.h).
        let (machine, emulator) = match architecture {
            "arm64" => (183, "qemu-aarch64-static"),
            "amd64" => (62, "qemu-x86_64-static"),
            _ => return None,
        };
        let mut magic = [0; 20];
        magic[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        (magic[16], magic[18]) = (2, machine);
        let mut mask = [0xff; 20];
        (mask[7], mask[16]) = (0, 0xfe);
        Some(BinfmtEntry {
            magic,
            mask,
            emulator,
        })
    }

    /// What the kernel is told; `F` opens the emulator now, so that it is found in every root.
    fn registration(&self, emulator: &Path) -> Vec<u8> {
        let escaped = |bytes: &[u8]| {
            bytes
                .iter()
                .map(|byte| format!("\\x{byte:02x}"))
                .collect::<String>()
        };
        format!(
            ":impasto:M::{}:{}:{}:F",
            escaped(&self.magic),
            escaped(&self.mask),
            emulator.display()
        )
        .into_bytes()
    }
}

/// The name of the program that runs those of an architecture, as Debian's qemu-user-static has it.
pub(crate) fn emulator_of(architecture: &str) -> Result<&'static str, EmulateError> {
    let entry = BinfmtEntry::of(architecture).ok_or_else(|| {
        EmulateError::Lacks(format!("no emulator is known for {architecture} programs"))
    })?;
    Ok(entry.emulator)
}

/// Moves this process into a user namespace in which programs of `architecture` are run by the program `emulator`.
/// `unshare` makes namespaces for it.
pub(crate) fn enter(
    architecture: &str,
    emulator: &Path,
    mapper: Mapper,
    unshare: impl FnOnce(UnshareFlags) -> io::Result<()>,
) -> Result<(), EmulateError> {
    let lacks = EmulateError::Lacks;
    let entry = BinfmtEntry::of(architecture)
        .ok_or_else(|| lacks(format!("no emulator is known for {architecture} programs")))?;
    if !emulator.exists() {
        return Err(lacks(format!(
            "the emulator {} is not there",
            emulator.display()
        )));
    }
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)
        .map_err(failed("create", "a user namespace"))?;
    match mapper.map() {
        Ok(true) => {}
        Ok(false) => return Err(lacks("cannot map the IDs of a user namespace".to_owned())),
        Err(error) => return Err(failed("map", "the IDs of a user namespace")(error)),
    }
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )
    .map_err(|error| failed("make private", "/")(error.into()))?;
    fs::create_dir_all(REGISTRY).map_err(failed("make", REGISTRY))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("binfmt_misc", REGISTRY, "binfmt_misc", flags, None).map_err(|error| {
        lacks(format!(
            "this kernel cannot run {architecture} programs: it has no emulators per user namespace ({error}); Linux \
             6.7 and later do if built with binfmt_misc"
        ))
    })?;
    let register = format!("{REGISTRY}/register");
    fs::write(&register, entry.registration(emulator)).map_err(failed("write to", &register))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_told_by_the_header_of_its_programs() {
        let machine = BinfmtEntry::of("arm64").unwrap();
        let emulator = Path::new("/usr/bin").join(emulator_of("arm64").unwrap());
        let text = String::from_utf8(machine.registration(&emulator)).unwrap();
        assert_eq!(
            text,
            ":impasto:M::\\x7f\\x45\\x4c\\x46\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00:\
             \\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff:\
             /usr/bin/qemu-aarch64-static:F"
        );
        assert!(BinfmtEntry::of("vax").is_none());
    }
}
