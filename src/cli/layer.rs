//! `impasto layer`: lists, shows and exports layers.
//! Knows how layers are shown.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use impasto_store::Store;
use impasto_store::convert::{ConvertOptions, ConvertTarget, Format};
use impasto_store::digest::LayerId;
use impasto_store::layer::{ChunkLocation, LayerRef};
use impasto_store::meter::Meter;

use super::blame::BlameArgs;
use super::disk_names::{self, DiskNames};
use super::error::CliError;
use super::packages::PackagesArgs;
use super::session::Session;
use super::{RecipeArgs, disk_trees, exit};
use crate::base::human;
use crate::base::table;
use crate::disk::tree::text;
use crate::engine::publish::Draft;
use crate::ui;

#[derive(Debug, Subcommand)]
pub(crate) enum LayerCommand {
    /// Lists the store's layers
    List,
    /// Shows a layer and the layers it is based on
    Show(Name),
    /// Writes the disk of a layer as one file
    Export(ExportArgs),
    /// Shows which stage each part of a disk's content comes from
    Blame(BlameArgs),
    /// Lists the packages of a disk, as a table, JSON or a bill of materials
    Packages(PackagesArgs),
    /// Prints the tree index of a disk: all files with mode, owner, time and content
    Index(Name),
}

#[derive(Debug, Args)]
#[command(
    override_usage = "impasto layer show [OPTIONS] [RECIPE] DISK",
    mut_arg("names", disk_names::one_disk_argument),
    after_help = disk_names::HELP
)]
pub(crate) struct Name {
    #[command(flatten)]
    recipe: RecipeArgs,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "impasto layer export [OPTIONS] --output <FILE> [RECIPE] DISK",
    mut_arg("names", disk_names::one_disk_argument),
    after_help = disk_names::HELP
)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// The file to write; raw if it ends in .raw or .img, else what .vmdk, .vhd, .vhdx or .vdi say, else qcow2
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

impl LayerCommand {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        match self {
            LayerCommand::List => list(&session.store()?),
            LayerCommand::Show(name) => {
                let (mut names, disks) = DiskNames::new(session, &name.recipe, 1);
                let (store, layer) = find(&mut names, &disks)?;
                show(&store, &layer)
            }
            LayerCommand::Export(export) => {
                let (mut names, disks) = DiskNames::new(session, &export.recipe, 1);
                let (store, layer) = find(&mut names, &disks)?;
                export.run(session, &store, &layer)
            }
            LayerCommand::Blame(blame) => blame.run(session),
            LayerCommand::Packages(packages) => packages.run(session),
            LayerCommand::Index(name) => {
                let (mut names, disks) = DiskNames::new(session, &name.recipe, 1);
                index(&mut names, &disks)
            }
        }
    }
}

fn list(store: &Store) -> Result<u8, CliError> {
    let head = [
        "LAYER",
        "DISK",
        "PARENT",
        "DISK SIZE",
        "FILE",
        "STAGE",
        "RECIPE",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let makers = makers(store)?;
    for (layer, _) in store.du()?.by_layer {
        let manifest = match store.manifest(&layer) {
            Ok(manifest) => manifest,
            Err(error) => {
                let miss = error.into_miss()?;
                ui::message(&format!("warning: {miss}"));
                continue;
            }
        };
        rows.push(vec![
            layer.layer.short(),
            layer.disk.short(),
            manifest
                .parent
                .map_or("-".to_owned(), |parent| parent.layer.short()),
            human::bytes(manifest.virtual_size),
            human::bytes(manifest.file_length),
        ]);
        let maker = makers.get(&layer.layer);
        rows.last_mut()
            .expect("BUG: just pushed")
            .extend(maker.map_or(["-", "-"].map(str::to_owned), Clone::clone));
    }
    ui::output(&table::columns(&rows))?;
    Ok(exit::OK)
}

/// The stage and the recipe that each layer is the result of: of those of today first, then of earlier runs, which are
/// written `STAGE~N`.
fn makers(store: &Store) -> Result<HashMap<LayerId, [String; 2]>, CliError> {
    let mut makers = HashMap::new();
    let (checkouts, _) = store.checkouts(u64::MAX)?;
    let mut runs: Vec<_> = Vec::new();
    for (root, checkout) in &checkouts {
        // A state is called after the recipe's name, and the digest of its path.
        let recipe = root
            .rsplit_once('-')
            .map_or(root.as_str(), |(name, _)| name);
        for (name, results) in &checkout.results {
            let stage = name
                .split_once('#')
                .map_or(name.as_str(), |(stage, _)| stage);
            runs.extend(
                results
                    .iter()
                    .enumerate()
                    .map(|(back, run)| (back, stage, recipe, run)),
            );
        }
    }
    runs.sort();
    for (back, stage, recipe, (action, claim)) in runs {
        // A claim that cannot be read tells nothing.
        let Ok(claim) = store.claim(action, claim) else {
            continue;
        };
        let Some(disk) = claim.result.disk else {
            continue;
        };
        let (name, filter) = stage.split_at(stage.find('[').unwrap_or(stage.len()));
        let stage = if back == 0 {
            stage.to_owned()
        } else {
            format!("{name}~{back}{filter}")
        };
        makers
            .entry(disk.layer.layer)
            .or_insert([stage, recipe.to_owned()]);
    }
    Ok(makers)
}

fn show(store: &Store, layer: &LayerRef) -> Result<u8, CliError> {
    let mut text = String::new();
    let mut next = Some(*layer);
    while let Some(layer) = next {
        let manifest = store.manifest(&layer)?;
        let count = |kind: fn(&ChunkLocation) -> bool| {
            manifest
                .chunks
                .iter()
                .filter(|chunk| kind(&chunk.place))
                .count()
        };
        text += &format!(
            "layer {}\n  disk:   {}\n  size:   {} of guest disk, {} in the file\n  chunks: {} changed: {} compressed, \
             {} uncompressed, {} zero\n",
            layer.layer,
            layer.disk,
            human::bytes(manifest.virtual_size),
            human::bytes(manifest.file_length),
            manifest.chunks.len(),
            count(|place| matches!(place, ChunkLocation::Frame { .. })),
            count(|place| matches!(place, ChunkLocation::Raw { .. })),
            count(|place| matches!(place, ChunkLocation::Zero)),
        );
        next = manifest.parent;
        text += if next.is_some() { "on\n" } else { "" };
    }
    ui::output(&text)?;
    Ok(exit::OK)
}

fn index(names: &mut DiskNames<'_>, disks: &[String]) -> Result<u8, CliError> {
    let [name] = disks else {
        return Err(CliError::usage(
            "no disk was given",
            "name one: `impasto plan` lists the stages",
        ));
    };
    let disk = names.disk(name)?;
    let tree = disk_trees::tree(&disk, names.opened())?;
    ui::output_file(&text::write(&tree))?;
    Ok(exit::OK)
}

/// The store, and the layer in it that the arguments name.
fn find(names: &mut DiskNames<'_>, disks: &[String]) -> Result<(Store, LayerRef), CliError> {
    let [name] = disks else {
        return Err(CliError::usage(
            "no layer was given",
            "name one: `impasto layer list` lists them",
        ));
    };
    let layer = names.layer(name)?;
    Ok((names.store()?, layer))
}

impl ExportArgs {
    fn run(&self, session: &Session, store: &Store, layer: &LayerRef) -> Result<u8, CliError> {
        let path = session.host.cwd.join(&self.output);
        let write = |error| CliError::io("write", &path)(error);
        if !path.parent().is_some_and(std::path::Path::is_dir) {
            return Err(write(rustix::io::Errno::NOENT.into()));
        }
        let _lease = store.lease()?;
        let draft = Draft::new(&path, store.owner()).map_err(write)?;
        let options = ConvertOptions {
            fsync: false,
            digest: true,
            sha256: true,
        };
        let extension = path.extension().and_then(|extension| extension.to_str());
        let format = match extension {
            Some("raw" | "img") => Format::Raw,
            Some("vmdk") => Format::Vmdk,
            Some("vhd") => Format::Vhd,
            Some("vhdx") => Format::Vhdx,
            Some("vdi") => Format::Vdi,
            _ => Format::Qcow2,
        };
        let meter = Arc::<Meter>::default();
        let wait = ui::Wait::new(
            &session.host,
            "export",
            &self.output.display().to_string(),
            &meter,
        );
        let store = store.metered(meter);
        let target = ConvertTarget {
            format,
            level: None,
            file: draft.file(),
            path: &path,
        };
        let converted = store.convert(layer, &[target], options)?[0];
        let (digest, sha256) = converted
            .digest
            .zip(converted.sha256)
            .expect("BUG: asked for");
        draft.publish(digest.0, sha256, 0o644).map_err(write)?;
        drop(wait);
        ui::message(&format!(
            "wrote {} ({})",
            self.output.display(),
            human::bytes(converted.length)
        ));
        Ok(exit::OK)
    }
}
