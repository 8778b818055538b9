//! What a stage wants from elsewhere whose bytes the recipe does not name: the lock says which they are.
//! Knows words and addresses; asks nobody.

use impasto_store::sha256::{Sha256, Sha512};

/// A source that the lock resolves. Where it can be had is in [`Hints::urls`](crate::action::Hints::urls).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceRequest {
    File(FileRequest),
    /// A commit of a git repository.
    Git {
        /// A branch, a tag, or the whole name of a reference; the repository's own choice where none is given.
        reference: Option<String>,
    },
}

/// A file of which the recipe does not name the SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRequest {
    pub checksum: Option<SourceChecksum>,
    /// Armored keys, by one of which the list of checksums must be signed; none where nobody need have.
    pub signed_by: Vec<String>,
}

/// How a file is known that is not known by its SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceChecksum {
    Sha512(Sha512),
    /// A list of checksums has it.
    Listed(SumsPlace),
}

/// Where a list of checksums is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SumsPlace {
    /// Beside the file, wherever that is: `SHA512SUMS`, or `../SHA512SUMS` one directory above.
    Beside(String),
    Url(String),
    /// Beside the recipe.
    Local(String),
}

impl SourceRequest {
    /// What is asked for, a line each, as the lock has it: an entry of other lines is for something else. `url` is the
    /// first of the places; mirrors of it do not count.
    pub fn lines(&self, url: &str) -> Vec<String> {
        let what = match self {
            SourceRequest::File(_) => "url",
            SourceRequest::Git { .. } => "git",
        };
        let mut lines = vec![format!("{what} {}", public(url))];
        match self {
            SourceRequest::Git { reference } => {
                lines.extend(reference.as_ref().map(|name| format!("ref {name}")));
            }
            SourceRequest::File(FileRequest {
                checksum,
                signed_by,
            }) => {
                lines.extend(checksum.as_ref().map(|checksum| match checksum {
                    SourceChecksum::Sha512(digest) => format!("checksum sha512:{digest}"),
                    SourceChecksum::Listed(SumsPlace::Beside(name)) => {
                        format!("checksum file:{name}")
                    }
                    SourceChecksum::Listed(SumsPlace::Url(url)) => {
                        format!("checksum file:{}", public(url))
                    }
                    SourceChecksum::Listed(SumsPlace::Local(path)) => {
                        format!("checksum file:./{path}")
                    }
                }));
                // Other keys may trust other lists. Their text is long.
                let keys = signed_by.iter();
                lines.extend(keys.map(|key| format!("signed by key {}", short(key))));
            }
        }
        lines
    }
}

/// A URL as a lock may hold it: without user name and password. What is asked of the server, which may hold a token, stands
/// there as a digest.
pub fn public(url: &str) -> String {
    let url = url.split('#').next().unwrap_or_default();
    let (url, query) = url
        .split_once('?')
        .map_or((url, None), |(url, query)| (url, Some(query)));
    let plain = match url.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = host.rsplit('@').next().unwrap_or(host);
            format!("{scheme}://{host}{path}")
        }
        None => url.to_owned(),
    };
    match query {
        Some(query) => format!("{plain}?{}", short(query)),
        None => plain,
    }
}

/// The beginning of a text's digest.
fn short(text: &str) -> String {
    let mut digits = Sha256::of(text.as_bytes()).to_string();
    digits.truncate(16);
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_holds_no_password() {
        assert_eq!(public("https://me:p@ss@h/a@b"), "https://h/a@b");
        let asked = public("https://h/a?token=secret#x");
        assert!(
            asked.starts_with("https://h/a?") && !asked.contains("secret"),
            "{asked}"
        );
        assert_ne!(asked, public("https://h/a?token=other"));
    }
}
