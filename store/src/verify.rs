//! `verify`: every byte of the store against what names it; `du`: where its bytes are.
//! Knows every kind of object; decides about none of them.

use rayon::prelude::*;

use crate::blob::{SHA256_LIMIT, decode_sha256};
use crate::claim::{LIMIT as CLAIM_LIMIT, decode_claim};
use crate::derived::{RECORD_LIMIT, decode_derived};
use crate::disk::chunk_buffer;
use crate::error::{Error, Kind, Miss, MissReason, Result};
use crate::layer::{LayerRef, Place};
use crate::store::{Store, read_format, valid_format_copies};
use crate::walk::{Object, ObjectId};

/// Something that `verify` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What sort of thing it is.
    pub code: Code,
    /// Which file.
    pub path: std::path::PathBuf,
    /// What is wrong with it.
    pub detail: String,
}

/// Sorts of findings. Their texts are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// A copy of the version in `format` is damaged; the others serve.
    FormatCopyDamaged,
    /// A claim is damaged.
    ClaimDamaged,
    /// A manifest is damaged.
    ManifestDamaged,
    /// A layer file is damaged.
    LayerDamaged,
    /// A blob is damaged.
    BlobDamaged,
    /// The record of a blob's SHA-256, or of a derived file, is damaged.
    RecordDamaged,
    /// A root is damaged.
    RootDamaged,
    /// A state file is damaged: a cache, which costs time only.
    StateDamaged,
    /// What an object needs is not there: it is a miss, no damage.
    Incomplete,
    /// A file whose name means nothing to this version.
    Unknown,
}

impl Code {
    /// The text that stands for it in output for machines.
    pub fn text(self) -> &'static str {
        match self {
            Code::FormatCopyDamaged => "format-copy-damaged",
            Code::ClaimDamaged => "claim-damaged",
            Code::ManifestDamaged => "manifest-damaged",
            Code::LayerDamaged => "layer-damaged",
            Code::BlobDamaged => "blob-damaged",
            Code::RecordDamaged => "record-damaged",
            Code::RootDamaged => "root-damaged",
            Code::StateDamaged => "state-damaged",
            Code::Incomplete => "incomplete",
            Code::Unknown => "unknown-file",
        }
    }

    /// Whether the store is damaged, and not merely incomplete or untidy.
    pub fn is_damage(self) -> bool {
        !matches!(self, Code::Incomplete | Code::Unknown)
    }

    fn of(kind: Kind) -> Code {
        match kind {
            Kind::Claim => Code::ClaimDamaged,
            Kind::Manifest => Code::ManifestDamaged,
            Kind::Layer => Code::LayerDamaged,
            Kind::Blob => Code::BlobDamaged,
            Kind::BlobNote => Code::RecordDamaged,
            Kind::State | Kind::Other => Code::StateDamaged,
        }
    }
}

/// What `verify` looked at, and what it found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Objects that were looked at.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong, sorted by path.
    pub findings: Vec<Finding>,
}

/// Where the store's bytes are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of layer files.
    pub layers: u64,
    /// Bytes of manifests.
    pub manifests: u64,
    /// Bytes of blobs and their records.
    pub blobs: u64,
    /// Bytes of claims.
    pub claims: u64,
    /// Bytes of `state/`, logs among them.
    pub state: u64,
    /// Bytes of `tmp/` and `trash/`.
    pub debris: u64,
    /// Every layer with the bytes of its file, sorted.
    pub by_layer: Vec<(LayerRef, u64)>,
}

impl Store {
    /// Checks every byte of the store. With `quarantine` what is damaged is moved to `trash/`, so that it is built again.
    pub fn verify(&self, quarantine: bool) -> Result<VerifyReport> {
        let looking = self.without_quarantine(!quarantine);
        let objects = looking.objects()?;
        let mut report = VerifyReport { objects: objects.len() as u64, ..VerifyReport::default() };
        report.bytes = objects.iter().map(|object| object.bytes).sum();
        for object in &objects {
            if let Err(error) = looking.verify_object(object) {
                let finding = looking.finding(object, error)?;
                report.findings.push(finding);
            }
        }
        looking.verify_small(&mut report)?;
        report.findings.sort_by(|a, b| a.path.cmp(&b.path));
        report.findings.dedup();
        Ok(report)
    }

    fn finding(&self, object: &Object, error: Error) -> Result<Finding> {
        match error {
            Error::Miss(Miss { kind, path, reason }) => {
                let code = if reason == MissReason::Absent { Code::Incomplete } else { Code::of(kind) };
                let own = path == self.fs().full(&object.name);
                let detail = if own || reason != MissReason::Absent {
                    reason.to_string()
                } else {
                    format!("needs `{}`, which is not there", path.display())
                };
                let path = if reason == MissReason::Absent { self.fs().full(&object.name) } else { path };
                Ok(Finding { code, path, detail })
            }
            other => Err(other),
        }
    }

    fn verify_object(&self, object: &Object) -> Result<()> {
        let damaged = |kind, reason: String| Err(self.damaged(kind, &object.name, reason));
        let read = |kind, limit| self.read_object(kind, &object.name, limit);
        match object.id {
            ObjectId::Claim(action, id) => match decode_claim(&read(Kind::Claim, CLAIM_LIMIT)?, &action, &id) {
                Ok(_) => Ok(()),
                Err(reason) => damaged(Kind::Claim, reason),
            },
            ObjectId::Manifest(layer) => self.verify_layer(&layer),
            // Looked at with its manifest; without one it is what a crash left, or a damaged manifest, which is told.
            ObjectId::LayerFile(_) => Ok(()),
            ObjectId::Blob(blob) => self.check_blob(&blob),
            ObjectId::BlobSha256(blob) => match decode_sha256(&read(Kind::BlobNote, SHA256_LIMIT)?) {
                Ok((about, _)) if about.digest == blob => Ok(()),
                Ok(_) => damaged(Kind::BlobNote, "it is about another blob".to_owned()),
                Err(reason) => damaged(Kind::BlobNote, reason),
            },
            ObjectId::Derived(key) => match decode_derived(&read(Kind::BlobNote, RECORD_LIMIT)?) {
                Ok(record) if record.key.digest() == key => Ok(()),
                Ok(_) => damaged(Kind::BlobNote, "it is about another file".to_owned()),
                Err(reason) => damaged(Kind::BlobNote, reason),
            },
            ObjectId::Unknown => Ok(()),
        }
    }

    /// Manifest, layer file as a whole, every chunk by its digest, and the disk that the chain makes.
    fn verify_layer(&self, layer: &LayerRef) -> Result<()> {
        let manifest = self.manifest(layer)?;
        self.hash_layer_file(&manifest)?;
        let map = self.disk_map(layer)?;
        let own = map.manifests.len() as u32 - 1;
        let disk = self.open_disk(map)?;
        disk.map().chunks.par_chunks(64).try_for_each(|batch| {
            let mut data = chunk_buffer();
            let own = batch.iter().filter(|found| found.layer == own && found.place != Place::Zero);
            own.into_iter().try_for_each(|found| disk.read_found(found, &mut data).map(|_| ()))
        })
    }

    fn verify_small(&self, report: &mut VerifyReport) -> Result<()> {
        let mut push = |code, name: &str, detail: String| {
            report.findings.push(Finding { code, path: self.fs().full(name), detail });
        };
        let format = read_format(self.fs())?.unwrap_or_default();
        match valid_format_copies(&format) {
            3 => {}
            valid => push(Code::FormatCopyDamaged, "format", format!("{valid} of 3 copies are valid")),
        }
        for root in self.roots()? {
            match self.root(&root) {
                Err(Error::RootDamaged { reason, .. }) => push(Code::RootDamaged, &format!("roots/{root}"), reason),
                other => drop(other?),
            }
        }
        let mut names = Vec::new();
        self.fs().files_below("state", &mut |name, _, _| names.push(name))?;
        let unchecked = [crate::state::LOGS, crate::trees::TREES, crate::trees::CACHES];
        for name in names.iter().filter(|name| !unchecked.iter().any(|place| name.starts_with(place))) {
            if let Err(reason) = self.check_state(name)? {
                push(Code::StateDamaged, name, reason);
            }
        }
        for object in self.objects()?.iter().filter(|object| object.id == ObjectId::Unknown) {
            push(Code::Unknown, &object.name, "its name means nothing to this version".to_owned());
        }
        Ok(())
    }

    /// Where the store's bytes are.
    pub fn du(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        for object in self.objects()? {
            match object.id {
                ObjectId::LayerFile(layer) => {
                    usage.layers += object.bytes;
                    usage.by_layer.push((layer, object.bytes));
                }
                ObjectId::Manifest(_) => usage.manifests += object.bytes,
                ObjectId::Claim(..) => usage.claims += object.bytes,
                ObjectId::Blob(_) | ObjectId::BlobSha256(_) | ObjectId::Derived(_) => usage.blobs += object.bytes,
                ObjectId::Unknown => {}
            }
        }
        usage.by_layer.sort_unstable();
        self.fs().files_below("state", &mut |_, bytes, _| usage.state += bytes)?;
        for debris in ["tmp", "trash"] {
            self.fs().files_below(debris, &mut |_, bytes, _| usage.debris += bytes)?;
        }
        Ok(usage)
    }
}
