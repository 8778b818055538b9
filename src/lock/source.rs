//! The lock's entry of what a stage gets from elsewhere: which file, or which commit, that was when it was asked.
//! Knows its text and its form; does not know how it was found out.

use std::fmt;

use impasto_store::sha256::Sha256;
use serde::Deserialize;

use super::check::{plain, unusable};
use super::file::{quoted, write_list};

/// What the source of one stage came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockSource {
    /// The stage.
    pub name: String,
    /// The combinations of the matrix that it is for, each `axis=value,…`; none where there is no matrix.
    #[serde(default)]
    pub combinations: Vec<String>,
    /// What was asked for: [`lines`](impasto_stages::source::SourceRequest::lines).
    #[serde(default)]
    pub request: Vec<String>,
    /// A file's digest.
    pub sha256: Option<Sha256>,
    /// Bytes of a file, where that is known.
    pub size: Option<u64>,
    /// A file's checksum, as the list of checksums has it: `sha512:` and digits.
    pub listed: Option<String>,
    /// What the server called this version of the file.
    pub etag: Option<String>,
    /// A commit, in hexadecimal.
    pub commit: Option<String>,
    /// When it last changed, else when it was asked, in UTC (RFC 3339).
    pub date: String,
    /// Fingerprint of the certificate that signed the list of checksums.
    pub signer: Option<String>,
}

impl LockSource {
    /// Checks every field: whoever offers a change of a recipe offers one of its lock, and nothing in it is believed.
    ///
    /// # Errors
    /// The first field that cannot be used: its value, and what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let LockSource {
            name,
            combinations,
            request,
            sha256,
            size: _,
            listed,
            etag,
            commit,
            date,
            signer,
        } = self;
        plain("name", name)?;
        for (field, texts) in [("combinations", combinations), ("request", request)] {
            texts.iter().try_for_each(|text| plain(field, text))?;
        }
        for (field, text) in [("listed", listed), ("etag", etag), ("signer", signer)] {
            text.iter().try_for_each(|text| plain(field, text))?;
        }
        if date.parse::<jiff::Timestamp>().is_err() {
            return Err(unusable("date", date, "which is not a valid time"));
        }
        let is_commit = |text: &String| {
            let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            matches!(text.len(), 40 | 64) && text.bytes().all(digit)
        };
        match (sha256, commit) {
            (Some(_), None) => Ok(()),
            (None, Some(commit)) if is_commit(commit) => Ok(()),
            (None, Some(commit)) => Err(unusable("commit", commit, "which is not a commit")),
            _ => Err("it has neither `sha256` nor `commit`, or both".to_owned()),
        }
    }

    /// What it names, in short: the beginning of a digest.
    pub fn short(&self) -> String {
        let digits = match (&self.sha256, &self.commit) {
            (Some(sha256), _) => sha256.to_string(),
            (None, commit) => commit.clone().unwrap_or_default(),
        };
        digits.chars().take(12).collect()
    }

    /// The day of its date.
    pub fn day(&self) -> &str {
        self.date.get(..10).unwrap_or(&self.date)
    }

    /// Its date, in seconds since 1970.
    pub fn seconds(&self) -> Option<u64> {
        let time: jiff::Timestamp = self.date.parse().ok()?;
        u64::try_from(time.as_second()).ok()
    }
}

impl fmt::Display for LockSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LockSource {
            name,
            combinations,
            request,
            sha256,
            size,
            listed,
            etag,
            commit,
            date,
            signer,
        } = self;
        writeln!(f, "name = {}", quoted(name))?;
        write_list(f, "combinations", combinations)?;
        write_list(f, "request", request)?;
        let sha256 = sha256.map(|sha256| sha256.to_string());
        for (field, text) in [("sha256", &sha256), ("commit", commit)] {
            text.iter()
                .try_for_each(|text| writeln!(f, "{field} = {}", quoted(text)))?;
        }
        if let Some(size) = size {
            writeln!(f, "size = {size}")?;
        }
        writeln!(f, "date = {}", quoted(date))?;
        for (field, text) in [("listed", listed), ("etag", etag), ("signer", signer)] {
            text.iter()
                .try_for_each(|text| writeln!(f, "{field} = {}", quoted(text)))?;
        }
        Ok(())
    }
}
