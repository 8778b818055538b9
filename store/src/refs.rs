//! Roots: what is kept by name until the name is removed.
//! Knows names and what they point at, not why it is kept.

use serde::{Deserialize, Serialize};

use crate::blob::BlobRef;
use crate::digest::{ActionDigest, ClaimId};
use crate::error::{Error, Kind, Result};
use crate::layer::LayerRef;
use crate::record::{MAGIC_LEN, decode, encode, frame, unframe};
use crate::store::Store;

const MAGIC: &[u8; MAGIC_LEN] = b"impaROO1";

/// Largest root, in bytes.
const LIMIT: u64 = 64 << 20;

/// Something that is kept with all that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Root {
    /// A claim and its results.
    Claim(ActionDigest, ClaimId),
    /// A layer and those below it.
    Layer(LayerRef),
    /// A file's content.
    Blob(BlobRef),
}

fn name(root: &str) -> Result<String> {
    let plain = !root.is_empty() && root.len() <= 200 && !root.starts_with('.') && !root.contains(['/', '\0']);
    if plain { Ok(format!("roots/{root}")) } else { Err(Error::BadName { name: root.to_owned() }) }
}

impl Store {
    /// Keeps something under a name, durably, in the place of what had the name before.
    pub fn put_root(&self, root: &str, targets: &[Root]) -> Result<()> {
        let name = name(root)?;
        let mut temp = self.fs().temp()?;
        temp.write_all(&frame(MAGIC, &encode(&targets)))?;
        self.fs().publish_over(temp, &name)
    }

    /// What is kept under a name; nothing where there is no such name.
    pub fn root(&self, root: &str) -> Result<Option<Vec<Root>>> {
        let name = name(root)?;
        // A damaged root protects what nobody can name any more: it must not pass as none.
        let damaged = |reason: String| Error::RootDamaged { path: self.fs().full(&name), reason };
        let bytes = match self.fs().read(Kind::Other, &name, LIMIT) {
            Err(error @ (Error::TooLarge { .. } | Error::WrongType { .. })) => return Err(damaged(error.to_string())),
            other => other?,
        };
        let Some(bytes) = bytes else { return Ok(None) };
        let targets = unframe(MAGIC, &bytes).and_then(decode::<Vec<Root>>);
        targets.map(Some).map_err(|error| damaged(error.to_string()))
    }

    /// All names, sorted.
    pub fn roots(&self) -> Result<Vec<String>> {
        Ok(self.fs().list("roots")?.into_iter().map(|entry| entry.name).collect())
    }

    /// Removes a name. What it kept is collected when nothing else keeps it.
    pub fn remove_root(&self, root: &str) -> Result<()> {
        self.fs().remove(&name(root)?, false)
    }
}
