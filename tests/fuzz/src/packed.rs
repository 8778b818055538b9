//! Bytes as a compressed disk image, and as what comes out of one: an archive with a disk in it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use impasto::base::cancel::CancelToken;
use impasto::disk::image::{ImageKind, recognize};
use impasto::disk::packed::{ImagePacking, ImageUnpacker};

/// Bytes that may come out; a few may well unpack to very many.
const LIMIT: u64 = 4 << 20;

fn memory() -> File {
    let memory = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC);
    File::from(memory.expect("a memory file"))
}

/// Must never panic, and never give more than is allowed.
pub fn run(data: &[u8]) {
    let file = memory();
    file.write_all_at(data, 0)
        .expect("a memory file can be written");
    if let Ok(ImageKind::Other(format)) = recognize(&file)
        && let Some(packing) = format.packing()
    {
        unpack(data, packing);
    }
    let frame = zstd::encode_all(data, 1).expect("memory can be compressed");
    unpack(&frame, ImagePacking::Zstd);
}

fn unpack(data: &[u8], packing: ImagePacking) {
    let unpacker = ImageUnpacker {
        dir: Path::new("/nonexistent"),
        limit: LIMIT,
        cancel: &CancelToken::new(),
        meter: None,
    };
    let out = memory();
    if unpacker.unpack_into(data, packing, &out).is_ok() {
        let length = out.metadata().expect("a memory file has a size").len();
        assert!(length <= LIMIT, "{length} bytes");
        let _ = recognize(&out);
    }
}
