//! How much of the machine a stage may use.
//! Knows numbers, not how they are enforced. They are in no key: what a limit stops has no result.

use crate::error::ParamError;
use crate::number::Number;
use crate::params::{Params, parse_size};
use crate::registry::{ParamSpec, Type};
use crate::value::{Data, Value};

/// Limits of one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Processes and threads at one time.
    pub processes: u64,
    /// Memory of all processes and of the files in memory, in bytes; three quarters of the machine's where none is given.
    pub memory: Option<u64>,
    /// Files in memory (`/tmp`, `/run` and `/dev/shm` together), in bytes; half of the machine's memory where none is given.
    pub tmpfs: Option<u64>,
    /// Each secret, in bytes.
    pub secret: u64,
    /// What the steps print, in bytes.
    pub log: u64,
    /// Data of each output, in bytes; holes do not count.
    pub output: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            processes: 32_768,
            memory: None,
            tmpfs: None,
            secret: 1 << 20,
            log: 256 << 20,
            output: 64 << 30,
        }
    }
}

const SIZES: [&str; 5] = ["memory", "tmpfs", "secret", "log", "output"];

const FIELDS: &[ParamSpec] = &[
    ParamSpec::optional(
        "processes",
        Type::Int,
        "Processes and threads at one time. Default: 32768.",
    ),
    ParamSpec::optional(
        "memory",
        Type::Text,
        "Memory of the processes, including tmpfs. Default: 75 % of the machine's.",
    ),
    ParamSpec::optional(
        "tmpfs",
        Type::Text,
        "Files in /tmp, /run and /dev/shm together. Default: 50 % of the machine's memory.",
    ),
    ParamSpec::optional(
        "secret",
        Type::Text,
        "Size of each secret. Default: \"1MiB\".",
    ),
    ParamSpec::optional("log", Type::Text, "Size of the log. Default: \"256MiB\"."),
    ParamSpec::optional(
        "output",
        Type::Text,
        "Data of each output, not counting holes. Default: \"64GiB\".",
    ),
];

/// The parameter of every kind that runs programs.
pub(crate) const LIMITS: ParamSpec = ParamSpec::optional(
    "limits",
    Type::Object(FIELDS),
    "What the stage may use at most: { processes = 1000, memory = \"8GiB\", tmpfs = \"4GiB\", secret = \"1MiB\", log = \
     \"1GiB\", output = \"100GiB\" }. A stage that reaches a limit fails. Not part of the key.",
);

pub(crate) fn limits(params: &Params, errors: &mut Vec<ParamError>) -> Limits {
    let mut limits = Limits::default();
    for (name, value) in params
        .pairs("limits")
        .filter(|(_, value)| value.data != Data::Null)
    {
        if name == "processes" {
            match value.data {
                Data::Number(Number::Int(count)) if (1..=4_000_000).contains(&count) => {
                    limits.processes = count as u64
                }
                _ => errors.push(
                    ParamError::new("limits", "`processes` is not a number from 1 to 4000000")
                        .help("write a whole number, or omit it for 32768"),
                ),
            }
            continue;
        }
        let size = value.as_str().and_then(parse_size).filter(|size| *size > 0);
        match (name.as_str(), size) {
            ("memory", Some(size)) => limits.memory = Some(size),
            ("tmpfs", Some(size)) => limits.tmpfs = Some(size),
            ("secret", Some(size)) => limits.secret = size,
            ("log", Some(size)) => limits.log = size,
            ("output", Some(size)) => limits.output = size,
            (name, None) if SIZES.contains(&name) => {
                let shown = Value::as_str(value).unwrap_or_default();
                let error = ParamError::new("limits", format!("`{name}`: {shown:?} is not a size"));
                errors.push(error.help("write a size such as \"512MiB\" or \"8GiB\""));
            }
            // The recipe's types have refused it.
            _ => {}
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(fields: &[(&str, Value)]) -> (Limits, Vec<String>) {
        let object: BTreeMap<_, _> = fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        let params = Params(BTreeMap::from([(
            "limits".to_owned(),
            Value::object(object),
        )]));
        let mut errors = Vec::new();
        let limits = limits(&params, &mut errors);
        (
            limits,
            errors.into_iter().map(|error| error.message).collect(),
        )
    }

    #[test]
    fn limits_are_read_and_others_stay() {
        let processes = Value::new(Data::Number(Number::Int(200)));
        let (limits, errors) = read(&[("processes", processes), ("memory", Value::string("2GiB"))]);
        assert_eq!(
            limits,
            Limits {
                processes: 200,
                memory: Some(2 << 30),
                ..Limits::default()
            }
        );
        assert!(errors.is_empty(), "{errors:?}");
    }

    #[test]
    fn what_is_not_a_limit_is_refused() {
        for (name, value) in [
            ("processes", Value::new(Data::Number(Number::Int(0)))),
            ("memory", Value::string("much")),
            ("log", Value::string("0MiB")),
        ] {
            let (_, errors) = read(&[(name, value)]);
            assert!(
                matches!(errors.as_slice(), [error] if error.contains(name)),
                "{errors:?}"
            );
        }
    }
}
