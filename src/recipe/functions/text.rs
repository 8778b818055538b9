//! Functions of texts.

use std::collections::BTreeMap;
use std::sync::Arc;

use impasto_stages::{Data, Value};
use regex::{Captures, Regex};

use super::format::{format, formatlist};
use super::{
    Fail, Function, FunctionBody, at_least, exactly, function, int_arg, size_arg, text_arg,
    texts_arg,
};
use crate::recipe::convert::{MAX_TEXT, cost_written_out, list, object, truth};
use crate::recipe::diagnostic::Span;
use crate::recipe::eval::{Evaluator, Failed};

pub(super) static FUNCTIONS: &[Function] = &[
    function(
        "chomp",
        "chomp(text)",
        exactly(1),
        "A string without trailing newlines.",
        |args| {
            Ok(Value::string(
                text_arg(&args, 0)?.trim_end_matches(['\n', '\r']),
            ))
        },
    ),
    function(
        "endswith",
        "endswith(text, suffix)",
        exactly(2),
        "Whether a string ends with a suffix.",
        |args| Ok(truth(text_arg(&args, 0)?.ends_with(&*text_arg(&args, 1)?))),
    ),
    function(
        "format",
        "format(spec, values...)",
        at_least(1),
        "A string made from a format such as \"%s-%03d\" and values.",
        format,
    ),
    function(
        "formatlist",
        "formatlist(spec, values...)",
        at_least(1),
        "A list of formatted strings, one for each element of the lists among the values.",
        formatlist,
    ),
    function(
        "indent",
        "indent(spaces, text)",
        exactly(2),
        "A string with every line but the first indented.",
        |args| {
            let (spaces, text) = (size_arg(&args, 0)?, text_arg(&args, 1)?);
            let lines = text.matches('\n').count();
            bounded(spaces.saturating_mul(lines).saturating_add(text.len()))?;
            Ok(Value::string(text.replace(
                '\n',
                &format!("\n{}", " ".repeat(if lines == 0 { 0 } else { spaces })),
            )))
        },
    ),
    function(
        "join",
        "join(separator, lists...)",
        at_least(2),
        "The strings of lists, joined with a separator.",
        |args| {
            let separator = text_arg(&args, 0)?;
            let mut texts = Vec::new();
            for index in 1..args.len() {
                texts.extend(texts_arg(&args, index)?);
            }
            let bytes: usize = texts.iter().map(|text| text.len()).sum();
            bounded(
                separator
                    .len()
                    .saturating_mul(texts.len())
                    .saturating_add(bytes),
            )?;
            Ok(Value::string(texts.join(&separator)))
        },
    ),
    function(
        "lower",
        "lower(text)",
        exactly(1),
        "A string in lower case.",
        |args| Ok(Value::string(text_arg(&args, 0)?.to_lowercase())),
    ),
    Function {
        name: "regex",
        signature: "regex(pattern, text)",
        help: "The first match: a string, a list of the pattern's groups, or an object of its named groups. No match \
               is an error.",
        min: 2,
        max: Some(2),
        structural: false,
        cost: super::no_cost,
        run: FunctionBody::Host(|eval, span, args| {
            let (pattern, text) = match search(eval, span, &args, 0, 1)? {
                Ok(found) => found,
                Err(fail) => return Ok(Err(fail)),
            };
            let Some(found) = pattern.captures(&text) else {
                let help = "if there may be no match, use `try(regex(…), null)` or `length(regexall(…)) > 0`";
                return Ok(Err(Fail::arg(0, "the pattern does not match").help(help)));
            };
            Ok(Ok(matched(&pattern, &found)))
        }),
    },
    Function {
        name: "regex_replace",
        signature: "regex_replace(text, pattern, replacement)",
        help: "A string with every match of a pattern replaced; $1 and ${name} stand for its groups.",
        min: 3,
        max: Some(3),
        structural: false,
        cost: super::no_cost,
        run: FunctionBody::Host(|eval, span, args| {
            let (pattern, text) = match search(eval, span, &args, 1, 0)? {
                Ok(found) => found,
                Err(fail) => return Ok(Err(fail)),
            };
            let replacement = match text_arg(&args, 2) {
                Ok(text) => text,
                Err(fail) => return Ok(Err(fail)),
            };
            let groups = replacement.matches('$').count();
            let (mut out, mut last) = (String::new(), 0);
            for found in pattern.captures_iter(&text) {
                let Some(whole) = found.get(0) else { continue };
                match_step(eval, span, &text[whole.start()..])?;
                let more = groups
                    .saturating_mul(whole.len())
                    .saturating_add(replacement.len());
                out.push_str(&text[last..whole.start()]);
                if let Err(fail) = bounded(out.len().saturating_add(more)) {
                    return Ok(Err(fail));
                }
                found.expand(&replacement, &mut out);
                last = whole.end();
            }
            out.push_str(&text[last..]);
            Ok(bounded(out.len()).map(|()| Value::string(out)))
        }),
    },
    Function {
        name: "regexall",
        signature: "regexall(pattern, text)",
        help: "All matches, each in the form that `regex` returns.",
        min: 2,
        max: Some(2),
        structural: false,
        cost: super::no_cost,
        run: FunctionBody::Host(|eval, span, args| {
            let (pattern, text) = match search(eval, span, &args, 0, 1)? {
                Ok(found) => found,
                Err(fail) => return Ok(Err(fail)),
            };
            let mut all = Vec::new();
            for found in pattern.captures_iter(&text) {
                match_step(
                    eval,
                    span,
                    &text[found.get(0).map_or(0, |whole| whole.start())..],
                )?;
                let value = matched(&pattern, &found);
                eval.budget.charge(span, 0, cost_written_out(&value))?;
                all.push(value);
            }
            Ok(Ok(list(all)))
        }),
    },
    function(
        "replace",
        "replace(text, part, replacement)",
        exactly(3),
        "A string with every occurrence of a substring replaced.",
        |args| {
            let (text, part, replacement) = (
                text_arg(&args, 0)?,
                text_arg(&args, 1)?,
                text_arg(&args, 2)?,
            );
            let matches = if part.is_empty() {
                text.len() + 1
            } else {
                text.matches(&*part).count()
            };
            bounded(
                matches
                    .saturating_mul(replacement.len())
                    .saturating_add(text.len()),
            )?;
            Ok(Value::string(text.replace(&*part, &replacement)))
        },
    ),
    function(
        "split",
        "split(separator, text)",
        exactly(2),
        "A string split at each separator.",
        |args| {
            let (separator, text) = (text_arg(&args, 0)?, text_arg(&args, 1)?);
            let parts: Vec<Value> = match &*text {
                "" => vec![Value::string("")],
                _ if separator.is_empty() => {
                    text.chars().map(|c| Value::string(c.to_string())).collect()
                }
                _ => text.split(&*separator).map(Value::string).collect(),
            };
            Ok(list(parts))
        },
    )
    .costs(|args| {
        let (separator, text) = (
            args[0].as_str().unwrap_or_default(),
            args[1].as_str().unwrap_or_default(),
        );
        100 * if separator.is_empty() {
            text.len()
        } else {
            text.matches(separator).count()
        } as u64
    }),
    function(
        "startswith",
        "startswith(text, prefix)",
        exactly(2),
        "Whether a string starts with a prefix.",
        |args| {
            Ok(truth(
                text_arg(&args, 0)?.starts_with(&*text_arg(&args, 1)?),
            ))
        },
    ),
    function(
        "strcontains",
        "strcontains(text, part)",
        exactly(2),
        "Whether a string contains a substring.",
        |args| Ok(truth(text_arg(&args, 0)?.contains(&*text_arg(&args, 1)?))),
    ),
    function(
        "strrev",
        "strrev(text)",
        exactly(1),
        "A string reversed.",
        |args| {
            Ok(Value::string(
                text_arg(&args, 0)?.chars().rev().collect::<String>(),
            ))
        },
    ),
    function(
        "substr",
        "substr(text, offset, length)",
        exactly(3),
        "A part of a string. A negative offset counts from the end; length -1 takes the rest.",
        substr,
    ),
    function(
        "title",
        "title(text)",
        exactly(1),
        "A string with the first letter of each word in upper case.",
        |args| {
            let text = text_arg(&args, 0)?;
            let mut out = String::with_capacity(text.len());
            let mut first = true;
            for c in text.chars() {
                if first {
                    out.extend(c.to_uppercase())
                } else {
                    out.push(c)
                }
                first = !(c.is_alphanumeric() || matches!(c, '_' | '\''));
            }
            Ok(Value::string(out))
        },
    ),
    function(
        "trim",
        "trim(text, characters)",
        exactly(2),
        "A string without any of the characters at either end.",
        |args| {
            let characters = text_arg(&args, 1)?;
            Ok(Value::string(
                text_arg(&args, 0)?.trim_matches(|c| characters.contains(c)),
            ))
        },
    ),
    function(
        "trimprefix",
        "trimprefix(text, prefix)",
        exactly(2),
        "A string without a prefix, if it has it.",
        |args| {
            let (text, prefix) = (text_arg(&args, 0)?, text_arg(&args, 1)?);
            Ok(Value::string(text.strip_prefix(&*prefix).unwrap_or(&text)))
        },
    ),
    function(
        "trimspace",
        "trimspace(text)",
        exactly(1),
        "A string without whitespace at either end.",
        |args| Ok(Value::string(text_arg(&args, 0)?.trim())),
    ),
    function(
        "trimsuffix",
        "trimsuffix(text, suffix)",
        exactly(2),
        "A string without a suffix, if it has it.",
        |args| {
            let (text, suffix) = (text_arg(&args, 0)?, text_arg(&args, 1)?);
            Ok(Value::string(text.strip_suffix(&*suffix).unwrap_or(&text)))
        },
    ),
    function(
        "upper",
        "upper(text)",
        exactly(1),
        "A string in upper case.",
        |args| Ok(Value::string(text_arg(&args, 0)?.to_uppercase())),
    ),
];

/// Refuses a text of so many bytes, before it is made.
pub(super) fn bounded(bytes: usize) -> Result<(), Fail> {
    if bytes <= MAX_TEXT {
        Ok(())
    } else {
        Err(Fail::new(format!(
            "the result would be larger than {} MiB",
            MAX_TEXT >> 20
        )))
    }
}

/// Longest regular expression, in bytes.
const MAX_PATTERN: usize = 1 << 10;

/// The pattern and the text among the arguments. Both are paid for: a pattern when it is compiled, by the size of the
/// automaton that is tried, the text by its length for each search.
fn search(
    eval: &mut Evaluator,
    span: Span,
    args: &[Value],
    pattern: usize,
    text: usize,
) -> Result<Result<(Regex, Arc<str>), Fail>, Failed> {
    let (source, text) =
        match text_arg(args, pattern).and_then(|source| Ok((source, text_arg(args, text)?))) {
            Ok(both) => both,
            Err(fail) => return Ok(Err(fail)),
        };
    if source.len() > MAX_PATTERN {
        return Ok(Err(Fail::arg(
            pattern,
            format!("a regular expression may have at most {MAX_PATTERN} bytes"),
        )));
    }
    eval.budget.charge(span, text.len() as u64 / 4, 0)?;
    if let Some(known) = eval.patterns.get(&source) {
        return Ok(Ok((known.clone(), text)));
    }
    let mut size = 1 << 14;
    loop {
        eval.budget.charge(
            span,
            source.len() as u64 * 4 + (size as u64 >> 5),
            size as u64 >> 2,
        )?;
        let built = regex::RegexBuilder::new(&source)
            .size_limit(size)
            .dfa_size_limit(1 << 18)
            .nest_limit(64)
            .build();
        match built {
            Ok(found) => {
                eval.patterns.insert(source, found.clone());
                return Ok(Ok((found, text)));
            }
            Err(regex::Error::CompiledTooBig(_)) if size < 1 << 20 => size <<= 3,
            Err(error) => {
                let text = error.to_string();
                let reason = text
                    .lines()
                    .last()
                    .unwrap_or_default()
                    .trim_start_matches("error: ");
                return Ok(Err(Fail::arg(
                    pattern,
                    format!("this is not a valid regular expression: {reason}"),
                )
                .help(
                    "the syntax is that of RE2; in quotes, write a backslash twice: \"\\\\d+\"",
                )));
            }
        }
    }
}

/// Pays for a match: the search for the next one may look at all that is left.
fn match_step(eval: &mut Evaluator, span: Span, rest: &str) -> Result<(), Failed> {
    eval.budget.charge(span, 1 + rest.len() as u64 / 256, 0)
}

fn matched(pattern: &Regex, found: &Captures<'_>) -> Value {
    let group = |group: Option<regex::Match<'_>>| {
        group.map_or(Value::new(Data::Null), |group| {
            Value::string(group.as_str())
        })
    };
    if pattern.capture_names().flatten().next().is_some() {
        let names = pattern.capture_names().flatten();
        return object(
            names
                .map(|name| (name.to_owned(), group(found.name(name))))
                .collect::<BTreeMap<_, _>>(),
        );
    }
    if found.len() > 1 {
        return list(found.iter().skip(1).map(group).collect());
    }
    group(found.get(0))
}

fn substr(args: Vec<Value>) -> Result<Value, Fail> {
    let text = text_arg(&args, 0)?;
    let (offset, length) = (int_arg(&args, 1)?, int_arg(&args, 2)?);
    let chars: Vec<char> = text.chars().collect();
    let count = chars.len() as i64;
    let start = if offset < 0 {
        count.saturating_add(offset).max(0)
    } else {
        offset.min(count)
    };
    let end = match length {
        -1 => count,
        length if length < -1 => return Err(Fail::arg(2, "the length is negative")),
        length => start.saturating_add(length).min(count),
    };
    let part: String = chars[start as usize..end as usize].iter().collect();
    Ok(Value::string(Arc::<str>::from(part)))
}
