//! What a test of an image asks: the machine, and the checks in the order in which they are made.
//! Knows no recipe and no machine; whoever carries a test out reads it.

use std::collections::BTreeMap;
use std::time::Duration;

use impasto_store::key::{Atom, Describe, Sink, field};

/// One run of checks: in one machine, or without any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestSpec {
    /// What boots; none where the checks are decided by reading the disk.
    pub machine: Option<TestMachine>,
    /// The checks, in order.
    pub checks: Vec<TestCheck>,
}

/// What starts the boot loader of a tested disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestFirmware {
    Bios,
    Uefi,
    SecureBoot,
    /// A kernel is started directly.
    Kernel,
}

impl TestFirmware {
    /// Its names in a recipe; [`TestFirmware::Kernel`] has none there.
    pub const NAMES: &[&str] = &["bios", "uefi", "secure-boot"];

    pub fn named(name: &str) -> Option<TestFirmware> {
        match name {
            "bios" => Some(TestFirmware::Bios),
            "uefi" => Some(TestFirmware::Uefi),
            "secure-boot" => Some(TestFirmware::SecureBoot),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            TestFirmware::Bios => "bios",
            TestFirmware::Uefi => "uefi",
            TestFirmware::SecureBoot => "secure-boot",
            TestFirmware::Kernel => "kernel",
        }
    }
}

/// A machine that is tested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestMachine {
    pub firmware: TestFirmware,
    /// Bytes.
    pub memory: u64,
    pub cpus: u16,
    /// Bytes of its disk; as many as the image has where none are given.
    pub disk_size: Option<u64>,
    /// The kernel's command line, where a kernel is started.
    pub arguments: String,
    /// Files for cloud-init, beside what impasto itself needs.
    pub seed: BTreeMap<String, String>,
    /// Whether it has a network: one that leads nowhere.
    pub network: bool,
    /// Who logs in over SSH.
    pub user: String,
    /// How long SSH may take to let that user in. Not part of the key.
    pub ssh_timeout: Duration,
    /// How long it may take until lines get into it. Not part of the key.
    pub boot_timeout: Duration,
    /// How long all of it may take. Not part of the key.
    pub timeout: Duration,
}

/// A check by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestCheck {
    pub name: String,
    pub question: Question,
    /// Checks that must have passed before.
    pub after: Vec<String>,
    /// How long it may take. Not part of the key.
    pub timeout: Option<Duration>,
}

/// What a check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// The serial console shows this text.
    Console(String),
    /// This systemd target is reached.
    Target(String),
    /// This systemd unit is active.
    Unit(String),
    /// cloud-init ends with this status.
    CloudInit(String),
    /// The guest's agent answers, and tells addresses where they are asked for.
    GuestAgent { addresses: bool },
    /// This line ends with exit code 0.
    Run(String),
    /// This line ends with exit code 0, run over SSH.
    Ssh(String),
    /// From the kernel's start to the end of booting it takes at most so many seconds.
    BootTime(u64),
    /// A server beside the machine was asked this: the beginning of `METHOD PATH`.
    Served(String),
    /// These paths are there.
    Exists(Vec<String>),
    /// These paths are not there, and these packages are not installed: a path begins with `/`.
    Absent(Vec<String>),
    /// The packages are those of a list, which is this input.
    Packages(String),
    /// The files are those of a tree index, which is this input, but for these paths.
    Diff { input: String, allow: Vec<String> },
    /// No secret lies on the disk, but for these paths.
    NoSecrets { allow: Vec<String> },
}

impl Question {
    /// Whether it is decided by reading the disk.
    pub fn needs_no_machine(&self) -> bool {
        match self {
            Question::Console(_)
            | Question::Target(_)
            | Question::Unit(_)
            | Question::CloudInit(_)
            | Question::GuestAgent { .. }
            | Question::Run(_)
            | Question::Ssh(_)
            | Question::BootTime(_)
            | Question::Served(_) => false,
            Question::Exists(_)
            | Question::Absent(_)
            | Question::Packages(_)
            | Question::Diff { .. }
            | Question::NoSecrets { .. } => true,
        }
    }

    /// Whether a line must get into the guest for it, whichever way.
    pub fn needs_a_line(&self) -> bool {
        matches!(
            self,
            Question::Target(_)
                | Question::Unit(_)
                | Question::CloudInit(_)
                | Question::Run(_)
                | Question::BootTime(_)
        )
    }
}

impl Describe for TestSpec {
    fn describe(&self, sink: &mut dyn Sink) {
        let TestSpec { machine, checks } = self;
        field(sink, "machine", machine);
        field(sink, "checks", checks);
    }
}

impl Describe for TestMachine {
    fn describe(&self, sink: &mut dyn Sink) {
        let TestMachine {
            firmware,
            memory,
            cpus,
            disk_size,
            arguments,
            seed,
            network,
            user,
            ssh_timeout: _,
            boot_timeout: _,
            timeout: _,
        } = self;
        field(sink, "firmware", firmware);
        field(sink, "memory", memory);
        field(sink, "cpus", &u32::from(*cpus));
        field(sink, "disk", disk_size);
        field(sink, "arguments", arguments);
        field(sink, "seed", seed);
        field(sink, "network", network);
        field(sink, "user", user);
    }
}

impl Describe for TestFirmware {
    fn describe(&self, sink: &mut dyn Sink) {
        sink.put(match self {
            TestFirmware::Bios => Atom::Variant(0, "bios"),
            TestFirmware::Uefi => Atom::Variant(1, "uefi"),
            TestFirmware::SecureBoot => Atom::Variant(2, "secure-boot"),
            TestFirmware::Kernel => Atom::Variant(3, "kernel"),
        });
    }
}

impl Describe for TestCheck {
    fn describe(&self, sink: &mut dyn Sink) {
        let TestCheck {
            name,
            question,
            after,
            timeout: _,
        } = self;
        field(sink, "name", name);
        field(sink, "check", question);
        field(sink, "after", after);
    }
}

impl Describe for Question {
    fn describe(&self, sink: &mut dyn Sink) {
        match self {
            Question::Console(text) => {
                sink.put(Atom::Variant(0, "console"));
                field(sink, "text", text);
            }
            Question::Target(name) => {
                sink.put(Atom::Variant(1, "target"));
                field(sink, "target", name);
            }
            Question::Unit(name) => {
                sink.put(Atom::Variant(2, "unit"));
                field(sink, "unit", name);
            }
            Question::CloudInit(status) => {
                sink.put(Atom::Variant(3, "cloud_init"));
                field(sink, "status", status);
            }
            Question::GuestAgent { addresses } => {
                sink.put(Atom::Variant(4, "guest_agent"));
                field(sink, "addresses", addresses);
            }
            Question::Run(line) => {
                sink.put(Atom::Variant(5, "run"));
                field(sink, "run", line);
            }
            Question::Ssh(line) => {
                sink.put(Atom::Variant(6, "ssh"));
                field(sink, "run", line);
            }
            Question::BootTime(seconds) => {
                sink.put(Atom::Variant(7, "boot_time"));
                field(sink, "seconds", seconds);
            }
            Question::Exists(paths) => {
                sink.put(Atom::Variant(8, "exists"));
                field(sink, "paths", paths);
            }
            Question::Absent(names) => {
                sink.put(Atom::Variant(9, "absent"));
                field(sink, "names", names);
            }
            Question::Packages(input) => {
                sink.put(Atom::Variant(10, "packages"));
                field(sink, "baseline", input);
            }
            Question::Diff { input, allow } => {
                sink.put(Atom::Variant(11, "diff"));
                field(sink, "baseline", input);
                field(sink, "allow", allow);
            }
            Question::NoSecrets { allow } => {
                sink.put(Atom::Variant(12, "no_secrets"));
                field(sink, "allow", allow);
            }
            Question::Served(request) => {
                sink.put(Atom::Variant(13, "served"));
                field(sink, "request", request);
            }
        }
    }
}
