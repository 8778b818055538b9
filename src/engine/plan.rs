//! What a run would do: binds every node's inputs as far as they are known, and looks the keys up in the store.
//! Decides and explains; executes nothing and writes nothing but caches.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use impasto_stages::UnitFiles;
use impasto_stages::action::{
    Action, ActionTemplate, Bound, Cutoff, Executor, SandboxRequirement, Slot, Step,
};
use impasto_stages::package_set::PackageSet;
use impasto_store::claim::{Caveat, FileContent, Isolation, OutputFile, Outputs, capped};
use impasto_store::digest::{ActionDigest, BlobDigest, ClaimId, ContentDigest, Digest, TreeDigest};
use impasto_store::index::ClaimSummary;
use impasto_store::{Error as StoreError, Store};

use crate::disk::image::{self, ForeignFormat};
use crate::engine::chain::{ActionChain, chain_step_name};
use crate::engine::graph::{Graph, NodeId, NodeMap, local_paths};
use crate::engine::history::{FileMemory, History, NodeHistory, RecipeState};
use crate::engine::inputs::{Input, InputError, Inputs, Listing, difference};
use crate::engine::locking::source_request;
use crate::engine::publish::Published;
use crate::engine::reason::{Reason, ReasonNames, changes};
use crate::recipe::Recipe;
use crate::recipe::scope::Scope;

/// A node's result, found or made.
#[derive(Debug, Clone)]
pub struct Hit {
    pub action: ActionDigest,
    /// The claim that is believed.
    pub claim: ClaimId,
    pub result: Outputs,
    /// What it is to be believed with, inputs' included.
    pub caveats: BTreeSet<Caveat>,
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
            wall_ms: summary.wall_ms,
        }
    }

    /// The file of this name; without a name, the one file of a result that is a file.
    pub fn file(&self, name: Option<&String>) -> Option<&OutputFile> {
        match name {
            Some(name) => self.result.files.get(name),
            None if self.result.disk.is_some() => None,
            None => self.result.files.values().next(),
        }
    }

    /// What a child binds to: a file, or without a name the disk where there is one, by its bytes or by what it contains.
    fn content(&self, file: Option<&String>, by_bytes: bool) -> Option<Bound> {
        match (self.result.disk, self.result.tree, file) {
            (Some(_), Some(tree), None) if !by_bytes => {
                let tree = ContentDigest::Tree(TreeDigest::of_index(&tree.digest));
                Some(Bound {
                    content: tree,
                    mode: None,
                    made_by: None,
                })
            }
            (Some(disk), _, None) => Some(Bound {
                content: ContentDigest::Disk(disk.layer.disk),
                mode: None,
                made_by: None,
            }),
            _ => self.file(file).map(|file| {
                let digest = BlobDigest(file.content.digest());
                Bound {
                    content: ContentDigest::Blob(digest),
                    mode: (!file.is_tree()).then_some(file.mode),
                    made_by: None,
                }
            }),
        }
    }
}

/// What is known of a node before anything runs.
#[derive(Debug, Clone)]
pub enum PlanState {
    /// Its result is known.
    Cached(Hit),
    Dirty {
        action: ActionDigest,
        reason: Reason,
    },
    /// It depends on a node that must run; that one's result decides.
    Pending {
        /// The first such node.
        on: NodeId,
    },
}

impl PlanState {
    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self {
            PlanState::Cached(_) => "cached",
            PlanState::Dirty { .. } => "dirty",
            PlanState::Pending { .. } => "pending",
        }
    }
}

/// A node cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// An input of the user's cannot be used.
    #[error("stage {stage}: an input cannot be used")]
    Input {
        stage: String,
        #[source]
        source: InputError,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stage made something else than what is needed.
    #[error("stage {stage}: {parent} made {made}, but {needed} is needed{}", is(.format))]
    Kind {
        stage: String,
        /// The stage that it needs.
        parent: String,
        made: &'static str,
        needed: &'static str,
        /// What the file is, where it is a disk to others.
        format: Option<ForeignFormat>,
    },
    /// What a stage is to do next cannot be told.
    #[error("stage {stage}: {reason}")]
    Expand { stage: String, reason: String },
    /// A stage did not make the file that is needed.
    #[error("stage {stage}: {parent} made no file {file:?}")]
    NoFile {
        stage: String,
        /// The stage that it needs.
        parent: String,
        file: String,
    },
}

/// What to do where a stage made no file of this name: most make all that can be named.
pub fn no_file_help(file: &str) -> Option<String> {
    (file == "kernel").then(|| {
        "its disk has no /boot/vmlinuz-…: add a kernel's package, such as linux-image-amd64, in a stage before it"
            .to_owned()
    })
}

impl PlanError {
    /// What to do about it, for the user.
    pub fn help(&self) -> Option<String> {
        match self {
            PlanError::Kind { format, .. } => format.map(ForeignFormat::help),
            PlanError::NoFile { file, .. } => no_file_help(file),
            _ => None,
        }
    }
}

/// What a file is, as the end of a message.
pub(crate) fn is(format: &Option<ForeignFormat>) -> String {
    format.map_or(String::new(), |format| format!(": it is {format}"))
}

/// Which format the one file of a result has that is not a disk here; its bytes are read.
///
/// # Errors
/// The store failed.
pub(crate) fn file_format(
    store: &Store,
    result: &Outputs,
) -> Result<Option<ForeignFormat>, StoreError> {
    let Some(FileContent::Blob(blob)) = result.files.values().next().map(|file| &file.content)
    else {
        return Ok(None);
    };
    match store.open_blob(&blob.digest) {
        Ok(reader) => image::format_of(reader).map_err(|source| StoreError::Io {
            verb: "read",
            path: "a file".into(),
            source,
        }),
        Err(error) => error.into_miss().map(|_| None),
    }
}

/// Binds nodes and looks them up. Owns what it decides by: the user's files as they were read, and the history.
pub struct Planner<'a> {
    graph: &'a Graph,
    store: &'a Store,
    inputs: Inputs,
    history: History<'a>,
    /// Nodes that run even where their results are known.
    rebuild: NodeMap<bool>,
    /// How strongly the sandbox isolates in which it would run.
    isolation: Isolation,
    /// What the units of each node came to, made or found, as far as that is known.
    in_use: NodeMap<Vec<(ActionDigest, ClaimId)>>,
}

impl<'a> Planner<'a> {
    /// A planner over a recipe's graph. `isolation` is how strongly the sandbox isolates in which Actions of sandboxes would run.
    pub fn new(recipe: &Recipe, graph: &'a Graph, store: &'a Store, isolation: Isolation) -> Self {
        Planner {
            graph,
            store,
            inputs: Inputs::new(store.clone(), recipe.dir.clone(), recipe.scope.clone()),
            history: History::new(RecipeState::new(store, recipe)),
            rebuild: NodeMap::filled(false, graph.len()),
            isolation,
            in_use: NodeMap::filled(Vec::new(), graph.len()),
        }
    }

    pub fn graph(&self) -> &'a Graph {
        self.graph
    }

    /// The recipe's directory.
    pub fn dir(&self) -> &Path {
        self.inputs.dir()
    }

    /// What the recipe may read.
    pub fn scope(&self) -> &Arc<Scope> {
        self.inputs.scope()
    }

    /// Where results are looked up.
    pub fn store(&self) -> &'a Store {
        self.store
    }

    /// The recipe's state in the store.
    pub fn state(&self) -> &RecipeState<'a> {
        self.history.state()
    }

    /// Has a node run even where its result is known, until [`Planner::rebuilt`].
    pub fn rebuild(&mut self, id: NodeId) {
        self.rebuild[id] = true;
    }

    /// A node's result is there: it is looked up again from now on.
    pub fn rebuilt(&mut self, id: NodeId) {
        self.rebuild[id] = false;
    }

    /// What the units of a node came to, in their order, as far as that is known: what is to be kept.
    pub fn in_use(&self, id: NodeId) -> &[(ActionDigest, ClaimId)] {
        &self.in_use[id]
    }

    /// Where an input lies, what it holds, and what the recipe may read; none where it cannot be read.
    pub fn input(&mut self, slot: &Slot) -> Option<(PathBuf, Input, Arc<Scope>)> {
        let (name, ignore) = local(slot)?;
        let path = self.inputs.path(name);
        let input = self.inputs.get(name, ignore).ok()?.clone();
        Some((path, input, self.inputs.scope().clone()))
    }

    /// Has a node's files looked at again: they changed while they were read.
    pub fn reread_inputs(&mut self, id: NodeId) {
        local_paths(self.graph.node(id)).for_each(|name| self.inputs.forget(name));
    }

    /// What was last written to a file of the user's.
    pub fn published(&self, path: &Path) -> Option<&FileMemory> {
        self.history.file(path)
    }

    /// Remembers that a file was written.
    pub fn add_published(&mut self, file: &Published) {
        self.history.add_file(&file.path, file.memory.clone());
    }

    /// What an image without descriptions was last decided on, by its label.
    pub fn decision(&self, image: &str) -> Option<Digest> {
        self.history.decision(image)
    }

    /// Remembers what such an image was decided on.
    pub fn add_decision(&mut self, image: &str, content: Digest) {
        self.history.add_decision(image, content);
    }

    /// Remembers a run of a node's unit, under all names of the node.
    pub fn add_run(&mut self, id: NodeId, unit: usize, run: &NodeHistory) {
        for name in self.graph.stable_names(id) {
            self.history
                .add_run(chain_step_name(name, unit), run.clone());
        }
        if let Some(template) = self.graph.node(id).lowered.actions.get(unit) {
            let listings = self.listings(template);
            if !listings.is_empty() {
                let name = self.listing_name(id, unit);
                self.state().add_listings(&name, &run.action, listings);
            }
        }
    }

    /// What a node's unit came to when it ran before, the last run first, as its first name has it.
    pub fn earlier_runs(
        &self,
        id: NodeId,
        unit: usize,
    ) -> impl Iterator<Item = (ActionDigest, ClaimId)> {
        let name = self
            .graph
            .stable_names(id)
            .next()
            .expect("BUG: a node of no combination");
        self.history
            .run(&chain_step_name(name, unit))
            .into_iter()
            .flat_map(NodeHistory::runs)
    }

    /// Writes what was added to the history.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn save_history(&mut self) -> Result<(), StoreError> {
        self.history.save()
    }

    /// The state of every node that is needed for `wanted`; none for the others.
    ///
    /// # Errors
    /// An input cannot be read, a stage made something else than is needed, or the store failed.
    pub fn plan(&mut self, wanted: &[NodeId]) -> Result<NodeMap<Option<PlanState>>, PlanError> {
        let needed = self.graph.closure(wanted);
        let graph = self.graph;
        let nodes: Vec<_> = graph.ids().filter(|id| needed[*id]).collect();
        self.inputs
            .prefetch(nodes.iter().flat_map(|id| local_paths(graph.node(*id))));
        let mut states: NodeMap<Option<PlanState>> = NodeMap::filled(None, graph.len());
        for id in nodes {
            let parents = &graph.node(id).parents;
            let open = parents
                .iter()
                .map(|(_, parent)| *parent)
                .find_map(|parent| match &states[parent] {
                    Some(PlanState::Cached(_)) => None,
                    Some(PlanState::Pending { on }) => Some(*on),
                    _ => Some(parent),
                });
            states[id] = Some(match open {
                Some(on) => PlanState::Pending { on },
                None => {
                    let result = |parent: NodeId| match &states[parent] {
                        Some(PlanState::Cached(hit)) => hit,
                        _ => panic!("BUG: a parent of {} is not known", graph.node(id).label),
                    };
                    self.advance(id, &mut ActionChain::new(graph.node(id)), result)?
                        .1
                }
            });
        }
        Ok(states)
    }

    /// Goes through the units of a node whose parents' results are known, as far as their results are known too: the
    /// Action of the first that must run, or the last unit's result.
    ///
    /// # Errors
    /// An input cannot be read, a parent made something else than is needed, or the store failed.
    pub fn advance<'h>(
        &mut self,
        id: NodeId,
        units: &mut ActionChain<'_>,
        result: impl Fn(NodeId) -> &'h Hit,
    ) -> Result<(Option<Action<Bound>>, PlanState), PlanError> {
        loop {
            let action = self.bind(id, units, &result)?;
            let parents = &self.graph.node(id).parents;
            let inherited: BTreeSet<_> = parents
                .iter()
                .flat_map(|(_, parent)| &result(*parent).caveats)
                .copied()
                .collect();
            let state = self.look_up(id, units, &action, &inherited)?;
            let PlanState::Cached(mut hit) = state else {
                return Ok((Some(action), state));
            };
            let key = hit.action;
            // Its own, and those of the inputs that it has now: equal content may have come another way.
            hit.caveats.extend(inherited);
            match self.complete(id, units, hit)? {
                Completed::Node(hit) => return Ok((None, PlanState::Cached(*hit))),
                Completed::Unit => {}
                Completed::Lost => {
                    return Ok((
                        Some(action),
                        PlanState::Dirty {
                            action: key,
                            reason: Reason::Collected,
                        },
                    ));
                }
            }
        }
    }

    /// Takes the result of a node's next unit.
    ///
    /// # Errors
    /// What the unit made cannot be expanded, or the store failed.
    pub fn complete(
        &mut self,
        id: NodeId,
        units: &mut ActionChain<'_>,
        hit: Hit,
    ) -> Result<Completed, PlanError> {
        let node = self.graph.node(id);
        if let Some(expand) = node.kind.expand {
            let mut files = UnitFiles::new();
            for (name, file) in &hit.result.files {
                let FileContent::Blob(blob) = &file.content else {
                    continue;
                };
                let broken = |source| StoreError::Io {
                    verb: "read",
                    path: name.into(),
                    source,
                };
                match self.store.open_blob(&blob.digest) {
                    Ok(reader) => files.insert(name.clone(), reader.into_bytes().map_err(broken)?),
                    Err(StoreError::Miss(_)) => return Ok(Completed::Lost),
                    Err(error) => return Err(error.into()),
                };
            }
            let further = expand(units.next(), &files).map_err(|error| PlanError::Expand {
                stage: node.label.clone(),
                reason: error.to_string(),
            })?;
            units.insert(further);
        }
        let in_use = &mut self.in_use[id];
        in_use.truncate(units.done());
        in_use.push((hit.action, hit.claim));
        if units.is_last() {
            return Ok(Completed::Node(Box::new(hit)));
        }
        units.finish(hit);
        Ok(Completed::Unit)
    }

    /// The Action of a node's next unit.
    fn bind<'h>(
        &mut self,
        id: NodeId,
        units: &ActionChain<'_>,
        result: impl Fn(NodeId) -> &'h Hit,
    ) -> Result<Action<Bound>, PlanError> {
        let graph = self.graph;
        let node = graph.node(id);
        let inputs = &mut self.inputs;
        let template = units.next();
        let action = template.clone().bind(|slot| {
            let (hit, file, cutoff) = match &slot {
                Slot::Local(path) | Slot::LocalWithTimes(path) | Slot::LocalPart { path, .. } => {
                    let bound = match slot {
                        Slot::LocalWithTimes(_)
                        | Slot::LocalPart {
                            with_times: true, ..
                        } => Input::bound_with_times,
                        _ => Input::bound,
                    };
                    let (_, ignore) = local(&slot).expect("BUG: not of this machine");
                    return inputs.get(path, ignore).map(bound).map_err(|source| {
                        PlanError::Input {
                            stage: node.label.clone(),
                            source,
                        }
                    });
                }
                Slot::Toolbox => {
                    let tools = graph.toolbox().map(PackageSet::content);
                    // Without a lock the node has no key that could be found.
                    let content = tools.unwrap_or_else(|| PackageSet::default().content());
                    return Ok(Bound {
                        content,
                        mode: None,
                        made_by: None,
                    });
                }
                Slot::Firmware { secure, part } => {
                    let machine =
                        crate::vm::MachineType::of(&node.architecture).unwrap_or_default();
                    return inputs.firmware(machine, *secure, *part).map_err(|source| {
                        PlanError::Input {
                            stage: node.label.clone(),
                            source,
                        }
                    });
                }
                Slot::Stage(stage) => {
                    let parent = node.parent(stage);
                    (result(parent), None, graph.node(parent).cutoff)
                }
                Slot::StageFile { stage, file } => {
                    let parent = node.parent(stage);
                    (result(parent), Some(file), graph.node(parent).cutoff)
                }
                Slot::Unit { unit, file } => (units.hit(*unit), file.as_ref(), Cutoff::Tree),
            };
            let by_bytes = cutoff != Cutoff::Tree || template.reads_bytes();
            let bound = hit
                .content(file, by_bytes)
                .ok_or_else(|| PlanError::NoFile {
                    stage: node.label.clone(),
                    parent: slot_name(&slot),
                    file: file.cloned().unwrap_or_default(),
                })?;
            Ok(Bound {
                made_by: (cutoff == Cutoff::Off).then_some(hit.action),
                ..bound
            })
        })?;
        let is_disk = |slot: &Slot| match slot {
            Slot::Stage(stage) => result(node.parent(stage)).result.disk.is_some(),
            Slot::Unit { unit, file: None } => units.hit(*unit).result.disk.is_some(),
            _ => false,
        };
        let wrong = |made, needed, slot: &Slot, format| {
            Err(PlanError::Kind {
                stage: node.label.clone(),
                parent: slot_name(slot),
                made,
                needed,
                format,
            })
        };
        if let Some(slot) = template.parent.iter().find(|slot| !is_disk(slot)) {
            let format = match slot {
                Slot::Stage(stage) => file_format(self.store, &result(node.parent(stage)).result)?,
                _ => None,
            };
            return wrong("a file", "a disk", slot, format);
        }
        if let Some(slot) = template.inputs.values().find(|slot| is_disk(slot)) {
            return wrong("a disk", "a file", slot, None);
        }
        Ok(action)
    }

    /// Whether a node's next unit with this Action is cached or dirty, and why.
    fn look_up(
        &self,
        id: NodeId,
        units: &ActionChain<'_>,
        action: &Action<Bound>,
        inherited: &BTreeSet<Caveat>,
    ) -> Result<PlanState, PlanError> {
        let digest = action.digest();
        if !self.graph.lock_state(id).is_locked() {
            return Ok(PlanState::Dirty {
                action: digest,
                reason: match source_request(self.graph.node(id)) {
                    Some(_) => Reason::SourceNotLocked,
                    None => Reason::NotLocked,
                },
            });
        }
        if self.rebuild[id] {
            return Ok(PlanState::Dirty {
                action: digest,
                reason: Reason::Again,
            });
        }
        let last = || self.history_of(id, units.done());
        let asked = TrustPolicy::of(action, inherited, self.isolation);
        let (claim, refused) = self.believed(&digest, &asked, last())?;
        if let Some(summary) = claim {
            return Ok(PlanState::Cached(Hit::new(digest, summary)));
        }
        for spec in &action.hints.supersets {
            let mut action = action.clone();
            let spec = Box::new(spec.clone());
            action.steps = vec![Step::Test { spec }];
            let digest = action.digest();
            if let (Some(summary), _) = self.believed(&digest, &asked, None)? {
                return Ok(PlanState::Cached(Hit::new(digest, summary)));
            }
        }
        let reason = match refused {
            Some(rejection) => Reason::NotBelieved(rejection),
            None => self.reason((id, units.done()), last(), units.next(), action, digest),
        };
        Ok(PlanState::Dirty {
            action: digest,
            reason,
        })
    }

    /// The claim of an Action that is believed, or why one of its claims is not.
    fn believed(
        &self,
        digest: &ActionDigest,
        asked: &TrustPolicy,
        last: Option<&NodeHistory>,
    ) -> Result<(Option<ClaimSummary>, Option<String>), StoreError> {
        let mut claims = self.store.lookup(digest)?;
        let refused = claims.iter().find_map(|claim| asked.rejection(claim));
        claims.retain(|claim| asked.rejection(claim).is_none());
        // The one that is remembered for the node, else the strongest isolation, else the smallest id: see "Which claim is
        // believed" in src/ARCHITECTURE.md.
        if claims.len() > 1 {
            let history_of = last.map(|memory| memory.claim);
            claims.sort_by_key(|claim| {
                (
                    Some(claim.claim) != history_of,
                    Reverse(claim.isolation),
                    claim.claim,
                )
            });
        }
        Ok((claims.into_iter().next(), refused))
    }

    /// What the directories hold that an Action reads, by the input's name.
    fn listings(&self, template: &ActionTemplate) -> BTreeMap<String, Listing> {
        let directories = template.inputs.iter().filter_map(|(name, slot)| {
            let (path, ignore) = local(slot)?;
            let listing = self.inputs.known(path, ignore)?.listing()?;
            Some((name.clone(), listing))
        });
        directories.collect()
    }

    /// Under which name the listings of a node's unit are remembered.
    fn listing_name(&self, id: NodeId, unit: usize) -> String {
        let mut names = self.graph.stable_names(id);
        let name = names.next().expect("BUG: a node of no combination");
        chain_step_name(name, unit)
    }

    /// The history of the last run of a node's unit.
    pub fn history_of(&self, id: NodeId, unit: usize) -> Option<&NodeHistory> {
        self.graph
            .stable_names(id)
            .find_map(|name| self.history.run(&chain_step_name(name, unit)))
    }

    /// The history of a node's last unit, which makes its disk.
    pub fn last_history(&self, id: NodeId) -> Option<&NodeHistory> {
        (0..).map_while(|unit| self.history_of(id, unit)).last()
    }

    fn reason(
        &self,
        (id, unit): (NodeId, usize),
        last: Option<&NodeHistory>,
        template: &ActionTemplate,
        action: &Action<Bound>,
        digest: ActionDigest,
    ) -> Reason {
        let Some(last) = last else {
            return Reason::NeverBuilt;
        };
        if last.action == digest {
            return Reason::Collected;
        }
        // A claim that is gone explains nothing, but the key is another one for sure.
        let Ok(claim) = self.store.claim(&last.action, &last.claim) else {
            return Reason::Changed(Vec::new());
        };
        let now = capped(action.explain());
        let before = self
            .state()
            .listings(&self.listing_name(id, unit), &last.action);
        let mut files = BTreeMap::new();
        // Without a listing of then that of now tells nothing.
        if !before.is_empty() {
            for (name, now) in self.listings(template) {
                let before = before.get(&name);
                if let Some(text) = before.and_then(|before| difference(before, &now)) {
                    files.insert(name, text);
                }
            }
        }
        let names = ReasonNames::new(template).with_files(files);
        Reason::Changed(changes(&claim.fields, &now, &names))
    }
}

/// What a claim must at least be, for a node to take its result instead of running.
///
/// Running now would give a result of this isolation, with no caveats but these: what is weaker is never taken for it,
/// however equal its content.
pub struct TrustPolicy {
    isolation: Isolation,
    caveats: BTreeSet<Caveat>,
}

impl TrustPolicy {
    /// What carrying out an Action over inputs with these caveats would give.
    /// `sandbox` is how strongly the one isolates in which it would be carried out.
    pub fn of(action: &Action<Bound>, inherited: &BTreeSet<Caveat>, sandbox: Isolation) -> Self {
        let isolation = match (action.executor, action.sandbox) {
            (Executor::Host, _) => Isolation::Host,
            (Executor::Sandbox(_), SandboxRequirement::Vm) | (Executor::Machine, _) => {
                Isolation::Vm
            }
            (Executor::Sandbox(_), _) => sandbox,
        };
        let unlocked = action.is_unlocked().then_some(Caveat::Unlocked);
        // As a job marks what it makes.
        let weak = isolation == Isolation::Weak || action.privileged;
        let weak = weak.then_some(Caveat::WeakIsolation);
        TrustPolicy {
            isolation,
            caveats: inherited
                .iter()
                .copied()
                .chain(unlocked)
                .chain(weak)
                .collect(),
        }
    }

    /// Why a claim is not believed; none where it is.
    pub fn rejection(&self, claim: &ClaimSummary) -> Option<String> {
        if !claim.writer.is_empty() {
            return Some(format!(
                "it is from {}, who is not trusted",
                claim.writer.escape_debug()
            ));
        }
        if claim.isolation < self.isolation {
            return Some(format!(
                "it was made with weaker isolation ({})",
                claim.isolation
            ));
        }
        claim
            .caveats
            .difference(&self.caveats)
            .next()
            .map(|caveat| format!("it is marked `{caveat}`, which this run would not be"))
    }
}

/// What a result means for its node.
pub enum Completed {
    /// It is the node's own.
    Node(Box<Hit>),
    /// Further units come after it.
    Unit,
    /// Files that decide what comes after it are not in the store any more: the unit must run again.
    Lost,
}

/// The path of a file or directory of the user's, and what is left out of it.
fn local(slot: &Slot) -> Option<(&str, &[String])> {
    match slot {
        Slot::Local(path) | Slot::LocalWithTimes(path) => Some((path, &[])),
        Slot::LocalPart { path, ignore, .. } => Some((path, ignore)),
        _ => None,
    }
}

fn slot_name(slot: &Slot) -> String {
    match slot {
        Slot::Stage(stage) | Slot::StageFile { stage, .. } => format!("stage {stage}"),
        Slot::Local(path) | Slot::LocalWithTimes(path) | Slot::LocalPart { path, .. } => {
            path.clone()
        }
        Slot::Unit { unit, .. } => format!("its step {}", unit + 1),
        Slot::Toolbox => "the toolbox".to_owned(),
        Slot::Firmware { .. } => "the UEFI firmware".to_owned(),
    }
}
