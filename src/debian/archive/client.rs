//! Downloads from mirrors: where files of mirrors are, for the downloader.
//! Knows mirrors and paths below them; how bytes come is the downloader's business.

use std::path::Path;

use impasto_store::sha256::Sha256;

use super::access;
use super::release::is_below;
use crate::base::cancel::CancelToken;
use crate::debian::mirror::{Mirror, Mirrors};
use crate::net::{
    Download, DownloadCause, DownloadError, Downloader, DownloaderError, Expected, Options, Place,
};

/// A file that is wanted.
#[derive(Debug, Clone)]
pub struct DownloadRequest {
    /// What it is called in messages.
    pub name: String,
    /// Bytes.
    pub size: u64,
    pub sha256: Sha256,
    /// Where it may be, tried in order.
    pub places: Vec<DownloadSource>,
}

/// A place where a file may be.
#[derive(Debug, Clone)]
pub struct DownloadSource {
    pub mirror: Mirror,
    /// The file's path below it.
    pub path: String,
}

impl DownloadSource {
    fn place(&self) -> Result<Place, DownloadCause> {
        let invalid = || DownloadCause::Invalid {
            what: "path",
            text: self.path.chars().take(100).collect(),
        };
        if !is_below(&self.path) {
            return Err(invalid());
        }
        match self.mirror.directory() {
            Some(directory) => Ok(Place::path(&directory.join(&self.path))),
            None => access::place(&self.mirror, &self.path).ok_or_else(invalid),
        }
    }
}

/// A downloader for mirrors. Calls block; one client keeps its connections from call to call.
pub struct Client {
    pub(super) downloader: Downloader,
}

impl Client {
    /// A client that uses the proxies of `mirrors`, writes into the directory `scratch`, and ends when `cancel` says so.
    ///
    /// # Errors
    /// The system gives no event loop.
    pub fn new(
        mirrors: &Mirrors,
        scratch: &Path,
        cancel: &CancelToken,
        options: Options,
    ) -> Result<Client, DownloaderError> {
        let downloader = Downloader::new(&mirrors.proxies(), scratch, cancel, options)?;
        Ok(Client { downloader })
    }

    /// Gets files, as [`Downloader::get`] does.
    ///
    /// # Errors
    /// Index and reason of each file that failed; none is begun where the path of one cannot be that of a file.
    pub fn get(
        &self,
        wanted: &[DownloadRequest],
        done: &mut dyn FnMut(usize, &Path),
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Vec<(usize, DownloadError)>> {
        let mut downloads = Vec::with_capacity(wanted.len());
        for (index, file) in wanted.iter().enumerate() {
            let expected = Expected::exact(file.size, file.sha256);
            let file = download(file.name.clone(), expected, &file.places);
            downloads.push(file.map_err(|error| vec![(index, error)])?);
        }
        self.downloader.get(downloads, done, progress)
    }
}

/// A file of mirrors, for the downloader.
///
/// # Errors
/// The path of a place cannot be that of a file.
pub(super) fn download(
    name: String,
    expected: Expected,
    sources: &[DownloadSource],
) -> Result<Download, DownloadError> {
    let mut places = Vec::with_capacity(sources.len());
    for source in sources {
        places.push(source.place().map_err(|cause| DownloadError {
            name: Some(name.clone()),
            url: source.mirror.to_string(),
            cause,
        })?);
    }
    Ok(Download {
        name: Some(name),
        expected,
        places,
    })
}
