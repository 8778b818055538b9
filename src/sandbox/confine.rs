//! What programs in a sandbox may not do: their capabilities, and a filter of system calls.
//!
//! Knows the kernel's numbers, not who is confined; compiled into impasto and into the agent. Two locks on each door:
//! most calls that the filter refuses need a capability that is gone as well.
//!
//! The filter lets everything pass that it does not name, as new calls of the C library must keep working. It knows the
//! calls of this architecture and of its 32-bit sibling, whose programs a guest may have; all others are refused.

use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

/// Capabilities that programs keep: to install packages, to give files owners, modes and attributes, to change user and
/// root directory. What reaches the host's kernel (mounts, devices, network interfaces, priorities, limits) is not there.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::LINUX_IMMUTABLE)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::AUDIT_WRITE)
    .union(CapabilitySet::SETFCAP);

/// What a privileged step has beside them.
const PRIVILEGED: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::MKNOD);

/// Takes from this thread, and from the programs that it starts, the right to ever have other capabilities.
///
/// What it has itself it keeps until it starts a program.
pub(crate) fn drop_capabilities(privileged: bool) -> rustix::io::Result<()> {
    let kept = if privileged {
        KEPT.union(PRIVILEGED)
    } else {
        KEPT
    };
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            // The kernel has no more.
            Err(rustix::io::Errno::INVAL) => break,
            result => result?,
        }
    }
    Ok(())
}

/// `struct sock_filter` of linux/filter.h.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

/// The calls of one architecture, by the numbers of its `unistd.h`.
struct Calls {
    /// The kernel's number of the architecture (linux/audit.h).
    architecture: u32,
    /// Calls from this number on are another ABI's (x32); 0 where there is none.
    other_abi: u32,
    /// Mounts and namespaces: refused unless privileged.
    mounts: &'static [u32],
    /// Keys, kernel modules, kexec, bpf, perf, user faults, io_uring, files by handle: refused always.
    always: &'static [u32],
    /// `socketcall`, whose arguments lie in memory where the filter cannot see which sockets they ask for.
    socketcall: Option<u32>,
    clone: u32,
    socket: u32,
}

/// open_tree, move_mount, fsopen, fsconfig, fsmount, fspick, mount_setattr, open_tree_attr, and io_uring_setup, _enter,
/// _register: the same on all architectures.
macro_rules! newer {
    (mounts: $($own:literal),*) => { &[$($own,)* 428, 429, 430, 431, 432, 433, 442, 467] };
    (always: $($own:literal),*) => { &[$($own,)* 425, 426, 427] };
}

#[cfg(target_arch = "x86_64")]
const CALLS: [Calls; 2] = [
    Calls {
        architecture: 0xc000_003e,
        other_abi: 0x4000_0000,
        // mount, umount2, pivot_root, swapon, swapoff, unshare, setns.
        mounts: newer!(mounts: 165, 166, 155, 167, 168, 272, 308),
        // add_key, request_key, keyctl; create_module, init_module, delete_module, finit_module; kexec_load,
        // kexec_file_load; bpf, perf_event_open, userfaultfd; open_by_handle_at, lookup_dcookie; iopl, ioperm.
        always: newer!(always: 248, 249, 250, 174, 175, 176, 313, 246, 320, 321, 298, 323, 304, 212, 172, 173),
        socketcall: None,
        clone: 56,
        socket: 41,
    },
    // i386, also reached by `int 0x80` from programs of 64 bits.
    Calls {
        architecture: 0x4000_0003,
        other_abi: 0,
        // mount, umount, umount2, pivot_root, swapon, swapoff, unshare, setns.
        mounts: newer!(mounts: 21, 22, 52, 217, 87, 115, 310, 346),
        always: newer!(always: 286, 287, 288, 127, 128, 129, 350, 283, 357, 336, 374, 342, 253, 110, 101),
        socketcall: Some(102),
        clone: 120,
        socket: 359,
    },
];

#[cfg(target_arch = "aarch64")]
const CALLS: [Calls; 2] = [
    Calls {
        architecture: 0xc000_00b7,
        other_abi: 0,
        // mount, umount2, pivot_root, swapon, swapoff, unshare, setns.
        mounts: newer!(mounts: 40, 39, 41, 224, 225, 97, 268),
        // add_key, request_key, keyctl; init_module, delete_module, finit_module; kexec_load, kexec_file_load; bpf,
        // perf_event_open, userfaultfd; open_by_handle_at, lookup_dcookie.
        always: newer!(always: 217, 218, 219, 105, 106, 273, 104, 294, 280, 241, 282, 265, 18),
        socketcall: None,
        clone: 220,
        socket: 198,
    },
    // 32-bit ARM.
    Calls {
        architecture: 0x4000_0028,
        other_abi: 0,
        mounts: newer!(mounts: 21, 22, 52, 218, 87, 115, 337, 375),
        always: newer!(always: 309, 310, 311, 128, 129, 379, 347, 401, 386, 364, 388, 371, 249),
        socketcall: Some(102),
        clone: 120,
        socket: 281,
    },
];

/// The same on all architectures.
const CLONE3: u32 = 435;

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET (linux/sched.h).
const NEW_NAME_SPACES: u32 = 0x7e02_0000;

/// AF_UNIX, AF_INET, AF_INET6, AF_NETLINK: sockets that namespaces keep apart. Others, as those to the hypervisor
/// (AF_VSOCK) and to the kernel's ciphers (AF_ALG), reach past them.
const FAMILIES: [u32; 4] = [1, 2, 10, 16];

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const EQUALS: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const HAS_BITS: u16 = 0x45;
const RETURN: u16 = 0x06;

const ALLOW: u32 = 0x7fff_0000;
const ERROR: u32 = 0x0005_0000;
const EPERM: u32 = ERROR | 1;
const ENOSYS: u32 = ERROR | 38;
const EAFNOSUPPORT: u32 = ERROR | 97;

// `struct seccomp_data` (linux/seccomp.h): offsets of number, architecture, and the low half of the first argument.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENT: u32 = 16;

fn step(code: u16, if_true: u8, if_false: u8, value: u32) -> Instruction {
    Instruction {
        code,
        if_true,
        if_false,
        value,
    }
}

/// The filter, as a program for the kernel (seccomp(2)).
pub(crate) fn filter(privileged: bool) -> Vec<Instruction> {
    let mut program = vec![step(LOAD, 0, 0, ARCHITECTURE)];
    for calls in &CALLS {
        let part = part(calls, privileged);
        // A conditional jump spans 255 steps at most, a plain one any number.
        program.push(step(EQUALS, 1, 0, calls.architecture));
        program.push(step(JUMP, 0, 0, part.len() as u32));
        program.extend(part);
    }
    program.push(step(RETURN, 0, 0, ENOSYS));
    program
}

/// The part for one architecture; each way through it ends in a verdict.
fn part(calls: &Calls, privileged: bool) -> Vec<Instruction> {
    let mut program = vec![step(LOAD, 0, 0, NUMBER)];
    let mut refuse = |test: u16, value: u32, verdict: u32| {
        program.extend([step(test, 0, 1, value), step(RETURN, 0, 0, verdict)]);
    };
    if calls.other_abi != 0 {
        refuse(AT_LEAST, calls.other_abi, ENOSYS);
    }
    calls
        .always
        .iter()
        .for_each(|call| refuse(EQUALS, *call, EPERM));
    calls
        .socketcall
        .iter()
        .for_each(|call| refuse(EQUALS, *call, ENOSYS));
    if !privileged {
        calls
            .mounts
            .iter()
            .for_each(|call| refuse(EQUALS, *call, EPERM));
        // As if the kernel did not have it: C libraries then use `clone`, whose flags can be looked at.
        refuse(EQUALS, CLONE3, ENOSYS);
        program.extend([
            step(EQUALS, 0, 4, calls.clone),
            step(LOAD, 0, 0, ARGUMENT),
            step(HAS_BITS, 0, 1, NEW_NAME_SPACES),
            step(RETURN, 0, 0, EPERM),
            step(RETURN, 0, 0, ALLOW),
        ]);
    }
    let families = FAMILIES.len() as u8;
    program.extend([
        step(EQUALS, 0, families + 2, calls.socket),
        step(LOAD, 0, 0, ARGUMENT),
    ]);
    for (index, family) in (0..families).zip(FAMILIES) {
        program.push(step(EQUALS, families - index, 0, family));
    }
    program.extend([step(RETURN, 0, 0, EAFNOSUPPORT), step(RETURN, 0, 0, ALLOW)]);
    program
}

/// msync, fsync, fdatasync, sync, sync_file_range, syncfs.
#[cfg(target_arch = "x86_64")]
const SYNC_CALLS: [u32; 6] = [26, 74, 75, 162, 277, 306];
#[cfg(target_arch = "aarch64")]
const SYNC_CALLS: [u32; 6] = [227, 82, 83, 81, 84, 267];

/// truncate, ftruncate.
#[cfg(target_arch = "x86_64")]
const TRUNCATE_CALLS: [u32; 2] = [76, 77];
#[cfg(target_arch = "aarch64")]
const TRUNCATE_CALLS: [u32; 2] = [45, 46];

/// A filter that lets all calls that wait for the disk succeed at once. Calls of another architecture pass.
#[allow(dead_code, reason = "the agent's steps do wait")]
pub(crate) fn without_syncs() -> Vec<Instruction> {
    without(&SYNC_CALLS)
}

/// A filter that lets all calls that change a file's size succeed, and do nothing. Calls of another architecture pass.
#[allow(dead_code, reason = "no program of the agent's needs it")]
pub(crate) fn without_truncating() -> Vec<Instruction> {
    without(&TRUNCATE_CALLS)
}

fn without(calls: &[u32]) -> Vec<Instruction> {
    let count = calls.len() as u8;
    let mut program = vec![
        step(LOAD, 0, 0, ARCHITECTURE),
        step(EQUALS, 0, count + 1, CALLS[0].architecture),
        step(LOAD, 0, 0, NUMBER),
    ];
    for (index, call) in (0..count).zip(calls) {
        program.push(step(EQUALS, count - index, 0, *call));
    }
    // An error of number 0 is success.
    program.extend([step(RETURN, 0, 0, ALLOW), step(RETURN, 0, 0, ERROR)]);
    program
}
