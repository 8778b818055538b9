//! `impasto diff`: what differs between two disks.
//! Knows which disks are meant and how the answer is wanted; [`crate::inspect::diff`] compares.

use std::io;

use clap::Args;
use impasto_store::Store;

use super::disk_names::{self, DiskNames, NamedDisk};
use super::error::CliError;
use super::session::Session;
use super::{RecipeArgs, disk_trees, exit, leave_to_exit};
use crate::disk::contents::OnDisk;
use crate::inspect::diff::{self, Side, render, stat};
use crate::ui;

#[derive(Debug, Args)]
#[command(
    override_usage = "impasto diff [OPTIONS] [RECIPE] A [B]",
    mut_arg("names", |arg| arg.value_name("DISK").help("One or two disks, optionally preceded by a recipe")),
    after_help = format!("{}\n\nWithout B, A is compared with the disk it was built on.\n\n\
        Exit codes: 0 if their contents are equal, 10 if they differ.", disk_names::HELP)
)]
pub(crate) struct Diff {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Shows every file, including those of new directories and those that differ only in their time
    #[arg(long, conflicts_with = "stat")]
    all: bool,
    /// Shows only counts and bytes by directory
    #[arg(long)]
    stat: bool,
    /// Does not compare text files line by line
    #[arg(long)]
    no_text: bool,
    /// Prints one JSON object with everything
    #[arg(long, conflicts_with_all = ["stat", "all"])]
    json: bool,
}

impl Diff {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let (mut names, disks) = DiskNames::new(session, &self.recipe, 2);
        let (before, after) = match disks.as_slice() {
            [a] => {
                // Should both be missing, the one that was asked for is told.
                let after = names.disk(a)?;
                (names.below(a)?, after)
            }
            [a, b] => (names.disk(a)?, names.disk(b)?),
            [] => {
                return Err(CliError::usage(
                    "no disk was given",
                    "name one or two: impasto diff A B",
                ));
            }
            _ => {
                return Err(CliError::usage(
                    "more than two disks were given",
                    "name one or two",
                ));
            }
        };
        let store = names.opened();
        let (tree_a, tree_b) = rayon::join(
            || disk_trees::tree(&before, store),
            || disk_trees::tree(&after, store),
        );
        let (tree_a, tree_b) = (tree_a?, tree_b?);
        let (open_a, open_b) = (opener(&before, store), opener(&after, store));
        let contents = [
            OnDisk {
                open: &open_a,
                tree: &tree_a,
            },
            OnDisk {
                open: &open_b,
                tree: &tree_b,
            },
        ];
        let [a, b] = [
            (&before, &tree_a, &contents[0]),
            (&after, &tree_b, &contents[1]),
        ]
        .map(|(disk, tree, contents)| Side {
            name: &disk.label,
            tree,
            contents,
        });
        let report =
            diff::report(&a, &b, !self.no_text && !self.stat).map_err(|source| CliError::Disk {
                label: format!("{} or {}", before.label, after.label),
                source,
            })?;
        if self.json {
            ui::output(
                &(serde_json::to_string(&report).expect("BUG: a report is not JSON") + "\n"),
            )?;
        } else if self.stat {
            ui::output(&stat::render(&report))?;
        } else if report.equal {
            ui::message(&format!(
                "{} and {} have equal contents",
                report.before, report.after
            ));
        } else {
            ui::output(&render::render(&report, self.all))?;
        }
        let code = if report.equal {
            exit::OK
        } else {
            exit::DIFFERENT
        };
        leave_to_exit((tree_a, tree_b, report));
        Ok(code)
    }
}

fn opener<'d>(
    disk: &'d NamedDisk,
    store: Option<&'d Store>,
) -> impl Fn() -> io::Result<Box<dyn impasto_store::qcow2::ChunkSource>> + Sync + 'd {
    move || disk_trees::open(disk, store).map_err(io::Error::other)
}
