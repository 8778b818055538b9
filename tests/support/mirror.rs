//! Mirrors of Debian's archive: one frozen in a directory, and a server of it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use impasto::deb::{closure, control};
use impasto::debian::mirror::MirrorChoice;
use impasto::debian::toolbox::TOOLS;

use crate::debian::{KEYRING, SUITE, once, run};

/// A mirror in a directory, by name: the signed index of the host's own mirror, and of its packages those named, the
/// essential ones, apt and the tools of impasto, with what they need.
pub(crate) fn frozen_mirror(name: &str, packages: &[&str]) -> PathBuf {
    once(&format!("debian-mirror-{name}"), |dir| {
        let environment: Vec<(String, String)> = std::env::vars().collect();
        let variable = |name: &str| {
            environment
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.as_str())
        };
        let mirrors = MirrorChoice::read(None, variable)
            .unwrap()
            .resolve()
            .unwrap();
        let url = mirrors
            .archive
            .expect("these tests need a mirror of Debian: name one with IMPASTO_MIRROR")
            .to_string();
        assert!(
            Path::new(KEYRING).exists(),
            "these tests need the package debian-archive-keyring"
        );
        freeze(dir, &url, packages);
    })
}

fn freeze(dir: &Path, url: &str, packages: &[&str]) {
    // Apt with a root of its own, in which nothing is installed.
    let apt = dir.join("apt");
    for part in [
        "etc/apt.conf.d",
        "etc/preferences.d",
        "state/lists/partial",
        "cache/archives/partial",
    ] {
        fs::create_dir_all(apt.join(part)).unwrap();
    }
    fs::write(apt.join("status"), "").unwrap();
    fs::write(
        apt.join("etc/sources.list"),
        format!("deb [signed-by={KEYRING}] {url} {SUITE} main\n"),
    )
    .unwrap();
    let root = apt.display();
    let config = format!(
        "Dir::Etc \"{root}/etc\";\nDir::State \"{root}/state\";\nDir::State::status \"{root}/status\";\n\
         Dir::Cache \"{root}/cache\";\nAPT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n\
         APT::Install-Recommends \"false\";\nAPT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\n\
         Acquire::ForceHash \"SHA256\";\nAcquire::Retries \"3\";\nAcquire::Check-Valid-Until \"false\";\n\
         APT::Update::Error-Mode \"any\";\n"
    );
    fs::write(apt.join("config"), config).unwrap();
    let config = apt.join("config");
    let wanted = ["?essential", "apt"]
        .iter()
        .chain(packages)
        .map(|name| format!("'{name}'"))
        .collect::<Vec<_>>()
        .join(" ");
    let uris = run(
        &format!(
            "export APT_CONFIG=$1; apt-get -q update >&2; apt-get -qqy install --print-uris {wanted}; \
             apt-get -qy install --download-only {wanted} >&2"
        ),
        &[&config],
    );
    let mut have = BTreeSet::new();
    // 'URI' name size SHA256:hash
    for line in uris.lines().filter(|line| line.starts_with('\'')) {
        let (uri, name) = (
            line.split('\'').nth(1).unwrap(),
            line.split(' ').nth(1).unwrap(),
        );
        let path = uri
            .strip_prefix(url)
            .unwrap()
            .trim_start_matches('/')
            .replace("%2b", "+")
            .replace("%7e", "~");
        let path = path.replace("%3a", ":");
        have.insert(path.clone());
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::rename(apt.join("cache/archives").join(name), path).unwrap();
    }
    let dist = dir.join("dists").join(SUITE);
    let index = dist.join("main/binary-amd64");
    fs::create_dir_all(&index).unwrap();
    let get = |from: &str, to: PathBuf| {
        let line =
            format!("APT_CONFIG=$1 /usr/lib/apt/apt-helper download-file {url}/{from} \"$2\" >&2");
        run(&line, &[&config, &to]);
    };
    get(&format!("dists/{SUITE}/InRelease"), dist.join("InRelease"));
    get(
        &format!("dists/{SUITE}/main/binary-amd64/Packages.xz"),
        index.join("Packages.xz"),
    );
    let text = run("xz -dc \"$1\"", &[&index.join("Packages.xz")]);
    for tool in closure::closure(control::stanzas(&text), TOOLS, "amd64").unwrap() {
        let path = tool.get("Filename").unwrap();
        if have.insert(path.to_owned()) {
            fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
            get(path, dir.join(path));
        }
    }
    fs::remove_dir_all(apt).unwrap();
}

/// Serves a directory by HTTP, below `/NAME` for any name, until the test ends, and gives the port. `login` is what
/// visitors must send in their header `Authorization`, after `Basic`.
pub(crate) fn serve(dir: &Path, login: Option<&'static str>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        for visitor in listener.incoming() {
            // Whoever hangs up has what they wanted.
            let _ = answer(&mut visitor.unwrap(), &dir, login);
        }
    });
    port
}

fn answer(visitor: &mut TcpStream, dir: &Path, login: Option<&str>) -> std::io::Result<()> {
    let lines: Vec<String> = BufReader::new(&mut *visitor)
        .lines()
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .collect();
    let path = lines
        .first()
        .and_then(|line| line.split(' ').nth(1))
        .unwrap_or("/")
        .trim_start_matches('/');
    let path = dir.join(
        path.split_once('/')
            .map_or("", |(_, rest)| rest)
            .replace("%2b", "+")
            .replace("%7e", "~"),
    );
    let header = |line: &String| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("Authorization")
            .then(|| value.to_owned())
    };
    let known =
        login.is_none_or(|login| lines.iter().find_map(header) == Some(format!("Basic {login}")));
    let (status, body) = match fs::read(path) {
        _ if !known => (
            "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"",
            Vec::new(),
        ),
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    write!(
        visitor,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    visitor.write_all(&body)
}
