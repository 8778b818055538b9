//! Sealing: what a stage changed on a disk becomes a layer, durable and verified.
//! Knows chunks and layers; does not know what wrote them.

use rayon::prelude::*;

use crate::chain::{DiskMap, DiskReader};
use crate::crash;
use crate::digest::{Digest, Hasher, domain};
use crate::disk::{CHUNK, chunk_buffer, chunk_count, is_zero, nonzero_chunk_digest};
use crate::error::{Error, Result};
use crate::fs::Temp;
use crate::hash_file::hash_range;
use crate::layer::{ChunkEntry, DiskRef, Encoder, LayerRef, MAX_DEPTH, MAX_MANIFEST, ManifestBody, Place};
use crate::qcow2::{ChunkSource, Content, ENCODER, Encoded, Writer, decode_frame, encode_chunk};
use crate::store::Store;

/// Chunks that are worked on at once: 16 MiB of guest disk.
const BATCH: usize = 256;

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
    /// The disk.
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
    /// The source says something about it.
    Read(u64),
    /// It stands in the parent's chain, at this place of the map.
    Copy(u64, usize),
    /// It is zero.
    Zero(u64),
}

impl Item {
    fn index(self) -> u64 {
        match self {
            Item::Read(index) | Item::Copy(index, _) | Item::Zero(index) => index,
        }
    }
}

/// What became of a chunk that differs from the base's.
struct Changed {
    index: u64,
    digest: Digest,
    encoded: Encoded,
}

/// The disk that the new layer is a delta to, the one that the source lies on, and the layer's chunks.
struct Plan<'a> {
    source: &'a dyn ChunkSource,
    parent: Option<&'a DiskReader>,
    base: &'a DiskMap,
    items: Vec<Item>,
}

impl Store {
    /// Makes a layer of what `source` says, over `parent` where there is one, durable when this returns.
    ///
    /// The result depends on the contents only, not on the number of threads. A missing parent is a miss.
    pub fn seal(&self, parent: Option<&LayerRef>, source: &dyn ChunkSource, absent: Absent) -> Result<Sealed> {
        let virtual_size = source.virtual_size();
        let mut parent_map = parent.map(|layer| self.disk_map(layer)).transpose()?;
        if let Some(map) = &parent_map {
            let parent = map.tree.virtual_size();
            if virtual_size < parent && !virtual_size.is_multiple_of(CHUNK as u64) {
                return Err(Error::Shrunk { size: virtual_size, parent });
            }
        }
        if let Some(map) = parent_map.take_if(|map| map.manifests.len() as u32 > MAX_DEPTH) {
            return self.seal_shortened(parent, map, source, absent);
        }
        let base = parent_map.unwrap_or_else(DiskMap::nothing);
        let items = items(source, absent, &base)?;
        let below = base.manifests.last().map(|manifest| (manifest.layer_ref(), base.manifests.len() as u32));
        self.write_layer(&Plan { source, parent: None, base: &base, items }, parent, below)
    }

    /// Seals over the bottom of the parent's chain: all that lies between is copied into the new layer, frame by frame.
    fn seal_shortened(
        &self,
        parent: Option<&LayerRef>,
        map: DiskMap,
        source: &dyn ChunkSource,
        absent: Absent,
    ) -> Result<Sealed> {
        let bottom = map.manifests[0].layer_ref();
        let base = self.disk_map(&bottom)?;
        let mut items = items(source, absent, &map)?;
        let end = chunk_count(source.virtual_size());
        let known: std::collections::HashSet<_> = items.iter().map(|item| item.index()).collect();
        let copies = map.chunks.iter().enumerate().filter(|(_, found)| found.layer > 0);
        items.extend(
            copies.map(|(at, found)| Item::Copy(found.index, at)).filter(|item| !known.contains(&item.index())),
        );
        let gone = base.chunks.iter().filter(|found| map.find(found.index).is_none());
        items.extend(gone.map(|found| Item::Zero(found.index)).filter(|item| !known.contains(&item.index())));
        items.retain(|item| item.index() < end);
        items.sort_unstable_by_key(|item| item.index());
        let chain = self.open_disk(map)?;
        self.write_layer(&Plan { source, parent: Some(&chain), base: &base, items }, parent, Some((bottom, 1)))
    }

    fn write_layer(
        &self,
        plan: &Plan<'_>,
        parent: Option<&LayerRef>,
        below: Option<(LayerRef, u32)>,
    ) -> Result<Sealed> {
        let virtual_size = plan.source.virtual_size();
        let mut temp = self.fs().temp()?;
        let (chunks, file_length) = self.write_chunks(plan, &temp)?;
        crash::point("seal.frames-written");
        let changes: Vec<_> = chunks.iter().map(|chunk| (chunk.index, chunk.digest)).collect();
        let tree = plan.base.tree.with(virtual_size, &changes);
        let disk = tree.digest();
        let sealed = |layer, new, stored_bytes| Sealed {
            disk: DiskRef { layer: LayerRef { disk, layer }, virtual_size },
            new,
            changed_chunks: chunks.len() as u64,
            stored_bytes,
        };
        if let Some(parent) = parent.filter(|parent| parent.disk == disk) {
            return Ok(sealed(parent.layer, false, 0));
        }
        if let Some(layer) = self.representation(&disk)? {
            self.fs().freshen(&layer.manifest_name());
            return Ok(sealed(layer.layer, false, 0));
        }
        let mut hasher = Hasher::new(domain::LAYER_FILE);
        hash_range(temp.file(), 0..file_length, &mut hasher)
            .map_err(|source| Error::io("read", temp.path(), source))?;
        let file_digest = hasher.finish();
        let body = ManifestBody {
            disk,
            virtual_size,
            parent: below.map(|(layer, _)| layer),
            depth: below.map_or(0, |(_, depth)| depth),
            file_digest,
            file_length,
            encoder: Encoder::from(ENCODER),
            chunks: chunks.clone(),
        };
        let (bytes, id) = body.encode();
        if bytes.len() as u64 > MAX_MANIFEST {
            // Nobody could read it back.
            let size = bytes.len() as u64;
            return Err(Error::TooLarge { what: "the manifest of the layer", size, limit: MAX_MANIFEST });
        }
        let layer = LayerRef { disk, layer: id };
        let mut manifest = self.fs().temp()?;
        manifest.write_all(&bytes)?;
        let (file_name, manifest_name) = (layer.file_name(), layer.manifest_name());
        let files = [(&temp, file_name.as_str()), (&manifest, manifest_name.as_str())];
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
            let stat = temp.file().metadata().map_err(|source| Error::io("stat", temp.path(), source))?;
            self.put_stamp(&stat, &file_digest);
        }
        Ok(sealed(id, true, file_length + bytes.len() as u64))
    }

    /// Writes the layer file: the changed chunks with their places, and the file's length.
    fn write_chunks(&self, plan: &Plan<'_>, temp: &Temp) -> Result<(Vec<ChunkEntry>, u64)> {
        let write_error = |error| Error::write(temp.path(), error);
        let mut writer = Writer::new(temp.file(), plan.source.virtual_size()).map_err(write_error)?;
        let mut chunks = Vec::new();
        let mut raw = Vec::new();
        let mut ready: Vec<Changed> = Vec::new();
        let (mut started, mut end) = (0, 0);
        // One batch is written while the next is compressed.
        for batch in plan.items.chunks(BATCH).map(Some).chain([None]) {
            let write = || {
                for Changed { index, digest, encoded } in ready {
                    let place = match &encoded {
                        Encoded::Zero => {
                            writer.push_zero(index).map_err(write_error)?;
                            Place::Zero
                        }
                        Encoded::Frame(frame) => {
                            let at = writer.push_frame(index, frame).map_err(write_error)?;
                            Place::Frame { offset: at.offset, length: at.length }
                        }
                        Encoded::Raw => {
                            raw.push(chunks.len());
                            Place::Raw { offset: 0 }
                        }
                    };
                    if let Place::Frame { offset, .. } = place {
                        end = offset;
                    }
                    chunks.push(ChunkEntry { index, digest, place });
                }
                temp.start_writing(started..end);
                started = end;
                Ok::<_, Error>(())
            };
            let encode = || -> Result<Vec<Changed>> {
                let Some(batch) = batch else { return Ok(Vec::new()) };
                self.fs().reserve((batch.len() * CHUNK) as u64)?;
                let all: Vec<_> = batch.par_iter().map(|item| plan.encode(*item)).collect::<Result<_>>()?;
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
                let place = writer.push_raw(chunks[*at].index, &content).map_err(write_error)?;
                chunks[*at].place = Place::Raw { offset: place.offset };
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
        items.push(Item::Read(index));
        Ok(())
    })?;
    if absent == Absent::Zero && !below.chunks.is_empty() {
        let end = chunk_count(source.virtual_size());
        let named = items.len();
        for found in below.chunks.iter().filter(|found| found.index < end) {
            if items[..named].binary_search_by_key(&found.index, |item| item.index()).is_err() {
                items.push(Item::Zero(found.index));
            }
        }
        items.sort_unstable_by_key(|item| item.index());
    }
    Ok(items)
}

impl Plan<'_> {
    /// Reads, hashes, compares, compresses and checks one chunk; `None` where the base has the same.
    fn encode(&self, item: Item) -> Result<Option<Changed>> {
        thread_local! {
            static BUFFERS: std::cell::RefCell<[Box<[u8; CHUNK]>; 2]> = std::cell::RefCell::new([chunk_buffer(), chunk_buffer()]);
        }
        BUFFERS.with_borrow_mut(|[data, back]| {
            let index = item.index();
            let before = self.base.find(index).map_or(Digest::ZERO, |found| found.digest);
            let changed = |digest, encoded| (digest != before).then_some(Changed { index, digest, encoded });
            match item {
                Item::Zero(_) => Ok(changed(Digest::ZERO, Encoded::Zero)),
                Item::Copy(_, at) => {
                    let parent = self.parent.expect("BUG: a chunk is copied from no parent");
                    let found = parent.map().chunks[at];
                    if found.digest == before {
                        return Ok(None);
                    }
                    let same_encoder = parent.map().manifests[found.layer as usize].encoder == Encoder::from(ENCODER);
                    let encoded = match (parent.read_found(&found, data)?, same_encoder) {
                        (Some(frame), true) => Encoded::Frame(frame),
                        (None, true) => Encoded::Raw,
                        (_, false) => compress(index, data, back)?,
                    };
                    Ok(changed(found.digest, encoded))
                }
                Item::Read(_) => {
                    let content = self.source.read_chunk(index, data)?;
                    if content == Content::Zero || is_zero(data) {
                        return Ok(changed(Digest::ZERO, Encoded::Zero));
                    }
                    let digest = nonzero_chunk_digest(data);
                    if digest == before {
                        return Ok(None);
                    }
                    Ok(changed(digest, compress(index, data, back)?))
                }
            }
        })
    }

    /// Reads a chunk again that is to be stored as it is.
    fn read_raw(&self, chunk: &ChunkEntry) -> Result<Box<[u8; CHUNK]>> {
        let mut data = chunk_buffer();
        let copied = self.items.binary_search_by_key(&chunk.index, |item| item.index()).map(|at| self.items[at]);
        match (copied, self.parent) {
            (Ok(Item::Copy(_, at)), Some(parent)) => drop(parent.read_found(&parent.map().chunks[at], &mut data)?),
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

pub(crate) fn compress_at(index: u64, data: &[u8; CHUNK], back: &mut [u8; CHUNK], level: i32) -> Result<Encoded> {
    let encoded = encode_chunk(data, level);
    if let Encoded::Frame(frame) = &encoded
        && (decode_frame(frame, back).is_err() || data != back)
    {
        return Err(Error::Compressor { index });
    }
    Ok(encoded)
}
