//! ISO 9660 images with Rock Ridge names, which BIOS and UEFI boot from a CD, a DVD or a USB stick.
//! Knows the formats (ECMA-119, SUSP and RRIP, El Torito); where boot loaders come from is the caller's knowledge.
//!
//! ```text
//! sector 0   boot record of a disk, where it is to boot from one as well
//!        16  volume, boot record, end of the descriptors
//!        19  tables of paths │ directories │ boot catalogue │ file system for UEFI │ files
//! ```

mod directory;
mod esp;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::stream::{MediaStream, StreamBuilder};
use super::{ArchiveMember, MemberError, MemberKind};
use directory::{IsoDirectories, IsoExtent};

pub use esp::EspError;

/// Bytes of a sector.
const SECTOR: u64 = 2048;
/// Where the descriptors begin, in sectors.
const VOLUME: u64 = 16;
/// The image is filled up to this, in bytes: a cylinder of the geometry that its partitions tell.
const CYLINDER: u64 = 1 << 20;
/// The first file that is too large for one extent, in bytes.
const TOO_LARGE: u64 = (1 << 32) - SECTOR;

/// What boots a PC with BIOS: files of the ISOLINUX package.
#[derive(Debug)]
pub struct BiosLoader {
    /// `isolinux.bin`.
    pub program: Vec<u8>,
    /// `ldlinux.c32`.
    pub module: Vec<u8>,
    /// `isohdpfx.bin`: the boot record of a disk, which starts the same.
    pub record: Vec<u8>,
}

/// What boots UEFI.
#[derive(Debug)]
pub struct EfiLoader {
    /// Programs by their names in `EFI/BOOT`, all capital letters.
    pub programs: Vec<(String, Vec<u8>)>,
}

/// An image to be made.
#[derive(Debug)]
pub struct IsoImage<'a> {
    /// Its files, directories and links by path.
    pub members: BTreeMap<Vec<u8>, ArchiveMember>,
    pub bios: Option<&'a BiosLoader>,
    pub efi: Option<&'a EfiLoader>,
    /// The kernel's arguments.
    pub arguments: &'a [String],
    /// The volume's label: at most 32 of `A` to `Z`, digits and `_`.
    pub label: &'a str,
    /// Whether it boots from a disk as well.
    pub hybrid: bool,
    /// Every time in it, in seconds since 1970.
    pub epoch: u64,
}

/// Where the kernel and the ramdisk of an image lie.
pub const KERNEL: &str = "boot/vmlinuz";
pub const RAMDISK: &str = "boot/initrd.img";

const ISOLINUX: &str = "isolinux/isolinux.bin";
const MODULE: &str = "isolinux/ldlinux.c32";
const CATALOGUE: &str = "isolinux/boot.cat";
const ESP: &str = "boot/grub/efi.img";

/// What a file holds.
#[derive(Debug, Clone)]
enum IsoContent {
    Bytes(Vec<u8>),
    /// A file of the stream's source.
    File {
        file: usize,
        size: u64,
    },
}

impl IsoContent {
    fn size(&self) -> u64 {
        match self {
            IsoContent::Bytes(bytes) => bytes.len() as u64,
            IsoContent::File { size, .. } => *size,
        }
    }
}

/// An image that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum IsoError {
    #[error(transparent)]
    Member(#[from] MemberError),
    #[error(
        "{one} and {other} differ in case only, which not every reader of an ISO image can tell apart"
    )]
    Case { one: String, other: String },
    /// A user's file is in the place of one that boots.
    #[error("{path} is in the place of a file that boots the image")]
    Taken { path: String },
    #[error(transparent)]
    Esp(#[from] EspError),
    /// The time cannot be written.
    #[error("`source_date_epoch` is beyond what an ISO image can say: the year 2155")]
    Time,
    /// The sectors are more than 32 bits can count.
    #[error("the image would have more than 8 TiB")]
    Size,
}

/// The stream of an image.
///
/// # Errors
/// Something cannot be in one, or not so.
pub fn stream(image: IsoImage<'_>) -> Result<MediaStream, IsoError> {
    let date = Date::of(image.epoch).ok_or(IsoError::Time)?;
    let (bios, hybrid, label) = (image.bios, image.hybrid, image.label);
    let (members, mut contents) = laid_out(image)?;
    let mut directories = IsoDirectories::of(&members)?;
    let mut next = VOLUME
        + if contents.contains_key(CATALOGUE.as_bytes()) {
            3
        } else {
            2
        };
    let table = directories.table_size();
    let tables = [next, next + table.div_ceil(SECTOR)];
    next = tables[1] + table.div_ceil(SECTOR);
    next = directories.place(next);
    let mut extents: BTreeMap<Vec<u8>, IsoExtent> = BTreeMap::new();
    for (path, content) in &contents {
        let size = content.size();
        // An empty file lies nowhere.
        let start = if size == 0 { 0 } else { next };
        extents.insert(path.clone(), IsoExtent { start, size });
        next += size.div_ceil(SECTOR);
    }
    let end = (next * SECTOR).next_multiple_of(CYLINDER);
    let sectors = u32::try_from(end / SECTOR).map_err(|_| IsoError::Size)?;
    let extent = |path: &str| extents.get(path.as_bytes()).copied();
    for (path, bytes) in [
        (
            ISOLINUX,
            bios.map(|loader| with_table(&loader.program, extent(ISOLINUX))),
        ),
        (CATALOGUE, Some(catalogue(extent(ISOLINUX), extent(ESP)))),
    ] {
        if let (Some(content), Some(bytes)) = (contents.get_mut(path.as_bytes()), bytes) {
            *content = IsoContent::Bytes(bytes);
        }
    }
    let mut builder = StreamBuilder::default();
    let record = match hybrid {
        true => record(bios, extent(ISOLINUX), extent(ESP), end),
        false => vec![0; 512],
    };
    builder.bytes(&record);
    builder.pad(VOLUME * SECTOR);
    builder.bytes(&volume(label, sectors, table, tables, &directories, &date));
    if let Some(catalogue) = extent(CATALOGUE) {
        let mut sector = vec![0; SECTOR as usize];
        sector[..7].copy_from_slice(b"\0CD001\x01");
        sector[7..30].copy_from_slice(b"EL TORITO SPECIFICATION");
        sector[71..75].copy_from_slice(&(catalogue.start as u32).to_le_bytes());
        builder.bytes(&sector);
    }
    builder.bytes(b"\xffCD001\x01");
    builder.pad(SECTOR);
    for big in [false, true] {
        builder.bytes(&directories.table(big));
        builder.pad(SECTOR);
    }
    builder.bytes(&directories.records(&members, &extents, &date)?);
    for (path, content) in &contents {
        builder.begin(path);
        match content {
            IsoContent::Bytes(bytes) => builder.bytes(bytes),
            IsoContent::File { file, size } => builder.file(*file, *size),
        }
        builder.pad(SECTOR);
    }
    builder.pad(CYLINDER);
    Ok(builder.finish())
}

/// Members by path, and the contents of files, those that boot it included.
type LaidOut = (
    BTreeMap<Vec<u8>, ArchiveMember>,
    BTreeMap<Vec<u8>, IsoContent>,
);

fn laid_out(image: IsoImage<'_>) -> Result<LaidOut, IsoError> {
    let mut members = image.members;
    let mut contents = BTreeMap::new();
    for member in members.values() {
        match member.kind {
            MemberKind::File { size, .. } if size >= TOO_LARGE => {
                return Err(IsoError::Member(MemberError {
                    path: member.path.clone(),
                    problem: "has 4 GiB or more, which a file of an ISO image cannot have",
                }));
            }
            MemberKind::File { file, size } => {
                contents.insert(member.path.clone(), IsoContent::File { file, size });
            }
            MemberKind::Dir | MemberKind::Symlink { .. } => {}
            _ => {
                return Err(IsoError::Member(MemberError {
                    path: member.path.clone(),
                    problem: "is not a file, directory or symbolic link, and an ISO image holds nothing else",
                }));
            }
        }
    }
    let arguments = image.arguments.join(" ");
    let mut own: Vec<(&str, Vec<u8>)> = Vec::new();
    if let Some(loader) = image.bios {
        let config = format!(
            "DEFAULT linux\nPROMPT 0\nLABEL linux\n  KERNEL /{KERNEL}\n  APPEND initrd=/{RAMDISK} {arguments}\n"
        );
        own.push(("isolinux/isolinux.cfg", config.into_bytes()));
        own.push((ISOLINUX, loader.program.clone()));
        own.push((MODULE, loader.module.clone()));
    }
    if let Some(loader) = image.efi {
        let config = format!(
            "set timeout=0\nmenuentry linux {{\n  linux /{KERNEL} {arguments}\n  initrd /{RAMDISK}\n}}\n"
        );
        own.push(("boot/grub/grub.cfg", config.into_bytes()));
        // GRUB looks for it to find the medium.
        own.push((".disk/info", format!("{}\n", image.label).into_bytes()));
        own.push((ESP, esp::image(&loader.programs)?));
    }
    if !own.is_empty() {
        own.push((CATALOGUE, vec![0; SECTOR as usize]));
    }
    for (path, bytes) in own {
        let path = path.as_bytes();
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let above = slashes.map(|(at, _)| &path[..at]);
        let nodes = above.map(|path| (path, MemberKind::Dir, 0o755));
        let size = bytes.len() as u64;
        let file = MemberKind::File { file: 0, size };
        for (path, kind, mode) in nodes.chain([(path, file, 0o644)]) {
            let there = members.get(path).map(|member| &member.kind);
            match (there, &kind) {
                (Some(MemberKind::Dir), MemberKind::Dir) => continue,
                (Some(_), _) => {
                    let path = String::from_utf8_lossy(path).into_owned();
                    return Err(IsoError::Taken { path });
                }
                (None, _) => {}
            }
            let member = ArchiveMember {
                path: path.to_vec(),
                kind,
                mode,
                uid: 0,
                gid: 0,
                xattrs: Vec::new(),
            };
            members.insert(path.to_vec(), member);
        }
        contents.insert(path.to_vec(), IsoContent::Bytes(bytes));
    }
    Ok((members, contents))
}

/// ISOLINUX with the table of where it lies (mkisofs(8), -boot-info-table).
fn with_table(program: &[u8], extent: Option<IsoExtent>) -> Vec<u8> {
    let extent = extent.unwrap_or_default();
    let mut bytes = program.to_vec();
    let words = bytes.get(64..).unwrap_or_default().chunks(4);
    let sum = words.fold(0_u32, |sum, word| {
        let mut four = [0; 4];
        four[..word.len()].copy_from_slice(word);
        sum.wrapping_add(u32::from_le_bytes(four))
    });
    let table = [VOLUME as u32, extent.start as u32, bytes.len() as u32, sum];
    for (place, value) in bytes[8..].chunks_exact_mut(4).zip(table) {
        place.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// The boot catalogue: what each firmware starts.
fn catalogue(bios: Option<IsoExtent>, efi: Option<IsoExtent>) -> Vec<u8> {
    const BIOS: u8 = 0;
    const EFI: u8 = 0xef;
    let mut bytes = Vec::with_capacity(SECTOR as usize);
    let entry = |bytes: &mut Vec<u8>, sectors: u16, extent: IsoExtent| {
        bytes.extend([0x88, 0, 0, 0, 0, 0]);
        bytes.extend(sectors.to_le_bytes());
        bytes.extend((extent.start as u32).to_le_bytes());
        bytes.extend([0; 20]);
    };
    let platform = if bios.is_some() { BIOS } else { EFI };
    let mut head = [0; 32];
    (head[0], head[1], head[30], head[31]) = (1, platform, 0x55, 0xaa);
    let words = head.as_chunks::<2>().0.iter();
    let sum = words.fold(0_u16, |sum, word| {
        sum.wrapping_add(u16::from_le_bytes(*word))
    });
    head[28..30].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
    bytes.extend(head);
    let of_efi = |extent: IsoExtent| (extent.size / 512) as u16;
    match (bios, efi) {
        (Some(bios), efi) => {
            // ISOLINUX loads its own rest.
            entry(&mut bytes, 4, bios);
            if let Some(efi) = efi {
                bytes.extend([0x91, EFI, 1, 0]);
                bytes.extend([0; 28]);
                entry(&mut bytes, of_efi(efi), efi);
            }
        }
        (None, Some(efi)) => entry(&mut bytes, of_efi(efi), efi),
        (None, None) => {}
    }
    bytes.resize(SECTOR as usize, 0);
    bytes
}

/// The first sector of a disk: what BIOS starts, a partition of all, and UEFI's.
fn record(
    bios: Option<&BiosLoader>,
    program: Option<IsoExtent>,
    esp: Option<IsoExtent>,
    end: u64,
) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    if let (Some(loader), Some(program)) = (bios, program) {
        let code = &loader.record[..loader.record.len().min(432)];
        bytes[..code.len()].copy_from_slice(code);
        // Where ISOLINUX lies, in sectors of a disk.
        bytes[432..440].copy_from_slice(&(program.start * 4).to_le_bytes());
    }
    let sectors = |bytes: u64| ((bytes / 512) as u32).to_le_bytes();
    // Cylinders of 64 heads with 32 sectors, as far as they can be told.
    let last = (end / CYLINDER).min(1024) - 1;
    bytes[446..454].copy_from_slice(&[
        0x80,
        0,
        1,
        0,
        0x17,
        63,
        32 | (last >> 8 << 6) as u8,
        last as u8,
    ]);
    bytes[458..462].copy_from_slice(&sectors(end));
    if let Some(esp) = esp {
        bytes[462..470].copy_from_slice(&[0, 0xfe, 0xff, 0xff, 0xef, 0xfe, 0xff, 0xff]);
        bytes[470..474].copy_from_slice(&sectors(esp.start * SECTOR));
        bytes[474..478].copy_from_slice(&sectors(esp.size));
    }
    bytes[510..].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

/// A point in time, as the format writes it.
struct Date {
    year: i16,
    /// Month, day, hour, minute, second.
    rest: [u8; 5],
}

impl Date {
    fn of(epoch: u64) -> Option<Date> {
        let time = jiff::Timestamp::from_second(i64::try_from(epoch).ok()?).ok()?;
        let time = time.to_zoned(jiff::tz::TimeZone::UTC);
        let rest = [
            time.month(),
            time.day(),
            time.hour(),
            time.minute(),
            time.second(),
        ];
        (time.year() <= 2155).then_some(Date {
            year: time.year(),
            rest: rest.map(|number| number as u8),
        })
    }

    /// In a directory.
    fn short(&self) -> [u8; 7] {
        let [month, day, hour, minute, second] = self.rest;
        [
            (self.year - 1900) as u8,
            month,
            day,
            hour,
            minute,
            second,
            0,
        ]
    }

    /// In the descriptor of the volume.
    fn long(&self) -> [u8; 17] {
        let [month, day, hour, minute, second] = self.rest;
        let text = format!(
            "{:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}00",
            self.year
        );
        let mut bytes = [0; 17];
        bytes[..16].copy_from_slice(text.as_bytes());
        bytes
    }
}

/// A number in both orders of its bytes.
fn both16(number: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (number.to_le_bytes(), number.to_be_bytes());
    [a, b, c, d]
}

fn both32(number: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn volume(
    label: &str,
    sectors: u32,
    table: u64,
    tables: [u64; 2],
    directories: &IsoDirectories,
    date: &Date,
) -> Vec<u8> {
    let mut bytes = vec![0; SECTOR as usize];
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    put(0, b"\x01CD001\x01");
    put(8, &[b' '; 64]);
    put(40, label.as_bytes());
    put(80, &both32(sectors));
    put(120, &both16(1));
    put(124, &both16(1));
    put(128, &both16(SECTOR as u16));
    put(132, &both32(table as u32));
    put(140, &(tables[0] as u32).to_le_bytes());
    put(148, &(tables[1] as u32).to_be_bytes());
    put(156, &directories.root(date));
    put(190, &[b' '; 623]);
    put(813, &date.long());
    put(830, &date.long());
    // It never expires.
    put(847, b"0000000000000000\0");
    put(864, &date.long());
    put(881, &[1]);
    bytes
}
