//! The history of a recipe's runs, in `state/<recipe>/`: a cache that may be lost at any time.
//! Knows names and digests; decides nothing.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use impasto_store::Store;
use impasto_store::digest::{ActionDigest, ClaimId, Digest, Hasher, domain};
use impasto_store::sha256::Sha256;
use serde::{Deserialize, Serialize};

use crate::engine::forecast::Durations;
use crate::engine::inputs::Listing;
use crate::recipe::Recipe;

/// The last run of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeHistory {
    pub action: ActionDigest,
    /// What came of it.
    pub claim: ClaimId,
    pub reason: String,
    /// When, in seconds since 1970.
    pub at: u64,
    /// How long it took, in milliseconds.
    pub wall_ms: u64,
    /// Earlier runs, the newest first.
    pub earlier: Vec<(ActionDigest, ClaimId)>,
}

/// How many earlier runs of a node are remembered.
pub(crate) const EARLIER: usize = 32;

impl NodeHistory {
    /// Remembers `before` as the run before this one.
    pub fn after(mut self, before: Option<&NodeHistory>) -> Self {
        if let Some(before) = before {
            let this = (self.action, self.claim);
            let runs = std::iter::once((before.action, before.claim))
                .chain(before.earlier.iter().copied());
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
    #[serde(with = "impasto_store::sha256::text")]
    pub sha256: Sha256,
    /// Device, inode, mtime and ctime in nanoseconds: while they are equal, nobody wrote to it.
    pub stamp: (u64, u64, i128, i128),
}

/// All that is remembered of a recipe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipeHistory {
    /// Nodes by their stable names.
    pub nodes: BTreeMap<String, NodeHistory>,
    /// Files by their absolute paths; what is not UTF-8 in one is replaced.
    pub files: BTreeMap<String, FileMemory>,
}

/// The history of a recipe, and what this run adds to it. It is read when it is first asked for: a plan in which
/// nothing is dirty needs none of it.
pub struct History<'a> {
    state: RecipeState<'a>,
    memory: OnceCell<RecipeHistory>,
    /// What was added and is not written yet.
    news: RecipeHistory,
}

impl<'a> History<'a> {
    /// The history of a recipe, not read yet.
    pub fn new(state: RecipeState<'a>) -> Self {
        History {
            state,
            memory: OnceCell::new(),
            news: RecipeHistory::default(),
        }
    }

    /// The recipe's state, which it is read from.
    pub fn state(&self) -> &RecipeState<'a> {
        &self.state
    }

    /// The last run of a node's unit, by its name.
    pub fn run(&self, name: &str) -> Option<&NodeHistory> {
        self.memory().nodes.get(name)
    }

    /// What was last written to a file, by its absolute path.
    pub fn file(&self, path: &Path) -> Option<&FileMemory> {
        self.memory().files.get(&*path.to_string_lossy())
    }

    /// What an image without descriptions was decided on, by its label.
    pub fn decision(&self, image: &str) -> Option<Digest> {
        let decision = self.memory().files.get(&decision_name(image))?;
        Some(decision.content)
    }

    /// Adds that an image without descriptions was decided on.
    pub fn add_decision(&mut self, image: &str, content: Digest) {
        let file = FileMemory {
            content,
            size: 0,
            sha256: Sha256::of(b""),
            stamp: (0, 0, 0, 0),
        };
        self.add_file(Path::new(&decision_name(image)), file);
    }

    /// Adds a run of a node's unit, after those that are known of it.
    pub fn add_run(&mut self, name: String, run: NodeHistory) {
        let run = run.after(self.run(&name));
        self.memory_mut().nodes.insert(name.clone(), run.clone());
        self.news.nodes.insert(name, run);
    }

    /// Adds a file that was written.
    pub fn add_file(&mut self, path: &Path, file: FileMemory) {
        let path = path.to_string_lossy().into_owned();
        self.memory_mut().files.insert(path.clone(), file.clone());
        self.news.files.insert(path, file);
    }

    /// Writes what was added since the last time; touches nothing where that is nothing.
    ///
    /// # Errors
    /// The store cannot be written. Then it is tried again with the next call.
    pub fn save(&mut self) -> Result<(), impasto_store::Error> {
        if !self.news.nodes.is_empty() || !self.news.files.is_empty() {
            self.state.add(&self.news)?;
            self.news = RecipeHistory::default();
        }
        Ok(())
    }

    /// What is remembered; nothing where it cannot be read.
    fn memory(&self) -> &RecipeHistory {
        self.memory.get_or_init(|| {
            self.state.load().unwrap_or_else(|error| {
                tracing::debug!(%error, "the history cannot be read");
                RecipeHistory::default()
            })
        })
    }

    fn memory_mut(&mut self) -> &mut RecipeHistory {
        self.memory();
        self.memory.get_mut().expect("BUG: just read")
    }
}

/// The name among files of what an image was decided on: no absolute path.
fn decision_name(image: &str) -> String {
    format!("decision {image}")
}

/// The history of one recipe, in a store.
#[derive(Clone)]
pub struct RecipeState<'a> {
    pub(crate) store: &'a Store,
    /// The name of its state, and of its root.
    pub(crate) name: String,
}

/// The state file of what is remembered.
pub(crate) const MEMORY: &str = "memory";
/// The state file of how long stages took.
const DURATIONS: &str = "durations";

/// The names of the recipes that a store has a state of.
pub(crate) fn recipes(store: &Store) -> Result<Vec<String>, impasto_store::Error> {
    let mut names = store.state_list(&[])?;
    // These are the store's own.
    names.retain(|name| {
        !matches!(
            name.as_str(),
            "index" | "inputs" | "stamps" | "logs" | "trees" | "caches"
        )
    });
    Ok(names)
}

impl<'a> RecipeState<'a> {
    /// The state of a recipe: it goes by the recipe's name and the hash of its path.
    pub fn new(store: &'a Store, recipe: &Recipe) -> Self {
        RecipeState {
            store,
            name: state_name(&recipe.name, &recipe.path),
        }
    }

    /// What is remembered; nothing where it was lost or is of another version.
    pub fn load(&self) -> Result<RecipeHistory, impasto_store::Error> {
        let bytes = match self.store.state_look(&[&self.name, MEMORY])? {
            Some(Ok(bytes)) => Some(bytes),
            // Where there is no root yet, it must not pass as nothing: see `roots`.
            Some(Err(_)) if !self.store.has_root(&self.name)? => None,
            // Moved away, so that it is found damaged once.
            Some(Err(_)) => self.store.state_read(&[&self.name, MEMORY])?,
            None => None,
        };
        Ok(bytes
            .and_then(|bytes| rmp_serde::from_slice(&bytes).ok())
            .unwrap_or_default())
    }

    /// Remembers more. What another build of the recipe remembered meanwhile stays.
    fn add(&self, news: &RecipeHistory) -> Result<(), impasto_store::Error> {
        let mut memory = self.load()?;
        memory.nodes.extend(news.nodes.clone());
        memory.files.extend(news.files.clone());
        let bytes = rmp_serde::to_vec(&memory).expect("BUG: memory cannot be encoded");
        self.store.state_write(&[&self.name, MEMORY], &bytes)
    }

    /// How long stages took when they last ran; nothing where that was lost.
    pub fn durations(&self) -> Durations {
        let read = self.store.state_read(&[&self.name, DURATIONS]);
        let bytes = read
            .inspect_err(|error| tracing::debug!(%error, "the durations cannot be read"))
            .ok()
            .flatten();
        bytes
            .and_then(|bytes| rmp_serde::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// Remembers how long stages took. What another build of the recipe remembered meanwhile stays.
    pub fn add_durations(&self, news: &Durations) -> Result<(), impasto_store::Error> {
        let mut durations = self.durations();
        durations.stages.extend(news.stages.clone());
        let bytes = rmp_serde::to_vec(&durations).expect("BUG: durations cannot be encoded");
        self.store.state_write(&[&self.name, DURATIONS], &bytes)
    }

    /// Remembers what the directories held that an Action read, by the input's name: in place of what its node read before.
    /// It only tells users which files changed, so that it may be lost.
    pub fn add_listings(
        &self,
        node: &str,
        action: &ActionDigest,
        listings: BTreeMap<String, Listing>,
    ) {
        let bytes = rmp_serde::to_vec(&(action, listings)).expect("BUG: lists cannot be encoded");
        let written = self
            .store
            .state_write(&[&self.name, &listing_file(node)], &bytes);
        if let Err(error) = written {
            tracing::debug!(%error, "what a directory held is not remembered");
        }
    }

    /// What directories held when this Action read them, by the input's name; nothing where that is not known.
    pub fn listings(&self, node: &str, action: &ActionDigest) -> BTreeMap<String, Listing> {
        let read = || {
            let bytes = self.store.state_read(&[&self.name, &listing_file(node)]);
            let read = rmp_serde::from_slice::<(ActionDigest, _)>(&bytes.ok()??);
            let (of, listings) = read.ok()?;
            (of == *action).then_some(listings)
        };
        read().unwrap_or_default()
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

/// The state file of what the directories of a node held.
fn listing_file(node: &str) -> String {
    format!("inputs-{}", file_name(node))
}

/// A file name for a node: readable, and one for each stable name.
pub fn file_name(stable_name: &str) -> String {
    let readable: String = stable_name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "-_=.".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    let digest = Hasher::new(domain::STATE)
        .update(stable_name.as_bytes())
        .finish();
    format!(
        "{}-{}",
        readable
            .trim_start_matches('.')
            .chars()
            .take(80)
            .collect::<String>(),
        digest.short()
    )
}

fn state_name(name: &str, path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let digest = Hasher::new(domain::STATE)
        .update(path.as_os_str().as_bytes())
        .finish();
    let readable: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "-_".contains(c) {
                c
            } else {
                '_'
            }
        })
        .take(80)
        .collect();
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
