//! Why a command could not do its work, its exit code, and how it is shown.
//! Knows no command.

use std::path::Path;

use super::{exit, hint};
use crate::base::host::Host;
use crate::base::human;
use crate::base::io::IoError;
use crate::cli::settings::ConfigError;
use crate::engine::cause;
use crate::engine::graph::SelectorError;
use crate::engine::locking::RenewError;
use crate::engine::plan::PlanError;
use crate::engine::run::EngineError;
use crate::lock::LockError;
use crate::recipe::{Diagnostics, Severity};
use crate::ui::{self, Level, Service};

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The arguments make no sense.
    #[error("{message}")]
    Usage {
        message: String,
        help: Option<String>,
    },
    /// The recipe is wrong; each problem shows itself.
    #[error("the recipe has errors")]
    Recipe(Box<Diagnostics>),
    /// A selector names nothing.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// The plan could not be made.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The run could not go on.
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Store(#[from] impasto_store::Error),
    /// The lock cannot be used.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The lock cannot be renewed.
    #[error(transparent)]
    Renew(RenewError),
    /// What the command has to say cannot be written.
    #[error(transparent)]
    Output(#[from] ui::OutputError),
    /// A file of settings cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Sandbox(#[from] crate::sandbox::SandboxError),
    /// A virtual machine failed.
    #[error(transparent)]
    Vm(#[from] crate::vm::VmError),
    /// A disk cannot be read, or is not what its tree index says.
    #[error("cannot read {label}")]
    Disk {
        label: String,
        source: crate::disk::guest::ext4::ReadError,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Something else, with its exit code.
    #[error("{message}")]
    Other {
        message: String,
        help: Option<String>,
        code: u8,
    },
}

impl From<RenewError> for CliError {
    fn from(error: RenewError) -> Self {
        match error {
            RenewError::Lock(error) => CliError::Lock(error),
            RenewError::Mirror { .. } => CliError::usage(
                error.to_string(),
                "choose another with --mirror or IMPASTO_MIRROR",
            ),
            other => CliError::Renew(other),
        }
    }
}

impl CliError {
    pub(crate) fn usage(message: impl Into<String>, help: impl Into<String>) -> Self {
        CliError::Usage {
            message: message.into(),
            help: Some(help.into()),
        }
    }

    pub(crate) fn io(
        verb: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        IoError::at(verb, path)
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            CliError::Usage { .. } | CliError::Selector(_) | CliError::Config(_) => exit::USAGE,
            CliError::Recipe(_) => exit::RECIPE,
            CliError::Plan(error) | CliError::Engine(EngineError::Plan(error)) => match error {
                PlanError::Input { .. } => exit::RECIPE,
                PlanError::Kind { .. } | PlanError::NoFile { .. } | PlanError::Expand { .. } => {
                    exit::STAGE
                }
                PlanError::Store(error) => store_code(error),
            },
            CliError::Store(error) => store_code(error),
            CliError::Vm(crate::vm::VmError::TooSmall { .. }) => exit::USAGE,
            CliError::Lock(LockError::Syntax { .. }) => exit::RECIPE,
            CliError::Renew(RenewError::Interrupted) => exit::INTERRUPTED,
            CliError::Renew(RenewError::Store(error)) => store_code(error),
            CliError::Renew(_) => exit::STAGE,
            CliError::Lock(_)
            | CliError::Sandbox(_)
            | CliError::Vm(_)
            | CliError::Disk { .. }
            | CliError::Output(_)
            | CliError::Io(_) => exit::INTERNAL,
            CliError::Other { code, .. } => *code,
        }
    }

    pub(super) fn help(&self) -> Option<String> {
        match self {
            CliError::Usage { help, .. } | CliError::Other { help, .. } => help.clone(),
            CliError::Selector(error) => hint::selector_help(error),
            CliError::Store(error)
            | CliError::Plan(PlanError::Store(error))
            | CliError::Engine(EngineError::Plan(PlanError::Store(error))) => hint::store_help(error),
            CliError::Plan(PlanError::Input { source, .. })
            | CliError::Engine(EngineError::Plan(PlanError::Input { source, .. })) => source.help(),
            CliError::Plan(error) | CliError::Engine(EngineError::Plan(error)) => error.help(),
            CliError::Sandbox(error) => hint::sandbox_help(error),
            CliError::Lock(LockError::Syntax { path, .. }) => Some(format!(
                "restore the last good one, or remove it and lock again: rm {}; impasto update",
                path.display()
            )),
            CliError::Lock(LockError::Link { path }) => {
                Some(format!("the lock must be a regular file beside its recipe: rm {}; impasto update", path.display()))
            }
            CliError::Renew(RenewError::Manager { source, .. }) => source.help.as_ref().map(hint::package_help),
            CliError::Renew(RenewError::Source { source, .. }) => hint::source_help(source),
            CliError::Renew(RenewError::Store(error)) => hint::store_help(error),
            CliError::Renew(RenewError::Unusable { .. }) => Some(
                "this comes from the archive: choose another version or another archive, or report it to its maintainer"
                    .to_owned(),
            ),
            CliError::Renew(RenewError::Below { stage, below }) => {
                Some(format!("lock both: impasto update {below} {stage}"))
            }
            CliError::Config(ConfigError::Wrong { help, .. }) => help.clone(),
            CliError::Vm(error) => hint::vm_help(error),
            CliError::Output(_) => None,
            error => hint::host_help(error),
        }
    }

    /// Writes the error to standard error, and for a CI service where in which file it is.
    pub(crate) fn show(&self, host: &Host) {
        ui::message(&self.render(host));
        if let CliError::Recipe(diagnostics) = self {
            annotate(diagnostics, host);
        } else if let Some(service) = Service::of(host) {
            let annotation = service.annotation(Level::Error, "", None, &human::with_causes(self));
            annotation.iter().for_each(|text| ui::commands(text));
        }
    }

    /// The message where nothing is known of the host.
    pub(crate) fn render_plain(&self) -> String {
        let help = self
            .help()
            .map_or(String::new(), |help| format!("\n  help: {help}"));
        format!("error: {self}{help}")
    }

    /// What is wrong with the host, where that is it.
    fn host_cause(&self) -> Option<cause::Cause> {
        match self {
            CliError::Store(error)
            | CliError::Plan(PlanError::Store(error))
            | CliError::Engine(EngineError::Plan(PlanError::Store(error))) => {
                cause::of_error(error)
            }
            CliError::Sandbox(error) => cause::of_error(error),
            // Where standard output goes is not known.
            CliError::Output(_) => None,
            error => cause::of_error(error),
        }
    }

    /// The message with its causes and the hint, as it goes to standard error.
    pub(crate) fn render(&self, host: &Host) -> String {
        if let CliError::Recipe(diagnostics) = self {
            // Names of files as the user would write them here.
            let here = format!("{}/", host.cwd.display());
            return diagnostics
                .render(host.colour())
                .replace(&here, "")
                .trim_end()
                .to_owned();
        }
        let bold = anstyle::AnsiColor::Red.on_default().bold();
        let note = anstyle::AnsiColor::Yellow.on_default();
        let mut text = format!("{bold}error:{bold:#} {self}");
        if let CliError::Renew(RenewError::Manager { source, .. }) = self {
            source
                .said
                .iter()
                .for_each(|line| text += &format!("\n  | {line}"));
        }
        for cause in human::causes(self) {
            text += &format!("\n  caused by: {cause}");
        }
        if let Some(cause) = self.host_cause() {
            text += &format!("\n  caused by: {cause}");
        }
        for line in self.help().iter().flat_map(|help| help.lines()) {
            text += &format!("\n  {note}help:{note:#} {line}");
        }
        text
    }
}

/// Tells a CI service where in which file something is wrong.
pub(super) fn annotate(diagnostics: &Diagnostics, host: &Host) {
    let Some(service) = Service::of(host) else {
        return;
    };
    for diagnostic in &diagnostics.list {
        let level = match diagnostic.severity {
            Severity::Error => Level::Error,
            Severity::Warning => Level::Warning,
        };
        let place = diagnostic.primary.as_ref().and_then(|label| {
            let text = diagnostics.sources.get(label.span.file)?;
            ui::ci_place(
                &text.name,
                diagnostics.sources.position(label.span).0,
                &host.cwd,
            )
        });
        let more = diagnostic
            .notes
            .iter()
            .chain(&diagnostic.help)
            .map(|text| format!("\n{text}"));
        let message = format!("{}{}", diagnostic.message, more.collect::<String>());
        service
            .annotation(level, "", place.as_ref(), &message)
            .iter()
            .for_each(|text| ui::commands(text));
    }
}

fn store_code(error: &impasto_store::Error) -> u8 {
    if error.is_store_damage() {
        exit::STORE
    } else {
        exit::INTERNAL
    }
}
