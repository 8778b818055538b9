//! `impasto graph`: the graph of stages as Graphviz or JSON.
//! Knows the two formats.

use clap::{Args, ValueEnum};
use petgraph::dot::{Config, Dot};
use serde::Serialize;

use super::error::CliError;
use super::session::Session;
use super::{RecipeArgs, exit};
use crate::ui;

#[derive(Debug, Args)]
pub(crate) struct GraphArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// The format
    #[arg(long, default_value = "dot")]
    format: GraphFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum GraphFormat {
    /// Graphviz
    Dot,
    /// One JSON object
    Json,
}

#[derive(Serialize)]
struct GraphDocument<'a> {
    v: u32,
    nodes: Vec<GraphNode<'a>>,
}

#[derive(Serialize)]
struct GraphNode<'a> {
    label: &'a str,
    stage: &'a str,
    kind: &'a str,
    needs: Vec<&'a str>,
}

impl GraphArgs {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let loaded = session.load(&self.recipe)?;
        let needed = loaded.graph.closure(&loaded.selection()?.nodes);
        let graph = &loaded.graph;
        let text = match self.format {
            GraphFormat::Json => {
                let nodes = graph.ids().filter(|id| needed[*id]).map(|id| {
                    let node = graph.node(id);
                    let needs = node
                        .parents
                        .iter()
                        .map(|(_, parent)| &*graph.node(*parent).label)
                        .collect();
                    GraphNode {
                        label: &node.label,
                        stage: &node.stage,
                        kind: node.kind.name,
                        needs,
                    }
                });
                let document = GraphDocument {
                    v: 1,
                    nodes: nodes.collect(),
                };
                serde_json::to_string(&document).expect("BUG: a graph is not JSON") + "\n"
            }
            GraphFormat::Dot => {
                let shown = graph.to_petgraph().filter_map(
                    |_, id| {
                        needed[*id].then(|| {
                            format!("{}\\n{}", graph.node(*id).label, graph.node(*id).kind.name)
                        })
                    },
                    |_, ()| Some(()),
                );
                let label = |_: &_, (_, text): (_, &String)| {
                    format!("label = \"{}\"", text.replace('"', "\\\""))
                };
                let edge = |_: &_, _| String::new();
                let config = &[Config::EdgeNoLabel, Config::NodeNoLabel];
                format!(
                    "{:?}",
                    Dot::with_attr_getters(&shown, config, &edge, &label)
                )
            }
        };
        ui::output(&text)?;
        Ok(exit::OK)
    }
}
