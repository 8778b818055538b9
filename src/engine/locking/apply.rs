//! Whether a lock is right for a recipe's graph, and what its entries give to the graph's Actions.
//! Knows requests and entries; asks nobody.

use impasto_stages::Lowered;
use impasto_stages::action::{Slot, Step};
use impasto_stages::disk::ExtraFileSystem;
use impasto_stages::package_set::{
    ARCHITECTURE, LockedPackage, PackageRequest, PackageSet, RequestRoot,
};
use impasto_stages::source::SourceRequest;
use impasto_store::digest::BlobDigest;
use impasto_store::sha256::Sha256;

use crate::debian::distribution::OwnArchive;
use crate::engine::graph::{Graph, Node, NodeId, NodeMap};
use crate::lock::{LockEntry, LockFile, LockPackage, LockSource, LockTable, TOOLBOX, ToolNeed};

/// What the lock has for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockState {
    /// The node needs nothing of the lock.
    NotNeeded,
    /// Its packages are known: the place of the entry among the lock's stages.
    Locked(usize),
    /// What it gets from elsewhere is known: the place of the entry among the lock's sources.
    Source(usize),
    /// The lock has nothing for it.
    Missing,
    /// The lock has an entry for what it gets from elsewhere, but for something else: what changed.
    StaleSource { why: String },
    /// The lock has an entry that is not right any more: why. Its place among the lock's stages.
    Stale {
        entry: usize,
        /// What changed since it was resolved.
        why: String,
    },
    /// The lock does not say which tools the node needs.
    NoToolbox,
    /// The lock's entry for it, or for the tools that it needs, cannot be used.
    Refused {
        /// Whose entry it is: the stage, or [`TOOLBOX`].
        name: String,
        /// What is wrong with it.
        why: String,
    },
}

impl LockState {
    /// Whether the node can be built.
    pub fn is_locked(&self) -> bool {
        matches!(
            self,
            LockState::NotNeeded | LockState::Locked(_) | LockState::Source(_)
        )
    }
}

/// The node whose packages a node's disk or tree begins with, or which its own root is for.
pub fn below(node: &Node) -> Option<NodeId> {
    below_stage(&node.lowered).map(|stage| node.parent(stage))
}

/// The same, by the name of its stage.
pub(in crate::engine) fn below_stage(lowered: &Lowered) -> Option<&str> {
    if let Some(PackageRequest {
        root: RequestRoot::Builder { image },
        ..
    }) = &lowered.request
    {
        return Some(image);
    }
    let action = lowered.actions.first()?;
    let slot = action.parent.as_ref().or_else(|| {
        action.steps.iter().find_map(|step| match step {
            Step::AssembleDisk { input, .. } => action.inputs.get(input),
            _ => None,
        })
    })?;
    match slot {
        Slot::Stage(stage) | Slot::StageFile { stage, .. } => Some(stage),
        _ => None,
    }
}

/// A lock as it was applied to a graph.
#[derive(Debug, Default)]
pub struct AppliedLock {
    file: LockFile,
    states: NodeMap<LockState>,
    toolbox: Option<PackageSet>,
}

impl Graph {
    /// The lock that its nodes have their packages from.
    pub fn lock(&self) -> &LockFile {
        &self.lock.file
    }

    /// What the lock has for a node.
    pub fn lock_state(&self, id: NodeId) -> &LockState {
        &self.lock.states[id]
    }

    /// The lock's entry of a node, where it is right.
    pub fn lock_entry(&self, id: NodeId) -> Option<&LockEntry> {
        match self.lock_state(id) {
            LockState::Locked(place) => Some(&self.lock.file.stages[*place]),
            _ => None,
        }
    }

    /// The lock's entry of what a node gets from elsewhere, where it is right.
    pub fn lock_source(&self, id: NodeId) -> Option<&LockSource> {
        match self.lock_state(id) {
            LockState::Source(place) => Some(&self.lock.file.sources[*place]),
            _ => None,
        }
    }

    /// The packages of the tools that Actions with a toolbox use, where the lock names them.
    pub fn toolbox(&self) -> Option<&PackageSet> {
        self.lock.toolbox.as_ref()
    }

    /// The packages that some nodes need to run, and those of the tools where one of them uses tools.
    pub fn package_sets(&self, nodes: impl Iterator<Item = NodeId>) -> Vec<&PackageSet> {
        let actions: Vec<_> = nodes
            .flat_map(|id| &self.node(id).lowered.actions)
            .collect();
        let tools = self
            .toolbox()
            .into_iter()
            .filter(|_| actions.iter().any(|action| action.toolbox.is_some()));
        tools
            .chain(actions.iter().filter_map(|action| action.packages.as_ref()))
            .collect()
    }

    /// Gives every node's Actions the packages that another lock has for them, as far as it is right.
    pub fn set_lock(&mut self, lock: LockFile) {
        let mut walk = LockWalk::default();
        let mut states = NodeMap::new();
        // Tools are never taken out of a recipe's directory.
        let from_archives = |entry: &&LockEntry| {
            entry
                .packages
                .iter()
                .all(|package| package.archive.is_some())
        };
        let toolbox = lock
            .toolbox
            .iter()
            .find(|entry| entry.architecture == ARCHITECTURE)
            .filter(from_archives);
        for id in self.ids() {
            let (state, against) = walk.look(self, &lock, id);
            walk.pass(self, &lock, id, &state, &against);
            let state = match state {
                LockState::Refused { .. } => state,
                _ if lacks_tools(self.node(id), toolbox) => {
                    refused(&lock, LockTable::Toolbox, TOOLBOX).unwrap_or(LockState::NoToolbox)
                }
                _ => state,
            };
            match &state {
                LockState::Locked(entry) => self.fill(id, &lock.stages[*entry].set()),
                LockState::Source(entry) => self.fill_source(id, &lock.sources[*entry]),
                _ => {}
            }
            states.push(state);
        }
        self.lock = AppliedLock {
            toolbox: toolbox.map(LockEntry::set),
            states,
            file: lock,
        };
    }
}

/// Whether a node needs tools that the lock's entry for them does not have.
fn lacks_tools(node: &Node, toolbox: Option<&LockEntry>) -> bool {
    let actions = &node.lowered.actions;
    let needs = tool_needs(node);
    let lacks = |entry: &LockEntry| {
        let has = |need: &ToolNeed| entry.request.contains(&need.to_string());
        !needs.iter().all(has)
    };
    actions.iter().any(|action| action.toolbox.is_some()) && toolbox.is_none_or(lacks)
}

/// The state of a node whose entry cannot be used.
fn refused(lock: &LockFile, table: LockTable, name: &str) -> Option<LockState> {
    let entry = lock
        .refused
        .iter()
        .find(|entry| entry.table == table && entry.name == name)?;
    Some(LockState::Refused {
        name: name.to_owned(),
        why: entry.reason.clone(),
    })
}

/// What a node needs tools for, where not every one does.
pub(super) fn tool_needs(node: &Node) -> Vec<ToolNeed> {
    let foreign = node.architecture != ARCHITECTURE;
    let emulator = foreign.then(|| ToolNeed::Emulator(node.architecture.clone()));
    let steps = node.lowered.actions.iter().flat_map(|action| &action.steps);
    let partitions = steps.flat_map(|step| match step {
        Step::AssembleDisk { spec, .. } => spec.partitions.as_slice(),
        _ => &[],
    });
    let made = partitions.filter_map(|partition| match partition.file_system? {
        fs @ (ExtraFileSystem::Xfs | ExtraFileSystem::Btrfs) => {
            Some(ToolNeed::FileSystem(fs.name().to_owned()))
        }
        ExtraFileSystem::Ext4 | ExtraFileSystem::Vfat | ExtraFileSystem::Swap => None,
    });
    emulator.into_iter().chain(made).collect()
}

/// A walk over the nodes in their order: knows what every node's disk has in packages, as one digest.
#[derive(Default)]
pub(super) struct LockWalk {
    contents: NodeMap<String>,
}

impl LockWalk {
    /// What the lock has for the next node, and what its packages are to be resolved against.
    pub(super) fn look(&self, graph: &Graph, lock: &LockFile, id: NodeId) -> (LockState, String) {
        let node = graph.node(id);
        if let Some((lines, _)) = source_request(node) {
            let state = refused(lock, LockTable::Source, &node.stage)
                .unwrap_or_else(|| find_source(graph, id, lock, &lines));
            let against = match &state {
                LockState::Source(place) => match &lock.sources[*place].sha256 {
                    Some(sha256) => fetched(sha256),
                    None => self.before(graph, id),
                },
                _ => self.before(graph, id),
            };
            return (state, against);
        }
        let Some(request) = &node.lowered.request else {
            return (LockState::NotNeeded, self.before(graph, id));
        };
        let own = matches!(request.root, RequestRoot::Own { .. });
        let against = if own {
            String::new()
        } else {
            self.before(graph, id)
        };
        let state = refused(lock, LockTable::Stage, &node.stage);
        (
            state.unwrap_or_else(|| find(graph, id, lock, &request.lines(), &against)),
            against,
        )
    }

    /// Goes on to the node after this one, which is in this state.
    pub(super) fn pass(
        &mut self,
        graph: &Graph,
        lock: &LockFile,
        id: NodeId,
        state: &LockState,
        against: &str,
    ) {
        let node = graph.node(id);
        let builder = node
            .lowered
            .request
            .as_ref()
            .is_some_and(PackageRequest::is_builder);
        self.contents.push(match state {
            LockState::NotNeeded | LockState::Source(_) => against.to_owned(),
            // What it installs is not on its disk.
            _ if builder => against.to_owned(),
            LockState::Locked(entry) => advance(against, &lock.stages[*entry]),
            // Whatever stands on it cannot be right either.
            _ => format!("unsettled {}", node.label),
        });
    }

    fn before(&self, graph: &Graph, id: NodeId) -> String {
        let node = graph.node(id);
        below(node).map_or_else(|| origin(node), |below| self.contents[below].clone())
    }
}

/// What a disk that no packages of ours are in is known by.
fn origin(node: &Node) -> String {
    let mut text = String::from("origin");
    for action in &node.lowered.actions {
        for step in &action.steps {
            match step {
                Step::Fetch { sha256, .. } => text += &format!(" {sha256}"),
                Step::Import { input, .. } => text += &format!(" {:?}", action.inputs.get(input)),
                _ => {}
            }
        }
    }
    digest(&text)
}

/// What a disk that was fetched is known by: the same as [`origin`] tells of one whose checksum is in the recipe.
fn fetched(sha256: &Sha256) -> String {
    digest(&format!("origin {sha256}"))
}

/// What a node gets from elsewhere that the lock is to name: the lines of the request, and the request.
pub fn source_request(node: &Node) -> Option<(Vec<String>, &SourceRequest)> {
    let hints = node.lowered.actions.iter().map(|action| &action.hints);
    let mut asked = hints.filter_map(|hints| {
        let request = hints.source.as_ref()?;
        let url = hints.urls.first().map(String::as_str).unwrap_or_default();
        Some((request.lines(url), request))
    });
    asked.next()
}

fn find_source(graph: &Graph, id: NodeId, lock: &LockFile, lines: &[String]) -> LockState {
    let node = graph.node(id);
    let of_stage = || {
        let sources = lock.sources.iter().enumerate();
        sources.filter(|(_, source)| *source.name == *node.stage)
    };
    let own: Vec<_> = node
        .combinations
        .iter()
        .map(|place| graph.combination_name(*place))
        .collect();
    let mine = |source: &LockSource| {
        source.combinations.is_empty() || own.iter().any(|name| source.combinations.contains(name))
    };
    let right = |source: &LockSource| source.request == lines;
    // Its own first: others may want the same today, and something else tomorrow.
    let fits = of_stage().find(|(_, source)| right(source) && mine(source));
    if let Some((place, _)) = fits.or_else(|| of_stage().find(|(_, source)| right(source))) {
        return LockState::Source(place);
    }
    match of_stage().find(|(_, source)| mine(source)) {
        Some((_, source)) => LockState::StaleSource {
            why: difference(&source.request, lines),
        },
        None => LockState::Missing,
    }
}

fn digest(text: &str) -> String {
    BlobDigest::of(text.as_bytes()).short().to_string()
}

/// What is there after an entry's packages were put in and taken out.
fn advance(before: &str, entry: &LockEntry) -> String {
    let mut text = before.to_owned();
    for package in entry.packages.iter().map(|package| &package.file) {
        text += &format!(
            "\n+ {} {} {}",
            package.name, package.architecture, package.sha256
        );
    }
    for package in &entry.removed {
        text += &format!(
            "\n- {} {} {}",
            package.name, package.architecture, package.version
        );
    }
    digest(&text)
}

fn find(graph: &Graph, id: NodeId, lock: &LockFile, lines: &[String], against: &str) -> LockState {
    let node = graph.node(id);
    let of_stage = || {
        lock.stages
            .iter()
            .enumerate()
            .filter(|(_, entry)| *entry.name == *node.stage)
    };
    let right = |entry: &LockEntry| entry.request == lines && entry.against == against;
    let own: Vec<_> = node
        .combinations
        .iter()
        .map(|place| graph.combination_name(*place))
        .collect();
    let mine = |entry: &LockEntry| {
        entry.combinations.is_empty() || own.iter().any(|name| entry.combinations.contains(name))
    };
    // Its own first: others may want the same today, and something else tomorrow.
    let fits = of_stage().find(|(_, entry)| right(entry) && mine(entry));
    if let Some((place, entry)) = fits.or_else(|| of_stage().find(|(_, entry)| right(entry))) {
        return match misfit(graph, id, entry) {
            None => LockState::Locked(place),
            Some(why) => LockState::Stale { entry: place, why },
        };
    }
    let Some((place, entry)) = of_stage().find(|(_, entry)| mine(entry)) else {
        return LockState::Missing;
    };
    LockState::Stale {
        entry: place,
        why: difference(&entry.request, lines),
    }
}

/// What of an entry nobody asked for, though it is for the same request: somebody wrote it into the lock.
fn misfit(graph: &Graph, id: NodeId, entry: &LockEntry) -> Option<String> {
    let request = graph.node(id).lowered.request.as_ref()?;
    let chain = || {
        std::iter::successors(Some(id), |at| below(graph.node(*at)))
            .map(|at| &graph.node(at).lowered)
    };
    let requests = || chain().filter_map(|lowered| lowered.request.as_ref());
    let named = |archive: &str| {
        OwnArchive::of_lock(archive).is_some()
            || requests().any(|request| {
                request
                    .repositories
                    .iter()
                    .any(|known| known.name == archive)
            })
    };
    if let Some(archive) = entry.archives.iter().find(|archive| !named(&archive.name)) {
        return Some(format!(
            "the lock has packages from the archive {}, which is not in the recipe",
            archive.name
        ));
    }
    let own = requests().find_map(|request| match &request.root {
        RequestRoot::Own { architecture, .. } => Some(architecture),
        _ => None,
    });
    if let Some(own) = own.filter(|own| **own != entry.architecture) {
        return Some(format!(
            "the lock is for the architecture {}, but the root is for {own}",
            entry.architecture
        ));
    }
    let fits = |architecture: &String| {
        architecture == "all"
            || *architecture == entry.architecture
            || requests().any(|request| request.architectures.contains(architecture))
    };
    entry.packages.iter().find_map(|package| {
        let LockPackage { file: LockedPackage { name, architecture, .. }, archive, path, .. } = package;
        let own = || request.files.iter().any(|file| file.trim_start_matches("./") == path);
        if archive.is_none() && !own() {
            return Some(format!("the lock has {name} from the file {path}, which is not in the recipe"));
        }
        let foreign = !fits(architecture);
        foreign.then(|| format!("the lock has {name} for the architecture {architecture}, which is not in the recipe"))
    })
}

/// What is not any more as it was asked for.
fn difference(request: &[String], lines: &[String]) -> String {
    let new: Vec<_> = lines
        .iter()
        .filter(|line| !request.contains(line))
        .cloned()
        .collect();
    let gone: Vec<_> = request
        .iter()
        .filter(|line| !lines.contains(line))
        .cloned()
        .collect();
    let mut parts = Vec::new();
    if !new.is_empty() {
        parts.push(format!("the recipe now has `{}`", new.join("`, `")));
    }
    if !gone.is_empty() {
        parts.push(format!("the recipe no longer has `{}`", gone.join("`, `")));
    }
    if parts.is_empty() {
        return "the packages of a stage it builds on have changed".to_owned();
    }
    parts.join(", and ")
}
