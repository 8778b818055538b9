//! Bytes that a build drew at random: keys, and what has no form at all.
//! Knows contents, no paths but that they may say "seed".

use super::{CauseKind, CauseMatch, CauseScope};

/// Lengths of contents that are told to be random by their bytes alone.
const SHORTEST: usize = 16;
const LONGEST: usize = 64 << 10;
/// First bytes of compressed and other dense formats, whose bytes look random as well.
const DENSE: &[&[u8]] = &[
    b"\x1f\x8b",
    b"\x28\xb5\x2f\xfd",
    b"\xfd7zXZ\0",
    b"BZh",
    b"PK",
    b"\x04\x22\x4d\x18",
    b"\x02\x21\x4c\x18",
    b"\x89PNG",
    b"\x7fELF",
    b"\xff\xd8",
];

/// Finds a private key or a certificate that was made again.
pub(super) fn key(_: &CauseScope<'_>, before: &[u8], after: &[u8]) -> Option<CauseMatch> {
    let both = |begin: &[u8], end: &[u8]| {
        [before, after].iter().all(|text| {
            let line = text
                .trim_ascii_start()
                .split(|byte| *byte == b'\n')
                .next()
                .unwrap_or_default()
                .trim_ascii_end();
            line.starts_with(begin) && line.ends_with(end)
        })
    };
    if both(b"-----BEGIN ", b"PRIVATE KEY-----") {
        return Some(CauseMatch::new(
            CauseKind::GeneratedKey,
            "is a private key that the build created",
        ));
    }
    let public = |kind: &str| {
        [before, after]
            .iter()
            .all(|text| text.starts_with(kind.as_bytes()))
    };
    let certificate = ["ssh-", "ecdsa-sha2-"].into_iter().any(public)
        || both(b"-----BEGIN ", b"CERTIFICATE-----")
        || both(b"-----BEGIN ", b"PUBLIC KEY-----");
    certificate.then(|| {
        CauseMatch::new(
            CauseKind::GeneratedKey,
            "is a certificate or public key that the build created",
        )
    })
}

/// Finds contents of one length of which neither has any form.
pub(super) fn find(_: &CauseScope<'_>, before: &[u8], after: &[u8]) -> Option<CauseMatch> {
    let length = before.len();
    if length != after.len() || !(SHORTEST..=LONGEST).contains(&length) {
        return None;
    }
    let equal = before
        .iter()
        .zip(after)
        .filter(|(before, after)| before == after)
        .count();
    // Random bytes agree in one place of 256.
    if equal <= 2 + length / 64 && is_formless(before) && is_formless(after) {
        return Some(CauseMatch::new(CauseKind::RandomSeed, "is random bytes"));
    }
    // Those of base 64 in one of 64; ends of lines and padding are the same.
    let written = equal <= 4 + length / 16 && is_base64(before) && is_base64(after);
    written.then(|| CauseMatch::new(CauseKind::RandomSeed, "is random bytes, in base 64"))
}

fn is_base64(content: &[u8]) -> bool {
    let has = |class: fn(&u8) -> bool| content.iter().any(class);
    let mixed =
        has(u8::is_ascii_digit) && has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase);
    mixed
        && content.len() >= 20
        && content
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+/=-_\n".contains(byte))
}

/// Whether bytes may be random: as many values as random ones have, and no known beginning.
fn is_formless(content: &[u8]) -> bool {
    if DENSE.iter().any(|begin| content.starts_with(begin)) {
        return false;
    }
    let mut counts = [0_usize; 256];
    content
        .iter()
        .for_each(|byte| counts[usize::from(*byte)] += 1);
    let values = counts.iter().filter(|count| **count > 0).count();
    let expected = 256.0 * (1.0 - (255.0_f64 / 256.0).powf(content.len() as f64));
    let high = content.iter().filter(|byte| **byte >= 0x80).count();
    let most = counts.iter().copied().max().unwrap_or_default();
    values as f64 >= 0.85 * expected && high * 4 > content.len() && most <= 4 + content.len() / 32
}
