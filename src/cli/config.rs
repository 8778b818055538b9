//! `impasto config`: which settings hold, and where they come from.
//! Knows how each setting is found; `crate::cli::settings` reads the files.

use std::path::PathBuf;

use clap::Args;
use impasto_stages::print_duration;
use serde_json::{Value, json};

use super::error::CliError;
use super::exit;
use super::session::Session;
use crate::cli::settings::{Setting, SettingOrigin};
use crate::ui;

#[derive(Debug, Args)]
pub(crate) struct Config {
    /// The recipe whose repository may have settings of its own
    #[arg(value_name = "RECIPE", default_value = ".")]
    recipe: PathBuf,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// What holds, ready to be printed.
struct SettingRow {
    key: &'static str,
    value: Value,
    origin: SettingOrigin,
}

impl Config {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let path = session.host.cwd.join(&self.recipe);
        let scope = session.scope_of(&path)?;
        let mut settings = session.settings.clone();
        settings.add_repository(scope.repository(), &session.host)?;
        let store = session.store_setting();
        let jobs = settings.jobs.clone();
        let jobs = jobs.unwrap_or(Setting {
            value: session.default_jobs(),
            origin: SettingOrigin::Default,
        });
        let mut rows: Vec<SettingRow> = settings
            .allow_paths
            .iter()
            .map(|Setting { value, origin }| SettingRow {
                key: "allow_paths",
                value: json!(value.display().to_string()),
                origin: origin.clone(),
            })
            .collect();
        if let Some(Setting { value, origin }) = settings.gc_expire {
            rows.push(SettingRow {
                key: "gc.expire",
                value: json!(print_duration(value)),
                origin,
            });
        }
        rows.push(SettingRow {
            key: "jobs",
            value: json!(jobs.value),
            origin: jobs.origin,
        });
        rows.push(SettingRow {
            key: "store",
            value: json!(store.value.display().to_string()),
            origin: store.origin,
        });
        if self.json {
            let rows: Vec<_> = rows
                .iter()
                .map(|row| json!({ "key": row.key, "value": row.value, "origin": row.origin.to_string() }))
                .collect();
            let files: Vec<_> = settings
                .files
                .iter()
                .map(|(path, is_there)| json!({ "path": path.display().to_string(), "exists": is_there }))
                .collect();
            let repository = scope.repository().display().to_string();
            ui::output(&format!(
                "{}\n",
                json!({ "settings": rows, "files": files, "repository": repository })
            ))?;
            return Ok(exit::OK);
        }
        let mut text = String::new();
        let shown = |value: &Value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        };
        let width = rows
            .iter()
            .map(|row| shown(&row.value).chars().count())
            .max()
            .unwrap_or(0);
        for row in &rows {
            text += &format!(
                "{:<11}  {:<width$}  {}\n",
                row.key,
                shown(&row.value),
                row.origin
            );
        }
        text += "\nfiles, in order of precedence:\n";
        for (path, is_there) in &settings.files {
            text += &format!(
                "  {}{}\n",
                path.display(),
                if *is_there { "" } else { " (does not exist)" }
            );
        }
        ui::output(&text)?;
        Ok(exit::OK)
    }
}
