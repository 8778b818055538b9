//! What a job is given: its node's inputs as results of others, its secrets, its place in the run.
//! Knows graph and results; runs nothing.

use std::sync::Arc;

use impasto_stages::action::Slot;
use impasto_store::claim::FileContent;
use impasto_store::layer::DiskRef;

use super::{Engine, EngineError, NodeRun};
use crate::engine::cause::{About, DiskMaker, SourceLocation, What};
use crate::engine::chain::ActionChain;
use crate::engine::graph::{Graph, NodeId, NodeMap};
use crate::engine::job::{Job, JobContext, JobInput, JobTask};
use crate::engine::log::Redactor;
use crate::engine::publish::Target;
use crate::vm::pool::MachinePool;

/// How many earlier runs of a node are looked at.
const PREVIOUS: usize = 8;

impl Engine<'_> {
    /// The job that would run next for a node that has all it needs, to be entered instead; none where nothing of it is
    /// left to run.
    ///
    /// # Errors
    /// It cannot be bound.
    pub fn job_of(mut self, id: NodeId) -> Result<Option<Job>, EngineError> {
        let graph = self.graph;
        let actions = &graph.node(id).lowered.actions;
        let sets: Vec<_> = actions
            .iter()
            .filter_map(|action| action.packages.as_ref())
            .collect();
        if !sets.is_empty() {
            let packages = self.fetcher();
            packages.begin(sets.into_iter());
            self.packages = Some(packages);
        }
        let mut units = ActionChain::new(graph.node(id));
        let found = self
            .planner
            .advance(id, &mut units, |parent| self.nodes[parent].known())?;
        self.nodes[id].units = Some(units);
        let (Some(action), _) = found else {
            return Ok(None);
        };
        Ok(Some(self.job(
            id,
            JobTask::Run(Box::new(action)),
            Vec::new(),
        )))
    }

    /// A job of a node: its task, and what it reads of other nodes' results.
    pub(super) fn job(&mut self, id: NodeId, task: JobTask, targets: Vec<Target>) -> Job {
        let node = self.graph.node(id);
        let meter = self.nodes[id].progress.meter();
        let units = self.nodes[id].units.as_ref();
        let (unit, template) = match units {
            Some(units) => (units.done(), units.next()),
            // Known from the plan: only the files of its result are to be written again.
            None => (0, &node.lowered.actions[0]),
        };
        let result = |parent: NodeId| self.nodes[parent].known();
        let start = match &template.parent {
            Some(Slot::Stage(stage)) => {
                Some((node.parent(stage), &result(node.parent(stage)).result))
            }
            Some(Slot::Unit { unit, .. }) => units.map(|units| (id, &units.hit(*unit).result)),
            _ => None,
        };
        let disk = start.and_then(|(from, outputs)| Some((from, outputs.disk?)));
        let below = start.and_then(|(_, outputs)| outputs.tree);
        let inputs = template.inputs.iter().filter_map(|(name, slot)| {
            let (parent, hit, file) = match slot {
                Slot::Local(_) | Slot::LocalWithTimes(_) | Slot::LocalPart { .. } => {
                    let (path, input, scope) = self.planner.input(slot)?;
                    return Some((name.clone(), JobInput::Local { path, input, scope }));
                }
                Slot::Toolbox | Slot::Firmware { .. } => return None,
                Slot::Stage(stage) => (node.parent(stage), result(node.parent(stage)), None),
                Slot::StageFile { stage, file } => {
                    (node.parent(stage), result(node.parent(stage)), Some(file))
                }
                Slot::Unit { unit, file } => (id, units?.hit(*unit), file.as_ref()),
            };
            let found = hit.file(file)?;
            let input = match &found.content {
                FileContent::Blob(archive) if found.is_tree() => JobInput::Tree {
                    from: parent,
                    archive: *archive,
                },
                FileContent::Blob(blob) => JobInput::Blob {
                    from: parent,
                    blob: *blob,
                    mode: found.mode,
                },
                FileContent::Derived(derived) => {
                    let (from, disk) = disk_under(self.graph, &self.nodes, parent);
                    JobInput::Derived {
                        from,
                        disk,
                        derived: derived.clone(),
                        mode: found.mode,
                    }
                }
            };
            Some((name.clone(), input))
        });
        let inputs = inputs.collect();
        let earlier = units.map_or(Vec::new(), ActionChain::results);
        let caveats = node
            .parents
            .iter()
            .flat_map(|(_, parent)| result(*parent).caveats.iter().copied())
            .collect();
        Job {
            context: self.context(),
            id,
            store: self.planner.store().metered(meter.clone()),
            meter,
            stage: node.stage.to_string(),
            label: node.label.clone(),
            kind: node.kind.name,
            names: self.graph.stable_names(id).collect(),
            unit,
            task,
            disk,
            below,
            inputs,
            earlier,
            secrets: node.lowered.secrets.clone(),
            redactor: Redactor::new(node.lowered.secrets.values()),
            about: self.about(id),
            caveats,
            targets,
            cutoff: node.cutoff,
            previous: self.planner.earlier_runs(id, unit).take(PREVIOUS).collect(),
        }
    }

    /// What the jobs of this run share. It is made with the first one: a run in which nothing is to be done makes no
    /// directory.
    fn context(&mut self) -> Arc<JobContext> {
        let context = self.context.get_or_insert_with(|| {
            let (config, state) = (&self.config, self.planner.state());
            Arc::new(JobContext {
                recipe: config.recipe.clone(),
                dir: config.dir.clone(),
                recipe_dir: self.planner.dir().to_owned(),
                scope: self.planner.scope().clone(),
                sandbox: config.sandbox.clone(),
                packages: self.packages.clone(),
                proxies: config.proxies.clone(),
                toolbox: self.graph.toolbox().cloned(),
                facts: config.facts.clone(),
                state: state.name.clone(),
                logs: state.logs(),
                failed: state.failed(),
                reports: config.reports.clone(),
                machines: MachinePool::of_host(),
                unpack_limit: config.unpack_limit,
                now: config.now,
                cancel: self.cancel.clone(),
                events: self.sender.clone(),
            })
        });
        context.clone()
    }

    /// What messages say of a node.
    pub(super) fn about(&self, id: NodeId) -> About {
        let graph = self.graph;
        let place = |id: NodeId| {
            graph
                .node(id)
                .place
                .as_ref()
                .map(|origin| SourceLocation::of(What::Stage, &self.config.dir, origin))
        };
        let disk_of =
            |id: &NodeId| match graph.node(*id).lowered.actions.first()?.parent.as_ref()? {
                Slot::Stage(stage) => Some(graph.node(*id).parent(stage)),
                _ => None,
            };
        // The nearest that says how large the disk is, else where it comes from.
        let mut maker = None;
        for below in std::iter::successors(disk_of(&id), disk_of) {
            maker = Some(below);
            if graph.node(below).kind.param("size").is_some() {
                break;
            }
        }
        let disk = maker.map(|maker| DiskMaker {
            label: graph.node(maker).label.clone(),
            has_size: graph.node(maker).kind.param("size").is_some(),
            place: place(maker),
        });
        let origins = graph
            .node(id)
            .lowered
            .actions
            .first()
            .map(|action| &action.hints.origins);
        let script = origins.and_then(|origins| origins.get("steps[0].script"));
        let script =
            script.map(|origin| SourceLocation::of(What::Script, &self.config.dir, origin));
        About {
            stage: place(id),
            script,
            disk,
        }
    }
}

/// The disk that a `convert` node writes, and the node that made it.
fn disk_under(graph: &Graph, nodes: &NodeMap<NodeRun<'_>>, convert: NodeId) -> (NodeId, DiskRef) {
    let node = graph.node(convert);
    let Some(Slot::Stage(stage)) = &node.lowered.actions[0].parent else {
        panic!("BUG: {} makes a derived file without a disk", node.label)
    };
    let parent = node.parent(stage);
    (
        parent,
        nodes[parent]
            .known()
            .result
            .disk
            .expect("BUG: a file was derived from no disk"),
    )
}
