//! An evaluated recipe: for each combination of the matrix its stages and images, as plain values.
//! Knows names and values; knows no syntax, and no meaning of a stage kind.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[cfg(doc)]
use impasto_stages::Data;
use impasto_stages::action::Cutoff;
use impasto_stages::{Lowered, Params, Value};

use super::diagnostic::{Diagnostics, Sources, Span};
use crate::recipe::scope::Scope;

/// A recipe, evaluated once for every chosen combination of its matrix.
#[derive(Debug)]
pub struct Recipe {
    /// Its name: from the `recipe` block, else the directory's or file's name.
    pub name: String,
    /// Seconds since 1970 that stand for "now" in what is built.
    pub source_date_epoch: Option<u64>,
    /// What decides whether stages run again after one that did, where that one does not say.
    pub cutoff: Cutoff,
    /// The file or directory that it was read from, absolute.
    pub path: PathBuf,
    /// The directory that its relative paths start from, absolute.
    pub dir: PathBuf,
    /// What it may read.
    pub scope: Arc<Scope>,
    /// The matrix' axes in declared order, each with all of its values.
    pub axes: Vec<Axis>,
    /// The chosen combinations, in declared order; one without values where there is no matrix.
    pub combinations: Vec<Combination>,
    /// The names of all stages of the text, also of those whose `when` does not hold.
    pub stage_names: BTreeSet<Arc<str>>,
    /// The texts that spans point into.
    pub sources: Arc<Sources>,
    /// What is probably not meant so, but does no harm.
    pub warnings: Diagnostics,
}

/// One axis of the matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis {
    pub name: String,
    /// Its values, as text, in declared order.
    pub values: Vec<String>,
}

/// What the recipe says for one combination of the matrix.
#[derive(Debug)]
pub struct Combination {
    /// One value per axis, as text, in the order of the axes.
    pub values: Vec<String>,
    /// The stages whose `when` holds, in the order of the text. Combinations that give a stage the same parameters
    /// share it.
    pub stages: Vec<Arc<Stage>>,
    /// The images, in the order of the text.
    pub images: Vec<Arc<Image>>,
}

/// A stage with evaluated parameters, checked against its kind's types. Every stage that it refers to exists, makes
/// what the reference needs, and does not depend on it.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Its name, unique in the recipe.
    pub name: Arc<str>,
    /// Its kind's name; the registry has it.
    pub kind: Arc<str>,
    /// Its parameters, without `when`.
    pub params: Params,
    /// What its kind makes of them.
    pub lowered: Lowered,
    /// The block's head in the text.
    pub span: Span,
}

/// What is published: files that stages make, under which names, and what must hold before they are.
#[derive(Debug, Clone)]
pub struct Image {
    /// The block's label: how selectors call it.
    pub label: Arc<str>,
    /// Its evaluated name: what its files are called.
    pub name: String,
    pub files: Vec<ImageFile>,
    pub layout: ImageLayout,
    pub tags: BTreeMap<String, String>,
    /// Files that are read for the manifest, by the name that they get there.
    pub metadata: Vec<(String, Value)>,
    /// The stages that must succeed before a file is written; each a [`Data::Stage`].
    pub requires: Vec<Value>,
    /// Names of files that describe the image.
    pub manifest: Option<String>,
    pub checksums: Option<String>,
    pub sbom: Vec<String>,
    pub budget: ImageBudget,
}

/// A file of an image.
#[derive(Debug, Clone)]
pub struct ImageFile {
    /// Its path below the image's directory; none where it follows from what it is.
    pub name: Option<String>,
    /// A [`Data::Stage`] or [`Data::StageFile`].
    pub value: Value,
}

/// Where an image's files go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImageLayout {
    /// Disks as `NAME.EXT`, all else in the directory `NAME`.
    #[default]
    Standard,
    /// All beside the files of other images.
    Flat,
    /// All in the directory `NAME`.
    Directory,
}

impl ImageLayout {
    /// All of them, as recipes call them.
    pub const NAMES: &'static [&'static str] = &["standard", "flat", "directory"];

    /// The layout of a name of [`ImageLayout::NAMES`].
    pub(super) fn named(name: &str) -> ImageLayout {
        match name {
            "flat" => ImageLayout::Flat,
            "directory" => ImageLayout::Directory,
            _ => ImageLayout::Standard,
        }
    }
}

/// What an image may cost at most. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageBudget {
    /// All files together.
    pub size: Option<u64>,
    /// Single files, by their names.
    pub files: BTreeMap<String, u64>,
    /// From the beginning of a build until the image is complete.
    pub build: Option<Duration>,
    /// Single stages, by their names.
    pub stages: BTreeMap<String, Duration>,
    /// From power-on until the tested machine is up.
    pub boot: Option<Duration>,
    /// How many packages may be installed.
    pub packages: Option<u64>,
}

impl Image {
    /// Whether there is nothing to wait for and nothing to say: each file is written as soon as it is there.
    pub fn is_plain(&self) -> bool {
        self.requires.is_empty()
            && self.metadata.is_empty()
            && self.described().next().is_none()
            && self.budget == ImageBudget::default()
    }

    /// The names of the files that describe it.
    pub fn described(&self) -> impl Iterator<Item = &str> {
        let names = self.manifest.iter().chain(&self.checksums);
        names.chain(&self.sbom).map(String::as_str)
    }
}
