//! A sandbox that runs nothing: what the lines of a job say comes true on a real disk, in the order and at the time that a
//! test wants.
//!
//! A line is a verb and what it needs:
//!
//! * `put N TEXT`: chunk N of the disk begins with this text;
//! * `take NAME N`: the same with what the world outside has under this name, which no key knows;
//! * `make PATH TEXT`: a file that `output` can name;
//! * `say TEXT`: a line is printed;
//! * `hold NAME`: nothing happens until the test lets go of this name, or the job is stopped;
//! * `exit CODE`: the step ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use impasto::sandbox::protocol::ProblemKind;
use impasto::sandbox::{
    AgentStep, Finished, Outcome, Output, Problem, Sandbox, SandboxError, SandboxEvent,
    SandboxFacts, SandboxJob, Stream, ToolEnd, ToolEvent, ToolFailure, ToolJob,
};
use impasto_store::claim::Isolation;
use impasto_store::disk::CHUNK;
use impasto_store::qcow2::Writer;

/// Bytes of the disks.
pub(crate) const DISK_SIZE: u64 = 8 * CHUNK as u64;

/// How soon a job that holds notices that it was stopped.
const TICK: Duration = Duration::from_millis(5);

/// How long a test waits for what it knows to come.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct ScriptedSandbox {
    name: &'static str,
    isolation: Isolation,
    world: Mutex<World>,
    changed: Condvar,
}

/// What the sandbox and the test share.
#[derive(Default)]
struct World {
    outside: BTreeMap<String, String>,
    /// Names that jobs hold, or have held.
    held: BTreeSet<String>,
    let_go: BTreeSet<String>,
    /// Lines of all jobs, as they began, and how jobs ended.
    history: Vec<String>,
    running: usize,
    most: usize,
}

impl ScriptedSandbox {
    /// One that isolates as the namespace sandbox does, and goes by its name.
    pub(crate) fn new() -> Self {
        Self::of("namespace", Isolation::Namespace)
    }

    pub(crate) fn of(name: &'static str, isolation: Isolation) -> Self {
        ScriptedSandbox {
            name,
            isolation,
            world: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Sets what `take` takes.
    pub(crate) fn set(&self, name: &str, text: &str) {
        self.world()
            .outside
            .insert(name.to_owned(), text.to_owned());
    }

    /// Waits until jobs hold all of these names at once.
    pub(crate) fn wait_held(&self, names: &[&str]) {
        let mut world = self.world();
        let begun = Instant::now();
        while !names.iter().all(|name| world.held.contains(*name)) {
            assert!(begun.elapsed() < PATIENCE, "only {:?} is held", world.held);
            world = self.changed.wait_timeout(world, TICK).unwrap().0;
        }
    }

    pub(crate) fn let_go(&self, name: &str) {
        self.world().let_go.insert(name.to_owned());
        self.changed.notify_all();
    }

    /// What happened since this was asked last.
    pub(crate) fn history(&self) -> Vec<String> {
        std::mem::take(&mut self.world().history)
    }

    /// How many jobs ran at the same time at most.
    pub(crate) fn most(&self) -> usize {
        self.world().most
    }

    fn tell(&self, line: &str) {
        self.world().history.push(line.to_owned());
    }

    /// Waits for the test: how the job ends, where it does not go on.
    fn hold(&self, name: &str, job: &SandboxJob<'_>, begun: Instant) -> Option<Outcome> {
        let mut world = self.world();
        world.held.insert(name.to_owned());
        self.changed.notify_all();
        loop {
            if job.cancel.is_cancelled() {
                return Some(Outcome::Cancelled);
            }
            match job.timeout {
                Some(after) if begun.elapsed() >= after => {
                    return Some(Outcome::TimedOut { after });
                }
                _ if world.let_go.contains(name) => return None,
                _ => world = self.changed.wait_timeout(world, TICK).unwrap().0,
            }
        }
    }
}

/// A line that is no such is a test's mistake.
fn wrong(line: &str) -> ! {
    panic!("the scripted sandbox does not know {line:?}")
}

impl Sandbox for ScriptedSandbox {
    fn run(
        &self,
        job: SandboxJob<'_>,
        events: &mut dyn FnMut(SandboxEvent<'_>),
    ) -> Result<Finished, SandboxError> {
        let begun = Instant::now();
        assert!(
            job.chain.iter().all(|layer| layer.is_file()),
            "{:?}",
            job.chain
        );
        {
            let mut world = self.world();
            world.running += 1;
            world.most = world.most.max(world.running);
        }
        let (mut chunks, mut files) = (BTreeMap::new(), BTreeMap::new());
        let mut outcome = Outcome::Ok;
        for (index, step) in job.steps.iter().enumerate() {
            let AgentStep::Command { line } = step else {
                panic!("the scripted sandbox does lines, not {step:?}")
            };
            events(SandboxEvent::StepStarted { index });
            self.tell(line);
            let mut words = line.splitn(3, ' ');
            let (verb, name) = (words.next().unwrap_or_default(), words.next());
            let name = name.unwrap_or_else(|| wrong(line));
            let rest = words.next().unwrap_or_default();
            let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| wrong(line));
            let ended = match verb {
                "put" => {
                    chunks.insert(number(name), rest.to_owned());
                    None
                }
                "take" => {
                    chunks.insert(number(rest), self.world().outside[name].clone());
                    None
                }
                "make" => {
                    files.insert(name.to_owned(), rest.to_owned());
                    None
                }
                "say" => {
                    let bytes = format!("{name} {rest}\n").into_bytes();
                    let stream = Stream::Stdout;
                    events(SandboxEvent::Log {
                        stream,
                        bytes: &bytes,
                    });
                    None
                }
                "hold" => self.hold(name, &job, begun),
                "exit" if name == "0" => None,
                "exit" => Some(Outcome::StepFailed {
                    index,
                    code: Some(number(name) as i32),
                    signal: None,
                }),
                _ => wrong(line),
            };
            if let Some(ended) = ended {
                outcome = ended;
                break;
            }
            events(SandboxEvent::StepFinished { index });
        }
        write_disk(job.overlay, &chunks);
        let mut outputs = Vec::new();
        for (name, path) in job.outputs.iter().filter(|_| outcome.is_ok()) {
            let Some(text) = files.get(path) else {
                let problem =
                    Problem::new(ProblemKind::OutputMissing, format!("{path} is not there"));
                outcome = Outcome::OutputRefused {
                    name: name.clone(),
                    problem,
                };
                break;
            };
            let path = job.work.join(format!("output-{name}"));
            std::fs::write(&path, text).unwrap();
            outputs.push(Output {
                name: name.clone(),
                path,
                size: text.len() as u64,
                mode: 0o644,
            });
        }
        let end = match &outcome {
            Outcome::Ok => None,
            Outcome::Cancelled => Some("cancelled"),
            Outcome::TimedOut { .. } => Some("timed out"),
            _ => Some("failed"),
        };
        let mut world = self.world();
        world.history.extend(end.map(str::to_owned));
        world.running -= 1;
        drop(world);
        Ok(Finished {
            outputs: if outcome.is_ok() { outputs } else { Vec::new() },
            outcome,
            unused: Vec::new(),
            mounted: Vec::new(),
            facts: None,
            oom_kills: 0,
            begun,
            timings: Vec::new(),
        })
    }

    fn run_tools(
        &self,
        _: ToolJob<'_>,
        _: &mut dyn FnMut(ToolEvent<'_>),
    ) -> Result<ToolEnd, SandboxError> {
        let failure = ToolFailure::new("the scripted sandbox has no tools");
        Ok(ToolEnd::Failed(failure))
    }

    fn facts(&self) -> SandboxFacts {
        SandboxFacts {
            name: self.name,
            isolation: self.isolation,
            kernel: "6.0-scripted".to_owned(),
            agent: [7; 32],
            storage: None,
        }
    }
}

/// A disk with these texts at the beginning of its chunks.
pub(crate) fn write_disk(path: &Path, chunks: &BTreeMap<u64, String>) {
    let file = File::create_new(path).unwrap();
    let mut writer = Writer::new(&file, DISK_SIZE).unwrap();
    for (index, text) in chunks {
        let mut chunk = [0; CHUNK];
        (&mut chunk[..]).write_all(text.as_bytes()).unwrap();
        writer.push_raw(*index, &chunk).unwrap();
    }
    writer.finish().unwrap();
}
