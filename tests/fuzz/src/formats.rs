//! Bytes as an image of another machine's program: the gate, then every chunk as far as patience goes.
//!
//! Such files are mostly holes. So the bytes are: which format (one byte), the file's length (four), and pieces of it, each
//! with its place (four), its length (two) and its bytes; numbers in little endian.

use std::fs::File;
use std::os::unix::fs::FileExt;

use impasto_store::formats::ImageFormat;
use impasto_store::qcow2::{CHUNK, Content};

/// Formats by the first byte.
const FORMATS: [ImageFormat; 4] = [
    ImageFormat::Vmdk,
    ImageFormat::Vhd,
    ImageFormat::Vhdx,
    ImageFormat::Vdi,
];
/// The longest file: tables of a few GiB of disk.
const LONGEST: u64 = 64 << 20;
/// Chunks that are read of one image.
const PATIENCE: usize = 64;

/// Must never panic, whatever the bytes are.
pub fn run(data: &[u8]) {
    let Some((format, data)) = data.split_first() else {
        return;
    };
    let format = FORMATS[usize::from(*format) % FORMATS.len()];
    let Some(file) = file(data) else { return };
    let Ok(image) = format.open(file) else { return };
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
            assert!(buffer.iter().all(|&byte| byte == 0), "chunk {index}");
        }
        from = index + 1;
    }
    let last = image.chunks() - 1;
    let length = image.virtual_size() - last * CHUNK as u64;
    if image.read_chunk(last, &mut buffer).is_ok() {
        let behind = &buffer[length as usize..];
        assert!(behind.iter().all(|&byte| byte == 0), "behind the end");
    }
    assert!(
        image.read_chunk(last + 1, &mut buffer).is_err(),
        "a chunk beyond the end"
    );
}

/// A file of its length and its pieces: as many as there are.
fn file(data: &[u8]) -> Option<File> {
    let (length, mut rest) = data.split_first_chunk()?;
    let length = u64::from(u32::from_le_bytes(*length)).min(LONGEST);
    let memory =
        rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC).expect("a memory file");
    let file = File::from(memory);
    file.set_len(length)
        .expect("a memory file can be of any length");
    while let Some((at, after)) = rest.split_first_chunk() {
        let Some((count, after)) = after.split_first_chunk() else {
            break;
        };
        let count = usize::from(u16::from_le_bytes(*count)).min(after.len());
        let (piece, after) = after.split_at(count);
        let at = u64::from(u32::from_le_bytes(*at)).min(length);
        let piece = &piece[..piece.len().min((length - at) as usize)];
        file.write_all_at(piece, at)
            .expect("a memory file can be written");
        rest = after;
    }
    Some(file)
}
