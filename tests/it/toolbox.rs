//! Work in a container whose root is a toolbox: what apt chooses, roots out of packages, and disks, without the host's programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use impasto::base::cancel::CancelToken;
use impasto::debian::mirror::{ARCHIVE_VARIABLE, MirrorChoice};
use impasto::debian::toolbox::{
    EMULATOR, PACKAGES, RESULT, ResolveOutcome, ResolveRequest, ResolveResult, ResolveSource,
    TOOLS, TREE, ToolboxTask, Variant,
};
use impasto::sandbox::{
    Limit, MOUNT_POINTS, NamespaceSandbox, Sandbox, SandboxError, ToolEnd, ToolEvent, ToolFailure,
    ToolJob,
};
use impasto_stages::Limits;
use impasto_stages::bootstrap::BootstrapSpec;
use tempfile::TempDir;

use crate::base::tool;
use crate::debian::{SUITE, mirror, once, run};
use crate::sandbox::sandbox;

const EPOCH: u64 = 1_700_000_000;

/// A toolbox, unpacked by the host's dpkg-deb out of packages of the host's mirror, and further packages.
pub(crate) fn make_toolbox(name: &str, more: &[&str]) -> PathBuf {
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
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root: they make name spaces"
        );
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
    fn perform(&self, toolbox: &Path, task: ToolboxTask) -> Result<String, ToolFailure> {
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

    fn try_perform(
        &self,
        toolbox: &Path,
        task: ToolboxTask,
    ) -> (Result<ToolEnd, SandboxError>, String) {
        self.try_perform_within(toolbox, task, &sandbox(), Limits::default())
    }

    fn try_perform_within(
        &self,
        toolbox: &Path,
        task: ToolboxTask,
        sandbox: &NamespaceSandbox,
        limits: Limits,
    ) -> (Result<ToolEnd, SandboxError>, String) {
        let mut log = Vec::new();
        let work = self.path("");
        let job = ToolJob {
            work: &work,
            task: task.packed(),
            toolbox,
            disk: None,
            limits,
            timeout: None,
            cancel: CancelToken::new(),
        };
        let end = sandbox.run_tools(job, &mut |event| {
            if let ToolEvent::Log(bytes) = event {
                log.extend_from_slice(bytes);
            }
        });
        (end, String::from_utf8_lossy(&log).into_owned())
    }

    fn resolve(&self, request: &ResolveRequest) -> ResolveOutcome {
        let _ = fs::remove_dir_all(self.path("apt/lists"));
        self.perform(
            toolbox(),
            ToolboxTask::Resolve {
                request: Box::new(request.clone()),
            },
        )
        .unwrap();
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
    let release = run(
        "sed -n '/^Hash:/d; /^-----BEGIN PGP SIGNATURE/q; /^-----/d; p' \"$1\"",
        &[&dists.join("InRelease")],
    );
    work.write("apt/sources/debian/Release", release.trim_start());
    let packages = work.path("apt/sources/debian/main/binary-amd64/Packages");
    fs::create_dir_all(packages.parent().unwrap()).unwrap();
    run(
        "xz -dc \"$1\" > \"$2\"",
        &[&dists.join("main/binary-amd64/Packages.xz"), &packages],
    );
    ResolveSource {
        directory: "debian".to_owned(),
        site: Some("deb.example.org".to_owned()),
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
    let wanted: std::collections::BTreeMap<_, _> = result
        .install
        .iter()
        .map(|package| {
            (
                (package.file.name.as_str(), package.file.version.as_str()),
                package,
            )
        })
        .collect();
    let mut packages = String::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            stanza
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let (Some(name), Some(version)) = (field("Package"), field("Version")) else {
            continue;
        };
        let Some(package) = wanted.get(&(name, version)) else {
            continue;
        };
        let file = Path::new(&package.path)
            .file_name()
            .unwrap()
            .to_str()
            .unwrap();
        fs::hard_link(mirror.join(&package.path), work.path(PACKAGES).join(file)).unwrap();
        for line in stanza.lines() {
            packages += &if line.starts_with("Filename: ") {
                format!("Filename: ./{file}\n")
            } else {
                format!("{line}\n")
            };
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
    let request = ResolveRequest {
        variant: Some(Variant::Essential),
        ..request(source, &wanted)
    };
    let begun = std::time::Instant::now();
    let result = work.resolved(&request);
    println!(
        "resolved in {:?}: {} packages",
        begun.elapsed(),
        result.install.len()
    );
    assert!(result.remove.is_empty());
    let hello = result
        .install
        .iter()
        .find(|package| package.file.name == "hello")
        .unwrap();
    assert_eq!(
        (hello.source.as_str(), hello.file.architecture.as_str()),
        ("debian", "amd64")
    );
    assert!(mirror().join(&hello.path).exists(), "{}", hello.path);

    let index = work.path("apt/sources/debian/main/binary-amd64/Packages");
    let mut digests = Vec::new();
    for _ in 0..2 {
        let work = Work::new();
        lay_out(&work, &index, mirror(), &result);
        let log = work
            .perform(
                toolbox(),
                ToolboxTask::Bootstrap {
                    spec: Box::new(spec(&wanted)),
                    epoch: EPOCH,
                },
            )
            .unwrap();
        println!(
            "{}",
            log.lines()
                .filter(|line| line.starts_with("impasto: "))
                .collect::<Vec<_>>()
                .join("\n")
        );
        let tree = work.path(TREE);
        let mut hasher = blake3::Hasher::new();
        hasher
            .update_reader(fs::File::open(&tree).unwrap())
            .unwrap();
        digests.push(hasher.finalize());
        let list = tool("tar", &["--numeric-owner", "-tvf", tree.to_str().unwrap()]);
        assert!(
            list.contains("./bin -> usr/bin") && list.contains("./usr/bin/hello"),
            "it is a root"
        );
        for name in [
            "./usr/sbin/policy-rc.d",
            "./etc/hostname",
            "./etc/resolv.conf",
            "impasto",
        ] {
            assert!(!list.contains(name), "{name} is in the tree");
        }
        for name in [" ./run/", " ./proc/", " ./dev/", " ./tmp/"] {
            let within = list
                .lines()
                .find(|line| line.contains(name) && !line.ends_with(name));
            assert_eq!(within, None, "these directories are empty");
        }
        let cat = |name: &str| tool("tar", &["-xOf", tree.to_str().unwrap(), name]);
        let status = cat("./var/lib/dpkg/status");
        let installed = status
            .lines()
            .filter(|line| *line == "Status: install ok installed")
            .count();
        assert_eq!(installed, result.install.len());
        let marks = cat("./var/lib/apt/extended_states");
        assert!(
            !marks.contains("Package: hello\n") && !marks.contains("Package: bash\n"),
            "{marks}"
        );
        assert!(cat("./etc/apt/sources.list").contains(SUITE));
    }
    assert_eq!(digests[0], digests[1]);
}

/// A stanza of an index: name, version, architecture, and further fields.
fn stanza(name: &str, version: &str, architecture: &str, more: &str) -> String {
    let file = format!("pool/{name}_{version}_{architecture}.deb");
    format!(
        "Package: {name}\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: x <x@example.org>\n{more}\
         Filename: {file}\nSize: 1000\nSHA256: {}\nDescription: x\n\n",
        "ab".repeat(32)
    )
}

/// The same in dpkg's status text.
fn installed(name: &str, version: &str, status: &str, more: &str) -> String {
    format!(
        "Package: {name}\nStatus: {status} ok installed\nVersion: {version}\nArchitecture: all\n\
         Maintainer: x <x@example.org>\n{more}Description: x\n\n"
    )
}

/// An archive of a few packages and the state of a machine that is to be changed.
fn small() -> (Work, ResolveRequest) {
    let work = Work::new();
    let release = |suite: &str, origin: &str| {
        format!(
            "Origin: {origin}\nSuite: {suite}\nCodename: {suite}\nComponents: main\nArchitectures: amd64 arm64\n"
        )
    };
    work.write("apt/sources/stable/Release", release("stable", "Debian"));
    work.write("apt/sources/next/Release", release("next", "Debian"));
    let stable = [
        stanza("old", "2.0", "all", "Depends: lib-new\n"),
        stanza("lib-new", "1:1.0~rc+1", "amd64", "Multi-Arch: same\n"),
        stanza("tool", "1.0", "all", "Recommends: nice\n"),
        stanza("nice", "1.0", "all", ""),
        stanza("held", "2.0", "all", ""),
        stanza("gone", "1.0", "all", ""),
        stanza(
            "impossible",
            "1.0",
            "all",
            "Depends: lib-new (>= 2:0), nowhere\n",
        ),
        stanza("against", "1.0", "all", "Conflicts: held\n"),
        stanza("mail-1", "1.0", "all", "Provides: mail\n"),
        stanza("mail-2", "1.0", "all", "Provides: mail\n"),
    ];
    work.write(
        "apt/sources/stable/main/binary-amd64/Packages",
        stable.concat(),
    );
    let foreign = stanza("lib-new", "1:1.0~rc+1", "arm64", "Multi-Arch: same\n");
    work.write("apt/sources/stable/main/binary-arm64/Packages", foreign);
    work.write(
        "apt/sources/next/main/binary-amd64/Packages",
        stanza("tool", "3.0", "all", ""),
    );
    work.write(
        "apt/sources/local/Packages",
        stanza("own", "1.0", "all", ""),
    );
    let status = [
        installed("old", "1.0", "install", "Depends: lib-old\n"),
        installed("lib-old", "1.0", "install", ""),
        installed("gone", "1.0", "install", ""),
        installed("held", "1.0", "hold", ""),
        installed("base", "1.0", "install", "Essential: yes\n"),
    ];
    work.write("apt/status", status.concat());
    work.write(
        "apt/extended_states",
        "Package: lib-old\nArchitecture: amd64\nAuto-Installed: 1\n\n",
    );
    work.write(
        "apt/preferences",
        "Package: *\nPin: release n=next\nPin-Priority: 100\n",
    );
    let source = |name: &str, site: &str| ResolveSource {
        directory: name.to_owned(),
        site: Some(site.to_owned()),
        suite: name.to_owned(),
        components: names(&["main"]),
        flat: false,
    };
    let local = ResolveSource {
        directory: "local".to_owned(),
        flat: true,
        ..ResolveSource::default()
    };
    let sources = vec![
        source("stable", "deb.example.org"),
        source("next", "next.example.org"),
        local,
    ];
    let request = ResolveRequest {
        architecture: "amd64".to_owned(),
        sources,
        ..ResolveRequest::default()
    };
    (work, request)
}

/// What would be installed and removed, in short.
fn short(result: &ResolveResult) -> String {
    let installed = result.install.iter().map(|p| {
        format!(
            "+{} {} {} {}",
            p.file.name, p.file.version, p.file.architecture, p.source
        )
    });
    let removed = result
        .remove
        .iter()
        .map(|p| format!("-{} {} {}", p.name, p.version, p.architecture));
    installed.chain(removed).collect::<Vec<_>>().join("\n")
}

#[test]
fn upgrading_installing_and_removing_lead_to_one_state() {
    let (work, request) = small();
    let ask = |request: ResolveRequest| short(&work.resolved(&request));
    let all = ResolveRequest {
        install: names(&["tool", "gone-"]),
        upgrade: true,
        autoremove: true,
        ..request.clone()
    };
    let expected = "+lib-new 1:1.0~rc+1 amd64 stable\n+old 2.0 all stable\n+tool 1.0 all stable\n\
                    -gone 1.0 all\n-lib-old 1.0 all";
    assert_eq!(ask(all.clone()), expected);
    let result = work.resolved(&all);
    assert_eq!(result.install[0].path, "pool/lib-new_1:1.0~rc+1_amd64.deb");
    assert_eq!(result.install[0].file.sha256.to_string(), "ab".repeat(32));
    assert_eq!(result.install[0].file.size, 1000);

    let install = |packages: &[&str]| ResolveRequest {
        install: names(packages),
        ..request.clone()
    };
    assert_eq!(ask(install(&["own"])), "+own 1.0 all local");
    assert_eq!(ask(install(&["tool=3.0"])), "+tool 3.0 all next");
    assert_eq!(ask(install(&["tool/next"])), "+tool 3.0 all next");
    assert_eq!(
        ask(ResolveRequest {
            recommends: true,
            ..install(&["tool"])
        }),
        "+nice 1.0 all stable\n+tool 1.0 all stable"
    );
    let foreign = ResolveRequest {
        foreign: names(&["arm64"]),
        ..install(&["lib-new:arm64"])
    };
    assert_eq!(ask(foreign), "+lib-new 1:1.0~rc+1 arm64 stable");
    assert_eq!(ask(install(&["gone"])), "", "it is there already");
    work.write(
        "apt/preferences",
        "Package: *\nPin: origin next.example.org\nPin-Priority: 1001\n",
    );
    assert_eq!(
        ask(install(&["tool"])),
        "+tool 3.0 all next",
        "a pin by the archive's host"
    );
}

#[test]
fn what_a_conflict_removes_is_known_whatever_version_apt_prints() {
    let (work, request) = small();
    let clock = "Provides: clock\nConflicts: clock\nReplaces: clock\n";
    let same = "Multi-Arch: same\n";
    let stable = [
        // As chrony and systemd-timesyncd: each is what the other cannot be beside.
        stanza("clock-1", "1.0", "all", clock),
        stanza("clock-2", "1.0", "all", clock),
        stanza("newer", "2.0", "all", ""),
        stanza("against-newer", "1.0", "all", "Conflicts: newer\n"),
        stanza("breaks-newer", "1.0", "all", "Breaks: newer (<< 3)\n"),
        stanza("against-local", "1.0", "all", "Conflicts: local\n"),
        stanza("against-both", "1.0", "amd64", "Conflicts: lib\n"),
        stanza("lib", "1.0", "amd64", same),
    ];
    work.write(
        "apt/sources/stable/main/binary-amd64/Packages",
        stable.concat(),
    );
    work.write(
        "apt/sources/stable/main/binary-arm64/Packages",
        stanza("lib", "1.0", "arm64", same),
    );
    let lib = installed("lib", "1.0", "install", same);
    let status = [
        installed("clock-1", "1.0", "install", clock),
        installed("newer", "1.0", "install", ""),
        installed("local", "0~odd", "install", ""),
        installed("needs-local", "1.0", "install", "Depends: local\n"),
        lib.replace("Architecture: all", "Architecture: amd64"),
        lib.replace("Architecture: all", "Architecture: arm64"),
    ];
    work.write("apt/status", status.concat());
    work.write("apt/extended_states", "");
    let ask = |packages: &[&str]| {
        let foreign = names(&["arm64"]);
        short(&work.resolved(&ResolveRequest {
            install: names(packages),
            foreign,
            ..request.clone()
        }))
    };
    assert_eq!(
        ask(&["clock-2"]),
        "+clock-2 1.0 all stable\n-clock-1 1.0 all"
    );
    assert_eq!(
        ask(&["against-newer"]),
        "+against-newer 1.0 all stable\n-newer 1.0 all"
    );
    assert_eq!(
        ask(&["breaks-newer"]),
        "+breaks-newer 1.0 all stable\n-newer 1.0 all"
    );
    assert_eq!(
        ask(&["newer-"]),
        "-newer 1.0 all",
        "what is installed, and not what could be"
    );
    assert_eq!(
        ask(&["against-local"]),
        "+against-local 1.0 all stable\n-local 0~odd all\n-needs-local 1.0 all"
    );
    assert_eq!(
        ask(&["against-both"]),
        "+against-both 1.0 amd64 stable\n-lib 1.0 amd64\n-lib 1.0 arm64"
    );
    assert_eq!(ask(&["lib:arm64-"]), "-lib 1.0 arm64");
}

#[test]
fn what_apt_refuses_is_told_in_its_words_without_the_rest() {
    let (work, request) = small();
    let mut text = String::new();
    for packages in [
        &["no-such", "nor-this", "tool"][..],
        &["tool=9"],
        &["tool/never"],
        &["impossible"],
        &["against"],
        &["base-"],
        &["mail"],
    ] {
        let outcome = work.resolve(&ResolveRequest {
            install: names(packages),
            ..request.clone()
        });
        text += &format!("{}\n  ", packages.join(" "));
        text += &match outcome {
            ResolveOutcome::Resolved(result) => panic!("{packages:?}: {result:?}"),
            ResolveOutcome::Unknown { packages } => format!("unknown: {}\n\n", packages.join(", ")),
            ResolveOutcome::Unhashed { package, source } => {
                format!("no SHA-256: {package} of {source}\n\n")
            }
            ResolveOutcome::Refused { reason } => {
                format!("refused: {}\n\n", reason.replace('\n', "\n  "))
            }
        };
    }
    insta::assert_snapshot!(text);
}

#[test]
fn work_with_the_toolbox_has_the_limits_of_its_stage() {
    let (work, request) = small();
    // Without groups it is looked at now and then: the work must last longer than that.
    let index = work.path("apt/sources/next/main/binary-amd64/Packages");
    let many: String = (0..30_000)
        .map(|n| stanza(&format!("many-{n}"), "1.0", "all", "Depends: tool\n"))
        .collect();
    fs::write(&index, fs::read_to_string(&index).unwrap() + &many).unwrap();
    let defaults = Limits::default();
    for (sandbox, limits, limit) in [
        (
            sandbox(),
            Limits {
                processes: 1,
                ..defaults
            },
            Limit::Processes,
        ),
        (
            sandbox().without_groups(),
            Limits {
                memory: Some(4096),
                ..defaults
            },
            Limit::Memory,
        ),
    ] {
        let _ = fs::remove_dir_all(work.path("apt/lists"));
        let task = ToolboxTask::Resolve {
            request: Box::new(request.clone()),
        };
        let (end, log) = work.try_perform_within(toolbox(), task, &sandbox, limits);
        let Ok(ToolEnd::LimitReached(reached)) = end else {
            panic!("{limit:?}: {end:?}: {log}")
        };
        assert_eq!(reached.limit, limit, "{reached}");
    }
}

#[test]
fn a_root_of_another_machine_is_made_by_an_emulator_of_the_rooms_own() {
    let registry = || {
        fs::read_dir("/proc/sys/fs/binfmt_misc")
            .map(|list| list.count())
            .unwrap_or_default()
    };
    let before = registry();
    let mirror = foreign_mirror();
    let (release, packages) = (mirror.join("Release"), mirror.join("Packages"));
    let work = Work::new();
    work.write("apt/sources/debian/Release", fs::read(release).unwrap());
    work.write(
        "apt/sources/debian/main/binary-arm64/Packages",
        fs::read(&packages).unwrap(),
    );
    let source = ResolveSource {
        directory: "debian".to_owned(),
        suite: SUITE.to_owned(),
        components: names(&["main"]),
        ..ResolveSource::default()
    };
    let wanted = ["apt", "hello"];
    let asked = ResolveRequest {
        architecture: "arm64".to_owned(),
        variant: Some(Variant::Essential),
        ..request(source, &wanted)
    };
    let result = work.resolved(&asked);
    for package in &result.install {
        fetch(&mirror, &package.path);
    }
    lay_out(&work, &packages, &mirror, &result);
    let spec = BootstrapSpec {
        architecture: "arm64".to_owned(),
        ..spec(&wanted)
    };
    let task = ToolboxTask::Bootstrap {
        spec: Box::new(spec),
        epoch: EPOCH,
    };

    let (end, _) = work.try_perform(toolbox(), task.clone());
    assert!(
        end.unwrap_err().to_string().contains("emulator"),
        "this toolbox has none"
    );

    let emulating = make_toolbox("toolbox-1-emulator", &[EMULATOR]);
    for name in ["plan", "plain", "root"] {
        let _ = fs::remove_dir_all(work.path(name));
    }
    let log = work.perform(&emulating, task).unwrap();
    println!(
        "{}",
        log.lines()
            .filter(|line| line.starts_with("impasto: "))
            .collect::<Vec<_>>()
            .join("\n")
    );
    let tree = work.path(TREE);
    let cat = |name: &str| tool("tar", &["-xOf", tree.to_str().unwrap(), name]);
    let status = cat("./var/lib/dpkg/status");
    let installed = status
        .lines()
        .filter(|line| *line == "Status: install ok installed")
        .count();
    assert_eq!(installed, result.install.len());
    let kind = run(
        "tar -xOf \"$1\" ./usr/bin/hello | od -An -tx1 -j18 -N1",
        &[&tree],
    );
    assert_eq!(kind.trim(), "b7", "a program for arm64");
    assert!(cat("./etc/passwd").contains("_apt:"), "scripts have run");
    let list = tool("tar", &["--numeric-owner", "-tvf", tree.to_str().unwrap()]);
    assert!(
        list.lines()
            .any(|line| line.contains(" 0/42 ") && line.ends_with("./etc/shadow")),
        "owners are as they were set"
    );
    assert_eq!(registry(), before, "the host's registry is as it was");
}

/// An arm64 index of the host's mirror: files that are fetched from there, below its base.
pub(crate) fn foreign_mirror() -> PathBuf {
    once("debian-arm64-1", |dir| {
        let index = format!("dists/{SUITE}/main/binary-arm64/Packages.xz");
        fetch(dir, &index);
        fetch(dir, &format!("dists/{SUITE}/Release"));
        run(
            "xz -dc \"$1\" > \"$2\"",
            &[&dir.join(index), &dir.join("Packages")],
        );
        fs::copy(
            dir.join("dists").join(SUITE).join("Release"),
            dir.join("Release"),
        )
        .unwrap();
    })
}

/// Fetches a file of the host's mirror into a directory of the same names, unless it is there.
pub(crate) fn fetch(dir: &Path, path: &str) {
    let to = dir.join(path);
    if to.exists() {
        return;
    }
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let variable = std::env::var(ARCHIVE_VARIABLE).ok();
    let choice = MirrorChoice::read(None, |name| {
        variable.as_deref().filter(|_| name == ARCHIVE_VARIABLE)
    })
    .unwrap();
    let url = format!(
        "{}/{path}",
        choice
            .resolve()
            .unwrap()
            .archive
            .expect("a mirror of Debian is known")
    );
    let part = to.with_extension("part");
    run(
        "/usr/lib/apt/apt-helper download-file \"$1\" \"$2\" >&2",
        &[Path::new(&url), &part],
    );
    fs::rename(part, to).unwrap();
}

#[test]
fn a_tree_that_is_no_toolbox_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in &MOUNT_POINTS[1..] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    std::os::unix::fs::symlink("/tmp", dir.path().join(MOUNT_POINTS[0])).unwrap();
    let (work, request) = small();
    let (end, _) = work.try_perform(
        dir.path(),
        ToolboxTask::Resolve {
            request: Box::new(request),
        },
    );
    insta::assert_snapshot!(end.unwrap_err().to_string(), @"the host cannot serve as a sandbox: the toolbox lacks the directory proc");
}
