//! Trees of files that come from elsewhere: what a language's lock names, and package files with their index.
//! Knows the store and the downloader; what a lock means and where its files are is `source`'s.
//!
//! Each file that a lock names is kept with a claim of its own, so that a lock that changed has only new files fetched.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use impasto_stages::action::{Action, Bound, Executor, Step};
use impasto_stages::vendor::VendorSpec;
use impasto_store::blob::BlobRef;
use impasto_store::claim::{FileContent, OutputFile, Outputs};

use super::{Job, JobError, JobInput, JobOutput, create, install};
use crate::base::bounded;
use crate::base::host::Host;
use crate::debian::packages::files;
use crate::engine::inputs::{Input, copy_file};
use crate::net::{Download, DownloadCause, Downloader, Options};
use crate::source::tree::{TreeBuilder, TreeContent};
use crate::source::vendor::{self, VendorError, VendorHost, VendorItem};

/// What a tree is called among its node's files.
const NAME: &str = "tree.tar";

/// Bytes of a page of an index, which the downloader has counted already.
const MOST_PAGE: u64 = 64 << 20;

impl Job {
    /// The packages of an Action as a tree: package files, and an index of them.
    pub(super) fn debs(&self, action: &Action<Bound>) -> Result<JobOutput, JobError> {
        let set = action
            .packages
            .as_ref()
            .expect("BUG: package files without packages");
        let scratch = self.store.scratch()?;
        let dir = scratch.path().join(install::TREE);
        self.phase("get the packages", || self.lay_out_packages(set, &dir))?;
        let mut tree = TreeBuilder::new();
        let names = set.install.iter().map(files::file_name);
        for name in names.chain(["Packages".to_owned()]) {
            let content = TreeContent::File(dir.join(&name));
            tree.file(&name, 0o644, content)
                .map_err(VendorError::from)?;
        }
        self.store_tree(tree, scratch.path())
    }

    /// The files that a lock names, as a tree.
    pub(super) fn vendored(
        &self,
        action: &Action<Bound>,
        lock: &str,
        spec: &VendorSpec,
    ) -> Result<JobOutput, JobError> {
        let (path, text) = self.lock_text(lock)?;
        let items = vendor::read(spec, &path, &text)?;
        let scratch = self.store.scratch()?;
        let mut found = Vec::with_capacity(items.len());
        for item in &items {
            found.push(self.known_file(item)?);
        }
        let missing: Vec<_> = items
            .iter()
            .zip(&found)
            .filter(|(_, found)| found.is_none())
            .map(|(item, _)| item)
            .collect();
        let fetched = if missing.is_empty() {
            Vec::new()
        } else {
            self.fetch_items(action, spec, &missing, scratch.path())?
        };
        let mut fetched = fetched.into_iter();
        let mut tree = TreeBuilder::new();
        self.phase("lay out the files", || {
            for (place, (item, found)) in items.iter().zip(found).enumerate() {
                let file = found.or_else(|| fetched.next());
                let (name, blob) = file.expect("BUG: a file that was neither known nor fetched");
                let path = scratch.path().join(format!("file-{place}"));
                files::write(&self.store, &blob, &path).map_err(Self::missed(self.id))?;
                vendor::add(&mut tree, item, &name, path, scratch.path())?;
            }
            Ok::<_, JobError>(vendor::finish(spec, &mut tree, &items)?)
        })?;
        self.store_tree(tree, scratch.path())
    }

    /// What messages call the lock, and its text.
    fn lock_text(&self, lock: &str) -> Result<(String, String), JobError> {
        let input = self.inputs.iter().find(|(name, _)| name == lock);
        let Some((_, JobInput::Local { path, input, scope })) = input else {
            panic!("BUG: a lock that is not a file of the user's")
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{}{name}", self.context.dir);
        let refused = |problem: &str| VendorError::Lock {
            lock: name.clone(),
            problem: problem.to_owned(),
            help: "name a lock file".to_owned(),
        };
        let Input::File(planned) = input else {
            return Err(refused("it is a directory").into());
        };
        if planned.blob.size > bounded::TEXT {
            return Err(refused("it is too large for a lock").into());
        }
        let mut bytes = Vec::new();
        copy_file(scope, path, &mut bytes, planned.blob.digest)?;
        let text = String::from_utf8(bytes).map_err(|_| refused("it is not text"))?;
        Ok((name, text))
    }

    /// A file that was fetched before: its name, and the blob.
    fn known_file(&self, item: &VendorItem) -> Result<Option<(String, BlobRef)>, JobError> {
        for claim in self.store.lookup(&item_action(item).digest())? {
            for (name, file) in claim.result.files {
                if let FileContent::Blob(blob) = file.content
                    && self.store.has_blob(&blob.digest)?
                {
                    return Ok(Some((name, blob)));
                }
            }
        }
        Ok(None)
    }

    /// Gets files, each in the place of its item.
    fn fetch_items(
        &self,
        action: &Action<Bound>,
        spec: &VendorSpec,
        items: &[&VendorItem],
        scratch: &Path,
    ) -> Result<Vec<(String, BlobRef)>, JobError> {
        let host = Host::read().map_err(|error| VendorError::Settings {
            problem: error.to_string(),
            help: error.help().unwrap_or_default(),
        })?;
        let host = VendorHost::new(host);
        let options = Options {
            timeout: action.hints.timeout,
            authorities: host.authorities(),
            meter: Some(self.meter.clone()),
            ..Options::default()
        };
        let (proxies, cancel) = ((self.context.proxies)(), &self.context.cancel);
        let downloader = Downloader::new(&proxies, scratch, cancel, options)?;
        let mut pages = |wanted: Vec<Download>| get_pages(&downloader, wanted);
        let located = self.phase("ask the index", || {
            vendor::locate(spec, items, &host, &mut pages)
        });
        let (names, wanted): (Vec<_>, Vec<_>) = located?
            .into_iter()
            .map(|file| (file.name, file.download))
            .unzip();
        let begun = Instant::now();
        let mut blobs: Vec<Option<Result<BlobRef, JobError>>> =
            names.iter().map(|_| None).collect();
        let mut done = |place: usize, path: &Path| {
            let keep = || self.keep_item(items[place], &names[place], path);
            blobs[place] = Some(keep());
        };
        let got = downloader.get(wanted, &mut done, &mut |_, _| {});
        self.phase_was("download", begun, Instant::now());
        if let Some((_, error)) = got.err().and_then(|failed| failed.into_iter().next()) {
            return Err(VendorError::from(error).into());
        }
        let blobs = blobs
            .into_iter()
            .map(|blob| blob.expect("BUG: neither a file nor an error"));
        names
            .iter()
            .cloned()
            .zip(blobs)
            .map(|(name, blob)| Ok((name, blob?)))
            .collect()
    }

    /// Takes a verified file into the store, to be found again by what decides which file it is.
    fn keep_item(&self, item: &VendorItem, name: &str, path: &Path) -> Result<BlobRef, JobError> {
        let file = bounded::open(path).map_err(JobError::io("open", path))?;
        let blob = self.store.put_blob(io::BufReader::new(file))?;
        let names = (item.name.as_str(), name);
        files::keep_blob(
            &self.store,
            &item_action(item),
            names,
            blob,
            self.context.now,
        )?;
        Ok(blob)
    }

    /// Takes a tree into the store.
    fn store_tree(&self, tree: TreeBuilder, scratch: &Path) -> Result<JobOutput, JobError> {
        let path = scratch.join(NAME);
        let store = || -> Result<BlobRef, JobError> {
            let mut file = io::BufWriter::new(create(&path)?);
            tree.write(&mut file)
                .and_then(|()| file.flush())
                .map_err(JobError::io("write", &path))?;
            drop(file);
            let file = bounded::open(&path).map_err(JobError::io("open", &path))?;
            let previous = self.previous_tree();
            Ok(self
                .store
                .put_blob_like(io::BufReader::new(file), previous.as_ref())?)
        };
        let archive = self.phase("store the tree", store)?;
        let result = Outputs {
            files: BTreeMap::from([(NAME.to_owned(), OutputFile::tree(archive))]),
            ..Outputs::default()
        };
        Ok(JobOutput::on_host(result, archive.size))
    }

    /// What this stage made last, with which the new tree shares what it can.
    fn previous_tree(&self) -> Option<impasto_store::digest::BlobDigest> {
        let (action, claim) = self.previous.first()?;
        let claim = self.store.claim(action, claim).ok()?;
        match claim.result.files.get(NAME)?.content {
            FileContent::Blob(blob) => Some(blob.digest),
            FileContent::Derived(_) => None,
        }
    }
}

/// The Action that gets one file that a lock names.
fn item_action(item: &VendorItem) -> Action<Bound> {
    let mut action = Action::new("vendored", 1, Executor::Host);
    let what = item.key.clone();
    action.steps.push(Step::Vendored { what });
    action
}

/// Gets pages of an index; none for those that the server does not have.
fn get_pages(
    downloader: &Downloader,
    wanted: Vec<Download>,
) -> Result<Vec<Option<Vec<u8>>>, VendorError> {
    let mut found: Vec<Option<io::Result<Vec<u8>>>> = wanted.iter().map(|_| None).collect();
    let mut done = |place: usize, path: &Path| found[place] = Some(bounded::read(path, MOST_PAGE));
    let got = downloader.get(wanted, &mut done, &mut |_, _| {});
    let failed = got.err().unwrap_or_default();
    let is_gone = |cause: &DownloadCause| matches!(cause, DownloadCause::Gone { .. });
    if let Some((_, error)) = failed.into_iter().find(|(_, error)| !is_gone(&error.cause)) {
        return Err(error.into());
    }
    let read = |page: Option<io::Result<Vec<u8>>>| {
        page.transpose()
            .map_err(crate::base::io::IoError::at("read", "a page of the index"))
    };
    found.into_iter().map(read).collect()
}

impl From<VendorError> for JobError {
    fn from(error: VendorError) -> Self {
        match error {
            VendorError::Download(error) if matches!(error.cause, DownloadCause::Cancelled) => {
                JobError::Cancelled
            }
            VendorError::Io(error) => JobError::Io(error),
            other => JobError::Vendor(other),
        }
    }
}
