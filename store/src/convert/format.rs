//! The formats of files that a disk is converted to, and how a file of each is named before it is written.
//! Knows names and encoders, not how a file is written.

use crate::derived::DerivedKey;
use crate::digest::DiskDigest;
use crate::key::{Atom, Describe, Sink};
use crate::qcow2::{ENCODER, EncoderId};

/// A format that a disk is converted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// qcow2 with zstd clusters.
    Qcow2,
    /// The guest's bytes, sparse.
    Raw,
    /// qcow2 with deflate clusters, which every QEMU reads.
    Qcow2Zlib,
    /// qcow2 whose clusters are not compressed.
    Qcow2Plain,
    /// VMware's: `streamOptimized`.
    Vmdk,
    /// Virtual PC's and Azure's: fixed, whole MiB.
    Vhd,
    /// Hyper-V's: dynamic.
    Vhdx,
    /// VirtualBox's: dynamic.
    Vdi,
    /// The guest's bytes, compressed with gzip.
    RawGzip,
    /// The guest's bytes, compressed with xz.
    RawXz,
    /// The guest's bytes, compressed with zstd.
    RawZstd,
    /// Google Compute Engine's: a `disk.raw` of whole GiB in a tar archive, compressed with gzip.
    Gce,
}

/// Which libdeflate compresses: another version may give other bytes. Its version is pinned, with a test of what it gives.
const DEFLATE: &str = "libdeflate-1.26.1";
/// The same of xz.
const XZ: &str = "xz-5.8";

/// The level of libdeflate where none is given: a twelfth of the time of the best for a twentieth more bytes.
const DEFLATE_LEVEL: i32 = 1;
pub(super) const GZIP_LEVEL: i32 = 6;
pub(super) const XZ_LEVEL: u32 = 3;

impl Format {
    /// All of them; their order is that of help.
    pub const ALL: [Format; 12] = [
        Format::Qcow2,
        Format::Qcow2Zlib,
        Format::Qcow2Plain,
        Format::Raw,
        Format::RawGzip,
        Format::RawXz,
        Format::RawZstd,
        Format::Vmdk,
        Format::Vhd,
        Format::Vhdx,
        Format::Vdi,
        Format::Gce,
    ];

    /// The file name's extension.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Qcow2 | Format::Qcow2Zlib | Format::Qcow2Plain => "qcow2",
            Format::Raw => "raw",
            Format::Vmdk => "vmdk",
            Format::Vhd => "vhd",
            Format::Vhdx => "vhdx",
            Format::Vdi => "vdi",
            Format::RawGzip => "raw.gz",
            Format::RawXz => "raw.xz",
            Format::RawZstd => "raw.zst",
            Format::Gce => "tar.gz",
        }
    }

    /// What a converted file is called among those of its stage.
    pub fn file_name(self) -> String {
        format!("disk.{}", self.extension())
    }

    /// The levels that it can be compressed at; none where there is no choice.
    pub fn levels(self) -> Option<std::ops::RangeInclusive<i32>> {
        match self {
            Format::Qcow2 => Some(1..=19),
            Format::Qcow2Zlib => Some(1..=12),
            _ => None,
        }
    }

    /// Its name in keys, and its place among the formats, which never changes.
    fn stored(self) -> (u32, &'static str) {
        match self {
            Format::Qcow2 => (0, "qcow2"),
            Format::Raw => (1, "raw"),
            Format::Qcow2Zlib => (2, "qcow2 zlib"),
            Format::Qcow2Plain => (3, "qcow2 uncompressed"),
            Format::Vmdk => (4, "vmdk"),
            Format::Vhd => (5, "vhd"),
            Format::Vhdx => (6, "vhdx"),
            Format::Vdi => (7, "vdi"),
            Format::RawGzip => (8, "raw gzip"),
            Format::RawXz => (9, "raw xz"),
            Format::RawZstd => (10, "raw zstd"),
            Format::Gce => (11, "gce"),
        }
    }

    /// Which encoder makes the file; empty where none does.
    pub fn encoder(self, level: Option<i32>) -> String {
        match self {
            Format::Raw | Format::Qcow2Plain | Format::Vhd | Format::Vhdx | Format::Vdi => {
                String::new()
            }
            Format::Qcow2 => EncoderId {
                level: level.unwrap_or(ENCODER.level),
                ..ENCODER
            }
            .to_string(),
            Format::RawZstd => ENCODER.to_string(),
            Format::Qcow2Zlib | Format::Vmdk => {
                format!("{DEFLATE}/level-{}", self.deflate_level(level))
            }
            Format::RawGzip | Format::Gce => format!("{DEFLATE}/gzip/level-{GZIP_LEVEL}"),
            Format::RawXz => format!("{XZ}/level-{XZ_LEVEL}"),
        }
    }

    pub(super) fn deflate_level(self, level: Option<i32>) -> i32 {
        level.unwrap_or(DEFLATE_LEVEL)
    }

    /// The key of a disk in this format.
    pub fn key(self, disk: DiskDigest, level: Option<i32>) -> DerivedKey {
        let options = match (self, level) {
            // Its level has always been named.
            (Format::Qcow2, level) => Some(level.unwrap_or(ENCODER.level)),
            (_, level) => level,
        };
        DerivedKey {
            disk,
            format: self.stored().1.to_owned(),
            options: options
                .map(|level| ("compression_level".to_owned(), level.to_string()))
                .into_iter()
                .collect(),
            encoder: self.encoder(level),
        }
    }

    /// What a key describes: format and level. None where a later version made it.
    pub fn of(key: &DerivedKey) -> Option<(Format, Option<i32>)> {
        let format = Format::ALL
            .into_iter()
            .find(|format| format.stored().1 == key.format)?;
        let level = key.options.get("compression_level");
        Some((format, level.and_then(|level| level.parse().ok())))
    }
}

impl Describe for Format {
    fn describe(&self, sink: &mut dyn Sink) {
        let (ordinal, name) = self.stored();
        sink.put(Atom::Variant(ordinal, name));
    }
}
