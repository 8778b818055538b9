//! How a file of a mirror is reached: its URL, with the mirror's login.
//! Knows mirrors' addresses; shows no password.

use crate::debian::mirror::Mirror;
use crate::net::{Login, Place};

/// A file below a mirror that is no directory; none where that makes no URL.
pub(super) fn place(mirror: &Mirror, path: &str) -> Option<Place> {
    let login = mirror.login().map(|(user, password)| Login::Password {
        user: user.to_owned(),
        password: password.to_owned(),
    });
    let place = Place::url(&format!("{mirror}/{}", encoded(path)))?;
    Some(place.with_login(login))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirrors_login_is_no_part_of_its_url_and_paths_are_encoded() {
        let mirror = Mirror::parse("https://me:s%40cret@mirror.example.org/debian/").unwrap();
        let url = "https://mirror.example.org/debian/pool/g%2b%2b_1%252.deb";
        let expected = Place::url(url).unwrap();
        assert_eq!(expected.shown(), url);
        let login = Login::Password {
            user: "me".to_owned(),
            password: "s@cret".to_owned(),
        };
        assert_eq!(
            place(&mirror, "pool/g++_1%2.deb").unwrap(),
            expected.with_login(Some(login))
        );
    }
}
