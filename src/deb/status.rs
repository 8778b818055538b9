//! What dpkg and apt remember of a system: `/var/lib/dpkg/status`, `status.d`, and apt's `extended_states`.
//!
//! Knows packages that are installed, wholly or not; reads no disk. What makes no sense is left out, as a system's guest
//! may have written anything.

use std::collections::HashSet;

use super::control::{Stanza, stanzas};

/// A package as `status` has it. Texts are as they were written, and may hold anything but line feeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusEntry<'a> {
    pub name: &'a [u8],
    /// Its architecture, or `all`; empty where none is told.
    pub architecture: &'a [u8],
    /// Its version; empty where none is told.
    pub version: &'a [u8],
    /// How far its installation went: `installed`, `half-configured`, … (dpkg(1), package states).
    pub state: &'a [u8],
    /// Whether the user wants it to stay as it is.
    pub held: bool,
    pub stanza: Stanza<'a>,
}

impl<'a> StatusEntry<'a> {
    fn of(stanza: Stanza<'a>) -> Option<StatusEntry<'a>> {
        let mut entry = StatusEntry {
            name: b"",
            architecture: b"",
            version: b"",
            state: b"installed",
            held: false,
            stanza,
        };
        let mut status = None;
        for (field, value) in stanza.fields() {
            let place = match field.to_ascii_lowercase().as_slice() {
                b"package" => &mut entry.name,
                b"version" => &mut entry.version,
                b"architecture" => &mut entry.architecture,
                b"status" => status.get_or_insert(value),
                _ => continue,
            };
            *place = first_line(value);
        }
        // "want, flag, state". Files in `status.d`, as images without dpkg have them, tell no status.
        if let Some(status) = status {
            let mut words = status
                .split(u8::is_ascii_whitespace)
                .filter(|word| !word.is_empty());
            entry.held = words.next() == Some(b"hold");
            entry.state = words.nth(1).unwrap_or(b"installed");
        }
        (!entry.name.is_empty()).then_some(entry)
    }

    /// Whether there is more of it than its configuration.
    pub fn is_there(&self) -> bool {
        !matches!(self.state, b"not-installed" | b"config-files")
    }

    /// Whether it is wholly installed.
    pub fn is_installed(&self) -> bool {
        self.state == b"installed"
    }

    /// Its source package's name and version, which `Source` tells where they differ from its own.
    pub fn source(&self) -> (&'a [u8], &'a [u8]) {
        let Some(source) = self
            .stanza
            .bytes("Source")
            .filter(|source| !source.is_empty())
        else {
            return (self.name, self.version);
        };
        let (name, rest) = match source.iter().position(u8::is_ascii_whitespace) {
            Some(end) => source.split_at(end),
            None => (source, &b""[..]),
        };
        let version = rest
            .trim_ascii()
            .strip_prefix(b"(")
            .and_then(|rest| rest.strip_suffix(b")"));
        (name, version.unwrap_or(self.version))
    }
}

fn first_line(value: &[u8]) -> &[u8] {
    value
        .split(|&byte| byte == b'\n')
        .next()
        .unwrap_or_default()
        .trim_ascii_end()
}

/// The packages of a `status` file that are there, in its order.
pub fn entries(status: &[u8]) -> impl Iterator<Item = StatusEntry<'_>> {
    stanzas(status)
        .filter_map(StatusEntry::of)
        .filter(StatusEntry::is_there)
}

/// The packages that apt installed only because others need them: names and architectures.
pub fn automatic(extended_states: &[u8]) -> HashSet<(&[u8], &[u8])> {
    let stanzas = stanzas(extended_states);
    let marked = stanzas.filter(|stanza| stanza.bytes("Auto-Installed") == Some(b"1"));
    marked
        .filter_map(|stanza| Some((stanza.bytes("Package")?, stanza.bytes("Architecture")?)))
        .collect()
}

/// Whether apt marked a package as automatic. It marks those for all architectures with the system's own.
pub fn is_automatic(
    entry: &StatusEntry<'_>,
    automatic: &HashSet<(&[u8], &[u8])>,
    native: &[u8],
) -> bool {
    let architecture = if entry.architecture == b"all" {
        native
    } else {
        entry.architecture
    };
    automatic.contains(&(entry.name, architecture))
        || automatic.contains(&(entry.name, entry.architecture))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "\
Package: libc6
Status: hold ok installed
Architecture: amd64
Multi-Arch: same
Source: glibc
Version: 2.36-9

Package: libc6
Status: install ok half-configured
Architecture: i386
Version: 2.36-9
Source: glibc (2.36-8)

Package: gone
Status: deinstall ok config-files
Version: 7

Package: dash
Essential: yes
Version: 1
Architecture: all
";

    #[test]
    fn packages_are_told_with_what_is_known_of_them() {
        let all: Vec<_> = entries(STATUS.as_bytes()).collect();
        assert_eq!(all.len(), 3);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let shown: Vec<_> = all
            .iter()
            .map(|one| {
                let (source, version) = one.source();
                format!(
                    "{} {} {} {}",
                    text(one.name),
                    text(one.state),
                    text(source),
                    text(version)
                )
            })
            .collect();
        let expected = [
            "libc6 installed glibc 2.36-9",
            "libc6 half-configured glibc 2.36-8",
            "dash installed dash 1",
        ];
        assert_eq!(shown, expected);
        assert!(all[0].held && !all[2].held && all[1].is_there() && !all[1].is_installed());
    }

    #[test]
    fn automatic_packages_are_those_that_apt_marked() {
        let states = "Package: libc6\nArchitecture: amd64\nAuto-Installed: 1\n\nPackage: dash\nArchitecture: amd64\n\
                      Auto-Installed: 1\n\nPackage: x\nArchitecture: amd64\nAuto-Installed: 0\n";
        let marked = automatic(states.as_bytes());
        assert_eq!(marked.len(), 2);
        let all: Vec<_> = entries(STATUS.as_bytes())
            .map(|one| is_automatic(&one, &marked, b"amd64"))
            .collect();
        assert_eq!(all, [true, false, true]);
    }
}
