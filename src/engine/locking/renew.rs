//! Resolves what the lock lacks, or what is to be resolved again: stage by stage, each on what those below it install.
//! Knows stages and entries; asks a [`PackageManager`].

use std::collections::BTreeMap;

use impasto_stages::ActionTemplate;
use impasto_stages::package_set::{ARCHITECTURE, PackageRequest, RequestRoot};
use impasto_store::Error as StoreError;

use super::apply::{LockState, LockWalk, below, source_request, tool_needs};
use super::run::LockRun;
use crate::debian::mirror::MirrorError;
use crate::engine::cause::{SourceLocation, What};
use crate::engine::graph::{Graph, Node, NodeId, NodeMap};
use crate::lock::{
    BaseLayer, InstalledBase, LockEntry, LockError, LockFile, LockSource, LockTable, ManagerError,
    PackageManager, Pinning, ResolveQuery, TOOLBOX, ToolNeed,
};
use crate::source::SourceLookupError;

/// What happens to a node's entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// It stays, where it is right.
    Stay,
    /// All of it is resolved again.
    All,
    /// Packages of these names get other versions; the others stay as they are.
    Only(Vec<String>),
}

/// The state files of a disk image, by their paths.
pub(super) type ImageFiles = BTreeMap<String, Vec<u8>>;

/// What is to become of a lock.
pub struct Renewal {
    /// What to do with each node's entry; none for nodes that are not asked for.
    pub choices: NodeMap<Option<Choice>>,
    /// Whether the tools of impasto itself are resolved again.
    pub tools: bool,
    /// Whether entries go whose stages the recipe does not have any more.
    pub prune: bool,
    /// Whether nothing is written.
    pub dry_run: bool,
}

/// A lock that could not be renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// A stage's packages could not be resolved.
    #[error("the packages of stage {stage} cannot be resolved{}", at(.place.as_ref()))]
    Manager {
        stage: String,
        /// Where the recipe says what cannot be had, or where the stage begins.
        place: Option<SourceLocation>,
        source: ManagerError,
    },
    /// What an archive says of a package cannot be locked: the next run would refuse it.
    #[error("the packages of stage {stage} cannot be locked: {problem}")]
    Unusable {
        stage: String,
        /// What the next run would refuse: which field of which package of which archive.
        problem: String,
    },
    /// A stage below is not resolved itself.
    #[error(
        "the packages of stage {stage} depend on those of stage {below}, which are no longer locked"
    )]
    Below { stage: String, below: String },
    /// What a stage gets from elsewhere cannot be had, or not be believed.
    #[error("what stage {stage} fetches cannot be locked{}", at(.place.as_ref()))]
    Source {
        stage: String,
        /// Where the stage begins.
        place: Option<SourceLocation>,
        source: SourceLookupError,
    },
    /// What was downloaded cannot be kept.
    #[error(transparent)]
    Store(StoreError),
    /// The disk image that a stage begins with cannot be read.
    #[error("the packages of stage {stage}'s disk cannot be read: {reason}")]
    Image { stage: String, reason: String },
    /// Nobody can be asked.
    #[error("the mirror cannot be used: {reason}")]
    Mirror { reason: MirrorError },
    /// What was resolved cannot be written.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The user ended it; the lock is as it was.
    #[error("interrupted while packages were resolved")]
    Interrupted,
}

impl RenewError {
    /// A node's packages could not be resolved.
    pub fn of_node(node: &Node, shown_dir: &str, source: ManagerError) -> RenewError {
        let origins = node
            .lowered
            .actions
            .first()
            .map(|action| &action.hints.origins);
        let line =
            origins.and_then(|origins| source.about.iter().find_map(|line| origins.get(line)));
        let place = line
            .or(node.place.as_ref())
            .map(|origin| SourceLocation::of(What::Value, shown_dir, origin));
        RenewError::Manager {
            stage: node.label.clone(),
            place,
            source,
        }
    }
}

/// A place at the end of a message.
fn at(place: Option<&SourceLocation>) -> String {
    place.map_or(String::new(), |place| format!(" ({place})"))
}

/// Renews a lock, step by step.
pub(super) struct Renewer<'r, 'a> {
    pub(super) run: &'r mut LockRun<'a>,
    pub(super) graph: &'r Graph,
    pub(super) manager: &'r dyn PackageManager,
    pub(super) renewal: &'r Renewal,
    /// The state files of disk images that were read.
    pub(super) images: BTreeMap<NodeId, ImageFiles>,
}

impl Renewer<'_, '_> {
    /// Changes `lock` as the choices say. Stages that are stale because one below them changed are resolved again too,
    /// each package as it was where that still fits.
    ///
    /// # Errors
    /// A stage cannot be resolved; then `lock` is changed as far as was done.
    pub(super) fn renew(&mut self, lock: &mut LockFile) -> Result<(), RenewError> {
        self.renew_toolbox(lock)?;
        let (graph, renewal) = (self.graph, self.renewal);
        let mut resolved = NodeMap::filled(false, graph.len());
        // Stages that are not resolved, and what stands on them.
        let mut open: NodeMap<Option<NodeId>> = NodeMap::filled(None, graph.len());
        let mut walk = LockWalk::default();
        for id in graph.ids() {
            let node = graph.node(id);
            let (mut state, against) = walk.look(graph, lock, id);
            let changed_below = below(node).is_some_and(|below| resolved[below]);
            resolved[id] = changed_below;
            if let Some(entry) = self.renewed_source(lock, id, &state)? {
                let before = match &state {
                    LockState::Source(place) => lock.sources[*place].sha256,
                    _ => None,
                };
                resolved[id] |= before != entry.sha256;
                put_source(lock, entry);
                let against;
                (state, against) = walk.look(graph, lock, id);
                walk.pass(graph, lock, id, &state, &against);
                continue;
            }
            let place = match &state {
                LockState::Locked(place) | LockState::Stale { entry: place, .. } => Some(*place),
                _ => None,
            };
            let before = place.map(|place| lock.stages[place].clone());
            let choice = renewal.choices[id].as_ref();
            let keep = keep(choice, &state, before.as_ref(), changed_below);
            let own = node.lowered.request.as_ref().is_some_and(is_own_root);
            let open_below = below(node).and_then(|below| open[below]).filter(|_| !own);
            if let (Some(keep), Some(request)) = (keep, &node.lowered.request) {
                if let Some(below) = open_below {
                    let (stage, below) = (node.label.clone(), graph.node(below).stage.to_string());
                    return Err(RenewError::Below { stage, below });
                }
                let entry = LockEntry {
                    against: against.clone(),
                    ..self.resolve(lock, id, request, keep)?
                };
                check(&entry, &node.label)?;
                let same = before.as_ref().is_some_and(|before| {
                    before.set() == entry.set() && before.against == entry.against
                });
                resolved[id] |= !same;
                state = LockState::Locked(put(lock, entry));
            }
            open[id] = if state.is_locked() {
                open_below
            } else {
                Some(id)
            };
            walk.pass(graph, lock, id, &state, &against);
        }
        if renewal.prune {
            let stages = &self.run.recipe.stage_names;
            lock.sources
                .retain(|source| stages.contains(source.name.as_str()));
            lock.stages
                .retain(|entry| stages.contains(entry.name.as_str()));
            lock.refused.retain(|entry| {
                entry.table == LockTable::Toolbox || stages.contains(entry.name.as_str())
            });
        }
        lock.sort();
        Ok(())
    }

    /// What a node's source comes to now, where its choice says that it is asked for.
    fn renewed_source(
        &mut self,
        lock: &LockFile,
        id: NodeId,
        state: &LockState,
    ) -> Result<Option<LockSource>, RenewError> {
        let before = match state {
            LockState::Source(place) => Some(&lock.sources[*place]),
            _ => None,
        };
        if source_request(self.graph.node(id)).is_none() {
            return Ok(None);
        }
        match (self.renewal.choices[id].as_ref(), state) {
            (Some(Choice::All), _) | (Some(Choice::Stay), LockState::Missing) => {
                self.run.resolve_source(self.graph, id, before).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Asks the package manager for a node's packages, and makes its answer the node's entry.
    fn resolve(
        &mut self,
        lock: &LockFile,
        id: NodeId,
        request: &PackageRequest,
        keep: Pinning<'_>,
    ) -> Result<LockEntry, RenewError> {
        let (graph, manager, recipe) = (self.graph, self.manager, self.run.recipe);
        let node = graph.node(id);
        let begun = self.run.begin(&node.label);
        if !is_own_root(request)
            && let Some(image) = self.image_of(id)
            && !self.images.contains_key(&image)
        {
            let files = self.run.image_files(graph, image, manager.state_files())?;
            self.images.insert(image, files);
        }
        let images = &self.images;
        let tools = lock
            .toolbox
            .iter()
            .find(|entry| entry.architecture == ARCHITECTURE);
        let query = ResolveQuery {
            request,
            below: base_of(graph, lock, id, |image| images.get(&image)),
            secrets: &node.lowered.secrets,
            dir: &recipe.dir,
            scope: &recipe.scope,
            keep,
            tools: tools.expect("BUG: packages are resolved without tools"),
        };
        let answer = self
            .run
            .watch(Some(&node.label), || manager.resolve(&query));
        let entry =
            answer.map_err(|source| RenewError::of_node(node, &self.run.config.dir, source))?;
        self.run.end(&node.label, &entry, begun);
        let combinations = node
            .combinations
            .iter()
            .map(|place| graph.combination_name(*place));
        Ok(LockEntry {
            name: node.stage.to_string(),
            combinations: combinations.filter(|name| !name.is_empty()).collect(),
            request: request.lines(),
            ..entry
        })
    }

    /// Resolves the tools, where something that is asked for needs them and they are not there, or are to be newer.
    fn renew_toolbox(&mut self, lock: &mut LockFile) -> Result<(), RenewError> {
        let needed = self.needs_tools();
        let place = lock
            .toolbox
            .iter()
            .position(|entry| entry.architecture == ARCHITECTURE);
        let mut lines = self.tool_needs();
        let known = place.is_some_and(|place| {
            lines
                .iter()
                .all(|line| lock.toolbox[place].request.contains(line))
        });
        if !needed || (known && !self.renewal.tools) {
            return Ok(());
        }
        let begun = self.run.begin(TOOLBOX);
        // What other variants of the recipe need stays.
        lines.extend(
            place
                .into_iter()
                .flat_map(|place| lock.toolbox[place].request.clone()),
        );
        lines.sort_unstable();
        lines.dedup();
        let needs: Vec<_> = lines
            .iter()
            .filter_map(|line| ToolNeed::parse(line))
            .collect();
        let manager = self.manager;
        let entry = self
            .run
            .watch(Some(TOOLBOX), || manager.resolve_toolbox(&needs));
        let entry = entry.map_err(|source| RenewError::Manager {
            stage: TOOLBOX.to_owned(),
            place: None,
            source,
        })?;
        self.run.end(TOOLBOX, &entry, begun);
        let entry = LockEntry {
            name: TOOLBOX.to_owned(),
            architecture: ARCHITECTURE.to_owned(),
            request: lines,
            ..entry
        };
        check(&entry, TOOLBOX)?;
        lock.refused
            .retain(|refused| refused.table != LockTable::Toolbox);
        match place {
            Some(place) => lock.toolbox[place] = entry,
            None => lock.toolbox.push(entry),
        }
        Ok(())
    }

    /// The node at whose disk image a node's chain begins, where that is one that was fetched.
    fn image_of(&self, id: NodeId) -> Option<NodeId> {
        let mut at = id;
        while let Some(next) = below(self.graph.node(at)) {
            at = next;
        }
        let node = self.graph.node(at);
        (at != id && node.lowered.request.is_none()).then_some(at)
    }

    /// The nodes that are asked for.
    fn asked(&self) -> impl Iterator<Item = &Node> {
        let asked = self
            .graph
            .ids()
            .filter(|id| self.renewal.choices[*id].is_some());
        asked.map(|id| self.graph.node(id))
    }

    fn needs_tools(&self) -> bool {
        let tools = |action: &ActionTemplate| action.toolbox.is_some();
        self.asked()
            .map(|node| &node.lowered)
            .any(|lowered| lowered.request.is_some() || lowered.actions.iter().any(tools))
    }

    /// Lines of the tools' request.
    fn tool_needs(&self) -> Vec<String> {
        self.asked()
            .filter(|node| {
                node.lowered
                    .actions
                    .iter()
                    .any(|action| action.toolbox.is_some())
            })
            .flat_map(tool_needs)
            .map(|need| need.to_string())
            .collect()
    }
}

/// Whether packages go into a root of their own, below which nothing stands.
fn is_own_root(request: &PackageRequest) -> bool {
    matches!(request.root, RequestRoot::Own { .. })
}

/// What stays of a node's entry when it is resolved again; none where it is not. `before` is the entry that it has, and
/// `changed_below` whether what it stands on was resolved again.
fn keep<'e>(
    choice: Option<&'e Choice>,
    state: &LockState,
    before: Option<&'e LockEntry>,
    changed_below: bool,
) -> Option<Pinning<'e>> {
    match (choice, state, before) {
        (None, ..) | (_, LockState::NotNeeded | LockState::Source(_), _) => None,
        (Some(Choice::Stay), LockState::Locked(_), _) => None,
        (Some(Choice::Stay), LockState::Stale { .. }, Some(before)) if changed_below => {
            Some(Pinning::AllBut(before, &[]))
        }
        (Some(Choice::Stay), LockState::Stale { .. } | LockState::Refused { .. }, _) => None,
        (Some(Choice::Only(names)), _, Some(before)) => Some(Pinning::AllBut(before, names)),
        _ => Some(Pinning::Nothing),
    }
}

/// What stands below a node, as the lock has it.
pub(super) fn base_of<'q>(
    graph: &'q Graph,
    lock: &'q LockFile,
    id: NodeId,
    image: impl Fn(NodeId) -> Option<&'q ImageFiles>,
) -> InstalledBase<'q> {
    let mut chain = Vec::new();
    let mut at = id;
    while let Some(next) = below(graph.node(at)) {
        chain.push(next);
        at = next;
    }
    chain.reverse();
    let mut walk = LockWalk::default();
    let mut found = InstalledBase {
        image: chain.first().and_then(|first| image(*first)),
        stages: Vec::new(),
    };
    for node in graph.ids().take_while(|node| *node < id) {
        let (state, against) = walk.look(graph, lock, node);
        walk.pass(graph, lock, node, &state, &against);
        let lowered = &graph.node(node).lowered;
        if let (true, LockState::Locked(place), Some(request)) =
            (chain.contains(&node), &state, &lowered.request)
            && !request.is_builder()
        {
            found.stages.push(BaseLayer {
                request,
                entry: &lock.stages[*place],
                secrets: &lowered.secrets,
            });
        }
    }
    found
}

/// Checks before anything is written that the next run will read it.
fn check(entry: &LockEntry, stage: &str) -> Result<(), RenewError> {
    entry
        .check_written()
        .map_err(|problem| RenewError::Unusable {
            stage: stage.to_owned(),
            problem,
        })
}

/// Puts what a stage gets from elsewhere into the place of what the lock has for it.
fn put_source(lock: &mut LockFile, source: LockSource) {
    lock.refused
        .retain(|refused| refused.table != LockTable::Source || refused.name != source.name);
    for other in lock
        .sources
        .iter_mut()
        .filter(|other| other.name == source.name)
    {
        let mine = &source.combinations;
        other.combinations.retain(|name| !mine.contains(name));
    }
    lock.sources
        .retain(|other| other.name != source.name || !other.combinations.is_empty());
    lock.sources.push(source);
}

/// Puts an entry into the place of what the lock has for its stage and combinations.
fn put(lock: &mut LockFile, entry: LockEntry) -> usize {
    // Nobody knows which combinations those are for.
    lock.refused
        .retain(|refused| refused.table != LockTable::Stage || refused.name != entry.name);
    for other in lock
        .stages
        .iter_mut()
        .filter(|other| other.name == entry.name)
    {
        other
            .combinations
            .retain(|name| !entry.combinations.contains(name));
    }
    // Where there is no matrix, or no longer the same, what is not for any combination is for none of today's.
    lock.stages
        .retain(|other| other.name != entry.name || !other.combinations.is_empty());
    lock.stages.push(entry);
    lock.stages.len() - 1
}
