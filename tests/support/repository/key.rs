//! Keys that sign test repositories, the same ones every time: good ones, and such that nobody may believe.

use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, DetachedSignature, KeyType, SecretKeyParamsBuilder,
    SignedPublicKey, SignedSecretKey, SubkeyParamsBuilder, SubpacketConfig,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{KeyFlags, SignatureConfig, SignatureType, Subpacket, SubpacketData};
use pgp::ser::Serialize as _;
use pgp::types::{Duration, KeyDetails as _, Password, SigningKey, Tag, Timestamp};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// When keys were made, in seconds since 1970: in September 2020.
pub(crate) const MADE: u32 = 1_600_000_000;

/// A key with its certificate.
#[derive(Clone)]
pub(crate) struct Key {
    secret: SignedSecretKey,
    /// Whether the subkey signs.
    subkey: bool,
    digest: HashAlgorithm,
    /// When signatures say they were made; the clock's time where none.
    pub(crate) signs_at: Option<u32>,
}

impl Key {
    /// An Ed25519 key that does not expire. The same seed gives the same key.
    pub(crate) fn new(seed: u64) -> Key {
        Key::make(seed, KeyType::Ed25519Legacy, None, true, false)
    }

    /// A key that expires so many seconds after [`MADE`].
    pub(crate) fn expiring(seed: u64, after: u32) -> Key {
        Key::make(seed, KeyType::Ed25519Legacy, Some(after), true, false)
    }

    /// A key whose certificate says that it is not for signing.
    pub(crate) fn unfit(seed: u64) -> Key {
        Key::make(seed, KeyType::Ed25519Legacy, None, false, false)
    }

    /// A key that only certifies, with a subkey that signs.
    pub(crate) fn with_subkey(seed: u64) -> Key {
        Key::make(seed, KeyType::Ed25519Legacy, None, false, true)
    }

    /// An RSA key of 2048 bits, that signs over a digest.
    pub(crate) fn rsa(seed: u64, digest: HashAlgorithm) -> Key {
        Key {
            digest,
            ..Key::make(seed, KeyType::Rsa(2048), None, true, false)
        }
    }

    fn make(seed: u64, kind: KeyType, expires: Option<u32>, signs: bool, subkey: bool) -> Key {
        let mut rng = StdRng::seed_from_u64(seed);
        let made = Timestamp::from_secs(MADE);
        let mut params = SecretKeyParamsBuilder::default();
        params
            .key_type(kind)
            .can_certify(true)
            .can_sign(signs)
            .created_at(made)
            .primary_user_id(format!("Test {seed} <test{seed}@example.org>"));
        if subkey {
            let mut params_of_subkey = SubkeyParamsBuilder::default();
            params_of_subkey
                .key_type(KeyType::Ed25519Legacy)
                .can_sign(true)
                .created_at(made);
            params.subkey(params_of_subkey.build().unwrap());
        }
        let mut secret = params.build().unwrap().generate(&mut rng).unwrap();
        let (mut flags, mut signing) = (KeyFlags::default(), KeyFlags::default());
        flags.set_certify(true);
        flags.set_sign(signs);
        signing.set_sign(true);
        let primary = secret.primary_key.clone();
        let lives =
            expires.map(|after| SubpacketData::KeyExpirationTime(Duration::from_secs(after)));
        // The library signs keys at the clock's time; these are of the past.
        let user = &mut secret.details.users[0];
        let parts = [SubpacketData::KeyFlags(flags)].into_iter().chain(lives);
        let grant = config(&primary, SignatureType::CertPositive, MADE, parts);
        user.signatures = vec![
            grant
                .sign_certification(
                    &primary,
                    primary.public_key(),
                    &Password::empty(),
                    Tag::UserId,
                    &user.id,
                )
                .unwrap(),
        ];
        for subkey in &mut secret.secret_subkeys {
            let back = config_of_subkey(&subkey.key);
            let back = back.sign_primary_key_binding(
                &subkey.key,
                &subkey.key.public_key(),
                &Password::empty(),
                primary.public_key(),
            );
            let parts = [
                SubpacketData::KeyFlags(signing.clone()),
                SubpacketData::EmbeddedSignature(Box::new(back.unwrap())),
            ];
            let binding = config(&primary, SignatureType::SubkeyBinding, MADE, parts);
            subkey.signatures = vec![
                binding
                    .sign_subkey_binding(
                        &primary,
                        primary.public_key(),
                        &Password::empty(),
                        subkey.key.public_key(),
                    )
                    .unwrap(),
            ];
        }
        Key {
            secret,
            subkey,
            digest: HashAlgorithm::Sha256,
            signs_at: None,
        }
    }

    /// The key, revoked.
    pub(crate) fn revoked(mut self) -> Key {
        let primary = self.secret.primary_key.clone();
        let parts = config(&primary, SignatureType::KeyRevocation, MADE + 1, []);
        let revocation = parts
            .sign_key(&primary, &Password::empty(), primary.public_key())
            .unwrap();
        self.secret.details.revocation_signatures.push(revocation);
        self
    }

    /// A key with a subkey that signs, and that was revoked alone.
    pub(crate) fn with_revoked_subkey(seed: u64) -> Key {
        let mut key = Key::with_subkey(seed);
        let primary = key.secret.primary_key.clone();
        let subkey = &mut key.secret.secret_subkeys[0];
        let parts = config(&primary, SignatureType::SubkeyRevocation, MADE + 1, []);
        let revocation = parts.sign_subkey_binding(
            &primary,
            primary.public_key(),
            &Password::empty(),
            subkey.key.public_key(),
        );
        subkey.signatures.push(revocation.unwrap());
        key
    }

    /// A certificate with the subkey of another.
    pub(crate) fn with_subkey_of(seed: u64, other: Key) -> Key {
        let mut key = Key::with_subkey(seed);
        key.secret.secret_subkeys = other.secret.secret_subkeys;
        key
    }

    /// A key whose certificate is signed over a weak digest.
    pub(crate) fn weakly_certified(seed: u64) -> Key {
        let mut key = Key::rsa(seed, HashAlgorithm::Sha256);
        let primary = key.secret.primary_key.clone();
        let user = &mut key.secret.details.users[0];
        let parts = SignatureConfig {
            hash_alg: HashAlgorithm::Sha1,
            ..config(&primary, SignatureType::CertPositive, MADE, [])
        };
        let grant = parts
            .sign_certification(
                &primary,
                primary.public_key(),
                &Password::empty(),
                Tag::UserId,
                &user.id,
            )
            .unwrap();
        user.signatures = vec![grant];
        key
    }

    fn certificate(&self) -> SignedPublicKey {
        self.secret.to_public_key()
    }

    /// The certificate, binary.
    pub(crate) fn public(&self) -> Vec<u8> {
        self.certificate().to_bytes().unwrap()
    }

    /// The certificate, armored.
    pub(crate) fn armored(&self) -> String {
        self.certificate()
            .to_armored_string(ArmorOptions::default())
            .unwrap()
    }

    /// Fingerprint of the certificate, as messages show it.
    pub(crate) fn fingerprint(&self) -> String {
        format!("{:X}", self.secret.primary_key.fingerprint())
    }

    fn now(&self) -> u32 {
        self.signs_at.unwrap_or_else(|| Timestamp::now().as_secs())
    }

    /// A text, clear-signed.
    pub(crate) fn clear_sign(&self, text: &str) -> String {
        // White space before ends of lines, and the last end, are not part of what is signed.
        let lines: Vec<_> = text
            .strip_suffix('\n')
            .unwrap_or(text)
            .split('\n')
            .map(str::trim_end)
            .collect();
        let text = &lines.join("\n");
        let message = if self.subkey {
            let key = &self.secret.secret_subkeys[0].key;
            CleartextSignedMessage::new(text, self.text_config(key), key, &Password::empty())
        } else {
            let key = &self.secret.primary_key;
            CleartextSignedMessage::new(text, self.text_config(key), key, &Password::empty())
        };
        message
            .unwrap()
            .to_armored_string(ArmorOptions::default())
            .unwrap()
    }

    fn text_config(&self, key: &impl SigningKey) -> SignatureConfig {
        SignatureConfig {
            hash_alg: self.digest,
            ..config(key, SignatureType::Text, self.now(), [])
        }
    }

    /// An armored signature beside a text.
    pub(crate) fn sign(&self, text: &[u8]) -> String {
        let key = &self.secret.primary_key;
        let parts = config(key, SignatureType::Binary, self.now(), []);
        let subpackets = SubpacketConfig::UserDefined {
            hashed: parts.hashed_subpackets,
            unhashed: Vec::new(),
        };
        let rng = StdRng::seed_from_u64(0);
        DetachedSignature::sign_binary_data_with_subpackets(
            rng,
            key,
            &Password::empty(),
            self.digest,
            text,
            subpackets,
        )
        .unwrap()
        .to_armored_string(ArmorOptions::default())
        .unwrap()
    }
}

fn config(
    key: &impl SigningKey,
    typ: SignatureType,
    at: u32,
    more: impl IntoIterator<Item = SubpacketData>,
) -> SignatureConfig {
    let mut config = SignatureConfig::from_key(StdRng::seed_from_u64(0), key, typ).unwrap();
    let always = [
        SubpacketData::SignatureCreationTime(Timestamp::from_secs(at)),
        SubpacketData::IssuerFingerprint(key.fingerprint()),
    ];
    config.hashed_subpackets = always
        .into_iter()
        .chain(more)
        .map(|part| Subpacket::regular(part).unwrap())
        .collect();
    config
}

fn config_of_subkey(key: &impl SigningKey) -> SignatureConfig {
    config(key, SignatureType::KeyBinding, MADE, [])
}
