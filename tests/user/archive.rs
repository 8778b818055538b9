//! Signed archives and downloads: what is taken, what is refused and with which words, and that nothing half-written is
//! ever handed out.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::server::{Answer, CERTIFICATE, Request, Server, nobody};
use impasto::base::cancel::CancelToken;
use impasto::base::host::Host;
use impasto::debian::archive::{
    ArchiveSource, Cache, Client, DownloadRequest, DownloadSource, Keyring, PackageIndex, Release,
    SignatureError, Trust,
};
use impasto::debian::distribution::{DEBIAN_KEYS, Distribution};
use impasto::debian::mirror::{Mirror, MirrorChoice, Mirrors};
use impasto::net::{DownloadError, Options};
use impasto_store::sha256::Sha256;
use pgp::crypto::hash::HashAlgorithm;
use proptest::prelude::*;

use crate::debian;
use crate::random::Random;
use crate::repository::{Key, MADE, Package, Repository, packed, sha256};

fn now() -> u64 {
    Host::read().unwrap().now()
}

fn quick() -> Options {
    Options {
        connect: Duration::from_secs(5),
        stall: Duration::from_secs(1),
        back_off: Duration::from_millis(5),
        authorities: CERTIFICATE.to_vec(),
        ..Options::default()
    }
}

/// Files that were handed out, by index.
type Got = BTreeMap<usize, Vec<u8>>;

struct Bench {
    scratch: tempfile::TempDir,
    client: Client,
    cancel: CancelToken,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(&Mirrors::default(), quick())
    }

    fn with(mirrors: &Mirrors, options: Options) -> Bench {
        let (scratch, cancel) = (tempfile::tempdir().unwrap(), CancelToken::new());
        let client = Client::new(mirrors, scratch.path(), &cancel, options).unwrap();
        Bench {
            scratch,
            client,
            cancel,
        }
    }

    /// Gets files; gives what was handed out, and the errors.
    fn get(&self, wanted: &[DownloadRequest]) -> (Got, Vec<(usize, DownloadError)>) {
        let mut got = BTreeMap::new();
        let mut last = (0, 0);
        let result = self.client.get(
            wanted,
            &mut |index, path: &Path| {
                assert!(got.insert(index, std::fs::read(path).unwrap()).is_none())
            },
            &mut |bytes, total| last = (bytes, total),
        );
        if result.is_ok() {
            assert_eq!(last.0, last.1, "all bytes were told of");
        }
        assert_eq!(
            std::fs::read_dir(self.scratch.path()).unwrap().count(),
            0,
            "nothing is left"
        );
        (got, result.err().unwrap_or_default())
    }

    /// Gets one file, in vain.
    fn refused(&self, wanted: DownloadRequest) -> String {
        let (got, errors) = self.get(&[wanted]);
        assert!(got.is_empty() && errors.len() == 1, "{got:?} {errors:?}");
        chain(&errors[0].1)
    }

    /// Gets all indexes of a source.
    fn read(&self, source: &ArchiveSource) -> Result<(Release, Vec<PackageIndex>), String> {
        let release = self
            .client
            .release(source, now())
            .map_err(|error| chain(&error))?;
        let indexes = self
            .client
            .indexes(source, &release, &NoCache)
            .map_err(|error| chain(&error))?;
        Ok((release, indexes))
    }
}

/// Keeps nothing.
struct NoCache;

impl Cache for NoCache {
    fn get(&self, _: Sha256) -> Option<Vec<u8>> {
        None
    }

    fn put(&self, _: Sha256, _: &[u8]) {}
}

/// An error with its causes, without what differs from run to run.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        write!(text, ": {cause}").unwrap();
        source = cause.source();
    }
    assert!(!text.contains("geheim"), "{text}");
    for (pattern, replacement) in [
        ("127.0.0.1:[0-9]+", "HOST"),
        ("/[^ ]*/\\.tmp[^/ ]*", "DIR"),
        ("sha256:[0-9a-f]{64}", "sha256:HASH"),
    ] {
        text = regex::Regex::new(pattern)
            .unwrap()
            .replace_all(&text, replacement)
            .into_owned();
    }
    text
}

fn wanted(name: &str, body: &[u8], mirrors: &[Mirror]) -> DownloadRequest {
    let places = mirrors.iter().map(|mirror| DownloadSource {
        mirror: mirror.clone(),
        path: format!("pool/{name}"),
    });
    DownloadRequest {
        name: name.to_owned(),
        size: body.len() as u64,
        sha256: Sha256::of(body),
        places: places.collect(),
    }
}

/// A repository with a few packages, unpublished.
fn repository(dir: &Path) -> Repository {
    let mut repository = Repository::new(dir, Key::new(1));
    repository.add(
        "stable",
        "main",
        &Package::new("hello", "1.0").file("usr/share/hello", "hi\n"),
    );
    repository.add(
        "stable",
        "extra",
        &Package::new("tool", "2:1.5-1")
            .architecture("amd64")
            .depends("hello (>= 1)"),
    );
    repository.add(
        "stable",
        "main",
        &Package::new("foreign", "3").architecture("arm64"),
    );
    repository
}

fn text(index: &PackageIndex) -> String {
    String::from_utf8(index.text.clone()).unwrap()
}

#[test]
fn a_signed_repository_is_read_in_each_form() {
    let bench = Bench::new();
    for form in ["", ".xz", ".gz", ".zst"] {
        let dir = tempfile::tempdir().unwrap();
        let mut repository = repository(dir.path());
        repository.forms = vec![form];
        repository.by_hash = form == ".gz";
        repository.publish();
        if repository.by_hash {
            repository.delete("dists/stable/main/binary-amd64/Packages.gz");
        }
        let (release, indexes) = bench.read(&repository.source("stable")).unwrap();
        assert_eq!(release.signer, Some(repository.key.fingerprint()));
        assert_eq!(
            (release.suite.as_str(), release.date),
            ("stable", repository.date)
        );
        let names: Vec<_> = indexes
            .iter()
            .map(|index| (index.component.as_str(), index.architecture.as_str()))
            .collect();
        assert_eq!(names, [("extra", "amd64"), ("main", "amd64")]);
        assert!(
            text(&indexes[0]).contains("Version: 2:1.5-1\n")
                && text(&indexes[1]).contains("Package: hello\n")
        );
        assert!(
            indexes
                .iter()
                .all(|index| index.sha256 == Sha256::of(&index.text))
        );
    }
}

#[test]
fn packages_are_built_replaced_and_left_out() {
    let (bench, dir) = (Bench::new(), tempfile::tempdir().unwrap());
    let mut repository = repository(dir.path());
    let path = repository.add(
        "stable",
        "main",
        &Package::new("hello", "1:2.0").postinst("true"),
    );
    repository.remove("stable", "extra", "tool");
    repository.publish();
    let (_, indexes) = bench.read(&repository.source("stable")).unwrap();
    assert!(indexes[0].text.is_empty() && text(&indexes[1]).contains("Version: 1:2.0\n"));
    assert!(!text(&indexes[1]).contains("Version: 1.0\n"));
    // What the index says of a package is what is got.
    let bytes = std::fs::read(dir.path().join(&path)).unwrap();
    assert!(text(&indexes[1]).contains(&format!(
        "Filename: {path}\nSize: {}\nSHA256: {}\n",
        bytes.len(),
        sha256(&bytes)
    )));
    let mut deb = wanted("hello", &bytes, &[repository.mirror()]);
    deb.places[0].path = path;
    let (got, errors) = bench.get(&[deb]);
    assert!(errors.is_empty() && got[&0] == bytes, "{errors:?}");
}

#[test]
fn packages_for_all_architectures_are_read_once() {
    let (bench, dir) = (Bench::new(), tempfile::tempdir().unwrap());
    let mut repository = repository(dir.path());
    repository.architectures = vec!["amd64", "arm64"];
    repository.all_apart = true;
    repository.publish();
    let read = |repository: &Repository| {
        let source = ArchiveSource {
            components: vec!["main".to_owned()],
            ..repository.source("stable")
        };
        let (_, indexes) = bench.read(&source).unwrap();
        indexes
            .into_iter()
            .map(|index| (index.architecture.clone(), text(&index).contains("hello")))
            .collect::<Vec<_>>()
    };
    let named = |names: [(&str, bool); 3]| names.map(|(name, has)| (name.to_owned(), has)).to_vec();
    assert_eq!(
        read(&repository),
        named([("amd64", false), ("arm64", false), ("all", true)])
    );
    repository.fields = "No-Support-for-Architecture-all: Packages\n".to_owned();
    repository.publish();
    assert_eq!(
        read(&repository),
        named([("amd64", false), ("arm64", false), ("all", true)])[..2]
    );
}

#[test]
fn a_signature_may_stand_beside_and_a_flat_archive_has_no_suite() {
    let (bench, dir) = (Bench::new(), tempfile::tempdir().unwrap());
    let repository = repository(dir.path());
    repository.publish();
    repository.delete("dists/stable/InRelease");
    let (release, _) = bench.read(&repository.source("stable")).unwrap();
    assert_eq!(release.signer, Some(repository.key.fingerprint()));
    let unsigned = ArchiveSource {
        trust: Trust::Unsigned,
        ..repository.source("stable")
    };
    repository.delete("dists/stable/Release.gpg");
    assert_eq!(bench.read(&unsigned).unwrap().0.signer, None);

    // A flat one is a directory with its Packages beside the Release.
    let flat = tempfile::tempdir().unwrap();
    let index = b"Package: flat\n";
    let release = format!(
        "Date: Sat, 11 Jul 2020 10:16:37 UTC\nSHA256:\n {} {} Packages\n",
        sha256(index),
        index.len()
    );
    std::fs::create_dir(flat.path().join("deb")).unwrap();
    std::fs::write(flat.path().join("deb/Packages"), index).unwrap();
    std::fs::write(
        flat.path().join("deb/InRelease"),
        repository.key.clear_sign(&release),
    )
    .unwrap();
    let mirror = Mirror::parse(&format!("file:{}", flat.path().display())).unwrap();
    let source = ArchiveSource {
        suite: "./deb/".to_owned(),
        bases: vec![mirror],
        ..repository.source("stable")
    };
    assert_eq!(text(&bench.read(&source).unwrap().1[0]), "Package: flat\n");
}

#[test]
fn a_kept_index_is_not_got_again_and_a_damaged_one_is() {
    #[derive(Default)]
    struct Kept(Mutex<BTreeMap<Sha256, Vec<u8>>>);
    impl Cache for Kept {
        fn get(&self, sha256: Sha256) -> Option<Vec<u8>> {
            self.0.lock().unwrap().get(&sha256).cloned()
        }
        fn put(&self, sha256: Sha256, text: &[u8]) {
            self.0.lock().unwrap().insert(sha256, text.to_vec());
        }
    }
    let (bench, dir, kept) = (Bench::new(), tempfile::tempdir().unwrap(), Kept::default());
    let repository = repository(dir.path());
    repository.publish();
    let source = repository.source("stable");
    let release = bench.client.release(&source, now()).unwrap();
    let first = bench.client.indexes(&source, &release, &kept).unwrap();
    std::fs::remove_dir_all(dir.path().join("dists/stable/main")).unwrap();
    assert_eq!(
        bench.client.indexes(&source, &release, &kept).unwrap(),
        first
    );
    for text in kept.0.lock().unwrap().values_mut() {
        text[0] ^= 1;
    }
    let error = chain(&bench.client.indexes(&source, &release, &kept).unwrap_err());
    assert!(error.contains("the mirror does not have it"), "{error}");
}

#[test]
fn debians_own_archive_is_verified_with_the_keys_built_in() {
    let mirror = debian::mirror();
    let signed = std::fs::read(mirror.join("dists/bookworm/InRelease")).unwrap();
    let host = std::fs::read(debian::KEYRING).unwrap();
    for keys in [DEBIAN_KEYS, &host] {
        let verified = Keyring::parse(keys, "here")
            .unwrap()
            .verify_cleartext(&signed, now())
            .unwrap();
        assert!(verified.text.starts_with("Origin: Debian\n") && !verified.text.contains("PGP"));
    }
    // Keys of old releases are of kinds that are no longer made.
    for entry in Path::new(debian::KEYRING)
        .parent()
        .unwrap()
        .read_dir()
        .unwrap()
    {
        let path = entry.unwrap().path();
        Keyring::parse(&std::fs::read(&path).unwrap(), "here")
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    let bench = Bench::new();
    let source = ArchiveSource {
        name: "debian".to_owned(),
        bases: vec![Mirror::parse(&format!("file:{}", mirror.display())).unwrap()],
        suite: "bookworm".to_owned(),
        components: vec!["main".to_owned()],
        architectures: vec!["amd64".to_owned()],
        trust: Distribution::Debian.trust(),
        frozen: true,
    };
    let begun = Instant::now();
    let (release, indexes) = bench.read(&source).unwrap();
    println!(
        "Release and {} bytes of indexes in {:?}",
        indexes[0].text.len(),
        begun.elapsed()
    );
    assert_eq!(
        (
            release.origin.as_str(),
            release.codename.as_str(),
            release.by_hash
        ),
        ("Debian", "bookworm", true)
    );
    assert_eq!(
        indexes.len(),
        1,
        "Debian's index holds the packages for all architectures"
    );
    assert!(text(&indexes[0]).contains("\nPackage: hello\n"));
}

/// What is done to a repository that was published, and by whom it is then read.
type Spoil = fn(&mut Repository) -> ArchiveSource;

const INDEX: &str = "dists/stable/main/binary-amd64/Packages";

fn replaced(from: &str, to: &str) -> impl Fn(Vec<u8>) -> Vec<u8> {
    let (from, to) = (from.to_owned(), to.to_owned());
    move |bytes| {
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains(&from), "{from} in {text}");
        text.replacen(&from, &to, 1).into_bytes()
    }
}

/// Publishes with another key; the source trusts the one that is given.
fn signed_by(repository: &mut Repository, key: Key, trusted: &Key) -> ArchiveSource {
    repository.key = key;
    repository.publish();
    let trust = Trust::Keys {
        keys: trusted.public(),
        place: "those of the test".to_owned(),
    };
    ArchiveSource {
        trust,
        ..repository.source("stable")
    }
}

/// Makes an index whose Release states a size of the text that its form does not have.
fn stated(repository: &Repository, text: &[u8], size: usize, hash: &str) {
    let bytes = packed(".xz", text);
    repository.edit(&format!("{INDEX}.xz"), |_| bytes.clone());
    repository.resign("stable", |release| {
        let lines = release.lines().map(|line| match line {
            _ if line.ends_with(" main/binary-amd64/Packages") => {
                format!(" {hash} {size} main/binary-amd64/Packages")
            }
            _ if line.ends_with(" main/binary-amd64/Packages.xz") => {
                format!(
                    " {} {} main/binary-amd64/Packages.xz",
                    sha256(&bytes),
                    bytes.len()
                )
            }
            _ => line.to_owned(),
        });
        lines.map(|line| line + "\n").collect()
    });
}

const SPOILT: &[(&str, Spoil)] = &[
    ("tampered text", |repository| {
        repository.edit(
            "dists/stable/InRelease",
            replaced("Origin: Test", "Origin: Tost"),
        );
        repository.source("stable")
    }),
    ("tampered signature", |repository| {
        let other = repository.key.clear_sign("Origin: Other\n");
        let (_, signature) = other.split_once("-----BEGIN PGP SIGNATURE").unwrap();
        repository.edit("dists/stable/InRelease", |bytes| {
            let text = String::from_utf8(bytes).unwrap();
            let (text, _) = text.split_once("-----BEGIN PGP SIGNATURE").unwrap();
            format!("{text}-----BEGIN PGP SIGNATURE{signature}").into_bytes()
        });
        repository.source("stable")
    }),
    ("text before what is signed", |repository| {
        repository.edit("dists/stable/InRelease", |bytes| {
            [b"Origin: Evil\n\n", &bytes[..]].concat()
        });
        repository.source("stable")
    }),
    ("text behind the signature", |repository| {
        repository.edit("dists/stable/InRelease", |bytes| {
            [&bytes[..], b"\nOrigin: Evil\n"].concat()
        });
        repository.source("stable")
    }),
    ("unsigned InRelease", |repository| {
        let release = std::fs::read(repository.dir().join("dists/stable/Release")).unwrap();
        repository.edit("dists/stable/InRelease", |_| release);
        repository.source("stable")
    }),
    ("unsigned Release", |repository| {
        repository.delete("dists/stable/InRelease");
        repository.delete("dists/stable/Release.gpg");
        repository.source("stable")
    }),
    ("tampered text beside its signature", |repository| {
        repository.delete("dists/stable/InRelease");
        repository.edit(
            "dists/stable/Release",
            replaced("Origin: Test", "Origin: Tost"),
        );
        repository.source("stable")
    }),
    ("malformed signature", |repository| {
        repository.edit("dists/stable/InRelease", |bytes| {
            let text = String::from_utf8(bytes).unwrap();
            let (text, _) = text.split_once("-----BEGIN PGP SIGNATURE").unwrap();
            format!("{text}-----BEGIN PGP SIGNATURE-----\n\nAAAA\n-----END PGP SIGNATURE-----\n")
                .into_bytes()
        });
        repository.source("stable")
    }),
    ("unknown key", |repository| {
        signed_by(repository, Key::new(2), &Key::new(1))
    }),
    ("expired key", |repository| {
        let key = Key::expiring(3, 1000);
        signed_by(repository, key.clone(), &key)
    }),
    ("revoked key", |repository| {
        let key = Key::new(4).revoked();
        signed_by(repository, key.clone(), &key)
    }),
    ("key that is not for signing", |repository| {
        let key = Key::unfit(5);
        signed_by(repository, key.clone(), &key)
    }),
    ("revoked subkey", |repository| {
        let key = Key::with_revoked_subkey(10);
        signed_by(repository, key.clone(), &key)
    }),
    ("subkey of another certificate", |repository| {
        let key = Key::with_subkey_of(11, Key::with_subkey(12));
        signed_by(repository, key.clone(), &key)
    }),
    ("certificate over a weak digest", |repository| {
        let key = Key::weakly_certified(7);
        signed_by(repository, key.clone(), &key)
    }),
    ("signed in the future", |repository| {
        let mut key = Key::new(13);
        key.signs_at = Some(4_102_444_800);
        signed_by(repository, key.clone(), &key)
    }),
    ("signed before the key was made", |repository| {
        let mut key = Key::new(6);
        key.signs_at = Some(MADE - 1000);
        signed_by(repository, key.clone(), &key)
    }),
    ("weak digest", |repository| {
        let key = Key::rsa(7, HashAlgorithm::Sha1);
        signed_by(repository, key.clone(), &key)
    }),
    ("keys that are none", |repository| {
        let trust = Trust::Keys {
            keys: b"no keys\n".to_vec(),
            place: "/etc/apt/keyrings/x.asc".to_owned(),
        };
        ArchiveSource {
            trust,
            ..repository.source("stable")
        }
    }),
    ("expired", |repository| {
        (repository.date, repository.valid_until) = (1_600_000_000, Some(1_600_600_000));
        repository.publish();
        repository.source("stable")
    }),
    ("from the future", |repository| {
        repository.date = 4_102_444_800;
        repository.publish();
        repository.source("stable")
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
        repository.source("stable")
    }),
    ("only weak digests of indexes", |repository| {
        repository.digests = "MD5Sum";
        repository.publish();
        repository.source("stable")
    }),
    ("path that leads out", |repository| {
        repository.resign("stable", |release| {
            release.replace("main/binary", "../main/binary")
        });
        repository.source("stable")
    }),
    ("index that is not in the Release", |repository| {
        ArchiveSource {
            components: vec!["contrib".to_owned()],
            ..repository.source("stable")
        }
    }),
    ("index of another architecture", |repository| {
        ArchiveSource {
            architectures: vec!["riscv64".to_owned()],
            ..repository.source("stable")
        }
    }),
    ("tampered index", |repository| {
        repository.edit(&format!("{INDEX}.xz"), |mut bytes| {
            bytes[20] ^= 1;
            bytes
        });
        repository.source("stable")
    }),
    ("index of the wrong size", |repository| {
        repository.edit(&format!("{INDEX}.xz"), |bytes| {
            [&bytes[..], b"\0\0\0\0"].concat()
        });
        repository.source("stable")
    }),
    ("index that is gone", |repository| {
        std::fs::remove_dir_all(repository.dir().join("dists/stable/main")).unwrap();
        repository.source("stable")
    }),
    ("bomb", |repository| {
        stated(repository, &vec![b'\n'; 16 << 20], 4096, &sha256(b""));
        repository.source("stable")
    }),
    ("index that unpacks to another text", |repository| {
        stated(
            repository,
            b"Package: evil\n",
            14,
            &sha256(b"Package: good\n"),
        );
        repository.source("stable")
    }),
    ("index that does not unpack", |repository| {
        stated(
            repository,
            b"Package: good\n",
            1400,
            &sha256(b"Package: good\n"),
        );
        repository.source("stable")
    }),
    ("no archive", |repository| ArchiveSource {
        suite: "none".to_owned(),
        ..repository.source("stable")
    }),
    ("no mirror", |repository| ArchiveSource {
        bases: Vec::new(),
        ..repository.source("stable")
    }),
];

/// What a server does with a file, by the number of the request.
type Answerer = fn(usize, &Request) -> Answer;

const BODY: &[u8] = b"!<arch>\nthis is a package, as far as these tests are concerned\n";

const REFUSED: &[(&str, Answerer)] = &[
    ("tampered package", |_, _| {
        let mut body = BODY.to_vec();
        body[30] ^= 1;
        Answer::ok(&body)
    }),
    ("truncated package", |_, _| Answer::ok(&BODY[..20])),
    ("truncated package of unknown length", |_, _| Answer {
        length: Some(None),
        ..Answer::ok(&BODY[..20])
    }),
    ("longer package", |_, _| Answer::ok(&[BODY, b"x"].concat())),
    ("longer package of unknown length", |_, _| Answer {
        length: Some(None),
        ..Answer::ok(&[BODY, b"x"].concat())
    }),
    ("web page by its type", |_, _| {
        Answer::ok(b"log in").header("Content-Type: text/html; charset=utf-8")
    }),
    ("web page by its text", |_, _| {
        Answer::ok(b"\n<!DOCTYPE HTML><title>Log in</title>")
    }),
    ("404", |_, _| Answer::status("404 Not Found")),
    ("403", |_, _| Answer::status("403 Forbidden")),
    ("500 for ever", |_, _| {
        Answer::status("500 Internal Server Error")
    }),
    ("broken off for ever", |_, _| Answer::ok(BODY).cut(10)),
    ("silent for ever", |_, _| Answer {
        silence: Some(Duration::from_secs(2)),
        ..Answer::ok(BODY).cut(10)
    }),
    ("redirected for ever", |_, _| Answer::redirect("/again")),
    ("redirected to another scheme", |_, _| {
        Answer::redirect("file:///etc/passwd")
    }),
];

/// Every message is told apart, and names the archive or the file, from where, and why.
#[test]
fn what_is_bad_is_refused_with_its_own_words() {
    let bench = Bench::new();
    let mut all = String::new();
    for (name, spoil) in SPOILT {
        let dir = tempfile::tempdir().unwrap();
        let mut repository = repository(dir.path());
        repository.publish();
        let source = spoil(&mut repository);
        let error = bench
            .read(&source)
            .map(|(release, _)| release)
            .expect_err(name);
        writeln!(all, "{name}:\n  {error}").unwrap();
    }
    for (name, answer) in REFUSED {
        let server = Server::new(answer);
        let error = bench.refused(wanted("hello.deb", BODY, &[server.mirror()]));
        writeln!(all, "{name}:\n  {error}").unwrap();
    }
    let plain = Server::new(|_, _| Answer::ok(BODY));
    let to = plain.url("pool/hello.deb?token=geheim");
    let secure = Server::https(move |_, _| Answer::redirect(&to));
    let error = bench.refused(wanted("hello.deb", BODY, &[secure.mirror()]));
    writeln!(all, "redirected from https to http:\n  {error}").unwrap();
    assert!(plain.requests().is_empty());
    writeln!(
        all,
        "nobody listens:\n  {}",
        bench.refused(wanted("hello.deb", BODY, &[nobody()]))
    )
    .unwrap();
    writeln!(
        all,
        "no place:\n  {}",
        bench.refused(wanted("hello.deb", BODY, &[]))
    )
    .unwrap();
    let mut outside = wanted("hello.deb", BODY, &[plain.mirror()]);
    outside.places[0].path = "../../etc/passwd".to_owned();
    writeln!(all, "path that leads out:\n  {}", bench.refused(outside)).unwrap();
    insta::assert_snapshot!("refused", all);
    let mut messages: Vec<_> = all.lines().filter(|line| line.starts_with(' ')).collect();
    messages.sort_unstable();
    messages.dedup();
    assert!(messages.len() >= 40, "{} messages", messages.len());
}

#[test]
fn a_frozen_archive_may_be_old() {
    let (bench, dir) = (Bench::new(), tempfile::tempdir().unwrap());
    let mut repository = repository(dir.path());
    (repository.date, repository.valid_until) = (1_600_000_000, Some(1_600_600_000));
    repository.publish();
    let source = ArchiveSource {
        frozen: true,
        ..repository.source("stable")
    };
    assert_eq!(
        bench.read(&source).unwrap().0.valid_until,
        Some(1_600_600_000)
    );
}

#[test]
fn one_good_signature_and_one_good_mirror_are_enough() {
    let (bench, good, bad) = (
        Bench::new(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let repository = repository(good.path());
    repository.publish();
    let other = self::repository(bad.path());
    other.publish();
    other.edit(
        "dists/stable/InRelease",
        replaced("Origin: Test", "Origin: Tost"),
    );
    let source = ArchiveSource {
        bases: vec![nobody(), other.mirror(), repository.mirror()],
        ..repository.source("stable")
    };
    assert_eq!(bench.read(&source).unwrap().0.origin, "Test");
    // Keyrings hold several keys, armored one after another.
    let keys = format!("{}{}", Key::new(2).armored(), repository.key.armored()).into_bytes();
    let source = ArchiveSource {
        trust: Trust::Keys {
            keys,
            place: String::new(),
        },
        ..source
    };
    assert_eq!(bench.read(&source).unwrap().0.origin, "Test");
}

#[test]
fn keys_of_all_kinds_sign() {
    for key in [
        Key::new(1),
        Key::with_subkey(2),
        Key::rsa(3, HashAlgorithm::Sha512),
        Key::expiring(4, u32::MAX / 2),
    ] {
        let signed = key
            .clear_sign("- a\n\nb\n- -c\n")
            .replace("\nb\n", "\nb\t \n");
        let verified = Keyring::parse(&key.public(), "")
            .unwrap()
            .verify_cleartext(signed.as_bytes(), now())
            .unwrap();
        assert_eq!(
            (verified.text.as_str(), &verified.signer),
            ("- a\n\nb\n- -c\n", &key.fingerprint())
        );
        let crlf = signed.replace('\n', "\r\n");
        let verified = Keyring::parse(&key.public(), "")
            .unwrap()
            .verify_cleartext(crlf.as_bytes(), now())
            .unwrap();
        assert_eq!(verified.text, "- a\n\nb\n- -c\n");
    }
}

#[test]
fn what_breaks_off_is_resumed() {
    let body: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let whole = body.clone();
    let server = Server::new(move |number, request| {
        let answer = Answer::part(request, &whole).header("ETag: \"v1\"");
        if number == 0 {
            answer.cut(150_000)
        } else {
            answer
        }
    });
    let (got, errors) = Bench::new().get(&[wanted("a.deb", &body, &[server.mirror()])]);
    assert!(errors.is_empty() && got[&0] == body, "{errors:?}");
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(
        (requests[0].start(), requests[1].start()),
        (None, Some(150_000))
    );
    assert_eq!(requests[1].header("If-Range"), Some("\"v1\""));
}

#[test]
fn a_server_that_knows_no_parts_is_asked_for_all_again() {
    let body = BODY.repeat(1000);
    let whole = body.clone();
    let server = Server::new(move |number, request| match number {
        0 => Answer::ok(&whole).cut(5000),
        // Another part than the one asked for.
        1 => Answer {
            status: "206 Partial Content",
            ..Answer::ok(&whole[..500])
        }
        .header(&format!("Content-Range: bytes 0-499/{}", whole.len())),
        2 => {
            assert_eq!(
                request.start(),
                None,
                "what had come is not believed any more"
            );
            Answer::ok(&whole)
        }
        _ => unreachable!(),
    });
    let bench = Bench::new();
    let (got, errors) = bench.get(&[wanted("a.deb", &body, &[server.mirror()])]);
    assert!(errors.is_empty() && got[&0] == body, "{errors:?}");
    let whole = body.clone();
    let server = Server::new(move |number, _| {
        if number == 0 {
            Answer::ok(&whole).cut(5000)
        } else {
            Answer::ok(&whole)
        }
    });
    let (got, errors) = bench.get(&[wanted("a.deb", &body, &[server.mirror()])]);
    assert!(errors.is_empty() && got[&0] == body, "{errors:?}");
    assert_eq!(server.requests()[1].start(), Some(5000));
}

#[test]
fn a_resumed_file_that_turns_out_wrong_is_got_from_the_start() {
    let body = BODY.repeat(1000);
    let whole = body.clone();
    let server = Server::new(move |number, request| match number {
        0 => Answer::ok(&vec![b'x'; whole.len()]).cut(5000),
        _ => Answer::part(request, &whole),
    });
    let (got, errors) = Bench::new().get(&[wanted("a.deb", &body, &[server.mirror()])]);
    assert!(errors.is_empty() && got[&0] == body, "{errors:?}");
    let starts: Vec<_> = server.requests().iter().map(Request::start).collect();
    assert_eq!(starts, [None, Some(5000), None]);
}

#[test]
fn the_next_place_is_asked_where_one_fails() {
    let bench = Bench::new();
    let good = Server::new(|_, _| Answer::ok(BODY));
    for (answer, attempts) in [
        ((|_, _| Answer::status("404 Not Found")) as Answerer, 1),
        (|_, _| Answer::ok(b"<html>"), 1),
        (|_, _| Answer::ok(&[b'x'; 64]), 2),
        (|_, _| Answer::status("503 Service Unavailable"), 3),
    ] {
        let bad = Server::new(answer);
        let (got, errors) = bench.get(&[wanted(
            "a.deb",
            BODY,
            &[nobody(), bad.mirror(), good.mirror()],
        )]);
        assert!(errors.is_empty() && got[&0] == BODY, "{errors:?}");
        assert_eq!(bad.requests().len(), attempts);
    }
}

#[test]
fn what_is_gone_keeps_nothing_else_from_coming() {
    let server = Server::new(|_, request| {
        if request.path.contains("gone") {
            Answer::status("410 Gone")
        } else {
            Answer::ok(BODY)
        }
    });
    let names = ["a", "gone-1", "b", "gone-2", "c"];
    let wanted: Vec<_> = names
        .iter()
        .map(|name| wanted(name, BODY, &[server.mirror()]))
        .collect();
    let (got, errors) = Bench::new().get(&wanted);
    assert_eq!(got.into_keys().collect::<Vec<_>>(), [0, 2, 4]);
    let gone: Vec<_> = errors
        .iter()
        .map(|(index, error)| (*index, error.name.as_deref().unwrap()))
        .collect();
    assert_eq!(gone, [(1, "gone-1"), (3, "gone-2")]);
}

#[test]
fn many_files_come_at_a_time_but_not_too_many_from_one_server() {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    static NOW: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let server = Server::new(|_, _| {
        MOST.fetch_max(NOW.fetch_add(1, SeqCst) + 1, SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        NOW.fetch_sub(1, SeqCst);
        Answer::ok(BODY)
    });
    let wanted: Vec<_> = (0..24)
        .map(|number| wanted(&number.to_string(), BODY, &[server.mirror()]))
        .collect();
    let (got, errors) = Bench::new().get(&wanted);
    assert_eq!((got.len(), errors.len()), (24, 0));
    assert!((2..=6).contains(&MOST.load(SeqCst)), "{MOST:?} at a time");
}

#[test]
fn a_login_goes_to_its_own_server_only_and_is_never_shown() {
    let bench = Bench::new();
    let other = Server::new(|_, _| Answer::ok(BODY));
    let to = other.url("elsewhere");
    let server = Server::new(move |number, request| {
        assert_eq!(
            request.header("Authorization"),
            Some("Basic bWU6Z2VoZWlt"),
            "me:geheim"
        );
        if number == 0 {
            Answer::redirect(&to)
        } else {
            Answer::status("403 Forbidden")
        }
    });
    let mirror = Mirror::parse(&format!(
        "http://me:geheim@127.0.0.1:{}/debian",
        server.port
    ))
    .unwrap();
    let file = wanted("a.deb", BODY, &[mirror]);
    let (got, errors) = bench.get(std::slice::from_ref(&file));
    assert!(errors.is_empty() && got.len() == 1, "{errors:?}");
    assert_eq!(other.requests()[0].header("Authorization"), None);
    let error = bench.refused(file);
    assert_eq!(
        error,
        "cannot get a.deb from http://HOST/debian/pool/a.deb: the server responded with 403 Forbidden"
    );
}

#[test]
fn a_proxy_is_used() {
    let proxy = Server::new(|_, request| {
        assert_eq!(
            request.header("Proxy-Authorization"),
            Some("Basic bWU6Z2VoZWlt"),
            "me:geheim"
        );
        assert_eq!(request.path, "http://mirror.example.org/debian/pool/a.deb");
        Answer::ok(BODY)
    });
    let address = format!("http://me:geheim@127.0.0.1:{}", proxy.port);
    let choice = MirrorChoice::read(None, |name| {
        (name == "http_proxy").then_some(address.as_str())
    })
    .unwrap();
    let mirrors = choice.resolve().unwrap();
    let bench = Bench::with(&mirrors, quick());
    let mirror = Mirror::parse("http://mirror.example.org/debian").unwrap();
    let (got, errors) = bench.get(&[wanted("a.deb", BODY, &[mirror])]);
    assert!(errors.is_empty() && got.len() == 1, "{errors:?}");
}

#[test]
fn cancelling_ends_it_at_once() {
    let server = Server::new(|_, _| Answer {
        silence: Some(Duration::from_secs(3)),
        ..Answer::ok(BODY).cut(10)
    });
    let bench = Bench::with(
        &Mirrors::default(),
        Options {
            stall: Duration::from_secs(60),
            ..quick()
        },
    );
    let cancel = bench.cancel.clone();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while server.requests().is_empty() {
                std::thread::yield_now();
            }
            cancel.cancel();
        });
        let error = bench.refused(wanted("a.deb", BODY, &[server.mirror()]));
        assert!(error.ends_with("cancelled"), "{error}");
    });
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}

/// A signed text, and the keyring that believes it.
fn signed() -> (Vec<u8>, Keyring) {
    let key = Key::with_subkey(9);
    let release = "Suite: stable\nDate: Sat, 11 Jul 2020 10:16:37 UTC\nSHA256:\n";
    (
        key.clear_sign(release).into_bytes(),
        Keyring::parse(&key.public(), "").unwrap(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_of_a_signed_text_passes_or_panics(at in any::<prop::sample::Index>(), bit in 0..8_u32, cut in any::<bool>()) {
        let (bytes, keyring) = signed();
        let at = at.index(bytes.len());
        let mut damaged = bytes.clone();
        if cut { damaged.truncate(at) } else { damaged[at] ^= 1 << bit }
        if let Ok(verified) = keyring.verify_cleartext(&damaged, now()) {
            // White space at ends of lines, headers and checksums of armor are not signed.
            let original = keyring.verify_cleartext(&bytes, now()).unwrap();
            prop_assert_eq!(verified, original);
        }
    }

    #[test]
    fn damaged_keys_do_not_panic(at in any::<prop::sample::Index>(), bit in 0..8_u32, cut in any::<bool>()) {
        let (bytes, _) = signed();
        let mut keys = Key::with_subkey(9).public();
        let at = at.index(keys.len());
        if cut { keys.truncate(at) } else { keys[at] ^= 1 << bit }
        if let Ok(keyring) = Keyring::parse(&keys, "") {
            let _ = keyring.verify_cleartext(&bytes, now());
        }
    }

    #[test]
    fn any_text_can_be_signed_and_read(text in "([ -~]{0,12}[ \t]{0,2}\n){0,6}") {
        let key = Key::new(1);
        let keyring = Keyring::parse(&key.public(), "").unwrap();
        let trimmed: String = text.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        match keyring.verify_cleartext(key.clear_sign(&text).as_bytes(), now()) {
            Ok(verified) if trimmed.is_empty() => prop_assert_eq!(verified.text.trim(), ""),
            Ok(verified) => prop_assert_eq!(verified.text, trimmed),
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}

#[test]
fn signatures_of_nothing_that_is_known_name_their_keys() {
    let (bytes, _) = signed();
    let error = Keyring::parse(DEBIAN_KEYS, "Debian's")
        .unwrap()
        .verify_cleartext(&bytes, now())
        .unwrap_err();
    assert!(
        matches!(error, SignatureError::UnknownKey { keys, .. } if keys.len() == 1 && keys[0].len() == 40)
    );
}

#[path = "../fuzz/src/archive.rs"]
#[expect(unreachable_pub, reason = "a file that the fuzz targets share")]
mod fuzz;

#[test]
fn seeds_of_archives_are_replayed() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds/archive");
    let paths: Vec<_> = std::fs::read_dir(&seeds)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(paths.len() >= 5, "{} seeds", paths.len());
    for path in paths {
        let seed = std::fs::read(&path).unwrap();
        fuzz::run(&seed);
        let mut random = Random::new(seed.len() as u64);
        for _ in 0..100 {
            fuzz::run(&seed[..random.below(seed.len() as u64) as usize]);
            let mut changed = seed.clone();
            changed[random.below(seed.len() as u64) as usize] ^= 1 << random.below(8);
            fuzz::run(&changed);
        }
    }
}
