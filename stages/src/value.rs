//! The values of a recipe: HCL's types, stage references, and the marks that tell where a value came from.
//! Knows no syntax and no stage kind.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use impasto_store::key::{Atom, Describe, Sink, field, list, map};

use crate::number::Number;

/// A value of a recipe with its marks.
#[derive(Clone, PartialEq)]
pub struct Value {
    pub data: Data,
    /// Where it came from, and whether it is sensitive.
    pub marks: Marks,
    /// Where its text stands, for values that are one text of one file.
    pub origin: Option<Arc<Origin>>,
}

/// What a value is.
#[derive(Clone, PartialEq)]
pub enum Data {
    Null,
    /// `true` or `false`.
    Bool(bool),
    Number(Number),
    String(Arc<str>),
    List(Shared<Vec<Value>>),
    Object(Shared<BTreeMap<String, Value>>),
    /// `stage.NAME`, in the same combination of the matrix.
    Stage(Arc<str>),
    /// `stage.NAME.files["FILE"]`.
    StageFile {
        /// The stage that makes it.
        stage: Arc<str>,
        /// Its name among that stage's outputs.
        file: Arc<str>,
    },
}

/// Elements or attributes, shared by all copies of the value that holds them, with what is known of everything below.
///
/// Values that refer to each other twice make a small graph that is a huge tree, so nothing may walk the tree to learn its
/// size, or whether something in it is sensitive.
pub struct Shared<T>(Arc<(T, Nested)>);

/// What is known of a value and of all that it holds.
#[derive(Debug, Clone, Default)]
pub struct Nested {
    /// The marks of all of it.
    pub marks: Marks,
    /// How many values it is when written out, itself among them.
    pub parts: u64,
    /// How long its texts and keys are together when written out, in bytes.
    pub bytes: u64,
    /// How deep it is nested; 0 for a value without others.
    pub depth: u32,
}

impl Nested {
    fn add(&mut self, value: &Value) {
        self.marks.unite(&value.marks);
        let (parts, bytes, depth) = match &value.data {
            Data::List(Shared(items)) => {
                self.marks.unite(&items.1.marks);
                (items.1.parts, items.1.bytes, items.1.depth)
            }
            Data::Object(Shared(items)) => {
                self.marks.unite(&items.1.marks);
                (items.1.parts, items.1.bytes, items.1.depth)
            }
            Data::String(text) => (1, text.len() as u64, 0),
            _ => (1, 0, 0),
        };
        self.parts = self.parts.saturating_add(parts);
        self.bytes = self.bytes.saturating_add(bytes);
        self.depth = self.depth.max(depth.saturating_add(1));
    }
}

impl<T> Shared<T> {
    /// What is known of all that is in it.
    pub fn below(&self) -> &Nested {
        &self.0.1
    }

    /// A name for this very place in memory, as long as it lives.
    pub fn address(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }
}

impl<T: Clone> Shared<T> {
    /// The elements, copied where others share them.
    pub fn into_inner(self) -> T {
        Arc::try_unwrap(self.0).map_or_else(|shared| shared.0.clone(), |(items, _)| items)
    }
}

impl From<Vec<Value>> for Shared<Vec<Value>> {
    fn from(items: Vec<Value>) -> Self {
        let mut below = Nested {
            parts: 1,
            ..Nested::default()
        };
        items.iter().for_each(|item| below.add(item));
        Shared(Arc::new((items, below)))
    }
}

impl From<BTreeMap<String, Value>> for Shared<BTreeMap<String, Value>> {
    fn from(items: BTreeMap<String, Value>) -> Self {
        let mut below = Nested {
            parts: 1,
            ..Nested::default()
        };
        for (key, item) in &items {
            below.add(item);
            below.bytes = below.bytes.saturating_add(key.len() as u64);
        }
        Shared(Arc::new((items, below)))
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Shared(self.0.clone())
    }
}

impl<T> std::ops::Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.0
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.1.parts == other.0.1.parts && self.0.0 == other.0.0)
    }
}

impl<'a, T> IntoIterator for &'a Shared<T>
where
    &'a T: IntoIterator,
{
    type Item = <&'a T as IntoIterator>::Item;
    type IntoIter = <&'a T as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        (&self.0.0).into_iter()
    }
}

/// The line of a file where a text begins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The file, as messages show it (relative to the recipe where it can be).
    pub path: String,
    /// The line of the text's first line, from 1.
    pub line: u32,
}

/// One thing a value was made from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A file that `file()` or `template()` read.
    File(String),
    /// A directory that `dir()` listed.
    Directory(String),
    /// A variable of the recipe.
    Variable(String),
    /// A variable of the environment that `env()` read.
    Environment(String),
}

/// Why a value is sensitive: the way it took, from the declaration on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sensitive {
    /// One phrase per step, such as "variable `token` is declared sensitive" or "local `header` uses it".
    pub way: Vec<String>,
}

/// Most sources that a value remembers: they are for people to read.
const MAX_SOURCES: usize = 64;

/// Where a value came from, and whether it is sensitive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    sources: Option<Arc<BTreeSet<Source>>>,
    /// Set on a sensitive value, and on all that is made of it.
    pub sensitive: Option<Arc<Sensitive>>,
}

impl Marks {
    /// The marks of a value that was read from `source`.
    pub fn from_source(source: Source) -> Self {
        Marks {
            sources: Some(Arc::new(BTreeSet::from([source]))),
            sensitive: None,
        }
    }

    /// What the value was made from.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.sources.iter().flat_map(|sources| sources.iter())
    }

    /// Adds another value's marks to these.
    pub fn unite(&mut self, other: &Marks) {
        if self.sensitive.is_none() {
            self.sensitive.clone_from(&other.sensitive);
        }
        match (&mut self.sources, &other.sources) {
            (_, None) => {}
            (mine @ None, Some(theirs)) => *mine = Some(theirs.clone()),
            (Some(mine), Some(theirs)) => {
                if !Arc::ptr_eq(mine, theirs) && mine.len() < MAX_SOURCES && !theirs.is_subset(mine)
                {
                    let more = theirs
                        .iter()
                        .filter(|source| !mine.contains(*source))
                        .cloned();
                    let more: Vec<_> = more.take(MAX_SOURCES - mine.len()).collect();
                    Arc::make_mut(mine).extend(more);
                }
            }
        }
    }
}

impl Value {
    /// A value without marks.
    pub fn new(data: Data) -> Self {
        Value {
            data,
            marks: Marks::default(),
            origin: None,
        }
    }

    /// A text without marks.
    pub fn string(text: impl Into<Arc<str>>) -> Self {
        Value::new(Data::String(text.into()))
    }

    /// The text, if this is one.
    pub fn as_str(&self) -> Option<&str> {
        match &self.data {
            Data::String(text) => Some(text),
            _ => None,
        }
    }

    /// A list without marks.
    pub fn list(items: Vec<Value>) -> Self {
        Value::new(Data::List(items.into()))
    }

    /// An object without marks.
    pub fn object(items: BTreeMap<String, Value>) -> Self {
        Value::new(Data::Object(items.into()))
    }

    /// What is known of the value and all that it holds. Takes the same time for every value.
    pub fn below(&self) -> Nested {
        let mut below = match &self.data {
            Data::List(items) => items.below().clone(),
            Data::Object(items) => items.below().clone(),
            Data::String(text) => Nested {
                parts: 1,
                bytes: text.len() as u64,
                ..Nested::default()
            },
            _ => Nested {
                parts: 1,
                ..Nested::default()
            },
        };
        below.marks.unite(&self.marks);
        below
    }

    /// Whether it or anything in it is sensitive.
    pub fn is_sensitive(&self) -> bool {
        let inner = match &self.data {
            Data::List(items) => items.below().marks.sensitive.is_some(),
            Data::Object(items) => items.below().marks.sensitive.is_some(),
            _ => false,
        };
        inner || self.marks.sensitive.is_some()
    }

    /// What the value is, in a word for messages: `a string`, `a list`.
    pub fn type_name(&self) -> &'static str {
        match self.data {
            Data::Null => "null",
            Data::Bool(_) => "a bool",
            Data::Number(_) => "a number",
            Data::String(_) => "a string",
            Data::List(_) => "a list",
            Data::Object(_) => "an object",
            Data::Stage(_) => "a stage",
            Data::StageFile { .. } => "a stage's file",
        }
    }
}

impl fmt::Debug for Value {
    /// Never shows a sensitive value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.marks.sensitive.is_some() {
            return f.write_str("(sensitive)");
        }
        match &self.data {
            Data::Null => f.write_str("null"),
            Data::Bool(truth) => truth.fmt(f),
            Data::Number(number) => write!(f, "{number}"),
            Data::String(text) => write!(f, "{text:?}"),
            Data::List(items) => f.debug_list().entries(items.iter()).finish(),
            Data::Object(items) => f.debug_map().entries(items.iter()).finish(),
            Data::Stage(stage) => write!(f, "stage.{stage}"),
            Data::StageFile { stage, file } => write!(f, "stage.{stage}.files[{file:?}]"),
        }
    }
}

/// What the value is; marks and origin do not enter.
impl Describe for Value {
    fn describe(&self, sink: &mut dyn Sink) {
        match &self.data {
            Data::Null => sink.put(Atom::Variant(0, "null")),
            Data::Bool(truth) => sink.put(Atom::Bool(*truth)),
            Data::Number(Number::Int(whole)) => {
                sink.put(Atom::Variant(1, "number"));
                sink.put(Atom::U64(*whole as u64));
            }
            Data::Number(number @ Number::Decimal(_)) => {
                sink.put(Atom::Variant(2, "number"));
                sink.put(Atom::Str(&number.to_string()));
            }
            Data::String(text) => sink.put(Atom::Str(text)),
            Data::List(items) => list(sink, items.iter()),
            Data::Object(pairs) => map(sink, pairs.iter()),
            Data::Stage(stage) => {
                sink.put(Atom::Variant(3, "stage"));
                sink.put(Atom::Str(stage));
            }
            Data::StageFile { stage, file } => {
                sink.put(Atom::Variant(4, "file of a stage"));
                field(sink, "stage", &**stage);
                field(sink, "file", &**file);
            }
        }
    }
}
