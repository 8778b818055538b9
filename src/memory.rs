//! What is remembered of a recipe's runs, in `state/<recipe>/`: a cache that may be lost at any time.
//! Knows names and digests; decides nothing.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use impasto_store::Store;
use impasto_store::digest::{ActionDigest, ClaimId, Digest, Hasher, domain};
use serde::{Deserialize, Serialize};

use crate::recipe::Recipe;

/// The last run of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeMemory {
    /// What was done.
    pub action: ActionDigest,
    /// What came of it.
    pub claim: ClaimId,
    /// Why it ran.
    pub reason: String,
    /// When, in seconds since 1970.
    pub at: u64,
    /// How long it took, in milliseconds.
    pub wall_ms: u64,
    /// Earlier runs, the newest first: what `gc --keep` counts.
    pub earlier: Vec<(ActionDigest, ClaimId)>,
}

/// How many earlier runs of a node are remembered.
const EARLIER: usize = 32;

impl NodeMemory {
    /// Remembers `before` as the run before this one.
    pub fn after(mut self, before: Option<&NodeMemory>) -> Self {
        if let Some(before) = before {
            let this = (self.action, self.claim);
            let runs = std::iter::once((before.action, before.claim)).chain(before.earlier.iter().copied());
            self.earlier = runs.filter(|run| *run != this).take(EARLIER).collect();
        }
        self
    }

    /// This run and those before it, the newest first.
    pub fn runs(&self) -> impl Iterator<Item = (ActionDigest, ClaimId)> {
        std::iter::once((self.action, self.claim)).chain(self.earlier.iter().copied())
    }
}

/// A file that was written for the user, as it was then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMemory {
    /// The digest of what it holds.
    pub content: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
    /// Device, inode, mtime and ctime in nanoseconds: while they are equal, nobody wrote to it.
    pub stamp: (u64, u64, i128, i128),
}

/// All that is remembered of a recipe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Nodes by their stable names.
    pub nodes: BTreeMap<String, NodeMemory>,
    /// Files by their absolute paths; what is not UTF-8 in one is replaced.
    pub files: BTreeMap<String, FileMemory>,
}

/// A recipe's memory, read when it is first asked for: a plan in which nothing is dirty needs none of it.
pub struct LazyMemory<'a> {
    state: RecipeState<'a>,
    memory: OnceCell<Memory>,
}

impl<'a> LazyMemory<'a> {
    /// The memory of a recipe, not read yet.
    pub fn new(state: RecipeState<'a>) -> Self {
        LazyMemory { state, memory: OnceCell::new() }
    }

    /// What is remembered; nothing where it cannot be read.
    pub fn get(&self) -> &Memory {
        self.memory.get_or_init(|| {
            self.state.load().unwrap_or_else(|error| {
                tracing::debug!(%error, "nothing is remembered");
                Memory::default()
            })
        })
    }

    /// What is remembered, to add to it.
    pub fn get_mut(&mut self) -> &mut Memory {
        self.get();
        self.memory.get_mut().expect("BUG: just read")
    }
}

/// The memory of one recipe, in a store.
#[derive(Clone)]
pub struct RecipeState<'a> {
    store: &'a Store,
    name: String,
}

const FILE: &str = "memory";

const PACKAGES: &str = "packages";

/// What of packages a recipe uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedPackages {
    /// SHA-256 of files, in hexadecimal.
    pub files: BTreeSet<String>,
    /// Names of the toolbox' trees.
    pub trees: BTreeSet<String>,
}

/// The names of the recipes that a store has a state of.
fn recipes(store: &Store) -> Result<Vec<String>, impasto_store::Error> {
    let mut names = store.state_list(&[])?;
    // These are the store's own.
    names.retain(|name| !matches!(name.as_str(), "index" | "inputs" | "stamps" | "logs" | "trees" | "caches"));
    Ok(names)
}

/// What of packages the recipes of a store use.
///
/// # Errors
/// The store cannot be read.
pub fn used_packages(store: &Store) -> Result<UsedPackages, impasto_store::Error> {
    let mut all = UsedPackages::default();
    for name in recipes(store)? {
        if store.state_list(&[&name])?.iter().any(|file| file == PACKAGES) {
            let bytes = store.state_read(&[&name, PACKAGES])?;
            // What cannot be read keeps nothing: it is fetched again.
            let used = bytes.and_then(|bytes| rmp_serde::from_slice::<UsedPackages>(&bytes).ok()).unwrap_or_default();
            all.files.extend(used.files);
            all.trees.extend(used.trees);
        }
    }
    Ok(all)
}

impl<'a> RecipeState<'a> {
    /// The state of a recipe: it goes by the recipe's name and the hash of its path.
    pub fn new(store: &'a Store, recipe: &Recipe) -> Self {
        RecipeState { store, name: state_name(&recipe.name, &recipe.path) }
    }

    /// What is remembered; nothing where it was lost or is of another version.
    pub fn load(&self) -> Result<Memory, impasto_store::Error> {
        let bytes = self.store.state_read(&[&self.name, FILE])?;
        Ok(bytes.and_then(|bytes| rmp_serde::from_slice(&bytes).ok()).unwrap_or_default())
    }

    /// Remembers more. What another build of the recipe remembered meanwhile stays.
    pub fn add(&self, news: Memory) -> Result<(), impasto_store::Error> {
        let mut memory = self.load()?;
        memory.nodes.extend(news.nodes);
        memory.files.extend(news.files);
        let bytes = rmp_serde::to_vec(&memory).expect("BUG: memory cannot be encoded");
        self.store.state_write(&[&self.name, FILE], &bytes)
    }

    /// Remembers what of packages the recipe uses: the collector keeps it.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn keep_packages(&self, used: &UsedPackages) -> Result<(), impasto_store::Error> {
        let bytes = rmp_serde::to_vec(used).expect("BUG: names cannot be encoded");
        self.store.state_write(&[&self.name, PACKAGES], &bytes)
    }

    /// The directory of its logs; made where it is missing.
    pub fn logs(&self) -> Result<PathBuf, impasto_store::Error> {
        self.store.log_dir(&[&self.name])
    }

    /// The directory of the states in which stages failed; made where it is missing.
    pub fn failed(&self) -> Result<PathBuf, impasto_store::Error> {
        self.store.private_dir(&[&self.name, "failed"])
    }
}

/// The memories of all recipes in a store.
///
/// One that cannot be read is the name of its recipe's state instead: what it would have kept is not known.
///
/// # Errors
/// The store cannot be read.
pub fn all(store: &Store) -> Result<Vec<Result<Memory, String>>, impasto_store::Error> {
    let mut memories = Vec::new();
    for name in recipes(store)? {
        if store.state_list(&[&name])?.iter().any(|file| file == FILE) {
            let bytes = store.state_read(&[&name, FILE])?;
            let memory = bytes.and_then(|bytes| rmp_serde::from_slice::<Memory>(&bytes).ok());
            memories.push(memory.ok_or(name));
        }
    }
    Ok(memories)
}

/// A file name for a node: readable, and one for each stable name.
pub fn file_name(stable_name: &str) -> String {
    let readable: String =
        stable_name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_=.".contains(c) { c } else { '_' }).collect();
    let digest = Hasher::new(domain::STATE).update(stable_name.as_bytes()).finish();
    format!("{}-{}", readable.trim_start_matches('.').chars().take(80).collect::<String>(), digest.short())
}

fn state_name(name: &str, path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let digest = Hasher::new(domain::STATE).update(path.as_os_str().as_bytes()).finish();
    let readable: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '_' }).take(80).collect();
    format!("{readable}-{}", digest.short())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_apart() {
        assert!(file_name("tools[variant=a/b]").starts_with("tools_variant=a_b_-"));
        assert_ne!(file_name("a/b"), file_name("a_b"));
        assert!(state_name("../x", Path::new("/r")).starts_with("___x-"));
    }
}
