//! The canonical encoding of what is hashed into a key, and its explanation: one `describe` drives both.
//! Knows atoms and their order, not what an Action is.

use crate::digest::{ContentDigest, Digest, Hasher};

/// One indivisible part of a description.
#[derive(Debug, Clone, Copy)]
pub enum Atom<'a> {
    U64(u64),
    Bool(bool),
    Str(&'a str),
    /// Bytes that need not be text.
    Bytes(&'a [u8]),
    /// So many elements follow.
    List(u64),
    /// So many pairs of key and value follow, in ascending order of keys.
    Map(u64),
    /// Which alternative of an enum follows: its ordinal, and its name for people.
    Variant(u32, &'static str),
    /// The digest of a content, tagged with its kind.
    Content(&'a ContentDigest),
    /// A digest of another kind.
    Digest(&'a Digest),
}

/// Receives a description: either hashes it or explains it.
pub trait Sink {
    /// Goes into a named part; `segment` is for people and enters no digest.
    fn enter(&mut self, segment: Segment<'_>);
    /// Comes back from the part last entered.
    fn leave(&mut self);
    fn put(&mut self, atom: Atom<'_>);
    /// Takes the key of a map's pair; an explanation has it in the path already.
    fn put_key(&mut self, key: &str) {
        self.put(Atom::Str(key));
    }
}

/// One step of the path to a part of a description.
#[derive(Debug, Clone, Copy)]
pub enum Segment<'a> {
    /// A field of a structure.
    Field(&'static str),
    /// A value of a map.
    Key(&'a str),
    /// An element of a list, from 0.
    Index(usize),
}

/// Something that enters a key: describes itself completely, in a fixed order.
pub trait Describe {
    /// Sends every part to `sink`.
    fn describe(&self, sink: &mut dyn Sink);
}

/// Describes a field of a structure.
pub fn field(sink: &mut dyn Sink, name: &'static str, value: &(impl Describe + ?Sized)) {
    sink.enter(Segment::Field(name));
    value.describe(sink);
    sink.leave();
}

/// Describes a list, element by element.
pub fn list<'a, T: Describe + 'a>(
    sink: &mut dyn Sink,
    items: impl ExactSizeIterator<Item = &'a T>,
) {
    sink.put(Atom::List(items.len() as u64));
    for (index, item) in items.enumerate() {
        sink.enter(Segment::Index(index));
        item.describe(sink);
        sink.leave();
    }
}

/// Describes a map; the iterator must ascend by key, as that of a `BTreeMap` does.
pub fn map<'a, T: Describe + 'a>(
    sink: &mut dyn Sink,
    items: impl ExactSizeIterator<Item = (&'a String, &'a T)>,
) {
    sink.put(Atom::Map(items.len() as u64));
    for (key, item) in items {
        sink.enter(Segment::Key(key));
        sink.put_key(key);
        item.describe(sink);
        sink.leave();
    }
}

impl Describe for str {
    fn describe(&self, sink: &mut dyn Sink) {
        sink.put(Atom::Str(self));
    }
}

impl Describe for String {
    fn describe(&self, sink: &mut dyn Sink) {
        sink.put(Atom::Str(self));
    }
}

impl Describe for bool {
    fn describe(&self, sink: &mut dyn Sink) {
        sink.put(Atom::Bool(*self));
    }
}

impl Describe for u64 {
    fn describe(&self, sink: &mut dyn Sink) {
        sink.put(Atom::U64(*self));
    }
}

impl Describe for u32 {
    fn describe(&self, sink: &mut dyn Sink) {
        sink.put(Atom::U64(u64::from(*self)));
    }
}

impl Describe for ContentDigest {
    fn describe(&self, sink: &mut dyn Sink) {
        sink.put(Atom::Content(self));
    }
}

impl Describe for Digest {
    fn describe(&self, sink: &mut dyn Sink) {
        sink.put(Atom::Digest(self));
    }
}

impl<T: Describe> Describe for Vec<T> {
    fn describe(&self, sink: &mut dyn Sink) {
        list(sink, self.iter());
    }
}

impl<T: Describe> Describe for std::collections::BTreeMap<String, T> {
    fn describe(&self, sink: &mut dyn Sink) {
        map(sink, self.iter());
    }
}

impl<T: Describe> Describe for Option<T> {
    fn describe(&self, sink: &mut dyn Sink) {
        match self {
            None => sink.put(Atom::Variant(0, "none")),
            Some(value) => {
                sink.put(Atom::Variant(1, "some"));
                value.describe(sink);
            }
        }
    }
}

// The encoding: a tag byte, then the atom. Numbers are little-endian; text and bytes carry their length in bytes as
// a u64 before them. The tags keep two descriptions of different shape apart. Changing any of it is a format break.
const TAG_U64: u8 = 1;
const TAG_BOOL: u8 = 2;
const TAG_STR: u8 = 3;
const TAG_BYTES: u8 = 4;
const TAG_LIST: u8 = 5;
const TAG_MAP: u8 = 6;
const TAG_VARIANT: u8 = 7;
const TAG_CONTENT: u8 = 8;
const TAG_DIGEST: u8 = 9;

fn encode(atom: Atom<'_>, out: &mut impl FnMut(&[u8])) {
    let mut sized = |tag: u8, bytes: &[u8]| {
        out(&[tag]);
        out(&(bytes.len() as u64).to_le_bytes());
        out(bytes);
    };
    match atom {
        Atom::Str(text) => sized(TAG_STR, text.as_bytes()),
        Atom::Bytes(bytes) => sized(TAG_BYTES, bytes),
        Atom::U64(number) => {
            out(&[TAG_U64]);
            out(&number.to_le_bytes());
        }
        Atom::Bool(truth) => out(&[TAG_BOOL, u8::from(truth)]),
        Atom::List(count) => {
            out(&[TAG_LIST]);
            out(&count.to_le_bytes());
        }
        Atom::Map(count) => {
            out(&[TAG_MAP]);
            out(&count.to_le_bytes());
        }
        Atom::Variant(ordinal, _) => {
            out(&[TAG_VARIANT]);
            out(&ordinal.to_le_bytes());
        }
        Atom::Content(content) => {
            let (kind, digest) = match content {
                ContentDigest::Disk(digest) => (0, digest.0),
                ContentDigest::Tree(digest) => (1, digest.0),
                ContentDigest::Blob(digest) => (2, digest.0),
            };
            out(&[TAG_CONTENT, kind]);
            out(digest.as_bytes());
        }
        Atom::Digest(digest) => {
            out(&[TAG_DIGEST]);
            out(digest.as_bytes());
        }
    }
}

struct DigestSink(Hasher);

impl Sink for DigestSink {
    fn enter(&mut self, _: Segment<'_>) {}
    fn leave(&mut self) {}
    fn put(&mut self, atom: Atom<'_>) {
        encode(atom, &mut |bytes| {
            self.0.update(bytes);
        });
    }
}

/// The digest of `what`'s canonical encoding under `hasher`'s domain.
pub fn digest(hasher: Hasher, what: &dyn Describe) -> Digest {
    let mut sink = DigestSink(hasher);
    what.describe(&mut sink);
    sink.0.finish()
}

/// One line of an explanation: the path to an atom, and the atom as text.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Field {
    /// Where it stands, such as `steps[2].script` or `env["LANG"]`.
    pub path: String,
    /// What stands there; text verbatim, digests in hexadecimal.
    pub value: String,
}

#[derive(Default)]
struct TextSink {
    path: String,
    lengths: Vec<usize>,
    fields: Vec<Field>,
}

impl Sink for TextSink {
    fn enter(&mut self, segment: Segment<'_>) {
        use std::fmt::Write;
        self.lengths.push(self.path.len());
        let dot = if self.path.is_empty() { "" } else { "." };
        let written = match segment {
            Segment::Field(name) => write!(self.path, "{dot}{name}"),
            Segment::Key(key) => write!(self.path, "[{key:?}]"),
            Segment::Index(index) => write!(self.path, "[{index}]"),
        };
        written.expect("BUG: writing to a String failed");
    }

    fn leave(&mut self) {
        let length = self
            .lengths
            .pop()
            .expect("BUG: left more parts than were entered");
        self.path.truncate(length);
    }

    fn put(&mut self, atom: Atom<'_>) {
        let value = match atom {
            Atom::U64(number) => number.to_string(),
            Atom::Bool(truth) => truth.to_string(),
            Atom::Str(text) => text.to_owned(),
            Atom::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Atom::Variant(_, "some") => return,
            Atom::Variant(_, name) => name.to_owned(),
            Atom::Content(content) => content.to_string(),
            Atom::Digest(digest) => digest.to_string(),
            // The elements tell the count; a list that became empty is told by the elements that are gone.
            Atom::List(_) | Atom::Map(_) => return,
        };
        self.fields.push(Field {
            path: self.path.clone(),
            value,
        });
    }

    fn put_key(&mut self, _: &str) {}
}

/// Explains what [`digest`] hashes: the same atoms in the same order, as text.
pub fn explain(what: &dyn Describe) -> Vec<Field> {
    let mut sink = TextSink::default();
    what.describe(&mut sink);
    sink.fields
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::digest::domain;

    struct BytesSink(Vec<u8>);

    impl Sink for BytesSink {
        fn enter(&mut self, _: Segment<'_>) {}
        fn leave(&mut self) {}
        fn put(&mut self, atom: Atom<'_>) {
            encode(atom, &mut |bytes| self.0.extend_from_slice(bytes));
        }
    }

    /// The canonical encoding itself.
    fn encoding(what: &dyn Describe) -> Vec<u8> {
        let mut sink = BytesSink(Vec::new());
        what.describe(&mut sink);
        sink.0
    }

    fn key(what: &dyn Describe) -> Digest {
        digest(Hasher::new(domain::ACTION), what)
    }

    #[test]
    fn shape_enters_the_key() {
        let texts = |items: &[&str]| {
            items
                .iter()
                .map(|item| (*item).to_owned())
                .collect::<Vec<String>>()
        };
        assert_ne!(key(&texts(&["ab", "c"])), key(&texts(&["a", "bc"])));
        assert_ne!(
            key(&vec![texts(&["a"]), texts(&[])]),
            key(&vec![texts(&[]), texts(&["a"])])
        );
        assert_ne!(key(&Some("a".to_owned())), key(&"a".to_owned()));
        assert_ne!(key(&0u64), key(&false));
    }

    #[test]
    fn explanation_names_the_path_of_every_atom() {
        let env = BTreeMap::from([
            ("A".to_owned(), "1".to_owned()),
            ("B".to_owned(), "B".to_owned()),
        ]);
        let fields = explain(&vec![env]);
        let lines: Vec<_> = fields
            .iter()
            .map(|field| format!("{} = {}", field.path, field.value))
            .collect();
        assert_eq!(lines, [r#"[0]["A"] = 1"#, r#"[0]["B"] = B"#]);
    }

    #[test]
    fn encoding_is_pinned() {
        // A change here is a format break: bump the store's format version.
        let bytes = encoding(&vec![Some("a".to_owned()), None]);
        let expected: &[u8] = &[
            5, 2, 0, 0, 0, 0, 0, 0, 0, // list of 2
            7, 1, 0, 0, 0, 3, 1, 0, 0, 0, 0, 0, 0, 0, b'a', // some("a")
            7, 0, 0, 0, 0, // none
        ];
        assert_eq!(bytes, expected);
    }
}
