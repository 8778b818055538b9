//! Packages with their data unpacked, so that dpkg, which does one thing after the other, need not wait for that.
//! Knows the archive around a package's members (deb(5), ar(5)), not what is in them.
//!
//! Threads work through the packages in the order in which dpkg will want them; whoever wants one waits for it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use crate::base::bounded;
use crate::debian::toolbox::program::HostProgram;
use crate::sandbox::ToolFailure;

/// A package whose `data.tar` is not compressed.
#[derive(Debug, Clone)]
pub(super) struct PlainDeb {
    pub(super) path: PathBuf,
    /// Where the tar archive of its files is, in bytes.
    pub(super) start: u64,
    pub(super) length: u64,
}

/// The work on a list of packages.
pub(super) struct Plains<'a> {
    packages: &'a [PathBuf],
    to: &'a Path,
    next: AtomicUsize,
    given_up: AtomicBool,
    done: Mutex<BTreeMap<usize, Result<PlainDeb, ToolFailure>>>,
    more: Condvar,
}

impl<'a> Plains<'a> {
    /// For `packages`, files of the directory `to`.
    pub(super) fn new(packages: &'a [PathBuf], to: &'a Path) -> Self {
        Plains {
            packages,
            to,
            next: AtomicUsize::new(0),
            given_up: AtomicBool::new(false),
            done: Mutex::default(),
            more: Condvar::new(),
        }
    }

    /// Does a part of the work, until nothing is left; for any number of threads.
    pub(super) fn work(&self) {
        while !self.given_up.load(Ordering::Relaxed) {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(package) = self.packages.get(index) else {
                return;
            };
            let result = flatten(package, &self.to.join(format!("{index}.deb")));
            self.done
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(index, result);
            self.more.notify_all();
        }
    }

    /// Lets nobody begin another one.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Waits for a package, by its place in the list.
    pub(super) fn wait(&self, index: usize) -> Result<PlainDeb, ToolFailure> {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let done = self
            .more
            .wait_while(done, |done| !done.contains_key(&index));
        done.unwrap_or_else(PoisonError::into_inner)[&index].clone()
    }
}

/// ar(5): a member's header, 60 bytes, of which 48..58 are its size in decimal digits.
const HEADER: usize = 60;
const MAGIC: &[u8; 8] = b"!<arch>\n";

/// The most that a member before the data may have, in bytes.
const MAX_CONTROL: u64 = 64 << 20;

/// Copies a package with its data unpacked.
fn flatten(from: &Path, to: &Path) -> Result<PlainDeb, ToolFailure> {
    let wrong = |what: &str| {
        ToolFailure::new(format!(
            "{} is not a Debian package: {what}",
            from.display()
        ))
    };
    let read = ToolFailure::io;
    let mut input = bounded::open(from).map_err(read("read", from))?;
    let mut output = File::create_new(to).map_err(read("make", to))?;
    let mut magic = [0; MAGIC.len()];
    input.read_exact(&mut magic).map_err(read("read", from))?;
    if magic != *MAGIC {
        return Err(wrong("it has no ar header"));
    }
    output.write_all(&magic).map_err(read("write", to))?;
    loop {
        let mut header = [0; HEADER];
        input
            .read_exact(&mut header)
            .map_err(|_| wrong("it has no data"))?;
        if header.starts_with(b"data.tar") {
            break;
        }
        let size = std::str::from_utf8(&header[48..58])
            .ok()
            .and_then(|text| text.trim_end().parse::<u64>().ok());
        let size = size
            .filter(|size| *size <= MAX_CONTROL)
            .ok_or_else(|| wrong("a member has an invalid size"))?;
        output.write_all(&header).map_err(read("write", to))?;
        // Members begin at even places.
        let count = io::copy(&mut (&mut input).take(size + size % 2), &mut output)
            .map_err(read("write", to))?;
        if count != size + size % 2 {
            return Err(wrong("it is truncated"));
        }
    }
    output
        .write_all(&data_header(0))
        .map_err(read("write", to))?;
    let start = output.stream_position().map_err(read("write", to))?;
    let mut child = HostProgram::new("dpkg-deb")
        .args(["--fsys-tarfile"])
        .args([from])
        .start()?;
    let copied = child
        .stdout
        .take()
        .map_or(Ok(0), |mut data| io::copy(&mut data, &mut output));
    let status = child.wait().map_err(read("unpack", from))?;
    let length = copied.map_err(read("write", to))?;
    if !status.success() {
        return Err(wrong("its data cannot be unpacked"));
    }
    if length % 2 == 1 {
        output.write_all(b"\n").map_err(read("write", to))?;
    }
    output
        .seek(SeekFrom::Start(start - HEADER as u64))
        .map_err(read("write", to))?;
    output
        .write_all(&data_header(length))
        .map_err(read("write", to))?;
    Ok(PlainDeb {
        path: to.to_path_buf(),
        start,
        length,
    })
}

/// Of a member `data.tar`. Ten digits are enough for what a disk has room for.
fn data_header(size: u64) -> Vec<u8> {
    format!(
        "{:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
        "data.tar", 0, 0, 0, "100644", size
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_package_is_refused_without_a_panic() {
        let dir = tempfile::tempdir().unwrap();
        let mut control = b"!<arch>\n".to_vec();
        control.extend(format!("{:<48}{:<10}`\n", "control.tar", "99999999999").as_bytes());
        for (index, bytes) in [&b""[..], b"!<arch>\n", b"not an archive at all", &control]
            .into_iter()
            .enumerate()
        {
            let path = dir.path().join("package");
            std::fs::write(&path, bytes).unwrap();
            flatten(&path, &dir.path().join(format!("{index}"))).unwrap_err();
        }
    }

    #[test]
    fn a_header_has_its_length() {
        assert_eq!(data_header(u64::from(u32::MAX)).len(), HEADER);
    }
}
