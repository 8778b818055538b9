//! Bytes as an object of the store: the first says which kind, the others are its body.

use impasto_store::blob::{check_table, decode_plain};
use impasto_store::claim::decode_claim;
use impasto_store::derived::decode_derived;
use impasto_store::digest::{ActionDigest, ClaimId, Hasher, domain};
use impasto_store::index::decode_index;
use impasto_store::layer::ManifestBody;

/// Must never panic, whatever the bytes are.
pub fn run(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else {
        return;
    };
    match kind {
        0 => {
            if let Ok(manifest) = ManifestBody::decode(body) {
                assert!(
                    manifest.encode().0 == body,
                    "a second encoding of a manifest"
                );
            }
        }
        1 => {
            let id = ClaimId::of(body);
            let _ = decode_claim(
                &record(b"impaCLM1", &claim_file(body, &id)),
                &ActionDigest::of(b""),
                &id,
            );
        }
        2 => drop(decode_plain(&record(b"impaBLP1", body))),
        3 => drop(check_table(&record(b"impaBLT1", body), 1 << 20)),
        4 => drop(decode_derived(&record(b"impaDRV1", body))),
        5 => drop(decode_index(body)),
        // Without a frame of our making: the frame itself.
        _ => {
            let _ = decode_derived(body);
            let _ = decode_claim(body, &ActionDigest::of(b""), &ClaimId::of(b""));
        }
    }
}

/// FORMAT.md, "Records".
fn record(magic: &[u8; 8], body: &[u8]) -> Vec<u8> {
    let mut bytes = [&magic[..], &(body.len() as u64).to_le_bytes(), body].concat();
    let checksum = Hasher::new(domain::STATE).update(&bytes).finish();
    bytes.extend_from_slice(checksum.as_bytes());
    bytes
}

/// MessagePack: an array of the body as bin 8, 16 or 32, its id, and no signature.
fn claim_file(body: &[u8], id: &ClaimId) -> Vec<u8> {
    let length = body.len() as u32;
    let head = match length {
        0..0x100 => vec![0xc4, length as u8],
        0x100..0x1_0000 => [&[0xc5][..], &(length as u16).to_be_bytes()].concat(),
        _ => [&[0xc6][..], &length.to_be_bytes()].concat(),
    };
    [
        &[0x93][..],
        &head,
        body,
        &[0xc4, 32],
        id.0.as_bytes(),
        &[0x90],
    ]
    .concat()
}
