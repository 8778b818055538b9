//! Bytes as a layer file's frame: decoded, and where that works encoded again.

use impasto_store::qcow2::{CHUNK, ENCODER, Encoded, decode_frame, encode_chunk};

/// Must never panic, whatever the bytes are.
pub fn run(data: &[u8]) {
    let mut chunk = [0; CHUNK];
    if decode_frame(data, &mut chunk).is_err() {
        return;
    }
    if let Encoded::Frame(frame) = encode_chunk(&chunk, ENCODER.level) {
        let mut again = [1; CHUNK];
        decode_frame(&frame, &mut again).expect("our own frame");
        assert!(again == chunk, "encoding changed the chunk");
    }
}
