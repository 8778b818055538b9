//! `impasto gc`: deletes what no checkout of a recipe uses.
//! Knows what the user wants to be without; the store knows what needs what.

use std::time::Duration;

use clap::Args;
use impasto_stages::{parse_duration, print_duration};
use impasto_store::Store;
use impasto_store::digest::{ActionDigest, ClaimId};
use impasto_store::gc::{EXPIRE_SECS, GcOptions};
use impasto_store::refs::{Checkouts, Root};

use super::error::CliError;
use super::exit;
use super::session::Session;
use crate::base::human;
use crate::debian::packages::files;
use crate::engine::roots;
use crate::ui;

#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// How many results of each stage to keep
    #[arg(long, value_name = "N", default_value = "1")]
    keep: usize,
    /// Also keeps everything that was created or used within this time
    #[arg(long, value_name = "TIME", default_value = "0s")]
    min_age: String,
    /// Keeps nothing for recipes that were not built or used for this time [default: the setting gc.expire, else 30d]
    #[arg(long, value_name = "TIME")]
    expire: Option<String>,
    /// Also deletes the trees that disks were made from; they are rebuilt when such a disk is
    #[arg(long)]
    trees: bool,
    /// Also deletes package files and the tools unpacked from them; they are fetched again when needed
    #[arg(long)]
    packages: bool,
    /// Only shows what would be deleted
    #[arg(long)]
    dry_run: bool,
}

impl Gc {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let options = GcOptions {
            dry_run: self.dry_run,
            min_age_secs: time("--min-age", &self.min_age)?.as_secs(),
            keep: self.keep,
            expire_secs: self.expire(session)?.as_secs(),
        };
        let store = session.store()?;
        roots::adopt(&store)?;
        let (checkouts, _) = store.checkouts(options.expire_secs)?;
        let used = || checkouts.values().filter(|_| !self.packages);
        let packages = files::roots(
            &store,
            used()
                .flat_map(|checkout| &checkout.packages)
                .filter_map(|sha256| sha256.parse().ok()),
        )?;
        let trees = used()
            .flat_map(|checkout| &checkout.trees)
            .cloned()
            .collect();
        let bare = if self.trees {
            bootstraps(&store, &checkouts, self.keep)
        } else {
            Vec::new()
        };
        // What goes to the trash is gone when the rest is collected, and stays there where a build is running.
        store.collect_trees(&trees, options.min_age_secs, self.dry_run)?;
        let report = store.gc(&packages, &bare, None, options)?;
        if !report.leases.is_empty() && !self.dry_run {
            let message = format!(
                "{} still using this store; nothing more is deleted",
                builds(report.leases.len())
            );
            let help = Some("run gc again when it is done".to_owned());
            return Err(CliError::Other {
                message,
                help,
                code: exit::INTERNAL,
            });
        }
        if !self.dry_run {
            report
                .expired
                .iter()
                .try_for_each(|root| roots::forget(&store, root))?;
        }
        let verb = if self.dry_run {
            "would delete"
        } else {
            "deleted"
        };
        let mut text = format!(
            "{verb} {} objects, {}",
            report.removed.len(),
            human::bytes(report.freed_bytes)
        );
        text += &format!("; kept {} that are needed", report.kept_needed);
        if report.kept_young > 0 {
            text += &format!(
                ", {} that are younger than {}",
                report.kept_young, self.min_age
            );
        }
        if !report.expired.is_empty() {
            let recipes = match report.expired.len() {
                1 => "1 recipe that was".to_owned(),
                count => format!("{count} recipes that were"),
            };
            text += &format!(
                ", nothing for {recipes} not used for {}",
                print_duration(Duration::from_secs(options.expire_secs))
            );
        }
        if report.kept_unknown > 0 {
            text += &format!(", {} files unknown to this version", report.kept_unknown);
        }
        ui::output(&(text + "\n"))?;
        Ok(exit::OK)
    }
}

impl Gc {
    fn expire(&self, session: &Session) -> Result<Duration, CliError> {
        let setting = session
            .settings
            .gc_expire
            .as_ref()
            .map(|setting| setting.value);
        let default = setting.unwrap_or(Duration::from_secs(EXPIRE_SECS));
        self.expire
            .as_ref()
            .map_or(Ok(default), |text| time("--expire", text))
    }
}

fn time(option: &str, text: &str) -> Result<Duration, CliError> {
    let wrong = || {
        CliError::usage(
            format!("`{option} {text}` is not a valid time"),
            "write it as 90s, 15m, 1h30m or 30d",
        )
    };
    parse_duration(text).ok_or_else(wrong)
}

/// The claims of trees that disks were made of.
fn bootstraps(store: &Store, checkouts: &Checkouts, keep: usize) -> Vec<(ActionDigest, ClaimId)> {
    let claims = checkouts
        .values()
        .flat_map(|checkout| checkout.last(keep))
        .filter_map(|root| match root {
            Root::Claim(action, claim) => Some((action, claim)),
            _ => None,
        });
    // A claim that cannot be read keeps nothing, whichever it is.
    claims
        .filter(|(action, id)| {
            store
                .claim(action, id)
                .is_ok_and(|claim| claim.kind == "bootstrap")
        })
        .collect()
}

fn builds(count: usize) -> String {
    if count == 1 {
        "a build is".to_owned()
    } else {
        format!("{count} builds are")
    }
}
