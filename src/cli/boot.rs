//! `impasto boot`: starts an image in a virtual machine; what that writes is thrown away.
//! Knows which disk is meant and what the user asked for; [`crate::vm`] does the rest.

mod background;
mod inside;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use impasto_stages::parse_duration;
use impasto_store::Store;
use impasto_store::chain::VerifiedChain;
use impasto_store::claim::FileContent;
use impasto_store::layer::LayerRef;

use super::disk_names::{looks_like_image, no_disk, not_built, one_disk};
use super::error::CliError;
use super::session::Session;
use super::{RecipeArgs, exit};
use crate::base::bounded;
use crate::base::cancel::CancelToken;
use crate::base::human;
use crate::disk::packed::{ImageUnpackError, ImageUnpacker};
use crate::engine::plan::PlanState;
use crate::sandbox::SavedTerminal;
use crate::ui;
use crate::vm::machine::{ConsoleMatch, Machine};
use crate::vm::seed::{self, SeedError, SeedFile};
use crate::vm::ssh::{self, SshAccess};
use crate::vm::{
    self, Accel, Backing, Console, Examined, Firmware, MachineDisk, MachineType, Network, Spec,
    VmError,
};

#[derive(Debug, Args)]
#[command(after_help = "\
The image is a built stage or image of a recipe, or a file: `impasto boot FILE`. It is never written to.

On a terminal, Ctrl-A X stops the machine and Ctrl-A H lists more keys.

--run and --ssh get into the guest as `impasto help tests` explains: the image is not changed for them.")]
pub(crate) struct Boot {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// The firmware of the machine [default: bios; uefi for arm64]
    #[arg(long, value_name = "KIND")]
    firmware: Option<FirmwareChoice>,
    /// What the machine is, where an image file does not say [default: that of the stage, else amd64]
    #[arg(long, value_name = "ARCH")]
    arch: Option<ArchChoice>,
    /// UEFI with Secure Boot on, and the usual keys enrolled
    #[arg(long)]
    secure_boot: bool,
    /// How the guest's instructions are executed
    #[arg(long, value_name = "HOW", default_value = "auto")]
    accel: AccelChoice,
    /// Memory of the machine
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_size)]
    memory: u64,
    /// Number of CPUs
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u16).range(1..=255))]
    cpus: u16,
    /// Size of the disk, if larger than the image [default: as large as the image]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    disk_size: Option<u64>,
    /// Lets the owner of this public key log in (by cloud-init)
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    ssh_key: Option<PathBuf>,
    /// The user that the key is for; may become root
    #[arg(
        long,
        value_name = "NAME",
        default_value = "impasto",
        requires = "ssh_key"
    )]
    user: String,
    /// Passes user-data, meta-data, vendor-data and network-config of a directory to cloud-init
    #[arg(long, value_name = "DIR")]
    seed: Option<PathBuf>,
    /// A port of this host to forward to the machine's port 22: a number, or `auto`
    #[arg(long, value_name = "PORT")]
    ssh_port: Option<String>,
    /// What network the machine has
    #[arg(long, value_name = "WHAT", default_value = "user")]
    network: NetworkChoice,
    /// Creates a socket connected to the QEMU guest agent
    #[arg(long, value_name = "SOCKET")]
    guest_agent: Option<PathBuf>,
    /// Stops the machine after this time
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
    /// Stops the machine when its serial console shows this text; exit code 4 if it never does
    #[arg(long, value_name = "TEXT")]
    wait_for: Option<String>,
    /// Runs a command in the guest as root, then stops the machine; its exit code is the command's
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["wait_for", "ssh_key", "seed", "guest_agent"])]
    run: Option<String>,
    /// Logs in by SSH with a key of this boot (by cloud-init), then stops the machine
    #[arg(long, conflicts_with_all = ["run", "wait_for", "ssh_key", "seed"])]
    ssh: bool,
    /// Writes a picture (PNG) of the machine's screen before the machine is stopped
    #[arg(long, value_name = "FILE")]
    screenshot: Option<PathBuf>,
    /// Leaves the machine running, and tells how to stop it
    #[arg(long, conflicts_with_all = ["run", "ssh", "wait_for", "screenshot"])]
    background: bool,
    /// Stops a machine that was left running, by its name if there are several
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "",
          conflicts_with_all = ["names", "background", "run", "ssh", "wait_for"])]
    stop: Option<String>,
    /// The name of this machine, which was started by --background
    #[arg(long, value_name = "NAME", hide = true)]
    as_background: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FirmwareChoice {
    /// SeaBIOS
    Bios,
    /// OVMF
    Uefi,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ArchChoice {
    Amd64,
    Arm64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AccelChoice {
    /// tcg, in this version
    Auto,
    /// The processor: fast, where /dev/kvm works
    Kvm,
    /// QEMU itself: slow, works everywhere
    Tcg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum NetworkChoice {
    /// No network
    None,
    /// Whatever this user can reach
    User,
}

/// A disk to boot.
struct Disk {
    /// How messages call it.
    label: String,
    backing: Backing,
    /// Bytes.
    size: u64,
    machine: MachineType,
    /// What keeps the backing's paths good.
    opened: Opened,
}

/// Files that were checked, and that QEMU opens once more.
#[expect(dead_code, reason = "to be open is all that they are for")]
enum Opened {
    Image(File),
    Chain(VerifiedChain),
}

impl Boot {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let timeout = self.timeout()?;
        let store = session.store()?;
        if let Some(name) = &self.stop {
            return background::stop(&store, name, timeout);
        }
        if self.background {
            return background::start(session, &store);
        }
        let interrupt = session.interrupt.listen();
        // Keeps the collector off the layers until they are open; what it deletes then stays there for the machine.
        let lease = store.lease()?;
        let scratch = store.scratch()?;
        let work = scratch.path();
        let disk = match self.disk(session, &store, (work, &interrupt.token())) {
            Err(CliError::Vm(VmError::Unpack {
                source: ImageUnpackError::Cancelled,
                ..
            })) => return Ok(exit::INTERRUPTED),
            disk => disk?,
        };
        drop(lease);
        let interactive = session.host.stdin_is_terminal
            && self.wait_for.is_none()
            && !self.gets_in()
            && self.as_background.is_none();
        let Disk {
            label,
            backing,
            size,
            machine,
            opened,
        } = disk;
        let (spec, ssh) = self.spec(session, (backing, size, machine), work, interactive)?;
        self.announce(&label, &spec, interactive);

        let cancel = interrupt.token();
        // This thread lives as long as the machine, which gets its death signal.
        let saved = interactive.then(SavedTerminal::new);
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let sink: crate::vm::machine::ConsoleSink = if self.gets_in() {
            // Its output is the command's.
            Box::new(|_| {})
        } else if self.as_background.is_some() {
            background::sink()
        } else {
            Box::new(show)
        };
        let mut machine = Machine::start(&spec, work, Some(sink))?;
        let record = match &self.as_background {
            Some(name) => Some(background::MachineRecord::write(
                &store,
                name,
                &label,
                &machine,
                spec.network,
            )?),
            None => None,
        };
        let ended = if self.gets_in() {
            self.inside(session, &mut machine, ssh, deadline, &cancel)
        } else {
            self.watch(session, &mut machine, deadline, &cancel)
        };
        let picture = self.picture(session, &mut machine);
        machine.kill()?;
        drop((opened, record));
        if let Some(saved) = saved {
            saved.restore();
        }
        // QEMU knows the image by its descriptor only.
        let ended = ended.map_err(|error| match (error, &spec.disk) {
            (CliError::Vm(error), Some(disk)) => CliError::Vm(error.naming(&disk.backing, &label)),
            (error, _) => error,
        })?;
        picture?;
        Ok(ended)
    }

    /// Whether something is to be done in the guest.
    fn gets_in(&self) -> bool {
        self.run.is_some() || self.ssh
    }

    /// Waits for the machine's end, or for what its console is to show: the exit code.
    fn watch(
        &self,
        session: &Session,
        machine: &mut Machine,
        deadline: Option<Instant>,
        cancel: &CancelToken,
    ) -> Result<u8, CliError> {
        let seen = match &self.wait_for {
            Some(text) => machine.wait_for(text, deadline, cancel)?,
            None => machine.wait(deadline, cancel)?,
        };
        let started = session.start.elapsed();
        // A machine that ended by itself tells why when it is waited for.
        if seen == ConsoleMatch::Ended && self.wait_for.is_some() {
            machine.wait(None, cancel)?;
        }
        Ok(match (seen, &self.wait_for) {
            (ConsoleMatch::Cancelled, _) => exit::INTERRUPTED,
            (ConsoleMatch::Text, Some(text)) => {
                ui::message(&format!("`{text}` after {}", human::seconds(started)));
                exit::OK
            }
            (ConsoleMatch::Ended, None) => exit::OK,
            (ConsoleMatch::Ended, Some(text)) => {
                ui::message(&format!(
                    "error: the machine stopped before its console showed `{text}`"
                ));
                exit::STAGE
            }
            (_, Some(text)) => {
                ui::message(&format!(
                    "error: the console did not show `{text}` in {}",
                    self.shown_timeout()
                ));
                exit::STAGE
            }
            (_, None) => {
                ui::message(&format!(
                    "error: the machine was still running after {}",
                    self.shown_timeout()
                ));
                exit::STAGE
            }
        })
    }

    /// Writes the picture that was asked for.
    fn picture(&self, session: &Session, machine: &mut Machine) -> Result<(), CliError> {
        let Some(file) = &self.screenshot else {
            return Ok(());
        };
        if machine.has_ended()? {
            ui::message("warning: the machine has ended: there is no picture of its screen");
            return Ok(());
        }
        let png = machine.screenshot()?;
        std::fs::write(session.host.cwd.join(file), png).map_err(CliError::io("write", file))?;
        ui::message(&format!("the screen: {}", file.display()));
        Ok(())
    }

    fn timeout(&self) -> Result<Option<Duration>, CliError> {
        let Some(text) = &self.timeout else {
            return Ok(None);
        };
        let wrong = || {
            CliError::usage(
                format!("`--timeout {text}` is not a valid time"),
                "write it as 90s, 15m or 1h30m",
            )
        };
        parse_duration(text).map(Some).ok_or_else(wrong)
    }

    fn shown_timeout(&self) -> &str {
        self.timeout.as_deref().unwrap_or_default()
    }

    /// The disk that the arguments name: a file where there is one, else a stage or an image.
    fn disk(
        &self,
        session: &Session,
        store: &Store,
        (work, cancel): (&Path, &CancelToken),
    ) -> Result<Disk, CliError> {
        let [name] = self.recipe.names.as_slice() else {
            return self.stage(session, store);
        };
        let path = session.host.cwd.join(name);
        let name = name.to_string_lossy();
        let is_file = path.exists() && !path.is_dir() && !name.ends_with(".hcl");
        if is_file || looks_like_image(&name) {
            let unpacker = ImageUnpacker {
                dir: work,
                limit: session.unpack_limit()?,
                cancel,
                meter: None,
            };
            let Examined {
                backing,
                size,
                file,
            } = vm::examine(&path, &unpacker)?;
            return Ok(Disk {
                label: name.into_owned(),
                backing,
                size,
                machine: MachineType::default(),
                opened: Opened::Image(file),
            });
        }
        self.stage(session, store)
    }

    fn stage(&self, session: &Session, store: &Store) -> Result<Disk, CliError> {
        let loaded = session.load(&self.recipe)?;
        loaded.state(store).touch(session.host.now());
        let selector = loaded.one_selector()?;
        let id = one_disk(&loaded, selector)?;
        let node = loaded.graph.node(id);
        let mut planner = loaded.planner(store, &[])?;
        let hit = match planner.plan(&[id])?.into_value(id) {
            Some(PlanState::Cached(hit)) => hit,
            _ => {
                return Err(not_built(
                    &node.label,
                    selector,
                    &session.place(&self.recipe),
                ));
            }
        };
        let layer: Option<LayerRef> = match hit.result.disk {
            Some(disk) => Some(disk.layer),
            // A converted file is the same disk in another form.
            None => match hit.result.files.values().next().map(|file| &file.content) {
                Some(FileContent::Derived(derived)) => store.representation(&derived.key.disk)?,
                _ => return Err(no_disk(store, &node.label, &hit.result)?),
            },
        };
        let chain = match layer.map(|layer| store.chain(&layer)) {
            Some(Ok(chain)) => chain,
            Some(Err(impasto_store::Error::Miss(miss))) => {
                ui::message(&format!("warning: {miss}"));
                return Err(not_built(
                    &node.label,
                    selector,
                    &session.place(&self.recipe),
                ));
            }
            Some(Err(error)) => return Err(error.into()),
            None => {
                return Err(not_built(
                    &node.label,
                    selector,
                    &session.place(&self.recipe),
                ));
            }
        };
        let (backing, size) = (Backing::Layers(chain.paths()), chain.disk.virtual_size);
        Ok(Disk {
            label: node.label.clone(),
            backing,
            size,
            machine: MachineType::of(&node.architecture).unwrap_or_default(),
            opened: Opened::Chain(chain),
        })
    }

    fn spec(
        &self,
        session: &Session,
        (backing, size, machine): (Backing, u64, MachineType),
        work: &Path,
        interactive: bool,
    ) -> Result<(Spec, Option<SshAccess>), CliError> {
        let cwd = &session.host.cwd;
        let overlay = vm::overlay(
            work,
            size,
            self.disk_size.map(|size| size.next_multiple_of(512)),
        )?;
        let machine = match self.arch {
            Some(ArchChoice::Amd64) => MachineType::Q35,
            Some(ArchChoice::Arm64) => MachineType::Virt,
            None => machine,
        };
        let firmware = match (self.firmware, self.secure_boot, machine) {
            (Some(FirmwareChoice::Bios), false, _) | (None, false, MachineType::Q35) => {
                Firmware::Bios
            }
            (_, secure, machine) => vm::uefi(work, machine, secure)?,
        };
        let network = self.network()?;
        let (own, ssh) = self.own_key(work, network)?;
        let seed = match self.seed_files(cwd)?.or(own) {
            None => None,
            Some(files) => {
                let path = work.join("seed.img");
                let image = seed::image(&files).map_err(|error| seed_error(error, "the seed"))?;
                std::fs::write(&path, image).map_err(CliError::io("write", &path))?;
                Some(path)
            }
        };
        let guest_agent = match &self.guest_agent {
            Some(socket) => Some(cwd.join(socket)),
            None => self.run.as_ref().map(|_| Machine::agent_socket()),
        };
        if let Some(socket) = guest_agent.as_ref().filter(|_| self.run.is_none())
            && !socket.parent().is_some_and(Path::is_dir)
        {
            return Err(CliError::io("make", socket)(
                rustix::io::Errno::NOENT.into(),
            ));
        }
        let spec = Spec {
            machine,
            accel: match self.accel {
                AccelChoice::Auto | AccelChoice::Tcg => Accel::Tcg,
                AccelChoice::Kvm => Accel::Kvm,
            },
            firmware,
            memory: self.memory,
            cpus: self.cpus,
            disk: Some(MachineDisk { backing, overlay }),
            kernel: None,
            cdrom: None,
            seed,
            files: None,
            network,
            served: Vec::new(),
            guest_agent,
            console: if interactive {
                Console::Terminal
            } else {
                Console::Pipe
            },
            control: true,
        };
        Ok((spec, ssh))
    }

    /// A key of this boot and the files that let it in, where something is to be done in the guest.
    fn own_key(
        &self,
        work: &Path,
        network: Network,
    ) -> Result<(Option<Vec<SeedFile>>, Option<SshAccess>), CliError> {
        let Network::User {
            ssh_port: Some(port),
        } = network
        else {
            return Ok((None, None));
        };
        if !self.gets_in() {
            return Ok((None, None));
        }
        let (key, public) = ssh::make_key(work)?;
        let files = seed::for_keys(&[public], ssh::USER, &instance());
        let user = ssh::USER.to_owned();
        Ok((Some(files), Some(SshAccess { key, port, user })))
    }

    fn network(&self) -> Result<Network, CliError> {
        // Who brings a key wants to log in.
        let wants = self.ssh_key.is_some() || self.gets_in() || self.as_background.is_some();
        let port = self.ssh_port.as_deref().or(wants.then_some("auto"));
        if self.network == NetworkChoice::None {
            if self.ssh {
                return Err(CliError::usage(
                    "a machine without a network cannot be logged into by SSH",
                    "omit --network none",
                ));
            }
            return match &self.ssh_port {
                Some(_) => {
                    let message = "a machine without a network has no SSH port";
                    Err(CliError::usage(
                        message,
                        "omit --ssh-port or --network none",
                    ))
                }
                None => Ok(Network::None),
            };
        }
        let ssh_port = match port {
            None => None,
            Some("auto") => {
                // Free now: another program may take it before QEMU does, which then says so.
                Some(
                    vm::probe::free_port()
                        .map_err(CliError::io("find a free port on", "127.0.0.1"))?,
                )
            }
            Some(text) => match text.parse::<u16>() {
                Ok(port) if port > 0 => Some(port),
                _ => {
                    let message = format!("`--ssh-port {text}` is not a valid port");
                    return Err(CliError::usage(
                        message,
                        "use a number from 1 to 65535, or `auto`",
                    ));
                }
            },
        };
        Ok(Network::User { ssh_port })
    }

    /// The files of the seed, where one was asked for.
    fn seed_files(&self, cwd: &Path) -> Result<Option<Vec<SeedFile>>, CliError> {
        if let Some(key) = &self.ssh_key {
            let path = cwd.join(key);
            let text =
                bounded::read_text(&path, bounded::LINES).map_err(CliError::io("read", key))?;
            let keys = seed::public_keys(&text)
                .map_err(|error| seed_error(error, &format!("`{}`", key.display())))?;
            return Ok(Some(seed::for_keys(&keys, &self.user, &instance())));
        }
        let Some(dir) = &self.seed else {
            return Ok(None);
        };
        let mut files = Vec::new();
        for (index, name) in seed::NAMES.iter().enumerate() {
            let path = cwd.join(dir).join(name);
            match bounded::read(&path, bounded::LINES) {
                Ok(content) => files.push(SeedFile {
                    name: (*name).to_owned(),
                    content,
                }),
                // cloud-init takes no disk for a seed that lacks one of the first two.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && index >= 2 => {}
                Err(error) => return Err(CliError::io("read", dir.join(name))(error)),
            }
        }
        Ok(Some(files))
    }

    fn announce(&self, name: &str, spec: &Spec, interactive: bool) {
        let accel = match (self.accel, spec.accel) {
            (AccelChoice::Auto, accel) => {
                format!("{}: slow; --accel kvm where /dev/kvm works", accel.name())
            }
            (_, accel) => accel.name().to_owned(),
        };
        let mut text = format!("booting {name} ({accel}). Changes to its disk are discarded.");
        if interactive {
            text += "\nThis is its console: Ctrl-A X stops it, Ctrl-A H lists more keys.";
        }
        if let Network::User {
            ssh_port: Some(port),
        } = spec.network
            && !self.gets_in()
        {
            let user = if self.ssh_key.is_some() {
                format!("{}@", self.user)
            } else {
                String::new()
            };
            // Its host key is new at every boot.
            let options = "-o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no";
            text += &format!("\nssh -p {port} {options} {user}127.0.0.1");
        }
        ui::message(&text);
    }
}

fn seed_error(error: SeedError, what: &str) -> CliError {
    let help = match error {
        SeedError::PrivateKey => "use the file beside it whose name ends in .pub",
        SeedError::NoKey { .. } => {
            "use a file written by ssh-keygen, such as ~/.ssh/id_ed25519.pub"
        }
        SeedError::TooLarge { .. } => "make user-data smaller: it can fetch the rest",
    };
    CliError::usage(format!("{what} cannot be used: {error}"), help)
}

/// Shows the serial console as it comes: standard output may be a file, a pipe or a terminal.
fn show(bytes: &[u8]) {
    // Nobody reads it any more; what waits for a text goes on.
    let _ = ui::output_bytes(bytes);
}

/// An instance's id for cloud-init: new at every boot.
fn instance() -> String {
    format!("impasto-{:016x}", random())
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Where the kernel has none yet, the number is no secret and the next one is different all the same.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u64::from_le_bytes(bytes)
}

/// Reads a size as recipes write it, or a number of bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    let bytes = impasto_stages::parse_size(text)
        .or_else(|| text.parse().ok())
        .filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| "write it as 512MiB or 8GiB".to_owned())
}
