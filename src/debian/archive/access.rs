//! How a mirror is reached: URL, login and proxy, out of what [`crate::debian::mirror`] writes for apt.
//! Knows apt's two formats; shows no password.

use reqwest::{Proxy, Url};

use crate::debian::mirror::{Mirror, Mirrors};

/// The URL of a file below a mirror, without user name and password.
pub(super) fn url(mirror: &Mirror, path: &str) -> Option<Url> {
    Url::parse(&format!("{mirror}/{}", encoded(path)))
        .ok()
        .filter(Url::has_host)
}

/// A path of an archive as part of a URL. A plus is encoded too: to some servers it is a blank.
fn encoded(path: &str) -> String {
    path.bytes()
        .fold(String::with_capacity(path.len()), |mut text, byte| {
            match byte {
                b'/' | b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                    text.push(byte.into())
                }
                _ => text.push_str(&format!("%{byte:02x}")),
            }
            text
        })
}

/// User name and password of a mirror (apt_auth.conf(5): `machine URL login USER password PASSWORD`).
pub(super) fn login(mirror: &Mirror) -> Option<(String, String)> {
    let mut mirrors = Mirrors::default();
    mirrors.archive = Some(mirror.clone());
    let auth = file(&mirrors, "auth.conf");
    let mut words = auth
        .trim_end_matches('\n')
        .split(' ')
        .skip_while(|word| *word != "login")
        .skip(1);
    let user = words.next()?.to_owned();
    Some((user, words.nth(1).unwrap_or_default().to_owned()))
}

fn file(mirrors: &Mirrors, wanted: &str) -> String {
    mirrors
        .files()
        .into_iter()
        .find(|(name, ..)| *name == wanted)
        .map(|(.., text)| text)
        .unwrap_or_default()
}

/// The proxies, as one that decides by URL: that of the host goes before that of the scheme, and `DIRECT` is none.
pub(super) fn proxy(mirrors: &Mirrors) -> Proxy {
    // `Acquire::http::Proxy "ADDRESS";` or `Acquire::http::Proxy::HOST "ADDRESS";`
    let entries: Vec<(String, Option<Url>)> = file(mirrors, "proxy.conf")
        .lines()
        .filter_map(|line| {
            let (key, value) = line.strip_suffix("\";")?.split_once(" \"")?;
            let value = value.trim();
            let address = if value.contains("://") {
                value.to_owned()
            } else {
                format!("http://{value}")
            };
            let address = if value == "DIRECT" {
                None
            } else {
                Url::parse(&address).ok()
            };
            Some((key.to_ascii_lowercase(), address))
        })
        .collect();
    Proxy::custom(move |url| {
        let scheme = format!("acquire::{}::proxy", url.scheme());
        let host = format!("{scheme}::{}", url.host_str().unwrap_or_default());
        let found = [host, scheme]
            .iter()
            .find_map(|key| entries.iter().find(|(entry, _)| entry == key));
        found.and_then(|(_, address)| address.clone())
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirrors_login_is_read_and_not_part_of_its_url() {
        let mirror = Mirror::parse("https://me:s%40cret@mirror.example.org/debian/").unwrap();
        assert_eq!(login(&mirror), Some(("me".to_owned(), "s@cret".to_owned())));
        let url = url(&mirror, "pool/g++_1%2.deb").unwrap();
        assert_eq!(
            url.as_str(),
            "https://mirror.example.org/debian/pool/g%2b%2b_1%252.deb"
        );
        assert_eq!(
            login(&Mirror::parse("https://mirror.example.org").unwrap()),
            None
        );
        assert_eq!(
            login(&Mirror::parse("https://token@mirror.example.org").unwrap())
                .unwrap()
                .0,
            "token"
        );
        let url = Url::parse("https://me:secret@mirror.example.org/a?token=x#y").unwrap();
        assert_eq!(shown(&url), "https://mirror.example.org/a");
    }
}
