//! Images whose files appear together: they are held until all that an image needs is there, and its gate lets it pass.
//! Knows nodes, files and their sums; what an image may cost, and what is said of it, the gate decides.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use impasto_store::digest::Digest;
use impasto_store::sha256::Sha256;

use super::Engine;
use crate::base::io::IoError;
use crate::engine::cause::About;
use crate::engine::event::EventKind;
use crate::engine::graph::NodeId;
use crate::engine::job::JobError;
use crate::engine::plan::Hit;
use crate::engine::publish::{Draft, Published, SealedDraft, is_unchanged};
use crate::engine::schedule::TaskState;

/// An image whose files appear together.
#[derive(Debug, Clone)]
pub struct HeldImage {
    /// Its place in [`crate::engine::graph::Graph::images`].
    pub place: usize,
    /// How selectors call it.
    pub label: String,
    /// The nodes that it waits for.
    pub nodes: Vec<NodeId>,
    /// Its files.
    pub files: Vec<PathBuf>,
    /// Files that describe it, written after the others.
    pub descriptions: Vec<PathBuf>,
}

/// What is known of an image when all that it needs is there.
pub struct ImageFacts<'f> {
    pub image: &'f HeldImage,
    pub files: Vec<TargetFacts>,
    /// The result of a node that it needs.
    pub result: &'f dyn Fn(NodeId) -> &'f Hit,
    /// How long a node ran in this run; none where its result was found.
    pub ran: &'f dyn Fn(NodeId) -> Option<Duration>,
    /// Since the beginning of the command.
    pub elapsed: Duration,
}

/// A file that is written, under its name or soon.
#[derive(Debug, Clone)]
pub struct TargetFacts {
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: u64,
    pub sha256: Sha256,
}

/// What is said of an image.
#[derive(Debug, Default)]
pub struct Description {
    /// The content of [`HeldImage::descriptions`], in their order.
    pub files: Vec<Vec<u8>>,
    pub warnings: Vec<String>,
}

/// Why an image is not written.
#[derive(Debug)]
pub struct ImageRefusal {
    pub error: String,
    pub help: Option<String>,
}

/// What decides whether an image's files appear, and what is said of it.
pub trait ImageGate {
    /// Names all that the description is made of: while it is equal, so are the files that describe the image.
    fn digest(&self, facts: &ImageFacts<'_>) -> Digest;

    /// Decides, and describes.
    ///
    /// # Errors
    /// The image must not be written.
    fn describe(&self, facts: &ImageFacts<'_>) -> Result<Description, ImageRefusal>;
}

/// The images of a run, as far as they are.
#[derive(Debug, Default)]
pub(super) struct Images {
    /// Files that are written, and wait.
    held: HashMap<PathBuf, SealedDraft>,
    /// Those that are decided, by their place in the run's list.
    decided: Vec<bool>,
    /// How many were not written.
    pub(super) not_written: usize,
}

impl Images {
    pub(super) fn hold(&mut self, sealed: SealedDraft) {
        self.held.insert(sealed.path().to_owned(), sealed);
    }
}

impl Engine<'_> {
    /// A node is done: decides the images that waited for it alone.
    pub(super) fn look_at_images(&mut self, id: NodeId) {
        self.images.decided.resize(self.config.images.len(), false);
        for at in 0..self.config.images.len() {
            let image = &self.config.images[at];
            let done = |id: &NodeId| self.schedule.state(*id) == TaskState::Done;
            if !self.images.decided[at] && image.nodes.contains(&id) && image.nodes.iter().all(done)
            {
                self.images.decided[at] = true;
                let image = image.clone();
                self.decide(&image);
            }
        }
    }

    fn decide(&mut self, image: &HeldImage) {
        let outcome = self.describe(image);
        let (described, content) = match outcome {
            Ok(Some(described)) => described,
            Ok(None) => return self.tell_current(image),
            Err(ImageRefusal { error, help }) => {
                for path in &image.files {
                    self.images.held.remove(path);
                }
                return self.not_written(image, error, help);
            }
        };
        for warning in described.warnings {
            self.warn(None, format!("{}: {warning}", image.label));
        }
        let mut written = Vec::new();
        for path in &image.files {
            let sealed = self.images.held.remove(path);
            written.extend(sealed.map(|sealed| (path, sealed.publish())));
        }
        for (path, bytes) in image.descriptions.iter().zip(described.files) {
            let done = self.write_description(path, &bytes, content);
            written.push((path, done));
        }
        for (path, result) in written {
            match result {
                Ok(published) => self.tell_published(&published),
                Err(error) => {
                    self.host_failed = true;
                    self.stop();
                    let ImageRefusal { error, help } = self.refused("write", path, error, image);
                    return self.not_written(image, error, help);
                }
            }
        }
        if image.descriptions.is_empty() {
            self.planner.add_decision(&image.label, content);
        }
    }

    /// What the host did not let us do with a file, and what to do about it.
    fn refused(
        &self,
        verb: &'static str,
        path: &Path,
        error: io::Error,
        image: &HeldImage,
    ) -> ImageRefusal {
        let error: IoError = IoError::at(verb, path)(error);
        let error = JobError::Io(error);
        let help = self
            .config
            .hints
            .job(&error, &image.label, &About::default());
        let (message, causes, ..) = error.into_parts();
        let causes = causes.iter().map(|cause| format!(": {cause}"));
        ImageRefusal {
            error: message + &causes.collect::<String>(),
            help,
        }
    }

    /// What is to be said of an image, and what that was made of; none where all its files are there as they should be.
    fn describe(&self, image: &HeldImage) -> Result<Option<(Description, Digest)>, ImageRefusal> {
        let gate = self
            .config
            .gate
            .expect("BUG: an image is held without a gate");
        let mut files = Vec::with_capacity(image.files.len());
        for path in &image.files {
            files.push(self.file_facts(image, path)?);
        }
        let result = |id: NodeId| self.nodes[id].known();
        let ran = |id: NodeId| {
            let node = &self.nodes[id];
            node.built.then_some(node.ran)
        };
        let facts = ImageFacts {
            image,
            files,
            result: &result,
            ran: &ran,
            elapsed: self.start.elapsed(),
        };
        let digest = gate.digest(&facts);
        let held = image
            .files
            .iter()
            .any(|path| self.images.held.contains_key(path));
        let unchanged = |path: &PathBuf| {
            let written = self.planner.published(path);
            written.is_some_and(|written| is_unchanged(path, &digest, written))
        };
        let current = match image.descriptions.as_slice() {
            [] => self.planner.decision(&image.label) == Some(digest),
            descriptions => descriptions.iter().all(unchanged),
        };
        if !held && current {
            return Ok(None);
        }
        gate.describe(&facts)
            .map(|described| Some((described, digest)))
    }

    fn file_facts(&self, image: &HeldImage, path: &Path) -> Result<TargetFacts, ImageRefusal> {
        let (size, sha256) = match (self.images.held.get(path), self.planner.published(path)) {
            (Some(sealed), _) => {
                let size = sealed.size();
                let size = size.map_err(|error| self.refused("examine", path, error, image))?;
                (size, sealed.sha256())
            }
            (None, Some(written)) => (written.size, written.sha256),
            (None, None) => panic!("BUG: {} was not written", path.display()),
        };
        let path = path.to_owned();
        Ok(TargetFacts { path, size, sha256 })
    }

    fn write_description(
        &self,
        path: &Path,
        bytes: &[u8],
        content: Digest,
    ) -> io::Result<Published> {
        let draft = Draft::new(path, self.planner.store().owner())?;
        draft.file().write_all(bytes)?;
        let sha256 = Sha256::of(bytes);
        draft.seal(content, sha256, 0o644)?.publish_alone()
    }

    /// The files of an image that had not to be written.
    fn tell_current(&mut self, image: &HeldImage) {
        for path in &image.descriptions {
            let Some(file) = self.planner.published(path) else {
                continue;
            };
            let kind = EventKind::Published {
                path: path.clone(),
                bytes: file.size,
                sha256: file.sha256,
                written: false,
            };
            self.emit(kind);
        }
    }

    fn not_written(&mut self, image: &HeldImage, error: String, help: Option<String>) {
        self.images.not_written += 1;
        let image = image.label.clone();
        self.emit(EventKind::ImageNotWritten { image, error, help });
    }

    /// Tells which images were not written because of what failed.
    pub(super) fn end_images(&mut self) {
        if self.interrupted || self.host_failed {
            return;
        }
        self.images.decided.resize(self.config.images.len(), false);
        let open = (0..self.config.images.len()).filter(|at| !self.images.decided[*at]);
        let open: Vec<HeldImage> = open.map(|at| self.config.images[at].clone()).collect();
        for image in open {
            let in_state = |wanted: TaskState| {
                let mut ids = image.nodes.iter().copied();
                ids.find(|id| self.schedule.state(*id) == wanted)
            };
            let error = match (in_state(TaskState::Failed), in_state(TaskState::Cancelled)) {
                (Some(id), _) => format!("{} failed", self.label(id)),
                (None, Some(id)) => format!("{} did not run", self.label(id)),
                (None, None) => continue,
            };
            self.not_written(&image, error, None);
        }
    }
}
