//! Where an image's files go below `out/`, and the file of their sums.
//! Knows names and paths; what is in the files does not matter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use impasto_stages::Makes;
use impasto_stages::action::{Executor, SandboxRoot, Step};
use impasto_store::sha256::Sha256;

use super::has_directory;
use crate::engine::graph::{Graph, ImageNode, ImagePart, NodeId};
use crate::engine::run::ImageFacts;
use crate::recipe::{Image, ImageLayout};

/// The files that a stage makes in place of a disk, each with the extension of a form of its own. One has no name.
pub fn files(graph: &Graph, id: NodeId) -> Vec<(Option<String>, Option<&'static str>)> {
    let actions = &graph.node(id).lowered.actions;
    let steps = || actions.iter().flat_map(|action| &action.steps);
    let formats: Vec<_> = steps()
        .filter_map(|step| match step {
            Step::Convert { format, .. } => Some(*format),
            _ => None,
        })
        .collect();
    match &formats[..] {
        [] => {
            let last = actions.last().expect("BUG: a stage that does nothing");
            if last.executor == Executor::Sandbox(SandboxRoot::Scratch) {
                let names = last.outputs.keys();
                return names.map(|name| (Some(name.clone()), None)).collect();
            }
            let makes_tree = |step: &Step| {
                matches!(
                    step,
                    Step::Bootstrap { .. } | Step::Unpack { .. } | Step::FetchGit { .. }
                )
            };
            let is_tree =
                graph.node(id).kind.makes == Makes::Tree || last.steps.iter().any(makes_tree);
            let made = steps().find_map(|step| match step {
                Step::Archive { spec } => Some(impasto_stages::archive_extension(spec)),
                Step::Iso { .. } => Some("iso"),
                _ => None,
            });
            // What a stage of several files stands for keeps its name.
            let main = graph.node(id).kind.main_file().map(str::to_owned);
            vec![(main, made.or(is_tree.then_some("tar")))]
        }
        [format] => vec![(None, Some(format.extension()))],
        several => several
            .iter()
            .map(|format| (Some(format.file_name()), Some(format.extension())))
            .collect(),
    }
}

/// Where what an image lists goes: a stage that makes several files stands for all of them.
pub fn paths(
    graph: &Graph,
    image: &ImageNode,
    part: &ImagePart,
    out: &Path,
) -> Vec<(Option<String>, PathBuf)> {
    let dir = directory(image, out);
    let wanted = match &part.file {
        Some(file) => vec![(Some(file.to_string()), None)],
        None => files(graph, part.node),
    };
    let place = |(file, extension): (Option<String>, Option<&str>)| {
        let path = match (&part.name, extension, &part.file) {
            (Some(name), _, _) => dir.join(name),
            (None, _, Some(file)) => dir.join(&**file),
            (None, Some(extension), None) => {
                let dir = match image.text.layout {
                    ImageLayout::Directory => &dir,
                    ImageLayout::Standard | ImageLayout::Flat => out,
                };
                dir.join(format!("{}.{extension}", image.name))
            }
            (None, None, None) => dir.join(file.as_deref().unwrap_or(&graph.node(part.node).stage)),
        };
        (file, path)
    };
    wanted.into_iter().map(place).collect()
}

/// Where the files go that describe an image, in the order of [`Image::described`].
pub fn descriptions(image: &ImageNode, out: &Path) -> Vec<PathBuf> {
    let dir = directory(image, out);
    image.text.described().map(|name| dir.join(name)).collect()
}

fn directory(image: &ImageNode, out: &Path) -> PathBuf {
    match has_directory(image.text.layout) {
        true => out.join(&image.name),
        false => out.to_owned(),
    }
}

/// The sums of an image's files.
#[derive(Debug)]
pub(super) struct Sums(BTreeMap<PathBuf, Sha256>);

/// The sums of its files so far; none where no file of sums is wanted.
pub(super) fn sums(image: &Image, files: &[PathBuf], facts: &ImageFacts<'_>) -> Sums {
    let known = facts.files.iter().filter(|file| files.contains(&file.path));
    let wanted = known.filter(|_| image.checksums.is_some());
    Sums(
        wanted
            .map(|file| (file.path.clone(), file.sha256))
            .collect(),
    )
}

impl Sums {
    pub(super) fn add(&mut self, path: &Path, bytes: &[u8]) {
        self.0.insert(path.to_owned(), Sha256::of(bytes));
    }

    /// Lines that `sha256sum -c` reads in the directory of this file.
    pub(super) fn text(&self, at: &Path) -> String {
        let dir = at.parent().unwrap_or(Path::new("/"));
        let line = |(path, sum): (&PathBuf, &Sha256)| {
            format!("{sum}  {}\n", relative(path, dir).display())
        };
        self.0.iter().map(line).collect()
    }
}

/// A path as it is called from a directory.
pub(super) fn relative(path: &Path, dir: &Path) -> PathBuf {
    let shared = path
        .components()
        .zip(dir.components())
        .take_while(|(a, b)| a == b)
        .count();
    let up = dir.components().skip(shared).map(|_| Path::new(".."));
    let mut way: PathBuf = up.collect();
    way.extend(path.components().skip(shared));
    way
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_called_from_the_directory_of_the_sums() {
        let from = |path: &str, dir: &str| {
            relative(Path::new(path), Path::new(dir))
                .display()
                .to_string()
        };
        assert_eq!(from("/out/web/a", "/out/web"), "a");
        assert_eq!(from("/out/web.qcow2", "/out/web"), "../web.qcow2");
        assert_eq!(from("/out/web/d/a", "/out/web"), "d/a");
    }
}
