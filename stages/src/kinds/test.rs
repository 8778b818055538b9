//! `test`: boots a disk and checks it; what needs no machine is decided without one.
//! Knows parameters and checks, not how they are made.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::action::{ActionTemplate, Executor, Slot, Step};
use crate::error::ParamError;
use crate::kinds::common;
use crate::params::{Params, parse_duration, parse_size};
use crate::registry::{Kind, Lowered, Makes, ParamSpec, StageContext, Type};
use crate::test_spec::{Question, TestCheck, TestFirmware, TestMachine, TestSpec};
use crate::value::Data;

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
         of its own. Default: [\"bios\"].",
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

/// The attributes of a check that name its kind.
const KINDS: [&str; 14] = [
    "console",
    "target",
    "unit",
    "cloud_init",
    "guest_agent",
    "run",
    "script",
    "ssh",
    "boot_time",
    "exists",
    "absent",
    "packages",
    "diff",
    "no_secrets",
];

const CHECK: &[ParamSpec] = &[
    ParamSpec::optional("console", Type::Text, "The serial console shows this text."),
    ParamSpec::optional(
        "target",
        Type::Text,
        "systemd reaches this target, such as \"multi-user\".",
    ),
    ParamSpec::optional(
        "unit",
        Type::Text,
        "This systemd unit becomes active, such as \"nginx.service\".",
    ),
    ParamSpec::optional(
        "cloud_init",
        Type::OneOf(&["done", "disabled"]),
        "cloud-init ends with this status: \"done\" or \"disabled\".",
    ),
    ParamSpec::optional(
        "guest_agent",
        Type::Bool,
        "QEMU's guest agent answers. With `addresses = true` it also tells an address of the machine.",
    ),
    ParamSpec::optional("addresses", Type::Bool, "Belongs to `guest_agent`."),
    ParamSpec::optional(
        "run",
        Type::Text,
        "This command, run as root by /bin/sh -c, ends with exit code 0.",
    ),
    ParamSpec::optional(
        "script",
        Type::Text,
        "This script, such as file(\"tests/web.sh\"), run as root by /bin/sh, ends with exit code 0.",
    ),
    ParamSpec::optional(
        "ssh",
        Type::Text,
        "This command, run over SSH by a user whose key cloud-init let in, ends with exit code 0.",
    ),
    ParamSpec::optional(
        "boot_time",
        Type::Duration,
        "Booting takes at most this long, from the kernel's start to systemd's default target.",
    ),
    ParamSpec::optional(
        "exists",
        Type::List(&Type::Text),
        "These paths are in the image.",
    ),
    ParamSpec::optional(
        "absent",
        Type::List(&Type::Text),
        "These are not in the image: paths if they begin with `/`, else packages.",
    ),
    ParamSpec::optional(
        "packages",
        Type::File,
        "The installed packages are those of this list, which `impasto layer packages DISK` prints.",
    ),
    ParamSpec::optional(
        "diff",
        Type::File,
        "The files are those of this tree index, which `impasto layer index DISK` prints, but for those in `allow`.",
    ),
    ParamSpec::optional(
        "no_secrets",
        Type::Bool,
        "No private key, token or password that lets somebody in lies in the image, but for paths in `allow`.",
    ),
    ParamSpec::optional(
        "allow",
        Type::List(&Type::Text),
        "Paths that `diff` and `no_secrets` pass over; `*` matches any characters but `/`, a directory means all under it.",
    ),
    ParamSpec::optional(
        "after",
        Type::List(&Type::Text),
        "Checks that must have passed before.",
    ),
    ParamSpec::optional(
        "timeout",
        Type::Duration,
        "How long the check may take. Default: \"2m\".",
    ),
    ParamSpec::optional(
        "tags",
        Type::List(&Type::Text),
        "Tags, for `impasto test --tag`.",
    ),
];

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
    let (checks, baselines) = checks(params, &context.tags, &mut errors);
    let (still, booted): (Vec<_>, Vec<_>) = checks
        .into_iter()
        .partition(|check| check.question.needs_no_machine());
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
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut actions = Vec::new();
    let mut add = |name: &str, machine: Option<TestMachine>, checks: Vec<TestCheck>| {
        let mut action = base.clone();
        action.hints.timeout = machine.as_ref().map(|machine| machine.timeout);
        if machine.is_some() {
            files(params, &mut action);
        } else {
            // What boots decides nothing here.
            action.inputs = baselines.clone();
        }
        let spec = Box::new(TestSpec { machine, checks });
        action.steps.push(Step::Test { spec });
        actions.push((name.to_owned(), action));
    };
    if !still.is_empty() {
        add("image", None, still);
    }
    if !booted.is_empty() {
        for firmware in firmware(params, boots_kernel) {
            let machine = TestMachine {
                firmware,
                ..machine.clone()
            };
            add(firmware.name(), Some(machine), booted.clone());
        }
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
    if params.get("firmware").is_some() && has("kernel") {
        errors.push(
            ParamError::new(
                "firmware",
                "a kernel that is started directly has no firmware",
            )
            .help("remove `firmware`, or `kernel`"),
        );
    }
    let names = params.texts("firmware");
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
    if boots_kernel {
        return vec![TestFirmware::Kernel];
    }
    let names = params.texts("firmware");
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

fn wrong(check: &str, message: impl std::fmt::Display) -> ParamError {
    ParamError::new("checks", format!("the check `{check}`: {message}")).entry(check)
}

/// The checks that one of these tags selects, in an order in which each comes after those that it names; and the inputs
/// that they read.
fn checks(
    params: &Params,
    tags: &[String],
    errors: &mut Vec<ParamError>,
) -> (Vec<TestCheck>, BTreeMap<String, Slot>) {
    let mut all = BTreeMap::new();
    let mut inputs = BTreeMap::new();
    let of_stage = params.texts("tags");
    for (name, value) in params.pairs("checks") {
        errors.extend(common::check_name("checks", name).err());
        let Data::Object(object) = &value.data else {
            continue;
        };
        let check = Params((**object).clone());
        let Some(question) = question(name, &check, &mut inputs, errors) else {
            continue;
        };
        let own = check.texts("tags");
        let selected = tags.is_empty()
            || tags
                .iter()
                .any(|tag| own.contains(tag) || of_stage.contains(tag));
        all.insert(
            name.clone(),
            (
                TestCheck {
                    name: name.clone(),
                    question,
                    after: check.texts("after"),
                    timeout: check.duration("timeout"),
                },
                selected,
            ),
        );
    }
    if all.is_empty() && errors.is_empty() {
        errors.push(
            ParamError::new("checks", "there is nothing to check")
                .help("add one, such as boots = { target = \"multi-user\" }"),
        );
    }
    (in_order(all, errors), inputs)
}

/// What a check asks; none where that is wrong.
fn question(
    name: &str,
    check: &Params,
    inputs: &mut BTreeMap<String, Slot>,
    errors: &mut Vec<ParamError>,
) -> Option<Question> {
    let kinds: Vec<_> = KINDS
        .into_iter()
        .filter(|kind| check.get(kind).is_some())
        .collect();
    let kind = match kinds.as_slice() {
        [kind] => *kind,
        [] => {
            errors.push(
                wrong(name, "it does not say what is to be checked")
                    .help(format!("set exactly one of: {}", KINDS.join(", "))),
            );
            return None;
        }
        several => {
            let shown: Vec<_> = several.iter().map(|kind| format!("`{kind}`")).collect();
            errors.push(
                wrong(
                    name,
                    format!("it sets {}, which are several checks", shown.join(" and ")),
                )
                .help("make a check of each; `after` orders them"),
            );
            return None;
        }
    };
    for (attribute, of) in [
        ("addresses", &["guest_agent"][..]),
        ("allow", &["diff", "no_secrets"]),
    ] {
        if check.get(attribute).is_some() && !of.contains(&kind) {
            errors.push(
                wrong(name, format!("`{attribute}` does not belong to `{kind}`"))
                    .help(format!("it belongs to {}", of.join(" and "))),
            );
        }
    }
    for attribute in ["guest_agent", "no_secrets"] {
        if kind == attribute && !check.flag(attribute) {
            errors.push(
                wrong(name, format!("`{attribute} = false` checks nothing"))
                    .help("remove the check"),
            );
            return None;
        }
    }
    let text = || check.text(kind).unwrap_or_default().to_owned();
    if matches!(
        kind,
        "console" | "target" | "unit" | "run" | "script" | "ssh"
    ) && text().trim().is_empty()
    {
        errors.push(wrong(name, format!("`{kind}` is empty")));
        return None;
    }
    let mut input = || {
        let input = format!("baseline/{name}");
        let slot = check.get(kind).and_then(common::file_slot);
        inputs.extend(slot.map(|slot| (input.clone(), slot)));
        input
    };
    let paths = |errors: &mut Vec<ParamError>| {
        let paths = check.texts(kind);
        if paths.is_empty() {
            errors.push(wrong(name, format!("`{kind}` is empty")));
        }
        for path in &paths {
            let is_path = kind == "exists" || path.starts_with('/');
            let bad = is_path && common::check_guest_path("checks", path).is_err();
            if bad || path.is_empty() {
                errors.push(
                    wrong(name, format!("{path:?} is not a path in the image"))
                        .help("write an absolute path, as seen inside the image"),
                );
            }
        }
        paths
    };
    Some(match kind {
        "console" => Question::Console(text()),
        "target" => Question::Target(with_suffix(text(), ".target")),
        "unit" => Question::Unit(text()),
        "cloud_init" => Question::CloudInit(text()),
        "guest_agent" => Question::GuestAgent {
            addresses: check.flag("addresses"),
        },
        "run" | "script" => Question::Run(text()),
        "ssh" => Question::Ssh(text()),
        "boot_time" => {
            let time = check.text(kind).and_then(parse_duration);
            Question::BootTime(time.unwrap_or_default().as_secs())
        }
        "exists" => Question::Exists(paths(errors)),
        "absent" => Question::Absent(paths(errors)),
        "packages" => Question::Packages(input()),
        "diff" => Question::Diff {
            input: input(),
            allow: check.texts("allow"),
        },
        _ => Question::NoSecrets {
            allow: check.texts("allow"),
        },
    })
}

fn with_suffix(name: String, suffix: &str) -> String {
    if name.ends_with(suffix) {
        name
    } else {
        name + suffix
    }
}

/// The selected checks and those that they come after, each behind those.
fn in_order(
    all: BTreeMap<String, (TestCheck, bool)>,
    errors: &mut Vec<ParamError>,
) -> Vec<TestCheck> {
    for (name, (check, _)) in &all {
        for other in &check.after {
            let problem = match all.get(other) {
                None => format!("there is no check `{other}` that it could come after"),
                Some((other, _))
                    if check.question.needs_no_machine() && !other.question.needs_no_machine() =>
                {
                    let other = &other.name;
                    format!(
                        "it is decided before the machine starts, so it cannot come after `{other}`"
                    )
                }
                Some(_) => continue,
            };
            let known: Vec<_> = all.keys().map(String::as_str).collect();
            errors.push(wrong(name, problem).help(format!("the checks are: {}", known.join(", "))));
        }
    }
    let mut order = Vec::new();
    let mut done = BTreeSet::new();
    let mut open = Vec::new();
    let selected = all.iter().filter(|(_, (_, selected))| *selected);
    for (name, _) in selected {
        visit(name, &all, &mut open, &mut done, &mut order, errors);
    }
    order
}

fn visit(
    name: &str,
    all: &BTreeMap<String, (TestCheck, bool)>,
    open: &mut Vec<String>,
    done: &mut BTreeSet<String>,
    order: &mut Vec<TestCheck>,
    errors: &mut Vec<ParamError>,
) {
    let Some((check, _)) = all.get(name).filter(|_| !done.contains(name)) else {
        return;
    };
    if open.iter().any(|other| other == name) {
        errors.push(wrong(name, "it comes after itself").help("remove one of the `after`"));
        return;
    }
    open.push(name.to_owned());
    for other in &check.after {
        visit(other, all, open, done, order, errors);
    }
    open.pop();
    if done.insert(name.to_owned()) {
        order.push(check.clone());
    }
}
