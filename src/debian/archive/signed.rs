//! Gets the Release of a source, signed by whom the source trusts.
//! Knows where the signature is: within the file, or beside it.

use super::client::{self, Client, DownloadSource};
use super::error::ArchiveError;
use super::release::Release;
use super::{ArchiveSource, Trust};
use crate::base::bounded;
use crate::debian::mirror::Mirror;
use crate::net::{DownloadCause, DownloadError, Expected};
use crate::source::{Cleartext, Keyring, SignatureError, Verified};

/// Bytes of a signed file, at most: Debian's own has 150 kB.
const MAX_RELEASE: u64 = 16 << 20;

/// Bytes of the signatures beside a file, at most.
const MAX_SIGNATURES: u64 = 1 << 20;

impl Client {
    /// Gets the Release of an archive and checks it, at the time `now` (seconds since 1970).
    ///
    /// # Errors
    /// No mirror of the source has one that is signed by a trusted key, is in time, and is of the suite. Of several
    /// mirrors the first reason is given.
    pub fn release(&self, source: &ArchiveSource, now: u64) -> Result<Release, ArchiveError> {
        let keyring =
            match &source.trust {
                Trust::Unsigned => None,
                Trust::Keys { keys, place } => Some(Keyring::parse(keys, place).map_err(
                    |error| ArchiveError::Signature {
                        archive: source.name.clone(),
                        url: place.clone(),
                        source: error,
                    },
                )?),
            };
        let mut first: Option<ArchiveError> = None;
        for base in &source.bases {
            let error = match self.release_at(source, base, keyring.as_ref(), now) {
                Ok(release) => return Ok(release),
                Err(error) => error,
            };
            if is_cancelled(&error) {
                return Err(error);
            }
            if first.as_ref().is_none_or(is_gone) {
                first = Some(error);
            }
        }
        Err(first.unwrap_or_else(|| {
            let (name, url) = (Some("InRelease".to_owned()), "any mirror".to_owned());
            download(
                source,
                DownloadError {
                    name,
                    url,
                    cause: DownloadCause::Nowhere,
                },
            )
        }))
    }

    fn release_at(
        &self,
        source: &ArchiveSource,
        base: &Mirror,
        keyring: Option<&Keyring>,
        now: u64,
    ) -> Result<Release, ArchiveError> {
        let (path, verified) = match self.small(source, base, "InRelease", MAX_RELEASE) {
            Ok(bytes) => ("InRelease", clear_signed(&bytes, keyring, now)),
            Err(error) if matches!(error.cause, DownloadCause::Gone { .. }) => {
                let text = match self.small(source, base, "Release", MAX_RELEASE) {
                    // The file that should be there first is the one to tell of.
                    Err(other) if matches!(other.cause, DownloadCause::Gone { .. }) => {
                        return Err(download(source, error));
                    }
                    text => text.map_err(|error| download(source, error))?,
                };
                ("Release", self.beside(source, base, text, keyring, now)?)
            }
            Err(error) => return Err(download(source, error)),
        };
        let (archive, url) = (source.name.clone(), format!("{base}/{}", source.path(path)));
        let (text, signer) = verified.map_err(|source| ArchiveError::Signature {
            archive: archive.clone(),
            url: url.clone(),
            source,
        })?;
        let release = Release::parse(&text, &source.suite, source.frozen, now);
        let release = release.map_err(|source| ArchiveError::Release {
            archive,
            url,
            source,
        })?;
        Ok(Release { signer, ..release })
    }

    /// Checks a text against the signatures beside it.
    fn beside(
        &self,
        source: &ArchiveSource,
        base: &Mirror,
        text: Vec<u8>,
        keyring: Option<&Keyring>,
        now: u64,
    ) -> Result<Result<(String, Option<String>), SignatureError>, ArchiveError> {
        let Some(keyring) = keyring else {
            let text = String::from_utf8(text).map_err(|_| SignatureError::Malformed {
                what: "a text that is not UTF-8",
            });
            return Ok(text.map(|text| (text, None)));
        };
        match self.small(source, base, "Release.gpg", MAX_SIGNATURES) {
            Ok(signatures) => Ok(keyring.verify_detached(&text, &signatures, now).map(parts)),
            Err(error) if matches!(error.cause, DownloadCause::Gone { .. }) => {
                Ok(Err(SignatureError::Unsigned))
            }
            Err(error) => Err(download(source, error)),
        }
    }

    fn small(
        &self,
        source: &ArchiveSource,
        base: &Mirror,
        name: &str,
        limit: u64,
    ) -> Result<Vec<u8>, DownloadError> {
        let place = DownloadSource {
            mirror: base.clone(),
            path: source.path(name),
        };
        let title = format!("{name} of {}", source.name);
        let wanted = client::download(title, Expected::at_most(limit), &[place])?;
        let mut read = None;
        let got = self.downloader.get(
            vec![wanted],
            &mut |_, path| read = Some(bounded::read(path, limit)),
            &mut |_, _| {},
        );
        if let Some((_, error)) = got.err().and_then(|failed| failed.into_iter().next()) {
            return Err(error);
        }
        let unread = |cause| DownloadError {
            name: Some(name.to_owned()),
            url: base.to_string(),
            cause,
        };
        match read {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(source)) => Err(unread(DownloadCause::Read { source })),
            None => Err(unread(DownloadCause::Nowhere)),
        }
    }
}

impl ArchiveSource {
    /// The path of a file of its suite below a base.
    pub(super) fn path(&self, name: &str) -> String {
        let suite = self.suite.trim_start_matches("./");
        match suite.strip_suffix('/') {
            Some(flat) if flat.is_empty() || flat == "." => name.to_owned(),
            Some(flat) => format!("{}/{name}", flat.trim_matches('/')),
            None if suite.is_empty() => name.to_owned(),
            None => format!("dists/{suite}/{name}"),
        }
    }
}

fn clear_signed(
    bytes: &[u8],
    keyring: Option<&Keyring>,
    now: u64,
) -> Result<(String, Option<String>), SignatureError> {
    match keyring {
        Some(keyring) => keyring.verify_cleartext(bytes, now).map(parts),
        None => Cleartext::parse(bytes).map(|parts| (parts.text, None)),
    }
}

fn parts(verified: Verified) -> (String, Option<String>) {
    (verified.text, Some(verified.signer))
}

pub(super) fn download(source: &ArchiveSource, error: DownloadError) -> ArchiveError {
    ArchiveError::Download {
        archive: source.name.clone(),
        source: error,
    }
}

fn is_gone(error: &ArchiveError) -> bool {
    matches!(
        error,
        ArchiveError::Download {
            source: DownloadError {
                cause: DownloadCause::Gone { .. },
                ..
            },
            ..
        }
    )
}

fn is_cancelled(error: &ArchiveError) -> bool {
    matches!(
        error,
        ArchiveError::Download {
            source: DownloadError {
                cause: DownloadCause::Cancelled,
                ..
            },
            ..
        }
    )
}
