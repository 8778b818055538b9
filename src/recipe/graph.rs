//! How the stages of one combination fit together: dropped ones, disks and files, cycles, names of images.
//! Knows references; evaluates nothing.

use std::collections::HashMap;
use std::sync::Arc;

use impasto_stages::Makes;

use super::check::{Need, Reference};
use super::diagnostic::Diagnostic;
use super::image::BuiltImage;
use super::stage::{StageState, StageText};
use super::suggest::did_you_mean;

/// One combination's stages, by number of their text.
pub(super) struct Fit<'g> {
    pub(super) texts: &'g [StageText],
    pub(super) numbers: &'g HashMap<Arc<str>, u32>,
    pub(super) states: &'g [StageState],
    pub(super) diagnostics: &'g mut Vec<Diagnostic>,
}

impl Fit<'_> {
    /// Checks all references, and that they lead in no cycle.
    pub(super) fn run(&mut self, images: &[Arc<BuiltImage>]) {
        for (text, state) in self.texts.iter().zip(self.states) {
            let references: &[Reference] = match state {
                StageState::Ready(built) => &built.references,
                StageState::Failed(references) => references,
                StageState::Dropped(_) => &[],
            };
            for reference in references {
                self.reference(reference, false, &|| format!("the stage `{}`", text.name));
            }
        }
        for built in images {
            for reference in &built.references {
                self.reference(reference, true, &|| format!("the image `{}`", built.label));
            }
        }
        self.cycles();
    }

    fn target(&self, name: &str) -> Option<usize> {
        self.numbers.get(name).map(|number| *number as usize)
    }

    /// Checks one reference; an image may have all the files that a stage makes.
    fn reference(&mut self, reference: &Reference, many: bool, owner: &dyn Fn() -> String) {
        let Reference { stage, need, span } = reference;
        let Some(target) = self.target(stage) else {
            return;
        };
        let there = self.texts[target].head;
        let built = match &self.states[target] {
            StageState::Ready(built) => built,
            StageState::Failed(_) => return,
            StageState::Dropped(when) => {
                let owner = owner();
                let diagnostic = Diagnostic::at(*span, format!("{owner} needs the stage `{stage}`, which is dropped"))
                    .also(*when, "here its `when` is false")
                    .help(format!(
                        "give {owner} the same `when`, or use a conditional: `from = CONDITION ? stage.{stage} : \
                         stage.OTHER`"
                    ));
                self.diagnostics.push(diagnostic);
                return;
            }
        };
        let Some(kind) = self.texts[target].kind else {
            return;
        };
        let params = &built.stage.params;
        let made = kind.made(params);
        let files = kind.named_files(params);
        match need {
            Need::Disk if made.disk() => {}
            Need::Disk => {
                let message = format!("a disk is needed, but `{stage}` makes a file");
                let diagnostic = Diagnostic::at(*span, message)
                    .also(there, format!("`{}` makes a file", kind.name))
                    .help("build on the stage that its disk comes from");
                self.diagnostics.push(diagnostic);
            }
            Need::File
                if made == Makes::File
                    && !many
                    && kind.main_file().is_none()
                    && files.iter().flatten().count() > 1 =>
            {
                let first = files.iter().flatten().next().map_or("", String::as_str);
                let message = format!("a file is needed, but `{stage}` makes several");
                let diagnostic = Diagnostic::at(*span, message).also(there, "this stage");
                let help = format!("name one of them: `stage.{stage}.files[{first:?}]`");
                self.diagnostics.push(diagnostic.help(help));
            }
            Need::Success => {}
            Need::File if made.file() => {}
            Need::File => {
                let message = format!("a file is needed, but `{stage}` makes a disk");
                let mut diagnostic = Diagnostic::at(*span, message)
                    .also(there, format!("`{}` makes a disk", kind.name));
                if let Some(first) = files.iter().flatten().next() {
                    diagnostic = diagnostic.help(format!(
                        "for a file that it made: `stage.{stage}.files[{first:?}]`"
                    ));
                }
                let help = "to get the disk as a file, add a stage of kind `convert` and use that";
                self.diagnostics.push(diagnostic.help(help));
            }
            Need::Named(name) => {
                let known = files.unwrap_or_default();
                if known.iter().any(|file| **file == **name) {
                    return;
                }
                let message = format!("the stage `{stage}` makes no file {:?}", &**name);
                let diagnostic = Diagnostic::at(*span, message).also(there, "this stage");
                let help = if known.is_empty() && made == Makes::File {
                    Some(format!("it makes one file: `stage.{stage}`"))
                } else if known.is_empty() && kind.param("output").is_some() {
                    Some(format!(
                        "list it there: `output = {{ {:?} = \"/path/in/the/image\" }}`",
                        &**name
                    ))
                } else if known.is_empty() {
                    Some(format!("`{}` makes no named files", kind.name))
                } else {
                    did_you_mean("its `output` has", name, known.iter().map(String::as_str))
                };
                self.diagnostics.push(diagnostic.maybe_help(help));
            }
        }
    }

    /// Finds cycles without recursion: a chain of stages may be long.
    fn cycles(&mut self) {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.texts.len()];
        for start in 0..self.texts.len() {
            if marks[start] != Mark::New {
                continue;
            }
            // Each stage of the path with the number of the reference to follow next.
            let mut path: Vec<(usize, usize)> = vec![(start, 0)];
            marks[start] = Mark::Open;
            while let Some((at, next)) = path.last_mut() {
                let StageState::Ready(built) = &self.states[*at] else {
                    marks[*at] = Mark::Done;
                    path.pop();
                    continue;
                };
                let Some(reference) = built.references.get(*next) else {
                    marks[*at] = Mark::Done;
                    path.pop();
                    continue;
                };
                *next += 1;
                let Some(target) = self.target(&reference.stage) else {
                    continue;
                };
                match marks[target] {
                    Mark::New => {
                        marks[target] = Mark::Open;
                        path.push((target, 0));
                    }
                    Mark::Open => {
                        let from = path
                            .iter()
                            .position(|(stage, _)| *stage == target)
                            .unwrap_or(0);
                        let diagnostic = self.cycle(&path[from..]);
                        self.diagnostics.push(diagnostic);
                    }
                    Mark::Done => {}
                }
            }
        }
    }

    fn cycle(&self, path: &[(usize, usize)]) -> Diagnostic {
        // The cycle begins with its first stage in the text, wherever it was found.
        let first = path
            .iter()
            .enumerate()
            .min_by_key(|(_, (stage, _))| self.texts[*stage].head)
            .map_or(0, |(at, _)| at);
        let path: Vec<_> = path[first..].iter().chain(&path[..first]).collect();
        let mut names: Vec<&str> = path
            .iter()
            .map(|(stage, _)| &*self.texts[*stage].name)
            .collect();
        names.extend(names.first().copied());
        let mut spans = path
            .iter()
            .filter_map(|(stage, next)| match &self.states[*stage] {
                StageState::Ready(built) => built
                    .references
                    .get(next - 1)
                    .map(|reference| reference.span),
                _ => None,
            });
        let message = match path.len() {
            1 => format!("the stage `{}` depends on itself", names[0]),
            _ => format!("dependency cycle: {}", names.join(" -> ")),
        };
        let mut diagnostic = Diagnostic::at(spans.next().unwrap_or_default(), message);
        for (name, span) in names[1..].iter().zip(spans).take(8) {
            diagnostic = diagnostic.also(span, format!("`{name}` depends on this"));
        }
        diagnostic.help("remove one of these references")
    }
}
