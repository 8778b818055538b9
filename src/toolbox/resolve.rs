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

use serde::{Deserialize, Serialize};

use super::ToolFailure;
use super::apt::{Apt, Archive};
use super::program::Output;

use crate::bounded;

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
    /// Its suite.
    pub suite: String,
    /// Its components.
    pub components: Vec<String>,
    /// Whether it has neither suite nor components.
    pub flat: bool,
}

/// What a new root has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// The essential packages.
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

/// The solver's answer.
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
    /// What is removed: name, architecture and version.
    pub remove: Vec<(String, String, String)>,
}

/// A package that is installed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ResolvedPackage {
    /// Its name.
    pub name: String,
    /// Its architecture, perhaps `all`.
    pub architecture: String,
    /// Its version.
    pub version: String,
    /// [`ResolveSource::directory`] of the one archive it comes from.
    pub source: String,
    /// Its file there, relative to the archive's base.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256 in hexadecimal digits, where the index has one.
    pub sha256: Option<String>,
}

pub(super) fn resolve(request: &ResolveRequest, work: &Path, log: &mut dyn FnMut(&[u8])) -> Result<(), ToolFailure> {
    let dir = work.join(APT);
    let mut apt = Apt::new(&dir, &request.architecture, &request.foreign, request.recommends)?;
    for source in &request.sources {
        let archive = Archive {
            site: source.site.as_deref().unwrap_or(NOWHERE),
            name: &source.directory,
            suite: (!source.flat).then_some(source.suite.as_str()),
            components: &source.components,
        };
        apt.add(&archive, &dir.join("sources").join(&source.directory))?;
    }
    // One call for all: what apt-get upgrades, installs and removes in one is one state, not three in a row.
    let verb: &[_] = if request.upgrade { &["upgrade", "--with-new-pkgs"] } else { &["install"] };
    let mut program = apt.get().args(verb).args(["--print-uris", "--verbose-versions"]);
    if request.autoremove {
        program = program.args(["--auto-remove"]);
    }
    if request.install.iter().any(|name| name.contains(['=', '/'])) {
        program = program.args(["--allow-downgrades"]);
    }
    let patterns = request.variant.map(|variant| native(variant.patterns(), &request.foreign)).unwrap_or_default();
    let output = program.args(["--"]).args(patterns).args(&request.install).output()?;
    if !output.status.success() {
        log(output.stdout.as_bytes());
    }
    log(output.stderr.as_bytes());
    let outcome = if output.status.success() {
        ResolveOutcome::Resolved(read_answer(request, &output.stdout, &installed(&dir)?)?)
    } else {
        explain(&output)
    };
    let path = work.join(RESULT);
    let json = serde_json::to_vec_pretty(&outcome).expect("BUG: texts and numbers can be written as JSON");
    fs::write(&path, json).map_err(ToolFailure::io("write", &path))
}

/// Patterns that choose no package of a foreign machine.
fn native(patterns: &[&str], foreign: &[String]) -> Vec<String> {
    let one = |pattern: &&str| {
        if foreign.is_empty() { (*pattern).to_owned() } else { format!("?and(?architecture(native),{pattern})") }
    };
    patterns.iter().map(one).collect()
}

/// Names and architectures of the packages that dpkg's status text lists.
fn installed(dir: &Path) -> Result<Vec<(String, String)>, ToolFailure> {
    let path = dir.join("status");
    let text = bounded::read_text(&path, bounded::TEXT).map_err(ToolFailure::io("read", &path))?;
    let mut packages = Vec::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        if let (Some(name), Some(architecture)) = (field("Package"), field("Architecture")) {
            packages.push((name.to_owned(), architecture.to_owned()));
        }
    }
    Ok(packages)
}

fn read_answer(
    request: &ResolveRequest,
    text: &str,
    installed: &[(String, String)],
) -> Result<ResolveResult, ToolFailure> {
    let strange = |line: &str| ToolFailure::new(format!("apt-get says what is not understood: {line:?}"));
    let mut result = ResolveResult::default();
    let mut removing = false;
    for line in text.lines() {
        if line.starts_with('\'') {
            result.install.push(read_uri(request, line).ok_or_else(|| strange(line))?);
        } else if let Some(entry) = line.strip_prefix("   ").filter(|_| removing) {
            let package = read_removed(entry, &request.architecture, installed);
            result.remove.push(package.ok_or_else(|| strange(line))?);
        } else {
            removing = line.starts_with("The following packages will be REMOVED:");
        }
    }
    result.install.sort_unstable();
    result.remove.sort_unstable();
    Ok(result)
}

/// Reads `'http://SITE/DIRECTORY/PATH' NAME_VERSION_ARCHITECTURE.deb SIZE SHA256:DIGEST`.
fn read_uri(request: &ResolveRequest, line: &str) -> Option<ResolvedPackage> {
    let (address, rest) = line.strip_prefix('\'')?.split_once("' ")?;
    let mut fields = rest.split(' ');
    let file = fields.next()?.strip_suffix(".deb")?;
    let size = fields.next()?.parse().ok()?;
    let sha256 = fields.next().and_then(|hash| hash.strip_prefix("SHA256:")).map(str::to_owned);
    let mut parts = file.split('_').map(decode);
    let (name, version, architecture) = (parts.next()??, parts.next()??, parts.next()??);
    let (_, path) = address.strip_prefix("http://")?.split_once('/')?;
    let (source, path) = request.sources.iter().find_map(|source| {
        let path = path.strip_prefix(source.directory.as_str())?.strip_prefix('/')?;
        Some((source.directory.clone(), decode(path.trim_start_matches("./"))?))
    })?;
    Some(ResolvedPackage { name, architecture, version, source, path, size, sha256 })
}

/// Reads `NAME (VERSION)`, `NAME:ARCHITECTURE (VERSION)`, and the same with a `*` for what is purged.
fn read_removed(entry: &str, native: &str, installed: &[(String, String)]) -> Option<(String, String, String)> {
    let (name, version) = entry.split_once(" (")?;
    let version = version.strip_suffix(')')?.to_owned();
    let name = name.trim_end_matches('*');
    if let Some((name, architecture)) = name.split_once(':') {
        return Some((name.to_owned(), architecture.to_owned(), version));
    }
    // Apt calls what is for all machines by the name of this one.
    let architectures = installed.iter().filter(|(known, _)| known == name).map(|(_, architecture)| architecture);
    let own = architectures.into_iter().find(|architecture| *architecture == native || *architecture == "all")?;
    Some((name.to_owned(), own.clone(), version))
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
fn explain(output: &Output) -> ResolveOutcome {
    let lines: Vec<&str> = output.stdout.lines().chain(output.stderr.lines()).collect();
    let virtual_of = |name: &str| {
        let begin = format!("Package {name} is a virtual package provided by:");
        let at = lines.iter().position(|line| *line == begin)?;
        let providers = lines[at + 1..].iter().take_while(|line| line.starts_with(' ')).map(|line| line.trim());
        let mut providers: Vec<_> = providers.filter_map(|line| line.split(' ').next()).collect();
        providers.sort_unstable();
        providers.dedup();
        Some(format!("{name} is no package, but a name for any of these: {}", providers.join(", ")))
    };
    let mut unknown = Vec::new();
    for line in &lines {
        let package = line.strip_prefix("E: Unable to locate package ").map(str::to_owned);
        let choice = |kind: &str, sign: &str| {
            let rest = line.strip_prefix("E: ")?.strip_prefix(kind)?.strip_prefix(" '")?;
            let (chosen, rest) = rest.split_once("' for '")?;
            Some(format!("{}{sign}{chosen}", rest.strip_suffix("' was not found")?))
        };
        let package = package.or_else(|| choice("Version", "=")).or_else(|| choice("Release", "/"));
        let candidate = || line.strip_prefix("E: Package '")?.strip_suffix("' has no installation candidate");
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
        let block: Vec<_> = block.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        (!block.is_empty()).then_some(block)
    };
    let errors: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("E: ")).map(str::to_owned).collect();
    let unmet = block("The following packages have unmet dependencies:");
    let held = || {
        Some(
            [
                vec!["it would change packages that are held:".to_owned()],
                block("The following held packages will be changed:")?,
            ]
            .concat(),
        )
    };
    let essential = || {
        let block = block("WARNING: The following essential packages will be removed.")?;
        Some([vec!["it would remove essential packages:".to_owned()], block].concat())
    };
    let reason = unmet.or_else(held).or_else(essential).unwrap_or(errors).join("\n");
    let reason = if reason.is_empty() { format!("apt-get ended with {}", output.status) } else { reason };
    ResolveOutcome::Refused { reason }
}
