//! Apt in the container: its configuration, and lists of packages laid where it would have put them itself.
//! Knows apt's file names and options (apt.conf(5), sources.list(5)), not what is asked of it.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::program::HostProgram;
use crate::sandbox::ToolFailure;

/// Apt with a state of its own in one directory, offline.
pub(super) struct AptTool {
    dir: PathBuf,
    sources: String,
}

pub(super) struct AptArchive<'a> {
    /// The host that pins may name.
    pub(super) site: &'a str,
    /// Its name in addresses.
    pub(super) name: &'a str,
    /// Its suite, and none where it is flat.
    pub(super) suite: Option<&'a str>,
    /// Its components, none where it is flat.
    pub(super) components: &'a [String],
}

impl AptTool {
    /// Makes the directory's parts that are missing. What installed packages there are is read from its file `status`,
    /// which are automatic from `extended_states`, pins from `preferences`; without these there are none.
    pub(super) fn new(
        dir: &Path,
        architecture: &str,
        foreign: &[String],
        recommends: bool,
    ) -> Result<AptTool, ToolFailure> {
        for part in ["lists/partial", "cache/archives/partial", "parts"] {
            let part = dir.join(part);
            fs::create_dir_all(&part).map_err(ToolFailure::io("make", &part))?;
        }
        let status = dir.join("status");
        if !status.exists() {
            fs::write(&status, "").map_err(ToolFailure::io("write", &status))?;
        }
        let architectures: String = [architecture]
            .into_iter()
            .chain(foreign.iter().map(String::as_str))
            .map(|a| format!(" \"{a}\";"))
            .collect();
        let place = dir.display();
        // Caches of what is read once cost more than they save.
        let config = format!(
            "Dir::State \"{place}\";\nDir::State::lists \"{place}/lists\";\nDir::State::status \"{place}/status\";\n\
             Dir::State::extended_states \"{place}/extended_states\";\nDir::Cache \"{place}/cache\";\n\
             Dir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\nDir::Log \"{place}\";\n\
             Dir::Etc::SourceList \"{place}/sources.list\";\nDir::Etc::SourceParts \"{place}/parts\";\n\
             Dir::Etc::Preferences \"{place}/preferences\";\nDir::Etc::PreferencesParts \"{place}/parts\";\n\
             Dir::Etc::Trusted \"/dev/null\";\nDir::Etc::TrustedParts \"{place}/parts\";\n\
             APT::Architecture \"{architecture}\";\n#clear APT::Architectures;\nAPT::Architectures {{{architectures} }};\n\
             APT::Sandbox::User \"root\";\nAPT::Install-Recommends \"{recommends}\";\nAPT::Install-Suggests \"false\";\n\
             APT::Cmd::Pattern-Only \"true\";\nAPT::Color \"0\";\nAPT::Get::Assume-Yes \"true\";\n\
             Acquire::Languages \"none\";\nAcquire::ForceHash \"SHA256\";\nDebug::NoLocking \"true\";\nquiet \"1\";\n"
        );
        let path = dir.join("apt.conf");
        fs::write(&path, config).map_err(ToolFailure::io("write", &path))?;
        Ok(AptTool {
            dir: dir.to_path_buf(),
            sources: String::new(),
        })
    }

    /// Adds an archive whose files lie in `from`: `Release`, and `COMPONENT/binary-ARCHITECTURE/Packages`, or `Packages`
    /// right there where it is flat. All of it was checked by whoever put it there.
    pub(super) fn add(&mut self, archive: &AptArchive<'_>, from: &Path) -> Result<(), ToolFailure> {
        let AptArchive {
            site,
            name,
            suite,
            components,
        } = archive;
        for word in [site, name]
            .into_iter()
            .chain(suite)
            .copied()
            .chain(components.iter().map(String::as_str))
        {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-./+_~:".contains(&byte);
            if word.is_empty()
                || !word.bytes().all(fits)
                || word.split('/').any(|part| part == "..")
            {
                return Err(ToolFailure::new(format!(
                    "{word:?} is not a valid name for apt"
                )));
            }
        }
        let base = format!("{site}/{name}/");
        let base = suite.map_or(base.clone(), |suite| format!("{base}dists/{suite}/"));
        self.link(&from.join("Release"), &format!("{base}Release"))?;
        let line = match suite {
            None => {
                self.link(&from.join("Packages"), &format!("{base}Packages"))?;
                format!("deb [trusted=yes] http://{site}/{name} /\n")
            }
            Some(suite) => {
                for component in *components {
                    let dir = from.join(component);
                    // A component without packages for these machines is not there.
                    for entry in fs::read_dir(&dir).into_iter().flatten() {
                        let entry = entry.map_err(ToolFailure::io("list", &dir))?;
                        let binary = entry.file_name();
                        let file =
                            format!("{base}{component}/{}/Packages", binary.to_string_lossy());
                        self.link(&entry.path().join("Packages"), &file)?;
                    }
                }
                format!(
                    "deb [trusted=yes] http://{site}/{name} {suite} {}\n",
                    components.join(" ")
                )
            }
        };
        self.sources += &line;
        let path = self.dir.join("sources.list");
        fs::write(&path, &self.sources).map_err(ToolFailure::io("write", &path))
    }

    /// Shows apt a file, where there is one, as fetched from `http://` and `address`.
    fn link(&self, file: &Path, address: &str) -> Result<(), ToolFailure> {
        if !file.exists() {
            return Ok(());
        }
        let link = self.dir.join("lists").join(list_name(address));
        symlink(file, &link).map_err(ToolFailure::io("link", &link))
    }

    /// `apt-get`, for arguments.
    pub(super) fn get(&self) -> HostProgram {
        HostProgram::new("apt-get")
            .env("APT_CONFIG", self.dir.join("apt.conf"))
            .env("LC_ALL", "C.UTF-8")
    }
}

/// The name of a list that came from an address (apt's `URItoFileName`).
fn list_name(address: &str) -> String {
    let mut name = String::new();
    for c in address.chars() {
        match c {
            '/' => name.push('_'),
            '_' | '~' | '=' | '!' | '@' | '#' | '$' | '%' | '^' | '&' | '*' => {
                let _ = write!(name, "%{:02x}", u32::from(c));
            }
            c => name.push(c),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_named_as_apt_names_them() {
        assert_eq!(
            list_name("deb.example.org/0/dists/a_b~c/main/binary-amd64/Packages"),
            "deb.example.org_0_dists_a%5fb%7ec_main_binary-amd64_Packages"
        );
    }
}
