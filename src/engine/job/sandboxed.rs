//! Actions of a sandbox: inputs copied in, steps run, the overlay sealed, the log kept.
//! Knows what a sandbox takes and gives, not how it works.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use impasto_stages::action::{Action, Bound, Executor, RootSpec, SandboxRoot, Step};
use impasto_stages::{Secret, volatile};
use impasto_store::Error as StoreError;
use impasto_store::claim::{FileContent, OutputFile, Outputs};
use impasto_store::inputs::TreeNode;
use impasto_store::meter::Metered;

use super::known::Start;
use super::{Enter, Job, JobError, JobInput, JobOutput, StageFailure, create};
use crate::base::bounded;
use crate::disk::guest;
use crate::disk::tree::Tree;
use crate::engine::cause::{self, Clues, Evidence, SourceLocation, What};
use crate::engine::history::file_name;
use crate::engine::inputs::{Input, copy_file, pack_tree};
use crate::engine::log::{Lines, Redactor, Tail};
use crate::sandbox::{
    self, AgentStep, Culprit, FileOwner, Finished, InputContent, InputKind, NetworkPolicy, Outcome,
    Output, Sandbox, SandboxError, SandboxEvent,
};

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
            facts: record(&facts, policy),
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
            .map(|name| Ok((name.clone(), self.store.cache_dir(name)?)));
        let inputs = staged
            .inputs
            .iter()
            .map(|(name, mode, path)| sandbox::SandboxInput {
                name: name.clone(),
                mode: *mode,
                content: InputContent::Path(path),
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

    /// Copies an input to where nobody else writes: its permission bits, and what it is there. The files of a tree get the
    /// time `epoch`, in seconds since 1970, or keep their own where that is none. `is_listed` is whether a program may list
    /// a directory of it: in which order that happens differs between builds.
    pub(super) fn lay_out(
        &self,
        input: &JobInput,
        epoch: Option<u64>,
        file: &mut File,
        path: &Path,
        is_listed: bool,
    ) -> Result<(u32, InputKind), JobError> {
        Ok(match input {
            JobInput::Local {
                path: from,
                input: Input::File(planned),
                scope,
            } => {
                copy_file(scope, from, file, planned.blob.digest)?;
                (planned.mode, InputKind::File)
            }
            JobInput::Local {
                path: from,
                input: Input::Tree { entries, .. },
                scope,
            } => {
                let mut entries: std::borrow::Cow<'_, [_]> = entries.into();
                if is_listed && self.context.sandbox.environment.reordered {
                    // Directories come before what they hold.
                    entries
                        .to_mut()
                        .sort_by_key(|entry| Reverse(matches!(entry.node, TreeNode::Dir(_))));
                    let files =
                        entries.partition_point(|entry| matches!(entry.node, TreeNode::Dir(_)));
                    entries.to_mut()[files..].reverse();
                }
                pack_tree(scope, from, &entries, epoch, &mut io::BufWriter::new(file))?;
                (0o755, InputKind::Tar)
            }
            JobInput::Blob { from, blob, mode } => {
                let mut reader = self
                    .store
                    .open_blob(&blob.digest)
                    .map_err(Self::missed(*from))?;
                self.meter.begin("copying", Some(blob.size));
                io::copy(&mut reader, &mut Metered::new(file, &self.meter))
                    .map_err(JobError::io("write", path))?;
                (*mode, InputKind::File)
            }
            JobInput::Derived {
                from,
                disk,
                derived,
                mode,
            } => {
                self.write_again(*from, disk, derived, file)?;
                (*mode, InputKind::File)
            }
        })
    }

    /// Copies everything that the steps read to where nobody else writes, and names it for the agent.
    pub(super) fn stage_inputs(
        &self,
        action: &Action<Bound>,
        scratch: &Path,
        staged: &mut Staged,
    ) -> Result<(), JobError> {
        let mut kinds = BTreeMap::new();
        let packages =
            |name: &str| action.packages.is_some() && name.starts_with(super::install::LOCAL);
        for (place, (name, input)) in self
            .inputs
            .iter()
            .enumerate()
            .filter(|(_, (name, _))| !packages(name))
        {
            let path = scratch.join(format!("input-{place}"));
            let mut file = create(&path)?;
            let used_by_step = action
                .steps
                .iter()
                .any(|step| matches!(step, Step::CopyIn { input, .. } if input == name));
            let epoch =
                (!keeps_times(action, name)).then(|| action.source_date_epoch.unwrap_or_default());
            let (mode, kind) = self.lay_out(input, epoch, &mut file, &path, !used_by_step)?;
            kinds.insert(name.clone(), kind);
            let name = match kind {
                // A tree that scripts read is laid out beside the files, under its own name.
                InputKind::Tar if !used_by_step => {
                    // No user's name begins like this.
                    let (input, dest) = (
                        format!("-tree-{place}"),
                        format!("/run/impasto/inputs/{name}"),
                    );
                    let step = AgentStep::CopyIn {
                        input: input.clone(),
                        dest,
                        mode: None,
                        owner: None,
                        kind,
                        modified: None,
                    };
                    staged.steps.push(step);
                    staged.unpacked += 1;
                    input
                }
                _ => name.clone(),
            };
            staged.inputs.push((name, mode, path));
        }
        for (index, step) in action.steps.iter().enumerate() {
            let step = self.stage_step(index, step, &kinds, scratch, staged)?;
            staged.steps.push(step);
        }
        Ok(())
    }

    /// A step as the agent takes it; what it reads beside inputs is staged. `kinds` says what each input is.
    fn stage_step(
        &self,
        index: usize,
        step: &Step,
        kinds: &BTreeMap<String, InputKind>,
        scratch: &Path,
        staged: &mut Staged,
    ) -> Result<AgentStep, JobError> {
        Ok(match step {
            Step::Script { text } => {
                let name = format!("script-{index}");
                staged
                    .scripts
                    .push((name.clone(), text.clone().into_bytes()));
                AgentStep::Script { name }
            }
            Step::ShowRoot => AgentStep::ShowRoot,
            Step::Command { line } => AgentStep::Command { line: line.clone() },
            Step::CopyIn {
                input,
                dest,
                mode,
                owner,
                keep_times,
            } => AgentStep::CopyIn {
                input: input.clone(),
                dest: dest.clone(),
                mode: *mode,
                owner: owner.as_deref().map(parse_owner),
                kind: kinds[input],
                modified: self.inputs.iter().find(|(name, _)| name == input).and_then(
                    |(_, found)| match found {
                        JobInput::Local {
                            input: Input::File(file),
                            ..
                        } if *keep_times => Some(file.modified),
                        _ => None,
                    },
                ),
            },
            Step::WriteFile {
                dest,
                text,
                mode,
                owner,
            } => {
                let input = format!("text-{index}");
                let path = scratch.join(&input);
                create(&path)?
                    .write_all(text.as_bytes())
                    .map_err(JobError::io("write", &path))?;
                staged.inputs.push((input.clone(), *mode, path));
                let (dest, owner) = (dest.clone(), owner.as_deref().map(parse_owner));
                AgentStep::CopyIn {
                    input,
                    dest,
                    mode: Some(*mode),
                    owner,
                    kind: InputKind::File,
                    modified: None,
                }
            }
            Step::Import { .. }
            | Step::Fetch { .. }
            | Step::Convert { .. }
            | Step::Bootstrap { .. }
            | Step::Test { .. }
            | Step::TestReport { .. }
            | Step::AssembleDisk { .. }
            | Step::Resize { .. } => {
                panic!("BUG: a step for others was sent to a guest")
            }
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

/// A stage's log: every line goes to its file and to the engine.
pub(super) struct LogFile<'a> {
    job: &'a Job,
    lines: Lines,
    tail: Tail,
    clues: Clues,
    file: Option<io::BufWriter<File>>,
}

impl<'a> LogFile<'a> {
    /// `more` are secrets that the job does not know of.
    pub(super) fn create(job: &'a Job, more: &[Secret]) -> Self {
        // A log that cannot be kept is no reason not to build.
        let file = job.context.logs.as_ref().ok().and_then(|dir| {
            let path = dir.join(format!("{}.log", file_name(&job.names[0])));
            // The log of a node is that of all of its units.
            if job.unit == 0 {
                // Other nodes may have had this one's log as theirs.
                let _ = std::fs::remove_file(&path);
            }
            let mut open = File::options();
            open.create(true)
                .write(true)
                .truncate(job.unit == 0)
                .append(job.unit > 0);
            // Root writes here for whoever owns the directory, and through no link of theirs.
            open.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
            let file = open.open(&path).ok()?;
            let stat = file.metadata().ok()?;
            if stat.nlink() == 1 && stat.uid() != job.store.owner().uid() {
                job.store.owner().give(&file).ok()?;
            }
            for other in &job.names[1..] {
                let link = dir.join(format!("{}.log", file_name(other)));
                let _ = std::fs::remove_file(&link);
                let _ = std::fs::hard_link(&path, &link);
            }
            Some(io::BufWriter::new(file))
        });
        let redactor = match more {
            [] => job.redactor.clone(),
            more => Redactor::new(job.secrets.values().chain(more)),
        };
        LogFile {
            job,
            lines: Lines::new(redactor),
            tail: Tail::default(),
            clues: Clues::default(),
            file,
        }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let mut whole = Vec::new();
        self.lines.push(bytes, &mut |line| whole.push(line));
        whole.into_iter().for_each(|line| self.take(line));
    }

    /// What failed before this did not fail for it.
    pub(super) fn begin_step(&mut self) {
        self.clues.begin_step();
    }

    fn take(&mut self, line: String) {
        self.tail.push(&line);
        self.clues.push(&line);
        if let Some(file) = &mut self.file
            && writeln!(file, "{line}").is_err()
        {
            self.file = None;
        }
        self.job.line(line);
    }

    /// The last lines, and what all of them hint at.
    pub(super) fn finish(mut self) -> (Vec<String>, Clues) {
        let mut last = Vec::new();
        self.lines.finish(&mut |line| last.push(line));
        last.into_iter().for_each(|line| self.take(line));
        (self.tail.into_lines(), self.clues)
    }
}

/// A sandbox's facts in the form in which claims record them.
/// `network` is the policy by which steps had the network.
pub(super) fn record(
    facts: &sandbox::SandboxFacts,
    network: Option<&NetworkPolicy>,
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

/// The step at which a job ended, as its index among the sandbox's.
fn failed_step(outcome: &Outcome) -> Option<usize> {
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
fn step_name(steps: &[Step], unpacked: usize, index: usize) -> String {
    match index
        .checked_sub(unpacked)
        .and_then(|index| steps.get(index))
    {
        None => "copying the inputs".to_owned(),
        Some(Step::Script { .. }) => "the script".to_owned(),
        Some(Step::ShowRoot) => "showing the root".to_owned(),
        Some(Step::Command { .. }) => format!("command {}", index - unpacked + 1),
        Some(Step::CopyIn { dest, .. } | Step::WriteFile { dest, .. }) => {
            format!("copying to {dest}")
        }
        Some(_) => format!("step {}", index - unpacked + 1),
    }
}

fn outcome_text(outcome: &Outcome, steps: &[Step], unpacked: usize) -> String {
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
            format!(
                "it was stopped after its timeout of {}",
                crate::base::human::seconds(*after)
            )
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

/// Whether files of an input keep their times in the image.
pub(super) fn keeps_times(action: &Action<Bound>, name: &str) -> bool {
    action
        .steps
        .iter()
        .any(|step| matches!(step, Step::CopyIn { input, keep_times: true, .. } if input == name))
}
