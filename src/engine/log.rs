//! From a stage's bytes to lines that are safe to show and to keep: secrets redacted, control characters neutralised,
//! lengths capped. Knows no event and no terminal.

use std::collections::VecDeque;

use aho_corasick::{AhoCorasick, MatchKind};
use impasto_stages::Secret;

use crate::base::escape::neutralise;

/// What stands in the place of a secret.
const REDACTED: &str = "[secret]";
/// A line that is longer is broken, in bytes.
const LINE_LIMIT: usize = 8 << 10;
/// Shorter texts are too common to be redacted: every second line would be hit.
const SHORTEST: usize = 3;

/// Finds secrets in text, in the encodings that tools print them in.
#[derive(Clone, Default)]
pub struct Redactor {
    /// None where there is no secret.
    search: Option<AhoCorasick>,
    /// The length of the longest text that is looked for, in bytes.
    longest: usize,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redactor").finish_non_exhaustive()
    }
}

impl Redactor {
    /// A redactor of these secrets: as they are and line by line, in Base64 at every alignment, in hexadecimal and
    /// percent-encoded.
    pub fn new<'a>(secrets: impl Iterator<Item = &'a Secret>) -> Self {
        let mut patterns = Vec::new();
        for secret in secrets {
            let whole = secret.expose();
            for text in std::iter::once(whole.trim_end_matches(['\r', '\n'])).chain(whole.lines()) {
                let bytes = text.trim_end_matches('\r').as_bytes();
                if bytes.len() < SHORTEST {
                    continue;
                }
                patterns.push(bytes.to_vec());
                patterns.push(hex(bytes, b"0123456789abcdef"));
                patterns.push(hex(bytes, b"0123456789ABCDEF"));
                patterns.push(percent(bytes, b"0123456789ABCDEF"));
                patterns.push(percent(bytes, b"0123456789abcdef"));
                for alphabet in [BASE64, BASE64_URL] {
                    patterns.extend((0..3).map(|shift| base64_core(bytes, shift, alphabet)));
                }
            }
        }
        patterns.retain(|pattern: &Vec<u8>| pattern.len() >= SHORTEST);
        let longest = patterns.iter().map(Vec::len).max().unwrap_or(0);
        if patterns.is_empty() {
            return Redactor::default();
        }
        // The longest of several that begin at one place, so that a secret that holds another goes whole.
        let search = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(patterns);
        Redactor {
            search: Some(search.expect("BUG: secrets are too long to be searched for")),
            longest,
        }
    }

    /// The bytes with every secret replaced.
    pub fn redact(&self, bytes: &[u8]) -> Vec<u8> {
        let Some(search) = &self.search else {
            return bytes.to_vec();
        };
        let mut out = Vec::with_capacity(bytes.len());
        let mut end = 0;
        for found in search.find_iter(bytes) {
            out.extend_from_slice(&bytes[end..found.start()]);
            out.extend_from_slice(REDACTED.as_bytes());
            end = found.end();
        }
        out.extend_from_slice(&bytes[end..]);
        out
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn hex(bytes: &[u8], digits: &[u8; 16]) -> Vec<u8> {
    bytes
        .iter()
        .flat_map(|byte| {
            [
                digits[usize::from(byte >> 4)],
                digits[usize::from(byte & 15)],
            ]
        })
        .collect()
}

fn percent(bytes: &[u8], digits: &[u8; 16]) -> Vec<u8> {
    let mut out = Vec::new();
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte);
        } else {
            out.extend([
                b'%',
                digits[usize::from(byte >> 4)],
                digits[usize::from(byte & 15)],
            ]);
        }
    }
    out
}

/// The Base64 digits that the bytes have in any text in which they begin at `shift` (0 to 2) bytes after a boundary
/// of three: those that no neighbour has a part in.
fn base64_core(bytes: &[u8], shift: usize, alphabet: &[u8; 64]) -> Vec<u8> {
    let first = (shift * 8).div_ceil(6);
    let last = (shift + bytes.len()) * 8 / 6;
    let bit = |bit: usize| {
        let byte = bytes[bit / 8 - shift];
        byte >> (7 - bit % 8) & 1
    };
    (first..last)
        .map(|digit| {
            alphabet[(0..6).fold(0, |value, i| value << 1 | usize::from(bit(digit * 6 + i)))]
        })
        .collect()
}

/// Collects a stream's bytes into lines.
#[derive(Debug)]
pub struct Lines {
    redactor: Redactor,
    pending: Vec<u8>,
}

impl Lines {
    /// A stream from which `redactor` takes the secrets.
    pub fn new(redactor: Redactor) -> Self {
        Lines {
            redactor,
            pending: Vec::new(),
        }
    }

    /// Takes bytes as they come and gives the lines that they complete.
    pub fn push(&mut self, bytes: &[u8], line: &mut dyn FnMut(String)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.pending.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.flush(line);
                continue;
            }
            // A line without an end: give what can hold no more than the beginning of a secret.
            let keep = self.redactor.longest;
            while self.pending.len() >= LINE_LIMIT + 2 * keep {
                let redacted = self.redactor.redact(&self.pending);
                let cut = redacted.len().saturating_sub(keep).min(LINE_LIMIT);
                line(self.shown(&redacted[..cut]));
                self.pending = redacted[cut..].to_vec();
            }
        }
    }

    /// Gives the last line, if it has no end.
    pub fn finish(&mut self, line: &mut dyn FnMut(String)) {
        if !self.pending.is_empty() {
            self.flush(line);
        }
    }

    /// A line without secrets as it is shown: once more without those that control characters held apart.
    fn shown(&self, line: &[u8]) -> String {
        let text = neutralise(line);
        String::from_utf8(self.redactor.redact(text.as_bytes())).unwrap_or(text)
    }

    fn flush(&mut self, line: &mut dyn FnMut(String)) {
        let redacted = self.redactor.redact(&std::mem::take(&mut self.pending));
        for part in redacted.chunks(LINE_LIMIT) {
            line(self.shown(part));
        }
    }
}

/// The last lines of a log.
#[derive(Debug, Clone, Default)]
pub struct Tail {
    lines: VecDeque<String>,
}

impl Tail {
    /// How many lines are kept.
    pub const LINES: usize = 20;

    pub fn push(&mut self, line: &str) {
        if self.lines.len() == Self::LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line.to_owned());
    }

    /// The lines, oldest first.
    pub fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(redactor: Redactor, pieces: &[&[u8]]) -> Vec<String> {
        let mut out = Vec::new();
        let mut lines = Lines::new(redactor);
        for piece in pieces {
            lines.push(piece, &mut |line| out.push(line));
        }
        lines.finish(&mut |line| out.push(line));
        out
    }

    fn redactor(secret: &str) -> Redactor {
        Redactor::new([Secret::new(secret)].iter())
    }

    #[test]
    fn bytes_become_lines_wherever_they_are_cut() {
        assert_eq!(
            lines(Redactor::default(), &[b"a\nb", b"c\n", b"\n", b"d"]),
            ["a", "bc", "", "d"]
        );
    }

    #[test]
    fn what_a_terminal_would_act_on_is_neutralised() {
        let shown = |bytes: &[u8]| neutralise(bytes);
        assert_eq!(shown(b"\x1b[31mred\x1b[0m\x1b[2J"), "red");
        assert_eq!(shown(b"\x1b]52;c;aGk=\x07"), r"\u{1b}]52;c;aGk=\u{7}");
        assert_eq!(shown(b" 10%\r 50%\r100%\r\n"), "100%");
        assert_eq!(shown("a\u{202e}b".as_bytes()), r"a\u{202e}b");
        assert_eq!(shown(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }

    /// What actions/runner's `ActionCommand` and azure-pipelines-agent's `Command` look for.
    fn is_command(line: &str) -> bool {
        // .NET's `TrimStart` takes all white space of Unicode, as Rust's does.
        line.trim_start().starts_with("::") || line.contains("##[") || line.contains("##vso[")
    }

    #[test]
    fn no_line_is_a_command_to_a_ci_service() {
        let lines: [&[u8]; 9] = [
            b"::set-env name=X::y",
            b"  \t::error::x",
            "\u{a0}\u{3000}::add-mask::a".as_bytes(),
            b"\x1b[1m::stop-commands::x",
            b"10%\r::warning::x",
            b"##vso[task.setvariable]",
            b"harmless ##[add-matcher]/x.json and ###[error]",
            b"##teamcity[buildStatus]",
            b"#\x1b[0m#[debug]x",
        ];
        for line in lines {
            let shown = neutralise(line);
            assert!(!is_command(&shown), "{shown:?}");
            assert!(
                shown.contains(r"\u{3a}:") || shown.contains(r"\u{23}#"),
                "{shown:?}"
            );
        }
        for line in [
            "# title", "## title", "a::b", "std::fs", "##", "## [x]", ":x:",
        ] {
            assert_eq!(neutralise(line.as_bytes()), line);
        }
    }

    #[test]
    fn a_secret_is_redacted_in_every_encoding_and_alignment() {
        let secret = "hunter2/pa ss";
        let redactor = redactor(secret);
        // Made with base64, xxd and an URL encoder.
        let printed = [
            "hunter2/pa ss",
            "aHVudGVyMi9wYSBzcw==",
            "eGh1bnRlcjIvcGEgc3M=",
            "eHhodW50ZXIyL3BhIHNz",
            "68756e746572322f7061207373",
            "68756E746572322F7061207373",
            "hunter2%2Fpa%20ss",
        ];
        for text in printed {
            let shown = lines(redactor.clone(), &[format!("token={text};").as_bytes()]);
            assert!(
                shown[0].contains(REDACTED),
                "{text} was shown as {}",
                shown[0]
            );
            assert!(!shown[0].contains("hunter"), "{}", shown[0]);
        }
    }

    #[test]
    fn control_characters_do_not_hide_a_secret() {
        assert_eq!(
            lines(
                redactor("hunter2secret"),
                &[b"a hun\x1b[31mter2\x1b[0msecret b\n"]
            ),
            ["a [secret] b"]
        );
    }

    #[test]
    fn each_line_of_a_secret_is_redacted() {
        let shown = lines(
            redactor("first-line\nsecond-line\n"),
            &[b"x first-line\nsecond-line y\n"],
        );
        assert_eq!(shown, ["x [secret]", "[secret] y"]);
    }

    #[test]
    fn a_line_without_end_is_broken_and_still_redacted() {
        let secret = "s3cr3t-of-some-length";
        let mut bytes = vec![b'.'; LINE_LIMIT - 7];
        bytes.extend(secret.repeat(3000).as_bytes());
        let shown = lines(redactor(secret), &bytes.chunks(4096).collect::<Vec<_>>());
        assert!(shown.len() > 1);
        assert!(
            shown
                .iter()
                .all(|line| line.len() <= LINE_LIMIT && !line.contains("s3cr3t")),
            "leaked"
        );
    }

    proptest! {
        #[test]
        fn no_text_becomes_a_command(line in "[ \t\u{a0}:#\\[\\]a-z\u{1b}\r\u{2003}0]{0,24}") {
            prop_assert!(!is_command(&neutralise(line.as_bytes())));
            prop_assert!(!is_command(&crate::base::escape::without_commands(&line)));
        }

        #[test]
        fn a_secret_never_shows_wherever_the_stream_is_cut(
            before in "[a-z]{0,40}", after in "[a-z]{0,40}", cuts in proptest::collection::vec(0usize..60, 0..5),
        ) {
            let text = format!("{before}TOP+SECRET{after}\n");
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([text.len()]) {
                pieces.push(&text.as_bytes()[from..cut]);
                from = cut;
            }
            let shown = lines(redactor("TOP+SECRET"), &pieces);
            prop_assert_eq!(shown, [format!("{before}[secret]{after}")]);
        }
    }
}
