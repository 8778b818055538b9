//! Checks that ask a machine: it boots, lines get into it, each check has its time, and its end is one too.
//! Knows what checks mean in a guest; knows nothing of where the disk comes from.

use std::path::Path;
use std::time::{Duration, Instant};

use impasto_stages::test_spec::{Question, TestCheck, TestMachine};
use serde_json::{Value, json};

use super::{CheckResult, CheckStatus, SuiteReport};
use crate::base::cancel::CancelToken;
use crate::base::escape::neutralise;
use crate::base::human;
use crate::vm::access::{AccessOffer, GuestAccess, GuestError, LOGIN, Ran};
use crate::vm::agent::ask_agent;
use crate::vm::machine::Machine;
use crate::vm::server::Server;
use crate::vm::ssh::quoted;
use crate::vm::{Spec, VmError};

/// How long a check may take that does not say.
const CHECK_TIMEOUT: Duration = Duration::from_secs(120);
/// How long an agent may take where the guest is up.
const AGENT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long ways in are tried at least, also where other checks took the time to boot.
const ACCESS_TIME: Duration = Duration::from_secs(60);
/// How long a guest may take to switch itself off.
const POWER_OFF: Duration = Duration::from_secs(120);
/// How long a question about a failure may take.
const EVIDENCE: Duration = Duration::from_secs(60);
/// How many lines of the console are kept in the log of a test that was interrupted.
const LAST_LINES: usize = 40;
const TICK: Duration = Duration::from_millis(100);
/// What a line of ours ends with where the guest lacks what would answer.
const UNDECIDED: i32 = 125;
/// The check that each guest has in the end that lets lines in.
pub const POWER_OFF_CHECK: &str = "power-off";

/// What a machine came to.
pub struct MachineTest {
    pub suite: SuiteReport,
    /// The serial console, as lines that are safe to show.
    pub console: Vec<String>,
    /// The screen as it was when the first check failed.
    pub picture: Option<Vec<u8>>,
}

/// A machine that is to be tested.
pub struct TestedMachine {
    pub spec: Spec,
    pub offer: AccessOffer,
    /// What answers it.
    pub servers: Vec<Server>,
}

/// Boots a machine in `work` and makes these checks. `tell` gets a line about what happens.
///
/// # Errors
/// The machine cannot be started, or it was cancelled: [`GuestError::Cancelled`].
pub fn test(
    tested: TestedMachine,
    work: &Path,
    wanted: &TestMachine,
    checks: &[TestCheck],
    cancel: &CancelToken,
    tell: &mut dyn FnMut(String),
) -> Result<MachineTest, GuestError> {
    let TestedMachine {
        spec,
        offer,
        servers,
    } = &tested;
    for check in checks {
        if let Question::Served(request) = &check.question {
            servers.iter().for_each(|server| server.watch(request));
        }
    }
    let machine = Machine::start(spec, work, None)?;
    for check in checks {
        if let Question::Console(text) = &check.question {
            machine.watch(text);
        }
    }
    let start = Instant::now();
    let mut run = TestRun {
        machine,
        wanted,
        offer: offer.clone(),
        servers,
        cancel,
        boot_deadline: start + wanted.boot_timeout,
        deadline: start + wanted.timeout,
        access: None,
        boot_seconds: None,
        gone: None,
        picture: None,
        tell,
    };
    let name = wanted.firmware.name();
    (run.tell)(format!("{name}: booting ({})", spec.accel.name()));
    let mut results = Vec::new();
    for check in checks {
        let result = run.check(check, &results);
        if let Err(GuestError::Cancelled) = result {
            // There is no report; what the machine said until then may be why somebody gave up.
            let lines = run.machine.console_lines();
            for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
                (run.tell)(format!("{name}: console: {line}"));
            }
        }
        let result = result?;
        (run.tell)(format!("{name}: {}", told(&result)));
        results.push(result);
    }
    if let Some(result) = run.power_off(&results)? {
        (run.tell)(format!("{name}: {}", told(&result)));
        results.push(result);
    }
    let console = run.machine.console_lines();
    let suite = SuiteReport {
        name: name.to_owned(),
        machine: None,
        access: run
            .access
            .and_then(Result::ok)
            .map(|access| access.name().to_owned()),
        boot_seconds: run.boot_seconds,
        checks: results,
    };
    let picture = run.picture;
    run.machine.kill()?;
    Ok(MachineTest {
        suite,
        console,
        picture,
    })
}

/// A result as a line of the log.
fn told(result: &CheckResult) -> String {
    let seconds = human::seconds(Duration::from_secs_f64(result.seconds));
    match result.status {
        CheckStatus::Passed => format!("{} passed ({seconds})", result.name),
        CheckStatus::Failed => format!("{} failed ({seconds}): {}", result.name, result.message),
        CheckStatus::Skipped => format!("{} was not made: {}", result.name, result.message),
    }
}

struct TestRun<'t> {
    machine: Machine,
    wanted: &'t TestMachine,
    offer: AccessOffer,
    servers: &'t [Server],
    cancel: &'t CancelToken,
    boot_deadline: Instant,
    deadline: Instant,
    /// How lines get in, once that was tried.
    access: Option<Result<GuestAccess, String>>,
    boot_seconds: Option<f64>,
    /// Why there is no sense in asking the machine any more.
    gone: Option<String>,
    picture: Option<Vec<u8>>,
    tell: &'t mut dyn FnMut(String),
}

/// A check that did not pass, with what the guest wrote.
struct Unmet {
    message: String,
    output: Vec<String>,
}

impl Unmet {
    fn new(message: impl Into<String>) -> Self {
        Unmet {
            message: message.into(),
            output: Vec::new(),
        }
    }
}

/// What ends a check early: that it did not pass, or that all of the test is over.
enum Stop {
    Unmet(Unmet),
    Over(GuestError),
}

impl From<Unmet> for Stop {
    fn from(unmet: Unmet) -> Self {
        Stop::Unmet(unmet)
    }
}

impl TestRun<'_> {
    fn check(
        &mut self,
        check: &TestCheck,
        before: &[CheckResult],
    ) -> Result<CheckResult, GuestError> {
        let begun = Instant::now();
        let missed = check.after.iter().find(|name| {
            let other = before.iter().find(|result| result.name == **name);
            other.is_some_and(|result| result.status != CheckStatus::Passed)
        });
        let result = |status, message: String, output| CheckResult {
            name: check.name.clone(),
            status,
            question: asked(&check.question),
            message,
            output,
            seconds: begun.elapsed().as_secs_f64(),
        };
        if let Some(name) = missed {
            let message = format!("`{name}` did not pass");
            return Ok(result(CheckStatus::Skipped, message, Vec::new()));
        }
        if let Some(reason) = &self.gone {
            return Ok(result(CheckStatus::Skipped, reason.clone(), Vec::new()));
        }
        match self.answer(check) {
            Ok(()) => Ok(result(CheckStatus::Passed, String::new(), Vec::new())),
            Err(Stop::Unmet(unmet)) => {
                self.take_picture();
                Ok(result(CheckStatus::Failed, unmet.message, unmet.output))
            }
            Err(Stop::Over(error)) => Err(error),
        }
    }

    fn answer(&mut self, check: &TestCheck) -> Result<(), Stop> {
        let waits = matches!(
            check.question,
            Question::Target(_) | Question::Console(_) | Question::Served(_)
        );
        let usual = match &check.question {
            _ if waits => self.wanted.boot_timeout.max(CHECK_TIMEOUT),
            Question::Ssh(_) => self.wanted.ssh_timeout,
            // It has until the guest is to be up, or a moment where that is.
            Question::GuestAgent { .. } => AGENT_TIMEOUT,
            _ => CHECK_TIMEOUT,
        };
        let time = check.timeout.unwrap_or(usual);
        // The time of a check begins when the guest can be asked.
        if check.question.needs_a_line() {
            self.enter()?;
        }
        let deadline = self.deadline.min(Instant::now() + time);
        match &check.question {
            Question::Console(text) => self.console(text, deadline),
            Question::Target(name) => self.becomes_active("target", name, deadline),
            Question::Unit(name) => self.becomes_active("unit", name, deadline),
            Question::CloudInit(status) => self.cloud_init(status, deadline),
            Question::GuestAgent { addresses } => self.agent(*addresses, deadline),
            Question::Run(line) => {
                let ran = self.line(line, deadline)?;
                exit_code(ran)
            }
            Question::Ssh(line) => self.ssh(line, deadline),
            Question::BootTime(seconds) => self.boot_time(*seconds, deadline),
            Question::Served(request) => self.served(request, deadline),
            Question::Exists(_)
            | Question::Absent(_)
            | Question::Packages(_)
            | Question::Diff { .. }
            | Question::NoSecrets { .. } => panic!("BUG: this needs no machine"),
        }
    }

    /// Makes of an error in the guest what it means for a check.
    fn unmet(&mut self, error: GuestError) -> Stop {
        match error {
            GuestError::Cancelled => Stop::Over(GuestError::Cancelled),
            GuestError::Vm(error @ VmError::NoProgram { .. }) => Stop::Over(error.into()),
            GuestError::Trouble(_) | GuestError::Ended | GuestError::Vm(_) => {
                let message = error.to_string();
                self.gone = Some(format!("the machine was gone: {message}"));
                Unmet::new(message).into()
            }
            GuestError::TimedOut if Instant::now() >= self.deadline => {
                let time = human::about(self.wanted.timeout);
                self.gone = Some(format!("the machine was stopped after {time}"));
                Unmet::new(format!("the time for all checks was over ({time})")).into()
            }
            GuestError::TimedOut
            | GuestError::NoAccess(_)
            | GuestError::Nonsense { .. }
            | GuestError::Refused { .. } => Unmet::new(error.to_string()).into(),
        }
    }

    fn go_on(&mut self) -> Result<(), Stop> {
        self.machine
            .go_on(self.cancel)
            .map_err(|error| self.unmet(error))
    }

    /// Makes sure that lines get in.
    fn enter(&mut self) -> Result<GuestAccess, Stop> {
        match &self.access {
            Some(Ok(access)) => return Ok(*access),
            Some(Err(reason)) => return Err(Unmet::new(reason.clone()).into()),
            None => {}
        }
        let deadline =
            (self.boot_deadline).max(Instant::now() + ACCESS_TIME.min(self.wanted.boot_timeout));
        let deadline = deadline.min(self.deadline);
        match self
            .machine
            .wait_for_access(&self.offer, deadline, self.cancel)
        {
            Ok(access) => {
                self.access = Some(Ok(access));
                let up = self.machine.uptime();
                self.boot_seconds = Some(up.as_secs_f64());
                let (name, up) = (self.wanted.firmware.name(), human::seconds(up));
                (self.tell)(format!("{name}: {} after {up}", access.name()));
                Ok(access)
            }
            Err(error) => {
                let error = match error {
                    GuestError::NoAccess(reason) => {
                        let time = human::about(self.wanted.boot_timeout);
                        GuestError::NoAccess(format!("{reason} (in {time})"))
                    }
                    other => other,
                };
                self.access = Some(Err(error.to_string()));
                Err(self.unmet(error))
            }
        }
    }

    /// Runs a line in the guest.
    fn line(&mut self, line: &str, deadline: Instant) -> Result<Ran, Stop> {
        let access = self.enter()?;
        let ran = self
            .machine
            .run_line(access, &self.offer, line, deadline, self.cancel);
        ran.map_err(|error| self.unmet(error))
    }

    /// What the guest says to a line, where it says anything: beside a failure.
    fn evidence(&mut self, line: &str) -> Vec<String> {
        if self.gone.is_some() {
            return Vec::new();
        }
        let deadline = Instant::now() + EVIDENCE;
        self.line(line, deadline)
            .map_or(Vec::new(), |ran| ran.output)
    }

    fn console(&mut self, text: &str, deadline: Instant) -> Result<(), Stop> {
        loop {
            if self.machine.saw(text).is_some() {
                return Ok(());
            }
            self.go_on()?;
            if Instant::now() >= deadline {
                let text = neutralise(text.as_bytes());
                return Err(
                    Unmet::new(format!("the console did not show `{text}` in time")).into(),
                );
            }
            std::thread::sleep(TICK);
        }
    }

    fn served(&mut self, request: &str, deadline: Instant) -> Result<(), Stop> {
        loop {
            if self.servers.iter().any(|server| server.saw(request)) {
                return Ok(());
            }
            let ended = self.servers.iter().find_map(Server::ended);
            let message = match ended {
                Some(how) => how,
                None if Instant::now() >= deadline => {
                    let request = neutralise(request.as_bytes());
                    format!("no request `{request}` came in time")
                }
                None => {
                    self.go_on()?;
                    std::thread::sleep(TICK);
                    continue;
                }
            };
            let output = self.servers.iter().flat_map(Server::told).collect();
            return Err(Stop::Unmet(Unmet { message, output }));
        }
    }

    fn becomes_active(&mut self, what: &str, name: &str, deadline: Instant) -> Result<(), Stop> {
        let unit = quoted(name);
        let status = format!("systemctl status --no-pager --full --lines 20 {unit} 2>&1");
        let line = format!(
            "command -v systemctl >/dev/null || {{ echo 'there is no systemd in the guest'; exit {UNDECIDED}; }}
             while :; do
               case $(systemctl is-active {unit} 2>&1) in
                 active) exit 0;;
                 failed) {status}; exit 1;;
               esac
               systemctl cat {unit} >/dev/null 2>&1 || {{ echo 'there is no such unit'; exit 2; }}
               sleep 1
             done"
        );
        match self.line(&line, deadline) {
            Ok(ran) => match ran.code {
                0 => Ok(()),
                1 => Err(Stop::Unmet(Unmet {
                    message: format!("{what} {name} failed"),
                    output: ran.output,
                })),
                2 => Err(Unmet::new(format!("the guest has no {what} {name}")).into()),
                _ => Err(undecided(ran)),
            },
            Err(Stop::Unmet(unmet)) if self.gone.is_none() => {
                let jobs =
                    "systemctl list-jobs --no-pager 2>&1; systemctl --failed --no-pager 2>&1";
                let output = self.evidence(&format!("{status}; {jobs}"));
                Err(Stop::Unmet(Unmet {
                    message: format!("{what} {name} did not become active: {}", unmet.message),
                    output,
                }))
            }
            Err(stop) => Err(stop),
        }
    }

    fn cloud_init(&mut self, wanted: &str, deadline: Instant) -> Result<(), Stop> {
        let status = "cloud-init status --long 2>&1";
        let line = format!(
            "command -v cloud-init >/dev/null || {{ echo 'there is no cloud-init in the guest'; exit {UNDECIDED}; }}
             for unit in cloud-init-local cloud-init cloud-config cloud-final; do
               [ \"$(systemctl is-enabled $unit.service 2>/dev/null)\" != masked ] || {{ echo status: masked; echo \"$unit.service is masked\"; exit 0; }}
             done
             cloud-init status --wait >/dev/null 2>&1; {status}; exit 0"
        );
        let ran = match self.line(&line, deadline) {
            Ok(ran) if ran.code == UNDECIDED => return Err(undecided(ran)),
            Ok(ran) => ran,
            Err(Stop::Unmet(unmet)) if self.gone.is_none() => {
                let units = "systemctl is-enabled cloud-init.service cloud-final.service 2>&1";
                let output = self.evidence(&format!("{status}; {units}"));
                return Err(Stop::Unmet(Unmet {
                    message: format!("cloud-init did not get done: {}", unmet.message),
                    output,
                }));
            }
            Err(stop) => return Err(stop),
        };
        let found = ran
            .output
            .iter()
            .find_map(|line| line.strip_prefix("status: "))
            .unwrap_or("unknown");
        if found == wanted {
            return Ok(());
        }
        Err(Stop::Unmet(Unmet {
            message: format!("cloud-init's status is `{found}`, not `{wanted}`"),
            output: ran.output,
        }))
    }

    fn agent(&mut self, addresses: bool, deadline: Instant) -> Result<(), Stop> {
        let last = deadline.max(self.boot_deadline).min(self.deadline);
        self.machine.watch(LOGIN);
        let question = if addresses {
            json!({"execute": "guest-network-get-interfaces"})
        } else {
            json!({"execute": "guest-ping"})
        };
        let mut answered = false;
        loop {
            self.go_on()?;
            let turn = Duration::from_secs(2);
            let socket = Machine::agent_socket();
            let socket = socket.to_string_lossy();
            if let Ok(answer) = ask_agent(self.machine.dir(), &socket, &question, turn) {
                answered = true;
                if let Some(error) = answer.get("error") {
                    let reason = error["desc"].as_str().unwrap_or("without a reason");
                    let reason = neutralise(reason.as_bytes());
                    return Err(Unmet::new(format!("the guest agent refused: {reason}")).into());
                }
                if !addresses || has_address(&answer["return"]) {
                    return Ok(());
                }
            }
            // Where somebody can log in, the guest is up, and what others ask of it is not to wait for an agent that is none.
            let up = self.machine.saw(LOGIN).map(|login| login + AGENT_TIMEOUT);
            let is_late = up.is_some_and(|up| self.machine.uptime() > up);
            if Instant::now() >= last || is_late && Instant::now() >= deadline {
                return Err(Unmet::new(if answered {
                    "the guest agent told no address of the machine"
                } else {
                    "the guest agent did not answer in time"
                })
                .into());
            }
            std::thread::sleep(TICK);
        }
    }

    fn ssh(&mut self, line: &str, deadline: Instant) -> Result<(), Stop> {
        let Some(ssh) = self.offer.ssh.clone() else {
            let message = "it cannot be decided: the machine has no network, or the image no cloud-init and SSH server";
            return Err(Unmet::new(message).into());
        };
        // The guest is given its time to boot, and then that of the check.
        let time = deadline.saturating_duration_since(Instant::now());
        let deadline = (self.boot_deadline.max(Instant::now()) + time).min(self.deadline);
        let mut last = Vec::new();
        loop {
            let (machine, cancel) = (&mut self.machine, self.cancel);
            let ran = ssh.run_as_user(line, deadline, &mut || machine.go_on(cancel));
            let ran = match ran {
                Err(GuestError::TimedOut) if Instant::now() < self.deadline => {
                    let message = format!(
                        "SSH did not let {} in, or the command did not end, in time",
                        ssh.user
                    );
                    let output = last;
                    return Err(Stop::Unmet(Unmet { message, output }));
                }
                ran => ran.map_err(|error| self.unmet(error))?,
            };
            // OpenSSH's own failure: nobody listens yet, or the key is not there yet.
            if ran.code != 255 {
                return exit_code(ran);
            }
            last = if ran.output.is_empty() {
                last
            } else {
                ran.output
            };
            if Instant::now() >= deadline {
                return Err(Stop::Unmet(Unmet {
                    message: format!(
                        "SSH did not let {} in, with a key that cloud-init was given",
                        ssh.user
                    ),
                    output: last,
                }));
            }
            std::thread::sleep(TICK * 5);
        }
    }

    fn boot_time(&mut self, most: u64, deadline: Instant) -> Result<(), Stop> {
        let line = format!(
            "command -v systemctl >/dev/null || {{ echo 'there is no systemd in the guest'; exit {UNDECIDED}; }}
             systemctl is-system-running --wait >/dev/null 2>&1
             systemctl show --property=FinishTimestampMonotonic --value"
        );
        let ran = self.line(&line, deadline)?;
        let micros = ran
            .output
            .first()
            .and_then(|line| line.trim().parse::<u64>().ok());
        let Some(micros) = micros.filter(|micros| *micros > 0) else {
            return Err(undecided(ran));
        };
        if micros <= most * 1_000_000 {
            return Ok(());
        }
        let slowest = self.evidence("systemd-analyze blame --no-pager 2>&1 | head -n 10");
        Err(Stop::Unmet(Unmet {
            message: format!(
                "booting took {}, at most {most} s are allowed",
                human::seconds(Duration::from_micros(micros))
            ),
            output: slowest,
        }))
    }

    /// Has the guest switch itself off, where all went well and it is one that does.
    fn power_off(&mut self, before: &[CheckResult]) -> Result<Option<CheckResult>, GuestError> {
        let passed = before
            .iter()
            .all(|result| result.status == CheckStatus::Passed);
        let answers = matches!(self.access, Some(Ok(GuestAccess::Agent | GuestAccess::Ssh)));
        if !passed || !answers {
            return Ok(None);
        }
        let begun = Instant::now();
        let off = self.machine.power_off(POWER_OFF, self.cancel);
        if self.cancel.is_cancelled() {
            return Err(GuestError::Cancelled);
        }
        let (status, message) = match off {
            Ok(true) => (CheckStatus::Passed, String::new()),
            Ok(false) => {
                self.take_picture();
                let message = match self.machine.trouble() {
                    Some(trouble) => format!("{}: {}", trouble.what, trouble.line),
                    None => format!(
                        "it did not switch itself off in {}",
                        human::about(POWER_OFF)
                    ),
                };
                (CheckStatus::Failed, message)
            }
            Err(error) => (CheckStatus::Failed, error.to_string()),
        };
        Ok(Some(CheckResult {
            name: POWER_OFF_CHECK.to_owned(),
            status,
            question: "it switches itself off when its power button is pressed".to_owned(),
            message,
            output: Vec::new(),
            seconds: begun.elapsed().as_secs_f64(),
        }))
    }

    /// Keeps the screen as it is at the first failure.
    fn take_picture(&mut self) {
        if self.picture.is_none() {
            self.picture = self.machine.screenshot().ok();
        }
    }
}

/// A question in a few words.
fn asked(question: &Question) -> String {
    let text = match question {
        Question::Console(text) => format!("the console shows `{text}`"),
        Question::Target(name) => format!("{name} is reached"),
        Question::Unit(name) => format!("{name} is active"),
        Question::CloudInit(status) => format!("cloud-init is {status}"),
        Question::GuestAgent { .. } => "the guest agent answers".to_owned(),
        Question::Run(line) => format!("run `{}`", line.lines().next().unwrap_or_default()),
        Question::Ssh(line) => format!("over SSH `{}`", line.lines().next().unwrap_or_default()),
        Question::BootTime(seconds) => format!("it boots in {seconds} s"),
        Question::Served(request) => format!("it asks for `{request}`"),
        _ => String::new(),
    };
    neutralise(text.as_bytes())
}

fn exit_code(ran: Ran) -> Result<(), Stop> {
    match ran.code {
        0 => Ok(()),
        code => Err(Stop::Unmet(Unmet {
            message: format!("it ended with exit code {code}"),
            output: ran.output,
        })),
    }
}

fn undecided(ran: Ran) -> Stop {
    let reason = ran.output.first().cloned().unwrap_or_default();
    Stop::Unmet(Unmet {
        message: format!("it cannot be decided: {reason}"),
        output: ran.output,
    })
}

/// Whether an agent tells an address that others could reach.
fn has_address(interfaces: &Value) -> bool {
    let addresses = interfaces
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|interface| interface["ip-addresses"].as_array())
        .flatten();
    addresses
        .filter_map(|address| address["ip-address"].as_str())
        .filter_map(|address| address.parse::<std::net::IpAddr>().ok())
        .any(|address| match address {
            std::net::IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
            std::net::IpAddr::V6(address) => {
                !address.is_loopback() && !address.is_unicast_link_local()
            }
        })
}
