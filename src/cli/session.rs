//! What commands share: the recipe that the arguments name, the store, the graph, a planner.
//! Knows no single command.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use impasto_stages::{Registry, parse_size};
use impasto_store::Store;
use impasto_store::digest::ActionDigest;

use super::error::CliError;
use super::hint::recipe_help;
use super::{Global, RecipeArgs, SandboxChoice};
use crate::base::host::Host;
use crate::base::interrupt::Interrupt;
use crate::cli::settings::{Setting, SettingOrigin, Settings};
use crate::debian::mirror::{MirrorChoice, ProxyChoice};
use crate::disk::packed;
use crate::engine::graph::{Graph, Selection};
use crate::engine::history::RecipeState;
use crate::engine::plan::Planner;
use crate::lock::{self, LockFile};
use crate::net::Proxies;
use crate::recipe::scope::Scope;
use crate::recipe::{self, LoadRequest, Recipe};
use crate::sandbox::{GuestEnvironment, LazyPolicy, SandboxKind, SandboxSetup};

pub(crate) struct Session {
    pub(crate) host: Host,
    pub(crate) global: Global,
    pub(crate) start: Instant,
    /// What the user's and the system's files say.
    pub(crate) settings: Settings,
    /// What stages see of the place where they run.
    pub(crate) environment: GuestEnvironment,
    /// What the process is asked by signals.
    pub(crate) interrupt: Interrupt,
    /// The command line, the program's name first.
    pub(crate) arguments: Vec<String>,
}

/// A recipe with its graph, and the selectors that were given.
pub(crate) struct Loaded {
    pub(crate) recipe: Recipe,
    pub(crate) graph: Graph,
    /// The settings, its repository's among them.
    pub(crate) settings: Settings,
    /// Where steps would run.
    pub(crate) sandbox: SandboxKind,
    selectors: Vec<String>,
}

impl Session {
    /// The store's directory, and who named it.
    pub(crate) fn store_setting(&self) -> Setting<PathBuf> {
        if let Some(path) = &self.global.store {
            return Setting {
                value: self.host.cwd.join(path),
                origin: SettingOrigin::Flag("--store"),
            };
        }
        if let Some(dir) = self.host.var("IMPASTO_STORE").filter(|dir| !dir.is_empty()) {
            return Setting {
                value: self.host.cwd.join(dir),
                origin: SettingOrigin::Environment("IMPASTO_STORE"),
            };
        }
        let default = || Setting {
            value: self.host.default_store(),
            origin: SettingOrigin::Default,
        };
        self.settings.store.clone().unwrap_or_else(default)
    }

    fn store_path(&self) -> PathBuf {
        self.store_setting().value
    }

    /// Bytes that a compressed disk image may unpack to.
    pub(crate) fn unpack_limit(&self) -> Result<u64, CliError> {
        let text = self.host.var(packed::LIMIT_VARIABLE).unwrap_or_default();
        if text.is_empty() {
            return Ok(packed::DEFAULT_LIMIT);
        }
        parse_size(text).filter(|size| *size > 0).ok_or_else(|| {
            let variable = packed::LIMIT_VARIABLE;
            CliError::usage(
                format!("{variable}={text} is not a valid size"),
                format!("write it as {variable}=128GiB"),
            )
        })
    }

    /// How many stages may run at once where nobody says.
    pub(crate) fn default_jobs(&self) -> u16 {
        u16::try_from(self.host.cpus).unwrap_or(u16::MAX)
    }

    /// How many stages may run at once.
    pub(crate) fn jobs(&self, flag: Option<u16>, settings: &Settings) -> usize {
        let setting = settings.jobs.as_ref().map(|setting| setting.value);
        flag.or(setting)
            .unwrap_or_else(|| self.default_jobs())
            .into()
    }

    /// What a recipe at a path may read where nothing more is allowed.
    pub(crate) fn scope_of(&self, path: &Path) -> Result<Scope, CliError> {
        let full = std::fs::canonicalize(path).map_err(CliError::io("find", path))?;
        let dir = if full.is_dir() {
            &full
        } else {
            full.parent().unwrap_or(&full)
        };
        let scope = Scope::new(dir, self.host.home().as_deref(), &[]);
        scope.map_err(|(path, error)| CliError::io("open", path)(error))
    }

    pub(crate) fn store(&self) -> Result<Store, CliError> {
        Ok(Store::open_for(self.store_path(), &self.host.owner())?)
    }

    /// Makes the store's `format` again where it is lost.
    pub(crate) fn renew_store_format(&self) -> Result<(), CliError> {
        Ok(Store::renew_format(self.store_path(), &self.host.owner())?)
    }

    /// Loads the recipe and opens the store, whose index is read meanwhile.
    pub(crate) fn load_with_store(&self, args: &RecipeArgs) -> Result<(Loaded, Store), CliError> {
        let path = self.store_path();
        std::thread::scope(|scope| {
            // A store that is not there yet is made when the recipe is known to be right.
            let open = || {
                let store = Store::open_for(&path, &self.host.owner())?;
                // Looking anything up reads the index; what is found, or fails, is the planner's business.
                drop(store.lookup(&ActionDigest::of(b"")));
                Ok::<_, impasto_store::Error>(store)
            };
            let exists = path.join("format").exists();
            let early = exists
                .then(|| std::thread::Builder::new().spawn_scoped(scope, open).ok())
                .flatten();
            let loaded = self.load(args)?;
            let store = match early {
                Some(thread) => thread.join().expect("BUG: opening the store panicked")?,
                None => self.store()?,
            };
            Ok((loaded, store))
        })
    }

    /// Splits positional arguments into the recipe's path and selectors: the first is a path if it exists, holds a `/` or
    /// ends in `.hcl`.
    pub(crate) fn recipe_path(&self, args: &RecipeArgs) -> (PathBuf, Vec<String>) {
        let looks_like_path = |name: &OsStr| {
            let bytes = name.as_encoded_bytes();
            // An empty name is that of no path, also where a script's variable should have been one.
            if bytes.is_empty() {
                return false;
            }
            bytes.contains(&b'/') || bytes.ends_with(b".hcl") || self.host.cwd.join(name).exists()
        };
        match (&args.recipe, args.names.split_first()) {
            (Some(path), _) => (self.host.cwd.join(path), texts(&args.names)),
            (None, Some((first, rest))) if looks_like_path(first) => {
                (self.host.cwd.join(first), texts(rest))
            }
            (None, _) => (self.host.cwd.clone(), texts(&args.names)),
        }
    }

    /// What to say where a name may have been meant for a stage, but is that of a path.
    fn taken_for_recipe(&self, args: &RecipeArgs) -> Option<String> {
        let name = args
            .names
            .first()
            .filter(|_| args.recipe.is_none())?
            .to_str()?;
        let is_plain =
            !name.contains('/') && !name.ends_with(".hcl") && name != "." && name != "..";
        let is_meant = is_plain
            && self.host.cwd.join(name).exists()
            && !recipe::recipe_files(&self.host.cwd).is_empty();
        is_meant.then(|| {
            format!("`{name}` is a path, so it is taken as the recipe; for a stage of this name write `. {name}`")
        })
    }

    /// What another command needs to find the same recipe, variables and store: as typed, quoted for a shell.
    pub(crate) fn place(&self, args: &RecipeArgs) -> String {
        let (path, _) = self.recipe_path(args);
        let mut place = String::new();
        let mut add = |option: &str, value: &str| place += &format!(" {option} {}", quoted(value));
        if path != self.host.cwd {
            add(
                "--recipe",
                &shown(&path, &self.host.cwd).display().to_string(),
            );
        }
        args.vars.iter().for_each(|pair| add("--var", pair));
        args.var_files
            .iter()
            .for_each(|file| add("--var-file", &file.display().to_string()));
        args.only.iter().for_each(|only| add("--only", only));
        args.allow_paths
            .iter()
            .for_each(|path| add("--allow-path", &path.display().to_string()));
        if let Some(store) = &self.global.store {
            add("--store", &store.display().to_string());
        }
        place
    }

    /// The recipe's directory before the name of a file in it: with a `/` at its end, empty for the current directory.
    pub(crate) fn shown_dir(&self, loaded: &Loaded) -> String {
        match shown(&loaded.recipe.dir, &self.host.cwd)
            .display()
            .to_string()
        {
            here if here.is_empty() => here,
            dir => dir + "/",
        }
    }

    /// Reads, evaluates and checks the recipe; tells its warnings.
    pub(crate) fn load(&self, args: &RecipeArgs) -> Result<Loaded, CliError> {
        let loaded = self.load_quietly(args)?;
        if !loaded.recipe.warnings.is_empty() {
            crate::ui::message(loaded.recipe.warnings.render(self.host.colour()).trim_end());
            super::error::annotate(&loaded.recipe.warnings, &self.host);
        }
        Ok(loaded)
    }

    /// The same without a word.
    pub(crate) fn load_quietly(&self, args: &RecipeArgs) -> Result<Loaded, CliError> {
        let (path, selectors) = self.recipe_path(args);
        let mut vars = Vec::new();
        for pair in &args.vars {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(CliError::usage(
                    format!("`--var {pair}` has no value"),
                    "write --var NAME=VALUE",
                ));
            };
            vars.push((name.to_owned(), value.to_owned()));
        }
        let variables = self.host.env.iter().filter_map(|(name, value)| {
            Some((name.strip_prefix("IMPASTO_VAR_")?.to_owned(), value.clone()))
        });
        let request = LoadRequest {
            path,
            vars,
            var_files: args
                .var_files
                .iter()
                .map(|file| self.host.cwd.join(file))
                .collect(),
            env: variables.collect(),
            host_env: self.host.env.iter().cloned().collect(),
            only: args.only.clone(),
            home: self.host.home(),
            allow_paths: args
                .allow_paths
                .iter()
                .map(|path| self.host.cwd.join(path))
                .chain(
                    self.settings
                        .allow_paths
                        .iter()
                        .map(|setting| setting.value.clone()),
                )
                .collect(),
        };
        let registry = Registry::default()
            .with_sandboxes(SandboxKind::ALL.map(SandboxKind::name))
            .with_tags(args.tags.clone());
        let recipe = recipe::load(&request, &registry).map_err(|mut errors| {
            for diagnostic in &mut errors.list {
                diagnostic.help.extend(diagnostic.lacks.map(recipe_help));
            }
            if let (Some(help), Some(first)) =
                (self.taken_for_recipe(args), errors.list.first_mut())
            {
                first.help.push(help);
            }
            CliError::Recipe(Box::new(errors))
        })?;
        let mut settings = self.settings.clone();
        settings.add_repository(recipe.scope.repository(), &self.host)?;
        let lock = LockFile::load(&lock::path_of(&recipe))?;
        let graph = Graph::new(&recipe, &registry, lock);
        Ok(Loaded {
            recipe,
            graph,
            settings,
            sandbox: self.sandbox_kind(SandboxChoice::Auto),
            selectors,
        })
    }

    /// The mirrors that the user chose, by `--mirror` or the environment.
    pub(crate) fn mirrors(&self, flag: Option<&str>) -> Result<MirrorChoice, CliError> {
        MirrorChoice::read(flag, |name| self.host.var(name)).map_err(|(place, error)| {
            let help = "such as https://HOST/debian, or file:/PATH for a mirror in a directory";
            CliError::usage(format!("{place} is not a valid mirror: {error}"), help)
        })
    }

    /// What asks for the host's proxies, once.
    pub(crate) fn proxies(&self) -> Arc<dyn Fn() -> Proxies + Send + Sync> {
        let choice = ProxyChoice::read(|name| self.host.var(name));
        let known = OnceLock::new();
        Arc::new(move || known.get_or_init(|| choice.resolve()).clone())
    }

    /// The sandbox that was chosen, or why there is none, and what steps see of this host in it.
    pub(crate) fn sandbox(&self, choice: SandboxChoice, mirrors: MirrorChoice) -> SandboxSetup {
        let kind = self.sandbox_kind(choice);
        let sandbox = match self.can_use(kind) {
            true => Ok(kind.sandbox(self.host.exe.clone())),
            false => Err(format!(
                "stages that run programs need root: only the {} sandbox exists in this version. \
                 Run impasto as root, for example with sudo",
                kind.name()
            )),
        };
        SandboxSetup {
            sandbox,
            environment: self.environment.clone(),
            policy: Arc::new(LazyPolicy::new(mirrors.policy())),
        }
    }

    /// The sandbox that a choice means: the best one that this user can use, where none is named.
    pub(crate) fn sandbox_kind(&self, choice: SandboxChoice) -> SandboxKind {
        let all = SandboxKind::ALL;
        match choice {
            SandboxChoice::Auto => {
                let usable = all.into_iter().find(|kind| self.can_use(*kind));
                usable.unwrap_or(all[0])
            }
            SandboxChoice::Kind(kind) => kind,
        }
    }

    /// Whether this user can use a sandbox.
    pub(crate) fn can_use(&self, sandbox: SandboxKind) -> bool {
        self.host.root || !sandbox.needs_root()
    }
}

impl Loaded {
    /// The names that were given after the recipe.
    pub(crate) fn selectors(&self) -> &[String] {
        &self.selectors
    }

    /// What the selectors pick; everything where there are none.
    pub(crate) fn selection(&self) -> Result<Selection, CliError> {
        self.select(&self.selectors)
    }

    /// What some selectors pick; everything where there are none.
    pub(crate) fn select(&self, selectors: &[String]) -> Result<Selection, CliError> {
        if selectors.is_empty() {
            return Ok(self.graph.everything());
        }
        let mut all = Selection::default();
        for text in selectors {
            let picked = self.graph.select(text)?;
            all.nodes.extend(picked.nodes);
            all.images.extend(picked.images);
        }
        all.nodes.sort_unstable();
        all.nodes.dedup();
        all.images.sort_unstable();
        all.images.dedup();
        Ok(all)
    }

    /// The single selector that a command needs.
    pub(crate) fn one_selector(&self) -> Result<&str, CliError> {
        match self.selectors.as_slice() {
            [one] => Ok(one),
            [] => Err(CliError::usage(
                "no selector was given",
                "name one: `impasto plan` lists them",
            )),
            _ => Err(CliError::usage(
                "several selectors were given, but only one is allowed",
                "name one of them",
            )),
        }
    }

    /// The history of this recipe.
    pub(crate) fn state<'s>(&self, store: &'s Store) -> RecipeState<'s> {
        RecipeState::new(store, &self.recipe)
    }

    /// A planner over the graph. `again` are selectors of nodes that run even where their results are known.
    pub(crate) fn planner<'a>(
        &'a self,
        store: &'a Store,
        again: &[String],
    ) -> Result<Planner<'a>, CliError> {
        let mut planner = Planner::new(&self.recipe, &self.graph, store, self.sandbox.isolation());
        if !again.is_empty() {
            self.select(again)?
                .nodes
                .into_iter()
                .for_each(|id| planner.rebuild(id));
        }
        Ok(planner)
    }
}

/// Names as texts. One of other bytes names no stage, and is told with a stand-in for them.
pub(crate) fn texts(names: &[OsString]) -> Vec<String> {
    names
        .iter()
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

/// A word as a shell takes it.
pub(crate) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    match text.chars().all(plain) {
        true if !text.is_empty() => text.to_owned(),
        _ => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// A path as messages show it: relative to a directory where it lies below it.
pub(crate) fn shown<'p>(path: &'p Path, dir: &Path) -> &'p Path {
    path.strip_prefix(dir).unwrap_or(path)
}
