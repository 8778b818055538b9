//! What a run would do: binds every node's inputs as far as they are known, and looks the keys up in the store.
//! Decides and explains; executes nothing and writes nothing but caches.

use std::collections::BTreeSet;

use impasto_stages::action::{Action, ActionTemplate, Bound, Slot};
use impasto_store::claim::{Caveat, FileContent, Isolation, Outputs};
use impasto_store::digest::{ActionDigest, ClaimId, ContentDigest};
use impasto_store::index::ClaimSummary;
use impasto_store::{Error as StoreError, Store};

use crate::graph::{Graph, NodeId};
use crate::inputs::{InputError, Inputs};
use crate::memory::Memory;
use crate::reason::{Names, Reason, changes};

/// A node's result, found or made.
#[derive(Debug, Clone)]
pub struct Hit {
    /// Its key.
    pub action: ActionDigest,
    /// The claim that is believed.
    pub claim: ClaimId,
    /// What came out.
    pub result: Outputs,
    /// What it is to be believed with, inputs' included.
    pub caveats: BTreeSet<Caveat>,
    /// How strongly it was isolated.
    pub isolation: Isolation,
    /// How long it took when it ran, in milliseconds.
    pub wall_ms: u64,
}

impl Hit {
    fn new(action: ActionDigest, summary: ClaimSummary) -> Self {
        Hit {
            action,
            claim: summary.claim,
            result: summary.result,
            caveats: summary.caveats,
            isolation: summary.isolation,
            wall_ms: summary.wall_ms,
        }
    }

    /// The one file of a result that is a file.
    pub fn single_file(&self) -> Option<(&String, &impasto_store::claim::OutputFile)> {
        if self.result.disk.is_some() { None } else { self.result.files.iter().next() }
    }
}

/// What is known of a node before anything runs.
#[derive(Debug, Clone)]
pub enum State {
    /// Its result is known.
    Cached(Hit),
    /// It must run.
    Dirty {
        /// Its key.
        action: ActionDigest,
        /// Why.
        reason: Reason,
    },
    /// It depends on a node that must run; that one's result decides.
    Pending {
        /// The first such node.
        on: NodeId,
    },
}

impl State {
    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self {
            State::Cached(_) => "cached",
            State::Dirty { .. } => "dirty",
            State::Pending { .. } => "pending",
        }
    }
}

/// A node cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// An input of the user's cannot be used.
    #[error("stage {stage}: {source}")]
    Input {
        /// The node's label.
        stage: String,
        /// Which, and why.
        #[source]
        source: InputError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stage made something else than what is needed.
    #[error("stage {stage}: {parent} made {made}, where {needed} is needed")]
    Kind {
        /// The node's label.
        stage: String,
        /// The stage that it needs.
        parent: String,
        /// What that one made.
        made: &'static str,
        /// What is needed.
        needed: &'static str,
    },
    /// A stage did not make the file that is needed.
    #[error("stage {stage}: {parent} made no file {file:?}")]
    NoFile {
        /// The node's label.
        stage: String,
        /// The stage that it needs.
        parent: String,
        /// The file's name.
        file: String,
    },
}

/// Binds nodes and looks them up.
pub struct Planner<'a> {
    /// The nodes.
    pub graph: &'a Graph,
    /// Where results are looked up.
    pub store: &'a Store,
    /// The user's files.
    pub inputs: Inputs,
    /// What is remembered of earlier runs.
    pub memory: Memory,
    /// Nodes that run even where their results are known, by place.
    pub again: Vec<bool>,
}

impl Planner<'_> {
    /// The state of every node that is needed for `wanted`; none for the others.
    ///
    /// # Errors
    /// An input cannot be read, a stage made something else than is needed, or the store failed.
    pub fn plan(&mut self, wanted: &[NodeId]) -> Result<Vec<Option<State>>, PlanError> {
        let needed = self.graph.closure(wanted);
        let graph = self.graph;
        let nodes = graph.ids().filter(|id| needed[id.index()]);
        self.inputs.prefetch(nodes.clone().flat_map(|id| crate::graph::local_paths(graph.node(id))));
        let mut states: Vec<Option<State>> = vec![None; graph.len()];
        for id in nodes {
            let parents = &graph.node(id).parents;
            let open = parents.iter().map(|(_, parent)| *parent).find_map(|parent| match &states[parent.index()] {
                Some(State::Cached(_)) => None,
                Some(State::Pending { on }) => Some(*on),
                _ => Some(parent),
            });
            states[id.index()] = Some(match open {
                Some(on) => State::Pending { on },
                None => {
                    let result = |parent: NodeId| match &states[parent.index()] {
                        Some(State::Cached(hit)) => hit,
                        _ => panic!("BUG: a parent of {} is not known", graph.node(id).label),
                    };
                    let action = self.bind(id, &graph.node(id).lowered.actions[0], result)?;
                    self.look_up(id, &action)?
                }
            });
        }
        Ok(states)
    }

    /// The Action of a node whose parents' results are known.
    ///
    /// # Errors
    /// An input cannot be read, or a parent made something else than is needed.
    pub fn bind<'h>(
        &mut self,
        id: NodeId,
        template: &ActionTemplate,
        result: impl Fn(NodeId) -> &'h Hit,
    ) -> Result<Action<Bound>, PlanError> {
        let node = self.graph.node(id);
        let graph = self.graph;
        let inputs = &mut self.inputs;
        let action = template.clone().bind(|slot| {
            let file = |parent: NodeId, file: &impasto_store::claim::OutputFile, _name: &str| {
                let _ = parent;
                let digest = match &file.content {
                    FileContent::Blob(blob) => blob.digest,
                    FileContent::Derived(derived) => derived.digest,
                };
                Bound { content: ContentDigest::Blob(digest), mode: Some(file.mode) }
            };
            match slot {
                Slot::Local(path) => match inputs.get(&path) {
                    Ok(input) => Ok(input.bound()),
                    Err(source) => Err(PlanError::Input { stage: node.label.clone(), source }),
                },
                Slot::Stage(stage) => {
                    let parent = node.parent(&stage);
                    let hit = result(parent);
                    match (&hit.result.disk, hit.single_file()) {
                        (Some(disk), _) => {
                            Ok(Bound { content: ContentDigest::Disk(disk.layer.disk), mode: None })
                        }
                        (None, Some((name, found))) => Ok(file(parent, found, name)),
                        (None, None) => Err(PlanError::Kind {
                            stage: node.label.clone(),
                            parent: graph.node(parent).label.clone(),
                            made: "nothing",
                            needed: "a disk or a file",
                        }),
                    }
                }
                Slot::StageFile { stage, file: name } => {
                    let parent = node.parent(&stage);
                    match result(parent).result.files.get(&name) {
                        Some(found) => Ok(file(parent, found, &name)),
                        None => Err(PlanError::NoFile {
                            stage: node.label.clone(),
                            parent: graph.node(parent).label.clone(),
                            file: name,
                        }),
                    }
                }
            }
        })?;
        let wrong = |made, needed, slot: Option<&Slot>| PlanError::Kind {
            stage: node.label.clone(),
            parent: match slot {
                Some(Slot::Stage(stage) | Slot::StageFile { stage, .. }) => format!("stage {stage}"),
                Some(Slot::Local(path)) => path.clone(),
                None => "a stage".to_owned(),
            },
            made,
            needed,
        };
        if action.parent.is_some_and(|bound| !matches!(bound.content, ContentDigest::Disk(_))) {
            return Err(wrong("a file", "a disk", template.parent.as_ref()));
        }
        for (name, bound) in &action.inputs {
            if matches!(bound.content, ContentDigest::Disk(_)) {
                return Err(wrong("a disk", "a file", template.inputs.get(name)));
            }
        }
        Ok(action)
    }

    /// Whether a node with this Action is cached or dirty, and why.
    ///
    /// # Errors
    /// The store failed.
    pub fn look_up(&self, id: NodeId, action: &Action<Bound>) -> Result<State, PlanError> {
        let digest = action.digest();
        if self.again[id.index()] {
            return Ok(State::Dirty { action: digest, reason: Reason::Again });
        }
        Ok(match self.believed(id, digest)? {
            Some(hit) => State::Cached(hit),
            None => State::Dirty { action: digest, reason: self.reason(id, action, digest) },
        })
    }

    /// The claim that wins for a node (D4): the one that is remembered for it, else the strongest isolation, else the
    /// smallest id.
    fn believed(&self, id: NodeId, digest: ActionDigest) -> Result<Option<Hit>, PlanError> {
        let mut claims = self.store.lookup(&digest)?;
        if claims.len() > 1 {
            let remembered = self.remembered(id).map(|memory| memory.claim);
            claims.sort_by_key(|claim| {
                (Some(claim.claim) != remembered, std::cmp::Reverse(claim.isolation), claim.claim)
            });
        }
        Ok(claims.into_iter().next().map(|summary| Hit::new(digest, summary)))
    }

    /// What is remembered of a node's last run.
    pub fn remembered(&self, id: NodeId) -> Option<&crate::memory::NodeMemory> {
        let node = self.graph.node(id);
        self.memory.nodes.get(&self.graph.stable_name(&node.stage, node.combinations[0]))
    }

    fn reason(&self, id: NodeId, action: &Action<Bound>, digest: ActionDigest) -> Reason {
        let Some(last) = self.remembered(id) else { return Reason::NeverBuilt };
        if last.action == digest {
            return Reason::Collected;
        }
        // A claim that is gone explains nothing, but the key is another one for sure.
        let Ok(claim) = self.store.claim(&last.action, &last.claim) else { return Reason::Changed(Vec::new()) };
        let now = impasto_store::claim::capped(action.explain());
        let node = self.graph.node(id);
        Reason::Changed(changes(&claim.fields, &now, &Names::new(&node.lowered.actions[0])))
    }
}
