//! Which task may start next: a pure state machine over tasks and what they wait for.
//! Knows no clock, thread, store or stage; the engine tells it what happened.

use std::collections::BTreeSet;

/// A task, by its place in the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub u32);

impl TaskId {
    /// The place as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a task is up to: the one truth, moved by `Schedule::set` alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nobody asked for it.
    Unwanted,
    /// Waits for tasks that are not done.
    Waiting,
    /// May start.
    Ready,
    /// Was started.
    Running,
    /// Its result is there.
    Done,
    /// It ran and gave no result.
    Failed,
    /// It will not run: something that it needs failed, or the run was stopped.
    Cancelled,
}

struct Task {
    state: State,
    needs: Vec<TaskId>,
    dependents: Vec<TaskId>,
    /// How many of `needs` are not `Done`: a cache of their states.
    open: usize,
}

/// The schedule of one run.
pub struct Schedule {
    tasks: Vec<Task>,
    /// The tasks in state `Ready`: a cache, lowest place first.
    ready: BTreeSet<TaskId>,
    /// How many tasks are in state `Running`: a cache.
    running: usize,
    keep_going: bool,
    stopped: bool,
}

impl Schedule {
    /// A schedule of tasks by what each needs (places lower than its own), of which those that `wanted` names, and all
    /// that they need, are to be done. With `keep_going`, a failure cancels only what needs the failed task.
    pub fn new(needs: Vec<Vec<TaskId>>, wanted: &[TaskId], keep_going: bool) -> Self {
        let mut schedule =
            Schedule { tasks: Vec::new(), ready: BTreeSet::new(), running: 0, keep_going, stopped: false };
        for needs in needs {
            schedule.push(needs, State::Unwanted);
        }
        let mut queue = wanted.to_vec();
        while let Some(id) = queue.pop() {
            if schedule.state(id) == State::Unwanted {
                queue.extend(&schedule.tasks[id.index()].needs);
                schedule.set(id, State::Waiting);
            }
        }
        for id in schedule.ids() {
            schedule.wake(id);
        }
        schedule
    }

    fn push(&mut self, needs: Vec<TaskId>, state: State) -> TaskId {
        let id = TaskId(u32::try_from(self.tasks.len()).expect("BUG: more than 2^32 tasks"));
        for &need in &needs {
            assert!(need < id, "BUG: task {} needs task {}, which comes after it", id.0, need.0);
            self.tasks[need.index()].dependents.push(id);
        }
        let open = needs.iter().filter(|need| self.state(**need) != State::Done).count();
        self.tasks.push(Task { state, needs, dependents: Vec::new(), open });
        id
    }

    /// Every task.
    pub fn ids(&self) -> impl Iterator<Item = TaskId> + use<> {
        (0..self.tasks.len() as u32).map(TaskId)
    }

    /// A task's state.
    pub fn state(&self, id: TaskId) -> State {
        self.tasks[id.index()].state
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
    pub fn start(&mut self) -> Option<TaskId> {
        let id = *self.ready.first()?;
        self.set(id, State::Running);
        Some(id)
    }

    /// A running task has its result.
    pub fn done(&mut self, id: TaskId) {
        self.expect(id, State::Running);
        self.set(id, State::Done);
    }

    /// A running task gave no result: what needs it is cancelled, and without `keep_going` all that does not run yet.
    pub fn failed(&mut self, id: TaskId) {
        self.expect(id, State::Running);
        self.set(id, State::Failed);
        if self.keep_going {
            self.cancel_dependents(id);
        } else {
            self.stop();
        }
    }

    /// A running task was stopped before its end.
    pub fn cancelled(&mut self, id: TaskId) {
        self.expect(id, State::Running);
        self.set(id, State::Cancelled);
        self.cancel_dependents(id);
    }

    /// Nothing more starts; what runs may end.
    pub fn stop(&mut self) {
        self.stopped = true;
        for id in self.ids() {
            if matches!(self.state(id), State::Waiting | State::Ready) {
                self.set(id, State::Cancelled);
            }
        }
    }

    /// A running task cannot go on before `lost`, on which it depends directly or not and whose result is there no
    /// more, is done again. It waits; so do the lost task and all between the two. Where the lost task failed meanwhile,
    /// the running one is cancelled.
    pub fn rewind(&mut self, id: TaskId, lost: TaskId) {
        self.expect(id, State::Running);
        if matches!(self.state(lost), State::Failed | State::Cancelled) {
            self.cancelled(id);
            return;
        }
        // Another task may have found the same loss before: then the lost one is on its way already.
        let mut between = vec![lost];
        between.extend(self.between(lost, id));
        for &task in &between {
            if self.state(task) == State::Done {
                self.set(task, State::Waiting);
            }
        }
        self.set(id, State::Waiting);
        let unready = |task: &TaskId| self.tasks[task.index()].open > 0;
        for task in self.ready.iter().copied().filter(unready).collect::<Vec<_>>() {
            self.set(task, State::Waiting);
        }
        if self.stopped {
            self.stop();
        } else {
            // Lowest place first, so that what cannot be done cancels what needs it.
            between.push(id);
            between.sort_unstable();
            for task in between {
                self.settle(task);
            }
        }
    }

    /// Makes a waiting task ready if nothing is left to wait for, or cancels it if what it waits for will not be done.
    fn settle(&mut self, id: TaskId) {
        let hopeless = |need: &TaskId| matches!(self.state(*need), State::Failed | State::Cancelled);
        if self.state(id) == State::Waiting && self.tasks[id.index()].needs.iter().any(hopeless) {
            self.set(id, State::Cancelled);
            self.cancel_dependents(id);
        } else {
            self.wake(id);
        }
    }

    /// The tasks that depend on `from` and that `to` depends on.
    fn between(&self, from: TaskId, to: TaskId) -> Vec<TaskId> {
        let reach = |start: TaskId, next: fn(&Task) -> &Vec<TaskId>| {
            let mut seen = BTreeSet::new();
            let mut queue = next(&self.tasks[start.index()]).clone();
            while let Some(id) = queue.pop() {
                if seen.insert(id) {
                    queue.extend(next(&self.tasks[id.index()]));
                }
            }
            seen
        };
        let below = reach(from, |task| &task.dependents);
        let above = reach(to, |task| &task.needs);
        below.intersection(&above).copied().collect()
    }

    /// A running task turned out to need further tasks: adds them, each with what it needs, and lets the task wait for
    /// all of them. It becomes ready again when they are done.
    pub fn expand(&mut self, id: TaskId, needs: Vec<Vec<TaskId>>) -> Vec<TaskId> {
        self.expect(id, State::Running);
        let mut added = Vec::new();
        for needs in needs {
            let new = self.push(needs, State::Waiting);
            added.push(new);
            self.tasks[id.index()].needs.push(new);
            self.tasks[id.index()].open += 1;
            self.tasks[new.index()].dependents.push(id);
        }
        self.wait_again(id);
        for &new in &added {
            if self.stopped {
                self.set(new, State::Cancelled);
            } else {
                self.wake(new);
            }
        }
        added
    }

    /// Puts a running task back among those that wait.
    fn wait_again(&mut self, id: TaskId) {
        self.set(id, State::Waiting);
        if self.stopped {
            self.set(id, State::Cancelled);
        } else {
            self.settle(id);
        }
    }

    /// Makes a waiting task ready if nothing is left to wait for.
    fn wake(&mut self, id: TaskId) {
        if self.state(id) == State::Waiting && self.tasks[id.index()].open == 0 {
            self.set(id, State::Ready);
        }
    }

    fn cancel_dependents(&mut self, id: TaskId) {
        let mut queue = self.tasks[id.index()].dependents.clone();
        while let Some(id) = queue.pop() {
            if matches!(self.state(id), State::Waiting | State::Ready) {
                self.set(id, State::Cancelled);
                queue.extend(&self.tasks[id.index()].dependents);
            }
        }
    }

    fn expect(&self, id: TaskId, state: State) {
        let found = self.state(id);
        assert_eq!(found, state, "BUG: task {} is {found:?}, not {state:?}", id.0);
    }

    /// The one place that moves a task, and keeps the caches of its state.
    fn set(&mut self, id: TaskId, state: State) {
        let old = std::mem::replace(&mut self.tasks[id.index()].state, state);
        match old {
            State::Ready => assert!(self.ready.remove(&id), "BUG: ready task {} was not queued", id.0),
            State::Running => self.running -= 1,
            _ => {}
        }
        match state {
            State::Ready => assert!(self.ready.insert(id), "BUG: task {} was queued twice", id.0),
            State::Running => self.running += 1,
            _ => {}
        }
        let change = match (old, state) {
            (State::Done, _) => 1isize,
            (_, State::Done) => -1,
            _ => return,
        };
        for dependent in self.tasks[id.index()].dependents.clone() {
            let task = &mut self.tasks[dependent.index()];
            task.open = task.open.checked_add_signed(change).expect("BUG: a task was done twice");
            self.wake(dependent);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(ids: &[u32]) -> Vec<TaskId> {
        ids.iter().map(|id| TaskId(*id)).collect()
    }

    /// base → {left, right} → top, and a task that nobody wants.
    fn diamond(keep_going: bool) -> Schedule {
        Schedule::new(vec![ids(&[]), ids(&[0]), ids(&[0]), ids(&[1, 2]), ids(&[0])], &ids(&[3]), keep_going)
    }

    #[test]
    fn tasks_start_when_what_they_need_is_done() {
        let mut schedule = diamond(false);
        assert_eq!(schedule.start(), Some(TaskId(0)));
        assert_eq!(schedule.start(), None);
        schedule.done(TaskId(0));
        assert_eq!((schedule.start(), schedule.start(), schedule.start()), (Some(TaskId(1)), Some(TaskId(2)), None));
        schedule.done(TaskId(2));
        assert_eq!(schedule.start(), None);
        schedule.done(TaskId(1));
        assert_eq!(schedule.start(), Some(TaskId(3)));
        schedule.done(TaskId(3));
        assert!(schedule.is_finished());
        assert_eq!(schedule.state(TaskId(4)), State::Unwanted);
    }

    #[test]
    fn a_failure_cancels_what_does_not_run_yet() {
        let mut schedule = diamond(false);
        schedule.start();
        schedule.done(TaskId(0));
        assert_eq!(schedule.start(), Some(TaskId(1)));
        schedule.failed(TaskId(1));
        assert_eq!(schedule.state(TaskId(2)), State::Cancelled);
        assert_eq!(schedule.state(TaskId(3)), State::Cancelled);
        assert!(schedule.is_finished());
    }

    #[test]
    fn keep_going_cancels_only_what_needs_the_failed_task() {
        let mut schedule = diamond(true);
        schedule.start();
        schedule.done(TaskId(0));
        schedule.start();
        schedule.failed(TaskId(1));
        assert_eq!(schedule.start(), Some(TaskId(2)));
        schedule.done(TaskId(2));
        assert_eq!(schedule.state(TaskId(3)), State::Cancelled);
        assert!(schedule.is_finished());
    }

    #[test]
    fn a_lost_result_is_made_again_and_those_who_need_it_wait() {
        let mut schedule = diamond(false);
        schedule.start();
        schedule.done(TaskId(0));
        assert_eq!(schedule.start(), Some(TaskId(1)));
        schedule.rewind(TaskId(1), TaskId(0));
        assert_eq!(schedule.state(TaskId(2)), State::Waiting, "a ready sibling waits too");
        assert_eq!(schedule.start(), Some(TaskId(0)));
        assert_eq!(schedule.start(), None);
        schedule.done(TaskId(0));
        assert_eq!((schedule.start(), schedule.start()), (Some(TaskId(1)), Some(TaskId(2))));
    }

    #[test]
    fn two_tasks_may_find_the_same_loss() {
        let mut schedule = diamond(false);
        schedule.start();
        schedule.done(TaskId(0));
        schedule.start();
        schedule.start();
        schedule.rewind(TaskId(1), TaskId(0));
        schedule.rewind(TaskId(2), TaskId(0));
        assert_eq!(schedule.start(), Some(TaskId(0)));
        schedule.done(TaskId(0));
        assert_eq!((schedule.start(), schedule.start()), (Some(TaskId(1)), Some(TaskId(2))));
    }

    #[test]
    fn what_lies_between_a_lost_result_and_its_reader_is_done_again() {
        let mut schedule = Schedule::new(vec![ids(&[]), ids(&[0]), ids(&[1])], &ids(&[2]), false);
        for id in 0..2 {
            assert_eq!(schedule.start(), Some(TaskId(id)));
            schedule.done(TaskId(id));
        }
        assert_eq!(schedule.start(), Some(TaskId(2)));
        schedule.rewind(TaskId(2), TaskId(0));
        for id in 0..3 {
            assert_eq!((schedule.start(), schedule.start()), (Some(TaskId(id)), None));
            schedule.done(TaskId(id));
        }
        assert!(schedule.is_finished());
    }

    #[test]
    fn a_loss_that_cannot_be_made_good_cancels_who_finds_it_later() {
        let mut schedule = diamond(true);
        schedule.start();
        schedule.done(TaskId(0));
        schedule.start();
        schedule.start();
        schedule.rewind(TaskId(1), TaskId(0));
        assert_eq!(schedule.start(), Some(TaskId(0)));
        schedule.failed(TaskId(0));
        schedule.rewind(TaskId(2), TaskId(0));
        assert!(schedule.is_finished());
        assert_eq!(schedule.state(TaskId(2)), State::Cancelled);
    }

    #[test]
    fn a_task_waits_for_the_tasks_that_it_expands_to() {
        let mut schedule = diamond(false);
        schedule.start();
        let added = schedule.expand(TaskId(0), vec![vec![], ids(&[5])]);
        assert_eq!(added, ids(&[5, 6]));
        assert_eq!((schedule.start(), schedule.start()), (Some(TaskId(5)), None));
        schedule.done(TaskId(5));
        assert_eq!(schedule.start(), Some(TaskId(6)));
        schedule.done(TaskId(6));
        assert_eq!(schedule.start(), Some(TaskId(0)), "ready again, for its next part");
    }

    #[test]
    fn a_failed_expansion_cancels_the_task_that_waits_for_it() {
        let mut schedule = diamond(true);
        schedule.start();
        schedule.expand(TaskId(0), vec![vec![]]);
        assert_eq!(schedule.start(), Some(TaskId(5)));
        schedule.failed(TaskId(5));
        assert_eq!(schedule.state(TaskId(0)), State::Cancelled);
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
                    needs[a.max(b) as usize].insert(TaskId(a.min(b)));
                }
            }
            let needs: Vec<Vec<_>> = needs.into_iter().map(|set| set.into_iter().collect()).collect();
            let wanted: Vec<_> = (0..20).map(TaskId).collect();
            let mut schedule = Schedule::new(needs.clone(), &wanted, keep_going);
            let mut running: Vec<TaskId> = Vec::new();
            let mut choices = choices.into_iter();
            let mut rewinds = 0;
            loop {
                while let Some(id) = schedule.start() {
                    for need in &needs[id.index()] {
                        prop_assert_eq!(schedule.state(*need), State::Done);
                    }
                    running.push(id);
                }
                let Some(id) = running.pop() else { break };
                match choices.next().unwrap_or(0) {
                    0..=199 => schedule.done(id),
                    200..=229 if rewinds < 30 && !needs[id.index()].is_empty() => {
                        rewinds += 1;
                        // Any task that it depends on, near or far.
                        let mut lost = needs[id.index()][rewinds % needs[id.index()].len()];
                        if rewinds % 3 == 0 && !needs[lost.index()].is_empty() {
                            lost = needs[lost.index()][0];
                        }
                        schedule.rewind(id, lost);
                    }
                    200..=249 => schedule.failed(id),
                    _ => schedule.stop(),
                }
                if schedule.state(id) == State::Running {
                    running.push(id);
                }
            }
            prop_assert!(schedule.is_finished());
            let ended = |id| matches!(schedule.state(id), State::Done | State::Failed | State::Cancelled);
            let all_ended = schedule.ids().all(ended);
            prop_assert!(all_ended);
        }
    }
}
