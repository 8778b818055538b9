//! Whose a store is: the caller's, under sudo the one's who called it, and nobody else's.
//!
//! Needs root, and setpriv of util-linux. What sudo does is set three variables and become root.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::base::{base, tool};
use crate::project::{Project, Ran, ran};

/// A user that no system knows.
const ALICE: u32 = 54_321;
const BOB: u32 = 54_322;

/// A project of Alice's, where she builds with sudo, on a machine that knows root and her.
struct Sudo {
    project: Project,
    /// The machine's `/etc/passwd`, and both homes.
    machine: tempfile::TempDir,
}

impl Sudo {
    fn new() -> Sudo {
        let project = Project::with(
            "recipe {\n  name = \"it\"\n}\n\nstage \"fetch\" \"base\" {\n  path = \"base.qcow2\"\n}\n\n\
             stage \"run\" \"run\" {\n  from     = stage.base\n  commands = [\"echo x > /x\"]\n}\n\n\
             stage \"convert\" \"qcow2\" {\n  from   = stage.run\n  format = \"qcow2\"\n}\n\n\
             image \"it\" {\n  files = [stage.qcow2]\n}\n",
        );
        fs::remove_file(project.path("base.qcow2")).unwrap();
        fs::copy(&base().qcow2, project.path("base.qcow2")).unwrap();
        let machine = tempfile::tempdir().unwrap();
        let [root, alice] = ["root", "alice"].map(|name| machine.path().join(name));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&alice).unwrap();
        let line = |name: &str, uid: u32, home: &Path| {
            format!("{name}:x:{uid}:{uid}::{}:/bin/sh\n", home.display())
        };
        fs::write(
            machine.path().join("passwd"),
            line("root", 0, &root) + &line("alice", ALICE, &alice),
        )
        .unwrap();
        let owner = format!("{ALICE}:{ALICE}");
        tool(
            "chown",
            &[
                "-R",
                &owner,
                project.path("").to_str().unwrap(),
                alice.to_str().unwrap(),
            ],
        );
        for dir in [project.path(""), machine.path().to_owned()] {
            tool("chmod", &["755", dir.to_str().unwrap()]);
        }
        Sudo { project, machine }
    }

    fn command(&self, program: &[&str], arguments: &[&str]) -> Command {
        // The machine's list of users in the place of this one's.
        let users = [
            "unshare",
            "--mount",
            "sh",
            "-euc",
            "mount --bind \"$0\" /etc/passwd; exec \"$@\"",
        ];
        let passwd = self.machine.path().join("passwd");
        let all = [
            &users[..],
            &[passwd.to_str().unwrap()],
            program,
            &[env!("CARGO_BIN_EXE_impasto")],
            arguments,
        ]
        .concat();
        let mut command = Command::new(all[0]);
        command
            .args(&all[1..])
            .current_dir(self.project.path(""))
            .stdin(Stdio::null())
            .env("NO_COLOR", "1");
        command
            .env("HOME", self.machine.path().join("root"))
            .env_remove("XDG_CACHE_HOME")
            .env_remove("IMPASTO_STORE");
        command
    }

    /// As root, called by a user with sudo.
    fn sudo(&self, uid: u32, arguments: &[&str]) -> Ran {
        let mut command = self.command(&[], arguments);
        command
            .env("SUDO_UID", uid.to_string())
            .env("SUDO_GID", uid.to_string())
            .env("SUDO_USER", "alice");
        ran(command)
    }

    /// As a user, who may say of themselves what they like.
    fn user(&self, uid: u32, arguments: &[&str]) -> Ran {
        let id = uid.to_string();
        let mut command = self.command(
            &["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"],
            arguments,
        );
        command
            .env("SUDO_UID", ALICE.to_string())
            .env("SUDO_GID", ALICE.to_string());
        command.env("HOME", self.machine.path().join("alice"));
        ran(command)
    }

    /// Alice's store where she names none.
    fn store(&self) -> PathBuf {
        self.machine.path().join("alice/.cache/impasto")
    }

    /// Where root keeps what it executes for that store.
    fn private(&self) -> PathBuf {
        let dirs = fs::read_dir(self.machine.path().join("root/.cache/impasto-sudo")).unwrap();
        let dirs: Vec<_> = dirs.map(|entry| entry.unwrap().path()).collect();
        assert_eq!(dirs.len(), 1, "{dirs:?}");
        dirs[0].clone()
    }
}

/// All files below a directory that do not belong to a user.
fn of_others(dir: &Path, uid: u32) -> String {
    tool(
        "find",
        &[dir.to_str().unwrap(), "!", "-uid", &uid.to_string()],
    )
}

#[test]
fn under_sudo_everything_is_the_callers_who_goes_on_without() {
    let sudo = Sudo::new();
    let built = sudo.sudo(ALICE, &["build"]);
    assert_eq!(built.code, 0, "{}{}", built.stdout, built.stderr);
    for dir in [sudo.project.path(""), sudo.machine.path().join("alice")] {
        assert_eq!(of_others(&dir, ALICE), "", "of others");
    }
    for path in [
        sudo.project.path("out/it.qcow2"),
        sudo.store().join("format"),
        sudo.store().join("state/logs"),
    ] {
        assert_eq!(
            fs::metadata(&path).unwrap().gid(),
            ALICE,
            "{}",
            path.display()
        );
    }
    // Alice herself: everything is known, and hers to change.
    let again = sudo.user(ALICE, &["build", "--progress", "json"]);
    assert!(
        again.code == 0 && again.stdout.contains("\"built\":0"),
        "{}{}",
        again.stdout,
        again.stderr
    );
    for line in [&["store", "verify"][..], &["gc", "--min-age", "0s"]] {
        let ran = sudo.user(ALICE, line);
        assert_eq!(ran.code, 0, "{line:?}: {}", ran.stderr);
    }
    // Root alone, and Bob, are others: also where he claims to be Alice behind sudo, which only root can be.
    let store = sudo.store();
    let place = ["plan", "--store", store.to_str().unwrap()];
    for dir in [store.as_path(), store.parent().unwrap()] {
        tool("chmod", &["755", dir.to_str().unwrap()]);
    }
    for (ran, who) in [
        (sudo.sudo(0, &place), 0),
        (sudo.sudo(BOB, &place), BOB),
        (sudo.user(BOB, &place), BOB),
    ] {
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        let sentence = format!("belongs to user {ALICE}, not to user {who}");
        let help = format!("chown -R {who} {}", store.display());
        assert!(
            ran.stderr.contains(&sentence) && ran.stderr.contains(&help),
            "{}",
            ran.stderr
        );
        assert!(
            ran.stderr.contains("run impasto as alice"),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn what_root_executes_or_believes_lies_with_root() {
    let sudo = Sudo::new();
    assert_eq!(sudo.sudo(ALICE, &["build"]).code, 0);
    for name in ["state/stamps", "state/trees", "state/caches"] {
        assert!(!sudo.store().join(name).exists(), "{name}");
    }
    let private = sudo.private();
    let stat = fs::metadata(&private).unwrap();
    assert_eq!((stat.uid(), stat.mode() & 0o777), (0, 0o700));
    assert!(private.join("state/stamps").exists());
    assert_eq!(fs::read_dir(private.join("tmp")).unwrap().count(), 0);
    // What Alice says of her layers is nothing to root: one that she exchanged is damage.
    let find = "find \"$1\"/disks -name '*.qcow2' -printf '%s %p\\n' | sort -n | tail -n 1 | cut -d' ' -f2";
    let layer =
        PathBuf::from(tool("sh", &["-c", find, "sh", sudo.store().to_str().unwrap()]).trim_end());
    let mut bytes = fs::read(&layer).unwrap();
    let last = bytes.len() - 600;
    bytes[last] ^= 1;
    fs::remove_file(&layer).unwrap();
    fs::write(&layer, bytes).unwrap();
    tool("chown", &[&ALICE.to_string(), layer.to_str().unwrap()]);
    let ran = sudo.sudo(ALICE, &["build", "--rebuild", "run"]);
    assert!(
        ran.code == 0 && ran.stderr.contains("damaged"),
        "{}",
        ran.stderr
    );
    assert_eq!(of_others(&sudo.store(), ALICE), "");
    // A shell in a failed state, which lies there too.
    let recipe = sudo
        .project
        .read("impasto.hcl")
        .replace("echo x > /x", "echo x > /x; false");
    sudo.project.write("impasto.hcl", &recipe);
    assert_eq!(sudo.sudo(ALICE, &["build"]).code, 4);
    assert_eq!(
        sudo.sudo(ALICE, &["shell", "run", "-c", "cat /x"]).stdout,
        "x\n"
    );
}

#[test]
fn root_follows_no_link_that_the_caller_put_into_the_store() {
    let sudo = Sudo::new();
    assert_eq!(sudo.sudo(ALICE, &["build"]).code, 0);
    let target = sudo.machine.path().join("target");
    fs::write(&target, "root's own").unwrap();
    let find = "find \"$1\"/state/logs -name '*.log'";
    let logs = tool("sh", &["-c", find, "sh", sudo.store().to_str().unwrap()]);
    assert!(logs.lines().count() > 0);
    for log in logs.lines() {
        fs::remove_file(log).unwrap();
        symlink(&target, log).unwrap();
    }
    assert_eq!(sudo.sudo(ALICE, &["build", "--rebuild", "run"]).code, 0);
    assert_eq!(fs::read_to_string(&target).unwrap(), "root's own");
    assert_eq!(fs::metadata(&target).unwrap().uid(), 0);
}

#[test]
fn recipes_that_root_writes_stay_the_callers() {
    let sudo = Sudo::new();
    let ran = sudo.sudo(ALICE, &["init", "new/one"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let recipe = sudo.project.path("new/one/impasto.hcl");
    let text = fs::read_to_string(&recipe).unwrap();
    fs::write(&recipe, text.replace("  name = ", "  name   =   ")).unwrap();
    assert_eq!(sudo.sudo(ALICE, &["fmt", "new/one"]).code, 0);
    assert_eq!(fs::read_to_string(&recipe).unwrap(), text);
    assert_eq!(of_others(&sudo.project.path("new"), ALICE), "");
}

#[test]
fn what_needs_root_is_said_before_anything_starts() {
    let sudo = Sudo::new();
    let kept = || {
        of_others(&sudo.store(), 0)
            .lines()
            .filter(|path| path.contains("/disks/") || path.contains("/blobs/"))
            .count()
    };
    let said = |ran: Ran, message: &str| {
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert!(
            ran.stderr
                .starts_with(&format!("error: {message}, which needs root\n")),
            "{message}: {}",
            ran.stderr
        );
        assert!(
            ran.stderr.contains("sudo") || ran.stderr.contains("as root"),
            "{}",
            ran.stderr
        );
    };
    // The stage that only fetches does not begin; by itself it needs nobody.
    said(
        sudo.user(ALICE, &["build"]),
        "programs must be run for stage run",
    );
    assert_eq!(kept(), 0);
    said(
        sudo.user(ALICE, &["shell", "run"]),
        "a shell runs programs on a stage's disk",
    );
    said(
        sudo.user(ALICE, &["audit"]),
        "an audit builds in a varied environment",
    );
    assert_eq!(sudo.user(ALICE, &["build", "base"]).code, 0);
    assert_ne!(kept(), 0);
    // Nobody asks a mirror that is not there.
    let recipe = sudo.project.read("impasto.hcl").replace(
        "stage \"convert\"",
        "stage \"packages\" \"tools\" {\n  from    = stage.base\n  install = [\"vim\"]\n}\n\nstage \"convert\"",
    );
    sudo.project.write(
        "impasto.hcl",
        &recipe.replace("from   = stage.run", "from   = stage.tools"),
    );
    let mirror = ["--mirror", "http://127.0.0.1:9/debian"];
    let build = [&["build", "image.it"], &mirror[..]].concat();
    said(
        sudo.user(ALICE, &build),
        "packages must be locked for stage tools, and programs must be run for stage tools",
    );
    said(
        sudo.user(ALICE, &[&["fetch"], &mirror[..]].concat()),
        "packages must be locked for stage tools",
    );
    said(
        sudo.user(ALICE, &[&["update"], &mirror[..]].concat()),
        "an update runs apt",
    );
    // What is known needs no root.
    sudo.project.write("impasto.hcl", &recipe);
    assert_eq!(sudo.sudo(ALICE, &["build", "run"]).code, 0);
    assert_eq!(sudo.user(ALICE, &["build", "run"]).code, 0);
}
