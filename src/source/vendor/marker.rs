//! MarkerEnvironment markers (PEP 508): whether a requirement counts for an interpreter.
//! Knows the markers' grammar and CPython on Linux; versions are compared by their numbers alone (PEP 440 has more, which
//! no interpreter's version has).

use impasto_stages::vendor::PythonTarget;

use super::wheel::machine;

/// What markers ask of an interpreter. Its last number is not known: a version of three numbers is taken for the first of
/// its minor version.
pub(super) struct MarkerEnvironment {
    version: String,
    full_version: String,
    machine: &'static str,
}

impl MarkerEnvironment {
    pub(super) fn of(target: &PythonTarget) -> MarkerEnvironment {
        MarkerEnvironment {
            version: format!("3.{}", target.minor),
            full_version: format!("3.{}.0", target.minor),
            machine: machine(target),
        }
    }

    fn value(&self, name: &str) -> Option<&str> {
        Some(match name {
            "python_version" => &self.version,
            "python_full_version" | "implementation_version" => &self.full_version,
            "os_name" => "posix",
            "sys_platform" => "linux",
            "platform_system" => "Linux",
            "platform_machine" => self.machine,
            "platform_python_implementation" => "CPython",
            "implementation_name" => "cpython",
            // A lock has no extras left to ask for, and the kernel that will run is not known.
            "extra" | "platform_release" | "platform_version" => "",
            _ => return None,
        })
    }
}

/// Whether a marker holds.
///
/// # Errors
/// It cannot be read, in words.
pub(super) fn holds(marker: &str, environment: &MarkerEnvironment) -> Result<bool, String> {
    let mut parser = MarkerParser {
        rest: marker,
        environment,
    };
    let value = parser.either();
    parser.blanks();
    match value {
        Some(value) if parser.rest.is_empty() => Ok(value),
        _ => Err(format!(
            "the marker {marker:?} cannot be read at {:?}",
            parser.rest
        )),
    }
}

struct MarkerParser<'a> {
    rest: &'a str,
    environment: &'a MarkerEnvironment,
}

/// A side of a comparison.
enum MarkerOperand<'a> {
    /// What the interpreter has; whether it is a version.
    Known(&'a str, bool),
    Literal(&'a str),
}

const OPERATORS: [&str; 10] = [
    "===", "<=", ">=", "==", "!=", "~=", "<", ">", "not in", "in",
];

impl<'a> MarkerParser<'a> {
    fn blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Takes a text that comes next.
    fn take(&mut self, text: &str) -> bool {
        self.blanks();
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self, word: &str) -> bool {
        let before = self.rest;
        if self.take(word)
            && !self
                .rest
                .starts_with(|c: char| c.is_alphanumeric() || c == '_')
        {
            return true;
        }
        self.rest = before;
        false
    }

    fn either(&mut self) -> Option<bool> {
        let mut value = self.both()?;
        while self.word("or") {
            value |= self.both()?;
        }
        Some(value)
    }

    fn both(&mut self) -> Option<bool> {
        let mut value = self.single()?;
        while self.word("and") {
            value &= self.single()?;
        }
        Some(value)
    }

    fn single(&mut self) -> Option<bool> {
        if self.take("(") {
            let value = self.either()?;
            return self.take(")").then_some(value);
        }
        let left = self.operand()?;
        let operator = OPERATORS.into_iter().find(|operator| match *operator {
            "not in" => {
                let before = self.rest;
                let both = self.word("not") && self.word("in");
                if !both {
                    self.rest = before;
                }
                both
            }
            "in" => self.word("in"),
            operator => self.take(operator),
        })?;
        let right = self.operand()?;
        compare(&left, operator, &right)
    }

    fn operand(&mut self) -> Option<MarkerOperand<'a>> {
        self.blanks();
        if let Some(quote) = self.rest.chars().next().filter(|c| matches!(c, '"' | '\'')) {
            let (text, rest) = self.rest[1..].split_once(quote)?;
            self.rest = rest;
            return Some(MarkerOperand::Literal(text));
        }
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(self.rest.len());
        let value = self.environment.value(&self.rest[..end])?;
        let name = &self.rest[..end];
        self.rest = &self.rest[end..];
        Some(MarkerOperand::Known(
            value,
            name.ends_with("version") && name != "platform_version",
        ))
    }
}

fn compare(left: &MarkerOperand<'_>, operator: &str, right: &MarkerOperand<'_>) -> Option<bool> {
    let text = |operand: &MarkerOperand<'_>| match operand {
        MarkerOperand::Known(text, _) | MarkerOperand::Literal(text) => (*text).to_owned(),
    };
    let is_version = |operand: &MarkerOperand<'_>| matches!(operand, MarkerOperand::Known(_, true));
    let (a, b) = (text(left), text(right));
    match operator {
        "in" => return Some(b.contains(&a)),
        "not in" => return Some(!b.contains(&a)),
        "===" => return Some(a == b),
        _ => {}
    }
    if is_version(left) || is_version(right) {
        // The interpreter's side has no star.
        let (own, given, operator) = if is_version(left) {
            (&a, &b, operator)
        } else {
            (&b, &a, mirrored(operator))
        };
        return compare_versions(own, operator, given);
    }
    Some(match operator {
        "==" => a == b,
        "!=" => a != b,
        "<" => a < b,
        ">" => a > b,
        "<=" => a <= b,
        ">=" => a >= b,
        _ => return None,
    })
}

fn mirrored(operator: &str) -> &str {
    match operator {
        "<" => ">",
        ">" => "<",
        "<=" => ">=",
        ">=" => "<=",
        other => other,
    }
}

/// Compares as PEP 440 does for versions of numbers; none where the other is no such version.
fn compare_versions(own: &str, operator: &str, given: &str) -> Option<bool> {
    let numbers = |text: &str| -> Option<Vec<u64>> {
        text.split('.')
            .map(|part| part.trim().parse().ok())
            .collect()
    };
    let (pattern, is_prefix) = match given.strip_suffix(".*") {
        Some(prefix) => (prefix, true),
        None => (given, false),
    };
    let (mut own, mut given) = (numbers(own)?, numbers(pattern)?);
    let length = own.len().max(given.len());
    if is_prefix {
        own.resize(length, 0);
        let same = own.starts_with(&given);
        return match operator {
            "==" => Some(same),
            "!=" => Some(!same),
            _ => None,
        };
    }
    if operator == "~=" {
        let series = given.len().checked_sub(1).filter(|length| *length > 0)?;
        own.resize(length, 0);
        let compatible = own.starts_with(&given[..series]);
        given.resize(length, 0);
        return Some(compatible && own >= given);
    }
    own.resize(length, 0);
    given.resize(length, 0);
    Some(match operator {
        "==" => own == given,
        "!=" => own != given,
        "<" => own < given,
        ">" => own > given,
        "<=" => own <= given,
        ">=" => own >= given,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(marker: &str) -> Result<bool, String> {
        let target = PythonTarget {
            minor: 11,
            machine: "arm64".to_owned(),
            glibc: 36,
        };
        holds(marker, &MarkerEnvironment::of(&target))
    }

    #[test]
    fn markers_are_decided_as_pip_decides_them() {
        for marker in [
            "python_version >= '3.8'",
            "python_version < \"3.12\" and python_version>'3.9'",
            "'3.12' > python_version",
            "python_version == '3.11.*' or os_name == 'nt'",
            "python_version ~= '3.8'",
            "python_full_version >= '3.11'",
            "python_full_version < '3.11.3'",
            "(sys_platform == 'win32' or platform_machine == 'aarch64') and implementation_name == 'cpython'",
            "platform_machine in 'aarch64 x86_64'",
            "platform_machine not in 'x86_64'",
            "sys_platform != 'darwin' and platform_python_implementation != 'PyPy'",
            "python_version in '3.11, 3.12'",
        ] {
            assert_eq!(decided(marker), Ok(true), "{marker}");
        }
        for marker in [
            "python_version < '3.11'",
            "python_version == '3.1'",
            "python_version != '3.11.*'",
            "python_version ~= '3.12'",
            "extra == 'test'",
            "os_name == 'nt' or sys_platform == 'win32' and python_version >= '3'",
            "platform_system == 'Windows'",
        ] {
            assert_eq!(decided(marker), Ok(false), "{marker}");
        }
        for marker in [
            "",
            "python_version",
            "python == '3'",
            "os_name == 'a' extra",
            "(os_name == 'a'",
            "os_name == 'a",
        ] {
            assert!(decided(marker).is_err(), "{marker}");
        }
    }
}
