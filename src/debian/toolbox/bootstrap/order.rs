//! In which order packages are unpacked and configured, so that each finds what it depends on: as apt plans it.
//! Knows apt's words for its plan, not dpkg.

use std::collections::BTreeSet;
use std::path::Path;

use super::index::BootstrapIndex;
use crate::debian::toolbox::apt::{AptArchive, AptTool};
use crate::sandbox::ToolFailure;

/// The archive's name in addresses.
const ARCHIVE: &str = "packages";

/// Names of packages that one call of dpkg unpacks or configures.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Batch {
    Unpack(Vec<String>),
    Configure(Vec<String>),
}

pub(super) struct InstallOrder {
    /// The essential packages and what these need, whose order matters to nobody: they are unpacked all at once.
    pub(super) first: Vec<String>,
    pub(super) then: Vec<Batch>,
}

/// Plans the installation of all that the index has, in the directory `dir` of apt's own.
pub(super) fn plan(
    index: &BootstrapIndex,
    packages: &Path,
    dir: &Path,
    architecture: &str,
    recommends: bool,
) -> Result<InstallOrder, ToolFailure> {
    let ask = |name: &str, installed: &[String], wanted: &[&str]| {
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir).map_err(ToolFailure::io("make", &dir))?;
        let status = dir.join("status");
        std::fs::write(&status, index.status(installed)?)
            .map_err(ToolFailure::io("write", &status))?;
        let mut apt = AptTool::new(&dir, architecture, &[], recommends)?;
        let archive = AptArchive {
            site: "localhost",
            name: ARCHIVE,
            suite: None,
            components: &[],
        };
        apt.add(&archive, packages)?;
        let output = apt
            .get()
            .args(["--simulate", "install", "--"])
            .args(wanted)
            .output()?;
        if output.status.success() {
            return Ok(read(&output.stdout));
        }
        let reason = [&output.stdout, &output.stderr]
            .into_iter()
            .flat_map(|text| text.lines());
        let reason: Vec<_> = reason
            .filter(|line| line.starts_with([' ', 'E']))
            .map(str::trim)
            .collect();
        Err(ToolFailure::new(format!(
            "the packages cannot be installed together: {}",
            reason.join("; ")
        )))
    };
    let first = unpacked(&ask("first", &[], &["?essential"])?);
    let known: BTreeSet<_> = first.iter().collect();
    // All there is, each by its name: the lock has decided already.
    let wanted: Vec<_> = index
        .packages()
        .map(|package| package.name.as_str())
        .collect();
    let wanted: Vec<_> = wanted
        .into_iter()
        .filter(|name| !known.contains(&(*name).to_owned()))
        .collect();
    let then = if wanted.is_empty() {
        Vec::new()
    } else {
        ask("then", &first, &wanted)?
    };
    Ok(InstallOrder { first, then })
}

/// All that is unpacked, in this order.
pub(super) fn unpacked(batches: &[Batch]) -> Vec<String> {
    let names = batches.iter().filter_map(|batch| match batch {
        Batch::Unpack(names) => Some(names),
        Batch::Configure(_) => None,
    });
    names.flatten().cloned().collect()
}

/// Reads apt-get's simulation: lines `Inst NAME …` and `Conf NAME …`.
fn read(text: &str) -> Vec<Batch> {
    let mut batches = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let (verb, Some(name)) = (words.next(), words.next()) else {
            continue;
        };
        // Those of this machine and of all are named without it.
        let name = name.to_owned();
        match (verb, batches.last_mut()) {
            (Some("Inst"), Some(Batch::Unpack(names))) => names.push(name),
            (Some("Inst"), _) => batches.push(Batch::Unpack(vec![name])),
            (Some("Conf"), Some(Batch::Configure(names))) => names.push(name),
            (Some("Conf"), _) => batches.push(Batch::Configure(vec![name])),
            _ => {}
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_in_batches() {
        let text = "Reading package lists...\nInst b (1 x [amd64])\nInst a (2 x [all]) []\nConf a (2 x [all])\n\
                    Inst c (3 x [amd64])\nConf b (1 x [amd64])\nConf c (3 x [amd64])\n";
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>()
        };
        let batches = read(text);
        let expected = [
            Batch::Unpack(names(&["b", "a"])),
            Batch::Configure(names(&["a"])),
            Batch::Unpack(names(&["c"])),
            Batch::Configure(names(&["b", "c"])),
        ];
        assert_eq!(batches, expected);
        assert_eq!(unpacked(&batches), ["b", "a", "c"]);
    }
}
