//! `impasto build`: builds images or stages.
//! Knows which files go where; the engine does the rest.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use impasto_stages::Makes;

use super::disk_names::converts;
use super::error::CliError;
use super::hint::CommandHints;
use super::locking::LockNeed;
use super::record::{RecordArgs, close, view};
use super::session::{Loaded, Session};
use super::{RecipeArgs, RunArgs, complete, exit, leave_to_exit};
use crate::base::human;
use crate::debian::packages::host::PackageHost;
use crate::engine::cause::{SourceLocation, What};
use crate::engine::event::Event;
use crate::engine::graph::{NodeId, NodeMap, Selection};
use crate::engine::job::console_name;
use crate::engine::locking::{self, TooSmall};
use crate::engine::publish::Target;
use crate::engine::run::{Engine, HeldImage, RunConfig, Summary};
use crate::image::{Gate, layout};
use crate::net::Proxies;
use crate::sandbox::SandboxSetup;
use crate::ui::Records;

#[derive(Debug, Args)]
pub(crate) struct Build {
    #[command(flatten)]
    pub(super) recipe: RecipeArgs,
    #[command(flatten)]
    pub(super) run: RunArgs,
    /// Runs a stage even if its result is cached
    #[arg(long, alias = "again", value_name = "SELECTOR", add = ArgValueCompleter::new(complete::names))]
    pub(super) rebuild: Vec<String>,
    /// Fails if the lock would have to change
    #[arg(long)]
    pub(super) locked: bool,
    /// Asks no server: what is not in the store is an error, and so is a stage that must run and has `network = true`
    #[arg(long)]
    pub(super) offline: bool,
    /// Writes images without what they require; their manifests say so
    #[arg(long)]
    pub(super) skip_tests: bool,
    /// Writes images that cost more than their budget
    #[arg(long)]
    pub(super) no_budget: bool,
    #[command(flatten)]
    pub(super) record: RecordArgs,
    /// Whether the tests are what is built.
    #[arg(skip)]
    pub(super) tests: bool,
}

impl Build {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let mut records = self.record.open(session)?;
        let mut recipe = None;
        let outcome = self.build(session, &mut records, &mut recipe);
        close(session, records, recipe, outcome)
    }

    /// Builds, and gives the recipe's name as soon as it is known.
    fn build(
        self,
        session: &Session,
        records: &mut Records,
        recipe: &mut Option<String>,
    ) -> Result<u8, CliError> {
        let (mut loaded, store) = session.load_with_store(&self.recipe)?;
        *recipe = Some(loaded.recipe.name.clone());
        loaded.sandbox = session.sandbox_kind(self.run.sandbox);
        records.lap("read the recipe", session.start.elapsed());
        let selection = self.selection(&loaded)?;
        let mut mirrors = session.mirrors(self.run.mirror.as_deref())?;
        mirrors.proxies.offline = self.offline;
        let sandbox = session.sandbox(self.run.sandbox, mirrors.clone());
        let packages = session.package_host(mirrors);
        let mut config = engine_config(
            session,
            &self.recipe,
            &self.run,
            &loaded,
            sandbox,
            &packages,
        )?;
        if self.offline {
            config.proxies = Arc::new(|| Proxies::default().offline());
        }
        let need = LockNeed {
            recipe: &self.recipe,
            selection: &selection,
            locked: self.locked,
            offline: self.offline,
            rebuild: Some(&self.rebuild),
        };
        let mut reporter = view(session, &self.record, &loaded);
        let mut events = |event: &Event| {
            reporter.event(event);
            records.event(event);
        };
        session.lock(&mut loaded, &store, &need, config.clone(), &mut events)?;
        let needed = loaded.graph.closure(&selection.nodes);
        check_disk_sizes(session, &loaded, &needed)?;
        records.lap("lock packages", session.start.elapsed());
        let (targets, images) = targets(
            &loaded,
            &selection,
            &session.host.cwd.join(&self.run.out),
            self.skip_tests,
        )?;
        let gate = Gate {
            skip_tests: self.skip_tests,
            no_budget: self.no_budget,
            ..Gate::new(&loaded.recipe, &loaded.graph, &store)
        };
        let planner = loaded.planner(&store, &self.rebuild)?;
        for selector in &self.rebuild {
            if !loaded
                .graph
                .select(selector)?
                .nodes
                .iter()
                .any(|id| needed[*id])
            {
                let message = format!("--rebuild {selector} matches nothing that this build needs");
                return Err(CliError::usage(
                    message,
                    "add it as a selector too, or omit the selectors",
                ));
            }
        }
        let whole = loaded.selectors().is_empty() && self.recipe.only.is_empty() && !self.tests;
        let config = RunConfig {
            targets,
            images,
            gate: Some(&gate),
            whole,
            ..config
        };
        let mut events = |event: &Event| {
            reporter.event(event);
            records.event(event);
        };
        let engine = Engine::new(planner, &selection, config, session.start, &mut events)?;
        session.demand_root_to_run(&loaded, &engine)?;
        let summary = engine.run();
        // What is drawn is taken away before anything else is told.
        let shown = reporter.finish();
        leave_to_exit(loaded);
        shown?;
        Ok(exit_code(&summary))
    }

    /// What is to be built: without tests, only what a test is named for.
    fn selection(&self, loaded: &Loaded) -> Result<Selection, CliError> {
        let selection = match self.tests {
            true => super::test::selection(loaded, &self.recipe.tags)?,
            false => loaded.selection()?,
        };
        if !self.skip_tests {
            return Ok(selection);
        }
        // A stage that is named runs all the same.
        let mut named = Vec::new();
        for selector in loaded.selectors() {
            let picked = loaded.graph.select(selector)?;
            if picked.images.is_empty() {
                named.extend(picked.nodes);
            }
        }
        Ok(loaded.graph.without_required(selection, &named))
    }
}

/// Sees to it that no work begins whose end is known: a disk that cannot take the packages that the lock names.
/// `needed` are the nodes to be built.
fn check_disk_sizes(
    session: &Session,
    loaded: &Loaded,
    needed: &NodeMap<bool>,
) -> Result<(), CliError> {
    /// Sizes that are suggested are whole multiples of this, in bytes.
    const STEP: u64 = 256 << 20;
    let Some(found) = locking::too_small(&loaded.graph, needed) else {
        return Ok(());
    };
    let TooSmall {
        stage,
        disk,
        place,
        packages,
        needed,
        size,
    } = found;
    let place = place.map(|origin| {
        format!(
            " ({})",
            SourceLocation::of(What::Stage, &session.shown_dir(loaded), &origin)
        )
    });
    let with = if stage == disk {
        String::new()
    } else {
        format!(" with those of stage {stage}")
    };
    let message = format!(
        "the disk of stage {disk}{} is too small: its {packages} packages{with} declare {}, and it has {}",
        place.unwrap_or_default(),
        human::bytes(needed),
        human::bytes(size)
    );
    // A file system takes some for itself, and an image is to be used.
    let enough = (needed + needed / 2).div_ceil(STEP) * (STEP >> 20);
    let help = Some(format!(
        "make it larger, such as size = \"{enough}MiB\"; nothing has been built yet"
    ));
    Err(CliError::Other {
        message,
        help,
        code: exit::RECIPE,
    })
}

/// The exit code of a run.
pub(super) fn exit_code(summary: &Summary) -> u8 {
    match summary {
        Summary {
            interrupted: true, ..
        } => exit::INTERRUPTED,
        Summary {
            host_failed: true, ..
        } => exit::INTERNAL,
        Summary {
            failed: 0,
            not_written: 0,
            ..
        } => exit::OK,
        _ => exit::STAGE,
    }
}

/// What a run is told, without files to write.
pub(super) fn engine_config<'a>(
    session: &Session,
    recipe: &RecipeArgs,
    run: &RunArgs,
    loaded: &Loaded,
    sandbox: SandboxSetup,
    packages: &'a PackageHost,
) -> Result<RunConfig<'a>, CliError> {
    Ok(RunConfig {
        recipe: loaded.recipe.name.clone(),
        jobs: session.jobs(run.jobs, &loaded.settings),
        keep_going: run.keep_going,
        targets: HashMap::new(),
        images: Vec::new(),
        gate: None,
        sandbox,
        packages,
        proxies: session.proxies(),
        reports: (
            session.host.cwd.join(&run.out),
            format!("{}/", run.out.display()),
        ),
        unpack_limit: session.unpack_limit()?,
        now: session.host.now(),
        hints: Rc::new(CommandHints {
            args: session.place(recipe),
        }),
        dir: session.shown_dir(loaded),
        facts: BTreeMap::from([("impasto".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
        interrupt: session.interrupt.clone(),
        whole: false,
    })
}

/// Files to write, by the nodes that make them.
type Targets = HashMap<NodeId, Vec<Target>>;

/// Where the selection's files go: those of images under the images' names; of files that are no image's, those that were
/// asked for by their stage, under the stage's name. Where nothing is named and there are no images, what stages converted:
/// what they only hand on to others stays in the store. Scripts rely on it: "The command line is an interface" in
/// src/ARCHITECTURE.md.
///
/// Images that have something to wait for, or to say, hold their files until all of them are there.
fn targets(
    loaded: &Loaded,
    selection: &Selection,
    out: &Path,
    skip_tests: bool,
) -> Result<(Targets, Vec<HeldImage>), CliError> {
    let graph = &loaded.graph;
    let mut targets = Targets::new();
    let mut taken = Taken::default();
    let mut imaged = Vec::new();
    let mut held_images = Vec::new();
    for &place in &selection.images {
        let image = &graph.images()[place];
        let label = graph.stable_name(&format!("image.{}", image.label), image.combination);
        let held = !image.text.is_plain();
        let mut files = Vec::new();
        for part in &image.files {
            imaged.push(part.node);
            for (file, path) in layout::paths(graph, image, part, out) {
                taken.add(&path, &label)?;
                files.push(path.clone());
                let target = Target { file, path, held };
                targets.entry(part.node).or_default().push(target);
            }
        }
        let descriptions = layout::descriptions(image, out);
        for path in &descriptions {
            taken.add(path, &label)?;
        }
        if held {
            let required = image.requires.iter().copied().filter(|_| !skip_tests);
            let mut nodes: Vec<_> = image.sources().chain(required).collect();
            nodes.sort_unstable();
            nodes.dedup();
            held_images.push(HeldImage {
                place,
                label,
                nodes,
                files,
                descriptions,
            });
        }
    }
    for id in &selection.nodes {
        let node = graph.node(*id);
        let named = !loaded.selectors().is_empty();
        if graph.is_test(*id) {
            let dir = out.join(node.label.replace('/', "_"));
            let whose = format!("stage {}", node.label);
            for file in test_files(&node.lowered.actions) {
                let (path, held) = (dir.join(&file), false);
                taken.add(&path, &whose)?;
                let file = Some(file);
                let target = Target { file, path, held };
                targets.entry(*id).or_default().push(target);
            }
            continue;
        }
        let wanted = matches!(node.kind.makes, Makes::File | Makes::Tree)
            && (named || converts(loaded, *id));
        if !wanted || imaged.contains(id) {
            continue;
        }
        for (file, extension) in layout::files(graph, *id) {
            let extension = extension.map_or(String::new(), |extension| format!(".{extension}"));
            let path = out.join(format!("{}{extension}", node.label.replace('/', "_")));
            taken.add(&path, &format!("stage {}", node.label))?;
            let held = false;
            let target = Target { file, path, held };
            targets.entry(*id).or_default().push(target);
        }
    }
    Ok((targets, held_images))
}

/// The files that a test makes.
fn test_files(actions: &[impasto_stages::ActionTemplate]) -> Vec<String> {
    use impasto_stages::action::Step;
    let machines = actions
        .iter()
        .flat_map(|action| &action.steps)
        .filter_map(|step| match step {
            Step::Test { spec } => spec.machine.as_ref(),
            _ => None,
        });
    let consoles = machines.map(|machine| console_name(machine.firmware.name()));
    consoles
        .chain(["report.json".to_owned(), "report.xml".to_owned()])
        .collect()
}

/// Paths that something will be written to, each with whose it is.
#[derive(Default)]
struct Taken(HashMap<PathBuf, String>);

impl Taken {
    /// Takes a path, and that of its sum.
    fn add(&mut self, path: &Path, whose: &str) -> Result<(), CliError> {
        let checksum = PathBuf::from(format!("{}.sha256", path.display()));
        let mut twice = None;
        for path in [path.to_owned(), checksum] {
            twice = twice.or(self.0.insert(path, whose.to_owned()));
        }
        let Some(other) = twice else { return Ok(()) };
        let message = format!("{whose} and {other} would both write {}", path.display());
        let help = "give them different names, for example with ${matrix.…} in `name`";
        Err(CliError::Other {
            message,
            help: Some(help.to_owned()),
            code: exit::RECIPE,
        })
    }
}
