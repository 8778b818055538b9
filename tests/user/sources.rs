//! Files whose bytes the recipe does not name: found out once, locked, compared with what there is now. Servers are ours.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use impasto_store::sha256::{Sha256, Sha512};

use crate::project::{Project, Ran};
use crate::repository::{Key, MADE};
use crate::server::{Answer, Server};

/// Bytes and the day in November 2026 on which they changed, by path.
type ServedFiles = BTreeMap<String, (Vec<u8>, u32)>;

/// A server whose files can be changed.
struct Files {
    server: Server,
    files: Arc<Mutex<ServedFiles>>,
}

impl Files {
    fn new() -> Files {
        let files = Arc::<Mutex<ServedFiles>>::default();
        let served = files.clone();
        let server = Server::new(move |_, request| {
            let path = request.path.split('?').next().unwrap();
            match served.lock().unwrap().get(path) {
                Some((bytes, day)) => Answer::part(request, bytes)
                    .header(&format!("Last-Modified: Wed, {day} Nov 2026 08:00:00 GMT"))
                    .header("Content-Type: application/octet-stream"),
                None => Answer::status("404 Not Found"),
            }
        });
        Files { server, files }
    }

    fn put(&self, path: &str, bytes: impl AsRef<[u8]>, day: u32) {
        let file = (bytes.as_ref().to_vec(), day);
        self.files.lock().unwrap().insert(path.to_owned(), file);
    }

    fn remove(&self, path: &str) {
        self.files.lock().unwrap().remove(path);
    }

    /// How often it was asked.
    fn asked(&self) -> usize {
        self.server.requests().len()
    }
}

/// A recipe of one file, with these lines beside its URL.
fn project(files: &Files, path: &str, lines: &str) -> Project {
    let project = Project::empty();
    write(&project, &files.server.url(path), lines);
    project
}

fn write(project: &Project, url: &str, lines: &str) {
    let stage =
        format!("stage \"fetch\" \"base\" {{\n  url = \"{url}\"\n  as  = \"file\"\n{lines}\n}}\n");
    project.write("impasto.hcl", &(stage + IMAGE));
}

/// What makes a file of the stage.
const IMAGE: &str = "image \"it\" {\n  name  = \"it\"\n  files = { base = stage.base }\n}\n";

/// Builds the file, and gives what it holds.
fn built(project: &Project, arguments: &[&str]) -> String {
    project.ok(&[&["build"], arguments].concat());
    project.read("out/it/base")
}

#[track_caller]
fn refused(ran: &Ran, code: i32, texts: &[&str]) {
    assert_eq!(ran.code, code, "{}", ran.stderr);
    for text in texts {
        assert!(
            ran.stderr.contains(text),
            "{text:?} is not in:\n{}",
            ran.stderr
        );
    }
}

fn sums(content: &str, name: &str) -> String {
    format!(
        "{}  other.img\n{}  {name}\n",
        Sha512::of(b"other"),
        Sha512::of(content.as_bytes())
    )
}

#[test]
fn a_file_without_a_checksum_is_locked_and_never_asked_for_again() {
    let files = Files::new();
    files.put("a.img", "one", 4);
    let project = project(&files, "a.img", "");
    let locked = project.run(&["build", "--locked"]);
    refused(
        &locked,
        3,
        &[
            "impasto.lock does not say what stage base fetches",
            "help: build once without --locked",
        ],
    );
    let offline = project.run(&["build", "--offline"]);
    refused(
        &offline,
        3,
        &[
            "does not say what stage base fetches",
            "help: build once without --offline",
        ],
    );
    assert_eq!(files.asked(), 0);
    let plan = project.ok(&["plan"]);
    assert!(plan.contains("what it fetches is not locked"), "{plan}");
    assert_eq!(built(&project, &[]), "one");
    assert_eq!(files.asked(), 2, "one look and one download");
    let lock = project.read("impasto.lock");
    let sha256 = Sha256::of(b"one");
    for line in [
        "version = 2".to_owned(),
        "[[source]]\nname = \"base\"".to_owned(),
        format!("sha256 = \"{sha256}\"\nsize = 3\ndate = \"2026-11-04T08:00:00Z\""),
        format!("request = [\"url {}\"]", files.server.url("a.img")),
    ] {
        assert!(lock.contains(&line), "{line} is not in:\n{lock}");
    }
    // Another file is another's business, until it is asked for.
    files.put("a.img", "two", 18);
    for arguments in [&[][..], &["--locked"], &["--offline"]] {
        assert_eq!(built(&project, arguments), "one");
    }
    assert_eq!((files.asked(), project.read("impasto.lock")), (2, lock));
    let outdated = project.run(&["outdated"]);
    assert_eq!(outdated.code, 10, "{}", outdated.stderr);
    let told = format!(
        "base: another file since 2026-11-18  ({})\n",
        files.server.url("a.img")
    );
    assert!(outdated.stdout.starts_with(&told), "{}", outdated.stdout);
    let update = project.ok(&["update", "base"]);
    assert!(
        update.starts_with("base: 7692c3ad3540 of 2026-11-04 → "),
        "{update}"
    );
    let asked = files.asked();
    // What came when it was locked is not got twice.
    assert_eq!(built(&project, &["--offline"]), "two");
    assert_eq!(files.asked(), asked);
    let outdated = project.run(&["outdated"]);
    assert_eq!(
        (outdated.code, &*outdated.stdout),
        (0, "everything locked is up to date\n")
    );
    assert_eq!(
        project.ok(&["update"]),
        "nothing is newer: the lock is unchanged\n"
    );
}

#[test]
fn a_list_of_checksums_that_is_signed_is_believed() {
    let (files, key) = (Files::new(), Key::new(1));
    let name = "debian-13-generic.img";
    files.put(&format!("13/{name}"), "one", 4);
    let list = sums("one", name);
    let fields = "  checksum  = \"file:SHA512SUMS\"\n  signed_by = file(\"key.asc\")";
    for (form, signature) in [
        ("inline", None),
        (".sign", Some("13/SHA512SUMS.sign")),
        (".gpg", Some("13/SHA512SUMS.gpg")),
        (".asc", Some("13/SHA512SUMS.asc")),
        (".sig", Some("13/SHA512SUMS.sig")),
    ] {
        match signature {
            None => files.put("13/SHA512SUMS", key.clear_sign(&list), 4),
            Some(path) => {
                files.put("13/SHA512SUMS", &list, 4);
                files.put(path, key.sign(list.as_bytes()), 4);
            }
        }
        let project = project(&files, &format!("13/{name}"), fields);
        project.write("key.asc", &key.armored());
        assert_eq!(built(&project, &[]), "one", "{form}");
        let lock = project.read("impasto.lock");
        assert!(
            lock.contains(&format!("signer = \"{}\"", key.fingerprint())),
            "{lock}"
        );
        assert!(
            lock.contains(&format!("listed = \"sha512:{}\"", Sha512::of(b"one"))),
            "{lock}"
        );
        let asked = files.asked();
        let outdated = project.run(&["outdated"]);
        assert_eq!(
            (outdated.code, &*outdated.stdout),
            (0, "everything locked is up to date\n")
        );
        assert!(
            files.asked() <= asked + 6,
            "the list and its signature, not the file"
        );
        // Other keys trust other lists.
        project.write("key.asc", &Key::new(2).armored());
        let stale = project.run(&["build"]);
        refused(
            &stale,
            3,
            &[
                "impasto.lock is stale: stage base: the recipe now has `signed by key",
                "help: lock them again: impasto update base",
            ],
        );
        if let Some(path) = signature {
            files.remove(path);
        }
    }
}

#[test]
fn another_image_is_told_by_its_list_alone() {
    let files = Files::new();
    files.put("a.img", "one", 4);
    files.put("SHA256SUMS", format!("{} *a.img\n", Sha256::of(b"one")), 4);
    let project = project(&files, "a.img", "  checksum = \"file:SHA256SUMS\"");
    assert_eq!(built(&project, &[]), "one");
    files.put("a.img", "two", 18);
    files.put(
        "SHA256SUMS",
        format!("SHA256 (./a.img) = {}\n", Sha256::of(b"two")),
        18,
    );
    let outdated = project.run(&["outdated", "--json"]);
    assert_eq!(outdated.code, 10);
    let document: serde_json::Value = serde_json::from_str(&outdated.stdout).unwrap();
    let source = &document["sources"][0];
    assert_eq!(
        (&source["stage"], &source["what"]),
        (&"base".into(), &"file".into())
    );
    assert_eq!(
        (&source["locked_date"], &source["date"]),
        (
            &"2026-11-04T08:00:00Z".into(),
            &"2026-11-18T08:00:00Z".into()
        )
    );
    let dry = project.ok(&["update", "--dry-run"]);
    assert!(dry.contains(" of 2026-11-04 → "), "{dry}");
    // The list says the SHA-256, so the file was not got for it.
    let got = files.server.requests();
    assert!(
        got.iter()
            .filter(|request| request.path == "a.img" && request.method == "GET")
            .count()
            == 1
    );
    project.ok(&["update"]);
    assert_eq!(built(&project, &["--locked"]), "two");
}

#[test]
fn lists_that_cannot_be_believed_are_refused() {
    let (files, key) = (Files::new(), Key::new(1));
    files.put("a.img", "one", 4);
    let list = sums("one", "a.img");
    let other = sums("two", "a.img");
    let key_of = |key: &Key, list: &str| (key.armored(), key.clear_sign(list));
    let mut expiring = Key::expiring(3, 1000);
    expiring.signs_at = Some(MADE + 10);
    let revoked = Key::new(4).revoked();
    let weak = "d41d8cd98f00b204e9800998ecf8427e  a.img\n";
    let twice = format!("{list}{other}");
    let page = key.clear_sign("<html>\nno\n");
    let cases = [
        (
            "another key",
            (key.armored(), Key::new(2).clear_sign(&list)),
            &[
                "cannot be trusted",
                "it is not signed with a known key",
                "help: if that key may sign it, add it to `signed_by`",
            ][..],
        ),
        (
            "expired",
            key_of(&expiring, &list),
            &["which expired on 2020-09-13", "help: get the current key"],
        ),
        ("revoked", key_of(&revoked, &list), &["which was revoked"]),
        (
            "changed",
            (
                key.armored(),
                key.clear_sign(&list).replacen("a.img", "b.img", 1),
            ),
            &["does not match: either the text or the signature was changed"],
        ),
        (
            "unsigned",
            (key.armored(), list.clone()),
            &[
                "SHA512SUMS is not signed, and none of SHA512SUMS.sign, SHA512SUMS.gpg, SHA512SUMS.asc, SHA512SUMS.sig is there",
                "help: remove `signed_by`",
            ],
        ),
        (
            "another file's",
            (key.armored(), key.clear_sign(&sums("one", "b.img"))),
            &[
                "cannot be used as a list of checksums",
                "it does not list a.img",
                "help: did you mean `b.img`?",
            ],
        ),
        (
            "twice",
            (key.armored(), key.clear_sign(&twice)),
            &[
                "it lists a.img twice, with different checksums",
                "put the file's own checksum into the recipe",
            ],
        ),
        (
            "weak",
            (key.armored(), key.clear_sign(weak)),
            &["it has only a weak checksum of a.img: MD5"],
        ),
        (
            "no list",
            (key.armored(), page),
            &["it is not a list of checksums"],
        ),
    ];
    let fields = "  checksum  = \"file:SHA512SUMS\"\n  signed_by = [file(\"key.asc\")]";
    for (case, (armored, text), expected) in cases {
        files.put("SHA512SUMS", text, 4);
        let project = project(&files, "a.img", fields);
        project.write("key.asc", &armored);
        let ran = project.run(&["build"]);
        refused(&ran, 4, expected);
        refused(
            &ran,
            4,
            &["error: what stage base fetches cannot be locked (impasto.hcl:1)"],
        );
        assert!(
            !project.path("impasto.lock").exists(),
            "{case}: nothing is half made"
        );
    }
    // A signature beside the list that is of another list.
    files.put("SHA512SUMS", &list, 4);
    files.put("SHA512SUMS.sign", key.sign(other.as_bytes()), 4);
    let project = project(&files, "a.img", fields);
    project.write("key.asc", &key.armored());
    refused(
        &project.run(&["build"]),
        4,
        &["does not match: either the text or the signature was changed"],
    );
    // A file that is not what its list says.
    files.put("SHA512SUMS.sign", key.sign(list.as_bytes()), 4);
    files.put("a.img", "two", 4);
    refused(
        &project.run(&["build"]),
        4,
        &["has the wrong checksum: expected sha512:"],
    );
}

#[test]
fn a_list_may_lie_beside_the_recipe_and_a_checksum_be_a_sha512() {
    let files = Files::new();
    files.put("a.img", "one", 4);
    let local = project(&files, "a.img", "  checksum = \"file:./sums\"");
    refused(
        &local.run(&["build"]),
        4,
        &[
            "cannot read sums",
            "`file:./NAME` is a list beside the recipe",
        ],
    );
    local.write("sums", &sums("one", "a.img"));
    assert_eq!(built(&local, &[]), "one");
    let outside = project(&files, "a.img", "  checksum = \"file:./../../etc/passwd\"");
    refused(
        &outside.run(&["build"]),
        4,
        &["cannot read ../../etc/passwd"],
    );
    let digits = Sha512::of(b"one");
    let pinned = project(
        &files,
        "a.img",
        &format!("  checksum = \"sha512:{digits}\""),
    );
    assert_eq!(built(&pinned, &[]), "one");
    files.put("a.img", "two", 18);
    let asked = files.asked();
    assert_eq!(pinned.run(&["outdated"]).code, 0);
    assert_eq!(
        files.asked(),
        asked,
        "what the recipe names cannot be another"
    );
}

#[test]
fn mirrors_are_tried_and_redirections_kept_in_bounds() {
    let files = Files::new();
    files.put("mirror/a.img", "one", 4);
    let mirrors = format!("  mirrors = [\"{}\"]", files.server.url("mirror/a.img"));
    let project = project(&files, "gone/a.img", &mirrors);
    assert_eq!(built(&project, &[]), "one");
    // A mirror more changes nothing.
    write(&project, &files.server.url("gone/a.img"), "");
    assert_eq!(built(&project, &["--locked", "--offline"]), "one");
    let target = files
        .server
        .url("mirror/a.img")
        .replace("127.0.0.1", "localhost");
    let away = Server::new(move |_, _| Answer::redirect(&target));
    let pinned = format!("  checksum = \"{}\"", Sha256::of(b"one"));
    for fields in ["", &*pinned] {
        let project = Project::empty();
        write(&project, &away.url("a.img"), fields);
        let ran = project.run(&["build"]);
        refused(
            &ran,
            4,
            &[
                "the server redirects to http://localhost:",
                "on a host that the recipe does not allow",
                "help: if the file may come from there, add `redirects = [\"localhost\"]` to the stage",
            ],
        );
        write(
            &project,
            &away.url("a.img"),
            &format!("{fields}\n  redirects = [\"localhost\"]"),
        );
        assert_eq!(built(&project, &[]), "one");
    }
}

#[test]
fn offline_asks_nobody() {
    let files = Files::new();
    files.put("a.img", "one", 4);
    let pinned = format!("  checksum = \"{}\"", Sha256::of(b"one"));
    let project = project(&files, "a.img", &pinned);
    let ran = project.run(&["build", "--offline"]);
    refused(
        &ran,
        4,
        &[
            "it would have to be downloaded, which --offline forbids",
            "help: get it while there is a network: impasto fetch",
        ],
    );
    assert_eq!(files.asked(), 0);
    project.ok(&["fetch"]);
    assert_eq!(built(&project, &["--offline"]), "one");
    assert_eq!(files.asked(), 1);
}

#[test]
fn a_lock_without_sources_stays_and_one_of_another_version_is_refused() {
    let project = Project::empty();
    project.write("a", "one");
    project.write(
        "impasto.hcl",
        &format!("stage \"fetch\" \"base\" {{\n  path = \"a\"\n  as = \"file\"\n}}\n{IMAGE}"),
    );
    let old = "# mine\nversion = 1\n";
    project.write("impasto.lock", old);
    assert_eq!(built(&project, &["--locked"]), "one");
    assert_eq!(
        project.read("impasto.lock"),
        old,
        "what is right is not written again"
    );
    project.write("impasto.lock", "version = 3\n");
    let ran = project.run(&["build"]);
    refused(
        &ran,
        3,
        &["its version is 3, but this impasto supports versions up to 2"],
    );
    let entry = "version = 2\n\n[[source]]\nname = \"base\"\ndate = \"2026-11-04T08:00:00Z\"\n";
    for (text, problem) in [
        (
            entry.to_owned(),
            "it has neither `sha256` nor `commit`, or both",
        ),
        (
            format!("{entry}commit = \"main\"\n"),
            "`commit` is \"main\", which is not a commit",
        ),
    ] {
        project.write("impasto.lock", &text);
        let ran = project.run(&["build", "--locked"]);
        refused(&ran, 3, &[problem]);
    }
}
