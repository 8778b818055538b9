//! Finds out what a URL serves now: by the list of checksums that its publisher keeps, by what the server says of the file,
//! or, where neither tells its SHA-256, by getting it.
//! Knows lists, signatures and servers; who keeps the answer, and what was answered before, is the caller's knowledge.

use std::fs::File;
use std::io;

use impasto_stages::source::{SourceChecksum, SumsPlace};
use impasto_store::sha256::{Sha256, Sha256Reader};

use super::error::SourceLookupError;
use super::openpgp::{Keyring, SignatureError};
use super::sums::ChecksumList;
use crate::base::bounded;
use crate::net::{
    Checksum, Download, DownloadCause, DownloadError, Downloader, Expected, FileInfo, Place,
};

/// Bytes of a list of checksums, at most.
const MAX_SUMS: u64 = 16 << 20;

/// Bytes of the signatures beside a list, at most.
const MAX_SIGNATURES: u64 = 1 << 20;

/// Bytes of a file that is got to learn its checksum, at most.
const MAX_FILE: u64 = 1 << 40;

/// What signatures beside a list are called: the list's own name, and one of these.
const SIGNATURES: [&str; 4] = [".sign", ".gpg", ".asc", ".sig"];

/// A file whose checksum is wanted.
pub struct FileQuery<'q> {
    /// Where it may be, in the order to try.
    pub urls: &'q [String],
    pub checksum: Option<&'q SourceChecksum>,
    /// Armored keys by one of which the list of checksums must be signed; none where nobody need have.
    pub signed_by: &'q [String],
    /// What reads a file beside the recipe.
    pub read: &'q (dyn Fn(&str) -> io::Result<Vec<u8>> + Sync),
}

/// What was found out about a file before.
pub struct KnownFile<'k> {
    pub size: Option<u64>,
    /// When it had last changed then, in seconds since 1970, where the server said so.
    pub modified: Option<u64>,
    pub etag: Option<&'k str>,
    /// Its checksum as the list had it.
    pub listed: Option<&'k str>,
}

/// What a URL serves now.
#[derive(Debug)]
pub enum Found {
    /// What it served before, as far as can be told.
    Same,
    Other(FoundFile),
}

/// A file that is another one than before.
#[derive(Debug)]
pub struct FoundFile {
    /// What the server says of it.
    pub info: FileInfo,
    /// As the recipe or the list of checksums has it.
    pub checksum: Option<Checksum>,
    /// Fingerprint of the certificate that signed the list.
    pub signer: Option<String>,
}

/// Asks servers.
pub struct Resolver<'r> {
    pub downloader: &'r Downloader,
    /// Seconds since 1970.
    pub now: u64,
}

impl Resolver<'_> {
    /// Finds out whether a file is another one than before, without getting it.
    ///
    /// # Errors
    /// No server tells, or the list of checksums cannot be believed.
    pub fn look(
        &self,
        query: &FileQuery<'_>,
        before: Option<&KnownFile<'_>>,
    ) -> Result<Found, SourceLookupError> {
        let (checksum, signer) = match query.checksum {
            None => (None, None),
            Some(SourceChecksum::Sha512(digest)) => (Some(Checksum::Sha512(*digest)), None),
            Some(SourceChecksum::Listed(place)) => {
                let (checksum, signer) = self.listed(query, place)?;
                (Some(checksum), signer)
            }
        };
        if let (Some(checksum), Some(before)) = (checksum, before)
            && before.listed == Some(checksum.to_string().as_str())
        {
            return Ok(Found::Same);
        }
        let info = self
            .downloader
            .look(&download(query.urls, Expected::at_most(0))?);
        let info = match info {
            Ok(info) => info,
            // What the list says is enough; the file's date and size are only told.
            Err(error) if checksum.is_some() && !is_final(&error) => FileInfo::default(),
            Err(error) => return Err(error.into()),
        };
        if let (None, Some(before)) = (checksum, before)
            && is_same(&info, before)
        {
            return Ok(Found::Same);
        }
        Ok(Found::Other(FoundFile {
            info,
            checksum,
            signer,
        }))
    }

    /// Gets a file that was found, for its SHA-256. Gives that and the file, which is gone when it is closed.
    ///
    /// # Errors
    /// No place has it, or what came has another checksum.
    pub fn get(
        &self,
        urls: &[String],
        checksum: Option<Checksum>,
    ) -> Result<(Sha256, File), SourceLookupError> {
        let expected = match checksum {
            Some(checksum) => Expected::hashed(checksum, MAX_FILE),
            None => Expected::at_most(MAX_FILE),
        };
        let wanted = download(urls, expected)?;
        let mut file = self.open(wanted)?;
        let read = |source| SourceLookupError::Read {
            path: "what was downloaded".to_owned(),
            source,
        };
        let mut reader = Sha256Reader::new(&mut file);
        io::copy(&mut reader, &mut io::sink()).map_err(read)?;
        let sha256 = reader.finish();
        io::Seek::rewind(&mut file).map_err(read)?;
        Ok((sha256, file))
    }

    /// A file's checksum in a list, and who signed that.
    fn listed(
        &self,
        query: &FileQuery<'_>,
        place: &SumsPlace,
    ) -> Result<(Checksum, Option<String>), SourceLookupError> {
        let image = query.urls.first().map(String::as_str).unwrap_or_default();
        let image = image.split(['?', '#']).next().unwrap_or(image);
        let name = image.rsplit('/').next().unwrap_or(image);
        let (shown, path, list) = match place {
            SumsPlace::Beside(sums) => {
                let urls: Vec<_> = query.urls.iter().map(|url| beside(url, sums)).collect();
                // The list may lie above: `../SHA256SUMS` names files with their directories.
                let above = sums.matches("../").count();
                let names: Vec<_> = image.split('/').collect();
                let path = names[names.len().saturating_sub(above + 1)..].join("/");
                (shown(&urls)?, path, SumsList::Remote(urls))
            }
            SumsPlace::Url(url) => {
                let urls = vec![url.clone()];
                let dir = url.rsplit_once('/').map_or("", |(dir, _)| dir);
                let below = image
                    .strip_prefix(dir)
                    .and_then(|rest| rest.strip_prefix('/'));
                let path = below.unwrap_or(name).to_owned();
                (shown(&urls)?, path, SumsList::Remote(urls))
            }
            SumsPlace::Local(path) => {
                (path.clone(), name.to_owned(), SumsList::Local(path.clone()))
            }
        };
        let bytes = self.read(query, &list, "", MAX_SUMS)?;
        let (text, signer) = self.signed(query, &list, &shown, bytes)?;
        let sums = |source| SourceLookupError::Sums {
            place: shown.clone(),
            source,
        };
        let checksum = ChecksumList::parse(&text).and_then(|list| list.find(&path));
        Ok((checksum.map_err(sums)?, signer))
    }

    /// The text of a list, and who signed it, where somebody must have.
    fn signed(
        &self,
        query: &FileQuery<'_>,
        list: &SumsList,
        shown: &str,
        bytes: Vec<u8>,
    ) -> Result<(String, Option<String>), SourceLookupError> {
        let untrusted = |source| SourceLookupError::Signature {
            place: shown.to_owned(),
            source,
        };
        if query.signed_by.is_empty() {
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), None));
        }
        let keys = query.signed_by.join("\n");
        let keyring = Keyring::parse(keys.as_bytes(), "`signed_by`").map_err(untrusted)?;
        let (text, signer) = match keyring.verify_cleartext(&bytes, self.now) {
            Ok(verified) => (verified.text, verified.signer),
            Err(SignatureError::Unsigned) => {
                let signatures = self.signatures(query, list, shown)?;
                let verified = keyring.verify_detached(&bytes, &signatures, self.now);
                let verified = verified.map_err(untrusted)?;
                (verified.text, verified.signer)
            }
            Err(error) => return Err(untrusted(error)),
        };
        Ok((text, Some(signer)))
    }

    /// The signatures beside a list.
    fn signatures(
        &self,
        query: &FileQuery<'_>,
        list: &SumsList,
        shown: &str,
    ) -> Result<Vec<u8>, SourceLookupError> {
        for suffix in SIGNATURES {
            match self.read(query, list, suffix, MAX_SIGNATURES) {
                Ok(bytes) => return Ok(bytes),
                Err(SourceLookupError::Download(DownloadError {
                    cause: DownloadCause::Gone { .. },
                    ..
                })) => {}
                Err(SourceLookupError::Read { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let name = shown.rsplit('/').next().unwrap_or(shown);
        let tried = SIGNATURES.map(|suffix| format!("{name}{suffix}"));
        Err(SourceLookupError::NoSignature {
            place: shown.to_owned(),
            tried: tried.to_vec(),
        })
    }

    /// The bytes of a list, or of the file beside it whose name goes on with `suffix`.
    fn read(
        &self,
        query: &FileQuery<'_>,
        list: &SumsList,
        suffix: &str,
        limit: u64,
    ) -> Result<Vec<u8>, SourceLookupError> {
        match list {
            SumsList::Local(path) => {
                let path = format!("{path}{suffix}");
                (query.read)(&path).map_err(|source| SourceLookupError::Read { path, source })
            }
            SumsList::Remote(urls) => {
                let urls: Vec<_> = urls.iter().map(|url| suffixed(url, suffix)).collect();
                let file = self.open(download(&urls, Expected::at_most(limit))?)?;
                let mut bytes = Vec::new();
                match io::Read::read_to_end(&mut &file, &mut bytes) {
                    Ok(_) => Ok(bytes),
                    Err(source) => {
                        let path = shown(&urls)?;
                        Err(SourceLookupError::Read { path, source })
                    }
                }
            }
        }
    }

    fn open(&self, wanted: Download) -> Result<File, SourceLookupError> {
        let name = wanted.places.first().map(Place::shown).unwrap_or_default();
        let mut file = None;
        let got = self.downloader.get(
            vec![wanted],
            // The downloader removes it after the call; what is open stays.
            &mut |_, path| file = Some(bounded::open(path)),
            &mut |_, _| {},
        );
        if let Some((_, error)) = got.err().and_then(|failed| failed.into_iter().next()) {
            return Err(error.into());
        }
        let file = file.expect("BUG: neither a file nor an error");
        file.map_err(|source| SourceLookupError::Read { path: name, source })
    }
}

/// Where a list of checksums is.
enum SumsList {
    /// URLs, in the order to try.
    Remote(Vec<String>),
    /// Beside the recipe.
    Local(String),
}

/// Whether what a server says of a file now is what was said before. What nobody says makes no difference.
fn is_same(info: &FileInfo, before: &KnownFile<'_>) -> bool {
    let told = [(info.size, before.size), (info.modified, before.modified)];
    let differs = told
        .into_iter()
        .any(|pair| matches!(pair, (Some(now), Some(then)) if now != then));
    match (&info.etag, before.etag) {
        // An entity tag names one version; servers of one file agree on the time, but not always on that.
        (Some(now), Some(then)) if info.modified.is_none() => now == then && !differs,
        _ => !differs,
    }
}

/// Whether asking on is of no use.
fn is_final(error: &DownloadError) -> bool {
    matches!(
        error.cause,
        DownloadCause::Cancelled | DownloadCause::Offline | DownloadCause::RedirectHost { .. }
    )
}

/// A file that may be at several URLs.
fn download(urls: &[String], expected: Expected) -> Result<Download, SourceLookupError> {
    let place = |url: &String| {
        Place::url(url).ok_or_else(|| SourceLookupError::Address {
            // What stands before may hold a password.
            url: url.rsplit('@').next().unwrap_or(url).to_owned(),
        })
    };
    Ok(Download {
        name: None,
        expected,
        places: urls.iter().map(place).collect::<Result<_, _>>()?,
    })
}

/// The first of some URLs, without a password.
fn shown(urls: &[String]) -> Result<String, SourceLookupError> {
    let wanted = download(urls, Expected::at_most(0))?;
    Ok(wanted.places.first().map(Place::shown).unwrap_or_default())
}

/// The URL of a name beside a file, with `../` for what lies above.
fn beside(url: &str, name: &str) -> String {
    let (url, _) = url.split_once(['?', '#']).unwrap_or((url, ""));
    let mut dir = url.rsplit_once('/').map_or(url, |(dir, _)| dir);
    let mut rest = name;
    while let Some(above) = rest.strip_prefix("../") {
        (rest, dir) = (above, dir.rsplit_once('/').map_or(dir, |(dir, _)| dir));
    }
    format!("{dir}/{rest}")
}

/// A URL whose path goes on with `suffix`.
fn suffixed(url: &str, suffix: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    format!("{}{suffix}{}", &url[..end], &url[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_lies_beside_its_file_or_above_it() {
        let image = "https://h/cloud/13/latest/a.qcow2?x=1";
        assert_eq!(
            beside(image, "SHA512SUMS"),
            "https://h/cloud/13/latest/SHA512SUMS"
        );
        assert_eq!(
            beside(image, "../SHA512SUMS"),
            "https://h/cloud/13/SHA512SUMS"
        );
        assert_eq!(suffixed("https://h/S?x", ".sign"), "https://h/S.sign?x");
    }

    #[test]
    fn a_file_is_another_where_the_server_says_so() {
        let known = |etag, modified| KnownFile {
            size: Some(5),
            modified,
            etag,
            listed: None,
        };
        let info = |etag: Option<&str>, modified| FileInfo {
            size: Some(5),
            modified,
            etag: etag.map(str::to_owned),
        };
        assert!(is_same(&info(None, Some(1)), &known(None, Some(1))));
        assert!(!is_same(&info(None, Some(2)), &known(None, Some(1))));
        assert!(!is_same(
            &info(Some("\"b\""), None),
            &known(Some("\"a\""), None)
        ));
        // Two servers of one mirror.
        assert!(is_same(
            &info(Some("\"b\""), Some(1)),
            &known(Some("\"a\""), Some(1))
        ));
        let longer = FileInfo {
            size: Some(6),
            ..info(None, None)
        };
        assert!(!is_same(&longer, &known(None, None)));
    }
}
