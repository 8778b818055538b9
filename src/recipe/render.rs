//! Diagnostics as text for people, in rustc's manner, and as JSON for machines.
//! Knows how to show, not what is wrong; returns strings and does not print.

use std::borrow::Cow;
use std::fmt::Write;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::diagnostic::{Diagnostic, Diagnostics, Label, Severity, Sources, Span};

/// Longest line of a text that is shown; of a longer one the part around the span.
const MAX_LINE: usize = 400;
/// Most diagnostics that are shown in full.
const MAX_SHOWN: usize = 50;

impl Diagnostics {
    /// All diagnostics as text, one blank line between two, with a line that counts them at the end.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let mut out = String::new();
        for diagnostic in self.list.iter().take(MAX_SHOWN) {
            out.push_str(&one(diagnostic, &self.sources, &renderer));
            out.push_str("\n\n");
        }
        if self.list.len() > MAX_SHOWN {
            let _ = writeln!(out, "… and {} more\n", self.list.len() - MAX_SHOWN);
        }
        match self.errors() {
            0 => {}
            1 => out.push_str("1 error in the recipe\n"),
            many => {
                let _ = writeln!(out, "{many} errors in the recipe");
            }
        }
        out
    }
}

fn one(diagnostic: &Diagnostic, sources: &Sources, renderer: &Renderer) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut group = Group::with_title(level.primary_title(neutral(&diagnostic.message)));
    let mut labels: Vec<(&Label, AnnotationKind)> = Vec::new();
    labels.extend(
        diagnostic
            .primary
            .iter()
            .map(|label| (label, AnnotationKind::Primary)),
    );
    labels.extend(
        diagnostic
            .secondary
            .iter()
            .map(|label| (label, AnnotationKind::Context)),
    );
    let mut files: Vec<u32> = Vec::new();
    for (label, _) in &labels {
        if !files.contains(&label.span.file) {
            files.push(label.span.file);
        }
    }
    for file in files {
        let Some(text) = sources.get(file) else {
            continue;
        };
        let here: Vec<_> = labels
            .iter()
            .filter(|(label, _)| label.span.file == file)
            .collect();
        let excerpt = Excerpt::new(&text.text, here.iter().map(|(label, _)| label.span));
        let mut snippet = Snippet::source(excerpt.text.clone())
            .path(neutral(&text.name))
            .line_start(excerpt.line);
        for (label, kind) in here {
            let annotation = kind.span(excerpt.range(label.span));
            snippet = snippet.annotation(if label.text.is_empty() {
                annotation
            } else {
                annotation.label(neutral(&label.text))
            });
        }
        group = group.element(snippet);
    }
    for note in &diagnostic.notes {
        group = group.element(Level::NOTE.message(neutral(note)));
    }
    for help in &diagnostic.help {
        group = group.element(Level::HELP.message(neutral(help)));
    }
    renderer.render(&[group])
}

/// The lines of a text that are shown: neutralised, of bounded length, with the way from old to new offsets.
struct Excerpt {
    text: String,
    line: usize,
    /// Old and new offsets of each shown stretch, with its length if it is a verbatim one.
    map: Vec<(usize, usize)>,
}

impl Excerpt {
    fn new(text: &str, spans: impl Iterator<Item = Span>) -> Self {
        let spans: Vec<(usize, usize)> = spans
            .map(|span| {
                let start = floor(text, span.start as usize);
                (start, floor(text, span.end as usize).max(start))
            })
            .collect();
        let first = spans.iter().map(|span| span.0).min().unwrap_or(0);
        let last = spans.iter().map(|span| span.1).max().unwrap_or(0);
        let start = text[..first].rfind('\n').map_or(0, |at| at + 1);
        let end = text[last..].find('\n').map_or(text.len(), |at| last + at);
        let mut excerpt = Excerpt {
            text: String::with_capacity(end - start),
            line: text[..start].matches('\n').count() + 1,
            map: Vec::new(),
        };
        let mut offset = start;
        for line in text[start..end].split_inclusive('\n') {
            let near: Vec<usize> = spans
                .iter()
                .flat_map(|span| [span.0, span.1])
                .filter(|at| (offset..=offset + line.len()).contains(at))
                .collect();
            excerpt.push_line(line, offset, &near);
            offset += line.len();
        }
        excerpt.map.push((offset, excerpt.text.len()));
        excerpt
    }

    /// Adds one line; of a long one only what is around the positions in `near`.
    fn push_line(&mut self, line: &str, offset: usize, near: &[usize]) {
        let keep = if line.len() <= MAX_LINE {
            0..line.len()
        } else {
            let from = near
                .iter()
                .min()
                .map_or(0, |at| at - offset)
                .saturating_sub(MAX_LINE / 4);
            floor(line, from)..floor(line, from + MAX_LINE)
        };
        for (at, c) in line.char_indices() {
            self.map.push((offset + at, self.text.len()));
            if keep.contains(&at) {
                match c {
                    '\n' | '\t' => self.text.push(c),
                    '\r' => {}
                    c => self.text.push(visible(c)),
                }
            } else if c == '\n' {
                self.text.push(c);
            }
        }
    }

    fn range(&self, span: Span) -> std::ops::Range<usize> {
        let start = self.at(span.start as usize);
        let end = self.at(span.end as usize).max(start);
        // An empty range at the end of the text still needs a place to stand.
        start..end
    }

    fn at(&self, old: usize) -> usize {
        let index = self.map.partition_point(|(from, _)| *from < old);
        self.map.get(index).map_or(self.text.len(), |(_, to)| *to)
    }
}

/// The largest character boundary that is not beyond `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// A control character's picture, so that no recipe can move the reader's cursor.
fn visible(c: char) -> char {
    match c {
        '\u{7f}' => '\u{2421}',
        c if (c as u32) < 0x20 => char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}'),
        // C1 controls, and the marks that turn the direction of text.
        '\u{80}'..='\u{9f}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c => c,
    }
}

/// A text without control characters; line ends stay.
pub(super) fn neutral(text: &str) -> Cow<'_, str> {
    if text.chars().all(|c| c == '\n' || visible(c) == c) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(
        text.chars()
            .map(|c| if c == '\n' { c } else { visible(c) })
            .collect(),
    )
}
