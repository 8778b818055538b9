//! The one error of a file that cannot be read, written or otherwise had: what was tried on which path.
//! Knows no format; the store, a crate of its own below this one, has such an error of its own.

use std::io;
use std::path::{Path, PathBuf};

/// A file or directory with which something cannot be done. Errors of other modules hold it as it is.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} `{}`", path.display())]
pub struct IoError {
    /// What was tried: `read`, `create`, `set the mode of`.
    pub verb: &'static str,
    /// On what.
    pub path: PathBuf,
    pub source: io::Error,
}

impl IoError {
    /// What makes this of the system's error, for `map_err`.
    pub fn at<E: From<IoError>>(
        verb: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(io::Error) -> E {
        move |source| {
            let path = path.as_ref().to_owned();
            E::from(IoError { verb, path, source })
        }
    }
}
