//! Settings: which file decides, what a repository may not say, and how mistakes are reported.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::project::{Ran, ran};

struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    /// A user's settings and a repository's, each where there are some.
    fn new(user: Option<&str>, repository: Option<&str>) -> Self {
        let case = Case {
            dir: tempfile::tempdir().unwrap(),
        };
        let write = |name: &str, text: &str| {
            std::fs::create_dir_all(case.path(name).parent().unwrap()).unwrap();
            std::fs::write(case.path(name), text).unwrap();
        };
        write("repository/.git", "gitdir: elsewhere");
        write(
            "repository/recipe/recipe.hcl",
            "stage \"fetch\" \"base\" {\n  path = \"base.raw\"\n}\n",
        );
        write("repository/recipe/base.raw", "disk");
        user.inspect(|text| write("home/.config/impasto/config.toml", text));
        repository.inspect(|text| write("repository/.impasto.toml", text));
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn run(&self, arguments: &[&str], env: &[(&str, &str)]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_impasto"));
        command
            .args(arguments)
            .current_dir(self.path("repository/recipe"))
            .stdin(Stdio::null());
        command
            .env("NO_COLOR", "1")
            .env("HOME", self.path("home"))
            .env_remove("IMPASTO_STORE");
        command
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_CACHE_HOME")
            .envs(env.iter().copied());
        ran(command)
    }

    /// A setting's value and where it comes from.
    fn setting(&self, key: &str, arguments: &[&str], env: &[(&str, &str)]) -> (Value, String) {
        let ran = self.run(&[&["config", "--json"], arguments].concat(), env);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let json: Value = serde_json::from_str(&ran.stdout).unwrap();
        let row = json["settings"]
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["key"] == key)
            .unwrap();
        (
            row["value"].clone(),
            row["origin"].as_str().unwrap().to_owned(),
        )
    }

    fn error(&self) -> String {
        let ran = self.run(&["validate"], &[]);
        assert_eq!(ran.code, 2, "{ran:?}");
        ran.stderr
    }
}

#[test]
fn a_flag_comes_before_the_environment_before_the_user_before_the_repository() {
    let case = Case::new(
        Some("store = \"~/cache\"\ngc.expire = \"30d\"\n"),
        Some("jobs = 3\n"),
    );
    let user = case
        .path("home/.config/impasto/config.toml")
        .display()
        .to_string();
    let cache = case.path("home/cache").display().to_string();
    assert_eq!(
        case.setting("store", &[], &[]),
        (cache.into(), user.clone())
    );
    let env = [("IMPASTO_STORE", "/of/environment")];
    assert_eq!(
        case.setting("store", &[], &env),
        ("/of/environment".into(), "IMPASTO_STORE".into())
    );
    assert_eq!(
        case.setting("store", &["--store", "/of/flag"], &env),
        ("/of/flag".into(), "--store".into())
    );
    let repository = case.path("repository/.impasto.toml").display().to_string();
    assert_eq!(case.setting("jobs", &[], &[]), (3.into(), repository));
    assert_eq!(
        case.setting("gc.expire", &[], &[]),
        ("30d".into(), user.clone())
    );
    let case = Case::new(
        Some("jobs = 2\n[gc]\nexpire = \"12h\"\n"),
        Some("jobs = 3\n"),
    );
    let user = case
        .path("home/.config/impasto/config.toml")
        .display()
        .to_string();
    assert_eq!(case.setting("jobs", &[], &[]), (2.into(), user.clone()));
    assert_eq!(case.setting("gc.expire", &[], &[]), ("12h".into(), user));
    // The store that they name is the one that is used.
    let case = Case::new(Some("store = \"~/cache\"\n"), None);
    assert_eq!(case.run(&["plan"], &[]).code, 0);
    assert!(case.path("home/cache/format").exists());
    let text = case.run(&["config"], &[]).stdout;
    assert!(
        text.contains("store ") && text.contains("(does not exist)"),
        "{text}"
    );
    // The directory that the environment names comes before ~/.config.
    let other = case.path("other");
    std::fs::create_dir_all(other.join("impasto")).unwrap();
    std::fs::write(other.join("impasto/config.toml"), "jobs = 7\n").unwrap();
    assert_eq!(
        case.setting("jobs", &[], &[("XDG_CONFIG_HOME", other.to_str().unwrap())])
            .0,
        7
    );
}

#[test]
fn a_repository_may_not_say_what_reaches_beyond_it() {
    for text in [
        "allow_paths = [\"/etc\"]\n",
        "store = \"/tmp/store\"\n",
        "gc.expire = \"1s\"\n",
    ] {
        let error = Case::new(None, Some(text)).error();
        let key = text.split(' ').next().unwrap();
        assert!(
            error.contains(&format!("a repository may not set `{key}`")),
            "{error}"
        );
        assert!(
            error.contains(".impasto.toml:1") && error.contains(".config/impasto/config.toml"),
            "{error}"
        );
    }
    let case = Case::new(None, None);
    std::os::unix::fs::symlink("/etc/passwd", case.path("repository/.impasto.toml")).unwrap();
    let error = case.error();
    assert!(
        error.contains(".impasto.toml") && error.contains("symbolic link"),
        "{error}"
    );
}

#[test]
fn mistakes_are_errors_that_name_the_line() {
    for (text, line, says) in [
        ("jobs = 2\nstroe = \"/x\"\n", 2, "did you mean `store`?"),
        ("[gc]\nexpires = \"1d\"\n", 2, "did you mean `gc.expire`?"),
        ("[tiers]\nx = 1\n", 1, "`tiers` is not a setting"),
        ("jobs = 0\n", 1, "a whole number from 1 to 65535"),
        ("jobs = \"two\"\n", 1, "a whole number"),
        (
            "\n\nstore = \"relative\"\n",
            3,
            "the absolute path of a directory",
        ),
        ("allow_paths = \"/x\"\n", 1, "a list of directories"),
        ("gc.expire = \"soon\"\n", 1, "a time such as"),
        ("jobs = 1\njobs = \n", 2, ""),
    ] {
        let error = Case::new(Some(text), None).error();
        assert!(
            error.contains(&format!("config.toml:{line}:")) && error.contains(says),
            "{text}: {error}"
        );
    }
}
