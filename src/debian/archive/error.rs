//! What goes wrong with archives. Every message names the file, from where, and why; none shows a password.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::openpgp::SignatureError;
use super::release::ReleaseError;
use crate::lock::PackageHint;
use crate::recipe::suggest;
use impasto_store::sha256::Sha256;

/// A file that could not be had.
#[derive(Debug)]
pub struct DownloadError {
    pub name: String,
    /// From where, without user name and password: of several places, where the last attempt that told most was made.
    pub url: String,
    pub cause: DownloadCause,
}

impl fmt::Display for DownloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot get {} from {}: {}",
            self.name, self.url, self.cause
        )
    }
}

impl std::error::Error for DownloadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.source()
    }
}

/// Why a file could not be had.
#[derive(Debug, thiserror::Error)]
pub enum DownloadCause {
    /// No place has it.
    #[error("the mirror does not have it")]
    Gone,
    /// The server says no.
    #[error("the server responded with {code} {reason}")]
    Status {
        code: u16,
        /// The usual words for it.
        reason: &'static str,
    },
    /// A page to log in at, for example.
    #[error("the mirror responded with a web page")]
    WebPage,
    #[error("the server cannot be reached")]
    Unreachable {
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the connection was lost after {received} bytes")]
    BrokenOff {
        /// Bytes that have come.
        received: u64,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server fell silent.
    #[error("no data arrived for {} s", after.as_secs_f64())]
    Stalled {
        /// How long it was waited for.
        after: Duration,
    },
    /// More bytes than there should be.
    #[error("it is larger than {size} bytes")]
    TooLong {
        /// Its size, or the most that is taken.
        size: u64,
    },
    /// Fewer bytes than there should be.
    #[error("it has {received} bytes instead of {size}")]
    TooShort {
        /// Bytes that came, or that were offered.
        received: u64,
        size: u64,
    },
    #[error("it has the wrong checksum: expected sha256:{expected}, got sha256:{got}")]
    Checksum {
        /// What it should be.
        expected: Sha256,
        got: Sha256,
    },
    #[error("the server redirects more than {limit} times")]
    Redirects {
        /// The most that is followed.
        limit: u32,
    },
    /// Redirected where we do not follow.
    #[error("the server redirects to {to}, {why}")]
    Redirect {
        /// Whither, without user name and password.
        to: String,
        why: &'static str,
    },
    /// A path or a checksum that cannot be that of a file.
    #[error("the {what} {text:?} is not valid for a file")]
    Invalid {
        what: &'static str,
        /// As it was given.
        text: String,
    },
    /// There is no place where it could be.
    #[error("no mirror is known")]
    Nowhere,
    /// A directory that is a mirror.
    #[error("cannot read it")]
    Read { source: io::Error },
    #[error("cannot write {}", path.display())]
    Write {
        /// Which file or directory.
        path: PathBuf,
        source: io::Error,
    },
    /// The run was stopped.
    #[error("cancelled")]
    Cancelled,
}

impl DownloadCause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(self)
    }
}

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
            name: "Release".to_owned(),
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
                DownloadCause::Gone => gone(archive, &source.url),
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
