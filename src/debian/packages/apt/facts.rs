//! What a question is about: the release, the machines, the archives that are to be asked.
//! Knows names of archives; asks none of them.

use std::collections::BTreeMap;

use impasto_stages::Secret;
use impasto_stages::package_set::{ARCHITECTURE, Repository, RequestRoot};

use crate::deb::status;
use crate::debian::archive::{ArchiveSource, Trust};
use crate::debian::distribution::{Distribution, OwnArchive};
use crate::debian::mirror::{Mirror, Mirrors, UBUNTU_PORTS_VARIABLE, UBUNTU_VARIABLE};
use crate::debian::packages::places;
use crate::lock::{LockEntry, ManagerError, PackageHint, ResolveQuery};

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
    /// The keys that sign the distribution's own archives; those that impasto knows where none are given.
    keys: Option<&'a str>,
    pub(super) repositories: BTreeMap<&'a str, (&'a Repository, &'a BTreeMap<String, Secret>)>,
}

impl<'a> Facts<'a> {
    pub(super) fn of(query: &ResolveQuery<'a>) -> Result<Facts<'a>, ManagerError> {
        let facts = Facts::gather(query);
        match facts.known() {
            Some(distribution) if facts.suite.is_empty() => Err(ManagerError {
                message: format!(
                    "the image's /etc/os-release does not name its {} release",
                    distribution.name()
                ),
                help: Some(format!("set it: `suite = {:?}`", distribution.example()).into()),
                said: Vec::new(),
                about: Vec::new(),
            }),
            _ => Ok(facts),
        }
    }

    /// The same where the answer is known, which tells what the disk's image would: nobody has to look at it.
    pub(super) fn answered(query: &ResolveQuery<'a>, entry: &LockEntry) -> Facts<'a> {
        let mut facts = Facts::gather(query);
        facts.architecture.clone_from(&entry.architecture);
        facts
            .foreign
            .retain(|machine| *machine != entry.architecture);
        let suites = entry.archives.iter().filter_map(|archive| {
            let (own, suite) = OwnArchive::of_lock(&archive.name)?;
            (own != OwnArchive::DebianSecurity).then_some((own.distribution(), suite))
        });
        let added = |suite: &str| {
            facts
                .repositories
                .values()
                .any(|(known, _)| known.uri.is_none() && known.suite == suite)
        };
        // Of a release and its updates the release has the shorter name.
        match suites.min_by_key(|(_, suite)| (added(suite), suite.len())) {
            Some((distribution, suite)) => {
                distribution.id().clone_into(&mut facts.distribution);
                if facts.suite.is_empty() {
                    suite.clone_into(&mut facts.suite);
                }
            }
            None => facts.distribution.clear(),
        }
        facts
    }

    fn gather(query: &ResolveQuery<'a>) -> Facts<'a> {
        let mut facts = Facts {
            distribution: Distribution::Debian.id().to_owned(),
            suite: String::new(),
            components: Vec::new(),
            architecture: ARCHITECTURE.to_owned(),
            foreign: Vec::new(),
            keys: None,
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
            if let Some(keys) = &request.keys {
                facts.keys = Some(keys);
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
            distribution: Distribution::Debian.id().to_owned(),
            suite: suite.to_owned(),
            components: vec!["main".to_owned()],
            architecture: ARCHITECTURE.to_owned(),
            foreign: Vec::new(),
            keys: None,
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
        if let Some(distribution) = self.known() {
            sources = self.own(distribution, mirrors)?;
        } else if self.repositories.is_empty() {
            return Err(ManagerError {
                message: format!(
                    "the image is {}, neither Debian nor Ubuntu, and the recipe has no repository for it",
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
            let distribution = self.known().unwrap_or(Distribution::Debian);
            let own = distribution.archive(&self.architecture);
            let base = match address {
                Some(base) => base,
                None => base(mirrors, own)?,
            };
            let trust = match (&repository.signed_by, repository.trusted) {
                (_, true) => Trust::Unsigned,
                (Some(keys), _) => Trust::Keys {
                    keys: keys.clone().into_bytes(),
                    place: format!("`signed_by` of the repository {name}"),
                },
                (None, false) => self.trust(distribution),
            };
            // Suites of the host's mirror are had from there again.
            let lock_name = match &repository.uri {
                Some(_) => (*name).to_owned(),
                None => format!("{}/{}", own.name(), repository.suite),
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

    /// The distribution, where impasto knows its archives.
    fn known(&self) -> Option<Distribution> {
        Distribution::named(&self.distribution)
    }

    /// Who must have signed the distribution's own archives.
    fn trust(&self, distribution: Distribution) -> Trust {
        match self.keys {
            Some(keys) => Trust::Keys {
                keys: keys.as_bytes().to_vec(),
                place: "`signed_by` of the stage that makes the root".to_owned(),
            },
            None => distribution.trust(),
        }
    }

    /// The distribution's own archives: each with whether it may be missing.
    fn own(
        &self,
        distribution: Distribution,
        mirrors: &Mirrors,
    ) -> Result<Vec<(ArchiveSource, bool)>, ManagerError> {
        let mut sources = Vec::new();
        for own in distribution.suites(&self.suite, &self.architecture) {
            // A host without an archive for security has none for this.
            if own.archive == OwnArchive::DebianSecurity && mirrors.of(own.archive).is_none() {
                continue;
            }
            let source = self.source(
                format!("{}/{}", own.archive.name(), own.suite),
                base(mirrors, own.archive)?,
                &own.suite,
                &self.components,
                self.trust(distribution),
            );
            sources.push((source, own.may_be_missing));
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

/// The host's mirror of an archive.
fn base(mirrors: &Mirrors, archive: OwnArchive) -> Result<Mirror, ManagerError> {
    let help = match archive {
        OwnArchive::Debian | OwnArchive::DebianSecurity => {
            PackageHint::Mirror("set one".to_owned())
        }
        OwnArchive::Ubuntu => format!("set one: {UBUNTU_VARIABLE}=URL").into(),
        OwnArchive::UbuntuPorts => {
            format!("set one, with the packages of this architecture: {UBUNTU_PORTS_VARIABLE}=URL")
                .into()
        }
    };
    mirrors.of(archive).cloned().ok_or_else(|| ManagerError {
        message: format!(
            "no {} mirror is known: this host's apt has none configured",
            archive.distribution().name()
        ),
        help: Some(help),
        said: Vec::new(),
        about: Vec::new(),
    })
}
