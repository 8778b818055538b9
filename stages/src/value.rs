//! The values of a recipe: HCL's types, stage references, and the marks that tell where a value came from.
//! Knows no syntax and no stage kind.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use impasto_store::key::{Atom, Describe, Sink, field, list, map};

/// A value of a recipe with its marks.
#[derive(Clone, PartialEq)]
pub struct Value {
    /// What it is.
    pub data: Data,
    /// Where it came from, and whether it is sensitive.
    pub marks: Marks,
    /// Where its text stands, for values that are one text of one file.
    pub origin: Option<Arc<Origin>>,
}

/// What a value is.
#[derive(Clone, PartialEq)]
pub enum Data {
    /// No value.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// Text.
    String(Arc<str>),
    /// Elements in order.
    List(Vec<Value>),
    /// Attributes by name.
    Object(BTreeMap<String, Value>),
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

/// A number: whole where it can be, so that 9007199254740993 stays itself.
#[derive(Debug, Clone, Copy)]
pub enum Number {
    /// A whole number.
    Int(i64),
    /// Any other finite number.
    Float(f64),
}

impl Number {
    /// The number as a float.
    pub fn as_f64(self) -> f64 {
        match self {
            Number::Int(whole) => whole as f64,
            Number::Float(float) => float,
        }
    }

    /// Takes a float, as a whole number where it is one.
    pub fn from_f64(float: f64) -> Self {
        // Beyond 2^53 a float no longer tells one whole number from the next.
        if float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0 {
            Number::Int(float as i64)
        } else {
            Number::Float(float)
        }
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Number::Int(a), Number::Int(b)) => a == b,
            (a, b) => a.as_f64() == b.as_f64(),
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Number::Int(whole) => whole.fmt(f),
            Number::Float(float) => float.fmt(f),
        }
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
        Marks { sources: Some(Arc::new(BTreeSet::from([source]))), sensitive: None }
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
                if !Arc::ptr_eq(mine, theirs) && !theirs.is_subset(mine) {
                    Arc::make_mut(mine).extend(theirs.iter().cloned());
                }
            }
        }
    }
}

impl Value {
    /// A value without marks.
    pub fn new(data: Data) -> Self {
        Value { data, marks: Marks::default(), origin: None }
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
            Data::List(items) => f.debug_list().entries(items).finish(),
            Data::Object(items) => f.debug_map().entries(items).finish(),
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
            Data::Number(Number::Float(float)) => {
                sink.put(Atom::Variant(2, "number"));
                sink.put(Atom::U64(float.to_bits()));
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
