//! Versions of Debian's packages and their order (deb-version(7)).
//! Knows the form and the order; does not know packages.

use std::cmp::Ordering;
use std::fmt;

/// A version, in its parts. Versions that the order does not tell apart (`1.0` and `1.00-0`) are equal.
#[derive(Clone, Copy, Debug)]
pub struct Version<'a> {
    text: &'a str,
    epoch: u32,
    upstream: &'a str,
    revision: &'a str,
}

/// A text that is not a version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid version: {problem}")]
pub struct VersionError {
    /// The text; of a long one the beginning.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl<'a> Version<'a> {
    /// Takes a version apart: `[epoch:]upstream[-revision]`.
    ///
    /// # Errors
    /// What dpkg does not take either, but for versions that begin with a letter: it only warns of those.
    pub fn parse(text: &'a str) -> Result<Version<'a>, VersionError> {
        let error = |problem| VersionError {
            text: text.chars().take(80).collect(),
            problem,
        };
        let text = text.trim_ascii();
        let (epoch, rest) = match text.split_once(':') {
            None => (0, text),
            Some((epoch, rest)) => {
                let digits = !epoch.is_empty() && epoch.bytes().all(|byte| byte.is_ascii_digit());
                let number = epoch
                    .parse::<u32>()
                    .ok()
                    .filter(|&number| digits && number <= i32::MAX as u32);
                (
                    number.ok_or_else(|| error("its epoch is not a valid number"))?,
                    rest,
                )
            }
        };
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        if upstream.is_empty() {
            return Err(error("it is empty"));
        }
        if rest.len() > upstream.len() && revision.is_empty() {
            return Err(error("its revision is empty"));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'~');
        let colon = |byte| byte == b':' && rest.len() < text.len();
        let sound = upstream
            .bytes()
            .all(|byte| plain(byte) || byte == b'-' || colon(byte));
        if !sound || !revision.bytes().all(plain) {
            return Err(error("it contains an invalid character"));
        }
        Ok(Version {
            text,
            epoch,
            upstream,
            revision,
        })
    }

    /// The text as it was written.
    pub fn as_str(&self) -> &'a str {
        self.text
    }
}

impl fmt::Display for Version<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

impl Ord for Version<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.epoch
            .cmp(&other.epoch)
            .then_with(|| compare_part(self.upstream.as_bytes(), other.upstream.as_bytes()))
            .then_with(|| compare_part(self.revision.as_bytes(), other.revision.as_bytes()))
    }
}

impl PartialOrd for Version<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Version<'_> {}

/// The order of two texts that may be no versions: those that are come after those that are not.
pub fn compare(a: &str, b: &str) -> Ordering {
    match (Version::parse(a), Version::parse(b)) {
        (Ok(a), Ok(b)) => a.cmp(&b),
        (Ok(_), Err(_)) => Ordering::Greater,
        (Err(_), Ok(_)) => Ordering::Less,
        (Err(_), Err(_)) => a.cmp(b),
    }
}

/// Runs of other characters and runs of digits in turn; the end counts as a digit among the others.
fn compare_part(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        loop {
            let (first, second) = (other(a), other(b));
            if first.is_none() && second.is_none() {
                break;
            }
            let order = weight(first).cmp(&weight(second));
            if order.is_ne() {
                return order;
            }
            (a, b) = (&a[1..], &b[1..]);
        }
        let (first, second) = (digits(&mut a), digits(&mut b));
        let order = first
            .len()
            .cmp(&second.len())
            .then_with(|| first.cmp(second));
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// The first character, if it is no digit.
fn other(text: &[u8]) -> Option<u8> {
    text.first().copied().filter(|byte| !byte.is_ascii_digit())
}

/// `~` before the end, the end before letters, letters before all others.
fn weight(byte: Option<u8>) -> i32 {
    match byte {
        Some(b'~') => -1,
        None => 0,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(byte),
        Some(byte) => i32::from(byte) + 256,
    }
}

/// Takes the digits at the beginning, without the zeros that they begin with.
fn digits<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let end = text
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    *text = rest;
    &number[number
        .iter()
        .position(|&byte| byte != b'0')
        .unwrap_or(number.len())..]
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "dpkg is the oracle")]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    use super::*;

    fn version(text: &str) -> Version<'_> {
        Version::parse(text).unwrap()
    }

    #[test]
    fn versions_stand_in_the_order_of_the_manual() {
        // The row of `~` is deb-version(7)'s own.
        let rows: [&[&str]; 6] = [
            &["~~", "~~a", "~", "0", "a"],
            &["1.0~~", "1.0~~a", "1.0~", "1.0", "1.0a", "1.0+", "1.0.1"],
            &[
                "9",
                "10",
                "99999999999999999999999999999",
                "100000000000000000000000000000",
                "1:0",
            ],
            &[
                "1.2-1",
                "1.2-1+b1",
                "1.2-1.1",
                "1.2-2~bpo1",
                "1.2-2",
                "1.2-10",
                "1.2a-1",
                "1.2.-1",
            ],
            &["2.36-9+deb12u1", "2.36-9+deb12u10", "2.36-10"],
            &["0:5-1", "5-1-1", "5.0"],
        ];
        for row in rows {
            for (at, pair) in row.windows(2).enumerate() {
                assert!(version(pair[0]) < version(pair[1]), "{pair:?} ({at})");
                assert!(version(pair[1]) > version(pair[0]), "{pair:?} ({at})");
            }
        }
        for (a, b) in [("1.0", "1.00"), ("1.0", "1.0-0"), ("0:1", "1")] {
            assert_eq!(version(a), version(b), "{a} {b}");
        }
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in [
            "",
            ":1",
            "1:",
            "a:1",
            "-1:1",
            "2147483648:1",
            "1-",
            "-1",
            "1 2",
            "1_2",
            "1\n2",
            "1:2-3:4",
            "é",
        ] {
            assert!(Version::parse(text).is_err(), "{text:?}");
        }
        for text in ["1", " 1 ", "2147483647:1", "1:2:3", "a", "1-2-3", "1~-0~"] {
            assert!(Version::parse(text).is_ok(), "{text:?}");
        }
        assert_eq!(compare("1", "?"), Ordering::Greater);
    }

    #[test]
    fn the_order_is_that_of_dpkg() {
        if Command::new("dpkg")
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .is_err()
        {
            println!("skipped: this host has no dpkg to ask");
            return;
        }
        let part = "[0-9][0-9.a-zA-Z+~]{0,5}";
        let text = (
            proptest::option::of(0..3u32),
            part,
            proptest::option::of("[0-9a-z.+~]{1,4}"),
        );
        let text = text.prop_map(|(epoch, upstream, revision)| {
            let epoch = epoch.map(|epoch| format!("{epoch}:")).unwrap_or_default();
            let revision = revision
                .map(|revision| format!("-{revision}"))
                .unwrap_or_default();
            format!("{epoch}{upstream}{revision}")
        });
        // Half of the pairs share most of their text, or hardly any would be close.
        let near = (text.clone(), "[0-9.a+~]{0,2}", "[0-9.a+~]{0,2}");
        let near = near.prop_map(|(text, a, b)| (format!("{text}{a}"), format!("{text}{b}")));
        let pair = prop_oneof![(text.clone(), text), near];
        let mut runner = TestRunner::deterministic();
        let pairs: Vec<_> = (0..600)
            .map(|_| pair.new_tree(&mut runner).unwrap().current())
            .collect();
        let mut shell = Command::new("sh")
            .args([
                "-c",
                "while read -r a b; do dpkg --compare-versions \"$a\" lt \"$b\" && echo lt && continue
                dpkg --compare-versions \"$a\" eq \"$b\" && echo eq || echo gt; done",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = shell.stdin.take().unwrap();
        let lines: String = pairs.iter().map(|(a, b)| format!("{a} {b}\n")).collect();
        let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
        let answers = String::from_utf8(shell.wait_with_output().unwrap().stdout).unwrap();
        writer.join().unwrap().unwrap();
        assert_eq!(answers.lines().count(), pairs.len());
        for ((a, b), answer) in pairs.iter().zip(answers.lines()) {
            let order = match version(a).cmp(&version(b)) {
                Ordering::Less => "lt",
                Ordering::Equal => "eq",
                Ordering::Greater => "gt",
            };
            assert_eq!(order, answer, "{a} and {b}");
        }
    }

    proptest! {
        #[test]
        fn the_order_is_one(a in "\\PC{0,8}", b in "[0-9:a~+.-]{0,8}", c in "[0-9a~+.-]{0,8}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
        }
    }
}
