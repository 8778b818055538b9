//! Archives and packages that nobody may believe, as a user meets them: every refusal names what, where, and the hint.

use std::fmt::Write as _;

use crate::mirror::serve;
use crate::repository::{Key, Package, Repository};
use crate::server::{Answer, Request, Server};
use crate::site::Site;

const RELEASE: &str = "dists/stable/InRelease";
const INDEX: &str = "dists/stable/main/binary-amd64/Packages.xz";

fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    text.replacen(from, to, 1).into_bytes()
}

/// Publishes with another key. What it gives are the keys that the recipe names.
fn signed(repository: &mut Repository, key: Key) -> Option<String> {
    let armored = key.armored();
    repository.key = key;
    repository.publish();
    Some(armored)
}

/// What is done to a repository that was published; the keys that the recipe then names, where these are others.
type Spoil = fn(&mut Repository) -> Option<String>;

const SPOILT: &[(&str, Spoil)] = &[
    ("tampered list of indexes", |repository| {
        repository.edit(RELEASE, |bytes| {
            replaced(&bytes, "Origin: Test", "Origin: Tost")
        });
        None
    }),
    ("no signature", |repository| {
        repository.delete(RELEASE);
        repository.delete("dists/stable/Release.gpg");
        None
    }),
    ("unknown key", |repository| {
        signed(repository, Key::new(2));
        None
    }),
    ("expired key", |repository| {
        signed(repository, Key::expiring(3, 1000))
    }),
    ("revoked key", |repository| {
        signed(repository, Key::new(4).revoked())
    }),
    ("key that is not for signing", |repository| {
        signed(repository, Key::unfit(5))
    }),
    ("keys that are none", |_| {
        Some(
            "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n"
                .to_owned(),
        )
    }),
    ("archive that is no longer valid", |repository| {
        (repository.date, repository.valid_until) = (1_600_000_000, Some(1_600_600_000));
        repository.publish();
        None
    }),
    ("archive from the future", |repository| {
        repository.date = 4_102_444_800;
        repository.publish();
        None
    }),
    ("another suite", |repository| {
        repository.add("testing", "main", &Package::new("hello", "2.0"));
        repository.publish();
        let dists = repository.dir().join("dists");
        std::fs::copy(
            dists.join("testing/InRelease"),
            dists.join("stable/InRelease"),
        )
        .unwrap();
        None
    }),
    ("weak digests", |repository| {
        repository.digests = "MD5Sum";
        repository.publish();
        None
    }),
    ("tampered index", |repository| {
        repository.edit(INDEX, |mut bytes| {
            bytes[20] ^= 1;
            bytes
        });
        None
    }),
    ("index of another length", |repository| {
        repository.edit(INDEX, |bytes| [&bytes[..], b"\0\0\0\0"].concat());
        None
    }),
    ("index that is gone", |repository| {
        std::fs::remove_dir_all(repository.dir().join("dists/stable/main")).unwrap();
        None
    }),
    ("no such suite", |repository| {
        std::fs::remove_dir_all(repository.dir().join("dists")).unwrap();
        None
    }),
];

/// What a server answers where a package is asked for, given the file.
type Spoiler = fn(&[u8], &Request) -> Answer;

const PACKAGES: &[(&str, Spoiler)] = &[
    ("tampered package", |bytes, _| {
        let mut bytes = bytes.to_vec();
        bytes[100] ^= 1;
        Answer::ok(&bytes)
    }),
    ("truncated package", |bytes, _| {
        Answer::ok(&bytes[..bytes.len() / 2])
    }),
    ("longer package", |bytes, _| {
        Answer::ok(&[bytes, b"x"].concat())
    }),
    ("web page", |_, _| {
        Answer::ok(b"<!DOCTYPE html><title>Log in</title>").header("Content-Type: text/html")
    }),
    ("forbidden", |_, _| Answer::status("403 Forbidden")),
    ("gone", |_, _| Answer::status("410 Gone")),
];

/// A repository below a site, with one package of the same name, which no store knows.
fn repository(site: &Site, name: &str) -> Repository {
    let mut repository = Repository::new(&site.project.path(name), Key::new(1));
    repository.add("stable", "main", &Package::new(name, "1.0"));
    repository.publish();
    repository
}

/// Writes a recipe that installs that package from an address.
fn want(site: &mut Site, name: &str, uri: String) {
    site.uri = uri;
    site.recipe(&site.packages("tools", "base", &format!("install = [\"{name}\"]")));
}

#[test]
fn bad_archives_are_refused_with_their_own_words() {
    let mut site = Site::new();
    let lock = site.lock();
    let mut all = String::new();
    for (place, (what, spoil)) in SPOILT.iter().enumerate() {
        let name = format!("package-{place}");
        let mut repository = repository(&site, &name);
        let keys = spoil(&mut repository).unwrap_or_else(|| Key::new(1).armored());
        site.project.write("key.asc", &keys);
        want(
            &mut site,
            &name,
            format!("http://127.0.0.1:{}/own", serve(repository.dir(), None)),
        );
        let said = site.said(&["build"]);
        let right = said.starts_with("exit 4\n")
            && said.contains("the archive own")
            && said.contains("  help: ");
        assert!(right, "{what}: {said}");
        assert_eq!(site.lock(), lock, "{what}: nothing is locked");
        writeln!(all, "# {what}\n{said}").unwrap();
    }
    let mut messages: Vec<_> = all
        .lines()
        .filter(|line| line.starts_with("  caused by: "))
        .collect();
    insta::assert_snapshot!("archives", all);
    messages.sort_unstable();
    messages.dedup();
    assert_eq!(messages.len(), SPOILT.len(), "each has its own");
}

#[test]
fn bad_packages_are_refused_with_their_own_words() {
    let mut site = Site::new();
    let mut all = String::new();
    for (place, (what, spoil)) in PACKAGES.iter().enumerate() {
        let name = format!("package-{place}");
        let dir = repository(&site, &name).dir().to_owned();
        let server = Server::new(move |_, request| {
            let path = request.path.split_once('/').map_or("", |(_, path)| path);
            match std::fs::read(dir.join(path)) {
                Ok(bytes) if path.ends_with(".deb") => spoil(&bytes, request),
                Ok(bytes) => Answer::ok(&bytes),
                Err(_) => Answer::status("404 Not Found"),
            }
        });
        want(&mut site, &name, server.url("own"));
        site.ok(&["update", "tools"]);
        let said = site.said(&["fetch"]);
        let right =
            said.starts_with("exit 4\n") && said.contains(&name) && said.contains("  help: ");
        assert!(right, "{what}: {said}");
        assert_eq!(
            site.build(&["--locked"]).code,
            4,
            "{what}: nothing half-written is used"
        );
        writeln!(all, "# {what}\n{said}").unwrap();
    }
    insta::assert_snapshot!("packages", all);
}

#[test]
fn what_cannot_be_chosen_is_told_in_apts_words() {
    let mut site = Site::new();
    site.repository.add(
        "stable",
        "main",
        &Package::new("needs", "1.0").depends("libary (>= 2), small"),
    );
    site.repository.add(
        "stable",
        "main",
        &Package::new("newer", "1.0").depends("library (>= 2)"),
    );
    site.repository.add(
        "stable",
        "main",
        &Package::new("against", "1.0").field("Conflicts", "small"),
    );
    site.repository.publish();
    let mut all = String::new();
    for install in [
        &["smal"][..],
        &["programm", "small", "libary"],
        &["no-such-package-anywhere"],
        &["small=99"],
        &["small/testing"],
        &["small:arm64"],
        &["needs"],
        &["newer"],
        &["small", "against"],
    ] {
        site.recipe(&site.packages("tools", "base", &format!("install = {install:?}")));
        writeln!(all, "# {install:?}\n{}", site.said(&["build"])).unwrap();
    }
    insta::assert_snapshot!("chosen", all);
}
