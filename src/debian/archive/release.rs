//! The Release file of an archive: what it says, and whether that is what was asked for.
//! Knows fields and times, not where the text came from.

use std::collections::BTreeMap;

use impasto_store::sha256::Sha256;

use crate::base::time::{date, parse as parse_time};

/// How far an archive's clock may be ahead of ours, in seconds.
const SKEW: u64 = 24 * 3600;

/// What a Release file says that was found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Who publishes it; may be empty.
    pub origin: String,
    /// What it is called; may be empty.
    pub label: String,
    /// For example `oldstable`; may be empty.
    pub suite: String,
    /// For example `bookworm`; may be empty.
    pub codename: String,
    /// When it was made, in seconds since 1970.
    pub date: u64,
    /// Until when it is to be believed, in seconds since 1970.
    pub valid_until: Option<u64>,
    /// That of the signed text.
    pub sha256: Sha256,
    /// Fingerprint of the certificate that signed; none where nobody need have.
    pub signer: Option<String>,
    /// Files by their paths below the Release.
    pub files: BTreeMap<String, ReleaseEntry>,
    /// Whether files can be had by their hash.
    pub by_hash: bool,
    /// Architectures that it names; may be empty.
    pub architectures: Vec<String>,
    /// Components that it names; may be empty.
    pub components: Vec<String>,
    /// Whether packages for all architectures are in each architecture's index.
    pub all_within: bool,
    /// Its text, as it was signed.
    pub text: String,
}

/// A file that a Release names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseEntry {
    /// Bytes.
    pub size: u64,
    pub sha256: Sha256,
}

/// A Release that must not be used, though it may well be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// Not the form of such a file.
    #[error("its Release file is malformed: {what}")]
    Malformed { what: String },
    #[error("its Release file is dated {}, which is in the future: is this machine's clock right?", date(*at))]
    Future {
        /// Its date, in seconds since 1970.
        at: u64,
    },
    #[error("its Release file was valid until {}: the mirror is out of date, or is being held back", date(*until))]
    Expired {
        /// The end, in seconds since 1970.
        until: u64,
    },
    #[error("its Release file is for the suite {found}, not for {asked}")]
    OtherSuite {
        /// What the source names.
        asked: String,
        /// What the file names.
        found: String,
    },
    #[error("its Release file has no SHA-256 digests of its files, only weak ones")]
    WeakDigests,
}

impl Release {
    /// Reads a Release whose signature was checked, and checks what it says against what was asked for.
    ///
    /// # Errors
    /// It is not such a file, is of another suite, old, from the future, or states no good digests.
    pub fn parse(text: &str, suite: &str, frozen: bool, now: u64) -> Result<Release, ReleaseError> {
        let fields = fields(text)?;
        let field = |name: &str| fields.get(name).map_or("", |lines| lines[0]).to_owned();
        let words = |name: &str| {
            field(name)
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let time = |name: &'static str| match fields.get(name) {
            Some(lines) => parse_time(lines[0])
                .map(Some)
                .ok_or_else(|| malformed(format!("the field {name} is not a valid time"))),
            None => Ok(None),
        };
        let release = Release {
            origin: field("Origin"),
            label: field("Label"),
            suite: field("Suite"),
            codename: field("Codename"),
            date: time("Date")?.ok_or_else(|| malformed("it has no Date field".to_owned()))?,
            valid_until: time("Valid-Until")?,
            sha256: Sha256::of(text.as_bytes()),
            signer: None,
            files: fields
                .get("SHA256")
                .map(|lines| files(&lines[1..]))
                .transpose()?
                .unwrap_or_default(),
            by_hash: field("Acquire-By-Hash") == "yes",
            architectures: words("Architectures"),
            components: words("Components"),
            all_within: words("No-Support-for-Architecture-all")
                .iter()
                .any(|word| word == "Packages"),
            text: text.to_owned(),
        };
        release.check(suite, frozen, now)?;
        let weak = ["MD5Sum", "SHA1"]
            .iter()
            .any(|name| fields.contains_key(name));
        if release.files.is_empty() && weak {
            return Err(ReleaseError::WeakDigests);
        }
        Ok(release)
    }

    fn check(&self, suite: &str, frozen: bool, now: u64) -> Result<(), ReleaseError> {
        let flat = suite.ends_with('/');
        if !flat && suite != self.suite && suite != self.codename {
            let names = [self.suite.as_str(), self.codename.as_str()];
            let mut names: Vec<_> = names.into_iter().filter(|name| !name.is_empty()).collect();
            names.dedup();
            let found = if names.is_empty() {
                "no name".to_owned()
            } else {
                names.join(" or ")
            };
            return Err(ReleaseError::OtherSuite {
                asked: suite.to_owned(),
                found,
            });
        }
        if self.date > now.saturating_add(SKEW) {
            return Err(ReleaseError::Future { at: self.date });
        }
        match self.valid_until {
            Some(until) if until < now && !frozen => Err(ReleaseError::Expired { until }),
            _ => Ok(()),
        }
    }
}

fn malformed(what: String) -> ReleaseError {
    ReleaseError::Malformed { what }
}

/// The fields of the only paragraph: the text behind the colon, and the lines that continue it.
fn fields(text: &str) -> Result<BTreeMap<&str, Vec<&str>>, ReleaseError> {
    let mut fields: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut current = None;
    let mut ended = false;
    for line in text.lines() {
        if line.trim().is_empty() {
            ended = !fields.is_empty();
            continue;
        }
        if ended {
            return Err(malformed("it has more than one paragraph".to_owned()));
        }
        if line.starts_with([' ', '\t']) {
            let name = current
                .ok_or_else(|| malformed("it starts with a continuation line".to_owned()))?;
            fields.entry(name).or_default().push(line.trim());
            continue;
        }
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| malformed("a line is not a field".to_owned()))?;
        if fields.insert(name, vec![value.trim()]).is_some() {
            return Err(malformed(format!(
                "the field {} appears twice",
                name.escape_debug()
            )));
        }
        current = Some(name);
    }
    Ok(fields)
}

/// Lines of `SHA-256 size path`.
fn files(lines: &[&str]) -> Result<BTreeMap<String, ReleaseEntry>, ReleaseError> {
    let mut files = BTreeMap::new();
    for line in lines {
        let bad = || {
            malformed(format!(
                "the line {:?} does not describe a file",
                shortened(line)
            ))
        };
        let mut words = line.split_whitespace();
        let (Some(sha256), Some(size), Some(path), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(bad());
        };
        let entry = ReleaseEntry {
            size: size.parse().map_err(|_| bad())?,
            sha256: sha256.to_ascii_lowercase().parse().map_err(|_| bad())?,
        };
        if !is_below(path) {
            return Err(malformed(format!(
                "the path {:?} points outside the archive",
                shortened(path)
            )));
        }
        if files
            .insert(path.to_owned(), entry.clone())
            .is_some_and(|other| other != entry)
        {
            return Err(malformed(format!("the file {path:?} appears twice")));
        }
    }
    Ok(files)
}

fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

/// Whether a path stays below where it begins, on a disk as in a URL.
pub(super) fn is_below(path: &str) -> bool {
    let plain = !path.contains(|c: char| c.is_control() || c == '\\');
    plain
        && !path.is_empty()
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0ed6d4c8891eb86358b94bb35d9e4da40ed6d4c8891eb86358b94bb35d9e4da4";
    const NOW: u64 = 1_800_000_000;

    fn text(more: &str) -> String {
        format!("Suite: stable\nCodename: x\nDate: Sat, 11 Jul 2026 10:16:37 UTC\n{more}")
    }

    fn parse(text: &str) -> Result<Release, ReleaseError> {
        Release::parse(text, "x", false, NOW)
    }

    #[test]
    fn a_release_is_read() {
        let text = text(&format!(
            "Acquire-By-Hash: yes\nArchitectures: all amd64\nSHA256:\n {HASH} 12 main/a\n"
        ));
        let release = parse(&text).unwrap();
        assert_eq!(
            (release.date, release.by_hash, release.all_within),
            (1_783_764_997, true, false)
        );
        assert_eq!(
            release.files["main/a"],
            ReleaseEntry {
                size: 12,
                sha256: HASH.parse().unwrap()
            }
        );
        assert!(Release::parse(&text, "stable", false, NOW).is_ok());
        assert!(Release::parse(&text, "flat/", false, NOW).is_ok());
    }

    #[test]
    fn a_day_of_difference_between_clocks_is_borne() {
        let date = parse(&text("")).unwrap().date;
        let at = |now| Release::parse(&text(""), "x", false, now);
        assert!(at(date - SKEW).is_ok());
        assert_eq!(at(date - SKEW - 1), Err(ReleaseError::Future { at: date }));
        let text = text("Valid-Until: Sat, 18 Jul 2026 10:16:37 UTC\n");
        let until = parse_time("Sat, 18 Jul 2026 10:16:37 UTC").unwrap();
        let at = |now, frozen| Release::parse(&text, "x", frozen, now);
        assert!(at(until, false).is_ok() && at(until + 1, true).is_ok());
        assert_eq!(at(until + 1, false), Err(ReleaseError::Expired { until }));
    }

    #[test]
    fn what_is_no_release_is_refused() {
        let long = format!("{HASH}0");
        for more in [
            "Date: x\n",
            "SHA256:\n x 12 main/a\n",
            "SHA256:\n 00 12\n",
            "x\n",
            "\nSuite: y\n",
            &format!("SHA256:\n {long} 1 a\n"),
            &format!("SHA256:\n {HASH} -1 a\n"),
            &format!("SHA256:\n {HASH} 1 ../a\n"),
            &format!("SHA256:\n {HASH} 1 /a\n"),
            &format!("SHA256:\n {HASH} 1 a//b\n"),
            &format!("SHA256:\n {HASH} 1 a\n {HASH} 2 a\n"),
            "Valid-Until: tomorrow\n",
        ] {
            assert!(
                matches!(parse(&text(more)), Err(ReleaseError::Malformed { .. })),
                "{more}"
            );
        }
        assert!(matches!(
            parse("Codename: x\n"),
            Err(ReleaseError::Malformed { .. })
        ));
        assert_eq!(
            parse(&text("MD5Sum:\n 00 1 a\n")),
            Err(ReleaseError::WeakDigests)
        );
    }
}
