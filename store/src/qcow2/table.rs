//! Entries of the L1, L2 and refcount tables: what their bits mean, and which bits nobody may set.
//! Knows numbers only: no file, no other entry.

use super::SECTOR;
use super::error::GateError;
use super::header::Header;

/// Bits 9 to 55: an offset in an L1 entry or in a standard L2 entry (sections "L1 table entry", "L2 table entry").
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Bit 63: the refcount is exactly one.
pub(super) const COPIED: u64 = 1 << 63;
/// Bit 62: a compressed cluster descriptor.
pub(super) const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of a standard L2 entry: reads as zeros.
pub(super) const ZERO: u64 = 1 << 0;
/// Bits 0 to 8 of a refcount table entry are reserved.
const REFCOUNT_RESERVED: u64 = 0x1ff;

/// Where the content of one guest cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mapping {
    /// The layer says nothing: as the parent, or zero.
    Unallocated,
    /// Reads as zeros. A host cluster may be reserved for it.
    Zero { reserved: Option<u64> },
    /// A host cluster at this byte offset. Only the file's last cluster may be cut; what is missing reads as zeros.
    Data { offset: u64 },
    /// An encoded cluster that begins at byte `offset` and lies within `length` bytes; the file may end up to 511
    /// bytes before `offset + length`, as the length counts whole sectors.
    Compressed { offset: u64, length: u64 },
}

/// What is needed to judge an entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) file_length: u64,
}

impl Geometry {
    pub(super) fn new(header: &Header, file_length: u64) -> Geometry {
        Geometry {
            version: header.version,
            cluster_bits: header.cluster_bits,
            file_length,
        }
    }

    pub(super) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// The L2 table that an L1 entry points to. `at` is the entry's own byte offset, for messages.
    pub(super) fn l1_entry(&self, entry: u64, at: u64) -> Result<Option<u64>, GateError> {
        if entry == 0 {
            return Ok(None);
        }
        let offset = entry & OFFSET;
        if entry & !(OFFSET | COPIED) != 0 || offset == 0 {
            return Err(GateError::ReservedBits {
                what: "L1 entry",
                offset: at,
                value: entry,
            });
        }
        self.check_whole("L2 table", offset)?;
        Ok(Some(offset))
    }

    /// The refcount block that a refcount table entry points to.
    pub(super) fn refcount_table_entry(
        &self,
        entry: u64,
        at: u64,
    ) -> Result<Option<u64>, GateError> {
        if entry == 0 {
            return Ok(None);
        }
        if entry & REFCOUNT_RESERVED != 0 {
            return Err(GateError::ReservedBits {
                what: "refcount table entry",
                offset: at,
                value: entry,
            });
        }
        self.check_whole("refcount block", entry)?;
        Ok(Some(entry))
    }

    /// What an L2 entry says.
    pub(super) fn l2_entry(&self, entry: u64, at: u64) -> Result<Mapping, GateError> {
        if entry == 0 {
            return Ok(Mapping::Unallocated);
        }
        if entry & COMPRESSED != 0 {
            return self.compressed(entry, at);
        }
        let zero = entry & ZERO != 0;
        let offset = entry & OFFSET;
        if zero && self.version < 3 {
            return Err(GateError::ZeroFlagInV2 { offset: at });
        }
        let reserved = entry & !(OFFSET | COPIED | ZERO) != 0;
        if reserved || (offset == 0 && entry & COPIED != 0) {
            return Err(GateError::ReservedBits {
                what: "L2 entry",
                offset: at,
                value: entry,
            });
        }
        if offset != 0 {
            self.check_start("data cluster", offset)?;
        }
        Ok(match (zero, offset) {
            (true, 0) => Mapping::Zero { reserved: None },
            (true, _) => Mapping::Zero {
                reserved: Some(offset),
            },
            (false, _) => Mapping::Data { offset },
        })
    }

    /// Section "Compressed Clusters Descriptor".
    fn compressed(&self, entry: u64, at: u64) -> Result<Mapping, GateError> {
        let offset_bits = 62 - (self.cluster_bits - 8);
        let offset = entry & ((1 << offset_bits) - 1);
        if entry & COPIED != 0 || offset >> 56 != 0 {
            return Err(GateError::ReservedBits {
                what: "L2 entry",
                offset: at,
                value: entry,
            });
        }
        let more_sectors = (entry & !COMPRESSED) >> offset_bits;
        let length = (more_sectors + 1) * SECTOR - offset % SECTOR;
        if offset >= self.file_length || offset + length > self.file_length.next_multiple_of(SECTOR)
        {
            let file_length = self.file_length;
            return Err(GateError::OutOfBounds {
                what: "compressed cluster",
                offset,
                length,
                file_length,
            });
        }
        Ok(Mapping::Compressed { offset, length })
    }

    /// A table of one cluster must be in the file as a whole.
    fn check_whole(&self, what: &'static str, offset: u64) -> Result<(), GateError> {
        self.check_start(what, offset)?;
        let length = self.cluster_size();
        if length > self.file_length - offset {
            return Err(GateError::OutOfBounds {
                what,
                offset,
                length,
                file_length: self.file_length,
            });
        }
        Ok(())
    }

    /// A data cluster must begin in the file. QEMU would read one beyond the end as zeros, but writes none: a file
    /// that has one was cut.
    fn check_start(&self, what: &'static str, offset: u64) -> Result<(), GateError> {
        if !offset.is_multiple_of(self.cluster_size()) {
            return Err(GateError::Misaligned {
                what,
                offset,
                alignment: self.cluster_size(),
            });
        }
        if offset >= self.file_length {
            let (length, file_length) = (self.cluster_size(), self.file_length);
            return Err(GateError::OutOfBounds {
                what,
                offset,
                length,
                file_length,
            });
        }
        Ok(())
    }
}
