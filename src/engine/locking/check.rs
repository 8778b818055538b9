//! Whether a graph's lock is enough for what is to be built, and the lock without what nothing uses.
//! Knows states and entries; resolves nothing.

use std::collections::HashSet;

use impasto_store::Store;

use super::apply::{LockState, source_request};
use crate::engine::graph::{Graph, Node, NodeId, NodeMap};
use crate::lock::{self, LockEntry, LockFile, LockSource, RefusedEntry, TOOLBOX};
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
            LockState::Stale { why, .. } | LockState::StaleSource { why } => {
                format!("is stale: stage {}: {why}", label(first))
            }
            LockState::Refused { name, why } => refusal(name, why),
            LockState::NoToolbox => {
                format!("does not list the tools that stage {} needs", label(first))
            }
            _ if source_request(self.node(*first)).is_some() => {
                format!("does not say what stage {} fetches", label(first))
            }
            _ => format!("has no packages for stage {}", label(first)),
        };
        for id in &unlocked[1..] {
            match self.lock_state(*id) {
                LockState::Stale { why, .. } | LockState::StaleSource { why } => {
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
                LockState::Stale { .. } | LockState::StaleSource { .. } | LockState::Refused { .. }
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
        let is_ghost = |name: &&String| !recipe.stage_names.contains(name.as_str());
        let lock = self.lock();
        let packages = lock.stages.iter().map(|entry| &entry.name).find(is_ghost);
        let source = lock
            .sources
            .iter()
            .map(|source| &source.name)
            .find(is_ghost);
        let ghost = packages
            .map(|name| (name, "packages"))
            .or(source.map(|name| (name, "a source")));
        let (name, problem) = match (self.lock().refused.first(), ghost) {
            (Some(RefusedEntry { name, reason, .. }), _) => (name, refusal(name, reason)),
            (None, Some((name, what))) => (
                name,
                format!("has {what} for stage {name}, which the recipe does not have"),
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
/// where it is so already. A stage of which a combination is not locked stays as it is, and so does an entry for other
/// values of the same axes: where variables choose them, the next build may ask for those.
fn tidied(graph: &Graph) -> Option<LockFile> {
    let lock = graph.lock();
    let mut packages = EntryUses::new(lock.stages.len());
    let mut sources = EntryUses::new(lock.sources.len());
    for id in graph.ids() {
        let node = graph.node(id);
        match graph.lock_state(id) {
            LockState::Locked(place) => packages.uses(graph, node, *place),
            LockState::Source(place) => sources.uses(graph, node, *place),
            LockState::NotNeeded => {}
            _ => {
                packages.open.insert(&node.stage);
                sources.open.insert(&node.stage);
            }
        }
    }
    let named = |entry: &LockEntry| (entry.name.clone(), entry.combinations.clone());
    let stages = packages.tidied(graph, lock.stages.iter().map(named));
    let named = |source: &LockSource| (source.name.clone(), source.combinations.clone());
    let sources = sources.tidied(graph, lock.sources.iter().map(named));
    if stages.is_none() && sources.is_none() {
        return None;
    }
    let mut tidied = lock.clone();
    if let Some(stages) = stages {
        let entries = lock.stages.iter().zip(stages);
        tidied.stages = entries
            .filter_map(|(entry, combinations)| {
                Some(LockEntry {
                    combinations: combinations?,
                    ..entry.clone()
                })
            })
            .collect();
    }
    if let Some(used) = sources {
        let entries = lock.sources.iter().zip(used);
        tidied.sources = entries
            .filter_map(|(source, combinations)| {
                Some(LockSource {
                    combinations: combinations?,
                    ..source.clone()
                })
            })
            .collect();
    }
    tidied.sort();
    Some(tidied)
}

/// For which combinations the entries of one table are used.
struct EntryUses<'g> {
    /// By entry; none for one that nothing uses.
    used: Vec<Option<Vec<String>>>,
    /// Stages of which a combination is locked.
    locked: HashSet<&'g str>,
    /// Stages of which one is not.
    open: HashSet<&'g str>,
}

impl<'g> EntryUses<'g> {
    fn new(entries: usize) -> EntryUses<'g> {
        EntryUses {
            used: vec![None; entries],
            locked: HashSet::new(),
            open: HashSet::new(),
        }
    }

    /// Notes that a node uses an entry.
    fn uses(&mut self, graph: &Graph, node: &'g Node, place: usize) {
        self.locked.insert(&node.stage);
        let names = node
            .combinations
            .iter()
            .map(|place| graph.combination_name(*place));
        self.used[place]
            .get_or_insert_default()
            .extend(names.filter(|name| !name.is_empty()));
    }

    /// The combinations that each entry is to name; none where all do so already.
    fn tidied(
        mut self,
        graph: &Graph,
        entries: impl Iterator<Item = (String, Vec<String>)>,
    ) -> Option<Vec<Option<Vec<String>>>> {
        let is_elsewhere = |name: &String| graph.is_combination_elsewhere(name);
        let mut is_tidy = true;
        for ((name, combinations), used) in entries.zip(&mut self.used) {
            if !self.locked.contains(name.as_str()) || self.open.contains(name.as_str()) {
                *used = Some(combinations);
                continue;
            }
            // As nearly always: then all are the graph's own.
            if used.as_ref() == Some(&combinations) {
                continue;
            }
            if combinations.iter().any(is_elsewhere) {
                let mut mine = used.take().unwrap_or_default();
                let mut names = combinations.clone();
                names.retain(|name| is_elsewhere(name) || mine.contains(name));
                mine.retain(|name| !combinations.contains(name));
                *used = Some([names, mine].concat());
            }
            is_tidy &= used.as_ref() == Some(&combinations);
        }
        (!is_tidy).then_some(self.used)
    }
}
