//! One job: carries out a bound Action on a thread of its own, seals the result and claims it, writes the user's files.
//! Knows the store and the sandbox; knows no graph and no schedule.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use impasto_stages::Secret;
use impasto_stages::action::{Action, Bound, ENGINE_EPOCH, Executor, Format, ImportAs, RootSpec, Step};
use impasto_store::blob::BlobRef;
use impasto_store::claim::{Caveat, Claim, Cost, FileContent, Isolation, OutputFile, Outputs};
use impasto_store::convert::ConvertOptions;
use impasto_store::derived::{DerivedKey, DerivedRecord, DerivedRef};
use impasto_store::layer::DiskRef;
use impasto_store::qcow2::{ChunkSource, GateError, Qcow2, RawFile};
use impasto_store::seal::Absent;
use impasto_store::{Error as StoreError, Miss, Store};
use tokio::sync::mpsc::UnboundedSender;

use crate::fetch::{FetchError, fetch};
use crate::graph::NodeId;
use crate::guest;
use crate::inputs::{Input, InputError, copy_file, pack_tree};
use crate::log::{Lines, Redactor, Tail};
use crate::memory::file_name;
use crate::plan::{Hit, PlanError};
use crate::publish::{Draft, Published, Target, content_digest};
use crate::sandbox::{
    self, AgentStep, CancelToken, Content, InputKind, Outcome, Owner, Sandbox, SandboxError, SandboxEvent, Scrubbed,
};

/// What a job tells the engine.
pub enum Message {
    /// Its stage wrote a line.
    Log {
        /// The node.
        id: NodeId,
        /// The line, safe to show.
        line: String,
    },
    /// It is over. The last message of a job.
    Done {
        /// The node.
        id: NodeId,
        /// What it came to.
        result: Box<Result<Success, JobError>>,
    },
}

/// A job that has its result.
#[derive(Debug)]
pub struct Success {
    /// The result.
    pub hit: Hit,
    /// Whether the Action was carried out; else only files were written.
    pub ran: bool,
    /// Bytes added to the store.
    pub stored_bytes: u64,
    /// Files that were written.
    pub published: Vec<Published>,
}

/// A file or directory that the Action reads.
#[derive(Debug, Clone)]
pub enum JobInput {
    /// The user's.
    Local {
        /// Where it is.
        path: PathBuf,
        /// What it was when the plan was made.
        input: Input,
    },
    /// A stage's.
    Blob {
        /// The node that made it.
        from: NodeId,
        /// Its content.
        blob: BlobRef,
        /// Its permission bits.
        mode: u32,
    },
    /// A disk's, of which no bytes are kept.
    Derived {
        /// The node that made the disk.
        from: NodeId,
        /// The disk.
        disk: DiskRef,
        /// How the file is made of it.
        derived: DerivedRef,
        /// Its permission bits.
        mode: u32,
    },
}

/// Everything that a job needs to know.
pub struct Job {
    /// The node.
    pub id: NodeId,
    /// The store.
    pub store: Store,
    /// The recipe's name.
    pub recipe: String,
    /// The stage's name.
    pub stage: String,
    /// The node's label.
    pub label: String,
    /// The stage's kind.
    pub kind: &'static str,
    /// The node's stable names.
    pub names: Vec<String>,
    /// Which of the node's units of work this is, from 0.
    pub unit: usize,
    /// What is to be carried out; none where only files are to be written.
    pub action: Option<Action<Bound>>,
    /// The result, where only files are to be written.
    pub found: Option<Hit>,
    /// The disk it begins with, and the node that made it.
    pub disk: Option<(NodeId, DiskRef)>,
    /// What it reads, by name.
    pub inputs: Vec<(String, JobInput)>,
    /// Its secrets.
    pub secrets: BTreeMap<String, Secret>,
    /// Takes secrets out of what is shown.
    pub redactor: Redactor,
    /// What its inputs are to be believed with.
    pub caveats: BTreeSet<Caveat>,
    /// Files to write for the user.
    pub targets: Vec<Target>,
    /// Where steps run, or why they cannot.
    pub sandbox: Result<Arc<dyn Sandbox>, String>,
    /// What claims record of the host.
    pub facts: BTreeMap<String, String>,
    /// Where logs lie.
    pub logs: Result<PathBuf, StoreError>,
    /// Where the states of failed stages lie.
    pub failed: Result<PathBuf, StoreError>,
    /// Seconds since 1970, for records.
    pub now: u64,
    /// Stops it.
    pub cancel: CancelToken,
    /// Where it tells.
    pub events: UnboundedSender<Message>,
}

/// A job without a result.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// A result of another node that it needs is not in the store any more. The node itself, where it is its own.
    #[error("{miss}")]
    Miss {
        /// The node whose result it is.
        from: NodeId,
        /// What is missed.
        miss: Miss,
    },
    /// An input is another one than was planned.
    #[error("`{}` changes while it is read", path.display())]
    Changed {
        /// The input.
        path: PathBuf,
    },
    /// The run was stopped.
    #[error("cancelled")]
    Cancelled,
    /// The stage itself failed.
    #[error("{message}")]
    Stage {
        /// How.
        message: String,
        /// What it wrote last.
        last_lines: Vec<String>,
        /// Whether the state in which it failed can be looked at.
        shell: bool,
    },
    /// The Action could not be bound.
    #[error(transparent)]
    Plan(Box<PlanError>),
    /// There is no sandbox for it here.
    #[error("{reason}")]
    NoSandbox {
        /// Why.
        reason: String,
    },
    /// The sandbox failed.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
    /// A file could not be got.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A disk image is refused.
    #[error("{what} is refused as a disk image")]
    Gate {
        /// The file.
        what: String,
        /// Why.
        source: Box<GateError>,
    },
    /// A file is no disk.
    #[error("{what} is no disk: {reason}")]
    NoDisk {
        /// The file.
        what: String,
        /// Why.
        reason: String,
    },
    /// An input cannot be used.
    #[error(transparent)]
    Input(InputError),
    /// A file cannot be read or written.
    #[error("cannot {verb} `{}`", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A bug of impasto's.
    #[error("BUG: {message}")]
    Bug {
        /// What happened.
        message: String,
    },
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        JobError::Store(error)
    }
}

impl From<InputError> for JobError {
    fn from(error: InputError) -> Self {
        match error {
            InputError::Changed { path } => JobError::Changed { path },
            other => JobError::Input(other),
        }
    }
}

impl JobError {
    /// An Action that could not be bound.
    pub fn plan(error: PlanError) -> Self {
        JobError::Plan(Box::new(error))
    }

    fn io(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JobError {
        let path = path.to_owned();
        move |source| JobError::Io { verb, path, source }
    }

    /// The way out, for the user.
    pub fn help(&self, label: &str) -> Option<String> {
        match self {
            JobError::Stage { shell, .. } => {
                let mut help = format!("the whole log: impasto log '{label}'");
                if *shell {
                    help += &format!("\nlook around where it failed: impasto shell '{label}'");
                }
                Some(help)
            }
            JobError::NoSandbox { .. } => None,
            JobError::Changed { .. } => Some("wait until nothing writes to it, then build again".to_owned()),
            JobError::Fetch(FetchError::Checksum { .. }) => {
                Some("if the new file is the one you want, put its checksum into the recipe".to_owned())
            }
            JobError::Fetch(FetchError::TimedOut { .. }) => Some("raise the stage's `timeout`".to_owned()),
            JobError::Gate { .. } => {
                Some("make a plain copy of it where you trust it: qemu-img convert -O qcow2 OLD NEW".to_owned())
            }
            JobError::Store(error) => crate::cli::store_help(error),
            JobError::Sandbox(error) => crate::cli::sandbox_help(error),
            _ => None,
        }
    }

    /// The message, its causes and the stage's last lines.
    pub fn into_parts(self) -> (String, Vec<String>, Vec<String>) {
        let message = self.to_string();
        let mut causes = Vec::new();
        let mut source = std::error::Error::source(&self);
        while let Some(cause) = source {
            causes.push(cause.to_string());
            source = cause.source();
        }
        match self {
            JobError::Stage { last_lines, .. } => (message, causes, last_lines),
            _ => (message, causes, Vec::new()),
        }
    }
}

/// What came of the steps, before it is claimed.
struct Made {
    result: Outputs,
    sandbox: String,
    isolation: Isolation,
    facts: BTreeMap<String, String>,
    stored_bytes: u64,
    published: Vec<Published>,
}

impl Made {
    fn on_host(result: Outputs, stored_bytes: u64) -> Self {
        let (sandbox, isolation) = ("host".to_owned(), Isolation::Host);
        Made { result, sandbox, isolation, facts: BTreeMap::new(), stored_bytes, published: Vec::new() }
    }
}

impl Job {
    /// Runs the job and tells the engine, whatever happens.
    pub fn run(self) {
        let (id, events) = (self.id, self.events.clone());
        let result = catch_unwind(AssertUnwindSafe(|| self.work())).unwrap_or_else(|panic| {
            let message = panic.downcast_ref::<String>().cloned();
            let message = message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(JobError::Bug { message: message.unwrap_or_else(|| "a job panicked".to_owned()) })
        });
        // The engine is gone only where the process is about to end.
        let _ = events.send(Message::Done { id, result: Box::new(result) });
    }

    fn work(self) -> Result<Success, JobError> {
        let Some(action) = &self.action else {
            let hit = self.found.clone().expect("BUG: a job without Action and without result");
            let published = self.publish(&hit, &[])?;
            return Ok(Success { hit, ran: false, stored_bytes: 0, published });
        };
        let start = Instant::now();
        let made = match action.executor {
            Executor::Host => self.on_host(action)?,
            Executor::Sandbox(_) => self.in_sandbox(action)?,
        };
        let mut caveats = self.caveats.clone();
        if action.is_unlocked() {
            caveats.insert(Caveat::Unlocked);
        }
        if made.isolation == Isolation::Weak {
            caveats.insert(Caveat::WeakIsolation);
        }
        let digest = action.digest();
        let mut facts = self.facts.clone();
        facts.extend(made.facts);
        let wall_ms = start.elapsed().as_millis() as u64;
        let claim = Claim {
            action: digest,
            kind: self.kind.to_owned(),
            stage: self.stage.clone(),
            node: self.names[0].clone(),
            recipe: self.recipe.clone(),
            result: made.result.clone(),
            caveats: caveats.clone(),
            sandbox: made.sandbox,
            isolation: made.isolation,
            facts,
            writer: String::new(),
            created: self.now,
            engine_epoch: u64::from(ENGINE_EPOCH),
            cost: Cost { wall_ms, cpu_ms: 0, stored_bytes: made.stored_bytes },
            log: None,
            fields: impasto_store::claim::capped(action.explain()),
            root: match &action.root {
                RootSpec::Auto => None,
                RootSpec::Number(number) => Some(number.to_string()),
                RootSpec::Label(label) => Some(format!("LABEL={label}")),
                RootSpec::Uuid(uuid) => Some(format!("UUID={uuid}")),
            },
            extra: BTreeMap::new(),
        };
        let id = self.store.put_claim(&claim)?;
        let (result, isolation) = (made.result, made.isolation);
        let hit = Hit { action: digest, claim: id, result, caveats, isolation, wall_ms };
        let mut published = made.published;
        published.extend(self.publish(&hit, &published)?);
        Ok(Success { hit, ran: true, stored_bytes: made.stored_bytes, published })
    }

    /// What the node's own result, or that of a node it needs, being gone means for this job.
    fn missed(from: NodeId) -> impl Fn(StoreError) -> JobError {
        move |error| match error {
            StoreError::Miss(miss) => JobError::Miss { from, miss },
            other => JobError::Store(other),
        }
    }

    fn on_host(&self, action: &Action<Bound>) -> Result<Made, JobError> {
        let [step] = action.steps.as_slice() else { panic!("BUG: the host carries out one step, not several") };
        match step {
            Step::Import { input, as_a } => {
                let Some((_, JobInput::Local { path, input: Input::File(planned) })) =
                    self.inputs.iter().find(|(name, _)| name == input)
                else {
                    let reason = "it is a directory".to_owned();
                    return Err(JobError::NoDisk { what: format!("the input of {}", self.label), reason });
                };
                let scratch = self.store.scratch()?;
                let copy = scratch.path().join("import");
                let mut file = create(&copy)?;
                self.store.reserve(planned.blob.size)?;
                copy_file(path, &mut file, planned.blob.digest)?;
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                self.take_in(file, &name, planned.mode, *as_a)
            }
            Step::Fetch { sha256, name, as_a } => {
                let scratch = self.store.scratch()?;
                let mut file = create(&scratch.path().join("fetch"))?;
                let url = action.hints.urls.first().expect("BUG: nowhere to fetch from");
                let mut last_tenth = 0;
                let timeout = action.hints.timeout;
                fetch(url, sha256, &mut file, timeout, &self.cancel, &mut |so_far, total| {
                    let tenth = total.filter(|total| *total > 0).map_or(0, |total| so_far * 10 / total);
                    if tenth > last_tenth {
                        last_tenth = tenth;
                        self.line(format!("{} of {}", crate::ui::bytes(so_far), crate::ui::bytes(total.unwrap_or(0))));
                    }
                })
                .map_err(|error| match error {
                    FetchError::Cancelled => JobError::Cancelled,
                    other => JobError::Fetch(other),
                })?;
                let name = if name.is_empty() { "file" } else { name };
                self.take_in(file, name, 0o644, *as_a)
            }
            Step::Convert { format, level, encoder: _ } => self.convert(*format, *level),
            Step::Script { .. } | Step::Command { .. } | Step::CopyIn { .. } | Step::WriteFile { .. } => {
                panic!("BUG: a step for a sandbox was sent to the host")
            }
        }
    }

    /// Takes a file of ours into the store: as a disk where it is one.
    fn take_in(&self, mut file: File, name: &str, mode: u32, as_a: ImportAs) -> Result<Made, JobError> {
        let io = JobError::io("read", Path::new(name));
        let image = classify(&file).map_err(io)?;
        let what = || format!("`{name}`");
        let image = match (as_a, image) {
            (ImportAs::File, _) => None,
            (_, Some(image)) => Some(image),
            (ImportAs::Auto, None) => None,
            (ImportAs::Disk, None) => {
                let reason = "it holds no qcow2 header, no partition table and no file system that impasto knows";
                return Err(JobError::NoDisk { what: what(), reason: reason.to_owned() });
            }
        };
        let seal = |source: &dyn ChunkSource| self.store.seal(None, source, Absent::Zero);
        let sealed = match image {
            None => {
                file.seek(SeekFrom::Start(0)).map_err(JobError::io("read", Path::new(name)))?;
                let blob = self.store.put_blob(&mut file)?;
                let files = BTreeMap::from([(name.to_owned(), OutputFile { content: FileContent::Blob(blob), mode })]);
                return Ok(Made::on_host(Outputs { files, ..Outputs::default() }, blob.size));
            }
            Some(Image::Qcow2) => {
                let gate = |source| JobError::Gate { what: what(), source: Box::new(source) };
                seal(&Qcow2::open(file).map_err(gate)?)?
            }
            Some(Image::Raw) => {
                let reason =
                    |error: &dyn std::fmt::Display| JobError::NoDisk { what: what(), reason: error.to_string() };
                seal(&RawFile::new(file).map_err(|error| reason(&error))?)?
            }
        };
        Ok(Made::on_host(Outputs { disk: Some(sealed.disk), ..Outputs::default() }, sealed.stored_bytes))
    }

    fn convert(&self, format: Format, level: Option<i32>) -> Result<Made, JobError> {
        let (from, disk) = self.disk.expect("BUG: nothing to convert");
        let key = match format {
            Format::Qcow2 => DerivedKey::qcow2(disk.layer.disk, level),
            Format::Raw => DerivedKey::raw(disk.layer.disk),
        };
        let (record, published) = match self.targets.first() {
            Some(target) => {
                let path = &target.path;
                let draft = Draft::new(path).map_err(JobError::io("write", path))?;
                let record = self.write_derived(from, &disk, &key, draft.file())?;
                let draft = draft.publish(record.digest.0, &record.sha256.to_string(), 0o644);
                (record, vec![draft.map_err(JobError::io("write", path))?])
            }
            None => {
                let scratch = self.store.scratch()?;
                let file = create(&scratch.path().join("convert"))?;
                (self.write_derived(from, &disk, &key, &file)?, Vec::new())
            }
        };
        self.store.put_derived(&record)?;
        let derived = DerivedRef { key: record.key, digest: record.digest, size: record.size };
        let name = format!("disk.{}", format.extension());
        let file = OutputFile { content: FileContent::Derived(derived), mode: 0o644 };
        let result = Outputs { files: BTreeMap::from([(name, file)]), ..Outputs::default() };
        Ok(Made { published, ..Made::on_host(result, 0) })
    }

    /// Writes what a key describes into an empty file.
    fn write_derived(
        &self,
        from: NodeId,
        disk: &DiskRef,
        key: &DerivedKey,
        file: &File,
    ) -> Result<DerivedRecord, JobError> {
        let path = Path::new("the converted file");
        let level = key.options.get("compression_level").and_then(|level| level.parse().ok());
        let options = ConvertOptions { compression_level: level, fsync: false, digest: true, sha256: true };
        let converted = match key.format.as_str() {
            "raw" => self.store.convert_raw(&disk.layer, file, path, options),
            _ => self.store.convert_qcow2(&disk.layer, file, path, options),
        };
        let converted = converted.map_err(Self::missed(from))?;
        let (digest, sha256) = converted.digest.zip(converted.sha256).expect("BUG: asked for");
        Ok(DerivedRecord { key: key.clone(), digest, sha256, size: converted.length })
    }

    /// Writes the node's files for the user, but for those that are written already.
    fn publish(&self, hit: &Hit, done: &[Published]) -> Result<Vec<Published>, JobError> {
        let mut published = Vec::new();
        for target in &self.targets {
            if done.iter().any(|done| done.path == target.path) {
                continue;
            }
            let Some(file) = hit.file(target.file.as_ref()) else {
                let message = format!("{} made no file {:?}", self.label, target.file.as_deref().unwrap_or_default());
                return Err(JobError::Bug { message });
            };
            let path = &target.path;
            let draft = Draft::new(path).map_err(JobError::io("write", path))?;
            let sha256 = match &file.content {
                FileContent::Blob(blob) => {
                    let mut reader = self.store.open_blob(&blob.digest).map_err(Self::missed(self.id))?;
                    io::copy(&mut reader, &mut draft.file()).map_err(JobError::io("write", path))?;
                    self.store.blob_sha256(&blob.digest).map_err(Self::missed(self.id))?.to_string()
                }
                FileContent::Derived(derived) => {
                    let (from, disk) = self.disk.expect("BUG: a derived file without its disk");
                    let record = self.write_derived(from, &disk, &derived.key, draft.file())?;
                    if record.digest != derived.digest {
                        let what = format!("{} from disk {}", derived.key.format, disk.layer.disk.short());
                        let (was, is) = (derived.digest.short(), record.digest.short());
                        return Err(JobError::Bug { message: format!("{what} gave b3:{is}, and b3:{was} before") });
                    }
                    record.sha256.to_string()
                }
            };
            let mode = if matches!(file.content, FileContent::Derived(_)) { 0o644 } else { file.mode | 0o600 };
            let draft = draft.publish(content_digest(&file.content), &sha256, mode);
            published.push(draft.map_err(JobError::io("write", path))?);
        }
        Ok(published)
    }

    fn in_sandbox(&self, action: &Action<Bound>) -> Result<Made, JobError> {
        let sandbox = self.sandbox.as_ref().map_err(|reason| JobError::NoSandbox { reason: reason.clone() })?;
        let (from, disk) = self.disk.expect("BUG: a sandbox without a disk");
        let chain = self.store.chain(&disk.layer).map_err(Self::missed(from))?;
        let scratch = self.store.scratch()?;
        let work = scratch.path().join("sandbox");
        std::fs::create_dir(&work).map_err(JobError::io("make", &work))?;
        let overlay = scratch.path().join("overlay.qcow2");
        let mut staged = Staged::default();
        self.stage_inputs(action, scratch.path(), &mut staged)?;
        let mut log = LogFile::create(self)?;
        let job = sandbox::Job {
            work: &work,
            overlay: &overlay,
            chain: chain.paths,
            virtual_size: disk.virtual_size,
            root: root(&action.root),
            steps: staged.steps,
            inputs: staged
                .inputs
                .iter()
                .map(|(name, mode, path)| sandbox::Input {
                    name: name.clone(),
                    mode: *mode,
                    content: Content::Path(path),
                })
                .collect(),
            scripts: staged.scripts,
            secrets: self.secrets.iter().map(|(n, secret)| (n.clone(), secret.expose().as_bytes().to_vec())).collect(),
            outputs: action.outputs.iter().map(|(name, path)| (name.clone(), path.clone())).collect(),
            env: action.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            source_date_epoch: action.source_date_epoch,
            network: action.network,
            timeout: action.hints.timeout,
            cancel: self.cancel.clone(),
        };
        let finished = sandbox.run(job, &mut |event| {
            if let SandboxEvent::Log { bytes, .. } = event {
                log.bytes(bytes);
            }
        });
        let last_lines = log.finish();
        let finished = finished?;
        tracing::debug!(stage = self.label, timings = ?finished.timings, "sandbox");
        if !finished.outcome.is_ok() {
            if matches!(finished.outcome, Outcome::Cancelled) {
                return Err(JobError::Cancelled);
            }
            let shell = finished.outcome.leaves_a_disk() && self.keep_failed(&overlay, &disk, action).is_ok();
            let message = outcome_text(&finished.outcome, &action.steps, staged.unpacked);
            return Err(JobError::Stage { message, last_lines, shell });
        }
        let source = Qcow2::open(File::open(&overlay).map_err(JobError::io("open", &overlay))?);
        let source =
            source.map_err(|source| JobError::Gate { what: "the overlay".to_owned(), source: Box::new(source) })?;
        let source = Scrubbed::new(&source, &finished.unused);
        let sealed = self.store.seal(Some(&disk.layer), &source, Absent::AsParent).map_err(Self::missed(from))?;
        let mut stored_bytes = sealed.stored_bytes;
        let mut files = BTreeMap::new();
        for output in finished.outputs {
            let file = File::open(&output.path).map_err(JobError::io("open", &output.path))?;
            let blob = self.store.put_blob(file)?;
            stored_bytes += blob.size;
            files.insert(output.name, OutputFile { content: FileContent::Blob(blob), mode: output.mode });
        }
        self.forget_failed();
        let facts = sandbox.facts();
        Ok(Made {
            result: Outputs { disk: Some(sealed.disk), tree: None, files },
            sandbox: facts.name.to_owned(),
            isolation: Isolation::Namespace,
            facts: record(&facts),
            stored_bytes,
            published: Vec::new(),
        })
    }

    /// Copies everything that the steps read to where nobody else writes, and names it for the agent.
    fn stage_inputs(&self, action: &Action<Bound>, scratch: &Path, staged: &mut Staged) -> Result<(), JobError> {
        let mut kinds = BTreeMap::new();
        for (place, (name, input)) in self.inputs.iter().enumerate() {
            let path = scratch.join(format!("input-{place}"));
            let mut file = create(&path)?;
            let (mode, kind) = match input {
                JobInput::Local { path: from, input: Input::File(planned) } => {
                    copy_file(from, &mut file, planned.blob.digest)?;
                    (planned.mode, InputKind::File)
                }
                JobInput::Local { path: from, input: Input::Tree { entries, .. } } => {
                    pack_tree(from, entries, &mut io::BufWriter::new(&mut file))?;
                    (0o755, InputKind::Tar)
                }
                JobInput::Blob { from, blob, mode } => {
                    let mut reader = self.store.open_blob(&blob.digest).map_err(Self::missed(*from))?;
                    io::copy(&mut reader, &mut file).map_err(JobError::io("write", &path))?;
                    (*mode, InputKind::File)
                }
                JobInput::Derived { from, disk, derived, mode } => {
                    self.write_derived(*from, disk, &derived.key, &file)?;
                    (*mode, InputKind::File)
                }
            };
            kinds.insert(name.clone(), kind);
            let used_by_step =
                action.steps.iter().any(|step| matches!(step, Step::CopyIn { input, .. } if input == name));
            let name = match kind {
                // A tree that scripts read is laid out beside the files, under its own name.
                InputKind::Tar if !used_by_step => {
                    let (input, dest) = (format!("{name}.tar"), format!("/run/impasto/inputs/{name}"));
                    let step = AgentStep::CopyIn { input: input.clone(), dest, mode: None, owner: None, kind };
                    staged.steps.push(step);
                    staged.unpacked += 1;
                    input
                }
                _ => name.clone(),
            };
            staged.inputs.push((name, mode, path));
        }
        for (index, step) in action.steps.iter().enumerate() {
            let step = match step {
                Step::Script { text } => {
                    let name = format!("script-{index}");
                    staged.scripts.push((name.clone(), text.clone().into_bytes()));
                    AgentStep::Script { name }
                }
                Step::Command { line } => AgentStep::Command { line: line.clone() },
                Step::CopyIn { input, dest, mode, owner } => AgentStep::CopyIn {
                    input: input.clone(),
                    dest: dest.clone(),
                    mode: *mode,
                    owner: owner.as_deref().map(parse_owner),
                    kind: kinds[input],
                },
                Step::WriteFile { dest, text, mode, owner } => {
                    let input = format!("text-{index}");
                    let path = scratch.join(&input);
                    create(&path)?.write_all(text.as_bytes()).map_err(JobError::io("write", &path))?;
                    staged.inputs.push((input.clone(), *mode, path));
                    let (dest, owner) = (dest.clone(), owner.as_deref().map(parse_owner));
                    AgentStep::CopyIn { input, dest, mode: Some(*mode), owner, kind: InputKind::File }
                }
                Step::Import { .. } | Step::Fetch { .. } | Step::Convert { .. } => {
                    panic!("BUG: a step for the host was sent to a sandbox")
                }
            };
            staged.steps.push(step);
        }
        Ok(())
    }

    /// Keeps the state in which the stage failed, for `shell`, until it succeeds or fails again.
    fn keep_failed(&self, overlay: &Path, disk: &DiskRef, action: &Action<Bound>) -> Result<(), JobError> {
        let Ok(dir) = &self.failed else { return Ok(()) };
        for name in &self.names {
            let state = crate::shell::FailedState { disk: *disk, root: crate::shell::StoredRoot::from(&action.root) };
            state.keep(dir, name, overlay).map_err(JobError::io("keep the failed state in", dir))?;
        }
        Ok(())
    }

    fn forget_failed(&self) {
        if let Ok(dir) = &self.failed {
            self.names.iter().for_each(|name| crate::shell::FailedState::forget(dir, name));
        }
    }

    fn line(&self, line: String) {
        let _ = self.events.send(Message::Log { id: self.id, line });
    }
}

#[derive(Default)]
struct Staged {
    steps: Vec<AgentStep>,
    /// Name, permission bits, and the copy.
    inputs: Vec<(String, u32, PathBuf)>,
    scripts: Vec<(String, Vec<u8>)>,
    /// How many steps, at the beginning, only lay out inputs.
    unpacked: usize,
}

/// A stage's log: every line goes to its file and to the engine.
struct LogFile<'a> {
    job: &'a Job,
    lines: Lines,
    tail: Tail,
    file: Option<io::BufWriter<File>>,
}

impl<'a> LogFile<'a> {
    fn create(job: &'a Job) -> Result<Self, JobError> {
        // A log that cannot be kept is no reason not to build.
        let file = job.logs.as_ref().ok().and_then(|dir| {
            let path = dir.join(format!("{}.log", file_name(&job.names[0])));
            // The log of a node is that of all of its units.
            let mut open = File::options();
            open.create(true).write(true).truncate(job.unit == 0).append(job.unit > 0);
            let file = open.open(&path).ok()?;
            for other in &job.names[1..] {
                let link = dir.join(format!("{}.log", file_name(other)));
                let _ = std::fs::remove_file(&link);
                let _ = std::fs::hard_link(&path, &link);
            }
            Some(io::BufWriter::new(file))
        });
        Ok(LogFile { job, lines: Lines::new(job.redactor.clone()), tail: Tail::default(), file })
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let LogFile { job, lines, tail, file } = self;
        lines.push(bytes, &mut |line| Self::take(job, tail, file, line));
    }

    fn take(job: &Job, tail: &mut Tail, file: &mut Option<io::BufWriter<File>>, line: String) {
        tail.push(&line);
        if let Some(open) = file {
            if writeln!(open, "{line}").is_err() {
                *file = None;
            }
        }
        job.line(line);
    }

    fn finish(mut self) -> Vec<String> {
        let LogFile { job, lines, tail, file } = &mut self;
        lines.finish(&mut |line| Self::take(job, tail, file, line));
        self.tail.into_lines()
    }
}

/// What a file is, by its first bytes.
enum Image {
    Qcow2,
    Raw,
}

/// Whether a file is a disk image: qcow2, or raw with a partition table or a file system.
fn classify(file: &File) -> io::Result<Option<Image>> {
    use std::os::unix::fs::FileExt;
    let mut magic = [0; 4];
    let size = file.metadata()?.len();
    if size >= 4 {
        file.read_exact_at(&mut magic, 0)?;
    }
    if magic == *b"QFI\xfb" {
        return Ok(Some(Image::Qcow2));
    }
    // ISO 9660 images carry partition tables too, for sticks; what they are is files (ECMA-119, 8.1.2).
    let mut iso = [0; 5];
    if size > 0x8006 {
        file.read_exact_at(&mut iso, 0x8001)?;
    }
    if iso == *b"CD001" || size % 512 != 0 || size == 0 {
        return Ok(None);
    }
    let layout = guest::read_layout(&guest::DiskFile::new(file.try_clone()?)?)?;
    let is_disk = !layout.partitions.is_empty() || layout.bare.is_some();
    Ok(is_disk.then_some(Image::Raw))
}

/// A sandbox's facts in the form in which claims record them.
fn record(facts: &sandbox::SandboxFacts) -> BTreeMap<String, String> {
    let agent: String = facts.agent.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut record = BTreeMap::from([("kernel".to_owned(), facts.kernel.clone()), ("agent".to_owned(), agent)]);
    record.extend(facts.storage.iter().map(|version| ("qemu-storage-daemon".to_owned(), version.clone())));
    record
}

fn create(path: &Path) -> Result<File, JobError> {
    let file = File::options().read(true).write(true).create_new(true).open(path);
    file.map_err(JobError::io("create", path))
}

fn root(root: &RootSpec) -> guest::RootSpec {
    match root {
        RootSpec::Auto => guest::RootSpec::Auto,
        RootSpec::Number(number) => guest::RootSpec::Number(*number),
        RootSpec::Label(label) => guest::RootSpec::Label(label.clone()),
        RootSpec::Uuid(uuid) => guest::RootSpec::Uuid(uuid.clone()),
    }
}

fn parse_owner(owner: &str) -> Owner {
    let (user, group) = owner.split_once(':').unwrap_or((owner, owner));
    Owner { user: user.to_owned(), group: group.to_owned() }
}

fn outcome_text(outcome: &Outcome, steps: &[Step], unpacked: usize) -> String {
    let step = |index: usize| match index.checked_sub(unpacked).and_then(|index| steps.get(index)) {
        None => "laying out the inputs".to_owned(),
        Some(Step::Script { .. }) => "the script".to_owned(),
        Some(Step::Command { .. }) => format!("command {}", index - unpacked + 1),
        Some(Step::CopyIn { dest, .. } | Step::WriteFile { dest, .. }) => format!("copying to {dest}"),
        Some(_) => format!("step {}", index - unpacked + 1),
    };
    match outcome {
        Outcome::StepFailed { index, code: Some(code), .. } => format!("{} ended with exit code {code}", step(*index)),
        Outcome::StepFailed { index, signal, .. } => {
            format!("{} was ended by signal {}", step(*index), signal.unwrap_or_default())
        }
        Outcome::StepRefused { index, problem } => format!("{} failed: {problem}", step(*index)),
        Outcome::OutputRefused { name, problem } => format!("the output {name:?} cannot be taken out: {problem}"),
        Outcome::TimedOut { after } => format!("it was stopped after its time-out of {}", crate::ui::seconds(*after)),
        Outcome::Damaged { problem } => format!("the disk was damaged: {problem}"),
        Outcome::Ok | Outcome::Cancelled => panic!("BUG: {outcome:?} is no failure"),
    }
}
