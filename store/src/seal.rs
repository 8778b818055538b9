//! Sealing: what a stage changed on a disk becomes a layer, durable and verified.
//! Knows chunks and layers; does not know what wrote them.

use std::cell::RefCell;

use rayon::prelude::*;

use crate::base::{choose, find_chunk};
use crate::chain::{DiskMap, DiskReader};
use crate::crash;
use crate::digest::{Digest, DiskDigest, Hasher, domain};
use crate::disk::{CHUNK, chunk_buffer, chunk_count, chunk_digest, nonzero_chunk_digest};
use crate::error::{Error, Result};
use crate::fs::Temp;
use crate::hash_file::hash_range;
use crate::layer::{
    ChunkEntry, ChunkLocation, DiskRef, Encoder, LayerRef, MAX_DEPTH, MAX_MANIFEST, Manifest,
    ManifestBody,
};
use crate::qcow2::{ChunkSource, Content, ENCODER, Encoded, Writer, decode_frame, encode_chunk};
use crate::store::Store;

/// Chunks that are worked on at once: 16 MiB of guest disk.
const BATCH: usize = 256;

thread_local! {
    /// A chunk and what its frame decodes to: for each thread one of them, as there are many chunks.
    static BUFFERS: RefCell<[Box<[u8; CHUNK]>; 2]> = RefCell::new([chunk_buffer(), chunk_buffer()]);
}

/// What the chunks that a source does not name are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// As in the parent: the source is an overlay.
    AsParent,
    /// Zero: the source is a whole disk.
    Zero,
}

/// What came of sealing a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    pub disk: DiskRef,
    /// Whether a layer was added: not when the disk is as its parent, or was in the store already.
    pub new: bool,
    /// Chunks that differ from the parent's.
    pub changed_chunks: u64,
    /// Bytes added to the store.
    pub stored_bytes: u64,
}

/// One chunk of the layer to be, and where its content comes from.
#[derive(Debug, Clone, Copy)]
enum Item {
    /// The source says something about it; with the digest, where it was hashed already.
    Read(u64, Option<Digest>),
    /// It stands in one of the known disks, at this place of its map.
    Copy {
        index: u64,
        disk: usize,
        at: usize,
    },
    Zero(u64),
}

impl Item {
    fn index(self) -> u64 {
        match self {
            Item::Read(index, _) | Item::Copy { index, .. } | Item::Zero(index) => index,
        }
    }
}

/// What became of a chunk that differs from the base's.
struct Changed {
    index: u64,
    digest: Digest,
    encoded: Encoded,
}

/// The disk that the new layer is a delta to, the ones that chunks can be copied from, and the layer's chunks.
struct SealPlan<'a> {
    source: &'a dyn ChunkSource,
    known: &'a [DiskReader],
    base: &'a DiskMap,
    items: Vec<Item>,
}

impl Store {
    /// Makes a layer of what `source` says, over `parent` where there is one, durable when this returns.
    ///
    /// The result depends on the contents only, not on the number of threads. A missing parent is a miss.
    pub fn seal(
        &self,
        parent: Option<&LayerRef>,
        source: &dyn ChunkSource,
        absent: Absent,
    ) -> Result<Sealed> {
        self.seal_like(parent, None, source, absent)
    }

    /// Like [`Store::seal`]; where `previous`, such as an earlier result of the same stage, is nearer to the new disk
    /// than `parent` is, the layer becomes a delta to it. The disk is the same either way.
    ///
    /// A previous disk that is missing or damaged is left out of account.
    pub fn seal_like(
        &self,
        parent: Option<&LayerRef>,
        previous: Option<&LayerRef>,
        source: &dyn ChunkSource,
        absent: Absent,
    ) -> Result<Sealed> {
        if previous.is_some() && previous != parent {
            match self.seal_over(parent, previous, source, absent) {
                // Should it be the parent that is missed, it is missed again below.
                Err(Error::Miss(miss)) => {
                    tracing::debug!(%miss, "sealing without the previous disk")
                }
                done => return done,
            }
        }
        self.seal_over(parent, None, source, absent)
    }

    fn seal_over(
        &self,
        parent: Option<&LayerRef>,
        previous: Option<&LayerRef>,
        source: &dyn ChunkSource,
        absent: Absent,
    ) -> Result<Sealed> {
        let virtual_size = source.virtual_size();
        let map = parent.map(|layer| self.disk_map(layer)).transpose()?;
        if let Some(map) = &map {
            let parent = map.tree.virtual_size();
            if virtual_size < parent && !virtual_size.is_multiple_of(CHUNK as u64) {
                return Err(Error::Shrunk {
                    size: virtual_size,
                    parent,
                });
            }
        }
        let map = map.unwrap_or_else(DiskMap::nothing);
        let items = items(source, absent, &map)?;
        if previous.is_some() || map.manifests.len() as u32 > MAX_DEPTH {
            return self.seal_hashed(parent, map, previous, source, &items);
        }
        self.write_layer(
            &SealPlan {
                source,
                known: &[],
                base: &map,
                items,
            },
            parent,
        )
    }

    /// Hashes everything first, so that the base can be chosen: any layer of the parent's chain or of the previous disk's.
    /// What is in one of these two disks already is copied frame by frame.
    fn seal_hashed(
        &self,
        parent: Option<&LayerRef>,
        map: DiskMap,
        previous: Option<&LayerRef>,
        source: &dyn ChunkSource,
        items: &[Item],
    ) -> Result<Sealed> {
        let mut known = vec![self.open_disk(map)?];
        known.extend(previous.map(|layer| self.disk_reader(layer)).transpose()?);
        let changes = self.hash_changes(source, items, known[0].map())?;
        let tree = known[0].map().tree.with(source.virtual_size(), &changes);
        let disk = tree.digest();
        if let Some(layer) = self.stored(parent, &disk)? {
            let disk = DiskRef {
                layer,
                virtual_size: source.virtual_size(),
            };
            return Ok(Sealed {
                disk,
                new: false,
                changed_chunks: changes.len() as u64,
                stored_bytes: 0,
            });
        }
        let chosen = choose(&tree, &disk, &known);
        let base = known[chosen.disk].map().lower(chosen.layers);
        if let Some(top) = base.manifests.last() {
            self.check_disk(&top.layer_ref(), &base)?;
            // Nobody may have looked at the files of the previous disk yet.
            self.verified_chain(&top.layer_ref(), &base)?;
        }
        let item = |(index, digest)| match find_chunk(&known, index, &digest) {
            _ if digest == Digest::ZERO => Item::Zero(index),
            Some((disk, at)) => Item::Copy { index, disk, at },
            None => Item::Read(index, Some(digest)),
        };
        let items = tree
            .changes_from(&base.tree)
            .into_iter()
            .map(item)
            .collect();
        let sealed = self.write_layer(
            &SealPlan {
                source,
                known: &known,
                base: &base,
                items,
            },
            parent,
        )?;
        Ok(Sealed {
            changed_chunks: changes.len() as u64,
            ..sealed
        })
    }

    /// A complete representation of a disk: the parent, if it is that, or another.
    fn stored(&self, parent: Option<&LayerRef>, disk: &DiskDigest) -> Result<Option<LayerRef>> {
        if let Some(parent) = parent.filter(|parent| parent.disk == *disk) {
            return Ok(Some(*parent));
        }
        let layer = self.representation(disk)?;
        if let Some(layer) = &layer {
            self.fs().freshen(&layer.manifest_name());
        }
        Ok(layer)
    }

    fn write_layer(&self, plan: &SealPlan<'_>, parent: Option<&LayerRef>) -> Result<Sealed> {
        let virtual_size = plan.source.virtual_size();
        let mut temp = self.fs().temp()?;
        let (chunks, file_length) = self.write_chunks(plan, &temp)?;
        crash::point("seal.frames-written");
        let changes: Vec<_> = chunks
            .iter()
            .map(|chunk| (chunk.index, chunk.digest))
            .collect();
        let tree = plan.base.tree.with(virtual_size, &changes);
        let disk = tree.digest();
        let sealed = |layer, new, stored_bytes| Sealed {
            disk: DiskRef {
                layer,
                virtual_size,
            },
            new,
            changed_chunks: chunks.len() as u64,
            stored_bytes,
        };
        if let Some(layer) = self.stored(parent, &disk)? {
            return Ok(sealed(layer, false, 0));
        }
        let mut hasher = Hasher::new(domain::LAYER_FILE);
        hash_range(temp.file(), 0..file_length, &mut hasher)
            .map_err(|source| Error::io("read", temp.path(), source))?;
        let file_digest = hasher.finish();
        let body = ManifestBody {
            disk,
            virtual_size,
            parent: plan.base.manifests.last().map(Manifest::layer_ref),
            depth: plan.base.manifests.len() as u32,
            file_digest,
            file_length,
            encoder: Encoder::from(ENCODER),
            chunks: chunks.clone(),
        };
        let (bytes, id) = body.encode();
        if bytes.len() as u64 > MAX_MANIFEST {
            // Nobody could read it back.
            let size = bytes.len() as u64;
            return Err(Error::TooLarge {
                what: "the manifest of the layer",
                size,
                limit: MAX_MANIFEST,
            });
        }
        let layer = LayerRef { disk, layer: id };
        let mut manifest = self.fs().temp()?;
        manifest.write_all(&bytes)?;
        let (file_name, manifest_name) = (layer.file_name(), layer.manifest_name());
        let files = [
            (&temp, file_name.as_str()),
            (&manifest, manifest_name.as_str()),
        ];
        self.begin_sync();
        if self.fs().publish(&files)? != [true, true] {
            // Another process was faster, or left half of it: looking moves away what is damaged.
            if let Err(error) = self.chain(&layer) {
                error.into_miss()?;
                self.fs().publish(&files)?;
                self.chain(&layer)?;
            }
        } else {
            // Its own names only: deleting the temporary one changes ctime.
            temp.unlink();
            let stat = temp
                .file()
                .metadata()
                .map_err(|source| Error::io("stat", temp.path(), source))?;
            self.put_stamp(&stat, &file_digest);
        }
        Ok(sealed(layer, true, file_length + bytes.len() as u64))
    }

    /// Which of `items` are not as on the disk `below`: index and digest, ascending.
    fn hash_changes(
        &self,
        source: &dyn ChunkSource,
        items: &[Item],
        below: &DiskMap,
    ) -> Result<Vec<(u64, Digest)>> {
        self.begin("comparing", (items.len() * CHUNK) as u64);
        let hash = |item: &Item| {
            let index = item.index();
            let digest = match item {
                Item::Read(..) => {
                    BUFFERS.with_borrow_mut(|[data, _]| read_and_hash(source, index, data))?
                }
                _ => Digest::ZERO,
            };
            self.count(CHUNK as u64);
            Ok((index, digest))
        };
        let mut changes: Vec<_> = items.par_iter().map(hash).collect::<Result<_>>()?;
        changes.retain(|(index, digest)| {
            below
                .find(*index)
                .map_or(Digest::ZERO, |found| found.digest)
                != *digest
        });
        Ok(changes)
    }

    /// Writes the layer file: the changed chunks with their places, and the file's length.
    fn write_chunks(&self, plan: &SealPlan<'_>, temp: &Temp) -> Result<(Vec<ChunkEntry>, u64)> {
        let write_error = |error| Error::write(temp.path(), error);
        let mut writer =
            Writer::new(temp.file(), plan.source.virtual_size()).map_err(write_error)?;
        let mut chunks = Vec::new();
        let mut raw = Vec::new();
        let mut ready: Vec<Changed> = Vec::new();
        let (mut started, mut end) = (0, 0);
        self.begin("sealing", (plan.items.len() * CHUNK) as u64);
        // One batch is written while the next is compressed.
        for batch in plan.items.chunks(BATCH).map(Some).chain([None]) {
            let write = || {
                for Changed {
                    index,
                    digest,
                    encoded,
                } in ready
                {
                    let place = match &encoded {
                        Encoded::Zero => {
                            writer.push_zero(index).map_err(write_error)?;
                            ChunkLocation::Zero
                        }
                        Encoded::Frame(frame) => {
                            let at = writer.push_frame(index, frame).map_err(write_error)?;
                            ChunkLocation::Frame {
                                offset: at.offset,
                                length: at.length,
                            }
                        }
                        Encoded::Raw => {
                            raw.push(chunks.len());
                            ChunkLocation::Raw { offset: 0 }
                        }
                    };
                    if let ChunkLocation::Frame { offset, .. } = place {
                        end = offset;
                    }
                    chunks.push(ChunkEntry {
                        index,
                        digest,
                        place,
                    });
                }
                temp.start_writing(started..end);
                started = end;
                Ok::<_, Error>(())
            };
            let encode = || -> Result<Vec<Changed>> {
                let Some(batch) = batch else {
                    return Ok(Vec::new());
                };
                self.fs().reserve((batch.len() * CHUNK) as u64)?;
                let all: Vec<_> = batch
                    .par_iter()
                    .map(|item| plan.encode(*item))
                    .collect::<Result<_>>()?;
                self.count((batch.len() * CHUNK) as u64);
                Ok(all.into_iter().flatten().collect())
            };
            let (written, encoded) = rayon::join(write, encode);
            written?;
            ready = encoded?;
        }
        // Raw chunks come after all frames; they are read a second time so as not to be held in memory.
        for batch in raw.chunks(BATCH) {
            let read = |at: &usize| plan.read_raw(&chunks[*at]);
            let contents: Vec<_> = batch.par_iter().map(read).collect::<Result<_>>()?;
            for (at, content) in batch.iter().zip(contents) {
                let place = writer
                    .push_raw(chunks[*at].index, &content)
                    .map_err(write_error)?;
                chunks[*at].place = ChunkLocation::Raw {
                    offset: place.offset,
                };
            }
        }
        let layout = writer.finish().map_err(write_error)?;
        Ok((chunks, layout.file_length))
    }
}

/// What `source` changes, or may change, on the disk `below`: ascending.
fn items(source: &dyn ChunkSource, absent: Absent, below: &DiskMap) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    source.for_each_present(&mut |index| {
        items.push(Item::Read(index, None));
        Ok(())
    })?;
    if absent == Absent::Zero && !below.chunks.is_empty() {
        let end = chunk_count(source.virtual_size());
        let named = items.len();
        for found in below.chunks.iter().filter(|found| found.index < end) {
            if items[..named]
                .binary_search_by_key(&found.index, |item| item.index())
                .is_err()
            {
                items.push(Item::Zero(found.index));
            }
        }
        items.sort_unstable_by_key(|item| item.index());
    }
    Ok(items)
}

fn read_and_hash(source: &dyn ChunkSource, index: u64, data: &mut [u8; CHUNK]) -> Result<Digest> {
    let content = source.read_chunk(index, data)?;
    Ok(if content == Content::Zero {
        Digest::ZERO
    } else {
        chunk_digest(data)
    })
}

impl SealPlan<'_> {
    /// Reads, hashes, compares, compresses and checks one chunk; `None` where the base has the same.
    fn encode(&self, item: Item) -> Result<Option<Changed>> {
        BUFFERS.with_borrow_mut(|[data, back]| {
            let index = item.index();
            let before = self
                .base
                .find(index)
                .map_or(Digest::ZERO, |found| found.digest);
            let changed = |digest, encoded| {
                (digest != before).then_some(Changed {
                    index,
                    digest,
                    encoded,
                })
            };
            match item {
                Item::Zero(_) => Ok(changed(Digest::ZERO, Encoded::Zero)),
                Item::Copy { disk, at, .. } => {
                    let disk = &self.known[disk];
                    let found = disk.map().chunks[at];
                    let same_encoder = disk.map().manifests[found.layer as usize].encoder
                        == Encoder::from(ENCODER);
                    let encoded = match (disk.read_found(&found, data)?, same_encoder) {
                        (Some(frame), true) => Encoded::Frame(frame),
                        (None, true) => Encoded::Raw,
                        (_, false) => compress(index, data, back)?,
                    };
                    Ok(changed(found.digest, encoded))
                }
                Item::Read(_, hashed) => {
                    let digest = read_and_hash(self.source, index, data)?;
                    if hashed.is_some_and(|hashed| hashed != digest) {
                        return Err(Error::DiskChanged { index });
                    }
                    if digest == before {
                        return Ok(None);
                    }
                    let encoded = if digest == Digest::ZERO {
                        Encoded::Zero
                    } else {
                        compress(index, data, back)?
                    };
                    Ok(changed(digest, encoded))
                }
            }
        })
    }

    /// Reads a chunk again that is to be stored as it is.
    fn read_raw(&self, chunk: &ChunkEntry) -> Result<Box<[u8; CHUNK]>> {
        let mut data = chunk_buffer();
        let copied = self
            .items
            .binary_search_by_key(&chunk.index, |item| item.index())
            .map(|at| self.items[at]);
        match copied {
            Ok(Item::Copy { disk, at, .. }) => {
                let disk = &self.known[disk];
                drop(disk.read_found(&disk.map().chunks[at], &mut data)?);
            }
            _ => drop(self.source.read_chunk(chunk.index, &mut data)?),
        }
        if nonzero_chunk_digest(&data) != chunk.digest {
            return Err(Error::DiskChanged { index: chunk.index });
        }
        Ok(data)
    }
}

/// Compresses a chunk, and finds that it comes back.
pub(crate) fn compress(index: u64, data: &[u8; CHUNK], back: &mut [u8; CHUNK]) -> Result<Encoded> {
    compress_at(index, data, back, ENCODER.level)
}

pub(crate) fn compress_at(
    index: u64,
    data: &[u8; CHUNK],
    back: &mut [u8; CHUNK],
    level: i32,
) -> Result<Encoded> {
    let encoded = encode_chunk(data, level);
    if let Encoded::Frame(frame) = &encoded
        && (decode_frame(frame, back).is_err() || data != back)
    {
        return Err(Error::Compressor { index });
    }
    Ok(encoded)
}
