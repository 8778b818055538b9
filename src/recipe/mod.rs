//! The recipe language: from HCL text to plain values for every combination of the matrix.
//! Knows syntax, values and the types that kinds declare; knows no stage's meaning, hashes nothing, runs nothing.
//!
//! ```text
//! bytes ─syntax→ tree ─collect→ blocks ─lower→ expressions ─eval→ values ─check→ stages, images
//! ```
//!
//! [`load()`] does all of it, and reports everything that is wrong in one run. Names are resolved once; what does not
//! depend on the matrix is evaluated once and shared by all combinations.

pub mod blocks;
mod budget;
mod check;
mod collect;
mod convert;
pub mod diagnostic;
mod eval;
mod expr;
mod files;
mod fmt;
mod functions;
mod graph;
mod image;
mod lex;
mod load;
mod lower;
mod matrix;
mod model;
mod outline;
mod packer;
mod render;
pub mod scope;
mod stage;
pub mod suggest;
mod syntax;
mod template;
#[cfg(test)]
mod tests;
mod traverse;
mod types;
mod vars;

pub use diagnostic::{Diagnostic, Diagnostics, Label, Lack, Severity, Sources, Span};
pub use fmt::format;
pub use functions::{Function, reference};
pub use load::{LoadRequest, load, parse_bytes, recipe_files};
pub use model::{Axis, Combination, Image, ImageBudget, ImageFile, ImageLayout, Recipe, Stage};
pub use outline::{Outline, outline};
