//! `impasto store`: checks and measures the store.
//! Knows how findings and sizes are shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::{Args, Subcommand};
use impasto_store::meter::Meter;
use impasto_store::verify::{Code, Finding};
use serde::Serialize;

use super::error::CliError;
use super::exit;
use super::session::{Session, shown};
use crate::base::human;
use crate::base::table;
use crate::ui;

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Checks every byte of the store
    Verify(Verify),
    /// Shows how much space the store uses, and for what
    Du(Du),
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Moves damaged objects to the store's trash, so that they are rebuilt when needed, and repairs the file `format`
    /// from an intact copy; a damaged root stays, because it says that something must be kept
    #[arg(long)]
    repair: bool,
    /// Recreates the file `format` if no copy of it is left and most of the store's objects are intact
    #[arg(long, requires = "repair")]
    new_format: bool,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Du {
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct VerifyDocument {
    v: u32,
    objects: u64,
    bytes: u64,
    findings: Vec<FindingRow>,
}

#[derive(Serialize)]
struct FindingRow {
    code: &'static str,
    damage: bool,
    path: String,
    detail: String,
}

impl StoreCommand {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        match self {
            StoreCommand::Verify(command) => command.run(session),
            StoreCommand::Du(command) => command.run(session),
        }
    }
}

impl Verify {
    fn run(self, session: &Session) -> Result<u8, CliError> {
        if self.new_format {
            session.renew_store_format()?;
        }
        let store = session.store()?;
        let meter = Arc::<Meter>::default();
        let wait = ui::Wait::new(&session.host, "verify", "the store", &meter);
        let report = store.metered(meter).verify(self.repair)?;
        drop(wait);
        let rows: Vec<_> = report
            .findings
            .iter()
            .map(|finding| FindingRow {
                code: finding.code.text(),
                damage: finding.code.is_damage(),
                path: shown(&finding.path, store.path()).display().to_string(),
                detail: finding.detail.clone(),
            })
            .collect();
        let damaged = rows.iter().filter(|row| row.damage).count();
        let incomplete = rows
            .iter()
            .filter(|row| row.code == Code::Incomplete.text())
            .count();
        // A repaired `format` is there, of course.
        let stays = |finding: &&Finding| {
            let moves = finding.code.is_damage() && finding.code != Code::FormatCopyDamaged;
            moves && std::fs::symlink_metadata(&finding.path).is_ok()
        };
        let left = report.findings.iter().filter(stays).count();
        if self.json {
            let document = VerifyDocument {
                v: 1,
                objects: report.objects,
                bytes: report.bytes,
                findings: rows,
            };
            ui::output(
                &(serde_json::to_string(&document).expect("BUG: a report is not JSON") + "\n"),
            )?;
        } else {
            let table = rows
                .iter()
                .map(|row| vec![row.code.to_owned(), row.path.clone(), row.detail.clone()]);
            let table: Vec<_> = table.collect();
            let mut verdict = match damaged {
                0 => "no damage".to_owned(),
                count if self.repair => {
                    format!("{count} damaged, moved to trash/: they are rebuilt when needed")
                }
                count => {
                    format!("{count} damaged: `impasto store verify --repair` moves them to trash/")
                }
            };
            if self.repair && left > 0 {
                verdict += &format!(
                    "; {left} of them remain: remove them by hand, roots once nobody needs what they kept"
                );
            }
            if incomplete > 0 {
                verdict +=
                    &format!("; {incomplete} incomplete: what is missing is rebuilt when needed");
            }
            let (objects, bytes) = (report.objects, human::bytes(report.bytes));
            ui::output(&format!(
                "{}{objects} objects, {bytes}: {verdict}\n",
                table::columns(&table)
            ))?;
        }
        Ok(if damaged == 0 { exit::OK } else { exit::STORE })
    }
}

impl Du {
    fn run(self, session: &Session) -> Result<u8, CliError> {
        let store = session.store()?;
        let usage = store.du()?;
        let classes = [
            ("layers", usage.layers),
            ("manifests", usage.manifests),
            ("blobs", usage.blobs),
            ("claims", usage.claims),
            ("state", usage.state),
            ("debris", usage.debris),
        ];
        let total: u64 = classes.iter().map(|(_, bytes)| bytes).sum();
        if self.json {
            let classes: BTreeMap<_, _> = classes.into_iter().collect();
            let layers: BTreeMap<_, _> = usage
                .by_layer
                .iter()
                .map(|(layer, bytes)| (layer.layer.to_string(), bytes))
                .collect();
            let document =
                serde_json::json!({ "v": 1, "total": total, "classes": classes, "layers": layers });
            ui::output(&format!("{document}\n"))?;
            return Ok(exit::OK);
        }
        let mut rows: Vec<_> = classes
            .iter()
            .map(|(name, bytes)| vec![human::bytes(*bytes), (*name).to_owned()])
            .collect();
        rows.push(vec![
            human::bytes(total),
            format!("in all, in {}", store.path().display()),
        ]);
        let mut layers = usage.by_layer;
        layers.sort_by_key(|(layer, bytes)| (std::cmp::Reverse(*bytes), *layer));
        let largest = layers.iter().take(10);
        rows.extend(largest.map(|(layer, bytes)| {
            vec![
                human::bytes(*bytes),
                format!(
                    "layer {} of disk {}",
                    layer.layer.short(),
                    layer.disk.short()
                ),
            ]
        }));
        ui::output(&table::columns(&rows))?;
        Ok(exit::OK)
    }
}
