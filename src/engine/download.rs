//! Gets a file by HTTP and checks it while it comes.
//! Knows URLs and checksums; knows no store and no stage.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use impasto_store::sha256::{Sha256, Sha256Writer};

use crate::base::cancel::CancelToken;

/// A file that could not be got.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server could not be asked, or broke off.
    #[error("cannot get {url}")]
    Http {
        url: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server said no.
    #[error("cannot get {url}: the server responded with {status}")]
    Status { url: String, status: String },
    /// It is another file than the checksum names.
    #[error("{url} has the wrong checksum: expected sha256:{expected}, got sha256:{got}")]
    Checksum {
        url: String,
        /// What the recipe says.
        expected: Sha256,
        got: Sha256,
    },
    /// It could not be written.
    #[error("cannot save the download of {url}")]
    Write { url: String, source: std::io::Error },
    /// It took too long.
    #[error("downloading {url} took longer than {} s", after.as_secs())]
    TimedOut { url: String, after: Duration },
    /// The run was stopped.
    #[error("cancelled")]
    Cancelled,
}

/// A server that is silent for so long has broken off.
const SILENCE: Duration = Duration::from_secs(60);

/// Gets `url` into `out` and checks its SHA-256. Reports progress as (bytes so far, bytes in all where known).
///
/// # Errors
/// The server fails, the file is another one, it cannot be written, it takes longer than `timeout`, or `cancel`.
pub fn fetch(
    url: &str,
    sha256: Sha256,
    out: &mut File,
    timeout: Option<Duration>,
    cancel: &CancelToken,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<u64, FetchError> {
    let address = url;
    let url = without_password(url);
    let http = |source: reqwest::Error| FetchError::Http {
        url: url.clone(),
        source: source.without_url().into(),
    };
    let write = |source| FetchError::Write {
        url: url.clone(),
        source,
    };
    let work = async {
        let client = client().map_err(http)?;
        let mut response = client.get(address).send().await.map_err(http)?;
        if !response.status().is_success() {
            return Err(FetchError::Status {
                url: url.clone(),
                status: response.status().to_string(),
            });
        }
        let total = response.content_length();
        let mut hasher = Sha256Writer::default();
        let mut size = 0;
        while let Some(bytes) = response.chunk().await.map_err(http)? {
            hasher.update(&bytes);
            out.write_all(&bytes).map_err(write)?;
            size += bytes.len() as u64;
            progress(size, total);
        }
        let got = hasher.finish();
        if got != sha256 {
            return Err(FetchError::Checksum {
                url: url.clone(),
                expected: sha256,
                got,
            });
        }
        Ok(size)
    };
    let cancelled = async {
        while !cancel.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let expired = async {
        match timeout {
            Some(after) => {
                tokio::time::sleep(after).await;
                after
            }
            None => std::future::pending().await,
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(write)?;
    runtime.block_on(async {
        tokio::select! {
            result = work => result,
            () = cancelled => Err(FetchError::Cancelled),
            after = expired => Err(FetchError::TimedOut { url: url.clone(), after }),
        }
    })
}

/// A URL as it may be shown: without user and password.
fn without_password(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            format!(
                "{scheme}://{}{path}",
                host.rsplit('@').next().unwrap_or(host)
            )
        }
        None => url.to_owned(),
    }
}

fn client() -> Result<reqwest::Client, reqwest::Error> {
    let roots = rustls::RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("BUG: ring knows the default protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .use_preconfigured_tls(tls)
        .connect_timeout(Duration::from_secs(30))
        .read_timeout(SILENCE)
        .user_agent(concat!("impasto/", env!("CARGO_PKG_VERSION")))
        .build()
}
