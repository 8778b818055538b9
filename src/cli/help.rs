//! `impasto help`: a command's or a stage kind's help, and topics that belong to no single command.
//! Knows the topics' texts; clap knows the commands.

use clap::{Args, CommandFactory};
use impasto_stages::Registry;

use super::error::CliError;
use super::session::Session;
use super::stages::Stages;
use super::{Cli, disk_names, exit};
use crate::base::table;
use crate::recipe::suggest;
use crate::ui;

#[derive(Debug, Args)]
pub(crate) struct Help {
    /// A command (with its subcommand), a stage kind or a topic
    #[arg(value_name = "CMD|KIND|TOPIC")]
    words: Vec<String>,
}

/// A text that belongs to no single command.
struct Topic {
    name: &'static str,
    summary: &'static str,
    text: fn() -> String,
}

const TOPICS: &[Topic] = &[
    Topic { name: "recipes", summary: "the blocks of a recipe", text: recipes },
    Topic { name: "selectors", summary: "how stages and images are named", text: selectors },
    Topic { name: "disks", summary: "how disks are named: files, stages, earlier runs", text: disks },
    Topic { name: "variables", summary: "where the values of variables come from", text: variables },
    Topic { name: "functions", summary: "the functions that recipes can call", text: functions },
    Topic { name: "environment", summary: "environment variables and settings files", text: environment },
    Topic { name: "exit-codes", summary: "what exit codes mean", text: exit_codes },
];

impl Help {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let mut command = Cli::command();
        command.build();
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let text = match words.as_slice() {
            [] => {
                let rows: Vec<_> =
                    TOPICS.iter().map(|topic| vec![format!("  {}", topic.name), topic.summary.to_owned()]).collect();
                format!("{}\nTopics (impasto help TOPIC):\n{}", command.render_help().ansi(), table::columns(&rows))
            }
            [first, rest @ ..] => match command.find_subcommand_mut(first) {
                Some(mut found) => {
                    for word in rest {
                        let unknown = || {
                            CliError::usage(format!("there is no command `{}`", words.join(" ")), "see `impasto help`")
                        };
                        found = found.find_subcommand_mut(word).ok_or_else(unknown)?;
                    }
                    let mut text = format!("{}", found.render_long_help().ansi());
                    if Registry::default().get(first).is_some() {
                        text += &format!("\n`impasto stages {first}` explains the stage kind of this name.\n");
                    }
                    text
                }
                None => match TOPICS.iter().find(|topic| topic.name == *first) {
                    Some(topic) => (topic.text)(),
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

fn unknown(word: &str, command: &clap::Command) -> CliError {
    let registry = Registry::default();
    let commands = command.get_subcommands().map(clap::Command::get_name);
    let kinds = registry.iter().map(|kind| kind.name);
    let names: Vec<_> = commands.chain(kinds).chain(TOPICS.iter().map(|topic| topic.name)).collect();
    let help = match suggest::nearest(word, names) {
        Some(near) => format!("did you mean `impasto help {near}`?"),
        None => "`impasto help` lists commands and topics".to_owned(),
    };
    CliError::usage(format!("there is no command, stage kind or topic `{word}`"), help)
}

fn recipes() -> String {
    "\
A recipe is one or more .hcl files in a directory (except those that end in .vars.hcl). Its blocks:

  recipe              name, source_date_epoch, cutoff, environment
  variable \"NAME\"     type, default, description, sensitive, validation
  locals              named values: local.NAME
  matrix              axes and their values: there is one stage for every combination
  stage \"KIND\" \"NAME\"  a step; a reference to another stage is a dependency
  image \"NAME\"        what is published, and under which name

`impasto init` writes one with comments, `impasto stages` lists the kinds, `impasto help functions` the functions.
"
    .to_owned()
}

fn selectors() -> String {
    "\
A selector names stages or images of a recipe:

  STAGE                     a stage, in all combinations of the matrix
  STAGE[axis=value,…]       only those with these values
  image.NAME                an image: the files that it publishes, or the disk that they are converted from
  image.NAME[axis=value,…]  only those with these values

The name of an image, or that of its files, is also a selector if no stage has that name. In most shells brackets need
quotes: impasto build 'image.web[variant=debug]'.
"
    .to_owned()
}

fn disks() -> String {
    format!("{}\n\nSee also `impasto help selectors`.\n", disk_names::HELP)
}

fn variables() -> String {
    "\
A variable takes its value from the first of these that has one:

  --var NAME=VALUE      the last one wins
  --var-file FILE       HCL, or JSON if the name ends in .json; the last file wins
  IMPASTO_VAR_NAME      in the environment
  default               in the recipe

Strings, numbers and booleans are written as they are; lists and objects as in a recipe: --var 'extra=[\"vim\"]'.
No variables file is read automatically.
"
    .to_owned()
}

fn functions() -> String {
    let rows: Vec<_> = crate::recipe::reference()
        .into_iter()
        .map(|function| vec![function.signature.to_owned(), function.help.to_owned()])
        .collect();
    table::columns(&rows)
}

fn environment() -> String {
    "\
  IMPASTO_STORE            the store's directory; --store takes precedence
  IMPASTO_VAR_NAME         the value of a variable
  IMPASTO_MIRROR           where Debian's packages come from; --mirror takes precedence
  IMPASTO_SECURITY_MIRROR  the same for the security archive, or `none`
  IMPASTO_SNAPSHOT         a snapshot archive, for packages that mirrors no longer have
  IMPASTO_LOG              logs for developers, such as impasto=debug
  NO_COLOR                 no colours

Settings are read from ~/.config/impasto/config.toml, /etc/impasto/config.toml and the repository's .impasto.toml:
`impasto config` prints the effective ones.
"
    .to_owned()
}

fn exit_codes() -> String {
    "\
  0    done
  1    the host failed (a full disk, an I/O error), or impasto itself did
  2    the command line is wrong
  3    the recipe is wrong
  4    a stage failed
  5    the store is damaged
  10   `diff` or `audit` found a difference, `outdated` something newer
  130  interrupted
"
    .to_owned()
}
