//! `impasto outdated`: which locked packages have newer versions, what else is served now, and what taking it would cost.
//! Knows how that is shown, and the history of the last run; the engine asks.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use impasto_store::Store;
use serde::Serialize;

use super::build::engine_config;
use super::error::CliError;
use super::record::{RecordArgs, view};
use super::session::{Loaded, Session};
use super::{RecipeArgs, RunArgs, SandboxChoice, exit};
use crate::base::human;
use crate::base::table;
use crate::engine::chain::chain_step_name;
use crate::engine::event::Event;
use crate::engine::graph::{ImageNode, NodeId};
use crate::engine::locking::{LockRun, source_request};
use crate::lock::NewerVersion;
use crate::ui;

#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 if everything is up to date, 10 if something is newer.")]
pub(crate) struct Outdated {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Where Debian's packages come from: http://…, https://…, file:/… or copy:/… [default: IMPASTO_MIRROR, else the mirrors of the host's apt]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Shows only security updates
    #[arg(long)]
    security: bool,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct OutdatedDocument {
    v: u32,
    packages: Vec<OutdatedRow>,
    sources: Vec<OutdatedSource>,
    rebuild: Vec<Rebuild>,
}

/// A package of which there is a newer version, in one stage.
#[derive(Serialize)]
struct OutdatedRow {
    stage: String,
    images: Vec<String>,
    name: String,
    architecture: String,
    locked: String,
    newest: String,
    archive: String,
    security: bool,
}

/// What a stage gets from elsewhere and is another one now.
#[derive(Serialize)]
struct OutdatedSource {
    stage: String,
    images: Vec<String>,
    url: String,
    /// `image`, `file` or `commit`.
    what: &'static str,
    /// The beginning of the digest in the lock.
    locked: String,
    locked_date: String,
    /// When what is served now last changed, where the server says so.
    date: Option<String>,
    /// The beginning of its name, where that is known without getting it.
    #[serde(skip_serializing_if = "Option::is_none")]
    newest: Option<String>,
}

/// A stage that an update would run again.
#[derive(Serialize)]
struct Rebuild {
    stage: String,
    /// How long it took when it last ran.
    last_ms: Option<u64>,
}

impl Outdated {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let (loaded, store) = session.load_with_store(&self.recipe)?;
        let selection = loaded.selection()?;
        let needed = loaded.graph.closure(&selection.nodes);
        let mirrors = session.mirrors(self.mirror.as_deref())?;
        let sandbox = session.sandbox(SandboxChoice::Auto, mirrors.clone());
        let (run, packages) = (RunArgs::default(), session.package_host(mirrors));
        let config = engine_config(session, &self.recipe, &run, &loaded, sandbox, &packages)?;
        let mut reporter = view(session, &RecordArgs::default(), &loaded);
        let mut events = |event: &Event| reporter.event(event);
        let newer = LockRun::new(&loaded.recipe, &store, config, session.start, &mut events)
            .newer(&loaded.graph, &needed, self.security)?;
        reporter.finish()?;
        let label = |id: &NodeId| loaded.graph.node(*id).label.clone();
        let mut rows = Vec::new();
        for (id, versions) in newer.versions {
            let (stage, images) = (label(&id), images(&loaded, id));
            rows.extend(
                versions
                    .into_iter()
                    .map(|newer| row(&stage, &images, newer)),
            );
        }
        let sources: Vec<_> = newer
            .sources
            .into_iter()
            .map(|(id, source)| OutdatedSource {
                stage: label(&id),
                images: images(&loaded, id),
                url: source.url,
                what: source.what,
                locked: source.locked,
                locked_date: source.locked_date,
                date: source.date,
                newest: source.newest,
            })
            .collect();
        let unlocked: Vec<_> = newer.unlocked.iter().map(label).collect();
        let rebuild = rebuild(&loaded, &store, &newer.rebuild);
        let code = if rows.is_empty() && sources.is_empty() {
            exit::OK
        } else {
            exit::DIFFERENT
        };
        if !unlocked.is_empty() {
            let what = match newer.unlocked.iter().all(|id| is_source(&loaded, *id)) {
                true => "what is fetched by",
                false => "the packages of",
            };
            let are = if what.starts_with("what") {
                "is"
            } else {
                "are"
            };
            let message = format!("{what} {} {are} not locked", unlocked.join(", "));
            let help = Some("lock them: impasto update".to_owned());
            return Err(CliError::Other {
                message,
                help,
                code: exit::RECIPE,
            });
        }
        let document = OutdatedDocument {
            v: 1,
            packages: rows,
            sources,
            rebuild,
        };
        ui::output(&if self.json || session.global.progress.is_json() {
            serde_json::to_string(&document).expect("BUG: a list is not JSON") + "\n"
        } else {
            text(&document, self.security)
        })?;
        Ok(code)
    }
}

fn row(stage: &str, images: &[String], newer: NewerVersion) -> OutdatedRow {
    let NewerVersion {
        name,
        architecture,
        locked,
        newest,
        archive,
        security,
    } = newer;
    let (stage, images) = (stage.to_owned(), images.to_owned());
    OutdatedRow {
        stage,
        images,
        name,
        architecture,
        locked,
        newest,
        archive,
        security,
    }
}

fn is_source(loaded: &Loaded, id: NodeId) -> bool {
    source_request(loaded.graph.node(id)).is_some()
}

/// The images that a node is part of.
fn images(loaded: &Loaded, id: NodeId) -> Vec<String> {
    let graph = &loaded.graph;
    let part = |image: &ImageNode| graph.closure(&image.sources().collect::<Vec<_>>())[id];
    let names: BTreeSet<_> = graph
        .images()
        .iter()
        .filter(|image| part(image))
        .map(|image| image.name.clone())
        .collect();
    names.into_iter().collect()
}

/// Nodes that would run again, and how long they took when they last did.
fn rebuild(loaded: &Loaded, store: &Store, nodes: &[NodeId]) -> Vec<Rebuild> {
    if nodes.is_empty() {
        return Vec::new();
    }
    let history = loaded.state(store).load().unwrap_or_default();
    let last = |id: NodeId| {
        let mut names = loaded.graph.stable_names(id);
        names.find_map(|name| history.nodes.get(&chain_step_name(name, 0)))
    };
    let row = |id: &NodeId| Rebuild {
        stage: loaded.graph.node(*id).label.clone(),
        last_ms: last(*id).map(|run| run.wall_ms),
    };
    nodes.iter().map(row).collect()
}

fn text(document: &OutdatedDocument, security: bool) -> String {
    let sources = &document.sources;
    if document.packages.is_empty() && sources.is_empty() {
        return if security {
            "no security update is newer than the lock\n"
        } else {
            "everything locked is up to date\n"
        }
        .to_owned();
    }
    let mut by_images: BTreeMap<&[String], Vec<Vec<String>>> = BTreeMap::new();
    for row in &document.packages {
        let change = format!("{} → {}", row.locked, row.newest);
        let security = if row.security { "security" } else { "" };
        let cells = vec![
            row.name.clone(),
            change,
            row.stage.clone(),
            row.archive.clone(),
            security.to_owned(),
        ];
        by_images.entry(&row.images).or_default().push(cells);
    }
    let mut text = String::new();
    for (images, rows) in by_images {
        if !images.is_empty() {
            text += &format!("{}:\n", images.join(", "));
        }
        text += &format!("{}\n", table::columns(&rows).trim_end());
    }
    for source in sources {
        let OutdatedSource {
            stage,
            url,
            what,
            locked,
            locked_date,
            date,
            newest,
            ..
        } = source;
        let day = |date: &str| date.get(..10).unwrap_or(date).to_owned();
        text += &match (newest, date) {
            (Some(newest), _) => format!("{stage}: another {what}: {locked} → {newest}"),
            (None, Some(date)) => format!("{stage}: another {what} since {}", day(date)),
            (None, None) => format!("{stage}: another {what} than on {}", day(locked_date)),
        };
        text += &format!("  ({url})\n");
    }
    let security = document.packages.iter().filter(|row| row.security).count();
    let cost: u64 = document
        .rebuild
        .iter()
        .filter_map(|stage| stage.last_ms)
        .sum();
    let stages: Vec<_> = document
        .rebuild
        .iter()
        .map(|stage| stage.stage.as_str())
        .collect();
    if !document.packages.is_empty() {
        let newer = document.packages.len();
        text += &format!("{newer} newer, {security} of them for security\n");
    }
    text += &format!("an update rebuilds {}", stages.join(", "));
    if cost > 0 {
        text += &format!(
            ", which last took {}",
            human::seconds(std::time::Duration::from_millis(cost))
        );
    }
    text + "\n"
}
