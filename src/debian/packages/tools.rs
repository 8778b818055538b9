//! The toolbox of a run: the tree of the tools that the lock names, fetched and unpacked where it is not there yet.
//! Knows where files come from; how a tree is laid out and checked is `crate::debian::tools`' business.

use std::io::Read;
use std::path::PathBuf;

use impasto_stages::package_set::PackageSet;
use impasto_store::Store;
use impasto_store::digest::Digest;

use super::fetch::{DemandError, Fetcher};
use crate::base::cancel::CancelToken;
use crate::debian::tools::unpack::{DebSource, content};
use crate::debian::tools::{ToolboxError, ToolboxTree};

/// The tools cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ToolsError {
    /// Their packages cannot be had.
    #[error(transparent)]
    Fetch(#[from] DemandError),
    /// Their packages cannot be unpacked.
    #[error("the tools that impasto uses cannot be unpacked")]
    Unpack(#[from] ToolboxError),
}

/// The name of the tree of a set's tools.
pub fn name(set: &PackageSet) -> Digest {
    content(&set.install)
}

/// The root of the tree of a set's tools.
///
/// # Errors
/// A package cannot be had or unpacked.
pub fn tools(
    store: &Store,
    set: &PackageSet,
    fetcher: &dyn Fn() -> Fetcher,
    cancel: &CancelToken,
) -> Result<PathBuf, ToolsError> {
    if let Some(tree) = ToolboxTree::open(store, &set.install)? {
        return Ok(tree.path().to_owned());
    }
    let blobs = fetcher().demand(set, cancel)?;
    let sources: Vec<_> = set
        .install
        .iter()
        .cloned()
        .zip(blobs)
        .map(|(package, blob)| DebSource {
            package,
            open: Box::new(move || {
                let reader = store
                    .open_blob(&blob.digest)
                    .map_err(std::io::Error::other)?;
                Ok(Box::new(reader) as Box<dyn Read + Send>)
            }),
        })
        .collect();
    Ok(ToolboxTree::open_or_make(store, &sources)?
        .path()
        .to_owned())
}
