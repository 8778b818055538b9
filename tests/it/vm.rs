//! Images in virtual machines: by `impasto boot`, and by the library where stages will use it.
//!
//! Most tests boot a hundred bytes of machine code, which takes two seconds; [`boots`] is for real systems (`recipes`).

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use impasto::base::cancel::CancelToken;
use impasto::vm::agent::ask_agent;
use impasto::vm::{
    Accel, Backing, Console, ConsoleMatch, Firmware as MachineFirmware, Machine, MachineDisk,
    Network, Spec,
};
use serde_json::json;
use tempfile::TempDir;

use crate::base::{base, leftovers, tool};
use crate::images::unpacker;
use crate::project::{Project, sha256};

/// What boots a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Firmware {
    Bios,
    Uefi,
    SecureBoot,
}

/// What a serial console has shown, and a call when that grows.
type Transcript = (Mutex<Vec<u8>>, Condvar);

/// How long a real system may take under TCG on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);
/// By how much the disk is larger than the image.
const GROWN: u64 = 2 << 30;

/// A real system that runs in `impasto boot`, with a user that a new key lets in; ended when dropped.
pub(crate) struct BootedGuest {
    child: Child,
    console: Arc<Transcript>,
    /// The key, the agent's socket.
    dir: TempDir,
    port: u16,
    image_size: u64,
}

/// Boots an image in a disk that is larger than it, and waits for its login prompt.
pub(crate) fn boots(image: &Path, firmware: Firmware) -> BootedGuest {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    tool(
        "ssh-keygen",
        &[
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-C",
            "impasto-test",
            "-f",
            &path("key"),
        ],
    );
    let info: serde_json::Value = serde_json::from_str(&tool(
        "qemu-img",
        &["info", "--output=json", image.to_str().unwrap()],
    ))
    .unwrap();
    let image_size = info["virtual-size"].as_u64().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut command = Command::new(env!("CARGO_BIN_EXE_impasto"));
    command
        .arg("boot")
        .arg(image)
        .args(["--store", &path("store"), "--ssh-key", &path("key.pub")]);
    command.args([
        "--disk-size",
        &(image_size + GROWN).to_string(),
        "--ssh-port",
        &port.to_string(),
    ]);
    command.args(["--guest-agent", &path("agent.sock"), "--timeout", "30m"]);
    command.args(match firmware {
        Firmware::Bios => &["--firmware", "bios"][..],
        Firmware::Uefi => &["--firmware", "uefi"],
        Firmware::SecureBoot => &["--secure-boot"],
    });
    let (child, console) = spawn(command);
    let guest = BootedGuest {
        child,
        console,
        dir,
        port,
        image_size,
    };
    guest.wait_for("login:");
    guest
}

/// Starts a boot and reads its console.
pub(crate) fn spawn(mut command: Command) -> (Child, Arc<Transcript>) {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let console = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
    let (mut stdout, shown) = (child.stdout.take().unwrap(), console.clone());
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stdout.read(&mut buffer) {
            shown.0.lock().unwrap().extend_from_slice(&buffer[..count]);
            shown.1.notify_all();
        }
    });
    (child, console)
}

pub(crate) fn shows(console: &Transcript, text: &str, patience: Duration) -> bool {
    let misses = |bytes: &mut Vec<u8>| {
        !bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    };
    !console
        .1
        .wait_timeout_while(console.0.lock().unwrap(), patience, misses)
        .unwrap()
        .1
        .timed_out()
}

impl BootedGuest {
    /// Waits until the serial console has shown a text.
    pub(crate) fn wait_for(&self, text: &str) {
        assert!(
            shows(&self.console, text, PATIENCE),
            "no `{text}` on the console:\n{}",
            self.console()
        );
    }

    /// What the serial console has shown.
    pub(crate) fn console(&self) -> String {
        String::from_utf8_lossy(&self.console.0.lock().unwrap()).into_owned()
    }

    /// Runs a line as root over ssh; its exit code and what it printed.
    pub(crate) fn try_run(&self, line: &str) -> (Option<i32>, String) {
        let key = self.dir.path().join("key");
        let output = Command::new("ssh")
            .args([
                "-q",
                "-F",
                "none",
                "-p",
                &self.port.to_string(),
                "-i",
                key.to_str().unwrap(),
            ])
            .args([
                "-o",
                "BatchMode=yes",
                "-o",
                "ConnectTimeout=10",
                "-o",
                "IdentitiesOnly=yes",
            ])
            .args([
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
            ])
            .args(["impasto@127.0.0.1", "sudo", "-n", "sh", "-s"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .and_then(|mut ssh| {
                // Where the connection fails, nobody reads it, and the exit code tells.
                let _ = ssh.stdin.take().unwrap().write_all(line.as_bytes());
                ssh.wait_with_output()
            })
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&text).trim_end().to_owned(),
        )
    }

    /// Runs a line as root over ssh, which must succeed. ssh's own failure (255) is tried again: the user is made while
    /// the login prompt is already there.
    pub(crate) fn run(&self, line: &str) -> String {
        let begun = Instant::now();
        loop {
            match self.try_run(line) {
                (Some(0), text) => return text,
                (Some(255), text) if begun.elapsed() > PATIENCE => {
                    panic!("ssh does not get in: {text}\n{}", self.console())
                }
                (Some(255), _) => std::thread::sleep(Duration::from_secs(1)),
                (code, text) => panic!("`{line}` ended with {code:?}: {text}"),
            }
        }
    }

    /// Demands that the guest's agent answers.
    pub(crate) fn ping_agent(&self) {
        let answer = ask_agent(
            self.dir.path(),
            "agent.sock",
            &json!({"execute": "guest-ping"}),
            PATIENCE,
        )
        .unwrap();
        assert_eq!(answer, json!({"return": {}}));
    }

    /// Ends the machine and demands that nothing is left of it.
    pub(crate) fn end(mut self) {
        tool("kill", &["-TERM", &self.child.id().to_string()]);
        assert_eq!(self.child.wait().unwrap().code(), Some(130));
        assert_eq!(leftovers(self.dir.path()), Vec::<String>::new());
    }
}

impl Drop for BootedGuest {
    fn drop(&mut self) {
        // Ended already, or a test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What every image for the cloud promises; what must differ between any two machines made of it.
pub(crate) fn check(guest: &BootedGuest, firmware: Firmware) -> Vec<String> {
    guest.ping_agent();
    // 2 is "done, with complaints", in versions that tell; what they are is not the image's fault alone.
    let status = guest.run("cloud-init status --wait; [ $? != 1 ]");
    assert!(status.contains("status: done"), "{status}");
    assert_eq!(
        guest.run("systemctl --failed --no-legend --plain; systemctl is-system-running --wait"),
        "running"
    );
    let is_uefi = firmware != Firmware::Bios;
    assert_eq!(
        guest.try_run("test -d /sys/firmware/efi").0 == Some(0),
        is_uefi,
        "{firmware:?}"
    );
    let root: u64 = guest
        .run("df -B1 --output=size / | tail -n 1")
        .trim()
        .parse()
        .unwrap();
    assert!(
        root > guest.image_size + GROWN / 2,
        "the root has {root} bytes; the image has {}",
        guest.image_size
    );
    let machine_id = guest.run("cat /etc/machine-id");
    assert!(
        machine_id.len() == 32 && machine_id.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{machine_id}"
    );
    let booted: u64 = guest
        .run("date -d \"$(uptime --since)\" +%s")
        .parse()
        .unwrap();
    let keys = guest.run("stat -c %Y /etc/ssh/ssh_host_*_key");
    assert!(keys.lines().count() > 0, "no host keys");
    for made in keys.lines() {
        // The clock of `uptime` is a second coarse.
        assert!(
            made.parse::<u64>().unwrap() + 2 >= booted,
            "a host key is older than the boot at {booted}: {keys}"
        );
    }
    vec![
        machine_id,
        guest.run("cat /etc/ssh/ssh_host_ed25519_key.pub"),
        guest.run("cat /etc/hostname; hostname"),
    ]
}

/// 16-bit code that prints `boots`, writes the first sector over the second, prints `written` where that succeeds, and
/// from then on repeats what it reads: all on the first serial port.
const CODE: [u8; 103] = *b"\xfa\x31\xc0\x8e\xd8\x8e\xc0\x8e\xd0\xbc\x00\x7c\xfb\xbe\x55\x7c\xe8\x27\x00\xb8\x01\x03\xbb\x00\
\x7c\xb9\x02\x00\xba\x80\x00\xcd\x13\x72\x06\xbe\x5d\x7c\xe8\x11\x00\xba\xfd\x03\xec\xa8\x01\x74\xfb\xba\xf8\x03\xec\xe8\
\x0c\x00\xeb\xef\xac\x84\xc0\x74\x15\xe8\x02\x00\xeb\xf6\x88\xc3\xba\xfd\x03\xec\xa8\x20\x74\xfb\xba\xf8\x03\x88\xd8\xee\
\xc3boots\r\n\0written\r\n\0";

/// The base disk with that code in its boot sector, raw.
pub(crate) fn talking_disk(dir: &Path) -> PathBuf {
    let path = dir.join("talking.raw");
    std::fs::copy(&base().raw, &path).unwrap();
    let mut file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all(&CODE).unwrap();
    path
}

pub(crate) fn quick(project: &Project, image: &str, arguments: &[&str]) -> Command {
    let all = [
        &[
            "boot",
            image,
            "--network",
            "none",
            "--memory",
            "64MiB",
            "--cpus",
            "1",
        ],
        arguments,
    ]
    .concat();
    project.command(&all)
}

#[test]
fn files_and_stages_boot_and_are_not_written() {
    let project = Project::with(
        r#"stage "fetch" "disk" { path = "talking.raw" }
           stage "copy" "more" {
             from  = stage.disk
             files = { "/etc/motd" = { content = "hello\n" } }
           }
           stage "convert" "raw" {
             from   = stage.more
             format = "raw"
           }
           stage "convert" "others" {
             from    = stage.more
             formats = ["vmdk", "vhd", "vhdx", "vdi", "raw.gz", "raw.xz", "raw.zst", "gce"]
           }
           image "it" { files = [stage.raw, stage.others] }"#,
    );
    let raw = talking_disk(&project.path(""));
    let qcow2 = project.path("talking.qcow2");
    tool(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            raw.to_str().unwrap(),
            qcow2.to_str().unwrap(),
        ],
    );
    project.build(&[]);
    let digests = || [&raw, &qcow2, &project.path("out/it.raw")].map(|path| sha256(path));
    let before = digests();
    for image in [
        "talking.raw",
        "talking.qcow2",
        "out/it.raw",
        "out/it.vmdk",
        "out/it.vhd",
        "out/it.vhdx",
        "out/it.vdi",
        "out/it.raw.gz",
        "out/it.raw.xz",
        "out/it.raw.zst",
        "out/it.tar.gz",
        "disk",
        "more",
        "raw",
        "image.it",
    ] {
        let ran = crate::project::ran(quick(
            &project,
            image,
            &["--wait-for", "written", "--timeout", "2m"],
        ));
        assert_eq!(ran.code, 0, "{image}: {}{}", ran.stdout, ran.stderr);
        assert!(
            ran.stdout.contains("boots\r\nwritten"),
            "{image}: {}",
            ran.stdout
        );
    }
    assert_eq!(digests(), before);
    assert_eq!(project.run(&["store", "verify"]).code, 0);
    for left in ["tmp", "leases"] {
        assert_eq!(
            std::fs::read_dir(project.store().join(left))
                .unwrap()
                .count(),
            0,
            "{left}/"
        );
    }
}

#[test]
fn what_does_not_come_in_time_is_told_by_the_exit_code() {
    let project = Project::new();
    talking_disk(&project.path(""));
    let ran = crate::project::ran(quick(
        &project,
        "talking.raw",
        &["--wait-for", "never", "--timeout", "5s"],
    ));
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("did not show `never` in 5s"),
        "{}",
        ran.stderr
    );
    let ran = crate::project::ran(quick(&project, "talking.raw", &["--timeout", "2s"]));
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("was still running after 2s"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_boot_that_is_ended_leaves_no_machine() {
    let project = Project::new();
    talking_disk(&project.path(""));
    for (signal, code) in [("TERM", Some(130)), ("INT", Some(130)), ("KILL", None)] {
        let (mut child, console) = spawn(quick(
            &project,
            "talking.raw",
            &["--guest-agent", "agent.sock"],
        ));
        assert!(
            shows(&console, "written", Duration::from_secs(120)),
            "{signal}"
        );
        tool("kill", &["-s", signal, &child.id().to_string()]);
        assert_eq!(child.wait().unwrap().code(), code, "{signal}");
        let begun = Instant::now();
        while !leftovers(&project.store()).is_empty() {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "{signal}: {:?}",
                leftovers(&project.store())
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        let left = std::fs::read_dir(project.store().join("tmp"))
            .unwrap()
            .count();
        assert_eq!(left, usize::from(code.is_none()), "{signal}");
    }
    // What the kill left is debris, and the collector's.
    project.ok(&["gc", "--min-age", "0s"]);
    assert_eq!(
        std::fs::read_dir(project.store().join("tmp"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_machine_is_talked_to_and_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let image = impasto::vm::examine(&talking_disk(dir.path()), &unpacker(dir.path())).unwrap();
    assert!(matches!(image.backing, Backing::Raw(_)));
    let work = dir.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let spec = Spec {
        machine: impasto::vm::MachineType::Q35,
        accel: Accel::Tcg,
        firmware: MachineFirmware::Bios,
        memory: 64 << 20,
        cpus: 1,
        disk: Some(MachineDisk {
            backing: image.backing,
            overlay: impasto::vm::overlay(&work, image.size, None).unwrap(),
        }),
        kernel: None,
        cdrom: None,
        seed: None,
        files: None,
        network: Network::None,
        served: Vec::new(),
        guest_agent: Some(Machine::agent_socket()),
        console: Console::Pipe,
        control: true,
    };
    let mut machine = Machine::start(&spec, &work, None).unwrap();
    let cancel = CancelToken::new();
    let soon = || Some(Instant::now() + Duration::from_secs(120));
    assert_eq!(
        machine.wait_for("written\r\n", soon(), &cancel).unwrap(),
        ConsoleMatch::Text
    );
    machine.send(b"one two").unwrap();
    assert_eq!(
        machine.wait_for("one", soon(), &cancel).unwrap(),
        ConsoleMatch::Text
    );
    let now = Some(Instant::now());
    assert_eq!(
        machine.wait_for("one", now, &cancel).unwrap(),
        ConsoleMatch::TimedOut,
        "what was seen is behind"
    );
    assert_eq!(
        machine.wait_for(" two", soon(), &cancel).unwrap(),
        ConsoleMatch::Text
    );
    let ping = json!({"execute": "guest-ping"});
    assert!(
        ask_agent(&work, "agent", &ping, Duration::from_secs(1)).is_err(),
        "there is no agent in it"
    );
    cancel.cancel();
    assert_eq!(
        machine.wait_for("three", soon(), &cancel).unwrap(),
        ConsoleMatch::Cancelled
    );
    // It has no idea of a power button.
    assert!(
        !machine
            .power_off(Duration::from_secs(1), &CancelToken::new())
            .unwrap()
    );
    drop(machine);
    assert_eq!(leftovers(dir.path()), Vec::<String>::new());
}
