//! Work in a room whose root is a toolbox: what apt chooses, roots out of packages, and disks, without the host's programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use impasto::sandbox::{CancelToken, Sandbox, SandboxError, ToolEnd, ToolJob};
use impasto::toolbox::{
    MOUNT_POINTS, PACKAGES, RESULT, ResolveOutcome, ResolveRequest, ResolveResult, ResolveSource, TOOLS, TREE, Task,
    ToolFailure, Variant,
};
use impasto_stages::bootstrap::BootstrapSpec;
use tempfile::TempDir;

use crate::base::tool;
use crate::debian::{SUITE, mirror, once, run};
use crate::sandbox::sandbox;

const EPOCH: u64 = 1_700_000_000;

/// A toolbox, unpacked by the host's dpkg-deb out of packages of the host's mirror, and further packages.
fn make_toolbox(name: &str, more: &[&str]) -> PathBuf {
    once(name, |dir| {
        for part in ["bin", "sbin", "lib", "lib64"] {
            fs::create_dir_all(dir.join("usr").join(part)).unwrap();
            std::os::unix::fs::symlink(format!("usr/{part}"), dir.join(part)).unwrap();
        }
        for name in MOUNT_POINTS {
            fs::create_dir(dir.join(name)).unwrap();
        }
        run(
            "cd \"$1\"; mkdir debs; cd debs; : > status; shift
             uris=$(apt-get -o Dir::State::status=\"$PWD/status\" -o Debug::NoLocking=1 -o APT::Install-Recommends=0 \
                install --print-uris -qqy \"$@\")
             echo \"$uris\" | sed \"s/^'\\([^']*\\)' \\([^ ]*\\) .*/\\1 \\2/\" | while read -r uri name; do
                /usr/lib/apt/apt-helper download-file \"$uri\" \"$name\" >&2
                dpkg-deb --fsys-tarfile \"$name\" | tar -C .. --keep-directory-symlink -xf -
             done
             cd ..; rm -r debs; ln -s mawk usr/bin/awk",
            &[&[dir][..], &TOOLS.iter().chain(more).map(Path::new).collect::<Vec<_>>()].concat(),
        );
    })
}

pub(crate) fn toolbox() -> &'static Path {
    static TOOLBOX: OnceLock<PathBuf> = OnceLock::new();
    TOOLBOX.get_or_init(|| make_toolbox("toolbox-1", &[]))
}

/// A directory to work in.
struct Work {
    dir: TempDir,
}

impl Work {
    fn new() -> Work {
        assert!(rustix::process::geteuid().is_root(), "these tests need root: they make name spaces");
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::create_dir(dir.path().join("work")).unwrap();
        Work { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("work").join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Does a task, and gives its log.
    fn perform(&self, toolbox: &Path, task: Task) -> Result<String, ToolFailure> {
        let (end, log) = self.try_perform(toolbox, task);
        match end.unwrap() {
            ToolEnd::Done => Ok(log),
            ToolEnd::Failed(failure) => {
                println!("{log}");
                Err(failure)
            }
            end => panic!("{end:?}"),
        }
    }

    fn try_perform(&self, toolbox: &Path, task: Task) -> (Result<ToolEnd, SandboxError>, String) {
        let mut log = Vec::new();
        let work = self.path("");
        let job = ToolJob {
            work: &work,
            task,
            toolbox: Some(toolbox),
            network: false,
            timeout: None,
            cancel: CancelToken::new(),
        };
        let end = sandbox().run_tools(job, &mut |bytes| log.extend_from_slice(bytes));
        (end, String::from_utf8_lossy(&log).into_owned())
    }

    fn resolve(&self, request: &ResolveRequest) -> ResolveOutcome {
        let _ = fs::remove_dir_all(self.path("apt/lists"));
        self.perform(toolbox(), Task::Resolve { request: Box::new(request.clone()) }).unwrap();
        serde_json::from_slice(&fs::read(self.path(RESULT)).unwrap()).unwrap()
    }

    fn resolved(&self, request: &ResolveRequest) -> ResolveResult {
        match self.resolve(request) {
            ResolveOutcome::Resolved(result) => result,
            outcome => panic!("{outcome:?}"),
        }
    }
}

/// The frozen mirror's index, laid out for a resolution.
fn with_mirror(work: &Work) -> ResolveSource {
    let dists = mirror().join("dists").join(SUITE);
    let release =
        run("sed -n '/^Hash:/d; /^-----BEGIN PGP SIGNATURE/q; /^-----/d; p' \"$1\"", &[&dists.join("InRelease")]);
    work.write("apt/sources/debian/Release", release.trim_start());
    let packages = work.path("apt/sources/debian/main/binary-amd64/Packages");
    fs::create_dir_all(packages.parent().unwrap()).unwrap();
    run("xz -dc \"$1\" > \"$2\"", &[&dists.join("main/binary-amd64/Packages.xz"), &packages]);
    ResolveSource {
        directory: "debian".to_owned(),
        site: Some("deb.debian.org".to_owned()),
        suite: SUITE.to_owned(),
        components: vec!["main".to_owned()],
        flat: false,
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Lays out the packages of an answer, out of a mirror's directory, for a bootstrap.
fn lay_out(work: &Work, index: &Path, mirror: &Path, result: &ResolveResult) {
    fs::create_dir_all(work.path(PACKAGES)).unwrap();
    let text = fs::read_to_string(index).unwrap();
    let wanted: std::collections::BTreeMap<_, _> =
        result.install.iter().map(|package| ((package.name.as_str(), package.version.as_str()), package)).collect();
    let mut packages = String::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let (Some(name), Some(version)) = (field("Package"), field("Version")) else { continue };
        let Some(package) = wanted.get(&(name, version)) else { continue };
        let file = Path::new(&package.path).file_name().unwrap().to_str().unwrap();
        fs::hard_link(mirror.join(&package.path), work.path(PACKAGES).join(file)).unwrap();
        for line in stanza.lines() {
            packages +=
                &if line.starts_with("Filename: ") { format!("Filename: ./{file}\n") } else { format!("{line}\n") };
        }
        packages += "\n";
    }
    work.write(&format!("{PACKAGES}/Packages"), packages);
}

fn spec(packages: &[&str]) -> BootstrapSpec {
    BootstrapSpec {
        distribution: "debian".to_owned(),
        suite: SUITE.to_owned(),
        components: names(&["main"]),
        architecture: "amd64".to_owned(),
        variant: "essential".to_owned(),
        packages: names(packages),
        recommends: false,
        sources: None,
    }
}

fn request(source: ResolveSource, install: &[&str]) -> ResolveRequest {
    ResolveRequest {
        install: names(install),
        architecture: "amd64".to_owned(),
        sources: vec![source],
        ..ResolveRequest::default()
    }
}

#[test]
fn a_root_is_made_of_packages_that_apt_chose() {
    let work = Work::new();
    let source = with_mirror(&work);
    let wanted = ["apt", "hello", "cron", "tzdata"];
    let request = ResolveRequest { variant: Some(Variant::Essential), ..request(source, &wanted) };
    let begun = std::time::Instant::now();
    let result = work.resolved(&request);
    println!("resolved in {:?}: {} packages", begun.elapsed(), result.install.len());
    assert!(result.remove.is_empty());
    let hello = result.install.iter().find(|package| package.name == "hello").unwrap();
    assert_eq!((hello.source.as_str(), hello.architecture.as_str()), ("debian", "amd64"));
    assert!(mirror().join(&hello.path).exists(), "{}", hello.path);

    let index = work.path("apt/sources/debian/main/binary-amd64/Packages");
    let mut digests = Vec::new();
    for _ in 0..2 {
        let work = Work::new();
        lay_out(&work, &index, mirror(), &result);
        let log = work.perform(toolbox(), Task::Bootstrap { spec: Box::new(spec(&wanted)), epoch: EPOCH }).unwrap();
        println!("{}", log.lines().filter(|line| line.starts_with("impasto: ")).collect::<Vec<_>>().join("\n"));
        let tree = work.path(TREE);
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(fs::File::open(&tree).unwrap()).unwrap();
        digests.push(hasher.finalize());
        let list = tool("tar", &["--numeric-owner", "-tvf", tree.to_str().unwrap()]);
        assert!(list.contains("./bin -> usr/bin") && list.contains("./usr/bin/hello"), "it is a root");
        for name in ["./usr/sbin/policy-rc.d", "./etc/hostname", "./etc/resolv.conf", "impasto"] {
            assert!(!list.contains(name), "{name} is in the tree");
        }
        for name in [" ./run/", " ./proc/", " ./dev/", " ./tmp/"] {
            let within = list.lines().find(|line| line.contains(name) && !line.ends_with(name));
            assert_eq!(within, None, "these directories are empty");
        }
        let cat = |name: &str| tool("tar", &["-xOf", tree.to_str().unwrap(), name]);
        let status = cat("./var/lib/dpkg/status");
        let installed = status.lines().filter(|line| *line == "Status: install ok installed").count();
        assert_eq!(installed, result.install.len());
        let marks = cat("./var/lib/apt/extended_states");
        assert!(!marks.contains("Package: hello\n") && !marks.contains("Package: bash\n"), "{marks}");
        assert!(cat("./etc/apt/sources.list").contains(SUITE));
    }
    assert_eq!(digests[0], digests[1]);
}
