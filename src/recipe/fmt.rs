//! The canonical form of a recipe's text: indentation, spaces, aligned `=`. Comments and meaning stay.
//! Knows tokens and lines; what stands within quotes and heredocs is never touched.

use std::sync::Arc;

use super::diagnostic::{Diagnostics, Sources};
use super::lex::{self, LexKind, Token};
use super::syntax;

/// Spaces for each level.
const INDENT: usize = 2;

/// Formats a recipe's text, as `packer fmt` would: two spaces for each level, `=` of neighbouring attributes below each
/// other, single blank lines kept. Formatting twice changes nothing more. `name` is for messages.
///
/// # Errors
/// The text is no HCL: its first syntax error.
pub fn format(name: &str, text: &str) -> Result<String, Diagnostics> {
    let mut sources = Sources::default();
    let (file, checked) = syntax::add(&mut sources, name, name, text.as_bytes().to_vec());
    if let Err(diagnostic) = checked.and_then(|()| syntax::parse_body(text, file).map(drop)) {
        return Err(Diagnostics::new(vec![diagnostic], Arc::new(sources)));
    }
    let lexed = lex::lex(text);
    let mut lines = split(text, &lexed.tokens);
    indent(text, &mut lines);
    align(&mut lines);
    let out = join(&lines);
    debug_assert_eq!(
        meaning(text),
        meaning(&out),
        "BUG: formatting changed more than blanks"
    );
    Ok(out)
}

/// What of a text counts: its tokens, with any number of line ends in a row as one.
fn meaning(text: &str) -> Vec<&str> {
    let tokens = lex::lex(text).tokens;
    let mut all: Vec<&str> = Vec::with_capacity(tokens.len());
    for token in tokens {
        let part = if token.kind == LexKind::Newline {
            "\n"
        } else {
            &text[token.start..token.end]
        };
        if part != "\n" || all.last().is_some_and(|last| *last != "\n") {
            all.push(part);
        }
    }
    while all.last() == Some(&"\n") {
        all.pop();
    }
    all
}

/// One line of the result; a text of several lines in it, such as a heredoc, stays as it is.
#[derive(Default)]
struct FormattedLine {
    tokens: Vec<Token>,
    level: usize,
    /// Blank lines before it in the source: none or one.
    blank: bool,
    /// The part before an aligned `=`, and the rest from the `=` on; all of it in `rest` where nothing is aligned.
    key: String,
    rest: String,
    comment: String,
    /// Whether it is `name = value` on one line.
    attribute: bool,
    /// Whether the texts in it go over several lines.
    tall: bool,
    /// Brackets that are open at its end and were not at its start, or the other way round.
    uneven: bool,
}

fn split(text: &str, tokens: &[Token]) -> Vec<FormattedLine> {
    let mut lines: Vec<FormattedLine> = Vec::new();
    let mut line = FormattedLine::default();
    let mut newlines = 0;
    for token in tokens {
        if token.kind == LexKind::Newline {
            newlines += 1;
            if !line.tokens.is_empty() {
                lines.push(std::mem::take(&mut line));
                newlines = 1;
            }
            continue;
        }
        if line.tokens.is_empty() {
            line.blank = newlines > 1 && !lines.is_empty();
            newlines = 0;
        }
        line.tall |= text[token.start..token.end].contains('\n');
        line.tokens.push(*token);
    }
    if !line.tokens.is_empty() {
        lines.push(line);
    }
    lines
}

/// Gives each line its level and its text. Of the brackets that a line leaves open the last one indents.
fn indent(text: &str, lines: &mut [FormattedLine]) {
    let mut open: Vec<bool> = Vec::new();
    for line in lines {
        let leading = line
            .tokens
            .iter()
            .take_while(|token| token.kind == LexKind::Close)
            .count();
        let before = open.len();
        open.truncate(before.saturating_sub(leading));
        line.level = open.iter().filter(|indents| **indents).count();
        let mut least = open.len();
        for token in &line.tokens[leading..] {
            match token.kind {
                LexKind::Open => open.push(false),
                LexKind::Close => {
                    open.pop();
                    least = least.min(open.len());
                }
                _ => {}
            }
        }
        if open.len() > least
            && let Some(last) = open.last_mut()
        {
            *last = true;
        }
        line.uneven = leading > 0 || open.len() > least || least < before - leading.min(before);
        write(text, line);
    }
}

fn write(text: &str, line: &mut FormattedLine) {
    let of = |token: &Token| &text[token.start..token.end];
    let mut count = line.tokens.len();
    if count > 1 && line.tokens[count - 1].kind == LexKind::LineComment {
        count -= 1;
        line.comment = of(&line.tokens[count]).to_owned();
    }
    let tokens = &line.tokens[..count];
    line.attribute = tokens.len() > 2
        && matches!(tokens[0].kind, LexKind::Word | LexKind::Quoted)
        && of(&tokens[1]) == "="
        && !line.tall
        && !line.uneven;
    let mut out = String::new();
    for (index, token) in tokens.iter().enumerate() {
        if index > 0 && space(text, tokens, index) {
            out.push(' ');
        }
        if line.attribute && index == 1 {
            line.key = std::mem::take(&mut out).trim_end().to_owned();
        }
        out.push_str(of(token));
    }
    line.rest = out;
}

/// Whether a space stands before this token.
fn space(text: &str, tokens: &[Token], index: usize) -> bool {
    let of = |token: &Token| &text[token.start..token.end];
    let (before, token) = (&tokens[index - 1], &tokens[index]);
    let (left, right) = (of(before), of(token));
    let apart = before.end < token.start;
    if matches!(token.kind, LexKind::BlockComment | LexKind::LineComment)
        || before.kind == LexKind::BlockComment
    {
        return true;
    }
    // Splats, accesses, namespaces, `...`: nothing around them.
    if matches!(left, "." | "::") || matches!(right, "." | "::" | "..." | ",") {
        return false;
    }
    if left == "*" && is_splat(text, tokens, index - 1)
        || right == "*" && is_splat(text, tokens, index)
    {
        return false;
    }
    match (left, right) {
        ("{", "}") | ("(" | "[", _) | (_, ")" | "]") => return false,
        ("{", _) | (_, "}") => return true,
        _ => {}
    }
    if before.kind == LexKind::Punct
        && matches!(left, "-" | "!")
        && is_unary(text, tokens, index - 1)
    {
        return false;
    }
    match right {
        "(" if before.kind == LexKind::Word => matches!(left, "in" | "if") && apart,
        "[" if matches!(
            before.kind,
            LexKind::Word | LexKind::Close | LexKind::Quoted
        ) =>
        {
            apart
        }
        _ => true,
    }
}

/// `[*]` or `.*`.
fn is_splat(text: &str, tokens: &[Token], index: usize) -> bool {
    let of = |index: usize| {
        tokens
            .get(index)
            .map_or("", |token| &text[token.start..token.end])
    };
    let before = index.checked_sub(1).map_or("", of);
    before == "." || before == "[" && of(index + 1) == "]"
}

/// A sign before its operand, not between two.
fn is_unary(text: &str, tokens: &[Token], index: usize) -> bool {
    let Some(before) = index.checked_sub(1).map(|before| &tokens[before]) else {
        return true;
    };
    match before.kind {
        LexKind::Punct => {
            !matches!(&text[before.start..before.end], "*") || !is_splat(text, tokens, index - 1)
        }
        LexKind::Open | LexKind::LineComment | LexKind::BlockComment | LexKind::Newline => true,
        LexKind::Word => matches!(&text[before.start..before.end], "in" | "if"),
        LexKind::Close | LexKind::Quoted | LexKind::Heredoc => false,
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// Puts the `=` of neighbouring attributes below each other, then the comments at the ends of neighbouring lines.
fn align(lines: &mut [FormattedLine]) {
    for run in runs(lines, |line| line.attribute) {
        let most = lines[run.clone()]
            .iter()
            .map(|line| width(&line.key))
            .max()
            .unwrap_or(0);
        for line in &mut lines[run] {
            let spaces = " ".repeat(most - width(&line.key) + 1);
            line.rest = format!("{}{spaces}{}", line.key, line.rest);
        }
    }
    for run in runs(lines, |line| !line.comment.is_empty() && !line.tall) {
        let most = lines[run.clone()]
            .iter()
            .map(|line| width(&line.rest))
            .max()
            .unwrap_or(0);
        for line in &mut lines[run] {
            let spaces = " ".repeat(most - width(&line.rest) + 1);
            line.rest = format!("{}{spaces}{}", line.rest, std::mem::take(&mut line.comment));
        }
    }
}

/// Stretches of lines of one level, without blank ones between, that all are so.
fn runs(
    lines: &[FormattedLine],
    is: impl Fn(&FormattedLine) -> bool,
) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        if !is(line) {
            continue;
        }
        match runs.last_mut() {
            Some(run)
                if run.end == index && !line.blank && lines[index - 1].level == line.level =>
            {
                run.end += 1
            }
            _ => runs.push(index..index + 1),
        }
    }
    runs
}

fn join(lines: &[FormattedLine]) -> String {
    let mut out = String::new();
    for line in lines {
        if line.blank {
            out.push('\n');
        }
        out.extend(std::iter::repeat_n(' ', line.level * INDENT));
        out.push_str(&line.rest);
        if !line.comment.is_empty() {
            out.push(' ');
            out.push_str(&line.comment);
        }
        out.push('\n');
    }
    out
}
