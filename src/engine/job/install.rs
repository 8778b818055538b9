//! What an Action that installs packages is given: exactly the locked files, and lists of what is to come of them.
//! Knows files and lists, not how they are installed.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use impasto_stages::package_set::{LockedPackage, PackageSet};
use impasto_store::sha256::Sha256;
use rayon::prelude::*;

use super::{Job, JobError, JobInput};
use crate::base::bounded;
use crate::deb::package::Package;
use crate::debian::packages::fetch::{DemandError, title};
use crate::debian::packages::files;
use crate::debian::packages::tools::{ToolsError, tools};
use crate::engine::inputs::{Input, copy_file};
use crate::sandbox::Emulator;

/// How inputs are called that are package files of the user's.
pub(super) const LOCAL: &str = "package-";

/// What a job does that needs packages which are not there yet: it counts as no work of the stage.
pub(crate) const WAITING: &str = "waiting for packages";

/// The directory with them, among the trees of a sandbox.
pub(super) const TREE: &str = "packages";

impl Job {
    /// Lays out a set's files in a new directory: packages under [`files::file_name`], an index of them, `Packages`, and
    /// the lists `install` and `remove`, each line a name, a machine and a version.
    pub(super) fn lay_out_packages(&self, set: &PackageSet, dir: &Path) -> Result<(), JobError> {
        fs::create_dir(dir).map_err(JobError::io("make", dir))?;
        let own = self.own_packages(set, dir)?;
        let rest: Vec<_> = set
            .install
            .iter()
            .filter(|package| !own.contains(&package.sha256))
            .cloned()
            .collect();
        let rest = PackageSet {
            install: rest,
            remove: Vec::new(),
        };
        let fetcher = self
            .context
            .packages
            .as_ref()
            .expect("BUG: a run without packages");
        self.meter.begin(WAITING, None);
        let blobs = fetcher
            .demand(&rest, &self.context.cancel)
            .map_err(|error| match error {
                DemandError::Package(error) => JobError::Package(error),
                DemandError::Store(error) => JobError::Store(error),
                DemandError::Cancelled => JobError::Cancelled,
            })?;
        self.meter.end();
        rest.install
            .par_iter()
            .zip(&blobs)
            .try_for_each(|(package, blob)| {
                files::write(&self.store, blob, &dir.join(files::file_name(package)))
                    .map_err(Self::missed(self.id))
            })?;
        let stanzas = set
            .install
            .par_iter()
            .map(|package| stanza(package, dir))
            .collect::<Result<Vec<_>, _>>()?;
        let line = |name: &str, architecture: &str, version: &str| {
            format!("{name} {architecture} {version}\n")
        };
        let install = set
            .install
            .iter()
            .map(|package| line(&package.name, &package.architecture, &package.version));
        let remove = set
            .remove
            .iter()
            .map(|package| line(&package.name, &package.architecture, &package.version));
        let write = |name: &str, content: &[u8]| {
            let path = dir.join(name);
            fs::write(&path, content).map_err(JobError::io("write", &path))
        };
        write("Packages", &stanzas.concat())?;
        write("install", install.collect::<String>().as_bytes())?;
        write("remove", remove.collect::<String>().as_bytes())
    }

    /// The root of the tree of tools.
    pub(super) fn tools(&self) -> Result<PathBuf, JobError> {
        let set = self
            .context
            .toolbox
            .as_ref()
            .expect("BUG: an Action with a toolbox, and no lock");
        self.meter.begin(WAITING, None);
        let fetcher = || {
            self.context
                .packages
                .clone()
                .expect("BUG: a run without packages")
        };
        tools(&self.store, set, &fetcher, &self.context.cancel).map_err(|error| match error {
            ToolsError::Fetch(DemandError::Cancelled) => JobError::Cancelled,
            other => JobError::Tools(other),
        })
    }

    /// The toolbox's program that runs those of an architecture.
    pub(super) fn emulator(&self, architecture: &str) -> Result<Emulator, JobError> {
        let tools = self.phase("get the tools", || self.tools())?;
        Ok(Emulator::of_tools(&tools, architecture)?)
    }

    /// Copies the user's own package files, and gives their SHA-256.
    fn own_packages(&self, set: &PackageSet, dir: &Path) -> Result<HashSet<Sha256>, JobError> {
        let mut own = HashSet::new();
        for (name, input) in &self.inputs {
            let JobInput::Local {
                path,
                input: Input::File(planned),
                scope,
            } = input
            else {
                continue;
            };
            if !name.starts_with(LOCAL) {
                continue;
            }
            let mut bytes = Vec::new();
            copy_file(scope, path, &mut bytes, planned.blob.digest)?;
            let sha256 = Sha256::of(&bytes);
            let Some(package) = set.install.iter().find(|package| package.sha256 == sha256) else {
                return Err(JobError::StaleFile {
                    path: path.clone(),
                    stage: self.stage.clone(),
                });
            };
            let place = dir.join(files::file_name(package));
            fs::write(&place, bytes).map_err(JobError::io("write", &place))?;
            own.insert(sha256);
        }
        Ok(own)
    }
}

/// The stanza of an index for a package file.
fn stanza(package: &LockedPackage, dir: &Path) -> Result<Vec<u8>, JobError> {
    let name = files::file_name(package);
    let path = dir.join(&name);
    let file = bounded::open(&path).map_err(JobError::io("open", &path))?;
    let wrong = |reason: String| JobError::NoPackage {
        package: title(package),
        reason,
    };
    let read = Package::read(io::BufReader::new(file)).map_err(|error| wrong(error.to_string()))?;
    let is = [
        ("Package", &package.name),
        ("Version", &package.version),
        ("Architecture", &package.architecture),
    ];
    if let Some((field, wanted)) = is
        .into_iter()
        .find(|(field, wanted)| read.field(field) != wanted.as_str())
    {
        return Err(wrong(format!(
            "its {} is {:?}, but the lock has {wanted:?}",
            field.to_lowercase(),
            read.field(field)
        )));
    }
    Ok(read.index_stanza(&format!("./{name}"), package.size, package.sha256))
}
