//! Images are read back by a reader of their own, which knows Rock Ridge.

use super::*;
use crate::media::stream::Memory;

fn member(path: &str, kind: MemberKind) -> (Vec<u8>, ArchiveMember) {
    let member = ArchiveMember {
        path: path.as_bytes().to_vec(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        xattrs: Vec::new(),
    };
    (member.path.clone(), member)
}

fn file(path: &str, file: usize, size: u64) -> (Vec<u8>, ArchiveMember) {
    member(path, MemberKind::File { file, size })
}

fn loaders() -> (BiosLoader, EfiLoader) {
    let bios = BiosLoader {
        program: (0..4000_u32).map(|n| n as u8).collect(),
        module: vec![3; 100],
        record: vec![4; 432],
    };
    let programs = vec![("BOOTX64.EFI".to_owned(), vec![5; 1000])];
    (bios, EfiLoader { programs })
}

fn image<'a>(
    members: impl IntoIterator<Item = (Vec<u8>, ArchiveMember)>,
    loaders: &'a (BiosLoader, EfiLoader),
) -> IsoImage<'a> {
    IsoImage {
        members: members.into_iter().collect(),
        bios: Some(&loaders.0),
        efi: Some(&loaders.1),
        arguments: &[],
        label: "TEST",
        hybrid: true,
        epoch: 1_700_000_000,
    }
}

fn le32(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize
}

/// Paths with what is there: `dir`, a link's target, or content.
fn read(iso: &[u8], record: usize, path: &str, found: &mut BTreeMap<String, Vec<u8>>) {
    let (start, size) = (le32(iso, record + 2) * 2048, le32(iso, record + 10));
    if iso[record + 25] & 2 == 0 {
        found.insert(path.to_owned(), iso[start..start + size].to_vec());
        return;
    }
    found.insert(path.to_owned(), b"dir".to_vec());
    let mut at = start;
    while at < start + size {
        let length = usize::from(iso[at]);
        if length == 0 {
            at = (at / 2048 + 1) * 2048;
            continue;
        }
        let plain = &iso[at + 33..at + 33 + usize::from(iso[at + 32])];
        let mut field = at + (33 + plain.len()).next_multiple_of(2);
        let (mut name, mut link) = (String::new(), Vec::new());
        while field + 4 < at + length {
            let size = usize::from(iso[field + 2]);
            match &iso[field..field + 2] {
                b"NM" => name = String::from_utf8(iso[field + 5..field + size].to_vec()).unwrap(),
                b"SL" => link = iso[field + 5..field + size].to_vec(),
                _ => {}
            }
            field += size.max(1);
        }
        if !link.is_empty() {
            found.insert(format!("{path}/{name}"), link);
        } else if plain != [0] && plain != [1] {
            read(iso, at, &format!("{path}/{name}"), found);
        }
        at += length;
    }
}

#[test]
fn names_contents_and_boot_loaders_are_where_they_are_looked_for() {
    let loaders = loaders();
    let memory = Memory(vec![b"kernel".to_vec(), vec![9; 5000], Vec::new()]);
    let long = format!("a/{}-1.deb", "n".repeat(90));
    let longer = format!("a/{}-2.deb", "n".repeat(90));
    let many = (0..100).map(|n| file(&format!("many/Some File {n}.txt"), 0, 6));
    let target = b"../many/x".to_vec();
    let members = [
        member("a", MemberKind::Dir),
        member("many", MemberKind::Dir),
        member("boot", MemberKind::Dir),
        file(KERNEL, 0, 6),
        file(RAMDISK, 1, 5000),
        file(&long, 0, 6),
        file(&longer, 2, 0),
        member("a/link", MemberKind::Symlink { target }),
    ];
    let made = stream(image(members.into_iter().chain(many), &loaders)).unwrap();
    let pieces = made.pieces().iter();
    let iso: Vec<u8> = pieces
        .flat_map(|piece| piece.read(&memory).unwrap())
        .collect();
    assert_eq!(iso.len() as u64 % CYLINDER, 0);
    assert_eq!(&iso[32768..32774], b"\x01CD001");
    assert_eq!(le32(&iso, 32768 + 80) * 2048, iso.len());
    let mut found = BTreeMap::new();
    read(&iso, 32768 + 156, "", &mut found);
    assert_eq!(found[&format!("/{KERNEL}")], b"kernel");
    assert_eq!(found[&format!("/{RAMDISK}")], vec![9; 5000]);
    assert_eq!(found[&format!("/{long}")], b"kernel");
    assert!(found[&format!("/{longer}")].is_empty());
    assert_eq!(found["/a/link"], b"\x04\0\0\x04many\0\x01x");
    assert_eq!(
        found
            .keys()
            .filter(|path| path.starts_with("/many/"))
            .count(),
        100
    );
    assert!(found["/isolinux/isolinux.cfg"].starts_with(b"DEFAULT linux\n"));
    // El Torito: the catalogue, what BIOS loads, what UEFI reads.
    let catalogue = le32(&iso, 17 * 2048 + 71) * 2048;
    let words = iso[catalogue..catalogue + 32].chunks(2);
    let sum = words.fold(0_u16, |sum, word| {
        sum.wrapping_add(u16::from_le_bytes([word[0], word[1]]))
    });
    assert_eq!(
        (sum, iso[catalogue + 32], iso[catalogue + 65]),
        (0, 0x88, 0xef)
    );
    let program = le32(&iso, catalogue + 40) * 2048;
    assert_eq!(le32(&iso, program + 12) * 2048, program);
    assert_eq!(le32(&iso, program + 16), 4000);
    let esp = le32(&iso, catalogue + 104) * 2048;
    assert_eq!(&iso[esp + 54..esp + 59], b"FAT16");
    // As a disk: the record that loads ISOLINUX, and UEFI's partition.
    assert_eq!(le32(&iso, 432) * 512, program);
    assert_eq!((iso[466], le32(&iso, 470) * 512), (0xef, esp));
    assert_eq!(&iso[510..512], &[0x55, 0xaa]);
}

#[test]
fn what_the_medium_cannot_hold_is_refused_by_name() {
    let loaders = loaders();
    let refused = |members: &[(Vec<u8>, ArchiveMember)]| {
        let made = stream(image(members.iter().cloned(), &loaders));
        made.map(drop).unwrap_err().to_string()
    };
    let error = refused(&[file("Readme", 0, 1), file("README", 0, 1)]);
    assert!(
        error.starts_with("README and Readme differ in case only"),
        "{error}"
    );
    let error = refused(&[file("big", 0, 1 << 32)]);
    assert!(error.starts_with("big has 4 GiB or more"), "{error}");
    let error = refused(&[file(&"n".repeat(240), 0, 1)]);
    assert!(error.ends_with("too long for an ISO image"), "{error}");
    let error = refused(&[file("isolinux", 0, 1)]);
    assert!(
        error.starts_with("isolinux is in the place of a file that boots"),
        "{error}"
    );
}
