//! One job: carries out a bound Action on a thread of its own, seals the result and claims it, writes the user's files.
//! Knows the store and the sandbox; knows no graph and no schedule.

mod error;
mod host;
mod install;
mod iso;
mod known;
mod media;
mod normalized;
mod rebase;
mod resized;
mod sandboxed;
mod shell;
mod tested;
mod tools;
mod trees;
mod vendored;

pub(in crate::engine) use trees::git_place;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use impasto_stages::Secret;
use impasto_stages::action::{
    Action, Bound, Cutoff, ENGINE_EPOCH, Executor, RootSpec, SandboxRoot,
};
use impasto_stages::package_set::PackageSet;
use impasto_store::blob::BlobRef;
use impasto_store::claim::{Caveat, Claim, Cost, FileContent, Isolation, Outputs, capped};
use impasto_store::derived::{DerivedRecord, DerivedRef};
use impasto_store::digest::{ActionDigest, ClaimId, Digest};
use impasto_store::layer::DiskRef;
use impasto_store::meter::{Meter, Metered};
use impasto_store::sha256::Sha256;
use impasto_store::{Error as StoreError, Store};

pub(crate) use error::host_failure;
pub use error::{Enter, JobError, StageFailure};
pub(crate) use install::WAITING;
pub use shell::ShellRequest;
pub use tested::console_name;

use crate::base::cancel::CancelToken;
use crate::debian::packages::fetch::Fetcher;
use crate::engine::cause::About;
use crate::engine::graph::NodeId;
use crate::engine::inputs::Input;
use crate::engine::log::Redactor;
use crate::engine::plan::Hit;
use crate::engine::publish::{Draft, SealedDraft, Target, WrittenTarget};
use crate::net::Proxies;
use crate::recipe::scope::Scope;
use crate::sandbox::{Sandbox, SandboxSetup};
use crate::vm::pool::MachinePool;

/// What a job tells the engine.
pub enum Message {
    /// Its stage wrote a line.
    Log {
        id: NodeId,
        /// The line, safe to show.
        line: String,
    },
    /// Something that the user should know.
    Warning { id: NodeId, message: String },
    /// A part of its work is over.
    Phase {
        id: NodeId,
        name: String,
        start: Instant,
        end: Instant,
    },
    /// It is over. The last message of a job.
    Done {
        id: NodeId,
        /// What it came to.
        result: Box<Result<Success, JobError>>,
    },
}

/// A job that has its result.
#[derive(Debug)]
pub struct Success {
    pub hit: Hit,
    /// Whether the Action was carried out; else only files were written.
    pub ran: bool,
    /// Bytes added to the store.
    pub stored_bytes: u64,
    /// Files that were written for the user.
    pub written: Vec<WrittenTarget>,
}

/// A file or directory that the Action reads.
#[derive(Debug, Clone)]
pub enum JobInput {
    Local {
        path: PathBuf,
        /// What it was when the plan was made.
        input: Input,
        /// What the recipe may read: asked again when the file is.
        scope: Arc<Scope>,
    },
    Blob {
        /// The node that made it.
        from: NodeId,
        blob: BlobRef,
        mode: u32,
    },
    /// A tree of files, as a tar archive.
    Tree {
        /// The node that made it.
        from: NodeId,
        archive: BlobRef,
    },
    /// A disk's, of which no bytes are kept.
    Derived {
        /// The node that made the disk.
        from: NodeId,
        disk: DiskRef,
        /// How the file is made of it.
        derived: DerivedRef,
        mode: u32,
    },
}

/// What the jobs of a run share.
pub struct JobContext {
    pub recipe: String,
    /// How messages call the recipe's directory, with a `/` at its end; empty for the current one.
    pub dir: String,
    pub recipe_dir: PathBuf,
    /// What the recipe may read.
    pub scope: Arc<Scope>,
    /// Where steps run, and what they see there.
    pub sandbox: SandboxSetup,
    /// Where package files come from; none where no node that is to run needs any.
    pub packages: Option<Fetcher>,
    /// The proxies of this host; asked where something is fetched.
    pub proxies: Arc<dyn Fn() -> Proxies + Send + Sync>,
    /// The packages of the tools that Actions with a toolbox use.
    pub toolbox: Option<PackageSet>,
    /// What claims record of the host.
    pub facts: BTreeMap<String, String>,
    /// The name of the recipe's state in the store.
    pub state: String,
    pub logs: Result<PathBuf, StoreError>,
    /// Where the states of failed stages lie.
    pub failed: Result<PathBuf, StoreError>,
    /// Where reports of tests that failed go, and how messages call that, with a `/` at its end.
    pub reports: (PathBuf, String),
    /// What virtual machines share.
    pub machines: MachinePool,
    /// Bytes that a compressed disk image may unpack to.
    pub unpack_limit: u64,
    /// Seconds since 1970, for records.
    pub now: u64,
    /// Stops all of them.
    pub cancel: CancelToken,
    /// Where they tell what happens.
    pub events: SyncSender<Message>,
}

/// What a job is to do.
pub enum JobTask {
    /// Carry out an Action, then write the node's files for the user.
    Run(Box<Action<Bound>>),
    /// Only write these files: of a result that was there.
    Publish(Box<Hit>),
}

/// One node's job, and what it reads.
pub struct Job {
    /// What it shares with others.
    pub context: Arc<JobContext>,
    pub id: NodeId,
    /// The store, which tells the meter.
    pub store: Store,
    /// How far it is where something takes long.
    pub meter: Arc<Meter>,
    pub stage: String,
    pub label: String,
    pub kind: &'static str,
    /// The node's stable names.
    pub names: Vec<String>,
    /// Which of the node's units of work this is, from 0.
    pub unit: usize,
    /// What is to be done.
    pub task: JobTask,
    /// The disk it begins with, and the node that made it.
    pub disk: Option<(NodeId, DiskRef)>,
    /// The tree index of that disk.
    pub below: Option<BlobRef>,
    /// What it reads, by name.
    pub inputs: Vec<(String, JobInput)>,
    /// What the units of this node before this one made.
    pub earlier: Vec<Outputs>,
    pub secrets: BTreeMap<String, Secret>,
    /// Takes secrets out of what is shown.
    pub redactor: Redactor,
    /// Where it stands in the recipe, and what commands about it need.
    pub about: About,
    /// What its inputs are to be believed with.
    pub caveats: BTreeSet<Caveat>,
    /// Files to write for the user.
    pub targets: Vec<Target>,
    /// What decides whether that which builds on the node runs again.
    pub cutoff: Cutoff,
    /// What the node came to when it ran before, the last run first: likely to be much like what it makes now.
    pub previous: Vec<(ActionDigest, ClaimId)>,
}

/// What came of the steps, before it is claimed.
struct JobOutput {
    result: Outputs,
    sandbox: String,
    isolation: Isolation,
    facts: BTreeMap<String, String>,
    stored_bytes: u64,
    written: Vec<WrittenTarget>,
    /// The claim whose disk is the result, because it contains the same.
    same_as: Option<ClaimId>,
}

impl JobOutput {
    fn on_host(result: Outputs, stored_bytes: u64) -> Self {
        let (sandbox, isolation) = ("host".to_owned(), Isolation::Host);
        let (facts, written, same_as) = (BTreeMap::new(), Vec::new(), None);
        JobOutput {
            result,
            sandbox,
            isolation,
            facts,
            stored_bytes,
            written,
            same_as,
        }
    }
}

impl Job {
    /// Runs the job and tells the engine, whatever happens.
    pub fn run(self) {
        let (id, context) = (self.id, self.context.clone());
        let result = catch_unwind(AssertUnwindSafe(|| self.work())).unwrap_or_else(|panic| {
            let message = panic.downcast_ref::<String>().cloned();
            let message =
                message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(JobError::Bug {
                message: message.unwrap_or_else(|| "a job panicked".to_owned()),
            })
        });
        // Whatever a job that was stopped stumbled over, it was stopped.
        let result = if context.cancel.is_cancelled() {
            result.map_err(|_| JobError::Cancelled)
        } else {
            result
        };
        // The engine is gone only where the process is about to end.
        let _ = context.events.send(Message::Done {
            id,
            result: Box::new(result),
        });
    }

    fn work(self) -> Result<Success, JobError> {
        let action = match &self.task {
            JobTask::Run(action) => action,
            JobTask::Publish(hit) => {
                let written = self.publish(hit, &[])?;
                return Ok(Success {
                    hit: (**hit).clone(),
                    ran: false,
                    stored_bytes: 0,
                    written,
                });
            }
        };
        if action.is_unlocked() && (self.context.proxies)().is_offline() {
            return Err(JobError::Offline);
        }
        let start = Instant::now();
        let made = match action.executor {
            Executor::Host => self.on_host(action)?,
            Executor::Sandbox(SandboxRoot::Guest | SandboxRoot::Scratch) => {
                self.in_sandbox(action)?
            }
            Executor::Sandbox(SandboxRoot::Toolbox) => self.with_tools(action)?,
            Executor::Machine => self.tested(action)?,
        };
        let mut caveats = self.caveats.clone();
        if action.is_unlocked() {
            caveats.insert(Caveat::Unlocked);
        }
        if made.isolation == Isolation::Weak || action.privileged {
            caveats.insert(Caveat::WeakIsolation);
        }
        let digest = action.digest();
        let mut facts = self.context.facts.clone();
        facts.extend(made.facts);
        let wall_ms = start.elapsed().as_millis() as u64;
        let claim = Claim {
            action: digest,
            kind: self.kind.to_owned(),
            stage: self.stage.clone(),
            node: self.names[0].clone(),
            recipe: self.context.recipe.clone(),
            result: made.result.clone(),
            caveats: caveats.clone(),
            sandbox: made.sandbox,
            isolation: made.isolation,
            facts,
            writer: String::new(),
            created: self.context.now,
            engine_epoch: u64::from(ENGINE_EPOCH),
            cost: Cost {
                wall_ms,
                cpu_ms: 0,
                stored_bytes: made.stored_bytes,
            },
            log: None,
            fields: capped(action.explain()),
            root: match &action.root {
                RootSpec::Auto => None,
                RootSpec::Number(number) => Some(number.to_string()),
                RootSpec::Label(label) => Some(format!("LABEL={label}")),
                RootSpec::Uuid(uuid) => Some(format!("UUID={uuid}")),
            },
            extra: made
                .same_as
                .iter()
                .map(|claim| ("disk_of_claim".to_owned(), claim.to_string()))
                .collect(),
        };
        let id = self.phase("write the claim", || self.store.put_claim(&claim))?;
        let result = made.result;
        let hit = Hit {
            action: digest,
            claim: id,
            result,
            caveats,
            wall_ms,
        };
        let mut written = made.written;
        written.extend(self.publish(&hit, &written)?);
        Ok(Success {
            hit,
            ran: true,
            stored_bytes: made.stored_bytes,
            written,
        })
    }

    /// Where an Action of a sandbox is carried out.
    fn sandbox(&self, action: &Action<Bound>) -> Result<&dyn Sandbox, JobError> {
        let no_sandbox = |reason| JobError::NoSandbox { reason };
        let sandbox = self.context.sandbox.sandbox.as_ref();
        let sandbox = sandbox.map_err(|reason| no_sandbox(reason.clone()))?;
        match action.sandbox.name() {
            Some(required) if required != sandbox.facts().name => Err(no_sandbox(format!(
                "the stage requires the sandbox {required:?}, but this run uses {:?}",
                sandbox.facts().name
            ))),
            _ => Ok(&**sandbox),
        }
    }

    /// What the node's own result, or that of a node it needs, being gone means for this job.
    fn missed(from: NodeId) -> impl Fn(StoreError) -> JobError {
        move |error| match error {
            StoreError::Miss(miss) => JobError::Miss { from, miss },
            other => JobError::Store(other),
        }
    }

    /// What is made again must be what it was.
    fn expect_same(derived: &DerivedRef, record: &DerivedRecord) -> Result<(), JobError> {
        if record.digest == derived.digest {
            return Ok(());
        }
        let what = format!(
            "{} from disk {}",
            derived.key.format,
            derived.key.disk.short()
        );
        let (was, is) = (derived.digest.short(), record.digest.short());
        Err(JobError::Bug {
            message: format!("{what} gave b3:{is}, but b3:{was} before"),
        })
    }

    /// Writes the node's files for the user, but for those that are written already.
    fn publish(&self, hit: &Hit, done: &[WrittenTarget]) -> Result<Vec<WrittenTarget>, JobError> {
        let open = self
            .targets
            .iter()
            .filter(|target| !done.iter().any(|done| done.path() == target.path));
        let open: Vec<_> = open.collect();
        if open.is_empty() {
            return Ok(Vec::new());
        }
        self.phase("write files", || self.publish_all(hit, &open))
    }

    fn publish_all(&self, hit: &Hit, targets: &[&Target]) -> Result<Vec<WrittenTarget>, JobError> {
        let mut written = Vec::new();
        let mut derived = Vec::new();
        for target in targets {
            let Some(file) = hit.file(target.file.as_ref()) else {
                let label = self.label.clone();
                return Err(match &target.file {
                    Some(file) => JobError::NoFile {
                        label,
                        file: file.clone(),
                    },
                    None => JobError::NotAFile { label },
                });
            };
            let path = &target.path;
            let draft =
                Draft::new(path, self.store.owner()).map_err(JobError::io("write", path))?;
            match &file.content {
                FileContent::Blob(blob) => {
                    let mut reader = self
                        .store
                        .open_blob(&blob.digest)
                        .map_err(Self::missed(self.id))?;
                    self.meter.begin("writing", Some(blob.size));
                    io::copy(&mut reader, &mut Metered::new(draft.file(), &self.meter))
                        .map_err(JobError::io("write", path))?;
                    let sha256 = self
                        .store
                        .blob_sha256(&blob.digest)
                        .map_err(Self::missed(self.id))?;
                    let mode = file.permissions() | 0o600;
                    self.meter.begin("syncing", None);
                    let content = file.content.digest();
                    written.push(Self::close_draft(target, draft, content, sha256, mode)?);
                }
                FileContent::Derived(file) => derived.push((*target, file, draft)),
            }
        }
        if derived.is_empty() {
            return Ok(written);
        }
        let (from, disk) = self.disk.expect("BUG: a derived file without its disk");
        let wanted = derived
            .iter()
            .map(|(_, file, draft)| (&file.key, draft.file()));
        let records = self.write_derived(from, &disk, &wanted.collect::<Vec<_>>())?;
        self.meter.begin("syncing", None);
        for ((target, file, draft), record) in derived.into_iter().zip(records) {
            Self::expect_same(file, &record)?;
            let (content, sha256) = (record.digest.0, record.sha256);
            written.push(Self::close_draft(target, draft, content, sha256, 0o644)?);
        }
        Ok(written)
    }

    /// Ends a file of the user's: it gets its name, or waits for it.
    fn close_draft(
        target: &Target,
        draft: Draft,
        content: Digest,
        sha256: Sha256,
        mode: u32,
    ) -> Result<WrittenTarget, JobError> {
        let sealed = draft.seal(content, sha256, mode);
        let written = match target.held {
            true => sealed.map(WrittenTarget::Held),
            false => sealed
                .and_then(SealedDraft::publish)
                .map(WrittenTarget::Published),
        };
        written.map_err(JobError::io("write", &target.path))
    }

    /// Does a part of the work, and tells how long it took.
    fn phase<T>(&self, name: &str, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.phase_was(name, start, Instant::now());
        result
    }

    fn phase_was(&self, name: &str, start: Instant, end: Instant) {
        let _ = self.context.events.send(Message::Phase {
            id: self.id,
            name: name.to_owned(),
            start,
            end,
        });
    }

    fn warn(&self, message: String) {
        let _ = self.context.events.send(Message::Warning {
            id: self.id,
            message,
        });
    }

    fn line(&self, line: String) {
        let _ = self.context.events.send(Message::Log { id: self.id, line });
    }
}

fn create(path: &Path) -> Result<File, JobError> {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path);
    file.map_err(JobError::io("create", path))
}
