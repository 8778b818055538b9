//! The index of the packages that a bootstrap installs, as the lock wrote it.
//! Knows the few fields that are needed here (deb-control(5)), and dpkg's status text of packages that are installed.

use std::collections::BTreeMap;
use std::path::Path;

use crate::base::bounded;
use crate::sandbox::ToolFailure;

pub(super) struct BootstrapPackage {
    pub(super) name: String,
    /// Its file in the directory.
    pub(super) file: String,
    /// Whether every system has it.
    pub(super) essential: bool,
    /// Whether its priority is `required`.
    pub(super) required: bool,
    /// All its fields, without the line break at the end.
    stanza: String,
}

/// All packages, by name.
pub(super) struct BootstrapIndex(BTreeMap<String, BootstrapPackage>);

impl BootstrapIndex {
    /// Reads the file `Packages` of a directory.
    pub(super) fn read(dir: &Path) -> Result<BootstrapIndex, ToolFailure> {
        let path = dir.join("Packages");
        let text =
            bounded::read_text(&path, bounded::TEXT).map_err(ToolFailure::io("read", &path))?;
        let mut packages = BTreeMap::new();
        for stanza in text
            .split("\n\n")
            .map(|stanza| stanza.trim_matches('\n'))
            .filter(|stanza| !stanza.is_empty())
        {
            let field = |name: &str| {
                stanza
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            };
            let (Some(name), Some(file)) = (field("Package"), field("Filename")) else {
                return Err(ToolFailure::new(
                    "the package index has an entry without a name or file",
                ));
            };
            let file = file.trim_start_matches("./");
            if file.is_empty() || file.contains('/') || file == ".." {
                return Err(ToolFailure::new(format!(
                    "the package index has an invalid file {file:?}"
                )));
            }
            let package = BootstrapPackage {
                name: name.to_owned(),
                file: file.to_owned(),
                essential: field("Essential") == Some("yes"),
                required: field("Priority") == Some("required"),
                stanza: stanza.to_owned(),
            };
            if packages.insert(name.to_owned(), package).is_some() {
                return Err(ToolFailure::new(format!(
                    "the package index has {name} more than once"
                )));
            }
        }
        Ok(BootstrapIndex(packages))
    }

    pub(super) fn packages(&self) -> impl Iterator<Item = &BootstrapPackage> {
        self.0.values()
    }

    pub(super) fn get(&self, name: &str) -> Result<&BootstrapPackage, ToolFailure> {
        self.0
            .get(name)
            .ok_or_else(|| ToolFailure::new(format!("apt chose {name}, which is not in the index")))
    }

    /// dpkg's status text where exactly these are installed.
    pub(super) fn status<'a>(
        &self,
        names: impl IntoIterator<Item = &'a String>,
    ) -> Result<String, ToolFailure> {
        let mut text = String::new();
        for name in names {
            let stanza = &self.get(name)?.stanza;
            text += &format!("{stanza}\nStatus: install ok installed\n\n");
        }
        Ok(text)
    }
}
