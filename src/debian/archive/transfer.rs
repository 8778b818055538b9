//! One attempt to get one file from one place, on top of what earlier attempts have left of it.
//! Knows HTTP and checksums; does not know when to try again.

use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::time::Duration;

use impasto_store::sha256::{Sha256, Sha256Writer};
use reqwest::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, IF_RANGE,
    LAST_MODIFIED, LOCATION, RANGE,
};
use reqwest::{Response, StatusCode, Url};
use tempfile::NamedTempFile;

use super::access::shown;
use super::error::DownloadCause;

use crate::base::bounded;

/// Redirections that are followed.
const REDIRECTS: u32 = 5;

/// Bytes that are read of a directory's file at once.
const BLOCK: usize = 256 << 10;

/// What a file must be.
#[derive(Debug, Clone)]
pub(super) enum Expected {
    /// Known to the byte.
    Exact { size: u64, sha256: Sha256 },
    /// Checked by whoever asked, who takes no more bytes than these.
    AtMost(u64),
}

impl Expected {
    fn limit(&self) -> u64 {
        match self {
            Expected::Exact { size, .. } => *size,
            Expected::AtMost(limit) => *limit,
        }
    }
}

/// A file that is not verified: what has come of it.
pub(super) struct PartialFile<'a> {
    file: NamedTempFile,
    len: u64,
    hasher: Sha256Writer,
    /// What names the version that the server has, so that a resumed download is of the same one.
    validator: Option<String>,
    /// Told of every change of `len`.
    progress: &'a (dyn Fn(i64) + Send + Sync),
}

impl<'a> PartialFile<'a> {
    pub(super) fn new(
        dir: &Path,
        progress: &'a (dyn Fn(i64) + Send + Sync),
    ) -> Result<PartialFile<'a>, DownloadCause> {
        let file = tempfile::Builder::new()
            .prefix("download-")
            .tempfile_in(dir);
        let file = file.map_err(|source| DownloadCause::Write {
            path: dir.to_owned(),
            source,
        })?;
        Ok(PartialFile {
            file,
            len: 0,
            hasher: Sha256Writer::default(),
            validator: None,
            progress,
        })
    }

    pub(super) fn reset(&mut self) -> Result<(), DownloadCause> {
        self.validator = None;
        if self.len == 0 {
            return Ok(());
        }
        (self.progress)(-i64::try_from(self.len).unwrap_or(i64::MAX));
        self.len = 0;
        self.hasher = Sha256Writer::default();
        let file = self.file.as_file_mut();
        file.set_len(0)
            .and_then(|()| file.rewind())
            .map_err(|source| self.write_error(source))
    }

    fn append(&mut self, bytes: &[u8], limit: u64) -> Result<(), DownloadCause> {
        let len = self.len.saturating_add(bytes.len() as u64);
        if len > limit {
            return Err(DownloadCause::TooLong { size: limit });
        }
        self.file
            .as_file_mut()
            .write_all(bytes)
            .map_err(|source| self.write_error(source))?;
        self.hasher.update(bytes);
        self.len = len;
        (self.progress)(i64::try_from(bytes.len()).unwrap_or(i64::MAX));
        Ok(())
    }

    fn write_error(&self, source: std::io::Error) -> DownloadCause {
        DownloadCause::Write {
            path: self.file.path().to_owned(),
            source,
        }
    }

    fn verify(&self, expected: &Expected) -> Result<(), DownloadCause> {
        let Expected::Exact { size, sha256 } = expected else {
            return Ok(());
        };
        if self.len < *size {
            return Err(DownloadCause::TooShort {
                received: self.len,
                size: *size,
            });
        }
        let got = self.hasher.clone().finish();
        if got == *sha256 {
            Ok(())
        } else {
            Err(DownloadCause::Checksum {
                expected: *sha256,
                got,
            })
        }
    }

    /// The file. Only what was verified is handed out.
    pub(super) fn into_verified(self, expected: &Expected) -> Result<NamedTempFile, DownloadCause> {
        self.verify(expected).map(|()| self.file)
    }
}

/// How a server is asked.
#[derive(Clone)]
pub(super) struct Http {
    pub(super) client: reqwest::Client,
    /// A server that is silent for so long has broken off.
    pub(super) stall: Duration,
}

impl Http {
    /// Gets a file, or the rest of it. `login` goes to the server of `url` and to no other.
    pub(super) async fn get(
        &self,
        url: &Url,
        login: Option<&(String, String)>,
        part: &mut PartialFile<'_>,
        expected: &Expected,
    ) -> Result<(), DownloadCause> {
        let mut response = self.ask(url, login, part, expected).await?;
        let status = response.status();
        match status {
            StatusCode::PARTIAL_CONTENT if part.len > 0 => {
                if !continues(response.headers(), part.len, expected.limit()) {
                    part.reset()?;
                    return Err(broken_off(
                        0,
                        "the server sent a different range than requested",
                    ));
                }
            }
            StatusCode::RANGE_NOT_SATISFIABLE if part.len > 0 => {
                part.reset()?;
                return Err(broken_off(0, "the server does not have that range"));
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => return Err(DownloadCause::Gone),
            // The whole of it, whether or not a part was asked for.
            StatusCode::OK => part.reset()?,
            _ => {
                let reason = status.canonical_reason().unwrap_or("");
                return Err(DownloadCause::Status {
                    code: status.as_u16(),
                    reason,
                });
            }
        }
        part.validator = validator(response.headers());
        let html = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
        if html {
            return Err(DownloadCause::WebPage);
        }
        let announced = response
            .content_length()
            .map(|rest| rest.saturating_add(part.len));
        let mut first = part.len == 0;
        loop {
            let chunk = match tokio::time::timeout(self.stall, response.chunk()).await {
                Err(_) => return Err(DownloadCause::Stalled { after: self.stall }),
                Ok(Ok(chunk)) => chunk,
                // What comes behind the last byte does not matter.
                Ok(Err(_)) if matches!(expected, Expected::Exact { size, .. } if *size == part.len) => {
                    None
                }
                Ok(Err(source)) => return Err(broken_off(part.len, source.without_url())),
            };
            if std::mem::take(&mut first) {
                if chunk.as_ref().is_some_and(|chunk| looks_like_html(chunk)) {
                    return Err(DownloadCause::WebPage);
                }
                check_announced(announced, expected)?;
            }
            let Some(chunk) = chunk else {
                return part.verify(expected);
            };
            part.append(&chunk, expected.limit())?;
        }
    }

    /// Asks until the answer is no redirection.
    async fn ask(
        &self,
        url: &Url,
        login: Option<&(String, String)>,
        part: &PartialFile<'_>,
        expected: &Expected,
    ) -> Result<Response, DownloadCause> {
        let mut target = url.clone();
        for _ in 0..=REDIRECTS {
            let mut request = self
                .client
                .get(target.clone())
                .header(ACCEPT_ENCODING, "identity");
            if let (Some((user, password)), true) = (login, target.origin() == url.origin()) {
                request = request.basic_auth(user, Some(password));
            }
            if matches!(expected, Expected::AtMost(_)) {
                // It changes under its name, so a proxy shall ask whether it has.
                request = request.header(CACHE_CONTROL, "max-age=0");
            }
            if part.len > 0 {
                request = request.header(RANGE, format!("bytes={}-", part.len));
                if let Some(validator) = &part.validator {
                    request = request.header(IF_RANGE, validator);
                }
            }
            let response = match tokio::time::timeout(self.stall, request.send()).await {
                Err(_) => return Err(DownloadCause::Stalled { after: self.stall }),
                Ok(Err(source)) if source.is_connect() => {
                    return Err(DownloadCause::Unreachable {
                        source: source.without_url().into(),
                    });
                }
                Ok(Err(source)) => return Err(broken_off(part.len, source.without_url())),
                Ok(Ok(response)) => response,
            };
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            target = follow(&target, response.headers())?;
        }
        Err(DownloadCause::Redirects { limit: REDIRECTS })
    }
}

/// Where a redirection leads.
fn follow(from: &Url, headers: &HeaderMap) -> Result<Url, DownloadCause> {
    let refuse = |to: String, why| Err(DownloadCause::Redirect { to, why });
    let location = headers
        .get(LOCATION)
        .and_then(|location| location.to_str().ok())
        .unwrap_or_default();
    let Ok(mut to) = from.join(location) else {
        return refuse("nowhere".to_owned(), "which is not a URL");
    };
    if location.is_empty() || !to.has_host() || !matches!(to.scheme(), "http" | "https") {
        return refuse(shown(&to), "which is not a valid mirror");
    }
    if from.scheme() == "https" && to.scheme() == "http" {
        return refuse(shown(&to), "which is not encrypted");
    }
    // A login that the server made up would be sent on.
    let _ = (to.set_username(""), to.set_password(None));
    Ok(to)
}

/// Whether a partial answer goes on where we are: `bytes FIRST-LAST/TOTAL`.
fn continues(headers: &HeaderMap, len: u64, size: u64) -> bool {
    let range = headers
        .get(CONTENT_RANGE)
        .and_then(|range| range.to_str().ok());
    let Some((first, rest)) =
        range.and_then(|range| range.trim().strip_prefix("bytes ")?.split_once('-'))
    else {
        return false;
    };
    let total = rest.split_once('/').map_or("*", |(_, total)| total);
    first.trim().parse() == Ok(len) && total.parse().is_ok_and(|total: u64| total <= size)
}

/// An entity tag that names bytes, else the time of the last change.
fn validator(headers: &HeaderMap) -> Option<String> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    text(ETAG)
        .filter(|tag| tag.starts_with('"'))
        .or_else(|| text(LAST_MODIFIED))
}

fn check_announced(announced: Option<u64>, expected: &Expected) -> Result<(), DownloadCause> {
    match (announced, expected) {
        (Some(announced), _) if announced > expected.limit() => Err(DownloadCause::TooLong {
            size: expected.limit(),
        }),
        (Some(received), Expected::Exact { size, .. }) if received < *size => {
            Err(DownloadCause::TooShort {
                received,
                size: *size,
            })
        }
        _ => Ok(()),
    }
}

fn looks_like_html(bytes: &[u8]) -> bool {
    let start = bytes.trim_ascii_start();
    [&b"<!doctype html"[..], b"<html"].iter().any(|tag| {
        start
            .get(..tag.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(tag))
    })
}

fn broken_off(
    received: u64,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> DownloadCause {
    DownloadCause::BrokenOff {
        received,
        source: source.into(),
    }
}

/// Copies a file of a directory that is a mirror.
pub(super) async fn copy(
    path: &Path,
    part: &mut PartialFile<'_>,
    expected: &Expected,
) -> Result<(), DownloadCause> {
    part.reset()?;
    let read = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound
        | std::io::ErrorKind::NotADirectory
        | std::io::ErrorKind::IsADirectory => DownloadCause::Gone,
        _ => DownloadCause::Read { source },
    };
    let mut file = bounded::open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    check_announced(Some(metadata.len()), expected)?;
    let mut block = vec![0; BLOCK];
    loop {
        match file.read(&mut block).map_err(read)? {
            0 => return part.verify(expected),
            len => part.append(&block[..len], expected.limit())?,
        }
        // Others work on this thread too, and the run may be stopped.
        tokio::task::yield_now().await;
    }
}
