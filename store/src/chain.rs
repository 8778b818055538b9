//! From a layer's name to the files below it: manifests read and checked, layer files hashed, chunks found.
//! Knows chains; does not know how a layer came to be.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::digest::{Digest, DiskDigest, Hasher, domain};
use crate::disk::{CHUNK, DiskTree, chunk_digest};
use crate::error::{ObjectKind, Result};
use crate::hash_file::hash_range;
use crate::layer::{ChunkLocation, DiskRef, LayerRef, MAX_DEPTH, MAX_MANIFEST, Manifest, disk_dir};
use crate::qcow2::{ChunkSource, Content, SourceError, decode_frame};
use crate::store::Store;

/// The files of a disk, each of them found to hold what its manifest promises, and open.
#[derive(Debug)]
pub struct VerifiedChain {
    pub disk: DiskRef,
    files: Vec<File>,
}

impl VerifiedChain {
    /// Paths of its layer files for other programs, the bottom first. Each is a qcow2 without backing path over the one
    /// before. They are [`open_file_path`]s: they hold for as long as the chain does.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().map(open_file_path).collect()
    }
}

/// The path by which another program of the same user opens this very file, whatever its name stands for by now; it holds
/// until `file` is closed. A file that was checked is given to other programs in this way only (proc(5), `/proc/PID/fd`).
pub fn open_file_path(file: &File) -> PathBuf {
    // `self` would be the other program.
    PathBuf::from(format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        file.as_raw_fd()
    ))
}

/// Where the content of a disk's chunk lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocatedChunk {
    pub(crate) index: u64,
    pub(crate) digest: Digest,
    pub(crate) place: ChunkLocation,
    /// Which layer of the chain, from the bottom.
    pub(crate) layer: u32,
}

/// A disk as its manifests describe it: no layer file was looked at.
#[derive(Debug)]
pub(crate) struct DiskMap {
    /// The bottom first.
    pub(crate) manifests: Vec<Manifest>,
    /// The chunks that are not all zero, ascending.
    pub(crate) chunks: Vec<LocatedChunk>,
    pub(crate) tree: DiskTree,
}

impl DiskMap {
    /// A disk of no chunks, which all others can be a delta to.
    pub(crate) fn nothing() -> DiskMap {
        DiskMap {
            manifests: Vec::new(),
            chunks: Vec::new(),
            tree: DiskTree::zero(0),
        }
    }

    /// The disk that so many layers of this one's chain make, from the bottom.
    pub(crate) fn lower(&self, layers: usize) -> DiskMap {
        DiskMap::new(self.manifests[..layers].to_vec())
    }

    fn new(manifests: Vec<Manifest>) -> DiskMap {
        let mut chunks: Vec<LocatedChunk> = Vec::new();
        let mut virtual_size = 0;
        for (layer, manifest) in manifests.iter().enumerate() {
            virtual_size = manifest.virtual_size;
            let mut merged = Vec::with_capacity(chunks.len() + manifest.chunks.len());
            let mut below = chunks.into_iter().peekable();
            for chunk in &manifest.chunks {
                while let Some(found) = below.next_if(|found| found.index < chunk.index) {
                    merged.push(found);
                }
                below.next_if(|found| found.index == chunk.index);
                if chunk.place != ChunkLocation::Zero {
                    let (index, digest, place) = (chunk.index, chunk.digest, chunk.place);
                    merged.push(LocatedChunk {
                        index,
                        digest,
                        place,
                        layer: layer as u32,
                    });
                }
            }
            merged.extend(below);
            chunks = merged;
            let end = crate::disk::chunk_count(virtual_size);
            chunks.truncate(chunks.partition_point(|found| found.index < end));
        }
        let tree = DiskTree::new(
            virtual_size,
            chunks
                .iter()
                .map(|found| (found.index, found.digest))
                .collect(),
        );
        DiskMap {
            manifests,
            chunks,
            tree,
        }
    }

    pub(crate) fn find(&self, index: u64) -> Option<&LocatedChunk> {
        let at = self
            .chunks
            .binary_search_by_key(&index, |found| found.index)
            .ok()?;
        Some(&self.chunks[at])
    }
}

impl Store {
    /// A layer's manifest. Absent or damaged: a miss.
    pub fn manifest(&self, layer: &LayerRef) -> Result<Manifest> {
        let name = layer.manifest_name();
        let bytes = self.read_object(ObjectKind::Manifest, &name, MAX_MANIFEST)?;
        Manifest::verify(&bytes, layer)
            .map_err(|error| self.damaged(ObjectKind::Manifest, &name, error))
    }

    /// The manifests of a layer and all below it, the bottom first. Where the parent that a manifest names is missing,
    /// another representation of the same disk stands in for it.
    fn manifests(&self, layer: &LayerRef) -> Result<Vec<Manifest>> {
        let mut chain = vec![self.manifest(layer)?];
        while let Some(parent) = chain.last().and_then(|manifest| manifest.parent) {
            let next = match self.manifest(&parent) {
                Ok(manifest) => manifest,
                Err(error) => {
                    let miss = error.into_miss()?;
                    let ok = |stand_in: &Manifest| {
                        chain.len() as u32 + stand_in.depth <= MAX_DEPTH
                            && chain.iter().all(|above| above.disk != stand_in.disk)
                    };
                    self.stand_in(&parent, ok)?.ok_or(miss)?
                }
            };
            if chain.len() as u32 > MAX_DEPTH {
                return Err(self.damaged(
                    ObjectKind::Manifest,
                    &layer.manifest_name(),
                    "its chain has no end",
                ));
            }
            chain.push(next);
        }
        chain.reverse();
        Ok(chain)
    }

    fn stand_in(
        &self,
        missing: &LayerRef,
        ok: impl Fn(&Manifest) -> bool,
    ) -> Result<Option<Manifest>> {
        for candidate in self.layers_of(&missing.disk)? {
            match self.manifest(&candidate) {
                Ok(manifest) if candidate != *missing && ok(&manifest) => {
                    return Ok(Some(manifest));
                }
                Ok(_) => {}
                Err(error) => drop(error.into_miss()?),
            }
        }
        Ok(None)
    }

    /// The representations of a disk whose manifests are there, sorted; nothing is read.
    pub(crate) fn layers_of(&self, disk: &DiskDigest) -> Result<Vec<LayerRef>> {
        let entries = self.entries(&disk_dir(disk))?;
        let layer = |name: &str| {
            Some(LayerRef {
                disk: *disk,
                layer: name.strip_suffix(".manifest")?.parse().ok()?,
            })
        };
        Ok(entries
            .iter()
            .filter_map(|entry| layer(&entry.name))
            .collect())
    }

    /// What a disk consists of, according to its manifests, which are found to make the disk they should.
    pub(crate) fn disk_map(&self, layer: &LayerRef) -> Result<DiskMap> {
        let map = DiskMap::new(self.manifests(layer)?);
        self.check_disk(layer, &map)?;
        Ok(map)
    }

    /// Whether a layer's chain makes the disk that the layer promises. If not, a miss.
    pub(crate) fn check_disk(&self, layer: &LayerRef, map: &DiskMap) -> Result<()> {
        let disk = map.tree.digest();
        if disk == layer.disk {
            return Ok(());
        }
        Err(self.damaged(
            ObjectKind::Manifest,
            &layer.manifest_name(),
            format!("it makes disk {}", disk.short()),
        ))
    }

    /// The files of a disk, verified: hashed now, or unchanged since they were hashed after the machine last started.
    /// Absent or damaged: a miss.
    pub fn chain(&self, layer: &LayerRef) -> Result<VerifiedChain> {
        self.verified_chain(layer, &self.disk_map(layer)?)
    }

    pub(crate) fn verified_chain(&self, layer: &LayerRef, map: &DiskMap) -> Result<VerifiedChain> {
        let files = map
            .manifests
            .iter()
            .map(|manifest| self.verified_layer_file(manifest))
            .collect::<Result<_>>()?;
        let disk = DiskRef {
            layer: *layer,
            virtual_size: map.tree.virtual_size(),
        };
        Ok(VerifiedChain { disk, files })
    }

    fn verified_layer_file(&self, manifest: &Manifest) -> Result<File> {
        let name = manifest.layer_ref().file_name();
        let file = self.open_object(ObjectKind::Layer, &name)?;
        // Of what is open: the name may stand for another file in a moment.
        let stat = file
            .metadata()
            .map_err(|source| self.fs().io_error("stat", &name, source))?;
        if stat.len() != manifest.file_length {
            let reason = format!(
                "it is {} bytes long instead of {}",
                stat.len(),
                manifest.file_length
            );
            return Err(self.damaged(ObjectKind::Layer, &name, reason));
        }
        if !self.has_stamp(&stat, &manifest.file_digest) {
            self.hash_open_layer(manifest, &file)?;
        }
        Ok(file)
    }

    /// Hashes a layer file, whether it has a stamp or not.
    pub(crate) fn hash_layer_file(&self, manifest: &Manifest) -> Result<()> {
        let name = manifest.layer_ref().file_name();
        let file = self.open_object(ObjectKind::Layer, &name)?;
        self.hash_open_layer(manifest, &file)
    }

    fn hash_open_layer(&self, manifest: &Manifest, file: &File) -> Result<()> {
        let name = manifest.layer_ref().file_name();
        let read_error = |source| self.fs().io_error("read", &name, source);
        let stat = file.metadata().map_err(read_error)?;
        let mut hasher = Hasher::new(domain::LAYER_FILE);
        match hash_range(file, 0..stat.len(), &mut hasher) {
            Err(source) if source.kind() != io::ErrorKind::UnexpectedEof => {
                return Err(read_error(source));
            }
            _ => {}
        }
        let digest = hasher.finish();
        if digest != manifest.file_digest || stat.len() != manifest.file_length {
            return Err(self.damaged(
                ObjectKind::Layer,
                &name,
                format!("its bytes hash to {}", digest.short()),
            ));
        }
        self.put_stamp(&stat, &digest);
        Ok(())
    }

    /// A representation of a disk that is complete and verified, if there is one.
    pub fn representation(&self, disk: &DiskDigest) -> Result<Option<LayerRef>> {
        for layer in self.layers_of(disk)? {
            match self.chain(&layer) {
                Ok(_) => return Ok(Some(layer)),
                Err(error) => drop(error.into_miss()?),
            }
        }
        Ok(None)
    }

    /// Whether all files of a layer and of those below it are there with their right lengths: no layer file is opened.
    pub fn has_layer(&self, layer: &LayerRef) -> Result<bool> {
        let manifests = match self.manifests(layer) {
            Ok(manifests) => manifests,
            Err(error) => return error.into_miss().map(|_| false),
        };
        for manifest in &manifests {
            let stat = self.fs().stat_file(&manifest.layer_ref().file_name())?;
            if stat.is_none_or(|stat| stat.len() != manifest.file_length) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Bytes of a layer's own file, without those of the layers below; none where it is not there.
    pub fn layer_length(&self, layer: &LayerRef) -> Result<Option<u64>> {
        Ok(self
            .fs()
            .stat_file(&layer.file_name())?
            .map(|stat| stat.len()))
    }

    /// A disk to be read chunk by chunk, each of which is verified. Absent or damaged: a miss.
    pub fn disk_reader(&self, layer: &LayerRef) -> Result<DiskReader> {
        self.open_disk(self.disk_map(layer)?)
    }

    pub(crate) fn open_disk(&self, map: DiskMap) -> Result<DiskReader> {
        let open = |manifest: &Manifest| {
            self.open_object(ObjectKind::Layer, &manifest.layer_ref().file_name())
        };
        let files = map.manifests.iter().map(open).collect::<Result<_>>()?;
        Ok(DiskReader {
            store: self.clone(),
            map,
            files,
        })
    }
}

/// A disk of the store, read chunk by chunk.
#[derive(Debug)]
pub struct DiskReader {
    store: Store,
    map: DiskMap,
    files: Vec<File>,
}

impl DiskReader {
    pub(crate) fn map(&self) -> &DiskMap {
        &self.map
    }

    pub(crate) fn file(&self, layer: u32) -> &File {
        &self.files[layer as usize]
    }

    /// Reads one chunk. Damaged: a miss.
    pub fn read(&self, index: u64, buffer: &mut [u8; CHUNK]) -> Result<Content> {
        match self.map.find(index) {
            Some(found) => self.read_found(found, buffer).map(|_| Content::Data),
            None => {
                buffer.fill(0);
                Ok(Content::Zero)
            }
        }
    }

    /// Reads one chunk and returns its frame too, where it has one.
    pub(crate) fn read_found(
        &self,
        found: &LocatedChunk,
        buffer: &mut [u8; CHUNK],
    ) -> Result<Option<Vec<u8>>> {
        let name = || {
            self.map.manifests[found.layer as usize]
                .layer_ref()
                .file_name()
        };
        let read_at = |bytes: &mut [u8], offset| {
            self.file(found.layer)
                .read_exact_at(bytes, offset)
                .map_err(|source| match source.kind() {
                    io::ErrorKind::UnexpectedEof => {
                        self.store
                            .damaged(ObjectKind::Layer, &name(), "it is truncated")
                    }
                    _ => self.store.fs().io_error("read", &name(), source),
                })
        };
        let frame = match found.place {
            ChunkLocation::Zero => {
                buffer.fill(0);
                None
            }
            ChunkLocation::Raw { offset } => {
                read_at(buffer, offset)?;
                None
            }
            ChunkLocation::Frame { offset, length } => {
                let mut frame = vec![0; length as usize];
                read_at(&mut frame, offset)?;
                decode_frame(&frame, buffer).map_err(|error| {
                    self.store.damaged(
                        ObjectKind::Layer,
                        &name(),
                        format!("chunk {}: {error}", found.index),
                    )
                })?;
                Some(frame)
            }
        };
        if chunk_digest(buffer) != found.digest {
            let reason = format!("chunk {} has the wrong content", found.index);
            return Err(self.store.damaged(ObjectKind::Layer, &name(), reason));
        }
        Ok(frame)
    }
}

impl ChunkSource for DiskReader {
    fn virtual_size(&self) -> u64 {
        self.map.tree.virtual_size()
    }

    fn next_present(&self, from: u64) -> Result<Option<u64>, SourceError> {
        let at = self.map.chunks.partition_point(|found| found.index < from);
        Ok(self.map.chunks.get(at).map(|found| found.index))
    }

    fn read_chunk(&self, index: u64, buffer: &mut [u8; CHUNK]) -> Result<Content, SourceError> {
        if index >= self.chunks() {
            return Err(SourceError::BeyondEnd {
                index,
                virtual_size: self.virtual_size(),
            });
        }
        self.read(index, buffer)
            .map_err(|error| SourceError::Stopped(Box::new(error)))
    }
}
