//! Deflate blocks that end at a byte, none of which is the last of its stream: pieces of a gzip file. libdeflate, the fastest
//! compressor, makes whole streams only, so the mark of its last block is taken off, which an inflater has to find.
//! Knows deflate's framing (RFC 1951, 3.2), not what is compressed.

use std::io;

use libdeflater::{CompressionLvl, Compressor};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{BlockBoundaryState, DecompressorOxide, decompress};

/// A compressor of one thread.
pub(super) struct BlockCompressor(Compressor);

impl BlockCompressor {
    /// One for a level from 1 to 9.
    pub(super) fn new(level: i32) -> Self {
        let level = CompressionLvl::new(level).unwrap_or_default();
        BlockCompressor(Compressor::new(level))
    }

    /// The blocks of these bytes; the end of the last one is an empty block.
    ///
    /// # Errors
    /// What was compressed does not read back.
    pub(super) fn compress(&mut self, plain: &[u8]) -> io::Result<Vec<u8>> {
        let failed = || io::Error::other("the compressor failed");
        let mut packed = vec![0; self.0.deflate_compress_bound(plain.len())];
        let length = self.0.deflate_compress(plain, &mut packed);
        packed.truncate(length.map_err(|_| failed())?);
        let end = without_last(&mut packed, plain).ok_or_else(failed)?;
        packed.truncate(end.div_ceil(8));
        // An empty stored block: three zero bits, zeros to the next byte, its length and that inverted. The bits are there
        // already where the last byte has as many left.
        if packed.len() * 8 - end < 3 {
            packed.push(0);
        }
        packed.extend([0, 0, 0xff, 0xff]);
        Ok(packed)
    }
}

/// Marks the last block of a stream as one that others follow, and gives the bit behind it. None where the stream is not
/// that of `plain`.
fn without_last(packed: &mut [u8], plain: &[u8]) -> Option<usize> {
    let mut out = vec![0; plain.len()];
    let (mut read, mut written) = (0, 0);
    let mut state = BlockBoundaryState::default();
    loop {
        let header = read * 8 - usize::from(state.num_bits);
        let (byte, bit) = (packed.get_mut(header / 8)?, header % 8);
        let is_last = *byte >> bit & 1 == 1;
        *byte &= !(1 << bit);
        if state.num_bits > 0 {
            state.bit_buf &= !1;
        }
        let mut inflate = DecompressorOxide::from_block_boundary_state(&state);
        let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF | TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY;
        let (status, more, made) =
            decompress(&mut inflate, &packed[read..], &mut out, written, flags);
        (read, written) = (read + more, written + made);
        if status != TINFLStatus::BlockBoundary {
            return None;
        }
        state = inflate.block_boundary_state()?;
        if is_last {
            let end = read * 8 - usize::from(state.num_bits);
            return (written == plain.len() && out == plain).then_some(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn pieces_of_all_kinds_make_one_stream() {
        let noise = |length: usize| {
            let mut bytes = vec![0; length];
            blake3::Hasher::new()
                .update(&length.to_le_bytes())
                .finalize_xof()
                .fill(&mut bytes);
            bytes
        };
        let text = |length: usize| "a line, and another one\n".repeat(length).into_bytes();
        let mut plain: Vec<Vec<u8>> =
            vec![Vec::new(), vec![7; 1 << 20], noise(1 << 20), text(60_000)];
        // Ends at every bit of a byte.
        plain.extend((1..200).map(noise));
        plain.extend((1..200).map(text));
        for level in [1, 6, 9] {
            let mut compressor = BlockCompressor::new(level);
            let mut stream = Vec::new();
            for piece in &plain {
                let packed = compressor.compress(piece).unwrap();
                assert_eq!(packed[packed.len() - 4..], [0, 0, 0xff, 0xff]);
                stream.extend(packed);
            }
            stream.extend([3, 0]);
            let mut read = Vec::new();
            flate2::read::DeflateDecoder::new(stream.as_slice())
                .read_to_end(&mut read)
                .unwrap();
            assert!(read == plain.concat(), "level {level}");
        }
    }

    #[test]
    fn what_does_not_read_back_is_not_given() {
        let mut compressor = BlockCompressor::new(6);
        let plain = b"some text, some text".repeat(100);
        let mut packed = vec![0; 4096];
        let length = compressor.0.deflate_compress(&plain, &mut packed).unwrap();
        packed.truncate(length);
        assert_eq!(without_last(&mut packed.clone(), &plain[1..]), None);
        assert_eq!(
            without_last(&mut packed[..length / 2].to_vec(), &plain),
            None
        );
        assert!(without_last(&mut packed, &plain).is_some());
    }
}
