//! SHA-256 digests, by which others name files: archives, checksums in recipes, `sha256sum`.
//! Knows bytes and their digest; nothing in the store is named by one.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::key::{Atom, Describe, Sink};

const LEN: usize = 32;

/// A SHA-256. Its text is 64 lower-case hexadecimal digits, and so it is in keys, in TOML and in JSON; in the store's
/// records it is bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; LEN]);

/// A SHA-512, by which others name files too. Its text is 128 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha512(pub [u8; 2 * LEN]);

/// A text is not a SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a SHA-256: expected 64 digits of 0-9 and a-f")]
pub struct ParseSha256Error {
    /// The text, or the beginning of a long one.
    pub text: String,
}

impl Sha256 {
    pub fn of(bytes: &[u8]) -> Sha256 {
        Sha256(<sha2::Sha256 as sha2::Digest>::digest(bytes).into())
    }
}

impl FromStr for Sha256 {
    type Err = ParseSha256Error;

    /// Only lower case: what compares texts must not see two for one digest. Whoever reads texts of others lowers them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        hexadecimal(text)
            .map(Sha256)
            .ok_or_else(|| ParseSha256Error {
                text: text.chars().take(80).collect(),
            })
    }
}

impl Sha512 {
    pub fn of(bytes: &[u8]) -> Sha512 {
        Sha512(<sha2::Sha512 as sha2::Digest>::digest(bytes).into())
    }

    /// Reads its text, in lower case only; none where that is something else.
    pub fn parse(text: &str) -> Option<Sha512> {
        hexadecimal(text).map(Sha512)
    }
}

impl fmt::Display for Sha512 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha512 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha512({self})")
    }
}

/// Bytes of exactly as many lower-case hexadecimal digits.
fn hexadecimal<const N: usize>(text: &str) -> Option<[u8; N]> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let mut bytes = [0; N];
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(bytes)
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({self})")
    }
}

impl Describe for Sha256 {
    fn describe(&self, sink: &mut dyn Sink) {
        sink.put(Atom::Str(&self.to_string()));
    }
}

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => text::serialize(self, serializer),
            false => serde_bytes::Bytes::new(&self.0).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.is_human_readable() {
            true => text::deserialize(deserializer),
            false => Ok(Sha256(
                serde_bytes::ByteArray::<LEN>::deserialize(deserializer)?.into_array(),
            )),
        }
    }
}

/// For `#[serde(with)]`: as text in binary formats too, where older records have it so.
pub mod text {
    use super::*;

    pub fn serialize<S: Serializer>(sha256: &Sha256, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(sha256)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Sha256, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Computes the SHA-256 of what is written to it.
#[derive(Debug, Clone, Default)]
pub struct Sha256Writer(sha2::Sha256);

impl Sha256Writer {
    pub fn update(&mut self, bytes: &[u8]) {
        sha2::Digest::update(&mut self.0, bytes);
    }

    /// The SHA-256 of all that was written.
    pub fn finish(self) -> Sha256 {
        Sha256(sha2::Digest::finalize(self.0).into())
    }
}

impl Write for Sha256Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Computes the SHA-512 of what it is given.
#[derive(Debug, Clone, Default)]
pub struct Sha512Writer(sha2::Sha512);

impl Sha512Writer {
    pub fn update(&mut self, bytes: &[u8]) {
        sha2::Digest::update(&mut self.0, bytes);
    }

    /// The SHA-512 of all that was given.
    pub fn finish(self) -> Sha512 {
        Sha512(sha2::Digest::finalize(self.0).into())
    }
}

/// Computes the SHA-256 of what is read through it.
#[derive(Debug)]
pub struct Sha256Reader<R> {
    reader: R,
    hash: Sha256Writer,
}

impl<R> Sha256Reader<R> {
    pub fn new(reader: R) -> Self {
        Sha256Reader {
            reader,
            hash: Sha256Writer::default(),
        }
    }

    /// The SHA-256 of all that was read.
    pub fn finish(self) -> Sha256 {
        self.hash.finish()
    }
}

impl<R: Read> Read for Sha256Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_sha256_reads_back_from_its_text_in_one_spelling() {
        let digest = Sha256::of(b"abc");
        assert_eq!(digest.to_string(), ABC);
        assert_eq!(ABC.parse(), Ok(digest));
        for text in [&ABC.to_uppercase(), &ABC[1..], &"é".repeat(32), ""] {
            assert!(text.parse::<Sha256>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_sha512_reads_back_from_its_text() {
        let digest = Sha512::of(b"abc");
        let text = digest.to_string();
        assert!(text.starts_with("ddaf35a193617aba") && text.ends_with("2a9ac94fa54ca49f"));
        assert_eq!(Sha512::parse(&text), Some(digest));
        assert_eq!(Sha512::parse(ABC), None);
        let mut writer = Sha512Writer::default();
        writer.update(b"a");
        writer.update(b"bc");
        assert_eq!(writer.finish(), digest);
    }

    #[test]
    fn what_passes_through_is_hashed() {
        let mut reader = Sha256Reader::new(&b"abc"[..]);
        let mut writer = Sha256Writer::default();
        io::copy(&mut reader, &mut writer).unwrap();
        assert_eq!(reader.finish().to_string(), ABC);
        assert_eq!(writer.finish().to_string(), ABC);
    }

    /// Stored forms: records of the store hold bytes, a recipe's history text, each as before this type was.
    #[test]
    fn forms_in_records_are_pinned() {
        #[derive(Serialize, Deserialize, PartialEq, Debug)]
        struct Record(Sha256, #[serde(with = "text")] Sha256);
        let digest = Sha256::of(b"abc");
        let bytes = rmp_serde::to_vec(&Record(digest, digest)).unwrap();
        let before = rmp_serde::to_vec(&(serde_bytes::Bytes::new(&digest.0), ABC)).unwrap();
        assert_eq!(bytes, before);
        assert_eq!(
            rmp_serde::from_slice::<Record>(&bytes).unwrap(),
            Record(digest, digest)
        );
    }
}
