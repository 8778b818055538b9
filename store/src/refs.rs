//! Roots: what is kept by name, by a user until the name is removed, by a checkout of a recipe until it is not used any more.
//! Knows names and what they point at, not why it is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

use crate::blob::BlobRef;
use crate::digest::{ActionDigest, ClaimId};
use crate::error::{Error, ObjectKind, Result};
use crate::layer::LayerRef;
use crate::record::{MAGIC_LEN, decode, decode_unchecked, encode, frame, unframe};
use crate::store::Store;

const MAGIC: &[u8; MAGIC_LEN] = b"impaROO1";
const CHECKOUT_MAGIC: &[u8; MAGIC_LEN] = b"impaCHK1";

/// Largest root, in bytes.
const LIMIT: u64 = 64 << 20;

/// Something that is kept with all that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Root {
    /// A claim and its results.
    Claim(ActionDigest, ClaimId),
    /// A layer and those below it.
    Layer(LayerRef),
    Blob(BlobRef),
}

/// What a checkout of a recipe keeps. Changing its fields is a format break.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkout {
    /// What each unit of work came to when it was last used, under the name of its node, and before that: the newest
    /// first.
    pub results: BTreeMap<String, Vec<(ActionDigest, ClaimId)>>,
    /// SHA-256, in hexadecimal, of the package files that its lock names.
    pub packages: BTreeSet<String>,
    /// Names of the trees in `state/trees` that it uses.
    pub trees: BTreeSet<String>,
}

/// What a file in `roots/` holds.
pub(crate) enum RootFile {
    Targets(Vec<Root>),
    Checkout(Checkout),
}

/// Checkouts by the names of their roots.
pub type Checkouts = BTreeMap<String, Checkout>;

fn name(root: &str) -> Result<String> {
    let plain = !root.is_empty()
        && root.len() <= 200
        && !root.starts_with('.')
        && !root.contains(['/', '\0']);
    if plain {
        Ok(format!("roots/{root}"))
    } else {
        Err(Error::BadName {
            name: root.to_owned(),
        })
    }
}

impl Checkout {
    /// The last `count` results of each unit of work.
    pub fn last(&self, count: usize) -> impl Iterator<Item = Root> {
        self.results
            .values()
            .flat_map(move |runs| runs.iter().take(count))
            .map(|(action, claim)| Root::Claim(*action, *claim))
    }
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
        Ok(self.root_file(root)?.map(|file| match file {
            RootFile::Targets(targets) => targets,
            RootFile::Checkout(checkout) => checkout.last(usize::MAX).collect(),
        }))
    }

    pub(crate) fn root_file(&self, root: &str) -> Result<Option<RootFile>> {
        let name = name(root)?;
        // A damaged root protects what nobody can name any more: it must not pass as none.
        let damaged = |reason: String| Error::RootDamaged {
            path: self.fs().full(&name),
            reason,
        };
        let bytes = match self.fs().read(ObjectKind::Other, &name, LIMIT) {
            Err(error @ (Error::TooLarge { .. } | Error::WrongType { .. })) => {
                return Err(damaged(error.to_string()));
            }
            other => other?,
        };
        let Some(bytes) = bytes else { return Ok(None) };
        let file = if bytes.starts_with(CHECKOUT_MAGIC) {
            unframe(CHECKOUT_MAGIC, &bytes)
                .and_then(decode_unchecked)
                .map(RootFile::Checkout)
        } else {
            unframe(MAGIC, &bytes)
                .and_then(decode)
                .map(RootFile::Targets)
        };
        file.map(Some).map_err(|error| damaged(error.to_string()))
    }

    /// What a checkout keeps; nothing where it has no root yet.
    ///
    /// # Errors
    /// The root is damaged or cannot be read.
    pub fn checkout(&self, root: &str) -> Result<Option<Checkout>> {
        match self.root_file(root)? {
            Some(RootFile::Checkout(checkout)) => Ok(Some(checkout)),
            Some(RootFile::Targets(_)) => {
                let path = self.fs().full(&name(root)?);
                Err(Error::RootDamaged {
                    path,
                    reason: "it is not a checkout's".to_owned(),
                })
            }
            None => Ok(None),
        }
    }

    /// Keeps what a checkout uses, durably, in the place of what it kept before.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn put_checkout(&self, root: &str, checkout: &Checkout) -> Result<()> {
        let name = name(root)?;
        let mut temp = self.fs().temp()?;
        temp.write_all(&frame(CHECKOUT_MAGIC, &encode(checkout)))?;
        self.fs().publish_over(temp, &name)
    }

    /// Changes what a checkout keeps, where `change` says that it changed something; it is asked again about what
    /// another build wrote meanwhile. A checkout without root begins with what `first` gives.
    ///
    /// # Errors
    /// The root is damaged, or the store cannot be written.
    pub fn update_checkout(
        &self,
        root: &str,
        first: impl Fn() -> Result<Checkout>,
        change: impl Fn(&mut Checkout) -> bool,
    ) -> Result<()> {
        let changed = || -> Result<Option<Checkout>> {
            let before = self.checkout(root)?;
            let is_new = before.is_none();
            let mut checkout = before.map_or_else(&first, Ok)?;
            Ok((change(&mut checkout) || is_new).then_some(checkout))
        };
        if changed()?.is_none() {
            return Ok(());
        }
        let _lock = self.fs().lock_dir("roots")?;
        match changed()? {
            Some(checkout) => self.put_checkout(root, &checkout),
            None => Ok(()),
        }
    }

    /// Says that a checkout was just used, where that was last said before `before`, in seconds since 1970.
    pub fn freshen_checkout(&self, root: &str, before: i64) -> Result<()> {
        let name = name(root)?;
        if self
            .fs()
            .stat(&name)?
            .is_some_and(|stat| stat.mtime() < before)
        {
            self.fs().freshen(&name);
        }
        Ok(())
    }

    /// The checkouts that were used within so many seconds by the store's own clock, and the names of the others.
    ///
    /// # Errors
    /// A root is damaged or cannot be read.
    pub fn checkouts(&self, expire_secs: u64) -> Result<(Checkouts, Vec<String>)> {
        let (mut used, mut expired) = (BTreeMap::new(), Vec::new());
        let before = self.expired_before(expire_secs)?;
        for root in self.roots()? {
            let Some(RootFile::Checkout(checkout)) = self.root_file(&root)? else {
                continue;
            };
            match self.fs().stat(&name(&root)?)? {
                Some(stat) if stat.mtime() <= before => expired.push(root),
                Some(_) => drop(used.insert(root, checkout)),
                None => {}
            }
        }
        Ok((used, expired))
    }

    fn expired_before(&self, expire_secs: u64) -> Result<i64> {
        Ok(self
            .fs()
            .now()?
            .secs
            .saturating_sub(i64::try_from(expire_secs).unwrap_or(i64::MAX)))
    }

    /// Whether something is kept under a name, or was before its file was damaged.
    pub fn has_root(&self, root: &str) -> Result<bool> {
        Ok(self.fs().stat(&name(root)?)?.is_some())
    }

    /// All names, sorted.
    pub fn roots(&self) -> Result<Vec<String>> {
        Ok(self
            .fs()
            .list("roots")?
            .into_iter()
            .map(|entry| entry.name)
            .collect())
    }

    /// Removes a name. What it kept is collected when nothing else keeps it.
    pub(crate) fn remove_root(&self, root: &str) -> Result<()> {
        self.fs().remove(&name(root)?, false)
    }
}
