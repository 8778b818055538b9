//! Work in progress.

pub mod recipe;
