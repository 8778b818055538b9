//! Whether a graph's lock is enough for what is to be built, and the lock without what nothing uses.
//! Knows states and entries; resolves nothing.

use std::collections::HashSet;

use impasto_store::Store;

use super::apply::LockState;
use crate::engine::graph::{Graph, NodeId, NodeMap};
use crate::lock::{self, LockEntry, LockFile, RefusedEntry, TOOLBOX};
use crate::recipe::Recipe;

/// Why a lock is not enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockGap {
    /// What is wrong with the lock: a sentence, without the lock's name at its beginning, and a line for each further stage.
    pub problem: String,
    /// What has to be locked: stages, or [`TOOLBOX`].
    pub names: Vec<String>,
    /// Whether something that the lock has is wrong, so that nothing is added to it before that is right.
    pub is_stale: bool,
}

impl Graph {
    /// The nodes of these that have no right packages.
    pub fn unlocked(&self, needed: &NodeMap<bool>) -> Vec<NodeId> {
        let unlocked = |id: &NodeId| needed[*id] && !self.lock_state(*id).is_locked();
        self.ids().filter(unlocked).collect()
    }

    /// What the lock lacks for nodes that are [`unlocked`](Graph::unlocked).
    pub fn lock_gap(&self, unlocked: &[NodeId]) -> Option<LockGap> {
        let label = |id: &NodeId| &self.node(*id).label;
        let first = unlocked.first()?;
        let mut problem = match self.lock_state(*first) {
            LockState::Stale { why, .. } => format!("is stale: stage {}: {why}", label(first)),
            LockState::Refused { name, why } => refusal(name, why),
            LockState::NoToolbox => {
                format!("does not list the tools that stage {} needs", label(first))
            }
            _ => format!("has no packages for stage {}", label(first)),
        };
        for id in &unlocked[1..] {
            match self.lock_state(*id) {
                LockState::Stale { why, .. } => {
                    problem += &format!("\n  stage {}: {why}", label(id));
                }
                LockState::Refused { name, why } if name != TOOLBOX => {
                    problem += &format!("\n  stage {name}: {why}");
                }
                _ => {}
            }
        }
        let name = |id: &NodeId| match self.lock_state(*id) {
            LockState::Refused { name, .. } => name.clone(),
            _ => self.node(*id).stage.to_string(),
        };
        let mut names: Vec<_> = unlocked.iter().map(name).collect();
        names.dedup();
        let is_wrong = |id: &NodeId| {
            matches!(
                self.lock_state(*id),
                LockState::Stale { .. } | LockState::Refused { .. }
            )
        };
        Some(LockGap {
            problem,
            names,
            is_stale: unlocked.iter().any(is_wrong),
        })
    }

    /// An entry of the lock that cannot be used, or is of no stage of the recipe, needed or not.
    pub fn foreign_entry(&self, recipe: &Recipe) -> Option<LockGap> {
        let is_ghost = |entry: &&LockEntry| !recipe.stage_names.contains(entry.name.as_str());
        let ghost = self.lock().stages.iter().find(is_ghost);
        let (name, problem) = match (self.lock().refused.first(), ghost) {
            (Some(RefusedEntry { name, reason, .. }), _) => (name, refusal(name, reason)),
            (None, Some(LockEntry { name, .. })) => (
                name,
                format!("has packages for stage {name}, which the recipe does not have"),
            ),
            (None, None) => return None,
        };
        Some(LockGap {
            problem,
            names: vec![name.clone()],
            is_stale: true,
        })
    }

    /// Makes the lock what a build of all combinations writes, for a graph that has all of them: parts of the matrix that
    /// were built alone leave entries that name only themselves, or that nothing uses any more.
    pub fn tidy_lock(&mut self, recipe: &Recipe, store: &Store) {
        let Some(tidied) = tidied(self) else {
            return;
        };
        match tidied.save(&lock::path_of(recipe), store.owner()) {
            Ok(()) => self.set_lock(tidied),
            // It serves as it is.
            Err(error) => tracing::debug!(%error, "the lock cannot be tidied"),
        }
    }
}

/// Says of which entry that cannot be used, and why.
fn refusal(name: &str, why: &str) -> String {
    let whose = if name == TOOLBOX {
        "the toolbox".to_owned()
    } else {
        format!("stage {name}")
    };
    format!("cannot be used for {whose}: {why}")
}

/// The lock with every entry of a stage for the combinations that use it today, and without those that none uses; nothing
/// where it is so already. A stage of which a combination is not locked stays as it is.
fn tidied(graph: &Graph) -> Option<LockFile> {
    let lock = graph.lock();
    let mut uses: Vec<Option<Vec<String>>> = vec![None; lock.stages.len()];
    let mut open = HashSet::new();
    let mut locked = HashSet::new();
    for id in graph.ids() {
        let node = graph.node(id);
        match graph.lock_state(id) {
            LockState::Locked(place) => {
                locked.insert(&*node.stage);
                let names = node
                    .combinations
                    .iter()
                    .map(|place| graph.combination_name(*place));
                uses[*place]
                    .get_or_insert_default()
                    .extend(names.filter(|name| !name.is_empty()));
            }
            LockState::NotNeeded => {}
            _ => drop(open.insert(&*node.stage)),
        }
    }
    for (entry, used) in lock.stages.iter().zip(&mut uses) {
        if !locked.contains(entry.name.as_str()) || open.contains(entry.name.as_str()) {
            *used = Some(entry.combinations.clone());
        }
    }
    if lock
        .stages
        .iter()
        .zip(&uses)
        .all(|(entry, used)| used.as_ref() == Some(&entry.combinations))
    {
        return None;
    }
    let used = lock
        .stages
        .iter()
        .zip(uses)
        .filter_map(|(entry, used)| Some((entry, used?)));
    let stages = used
        .map(|(entry, combinations)| LockEntry {
            combinations,
            ..entry.clone()
        })
        .collect();
    let mut tidied = LockFile {
        stages,
        toolbox: lock.toolbox.clone(),
        refused: lock.refused.clone(),
    };
    tidied.sort();
    Some(tidied)
}
