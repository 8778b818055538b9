//! What a job is given: its node's inputs as results of others, its secrets, its place in the run.
//! Knows graph and results; runs nothing.

use std::collections::BTreeSet;
use std::time::Instant;

use impasto_stages::action::Slot;
use impasto_store::claim::FileContent;
use impasto_store::digest::{ActionDigest, ClaimId};

use super::{Engine, EngineError};
use crate::engine::cause::{About, DiskMaker, Place, What};
use crate::engine::graph::NodeId;
use crate::engine::job::{Job, JobInput};
use crate::engine::log::Redactor;
use crate::engine::plan::{Units, unit_name};
use crate::engine::publish::Target;

/// How many earlier runs of a node are looked at.
const PREVIOUS: usize = 8;

impl Engine<'_> {
    /// A job that only writes a node's files again.
    pub(super) fn publish_job(&mut self, id: NodeId, targets: Vec<Target>) -> Job {
        self.started[id] = Some(Instant::now());
        let mut job = self.job(id);
        job.targets = targets;
        job.found = self.results[id].clone();
        job
    }

    /// The job that would run next for a node that has all it needs, to be entered instead; none where nothing of it is
    /// left to run.
    ///
    /// # Errors
    /// It cannot be bound.
    pub fn job_of(mut self, id: NodeId) -> Result<Option<Job>, EngineError> {
        let actions = &self.planner.graph.node(id).lowered.actions;
        let sets: Vec<_> = actions.iter().filter_map(|action| action.packages.as_ref()).collect();
        if !sets.is_empty() {
            let packages = (self.config.packages)();
            packages.begin(sets.into_iter());
            self.packages = Some(packages);
        }
        let results = &self.results;
        let result = |parent: NodeId| results[parent].as_ref().expect("BUG: a parent has no result");
        let units = self.units.entry(id).or_insert_with(|| Units::new(self.planner.graph.node(id)));
        let (Some(action), _) = self.planner.advance(id, units, result)? else { return Ok(None) };
        let mut job = self.job(id);
        job.action = Some(action);
        Ok(Some(job))
    }

    /// What every job of a node knows.
    pub(super) fn job(&mut self, id: NodeId) -> Job {
        let meter = self.meters.entry(id).or_default().meter.clone();
        let graph = self.planner.graph;
        let node = graph.node(id);
        let units = self.units.get(&id);
        let (unit, template) = match units {
            Some(units) => (units.done(), units.next()),
            // Known from the plan: only the files of its result are to be written again.
            None => (0, &node.lowered.actions[0]),
        };
        let result = |parent: NodeId| self.results[parent].as_ref().expect("BUG: a parent has no result");
        let start = match &template.parent {
            Some(Slot::Stage(stage)) => Some((node.parent(stage), &result(node.parent(stage)).result)),
            Some(Slot::Unit { unit, .. }) => units.map(|units| (id, &units.hit(*unit).result)),
            _ => None,
        };
        let disk = start.and_then(|(from, outputs)| Some((from, outputs.disk?)));
        let below = start.and_then(|(_, outputs)| outputs.tree);
        let mut inputs = Vec::new();
        for (name, slot) in &template.inputs {
            let (parent, hit, file) = match slot {
                Slot::Local(path) | Slot::LocalWithTimes(path) => {
                    let full = self.planner.inputs.path(path);
                    if let Ok(input) = self.planner.inputs.get(path) {
                        let (input, scope) = (input.clone(), self.planner.inputs.scope().clone());
                        inputs.push((name.clone(), JobInput::Local { path: full, input, scope }));
                    }
                    continue;
                }
                Slot::Toolbox => continue,
                Slot::Stage(stage) => (node.parent(stage), result(node.parent(stage)), None),
                Slot::StageFile { stage, file } => (node.parent(stage), result(node.parent(stage)), Some(file)),
                Slot::Unit { unit, file } => {
                    let Some(units) = units else { continue };
                    (id, units.hit(*unit), file.as_ref())
                }
            };
            let Some(found) = hit.file(file) else { continue };
            let input = match &found.content {
                FileContent::Blob(blob) => JobInput::Blob { from: parent, blob: *blob, mode: found.mode },
                FileContent::Derived(derived) => {
                    let (from, disk) = self.disk_under(parent);
                    JobInput::Derived { from, disk, derived: derived.clone(), mode: found.mode }
                }
            };
            inputs.push((name.clone(), input));
        }
        let mut caveats = BTreeSet::new();
        for (_, parent) in &node.parents {
            caveats.extend(result(*parent).caveats.iter().copied());
        }
        Job {
            id,
            store: self.planner.store.metered(meter.clone()),
            meter,
            recipe: self.config.recipe.clone(),
            stage: node.stage.to_string(),
            label: node.label.clone(),
            kind: node.kind.name,
            names: self.names(id),
            unit,
            action: None,
            found: None,
            disk,
            below,
            inputs,
            secrets: node.lowered.secrets.clone(),
            redactor: Redactor::new(node.lowered.secrets.values()),
            about: self.about(id),
            dir: self.config.dir.clone(),
            caveats,
            targets: Vec::new(),
            sandbox: self.config.sandbox.clone(),
            cutoff: node.cutoff,
            previous: self.previous(id, unit),
            packages: self.packages.clone(),
            toolbox: graph.toolbox.clone(),
            facts: self.config.facts.clone(),
            logs: self.state.logs(),
            failed: self.state.failed(),
            now: self.config.now,
            cancel: self.cancel.clone(),
            events: self.sender.clone(),
        }
    }

    /// What messages say of a node.
    pub(super) fn about(&self, id: NodeId) -> About {
        let graph = self.planner.graph;
        let place =
            |id: NodeId| graph.node(id).place.as_ref().map(|origin| Place::of(What::Stage, &self.config.dir, origin));
        let disk_of = |id: &NodeId| match graph.node(*id).lowered.actions.first()?.parent.as_ref()? {
            Slot::Stage(stage) => Some(graph.node(*id).parent(stage)),
            _ => None,
        };
        let disk = std::iter::successors(disk_of(&id), disk_of).last().map(|maker| DiskMaker {
            label: graph.node(maker).label.clone(),
            has_size: graph.node(maker).kind.param("size").is_some(),
            place: place(maker),
        });
        let origins = graph.node(id).lowered.actions.first().map(|action| &action.hints.origins);
        let script = origins.and_then(|origins| origins.get("steps[0].script"));
        let script = script.map(|origin| Place::of(What::Script, &self.config.dir, origin));
        About { stage: place(id), script, disk, args: self.config.place.clone() }
    }

    /// What a node's unit came to when it ran before, the last run first.
    fn previous(&self, id: NodeId, unit: usize) -> Vec<(ActionDigest, ClaimId)> {
        let name = unit_name(self.names(id).swap_remove(0), unit);
        let memory = self.planner.memory.get().nodes.get(&name);
        memory.map_or(Vec::new(), |memory| memory.runs().take(PREVIOUS).collect())
    }

    /// The disk that a `convert` node writes, and the node that made it.
    fn disk_under(&self, convert: NodeId) -> (NodeId, impasto_store::layer::DiskRef) {
        let node = self.planner.graph.node(convert);
        let Some(Slot::Stage(stage)) = &node.lowered.actions[0].parent else {
            panic!("BUG: {} makes a derived file without a disk", node.label)
        };
        let parent = node.parent(stage);
        let hit = self.results[parent].as_ref().expect("BUG: a parent has no result");
        (parent, hit.result.disk.expect("BUG: a file was derived from no disk"))
    }
}
