//! Which locked packages have newer versions, which sources are others now, and which stages run again where these are taken.
//! Knows nodes and entries; asks a package manager, which asks only signed indexes.

use super::apply::source_request;
use super::renew::{RenewError, base_of};
use super::run::LockRun;
use super::sources::NewerSource;
use crate::engine::event::EventKind;
use crate::engine::graph::{Graph, NodeId, NodeMap};
use crate::lock::{NewerVersion, Pinning, ResolveQuery};

/// What is newer than a lock.
#[derive(Debug, Default)]
pub struct Newer {
    /// The newer versions, by the node that has an older one, in the order of the graph.
    pub versions: Vec<(NodeId, Vec<NewerVersion>)>,
    /// What nodes get from elsewhere and is another one now, in the order of the graph.
    pub sources: Vec<(NodeId, NewerSource)>,
    /// The nodes that taking them would run again.
    pub rebuild: Vec<NodeId>,
    /// Nodes whose packages are not locked, so that nothing is known of them.
    pub unlocked: Vec<NodeId>,
}

impl LockRun<'_> {
    /// Asks what is newer than the lock, of the nodes that are needed; with `security`, of updates for security only.
    ///
    /// # Errors
    /// An archive cannot be had or believed.
    pub fn newer(
        &mut self,
        graph: &Graph,
        needed: &NodeMap<bool>,
        security: bool,
    ) -> Result<Newer, RenewError> {
        let recipe = self.recipe;
        let mut found = Newer::default();
        let mut dirty = NodeMap::filled(false, graph.len());
        self.with_manager(|run, manager| {
            for id in graph.ids().filter(|id| needed[*id]) {
                let node = graph.node(id);
                dirty[id] = node.parents.iter().any(|(_, parent)| dirty[*parent]);
                if source_request(node).is_some() {
                    match graph.lock_source(id) {
                        None => found.unlocked.push(id),
                        // Nobody says of what else it is.
                        Some(_) if security => {}
                        Some(entry) => {
                            let stage = node.label.clone();
                            run.emit(EventKind::CompareStarted { stage });
                            if let Some(newer) = run.newer_source(node, entry)? {
                                dirty[id] = true;
                                found.sources.push((id, newer));
                            }
                        }
                    }
                }
                let Some(request) = &node.lowered.request else {
                    continue;
                };
                let Some(entry) = graph.lock_entry(id) else {
                    found.unlocked.push(id);
                    continue;
                };
                let query = ResolveQuery {
                    request,
                    below: base_of(graph, graph.lock(), id, |_| None),
                    secrets: &node.lowered.secrets,
                    dir: &recipe.dir,
                    scope: &recipe.scope,
                    keep: Pinning::Nothing,
                    tools: entry,
                };
                let stage = node.label.clone();
                run.emit(EventKind::CompareStarted { stage });
                let newer = run.watch(Some(&node.label), || manager.newer(&query, entry));
                let mut newer =
                    newer.map_err(|source| RenewError::of_node(node, &run.config.dir, source))?;
                newer.retain(|newer| newer.security || !security);
                if !newer.is_empty() {
                    dirty[id] = true;
                    found.versions.push((id, newer));
                }
            }
            Ok(())
        })?;
        found.rebuild = graph.ids().filter(|id| dirty[*id]).collect();
        Ok(found)
    }
}
