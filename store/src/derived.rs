//! Derived files: what `convert` makes from a disk, of which the store keeps the digests but not the bytes.
//! Knows how a derived file is named, not how it is made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::{BlobDigest, Digest, DiskDigest, Hasher, domain};
use crate::error::{ObjectKind, Result};
use crate::key::{self, Describe, Sink, field};
use crate::record::{MAGIC_LEN, decode, encode, frame, unframe};
use crate::sha256::Sha256;
use crate::store::Store;

const MAGIC: &[u8; MAGIC_LEN] = b"impaDRV1";

/// Largest record of a derived file, in bytes.
pub(crate) const RECORD_LIMIT: u64 = 1 << 20;

/// How a derived file is made: all that decides its bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DerivedKey {
    pub disk: DiskDigest,
    /// Into which format, such as `qcow2`.
    pub format: String,
    /// With which options, by name.
    pub options: BTreeMap<String, String>,
    /// By which encoder; empty where none is involved.
    pub encoder: String,
}

/// A derived file: how it is made, and what must come out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DerivedRef {
    /// How it is made.
    pub key: DerivedKey,
    /// The digest of its bytes.
    pub digest: BlobDigest,
    /// Its length in bytes.
    pub size: u64,
}

/// What is known about a derived file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DerivedRecord {
    /// How it is made.
    pub key: DerivedKey,
    /// The digest of its bytes.
    pub digest: BlobDigest,
    /// Its SHA-256.
    pub sha256: Sha256,
    /// Its length in bytes.
    pub size: u64,
}

impl Describe for DerivedKey {
    fn describe(&self, sink: &mut dyn Sink) {
        let DerivedKey {
            disk,
            format,
            options,
            encoder,
        } = self;
        field(sink, "disk", &disk.0);
        field(sink, "format", format);
        field(sink, "options", options);
        field(sink, "encoder", encoder);
    }
}

impl DerivedKey {
    /// The key as one digest.
    pub fn digest(&self) -> Digest {
        key::digest(Hasher::new(domain::DERIVED), self)
    }

    pub(crate) fn name(&self) -> String {
        let hex = self.digest().to_string();
        format!("blobs/{}/{hex}.derived", &hex[..2])
    }
}

/// Decodes the record of a derived file. Bounded; for untrusted bytes.
pub fn decode_derived(bytes: &[u8]) -> Result<DerivedRecord, String> {
    unframe(MAGIC, bytes)
        .and_then(decode)
        .map_err(|error| error.to_string())
}

impl Store {
    /// Remembers what came out of a conversion.
    pub fn put_derived(&self, record: &DerivedRecord) -> Result<()> {
        self.put_record(&record.key.name(), &frame(MAGIC, &encode(record)), || {
            self.derived(&record.key).map(|_| ())
        })
    }

    /// What is known about a derived file. Absent or damaged: a miss.
    pub fn derived(&self, key: &DerivedKey) -> Result<DerivedRecord> {
        let name = key.name();
        let bytes = self.read_object(ObjectKind::BlobNote, &name, RECORD_LIMIT)?;
        match decode_derived(&bytes) {
            Ok(record) if record.key == *key => Ok(record),
            Ok(_) => Err(self.damaged(ObjectKind::BlobNote, &name, "it is for another file")),
            Err(reason) => Err(self.damaged(ObjectKind::BlobNote, &name, reason)),
        }
    }
}
