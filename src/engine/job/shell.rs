//! A stage entered by a person: its disk with all that its steps are given, and one command that runs them again.
//! Knows what a sandbox takes; the sandbox opens the shell.

use std::path::PathBuf;

use impasto_stages::action::{Action, Bound, Executor, SandboxRoot, Step};

use super::sandboxed::Staged;
use super::{Job, JobError, JobTask};
use crate::base::cancel::CancelToken;
use crate::engine::failed::AGAIN;
use crate::sandbox::{AgentStep, SandboxJob, ShellCommand};

/// How a stage is entered.
pub struct ShellRequest {
    /// The overlay that its failed run left, kept open by the caller, and the step that failed; none is the stage as it
    /// was before its first step.
    pub failed: Option<(PathBuf, Option<usize>)>,
    /// One line for the shell; none is an interactive one.
    pub line: Option<String>,
    /// Whether the network can be reached although the stage does not ask for it.
    pub network: bool,
    pub cancel: CancelToken,
}

impl Job {
    /// Whether its steps are programs in an image's disk.
    pub fn runs_in_the_image(&self) -> bool {
        let guest = |action: &Action<Bound>| {
            matches!(
                action.executor,
                Executor::Sandbox(SandboxRoot::Guest | SandboxRoot::Scratch)
            )
        };
        self.disk.is_some() && matches!(&self.task, JobTask::Run(action) if guest(action))
    }

    /// Opens a shell in the stage. Nothing of what is done there is kept; the result is the shell's exit code.
    ///
    /// # Errors
    /// What the stage needs is not there, or the sandbox failed.
    pub fn shell(&self, request: ShellRequest) -> Result<i32, JobError> {
        let JobTask::Run(action) = &self.task else {
            panic!("BUG: a stage is entered without its Action")
        };
        let sandbox = self.sandbox(action)?;
        let (from, disk) = self.disk.expect("BUG: a sandbox without a disk");
        let chain = self.store.chain(&disk.layer).map_err(Self::missed(from))?;
        let scratch = self.store.scratch()?;
        let work = scratch.path().join("sandbox");
        std::fs::create_dir(&work).map_err(JobError::io("make", &work))?;
        let overlay = scratch.path().join("overlay.qcow2");
        let mut staged = Staged::default();
        self.stage_inputs(action, scratch.path(), &mut staged)?;
        let failed = request.failed.as_ref().map(|(_, step)| *step);
        staged.steps = prepare(action, &staged, failed);
        let paths = chain
            .paths()
            .into_iter()
            .chain(request.failed.map(|(overlay, _)| overlay))
            .collect();
        let job = self.sandbox_job(action, (&work, &overlay), paths, &staged)?;
        let network = match request.network {
            true => Some(self.context.sandbox.policy.get()?),
            false => job.network,
        };
        let job = SandboxJob {
            network,
            cancel: request.cancel,
            shell: Some(ShellCommand { line: request.line }),
            ..job
        };
        Ok(sandbox.run(job, &mut |_| {})?.shell_code()?)
    }
}

/// What is done before the shell: inputs and the tools' view of the root as in a build, what impasto itself copies where
/// the disk does not have it yet, and the command that runs the step again.
fn prepare(
    action: &Action<Bound>,
    staged: &Staged,
    failed: Option<Option<usize>>,
) -> Vec<AgentStep> {
    let (unpack, steps) = staged.steps.split_at(staged.unpacked);
    let needed = |step: &&AgentStep| match step {
        AgentStep::ShowRoot | AgentStep::WorkIn { .. } => true,
        AgentStep::Script { .. } | AgentStep::Command { .. } => false,
        _ => failed.is_none(),
    };
    let text = again(&action.steps, failed.flatten()).into_bytes().into();
    let again = AgentStep::WriteFile {
        path: AGAIN.to_owned(),
        content: text,
        mode: 0o755,
    };
    unpack
        .iter()
        .chain(steps.iter().filter(needed))
        .cloned()
        .chain([again])
        .collect()
}

/// A script that runs one step again, or all where none is named, as the agent does.
fn again(steps: &[Step], failed: Option<usize>) -> String {
    let mut text =
        "#!/bin/sh\n# Runs the step of this stage again, as a build does. -x shows each line.\n\
                    cd /\ncase \"$1\" in -x) x=x ;; *) x= ;; esac\n"
            .to_owned();
    for step in steps {
        if let Step::WorkIn { dir, user } = step {
            text += &format!("cd {dir}\n");
            if let Some(user) = user {
                // Its home is what $HOME names in a build.
                text += &format!(
                    "as() {{ setpriv --reuid={user} --regid=\"$(id -g {user})\" --clear-groups \
                     env HOME=\"$(getent passwd {user} | cut -d: -f6)\" USER={user} LOGNAME={user} \"$@\"; }}\n"
                );
            }
        }
    }
    let run = if text.contains("\nas() ") { "as " } else { "" };
    for (index, step) in steps
        .iter()
        .enumerate()
        .filter(|(index, _)| failed.is_none_or(|failed| failed == *index))
    {
        text += &match step {
            Step::Script { text } if text.starts_with("#!") => {
                format!("{run}/run/impasto/scripts/script-{index} || exit\n")
            }
            Step::Script { .. } => {
                format!("{run}/bin/sh -e$x /run/impasto/scripts/script-{index} || exit\n")
            }
            Step::Command { line } => format!(
                "{run}/bin/sh -e${{x}}c '{}' || exit\n",
                line.replace('\'', r"'\''")
            ),
            _ if failed.is_some() => {
                "echo 'this step copies a file, which impasto does itself' >&2; exit 1\n".to_owned()
            }
            _ => String::new(),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failed_step_alone_is_run_again_and_all_where_none_is_known() {
        let command = |line: &str| Step::Command {
            line: line.to_owned(),
        };
        let steps = [
            command("echo 'a b'"),
            Step::Script {
                text: "#!/bin/cat\n".to_owned(),
            },
            command("false"),
        ];
        let lines = |failed| {
            again(&steps, failed)
                .lines()
                .skip(4)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            lines(Some(0)),
            [r"/bin/sh -e${x}c 'echo '\''a b'\''' || exit"]
        );
        assert_eq!(lines(Some(1)), ["/run/impasto/scripts/script-1 || exit"]);
        assert_eq!(lines(None).len(), 3);
    }
}
