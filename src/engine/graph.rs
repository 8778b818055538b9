//! The nodes of a recipe: its stages for every combination of the matrix, equal ones made one.
//! Knows names, definitions and order; does no I/O and knows no store.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use impasto_stages::action::{Cutoff, Executor, RootSpec, Slot, Step};
use impasto_stages::package_set::{ARCHITECTURE, PackageRequest, PackageSet, RequestRoot};
use impasto_stages::{Data, Kind, Lowered, Origin, Params, Registry, Value};
use impasto_store::digest::NodeDigest;
use impasto_store::key::{self, Atom, Describe, Sink};
use petgraph::algo::toposort;
use petgraph::graph::DiGraph;

use crate::engine::locking::{AppliedLock, below_stage};
use crate::lock::{LockFile, LockSource};
use crate::recipe::{Image, Recipe};

pub use super::node::{NodeId, NodeMap};

/// A stage for one or more combinations of the matrix.
#[derive(Debug)]
pub struct Node {
    pub stage: Arc<str>,
    pub kind: &'static Kind,
    /// Where its block begins.
    pub place: Option<Origin>,
    /// The combinations that it stands for, as places in the recipe, ascending.
    pub combinations: Vec<u32>,
    /// How messages call it: the stage's name, with the values of the matrix that set it apart.
    pub label: String,
    /// The nodes that it needs, by the stage names that its parameters use.
    pub parents: Vec<(Arc<str>, NodeId)>,
    /// Which file system of its disk is `/`.
    pub root: RootSpec,
    /// The machine that its disk or tree is for, as distributions call it: this one where nothing says another.
    pub architecture: String,
    /// What decides whether that which builds on it runs again.
    pub cutoff: Cutoff,
    /// Its units of work, and the values of its secrets.
    pub lowered: Lowered,
}

impl Node {
    /// The node that a stage name stands for in this node's parameters.
    pub fn parent(&self, stage: &str) -> NodeId {
        let found = self.parents.iter().find(|(name, _)| &**name == stage);
        found
            .map(|(_, id)| *id)
            .unwrap_or_else(|| panic!("BUG: stage {} does not need {stage}", self.stage))
    }
}

/// An image of one combination: a name and its files.
#[derive(Debug, Clone)]
pub struct ImageNode {
    /// How selectors call it.
    pub label: Arc<str>,
    /// What its files are called.
    pub name: String,
    pub combination: u32,
    pub files: Vec<ImagePart>,
    /// Files that its manifest quotes; each has a name.
    pub metadata: Vec<ImagePart>,
    /// The nodes that must succeed before any file is written.
    pub requires: Vec<NodeId>,
    /// What the recipe says of it beside.
    pub text: Arc<Image>,
}

/// A file that an image consists of, or that its manifest quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePart {
    /// The node that makes it.
    pub node: NodeId,
    /// The file's name where it is one of several of the node's.
    pub file: Option<Arc<str>>,
    /// How the recipe calls it.
    pub name: Option<String>,
}

impl ImageNode {
    /// An image in a combination, whose stages are these nodes.
    fn new(image: &Arc<Image>, combination: u32, ids: &HashMap<Arc<str>, NodeId>) -> ImageNode {
        let part = |value: &Value, name: Option<&String>| {
            let (node, file) = match &value.data {
                Data::Stage(stage) => (ids[stage], None),
                Data::StageFile { stage, file } => (ids[stage], Some(file.clone())),
                _ => return None,
            };
            let name = name.cloned();
            Some(ImagePart { node, file, name })
        };
        let files = image.files.iter();
        let metadata = image.metadata.iter();
        let requires = image.requires.iter();
        ImageNode {
            label: image.label.clone(),
            name: image.name.clone(),
            combination,
            files: files
                .filter_map(|file| part(&file.value, file.name.as_ref()))
                .collect(),
            metadata: metadata
                .filter_map(|(name, value)| part(value, Some(name)))
                .collect(),
            requires: requires
                .filter_map(|value| Some(part(value, None)?.node))
                .collect(),
            text: image.clone(),
        }
    }

    /// The nodes whose files it reads: all that it needs but those that only have to succeed.
    pub fn sources(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.files
            .iter()
            .chain(&self.metadata)
            .map(|part| part.node)
    }
}

/// The nodes and images of a recipe.
#[derive(Debug)]
pub struct Graph {
    nodes: NodeMap<Node>,
    images: Vec<ImageNode>,
    axes: Vec<String>,
    /// The chosen combinations' values, in the order of the axes.
    combinations: Vec<Vec<String>>,
    /// Every stage name of the recipe's text that has a node, in order.
    stages: Vec<Arc<str>>,
    /// The lock that its nodes have their packages from.
    pub(super) lock: AppliedLock,
}

/// A selector that names nothing, or cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// It is no selector at all.
    #[error("`{text}` is not a selector")]
    Syntax { text: String },
    /// There is no such stage.
    #[error("there is no stage `{name}`")]
    Stage {
        /// What was asked for.
        name: String,
        known: Vec<String>,
    },
    /// There is no such image.
    #[error("there is no image `{name}`")]
    Image {
        /// What was asked for.
        name: String,
        known: Vec<String>,
    },
    /// The matrix has no such axis.
    #[error("the matrix has no axis `{axis}`")]
    Axis {
        /// What was asked for.
        axis: String,
        known: Vec<String>,
    },
    /// The stage or image exists, but not for these values of the matrix.
    #[error("`{name}` does not exist for {filter}")]
    Combination {
        /// The stage or image.
        name: String,
        /// The values, as written.
        filter: String,
        /// An axis that does not have the value that was asked for, and the values that it has.
        values: Option<(String, Vec<String>)>,
    },
}

/// What a selector picks: nodes, and the images whose files they are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selection {
    pub nodes: Vec<NodeId>,
    /// The images, as places in [`Graph::images`].
    pub images: Vec<usize>,
}

struct Definition<'a> {
    stage: &'a str,
    kind: &'a str,
    params: &'a Params,
    parents: &'a [(Arc<str>, NodeId)],
}

impl Describe for Definition<'_> {
    fn describe(&self, sink: &mut dyn Sink) {
        sink.put(Atom::Str(self.stage));
        sink.put(Atom::Str(self.kind));
        self.params.0.describe(sink);
        sink.put(Atom::List(self.parents.len() as u64));
        for (name, id) in self.parents {
            sink.put(Atom::Str(name));
            sink.put(Atom::U64(u64::from(id.0)));
        }
    }
}

/// The stage that makes what a machine boots in place of a disk.
fn bootable(lowered: &Lowered) -> Option<&str> {
    let mut inputs = lowered.actions.iter().map(|action| &action.inputs);
    let booted = inputs.find_map(|inputs| inputs.get("kernel").or_else(|| inputs.get("iso")));
    match booted? {
        Slot::Stage(stage) | Slot::StageFile { stage, .. } => Some(stage),
        _ => None,
    }
}

impl Graph {
    /// Makes the nodes of an evaluated recipe, which has checked names, types and cycles, with the packages that its lock
    /// has for them. What a node lacks its [`Graph::lock_state`] tells.
    pub fn new(recipe: &Recipe, registry: &Registry, lock: LockFile) -> Graph {
        let mut graph = Graph {
            nodes: NodeMap::new(),
            images: Vec::new(),
            axes: recipe.axes.iter().map(|axis| axis.name.clone()).collect(),
            combinations: recipe
                .combinations
                .iter()
                .map(|combination| combination.values.clone())
                .collect(),
            stages: Vec::new(),
            lock: AppliedLock::default(),
        };
        let mut by_definition: HashMap<NodeDigest, NodeId> = HashMap::new();
        for (place, combination) in recipe.combinations.iter().enumerate() {
            let names: HashMap<&str, usize> = combination
                .stages
                .iter()
                .enumerate()
                .map(|(index, stage)| (&*stage.name, index))
                .collect();
            let references: Vec<Vec<Arc<str>>> = combination
                .stages
                .iter()
                .map(|stage| stage_names(stage.params.0.values()))
                .collect();
            let mut ids: HashMap<Arc<str>, NodeId> = HashMap::with_capacity(names.len());
            for index in order(&names, &references) {
                let stage = &combination.stages[index];
                let parents: Vec<_> = references[index]
                    .iter()
                    .map(|name| (name.clone(), ids[name]))
                    .collect();
                let definition = Definition {
                    stage: &stage.name,
                    kind: &stage.kind,
                    params: &stage.params,
                    parents: &parents,
                };
                let digest = NodeDigest(key::digest(NodeDigest::hasher(), &definition));
                let id = *by_definition.entry(digest).or_insert_with(|| {
                    let kind = registry
                        .get(&stage.kind)
                        .expect("BUG: the recipe let an unknown kind pass");
                    let from = stage.params.get("from").and_then(|from| match &from.data {
                        Data::Stage(name) => Some(&graph.nodes[ids[name]].root),
                        _ => None,
                    });
                    let root = from
                        .cloned()
                        .unwrap_or_else(|| kind.root(&stage.params).unwrap_or_default());
                    let mut lowered = stage.lowered.clone();
                    lowered.set_root(&root);
                    let architecture = match &lowered.request {
                        Some(PackageRequest {
                            root: RequestRoot::Own { architecture, .. },
                            ..
                        }) => architecture.clone(),
                        _ => {
                            let below = below_stage(&lowered).or_else(|| bootable(&lowered));
                            let said = || stage.params.text("architecture");
                            below.map_or_else(
                                || said().unwrap_or(ARCHITECTURE).to_owned(),
                                |stage| graph.nodes[ids[stage]].architecture.clone(),
                            )
                        }
                    };
                    lowered.set_architecture(&architecture);
                    graph.nodes.push(Node {
                        stage: stage.name.clone(),
                        kind,
                        place: recipe.sources.get(stage.span.file).map(|text| Origin {
                            path: text.short.clone(),
                            line: text.line(stage.span.start),
                        }),
                        combinations: Vec::new(),
                        label: String::new(),
                        parents,
                        root,
                        architecture,
                        cutoff: kind.cutoff(&stage.params).unwrap_or(recipe.cutoff),
                        lowered,
                    })
                });
                graph.nodes[id].combinations.push(place as u32);
                ids.insert(stage.name.clone(), id);
            }
            for image in &combination.images {
                graph.images.push(ImageNode::new(image, place as u32, &ids));
            }
        }
        graph.name_nodes();
        graph.set_lock(lock);
        graph
    }

    /// Gives every node a label: the axes on which the nodes of its stage differ, and on which it has one value.
    fn name_nodes(&mut self) {
        let mut by_stage: HashMap<Arc<str>, Vec<NodeId>> = HashMap::new();
        for (id, node) in self.nodes.iter() {
            let nodes = by_stage.entry(node.stage.clone()).or_insert_with(|| {
                self.stages.push(node.stage.clone());
                Vec::new()
            });
            nodes.push(id);
        }
        for nodes in by_stage.values() {
            // The axes on which the stage's combinations differ at all.
            let differs: Vec<bool> = (0..self.axes.len())
                .map(|axis| {
                    let combinations = nodes.iter().flat_map(|id| &self.nodes[*id].combinations);
                    let mut values =
                        combinations.map(|place| &self.combinations[*place as usize][axis]);
                    let first = values.next();
                    values.any(|value| Some(value) != first)
                })
                .collect();
            for &id in nodes.iter().filter(|_| nodes.len() > 1) {
                let node = &self.nodes[id];
                let mut parts = Vec::new();
                for (axis, name) in self
                    .axes
                    .iter()
                    .enumerate()
                    .filter(|(axis, _)| differs[*axis])
                {
                    let value = |place: &u32| &self.combinations[*place as usize][axis];
                    let first = value(&node.combinations[0]);
                    if node.combinations.iter().all(|place| value(place) == first) {
                        parts.push(format!("{name}={first}"));
                    }
                }
                let stage = &node.stage;
                let label = if parts.is_empty() {
                    stage.to_string()
                } else {
                    format!("{stage}[{}]", parts.join(","))
                };
                self.nodes[id].label = label;
            }
            if let [only] = nodes.as_slice() {
                self.nodes[*only].label = self.nodes[*only].stage.to_string();
            }
        }
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether a node tests another one's disk.
    pub fn is_test(&self, id: NodeId) -> bool {
        let actions = &self.node(id).lowered.actions;
        actions
            .iter()
            .any(|action| action.executor == Executor::Machine)
    }

    /// Every node, in topological order.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        self.nodes.ids()
    }

    /// The images of all combinations.
    pub fn images(&self) -> &[ImageNode] {
        &self.images
    }

    /// The matrix' values of a combination, with their axes.
    pub fn values(&self, combination: u32) -> impl Iterator<Item = (&str, &str)> {
        let values = &self.combinations[combination as usize];
        self.axes
            .iter()
            .map(String::as_str)
            .zip(values.iter().map(String::as_str))
    }

    /// A name of a node that does not depend on which combinations are chosen: the stage and all values of one.
    pub fn stable_name(&self, stage: &str, combination: u32) -> String {
        let values = self.combination_name(combination);
        if values.is_empty() {
            stage.to_owned()
        } else {
            format!("{stage}[{values}]")
        }
    }

    /// The stable names of a node: under which of them it ran last depends on the combinations that were chosen then.
    pub fn stable_names(&self, id: NodeId) -> impl Iterator<Item = String> {
        let node = self.node(id);
        node.combinations
            .iter()
            .map(|combination| self.stable_name(&node.stage, *combination))
    }

    /// What sets a combination apart: `axis=value,…`.
    pub fn combination_name(&self, combination: u32) -> String {
        let values: Vec<_> = self
            .values(combination)
            .map(|(axis, value)| format!("{axis}={value}"))
            .collect();
        values.join(",")
    }

    /// Whether this is the name of a combination of the same axes that the graph does not have.
    pub(super) fn is_combination_elsewhere(&self, name: &str) -> bool {
        let pairs = name.split(',').filter_map(|pair| pair.split_once('='));
        let is_of_axes = pairs
            .map(|(axis, _)| axis)
            .eq(self.axes.iter().map(String::as_str));
        let mut own = 0..self.combinations.len() as u32;
        is_of_axes && own.all(|place| self.combination_name(place) != name)
    }

    /// Gives a node's Actions that take packages those that they are to take.
    pub(super) fn fill(&mut self, id: NodeId, set: &PackageSet) {
        let Lowered {
            actions, request, ..
        } = &mut self.nodes[id].lowered;
        for action in actions {
            if let Some(packages) = &mut action.packages {
                packages.clone_from(set);
                if let Some(request) = request.as_ref().filter(|request| request.named_only) {
                    packages
                        .install
                        .retain(|package| request.install.contains(&package.name));
                }
            }
        }
    }

    /// Names the bytes that a node's Actions get from elsewhere.
    pub(super) fn fill_source(&mut self, id: NodeId, source: &LockSource) {
        let actions = &mut self.nodes[id].lowered.actions;
        let wanted = actions
            .iter_mut()
            .filter(|action| action.hints.source.is_some());
        for step in wanted.flat_map(|action| &mut action.steps) {
            match (step, &source.sha256, &source.commit) {
                (Step::Fetch { sha256, .. }, Some(locked), _) => *sha256 = *locked,
                (Step::FetchGit { commit, .. }, _, Some(locked)) => commit.clone_from(locked),
                _ => {}
            }
        }
    }

    /// The nodes, and all that they need.
    pub fn closure(&self, nodes: &[NodeId]) -> NodeMap<bool> {
        let mut needed = NodeMap::filled(false, self.nodes.len());
        let mut queue = nodes.to_vec();
        while let Some(id) = queue.pop() {
            if !std::mem::replace(&mut needed[id], true) {
                queue.extend(self.node(id).parents.iter().map(|(_, parent)| *parent));
            }
        }
        needed
    }

    /// What to build where the user names nothing: every image, or every node but tests where the recipe has no image.
    pub fn everything(&self) -> Selection {
        if self.images.is_empty() {
            return Selection {
                nodes: self.ids().filter(|id| !self.is_test(*id)).collect(),
                images: Vec::new(),
            };
        }
        self.with_images((0..self.images.len()).collect())
    }

    fn with_images(&self, images: Vec<usize>) -> Selection {
        let mut nodes: Vec<_> = images
            .iter()
            .map(|image| &self.images[*image])
            .flat_map(|image| image.sources().chain(image.requires.iter().copied()))
            .collect();
        nodes.sort_unstable();
        nodes.dedup();
        Selection { nodes, images }
    }

    /// A selection without what its images only require; these nodes were named, and stay.
    pub fn without_required(&self, mut selection: Selection, named: &[NodeId]) -> Selection {
        let images = || selection.images.iter().map(|image| &self.images[*image]);
        let mut needed: HashSet<NodeId> = images().flat_map(ImageNode::sources).collect();
        needed.extend(named);
        let required: HashSet<NodeId> = images().flat_map(|image| image.requires.clone()).collect();
        selection
            .nodes
            .retain(|id| needed.contains(id) || !required.contains(id));
        selection
    }

    /// The images of a label; where there are none, those whose files are called so.
    fn images_named(&self, name: &str, is_label: bool) -> Vec<usize> {
        let all = || 0..self.images.len();
        let labelled: Vec<_> = all()
            .filter(|image| &*self.images[*image].label == name)
            .collect();
        if is_label || !labelled.is_empty() {
            return labelled;
        }
        all()
            .filter(|image| self.images[*image].name == name)
            .collect()
    }

    /// Reads a selector: `STAGE`, `image.LABEL` or an image's label or name, with an optional `[axis=value,…]`. What is
    /// not said otherwise is a stage.
    ///
    /// # Errors
    /// It cannot be read, or names nothing.
    pub fn select(&self, text: &str) -> Result<Selection, SelectorError> {
        let (name, filter) = split_selector(text)?;
        let wanted = self.axes_of(&filter)?;
        let matches = |combination: u32| {
            wanted
                .iter()
                .all(|(axis, value)| self.combinations[combination as usize][*axis] == *value)
        };
        let nothing = || self.no_combination(name, &wanted);
        let is_stage = self.stages.iter().any(|stage| &**stage == name);
        let label = name.strip_prefix("image.");
        let named = self.images_named(label.unwrap_or(name), label.is_some());
        if let Some(label) = label.filter(|_| named.is_empty()) {
            let mut known: Vec<_> = self
                .images
                .iter()
                .map(|image| image.label.to_string())
                .collect();
            known.dedup();
            return Err(SelectorError::Image {
                name: label.to_owned(),
                known,
            });
        }
        // An image of a stage's name needs its prefix.
        if !is_stage && !named.is_empty() {
            let images: Vec<_> = named
                .into_iter()
                .filter(|image| matches(self.images[*image].combination))
                .collect();
            return if images.is_empty() {
                Err(nothing())
            } else {
                Ok(self.with_images(images))
            };
        }
        if !is_stage {
            let known = self.stages.iter().map(|stage| stage.to_string()).collect();
            return Err(SelectorError::Stage {
                name: name.to_owned(),
                known,
            });
        }
        let picked = |id: &NodeId| {
            let node = self.node(*id);
            &*node.stage == name
                && node
                    .combinations
                    .iter()
                    .any(|combination| matches(*combination))
        };
        let nodes: Vec<_> = self.ids().filter(picked).collect();
        if nodes.is_empty() {
            Err(nothing())
        } else {
            Ok(Selection {
                nodes,
                images: Vec::new(),
            })
        }
    }

    /// The places of the axes that a selector's brackets name, with the values.
    fn axes_of<'t>(
        &self,
        filter: &[(&str, &'t str)],
    ) -> Result<Vec<(usize, &'t str)>, SelectorError> {
        let axis_of = |(axis, value): &(&str, &'t str)| {
            let place = self.axes.iter().position(|known| known == axis);
            let unknown = || SelectorError::Axis {
                axis: (*axis).to_owned(),
                known: self.axes.clone(),
            };
            Ok((place.ok_or_else(unknown)?, *value))
        };
        filter.iter().map(axis_of).collect()
    }

    /// A stage or image has no combination with these values.
    fn no_combination(&self, name: &str, wanted: &[(usize, &str)]) -> SelectorError {
        let pairs: Vec<_> = wanted
            .iter()
            .map(|(axis, value)| format!("{}={value}", self.axes[*axis]))
            .collect();
        let unknown = wanted.iter().find_map(|(axis, value)| {
            let mut known = Vec::new();
            for combination in &self.combinations {
                if !known.contains(&combination[*axis]) {
                    known.push(combination[*axis].clone());
                }
            }
            let is_unknown = known.iter().all(|known| known != value);
            is_unknown.then(|| (self.axes[*axis].clone(), known))
        });
        SelectorError::Combination {
            name: name.to_owned(),
            filter: pairs.join(","),
            values: unknown,
        }
    }

    /// The nodes and their needs as a petgraph graph.
    pub fn to_petgraph(&self) -> DiGraph<NodeId, ()> {
        let mut graph = DiGraph::with_capacity(self.nodes.len(), self.nodes.len());
        let places: NodeMap<_> = self.ids().map(|id| graph.add_node(id)).collect();
        for id in self.ids() {
            for (_, parent) in &self.node(id).parents {
                graph.update_edge(places[*parent], places[id], ());
            }
        }
        graph
    }
}

/// The axes that a selector's brackets name, each with a value.
type Filter<'t> = Vec<(&'t str, &'t str)>;

/// The name in a selector, and the axes and values in its brackets.
fn split_selector(text: &str) -> Result<(&str, Filter<'_>), SelectorError> {
    fn pair(text: &str) -> Option<(&str, &str)> {
        text.split_once('=')
            .map(|(axis, value)| (axis.trim(), value.trim()))
    }
    let syntax = || SelectorError::Syntax {
        text: text.to_owned(),
    };
    let (name, filter) = match text.split_once('[') {
        None => (text, Vec::new()),
        Some((name, rest)) => {
            let inner = rest.strip_suffix(']').ok_or_else(syntax)?;
            (
                name,
                inner
                    .split(',')
                    .map(pair)
                    .collect::<Option<_>>()
                    .ok_or_else(syntax)?,
            )
        }
    };
    if name.is_empty() {
        Err(syntax())
    } else {
        Ok((name, filter))
    }
}

/// The stage names that values refer to, sorted, each once.
fn stage_names<'a>(values: impl Iterator<Item = &'a Value>) -> Vec<Arc<str>> {
    let mut names = Vec::new();
    let mut queue: Vec<&Value> = values.collect();
    while let Some(value) = queue.pop() {
        match &value.data {
            Data::Stage(stage) | Data::StageFile { stage, .. } => names.push(stage.clone()),
            Data::List(items) => queue.extend(items),
            Data::Object(pairs) => queue.extend(pairs.values()),
            _ => {}
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// An order of a combination's stages in which every stage comes after those that it refers to.
fn order(names: &HashMap<&str, usize>, references: &[Vec<Arc<str>>]) -> Vec<usize> {
    let in_order =
        |(index, needs): (usize, &Vec<Arc<str>>)| needs.iter().all(|name| names[&**name] < index);
    if references.iter().enumerate().all(in_order) {
        return (0..references.len()).collect();
    }
    let mut graph = DiGraph::<(), ()>::with_capacity(references.len(), references.len());
    let places: Vec<_> = references.iter().map(|_| graph.add_node(())).collect();
    for (index, needs) in references.iter().enumerate() {
        for name in needs {
            graph.add_edge(places[names[&**name]], places[index], ());
        }
    }
    let sorted = toposort(&graph, None).expect("BUG: the recipe let a cycle pass");
    sorted.into_iter().map(|place| place.index()).collect()
}

/// The slots of a node's first unit of work that local files fill.
pub fn local_paths(node: &Node) -> impl Iterator<Item = &str> {
    node.lowered
        .actions
        .iter()
        .flat_map(|action| action.slots())
        .filter_map(|slot| match slot {
            Slot::Local(path) | Slot::LocalWithTimes(path) | Slot::LocalPart { path, .. } => {
                Some(path.as_str())
            }
            _ => None,
        })
}
