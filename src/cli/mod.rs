//! The command line: arguments, what commands share, exit codes and hints. One file per command.
//! Knows the library's API only.

mod audit;
mod blame;
mod boot;
mod build;
mod complete;
mod config;
mod diff;
mod disk_names;
mod disk_trees;
mod doctor;
mod error;
mod explain;
mod fetch;
mod gc;
mod graph;
mod help;
mod hint;
mod init;
mod layer;
mod locking;
mod log;
mod man;
mod outdated;
mod packages;
mod plan;
mod recipe;
mod record;
mod root;
mod session;
pub mod settings;
mod shell;
mod stages;
mod store;
mod test;
mod update;
mod version;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Instant;

use clap::builder::PossibleValue;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;

use crate::base::host::Host;
use crate::base::human;
use crate::base::interrupt::{self, Interrupt};
use crate::cli::settings::Settings;
use crate::sandbox::{GuestEnvironment, SandboxKind};
use crate::ui;

use error::CliError;

pub use complete::complete;

/// Builds disk images in layers: every stage is cached, only dirty stages run again.
#[derive(Debug, Parser)]
#[command(name = "impasto", version = version::line(), propagate_version = true, disable_help_subcommand = true)]
#[command(after_help = "\
RECIPE is a directory or an .hcl file; the default is the current directory.
SELECTOR is STAGE or image.NAME, with an optional [axis=value,…].
`impasto help TOPIC` explains selectors, variables and more.

To start: `impasto init`, then `impasto build`.")]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The store's directory [default: impasto in the user's cache directory]
    #[arg(long, global = true, value_name = "DIR")]
    store: Option<PathBuf>,
    /// How to report progress
    #[arg(long, global = true, value_name = "HOW", default_value = "auto")]
    progress: ProgressMode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// live on a terminal, else plain
    Auto,
    /// What is running now, redrawn in place; plain if standard error is not a terminal
    Live,
    /// Lines of text on standard error
    Plain,
    /// One JSON object per line on standard output
    Json,
}

impl ProgressMode {
    pub(crate) fn is_json(self) -> bool {
        self == ProgressMode::Json
    }
}

/// What names a recipe and its inputs.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RecipeArgs {
    /// A recipe (a path that exists, contains a `/` or ends in .hcl), then selectors
    #[arg(value_name = "RECIPE|SELECTOR", add = ArgValueCompleter::new(complete::names))]
    names: Vec<OsString>,
    /// The recipe, regardless of its name
    #[arg(long, value_name = "PATH")]
    recipe: Option<PathBuf>,
    /// Sets a variable
    #[arg(long = "var", value_name = "NAME=VALUE")]
    vars: Vec<String>,
    /// Sets variables from a file (HCL, or JSON if it ends in .json)
    #[arg(long = "var-file", value_name = "FILE")]
    var_files: Vec<PathBuf>,
    /// Selects combinations of the matrix
    #[arg(long, value_name = "AXIS=VALUE[,VALUE…]")]
    only: Vec<String>,
    /// Lets the recipe read this directory in addition to its repository
    #[arg(long = "allow-path", value_name = "DIR")]
    allow_paths: Vec<PathBuf>,
    /// Which checks of tests are made; all where there are none.
    #[arg(skip)]
    tags: Vec<String>,
}

/// Where and how stages run.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RunArgs {
    /// Where to write the images' files
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// How many stages may run at once [default: the setting `jobs`, else the number of CPUs]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Which sandbox to use
    #[arg(long, value_name = "KIND", default_value = "auto")]
    sandbox: SandboxChoice,
    /// Where Debian's packages come from: http://…, https://…, file:/… or copy:/… [default: IMPASTO_MIRROR, else the mirrors of the host's apt]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// After a failure, goes on with stages that do not depend on the failed one
    #[arg(long, short)]
    keep_going: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum SandboxChoice {
    #[default]
    Auto,
    Kind(SandboxKind),
}

/// Derived it would name every sandbox once more.
impl ValueEnum for SandboxChoice {
    fn value_variants<'a>() -> &'a [Self] {
        static ALL: LazyLock<Vec<SandboxChoice>> = LazyLock::new(|| {
            let kinds = SandboxKind::ALL.map(SandboxChoice::Kind);
            std::iter::once(SandboxChoice::Auto).chain(kinds).collect()
        });
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            SandboxChoice::Auto => PossibleValue::new("auto").help("The best one that works here"),
            SandboxChoice::Kind(kind) => PossibleValue::new(kind.name()).help(kind.summary()),
        })
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes a starter recipe
    Init(init::Init),
    /// Builds images or stages, running only what is dirty
    Build(build::Build),
    /// Runs the tests of images that have not passed yet
    Test(test::Test),
    /// Shows what a build would run, and why
    Plan(plan::Plan),
    /// Builds a second time in a varied environment, and reports what differs
    Audit(audit::Audit),
    /// Resolves packages again and updates the lock
    Update(update::Update),
    /// Shows which locked packages have newer versions
    Outdated(outdated::Outdated),
    /// Downloads everything that a build needs into the store
    Fetch(fetch::Fetch),
    /// Explains why stages are dirty or cached
    Why(explain::Why),
    /// Prints the graph of stages
    Graph(graph::GraphArgs),
    /// Prints the log of a stage's last run
    Log(log::Log),
    /// Lists the stage kinds, or explains one
    Stages(stages::Stages),
    /// Checks a recipe without building anything
    Validate(recipe::Validate),
    /// Formats recipes
    Fmt(recipe::Fmt),
    /// Opens a shell in a stage's disk, or in a failed stage as it failed
    Shell(shell::Shell),
    /// Boots an image in a virtual machine
    Boot(boot::Boot),
    /// Shows what differs between two disks
    Diff(diff::Diff),
    /// Lists, shows and exports layers and what is in them
    #[command(subcommand)]
    Layer(layer::LayerCommand),
    /// Checks and measures the store
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Deletes what no recipe uses
    Gc(gc::Gc),
    /// Prints the effective settings and where they come from
    Config(config::Config),
    /// Checks what this host can do
    Doctor(doctor::Doctor),
    /// Explains a command, a stage kind or a topic
    Help(help::Help),
    /// Prints shell completions, which include the stages of recipes
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Writes the manual pages
    #[command(hide = true)]
    ManPages(man::ManPages),
}

const COMPLETIONS_HELP: &str = "\
If impasto was installed by its Makefile or as a package, they are already in place. Otherwise, for
  bash: source <(impasto completions bash)
  zsh:  source <(impasto completions zsh)
  fish: impasto completions fish | source
in the shell's startup file (~/.bashrc, ~/.zshrc, ~/.config/fish/config.fish).";

/// Exit codes: an interface that scripts rely on. `impasto help exit-codes` lists them.
pub(crate) mod exit {
    pub(crate) const OK: u8 = 0;
    pub(crate) const INTERNAL: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    pub(crate) const RECIPE: u8 = 3;
    pub(crate) const STAGE: u8 = 4;
    pub(crate) const STORE: u8 = 5;
    /// `diff` and `audit` found differences.
    pub(crate) const DIFFERENT: u8 = 10;
    pub(crate) const INTERRUPTED: u8 = super::interrupt::EXIT_CODE;

    /// All of them, and what they mean.
    pub(crate) const ALL: [(u8, &str); 8] = [
        (OK, "Done."),
        (
            INTERNAL,
            "The host failed (a full disk, an I/O error), or impasto itself did.",
        ),
        (USAGE, "The command line is wrong."),
        (RECIPE, "The recipe is wrong, or its lock."),
        (STAGE, "A stage failed."),
        (STORE, "The store is damaged."),
        (
            DIFFERENT,
            "`impasto diff` or `impasto audit` found a difference, or `impasto outdated` something newer.",
        ),
        (
            INTERRUPTED,
            "Interrupted while something ran. What has nothing to end in order dies of the signal instead.",
        ),
    ];
}

/// Leaves a value to the end of the process, which is near: giving back the memory of 10,000 nodes, or of two trees of
/// files, piece by piece would take a tenth of a plan's time.
fn leave_to_exit<T>(value: T) {
    std::mem::forget(value);
}

/// Runs the command that the arguments name and gives the exit code.
pub fn main(arguments: impl Iterator<Item = OsString>, start: Instant, interrupt: Interrupt) -> u8 {
    let arguments: Vec<_> = arguments.collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors, and go to standard output.
            let printed = error.print();
            if error.use_stderr() {
                return exit::USAGE;
            }
            if let Err(error) = ui::OutputError::check(printed) {
                ui::message(&format!("error: {}", human::with_causes(&error)));
                return exit::INTERNAL;
            }
            return exit::OK;
        }
    };
    let host = match Host::read() {
        Ok(host) => host,
        Err(error) => {
            let error = CliError::Other {
                message: error.to_string(),
                help: error.help(),
                code: exit::INTERNAL,
            };
            ui::message(&error.render_plain());
            return exit::INTERNAL;
        }
    };
    start_developer_log(&host);
    let settings = match Settings::read(&host) {
        Ok(settings) => settings,
        Err(error) => {
            let error = CliError::from(error);
            error.show(&host);
            return error.exit_code();
        }
    };
    let environment = GuestEnvironment::default();
    let arguments = arguments
        .iter()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let global = cli.global;
    let mut session = session::Session {
        host,
        global,
        start,
        settings,
        environment,
        interrupt,
        arguments,
    };
    let outcome = match cli.command {
        Command::Init(command) => command.run(&session),
        Command::Build(command) => command.run(&session),
        Command::Test(command) => command.run(&session),
        Command::Plan(command) => command.run(&session),
        Command::Audit(command) => command.run(&mut session),
        Command::Update(command) => command.run(&session),
        Command::Outdated(command) => command.run(&session),
        Command::Fetch(command) => command.run(&session),
        Command::Why(command) => command.run(&session),
        Command::Graph(command) => command.run(&session),
        Command::Log(command) => command.run(&session),
        Command::Stages(command) => command.run(&session),
        Command::Validate(command) => command.run(&session),
        Command::Fmt(command) => command.run(&session),
        Command::Shell(command) => command.run(&session),
        Command::Boot(command) => command.run(&session),
        Command::Diff(command) => command.run(&session),
        Command::Layer(command) => command.run(&session),
        Command::Store(command) => command.run(&session),
        Command::Gc(command) => command.run(&session),
        Command::Config(command) => command.run(&session),
        Command::Doctor(command) => command.run(&session),
        Command::Help(command) => command.run(&session),
        Command::Completions { shell } => {
            let script = complete::script(shell).expect("BUG: a vector takes every byte");
            ui::output(&String::from_utf8_lossy(&script))
                .map(|()| exit::OK)
                .map_err(CliError::from)
        }
        Command::ManPages(command) => command.run(),
    };
    outcome.unwrap_or_else(|error| {
        // What an interrupted command has to say is that it was interrupted.
        if session.interrupt.is_interrupted() {
            return exit::INTERRUPTED;
        }
        error.show(&session.host);
        error.exit_code()
    })
}

/// Developer logs, where `IMPASTO_LOG` asks for them: users get events.
fn start_developer_log(host: &Host) {
    let Some(filter) = host.var("IMPASTO_LOG").filter(|filter| !filter.is_empty()) else {
        return;
    };
    let filter = tracing_subscriber::EnvFilter::builder().parse_lossy(filter);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}
