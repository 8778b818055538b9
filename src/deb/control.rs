//! Stanzas of fields, the form of Debian's control files, indexes and status (deb822(5)).
//!
//! Knows fields by name and where they end; does not know what they mean. Nothing is copied: an index of 48 MB is read where
//! it lies. Lines that are no field and go on with none are passed over, as anybody may have written them.

use memchr::{memchr, memmem};

/// The fields between two empty lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stanza<'a> {
    text: &'a [u8],
}

/// The stanzas of a text, in its order.
#[derive(Clone, Debug)]
pub struct Stanzas<'a> {
    rest: &'a [u8],
    blank: memmem::Finder<'static>,
}

/// Splits a text into its stanzas.
pub fn stanzas<T: AsRef<[u8]> + ?Sized>(text: &T) -> Stanzas<'_> {
    Stanzas {
        rest: text.as_ref(),
        blank: memmem::Finder::new(b"\n\n"),
    }
}

impl<'a> Iterator for Stanzas<'a> {
    type Item = Stanza<'a>;

    fn next(&mut self) -> Option<Stanza<'a>> {
        let start = self.rest.iter().position(|&byte| byte != b'\n')?;
        let rest = &self.rest[start..];
        let end = self.blank.find(rest).map_or(rest.len(), |at| at + 1);
        let (text, rest) = rest.split_at(end);
        self.rest = rest;
        Some(Stanza { text })
    }
}

impl<'a> Stanza<'a> {
    /// The only stanza of a text; none where there is not exactly one.
    pub fn only(text: &'a [u8]) -> Option<Stanza<'a>> {
        let mut all = stanzas(text);
        all.next().filter(|_| all.next().is_none())
    }

    /// Its text, as it lies there.
    pub fn text(&self) -> &'a [u8] {
        self.text
    }

    /// Its fields: name, and value as it lies there without the blanks around it. Further lines of a value keep the blank
    /// that they begin with.
    pub fn fields(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut rest = self.text;
        std::iter::from_fn(move || {
            while !rest.is_empty() {
                let (line, after) = cut(rest);
                let colon = memchr(b':', line).unwrap_or(0);
                let name = line[..colon].trim_ascii_end();
                if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
                    rest = after;
                    continue;
                }
                let mut end = line.len();
                let mut next = after;
                while next.first().is_some_and(|&byte| is_blank(byte)) {
                    let (line, after) = cut(next);
                    end = rest.len() - next.len() + line.len();
                    next = after;
                }
                let found = (name, rest[colon + 1..end].trim_ascii());
                rest = next;
                return Some(found);
            }
            None
        })
    }

    /// The bytes of a field; upper and lower case are one. Of several with one name the first counts.
    pub fn bytes(&self, name: &str) -> Option<&'a [u8]> {
        self.fields()
            .find(|(field, _)| field.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// A field as text; none too where it is no UTF-8.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(name)?).ok()
    }

    /// Several fields at once, each as [`Stanza::get`] has it: the stanza is read once.
    pub fn get_all<const N: usize>(&self, names: [&str; N]) -> [Option<&'a str>; N] {
        let mut found = [None; N];
        let mut missing = N;
        for (field, value) in self.fields() {
            let at = names
                .iter()
                .position(|name| field.eq_ignore_ascii_case(name.as_bytes()));
            if let Some(at) = at.filter(|&at| found[at].is_none()) {
                found[at] = Some(value);
                missing -= 1;
                if missing == 0 {
                    break;
                }
            }
        }
        found.map(|value| std::str::from_utf8(value?).ok())
    }
}

/// The first line without its end, and what follows it.
fn cut(text: &[u8]) -> (&[u8], &[u8]) {
    match memchr(b'\n', text) {
        Some(end) => (&text[..end], &text[end + 1..]),
        None => (text, &[]),
    }
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

#[derive(Clone, Debug, Default)]
pub struct StanzaWriter {
    text: Vec<u8>,
    open: bool,
}

impl StanzaWriter {
    /// Begins with no text.
    pub fn new() -> StanzaWriter {
        StanzaWriter::default()
    }

    /// Adds a field. Further lines of a value begin with a blank: those that do not are given one, and an empty one is a
    /// dot, so that no value can end its field.
    pub fn field(&mut self, name: &str, value: impl AsRef<[u8]>) -> &mut StanzaWriter {
        debug_assert!(
            !name.contains([':', '\n', ' ']),
            "BUG: {name:?} is no name of a field"
        );
        self.open = true;
        self.text.extend_from_slice(name.as_bytes());
        self.text.push(b':');
        for (number, line) in value
            .as_ref()
            .trim_ascii_end()
            .split(|&byte| byte == b'\n')
            .enumerate()
        {
            let line = if number == 0 { line.trim_ascii() } else { line };
            match line.first() {
                _ if number > 0 && line.trim_ascii().is_empty() => {
                    self.text.extend_from_slice(b"\n .")
                }
                // A field may have no first line, as lists of files do.
                None => {}
                Some(&byte) => {
                    let separator: &[u8] = match (number, is_blank(byte)) {
                        (0, _) => b" ",
                        (_, true) => b"\n",
                        (_, false) => b"\n ",
                    };
                    self.text.extend_from_slice(separator);
                    self.text.extend_from_slice(line);
                }
            }
        }
        self.text.push(b'\n');
        self
    }

    /// Adds all fields of a stanza but those with the given names.
    pub fn fields_of(&mut self, stanza: &Stanza<'_>, except: &[&str]) -> &mut StanzaWriter {
        for (name, value) in stanza.fields() {
            let Ok(text) = std::str::from_utf8(name) else {
                continue;
            };
            if !except
                .iter()
                .any(|except| except.eq_ignore_ascii_case(text))
            {
                self.field(text, value);
            }
        }
        self
    }

    pub fn end(&mut self) -> &mut StanzaWriter {
        if std::mem::take(&mut self.open) {
            self.text.push(b'\n');
        }
        self
    }

    /// What was written; the last stanza need not have been ended.
    pub fn finish(mut self) -> Vec<u8> {
        self.end();
        self.text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "\
\n
Package: hello
Version:  2.10-3\t
Description: words
 more:   words
 .
 Package: not this
Depends: a,
 b
\n\n\nnonsense
 goes on
pAcKaGe: world
empty:
Package: again
last: x";

    #[test]
    fn fields_are_found() {
        let all: Vec<_> = stanzas(TEXT).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].get("package"), Some("hello"));
        assert_eq!(all[0].get("VERSION"), Some("2.10-3"));
        assert_eq!(
            all[0].get("Description"),
            Some("words\n more:   words\n .\n Package: not this")
        );
        assert_eq!(all[0].get("Depends"), Some("a,\n b"));
        assert_eq!(all[0].get("more"), None);
        assert_eq!(
            all[0].get_all(["Depends", "none", "Package"]),
            [Some("a,\n b"), None, Some("hello")]
        );
        assert_eq!(all[1].get("Package"), Some("world"), "the first counts");
        assert_eq!(
            (all[1].get("empty"), all[1].get("last")),
            (Some(""), Some("x"))
        );
        assert_eq!(all[1].fields().count(), 4);
        assert_eq!(
            Stanza::only(b"\na: b\n\n").and_then(|stanza| stanza.get("a")),
            Some("b")
        );
        assert_eq!(Stanza::only(TEXT.as_bytes()), None);
    }

    #[test]
    fn what_is_written_reads_back_and_no_value_ends_its_field() {
        let mut writer = StanzaWriter::new();
        writer
            .field("Package", "x\nVersion: 1\n\nPackage: y")
            .field("Empty", "")
            .field("Files", "\n a\n b");
        writer.end().end();
        writer.fields_of(&stanzas(TEXT).next().unwrap(), &["VERSION"]);
        let text = writer.finish();
        assert_eq!(
            String::from_utf8_lossy(&text),
            "Package: x\n Version: 1\n .\n Package: y\nEmpty:\nFiles:\n a\n b\n\n\
             Package: hello\nDescription: words\n more:   words\n .\n Package: not this\nDepends: a,\n b\n\n"
        );
        assert_eq!(stanzas(&text).count(), 2);
    }

    proptest! {
        #[test]
        fn nothing_panics_and_nothing_is_lost(text in "(?s)([A-c]{0,3}(: ?)?[ \n\ta-c]{0,4}){0,12}") {
            let fields: usize = stanzas(&text).map(|stanza| stanza.fields().count()).sum();
            let is_name = |name: &str| !name.is_empty() && !name.contains([' ', '\t']);
            let is_field = |line: &&str| line.split_once(':').is_some_and(|(name, _)| is_name(name.trim_end()));
            let expected = text.split('\n').filter(is_field).count();
            prop_assert_eq!(fields, expected);
            let mut writer = StanzaWriter::new();
            for stanza in stanzas(&text) {
                writer.fields_of(&stanza, &[]).end();
            }
            let written = writer.finish();
            prop_assert_eq!(stanzas(&written).map(|stanza| stanza.fields().count()).sum::<usize>(), fields);
        }
    }
}
