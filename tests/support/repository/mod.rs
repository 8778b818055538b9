//! Signed repositories for tests: made in a directory, changed later, and broken on purpose.
//!
//! ```text
//! let mut repository = Repository::new(dir, Key::new(1));
//! repository.add("stable", "main", &Package::new("hello", "1.0").depends("base").file("usr/share/hello", "hi\n"));
//! repository.publish();
//! ```

mod key;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use impasto::base::host::Host;
use impasto::debian::archive::{ArchiveSource, Trust};
use impasto::debian::mirror::Mirror;
use sha2::{Digest as _, Sha256};

pub(crate) use key::{Key, MADE};

/// A package that is to be built.
#[derive(Clone)]
pub(crate) struct Package {
    name: String,
    version: String,
    architecture: String,
    control: String,
    files: Vec<(String, String)>,
    postinst: Option<String>,
}

impl Package {
    /// A package for all architectures, without files.
    pub(crate) fn new(name: &str, version: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: "all".to_owned(),
            control: String::new(),
            files: Vec::new(),
            postinst: None,
        }
    }

    /// For one architecture.
    pub(crate) fn architecture(mut self, architecture: &str) -> Package {
        self.architecture = architecture.to_owned();
        self
    }

    /// What it needs, as in `Depends`.
    pub(crate) fn depends(self, depends: &str) -> Package {
        self.field("Depends", depends)
    }

    /// A further field of its control file.
    pub(crate) fn field(mut self, name: &str, value: &str) -> Package {
        writeln!(self.control, "{name}: {value}").unwrap();
        self
    }

    /// A file, by its path below the root.
    pub(crate) fn file(mut self, path: &str, text: &str) -> Package {
        self.files.push((path.to_owned(), text.to_owned()));
        self
    }

    /// A script that runs when it was unpacked.
    pub(crate) fn postinst(mut self, script: &str) -> Package {
        self.postinst = Some(format!("#!/bin/sh\nset -e\n{script}\n"));
        self
    }

    fn control(&self) -> String {
        format!(
            "Package: {}\nVersion: {}\nArchitecture: {}\nMaintainer: Test <test@example.org>\n{}Description: for tests\n",
            self.name, self.version, self.architecture, self.control
        )
    }

    /// The name of its file.
    pub(crate) fn file_name(&self) -> String {
        let version = self
            .version
            .split_once(':')
            .map_or(self.version.as_str(), |(_, version)| version);
        format!("{}_{version}_{}.deb", self.name, self.architecture)
    }

    /// Builds it, the same bytes every time.
    fn build(&self, deb: &Path) {
        let tree = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str, mode: u32| {
            let path = tree.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        };
        write("DEBIAN/control", &self.control(), 0o644);
        if let Some(script) = &self.postinst {
            write("DEBIAN/postinst", script, 0o755);
        }
        for (path, text) in &self.files {
            write(path, text, 0o644);
        }
        fs::set_permissions(
            tree.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        fs::create_dir_all(deb.parent().unwrap()).unwrap();
        let output = Command::new("dpkg-deb")
            .args(["--build", "--root-owner-group"])
            .args([tree.path(), deb])
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .output()
            .expect("the package dpkg is installed");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// A repository in a directory. Fields say how the next [`Repository::publish`] is done.
pub(crate) struct Repository {
    dir: PathBuf,
    /// Who signs.
    pub(crate) key: Key,
    /// Seconds since 1970.
    pub(crate) date: u64,
    /// Seconds since 1970.
    pub(crate) valid_until: Option<u64>,
    /// Name of the field with the files' digests.
    pub(crate) digests: &'static str,
    /// Whether indexes can be had by hash.
    pub(crate) by_hash: bool,
    /// Ends of the names of the forms that indexes are stored in: of ``, `.xz`, `.gz`, `.zst`.
    pub(crate) forms: Vec<&'static str>,
    /// Architectures that have an index in every component.
    pub(crate) architectures: Vec<&'static str>,
    /// Whether packages for all architectures have an index of their own, in place of a line in each.
    pub(crate) all_apart: bool,
    /// Further lines of Release files.
    pub(crate) fields: String,
    suites: BTreeMap<String, Suite>,
}

/// Paragraphs by name and architecture, of each component.
type Suite = BTreeMap<String, BTreeMap<(String, String), String>>;

impl Repository {
    /// An empty one, of `amd64`.
    pub(crate) fn new(dir: &Path, key: Key) -> Repository {
        Repository {
            dir: dir.to_owned(),
            key,
            date: Host::read().unwrap().now() - 3600,
            valid_until: None,
            digests: "SHA256",
            by_hash: false,
            forms: vec!["", ".xz"],
            architectures: vec!["amd64"],
            all_apart: false,
            fields: String::new(),
            suites: BTreeMap::new(),
        }
    }

    /// Builds a package, and puts it in place of the one of this name and architecture. Gives its path below the directory.
    pub(crate) fn add(&mut self, suite: &str, component: &str, package: &Package) -> String {
        let path = format!("pool/{component}/{}/{}", package.name, package.file_name());
        let deb = self.dir.join(&path);
        package.build(&deb);
        let bytes = fs::read(&deb).unwrap();
        let paragraph = format!(
            "{}Filename: {path}\nSize: {}\nSHA256: {}\n",
            package.control(),
            bytes.len(),
            sha256(&bytes)
        );
        let name = (package.name.clone(), package.architecture.clone());
        self.component(suite, component).insert(name, paragraph);
        path
    }

    /// Adds a paragraph as it is, of a package that need not exist; `name` only tells it from others.
    pub(crate) fn add_paragraph(
        &mut self,
        suite: &str,
        component: &str,
        name: &str,
        paragraph: String,
    ) {
        self.component(suite, component)
            .insert((name.to_owned(), "all".to_owned()), paragraph);
    }

    /// Leaves packages of a name out from now on; their files stay.
    pub(crate) fn remove(&mut self, suite: &str, component: &str, name: &str) {
        self.component(suite, component)
            .retain(|(other, _), _| other != name);
    }

    fn component(
        &mut self,
        suite: &str,
        component: &str,
    ) -> &mut BTreeMap<(String, String), String> {
        self.suites
            .entry(suite.to_owned())
            .or_default()
            .entry(component.to_owned())
            .or_default()
    }

    /// Writes and signs the indexes of all suites.
    pub(crate) fn publish(&self) {
        for (name, suite) in &self.suites {
            let dist = self.dir.join("dists").join(name);
            let _ = fs::remove_dir_all(&dist);
            let mut files = String::new();
            for (component, paragraphs) in suite {
                for architecture in self
                    .architectures
                    .iter()
                    .copied()
                    .chain(self.all_apart.then_some("all"))
                {
                    let dir = format!("{component}/binary-{architecture}");
                    let of_it =
                        |other: &str| other == architecture || (other == "all" && !self.all_apart);
                    let texts = paragraphs
                        .iter()
                        .filter(|((_, other), _)| of_it(other))
                        .map(|(_, text)| text.as_str());
                    self.write_index(
                        &dist,
                        &dir,
                        texts.collect::<Vec<_>>().join("\n").as_bytes(),
                        &mut files,
                    );
                }
            }
            let release = self.release_text(name, suite, &files);
            self.sign(name, &release);
        }
    }

    fn write_index(&self, dist: &Path, dir: &str, text: &[u8], files: &mut String) {
        for form in ["", ".xz", ".gz", ".zst"] {
            let listed = form.is_empty() || self.forms.contains(&form);
            if !listed {
                continue;
            }
            let bytes = packed(form, text);
            let hash = sha256(&bytes);
            writeln!(files, " {hash} {} {dir}/Packages{form}", bytes.len()).unwrap();
            if self.forms.contains(&form) {
                write(&dist.join(dir).join(format!("Packages{form}")), &bytes);
                if self.by_hash {
                    write(&dist.join(dir).join("by-hash/SHA256").join(hash), &bytes);
                }
            }
        }
    }

    fn release_text(&self, suite: &str, components: &Suite, files: &str) -> String {
        let time = |seconds: u64| {
            let time = jiff::Timestamp::from_second(i64::try_from(seconds).unwrap()).unwrap();
            time.strftime("%a, %d %b %Y %H:%M:%S UTC").to_string()
        };
        let until = self
            .valid_until
            .map(|until| format!("Valid-Until: {}\n", time(until)))
            .unwrap_or_default();
        let by_hash = if self.by_hash {
            "Acquire-By-Hash: yes\n"
        } else {
            ""
        };
        let all = if self.all_apart { "all " } else { "" };
        format!(
            "Origin: Test\nLabel: Test\nSuite: {suite}\nCodename: {suite}\nDate: {}\n{until}{by_hash}Architectures: \
             {all}{}\nComponents: {}\n{}{}:\n{files}",
            time(self.date),
            self.architectures.join(" "),
            components.keys().cloned().collect::<Vec<_>>().join(" "),
            self.fields,
            self.digests,
        )
    }

    fn sign(&self, suite: &str, release: &str) {
        let dist = self.dir.join("dists").join(suite);
        write(&dist.join("Release"), release.as_bytes());
        write(
            &dist.join("InRelease"),
            self.key.clear_sign(release).as_bytes(),
        );
        write(
            &dist.join("Release.gpg"),
            self.key.sign(release.as_bytes()).as_bytes(),
        );
    }

    /// Changes the text of a Release, and signs what comes out.
    pub(crate) fn resign(&self, suite: &str, change: impl FnOnce(String) -> String) {
        let path = self.dir.join("dists").join(suite).join("Release");
        self.sign(suite, &change(fs::read_to_string(path).unwrap()));
    }

    /// Changes a file behind the back of what is signed.
    pub(crate) fn edit(&self, path: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
        let path = self.dir.join(path);
        fs::write(&path, change(fs::read(&path).unwrap())).unwrap();
    }

    /// Removes a file.
    pub(crate) fn delete(&self, path: &str) {
        fs::remove_file(self.dir.join(path)).unwrap();
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory as a mirror.
    pub(crate) fn mirror(&self) -> Mirror {
        Mirror::parse(&format!("file:{}", self.dir.display())).unwrap()
    }

    /// A suite with all its components and architectures, trusted by its key.
    pub(crate) fn source(&self, suite: &str) -> ArchiveSource {
        ArchiveSource {
            name: "test".to_owned(),
            bases: vec![self.mirror()],
            suite: suite.to_owned(),
            components: self
                .suites
                .get(suite)
                .map(|components| components.keys().cloned().collect())
                .unwrap_or_default(),
            architectures: self
                .architectures
                .iter()
                .map(|name| (*name).to_owned())
                .collect(),
            trust: Trust::Keys {
                keys: self.key.public(),
                place: "those of the test".to_owned(),
            },
            frozen: false,
        }
    }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Packs by the end of a name: ``, `.xz`, `.gz` or `.zst`.
pub(crate) fn packed(form: &str, bytes: &[u8]) -> Vec<u8> {
    match form {
        ".xz" => {
            let mut packed = Vec::new();
            liblzma::read::XzEncoder::new(bytes, 6)
                .read_to_end(&mut packed)
                .unwrap();
            packed
        }
        ".gz" => {
            let mut compressor =
                libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
            let mut packed = vec![0; compressor.gzip_compress_bound(bytes.len())];
            let len = compressor.gzip_compress(bytes, &mut packed).unwrap();
            packed.truncate(len);
            packed
        }
        ".zst" => zstd::encode_all(bytes, 3).unwrap(),
        _ => bytes.to_vec(),
    }
}
