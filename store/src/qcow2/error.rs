//! What can go wrong with a qcow2 file: at the gate, while reading, while writing.
//! Knows no path: these functions are given open files, the caller adds the name.

use std::io;

/// Why the gate refuses a file. Every variant but [`GateError::Read`] is a property of the file's bytes.
///
/// "Section" names in the docs are those of QEMU's `docs/interop/qcow2`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// The file could not be read at all.
    #[error("cannot read the {what} at offset {offset:#x}")]
    Read {
        /// Which structure was wanted.
        what: &'static str,
        /// Byte offset in the file.
        offset: u64,
        source: io::Error,
    },
    /// Section "Header", bytes 0-3.
    #[error("not a qcow2 file: it starts with {magic:#010x}")]
    NotQcow2 {
        /// The first four bytes, big-endian.
        magic: u32,
    },
    /// Section "Header", bytes 4-7.
    #[error("qcow2 version {version} is not supported, only 2 and 3 are")]
    Version {
        /// What the header says.
        version: u32,
    },
    /// A structure ends beyond the end of the file.
    #[error(
        "the {what} of {length} bytes at offset {offset:#x} ends beyond the file's end at {file_length} bytes"
    )]
    OutOfBounds {
        what: &'static str,
        /// Byte offset in the file.
        offset: u64,
        /// Bytes that it needs.
        length: u64,
        /// Bytes that the file has.
        file_length: u64,
    },
    /// A structure that must begin at a cluster boundary does not.
    #[error("the {what} at offset {offset:#x} is not aligned to {alignment} bytes")]
    Misaligned {
        what: &'static str,
        /// Byte offset in the file, or the size for "virtual size".
        offset: u64,
        /// Bytes.
        alignment: u64,
    },
    /// Two structures claim one host cluster.
    #[error("the {what} at offset {offset:#x} overlaps another structure")]
    Overlap {
        /// The second of the two.
        what: &'static str,
        /// Byte offset of the shared cluster.
        offset: u64,
    },
    /// A number exceeds what this reader is willing to handle.
    #[error("{what} is {value}, more than the limit of {limit}")]
    TooLarge {
        what: &'static str,
        /// What the file says.
        value: u64,
        /// The greatest accepted value.
        limit: u64,
    },
    /// A number is smaller than the format demands.
    #[error("{what} is {value}, less than the {minimum} that are needed")]
    TooSmall {
        what: &'static str,
        /// What the file says.
        value: u64,
        /// The smallest accepted value.
        minimum: u64,
    },
    /// The image names a backing file (header field or header extension).
    #[error("the image has a backing file")]
    BackingFile,
    /// The image keeps its data in another file (feature bit or header extension).
    #[error("the image has an external data file")]
    DataFile,
    /// The image is encrypted (header field or header extension).
    #[error("the image is encrypted")]
    Encrypted,
    /// The image has internal snapshots.
    #[error("the image has {count} internal snapshots")]
    Snapshots { count: u32 },
    /// Incompatible feature bit 0.
    #[error("the image was not closed cleanly (dirty bit); `qemu-img check -r all` can repair it")]
    Dirty,
    /// Incompatible feature bit 1.
    #[error("the image is marked corrupt")]
    Corrupt,
    /// Incompatible feature bit 4.
    #[error("the image uses extended L2 entries (subclusters)")]
    ExtendedL2,
    /// Autoclear bit 0 or the bitmaps header extension.
    #[error("the image has persistent bitmaps")]
    Bitmaps,
    /// A feature bit that nobody knows.
    #[error("unknown {class} feature bits {bits:#x}")]
    UnknownFeature {
        /// `incompatible`, `compatible` or `autoclear`.
        class: &'static str,
        /// Only the unknown ones.
        bits: u64,
    },
    /// Byte 104 and incompatible feature bit 3 do not agree, or the type is unknown.
    #[error("compression type {kind} with the compression-type bit {}", if *.bit { "set" } else { "clear" })]
    CompressionType {
        /// Byte 104 of the header; 0 is deflate, 1 is zstd.
        kind: u8,
        /// Incompatible feature bit 3.
        bit: bool,
    },
    /// Bits that the format reserves, or fields that nobody knows, are not zero.
    #[error("the {what} at offset {offset:#x} has reserved bits set: {value:#x}")]
    ReservedBits {
        what: &'static str,
        /// Byte offset of the field or of the entry.
        offset: u64,
        value: u64,
    },
    /// A header extension that is not on the list.
    #[error("unknown header extension {kind:#010x}")]
    UnknownExtension { kind: u32 },
    /// A version 2 image has an L2 entry with the zero flag, which version 3 introduced.
    #[error("zero flag in the L2 entry at offset {offset:#x} of a version 2 image")]
    ZeroFlagInV2 {
        /// Byte offset of the entry.
        offset: u64,
    },
    /// The format allows it, and it is not read here.
    #[error("the image has {what}")]
    Unsupported { what: &'static str },
    /// A structure's checksum is not that of its bytes.
    #[error("the {what} at offset {offset:#x} has a wrong checksum")]
    Checksum {
        what: &'static str,
        /// Byte offset in the file.
        offset: u64,
    },
    /// A field holds what it must not.
    #[error("the {what} at offset {offset:#x} is {value:#x}")]
    Field {
        what: &'static str,
        /// Byte offset in the file.
        offset: u64,
        value: u64,
    },
    /// More compressed clusters begin in one stretch of the file than can have been compressed into it.
    #[error(
        "{count} compressed clusters begin in the {length} bytes at offset {offset:#x}, at most {limit} can"
    )]
    Amplification {
        /// Byte offset of the stretch.
        offset: u64,
        /// Its length in bytes.
        length: u64,
        /// Clusters counted until the check gave up.
        count: u64,
        /// The most that any encoder could place there.
        limit: u64,
    },
}

/// Why a compressed cluster or frame could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes are not a zstd frame or not a deflate stream.
    #[error("not a valid {codec} stream ({reason})")]
    Invalid {
        /// `zstd` or `deflate`.
        codec: &'static str,
        /// The library's word for it.
        reason: &'static str,
    },
    /// It decodes to another length than one cluster.
    #[error("decodes to {actual} bytes instead of {expected}")]
    Length {
        /// Bytes wanted.
        expected: u64,
        /// Bytes decoded, or announced by the frame's header.
        actual: u64,
    },
    /// The frame asks for a window beyond the limit.
    #[error("wants a window of {window} bytes, more than the limit of {limit}")]
    Window {
        /// Bytes.
        window: u64,
        /// Bytes.
        limit: u64,
    },
    /// There are bytes behind the frame.
    #[error("{extra} bytes follow the frame")]
    Trailing { extra: u64 },
}

/// Why a [`super::ChunkSource`] could not give a chunk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The file below could not be read.
    #[error("cannot read {length} bytes at offset {offset:#x}")]
    Read {
        /// Byte offset in the file.
        offset: u64,
        /// Bytes wanted.
        length: u64,
        source: io::Error,
    },
    /// A table is damaged, or changed since the gate saw it.
    #[error("the image's tables are damaged")]
    Table(#[from] GateError),
    /// A compressed cluster is damaged.
    #[error("the compressed cluster at offset {offset:#x} is damaged")]
    Cluster {
        /// Byte offset in the file.
        offset: u64,
        source: DecodeError,
    },
    /// A chunk was asked for that the disk does not have.
    #[error("chunk {index} is beyond the end of a disk of {virtual_size} bytes")]
    BeyondEnd {
        /// The chunk asked for.
        index: u64,
        /// Bytes of the disk.
        virtual_size: u64,
    },
    /// The caller's own reason to stop, passed through [`super::ChunkSource::for_each_present`].
    #[error("stopped by the caller")]
    Stopped(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a layer file could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The file could not be written.
    #[error("cannot write {length} bytes at offset {offset:#x}")]
    Write {
        /// Byte offset in the file.
        offset: u64,
        /// Bytes.
        length: u64,
        source: io::Error,
    },
    /// The virtual size is not a multiple of 512, or beyond [`super::MAX_VIRTUAL_SIZE`].
    #[error("a virtual size of {virtual_size} bytes is not possible")]
    VirtualSize {
        /// Bytes.
        virtual_size: u64,
    },
    /// A chunk beyond the end of the disk.
    #[error("chunk {index} is beyond the end of the disk")]
    BeyondEnd { index: u64 },
    /// Chunks of one sort must come in ascending order, and frames before raw chunks.
    #[error("{what} {index} comes out of order")]
    Order {
        /// `frame`, `raw chunk`, `zero chunk`.
        what: &'static str,
        index: u64,
    },
    /// A chunk was pushed in two ways.
    #[error("chunk {index} was written twice")]
    Twice { index: u64 },
    /// The frame cannot be a cluster of a layer file.
    #[error("the frame of chunk {index} is not valid for the format")]
    Frame {
        index: u64,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The frame is so long that the chunk must be stored raw.
    #[error("the frame of chunk {index} has {length} bytes, more than the limit of {limit}")]
    FrameTooLong {
        index: u64,
        /// Bytes.
        length: u64,
        /// Bytes.
        limit: u64,
    },
}
