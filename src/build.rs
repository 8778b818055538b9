//! Builds the agent as a static executable, to be embedded in impasto.
//!
//! Runs under every cargo command that compiles the crate (build, test, clippy, doc), so it hides from the inner build
//! what the outer one was told. It also finds the commit that `impasto -V` names.
#![allow(
    clippy::disallowed_methods,
    reason = "a build script talks to cargo by environment and processes"
)]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What of cargo's environment reaches the inner build: where packages come from.
const KEPT: [&str; 6] = [
    "CARGO_HOME",
    "CARGO_NET_",
    "CARGO_HTTP_",
    "CARGO_REGISTRY_",
    "CARGO_REGISTRIES_",
    "CARGO_SOURCE_",
];

/// Wrappers and flags that change what the compiler does.
const DROPPED: [&str; 8] = [
    "RUSTFLAGS",
    "RUSTDOCFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CLIPPY_ARGS",
    "MAKEFLAGS",
    "MFLAGS",
    "RUSTC_LINKER",
];

fn main() {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    // A debug build would be compiled again after every commit.
    if variable("PROFILE") == "release"
        && let Some((commit, files)) = commit(&root)
    {
        println!("cargo::rustc-env=IMPASTO_COMMIT={}", &commit[..12]);
        files
            .iter()
            .for_each(|file| println!("cargo::rerun-if-changed={}", file.display()));
    }
    let target = variable("TARGET");
    let target_dir = PathBuf::from(variable("OUT_DIR")).join("agent");
    let shared =
        ["confine", "memory", "protocol", "usage"].map(|name| format!("src/sandbox/{name}.rs"));
    for input in [
        "src/agent",
        "src/base/bounded.rs",
        "Cargo.toml",
        "Cargo.lock",
    ]
    .into_iter()
    .chain(shared.iter().map(String::as_str))
    {
        println!("cargo::rerun-if-changed={input}");
    }
    let mut command = Command::new(variable("CARGO"));
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let of_cargo =
            text.starts_with("CARGO") || text.starts_with("__CARGO") || text.starts_with("DEP_");
        if DROPPED.contains(&text) || of_cargo && !KEPT.iter().any(|kept| text.starts_with(kept)) {
            command.env_remove(name);
        }
    }
    // Paths of this machine would make the agent's digest differ from machine to machine.
    let mut flags = vec![
        "-Ctarget-feature=+crt-static".to_owned(),
        "-Cpanic=abort".to_owned(),
        format!("--remap-path-prefix={}=impasto", root.display()),
    ];
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".cargo")));
    if let Some(home) = home {
        flags.push(format!("--remap-path-prefix={}=cargo", home.display()));
    }
    command
        .current_dir(&root)
        .args([
            "build",
            "--release",
            "--locked",
            "--package",
            "impasto-agent",
            "--target",
            &target,
        ])
        .arg("--target-dir")
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "none");
    let status = command
        .status()
        .expect("cargo, which runs this script, can be started");
    assert!(status.success(), "the agent cannot be built: {status}");
    let agent = target_dir.join(target).join("release/impasto-agent");
    println!("cargo::rustc-env=IMPASTO_AGENT={}", agent.display());
}

/// The commit that is checked out, and the files that say so: git itself need not be there (gitrepository-layout(5)).
pub(crate) fn commit(root: &Path) -> Option<(String, Vec<PathBuf>)> {
    let text = |path: &Path| {
        fs::read_to_string(path)
            .ok()
            .map(|text| text.trim().to_owned())
    };
    let dot_git = root.join(".git");
    // In a worktree it is a file.
    let dir = match text(&dot_git) {
        Some(line) => root.join(line.strip_prefix("gitdir: ")?),
        None => dot_git,
    };
    let common =
        text(&dir.join("commondir")).map_or_else(|| dir.clone(), |common| dir.join(common));
    let mut files = vec![dir.join("HEAD")];
    let mut commit = text(&files[0])?;
    if let Some(name) = commit.strip_prefix("ref: ").map(str::to_owned) {
        let (loose, packed) = (common.join(&name), common.join("packed-refs"));
        let of_packed = |lines: String| {
            let mut refs = lines.lines().filter_map(|line| line.split_once(' '));
            refs.find(|(_, known)| *known == name)
                .map(|(commit, _)| commit.to_owned())
        };
        commit = text(&loose).or_else(|| of_packed(text(&packed)?))?;
        files.extend([loose, packed].into_iter().filter(|file| file.exists()));
    }
    let is_commit = commit.len() >= 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_commit.then_some((commit, files))
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
