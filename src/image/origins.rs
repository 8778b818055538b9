//! Where the packages of a disk came from, as a lock has it.
//! Knows graph and lock; reads no disk.

use impasto_stages::package_set::PackageName;

use crate::engine::graph::{Graph, NodeId};
use crate::engine::locking::{below, repository};
use crate::inspect::sbom::{Origins, PackageOrigin};

/// Where the packages of a node's disk came from: those that its stage and the stages under it lock.
pub fn origins(graph: &Graph, id: NodeId) -> Origins {
    let mut origins = Origins::new();
    let mut at = Some(id);
    while let Some(id) = at {
        let entry = graph.lock_entry(id);
        for package in entry.iter().flat_map(|entry| &entry.packages) {
            let file = &package.file;
            let key = PackageName {
                name: file.name.clone(),
                architecture: file.architecture.clone(),
                version: file.version.clone(),
            };
            let (place, sha256) = (package.archive.as_deref(), Some(file.sha256));
            // Which mirror of the host's was asked says nothing about the image.
            let archive = place.map(|name| {
                repository(graph, id, name).map_or(name.to_owned(), |at| at.to_string())
            });
            origins.entry(key).or_insert(PackageOrigin {
                sha256,
                archive,
                path: Some(package.path.clone()),
            });
        }
        at = below(graph.node(id));
    }
    origins
}
