//! Files by URL and checksum, from servers that cut, stall, lie, move and refuse.

use std::path::Path;
use std::time::Duration;

use impasto::base::cancel::CancelToken;
use impasto::net::{
    Checksum, Download, DownloadError, Downloader, Expected, Options, Place, Proxies,
};
use impasto_store::sha256::{Sha256, Sha512};

use crate::base::{base, tool};
use crate::project::{Project, Ran, ran};
use crate::server::{Answer, Request, Server};

/// A file of some megabytes that no two parts of are alike.
fn body() -> Vec<u8> {
    (0..1_000_000_u32)
        .flat_map(|number| number.wrapping_mul(0x9e37_79b1).to_le_bytes())
        .collect()
}

/// A recipe that fetches a file.
fn recipe(url: &str, content: &[u8]) -> Project {
    let checksum = Sha256::of(content);
    let project = Project::empty();
    project.write(
        "impasto.hcl",
        &format!(
            "stage \"fetch\" \"base\" {{\n  url      = \"{url}\"\n  checksum = \"sha256:{checksum}\"\n}}\n"
        ),
    );
    project
}

fn build(project: &Project) -> Ran {
    project.run(&["build"])
}

/// Which byte each request began at.
fn starts(server: &Server) -> Vec<usize> {
    let requests = server.requests();
    requests
        .iter()
        .map(|request| request.start().unwrap_or(0))
        .collect()
}

#[test]
fn a_disk_image_that_is_cut_half_way_is_resumed() {
    let image = std::fs::read(&base().qcow2).unwrap();
    let (whole, half) = (image.clone(), image.len() / 2);
    let server = Server::new(move |number, request| {
        let answer = Answer::part(request, &whole).header("ETag: \"v1\"");
        match number {
            0 => answer.cut(half),
            _ => answer,
        }
    });
    let project = recipe(&server.url("base.qcow2"), &image);
    project.write(
        "impasto.hcl",
        &(project.read("impasto.hcl")
            + "stage \"convert\" \"raw\" {\n  from   = stage.base\n  format = \"raw\"\n}\n"),
    );
    assert_eq!(project.build(&[]), (2, 0));
    tool(
        "cmp",
        &[
            project.path("out/raw.raw").to_str().unwrap(),
            base().raw.to_str().unwrap(),
        ],
    );
    assert_eq!(starts(&server), [0, half]);
    let resumed = &server.requests()[1];
    assert_eq!(resumed.header("If-Range"), Some("\"v1\""));
    let left = std::fs::read_dir(project.store().join("tmp"));
    assert_eq!(left.map_or(0, Iterator::count), 0, "nothing is left");
}

#[test]
fn a_busy_server_is_asked_again() {
    let server = Server::new(|number, _| match number {
        0 | 1 => Answer::status("503 Service Unavailable"),
        _ => Answer::ok(b"content"),
    });
    let done = build(&recipe(&server.url("file"), b"content"));
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(server.requests().len(), 3);
    let server = Server::new(|_, _| Answer::status("503 Service Unavailable"));
    let done = build(&recipe(&server.url("file"), b"content"));
    let error = format!(
        "cannot get {}: the server responded with 503 Service Unavailable\n",
        server.url("file")
    );
    assert!(
        done.code == 4 && done.stderr.contains(&error),
        "{}",
        done.stderr
    );
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn a_server_may_announce_more_than_it_has_but_not_less() {
    let lie = |length: usize| {
        let answer = move |request: &Request| Answer {
            length: Some(Some(length)),
            ..Answer::part(request, b"content")
        };
        let server = Server::new(move |_, request| answer(request));
        (build(&recipe(&server.url("file"), b"content")), server)
    };
    let (done, server) = lie(1000);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(starts(&server), [0], "the checksum says that it is whole");
    let (done, server) = lie(3);
    assert!(
        done.code == 4
            && done
                .stderr
                .contains(" has the wrong checksum: expected sha256:"),
        "{}",
        done.stderr
    );
    assert_eq!(
        starts(&server),
        [0],
        "a large file is not got twice to fail twice"
    );
}

#[test]
fn a_web_page_instead_of_the_file_is_told() {
    let server = Server::new(|_, _| {
        Answer::ok(b"<!DOCTYPE html><title>Log in</title>").header("Content-Type: text/html")
    });
    let done = build(&recipe(&server.url("file"), b"content"));
    assert!(
        done.code == 4
            && done.stderr.contains(", of a web page\n")
            && done.stderr.contains("help: open the URL in a browser"),
        "{}",
        done.stderr
    );
    // Unless it is what is wanted.
    let page = b"<!DOCTYPE html><title>Log in</title>";
    let done = build(&recipe(&server.url("file"), page));
    assert_eq!(done.code, 0, "{}", done.stderr);
}

#[test]
fn a_login_of_a_url_is_used_and_not_shown() {
    let server = Server::new(|_, request| match request.header("Authorization") {
        Some("Basic bWU6Z2VoZWlt") => Answer::ok(b"content"),
        _ => Answer::status("401 Unauthorized"),
    });
    let url = |login: &str| format!("http://{login}@127.0.0.1:{}/file?token=geheim", server.port);
    let done = build(&recipe(&url("me:geheim"), b"content"));
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(server.requests()[0].path.ends_with("file?token=geheim"));
    let done = build(&recipe(&url("you:geheim"), b"content"));
    let error = format!(
        "cannot get {}: the server responded with 401 Unauthorized",
        server.url("file")
    );
    assert!(done.stderr.contains(&error), "{}", done.stderr);
    assert!(
        !(done.stdout + &done.stderr).contains("geheim"),
        "a password is shown"
    );
}

#[test]
fn the_proxy_of_the_environment_is_used() {
    let proxy = Server::new(|_, request| {
        assert_eq!(request.path, "http://images.example.org/file");
        Answer::ok(b"content")
    });
    let project = recipe("http://images.example.org/file", b"content");
    let mut command = project.command(&["build"]);
    command
        .env("http_proxy", proxy.url(""))
        .env_remove("no_proxy");
    let done = ran(command);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(proxy.requests().len(), 1);
    let server = Server::new(|_, _| Answer::ok(b"content"));
    let project = recipe(&server.url("file"), b"content");
    let mut command = project.command(&["build"]);
    command
        .env("http_proxy", proxy.url(""))
        .env("no_proxy", "example.net,127.0.0.1");
    let done = ran(command);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!((proxy.requests().len(), server.requests().len()), (1, 1));
}

#[test]
fn the_proxy_of_a_host_goes_before_that_of_its_scheme() {
    let usual = Server::new(|_, _| Answer::ok(b"usual"));
    let special = Server::new(|_, _| Answer::ok(b"special"));
    let direct = Server::new(|_, _| Answer::ok(b"direct"));
    let mut proxies = Proxies::except("other.example.org, 10.0.0.0/8");
    let address = |server: &Server| format!("127.0.0.1:{}", server.port);
    proxies.add("http", None, Some(&address(&usual)));
    proxies.add("HTTP", None, Some("http://second.example.org"));
    proxies.add("http", Some("Far.example.org"), Some(&special.url("")));
    proxies.add("http", Some("127.0.0.1"), None);
    for (url, content) in [
        ("http://near.example.org/", "usual"),
        ("http://far.example.org/", "special"),
        (&*direct.url(""), "direct"),
    ] {
        let got = get_through(&proxies, url, content.as_bytes(), 100);
        assert_eq!(got.unwrap(), content.as_bytes(), "{url}");
    }
    assert_eq!(direct.requests().len(), 1);
}

#[test]
fn a_stage_that_takes_too_long_is_stopped() {
    let server = Server::new(|_, _| Answer {
        silence: Some(Duration::from_secs(20)),
        ..Answer::ok(b"content").cut(3)
    });
    let project = recipe(&server.url("file"), b"content");
    project.write(
        "impasto.hcl",
        &project
            .read("impasto.hcl")
            .replace('}', "  timeout  = \"1s\"\n}"),
    );
    let done = build(&project);
    let error = format!("downloading {} took longer than 1 s", server.url("file"));
    assert!(
        done.code == 4
            && done.stderr.contains(&error)
            && done.stderr.contains("help: raise the stage's `timeout`"),
        "{}",
        done.stderr
    );
}

fn get(place: &str, content: &[u8], limit: u64) -> Result<Vec<u8>, DownloadError> {
    get_through(&Proxies::default(), place, content, limit)
}

fn get_through(
    proxies: &Proxies,
    place: &str,
    content: &[u8],
    limit: u64,
) -> Result<Vec<u8>, DownloadError> {
    let checksum = Checksum::Sha256(Sha256::of(content));
    get_by(checksum, proxies, place, content, limit)
}

/// Gets one file of known checksum by a downloader that is in a hurry.
fn get_by(
    checksum: Checksum,
    proxies: &Proxies,
    place: &str,
    content: &[u8],
    limit: u64,
) -> Result<Vec<u8>, DownloadError> {
    let scratch = tempfile::tempdir().unwrap();
    let options = Options {
        stall: Duration::from_millis(200),
        back_off: Duration::from_millis(5),
        ..Options::default()
    };
    let cancel = CancelToken::new();
    let downloader = Downloader::new(proxies, scratch.path(), &cancel, options).unwrap();
    let wanted = Download {
        name: None,
        expected: Expected::hashed(checksum, limit),
        places: vec![Place::url(place).unwrap()],
    };
    let (mut file, mut last) = (None, (0, 0));
    let result = downloader.get(
        vec![wanted],
        &mut |_, path: &Path| file = Some(std::fs::read(path).unwrap()),
        &mut |bytes, total| last = (bytes, total),
    );
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    match result {
        Ok(()) => {
            let size = content.len() as u64;
            assert_eq!(last, (size, size), "bytes that came, and those announced");
            Ok(file.unwrap())
        }
        Err(mut failed) => Err(failed.remove(0).1),
    }
}

#[test]
fn a_server_that_falls_silent_is_asked_for_the_rest() {
    let body = body();
    let whole = body.clone();
    let server = Server::new(move |number, request| match number {
        0 => Answer {
            silence: Some(Duration::from_secs(5)),
            ..Answer::ok(&whole).cut(1_500_000)
        },
        _ => Answer::part(request, &whole),
    });
    assert!(get(&server.url("file"), &body, u64::MAX).unwrap() == body);
    assert_eq!(starts(&server), [0, 1_500_000]);
}

#[test]
fn a_file_is_known_by_its_sha512_too() {
    let body = body();
    let whole = body.clone();
    let server = Server::new(move |number, request| match number {
        0 => Answer::ok(&whole).cut(1_500_000),
        _ => Answer::part(request, &whole),
    });
    let get = |checksum| {
        get_by(
            Checksum::Sha512(checksum),
            &Proxies::default(),
            &server.url("file"),
            &body,
            u64::MAX,
        )
    };
    assert!(get(Sha512::of(&body)).unwrap() == body);
    assert_eq!(starts(&server), [0, 1_500_000]);
    let error = get(Sha512::of(b"another")).unwrap_err().to_string();
    let wrong = format!(
        "has the wrong checksum: expected sha512:{}, got sha512:{}",
        Sha512::of(b"another"),
        Sha512::of(&body)
    );
    assert!(error.contains(&wrong), "{error}");
}

#[test]
fn a_line_that_breaks_often_brings_a_large_file_in_the_end() {
    let body = body();
    let whole = body.clone();
    let server = Server::new(move |_, request| {
        let left = whole.len() - request.start().unwrap_or(0);
        Answer::part(request, &whole).cut(left.min(1_100_000))
    });
    assert!(get(&server.url("file"), &body, u64::MAX).unwrap() == body);
    assert_eq!(starts(&server), [0, 1_100_000, 2_200_000, 3_300_000]);
    // What begins at the start each time brings nothing new.
    let whole = body.clone();
    let server = Server::new(move |_, _| Answer::ok(&whole).cut(1_100_000));
    let error = get(&server.url("file"), &body, u64::MAX).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the connection was lost after 1100000 bytes"),
        "{error}"
    );
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn a_resumed_file_of_two_versions_is_got_from_the_start() {
    let body = body();
    let whole = body.clone();
    let server = Server::new(move |number, request| match number {
        0 => Answer::ok(&vec![b'x'; whole.len()]).cut(5000),
        _ => Answer::part(request, &whole),
    });
    assert!(get(&server.url("file"), &body, u64::MAX).unwrap() == body);
    assert_eq!(starts(&server), [0, 5000, 0]);
}

#[test]
fn no_more_is_taken_than_is_allowed() {
    let endless = Server::new(|_, _| Answer {
        length: Some(None),
        ..Answer::ok(&[0; 100_000])
    });
    let announced = Server::new(|_, _| Answer::ok(&[0; 100_000]));
    for server in [endless, announced] {
        let error = get(&server.url("file"), b"content", 50_000).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "cannot get {}: it is larger than 50000 bytes",
                server.url("file")
            )
        );
    }
}

#[test]
fn a_file_that_moved_is_followed() {
    let to = Server::new(|_, request| match &*request.path {
        "new/file" => Answer::ok(b"content"),
        _ => Answer::redirect("/new/file"),
    });
    let there = to.url("old/file");
    let server = Server::new(move |_, _| Answer::redirect(&there));
    assert_eq!(
        get(&server.url("file"), b"content", 100).unwrap(),
        b"content"
    );
    let mut round = Server::new(|_, _| Answer::redirect("/again"));
    let error = get(&round.url("file"), b"content", 100).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("the server redirects more than 5 times"),
        "{error}"
    );
    round = Server::new(|_, _| Answer::redirect("file:///etc/passwd"));
    let error = get(&round.url("file"), b"content", 100).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("which is not an http or https URL"),
        "{error}"
    );
}
