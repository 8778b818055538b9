//! `impasto man-pages`: writes the manual: a page for each command, each topic of help and each stage kind. For packages.
//! Knows a directory of sections; what the pages say is said where the commands and topics are.

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory};

use super::error::CliError;
use super::help::{manual, page};
use super::{Cli, exit};

#[derive(Debug, Args)]
pub(crate) struct ManPages {
    /// Where the directories of the manual's sections are, such as /usr/share/man
    dir: PathBuf,
}

impl ManPages {
    pub(crate) fn run(self) -> Result<u8, CliError> {
        let section = |number: &str| {
            let dir = self.dir.join(format!("man{number}"));
            std::fs::create_dir_all(&dir).map_err(CliError::io("make", &dir))?;
            Ok::<PathBuf, CliError>(dir)
        };
        let commands = section("1")?;
        clap_mangen::generate_to(Cli::command(), &commands)
            .map_err(CliError::io("write pages into", &commands))?;
        let others = section(manual::SECTION)?;
        for page in page::all()
            .iter()
            .filter(|page| page.subject != page::Subject::Command)
        {
            let path: &Path = &others.join(format!("{}.{}", manual::name(page), manual::SECTION));
            std::fs::write(path, manual::render(page, env!("CARGO_PKG_VERSION")))
                .map_err(CliError::io("write", path))?;
        }
        Ok(exit::OK)
    }
}
