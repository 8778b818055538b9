//! A guest's bytes as text that a terminal may be given.
//!
//! Knows characters, not what they name. Everything that could move the cursor, change colours, reorder or hide text is
//! written `\xNN`, byte by byte.

/// A name: what is not plain is `\xNN`, the backslash too, so that the bytes can be had back.
pub fn name(bytes: &[u8]) -> String {
    escaped(bytes, |c| c != '\\' && is_harmless(c))
}

/// A line of text: as a name, but tabs and backslashes stay.
pub fn line(bytes: &[u8]) -> String {
    escaped(bytes, |c| c == '\t' || is_harmless(c))
}

fn escaped(bytes: &[u8], stays: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if stays(c) {
                out.push(c);
            } else {
                push_bytes(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        push_bytes(&mut out, chunk.invalid());
    }
    out
}

fn push_bytes(out: &mut String, bytes: &[u8]) {
    bytes
        .iter()
        .for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
}

/// Whether a character shows itself and does nothing else, by Unicode's classes as the standard library knows them.
fn is_harmless(c: char) -> bool {
    if matches!(c, '\'' | '"' | '\\') {
        return true;
    }
    let mut shown = c.escape_debug();
    shown.next() == Some(c) && shown.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_but_what_shows_itself() {
        assert_eq!(name("/etc/größe 漢".as_bytes()), "/etc/größe 漢");
        assert_eq!(
            name(b"a\x1b[31m\n\\x41\xff\t"),
            r"a\x1b[31m\x0a\x5cx41\xff\x09"
        );
        // Right-to-left override, a combining accent, a byte order mark, a C1 control.
        assert_eq!(
            name("\u{202e}e\u{301}\u{feff}\u{9b}".as_bytes()),
            r"\xe2\x80\xaee\xcc\x81\xef\xbb\xbf\xc2\x9b"
        );
        assert_eq!(line(b"\techo \"a\\n\" 'b'\r"), "\techo \"a\\n\" 'b'\\x0d");
    }
}
