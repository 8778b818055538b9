//! Whether a line is an SSH public key: type, base64, and the type inside (RFC 4253, 6.6).
//! Knows the line's form; checks no key's mathematics.

/// Types that OpenSSH takes in authorized_keys; DSA is refused by every current sshd.
const TYPES: &[&str] = &[
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// Why a line is no public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyProblem {
    #[error("it is empty")]
    Empty,
    #[error("it is several lines")]
    Lines,
    #[error("it is a private key")]
    Private,
    #[error("it does not start with a key type that OpenSSH knows")]
    Type,
    #[error("its second field is not base64")]
    Base64,
    #[error("its data is truncated or of a different key type")]
    Inner,
}

impl KeyProblem {
    pub(crate) fn help(self) -> &'static str {
        match self {
            KeyProblem::Private => {
                "use the public key, the file that ends in .pub, and remove the private key from the recipe"
            }
            KeyProblem::Lines => {
                "write each key as its own element, such as split(\"\\n\", trimspace(file(\"keys\")))"
            }
            KeyProblem::Empty | KeyProblem::Type | KeyProblem::Base64 | KeyProblem::Inner => {
                "use one line of a .pub file, such as file(\"id_ed25519.pub\"): a type, base64 and a comment"
            }
        }
    }
}

/// Checks one line of authorized_keys, without options.
pub(crate) fn check(line: &str) -> Result<(), KeyProblem> {
    if line.contains("PRIVATE KEY") {
        return Err(KeyProblem::Private);
    }
    if line.chars().any(char::is_control) {
        return Err(KeyProblem::Lines);
    }
    let mut words = line.split_whitespace();
    let ty = words.next().ok_or(KeyProblem::Empty)?;
    if !TYPES.contains(&ty) {
        return Err(KeyProblem::Type);
    }
    let bytes = words.next().and_then(base64).ok_or(KeyProblem::Base64)?;
    let mut rest = bytes.as_slice();
    let first = string(&mut rest).ok_or(KeyProblem::Inner)?;
    let mut fields = 0;
    while !rest.is_empty() && ty != "sk-ssh-ed25519@openssh.com" {
        string(&mut rest)
            .filter(|field| !field.is_empty())
            .ok_or(KeyProblem::Inner)?;
        fields += 1;
    }
    let complete = match ty {
        "ssh-ed25519" => fields == 1 && bytes.len() == 4 + ty.len() + 4 + 32,
        "ssh-rsa" => fields == 2 && bytes.len() > 128,
        "sk-ssh-ed25519@openssh.com" => !rest.is_empty(),
        _ => fields >= 2,
    };
    if first != ty.as_bytes() || !complete {
        return Err(KeyProblem::Inner);
    }
    Ok(())
}

/// Takes a string of RFC 4251, 5: its length as a big-endian number, then its bytes.
fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (string, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *rest = after;
    Some(string)
}

/// Decodes base64 with its padding (RFC 4648, 4).
fn base64(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let body = text.trim_end_matches('=');
    if text.len() - body.len() > 2 {
        return None;
    }
    let (mut bits, mut count) = (0u32, 0);
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for c in body.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGpJ9vZ0C0m0n8v1xUqvXQ3m4Qb0mQy8m7m0m1m2m3m4 admin@example.org";

    #[test]
    fn base64_is_decoded() {
        assert_eq!(base64("Zm9vYmE=").as_deref(), Some(&b"fooba"[..]));
        assert_eq!(base64("Zm9vYg==").as_deref(), Some(&b"foob"[..]));
        for wrong in ["Zm9", "Zm9v!mE=", "Z===", "Zm=v"] {
            assert_eq!(base64(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn keys_are_told_from_what_is_none() {
        assert_eq!(check(KEY), Ok(()));
        assert_eq!(check(""), Err(KeyProblem::Empty));
        assert_eq!(check(&format!("{KEY}\n{KEY}")), Err(KeyProblem::Lines));
        assert_eq!(
            check("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA"),
            Err(KeyProblem::Private)
        );
        assert_eq!(check("~/.ssh/id_ed25519.pub"), Err(KeyProblem::Type));
        assert_eq!(
            check("ssh-ed25519 admin@example.org"),
            Err(KeyProblem::Base64)
        );
        assert_eq!(check("ssh-ed25519"), Err(KeyProblem::Base64));
        assert_eq!(
            check(&KEY.replace("ssh-ed25519", "ssh-rsa")),
            Err(KeyProblem::Inner)
        );
        assert_eq!(
            check(&KEY.replace("m1m2m3m4 ", " ")),
            Err(KeyProblem::Inner)
        );
    }
}
