//! Unpacks what an archive compresses. Knows formats, and never gives more bytes than were announced.

use std::io::{self, Read as _};

/// Memory that a decoder may take, in bytes: several times what the strongest preset of `xz` needs.
const MEMORY: u64 = 256 << 20;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IndexCompression {
    Xz,
    Zstd,
    Gzip,
    Plain,
}

/// What is preferred first, with the end of the file's name.
pub(super) const FORMATS: [(IndexCompression, &str); 4] = [
    (IndexCompression::Xz, ".xz"),
    (IndexCompression::Zstd, ".zst"),
    (IndexCompression::Gzip, ".gz"),
    (IndexCompression::Plain, ""),
];

/// A content that does not unpack to the announced size.
#[derive(Debug)]
pub(super) enum DecompressError {
    TooLong,
    /// It is broken, or ends early.
    Broken(io::Error),
}

/// Unpacks to exactly `size` bytes.
pub(super) fn unpack(
    format: IndexCompression,
    bytes: Vec<u8>,
    size: u64,
) -> Result<Vec<u8>, DecompressError> {
    let wanted = usize::try_from(size).map_err(|_| DecompressError::TooLong)?;
    let text = match format {
        IndexCompression::Plain => bytes,
        // The announcement is not believed before bytes have come: it is not what memory is taken for.
        IndexCompression::Xz => {
            let stream =
                liblzma::stream::Stream::new_stream_decoder(MEMORY, liblzma::stream::CONCATENATED);
            let stream = stream.map_err(|error| DecompressError::Broken(error.into()))?;
            bounded(
                liblzma::bufread::XzDecoder::new_stream(bytes.as_slice(), stream),
                size,
            )?
        }
        IndexCompression::Zstd => bounded(
            zstd::Decoder::with_buffer(bytes.as_slice()).map_err(DecompressError::Broken)?,
            size,
        )?,
        IndexCompression::Gzip => gunzip(&bytes, wanted)?,
    };
    match text.len() {
        len if len > wanted => Err(DecompressError::TooLong),
        len if len < wanted => Err(DecompressError::Broken(io::ErrorKind::UnexpectedEof.into())),
        _ => Ok(text),
    }
}

fn bounded(reader: impl io::Read, size: u64) -> Result<Vec<u8>, DecompressError> {
    let mut text = Vec::new();
    reader
        .take(size.saturating_add(1))
        .read_to_end(&mut text)
        .map_err(DecompressError::Broken)?;
    Ok(text)
}

/// The most that deflate can make of a byte.
const DEFLATE_RATIO: usize = 1032;

fn gunzip(bytes: &[u8], wanted: usize) -> Result<Vec<u8>, DecompressError> {
    let broken =
        |what: &str| DecompressError::Broken(io::Error::new(io::ErrorKind::InvalidData, what));
    if wanted > bytes.len().saturating_mul(DEFLATE_RATIO) {
        return Err(broken("it is too short for its size"));
    }
    let mut text = vec![0; wanted];
    match libdeflater::Decompressor::new().gzip_decompress(bytes, &mut text) {
        Ok(len) => {
            text.truncate(len);
            Ok(text)
        }
        Err(libdeflater::DecompressionError::InsufficientSpace) => Err(DecompressError::TooLong),
        Err(libdeflater::DecompressionError::BadData) => Err(broken("its data is damaged")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(format: IndexCompression, text: &[u8]) -> Vec<u8> {
        match format {
            IndexCompression::Plain => text.to_vec(),
            IndexCompression::Zstd => zstd::encode_all(text, 3).unwrap(),
            IndexCompression::Xz => {
                let mut packed = Vec::new();
                liblzma::read::XzEncoder::new(text, 6)
                    .read_to_end(&mut packed)
                    .unwrap();
                packed
            }
            IndexCompression::Gzip => {
                let mut compressor =
                    libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
                let mut packed = vec![0; compressor.gzip_compress_bound(text.len())];
                let len = compressor.gzip_compress(text, &mut packed).unwrap();
                packed.truncate(len);
                packed
            }
        }
    }

    #[test]
    fn only_the_announced_size_comes_out() {
        let text = b"Package: hello\n".repeat(10_000);
        let size = text.len() as u64;
        for (format, _) in FORMATS {
            let packed = packed(format, &text);
            assert_eq!(
                unpack(format, packed.clone(), size).unwrap(),
                text,
                "{format:?}"
            );
            assert!(
                matches!(
                    unpack(format, packed.clone(), size - 1),
                    Err(DecompressError::TooLong)
                ),
                "{format:?}"
            );
            assert!(
                matches!(
                    unpack(format, packed.clone(), size + 1),
                    Err(DecompressError::Broken(_))
                ),
                "{format:?}"
            );
            assert!(unpack(format, packed, u64::MAX).is_err(), "{format:?}");
            if format != IndexCompression::Plain {
                assert!(
                    unpack(format, b"no such format".to_vec(), 10).is_err(),
                    "{format:?}"
                );
            }
        }
    }
}
