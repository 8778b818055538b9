//! What jobs come to: results taken, losses made good, failures told.
//! Knows nodes and results; starts nothing but what changed while it was read.

use std::time::Duration;

use super::{Engine, REBINDS, SAVE_EVERY};
use crate::engine::event::{EventKind, How};
use crate::engine::graph::{NodeId, NodeMap};
use crate::engine::history::NodeHistory;
use crate::engine::job::{JobError, Success};
use crate::engine::plan::Completed;
use crate::engine::publish::{Published, WrittenTarget};
use crate::engine::reason::Reason;
use crate::engine::schedule::TaskState;

impl Engine<'_> {
    /// Takes what a job came to.
    pub(super) fn take(&mut self, id: NodeId, result: Result<Success, JobError>) {
        self.nodes[id].progress.ended();
        match result {
            Ok(success) => self.succeed(id, success),
            Err(JobError::Miss { from, miss }) => self.miss(id, from, &miss),
            Err(JobError::Changed { path, .. }) if self.nodes[id].rebinds < REBINDS => {
                self.nodes[id].rebinds += 1;
                self.planner.reread_inputs(id);
                let message = format!(
                    "`{}` changed while it was read; reading it again",
                    path.display()
                );
                self.warn(Some(id), message);
                self.nodes[id].result = None;
                self.start_node(id);
            }
            Err(JobError::Cancelled) => self.schedule.cancelled(id),
            Err(error) => self.fail(id, error),
        }
    }

    fn succeed(&mut self, id: NodeId, success: Success) {
        let wall_ms = self.nodes[id].wall_ms();
        for written in success.written {
            match written {
                WrittenTarget::Published(published) => self.tell_published(&published),
                WrittenTarget::Held(sealed) => self.images.hold(sealed),
            }
        }
        let completed = if success.ran {
            let node = &mut self.nodes[id];
            let reason = node
                .reason
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            let (action, claim, at) = (success.hit.action, success.hit.claim, self.config.now);
            let units = node.units.as_mut().expect("BUG: a node ran without units");
            let unit = units.done();
            let completed = match self.planner.complete(id, units, success.hit) {
                Ok(completed) => completed,
                Err(error) => return self.fail(id, JobError::plan(error)),
            };
            node.stored_bytes += success.stored_bytes;
            let run = NodeHistory {
                action,
                claim,
                reason,
                at,
                wall_ms,
                earlier: Vec::new(),
            };
            self.planner.add_run(id, unit, &run);
            completed
        } else {
            Completed::Node(Box::new(success.hit))
        };
        self.unsaved = true;
        // The result is durable already; this keeps it, and is what `why` and the next plan's choice remember.
        if self.saved.elapsed() > SAVE_EVERY {
            self.save(false);
        }
        let Completed::Node(hit) = completed else {
            // Further units: it goes on as soon as a place is free.
            return self.schedule.requeue(id);
        };
        self.planner.rebuilt(id);
        let node = &mut self.nodes[id];
        node.result = Some(*hit);
        node.units = None;
        node.built = success.ran;
        node.ran = Duration::from_millis(wall_ms);
        let stored_bytes = node.stored_bytes;
        if success.ran {
            self.learn(id, wall_ms);
        }
        self.schedule.done(id);
        let (stage, how) = (
            self.label(id),
            if success.ran { How::Built } else { How::Cached },
        );
        let (result_bytes, caveats) = (self.result_bytes(id), self.caveats(id));
        self.emit(EventKind::StageFinished {
            stage,
            how,
            wall_ms,
            stored_bytes,
            result_bytes,
            caveats,
        });
        self.look_at_images(id);
    }

    /// Remembers a file of the user's, and tells of it.
    pub(super) fn tell_published(&mut self, published: &Published) {
        self.planner.add_published(published);
        let (bytes, sha256) = (published.memory.size, published.memory.sha256);
        self.emit(EventKind::Published {
            path: published.path.clone(),
            bytes,
            sha256,
            written: true,
        });
    }

    /// A result that was there is there no more: the node that made it runs again, then this one.
    fn miss(&mut self, id: NodeId, from: NodeId, miss: &impasto_store::Miss) {
        // A job that began before the result was lost tells nothing new.
        let known = self.nodes[from].lost > self.nodes[id].spawned;
        if !known {
            if self.missed.insert(miss.path.clone()) && miss.is_damage() {
                self.warn(Some(from), format!("{miss}; it will be rebuilt"));
            }
            self.ticks += 1;
            self.planner.rebuild(from);
            let node = &mut self.nodes[from];
            node.lost = self.ticks;
            node.result = None;
            node.units = None;
            node.reason = Some(Reason::Collected);
        }
        if from == id || (known && self.schedule.state(from) == TaskState::Done) {
            self.schedule.requeue(id);
        } else {
            self.schedule.rewind(id, from);
        }
        self.forget_dependents(from);
    }

    /// Results that were found for what depends on a node are those of its old content: they are looked up again. What
    /// is done, or runs with the old content, stays as it is.
    fn forget_dependents(&mut self, lost: NodeId) {
        let mut affected = NodeMap::filled(false, self.graph.len());
        affected[lost] = true;
        for id in self.graph.ids().filter(|id| *id > lost) {
            let depends = self
                .graph
                .node(id)
                .parents
                .iter()
                .any(|(_, parent)| affected[*parent]);
            let settled = matches!(
                self.schedule.state(id),
                TaskState::Done | TaskState::Running
            );
            if depends && !settled {
                affected[id] = true;
                self.nodes[id].result = None;
                self.nodes[id].units = None;
            }
        }
    }

    /// A node gives no result. Where that is the host's failure the whole run ends: the next stage would meet it too.
    pub(super) fn fail(&mut self, id: NodeId, error: JobError) {
        if error.is_host_failure() {
            self.host_failed = true;
            self.stop();
        }
        let stage = self.label(id);
        let wall_ms = self.nodes[id].wall_ms();
        let help = self.config.hints.job(&error, &stage, &self.about(id));
        let (message, causes, last_lines, diagnosis) = error.into_parts();
        self.emit(EventKind::StageFailed {
            stage,
            error: message,
            causes,
            help,
            last_lines,
            diagnosis,
            wall_ms,
        });
        self.schedule.failed(id);
    }
}
