//! `verify`: every byte of the store against what names it; `du`: where its bytes are.
//! Knows every kind of object; decides about none of them.

use rayon::prelude::*;

use crate::blob::{SHA256_LIMIT, blob_name, decode_sha256};
use crate::claim::{FileContent, LIMIT as CLAIM_LIMIT, decode_claim};
use crate::derived::{RECORD_LIMIT, decode_derived};
use crate::digest::{ActionDigest, ClaimId};
use crate::disk::chunk_buffer;
use crate::error::{Error, Miss, MissReason, ObjectKind, Result};
use crate::fs::ExpectedType;
use crate::layer::{ChunkLocation, LayerRef};
use crate::store::{Store, read_format, valid_format_copies};
use crate::walk::{Object, ObjectId};

/// Something that `verify` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What sort of thing it is.
    pub code: Code,
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
    /// What is not a directory has the name of one.
    DirectoryDamaged,
    /// Something cannot be read: the medium is broken, or permissions forbid it.
    Unreadable,
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
            Code::DirectoryDamaged => "directory-damaged",
            Code::Unreadable => "unreadable",
            Code::Incomplete => "incomplete",
            Code::Unknown => "unknown-file",
        }
    }

    /// Whether the store is damaged, and not merely incomplete or untidy.
    pub fn is_damage(self) -> bool {
        !matches!(self, Code::Incomplete | Code::Unknown)
    }

    /// Whether an object itself is not as this version writes it.
    pub(crate) fn is_object_damage(self) -> bool {
        use Code::*;
        matches!(
            self,
            ClaimDamaged
                | ManifestDamaged
                | LayerDamaged
                | BlobDamaged
                | RecordDamaged
                | DirectoryDamaged
                | Unreadable
                | Unknown
        )
    }

    fn of(kind: ObjectKind) -> Code {
        match kind {
            ObjectKind::Claim => Code::ClaimDamaged,
            ObjectKind::Manifest => Code::ManifestDamaged,
            ObjectKind::Layer => Code::LayerDamaged,
            ObjectKind::Blob => Code::BlobDamaged,
            ObjectKind::BlobNote => Code::RecordDamaged,
            ObjectKind::Directory => Code::DirectoryDamaged,
            ObjectKind::State | ObjectKind::Other => Code::StateDamaged,
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
    /// Checks every byte of the store, and whether what its objects need is there; goes on after what it finds.
    ///
    /// With `repair` what is damaged is moved to `trash/`, so that it is built again, and `format` is made whole of the copy
    /// that is left. A damaged root stays: the collector must know that something was kept.
    ///
    /// # Errors
    /// What is no damage, such as a lack of memory or of descriptors, ends it.
    pub fn verify(&self, repair: bool) -> Result<VerifyReport> {
        let looking = self.without_quarantine(!repair);
        let mut findings = Vec::new();
        let objects = looking.readable_objects(&mut |name, error| {
            // One that cannot be listed stays: all that is in it may be sound.
            findings.push(looking.finding(
                name,
                looking.as_damage(ObjectKind::Directory, error),
                false,
            )?);
            Ok(())
        })?;
        let mut report = VerifyReport {
            objects: objects.len() as u64,
            ..VerifyReport::default()
        };
        report.bytes = objects.iter().map(|object| object.bytes).sum();
        self.begin("checking", report.bytes);
        for Object {
            id,
            wrong,
            name,
            bytes,
            ..
        } in objects
        {
            let checked = match wrong {
                Some((kind, error)) => Err(looking.as_damage(kind, error)),
                None => looking.verify_object(id, &name),
            };
            // A layer's file is counted while it is read, with its manifest.
            if !matches!(id, ObjectId::LayerFile(_)) {
                self.count(bytes);
            }
            if let Err(error) = checked {
                findings.push(looking.finding(&name, error, repair)?);
            } else if id == ObjectId::Unknown {
                let detail = "its name is unknown to this version".to_owned();
                findings.push(Finding {
                    code: Code::Unknown,
                    path: self.fs().full(&name),
                    detail,
                });
            } else if let ObjectId::Claim(action, claim) = id {
                for missing in looking.missing_of(&action, &claim)? {
                    findings.push(looking.finding(&name, missing, repair)?);
                }
            }
        }
        looking.verify_small(&mut findings, repair)?;
        findings.sort_by(|a, b| a.path.cmp(&b.path));
        findings.dedup();
        report.findings = findings;
        Ok(report)
    }

    /// The finding that an error in checking the object `name` is. An error that says nothing of the store is returned.
    fn finding(&self, name: &str, error: Error, repair: bool) -> Result<Finding> {
        let own = self.fs().full(name);
        match error {
            Error::Miss(Miss {
                path,
                reason: MissReason::Absent,
                ..
            }) => {
                let detail = match path == own {
                    true => MissReason::Absent.to_string(),
                    false => format!("needs `{}`, which is missing", path.display()),
                };
                Ok(Finding {
                    code: Code::Incomplete,
                    path: own,
                    detail,
                })
            }
            Error::Miss(Miss { kind, path, reason }) => Ok(Finding {
                code: Code::of(kind),
                path,
                detail: reason.to_string(),
            }),
            error if error.is_unreadable() => {
                let (path, detail) = match error {
                    Error::Io { verb, path, source } => {
                        (path, format!("cannot {verb} it: {source}"))
                    }
                    other => (own, other.to_string()),
                };
                // Where this fails, it is found again the next time.
                if repair
                    && let Some(name) = path
                        .strip_prefix(self.path())
                        .ok()
                        .and_then(std::path::Path::to_str)
                    && let Err(error) = self.fs().trash(name)
                {
                    tracing::debug!(%error, "quarantine failed");
                }
                Ok(Finding {
                    code: Code::Unreadable,
                    path,
                    detail,
                })
            }
            other => Err(other),
        }
    }

    fn verify_object(&self, id: ObjectId, name: &str) -> Result<()> {
        let damaged = |kind, reason: String| Err(self.damaged(kind, name, reason));
        let read = |kind, limit| self.read_object(kind, name, limit);
        match id {
            ObjectId::Claim(action, id) => {
                match decode_claim(&read(ObjectKind::Claim, CLAIM_LIMIT)?, &action, &id) {
                    Ok(_) => Ok(()),
                    Err(reason) => damaged(ObjectKind::Claim, reason),
                }
            }
            ObjectId::Manifest(layer) => self.verify_layer(&layer),
            // Looked at with its manifest; without one it is what a crash left, or a damaged manifest, which is told.
            ObjectId::LayerFile(_) => Ok(()),
            ObjectId::Blob(blob) => self.check_blob(&blob),
            ObjectId::BlobSha256(blob) => {
                match decode_sha256(&read(ObjectKind::BlobNote, SHA256_LIMIT)?) {
                    Ok((about, _)) if about.digest == blob => Ok(()),
                    Ok(_) => damaged(ObjectKind::BlobNote, "it is for another blob".to_owned()),
                    Err(reason) => damaged(ObjectKind::BlobNote, reason),
                }
            }
            ObjectId::Derived(key) => {
                match decode_derived(&read(ObjectKind::BlobNote, RECORD_LIMIT)?) {
                    Ok(record) if record.key.digest() == key => Ok(()),
                    Ok(_) => damaged(ObjectKind::BlobNote, "it is for another file".to_owned()),
                    Err(reason) => damaged(ObjectKind::BlobNote, reason),
                }
            }
            ObjectId::Unknown => Ok(()),
        }
    }

    /// What a claim names and the store does not have: a miss each. Nothing but manifests is read.
    fn missing_of(&self, action: &ActionDigest, id: &ClaimId) -> Result<Vec<Error>> {
        let claim = self.claim(action, id)?;
        let mut missing = Vec::new();
        if let Some(disk) = &claim.result.disk
            && !self.has_layer(&disk.layer)?
        {
            let names = [
                (ObjectKind::Manifest, disk.layer.manifest_name()),
                (ObjectKind::Layer, disk.layer.file_name()),
            ];
            let own = names
                .into_iter()
                .find(|(_, name)| !matches!(self.fs().stat(name), Ok(Some(_))));
            // Where its own files are there, one of a layer below is missing: a finding of the layer above that one.
            missing.extend(own.map(|(kind, name)| self.absent(kind, &name)));
        }
        let files = claim.result.files.values().map(|file| match &file.content {
            FileContent::Blob(blob) => (ObjectKind::Blob, blob_name(&blob.digest)),
            FileContent::Derived(derived) => (ObjectKind::BlobNote, derived.key.name()),
        });
        let blobs = claim
            .result
            .tree
            .iter()
            .chain(&claim.log)
            .map(|blob| (ObjectKind::Blob, blob_name(&blob.digest)));
        for (kind, name) in blobs.chain(files) {
            if self.fs().stat(&name)?.is_none() {
                missing.push(self.absent(kind, &name));
            }
        }
        Ok(missing)
    }

    /// Manifest, layer file as a whole, every chunk by its digest, and the disk that the chain makes.
    fn verify_layer(&self, layer: &LayerRef) -> Result<()> {
        let manifest = self.manifest(layer)?;
        self.hash_layer_file(&manifest)?;
        // It is read twice: as a whole, and chunk by chunk.
        let half = manifest.file_length / 2;
        self.count(half);
        let map = self.disk_map(layer)?;
        let own = map.manifests.len() as u32 - 1;
        let disk = self.open_disk(map)?;
        let share = half / (disk.map().chunks.len() as u64).max(1);
        disk.map().chunks.par_chunks(64).try_for_each(|batch| {
            let mut data = chunk_buffer();
            let own = batch
                .iter()
                .filter(|found| found.layer == own && found.place != ChunkLocation::Zero);
            self.count(share * batch.len() as u64);
            own.into_iter()
                .try_for_each(|found| disk.read_found(found, &mut data).map(|_| ()))
        })
    }

    /// `format`, roots, leases, state files, and the directories that they lie in.
    fn verify_small(&self, findings: &mut Vec<Finding>, repair: bool) -> Result<()> {
        let push = |findings: &mut Vec<Finding>, code, name: &str, detail: String| {
            findings.push(Finding {
                code,
                path: self.fs().full(name),
                detail,
            });
        };
        let format = read_format(self.fs())?.unwrap_or_default();
        match valid_format_copies(&format) {
            3 => {}
            valid => {
                push(
                    findings,
                    Code::FormatCopyDamaged,
                    "format",
                    format!("{valid} of 3 copies are valid"),
                );
                if repair {
                    self.repair_format(&format)?;
                }
            }
        }
        for top in ["roots", "leases", "state", "tmp", "trash"] {
            if let Some(stat) = self.fs().stat(top)?
                && let Some(error) = self.fs().wrong_type(top, &stat, ExpectedType::Directory)
            {
                findings.push(self.finding(
                    top,
                    self.as_damage(ObjectKind::Directory, error),
                    repair,
                )?);
            }
        }
        for root in self.fs().list("roots").or_else(not_a_directory)? {
            match self.root(&root.name) {
                Ok(_) => {}
                Err(Error::RootDamaged { reason, .. }) => {
                    push(
                        findings,
                        Code::RootDamaged,
                        &format!("roots/{}", root.name),
                        reason,
                    );
                }
                // It stays, as one that is damaged does.
                Err(error) => {
                    findings.push(self.finding(&format!("roots/{}", root.name), error, false)?)
                }
            }
        }
        let mut names = ["index", "inputs", "stamps"]
            .map(|cache| format!("state/{cache}"))
            .to_vec();
        if let Err(error) = self
            .fs()
            .files_below("state", &mut |name, _, _| names.push(name))
            .or_else(not_a_directory)
        {
            findings.push(self.finding("state", error, repair)?);
        }
        names.sort_unstable();
        names.dedup();
        let unchecked = [
            crate::state::LOGS,
            crate::trees::TREES,
            crate::trees::CACHES,
        ];
        for name in names
            .iter()
            .filter(|name| !unchecked.iter().any(|place| name.starts_with(place)))
        {
            match self.check_state(name) {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => push(findings, Code::StateDamaged, name, reason),
                Err(error) => findings.push(self.finding(name, error, repair)?),
            }
        }
        Ok(())
    }

    /// Where the store's bytes are.
    pub fn du(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        // What cannot be listed is for `verify` to report.
        for object in self.readable_objects(&mut |_, _| Ok(()))? {
            match object.id {
                ObjectId::LayerFile(layer) => {
                    usage.layers += object.bytes;
                    usage.by_layer.push((layer, object.bytes));
                }
                ObjectId::Manifest(_) => usage.manifests += object.bytes,
                ObjectId::Claim(..) => usage.claims += object.bytes,
                ObjectId::Blob(_) | ObjectId::BlobSha256(_) | ObjectId::Derived(_) => {
                    usage.blobs += object.bytes
                }
                ObjectId::Unknown => {}
            }
        }
        usage.by_layer.sort_unstable();
        self.fs()
            .files_below("state", &mut |_, bytes, _| usage.state += bytes)
            .or_else(not_a_directory)?;
        for debris in ["tmp", "trash"] {
            self.fs()
                .files_below(debris, &mut |_, bytes, _| usage.debris += bytes)
                .or_else(not_a_directory)?;
        }
        Ok(usage)
    }
}

/// Of what is not a directory: that there is nothing in it.
fn not_a_directory<T: Default>(error: Error) -> Result<T> {
    match error {
        Error::WrongType { .. } => Ok(T::default()),
        other => Err(other),
    }
}
