//! Blobs: files by their content, as one zstd frame, or in pieces that blobs can share.
//!
//! What is large is in pieces; what its writer knows to be one of a family of similar files, from a smaller size on.
//! Knows bytes and their digest, not what file they were.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::cut::{self, COARSE, FINE, Grain};
use crate::digest::{BlobDigest, DIGEST_LEN, Hasher, domain};
use crate::error::{Error, ObjectKind, Result};
use crate::fs::Temp;
use crate::record::{MAGIC_LEN, decode, encode, frame, unframe};
use crate::sha256::{Sha256, Sha256Writer};
use crate::store::Store;

const PLAIN: &[u8; MAGIC_LEN] = b"impaBLP1";
const CHUNKED: &[u8; MAGIC_LEN] = b"impaBLC1";
const TABLE: &[u8; MAGIC_LEN] = b"impaBLT1";
const SHA256: &[u8; MAGIC_LEN] = b"impaSHA1";
/// Larger files are stored in pieces, in bytes. Changing this is a format break.
const PLAIN_MAX: usize = 4 << 20;
/// The same for files that are known to be like others.
const PLAIN_MAX_LIKE: usize = 256 << 10;
/// Files that are known to be like others are cut finely up to this size, in bytes: a table of more pieces would cost
/// more than they save.
const FINE_MAX: usize = 16 << 20;
/// How much is read, cut and compressed at once, in bytes.
const BATCH: usize = 8 << 20;
/// Level of zstd; a blob's name does not depend on it.
const LEVEL: i32 = 3;
// A chunked file: magic | frames | record of the table | length of the record, u64 | BLAKE3 (STATE) of all before.
const TAIL: usize = 8 + DIGEST_LEN;
/// Largest table, in bytes: enough for a file of 400 GB.
const TABLE_MAX: u64 = 256 << 20;

/// Largest record of a SHA-256, in bytes.
pub(crate) const SHA256_LIMIT: u64 = 4096;

/// A blob and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlobRef {
    /// The digest of its content.
    pub digest: BlobDigest,
    /// Its size in bytes.
    pub size: u64,
}

#[derive(Serialize, Deserialize)]
struct PlainHeader {
    size: u64,
    zstd: bool,
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Sha256Record {
    blob: BlobRef,
    sha256: Sha256,
}

/// The pieces of a file, in order.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PieceTable {
    size: u64,
    /// Other blobs that hold pieces of this one; a piece says which by its place in this list, from 1.
    others: Vec<BlobDigest>,
    pieces: Vec<Piece>,
}

/// One piece: its content by the digest that it would have as a blob, and where its frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Piece {
    digest: BlobDigest,
    /// Bytes of content.
    size: u32,
    /// Bytes in the file; as many as `size` where it is stored as it is.
    length: u32,
    /// 0: in this file; else the place in `others`.
    file: u32,
    /// Byte offset in that file.
    offset: u64,
}

/// A blob's content. What it reads was verified.
#[derive(Debug)]
pub struct BlobReader {
    size: u64,
    content: BlobContent,
}

#[derive(Debug)]
enum BlobContent {
    Plain(io::Cursor<Vec<u8>>),
    Chunked {
        pieces: Arc<Pieces>,
        next: usize,
        ready: io::Cursor<Vec<u8>>,
    },
}

/// An opened blob in pieces: the table, and the files of its pieces.
#[derive(Debug)]
struct Pieces {
    table: PieceTable,
    files: Vec<File>,
}

/// Decodes the file of a blob in one piece: its content, still without a name. Bounded; for untrusted bytes.
pub fn decode_plain(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let plain: PlainHeader = unframe(PLAIN, bytes)
        .and_then(decode)
        .map_err(|error| error.to_string())?;
    if plain.size > PLAIN_MAX as u64 {
        return Err(format!(
            "it claims {} bytes, too many for a blob in one piece",
            plain.size
        ));
    }
    unpack(plain.zstd, plain.bytes, plain.size as usize)
        .ok_or_else(|| "its content cannot be decoded".to_owned())
}

/// Checks the table of a blob in pieces. Bounded; for untrusted bytes. `frames_end` is where the frames of its file end.
pub fn check_table(record: &[u8], frames_end: u64) -> Result<(), String> {
    decode_table(record, frames_end).map(|_| ())
}

fn decode_table(record: &[u8], frames_end: u64) -> Result<PieceTable, String> {
    let table: PieceTable = unframe(TABLE, record)
        .and_then(decode)
        .map_err(|error| error.to_string())?;
    let mut size = 0u64;
    for piece in &table.pieces {
        let end = piece
            .offset
            .checked_add(u64::from(piece.length))
            .ok_or("a piece is out of bounds")?;
        let bad = piece.size == 0
            || piece.size as usize > cut::MAX
            || piece.length > piece.size
            || piece.length == 0
            || piece.file as usize > table.others.len()
            || (piece.file == 0 && (piece.offset < MAGIC_LEN as u64 || end > frames_end));
        if bad {
            return Err("a piece is out of bounds".to_owned());
        }
        size += u64::from(piece.size);
    }
    if size != table.size {
        Err("its pieces do not add up".to_owned())
    } else {
        Ok(table)
    }
}

fn unpack(zstd: bool, bytes: Vec<u8>, size: usize) -> Option<Vec<u8>> {
    if !zstd {
        return (bytes.len() == size).then_some(bytes);
    }
    // `size` is bounded by the caller: the frame cannot make it larger.
    let mut out = Vec::with_capacity(size);
    let length = zstd_safe::DCtx::create()
        .decompress(&mut out, &bytes)
        .ok()?;
    (length == size).then_some(out)
}

fn pack(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(bytes.len()));
    let length = zstd_safe::compress(&mut out, bytes, LEVEL).ok()?;
    // Verified as written, or stored as it is: a compressor's bug costs space only.
    (length < bytes.len()
        && unpack(true, out.clone(), bytes.len()).is_some_and(|back| back == bytes))
    .then_some(out)
}

pub(crate) fn blob_name(digest: &BlobDigest) -> String {
    let hex = digest.to_string();
    format!("blobs/{}/{hex}", &hex[..2])
}

fn hash(hasher: &mut Hasher, bytes: &[u8]) {
    if bytes.len() >= 128 << 10 {
        hasher.update_parallel(bytes)
    } else {
        hasher.update(bytes)
    };
}

/// The pieces of a buffer whose cuts no further byte can change, and how many bytes they have. `at_end`: there are none.
fn cut_all(buffer: &[u8], at_end: bool, grain: Grain) -> (Vec<&[u8]>, usize) {
    let mut rest = buffer;
    let mut cuts = Vec::new();
    while !rest.is_empty() && (at_end || rest.len() >= grain.max) {
        let (piece, after) = rest.split_at(cut::first(rest, grain));
        cuts.push(piece);
        rest = after;
    }
    (cuts, buffer.len() - rest.len())
}

/// Fills the buffer as far as the reader goes.
fn fill(reader: &mut dyn Read, buffer: &mut Vec<u8>, up_to: usize) -> Result<()> {
    let missing = up_to.saturating_sub(buffer.len()) as u64;
    let read_error = |source| Error::Io {
        verb: "read",
        path: "the file to be stored".into(),
        source,
    };
    reader
        .take(missing)
        .read_to_end(buffer)
        .map(|_| ())
        .map_err(read_error)
}

/// The beginning of a file, a byte longer than `most` where the file is.
fn read_head(reader: &mut dyn Read, most: usize) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    fill(reader, &mut head, most + 1)?;
    Ok(head)
}

impl Store {
    /// Stores a file's content, durably. Content that is there already is not stored again.
    pub fn put_blob(&self, mut reader: impl Read) -> Result<BlobRef> {
        let head = read_head(&mut reader, PLAIN_MAX)?;
        if head.len() > PLAIN_MAX {
            return self.put_chunked(head, &mut reader, None, COARSE);
        }
        self.put_plain(head)
    }

    /// Stores one of a family of files that change little from one to the next; pieces that an earlier one, `like`, has
    /// too are shared with it. The first of the family has none to be like, and must be stored by this too: what
    /// [`Store::put_blob`] stored in one piece shares nothing.
    pub fn put_blob_like(
        &self,
        mut reader: impl Read,
        like: Option<&BlobDigest>,
    ) -> Result<BlobRef> {
        let head = read_head(&mut reader, FINE_MAX)?;
        if head.len() > FINE_MAX {
            return self.put_chunked(head, &mut reader, like, COARSE);
        }
        if head.len() <= PLAIN_MAX_LIKE {
            return self.put_plain(head);
        }
        let blob = BlobRef {
            digest: BlobDigest::of(&head),
            size: head.len() as u64,
        };
        if self.reuse_blob(&blob)? {
            return Ok(blob);
        }
        self.put_chunked(head, &mut io::empty(), like, FINE)
    }

    fn put_plain(&self, content: Vec<u8>) -> Result<BlobRef> {
        let blob = BlobRef {
            digest: BlobDigest::of(&content),
            size: content.len() as u64,
        };
        if self.reuse_blob(&blob)? {
            return Ok(blob);
        }
        self.reserve(content.len() as u64)?;
        let packed = pack(&content);
        let plain = PlainHeader {
            size: blob.size,
            zstd: packed.is_some(),
            bytes: packed.unwrap_or(content),
        };
        let mut temp = self.fs().temp()?;
        temp.write_all(&frame(PLAIN, &encode(&plain)))?;
        self.publish_blob(temp, &blob)?;
        Ok(blob)
    }

    fn put_chunked(
        &self,
        mut buffer: Vec<u8>,
        reader: &mut dyn Read,
        like: Option<&BlobDigest>,
        grain: Grain,
    ) -> Result<BlobRef> {
        let known = like.map(|like| self.known_pieces(like)).unwrap_or_default();
        let mut content = BlobDigest::hasher();
        let mut file = Hasher::new(domain::STATE);
        let mut temp = self.fs().temp()?;
        let mut table = PieceTable {
            size: 0,
            others: Vec::new(),
            pieces: Vec::new(),
        };
        let mut here: HashMap<BlobDigest, Piece> = HashMap::new();
        let mut offset = 0u64;
        let mut write = |temp: &mut Temp, bytes: &[u8]| {
            hash(&mut file, bytes);
            temp.write_all(bytes)?;
            offset += bytes.len() as u64;
            Ok::<_, Error>(offset)
        };
        let mut end = write(&mut temp, CHUNKED)?;
        loop {
            fill(reader, &mut buffer, BATCH)?;
            let at_end = buffer.len() < BATCH;
            let (cuts, used) = cut_all(&buffer, at_end, grain);
            hash(&mut content, &buffer[..used]);
            self.reserve(used as u64)?;
            let digests: Vec<_> = cuts.par_iter().map(|piece| BlobDigest::of(piece)).collect();
            let frames: Vec<_> = cuts
                .par_iter()
                .zip(&digests)
                .map(|(piece, digest)| {
                    if known.contains_key(digest) {
                        None
                    } else {
                        pack(piece)
                    }
                })
                .collect();
            for ((bytes, digest), frame) in cuts.iter().zip(digests).zip(frames) {
                table.size += bytes.len() as u64;
                let piece = match (here.get(&digest), known.get(&digest)) {
                    (Some(piece), _) => *piece,
                    (None, Some((other, piece))) => {
                        let place = table
                            .others
                            .iter()
                            .position(|there| there == other)
                            .unwrap_or_else(|| {
                                table.others.push(*other);
                                table.others.len() - 1
                            });
                        Piece {
                            file: place as u32 + 1,
                            ..*piece
                        }
                    }
                    (None, None) => {
                        let stored = frame.as_deref().unwrap_or(bytes);
                        let (size, length) = (bytes.len() as u32, stored.len() as u32);
                        let piece = Piece {
                            digest,
                            size,
                            length,
                            file: 0,
                            offset: end,
                        };
                        end = write(&mut temp, stored)?;
                        piece
                    }
                };
                here.insert(digest, piece);
                table.pieces.push(piece);
            }
            buffer.drain(..used);
            if at_end {
                break;
            }
        }
        let blob = BlobRef {
            digest: BlobDigest(content.finish()),
            size: table.size,
        };
        let record = frame(TABLE, &encode(&table));
        write(&mut temp, &record)?;
        write(&mut temp, &(record.len() as u64).to_le_bytes())?;
        let check = file.finish();
        temp.write_all(check.as_bytes())?;
        self.publish_blob(temp, &blob)?;
        Ok(blob)
    }

    /// Pieces that a blob has, and in which blob's file they lie. A blob that cannot be read has none.
    fn known_pieces(&self, like: &BlobDigest) -> HashMap<BlobDigest, (BlobDigest, Piece)> {
        let Ok(BlobReader {
            content: BlobContent::Chunked { pieces, .. },
            ..
        }) = self.open_blob(like)
        else {
            return HashMap::new();
        };
        let owner = |piece: &Piece| match piece.file {
            0 => *like,
            other => pieces.table.others[other as usize - 1],
        };
        pieces
            .table
            .pieces
            .iter()
            .map(|piece| (piece.digest, (owner(piece), *piece)))
            .collect()
    }

    /// Whether a blob is there and whole; it counts as used just now.
    fn reuse_blob(&self, blob: &BlobRef) -> Result<bool> {
        let name = blob_name(&blob.digest);
        if self.fs().stat(&name)?.is_none() {
            return Ok(false);
        }
        self.fs().freshen(&name);
        match self.open_blob(&blob.digest) {
            Ok(_) => Ok(true),
            Err(error) => error.into_miss().map(|_| false),
        }
    }

    fn publish_blob(&self, temp: Temp, blob: &BlobRef) -> Result<()> {
        let name = blob_name(&blob.digest);
        // The name is taken: by the same content, or by a damaged file, which checking moves away.
        if self.reuse_blob(blob)? {
            return Ok(());
        }
        self.fs().publish(&[(&temp, &name)])?;
        Ok(())
    }

    /// Whether a blob's file is there; nothing is read.
    pub fn has_blob(&self, digest: &BlobDigest) -> Result<bool> {
        Ok(self.fs().stat_file(&blob_name(digest))?.is_some())
    }

    /// Bytes of a blob's own file, without those of blobs that it shares pieces of; none where it is not there.
    pub fn blob_length(&self, digest: &BlobDigest) -> Result<Option<u64>> {
        Ok(self
            .fs()
            .stat_file(&blob_name(digest))?
            .map(|stat| stat.len()))
    }

    /// Opens a blob to be read, after all of it was verified. Absent or damaged: a miss.
    pub fn open_blob(&self, digest: &BlobDigest) -> Result<BlobReader> {
        let name = blob_name(digest);
        let damaged = |reason: String| self.damaged(ObjectKind::Blob, &name, reason);
        let file = self.open_object(ObjectKind::Blob, &name)?;
        let length = file
            .metadata()
            .map_err(|source| self.fs().io_error("stat", &name, source))?
            .len();
        let mut magic = [0; MAGIC_LEN];
        match file.read_exact_at(&mut magic, 0) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                return Err(self.fs().io_error("read", &name, error));
            }
            _ => {}
        }
        if magic == *CHUNKED {
            let pieces = Arc::new(self.open_pieces(digest, &name, file, length)?);
            let actual = pieces.digest().map_err(|bad| match bad {
                BadPiece::Read(source) => self.fs().io_error("read", &name, source),
                BadPiece::Damaged(0) => damaged("a piece has the wrong content".to_owned()),
                BadPiece::Damaged(other) => {
                    let other = blob_name(&pieces.table.others[other - 1]);
                    self.damaged(
                        ObjectKind::Blob,
                        &other,
                        "a piece shared with another blob has the wrong content",
                    )
                }
            })?;
            if actual != *digest {
                return Err(damaged(format!("its content hashes to {}", actual.short())));
            }
            let size = pieces.table.size;
            return Ok(BlobReader {
                size,
                content: BlobContent::Chunked {
                    pieces,
                    next: 0,
                    ready: io::Cursor::default(),
                },
            });
        }
        if length > PLAIN_MAX as u64 + 1024 {
            return Err(damaged(
                "it is too large for a blob in one piece".to_owned(),
            ));
        }
        let mut bytes = Vec::with_capacity(length as usize);
        (&file)
            .take(length + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| self.fs().io_error("read", &name, source))?;
        let content = decode_plain(&bytes).map_err(damaged)?;
        let actual = BlobDigest::of(&content);
        if actual != *digest {
            return Err(damaged(format!("its content hashes to {}", actual.short())));
        }
        Ok(BlobReader {
            size: content.len() as u64,
            content: BlobContent::Plain(io::Cursor::new(content)),
        })
    }

    fn open_pieces(
        &self,
        digest: &BlobDigest,
        name: &str,
        file: File,
        length: u64,
    ) -> Result<Pieces> {
        let damaged = |reason: String| self.damaged(ObjectKind::Blob, name, reason);
        let read = |bytes: &mut [u8], at: u64| {
            file.read_exact_at(bytes, at)
                .map_err(|source| self.fs().io_error("read", name, source))
        };
        let (record_at, record_length) = match length.checked_sub(TAIL as u64) {
            Some(at) => {
                let mut tail = [0; 8];
                read(&mut tail, at)?;
                let record_length = u64::from_le_bytes(tail);
                (at.checked_sub(record_length), record_length)
            }
            None => (None, 0),
        };
        let Some(record_at) = record_at.filter(|_| record_length <= TABLE_MAX) else {
            return Err(damaged("its table is out of bounds".to_owned()));
        };
        let mut record = vec![0; record_length as usize];
        read(&mut record, record_at)?;
        let table = decode_table(&record, record_at).map_err(damaged)?;
        let mut files = vec![file];
        for other in &table.others {
            let other_name = blob_name(other);
            if other == digest {
                return Err(self.absent(ObjectKind::Blob, &other_name));
            }
            files.push(self.open_object(ObjectKind::Blob, &other_name)?);
        }
        Ok(Pieces { table, files })
    }

    /// Other blobs that hold pieces of a blob: they must be kept with it. Absent or damaged: a miss.
    pub(crate) fn blob_references(&self, digest: &BlobDigest) -> Result<Vec<BlobDigest>> {
        let name = blob_name(digest);
        let file = self.open_object(ObjectKind::Blob, &name)?;
        let length = file
            .metadata()
            .map_err(|source| self.fs().io_error("stat", &name, source))?
            .len();
        let mut magic = [0; MAGIC_LEN];
        if file.read_exact_at(&mut magic, 0).is_err() || magic != *CHUNKED {
            return Ok(Vec::new());
        }
        Ok(self.open_pieces(digest, &name, file, length)?.table.others)
    }

    /// Checks every byte of a blob's file, those that reading does not need too. Damaged: a miss.
    pub(crate) fn check_blob(&self, digest: &BlobDigest) -> Result<()> {
        let reader = self.open_blob(digest)?;
        let BlobContent::Chunked { pieces, .. } = &reader.content else {
            return Ok(());
        };
        let name = blob_name(digest);
        let read_error = |source| self.fs().io_error("read", &name, source);
        let file = &pieces.files[0];
        let length = file.metadata().map_err(read_error)?.len();
        let mut check = [0; DIGEST_LEN];
        let end = length.saturating_sub(DIGEST_LEN as u64);
        file.read_exact_at(&mut check, end).map_err(read_error)?;
        let mut hasher = Hasher::new(domain::STATE);
        crate::hash_file::hash_range(file, 0..end, &mut hasher).map_err(read_error)?;
        if hasher.finish().as_bytes() != &check {
            return Err(self.damaged(ObjectKind::Blob, &name, "its checksum does not match"));
        }
        Ok(())
    }

    /// The SHA-256 of a blob: as recorded beside it, or computed and recorded now.
    pub fn blob_sha256(&self, digest: &BlobDigest) -> Result<Sha256> {
        let name = format!("{}.sha256", blob_name(digest));
        match self.recorded_sha256(digest, &name) {
            Ok(sha256) => return Ok(sha256),
            Err(error) => drop(error.into_miss()?),
        }
        let mut reader = self.open_blob(digest)?;
        let mut sha256 = Sha256Writer::default();
        io::copy(&mut reader, &mut sha256)
            .map_err(|source| self.fs().io_error("read", &name, source))?;
        let sha256 = sha256.finish();
        let blob = BlobRef {
            digest: *digest,
            size: reader.size(),
        };
        let record = frame(SHA256, &encode(&Sha256Record { blob, sha256 }));
        self.put_record(&name, &record, || {
            self.recorded_sha256(digest, &name).map(|_| ())
        })?;
        Ok(sha256)
    }

    fn recorded_sha256(&self, digest: &BlobDigest, name: &str) -> Result<Sha256> {
        let bytes = self.read_object(ObjectKind::BlobNote, name, SHA256_LIMIT)?;
        match decode_sha256(&bytes) {
            Ok((blob, sha256)) if blob.digest == *digest => Ok(sha256),
            Ok(_) => Err(self.damaged(ObjectKind::BlobNote, name, "it is for another blob")),
            Err(reason) => Err(self.damaged(ObjectKind::BlobNote, name, reason)),
        }
    }
}

/// Decodes the SHA-256 beside a blob.
pub(crate) fn decode_sha256(bytes: &[u8]) -> Result<(BlobRef, Sha256), String> {
    let record: Sha256Record = unframe(SHA256, bytes)
        .and_then(decode)
        .map_err(|error| error.to_string())?;
    Ok((record.blob, record.sha256))
}

enum BadPiece {
    Read(io::Error),
    Damaged(usize),
}

impl Pieces {
    fn read(&self, piece: &Piece) -> Result<Vec<u8>, BadPiece> {
        let place = piece.file as usize;
        let mut bytes = vec![0; piece.length as usize];
        match self.files[place].read_exact_at(&mut bytes, piece.offset) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(BadPiece::Damaged(place));
            }
            Err(error) => return Err(BadPiece::Read(error)),
        }
        unpack(piece.length < piece.size, bytes, piece.size as usize)
            .filter(|content| BlobDigest::of(content) == piece.digest)
            .ok_or(BadPiece::Damaged(place))
    }

    /// The digest of the whole content, every piece of which is checked on the way.
    fn digest(&self) -> Result<BlobDigest, BadPiece> {
        let mut hasher = BlobDigest::hasher();
        for batch in self.table.pieces.chunks(128) {
            let batch: Vec<_> = batch
                .par_iter()
                .map(|piece| self.read(piece))
                .collect::<Result<_, _>>()?;
            batch.iter().for_each(|bytes| hash(&mut hasher, bytes));
        }
        Ok(BlobDigest(hasher.finish()))
    }
}

impl BlobReader {
    /// The content's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn into_bytes(mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.size as usize);
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.content {
            BlobContent::Plain(bytes) => bytes.read(buffer),
            BlobContent::Chunked {
                pieces,
                next,
                ready,
            } => loop {
                let count = ready.read(buffer)?;
                if count > 0 || buffer.is_empty() {
                    return Ok(count);
                }
                let Some(piece) = pieces.table.pieces.get(*next) else {
                    return Ok(0);
                };
                // Every piece was verified when the blob was opened, and is again: the file may have changed since.
                let bytes = pieces.read(piece).map_err(|bad| match bad {
                    BadPiece::Read(error) => error,
                    BadPiece::Damaged(_) => {
                        io::Error::other("the blob was changed while it was read")
                    }
                })?;
                *ready = io::Cursor::new(bytes);
                *next += 1;
            },
        }
    }
}
