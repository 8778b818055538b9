//! What is wrong with a recipe, as plain data: message, places in the text, reason, way out.
//! Knows texts and byte ranges; knows no syntax and does not print.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// A range of bytes in one of the texts of [`Sources`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The text's number in [`Sources`].
    pub file: u32,
    /// The first byte.
    pub start: u32,
    /// The byte after the last one.
    pub end: u32,
}

impl Span {
    /// The range from this one's start to the other's end; both lie in one text.
    pub fn to(self, other: Span) -> Span {
        Span {
            file: self.file,
            start: self.start.min(other.start),
            end: self.end.max(other.end),
        }
    }
}

/// One text that was read: a file of the recipe, a file with variables, or a value of the command line.
#[derive(Debug, Clone)]
pub struct Text {
    /// What messages call it: the path as the user would type it, or `--var x`.
    pub name: String,
    /// What keys' origins call it: the path relative to the recipe's directory.
    pub short: String,
    pub text: Arc<str>,
    lines: Vec<u32>,
}

/// The texts that spans point into.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    texts: Vec<Arc<Text>>,
}

impl Text {
    /// The line that a byte stands in, from 1.
    pub fn line(&self, at: u32) -> u32 {
        self.lines.partition_point(|start| *start <= at).max(1) as u32
    }
}

impl Sources {
    /// Adds a text and returns its number.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        short: impl Into<String>,
        text: impl Into<Arc<str>>,
    ) -> u32 {
        let text = text.into();
        let starts = text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n')
            .map(|(at, _)| at as u32 + 1);
        let lines = std::iter::once(0).chain(starts).collect();
        self.texts.push(Arc::new(Text {
            name: name.into(),
            short: short.into(),
            text,
            lines,
        }));
        (self.texts.len() - 1) as u32
    }

    /// The text of this number.
    pub fn get(&self, file: u32) -> Option<&Arc<Text>> {
        self.texts.get(file as usize)
    }

    /// The line and column of a span's start, both from 1; the column counts characters.
    pub fn position(&self, span: Span) -> (u32, u32) {
        let Some(text) = self.get(span.file) else {
            return (1, 1);
        };
        let line = text.line(span.start);
        let start = text.lines[line as usize - 1] as usize;
        let end = (span.start as usize).min(text.text.len());
        let column = text
            .text
            .get(start..end)
            .map_or(0, |before| before.chars().count());
        (line, column as u32 + 1)
    }

    /// `file:line` of a span's start.
    pub fn place(&self, span: Span) -> String {
        let name = self.get(span.file).map_or("", |text| text.name.as_str());
        format!("{name}:{}", self.position(span).0)
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The recipe cannot be used.
    Error,
    /// It can, but something is probably not meant so.
    Warning,
}

/// A place in a text and what it says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    pub span: Span,
    /// What is there; may be empty.
    pub text: String,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong: a lower-case fragment.
    pub message: String,
    /// Where it is wrong; none for what no text says, such as a flag.
    pub primary: Option<Label>,
    /// Other places that have to do with it.
    pub secondary: Vec<Label>,
    /// Why it is wrong.
    pub notes: Vec<String>,
    pub help: Vec<String>,
    /// What there has to be first, where whoever has the recipe read may know how it is made.
    pub lacks: Option<Lack>,
}

/// What there has to be before a recipe can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// There is nothing at the recipe's path.
    Path,
    /// There is no recipe in the directory.
    Recipe,
    /// The recipe has no stages.
    Stages,
}

impl Diagnostic {
    /// An error without a place.
    pub fn error(message: impl Into<String>) -> Self {
        Diagnostic {
            severity: Severity::Error,
            message: message.into(),
            primary: None,
            secondary: Vec::new(),
            notes: Vec::new(),
            help: Vec::new(),
            lacks: None,
        }
    }

    /// An error at a place.
    pub fn at(span: Span, message: impl Into<String>) -> Self {
        Diagnostic {
            primary: Some(Label {
                span,
                text: String::new(),
            }),
            ..Diagnostic::error(message)
        }
    }

    /// Makes it a warning.
    pub fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// Says what stands at the primary place.
    pub fn label(mut self, text: impl Into<String>) -> Self {
        if let Some(primary) = &mut self.primary {
            primary.text = text.into();
        }
        self
    }

    pub fn also(mut self, span: Span, text: impl Into<String>) -> Self {
        self.secondary.push(Label {
            span,
            text: text.into(),
        });
        self
    }

    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Adds a way out.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// Says what there has to be first.
    pub(super) fn lacks(mut self, lack: Lack) -> Self {
        self.lacks = Some(lack);
        self
    }

    /// Adds a way out where there is one.
    pub fn maybe_help(self, help: Option<String>) -> Self {
        match help {
            Some(help) => self.help(help),
            None => self,
        }
    }
}

/// All that is wrong with a recipe, with the texts that it points into. Never empty as an error.
#[derive(Debug, Clone, Default)]
pub struct Diagnostics {
    /// What is wrong, in order of file and place.
    pub list: Vec<Diagnostic>,
    pub sources: Arc<Sources>,
}

impl Diagnostics {
    /// Brings into order of place, and leaves each thing once.
    pub(super) fn new(mut list: Vec<Diagnostic>, sources: Arc<Sources>) -> Self {
        let key = |diagnostic: &Diagnostic| {
            let span = diagnostic.primary.as_ref().map(|label| label.span);
            (span, diagnostic.severity as u8)
        };
        list.sort_by(|a, b| key(a).cmp(&key(b)).then_with(|| a.message.cmp(&b.message)));
        list.dedup_by(|a, b| key(a) == key(b) && a.message == b.message);
        Diagnostics { list, sources }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many errors there are; warnings do not count.
    pub fn errors(&self) -> usize {
        self.list
            .iter()
            .filter(|diagnostic| diagnostic.severity == Severity::Error)
            .count()
    }
}

impl std::error::Error for Diagnostics {}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}
