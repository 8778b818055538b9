//! Where a file may be: a URL, with a login where there is one, or a path of this machine.
//! Shows no password; asks nobody.

use std::path::{Path, PathBuf};

use reqwest::Url;

/// A place where a file may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place(pub(super) Address);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Url { url: Url, login: Option<Login> },
    Path(PathBuf),
}

/// What opens a server.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    Password {
        user: String,
        password: String,
    },
    /// The whole content of the header `Authorization`, such as `Bearer` and a token.
    Header(String),
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Place {
    /// A URL of http or https, whose user name and password are a login; none where it is no such URL.
    pub fn url(text: &str) -> Option<Place> {
        let mut url = Url::parse(text).ok()?;
        if !url.has_host() || !matches!(url.scheme(), "http" | "https") {
            return None;
        }
        let login =
            (!url.username().is_empty() || url.password().is_some()).then(|| Login::Password {
                user: decoded(url.username()),
                password: decoded(url.password().unwrap_or_default()),
            });
        // Only URLs without a host refuse this.
        let _ = (url.set_username(""), url.set_password(None));
        Some(Place(Address::Url { url, login }))
    }

    /// The same with another login, where there is one.
    pub fn with_login(self, login: Option<Login>) -> Place {
        match (self.0, login) {
            (Address::Url { url, .. }, login @ Some(_)) => Place(Address::Url { url, login }),
            (address, _) => Place(address),
        }
    }

    /// Whether the server is told a login.
    pub fn has_login(&self) -> bool {
        matches!(&self.0, Address::Url { login: Some(_), .. })
    }

    /// The server's name; empty for a file of this machine.
    pub fn host_name(&self) -> &str {
        match &self.0 {
            Address::Url { url, .. } => url.host_str().unwrap_or_default(),
            Address::Path(_) => "",
        }
    }

    /// A file of this machine.
    pub fn path(path: &Path) -> Place {
        Place(Address::Path(path.to_owned()))
    }

    /// As it may be shown.
    pub fn shown(&self) -> String {
        match &self.0 {
            Address::Url { url, .. } => shown(url),
            Address::Path(path) => path.display().to_string(),
        }
    }

    /// Whom asking it burdens: the server, or this machine's disk.
    pub(super) fn host(&self) -> &str {
        match &self.0 {
            Address::Url { url, .. } => url.authority(),
            Address::Path(_) => "",
        }
    }
}

/// A URL as it may be shown: without user, password and what is asked of the server, which may hold a token.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Only URLs without host cannot be changed, and these have none of it.
    let _ = (url.set_username(""), url.set_password(None));
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

/// Decodes what a URL has percent-encoded; what is no UTF-8 then is replaced.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) if byte == b'%' => {
                bytes.push(decoded);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_taken_out_of_a_url_and_never_shown() {
        let place = Place::url("https://me:s%40cret@images.example.org/a?token=x#y").unwrap();
        assert_eq!(place.shown(), "https://images.example.org/a");
        let Place(Address::Url { url, login }) = &place else {
            panic!("{place:?}")
        };
        assert_eq!(url.as_str(), "https://images.example.org/a?token=x#y");
        let (user, password) = ("me".to_owned(), "s@cret".to_owned());
        assert_eq!(login, &Some(Login::Password { user, password }));
        let shown = format!("{place:?}");
        assert!(!shown.contains("cret"), "{shown}");
        for text in ["", "images.example.org/a", "ftp://x/y", "file:/a", "http:"] {
            assert_eq!(Place::url(text), None, "{text}");
        }
    }
}
