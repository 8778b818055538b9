//! `impasto outdated`: which locked packages have newer versions, and what taking them would cost.
//! Knows the lock, the graph and the history of the last run; asks only signed indexes.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use serde::Serialize;

use super::error::CliError;
use super::lock_context::LockContext;
use super::session::{Loaded, Session};
use super::{RecipeArgs, SandboxChoice, exit};
use crate::base::human;
use crate::base::table;
use crate::engine::chain::chain_step_name;
use crate::engine::graph::{ImageNode, NodeId, NodeMap};
use crate::engine::locking::{self, LockState};
use crate::lock::{NewerVersion, PackageManager, Pinning, ResolveQuery};
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
        let context = LockContext::new(session, &store, mirrors, sandbox);
        let shown_dir = session.shown_dir(&loaded);
        let manager = context.manager(&loaded.recipe.dir)?;
        let wait = ui::Wait::new(&session.host, "asking", "the archives", context.meter());
        let mut rows = Vec::new();
        let mut dirty = NodeMap::filled(false, loaded.graph.len());
        let mut unlocked = Vec::new();
        for id in loaded.graph.ids().filter(|id| needed[*id]) {
            let node = loaded.graph.node(id);
            dirty[id] = node.parents.iter().any(|(_, parent)| dirty[*parent]);
            let Some(request) = &node.lowered.request else {
                continue;
            };
            let LockState::Locked(place) = loaded.locks[id] else {
                unlocked.push(node.label.clone());
                continue;
            };
            let entry = &loaded.lock.stages[place];
            let query = ResolveQuery {
                stage: &node.label,
                request,
                below: locking::base_of(&loaded.graph, &loaded.lock, id, |_| None),
                secrets: &node.lowered.secrets,
                dir: &loaded.recipe.dir,
                scope: &loaded.recipe.scope,
                keep: Pinning::Nothing,
                tools: entry,
            };
            let mut newer = manager
                .newer(&query, entry)
                .map_err(|source| locking::RenewError::of_node(node, &shown_dir, source))?;
            newer.retain(|newer| newer.security || !self.security);
            dirty[id] |= !newer.is_empty();
            let images = images(&loaded, id);
            rows.extend(
                newer
                    .into_iter()
                    .map(|newer| row(&node.label, &images, newer)),
            );
        }
        drop(wait);
        let rebuild: Vec<_> = loaded
            .graph
            .ids()
            .filter(|id| dirty[*id])
            .map(|id| Rebuild {
                stage: loaded.graph.node(id).label.clone(),
                last_ms: last_ms(&loaded, &store, id),
            })
            .collect();
        let code = if rows.is_empty() {
            exit::OK
        } else {
            exit::DIFFERENT
        };
        if !unlocked.is_empty() {
            let message = format!("the packages of {} are not locked", unlocked.join(", "));
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
            rebuild,
        };
        ui::output(&if self.json {
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

/// How long a node took when it last ran, in milliseconds.
fn last_ms(loaded: &Loaded, store: &impasto_store::Store, id: NodeId) -> Option<u64> {
    let memory = loaded.state(store).load().ok()?;
    loaded.graph.stable_names(id).find_map(|name| {
        memory
            .nodes
            .get(&chain_step_name(name, 0))
            .map(|memory| memory.wall_ms)
    })
}

fn text(document: &OutdatedDocument, security: bool) -> String {
    if document.packages.is_empty() {
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
    text += &format!(
        "{} newer, {security} of them for security\n",
        document.packages.len()
    );
    text += &format!("an update rebuilds {}", stages.join(", "));
    if cost > 0 {
        text += &format!(
            ", which last took {}",
            human::seconds(std::time::Duration::from_millis(cost))
        );
    }
    text + "\n"
}
