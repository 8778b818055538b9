//! What a question is about: the release, the machines, the archives that are to be asked.
//! Knows Debian's suites and the names of archives; asks none of them.

use std::collections::BTreeMap;

use impasto_stages::Secret;
use impasto_stages::package_set::{ARCHITECTURE, Repository, RequestRoot};

use crate::deb::status;
use crate::debian::archive::{ArchiveSource, Trust};
use crate::debian::mirror::{Mirror, Mirrors};
use crate::debian::packages::places::{self, ARCHIVE, SECURITY};
use crate::lock::{LockEntry, ManagerError, PackageHint, ResolveQuery};

/// Releases that get no updates of their own, and no security archive.
const ROLLING: [&str; 4] = ["sid", "unstable", "experimental", "rc-buggy"];

/// What os-release(5) calls Debian.
const DEBIAN: &str = "debian";

/// The package that tells the machine of an installation.
const OWN: &[u8] = b"dpkg";

/// The file of an image that tells its release.
pub(super) const OS_RELEASE: &str = "/etc/os-release";

/// The same where the first is a link.
pub(super) const USR_OS_RELEASE: &str = "/usr/lib/os-release";

/// The file of an image that tells its packages.
pub(super) const STATUS: &str = "/var/lib/dpkg/status";

/// The file of an image that tells which of them came for others.
pub(super) const EXTENDED: &str = "/var/lib/apt/extended_states";

/// The release and machines of an installation, and the archives that it knows.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) distribution: String,
    pub(super) suite: String,
    pub(super) components: Vec<String>,
    pub(super) architecture: String,
    pub(super) foreign: Vec<String>,
    pub(super) repositories: BTreeMap<&'a str, (&'a Repository, &'a BTreeMap<String, Secret>)>,
}

impl<'a> Facts<'a> {
    pub(super) fn of(query: &ResolveQuery<'a>) -> Result<Facts<'a>, ManagerError> {
        let facts = Facts::gather(query);
        if facts.suite.is_empty() && facts.distribution == DEBIAN {
            return Err(ManagerError {
                message: "the image's /etc/os-release does not name its Debian release".to_owned(),
                help: Some("set it: `suite = \"bookworm\"`".into()),
                said: Vec::new(),
                about: Vec::new(),
            });
        }
        Ok(facts)
    }

    /// The same where the answer is known, which tells what the disk's image would: nobody has to look at it.
    pub(super) fn answered(query: &ResolveQuery<'a>, entry: &LockEntry) -> Facts<'a> {
        let mut facts = Facts::gather(query);
        facts.architecture.clone_from(&entry.architecture);
        facts
            .foreign
            .retain(|machine| *machine != entry.architecture);
        let suites = entry
            .archives
            .iter()
            .filter_map(|archive| archive.name.strip_prefix(ARCHIVE)?.strip_prefix('/'));
        let added = |suite: &str| {
            facts
                .repositories
                .values()
                .any(|(known, _)| known.uri.is_none() && known.suite == suite)
        };
        // Of a release and its updates the release has the shorter name.
        match suites.min_by_key(|suite| (added(suite), suite.len())) {
            Some(suite) if facts.suite.is_empty() => facts.suite = suite.to_owned(),
            Some(_) => {}
            None => facts.distribution.clear(),
        }
        facts
    }

    fn gather(query: &ResolveQuery<'a>) -> Facts<'a> {
        let mut facts = Facts {
            distribution: DEBIAN.to_owned(),
            suite: String::new(),
            components: Vec::new(),
            architecture: ARCHITECTURE.to_owned(),
            foreign: Vec::new(),
            repositories: BTreeMap::new(),
        };
        if let Some(image) = query.below.image {
            facts.read_image(image);
        }
        let layers = query
            .below
            .stages
            .iter()
            .map(|layer| (layer.request, layer.secrets));
        for (request, secrets) in layers.chain([(query.request, query.secrets)]) {
            if let RequestRoot::Own {
                distribution,
                architecture,
                ..
            } = &request.root
            {
                facts.distribution.clone_from(distribution);
                facts.architecture.clone_from(architecture);
            }
            if let Some(suite) = &request.suite {
                facts.suite.clone_from(suite);
            }
            if !request.components.is_empty() {
                facts.components.clone_from(&request.components);
            }
            facts.foreign.extend(request.architectures.iter().cloned());
            for repository in &request.repositories {
                facts
                    .repositories
                    .insert(&repository.name, (repository, secrets));
            }
        }
        facts.foreign.sort_unstable();
        facts.foreign.dedup();
        facts
            .foreign
            .retain(|machine| *machine != facts.architecture);
        if facts.components.is_empty() {
            facts.components.push("main".to_owned());
        }
        facts
    }

    /// A release of Debian on the machine that impasto runs on.
    pub(super) fn plain(suite: &str) -> Facts<'static> {
        Facts {
            distribution: DEBIAN.to_owned(),
            suite: suite.to_owned(),
            components: vec!["main".to_owned()],
            architecture: ARCHITECTURE.to_owned(),
            foreign: Vec::new(),
            repositories: BTreeMap::new(),
        }
    }

    fn read_image(&mut self, image: &BTreeMap<String, Vec<u8>>) {
        let release = [OS_RELEASE, USR_OS_RELEASE]
            .iter()
            .find_map(|path| image.get(*path));
        let release = release
            .map(|text| String::from_utf8_lossy(text).into_owned())
            .unwrap_or_default();
        let value = |name: &str| {
            let line = release
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.map(|value| value.trim().trim_matches(['"', '\'']).to_owned())
        };
        self.distribution = value("ID").unwrap_or_default();
        self.suite = value("VERSION_CODENAME").unwrap_or_default();
        let status = image.get(STATUS).map(Vec::as_slice).unwrap_or_default();
        if let Some(own) = status::entries(status).find(|entry| entry.name == OWN) {
            self.architecture = String::from_utf8_lossy(own.architecture).into_owned();
        }
    }

    /// The archives to ask: each with whether it may be missing.
    pub(super) fn sources(
        &self,
        mirrors: &Mirrors,
    ) -> Result<Vec<(ArchiveSource, bool)>, ManagerError> {
        let mut sources = Vec::new();
        if self.distribution == DEBIAN {
            sources = self.debian(mirrors)?;
        } else if self.repositories.is_empty() {
            return Err(ManagerError {
                message: format!(
                    "the image is {}, not Debian, and the recipe has no repository for it",
                    self.distribution
                ),
                help: Some("add one in `repositories`".into()),
                said: Vec::new(),
                about: Vec::new(),
            });
        }
        for (name, (repository, secrets)) in &self.repositories {
            let address = places::address(repository, secrets).map_err(|error| ManagerError {
                message: format!("the address of the archive {name} cannot be used: {error}"),
                help: Some("correct `uri` in `repositories`".into()),
                said: Vec::new(),
                about: Vec::new(),
            })?;
            let base = match address {
                Some(base) => base,
                None => archive(mirrors)?,
            };
            let trust = match (&repository.signed_by, repository.trusted) {
                (_, true) => Trust::Unsigned,
                (Some(keys), _) => Trust::Keys {
                    keys: keys.clone().into_bytes(),
                    place: format!("`signed_by` of the repository {name}"),
                },
                (None, false) => Trust::debian(),
            };
            // Suites of the host's mirror are had from there again.
            let lock_name = match &repository.uri {
                Some(_) => (*name).to_owned(),
                None => format!("{ARCHIVE}/{}", repository.suite),
            };
            sources.push((
                self.source(
                    lock_name,
                    base,
                    &repository.suite,
                    &repository.components,
                    trust,
                ),
                false,
            ));
        }
        Ok(sources)
    }

    fn debian(&self, mirrors: &Mirrors) -> Result<Vec<(ArchiveSource, bool)>, ManagerError> {
        let (base, suite) = (archive(mirrors)?, &self.suite);
        let debian = |place: &str, base: &Mirror, suite: &str| {
            self.source(
                format!("{place}/{suite}"),
                base.clone(),
                suite,
                &self.components,
                Trust::debian(),
            )
        };
        let mut sources = vec![(debian(ARCHIVE, &base, suite), false)];
        if !ROLLING.contains(&suite.as_str()) {
            sources.push((debian(ARCHIVE, &base, &format!("{suite}-updates")), true));
            if let Some(security) = &mirrors.security {
                sources.push((
                    debian(SECURITY, security, &format!("{suite}-security")),
                    true,
                ));
            }
        }
        Ok(sources)
    }

    fn source(
        &self,
        name: String,
        base: Mirror,
        suite: &str,
        components: &[String],
        trust: Trust,
    ) -> ArchiveSource {
        let frozen = base.directory().is_some();
        let machines = std::iter::once(&self.architecture)
            .chain(&self.foreign)
            .cloned();
        ArchiveSource {
            name,
            bases: vec![base],
            suite: suite.to_owned(),
            components: components.to_vec(),
            architectures: machines.collect(),
            trust,
            frozen,
        }
    }
}

fn archive(mirrors: &Mirrors) -> Result<Mirror, ManagerError> {
    mirrors.archive.clone().ok_or_else(|| ManagerError {
        message: "no Debian mirror is known: this host's apt has none configured".to_owned(),
        help: Some(PackageHint::Mirror("set one".to_owned())),
        said: Vec::new(),
        about: Vec::new(),
    })
}
