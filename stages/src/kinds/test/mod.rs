//! `test`: boots a disk and checks it; what needs no machine is decided without one.
//! Knows parameters and checks, not how they are made.

mod checks;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::action::{ActionTemplate, Executor, FirmwarePart, Slot, Step};
use crate::error::ParamError;
use crate::kinds::common;
use crate::params::{Params, parse_size};
use crate::registry::{Kind, Lowered, Makes, ParamSpec, StageContext, Type};
use crate::test_spec::{Question, TestCheck, TestFirmware, TestMachine, TestSpec};
use crate::value::Data;
use checks::{CHECK, Selected, wrong};

pub(crate) const KIND: Kind = Kind {
    name: "test",
    version: 1,
    summary: "boots a disk in a virtual machine and checks it",
    example: r#"stage "test" "smoke" {
  image    = stage.clean
  firmware = ["bios", "uefi"]
  checks = {
    boots   = { target = "multi-user" }
    web     = { unit = "nginx.service", after = ["boots"] }
    secrets = { no_secrets = true }
  }
}"#,
    makes: Makes::File,
    files: &["report.json", "report.xml"],
    params: &[PARAMS],
    lower,
    expand: None,
};

/// What a machine has where the stage does not say.
const MEMORY: u64 = 1 << 30;
const CPUS: u16 = 2;
const BOOT_TIMEOUT: Duration = Duration::from_secs(5 * 60);
const TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// What a kernel is told where the stage does not say.
const ARGUMENTS: &str = "console=ttyS0";
/// Files that cloud-init reads.
const SEED: [&str; 4] = ["meta-data", "user-data", "vendor-data", "network-config"];

const PARAMS: &[ParamSpec] = &[
    ParamSpec::optional(
        "image",
        Type::Disk,
        "The stage whose disk is tested. It is never written: the machine works on a throwaway overlay.",
    ),
    ParamSpec::optional(
        "kernel",
        Type::File,
        "A Linux kernel to start without a boot loader, instead of what the disk would boot.",
    ),
    ParamSpec::optional("initramfs", Type::File, "The initramfs of `kernel`."),
    ParamSpec::optional(
        "iso",
        Type::File,
        "A CD in the machine's drive, which boots where the disk does not, or there is none.",
    ),
    ParamSpec::optional(
        "arguments",
        Type::List(&Type::Text),
        "The command line of `kernel`. Default: [\"console=ttyS0\"].",
    ),
    ParamSpec::optional(
        "firmware",
        Type::List(&Type::OneOf(TestFirmware::NAMES)),
        "What starts the boot loader: \"bios\", \"uefi\" or \"secure-boot\". Each one is a machine of its own, with a result \
         of its own. Default: [\"bios\"]. With `kernel`: none, or [\"uefi\"], whose tables the kernel then finds, such as \
         ACPI's on ARM.",
    ),
    ParamSpec::required(
        "checks",
        Type::Map(&Type::Object(CHECK)),
        "What is checked, by name: { NAME = { KIND = …, after = [NAME], timeout = …, tags = [TAG] } }, each with exactly one \
         KIND. `impasto help tests` lists them.",
    ),
    ParamSpec::optional(
        "disk",
        Type::Text,
        "Size of the machine's disk, such as \"8GiB\", at least that of the image. Default: as large as the image.",
    ),
    ParamSpec::optional(
        "memory",
        Type::Text,
        "Memory of the machine, such as \"2GiB\". Default: \"1GiB\".",
    ),
    ParamSpec::optional("cpus", Type::Int, "CPUs of the machine. Default: 2."),
    ParamSpec::optional(
        "seed",
        Type::Map(&Type::Text),
        "Files for cloud-init's NoCloud source: { \"user-data\" = …, \"meta-data\" = … }. Without it, an image with \
         cloud-init gets a seed that lets a key of this boot in.",
    ),
    ParamSpec::optional(
        "files",
        Type::Map(&Type::File),
        "Files for the checks, by name, on a read-only disk: /dev/disk/by-label/IMPASTO, a FAT file system.",
    ),
    ParamSpec::optional(
        "serve",
        Type::Map(&Type::File),
        "Servers that answer the machine, by port: { \"8080\" = \"tests/api.py\" }. The guest reaches each at \
         http://10.0.2.2:PORT; the program listens on 127.0.0.1, on the port that its variable PORT names.",
    ),
    ParamSpec::optional(
        "ssh",
        Type::Object(SSH),
        "Who logs in over SSH, with a key of this boot that cloud-init lets in: { user, timeout }. Default: a user \
         `impasto`.",
    ),
    ParamSpec::optional(
        "network",
        Type::Bool,
        "Whether the machine has a network card. Its network gives it an address and leads nowhere. Default: true.",
    ),
    ParamSpec::optional(
        "tags",
        Type::List(&Type::Text),
        "Tags of all checks of the stage, for `impasto test --tag`.",
    ),
    ParamSpec::optional(
        "boot_timeout",
        Type::Duration,
        "How long the guest may take until it can be asked. Not part of the key. Default: \"5m\".",
    ),
    ParamSpec::optional(
        "timeout",
        Type::Duration,
        "Stops a machine after this time. Not part of the key. Default: \"15m\".",
    ),
];

const SSH: &[ParamSpec] = &[
    ParamSpec::optional("user", Type::Text, "The user's name; may become root."),
    ParamSpec::optional(
        "timeout",
        Type::Duration,
        "How long SSH may take to let the user in. Not part of the key. Default: \"2m\".",
    ),
];

/// Who logs in over SSH where the stage does not say.
const USER: &str = "impasto";
const SSH_TIMEOUT: Duration = Duration::from_secs(2 * 60);

fn lower(params: &Params, context: &StageContext) -> Result<Lowered, Vec<ParamError>> {
    let mut errors = Vec::new();
    let mut base = ActionTemplate::new(KIND.name, KIND.version, Executor::Machine);
    base.parent = params.get("image").and_then(common::file_slot);
    for name in ["kernel", "initramfs", "iso"] {
        let slot = params.get(name).and_then(common::file_slot);
        base.inputs.extend(slot.map(|slot| (name.to_owned(), slot)));
    }
    let boots_kernel = base.inputs.contains_key("kernel");
    check_what_boots(params, &base, &mut errors);
    let (all, baselines) = checks::read(params, &mut errors);
    let tags = context.tags.iter().cloned().collect();
    let Selected { still, booted } = all.selected(&tags);
    let supersets = all.supersets(&tags);
    if let Some(check) = still.first().filter(|_| base.parent.is_none()) {
        errors.push(
            wrong(
                &check.name,
                "it asks what is on a disk, and no disk is tested",
            )
            .help("set `image`, or use a check that asks the machine"),
        );
    }
    let machine = machine(params, &mut errors);
    let mut boots = base.clone();
    errors.extend(servers(params, &booted, &mut boots));
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut actions = Vec::new();
    if !still.is_empty() {
        let mut action = base.clone();
        // What boots decides nothing here.
        action.inputs = baselines;
        let spec = |checks: &[TestCheck]| TestSpec {
            machine: None,
            checks: checks.to_vec(),
        };
        let all = supersets.iter().map(|more| spec(&more.still));
        set_spec(&mut action, spec(&still), all);
        actions.push(("image".to_owned(), action));
    }
    for firmware in firmware(params, boots_kernel) {
        if booted.is_empty() {
            break;
        }
        let machine = TestMachine {
            firmware,
            ..machine.clone()
        };
        let mut action = boots.clone();
        action.hints.timeout = Some(machine.timeout);
        files(params, &mut action);
        firmware_files(firmware, &mut action);
        let spec = |checks: &[TestCheck]| TestSpec {
            machine: Some(machine.clone()),
            checks: checks.to_vec(),
        };
        let all = supersets.iter().map(|more| spec(&more.booted));
        set_spec(&mut action, spec(&booted), all);
        actions.push((firmware.name().to_owned(), action));
    }
    let mut report = ActionTemplate::new(KIND.name, KIND.version, Executor::Machine);
    let mut parts = Vec::new();
    for (unit, (name, _)) in actions.iter().enumerate() {
        for file in ["report.json", "console.log"] {
            let slot = Slot::Unit {
                unit,
                file: Some(file.to_owned()),
            };
            report.inputs.insert(format!("{name}/{file}"), slot);
        }
        parts.push(name.clone());
    }
    report.steps.push(Step::TestReport {
        name: context.name.clone(),
        parts,
    });
    let mut actions: Vec<_> = actions.into_iter().map(|(_, action)| action).collect();
    actions.push(report);
    Ok(Lowered {
        actions,
        ..Lowered::default()
    })
}

/// Gives an Action what it asks, and what else would answer that.
fn set_spec(
    action: &mut ActionTemplate,
    spec: TestSpec,
    supersets: impl Iterator<Item = TestSpec>,
) {
    let mut all: Vec<_> = supersets.filter(|other| *other != spec).collect();
    all.dedup();
    action.hints.supersets = all;
    let spec = Box::new(spec);
    action.steps.push(Step::Test { spec });
}

/// Adds the programs that answer the machine.
fn servers(params: &Params, booted: &[TestCheck], action: &mut ActionTemplate) -> Vec<ParamError> {
    let mut errors = Vec::new();
    for (port, value) in params.pairs("serve") {
        let plain = port
            .parse::<u16>()
            .is_ok_and(|number| number > 0 && number.to_string() == *port);
        if !plain {
            errors.push(
                ParamError::new("serve", format!("{port:?} is not a port"))
                    .help("use a number from 1 to 65535: serve = { \"8080\" = \"tests/api.py\" }"),
            );
        }
        let slot = common::file_slot(value);
        let inputs = &mut action.inputs;
        inputs.extend(slot.map(|slot| (format!("serve/{port}"), slot)));
    }
    let serves = params.pairs("serve").next().is_some();
    if serves && params.get("network").is_some() && !params.flag("network") {
        errors.push(
            ParamError::new("serve", "a machine without a network cannot ask a server")
                .help("remove `network = false`"),
        );
    }
    let asks = |check: &&TestCheck| matches!(check.question, Question::Served(_));
    if let Some(check) = booted.iter().find(asks).filter(|_| !serves) {
        errors.push(
            wrong(&check.name, "there is no server that could be asked")
                .help("add one: serve = { \"8080\" = \"tests/api.py\" }"),
        );
    }
    errors
}

/// Adds the files of the firmware, where it is the host's.
fn firmware_files(firmware: TestFirmware, action: &mut ActionTemplate) {
    let secure = match firmware {
        // SeaBIOS comes with QEMU.
        TestFirmware::Bios | TestFirmware::Kernel => return,
        TestFirmware::Uefi => false,
        TestFirmware::SecureBoot => true,
    };
    for (name, part) in [
        ("code", FirmwarePart::Code),
        ("variables", FirmwarePart::Variables),
    ] {
        let slot = Slot::Firmware { secure, part };
        action.inputs.insert(format!("firmware/{name}"), slot);
    }
}

/// Checks that there is one thing to boot.
fn check_what_boots(params: &Params, action: &ActionTemplate, errors: &mut Vec<ParamError>) {
    let has = |name: &str| action.inputs.contains_key(name);
    if action.parent.is_none() && !has("kernel") && !has("iso") {
        errors.push(
            ParamError::stage(
                "there is nothing to test: none of `image`, `kernel` and `iso` is set",
            )
            .help("set `image = stage.NAME`, a stage that makes a disk"),
        );
    }
    for name in ["initramfs", "arguments"] {
        if params.get(name).is_some() && !has("kernel") {
            errors.push(
                ParamError::new(name_of(name), "it belongs to `kernel`, which is not set")
                    .help("set `kernel` too, or remove it: a disk has its own"),
            );
        }
    }
    let names = params.texts("firmware");
    if has("kernel") && names.iter().any(|name| name != TestFirmware::Uefi.name()) {
        errors.push(
            ParamError::new(
                "firmware",
                "a kernel that is started directly takes UEFI or no firmware",
            )
            .help("use [\"uefi\"], or remove `firmware` or `kernel`"),
        );
    }
    if params.get("firmware").is_some() && names.is_empty() {
        errors
            .push(ParamError::new("firmware", "the list is empty").help("omit it for [\"bios\"]"));
    }
    if names.iter().collect::<BTreeSet<_>>().len() < names.len() {
        errors.push(ParamError::new("firmware", "one is named twice"));
    }
}

fn name_of(name: &str) -> &'static str {
    match name {
        "initramfs" => "initramfs",
        _ => "arguments",
    }
}

fn firmware(params: &Params, boots_kernel: bool) -> Vec<TestFirmware> {
    let names = params.texts("firmware");
    if boots_kernel && names.is_empty() {
        return vec![TestFirmware::Kernel];
    }
    if names.is_empty() {
        return vec![TestFirmware::Bios];
    }
    names
        .iter()
        .filter_map(|name| TestFirmware::named(name))
        .collect()
}

/// Adds the files for the checks.
fn files(params: &Params, action: &mut ActionTemplate) {
    for (name, value) in params.pairs("files") {
        let slot = common::file_slot(value);
        action
            .inputs
            .extend(slot.map(|slot| (format!("files/{name}"), slot)));
    }
}

/// The machine, but for its firmware.
fn machine(params: &Params, errors: &mut Vec<ParamError>) -> TestMachine {
    let mut size = |name: &'static str| {
        let text = params.text(name)?;
        let size = parse_size(text).filter(|size| *size > 0);
        if size.is_none() {
            errors.push(
                ParamError::new(name, format!("{text:?} is not a valid size"))
                    .help("write it as \"512MiB\" or \"8GiB\""),
            );
        }
        size
    };
    let (memory, disk_size) = (size("memory").unwrap_or(MEMORY), size("disk"));
    let cpus = match params.int("cpus") {
        None => CPUS,
        Some(cpus @ 1..=255) => cpus as u16,
        Some(cpus) => {
            errors.push(
                ParamError::new("cpus", format!("{cpus} is out of range")).help("use 1 to 255"),
            );
            CPUS
        }
    };
    for (name, _) in params.pairs("seed") {
        if !SEED.contains(&name.as_str()) {
            errors.push(
                ParamError::new("seed", format!("cloud-init reads no file {name:?}"))
                    .help(format!("valid names: {}", SEED.join(", "))),
            );
        }
    }
    for (name, _) in params.pairs("files") {
        errors.extend(common::check_name("files", name).err());
        if !name.is_ascii() || name.len() > 26 {
            errors.push(
                ParamError::new(
                    "files",
                    format!("{name:?} is too long a name for that disk"),
                )
                .help("use at most 26 ASCII characters"),
            );
        }
    }
    let arguments = params.texts("arguments").join(" ");
    let ssh = match params.get("ssh").map(|value| &value.data) {
        Some(Data::Object(ssh)) => Params((**ssh).clone()),
        _ => Params::default(),
    };
    let user = ssh.text("user").unwrap_or(USER).to_owned();
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    if !user.starts_with(|c: char| c.is_ascii_lowercase()) || !user.chars().all(plain) {
        errors.push(
            ParamError::new("ssh", format!("{user:?} is not a valid user name"))
                .help("use lower-case letters, digits, `-` and `_`"),
        );
    }
    TestMachine {
        firmware: TestFirmware::Bios,
        memory,
        cpus,
        disk_size,
        arguments: match params.get("kernel") {
            Some(_) if arguments.is_empty() => ARGUMENTS.to_owned(),
            _ => arguments,
        },
        seed: params.text_map("seed"),
        network: params.get("network").is_none() || params.flag("network"),
        user,
        ssh_timeout: ssh.duration("timeout").unwrap_or(SSH_TIMEOUT),
        boot_timeout: params.duration("boot_timeout").unwrap_or(BOOT_TIMEOUT),
        timeout: params.duration("timeout").unwrap_or(TIMEOUT),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::value::Value;

    fn object(pairs: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
        let pairs: BTreeMap<String, Value> = pairs
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        Value::object(pairs)
    }

    fn actions(tags: &[&str], firmware: &str) -> Vec<ActionTemplate> {
        let check = |tag: &str| {
            object([
                ("run", Value::string("true")),
                ("tags", Value::list(vec![Value::string(tag)])),
            ])
        };
        let params = BTreeMap::from([
            ("iso".to_owned(), Value::string("cd.iso")),
            (
                "firmware".to_owned(),
                Value::list(vec![Value::string(firmware)]),
            ),
            (
                "checks".to_owned(),
                object([
                    ("a", check("quick")),
                    ("b", check("full")),
                    ("c", check("slow")),
                ]),
            ),
        ]);
        let context = StageContext {
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            ..StageContext::default()
        };
        lower(&Params(params), &context).unwrap().actions
    }

    #[test]
    fn only_uefi_brings_files_of_the_host_into_the_key() {
        let firmware = |name| {
            let mut slots = actions(&[], name).remove(0).inputs.into_values();
            slots.any(|slot| matches!(slot, Slot::Firmware { .. }))
        };
        assert!(!firmware("bios"));
        assert!(firmware("uefi") && firmware("secure-boot"));
    }

    #[test]
    fn a_kernel_takes_uefi_and_no_other_firmware() {
        let firmware = |name: Option<&str>| {
            let check = object([("console", Value::string("up"))]);
            let mut params = BTreeMap::from([
                ("kernel".to_owned(), Value::string("vmlinuz")),
                ("checks".to_owned(), object([("up", check)])),
            ]);
            let list = name.map(|name| Value::list(vec![Value::string(name)]));
            params.extend(list.map(|list| ("firmware".to_owned(), list)));
            match lower(&Params(params), &StageContext::default()) {
                Ok(lowered) => lowered.actions[0].steps.len(),
                Err(errors) => {
                    assert!(errors[0].to_string().contains("takes UEFI or no firmware"));
                    0
                }
            }
        };
        assert!(firmware(None) > 0 && firmware(Some("uefi")) > 0);
        assert_eq!(
            [firmware(Some("bios")), firmware(Some("secure-boot"))],
            [0, 0]
        );
    }

    #[test]
    fn more_tags_are_looked_for_where_some_are_asked_for() {
        let numbers = |tags: &[&str]| -> Vec<usize> {
            let action = actions(tags, "bios").remove(0);
            let supersets = action.hints.supersets.iter();
            supersets.map(|spec| spec.checks.len()).collect()
        };
        assert_eq!(numbers(&[]), [0; 0]);
        assert_eq!(numbers(&["quick"]), [2, 2, 3]);
        assert_eq!(numbers(&["quick", "full"]), [3]);
        assert_eq!(numbers(&["quick", "full", "slow"]), [0; 0]);
    }
}
