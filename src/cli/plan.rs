//! `impasto plan`: what a build would run, why, and what that costs.
//! Knows how a plan is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::Args;
use impasto_stages::ActionTemplate;
use impasto_store::Store;
use serde::Serialize;

use super::error::CliError;
use super::session::{Loaded, Session};
use super::{RecipeArgs, exit, leave_to_exit};
use crate::base::human;
use crate::base::table;
use crate::debian::packages::files;
use crate::engine::forecast::{Durations, Rest, left};
use crate::engine::graph::{NodeId, NodeMap};
use crate::engine::plan::PlanState;
use crate::ui;

#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Plans as if these stages had to run again
    #[arg(long, alias = "again", value_name = "SELECTOR")]
    rebuild: Vec<String>,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct PlanDocument<'a> {
    v: u32,
    cost: &'a PlanCost,
    nodes: Vec<PlanRow<'a>>,
}

/// What a build costs: at most, as what builds on a stage that comes out as before does not run.
#[derive(Serialize, Default)]
struct PlanCost {
    /// How long it takes without downloads, as far as that is known from earlier runs; none where nothing is.
    wall_ms: Option<u64>,
    /// Stages of which no earlier run is known.
    unknown: Vec<String>,
    /// Bytes of packages that the store lacks.
    download_bytes: u64,
    /// Bytes of other files that the store lacks and whose size the lock knows.
    download_file_bytes: u64,
    /// Files whose size nobody knows.
    downloads_of_unknown_size: usize,
    /// How long each stage took.
    #[serde(skip)]
    stages: BTreeMap<NodeId, Duration>,
}

#[derive(Serialize)]
struct PlanRow<'a> {
    stage: &'a str,
    label: &'a str,
    kind: &'a str,
    matrix: BTreeMap<&'a str, &'a str>,
    combinations: Vec<BTreeMap<&'a str, &'a str>>,
    state: &'static str,
    reason: Option<String>,
    caveats: Vec<String>,
    /// How long it took when it last ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_ms: Option<u64>,
}

impl Plan {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let (loaded, store) = session.load_with_store(&self.recipe)?;
        let selection = loaded.selection()?;
        let mut planner = loaded.planner(&store, &self.rebuild)?;
        let states = planner.plan(&selection.nodes)?;
        // What was hashed is worth remembering; a store that cannot be written to loses only that.
        if let Err(error) = store.flush() {
            tracing::debug!(%error, "caches cannot be written");
        }
        let planned: Vec<_> = loaded
            .graph
            .ids()
            .zip(states.values())
            .filter_map(|(id, state)| Some((id, state.as_ref()?)))
            .collect();
        let cost = cost(session, &loaded, &store, &planned)?;
        ui::output(&if self.json {
            json(&loaded, &planned, &cost)
        } else {
            text(&loaded, &planned, &cost)
        })?;
        leave_to_exit((states, planner));
        leave_to_exit((loaded, store));
        Ok(exit::OK)
    }
}

/// Why a node is in its state; none where it is cached.
pub(super) fn reason(loaded: &Loaded, state: &PlanState) -> Option<String> {
    match state {
        PlanState::Cached(_) => None,
        PlanState::Dirty { reason, .. } => Some(reason.to_string()),
        PlanState::Pending { on } => Some(format!("waits for {}", loaded.graph.node(*on).label)),
    }
}

/// What a result that is known is to be believed with.
fn caveats(state: &PlanState) -> Vec<String> {
    match state {
        PlanState::Cached(hit) => hit.caveats.iter().map(ToString::to_string).collect(),
        PlanState::Dirty { .. } | PlanState::Pending { .. } => Vec::new(),
    }
}

/// What carrying out a plan costs. Of a plan in which nothing is to run nothing is read.
fn cost(
    session: &Session,
    loaded: &Loaded,
    store: &Store,
    planned: &[(NodeId, &PlanState)],
) -> Result<PlanCost, CliError> {
    let graph = &loaded.graph;
    let open: Vec<_> = planned
        .iter()
        .filter(|(_, state)| !matches!(state, PlanState::Cached(_)))
        .map(|(id, _)| *id)
        .collect();
    if open.is_empty() {
        return Ok(PlanCost {
            wall_ms: Some(0),
            ..PlanCost::default()
        });
    }
    let durations: Durations = loaded.state(store).durations();
    let mut rest = NodeMap::filled(Rest::Nothing, graph.len());
    let mut cost = PlanCost::default();
    for id in &open {
        let time = durations.of(graph, *id).map(|work| work.time());
        rest[*id] = time.map_or(Rest::Unknown, Rest::Known);
        match time {
            Some(time) => drop(cost.stages.insert(*id, time)),
            None => cost.unknown.push(graph.node(*id).label.clone()),
        }
        if let Some(source) = graph.lock_source(*id)
            && let (Some(size), Some(sha256)) = (source.size, source.sha256)
        {
            if files::find(store, sha256)?.is_none() {
                cost.download_file_bytes += size;
            }
            continue;
        }
        let from_elsewhere = |action: &&ActionTemplate| !action.hints.urls.is_empty();
        cost.downloads_of_unknown_size += graph
            .node(*id)
            .lowered
            .actions
            .iter()
            .filter(from_elsewhere)
            .count();
    }
    let time = left(graph, &rest, session.jobs(None, &loaded.settings)).time;
    cost.wall_ms = time.map(|time| time.as_millis() as u64);
    // The user's own files come from nowhere.
    let lock = graph.lock();
    let entries = lock
        .toolbox
        .iter()
        .chain(&lock.stages)
        .flat_map(|entry| &entry.packages);
    let mut here: BTreeSet<_> = entries
        .filter(|package| package.archive.is_none())
        .map(|package| package.file.sha256)
        .collect();
    for package in graph
        .package_sets(open.iter().copied())
        .iter()
        .flat_map(|set| &set.install)
    {
        if here.insert(package.sha256) && files::find(store, package.sha256)?.is_none() {
            cost.download_bytes += package.size;
        }
    }
    Ok(cost)
}

impl PlanCost {
    /// All of it as a sentence; none where there is nothing to tell.
    fn sentence(&self, nodes: usize) -> Option<String> {
        let unknown = self.unknown.len();
        let time = self
            .wall_ms
            .map(|ms| human::about(Duration::from_millis(ms)));
        let time = match (time, unknown) {
            (None, _) => "build time unknown: none of these stages has been timed yet".to_owned(),
            (Some(time), 0) => format!("a build takes {time}"),
            (Some(time), 1) => format!("a build takes {time}, plus one stage that was never timed"),
            (Some(time), more) => {
                format!("a build takes {time}, plus {more} stages that were never timed")
            }
        };
        let mut downloads = Vec::new();
        if self.download_bytes > 0 {
            downloads.push(format!("{} of packages", human::bytes(self.download_bytes)));
        }
        if self.download_file_bytes > 0 {
            downloads.push(format!(
                "{} of files",
                human::bytes(self.download_file_bytes)
            ));
        }
        match self.downloads_of_unknown_size {
            0 => {}
            1 => downloads.push("a file of unknown size".to_owned()),
            more => downloads.push(format!("{more} files of unknown size")),
        }
        let downloads = match downloads.as_slice() {
            [] => String::new(),
            some => format!("; to download: {}", some.join(", ")),
        };
        (nodes > 0).then(|| format!("{time}{downloads}\n"))
    }
}

fn text(loaded: &Loaded, planned: &[(NodeId, &PlanState)], cost: &PlanCost) -> String {
    let mut rows = Vec::new();
    let mut counts = [("dirty", 0), ("pending", 0), ("cached", 0)];
    for (id, state) in planned {
        let node = loaded.graph.node(*id);
        let reason = reason(loaded, state).unwrap_or_else(|| caveats(state).join(", "));
        let time = cost
            .stages
            .get(id)
            .map_or(String::new(), |time| human::about(*time));
        let mut row = vec![
            state.word().to_owned(),
            node.kind.name.to_owned(),
            node.label.clone(),
            time,
            reason,
        ];
        if cost.stages.is_empty() {
            row.remove(3);
        }
        rows.push(row);
        counts
            .iter_mut()
            .filter(|(word, _)| *word == state.word())
            .for_each(|(_, count)| *count += 1);
    }
    let counts: Vec<_> = counts
        .iter()
        .map(|(word, count)| format!("{count} {word}"))
        .collect();
    let open = planned.len()
        - planned
            .iter()
            .filter(|(_, state)| matches!(state, PlanState::Cached(_)))
            .count();
    let cost = cost.sentence(open).unwrap_or_default();
    format!("{}\n{}\n{cost}", table::columns(&rows), counts.join(", "))
}

fn json(loaded: &Loaded, planned: &[(NodeId, &PlanState)], cost: &PlanCost) -> String {
    let graph = &loaded.graph;
    let nodes = planned.iter().map(|(id, state)| {
        let node = graph.node(*id);
        let combinations: Vec<_> = node
            .combinations
            .iter()
            .map(|place| graph.values(*place).collect::<BTreeMap<_, _>>())
            .collect();
        PlanRow {
            stage: &node.stage,
            label: &node.label,
            kind: node.kind.name,
            matrix: combinations[0].clone(),
            combinations,
            state: state.word(),
            reason: reason(loaded, state),
            caveats: caveats(state),
            expected_ms: cost.stages.get(id).map(|time| time.as_millis() as u64),
        }
    });
    let document = PlanDocument {
        v: 1,
        cost,
        nodes: nodes.collect(),
    };
    serde_json::to_string(&document).expect("BUG: a plan is not JSON") + "\n"
}
