//! The files of a fetched disk image that tell which packages it has: read without mounting, by our own code.
//! Knows where the image comes from; a package manager knows what the files mean.

use impasto_store::claim::Isolation;
use impasto_store::qcow2::ChunkSource;

use super::renew::{ImageFiles, RenewError};
use super::run::LockRun;
use crate::base::human::with_causes;
use crate::disk::contents::{Contents, OnDisk};
use crate::disk::tree::Tree;
use crate::engine::event::{Event, EventKind};
use crate::engine::graph::{Graph, NodeId, Selection};
use crate::engine::plan::{Hit, PlanState, Planner};
use crate::engine::run::Engine;

/// An image is fetched by the host, whatever the sandbox is.
const ON_HOST: Isolation = Isolation::Host;

/// Longest file that is read, in bytes.
const LIMIT: u64 = 64 << 20;

impl LockRun<'_> {
    /// Reads the files of these paths; the image is fetched, or taken into the store, where it is not there. A disk without
    /// the first of them has no packages.
    pub(super) fn image_files(
        &mut self,
        graph: &Graph,
        id: NodeId,
        paths: &[&str],
    ) -> Result<ImageFiles, RenewError> {
        let failed = |reason: String| RenewError::Image {
            stage: graph.node(id).label.clone(),
            reason,
        };
        let hit = match self.known(graph, id).map_err(failed)? {
            Some(hit) => hit,
            None => {
                self.fetch_image(graph, id).map_err(failed)?;
                let label = &graph.node(id).label;
                let known = self.known(graph, id).map_err(failed)?;
                known.ok_or_else(|| failed(format!("{label} cannot be fetched")))?
            }
        };
        self.read(&hit, &graph.node(id).label, paths)
            .map_err(failed)
    }

    /// The image, where the store has it.
    fn known(&self, graph: &Graph, id: NodeId) -> Result<Option<Hit>, String> {
        let states = Planner::new(self.recipe, graph, &self.store, ON_HOST).plan(&[id]);
        match states.map_err(|error| with_causes(&error))?.into_value(id) {
            Some(PlanState::Cached(hit)) => Ok(Some(hit)),
            _ => Ok(None),
        }
    }

    /// Runs the stage of an image. Of what happens it is told how far it is: the stage finishes in the run that needs it.
    fn fetch_image(&mut self, graph: &Graph, id: NodeId) -> Result<(), String> {
        let selection = Selection {
            nodes: vec![id],
            images: Vec::new(),
        };
        let (planner, config) = (
            Planner::new(self.recipe, graph, &self.store, ON_HOST),
            self.config.clone(),
        );
        let mut reason = None;
        let tell = &mut *self.events;
        let mut events = |event: &Event| match &event.kind {
            EventKind::StageFailed { error, causes, .. } => {
                let all: Vec<_> = std::iter::once(error).chain(causes).cloned().collect();
                reason = Some(all.join(": "));
            }
            EventKind::Progress { .. } | EventKind::Warning { .. } => tell(event),
            _ => {}
        };
        let engine = Engine::new(planner, &selection, config, self.start, &mut events);
        engine.map_err(|error| with_causes(&error))?.run();
        reason.map_or(Ok(()), Err)
    }

    fn read(&self, hit: &Hit, label: &str, paths: &[&str]) -> Result<ImageFiles, String> {
        let Some(disk) = hit.result.disk else {
            return Err(format!("{label} made no disk"));
        };
        let store = &self.store;
        let tree = match &hit.result.tree {
            Some(blob) => Tree::load(store, blob).map_err(|error| with_causes(&error))?,
            None => None,
        };
        let tree = tree.ok_or_else(|| format!("the files of {label} cannot be listed"))?;
        let open = || {
            let reader = store
                .disk_reader(&disk.layer)
                .map_err(std::io::Error::other)?;
            Ok(Box::new(reader) as Box<dyn ChunkSource>)
        };
        let contents = OnDisk {
            open: &open,
            tree: &tree,
        };
        for volume in &tree.volumes {
            let wanted: Vec<_> = paths
                .iter()
                .map(|path| (volume.partition, path.as_bytes()))
                .collect();
            let found = contents.files(&wanted, LIMIT);
            let found =
                found.map_err(|error| format!("cannot read {label}: {}", with_causes(&error)))?;
            if found[0].is_some() {
                let paths = paths.iter().map(|path| (*path).to_owned());
                return Ok(paths
                    .zip(found)
                    .filter_map(|(path, file)| Some((path, file?)))
                    .collect());
            }
        }
        Err(format!(
            "{label} has no {}: it has no package database",
            paths[0]
        ))
    }
}
