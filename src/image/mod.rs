//! Images as users get them: where their files go, what must hold before they appear, and what is said of them.
//!
//! Knows recipes, results and what is in a disk; builds nothing. Equal builds are described by equal bytes: nothing here
//! depends on when, where or how fast it ran, but the budgets of time.
//!
//! * [`layout`] names files; [`Gate`] decides whether they appear.
//! * `budget` is what an image may cost; `manifest` is what it was made of.

mod budget;
pub mod layout;
mod manifest;
mod metadata;
mod origins;

use std::cell::OnceCell;
use std::io;

use impasto_stages::action::{Slot, Step};
use impasto_store::digest::{BlobDigest, Digest};
use impasto_store::qcow2::ChunkSource;
use impasto_store::{Error as StoreError, Store};

use crate::base::human;
use crate::disk::contents::OnDisk;
use crate::disk::tree::Tree;
use crate::engine::graph::{Graph, ImageNode, NodeId};
use crate::engine::plan::Hit;
use crate::engine::run::{Description, ImageFacts, ImageGate, ImageRefusal};
use crate::inspect::sbom::{self, Bill, cyclonedx, spdx};
use crate::recipe::{ImageLayout, Recipe};

pub use origins::origins;

/// What decides about the images of a recipe.
pub struct Gate<'a> {
    pub recipe: &'a Recipe,
    pub graph: &'a Graph,
    pub store: &'a Store,
    /// Whether what images require was not run.
    pub skip_tests: bool,
    /// Whether images may cost what they like.
    pub no_budget: bool,
    /// What names the recipe's text and its lock, once for all images.
    pub(crate) sources: OnceCell<(String, String)>,
}

/// One image that is decided.
struct Candidate<'a, 'f> {
    gate: &'a Gate<'a>,
    node: &'a ImageNode,
    facts: &'a ImageFacts<'f>,
    bill: OnceCell<Option<Bill>>,
}

impl ImageGate for Gate<'_> {
    fn digest(&self, facts: &ImageFacts<'_>) -> Digest {
        let subject = self.subject(facts);
        let mut text = format!(
            "{}\n{:?}\n{}\n{}\n",
            env!("CARGO_PKG_VERSION"),
            subject.node.text,
            self.skip_tests,
            self.no_budget,
        );
        for file in &facts.files {
            text += &format!("{}\n{}\n", file.path.display(), file.sha256);
        }
        text += &subject.built_of();
        BlobDigest::of(text.as_bytes()).0
    }

    fn describe(&self, facts: &ImageFacts<'_>) -> Result<Description, ImageRefusal> {
        let subject = self.subject(facts);
        let metadata = subject.metadata()?;
        let mut warnings = Vec::new();
        if !self.no_budget {
            warnings = budget::check(&subject)?;
        }
        let image = &subject.node.text;
        let mut files = Vec::new();
        let mut sums = layout::sums(image, &facts.image.files, facts);
        for (name, path) in image.described().zip(&facts.image.descriptions) {
            let bytes = if Some(name) == image.manifest.as_deref() {
                manifest::write(&subject, &metadata, path)?.into_bytes()
            } else if Some(name) == image.checksums.as_deref() {
                // Written last, of all the others.
                Vec::new()
            } else {
                subject.sbom(name)?.into_bytes()
            };
            if Some(name) != image.checksums.as_deref() {
                sums.add(path, &bytes);
            }
            files.push(bytes);
        }
        if let Some(at) = image
            .described()
            .position(|name| Some(name) == image.checksums.as_deref())
        {
            files[at] = sums.text(&facts.image.descriptions[at]).into_bytes();
        }
        Ok(Description { files, warnings })
    }
}

impl<'g> Gate<'g> {
    /// What decides about images of this recipe; all that they require is run, and their budgets hold.
    pub fn new(recipe: &'g Recipe, graph: &'g Graph, store: &'g Store) -> Self {
        Gate {
            recipe,
            graph,
            store,
            skip_tests: false,
            no_budget: false,
            sources: OnceCell::new(),
        }
    }

    /// The digests of the recipe's text and of its lock.
    fn sources(&self) -> &(String, String) {
        self.sources.get_or_init(|| {
            let lock = BlobDigest::of(self.graph.lock().to_string().as_bytes());
            (manifest::recipe_digest(self.recipe), lock.to_string())
        })
    }

    fn subject<'a, 'f>(&'a self, facts: &'a ImageFacts<'f>) -> Candidate<'a, 'f> {
        Candidate {
            gate: self,
            node: &self.graph.images()[facts.image.place],
            facts,
            bill: OnceCell::new(),
        }
    }
}

impl Candidate<'_, '_> {
    fn refuse(error: impl Into<String>) -> ImageRefusal {
        let error = error.into();
        ImageRefusal { error, help: None }
    }

    /// The nodes that it is made of, those that it only requires not: what a node needs comes before it.
    fn nodes(&self) -> Vec<NodeId> {
        let graph = self.gate.graph;
        let needed = graph.closure(&self.node.sources().collect::<Vec<_>>());
        graph.ids().filter(|id| needed[*id]).collect()
    }

    fn hit(&self, id: NodeId) -> &Hit {
        (self.facts.result)(id)
    }

    /// All that its description depends on beside its files and its text: stages and their results.
    fn built_of(&self) -> String {
        let (recipe, lock) = self.gate.sources();
        let mut text = format!("{lock}{recipe}");
        let required = self.node.requires.iter().filter(|_| !self.gate.skip_tests);
        for id in self.nodes().iter().chain(required) {
            let hit = self.hit(*id);
            text += &format!("{}\n{}\n", self.gate.graph.node(*id).label, hit.action);
            text += &format!("{:?}\n{:?}\n", hit.result, hit.caveats);
        }
        text
    }

    /// The nodes of the disks that its files were converted from.
    fn disks(&self) -> Vec<NodeId> {
        let graph = self.gate.graph;
        let files = self.node.files.iter().filter(|part| part.file.is_none());
        let mut disks: Vec<_> = files
            .filter_map(|part| match self.hit(part.node).result.disk {
                Some(_) => Some(part.node),
                None => parent(graph, part.node).filter(|_| converts(graph, part.node)),
            })
            .collect();
        disks.sort_unstable();
        disks.dedup();
        disks
    }

    /// The tree index of a node's disk.
    fn tree(&self, id: NodeId) -> Result<Option<Tree>, ImageRefusal> {
        let Some(blob) = &self.hit(id).result.tree else {
            return Ok(None);
        };
        let tree = Tree::load(self.gate.store, blob);
        let tree = tree.map_err(|error| Self::refuse(human::with_causes(&error)))?;
        tree.map(Some)
            .ok_or_else(|| self.lost(id, "the list of its files"))
    }

    /// What the store held of a node's disk is gone, or is not what it was.
    fn lost(&self, id: NodeId, what: &str) -> ImageRefusal {
        let label = &self.gate.graph.node(id).label;
        ImageRefusal {
            error: format!(
                "cannot describe the disk of {label}: {what} is missing from the store, or damaged"
            ),
            help: Some(format!("build that again: --rebuild '{label}'")),
        }
    }

    /// Reads what is in a node's disk.
    fn with_disk<T>(
        &self,
        id: NodeId,
        read: impl FnOnce(&Tree, &OnDisk<'_>) -> Result<T, crate::disk::guest::ext4::ReadError>,
    ) -> Result<Option<T>, ImageRefusal> {
        let (Some(tree), Some(disk)) = (self.tree(id)?, self.hit(id).result.disk) else {
            return Ok(None);
        };
        match self.gate.store.disk_reader(&disk.layer) {
            Ok(_) => {}
            Err(StoreError::Miss(_)) => return Err(self.lost(id, "its content")),
            Err(error) => return Err(Self::refuse(human::with_causes(&error))),
        }
        let open = || {
            let reader = self.gate.store.disk_reader(&disk.layer);
            let reader = reader.map_err(io::Error::other)?;
            Ok(Box::new(reader) as Box<dyn ChunkSource>)
        };
        let contents = OnDisk {
            open: &open,
            tree: &tree,
        };
        let label = &self.gate.graph.node(id).label;
        read(&tree, &contents).map(Some).map_err(|error| {
            Self::refuse(format!(
                "cannot read the disk of {label}: {}",
                human::with_causes(&error)
            ))
        })
    }

    /// The packages of its first disk; none where it has no disk, or no packages.
    fn bill(&self) -> Result<Option<&Bill>, ImageRefusal> {
        if let Some(bill) = self.bill.get() {
            return Ok(bill.as_ref());
        }
        let bill = match self.disks().first() {
            Some(&id) => {
                let origins = origins(self.gate.graph, id);
                self.with_disk(id, |tree, contents| sbom::read(tree, contents, &origins))?
            }
            None => None,
        };
        Ok(self.bill.get_or_init(|| bill.flatten()).as_ref())
    }

    /// The bill of materials that a name asks for.
    fn sbom(&self, name: &str) -> Result<String, ImageRefusal> {
        let nothing = || ImageRefusal {
            error: format!("`{name}` cannot be written: the image has no disk with dpkg packages"),
            help: Some("omit `sbom`, or add a disk to `files`".to_owned()),
        };
        let bill = self.bill()?.ok_or_else(nothing)?;
        let id = *self.disks().first().ok_or_else(nothing)?;
        let copyrights = self
            .with_disk(id, |tree, contents| {
                sbom::copyrights(tree, contents, &bill.packages)
            })?
            .ok_or_else(nothing)?;
        let disk = self.hit(id).result.disk.ok_or_else(nothing)?;
        let written = u64::try_from(bill.written).unwrap_or(0);
        let subject = spdx::Subject {
            name: &self.node.name,
            content: format!("disk-{}", disk.layer.disk),
            epoch: self.gate.recipe.source_date_epoch.unwrap_or(written),
        };
        Ok(match name.ends_with(".cdx.json") {
            true => cyclonedx::document(&subject, bill, &copyrights),
            false => spdx::document(&subject, bill, &copyrights),
        })
    }
}

/// The node whose disk a node begins with.
pub fn parent(graph: &Graph, id: NodeId) -> Option<NodeId> {
    let node = graph.node(id);
    let mut parents = node.lowered.actions.iter().map(|action| &action.parent);
    parents.find_map(|parent| match parent {
        Some(Slot::Stage(stage)) => Some(node.parent(stage)),
        _ => None,
    })
}

/// Whether a node writes another's disk, or all of its files, as a file.
pub fn converts(graph: &Graph, id: NodeId) -> bool {
    let action = graph.node(id).lowered.actions.last();
    action
        .filter(|action| action.parent.is_some())
        .is_some_and(|action| {
            let writes = |step: &Step| {
                matches!(
                    step,
                    Step::Convert { .. } | Step::Initramfs { .. } | Step::Archive { .. }
                )
            };
            action.steps.iter().any(writes)
        })
}

/// Whether an image's own files lie in a directory of its own.
fn has_directory(layout: ImageLayout) -> bool {
    layout != ImageLayout::Flat
}
