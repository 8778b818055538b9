//! Actions of the host: our own code takes files in, fetches and converts.
//! Knows the store; runs nothing of the recipe's.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use impasto_stages::action::{Action, Bound, Format, ImportAs, Step};
use impasto_store::claim::{FileContent, OutputFile, Outputs};
use impasto_store::convert::ConvertOptions;
use impasto_store::derived::{DerivedKey, DerivedRecord, DerivedRef};
use impasto_store::layer::DiskRef;
use impasto_store::meter::Metered;
use impasto_store::qcow2::{ChunkSource, Qcow2, RawFile};
use impasto_store::sha256::Sha256;

use super::{Job, JobError, JobInput, JobOutput, create};
use crate::base::bounded;
use crate::disk::image::{self, ImageKind};
use crate::engine::graph::NodeId;
use crate::engine::inputs::{Input, copy_file};
use crate::engine::publish::Draft;
use crate::net::{Download, DownloadCause, Downloader, Expected, Options, Place};

/// A server of images may have to fetch a file itself before it sends the first byte.
const SILENCE: Duration = Duration::from_secs(60);

/// Bytes of a file that is fetched, at most: a server that never ends must not fill the disk for ever.
const MOST: u64 = 1 << 40;

impl Job {
    pub(super) fn on_host(&self, action: &Action<Bound>) -> Result<JobOutput, JobError> {
        let [step] = action.steps.as_slice() else {
            panic!("BUG: the host carries out one step, not several")
        };
        match step {
            Step::Import { input, as_a } => {
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
            Step::Convert {
                format,
                level,
                encoder: _,
            } => self.convert(*format, *level),
            Step::Script { .. }
            | Step::ShowRoot
            | Step::Command { .. }
            | Step::CopyIn { .. }
            | Step::WriteFile { .. }
            | Step::Bootstrap { .. }
            | Step::AssembleDisk { .. }
            | Step::Test { .. }
            | Step::TestReport { .. } => {
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
            expected: Expected::hashed(sha256, MOST),
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
        mut file: File,
        name: &str,
        mode: u32,
        as_a: ImportAs,
    ) -> Result<JobOutput, JobError> {
        let io = JobError::io("read", Path::new(name));
        let image = image::recognize(&file).map_err(io)?;
        let what = || format!("`{name}`");
        let image = match (as_a, image) {
            (ImportAs::File, _) => None,
            (_, ImageKind::Raw | ImageKind::Qcow2) => Some(image),
            // A qcow2 to one program and an ISO to the next is nobody's honest file.
            (_, ImageKind::Other(format @ image::ForeignFormat::Polyglot))
            | (ImportAs::Disk, ImageKind::Other(format)) => {
                return Err(JobError::Format {
                    what: what(),
                    format,
                });
            }
            (ImportAs::Auto, ImageKind::Other(_) | ImageKind::Iso | ImageKind::Unknown) => None,
            (ImportAs::Disk, ImageKind::Iso | ImageKind::Unknown) => {
                let reason = "it has no qcow2 header, no partition table and no file system that impasto knows";
                return Err(JobError::NoDisk {
                    what: what(),
                    reason: reason.to_owned(),
                });
            }
        };
        let keep = |source: &dyn ChunkSource| self.keep(action, source, None);
        let kept = match image {
            None => {
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
                return Ok(JobOutput::on_host(
                    Outputs {
                        files,
                        ..Outputs::default()
                    },
                    blob.size,
                ));
            }
            Some(ImageKind::Qcow2) => {
                let gate = |source| JobError::Gate {
                    what: what(),
                    source: Box::new(source),
                };
                keep(&Qcow2::open(file).map_err(gate)?)?
            }
            Some(_) => {
                let reason = |error: &dyn std::fmt::Display| JobError::NoDisk {
                    what: what(),
                    reason: error.to_string(),
                };
                keep(&RawFile::new(file).map_err(|error| reason(&error))?)?
            }
        };
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

    fn convert(&self, format: Format, level: Option<i32>) -> Result<JobOutput, JobError> {
        let (from, disk) = self.disk.expect("BUG: nothing to convert");
        let key = match format {
            Format::Qcow2 => DerivedKey::qcow2(disk.layer.disk, level),
            Format::Raw => DerivedKey::raw(disk.layer.disk),
        };
        let (record, written) = match self.targets.first() {
            Some(target) => {
                let path = &target.path;
                let draft =
                    Draft::new(path, self.store.owner()).map_err(JobError::io("write", path))?;
                let record = self.write_derived(from, &disk, &key, draft.file())?;
                self.meter.begin("syncing", None);
                let (content, sha256) = (record.digest.0, record.sha256);
                let written = Self::close_draft(target, draft, content, sha256, 0o644)?;
                (record, vec![written])
            }
            None => {
                let scratch = self.store.scratch()?;
                let file = create(&scratch.path().join("convert"))?;
                (self.write_derived(from, &disk, &key, &file)?, Vec::new())
            }
        };
        self.store.put_derived(&record)?;
        let derived = DerivedRef {
            key: record.key,
            digest: record.digest,
            size: record.size,
        };
        let name = format!("disk.{}", format.extension());
        let file = OutputFile {
            content: FileContent::Derived(derived),
            mode: 0o644,
        };
        let result = Outputs {
            files: BTreeMap::from([(name, file)]),
            ..Outputs::default()
        };
        Ok(JobOutput {
            written,
            ..JobOutput::on_host(result, 0)
        })
    }

    /// Writes what a key describes into an empty file.
    pub(super) fn write_derived(
        &self,
        from: NodeId,
        disk: &DiskRef,
        key: &DerivedKey,
        file: &File,
    ) -> Result<DerivedRecord, JobError> {
        let path = Path::new("the converted file");
        let begun = Instant::now();
        let level = key
            .options
            .get("compression_level")
            .and_then(|level| level.parse().ok());
        let options = ConvertOptions {
            compression_level: level,
            fsync: false,
            digest: true,
            sha256: true,
        };
        let converted = match key.format.as_str() {
            "raw" => self.store.convert_raw(&disk.layer, file, path, options),
            _ => self.store.convert_qcow2(&disk.layer, file, path, options),
        };
        self.phase_was("convert", begun, Instant::now());
        let converted = converted.map_err(Self::missed(from))?;
        let (digest, sha256) = converted
            .digest
            .zip(converted.sha256)
            .expect("BUG: asked for");
        Ok(DerivedRecord {
            key: key.clone(),
            digest,
            sha256,
            size: converted.length,
        })
    }
}
