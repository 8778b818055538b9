//! The qcow2 header and its extensions, as a strict allow-list.
//! Knows the bytes of the first cluster only: no file, no table.

use super::error::GateError;

/// `QFI\xfb`.
pub const MAGIC: u32 = 0x5146_49fb;

/// The largest disk that is read or written, in bytes.
///
/// Disks of 16 TiB are needed; four times that leaves room. At 64 KiB clusters the L1 table of such a disk has 131,072
/// entries, so that everything which is kept in memory per L1 entry stays below 2 MiB.
pub const MAX_VIRTUAL_SIZE: u64 = 64 << 40;

/// As QEMU's `QCOW_MAX_L1_SIZE`.
const MAX_L1_BYTES: u64 = 32 << 20;
/// As QEMU's `QCOW_MAX_REFTABLE_SIZE`.
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;

/// As QEMU's `MIN_CLUSTER_BITS` and `MAX_CLUSTER_BITS`: 512 bytes to 2 MiB.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
const REFCOUNT_ORDER_MAX: u32 = 6;

/// Bytes at the beginning of a file that header and extensions may fill. QEMU's own take less than 1 KiB.
pub const HEADER_AREA: usize = 4096;

// Section "Header": byte offsets. All numbers are big-endian.
const V2_LENGTH: usize = 72;
const V3_LENGTH_MIN: usize = 104;
/// With the compression type and its padding: what QEMU 5.1 and later write.
const V3_LENGTH: usize = 112;
const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 4;
const AT_BACKING_OFFSET: usize = 8;
const AT_BACKING_SIZE: usize = 16;
const AT_CLUSTER_BITS: usize = 20;
const AT_SIZE: usize = 24;
const AT_CRYPT_METHOD: usize = 32;
const AT_L1_SIZE: usize = 36;
const AT_L1_OFFSET: usize = 40;
const AT_REFCOUNT_TABLE_OFFSET: usize = 48;
const AT_REFCOUNT_TABLE_CLUSTERS: usize = 56;
const AT_SNAPSHOTS: usize = 60;
const AT_SNAPSHOTS_OFFSET: usize = 64;
const AT_INCOMPATIBLE: usize = 72;
const AT_COMPATIBLE: usize = 80;
const AT_AUTOCLEAR: usize = 88;
const AT_REFCOUNT_ORDER: usize = 96;
const AT_HEADER_LENGTH: usize = 100;
const AT_COMPRESSION_TYPE: usize = 104;

// Section "Header", incompatible features.
const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
// Compatible features.
const LAZY_REFCOUNTS: u64 = 1 << 0;
// Autoclear features.
const BITMAPS: u64 = 1 << 0;
const RAW_EXTERNAL_DATA: u64 = 1 << 1;

// Section "Header extensions".
const EXT_END: u32 = 0;
const EXT_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXT_FEATURE_NAMES: u32 = 0x6803_f857;
const EXT_BITMAPS: u32 = 0x2385_2875;
const EXT_ENCRYPTION: u32 = 0x0537_be77;
const EXT_DATA_FILE: u32 = 0x4441_5441;

/// How compressed clusters are encoded (header byte 104).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate, type 0.
    Deflate,
    /// Zstandard, type 1.
    Zstd,
}

/// An accepted header. Its table offsets are aligned, but not yet compared with the file's length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// 9 to 21.
    pub cluster_bits: u32,
    /// Bytes, a multiple of 512, at most [`MAX_VIRTUAL_SIZE`].
    pub virtual_size: u64,
    /// Entries of the L1 table; at least as many as the virtual size needs.
    pub l1_entries: u64,
    /// Byte offset in the file.
    pub l1_offset: u64,
    /// Byte offset in the file.
    pub refcount_table_offset: u64,
    /// Clusters of the refcount table.
    pub refcount_table_clusters: u64,
    /// 0 to 6: refcounts have `1 << order` bits.
    pub refcount_order: u32,
    /// How compressed clusters are encoded.
    pub compression: Compression,
    /// Bytes of the header itself; extensions follow.
    pub header_length: u32,
}

impl Header {
    /// Bytes of a cluster.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Entries of an L2 table, as a power of two.
    pub fn l2_bits(&self) -> u32 {
        self.cluster_bits - 3
    }

    /// L1 entries that the virtual size needs.
    pub fn l1_needed(&self) -> u64 {
        self.virtual_size
            .div_ceil(1 << (self.cluster_bits + self.l2_bits()))
    }

    /// Checks a header against the allow-list.
    ///
    /// `first` is the beginning of the file: [`HEADER_AREA`] bytes, or less where the file is shorter.
    /// `file_length` is what the file has.
    pub fn parse(first: &[u8], file_length: u64) -> Result<Header, GateError> {
        let short = |what, length: usize| GateError::OutOfBounds {
            what,
            offset: 0,
            length: length as u64,
            file_length,
        };
        let be32 = |at: usize| get_u32(first, at).ok_or(short("header", at + 4));
        let be64 = |at: usize| get_u64(first, at).ok_or(short("header", at + 8));

        let magic = be32(AT_MAGIC)?;
        if magic != MAGIC {
            return Err(GateError::NotQcow2 { magic });
        }
        let version = be32(AT_VERSION)?;
        if version != 2 && version != 3 {
            return Err(GateError::Version { version });
        }
        let fixed = if version == 2 {
            V2_LENGTH
        } else {
            V3_LENGTH_MIN
        };
        if first.len() < fixed {
            return Err(short("header", fixed));
        }
        // What names another file comes first: its message matters most.
        if be64(AT_BACKING_OFFSET)? != 0 || be32(AT_BACKING_SIZE)? != 0 {
            return Err(GateError::BackingFile);
        }
        let cluster_bits = be32(AT_CLUSTER_BITS)?;
        if cluster_bits > *CLUSTER_BITS.end() {
            let limit = u64::from(*CLUSTER_BITS.end());
            return Err(GateError::TooLarge {
                what: "cluster_bits",
                value: u64::from(cluster_bits),
                limit,
            });
        }
        if cluster_bits < *CLUSTER_BITS.start() {
            let minimum = u64::from(*CLUSTER_BITS.start());
            return Err(GateError::TooSmall {
                what: "cluster_bits",
                value: u64::from(cluster_bits),
                minimum,
            });
        }
        if be32(AT_CRYPT_METHOD)? != 0 {
            return Err(GateError::Encrypted);
        }
        let snapshots = be32(AT_SNAPSHOTS)?;
        if snapshots != 0 {
            return Err(GateError::Snapshots { count: snapshots });
        }

        // Unused where there are no snapshots, and zero unless an old QEMU left it; QEMU still wants it to be sound.
        let (what, offset) = ("snapshot table", be64(AT_SNAPSHOTS_OFFSET)?);
        if offset > file_length {
            return Err(GateError::OutOfBounds {
                what,
                offset,
                length: 0,
                file_length,
            });
        }
        if !offset.is_multiple_of(1 << cluster_bits) {
            return Err(GateError::Misaligned {
                what,
                offset,
                alignment: 1 << cluster_bits,
            });
        }

        let mut header = Header {
            version,
            cluster_bits,
            virtual_size: be64(AT_SIZE)?,
            l1_entries: u64::from(be32(AT_L1_SIZE)?),
            l1_offset: be64(AT_L1_OFFSET)?,
            refcount_table_offset: be64(AT_REFCOUNT_TABLE_OFFSET)?,
            refcount_table_clusters: u64::from(be32(AT_REFCOUNT_TABLE_CLUSTERS)?),
            refcount_order: 4,
            compression: Compression::Deflate,
            header_length: V2_LENGTH as u32,
        };
        if version == 3 {
            header.parse_v3(first, file_length)?;
        }
        let area = HEADER_AREA.min(header.cluster_size() as usize);
        check_extensions(
            &first[..first.len().min(area)],
            header.header_length as usize,
            area,
            file_length,
        )?;
        header.check_numbers()?;
        Ok(header)
    }

    /// Section "Header", the fields that version 3 added.
    fn parse_v3(&mut self, first: &[u8], file_length: u64) -> Result<(), GateError> {
        let be32 = |at: usize| get_u32(first, at).unwrap_or(0);
        let be64 = |at: usize| get_u64(first, at).unwrap_or(0);

        let incompatible = be64(AT_INCOMPATIBLE);
        let autoclear = be64(AT_AUTOCLEAR);
        if incompatible & EXTERNAL_DATA != 0 || autoclear & RAW_EXTERNAL_DATA != 0 {
            return Err(GateError::DataFile);
        }
        if incompatible & CORRUPT != 0 {
            return Err(GateError::Corrupt);
        }
        if incompatible & DIRTY != 0 {
            return Err(GateError::Dirty);
        }
        if incompatible & EXTENDED_L2 != 0 {
            return Err(GateError::ExtendedL2);
        }
        if autoclear & BITMAPS != 0 {
            return Err(GateError::Bitmaps);
        }
        let compatible = be64(AT_COMPATIBLE);
        for (class, bits) in [
            ("incompatible", incompatible & !COMPRESSION_TYPE),
            ("compatible", compatible & !LAZY_REFCOUNTS),
            ("autoclear", autoclear),
        ] {
            if bits != 0 {
                return Err(GateError::UnknownFeature { class, bits });
            }
        }

        self.refcount_order = be32(AT_REFCOUNT_ORDER);
        if self.refcount_order > REFCOUNT_ORDER_MAX {
            let (value, limit) = (
                u64::from(self.refcount_order),
                u64::from(REFCOUNT_ORDER_MAX),
            );
            return Err(GateError::TooLarge {
                what: "refcount_order",
                value,
                limit,
            });
        }

        self.header_length = be32(AT_HEADER_LENGTH);
        let length = self.header_length as usize;
        if length < V3_LENGTH_MIN {
            let (value, minimum) = (u64::from(self.header_length), V3_LENGTH_MIN as u64);
            return Err(GateError::TooSmall {
                what: "header_length",
                value,
                minimum,
            });
        }
        if length as u64 > self.cluster_size() {
            let (value, limit) = (u64::from(self.header_length), self.cluster_size());
            return Err(GateError::TooLarge {
                what: "header_length",
                value,
                limit,
            });
        }
        if !length.is_multiple_of(8) {
            return Err(GateError::Misaligned {
                what: "end of the header",
                offset: length as u64,
                alignment: 8,
            });
        }
        let Some(extra) = first.get(V3_LENGTH_MIN..length) else {
            return Err(GateError::OutOfBounds {
                what: "header",
                offset: 0,
                length: length as u64,
                file_length,
            });
        };
        let kind = extra.first().copied().unwrap_or(0);
        let bit = incompatible & COMPRESSION_TYPE != 0;
        self.compression = match (kind, bit) {
            (0, false) => Compression::Deflate,
            (1, true) => Compression::Zstd,
            _ => return Err(GateError::CompressionType { kind, bit }),
        };
        // Fields that are not known yet; zero means that they are not used.
        for (at, &byte) in extra.iter().enumerate().skip(1) {
            if byte != 0 {
                let offset = (AT_COMPRESSION_TYPE + at) as u64;
                return Err(GateError::ReservedBits {
                    what: "header field",
                    offset,
                    value: u64::from(byte),
                });
            }
        }
        Ok(())
    }

    /// Sizes and alignments that need no other byte of the file.
    fn check_numbers(&self) -> Result<(), GateError> {
        if self.virtual_size > MAX_VIRTUAL_SIZE {
            let (value, limit) = (self.virtual_size, MAX_VIRTUAL_SIZE);
            return Err(GateError::TooLarge {
                what: "the virtual size",
                value,
                limit,
            });
        }
        if !self.virtual_size.is_multiple_of(512) {
            return Err(GateError::Misaligned {
                what: "virtual size",
                offset: self.virtual_size,
                alignment: 512,
            });
        }
        let limit = MAX_L1_BYTES / 8;
        if self.l1_entries > limit {
            return Err(GateError::TooLarge {
                what: "the number of L1 entries",
                value: self.l1_entries,
                limit,
            });
        }
        let minimum = self.l1_needed();
        if self.l1_entries < minimum {
            return Err(GateError::TooSmall {
                what: "the number of L1 entries",
                value: self.l1_entries,
                minimum,
            });
        }
        let limit = MAX_REFCOUNT_TABLE_BYTES >> self.cluster_bits;
        if self.refcount_table_clusters > limit {
            let value = self.refcount_table_clusters;
            return Err(GateError::TooLarge {
                what: "the number of refcount table clusters",
                value,
                limit,
            });
        }
        if self.refcount_table_clusters == 0 {
            return Err(GateError::TooSmall {
                what: "the number of refcount table clusters",
                value: 0,
                minimum: 1,
            });
        }
        for (what, offset) in [
            ("L1 table", self.l1_offset),
            ("refcount table", self.refcount_table_offset),
        ] {
            if !offset.is_multiple_of(self.cluster_size()) {
                return Err(GateError::Misaligned {
                    what,
                    offset,
                    alignment: self.cluster_size(),
                });
            }
        }
        Ok(())
    }
}

/// Section "Header extensions": from the end of the header to the end mark, or to the end of the first cluster.
///
/// `bytes` is what the file has of the first `area` bytes.
fn check_extensions(
    bytes: &[u8],
    start: usize,
    area: usize,
    file_length: u64,
) -> Result<(), GateError> {
    let mut at = start;
    while at + 8 <= area {
        let (Some(kind), Some(length)) = (get_u32(bytes, at), get_u32(bytes, at + 4)) else {
            let (offset, length) = (at as u64, 8);
            return Err(GateError::OutOfBounds {
                what: "header extension",
                offset,
                length,
                file_length,
            });
        };
        match kind {
            EXT_END if length == 0 => return Ok(()),
            EXT_END => {
                let (offset, value) = (at as u64, u64::from(length));
                return Err(GateError::ReservedBits {
                    what: "end of the header extensions",
                    offset,
                    value,
                });
            }
            EXT_BACKING_FORMAT => return Err(GateError::BackingFile),
            EXT_DATA_FILE => return Err(GateError::DataFile),
            EXT_ENCRYPTION => return Err(GateError::Encrypted),
            EXT_BITMAPS => return Err(GateError::Bitmaps),
            EXT_FEATURE_NAMES => {}
            _ => return Err(GateError::UnknownExtension { kind }),
        }
        let end = at as u64 + 8 + u64::from(length).next_multiple_of(8);
        if end > area as u64 {
            let limit = area as u64;
            return Err(GateError::TooLarge {
                what: "the end of the header extensions",
                value: end,
                limit,
            });
        }
        at = end as usize;
    }
    // No end mark: only the end of the cluster may stand in for it.
    if area == HEADER_AREA && at != start {
        let (value, limit) = (at as u64 + 8, area as u64);
        return Err(GateError::TooLarge {
            what: "the end of the header extensions",
            value,
            limit,
        });
    }
    Ok(())
}

/// A version 3 header of 112 bytes with the end mark of its extensions, for images that we write: refcounts of 16 bits,
/// no backing file, no feature but zstd where it is asked for.
pub(super) fn build(header: &Header) -> [u8; V3_LENGTH + 8] {
    let mut bytes = [0; V3_LENGTH + 8];
    let mut put32 = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    put32(AT_MAGIC, MAGIC);
    put32(AT_VERSION, 3);
    put32(AT_CLUSTER_BITS, header.cluster_bits);
    put32(AT_L1_SIZE, header.l1_entries as u32);
    put32(
        AT_REFCOUNT_TABLE_CLUSTERS,
        header.refcount_table_clusters as u32,
    );
    put32(AT_REFCOUNT_ORDER, header.refcount_order);
    put32(AT_HEADER_LENGTH, V3_LENGTH as u32);
    let mut put64 = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
    put64(AT_SIZE, header.virtual_size);
    put64(AT_L1_OFFSET, header.l1_offset);
    put64(AT_REFCOUNT_TABLE_OFFSET, header.refcount_table_offset);
    if header.compression == Compression::Zstd {
        put64(AT_INCOMPATIBLE, COMPRESSION_TYPE);
        bytes[AT_COMPRESSION_TYPE] = 1;
    }
    bytes
}

fn get_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn get_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
