//! Gets files from elsewhere, by HTTP or out of a directory of this machine: the one downloader, with the one HTTP client.
//! Knows places, patience, proxies and checksums; knows neither mirrors nor stages, and keeps nothing.
//!
//! ```text
//! Download ─ Downloader ─→ one Place after the other, several attempts at each, every one of which goes on where the
//!                          last broke off ─→ a file of the scratch directory, verified as Expected says
//! ```

mod download;
mod error;
mod place;
mod proxy;
mod transfer;

pub use download::{Download, Downloader, DownloaderError, Options};
pub use error::{DownloadCause, DownloadError};
pub use place::{Login, Place};
pub use proxy::Proxies;
pub use transfer::{Checksum, Expected, FileInfo, Redirects};
