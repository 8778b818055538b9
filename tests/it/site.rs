//! A recipe over a small Debian whose packages come from a repository of the test's own, beside a store that knows the
//! tools already: so that a test is about its few packages, and not about Debian's sixty thousand.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::debian;
use crate::project::{Project, Ran, ran};
use crate::repository::{Key, Package, Repository};

/// What every recipe of these tests begins with.
const HEAD: &str = "recipe {\n  name = \"site\"\n  source_date_epoch = 1700000000\n}\n\
                    stage \"fetch\" \"base\" { path = \"base.qcow2\" }\n";

/// A recipe's directory, and a repository below it.
pub(crate) struct Site {
    pub(crate) project: Project,
    pub(crate) repository: Repository,
    /// Where recipes look for the repository: its directory, where a test does not say another place.
    pub(crate) uri: String,
}

/// What a build did.
pub(crate) struct Done {
    pub(crate) code: i32,
    /// Stages that ran to their end, in the order of their names.
    pub(crate) built: Vec<String>,
    /// Stages whose results were known, in the order of their names.
    pub(crate) cached: Vec<String>,
    pub(crate) stderr: String,
    pub(crate) events: String,
}

/// A directory with the base disk (`base.qcow2`), a store that holds it and the tools, and a lock of the tools (`lock`).
fn seed() -> &'static Path {
    static SEED: OnceLock<PathBuf> = OnceLock::new();
    SEED.get_or_init(|| {
        let base = debian::base();
        debian::once("site-2", |dir| {
            // Debian itself knows archives of its own; what is not Debian has those that the recipe names.
            let first = Project::empty();
            first.link(base, "debian.qcow2");
            first.write(
                "impasto.hcl",
                "recipe { source_date_epoch = 1700000000 }\n\
                 stage \"fetch\" \"debian\" { path = \"debian.qcow2\" }\n\
                 stage \"run\" \"other\" {\n  from = stage.debian\n  commands = [\"sed -i s/^ID=.*/ID=other/ /usr/lib/os-release\"]\n}\n\
                 stage \"convert\" \"base\" {\n  from = stage.other\n  format = \"qcow2\"\n}\n",
            );
            first.ok(&["build", "base"]);
            std::fs::copy(first.path("out/base.qcow2"), dir.join("base.qcow2")).unwrap();

            let site = Site::bare(&dir.join("base.qcow2"));
            site.recipe(&site.packages("tools", "base", "install = [\"small\"]"));
            let ran = site.run(&["fetch"]);
            assert_eq!(ran.code, 0, "{}", ran.stderr);
            let ran = site.run(&["build"]);
            assert_eq!(ran.code, 0, "{}", ran.stderr);
            let lock = site.lock();
            std::fs::write(dir.join("lock"), lock.split("\n[[stage]]").next().unwrap()).unwrap();
            // Trees are known by their inodes, and by when these changed: they stay as they are.
            std::fs::rename(site.project.store(), dir.join("store")).unwrap();
            std::fs::rename(dir.join("store/state/trees"), dir.join("trees")).unwrap();
        })
    })
}

impl Site {
    /// A recipe's directory with the seed's base, store and tools, and a repository with a few packages.
    pub(crate) fn new() -> Site {
        let seed = seed();
        let site = Site::bare(&seed.join("base.qcow2"));
        let store = site.project.store();
        // Files of a store are never written to once they are there.
        debian::run(
            "cp -al \"$1/store\" \"$2\"; ln -s \"$1/trees\" \"$2/state/trees\"",
            &[seed, &store],
        );
        std::fs::copy(seed.join("lock"), site.project.path("impasto.lock")).unwrap();
        site
    }

    fn bare(base: &Path) -> Site {
        let project = Project::empty();
        project.link(base, "base.qcow2");
        let mut repository = Repository::new(&project.path("repository"), Key::new(1));
        repository.add(
            "stable",
            "main",
            &Package::new("small", "1.0").file("usr/share/small", "small 1.0\n"),
        );
        repository.add(
            "stable",
            "main",
            &Package::new("library", "1.0").file("usr/share/library", "library 1.0\n"),
        );
        repository.add(
            "stable",
            "main",
            &Package::new("program", "1.0").depends("library"),
        );
        repository.add("stable", "main", &Package::new("unrelated", "1.0"));
        repository.publish();
        project.write("key.asc", &repository.key.armored());
        let uri = repository.mirror().to_string();
        Site {
            project,
            repository,
            uri,
        }
    }

    /// Writes the recipe: these stages upon the base.
    pub(crate) fn recipe(&self, stages: &str) {
        self.project
            .write("impasto.hcl", &format!("{HEAD}{stages}"));
    }

    /// A stage that installs packages of the repository.
    pub(crate) fn packages(&self, name: &str, from: &str, lines: &str) -> String {
        let uri = &self.uri;
        format!(
            "stage \"packages\" \"{name}\" {{\n  from = stage.{from}\n  repositories = {{ own = {{ uri = \"{uri}\", suite = \
             \"stable\", signed_by = file(\"key.asc\") }} }}\n  {lines}\n}}\n"
        )
    }

    /// A package in place of the one of its name, published.
    pub(crate) fn publish(&mut self, package: &Package) {
        self.repository.add("stable", "main", package);
        self.repository.publish();
    }

    /// A command whose only source of Debian's packages is the frozen mirror.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.project.command(arguments);
        command.env(
            "IMPASTO_MIRROR",
            format!("file:{}", debian::mirror().display()),
        );
        for name in ["IMPASTO_SECURITY_MIRROR", "IMPASTO_SNAPSHOT"] {
            command.env_remove(name);
        }
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        ran(self.command(arguments))
    }

    /// Runs a command that must succeed, and gives its standard output.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(
            ran.code, 0,
            "impasto {arguments:?}: {}{}",
            ran.stdout, ran.stderr
        );
        ran.stdout
    }

    /// Builds, and tells what ran.
    pub(crate) fn build(&self, arguments: &[&str]) -> Done {
        done(self.command(&[&["build", "--progress", "json"], arguments].concat()))
    }

    /// What a command says, as a user reads it: exit code and text, without what differs from run to run.
    pub(crate) fn said(&self, arguments: &[&str]) -> String {
        self.shown(self.run(arguments))
    }

    /// The same of a command that has run.
    pub(crate) fn shown(&self, ran: Ran) -> String {
        self.shown_text(&format!("exit {}\n{}{}", ran.code, ran.stdout, ran.stderr))
    }

    /// A text without what differs from run to run.
    pub(crate) fn shown_text(&self, text: &str) -> String {
        let mut text = text.replace(
            self.project
                .path("")
                .display()
                .to_string()
                .trim_end_matches('/'),
            "DIR",
        );
        text = text.replace(&debian::mirror().display().to_string(), "MIRROR");
        for (pattern, stand_in) in [
            (r"127\.0\.0\.1:[0-9]+", "HOST"),
            (r"\b[0-9a-f]{64}\b", "DIGEST"),
            (r"\b[0-9A-F]{40}\b", "FINGERPRINT"),
            (r"\b\d+(\.\d+)? (min \d+ )?s\b", "TIME"),
            (r"\b[0-9a-f]{12}\b", "DIGEST"),
            (r"\b\d+(\.\d+)? [kMG]?B\b", "SIZE"),
            (r"\bsize = \d+", "size = SIZE"),
            (r"has \d+ bytes instead of \d+", "has SIZE instead of SIZE"),
            (r"larger than \d+ bytes", "larger than SIZE"),
            (r" {2,}(TIME|SIZE)\b", "  $1"),
            (r" after TIME", ""),
            (r"\d{4}-\d{2}-\d{2}T[0-9:]{8}Z", "DATE"),
        ] {
            text = regex::Regex::new(pattern)
                .unwrap()
                .replace_all(&text, stand_in)
                .into_owned();
        }
        text
    }

    /// The lock's text.
    pub(crate) fn lock(&self) -> String {
        self.project.read("impasto.lock")
    }
}

impl Done {
    /// It must have succeeded.
    pub(crate) fn ok(self) -> Done {
        assert_eq!(self.code, 0, "{}{}", self.events, self.stderr);
        self
    }
}

/// Runs a build whose events are JSON.
pub(crate) fn done(command: Command) -> Done {
    let Ran {
        code,
        stdout,
        stderr,
    } = ran(command);
    let (mut built, mut cached) = (Vec::new(), Vec::new());
    for line in stdout.lines() {
        let event: Value = serde_json::from_str(line).expect("an event is JSON");
        let stage = event["stage"].as_str().unwrap_or_default().to_owned();
        match event["how"].as_str() {
            Some("built") => built.push(stage),
            Some("cached") => cached.push(stage),
            _ => {}
        }
    }
    built.sort();
    cached.sort();
    Done {
        code,
        built,
        cached,
        stderr,
        events: stdout,
    }
}
