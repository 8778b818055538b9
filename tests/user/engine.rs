//! The engine over a [`ScriptedSandbox`]: what runs, in which order, what is taken from the store, and what of it is said in
//! claims. No program runs, so no root is needed, and a test decides what ends first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use impasto::base::interrupt::Interrupt;
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
use impasto::sandbox::{Sandbox, SandboxKind, SandboxSetup};
use impasto_stages::Registry;
use impasto_store::Store;
use impasto_store::claim::{Caveat, Claim, Isolation};

use crate::project::Project;
use crate::scripted::{ScriptedSandbox, write_disk};

/// A recipe, its store, and the sandbox in which its stages run.
struct Bench {
    project: Project,
    sandbox: Arc<ScriptedSandbox>,
    jobs: usize,
    keep_going: bool,
    /// Stages that run whatever the store has.
    rebuild: Vec<&'static str>,
    interrupt: Interrupt,
}

/// What a run came to.
struct RunRecord {
    summary: Summary,
    /// What it told, without times.
    told: Vec<String>,
}

impl RunRecord {
    fn told(&self, line: &str) {
        assert!(
            self.told.iter().any(|told| told == line),
            "{:#?}",
            self.told
        );
    }

    /// Counts: built, cached, failed, cancelled.
    fn counts(&self) -> [usize; 4] {
        let Summary {
            built,
            cached,
            failed,
            cancelled,
            ..
        } = self.summary;
        [built, cached, failed, cancelled]
    }
}

impl Bench {
    /// A recipe over a base disk, which is stage `base`. A stage is `NAME FROM: LINE; LINE`, with parameters in braces
    /// before the lines.
    fn new(stages: &[&str]) -> Self {
        let bench = Bench {
            project: Project::empty(),
            sandbox: Arc::new(ScriptedSandbox::new()),
            jobs: 4,
            keep_going: false,
            rebuild: Vec::new(),
            interrupt: Interrupt::new(|| unreachable!("nobody waits so long")),
        };
        let base = [(0, "base".to_owned())].into();
        write_disk(&bench.project.path("base.qcow2"), &base);
        bench.write(stages);
        bench
    }

    fn write(&self, stages: &[&str]) {
        let mut recipe = "stage \"fetch\" \"base\" { path = \"base.qcow2\" }\n".to_owned();
        for stage in stages {
            let (head, lines) = stage.split_once(": ").unwrap();
            let (head, parameters) = head.split_once(" {").unwrap_or((head, "}"));
            let (name, from) = head.split_once(' ').unwrap();
            let lines: Vec<_> = lines.split("; ").map(|line| format!("{line:?}")).collect();
            recipe += &format!(
                "stage \"run\" {name:?} {{\n from = stage.{from}\n commands = [{}]\n {}\n}}\n",
                lines.join(", "),
                parameters.trim_end_matches('}')
            );
        }
        self.project.write("impasto.hcl", &recipe);
    }

    fn in_sandbox(self, sandbox: ScriptedSandbox) -> Self {
        Bench {
            sandbox: Arc::new(sandbox),
            ..self
        }
    }

    fn store(&self) -> Store {
        Store::open(self.project.store()).unwrap()
    }

    fn run(&self) -> RunRecord {
        let registry = Registry::default().with_sandboxes(SandboxKind::ALL.map(SandboxKind::name));
        let request = LoadRequest {
            path: self.project.path("impasto.hcl"),
            ..LoadRequest::default()
        };
        let recipe =
            load(&request, &registry).unwrap_or_else(|errors| panic!("{}", errors.render(false)));
        let graph = Graph::new(&recipe, &registry, LockFile::default());
        let store = self.store();
        let isolation = self.sandbox.facts().isolation;
        let mut planner = Planner::new(&recipe, &graph, &store, isolation);
        for id in graph.ids() {
            if self.rebuild.contains(&&*graph.node(id).stage) {
                planner.rebuild(id);
            }
        }
        let packages = PackageHost::default();
        let config = RunConfig {
            packages: &packages,
            recipe: recipe.name.clone(),
            jobs: self.jobs,
            keep_going: self.keep_going,
            targets: Default::default(),
            images: Vec::new(),
            gate: None,
            reports: Default::default(),
            sandbox: SandboxSetup::plain(Ok(self.sandbox.clone())),
            proxies: std::sync::Arc::new(impasto::net::Proxies::default),
            unpack_limit: 1 << 30,
            now: 0,
            hints: Rc::new(NoHints),
            dir: String::new(),
            facts: BTreeMap::new(),
            interrupt: self.interrupt.clone(),
            whole: true,
        };
        let mut told = Vec::new();
        let mut events = |event: &Event| match &event.kind {
            EventKind::StageStarted { stage, reason, .. } => {
                told.push(format!("{stage} starts: {reason}"));
            }
            EventKind::StageFinished { stage, how, .. } => {
                told.push(format!("{stage} is {how:?}"));
            }
            EventKind::StageFailed {
                stage,
                error,
                last_lines,
                ..
            } => told.push(format!("{stage} failed: {error} {last_lines:?}")),
            EventKind::StageCancelled { stage } => told.push(format!("{stage} is cancelled")),
            EventKind::Log { stage, line } => told.push(format!("{stage}: {line}")),
            EventKind::Warning { message, .. } => told.push(format!("warning: {message}")),
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
        let summary = engine.run();
        RunRecord { summary, told }
    }

    /// All claims of a stage.
    fn claims(&self, stage: &str) -> Vec<Claim> {
        let store = self.store();
        let actions: BTreeSet<_> = files(&self.project.store().join("claims"))
            .iter()
            .map(|path| {
                path.parent()
                    .unwrap()
                    .file_name()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .parse()
            })
            .collect::<Result<_, _>>()
            .unwrap();
        let claims = actions
            .iter()
            .flat_map(|action| store.claims(action).unwrap().0);
        claims
            .map(|(_, claim)| claim)
            .filter(|claim| claim.stage == stage)
            .collect()
    }

    /// The only claim of a stage.
    fn claim(&self, stage: &str) -> Claim {
        let claims = self.claims(stage);
        let [claim] = <[Claim; 1]>::try_from(claims).unwrap();
        claim
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let files = walkdir::WalkDir::new(dir).into_iter().map(Result::unwrap);
    let files = files.filter(|entry| entry.file_type().is_file());
    files.map(|entry| entry.into_path()).collect()
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
fn stages_that_need_nothing_of_each_other_run_together_up_to_the_number_of_jobs() {
    let stages = [
        "a base: hold a",
        "b base: hold b",
        "c base: hold c",
        "d a: put 1 d",
    ];
    for (jobs, first) in [(3, &["a", "b", "c"][..]), (2, &["a", "b"])] {
        let bench = Bench {
            jobs,
            ..Bench::new(&stages)
        };
        let record = std::thread::scope(|scope| {
            let run = scope.spawn(|| bench.run());
            bench.sandbox.wait_held(first);
            ["a", "b", "c"]
                .iter()
                .for_each(|name| bench.sandbox.let_go(name));
            run.join().unwrap()
        });
        assert_eq!(record.counts(), [5, 0, 0, 0]);
        assert_eq!(bench.sandbox.most(), jobs);
        let history = bench.sandbox.history();
        let place = |line: &str| history.iter().position(|other| other == line);
        assert!(place("put 1 d") > place("hold a"), "{history:?}");
    }
}

#[test]
fn a_change_that_changes_nothing_ends_there() {
    let bench = Bench::new(&["a base: put 1 one", "b a: put 2 two", "c b: put 3 three"]);
    assert_eq!(bench.run().counts(), [4, 0, 0, 0]);
    assert_eq!(
        bench.sandbox.history(),
        ["put 1 one", "put 2 two", "put 3 three"]
    );
    assert_eq!(bench.run().counts(), [0, 4, 0, 0]);
    assert!(bench.sandbox.history().is_empty(), "nothing ran");

    bench.write(&[
        "a base: say again; put 1 one",
        "b a: put 2 two",
        "c b: put 3 three",
    ]);
    let record = bench.run();
    assert_eq!(record.counts(), [1, 3, 0, 0]);
    record.told("a: again ");
    assert_eq!(bench.sandbox.history(), ["say again", "put 1 one"]);

    bench.write(&["a base: put 1 uno", "b a: put 2 two", "c b: put 3 three"]);
    let record = bench.run();
    assert_eq!(record.counts(), [3, 1, 0, 0]);
    record.told("a starts: command 1: \"say again\" → \"put 1 uno\" (impasto.hcl:4) (and 1 more)");
}

#[test]
fn a_result_that_differs_when_it_is_made_again_reaches_what_builds_on_it() {
    let bench = Bench::new(&["a base: take weather 1", "b a: put 2 two"]);
    bench.sandbox.set("weather", "rain");
    assert_eq!(bench.run().counts(), [3, 0, 0, 0]);
    bench.sandbox.set("weather", "sun");
    assert_eq!(bench.run().counts(), [0, 3, 0, 0], "no key knows of it");
    let bench = Bench {
        rebuild: vec!["a"],
        ..bench
    };
    assert_eq!(bench.run().counts(), [2, 1, 0, 0]);
    assert_eq!(
        bench.claims("a").len(),
        2,
        "a claim is added, none is replaced"
    );
    // What it takes to be as before is believed too: two claims of one key, and the last one is this stage's.
    let bench = Bench {
        rebuild: Vec::new(),
        ..bench
    };
    assert_eq!(bench.run().counts(), [0, 3, 0, 0]);
}

#[test]
fn a_failure_lets_end_what_runs_and_starts_nothing_more() {
    let stages = [
        "a base: hold a; say so; exit 3",
        "b base: hold b; put 1 b",
        "c b: put 2 c",
        "d a: put 2 d",
    ];
    for (keep_going, counts, c) in [
        (false, [2, 0, 1, 2], "c is cancelled"),
        (true, [3, 0, 1, 1], "c is Built"),
    ] {
        let bench = Bench {
            keep_going,
            ..Bench::new(&stages)
        };
        let record = std::thread::scope(|scope| {
            let run = scope.spawn(|| bench.run());
            bench.sandbox.wait_held(&["a", "b"]);
            bench.sandbox.let_go("a");
            // The engine hears of the failure before `b` ends: the sandbox has told the end of `a` then.
            while !bench.sandbox.history().contains(&"failed".to_owned()) {
                std::thread::yield_now();
            }
            std::thread::sleep(std::time::Duration::from_millis(200));
            bench.sandbox.let_go("b");
            run.join().unwrap()
        });
        assert_eq!(record.counts(), counts, "{:#?}", record.told);
        record.told("a failed: command 3 exited with code 3 [\"so \"]");
        record.told("b is Built");
        record.told("d is cancelled");
        record.told(c);
        // What was built is there; the failed one is tried again.
        bench.write(&["a base: put 1 a", stages[1], stages[2], stages[3]]);
        let [built, cached, ..] = bench.run().counts();
        assert_eq!((built, cached), if keep_going { (2, 3) } else { (3, 2) });
    }
}

#[test]
fn an_interrupt_stops_what_runs_and_what_waits() {
    let bench = Bench::new(&["a base: hold a", "b a: put 1 b"]);
    let record = std::thread::scope(|scope| {
        let run = scope.spawn(|| bench.run());
        bench.sandbox.wait_held(&["a"]);
        bench.interrupt.listen().token().cancel();
        run.join().unwrap()
    });
    assert!(record.summary.interrupted);
    assert_eq!(record.counts(), [1, 0, 0, 2], "{:#?}", record.told);
    record.told("a is cancelled");
    assert_eq!(bench.sandbox.history(), ["hold a", "cancelled"]);
    assert!(bench.claims("a").is_empty());
}

#[test]
fn a_stage_that_takes_too_long_fails_and_is_not_cached() {
    let stages = ["a base { timeout = \"1s\" }: hold for_ever", "b a: put 1 b"];
    let bench = Bench::new(&stages);
    let record = bench.run();
    assert_eq!(record.counts(), [1, 0, 1, 1]);
    record.told("a failed: it was stopped after its timeout of 1.0 s []");
    bench.sandbox.let_go("for_ever");
    assert_eq!(bench.run().counts(), [2, 1, 0, 0]);
}

#[test]
fn what_was_lost_of_a_stage_below_is_made_again_first() {
    let bench = Bench::new(&["a base: put 1 one", "b a: put 2 two"]);
    assert_eq!(bench.run().counts(), [3, 0, 0, 0]);
    bench.sandbox.history();
    let disk = bench.claim("a").result.disk.unwrap();
    let name = disk.layer.layer.to_string();
    let lost = files(&bench.project.store());
    let mut lost = lost
        .iter()
        .filter(|path| path.to_str().unwrap().contains(&name));
    std::fs::remove_file(lost.next().expect("a file of the layer")).unwrap();

    bench.write(&["a base: put 1 one", "b a: put 2 deux"]);
    let record = bench.run();
    assert_eq!(record.counts(), [2, 1, 0, 0], "{:#?}", record.told);
    assert_eq!(bench.sandbox.history(), ["put 1 one", "put 2 deux"]);
    let starts: Vec<_> = record
        .told
        .iter()
        .filter(|line| line.contains("starts"))
        .collect();
    assert!(starts[0].starts_with("b starts"), "{starts:?}");
    assert!(starts[1].starts_with("a starts"), "{starts:?}");
    assert_eq!(starts.len(), 2, "that a stage starts is told once");
}

#[test]
fn a_claim_says_where_it_was_made_and_is_believed_by_that() {
    let bench = Bench::new(&["a base: put 1 one"]);
    let bench = bench.in_sandbox(ScriptedSandbox::of("emulator", Isolation::Weak));
    assert_eq!(bench.run().counts(), [2, 0, 0, 0]);
    let weak = bench.claim("a");
    assert_eq!(
        (weak.sandbox.as_str(), weak.isolation),
        ("emulator", Isolation::Weak)
    );
    assert_eq!(weak.caveats, [Caveat::WeakIsolation].into());
    assert_eq!(weak.facts["kernel"], "6.0-scripted");
    assert_eq!(weak.facts["agent"], "07".repeat(32));
    let base = bench.claim("base");
    assert_eq!(
        (base.sandbox.as_str(), base.isolation),
        ("host", Isolation::Host)
    );
    assert_eq!(
        bench.run().counts(),
        [0, 2, 0, 0],
        "who has nothing better believes it"
    );

    let bench = bench.in_sandbox(ScriptedSandbox::new());
    let record = bench.run();
    record.told(
        "a starts: the stored result is not accepted: it was made with weaker isolation (emulated machine)",
    );
    assert_eq!(record.counts(), [1, 1, 0, 0]);
    let claims = bench.claims("a");
    assert_eq!(claims.len(), 2);
    let strong = claims
        .iter()
        .find(|claim| claim.isolation == Isolation::Namespace);
    assert!(strong.unwrap().caveats.is_empty());
    assert_eq!(strong.unwrap().sandbox, "namespace");

    let bench = bench.in_sandbox(ScriptedSandbox::of("emulator", Isolation::Weak));
    assert_eq!(
        bench.run().counts(),
        [0, 2, 0, 0],
        "what is stronger serves the weaker"
    );
}

#[test]
fn caveats_reach_what_builds_on_a_stage() {
    let bench = Bench::new(&[
        "a base { privileged = true }: put 1 a",
        "b a { network = true }: put 2 b",
        "c b: put 3 c",
    ]);
    assert_eq!(bench.run().counts(), [4, 0, 0, 0]);
    let caveats = ["base", "a", "b", "c"].map(|stage| Vec::from_iter(bench.claim(stage).caveats));
    let both = vec![Caveat::Unlocked, Caveat::WeakIsolation];
    assert_eq!(
        caveats,
        [vec![], vec![Caveat::WeakIsolation], both.clone(), both]
    );
}

#[test]
fn a_stage_runs_in_no_other_sandbox_than_the_one_that_it_requires() {
    let stages = ["a base { sandbox = \"namespace\" }: put 1 a"];
    let bench = Bench::new(&stages);
    assert_eq!(bench.run().counts(), [2, 0, 0, 0]);
    let bench = Bench::new(&stages).in_sandbox(ScriptedSandbox::of("emulator", Isolation::Vm));
    let record = bench.run();
    assert_eq!(record.counts(), [1, 0, 1, 0]);
    record.told(
        "a failed: the stage requires the sandbox \"namespace\", but this run uses \"emulator\" []",
    );
    assert!(bench.sandbox.history().is_empty());

    let registry = Registry::default().with_sandboxes(["namespace"]);
    bench.write(&["a base { sandbox = \"vm\" }: put 1 a"]);
    let request = LoadRequest {
        path: bench.project.path("impasto.hcl"),
        ..LoadRequest::default()
    };
    let errors = load(&request, &registry).unwrap_err().render(false);
    assert!(
        errors.contains("this version has no sandbox \"vm\""),
        "{errors}"
    );
    assert!(
        errors.contains("omit `sandbox`, or use \"namespace\""),
        "{errors}"
    );
}

#[test]
fn files_and_logs_of_steps_are_kept_and_what_is_missing_fails_the_stage() {
    let output = "{ output = { report = \"/root/report\" } }";
    let secret = "secrets = { token = \"hunter2!\" }";
    let stage = format!("a base {output}: make /root/report all is well; say done");
    let bench = Bench::new(&[&stage]);
    assert_eq!(bench.run().counts(), [2, 0, 0, 0]);
    let claim = bench.claim("a");
    let report = claim.result.files["report"].content.digest();
    assert_eq!(
        report,
        impasto_store::digest::BlobDigest::of(b"all is well").0
    );

    let stage = format!("a base {output}: say nothing");
    bench.write(&[&stage]);
    let record = bench.run();
    assert_eq!(record.counts(), [0, 1, 1, 0]);
    record.told("a failed: the output \"report\" cannot be copied out: /root/report is not there [\"nothing \"]");

    let stage = format!("a base {{ {secret} }}: say the hunter2! is out");
    bench.write(&[&stage]);
    let record = bench.run();
    record.told("a: the [secret] is out");
}
