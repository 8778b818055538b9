//! What files hold, as digests that do not depend on where their bytes lie or which of them are holes.
//!
//! Up to 1 MiB it is the content's BlobDigest. A longer one is cut into pieces of 1 MiB; the digest is that of its length
//! and, for each piece that is not all zero, its number and its BlobDigest (`impasto 2026 file v1`; numbers are 64 bits,
//! little-endian). So a file of 15 TiB with three bytes in it costs three pieces.

use std::io;

use impasto_store::digest::{BlobDigest, Digest, Hasher, domain};
use impasto_store::qcow2::{CHUNK, is_zero};

use crate::disk::guest::ext4::Extent;
use crate::disk::guest::{OverlayView, ReadAt};

/// Bytes of a piece.
const PIECE: u64 = 1 << 20;

/// The digest of content in memory.
pub fn of_bytes(bytes: &[u8]) -> Digest {
    if bytes.len() as u64 <= PIECE {
        return BlobDigest::of(bytes).0;
    }
    let extent = Extent {
        offset: 0,
        start: 0,
        length: bytes.len() as u64,
    };
    of_extents(bytes, bytes.len() as u64, &[extent]).unwrap_or(Digest::ZERO)
}

/// The digest of a file of `size` bytes whose bytes lie in `extents` of `disk`: ascending, apart, within the size. All
/// others are zero.
pub(super) fn of_extents<D: ReadAt + ?Sized>(
    disk: &D,
    size: u64,
    extents: &[Extent],
) -> io::Result<Digest> {
    let mut buffer = vec![0; size.min(PIECE) as usize];
    if size <= PIECE {
        read_piece(disk, extents, 0, &mut buffer)?;
        return Ok(BlobDigest::of(&buffer).0);
    }
    let mut hasher = Hasher::new(domain::FILE);
    hasher.update(&size.to_le_bytes());
    let mut next = 0;
    let mut rest = extents;
    while let [first, ..] = rest {
        // Pieces between extents are all holes.
        let piece = next.max(first.offset / PIECE);
        let start = piece * PIECE;
        buffer.resize((size - start).min(PIECE) as usize, 0);
        read_piece(disk, rest, start, &mut buffer)?;
        if !is_zero(&buffer) {
            hasher
                .update(&piece.to_le_bytes())
                .update(BlobDigest::of(&buffer).0.as_bytes());
        }
        next = piece + 1;
        rest =
            &rest[rest.partition_point(|extent| extent.offset + extent.length <= next * PIECE)..];
    }
    Ok(hasher.finish())
}

/// The digest of a range of a disk; none where all of it is zero.
pub(super) fn of_range(
    disk: &OverlayView<'_>,
    start: u64,
    size: u64,
) -> io::Result<Option<Digest>> {
    let chunk = CHUNK as u64;
    let mut extents: Vec<Extent> = Vec::new();
    let mut from = start / chunk;
    while let Some(index) = disk
        .next_data(from)
        .map_err(io::Error::other)?
        .filter(|index| index * chunk < start + size)
    {
        let (begin, end) = (
            (index * chunk).max(start),
            ((index + 1) * chunk).min(start + size),
        );
        match extents.last_mut() {
            Some(last) if last.start + last.length == begin => last.length += end - begin,
            _ => extents.push(Extent {
                offset: begin - start,
                start: begin,
                length: end - begin,
            }),
        }
        from = index + 1;
    }
    let mut buffer = vec![0; CHUNK];
    for extent in &extents {
        for at in (0..extent.length).step_by(CHUNK) {
            let part = (extent.length - at).min(chunk) as usize;
            disk.read_exact_at(&mut buffer[..part], extent.start + at)?;
            if !is_zero(&buffer[..part]) {
                return of_extents(disk, size, &extents).map(Some);
            }
        }
    }
    Ok(None)
}

/// Fills the buffer with the file's bytes from `start` on.
fn read_piece<D: ReadAt + ?Sized>(
    disk: &D,
    extents: &[Extent],
    start: u64,
    buffer: &mut [u8],
) -> io::Result<()> {
    buffer.fill(0);
    let end = start + buffer.len() as u64;
    for extent in extents.iter().take_while(|extent| extent.offset < end) {
        let (from, to) = (
            extent.offset.max(start),
            (extent.offset + extent.length).min(end),
        );
        if from < to {
            let part = &mut buffer[(from - start) as usize..(to - start) as usize];
            disk.read_exact_at(part, extent.start + (from - extent.offset))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule of this module's documentation, over the whole content.
    fn plain(bytes: &[u8]) -> Digest {
        if bytes.len() <= 1 << 20 {
            return BlobDigest::of(bytes).0;
        }
        let mut all = (bytes.len() as u64).to_le_bytes().to_vec();
        for (number, piece) in (0u64..)
            .zip(bytes.chunks(1 << 20))
            .filter(|(_, piece)| piece.iter().any(|&b| b != 0))
        {
            all.extend(number.to_le_bytes());
            all.extend(BlobDigest::of(piece).0.as_bytes());
        }
        Hasher::new(domain::FILE).update(&all).finish()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn holes_and_places_do_not_count(
            size in 0u64..4 << 20,
            runs in proptest::collection::vec((0u64..4 << 20, 1u64..300_000, any::<u8>()), 0..5),
        ) {
            let mut content = vec![0; size as usize];
            let (mut disk, mut extents, mut end) = (vec![9; 100], Vec::new(), 0);
            let mut runs = runs;
            runs.sort_unstable();
            for (offset, length, byte) in runs {
                if offset < end || offset >= size {
                    continue;
                }
                let length = length.min(size - offset);
                content[offset as usize..][..length as usize].fill(byte);
                extents.push(Extent { offset, start: disk.len() as u64, length });
                disk.extend(std::iter::repeat_n(byte, length as usize));
                end = offset + length;
            }
            prop_assert_eq!(of_extents(disk.as_slice(), size, &extents).unwrap(), plain(&content));
            prop_assert_eq!(of_bytes(&content), plain(&content));
        }
    }

    #[test]
    fn a_huge_file_costs_what_is_in_it() {
        let extents = [Extent {
            offset: (15 << 40) - 4,
            start: 0,
            length: 4,
        }];
        let one = of_extents(b"tail".as_slice(), 15 << 40, &extents).unwrap();
        assert_ne!(
            one,
            of_extents(b"tall".as_slice(), 15 << 40, &extents).unwrap()
        );
        assert_ne!(
            one,
            of_extents(b"tail".as_slice(), (15 << 40) + 1, &extents).unwrap()
        );
    }
}
