//! Copyright files that machines can read (DEP-5, "copyright-format 1.0").
//!
//! Knows which licences a file names and what their texts are; does not know what SPDX calls them. A file of another form
//! tells nothing.

use std::collections::{HashMap, HashSet};

use crate::deb::control::{Stanza, stanzas};
use crate::inspect::diff::plain;

/// The licences of a package's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copyright {
    /// What stands for its files, each once, in the file's order.
    pub licenses: Vec<Expression>,
    /// Texts by the short names that they stand under, in lower case.
    texts: HashMap<String, String>,
}

/// Licences, and whether all count or one may be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expression {
    /// A short name, perhaps with an exception.
    Name(String),
    All(Vec<Expression>),
    Any(Vec<Expression>),
}

impl Copyright {
    /// Reads a copyright file; none where it is not of this form or names no licence.
    pub fn parse(text: &[u8]) -> Option<Copyright> {
        let mut all = stanzas(text);
        let first = all.next()?;
        let format = first
            .bytes("Format")
            .or_else(|| first.bytes("Format-Specification"))?;
        let forms: [&[u8]; 3] = [b"copyright-format/1.", b"dep.debian.net", b"dep5"];
        if !forms
            .iter()
            .any(|form| memchr::memmem::find(format, form).is_some())
        {
            return None;
        }
        let mut copyright = Copyright {
            licenses: Vec::new(),
            texts: HashMap::new(),
        };
        let mut known = HashSet::new();
        let add = |copyright: &mut Copyright, stanza: &Stanza<'_>| {
            let (names, text) = license(stanza)?;
            let expression = Expression::parse(&names);
            if !text.is_empty() {
                copyright
                    .texts
                    .entry(names.to_ascii_lowercase())
                    .or_insert(text);
            }
            Some(expression)
        };
        let header = add(&mut copyright, &first);
        for stanza in all {
            let Some(expression) = add(&mut copyright, &stanza) else {
                continue;
            };
            let of_files = stanza.bytes("Files").is_some();
            if of_files && known.insert(expression.clone()) {
                copyright.licenses.push(expression);
            }
        }
        if copyright.licenses.is_empty() {
            copyright.licenses.extend(header);
        }
        (!copyright.licenses.is_empty()).then_some(copyright)
    }

    /// The text that the file has for a short name.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts
            .get(&name.to_ascii_lowercase())
            .map(String::as_str)
    }
}

/// The field's first line, which names licences, and its text.
fn license(stanza: &Stanza<'_>) -> Option<(String, String)> {
    let value = stanza.bytes("License")?;
    let mut lines = value.split(|&byte| byte == b'\n');
    let names = plain::line(lines.next()?)
        .split_ascii_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let lines: Vec<_> = lines
        .map(|line| {
            let line = line.strip_prefix(b" ").unwrap_or(line).trim_ascii_end();
            if line == b"." {
                String::new()
            } else {
                plain::line(line)
            }
        })
        .collect();
    (!names.is_empty()).then(|| (names, lines.join("\n")))
}

impl Expression {
    /// Reads short names with `and` and `or` between them: `and` binds closer, a comma before either loosens it. What does
    /// not have this form is one name.
    pub fn parse(text: &str) -> Expression {
        let spaced = text.replace(',', " , ");
        let words: Vec<&str> = spaced.split_ascii_whitespace().collect();
        let is = |word: &str, what: &str| word.eq_ignore_ascii_case(what);
        // The operators from the loosest to the closest, as rows of words.
        let levels: [&[&str]; 4] = [&[",", "or"], &[",", "and"], &["or"], &["and"]];
        fn level(
            words: &[&str],
            levels: &[&[&str]],
            is: &dyn Fn(&str, &str) -> bool,
        ) -> Option<Expression> {
            let Some((operator, closer)) = levels.split_first() else {
                let name = !words.is_empty() && !words.contains(&",");
                return name.then(|| Expression::Name(words.join(" ")));
            };
            let (mut parts, mut start, mut at) = (Vec::new(), 0, 0);
            while at < words.len() {
                let here = words[at..].len() >= operator.len()
                    && words[at..]
                        .iter()
                        .zip(*operator)
                        .all(|(word, what)| is(word, what));
                if here {
                    parts.push(level(&words[start..at], closer, is)?);
                    start = at + operator.len();
                    at = start;
                } else {
                    at += 1;
                }
            }
            parts.push(level(&words[start..], closer, is)?);
            Some(match (parts.len(), operator.contains(&"and")) {
                (1, _) => parts.swap_remove(0),
                (_, true) => Expression::All(parts),
                (_, false) => Expression::Any(parts),
            })
        }
        level(&words, &levels, &is).unwrap_or_else(|| Expression::Name(text.trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(expression: &Expression) -> String {
        let join =
            |all: &[Expression], word: &str| all.iter().map(shown).collect::<Vec<_>>().join(word);
        match expression {
            Expression::Name(name) => name.clone(),
            Expression::All(all) => format!("({})", join(all, " & ")),
            Expression::Any(all) => format!("({})", join(all, " | ")),
        }
    }

    #[test]
    fn operators_bind_as_the_specification_says() {
        for (text, expected) in [
            ("GPL-2+", "GPL-2+"),
            ("GPL-1+ or Artistic", "(GPL-1+ | Artistic)"),
            ("A or B and C", "(A | (B & C))"),
            ("A or B, and C", "((A | B) & C)"),
            ("A, or B and C or D", "(A | ((B & C) | D))"),
            (
                "GPL-2+ with OpenSSL exception and MIT",
                "(GPL-2+ with OpenSSL exception & MIT)",
            ),
            ("A and", "A and"),
            ("A, B", "A, B"),
            ("and", "and"),
        ] {
            assert_eq!(shown(&Expression::parse(text)), expected, "{text}");
        }
    }

    #[test]
    fn a_file_tells_licenses_and_texts() {
        let text = "\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
License: summary

Files: *
Copyright: somebody
License: GPL-2+

Files: a
License: GPL-2+

Files: b
License: own
 Do what
 .
  you want.

License: GPL-2+
 The licence.
";
        let copyright = Copyright::parse(text.as_bytes()).unwrap();
        assert_eq!(
            copyright.licenses.iter().map(shown).collect::<Vec<_>>(),
            ["GPL-2+", "own"]
        );
        assert_eq!(copyright.text("OWN"), Some("Do what\n\n you want."));
        assert_eq!(copyright.text("GPL-2+"), Some("The licence."));
        assert_eq!(copyright.text("MIT"), None);
        let header = text.split("\n\n").next().unwrap();
        assert_eq!(
            Copyright::parse(header.as_bytes()).unwrap().licenses.len(),
            1
        );
        assert_eq!(
            Copyright::parse(b"This package was debianized by me.\n\nLicense: GPL\n"),
            None
        );
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(Format: dep5\n\n)?((Files|License|x):[a-c ,.\n]{0,9}(and|or)?){0,9}") {
            if let Some(copyright) = Copyright::parse(text.as_bytes()) {
                prop_assert!(!copyright.licenses.is_empty());
            }
        }
    }
}
