//! Texts from outside, made safe to show: nothing acts on a terminal, and no line is a command to a CI service.
//! Knows control characters and the marks of CI services, not where a text comes from.

use std::borrow::Cow;

/// The text of a line that came from a guest: decoded lossily, what a terminal would act on made visible or dropped.
/// After a carriage return without a line feed, only what a terminal would show last remains.
pub fn neutralise(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches(['\r', '\n']);
    let shown = text
        .rsplit('\r')
        .find(|part| !part.is_empty())
        .unwrap_or_default();
    let mut out = String::with_capacity(shown.len());
    let mut chars = shown.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\t' => out.push(' '),
            // A CSI sequence (ECMA-48): colours and cursor movements of well-meaning tools. Dropped whole.
            '\u{1b}' if chars.peek() == Some(&'[') => {
                chars.next();
                while chars
                    .next_if(|c| ('\u{20}'..='\u{3f}').contains(c))
                    .is_some()
                {}
                chars.next_if(|c| ('\u{40}'..='\u{7e}').contains(c));
            }
            // C0, DEL, C1, and the characters that reorder or hide text.
            c if c.is_control() => out.extend(c.escape_unicode()),
            '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}'
            | '\u{feff}' => {
                out.extend(c.escape_unicode());
            }
            c => out.push(c),
        }
    }
    let changed = match without_commands(&out) {
        Cow::Owned(changed) => Some(changed),
        Cow::Borrowed(_) => None,
    };
    changed.unwrap_or(out)
}

/// A line that no CI service takes for a command to it: `::name::` after any blanks (GitHub Actions), `##[name]` anywhere
/// (GitHub Actions, Azure Pipelines), `##name[` (Azure Pipelines, TeamCity). The first character of each such mark is
/// written as its number: a blank before it would be trimmed away by the services, also one that is not ASCII.
pub fn without_commands(line: &str) -> Cow<'_, str> {
    let is_mark = |rest: &str| {
        rest.strip_prefix("##").is_some_and(|rest| {
            rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "-_.".contains(c))
                .starts_with('[')
        })
    };
    let start = line
        .find(|c: char| c.is_ascii_graphic())
        .unwrap_or(line.len());
    let command = line[start..].starts_with("::").then_some(start);
    let marks = line
        .match_indices('#')
        .map(|(at, _)| at)
        .filter(|at| is_mark(&line[*at..]));
    let mut places = command.into_iter().chain(marks).peekable();
    if places.peek().is_none() {
        return Cow::Borrowed(line);
    }
    let (mut out, mut from) = (String::with_capacity(line.len() + 5), 0);
    for at in places {
        out.push_str(&line[from..at]);
        out.extend(
            line[at..]
                .chars()
                .next()
                .into_iter()
                .flat_map(char::escape_unicode),
        );
        from = at + 1;
    }
    Cow::Owned(out + &line[from..])
}
