//! What goes wrong with archives. Every message names the file, from where, and why; none shows a password.

use std::io;

use super::release::ReleaseError;
use crate::lock::PackageHint;
use crate::net::{DownloadCause, DownloadError};
use crate::recipe::suggest;
use crate::source::SignatureError;

/// An archive that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file of it could not be had.
    #[error("the archive {archive} cannot be read")]
    Download {
        archive: String,
        /// Which file, and why not.
        source: DownloadError,
    },
    /// It is not signed as it must be.
    #[error("the archive {archive} at {url} cannot be trusted")]
    Signature {
        archive: String,
        /// The signed file, without user name and password.
        url: String,
        source: SignatureError,
    },
    /// What is signed is not what was asked for.
    #[error("the archive {archive} at {url} cannot be used")]
    Release {
        archive: String,
        /// The signed file, without user name and password.
        url: String,
        source: ReleaseError,
    },
    /// It has no such index.
    #[error(
        "the archive {archive} has no index {path}; its components are {}, its architectures {}",
        listed(components),
        listed(architectures)
    )]
    NoIndex {
        archive: String,
        /// The index that its Release would have to name.
        path: String,
        /// Components that it has.
        components: Vec<String>,
        /// Architectures that it has.
        architectures: Vec<String>,
    },
    /// An index does not unpack.
    #[error("the index {path} of the archive {archive} cannot be unpacked")]
    Unpack {
        archive: String,
        path: String,
        source: io::Error,
    },
    /// An index unpacks to something else than the Release states.
    #[error("the index {path} of the archive {archive} does not match its Release file: {what}")]
    Unlike {
        archive: String,
        path: String,
        what: String,
    },
}

impl ArchiveError {
    /// An archive that could not even be asked.
    pub fn unready(archive: &str, reason: String) -> ArchiveError {
        let cause = DownloadCause::Unreachable {
            source: reason.into(),
        };
        let source = DownloadError {
            name: Some("Release".to_owned()),
            url: String::new(),
            cause,
        };
        ArchiveError::Download {
            archive: archive.to_owned(),
            source,
        }
    }

    pub fn help(&self) -> PackageHint {
        match self {
            ArchiveError::Download { archive, source } => match source.cause {
                DownloadCause::Gone { .. } => gone(archive, &source.url),
                _ => PackageHint::Mirror("try again, or choose another mirror".to_owned()),
            },
            ArchiveError::Signature { .. } => {
                "find out why before you use it; then set its key in `signed_by`, or choose another mirror".into()
            }
            ArchiveError::Release { .. } => PackageHint::Mirror("choose another mirror".to_owned()),
            ArchiveError::NoIndex { .. } => "correct `components` or `architectures`".into(),
            ArchiveError::Unpack { .. } | ArchiveError::Unlike { .. } => {
                "try again later: the mirror may be in the middle of an update; or choose another".into()
            }
        }
    }
}

/// Debian's releases whose archive's keys are built in, and the names that move from one to the next.
const RELEASES: [&str; 8] = [
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "sid",
    "oldstable",
    "stable",
    "testing",
];

/// The way out where an archive has no such suite, as far as can be told.
fn gone(archive: &str, url: &str) -> PackageHint {
    let other =
        |first: String| PackageHint::Mirror(format!("{first} or choose a mirror that has it"));
    let Some((_, suite)) = archive
        .split_once('/')
        .filter(|(name, _)| name.starts_with("debian"))
    else {
        return other("correct `suite`,".to_owned());
    };
    // A mirror that is a directory can be looked into.
    let listed = url
        .strip_prefix("file:")
        .and_then(|path| path.split_once("/dists/"));
    let listed = listed.and_then(|(dir, _)| std::fs::read_dir(format!("{dir}/dists")).ok());
    let mut there: Vec<String> = match listed {
        Some(entries) => entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect(),
        None => RELEASES.map(str::to_owned).to_vec(),
    };
    there.sort();
    if there.iter().any(|name| name == suite) {
        return other("correct `suite`,".to_owned());
    }
    let near = suggest::nearest(suite, there.iter().map(String::as_str));
    let near = near.map_or(String::new(), |near| format!("did you mean `{near}`? "));
    other(format!(
        "{near}correct `suite`: available are {};",
        there.join(", ")
    ))
}

/// The way out where a server wants to know who asks.
pub const LOGIN: &str =
    "set a user name and password: with `login` in `repositories`, or in the mirror's URL";

fn listed(words: &[String]) -> String {
    if words.is_empty() {
        "not named".to_owned()
    } else {
        words.join(", ")
    }
}
