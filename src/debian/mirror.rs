//! The host's mirrors of Debian and Ubuntu, and proxies: policy of whoever runs impasto, in no key, and in no image.
//! Knows apt's configuration, not packages.
//!
//! A recipe says which packages; where they come from is the host's own business. Stages with network read it below
//! [`DIR`], which is in memory:
//!
//! ```text
//! mirrors      a line each: `archive URL`, `security URL`, `ubuntu URL`, `ubuntu-ports URL`; what is not known is not there
//! proxy.conf   apt's configuration of proxies, perhaps empty
//! auth.conf    names and passwords for mirrors, perhaps empty (apt_auth.conf(5))
//! archive/     a mirror that is a directory of the host, and then `archive` is `file:` or `copy:` of this path
//! security/, ubuntu/, ubuntu-ports/    likewise
//! ca-certificates.crt    what the host believes for https, where it believes anything
//! ```

mod sources;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use impasto_stages::Secret;
use sources::{HostArchives, SourceEntry, parse_list, parse_sources};

use super::distribution::OwnArchive;
use crate::base::bounded;
use crate::net::Proxies;
use crate::sandbox::protocol::RUN_DIR;
use crate::sandbox::{NetworkPolicy, PolicyError, ReadPolicy};

/// Where stages with network find the host's policy.
pub const DIR: &str = "/run/impasto/apt";

/// Certificates that the host believes, for images that have none yet. Debian's name for them.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Longest file of certificates that is handed in, in bytes: it shares a message with other files.
const MAX_CERTIFICATES: u64 = 700 << 10;

/// Name of the variable that names the mirror of Debian's archive.
pub const ARCHIVE_VARIABLE: &str = "IMPASTO_MIRROR";

/// Name of the variable that names the mirror of the security archive, or says `none`.
pub const SECURITY_VARIABLE: &str = "IMPASTO_SECURITY_MIRROR";

/// Name of the variable that names the mirror of Ubuntu's archive.
pub const UBUNTU_VARIABLE: &str = "IMPASTO_UBUNTU_MIRROR";

/// The same for machines other than amd64 and i386, which Ubuntu keeps apart.
pub const UBUNTU_PORTS_VARIABLE: &str = "IMPASTO_UBUNTU_PORTS_MIRROR";

/// What says that there is no security archive.
const NONE: &str = "none";

/// Where an archive can be had. Shows no user name and no password.
#[derive(Clone, PartialEq, Eq)]
pub struct Mirror {
    scheme: &'static str,
    /// After the user's name and password: `host/path`, or the absolute path of a directory.
    rest: String,
    /// User name and password, decoded.
    credentials: Option<(String, String)>,
}

/// The text names no mirror.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MirrorError {
    /// Another kind of address.
    #[error("a mirror needs http:, https:, file: or copy:, not {scheme:?}")]
    Scheme {
        /// What stands before the colon.
        scheme: String,
    },
    /// No address at all.
    #[error("a mirror's URL has the form SCHEME://HOST/PATH or file:/PATH")]
    NoAddress,
    /// Characters that apt would take apart.
    #[error("a mirror's URL must not contain blanks, quotes or control characters")]
    Characters,
    /// A directory that is not there, or none.
    #[error("the mirror {} is not a readable directory", path.display())]
    NoDirectory { path: PathBuf },
}

const SCHEMES: [&str; 4] = ["http", "https", "file", "copy"];

impl Mirror {
    /// Reads `http://…`, `https://…`, `file:/…` or `copy:/…`.
    ///
    /// # Errors
    /// It is none of these, or holds what apt cannot be given.
    pub fn parse(text: &str) -> Result<Mirror, MirrorError> {
        // Errors do not repeat the text: it may hold a password.
        let (scheme, rest) = text.trim().split_once(':').ok_or(MirrorError::NoAddress)?;
        let known = SCHEMES
            .into_iter()
            .find(|known| scheme.eq_ignore_ascii_case(known));
        let Some(scheme) = known else {
            let word = scheme
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
            return Err(if word {
                MirrorError::Scheme {
                    scheme: scheme.to_owned(),
                }
            } else {
                MirrorError::NoAddress
            });
        };
        if rest.contains(|c: char| c.is_whitespace() || c.is_control() || "\"'`\\[]#|".contains(c))
        {
            return Err(MirrorError::Characters);
        }
        if matches!(scheme, "file" | "copy") {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            let mirror = Mirror {
                scheme,
                rest: path.to_owned(),
                credentials: None,
            };
            return if path.starts_with('/') {
                Ok(mirror)
            } else {
                Err(MirrorError::NoAddress)
            };
        }
        let rest = rest.strip_prefix("//").ok_or(MirrorError::NoAddress)?;
        let authority = rest.find('/').unwrap_or(rest.len());
        let (credentials, rest) = match rest[..authority].rfind('@') {
            Some(at) => {
                let (user, password) = rest[..at].split_once(':').unwrap_or((&rest[..at], ""));
                (Some((decode(user)?, decode(password)?)), &rest[at + 1..])
            }
            None => (None, rest),
        };
        if rest.starts_with(['/', ':']) || rest.is_empty() {
            return Err(MirrorError::NoAddress);
        }
        Ok(Mirror {
            scheme,
            rest: rest.trim_end_matches('/').to_owned(),
            credentials,
        })
    }

    /// A directory of the host.
    pub fn of_directory(path: &Path) -> Mirror {
        Mirror {
            scheme: "file",
            rest: path.to_string_lossy().into_owned(),
            credentials: None,
        }
    }

    /// The same, reached with a name and a password.
    pub fn with_login(self, user: &str, password: &str) -> Mirror {
        Mirror {
            credentials: Some((user.to_owned(), password.to_owned())),
            ..self
        }
    }

    /// User name and password.
    pub fn login(&self) -> Option<(&str, &str)> {
        let (user, password) = self.credentials.as_ref()?;
        Some((user, password))
    }

    /// The directory of the host that it is.
    pub fn directory(&self) -> Option<&Path> {
        matches!(self.scheme, "file" | "copy").then(|| Path::new(&self.rest))
    }

    /// The address where it is seen under the name `place` of [`DIR`], in case it is a directory.
    fn seen_as(&self, place: &str) -> String {
        match self.directory() {
            Some(_) => format!("{}:{DIR}/{place}", self.scheme),
            None => self.to_string(),
        }
    }

    /// What `auth.conf` tells of it.
    fn auth(&self) -> Option<String> {
        let (user, password) = self.credentials.as_ref()?;
        let machine = format!("{}://{}", self.scheme, self.rest);
        Some(format!(
            "machine {machine} login {user} password {password}\n"
        ))
    }
}

/// Decodes what is percent-encoded. What `auth.conf` cannot hold is refused.
fn decode(text: &str) -> Result<String, MirrorError> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) if byte == b'%' => {
                bytes.push(decoded);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| MirrorError::Characters)?;
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        Err(MirrorError::Characters)
    } else {
        Ok(text)
    }
}

impl fmt::Display for Mirror {
    /// Without user name and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slashes = if self.directory().is_some() { "" } else { "//" };
        write!(f, "{}:{slashes}{}", self.scheme, self.rest)
    }
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mirror({self})")
    }
}

/// What the user chose instead of the host's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MirrorChoice {
    pub archive: Option<Mirror>,
    /// The security archive's mirror; `Some(None)` is none at all.
    pub security: Option<Option<Mirror>>,
    pub ubuntu: Option<Mirror>,
    pub ubuntu_ports: Option<Mirror>,
    /// Proxies of the process's environment.
    pub proxies: ProxyChoice,
}

/// What the process's environment says of proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyChoice {
    /// Scheme, and address.
    addresses: Vec<(&'static str, Hidden)>,
    /// Hosts and networks that are asked themselves, separated by commas.
    except: String,
    /// Whether no server may be asked at all.
    pub offline: bool,
}

/// A text that may hold a password, and is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl MirrorChoice {
    /// Reads the choice: `--mirror`, and the variables of the environment, by name.
    ///
    /// # Errors
    /// What is wrong, and with which of them.
    pub fn read<'a>(
        flag: Option<&str>,
        variable: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<MirrorChoice, (&'static str, MirrorError)> {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let archive = match (flag, given(ARCHIVE_VARIABLE)) {
            (Some(flag), _) => Some(Mirror::parse(flag).map_err(|error| ("--mirror", error))?),
            (None, Some(text)) => {
                Some(Mirror::parse(text).map_err(|error| (ARCHIVE_VARIABLE, error))?)
            }
            (None, None) => None,
        };
        let security = match given(SECURITY_VARIABLE) {
            Some(NONE) => Some(None),
            Some(text) => Some(Some(
                Mirror::parse(text).map_err(|error| (SECURITY_VARIABLE, error))?,
            )),
            None => None,
        };
        let parsed = |name: &'static str| {
            let mirror = given(name).map(Mirror::parse).transpose();
            mirror.map_err(|error| (name, error))
        };
        let (ubuntu, ubuntu_ports) = (parsed(UBUNTU_VARIABLE)?, parsed(UBUNTU_PORTS_VARIABLE)?);
        let proxies = ProxyChoice::read(given);
        Ok(MirrorChoice {
            archive,
            security,
            ubuntu,
            ubuntu_ports,
            proxies,
        })
    }

    /// The mirrors to use: what was chosen, else what the host's apt uses.
    ///
    /// # Errors
    /// A mirror that is a directory is not there.
    pub fn resolve(&self) -> Result<Mirrors, MirrorError> {
        let apt = Path::new("/etc/apt");
        let mirrors = self.with_sources(&read_sources(apt), &|path| {
            bounded::read_text(path, bounded::TEXT).ok()
        });
        let Mirrors {
            archive,
            security,
            ubuntu,
            ubuntu_ports,
            ..
        } = &mirrors;
        for path in [archive, security, ubuntu, ubuntu_ports]
            .into_iter()
            .flatten()
            .filter_map(Mirror::directory)
        {
            if std::fs::read_dir(path).is_err() {
                return Err(MirrorError::NoDirectory {
                    path: path.to_owned(),
                });
            }
        }
        Ok(Mirrors {
            proxies: self.proxies.with_apt(&apt_proxies()),
            except: self.proxies.except.clone(),
            offline: self.proxies.offline,
            ..mirrors
        })
    }

    /// These mirrors as a sandbox shows them to steps with network.
    pub fn policy(self) -> ReadPolicy {
        Box::new(move || match self.resolve() {
            Ok(mirrors) => mirrors.policy(),
            Err(error) => Err(Arc::new(error) as PolicyError),
        })
    }

    fn with_sources(
        &self,
        entries: &[SourceEntry],
        read: &dyn Fn(&Path) -> Option<String>,
    ) -> Mirrors {
        let HostArchives {
            debian,
            security,
            ubuntu,
            ubuntu_ports,
        } = HostArchives::choose(entries);
        let host = |uri: Option<&str>| mirror_of_list(uri?, read);
        // A directory is chosen so that nothing else decides what is in an image.
        let frozen = self
            .archive
            .as_ref()
            .is_some_and(|mirror| mirror.directory().is_some());
        let security = match &self.security {
            Some(chosen) => chosen.clone(),
            None if frozen => None,
            None => host(security),
        };
        Mirrors {
            archive: self.archive.clone().or_else(|| host(debian)),
            security,
            ubuntu: self.ubuntu.clone().or_else(|| host(ubuntu)),
            ubuntu_ports: self.ubuntu_ports.clone().or_else(|| host(ubuntu_ports)),
            ..Mirrors::default()
        }
    }
}

impl ProxyChoice {
    /// Reads the variables of the environment, by name.
    pub fn read<'a>(variable: impl Fn(&str) -> Option<&'a str>) -> ProxyChoice {
        // HTTP_PROXY is not asked: a header of a request can set it where a server starts programs (httpoxy).
        let names = [
            ("http", "http_proxy"),
            ("https", "https_proxy"),
            ("https", "HTTPS_PROXY"),
        ];
        let addresses = names
            .into_iter()
            .filter_map(|(scheme, name)| Some((scheme, variable(name)?)))
            .filter(|(_, address)| !address.is_empty() && is_plain(address))
            .map(|(scheme, address)| (scheme, Hidden(address.to_owned())))
            .collect();
        let except = variable("no_proxy").or_else(|| variable("NO_PROXY"));
        ProxyChoice {
            addresses,
            except: except.unwrap_or_default().to_owned(),
            offline: false,
        }
    }

    /// The proxies for what impasto itself gets: those of the host's apt, then those of the environment.
    pub fn resolve(&self) -> Proxies {
        if self.offline {
            return Proxies::default().offline();
        }
        proxies(&self.with_apt(&apt_proxies()), &self.except)
    }

    /// Apt's configuration of proxies: the host's own, then those of the environment for schemes that it says nothing of.
    fn with_apt(&self, dump: &str) -> Vec<(String, Hidden)> {
        let mut proxies = Vec::new();
        for line in dump.lines() {
            let Some((key, value)) = line
                .trim_end()
                .strip_suffix("\";")
                .and_then(|line| line.split_once(" \""))
            else {
                continue;
            };
            let lower = key.to_ascii_lowercase();
            let ours = ["acquire::http::proxy", "acquire::https::proxy"]
                .iter()
                .any(|name| {
                    lower
                        .strip_prefix(name)
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
                });
            if ours && !value.is_empty() && is_plain(value) && is_plain(key) {
                proxies.push((key.to_owned(), Hidden(value.to_owned())));
            }
        }
        for (scheme, address) in &self.addresses {
            let key = format!("Acquire::{scheme}::Proxy");
            if !proxies
                .iter()
                .any(|(other, _)| other.eq_ignore_ascii_case(&key))
            {
                proxies.push((key, address.clone()));
            }
        }
        proxies
    }
}

/// Apt's configuration of proxies, for the downloader: `Acquire::http::Proxy` or `Acquire::http::Proxy::HOST`.
fn proxies(entries: &[(String, Hidden)], except: &str) -> Proxies {
    let mut proxies = Proxies::except(except);
    for (key, Hidden(address)) in entries {
        let mut words = key.splitn(4, "::").skip(1);
        let (scheme, host) = (words.next().unwrap_or_default(), words.nth(1));
        proxies.add(scheme, host, (address != "DIRECT").then_some(address));
    }
    proxies
}

/// Whether apt's configuration can hold it between quotes.
fn is_plain(text: &str) -> bool {
    !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"')
}

/// The mirror that a URI of the host's sources means. Debian's images for clouds keep a list of them in a file.
fn mirror_of_list(uri: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<Mirror> {
    let Some(list) = uri.strip_prefix("mirror+file:") else {
        return Mirror::parse(uri).ok();
    };
    let list = read(Path::new(list.strip_prefix("//").unwrap_or(list)))?;
    let lines = list
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .filter_map(|line| Mirror::parse(line.split_whitespace().next()?).ok())
        .next()
}

fn read_sources(apt: &Path) -> Vec<SourceEntry> {
    // What cannot be read is what the host does not tell.
    let read = |path: &Path| bounded::read_text(path, bounded::TEXT).unwrap_or_default();
    let mut entries = parse_list(&read(&apt.join("sources.list")));
    let parts = std::fs::read_dir(apt.join("sources.list.d"))
        .into_iter()
        .flatten()
        .flatten();
    let mut parts: Vec<_> = parts.map(|part| part.path()).collect();
    parts.sort_unstable();
    for path in parts {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => entries.extend(parse_list(&read(&path))),
            Some("sources") => entries.extend(parse_sources(&read(&path))),
            _ => {}
        }
    }
    entries
}

/// What the host's apt says of proxies. Its configuration has a grammar of its own, so it is asked; a host without apt
/// has no answer.
fn apt_proxies() -> String {
    #[expect(
        clippy::disallowed_methods,
        reason = "apt alone can read its configuration"
    )]
    let output = Command::new("apt-config")
        .args(["dump", "Acquire"])
        .stderr(std::process::Stdio::null())
        .output();
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default()
}

/// The mirrors and proxies that stages with network use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mirrors {
    /// Debian's archive; none where the host does not know one.
    pub archive: Option<Mirror>,
    pub security: Option<Mirror>,
    pub ubuntu: Option<Mirror>,
    pub ubuntu_ports: Option<Mirror>,
    proxies: Vec<(String, Hidden)>,
    /// Hosts and networks that are asked without a proxy.
    except: String,
    /// Whether impasto itself may ask nobody.
    offline: bool,
}

impl Mirrors {
    /// The proxies that lead to them, for the downloader.
    pub fn proxies(&self) -> Proxies {
        let proxies = proxies(&self.proxies, &self.except);
        match self.offline {
            true => proxies.offline(),
            false => proxies,
        }
    }

    /// The mirror of a distribution's archive; none where the host does not know one.
    pub fn of(&self, archive: OwnArchive) -> Option<&Mirror> {
        match archive {
            OwnArchive::Debian => self.archive.as_ref(),
            OwnArchive::DebianSecurity => self.security.as_ref(),
            OwnArchive::Ubuntu => self.ubuntu.as_ref(),
            OwnArchive::UbuntuPorts => self.ubuntu_ports.as_ref(),
        }
    }

    fn named(&self) -> impl Iterator<Item = (&'static str, &Mirror)> {
        let all = [
            ("archive", &self.archive),
            ("security", &self.security),
            ("ubuntu", &self.ubuntu),
            ("ubuntu-ports", &self.ubuntu_ports),
        ];
        all.into_iter()
            .filter_map(|(name, mirror)| Some((name, mirror.as_ref()?)))
    }

    /// The files of [`DIR`]: name, permission bits and content.
    pub fn files(&self) -> Vec<(&'static str, u32, String)> {
        let mirrors = self
            .named()
            .map(|(name, mirror)| format!("{name} {}\n", mirror.seen_as(name)))
            .collect();
        let proxies = self
            .proxies
            .iter()
            .map(|(key, value)| format!("{key} \"{}\";\n", value.0))
            .collect();
        let auth = self
            .named()
            .filter_map(|(_, mirror)| mirror.auth())
            .collect();
        vec![
            ("mirrors", 0o644, mirrors),
            ("proxy.conf", 0o600, proxies),
            ("auth.conf", 0o600, auth),
        ]
    }

    /// The host's directories that are mirrors, by their names below [`DIR`].
    fn directories(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        self.named()
            .filter_map(|(name, mirror)| Some((name, mirror.directory()?)))
    }

    /// The same for a sandbox, which knows files only.
    fn policy(&self) -> Result<NetworkPolicy, PolicyError> {
        let dir = DIR
            .strip_prefix(RUN_DIR)
            .expect("BUG: the policy lies elsewhere")
            .trim_start_matches('/');
        let below = |name: &str| format!("{dir}/{name}");
        let files = self
            .files()
            .into_iter()
            .map(|(name, mode, text)| (below(name), mode, text.into_bytes()));
        let certificates = match bounded::read(CERTIFICATES, MAX_CERTIFICATES) {
            Ok(text) => Some((below("ca-certificates.crt"), 0o644, text)),
            // Half of too many would be as good as none.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::FileTooLarge
                ) =>
            {
                None
            }
            Err(error) => {
                return Err(Arc::new(io::Error::other(format!(
                    "cannot read {CERTIFICATES}: {error}"
                ))));
            }
        };
        Ok(NetworkPolicy {
            files: files.chain(certificates).collect(),
            directories: self
                .directories()
                .map(|(name, path)| (below(name), path.to_owned()))
                .collect(),
            facts: self.facts(),
            secrets: self.secrets().into_iter().map(Secret::new).collect(),
        })
    }

    fn facts(&self) -> BTreeMap<String, String> {
        let name = |name: &str| match name {
            "archive" => "mirror".to_owned(),
            other => format!("{other}-mirror"),
        };
        self.named()
            .map(|(kind, mirror)| (name(kind), mirror.to_string()))
            .collect()
    }

    /// What must not be shown: passwords of mirrors and proxies.
    fn secrets(&self) -> Vec<String> {
        let mirrors = self
            .named()
            .filter_map(|(_, mirror)| Some(mirror.credentials.as_ref()?.1.clone()));
        let proxies = self.proxies.iter().filter_map(|(_, address)| {
            let (_, rest) = address.0.split_once("://")?;
            let (user, _) = rest.rsplit_once('@')?;
            Some(user.split_once(':')?.1.to_owned())
        });
        mirrors
            .chain(proxies)
            .filter(|secret| !secret.is_empty())
            .collect()
    }
}

#[cfg(test)]
mod tests;
