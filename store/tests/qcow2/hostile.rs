//! Hostile images, class by class: each is refused for the right reason, quickly, and without a panic.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use impasto_store::qcow2::{CHUNK, ChunkSource, Content, GateError, Qcow2, RawFile, SourceError};
use rustix::time::{ClockId, clock_gettime};
use tempfile::{tempdir, tempfile};

use crate::support::{Random, qemu_img, read_all};

/// CPU time of this thread: unlike the wall clock it does not depend on what else runs on the machine.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Opens an image from bytes, within the time that any image may take.
fn open_bytes(bytes: &[u8]) -> Result<Qcow2, GateError> {
    let file = tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    open_file(file)
}

fn open_file(file: File) -> Result<Qcow2, GateError> {
    let start = cpu_time();
    let result = Qcow2::open(file);
    let took = cpu_time() - start;
    assert!(took <= Duration::from_millis(100), "opening took {took:?}");
    result
}

/// A valid image and where its parts are.
#[derive(Clone)]
struct Base {
    name: &'static str,
    bytes: Vec<u8>,
}

impl Base {
    fn make(dir: &Path, name: &'static str, options: &str) -> Base {
        let mut random = Random::new(77);
        // Runs in the first half, with a little noise, so that clusters of any size are there in both forms; noise,
        // which stays uncompressed, in the second half.
        let mut disk = vec![0; 2 << 20];
        for (number, part) in disk[..1 << 20].chunks_mut(100_000).enumerate() {
            part.iter_mut()
                .enumerate()
                .for_each(|(at, byte)| *byte = (at / (40 + number)) as u8);
        }
        random.noise(&mut disk[20 << 10..28 << 10]);
        random.noise(&mut disk[(1 << 20) + 300_000..]);
        let (raw, image) = (dir.join("base.raw"), dir.join(format!("{name}.qcow2")));
        std::fs::write(&raw, disk).unwrap();
        qemu_img(
            &format!("convert -q -f raw -O qcow2 {options} {{}} {{}}"),
            &[&raw, &image],
        );
        let base = Base {
            name,
            bytes: std::fs::read(&image).unwrap(),
        };
        let reader = open_bytes(&base.bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(read_all(&reader) == std::fs::read(&raw).unwrap(), "{name}");
        base
    }

    fn u32(&self, at: u64) -> u32 {
        u32::from_be_bytes(self.bytes[at as usize..][..4].try_into().unwrap())
    }

    fn u64(&self, at: u64) -> u64 {
        u64::from_be_bytes(self.bytes[at as usize..][..8].try_into().unwrap())
    }

    fn cluster(&self) -> u64 {
        1 << self.u32(20)
    }

    fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn is_v3(&self) -> bool {
        self.u32(4) == 3
    }

    fn l1(&self) -> u64 {
        self.u64(40)
    }

    fn refcount_table(&self) -> u64 {
        self.u64(48)
    }

    fn refcount_block(&self) -> u64 {
        self.u64(self.refcount_table())
    }

    /// The first L2 table.
    fn l2(&self) -> u64 {
        self.u64(self.l1()) & 0x00ff_ffff_ffff_fe00
    }

    /// Byte offset of the first L2 entry of a sort.
    fn l2_entry(&self, compressed: bool) -> u64 {
        (0..self.cluster() / 8)
            .map(|index| self.l2() + index * 8)
            .find(|&at| self.u64(at) != 0 && (self.u64(at) >> 62 & 1 == 1) == compressed)
            .unwrap_or_else(|| panic!("{} has such an entry", self.name))
    }

    fn with_u32(&self, at: u64, value: u32) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[at as usize..][..4].copy_from_slice(&value.to_be_bytes());
        bytes
    }

    fn with_u64(&self, at: u64, value: u64) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[at as usize..][..8].copy_from_slice(&value.to_be_bytes());
        bytes
    }

    /// With a header extension in front of those that are there.
    fn with_extension(&self, kind: u32, length: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let start = if self.is_v3() {
            self.u32(100) as usize
        } else {
            72
        };
        let mut extension = [kind.to_be_bytes(), length.to_be_bytes()].concat();
        extension.extend(data);
        extension.resize(extension.len().next_multiple_of(8), 0);
        bytes[start..start + extension.len()].copy_from_slice(&extension);
        bytes[start + extension.len()..][..8].fill(0);
        bytes
    }
}

fn bases(dir: &Path) -> Vec<Base> {
    vec![
        Base::make(dir, "v2", "-c -o compat=0.10"),
        Base::make(dir, "v3", "-c -o compat=1.1"),
        Base::make(dir, "zstd", "-c -o compression_type=zstd"),
        Base::make(dir, "small", "-c -o cluster_size=512"),
        Base::make(dir, "large", "-c -o cluster_size=512k"),
    ]
}

/// Counts cases, and asserts that each is refused for one of the named reasons.
#[derive(Default)]
struct Tally {
    by_class: BTreeMap<String, u32>,
}

impl Tally {
    fn refused(&mut self, what: &str, bytes: &[u8], classes: &str) {
        self.refused_result(what, open_bytes(bytes), classes);
    }

    fn refused_result(&mut self, what: &str, result: Result<Qcow2, GateError>, classes: &str) {
        let error = match result {
            Ok(_) => panic!("{what}: accepted"),
            Err(error) => error,
        };
        let debug = format!("{error:?}");
        let class = debug.split([' ', '(', '{']).next().unwrap_or_default();
        assert!(
            classes.split('|').any(|wanted| wanted == class),
            "{what}: wanted {classes}, got {debug}"
        );
        let message = error.to_string();
        assert!(
            !message.ends_with('.') && !message.starts_with(char::is_uppercase),
            "{message}"
        );
        *self.by_class.entry(class.to_string()).or_default() += 1;
    }

    fn at_least(self, count: u32) {
        let total: u32 = self.by_class.values().sum();
        assert!(total >= count, "{total} cases only: {:?}", self.by_class);
    }
}

#[test]
fn what_reaches_for_other_files_is_refused() {
    let dir = tempdir().unwrap();
    let mut tally = Tally::default();
    let names = [
        "/etc/passwd",
        "base.qcow2",
        "../../etc/shadow",
        "json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}",
        "nbd:unix:/run/x",
        "nbd+unix:///?socket=/run/x",
        "http://169.254.169.254/latest",
        "https://example.org/x",
        "ssh://host/x",
        "/dev/sda",
        "/dev/zero",
        "/proc/self/environ",
        "/proc/self/fd/3",
        "blkdebug::x",
        "fat:rw:/",
        "self.qcow2",
        "host_device:/dev/sda",
        "",
        "x\0y",
        "\u{1b}[2J",
    ];
    for base in bases(dir.path()) {
        for name in names {
            let what = format!("{}: backing file {name:?}", base.name);
            let at = 400;
            let mut named = base.clone();
            named.bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
            named.bytes = named.with_u64(8, at as u64);
            named.bytes = named.with_u32(16, name.len() as u32);
            // CVE-2010-3851, CVE-2015-1851, CVE-2015-5163
            tally.refused(&what, &named.bytes, "BackingFile");
            let name = name.as_bytes();
            let length = name.len() as u32;
            if base.is_v3() || base.cluster() > 512 {
                // CVE-2024-4467, CVE-2024-32498
                tally.refused(
                    &what,
                    &base.with_extension(0x4441_5441, length, name),
                    "DataFile",
                );
            }
        }
        tally.refused(
            "backing size without offset",
            &base.with_u32(16, 9),
            "BackingFile",
        );
        tally.refused(
            "backing offset beyond the file",
            &base.with_u64(8, u64::MAX),
            "BackingFile",
        );
        tally.refused(
            "backing format",
            &base.with_extension(0xe279_2aca, 3, b"raw"),
            "BackingFile",
        );
        tally.refused(
            "empty backing format",
            &base.with_extension(0xe279_2aca, 0, b""),
            "BackingFile",
        );
        if base.is_v3() {
            tally.refused(
                "data file bit",
                &base.with_u64(72, base.u64(72) | 4),
                "DataFile",
            );
            tally.refused("raw data file bit", &base.with_u64(88, 2), "DataFile");
            let mut both = base.clone();
            both.bytes = both.with_u64(72, base.u64(72) | 4);
            both.bytes = both.with_u64(88, 2);
            tally.refused(
                "both data file bits",
                &both.with_extension(0x4441_5441, 11, b"/etc/passwd"),
                "DataFile",
            );
        }
    }
    tally.at_least(200);
}

#[test]
fn unknown_and_unwanted_features_are_refused() {
    let dir = tempdir().unwrap();
    let mut tally = Tally::default();
    for base in bases(dir.path()) {
        for version in [0, 1, 4, 5, 256, 0x0300_0000, u32::MAX] {
            tally.refused("version", &base.with_u32(4, version), "Version");
        }
        for magic in [0, 0x5146_49fa, 0x4b44_4d56, 0x5145_4400, u32::MAX] {
            tally.refused("magic", &base.with_u32(0, magic), "NotQcow2");
        }
        for count in [1, 2, 65536, u32::MAX] {
            tally.refused("snapshots", &base.with_u32(60, count), "Snapshots");
        }
        for method in [1, 2, 3, u32::MAX] {
            tally.refused("crypt method", &base.with_u32(32, method), "Encrypted");
        }
        tally.refused(
            "LUKS header",
            &base.with_extension(0x0537_be77, 16, &[0; 16]),
            "Encrypted",
        );
        tally.refused(
            "bitmaps",
            &base.with_extension(0x2385_2875, 24, &[0; 24]),
            "Bitmaps",
        );
        for kind in [1, 0x6803_f858, 0x1234_5678, u32::MAX] {
            tally.refused(
                "extension",
                &base.with_extension(kind, 8, &[0; 8]),
                "UnknownExtension",
            );
        }
        for length in [1, 8, u32::MAX] {
            tally.refused(
                "end mark of a length",
                &base.with_extension(0, length, &[]),
                "ReservedBits",
            );
        }
        for length in [u32::MAX, u32::MAX - 7, 1 << 31, 4096, 65536] {
            tally.refused(
                "extension length",
                &base.with_extension(0x6803_f857, length, &[]),
                "TooLarge",
            );
        }
        if !base.is_v3() {
            continue;
        }
        let incompatible = base.u64(72);
        tally.refused("dirty", &base.with_u64(72, incompatible | 1), "Dirty");
        tally.refused("corrupt", &base.with_u64(72, incompatible | 2), "Corrupt");
        tally.refused(
            "subclusters",
            &base.with_u64(72, incompatible | 16),
            "ExtendedL2",
        );
        tally.refused(
            "compression bit",
            &base.with_u64(72, incompatible ^ 8),
            "CompressionType",
        );
        tally.refused("bitmaps bit", &base.with_u64(88, 1), "Bitmaps");
        for bit in 5..64 {
            tally.refused(
                "incompatible bit",
                &base.with_u64(72, incompatible | 1 << bit),
                "UnknownFeature",
            );
        }
        for bit in 1..64 {
            tally.refused(
                "compatible bit",
                &base.with_u64(80, 1 << bit),
                "UnknownFeature",
            );
        }
        for bit in 2..64 {
            tally.refused(
                "autoclear bit",
                &base.with_u64(88, 1 << bit),
                "UnknownFeature",
            );
        }
        for kind in (2..=255).step_by(23) {
            tally.refused(
                "compression type",
                &base.with_u32(104, kind << 24),
                "CompressionType",
            );
        }
        for padding in [1, 0x100, 0xff_ffff] {
            tally.refused(
                "header padding",
                &base.with_u32(104, base.u32(104) | padding),
                "ReservedBits",
            );
        }
        tally.refused("header padding", &base.with_u32(108, 1), "ReservedBits");
        for length in [0, 1, 72, 103] {
            tally.refused("short header", &base.with_u32(100, length), "TooSmall");
        }
        for length in [105, 111, 113] {
            tally.refused("odd header", &base.with_u32(100, length), "Misaligned");
        }
        for length in [base.cluster() as u32 + 8, 1 << 24, u32::MAX] {
            tally.refused("long header", &base.with_u32(100, length), "TooLarge");
        }
        // QEMU's feature names taken for header fields; a small cluster has no room for them.
        if base.cluster() == 512 {
            continue;
        }
        tally.refused(
            "unknown header fields",
            &base.with_u32(100, 120),
            "ReservedBits",
        );
    }
    tally.at_least(500);
}

#[test]
fn impossible_numbers_in_the_header_are_refused() {
    let dir = tempdir().unwrap();
    let mut tally = Tally::default();
    for base in bases(dir.path()) {
        for bits in (0..9).chain(22..64).chain([255, 256, u32::MAX]) {
            tally.refused(
                "cluster_bits",
                &base.with_u32(20, bits),
                "TooSmall|TooLarge",
            );
        }
        // CVE-2014-0223; and CVE-2015-5162 for what a size alone can cost
        for size in [
            (64 << 40) + 512,
            1 << 50,
            1 << 62,
            1 << 63,
            u64::MAX - 511,
            u64::MAX,
        ] {
            tally.refused("size", &base.with_u64(24, size), "TooLarge");
        }
        for size in [1, 511, 513, (2 << 20) + 1] {
            tally.refused("odd size", &base.with_u64(24, size), "Misaligned");
        }
        for size in [1 << 40, 64 << 40] {
            tally.refused(
                "size beyond the L1 table",
                &base.with_u64(24, size),
                "TooSmall",
            );
        }
        for entries in [(4 << 20) + 1, 1 << 24, 1 << 31, u32::MAX] {
            tally.refused("L1 entries", &base.with_u32(36, entries), "TooLarge");
        }
        tally.refused("no L1 entries", &base.with_u32(36, 0), "TooSmall");
        for clusters in [(8 << 20) / base.cluster() as u32 + 1, 1 << 31, u32::MAX] {
            tally.refused(
                "refcount table clusters",
                &base.with_u32(56, clusters),
                "TooLarge",
            );
        }
        tally.refused("no refcount table", &base.with_u32(56, 0), "TooSmall");
        let end = base.length().next_multiple_of(base.cluster());
        for (what, at) in [("L1 offset", 40), ("refcount table offset", 48)] {
            for offset in [
                end,
                end + base.cluster(),
                1 << 40,
                1 << 62,
                1 << 63,
                u64::MAX << 21,
            ] {
                tally.refused(what, &base.with_u64(at, offset), "OutOfBounds");
            }
            for offset in [1, 8, 511, base.cluster() + 1, u64::MAX] {
                tally.refused(what, &base.with_u64(at, offset), "Misaligned");
            }
            tally.refused(what, &base.with_u64(at, 0), "Overlap");
        }
        tally.refused(
            "L1 in the refcount table",
            &base.with_u64(40, base.refcount_table()),
            "Overlap",
        );
        tally.refused(
            "refcount table in the L1 table",
            &base.with_u64(48, base.l1()),
            "Overlap",
        );
        for offset in [
            base.cluster(),
            base.length() / base.cluster() * base.cluster(),
        ] {
            assert!(
                open_bytes(&base.with_u64(64, offset)).is_ok(),
                "where the snapshot table of none was"
            );
        }
        for offset in [base.length() + 1, 1 << 63, u64::MAX] {
            tally.refused("snapshot table", &base.with_u64(64, offset), "OutOfBounds");
        }
        tally.refused("snapshot table", &base.with_u64(64, 8), "Misaligned");
        if base.is_v3() {
            for order in [7, 8, 31, 32, 63, 64, 256, u32::MAX] {
                tally.refused("refcount order", &base.with_u32(96, order), "TooLarge");
            }
        }
    }
    tally.at_least(400);
}

#[test]
fn a_cut_image_is_refused() {
    let dir = tempdir().unwrap();
    let mut tally = Tally::default();
    for base in bases(dir.path()) {
        for length in (0..4096).step_by(64) {
            // An empty or tiny file has no magic number either.
            tally.refused(
                &format!("{} cut to {length}", base.name),
                &base.bytes[..length],
                "OutOfBounds",
            );
        }
        // The last cluster may be cut by QEMU itself, so cut two.
        let mut length = base.length() - 2 * base.cluster();
        while length > 4096 {
            tally.refused(
                &format!("{} cut to {length} of {}", base.name, base.length()),
                &base.bytes[..length as usize],
                "OutOfBounds",
            );
            length = length * 7 / 8;
        }
    }
    tally.at_least(350);
}

#[test]
fn tables_out_of_bounds_or_on_top_of_each_other_are_refused() {
    let dir = tempdir().unwrap();
    let mut tally = Tally::default();
    for base in bases(dir.path()) {
        let name = base.name;
        let cluster = base.cluster();
        let end = base.length().next_multiple_of(cluster);
        let metadata = [
            ("header", 0),
            ("L1 table", base.l1()),
            ("L2 table", base.l2()),
            ("refcount table", base.refcount_table()),
            ("refcount block", base.refcount_block()),
        ];
        let copied = 1 << 63;
        let (l1, refcount_table) = (base.l1(), base.refcount_table());
        for offset in [end, end + cluster, 1 << 45, 0x00ff_ffff_ffe0_0000] {
            tally.refused(
                "L2 table",
                &base.with_u64(l1, copied | offset),
                "OutOfBounds",
            );
            tally.refused(
                "refcount block",
                &base.with_u64(refcount_table, offset),
                "OutOfBounds",
            );
        }
        for bit in (0..9).chain(56..63) {
            tally.refused(
                "L1 entry",
                &base.with_u64(l1, base.u64(l1) | 1 << bit),
                "ReservedBits",
            );
        }
        tally.refused(
            "L1 entry of a flag only",
            &base.with_u64(l1, copied),
            "ReservedBits",
        );
        for bit in 0..9 {
            let entry = base.refcount_block() | 1 << bit;
            tally.refused(
                "refcount entry",
                &base.with_u64(refcount_table, entry),
                "ReservedBits",
            );
        }
        if cluster > 512 {
            let entry = copied | (base.l2() + 512);
            tally.refused("L2 table", &base.with_u64(l1, entry), "Misaligned");
            tally.refused(
                "refcount block",
                &base.with_u64(refcount_table, base.refcount_block() + 512),
                "Misaligned",
            );
        }
        for (other, offset) in metadata {
            let what = format!("{name}: in the {other}");
            if other != "L2 table" && offset != 0 {
                tally.refused(&what, &base.with_u64(l1, copied | offset), "Overlap");
            }
            // Tables of one cluster have one entry in use; the next one can point anywhere.
            if offset != 0 {
                tally.refused(&what, &base.with_u64(refcount_table + 8, offset), "Overlap");
                for at in [base.l2_entry(false), base.l2_entry(true)] {
                    tally.refused(&what, &base.with_u64(at, copied | offset), "Overlap");
                }
                let at = base.l2_entry(true);
                for within in [0, 1, cluster - 1] {
                    tally.refused(
                        &what,
                        &base.with_u64(at, 1 << 62 | (offset + within)),
                        "Overlap",
                    );
                }
            }
        }
        tally.refused(
            "compressed header",
            &base.with_u64(base.l2_entry(true), 1 << 62),
            "Overlap",
        );

        let (plain, compressed) = (base.l2_entry(false), base.l2_entry(true));
        let data = base.u64(plain) & 0x00ff_ffff_ffff_fe00;
        let shift = 62 - (base.u32(20) - 8);
        let offset = base.u64(compressed) & ((1 << shift) - 1);
        tally.refused(
            "a cluster used twice",
            &base.with_u64(plain + 8, copied | data),
            "Overlap",
        );
        tally.refused(
            "plain in compressed",
            &base.with_u64(plain, offset / cluster * cluster),
            "Overlap",
        );
        tally.refused(
            "compressed in plain",
            &base.with_u64(compressed, 1 << 62 | (data + 7)),
            "Overlap",
        );
        // Two new clusters: the first is free, the second is a data cluster that a compressed one runs into.
        let mut longer = base.clone();
        longer.bytes.resize((end + 2 * cluster) as usize, 0);
        longer.bytes = longer.with_u64(plain, copied | (end + cluster));
        longer.bytes = longer.with_u64(compressed, 1 << 62 | 1 << shift | (end + cluster - 512));
        tally.refused("compressed that ends in plain", &longer.bytes, "Overlap");
        longer.bytes = longer.with_u64(compressed, 1 << 62 | (end + cluster - 512));
        assert!(
            open_bytes(&longer.bytes).is_ok(),
            "compressed that ends in front of plain"
        );
        for offset in [end, end + cluster, 1 << 45, 0x00ff_ffff_ffe0_0000] {
            tally.refused(
                "data cluster",
                &base.with_u64(plain, copied | offset),
                "OutOfBounds",
            );
        }
        for bit in (1..9).chain(56..62) {
            let classes = if bit < 9 && base.cluster() < 512 << 1 {
                "ReservedBits"
            } else {
                "ReservedBits|Misaligned"
            };
            tally.refused(
                "L2 entry",
                &base.with_u64(plain, base.u64(plain) | 1 << bit),
                classes,
            );
        }
        tally.refused(
            "L2 entry of a flag only",
            &base.with_u64(plain, copied),
            "ReservedBits",
        );
        tally.refused(
            "compressed and copied",
            &base.with_u64(compressed, base.u64(compressed) | copied),
            "ReservedBits",
        );
        let last = base.length().next_multiple_of(512);
        for offset in [last, last + 1, (1 << shift.min(56)) - 1] {
            tally.refused(
                "compressed beyond the end",
                &base.with_u64(compressed, 1 << 62 | offset),
                "OutOfBounds",
            );
        }
        let sectors = (1_u64 << (62 - shift)) - 1;
        let entry = 1 << 62 | sectors << shift | (base.length() - 1);
        tally.refused(
            "sectors beyond the end",
            &base.with_u64(compressed, entry),
            "OutOfBounds",
        );
        if cluster > 512 {
            tally.refused(
                "data cluster",
                &base.with_u64(plain, copied | (data + 512)),
                "Misaligned",
            );
        }
        if shift > 56 {
            let entry = base.u64(compressed) | 1 << 56;
            tally.refused(
                "offset of more than 56 bits",
                &base.with_u64(compressed, entry),
                "ReservedBits",
            );
        }
        if !base.is_v3() {
            tally.refused(
                "zero flag in version 2",
                &base.with_u64(plain, 1),
                "ZeroFlagInV2",
            );
            tally.refused(
                "zero flag in version 2",
                &base.with_u64(plain, copied | data | 1),
                "ZeroFlagInV2",
            );
        }
    }
    tally.at_least(300);
}

#[test]
fn other_formats_are_not_taken_for_qcow2() {
    let mut tally = Tally::default();
    let mut iso = vec![0; 1 << 16];
    iso[32769..32774].copy_from_slice(b"CD001");
    let descriptor = b"# Disk DescriptorFile\nversion=1\nRW 63 FLAT \"/etc/passwd\" 0\n".to_vec();
    // CVE-2022-47951: a VMDK descriptor that names a host file.
    for (what, bytes) in [
        ("VMDK descriptor", descriptor),
        ("VMDK", b"KDMV\x01\0\0\0".repeat(64)),
        ("QED", b"QED\0".repeat(64)),
        ("VHDX", b"vhdxfile".repeat(64)),
        ("LUKS", b"LUKS\xba\xbe\0\x01".repeat(64)),
        ("ISO", iso),
        ("zeros", vec![0; 4096]),
        ("gzip", vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0]),
    ] {
        tally.refused(what, &bytes, "NotQcow2");
    }
    tally.refused("qcow version 1", b"QFI\xfb\0\0\0\x01", "Version");
    tally.at_least(9);
}

#[test]
fn a_raw_disk_that_begins_like_a_qcow2_stays_raw() {
    // CVE-2026-24708: a guest writes a qcow2 header into its raw disk.
    let dir = tempdir().unwrap();
    let base = Base::make(dir.path(), "inner", "-o compat=1.1");
    let file = tempfile().unwrap();
    file.write_all_at(&base.bytes, 0).unwrap();
    let raw = RawFile::new(file).unwrap();
    let disk = read_all(&raw);
    assert!(disk[..base.bytes.len()] == base.bytes[..]);
    assert_eq!(disk.len(), base.bytes.len().next_multiple_of(512));
}

#[test]
fn a_table_that_points_at_one_compressed_cluster_over_and_over_is_refused() {
    let dir = tempdir().unwrap();
    let mut tally = Tally::default();
    for base in bases(dir.path()) {
        if base.name == "small" {
            // One L2 table has 64 entries there, and a cluster of runs is some bytes: no bomb.
            continue;
        }
        let entry = base.u64(base.l2_entry(true));
        // Beginning some bytes later each time does not help.
        for spread in [1, 512] {
            let mut bomb = base.clone();
            let table = base.l2() as usize..(base.l2() + base.cluster()) as usize;
            for (index, slot) in bomb.bytes[table]
                .as_chunks_mut::<8>()
                .0
                .iter_mut()
                .enumerate()
            {
                *slot = (entry + index as u64 % spread).to_be_bytes();
            }
            tally.refused(base.name, &bomb.bytes, "Amplification");
        }
    }
    tally.at_least(8);
}

/// A deflate image of one compressed cluster whose bytes are replaced.
fn with_cluster(base: &Base, content: &[u8]) -> Vec<u8> {
    let at = base.l2_entry(true);
    let mut image = base.clone();
    let offset = base.length().next_multiple_of(base.cluster());
    image.bytes.resize(offset as usize, 0);
    image.bytes.extend(content);
    image
        .bytes
        .resize(image.bytes.len().next_multiple_of(512), 0);
    let shift = 62 - (base.u32(20) - 8);
    let sectors = (content.len() as u64).div_ceil(512) - 1;
    image.with_u64(at, 1 << 62 | sectors << shift | offset)
}

#[test]
fn compressed_clusters_that_are_no_cluster_are_errors_when_read() {
    let dir = tempdir().unwrap();
    let deflate = Base::make(dir.path(), "v3", "-c -o compat=1.1");
    let zstd = Base::make(dir.path(), "zstd", "-c -o compression_type=zstd");
    let bomb = vec![0; 1 << 30];
    let mut compressor = zstd::bulk::Compressor::new(1).unwrap();
    let zstd_bomb = compressor.compress(&bomb).unwrap();
    assert!(zstd_bomb.len() < 100_000);
    let mut raw_deflate = libdeflater::Compressor::new(libdeflater::CompressionLvl::fastest());
    let mut out = vec![0; raw_deflate.deflate_compress_bound(60 << 20)];
    let length = raw_deflate
        .deflate_compress(&bomb[..60 << 20], &mut out)
        .unwrap();
    // A descriptor of a 64 KiB cluster can name 128 KiB.
    let deflate_bomb = out[..length.min(128 << 10)].to_vec();
    let length = raw_deflate
        .deflate_compress(&bomb[..1000], &mut out)
        .unwrap();
    let deflate_short = out[..length].to_vec();
    // A header that wants a window of 2 GiB, a skippable frame, a frame with a dictionary.
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x80, 0xa8, 0, 0, 1, 0, 1, 0, 0];
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0x7f];
    let dictionary = [0x28, 0xb5, 0x2f, 0xfd, 0x21, 7, 0, 0, 0];
    for (what, base, content) in [
        ("a zstd frame of 1 GiB", &zstd, &zstd_bomb[..]),
        (
            "a zstd frame of 100 bytes",
            &zstd,
            &zstd::bulk::compress(&bomb[..100], 1).unwrap(),
        ),
        ("a zstd window of 2 GiB", &zstd, &window),
        ("a skippable frame", &zstd, &skippable),
        ("a dictionary", &zstd, &dictionary),
        ("noise", &zstd, &[0xa7; 600]),
        ("a deflate stream of 60 MiB", &deflate, &deflate_bomb),
        ("a deflate stream of 1000 bytes", &deflate, &deflate_short),
        ("a reserved block type", &deflate, &[0xff; 600]),
        (
            "an endless row of empty blocks",
            &deflate,
            &[0, 0, 0, 0xff, 0xff].repeat(1000),
        ),
    ] {
        let reader = open_bytes(&with_cluster(base, content))
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let start = cpu_time();
        let result = reader.read_chunk(0, &mut [0; CHUNK]);
        assert!(
            matches!(result, Err(SourceError::Cluster { .. })),
            "{what}: {result:?}"
        );
        assert!(cpu_time() - start < Duration::from_millis(100), "{what}");
    }
}

/// Peak memory of this process in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        << 10
}

#[test]
fn an_image_as_large_as_the_limits_allow_stays_within_its_memory() {
    let file = tempfile().unwrap();
    // 16 TiB of file less two clusters, 64 TiB of disk, and data all over the place.
    let cluster = CHUNK as u64;
    let length = (16_u64 << 40) - 2 * cluster;
    if file.set_len(length).is_err() {
        panic!(
            "this test needs a file system for temporary files that can hold sparse files of 16 TiB"
        );
    }
    let header_of = tempfile().unwrap();
    impasto_store::qcow2::create_overlay(&header_of, 64 << 40).unwrap();
    let mut header = vec![0; 4 << 16];
    header_of.read_exact_at(&mut header, 0).unwrap();
    file.write_all_at(&header, 0).unwrap();
    let (l1, l2) = (3 * cluster, 100 * cluster);
    file.write_all_at(&(l2 | 1 << 63).to_be_bytes(), l1)
        .unwrap();
    let step = (length - (1 << 30)) / 8192 / cluster * cluster;
    let entries: Vec<u8> = (0..8192)
        .flat_map(|index| (1 << 63 | ((1 << 30) + index * step)).to_be_bytes())
        .collect();
    file.write_all_at(&entries, l2).unwrap();
    // A second table of compressed clusters, as far apart as the others.
    file.write_all_at(&((l2 + cluster) | 1 << 63).to_be_bytes(), l1 + 8)
        .unwrap();
    let entries: Vec<u8> = (0..8192)
        .flat_map(|index| (1 << 62 | ((1 << 29) + index * step)).to_be_bytes())
        .collect();
    file.write_all_at(&entries, l2 + cluster).unwrap();
    let before = peak_memory();
    let reader = open_file(file).unwrap();
    let used = peak_memory() - before;
    assert!(used <= 64 << 20, "{} MiB", used >> 20);
    assert_eq!(
        reader.read_chunk(8191, &mut [1; CHUNK]).unwrap(),
        Content::Data
    );
    assert_eq!(reader.next_present(16384).unwrap(), None);
    assert_eq!(
        reader.read_chunk((1 << 30) - 1, &mut [1; CHUNK]).unwrap(),
        Content::Zero
    );
    assert!(matches!(
        reader.read_chunk(1 << 30, &mut [1; CHUNK]),
        Err(SourceError::BeyondEnd { .. })
    ));
}

#[test]
fn a_file_of_too_many_clusters_is_refused() {
    let dir = tempdir().unwrap();
    let image = dir.path().join("image.qcow2");
    qemu_img("create -q -f qcow2 -o cluster_size=512 {} 1M", &[&image]);
    let file = File::options().read(true).write(true).open(&image).unwrap();
    // One bit per cluster is kept, 32 MiB of them.
    file.set_len(128 << 30).unwrap();
    assert!(Qcow2::open(file.try_clone().unwrap()).is_ok());
    file.set_len((128 << 30) + 1).unwrap();
    let result = Qcow2::open(file);
    assert!(
        matches!(result, Err(GateError::TooLarge { value, limit, .. }) if value == limit + 1),
        "{result:?}"
    );
}

/// An image whose L1 entries all point to L2 tables of their own, all of which are holes: a small file that stands for
/// gigabytes of metadata.
fn full_of_empty_tables(options: &str, size: u64, tables: u64) -> File {
    let dir = tempdir().unwrap();
    let image = dir.path().join("image.qcow2");
    qemu_img(
        &format!("create -q -f qcow2 -o {options} {{}} {size}"),
        &[&image],
    );
    let file = File::options().read(true).write(true).open(&image).unwrap();
    let base = Base {
        name: "sparse",
        bytes: std::fs::read(&image).unwrap(),
    };
    let (cluster, end) = (
        base.cluster(),
        base.length().next_multiple_of(base.cluster()),
    );
    let entries: Vec<u8> = (0..tables)
        .flat_map(|index| (1 << 63 | (end + index * cluster)).to_be_bytes())
        .collect();
    file.write_all_at(&entries, base.l1()).unwrap();
    // Behind the hole there is data, so that it has to be asked where it ends.
    file.write_all_at(&[1], end + tables * cluster + 1_000_000)
        .unwrap();
    file
}

#[test]
fn a_sparse_file_full_of_empty_tables_opens_quickly() {
    for (options, size, tables) in [
        ("cluster_size=64k", 64 << 40, 131_072),
        ("cluster_size=2M", 64 << 40, 128),
        ("cluster_size=512", 64 << 30, 2 << 20),
    ] {
        let file = full_of_empty_tables(options, size, tables);
        let start = cpu_time();
        let image = Qcow2::open(file).unwrap_or_else(|error| panic!("{options}: {error}"));
        let took = cpu_time() - start;
        assert!(took < Duration::from_millis(250), "{options}: {took:?}");
        assert_eq!(image.virtual_size(), size);
    }
}

/// Some bytes changed, mostly where it hurts: the header, the tables, the beginning of compressed clusters.
fn damage(base: &Base, random: &mut Random) -> Vec<u8> {
    let mut bytes = base.bytes.clone();
    for _ in 0..1 + random.below(6) {
        let (from, length) = match random.below(8) {
            0 | 1 => (0, 112),
            2 => (base.l1(), 16),
            3 => (base.refcount_table(), 16),
            4 | 5 => (base.l2(), base.cluster().min(512)),
            _ => (0, base.length()),
        };
        let at = (from + random.below(length)).min(base.length() - 1) as usize;
        bytes[at] = match random.below(3) {
            0 => random.next() as u8,
            1 => bytes[at] ^ (1 << random.below(8)),
            _ => random.pick(&[0, 1, 0x7f, 0x80, 0xff]),
        };
    }
    bytes
}

#[test]
fn a_damaged_image_that_we_read_reads_the_same_in_qemu() {
    let dir = tempdir().unwrap();
    let bases = bases(dir.path());
    let mut random = Random::new(4711);
    let (image, flat) = (
        dir.path().join("damaged.qcow2"),
        dir.path().join("flat.raw"),
    );
    let mut compared = 0;
    while compared < COMPARED {
        let base = &bases[random.below(bases.len() as u64) as usize];
        let bytes = damage(base, &mut random);
        let Ok(reader) = open_bytes(&bytes) else {
            continue;
        };
        // A size that grew a thousandfold makes qemu-img write for a long time.
        let mut disk = vec![0; reader.chunks() as usize * CHUNK];
        if disk.len() > 64 << 20 || !read_into(&reader, &mut disk) {
            continue;
        }
        disk.truncate(reader.virtual_size() as usize);
        std::fs::write(&image, &bytes).unwrap();
        qemu_img("convert -q -f qcow2 -O raw {} {}", &[&image, &flat]);
        assert!(
            std::fs::read(&flat).unwrap() == disk,
            "{} number {compared} reads differently",
            base.name
        );
        compared += 1;
    }
}

/// 1,500 were compared once; each costs a run of qemu-img.
const COMPARED: u32 = 100;

/// False where a cluster is damaged.
fn read_into(reader: &Qcow2, disk: &mut [u8]) -> bool {
    disk.as_chunks_mut::<CHUNK>()
        .0
        .iter_mut()
        .enumerate()
        .all(|(index, chunk)| reader.read_chunk(index as u64, chunk).is_ok())
}

#[test]
fn what_qemu_img_itself_makes_of_unwanted_features_is_refused() {
    let dir = tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let mut tally = Tally::default();
    let mut refused = |name: &str, class| {
        tally.refused_result(name, open_file(File::open(path(name)).unwrap()), class)
    };

    qemu_img("create -q -f qcow2 {} 1M", &[&path("base")]);
    qemu_img(
        "create -q -f qcow2 -F qcow2 -b {} {}",
        &[&path("base"), &path("backed")],
    );
    refused("backed", "BackingFile");
    qemu_img("rebase -q -u -f qcow2 {}", &[&path("backed")]);
    assert!(
        open_file(File::open(path("backed")).unwrap()).is_ok(),
        "a backing file that was taken away"
    );

    qemu_img(
        "create -q -f qcow2 -o data_file={} {} 1M",
        &[&path("data"), &path("outside")],
    );
    refused("outside", "DataFile");
    qemu_img(
        "create -q -f qcow2 -o data_file={},data_file_raw=on {} 1M",
        &[&path("data"), &path("outside-raw")],
    );
    refused("outside-raw", "DataFile");
    qemu_img(
        "create -q -f qcow2 -o extended_l2=on {} 1M",
        &[&path("subclusters")],
    );
    refused("subclusters", "ExtendedL2");
    qemu_img(
        "create -q --object secret,id=s,data=x -f qcow2 -o encrypt.format=aes,encrypt.key-secret=s {} 1M",
        &[&path("aes")],
    );
    refused("aes", "Encrypted");
    qemu_img("snapshot -q -c one {}", &[&path("base")]);
    refused("base", "Snapshots");
    qemu_img("snapshot -q -d one {}", &[&path("base")]);
    assert!(
        open_file(File::open(path("base")).unwrap()).is_ok(),
        "a snapshot that was deleted"
    );
    qemu_img("bitmap --add -f qcow2 {} map", &[&path("base")]);
    refused("base", "Bitmaps");
    qemu_img("bitmap --remove -f qcow2 {} map", &[&path("base")]);
    assert!(
        open_file(File::open(path("base")).unwrap()).is_ok(),
        "a bitmap that was removed"
    );
    tally.at_least(7);
}

#[test]
fn two_thousand_damaged_images_give_errors_or_data_but_no_panic() {
    let dir = tempdir().unwrap();
    let bases = bases(dir.path());
    let mut random = Random::new(2000);
    let (mut refused, mut damaged, mut read) = (0, 0, 0);
    for _ in 0..2000 {
        let base = &bases[random.below(bases.len() as u64) as usize];
        let bytes = damage(base, &mut random);
        let Ok(reader) = open_bytes(&bytes) else {
            refused += 1;
            continue;
        };
        let mut buffer = [0; CHUNK];
        let (mut index, mut chunks, mut failed) = (0, 0, false);
        while let Ok(Some(found)) = reader.next_present(index) {
            failed |= reader.read_chunk(found, &mut buffer).is_err();
            index = found + 1;
            chunks += 1;
            if chunks == 500 {
                break;
            }
        }
        *(if failed { &mut damaged } else { &mut read }) += 1;
    }
    assert!(
        refused > 500 && damaged > 10 && read > 100,
        "{refused} {damaged} {read}"
    );
}

#[test]
fn a_file_that_changes_behind_the_gate_gives_errors_but_no_panic() {
    let dir = tempdir().unwrap();
    for base in bases(dir.path()) {
        let file = tempfile().unwrap();
        file.write_all_at(&base.bytes, 0).unwrap();
        let reader = Qcow2::open(file.try_clone().unwrap()).unwrap();
        // A file that is cut must not read as zeros.
        assert!(reader.read_chunk(31, &mut [0; CHUNK]).is_ok());
        file.set_len(base.length() / 2).unwrap();
        let result = reader.read_chunk(31, &mut [0; CHUNK]);
        assert!(
            matches!(result, Err(SourceError::Read { .. })),
            "{}: {result:?}",
            base.name
        );
        file.write_all_at(&base.bytes, 0).unwrap();
        let reader = Qcow2::open(file.try_clone().unwrap()).unwrap();
        // All ones: reserved bits, offsets beyond the end, in every entry.
        file.write_all_at(&vec![0xff; base.cluster() as usize], base.l2())
            .unwrap();
        assert!(
            matches!(
                reader.read_chunk(0, &mut [0; CHUNK]),
                Err(SourceError::Table(_))
            ),
            "{}",
            base.name
        );
        file.set_len(base.l2()).unwrap();
        let reader = Qcow2::open(tempfile().unwrap()).err().map(|_| reader);
        let result = reader.unwrap().read_chunk(31, &mut [0; CHUNK]);
        assert!(result.is_err(), "{}", base.name);
    }
}
