//! What a run of benchmarks came to: kept as it comes, and put into `benches/README.md`.
//! Knows rows and the commit they belong to; a table never holds rows of two commits.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::measure::{self, Row};
use crate::site;

/// All rows of one commit on one machine.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    /// As `git describe` names it, with `-dirty` where files were changed.
    commit: String,
    cpus: usize,
    /// Name on the command line, the load when it began (proc(5)), and what was measured.
    groups: Vec<(String, String, Vec<Row>)>,
}

/// Where the table is.
const PAGE: &str = "benches/README.md";
const BEGIN: &str = "<!-- measured by `make bench` -->\n";
const END: &str = "<!-- end of what was measured -->\n";

impl Results {
    /// Those of this commit so far; none where the last ones are another commit's.
    pub(crate) fn open() -> Results {
        let output = site::program("git")
            .args(["describe", "--always", "--dirty"])
            .output();
        let commit = output.map_or(String::new(), |output| {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        });
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let known = std::fs::read(file())
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Results>(&bytes).ok());
        let same = known.filter(|known| known.commit == commit && known.cpus == cpus);
        same.unwrap_or(Results {
            commit,
            cpus,
            groups: Vec::new(),
        })
    }

    /// Keeps what was measured, at once.
    pub(crate) fn add(&mut self, name: &str, load: &str, rows: &[Row]) {
        self.groups.retain(|(known, ..)| known != name);
        self.groups
            .push((name.to_owned(), load.to_owned(), rows.to_vec()));
        let text = serde_json::to_string_pretty(self).expect("JSON");
        std::fs::write(file(), text).expect("target/bench can be written");
    }

    /// What the page says of it.
    fn text(&self) -> String {
        let rows: Vec<Row> = self
            .groups
            .iter()
            .flat_map(|(.., rows)| rows.clone())
            .collect();
        let loads: Vec<_> = self
            .groups
            .iter()
            .map(|(name, load, _)| format!("{name} {load}"))
            .collect();
        format!(
            "Medians at commit {} on {} CPUs, each peer in the same run. Load average at the start of each group: {}.\n\n{}",
            self.commit,
            self.cpus,
            loads.join(", "),
            measure::table(&rows)
        )
    }

    /// Puts the table into the page, in the place of the one there. All rows must have been measured.
    pub(crate) fn write_readme(&self, names: &[&str]) -> Result<(), String> {
        let missing: Vec<_> = names
            .iter()
            .filter(|name| self.groups.iter().all(|(known, ..)| known != *name))
            .copied()
            .collect();
        if !missing.is_empty() {
            return Err(format!(
                "not measured at {} yet: benches/run.sh {}",
                self.commit,
                missing.join(" ")
            ));
        }
        let page = std::fs::read_to_string(PAGE).map_err(|error| format!("{PAGE}: {error}"))?;
        let (before, rest) = page
            .split_once(BEGIN)
            .ok_or(format!("{PAGE} has no place for a table"))?;
        let (_, after) = rest
            .split_once(END)
            .ok_or(format!("{PAGE} has no end of a table"))?;
        let text = format!("{before}{BEGIN}{}{END}{after}", self.text());
        std::fs::write(PAGE, text).map_err(|error| format!("{PAGE}: {error}"))
    }
}

fn file() -> PathBuf {
    site::dir().join("results.json")
}
