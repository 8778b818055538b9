//! System calls that `rustix` offers only as unsafe or not at all: namespaces, loop devices, partitions, `lo`.
//!
//! The one module of this crate with unsafe code; each call says why it is sound. Knows no policy.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::ioctl::{self, Setter};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use rustix::thread::UnshareFlags;

use super::confine::{self, Instruction};

const LOOP_CLR_FD: ioctl::Opcode = 0x4c01;
const LOOP_CONFIGURE: ioctl::Opcode = 0x4c0a;
const LOOP_CTL_GET_FREE: ioctl::Opcode = 0x4c82;
const BLKPG: ioctl::Opcode = 0x1269;
const SIOCSIFFLAGS: ioctl::Opcode = 0x8914;

/// The loop device vanishes with its last user.
pub(super) const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// Partitions vanish with the loop device.
pub(super) const LO_FLAGS_PARTSCAN: u32 = 8;

/// Moves the calling process into new namespaces.
///
/// Must not be given `FILES`: other owners of file descriptors would be surprised.
pub(super) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    assert!(
        !flags.contains(UnshareFlags::FILES),
        "BUG: file descriptors must stay shared"
    );
    // SAFETY: the only unsound flag is ruled out above.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Makes the kernel send a program that will be started a signal when the thread that starts it ends, however that does.
pub(crate) fn die_with_parent(command: &mut Command, signal: Signal) {
    let parent = getpid();
    let arm = move || {
        set_parent_process_death_signal(Some(signal))?;
        // The parent may have ended before that.
        if getppid() == Some(parent) {
            Ok(())
        } else {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    };
    // SAFETY: between fork and exec only two system calls are made; nothing is allocated or locked.
    unsafe { command.pre_exec(arm) };
}

/// Gives this process, which must have one thread only, a host name of its own, and the machine's files once more below
/// `root`, a directory that is made.
pub(crate) fn move_elsewhere(host_name: &str, root: &std::path::Path) -> io::Result<()> {
    use rustix::mount::{MountPropagationFlags, mount_bind_recursive, mount_change};
    unshare(UnshareFlags::NEWNS | UnshareFlags::NEWUTS)?;
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )?;
    rustix::system::sethostname(host_name.as_bytes())?;
    std::fs::create_dir(root)?;
    Ok(mount_bind_recursive("/", root)?)
}

/// Keeps every file descriptor but the standard three from programs that are started.
///
/// Rust opens its own so; this is for what the parent of this process left open, which a guest must never get.
pub(super) fn close_inherited_on_exec() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        if number > 2 {
            // SAFETY: the number was read from the list of open descriptors; only its flag is touched.
            let fd = unsafe { BorrowedFd::borrow_raw(number) };
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
        }
    }
    Ok(())
}

/// Lets this process set a terminal's foreground group from the background, where it is after a shell was in front.
pub(super) fn ignore_background_output() {
    const SIGTTOU: i32 = 22;
    const SIG_IGN: usize = 1;
    unsafe extern "C" {
        fn signal(signal: i32, handler: usize) -> usize;
    }
    // SAFETY: signal(2) with SIG_IGN installs no code; the result does not matter, as it cannot fail for this signal.
    unsafe { signal(SIGTTOU, SIG_IGN) };
}

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// `ioctl(fd, op, argument)` that returns the call's own value.
struct ReturnsValue<const OPCODE: ioctl::Opcode>;

// SAFETY: the call takes no argument, so the kernel reads and writes nothing of ours.
unsafe impl<const OPCODE: ioctl::Opcode> ioctl::Ioctl for ReturnsValue<OPCODE> {
    type Output = u32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> ioctl::Opcode {
        OPCODE
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        out: ioctl::IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> rustix::io::Result<u32> {
        Ok(out.cast_unsigned())
    }
}

/// The number of a loop device that nobody uses at this moment.
pub(super) fn loop_get_free(control: impl AsFd) -> io::Result<u32> {
    // SAFETY: LOOP_CTL_GET_FREE takes no argument.
    Ok(unsafe { ioctl::ioctl(control, ReturnsValue::<LOOP_CTL_GET_FREE>) }?)
}

/// Binds `file` to a loop device in one step.
pub(super) fn loop_configure(
    device: impl AsFd,
    file: BorrowedFd<'_>,
    flags: u32,
) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let mut file_name = [0; 64];
    file_name[..7].copy_from_slice(b"impasto");
    let info = LoopInfo {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags,
        file_name,
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    let config = LoopConfig {
        fd: file.as_raw_fd().cast_unsigned(),
        block_size: 0,
        info,
        reserved: [0; 8],
    };
    // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, which `LoopConfig` lays out.
    Ok(unsafe { ioctl::ioctl(device, Setter::<LOOP_CONFIGURE, LoopConfig>::new(config)) }?)
}

/// Unbinds a loop device, at its last close if it is in use.
pub(super) fn loop_clear(device: impl AsFd) -> io::Result<()> {
    // SAFETY: LOOP_CLR_FD takes no argument.
    unsafe { ioctl::ioctl(device, ReturnsValue::<LOOP_CLR_FD>) }?;
    Ok(())
}

/// `struct blkpg_partition` of linux/blkpg.h.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: i32,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

/// `struct blkpg_ioctl_arg` of linux/blkpg.h.
#[repr(C)]
struct BlkpgArgument {
    operation: i32,
    flags: i32,
    length: i32,
    data: *mut BlkpgPartition,
}

/// Tells the kernel of a partition, in bytes.
pub(super) fn add_partition(
    device: impl AsFd,
    number: u32,
    start: u64,
    length: u64,
) -> io::Result<()> {
    blkpg(device, 1, number, start, length)
}

/// Takes a partition back.
pub(super) fn delete_partition(device: impl AsFd, number: u32) -> io::Result<()> {
    blkpg(device, 2, number, 0, 0)
}

fn blkpg(
    device: impl AsFd,
    operation: i32,
    number: u32,
    start: u64,
    length: u64,
) -> io::Result<()> {
    let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let mut partition = BlkpgPartition {
        start: start.try_into().map_err(too_large)?,
        length: length.try_into().map_err(too_large)?,
        number: number.try_into().map_err(too_large)?,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let length = size_of::<BlkpgPartition>() as i32;
    let argument = BlkpgArgument {
        operation,
        flags: 0,
        length,
        data: &raw mut partition,
    };
    // SAFETY: BLKPG reads one `struct blkpg_ioctl_arg`, whose data points to a partition that outlives the call.
    Ok(unsafe { ioctl::ioctl(device, Setter::<BLKPG, BlkpgArgument>::new(argument)) }?)
}

/// `struct ifreq` of linux/if.h, as SIOCSIFFLAGS reads it.
#[repr(C)]
struct InterfaceFlags {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

/// Brings the loopback interface up.
pub(super) fn loopback_up(socket: impl AsFd) -> io::Result<()> {
    const IFF_UP: i16 = 1;
    let mut name = [0; 16];
    name[..2].copy_from_slice(b"lo");
    let request = InterfaceFlags {
        name,
        flags: IFF_UP,
        rest: [0; 22],
    };
    // SAFETY: SIOCSIFFLAGS reads one `struct ifreq` of 40 bytes, which `InterfaceFlags` lays out.
    Ok(unsafe { ioctl::ioctl(socket, Setter::<SIOCSIFFLAGS, InterfaceFlags>::new(request)) }?)
}

/// `struct sock_fprog` of linux/filter.h.
#[repr(C)]
struct Program {
    length: u16,
    instructions: *const Instruction,
}

/// Lets this thread, and what it starts, make only the system calls that the filter allows. Nothing is allocated.
fn filter_calls(filter: &[Instruction]) -> io::Result<()> {
    const PR_SET_SECCOMP: i32 = 22;
    const SECCOMP_MODE_FILTER: usize = 2;
    unsafe extern "C" {
        fn prctl(option: i32, mode: usize, filter: *const Program) -> i32;
    }
    let length = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = Program {
        length,
        instructions: filter.as_ptr(),
    };
    // SAFETY: prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER) reads one `struct sock_fprog` and the instructions that it
    // points to, which outlive the call.
    if unsafe { prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &raw const program) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes every call of this process, and of those it starts, that waits for the disk succeed at once.
///
/// For work whose files are worth nothing until somebody else has read them: dpkg waits several times for each package.
pub(super) fn ignore_syncs() -> io::Result<()> {
    filter_calls(&confine::without_syncs())
}

/// Keeps a program that will be started, and what it starts, to what programs in a sandbox may do. With `trusted` it may
/// also read the extended attributes of that class, which takes a capability (xattr(7)).
pub(crate) fn confine(command: &mut Command, trusted: bool) {
    let filter = confine::filter(false);
    let arm = move || {
        confine::drop_capabilities(trusted)?;
        filter_calls(&filter)
    };
    // SAFETY: between fork and exec only system calls are made; nothing is allocated or locked.
    unsafe { command.pre_exec(arm) };
}

/// Keeps a program that will be started, and what it starts, to the system calls of programs in a sandbox. This process
/// must have given up new privileges.
pub(super) fn filter_program(command: &mut Command) {
    let filter = confine::filter(false);
    // SAFETY: between fork and exec only a system call is made; nothing is allocated or locked.
    unsafe { command.pre_exec(move || filter_calls(&filter)) };
}

/// Lets a program that will be started, and what it starts, change no file's size: it is told that it did.
pub(crate) fn keep_sizes(command: &mut Command) {
    let filter = confine::without_truncating();
    // SAFETY: between fork and exec only system calls are made; nothing is allocated or locked.
    unsafe { command.pre_exec(move || filter_calls(&filter)) };
}

/// Puts a program that will be started into control groups, given by their files of processes.
pub(super) fn start_in_groups(command: &mut Command, groups: Vec<File>) {
    // SAFETY: between fork and exec only system calls are made; nothing is allocated or locked.
    unsafe { command.pre_exec(move || groups.iter().try_for_each(enter_group)) };
}

/// Moves this process into a control group, given by its file of processes.
pub(super) fn enter_group(mut group: &File) -> io::Result<()> {
    group.write_all(b"0")
}

/// Leaves the keys of whoever started impasto for a keyring of this process's own.
pub(super) fn leave_keyring() -> io::Result<()> {
    #[cfg(target_arch = "x86_64")]
    const KEYCTL: i64 = 250;
    #[cfg(target_arch = "aarch64")]
    const KEYCTL: i64 = 219;
    const JOIN_SESSION_KEYRING: usize = 1;
    unsafe extern "C" {
        fn syscall(number: i64, ...) -> i64;
    }
    // SAFETY: KEYCTL_JOIN_SESSION_KEYRING with a null name makes an anonymous keyring; it reads no memory of ours.
    if unsafe { syscall(KEYCTL, JOIN_SESSION_KEYRING, std::ptr::null::<u8>()) } >= 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        // A kernel without keys, or a container that keeps them away.
        error if matches!(error.raw_os_error(), Some(1 | 38)) => Ok(()),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_waits_for_the_disk_once_syncs_are_ignored() {
        let sync_a_pipe =
            || std::fs::File::from(std::os::fd::OwnedFd::from(io::pipe().unwrap().0)).sync_all();
        assert!(sync_a_pipe().is_err(), "a pipe cannot be synced");
        // The filter is that of the thread, and of what it starts.
        let thread = std::thread::spawn(move || {
            // Without rights over the machine a filter is for who will gain none (seccomp(2)).
            rustix::thread::set_no_new_privs(true).unwrap();
            ignore_syncs().unwrap();
            sync_a_pipe()
        });
        thread.join().unwrap().unwrap();
        assert!(sync_a_pipe().is_err(), "the filter is the thread's own");
    }
}
