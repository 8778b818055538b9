//! Deflate streams of single chunks, as qcow2 and VMDK have them.
//! Knows one chunk at a time, and checks what the compressor gave.

use std::cell::RefCell;

use libdeflater::{CompressionLvl, Compressor, Decompressor};

use crate::disk::CHUNK;
use crate::error::{Error, Result};

thread_local! {
    static COMPRESSOR: RefCell<Option<(i32, Compressor)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Decompressor> = RefCell::new(Decompressor::new());
}

/// A chunk as one raw deflate stream, which was decompressed into `back` and compared. It may be longer than the chunk.
///
/// QEMU asks zlib for a window of 4 KiB and inflates a whole cluster by one call, which needs no window: distances of
/// 32 KiB are fine.
pub(super) fn compress(
    index: u64,
    data: &[u8; CHUNK],
    back: &mut [u8; CHUNK],
    level: i32,
) -> Result<Vec<u8>> {
    let stream = COMPRESSOR.with_borrow_mut(|kept| {
        if kept.as_ref().is_none_or(|(kept, _)| *kept != level) {
            let effort = CompressionLvl::new(level).unwrap_or_default();
            *kept = Some((level, Compressor::new(effort)));
        }
        let (_, compressor) = kept.as_mut().expect("BUG: it was just made");
        let mut out = vec![0; compressor.deflate_compress_bound(CHUNK)];
        let length = compressor.deflate_compress(data, &mut out);
        out.truncate(length.expect("BUG: the buffer has the compressor's own bound"));
        out
    });
    let same = DECOMPRESSOR
        .with_borrow_mut(|context| context.deflate_decompress(&stream, back))
        .is_ok_and(|length| length == CHUNK && data == back);
    if same {
        Ok(stream)
    } else {
        Err(Error::Compressor { index })
    }
}
