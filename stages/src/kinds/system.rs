//! `system`: the settings of a machine that every recipe would else write by script, after its packages are installed.
//! Knows parameters and what they may be; `system.sh` does the work by the image's own tools.

use std::collections::BTreeMap;

use crate::action::Step;
use crate::disk::UserSpec;
use crate::error::ParamError;
use crate::kinds::common::{self, quoted};
use crate::kinds::machine::{
    USER, check_host_name, check_kernel_argument, check_uids, is_user_name, texts, user,
};
use crate::number::Number;
use crate::params::Params;
use crate::registry::{Kind, Lowered, Makes, ParamSpec, StageContext, Type};
use crate::value::Data;

pub(crate) const KIND: Kind = Kind {
    name: "system",
    version: 1,
    summary: "sets up the machine: host name, time zone, locale, units, users, addresses, kernel arguments",
    example: r#"stage "system" "web" {
  from      = stage.tools
  hostname  = "web"
  timezone  = "Europe/Berlin"
  enable    = ["nginx.service"]
  mask      = ["systemd-resolved.service"]
  users     = {
    deploy = { ssh_keys = [file("deploy.pub")], groups = ["www-data"] }
  }
}"#,
    makes: Makes::Disk,
    files: &[],
    params: &[
        common::FROM,
        PARAMS,
        common::CUTOFF,
        common::SANDBOX_AND_TIMEOUT,
    ],
    lower,
    expand: None,
};

const PARAMS: &[ParamSpec] = &[
    ParamSpec::optional(
        "hostname",
        Type::Text,
        "The host name, in /etc/hostname and /etc/hosts. Elsewhere: mkosi `Hostname=`, virt-customize `--hostname`, \
         cloud-init `hostname`.",
    )
    .once_called("host_name"),
    ParamSpec::optional(
        "timezone",
        Type::Text,
        "A name below /usr/share/zoneinfo, such as \"Europe/Berlin\". Elsewhere: mkosi `Timezone=`, virt-customize \
         `--timezone`, cloud-init `timezone`.",
    ),
    ParamSpec::optional(
        "locale",
        Type::Text,
        "The locale of the system, such as \"de_DE.UTF-8\"; it is generated if need be, which takes the package \
         `locales`. Elsewhere: mkosi `Locale=`, cloud-init `locale`.",
    ),
    ParamSpec::optional(
        "keymap",
        Type::Text,
        "The keyboard of the console, such as \"de\". Elsewhere: mkosi `Keymap=`, cloud-init `keyboard: layout`.",
    ),
    ParamSpec::optional(
        "enable",
        Type::List(&Type::Text),
        "Units of systemd that are started at boot. Elsewhere: preset files, which mkosi applies; commands of \
         virt-customize (`--run-command`) and cloud-init (`runcmd`).",
    ),
    ParamSpec::optional(
        "disable",
        Type::List(&Type::Text),
        "Units that are not started at boot.",
    ),
    ParamSpec::optional(
        "mask",
        Type::List(&Type::Text),
        "Units that cannot be started at all.",
    ),
    ParamSpec::optional(
        "groups",
        Type::Map(&Type::Object(GROUP)),
        "Groups by name. None of them may exist. Elsewhere: sysusers.d, which mkosi applies, cloud-init `groups`.",
    ),
    ParamSpec::optional(
        "users",
        Type::Map(&Type::Object(USER)),
        "Users by name. None of them may exist, except `root`, whose keys and password can be set. Elsewhere: mkosi \
         `RootPassword=`; virt-customize `--ssh-inject` and `--password`, for users that exist; cloud-init `users`.",
    ),
    ParamSpec::optional(
        "interfaces",
        Type::Map(&Type::Object(INTERFACE)),
        "Network interfaces with fixed addresses, by the name that systemd-networkd matches, such as \"en*\". They come \
         before the DHCP of `disk`, and cloud-init, where the image has it, leaves the network alone. Elsewhere: \
         cloud-init's network configuration.",
    ),
    ParamSpec::optional(
        "kernel_arguments",
        Type::List(&Type::Text),
        "Kernel arguments in addition to those that the image has, one per element, by update-grub. Elsewhere: mkosi \
         `KernelCommandLine=`; cloud-init has none.",
    ),
    ParamSpec::optional(
        "read_only",
        Type::Bool,
        "Mounts the root file system read-only. What the machine writes to /etc, /home, /root, /tmp and /var is kept in \
         memory, over what the image has there, and gone after a restart; so each boot makes a machine ID and SSH host \
         keys of its own. A file system of its own that is mounted there, as `partitions` of `disk` make them, keeps \
         what it has. The root does not grow at boot: give it its size by `disk` or `resize`. Takes initramfs-tools. \
         Default: false. Elsewhere: systemd's `systemd.volatile=`, where the initramfs has systemd.",
    ),
];

const GROUP: &[ParamSpec] = &[ParamSpec::optional(
    "gid",
    Type::Int,
    "The group's GID. Default: the next free one from 1000.",
)];

const INTERFACE: &[ParamSpec] = &[
    ParamSpec::required(
        "addresses",
        Type::List(&Type::Text),
        "Its addresses with the length of the prefix, such as \"192.0.2.10/24\".",
    ),
    ParamSpec::optional(
        "gateways",
        Type::List(&Type::Text),
        "Addresses of routers, one for each family.",
    ),
    ParamSpec::optional(
        "name_servers",
        Type::List(&Type::Text),
        "Addresses of name servers; they take systemd-resolved, or an /etc/resolv.conf of your own.",
    ),
];

/// Kinds of units that can be enabled (systemd.unit(5)); a `device` or `scope` cannot.
const UNIT_TYPES: [&str; 9] = [
    "service",
    "socket",
    "timer",
    "mount",
    "automount",
    "swap",
    "target",
    "path",
    "slice",
];

fn lower(params: &Params, context: &StageContext) -> Result<Lowered, Vec<ParamError>> {
    let mut errors = Vec::new();
    let (mut action, secrets) =
        common::sandboxed(KIND.name, KIND.version, params, context, &mut errors);
    let mut script = Vec::new();
    names(params, &mut script, &mut errors);
    accounts(params, &mut script, &mut errors);
    network(params, &mut script, &mut errors);
    units(params, &mut script, &mut errors);
    boot(params, &mut script, &mut errors);
    if script.is_empty() && errors.is_empty() {
        let error = ParamError::stage("nothing is set");
        errors.push(error.help("set one of its parameters, such as `timezone`"));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let text = format!("{}\n{}\n", include_str!("system.sh"), script.join("\n"));
    action.steps.push(Step::Script { text });
    Ok(Lowered {
        actions: vec![action],
        secrets,
        request: None,
    })
}

/// A call of one of the script's functions.
fn call<'a>(function: &str, words: impl IntoIterator<Item = &'a str>) -> String {
    words
        .into_iter()
        .fold(function.to_owned(), |line, word| line + " " + &quoted(word))
}

fn names(params: &Params, script: &mut Vec<String>, errors: &mut Vec<ParamError>) {
    let mut set = |name: &'static str, function, plain: fn(&str) -> bool, help: &str| {
        let Some(text) = params.text(name) else {
            return;
        };
        if !plain(text) {
            errors.push(ParamError::new(name, format!("{text:?} is not valid")).help(help));
        }
        script.push(call(function, [text]));
    };
    set(
        "timezone",
        "set_timezone",
        |text| is_name(text, "_+-/") && !text.starts_with('/') && !text.ends_with('/'),
        "use a name below /usr/share/zoneinfo, such as \"Europe/Berlin\"",
    );
    set(
        "locale",
        "set_locale",
        |text| is_name(text, "_.@-"),
        "use a name as `locale -a` lists it, such as \"de_DE.UTF-8\"",
    );
    set(
        "keymap",
        "set_keymap",
        |text| is_name(text, "_-"),
        "use a name such as \"us\" or \"de\"",
    );
    if let Some(name) = params.text("hostname") {
        check_host_name(name, errors);
        script.push(call("set_host_name", [name]));
    }
}

/// Letters, digits and some others; nothing that a shell or a path would see more in.
fn is_name(text: &str, others: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
    !text.is_empty() && text.len() <= 100 && text.chars().all(plain)
}

fn accounts(params: &Params, script: &mut Vec<String>, errors: &mut Vec<ParamError>) {
    for (name, value) in params.pairs("groups") {
        if !is_user_name(name) {
            let error = ParamError::new("groups", format!("{name:?} is not a valid group name"));
            errors
                .push(error.help("use up to 32 of a-z, 0-9, `_` and `-`, starting with a letter"));
        }
        let gid = match &value.data {
            Data::Object(pairs) => pairs.get("gid").map(|gid| &gid.data),
            _ => None,
        };
        let gid = match gid {
            Some(Data::Number(Number::Int(gid @ 1..=59_999))) => gid.to_string(),
            Some(Data::Number(gid)) => {
                let message = format!("groups[{name:?}].gid: {gid} is out of range");
                errors.push(ParamError::new("groups", message).help("use 1 to 59999"));
                continue;
            }
            _ => String::new(),
        };
        script.push(call("add_group", [name.as_str(), &gid]));
    }
    let users: BTreeMap<String, UserSpec> = params
        .pairs("users")
        .map(|(name, value)| (name.clone(), user(name, value, errors)))
        .collect();
    check_uids(&users, errors);
    // Given numbers first, so that a free one is not one that another user asks for.
    let (given, free): (Vec<_>, Vec<_>) = users.iter().partition(|(_, user)| user.uid.is_some());
    for (name, user) in given.into_iter().chain(free) {
        let uid = user.uid.map_or(String::new(), |uid| uid.to_string());
        let groups = user.groups.join(",");
        let sudo = if user.sudo { "yes" } else { "" };
        let hash = user.password_hash.as_deref().unwrap_or_default();
        let words = [name, &uid, &*user.shell, &groups, hash, sudo];
        script.push(call(
            "add_user",
            words
                .into_iter()
                .chain(user.ssh_keys.iter().map(String::as_str)),
        ));
    }
}

fn network(params: &Params, script: &mut Vec<String>, errors: &mut Vec<ParamError>) {
    let mut wrong = |message: String, help: &str| {
        errors.push(ParamError::new("interfaces", message).help(help));
    };
    for (place, (name, value)) in params.pairs("interfaces").enumerate() {
        if !is_name(name, "_-.*?") {
            wrong(
                format!("{name:?} is not a valid name of an interface"),
                "use a name or a pattern, such as \"eth0\" or \"en*\"",
            );
        }
        let mut lines = format!("[Match]\nName={name}\n\n[Network]\n");
        for address in texts(value, "addresses") {
            if !is_address(&address, true) {
                wrong(
                    format!("interfaces[{name:?}].addresses: {address:?} is not an address"),
                    "write it with the length of its prefix, such as \"192.0.2.10/24\"",
                );
            }
            lines += &format!("Address={address}\n");
        }
        for (list, key) in [("gateways", "Gateway"), ("name_servers", "DNS")] {
            for address in texts(value, list) {
                if !is_address(&address, false) {
                    wrong(
                        format!("interfaces[{name:?}].{list}: {address:?} is not an address"),
                        "write it as \"192.0.2.1\" or \"2001:db8::1\"",
                    );
                }
                lines += &format!("{key}={address}\n");
            }
        }
        // The DHCP of `disk` stands in 80-dhcp.network, and the first file that matches counts.
        script.push(call(
            "add_interface",
            [
                &*format!("{:02}-impasto.network", 20 + place.min(59)),
                &lines,
            ],
        ));
    }
}

fn is_address(text: &str, with_prefix: bool) -> bool {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<std::net::IpAddr>() else {
        return false;
    };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    match prefix {
        Some(prefix) => with_prefix && prefix.parse::<u8>().is_ok_and(|bits| bits <= longest),
        None => !with_prefix,
    }
}

fn units(params: &Params, script: &mut Vec<String>, errors: &mut Vec<ParamError>) {
    let mut seen: BTreeMap<String, &'static str> = BTreeMap::new();
    for (param, verb) in [
        ("disable", "disable"),
        ("mask", "mask"),
        ("enable", "enable"),
    ] {
        let units = params.texts(param);
        for unit in &units {
            if !is_unit(unit) {
                let message = format!("{unit:?} is not a valid name of a unit");
                let help =
                    "write it with its type, such as \"nginx.service\" or \"getty@tty1.service\"";
                errors.push(ParamError::new(param, message).help(help));
            }
            if let Some(other) = seen.insert(unit.clone(), param) {
                let message = format!("{unit:?} is also in `{other}`");
                errors.push(ParamError::new(param, message).help("name it in one of them"));
            }
        }
        if !units.is_empty() {
            let words = [verb].into_iter().chain(units.iter().map(String::as_str));
            script.push(call("set_units", words));
        }
    }
}

/// A name of systemd.unit(5): with a type, without a path, and no template without its instance.
fn is_unit(unit: &str) -> bool {
    let Some((name, kind)) = unit.rsplit_once('.') else {
        return false;
    };
    is_name(name, ":-_.\\@")
        && unit.len() <= 255
        && UNIT_TYPES.contains(&kind)
        && !name.ends_with('@')
}

fn boot(params: &Params, script: &mut Vec<String>, errors: &mut Vec<ParamError>) {
    let arguments = params.texts("kernel_arguments");
    for argument in &arguments {
        check_kernel_argument(argument, errors);
    }
    if !arguments.is_empty() {
        script.push(call("set_kernel_arguments", [&*arguments.join(" ")]));
    }
    if params.flag("read_only") {
        script.push("set_read_only".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;

    fn object(pairs: &[(&str, Value)]) -> Value {
        Value::object(
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        )
    }

    fn list(items: &[&str]) -> Value {
        Value::list(items.iter().map(|item| Value::string(*item)).collect())
    }

    fn script(params: &[(&str, Value)]) -> Result<String, Vec<ParamError>> {
        let params = params
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()));
        let lowered = lower(&Params(params.collect()), &StageContext::default())?;
        match &lowered.actions[0].steps[..] {
            [Step::Script { text }] => Ok(text.clone()),
            steps => panic!("{steps:?}"),
        }
    }

    #[test]
    fn settings_become_calls_of_the_script_with_quoted_words() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO7nYzhvHy9nWYiOmLsWUwcPLMzTzKGZuYVaXUL3lyQn it's me";
        let admin = object(&[
            ("ssh_keys", list(&[key])),
            ("groups", list(&["adm", "www"])),
        ]);
        let number = |value| Value::new(Data::Number(Number::Int(value)));
        let text = script(&[
            ("hostname", Value::string("web.example.org")),
            ("timezone", Value::string("Europe/Berlin")),
            (
                "groups",
                object(&[("www", object(&[("gid", number(1500))]))]),
            ),
            ("users", object(&[("admin", admin)])),
            ("enable", list(&["getty@tty1.service"])),
            ("mask", list(&["tmp.mount"])),
            ("kernel_arguments", list(&["quiet", "panic=10"])),
        ])
        .unwrap();
        for line in [
            "set_host_name 'web.example.org'",
            "set_timezone 'Europe/Berlin'",
            "add_group 'www' '1500'",
            r"add_user 'admin' '' '/bin/bash' 'adm,www' '' '' 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO7nYzhvHy9nWYiOmLsWUwcPLMzTzKGZuYVaXUL3lyQn it'\''s me'",
            "set_units 'mask' 'tmp.mount'",
            "set_units 'enable' 'getty@tty1.service'",
            "set_kernel_arguments 'quiet panic=10'",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn an_interface_becomes_a_file_of_networkd() {
        let interface = object(&[
            ("addresses", list(&["192.0.2.10/24", "2001:db8::2/64"])),
            ("gateways", list(&["192.0.2.1"])),
        ]);
        let text = script(&[("interfaces", object(&[("en*", interface)]))]).unwrap();
        let file = "add_interface '20-impasto.network' '[Match]\nName=en*\n\n[Network]\nAddress=192.0.2.10/24\n\
                    Address=2001:db8::2/64\nGateway=192.0.2.1\n'";
        assert!(text.contains(file), "{text}");
    }

    #[test]
    fn what_no_machine_takes_is_refused_by_its_name() {
        let one = |name: &'static str, value: Value| vec![(name, value)];
        let interface = |address| object(&[("en*", object(&[("addresses", list(&[address]))]))]);
        for (params, sentence) in [
            (vec![], "nothing is set"),
            (
                one("hostname", Value::string("-web")),
                "not a valid host name",
            ),
            (one("timezone", Value::string("../etc")), "is not valid"),
            (one("timezone", Value::string("/Europe")), "is not valid"),
            (one("locale", Value::string("de DE")), "is not valid"),
            (
                one("enable", list(&["nginx"])),
                "not a valid name of a unit",
            ),
            (
                one("enable", list(&["getty@.service"])),
                "not a valid name of a unit",
            ),
            (
                one("mask", list(&["a/b.service"])),
                "not a valid name of a unit",
            ),
            (
                vec![("mask", list(&["a.timer"])), ("enable", list(&["a.timer"]))],
                "also in `mask`",
            ),
            (
                one("users", object(&[("Bob", object(&[]))])),
                "not a valid user name",
            ),
            (
                one("groups", object(&[("a b", object(&[]))])),
                "not a valid group name",
            ),
            (
                one("interfaces", interface("192.0.2.10")),
                "is not an address",
            ),
            (
                one("interfaces", interface("192.0.2.10/33")),
                "is not an address",
            ),
            (
                one("kernel_arguments", list(&["a b"])),
                "not a single kernel argument",
            ),
        ] {
            let errors = script(&params).unwrap_err();
            assert!(
                errors[0].message.contains(sentence),
                "{params:?}: {errors:?}"
            );
        }
    }
}
