//! The checks of a test: their parameters, their order, and which of them tags select.
//! Knows what checks ask, not what they ask it of.

use std::collections::{BTreeMap, BTreeSet};

use crate::action::Slot;
use crate::error::ParamError;
use crate::kinds::common;
use crate::params::{Params, parse_duration};
use crate::registry::{ParamSpec, Type};
use crate::test_spec::{Question, TestCheck};
use crate::value::Data;

/// The attributes of a check that name its kind.
const KINDS: [&str; 15] = [
    "console",
    "target",
    "unit",
    "cloud_init",
    "guest_agent",
    "run",
    "script",
    "ssh",
    "boot_time",
    "served",
    "exists",
    "absent",
    "packages",
    "diff",
    "no_secrets",
];

pub(super) const CHECK: &[ParamSpec] = &[
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
        "served",
        Type::Text,
        "The machine asked one of its servers (`serve`) for this: a method and the beginning of a path, such as \
         \"POST /v1/heartbeat/\".",
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

/// The most tags of a stage beside those that are asked for of which all combinations are looked at.
const MAX_TAGS: usize = 6;

/// All checks of a stage, with their tags.
pub(super) struct Checks(BTreeMap<String, (TestCheck, BTreeSet<String>)>);

/// Those that are decided by reading the disk, and those that ask a machine.
pub(super) struct Selected {
    pub(super) still: Vec<TestCheck>,
    pub(super) booted: Vec<TestCheck>,
}

/// Reads a stage's checks: also the inputs that they need.
pub(super) fn read(
    params: &Params,
    errors: &mut Vec<ParamError>,
) -> (Checks, BTreeMap<String, Slot>) {
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
        let tags = check.texts("tags").into_iter().chain(of_stage.clone());
        let check = TestCheck {
            name: name.clone(),
            question,
            after: check.texts("after"),
            timeout: check.duration("timeout"),
        };
        all.insert(name.clone(), (check, tags.collect()));
    }
    if all.is_empty() && errors.is_empty() {
        errors.push(
            ParamError::new("checks", "there is nothing to check")
                .help("add one, such as boots = { target = \"multi-user\" }"),
        );
    }
    let all = Checks(all);
    all.check_order(errors);
    (all, inputs)
}

impl Checks {
    pub(super) fn get(&self, name: &str) -> Option<&TestCheck> {
        self.0.get(name).map(|(check, _)| check)
    }

    /// The checks that have one of these tags, all where there are none, and those that they come after; each behind those.
    pub(super) fn selected(&self, tags: &BTreeSet<String>) -> Selected {
        let mut order = Vec::new();
        let mut done = BTreeSet::new();
        for (name, (_, own)) in &self.0 {
            if tags.is_empty() || !own.is_disjoint(tags) {
                self.visit(
                    name,
                    &mut Vec::new(),
                    &mut done,
                    &mut order,
                    &mut Vec::new(),
                );
            }
        }
        let (still, booted) = order
            .into_iter()
            .partition(|check: &TestCheck| check.question.needs_no_machine());
        Selected { still, booted }
    }

    /// What more tags than these select, without tags included: the fewest checks first.
    pub(super) fn supersets(&self, tags: &BTreeSet<String>) -> Vec<Selected> {
        if tags.is_empty() {
            return Vec::new();
        }
        let known: BTreeSet<_> = self.0.values().flat_map(|(_, own)| own).collect();
        let others: Vec<_> = known
            .into_iter()
            .filter(|tag| !tags.contains(*tag))
            .collect();
        let mut all = vec![self.selected(&BTreeSet::new())];
        if others.len() <= MAX_TAGS {
            for chosen in 1..1_usize << others.len() {
                let more = others.iter().enumerate();
                let more = more.filter(|(at, _)| chosen >> at & 1 == 1);
                let more = more.map(|(_, tag)| (*tag).clone());
                all.push(self.selected(&tags.iter().cloned().chain(more).collect()));
            }
        }
        all.sort_by_key(|selected| selected.still.len() + selected.booted.len());
        all
    }

    fn check_order(&self, errors: &mut Vec<ParamError>) {
        for (name, (check, _)) in &self.0 {
            for other in &check.after {
                let problem = match self.get(other) {
                    None => format!("there is no check `{other}` that it could come after"),
                    Some(other)
                        if check.question.needs_no_machine()
                            && !other.question.needs_no_machine() =>
                    {
                        let other = &other.name;
                        format!(
                            "it is decided before the machine starts, so it cannot come after `{other}`"
                        )
                    }
                    Some(_) => continue,
                };
                let known: Vec<_> = self.0.keys().map(String::as_str).collect();
                errors.push(
                    wrong(name, problem).help(format!("the checks are: {}", known.join(", "))),
                );
            }
        }
        let (mut done, mut order) = (BTreeSet::new(), Vec::new());
        for name in self.0.keys() {
            self.visit(name, &mut Vec::new(), &mut done, &mut order, errors);
        }
    }

    /// Puts a check into the order, behind those that it comes after.
    fn visit<'c>(
        &'c self,
        name: &'c str,
        open: &mut Vec<&'c str>,
        done: &mut BTreeSet<&'c str>,
        order: &mut Vec<TestCheck>,
        errors: &mut Vec<ParamError>,
    ) {
        let Some(check) = self.get(name).filter(|_| !done.contains(name)) else {
            return;
        };
        if open.contains(&name) {
            errors.push(wrong(name, "it comes after itself").help("remove one of the `after`"));
            return;
        }
        open.push(name);
        for other in &check.after {
            self.visit(other, open, done, order, errors);
        }
        open.pop();
        if done.insert(name) {
            order.push(check.clone());
        }
    }
}

pub(super) fn wrong(check: &str, message: impl std::fmt::Display) -> ParamError {
    ParamError::new("checks", format!("the check `{check}`: {message}")).entry(check)
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
        "console" | "target" | "unit" | "run" | "script" | "ssh" | "served"
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
        "served" => {
            let request = text();
            let (method, path) = request.split_once(' ').unwrap_or_default();
            let is_method = !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase());
            if !is_method || !path.starts_with('/') || path.contains(char::is_whitespace) {
                errors.push(
                    wrong(name, format!("{request:?} is not a request"))
                        .help("write a method and the beginning of a path: \"GET /status\""),
                );
            }
            Question::Served(request)
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
