//! Boots a disk of one sector: whether machines start on this host, and how fast.
//! Knows the sector; the machine is made as every other one.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use impasto_store::chain::open_file_path;

use super::{
    Accel, Backing, Console, ConsoleMatch, Firmware, Machine, MachineDisk, MachineType, Network,
    QEMU, Spec, VmError, overlay,
};
use crate::base::bounded;
use crate::base::cancel::CancelToken;

/// What the guest writes to its serial console.
const GREETING: &str = "impasto: this machine boots";

/// Bytes of the guest's disk and of its memory.
const DISK_SIZE: u64 = 1 << 20;
const MEMORY: u64 = 64 << 20;

/// The boot sector's program, which a BIOS puts at 0x7c00: it sends what follows it to the first serial port, to a byte
/// that is zero, and halts.
const PROGRAM: [u8; 22] = [
    0xfa, // cli
    0x31, 0xc0, // xor ax, ax
    0x8e, 0xd8, // mov ds, ax
    0xbe, 0x16, 0x7c, // mov si, 0x7c16
    0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xac, // next: lodsb
    0x84, 0xc0, // test al, al
    0x74, 0x03, // jz end
    0xee, // out dx, al
    0xeb, 0xf8, // jmp next
    0xf4, // end: hlt
    0xeb, 0xfd, // jmp end
];

/// Boots such a disk in `work`, a private directory, and waits until the guest has said its line: how long that took.
///
/// The guest has a network as those of users have, with a free port of this host that leads to it.
///
/// # Errors
/// QEMU cannot be started, gave up, or the guest said nothing in the time `patience`.
pub fn try_boot(
    accel: Accel,
    work: &Path,
    patience: Duration,
    cancel: &CancelToken,
) -> Result<Duration, VmError> {
    let begun = Instant::now();
    let mut sector = PROGRAM.to_vec();
    sector.extend_from_slice(GREETING.as_bytes());
    sector.resize(510, 0);
    sector.extend_from_slice(&[0x55, 0xaa]);
    let path = work.join("disk.raw");
    let write = || {
        std::fs::write(&path, &sector)?;
        File::options()
            .write(true)
            .open(&path)?
            .set_len(DISK_SIZE)?;
        bounded::open(&path)
    };
    let disk = write().map_err(VmError::io("write", &path))?;
    let spec = Spec {
        machine: MachineType::Q35,
        accel,
        firmware: Firmware::Bios,
        memory: MEMORY,
        cpus: 1,
        disk: Some(MachineDisk {
            backing: Backing::Raw(open_file_path(&disk)),
            overlay: overlay(work, DISK_SIZE, None)?,
        }),
        kernel: None,
        cdrom: None,
        seed: None,
        files: None,
        network: Network::User {
            ssh_port: Some(free_port().map_err(VmError::io("find a free port on", "127.0.0.1"))?),
        },
        served: Vec::new(),
        guest_agent: None,
        console: Console::Pipe,
        control: false,
    };
    let mut machine = Machine::start(&spec, work, None)?;
    let seen = machine.wait_for(GREETING, Some(begun + patience), cancel)?;
    let took = begun.elapsed();
    if seen == ConsoleMatch::Ended {
        // It tells why.
        machine.wait(None, cancel)?;
    }
    machine.kill()?;
    match seen {
        ConsoleMatch::Text => Ok(took),
        _ => Err(VmError::Silent {
            who: "the guest",
            seconds: patience.as_secs(),
        }),
    }
}

/// A port of this host that leads into a machine: free now, another program may take it before QEMU does.
///
/// # Errors
/// There is no loopback interface, or it is not up.
pub fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// What QEMU says of its version; `None` where it cannot be asked.
pub fn version() -> Option<String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one home of machines"
    )]
    let output = Command::new(QEMU).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.lines().next()?.trim().to_owned())
}
