//! What `initramfs`, `archive` and `iso` make: names, forms and compressors, all of it keyed.
//! Knows no disk and no format.

use impasto_store::key::{Atom, Describe, Sink, field};

/// Which compressors make the bytes. Another version of one may make others.
pub const ENCODERS: &str = "libdeflater 1.26.1, zstd 1.5.7, liblzma 5.8.4";

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackCompression {
    None,
    Gzip,
    Xz,
    Zstd,
}

impl PackCompression {
    /// Its names in a recipe.
    pub const NAMES: &[&str] = &["gzip", "zstd", "xz", "none"];

    /// The one with this name.
    pub fn named(name: &str) -> Option<PackCompression> {
        match name {
            "none" => Some(PackCompression::None),
            "gzip" => Some(PackCompression::Gzip),
            "xz" => Some(PackCompression::Xz),
            "zstd" => Some(PackCompression::Zstd),
            _ => None,
        }
    }

    /// The levels that it takes, and the one that is meant where none is given.
    pub fn levels(self) -> Option<(std::ops::RangeInclusive<i64>, i64)> {
        match self {
            PackCompression::None => None,
            PackCompression::Gzip => Some((1..=9, 6)),
            PackCompression::Xz => Some((0..=9, 6)),
            PackCompression::Zstd => Some((1..=19, 9)),
        }
    }
}

/// A ramdisk to be made of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitramfsSpec {
    /// Paths that are left out.
    pub exclude: Vec<String>,
    pub compression: PackCompression,
    /// The compressor's level; 0 for none.
    pub level: i64,
    /// The release of the kernel that stands beside it; the newest where none is given.
    pub kernel: Option<String>,
    /// Which compressors make the bytes.
    pub encoder: String,
}

/// The form of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveForm {
    Tar,
    Cpio,
}

/// An archive to be made of the Action's inputs, under their names, or of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveSpec {
    pub form: ArchiveForm,
    pub compression: PackCompression,
    /// The compressor's level; 0 for none.
    pub level: i64,
    /// Paths of the disk that are left out.
    pub exclude: Vec<String>,
    /// Which compressors make the bytes.
    pub encoder: String,
}

/// A bootable ISO image to be made of the inputs: `kernel`, `initramfs`, and files under `files/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsoSpec {
    /// Whether a BIOS can boot it.
    pub bios: bool,
    /// Whether UEFI firmware can boot it.
    pub efi: bool,
    /// The kernel's arguments.
    pub arguments: Vec<String>,
    /// The volume's label.
    pub label: String,
    /// Whether it boots from a disk as well.
    pub hybrid: bool,
    /// Debian's name of the machine that it boots.
    pub architecture: String,
}

impl Describe for IsoSpec {
    fn describe(&self, sink: &mut dyn Sink) {
        // No `..`: a new field does not compile until it is keyed.
        let IsoSpec {
            bios,
            efi,
            arguments,
            label,
            hybrid,
            architecture,
        } = self;
        // Keys of images for a PC are older than the choice.
        if architecture != "amd64" {
            field(sink, "architecture", architecture);
        }
        field(sink, "bios", bios);
        field(sink, "efi", efi);
        field(sink, "arguments", arguments);
        field(sink, "label", label);
        field(sink, "hybrid", hybrid);
    }
}

impl Describe for PackCompression {
    fn describe(&self, sink: &mut dyn Sink) {
        sink.put(match self {
            PackCompression::None => Atom::Variant(0, "none"),
            PackCompression::Gzip => Atom::Variant(1, "gzip"),
            PackCompression::Xz => Atom::Variant(2, "xz"),
            PackCompression::Zstd => Atom::Variant(3, "zstd"),
        });
    }
}

impl Describe for InitramfsSpec {
    fn describe(&self, sink: &mut dyn Sink) {
        // No `..`: a new field does not compile until it is keyed.
        let InitramfsSpec {
            exclude,
            compression,
            level,
            kernel,
            encoder,
        } = self;
        field(sink, "exclude", exclude);
        field(sink, "compression", compression);
        field(sink, "level", &level.to_string());
        field(sink, "kernel", kernel);
        field(sink, "encoder", encoder);
    }
}

impl Describe for ArchiveForm {
    fn describe(&self, sink: &mut dyn Sink) {
        sink.put(match self {
            ArchiveForm::Tar => Atom::Variant(0, "tar"),
            ArchiveForm::Cpio => Atom::Variant(1, "cpio"),
        });
    }
}

impl Describe for ArchiveSpec {
    fn describe(&self, sink: &mut dyn Sink) {
        // No `..`: a new field does not compile until it is keyed.
        let ArchiveSpec {
            form,
            compression,
            level,
            exclude,
            encoder,
        } = self;
        field(sink, "form", form);
        field(sink, "compression", compression);
        field(sink, "level", &level.to_string());
        field(sink, "exclude", exclude);
        field(sink, "encoder", encoder);
    }
}
