//! `impasto audit`: builds a recipe a second time under other conditions, and tells what came out otherwise.
//! Knows how the second build gets its conditions; `audit` compares.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;
use impasto_store::Store;
use rustix::process::{Pid, Signal, kill_process};

use super::build::Build;
use super::error::CliError;
use super::record::RecordArgs;
use super::session::{Loaded, Session};
use super::{RecipeArgs, RunArgs, exit};
use crate::base::human;
use crate::engine::graph::NodeId;
use crate::engine::plan::{Hit, PlanState};
use crate::inspect::audit::causes::AuditRun;
use crate::inspect::audit::stage::{AuditInput, KnownStage, stage};
use crate::inspect::audit::{AuditReport, AuditStage};
use crate::sandbox::GuestEnvironment;
use crate::ui;

#[derive(Debug, Args)]
pub(crate) struct Audit {
    #[command(flatten)]
    recipe: RecipeArgs,
    #[command(flatten)]
    run: RunArgs,
    /// Prints the report as JSON
    #[arg(long)]
    json: bool,
    /// Runs the second build: the directory where this machine's files appear again
    #[arg(long, hide = true, value_name = "DIR")]
    elsewhere: Option<PathBuf>,
}

/// How soon the end of the second build, or an interrupt, is noticed.
const TICK: Duration = Duration::from_millis(20);
/// Umask of the second build.
const UMASK: u32 = 0o077;

impl Audit {
    pub(crate) fn run(mut self, session: &mut Session) -> Result<u8, CliError> {
        if let Some(root) = self.elsewhere.take() {
            self.move_elsewhere(session, &root)?;
            return self.build().run(session);
        }
        session.demand_root("an audit builds in a varied environment")?;
        let (loaded, store) = session.load_with_store(&self.recipe)?;
        let nodes = self.needed(&loaded)?;
        if hits(&loaded, &store, &nodes)?.is_none() {
            ui::message("the first build");
            let code = self.build().run(session)?;
            if code != exit::OK {
                return Ok(code);
            }
        }
        let first_ended = session.host.now();
        let found = hits(&loaded, &store, &nodes)?.ok_or_else(|| changed("the first"))?;
        ui::message("the second build, in a varied environment");
        let _lease = store.lease()?;
        let scratch = store.scratch()?;
        let started = session.host.now();
        let code = self.build_elsewhere(session, scratch.path())?;
        if code != 0 {
            let message = "the second build, in a varied environment, failed".to_owned();
            let help = "a stage that fails only there depends on the host name, locale, time zone, number of CPUs or \
                        the order of directory entries";
            let code = u8::try_from(code).unwrap_or(exit::INTERNAL);
            return Err(CliError::Other {
                message,
                help: Some(help.to_owned()),
                code,
            });
        }
        let other = Store::open_for(scratch.path().join("store"), &session.host.owner())?;
        let again = hits(&loaded, &other, &nodes)?.ok_or_else(|| changed("the second"))?;
        let place = session.recipe_path(&self.recipe).0.display().to_string();
        let run = |environment: GuestEnvironment, path: String, started, ended| AuditRun {
            host_name: environment.host_name,
            lang: environment.lang,
            timezone: environment.timezone,
            path,
            cpus: environment.cpus.unwrap_or(session.host.cpus as u32),
            started,
            ended,
        };
        let elsewhere = format!("{}{place}", scratch.path().join("elsewhere").display());
        let runs = [
            run(session.environment.clone(), place, 0, first_ended),
            run(
                GuestEnvironment::variation(),
                elsewhere,
                started,
                session.host.now(),
            ),
        ];
        let stages = compare(&loaded, &nodes, (&store, &found), (&other, &again), &runs)?;
        let report = AuditReport::new(stages, self.variation(session, &runs));
        if self.json {
            ui::output(
                &(serde_json::to_string_pretty(&report).expect("BUG: a report is no JSON") + "\n"),
            )?;
        } else {
            ui::output(&report.render())?;
        }
        Ok(if report.equal {
            exit::OK
        } else {
            exit::DIFFERENT
        })
    }

    fn build(&self) -> Build {
        let (recipe, run) = (self.recipe.clone(), self.run.clone());
        Build {
            recipe,
            run,
            rebuild: Vec::new(),
            locked: false,
            offline: false,
            // What is compared are bytes; whether they are good, and cheap enough, the user's own build says.
            skip_tests: true,
            no_budget: true,
            record: RecordArgs::default(),
            tests: false,
        }
    }

    /// The nodes that are compared, in the order of the graph.
    fn needed(&self, loaded: &Loaded) -> Result<Vec<NodeId>, CliError> {
        let mut asked = loaded.selection()?.nodes;
        // What a test finds is no part of an image, and neither build makes it.
        asked.retain(|id| !loaded.graph.is_test(*id));
        if asked.is_empty() {
            return Err(CliError::usage(
                "there is nothing to compare: reports of tests are not audited",
                "name an image, or the stage that is tested",
            ));
        }
        let needed = loaded.graph.closure(&asked);
        Ok(loaded.graph.ids().filter(|id| needed[*id]).collect())
    }

    /// How many jobs the second build has at once: another number than the first.
    fn other_jobs(&self, session: &Session) -> usize {
        let jobs = session.jobs(self.run.jobs, &session.settings);
        if jobs > 1 { jobs - 1 } else { 2 }
    }

    /// Starts the second build and waits for it: its exit code.
    fn build_elsewhere(&self, session: &Session, scratch: &Path) -> Result<i32, CliError> {
        let (recipe, selectors) = session.recipe_path(&self.recipe);
        let root = scratch.join("elsewhere");
        let mut arguments: Vec<OsString> = vec!["audit".into(), "--elsewhere".into(), root.into()];
        let mut option = |name: &str, value: OsString| arguments.extend([name.into(), value]);
        option("--store", scratch.join("store").into());
        option("--out", scratch.join("out").into());
        option("--recipe", recipe.into());
        option("--jobs", self.other_jobs(session).to_string().into());
        self.recipe
            .vars
            .iter()
            .for_each(|var| option("--var", var.into()));
        self.recipe
            .var_files
            .iter()
            .for_each(|file| option("--var-file", session.host.cwd.join(file).into()));
        self.recipe
            .only
            .iter()
            .for_each(|only| option("--only", only.into()));
        // Settings too name directories that the recipe may read; they are moved with everything else.
        let settings = session
            .settings
            .allow_paths
            .iter()
            .map(|setting| setting.value.clone());
        let allowed = self
            .recipe
            .allow_paths
            .iter()
            .map(|path| session.host.cwd.join(path))
            .chain(settings);
        allowed.for_each(|path| option("--allow-path", path.into()));
        self.run
            .mirror
            .iter()
            .for_each(|mirror| option("--mirror", mirror.into()));
        if session.global.progress.is_json() {
            option("--progress", "plain".into());
        }
        arguments.extend(selectors.into_iter().map(OsString::from));
        let other = GuestEnvironment::variation();
        #[expect(
            clippy::disallowed_methods,
            reason = "impasto itself, in a varied environment"
        )]
        let mut command = Command::new(&session.host.exe);
        command
            .args(arguments)
            .env("TZ", other.timezone)
            .env("LANG", &other.lang)
            .env("LC_ALL", other.lang);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        crate::sandbox::die_with_parent(&mut command, Signal::TERM);
        let interrupt = session.interrupt.listen();
        let failed = || CliError::io("start", &session.host.exe);
        let mut build = command.spawn().map_err(failed())?;
        let mut told = false;
        loop {
            if let Some(status) = build.try_wait().map_err(failed())? {
                return Ok(status.code().unwrap_or(exit::INTERNAL.into()));
            }
            // Where it got the terminal's signal too it ends at once; what it leaves is in our scratch directory.
            if interrupt.token().is_cancelled() && !std::mem::replace(&mut told, true) {
                let _ = kill_process(Pid::from_child(&build), Signal::TERM);
            }
            std::thread::sleep(TICK);
        }
    }

    /// Puts this process under other conditions: host name, umask, and the whole machine's files below another directory.
    fn move_elsewhere(&mut self, session: &mut Session, root: &Path) -> Result<(), CliError> {
        let other = GuestEnvironment::variation();
        crate::sandbox::move_elsewhere(&other.host_name, root)
            .map_err(CliError::io("show files under", root))?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(UMASK));
        session.environment = other;
        let moved = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
        self.recipe.recipe = self.recipe.recipe.as_deref().map(moved);
        self.recipe
            .var_files
            .iter_mut()
            .chain(&mut self.recipe.allow_paths)
            .for_each(|file| *file = moved(file));
        session.settings.allow_paths.clear();
        Ok(())
    }

    /// What differs between the builds' conditions, for the report.
    fn variation(&self, session: &Session, runs: &[AuditRun; 2]) -> Vec<(String, String, String)> {
        let [first, second] = runs;
        let jobs = session.jobs(self.run.jobs, &session.settings);
        let row = |name: &str, first: &str, second: &str| {
            (name.to_owned(), first.to_owned(), second.to_owned())
        };
        vec![
            row("host name", &first.host_name, &second.host_name),
            row("locale", &first.lang, &second.lang),
            row("time zone", &first.timezone, &second.timezone),
            row("CPUs", &first.cpus.to_string(), &second.cpus.to_string()),
            row(
                "jobs",
                &jobs.to_string(),
                &self.other_jobs(session).to_string(),
            ),
            row("umask of impasto", "the user's", &format!("{UMASK:03o}")),
            row("order of directories", "theirs", "another"),
            row("recipe and store", "theirs", "at other paths"),
        ]
    }
}

/// The results of all these nodes, where all of them are known.
fn hits(
    loaded: &Loaded,
    store: &Store,
    nodes: &[NodeId],
) -> Result<Option<HashMap<NodeId, Hit>>, CliError> {
    let mut planner = loaded.planner(store, &[])?;
    let states = planner.plan(nodes)?;
    let mut hits = HashMap::new();
    for id in nodes {
        match &states[*id] {
            Some(PlanState::Cached(hit)) => drop(hits.insert(*id, hit.clone())),
            _ => return Ok(None),
        }
    }
    Ok(Some(hits))
}

fn changed(which: &str) -> CliError {
    CliError::Other {
        message: format!("the result of {which} build is not what the recipe now describes"),
        help: Some(
            "did the recipe or its files change in the meantime? run the audit again".to_owned(),
        ),
        code: exit::INTERNAL,
    }
}

fn compare(
    loaded: &Loaded,
    nodes: &[NodeId],
    (store, first): (&Store, &HashMap<NodeId, Hit>),
    (other, second): (&Store, &HashMap<NodeId, Hit>),
    runs: &[AuditRun; 2],
) -> Result<Vec<AuditStage>, CliError> {
    let mut known: HashMap<NodeId, KnownStage> = HashMap::new();
    let mut stages = Vec::new();
    for id in nodes {
        let node = loaded.graph.node(*id);
        let inputs = KnownStage::all(
            node.parents
                .iter()
                .filter_map(|(_, parent)| known.get(parent)),
        );
        let first = AuditInput {
            store,
            outputs: &first[id].result,
        };
        let second = AuditInput {
            store: other,
            outputs: &second[id].result,
        };
        let compared = stage(&node.label, first, second, &inputs, runs);
        let (stage, differs) = compared.map_err(|error| CliError::Other {
            message: human::with_causes(&error),
            help: Some("check the store: impasto store verify".to_owned()),
            code: exit::INTERNAL,
        })?;
        stages.push(stage);
        known.insert(*id, differs);
    }
    Ok(stages)
}
