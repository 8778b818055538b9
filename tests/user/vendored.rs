//! What languages' own locks name: fetched from indexes of this test, and read by cargo itself.
//!
//! pip and npm are not asked here: which files they choose, and that they take the trees, was tried with the real ones.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::base::tool;
use crate::project::{Project, Ran, ran, sha256};
use crate::server::{Answer, Request, Server};

/// Files by their paths.
type Files = BTreeMap<String, Vec<u8>>;

/// A server of files; where a token is given, only for those who have it.
fn serve(files: Files, authorization: Option<&'static str>) -> Server {
    let files = Arc::new(files);
    Server::new(move |_, request: &Request| {
        if authorization.is_some() && request.header("Authorization") != authorization {
            return Answer::status("401 Unauthorized");
        }
        match files.get(&request.path) {
            Some(file) if file.starts_with(b"<") => {
                Answer::ok(file).header("Content-Type: text/html")
            }
            Some(file) => Answer::ok(file),
            None => Answer::status("404 Not Found"),
        }
    })
}

fn asked(server: &Server) -> Vec<String> {
    let mut paths: Vec<_> = server
        .requests()
        .into_iter()
        .map(|request| request.path)
        .collect();
    paths.sort();
    paths
}

/// Builds with these settings of the host, and no others.
fn build(project: &Project, env: &[(&str, &str)]) -> Ran {
    let mut command = project.command(&["build"]);
    for name in [
        "PIP_INDEX_URL",
        "PIP_EXTRA_INDEX_URL",
        "PIP_CONFIG_FILE",
        "CARGO_HOME",
        "NPM_CONFIG_USERCONFIG",
    ] {
        command.env_remove(name);
    }
    command.env("HOME", project.path("home"));
    command.env("XDG_CONFIG_HOME", project.path("home/.config"));
    command.envs(env.iter().copied());
    ran(command)
}

fn built(project: &Project, env: &[(&str, &str)]) -> String {
    let ran = build(project, env);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran.stderr
}

/// The SHA-256 of these bytes.
fn digest(bytes: &[u8]) -> String {
    impasto_store::sha256::Sha256::of(bytes).to_string()
}

/// A recipe that vendors a lock, and writes the tree to `out/`.
fn recipe(lock: &str, more: &str) -> String {
    format!(
        "recipe {{\n  name = \"it\"\n}}\n\nstage \"vendor\" \"files\" {{\n  lock = \"{lock}\"\n{more}}}\n\nimage \"tree\" {{ files = \
         [stage.files] }}\n"
    )
}

/// The members of the tree that was built, but for directories.
fn members(project: &Project) -> Vec<String> {
    let listed = tool(
        "tar",
        &["-tf", project.path("out/tree.tar").to_str().unwrap()],
    );
    let is_directory = |name: &str| {
        let below = format!("{name}/");
        listed.lines().any(|other| other.starts_with(&below))
    };
    let files = listed.lines().filter(|name| !is_directory(name));
    files.map(str::to_owned).collect()
}

/// An index with a page for each project, which lists these files.
fn python_index(projects: &[(&str, &[&str])]) -> Files {
    let mut files = Files::new();
    for (project, names) in projects {
        let mut page = "<!DOCTYPE html><html><body>\n".to_owned();
        for name in *names {
            let content = format!("content of {name}").into_bytes();
            page += &format!(
                "<a href=\"../../files/{name}#sha256={}\">{name}</a>\n",
                digest(&content)
            );
            files.insert(format!("files/{name}"), content);
        }
        files.insert(format!("simple/{project}/"), page.into_bytes());
    }
    files
}

fn hash_of(name: &str) -> String {
    format!(
        "--hash=sha256:{}",
        digest(format!("content of {name}").as_bytes())
    )
}

const TARGET: &str = "  python = \"cp311\"\n  machine = \"amd64\"\n";

const ONE: [&str; 3] = [
    "one-1.0-cp311-cp311-manylinux_2_17_x86_64.whl",
    "one-1.0-cp311-cp311-manylinux_2_17_aarch64.whl",
    "one-1.0.tar.gz",
];
const TWO: [&str; 2] = [
    "two_two-2.0-py3-none-any.whl",
    "two_two-3.0-py3-none-any.whl",
];

#[test]
fn wheels_are_fetched_once_and_a_changed_lock_fetches_what_is_new() {
    let server = serve(python_index(&[("one", &ONE), ("two-two", &TWO)]), None);
    let project = Project::empty();
    let index = server.url("simple/");
    project.write(
        "home/.config/pip/pip.conf",
        &format!("[global]\nindex-url = {index}\n"),
    );
    let one = format!(
        "one==1.0 \\\n    {} \\\n    {}\n",
        hash_of(ONE[0]),
        hash_of(ONE[1])
    );
    let two = format!("Two.Two==2.0 {} # why\n", hash_of(TWO[0]));
    let old = "old==1 ; python_version < '3.8' --hash=sha256:00\n"
        .replace(":00", &format!(":{}", "0".repeat(64)));
    project.write("impasto.hcl", &recipe("requirements.txt", TARGET));
    project.write("requirements.txt", &format!("{one}{old}"));
    built(&project, &[]);
    assert_eq!(members(&project), [ONE[0]]);
    let file = format!("files/{}", ONE[0]);
    assert_eq!(asked(&server), [file.clone(), "simple/one/".to_owned()]);
    built(&project, &[]);
    assert_eq!(asked(&server).len(), 2, "a known lock asks nobody");
    project.write("requirements.txt", &format!("{two}{one}"));
    built(&project, &[]);
    assert_eq!(members(&project), [ONE[0], TWO[0]]);
    let new = [format!("files/{}", TWO[0]), "simple/two-two/".to_owned()];
    assert_eq!(
        asked(&server)[..],
        [
            file,
            new[0].clone(),
            "simple/one/".to_owned(),
            new[1].clone()
        ]
    );
    project.write(
        "impasto.hcl",
        &recipe("requirements.txt", &TARGET.replace("amd64", "arm64")),
    );
    built(&project, &[]);
    assert_eq!(members(&project), [ONE[1], TWO[0]]);
}

#[test]
fn an_index_that_lies_or_lacks_something_is_told_and_leaves_nothing() {
    let mut files = python_index(&[("one", &ONE), ("two-two", &TWO)]);
    files.insert(format!("files/{}", ONE[0]), b"something else".to_vec());
    let server = serve(files, None);
    let project = Project::empty();
    let index = server.url("simple");
    let env = [("PIP_INDEX_URL", index.as_str())];
    project.write("impasto.hcl", &recipe("requirements.txt", TARGET));
    for (lock, told, help) in [
        (
            format!("one==1.0 {}", hash_of(ONE[0])),
            "has the wrong checksum: expected sha256:",
            "the index gives another file than the lock names",
        ),
        (
            format!("one==1.0 {}", hash_of(TWO[0])),
            "one==1.0: none of the 3 files that the index has has a hash of the lock",
            "lock it again with hashes",
        ),
        (
            format!("one==1.0 {}", hash_of(ONE[1])),
            "one==1.0: none of the 1 files that the lock names is for cp311 on amd64 with glibc 2.36, nor is there its source",
            "lock it for this interpreter and machine",
        ),
        (
            format!("none==1.0 {}", hash_of(ONE[0])),
            "none==1.0: the index does not know it",
            "which index the host's pip uses",
        ),
        (
            "one==1.0".to_owned(),
            "requirements.txt:1: one==1.0 has no hash by SHA-256",
            "let a tool write it with hashes",
        ),
    ] {
        project.write("requirements.txt", &lock);
        let ran = build(&project, &env);
        assert_ne!(ran.code, 0, "{lock}");
        assert!(ran.stderr.contains(told), "{lock}: {}", ran.stderr);
        assert!(ran.stderr.contains(help), "{lock}: {}", ran.stderr);
        assert!(!project.path("out").exists(), "{lock}");
    }
}

/// A crate of a library with one function, packed as `cargo package` packs.
fn packed(project: &Project, name: &str, version: &str) -> Vec<u8> {
    let dir = format!("{name}-{version}");
    let manifest =
        format!("[package]\nname = \"{name}\"\nversion = \"{version}\"\nedition = \"2021\"\n");
    project.write(&format!("{dir}/Cargo.toml"), &manifest);
    project.write(
        &format!("{dir}/src/lib.rs"),
        &format!("pub fn name() -> &'static str {{ \"{name} {version}\" }}\n"),
    );
    let archive = project.path(&format!("{dir}.crate"));
    let place = project.path("");
    let (archive, place) = (archive.to_str().unwrap(), place.to_str().unwrap());
    tool(
        "tar",
        &[
            "-C",
            place,
            "-czf",
            archive,
            "--no-recursion",
            &format!("{dir}/Cargo.toml"),
            &format!("{dir}/src/lib.rs"),
        ],
    );
    std::fs::read(archive).unwrap()
}

#[test]
fn cargo_builds_with_vendored_crates_and_without_network() {
    let project = Project::empty();
    let dep = packed(&project, "dep", "1.0.0");
    let files = Files::from([("crates/3/d/dep/1.0.0.crate".to_owned(), dep.clone())]);
    let config = br#"{"dl": "http://127.0.0.1:PORT/crates/{prefix}/{crate}/{version}.crate", "auth-required": true}"#;
    let server = {
        // The registry names its own address, which is known once it listens.
        let port = Arc::new(std::sync::OnceLock::new());
        let known = port.clone();
        let server = Server::new(move |_, request: &Request| {
            if request.header("Authorization") != Some("s3cret") {
                return Answer::status("401 Unauthorized");
            }
            match request.path.as_str() {
                "index/config.json" => {
                    let port: &u16 = known.get().unwrap();
                    let text = String::from_utf8_lossy(config).replace("PORT", &port.to_string());
                    Answer::ok(text.as_bytes())
                }
                path => files
                    .get(path)
                    .map_or(Answer::status("404 Not Found"), |file| Answer::ok(file)),
            }
        });
        port.set(server.port).unwrap();
        server
    };
    let index = format!("sparse+{}", server.url("index/"));
    project.write(
        "home/.cargo/config.toml",
        &format!("[registries.own]\nindex = {index:?}\n"),
    );
    project.write(
        "home/.cargo/credentials.toml",
        "[registries.own]\ntoken = \"s3cret\"\n",
    );
    let checksum = digest(&dep);
    let lock = format!(
        "version = 3\n\n[[package]]\nname = \"app\"\nversion = \"0.1.0\"\ndependencies = [\n \"dep\",\n]\n\n[[package]]\nname = \
         \"dep\"\nversion = \"1.0.0\"\nsource = \"{index}\"\nchecksum = \"{checksum}\"\n"
    );
    project.write("app/Cargo.lock", &lock);
    project.write(
        "app/Cargo.toml",
        "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[dependencies]\ndep = { version = \"1\", \
         registry = \"own\" }\n\n[workspace]\n",
    );
    project.write(
        "app/src/main.rs",
        "fn main() { println!(\"with {}\", dep::name()) }\n",
    );
    project.write("impasto.hcl", &recipe("app/Cargo.lock", ""));
    built(&project, &[]);
    assert_eq!(
        members(&project),
        [
            ".cargo/config.toml",
            "vendor/dep-1.0.0/.cargo-checksum.json",
            "vendor/dep-1.0.0/Cargo.toml",
            "vendor/dep-1.0.0/src/lib.rs"
        ]
    );
    assert_eq!(
        asked(&server),
        ["crates/3/d/dep/1.0.0.crate", "index/config.json"]
    );
    let tree = project.path("tree");
    std::fs::create_dir(&tree).unwrap();
    let archive = project.path("out/tree.tar");
    tool(
        "tar",
        &[
            "-C",
            tree.to_str().unwrap(),
            "-xf",
            archive.to_str().unwrap(),
        ],
    );
    let run = |app: &Path| {
        let mut command = std::process::Command::new("cargo");
        command.args(["run", "--quiet", "--offline", "--locked", "--config"]);
        command.arg(tree.join(".cargo/config.toml"));
        command
            .current_dir(app)
            .env("CARGO_HOME", project.path("cargo"));
        command.env("CARGO_TARGET_DIR", project.path("target"));
        command
            .env("CARGO_REGISTRIES_OWN_INDEX", &index)
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
        ran(command)
    };
    let said = run(&project.path("app"));
    assert_eq!(said.stdout, "with dep 1.0.0\n", "{}", said.stderr);
    let lib = tree.join("vendor/dep-1.0.0/src/lib.rs");
    std::fs::write(&lib, "pub fn name() -> &'static str { \"other\" }\n").unwrap();
    std::fs::remove_dir_all(project.path("target")).unwrap();
    let said = run(&project.path("app"));
    assert!(
        said.stderr.contains("the listed checksum of"),
        "cargo checks each file: {}",
        said.stderr
    );

    for (source, told) in [
        (
            "git+https://me:hidden-word@forge.example/dep#1234",
            "dep 1.0.0 does not come from a registry, but from forge.example/dep#1234",
        ),
        (
            "registry+https://other.example/index",
            "the registry https://other.example/index has an index that is a git repository",
        ),
    ] {
        project.write(
            "app/Cargo.lock",
            &lock
                .replace(&index, source)
                .replace(&checksum, &"0".repeat(64)),
        );
        let ran = build(&project, &[]);
        assert_ne!(ran.code, 0);
        assert!(
            ran.stderr.contains(told) && !ran.stderr.contains("hidden-word"),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn npm_finds_tarballs_in_its_cache_by_their_hashes() {
    let tarball = b"\x1f\x8b a package".to_vec();
    let files = Files::from([
        ("@own/left/-/left-1.0.0.tgz".to_owned(), tarball.clone()),
        (
            "elsewhere/right.tgz".to_owned(),
            b"\x1f\x8b another".to_vec(),
        ),
    ]);
    let server = serve(files, Some("Bearer s3cret"));
    let project = Project::empty();
    let address = server.url("").trim_start_matches("http:").to_owned();
    project.write(
        "home/.npmrc",
        &format!(
            "registry={}\n{address}:_authToken=${{TOKEN}}\n",
            server.url("")
        ),
    );
    let integrity = |bytes: &[u8]| {
        project.write("bytes", "");
        std::fs::write(project.path("bytes"), bytes).unwrap();
        let line = "openssl dgst -sha512 -binary \"$1\" | base64 -w0";
        tool(
            "sh",
            &["-c", line, "sh", project.path("bytes").to_str().unwrap()],
        )
    };
    let (left, right) = (integrity(&tarball), integrity(b"\x1f\x8b another"));
    let lock = format!(
        r#"{{ "name": "app", "lockfileVersion": 3, "packages": {{
  "": {{ "dependencies": {{ "@own/left": "1" }} }},
  "lib": {{ "version": "1.0.0" }},
  "node_modules/lib": {{ "resolved": "lib", "link": true }},
  "node_modules/@own/left": {{ "version": "1.0.0", "resolved": "https://gone.example/left.tgz", "integrity": "sha512-{left}" }},
  "node_modules/@own/left/node_modules/right": {{ "version": "2.0.0", "resolved": "{}", "integrity": "sha512-{right}" }},
  "node_modules/inner": {{ "version": "1.0.0", "inBundle": true }},
  "node_modules/for-windows": {{ "version": "1.0.0", "optional": true, "os": ["win32"] }},
  "node_modules/for-arm": {{ "version": "1.0.0", "optional": true, "cpu": ["arm64"] }}
}} }}"#,
        server.url("elsewhere/right.tgz")
    );
    project.write("package-lock.json", &lock);
    project.write(
        "impasto.hcl",
        &recipe("package-lock.json", "  machine = \"amd64\"\n"),
    );
    built(&project, &[("TOKEN", "s3cret")]);
    let cached = |bytes: &[u8]| {
        std::fs::write(project.path("bytes"), bytes).unwrap();
        let hex = tool("sha512sum", &[project.path("bytes").to_str().unwrap()]);
        format!(
            "_cacache/content-v2/sha512/{}/{}/{}",
            &hex[..2],
            &hex[2..4],
            &hex[4..128]
        )
    };
    let mut expected = [cached(&tarball), cached(b"\x1f\x8b another")];
    expected.sort();
    assert_eq!(members(&project), expected);
    assert!(!project.claims().contains("s3cret"));

    for (change, told) in [
        (("sha512-", "sha1-"), "has no hash by SHA-512 (`integrity`)"),
        (
            ("\"lockfileVersion\": 3", "\"lockfileVersion\": 1"),
            "its format is not version 2 or 3",
        ),
        (
            ("https://gone", "git+ssh://git@gone"),
            "@own/left 1.0.0 does not come from a registry, but from gone.example/left.tgz",
        ),
        (
            ("\"resolved\": \"https://gone.example/left.tgz\", ", ""),
            "it does not say where @own/left 1.0.0 is (`resolved`)",
        ),
        (("}, \"lib\"", ","), "package-lock.json:"),
    ] {
        let changed = lock.replacen(change.0, change.1, 1);
        project.write(
            "package-lock.json",
            &if changed == lock {
                "{".to_owned()
            } else {
                changed
            },
        );
        let ran = build(&project, &[]);
        assert_ne!(ran.code, 0);
        assert!(ran.stderr.contains(told), "{told}: {}", ran.stderr);
    }
    let sums = sha256(&project.path("out/tree.tar"));
    project.write("package-lock.json", &lock);
    built(&project, &[]);
    assert_eq!(
        sha256(&project.path("out/tree.tar")),
        sums,
        "nothing half-made"
    );
}
