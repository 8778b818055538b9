//! An evaluated recipe: for each combination of the matrix its stages and images, as plain values.
//! Knows names and values; knows no syntax, and no meaning of a stage kind.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use impasto_stages::action::Cutoff;
use impasto_stages::{Lowered, Params};

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

#[derive(Debug, Clone)]
pub struct Image {
    /// The block's label: how selectors call it.
    pub label: Arc<str>,
    /// Its evaluated name: what its files are called.
    pub name: String,
    /// Its files: values that are [`impasto_stages::Data::Stage`] or [`impasto_stages::Data::StageFile`].
    pub files: Vec<impasto_stages::Value>,
    /// The block's head in the text.
    pub span: Span,
}
