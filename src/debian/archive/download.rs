//! Gets many files of known size and SHA-256, several at a time: tries again, resumes, and goes on to the next place.
//! Knows places and patience; what one attempt does is `transfer`'s.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use impasto_store::meter::Meter;
use impasto_store::sha256::Sha256;
use reqwest::Url;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tempfile::NamedTempFile;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::access;
use super::error::{DownloadCause, DownloadError};
use super::release::is_below;
use super::transfer::{Expected, Http, PartialFile, copy};
use crate::base::cancel::CancelToken;
use crate::debian::mirror::{Mirror, Mirrors};

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

/// How patient a client is.
#[derive(Debug, Clone)]
pub struct Options {
    pub connect: Duration,
    /// For the next byte.
    pub stall: Duration,
    /// Attempts at each place.
    pub attempts: u32,
    /// Before the second attempt; twice as long before each further one.
    pub back_off: Duration,
    /// Files at a time.
    pub parallel: usize,
    /// Files at a time from the same server.
    pub per_host: usize,
    /// Certificates (PEM) of authorities that are believed beside the public ones.
    pub authorities: Vec<u8>,
    /// Is told how much has come.
    pub meter: Option<Arc<Meter>>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            connect: Duration::from_secs(15),
            stall: Duration::from_secs(30),
            attempts: 3,
            back_off: Duration::from_millis(500),
            parallel: 8,
            per_host: 6,
            authorities: Vec::new(),
            meter: None,
        }
    }
}

/// The client could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot prepare for downloads")]
    Runtime { source: std::io::Error },
    #[error("cannot prepare for HTTP")]
    Http { source: reqwest::Error },
}

/// Gets files. Calls block; one client keeps its connections from call to call.
pub struct Client {
    /// Always there, until the client goes.
    runtime: Option<tokio::runtime::Runtime>,
    pub(super) cancel: CancelToken,
    shared: Arc<DownloaderShared>,
}

struct DownloaderShared {
    http: Http,
    scratch: PathBuf,
    options: Options,
    hosts: Mutex<HashMap<String, Arc<Semaphore>>>,
    all: Semaphore,
}

/// A file that is wanted, checked or not.
#[derive(Debug, Clone)]
pub(super) struct DownloadJob {
    pub(super) name: String,
    pub(super) expected: Expected,
    pub(super) places: Vec<DownloadSource>,
}

enum DownloadEvent {
    Bytes(i64),
    Done(usize, NamedTempFile),
    Failed(usize, DownloadError),
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
    ) -> Result<Client, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|source| ClientError::Runtime { source })?;
        let client =
            http_client(mirrors, &options).map_err(|source| ClientError::Http { source })?;
        let shared = DownloaderShared {
            http: Http {
                client,
                stall: options.stall,
            },
            scratch: scratch.to_owned(),
            hosts: Mutex::default(),
            all: Semaphore::new(options.parallel.max(1)),
            options,
        };
        Ok(Client {
            runtime: Some(runtime),
            cancel: cancel.clone(),
            shared: Arc::new(shared),
        })
    }

    /// Gets files. `done` is called with the index and the path of each as soon as it is verified, while others come; it
    /// may move the file away, which else is removed after the call. `progress` is told the bytes that have come, and those
    /// of all.
    ///
    /// A file that is gone does not keep others from coming; after any other failure no further file is begun.
    ///
    /// # Errors
    /// Index and reason of each file that failed.
    pub fn get(
        &self,
        wanted: &[DownloadRequest],
        done: &mut dyn FnMut(usize, &Path),
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Vec<(usize, DownloadError)>> {
        let jobs = wanted.iter().map(|wanted| DownloadJob {
            name: wanted.name.clone(),
            expected: Expected::Exact {
                size: wanted.size,
                sha256: wanted.sha256,
            },
            places: wanted.places.clone(),
        });
        let failed = self.run(jobs.collect(), done, progress);
        if failed.is_empty() {
            Ok(())
        } else {
            Err(failed)
        }
    }

    pub(super) fn run(
        &self,
        jobs: Vec<DownloadJob>,
        done: &mut dyn FnMut(usize, &Path),
        progress: &mut dyn FnMut(u64, u64),
    ) -> Vec<(usize, DownloadError)> {
        let total = jobs.iter().fold(0_u64, |total, job| match &job.expected {
            Expected::Exact { size, .. } => total.saturating_add(*size),
            Expected::AtMost(_) => total,
        });
        let Some(runtime) = &self.runtime else {
            return Vec::new();
        };
        let meter = self.shared.options.meter.as_ref();
        meter.inspect(|meter| meter.extend("download", total));
        let (sender, receiver) = channel();
        let (mut bytes, mut failed) = (0_u64, Vec::new());
        std::thread::scope(|scope| {
            // A thread of its own, so that the network goes on while the caller stores what has come.
            scope.spawn(|| runtime.block_on(all(&self.shared, &self.cancel, jobs, sender)));
            for event in receiver {
                match event {
                    DownloadEvent::Bytes(change) => {
                        bytes = bytes.saturating_add_signed(change);
                        meter.inspect(|meter| meter.change(change));
                        progress(bytes, total);
                    }
                    DownloadEvent::Done(index, file) => done(index, file.path()),
                    DownloadEvent::Failed(index, error) => failed.push((index, error)),
                }
            }
        });
        failed.sort_by_key(|(index, _)| *index);
        failed
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Waiting is not allowed everywhere that a client may be dropped.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn http_client(mirrors: &Mirrors, options: &Options) -> Result<reqwest::Client, reqwest::Error> {
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
    reqwest::Client::builder()
        .use_preconfigured_tls(tls)
        .no_proxy()
        .proxy(access::proxy(mirrors))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(options.connect)
        .user_agent(concat!("impasto/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Works on all files until they are there, have failed, or the run is stopped.
async fn all(
    shared: &Arc<DownloaderShared>,
    cancel: &CancelToken,
    jobs: Vec<DownloadJob>,
    sender: Sender<DownloadEvent>,
) {
    let stopping = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    let first = jobs.first().map(|job| job.name.clone());
    for (index, job) in jobs.into_iter().enumerate() {
        let (shared, sender, stopping) = (shared.clone(), sender.clone(), stopping.clone());
        tasks.spawn(async move {
            let Some(result) = one(&shared, &job, &sender, &stopping).await else {
                return;
            };
            // Nobody listens any more: then nobody wants it.
            let _ = sender.send(match result {
                Ok(file) => DownloadEvent::Done(index, file),
                Err(error) => {
                    if !matches!(error.cause, DownloadCause::Gone) {
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
    tokio::select! {
        () = async { while tasks.join_next().await.is_some() {} } => {}
        () = cancelled => {
            let error = DownloadError {
                name: first.unwrap_or_default(),
                url: "its mirror".to_owned(),
                cause: DownloadCause::Cancelled,
            };
            let _ = sender.send(DownloadEvent::Failed(0, error));
        }
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

fn next(cause: &DownloadCause) -> Next {
    match cause {
        DownloadCause::Unreachable { .. }
        | DownloadCause::BrokenOff { .. }
        | DownloadCause::Stalled { .. } => Next::Again,
        DownloadCause::Status {
            code: 408 | 425 | 429 | 500..=599,
            ..
        } => Next::Again,
        DownloadCause::TooLong { .. }
        | DownloadCause::TooShort { .. }
        | DownloadCause::Checksum { .. } => Next::FromTheStart,
        DownloadCause::Write { .. } | DownloadCause::Cancelled => Next::End,
        _ => Next::OtherPlace,
    }
}

/// Works on one file. None where it was not begun, because another has failed.
async fn one(
    shared: &DownloaderShared,
    job: &DownloadJob,
    sender: &Sender<DownloadEvent>,
    stopping: &AtomicBool,
) -> Option<Result<NamedTempFile, DownloadError>> {
    let sender = sender.clone();
    let progress = move |change| {
        let _ = sender.send(DownloadEvent::Bytes(change));
    };
    let error = |url: String, cause| DownloadError {
        name: job.name.clone(),
        url,
        cause,
    };
    let mut part: Option<PartialFile<'_>> = None;
    let mut told: Option<DownloadError> = None;
    let mut begun = false;
    for place in &job.places {
        let address = match Address::of(place) {
            Ok(address) => address,
            Err(cause) => return Some(Err(error(place.mirror.to_string(), cause))),
        };
        let (mut complete, mut corrupt) = (false, 0);
        for attempt in 0..shared.options.attempts.max(1) {
            if attempt > 0 {
                tokio::time::sleep(shared.options.back_off * (1 << (attempt - 1).min(10))).await;
            }
            // In this order, so that who waits for a server keeps nobody from another.
            let host = shared.host(&address);
            let _host = host.acquire().await.ok()?;
            let _any = shared.all.acquire().await.ok()?;
            if !begun && stopping.load(Ordering::Relaxed) {
                return None;
            }
            begun = true;
            let part = match &mut part {
                Some(part) => part,
                None => match PartialFile::new(&shared.scratch, &progress) {
                    Ok(new) => part.insert(new),
                    Err(cause) => return Some(Err(error(address.shown(), cause))),
                },
            };
            let attempted = match &address {
                Address::Url { url, login } => {
                    shared
                        .http
                        .get(url, login.as_ref(), part, &job.expected)
                        .await
                }
                Address::Path(path) => copy(path, part, &job.expected).await,
            };
            let cause = match attempted {
                Ok(()) => {
                    complete = true;
                    break;
                }
                Err(cause) => cause,
            };
            let next = next(&cause);
            // What one place says of a file that another lacks is worth more.
            if told.is_none() || !matches!(cause, DownloadCause::Gone) {
                told = Some(error(address.shown(), cause));
            }
            match next {
                Next::Again => {}
                Next::FromTheStart if corrupt == 0 => corrupt += 1,
                Next::FromTheStart | Next::OtherPlace => break,
                Next::End => return told.map(Err),
            }
            if matches!(next, Next::FromTheStart)
                && let Err(cause) = part.reset()
            {
                return Some(Err(error(address.shown(), cause)));
            }
        }
        if let Some(mut got) = part.take() {
            if complete {
                let verified = got.into_verified(&job.expected);
                return Some(verified.map_err(|cause| error(address.shown(), cause)));
            }
            // Another place may have another version.
            if let Err(cause) = got.reset() {
                return Some(Err(error(address.shown(), cause)));
            }
            part = Some(got);
        }
    }
    Some(Err(told.unwrap_or_else(|| {
        error("any mirror".to_owned(), DownloadCause::Nowhere)
    })))
}

fn invalid(what: &'static str, text: &str) -> DownloadCause {
    DownloadCause::Invalid {
        what,
        text: text.chars().take(100).collect(),
    }
}

enum Address {
    Url {
        url: Url,
        login: Option<(String, String)>,
    },
    Path(PathBuf),
}

impl Address {
    fn of(place: &DownloadSource) -> Result<Address, DownloadCause> {
        if !is_below(&place.path) {
            return Err(invalid("path", &place.path));
        }
        if let Some(directory) = place.mirror.directory() {
            return Ok(Address::Path(directory.join(&place.path)));
        }
        let url =
            access::url(&place.mirror, &place.path).ok_or_else(|| invalid("path", &place.path))?;
        Ok(Address::Url {
            url,
            login: access::login(&place.mirror),
        })
    }

    fn shown(&self) -> String {
        match self {
            Address::Url { url, .. } => access::shown(url),
            Address::Path(path) => path.display().to_string(),
        }
    }
}

impl DownloaderShared {
    /// What bounds the files at a time from one server; a directory of this machine is one too.
    fn host(&self, address: &Address) -> Arc<Semaphore> {
        let name = match address {
            Address::Url { url, .. } => url.authority().to_owned(),
            Address::Path(_) => String::new(),
        };
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts
            .entry(name)
            .or_insert_with(|| Arc::new(Semaphore::new(self.options.per_host.max(1))))
            .clone()
    }
}
