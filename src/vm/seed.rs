//! The disk that cloud-init's NoCloud source reads: a small FAT file system labelled CIDATA.
//! Knows cloud-init's files, not who reads them.

use serde_json::json;

use crate::disk::fat16::{CLUSTERS, Fat16, FatEntry, SECTOR, entry, long_name, short_name};

/// A file of the seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedFile {
    /// Its name: ASCII, at most 26 characters.
    pub name: String,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// Files that NoCloud looks for; the first two must be there, even where they are empty.
pub const NAMES: [&str; 4] = ["meta-data", "user-data", "vendor-data", "network-config"];

/// Why there is no seed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    /// It is a secret key.
    #[error("it is a private key")]
    PrivateKey,
    /// Nothing in it is a key.
    #[error("line {line} is not a public key")]
    NoKey {
        /// The first line that is none, from 1.
        line: usize,
    },
    /// Too much for a seed.
    #[error("it has {bytes} bytes, but a seed has space for {CAPACITY}")]
    TooLarge {
        /// Bytes of all files.
        bytes: usize,
    },
}

/// The keys of a file in the form of `authorized_keys`, of which each line must be one, empty, or a comment.
///
/// # Errors
/// A line is no public key, or there is none.
pub fn public_keys(text: &str) -> Result<Vec<String>, SeedError> {
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with("-----BEGIN") {
            return Err(SeedError::PrivateKey);
        }
        // A kind, the key in Base64, a comment. All keys begin with the length of their kind, which is below 256.
        let mut words = line.split_ascii_whitespace();
        let kind = words.next().is_some_and(|kind| {
            ["ssh-", "ecdsa-", "sk-"]
                .iter()
                .any(|known| kind.starts_with(known))
        });
        if !kind || !words.next().is_some_and(|key| key.starts_with("AAAA")) {
            return Err(SeedError::NoKey { line: index + 1 });
        }
        keys.push(line.to_owned());
    }
    if keys.is_empty() {
        Err(SeedError::NoKey { line: 1 })
    } else {
        Ok(keys)
    }
}

/// Files that let `user`, and the distribution's own user, log in with these keys; `user` may become root.
///
/// `instance` should differ at every boot: what cloud-init does once, it does once for each.
pub fn for_keys(keys: &[String], user: &str, instance: &str) -> Vec<SeedFile> {
    let config = json!({
        "ssh_authorized_keys": keys,
        "users": ["default", {
            "name": user, "shell": "/bin/bash", "sudo": "ALL=(ALL) NOPASSWD:ALL", "lock_passwd": true,
            "ssh_authorized_keys": keys,
        }],
    });
    let file = |name: &str, content: String| SeedFile {
        name: name.to_owned(),
        content: content.into_bytes(),
    };
    // JSON is YAML.
    vec![
        file(
            "meta-data",
            format!("{}\n", json!({"instance-id": instance})),
        ),
        file("user-data", format!("#cloud-config\n{config:#}\n")),
    ]
}

/// Bytes that a seed has room for, leaving a cluster to each file's end.
const CAPACITY: usize = (CLUSTERS - MOST) * SECTOR;
/// Files of a seed.
const MOST: usize = 64;
const LABEL: &[u8; 11] = b"CIDATA     ";

/// The disk with these files, the same bytes every time.
///
/// # Errors
/// They are too large.
///
/// # Panics
/// There are more than 64 files, or a name is not as [`SeedFile`] says.
pub fn image(files: &[SeedFile]) -> Result<Vec<u8>, SeedError> {
    labelled(LABEL, files)
}

/// Such a disk for files that are not cloud-init's.
///
/// # Errors
/// They are too large.
///
/// # Panics
/// As [`image`].
pub fn files_image(files: &[SeedFile]) -> Result<Vec<u8>, SeedError> {
    labelled(b"IMPASTO    ", files)
}

fn labelled(label: &[u8; 11], files: &[SeedFile]) -> Result<Vec<u8>, SeedError> {
    assert!(files.len() <= MOST, "BUG: a seed of {} files", files.len());
    let bytes = files.iter().map(|file| file.content.len()).sum();
    if bytes > CAPACITY {
        return Err(SeedError::TooLarge { bytes });
    }
    let mut fat = Fat16::new(label, b"seed");
    let mut root = entry(label, FatEntry::Label, 0, 0).to_vec();
    for (index, file) in files.iter().enumerate() {
        let first = fat.put(&file.content);
        // No file has this short name but to the rules, which want one that is alone.
        let short = short_name(&format!("FILE{index:02}"));
        root.extend(long_name(&file.name, &short));
        let length = file.content.len() as u32;
        root.extend(entry(&short, FatEntry::File, first, length));
    }
    Ok(fat.finish(&root))
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests ask other programs whether they agree"
)]
mod tests {
    use super::*;

    fn file(name: &str, content: &[u8]) -> SeedFile {
        SeedFile {
            name: name.to_owned(),
            content: content.to_vec(),
        }
    }

    #[test]
    fn mtools_and_fsck_agree() {
        let files = [
            file("meta-data", b""),
            file("user-data", &b"0123456789abcde\n".repeat(1000)),
            file("thirteen-long", b"x"),
            file("network-config", &[7; SECTOR]),
        ];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed.img");
        std::fs::write(&path, image(&files).unwrap()).unwrap();
        let run = |program: &str, arguments: &[&str]| {
            let output = std::process::Command::new(program)
                .args(arguments)
                .env("PATH", "/usr/bin:/usr/sbin")
                .output();
            let output = output.unwrap_or_else(|error| panic!("cannot start {program}: {error}"));
            assert!(
                output.status.success(),
                "{program}: {}",
                String::from_utf8_lossy(&output.stdout)
            );
            output.stdout
        };
        let path = path.to_str().unwrap();
        for file in &files {
            assert_eq!(
                run("mtype", &["-i", path, &format!("::{}", file.name)]),
                file.content,
                "{}",
                file.name
            );
        }
        assert!(
            String::from_utf8_lossy(&run("mlabel", &["-s", "-i", path, "::"])).contains("CIDATA")
        );
        run("fsck.fat", &["-n", path]);
    }

    #[test]
    fn keys_are_told_from_what_is_none() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHh a@b";
        assert_eq!(
            public_keys(&format!("# mine\n\n{key}\n")),
            Ok(vec![key.to_owned()])
        );
        let private = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n";
        assert_eq!(public_keys(private), Err(SeedError::PrivateKey));
        assert_eq!(
            public_keys(&format!("{key}\nhello\n")),
            Err(SeedError::NoKey { line: 2 })
        );
        assert_eq!(public_keys("\n"), Err(SeedError::NoKey { line: 1 }));
    }

    #[test]
    fn the_seed_for_a_key_is_pinned() {
        let files = for_keys(&["ssh-ed25519 AAAA \"quoted\"".to_owned()], "me", "boot-1");
        let text: String = files
            .iter()
            .map(|file| format!("{}:\n{}", file.name, String::from_utf8_lossy(&file.content)))
            .collect();
        insta::assert_snapshot!("seed", text);
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let files = [file("user-data", &vec![0; CAPACITY + 1])];
        assert_eq!(
            image(&files),
            Err(SeedError::TooLarge {
                bytes: CAPACITY + 1
            })
        );
        image(&[file("user-data", &vec![1; CAPACITY])]).unwrap();
    }
}
