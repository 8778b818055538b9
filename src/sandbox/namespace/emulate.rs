//! Runs programs of another machine by the toolbox's emulator: registered with binfmt_misc in a user namespace of the
//! container's own, so that the host's registry stays as it is and the registration ends with the container.
//!
//! Knows namespaces and the kernel's format of registrations (binfmt-misc.rst), not what is run.
//!
//! Ids in the new namespace are those outside; a process that stayed outside must say so to the kernel, as the one that
//! left has no right to any more (user_namespaces(7)). It starts while the host's `/` is still there.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;

use super::supervisor::SUPERVISOR_ARGUMENT;
use crate::sandbox::protocol::{Problem, ProblemKind};
use crate::sandbox::sys;

use crate::base::bounded;

/// Second argument that makes a supervisor the process that tells the kernel the container's ids.
pub(super) const MAP_IDS: &str = "map-ids";

/// Where the container's registry is mounted.
const REGISTRY: &str = "/run/binfmt_misc";

/// The process that waits to tell the kernel the container's ids.
pub(super) struct Mapper(Child);

impl Mapper {
    /// Starts it. To be called while the host's `/` is this process's.
    pub(super) fn start() -> Result<Mapper, Problem> {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the sandbox, which runs programs"
        )]
        let mut command = Command::new("/proc/self/exe");
        command
            .args([SUPERVISOR_ARGUMENT, MAP_IDS])
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        command
            .spawn()
            .map(Mapper)
            .map_err(|error| Problem::io("start", "a process that maps IDs", &error))
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

/// What that process does: waits for its parent, pid 1, to have left for its namespace; then ids are there what they are
/// here.
pub(super) fn map_ids() -> io::Result<bool> {
    let here = |name: &str| bounded::read_text(format!("/proc/self/{name}"), bounded::LINES);
    if io::stdin().read(&mut [0])? == 0 {
        return Ok(false);
    }
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
        fs::write(format!("/proc/1/{name}"), same)?;
    }
    Ok(true)
}

/// First bytes of a machine's programs, which of their bits matter, and the emulator's path in the toolbox.
struct BinfmtEntry {
    magic: [u8; 20],
    mask: [u8; 20],
    emulator: &'static str,
}

impl BinfmtEntry {
    fn of(architecture: &str) -> Option<BinfmtEntry> {
        // 64 bits, little-endian, any ABI; an executable or a shared object; e_machine (elf.h).
        let (machine, emulator) = match architecture {
            "arm64" => (183, "/usr/bin/qemu-aarch64-static"),
            "amd64" => (62, "/usr/bin/qemu-x86_64-static"),
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
    fn registration(&self) -> Vec<u8> {
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
            self.emulator
        )
        .into_bytes()
    }
}

/// Moves this process, inside the container, into a user namespace in which programs of `architecture` run.
pub(super) fn enter(architecture: &str, mapper: Mapper) -> Result<(), Problem> {
    let lacks = |what: String| Problem::new(ProblemKind::HostLacks, what);
    let machine = BinfmtEntry::of(architecture)
        .ok_or_else(|| lacks(format!("no emulator is known for {architecture} programs")))?;
    if !Path::new(machine.emulator).exists() {
        return Err(lacks(format!(
            "the toolbox lacks the emulator {}",
            machine.emulator
        )));
    }
    sys::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)
        .map_err(|error| Problem::io("create", "a user namespace", &error))?;
    match mapper.map() {
        Ok(true) => {}
        Ok(false) => {
            return Err(Problem::new(
                ProblemKind::Io,
                "cannot map the IDs of a user namespace",
            ));
        }
        Err(error) => return Err(Problem::io("map", "the IDs of a user namespace", &error)),
    }
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )
    .map_err(|error| Problem::io("make private", "/", &error.into()))?;
    fs::create_dir(REGISTRY).map_err(|error| Problem::io("make", REGISTRY, &error))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("binfmt_misc", REGISTRY, "binfmt_misc", flags, None).map_err(|error| {
        lacks(format!(
            "this kernel cannot run {architecture} programs: it has no emulators per user namespace ({error}); Linux \
             6.7 and later do if built with binfmt_misc"
        ))
    })?;
    let register = format!("{REGISTRY}/register");
    fs::write(&register, machine.registration())
        .map_err(|error| Problem::io("write to", &register, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_told_by_the_header_of_its_programs() {
        let machine = BinfmtEntry::of("arm64").unwrap();
        let text = String::from_utf8(machine.registration()).unwrap();
        assert_eq!(
            text,
            ":impasto:M::\\x7f\\x45\\x4c\\x46\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00:\
             \\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff:\
             /usr/bin/qemu-aarch64-static:F"
        );
        assert!(BinfmtEntry::of("vax").is_none());
    }
}
