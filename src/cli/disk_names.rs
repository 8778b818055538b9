//! How disks are named on the command line: by a stage, an image, an earlier run, a digest, a file, another recipe's stage.
//!
//! Knows names, recipes and the history of runs; opens disks, and does not look into them.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use impasto_store::Store;
use impasto_store::blob::BlobRef;
use impasto_store::claim::{Claim, Outputs};
use impasto_store::layer::LayerRef;
use impasto_store::lease::Lease;

use super::error::CliError;
use super::session::{Loaded, Session, texts};
use super::{RecipeArgs, exit};
use crate::base::cancel::CancelToken;
use crate::base::human;
use crate::disk::image::{self, ForeignFormat, ImageKind};
use crate::disk::packed::ImageUnpacker;
use crate::engine::graph::{NodeId, NodeMap};
use crate::engine::history::NodeHistory;
use crate::engine::plan::{PlanState, file_format, is};
use crate::image::origins;
use crate::inspect::sbom::Origins;
use crate::recipe::recipe_files;
use crate::ui;

/// How the names are explained in help texts.
pub(crate) const HELP: &str = "A disk is named by a stage (`tools`, `tools[variant=minimal]`), by `image.NAME`, by a \
                               prefix of a layer's or disk's digest, or by the path of a disk image. `tools~0` \
                               is the result of the stage's last run, `tools~1` that of the run before; `PATH:STAGE` \
                               is a stage of another recipe.";

/// How an argument that names one disk is explained.
pub(crate) fn one_disk_argument(arg: clap::Arg) -> clap::Arg {
    arg.value_name("DISK")
        .help("A disk, optionally preceded by a recipe")
}

/// A disk that a name stands for.
#[derive(Clone, Debug)]
pub(crate) struct NamedDisk {
    /// How messages call it.
    pub(crate) label: String,
    /// Where it is.
    pub(crate) origin: DiskOrigin,
}

/// Where a disk is.
#[derive(Clone, Debug)]
pub(crate) enum DiskOrigin {
    /// In the store, perhaps with its tree index.
    Store {
        layer: LayerRef,
        tree: Option<BlobRef>,
    },
    /// An image file of the user's.
    File(PathBuf),
    /// What a compressed file of the user's holds.
    Unpacked(Arc<File>),
}

/// What a name means, before anything is looked up.
enum Meaning {
    File(PathBuf),
    Digest(LayerRef),
    Stage {
        recipe: PathBuf,
        selector: String,
        earlier: Option<usize>,
    },
}

/// Finds disks by their names. The store is opened and recipes are read when a name first needs them.
pub(crate) struct DiskNames<'s> {
    session: &'s Session,
    args: &'s RecipeArgs,
    recipe: PathBuf,
    store: Option<(Store, Option<Lease>)>,
    recipes: Vec<(PathBuf, Loaded)>,
}

impl<'s> DiskNames<'s> {
    /// Splits the positional arguments, of which at most `most` name disks: the first may be the recipe.
    pub(crate) fn new(
        session: &'s Session,
        args: &'s RecipeArgs,
        most: usize,
    ) -> (Self, Vec<String>) {
        let cwd = &session.host.cwd;
        // Unlike a selector, a disk may be a path: only what a recipe can be is one.
        let ends_as_recipe = |name: &OsStr| name.as_encoded_bytes().ends_with(b".hcl");
        let is_recipe = |name: &OsStr| {
            let path = cwd.join(name);
            let is_more = args.names.len() > most && path.exists();
            is_more || ends_as_recipe(name) || !name.is_empty() && path.is_dir()
        };
        let (recipe, names) = match (&args.recipe, args.names.split_first()) {
            (Some(path), _) => (cwd.join(path), texts(&args.names)),
            (None, Some((first, rest))) if is_recipe(first) => (cwd.join(first), texts(rest)),
            (None, _) => (cwd.clone(), texts(&args.names)),
        };
        (
            DiskNames {
                session,
                args,
                recipe,
                store: None,
                recipes: Vec::new(),
            },
            names,
        )
    }

    /// The store, and a lease on it where this user may take one.
    pub(crate) fn store(&mut self) -> Result<Store, CliError> {
        if self.store.is_none() {
            let store = self.session.store()?;
            let lease = store
                .lease()
                .inspect_err(|error| tracing::debug!(%error, "no lease: nothing is kept"));
            self.store = Some((store, lease.ok()));
        }
        let (store, _) = self.store.as_ref().expect("BUG: just opened");
        Ok(store.clone())
    }

    /// The store, where a name needed it; the lease goes with what it comes from.
    pub(crate) fn opened(&self) -> Option<&Store> {
        self.store.as_ref().map(|(store, _)| store)
    }

    /// The disk of a name.
    pub(crate) fn disk(&mut self, name: &str) -> Result<NamedDisk, CliError> {
        match self.meaning(name)? {
            Meaning::File(path) => Ok(NamedDisk {
                label: name.to_owned(),
                origin: self.file(path, name)?,
            }),
            Meaning::Digest(layer) => Ok(stored(name, layer)),
            Meaning::Stage {
                recipe,
                selector,
                earlier,
            } => {
                let found = self.stage(&recipe, &selector)?;
                match earlier {
                    None => found.disk(found.id, name),
                    Some(back) => found.outputs(&found.run(back)?.result, name),
                }
            }
        }
    }

    /// An image file; a compressed one is unpacked once, as disks are opened several times.
    fn file(&self, path: PathBuf, name: &str) -> Result<DiskOrigin, CliError> {
        let packed = match image::open(&path) {
            Ok((file, image @ ImageKind::Other(format))) => format.packing().map(|_| (file, image)),
            // What cannot be opened is told where it is read.
            Ok(_) | Err(_) => None,
        };
        let Some((file, image)) = packed else {
            return Ok(DiskOrigin::File(path));
        };
        ui::message(&format!("unpacking {name}…"));
        let dir = self.session.host.large_temporary_files();
        let unpacker = ImageUnpacker {
            dir: &dir,
            limit: self.session.unpack_limit()?,
            cancel: &CancelToken::new(),
            meter: None,
        };
        let (file, image) =
            image::unpacked(file, image, &unpacker).map_err(|error| CliError::Other {
                message: format!(
                    "`{name}` is not a readable disk image: {}",
                    human::with_causes(&error)
                ),
                help: error.help(),
                code: exit::INTERNAL,
            })?;
        // Only its kind is known yet: the gate is passed whenever it is opened.
        tracing::debug!(?image, "unpacked");
        Ok(DiskOrigin::Unpacked(Arc::new(file)))
    }

    /// The disk that the disk of a name was built on.
    pub(crate) fn below(&mut self, name: &str) -> Result<NamedDisk, CliError> {
        let nothing = |what: &str| {
            CliError::usage(
                format!("{name} {what}, so there is nothing to compare it with"),
                "name two disks",
            )
        };
        match self.meaning(name)? {
            Meaning::File(_) => Err(nothing("is a file")),
            // How a layer is stored says nothing of what its disk was built on.
            Meaning::Digest(_) => Err(nothing("does not record what it was built on")),
            Meaning::Stage {
                recipe,
                selector,
                earlier,
            } => {
                let found = self.stage(&recipe, &selector)?;
                let from = from(found.loaded, found.id)
                    .ok_or_else(|| nothing("is not built on another disk"))?;
                let label = &found.loaded.graph.node(from).label;
                match earlier {
                    None => found.disk(from, label),
                    Some(back) => found.below_run(back, from),
                }
            }
        }
    }

    /// The disks of a stage and of all stages below it, the bottom first, each under its stage's name.
    pub(crate) fn chain(&mut self, name: &str) -> Result<Vec<NamedDisk>, CliError> {
        let Meaning::Stage {
            recipe,
            selector,
            earlier: None,
        } = self.meaning(name)?
        else {
            return Err(CliError::usage(
                format!("`{name}` is not a stage"),
                "name a stage or image.NAME",
            ));
        };
        let found = self.stage(&recipe, &selector)?;
        let mut chain = Vec::new();
        let mut next = Some(found.id);
        while let Some(id) = next {
            chain.push(found.disk(id, &found.loaded.graph.node(id).label)?);
            next = from(found.loaded, id);
        }
        chain.reverse();
        Ok(chain)
    }

    /// Seconds since 1970 that stand for "now" in the recipe of a name; none for what no recipe made, or one that does not
    /// say.
    pub(crate) fn epoch(&mut self, name: &str) -> Result<Option<u64>, CliError> {
        match self.meaning(name)? {
            Meaning::Stage {
                recipe, selector, ..
            } => Ok(self
                .stage(&recipe, &selector)?
                .loaded
                .recipe
                .source_date_epoch),
            Meaning::File(_) | Meaning::Digest(_) => Ok(None),
        }
    }

    /// Where the packages of a stage's disk came from, as the lock of its recipe has it; nothing for other disks.
    pub(crate) fn origins(&mut self, name: &str) -> Result<Origins, CliError> {
        let Meaning::Stage {
            recipe, selector, ..
        } = self.meaning(name)?
        else {
            return Ok(Origins::new());
        };
        let found = self.stage(&recipe, &selector)?;
        Ok(origins(&found.loaded.graph, found.id))
    }

    /// The layer of a name.
    pub(crate) fn layer(&mut self, name: &str) -> Result<LayerRef, CliError> {
        match self.disk(name)?.origin {
            DiskOrigin::Store { layer, .. } => Ok(layer),
            DiskOrigin::File(_) | DiskOrigin::Unpacked(_) => Err(CliError::usage(
                format!("`{name}` is a file, not a layer of the store"),
                "name a stage",
            )),
        }
    }

    fn meaning(&mut self, name: &str) -> Result<Meaning, CliError> {
        let cwd = &self.session.host.cwd;
        let is_recipe =
            |path: &str| path.ends_with(".hcl") || !path.is_empty() && cwd.join(path).is_dir();
        // Values in a selector's brackets may hold any character.
        let plain = name.split('[').next().unwrap_or(name);
        let parts = plain
            .match_indices(':')
            .map(|(at, _)| (&name[..at], &name[at + 1..]));
        let (recipe, selector) = match parts.into_iter().find(|(path, _)| is_recipe(path)) {
            Some((path, selector)) => (cwd.join(path), selector),
            None => {
                let path = cwd.join(name);
                if plain.contains('/') || path.is_file() || looks_like_image(plain) {
                    return Ok(Meaning::File(path));
                }
                if let Some(layer) = self.digest(name)? {
                    return Ok(Meaning::Digest(layer));
                }
                if self.recipe == *cwd && recipe_files(cwd).is_empty() {
                    let message = format!(
                        "`{name}` is not a file, and no recipe here has a stage of that name"
                    );
                    return Err(CliError::usage(
                        message,
                        "name an existing file, or the recipe with --recipe PATH",
                    ));
                }
                (self.recipe.clone(), name)
            }
        };
        let (selector, earlier) = earlier_run(name, selector)?;
        Ok(Meaning::Stage {
            recipe,
            selector,
            earlier,
        })
    }

    /// The layer whose digest, or whose disk's, begins so.
    fn digest(&mut self, name: &str) -> Result<Option<LayerRef>, CliError> {
        if name.len() < 6 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(None);
        }
        let starts = |digest: String| digest.starts_with(name);
        let mut found: Vec<_> = self
            .store()?
            .du()?
            .by_layer
            .into_iter()
            .map(|(layer, _)| layer)
            .collect();
        found.retain(|layer| starts(layer.layer.to_string()) || starts(layer.disk.to_string()));
        match found.as_slice() {
            [first, rest @ ..] if rest.iter().all(|layer| layer.disk == first.disk) => {
                Ok(Some(*first))
            }
            [] => Ok(None),
            _ => {
                let message = format!("`{name}` is a prefix of several digests");
                Err(CliError::usage(
                    message,
                    "use more digits: `impasto layer list` shows twelve",
                ))
            }
        }
    }

    /// The stage of a selector, with the states of all that it depends on.
    fn stage(&mut self, recipe: &Path, selector: &str) -> Result<SelectorMatch<'_>, CliError> {
        let store = self.store()?;
        // Variables and combinations are those of the recipe that the command line is about.
        let own = if recipe == self.recipe {
            self.args.clone()
        } else {
            RecipeArgs::default()
        };
        let args = RecipeArgs {
            names: Vec::new(),
            recipe: Some(recipe.to_owned()),
            ..own
        };
        let place = match self.recipes.iter().position(|(path, _)| path == recipe) {
            Some(place) => place,
            None => {
                self.recipes
                    .push((recipe.to_owned(), self.session.load(&args)?));
                self.recipes.len() - 1
            }
        };
        let loaded = &self.recipes[place].1;
        let id = disk_node(loaded, selector)?;
        let mut planner = loaded.planner(&store, &[])?;
        let states = planner.plan(&[id])?;
        let memory = planner.last_history(id).cloned();
        let parent = from(loaded, id).and_then(|from| planner.last_history(from).cloned());
        drop(planner);
        let place = self.session.place(&args);
        Ok(SelectorMatch {
            loaded,
            store,
            id,
            selector: selector.to_owned(),
            states,
            memory,
            parent,
            place,
        })
    }
}

/// A stage that a selector names.
struct SelectorMatch<'a> {
    loaded: &'a Loaded,
    store: Store,
    id: NodeId,
    selector: String,
    states: NodeMap<Option<PlanState>>,
    /// The history of its runs, and of those of the stage that it builds on.
    memory: Option<NodeHistory>,
    parent: Option<NodeHistory>,
    /// Options that find the same recipe again.
    place: String,
}

impl SelectorMatch<'_> {
    /// The disk of a node of its closure.
    fn disk(&self, id: NodeId, label: &str) -> Result<NamedDisk, CliError> {
        match &self.states[id] {
            Some(PlanState::Cached(hit)) => self.outputs(&hit.result, label),
            _ => Err(self.not_built(id)),
        }
    }

    fn not_built(&self, id: NodeId) -> CliError {
        let label = &self.loaded.graph.node(id).label;
        let mut error = not_built(
            label,
            if id == self.id { &self.selector } else { label },
            &self.place,
        );
        if let CliError::Other {
            help: Some(help), ..
        } = &mut error
            && id == self.id
            && self.memory.is_some()
        {
            *help += &format!("\nor name the result of its last run: {}~0", self.selector);
        }
        error
    }

    /// The disk among what came out.
    fn outputs(&self, outputs: &Outputs, label: &str) -> Result<NamedDisk, CliError> {
        let Some(disk) = outputs.disk else {
            return Err(no_disk(&self.store, label, outputs)?);
        };
        if !self.store.has_layer(&disk.layer)? {
            return Err(self.collected(label));
        }
        let origin = DiskOrigin::Store {
            layer: disk.layer,
            tree: outputs.tree,
        };
        Ok(NamedDisk {
            label: label.to_owned(),
            origin,
        })
    }

    fn collected(&self, label: &str) -> CliError {
        CliError::Other {
            message: format!("the result of {label} is no longer in the store"),
            help: Some(format!(
                "build it as the recipe is now: impasto build '{}'{}",
                self.selector, self.place
            )),
            code: exit::INTERNAL,
        }
    }

    /// The claim of the run `back` runs before the last.
    fn run(&self, back: usize) -> Result<Claim, CliError> {
        let label = format!("{}~{back}", self.selector);
        let runs: Vec<_> = self.memory.iter().flat_map(NodeHistory::runs).collect();
        let Some((action, claim)) = runs.get(back) else {
            let known = match runs.len() {
                0 => "no run is recorded".to_owned(),
                1 => format!("only its last run is recorded, {}~0", self.selector),
                runs => format!(
                    "the recorded runs are {0}~0 to {0}~{1}",
                    self.selector,
                    runs - 1
                ),
            };
            return Err(CliError::usage(format!("there is no {label}"), known));
        };
        match self.store.claim(action, claim) {
            Ok(claim) => Ok(claim),
            Err(error) => {
                error.into_miss()?;
                Err(self.collected(&label))
            }
        }
    }

    /// The disk that an earlier run began with: of its parent's results, the one that entered its key.
    fn below_run(&self, back: usize, from: NodeId) -> Result<NamedDisk, CliError> {
        let run = self.run(back)?;
        let label = &self.loaded.graph.node(from).label;
        let entered = |outputs: &Outputs| {
            let names = outputs.tree.map(|tree| tree.digest.to_string());
            let names = names
                .into_iter()
                .chain(outputs.disk.map(|disk| disk.layer.disk.to_string()));
            let mut fields = run
                .fields
                .iter()
                .filter(|field| field.path.starts_with("from"));
            let names: Vec<_> = names.collect();
            fields.any(|field| names.iter().any(|name| field.value.contains(name)))
        };
        if let Some(PlanState::Cached(hit)) = &self.states[from]
            && entered(&hit.result)
        {
            return self.outputs(&hit.result, label);
        }
        for (at, (action, claim)) in self.parent.iter().flat_map(NodeHistory::runs).enumerate() {
            if let Ok(claim) = self.store.claim(&action, &claim)
                && entered(&claim.result)
            {
                return self.outputs(&claim.result, &format!("{label}~{at}"));
            }
        }
        let message = format!(
            "the disk that {}~{back} was built on is no longer known",
            self.selector
        );
        Err(CliError::usage(message, "name two disks"))
    }
}

/// A selector without its `~N`, which may stand before its brackets or after them, and the number.
fn earlier_run(name: &str, selector: &str) -> Result<(String, Option<usize>), CliError> {
    // Values in the brackets may hold any character.
    let (stage, filter) = selector.split_at(selector.find('[').unwrap_or(selector.len()));
    let (filter, after) = filter.split_at(filter.rfind(']').map_or(filter.len(), |end| end + 1));
    let (stage, back) = match (stage.split_once('~'), after.strip_prefix('~')) {
        (Some((stage, back)), None) if after.is_empty() => (stage, back),
        (None, Some(back)) => (stage, back),
        _ => return Ok((selector.to_owned(), None)),
    };
    let wrong = || {
        CliError::usage(
            format!("`~{back}` in `{name}` is not a valid number of runs"),
            "write it as STAGE~1",
        )
    };
    Ok((
        format!("{stage}{filter}"),
        Some(back.parse().map_err(|_| wrong())?),
    ))
}

/// Whether a name can only be meant as a file: no stage's name has a point.
pub(crate) fn looks_like_image(name: &str) -> bool {
    if name.starts_with("image.") {
        return false;
    }
    let extension = Path::new(name)
        .extension()
        .and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| ["qcow2", "raw", "img", "iso"].contains(&extension))
}

fn stored(name: &str, layer: LayerRef) -> NamedDisk {
    NamedDisk {
        label: name.to_owned(),
        origin: DiskOrigin::Store { layer, tree: None },
    }
}

/// The node whose disk a node changes, or writes as a file.
fn from(loaded: &Loaded, id: NodeId) -> Option<NodeId> {
    crate::image::parent(&loaded.graph, id)
}

/// Whether a node writes another's disk as a file.
pub(crate) fn converts(loaded: &Loaded, id: NodeId) -> bool {
    crate::image::converts(&loaded.graph, id)
}

/// The node whose disk a node means: a converted file is another node's disk in another form.
fn disk_of(loaded: &Loaded, id: NodeId) -> NodeId {
    from(loaded, id)
        .filter(|_| converts(loaded, id))
        .unwrap_or(id)
}

/// The error that the result of a node is not a disk.
pub(crate) fn no_disk(
    store: &Store,
    label: &str,
    result: &Outputs,
) -> Result<CliError, impasto_store::Error> {
    let format = file_format(store, result)?;
    let help = format.map_or(
        "name a stage that makes one".to_owned(),
        ForeignFormat::help,
    );
    Ok(CliError::usage(
        format!("{label} made no disk{}", is(&format)),
        help,
    ))
}

/// The one node of a selector that makes a disk, or converts one. An image's disk is the one that its files are converted
/// from; what a stage wrote beside its disk is published without meaning that disk.
pub(crate) fn one_disk(loaded: &Loaded, selector: &str) -> Result<NodeId, CliError> {
    let graph = &loaded.graph;
    let picked = graph.select(selector)?;
    let label = |id: NodeId| graph.node(id).label.clone();
    let is_converted = |id: &NodeId| converts(loaded, *id) && from(loaded, *id).is_some();
    let is_disk = |id: &NodeId| graph.node(*id).kind.makes.disk() || is_converted(id);
    // Each with a selector that names it alone.
    let mut disks: Vec<(NodeId, String)> = Vec::new();
    for image in picked.images.iter().map(|image| &graph.images()[*image]) {
        let mut own: Vec<_> = image
            .files
            .iter()
            .filter(|part| part.file.is_none())
            .map(|part| part.node)
            .filter(is_converted)
            .collect();
        if own.is_empty() {
            own = image
                .files
                .iter()
                .map(|part| part.node)
                .filter(is_disk)
                .collect();
        }
        own.sort_unstable_by_key(|id| disk_of(loaded, *id));
        // The same disk may be published in several forms.
        own.dedup_by_key(|id| disk_of(loaded, *id));
        match own.as_slice() {
            [id] => disks.push((
                *id,
                graph.stable_name(&format!("image.{}", image.label), image.combination),
            )),
            several => disks.extend(several.iter().map(|id| (*id, label(*id)))),
        }
    }
    if picked.images.is_empty() {
        disks = picked
            .nodes
            .into_iter()
            .filter(is_disk)
            .map(|id| (id, label(id)))
            .collect();
    }
    let mut seen = HashSet::new();
    disks.retain(|(id, _)| seen.insert(disk_of(loaded, *id)));
    match disks.as_slice() {
        [(id, _)] => Ok(*id),
        [] => Err(CliError::usage(
            format!("{selector} does not make a disk"),
            "name a stage or an image that makes one",
        )),
        several => {
            let names: Vec<_> = several.iter().map(|(_, name)| name.as_str()).collect();
            let message = format!("{selector} names several disks: {}", names.join(", "));
            Err(CliError::usage(
                message,
                format!("name one of them, such as '{}'", names[0]),
            ))
        }
    }
}

/// The node of the disk that a selector means.
pub(crate) fn disk_node(loaded: &Loaded, selector: &str) -> Result<NodeId, CliError> {
    Ok(disk_of(loaded, one_disk(loaded, selector)?))
}

/// A stage must be built first.
pub(crate) fn not_built(label: &str, selector: &str, place: &str) -> CliError {
    let quoted = if selector.contains('[') {
        format!("'{selector}'")
    } else {
        selector.to_owned()
    };
    CliError::Other {
        message: format!("{label} is not built from its current dependencies"),
        help: Some(format!("build it first: impasto build {quoted}{place}")),
        code: exit::INTERNAL,
    }
}
