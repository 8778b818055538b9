//! `impasto layer packages`: which packages a disk has, and the bill of materials of an image.
//! Knows which disk is meant and how the answer is wanted; [`crate::inspect::sbom`] finds it.

use std::io;

use clap::{Args, ValueEnum};
use impasto_store::digest::BlobDigest;

use super::disk_names::{self, DiskNames, DiskOrigin};
use super::error::CliError;
use super::session::Session;
use super::{RecipeArgs, disk_trees, exit};
use crate::disk::contents::OnDisk;
use crate::disk::tree::text;
use crate::inspect::sbom::{self, cyclonedx, spdx};
use crate::ui;

#[derive(Debug, Args)]
#[command(
    override_usage = "impasto layer packages [OPTIONS] [RECIPE] DISK",
    mut_arg("names", disk_names::one_disk_argument),
    after_help = disk_names::HELP
)]
pub(crate) struct PackagesArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// How to list the packages
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: PackagesFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PackagesFormat {
    /// A table
    Text,
    /// One JSON array
    Json,
    /// A software bill of materials: SPDX 2.3 as JSON
    Spdx,
    /// A software bill of materials: CycloneDX 1.5 as JSON
    Cyclonedx,
}

impl PackagesArgs {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let (mut names, disks) = DiskNames::new(session, &self.recipe, 1);
        let [name] = disks.as_slice() else {
            return Err(CliError::usage(
                "no disk was given",
                "name one: `impasto plan` lists the stages",
            ));
        };
        let disk = names.disk(name)?;
        let is_bill = matches!(
            self.format,
            PackagesFormat::Spdx | PackagesFormat::Cyclonedx
        );
        let epoch = if is_bill { names.epoch(name)? } else { None };
        let origins = names.origins(name)?;
        let store = names.opened();
        let tree = disk_trees::tree(&disk, store)?;
        let open = || disk_trees::open(&disk, store).map_err(io::Error::other);
        let contents = OnDisk {
            open: &open,
            tree: &tree,
        };
        let unreadable = |source| CliError::Disk {
            label: disk.label.clone(),
            source,
        };
        let Some(bill) = sbom::read(&tree, &contents, &origins).map_err(unreadable)? else {
            return Err(CliError::usage(
                format!("{name} has no dpkg packages"),
                "name a disk with Debian on it",
            ));
        };
        ui::output(&match self.format {
            PackagesFormat::Text => sbom::text(&bill),
            PackagesFormat::Json => sbom::json(&bill),
            PackagesFormat::Spdx | PackagesFormat::Cyclonedx => {
                let copyrights =
                    sbom::copyrights(&tree, &contents, &bill.packages).map_err(unreadable)?;
                let content = match &disk.origin {
                    DiskOrigin::Store { layer, .. } => format!("disk-{}", layer.disk),
                    DiskOrigin::File(_) | DiskOrigin::Unpacked(_) => {
                        format!("tree-{}", BlobDigest::of(&text::write(&tree)))
                    }
                };
                let epoch = epoch.unwrap_or_else(|| u64::try_from(bill.written).unwrap_or(0));
                let subject = spdx::Subject {
                    name: &disk.label,
                    content,
                    epoch,
                };
                match self.format {
                    PackagesFormat::Cyclonedx => cyclonedx::document(&subject, &bill, &copyrights),
                    _ => spdx::document(&subject, &bill, &copyrights),
                }
            }
        })?;
        Ok(exit::OK)
    }
}
