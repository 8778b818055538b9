//! Takes a clear-signed text apart: what was signed, and the armored signatures below it (RFC 9580, section 7).
//! Knows lines, not signatures; is stricter than the RFC, because nothing may stand outside of what is signed.

use super::openpgp::SignatureError;

const BEGIN: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
const SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----";
const END: &str = "-----END PGP SIGNATURE-----";

/// A clear-signed text whose signatures nobody has looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleartext {
    /// The signed lines, each ended by LF: without dash-escapes and without white space at their ends.
    pub text: String,
    pub armor: String,
}

impl Cleartext {
    /// Takes a text apart.
    ///
    /// # Errors
    /// It is not clear-signed, text stands before or behind what is signed, or the form is broken.
    pub fn parse(bytes: &[u8]) -> Result<Cleartext, SignatureError> {
        let malformed = |what| SignatureError::Malformed { what };
        let all = std::str::from_utf8(bytes).map_err(|_| malformed("a text that is not UTF-8"))?;
        let mut lines = all.split_inclusive('\n').map(trimmed);
        if lines.next() != Some(BEGIN) {
            let later = all.lines().any(|line| trimmed(line) == BEGIN);
            return Err(if later {
                SignatureError::TextOutside
            } else {
                SignatureError::Unsigned
            });
        }
        // The digests named here are hints; those of the signatures count.
        loop {
            match lines.next() {
                Some("") => break,
                Some(line) if line.starts_with("Hash:") => {}
                _ => return Err(malformed("a header other than Hash")),
            }
        }
        let mut text = String::with_capacity(all.len());
        loop {
            let line = lines
                .next()
                .ok_or_else(|| malformed("a text without its signature"))?;
            if line == SIGNATURE {
                break;
            }
            let line = match line.strip_prefix("- ") {
                Some(line) => line,
                None if line.starts_with('-') => {
                    return Err(malformed("a dash that is not escaped"));
                }
                None => line,
            };
            // Signatures of texts see any ending of a line as the same: a bare CR would be one for them, but not for us.
            if line.contains('\r') {
                return Err(malformed("a carriage return within a line"));
            }
            text.push_str(line);
            text.push('\n');
        }
        let mut armor = format!("{SIGNATURE}\n");
        loop {
            let line = lines
                .next()
                .ok_or_else(|| malformed("a signature without its end"))?;
            armor.push_str(line);
            armor.push('\n');
            if line == END {
                break;
            }
            if line.starts_with('-') {
                return Err(malformed("a second block within the signature"));
            }
        }
        if lines.any(|line| !line.is_empty()) {
            return Err(SignatureError::TextOutside);
        }
        Ok(Cleartext { text, armor })
    }

    /// The bytes that were hashed: lines ended by CR LF, but for the last, which has no end.
    pub fn hashed(&self) -> Vec<u8> {
        let text = self.text.strip_suffix('\n').unwrap_or(&self.text);
        text.replace('\n', "\r\n").into_bytes()
    }
}

/// A line without its end, and without the white space before it, which is not signed.
fn trimmed(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    let line = line.strip_suffix('\r').unwrap_or(line);
    line.trim_end_matches([' ', '\t'])
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL: &str = "-----BEGIN PGP SIGNATURE-----\n\nAAAA\n-----END PGP SIGNATURE-----\n";

    fn parse(text: &str) -> Result<Cleartext, SignatureError> {
        Cleartext::parse(text.as_bytes())
    }

    #[test]
    fn dashes_white_space_and_line_ends_are_undone() {
        let text = format!("{BEGIN}\r\nHash: SHA512\r\n\r\n- -- a\t \r\n\r\nb \n- - c\n{TAIL}\n\n");
        let parsed = parse(&text).unwrap();
        assert_eq!(parsed.text, "-- a\n\nb\n- c\n");
        assert_eq!(parsed.hashed(), b"-- a\r\n\r\nb\r\n- c");
        assert_eq!(parsed.armor, TAIL);
    }

    #[test]
    fn other_forms_are_refused() {
        let outside = [
            format!("x\n{BEGIN}\n\na\n{TAIL}"),
            format!("\n{BEGIN}\n\na\n{TAIL}"),
            format!("{BEGIN}\n\na\n{TAIL}x"),
            format!("{BEGIN}\n\na\n{TAIL}{BEGIN}\n\na\n{TAIL}"),
        ];
        for text in outside {
            assert!(
                matches!(parse(&text), Err(SignatureError::TextOutside)),
                "{text}"
            );
        }
        for text in ["", "Origin: Debian\n"] {
            assert!(
                matches!(parse(text), Err(SignatureError::Unsigned)),
                "{text}"
            );
        }
        let malformed = [
            format!("{BEGIN}\nComment: x\n\na\n{TAIL}"),
            format!("{BEGIN}\n\na\n"),
            format!("{BEGIN}\n\na\n{SIGNATURE}\n"),
            format!("{BEGIN}\n\n-a\n{TAIL}"),
            format!("{BEGIN}\n\na\rb\n{TAIL}"),
            format!("{BEGIN}\n\na\n{SIGNATURE}\n{TAIL}"),
            BEGIN.to_owned(),
        ];
        for text in malformed {
            assert!(
                matches!(parse(&text), Err(SignatureError::Malformed { .. })),
                "{text}"
            );
        }
    }
}
