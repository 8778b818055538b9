//! Every GUID and UUID of a disk, derived from its seed.
//! Knows names of things, not what is done with their identifiers.

/// The domain of the derivation. Changing it changes every disk's identifiers: a format break.
const CONTEXT: &str = "impasto 2026-11 disk identifiers";

/// An identifier in the order of its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Uuid(pub(super) [u8; 16]);

impl Uuid {
    /// Reads the text form; for constants, whose form is known.
    pub(super) fn parse(text: &str) -> Uuid {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        Uuid(
            u128::from_str_radix(&digits, 16)
                .expect("BUG: a constant that is no UUID")
                .to_be_bytes(),
        )
    }

    /// As a GUID of a partition table: the first three fields little-endian (UEFI specification, appendix A).
    pub(super) fn guid_bytes(self) -> [u8; 16] {
        let mut bytes = self.0;
        bytes[..4].reverse();
        bytes[4..6].reverse();
        bytes[6..8].reverse();
        bytes
    }
}

impl std::fmt::Display for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// Derives identifiers from one seed.
pub(super) struct Ids<'a> {
    pub(super) seed: &'a str,
}

impl Ids<'_> {
    fn derive(&self, what: &str) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        // The length keeps the seed apart from the name.
        hasher.update(&(self.seed.len() as u64).to_le_bytes());
        hasher.update(self.seed.as_bytes());
        hasher.update(what.as_bytes());
        let hash = hasher.finalize();
        *hash
            .as_bytes()
            .first_chunk()
            .expect("BUG: a hash of 32 bytes has 16")
    }

    /// The UUID of `what`: random-looking, marked as version 4 (RFC 9562, 5.4).
    pub(super) fn uuid(&self, what: &str) -> Uuid {
        let mut bytes = self.derive(what);
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Uuid(bytes)
    }

    /// The serial number of a FAT volume.
    pub(super) fn volume(&self, what: &str) -> u32 {
        let [a, b, c, d, ..] = self.derive(what);
        u32::from_le_bytes([a, b, c, d])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_pinned() {
        // Changing these changes every disk that was ever made of a seed.
        let ids = Ids { seed: "seed" };
        assert_eq!(
            ids.uuid("disk").to_string(),
            "ddaadc4c-e448-43e9-9462-cb6bb86d3c45"
        );
        assert_ne!(ids.uuid("disk"), ids.uuid("root"));
        assert_ne!(ids.uuid("disk"), Ids { seed: "other" }.uuid("disk"));
    }

    #[test]
    fn guids_have_their_first_fields_turned() {
        let uuid = Uuid::parse("c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
        assert_eq!(uuid.to_string(), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
        assert_eq!(
            uuid.guid_bytes()[..8],
            [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11]
        );
    }
}
