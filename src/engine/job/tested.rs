//! Actions that test: a disk is examined, or booted in a machine, and what came of it becomes a report.
//! Knows the store and what a stage of tests is given; [`crate::checks`] asks.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use impasto_stages::action::{Action, Bound, Step};
use impasto_stages::test_spec::{Question, TestCheck, TestFirmware, TestMachine, TestSpec};
use impasto_store::chain::VerifiedChain;
use impasto_store::claim::{FileContent, Isolation, OutputFile, Outputs};
use impasto_store::digest::{BlobDigest, ContentDigest};
use impasto_store::qcow2::ChunkSource;

use super::sandboxed::LogFile;
use super::{Enter, Job, JobError, JobOutput, StageFailure, create};
use crate::base::bounded;
use crate::checks::image::ExaminedDisk;
use crate::checks::machine::{MachineTest, TestedMachine};
use crate::checks::report::TestReport;
use crate::checks::secrets::SearchedFiles;
use crate::checks::{CheckStatus, SuiteReport, image, machine};
use crate::disk::contents::OnDisk;
use crate::disk::tree::{EntryKind, Tree};
use crate::engine::publish::Draft;
use crate::sandbox::server_lacks;
use crate::vm::access::{AccessOffer, GuestError};
use crate::vm::seed::{self, SeedFile};
use crate::vm::server::Server;
use crate::vm::ssh::{self, SshAccess};
use crate::vm::{
    self, Accel, Backing, Console, DirectKernel, Firmware, Machine, MachineDisk, MachineType,
    Network, Spec, VmError,
};

/// The files of a result.
const REPORT: &str = "report.json";
const JUNIT: &str = "report.xml";
const CONSOLE: &str = "console.log";
/// The state file that remembers files without secrets.
const SEARCHED: &str = "searched";
/// What a machine does is the same under both; KVM is not everywhere.
const ACCEL: Accel = Accel::Tcg;
/// The most lines of a console that are shown where a check fails.
const SHOWN: usize = 15;

/// The name under which a machine's console is kept beside the reports.
pub fn console_name(firmware: &str) -> String {
    format!("serial-{firmware}.log")
}

fn picture_name(firmware: &str) -> String {
    format!("screen-{firmware}.png")
}

impl Job {
    pub(super) fn tested(&self, action: &Action<Bound>) -> Result<JobOutput, JobError> {
        match action.steps.as_slice() {
            [Step::Test { spec }] => {
                let TestSpec { machine, checks } = &**spec;
                match machine {
                    None => self.examine(checks),
                    Some(machine) => self.boot_and_ask(action, machine, checks),
                }
            }
            [Step::TestReport { name, parts }] => self.report(name, parts),
            _ => panic!("BUG: a test carries out one step of its own"),
        }
    }

    /// The tree of the disk that is tested.
    fn tested_tree(&self) -> Result<Tree, JobError> {
        let index = self.below.as_ref();
        let tree = index
            .map(|index| Tree::load(&self.store, index))
            .transpose()?;
        tree.flatten().ok_or_else(|| JobError::NoDisk {
            what: format!("what {} tests", self.label),
            reason: "its files cannot be listed".to_owned(),
        })
    }

    /// An input's bytes.
    fn input_bytes(&self, name: &str, scratch: &Path) -> Result<Vec<u8>, JobError> {
        let path = self.input_file(name, scratch)?;
        bounded::read(&path, bounded::TEXT).map_err(JobError::io("read", &path))
    }

    /// An input as a file of our own.
    fn input_file(&self, name: &str, scratch: &Path) -> Result<PathBuf, JobError> {
        let place = self.inputs.iter().position(|(other, _)| other == name);
        let place = place.expect("BUG: a test without its input");
        let path = scratch.join(format!("input-{place}"));
        let mut file = create(&path)?;
        self.lay_out(&self.inputs[place].1, None, &mut file, &path, false)?;
        Ok(path)
    }

    /// Decides what needs no machine.
    fn examine(&self, checks: &[TestCheck]) -> Result<JobOutput, JobError> {
        let (from, disk) = self.disk.expect("BUG: nothing to examine");
        let tree = self.tested_tree()?;
        let scratch = self.store.scratch()?;
        let mut baselines = BTreeMap::new();
        for (name, _) in &self.inputs {
            baselines.insert(name.clone(), self.input_bytes(name, scratch.path())?);
        }
        // It is there, or this job is not to run.
        drop(
            self.store
                .disk_reader(&disk.layer)
                .map_err(Self::missed(from))?,
        );
        let open = || {
            let reader = self
                .store
                .disk_reader(&disk.layer)
                .map_err(io::Error::other)?;
            Ok(Box::new(reader) as Box<dyn ChunkSource>)
        };
        let contents = OnDisk {
            open: &open,
            tree: &tree,
        };
        let searches = checks
            .iter()
            .any(|check| matches!(check.question, Question::NoSecrets { .. }));
        // What cannot be read or written is searched again.
        let memory = [self.context.state.as_str(), SEARCHED];
        let known = searches.then(|| self.store.state_read(&memory).ok().flatten());
        let searched = SearchedFiles::from_bytes(&known.flatten().unwrap_or_default());
        let examined = ExaminedDisk {
            tree: &tree,
            contents: &contents,
            baselines: &baselines,
            searched: &searched,
        };
        let suite = self.phase("examine the disk", || image::examine(&examined, checks));
        let suite = suite.map_err(|error| JobError::NoDisk {
            what: format!("what {} tests", self.label),
            reason: error.to_string(),
        })?;
        if let Some(bytes) = searched.into_bytes() {
            let _ = self.store.state_write(&memory, &bytes);
        }
        let mut log = LogFile::create(self, &[]);
        for check in &suite.checks {
            let word = match check.status {
                CheckStatus::Passed => "passed".to_owned(),
                CheckStatus::Failed => format!("failed: {}", check.message),
                CheckStatus::Skipped => format!("was not made: {}", check.message),
            };
            log.bytes(format!("image: {} {word}\n", check.name).as_bytes());
        }
        log.finish();
        self.conclude(MachineTest {
            suite,
            console: Vec::new(),
            picture: None,
        })
    }

    /// Boots a machine and makes the checks that ask it.
    fn boot_and_ask(
        &self,
        action: &Action<Bound>,
        wanted: &TestMachine,
        checks: &[TestCheck],
    ) -> Result<JobOutput, JobError> {
        let cancel = &self.context.cancel;
        let scratch = self.store.scratch()?;
        let setup = self.phase("make the machine", || {
            self.machine_setup(action, wanted, checks, scratch.path())
        })?;
        let permit = self.phase("wait for memory", || {
            self.context.machines.enter(wanted.memory, cancel)
        });
        let Some(permit) = permit else {
            return Err(JobError::Cancelled);
        };
        // A picture of an earlier failure tells nothing of this run.
        let _ = std::fs::remove_file(
            self.evidence_dir()
                .join(picture_name(wanted.firmware.name())),
        );
        let mut log = LogFile::create(self, &[]);
        let tested = self.phase(&format!("boot ({})", wanted.firmware.name()), || {
            machine::test(
                setup.tested,
                scratch.path(),
                wanted,
                checks,
                cancel,
                &mut |line| log.bytes(format!("{line}\n").as_bytes()),
            )
        });
        log.finish();
        drop(permit);
        let mut tested = tested.map_err(|error| match error {
            GuestError::Cancelled => JobError::Cancelled,
            GuestError::Vm(error) => JobError::Vm(error),
            other => JobError::Bug {
                message: other.to_string(),
            },
        })?;
        let qemu = vm::probe::version().unwrap_or_else(|| vm::QEMU.to_owned());
        tested.suite.machine = Some(format!("{qemu}, {}", ACCEL.name()));
        let mut made = self.conclude(tested)?;
        made.facts = BTreeMap::from([("qemu".to_owned(), qemu)]);
        Ok(made)
    }

    /// Keeps a report that all checks passed; or what is needed to see why not.
    fn conclude(&self, tested: MachineTest) -> Result<JobOutput, JobError> {
        if !tested.suite.passed() {
            return Err(self.test_failure(tested));
        }
        let report = TestReport {
            name: String::new(),
            suites: vec![tested.suite],
        };
        self.keep_files([
            (REPORT.to_owned(), report.json().into_bytes()),
            (CONSOLE.to_owned(), text(&tested.console)),
        ])
    }

    fn keep_files(
        &self,
        files: impl IntoIterator<Item = (String, Vec<u8>)>,
    ) -> Result<JobOutput, JobError> {
        let mut result = Outputs::default();
        let mut bytes = 0;
        for (name, content) in files {
            let blob = self.store.put_blob(content.as_slice())?;
            bytes += blob.size;
            let content = FileContent::Blob(blob);
            let mode = 0o644;
            result.files.insert(name, OutputFile { content, mode });
        }
        Ok(JobOutput {
            sandbox: "machine".to_owned(),
            isolation: Isolation::Vm,
            ..JobOutput::on_host(result, bytes)
        })
    }

    /// Makes one report of those of all units.
    fn report(&self, name: &str, parts: &[String]) -> Result<JobOutput, JobError> {
        let scratch = self.store.scratch()?;
        let mut report = TestReport {
            name: name.to_owned(),
            suites: Vec::new(),
        };
        let mut files = Vec::new();
        for part in parts {
            let bytes = self.input_bytes(&format!("{part}/{REPORT}"), scratch.path())?;
            let suites = serde_json::from_slice::<TestReport>(&bytes);
            let suites = suites.map_err(|error| JobError::Bug {
                message: format!("a report of ours cannot be read: {error}"),
            })?;
            report.suites.extend(suites.suites);
            let console = self.input_bytes(&format!("{part}/{CONSOLE}"), scratch.path())?;
            if part != "image" {
                files.push((console_name(part), console));
            }
        }
        files.push((REPORT.to_owned(), report.json().into_bytes()));
        files.push((JUNIT.to_owned(), report.junit().into_bytes()));
        self.keep_files(files)
    }

    /// A test that failed: its report, console and picture are left where the user finds them.
    fn test_failure(&self, tested: MachineTest) -> JobError {
        let MachineTest {
            suite,
            console,
            picture,
        } = tested;
        let failed = suite
            .checks
            .iter()
            .find(|check| check.status == CheckStatus::Failed);
        let mut last_lines = failed.map_or(Vec::new(), |check| check.output.clone());
        let shown: Vec<_> = console
            .iter()
            .filter(|line| !line.trim().is_empty())
            .collect();
        if !shown.is_empty() {
            last_lines.push("the console's last lines:".to_owned());
            let last = &shown[shown.len().saturating_sub(SHOWN)..];
            last_lines.extend(last.iter().map(|line| (*line).clone()));
        }
        let message = suite.failure();
        let help = match self.leave_evidence(suite, &console, picture.as_deref()) {
            Ok(dir) if console.is_empty() => format!("the report is in {dir}"),
            Ok(dir) if picture.is_none() => format!("the report and the console are in {dir}"),
            Ok(dir) => format!("the report, the console and a picture of the screen are in {dir}"),
            Err(error) => format!("the report cannot be written: {error}"),
        };
        JobError::Stage(Box::new(StageFailure {
            message,
            help: Some(help),
            last_lines,
            shell: Enter::Never,
            ..StageFailure::default()
        }))
    }

    /// Writes what is needed to see why a test failed: how messages call the directory.
    fn leave_evidence(
        &self,
        suite: SuiteReport,
        console: &[String],
        picture: Option<&[u8]>,
    ) -> io::Result<String> {
        let dir = self.evidence_dir();
        let firmware = suite.name.clone();
        let (mut suites, mut consoles) = (Vec::new(), Vec::new());
        // Those that passed before it; what is not in the store any more is left out.
        for outputs in &self.earlier {
            let report = self.output(outputs, REPORT).unwrap_or_default();
            let Ok(report) = serde_json::from_slice::<TestReport>(&report) else {
                continue;
            };
            let console = self.output(outputs, CONSOLE).unwrap_or_default();
            consoles.extend(
                report
                    .suites
                    .iter()
                    .map(|suite| (suite.name.clone(), console.clone())),
            );
            suites.extend(report.suites);
        }
        suites.push(suite);
        let report = TestReport {
            name: self.label.clone(),
            suites,
        };
        let put = |file: &str, bytes: &[u8]| {
            let draft = Draft::new(&dir.join(file), self.store.owner())?;
            draft.file().write_all(bytes)?;
            draft.place(0o644)
        };
        put(REPORT, report.json().as_bytes())?;
        put(JUNIT, report.junit().as_bytes())?;
        for (name, console) in consoles.iter().filter(|(_, text)| !text.is_empty()) {
            put(&console_name(name), console)?;
        }
        if !console.is_empty() {
            put(&console_name(&firmware), &text(console))?;
        }
        if let Some(picture) = picture {
            put(&picture_name(&firmware), picture)?;
        }
        let name = self.label.replace('/', "_");
        Ok(format!("{}{name}", self.context.reports.1))
    }

    /// A file that an earlier unit made.
    fn output(&self, outputs: &Outputs, name: &str) -> Option<Vec<u8>> {
        let FileContent::Blob(blob) = &outputs.files.get(name)?.content else {
            return None;
        };
        let reader = self.store.open_blob(&blob.digest).ok()?;
        reader.into_bytes().ok()
    }

    /// Where the reports of a test go that failed: where they go when it passes.
    fn evidence_dir(&self) -> PathBuf {
        self.context.reports.0.join(self.label.replace('/', "_"))
    }
}

fn text(lines: &[String]) -> Vec<u8> {
    let mut text = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    text.into_bytes()
}

/// A machine that is ready to be started.
struct MachineSetup {
    tested: TestedMachine,
    /// What keeps the paths of layers good.
    #[expect(dead_code, reason = "to be open is all that it is for")]
    chain: Option<VerifiedChain>,
}

impl Job {
    fn machine_setup(
        &self,
        action: &Action<Bound>,
        wanted: &TestMachine,
        checks: &[TestCheck],
        work: &Path,
    ) -> Result<MachineSetup, JobError> {
        let (mut disk, mut chain, mut tree) = (None, None, None);
        if let Some((from, parent)) = self.disk {
            let layers = self
                .store
                .chain(&parent.layer)
                .map_err(Self::missed(from))?;
            let size = parent.virtual_size;
            disk = Some(MachineDisk {
                backing: Backing::Layers(layers.paths()),
                overlay: self.test_overlay(work, size, wanted.disk_size)?,
            });
            chain = Some(layers);
            tree = Some(self.tested_tree()?);
        }
        let architecture = action.hints.architecture.as_deref();
        let machine = architecture.and_then(MachineType::of).unwrap_or_default();
        let firmware = match wanted.firmware {
            TestFirmware::Bios | TestFirmware::Kernel => Firmware::Bios,
            TestFirmware::Uefi => vm::uefi(work, machine, false)?,
            TestFirmware::SecureBoot => vm::uefi(work, machine, true)?,
        };
        if let Firmware::Uefi { code, vars, .. } = &firmware {
            check_firmware(action, "code", code)?;
            check_firmware(action, "variables", vars)?;
        }
        let has = |name: &str| self.inputs.iter().any(|(input, _)| input == name);
        let file = |name: &str| -> Result<Option<PathBuf>, JobError> {
            has(name).then(|| self.input_file(name, work)).transpose()
        };
        let kernel = match file("kernel")? {
            None => None,
            Some(kernel) => Some(DirectKernel {
                kernel,
                initramfs: file("initramfs")?,
                arguments: wanted.arguments.clone(),
            }),
        };
        let guest = GuestTraits::of(tree.as_ref());
        let (seed, ssh) = self.test_seed(wanted, checks, &guest, work)?;
        let network = match (&ssh, wanted.network) {
            (Some(ssh), _) => Network::Isolated { ssh_port: ssh.port },
            (None, true) => Network::Isolated {
                ssh_port: free_port()?,
            },
            (None, false) => Network::None,
        };
        // What is in an initramfs or on a CD is not known.
        let is_unknown = kernel.is_some() || tree.is_none();
        let offer = AccessOffer {
            agent: guest.agent || is_unknown,
            console: is_unknown || !guest.agent && ssh.is_none(),
            ssh,
        };
        let servers = self.servers(work)?;
        let spec = Spec {
            machine,
            accel: ACCEL,
            firmware,
            memory: wanted.memory,
            cpus: wanted.cpus,
            disk,
            kernel,
            cdrom: file("iso")?,
            seed,
            files: self.test_files(work)?,
            network,
            served: servers.iter().map(Server::served).collect(),
            guest_agent: Some(Machine::agent_socket()),
            console: Console::Pipe,
            control: true,
        };
        let tested = TestedMachine {
            spec,
            offer,
            servers,
        };
        Ok(MachineSetup { tested, chain })
    }

    fn test_overlay(
        &self,
        work: &Path,
        size: u64,
        wanted: Option<u64>,
    ) -> Result<PathBuf, JobError> {
        vm::overlay(work, size, wanted).map_err(|error| match error {
            VmError::TooSmall { .. } => JobError::Stage(Box::new(StageFailure {
                message: error.to_string(),
                help: Some("make `disk` larger in the stage, or omit it".to_owned()),
                ..StageFailure::default()
            })),
            other => JobError::Vm(other),
        })
    }

    /// The seed for cloud-init, and the way in that it opens: where the guest has what takes it.
    fn test_seed(
        &self,
        wanted: &TestMachine,
        checks: &[TestCheck],
        guest: &GuestTraits,
        work: &Path,
    ) -> Result<(Option<PathBuf>, Option<SshAccess>), JobError> {
        let mut files: BTreeMap<String, Vec<u8>> = wanted
            .seed
            .iter()
            .map(|(name, text)| (name.clone(), text.clone().into_bytes()))
            .collect();
        if !guest.cloud_init && files.is_empty() {
            return Ok((None, None));
        }
        let asks_ssh = checks
            .iter()
            .any(|check| matches!(check.question, Question::Ssh(_)));
        let mut access = None;
        let may_log_in = guest.cloud_init && guest.ssh && wanted.network;
        let mut own = seed::for_keys(&[], &wanted.user, "impasto-test");
        let key = may_log_in.then(|| ssh::make_key(work)).transpose();
        let key = match key {
            // An agent gets lines in without OpenSSH too.
            Err(VmError::NoProgram { .. }) if guest.agent && !asks_ssh => None,
            other => other?,
        };
        if let Some((key, public)) = key {
            own = seed::for_keys(&[public], &wanted.user, "impasto-test");
            access = Some(SshAccess {
                key,
                port: free_port()?,
                user: wanted.user.clone(),
            });
        }
        for SeedFile { name, content } in own {
            // What the recipe says comes first; cloud-init adds a vendor's data to it.
            let name = match name.as_str() {
                "user-data" if files.contains_key("user-data") => "vendor-data".to_owned(),
                _ => name,
            };
            if name != "vendor-data" || access.is_some() {
                files.entry(name).or_insert(content);
            }
        }
        let files: Vec<_> = files
            .into_iter()
            .map(|(name, content)| SeedFile { name, content })
            .collect();
        let path = work.join("seed.img");
        let bytes = seed::image(&files).map_err(|error| too_large("the seed", &error))?;
        std::fs::write(&path, bytes).map_err(JobError::io("write", &path))?;
        Ok((Some(path), access))
    }

    /// Starts what answers the machine.
    fn servers(&self, work: &Path) -> Result<Vec<Server>, JobError> {
        let mut servers = Vec::new();
        for (input, _) in &self.inputs {
            let Some(port) = input.strip_prefix("serve/") else {
                continue;
            };
            let path = self.input_file(input, work)?;
            let program = bounded::read(&path, bounded::TEXT);
            let program = program.map_err(JobError::io("read", &path))?;
            if let Some(reason) = server_lacks(&program) {
                return Err(JobError::Stage(Box::new(StageFailure {
                    message: format!("the server for port {port} cannot be started: {reason}"),
                    help: Some(
                        "write it for an interpreter that this host has, or install that"
                            .to_owned(),
                    ),
                    ..StageFailure::default()
                })));
            }
            let port = port.parse().expect("BUG: a port that is no number");
            servers.push(Server::start(work, port, &path)?);
        }
        Ok(servers)
    }

    /// The disk with files for the checks.
    fn test_files(&self, work: &Path) -> Result<Option<PathBuf>, JobError> {
        let mut files = Vec::new();
        for (input, _) in &self.inputs {
            let Some(name) = input.strip_prefix("files/") else {
                continue;
            };
            files.push(SeedFile {
                name: name.to_owned(),
                content: self.input_bytes(input, work)?,
            });
        }
        if files.is_empty() {
            return Ok(None);
        }
        let path = work.join("files.img");
        let bytes = seed::files_image(&files).map_err(|error| too_large("`files`", &error))?;
        std::fs::write(&path, bytes).map_err(JobError::io("write", &path))?;
        Ok(Some(path))
    }
}

/// Makes sure that a file of the firmware is the one of the key: the host's may have changed since.
fn check_firmware(action: &Action<Bound>, part: &str, path: &Path) -> Result<(), JobError> {
    let bytes = bounded::read(path, bounded::TEXT).map_err(JobError::io("read", path))?;
    let bound = action.inputs.get(&format!("firmware/{part}"));
    let bound = bound.expect("BUG: firmware that is not in the key");
    if bound.content == ContentDigest::Blob(BlobDigest::of(&bytes)) {
        return Ok(());
    }
    let path = path.to_owned();
    Err(JobError::Changed { path })
}

fn too_large(what: &str, error: &seed::SeedError) -> JobError {
    JobError::Stage(Box::new(StageFailure {
        message: format!("{what} cannot be put on a disk: {error}"),
        ..StageFailure::default()
    }))
}

fn free_port() -> Result<u16, JobError> {
    vm::probe::free_port().map_err(JobError::io("find a free port on", Path::new("127.0.0.1")))
}

/// What a guest has that lets lines in.
#[derive(Debug, Default)]
struct GuestTraits {
    agent: bool,
    cloud_init: bool,
    ssh: bool,
}

impl GuestTraits {
    fn of(tree: Option<&Tree>) -> Self {
        let has = |paths: &[&str]| {
            tree.is_some_and(|tree| {
                tree.volumes.iter().any(|volume| {
                    paths.iter().any(|path| {
                        volume
                            .find(path.as_bytes())
                            .is_some_and(|entry| !matches!(entry.kind, EntryKind::Dir))
                    })
                })
            })
        };
        GuestTraits {
            agent: has(&["/usr/sbin/qemu-ga", "/usr/bin/qemu-ga"]),
            cloud_init: has(&["/usr/bin/cloud-init"]),
            ssh: has(&["/usr/sbin/sshd"]),
        }
    }
}
