//! Gets many files, several at a time: tries again, resumes, and goes on to the next place.
//! Knows places and patience; what one attempt does is `transfer`'s.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use impasto_store::meter::Meter;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tempfile::NamedTempFile;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::error::{DownloadCause, DownloadError};
use super::place::{Address, Place};
use super::proxy::Proxies;
use super::transfer::{Expected, FileInfo, Http, PartialFile, Progress, Redirects, copy};
use crate::base::cancel::CancelToken;

/// Bytes of new content that make up for an attempt that failed: a line that breaks every few minutes brings a large
/// image in the end.
const WORTH: u64 = 1 << 20;

/// A file that is wanted.
#[derive(Debug, Clone)]
pub struct Download {
    /// What it is called in messages; none where its address says it.
    pub name: Option<String>,
    pub expected: Expected,
    /// Where it may be, tried in order.
    pub places: Vec<Place>,
}

impl Download {
    fn error(&self, url: String, cause: DownloadCause) -> DownloadError {
        DownloadError {
            name: self.name.clone(),
            url,
            cause,
        }
    }
}

/// How patient a downloader is.
#[derive(Debug, Clone)]
pub struct Options {
    pub connect: Duration,
    /// For the next byte.
    pub stall: Duration,
    /// For all files together; none waits as long as something comes.
    pub timeout: Option<Duration>,
    /// Attempts at each place that bring nothing.
    pub attempts: u32,
    /// Before the second attempt; twice as long before each further one.
    pub back_off: Duration,
    /// Files at a time.
    pub parallel: usize,
    /// Files at a time from the same server.
    pub per_host: usize,
    /// Certificates (PEM) of authorities that are believed beside the public ones.
    pub authorities: Vec<u8>,
    /// Where servers may send us.
    pub redirects: Redirects,
    /// Is told how much has come.
    pub meter: Option<Arc<Meter>>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            connect: Duration::from_secs(15),
            stall: Duration::from_secs(30),
            timeout: None,
            attempts: 3,
            back_off: Duration::from_millis(500),
            parallel: 8,
            per_host: 6,
            authorities: Vec::new(),
            redirects: Redirects::Anywhere,
            meter: None,
        }
    }
}

/// The downloader could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum DownloaderError {
    #[error("cannot prepare for downloads")]
    Runtime { source: std::io::Error },
    #[error("cannot prepare for HTTP")]
    Http { source: reqwest::Error },
}

/// Gets files. Calls block; one downloader keeps its connections from call to call.
pub struct Downloader {
    /// Always there, until the client goes.
    runtime: Option<tokio::runtime::Runtime>,
    cancel: CancelToken,
    shared: Arc<DownloaderShared>,
}

struct DownloaderShared {
    http: Http,
    /// Whether only files of this machine are had.
    offline: bool,
    scratch: PathBuf,
    options: Options,
    hosts: Mutex<HashMap<String, Arc<Semaphore>>>,
    all: Semaphore,
}

enum DownloadEvent {
    Progress(Progress),
    Done(usize, NamedTempFile),
    Failed(usize, DownloadError),
}

impl Downloader {
    /// A downloader that writes into the directory `scratch`, and ends when `cancel` says so.
    ///
    /// # Errors
    /// The system gives no event loop.
    pub fn new(
        proxies: &Proxies,
        scratch: &Path,
        cancel: &CancelToken,
        options: Options,
    ) -> Result<Downloader, DownloaderError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|source| DownloaderError::Runtime { source })?;
        let client =
            http_client(proxies, &options).map_err(|source| DownloaderError::Http { source })?;
        let shared = DownloaderShared {
            http: Http {
                client,
                stall: options.stall,
                redirects: options.redirects.clone(),
            },
            offline: proxies.is_offline(),
            scratch: scratch.to_owned(),
            hosts: Mutex::default(),
            all: Semaphore::new(options.parallel.max(1)),
            options,
        };
        Ok(Downloader {
            runtime: Some(runtime),
            cancel: cancel.clone(),
            shared: Arc::new(shared),
        })
    }

    /// Gets files. `done` is called with the index and the path of each as soon as it is verified, while others come; it
    /// may move the file away, which else is removed after the call. `progress` is told the bytes that have come, and those
    /// of all as far as that is known.
    ///
    /// A file that is gone does not keep others from coming; after any other failure no further file is begun.
    ///
    /// # Errors
    /// Index and reason of each file that failed.
    pub fn get(
        &self,
        wanted: Vec<Download>,
        done: &mut dyn FnMut(usize, &Path),
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Vec<(usize, DownloadError)>> {
        let mut total = wanted.iter().fold(0_u64, |total, file| {
            total.saturating_add(file.expected.size.unwrap_or(0))
        });
        let Some(runtime) = &self.runtime else {
            return Ok(());
        };
        let meter = self.shared.options.meter.as_ref();
        meter.inspect(|meter| meter.extend("download", total));
        let (sender, receiver) = channel();
        let (mut bytes, mut failed) = (0_u64, Vec::new());
        std::thread::scope(|scope| {
            // A thread of its own, so that the network goes on while the caller stores what has come.
            scope.spawn(|| runtime.block_on(all(&self.shared, &self.cancel, wanted, sender)));
            for event in receiver {
                match event {
                    DownloadEvent::Progress(Progress::Bytes(change)) => {
                        bytes = bytes.saturating_add_signed(change);
                        meter.inspect(|meter| meter.change(change));
                        progress(bytes, total);
                    }
                    DownloadEvent::Progress(Progress::Announced(change)) => {
                        total = total.saturating_add_signed(change);
                        progress(bytes, total);
                    }
                    DownloadEvent::Done(index, file) => done(index, file.path()),
                    DownloadEvent::Failed(index, error) => failed.push((index, error)),
                }
            }
        });
        failed.sort_by_key(|(index, _)| *index);
        match failed.is_empty() {
            true => Ok(()),
            false => Err(failed),
        }
    }
}

impl Downloader {
    /// What a file is like, at the first of its places that tells, without getting it.
    ///
    /// # Errors
    /// No place has it, or tells.
    pub fn look(&self, wanted: &Download) -> Result<FileInfo, DownloadError> {
        let Some(runtime) = &self.runtime else {
            return Ok(FileInfo::default());
        };
        let mut told: Option<DownloadError> = None;
        for place in &wanted.places {
            match runtime.block_on(self.look_at(place)) {
                Ok(info) => return Ok(info),
                Err(cause @ DownloadCause::Cancelled) => {
                    return Err(wanted.error(place.shown(), cause));
                }
                Err(cause) => {
                    if told.is_none() || !matches!(cause, DownloadCause::Gone { .. }) {
                        told = Some(wanted.error(place.shown(), cause));
                    }
                }
            }
        }
        Err(told.unwrap_or_else(|| wanted.error("any mirror".to_owned(), DownloadCause::Nowhere)))
    }

    async fn look_at(&self, place: &Place) -> Result<FileInfo, DownloadCause> {
        let shared = &self.shared;
        let (url, login) = match &place.0 {
            Address::Path(path) => return FileInfo::of_path(path),
            Address::Url { .. } if shared.offline => return Err(DownloadCause::Offline),
            Address::Url { url, login } => (url, login.as_ref()),
        };
        let cancelled = async {
            while !self.cancel.is_cancelled() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let asked = async {
            let mut attempts = 1;
            loop {
                match shared.http.look(url, login).await {
                    Err(cause) if is_passing(&cause) && attempts < shared.options.attempts => {}
                    ended => return ended,
                }
                tokio::time::sleep(shared.options.back_off * attempts).await;
                attempts += 1;
            }
        };
        tokio::select! {
            info = asked => info,
            () = cancelled => Err(DownloadCause::Cancelled),
        }
    }
}

impl Drop for Downloader {
    fn drop(&mut self) {
        // Waiting is not allowed everywhere that a client may be dropped.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn http_client(proxies: &Proxies, options: &Options) -> Result<reqwest::Client, reqwest::Error> {
    let mut roots = rustls::RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&options.authorities).flatten());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("BUG: ring knows the default protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = reqwest::Client::builder()
        .use_preconfigured_tls(tls)
        .no_proxy();
    let rules = proxies.rules().into_iter();
    rules
        .fold(client, reqwest::ClientBuilder::proxy)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(options.connect)
        .user_agent(concat!("impasto/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Works on all files until they are there, have failed, or the run is stopped.
async fn all(
    shared: &Arc<DownloaderShared>,
    cancel: &CancelToken,
    wanted: Vec<Download>,
    sender: Sender<DownloadEvent>,
) {
    let stopping = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    let first = wanted.first().cloned();
    for (index, file) in wanted.into_iter().enumerate() {
        let (shared, sender, stopping) = (shared.clone(), sender.clone(), stopping.clone());
        tasks.spawn(async move {
            let Some(result) = one(&shared, &file, &sender, &stopping).await else {
                return;
            };
            // Nobody listens any more: then nobody wants it.
            let _ = sender.send(match result {
                Ok(file) => DownloadEvent::Done(index, file),
                Err(error) => {
                    if !matches!(error.cause, DownloadCause::Gone { .. }) {
                        stopping.store(true, Ordering::Relaxed);
                    }
                    DownloadEvent::Failed(index, error)
                }
            });
        });
    }
    let cancelled = async {
        while !cancel.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let expired = async {
        match shared.options.timeout {
            Some(after) => {
                tokio::time::sleep(after).await;
                after
            }
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        () = async { while tasks.join_next().await.is_some() {} } => None,
        () = cancelled => Some(DownloadCause::Cancelled),
        after = expired => Some(DownloadCause::TimedOut { after }),
    };
    if let (Some(cause), Some(first)) = (ended, first) {
        let url = first.places.first().map(Place::shown);
        let error = first.error(url.unwrap_or_default(), cause);
        let _ = sender.send(DownloadEvent::Failed(0, error));
    }
    // They hold the channel, and nobody would poll them after this.
    tasks.shutdown().await;
}

/// What comes after an attempt that failed.
enum Next {
    Again,
    FromTheStart,
    OtherPlace,
    End,
}

fn next(cause: &DownloadCause, part: &PartialFile<'_>, expected: &Expected) -> Next {
    match cause {
        // That is what the server has: more of the same would come.
        DownloadCause::Checksum { .. } if !part.is_resumed() && expected.size.is_none() => {
            Next::OtherPlace
        }
        cause if is_passing(cause) => Next::Again,
        DownloadCause::TooLong { .. }
        | DownloadCause::TooShort { .. }
        | DownloadCause::Checksum { .. } => Next::FromTheStart,
        DownloadCause::Write(_) | DownloadCause::Cancelled | DownloadCause::TimedOut { .. } => {
            Next::End
        }
        _ => Next::OtherPlace,
    }
}

/// Whether it may be otherwise in a moment.
fn is_passing(cause: &DownloadCause) -> bool {
    matches!(
        cause,
        DownloadCause::Unreachable { .. }
            | DownloadCause::BrokenOff { .. }
            | DownloadCause::Stalled { .. }
            | DownloadCause::Status {
                code: 408 | 425 | 429 | 500..=599
            }
    )
}

/// Works on one file. None where it was not begun, because another has failed.
async fn one(
    shared: &DownloaderShared,
    wanted: &Download,
    sender: &Sender<DownloadEvent>,
    stopping: &AtomicBool,
) -> Option<Result<NamedTempFile, DownloadError>> {
    let sender = sender.clone();
    let progress = move |change| {
        let _ = sender.send(DownloadEvent::Progress(change));
    };
    let mut part: Option<PartialFile<'_>> = None;
    let mut told: Option<DownloadError> = None;
    let mut begun = false;
    for place in &wanted.places {
        let error = |cause| wanted.error(place.shown(), cause);
        let (mut complete, mut corrupt) = (false, false);
        let (mut attempts, mut furthest) = (0, 0);
        while attempts < shared.options.attempts.max(1) {
            if attempts > 0 {
                tokio::time::sleep(shared.options.back_off * (1 << (attempts - 1).min(10))).await;
            }
            // In this order, so that who waits for a server keeps nobody from another.
            let host = shared.host(place);
            let _host = host.acquire().await.ok()?;
            let _any = shared.all.acquire().await.ok()?;
            if !begun && stopping.load(Ordering::Relaxed) {
                return None;
            }
            begun = true;
            let part = match &mut part {
                Some(part) => part,
                None => match PartialFile::new(&shared.scratch, &wanted.expected, &progress) {
                    Ok(new) => part.insert(new),
                    Err(cause) => return Some(Err(error(cause))),
                },
            };
            let attempted = match &place.0 {
                Address::Url { .. } if shared.offline => Err(DownloadCause::Offline),
                Address::Url { url, login } => {
                    let login = login.as_ref();
                    shared.http.get(url, login, part, &wanted.expected).await
                }
                Address::Path(path) => copy(path, part, &wanted.expected).await,
            };
            let Err(cause) = attempted else {
                complete = true;
                break;
            };
            let next = next(&cause, part, &wanted.expected);
            // What one place says of a file that another lacks is worth more.
            if told.is_none() || !matches!(cause, DownloadCause::Gone { .. }) {
                told = Some(error(cause));
            }
            match next {
                Next::Again => {}
                Next::FromTheStart if !corrupt => corrupt = true,
                Next::FromTheStart | Next::OtherPlace => break,
                Next::End => return told.map(Err),
            }
            attempts += 1;
            if part.len() >= furthest + WORTH {
                (attempts, furthest) = (1, part.len());
            }
            if matches!(next, Next::FromTheStart)
                && let Err(cause) = part.reset()
            {
                return Some(Err(error(cause)));
            }
        }
        if let Some(mut got) = part.take() {
            if complete {
                let verified = got.into_verified(&wanted.expected);
                return Some(verified.map_err(error));
            }
            // Another place may have another version.
            if let Err(cause) = got.reset() {
                return Some(Err(error(cause)));
            }
            part = Some(got);
        }
    }
    Some(Err(told.unwrap_or_else(|| {
        wanted.error("any mirror".to_owned(), DownloadCause::Nowhere)
    })))
}

impl DownloaderShared {
    /// What bounds the files at a time from one server; this machine is one too.
    fn host(&self, place: &Place) -> Arc<Semaphore> {
        let name = place.host().to_owned();
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts
            .entry(name)
            .or_insert_with(|| Arc::new(Semaphore::new(self.options.per_host.max(1))))
            .clone()
    }
}
