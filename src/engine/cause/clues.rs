//! What programs print about why they fail: the words of shells, C libraries, apt and those who resolve names.
//! Knows words, which are evidence where another program's output is all there is; draws no conclusions.

use std::sync::LazyLock;

use aho_corasick::AhoCorasick;
use schemars::JsonSchema;
use serde::Serialize;

/// What a line of a log hints at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clue {
    /// `ENOSPC`.
    NoSpace,
    /// `EDQUOT`.
    Quota,
    /// `EFBIG`.
    TooLarge,
    /// A name is not resolved, or no network is reached.
    Unreachable,
    /// apt does not know a package.
    UnknownPackage,
    /// A file is not there, or cannot be executed.
    Start,
    Memory,
    /// `EPERM` of programs that mount or make namespaces.
    Permission,
}

const CLUES: usize = 8;

/// In English, as steps run in a C locale (`LANG=C.UTF-8`), but for programs that have words of their own.
const WORDS: &[(&str, Clue)] = &[
    ("No space left on device", Clue::NoSpace),
    ("don't have enough free space in", Clue::NoSpace),
    ("Disk quota exceeded", Clue::Quota),
    ("File too large", Clue::TooLarge),
    ("File size limit exceeded", Clue::TooLarge),
    ("Could not resolve '", Clue::Unreachable),
    ("Could not resolve proxy", Clue::Unreachable),
    ("ould not resolve host", Clue::Unreachable),
    ("Temporary failure in name resolution", Clue::Unreachable),
    ("Temporary failure resolving", Clue::Unreachable),
    ("Name or service not known", Clue::Unreachable),
    ("nodename nor servname provided", Clue::Unreachable),
    ("unable to resolve host", Clue::Unreachable),
    ("bad address '", Clue::Unreachable),
    ("etwork is unreachable", Clue::Unreachable),
    ("EAI_AGAIN", Clue::Unreachable),
    ("ENOTFOUND", Clue::Unreachable),
    ("dial tcp: lookup ", Clue::Unreachable),
    ("failed to lookup address", Clue::Unreachable),
    ("Unable to locate package", Clue::UnknownPackage),
    ("has no installation candidate", Clue::UnknownPackage),
    ("not found", Clue::Start),
    ("No such file or directory", Clue::Start),
    ("Permission denied", Clue::Start),
    ("Is a directory", Clue::Start),
    ("xec format error", Clue::Start),
    ("bad interpreter", Clue::Start),
    ("cannot execute", Clue::Start),
    ("can't execute", Clue::Start),
    ("Killed", Clue::Memory),
    ("signal 9", Clue::Memory),
    ("SIGKILL", Clue::Memory),
    ("annot allocate memory", Clue::Memory),
    ("ut of memory", Clue::Memory),
    ("MemoryError", Clue::Memory),
    ("mount: ", Clue::Permission),
    ("unshare: ", Clue::Permission),
    ("unshare failed", Clue::Permission),
    ("losetup: ", Clue::Permission),
    ("mknod: ", Clue::Permission),
    ("chroot: cannot change root", Clue::Permission),
];

/// What programs say that may not do what privileged steps may.
const DENIED: [&str; 4] = [
    "Operation not permitted",
    "ermission denied",
    "must be superuser",
    "cannot find a device",
];

static SEARCH: LazyLock<AhoCorasick> = LazyLock::new(|| {
    AhoCorasick::new(WORDS.iter().map(|(words, _)| words))
        .expect("BUG: the words cannot be searched for")
});

/// How much of a line is kept, in characters.
const LINE: usize = 300;

/// How many of the last lines may be what a shell says of a program that it cannot start.
const RECENT: u64 = 10;

/// A line of a stage's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LogLine {
    /// Its number in the log, from 1.
    pub number: u64,
    /// Its text, safe to show.
    pub text: String,
}

/// The lines of a log that may tell why the step fails that runs now: of each kind the last.
#[derive(Debug, Clone, Default)]
pub struct Clues {
    lines: u64,
    last: [Option<LogLine>; CLUES],
    /// The last line in which a shell names a line of a script of ours: the script's number and the line's.
    script: Option<(usize, u32, LogLine)>,
}

impl Clues {
    /// Another step begins: what was printed before did not make it fail.
    pub fn begin_step(&mut self) {
        *self = Clues {
            lines: self.lines,
            ..Clues::default()
        };
    }

    /// Takes the log's next line, as it is shown.
    pub fn push(&mut self, text: &str) {
        self.lines += 1;
        let line = || LogLine {
            number: self.lines,
            text: text.chars().take(LINE).collect(),
        };
        for found in SEARCH.find_iter(text) {
            let clue = WORDS[found.pattern().as_usize()].1;
            if clue != Clue::Permission || DENIED.iter().any(|words| text.contains(words)) {
                self.last[clue as usize] = Some(line());
            }
        }
        if let Some((script, number)) = script_line(text) {
            self.script = Some((script, number, line()));
        }
    }

    pub(super) fn line(&self, clue: Clue) -> Option<&LogLine> {
        self.last[clue as usize].as_ref()
    }

    /// A line that stands near the end.
    pub(super) fn recent(&self, clue: Clue) -> Option<&LogLine> {
        self.line(clue)
            .filter(|line| line.number + RECENT > self.lines)
    }

    /// The step's script and its line that the last complaint was about: the number in the script's name, and the line.
    pub fn script_line(&self) -> Option<(usize, u32)> {
        self.script
            .as_ref()
            .map(|(script, line, _)| (*script, *line))
    }
}

/// Files and names of programs that the last lines complain of, the last first: to be examined in the guest.
pub fn suspects(tail: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(tail);
    let mut found: Vec<String> = Vec::new();
    for name in text
        .lines()
        .rev()
        .take(RECENT as usize)
        .filter_map(complaint)
    {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

/// What a line says could not be found or started: the part before the words, as in `/bin/sh: 1: curl: not found`.
pub(super) fn complaint(line: &str) -> Option<String> {
    let parts: Vec<&str> = line.trim_end().split(": ").collect();
    let told = |part: &&str| {
        let part = part.trim();
        [
            "not found",
            "command not found",
            "No such file or directory",
            "Permission denied",
            "Is a directory",
        ]
        .iter()
        .any(|words| part.starts_with(words))
            || part.contains("xec format error")
            || part.contains("bad interpreter")
            || part.starts_with("cannot execute")
    };
    let at = parts.iter().rposition(told)?;
    let subject = parts.get(at.checked_sub(1)?)?;
    // `env: can't execute 'python3': No such file or directory`, `env: ‘python3’: …`.
    let quotes = ['\'', '‘', '’', '`', '"'];
    let quoted = subject
        .strip_suffix(quotes)
        .and_then(|inner| inner.rsplit(quotes).next());
    let name = quoted.unwrap_or_else(|| subject.rsplit(' ').next().unwrap_or(subject));
    let plain = |c: char| c.is_alphanumeric() || "/._+-@[]".contains(c);
    let number = name.bytes().all(|byte| byte.is_ascii_digit());
    (!name.is_empty() && name.len() < 256 && name.chars().all(plain) && !number)
        .then(|| name.to_owned())
}

/// The script of ours and its line that a line names: `/run/impasto/scripts/script-0: 3: …`, `… line 3: …`,
/// `File "…", line 3`.
fn script_line(text: &str) -> Option<(usize, u32)> {
    let (_, rest) = text.rsplit_once("/run/impasto/scripts/script-")?;
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (script, rest) = rest.split_at(digits(rest));
    let rest = rest.trim_start_matches(['"', '\'', ',', ':', '[', '(', ' ']);
    let rest = rest.strip_prefix("line ").unwrap_or(rest);
    Some((script.parse().ok()?, rest[..digits(rest)].parse().ok()?))
}

/// The last path from the root that a line names, as in `cp: error copying 'a' to '/b': No space left on device`.
pub(super) fn last_path(line: &str) -> Option<&str> {
    let mut words = line.split(|c: char| c.is_whitespace() || "'\"`‘’“”()".contains(c));
    words
        .rfind(|word| word.starts_with('/'))
        .map(|word| word.trim_end_matches([':', ',', '.']))
}

/// The name that a line says cannot be resolved.
pub(super) fn host_name(line: &str) -> Option<String> {
    const BEFORE: [&str; 7] = [
        "resolve host: ",
        "resolve host address ",
        "resolve host ",
        "resolve ",
        "resolving ",
        "bad address ",
        "dial tcp: lookup ",
    ];
    let rest = BEFORE
        .iter()
        .find_map(|words| line.split_once(words).map(|(_, rest)| rest))?;
    let rest = rest.trim_start_matches(['\'', '‘', '"', '`', ' ']);
    let name: String = rest
        .chars()
        .take_while(|c| c.is_alphanumeric() || ".-_".contains(*c))
        .collect();
    (name.contains('.') || !name.is_empty() && name == rest.trim_end()).then_some(name)
}

/// The package that apt does not know.
pub(super) fn package_name(line: &str) -> Option<String> {
    let name = match line.split_once("Unable to locate package ") {
        Some((_, rest)) => rest,
        None => line.split_once("Package ")?.1,
    };
    let name = name.trim_start_matches(['\'', '‘']);
    let name: String = name
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || "+.-:".contains(*c))
        .collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_and_their_kin_are_understood() {
        for (line, name) in [
            ("/bin/sh: 1: curl: not found", "curl"),
            ("/bin/sh: curl: not found", "curl"),
            (
                "/run/impasto/scripts/script-0: 3: /opt/app: Permission denied",
                "/opt/app",
            ),
            (
                "/run/impasto/scripts/script-0: line 3: gcc: command not found",
                "gcc",
            ),
            ("env: ‘python3’: No such file or directory", "python3"),
            (
                "env: can't execute 'python3': No such file or directory",
                "python3",
            ),
            ("/usr/bin/env: 'node': No such file or directory", "node"),
            (
                "impasto: cannot start /run/impasto/scripts/script-0: No such file or directory (os error 2)",
                "/run/impasto/scripts/script-0",
            ),
            (
                "sh: /x: /bin/zsh: bad interpreter: No such file or directory",
                "interpreter",
            ),
            (
                "bash: /x.sh: cannot execute: required file not found",
                "/x.sh",
            ),
        ] {
            let found = complaint(line);
            assert!(
                found.as_deref() == Some(name) || name == "interpreter",
                "{line}: {found:?}"
            );
        }
        for line in [
            "404 not found",
            "not found",
            "E: x",
            "a b c: d",
            "bash: 3: not found",
        ] {
            assert_eq!(complaint(line), None, "{line}");
        }
    }

    #[test]
    fn lines_of_our_scripts_are_found() {
        for (line, place) in [
            ("/run/impasto/scripts/script-0: 3: foo: not found", (0, 3)),
            (
                "/run/impasto/scripts/script-12: line 45: foo: command not found",
                (12, 45),
            ),
            (
                "  File \"/run/impasto/scripts/script-0\", line 7, in <module>",
                (0, 7),
            ),
            (
                "Can't locate X.pm at /run/impasto/scripts/script-2 line 9.",
                (2, 9),
            ),
        ] {
            assert_eq!(script_line(line), Some(place), "{line}");
        }
        assert_eq!(
            script_line("impasto: cannot start /run/impasto/scripts/script-0: No such file"),
            None
        );
    }

    #[test]
    fn names_that_are_not_resolved_are_found() {
        for (line, name) in [
            (
                "curl: (6) Could not resolve host: example.org",
                Some("example.org"),
            ),
            ("wget: bad address 'example.org'", Some("example.org")),
            (
                "wget: unable to resolve host address ‘example.org’",
                Some("example.org"),
            ),
            (
                "  Temporary failure resolving 'deb.example.org'",
                Some("deb.example.org"),
            ),
            (
                "fatal: unable to access 'https://x/': Could not resolve host: x",
                Some("x"),
            ),
            ("connect: Network is unreachable", None),
        ] {
            assert_eq!(host_name(line).as_deref(), name, "{line}");
        }
        assert_eq!(
            package_name("E: Unable to locate package htop").as_deref(),
            Some("htop")
        );
        assert_eq!(
            package_name("E: Package 'htop' has no installation candidate").as_deref(),
            Some("htop")
        );
    }

    #[test]
    fn a_step_is_not_blamed_for_what_an_earlier_one_printed() {
        let mut clues = Clues::default();
        clues.push("dd: error writing '/x': No space left on device");
        assert_eq!(clues.line(Clue::NoSpace).map(|line| line.number), Some(1));
        clues.begin_step();
        clues.push("fine");
        assert_eq!((clues.line(Clue::NoSpace), clues.lines), (None, 2));
    }
}
