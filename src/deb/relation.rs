//! Fields that name other packages: `Depends`, `Provides` and their like (deb-control(5), Debian Policy 7.1).
//! Knows their form and what satisfies them; does not know which packages there are.

use std::fmt;

use super::version::{Version, VersionError};

/// One package that is named, with what is said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation<'a> {
    pub name: &'a str,
    /// What follows the colon: an architecture, `any` or `native`.
    pub qualifier: Option<&'a str>,
    pub version: Option<(Operator, Version<'a>)>,
    /// Architectures for which it counts, or with `!` for which it does not; empty for all.
    pub architectures: Vec<&'a str>,
    /// Lists of build profiles: it counts where all of one list hold; empty for always.
    pub profiles: Vec<Vec<&'a str>>,
}

/// How a version must stand to the one that is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `<<`
    Earlier,
    /// `<=`, and `<` of old
    EarlierOrEqual,
    /// `=`
    Equal,
    /// `>=`, and `>` of old
    LaterOrEqual,
    /// `>>`
    Later,
}

/// A field that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelationError {
    /// It does not have the form of a relation.
    #[error("{text:?} is not a valid package: {problem}")]
    Form {
        /// The relation; of a long one the beginning.
        text: String,
        problem: &'static str,
    },
    /// Its version is none.
    #[error("{text:?} is not a valid package")]
    Version {
        /// The relation; of a long one the beginning.
        text: String,
        /// What is wrong with the version.
        source: VersionError,
    },
}

/// Reads a field: what is separated by commas must all hold, of what is separated by bars one.
///
/// # Errors
/// A part of it has no form that dpkg knows. Empty parts between commas are passed over, as dpkg does.
pub fn parse(field: &str) -> Result<Vec<Vec<Relation<'_>>>, RelationError> {
    let groups = field
        .split(',')
        .map(str::trim_ascii)
        .filter(|group| !group.is_empty());
    groups
        .map(|group| group.split('|').map(Relation::parse).collect())
        .collect()
}

impl<'a> Relation<'a> {
    /// Reads one alternative.
    ///
    /// # Errors
    /// It does not have the form of a relation.
    pub fn parse(text: &'a str) -> Result<Relation<'a>, RelationError> {
        let text = text.trim_ascii();
        let shown = || text.chars().take(120).collect::<String>();
        let error = |problem| RelationError::Form {
            text: shown(),
            problem,
        };
        let end = text
            .find(|c: char| c.is_ascii_whitespace() || "([<".contains(c))
            .unwrap_or(text.len());
        let (head, mut rest) = text.split_at(end);
        let (name, qualifier) = match head.split_once(':') {
            Some((name, qualifier)) => (name, Some(qualifier)),
            None => (head, None),
        };
        if !is_name(name) {
            return Err(error("names consist of letters, digits, `+`, `-` and `.`"));
        }
        let word =
            |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic());
        if !qualifier.is_none_or(is_name) {
            return Err(error("there is no architecture after the colon"));
        }
        let mut relation = Relation {
            name,
            qualifier,
            version: None,
            architectures: Vec::new(),
            profiles: Vec::new(),
        };
        loop {
            rest = rest.trim_ascii();
            let Some(open) = rest.chars().next() else {
                return Ok(relation);
            };
            let close = match open {
                '(' => ')',
                '[' => ']',
                '<' => '>',
                _ => return Err(error("there is something after the name")),
            };
            let (inner, after) = rest[1..]
                .split_once(close)
                .ok_or_else(|| error("a bracket is not closed"))?;
            rest = after;
            let mut words = inner.split_ascii_whitespace();
            match open {
                '(' if relation.version.is_none() => {
                    let inner = inner.trim_ascii();
                    let end = inner.find(|c| !"<=>".contains(c)).unwrap_or(inner.len());
                    let (operator, version) = inner.split_at(end);
                    let operator = Operator::parse(operator)
                        .ok_or_else(|| error("its operator is not valid"))?;
                    let version = Version::parse(version);
                    let version = version.map_err(|source| RelationError::Version {
                        text: shown(),
                        source,
                    })?;
                    relation.version = Some((operator, version));
                }
                '[' if relation.architectures.is_empty() && words.clone().all(word) => {
                    relation.architectures.extend(words);
                }
                '<' if words.all(word) => relation
                    .profiles
                    .push(inner.split_ascii_whitespace().collect()),
                _ => return Err(error("a bracket appears twice")),
            }
        }
    }

    /// Whether a package of this name and version is meant. Without a version, as a virtual package may be, it is only where
    /// none is asked for.
    pub fn is_satisfied_by(&self, name: &str, version: Option<&Version<'_>>) -> bool {
        name == self.name
            && match (&self.version, version) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some((operator, wanted)), Some(version)) => operator.holds(version, wanted),
            }
    }
}

/// Whether a text can be a package's name; more than Policy 5.6.1 allows, but never a path or an option.
pub fn is_name(text: &str) -> bool {
    text.len() <= 200
        && text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.' | b'_'))
}

impl Operator {
    fn parse(text: &str) -> Option<Operator> {
        Some(match text {
            "<<" => Operator::Earlier,
            "<=" | "<" => Operator::EarlierOrEqual,
            "=" => Operator::Equal,
            ">=" | ">" => Operator::LaterOrEqual,
            ">>" => Operator::Later,
            _ => return None,
        })
    }

    /// Whether `version` stands so to `wanted`.
    pub fn holds(self, version: &Version<'_>, wanted: &Version<'_>) -> bool {
        match self {
            Operator::Earlier => version < wanted,
            Operator::EarlierOrEqual => version <= wanted,
            Operator::Equal => version == wanted,
            Operator::LaterOrEqual => version >= wanted,
            Operator::Later => version > wanted,
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operator::Earlier => "<<",
            Operator::EarlierOrEqual => "<=",
            Operator::Equal => "=",
            Operator::LaterOrEqual => ">=",
            Operator::Later => ">>",
        })
    }
}

impl fmt::Display for Relation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if let Some(qualifier) = self.qualifier {
            write!(f, ":{qualifier}")?;
        }
        if let Some((operator, version)) = &self.version {
            write!(f, " ({operator} {version})")?;
        }
        if !self.architectures.is_empty() {
            write!(f, " [{}]", self.architectures.join(" "))?;
        }
        self.profiles
            .iter()
            .try_for_each(|list| write!(f, " <{}>", list.join(" ")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_read() {
        let field = "a (>= 1), b|c:any(<<2:3-1) [amd64 !i386] <!nocheck> <cross !stage1>,,\n d:native (= 1) ,";
        let all = parse(field).unwrap();
        let shown: Vec<Vec<String>> = all
            .iter()
            .map(|group| group.iter().map(ToString::to_string).collect())
            .collect();
        let last = "c:any (<< 2:3-1) [amd64 !i386] <!nocheck> <cross !stage1>";
        assert_eq!(
            shown,
            [vec!["a (>= 1)"], vec!["b", last], vec!["d:native (= 1)"]]
        );
        assert_eq!(parse(" , ").unwrap(), Vec::<Vec<Relation<'_>>>::new());
        for bad in [
            "a b",
            "a (1)",
            "a (>= )",
            "a (>= 1",
            "a |",
            "-a",
            "a:",
            "a (=< 1)",
            "a (= 1) (= 2)",
            "a]",
            "../a",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn versions_and_architectures_decide() {
        let satisfied = |relation: &str, version: Option<&str>| {
            let version = version.map(|text| Version::parse(text).unwrap());
            Relation::parse(relation)
                .unwrap()
                .is_satisfied_by("a", version.as_ref())
        };
        for (operator, holds) in [
            ("<<", [true, false, false]),
            ("<=", [true, true, false]),
            ("=", [false, true, false]),
        ]
        .into_iter()
        .chain([
            (">=", [false, true, true]),
            (">>", [false, false, true]),
            ("<", [true, true, false]),
        ]) {
            let relation = format!("a ({operator} 2)");
            assert_eq!(
                ["1", "2.0~", "2-0"].map(|version| satisfied(&relation, Some(version)))[0],
                holds[0]
            );
            assert_eq!(
                ["1", "2-0", "3"].map(|version| satisfied(&relation, Some(version))),
                holds,
                "{operator}"
            );
        }
        assert!(satisfied("a", None) && satisfied("a:any", Some("1")));
        assert!(!satisfied("a (>= 1)", None) && !satisfied("b", Some("1")));
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_the_same(field in "([a-c1:|, ()<>=\\[\\]!~-]|\\PC){0,24}") {
            if let Ok(all) = parse(&field) {
                for relation in all.iter().flatten() {
                    let text = relation.to_string();
                    prop_assert_eq!(&Relation::parse(&text).unwrap(), relation);
                }
            }
        }
    }
}
