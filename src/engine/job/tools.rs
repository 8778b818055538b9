//! Actions of the toolbox: roots out of packages, disks out of roots.
//! Knows what goes into the sandbox's container and what comes out, not how the work is done.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Instant;

use impasto_stages::action::{Action, Bound, Step};
use impasto_store::claim::{FileContent, OutputFile, Outputs};
use impasto_store::digest::ClaimId;
use impasto_store::meter::Metered;
use impasto_store::qcow2::RawFile;

use super::sandboxed::{LogFile, record};
use super::{Job, JobError, JobOutput, StageFailure, create};
use crate::base::bounded;
use crate::debian::toolbox::{DISK, PACKAGES, TREE, ToolboxTask};
use crate::engine::cause::{self, Cause};
use crate::sandbox::{SandboxError, ToolDisk, ToolEnd, ToolEvent, ToolJob};

/// What a tree is called among its node's files.
const NAME: &str = "tree.tar";

impl Job {
    pub(super) fn with_tools(&self, action: &Action<Bound>) -> Result<JobOutput, JobError> {
        let [step] = action.steps.as_slice() else {
            panic!("BUG: the toolbox is given one step, not several")
        };
        if let Step::Resize { size, partition } = step {
            return self.resized(action, *size, partition.as_ref());
        }
        let scratch = self.store.scratch()?;
        let work = scratch.path().join("work");
        std::fs::create_dir(&work).map_err(JobError::io("make", &work))?;
        let epoch = action.source_date_epoch.expect("BUG: the kind demands it");
        let task = match step {
            Step::Bootstrap { spec } => {
                let set = action
                    .packages
                    .as_ref()
                    .expect("BUG: a bootstrap without packages");
                self.phase("get the packages", || {
                    self.lay_out_packages(set, &work.join(PACKAGES))
                })?;
                ToolboxTask::Bootstrap {
                    spec: spec.clone(),
                    epoch,
                }
            }
            Step::AssembleDisk { input, spec } => {
                self.phase("copy the input", || {
                    self.lay_out_tree(input, epoch, &work.join(TREE))
                })?;
                ToolboxTask::AssembleDisk {
                    spec: spec.clone(),
                    epoch,
                    reordered: self.context.sandbox.environment.reordered,
                }
            }
            step => panic!("BUG: {step:?} is no step for the toolbox"),
        };
        let made = match step {
            Step::Bootstrap { .. } => work.join(TREE),
            _ => work.join(DISK),
        };
        self.use_tools(action, &work, &task, None, &made)?;
        let (result, stored_bytes, same_as) = match step {
            Step::Bootstrap { .. } => self.take_tree(&work.join(TREE))?,
            Step::AssembleDisk { .. } => self.take_disk(action, &work.join(DISK))?,
            step => panic!("BUG: {step:?} is no step for the toolbox"),
        };
        // A tree of ten thousand files takes its time.
        self.phase("clean up", || drop(scratch));
        self.tools_output(action, result, stored_bytes, same_as)
    }

    /// Has the sandbox do a task in the directory `work`, on a disk where one is given. Its result comes to `made`.
    pub(super) fn use_tools(
        &self,
        action: &Action<Bound>,
        work: &Path,
        task: &ToolboxTask,
        disk: Option<ToolDisk<'_>>,
        made: &Path,
    ) -> Result<(), JobError> {
        let sandbox = self.sandbox(action)?;
        let tools = self.phase("get the tools", || self.tools())?;
        self.meter.end();
        let mut log = LogFile::create(self, &[]);
        let job = ToolJob {
            work,
            toolbox: &tools,
            task: task.packed(),
            disk,
            limits: action.hints.limits,
            timeout: action.hints.timeout,
            cancel: self.context.cancel.clone(),
        };
        let begun = Instant::now();
        let mut last = begun;
        let end = sandbox.run_tools(job, &mut |event| match event {
            ToolEvent::Log(bytes) => log.bytes(bytes),
            ToolEvent::Phase(name) => {
                let now = Instant::now();
                self.phase_was(name, last, now);
                last = now;
            }
        });
        self.phase_was("run the tools", begun, Instant::now());
        let (last_lines, _) = log.finish();
        // What these programs cannot write is the host's business: all that they write lies there.
        let host = || cause::examine_host(self.store.path(), work, made);
        self.tools_ended(end, last_lines, host)
    }

    /// What a job with tools came to.
    pub(super) fn tools_output(
        &self,
        action: &Action<Bound>,
        result: Outputs,
        stored_bytes: u64,
        same_as: Option<ClaimId>,
    ) -> Result<JobOutput, JobError> {
        let facts = self.sandbox(action)?.facts();
        Ok(JobOutput {
            result,
            sandbox: facts.name.to_owned(),
            isolation: facts.isolation,
            facts: record(&facts, None, action.hints.architecture.as_ref()),
            stored_bytes,
            written: Vec::new(),
            same_as,
        })
    }

    /// What the tools' end means. `host` finds what is wrong with the host.
    fn tools_ended(
        &self,
        end: Result<ToolEnd, SandboxError>,
        last_lines: Vec<String>,
        host: impl FnOnce() -> Option<Cause>,
    ) -> Result<(), JobError> {
        let (message, help, cause) = match end {
            Ok(ToolEnd::Done) => return Ok(()),
            Ok(ToolEnd::Cancelled) => return Err(JobError::Cancelled),
            Ok(ToolEnd::TimedOut { after }) => (
                format!(
                    "it was stopped after its timeout of {}",
                    crate::base::human::seconds(after)
                ),
                None,
                None,
            ),
            Ok(ToolEnd::LimitReached(reached)) => (
                format!("it reached the {reached}"),
                None,
                Some(Cause::Limit(reached)),
            ),
            Ok(ToolEnd::Failed(failure)) => (failure.message, failure.help, host()),
            Err(error) => match host() {
                None => return Err(error.into()),
                cause => (crate::base::human::with_causes(&error), None, cause),
            },
        };
        let places = self.about.stage.iter().cloned().collect();
        let failure = StageFailure {
            message,
            help,
            cause,
            places,
            last_lines,
            ..StageFailure::default()
        };
        Err(JobError::Stage(Box::new(failure)))
    }

    fn take_tree(&self, path: &Path) -> Result<(Outputs, u64, Option<ClaimId>), JobError> {
        let file = bounded::open(path).map_err(JobError::io("open", path))?;
        // An earlier tree that is gone shares nothing.
        let previous = self
            .previous
            .first()
            .and_then(|(action, claim)| self.store.claim(action, claim).ok());
        let previous = previous.and_then(|claim| match claim.result.files.get(NAME)?.content {
            FileContent::Blob(blob) => Some(blob.digest),
            FileContent::Derived(_) => None,
        });
        self.meter
            .begin("storing", file.metadata().ok().map(|stat| stat.len()));
        let reader = Metered::new(io::BufReader::new(file), &self.meter);
        let store = || self.store.put_blob_like(reader, previous.as_ref());
        let blob = self.phase("store the tree", store)?;
        let file = OutputFile {
            content: FileContent::Blob(blob),
            mode: 0o644,
        };
        let files = BTreeMap::from([(NAME.to_owned(), file)]);
        Ok((
            Outputs {
                files,
                ..Outputs::default()
            },
            blob.size,
            None,
        ))
    }

    /// Copies the tree to where nobody else writes.
    fn lay_out_tree(&self, input: &str, epoch: u64, path: &Path) -> Result<(), JobError> {
        let (_, input) = self
            .inputs
            .iter()
            .find(|(name, _)| name == input)
            .expect("BUG: a disk without a tree");
        self.lay_out(input, Some(epoch), &mut create(path)?, path, true)?;
        Ok(())
    }

    fn take_disk(
        &self,
        action: &Action<Bound>,
        path: &Path,
    ) -> Result<(Outputs, u64, Option<ClaimId>), JobError> {
        let file = bounded::open(path).map_err(JobError::io("open", path))?;
        let source = RawFile::new(file).map_err(|error| JobError::Bug {
            message: format!("the disk made: {error}"),
        })?;
        let kept = self.keep(action, &source, None)?;
        let result = Outputs {
            disk: Some(kept.disk),
            tree: Some(kept.tree),
            ..Outputs::default()
        };
        Ok((result, kept.stored_bytes, kept.same_as))
    }
}
