//! `impasto why`: explains the state of stages.
//! Knows how an explanation is shown; the planner knows the reasons.

use std::time::Duration;

use clap::Args;

use super::error::CliError;
use super::session::{Loaded, Session};
use super::{RecipeArgs, exit};
use crate::base::human;
use crate::engine::graph::{NodeId, NodeMap};
use crate::engine::plan::{PlanState, Planner};
use crate::engine::reason::Reason;
use crate::ui;

#[derive(Debug, Args)]
pub(crate) struct Why {
    #[command(flatten)]
    recipe: RecipeArgs,
}

impl Why {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let loaded = session.load(&self.recipe)?;
        let selection = loaded.selection()?;
        let store = session.store()?;
        let mut planner = loaded.planner(&store, &[])?;
        let states = planner.plan(&selection.nodes)?;
        if let Err(error) = store.flush() {
            tracing::debug!(%error, "caches cannot be written");
        }
        let mut text = String::new();
        for id in &selection.nodes {
            if !text.is_empty() {
                text.push('\n');
            }
            text += &explain(&loaded, &planner, &states, *id, session.host.now());
        }
        ui::output(&text)?;
        Ok(exit::OK)
    }
}

fn explain(
    loaded: &Loaded,
    planner: &Planner<'_>,
    states: &NodeMap<Option<PlanState>>,
    id: NodeId,
    now: u64,
) -> String {
    let node = loaded.graph.node(id);
    let state = states[id]
        .as_ref()
        .expect("BUG: a selected node was not planned");
    let mut text = format!("{} ({}) is {}", node.label, node.kind.name, state.word());
    match state {
        PlanState::Cached(hit) => {
            text += &format!(
                "\n  key:   {}\n  claim: {}\n",
                hit.action,
                hit.claim.short()
            );
            if let Some(disk) = &hit.result.disk {
                text += &format!(
                    "  disk:  {} in layer {}\n",
                    disk.layer.disk.short(),
                    disk.layer.layer.short()
                );
            }
            for (name, file) in &hit.result.files {
                let digest = file.content.digest();
                text += &format!("  file:  {name} ({})\n", digest.short());
            }
            if !hit.caveats.is_empty() {
                let words: Vec<_> = hit.caveats.iter().map(ToString::to_string).collect();
                text += &format!("  with:  {}\n", words.join(", "));
            }
            if let Some(last) = planner.last_history(id) {
                let took = human::seconds(Duration::from_millis(last.wall_ms));
                let ago = human::seconds(Duration::from_secs(now.saturating_sub(last.at)));
                text += &format!(
                    "  last run: {ago} ago, in {took}, because: {}\n",
                    last.reason
                );
            }
        }
        PlanState::Dirty { reason, .. } => match reason {
            Reason::Changed(changes) if !changes.is_empty() => {
                text += ", because since its last run:\n";
                for change in changes {
                    text += &format!("  {change}\n");
                }
            }
            reason => text += &format!(": {reason}\n"),
        },
        PlanState::Pending { on } => {
            let mut path = vec![node.label.clone()];
            let mut at = id;
            while at != *on {
                let next = loaded.graph.node(at).parents.iter().map(|(_, parent)| *parent).find(|parent| {
                    parent == on || matches!(&states[*parent], Some(PlanState::Pending { on: other }) if other == on)
                });
                at = next.unwrap_or(*on);
                path.push(loaded.graph.node(at).label.clone());
            }
            let cause = states[*on]
                .as_ref()
                .and_then(|state| super::plan::reason(loaded, state));
            text += &format!(
                ": it depends on {}\n",
                path[1..].join(", which depends on ")
            );
            text += &format!(
                "  {}: {}\n",
                loaded.graph.node(*on).label,
                cause.unwrap_or_default()
            );
            text += "  if its content turns out the same as before, this one does not run\n";
        }
    }
    text
}
