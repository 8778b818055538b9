//! apt: Debian's package manager, and its own solver, out of the toolbox.
//! Knows what a question means to apt; archives are verified by our own code, and apt believes what it is given.

mod facts;
mod known;
mod query;
mod state;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use facts::{EXTENDED, Facts, OS_RELEASE, STATUS, USR_OS_RELEASE};
use impasto_stages::package_set::ARCHITECTURE;
use impasto_store::Store;
use known::{ArchivePackage, Archives, VerifiedArchive};

use super::fetch::{DemandError, Fetcher};
use super::tools::{ToolsError, tools};
use crate::base::cancel::CancelToken;
use crate::base::human::with_causes;
use crate::deb::closure::closure;
use crate::deb::package::Package as Deb;
use crate::deb::version;
use crate::debian::distribution::is_security;
use crate::debian::mirror::Mirrors;
use crate::debian::toolbox::{EMULATOR, SUITE, TOOLS, makes};
use crate::lock::{
    self, LockEntry, LockPackage, ManagerError, NewerVersion, PackageHint, PackageManager,
    ResolveQuery, ToolNeed,
};
use crate::sandbox::Sandbox;

/// The files of a disk that tell which packages it has.
const STATE_FILES: [&str; 4] = [STATUS, EXTENDED, OS_RELEASE, USR_OS_RELEASE];

/// apt on this host.
pub struct Apt<'a> {
    store: &'a Store,
    mirrors: &'a Mirrors,
    sandbox: &'a Result<Arc<dyn Sandbox>, String>,
    archives: Archives<'a>,
    get: GetFiles<'a>,
    cancel: CancelToken,
}

/// What gets the files of an entry.
type GetFiles<'a> = Box<dyn Fn(&LockEntry) -> Fetcher + Send + Sync + 'a>;

impl<'a> Apt<'a> {
    /// apt with what it needs: `sandbox` for its solver, `get` for package files whose fields no index has any more.
    /// `now` is in seconds since 1970.
    pub fn new(
        store: &'a Store,
        mirrors: &'a Mirrors,
        sandbox: &'a Result<Arc<dyn Sandbox>, String>,
        now: u64,
        get: GetFiles<'a>,
        cancel: CancelToken,
    ) -> Self {
        Apt {
            store,
            mirrors,
            sandbox,
            archives: Archives::new(store, mirrors, now, cancel.clone()),
            get,
            cancel,
        }
    }

    /// The tree of tools.
    fn tools(&self, entry: &LockEntry) -> Result<std::path::PathBuf, ManagerError> {
        let fetcher = || (self.get)(entry);
        let root = tools(self.store, &entry.set(), &fetcher, &self.cancel);
        root.map_err(|error| {
            let help = match &error {
                ToolsError::Fetch(DemandError::Package(error)) => error.help.clone(),
                _ => None,
            };
            ManagerError {
                message: with_causes(&error),
                help,
                said: Vec::new(),
                about: Vec::new(),
            }
        })
    }

    /// The fields of a package out of its own file.
    fn read(&self, package: &LockPackage) -> Result<Vec<u8>, ManagerError> {
        let entry = LockEntry {
            packages: vec![package.clone()],
            ..LockEntry::default()
        };
        let failed = |reason: String| ManagerError {
            message: format!(
                "package {} {}: {reason}",
                package.file.name, package.file.version
            ),
            help: None,
            said: Vec::new(),
            about: Vec::new(),
        };
        let blobs = (self.get)(&entry).demand(&entry.set(), &self.cancel);
        let blobs = blobs.map_err(|error| failed(error.to_string()))?;
        let reader = self
            .store
            .open_blob(&blobs[0].digest)
            .map_err(|error| failed(error.to_string()))?;
        let deb = Deb::read(reader).map_err(|error| failed(error.to_string()))?;
        Ok(deb.control().as_bytes().to_vec())
    }
}

impl PackageManager for Apt<'_> {
    fn state_files(&self) -> &'static [&'static str] {
        &STATE_FILES
    }

    fn resolve_toolbox(&self, more: &[ToolNeed]) -> Result<LockEntry, ManagerError> {
        let facts = Facts::plain(SUITE);
        let archives = self.archives.get(&facts.sources(self.mirrors)?)?;
        let more = more.iter().filter_map(|need| match need {
            ToolNeed::Emulator(_) => Some(EMULATOR),
            ToolNeed::FileSystem(name) => makes(name),
        });
        let names: Vec<_> = TOOLS.iter().copied().chain(more).collect();
        let stanzas = archives.iter().flat_map(|archive| archive.packages());
        let tools = closure(stanzas, &names, ARCHITECTURE).map_err(|error| ManagerError {
            message: format!("the release {SUITE} on this mirror does not have the tools that impasto uses: {error}"),
            help: Some(PackageHint::Mirror("choose a complete mirror".to_owned())),
            said: Vec::new(),
            about: Vec::new(),
        })?;
        let places: HashMap<_, _> = archives
            .iter()
            .flat_map(|archive| places(archive))
            .collect();
        let mut packages = Vec::new();
        for stanza in tools {
            let archive = places[&stanza.text().as_ptr()];
            let package = ArchivePackage { archive, stanza }.package();
            // What is not put into an image needs no room there.
            let package = package.map(|package| LockPackage {
                installed: None,
                ..package
            });
            packages.push(package.ok_or_else(|| unusable(archive, stanza.get("Package")))?);
        }
        Ok(LockEntry {
            packages,
            ..entry(&facts, &archives)
        })
    }

    fn resolve(&self, query: &ResolveQuery<'_>) -> Result<LockEntry, ManagerError> {
        self.ask(query)
    }

    fn newer(
        &self,
        query: &ResolveQuery<'_>,
        entry: &LockEntry,
    ) -> Result<Vec<NewerVersion>, ManagerError> {
        let facts = Facts::answered(query, entry);
        let archives = self.archives.get(&facts.sources(self.mirrors)?)?;
        // Who asked for a version does not want another.
        let pinned = |name: &str| {
            query.request.install.iter().any(|wanted| {
                wanted
                    .split_once('=')
                    .is_some_and(|(package, _)| package.split(':').next() == Some(name))
            }) || query.request.hold.iter().any(|held| held == name)
                || query.request.pins.iter().any(|pin| pin.package == name)
        };
        let locked = entry
            .packages
            .iter()
            .filter(|package| package.archive.is_some() && !pinned(&package.file.name));
        let locked: BTreeMap<(&str, &str), &str> = locked
            .map(|LockPackage { file, .. }| {
                ((&*file.name, &*file.architecture), file.version.as_str())
            })
            .collect();
        let names: HashSet<&str> = locked.keys().map(|(name, _)| *name).collect();
        let mut newest: BTreeMap<(&str, &str), (&str, &VerifiedArchive)> = BTreeMap::new();
        for archive in &archives {
            let on_demand = archive.is_on_demand();
            for stanza in archive.packages() {
                let fields = stanza.get_all(["Package", "Version", "Architecture"]);
                let [Some(name), Some(version), Some(architecture)] = fields else {
                    continue;
                };
                if !names.contains(name) {
                    continue;
                }
                let Some(have) = locked.get(&(name, architecture)) else {
                    continue;
                };
                // An archive of that kind is followed only by what came from it.
                let from = entry
                    .packages
                    .iter()
                    .find(|package| package.file.name == name)
                    .and_then(|package| package.archive.as_ref());
                if on_demand && from != Some(&archive.source.name) {
                    continue;
                }
                let best = newest
                    .entry((name, architecture))
                    .or_insert((have, archive));
                if version::compare(best.0, version).is_lt() {
                    *best = (version, archive);
                }
            }
        }
        let newer = newest
            .into_iter()
            .filter_map(|((name, architecture), (version, archive))| {
                let have = locked[&(name, architecture)];
                (have != version).then(|| NewerVersion {
                    name: name.to_owned(),
                    architecture: architecture.to_owned(),
                    locked: have.to_owned(),
                    newest: version.to_owned(),
                    archive: archive.source.name.clone(),
                    security: is_security(&archive.source.name)
                        || archive.release.label.contains("Security"),
                })
            });
        Ok(newer.collect())
    }
}

/// Where each stanza of an archive lies, by its address in memory: stanzas that others chose are found again.
fn places(archive: &VerifiedArchive) -> impl Iterator<Item = (*const u8, &VerifiedArchive)> {
    archive
        .packages()
        .map(move |stanza| (stanza.text().as_ptr(), archive))
}

/// An entry without packages.
fn entry(facts: &Facts<'_>, archives: &[Arc<VerifiedArchive>]) -> LockEntry {
    let mut known: Vec<_> = archives
        .iter()
        .map(|archive| lock::LockArchive {
            name: archive.source.name.clone(),
            date: jiff::Timestamp::from_second(archive.release.date as i64)
                .map(|date| date.to_string())
                .unwrap_or_default(),
            release: archive.release.sha256,
            trusted: archive.source.trust == crate::debian::archive::Trust::Unsigned,
        })
        .collect();
    known.sort();
    LockEntry {
        architecture: facts.architecture.clone(),
        archives: known,
        ..LockEntry::default()
    }
}

fn unusable(archive: &VerifiedArchive, name: Option<&str>) -> ManagerError {
    ManagerError {
        message: format!(
            "the archive {} gives no valid size, SHA-256 and path of package {}",
            archive.source.name,
            name.unwrap_or_default()
        ),
        help: Some(
            "choose another version or another archive, or report it to the archive's maintainer"
                .into(),
        ),
        said: Vec::new(),
        about: Vec::new(),
    }
}
