//! `impasto init`: a starter recipe.
//! Knows its text only.

use std::path::PathBuf;

use clap::Args;

use super::error::CliError;
use super::session::{Session, shown};
use super::{exit, exit::USAGE};
use crate::ui;

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Where the recipe goes
    #[arg(default_value = ".")]
    dir: PathBuf,
}

const FILE: &str = "impasto.hcl";
const STARTER: &str = include_str!("starter.hcl");

impl Init {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        use std::io::Write;
        let dir = session.host.cwd.join(&self.dir);
        let owner = session.host.owner();
        owner.create_dirs(&dir, 0o777).map_err(CliError::io("make", &dir))?;
        let path = dir.join(FILE);
        let name = shown(&path, &session.host.cwd).display().to_string();
        let file = std::fs::File::options().write(true).create_new(true).open(&path);
        let written = file.and_then(|mut file| {
            file.write_all(STARTER.as_bytes())?;
            owner.give(file)
        });
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let help = Some("remove it, or name another directory".to_owned());
                return Err(CliError::Other { message: format!("{name} exists already"), help, code: USAGE });
            }
            Err(error) => return Err(CliError::io("write", &path)(error)),
        }
        ui::output(&format!(
            "wrote {name}\nbuild it, then boot it: impasto build; impasto boot out/starter.qcow2 --ssh-key ~/.ssh/id_ed25519.pub\n"
        ));
        Ok(exit::OK)
    }
}
