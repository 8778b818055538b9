//! A recipe in a directory of its own, with a store and a base disk, built by the real program.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::base::{base, tool};

/// A recipe's directory, its store and its output directory.
pub(crate) struct Project {
    dir: TempDir,
}

/// What a command gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The counts of a build's last event.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) built: u64,
    pub(crate) cached: u64,
    pub(crate) failed: u64,
    pub(crate) cancelled: u64,
}

impl Project {
    /// An empty directory.
    pub(crate) fn empty() -> Self {
        Project {
            dir: tempfile::Builder::new()
                .prefix("impasto-it-")
                .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
                .unwrap(),
        }
    }

    /// An empty recipe beside a base disk, `base.qcow2`.
    pub(crate) fn new() -> Self {
        let project = Project::empty();
        std::fs::copy(&base().qcow2, project.path("base.qcow2")).unwrap();
        project
    }

    /// Another name for a file of the same file system.
    pub(crate) fn link(&self, file: &Path, name: &str) {
        std::fs::hard_link(file, self.path(name)).unwrap();
    }

    /// A recipe of one text.
    pub(crate) fn with(recipe: &str) -> Self {
        let project = Project::new();
        project.write("impasto.hcl", recipe);
        project
    }

    /// The repository's recipe of the agent's ramdisk, not locked.
    pub(crate) fn tinyipa() -> Self {
        let project = Self::empty();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tinyipa");
        for name in [
            "recipe.hcl",
            "requirements.txt",
            "scripts",
            "overlay",
            "tests",
        ] {
            let (from, to) = (from.join(name), project.path(""));
            tool("cp", &["-r", from.to_str().unwrap(), to.to_str().unwrap()]);
        }
        project
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name))
            .unwrap_or_else(|error| panic!("cannot read {name}: {error}"))
    }

    /// A command that has not started, in the recipe's directory.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_impasto"));
        command
            .args(arguments)
            .arg("--store")
            .arg(self.store())
            .current_dir(self.dir.path());
        command
            .env_remove("IMPASTO_LOG")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        // Tests that run under sudo look into stores as root.
        command.env_remove("SUDO_UID");
        // And on CI services, whose logs have another form.
        command.env_remove("GITHUB_ACTIONS").env_remove("GITLAB_CI");
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        ran(self.command(arguments))
    }

    /// Runs a command that must succeed and gives its standard output.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(
            ran.code, 0,
            "impasto {arguments:?}: {}{}",
            ran.stdout, ran.stderr
        );
        ran.stdout
    }

    /// Builds and gives the exit code and all events.
    pub(crate) fn events(&self, arguments: &[&str]) -> (i32, Vec<Value>) {
        let ran = self.run(&[&["build", "--progress", "json"], arguments].concat());
        let events = ran
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).expect("an event is JSON"))
            .collect();
        assert!(!ran.stdout.is_empty(), "no events: {}", ran.stderr);
        (ran.code, events)
    }

    /// Builds and gives the exit code and the counts.
    pub(crate) fn try_build(&self, arguments: &[&str]) -> (i32, Counts) {
        let (code, events) = self.events(arguments);
        let last = events.last().unwrap();
        assert_eq!(last["event"], "run_finished");
        let count = |name: &str| last[name].as_u64().unwrap();
        let counts = Counts {
            built: count("built"),
            cached: count("cached"),
            failed: count("failed"),
            cancelled: count("cancelled"),
        };
        (code, counts)
    }

    /// Builds, which must succeed: nodes that ran, and nodes that were cached.
    pub(crate) fn build(&self, arguments: &[&str]) -> (u64, u64) {
        let ran = self.run(&[&["build", "--progress", "json"], arguments].concat());
        assert_eq!(
            ran.code, 0,
            "impasto build {arguments:?}: {}{}",
            ran.stdout, ran.stderr
        );
        let last: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
        (
            last["built"].as_u64().unwrap(),
            last["cached"].as_u64().unwrap(),
        )
    }

    /// All claims of the store, as they lie there.
    pub(crate) fn claims(&self) -> String {
        let find = [
            "-c",
            "find \"$1/claims\" -type f -exec cat {} +",
            "sh",
            self.store().to_str().unwrap(),
        ]
        .map(str::to_owned);
        crate::base::tool("sh", &find.each_ref().map(String::as_str))
    }

    /// What a line prints in a stage's disk.
    pub(crate) fn in_guest(&self, selector: &str, line: &str) -> String {
        self.in_guest_with(selector, line, &[])
    }

    /// What a line prints in a stage's disk, with further arguments for impasto.
    pub(crate) fn in_guest_with(&self, selector: &str, line: &str, arguments: &[&str]) -> String {
        self.ok(&[&["shell", selector, "-c", line], arguments].concat())
    }
}

pub(crate) fn ran(mut command: Command) -> Ran {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

/// SHA-256 of a file, by coreutils.
pub(crate) fn sha256(path: &Path) -> String {
    let text = crate::base::tool("sha256sum", &[path.to_str().unwrap()]);
    text.split(' ').next().unwrap().to_owned()
}
