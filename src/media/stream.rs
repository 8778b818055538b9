//! A stream of bytes that is known before it is written: some of it in memory, most of it in files.
//! Knows pieces and where they end; knows no format.
//!
//! Pieces are cut so that a change moves few of their ends: large files have pieces of their own, counted from their
//! beginning, and small ones are gathered until the name of one says that a new piece begins.

use std::io;

use impasto_store::digest::Digest;

/// Bytes of a piece, at most, but for heads of members.
pub const PIECE: u64 = 1 << 20;
/// Files from this size on have pieces of their own.
const LARGE: u64 = PIECE / 2;
/// One name among so many begins a piece.
const ONE_IN: u8 = 32;

/// The files that a stream reads.
pub trait ByteSource: Sync {
    /// Fills `buffer` with a file's bytes from `offset`.
    ///
    /// # Errors
    /// The file cannot be read, or ends before.
    fn read(&self, file: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// What stands for these bytes of a file: equal only where the bytes are.
    ///
    /// # Errors
    /// The file cannot be read.
    fn identity(&self, file: usize, offset: u64, length: u64) -> io::Result<Digest>;
}

/// A part of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Bytes(Vec<u8>),
    File {
        file: usize,
        offset: u64,
        length: u64,
    },
}

/// What is compressed by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MediaPiece {
    parts: Vec<Part>,
    length: u64,
}

impl MediaPiece {
    /// Its bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Reads it.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read(&self, source: &dyn ByteSource) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.length as usize);
        for part in &self.parts {
            match part {
                Part::Bytes(part) => bytes.extend_from_slice(part),
                Part::File {
                    file,
                    offset,
                    length,
                } => {
                    let start = bytes.len();
                    bytes.resize(start + *length as usize, 0);
                    source.read(*file, *offset, &mut bytes[start..])?;
                }
            }
        }
        Ok(bytes)
    }

    /// What stands for its bytes: equal only where they are. Files are not read where their source knows them.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn identity(&self, source: &dyn ByteSource) -> io::Result<Digest> {
        let mut hasher = blake3::Hasher::new_derive_key("impasto 2026-11 piece of a stream");
        for part in &self.parts {
            match part {
                Part::Bytes(bytes) => {
                    hasher.update(&[0]);
                    hasher.update(&(bytes.len() as u64).to_le_bytes());
                    hasher.update(bytes);
                }
                Part::File {
                    file,
                    offset,
                    length,
                } => {
                    hasher.update(&[1]);
                    hasher.update(&length.to_le_bytes());
                    hasher.update(source.identity(*file, *offset, *length)?.as_bytes());
                }
            }
        }
        Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
    }
}

/// A stream, in pieces.
#[derive(Debug, Default)]
pub struct MediaStream {
    pieces: Vec<MediaPiece>,
    length: u64,
}

impl MediaStream {
    pub fn pieces(&self) -> &[MediaPiece] {
        &self.pieces
    }

    /// Its bytes.
    pub fn length(&self) -> u64 {
        self.length
    }
}

/// Makes a [`MediaStream`].
#[derive(Debug, Default)]
pub struct StreamBuilder {
    stream: MediaStream,
    piece: MediaPiece,
}

impl StreamBuilder {
    /// A member of this name begins.
    pub fn begin(&mut self, name: &[u8]) {
        if blake3::hash(name).as_bytes()[0].is_multiple_of(ONE_IN) || self.piece.length >= PIECE {
            self.cut();
        }
    }

    /// Bytes of the format.
    pub fn bytes(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.piece.length += bytes.len() as u64;
        match self.piece.parts.last_mut() {
            Some(Part::Bytes(last)) => last.extend_from_slice(bytes),
            _ => self.piece.parts.push(Part::Bytes(bytes.to_vec())),
        }
    }

    /// A file of the source, of `size` bytes.
    pub fn file(&mut self, file: usize, size: u64) {
        if size >= LARGE || self.piece.length + size > PIECE + LARGE {
            self.cut();
        }
        let mut offset = 0;
        while offset < size {
            let length = (size - offset).min(PIECE);
            self.piece.parts.push(Part::File {
                file,
                offset,
                length,
            });
            self.piece.length += length;
            offset += length;
            if length == PIECE {
                self.cut();
            }
        }
    }

    /// Bytes so far.
    pub fn length(&self) -> u64 {
        self.stream.length + self.piece.length
    }

    /// Zeros up to a multiple of `unit` bytes.
    pub fn pad(&mut self, unit: u64) {
        let rest = self.length().next_multiple_of(unit) - self.length();
        self.bytes(&vec![0; rest as usize]);
    }

    fn cut(&mut self) {
        if self.piece.length > 0 {
            self.stream.length += self.piece.length;
            self.stream.pieces.push(std::mem::take(&mut self.piece));
        }
    }

    pub fn finish(mut self) -> MediaStream {
        self.cut();
        self.stream
    }
}

/// Files in memory, for tests.
#[cfg(test)]
pub(super) struct Memory(pub(super) Vec<Vec<u8>>);

#[cfg(test)]
impl ByteSource for Memory {
    fn read(&self, file: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        buffer.copy_from_slice(&self.0[file][start..start + buffer.len()]);
        Ok(())
    }

    fn identity(&self, file: usize, offset: u64, length: u64) -> io::Result<Digest> {
        let start = offset as usize;
        let hash = blake3::hash(&self.0[file][start..start + length as usize]);
        Ok(Digest::from_bytes(*hash.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Members `f0`, `f1`, … of these files.
    fn stream(memory: &Memory) -> MediaStream {
        let mut builder = StreamBuilder::default();
        for (index, bytes) in memory.0.iter().enumerate() {
            let name = format!("f{index}");
            builder.begin(name.as_bytes());
            builder.bytes(name.as_bytes());
            builder.file(index, bytes.len() as u64);
            builder.pad(4);
        }
        builder.finish()
    }

    #[test]
    fn a_stream_is_what_was_put_into_it_and_its_pieces_are_bounded() {
        let sizes = [3, 0, 5000, LARGE, 3 * PIECE + 7, 100_000];
        let memory = Memory(
            (0..120)
                .map(|n| vec![n as u8; sizes[n % 6] as usize])
                .collect(),
        );
        let stream = stream(&memory);
        let mut expected = Vec::new();
        for (index, bytes) in memory.0.iter().enumerate() {
            expected.extend(format!("f{index}").bytes());
            expected.extend(bytes);
            expected.resize(expected.len().next_multiple_of(4), 0);
        }
        let pieces = stream.pieces().iter();
        let read: Vec<u8> = pieces
            .flat_map(|piece| piece.read(&memory).unwrap())
            .collect();
        assert_eq!(stream.length(), expected.len() as u64);
        assert!(read == expected);
        let longest = stream
            .pieces()
            .iter()
            .map(MediaPiece::length)
            .max()
            .unwrap();
        assert!(longest <= 2 * PIECE + LARGE, "{longest}");
        assert!(stream.pieces().len() > 60);
    }

    #[test]
    fn a_file_that_grows_or_comes_changes_few_pieces() {
        let mut memory = Memory(
            (0..2000)
                .map(|n: u32| {
                    let byte = blake3::hash(&n.to_le_bytes()).as_bytes()[0];
                    vec![byte; 1000 + n as usize * 7]
                })
                .collect(),
        );
        let identities = |memory: &Memory| -> BTreeSet<Digest> {
            let stream = stream(memory);
            let pieces = stream.pieces().iter();
            pieces
                .map(|piece| piece.identity(memory).unwrap())
                .collect()
        };
        let before = identities(&memory);
        memory.0[1000].extend_from_slice(b"some more");
        let after = identities(&memory);
        let new = after.difference(&before).count();
        assert!((1..=3).contains(&new), "{new} of {}", after.len());
        // A large one is cut from its beginning.
        memory.0[1000] = (0..8 * PIECE).map(|n| (n >> 16) as u8).collect();
        let before = identities(&memory);
        memory.0[1000].push(1);
        let after = identities(&memory);
        let new = after.difference(&before).count();
        assert!((1..=2).contains(&new), "{new} of {}", after.len());
    }
}
