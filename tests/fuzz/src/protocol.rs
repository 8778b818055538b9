//! Bytes as what a guest says to its sandbox.

use impasto::sandbox::protocol::{Answer, Request, decode};

/// Must never panic, whatever the bytes are.
pub fn run(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some((_, used))) = decode::<Answer>(rest) {
        assert!(used > 0 && used <= rest.len(), "a frame of no length");
        rest = &rest[used..];
    }
    let _ = decode::<Request>(data);
}
