//! Verifies OpenPGP signatures of texts against a keyring: mathematics by a library, validity of keys here.
//! Knows keys and signatures, not what the texts are for.
//!
//! A key of a certificate may sign where its newest self-signature (for a subkey: its binding) says so, and where neither
//! it nor the certificate is expired or revoked. Self-signatures over weak digests give nothing, but still take away.

use std::fmt::Write as _;
use std::io::Cursor;

use pgp::armor::{BlockType, Dearmor};
use pgp::composed::{Deserializable, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::crypto::public_key::PublicKeyAlgorithm;
use pgp::packet::{
    Packet, PacketParser, Signature, SignatureType, SignatureVersion, SubpacketData,
};
use pgp::ser::Serialize;
use pgp::types::{KeyDetails, Tag};

use super::cleartext::Cleartext;
use crate::base::time::date;

/// How far the clock of whoever signed may be ahead of ours, in seconds.
const SKEW: u64 = 24 * 3600;

/// Signatures that are looked at, at most: each costs a calculation.
const MAX_SIGNATURES: usize = 32;

/// A text that is not what a known and valid key has signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No signature at all.
    #[error("it is not signed")]
    Unsigned,
    /// Something that no signature covers.
    #[error("it has text outside its signed part")]
    TextOutside,
    /// Signatures by others only.
    #[error("it is not signed with a known key: the signatures are by {}, the known keys are {place}", keys.join(", "))]
    UnknownKey {
        /// Ids or fingerprints of the keys that signed.
        keys: Vec<String>,
        /// Where the known keys are.
        place: String,
    },
    /// Another text, or another signature.
    #[error("its signature by {key} does not match: either the text or the signature was changed")]
    Bad {
        /// Fingerprint of the key.
        key: String,
    },
    /// The key is too old.
    #[error("it is signed with the key {key}, which expired on {}", date(*expired))]
    ExpiredKey {
        /// Fingerprint of the key.
        key: String,
        /// When, in seconds since 1970.
        expired: u64,
    },
    /// The key was given up.
    #[error("it is signed with the key {key}, which was revoked")]
    RevokedKey {
        /// Fingerprint of the key.
        key: String,
    },
    /// The key may not sign.
    #[error("it is signed with the key {key}, which {why}")]
    UnfitKey {
        /// Fingerprint of the key.
        key: String,
        why: &'static str,
    },
    /// A digest for which texts can be forged.
    #[error("its signature by {key} uses the weak digest {digest}")]
    WeakDigest {
        /// Fingerprint of the key.
        key: String,
        /// Name of the digest.
        digest: String,
    },
    /// The signature is too old, or from the future.
    #[error("its signature by {key} is not valid now: {why} {}", date(*at))]
    SignatureTime {
        /// Fingerprint of the key.
        key: String,
        why: &'static str,
        /// The limit, in seconds since 1970.
        at: u64,
    },
    /// Broken bytes.
    #[error("its signature is malformed: {what}")]
    Malformed { what: &'static str },
    /// Keys that cannot be read.
    #[error("the keys of {place} cannot be read: {what}")]
    Keyring {
        /// Where the keys are.
        place: String,
        what: String,
    },
}

impl SignatureError {
    /// How near it came to a good signature: of several, the nearest is told.
    fn rank(&self) -> u8 {
        match self {
            SignatureError::Bad { .. } => 6,
            SignatureError::RevokedKey { .. } => 5,
            SignatureError::ExpiredKey { .. } => 4,
            SignatureError::WeakDigest { .. } => 3,
            SignatureError::UnfitKey { .. } | SignatureError::SignatureTime { .. } => 2,
            SignatureError::UnknownKey { .. } => 1,
            _ => 0,
        }
    }
}

/// A text that a known and valid key has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The text; every line ends by LF where it was clear-signed.
    pub text: String,
    /// Fingerprint of the certificate that signed, in upper-case hexadecimal.
    pub signer: String,
}

/// The certificates that are believed.
#[derive(Debug)]
pub struct Keyring {
    keys: Vec<SignedPublicKey>,
    place: String,
}

impl Keyring {
    /// Reads certificates, binary or armored, one after another. `place` is where they are, for messages.
    ///
    /// # Errors
    /// There are none, or they are broken.
    pub fn parse(bytes: &[u8], place: &str) -> Result<Keyring, SignatureError> {
        let fail = |what: String| SignatureError::Keyring {
            place: place.to_owned(),
            what,
        };
        let mut keys = Vec::new();
        let armored = bytes.first().is_some_and(|byte| byte & 0x80 == 0);
        let blocks = if armored {
            split_armor(bytes)
        } else {
            vec![bytes.to_vec()]
        };
        for block in blocks {
            let (found, _) = SignedPublicKey::from_reader_many_buf(Cursor::new(block))
                .map_err(|error| fail(error.to_string()))?;
            for key in found {
                keys.push(key.map_err(|error| fail(error.to_string()))?);
            }
        }
        if keys.is_empty() {
            Err(fail("no key".to_owned()))
        } else {
            Ok(Keyring {
                keys,
                place: place.to_owned(),
            })
        }
    }

    /// Verifies a clear-signed text at the time `now` (seconds since 1970).
    ///
    /// # Errors
    /// No valid key of the keyring has signed it.
    pub fn verify_cleartext(&self, bytes: &[u8], now: u64) -> Result<Verified, SignatureError> {
        let parts = Cleartext::parse(bytes)?;
        let signer = self.verify(&parts.hashed(), parts.armor.as_bytes(), now)?;
        Ok(Verified {
            text: parts.text,
            signer,
        })
    }

    /// Verifies a text against signatures beside it, armored or binary, at the time `now` (seconds since 1970).
    ///
    /// # Errors
    /// No valid key of the keyring has signed it.
    pub fn verify_detached(
        &self,
        text: &[u8],
        signatures: &[u8],
        now: u64,
    ) -> Result<Verified, SignatureError> {
        let malformed = |what| SignatureError::Malformed { what };
        let string =
            std::str::from_utf8(text).map_err(|_| malformed("a text that is not UTF-8"))?;
        if string.replace("\r\n", "\n").contains('\r') {
            return Err(malformed("a carriage return within a line"));
        }
        let signer = self.verify(text, signatures, now)?;
        Ok(Verified {
            text: string.to_owned(),
            signer,
        })
    }

    /// One good signature is enough: archives sign with the keys of several releases.
    fn verify(&self, hashed: &[u8], signatures: &[u8], now: u64) -> Result<String, SignatureError> {
        let signatures = parse_signatures(signatures)?;
        let mut worst: Option<SignatureError> = None;
        let mut unknown = Vec::new();
        for signature in &signatures {
            match self.verify_one(signature, hashed, now) {
                Ok(signer) => return Ok(signer),
                Err(SignatureError::UnknownKey { keys, .. }) => unknown.extend(keys),
                Err(error) => {
                    if worst
                        .as_ref()
                        .is_none_or(|worst| worst.rank() < error.rank())
                    {
                        worst = Some(error);
                    }
                }
            }
        }
        let stranger = SignatureError::UnknownKey {
            keys: unknown.clone(),
            place: self.place.clone(),
        };
        Err(worst
            .filter(|worst| unknown.is_empty() || worst.rank() > stranger.rank())
            .unwrap_or(stranger))
    }

    fn verify_one(
        &self,
        signature: &Signature,
        hashed: &[u8],
        now: u64,
    ) -> Result<String, SignatureError> {
        let signers = self.keys.iter().flat_map(|key| {
            let primary = is_by(signature, key).then_some(Signer {
                certificate: key,
                subkey: None,
            });
            let subkeys = key
                .public_subkeys
                .iter()
                .filter(|subkey| is_by(signature, *subkey));
            let subkeys = subkeys.map(move |subkey| Signer {
                certificate: key,
                subkey: Some(subkey),
            });
            primary.into_iter().chain(subkeys)
        });
        let mut result = Err(SignatureError::UnknownKey {
            keys: issuers(signature),
            place: self.place.clone(),
        });
        // Several keys only where a key appears twice: the best of them counts.
        for signer in signers {
            match signer.verify(signature, hashed, now) {
                Ok(()) => return Ok(hex(signer.certificate.fingerprint().as_bytes())),
                Err(error) => {
                    if result
                        .as_ref()
                        .is_err_and(|known: &SignatureError| known.rank() < error.rank())
                    {
                        result = Err(error);
                    }
                }
            }
        }
        result
    }
}

/// A key of a certificate, that made a signature.
struct Signer<'a> {
    certificate: &'a SignedPublicKey,
    subkey: Option<&'a SignedPublicSubKey>,
}

impl Signer<'_> {
    fn name(&self) -> String {
        match self.subkey {
            Some(subkey) => hex(subkey.fingerprint().as_bytes()),
            None => hex(self.certificate.fingerprint().as_bytes()),
        }
    }

    fn verify(&self, signature: &Signature, hashed: &[u8], now: u64) -> Result<(), SignatureError> {
        let malformed = |what| SignatureError::Malformed { what };
        let key = self.name();
        if !matches!(
            signature.version(),
            SignatureVersion::V4 | SignatureVersion::V6
        ) {
            return Err(malformed("a version of signatures that is not 4 or 6"));
        }
        if !matches!(
            signature.typ(),
            Some(SignatureType::Text | SignatureType::Binary)
        ) {
            return Err(malformed("a signature of something other than text"));
        }
        if has_unknown_critical(signature) {
            return Err(malformed("an unknown critical part"));
        }
        let digest = signature.hash_alg().ok_or_else(|| malformed("no digest"))?;
        if !is_strong(digest) {
            return Err(SignatureError::WeakDigest {
                key,
                digest: digest.to_string(),
            });
        }
        let made = match self.subkey {
            Some(subkey) => signature.verify(&subkey.key, hashed),
            None => signature.verify(&self.certificate.primary_key, hashed),
        };
        if made.is_err() {
            return Err(SignatureError::Bad { key });
        }
        let created = signature
            .created()
            .ok_or_else(|| malformed("no time"))?
            .as_secs()
            .into();
        self.check_times(signature, created, now)?;
        self.check_key(created, now)
    }

    fn check_times(
        &self,
        signature: &Signature,
        created: u64,
        now: u64,
    ) -> Result<(), SignatureError> {
        let time = |why, at| {
            Err(SignatureError::SignatureTime {
                key: self.name(),
                why,
                at,
            })
        };
        if created > now.saturating_add(SKEW) {
            return time("it was made on", created);
        }
        match signature
            .signature_expiration_time()
            .map(|after| u64::from(after.as_secs()))
        {
            Some(after) if after != 0 && created + after <= now => {
                time("it expired on", created + after)
            }
            _ => Ok(()),
        }
    }

    /// Whether the key may sign, at the time `created` as well as `now`.
    fn check_key(&self, created: u64, now: u64) -> Result<(), SignatureError> {
        let key = self.name();
        let unfit = |why| {
            Err(SignatureError::UnfitKey {
                key: key.clone(),
                why,
            })
        };
        let primary = &self.certificate.primary_key;
        let revoked = self
            .certificate
            .details
            .revocation_signatures
            .iter()
            .any(|s| s.verify_key(primary).is_ok());
        let subkey_revoked = self.subkey.is_some_and(|subkey| {
            let revocations = subkey
                .signatures
                .iter()
                .filter(|s| s.typ() == Some(SignatureType::SubkeyRevocation));
            revocations
                .into_iter()
                .any(|s| s.verify_subkey_binding(primary, &subkey.key).is_ok())
        });
        if revoked || subkey_revoked {
            return Err(SignatureError::RevokedKey { key });
        }
        let Some(own) = self.self_signature(now) else {
            return unfit("has no valid self-signature");
        };
        check_life(
            &key,
            own,
            primary.created_at().as_secs().into(),
            created,
            now,
        )?;
        let (grant, public) = match self.subkey {
            None => (own, primary as &dyn KeyDetails),
            Some(subkey) => {
                let Some(binding) = self.binding(subkey, now) else {
                    return unfit("is not bound to its certificate for signing");
                };
                check_life(
                    &key,
                    binding,
                    subkey.created_at().as_secs().into(),
                    created,
                    now,
                )?;
                (binding, &subkey.key as &dyn KeyDetails)
            }
        };
        if !may_sign(grant) {
            return unfit("is not for signing");
        }
        if is_weak(public) {
            unfit("is too weak")
        } else {
            Ok(())
        }
    }

    /// The newest signature of the certificate by itself: over its primary key, or a user id that was not revoked.
    fn self_signature(&self, now: u64) -> Option<&Signature> {
        let primary = &self.certificate.primary_key;
        let details = &self.certificate.details;
        let direct = details.direct_signatures.iter();
        let direct =
            direct.filter(|s| s.typ() == Some(SignatureType::Key) && s.verify_key(primary).is_ok());
        let users = details.users.iter().filter_map(|user| {
            let own = user.signatures.iter().filter(|s| is_by(s, primary));
            let own = own.filter(|s| {
                s.verify_certification(primary, Tag::UserId, &user.id)
                    .is_ok()
            });
            let newest = own.filter(|s| counts(s, now)).max_by_key(|s| s.created())?;
            (newest.typ() != Some(SignatureType::CertRevocation)).then_some(newest)
        });
        direct
            .chain(users)
            .filter(|s| counts(s, now) && is_granting(s))
            .max_by_key(|s| s.created())
    }

    /// The newest signature that binds a subkey to the certificate, for signing with the subkey's consent.
    fn binding<'a>(&self, subkey: &'a SignedPublicSubKey, now: u64) -> Option<&'a Signature> {
        let primary = &self.certificate.primary_key;
        let bindings = subkey
            .signatures
            .iter()
            .filter(|s| s.typ() == Some(SignatureType::SubkeyBinding));
        let valid = bindings.filter(|s| {
            counts(s, now)
                && is_granting(s)
                && s.verify_subkey_binding(primary, &subkey.key).is_ok()
        });
        let newest = valid.max_by_key(|s| s.created())?;
        let back = newest.embedded_signature()?;
        (is_granting(back)
            && back
                .verify_primary_key_binding(&subkey.key, primary)
                .is_ok())
        .then_some(newest)
    }
}

/// Whether a signature by a key over itself has begun to count.
fn counts(signature: &Signature, now: u64) -> bool {
    signature
        .created()
        .is_some_and(|created| u64::from(created.as_secs()) <= now.saturating_add(SKEW))
}

/// Whether what a signature grants is believed.
fn is_granting(signature: &Signature) -> bool {
    signature.hash_alg().is_some_and(is_strong) && !has_unknown_critical(signature)
}

fn check_life(
    key: &str,
    grant: &Signature,
    born: u64,
    created: u64,
    now: u64,
) -> Result<(), SignatureError> {
    if created < born {
        let (why, at) = ("the key was made on", born);
        return Err(SignatureError::SignatureTime {
            key: key.to_owned(),
            why,
            at,
        });
    }
    match grant
        .key_expiration_time()
        .map(|after| u64::from(after.as_secs()))
    {
        Some(after) if after != 0 && born + after <= now.max(created) => {
            Err(SignatureError::ExpiredKey {
                key: key.to_owned(),
                expired: born + after,
            })
        }
        _ => Ok(()),
    }
}

/// Whether a self-signature lets its key sign; one that says nothing of it does.
fn may_sign(grant: &Signature) -> bool {
    let Some(config) = grant.config() else {
        return false;
    };
    let says = config
        .hashed_subpackets()
        .any(|part| matches!(part.data, SubpacketData::KeyFlags(_)));
    !says || grant.key_flags().sign()
}

fn is_strong(digest: HashAlgorithm) -> bool {
    use HashAlgorithm::{Sha3_256, Sha3_512, Sha256, Sha384, Sha512};
    matches!(digest, Sha256 | Sha384 | Sha512 | Sha3_256 | Sha3_512)
}

/// Whether a key can be broken, or nobody has said that it cannot.
fn is_weak(key: &dyn KeyDetails) -> bool {
    match key.algorithm() {
        // Two numbers, each behind its length of two bytes: the modulus, and the exponent, which has at most four bytes.
        PublicKeyAlgorithm::RSA | PublicKeyAlgorithm::RSASign => {
            key.public_params().write_len() < 2 + 2048 / 8 + 2 + 1
        }
        PublicKeyAlgorithm::EdDSALegacy
        | PublicKeyAlgorithm::Ed25519
        | PublicKeyAlgorithm::Ed448
        | PublicKeyAlgorithm::ECDSA => false,
        _ => true,
    }
}

/// Whether it holds a part that must be understood, and is not.
fn has_unknown_critical(signature: &Signature) -> bool {
    let Some(config) = signature.config() else {
        return true;
    };
    config.hashed_subpackets().any(|part| {
        let known = !matches!(
            part.data,
            SubpacketData::Other(..)
                | SubpacketData::Experimental(..)
                | SubpacketData::Notation(..)
        );
        part.is_critical && !known
    })
}

/// Whether a signature says that a key has made it.
fn is_by(signature: &Signature, key: &impl KeyDetails) -> bool {
    let (id, fingerprint) = (key.legacy_key_id(), key.fingerprint());
    signature.issuer_key_id().contains(&&id)
        || signature.issuer_fingerprint().contains(&&fingerprint)
}

/// Who a signature says has made it.
fn issuers(signature: &Signature) -> Vec<String> {
    if let Some(fingerprint) = signature.issuer_fingerprint().first() {
        return vec![hex(fingerprint.as_bytes())];
    }
    match signature.issuer_key_id().first() {
        Some(id) => vec![hex(id.as_ref())],
        None => vec!["a key without a user ID".to_owned()],
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            let _ = write!(text, "{byte:02X}");
            text
        })
}

fn parse_signatures(bytes: &[u8]) -> Result<Vec<Signature>, SignatureError> {
    let malformed = |what| SignatureError::Malformed { what };
    let armored = bytes.first().is_some_and(|byte| byte & 0x80 == 0);
    let binary = if armored {
        dearmor(bytes)?
    } else {
        bytes.to_vec()
    };
    let mut signatures = Vec::new();
    for packet in PacketParser::new(Cursor::new(binary)) {
        match packet {
            Ok(Packet::Signature(signature)) => signatures.push(signature),
            // Versions of the future stand beside those of today.
            Err(pgp::errors::Error::Unsupported { .. })
            | Ok(Packet::Marker(_) | Packet::Padding(_)) => {}
            Ok(_) => return Err(malformed("a packet that is not a signature")),
            Err(_) => return Err(malformed("a packet that cannot be read")),
        }
        if signatures.len() > MAX_SIGNATURES {
            return Err(malformed("too many signatures"));
        }
    }
    if signatures.is_empty() {
        Err(malformed("no signature that can be read"))
    } else {
        Ok(signatures)
    }
}

fn dearmor(bytes: &[u8]) -> Result<Vec<u8>, SignatureError> {
    let malformed = |what| SignatureError::Malformed { what };
    let mut reader = Dearmor::new(Cursor::new(bytes));
    reader
        .read_header()
        .map_err(|_| malformed("its armor cannot be read"))?;
    if reader.typ != Some(BlockType::Signature) {
        return Err(malformed("its armor is not that of a signature"));
    }
    let mut binary = Vec::new();
    std::io::Read::read_to_end(&mut reader, &mut binary)
        .map_err(|_| malformed("its armor cannot be read"))?;
    Ok(binary)
}

/// Blocks of armor that stand one after another.
fn split_armor(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b"-----BEGIN ") {
            blocks.push(Vec::new());
        }
        if let Some(block) = blocks.last_mut() {
            block.extend(line);
        }
    }
    blocks
}
