//! The disk that cloud-init's NoCloud source reads: a small FAT file system labelled CIDATA, made byte by byte.
//! Knows the format (Microsoft, "FAT: General Overview of On-Disk Format") and cloud-init's files, not who reads them.

use serde_json::json;

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

// The layout, in sectors: boot sector | FAT | FAT | root directory | data. One cluster is one sector, and there are as
// many as make it FAT16 by the specification: from 4085 to 65524.
const SECTOR: usize = 512;
const SECTORS: usize = 16384;
const FAT_SECTORS: usize = 64;
const ROOT_ENTRIES: usize = 512;
const ENTRY: usize = 32;
const FAT_START: usize = 1;
const ROOT_START: usize = FAT_START + 2 * FAT_SECTORS;
const DATA_START: usize = ROOT_START + ROOT_ENTRIES * ENTRY / SECTOR;
/// The first cluster has number 2.
const FIRST_CLUSTER: usize = 2;
const CLUSTERS: usize = SECTORS - DATA_START;
/// Bytes that a seed has room for, leaving a cluster to each file's end.
const CAPACITY: usize = (CLUSTERS - 64) * SECTOR;
/// 1 January 1980, the first day that there is.
const DATE: u16 = 0x21;
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
    assert!(files.len() <= 64, "BUG: a seed of {} files", files.len());
    let bytes = files.iter().map(|file| file.content.len()).sum();
    if bytes > CAPACITY {
        return Err(SeedError::TooLarge { bytes });
    }
    let mut disk = vec![0; SECTORS * SECTOR];
    disk[..SECTOR].copy_from_slice(&boot_sector(label));
    let mut fat = vec![0u16; FAT_SECTORS * SECTOR / 2];
    // The first two entries are the medium's type and the end mark.
    (fat[0], fat[1]) = (0xfff8, 0xffff);
    let mut root = entry(label, 0x08, 0, 0).to_vec();
    let mut next = FIRST_CLUSTER;
    for (index, file) in files.iter().enumerate() {
        let clusters = file.content.len().div_ceil(SECTOR);
        // Each cluster names the next one of its file, the last says that it is the last.
        for (cluster, slot) in fat.iter_mut().enumerate().skip(next).take(clusters) {
            *slot = if cluster + 1 < next + clusters {
                cluster as u16 + 1
            } else {
                0xffff
            };
        }
        let start = (DATA_START + next - FIRST_CLUSTER) * SECTOR;
        disk[start..start + file.content.len()].copy_from_slice(&file.content);
        // No file has this short name but to the rules, which want one that is alone.
        let mut short = *b"FILE00     ";
        (short[4], short[5]) = (b'0' + index as u8 / 10, b'0' + index as u8 % 10);
        root.extend(long_name(&file.name, &short));
        let first = if clusters == 0 { 0 } else { next as u16 };
        root.extend(entry(&short, 0x20, first, file.content.len() as u32));
        next += clusters;
    }
    for copy in 0..2 {
        let start = (FAT_START + copy * FAT_SECTORS) * SECTOR;
        for (slot, value) in disk[start..].chunks_exact_mut(2).zip(&fat) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
    }
    disk[ROOT_START * SECTOR..][..root.len()].copy_from_slice(&root);
    Ok(disk)
}

fn boot_sector(label: &[u8; 11]) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0xeb, 0x3c, 0x90]);
    put(3, b"MSWIN4.1");
    put(11, &(SECTOR as u16).to_le_bytes());
    // Sectors of a cluster, reserved sectors, FATs.
    put(13, &[1, 1, 0, 2]);
    put(17, &(ROOT_ENTRIES as u16).to_le_bytes());
    put(19, &(SECTORS as u16).to_le_bytes());
    put(21, &[0xf8]);
    put(22, &(FAT_SECTORS as u16).to_le_bytes());
    // Sectors of a track, and heads: a geometry that nobody asks for.
    put(24, &[32, 0, 64, 0]);
    // A hard disk; a volume id and a label follow.
    put(36, &[0x80, 0, 0x29]);
    put(39, b"seed");
    put(43, label);
    put(54, b"FAT16   ");
    put(510, &[0x55, 0xaa]);
    sector
}

fn entry(name: &[u8; 11], attributes: u8, cluster: u16, length: u32) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[..11].copy_from_slice(name);
    entry[11] = attributes;
    for date in [16, 18, 24] {
        entry[date..date + 2].copy_from_slice(&DATE.to_le_bytes());
    }
    entry[26..28].copy_from_slice(&cluster.to_le_bytes());
    entry[28..32].copy_from_slice(&length.to_le_bytes());
    entry
}

/// The entries before a file's own that hold its real name, 13 characters each, the last part first.
fn long_name(name: &str, short: &[u8; 11]) -> Vec<u8> {
    assert!(
        name.is_ascii() && (1..=26).contains(&name.len()),
        "BUG: a seed has a file called {name}"
    );
    let sum = short
        .iter()
        .fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let parts: Vec<_> = name.as_bytes().chunks(13).collect();
    let mut entries = Vec::new();
    for (index, part) in parts.iter().enumerate().rev() {
        let mut entry = [0; ENTRY];
        let last = if index + 1 == parts.len() { 0x40 } else { 0 };
        (entry[0], entry[11], entry[13]) = ((index as u8 + 1) | last, 0x0f, sum);
        // A name that does not fill its entry ends with a zero, and all behind that is ones.
        let characters = part
            .iter()
            .map(|byte| u16::from(*byte))
            .chain([0])
            .chain(std::iter::repeat(0xffff));
        let places = (1..11)
            .step_by(2)
            .chain((14..26).step_by(2))
            .chain((28..32).step_by(2));
        for (place, character) in places.zip(characters) {
            entry[place..place + 2].copy_from_slice(&character.to_le_bytes());
        }
        entries.extend(entry);
    }
    entries
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
