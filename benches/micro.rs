//! What one chunk, one file's entry and one stage cost: `cargo bench --bench micro`.
//! Throughput in bytes of guest disk, of one thread.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use impasto_store::digest::{BlobDigest, Digest, Hasher, domain};
use impasto_store::disk::{CHUNK, DiskTree, chunk_digest};
use impasto_store::inputs::{InputFile, TreeEntry, TreeNode, tree_digest};
use impasto_store::qcow2::{ENCODER, Encoded, decode_frame, encode_chunk, is_zero};

fn main() {
    divan::main();
}

/// A chunk that compresses to a half, as programs do.
fn chunk() -> Box<[u8; CHUNK]> {
    let mut data = Box::new([0; CHUNK]);
    let mut noise = 0x696d_7061_7374_6f31_u64;
    for (at, byte) in data.iter_mut().enumerate() {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        *byte = if at % 64 < 32 {
            noise as u8
        } else {
            (at / 64) as u8
        };
    }
    data
}

#[divan::bench]
fn zero_chunk_is_found(bencher: Bencher<'_, '_>) {
    let data = Box::new([0; CHUNK]);
    bencher
        .counter(BytesCount::new(CHUNK))
        .bench(|| is_zero(black_box(&data[..])));
}

#[divan::bench]
fn chunk_is_hashed(bencher: Bencher<'_, '_>) {
    let data = chunk();
    bencher
        .counter(BytesCount::new(CHUNK))
        .bench(|| chunk_digest(black_box(&data)));
}

#[divan::bench]
fn chunk_is_compressed(bencher: Bencher<'_, '_>) {
    let data = chunk();
    bencher
        .counter(BytesCount::new(CHUNK))
        .bench(|| encode_chunk(black_box(&data), ENCODER.level));
}

#[divan::bench]
fn frame_is_decoded(bencher: Bencher<'_, '_>) {
    let Encoded::Frame(frame) = encode_chunk(&chunk(), ENCODER.level) else {
        panic!("BUG: it compresses")
    };
    let mut out = chunk();
    bencher
        .counter(BytesCount::new(CHUNK))
        .bench_local(|| decode_frame(black_box(&frame), &mut out).is_ok());
}

#[divan::bench]
fn disk_of_10_000_chunks_changes_in_100(bencher: Bencher<'_, '_>) {
    let digest = |at: u64| {
        Hasher::new(domain::CHUNK)
            .update(&at.to_le_bytes())
            .finish()
    };
    let tree = DiskTree::new(1 << 32, (0..10_000).map(|at| (at, digest(at))).collect());
    let changes: Vec<(u64, Digest)> = (0..100).map(|at| (at * 97, digest(at))).collect();
    bencher.bench(|| black_box(&tree).with(1 << 32, black_box(&changes)).digest());
}

#[divan::bench]
fn tree_of_20_000_entries_is_hashed(bencher: Bencher<'_, '_>) {
    let file = |at: u32| InputFile {
        blob: impasto_store::blob::BlobRef {
            digest: BlobDigest::of(&at.to_le_bytes()),
            size: 4,
        },
        mode: 0o644,
        modified: 0,
    };
    let entry = |at: u32| TreeEntry {
        path: format!("d{:03}/file-{at}.bin", at / 100),
        node: TreeNode::File(file(at)),
        modified: 0,
    };
    let entries: Vec<_> = (0..20_000).map(entry).collect();
    bencher
        .counter(ItemsCount::new(entries.len()))
        .bench(|| tree_digest(black_box(&entries)));
}
