//! Secrets that an image should not carry: private keys, tokens, passwords that let somebody in, histories.
//! Knows where they lie and what they look like; decides nothing about them.
//!
//! Files of packages below `/usr`, but for `/usr/local`, and what package managers keep are not read: nobody puts secrets
//! there by hand, and packages bring keys for their own tests.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex, PoisonError};

use impasto_store::digest::Digest;
use rayon::prelude::*;
use regex::bytes::Regex;

use crate::disk::contents::{Contents, WantedFile};
use crate::disk::guest::ext4::ReadError;
use crate::disk::tree::{EntryKind, IndexEntry, Tree};

/// A secret that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSecret {
    pub partition: u32,
    pub path: Vec<u8>,
    /// What it is; never the secret itself.
    pub what: String,
}

/// Which files were searched and hold no secret, by what they are called and hold: a memory, which may be lost.
#[derive(Debug, Default)]
pub struct SearchedFiles {
    known: HashSet<[u8; SEARCHED_LEN]>,
    found: Mutex<Vec<[u8; SEARCHED_LEN]>>,
}

/// Bytes that stand for one file.
const SEARCHED_LEN: usize = 16;
/// Rises with every change of what counts as a secret, so that what was searched for less is searched again.
const SEARCH_VERSION: u8 = 1;
/// With more files than these only those of the last search are remembered.
const MAX_SEARCHED: usize = 1_000_000;

impl SearchedFiles {
    /// Reads what [`SearchedFiles::into_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> SearchedFiles {
        let (files, _) = bytes.as_chunks::<SEARCHED_LEN>();
        SearchedFiles {
            known: files.iter().copied().collect(),
            found: Mutex::default(),
        }
    }

    /// What is to be remembered; none where nothing was learned.
    pub fn into_bytes(self) -> Option<Vec<u8>> {
        let found = self
            .found
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        if found.is_empty() {
            return None;
        }
        let mut all = self.known;
        if all.len() + found.len() > MAX_SEARCHED {
            all.clear();
        }
        all.extend(found);
        let mut sorted: Vec<_> = all.into_iter().collect();
        sorted.sort_unstable();
        Some(sorted.concat())
    }

    fn name(path: &[u8], content: &Digest) -> [u8; SEARCHED_LEN] {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(&[SEARCH_VERSION])
            .update(content.as_bytes())
            .update(path);
        let mut name = [0; SEARCHED_LEN];
        hasher.finalize_xof().fill(&mut name);
        name
    }

    fn remember(&self, names: Vec<[u8; SEARCHED_LEN]>) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.extend(names);
    }
}

/// A file to be searched, and what it is remembered by.
type Searched<'a> = (WantedFile<'a>, [u8; SEARCHED_LEN]);

/// Longest file that is read, in bytes: what is longer is no file of secrets.
const LIMIT: u64 = 1 << 20;
/// How many files are read at once.
const BATCH: usize = 512;

/// Directories that are not read.
const UNREAD: [&[u8]; 6] = [
    b"/usr/",
    b"/var/lib/dpkg/",
    b"/var/lib/apt/",
    b"/var/cache/",
    b"/boot/",
    b"/lib/modules/",
];
/// And what of them is.
const READ: &[u8] = b"/usr/local/";

static PRIVATE_KEY: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"));

/// Tokens by their form.
static TOKENS: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    [
        (r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b", "an access key of AWS"),
        (r"\bgh[pousr]_[A-Za-z0-9]{36}", "a token of GitHub"),
        (r"\bgithub_pat_[A-Za-z0-9_]{40}", "a token of GitHub"),
        (r"\bglpat-[A-Za-z0-9_-]{20}", "a token of GitLab"),
        (r"\bxox[abprs]-[A-Za-z0-9-]{10}", "a token of Slack"),
        (r"\bsk_live_[A-Za-z0-9]{16}", "a key of Stripe"),
        (r"\bAIza[A-Za-z0-9_-]{35}", "a key of Google"),
        (r"\bnpm_[A-Za-z0-9]{36}", "a token of npm"),
    ]
    .map(|(text, what)| (pattern(text), what))
    .into()
});

/// A value that is called a secret, in a file of settings.
static SETTING: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r#"(?im)^[ \t]*(?:export[ \t]+)?([A-Z0-9_.-]*(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY)[A-Z0-9_]*)[ \t]*=[ \t]*["']?[^\s"'$]{6,}"#,
    )
});

/// Files that hold nothing but what lets somebody in elsewhere, by the end of their paths.
const CREDENTIALS: [(&[u8], &str); 8] = [
    (b"/.netrc", "logins of curl and ftp"),
    (b"/.git-credentials", "logins of git"),
    (b"/.pgpass", "passwords of PostgreSQL"),
    (b"/.aws/credentials", "access keys of AWS"),
    (b"/.docker/config.json", "logins of registries"),
    (b"/.kube/config", "logins of Kubernetes"),
    (b"/.vault-token", "a token of Vault"),
    (b"/.npmrc", "settings of npm, with its tokens"),
];

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("BUG: a pattern of ours is wrong")
}

/// All secrets of a disk, by partition and path. Files in which none were before are not read again.
///
/// # Errors
/// The disk cannot be read, or is not what its tree says.
pub fn find(
    tree: &Tree,
    contents: &dyn Contents,
    searched: &SearchedFiles,
) -> Result<Vec<FoundSecret>, ReadError> {
    let mut wanted: Vec<Searched<'_>> = Vec::new();
    for volume in &tree.volumes {
        wanted.extend(volume.entries.iter().filter_map(|entry| {
            let name = SearchedFiles::name(&entry.path, content_to_read(entry)?);
            let file = (volume.partition, entry.path.as_slice());
            (!searched.known.contains(&name)).then_some((file, name))
        }));
    }
    let batches = wanted.par_chunks(BATCH).map(|batch| {
        let files: Vec<_> = batch.iter().map(|(file, _)| *file).collect();
        let (mut found, mut clean) = (Vec::new(), Vec::new());
        for (((partition, path), name), bytes) in batch.iter().zip(contents.files(&files, LIMIT)?) {
            let secrets = bytes.map_or(Vec::new(), |bytes| of_file(path, &bytes));
            if secrets.is_empty() {
                clean.push(*name);
            }
            found.extend(secrets.into_iter().map(|what| FoundSecret {
                partition: *partition,
                path: path.to_vec(),
                what,
            }));
        }
        searched.remember(clean);
        Ok(found)
    });
    let found: Vec<Vec<FoundSecret>> = batches.collect::<Result<_, ReadError>>()?;
    Ok(found.concat())
}

/// What a file holds that is to be read.
fn content_to_read(entry: &IndexEntry) -> Option<&Digest> {
    let path = &entry.path;
    let skipped = UNREAD.iter().any(|dir| path.starts_with(dir)) && !path.starts_with(READ);
    match &entry.kind {
        EntryKind::File { size, content } if (1..=LIMIT).contains(size) && !skipped => {
            Some(content)
        }
        _ => None,
    }
}

/// What is secret in a file.
fn of_file(path: &[u8], bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    if path == b"/etc/shadow" {
        return passwords(bytes);
    }
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    if path.ends_with(b"/.ssh/authorized_keys") && has_text(bytes) {
        found.push("it lets keys in".to_owned());
    }
    if name.starts_with(b".") && name.ends_with(b"_history") && has_text(bytes) {
        found.push("the history of a shell".to_owned());
    }
    for (end, what) in CREDENTIALS {
        if path.ends_with(end) && has_text(bytes) {
            found.push(what.to_owned());
        }
    }
    if PRIVATE_KEY.is_match(bytes) {
        found.push("a private key".to_owned());
    }
    for (token, what) in TOKENS.iter() {
        if token.is_match(bytes) {
            found.push((*what).to_owned());
        }
    }
    if holds_settings(path, name)
        && let Some(setting) = SETTING.captures(bytes)
    {
        let name = String::from_utf8_lossy(&setting[1]).into_owned();
        found.push(format!("a value for {name}"));
    }
    found
}

/// Whether a file is one of settings that people write: those of programs call much a token that is none.
fn holds_settings(path: &[u8], name: &[u8]) -> bool {
    path == b"/etc/environment"
        || path.starts_with(b"/etc/profile.d/")
        || path.starts_with(b"/etc/default/")
        || path.starts_with(b"/etc/environment.d/")
        || name.ends_with(b".env")
        || [
            &b".bashrc"[..],
            b".profile",
            b".bash_profile",
            b".zshrc",
            b".zshenv",
        ]
        .contains(&name)
}

fn has_text(bytes: &[u8]) -> bool {
    bytes
        .split(|byte| *byte == b'\n')
        .any(|line| !line.trim_ascii().is_empty() && !line.starts_with(b"#"))
}

/// Who can log in with a password, by `/etc/shadow`.
fn passwords(shadow: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(shadow);
    let mut found = Vec::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        let (Some(user), Some(hash)) = (fields.next(), fields.next()) else {
            continue;
        };
        let user = crate::base::escape::neutralise(user.as_bytes());
        if hash.is_empty() {
            found.push(format!("{user} logs in without a password"));
        } else if !hash.starts_with(['!', '*']) {
            found.push(format!("{user} logs in with a password"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use impasto_store::digest::BlobDigest;

    use super::*;

    #[test]
    fn what_was_searched_is_remembered_by_name_and_content() {
        let of = |path: &str, content: &str| {
            SearchedFiles::name(path.as_bytes(), &BlobDigest::of(content.as_bytes()).0)
        };
        let searched = SearchedFiles::default();
        searched.remember(vec![of("/srv/b", "2"), of("/srv/a", "1")]);
        let bytes = searched.into_bytes().unwrap();
        let known = SearchedFiles::from_bytes(&bytes);
        assert!(known.known.contains(&of("/srv/a", "1")));
        for other in [of("/srv/a", "2"), of("/srv/b", "1"), of("/srv/.netrc", "1")] {
            assert!(!known.known.contains(&other));
        }
        assert_eq!(known.into_bytes(), None, "nothing new");
    }

    #[test]
    fn secrets_are_told_from_what_is_none() {
        let found = |path: &str, text: &str| of_file(path.as_bytes(), text.as_bytes());
        let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n";
        assert_eq!(found("/root/.ssh/id_ed25519", key), ["a private key"]);
        assert_eq!(
            found("/srv/key.pem", "-----BEGIN RSA PRIVATE KEY-----\n"),
            ["a private key"]
        );
        assert_eq!(
            found(
                "/etc/environment",
                "PATH=/bin\nAPI_TOKEN=\"abcdef123456\"\n"
            ),
            ["a value for API_TOKEN"]
        );
        assert_eq!(
            found("/opt/x", &format!("x ghp_{} y", "a1".repeat(18))),
            ["a token of GitHub"]
        );
        assert_eq!(
            found(
                "/etc/shadow",
                "root:$y$j9T$x:1::::::\nbin:*:1::::::\nme::1::::::\nyou:!:1::::::\n"
            ),
            [
                "root logs in with a password",
                "me logs in without a password"
            ]
        );
        assert_eq!(
            found("/root/.bash_history", "ls\n"),
            ["the history of a shell"]
        );
        for (path, text) in [
            ("/root/.bash_history", ""),
            ("/root/.ssh/authorized_keys", "# none\n\n"),
            ("/etc/ssl/certs/x.pem", "-----BEGIN CERTIFICATE-----\n"),
            ("/etc/ssh/x.pub", "-----BEGIN PUBLIC KEY-----\n"),
            ("/etc/environment", "PASSWORD=\"$X\"\nTOKEN=\n"),
            ("/etc/login.defs", "PASSWORD_MAX=99999999\n"),
        ] {
            assert_eq!(found(path, text), [""; 0], "{path}");
        }
    }
}
