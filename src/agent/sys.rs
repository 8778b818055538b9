//! System calls that `rustix` offers only as unsafe or not at all: mount name space, ext4's journal, free blocks.
//!
//! The agent's one module with unsafe code; each call says why it is sound.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{self, Setter};
use rustix::thread::UnshareFlags;

const EXT4_IOC_CHECKPOINT: ioctl::Opcode = 0x4004_662b;
const EXT4_IOC_CHECKPOINT_FLAG_DISCARD: u32 = 1;

/// Gives the process a mount name space of its own.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: NEWNS does not touch file descriptors, the one thing that makes the call unsound.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?)
}

/// Writes back ext4's journal and discards its blocks.
pub(crate) fn ext4_checkpoint(directory: impl AsFd) -> io::Result<()> {
    let flags = EXT4_IOC_CHECKPOINT_FLAG_DISCARD;
    // SAFETY: EXT4_IOC_CHECKPOINT reads one u32.
    Ok(unsafe { ioctl::ioctl(directory, Setter::<EXT4_IOC_CHECKPOINT, u32>::new(flags)) }?)
}
