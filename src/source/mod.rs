//! What comes in from elsewhere than a distribution's archive, and the trees of files that are made of it.
//! Knows formats, addresses and checksums; knows neither stages nor the store.

pub mod tree;
