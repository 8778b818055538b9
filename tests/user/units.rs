//! Stages of several units of work, and units that are made of what an earlier one gave: by a kind of the test's own.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use impasto::debian::packages::host::PackageHost;
use impasto::engine::cause::About;
use impasto::engine::event::{Event, EventKind};
use impasto::engine::graph::Graph;
use impasto::engine::hints::Hints;
use impasto::engine::job::JobError;
use impasto::engine::plan::Planner;
use impasto::engine::run::{Engine, RunConfig, Summary};
use impasto::lock::LockFile;
use impasto::recipe::{LoadRequest, load};
use impasto::sandbox::SandboxSetup;
use impasto_stages::action::{ActionTemplate, Executor, ImportAs, Slot, Step};
use impasto_stages::{
    Kind, Lowered, Makes, ParamError, ParamSpec, Params, Registry, StageContext, Type, UnitFiles,
};
use impasto_store::Store;
use impasto_store::claim::Isolation;

use crate::project::Project;

/// Takes in a file of paths, then every file that it names: the last one is the result.
const LISTED: Kind = Kind {
    name: "listed",
    version: 1,
    summary: "",
    example: "",
    makes: Makes::File,
    files: &[],
    params: &[&[ParamSpec::required("list", Type::Path, "")]],
    lower,
    expand: Some(expand),
};

fn import(path: &str) -> ActionTemplate {
    let mut action = ActionTemplate::new("listed", 1, Executor::Host);
    action
        .inputs
        .insert("source".to_owned(), Slot::Local(path.to_owned()));
    action.steps.push(Step::Import {
        input: "source".to_owned(),
        as_a: ImportAs::File,
    });
    action
}

/// How often the kind was asked.
static LOWERED: AtomicUsize = AtomicUsize::new(0);

fn lower(params: &Params, _: &StageContext) -> Result<Lowered, Vec<ParamError>> {
    LOWERED.fetch_add(1, Ordering::SeqCst);
    let actions = vec![import(params.text("list").unwrap())];
    Ok(Lowered {
        actions,
        ..Lowered::default()
    })
}

fn expand(template: &ActionTemplate, files: &UnitFiles) -> Result<Vec<ActionTemplate>, ParamError> {
    let Some(Slot::Local(path)) = template.inputs.get("source") else {
        panic!("no source")
    };
    if !path.ends_with(".list") {
        return Ok(Vec::new());
    }
    let text = String::from_utf8(files["file"].clone())
        .map_err(|_| ParamError::new("list", "the list is no text"))?;
    Ok(text.lines().map(import).collect())
}

fn build(project: &Project) -> (Summary, Vec<String>) {
    let registry = Registry::new(vec![&LISTED]);
    let request = LoadRequest {
        path: project.path("impasto.hcl"),
        ..LoadRequest::default()
    };
    let recipe =
        load(&request, &registry).unwrap_or_else(|errors| panic!("{}", errors.render(false)));
    let graph = Graph::new(&recipe, &registry, LockFile::default());
    let store = Store::open(project.store()).unwrap();
    let planner = Planner::new(&recipe, &graph, &store, Isolation::Namespace);
    let packages = PackageHost::default();
    let config = RunConfig {
        images: Vec::new(),
        gate: None,
        packages: &packages,
        recipe: recipe.name.clone(),
        jobs: 2,
        keep_going: false,
        targets: Default::default(),
        sandbox: SandboxSetup::plain(Err("the test has none".to_owned())),
        proxies: std::sync::Arc::new(impasto::net::Proxies::default),
        reports: (project.path("out"), "out/".to_owned()),
        unpack_limit: 1 << 30,
        now: 0,
        hints: Rc::new(NoHints),
        dir: String::new(),
        facts: BTreeMap::new(),
        interrupt: impasto::base::interrupt::Interrupt::new(|| {
            unreachable!("nobody interrupts it")
        }),
        whole: true,
    };
    let mut reasons = Vec::new();
    let mut events = |event: &Event| match &event.kind {
        EventKind::StageStarted { reason, .. } => reasons.push(reason.clone()),
        EventKind::StageFailed { error, .. } => reasons.push(format!("failed: {error}")),
        _ => {}
    };
    let engine = Engine::new(
        planner,
        &graph.everything(),
        config,
        Instant::now(),
        &mut events,
    )
    .unwrap();
    (engine.run(), reasons)
}

/// Nobody reads them here.
struct NoHints;

impl Hints for NoHints {
    fn job(&self, _: &JobError, _: &str, _: &About) -> Option<String> {
        None
    }

    fn not_kept(&self, error: &impasto_store::Error) -> String {
        error.to_string()
    }

    fn root_damaged(&self, path: &Path) -> String {
        path.display().to_string()
    }
}

#[test]
fn units_made_of_an_earlier_result_run_in_turn_and_are_cached_one_by_one() {
    let project = Project::with("stage \"listed\" \"it\" { list = \"a.list\" }\n");
    project.write("a.list", "one.txt\ntwo.txt\n");
    project.write("one.txt", "1\n");
    project.write("two.txt", "2\n");
    let (summary, reasons) = build(&project);
    assert_eq!(
        (summary.built, reasons),
        (1, vec!["never built".to_owned()])
    );
    let claims = || {
        walkdir::WalkDir::new(project.store().join("claims"))
            .into_iter()
            .flatten()
    };
    let count = || claims().filter(|entry| entry.file_type().is_file()).count();
    assert_eq!(count(), 3, "one claim a unit");
    assert_eq!(
        build(&project).0,
        Summary {
            cached: 1,
            ..Summary::default()
        }
    );

    // Only the unit whose input changed runs again.
    project.write("two.txt", "II\n");
    let (summary, reasons) = build(&project);
    assert_eq!(
        (summary.built, reasons),
        (1, vec!["two.txt changed".to_owned()])
    );
    assert_eq!(count(), 4);

    // Another list makes other units; those that are known do not run.
    project.write("a.list", "two.txt\none.txt\nthree.txt\n");
    project.write("three.txt", "3\n");
    assert_eq!(build(&project).0.built, 1);
    assert_eq!(count(), 6, "the list and the third file");

    // A list that cannot be expanded fails the stage.
    std::fs::write(project.path("a.list"), b"\xff\n").unwrap();
    let (summary, reasons) = build(&project);
    assert_eq!(summary.failed, 1);
    assert_eq!(
        reasons.last().unwrap(),
        "failed: stage it: the list is no text"
    );
}

#[test]
fn a_stage_is_lowered_once_for_each_set_of_its_values() {
    let project = Project::with(
        "matrix { n = [1, 2, 3] }\nstage \"listed\" \"same\" { list = \"a.list\" }\n\
         stage \"listed\" \"other\" { list = \"${matrix.n}.list\" }\n",
    );
    project.write("a.list", "");
    for name in ["1.list", "2.list", "3.list"] {
        project.write(name, "");
    }
    // Those with equal lists have equal keys: one of them runs.
    let summary = build(&project).0;
    assert_eq!((summary.built, summary.cached), (2, 2));
    assert_eq!(LOWERED.load(Ordering::SeqCst), 4);
}
