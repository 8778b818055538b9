//! `impasto log`: what a stage wrote when it last ran.
//! Knows where logs lie.

use std::path::PathBuf;

use clap::Args;
use impasto_store::Store;

use super::error::CliError;
use super::session::{Loaded, Session};
use super::{RecipeArgs, exit};
use crate::base::bounded;
use crate::engine::failed::FailedState;
use crate::engine::graph::NodeId;
use crate::engine::history::file_name;
use crate::ui;

#[derive(Debug, Args)]
#[command(
    after_help = "Without a selector: of the stage that failed, or else of the one that ran last."
)]
pub(crate) struct Log {
    #[command(flatten)]
    recipe: RecipeArgs,
}

/// Most bytes of a log that are shown: more than a stage may write.
const MAX_LOG: u64 = 1 << 30;

impl Log {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let loaded = session.load(&self.recipe)?;
        let store = session.store()?;
        let dir = loaded.state(&store).logs()?;
        let path = |id: NodeId| {
            let mut paths = loaded
                .graph
                .stable_names(id)
                .map(|name| dir.join(format!("{}.log", file_name(&name))));
            paths.find(|path| path.exists())
        };
        let nodes = match loaded.selectors() {
            [] => latest(&loaded, &store, path)?.into_iter().collect(),
            _ => loaded.selection()?.nodes,
        };
        let mut found = false;
        for id in &nodes {
            let Some(path) = path(*id) else { continue };
            match bounded::read(&path, MAX_LOG) {
                Ok(bytes) => {
                    found = true;
                    if nodes.len() > 1 {
                        ui::output(&format!("==> {} <==\n", loaded.graph.node(*id).label))?;
                    }
                    ui::output_file(&bytes)?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(CliError::io("read", path)(error)),
            }
        }
        if found {
            return Ok(exit::OK);
        }
        let labels: Vec<_> = nodes
            .iter()
            .map(|id| loaded.graph.node(*id).label.clone())
            .collect();
        let whose = if labels.is_empty() {
            "any stage of this recipe".to_owned()
        } else {
            labels.join(", ")
        };
        Err(CliError::Other {
            message: format!("there is no log of {whose}"),
            help: Some("a stage has a log once it has run here".to_owned()),
            code: exit::INTERNAL,
        })
    }
}

/// The stage that failed, if one did when it last ran, else the one that ran last; it is told which that is.
fn latest(
    loaded: &Loaded,
    store: &Store,
    path: impl Fn(NodeId) -> Option<PathBuf>,
) -> Result<Option<NodeId>, CliError> {
    let failed = loaded.state(store).failed()?;
    let has_failed = |id: NodeId| {
        loaded
            .graph
            .stable_names(id)
            .any(|name| FailedState::find(&failed, &name).is_some())
    };
    let written = |id: NodeId| Some((std::fs::metadata(path(id)?).ok()?.modified().ok()?, id));
    let logs: Vec<_> = loaded.graph.ids().filter_map(written).collect();
    let newest = |wanted: &dyn Fn(NodeId) -> bool| {
        logs.iter()
            .filter(|(_, id)| wanted(*id))
            .max()
            .map(|(_, id)| *id)
    };
    let (id, what) = match newest(&has_failed) {
        Some(id) => (id, "which failed"),
        None => match newest(&|_| true) {
            Some(id) => (id, "which ran last"),
            None => return Ok(None),
        },
    };
    ui::message(&format!(
        "the log of {}, {what}:",
        loaded.graph.node(id).label
    ));
    Ok(Some(id))
}
