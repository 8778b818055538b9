//! Steps and their outcomes in words.

use impasto_stages::action::Step;

use crate::base::human::seconds;
use crate::sandbox::{Culprit, Outcome};

/// The step at which a job ended, as its index among the sandbox's.
pub(super) fn failed_step(outcome: &Outcome) -> Option<usize> {
    match outcome {
        Outcome::StepFailed { index, .. } | Outcome::StepRefused { index, .. } => Some(*index),
        Outcome::LimitReached(reached) => match reached.by {
            Some(Culprit::Step(index)) => Some(index),
            _ => None,
        },
        _ => None,
    }
}

/// How messages call a step of an Action; the first ones, of the sandbox alone, lay out inputs.
pub(super) fn step_name(steps: &[Step], unpacked: usize, index: usize) -> String {
    match index
        .checked_sub(unpacked)
        .and_then(|index| steps.get(index))
    {
        None => "copying the inputs".to_owned(),
        Some(Step::Script { .. }) => "the script".to_owned(),
        Some(Step::WorkIn { dir, .. }) => format!("making {dir}"),
        Some(Step::ShowRoot) => "showing the root".to_owned(),
        Some(Step::Command { .. }) => {
            let is_command = |step: &&Step| matches!(step, Step::Command { .. });
            let before = steps.iter().take(index - unpacked).filter(is_command);
            format!("command {}", before.count() + 1)
        }
        Some(Step::CopyIn { dest, .. } | Step::WriteFile { dest, .. }) => {
            format!("copying to {dest}")
        }
        Some(_) => format!("step {}", index - unpacked + 1),
    }
}

pub(super) fn outcome_text(outcome: &Outcome, steps: &[Step], unpacked: usize) -> String {
    let step = |index: usize| step_name(steps, unpacked, index);
    match outcome {
        Outcome::StepFailed {
            index,
            code: Some(code),
            ..
        } => format!("{} exited with code {code}", step(*index)),
        Outcome::StepFailed { index, signal, .. } => {
            format!(
                "{} was killed by signal {}",
                step(*index),
                signal.unwrap_or_default()
            )
        }
        Outcome::StepRefused { index, problem } => format!("{} failed: {problem}", step(*index)),
        Outcome::OutputRefused { name, problem } => {
            format!("the output {name:?} cannot be copied out: {problem}")
        }
        Outcome::TimedOut { after } => {
            format!("it was stopped after its timeout of {}", seconds(*after))
        }
        Outcome::LimitReached(reached) => match &reached.by {
            Some(Culprit::Step(index)) => format!("{} reached the {reached}", step(*index)),
            Some(Culprit::Named(name)) => format!("{name:?} reached the {reached}"),
            None => format!("it reached the {reached}"),
        },
        Outcome::Damaged { problem } => format!("the disk was damaged: {problem}"),
        Outcome::Ok | Outcome::Cancelled | Outcome::ShellEnded { .. } => {
            panic!("BUG: {outcome:?} is no failure")
        }
    }
}
