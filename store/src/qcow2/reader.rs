//! Reads guest chunks of one image that passed the gate.
//! Knows one file; what lies below it is `chain`'s business.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::codec::decode_cluster;
use super::error::{GateError, SourceError};
use super::gate;
use super::header::{Header, MAGIC};
use super::table::{Geometry, Mapping};
use super::{CHUNK, ChunkSource, Content, chunk_range};

/// Bytes of L2 tables that one image keeps in memory.
const L2_CACHE: u64 = 4 << 20;

/// An image whose header and tables have been checked.
///
/// The content of compressed clusters is checked when it is read. Entries are checked again when they are used, so that
/// a file which changes under the reader gives an error or other data, never a panic.
#[derive(Debug)]
pub struct Qcow2 {
    file: File,
    header: Header,
    geometry: Geometry,
    /// Per L1 entry that the disk needs: the host cluster of its L2 table, 0 for none.
    l2_tables: Vec<u32>,
    cache: Mutex<L2Cache>,
    /// Names this reader in the cache of decoded clusters, which belongs to the thread.
    id: u64,
}

/// The L2 tables used last, the last one first. Few enough to be searched one by one.
#[derive(Debug, Default)]
struct L2Cache {
    tables: Vec<(usize, Arc<[u64]>)>,
}

/// The last compressed cluster larger than a chunk that this thread decoded.
#[derive(Default)]
struct Decoded {
    /// Reader and guest cluster.
    of: Option<(u64, u64)>,
    bytes: Vec<u8>,
    /// Encoded bytes, kept for its allocation only.
    input: Vec<u8>,
}

thread_local! {
    static DECODED: RefCell<Decoded> = RefCell::default();
}

impl Qcow2 {
    /// Whether a file that begins with these bytes would be taken for a qcow2 image.
    pub fn has_magic(first: &[u8]) -> bool {
        first.starts_with(&MAGIC.to_be_bytes())
    }

    /// Checks an image against the allow-list of [`GateError`] and makes it readable.
    ///
    /// Accepted: version 2 or 3, clusters of 512 bytes to 2 MiB, refcounts of 1 to 64 bits, deflate and zstd, lazy
    /// refcounts; no backing file, data file, encryption, snapshots, bitmaps or subclusters, no unknown feature or
    /// header extension; a virtual size of at most [`super::MAX_VIRTUAL_SIZE`]; tables and clusters within the file and
    /// apart from each other. The refcounts themselves are not compared, as reading does not need them.
    pub fn open(file: File) -> Result<Qcow2, GateError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let gate::Passed {
            header,
            file_length,
            l2_tables,
        } = gate::check(&file)?;
        let geometry = Geometry::new(&header, file_length);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Qcow2 {
            file,
            header,
            geometry,
            l2_tables,
            cache: Mutex::default(),
            id,
        })
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    fn table(&self, l1_index: usize) -> Result<Option<Arc<[u64]>>, SourceError> {
        let cluster = self.l2_tables.get(l1_index).copied().unwrap_or(0);
        if cluster == 0 {
            return Ok(None);
        }
        // A thread that panicked while it held the lock cannot have left more than a missing table.
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = cache
            .tables
            .iter()
            .position(|(index, _)| *index == l1_index)
        {
            cache.tables[..=at].rotate_right(1);
            return Ok(Some(cache.tables[0].1.clone()));
        }
        drop(cache);

        let mut bytes = vec![0; self.header.cluster_size() as usize];
        let offset = u64::from(cluster) << self.header.cluster_bits;
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|source| SourceError::Read {
                offset,
                length: bytes.len() as u64,
                source,
            })?;
        let table: Arc<[u64]> = bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|entry| u64::from_be_bytes(*entry))
            .collect();

        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache
            .tables
            .truncate((L2_CACHE >> self.header.cluster_bits).clamp(2, 64) as usize - 1);
        cache.tables.insert(0, (l1_index, table.clone()));
        Ok(Some(table))
    }

    /// Reads an encoded cluster and decodes it into `out`, which is a cluster long.
    fn decode(
        &self,
        offset: u64,
        length: u64,
        input: &mut Vec<u8>,
        out: &mut [u8],
    ) -> Result<(), SourceError> {
        // The descriptor counts whole sectors, the file may end within the last one.
        let length = length.min(self.geometry.file_length - offset);
        input.resize(length as usize, 0);
        self.file
            .read_exact_at(input, offset)
            .map_err(|source| SourceError::Read {
                offset,
                length,
                source,
            })?;
        decode_cluster(self.header.compression, input, out)
            .map_err(|source| SourceError::Cluster { offset, source })
    }

    /// Part of a compressed cluster, by way of the thread's last decoded one.
    fn decode_part(
        &self,
        cluster: u64,
        offset: u64,
        length: u64,
        within: usize,
        out: &mut [u8],
    ) -> Result<(), SourceError> {
        DECODED.with_borrow_mut(|decoded| {
            let Decoded { of, bytes, input } = decoded;
            if *of != Some((self.id, cluster)) {
                *of = None;
                bytes.resize(self.header.cluster_size() as usize, 0);
                self.decode(offset, length, input, bytes)?;
                *of = Some((self.id, cluster));
            }
            out.copy_from_slice(&bytes[within..within + out.len()]);
            Ok(())
        })
    }

    /// Reads data clusters that lie one behind the other. The file may end in the last one; the rest is zeros.
    fn read_data(&self, offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
        let mut done = 0;
        while done < out.len() {
            match self.file.read_at(&mut out[done..], offset + done as u64) {
                Ok(0) => {
                    out[done..].fill(0);
                    break;
                }
                Ok(count) => done += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(SourceError::Read {
                        offset,
                        length: out.len() as u64,
                        source,
                    });
                }
            }
        }
        if offset + done as u64 >= self.geometry.file_length || done == out.len() {
            return Ok(());
        }
        let source = io::Error::from(ErrorKind::UnexpectedEof);
        Err(SourceError::Read {
            offset,
            length: out.len() as u64,
            source,
        })
    }
}

/// Looks entries up, one table at a time.
struct L2Tables<'q> {
    image: &'q Qcow2,
    l1_index: usize,
    table: Option<Arc<[u64]>>,
}

impl<'q> L2Tables<'q> {
    fn new(image: &'q Qcow2) -> L2Tables<'q> {
        // No table has this index: disks are smaller.
        L2Tables {
            image,
            l1_index: usize::MAX,
            table: None,
        }
    }

    /// Makes the L2 table that covers a guest cluster the current one; returns the cluster's place in it.
    fn locate(&mut self, cluster: u64) -> Result<usize, SourceError> {
        let bits = self.image.header.l2_bits();
        let l1_index = (cluster >> bits) as usize;
        if self.l1_index != l1_index {
            self.table = self.image.table(l1_index)?;
            self.l1_index = l1_index;
        }
        Ok((cluster & ((1 << bits) - 1)) as usize)
    }

    fn mapping(&mut self, cluster: u64) -> Result<Mapping, SourceError> {
        let within = self.locate(cluster)?;
        let Some(table) = &self.table else {
            return Ok(Mapping::Unallocated);
        };
        let table_at =
            u64::from(self.image.l2_tables[self.l1_index]) << self.image.header.cluster_bits;
        Ok(self
            .image
            .geometry
            .l2_entry(table[within], table_at + within as u64 * 8)?)
    }

    /// The first guest cluster at or behind `from`, and below `end`, whose entry is not empty.
    fn next_entry(&mut self, from: u64, end: u64) -> Result<Option<u64>, SourceError> {
        let bits = self.image.header.l2_bits();
        let mut cluster = from;
        while cluster < end {
            // Without this a disk of many empty L1 entries would be walked table by table.
            let l1_index = (cluster >> bits) as usize;
            let rest = self.image.l2_tables.get(l1_index..).unwrap_or(&[]);
            let Some(skip) = rest.iter().position(|&table| table != 0) else {
                return Ok(None);
            };
            if skip > 0 {
                cluster = ((l1_index + skip) as u64) << bits;
                continue;
            }
            let within = self.locate(cluster)?;
            let rest = self
                .table
                .as_ref()
                .map_or(&[][..], |table| &table[within..]);
            match rest.iter().position(|&entry| entry != 0) {
                Some(skip) => {
                    let found = cluster + skip as u64;
                    return Ok((found < end).then_some(found));
                }
                None => cluster = ((l1_index as u64) + 1) << bits,
            }
        }
        Ok(None)
    }
}

impl ChunkSource for Qcow2 {
    fn virtual_size(&self) -> u64 {
        self.header.virtual_size
    }

    fn next_present(&self, from: u64) -> Result<Option<u64>, SourceError> {
        let Some(start) = from
            .checked_mul(CHUNK as u64)
            .filter(|&start| start < self.header.virtual_size)
        else {
            return Ok(None);
        };
        let bits = self.header.cluster_bits;
        let end = self
            .header
            .virtual_size
            .div_ceil(self.header.cluster_size());
        let found = L2Tables::new(self).next_entry(start >> bits, end)?;
        Ok(found.map(|cluster| ((cluster << bits) / CHUNK as u64).max(from)))
    }

    fn read_chunk(&self, index: u64, buffer: &mut [u8; CHUNK]) -> Result<Content, SourceError> {
        let (start, length) = chunk_range(index, self.header.virtual_size)?;
        let cluster_size = self.header.cluster_size() as usize;
        let mut tables = L2Tables::new(self);
        let mut content = Content::Zero;
        // Neighbours on the guest's disk are mostly neighbours in the file: (offset, place in the chunk, bytes).
        let mut run: Option<(u64, usize, usize)> = None;
        let mut done = 0;
        while done < length {
            let guest = start + done as u64;
            let cluster = guest >> self.header.cluster_bits;
            let within = guest as usize & (cluster_size - 1);
            let part = (cluster_size - within).min(length - done);
            let mapping = tables.mapping(cluster)?;
            if let Mapping::Data { offset } = mapping {
                let offset = offset + within as u64;
                run = match run {
                    Some((from, at, bytes))
                        if from + bytes as u64 == offset && at + bytes == done =>
                    {
                        Some((from, at, bytes + part))
                    }
                    other => {
                        self.finish_run(other, buffer)?;
                        Some((offset, done, part))
                    }
                };
                content = Content::Data;
            } else {
                let out = &mut buffer[done..done + part];
                match mapping {
                    Mapping::Compressed {
                        offset,
                        length: encoded,
                    } if part == cluster_size => {
                        DECODED.with_borrow_mut(|decoded| {
                            self.decode(offset, encoded, &mut decoded.input, out)
                        })?;
                        content = Content::Data;
                    }
                    Mapping::Compressed {
                        offset,
                        length: encoded,
                    } => {
                        self.decode_part(cluster, offset, encoded, within, out)?;
                        content = Content::Data;
                    }
                    _ => out.fill(0),
                }
            }
            done += part;
        }
        self.finish_run(run, buffer)?;
        buffer[length..].fill(0);
        Ok(content)
    }
}

impl Qcow2 {
    fn finish_run(
        &self,
        run: Option<(u64, usize, usize)>,
        buffer: &mut [u8; CHUNK],
    ) -> Result<(), SourceError> {
        match run {
            Some((offset, at, bytes)) => self.read_data(offset, &mut buffer[at..at + bytes]),
            None => Ok(()),
        }
    }
}
