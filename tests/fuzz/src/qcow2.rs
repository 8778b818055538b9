//! Bytes as a qcow2 file: the gate, then every chunk as far as patience goes.

use std::fs::File;
use std::os::unix::fs::FileExt;

use impasto_store::qcow2::{CHUNK, ChunkSource, Content, Qcow2};

/// Chunks that are read of one image; a table of a few bytes can name millions.
const PATIENCE: usize = 64;

/// Must never panic, whatever the bytes are.
pub fn run(data: &[u8]) {
    let memory =
        rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC).expect("a memory file");
    let file = File::from(memory);
    file.write_all_at(data, 0)
        .expect("a memory file can be written");
    let Ok(image) = Qcow2::open(file) else { return };
    let mut buffer = [0; CHUNK];
    let mut from = 0;
    for _ in 0..PATIENCE {
        let Ok(Some(index)) = image.next_present(from) else {
            break;
        };
        assert!(
            index >= from && index < image.chunks(),
            "chunk {index} of {}, asked from {from}",
            image.chunks()
        );
        if let Ok(Content::Zero) = image.read_chunk(index, &mut buffer) {
            assert!(
                buffer.iter().all(|&byte| byte == 0),
                "chunk {index} is not zero"
            );
        }
        from = index + 1;
    }
    if let Some(last) = image.chunks().checked_sub(1) {
        let _ = image.read_chunk(last, &mut buffer);
        assert!(
            image.read_chunk(last + 1, &mut buffer).is_err(),
            "a chunk beyond the end"
        );
    }
}
