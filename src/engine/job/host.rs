//! Actions of the host: our own code takes files in, fetches and converts.
//! Knows the store; runs nothing of the recipe's.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use impasto_stages::action::{Action, Bound, Format, ImportAs, Step};
use impasto_store::Error as StoreError;
use impasto_store::claim::{FileContent, OutputFile, Outputs};
use impasto_store::convert::{ConvertOptions, ConvertTarget, Converted};
use impasto_store::derived::{DerivedKey, DerivedRecord, DerivedRef};
use impasto_store::layer::DiskRef;
use impasto_store::meter::Metered;
use impasto_store::qcow2::{ChunkSource, Qcow2, RawFile};
use impasto_store::sha256::Sha256;

use super::{Job, JobError, JobInput, JobOutput, create};
use crate::base::bounded;
use crate::debian::packages::files;
use crate::disk::image::{self, ImageKind};
use crate::disk::packed::{ImageUnpackError, ImageUnpacker};
use crate::engine::graph::NodeId;
use crate::engine::inputs::{Input, copy_file};
use crate::engine::publish::{Draft, Target};
use crate::net::{
    Checksum, Download, DownloadCause, Downloader, Expected, Options, Place, Redirects,
};
use crate::source::archive::TreePart;
use crate::source::git::GitPart;

/// A server of images may have to fetch a file itself before it sends the first byte.
const SILENCE: Duration = Duration::from_secs(60);

/// Bytes of a file that is fetched, at most: a server that never ends must not fill the disk for ever.
const MOST: u64 = 1 << 40;

impl Job {
    pub(super) fn on_host(&self, action: &Action<Bound>) -> Result<JobOutput, JobError> {
        let [step, ..] = action.steps.as_slice() else {
            panic!("BUG: the host has nothing to do")
        };
        match step {
            Step::Import { input, as_a } => {
                if let Some(Step::Unpack {
                    strip,
                    subdirectory,
                }) = action.steps.get(1)
                {
                    let part = TreePart {
                        strip: *strip,
                        subdirectory: subdirectory.clone(),
                    };
                    if let Some(made) = self.take_in_directory(input, &part)? {
                        return Ok(made);
                    }
                }
                let Some((
                    _,
                    JobInput::Local {
                        path,
                        input: Input::File(planned),
                        scope,
                    },
                )) = self.inputs.iter().find(|(name, _)| name == input)
                else {
                    let reason = "it is a directory".to_owned();
                    return Err(JobError::NoDisk {
                        what: format!("the input of {}", self.label),
                        reason,
                    });
                };
                let scratch = self.store.scratch()?;
                let copy = scratch.path().join("import");
                let mut file = create(&copy)?;
                self.store.reserve(planned.blob.size)?;
                self.meter.begin("copying", Some(planned.blob.size));
                let mut copied = Metered::new(&mut file, &self.meter);
                self.phase("copy the input", || {
                    copy_file(scope, path, &mut copied, planned.blob.digest)
                })?;
                let name = path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                self.take_in(action, file, &name, planned.mode, *as_a)
            }
            Step::Fetch { sha256, as_a } => self.fetch(action, *sha256, *as_a),
            Step::FetchGit {
                commit,
                subdirectory,
                submodules,
            } => {
                let part = GitPart {
                    subdirectory: subdirectory.clone(),
                    submodules: *submodules,
                };
                self.fetch_git(action, commit, &part)
            }
            Step::Convert { .. } => self.convert(action),
            Step::Debs => self.debs(action),
            Step::Vendor { lock, spec } => self.vendored(action, lock, spec),
            Step::Initramfs { spec } => self.ramdisk(action, spec),
            Step::Archive { spec } => self.archive(action, spec),
            Step::Iso { spec } => self.iso(action, spec),
            Step::Script { .. }
            | Step::ShowRoot
            | Step::WorkIn { .. }
            | Step::Vendored { .. }
            | Step::Command { .. }
            | Step::CopyIn { .. }
            | Step::WriteFile { .. }
            | Step::Bootstrap { .. }
            | Step::AssembleDisk { .. }
            | Step::Resize { .. }
            | Step::Test { .. }
            | Step::TestReport { .. }
            | Step::Unpack { .. } => {
                panic!("BUG: a step for a sandbox was sent to the host")
            }
        }
    }

    /// Gets a file by its checksum, and takes it in.
    fn fetch(
        &self,
        action: &Action<Bound>,
        sha256: Sha256,
        as_a: ImportAs,
    ) -> Result<JobOutput, JobError> {
        if let Some(blob) = files::find(&self.store, sha256)? {
            // It came when it was locked.
            let mut file = tempfile::tempfile_in(self.store.scratch()?.path())
                .map_err(JobError::io("write", Path::new("a downloaded file")))?;
            let copied = self.phase("copy the download", || {
                io::copy(&mut self.store.open_blob(&blob.digest)?, &mut file).map_err(|source| {
                    StoreError::Io {
                        verb: "write",
                        path: "a downloaded file".into(),
                        source,
                    }
                })
            });
            // What is gone or damaged is got again.
            match copied.map(drop) {
                Ok(()) => return self.take_in(action, file, "what was downloaded", 0o644, as_a),
                Err(error) => error.into_miss().map(drop)?,
            }
        }
        let mut places = Vec::new();
        for url in &action.hints.urls {
            places.push(Place::url(url).ok_or_else(|| JobError::NoUrl {
                // What stands before may hold a password.
                url: url.rsplit('@').next().unwrap_or(url).to_owned(),
            })?);
        }
        let url = places.first().expect("BUG: nowhere to fetch from").shown();
        let scratch = self.store.scratch()?;
        let options = Options {
            stall: SILENCE,
            timeout: action.hints.timeout,
            redirects: action
                .hints
                .redirects
                .clone()
                .map_or(Redirects::Anywhere, Redirects::Hosts),
            ..Options::default()
        };
        let downloader = Downloader::new(
            &(self.context.proxies)(),
            scratch.path(),
            &self.context.cancel,
            options,
        )?;
        let wanted = Download {
            name: None,
            expected: Expected::hashed(Checksum::Sha256(sha256), MOST),
            places,
        };
        let begun = Instant::now();
        let (mut file, mut total, mut before) = (None, None, 0);
        let got = downloader.get(
            vec![wanted],
            // The downloader removes it after the call; what is open stays.
            &mut |_, path| file = Some((bounded::open(path), path.to_owned())),
            &mut |bytes, announced| {
                if total != Some(announced) {
                    let known = (announced > 0).then_some(announced);
                    self.meter.begin("download", known);
                    (total, before) = (Some(announced), 0);
                }
                self.meter.change(bytes as i64 - before as i64);
                before = bytes;
            },
        );
        self.phase_was("download", begun, Instant::now());
        let failed = got.err().and_then(|failed| failed.into_iter().next());
        match failed {
            Some((_, error)) if matches!(error.cause, DownloadCause::Cancelled) => {
                return Err(JobError::Cancelled);
            }
            Some((_, error)) => return Err(JobError::Fetch(error)),
            None => {}
        }
        let (file, path) = file.expect("BUG: neither a file nor an error");
        let file = file.map_err(JobError::io("open", &path))?;
        self.take_in(action, file, &url, 0o644, as_a)
    }

    /// Takes a file of ours into the store: as a disk where it is one.
    fn take_in(
        &self,
        action: &Action<Bound>,
        file: File,
        name: &str,
        mode: u32,
        as_a: ImportAs,
    ) -> Result<JobOutput, JobError> {
        if let Some(Step::Unpack {
            strip,
            subdirectory,
        }) = action.steps.get(1)
        {
            let part = TreePart {
                strip: *strip,
                subdirectory: subdirectory.clone(),
            };
            return self.take_in_tree(file, name, &part);
        }
        let io = JobError::io("read", Path::new(name));
        let image = image::recognize(&file).map_err(io)?;
        // Compressed files are of many kinds: one is a disk where the recipe says so.
        let (file, image) = match as_a {
            ImportAs::Disk => self.unpacked(file, image, name)?,
            ImportAs::Auto | ImportAs::File => (file, image),
        };
        let clone = |file: &File| {
            file.try_clone()
                .map_err(JobError::io("read", Path::new(name)))
        };
        let what = || format!("`{name}`");
        let refused = |format, source| JobError::Format {
            what: what(),
            format,
            source,
        };
        let source: Option<Box<dyn ChunkSource>> = match (as_a, image) {
            (ImportAs::File, _) => None,
            (_, ImageKind::Qcow2) => {
                let gate = |source| JobError::Gate {
                    what: what(),
                    source: Box::new(source),
                };
                Some(Box::new(Qcow2::open(clone(&file)?).map_err(gate)?))
            }
            (_, ImageKind::Raw) => {
                let reason = |error: std::io::Error| JobError::NoDisk {
                    what: what(),
                    reason: error.to_string(),
                };
                Some(Box::new(RawFile::new(clone(&file)?).map_err(reason)?))
            }
            // A qcow2 to one program and an ISO to the next is nobody's honest file.
            (_, ImageKind::Other(format @ image::ForeignFormat::Polyglot)) => {
                return Err(refused(format, None));
            }
            (_, ImageKind::Other(format)) => {
                let opened = format
                    .readable()
                    .map(|readable| clone(&file).map(|file| readable.open(file)));
                match (opened.transpose()?, as_a) {
                    (Some(Ok(source)), _) => Some(source),
                    (Some(Err(reason)), ImportAs::Disk) => {
                        return Err(refused(format, Some(Box::new(reason))));
                    }
                    (None, ImportAs::Disk) => return Err(refused(format, None)),
                    (_, _) => None,
                }
            }
            (ImportAs::Auto, ImageKind::Iso | ImageKind::Unknown) => None,
            (ImportAs::Disk, ImageKind::Iso | ImageKind::Unknown) => {
                let reason = "it has no qcow2 header, no partition table and no file system that impasto knows";
                return Err(JobError::NoDisk {
                    what: what(),
                    reason: reason.to_owned(),
                });
            }
        };
        let Some(source) = source else {
            return self.store_file(file, name, mode);
        };
        let kept = self.keep(action, &*source, None)?;
        let result = Outputs {
            disk: Some(kept.disk),
            tree: Some(kept.tree),
            ..Outputs::default()
        };
        Ok(JobOutput {
            same_as: kept.same_as,
            ..JobOutput::on_host(result, kept.stored_bytes)
        })
    }

    /// What a compressed file holds, and what that is.
    fn unpacked(
        &self,
        file: File,
        image: ImageKind,
        name: &str,
    ) -> Result<(File, ImageKind), JobError> {
        let scratch = self.store.scratch()?;
        let unpacker = ImageUnpacker {
            dir: scratch.path(),
            limit: self.context.unpack_limit,
            cancel: &self.context.cancel,
            meter: Some(&self.meter),
        };
        let unpacked = self.phase("unpack", || image::unpacked(file, image, &unpacker));
        unpacked.map_err(|source| match source {
            ImageUnpackError::Cancelled => JobError::Cancelled,
            source => JobError::Unpack {
                what: format!("`{name}`"),
                source,
            },
        })
    }

    /// Keeps a file of ours that is no disk.
    fn store_file(&self, mut file: File, name: &str, mode: u32) -> Result<JobOutput, JobError> {
        file.seek(SeekFrom::Start(0))
            .map_err(JobError::io("read", Path::new(name)))?;
        self.meter
            .begin("storing", file.metadata().ok().map(|stat| stat.len()));
        let reader = Metered::new(&mut file, &self.meter);
        let blob = self.phase("store the file", || self.store.put_blob(reader))?;
        let file = OutputFile {
            content: FileContent::Blob(blob),
            mode,
        };
        // Under one name always: what the file was called is in no key.
        let files = BTreeMap::from([("file".to_owned(), file)]);
        let result = Outputs {
            files,
            ..Outputs::default()
        };
        Ok(JobOutput::on_host(result, blob.size))
    }

    /// Writes the disk in each format that the Action names: straight to where the user wants it, else nowhere for good.
    fn convert(&self, action: &Action<Bound>) -> Result<JobOutput, JobError> {
        let (from, disk) = self.disk.expect("BUG: nothing to convert");
        let formats: Vec<_> = action.steps.iter().filter_map(format_of).collect();
        let scratch = self.store.scratch()?;
        let mut made = Vec::with_capacity(formats.len());
        for (format, level) in &formats {
            let target = self.targets.iter().find(|target| match &target.file {
                Some(name) => *name == format.file_name(),
                None => formats.len() == 1,
            });
            let place = match target {
                Some(target) => {
                    let path = &target.path;
                    let draft = Draft::new(path, self.store.owner());
                    ConvertPlace::Out(
                        target,
                        Box::new(draft.map_err(JobError::io("write", path))?),
                    )
                }
                None => ConvertPlace::Scratch(create(&scratch.path().join(format.file_name()))?),
            };
            made.push((format.key(disk.layer.disk, *level), place));
        }
        let wanted = made.iter().map(|(key, place)| (key, place.file()));
        let records = self.write_derived(from, &disk, &wanted.collect::<Vec<_>>())?;
        let mut result = Outputs::default();
        let mut written = Vec::new();
        self.meter.begin("syncing", None);
        for (((_, place), record), (format, _)) in made.into_iter().zip(records).zip(&formats) {
            if let ConvertPlace::Out(target, draft) = place {
                let (content, sha256) = (record.digest.0, record.sha256);
                written.push(Self::close_draft(target, *draft, content, sha256, 0o644)?);
            }
            self.store.put_derived(&record)?;
            let derived = DerivedRef {
                key: record.key,
                digest: record.digest,
                size: record.size,
            };
            let file = OutputFile {
                content: FileContent::Derived(derived),
                mode: 0o644,
            };
            result.files.insert(format.file_name(), file);
        }
        Ok(JobOutput {
            written,
            ..JobOutput::on_host(result, 0)
        })
    }

    /// Writes what each key describes into its file, which is empty: all while the disk is read once.
    pub(super) fn write_derived(
        &self,
        from: NodeId,
        disk: &DiskRef,
        wanted: &[(&DerivedKey, &File)],
    ) -> Result<Vec<DerivedRecord>, JobError> {
        let path = Path::new("the converted file");
        let begun = Instant::now();
        let mut targets = Vec::with_capacity(wanted.len());
        for (key, file) in wanted {
            let (format, level) = Format::of(key).ok_or_else(|| JobError::Bug {
                message: format!("a converted file is of an unknown format: {}", key.format),
            })?;
            targets.push(ConvertTarget {
                format,
                level,
                file,
                path,
            });
        }
        let options = ConvertOptions {
            fsync: false,
            digest: true,
            sha256: true,
        };
        let converted = self.store.convert(&disk.layer, &targets, options);
        self.phase_was("convert", begun, Instant::now());
        let converted = converted.map_err(Self::missed(from))?;
        let record = |(converted, (key, _)): (Converted, &(&DerivedKey, &File))| {
            let sums = converted.digest.zip(converted.sha256);
            let (digest, sha256) = sums.expect("BUG: asked for");
            DerivedRecord {
                key: (*key).clone(),
                digest,
                sha256,
                size: converted.length,
            }
        };
        Ok(converted.into_iter().zip(wanted).map(record).collect())
    }

    /// Makes one file again.
    pub(super) fn write_again(
        &self,
        from: NodeId,
        disk: &DiskRef,
        derived: &DerivedRef,
        file: &File,
    ) -> Result<(), JobError> {
        let records = self.write_derived(from, disk, &[(&derived.key, file)])?;
        Self::expect_same(derived, &records[0])
    }
}

/// Where a converted file is written.
enum ConvertPlace<'t> {
    /// To what the user gets.
    Out(&'t Target, Box<Draft>),
    /// Only for its digests.
    Scratch(File),
}

impl ConvertPlace<'_> {
    fn file(&self) -> &File {
        match self {
            ConvertPlace::Out(_, draft) => draft.file(),
            ConvertPlace::Scratch(file) => file,
        }
    }
}

fn format_of(step: &Step) -> Option<(Format, Option<i32>)> {
    match step {
        Step::Convert { format, level, .. } => Some((*format, *level)),
        _ => None,
    }
}
