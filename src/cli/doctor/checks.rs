//! The checks of `impasto doctor`: each tries one thing, and names the command that repairs it.
//! Knows the host's devices and programs that impasto uses; shows nothing.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use impasto_store::Store;

use super::{DoctorCheck, Status};
use crate::base::bounded;
use crate::base::cancel::CancelToken;
use crate::base::host::User;
use crate::base::human;
use crate::cli::error::CliError;
use crate::cli::hint::{OVMF_PACKAGES, QEMU_PACKAGES};
use crate::cli::session::Session;
use crate::deb::control::stanzas;
use crate::debian::archive::{ArchiveSource, Client};
use crate::debian::distribution::Distribution;
use crate::net::Options;
use crate::sandbox::{self, ProbePiece};
use crate::vm::{self, Accel, VmError};

/// Debian's suite that the mirror is asked for: that of the tools that impasto itself uses.
const SUITE: &str = "bookworm";
/// How long a small machine may take. Emulated on a busy host it takes a second or two.
const BOOT: Duration = Duration::from_secs(20);
/// The same on the processor, which takes a tenth of a second.
const BOOT_KVM: Duration = Duration::from_secs(5);
/// Free bytes of which less is worth a word: an image with all of its layers takes about this.
const SPACE: u64 = 2 << 30;
/// The same for inodes.
const INODES: u64 = 10_000;

const STAGES: &str = "stages that run programs";
const DISK_PACKAGES: &str = "apt-get install qemu-system-common qemu-utils";

fn ok(check: &'static str, needed_for: &'static str, found: impl Into<String>) -> DoctorCheck {
    DoctorCheck {
        check,
        status: Status::Ok,
        found: found.into(),
        needed_for,
        help: Vec::new(),
    }
}

impl DoctorCheck {
    fn bad(mut self, status: Status, help: &[&str]) -> DoctorCheck {
        self.status = status;
        self.help = help.iter().map(|line| (*line).to_owned()).collect();
        self
    }

    /// Of a result: the help is for its error.
    fn of(
        check: &'static str,
        needed_for: &'static str,
        found: Result<String, String>,
        help: &[&str],
    ) -> DoctorCheck {
        match found {
            Ok(found) => ok(check, needed_for, found),
            Err(reason) => ok(check, needed_for, reason).bad(Status::Error, help),
        }
    }

    /// Not an error: stages run without it.
    fn or_warning(mut self) -> DoctorCheck {
        if self.status == Status::Error {
            self.status = Status::Warning;
        }
        self
    }
}

/// Does all checks, in an order in which the first one that fails explains the others. `each` gets them as they end.
pub(super) fn all(session: &Session, cancel: &CancelToken, each: &mut dyn FnMut(DoctorCheck)) {
    let store = session.store();
    let scratch = || -> Result<ProbeDir, String> {
        // Where stages work, too.
        match &store {
            Ok(store) => store
                .scratch()
                .map(ProbeDir::Store)
                .map_err(|error| error.to_string()),
            Err(_) => tempfile::tempdir()
                .map(ProbeDir::Other)
                .map_err(|error| error.to_string()),
        }
    };
    each(root(session));
    each(disk_server());
    for check in sandbox_pieces(session, &scratch, cancel) {
        each(check);
    }
    for check in user_name_spaces(session) {
        each(check);
    }
    each(limits(session));
    if cancel.is_cancelled() {
        return;
    }
    each(mirror(session, &scratch, cancel));
    each(store_check(session, &store));
    each(space(
        "out",
        "files of images",
        &session.host.cwd.join("out"),
        None,
    ));
    each(qemu(&scratch, cancel));
    each(ports());
    each(kvm(&scratch, cancel));
    each(ovmf());
    each(qemu_img(session));
    let host = &session.host;
    each(ok(
        "kernel",
        "everything",
        format!("Linux {}, {} CPUs", host.kernel, host.cpus),
    ));
}

/// A private directory, removed when it is dropped.
enum ProbeDir {
    Store(impasto_store::Scratch),
    Other(tempfile::TempDir),
}

impl ProbeDir {
    fn path(&self) -> &Path {
        match self {
            ProbeDir::Store(scratch) => scratch.path(),
            ProbeDir::Other(dir) => dir.path(),
        }
    }
}

type MakeScratch<'a> = &'a dyn Fn() -> Result<ProbeDir, String>;

fn root(session: &Session) -> DoctorCheck {
    let host = &session.host;
    if host.root {
        let caller = host.sudo.as_ref().map(|caller| {
            let name =
                User::by_uid(caller.uid).map_or(format!("user {}", caller.uid), |user| user.name);
            format!("yes, for {name}, who owns the store and the files that are written")
        });
        return ok("root", STAGES, caller.unwrap_or_else(|| "yes".to_owned()));
    }
    let check = ok("root", STAGES, "not running as root");
    let command = session.as_root();
    let help: Vec<&str> = command
        .lines()
        .chain(["plan, why, fetch, boot, diff and convert work without root"])
        .collect();
    check.bad(Status::Error, &help)
}

fn disk_server() -> DoctorCheck {
    let version = sandbox::storage_version()
        .ok_or_else(|| "qemu-storage-daemon is not in the PATH".to_owned());
    DoctorCheck::of("disk-server", STAGES, version, &[DISK_PACKAGES])
}

/// What only root can try: the pieces of the sandbox, as stages use them.
fn sandbox_pieces(
    session: &Session,
    scratch: MakeScratch<'_>,
    cancel: &CancelToken,
) -> Vec<DoctorCheck> {
    let name = |piece| match piece {
        ProbePiece::NameSpaces => "name-spaces",
        ProbePiece::Served => "fuse",
        ProbePiece::LoopDevice => "loop",
    };
    let pieces = [
        ProbePiece::NameSpaces,
        ProbePiece::Served,
        ProbePiece::LoopDevice,
    ];
    let skipped = |piece, why: &str| ok(name(piece), STAGES, why).bad(Status::Skipped, &[]);
    if !session.host.root {
        return pieces
            .map(|piece| skipped(piece, "only root can check this"))
            .into();
    }
    let tried = match scratch() {
        Ok(scratch) => sandbox::probe(&session.host.exe, scratch.path(), cancel.clone()),
        Err(reason) => return pieces.map(|piece| skipped(piece, &reason)).into(),
    };
    let found = |piece| {
        tried
            .iter()
            .find(|(tried, _)| *tried == piece)
            .map(|(_, result)| result.clone())
    };
    pieces
        .map(|piece| {
            let works = match piece {
                ProbePiece::NameSpaces => "created, with a loopback interface that is up",
                ProbePiece::Served => "a disk was served as a file",
                ProbePiece::LoopDevice => "a disk was attached and detached",
            };
            let help: &[&str] = match piece {
                ProbePiece::NameSpaces => {
                    &["in a container: run it privileged, or with --cap-add SYS_ADMIN and without seccomp"]
                }
                ProbePiece::Served => {
                    &["modprobe fuse", "in a container: pass the device in (--device /dev/fuse)", DISK_PACKAGES]
                }
                ProbePiece::LoopDevice => &[
                    "modprobe loop",
                    "in a container: pass the devices in (--device /dev/loop-control, and /dev/loop0 and so on)",
                    "losetup --list shows which are in use",
                ],
            };
            match found(piece) {
                Some(result) => DoctorCheck::of(name(piece), STAGES, result.map(|()| works.to_owned()), help),
                None => skipped(piece, "a check before it failed"),
            }
        })
        .into()
}

fn user_name_spaces(session: &Session) -> [DoctorCheck; 2] {
    const NEEDED: &str = "roots of other architectures";
    let tried = sandbox::probe_user_namespace(&session.host.exe);
    let root = tried
        .root
        .map(|()| "root in one of its own, and mounts there".to_owned());
    let help = [
        "sysctl -w user.max_user_namespaces=15000 kernel.unprivileged_userns_clone=1",
        "Ubuntu: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ];
    let root = DoctorCheck::of("user-name-spaces", NEEDED, root, &help).or_warning();
    if root.status != Status::Ok {
        return [
            root,
            ok("emulators", NEEDED, "they need a user namespace").bad(Status::Skipped, &[]),
        ];
    }
    let emulators = tried
        .emulators
        .map(|()| "this kernel registers emulators per user namespace".to_owned());
    let help = [
        "modprobe binfmt_misc",
        "or use Linux 6.7 or later, built with binfmt_misc",
    ];
    [
        root,
        DoctorCheck::of("emulators", NEEDED, emulators, &help).or_warning(),
    ]
}

fn limits(session: &Session) -> DoctorCheck {
    const NEEDED: &str = "limits of processes and memory";
    if !session.host.root {
        return ok("limits", NEEDED, "only root can check this").bad(Status::Skipped, &[]);
    }
    match sandbox::control_groups() {
        Some(dirs) => {
            let dirs: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
            ok(
                "limits",
                NEEDED,
                format!("control groups in {}", dirs.join(" and ")),
            )
        }
        None => {
            let found = "no control groups are available: processes and memory are counted 20 times a second";
            let help = "if none is mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup";
            ok("limits", NEEDED, found).bad(Status::Warning, &[help])
        }
    }
}

/// Asks the mirror that packages come from for the signed list of a suite.
fn mirror(session: &Session, scratch: MakeScratch<'_>, cancel: &CancelToken) -> DoctorCheck {
    const NEEDED: &str = "packages, and the tools that impasto uses";
    const NAME: &str = "name another with --mirror URL or IMPASTO_MIRROR";
    let asked = || -> Result<String, (Status, String)> {
        let error = |text: String| (Status::Error, text);
        let mirrors = session
            .mirrors(None)
            .map_err(|problem| error(problem.to_string()))?;
        let mirrors = mirrors
            .resolve()
            .map_err(|problem| error(problem.to_string()))?;
        let base = mirrors
            .archive
            .clone()
            .ok_or_else(|| error("the host's apt has none configured".to_owned()))?;
        if base.directory().is_some() {
            return Ok(format!("{base}, which exists"));
        }
        // What is in the store needs no mirror.
        let silent = |reason: String| (Status::Warning, format!("{base}: {reason}"));
        let scratch = scratch().map_err(silent)?;
        let second = Duration::from_secs(1);
        let options = Options {
            connect: 5 * second,
            stall: 5 * second,
            attempts: 1,
            ..Options::default()
        };
        let client = Client::new(&mirrors, scratch.path(), cancel, options)
            .map_err(|e| silent(human::with_causes(&e)))?;
        let source = ArchiveSource {
            name: Distribution::Debian.id().to_owned(),
            bases: vec![base.clone()],
            suite: SUITE.to_owned(),
            components: vec!["main".to_owned()],
            architectures: vec![impasto_stages::package_set::ARCHITECTURE.to_owned()],
            trust: Distribution::Debian.trust(),
            frozen: false,
        };
        let begun = Instant::now();
        client
            .release(&source, session.host.now())
            .map_err(|e| silent(human::with_causes(&e)))?;
        Ok(format!(
            "{base}, which answered in {}",
            human::seconds(begun.elapsed())
        ))
    };
    match asked() {
        Ok(found) => ok("mirror", NEEDED, found),
        Err((Status::Warning, reason)) => {
            let help = [
                NAME,
                "behind a proxy: set http_proxy, or Acquire::http::Proxy in apt's configuration",
            ];
            ok("mirror", NEEDED, reason).bad(Status::Warning, &help)
        }
        Err((status, reason)) => ok("mirror", NEEDED, reason).bad(status, &[NAME]),
    }
}

fn store_check(session: &Session, store: &Result<Store, CliError>) -> DoctorCheck {
    match store {
        Ok(store) => space(
            "store",
            "everything",
            store.path(),
            Some("impasto gc deletes what no recipe uses"),
        ),
        Err(error) => {
            let help = error
                .help()
                .unwrap_or_else(|| "name another with --store".to_owned());
            let setting = session.store_setting();
            let found = format!(
                "{} (set by: {}): {}",
                setting.value.display(),
                setting.origin,
                human::with_causes(error)
            );
            let lines: Vec<&str> = help.lines().collect();
            ok("store", "everything", found).bad(Status::Error, &lines)
        }
    }
}

/// How much there is left where a directory is, or would be made.
fn space(
    check: &'static str,
    needed_for: &'static str,
    dir: &Path,
    free: Option<&str>,
) -> DoctorCheck {
    let shown = dir.display();
    let there = dir
        .ancestors()
        .find(|path| path.is_dir())
        .map_or_else(|| PathBuf::from("/"), Path::to_path_buf);
    let stat = match rustix::fs::statvfs(&there) {
        Ok(stat) => stat,
        Err(errno) => {
            return ok(check, needed_for, format!("{shown}: {errno}")).bad(Status::Error, &[]);
        }
    };
    if stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        let found = format!("{shown} is on a file system that is mounted read-only");
        return ok(check, needed_for, found).bad(Status::Error, &[elsewhere(check)]);
    }
    let bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    let found = format!("{shown}, {} free", human::bytes(bytes));
    let lines: Vec<&str> = free.into_iter().chain([elsewhere(check)]).collect();
    if bytes < SPACE {
        return ok(check, needed_for, found).bad(Status::Warning, &lines);
    }
    // File systems that make inodes as they need them have no number of them.
    if stat.f_files > 0 && stat.f_favail < INODES {
        let found = format!("{found}, and {} inodes", stat.f_favail);
        return ok(check, needed_for, found).bad(Status::Warning, &lines);
    }
    ok(check, needed_for, found)
}

fn elsewhere(check: &str) -> &'static str {
    if check == "out" {
        "use a directory elsewhere: build --out DIR"
    } else {
        "use one elsewhere: --store DIR"
    }
}

/// Boots a machine of one sector, emulated.
fn qemu(scratch: MakeScratch<'_>, cancel: &CancelToken) -> DoctorCheck {
    const NEEDED: &str = "boot";
    let Some(version) = vm::probe::version() else {
        return ok("qemu", NEEDED, format!("{} is not in the PATH", vm::QEMU))
            .bad(Status::Warning, &[QEMU_PACKAGES]);
    };
    match boot(Accel::Tcg, BOOT, scratch, cancel) {
        Ok(took) => ok(
            "qemu",
            NEEDED,
            format!(
                "{version}; a small machine booted in {}",
                human::seconds(took)
            ),
        ),
        Err(reason) => {
            let found = format!("{version}; a small machine does not boot: {reason}");
            ok("qemu", NEEDED, found).bad(
                Status::Warning,
                &["apt-get install --reinstall qemu-system-x86 seabios"],
            )
        }
    }
}

fn boot(
    accel: Accel,
    patience: Duration,
    scratch: MakeScratch<'_>,
    cancel: &CancelToken,
) -> Result<Duration, String> {
    let scratch = scratch()?;
    vm::probe::try_boot(accel, scratch.path(), patience, cancel).map_err(|error| match error {
        VmError::Failed { words, .. } if !words.is_empty() => first_words(&words),
        error => human::with_causes(&error),
    })
}

/// The beginning of what QEMU says, which may be long.
fn first_words(words: &str) -> String {
    const MOST: usize = 120;
    let words = words
        .strip_prefix(vm::QEMU)
        .map_or(words, |rest| rest.trim_start_matches([':', ' ']));
    // What it says next begins with its name again.
    let first = words.split(vm::QEMU).next().unwrap_or(words).trim_end();
    match first.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &first[..end]),
        None => first.to_owned(),
    }
}

fn ports() -> DoctorCheck {
    let tried = || -> std::io::Result<u16> {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = socket.local_addr()?.port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        socket.accept()?;
        Ok(port)
    };
    let found = tried().map(|_| "a free port of 127.0.0.1 was opened and reached".to_owned());
    let found = found.map_err(|error| format!("no port of 127.0.0.1 can be used: {error}"));
    DoctorCheck::of(
        "ports",
        "boot --ssh-key and --ssh-port",
        found,
        &["ip link set lo up"],
    )
    .or_warning()
}

/// Boots the same machine on the processor: a /dev/kvm that opens is not KVM.
fn kvm(scratch: MakeScratch<'_>, cancel: &CancelToken) -> DoctorCheck {
    const NEEDED: &str = "boot --accel kvm";
    const DEVICE: &str = "/dev/kvm";
    const WITHOUT: &str =
        "without it machines are emulated (--accel tcg, the default), which is slower";
    let bad =
        |found: String, help: &str| ok("kvm", NEEDED, found).bad(Status::Warning, &[help, WITHOUT]);
    // A device has no end: it is opened as QEMU opens it, and not read.
    match std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(DEVICE)
    {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let help = "modprobe kvm_intel, or kvm_amd; in a virtual machine, turn on nested virtualization";
            return bad(format!("there is no {DEVICE}"), help);
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return bad(
                format!("cannot open {DEVICE}: {error}"),
                "sudo adduser $USER kvm, then log in again",
            );
        }
        Err(error) => {
            return bad(
                format!("cannot open {DEVICE}: {error}"),
                "modprobe kvm_intel, or kvm_amd",
            );
        }
    }
    if vm::probe::version().is_none() {
        let found = format!(
            "{DEVICE} can be opened; without {} nothing can be booted",
            vm::QEMU
        );
        return ok("kvm", NEEDED, found).bad(Status::Skipped, &[]);
    }
    match boot(Accel::Kvm, BOOT_KVM, scratch, cancel) {
        Ok(took) => ok(
            "kvm",
            NEEDED,
            format!("a small machine booted in {}", human::seconds(took)),
        ),
        Err(reason) => bad(
            format!("{DEVICE} can be opened, but a small machine does not boot: {reason}"),
            "in a virtual machine, its host must support nested virtualization fully",
        ),
    }
}

fn ovmf() -> DoctorCheck {
    let path = format!("{}/OVMF_CODE_4M.fd", vm::OVMF);
    let found = match bounded::open(&path) {
        Ok(_) => {
            Ok(package_version("ovmf").map_or(path.clone(), |version| format!("ovmf {version}")))
        }
        Err(error) => Err(format!("cannot open {path}: {error}")),
    };
    DoctorCheck::of("ovmf", "boot --firmware uefi", found, &[OVMF_PACKAGES]).or_warning()
}

/// The version of an installed package, where dpkg keeps a list of them.
fn package_version(name: &str) -> Option<String> {
    let status = bounded::read("/var/lib/dpkg/status", bounded::TEXT).ok()?;
    let found = stanzas(&status).find(|stanza| stanza.get("Package") == Some(name))?;
    found.get("Version").map(str::to_owned)
}

fn qemu_img(session: &Session) -> DoctorCheck {
    let path = session
        .host
        .path_dirs()
        .map(|dir| dir.join("qemu-img"))
        .find(|path| path.is_file());
    let found = path
        .map(|path| path.display().to_string())
        .ok_or_else(|| "qemu-img is not in the PATH".to_owned());
    DoctorCheck::of(
        "qemu-img",
        "converting images of other formats by hand",
        found,
        &["apt-get install qemu-utils"],
    )
    .or_warning()
}
