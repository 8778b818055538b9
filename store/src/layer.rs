//! A layer's manifest: which chunks of a disk differ from its parent's, their digests, and where in the qcow2 they lie.
//! Knows the manifest's encoding and its limits; reads no file.

use serde::{Deserialize, Serialize};

use crate::digest::{DIGEST_LEN, Digest, DiskDigest, LayerId};
use crate::disk::{CHUNK, chunk_count};
use crate::qcow2::{EncoderId, MAX_VIRTUAL_SIZE};
use crate::record::{decode, encode};

/// What a raw chunk has as its length.
const RAW: u64 = CHUNK as u64;
/// The format of manifests that this code writes.
const MANIFEST_FORMAT: u32 = 1;
/// Layers below a layer, at most; a deeper chain is squashed.
pub const MAX_DEPTH: u32 = 16;
/// Largest manifest, in bytes: enough for 400 GiB of changed chunks.
pub const MAX_MANIFEST: u64 = 256 << 20;

/// One representation of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LayerRef {
    pub disk: DiskDigest,
    /// How it is stored.
    pub layer: LayerId,
}

/// A disk with its size, so that nothing need be opened to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DiskRef {
    pub layer: LayerRef,
    /// The guest disk's size in bytes.
    pub virtual_size: u64,
}

/// Which encoder made the frames of a layer: two equal ids give equal frames for equal chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Encoder {
    /// zstd's version number, such as 10507 for 1.5.7.
    pub zstd: u32,
    pub level: i32,
    /// Whether frames end with a checksum of their content.
    pub checksum: bool,
}

impl From<EncoderId> for Encoder {
    fn from(
        EncoderId {
            zstd,
            level,
            checksum,
        }: EncoderId,
    ) -> Encoder {
        Encoder {
            zstd,
            level,
            checksum,
        }
    }
}

/// Where a chunk's bytes lie in a layer file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkLocation {
    /// Nowhere: the chunk is all zero, though the parent's may not be.
    Zero,
    /// As one zstd frame.
    Frame {
        /// Byte offset in the file.
        offset: u64,
        /// Length in bytes, below [`CHUNK`].
        length: u32,
    },
    Raw {
        /// Byte offset in the file.
        offset: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkEntry {
    /// Which chunk of the disk, from 0.
    pub index: u64,
    /// The digest of its content; [`Digest::ZERO`] exactly where `place` is [`ChunkLocation::Zero`].
    pub digest: Digest,
    pub place: ChunkLocation,
}

/// What a manifest says, within the limits of the format. Whether it is the manifest that a name promises is another
/// question, answered by [`Manifest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestBody {
    /// The disk that this layer completes.
    pub disk: DiskDigest,
    /// Its size in bytes, a multiple of 512.
    pub virtual_size: u64,
    /// What it is a delta to; nothing, where all other chunks are zero.
    pub parent: Option<LayerRef>,
    pub depth: u32,
    /// The digest of the layer file's bytes.
    pub file_digest: Digest,
    /// The layer file's length in bytes.
    pub file_length: u64,
    /// Who made the frames.
    pub encoder: Encoder,
    /// The chunks that differ from the parent's, ascending by index.
    pub chunks: Vec<ChunkEntry>,
}

/// A manifest whose bytes have the name that it was asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    id: LayerId,
    body: ManifestBody,
}

impl std::ops::Deref for Manifest {
    type Target = ManifestBody;
    fn deref(&self) -> &ManifestBody {
        &self.body
    }
}

/// Why bytes are not a manifest, or not the one that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The encoding is broken, or not the one that our encoder gives.
    #[error("it cannot be decoded")]
    Encoding,
    /// Written by another version.
    #[error("its format is {0}, not {MANIFEST_FORMAT}")]
    Format(u32),
    /// Something that it says is outside the format's limits.
    #[error("its {0} is out of bounds")]
    Bounds(&'static str),
    /// Its bytes have another name.
    #[error("its bytes hash to {}", .0.short())]
    Name(LayerId),
    /// It describes another disk.
    #[error("it describes disk {}", .0.short())]
    Disk(DiskDigest),
}

// The encoding, columnar: each array of `ChunkEntry`'s fields by itself. Numbers in `indexes`, `lengths` and `offsets`
// are LEB128: the distance from the number after the previous one; length 0 is Zero, CHUNK is Raw; offsets are the
// gap after the previous frame, or after the previous raw chunk. Changing this is a format break.
#[derive(Serialize, Deserialize)]
struct Wire {
    format: u32,
    disk: DiskDigest,
    virtual_size: u64,
    parent: Option<LayerRef>,
    depth: u32,
    file_digest: Digest,
    file_length: u64,
    encoder: Encoder,
    count: u64,
    #[serde(with = "serde_bytes")]
    indexes: Vec<u8>,
    #[serde(with = "serde_bytes")]
    digests: Vec<u8>,
    #[serde(with = "serde_bytes")]
    lengths: Vec<u8>,
    #[serde(with = "serde_bytes")]
    offsets: Vec<u8>,
}

impl ManifestBody {
    /// The manifest's bytes and its name.
    pub fn encode(&self) -> (Vec<u8>, LayerId) {
        let (mut indexes, mut digests, mut lengths, mut offsets) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut next_index, mut next_frame, mut next_raw) = (0, 0, 0);
        for chunk in &self.chunks {
            put_number(&mut indexes, chunk.index - next_index);
            next_index = chunk.index + 1;
            match chunk.place {
                ChunkLocation::Zero => put_number(&mut lengths, 0),
                ChunkLocation::Frame { offset, length } => {
                    put_number(&mut lengths, u64::from(length));
                    put_number(&mut offsets, offset - next_frame);
                    next_frame = offset + u64::from(length);
                }
                ChunkLocation::Raw { offset } => {
                    put_number(&mut lengths, CHUNK as u64);
                    put_number(&mut offsets, offset - next_raw);
                    next_raw = offset + CHUNK as u64;
                }
            }
            if chunk.place != ChunkLocation::Zero {
                digests.extend_from_slice(chunk.digest.as_bytes());
            }
        }
        let bytes = encode(&Wire {
            format: MANIFEST_FORMAT,
            disk: self.disk,
            virtual_size: self.virtual_size,
            parent: self.parent,
            depth: self.depth,
            file_digest: self.file_digest,
            file_length: self.file_length,
            encoder: self.encoder,
            count: self.chunks.len() as u64,
            indexes,
            digests,
            lengths,
            offsets,
        });
        let id = LayerId::of(&bytes);
        (bytes, id)
    }

    /// Decodes a manifest, strictly: within the limits of the format, and in its one encoding. For untrusted bytes.
    pub fn decode(bytes: &[u8]) -> Result<ManifestBody, ManifestError> {
        let wire: Wire = decode(bytes).map_err(|_| ManifestError::Encoding)?;
        let bounds = ManifestError::Bounds;
        if wire.format != MANIFEST_FORMAT {
            return Err(ManifestError::Format(wire.format));
        }
        if wire.virtual_size > MAX_VIRTUAL_SIZE || !wire.virtual_size.is_multiple_of(512) {
            return Err(bounds("virtual size"));
        }
        if wire.depth > MAX_DEPTH || (wire.depth == 0) != wire.parent.is_none() {
            return Err(bounds("depth"));
        }
        // Every chunk takes a byte of `indexes`, so that the count cannot make this code allocate more than was read.
        if wire.count > wire.indexes.len() as u64 {
            return Err(bounds("count"));
        }
        let (mut indexes, mut lengths, mut offsets) =
            (&wire.indexes[..], &wire.lengths[..], &wire.offsets[..]);
        let mut digests = wire.digests.chunks_exact(DIGEST_LEN);
        let (mut next_index, mut next_frame, mut next_raw) = (0u64, 0u64, 0u64);
        let mut chunks = Vec::with_capacity(wire.count as usize);
        for _ in 0..wire.count {
            let number = |column: &mut &[u8]| take_number(column).ok_or(ManifestError::Encoding);
            let index = next_index
                .checked_add(number(&mut indexes)?)
                .ok_or(bounds("index"))?;
            if index >= chunk_count(wire.virtual_size) {
                return Err(bounds("index"));
            }
            next_index = index + 1;
            let length = number(&mut lengths)?;
            let mut place_after = |next: &mut u64| {
                let offset = next
                    .checked_add(number(&mut offsets)?)
                    .ok_or(bounds("offset"))?;
                *next = offset.checked_add(length).ok_or(bounds("offset"))?;
                if *next > wire.file_length {
                    Err(bounds("offset"))
                } else {
                    Ok(offset)
                }
            };
            let place = match length {
                0 => ChunkLocation::Zero,
                1..RAW => ChunkLocation::Frame {
                    offset: place_after(&mut next_frame)?,
                    length: length as u32,
                },
                RAW => ChunkLocation::Raw {
                    offset: place_after(&mut next_raw)?,
                },
                _ => return Err(bounds("length")),
            };
            let digest = match place {
                ChunkLocation::Zero => Digest::ZERO,
                _ => {
                    let bytes = digests
                        .next()
                        .and_then(|bytes| bytes.try_into().ok())
                        .ok_or(bounds("digests"))?;
                    Digest::from_bytes(bytes)
                }
            };
            if (digest == Digest::ZERO) != (place == ChunkLocation::Zero) {
                return Err(bounds("digest"));
            }
            chunks.push(ChunkEntry {
                index,
                digest,
                place,
            });
        }
        let rest = [
            indexes.len(),
            lengths.len(),
            offsets.len(),
            digests.len(),
            digests.remainder().len(),
        ];
        if rest != [0; 5] {
            return Err(bounds("count"));
        }
        let body = ManifestBody {
            disk: wire.disk,
            virtual_size: wire.virtual_size,
            parent: wire.parent,
            depth: wire.depth,
            file_digest: wire.file_digest,
            file_length: wire.file_length,
            encoder: wire.encoder,
            chunks,
        };
        // LEB128 has many spellings of a number; a name must have one.
        if body.encode().0 != bytes {
            Err(ManifestError::Encoding)
        } else {
            Ok(body)
        }
    }
}

impl Manifest {
    /// Decodes the manifest that a name promises. For untrusted bytes.
    pub fn verify(bytes: &[u8], name: &LayerRef) -> Result<Manifest, ManifestError> {
        let id = LayerId::of(bytes);
        if id != name.layer {
            return Err(ManifestError::Name(id));
        }
        let body = ManifestBody::decode(bytes)?;
        if body.disk != name.disk {
            Err(ManifestError::Disk(body.disk))
        } else {
            Ok(Manifest { id, body })
        }
    }

    /// What it is called.
    pub fn layer_ref(&self) -> LayerRef {
        LayerRef {
            disk: self.disk,
            layer: self.id,
        }
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_number(column: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = column.split_first()?;
        *column = rest;
        number |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

pub(crate) fn disk_dir(disk: &DiskDigest) -> String {
    let hex = disk.to_string();
    format!("disks/{}/{hex}", &hex[..2])
}

impl LayerRef {
    pub(crate) fn manifest_name(&self) -> String {
        format!("{}/{}.manifest", disk_dir(&self.disk), self.layer)
    }

    pub(crate) fn file_name(&self) -> String {
        format!("{}/{}.qcow2", disk_dir(&self.disk), self.layer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(seed: u64) -> Digest {
        LayerId::of(&seed.to_le_bytes()).0
    }

    /// A manifest of valid shape out of arbitrary numbers.
    fn manifest(gaps: Vec<(u64, u32, u64)>, with_parent: bool) -> ManifestBody {
        let (mut index, mut frame, mut raw) = (0, 65536, 1 << 40);
        let mut chunks = Vec::new();
        for (skip, length, gap) in gaps {
            index += skip;
            let place = match length {
                0 => ChunkLocation::Zero,
                1..65536 => {
                    let offset = frame + gap;
                    frame = offset + u64::from(length);
                    ChunkLocation::Frame { offset, length }
                }
                _ => {
                    let offset = raw + gap;
                    raw = offset + CHUNK as u64;
                    ChunkLocation::Raw { offset }
                }
            };
            let digest = if place == ChunkLocation::Zero {
                Digest::ZERO
            } else {
                digest(index)
            };
            chunks.push(ChunkEntry {
                index,
                digest,
                place,
            });
            index += 1;
        }
        ManifestBody {
            disk: DiskDigest(digest(1)),
            virtual_size: (index + 1) * CHUNK as u64 - 512,
            parent: with_parent.then(|| LayerRef {
                disk: DiskDigest(digest(2)),
                layer: LayerId(digest(3)),
            }),
            depth: u32::from(with_parent),
            file_digest: digest(4),
            file_length: 1 << 50,
            encoder: Encoder {
                zstd: 10507,
                level: 1,
                checksum: true,
            },
            chunks,
        }
    }

    proptest! {
        #[test]
        fn a_manifest_comes_back(
            gaps in proptest::collection::vec((0u64..300, 0u32..65537, 0u64..10_000), 0..60),
            with_parent: bool,
        ) {
            let body = manifest(gaps, with_parent);
            let (bytes, id) = body.encode();
            prop_assert_eq!(&ManifestBody::decode(&bytes), &Ok(body.clone()));
            let name = LayerRef { disk: body.disk, layer: id };
            prop_assert_eq!(Manifest::verify(&bytes, &name).map(|manifest| manifest.layer_ref()), Ok(name));
        }

        #[test]
        fn arbitrary_bytes_are_decoded_to_what_encodes_to_them_or_refused(
            edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let (mut bytes, _) = manifest(vec![(0, 100, 0), (5, 0, 0), (0, 65536, 9), (200, 7, 512)], true).encode();
            for (at, byte) in edits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(body) = ManifestBody::decode(&bytes) {
                prop_assert_eq!(body.encode().0, bytes);
            }
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let good = manifest(vec![(0, 100, 0), (5, 65536, 0)], false);
        let refuse = |edit: &dyn Fn(&mut ManifestBody), what| {
            let mut bad = good.clone();
            edit(&mut bad);
            assert_eq!(
                ManifestBody::decode(&bad.encode().0),
                Err(ManifestError::Bounds(what)),
                "{bad:?}"
            );
        };
        refuse(&|bad| bad.virtual_size += 1, "virtual size");
        refuse(&|bad| bad.virtual_size = 1 << 60, "virtual size");
        refuse(&|bad| bad.virtual_size = 512, "index");
        refuse(&|bad| bad.depth = 1, "depth");
        refuse(&|bad| bad.depth = 17, "depth");
        refuse(&|bad| bad.file_length = 0, "offset");
        refuse(&|bad| bad.chunks[0].digest = Digest::ZERO, "digest");
    }

    #[test]
    fn another_manifest_is_not_the_one_asked_for() {
        let body = manifest(vec![(0, 1, 0)], false);
        let (bytes, id) = body.encode();
        let other = DiskDigest(digest(9));
        assert_eq!(
            Manifest::verify(
                &bytes,
                &LayerRef {
                    disk: other,
                    layer: id
                }
            ),
            Err(ManifestError::Disk(body.disk))
        );
        let wrong = LayerRef {
            disk: body.disk,
            layer: LayerId(digest(8)),
        };
        assert_eq!(
            Manifest::verify(&bytes, &wrong),
            Err(ManifestError::Name(id))
        );
    }

    #[test]
    fn manifests_are_pinned() {
        // A change here is a format break: bump the store's format version.
        let (bytes, id) = manifest(
            vec![(0, 100, 0), (5, 0, 0), (0, 65536, 9), (200, 7, 512)],
            true,
        )
        .encode();
        assert_eq!(bytes.len(), 287);
        assert_eq!(id.short(), "1bd6beabbf62");
    }
}
