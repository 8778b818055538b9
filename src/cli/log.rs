//! `impasto log`: what a stage wrote when it last ran.
//! Knows where logs lie.

use clap::Args;

use super::error::CliError;
use super::session::Session;
use super::{RecipeArgs, exit};
use crate::bounded;
use crate::memory::file_name;
use crate::ui;

#[derive(Debug, Args)]
pub(crate) struct Log {
    #[command(flatten)]
    recipe: RecipeArgs,
}

/// Most bytes of a log that are shown: more than a stage may write.
const MAX_LOG: u64 = 1 << 30;

impl Log {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let loaded = session.load(&self.recipe)?;
        let picked = loaded.graph.select(loaded.one_selector()?)?;
        let store = session.store()?;
        let dir = loaded.state(&store).logs()?;
        let mut found = false;
        for id in &picked.nodes {
            let node = loaded.graph.node(*id);
            let paths = loaded.names(*id).map(|name| dir.join(format!("{}.log", file_name(&name))));
            let Some(path) = paths.into_iter().find(|path| path.exists()) else { continue };
            match bounded::read(&path, MAX_LOG) {
                Ok(bytes) => {
                    found = true;
                    if picked.nodes.len() > 1 {
                        ui::output(&format!("==> {} <==\n", node.label));
                    }
                    ui::output_bytes(&bytes).map_err(CliError::io("write", "standard output"))?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(CliError::io("read", path)(error)),
            }
        }
        if found {
            return Ok(exit::OK);
        }
        let labels: Vec<_> = picked.nodes.iter().map(|id| loaded.graph.node(*id).label.clone()).collect();
        Err(CliError::Other {
            message: format!("there is no log of {}", labels.join(", ")),
            help: Some("a stage has a log once it ran here".to_owned()),
            code: exit::INTERNAL,
        })
    }
}
