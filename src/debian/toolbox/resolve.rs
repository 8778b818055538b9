//! What an installation would install and remove, as apt's own solver decides it, offline.
//! Knows apt's answers, not what is done with them. Whoever asks has checked the archives' signatures.
//!
//! ```text
//! work/apt/sources/NAME/Release                                  an archive, by ResolveSource::directory
//! work/apt/sources/NAME/COMPONENT/binary-ARCHITECTURE/Packages   uncompressed
//! work/apt/sources/NAME/Packages                                 in place of these where it is flat
//! work/apt/status, extended_states, preferences                  as dpkg's and apt's own; each may be absent
//! work/result.json                                               the answer: a ResolveOutcome
//! ```

use std::fs;
use std::path::Path;

use impasto_stages::package_set::{LockedPackage, PackageName};
use serde::{Deserialize, Serialize};

use super::apt::{AptArchive, AptTool};
use super::program::ProgramOutput;
use crate::sandbox::ToolFailure;

use crate::base::bounded;

/// The directory that a resolution reads.
pub const APT: &str = "apt";

/// The file that holds a resolution's answer.
pub const RESULT: &str = "result.json";

/// The host in addresses of archives that none is known of.
const NOWHERE: &str = "localhost";

/// What is asked of apt's solver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolveRequest {
    /// As on apt-get's command line: `a`, `a:arm64`, `a=1.0`, `a/suite`, and `a-` for what is removed.
    pub install: Vec<String>,
    /// Whether installed packages get their newest versions first.
    pub upgrade: bool,
    /// Whether automatically installed packages that nothing needs are removed last.
    pub autoremove: bool,
    /// Whether recommended packages are installed too.
    pub recommends: bool,
    /// Debian's name of the machine.
    pub architecture: String,
    /// Further machines whose packages can be installed.
    pub foreign: Vec<String>,
    /// Where packages come from.
    pub sources: Vec<ResolveSource>,
    /// For a root out of nothing: what is in it beside what is named.
    pub variant: Option<Variant>,
}

/// An archive whose index lies below [`APT`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolveSource {
    /// Its directory below `sources`, and its name in the answer.
    pub directory: String,
    /// The host that it is reached at, for pins by `origin`.
    pub site: Option<String>,
    pub suite: String,
    pub components: Vec<String>,
    /// Whether it has neither suite nor components.
    pub flat: bool,
}

/// What a new root has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    Essential,
    /// These, and all of priority `required`.
    Minbase,
}

impl Variant {
    /// What apt is told to install (apt-patterns(7)).
    fn patterns(self) -> &'static [&'static str] {
        match self {
            Variant::Essential => &["?essential"],
            Variant::Minbase => &["?essential", REQUIRED],
        }
    }
}

/// A pattern of the packages that `minbase` has beside the essential ones.
const REQUIRED: &str = "?priority(required)";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResolveOutcome {
    /// It can be done.
    Resolved(ResolveResult),
    /// Packages, versions or suites are not there.
    Unknown {
        /// Each as it was asked for, but for a `-` at its end.
        packages: Vec<String>,
    },
    /// An index has no SHA-256 of a package's file.
    Unhashed {
        /// The package's name.
        package: String,
        /// [`ResolveSource::directory`] of its archive.
        source: String,
    },
    /// It cannot be done.
    Refused {
        /// Apt's reason, of one or more lines.
        reason: String,
    },
}

/// What would be done, each list in order of names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolveResult {
    /// What is installed, or comes in the place of another version.
    pub install: Vec<ResolvedPackage>,
    pub remove: Vec<PackageName>,
}

/// A package that is installed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ResolvedPackage {
    pub file: LockedPackage,
    /// [`ResolveSource::directory`] of the one archive it comes from.
    pub source: String,
    /// Its file there, relative to the archive's base.
    pub path: String,
}

pub(super) fn resolve(
    request: &ResolveRequest,
    work: &Path,
    log: &mut dyn FnMut(&[u8]),
) -> Result<(), ToolFailure> {
    let dir = work.join(APT);
    let mut apt = AptTool::new(
        &dir,
        &request.architecture,
        &request.foreign,
        request.recommends,
    )?;
    for source in &request.sources {
        let archive = AptArchive {
            site: source.site.as_deref().unwrap_or(NOWHERE),
            name: &source.directory,
            suite: (!source.flat).then_some(source.suite.as_str()),
            components: &source.components,
        };
        apt.add(&archive, &dir.join("sources").join(&source.directory))?;
    }
    // One call for all: what apt-get upgrades, installs and removes in one is one state, not three in a row.
    let verb: &[_] = if request.upgrade {
        &["upgrade", "--with-new-pkgs"]
    } else {
        &["install"]
    };
    let mut program = apt
        .get()
        .args(verb)
        .args(["--print-uris", "--verbose-versions"]);
    if request.autoremove {
        program = program.args(["--auto-remove"]);
    }
    if request.install.iter().any(|name| name.contains(['=', '/'])) {
        program = program.args(["--allow-downgrades"]);
    }
    let patterns = request
        .variant
        .map(|variant| native(variant.patterns(), &request.foreign))
        .unwrap_or_default();
    let output = program
        .args(["--"])
        .args(patterns)
        .args(&request.install)
        .output()?;
    if !output.status.success() {
        log(output.stdout.as_bytes());
    }
    log(output.stderr.as_bytes());
    let outcome = if output.status.success() {
        read_answer(request, &output.stdout, &installed(&dir)?)?
    } else {
        explain(&output)
    };
    let path = work.join(RESULT);
    let json =
        serde_json::to_vec_pretty(&outcome).expect("BUG: texts and numbers can be written as JSON");
    fs::write(&path, json).map_err(ToolFailure::io("write", &path))
}

/// Patterns that choose no package of a foreign architecture.
fn native(patterns: &[&str], foreign: &[String]) -> Vec<String> {
    let one = |pattern: &&str| {
        if foreign.is_empty() {
            (*pattern).to_owned()
        } else {
            format!("?and(?architecture(native),{pattern})")
        }
    };
    patterns.iter().map(one).collect()
}

/// The packages that dpkg's status text lists.
fn installed(dir: &Path) -> Result<Vec<PackageName>, ToolFailure> {
    let path = dir.join("status");
    let text = bounded::read_text(&path, bounded::TEXT).map_err(ToolFailure::io("read", &path))?;
    let package = |stanza: &str| {
        let field = |name: &str| {
            stanza
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let (name, architecture, version) =
            (field("Package")?, field("Architecture")?, field("Version")?);
        Some(PackageName {
            name: name.to_owned(),
            architecture: architecture.to_owned(),
            version: version.to_owned(),
        })
    };
    Ok(text.split("\n\n").filter_map(package).collect())
}

/// Reads what apt-get prints for `--print-uris --verbose-versions`: addresses, each on a line that begins with a quote, and
/// lists of packages under titles, each on a line that is indented by three blanks (apt's `private-install.cc` and
/// `private-output.h`). Of the lists only what is removed counts, and of the other lines none.
fn read_answer(
    request: &ResolveRequest,
    text: &str,
    installed: &[PackageName],
) -> Result<ResolveOutcome, ToolFailure> {
    let strange =
        |what: &str, line: &str| ToolFailure::new(format!("apt-get's answer {what}: {line:?}"));
    let mut result = ResolveResult::default();
    let mut removing = false;
    for line in text.lines() {
        if line.starts_with('\'') {
            let package = read_uri(request, line);
            let unknown = || strange("describes a package's file in an unknown form", line);
            match package.ok_or_else(unknown)? {
                Ok(package) => result.install.push(package),
                Err(unhashed) => return Ok(unhashed),
            }
        } else if let Some(entry) = line.strip_prefix("   ").filter(|_| removing) {
            let Some(package) = read_removed(entry, &request.architecture, installed) else {
                return Err(strange("removes a package that is not installed", line));
            };
            result.remove.push(package.clone());
        } else {
            removing = line.starts_with("The following packages will be REMOVED:");
        }
    }
    result.install.sort_unstable();
    result.remove.sort_unstable();
    Ok(ResolveOutcome::Resolved(result))
}

/// Reads `'http://SITE/DIRECTORY/PATH' NAME_VERSION_ARCHITECTURE.deb SIZE SHA256:DIGEST`; without a
/// digest, as where the index has none, it is said whose package that is.
fn read_uri(
    request: &ResolveRequest,
    line: &str,
) -> Option<Result<ResolvedPackage, ResolveOutcome>> {
    let (address, rest) = line.strip_prefix('\'')?.split_once("' ")?;
    let mut fields = rest.split(' ');
    let file = fields.next()?.strip_suffix(".deb")?;
    let size = fields.next()?.parse().ok()?;
    let sha256 = fields
        .next()
        .and_then(|hash| hash.strip_prefix("SHA256:"))
        .and_then(|digits| digits.to_ascii_lowercase().parse().ok());
    let mut parts = file.split('_').map(decode);
    let (name, version, architecture) = (parts.next()??, parts.next()??, parts.next()??);
    let (_, path) = address.strip_prefix("http://")?.split_once('/')?;
    let (source, path) = request.sources.iter().find_map(|source| {
        let path = path
            .strip_prefix(source.directory.as_str())?
            .strip_prefix('/')?;
        Some((
            source.directory.clone(),
            decode(path.trim_start_matches("./"))?,
        ))
    })?;
    let Some(sha256) = sha256 else {
        let package = name;
        return Some(Err(ResolveOutcome::Unhashed { package, source }));
    };
    Some(Ok(ResolvedPackage {
        file: LockedPackage {
            name,
            architecture,
            version,
            sha256,
            size,
        },
        source,
        path,
    }))
}

/// Reads `NAME[:ARCHITECTURE][*][ (VERSION)]`, with the asterisk where it is purged, and finds what is meant. The version is
/// not believed: apt 2.6 prints the one that could be installed, and none where a conflict has ruled out all of them.
fn read_removed<'i>(
    entry: &str,
    native: &str,
    installed: &'i [PackageName],
) -> Option<&'i PackageName> {
    let name = entry
        .split_once(" (")
        .map_or(entry, |(name, _)| name)
        .trim_end_matches('*');
    let (name, architecture) = name
        .split_once(':')
        .map_or((name, None), |(name, own)| (name, Some(own)));
    installed.iter().find(|package| {
        let own = package.architecture.as_str();
        // Apt calls what is for all machines by the name of this one.
        package.name == name
            && architecture.map_or(own == native || own == "all", |architecture| {
                own == architecture
            })
    })
}

/// Decodes what is percent-encoded.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let (digits, tail) = tail.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// What apt's messages mean.
fn explain(output: &ProgramOutput) -> ResolveOutcome {
    let lines: Vec<&str> = output.stdout.lines().chain(output.stderr.lines()).collect();
    let virtual_of = |name: &str| {
        let begin = format!("Package {name} is a virtual package provided by:");
        let at = lines.iter().position(|line| *line == begin)?;
        let providers = lines[at + 1..]
            .iter()
            .take_while(|line| line.starts_with(' '))
            .map(|line| line.trim());
        let mut providers: Vec<_> = providers
            .filter_map(|line| line.split(' ').next())
            .collect();
        providers.sort_unstable();
        providers.dedup();
        Some(format!(
            "{name} is a virtual package, provided by: {}",
            providers.join(", ")
        ))
    };
    let mut unknown = Vec::new();
    for line in &lines {
        let package = line
            .strip_prefix("E: Unable to locate package ")
            .map(str::to_owned);
        let choice = |kind: &str, sign: &str| {
            let rest = line
                .strip_prefix("E: ")?
                .strip_prefix(kind)?
                .strip_prefix(" '")?;
            let (chosen, rest) = rest.split_once("' for '")?;
            Some(format!(
                "{}{sign}{chosen}",
                rest.strip_suffix("' was not found")?
            ))
        };
        let package = package
            .or_else(|| choice("Version", "="))
            .or_else(|| choice("Release", "/"));
        let candidate = || {
            line.strip_prefix("E: Package '")?
                .strip_suffix("' has no installation candidate")
        };
        if package.is_none()
            && let Some(reason) = candidate().and_then(virtual_of)
        {
            return ResolveOutcome::Refused { reason };
        }
        unknown.extend(package.or_else(|| candidate().map(str::to_owned)));
    }
    if !unknown.is_empty() {
        unknown.sort_unstable();
        unknown.dedup();
        return ResolveOutcome::Unknown { packages: unknown };
    }
    let block = |title: &str| {
        let at = lines.iter().position(|line| line.starts_with(title))?;
        let warning = |line: &&&str| line.starts_with("This should NOT be done");
        let block = lines[at + 1..]
            .iter()
            .skip_while(warning)
            .take_while(|line| line.starts_with(' ') && !line.trim().is_empty());
        let block: Vec<_> = block
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        (!block.is_empty()).then_some(block)
    };
    let errors: Vec<_> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("E: "))
        .map(str::to_owned)
        .collect();
    let unmet = block("The following packages have unmet dependencies:");
    let titled =
        |reason: &str, title: &str| Some([vec![reason.to_owned()], block(title)?].concat());
    let held = || {
        titled(
            "it would change held packages:",
            "The following held packages will be changed:",
        )
    };
    let essential = || {
        let title = "WARNING: The following essential packages will be removed.";
        titled("it would remove essential packages:", title)
    };
    let reason = unmet
        .or_else(held)
        .or_else(essential)
        .unwrap_or(errors)
        .join("\n");
    let reason = if reason.is_empty() {
        format!("apt-get exited with {}", output.status)
    } else {
        reason
    };
    ResolveOutcome::Refused { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A package that dpkg's status text lists.
    fn known(name: &str, architecture: &str, version: &str) -> PackageName {
        PackageName {
            name: name.to_owned(),
            architecture: architecture.to_owned(),
            version: version.to_owned(),
        }
    }

    #[test]
    fn removals_are_read_in_every_form_that_apt_prints_them_in() {
        let request = ResolveRequest {
            architecture: "amd64".to_owned(),
            ..ResolveRequest::default()
        };
        let installed = [
            known("timesyncd", "amd64", "252.36-1"),
            known("docs", "all", "1:2.0~rc1-1"),
            known("lib", "i386", "1.0"),
            known("lib", "amd64", "1.0"),
        ];
        let answer = |removed: &str| {
            let text = format!(
                "Reading package lists...\nBuilding dependency tree...\nReading state information...\n\
                 The following packages were automatically installed and are no longer required:\n   other (9)\n   more\n\
                 Use 'apt autoremove' to remove them.\nThe following packages will be REMOVED:\n{removed}\
                 The following NEW packages will be installed:\n   chrony (4.3-2)\n   nothing\n\
                 0 upgraded, 1 newly installed, 4 to remove and 0 not upgraded.\nNeed to get 0 B/291 kB of archives.\n\
                 After this operation, 1 B of additional disk space will be used.\n"
            );
            read_answer(&request, &text, &installed)
                .map(|outcome| match outcome {
                    ResolveOutcome::Resolved(result) => result.remove,
                    other => panic!("{other:?}"),
                })
                .map_err(|failure| failure.message)
        };
        let all: Vec<_> = [
            ("docs", "all", "1:2.0~rc1-1"),
            ("lib", "amd64", "1.0"),
            ("lib", "i386", "1.0"),
            ("timesyncd", "amd64", "252.36-1"),
        ]
        .map(|(name, architecture, version)| known(name, architecture, version))
        .into();
        // Apt 3.0 prints what is installed, 2.6 what could be, or nothing.
        for removed in [
            "   docs (1:2.0~rc1-1)\n   lib (1.0)\n   lib:i386 (1.0)\n   timesyncd (252.36-1)\n",
            "   docs* (1:2.0-1)\n   lib\n   lib:i386* (2.0)\n   timesyncd*\n",
        ] {
            assert_eq!(answer(removed).unwrap(), all, "{removed}");
        }
        let refused =
            "apt-get's answer removes a package that is not installed: \"   lib:arm64 (1.0)\"";
        assert_eq!(answer("   lib:arm64 (1.0)\n").unwrap_err(), refused);
    }
}
