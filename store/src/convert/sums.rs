//! Checksums of the files that were written.
//! Knows files and lengths, not what is in them.
//!
//! Neither algorithm lets zeros be skipped: SHA-256 is one chain of blocks, and BLAKE3 mixes into every KiB its place in
//! the file. A hole is hashed like data, only not read from the disk.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use rayon::prelude::*;

use super::{ConvertOptions, ConvertTarget, Converted};
use crate::digest::BlobDigest;
use crate::error::{Error, Result};
use crate::hash_file::hash_range;
use crate::sha256::{Sha256, Sha256Writer};
use crate::store::Store;

impl Store {
    /// The files' checksums, as asked for: of all files at once.
    pub(super) fn sums(
        &self,
        targets: &[ConvertTarget<'_>],
        lengths: &[u64],
        options: ConvertOptions,
    ) -> Result<Vec<Converted>> {
        // Both digests read all of a file at once: the slower one is shown.
        self.begin("checksums", lengths.iter().sum());
        let files: Vec<_> = targets.iter().zip(lengths).collect();
        files
            .par_iter()
            .map(|(target, length)| self.sums_of(target, **length, options))
            .collect()
    }

    fn sums_of(
        &self,
        target: &ConvertTarget<'_>,
        length: u64,
        options: ConvertOptions,
    ) -> Result<Converted> {
        let ConvertTarget { file, path, .. } = *target;
        let digest = || {
            let mut hasher = BlobDigest::hasher();
            hash_range(file, 0..length, &mut hasher)?;
            Ok::<_, io::Error>(BlobDigest(hasher.finish()))
        };
        let sync = || match options.fsync {
            true => file.sync_all(),
            false => Ok(()),
        };
        let (synced, (digest, sha256)) = rayon::join(sync, || {
            rayon::join(
                || options.digest.then(digest).transpose(),
                || {
                    options
                        .sha256
                        .then(|| self.sha256(file, length))
                        .transpose()
                },
            )
        });
        synced.map_err(|source| Error::io("sync", path, source))?;
        let read_error = |source| Error::io("read", path, source);
        Ok(Converted {
            length,
            digest: digest.map_err(read_error)?,
            sha256: sha256.map_err(read_error)?,
        })
    }

    fn sha256(&self, file: &File, length: u64) -> io::Result<Sha256> {
        let mut sha256 = Sha256Writer::default();
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < length {
            let part = (length - at).min(buffer.len() as u64) as usize;
            file.read_exact_at(&mut buffer[..part], at)?;
            sha256.write_all(&buffer[..part])?;
            self.count(part as u64);
            at += part as u64;
        }
        Ok(sha256.finish())
    }
}
