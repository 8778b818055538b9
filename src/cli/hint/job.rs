//! What to do about a stage that failed, and the engine's warnings, in the words of our commands.
//! Knows errors' fields; decides no exit code.

use std::path::Path;

use impasto_store::Error as StoreError;

use super::cause::cause_help;
use crate::base::human::with_causes;
use crate::debian::packages::fetch::DemandError;
use crate::debian::packages::tools::ToolsError;
use crate::engine::cause::{self, About};
use crate::engine::failed::AGAIN;
use crate::engine::hints::Hints;
use crate::engine::job::{Enter, JobError};
use crate::engine::plan::no_file_help;
use crate::net::DownloadCause;
use crate::source::archive::ArchiveTreeError;

/// The engine's hints in the words of our commands.
pub(crate) struct CommandHints {
    /// What a command needs beside its name and a selector, with a blank before each.
    pub(crate) args: String,
}

impl Hints for CommandHints {
    fn job(&self, error: &JobError, label: &str, about: &About) -> Option<String> {
        job_help(error, label, about, &self.args)
    }

    fn not_kept(&self, error: &StoreError) -> String {
        let mut text = format!(
            "what this build uses cannot be protected from `impasto gc`: {}",
            with_causes(error)
        );
        if let Some(cause) = cause::of_error(error) {
            text += &format!("\n          caused by: {cause}");
            for line in cause_help(&cause, &About::default(), "") {
                text += &format!("\n          help: {line}");
            }
        }
        text
    }

    fn root_damaged(&self, path: &Path) -> String {
        format!(
            "{} is damaged: `impasto gc` refuses until the whole recipe is built",
            path.display()
        )
    }
}

/// What to do about a job's error. `about` is the stage, called `label`; `args` is what commands need beside their name and
/// a selector, with a blank before each.
pub(crate) fn job_help(error: &JobError, label: &str, about: &About, args: &str) -> Option<String> {
    match error {
        JobError::Stage(failure) => {
            let mut lines: Vec<String> = failure.help.iter().cloned().collect();
            lines.extend(
                failure
                    .cause
                    .iter()
                    .flat_map(|cause| cause_help(cause, about, args)),
            );
            lines.push(format!("full log: impasto log '{label}'{args}"));
            let shell = format!("impasto shell '{label}'{args}");
            match failure.shell {
                Enter::Never => {}
                Enter::AsItFailed => {
                    lines.push(format!(
                        "inspect it as it failed, where {AGAIN} runs the step again: {shell}"
                    ));
                }
                Enter::AsItBegan => {
                    lines.push(format!(
                        "enter it as it began, where {AGAIN} runs its steps again: {shell} --fresh"
                    ));
                }
            }
            Some(lines.join("\n"))
        }
        JobError::NotAFile { label } => Some(format!(
            "add a `convert` stage from stage.{label}, and use that in the image"
        )),
        JobError::NoFile { file, .. } => no_file_help(file),
        JobError::NoSandbox { .. } => None,
        JobError::Offline => Some("build it once without --offline".to_owned()),
        JobError::Vm(error) => super::vm_help(error),
        JobError::Changed { .. } => {
            Some("wait until nothing writes to it, then build again".to_owned())
        }
        JobError::Fetch(error) => match &error.cause {
            DownloadCause::Checksum { html: true, .. } => Some(
                "open the URL in a browser: the server may want a login, or have moved the file"
                    .to_owned(),
            ),
            DownloadCause::Checksum { .. } => {
                Some("if you want the new file, put its checksum into the recipe".to_owned())
            }
            DownloadCause::TimedOut { .. } => Some("raise the stage's `timeout`".to_owned()),
            _ => super::download_help(error),
        },
        JobError::Vendor(error) => error.help().or_else(|| super::host_help(error)),
        JobError::Package(error)
        | JobError::Tools(ToolsError::Fetch(DemandError::Package(error))) => {
            error.help.as_ref().map(super::package_help)
        }
        JobError::StaleFile { stage, .. } => Some(format!(
            "lock its packages again: impasto update {stage}{args}"
        )),
        JobError::Gate { .. } => Some(
            "if you trust it, make a plain copy of it: qemu-img convert -O qcow2 OLD NEW"
                .to_owned(),
        ),
        JobError::Format { format, .. } => Some(format.help()),
        JobError::Unpack { source, .. } => source.help().or_else(|| super::host_help(source)),
        JobError::Archive { source, .. } => archive_help(source),
        JobError::Git(error) => super::git_help(error),
        JobError::Plan(error) => error.help(),
        JobError::Store(error) => super::store_help(error),
        JobError::Sandbox(error) => super::sandbox_help(error),
        error => super::host_help(error),
    }
}

/// What to do about an archive that gives no tree.
fn archive_help(error: &ArchiveTreeError) -> Option<String> {
    Some(match error {
        ArchiveTreeError::TooLarge { .. } => {
            "if it should be that large, raise the limit: IMPASTO_UNPACK_LIMIT=128GiB".to_owned()
        }
        ArchiveTreeError::Truncated | ArchiveTreeError::Damaged { .. } => {
            "get the file again, and compare its checksum".to_owned()
        }
        ArchiveTreeError::NoArchive => "remove `as = \"tree\"`: a file is used as it is".to_owned(),
        ArchiveTreeError::Nothing { top, .. } => {
            format!("at its top it has {}", top.join(", "))
        }
        ArchiveTreeError::Member { .. }
        | ArchiveTreeError::LeadsOut { .. }
        | ArchiveTreeError::HardLink { .. }
        | ArchiveTreeError::Special { .. }
        | ArchiveTreeError::TooMany => {
            "use it as a file, and unpack it in a `run` stage: in the sandbox it can do no harm"
                .to_owned()
        }
        ArchiveTreeError::Read { .. }
        | ArchiveTreeError::Write { .. }
        | ArchiveTreeError::Cancelled => return super::host_help(error),
    })
}
