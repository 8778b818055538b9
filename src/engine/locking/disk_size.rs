//! Whether the packages of a lock can fit the disks that the recipe makes for them.
//! Knows what packages say of themselves, which is not exact; so it speaks only where there is no doubt.

use std::collections::BTreeMap;

use impasto_stages::Origin;
use impasto_stages::action::Step;
use impasto_stages::package_set::PackageRequest;

use super::apply::below;
use crate::engine::graph::{Graph, Node, NodeId, NodeMap};
use crate::lock::LockPackage;

/// What packages take is at least this part of what they say: sizes of files are rounded otherwise, and scripts of
/// packages may remove what they brought.
const CERTAIN: (u64, u64) = (3, 4);

/// What a package says is not believed beyond so many times the length of its file: some say nonsense.
const PACKED: u64 = 8;

/// A disk that is too small for the packages that it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooSmall {
    /// The stage that brings more than fits.
    pub stage: String,
    /// The stage that makes the disk.
    pub disk: String,
    /// Where that one begins.
    pub place: Option<Origin>,
    /// How many packages the disk would have.
    pub packages: usize,
    /// Bytes that they say they take.
    pub needed: u64,
    /// Bytes of the disk.
    pub size: u64,
}

impl LockPackage {
    /// Bytes that it takes at least, as it says itself.
    fn available(&self) -> u64 {
        let said = self.installed.unwrap_or(0).saturating_mul(1024);
        said.min(self.file.size.saturating_mul(PACKED))
    }
}

/// The first disk that cannot take what stages put into it. `needed` are the nodes that are to be built.
pub fn too_small(graph: &Graph, needed: &NodeMap<bool>) -> Option<TooSmall> {
    let builder = |node: &Node| {
        node.lowered
            .request
            .as_ref()
            .is_some_and(PackageRequest::is_builder)
    };
    graph.ids().filter(|id| needed[*id]).find_map(|id| {
        let node = graph.node(id);
        if disk_size(node).is_none() && (node.lowered.request.is_none() || builder(node)) {
            return None;
        }
        let chain: Vec<NodeId> = std::iter::successors(Some(id), |at| {
            let node = graph.node(*at);
            below(node).filter(|_| !leaves_out(node))
        })
        .collect();
        let (disk, size) = chain
            .iter()
            .find_map(|at| Some((graph.node(*at), disk_size(graph.node(*at))?)))?;
        let mut sizes = BTreeMap::new();
        for at in chain.iter().rev().filter(|at| !builder(graph.node(**at))) {
            let Some(entry) = graph.lock_entry(*at) else {
                continue;
            };
            for package in &entry.removed {
                sizes.remove(&(&package.name, &package.architecture));
            }
            sizes.extend(
                entry
                    .packages
                    .iter()
                    .map(|p| ((&p.file.name, &p.file.architecture), p.available())),
            );
        }
        let needed: u64 = sizes.values().sum();
        (needed / CERTAIN.1 * CERTAIN.0 > size).then(|| TooSmall {
            stage: node.label.clone(),
            disk: disk.label.clone(),
            place: disk.place.clone(),
            packages: sizes.len(),
            needed,
            size,
        })
    })
}

/// Whether a node passes on less than the disk below it has; nobody knows how much less.
fn leaves_out(node: &Node) -> bool {
    let mut steps = node.lowered.actions.iter().flat_map(|action| &action.steps);
    steps.any(|step| matches!(step, Step::Archive { spec } if !spec.exclude.is_empty()))
}

/// The size of the disk that a node makes, in bytes.
fn disk_size(node: &Node) -> Option<u64> {
    node.lowered
        .actions
        .iter()
        .flat_map(|action| &action.steps)
        .find_map(|step| match step {
            Step::AssembleDisk { spec, .. } => Some(spec.size),
            Step::Resize { size, .. } => Some(*size),
            _ => None,
        })
}
