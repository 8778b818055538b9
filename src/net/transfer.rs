//! One attempt to get one file from one place, on top of what earlier attempts have left of it.
//! Knows HTTP and checksums; does not know when to try again.

use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::time::Duration;

use impasto_store::sha256::{Sha256, Sha256Writer, Sha512, Sha512Writer};
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE,
};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use tempfile::NamedTempFile;

use super::error::DownloadCause;
use super::place::{Login, shown};
use crate::base::bounded;
use crate::base::io::IoError;
use crate::base::time;

/// Redirections that are followed.
const REDIRECTS: u32 = 5;

/// Bytes that are read of a file of this machine at once.
const BLOCK: usize = 256 << 10;

/// A digest by which a file is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl std::fmt::Display for Checksum {
    /// As recipes write it: `sha256:` and digits.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Checksum::Sha256(digest) => write!(f, "sha256:{digest}"),
            Checksum::Sha512(digest) => write!(f, "sha512:{digest}"),
        }
    }
}

/// Computes the checksum of what comes.
#[derive(Clone)]
enum ChecksumWriter {
    Sha256(Sha256Writer),
    Sha512(Sha512Writer),
}

impl ChecksumWriter {
    /// One for what is expected.
    fn new(expected: &Expected) -> ChecksumWriter {
        match expected.checksum {
            Some(Checksum::Sha512(_)) => ChecksumWriter::Sha512(Sha512Writer::default()),
            Some(Checksum::Sha256(_)) | None => ChecksumWriter::Sha256(Sha256Writer::default()),
        }
    }

    /// Forgets what came.
    fn restart(&mut self) {
        match self {
            ChecksumWriter::Sha256(hasher) => *hasher = Sha256Writer::default(),
            ChecksumWriter::Sha512(hasher) => *hasher = Sha512Writer::default(),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            ChecksumWriter::Sha256(hasher) => hasher.update(bytes),
            ChecksumWriter::Sha512(hasher) => hasher.update(bytes),
        }
    }

    fn finish(self) -> Checksum {
        match self {
            ChecksumWriter::Sha256(hasher) => Checksum::Sha256(hasher.finish()),
            ChecksumWriter::Sha512(hasher) => Checksum::Sha512(hasher.finish()),
        }
    }
}

/// What a file must be.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Bytes, where that is known.
    pub(super) size: Option<u64>,
    /// Bytes, at most.
    limit: u64,
    checksum: Option<Checksum>,
    is_page: bool,
}

impl Expected {
    /// Known to the byte.
    pub fn exact(size: u64, sha256: Sha256) -> Expected {
        Expected {
            size: Some(size),
            limit: size,
            checksum: Some(Checksum::Sha256(sha256)),
            is_page: false,
        }
    }

    /// Known by its checksum alone; no more than `limit` bytes are taken.
    pub fn hashed(checksum: Checksum, limit: u64) -> Expected {
        Expected {
            size: None,
            limit,
            checksum: Some(checksum),
            is_page: false,
        }
    }

    /// Checked by whoever asked, who takes no more bytes than these.
    pub fn at_most(limit: u64) -> Expected {
        Expected {
            size: None,
            limit,
            checksum: None,
            is_page: false,
        }
    }

    /// A web page, checked by whoever asked, who takes no more bytes than these.
    pub fn page(limit: u64) -> Expected {
        Expected {
            is_page: true,
            ..Expected::at_most(limit)
        }
    }

    /// Whether it may be a web page: only where nothing but the checksum decides, or where one was asked for. What has a
    /// size is a package or an index.
    fn may_be_html(&self) -> bool {
        self.is_page || self.size.is_none() && self.checksum.is_some()
    }
}

/// What is told while a file comes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Progress {
    /// So many more bytes are there; fewer where they have to come again.
    Bytes(i64),
    /// So many more bytes are to come than was known.
    Announced(i64),
}

/// A file that is not verified: what has come of it.
pub(super) struct PartialFile<'a> {
    file: NamedTempFile,
    len: u64,
    hasher: ChecksumWriter,
    /// What names the version that the server has, so that a resumed download is of the same one.
    validator: Option<String>,
    /// Whether it came in several parts.
    resumed: bool,
    /// Whether it is a web page, as far as can be told.
    html: bool,
    /// Bytes in all as servers announce them, where it is not known.
    announced: u64,
    progress: &'a (dyn Fn(Progress) + Send + Sync),
}

impl<'a> PartialFile<'a> {
    pub(super) fn new(
        dir: &Path,
        expected: &Expected,
        progress: &'a (dyn Fn(Progress) + Send + Sync),
    ) -> Result<PartialFile<'a>, DownloadCause> {
        let file = tempfile::Builder::new()
            .prefix("download-")
            .tempfile_in(dir);
        let file = file.map_err(IoError::at::<DownloadCause>("write", dir))?;
        Ok(PartialFile {
            file,
            len: 0,
            hasher: ChecksumWriter::new(expected),
            validator: None,
            resumed: false,
            html: false,
            announced: 0,
            progress,
        })
    }

    /// Bytes that have come.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether it came in several parts, perhaps of several versions.
    pub(super) fn is_resumed(&self) -> bool {
        self.resumed
    }

    pub(super) fn reset(&mut self) -> Result<(), DownloadCause> {
        (self.validator, self.resumed, self.html) = (None, false, false);
        if self.len == 0 {
            return Ok(());
        }
        (self.progress)(Progress::Bytes(-signed(self.len)));
        self.len = 0;
        self.hasher.restart();
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
        (self.progress)(Progress::Bytes(signed(bytes.len() as u64)));
        Ok(())
    }

    /// Tells how long a file of unknown size is going to be.
    fn announce(&mut self, size: u64) {
        (self.progress)(Progress::Announced(signed(size) - signed(self.announced)));
        self.announced = size;
    }

    fn write_error(&self, source: std::io::Error) -> DownloadCause {
        IoError::at("write", self.file.path())(source)
    }

    fn verify(&self, expected: &Expected) -> Result<(), DownloadCause> {
        if let Some(size) = expected.size.filter(|size| self.len < *size) {
            let received = self.len;
            return Err(DownloadCause::TooShort { received, size });
        }
        let Some(checksum) = expected.checksum else {
            return Ok(());
        };
        let got = self.hasher.clone().finish();
        if got == checksum {
            return Ok(());
        }
        Err(DownloadCause::Checksum {
            expected: checksum,
            got,
            html: self.html,
        })
    }

    /// Whether all of it has come, whatever the server says.
    fn is_whole(&self, expected: &Expected) -> bool {
        expected.checksum.is_some() && self.verify(expected).is_ok()
    }

    /// The file. Only what was verified is handed out.
    pub(super) fn into_verified(self, expected: &Expected) -> Result<NamedTempFile, DownloadCause> {
        self.verify(expected).map(|()| self.file)
    }
}

/// Where a server may send those who ask it. From https to http nobody follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Redirects {
    /// Anywhere: mirrors hand on to others, and what comes is known by its hash.
    #[default]
    Anywhere,
    /// To the same host, whatever the port, and to these: `cdn.example.org`, or `*.example.org` for all hosts below it.
    Hosts(Vec<String>),
}

impl Redirects {
    /// Whether what was asked of a host may come from another.
    fn allow(&self, asked: Option<&str>, host: &str) -> bool {
        let Redirects::Hosts(hosts) = self else {
            return true;
        };
        let is_listed = |known: &String| match known.strip_prefix('*') {
            Some(end) => {
                host.len() > end.len() && host.to_lowercase().ends_with(&end.to_lowercase())
            }
            None => known.eq_ignore_ascii_case(host),
        };
        asked == Some(host) || hosts.iter().any(is_listed)
    }
}

/// What is known of a file without getting it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileInfo {
    /// Bytes.
    pub size: Option<u64>,
    /// When it last changed, in seconds since 1970.
    pub modified: Option<u64>,
    /// What the server calls this version of it.
    pub etag: Option<String>,
}

impl FileInfo {
    fn of(headers: &HeaderMap) -> FileInfo {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        FileInfo {
            size: text(CONTENT_LENGTH).and_then(|size| size.trim().parse().ok()),
            modified: text(LAST_MODIFIED).and_then(time::parse),
            etag: text(ETAG).map(str::to_owned),
        }
    }

    /// What is known of a file of this machine.
    pub(super) fn of_path(path: &Path) -> Result<FileInfo, DownloadCause> {
        let read = |source| DownloadCause::Read { source };
        let stat = bounded::open(path)
            .and_then(|file| file.metadata())
            .map_err(read)?;
        Ok(FileInfo {
            size: Some(stat.len()),
            modified: u64::try_from(std::os::unix::fs::MetadataExt::mtime(&stat)).ok(),
            etag: None,
        })
    }
}

/// How a server is asked.
#[derive(Clone)]
pub(super) struct Http {
    pub(super) client: reqwest::Client,
    /// A server that is silent for so long has broken off.
    pub(super) stall: Duration,
    pub(super) redirects: Redirects,
}

impl Http {
    /// Gets a file, or the rest of it. `login` goes to the server of `url` and to no other.
    pub(super) async fn get(
        &self,
        url: &Url,
        login: Option<&Login>,
        part: &mut PartialFile<'_>,
        expected: &Expected,
    ) -> Result<(), DownloadCause> {
        let mut response = self.ask(url, login, part, expected).await?;
        let status = response.status();
        match status {
            StatusCode::PARTIAL_CONTENT if part.len > 0 => {
                if !continues(response.headers(), part.len, expected.limit) {
                    part.reset()?;
                    return Err(broken_off(
                        0,
                        "the server sent a different range than requested",
                    ));
                }
                part.resumed = true;
            }
            StatusCode::RANGE_NOT_SATISFIABLE if part.len > 0 => {
                part.reset()?;
                return Err(broken_off(0, "the server does not have that range"));
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                return Err(DownloadCause::Gone {
                    code: Some(status.as_u16()),
                });
            }
            // The whole of it, whether or not a part was asked for.
            StatusCode::OK => part.reset()?,
            _ => {
                return Err(DownloadCause::Status {
                    code: status.as_u16(),
                });
            }
        }
        part.validator = validator(response.headers());
        let html = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
        part.html |= html;
        if html && !expected.may_be_html() {
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
                Ok(Err(_)) if part.is_whole(expected) => return Ok(()),
                Ok(Err(source)) => return Err(broken_off(part.len, source.without_url())),
            };
            if std::mem::take(&mut first) {
                part.html |= chunk.as_ref().is_some_and(|chunk| looks_like_html(chunk));
                if part.html && !expected.may_be_html() {
                    return Err(DownloadCause::WebPage);
                }
                check_announced(announced, expected)?;
                if let (Some(size), None) = (announced, expected.size) {
                    part.announce(size);
                }
            }
            let Some(chunk) = chunk else {
                return part.verify(expected);
            };
            part.append(&chunk, expected.limit)?;
        }
    }

    /// Asks what a file is like, without getting it.
    pub(super) async fn look(
        &self,
        url: &Url,
        login: Option<&Login>,
    ) -> Result<FileInfo, DownloadCause> {
        let fresh = |request: RequestBuilder| request.header(CACHE_CONTROL, "max-age=0");
        let mut response = self.follow_up(Method::HEAD, url, login, 0, &fresh).await?;
        // Some servers answer nothing but GET. What would come is not read.
        if matches!(response.status().as_u16(), 400 | 403 | 405 | 501) {
            response = self.follow_up(Method::GET, url, login, 0, &fresh).await?;
        }
        match response.status() {
            StatusCode::OK => Ok(FileInfo::of(response.headers())),
            status @ (StatusCode::NOT_FOUND | StatusCode::GONE) => Err(DownloadCause::Gone {
                code: Some(status.as_u16()),
            }),
            status => Err(DownloadCause::Status {
                code: status.as_u16(),
            }),
        }
    }

    /// Asks for a file, or the rest of it.
    async fn ask(
        &self,
        url: &Url,
        login: Option<&Login>,
        part: &PartialFile<'_>,
        expected: &Expected,
    ) -> Result<Response, DownloadCause> {
        let with_range = |mut request: RequestBuilder| {
            if expected.checksum.is_none() {
                // It changes under its name, so a proxy shall ask whether it has.
                request = request.header(CACHE_CONTROL, "max-age=0");
            }
            if part.len > 0 {
                request = request.header(RANGE, format!("bytes={}-", part.len));
                if let Some(validator) = &part.validator {
                    request = request.header(IF_RANGE, validator);
                }
            }
            request
        };
        self.follow_up(Method::GET, url, login, part.len, &with_range)
            .await
    }

    /// Asks until the answer is no redirection. `received` are the bytes that have come before.
    async fn follow_up(
        &self,
        method: Method,
        url: &Url,
        login: Option<&Login>,
        received: u64,
        prepare: &(dyn Fn(RequestBuilder) -> RequestBuilder + Sync),
    ) -> Result<Response, DownloadCause> {
        let mut target = url.clone();
        for _ in 0..=REDIRECTS {
            let mut request = self
                .client
                .request(method.clone(), target.clone())
                .header(ACCEPT_ENCODING, "identity");
            match login.filter(|_| target.origin() == url.origin()) {
                Some(Login::Password { user, password }) => {
                    request = request.basic_auth(user, Some(password));
                }
                Some(Login::Header(header)) => request = request.header(AUTHORIZATION, header),
                None => {}
            }
            let request = prepare(request);
            let response = match tokio::time::timeout(self.stall, request.send()).await {
                Err(_) => return Err(DownloadCause::Stalled { after: self.stall }),
                Ok(Err(source)) if source.is_connect() => {
                    return Err(DownloadCause::Unreachable {
                        source: source.without_url().into(),
                    });
                }
                Ok(Err(source)) => return Err(broken_off(received, source.without_url())),
                Ok(Ok(response)) => response,
            };
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            target = follow(&target, response.headers())?;
            let host = target.host_str().unwrap_or_default();
            if !self.redirects.allow(url.host_str(), host) {
                return Err(DownloadCause::RedirectHost {
                    to: shown(&target),
                    host: host.to_owned(),
                });
            }
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
        return refuse(shown(&to), "which is not an http or https URL");
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
    match (announced, expected.size) {
        (Some(announced), _) if announced > expected.limit => Err(DownloadCause::TooLong {
            size: expected.limit,
        }),
        (Some(received), Some(size)) if received < size => {
            Err(DownloadCause::TooShort { received, size })
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

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Copies a file of this machine.
pub(super) async fn copy(
    path: &Path,
    part: &mut PartialFile<'_>,
    expected: &Expected,
) -> Result<(), DownloadCause> {
    part.reset()?;
    let read = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound
        | std::io::ErrorKind::NotADirectory
        | std::io::ErrorKind::IsADirectory => DownloadCause::Gone { code: None },
        _ => DownloadCause::Read { source },
    };
    let mut file = bounded::open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    check_announced(Some(metadata.len()), expected)?;
    let mut block = vec![0; BLOCK];
    loop {
        match file.read(&mut block).map_err(read)? {
            0 => return part.verify(expected),
            len => part.append(&block[..len], expected.limit)?,
        }
        // Others work on this thread too, and the run may be stopped.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_says_which_hosts_it_is_sent_to() {
        let hosts = Redirects::Hosts(vec!["cdn.example.org".into(), "*.mirrors.example".into()]);
        let allow = |host| hosts.allow(Some("images.example.org"), host);
        for host in [
            "images.example.org",
            "cdn.example.org",
            "a.mirrors.example",
            "A.B.Mirrors.example",
        ] {
            assert!(allow(host), "{host}");
        }
        for host in [
            "example.org",
            "evil.org",
            "mirrors.example",
            "xcdn.example.org",
            "cdn.example.org.evil.org",
        ] {
            assert!(!allow(host), "{host}");
        }
        assert!(Redirects::Anywhere.allow(None, "evil.org"));
    }
}
