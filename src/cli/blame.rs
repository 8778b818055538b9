//! `impasto layer blame`: which stage brought the bytes that a disk holds.
//! Knows which disks are meant and how the answer is wanted; [`crate::inspect::diff::blame`] finds it.

use std::io;

use clap::Args;
use rayon::prelude::*;

use super::disk_names::DiskNames;
use super::error::CliError;
use super::session::Session;
use super::{RecipeArgs, disk_trees, exit};
use crate::disk::contents::OnDisk;
use crate::disk::tree::Tree;
use crate::inspect::diff::blame::{self, By};
use crate::inspect::diff::installed;
use crate::inspect::diff::mounts::Mounts;
use crate::ui;

#[derive(Debug, Args)]
#[command(
    override_usage = "impasto layer blame [OPTIONS] [RECIPE] SELECTOR",
    mut_arg("names", |arg| arg.value_name("SELECTOR").help("A stage or image.NAME, optionally preceded by a recipe"))
)]
pub(crate) struct BlameArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Groups by package instead of by directory
    #[arg(long, conflicts_with = "depth")]
    packages: bool,
    /// How many directory levels to distinguish
    #[arg(long, value_name = "N", default_value = "2")]
    depth: usize,
    /// Prints one JSON object with everything
    #[arg(long)]
    json: bool,
}

impl BlameArgs {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let (mut names, disks) = DiskNames::new(session, &self.recipe, 1);
        let [name] = disks.as_slice() else {
            return Err(CliError::usage(
                "no stage was given",
                "name one: `impasto plan` lists them",
            ));
        };
        let chain = names.chain(name)?;
        let store = names.opened();
        let trees: Vec<(String, Tree)> = chain
            .par_iter()
            .map(|disk| Ok((disk.label.clone(), disk_trees::tree(disk, store)?)))
            .collect::<Result<_, CliError>>()?;
        let owners;
        let by = match (self.packages, chain.last().zip(trees.last())) {
            (true, Some((disk, (_, tree)))) => {
                let open = || disk_trees::open(disk, store).map_err(io::Error::other);
                let found = installed::listed_files(tree, &OnDisk { open: &open, tree });
                let found = found.map_err(|source| CliError::Disk {
                    label: disk.label.clone(),
                    source,
                })?;
                let Some((partition, found)) = found else {
                    return Err(CliError::usage(
                        format!("{name} has no dpkg packages"),
                        "omit --packages",
                    ));
                };
                owners = found;
                By::Package {
                    partition,
                    owners: &owners,
                }
            }
            _ => By::Directory(self.depth),
        };
        let mounts = match chain.last().zip(trees.last()) {
            Some((disk, (_, tree))) => {
                let open = || disk_trees::open(disk, store).map_err(io::Error::other);
                let found = Mounts::read(tree, &OnDisk { open: &open, tree });
                found.map_err(|source| CliError::Disk {
                    label: disk.label.clone(),
                    source,
                })?
            }
            None => Mounts::default(),
        };
        let blame = blame::blame(&trees, &by, &mounts);
        if self.json {
            ui::output(&(serde_json::to_string(&blame).expect("BUG: a blame is not JSON") + "\n"))?;
        } else {
            ui::output(&blame::render(&blame))?;
        }
        Ok(exit::OK)
    }
}
