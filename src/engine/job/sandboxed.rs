//! Actions of a sandbox: inputs copied in, steps run, the overlay sealed, the log kept.
//! Knows what a sandbox takes and gives, not how it works.

mod log_file;
mod stage_inputs;
mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use impasto_stages::action::{Action, Bound, Executor, RootSpec, SandboxRoot, Step};
use impasto_stages::{Secret, volatile};
use impasto_store::Error as StoreError;
use impasto_store::claim::{FileContent, OutputFile, Outputs};
use impasto_store::meter::Metered;

use super::known::Start;
use super::{Enter, Job, JobError, JobOutput, StageFailure};
use crate::base::bounded;
use crate::disk::guest;
use crate::disk::tree::Tree;
use crate::engine::cause::{self, Clues, Evidence, SourceLocation, What};
use crate::sandbox::{
    self, AgentStep, FileOwner, Finished, NetworkPolicy, Outcome, Output, Sandbox, SandboxError,
    SandboxEvent,
};

pub(super) use log_file::LogFile;
use text::{failed_step, outcome_text, step_name};

impl Job {
    pub(super) fn in_sandbox(&self, action: &Action<Bound>) -> Result<JobOutput, JobError> {
        let sandbox = self.sandbox(action)?;
        let (from, disk) = self.disk.expect("BUG: a sandbox without a disk");
        let chain = self.store.chain(&disk.layer).map_err(Self::missed(from))?;
        let scratch = self.store.scratch()?;
        let work = scratch.path().join("sandbox");
        std::fs::create_dir(&work).map_err(JobError::io("make", &work))?;
        let overlay = scratch.path().join("overlay.qcow2");
        let mut staged = Staged::default();
        self.phase("copy the inputs", || {
            self.stage_inputs(action, scratch.path(), &mut staged)
        })?;
        let job = self.sandbox_job(action, (&work, &overlay), chain.paths(), &staged)?;
        let policy = job.network;
        self.meter.end();
        let secrets = policy.map_or(&[][..], |policy| &policy.secrets);
        let ran = self.run_steps(sandbox, job, action, &staged, secrets);
        let host = (self.store.path(), scratch.path(), overlay.as_path());
        let finished = match ran.finished {
            Ok(finished) => finished,
            Err(error) => match cause::examine_host(host.0, host.1, host.2) {
                None => return Err(error.into()),
                cause => {
                    let (message, last_lines) =
                        (crate::base::human::with_causes(&error), ran.last_lines);
                    let failure = StageFailure {
                        message,
                        cause,
                        last_lines,
                        ..StageFailure::default()
                    };
                    return Err(JobError::Stage(Box::new(failure)));
                }
            },
        };
        self.tell_timings(&finished);
        if !finished.outcome.is_ok() {
            if matches!(finished.outcome, Outcome::Cancelled) {
                return Err(JobError::Cancelled);
            }
            let failure = self.failure(action, &staged, &finished, &ran.clues, host);
            return Err(JobError::Stage(Box::new(StageFailure {
                last_lines: ran.last_lines,
                ..failure
            })));
        }
        let kept = match action.executor {
            Executor::Sandbox(SandboxRoot::Scratch) => None,
            _ => {
                let reader = self
                    .store
                    .disk_reader(&disk.layer)
                    .map_err(Self::missed(from))?;
                let start = Start {
                    disk,
                    reader: &reader,
                    tree: ran.below.as_ref(),
                };
                let overlay = (overlay.as_path(), &finished);
                Some(self.with_overlay(action, overlay, &reader, |source| {
                    self.keep(action, source, Some(start))
                })?)
            }
        };
        let (files, bytes) = self.take_outputs(finished.outputs)?;
        self.forget_failed();
        self.phase("clean up", || drop(scratch));
        let facts = sandbox.facts();
        Ok(JobOutput {
            result: Outputs {
                disk: kept.as_ref().map(|kept| kept.disk),
                tree: kept.as_ref().map(|kept| kept.tree),
                files,
            },
            sandbox: facts.name.to_owned(),
            isolation: facts.isolation,
            facts: record(&facts, policy, action.hints.architecture.as_ref()),
            stored_bytes: bytes + kept.as_ref().map_or(0, |kept| kept.stored_bytes),
            written: Vec::new(),
            same_as: kept.and_then(|kept| kept.same_as),
        })
    }

    /// Stores the files that the steps made; and how many bytes they have.
    fn take_outputs(
        &self,
        outputs: Vec<Output>,
    ) -> Result<(BTreeMap<String, OutputFile>, u64), JobError> {
        let (mut files, mut bytes) = (BTreeMap::new(), 0);
        for output in outputs {
            let file = bounded::open(&output.path).map_err(JobError::io("open", &output.path))?;
            self.meter
                .begin("storing", file.metadata().ok().map(|stat| stat.len()));
            let reader = Metered::new(file, &self.meter);
            let blob = self.phase("store an output", || self.store.put_blob(reader))?;
            bytes += blob.size;
            files.insert(
                output.name,
                OutputFile {
                    content: FileContent::Blob(blob),
                    mode: output.mode,
                },
            );
        }
        Ok((files, bytes))
    }

    /// Has a sandbox carry out the steps, keeps their log, and meanwhile reads the tree of the disk that they begin with.
    fn run_steps(
        &self,
        sandbox: &dyn Sandbox,
        job: sandbox::SandboxJob<'_>,
        action: &Action<Bound>,
        staged: &Staged,
        secrets: &[Secret],
    ) -> RanSteps {
        let mut log = LogFile::create(self, secrets);
        let (finished, below) = std::thread::scope(|scope| {
            // What the disk contains is needed when the steps are done.
            let load = || Tree::load(&self.store, &self.below?).ok().flatten();
            let below = std::thread::Builder::new().spawn_scoped(scope, load).ok();
            let mut step = None;
            let end = |step: &mut Option<(usize, Instant)>| {
                if let Some((index, begun)) = step.take() {
                    self.phase_was(
                        &step_name(&action.steps, staged.unpacked, index),
                        begun,
                        Instant::now(),
                    );
                }
            };
            let finished = sandbox.run(job, &mut |event| match event {
                SandboxEvent::Log { bytes, .. } => log.bytes(bytes),
                SandboxEvent::StepStarted { index } => {
                    log.begin_step();
                    step = Some((index, Instant::now()));
                }
                SandboxEvent::StepFinished { .. } => end(&mut step),
            });
            // One that failed did not finish.
            end(&mut step);
            (
                finished,
                below.and_then(|below| below.join().expect("BUG: reading a tree panicked")),
            )
        });
        let (last_lines, clues) = log.finish();
        RanSteps {
            finished,
            below,
            last_lines,
            clues,
        }
    }

    /// Tells how long each part of a sandbox's work took.
    fn tell_timings(&self, finished: &Finished) {
        tracing::debug!(stage = self.label, timings = ?finished.timings, "sandbox");
        let mut at = finished.begun;
        // What the supervisor says of itself lies within these, as does every step within `steps`.
        let is_lap = |phase: &str| !phase.starts_with("supervisor: ") && phase != "all";
        for (phase, wall) in finished.timings.iter().filter(|(phase, _)| is_lap(phase)) {
            self.phase_was(phase, at, at + *wall);
            at += *wall;
        }
    }

    /// Why the steps failed, as far as that can be found out, and the failed state kept. `host` are the store, the scratch
    /// directory and the overlay.
    fn failure(
        &self,
        action: &Action<Bound>,
        staged: &Staged,
        finished: &Finished,
        clues: &Clues,
        host: (&Path, &Path, &Path),
    ) -> StageFailure {
        let step =
            failed_step(&finished.outcome).and_then(|index| index.checked_sub(staged.unpacked));
        let evidence = Evidence {
            outcome: &finished.outcome,
            facts: finished.facts.as_ref(),
            clues,
            network: action.network,
            privileged: action.privileged,
            script: step.and_then(|step| match action.steps.get(step) {
                Some(Step::Script { text }) => Some(text.as_str()),
                _ => None,
            }),
            oom_kills: finished.oom_kills,
            host,
        };
        let (cause, log_line) =
            cause::find(&evidence).map_or((None, None), |(cause, line)| (Some(cause), line));
        let kept =
            finished.outcome.leaves_a_disk() && self.keep_failed(host.2, action, step).is_ok();
        let enter = match &cause {
            // Who enters it meets the same host.
            Some(cause) if cause.is_host() => Enter::Never,
            _ if kept => Enter::AsItFailed,
            _ => Enter::AsItBegan,
        };
        let message = match (&finished.outcome, &cause) {
            // It is the host's disk that is to blame.
            (Outcome::Damaged { .. }, Some(_)) => {
                "what the stage wrote could not be stored".to_owned()
            }
            (outcome, _) => outcome_text(outcome, &action.steps, staged.unpacked),
        };
        let longer = "if it needs longer, raise `timeout` in the stage, such as timeout = \"30m\"";
        StageFailure {
            message,
            cause,
            log_line,
            places: self.places(action, step, clues),
            shell: enter,
            help: matches!(finished.outcome, Outcome::TimedOut { .. }).then(|| longer.to_owned()),
            last_lines: Vec::new(),
        }
    }

    /// What a sandbox is given for an Action. `place` is an empty directory, and where the overlay shall be.
    pub(super) fn sandbox_job<'s>(
        &'s self,
        action: &Action<Bound>,
        place: (&'s Path, &'s Path),
        chain: Vec<PathBuf>,
        staged: &'s Staged,
    ) -> Result<sandbox::SandboxJob<'s>, JobError> {
        let (_, disk) = self.disk.expect("BUG: a sandbox without a disk");
        let (work, overlay) = place;
        let mut trees = Vec::new();
        if let Some(set) = &action.packages {
            let dir = work.with_file_name(super::install::TREE);
            self.phase("get the packages", || self.lay_out_packages(set, &dir))?;
            trees.push((super::install::TREE.to_owned(), dir));
        }
        let caches = action
            .hints
            .caches
            .iter()
            .map(|(place, name)| Ok((place.clone(), self.store.cache_dir(name)?)));
        let inputs = staged
            .inputs
            .iter()
            .map(|(name, mode, path)| sandbox::SandboxInput {
                name: name.clone(),
                mode: *mode,
                path,
            });
        let secrets = self
            .secrets
            .iter()
            .filter(|(name, _)| action.secrets.contains_key(*name));
        Ok(sandbox::SandboxJob {
            work,
            overlay,
            chain,
            virtual_size: disk.virtual_size,
            root: root(&action.root),
            steps: staged.steps.clone(),
            inputs: inputs.collect(),
            trees,
            caches: caches.collect::<Result<_, StoreError>>()?,
            scripts: staged.scripts.clone(),
            emulator: action
                .hints
                .architecture
                .as_deref()
                .map(|architecture| self.emulator(architecture))
                .transpose()?,
            secrets: secrets
                .map(|(name, secret)| (name.clone(), secret.expose().as_bytes().to_vec()))
                .collect(),
            outputs: action
                .outputs
                .iter()
                .map(|(name, path)| (name.clone(), path.clone()))
                .collect(),
            volatile: volatile::BUILT_IN
                .iter()
                .map(|path| (*path).to_owned())
                .chain(action.volatile.clone())
                .collect(),
            env: action
                .env
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            suspects: cause::suspects,
            source_date_epoch: action.source_date_epoch,
            environment: self.context.sandbox.environment.clone(),
            network: match action.network {
                true => Some(self.context.sandbox.policy.get()?),
                false => None,
            },
            privileged: action.privileged,
            limits: action.hints.limits,
            timeout: action.hints.timeout,
            shell: None,
            cancel: self.context.cancel.clone(),
        })
    }

    /// Where a step stands that failed: the line of its script, as far as its shell names one, or its command; and the
    /// stage.
    fn places(
        &self,
        action: &Action<Bound>,
        step: Option<usize>,
        clues: &Clues,
    ) -> Vec<SourceLocation> {
        let origin = |name: &str| {
            step.and_then(|step| action.hints.origins.get(&format!("steps[{step}].{name}")))
        };
        let mut places = Vec::new();
        if let Some(origin) = origin("script") {
            let line = clues
                .script_line()
                .filter(|(script, _)| Some(*script) == step)
                .map(|(_, line)| line);
            let script = SourceLocation::of(What::Script, &self.context.dir, origin);
            places.push(match line {
                Some(line) => SourceLocation {
                    what: What::Line,
                    line: script.line + line.saturating_sub(1),
                    ..script
                },
                None => script,
            });
        }
        places.extend(
            origin("command")
                .map(|origin| SourceLocation::of(What::Command, &self.context.dir, origin)),
        );
        places.extend(self.about.stage.iter().cloned());
        places
    }

    /// Keeps the state in which the stage failed, for `shell`, until it succeeds or fails again.
    fn keep_failed(
        &self,
        overlay: &Path,
        action: &Action<Bound>,
        step: Option<usize>,
    ) -> Result<(), JobError> {
        let (Ok(dir), Some((_, disk))) = (&self.context.failed, self.disk) else {
            return Ok(());
        };
        for name in &self.names {
            let action_digest = action.digest();
            let state = crate::engine::failed::FailedState {
                action: action_digest,
                disk,
                root: crate::engine::failed::StoredRoot::from(&action.root),
                step: step.and_then(|step| u32::try_from(step).ok()),
            };
            state
                .keep(dir, name, overlay)
                .map_err(JobError::io("keep the failed state in", dir))?;
        }
        Ok(())
    }

    fn forget_failed(&self) {
        if let Ok(dir) = &self.context.failed {
            self.names
                .iter()
                .for_each(|name| crate::engine::failed::FailedState::forget(dir, name));
        }
    }
}

/// What carrying out steps came to.
struct RanSteps {
    finished: Result<Finished, SandboxError>,
    /// The tree of the disk that they began with, where the store has it.
    below: Option<Tree>,
    /// The last lines of their log, and what all of them hint at.
    last_lines: Vec<String>,
    clues: Clues,
}

/// What a sandbox reads of a job, copied.
#[derive(Default)]
pub(super) struct Staged {
    pub(super) steps: Vec<AgentStep>,
    /// Name, permission bits, and the copy.
    inputs: Vec<(String, u32, PathBuf)>,
    scripts: Vec<(String, Vec<u8>)>,
    /// How many steps, at the beginning, only lay out inputs.
    pub(super) unpacked: usize,
}

/// A sandbox's facts in the form in which claims record them.
/// `network` is the policy by which steps had the network, `emulated` the machine that their programs are for.
pub(super) fn record(
    facts: &sandbox::SandboxFacts,
    network: Option<&NetworkPolicy>,
    emulated: Option<&String>,
) -> BTreeMap<String, String> {
    let agent: String = facts
        .agent
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut record = BTreeMap::from([
        ("kernel".to_owned(), facts.kernel.clone()),
        ("agent".to_owned(), agent),
    ]);
    record.extend(
        facts
            .storage
            .iter()
            .map(|version| ("qemu-storage-daemon".to_owned(), version.clone())),
    );
    record.extend(emulated.map(|machine| ("emulated".to_owned(), machine.clone())));
    if let Some(policy) = network {
        record.extend(policy.facts.clone());
    }
    record
}

pub(super) fn root(root: &RootSpec) -> guest::RootSelector {
    match root {
        RootSpec::Auto => guest::RootSelector::Auto,
        RootSpec::Number(number) => guest::RootSelector::Number(*number),
        RootSpec::Label(label) => guest::RootSelector::Label(label.clone()),
        RootSpec::Uuid(uuid) => guest::RootSelector::Uuid(uuid.clone()),
    }
}

fn parse_owner(owner: &str) -> FileOwner {
    let (user, group) = owner.split_once(':').unwrap_or((owner, owner));
    FileOwner {
        user: user.to_owned(),
        group: group.to_owned(),
    }
}

/// Whether files of an input keep their times in the image.
pub(super) fn keeps_times(action: &Action<Bound>, name: &str) -> bool {
    action
        .steps
        .iter()
        .any(|step| matches!(step, Step::CopyIn { input, keep_times: true, .. } if input == name))
}
