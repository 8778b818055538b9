//! Which package files a graph may need, where each can be had, and what gets them.
//! Knows nodes and the archives that their stages add; addresses are [`PackageSources`]' business.

use std::collections::HashMap;
use std::path::Path;

use impasto_store::Store;
use impasto_store::sha256::Sha256;

use super::apply::below;
use crate::base::cancel::CancelToken;
use crate::debian::mirror::Mirror;
use crate::debian::packages::fetch::{Fetcher, PackageDownload};
use crate::debian::packages::host::PackageHost;
use crate::debian::packages::places::{PackageSources, address};
use crate::engine::graph::{Graph, NodeId};

/// What gets into a store, until `cancel`, the package files that a graph's lock names. `dir` is the recipe's directory.
pub fn fetcher(
    host: &PackageHost,
    store: &Store,
    dir: &Path,
    graph: &Graph,
    cancel: CancelToken,
) -> Fetcher {
    host.fetcher(store, dir, cancel, |places| wanted(places, graph))
}

/// Every package file that the lock names for a graph, by SHA-256.
fn wanted(places: &PackageSources<'_>, graph: &Graph) -> HashMap<Sha256, PackageDownload> {
    let mut wanted = HashMap::new();
    for entry in &graph.lock().toolbox {
        places.add(&mut wanted, entry, &|_| None);
    }
    for id in graph.ids() {
        if let Some(entry) = graph.lock_entry(id) {
            places.add(&mut wanted, entry, &|name| repository(graph, id, name));
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
