//! What comes from elsewhere: files by their checksums, images that are refused; and what is never written over.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use impasto_stages::action::{Action, Bound, Executor, ImportAs, Step};
use impasto_store::Store;
use impasto_store::digest::{BlobDigest, ContentDigest};

use crate::base::{base, tool};
use crate::project::{Project, sha256};

const BASE: &str =
    "recipe {\n  name = \"it\"\n}\n\nstage \"fetch\" \"base\" { path = \"base.qcow2\" }\n";

/// Serves one file under every path, `count` times.
fn serve(
    body: Vec<u8>,
    status: &'static str,
    count: usize,
) -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "http://{}/images/base.qcow2?x=1",
        listener.local_addr().unwrap()
    );
    let server = std::thread::spawn(move || {
        for _ in 0..count {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                request.push(byte[0]);
            }
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            stream
                .write_all(head.as_bytes())
                .and_then(|()| stream.write_all(&body))
                .unwrap();
        }
    });
    (url, server)
}

fn fetch(url: &str, checksum: &str) -> String {
    format!(
        "stage \"fetch\" \"base\" {{\n  url      = \"{url}\"\n  checksum = \"sha256:{checksum}\"\n}}\n"
    )
}

#[test]
fn a_disk_is_fetched_by_its_checksum() {
    let project = Project::new();
    let (url, server) = serve(std::fs::read(&base().qcow2).unwrap(), "200 OK", 1);
    let checksum = sha256(&base().qcow2);
    let convert = "stage \"convert\" \"raw\" {\n  from   = stage.base\n  format = \"raw\"\n}\n";
    project.write("impasto.hcl", &(fetch(&url, &checksum) + convert));
    assert_eq!(project.build(&[]), (2, 0));
    server.join().unwrap();
    tool(
        "cmp",
        &[
            project.path("out/raw.raw").to_str().unwrap(),
            base().raw.to_str().unwrap(),
        ],
    );
    assert_eq!(
        project.build(&[]),
        (0, 2),
        "the server is gone, and is not asked"
    );
    project.write(
        "impasto.hcl",
        &(fetch("http://127.0.0.1:9/other", &checksum) + convert),
    );
    assert_eq!(
        project.build(&[]),
        (0, 2),
        "the key is the checksum, not the URL"
    );
}

#[test]
fn a_file_with_another_checksum_is_not_kept() {
    let project = Project::new();
    let (url, server) = serve(b"another file".to_vec(), "200 OK", 1);
    let expected = "0".repeat(64);
    project.write("impasto.hcl", &fetch(&url, &expected));
    let ran = project.run(&["build"]);
    server.join().unwrap();
    assert_eq!(ran.code, 4);
    assert!(
        ran.stderr.contains(&format!("expected sha256:{expected}")),
        "{}",
        ran.stderr
    );
    let got = "sha256:2c6e3b0a";
    assert!(ran.stderr.contains("got sha256:"), "{got}: {}", ran.stderr);
    assert!(
        ran.stderr.contains("help: if you want the new file"),
        "{}",
        ran.stderr
    );
    assert_eq!(
        std::fs::read_dir(project.store().join("tmp")).map_or(0, Iterator::count),
        0
    );
}

#[test]
fn a_server_that_says_no_or_is_not_there_is_named() {
    let project = Project::new();
    let (url, server) = serve(Vec::new(), "404 Not Found", 1);
    project.write("impasto.hcl", &fetch(&url, &"0".repeat(64)));
    let ran = project.run(&["build"]);
    server.join().unwrap();
    assert_eq!(ran.code, 4);
    assert!(
        ran.stderr.contains(&format!(
            "cannot get {}: the server responded with 404 Not Found",
            url.trim_end_matches("?x=1")
        )),
        "{}",
        ran.stderr
    );
    project.write(
        "impasto.hcl",
        &fetch("http://127.0.0.1:9/x", &"0".repeat(64)),
    );
    let ran = project.run(&["build"]);
    assert_eq!(ran.code, 4);
    assert!(
        ran.stderr
            .contains("cannot get http://127.0.0.1:9/x: the server cannot be reached\n"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.to_lowercase().contains("connection refused"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_hostile_image_is_refused_before_anything_opens_it() {
    let project = Project::new();
    tool(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "raw",
            project.path("secret.raw").to_str().unwrap(),
            "1M",
        ],
    );
    let evil = project.path("evil.qcow2");
    let backing = project.path("secret.raw").display().to_string();
    tool(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "raw",
            "-b",
            &backing,
            evil.to_str().unwrap(),
        ],
    );
    project.write(
        "impasto.hcl",
        "stage \"fetch\" \"base\" { path = \"evil.qcow2\" }\n",
    );
    let ran = project.run(&["build"]);
    assert_eq!(ran.code, 4);
    assert!(
        ran.stderr
            .contains("`evil.qcow2` is refused as a disk image"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("backing file"), "{}", ran.stderr);
}

#[test]
fn an_image_of_a_disk_is_refused_with_the_way_out() {
    let project = Project::with(&format!(
        "{BASE}\nimage \"it\" {{\n  name  = \"it\"\n  files = [stage.base]\n}}\n"
    ));
    for _ in 0..2 {
        let ran = project.run(&["build"]);
        assert_eq!(ran.code, 4, "{}", ran.stderr);
        assert!(
            ran.stderr
                .contains("base made a disk, but an image consists of files"),
            "{}",
            ran.stderr
        );
        assert!(
            ran.stderr.contains("help: add a `convert` stage"),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn a_device_is_never_replaced_by_a_file() {
    let project = Project::with(BASE);
    project.build(&[]);
    let ran = project.run(&["layer", "export", "base", "-o", "/dev/null"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("it exists and is not a regular file"),
        "{}",
        ran.stderr
    );
    tool("test", &["-c", "/dev/null"]);
}

#[test]
fn a_file_that_an_older_program_took_for_no_disk_is_taken_in_again() {
    let recipe =
        |more: &str| format!("stage \"fetch\" \"it\" {{\n  path = \"disk.vmdk\"\n{more}}}\n");
    let project = Project::with(&recipe("  as = \"file\"\n"));
    let (qcow2, vmdk) = (project.path("base.qcow2"), project.path("disk.vmdk"));
    let line = ["convert", "-O", "vmdk", "-o", "subformat=streamOptimized"];
    let paths = [qcow2.to_str().unwrap(), vmdk.to_str().unwrap()];
    tool("qemu-img", &[&line[..], &paths].concat());
    assert_eq!(project.build(&["it"]), (1, 0));

    // What version 1 of the kind claimed of a stage that does not say what the file is: the same file.
    let store = Store::open(project.store()).unwrap();
    let mut hasher = BlobDigest::hasher();
    hasher.update(&std::fs::read(&vmdk).unwrap());
    let source = Bound {
        content: ContentDigest::Blob(BlobDigest(hasher.finish())),
        mode: Some(std::fs::metadata(&vmdk).unwrap().permissions().mode() & 0o7777),
        made_by: None,
    };
    let key = |as_a| {
        let mut action = Action::new("fetch", 1, Executor::Host);
        let input = "source".to_owned();
        action.inputs.insert(input.clone(), source);
        action.steps.push(Step::Import { input, as_a });
        action.digest()
    };
    let (claims, _) = store.claims(&key(ImportAs::File)).unwrap();
    let [(_, claim)] = &claims[..] else {
        panic!("the key of `as = \"file\"` is another one: {claims:?}")
    };
    let mut older = claim.clone();
    older.action = key(ImportAs::Auto);
    store.put_claim(&older).unwrap();
    store.flush().unwrap();

    project.write("impasto.hcl", &recipe(""));
    assert_eq!(project.build(&["it"]), (1, 0), "it is no file any more");
    assert_eq!(project.ok(&["diff", "it", "base.qcow2"]), "");
}
