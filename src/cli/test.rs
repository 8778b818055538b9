//! `impasto test`: runs the tests of images.
//! Knows which stages are tests; a build does the rest.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use super::build::Build;
use super::error::CliError;
use super::record::RecordArgs;
use super::session::{Loaded, Session};
use super::{RecipeArgs, RunArgs, complete, exit};
use crate::engine::graph::{NodeId, Selection};

#[derive(Debug, Args)]
#[command(after_help = "\
Tests are stages of kind `test`. Without a selector all of them run, and what they need is built. A test that passed is
cached until what it boots, its checks or its machine change.

Reports are written to out/STAGE: report.json, report.xml (JUnit) and each machine's console; a failure adds a picture
of its screen. `impasto help tests` explains checks and how they get into a guest.")]
pub(crate) struct Test {
    #[command(flatten)]
    recipe: RecipeArgs,
    #[command(flatten)]
    run: RunArgs,
    /// Makes only checks with this tag, and those that they come after
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Runs a stage even if its result is cached
    #[arg(long, alias = "again", value_name = "SELECTOR", add = ArgValueCompleter::new(complete::names))]
    rebuild: Vec<String>,
    /// Fails if the lock would have to change
    #[arg(long)]
    locked: bool,
    /// Asks no server: what is not in the store is an error
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    record: RecordArgs,
}

impl Test {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let Test {
            recipe,
            run,
            tag,
            rebuild,
            locked,
            offline,
            record,
        } = self;
        Build {
            recipe: RecipeArgs {
                tags: tag,
                ..recipe
            },
            run,
            rebuild,
            locked,
            offline,
            skip_tests: false,
            no_budget: false,
            record,
            tests: true,
        }
        .run(session)
    }
}

/// The tests that the selectors name, or all of them.
pub(super) fn selection(loaded: &Loaded, tags: &[String]) -> Result<Selection, CliError> {
    let graph = &loaded.graph;
    let is_test = |id: &NodeId| graph.is_test(*id);
    let mut nodes: Vec<NodeId> = if loaded.selectors().is_empty() {
        graph.ids().filter(is_test).collect()
    } else {
        let mut nodes = Vec::new();
        for selector in loaded.selectors() {
            let mut found = graph.select(selector)?.nodes;
            found.retain(is_test);
            if found.is_empty() {
                return Err(CliError::usage(
                    format!("`{selector}` is not a test"),
                    tests_are(loaded),
                ));
            }
            nodes.extend(found);
        }
        nodes
    };
    if nodes.is_empty() {
        return Err(CliError::Other {
            message: "the recipe has no tests".to_owned(),
            help: Some("add a stage of kind `test`: `impasto stages test` shows one".to_owned()),
            code: exit::RECIPE,
        });
    }
    // A test of which no check is left has only its report.
    nodes.retain(|id| graph.node(*id).lowered.actions.len() > 1);
    if nodes.is_empty() {
        return Err(CliError::usage(
            format!("no check has the tag {}", tags.join(" or ")),
            "tags are in `tags` of a test, or of one of its checks",
        ));
    }
    nodes.sort();
    nodes.dedup();
    Ok(Selection {
        nodes,
        images: Vec::new(),
    })
}

fn tests_are(loaded: &Loaded) -> String {
    let graph = &loaded.graph;
    let mut names: Vec<&str> = graph
        .ids()
        .filter(|id| graph.is_test(*id))
        .map(|id| &*graph.node(id).stage)
        .collect();
    names.sort_unstable();
    names.dedup();
    match names.as_slice() {
        [] => "the recipe has no stage of kind `test`".to_owned(),
        names => format!("the tests are: {}", names.join(", ")),
    }
}
