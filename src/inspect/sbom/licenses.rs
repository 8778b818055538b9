//! Licences in SPDX's words: identifiers where DEP-5's short name means the same, else references to their texts.
//! Knows the names; does not know documents.

use std::collections::{BTreeMap, HashSet};

use impasto_store::digest::BlobDigest;

use super::copyright::{Copyright, Expression};

/// What a reference says of itself where the package gives no text.
const NO_TEXT: &str = "The package's copyright file gives no text for this licence.";

/// DEP-5's short names and SPDX's identifiers of the same licences, where they are spelled differently.
const NAMES: [(&str, &str); 7] = [
    ("expat", "MIT"),
    ("apache-2", "Apache-2.0"),
    ("cc0", "CC0-1.0"),
    ("gfdl-niv-1.2", "GFDL-1.2-no-invariants-only"),
    ("gfdl-niv-1.2+", "GFDL-1.2-no-invariants-or-later"),
    ("gfdl-niv-1.3", "GFDL-1.3-no-invariants-only"),
    ("gfdl-niv-1.3+", "GFDL-1.3-no-invariants-or-later"),
];

/// SPDX's identifiers that DEP-5 spells the same, but for upper and lower case.
const SAME: [&str; 39] = [
    "0BSD",
    "AFL-2.1",
    "Apache-1.0",
    "Apache-1.1",
    "Apache-2.0",
    "Artistic-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSD-4-Clause",
    "BSL-1.0",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC-BY-SA-3.0",
    "CC-BY-SA-4.0",
    "CC0-1.0",
    "curl",
    "EPL-1.0",
    "FSFAP",
    "FSFUL",
    "FSFULLR",
    "FTL",
    "HPND",
    "ICU",
    "ISC",
    "Libpng",
    "MPL-1.0",
    "MPL-1.1",
    "MPL-2.0",
    "NTP",
    "OFL-1.1",
    "OpenSSL",
    "PostgreSQL",
    "TCL",
    "Unicode-DFS-2016",
    "Unlicense",
    "W3C",
    "X11",
    "Zlib",
    "ZPL-2.1",
];

/// Families of the FSF, which DEP-5 numbers without the last zero, and whose `+` SPDX writes out.
const FAMILIES: [(&str, &[&str]); 4] = [
    ("GPL", &["1.0", "2.0", "3.0"]),
    ("LGPL", &["2.0", "2.1", "3.0"]),
    ("AGPL", &["3.0"]),
    ("GFDL", &["1.1", "1.2", "1.3"]),
];

/// SPDX's identifier of the licence that a short name means.
pub fn identifier(name: &str) -> Option<String> {
    if let Some((_, id)) = NAMES
        .iter()
        .find(|(short, _)| short.eq_ignore_ascii_case(name))
    {
        return Some((*id).to_owned());
    }
    if let Some(id) = SAME.iter().find(|id| id.eq_ignore_ascii_case(name)) {
        return Some((*id).to_owned());
    }
    let (short, later) = match name.strip_suffix('+') {
        Some(short) => (short, "or-later"),
        None => (name, "only"),
    };
    let (family, number) = short.split_once('-')?;
    let (family, numbers) = FAMILIES
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(family))?;
    let number = numbers
        .iter()
        .find(|known| **known == number || known.strip_suffix(".0") == Some(number))?;
    Some(format!("{family}-{number}-{later}"))
}

/// References that a document's packages use: identifier, then short name and text.
pub type References = BTreeMap<String, (String, String)>;

/// The licences of a package as one expression. Those that SPDX does not name are added to `references`.
pub fn declared(copyright: &Copyright, references: &mut References) -> String {
    let parts = copyright
        .licenses
        .iter()
        .flat_map(|expression| match expression {
            Expression::All(all) => all.as_slice(),
            one => std::slice::from_ref(one),
        });
    let terms = terms(parts, copyright, references);
    match terms.as_slice() {
        [one] => one
            .strip_prefix('(')
            .and_then(|one| one.strip_suffix(')'))
            .unwrap_or(one)
            .to_owned(),
        _ => terms.join(" AND "),
    }
}

/// Parts of an expression, each once.
fn terms<'a>(
    parts: impl IntoIterator<Item = &'a Expression>,
    copyright: &Copyright,
    references: &mut References,
) -> Vec<String> {
    let mut known = HashSet::new();
    let terms = parts
        .into_iter()
        .map(|one| term(one, copyright, references));
    terms.filter(|term| known.insert(term.clone())).collect()
}

/// A part of an expression: a name, or something in brackets.
fn term(expression: &Expression, copyright: &Copyright, references: &mut References) -> String {
    let (all, word) = match expression {
        Expression::Name(name) => {
            return identifier(name).unwrap_or_else(|| reference(name, copyright, references));
        }
        Expression::All(all) => (all, " AND "),
        Expression::Any(all) => (all, " OR "),
    };
    let mut terms = terms(all, copyright, references);
    if terms.len() == 1 {
        terms.swap_remove(0)
    } else {
        format!("({})", terms.join(word))
    }
}

/// One name may stand for other texts in other packages, so the text is a part of the reference.
fn reference(name: &str, copyright: &Copyright, references: &mut References) -> String {
    let text = copyright.text(name).unwrap_or(NO_TEXT);
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || c == '.' {
            c
        } else {
            '-'
        }
    };
    let short: String = name.chars().take(40).map(plain).collect();
    let id = format!(
        "LicenseRef-{short}-{}",
        &BlobDigest::of(format!("{name}\0{text}").as_bytes()).short()
    );
    references
        .entry(id.clone())
        .or_insert_with(|| (name.to_owned(), text.to_owned()));
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_identifiers_where_they_mean_the_same() {
        for (name, expected) in [
            ("GPL-2+", Some("GPL-2.0-or-later")),
            ("GPL-3", Some("GPL-3.0-only")),
            ("lgpl-2.1+", Some("LGPL-2.1-or-later")),
            ("LGPL-2", Some("LGPL-2.0-only")),
            ("GFDL-NIV-1.3+", Some("GFDL-1.3-no-invariants-or-later")),
            ("GFDL-1.2", Some("GFDL-1.2-only")),
            ("Expat", Some("MIT")),
            ("zlib", Some("Zlib")),
            ("GPL-4", None),
            ("GPL", None),
            // Short names that packages use for several texts.
            ("MIT-style", None),
            ("BSD", None),
            ("Artistic", None),
            ("public-domain", None),
        ] {
            assert_eq!(identifier(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn expressions_keep_their_sense_and_unknown_licenses_their_texts() {
        let text = "Format: dep5\n\nFiles: *\nLicense: GPL-2+ or Artistic\n\nFiles: a\nLicense: Expat and own\n\n\
                    Files: b\nLicense: Expat\n\nLicense: own\n words\n";
        let copyright = Copyright::parse(text.as_bytes()).unwrap();
        let mut references = References::new();
        let told = declared(&copyright, &mut references);
        let ids: Vec<_> = references.keys().cloned().collect();
        assert_eq!(
            told,
            format!("(GPL-2.0-or-later OR {}) AND MIT AND {}", ids[0], ids[1])
        );
        assert!(
            ids[0].starts_with("LicenseRef-Artistic-") && ids[1].starts_with("LicenseRef-own-")
        );
        assert_eq!(references[&ids[1]], ("own".to_owned(), "words".to_owned()));
        let one = Copyright::parse(b"Format: dep5\n\nFiles: *\nLicense: GPL-2 or GPL-3\n").unwrap();
        assert_eq!(
            declared(&one, &mut References::new()),
            "GPL-2.0-only OR GPL-3.0-only"
        );
    }
}
