//! The files of a fetched disk image that tell which packages it has: read without mounting, by our own code.
//! Knows where the image comes from; a package manager knows what the files mean.

use impasto_store::qcow2::ChunkSource;

use super::build::engine_config;
use super::disk_names::no_disk;
use super::error::CliError;
use super::lock_context::LockContext;
use super::session::Loaded;
use super::{RecipeArgs, RunArgs, exit};
use crate::debian::packages::apt::STATE_FILES;
use crate::disk::contents::{Contents, OnDisk};
use crate::disk::tree::Tree;
use crate::engine::event::{Event, EventKind};
use crate::engine::graph::{NodeId, Selection};
use crate::engine::locking::ImageFiles;
use crate::engine::plan::PlanState;
use crate::engine::run::Engine;

/// Longest file that is read, in bytes.
const LIMIT: u64 = 64 << 20;

/// Reads them; the image is fetched, or taken into the store, where it is not there.
pub(super) fn read(
    context: &LockContext<'_>,
    loaded: &Loaded,
    id: NodeId,
) -> Result<ImageFiles, CliError> {
    let store = context.store;
    let label = &loaded.graph.node(id).label;
    let failed = |message: String| CliError::Other {
        message,
        help: None,
        code: exit::STAGE,
    };
    let known = || -> Result<_, CliError> {
        Ok(
            match loaded.planner(store, &[])?.plan(&[id])?.into_value(id) {
                Some(PlanState::Cached(hit)) => Some(hit),
                _ => None,
            },
        )
    };
    let mut hit = known()?;
    if hit.is_none() {
        let packages = || context.fetcher(loaded);
        let sandbox = context.sandbox.clone();
        let (recipe, run) = (RecipeArgs::default(), RunArgs::default());
        let config = engine_config(context.session, &recipe, &run, loaded, sandbox, &packages);
        let mut reason = None;
        let mut events = |event: &Event| {
            crate::ui::follow(context.meter(), event);
            if let EventKind::StageFailed { error, causes, .. } = &event.kind {
                reason = Some(
                    std::iter::once(error)
                        .chain(causes)
                        .cloned()
                        .collect::<Vec<_>>()
                        .join(": "),
                );
            }
        };
        let selection = Selection {
            nodes: vec![id],
            images: Vec::new(),
        };
        let planner = loaded.planner(store, &[])?;
        Engine::new(
            planner,
            &selection,
            config,
            context.session.start,
            &mut events,
        )?
        .run();
        if let Some(reason) = reason {
            return Err(failed(reason));
        }
        hit = known()?;
    }
    let hit = hit.ok_or_else(|| failed(format!("{label} cannot be fetched")))?;
    let Some(disk) = hit.result.disk else {
        return Err(no_disk(store, label, &hit.result)?);
    };
    let tree = match &hit.result.tree {
        Some(blob) => Tree::load(store, blob)?,
        None => None,
    };
    let tree = tree.ok_or_else(|| failed(format!("the files of {label} cannot be listed")))?;
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
        let wanted: Vec<_> = STATE_FILES
            .iter()
            .map(|path| (volume.partition, path.as_bytes()))
            .collect();
        let found = contents
            .files(&wanted, LIMIT)
            .map_err(|source| CliError::Disk {
                label: label.clone(),
                source,
            })?;
        if found[0].is_some() {
            let paths = STATE_FILES.iter().map(|path| (*path).to_owned());
            return Ok(paths
                .zip(found)
                .filter_map(|(path, file)| Some((path, file?)))
                .collect());
        }
    }
    Err(failed(format!(
        "{label} has no {}: it has no package database",
        STATE_FILES[0]
    )))
}
