//! `impasto plan`: what a build would run, and why.
//! Knows how a plan is shown.

use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;

use super::error::CliError;
use super::session::{Loaded, Session};
use super::{RecipeArgs, exit};
use crate::graph::NodeId;
use crate::plan::State;
use crate::ui;

#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Plans as if these stages were to run again
    #[arg(long, value_name = "SELECTOR")]
    again: Vec<String>,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    v: u32,
    nodes: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    stage: &'a str,
    label: &'a str,
    kind: &'a str,
    matrix: BTreeMap<&'a str, &'a str>,
    combinations: Vec<BTreeMap<&'a str, &'a str>>,
    state: &'static str,
    reason: Option<String>,
    caveats: Vec<String>,
}

impl Plan {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let (loaded, store) = session.load_with_store(&self.recipe)?;
        let selection = loaded.selection()?;
        let mut planner = loaded.planner(&store, &self.again)?;
        let states = planner.plan(&selection.nodes)?;
        // What was hashed is worth remembering; a store that cannot be written to loses only that.
        if let Err(error) = store.flush() {
            tracing::debug!(%error, "caches are not kept");
        }
        let planned: Vec<_> =
            loaded.graph.ids().zip(&states).filter_map(|(id, state)| Some((id, state.as_ref()?))).collect();
        ui::output(&if self.json { json(&loaded, &planned) } else { text(&loaded, &planned) });
        // The process ends here: giving back the memory of 10,000 nodes piece by piece would take a tenth of the time.
        std::mem::forget((states, planner));
        std::mem::forget((loaded, store));
        Ok(exit::OK)
    }
}

/// Why a node is in its state; none where it is cached.
pub(super) fn reason(loaded: &Loaded, state: &State) -> Option<String> {
    match state {
        State::Cached(_) => None,
        State::Dirty { reason, .. } => Some(reason.to_string()),
        State::Pending { on } => Some(format!("waits for {}", loaded.graph.node(*on).label)),
    }
}

/// What a result that is known is to be believed with.
fn caveats(state: &State) -> Vec<String> {
    match state {
        State::Cached(hit) => hit.caveats.iter().map(ToString::to_string).collect(),
        State::Dirty { .. } | State::Pending { .. } => Vec::new(),
    }
}

fn text(loaded: &Loaded, planned: &[(NodeId, &State)]) -> String {
    let mut rows = Vec::new();
    let mut counts = [("dirty", 0), ("pending", 0), ("cached", 0)];
    for (id, state) in planned {
        let node = loaded.graph.node(*id);
        let reason = reason(loaded, state).unwrap_or_else(|| caveats(state).join(", "));
        rows.push(vec![state.word().to_owned(), node.kind.name.to_owned(), node.label.clone(), reason]);
        counts.iter_mut().filter(|(word, _)| *word == state.word()).for_each(|(_, count)| *count += 1);
    }
    let counts: Vec<_> = counts.iter().map(|(word, count)| format!("{count} {word}")).collect();
    format!("{}\n{}\n", ui::columns(&rows), counts.join(", "))
}

fn json(loaded: &Loaded, planned: &[(NodeId, &State)]) -> String {
    let graph = &loaded.graph;
    let nodes = planned.iter().map(|(id, state)| {
        let node = graph.node(*id);
        let combinations: Vec<_> =
            node.combinations.iter().map(|place| graph.values(*place).collect::<BTreeMap<_, _>>()).collect();
        Row {
            stage: &node.stage,
            label: &node.label,
            kind: node.kind.name,
            matrix: combinations[0].clone(),
            combinations,
            state: state.word(),
            reason: reason(loaded, state),
            caveats: caveats(state),
        }
    });
    let document = Document { v: 1, nodes: nodes.collect() };
    serde_json::to_string(&document).expect("BUG: a plan is not JSON") + "\n"
}
