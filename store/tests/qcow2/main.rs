//! qcow2: our reader and writer against qemu-img, hostile images, and themselves.
#![allow(
    clippy::disallowed_methods,
    reason = "tests start qemu-img as the oracle"
)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod hostile;
mod oracle;
mod overlay;
mod replay;
mod support;
mod write;
