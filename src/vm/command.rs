//! QEMU's command line as a pure function of what the machine is made of.
//! Knows QEMU's options; opens no file and starts nothing.

use std::path::{Path, PathBuf};

use impasto_store::formats::ImageFormat;
use serde_json::{Value, json};

use super::VmError;

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// The processor, through the kernel.
    Kvm,
    /// QEMU itself: slow, and works everywhere.
    Tcg,
}

impl Accel {
    /// Its name, for QEMU and for people.
    pub fn name(self) -> &'static str {
        match self {
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        }
    }
}

/// Which machine QEMU is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MachineType {
    /// A PC: amd64.
    #[default]
    Q35,
    /// QEMU's own machine for arm64, which has no BIOS.
    Virt,
}

impl MachineType {
    /// The one that runs programs of an architecture, by its name in Debian; none where there is none.
    pub fn of(architecture: &str) -> Option<MachineType> {
        match architecture {
            "amd64" => Some(MachineType::Q35),
            "arm64" => Some(MachineType::Virt),
            _ => None,
        }
    }

    /// The program that is it, and Debian's package that has this.
    pub fn program(self) -> (&'static str, &'static str) {
        match self {
            MachineType::Q35 => (super::QEMU, "qemu-system-x86"),
            MachineType::Virt => ("qemu-system-aarch64", "qemu-system-arm"),
        }
    }
}

/// What starts the boot loader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS, which comes with QEMU.
    Bios,
    Uefi {
        /// The firmware, shared and read-only.
        code: PathBuf,
        /// Its variables: a file of this machine's own.
        vars: PathBuf,
        /// Whether Secure Boot is on.
        secure: bool,
    },
}

/// What lies below the overlay; never written. Its paths are those of open files that were checked
/// ([`impasto_store::chain::open_file_path`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// Verified layer files of the store, the bottom first.
    Layers(Vec<PathBuf>),
    /// One qcow2 file without backing file, which has passed the gate.
    Qcow2(PathBuf),
    /// One file of another machine's program, which has passed its gate.
    Foreign(ImageFormat, PathBuf),
    /// One file that is the disk, byte by byte.
    Raw(PathBuf),
}

/// What the guest reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Nothing: the machine has no network card.
    None,
    /// What this user reaches; from outside only `ssh_port` of 127.0.0.1 leads in, to port 22.
    User {
        /// The port on this host.
        ssh_port: Option<u16>,
    },
    /// Nothing, not even this host; it gets an address all the same, and this port of 127.0.0.1 leads to its port 22.
    Isolated { ssh_port: u16 },
}

/// The address under which a guest reaches what is served to it: that of the host in other machines of QEMU.
const SERVER: &str = "10.0.2.2";
/// Where the host is instead.
const HOST: &str = "10.0.2.1";

/// A port that a guest reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedPort {
    pub port: u16,
    /// What QEMU starts for each connection, with that as standard input and output. Words are separated by blanks.
    pub relay: String,
}

/// A disk that the guest may write: all of it goes into a throwaway overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineDisk {
    /// What lies below the overlay.
    pub backing: Backing,
    /// A qcow2 without backing field that takes all writes.
    pub overlay: PathBuf,
}

/// A kernel that is started without a boot loader. Its paths are those of open files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectKernel {
    pub kernel: PathBuf,
    pub initramfs: Option<PathBuf>,
    /// The kernel's command line.
    pub arguments: String,
}

/// Where the serial console is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Console {
    /// On this process's terminal, with QEMU's monitor behind Ctrl-A C.
    Terminal,
    /// On pipes to impasto, and no monitor.
    Pipe,
}

/// What a machine is made of. All paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub machine: MachineType,
    /// What executes its instructions.
    pub accel: Accel,
    /// What starts the boot loader.
    pub firmware: Firmware,
    /// Bytes of memory, rounded up to MiB.
    pub memory: u64,
    pub cpus: u16,
    /// What it boots, but for a kernel without boot loader.
    pub disk: Option<MachineDisk>,
    pub kernel: Option<DirectKernel>,
    /// A CD that is in its drive; booted where there is no disk.
    pub cdrom: Option<PathBuf>,
    /// A raw disk for cloud-init.
    pub seed: Option<PathBuf>,
    /// A raw disk that holds files for the guest, with the serial number `impasto-files`.
    pub files: Option<PathBuf>,
    /// What the guest reaches.
    pub network: Network,
    /// Programs that answer it under 10.0.2.2; it must have a network.
    pub served: Vec<ServedPort>,
    /// A socket that QEMU makes for the guest's agent.
    pub guest_agent: Option<PathBuf>,
    /// Where the serial console is.
    pub console: Console,
    /// Whether QEMU makes a socket for its control protocol in its working directory: pictures and power need it.
    pub control: bool,
}

/// QEMU's arguments.
///
/// Every block node names its driver, the bottom has no backing, and only the overlay can be written: nothing is probed,
/// and no path inside an image means anything.
///
/// # Errors
/// A path is not UTF-8.
pub fn arguments(spec: &Spec) -> Result<Vec<String>, VmError> {
    let Spec {
        machine: machine_type,
        accel,
        firmware,
        memory,
        cpus,
        disk,
        kernel,
        cdrom,
        seed,
        files,
        network,
        served,
        guest_agent,
        console,
        control,
    } = spec;
    let mut line = CommandLine::default();
    line.flag("-nodefaults").flag("-no-user-config");
    line.add("-sandbox", &filter(served));
    let name = match machine_type {
        MachineType::Q35 => "q35",
        MachineType::Virt => "virt",
    };
    let mut machine = format!("{name},accel={}", accel.name());
    if let Firmware::Uefi { code, vars, secure } = firmware {
        line.node(&json!({"driver": "raw", "node-name": "uefi-code", "read-only": true, "file": file(code, true)?}));
        line.node(&json!({"driver": "raw", "node-name": "uefi-vars", "file": file(vars, false)?}));
        machine += ",pflash0=uefi-code,pflash1=uefi-vars";
        if *secure && *machine_type == MachineType::Q35 {
            // Only firmware in system management mode may write the variables; it does not survive S3.
            machine += ",smm=on";
            line.add("-global", "driver=cfi.pflash01,property=secure,value=on");
            line.add("-global", "ICH9-LPC.disable_s3=1");
        }
    }
    let cpu = match machine_type {
        MachineType::Q35 => "max",
        // Emulated, signed pointers are most of the work.
        MachineType::Virt => "max,pauth-impdef=on",
    };
    line.add("-machine", &machine).add("-cpu", cpu);
    line.add("-smp", &cpus.to_string())
        .add("-m", &format!("size={}M", memory.div_ceil(1 << 20)));
    // A screen that nobody looks at but for pictures. Without a card for it Debian's default GRUB hangs.
    let card = match machine_type {
        MachineType::Q35 => "VGA",
        MachineType::Virt => "virtio-gpu-pci",
    };
    line.add("-display", "none").add("-device", card);
    line.add("-boot", "strict=on");
    line.add("-object", "rng-random,id=random,filename=/dev/urandom")
        .add("-device", "virtio-rng-pci,rng=random");

    disks(&mut line, *machine_type, disk.as_ref(), cdrom.as_deref())?;
    if let Some(seed) = seed {
        line.node(&json!({"driver": "raw", "node-name": "seed", "read-only": true, "file": file(seed, true)?}));
        line.add("-device", "virtio-blk-pci,drive=seed");
    }
    if let Some(files) = files {
        line.node(&json!({"driver": "raw", "node-name": "files", "read-only": true, "file": file(files, true)?}));
        line.add("-device", "virtio-blk-pci,drive=files,serial=impasto-files");
    }
    if let Some(direct) = kernel {
        line.add("-kernel", text(&direct.kernel)?);
        if let Some(initramfs) = &direct.initramfs {
            line.add("-initrd", text(initramfs)?);
        }
        line.add("-append", &direct.arguments);
    }
    network_card(&mut line, *network, served);
    if let Some(socket) = guest_agent {
        line.add(
            "-chardev",
            &format!(
                "socket,id=agent,path={},server=on,wait=off",
                escaped(socket)?
            ),
        );
        line.add("-device", "virtio-serial-pci");
        line.add(
            "-device",
            "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
        );
    }
    match console {
        Console::Terminal => {
            // What `-serial mon:stdio` means, in full.
            line.add("-chardev", "stdio,id=console,mux=on,signal=off");
            line.add("-serial", "chardev:console")
                .add("-mon", "chardev=console,mode=readline");
        }
        Console::Pipe => {
            line.add("-chardev", "stdio,id=console,signal=off")
                .add("-serial", "chardev:console");
        }
    }
    if *control {
        let name = super::qmp::SOCKET;
        line.add(
            "-chardev",
            &format!("socket,id=control,path={name},server=on,wait=off"),
        );
        line.add("-mon", "chardev=control,mode=control");
    }
    Ok(line.0)
}

/// Which system calls QEMU may make: a guest that takes it over must not start programs or gain rights.
fn filter(served: &[ServedPort]) -> String {
    // Relays are programs that QEMU starts, which begin with setsid(2): all values but `allow` end them there. The filter
    // itself keeps them from gaining rights by a program (no_new_privs).
    let relays = if served.is_empty() { "deny" } else { "allow" };
    format!("on,obsolete=deny,elevateprivileges={relays},spawn={relays},resourcecontrol=deny")
}

/// Adds what the machine boots.
fn disks(
    line: &mut CommandLine,
    machine: MachineType,
    disk: Option<&MachineDisk>,
    cdrom: Option<&Path>,
) -> Result<(), VmError> {
    if let Some(MachineDisk { backing, overlay }) = disk {
        let below = below(line, backing)?;
        line.node(&json!({
            "driver": "qcow2", "node-name": "overlay", "backing": below, "discard": "unmap",
            // It is thrown away in the end, so nothing in it needs to be durable.
            "cache": {"direct": false, "no-flush": true},
            "file": {"driver": "file", "filename": text(overlay)?, "cache": {"direct": false, "no-flush": true}},
        }));
        // The default for a full disk pauses the guest, which looks like a hang. A kernel of its own is 0.
        line.add(
            "-device",
            "virtio-blk-pci,drive=overlay,bootindex=1,rerror=report,werror=report",
        );
    }
    if let Some(cdrom) = cdrom {
        line.node(&json!({"driver": "raw", "node-name": "cd", "read-only": true, "file": file(cdrom, true)?}));
        match machine {
            MachineType::Q35 => line.add("-device", "ide-cd,drive=cd,bootindex=2"),
            MachineType::Virt => line
                .add("-device", "virtio-scsi-pci")
                .add("-device", "scsi-cd,drive=cd,bootindex=2"),
        };
    }
    Ok(())
}

/// Adds a network card, where there is a network.
fn network_card(line: &mut CommandLine, network: Network, served: &[ServedPort]) {
    let mut netdev = match network {
        Network::None => return,
        Network::User { ssh_port } => {
            let forward = ssh_port.map_or(String::new(), |port| {
                format!(",hostfwd=tcp:127.0.0.1:{port}-:22")
            });
            format!("user,id=net{forward}")
        }
        Network::Isolated { ssh_port } => {
            format!("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{ssh_port}-:22")
        }
    };
    if !served.is_empty() {
        netdev += &format!(",host={HOST}");
    }
    for ServedPort { port, relay } in served {
        let relay = relay.replace(',', ",,");
        netdev += &format!(",guestfwd=tcp:{SERVER}:{port}-cmd:{relay}");
    }
    line.add("-netdev", &netdev);
    // Without its ROM it does not try to boot from the network.
    line.add("-device", "virtio-net-pci,netdev=net,romfile=");
}

/// Adds the nodes below the overlay, the bottom first, and gives the name of the top one.
fn below(line: &mut CommandLine, backing: &Backing) -> Result<Value, VmError> {
    // Somebody else who writes the image is noticed by QEMU's locks; layers never change, and locks can block for ever
    // on a network file system.
    match backing {
        Backing::Raw(path) => {
            line.node(&json!({"driver": "raw", "node-name": "image", "read-only": true, "file": file(path, true)?}));
            Ok(json!("image"))
        }
        Backing::Qcow2(path) => {
            line.node(&json!({
                "driver": "qcow2", "node-name": "image", "read-only": true, "backing": null, "file": file(path, true)?,
            }));
            Ok(json!("image"))
        }
        Backing::Foreign(format, path) => {
            let driver = match format {
                ImageFormat::Vmdk => "vmdk",
                ImageFormat::Vhd => "vpc",
                ImageFormat::Vhdx => "vhdx",
                ImageFormat::Vdi => "vdi",
            };
            let mut node = json!({"driver": driver, "node-name": "image", "read-only": true, "file": file(path, true)?});
            if *format == ImageFormat::Vmdk {
                // The one of these drivers that would open another file.
                node["backing"] = Value::Null;
            }
            line.node(&node);
            Ok(json!("image"))
        }
        Backing::Layers(paths) => {
            let mut below = Value::Null;
            for (index, path) in paths.iter().enumerate() {
                let name = format!("layer{index}");
                let mut file = file(path, true)?;
                file["locking"] = json!("off");
                line.node(&json!({
                    "driver": "qcow2", "node-name": name, "read-only": true, "backing": below, "file": file,
                }));
                below = json!(name);
            }
            Ok(below)
        }
    }
}

/// The arguments so far.
#[derive(Default)]
struct CommandLine(Vec<String>);

impl CommandLine {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.0.push(flag.to_owned());
        self
    }

    fn add(&mut self, option: &str, value: &str) -> &mut Self {
        self.flag(option).flag(value)
    }

    fn node(&mut self, node: &Value) {
        self.add("-blockdev", &node.to_string());
    }
}

fn file(path: &Path, read_only: bool) -> Result<Value, VmError> {
    Ok(json!({"driver": "file", "filename": text(path)?, "read-only": read_only}))
}

fn text(path: &Path) -> Result<&str, VmError> {
    path.to_str().ok_or_else(|| VmError::NotText {
        path: path.to_owned(),
    })
}

/// A path as a value of an option: a comma would end it.
fn escaped(path: &Path) -> Result<String, VmError> {
    Ok(text(path)?.replace(',', ",,"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(backing: Backing) -> Option<MachineDisk> {
        Some(MachineDisk {
            backing,
            overlay: "/scratch/overlay.qcow2".into(),
        })
    }

    fn spec() -> Spec {
        Spec {
            machine: MachineType::Q35,
            accel: Accel::Tcg,
            firmware: Firmware::Bios,
            memory: 1 << 30,
            cpus: 2,
            disk: disk(Backing::Layers(vec![
                "/store/base.qcow2".into(),
                "/store/top.qcow2".into(),
            ])),
            kernel: None,
            cdrom: None,
            seed: None,
            files: None,
            network: Network::None,
            served: Vec::new(),
            guest_agent: None,
            console: Console::Pipe,
            control: true,
        }
    }

    /// One option a line.
    fn shown(spec: &Spec) -> String {
        let mut text = String::new();
        for argument in arguments(spec).unwrap() {
            text += if argument.starts_with('-') { "\n" } else { " " };
            text += &argument;
        }
        text.trim_start().to_owned()
    }

    #[test]
    fn a_chain_under_bios_without_network() {
        insta::assert_snapshot!("bios", shown(&spec()));
    }

    #[test]
    fn what_is_served_is_where_the_host_was_and_starts_programs_without_rights() {
        let relay = "/proc/7/exe relay a,b".to_owned();
        let served = shown(&Spec {
            network: Network::Isolated { ssh_port: 2222 },
            served: vec![ServedPort { port: 6385, relay }],
            ..spec()
        });
        for expected in [
            "restrict=on,hostfwd=tcp:127.0.0.1:2222-:22,host=10.0.2.1,\
             guestfwd=tcp:10.0.2.2:6385-cmd:/proc/7/exe relay a,,b",
            "elevateprivileges=allow,spawn=allow",
        ] {
            assert!(served.contains(expected), "{served}");
        }
        assert!(shown(&spec()).contains("elevateprivileges=deny,spawn=deny"));
    }

    #[test]
    fn a_file_under_secure_boot_with_everything() {
        let firmware = Firmware::Uefi {
            code: "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd".into(),
            vars: "/scratch/efivars.fd".into(),
            secure: true,
        };
        let everything = Spec {
            accel: Accel::Kvm,
            firmware,
            memory: (2 << 30) + 1,
            disk: disk(Backing::Raw("/images/a, b.raw".into())),
            kernel: Some(DirectKernel {
                kernel: "/boot/vmlinuz".into(),
                initramfs: Some("/boot/initrd".into()),
                arguments: "console=ttyS0 a=b".to_owned(),
            }),
            cdrom: Some("/images/cd.iso".into()),
            seed: Some("/scratch/seed.img".into()),
            files: Some("/scratch/files.img".into()),
            network: Network::User {
                ssh_port: Some(2222),
            },
            guest_agent: Some("/run/a,b.sock".into()),
            console: Console::Terminal,
            control: false,
            ..spec()
        };
        insta::assert_snapshot!("everything", shown(&everything));
    }

    #[test]
    fn a_machine_for_arm64() {
        let firmware = Firmware::Uefi {
            code: "/usr/share/AAVMF/AAVMF_CODE.fd".into(),
            vars: "/scratch/efivars.fd".into(),
            secure: true,
        };
        let virt = Spec {
            machine: MachineType::Virt,
            firmware,
            cdrom: Some("/images/cd.iso".into()),
            ..spec()
        };
        insta::assert_snapshot!("arm64", shown(&virt));
    }

    #[test]
    fn only_the_overlay_and_the_variables_can_be_written_and_no_node_is_probed() {
        let spec = Spec {
            disk: disk(Backing::Qcow2("/images/x.qcow2".into())),
            network: Network::Isolated { ssh_port: 2022 },
            ..spec()
        };
        let arguments = arguments(&spec).unwrap();
        let nodes = arguments.windows(2).filter(|pair| pair[0] == "-blockdev");
        for node in nodes.map(|pair| serde_json::from_str::<Value>(&pair[1]).unwrap()) {
            assert!(
                node["driver"] == "qcow2" || node["driver"] == "raw",
                "{node}"
            );
            assert_eq!(node["file"]["driver"], "file", "{node}");
            assert_eq!(
                node["read-only"] == true,
                node["node-name"] != "overlay",
                "{node}"
            );
            assert!(
                node["driver"] == "raw" || node.get("backing").is_some(),
                "{node}"
            );
        }
    }
}
