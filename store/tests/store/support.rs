//! Disks in memory, stores with one of everything, and edits of files.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use impasto_store::Store;
use impasto_store::blob::BlobRef;
use impasto_store::claim::{Claim, Cost, FileContent, Isolation, OutputFile, Outputs};
use impasto_store::digest::ActionDigest;
use impasto_store::layer::{DiskRef, LayerRef};
use impasto_store::qcow2::{CHUNK, ChunkSource, Content, SourceError};

/// What a source says about a chunk: its content, or that it is zero.
pub(crate) type Chunks = BTreeMap<u64, Option<Vec<u8>>>;

/// A disk, or an overlay, in memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemorySource {
    pub(crate) chunks: Chunks,
    pub(crate) size: u64,
}

impl MemorySource {
    /// A source of so many chunks' size that says the given about some of them.
    pub(crate) fn new(
        count: u64,
        chunks: impl IntoIterator<Item = (u64, Option<Vec<u8>>)>,
    ) -> MemorySource {
        MemorySource {
            chunks: chunks.into_iter().collect(),
            size: count * CHUNK as u64,
        }
    }
}

impl ChunkSource for MemorySource {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn next_present(&self, from: u64) -> Result<Option<u64>, SourceError> {
        Ok(self.chunks.range(from..).next().map(|(index, _)| *index))
    }

    fn read_chunk(&self, index: u64, buffer: &mut [u8; CHUNK]) -> Result<Content, SourceError> {
        match self.chunks.get(&index) {
            Some(Some(data)) => {
                buffer.copy_from_slice(data);
                Ok(Content::Data)
            }
            _ => {
                buffer.fill(0);
                Ok(Content::Zero)
            }
        }
    }
}

/// A chunk to be read into.
pub(crate) fn buffer() -> Box<[u8; CHUNK]> {
    vec![0; CHUNK].into_boxed_slice().try_into().unwrap()
}

/// Bytes that no compressor makes smaller, different for every seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// A chunk that compresses to about 300 bytes.
pub(crate) fn text(seed: u64) -> Vec<u8> {
    noise(seed, 256).repeat(CHUNK / 256)
}

/// A chunk that is stored raw.
pub(crate) fn raw(seed: u64) -> Vec<u8> {
    noise(seed, CHUNK)
}

pub(crate) fn action(seed: u64) -> ActionDigest {
    ActionDigest::of(&seed.to_le_bytes())
}

/// A claim about an Action, with these results.
pub(crate) fn claim(seed: u64, disk: Option<DiskRef>, files: &[(&str, BlobRef)]) -> Claim {
    let file = |(name, blob): &(&str, BlobRef)| {
        (
            (*name).to_owned(),
            OutputFile {
                content: FileContent::Blob(*blob),
                mode: 0o644,
            },
        )
    };
    Claim {
        action: action(seed),
        kind: "run".to_owned(),
        stage: "tools".to_owned(),
        node: "tools[variant=minimal]".to_owned(),
        recipe: "debian-12".to_owned(),
        result: Outputs {
            disk,
            tree: None,
            files: files.iter().map(file).collect(),
        },
        caveats: Default::default(),
        sandbox: "namespace".to_owned(),
        isolation: Isolation::Namespace,
        facts: [("kernel".to_owned(), "6.18".to_owned())].into(),
        writer: String::new(),
        created: 1_700_000_000,
        engine_epoch: 1,
        cost: Cost {
            wall_ms: 10,
            cpu_ms: 5,
            stored_bytes: 1,
        },
        log: None,
        fields: Vec::new(),
        root: None,
        extra: Default::default(),
    }
}

/// A store with at least one file of every kind, and what it holds.
pub(crate) struct Full {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) base: LayerRef,
    pub(crate) top: LayerRef,
    pub(crate) tree: BlobRef,
    pub(crate) small: BlobRef,
    pub(crate) large: BlobRef,
    pub(crate) sharing: BlobRef,
    pub(crate) claim: Claim,
}

/// The content of [`Full::tree`].
pub(crate) const TREE: &[u8] = b"the files of a disk";

/// The content of [`Full::small`].
pub(crate) const SMALL: &[u8] = b"a small file, a small file, a small file";

/// The content of [`Full::large`].
pub(crate) fn large() -> Vec<u8> {
    let mut bytes = noise(5, 1 << 20);
    bytes.extend(b"compressible ".repeat(260_000));
    bytes
}

/// The content of [`Full::sharing`]: as `large`, but for its beginning.
pub(crate) fn sharing() -> Vec<u8> {
    let mut bytes = b"another beginning".to_vec();
    bytes.extend(large());
    bytes
}

/// The content of [`Full::top`]'s chunks; the others are zero.
pub(crate) fn top_chunks() -> Vec<(u64, Vec<u8>)> {
    vec![(0, text(9)), (1, raw(2)), (5, raw(3)), (9, text(6))]
}

impl Full {
    pub(crate) fn new() -> Full {
        Full::fill(tempfile::tempdir().unwrap())
    }

    /// Puts everything into a directory that may hold some of it already.
    pub(crate) fn fill(dir: tempfile::TempDir) -> Full {
        let store = Store::open(dir.path()).unwrap();
        let base = MemorySource::new(
            10,
            [
                (0, Some(text(1))),
                (1, Some(raw(2))),
                (3, Some(text(4))),
                (9, Some(text(6))),
            ],
        );
        let overlay = MemorySource::new(
            10,
            [(0, Some(text(9))), (3, None), (4, None), (5, Some(raw(3)))],
        );
        let absent = impasto_store::seal::Absent::AsParent;
        let base = store.seal(None, &base, absent).unwrap().disk.layer;
        let sealed = store.seal(Some(&base), &overlay, absent).unwrap();
        let small = store.put_blob(SMALL).unwrap();
        let large = store.put_blob_like(&large()[..], None).unwrap();
        let sharing = store
            .put_blob_like(&sharing()[..], Some(&large.digest))
            .unwrap();
        store.blob_sha256(&small.digest).unwrap();
        let tree = store.put_blob(TREE).unwrap();
        let mut claim = claim(
            1,
            Some(sealed.disk),
            &[("small", small), ("large", large), ("sharing", sharing)],
        );
        claim.result.tree = Some(tree);
        store.put_claim(&claim).unwrap();
        store.state_write(&["recipe", "durations"], b"12").unwrap();
        store
            .put_root("kept", &[impasto_store::refs::Root::Layer(base)])
            .unwrap();
        store.flush().unwrap();
        Full {
            dir,
            store,
            base,
            top: sealed.disk.layer,
            tree,
            small,
            large,
            sharing,
            claim,
        }
    }

    /// The same directory, opened as by another process.
    pub(crate) fn reopen(&self) -> Store {
        Store::open(self.dir.path()).unwrap()
    }

    /// All files but those of `tmp/`, `trash/` and leases, sorted.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        files(self.dir.path())
    }
}

/// All files below a store but those of `tmp/`, `trash/` and leases, sorted.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut stack = vec![dir.to_owned()];
    while let Some(path) = stack.pop() {
        for entry in std::fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name();
            if entry.file_type().unwrap().is_dir() {
                if path != dir
                    || !["tmp", "trash", "leases"]
                        .iter()
                        .any(|debris| name == *debris)
                {
                    stack.push(entry.path());
                }
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    files
}

/// Writes a file that is published read-only.
pub(crate) fn overwrite(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// What a disk reads as, chunk by chunk; zero chunks are left out.
pub(crate) fn read_disk(
    store: &Store,
    layer: &LayerRef,
) -> impasto_store::Result<Vec<(u64, Vec<u8>)>> {
    let disk = store.disk_reader(layer)?;
    let mut chunks = Vec::new();
    let mut buffer = buffer();
    for index in 0..disk.chunks() {
        disk.read(index, &mut buffer)?;
        if buffer.iter().any(|byte| *byte != 0) {
            chunks.push((index, buffer.to_vec()));
        }
    }
    Ok(chunks)
}

pub(crate) fn read_blob(store: &Store, blob: &BlobRef) -> impasto_store::Result<Vec<u8>> {
    let reader = store.open_blob(&blob.digest)?;
    Ok(reader.into_bytes().unwrap())
}

/// A new file open for reading and writing.
pub(crate) fn new_file(path: &Path) -> File {
    File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .unwrap()
}

/// The content of the large file in the frozen store: stored in pieces, and small when packed.
pub(crate) fn frozen_large() -> Vec<u8> {
    (0..1_200_000u32)
        .flat_map(|number| format!("{}\n", number / 1000).into_bytes())
        .collect()
}

/// Unpacks the files of a store: for each, lengths as u64 and then path and content; all compressed.
pub(crate) fn unpack_fixture(packed: &[u8], dir: &Path) {
    let packed = zstd::decode_all(packed).unwrap();
    let mut rest = &packed[..];
    let take = |rest: &mut &[u8], length: usize| {
        let (bytes, after) = rest.split_at(length);
        *rest = after;
        bytes.to_vec()
    };
    while !rest.is_empty() {
        let mut length = || u64::from_le_bytes(take(&mut rest, 8).try_into().unwrap()) as usize;
        let (name_length, content_length) = (length(), length());
        let path = dir.join(String::from_utf8(take(&mut rest, name_length)).unwrap());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, take(&mut rest, content_length)).unwrap();
    }
}
