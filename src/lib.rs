//! impasto builds disk images in layers.

pub mod guest;
pub mod sandbox;
