//! The pages of the reference: topics, stage kinds and commands, each as Markdown.
//! Knows where texts come from, not how they are shown.

use clap::{Command, CommandFactory};
use impasto_stages::Registry;

use super::generate;
use super::markdown::code;
use crate::cli::{Cli, stages};

/// What a page is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Topic,
    /// A stage kind.
    Kind,
    Command,
}

/// A page of the reference.
pub(crate) struct Page {
    pub(crate) subject: Subject,
    /// A topic's or a kind's name; a command as it is typed, without the program's name.
    pub(crate) name: String,
    /// What it is about, on one line.
    pub(crate) summary: String,
    /// Markdown, without the title.
    pub(crate) body: String,
}

impl Page {
    /// Its name and what it is about.
    pub(crate) fn title(&self) -> String {
        format!("{}: {}", self.name, self.summary)
    }
}

/// Each begins with the line `# NAME: SUMMARY`. Lines such as `<!-- generated: functions -->` stand for what [`generate`]
/// makes of the descriptions in the code.
static TOPICS: [&str; 22] = [
    include_str!("recipes.md"),
    include_str!("blocks.md"),
    include_str!("functions.md"),
    include_str!("variables.md"),
    include_str!("selectors.md"),
    include_str!("images.md"),
    include_str!("disks.md"),
    include_str!("builds.md"),
    include_str!("media.md"),
    include_str!("environment.md"),
    include_str!("lock.md"),
    include_str!("keys.md"),
    include_str!("failures.md"),
    include_str!("contents.md"),
    include_str!("tests.md"),
    include_str!("reproducible.md"),
    include_str!("sandbox.md"),
    include_str!("retention.md"),
    include_str!("hosts.md"),
    include_str!("ci.md"),
    include_str!("json.md"),
    include_str!("exit-codes.md"),
];

/// Names and summaries of the topics, in the order of the reference.
pub(crate) fn topics() -> impl Iterator<Item = (&'static str, &'static str)> {
    TOPICS.iter().map(|text| {
        let title = text.lines().next().and_then(|line| line.strip_prefix("# "));
        title
            .and_then(|title| title.split_once(": "))
            .expect("BUG: a topic without a title")
    })
}

/// The page of a topic.
pub(crate) fn topic(name: &str) -> Option<Page> {
    let ((name, summary), text) = topics()
        .zip(TOPICS)
        .find(|((topic, _), _)| *topic == name)?;
    let mut body = String::new();
    for line in text.lines().skip(2) {
        match line
            .strip_prefix("<!-- generated: ")
            .and_then(|rest| rest.strip_suffix(" -->"))
        {
            Some(part) => body.push_str(generate::part(part).trim_end()),
            None => body.push_str(line),
        }
        body.push('\n');
    }
    Some(Page {
        subject: Subject::Topic,
        name: name.to_owned(),
        summary: summary.to_owned(),
        body,
    })
}

/// All pages: topics, kinds, commands.
pub(crate) fn all() -> Vec<Page> {
    let topics = topics().filter_map(|(name, _)| topic(name));
    let registry = Registry::default();
    let kinds = registry.iter().map(|kind| Page {
        subject: Subject::Kind,
        name: kind.name.to_owned(),
        summary: kind.summary.to_owned(),
        body: stages::markdown(kind),
    });
    topics.chain(kinds).chain(commands()).collect()
}

/// The pages of commands: what `--help` prints.
fn commands() -> Vec<Page> {
    // As wide as where standard output is no terminal, whatever it is now.
    let mut program = Cli::command().term_width(100);
    program.build();
    let mut pages = Vec::new();
    for command in program
        .get_subcommands_mut()
        .filter(|command| !command.is_hide_set())
    {
        pages.push(command_page(command, command.get_name().to_owned()));
        let outer = command.get_name().to_owned();
        for inner in command
            .get_subcommands_mut()
            .filter(|command| !command.is_hide_set())
        {
            pages.push(command_page(inner, format!("{outer} {}", inner.get_name())));
        }
    }
    pages
}

fn command_page(command: &mut Command, name: String) -> Page {
    let summary = command
        .get_about()
        .map(ToString::to_string)
        .unwrap_or_default();
    let body = code("text", &command.render_long_help().to_string());
    Page {
        subject: Subject::Command,
        name,
        summary,
        body,
    }
}
