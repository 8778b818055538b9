//! A stage's evaluated parameters, and how a kind reads them.
//! Types are checked before a kind sees them (by `Type::check`'s caller, the recipe); knows no kind.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::number::Number;
use crate::value::{Data, Origin, Value};

/// A stage's parameters by name, of the types that its kind declares.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Params(pub BTreeMap<String, Value>);

/// A secret's value; shows itself to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Secret(value.into())
    }

    /// The value itself, for the sandbox and the redactor.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Params {
    /// The parameter's value; none where it is not given or null.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| value.data != Data::Null)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str)
    }

    /// Where a text parameter's text stands.
    pub fn origin(&self, name: &str) -> Option<&Origin> {
        self.get(name).and_then(|value| value.origin.as_deref())
    }

    /// A truth value, false where it is not given.
    pub fn flag(&self, name: &str) -> bool {
        matches!(
            self.get(name).map(|value| &value.data),
            Some(Data::Bool(true))
        )
    }

    pub fn int(&self, name: &str) -> Option<i64> {
        match self.get(name)?.data {
            Data::Number(Number::Int(whole)) => Some(whole),
            _ => None,
        }
    }

    /// A list's elements; none where it is not given.
    pub fn list(&self, name: &str) -> &[Value] {
        match self.get(name).map(|value| &value.data) {
            Some(Data::List(items)) => items,
            _ => &[],
        }
    }

    /// A list of texts.
    pub fn texts(&self, name: &str) -> Vec<String> {
        self.list(name)
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    }

    /// An object's or map's pairs, in order of their names; none where it is not given.
    pub fn pairs(&self, name: &str) -> impl Iterator<Item = (&String, &Value)> {
        let object = match self.get(name).map(|value| &value.data) {
            Some(Data::Object(pairs)) => Some(&**pairs),
            _ => None,
        };
        object.into_iter().flatten()
    }

    /// A map of texts.
    pub fn text_map(&self, name: &str) -> BTreeMap<String, String> {
        let texts = self
            .pairs(name)
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        texts.collect()
    }

    /// A duration, in the spelling that [`parse_duration`] reads.
    pub fn duration(&self, name: &str) -> Option<Duration> {
        parse_duration(self.text(name)?)
    }
}

/// Reads `90s`, `15m`, `2h`, `1h30m` or `30d`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut seconds = 0u64;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let factor = match rest.as_bytes()[digits] {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            _ => return None,
        };
        seconds = seconds.checked_add(number.checked_mul(factor)?)?;
        rest = &rest[digits + 1..];
    }
    Some(Duration::from_secs(seconds))
}

/// Reads `512MiB`, `8GiB` or `1TiB`, in bytes; `M`, `G` and `T` mean the same.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let shift = match &text[digits..] {
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

/// Reads an octal mode such as `0644`; permission bits only.
pub fn parse_mode(text: &str) -> Option<u32> {
    let mode = u32::from_str_radix(text, 8).ok()?;
    ((3..=5).contains(&text.len()) && mode <= 0o7777 && !text.starts_with('+')).then_some(mode)
}

/// Writes a duration as [`parse_duration`] reads it, in whole seconds.
pub fn print_duration(duration: Duration) -> String {
    let mut rest = duration.as_secs();
    let mut text = String::new();
    for (unit, factor) in [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)] {
        if rest >= factor {
            text += &format!("{}{unit}", rest / factor);
            rest %= factor;
        }
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        assert_eq!(parse_duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(parse_duration("90s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("30d"), Some(Duration::from_secs(2_592_000)));
        for text in ["0s", "45s", "1h30m", "30d", "1d1s"] {
            assert_eq!(print_duration(parse_duration(text).unwrap()), text);
        }
        for wrong in [
            "",
            "10",
            "s",
            "1y",
            "-1s",
            "99999999999999999999s",
            "9999999999999999h",
        ] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_size("8GiB"), Some(8 << 30));
        assert_eq!(parse_size("3G"), Some(3 << 30));
        assert_eq!(parse_size("512MiB"), Some(512 << 20));
        for wrong in [
            "",
            "8",
            "GiB",
            "8GB",
            "8 GiB",
            "-8GiB",
            "1.5GiB",
            "99999999999999T",
        ] {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn modes_are_read() {
        assert_eq!(parse_mode("0755"), Some(0o755));
        assert_eq!(parse_mode("644"), Some(0o644));
        for wrong in ["", "7", "0888", "+755", "77777", "010000"] {
            assert_eq!(parse_mode(wrong), None, "{wrong}");
        }
    }
}
