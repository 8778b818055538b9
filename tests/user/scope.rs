//! What a recipe may read: its repository, what the user allows, and nothing else.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use impasto::recipe::scope::{Outside, Scope};
use impasto_store::inputs::Access;

use crate::project::{Ran, ran};

const BASE: &str = "stage \"fetch\" \"base\" {\n  path = \"base.raw\"\n}\n";

/// A repository with a recipe in a directory of it, and a directory beside it with something secret.
struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let case = Case {
            dir: tempfile::tempdir().unwrap(),
        };
        for dir in [
            "repository/.git",
            "repository/recipe",
            "repository/shared",
            "outside/tree",
        ] {
            std::fs::create_dir_all(case.path(dir)).unwrap();
        }
        std::fs::write(case.path("repository/recipe/base.raw"), [1; 512]).unwrap();
        std::fs::write(case.path("repository/shared/text"), "echo shared").unwrap();
        std::fs::write(case.path("outside/secret"), "hunter2").unwrap();
        std::fs::write(case.path("outside/tree/secret"), "hunter2").unwrap();
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn recipe(&self, text: &str) {
        std::fs::write(self.path("repository/recipe/recipe.hcl"), text).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_impasto"));
        command
            .arg("--store")
            .arg(self.path("store"))
            .args(arguments)
            .current_dir(self.path("repository/recipe"));
        command
            .env("NO_COLOR", "1")
            .env("XDG_CONFIG_HOME", self.path("config"))
            .stdin(Stdio::null());
        ran(command)
    }

    fn refused(&self, arguments: &[&str], what: &str) {
        let Ran {
            code,
            stdout,
            stderr,
        } = self.run(arguments);
        assert_eq!(code, 3, "{what}: {stdout}{stderr}");
        assert!(!stderr.contains("hunter2"), "{what}: {stderr}");
        let repository = self.path("repository").display().to_string();
        for says in ["outside", &repository, "--allow-path", "allow_paths"] {
            assert!(stderr.contains(says), "{what}: {says} is missing: {stderr}");
        }
    }
}

fn stage(parameters: &str) -> String {
    format!("{BASE}stage \"copy\" \"x\" {{\n  from = stage.base\n  {parameters}\n}}\n")
}

#[test]
fn what_lies_outside_of_the_repository_is_refused_however_it_is_named() {
    let case = Case::new();
    let (secret, tree) = (case.path("outside/secret"), case.path("outside/tree"));
    symlink(&secret, case.path("repository/recipe/link")).unwrap();
    symlink(
        "../../outside/secret",
        case.path("repository/recipe/relative"),
    )
    .unwrap();
    symlink(
        case.path("outside"),
        case.path("repository/recipe/directory"),
    )
    .unwrap();
    symlink("/nowhere/at/all", case.path("repository/recipe/dangling")).unwrap();
    let names = [
        secret.display().to_string(),
        "../../outside/secret".to_owned(),
        "../shared/../../outside/secret".to_owned(),
        "link".to_owned(),
        "relative".to_owned(),
        "directory/secret".to_owned(),
        // Whether it is there is not said.
        "../../outside/missing".to_owned(),
        "/proc/self/root/etc/passwd".to_owned(),
    ];
    for name in &names {
        for call in ["file", "template", "filesha", "fileexists"] {
            let text = match call {
                "file" => format!("file({name:?})"),
                "template" => format!("template({name:?}, {{}})"),
                "fileexists" => format!("\"${{fileexists({name:?})}}\""),
                _ => continue,
            };
            case.recipe(&stage(&format!(
                "files = {{ \"/x\" = {{ content = {text} }} }}"
            )));
            case.refused(&["validate"], &format!("{call} {name}"));
        }
        case.recipe(&stage(&format!("files = {{ \"/x\" = {name:?} }}")));
        case.refused(&["validate"], &format!("copy {name}"));
        case.recipe(&BASE.replace("base.raw", name));
        case.refused(&["validate"], &format!("fetch {name}"));
    }
    for name in [
        tree.display().to_string(),
        "../../outside/tree".to_owned(),
        "directory".to_owned(),
    ] {
        case.recipe(&stage(&format!("files = {{ \"/x\" = {name:?} }}")));
        case.refused(&["validate"], &format!("copy {name}"));
        case.recipe(&stage(&format!(
            "files = {{ \"/x\" = {{ content = join(\",\", dir({name:?})) }} }}"
        )));
        case.refused(&["validate"], &format!("dir {name}"));
    }
    // A file of the recipe itself.
    case.recipe(BASE);
    symlink(&secret, case.path("repository/recipe/z.hcl")).unwrap();
    case.refused(&["validate"], "z.hcl");
    let ran = case.run(&["fmt"]);
    assert!(ran.code != 0 && ran.stderr.contains("outside"), "{ran:?}");
}

#[test]
fn what_lies_in_the_repository_is_read_also_through_links_and_above_the_recipe() {
    let case = Case::new();
    symlink("../shared/text", case.path("repository/recipe/link")).unwrap();
    // An absolute one, too: it leads to where a relative one would.
    symlink(
        case.path("repository/shared"),
        case.path("repository/recipe/absolute"),
    )
    .unwrap();
    for name in [
        "../shared/text",
        "link",
        "absolute/text",
        "./../shared/../shared/text",
    ] {
        case.recipe(&stage(&format!(
            "files = {{ \"/x\" = {name:?}, \"/y\" = {{ content = file({name:?}) }} }}"
        )));
        let ran = case.run(&["plan"]);
        assert_eq!(ran.code, 0, "{name}: {}", ran.stderr);
    }
}

#[test]
fn a_flag_or_the_users_settings_allow_more() {
    let case = Case::new();
    symlink(
        case.path("outside/secret"),
        case.path("repository/recipe/link"),
    )
    .unwrap();
    for name in ["../../outside/secret", "link"] {
        case.recipe(&stage(&format!(
            "files = {{ \"/x\" = {name:?}, \"/y\" = {{ content = file({name:?}) }} }}"
        )));
        case.refused(&["plan"], name);
        case.refused(&["plan", "--allow-path", "../shared"], name);
        let ran = case.run(&["plan", "--allow-path", "../../outside"]);
        assert_eq!(ran.code, 0, "{name}: {}", ran.stderr);
    }
    std::fs::create_dir_all(case.path("config/impasto")).unwrap();
    let settings = format!(
        "allow_paths = [{:?}]\n",
        case.path("outside").display().to_string()
    );
    std::fs::write(case.path("config/impasto/config.toml"), settings).unwrap();
    let ran = case.run(&["plan"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

#[test]
fn without_git_the_repository_is_the_recipes_directory() {
    let case = Case::new();
    std::fs::remove_dir(case.path("repository/.git")).unwrap();
    case.recipe(&stage("files = { \"/x\" = \"../shared/text\" }"));
    let ran = case.run(&["validate"]);
    let says = format!(
        "outside of the repository {}",
        case.path("repository/recipe").display()
    );
    assert!(ran.code == 3 && ran.stderr.contains(&says), "{ran:?}");
    let scope = |home: &Path| {
        let scope = Scope::new(&case.path("repository/recipe"), Some(home), &[]).unwrap();
        scope.repository().to_owned()
    };
    // A file is what worktrees have.
    std::fs::write(case.path("repository/.git"), "gitdir: elsewhere").unwrap();
    assert_eq!(scope(&case.path("outside")), case.path("repository"));
    // Who keeps a home directory in git does not mean every recipe in it.
    assert_eq!(
        scope(&case.path("repository")),
        case.path("repository/recipe")
    );
    assert_eq!(
        scope(&case.path("repository/recipe/below")),
        case.path("repository/recipe")
    );
}

#[test]
fn a_link_that_changes_while_files_are_read_never_leads_out() {
    let case = Case::new();
    let (link, other) = (
        case.path("repository/recipe/link"),
        case.path("repository/recipe/other"),
    );
    let scope = Scope::new(&case.path("repository/recipe"), None, &[]).unwrap();
    let done = AtomicBool::new(false);
    let (mut inside, mut refused) = (0, 0);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for target in ["../shared", "../../outside"].iter().cycle() {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                symlink(target, &other).unwrap();
                std::fs::rename(&other, &link).unwrap();
            }
        });
        for name in ["link/text", "link/secret"].iter().cycle() {
            match scope.open_file(&case.path("repository/recipe").join(name)) {
                Ok(file) => {
                    assert_eq!(
                        std::io::read_to_string(file).unwrap(),
                        "echo shared",
                        "{name}"
                    );
                    inside += 1;
                }
                Err(error) if Outside::of(&error).is_some() => refused += 1,
                // The other of the two names.
                Err(_) => {}
            }
            if inside > 200 && refused > 200 {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn nothing_is_reached_through_a_link_of_proc() {
    let case = Case::new();
    let scope = Scope::new(
        &case.path("repository/recipe"),
        None,
        &[case.path("outside")],
    )
    .unwrap();
    let held = std::fs::File::open("/etc/passwd").unwrap();
    let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
    assert!(scope.open(Path::new(&name), Access::Read).is_err());
    assert!(
        scope
            .open(Path::new("/proc/self/cwd"), Access::Examine)
            .is_err()
    );
    assert!(
        scope
            .open(&case.path("outside/secret"), Access::Read)
            .is_ok()
    );
}
