//! Bytes as a signed Release, as its signatures, and as the keys that should have made them.

use impasto::debian::archive::{Cleartext, Keyring, Release};
use impasto::debian::distribution::DEBIAN_KEYS;

/// Seconds since 1970, in 2027: the seeds are not of the future.
const NOW: u64 = 1_800_000_000;

/// Must never panic, and nothing that is made up may be believed.
pub fn run(data: &[u8]) {
    let debian = Keyring::parse(DEBIAN_KEYS, "here").expect("Debian's keys can be read");
    if let Ok(verified) = debian.verify_cleartext(data, NOW) {
        assert!(
            verified.text.starts_with("Origin: Debian\n"),
            "a text that Debian has not signed"
        );
    }
    assert!(
        debian
            .verify_detached(b"Origin: Nobody\n", data, NOW)
            .is_err()
    );
    if let Ok(parts) = Cleartext::parse(data) {
        assert!(parts.text.len() <= data.len() + 1 && !parts.text.contains('\r'));
        let _ = Release::parse(&parts.text, "bookworm", false, NOW);
        let _ = debian.verify_detached(parts.text.as_bytes(), parts.armor.as_bytes(), NOW);
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(release) = Release::parse(text, "bookworm", true, NOW)
    {
        assert!(
            release
                .files
                .keys()
                .all(|path| !path.split('/').any(|part| part == ".."))
        );
    }
    if let Ok(keyring) = Keyring::parse(data, "here") {
        let _ = keyring.verify_cleartext(SIGNED, NOW);
    }
}

/// A text that the seeds' key has signed.
const SIGNED: &[u8] = include_bytes!("../seeds/archive/in-release");
