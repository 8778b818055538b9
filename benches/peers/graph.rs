//! A plan of 10,000 nodes in which nothing is to be done, against `ninja`'s null build of as many edges in the same
//! chains; time and peak memory.
//!
//! In two shapes: 100 stages for 100 combinations of a matrix, and 10,000 stages in one file. The nodes' results are
//! claimed by the library without being made: a plan looks at no more than the claims. Both sides have a warm page cache.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use impasto::engine::chain::ActionChain;
use impasto::engine::graph::{Graph, NodeId, NodeMap};
use impasto::engine::history::NodeHistory;
use impasto::engine::plan::{Completed, Hit, PlanState, Planner};
use impasto::lock::LockFile;
use impasto::recipe::{LoadRequest, load};
use impasto_stages::Registry;
use impasto_stages::action::{ENGINE_EPOCH, Executor};
use impasto_store::Store;
use impasto_store::claim::{Claim, Cost, Isolation, Outputs};
use impasto_store::digest::{Digest, DiskDigest, LayerId};
use impasto_store::layer::{DiskRef, LayerRef};

use crate::measure::{Goal, Row, detail, interleaved, median, quiet, sized, small, timed};
use crate::site;

const ROUNDS: usize = 9;

/// How many chains, and how many nodes each has.
fn size() -> (usize, usize) {
    sized((100, 100), (3, 4))
}

pub(crate) fn rows() -> Vec<Row> {
    let (chains, length) = size();
    println!("plan: {} nodes", chains * length);
    let ninja = site::has("ninja", "ninja-build").then(ninja);
    let mut rows = Vec::new();
    for (shape, text) in [("a matrix of 100", matrix()), ("10,000 blocks", blocks())] {
        let name = if shape.starts_with('a') {
            "plan-matrix"
        } else {
            "plan-blocks"
        };
        let dir = site::fresh(name);
        // Ten thousand claims take a while to become durable; those that are there already serve.
        let store = site::dir().join(format!("{name}-store"));
        std::fs::write(dir.join("impasto.hcl"), text).expect("a recipe");
        std::fs::copy(site::tiny(), dir.join("base.qcow2")).expect("the base");
        claim_all(&dir, &store);
        let output = site::run(plan(&dir, &store).arg("--json"));
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let states: Vec<_> = document["nodes"]
            .as_array()
            .expect("nodes")
            .iter()
            .map(|node| &node["state"])
            .collect();
        assert_eq!(states.len(), chains * length + 1);
        assert!(
            states.iter().all(|state| *state == "cached"),
            "not all is cached"
        );
        // A small plan's output fits into the pipe that holds a large one up.
        let memory = (!small()).then(|| peak_memory(&mut plan(&dir, &store)));
        quiet();
        let [ours, build, peer] = interleaved(ROUNDS, |side, _| match side {
            0 => site::time(plan(&dir, &store).stdout(Stdio::null())),
            1 => site::time(
                site::impasto(&store)
                    .arg("build")
                    .arg(&dir)
                    .stderr(Stdio::null()),
            ),
            _ => ninja.as_ref().map_or(Duration::ZERO, |dir| {
                site::time(site::program("ninja").arg("-C").arg(dir))
            }),
        });
        detail(&format!("impasto plan, {shape}"), &ours);
        detail(&format!("impasto build, {shape}"), &build);
        detail("ninja", &peer);
        let what = format!("no-op plan of 10,000 nodes ({shape}) vs ninja");
        rows.push(Row::against(
            &what,
            median(&ours),
            median(&peer),
            Goal::AtMost(3.0),
        ));
        let show = |bytes: f64| format!("{:.0} MB", bytes / 1e6);
        rows.extend(memory.map(|bytes| {
            Row::absolute(
                &format!("{what}: peak memory"),
                bytes as f64,
                Goal::AtMost(150e6),
                show,
            )
        }));
    }
    rows
}

fn plan(dir: &Path, store: &Path) -> Command {
    let mut command = site::impasto(store);
    command.arg("plan").arg(dir);
    command
}

const HEAD: &str = "recipe {\n  name              = \"plan\"\n  source_date_epoch = 1700000000\n}\n\n\
                    stage \"fetch\" \"base\" {\n  path = \"base.qcow2\"\n}\n";

fn matrix() -> String {
    let (chains, length) = size();
    let mut text = HEAD.to_owned();
    let values: Vec<_> = (0..chains).map(|value| format!("\"v{value}\"")).collect();
    let _ = write!(
        text,
        "\nmatrix {{\n  variant = [{}]\n}}\n",
        values.join(", ")
    );
    for stage in 0..length {
        let from = if stage == 0 {
            "base".to_owned()
        } else {
            format!("s{}", stage - 1)
        };
        let _ = write!(
            text,
            "\nstage \"run\" \"s{stage}\" {{\n  from     = stage.{from}\n  \
             commands = [\"echo ${{matrix.variant}} {stage} > /root/file-{stage}\"]\n}}\n"
        );
    }
    text
}

fn blocks() -> String {
    let (chains, length) = size();
    let mut text = HEAD.to_owned();
    for chain in 0..chains {
        for stage in 0..length {
            let from = if stage == 0 {
                "base".to_owned()
            } else {
                format!("c{chain}s{}", stage - 1)
            };
            let _ = write!(
                text,
                "\nstage \"run\" \"c{chain}s{stage}\" {{\n  from     = stage.{from}\n  \
                 commands = [\"echo {chain} {stage} > /root/file-{stage}\"]\n}}\n"
            );
        }
    }
    text
}

/// As many edges in the same chains, built once.
fn ninja() -> std::path::PathBuf {
    let (chains, length) = size();
    let dir = site::dir().join("ninja");
    let mut text = "rule touch\n  command = : > $out\n".to_owned();
    for chain in 0..chains {
        for stage in 0..length {
            let from = if stage == 0 {
                "base".to_owned()
            } else {
                format!("c{chain}s{}", stage - 1)
            };
            let _ = writeln!(text, "build c{chain}s{stage}: touch {from}");
        }
    }
    if std::fs::read(dir.join("build.ninja")).ok() != Some(text.clone().into_bytes()) {
        let dir = site::fresh("ninja");
        std::fs::write(dir.join("base"), "").expect("an input");
        std::fs::write(dir.join("build.ninja"), text).expect("a ninja file");
    }
    site::run(site::program("ninja").arg("-C").arg(&dir));
    let null = site::run(site::program("ninja").arg("-C").arg(&dir));
    assert!(String::from_utf8_lossy(&null.stdout).contains("no work to do"));
    dir
}

/// Claims a made-up result for every node, and remembers it as a build does.
fn claim_all(dir: &Path, store: &Path) {
    let registry = Registry::default();
    let path = dir.canonicalize().expect("a directory");
    let request = LoadRequest {
        path,
        vars: Vec::new(),
        var_files: Vec::new(),
        env: Vec::new(),
        host_env: BTreeMap::new(),
        only: Vec::new(),
        home: None,
        allow_paths: Vec::new(),
    };
    let recipe =
        load(&request, &registry).unwrap_or_else(|errors| panic!("{}", errors.render(false)));
    let graph = Graph::new(&recipe, &registry, LockFile::default());
    let store = Store::open(store).expect("a store");
    let mut planner = Planner::new(&recipe, &graph, &store, Isolation::Namespace);
    let mut hits: NodeMap<Option<Hit>> = NodeMap::filled(None, graph.len());
    let mut made = 0;
    let (time, ()) = timed(|| {
        for id in graph.ids() {
            let node = graph.node(id);
            let mut units = ActionChain::new(node);
            let parent = |parent: NodeId| hits[parent].as_ref().expect("a parent");
            let action = match planner.advance(id, &mut units, parent).expect("a key") {
                (_, PlanState::Cached(hit)) => {
                    hits[id] = Some(hit);
                    continue;
                }
                (action, _) => action.expect("what is dirty has an Action"),
            };
            made += 1;
            let name = graph.stable_name(&node.stage, node.combinations[0]);
            // No plan and no build in which nothing is to be done looks at the layer.
            let made_up = Digest::from_bytes(*blake3::hash(name.as_bytes()).as_bytes());
            let disk = DiskRef {
                layer: LayerRef {
                    disk: DiskDigest(made_up),
                    layer: LayerId(made_up),
                },
                virtual_size: 1 << 30,
            };
            let result = Outputs {
                disk: Some(disk),
                ..Outputs::default()
            };
            let claim = Claim {
                action: action.digest(),
                kind: node.kind.name.to_owned(),
                stage: node.stage.to_string(),
                node: name.clone(),
                recipe: recipe.name.clone(),
                result: result.clone(),
                caveats: Default::default(),
                sandbox: "namespace".to_owned(),
                // What is weaker than running would be is not believed.
                isolation: match action.executor {
                    Executor::Host => Isolation::Host,
                    Executor::Machine => Isolation::Vm,
                    Executor::Sandbox(_) => Isolation::Namespace,
                },
                facts: BTreeMap::from([("kernel".to_owned(), "6.1.0".to_owned())]),
                writer: String::new(),
                created: 1_700_000_000,
                engine_epoch: u64::from(ENGINE_EPOCH),
                cost: Cost {
                    wall_ms: 1000,
                    cpu_ms: 0,
                    stored_bytes: 1 << 20,
                },
                log: None,
                fields: action.explain(),
                root: None,
                extra: BTreeMap::new(),
            };
            let id_of_claim = store.put_claim(&claim).expect("a claim");
            let hit = Hit {
                action: claim.action,
                claim: id_of_claim,
                result,
                caveats: claim.caveats,
                wall_ms: claim.cost.wall_ms,
            };
            assert!(matches!(
                planner.complete(id, &mut units, hit.clone()),
                Ok(Completed::Node(_))
            ));
            let (action, claim) = (hit.action, hit.claim);
            let reason = "never built".to_owned();
            let memory = NodeHistory {
                action,
                claim,
                reason,
                at: 1_700_000_000,
                wall_ms: 1000,
                earlier: Vec::new(),
            };
            planner.add_run(id, 0, &memory);
            hits[id] = Some(hit);
        }
    });
    planner.save_history().expect("remembered");
    store.flush().expect("the index is kept");
    let everything: Vec<_> = graph.ids().collect();
    let states = planner.plan(&everything).expect("a plan");
    assert!(
        states
            .values()
            .all(|state| matches!(state, Some(PlanState::Cached(_))))
    );
    println!("  {made} claims in {:.1} s", time.as_secs_f64());
}

/// The most memory that a process held resident while it made its output, in bytes: read when it cannot go on because
/// nobody takes the output, which it prints when all else is done.
fn peak_memory(command: &mut Command) -> u64 {
    let mut child = command.stderr(Stdio::null()).spawn().expect("a process");
    let mut output = child.stdout.take().expect("piped");
    let mut first = [0; 1];
    output.read_exact(&mut first).expect("output");
    std::thread::sleep(Duration::from_millis(50));
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()))
        .expect("the process waits for us");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .expect("proc(5)");
    let kilobytes: u64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .expect("a number");
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).expect("output");
    assert!(
        rest.len() > 128 << 10,
        "the output fits into a pipe: the process did not wait"
    );
    assert!(child.wait().expect("its end").success());
    kilobytes * 1024
}
