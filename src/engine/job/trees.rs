//! Trees of files that the host's own code makes: of archives, and of commits.
//! Knows the store; what an archive may hold is decided by [`crate::source`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::Path;

use impasto_stages::action::{Action, Bound};
use impasto_stages::package_set::ARCHITECTURE;
use impasto_store::claim::{OutputFile, Outputs};
use impasto_store::inputs::Access;
use impasto_store::meter::Metered;
use rustix::process::Signal;

use super::{Job, JobError, JobInput, JobOutput};
use crate::engine::inputs::{Input, pack_tree};
use crate::sandbox::die_with_parent;
use crate::source::archive::{ArchiveTreeError, TreePart, TreeUnpacker};
use crate::source::git::{Git, GitError, GitPart, GitPlace};
use crate::source::oci::ImageArchive;
use crate::source::tree::TreeBuilder;

impl Job {
    /// Keeps a part of a directory of the user's as a tree; none where the input is a file.
    pub(super) fn take_in_directory(
        &self,
        input: &str,
        part: &TreePart,
    ) -> Result<Option<JobOutput>, JobError> {
        let found = self.inputs.iter().find(|(name, _)| name == input);
        let Some((
            _,
            JobInput::Local {
                path,
                input: Input::Tree { entries, .. },
                scope,
            },
        )) = found
        else {
            return Ok(None);
        };
        let scratch = self.store.scratch()?;
        let failed = || JobError::io("write", Path::new("a tree of files"));
        let archive = tempfile::tempfile_in(scratch.path()).map_err(failed())?;
        let mut out = io::BufWriter::new(&archive);
        pack_tree(scope, path, entries, Some(0), &mut out)?;
        out.flush().map_err(failed())?;
        drop(out);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.take_in_tree(archive, &name, part).map(Some)
    }

    /// Keeps a part of an archive as a tree. `name` is what messages call the archive.
    pub(super) fn take_in_tree(
        &self,
        mut file: File,
        name: &str,
        part: &TreePart,
    ) -> Result<JobOutput, JobError> {
        file.rewind()
            .map_err(JobError::io("read", Path::new(name)))?;
        let scratch = self.store.scratch()?;
        let unpacker = TreeUnpacker {
            dir: scratch.path(),
            limit: self.context.unpack_limit,
            cancel: &self.context.cancel,
        };
        let refused = |source| match source {
            ArchiveTreeError::Cancelled => JobError::Cancelled,
            source => JobError::Archive {
                what: format!("`{name}`"),
                source: Box::new(source),
            },
        };
        let size = file.metadata().ok().map(|stat| stat.len());
        self.meter.begin("unpacking", size);
        let tree = self.phase("unpack", || {
            let mut archive = unpacker.plain(Metered::new(&mut file, &self.meter))?;
            match ImageArchive::of(&archive)? {
                Some(image) => image.tree(&unpacker, ARCHITECTURE, part),
                None => {
                    archive
                        .rewind()
                        .map_err(|source| ArchiveTreeError::Read { source })?;
                    unpacker.tree(archive, part)
                }
            }
        });
        self.keep_tree(tree.map_err(refused)?, scratch.path())
    }

    /// Gets the files of a commit.
    pub(super) fn fetch_git(
        &self,
        action: &Action<Bound>,
        commit: &str,
        part: &GitPart,
    ) -> Result<JobOutput, JobError> {
        let url = action.hints.urls.first().map(String::as_str);
        let place = git_place(url.unwrap_or_default(), &self.context.recipe_dir);
        let scratch = self.store.scratch()?;
        let scope = &self.context.scope;
        let git = Git {
            dir: scratch.path(),
            limit: self.context.unpack_limit,
            offline: matches!(place, GitPlace::Url(_)) && (self.context.proxies)().is_offline(),
            timeout: action.hints.timeout,
            cancel: &self.context.cancel,
            prepare: &|command| die_with_parent(command, Signal::KILL),
            may_read: &|path| scope.open(path, Access::Examine).map(drop),
        };
        let tree = self.phase("get the commit", || git.tree(&place, commit, part));
        let tree = tree.map_err(|source| match source {
            GitError::Cancelled => JobError::Cancelled,
            source => JobError::Git(Box::new(source)),
        })?;
        self.keep_tree(tree, scratch.path())
    }

    /// Keeps a tree. `scratch` is a directory with room.
    pub(super) fn keep_tree(
        &self,
        tree: TreeBuilder,
        scratch: &Path,
    ) -> Result<JobOutput, JobError> {
        let failed = || JobError::io("write", Path::new("a tree of files"));
        let mut archive = tempfile::tempfile_in(scratch).map_err(failed())?;
        let mut out = io::BufWriter::new(&archive);
        tree.write(&mut out)
            .and_then(|()| out.flush())
            .map_err(failed())?;
        drop(out);
        archive.rewind().map_err(failed())?;
        let size = archive.metadata().ok().map(|stat| stat.len());
        self.meter.begin("storing", size);
        let reader = Metered::new(&mut archive, &self.meter);
        let blob = self.phase("store the tree", || self.store.put_blob(reader))?;
        let files = BTreeMap::from([("tree".to_owned(), OutputFile::tree(blob))]);
        let result = Outputs {
            files,
            ..Outputs::default()
        };
        Ok(JobOutput::on_host(result, blob.size))
    }
}

/// A repository as a recipe names it, whose directory is `dir`.
pub(in crate::engine) fn git_place(url: &str, dir: &Path) -> GitPlace {
    match url.contains("://") {
        true => GitPlace::Url(url.to_owned()),
        false => GitPlace::Local(dir.join(url)),
    }
}
