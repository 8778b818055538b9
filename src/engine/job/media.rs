//! Actions of the host that make ramdisks and archives, out of a disk or of other files.
//! Knows the store and what a stage is given; [`crate::media`] writes the bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use impasto_stages::action::{Action, Bound};
use impasto_stages::media::{ArchiveForm, ArchiveSpec, InitramfsSpec, PackCompression};
use impasto_store::claim::{FileContent, OutputFile, Outputs};
use impasto_store::digest::Digest;
use impasto_store::meter::Metered;

use super::sandboxed::LogFile;
use super::{Enter, Job, JobError, JobInput, JobOutput, StageFailure, create};
use crate::base::escape::neutralise;
use crate::checks::image::Patterns;
use crate::deb::version::Version;
use crate::disk::guest::OverlayView;
use crate::disk::guest::ext4::ReadError;
use crate::disk::tree::{EntryKind, Tree};
use crate::media::pack::{self, Earlier, PieceIndex, StreamPacking};
use crate::media::ramdisk::RootFiles;
use crate::media::stream::{ByteSource, MediaStream};
use crate::media::{ArchiveMember, MemberError, MemberKind, cpio, tar};
use crate::sandbox::InputKind;

/// The files of a result. The ramdisk comes first: it is what the stage stands for.
const RAMDISK: &str = "initramfs";
const KERNEL: &str = "kernel";
pub(super) const ARCHIVE: &str = "file";
/// What the next run takes over, beside each.
const PIECES: &str = "pieces";
/// Largest index of pieces that is read, in bytes.
const PIECES_LIMIT: u64 = 64 << 20;

impl Job {
    /// Makes a ramdisk of the disk's files.
    pub(super) fn ramdisk(
        &self,
        action: &Action<Bound>,
        spec: &InitramfsSpec,
    ) -> Result<JobOutput, JobError> {
        let epoch = action.source_date_epoch.unwrap_or_default();
        let mut log = LogFile::create(self, &[]);
        let made = self.with_root(|root, tree| {
            self.tell_others(root, tree, "ramdisk");
            let kernel = self.kernel(root, spec)?;
            let exclude = Patterns::new(&spec.exclude);
            let wanted = |path: &[u8]| !exclude.matches(&String::from_utf8_lossy(path));
            if root.find(b"/init").is_none() || !wanted(b"/init") {
                self.warn(
                    "the ramdisk has no /init, which the kernel starts: add it with a `run` stage before, such as \
                     `ln -s /sbin/init /init`, or boot with `rdinit=`"
                        .to_owned(),
                );
            }
            let (members, files) = root.members(wanted).map_err(|error| self.unread(&error))?;
            let attributes = members
                .iter()
                .filter(|member| !member.xattrs.is_empty())
                .count();
            if attributes > 0 {
                let line = format!(
                    "{attributes} files lose their extended attributes, such as capabilities: a ramdisk has none\n"
                );
                log.bytes(line.as_bytes());
            }
            let stream = cpio::stream(&members, epoch).map_err(|error| self.refused(&error))?;
            let mut made = self.packed(
                &stream,
                &files,
                packing(spec.compression, spec.level),
                RAMDISK,
                &mut log,
            )?;
            if let Some((release, path)) = kernel {
                let (members, files) = root
                    .members(|other| other == path.as_slice())
                    .map_err(|error| self.unread(&error))?;
                let [ArchiveMember { kind: MemberKind::File { file, size }, .. }] = members.as_slice()
                else {
                    return Err(self.failed(
                        format!("{} is not a regular file", neutralise(&path)),
                        "put the kernel itself there",
                    ));
                };
                let mut bytes = vec![0; *size as usize];
                let read = files.read(*file, 0, &mut bytes);
                read.map_err(|error| self.unread(&ReadError::Io(error)))?;
                log.bytes(format!("kernel: {release}\n").as_bytes());
                let blob = self.store.put_blob(bytes.as_slice())?;
                made.stored_bytes += blob.size;
                let file = OutputFile {
                    content: FileContent::Blob(blob),
                    mode: 0o644,
                };
                made.result.files.insert(KERNEL.to_owned(), file);
            }
            Ok(made)
        });
        log.finish();
        made
    }

    /// Makes an archive of the disk's files, or of the inputs.
    pub(super) fn archive(
        &self,
        action: &Action<Bound>,
        spec: &ArchiveSpec,
    ) -> Result<JobOutput, JobError> {
        let epoch = action.source_date_epoch.unwrap_or_default();
        let packing = packing(spec.compression, spec.level);
        let stream = |members: &[ArchiveMember]| {
            let stream = match spec.form {
                ArchiveForm::Tar => tar::stream(members, epoch),
                ArchiveForm::Cpio => cpio::stream(members, epoch),
            };
            stream.map_err(|error| self.refused(&error))
        };
        let mut log = LogFile::create(self, &[]);
        if self.disk.is_some() {
            let made = self.with_root(|root, tree| {
                self.tell_others(root, tree, "archive");
                let exclude = Patterns::new(&spec.exclude);
                let wanted = |path: &[u8]| !exclude.matches(&String::from_utf8_lossy(path));
                let (mut members, files) =
                    root.members(wanted).map_err(|error| self.unread(&error))?;
                if spec.form == ArchiveForm::Tar {
                    // Nobody misses a socket: whoever listens makes it again.
                    members.retain(|member| member.kind != MemberKind::Socket);
                }
                self.packed(&stream(&members)?, &files, packing, ARCHIVE, &mut log)
            });
            log.finish();
            return made;
        }
        let scratch = self.store.scratch()?;
        let same = |name: &str| name.to_owned();
        let collected = self.phase("collect", || self.collected(scratch.path(), &same));
        let (members, files) = collected?;
        let members: Vec<_> = members.into_values().collect();
        let made = self.packed(&stream(&members)?, &files, packing, ARCHIVE, &mut log);
        log.finish();
        made
    }

    /// Works on the root file system of the disk that the stage begins with.
    fn with_root<T>(
        &self,
        work: impl FnOnce(&RootFiles<'_>, &Tree) -> Result<T, JobError>,
    ) -> Result<T, JobError> {
        let (from, disk) = self.disk.expect("BUG: nothing to read");
        let no_disk = |reason: String| JobError::NoDisk {
            what: format!("what {} reads", self.label),
            reason,
        };
        let index = self.below.as_ref();
        let tree = index
            .map(|index| Tree::load(&self.store, index))
            .transpose()?;
        let tree = tree.flatten();
        let tree = tree.ok_or_else(|| no_disk("its files cannot be listed".to_owned()))?;
        let reader = self.store.disk_reader(&disk.layer);
        let reader = reader.map_err(Self::missed(from))?;
        let view = OverlayView::whole(&reader)
            .map_err(|error| self.unread(&ReadError::Io(io::Error::other(error))))?;
        let root = RootFiles::of(&tree, &view);
        let root =
            root.ok_or_else(|| no_disk("it has no ext4 whose files can be listed".to_owned()))?;
        work(&root, &tree)
    }

    fn tell_others(&self, root: &RootFiles<'_>, tree: &Tree, what: &str) {
        for number in root.others(tree) {
            self.warn(format!(
                "the files of partition {number} are not in the {what}: it has those of the root file system only"
            ));
        }
    }

    /// The kernel that stands beside a ramdisk: its release and path.
    fn kernel(
        &self,
        root: &RootFiles<'_>,
        spec: &InitramfsSpec,
    ) -> Result<Option<(String, Vec<u8>)>, JobError> {
        let prefix = "vmlinuz-";
        let mut releases: Vec<String> = root
            .names(b"/boot")
            .filter_map(|name| {
                let release = std::str::from_utf8(name).ok()?.strip_prefix(prefix)?;
                let path = format!("/boot/{prefix}{release}");
                let kind = &root.find(path.as_bytes())?.kind;
                matches!(kind, EntryKind::File { .. }).then(|| release.to_owned())
            })
            .collect();
        releases.sort_by(|a, b| match (Version::parse(a), Version::parse(b)) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            _ => a.cmp(b),
        });
        let chosen = match &spec.kernel {
            None => releases.pop(),
            Some(wanted) if releases.contains(wanted) => Some(wanted.clone()),
            Some(wanted) => {
                let help = match releases.as_slice() {
                    [] => {
                        "the disk has no kernel: add a package such as linux-image-amd64".to_owned()
                    }
                    releases => format!("the disk has {}", releases.join(", ")),
                };
                let message = format!("the disk has no kernel {wanted}");
                return Err(self.failed(message, help));
            }
        };
        Ok(chosen.map(|release| {
            let path = format!("/boot/{prefix}{release}").into_bytes();
            (release, path)
        }))
    }

    /// Writes a stream, and keeps it under a name.
    pub(super) fn packed(
        &self,
        stream: &MediaStream,
        source: &dyn ByteSource,
        packing: StreamPacking,
        name: &str,
        log: &mut LogFile<'_>,
    ) -> Result<JobOutput, JobError> {
        let scratch = self.store.scratch()?;
        let earlier = match packing {
            StreamPacking::Gzip(_) => self.phase("read the one before", || {
                self.earlier_pieces(name, scratch.path())
            }),
            _ => None,
        };
        let path = scratch.path().join("packed");
        let file = create(&path)?;
        self.meter.begin("compressing", Some(stream.length()));
        let told = std::sync::atomic::AtomicU64::new(0);
        let progress = |done: u64| {
            let before = told.swap(done, std::sync::atomic::Ordering::Relaxed);
            self.meter.add(done - before);
            !self.context.cancel.is_cancelled()
        };
        let packed = self.phase("compress", || {
            pack::write(stream, source, packing, earlier.as_ref(), &file, &progress)
        });
        let packed = match packed {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                return Err(JobError::Cancelled);
            }
            other => other.map_err(JobError::io("write", &path))?,
        };
        if packed.index.is_some() {
            let made = packed.pieces - packed.kept;
            let line = format!("{made} of {} pieces were compressed again\n", packed.pieces);
            log.bytes(line.as_bytes());
        }
        let like = self.earlier_file(name);
        let file = crate::base::bounded::open(&path).map_err(JobError::io("open", &path))?;
        let size = file.metadata().ok().map(|stat| stat.len());
        self.meter.begin("storing", size);
        let reader = Metered::new(file, &self.meter);
        let blob = self.phase("store the file", || {
            self.store.put_blob_like(reader, like.as_ref())
        })?;
        let mut stored_bytes = blob.size;
        let mut files = BTreeMap::new();
        let mut keep = |name: String, blob| {
            let file = OutputFile {
                content: FileContent::Blob(blob),
                mode: 0o644,
            };
            files.insert(name, file);
        };
        keep(name.to_owned(), blob);
        if let Some(index) = &packed.index {
            let blob = self.store.put_blob(index.to_bytes().as_slice())?;
            stored_bytes += blob.size;
            keep(pieces_name(name), blob);
        }
        let result = Outputs {
            files,
            ..Outputs::default()
        };
        Ok(JobOutput::on_host(result, stored_bytes))
    }

    /// What an earlier run of this stage came to under a name.
    fn earlier_file(&self, name: &str) -> Option<impasto_store::digest::BlobDigest> {
        self.previous.iter().find_map(|(action, claim)| {
            let claim = self.store.claim(action, claim).ok()?;
            match &claim.result.files.get(name)?.content {
                FileContent::Blob(blob) => Some(blob.digest),
                FileContent::Derived(_) => None,
            }
        })
    }

    /// The file that an earlier run made and its index; one that is gone or damaged saves nothing, that is all.
    fn earlier_pieces(&self, name: &str, scratch: &Path) -> Option<Earlier> {
        self.previous.iter().find_map(|(action, claim)| {
            let claim = self.store.claim(action, claim).ok()?;
            let open = |name: &str| match &claim.result.files.get(name)?.content {
                FileContent::Blob(blob) => self.store.open_blob(&blob.digest).ok(),
                FileContent::Derived(_) => None,
            };
            let mut bytes = Vec::new();
            let index = open(&pieces_name(name))?;
            index.take(PIECES_LIMIT).read_to_end(&mut bytes).ok()?;
            let index = PieceIndex::of_bytes(&bytes)?;
            let file = create(&scratch.join("earlier")).ok()?;
            let file = pack::copied(open(name)?, file).ok()?;
            Some(Earlier { index, file })
        })
    }

    /// The inputs as members by path, and their files. `place` says where an input goes.
    pub(super) fn collected(
        &self,
        scratch: &Path,
        place: &dyn Fn(&str) -> String,
    ) -> Result<(BTreeMap<Vec<u8>, ArchiveMember>, ScratchFiles), JobError> {
        let mut members: BTreeMap<Vec<u8>, ArchiveMember> = BTreeMap::new();
        let mut files = ScratchFiles::default();
        for (number, (name, input)) in self.inputs.iter().enumerate() {
            let name = place(name);
            let path = scratch.join(format!("input-{number}"));
            let mut file = create(&path)?;
            let (mode, kind) = self.lay_out(input, Some(0), &mut file, &path, false)?;
            let place = files.open.len();
            match kind {
                InputKind::File => {
                    let size = file
                        .metadata()
                        .map_err(JobError::io("examine", &path))?
                        .len();
                    let file = files.add(place, 0);
                    let kind = MemberKind::File { file, size };
                    self.put(&mut members, name.as_bytes(), kind, plain_mode(input, mode))?;
                }
                InputKind::Tar => {
                    self.put(&mut members, name.as_bytes(), MemberKind::Dir, 0o755)?;
                    let tar = files.tar_members(place, &file);
                    for (below, kind, mode) in tar.map_err(JobError::io("read", &path))? {
                        let path = [name.as_bytes(), b"/", &below].concat();
                        self.put(&mut members, &path, kind, mode)?;
                    }
                }
            }
            files.open.push(file);
        }
        Ok((members, files))
    }

    /// Adds a member, and the directories that lead to it.
    fn put(
        &self,
        members: &mut BTreeMap<Vec<u8>, ArchiveMember>,
        path: &[u8],
        kind: MemberKind,
        mode: u32,
    ) -> Result<(), JobError> {
        let member = |path: &[u8], kind, mode| ArchiveMember {
            path: path.to_vec(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            xattrs: Vec::new(),
        };
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        for (at, _) in slashes {
            let above = &path[..at];
            let found = members
                .entry(above.to_vec())
                .or_insert_with(|| member(above, MemberKind::Dir, 0o755));
            if found.kind != MemberKind::Dir {
                let (path, above) = (neutralise(path), neutralise(above));
                let message = format!("{path} lies below {above}, which is not a directory");
                return Err(self.failed(message, "give one of them another name in `files`"));
            }
        }
        let there = members.insert(path.to_vec(), member(path, kind.clone(), mode));
        match there {
            Some(there) if there.kind != MemberKind::Dir || kind != MemberKind::Dir => {
                let message = format!("{} is there twice", neutralise(path));
                Err(self.failed(message, "give one of them another name in `files`"))
            }
            _ => Ok(()),
        }
    }

    fn unread(&self, error: &ReadError) -> JobError {
        JobError::NoDisk {
            what: format!("what {} reads", self.label),
            reason: error.to_string(),
        }
    }

    fn refused(&self, error: &MemberError) -> JobError {
        self.failed(error.to_string(), "leave it out, or use another format")
    }

    pub(super) fn failed(&self, message: impl Into<String>, help: impl Into<String>) -> JobError {
        JobError::Stage(Box::new(StageFailure {
            message: message.into(),
            help: Some(help.into()),
            places: self.about.stage.iter().cloned().collect(),
            shell: Enter::Never,
            ..StageFailure::default()
        }))
    }
}

fn packing(compression: PackCompression, level: i64) -> StreamPacking {
    let level = level as i32;
    match compression {
        PackCompression::None => StreamPacking::None,
        PackCompression::Gzip => StreamPacking::Gzip(level),
        PackCompression::Xz => StreamPacking::Xz(level),
        PackCompression::Zstd => StreamPacking::Zstd(level),
    }
}

fn pieces_name(name: &str) -> String {
    format!("{name}.{PIECES}")
}

/// Of a user's own file only whether it can be executed is kept, as everywhere.
fn plain_mode(input: &JobInput, mode: u32) -> u32 {
    match input {
        JobInput::Local { .. } if mode & 0o111 != 0 => 0o755,
        JobInput::Local { .. } => 0o644,
        _ => mode & 0o7777,
    }
}

/// Files of our own, and parts of them.
#[derive(Default)]
pub(super) struct ScratchFiles {
    open: Vec<File>,
    /// By the number of a member's file: which open file it is in, and where it begins there.
    places: Vec<(usize, u64)>,
}

impl ScratchFiles {
    fn add(&mut self, file: usize, offset: u64) -> usize {
        self.places.push((file, offset));
        self.places.len() - 1
    }

    /// The members of a tree, which is a tar archive of ours.
    fn tar_members(
        &mut self,
        place: usize,
        file: &File,
    ) -> io::Result<Vec<(Vec<u8>, MemberKind, u32)>> {
        let mut members = Vec::new();
        let mut reader = io::BufReader::new(file);
        io::Seek::rewind(&mut reader)?;
        let mut archive = ::tar::Archive::new(reader);
        for entry in archive.entries_with_seek()? {
            let entry = entry?;
            let path = entry.path_bytes();
            let path = path.strip_prefix(b"./").unwrap_or(&path);
            let path = path.strip_suffix(b"/").unwrap_or(path).to_vec();
            if path.is_empty() || path == b"." {
                continue;
            }
            let link = || entry.link_name_bytes().unwrap_or_default().into_owned();
            let kind = match entry.header().entry_type() {
                ::tar::EntryType::Directory => MemberKind::Dir,
                ::tar::EntryType::Symlink => MemberKind::Symlink { target: link() },
                _ => MemberKind::File {
                    size: entry.size(),
                    file: self.add(place, entry.raw_file_position()),
                },
            };
            members.push((path, kind, entry.header().mode()? & 0o7777));
        }
        Ok(members)
    }
}

impl ByteSource for ScratchFiles {
    fn read(&self, file: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let (file, start) = self.places[file];
        self.open[file].read_exact_at(buffer, start + offset)
    }

    fn identity(&self, file: usize, offset: u64, length: u64) -> io::Result<Digest> {
        let mut bytes = vec![0; length as usize];
        self.read(file, offset, &mut bytes)?;
        Ok(Digest::from_bytes(*blake3::hash(&bytes).as_bytes()))
    }
}
