//! Which packages a disk will have when a stage comes to it, as apt reads it: predicted from the lock, or read from the
//! image that the disk began with.
//! Knows dpkg's and apt's files; chooses nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use impasto_stages::package_set::PackageRequest;

use super::facts::{EXTENDED, STATUS};
use super::known::{ArchivePackage, VerifiedArchive};
use crate::deb::control::StanzaWriter;
use crate::deb::status;
use crate::lock::{BaseLayer, InstalledBase, LockEntry, LockPackage, ManagerError};

/// A package by name and machine.
type Key = (String, String);

#[derive(Default)]
pub(super) struct DpkgState {
    packages: BTreeMap<Key, DpkgPackage>,
    automatic: BTreeSet<Key>,
}

struct DpkgPackage {
    version: String,
    held: bool,
    /// Its fields, where the image told them; else they come from archives.
    stanza: Option<Vec<u8>>,
    /// Where else its fields can be read.
    file: Option<LockPackage>,
}

impl DpkgState {
    /// What stands below a stage.
    pub(super) fn of(below: &InstalledBase<'_>) -> DpkgState {
        let mut state = DpkgState::default();
        if let Some(image) = below.image {
            let empty = Vec::new();
            let automatic = status::automatic(image.get(EXTENDED).unwrap_or(&empty));
            for entry in status::entries(image.get(STATUS).unwrap_or(&empty))
                .filter(|entry| entry.is_there())
            {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let key = (text(entry.name), text(entry.architecture));
                if automatic.contains(&(entry.name, entry.architecture)) {
                    state.automatic.insert(key.clone());
                }
                let stanza = Some(entry.stanza.text().to_vec());
                let (version, held) = (text(entry.version), entry.held);
                state.packages.insert(
                    key,
                    DpkgPackage {
                        version,
                        held,
                        stanza,
                        file: None,
                    },
                );
            }
        }
        for BaseLayer { request, entry, .. } in &below.stages {
            state.apply(request, entry);
        }
        state
    }

    fn apply(&mut self, request: &PackageRequest, entry: &LockEntry) {
        for package in &entry.removed {
            let key = (package.name.clone(), package.architecture.clone());
            self.packages.remove(&key);
            self.automatic.remove(&key);
        }
        for package in &entry.packages {
            let locked = &package.file;
            let key = (locked.name.clone(), locked.architecture.clone());
            // A package may have changed between `all` and a machine.
            let known = self.packages.keys().any(|(name, _)| *name == locked.name);
            let manual = known && !self.automatic.contains(&key);
            if request.names(&locked.name) || manual {
                self.automatic.remove(&key);
            } else {
                self.automatic.insert(key.clone());
            }
            let (version, file) = (locked.version.clone(), Some(package.clone()));
            self.packages.insert(
                key,
                DpkgPackage {
                    version,
                    held: false,
                    stanza: None,
                    file,
                },
            );
        }
        self.hold(&request.hold);
    }

    /// Holds packages of these names.
    pub(super) fn hold(&mut self, names: &[String]) {
        for ((name, _), installed) in &mut self.packages {
            installed.held |= names.contains(name);
        }
    }

    /// The version of an installed package.
    pub(super) fn version(&self, name: &str, architecture: &str) -> Option<&str> {
        let key = (name.to_owned(), architecture.to_owned());
        self.packages
            .get(&key)
            .map(|installed| installed.version.as_str())
    }

    /// Names and versions of the installed packages of a pattern.
    pub(super) fn matching<'s>(&'s self, pattern: &'s str) -> impl Iterator<Item = &'s str> {
        self.packages
            .keys()
            .map(|(name, _)| name.as_str())
            .filter(move |name| name.starts_with(pattern))
    }

    /// The text of `extended_states`.
    pub(super) fn extended_states(&self) -> String {
        let stanza = |(name, machine): &Key| {
            format!("Package: {name}\nArchitecture: {machine}\nAuto-Installed: 1\n\n")
        };
        self.automatic.iter().map(stanza).collect()
    }

    /// The text of `status`. Fields of packages come from `archives`, else from `read`, which reads a package's file.
    pub(super) fn status(
        &self,
        archives: &[std::sync::Arc<VerifiedArchive>],
        read: &dyn Fn(&LockPackage) -> Result<Vec<u8>, ManagerError>,
    ) -> Result<Vec<u8>, ManagerError> {
        let needed: HashSet<&str> = self
            .packages
            .iter()
            .filter(|(_, installed)| installed.stanza.is_none())
            .map(|((name, _), _)| name.as_str())
            .collect();
        let found = find(archives, &needed);
        let mut text = StanzaWriter::new();
        for ((name, architecture), installed) in &self.packages {
            let own;
            let stanza = match (&installed.stanza, &installed.file) {
                (Some(stanza), _) => stanza.as_slice(),
                (None, Some(file)) => {
                    match found.get(&(
                        name.as_str(),
                        architecture.as_str(),
                        installed.version.as_str(),
                    )) {
                        Some(found) => found.stanza.text(),
                        None => {
                            own = read(file)?;
                            own.as_slice()
                        }
                    }
                }
                (None, None) => continue,
            };
            let Some(stanza) = crate::deb::control::Stanza::only(stanza) else {
                continue;
            };
            let want = if installed.held { "hold" } else { "install" };
            text.field("Package", name)
                .field("Status", format!("{want} ok installed"));
            let except = [
                "Package",
                "Status",
                "Filename",
                "Size",
                "SHA256",
                "MD5sum",
                "SHA1",
                "Description",
                "Description-md5",
                "Tag",
            ];
            text.fields_of(&stanza, &except);
            text.end();
        }
        Ok(text.finish())
    }
}

/// The packages of these names in archives, by name, machine and version; the first archive that has one counts.
pub(super) fn find<'a>(
    archives: &'a [std::sync::Arc<VerifiedArchive>],
    names: &HashSet<&str>,
) -> HashMap<(&'a str, &'a str, &'a str), ArchivePackage<'a>> {
    let mut found = HashMap::new();
    if names.is_empty() {
        return found;
    }
    for archive in archives {
        for stanza in archive.packages() {
            let [Some(name), Some(architecture), Some(version)] =
                stanza.get_all(["Package", "Architecture", "Version"])
            else {
                continue;
            };
            if names.contains(name) {
                found
                    .entry((name, architecture, version))
                    .or_insert(ArchivePackage { archive, stanza });
            }
        }
    }
    found
}
