//! `impasto man-pages`: writes the manual's pages, one for each command. For packages.
//! Knows a directory; what the pages say is said where the commands are.

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use super::error::CliError;
use super::{Cli, exit};

#[derive(Debug, Args)]
pub(crate) struct ManPages {
    /// Where to write them
    dir: PathBuf,
}

impl ManPages {
    pub(crate) fn run(self) -> Result<u8, CliError> {
        clap_mangen::generate_to(Cli::command(), &self.dir).map_err(CliError::io("write pages into", &self.dir))?;
        Ok(exit::OK)
    }
}
