//! HCL's conversions between values, equality, and how values are shown in messages.
//! Knows values; knows no syntax.

use std::collections::BTreeMap;
use std::sync::Arc;

use impasto_stages::{Data, Marks, Number, Value};

/// Longest text that a value may hold, in bytes.
pub(super) const MAX_TEXT: usize = 64 << 20;
/// Most values inside one value.
const MAX_PARTS: usize = 2_000_000;
/// Deepest nesting of a value.
const MAX_DEPTH: usize = 256;

pub(super) fn list(items: Vec<Value>) -> Value {
    Value::new(Data::List(items))
}

pub(super) fn object(items: BTreeMap<String, Value>) -> Value {
    Value::new(Data::Object(items))
}

pub(super) fn number(number: Number) -> Value {
    Value::new(Data::Number(number))
}

pub(super) fn int(whole: usize) -> Value {
    number(Number::Int(i64::try_from(whole).unwrap_or(i64::MAX)))
}

pub(super) fn truth(truth: bool) -> Value {
    Value::new(Data::Bool(truth))
}

/// The text that a text, number or truth value is.
pub(super) fn to_text(value: &Value) -> Option<Arc<str>> {
    match &value.data {
        Data::String(text) => Some(text.clone()),
        Data::Number(number) => Some(number.to_string().into()),
        Data::Bool(truth) => Some(if *truth { "true" } else { "false" }.into()),
        _ => None,
    }
}

/// The number that a number or a text that spells one is.
pub(super) fn to_number(value: &Value) -> Option<Number> {
    match &value.data {
        Data::Number(number) => Some(*number),
        Data::String(text) => parse_number(text),
        _ => None,
    }
}

/// Reads a decimal number, as HCL spells it; a sign may stand before it.
pub(super) fn parse_number(text: &str) -> Option<Number> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    if let Ok(whole) = text.parse::<i64>() {
        return Some(Number::Int(whole));
    }
    let float: f64 = text.parse().ok()?;
    float.is_finite().then(|| Number::from_f64(float))
}

/// The truth value that a truth value or the text `true` or `false` is.
pub(super) fn to_bool(value: &Value) -> Option<bool> {
    match &value.data {
        Data::Bool(truth) => Some(*truth),
        Data::String(text) => match &**text {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// Whether two values are equal; marks do not count.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (&a.data, &b.data) {
        (Data::List(a), Data::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Data::Object(a), Data::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((ka, a), (kb, b))| ka == kb && same(a, b))
        }
        (a, b) => a == b,
    }
}

/// A text that is equal for equal values and different for different ones; orders sets.
pub(super) fn identity(value: &Value) -> String {
    let mut out = String::new();
    write_identity(value, &mut out);
    out
}

fn write_identity(value: &Value, out: &mut String) {
    use std::fmt::Write;
    match &value.data {
        Data::Null => out.push('z'),
        Data::Bool(truth) => out.push_str(if *truth { "b1" } else { "b0" }),
        Data::Number(number) => {
            let _ = write!(out, "n{number};");
        }
        Data::String(text) => {
            let _ = write!(out, "s{text}\0");
        }
        Data::List(items) => {
            out.push('[');
            items.iter().for_each(|item| write_identity(item, out));
            out.push(']');
        }
        Data::Object(items) => {
            out.push('{');
            for (key, item) in items {
                let _ = write!(out, "{key}\0");
                write_identity(item, out);
            }
            out.push('}');
        }
        Data::Stage(stage) => {
            let _ = write!(out, "@{stage}\0");
        }
        Data::StageFile { stage, file } => {
            let _ = write!(out, "f{stage}\0{file}\0");
        }
    }
}

/// Sorts the elements and leaves each once: what a set is.
pub(super) fn into_set(items: Vec<Value>) -> Vec<Value> {
    let mut keyed: Vec<(String, Value)> = items.into_iter().map(|item| (identity(&item), item)).collect();
    keyed.sort_by(|(ka, a), (kb, b)| match (&a.data, &b.data) {
        (Data::Number(a), Data::Number(b)) => a.as_f64().total_cmp(&b.as_f64()),
        (Data::String(a), Data::String(b)) => a.cmp(b),
        _ => ka.cmp(kb),
    });
    keyed.dedup_by(|(a, _), (b, _)| a == b);
    keyed.into_iter().map(|(_, item)| item).collect()
}

/// Adds the marks of a value and of all that it holds.
pub(super) fn deep_marks(value: &Value, marks: &mut Marks) {
    marks.unite(&value.marks);
    match &value.data {
        Data::List(items) => items.iter().for_each(|item| deep_marks(item, marks)),
        Data::Object(items) => items.values().for_each(|item| deep_marks(item, marks)),
        _ => {}
    }
}

/// Whether a value or anything in it is sensitive.
pub(super) fn is_sensitive(value: &Value) -> bool {
    value.marks.sensitive.is_some()
        || match &value.data {
            Data::List(items) => items.iter().any(is_sensitive),
            Data::Object(items) => items.values().any(is_sensitive),
            _ => false,
        }
}

/// Says what makes a value too large to go on with.
pub(super) fn too_large(value: &Value) -> Option<String> {
    fn walk(value: &Value, depth: usize, parts: &mut usize, bytes: &mut usize) -> Option<&'static str> {
        *parts += 1;
        if depth > MAX_DEPTH {
            return Some("is nested too deep");
        }
        if *parts > MAX_PARTS {
            return Some("has too many parts");
        }
        let found = match &value.data {
            Data::String(text) => {
                *bytes += text.len();
                None
            }
            Data::List(items) => items.iter().find_map(|item| walk(item, depth + 1, parts, bytes)),
            Data::Object(items) => items.values().find_map(|item| walk(item, depth + 1, parts, bytes)),
            _ => None,
        };
        found.or((*bytes > MAX_TEXT).then_some("is too large"))
    }
    walk(value, 0, &mut 0, &mut 0).map(str::to_owned)
}

/// A value for a message: short, and never a sensitive one.
pub(super) fn show(value: &Value) -> String {
    if is_sensitive(value) {
        return format!("{} (sensitive)", value.type_name());
    }
    match &value.data {
        Data::List(items) if items.is_empty() => "an empty list".to_owned(),
        Data::List(_) | Data::Object(_) | Data::Null => value.type_name().to_owned(),
        Data::String(text) if text.chars().count() > 60 => {
            format!("{:?}…", text.chars().take(60).collect::<String>())
        }
        Data::String(text) => format!("{:?}", &**text),
        _ => format!("{value:?}"),
    }
}
