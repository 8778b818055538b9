//! `impasto init`: a starter recipe.
//! Knows its text only.

use std::path::PathBuf;

use clap::Args;

use super::error::CliError;
use super::session::{Session, quoted, shown};
use super::{exit, exit::USAGE};
use crate::recipe::recipe_files;
use crate::ui;

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Where to write the recipe
    #[arg(default_value = ".")]
    dir: PathBuf,
}

const FILE: &str = "impasto.hcl";
const STARTER: &str = include_str!("starter.hcl");

impl Init {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        use std::io::Write;
        let dir = session.host.cwd.join(&self.dir);
        let shown_dir = self.dir.display();
        if self
            .dir
            .extension()
            .is_some_and(|extension| extension == "hcl")
        {
            let help = format!("name the directory, or add a slash: impasto init {shown_dir}/");
            if !self.dir.as_os_str().as_encoded_bytes().ends_with(b"/") {
                return Err(CliError::usage(
                    format!("`{shown_dir}` is the name of a recipe file"),
                    help,
                ));
            }
        }
        // All files of a directory are one recipe.
        if let Some(name) = recipe_files(&dir).iter().find(|name| *name != FILE) {
            let message = format!(
                "{} is already a recipe",
                shown(&dir.join(name), &session.host.cwd).display()
            );
            return Err(CliError::usage(
                message,
                "name another directory: impasto init DIR",
            ));
        }
        let owner = session.host.owner();
        owner
            .create_dirs(&dir, 0o777)
            .map_err(CliError::io("make", &dir))?;
        let path = dir.join(FILE);
        let name = shown(&path, &session.host.cwd).display().to_string();
        let file = std::fs::File::options()
            .write(true)
            .create_new(true)
            .open(&path);
        let written = file.and_then(|mut file| {
            file.write_all(STARTER.as_bytes())?;
            owner.give(file)
        });
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let help = Some("remove it, or name another directory".to_owned());
                return Err(CliError::Other {
                    message: format!("{name} already exists"),
                    help,
                    code: USAGE,
                });
            }
            Err(error) => return Err(CliError::io("write", &path)(error)),
        }
        let enter = if dir == session.host.cwd {
            String::new()
        } else {
            format!("cd {}; ", quoted(&shown_dir.to_string()))
        };
        ui::output(&format!(
            "wrote {name}\nbuild it, then boot it: {enter}impasto build; impasto boot out/starter.qcow2 --ssh-key ~/.ssh/id_ed25519.pub\n"
        ))?;
        Ok(exit::OK)
    }
}
