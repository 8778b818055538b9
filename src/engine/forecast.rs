//! How long what is left of a run will take, judged by how long its stages took before.
//! Knows a graph and durations; knows no clock, and never how long something takes of which nothing is known.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::graph::{Graph, NodeId, NodeMap};

/// What a recipe's stages did when they last ran, by stable name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durations {
    /// The last run of each.
    pub stages: BTreeMap<String, Work>,
}

/// How long a stage took, and when it wrote lines: how many lines there are says how far it is, also where the machine is
/// slower or faster than it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Milliseconds, without what it waited for downloads.
    pub work_ms: u64,
    /// How many lines it had written after each of [`PARTS`] equal parts of that time; nothing where it wrote none.
    lines: Vec<u32>,
}

/// Into how many parts a stage's time is cut.
const PARTS: usize = 32;

impl Work {
    /// A stage that took so long and wrote a line at each of some times, ascending.
    pub fn new(work: Duration, lines: &[Duration]) -> Work {
        let until = |part: usize| {
            lines.partition_point(|line| *line <= work.mul_f64(part as f64 / PARTS as f64)) as u32
        };
        let parts = if lines.is_empty() {
            Vec::new()
        } else {
            (1..=PARTS).map(until).collect()
        };
        Work {
            work_ms: work.as_millis() as u64,
            lines: parts,
        }
    }

    /// How long it took.
    pub fn time(&self) -> Duration {
        Duration::from_millis(self.work_ms)
    }

    /// How far it was then where it is now, having run for `took` and written so many lines: never beyond its end.
    pub fn reached(&self, took: Duration, lines: usize) -> Duration {
        let after = |part: usize| self.time().mul_f64(part.min(PARTS) as f64 / PARTS as f64);
        let with = |lines: usize| {
            self.lines
                .partition_point(|known| (*known as usize) < lines)
        };
        let (first, last) = match self.lines.is_empty() {
            true => (Duration::ZERO, self.time()),
            // The line after these came in this part, if it came.
            false => (after(with(lines)), after(with(lines + 1) + 1)),
        };
        took.clamp(first, last)
    }
}

impl Durations {
    /// What a node did; where it never ran, how long the other combinations of its stage took on average.
    pub fn of(&self, graph: &Graph, id: NodeId) -> Option<Work> {
        let node = graph.node(id);
        let own = graph
            .stable_names(id)
            .find_map(|name| self.stages.get(&name));
        let stage = &*node.stage;
        let is_sibling = |name: &str| {
            name.strip_prefix(stage)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
        };
        let average = || {
            let names = self
                .stages
                .range(stage.to_owned()..)
                .take_while(|(name, _)| name.starts_with(stage));
            let siblings: Vec<_> = names
                .filter(|(name, _)| is_sibling(name))
                .map(|(_, work)| work.work_ms)
                .collect();
            let work_ms = siblings
                .iter()
                .sum::<u64>()
                .checked_div(siblings.len() as u64)?;
            Some(Work {
                work_ms,
                lines: Vec::new(),
            })
        };
        own.cloned().or_else(average)
    }
}

/// What is to be done of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    Nothing,
    /// Work of so long.
    Known(Duration),
    /// Work of which nobody knows how long it takes.
    Unknown,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Left {
    /// How long all takes whose duration is known; none where nothing is known of any node that is left.
    pub time: Option<Duration>,
    /// How many nodes are left of which nothing is known.
    pub unknown: usize,
}

/// How long it takes to do `rest`, `jobs` nodes at a time, each after those that it needs, in the order in which
/// a run would.
pub fn left(graph: &Graph, rest: &NodeMap<Rest>, jobs: usize) -> Left {
    let unknown = rest.values().filter(|rest| **rest == Rest::Unknown).count();
    if !rest.values().any(|rest| matches!(rest, Rest::Known(_))) {
        let time = (unknown == 0).then_some(Duration::ZERO);
        return Left { time, unknown };
    }
    let is_open = |id: NodeId| rest[id] != Rest::Nothing;
    let mut needs = NodeMap::filled(0_usize, rest.len());
    let mut dependents: NodeMap<Vec<NodeId>> = NodeMap::filled(Vec::new(), rest.len());
    for id in graph.ids().filter(|id| is_open(*id)) {
        for parent in graph
            .node(id)
            .parents
            .iter()
            .map(|(_, parent)| *parent)
            .filter(|parent| is_open(*parent))
        {
            needs[id] += 1;
            dependents[parent].push(id);
        }
    }
    let mut ready: BTreeSet<NodeId> = graph
        .ids()
        .filter(|id| is_open(*id) && needs[*id] == 0)
        .collect();
    // The first to end comes first.
    let mut running = BinaryHeap::new();
    let mut now = Duration::ZERO;
    loop {
        while running.len() < jobs
            && let Some(id) = ready.pop_first()
        {
            let Rest::Known(takes) = rest[id] else {
                running.push(Reverse((now, id)));
                continue;
            };
            running.push(Reverse((now + takes, id)));
        }
        let Some(Reverse((end, id))) = running.pop() else {
            break;
        };
        now = end;
        for next in &dependents[id] {
            needs[*next] -= 1;
            if needs[*next] == 0 {
                ready.insert(*next);
            }
        }
    }
    Left {
        time: Some(now),
        unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::LockFile;
    use crate::recipe::{LoadRequest, load};

    fn graph(text: &str) -> Graph {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("impasto.hcl"), text).expect("a recipe");
        let registry = impasto_stages::Registry::default();
        let request = LoadRequest {
            path: dir.path().to_owned(),
            ..LoadRequest::default()
        };
        let recipe =
            load(&request, &registry).unwrap_or_else(|errors| panic!("{}", errors.render(false)));
        Graph::new(&recipe, &registry, LockFile::default())
    }

    fn seconds(seconds: u64) -> Rest {
        Rest::Known(Duration::from_secs(seconds))
    }

    /// a ← b ← d, a ← c ← d.
    fn diamond() -> Graph {
        graph(
            r#"
            stage "fetch" "a" {
              url    = "http://localhost/a"
              checksum = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
            }
            stage "run" "b" {
              from     = stage.a
              commands = ["true"]
            }
            stage "run" "c" {
              from     = stage.a
              commands = ["true"]
              output   = { c = "/c" }
            }
            stage "run" "d" {
              from     = stage.b
              commands = ["true"]
              inputs   = { c = stage.c.files["c"] }
            }
            "#,
        )
    }

    #[test]
    fn what_is_left_is_as_long_as_the_schedule_makes_it() {
        let graph = diamond();
        let takes = |rest: [Rest; 4], jobs| left(&graph, &rest.into_iter().collect(), jobs);
        let known = |time| Left {
            time: Some(Duration::from_secs(time)),
            unknown: 0,
        };
        let all = [seconds(10), seconds(5), seconds(7), seconds(1)];
        assert_eq!(takes(all, 1), known(23));
        assert_eq!(takes(all, 2), known(18));
        assert_eq!(
            takes([Rest::Nothing, seconds(5), seconds(7), seconds(1)], 2),
            known(8)
        );
        assert_eq!(takes([Rest::Nothing; 4], 2), known(0));
        let some = [Rest::Nothing, Rest::Unknown, seconds(7), Rest::Unknown];
        assert_eq!(
            takes(some, 2),
            Left {
                time: Some(Duration::from_secs(7)),
                unknown: 2
            }
        );
        assert_eq!(
            takes([Rest::Unknown; 4], 2),
            Left {
                time: None,
                unknown: 4
            }
        );
    }

    #[test]
    fn a_combination_that_never_ran_takes_as_long_as_the_others() {
        let recipe = r#"
            matrix { size = ["small", "large", "new"] }
            stage "fetch" "a" {
              url    = "http://localhost/${matrix.size}"
              checksum = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
            }
            stage "fetch" "ab" {
              url    = "http://localhost/ab"
              checksum = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
            }
            "#;
        let graph = graph(recipe);
        let id = |label: &str| {
            graph
                .ids()
                .find(|id| graph.node(*id).label == label)
                .expect(label)
        };
        let took = [
            ("a[size=small]", 1000),
            ("a[size=large]", 3000),
            ("ab", 9000),
        ];
        let work = |ms| Work::new(Duration::from_millis(ms), &[]);
        let durations = Durations {
            stages: took.map(|(name, ms)| (name.to_owned(), work(ms))).into(),
        };
        let of = |label| durations.of(&graph, id(label)).map(|work| work.work_ms);
        assert_eq!(
            [of("a[size=large]"), of("a[size=new]")],
            [Some(3000), Some(2000)]
        );
        assert_eq!(Durations::default().of(&graph, id("a[size=new]")), None);
    }

    #[test]
    fn lines_say_how_far_a_stage_is_on_a_machine_of_another_speed() {
        let seconds = Duration::from_secs;
        // A line a second for sixteen seconds, then sixteen silent ones.
        let lines: Vec<_> = (1..=16).map(seconds).collect();
        let work = Work::new(seconds(32), &lines);
        // As fast as before, half as fast, twice as fast.
        assert_eq!(work.reached(seconds(8), 8), seconds(8));
        assert_eq!(work.reached(seconds(16), 8), seconds(9));
        assert_eq!(work.reached(seconds(4), 8), seconds(7));
        // Where it is silent nothing but the clock says how far it is.
        assert_eq!(work.reached(seconds(20), 16), seconds(20));
        assert_eq!(work.reached(seconds(99), 16), seconds(32));
        // More lines than ever.
        assert_eq!(work.reached(seconds(99), 40), seconds(32));
        assert_eq!(
            Work::new(seconds(5), &[]).reached(seconds(3), 7),
            seconds(3)
        );
    }
}
