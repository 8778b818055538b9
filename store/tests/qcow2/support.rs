//! What the tests share: qemu-img and its relatives as the oracle, and a generator of numbers.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Output};

use impasto_store::qcow2::{CHUNK, ChunkSource, Content, Qcow2};

/// Runs a program that must be installed, and must succeed.
pub(crate) fn run(program: &str, arguments: &[impl AsRef<OsStr>]) -> Output {
    let output = try_run(program, arguments);
    assert!(
        output.status.success(),
        "{program} {:?}: {}\n{}{}",
        arguments
            .iter()
            .map(|argument| argument.as_ref().to_string_lossy())
            .collect::<Vec<_>>(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    output
}

/// Runs a program that must be installed.
pub(crate) fn try_run(program: &str, arguments: &[impl AsRef<OsStr>]) -> Output {
    Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| {
            panic!("cannot start {program}: {error}; these tests need qemu-utils installed")
        })
}

/// Runs `qemu-img` with words separated by spaces; `{}` stands for the paths, in order.
pub(crate) fn qemu_img(line: &str, paths: &[&Path]) -> Output {
    let mut paths = paths.iter();
    let arguments: Vec<String> = line
        .split_whitespace()
        .map(|word| {
            if word.contains("{}") {
                word.replace(
                    "{}",
                    paths
                        .next()
                        .expect("a path for every {}")
                        .to_str()
                        .expect("a path in UTF-8"),
                )
            } else {
                word.to_string()
            }
        })
        .collect();
    run("qemu-img", &arguments)
}

/// Opens an image that must pass the gate.
pub(crate) fn open(path: &Path) -> Qcow2 {
    Qcow2::open(File::open(path).unwrap())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A whole disk as bytes, read by way of the present chunks only.
pub(crate) fn read_all(source: &dyn ChunkSource) -> Vec<u8> {
    let mut disk = vec![0; source.chunks() as usize * CHUNK];
    source
        .for_each_present(&mut |index| {
            let slot: &mut [u8; CHUNK] = (&mut disk[index as usize * CHUNK..][..CHUNK])
                .try_into()
                .expect("a slice of one chunk");
            slot.fill(0xdb);
            if source.read_chunk(index, slot)? == Content::Zero {
                assert!(
                    slot.iter().all(|&byte| byte == 0),
                    "chunk {index} is zero and its buffer is not"
                );
            }
            Ok(())
        })
        .unwrap();
    let size = source.virtual_size() as usize;
    assert!(
        disk[size..].iter().all(|&byte| byte == 0),
        "the last chunk is not filled up with zeros"
    );
    disk.truncate(size);
    disk
}

/// xorshift64*: enough for tests, and the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// One chunk: zeros, a run, text-like, half noise, or noise.
    pub(crate) fn chunk(&mut self) -> Box<[u8; CHUNK]> {
        let mut data = Box::new([0; CHUNK]);
        self.fill(&mut data[..]);
        data
    }

    /// Fills bytes with content of a random sort.
    pub(crate) fn fill(&mut self, data: &mut [u8]) {
        let half = data.len() / 2;
        match self.below(5) {
            0 => data.fill(0),
            1 => data.fill(self.next() as u8),
            2 => {
                let period = 3 + self.below(200) as usize;
                let base = self.next() as usize;
                data.iter_mut()
                    .enumerate()
                    .for_each(|(at, byte)| *byte = ((base + at) / period) as u8);
            }
            3 => self.noise(&mut data[..half]),
            _ => self.noise(data),
        }
    }

    pub(crate) fn noise(&mut self, data: &mut [u8]) {
        for word in data.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            word.copy_from_slice(&bytes[..word.len()]);
        }
    }
}
