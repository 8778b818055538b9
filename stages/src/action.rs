//! The Action: the complete, hashable description of one unit of work.
//! Knows steps and digests; knows no recipe, graph, store or sandbox.

use std::collections::BTreeMap;
use std::time::Duration;

pub use impasto_store::convert::Format;
use impasto_store::digest::{ActionDigest, ContentDigest};
use impasto_store::key::{self, Atom, Describe, Field, Sink, field};
use impasto_store::sha256::Sha256;

use crate::bootstrap::BootstrapSpec;
use crate::disk::DiskSpec;
use crate::limits::Limits;
use crate::media::{ArchiveSpec, InitramfsSpec, IsoSpec};
use crate::package_set::PackageSet;
use crate::source::SourceRequest;
use crate::test_spec::TestSpec;
use crate::value::Origin;
use crate::vendor::VendorSpec;

/// Bumped when the meaning of steps changes: what a script sees (environment, mounts, limits), how a result is sealed.
/// Last for: limits, fewer capabilities and a filter of system calls, generations of inodes, times of copied files.
pub const ENGINE_EPOCH: u32 = 5;

/// One unit of work over inputs of type `I`: [`Slot`]s before, [`Bound`] contents after binding.
#[derive(Debug, Clone, PartialEq)]
pub struct Action<I> {
    /// The stage kind that made it.
    pub kind: &'static str,
    pub kind_version: u32,
    /// Where the steps run.
    pub executor: Executor,
    /// The disk that the steps change; none for work without a disk.
    pub parent: Option<I>,
    /// Which file system of the disk is `/`.
    pub root: RootSpec,
    /// Files and trees that the steps read, by the name under which they read them.
    pub inputs: BTreeMap<String, I>,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// Environment of the steps, beyond what every step sees.
    pub env: BTreeMap<String, String>,
    /// Names of the secrets that the steps may read, with their declared versions; never their values.
    pub secrets: BTreeMap<String, Option<String>>,
    /// Files taken out at the end: name to path in the guest.
    pub outputs: BTreeMap<String, String>,
    /// Seconds since 1970 that stand for "now" wherever a time gets into the result.
    pub source_date_epoch: Option<u64>,
    /// Paths that are restored at the end, beyond [`BUILT_IN`](crate::volatile::BUILT_IN).
    pub volatile: Vec<String>,
    /// The tree of tools that the steps use, where they use one.
    pub toolbox: Option<I>,
    /// The packages that are put in and taken out; empty until the lock says which.
    pub packages: Option<PackageSet>,
    /// Which sandbox the recipe asks for.
    pub sandbox: SandboxRequirement,
    /// Whether the steps may use the network.
    pub network: bool,
    /// Whether the steps may mount, make devices and make namespaces, which weakens the sandbox.
    pub privileged: bool,
    /// What does not change the result.
    pub hints: Hints,
}

/// An Action whose inputs are still to be bound.
pub type ActionTemplate = Action<Slot>;

/// What an Action knows beside its key: it enters no digest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hints {
    /// Where the text of a field stands, by the field's path in the explanation.
    pub origins: BTreeMap<String, Origin>,
    /// How long it may run.
    pub timeout: Option<Duration>,
    /// How much of the machine it may use.
    pub limits: Limits,
    /// Where a fetched file can be had, in the order to try.
    pub urls: Vec<String>,
    /// Hosts beside its own that it may come from; none where any may be.
    pub redirects: Option<Vec<String>>,
    /// What is fetched, where the lock is to say which bytes that are: what names them in a step is empty until then.
    pub source: Option<SourceRequest>,
    /// Directories of the store that the steps can write to and find again: what they are called below
    /// `/run/impasto/caches`, and their names in the store. They may be lost at any time, and what the steps make must not
    /// depend on them.
    pub caches: BTreeMap<String, String>,
    /// The machine that the disk is for, where it is another one: its programs are emulated.
    pub architecture: Option<String>,
    /// Tests that make all of this one's checks and more, the smallest first: where one of them passed, this one did.
    pub supersets: Vec<TestSpec>,
}

/// An input that is not bound yet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// The disk, tree or single file that a stage makes.
    Stage(String),
    /// A named file that a stage makes.
    StageFile {
        stage: String,
        /// The file's name among its outputs.
        file: String,
    },
    /// A file or directory of the user's, relative to the recipe's directory.
    Local(String),
    /// The same where the times of its files count.
    LocalWithTimes(String),
    /// A directory of the user's without what some patterns name.
    LocalPart {
        path: String,
        /// Patterns of gitignore(5), from the directory on; the last that fits counts.
        ignore: Vec<String>,
        /// Whether the times of its files count.
        with_times: bool,
    },
    /// The tree of tools that the lock names.
    Toolbox,
    /// A file of the UEFI firmware that this host has.
    Firmware { secure: bool, part: FirmwarePart },
    /// What an earlier unit of work of the same stage made: its disk, its single file, or its file of this name.
    Unit {
        /// The unit, from 0.
        unit: usize,
        /// The file's name among its outputs, where it is one of several.
        file: Option<String>,
    },
}

/// A file of UEFI firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FirmwarePart {
    Code,
    /// The variables of a new machine.
    Variables,
}

/// A bound input: content and, for a file, its permission bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    pub content: ContentDigest,
    /// Permission bits of a single file; none for disks and trees.
    pub mode: Option<u32>,
    /// The Action that made it, where its stage wants all that builds on it to run again whenever it does itself.
    pub made_by: Option<ActionDigest>,
}

/// What decides whether that which builds on a stage runs again after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cutoff {
    /// What its disk contains: files, partitions, boot areas.
    #[default]
    Tree,
    /// Every byte of its disk.
    Bytes,
    Off,
}

impl Cutoff {
    /// Its names in a recipe.
    pub const NAMES: &[&str] = &["tree", "bytes", "off"];

    /// The one with this name.
    pub fn named(name: &str) -> Option<Cutoff> {
        match name {
            "tree" => Some(Cutoff::Tree),
            "bytes" => Some(Cutoff::Bytes),
            "off" => Some(Cutoff::Off),
            _ => None,
        }
    }
}

/// Where an Action's steps run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executor {
    /// In impasto itself: our own code only.
    Host,
    /// In a sandbox, in the guest's own root or in that of the toolbox.
    Sandbox(SandboxRoot),
    /// In a virtual machine that works on a throwaway overlay; what needs none is our own code's.
    Machine,
}

/// What is `/` for the steps of a sandboxed Action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxRoot {
    /// The root file system of the disk.
    Guest,
    Toolbox,
    /// The root file system of the disk, of which nothing is kept: only files are taken out.
    Scratch,
}

/// Which file system of a disk is its root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RootSpec {
    /// By partition type, or the only one that looks like a root.
    #[default]
    Auto,
    /// By partition number, from 1.
    Number(u32),
    Label(String),
    Uuid(String),
}

/// Which sandbox a recipe asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SandboxRequirement {
    /// Any that works here.
    #[default]
    Any,
    /// Namespaces of this host's kernel.
    Namespace,
    Vm,
}

impl SandboxRequirement {
    /// As recipes and sandboxes call it; none for any.
    pub fn name(self) -> Option<&'static str> {
        match self {
            SandboxRequirement::Any => None,
            SandboxRequirement::Namespace => Some("namespace"),
            SandboxRequirement::Vm => Some("vm"),
        }
    }
}

/// One primitive of an Action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Runs a script: by `/bin/sh -e`, or by its own interpreter line.
    Script { text: String },
    /// Runs one line by `/bin/sh -ec`.
    Command { line: String },
    /// Copies an input, a file or a tree, into the guest.
    CopyIn {
        input: String,
        /// Absolute path in the guest.
        dest: String,
        /// Permission bits; the source's where none are given.
        mode: Option<u32>,
        /// `user`, `user:group` or numbers; root where none is given.
        owner: Option<String>,
        /// Whether files keep their own times; else they get the Action's `source_date_epoch`.
        keep_times: bool,
    },
    /// Writes a text into a file of the guest.
    WriteFile {
        /// Absolute path in the guest.
        dest: String,
        text: String,
        mode: u32,
        /// `user`, `user:group` or numbers; root where none is given.
        owner: Option<String>,
    },
    /// Lays out the Action's packages as files, with an index of them.
    Debs,
    /// Gets all files that a language's own lock names.
    Vendor {
        /// The input with the lock.
        lock: String,
        spec: Box<VendorSpec>,
    },
    /// One file that a lock names, found again whichever lock that is. Not the step of any stage.
    Vendored {
        /// What of the lock decides which file it is.
        what: String,
    },
    /// Has the steps after it run in this directory of the guest, which is made where it is not there, and as this user.
    WorkIn {
        /// Absolute path in the guest.
        dir: String,
        /// A name of the guest's `/etc/passwd`; root where none is given. The directory becomes the user's, and so do the
        /// Action's secrets and caches.
        user: Option<String>,
    },
    /// Shows the root file system once more at `/run/impasto/root`, without what is mounted on it.
    ShowRoot,
    /// Takes a file of the user's into the store: as a disk, where it is one.
    Import {
        input: String,
        /// What it is to become.
        as_a: ImportAs,
    },
    /// Gets a file by its checksum, then does what [`Step::Import`] does.
    Fetch {
        sha256: Sha256,
        /// What it is to become.
        as_a: ImportAs,
    },
    /// Gets the files of a commit of a git repository: a tree.
    FetchGit {
        /// In hexadecimal.
        commit: String,
        /// The directory that is the tree; all of it where it is empty.
        subdirectory: String,
        /// Whether the files of submodules are in it.
        submodules: bool,
    },
    /// Makes a tree of files of the archive that the step before got.
    Unpack {
        /// Directories at the beginning of each name that are left out.
        strip: u32,
        /// The directory of the rest that is the tree; all of it where it is empty.
        subdirectory: String,
    },
    /// Writes the disk as one file.
    Convert {
        format: Format,
        /// Level of compressed clusters; that of the format where none is given.
        level: Option<i32>,
        /// Which encoder makes the frames.
        encoder: String,
    },
    /// Makes a whole disk of a tree.
    AssembleDisk {
        /// The input with the tree.
        input: String,
        spec: Box<DiskSpec>,
    },
    /// Grows a disk, and the last partition on it with its file system.
    Resize {
        /// Size of the disk in bytes, a multiple of [`MIB`](crate::disk::MIB).
        size: u64,
        /// The partition that must be the last; the root where none is given.
        partition: Option<RootSpec>,
    },
    /// Makes a root file system out of a distribution's packages: a tar archive, the Action's one file.
    Bootstrap { spec: Box<BootstrapSpec> },
    /// Makes the checks of one machine, or those that need none: a report and a console's log.
    Test { spec: Box<TestSpec> },
    /// Makes one report of those of other units.
    TestReport {
        /// What it is called.
        name: String,
        /// The names of the units' inputs, in order.
        parts: Vec<String>,
    },
    /// Makes a ramdisk of the disk's files, and takes a kernel out of it.
    Initramfs { spec: Box<InitramfsSpec> },
    /// Makes an archive of the inputs, or of the disk's files.
    Archive { spec: Box<ArchiveSpec> },
    /// Makes a bootable ISO image of the inputs, with boot loaders out of the packages.
    Iso { spec: Box<IsoSpec> },
}

/// What an imported file is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImportAs {
    /// A disk where it is a disk image, else a file.
    #[default]
    Auto,
    /// A disk, or an error.
    Disk,
    /// A file, whatever it holds.
    File,
}

impl<I> Action<I> {
    /// An Action of `kind` that does nothing yet.
    pub fn new(kind: &'static str, kind_version: u32, executor: Executor) -> Self {
        Action {
            kind,
            kind_version,
            executor,
            parent: None,
            root: RootSpec::Auto,
            inputs: BTreeMap::new(),
            steps: Vec::new(),
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            outputs: BTreeMap::new(),
            source_date_epoch: None,
            volatile: Vec::new(),
            toolbox: None,
            packages: None,
            sandbox: SandboxRequirement::Any,
            network: false,
            privileged: false,
            hints: Hints::default(),
        }
    }

    /// Whether the result depends on more than the key tells.
    pub fn is_unlocked(&self) -> bool {
        self.network
    }

    /// Whether the disk's bytes count, not only what they mean to whoever mounts it.
    pub fn reads_bytes(&self) -> bool {
        let reads_files =
            |step: &Step| matches!(step, Step::Initramfs { .. } | Step::Archive { .. });
        self.executor == Executor::Host && !self.steps.iter().any(reads_files)
    }

    /// Replaces every input by what `bind` makes of it; the first error ends it.
    pub fn bind<J, E>(self, mut bind: impl FnMut(I) -> Result<J, E>) -> Result<Action<J>, E> {
        Ok(Action {
            kind: self.kind,
            kind_version: self.kind_version,
            executor: self.executor,
            parent: self.parent.map(&mut bind).transpose()?,
            root: self.root,
            inputs: self
                .inputs
                .into_iter()
                .map(|(name, input)| Ok((name, bind(input)?)))
                .collect::<Result<_, E>>()?,
            steps: self.steps,
            env: self.env,
            secrets: self.secrets,
            outputs: self.outputs,
            source_date_epoch: self.source_date_epoch,
            volatile: self.volatile,
            toolbox: self.toolbox.map(&mut bind).transpose()?,
            packages: self.packages,
            sandbox: self.sandbox,
            network: self.network,
            privileged: self.privileged,
            hints: self.hints,
        })
    }
}

impl Action<Slot> {
    /// Every slot, parent first.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.parent
            .iter()
            .chain(self.inputs.values())
            .chain(self.toolbox.iter())
    }
}

impl Action<Bound> {
    pub fn digest(&self) -> ActionDigest {
        ActionDigest(key::digest(ActionDigest::hasher(), self))
    }

    /// What the key covers, for people: the same parts in the same order.
    pub fn explain(&self) -> Vec<Field> {
        key::explain(self)
    }
}

impl Describe for Action<Bound> {
    fn describe(&self, sink: &mut dyn Sink) {
        // No `..`: a new field does not compile until it is keyed here or moved to the hints.
        let Action {
            kind,
            kind_version,
            executor,
            parent,
            root,
            inputs,
            steps,
            env,
            secrets,
            outputs,
            source_date_epoch,
            volatile,
            toolbox,
            packages,
            sandbox,
            network,
            privileged,
            hints: _,
        } = self;
        field(sink, "engine_epoch", &ENGINE_EPOCH);
        field(sink, "kind", *kind);
        field(sink, "kind_version", kind_version);
        field(sink, "executor", executor);
        field(sink, "from", parent);
        field(sink, "root", root);
        field(sink, "inputs", inputs);
        field(sink, "packages", packages);
        field(sink, "steps", steps);
        field(sink, "env", env);
        field(sink, "secrets", secrets);
        field(sink, "output", outputs);
        field(sink, "source_date_epoch", source_date_epoch);
        field(sink, "volatile_list", &crate::volatile::VERSION);
        field(sink, "volatile", volatile);
        field(sink, "toolbox", toolbox);
        field(sink, "sandbox", sandbox);
        field(sink, "network", network);
        field(sink, "privileged", privileged);
    }
}

impl Describe for Bound {
    fn describe(&self, sink: &mut dyn Sink) {
        let Bound {
            content,
            mode,
            made_by,
        } = self;
        content.describe(sink);
        field(sink, "mode", mode);
        field(sink, "made_by", &made_by.map(|action| action.0));
    }
}

impl Describe for Executor {
    fn describe(&self, sink: &mut dyn Sink) {
        sink.put(match self {
            Executor::Host => Atom::Variant(0, "host"),
            Executor::Sandbox(SandboxRoot::Guest) => Atom::Variant(1, "sandbox, guest's root"),
            Executor::Sandbox(SandboxRoot::Toolbox) => Atom::Variant(2, "sandbox, toolbox's root"),
            Executor::Sandbox(SandboxRoot::Scratch) => {
                Atom::Variant(3, "sandbox, guest's root, of which nothing is kept")
            }
            Executor::Machine => Atom::Variant(4, "machine"),
        });
    }
}

impl Describe for RootSpec {
    fn describe(&self, sink: &mut dyn Sink) {
        match self {
            RootSpec::Auto => sink.put(Atom::Variant(0, "auto")),
            RootSpec::Number(number) => {
                sink.put(Atom::Variant(1, "number"));
                number.describe(sink);
            }
            RootSpec::Label(label) => {
                sink.put(Atom::Variant(2, "label"));
                label.describe(sink);
            }
            RootSpec::Uuid(uuid) => {
                sink.put(Atom::Variant(3, "uuid"));
                uuid.describe(sink);
            }
        }
    }
}

impl Describe for SandboxRequirement {
    fn describe(&self, sink: &mut dyn Sink) {
        sink.put(match self {
            SandboxRequirement::Any => Atom::Variant(0, "any"),
            SandboxRequirement::Namespace => Atom::Variant(1, "namespace"),
            SandboxRequirement::Vm => Atom::Variant(2, "vm"),
        });
    }
}

impl Describe for ImportAs {
    fn describe(&self, sink: &mut dyn Sink) {
        sink.put(match self {
            ImportAs::Auto => Atom::Variant(0, "auto"),
            ImportAs::Disk => Atom::Variant(1, "disk"),
            ImportAs::File => Atom::Variant(2, "file"),
        });
    }
}

impl Describe for Step {
    fn describe(&self, sink: &mut dyn Sink) {
        match self {
            Step::Script { text } => {
                sink.put(Atom::Variant(0, "script"));
                field(sink, "script", text);
            }
            Step::Command { line } => {
                sink.put(Atom::Variant(1, "command"));
                field(sink, "command", line);
            }
            Step::CopyIn {
                input,
                dest,
                mode,
                owner,
                keep_times,
            } => {
                // `ShowRoot` has the same ordinal, but no fields: the keys differ, and stay as they are.
                sink.put(if *keep_times {
                    Atom::Variant(9, "copy with times")
                } else {
                    Atom::Variant(2, "copy")
                });
                field(sink, "source", input);
                field(sink, "dest", dest);
                field(sink, "mode", mode);
                field(sink, "owner", owner);
            }
            Step::WriteFile {
                dest,
                text,
                mode,
                owner,
            } => {
                sink.put(Atom::Variant(3, "write"));
                field(sink, "dest", dest);
                field(sink, "content", text);
                field(sink, "mode", mode);
                field(sink, "owner", owner);
            }
            Step::Import { input, as_a } => {
                sink.put(Atom::Variant(4, "import"));
                field(sink, "source", input);
                field(sink, "as", as_a);
            }
            Step::Fetch { sha256, as_a } => {
                sink.put(Atom::Variant(5, "fetch"));
                field(sink, "checksum", sha256);
                field(sink, "as", as_a);
            }
            Step::FetchGit {
                commit,
                subdirectory,
                submodules,
            } => {
                sink.put(Atom::Variant(31, "fetch from git"));
                field(sink, "commit", commit);
                field(sink, "subdirectory", subdirectory);
                field(sink, "submodules", submodules);
            }
            Step::Unpack {
                strip,
                subdirectory,
            } => {
                sink.put(Atom::Variant(30, "unpack"));
                field(sink, "strip", strip);
                field(sink, "subdirectory", subdirectory);
            }
            Step::Convert {
                format,
                level,
                encoder,
            } => {
                sink.put(Atom::Variant(6, "convert"));
                field(sink, "format", format);
                // Levels are small and may be negative; the text has one spelling.
                field(
                    sink,
                    "compression_level",
                    &level.map(|level| level.to_string()),
                );
                field(sink, "encoder", encoder);
            }
            Step::AssembleDisk { input, spec } => {
                sink.put(Atom::Variant(7, "assemble disk"));
                field(sink, "tree", input);
                spec.describe(sink);
            }
            Step::Bootstrap { spec } => {
                sink.put(Atom::Variant(8, "bootstrap"));
                spec.describe(sink);
            }
            Step::Debs => sink.put(Atom::Variant(41, "package files")),
            Step::Vendor { lock, spec } => {
                sink.put(Atom::Variant(42, "vendor"));
                field(sink, "lock", lock);
                field(sink, "for", &**spec);
            }
            Step::Vendored { what } => {
                sink.put(Atom::Variant(43, "vendored file"));
                field(sink, "file", what);
            }
            Step::WorkIn { dir, user } => {
                sink.put(Atom::Variant(40, "work in"));
                field(sink, "directory", dir);
                field(sink, "user", user);
            }
            Step::ShowRoot => sink.put(Atom::Variant(9, "show root")),
            Step::Resize { size, partition } => {
                sink.put(Atom::Variant(22, "resize"));
                field(sink, "size", size);
                field(sink, "partition", partition);
            }
            Step::Test { spec } => {
                sink.put(Atom::Variant(20, "test"));
                spec.describe(sink);
            }
            Step::TestReport { name, parts } => {
                sink.put(Atom::Variant(21, "test report"));
                field(sink, "name", name);
                field(sink, "parts", parts);
            }
            Step::Initramfs { spec } => {
                sink.put(Atom::Variant(50, "initramfs"));
                spec.describe(sink);
            }
            Step::Archive { spec } => {
                sink.put(Atom::Variant(51, "archive"));
                spec.describe(sink);
            }
            Step::Iso { spec } => {
                sink.put(Atom::Variant(52, "iso"));
                spec.describe(sink);
            }
        }
    }
}
