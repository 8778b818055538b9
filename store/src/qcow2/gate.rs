//! The gate: walks every table of an image once and refuses what no honest writer makes.
//! Knows nothing of the clusters' content; that is checked when it is read.
//!
//! Cost: one pass over the metadata (two where there are compressed clusters). Memory: one bit per host cluster, four
//! bytes per L2 table, and counters of at most 4 MiB; 52 MiB in the worst case that the limits allow, little for a
//! usual image.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::codec::least_encoded;
use super::error::GateError;
use super::header::{HEADER_AREA, Header};
use super::table::{Geometry, Mapping};

/// The most host clusters a file may have: 16 TiB at 64 KiB, and 32 MiB for one bit each.
const MAX_HOST_CLUSTERS: u64 = 1 << 28;
/// The most counters for compressed clusters; the stretch that each counts grows with the file.
const MAX_COUNTERS: u64 = 1 << 20;
/// The least that is read at once, in bytes.
const READ_SIZE: u64 = 64 << 10;

/// What the gate found: enough to read the image.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) header: Header,
    pub(super) file_length: u64,
    /// Per L1 entry that the disk needs: the host cluster of its L2 table, 0 for none.
    pub(super) l2_tables: Vec<u32>,
}

/// Checks a whole image; see [`super::Qcow2::open`].
pub(super) fn check(file: &File) -> Result<Passed, GateError> {
    let metadata = file.metadata().map_err(|source| GateError::Read {
        what: "file's length",
        offset: 0,
        source,
    })?;
    let file_length = metadata.len();
    let mut first = vec![0; file_length.min(HEADER_AREA as u64) as usize];
    read_exact(file, "header", 0, &mut first)?;
    let header = Header::parse(&first, file_length)?;

    let host_clusters = file_length.div_ceil(header.cluster_size());
    if host_clusters > MAX_HOST_CLUSTERS {
        let (value, limit) = (host_clusters, MAX_HOST_CLUSTERS);
        return Err(GateError::TooLarge {
            what: "the number of host clusters",
            value,
            limit,
        });
    }
    let mut walk = GateWalk {
        geometry: Geometry::new(&header, file_length),
        claims: Claims {
            bits: vec![0; host_clusters.div_ceil(64) as usize],
            cluster_bits: header.cluster_bits,
        },
        tables: TableReader {
            file,
            file_length,
            sparse: metadata.blocks().saturating_mul(512) < file_length,
            hole: 0..0,
            start: 0,
            buffer: Vec::new(),
        },
    };
    walk.claims.claim("header", 0, 1)?;
    let l1_length = header.l1_entries * 8;
    walk.claim_table("L1 table", header.l1_offset, l1_length)?;
    let refcount_table_length = header.refcount_table_clusters << header.cluster_bits;
    walk.claim_table(
        "refcount table",
        header.refcount_table_offset,
        refcount_table_length,
    )?;
    walk.refcount_blocks(&header)?;
    let l2_tables = walk.l2_tables(&header)?;
    if walk.data_clusters(&l2_tables)? {
        walk.compressed_clusters(&header, &l2_tables)?;
    }
    Ok(Passed {
        header,
        file_length,
        l2_tables,
    })
}

struct GateWalk<'f> {
    geometry: Geometry,
    claims: Claims,
    tables: TableReader<'f>,
}

impl GateWalk<'_> {
    /// Claims the clusters of a table that must lie within the file.
    fn claim_table(
        &mut self,
        what: &'static str,
        offset: u64,
        length: u64,
    ) -> Result<(), GateError> {
        if length == 0 {
            return Ok(());
        }
        let file_length = self.geometry.file_length;
        if offset >= file_length || length > file_length - offset {
            return Err(GateError::OutOfBounds {
                what,
                offset,
                length,
                file_length,
            });
        }
        self.claims
            .claim(what, offset, length.div_ceil(self.geometry.cluster_size()))
    }

    fn refcount_blocks(&mut self, header: &Header) -> Result<(), GateError> {
        let GateWalk {
            geometry,
            claims,
            tables,
        } = self;
        let length = header.refcount_table_clusters << header.cluster_bits;
        tables.for_each_entry(
            "refcount table",
            header.refcount_table_offset,
            length,
            |at, entry| match geometry.refcount_table_entry(entry, at)? {
                Some(offset) => claims.claim("refcount block", offset, 1),
                None => Ok(()),
            },
        )
    }

    /// Claims all L2 tables and returns those that the disk needs. An L1 table may be longer than the disk (shrunk
    /// disks, saved machine states); what hangs below its tail is never read, so it is not looked at.
    fn l2_tables(&mut self, header: &Header) -> Result<Vec<u32>, GateError> {
        let GateWalk {
            geometry,
            claims,
            tables,
        } = self;
        let mut found = vec![0; header.l1_needed() as usize];
        tables.for_each_entry(
            "L1 table",
            header.l1_offset,
            header.l1_entries * 8,
            |at, entry| {
                let Some(offset) = geometry.l1_entry(entry, at)? else {
                    return Ok(());
                };
                claims.claim("L2 table", offset, 1)?;
                if let Some(slot) = found.get_mut(((at - header.l1_offset) / 8) as usize) {
                    // MAX_HOST_CLUSTERS makes it fit; cluster 0 is the header's, so 0 is free to say "none".
                    *slot = (offset >> geometry.cluster_bits) as u32;
                }
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// Claims every standard cluster and checks every entry; says whether there are compressed ones.
    fn data_clusters(&mut self, l2_tables: &[u32]) -> Result<bool, GateError> {
        let mut compressed = false;
        let GateWalk {
            geometry,
            claims,
            tables,
        } = self;
        for &table in l2_tables.iter().filter(|&&table| table != 0) {
            let offset = u64::from(table) << geometry.cluster_bits;
            tables.for_each_entry("L2 table", offset, geometry.cluster_size(), |at, entry| {
                match geometry.l2_entry(entry, at)? {
                    Mapping::Data { offset }
                    | Mapping::Zero {
                        reserved: Some(offset),
                    } => claims.claim("data cluster", offset, 1),
                    Mapping::Compressed { .. } => {
                        compressed = true;
                        Ok(())
                    }
                    Mapping::Unallocated | Mapping::Zero { reserved: None } => Ok(()),
                }
            })?;
        }
        Ok(compressed)
    }

    /// Compressed clusters share host clusters with each other, but not with anything else, and not without limit.
    ///
    /// The limit: no stretch of the file may hold the beginnings of more clusters than the best possible encoder could
    /// have put there. It refuses a table that points at one cluster over and over, and nothing that was encoded.
    fn compressed_clusters(&mut self, header: &Header, l2_tables: &[u32]) -> Result<(), GateError> {
        let GateWalk {
            geometry,
            claims,
            tables,
        } = self;
        let mut bits = header.cluster_bits;
        while geometry.file_length >> bits >= MAX_COUNTERS {
            bits += 1;
        }
        let length = 1_u64 << bits;
        let limit = length.div_ceil(least_encoded(header.compression, header.cluster_size()));
        let mut counters = vec![0_u32; (geometry.file_length >> bits) as usize + 1];
        for &table in l2_tables.iter().filter(|&&table| table != 0) {
            let offset = u64::from(table) << geometry.cluster_bits;
            tables.for_each_entry("L2 table", offset, geometry.cluster_size(), |at, entry| {
                let Mapping::Compressed {
                    offset,
                    length: encoded,
                } = geometry.l2_entry(entry, at)?
                else {
                    return Ok(());
                };
                claims.check_free("compressed cluster", offset, encoded)?;
                let counter = &mut counters[(offset >> bits) as usize];
                *counter += 1;
                let count = u64::from(*counter);
                if count > limit {
                    return Err(GateError::Amplification {
                        offset: offset >> bits << bits,
                        length,
                        count,
                        limit,
                    });
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Which host clusters belong to something already: one bit each.
struct Claims {
    bits: Vec<u64>,
    cluster_bits: u32,
}

impl Claims {
    /// The caller has checked that the clusters are in the file.
    fn claim(&mut self, what: &'static str, offset: u64, clusters: u64) -> Result<(), GateError> {
        let first = offset >> self.cluster_bits;
        for cluster in first..first + clusters {
            let (word, bit) = ((cluster / 64) as usize, 1_u64 << (cluster % 64));
            if self.bits[word] & bit != 0 {
                return Err(GateError::Overlap {
                    what,
                    offset: cluster << self.cluster_bits,
                });
            }
            self.bits[word] |= bit;
        }
        Ok(())
    }

    fn check_free(&self, what: &'static str, offset: u64, length: u64) -> Result<(), GateError> {
        for cluster in offset >> self.cluster_bits..=(offset + length - 1) >> self.cluster_bits {
            let (word, bit) = ((cluster / 64) as usize, 1_u64 << (cluster % 64));
            if self.bits[word] & bit != 0 {
                return Err(GateError::Overlap {
                    what,
                    offset: cluster << self.cluster_bits,
                });
            }
        }
        Ok(())
    }
}

/// Reads tables in order, small neighbours with one read, holes with none.
struct TableReader<'f> {
    file: &'f File,
    file_length: u64,
    sparse: bool,
    /// The hole found last, in bytes: a hostile file has millions of tables in one.
    hole: Range<u64>,
    start: u64,
    buffer: Vec<u8>,
}

impl TableReader<'_> {
    /// Calls `each` with the byte offset and the value of all entries that are not zero. The table is in the file.
    fn for_each_entry(
        &mut self,
        what: &'static str,
        offset: u64,
        length: u64,
        mut each: impl FnMut(u64, u64) -> Result<(), GateError>,
    ) -> Result<(), GateError> {
        let mut at = offset;
        let end = offset + length;
        while at < end {
            let part = (end - at).min(READ_SIZE);
            if let Some(bytes) = self.get(what, at, part)? {
                for (index, entry) in bytes.as_chunks::<8>().0.iter().enumerate() {
                    if *entry != [0; 8] {
                        each(at + index as u64 * 8, u64::from_be_bytes(*entry))?;
                    }
                }
            }
            at += part;
        }
        Ok(())
    }

    /// Whether the file system says that nothing was ever written there. False where it cannot tell.
    fn in_hole(&mut self, offset: u64, length: u64) -> bool {
        if !self.sparse {
            return false;
        }
        if !self.hole.contains(&offset) {
            self.hole = match rustix::fs::seek(self.file, SeekFrom::Data(offset)) {
                Ok(data) => offset..data,
                Err(Errno::NXIO) => offset..self.file_length,
                Err(_) => return false,
            };
        }
        offset + length <= self.hole.end
    }

    /// At most [`READ_SIZE`] bytes, or `None` if they lie in a hole.
    fn get(
        &mut self,
        what: &'static str,
        offset: u64,
        length: u64,
    ) -> Result<Option<&[u8]>, GateError> {
        let known = self.start..self.start + self.buffer.len() as u64;
        if !(known.contains(&offset) && offset + length <= known.end) {
            if self.in_hole(offset, length) {
                return Ok(None);
            }
            self.buffer
                .resize(READ_SIZE.min(self.file_length - offset) as usize, 0);
            self.start = offset;
            read_exact(self.file, what, offset, &mut self.buffer)?;
        }
        let from = (offset - self.start) as usize;
        Ok(Some(&self.buffer[from..from + length as usize]))
    }
}

fn read_exact(
    file: &File,
    what: &'static str,
    offset: u64,
    buffer: &mut [u8],
) -> Result<(), GateError> {
    file.read_exact_at(buffer, offset)
        .map_err(|source: io::Error| GateError::Read {
            what,
            offset,
            source,
        })
}
