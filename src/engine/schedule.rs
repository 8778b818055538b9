//! Which task may start next: a pure state machine over tasks, one for each node, and what they wait for.
//! Knows no clock, thread, store or stage; the engine tells it what happened.

use std::collections::BTreeSet;

use super::node::{NodeId, NodeMap};

/// What a task is up to: the one truth, moved by `Schedule::set` alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// Nobody asked for it.
    Unwanted,
    /// Waits for tasks that are not done.
    Waiting,
    Ready,
    Running,
    /// Its result is there.
    Done,
    /// It ran and gave no result.
    Failed,
    /// It will not run: something that it needs failed, or the run was stopped.
    Cancelled,
}

struct Task {
    state: TaskState,
    needs: Vec<NodeId>,
    dependents: Vec<NodeId>,
    /// How many of `needs` are not `Done`: a cache of their states.
    open: usize,
}

/// The schedule of one run.
pub struct Schedule {
    tasks: NodeMap<Task>,
    /// The tasks in state `Ready`: a cache, lowest place first.
    ready: BTreeSet<NodeId>,
    /// How many tasks are in state `Running`: a cache.
    running: usize,
    keep_going: bool,
    stopped: bool,
}

impl Schedule {
    /// A schedule of tasks by what each needs (ids lower than its own), of which those that `wanted` names, and all that
    /// they need, are to be done. With `keep_going`, a failure cancels only what needs the failed task.
    pub fn new(needs: NodeMap<Vec<NodeId>>, wanted: &[NodeId], keep_going: bool) -> Self {
        let task = |needs: Vec<NodeId>| Task {
            state: TaskState::Unwanted,
            open: needs.len(),
            needs,
            dependents: Vec::new(),
        };
        let mut tasks = needs.map(task);
        for id in tasks.ids() {
            for place in 0..tasks[id].needs.len() {
                let need = tasks[id].needs[place];
                assert!(
                    need < id,
                    "BUG: task {id} needs task {need}, which comes after it"
                );
                tasks[need].dependents.push(id);
            }
        }
        let mut schedule = Schedule {
            tasks,
            ready: BTreeSet::new(),
            running: 0,
            keep_going,
            stopped: false,
        };
        let mut queue = wanted.to_vec();
        while let Some(id) = queue.pop() {
            if schedule.state(id) == TaskState::Unwanted {
                queue.extend(&schedule.tasks[id].needs);
                schedule.set(id, TaskState::Waiting);
            }
        }
        for id in schedule.ids() {
            schedule.promote(id);
        }
        schedule
    }

    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        self.tasks.ids()
    }

    pub fn state(&self, id: NodeId) -> TaskState {
        self.tasks[id].state
    }

    /// How many tasks run now.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Whether nothing runs and nothing can start any more.
    pub fn is_finished(&self) -> bool {
        self.running == 0 && self.ready.is_empty()
    }

    /// Takes the next task that may start and counts it as running.
    pub fn start(&mut self) -> Option<NodeId> {
        let id = *self.ready.first()?;
        self.set(id, TaskState::Running);
        Some(id)
    }

    /// A running task has its result.
    pub fn done(&mut self, id: NodeId) {
        self.expect(id, TaskState::Running);
        self.set(id, TaskState::Done);
    }

    /// A running task gave no result: what needs it is cancelled, and without `keep_going` all that does not run yet.
    pub fn failed(&mut self, id: NodeId) {
        self.expect(id, TaskState::Running);
        self.set(id, TaskState::Failed);
        if self.keep_going {
            self.cancel_dependents(id);
        } else {
            self.stop();
        }
    }

    /// A running task was stopped before its end.
    pub fn cancelled(&mut self, id: NodeId) {
        self.expect(id, TaskState::Running);
        self.set(id, TaskState::Cancelled);
        self.cancel_dependents(id);
    }

    /// Nothing more starts; what runs may end.
    pub fn stop(&mut self) {
        self.stopped = true;
        for id in self.ids() {
            if matches!(self.state(id), TaskState::Waiting | TaskState::Ready) {
                self.set(id, TaskState::Cancelled);
            }
        }
    }

    /// A running task cannot go on before `lost`, on which it depends directly or not and whose result is there no
    /// more, is done again. It waits; so do the lost task and all between the two. Where the lost task failed meanwhile,
    /// the running one is cancelled.
    pub fn rewind(&mut self, id: NodeId, lost: NodeId) {
        self.expect(id, TaskState::Running);
        if matches!(self.state(lost), TaskState::Failed | TaskState::Cancelled) {
            self.cancelled(id);
            return;
        }
        // Another task may have found the same loss before: then the lost one is on its way already.
        let mut between = vec![lost];
        between.extend(self.between(lost, id));
        for &task in &between {
            if self.state(task) == TaskState::Done {
                self.set(task, TaskState::Waiting);
            }
        }
        self.set(id, TaskState::Waiting);
        let unready = |task: &NodeId| self.tasks[*task].open > 0;
        for task in self
            .ready
            .iter()
            .copied()
            .filter(unready)
            .collect::<Vec<_>>()
        {
            self.set(task, TaskState::Waiting);
        }
        if self.stopped {
            self.stop();
        } else {
            // Lowest place first, so that what cannot be done cancels what needs it.
            between.push(id);
            between.sort_unstable();
            for task in between {
                self.recompute(task);
            }
        }
    }

    /// Makes a waiting task ready if nothing is left to wait for, or cancels it if what it waits for will not be done.
    fn recompute(&mut self, id: NodeId) {
        let hopeless =
            |need: &NodeId| matches!(self.state(*need), TaskState::Failed | TaskState::Cancelled);
        if self.state(id) == TaskState::Waiting && self.tasks[id].needs.iter().any(hopeless) {
            self.set(id, TaskState::Cancelled);
            self.cancel_dependents(id);
        } else {
            self.promote(id);
        }
    }

    /// The tasks that depend on `from` and that `to` depends on.
    fn between(&self, from: NodeId, to: NodeId) -> Vec<NodeId> {
        let reach = |start: NodeId, next: fn(&Task) -> &Vec<NodeId>| {
            let mut seen = BTreeSet::new();
            let mut queue = next(&self.tasks[start]).clone();
            while let Some(id) = queue.pop() {
                if seen.insert(id) {
                    queue.extend(next(&self.tasks[id]));
                }
            }
            seen
        };
        let below = reach(from, |task| &task.dependents);
        let above = reach(to, |task| &task.needs);
        below.intersection(&above).copied().collect()
    }

    /// A running task is to run once more, for its next part or because its last was in vain.
    pub fn requeue(&mut self, id: NodeId) {
        self.expect(id, TaskState::Running);
        self.set(id, TaskState::Waiting);
        if self.stopped {
            self.set(id, TaskState::Cancelled);
        } else {
            self.recompute(id);
        }
    }

    /// Makes a waiting task ready if nothing is left to wait for.
    fn promote(&mut self, id: NodeId) {
        if self.state(id) == TaskState::Waiting && self.tasks[id].open == 0 {
            self.set(id, TaskState::Ready);
        }
    }

    fn cancel_dependents(&mut self, id: NodeId) {
        let mut queue = self.tasks[id].dependents.clone();
        while let Some(id) = queue.pop() {
            if matches!(self.state(id), TaskState::Waiting | TaskState::Ready) {
                self.set(id, TaskState::Cancelled);
                queue.extend(&self.tasks[id].dependents);
            }
        }
    }

    fn expect(&self, id: NodeId, state: TaskState) {
        let found = self.state(id);
        assert_eq!(found, state, "BUG: task {id} is {found:?}, not {state:?}");
    }

    /// The one place that moves a task, and keeps the caches of its state.
    fn set(&mut self, id: NodeId, state: TaskState) {
        let old = std::mem::replace(&mut self.tasks[id].state, state);
        match old {
            TaskState::Ready => assert!(
                self.ready.remove(&id),
                "BUG: ready task {id} was not queued"
            ),
            TaskState::Running => self.running -= 1,
            _ => {}
        }
        match state {
            TaskState::Ready => assert!(self.ready.insert(id), "BUG: task {id} was queued twice"),
            TaskState::Running => self.running += 1,
            _ => {}
        }
        let change = match (old, state) {
            (TaskState::Done, _) => 1isize,
            (_, TaskState::Done) => -1,
            _ => return,
        };
        for dependent in self.tasks[id].dependents.clone() {
            let task = &mut self.tasks[dependent];
            task.open = task
                .open
                .checked_add_signed(change)
                .expect("BUG: a task was done twice");
            self.promote(dependent);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(ids: &[u32]) -> Vec<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    /// base → {left, right} → top, and a task that nobody wants.
    fn diamond(keep_going: bool) -> Schedule {
        let needs = [ids(&[]), ids(&[0]), ids(&[0]), ids(&[1, 2]), ids(&[0])];
        Schedule::new(needs.into_iter().collect(), &ids(&[3]), keep_going)
    }

    #[test]
    fn tasks_start_when_what_they_need_is_done() {
        let mut schedule = diamond(false);
        assert_eq!(schedule.start(), Some(NodeId(0)));
        assert_eq!(schedule.start(), None);
        schedule.done(NodeId(0));
        assert_eq!(
            (schedule.start(), schedule.start(), schedule.start()),
            (Some(NodeId(1)), Some(NodeId(2)), None)
        );
        schedule.done(NodeId(2));
        assert_eq!(schedule.start(), None);
        schedule.done(NodeId(1));
        assert_eq!(schedule.start(), Some(NodeId(3)));
        schedule.done(NodeId(3));
        assert!(schedule.is_finished());
        assert_eq!(schedule.state(NodeId(4)), TaskState::Unwanted);
    }

    #[test]
    fn a_failure_cancels_what_does_not_run_yet() {
        let mut schedule = diamond(false);
        schedule.start();
        schedule.done(NodeId(0));
        assert_eq!(schedule.start(), Some(NodeId(1)));
        schedule.failed(NodeId(1));
        assert_eq!(schedule.state(NodeId(2)), TaskState::Cancelled);
        assert_eq!(schedule.state(NodeId(3)), TaskState::Cancelled);
        assert!(schedule.is_finished());
    }

    #[test]
    fn keep_going_cancels_only_what_needs_the_failed_task() {
        let mut schedule = diamond(true);
        schedule.start();
        schedule.done(NodeId(0));
        schedule.start();
        schedule.failed(NodeId(1));
        assert_eq!(schedule.start(), Some(NodeId(2)));
        schedule.done(NodeId(2));
        assert_eq!(schedule.state(NodeId(3)), TaskState::Cancelled);
        assert!(schedule.is_finished());
    }

    #[test]
    fn a_lost_result_is_made_again_and_those_who_need_it_wait() {
        let mut schedule = diamond(false);
        schedule.start();
        schedule.done(NodeId(0));
        assert_eq!(schedule.start(), Some(NodeId(1)));
        schedule.rewind(NodeId(1), NodeId(0));
        assert_eq!(
            schedule.state(NodeId(2)),
            TaskState::Waiting,
            "a ready sibling waits too"
        );
        assert_eq!(schedule.start(), Some(NodeId(0)));
        assert_eq!(schedule.start(), None);
        schedule.done(NodeId(0));
        assert_eq!(
            (schedule.start(), schedule.start()),
            (Some(NodeId(1)), Some(NodeId(2)))
        );
    }

    #[test]
    fn two_tasks_may_find_the_same_loss() {
        let mut schedule = diamond(false);
        schedule.start();
        schedule.done(NodeId(0));
        schedule.start();
        schedule.start();
        schedule.rewind(NodeId(1), NodeId(0));
        schedule.rewind(NodeId(2), NodeId(0));
        assert_eq!(schedule.start(), Some(NodeId(0)));
        schedule.done(NodeId(0));
        assert_eq!(
            (schedule.start(), schedule.start()),
            (Some(NodeId(1)), Some(NodeId(2)))
        );
    }

    #[test]
    fn what_lies_between_a_lost_result_and_its_reader_is_done_again() {
        let needs = [ids(&[]), ids(&[0]), ids(&[1])];
        let mut schedule = Schedule::new(needs.into_iter().collect(), &ids(&[2]), false);
        for id in 0..2 {
            assert_eq!(schedule.start(), Some(NodeId(id)));
            schedule.done(NodeId(id));
        }
        assert_eq!(schedule.start(), Some(NodeId(2)));
        schedule.rewind(NodeId(2), NodeId(0));
        for id in 0..3 {
            assert_eq!(
                (schedule.start(), schedule.start()),
                (Some(NodeId(id)), None)
            );
            schedule.done(NodeId(id));
        }
        assert!(schedule.is_finished());
    }

    #[test]
    fn a_loss_that_cannot_be_made_good_cancels_who_finds_it_later() {
        let mut schedule = diamond(true);
        schedule.start();
        schedule.done(NodeId(0));
        schedule.start();
        schedule.start();
        schedule.rewind(NodeId(1), NodeId(0));
        assert_eq!(schedule.start(), Some(NodeId(0)));
        schedule.failed(NodeId(0));
        schedule.rewind(NodeId(2), NodeId(0));
        assert!(schedule.is_finished());
        assert_eq!(schedule.state(NodeId(2)), TaskState::Cancelled);
    }

    #[test]
    fn a_task_of_several_parts_is_ready_again_after_each() {
        let mut schedule = diamond(false);
        assert_eq!(schedule.start(), Some(NodeId(0)));
        schedule.requeue(NodeId(0));
        assert_eq!(
            (schedule.start(), schedule.start()),
            (Some(NodeId(0)), None)
        );
        schedule.stop();
        schedule.requeue(NodeId(0));
        assert_eq!(schedule.state(NodeId(0)), TaskState::Cancelled);
        assert!(schedule.is_finished());
    }

    proptest! {
        /// Whatever happens, no task runs before what it needs is done, and every run comes to an end.
        #[test]
        fn random_runs_keep_order_and_end(
            edges in proptest::collection::vec((0u32..20, 0u32..20), 0..60),
            choices in proptest::collection::vec(any::<u8>(), 0..200),
            keep_going: bool,
        ) {
            let mut needs = vec![BTreeSet::new(); 20];
            for (a, b) in edges {
                if a != b {
                    needs[a.max(b) as usize].insert(NodeId(a.min(b)));
                }
            }
            let needs: NodeMap<Vec<_>> = needs.into_iter().map(|set| set.into_iter().collect()).collect();
            let wanted: Vec<_> = (0..20).map(NodeId).collect();
            let mut schedule = Schedule::new(needs.clone(), &wanted, keep_going);
            let mut running: Vec<NodeId> = Vec::new();
            let mut choices = choices.into_iter();
            let (mut rewinds, mut requeues) = (0, 0);
            loop {
                while let Some(id) = schedule.start() {
                    for need in &needs[id] {
                        prop_assert_eq!(schedule.state(*need), TaskState::Done);
                    }
                    running.push(id);
                }
                let Some(id) = running.pop() else { break };
                match choices.next().unwrap_or(0) {
                    0..=199 => schedule.done(id),
                    200..=229 if rewinds < 30 && !needs[id].is_empty() => {
                        rewinds += 1;
                        // Any task that it depends on, near or far.
                        let mut lost = needs[id][rewinds % needs[id].len()];
                        if rewinds % 3 == 0 && !needs[lost].is_empty() {
                            lost = needs[lost][0];
                        }
                        schedule.rewind(id, lost);
                    }
                    200..=239 => schedule.failed(id),
                    240..=249 if requeues < 30 => {
                        requeues += 1;
                        schedule.requeue(id);
                    }
                    _ => schedule.stop(),
                }
                if schedule.state(id) == TaskState::Running {
                    running.push(id);
                }
            }
            prop_assert!(schedule.is_finished());
            let ended = |id| matches!(schedule.state(id), TaskState::Done | TaskState::Failed | TaskState::Cancelled);
            let all_ended = schedule.ids().all(ended);
            prop_assert!(all_ended);
        }
    }
}
