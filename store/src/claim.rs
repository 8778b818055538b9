//! Claims: "this Action gave this result", by one writer, at one time, in one sandbox.
//! Knows what a claim says, not which of several is to be believed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::blob::BlobRef;
use crate::crash;
use crate::derived::DerivedRef;
use crate::digest::{ActionDigest, ClaimId, Digest};
use crate::error::{Error, Miss, ObjectKind, Result};
use crate::key::Field;
use crate::layer::DiskRef;
use crate::record::{MAGIC_LEN, decode, encode, frame, unframe};
use crate::store::Store;

const MAGIC: &[u8; MAGIC_LEN] = b"impaCLM1";
/// Largest claim file, in bytes.
pub(crate) const LIMIT: u64 = 16 << 20;
/// A field's value that is longer, in bytes, stands in the claim as its beginning and a digest.
const FIELD_LIMIT: usize = 64 << 10;

/// What a claim says. The order of the fields is the encoding's; changing it is a format break.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The Action that was carried out.
    pub action: ActionDigest,
    /// The stage's kind, such as `run`.
    pub kind: String,
    pub stage: String,
    /// The node's name, with its combination of the matrix.
    pub node: String,
    pub recipe: String,
    pub result: Outputs,
    /// What a reader must know before believing it, its own and its inputs' united.
    pub caveats: BTreeSet<Caveat>,
    /// Which sandbox ran it: `host`, `namespace`, `vm`.
    pub sandbox: String,
    /// How strongly the sandbox isolated it.
    pub isolation: Isolation,
    /// What was in play but is not keyed: agent, kernel, qemu, mirror, by name.
    pub facts: BTreeMap<String, String>,
    /// Who claims it; empty for the user of a private store.
    pub writer: String,
    /// When, in seconds since the epoch by the writer's clock; nothing is decided by it.
    pub created: u64,
    /// The epoch of the engine that ran it.
    pub engine_epoch: u64,
    pub cost: Cost,
    /// What the steps printed.
    pub log: Option<BlobRef>,
    /// All that entered the Action's key, for `why`. See [`capped`].
    pub fields: Vec<Field>,
    /// How the root file system is named, where the result is a disk and the recipe or a default said so.
    pub root: Option<String>,
    /// What later versions add by name; unknown names are kept and change nothing.
    pub extra: BTreeMap<String, String>,
}

/// What an Action gave.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outputs {
    /// The disk that it left.
    pub disk: Option<DiskRef>,
    /// The tree index of that disk: a text, by whose digest the tree is named.
    pub tree: Option<BlobRef>,
    /// The files that it made, by name.
    pub files: BTreeMap<String, OutputFile>,
}

/// A file that an Action made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFile {
    /// Where its bytes are.
    pub content: FileContent,
    /// Permission bits; [`TREE_MODE`] says that the bytes are a tree of files.
    pub mode: u32,
}

/// The mode of an output that is a tree of files, which is kept as a tar archive: a directory's.
pub const TREE_MODE: u32 = 0o040_755;

impl OutputFile {
    /// A tree of files, kept as a tar archive.
    pub fn tree(archive: BlobRef) -> Self {
        OutputFile {
            content: FileContent::Blob(archive),
            mode: TREE_MODE,
        }
    }

    /// Whether its bytes are a tree of files rather than a file's.
    pub fn is_tree(&self) -> bool {
        self.mode == TREE_MODE
    }

    /// The permission bits of a file that holds its bytes.
    pub fn permissions(&self) -> u32 {
        if self.is_tree() {
            0o644
        } else {
            self.mode & 0o7777
        }
    }
}

/// Where a file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileContent {
    Blob(BlobRef),
    /// Nowhere: they are made again from a disk.
    Derived(DerivedRef),
}

impl FileContent {
    /// The digest of the bytes, wherever they are.
    pub fn digest(&self) -> Digest {
        match self {
            FileContent::Blob(blob) => blob.digest.0,
            FileContent::Derived(derived) => derived.digest.0,
        }
    }
}

/// What a reader must know before believing a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Caveat {
    /// It had the network, so that the same inputs may give something else.
    Unlocked,
    /// Its sandbox isolated it weakly.
    WeakIsolation,
}

/// How strongly a sandbox isolates, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Isolation {
    /// A virtual machine without hardware support.
    Weak,
    /// Namespaces of the host's kernel.
    Namespace,
    /// A virtual machine with hardware support.
    Vm,
    /// Our own code on the host, which runs nothing of the recipe's.
    Host,
}

impl std::fmt::Display for Isolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Isolation::Weak => "emulated machine",
            Isolation::Namespace => "namespaces",
            Isolation::Vm => "virtual machine",
            Isolation::Host => "impasto's own code",
        })
    }
}

/// What an Action took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Milliseconds from start to the durable claim.
    pub wall_ms: u64,
    /// Milliseconds of processor time.
    pub cpu_ms: u64,
    /// Bytes added to the store.
    pub stored_bytes: u64,
}

/// A statement of a key's holder about a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The scheme, such as `ed25519`.
    pub scheme: String,
    pub key: String,
    /// The signature of the claim's id.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// The readable claims about an Action, sorted by id, and the damaged ones.
pub type FoundClaims = (Vec<(ClaimId, Claim)>, Vec<Miss>);

#[derive(Serialize, Deserialize)]
struct ClaimFile {
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
    id: ClaimId,
    signatures: Vec<Signature>,
}

impl Claim {
    /// The claim's name: the digest of its body.
    pub fn id(&self) -> ClaimId {
        ClaimId::of(&encode(self))
    }
}

/// Fields as a claim keeps them: a value that is too long as its beginning and a digest, so that a change of it still
/// shows.
pub fn capped(mut fields: Vec<Field>) -> Vec<Field> {
    for field in &mut fields {
        if field.value.len() > FIELD_LIMIT {
            let digest = crate::digest::BlobDigest::of(field.value.as_bytes());
            let cut = (0..=FIELD_LIMIT / 2)
                .rev()
                .find(|at| field.value.is_char_boundary(*at))
                .unwrap_or(0);
            field.value = format!(
                "{}… ({} bytes, b3:{digest})",
                &field.value[..cut],
                field.value.len()
            );
        }
    }
    fields
}

impl std::fmt::Display for Caveat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Caveat::Unlocked => "unlocked",
            Caveat::WeakIsolation => "weak isolation",
        })
    }
}

/// Decodes a claim file that should hold claim `id` of `action`. Bounded; for untrusted bytes.
pub fn decode_claim(
    bytes: &[u8],
    action: &ActionDigest,
    id: &ClaimId,
) -> Result<(Claim, Vec<Signature>), String> {
    let file: ClaimFile = unframe(MAGIC, bytes)
        .and_then(decode)
        .map_err(|error| error.to_string())?;
    if ClaimId::of(&file.body) != file.id || file.id != *id {
        return Err(format!("its body is not claim {}", id.short()));
    }
    let claim: Claim = decode(&file.body).map_err(|error| error.to_string())?;
    if claim.action != *action {
        return Err(format!("it is for action {}", claim.action.short()));
    }
    Ok((claim, file.signatures))
}

pub(crate) fn claim_dir(action: &ActionDigest) -> String {
    let hex = action.to_string();
    format!("claims/{}/{hex}", &hex[..2])
}

pub(crate) fn claim_name(action: &ActionDigest, id: &ClaimId) -> String {
    format!("{}/{id}", claim_dir(action))
}

impl Store {
    /// Makes a claim durable. What it names must be durable before: the claim is the one point of commitment.
    pub fn put_claim(&self, claim: &Claim) -> Result<ClaimId> {
        self.put_signed_claim(claim, Vec::new())
    }

    /// Makes a claim with signatures durable.
    pub fn put_signed_claim(&self, claim: &Claim, signatures: Vec<Signature>) -> Result<ClaimId> {
        crash::point("claim.before");
        let body = encode(claim);
        let id = ClaimId::of(&body);
        let bytes = frame(
            MAGIC,
            &encode(&ClaimFile {
                body,
                id,
                signatures,
            }),
        );
        if bytes.len() as u64 > LIMIT {
            return Err(Error::TooLarge {
                what: "a claim",
                size: bytes.len() as u64,
                limit: LIMIT,
            });
        }
        let name = claim_name(&claim.action, &id);
        self.put_record(&name, &bytes, || self.claim(&claim.action, &id).map(|_| ()))?;
        self.index_add(claim, id);
        Ok(id)
    }

    /// One claim. Absent or damaged: a miss.
    pub fn claim(&self, action: &ActionDigest, id: &ClaimId) -> Result<Claim> {
        Ok(self.signed_claim(action, id)?.0)
    }

    /// One claim with its signatures. Absent or damaged: a miss.
    pub fn signed_claim(
        &self,
        action: &ActionDigest,
        id: &ClaimId,
    ) -> Result<(Claim, Vec<Signature>)> {
        let name = claim_name(action, id);
        let bytes = self.read_object(ObjectKind::Claim, &name, LIMIT)?;
        decode_claim(&bytes, action, id)
            .map_err(|reason| self.damaged(ObjectKind::Claim, &name, reason))
    }

    /// The ids of all claims about an Action, sorted.
    pub fn claim_ids(&self, action: &ActionDigest) -> Result<Vec<ClaimId>> {
        let entries = self.entries(&claim_dir(action))?;
        Ok(entries
            .iter()
            .filter_map(|entry| entry.name.parse::<Digest>().ok())
            .map(ClaimId)
            .collect())
    }

    /// All readable claims about an Action, sorted by id; damaged ones are moved away and returned beside them.
    pub fn claims(&self, action: &ActionDigest) -> Result<FoundClaims> {
        let (mut claims, mut misses) = (Vec::new(), Vec::new());
        for id in self.claim_ids(action)? {
            match self.claim(action, &id) {
                Ok(claim) => claims.push((id, claim)),
                Err(error) => misses.push(error.into_miss()?),
            }
        }
        Ok((claims, misses))
    }

    /// Deletes a claim: the Action is built again when it is next asked for.
    pub fn remove_claim(&self, action: &ActionDigest, id: &ClaimId) -> Result<()> {
        self.index_remove(action, id);
        self.fs().remove(&claim_name(action, id), false)
    }
}
