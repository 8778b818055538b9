//! A question in apt's own words, and apt's answer as an entry of the lock.
//! Knows the files that a resolution reads (`crate::debian::toolbox`); apt's solver decides.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use impasto_stages::Limits;
use impasto_stages::package_set::{ARCHITECTURE, LockedPackage, RequestRoot};
use impasto_store::sha256::Sha256;

use super::facts::Facts;
use super::known::VerifiedArchive;
use super::state::{DpkgState, find};
use super::{Apt, entry};
use crate::base::bounded;
use crate::deb::package::Package as Deb;
use crate::deb::version;
use crate::debian::toolbox::{
    APT, RESULT, ResolveOutcome, ResolveRequest, ResolveResult, ResolveSource, ResolvedPackage,
    ToolboxTask, Variant,
};
use crate::lock::{self, LockEntry, LockPackage, ManagerError, PackageHint, Pinning, ResolveQuery};
use crate::recipe::suggest;
use crate::sandbox::{ToolEnd, ToolEvent, ToolJob};

/// Most bytes of a package file of the user's own.
const MAX_OWN: u64 = 1 << 30;

/// The archive of the user's own files.
const OWN: &str = "own";

/// The archive of what was locked before and no archive has any more.
const KEPT: &str = "kept";

/// More than any archive's own: what is locked stays, older or newer.
const LOCKED_PRIORITY: u32 = 1001;

/// What a builder of kernel modules needs for a kernel, before its release.
const HEADERS: &str = "linux-headers-";

/// What an image's kernels are, before their releases.
const KERNEL: &str = "linux-image-";

impl Apt<'_> {
    pub(super) fn ask(&self, query: &ResolveQuery<'_>) -> Result<LockEntry, ManagerError> {
        let facts = Facts::of(query)?;
        let archives = self.archives.get(&facts.sources(self.mirrors)?)?;
        let asked = AskedPackage {
            apt: self,
            query,
            facts,
            archives,
        };
        let pinned = asked.answer(true);
        match (pinned, query.keep) {
            // What stayed may be what others cannot go with: apt says so.
            (Err(error), Pinning::AllBut(..)) if !error.said.is_empty() => asked.answer(false),
            (answer, _) => answer,
        }
    }
}

struct AskedPackage<'q, 'a> {
    apt: &'q Apt<'a>,
    query: &'q ResolveQuery<'q>,
    facts: Facts<'q>,
    archives: Vec<Arc<VerifiedArchive>>,
}

impl AskedPackage<'_, '_> {
    fn answer(&self, pinned: bool) -> Result<LockEntry, ManagerError> {
        let (query, request) = (self.query, self.query.request);
        let scratch = self
            .apt
            .store
            .scratch()
            .map_err(|error| failed(error.to_string()))?;
        let work = scratch.path().join("work");
        let dir = work.join(APT);
        make(&dir.join("sources"))?;
        let mut sources = Vec::new();
        for (place, archive) in self.archives.iter().enumerate() {
            sources.push(lay_out(archive, &place.to_string(), &dir)?);
        }
        let mut install = request.install.clone();
        let own = self.own_files(&dir, &mut sources, &mut install)?;
        let mut kept = BTreeMap::new();
        if let (true, Pinning::AllBut(entry, names)) = (pinned, query.keep) {
            write(
                &dir.join("preferences"),
                self.preferences(entry, names).as_bytes(),
            )?;
            kept = self.kept(entry, names, &dir, &mut sources)?;
        } else {
            write(
                &dir.join("preferences"),
                self.preferences(&LockEntry::default(), &[]).as_bytes(),
            )?;
        }
        let state = match request.root {
            RequestRoot::Disk => {
                let mut state = DpkgState::of(&query.below);
                state.hold(&request.hold);
                let status = state.status(&self.archives, &|package| self.apt.read(package))?;
                write(&dir.join("status"), &status)?;
                write(
                    &dir.join("extended_states"),
                    state.extended_states().as_bytes(),
                )?;
                state
            }
            RequestRoot::Builder { .. } => {
                install.extend(self.headers()?);
                DpkgState::default()
            }
            RequestRoot::Own { .. } => DpkgState::default(),
        };
        install.extend(request.remove.iter().map(|name| format!("{name}-")));
        let variant = match &request.root {
            RequestRoot::Disk => None,
            RequestRoot::Own { variant, .. } if variant == "minbase" => Some(Variant::Minbase),
            RequestRoot::Own { .. } | RequestRoot::Builder { .. } => Some(Variant::Essential),
        };
        let asked = ResolveRequest {
            install,
            upgrade: request.upgrade,
            autoremove: request.autoremove,
            recommends: request.recommends,
            architecture: self.facts.architecture.clone(),
            foreign: self.facts.foreign.clone(),
            sources,
            variant,
        };
        let result = self.run(asked, &work)?;
        let mut packages = Vec::with_capacity(result.install.len());
        for package in result.install {
            packages.push(self.located(package, &own, &kept)?);
        }
        self.measure(&mut packages);
        let removed: Vec<_> = result
            .remove
            .into_iter()
            .filter(|package| {
                state
                    .version(&package.name, &package.architecture)
                    .is_some()
            })
            .collect();
        packages.sort_by(|LockPackage { file: a, .. }, LockPackage { file: b, .. }| {
            (&a.name, &a.architecture).cmp(&(&b.name, &b.architecture))
        });
        Ok(LockEntry {
            packages,
            removed,
            ..entry(&self.facts, &self.archives)
        })
    }

    /// A package of apt's answer, with where its file was had: one of the user's, one that the lock keeps, or an archive's.
    fn located(
        &self,
        package: ResolvedPackage,
        own: &BTreeMap<(String, String), LockPackage>,
        kept: &BTreeMap<(String, String), LockPackage>,
    ) -> Result<LockPackage, ManagerError> {
        let ResolvedPackage { file, source, path } = package;
        let key = (file.name.clone(), file.architecture.clone());
        let ours = |files: &BTreeMap<_, LockPackage>| {
            let found = files.get(&key).cloned();
            found.ok_or_else(|| failed(format!("apt returned a file of {}", key.0)))
        };
        match source.as_str() {
            OWN => ours(own),
            KEPT => ours(kept),
            place => Ok(LockPackage {
                installed: None,
                archive: Some(self.archive(place)?.source.name.clone()),
                path: path.trim_start_matches("./").to_owned(),
                file,
            }),
        }
    }

    /// The archive that apt's answer calls by its place.
    fn archive(&self, place: &str) -> Result<&VerifiedArchive, ManagerError> {
        let found = place
            .parse()
            .ok()
            .and_then(|place: usize| self.archives.get(place));
        let unknown = || failed(format!("apt returned an unknown archive {place:?}"));
        found.map(|archive| &**archive).ok_or_else(unknown)
    }

    /// Fills in what packages of the archives say that they take when they are installed.
    fn measure(&self, packages: &mut [LockPackage]) {
        let sizes: HashMap<(String, String, String), Option<u64>> = {
            let names = packages
                .iter()
                .map(|package| package.file.name.as_str())
                .collect();
            let found = find(&self.archives, &names);
            let owned = |(name, machine, version): (&str, &str, &str)| {
                (name.into(), machine.into(), version.into())
            };
            found
                .into_iter()
                .map(|(key, found)| (owned(key), found.installed()))
                .collect()
        };
        for package in packages
            .iter_mut()
            .filter(|package| package.installed.is_none())
        {
            let file = &package.file;
            let key = (
                file.name.clone(),
                file.architecture.clone(),
                file.version.clone(),
            );
            package.installed = sizes.get(&key).copied().flatten();
        }
    }

    fn run(&self, request: ResolveRequest, work: &Path) -> Result<ResolveResult, ManagerError> {
        let sandbox = self
            .apt
            .sandbox
            .as_ref()
            .map_err(|reason| failed(reason.clone()))?;
        let toolbox = self.apt.tools(self.query.tools)?;
        let job = ToolJob {
            work,
            toolbox: &toolbox,
            task: ToolboxTask::Resolve {
                request: Box::new(request),
            }
            .packed(),
            disk: None,
            limits: Limits::default(),
            timeout: None,
            cancel: self.apt.cancel.clone(),
        };
        let end = sandbox.run_tools(job, &mut |event| {
            if let ToolEvent::Log(bytes) = event {
                tracing::debug!(said = %String::from_utf8_lossy(bytes), "apt");
            }
        });
        match end.map_err(|error| failed(error.to_string()))? {
            ToolEnd::Done => {}
            ToolEnd::Failed(failure) => {
                return Err(ManagerError {
                    message: failure.message,
                    help: failure.help.map(PackageHint::Text),
                    said: Vec::new(),
                    about: Vec::new(),
                });
            }
            ToolEnd::LimitReached(reached) => {
                return Err(failed(format!("apt reached the {reached}")));
            }
            ToolEnd::TimedOut { .. } | ToolEnd::Cancelled => {
                return Err(failed("it was stopped".to_owned()));
            }
        }
        let path = work.join(RESULT);
        let text =
            bounded::read(&path, bounded::TEXT).map_err(|error| failed(error.to_string()))?;
        match serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))? {
            ResolveOutcome::Resolved(result) => Ok(result),
            ResolveOutcome::Unknown { packages } => Err(self.unknown(&packages)),
            ResolveOutcome::Unhashed { package, source } => {
                Err(super::unusable(self.archive(&source)?, Some(&package)))
            }
            ResolveOutcome::Refused { reason } => Err(ManagerError {
                message: "these packages cannot be installed together".to_owned(),
                help: Some(
                    "see apt's explanation above: change the list, a version or a pin".into(),
                ),
                said: reason.lines().map(str::to_owned).collect(),
                about: Vec::new(),
            }),
        }
    }

    fn unknown(&self, packages: &[String]) -> ManagerError {
        let names: Vec<_> = packages
            .iter()
            .map(|package| package.split([':', '=', '/']).next().unwrap_or(package))
            .collect();
        let mut known: HashMap<&str, BTreeSet<(&str, &str)>> = HashMap::new();
        for stanza in self.archives.iter().flat_map(|archive| archive.packages()) {
            let [Some(name), Some(version), Some(machine)] =
                stanza.get_all(["Package", "Version", "Architecture"])
            else {
                continue;
            };
            let versions = known.entry(name).or_default();
            if names.contains(&name) {
                versions.insert((version, machine));
            }
        }
        let near: Vec<_> = names
            .iter()
            .filter(|name| !known.contains_key(**name))
            .filter_map(|name| suggest::nearest(name, known.keys().copied()))
            .map(|name| format!("`{name}`"))
            .collect();
        let archives: Vec<_> = self
            .archives
            .iter()
            .map(|archive| archive.source.name.as_str())
            .collect();
        let archives = archives.join(", ");
        let about = packages
            .iter()
            .map(|package| format!("install {package}"))
            .collect();
        // The name is right, and what was asked for with it is not there.
        let others: Option<Vec<_>> = packages
            .iter()
            .zip(&names)
            .map(|(package, name)| {
                Some(self.other(
                    package,
                    known.get(name).filter(|versions| !versions.is_empty())?,
                    &archives,
                ))
            })
            .collect();
        if let Some(others) = others {
            let (messages, help): (Vec<_>, Vec<_>) = others.into_iter().unzip();
            let (message, help) = (messages.join("; "), Some(help.join("; ").into()));
            return ManagerError {
                message,
                help,
                said: Vec::new(),
                about,
            };
        }
        let what = if packages.len() == 1 {
            "there is no package"
        } else {
            "there are no packages"
        };
        let gone =
            self.query.request.is_builder() && names.iter().any(|name| name.starts_with(HEADERS));
        let help = match near.as_slice() {
            _ if gone => PackageHint::Settle(
                "the archives have these only for newer kernels: update the image's kernel, in the stage \
                 that installs it"
                    .to_owned(),
            ),
            [] => "check the names; packages from other archives need `repositories` or `components`".into(),
            near => format!("did you mean {}?", near.join(", ")).into(),
        };
        let message = format!("{what} {} in {archives}", packages.join(", "));
        ManagerError {
            message,
            help: Some(help),
            said: Vec::new(),
            about,
        }
    }

    /// What is wrong with a package whose name is known, and the hint.
    fn other(
        &self,
        package: &str,
        versions: &BTreeSet<(&str, &str)>,
        archives: &str,
    ) -> (String, String) {
        let (name, wanted) =
            package.split_at(package.find([':', '=', '/']).unwrap_or(package.len()));
        let mut there: Vec<&str> = versions.iter().map(|(version, _)| *version).collect();
        there.sort_by(|a, b| version::compare(b, a));
        there.dedup();
        let newest = there.first().copied().unwrap_or_default();
        let machines: BTreeSet<&str> = versions.iter().map(|(_, machine)| *machine).collect();
        let machines = machines.into_iter().collect::<Vec<_>>().join(", ");
        if let Some(machine) = wanted.strip_prefix(':') {
            let machine = machine.split(['=', '/']).next().unwrap_or(machine);
            return (
                format!("{name} is not available for {machine} in {archives}, only for {machines}"),
                format!("omit `:{machine}`, or add the architecture to `architectures`"),
            );
        }
        if let Some(version) = wanted.strip_prefix('=') {
            let shown = there.iter().take(3).copied().collect::<Vec<_>>().join(", ");
            let more = if there.len() > 3 { ", …" } else { "" };
            return (
                format!("{name} has no version {version} in {archives}; available: {shown}{more}"),
                format!(
                    "write {name}={newest}, or omit the version: the lock pins the one that is chosen"
                ),
            );
        }
        let suite = wanted.strip_prefix('/').unwrap_or_default();
        (
            format!("{name} is not in the suite {suite}, but in {archives}"),
            format!("omit `/{suite}`, or add the archive that has it to `repositories`"),
        )
    }

    /// Rules for versions: the recipe's, and what is locked.
    fn preferences(&self, entry: &LockEntry, names: &[String]) -> String {
        let mut text = String::new();
        for pin in &self.query.request.pins {
            text += &format!(
                "Package: {}\nPin: {}\nPin-Priority: {}\n\n",
                pin.package, pin.pin, pin.priority
            );
        }
        for file in entry
            .packages
            .iter()
            .map(|package| &package.file)
            .filter(|file| !names.contains(&file.name))
        {
            text += &format!(
                "Package: {}\nPin: version {}\nPin-Priority: {LOCKED_PRIORITY}\n\n",
                file.name, file.version
            );
        }
        text
    }

    /// The user's own package files, as an archive; by name and machine.
    fn own_files(
        &self,
        dir: &Path,
        sources: &mut Vec<ResolveSource>,
        install: &mut Vec<String>,
    ) -> Result<BTreeMap<(String, String), LockPackage>, ManagerError> {
        let mut own = BTreeMap::new();
        let mut index = Vec::new();
        for path in &self.query.request.files {
            let path = path.trim_start_matches("./");
            let full = self.query.dir.join(path);
            let failed = |reason: String| failed(format!("the package file {path}: {reason}"));
            let bytes = self
                .query
                .scope
                .open_file(&full)
                .and_then(|file| bounded::read_open(file, MAX_OWN));
            let bytes = bytes.map_err(|error| failed(error.to_string()))?;
            let (size, sha256) = (bytes.len() as u64, Sha256::of(&bytes));
            let deb = Deb::read(bytes.as_slice()).map_err(|error| failed(error.to_string()))?;
            let field = |name: &str| deb.field(name).to_owned();
            let (name, version, architecture) =
                (field("Package"), field("Version"), field("Architecture"));
            install.push(format!("{name}={version}"));
            index.extend(deb.index_stanza(path, size, sha256));
            let package = LockPackage {
                file: LockedPackage {
                    name: name.clone(),
                    architecture: architecture.clone(),
                    version,
                    sha256,
                    size,
                },
                installed: deb
                    .field("Installed-Size")
                    .trim()
                    .parse()
                    .ok()
                    .filter(|said| *said <= lock::MAX_INSTALLED),
                archive: None,
                path: path.to_owned(),
            };
            if own.insert((name, architecture), package).is_some() {
                return Err(failed(
                    "another file in `files` is of the same package".to_owned(),
                ));
            }
        }
        if !own.is_empty() {
            sources.push(flat(OWN, dir, &index)?);
        }
        Ok(own)
    }

    /// What is locked and no archive has any more, as an archive of its own; by name and machine.
    fn kept(
        &self,
        entry: &LockEntry,
        names: &[String],
        dir: &Path,
        sources: &mut Vec<ResolveSource>,
    ) -> Result<BTreeMap<(String, String), LockPackage>, ManagerError> {
        let wanted: HashSet<&str> = entry
            .packages
            .iter()
            .map(|package| package.file.name.as_str())
            .collect();
        let found = find(&self.archives, &wanted);
        let mut kept = BTreeMap::new();
        let mut index = Vec::new();
        for package in entry
            .packages
            .iter()
            .filter(|package| package.archive.is_some() && !names.contains(&package.file.name))
        {
            let file = &package.file;
            if found.contains_key(&(
                file.name.as_str(),
                file.architecture.as_str(),
                file.version.as_str(),
            )) {
                continue;
            }
            // Only the store can still have it.
            let Ok(Some(blob)) = crate::debian::packages::files::find(self.apt.store, file.sha256)
            else {
                continue;
            };
            let Ok(reader) = self.apt.store.open_blob(&blob.digest) else {
                continue;
            };
            let Ok(deb) = Deb::read(reader) else { continue };
            if deb.field("Package") != file.name || deb.field("Architecture") != file.architecture {
                continue;
            }
            index.extend(deb.index_stanza(&package.path, file.size, file.sha256));
            kept.insert(
                (file.name.clone(), file.architecture.clone()),
                package.clone(),
            );
        }
        if !kept.is_empty() {
            sources.push(flat(KEPT, dir, &index)?);
        }
        Ok(kept)
    }

    /// What modules for the kernels of the disk are compiled with.
    fn headers(&self) -> Result<Vec<String>, ManagerError> {
        let machine = &self.facts.architecture;
        if machine != ARCHITECTURE {
            return Err(ManagerError {
                message: format!(
                    "the image is for {machine}, but this host compiles modules for {ARCHITECTURE}"
                ),
                help: Some(format!("build this stage on a {machine} host").into()),
                said: Vec::new(),
                about: Vec::new(),
            });
        }
        let below = DpkgState::of(&self.query.below);
        let releases: Vec<_> = below
            .matching(KERNEL)
            .filter_map(|name| name.strip_prefix(KERNEL))
            // Others are packages that only name a kernel: `6.12-amd64` is the newest of its series, `amd64` of all.
            .filter(|release| {
                release
                    .split('-')
                    .next()
                    .is_some_and(|version| version.matches('.').count() >= 2)
            })
            .filter(|release| {
                release.starts_with(|c: char| c.is_ascii_digit()) && !release.ends_with("-dbg")
            })
            .map(|release| format!("{HEADERS}{}", release.trim_end_matches("-unsigned")))
            .collect();
        if releases.is_empty() {
            return Err(ManagerError {
                message: "the image has no kernel to compile modules for".to_owned(),
                help: Some("install one in an earlier stage, such as linux-image-amd64".into()),
                said: Vec::new(),
                about: Vec::new(),
            });
        }
        Ok(releases)
    }
}

fn lay_out(
    archive: &VerifiedArchive,
    place: &str,
    dir: &Path,
) -> Result<ResolveSource, ManagerError> {
    let from = dir.join("sources").join(place);
    make(&from)?;
    write(&from.join("Release"), archive.release.text.as_bytes())?;
    let flat = archive.source.suite.ends_with('/');
    for index in &archive.indexes {
        let within = match flat {
            true => from.clone(),
            false => from
                .join(&index.component)
                .join(format!("binary-{}", index.architecture)),
        };
        make(&within)?;
        write(&within.join("Packages"), &index.text)?;
    }
    let base = archive
        .source
        .bases
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    let site = base
        .split_once("://")
        .map(|(_, rest)| rest.split('/').next().unwrap_or(rest).to_owned());
    Ok(ResolveSource {
        directory: place.to_owned(),
        site: site.filter(|site| !site.is_empty()),
        suite: archive.source.suite.clone(),
        components: archive.source.components.clone(),
        flat,
    })
}

fn flat(name: &str, dir: &Path, index: &[u8]) -> Result<ResolveSource, ManagerError> {
    let from = dir.join("sources").join(name);
    make(&from)?;
    write(&from.join("Packages"), index)?;
    Ok(ResolveSource {
        directory: name.to_owned(),
        flat: true,
        ..ResolveSource::default()
    })
}

fn make(path: &Path) -> Result<(), ManagerError> {
    fs::create_dir_all(path)
        .map_err(|error| failed(format!("cannot make {}: {error}", path.display())))
}

fn write(path: &Path, content: &[u8]) -> Result<(), ManagerError> {
    let written =
        File::create_new(path).and_then(|mut file| io::Write::write_all(&mut file, content));
    written.map_err(|error| failed(format!("cannot write {}: {error}", path.display())))
}

fn failed(message: String) -> ManagerError {
    ManagerError {
        message,
        help: None,
        said: Vec::new(),
        about: Vec::new(),
    }
}
