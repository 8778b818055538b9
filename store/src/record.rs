//! The frame around every small file of the store: magic, length, body, checksum.
//! Knows damage, not what a body means.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::digest::{DIGEST_LEN, Digest, Hasher, domain};

/// Length of a record's magic, in bytes.
pub(crate) const MAGIC_LEN: usize = 8;

// magic | length of the body, u64 little-endian | body | BLAKE3 under the STATE domain of all before it.
// Changing this is a format break.
const LENGTH_AT: usize = MAGIC_LEN;
const BODY_AT: usize = LENGTH_AT + 8;
const OVERHEAD: usize = BODY_AT + DIGEST_LEN;

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    /// Shorter or longer than it says.
    #[error("its length is wrong")]
    Length,
    /// Of another type, or not a record at all.
    #[error("it starts with the wrong magic number")]
    Magic,
    /// The checksum does not fit.
    #[error("its checksum does not match")]
    Checksum,
    /// The body is not what the magic promises.
    #[error("its body cannot be decoded")]
    Body,
}

pub(crate) fn frame(magic: &[u8; MAGIC_LEN], body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + OVERHEAD);
    bytes.extend_from_slice(magic);
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    bytes.extend_from_slice(body);
    let checksum = checksum(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    bytes
}

/// The body in a frame, checked.
pub(crate) fn unframe<'a>(
    magic: &[u8; MAGIC_LEN],
    bytes: &'a [u8],
) -> Result<&'a [u8], RecordError> {
    let body_end = bytes
        .len()
        .checked_sub(DIGEST_LEN)
        .filter(|end| *end >= BODY_AT)
        .ok_or(RecordError::Length)?;
    let (head, check) = bytes.split_at(body_end);
    if head[..MAGIC_LEN] != *magic {
        return Err(RecordError::Magic);
    }
    let length: [u8; 8] = head[LENGTH_AT..BODY_AT]
        .try_into()
        .map_err(|_| RecordError::Length)?;
    if u64::from_le_bytes(length) != (body_end - BODY_AT) as u64 {
        return Err(RecordError::Length);
    }
    if check != checksum(head).as_bytes() {
        return Err(RecordError::Checksum);
    }
    Ok(&head[BODY_AT..])
}

fn checksum(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(domain::STATE);
    // Below this size handing work to other threads costs more than it saves.
    if bytes.len() >= 256 << 10 {
        hasher.update_parallel(bytes)
    } else {
        hasher.update(bytes)
    };
    hasher.finish()
}

/// Encodes a body: MessagePack, structures as arrays in the order of their fields.
pub(crate) fn encode(value: &impl Serialize) -> Vec<u8> {
    rmp_serde::to_vec(value).expect("BUG: a record's body cannot be encoded")
}

/// Decodes a body. Nothing may follow it, and it must be in its one encoding.
pub(crate) fn decode<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<T, RecordError> {
    let value = decode_unchecked(bytes)?;
    if encode(&value) != bytes {
        return Err(RecordError::Body);
    }
    Ok(value)
}

/// Decodes a body whose bytes have no name (a cache), so that another encoding of it does no harm.
pub(crate) fn decode_unchecked<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RecordError> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
    deserializer.set_max_depth(32);
    T::deserialize(&mut deserializer).map_err(|_| RecordError::Body)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: &[u8; 8] = b"impaTEST";

    #[test]
    fn a_body_comes_back() {
        for body in [&b""[..], b"x", &[7; 300_000]] {
            assert_eq!(unframe(MAGIC, &frame(MAGIC, body)), Ok(body));
        }
    }

    #[test]
    fn every_flipped_bit_truncation_and_addition_is_noticed() {
        let good = frame(MAGIC, b"the body");
        for position in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[position / 8] ^= 1 << (position % 8);
            assert!(unframe(MAGIC, &bad).is_err(), "bit {position}");
        }
        for length in 0..good.len() {
            assert!(unframe(MAGIC, &good[..length]).is_err(), "cut to {length}");
        }
        let mut longer = good.clone();
        longer.push(0);
        assert!(unframe(MAGIC, &longer).is_err());
        assert_eq!(unframe(b"impaELSE", &good), Err(RecordError::Magic));
    }

    #[test]
    fn a_second_encoding_of_a_body_is_refused() {
        // 1 as a fixint and as an u8: the same number, other bytes.
        assert_eq!(decode::<u64>(&[1]), Ok(1));
        assert_eq!(decode::<u64>(&[0xcc, 1]), Err(RecordError::Body));
        assert_eq!(decode::<u64>(&[1, 1]), Err(RecordError::Body));
    }

    #[test]
    fn the_frame_is_pinned() {
        // A change here is a format break: bump the store's format version.
        let bytes = frame(b"impaTEST", b"abc");
        assert_eq!(&bytes[..19], b"impaTEST\x03\0\0\0\0\0\0\0abc");
        assert_eq!(bytes.len(), 51);
    }
}
