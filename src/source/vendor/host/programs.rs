//! Asks the host's own cargo, pip and npm for the address that they were built with.
//! Knows what they print; each runs without network, in a directory that is not the recipe's.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Where nothing listens: the port of the discard service, of this machine.
const NOWHERE: &str = "http://127.0.0.1:9";

/// Runs a program of the host's, where it is installed.
fn run(dir: &Path, program: &str, arguments: &[&str], env: &[(&str, &str)]) -> Option<Output> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the program alone knows its address"
    )]
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(env.iter().copied())
        .current_dir(dir)
        .stdin(Stdio::null());
    command.output().ok()
}

/// The sparse index that cargo uses unless told otherwise, as its settings name one.
///
/// Cargo tells it only in the message of a failed request, so it is asked with a proxy that cannot be reached.
pub(super) fn cargo_index() -> Option<String> {
    let dir = tempfile::tempdir().ok()?;
    let manifest = "[package]\nname = \"ask\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[dependencies]\nask-for = \"1\"\n";
    std::fs::create_dir(dir.path().join("src")).ok()?;
    std::fs::write(dir.path().join("Cargo.toml"), manifest).ok()?;
    std::fs::write(dir.path().join("src/lib.rs"), "").ok()?;
    let home = dir.path().join("home");
    let env = [
        ("CARGO_HOME", home.to_str()?),
        ("CARGO_HTTP_PROXY", NOWHERE),
        ("CARGO_NET_RETRY", "0"),
        ("CARGO_TERM_COLOR", "never"),
    ];
    let output = run(dir.path(), "cargo", &["fetch"], &env)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let (_, rest) = said.split_once("failed to download from `")?;
    let (url, _) = rest.split_once("config.json`")?;
    Some(format!("sparse+{url}"))
}

/// The index that pip uses, as the help of its options has it.
pub(super) fn pip_index() -> Option<String> {
    let dir = tempfile::tempdir().ok()?;
    let asked = |program| {
        run(
            dir.path(),
            program,
            &["download", "--help"],
            &[("COLUMNS", "1000")],
        )
    };
    let output = ["pip3", "pip"]
        .into_iter()
        .find_map(|program| asked(program).filter(|output| output.status.success()))?;
    index_of_help(&String::from_utf8_lossy(&output.stdout))
}

/// The default of `--index-url` in pip's help.
fn index_of_help(help: &str) -> Option<String> {
    let (_, rest) = help.split_once("--index-url")?;
    let (_, rest) = rest.split_once("(default")?;
    let url = rest.split(')').next()?.trim();
    url.starts_with("http").then(|| url.to_owned())
}

/// The registry that npm uses.
pub(super) fn npm_registry() -> Option<String> {
    let dir = tempfile::tempdir().ok()?;
    let output = run(dir.path(), "npm", &["config", "get", "registry"], &[])?;
    let url = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    url.starts_with("http").then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_read_out_of_pips_help() {
        let help = "Package Index Options:\n  -i, --index-url <url>       Base URL of the Python Package Index (default \
                    https://index.example/simple). This should point to a repository\n  --extra-index-url <url>  (x)";
        assert_eq!(
            index_of_help(help).as_deref(),
            Some("https://index.example/simple")
        );
        assert_eq!(index_of_help("--index-url <url> Base URL"), None);
    }
}
