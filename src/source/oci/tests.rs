use super::*;
use crate::base::cancel::CancelToken;

type Member<'m> = (tar::EntryType, &'m str, &'m str, u64);

const FILE: tar::EntryType = tar::EntryType::Regular;
const DIR: tar::EntryType = tar::EntryType::Directory;
const LINK: tar::EntryType = tar::EntryType::Symlink;

fn archive(members: &[Member<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (kind, name, text, user) in members {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(if *kind == DIR { 0o755 } else { 0o4755 });
        header.set_uid(*user);
        header.set_gid(0);
        header.set_size(if *kind == FILE { text.len() as u64 } else { 0 });
        if *kind == FILE || text.is_empty() {
            tar.append_data(&mut header, name, text.as_bytes()).unwrap();
        } else {
            tar.append_link(&mut header, name, text).unwrap();
        }
    }
    tar.into_inner().unwrap()
}

/// The layers of one image: usr-merged, a file in several versions, deletions.
fn layers() -> Vec<Vec<u8>> {
    vec![
        archive(&[
            (DIR, "usr/lib/", "", 0),
            (LINK, "lib", "usr/lib", 0),
            (FILE, "etc/a", "one", 0),
            (FILE, "etc/gone", "x", 0),
            (FILE, "var/old/x", "x", 0),
            (FILE, "home/me/f", "mine", 1000),
            (tar::EntryType::Char, "dev/null", "", 0),
        ]),
        archive(&[
            (FILE, "lib/libc.so", "libc", 0),
            (FILE, "etc/a", "two", 0),
            (FILE, "etc/.wh.gone", "", 0),
            (FILE, "var/old/new", "new", 0),
            (FILE, "var/old/.wh..wh..opq", "", 0),
            (tar::EntryType::Link, "etc/b", "etc/a", 0),
        ]),
    ]
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

fn packed(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes.as_slice())
            .unwrap();
    }
    tar.into_inner().unwrap()
}

/// A layout with images for these machines, all of the same layers.
fn layout(machines: &[&str]) -> Vec<(String, Vec<u8>)> {
    let mut members = vec![("oci-layout".to_owned(), b"{}".to_vec())];
    let mut add = |bytes: Vec<u8>| {
        let digest = Sha256::of(&bytes);
        members.push((format!("blobs/sha256/{digest}"), bytes));
        format!("sha256:{digest}")
    };
    let layers: Vec<_> = layers()
        .iter()
        .map(|layer| format!(r#"{{"digest": "{}"}}"#, add(gzip(layer))))
        .collect();
    let manifest = format!(
        r#"{{"schemaVersion": 2, "layers": [{}]}}"#,
        layers.join(", ")
    );
    let digest = add(manifest.into_bytes());
    let images: Vec<_> = machines
        .iter()
        .map(|machine| format!(r#"{{"digest": "{digest}", "platform": {{"os": "linux", "architecture": "{machine}"}}}}"#))
        .collect();
    let index = format!(r#"{{"manifests": [{}]}}"#, images.join(", "));
    members.push(("index.json".to_owned(), index.into_bytes()));
    members
}

fn saved() -> Vec<(String, Vec<u8>)> {
    let layers = layers();
    let ids: Vec<_> = layers
        .iter()
        .map(|layer| format!(r#""sha256:{}""#, Sha256::of(layer)))
        .collect();
    let config = format!(
        r#"{{"rootfs": {{"type": "layers", "diff_ids": [{}]}}}}"#,
        ids.join(", ")
    );
    let name = format!("{}.json", Sha256::of(config.as_bytes()));
    let manifest = format!(
        r#"[{{"Config": "{name}", "RepoTags": ["a:1"], "Layers": ["1/layer.tar", "2/layer.tar"]}}]"#
    );
    let mut members = vec![
        (name, config.into_bytes()),
        ("manifest.json".to_owned(), manifest.into_bytes()),
    ];
    for (place, layer) in layers.into_iter().enumerate() {
        members.push((format!("{}/layer.tar", place + 1), layer));
    }
    members
}

/// The tree of an image: path, permission bits, user and content.
fn tree(members: &[(String, Vec<u8>)], limit: u64) -> Result<Vec<String>, ArchiveTreeError> {
    let dir = tempfile::tempdir().unwrap();
    let cancel = CancelToken::new();
    let unpacker = TreeUnpacker {
        dir: dir.path(),
        limit,
        cancel: &cancel,
    };
    let archive = unpacker.plain(packed(members).as_slice())?;
    let image = ImageArchive::of(&archive)?.expect("an image");
    let tree = image.tree(&unpacker, "amd64", &TreePart::default())?;
    let mut written = Vec::new();
    tree.write(&mut written).unwrap();
    let mut names = Vec::new();
    for entry in tar::Archive::new(written.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        let header = entry.header();
        let (mode, user) = (header.mode().unwrap(), header.uid().unwrap());
        names.push(format!(
            "{} {mode:o} {user} {text}",
            entry.path().unwrap().display()
        ));
    }
    Ok(names)
}

#[test]
fn layers_are_laid_over_each_other_and_deletions_hold() {
    let expected = [
        "etc 755 0 ",
        "etc/a 4755 0 two",
        "etc/b 4755 0 two",
        "home 755 0 ",
        "home/me 755 0 ",
        "home/me/f 4755 1000 mine",
        "lib 777 0 ",
        "usr 755 0 ",
        "usr/lib 755 0 ",
        "usr/lib/libc.so 4755 0 libc",
        "var 755 0 ",
        "var/old 755 0 ",
        "var/old/new 4755 0 new",
    ];
    assert_eq!(tree(&layout(&["amd64"]), 1 << 20).unwrap(), expected);
    assert_eq!(
        tree(&layout(&["arm64", "amd64"]), 1 << 20).unwrap(),
        expected
    );
    assert_eq!(tree(&saved(), 1 << 20).unwrap(), expected);
}

#[test]
fn what_its_digest_does_not_say_is_refused() {
    for (members, part) in [
        (layout(&["amd64"]), "blobs/sha256/"),
        (saved(), "layer.tar"),
        (saved(), ".json"),
    ] {
        let mut changed = members.clone();
        let blob = changed
            .iter_mut()
            .find(|(name, _)| name.contains(part) && name != "manifest.json")
            .unwrap();
        let last = blob.1.len() / 2;
        blob.1[last] ^= 1;
        let error = tree(&changed, 1 << 20).unwrap_err();
        assert!(
            matches!(error, ArchiveTreeError::Damaged { .. }),
            "{part}: {error}"
        );
    }
    let several = tree(&layout(&["arm64", "s390x"]), 1 << 20).unwrap_err();
    assert_eq!(
        several.to_string(),
        "it is damaged: it holds 2 images, none of them for amd64"
    );
    let bomb = tree(&layout(&["amd64"]), 12_000).unwrap_err();
    assert!(matches!(bomb, ArchiveTreeError::TooLarge { .. }), "{bomb}");
}

#[test]
fn other_archives_are_no_images() {
    let dir = tempfile::tempdir().unwrap();
    let cancel = CancelToken::new();
    let unpacker = TreeUnpacker {
        dir: dir.path(),
        limit: 1 << 20,
        cancel: &cancel,
    };
    for members in [
        vec![("manifest.json".to_owned(), b"{\"name\": \"app\"}".to_vec())],
        vec![("a".to_owned(), Vec::new())],
    ] {
        let archive = unpacker.plain(packed(&members).as_slice()).unwrap();
        assert!(ImageArchive::of(&archive).unwrap().is_none());
    }
}
