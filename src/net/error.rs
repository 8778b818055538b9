//! What goes wrong with a download. Every message names the file, from where, and why; none shows a password.

use std::fmt;
use std::io;
use std::time::Duration;

use super::transfer::Checksum;
use crate::base::io::IoError;

/// A file that could not be had.
#[derive(Debug)]
pub struct DownloadError {
    /// What it is called; none where its address says it.
    pub name: Option<String>,
    /// From where, without user name and password: of several places, where the last attempt that told most was made.
    pub url: String,
    pub cause: DownloadCause,
}

impl fmt::Display for DownloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DownloadError { name, url, cause } = self;
        match (name, cause) {
            (Some(name), _) => write!(f, "cannot get {name} from {url}: {cause}"),
            (None, DownloadCause::TimedOut { after }) => {
                write!(
                    f,
                    "downloading {url} took longer than {} s",
                    after.as_secs()
                )
            }
            (None, DownloadCause::Gone { code: Some(code) }) => {
                let cause = DownloadCause::Status { code: *code };
                write!(f, "cannot get {url}: {cause}")
            }
            (
                None,
                DownloadCause::Checksum {
                    expected,
                    got,
                    html,
                },
            ) => {
                write!(f, "{url} {}", wrong(expected, got, *html))
            }
            (None, _) => write!(f, "cannot get {url}: {cause}"),
        }
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
    Gone {
        /// The status of the server's answer.
        code: Option<u16>,
    },
    /// The server says no.
    #[error("the server responded with {}", status(*code))]
    Status { code: u16 },
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
    #[error("it {}", wrong(expected, got, *html))]
    Checksum {
        /// What it should be.
        expected: Checksum,
        got: Checksum,
        /// Whether it is a web page: one to log in at, for example.
        html: bool,
    },
    #[error("it took longer than {} s", after.as_secs())]
    TimedOut {
        /// How long it may take.
        after: Duration,
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
    /// Redirected to a host that nobody allowed.
    #[error("the server redirects to {to}, on a host that the recipe does not allow")]
    RedirectHost {
        /// Whither, without user name and password.
        to: String,
        host: String,
    },
    /// Nobody may be asked.
    #[error("it would have to be downloaded, which --offline forbids")]
    Offline,
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
    /// A file of this machine.
    #[error("cannot read it")]
    Read { source: io::Error },
    #[error(transparent)]
    Write(#[from] IoError),
    /// The run was stopped.
    #[error("cancelled")]
    Cancelled,
}

impl DownloadCause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(self)
    }
}

fn wrong(expected: &Checksum, got: &Checksum, html: bool) -> String {
    let html = if html { ", of a web page" } else { "" };
    format!("has the wrong checksum: expected {expected}, got {got}{html}")
}

/// A status with the usual words for it.
fn status(code: u16) -> String {
    let reason = reqwest::StatusCode::from_u16(code).ok();
    let reason = reason.and_then(|status| status.canonical_reason());
    format!("{code} {}", reason.unwrap_or_default())
        .trim_end()
        .to_owned()
}
