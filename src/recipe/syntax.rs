//! From bytes to a syntax tree: encoding, quotes, nesting, then the parser; the first thing that is wrong.
//! Knows HCL's surface; knows no recipe.

use hcl_edit::structure::Body;
use hcl_edit::template::Template;

use super::diagnostic::{Diagnostic, Sources, Span};
use super::lex::{self, LexProblem, Lexed, MAX_DEPTH};

/// Largest text, in bytes. Spans are 32 bits wide, and no recipe is as large as this.
pub(super) const MAX_TEXT: usize = 64 << 20;

/// Adds a file's bytes to the texts, if they are text.
pub(super) fn add(
    sources: &mut Sources,
    name: &str,
    short: &str,
    bytes: Vec<u8>,
) -> (u32, Result<(), Diagnostic>) {
    if bytes.len() > MAX_TEXT {
        let file = sources.add(name, short, "");
        let message = format!("the file is larger than {} MiB", MAX_TEXT >> 20);
        return (
            file,
            Err(Diagnostic::at(
                Span {
                    file,
                    start: 0,
                    end: 0,
                },
                message,
            )),
        );
    }
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let bytes = error.into_bytes();
            let wide = bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff");
            let byte = bytes.get(at).copied().unwrap_or_default();
            // Everything before `at` is valid, so that offsets up to there are those of the file.
            let file = sources.add(name, short, String::from_utf8_lossy(&bytes));
            let span = Span {
                file,
                start: at as u32,
                end: at as u32 + 3,
            };
            let diagnostic = Diagnostic::at(span, "the file is not UTF-8 text");
            let diagnostic = if wide {
                diagnostic
                    .label("it looks like UTF-16")
                    .help("save the file as UTF-8 without a byte order mark")
            } else {
                diagnostic
                    .label(format!("byte 0x{byte:02x} is not valid UTF-8"))
                    .help("save the file as UTF-8: `iconv -f latin1 -t utf-8 FILE` converts an old one")
            };
            return (file, Err(diagnostic));
        }
    };
    let file = sources.add(name, short, text);
    let marked = sources
        .get(file)
        .is_some_and(|text| text.text.starts_with('\u{feff}'));
    if marked {
        let diagnostic = Diagnostic::at(Span { file, start: 0, end: 3 }, "the file starts with a byte order mark")
            .help(
                "save the file as UTF-8 without a byte order mark (`sed -i '1s/^\\xEF\\xBB\\xBF//' FILE` removes it)",
            );
        return (file, Err(diagnostic));
    }
    (file, Ok(()))
}

/// Parses a file of blocks and attributes.
pub(super) fn parse_body(text: &str, file: u32) -> Result<Body, Diagnostic> {
    let lexed = lex::scan(text);
    check(text, file, &lexed)?;
    hcl_edit::parser::parse_body(text).map_err(|error| explain(&error, text, file, &lexed))
}

pub(super) fn parse_expr(text: &str, file: u32) -> Result<hcl_edit::expr::Expression, Diagnostic> {
    let lexed = lex::scan(text);
    check(text, file, &lexed)?;
    hcl_edit::parser::parse_expr(text).map_err(|error| explain(&error, text, file, &lexed))
}

/// Parses a template file.
pub(super) fn parse_template(text: &str, file: u32) -> Result<Template, Diagnostic> {
    // A template's text is no code outside its interpolations: the heredoc rules fit it, not those of a recipe.
    let wrapped = format!("<<T__\n{text}\nT__\n");
    let lexed = lex::scan(&wrapped);
    if let Some(LexProblem::TooDeep(at)) = lexed.problem {
        return Err(too_deep(Span {
            file,
            start: at.saturating_sub(6) as u32,
            end: at.saturating_sub(4) as u32,
        }));
    }
    hcl_edit::parser::parse_template(text)
        .map_err(|error| explain(&error, text, file, &Lexed::default()))
}

fn too_deep(span: Span) -> Diagnostic {
    Diagnostic::at(
        span,
        format!("the nesting is deeper than {MAX_DEPTH} levels"),
    )
    .label("the nesting gets too deep here")
    .help("move inner parts into `locals`")
}

/// What makes the text unfit for the parser, or would be accepted by it but is wrong.
fn check(text: &str, file: u32, lexed: &Lexed) -> Result<(), Diagnostic> {
    let span = |start: usize, end: usize| Span {
        file,
        start: start as u32,
        end: end as u32,
    };
    match lexed.problem {
        Some(LexProblem::Nul(at)) => Err(Diagnostic::at(
            span(at, at + 1),
            "the file contains a NUL byte",
        )
        .help("remove it; is this a text file?")),
        Some(LexProblem::TooDeep(at)) => Err(too_deep(span(at, at + 1))),
        Some(LexProblem::OpenQuote { at, line_end }) => {
            let mut diagnostic = Diagnostic::at(span(at, at + 1), "this quote is never closed")
                .label("the string starts here, and its line ends without a closing `\"`")
                .help("close the quote on the same line; for several lines use a heredoc: <<EOT … EOT");
            if text[at + 1..line_end].trim().is_empty() && at > 0 {
                diagnostic =
                    diagnostic.note("it may be a closing quote whose opening quote is missing");
            }
            Err(diagnostic)
        }
        _ => Ok(()),
    }
}

/// The parser's error in our words; where brackets explain it better, that.
fn explain(error: &hcl_edit::parser::Error, text: &str, file: u32, lexed: &Lexed) -> Diagnostic {
    let span = |start: usize, end: usize| Span {
        file,
        start: start as u32,
        end: end.min(text.len()) as u32,
    };
    match lexed.problem {
        Some(LexProblem::OpenHeredoc { at, word }) => {
            let word = &text[word.0..word.1];
            return Diagnostic::at(
                span(at, at + 2 + word.len()),
                format!("the heredoc `{word}` is never closed"),
            )
            .label("it starts here")
            .help(format!("end it with a line that contains only `{word}`"));
        }
        Some(LexProblem::OpenComment(at)) => {
            return Diagnostic::at(span(at, at + 2), "this comment is never closed")
                .help("close it with `*/`");
        }
        Some(LexProblem::OpenBracket { at, len }) => {
            let bracket = &text[at..at + len];
            let diagnostic = Diagnostic::at(
                span(at, at + len),
                format!("this `{bracket}` is never closed"),
            );
            return if len == 2 {
                diagnostic.help(shell_hint(bracket))
            } else {
                diagnostic
            };
        }
        Some(LexProblem::WrongClose { at, open }) => {
            let bracket = &text[at..at + 1];
            let diagnostic = Diagnostic::at(
                span(at, at + 1),
                format!("`{bracket}` has no matching opening bracket"),
            );
            return match open {
                Some(open) => diagnostic.also(span(open, open + 1), "this is still open"),
                None => diagnostic,
            };
        }
        _ => {}
    }
    let at = floor(text, error.location().offset());
    // A line's end is no character to point at.
    let len = text[at..]
        .chars()
        .next()
        .filter(|c| !matches!(c, '\n' | '\r'))
        .map_or(0, char::len_utf8);
    let place = span(at, at + len);
    let message = error.message();
    if message.contains("nesting depth") {
        return too_deep(place);
    }
    if message.contains("chained binary operators") {
        return Diagnostic::at(place, "an expression has more than 128 operators")
            .help("use a template, `concat`, `join` or `sum`, or split it with `locals`");
    }
    if message.contains("found redefined") {
        let word = word_at(text, at);
        let what = if message.contains("object") {
            "the key"
        } else {
            ""
        };
        let message = format!("{what} `{word}` is defined twice")
            .trim_start()
            .to_owned();
        return Diagnostic::at(span(at, at + word.len()), message).help("remove one of them");
    }
    if let Some(diagnostic) = special(message, text, at, file) {
        return diagnostic;
    }
    let mut diagnostic = Diagnostic::at(
        place,
        format!("syntax error: {}", reworded(message, &text[at..])),
    );
    if let Some((from, _)) = lexed
        .interpolations
        .iter()
        .find(|(from, to)| (*from..=*to).contains(&at))
    {
        diagnostic = diagnostic
            .also(
                span(*from, from + 2),
                "this starts an expression of the recipe",
            )
            .help(shell_hint(&text[*from..from + 2]));
    }
    diagnostic
}

/// Mistakes that have a name of their own.
fn special(message: &str, text: &str, at: usize, file: u32) -> Option<Diagnostic> {
    let span = |start: usize, end: usize| Span {
        file,
        start: start as u32,
        end: end.min(text.len()) as u32,
    };
    let rest = &text[at..];
    if message.contains("escape sequence") {
        // The parser stops behind the letter.
        let letter = text[..at].chars().next_back()?;
        let start = at.checked_sub(letter.len_utf8() + 1)?;
        let diagnostic = Diagnostic::at(span(start, at), format!("unknown escape `\\{letter}`"));
        return Some(diagnostic.help(
            "write `\\\\` for a backslash; valid escapes are \\n, \\r, \\t, \\\", \\\\, \\uNNNN and \
                       \\UNNNNNNNN",
        ));
    }
    if let Some(inner) = rest.strip_prefix("%{") {
        let word = word_at(inner.trim_start_matches(['~', ' ', '\t']), 0);
        let found = match word {
            "if" | "for" => format!("this `%{{ {word} }}` is never closed"),
            "else" | "endif" | "endfor" => format!("this `%{{ {word} }}` closes nothing"),
            _ => return None,
        };
        let help = match word {
            "if" | "else" | "endif" => "close `%{ if … }` with `%{ endif }`",
            _ => "close `%{ for … }` with `%{ endfor }`",
        };
        return Some(Diagnostic::at(span(at, at + 2), found).help(help));
    }
    if rest.starts_with(':') && message.contains("structure") {
        return Some(
            Diagnostic::at(span(at, at + 1), "expected `=`, found a colon")
                .help("write `name = value`"),
        );
    }
    if rest.starts_with(',') && message.contains("block body") {
        let help = "attributes are not separated by commas: write each on its own line";
        return Some(
            Diagnostic::at(span(at, at + 1), "there is a comma between two attributes").help(help),
        );
    }
    None
}

/// How to write `${` so that it reaches the shell.
fn shell_hint(bracket: &str) -> String {
    let sign = &bracket[..1];
    format!("if it is meant for the shell, double the sign: `{sign}{bracket}…}}`")
}

fn reworded(message: &str, rest: &str) -> String {
    let found = match rest.chars().next() {
        None => "the end of the input".to_owned(),
        Some('\n' | '\r') => "the end of the line".to_owned(),
        Some(c) if c.is_alphanumeric() || c == '_' => format!("`{}`", word_at(rest, 0)),
        Some(c) => format!("`{c}`"),
    };
    let (what, expected) = match message.split_once("; ") {
        Some((what, expected)) if what.starts_with("invalid ") => (Some(&what[8..]), expected),
        _ => (None, message),
    };
    let expected = expected
        .replace("`\n`", "a new line")
        .replace("newline", "a new line")
        .replace("eof", "the end of the file")
        .replace("identifier", "a name");
    if what == Some("expression") {
        return format!("a value is missing before {found}");
    }
    match expected.strip_prefix("expected ") {
        Some(expected) => format!("expected {expected}, found {found}"),
        None => format!("unexpected {found}"),
    }
}

fn word_at(text: &str, at: usize) -> &str {
    let rest = text.get(at..).unwrap_or_default();
    let end = rest
        .char_indices()
        .find(|(_, c)| !(c.is_alphanumeric() || matches!(c, '_' | '-')))
        .map_or(rest.len(), |(end, _)| end);
    if end == 0 {
        rest.get(..rest.chars().next().map_or(0, char::len_utf8))
            .unwrap_or_default()
    } else {
        &rest[..end]
    }
}

fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
