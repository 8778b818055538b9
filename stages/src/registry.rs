//! The list of stage kinds, and what a kind declares about itself: parameters, result, how it lowers.
//! Knows no syntax: the recipe checks values against [`Type`] and says where they stand.

use std::collections::BTreeMap;

use crate::action::{ActionTemplate, Cutoff, Executor, RootSpec, SandboxRoot, Slot, Step};
use crate::error::ParamError;
use crate::kinds;
use crate::package_set::{ARCHITECTURE, PackageRequest};
use crate::params::{Params, Secret};

/// The type that a parameter's value must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// `true` or `false`.
    Bool,
    Int,
    Text,
    /// `90s`, `15m`, `1h30m`: text that `parse_duration` reads.
    Duration,
    /// `"0644"`: text that `parse_mode` reads.
    Mode,
    /// A stage that makes a disk.
    Disk,
    /// A file that a stage makes (`stage.NAME` or `stage.NAME.files["…"]`), or the path of a file or directory of the
    /// user's, relative to the recipe.
    File,
    /// The path of a file of the user's, relative to the recipe.
    Path,
    /// The path of a file or directory of the user's, relative to the recipe.
    FileOrDirectory,
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// Elements of one type.
    List(&'static Type),
    /// Values of one type by name.
    Map(&'static Type),
    Object(&'static [ParamSpec]),
    /// Secrets by name: a text, or an object of `value` and `version`. The one place for sensitive values.
    Secrets,
    /// The first of these types that the value has.
    Either(&'static [Type]),
}

/// What a parameter is called, takes and does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParamSpec {
    /// Its name in a recipe.
    pub name: &'static str,
    /// What it was called before: taken all the same, and shown nowhere.
    pub alias: Option<&'static str>,
    /// The type of its value.
    pub ty: Type,
    /// Whether a stage must give it.
    pub required: bool,
    /// What it does, and what happens without it: one or two sentences.
    pub help: &'static str,
}

impl ParamSpec {
    /// A parameter that may be left out.
    pub const fn optional(name: &'static str, ty: Type, help: &'static str) -> Self {
        ParamSpec {
            name,
            alias: None,
            ty,
            required: false,
            help,
        }
    }

    /// A parameter that must be given.
    pub const fn required(name: &'static str, ty: Type, help: &'static str) -> Self {
        ParamSpec {
            name,
            alias: None,
            ty,
            required: true,
            help,
        }
    }

    /// The same, which also goes by the name that it had before.
    pub const fn once_called(self, alias: &'static str) -> Self {
        ParamSpec {
            alias: Some(alias),
            ..self
        }
    }
}

/// What a stage of a kind makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Makes {
    /// A disk, and the files that its `output` names.
    Disk,
    File,
    /// One tree of files, which serves wherever a directory beside the recipe does.
    Tree,
    /// A disk or one file, as its input turns out to be.
    DiskOrFile,
}

impl Makes {
    /// Whether a stage of this kind can be another's disk.
    pub fn disk(self) -> bool {
        matches!(self, Makes::Disk | Makes::DiskOrFile)
    }

    /// Whether a stage of this kind can be used as a file.
    pub fn file(self) -> bool {
        matches!(self, Makes::File | Makes::Tree | Makes::DiskOrFile)
    }
}

/// What a kind knows of the recipe around a stage when it lowers it.
#[derive(Debug, Clone, Default)]
pub struct StageContext {
    pub name: String,
    /// The recipe's epoch.
    pub source_date_epoch: Option<u64>,
    /// Sandboxes that a stage may require, by name.
    pub sandboxes: Vec<&'static str>,
    /// Tags that select checks; all are made where there are none.
    pub tags: Vec<String>,
}

/// What a stage lowers to.
#[derive(Debug, Clone, Default)]
pub struct Lowered {
    /// The units of work, in order.
    pub actions: Vec<ActionTemplate>,
    /// Values of the secrets that the Actions name.
    pub secrets: BTreeMap<String, Secret>,
    /// Packages that the Actions put in and take out: the lock says which files these are.
    pub request: Option<PackageRequest>,
}

impl Lowered {
    /// Tells the Actions that work in the disk of another stage which of its file systems is `/`: the stage that the disk
    /// came from says so, and that is known only when all stages are lowered.
    pub fn set_root(&mut self, root: &RootSpec) {
        for action in &mut self.actions {
            let in_sandbox = matches!(action.executor, Executor::Sandbox(_));
            if in_sandbox && matches!(action.parent, Some(Slot::Stage(_))) {
                action.root = root.clone();
            }
        }
    }
}

impl Lowered {
    /// Tells the Actions that run programs of a disk which machine these are for: one of another machine needs the
    /// toolbox's emulator. That, too, is known only when all stages are lowered.
    pub fn set_architecture(&mut self, architecture: &str) {
        if architecture == ARCHITECTURE {
            return;
        }
        let is_builder = self
            .request
            .as_ref()
            .is_some_and(PackageRequest::is_builder);
        for action in &mut self.actions {
            // Modules are compiled by programs of their own machine.
            for step in action.steps.iter_mut().filter(|_| is_builder) {
                if let Step::Bootstrap { spec } = step {
                    architecture.clone_into(&mut spec.architecture);
                }
            }
            let in_guest = matches!(
                action.executor,
                Executor::Sandbox(SandboxRoot::Guest | SandboxRoot::Scratch)
            );
            let runs = |step: &Step| matches!(step, Step::Script { .. } | Step::Command { .. });
            if in_guest && action.steps.iter().any(runs) {
                action.toolbox = Some(Slot::Toolbox);
            }
            if action.toolbox.is_some() || action.executor == Executor::Machine {
                action.hints.architecture = Some(architecture.to_owned());
            }
        }
    }
}

/// The files of a unit that ran, by name: what [`Kind::expand`] may decide by.
pub type UnitFiles = BTreeMap<String, Vec<u8>>;

/// How the files of a unit that ran become further units of the same stage, which come right after it: pure.
pub type Expand = fn(&ActionTemplate, &UnitFiles) -> Result<Vec<ActionTemplate>, ParamError>;

/// How a stage becomes units of work: pure.
pub type Lower = fn(&Params, &StageContext) -> Result<Lowered, Vec<ParamError>>;

#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Its name in a recipe.
    pub name: &'static str,
    /// Bumped when what it lowers to changes its meaning without changing its steps.
    pub version: u32,
    /// One line, for lists.
    pub summary: &'static str,
    /// A short example of a stage, in a recipe's syntax.
    pub example: &'static str,
    pub makes: Makes,
    /// Names of the files that every stage of it makes, beside those that its `output` names.
    pub files: &'static [&'static str],
    /// Its parameters, in the order of its help.
    pub params: &'static [&'static [ParamSpec]],
    /// Lowers a stage.
    pub lower: Lower,
    /// Makes further units of what a unit gave, where the kind does so. The stage's result is that of its last unit.
    pub expand: Option<Expand>,
}

impl Kind {
    /// The parameters, in the order of its help.
    pub fn params(&self) -> impl Iterator<Item = &'static ParamSpec> {
        self.params.iter().flat_map(|group| group.iter())
    }

    /// The parameter of this name, or that had it before.
    pub fn param(&self, name: &str) -> Option<&'static ParamSpec> {
        self.params()
            .find(|param| param.name == name || param.alias == Some(name))
    }
}

/// The kinds that recipes can use, the sandboxes that they can require, and what of tests is wanted.
#[derive(Debug, Clone)]
pub struct Registry {
    kinds: Vec<&'static Kind>,
    sandboxes: Vec<&'static str>,
    tags: Vec<String>,
}

impl Default for Registry {
    fn default() -> Self {
        Registry::new(kinds::ALL.to_vec())
    }
}

impl Registry {
    /// A registry of these kinds, without sandboxes; [`Registry::default`] has all kinds that impasto ships.
    pub fn new(kinds: Vec<&'static Kind>) -> Self {
        Registry {
            kinds,
            sandboxes: Vec::new(),
            tags: Vec::new(),
        }
    }

    /// The same, with sandboxes of these names.
    #[must_use]
    pub fn with_sandboxes(self, names: impl IntoIterator<Item = &'static str>) -> Self {
        Registry {
            sandboxes: names.into_iter().collect(),
            ..self
        }
    }

    /// The same; of tests only the checks with one of these tags, where there are any.
    #[must_use]
    pub fn with_tags(self, tags: Vec<String>) -> Self {
        Registry { tags, ..self }
    }

    /// Tags that select checks.
    pub fn tags(&self) -> &[String] {
        &self.tags
    }

    /// Names of the sandboxes that stages may require.
    pub fn sandboxes(&self) -> &[&'static str] {
        &self.sandboxes
    }

    /// The kind of this name.
    pub fn get(&self, name: &str) -> Option<&'static Kind> {
        self.kinds.iter().copied().find(|kind| kind.name == name)
    }

    /// All kinds, in the order of the reference.
    pub fn iter(&self) -> impl Iterator<Item = &'static Kind> {
        self.kinds.iter().copied()
    }
}

impl Kind {
    /// What a stage of this kind makes, as far as its parameters tell.
    pub fn made(&self, params: &Params) -> Makes {
        match (self.makes, params.text("as")) {
            (Makes::DiskOrFile, Some("disk")) => Makes::Disk,
            (Makes::DiskOrFile, Some("file")) => Makes::File,
            (Makes::DiskOrFile, Some("tree")) => Makes::Tree,
            (Makes::DiskOrFile, None) if params.get("git").is_some() => Makes::Tree,
            (Makes::DiskOrFile, None)
                if params.get("install").is_some() && !params.flag("install") =>
            {
                Makes::File
            }
            (Makes::DiskOrFile, None) if self.param("install").is_some() => Makes::Disk,
            (makes, _) => makes,
        }
    }

    /// The file that a stage of this kind stands for where it makes several: the first, where that is called like the kind.
    pub fn main_file(&self) -> Option<&'static str> {
        self.files
            .first()
            .copied()
            .filter(|file| *file == self.name)
    }

    /// Names of the files that a stage of this kind makes beside its disk, or in place of its one file; none for a kind
    /// that has no such files.
    pub fn named_files(&self, params: &Params) -> Option<Vec<String>> {
        let formats = match self.param("formats") {
            Some(_) => kinds::converted_files(params),
            None => Vec::new(),
        };
        if self.files.is_empty() && formats.is_empty() {
            self.param("output")?;
        }
        let always = self.files.iter().map(|name| (*name).to_owned());
        let output = params.pairs("output").map(|(name, _)| name.clone());
        Some(always.chain(formats).chain(output).collect())
    }

    /// Which file system is `/` on the disk that a stage of this kind begins a chain with; [`RootSpec::Auto`] where the
    /// kind has no such parameter.
    ///
    /// # Errors
    /// The parameter's value names no partition.
    pub fn root(&self, params: &Params) -> Result<RootSpec, ParamError> {
        kinds::root(params)
    }

    /// What decides whether that which builds on a stage of this kind runs again; none where the stage does not say.
    pub fn cutoff(&self, params: &Params) -> Option<Cutoff> {
        Cutoff::named(params.text("cutoff")?)
    }
}
