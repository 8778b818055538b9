//! `impasto gc`: deletes what no recent build uses.
//! Knows which results are recent; the store knows what they need.

use std::collections::BTreeSet;

use clap::Args;
use impasto_stages::parse_duration;
use impasto_store::gc::GcOptions;
use impasto_store::refs::Root;

use super::error::CliError;
use super::exit;
use super::session::Session;
use crate::memory::{self, UsedPackages};
use crate::packages::files;
use crate::ui;

#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// How many results of every stage to keep
    #[arg(long, value_name = "N", default_value = "1")]
    keep: usize,
    /// Keeps everything that was made or used within this time
    #[arg(long, value_name = "TIME", default_value = "1h")]
    min_age: String,
    /// Deletes also the trees that disks were made of; they are made again when such a disk must be
    #[arg(long)]
    trees: bool,
    /// Deletes also package files and the tools out of them; they are fetched again when they are needed
    #[arg(long)]
    packages: bool,
    /// Only says what would be deleted
    #[arg(long)]
    dry_run: bool,
}

impl Gc {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let Some(min_age) = parse_duration(&self.min_age) else {
            let message = format!("`--min-age {}` is no time", self.min_age);
            return Err(CliError::usage(message, "write it as 90s, 15m or 1h30m"));
        };
        let store = session.store()?;
        let mut keep = BTreeSet::new();
        for memory in memory::all(&store)? {
            let memory = memory.map_err(|name| CliError::Other {
                message: format!("what state/{name} remembers cannot be read: what to keep is not known"),
                help: Some("build that recipe once, which remembers anew, and collect then".to_owned()),
                code: exit::INTERNAL,
            })?;
            for node in memory.nodes.values() {
                keep.extend(node.runs().take(self.keep));
            }
        }
        let (mut whole, mut bare) = (Vec::new(), Vec::new());
        for (action, claim) in keep {
            // A claim that cannot be read keeps nothing, whichever it is.
            let is_tree = self.trees && store.claim(&action, &claim).is_ok_and(|claim| claim.kind == "bootstrap");
            if is_tree { bare.push((action, claim)) } else { whole.push(Root::Claim(action, claim)) }
        }
        let used = if self.packages { UsedPackages::default() } else { memory::used_packages(&store)? };
        whole.extend(files::roots(&store, used.files.iter().map(String::as_str))?);
        // What goes to the trash is gone when the rest is collected, and stays there where a build is running.
        store.collect_trees(&used.trees, min_age.as_secs(), self.dry_run)?;
        let options = GcOptions { dry_run: self.dry_run, min_age_secs: min_age.as_secs() };
        let report = store.gc(&whole, &bare, None, options)?;
        if !report.leases.is_empty() && !self.dry_run {
            let message =
                format!("{} still running on this store; nothing more is deleted", builds(report.leases.len()));
            let help = Some("collect when it is done".to_owned());
            return Err(CliError::Other { message, help, code: exit::INTERNAL });
        }
        let verb = if self.dry_run { "would delete" } else { "deleted" };
        let mut text = format!("{verb} {} objects, {}", report.removed.len(), ui::bytes(report.freed_bytes));
        text += &format!("; kept {} that are needed", report.kept_needed);
        if report.kept_young > 0 {
            text += &format!(", {} that are younger than {}", report.kept_young, self.min_age);
        }
        if report.kept_unknown > 0 {
            text += &format!(", {} files that this version does not know", report.kept_unknown);
        }
        ui::output(&(text + "\n"));
        Ok(exit::OK)
    }
}

fn builds(count: usize) -> String {
    if count == 1 { "a build is".to_owned() } else { format!("{count} builds are") }
}
