//! Chunks to zstd frames and back, and the bounded decoding of foreign compressed clusters.
//! Knows bytes only: no file, no offset.
//!
//! zstd frames and deflate streams are decoded in one shot into a buffer of exactly one cluster: neither the frame's
//! header nor its content can make this code allocate, and a stream that holds more is refused where the buffer ends.

use std::cell::RefCell;
use std::fmt;

use libdeflater::{DecompressionError, Decompressor};
use zstd_safe::{CCtx, CParameter, DCtx};

use super::error::DecodeError;
use super::header::Compression;
use super::{CHUNK, SECTOR};

/// Which encoder made a frame. Two equal ids give equal frames for equal chunks; another version of zstd may give others,
/// so the id stands in every manifest, and in the key of what `convert` makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EncoderId {
    /// zstd's `ZSTD_VERSION_NUMBER`, e.g. 10507 for 1.5.7.
    pub zstd: u32,
    pub level: i32,
    /// Whether frames end with a checksum of their content.
    pub checksum: bool,
}

/// The encoder of layer files. Changing its level or checksum is a format break.
pub const ENCODER: EncoderId = EncoderId {
    zstd: zstd_sys::ZSTD_VERSION_NUMBER,
    level: 1,
    checksum: true,
};

impl fmt::Display for EncoderId {
    /// `zstd-10507/level-1/checksum`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "zstd-{}/level-{}/{}",
            self.zstd,
            self.level,
            if self.checksum { "checksum" } else { "plain" }
        )
    }
}

/// The longest frame that is kept as a frame. Padded to whole sectors a longer one would take as much space as the
/// chunk itself, which is then stored raw. Changing this is a format break.
pub const MAX_FRAME: usize = CHUNK - SECTOR as usize;

/// The largest window that a frame may ask for: what RFC 8878 recommends every decoder to support.
pub const MAX_WINDOW: u64 = 8 << 20;

/// How a chunk is stored in a layer file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encoded {
    /// Every byte is zero: no frame, an L2 zero flag.
    Zero,
    /// One zstd frame of at most [`MAX_FRAME`] bytes.
    Frame(Vec<u8>),
    /// As it is, because a frame would not be smaller.
    Raw,
}

struct FrameEncoder {
    context: CCtx<'static>,
    level: Option<i32>,
    out: Vec<u8>,
}

thread_local! {
    static ENCODERS: RefCell<FrameEncoder> = RefCell::new(FrameEncoder {
        context: CCtx::create(),
        level: None,
        out: Vec::with_capacity(zstd_safe::compress_bound(CHUNK)),
    });
    static ZSTD: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
    static DEFLATE: RefCell<Decompressor> = RefCell::new(Decompressor::new());
}

/// Whether every byte is zero.
pub fn is_zero(data: &[u8]) -> bool {
    static ZERO: [u8; CHUNK] = [0; CHUNK];
    data.chunks(CHUNK).all(|part| part == &ZERO[..part.len()])
}

/// Encodes one chunk at a zstd level; layer files use [`ENCODER`]'s.
///
/// The frame carries its content size and a checksum, and needs no dictionary. The same library, level and chunk give
/// the same result on every machine and thread.
pub fn encode_chunk(data: &[u8; CHUNK], level: i32) -> Encoded {
    if is_zero(data) {
        return Encoded::Zero;
    }
    ENCODERS.with_borrow_mut(|encoder| {
        encoder.set_level(level);
        encoder.out.clear();
        let length = encoder
            .context
            .compress2(&mut encoder.out, data)
            .unwrap_or_else(|code| {
                panic!(
                    "BUG: zstd cannot compress into a buffer of its own bound: {}",
                    zstd_safe::get_error_name(code)
                )
            });
        if length > MAX_FRAME {
            Encoded::Raw
        } else {
            Encoded::Frame(encoder.out[..length].to_vec())
        }
    })
}

impl FrameEncoder {
    fn set_level(&mut self, level: i32) {
        if self.level == Some(level) {
            return;
        }
        for parameter in [
            CParameter::CompressionLevel(level),
            CParameter::ContentSizeFlag(true),
            CParameter::ChecksumFlag(ENCODER.checksum),
            CParameter::DictIdFlag(false),
        ] {
            if let Err(code) = self.context.set_parameter(parameter) {
                panic!(
                    "BUG: zstd refuses a parameter: {}",
                    zstd_safe::get_error_name(code)
                );
            }
        }
        self.level = Some(level);
    }
}

/// Decodes a layer file's frame: exactly one frame, exactly one chunk.
pub fn decode_frame(frame: &[u8], out: &mut [u8; CHUNK]) -> Result<(), DecodeError> {
    check_frame(frame)?;
    let used = decode_zstd(frame, out)?;
    match frame.len() - used {
        0 => Ok(()),
        extra => Err(DecodeError::Trailing {
            extra: extra as u64,
        }),
    }
}

/// Checks what a frame's header says: the content is one chunk, the window is small.
pub(super) fn check_frame(frame: &[u8]) -> Result<(), DecodeError> {
    let header = FrameHeader::parse(frame)?;
    match header.content {
        Some(actual) if actual != CHUNK as u64 => Err(DecodeError::Length {
            expected: CHUNK as u64,
            actual,
        }),
        None => Err(invalid_zstd("no content size")),
        Some(_) => Ok(()),
    }
}

/// Decodes a compressed cluster that lies at the beginning of `input`; what follows it is padding of its last sector.
///
/// `out` must be a cluster long, and is filled or an error is returned.
pub(super) fn decode_cluster(
    compression: Compression,
    input: &[u8],
    out: &mut [u8],
) -> Result<(), DecodeError> {
    match compression {
        Compression::Zstd => decode_zstd(input, out).map(|_| ()),
        Compression::Deflate => decode_deflate(input, out),
    }
}

/// The fewest bytes that any encoder can squeeze a cluster into: what bounds a bomb.
pub(super) fn least_encoded(compression: Compression, cluster_size: u64) -> u64 {
    match compression {
        // Deflate's best is a match of 258 bytes in two bits, 1032 to 1.
        Compression::Deflate => cluster_size.div_ceil(1032).max(1),
        // RFC 8878: magic, descriptor, window or size, then blocks of at most 128 KiB, 4 bytes each for a run.
        Compression::Zstd => 6 + cluster_size.div_ceil(128 << 10) * 4,
    }
}

/// Returns the frame's length in bytes.
fn decode_zstd(input: &[u8], out: &mut [u8]) -> Result<usize, DecodeError> {
    FrameHeader::parse(input)?;
    let length = zstd_safe::find_frame_compressed_size(input).map_err(zstd_error)?;
    let frame = input
        .get(..length)
        .ok_or(invalid_zstd("frame ends beyond its sectors"))?;
    let expected = out.len() as u64;
    let actual = ZSTD
        .with_borrow_mut(|context| context.decompress(out, frame))
        .map_err(zstd_error)? as u64;
    if actual == expected {
        Ok(length)
    } else {
        Err(DecodeError::Length { expected, actual })
    }
}

fn decode_deflate(input: &[u8], out: &mut [u8]) -> Result<(), DecodeError> {
    let expected = out.len() as u64;
    let reason = match DEFLATE.with_borrow_mut(|context| context.deflate_decompress(input, out)) {
        Ok(actual) if actual as u64 == expected => return Ok(()),
        Ok(actual) => {
            return Err(DecodeError::Length {
                expected,
                actual: actual as u64,
            });
        }
        Err(DecompressionError::InsufficientSpace) => "more than one cluster",
        Err(DecompressionError::BadData) => "bad data",
    };
    Err(DecodeError::Invalid {
        codec: "deflate",
        reason,
    })
}

fn zstd_error(code: usize) -> DecodeError {
    invalid_zstd(zstd_safe::get_error_name(code))
}

fn invalid_zstd(reason: &'static str) -> DecodeError {
    DecodeError::Invalid {
        codec: "zstd",
        reason,
    }
}

/// The fields of a zstd frame header that bound what a decoder does (RFC 8878, section 3.1.1.1).
struct FrameHeader {
    content: Option<u64>,
}

impl FrameHeader {
    const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

    /// Refuses skippable frames, dictionaries, reserved bits and large windows.
    fn parse(frame: &[u8]) -> Result<FrameHeader, DecodeError> {
        let cut = invalid_zstd("header is truncated");
        if frame.get(..4) != Some(&Self::MAGIC) {
            return Err(invalid_zstd("no magic number"));
        }
        let descriptor = *frame.get(4).ok_or(cut.clone())?;
        if descriptor & 0b1011 != 0 {
            return Err(invalid_zstd("reserved bit or dictionary"));
        }
        let single_segment = descriptor & 0b0010_0000 != 0;
        let mut rest = &frame[5..];
        let mut window = 0;
        if !single_segment {
            let (&byte, tail) = rest.split_first().ok_or(cut.clone())?;
            let base = 1_u64 << (10 + u32::from(byte >> 3));
            window = base + base / 8 * u64::from(byte & 7);
            rest = tail;
        }
        let content_bytes = match (descriptor >> 6, single_segment) {
            (0, false) => 0,
            (0, true) => 1,
            (flag, _) => 1 << flag,
        };
        let field = rest.get(..content_bytes).ok_or(cut)?;
        let mut value = [0; 8];
        value[..content_bytes].copy_from_slice(field);
        // A field of two bytes is stored minus 256.
        let content =
            u64::from_le_bytes(value).wrapping_add(if content_bytes == 2 { 256 } else { 0 });
        let content = (content_bytes > 0).then_some(content);
        if single_segment {
            window = content.unwrap_or(0);
        }
        if window > MAX_WINDOW {
            return Err(DecodeError::Window {
                window,
                limit: MAX_WINDOW,
            });
        }
        Ok(FrameHeader { content })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64) -> Box<[u8; CHUNK]> {
        let mut state = seed | 1;
        let mut data = Box::new([0; CHUNK]);
        for byte in data.iter_mut() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state as u8;
        }
        data
    }

    #[test]
    fn a_zero_chunk_needs_no_frame() {
        assert_eq!(encode_chunk(&[0; CHUNK], 1), Encoded::Zero);
    }

    #[test]
    fn noise_is_stored_raw() {
        assert_eq!(encode_chunk(&noise(1), 1), Encoded::Raw);
    }

    #[test]
    fn a_frame_that_saves_less_than_a_sector_is_stored_raw() {
        // Noise with a run of zeros of growing length: at some length the frame becomes worth keeping.
        for run in 0..2048 {
            let mut data = noise(7);
            data[..run].fill(0);
            if let Encoded::Frame(frame) = encode_chunk(&data, 1) {
                assert!(frame.len() <= MAX_FRAME);
                assert!(run >= SECTOR as usize, "a frame after a run of {run}");
                return;
            }
        }
        panic!("a run of 2048 zeros saves more than a sector");
    }

    #[test]
    fn frames_decode_to_what_was_encoded_at_every_level() {
        let mut data = noise(3);
        data[1000..60000].fill(7);
        for level in [1, 3, 19, 1] {
            let Encoded::Frame(frame) = encode_chunk(&data, level) else {
                panic!("compressible at level {level}")
            };
            let mut back = [0xee; CHUNK];
            decode_frame(&frame, &mut back).unwrap();
            assert!(back == *data);
        }
    }

    #[test]
    fn a_frame_does_not_depend_on_what_the_thread_encoded_before() {
        for seed in 0..40 {
            let mut data = noise(seed);
            let (from, to) = (seed as usize * 700, 20_000 + seed as usize * 1000);
            data[from..to]
                .iter_mut()
                .enumerate()
                .for_each(|(at, byte)| *byte = (at % (seed as usize + 5)) as u8);
            let here = encode_chunk(&data, 1);
            let fresh =
                std::thread::scope(|scope| scope.spawn(|| encode_chunk(&data, 1)).join().unwrap());
            assert!(
                here == fresh && matches!(here, Encoded::Frame(_)),
                "seed {seed}"
            );
            // Another level in between must not stick.
            encode_chunk(&data, 7);
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_in_a_frame_is_noticed() {
        let data: [u8; CHUNK] = std::array::from_fn(|i| (i / 97) as u8);
        let Encoded::Frame(frame) = encode_chunk(&data, 1) else {
            panic!("compressible")
        };
        let mut back = [0; CHUNK];
        for at in 0..frame.len() {
            let mut bad = frame.clone();
            bad[at] ^= 0x10;
            // The checksum finds what the entropy decoder lets pass; a flag of the header may be without effect.
            if decode_frame(&bad, &mut back).is_ok() {
                assert!(at == 4 && back == data, "byte {at}");
            }
        }
    }

    #[test]
    fn a_frame_of_another_length_is_refused() {
        let mut out = [0; CHUNK];
        for length in [0, 1, CHUNK - 1, CHUNK + 1, 4 * CHUNK] {
            let frame = zstd::bulk::compress(&vec![5; length], 1).unwrap();
            let expected = CHUNK as u64;
            assert_eq!(
                decode_frame(&frame, &mut out),
                Err(DecodeError::Length {
                    expected,
                    actual: length as u64
                })
            );
        }
    }

    #[test]
    fn bytes_behind_a_frame_are_refused() {
        let Encoded::Frame(mut frame) = encode_chunk(&[9; CHUNK], 1) else {
            panic!("compressible")
        };
        frame.push(0);
        assert_eq!(
            decode_frame(&frame, &mut [0; CHUNK]),
            Err(DecodeError::Trailing { extra: 1 })
        );
    }

    #[test]
    fn a_frame_that_wants_a_window_of_gigabytes_is_refused() {
        // Window descriptor 0xa8: 2^31 bytes. The content size, 65536, is a field of four bytes.
        let mut frame = FrameHeader::MAGIC.to_vec();
        frame.extend([0b1000_0000, 0xa8, 0, 0, 1, 0]);
        let error = decode_frame(&frame, &mut [0; CHUNK]).unwrap_err();
        assert_eq!(
            error,
            DecodeError::Window {
                window: 1 << 31,
                limit: MAX_WINDOW
            }
        );
    }

    #[test]
    fn a_frame_with_a_reserved_bit_or_a_dictionary_is_refused_by_its_header() {
        for flag in [0b0001, 0b0010, 0b0011, 0b1000] {
            let mut frame = FrameHeader::MAGIC.to_vec();
            // Single segment, a content size of four bytes that says one chunk whatever stands in front of it.
            frame.extend([0b1010_0000 | flag, 0, 0, 1, 0, 1, 0, 0, 0]);
            let reason = "reserved bit or dictionary";
            assert_eq!(
                check_frame(&frame),
                Err(DecodeError::Invalid {
                    codec: "zstd",
                    reason
                }),
                "{flag:#b}"
            );
        }
    }

    #[test]
    fn the_least_encoding_is_a_lower_bound_of_real_encoders() {
        for bits in 9..=21 {
            let data = vec![0xa5; 1 << bits];
            let zstd = zstd::bulk::compress(&data, 19).unwrap().len() as u64;
            assert!(
                least_encoded(Compression::Zstd, 1 << bits) <= zstd,
                "zstd of {} bytes",
                data.len()
            );
            let mut deflate = libdeflater::Compressor::new(libdeflater::CompressionLvl::best());
            let mut out = vec![0; deflate.deflate_compress_bound(data.len())];
            let length = deflate.deflate_compress(&data, &mut out).unwrap() as u64;
            assert!(
                least_encoded(Compression::Deflate, 1 << bits) <= length,
                "deflate of {} bytes",
                data.len()
            );
        }
    }

    #[test]
    fn the_encoder_names_the_library_that_is_linked() {
        assert_eq!(ENCODER.zstd, zstd_safe::version_number());
        assert_eq!(
            ENCODER.to_string(),
            format!("zstd-{}/level-1/checksum", zstd_safe::version_number())
        );
    }
}
