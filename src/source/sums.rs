//! Reads lists of checksums, as `sha256sum` and `sha512sum` write them, also with `--tag`.
//! Knows lines and names; who signed a list, and where it is from, is the caller's knowledge.

use impasto_store::sha256::{Sha256, Sha512};

use crate::net::Checksum;

/// A list of checksums that cannot be used for a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SumsError {
    /// No line of it is a checksum.
    #[error("it is not a list of checksums")]
    NoList,
    #[error("it does not list {name}")]
    NotListed {
        name: String,
        /// The names that it lists.
        listed: Vec<String>,
    },
    #[error("it lists {name} twice, with different checksums")]
    Twice { name: String },
    /// Digests for which other files can be made.
    #[error("it has only a weak checksum of {name}: {algorithm}")]
    Weak { name: String, algorithm: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct SumsLine {
    /// As the list has it, without `./`.
    name: String,
    algorithm: String,
    digits: String,
}

/// The checksums of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChecksumList {
    lines: Vec<SumsLine>,
}

impl ChecksumList {
    /// Reads a list. Lines that are no checksums, such as comments and signatures, do not count.
    ///
    /// # Errors
    /// [`SumsError::NoList`].
    pub fn parse(text: &str) -> Result<ChecksumList, SumsError> {
        let lines: Vec<_> = text.lines().filter_map(line).collect();
        if lines.is_empty() {
            return Err(SumsError::NoList);
        }
        Ok(ChecksumList { lines })
    }

    /// The checksum of a file, by its path from where the list is: the SHA-256 where the list has one, else the SHA-512. A
    /// list that names no directories is taken for files of any.
    ///
    /// # Errors
    /// The file is not in the list, or has several checksums, or none that can be believed.
    pub fn find(&self, path: &str) -> Result<Checksum, SumsError> {
        let base = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
        let wanted = base(path);
        let mut found: Vec<_> = self.lines.iter().filter(|line| line.name == path).collect();
        if found.is_empty() {
            found = self
                .lines
                .iter()
                .filter(|line| base(&line.name) == wanted)
                .collect();
        }
        let Some(first) = found.first() else {
            let listed = self.lines.iter().map(|line| base(&line.name)).collect();
            return Err(SumsError::NotListed {
                name: wanted,
                listed,
            });
        };
        for algorithm in ["SHA256", "SHA512"] {
            let mut digits = found
                .iter()
                .filter(|line| line.algorithm == algorithm)
                .map(|line| line.digits.as_str());
            let Some(one) = digits.next() else { continue };
            if digits.any(|other| other != one) {
                return Err(SumsError::Twice { name: wanted });
            }
            let sha512 = || Sha512::parse(one).map(Checksum::Sha512);
            let sha256 = one.parse::<Sha256>().ok().map(Checksum::Sha256);
            if let Some(checksum) = sha256.or_else(sha512) {
                return Ok(checksum);
            }
        }
        Err(SumsError::Weak {
            name: wanted,
            algorithm: first.algorithm.clone(),
        })
    }
}

/// A line of a list: `DIGITS  NAME`, `DIGITS *NAME` or `SHA256 (NAME) = DIGITS`. One whose name holds a backslash or a line
/// feed begins with a backslash, and has them escaped (sha256sum(1)).
fn line(line: &str) -> Option<SumsLine> {
    let line = line.trim_end_matches(['\r', ' ', '\t']);
    let (line, escaped) = match line.strip_prefix('\\') {
        Some(rest) => (rest, true),
        None => (line, false),
    };
    let (algorithm, name, digits) = tagged(line).or_else(|| plain(line))?;
    let digits = digits.to_ascii_lowercase();
    let is_hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let known = algorithm_of(digits.len())?;
    if !is_hexadecimal || name.is_empty() || algorithm.as_deref().is_some_and(|said| said != known)
    {
        return None;
    }
    let name = if escaped {
        unescaped(name)
    } else {
        name.to_owned()
    };
    Some(SumsLine {
        name: name.strip_prefix("./").unwrap_or(&name).to_owned(),
        algorithm: known.to_owned(),
        digits,
    })
}

fn tagged(line: &str) -> Option<(Option<String>, &str, &str)> {
    let (algorithm, rest) = line.split_once(" (")?;
    let (name, digits) = rest.rsplit_once(") = ")?;
    let algorithm = algorithm.replace('-', "").to_ascii_uppercase();
    let is_word = algorithm.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_word.then_some((Some(algorithm), name, digits))
}

fn plain(line: &str) -> Option<(Option<String>, &str, &str)> {
    let (digits, rest) = line.split_once(' ')?;
    // The second character says how the file was read.
    let name = rest.strip_prefix([' ', '*']).unwrap_or(rest);
    Some((None, name, digits))
}

/// Digests have the length of one algorithm in use each.
fn algorithm_of(digits: usize) -> Option<&'static str> {
    Some(match digits {
        32 => "MD5",
        40 => "SHA1",
        56 => "SHA224",
        64 => "SHA256",
        96 => "SHA384",
        128 => "SHA512",
        _ => return None,
    })
}

fn unescaped(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    let mut chars = name.chars();
    while let Some(c) = chars.next() {
        plain.push(match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some(other) => other,
                None => '\\',
            },
            (c, false) => c,
        });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(text: &str) -> ChecksumList {
        ChecksumList::parse(text).unwrap()
    }

    #[test]
    fn lists_of_each_form_are_read() {
        let (one, long) = (Sha256::of(b"1"), Sha512::of(b"1"));
        let forms = [
            format!("{one}  a.img\n"),
            format!("{one} *a.img\r\n"),
            format!("# a.img: 5 bytes\nSHA256 (a.img) = {one}\n"),
            format!("{}  ./a.img\n", one.to_string().to_uppercase()),
            format!("{long}  a.img\n{one}  a.img\nd41d8cd98f00b204e9800998ecf8427e  a.img\n"),
            format!("{one}  a.img\n{one}  a.img\n"),
        ];
        for text in forms {
            assert_eq!(
                sums(&text).find("a.img"),
                Ok(Checksum::Sha256(one)),
                "{text}"
            );
        }
        let tagged = format!("SHA512 (a (1).img) = {long}");
        assert_eq!(sums(&tagged).find("a (1).img"), Ok(Checksum::Sha512(long)));
        let escaped = format!("\\{one}  a\\\\b\\nc");
        assert_eq!(sums(&escaped).find("a\\b\nc"), Ok(Checksum::Sha256(one)));
    }

    #[test]
    fn directories_tell_files_of_one_name_apart() {
        let (one, two) = (Sha256::of(b"1"), Sha256::of(b"2"));
        let list = sums(&format!("{one}  amd64/a.img\n{two}  ./arm64/a.img\n"));
        assert_eq!(list.find("amd64/a.img"), Ok(Checksum::Sha256(one)));
        assert_eq!(list.find("arm64/a.img"), Ok(Checksum::Sha256(two)));
        let name = "a.img".to_owned();
        assert_eq!(list.find("a.img"), Err(SumsError::Twice { name }));
    }

    #[test]
    fn what_cannot_be_believed_is_refused() {
        let (one, two) = (Sha256::of(b"1"), Sha256::of(b"2"));
        assert_eq!(
            ChecksumList::parse("<html>\n\nno\n"),
            Err(SumsError::NoList)
        );
        let list = sums(&format!("{one}  debian-13.qcow2\n"));
        let error = list.find("debian-13.qcow").unwrap_err();
        let listed = vec!["debian-13.qcow2".to_owned()];
        let name = "debian-13.qcow".to_owned();
        assert_eq!(error, SumsError::NotListed { name, listed });
        let name = "a".to_owned();
        let twice = format!("{one}  a\n{two}  a\n");
        assert_eq!(
            sums(&twice).find("a"),
            Err(SumsError::Twice { name: name.clone() })
        );
        let algorithm = "MD5".to_owned();
        let weak = "d41d8cd98f00b204e9800998ecf8427e  a\n";
        assert_eq!(
            sums(weak).find("a"),
            Err(SumsError::Weak { name, algorithm })
        );
        // A tag that does not go with its digits is no checksum.
        assert_eq!(
            ChecksumList::parse(&format!("SHA512 (a) = {one}")),
            Err(SumsError::NoList)
        );
    }
}
