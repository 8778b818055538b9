//! Which package files a graph may need, and where each can be had.
//! Knows nodes and the archives that their stages add; addresses are [`PackageSources`]' business.

use std::collections::HashMap;

use super::apply::{LockState, below};
use crate::debian::mirror::Mirror;
use crate::debian::packages::fetch::PackageDownload;
use crate::debian::packages::places::{PackageSources, address};
use crate::engine::graph::{Graph, NodeId, NodeMap};
use crate::lock::LockFile;
use impasto_store::sha256::Sha256;

/// Every package file that the lock names for a graph, by SHA-256.
pub fn wanted(
    places: &PackageSources<'_>,
    graph: &Graph,
    lock: &LockFile,
    states: &NodeMap<LockState>,
) -> HashMap<Sha256, PackageDownload> {
    let mut wanted = HashMap::new();
    for entry in &lock.toolbox {
        places.add(&mut wanted, entry, &|_| None);
    }
    for id in graph.ids() {
        if let LockState::Locked(place) = &states[id] {
            places.add(&mut wanted, &lock.stages[*place], &|name| {
                repository(graph, id, name)
            });
        }
    }
    wanted
}

/// The archive of this name that a node's request, or one below it, adds.
pub fn repository(graph: &Graph, id: NodeId, name: &str) -> Option<Mirror> {
    let mut at = Some(id);
    while let Some(id) = at {
        let lowered = &graph.node(id).lowered;
        let found = lowered
            .request
            .iter()
            .flat_map(|request| &request.repositories)
            .find(|known| known.name == name);
        if let Some(repository) = found {
            return address(repository, &lowered.secrets).ok().flatten();
        }
        at = below(graph.node(id));
    }
    None
}
