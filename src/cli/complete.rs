//! What completes a command line: shells ask by the scripts that `impasto completions` prints.
//! Knows which words are names of a recipe; all others are clap's business.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::OnceLock;

use clap::CommandFactory;
use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};
use clap_complete::env::Shells;
use clap_complete::{CompleteEnv, Shell};

use super::Cli;
use crate::recipe::{Outline, outline};

/// The variable by which a script asks.
const VARIABLE: &str = "_IMPASTO_COMPLETE";
/// The program's name, for the shell and for the script.
const NAME: &str = "impasto";
/// Names of files that are recipes or images.
const EXTENSIONS: [&str; 4] = ["hcl", "qcow2", "raw", "img"];

/// The words of the line that is to be completed.
static WORDS: OnceLock<Vec<OsString>> = OnceLock::new();

/// Answers a shell that asks for completions; false where none does. To be called first thing, while the process has one
/// thread.
pub fn complete(arguments: impl Iterator<Item = OsString>) -> bool {
    let arguments: Vec<OsString> = arguments.collect();
    // Those of the line come after `--`, the program's name first.
    let _ = WORDS.set(
        arguments
            .iter()
            .skip_while(|word| *word != "--")
            .skip(2)
            .cloned()
            .collect(),
    );
    let answer = CompleteEnv::with_factory(Cli::command)
        .var(VARIABLE)
        .try_complete(arguments, Some(Path::new(".")));
    // A shell shows nothing where there is nothing to show.
    answer.unwrap_or(true)
}

/// The script that makes a shell ask.
pub(super) fn script(shell: Shell) -> std::io::Result<Vec<u8>> {
    let mut script = Vec::new();
    if let Some(completer) = Shells::builtins().completer(&shell.to_string()) {
        completer.write_registration(VARIABLE, NAME, NAME, NAME, &mut script)?;
    }
    Ok(script)
}

/// Stages and images of the recipe that the line names, and paths where one is begun.
pub(super) fn names(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(text) = current.to_str() else {
        return Vec::new();
    };
    let Outline { stages, images } = the_recipe();
    let candidate =
        |name: String, help: String| CompletionCandidate::new(name).help(Some(help.into()));
    let stages = stages.into_iter().map(|(kind, name)| candidate(name, kind));
    let images = images
        .into_iter()
        .map(|name| candidate(format!("image.{name}"), "image".to_owned()));
    let mut found: Vec<_> = stages
        .chain(images)
        .filter(|name| {
            name.get_value()
                .as_encoded_bytes()
                .starts_with(text.as_bytes())
        })
        .collect();
    if found.is_empty() || text.contains('/') || text.starts_with('.') {
        let named = |path: &Path| {
            let extension = path.extension().and_then(OsStr::to_str);
            path.is_dir() || extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
        };
        found.extend(PathCompleter::any().filter(named).complete(current));
    }
    found
}

/// The first word that is a recipe's path, or the current directory's recipe.
fn the_recipe() -> Outline {
    let words = WORDS.get().map(Vec::as_slice).unwrap_or_default();
    let values = words.iter().map(|word| {
        let text = word.to_str().unwrap_or_default();
        text.strip_prefix("--recipe=").unwrap_or(text)
    });
    let named = values.filter(|text| !text.is_empty() && !text.starts_with('-'));
    named
        .chain(["."])
        .find_map(|text| outline(Path::new(text)).filter(|outline| *outline != Outline::default()))
        .unwrap_or_default()
}
