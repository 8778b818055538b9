//! `impasto help`: a command's or a stage kind's help, topics that belong to no single command, and all of it as HTML.
//! Knows which words name a page; what pages say stands in this directory, and beside the code that they describe.

mod generate;
mod html;
pub(super) mod manual;
pub(super) mod markdown;
pub(super) mod page;
mod terminal;

use std::path::PathBuf;

use clap::{Args, CommandFactory, ValueEnum};
use impasto_stages::Registry;

use super::error::CliError;
use super::session::Session;
use super::stages::Stages;
use super::{Cli, exit, stages};
use crate::base::table;
use crate::recipe::{self, suggest};
use crate::ui;

#[derive(Debug, Args)]
pub(crate) struct Help {
    /// A command (with its subcommand), a stage kind or a topic
    #[arg(value_name = "CMD|KIND|TOPIC")]
    words: Vec<String>,
    /// Writes the whole reference as HTML files into a directory
    #[arg(long, value_name = "DIR", conflicts_with = "words")]
    html: Option<PathBuf>,
    /// Prints the JSON schema of what a command prints (topic json)
    #[arg(long, value_name = "WHAT", conflicts_with = "html")]
    schema: Option<Schema>,
}

/// What has a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Schema {
    /// A line of `impasto build --progress json`
    Events,
    /// `impasto stages --json`
    Stages,
}

impl Help {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        if let Some(dir) = &self.html {
            let dir = session.host.cwd.join(dir);
            html::write(&page::all(), env!("CARGO_PKG_VERSION"), &dir)
                .map_err(CliError::io("write pages into", &dir))?;
            ui::output(&format!("{}\n", dir.join("index.html").display()))?;
            return Ok(exit::OK);
        }
        if let Some(what) = self.schema {
            let schema = match what {
                Schema::Events => ui::event_schema(),
                Schema::Stages => stages::schema(),
            };
            ui::output(
                &(serde_json::to_string_pretty(&schema).expect("BUG: a schema is not JSON") + "\n"),
            )?;
            return Ok(exit::OK);
        }
        let mut command = Cli::command();
        command.build();
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let text = match words.as_slice() {
            [] => {
                let rows: Vec<_> = page::topics()
                    .map(|(name, summary)| vec![format!("  {name}"), summary.to_owned()])
                    .collect();
                format!(
                    "{}\nTopics (impasto help TOPIC):\n{}",
                    command.render_help().ansi(),
                    table::columns(&rows)
                )
            }
            ["functions", names @ ..] if !names.is_empty() => functions(names)?,
            [first, rest @ ..] => match command.find_subcommand_mut(first) {
                Some(mut found) => {
                    for word in rest {
                        let unknown = || {
                            CliError::usage(
                                format!("there is no command `{}`", words.join(" ")),
                                "see `impasto help`",
                            )
                        };
                        found = found.find_subcommand_mut(word).ok_or_else(unknown)?;
                    }
                    let mut text = format!("{}", found.render_long_help().ansi());
                    if Registry::default().get(first).is_some() {
                        text += &format!(
                            "\n`impasto stages {first}` explains the stage kind of this name.\n"
                        );
                    }
                    text
                }
                None => match page::topic(first) {
                    Some(page) => terminal::render(&format!(
                        "{}\n\n{}",
                        markdown::sentence(&page.title()),
                        page.body
                    )),
                    None if Registry::default().get(first).is_some() => {
                        return Stages::explaining(first).run(session);
                    }
                    None => return Err(unknown(first, &command)),
                },
            },
        };
        ui::output(&text)?;
        Ok(exit::OK)
    }
}

/// The help of functions by their names.
fn functions(names: &[&str]) -> Result<String, CliError> {
    let all = recipe::reference();
    let mut text = String::new();
    for name in names {
        let Some(function) = all.iter().find(|function| function.name == *name) else {
            let help = match suggest::nearest(name, all.iter().map(|function| function.name)) {
                Some(near) => format!("did you mean `impasto help functions {near}`?"),
                None => "`impasto help functions` lists them".to_owned(),
            };
            return Err(CliError::usage(
                format!("there is no function `{name}`"),
                help,
            ));
        };
        text += &generate::function(function);
    }
    Ok(terminal::render(&text))
}

fn unknown(word: &str, command: &clap::Command) -> CliError {
    let registry = Registry::default();
    let commands = command.get_subcommands().map(clap::Command::get_name);
    let kinds = registry.iter().map(|kind| kind.name);
    let names: Vec<_> = commands
        .chain(kinds)
        .chain(page::topics().map(|(name, _)| name))
        .collect();
    let help = match suggest::nearest(word, names) {
        Some(near) => format!("did you mean `impasto help {near}`?"),
        None => "`impasto help` lists commands and topics".to_owned(),
    };
    CliError::usage(
        format!("there is no command, stage kind or topic `{word}`"),
        help,
    )
}
