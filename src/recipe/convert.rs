//! HCL's conversions between values, equality, and how values are shown in messages.
//! Knows values; knows no syntax.

use std::collections::BTreeMap;
use std::sync::Arc;

use impasto_stages::{Data, Marks, Number, NumberError, Value};

/// Longest text that a recipe may make, in bytes; files may be longer.
pub(super) const MAX_TEXT: usize = 8 << 20;
/// Deepest nesting of a value.
const MAX_DEPTH: u32 = 256;
/// What a value takes in memory beside its text, in bytes; for an attribute with its name's place in the object.
pub(super) const VALUE: u64 = 80;
/// The same for an attribute of an object.
const ATTRIBUTE: u64 = 136;

pub(super) fn list(items: Vec<Value>) -> Value {
    Value::list(items)
}

pub(super) fn object(items: BTreeMap<String, Value>) -> Value {
    Value::object(items)
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
        Data::String(text) => Number::parse(text).ok(),
        _ => None,
    }
}

/// What to say of a text that would be a number if it had fewer digits.
pub(super) fn too_long(value: &Value) -> Option<String> {
    let text = value.as_str().filter(|_| !is_sensitive(value))?;
    let error = Number::parse(text)
        .err()
        .filter(|error| *error == NumberError::TooLong)?;
    Some(format!("as a number it {error}; it can stay a string"))
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
        (Data::List(a), Data::List(b)) => {
            a.address() == b.address()
                || a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| same(a, b))
        }
        (Data::Object(a), Data::Object(b)) => {
            let same_pair =
                |((ka, a), (kb, b)): ((&String, &Value), (&String, &Value))| ka == kb && same(a, b);
            a.address() == b.address()
                || a.len() == b.len() && a.iter().zip(b.iter()).all(same_pair)
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
    let mut keyed: Vec<(String, Value)> = items
        .into_iter()
        .map(|item| (identity(&item), item))
        .collect();
    keyed.sort_by(|(ka, a), (kb, b)| match (&a.data, &b.data) {
        (Data::Number(a), Data::Number(b)) => a.cmp(b),
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
        Data::List(items) => marks.unite(&items.below().marks),
        Data::Object(items) => marks.unite(&items.below().marks),
        _ => {}
    }
}

/// Whether a value or anything in it is sensitive.
pub(super) fn is_sensitive(value: &Value) -> bool {
    value.is_sensitive()
}

/// Whether a value is nested too deep to go on with.
pub(super) fn is_too_deep(value: &Value) -> bool {
    depth_of(value) > MAX_DEPTH
}

fn depth_of(value: &Value) -> u32 {
    match &value.data {
        Data::List(items) => items.below().depth,
        Data::Object(items) => items.below().depth,
        _ => 0,
    }
}

/// How many values a value is when written out, and how long its texts are then, in bytes.
pub(super) fn size_of(value: &Value) -> (u64, u64) {
    match &value.data {
        Data::List(items) => (items.below().parts, items.below().bytes),
        Data::Object(items) => (items.below().parts, items.below().bytes),
        Data::String(text) => (1, text.len() as u64),
        _ => (1, 0),
    }
}

/// What a value takes in memory when it shares nothing, in bytes.
pub(super) fn cost_written_out(value: &Value) -> u64 {
    let (parts, bytes) = size_of(value);
    parts.saturating_mul(ATTRIBUTE).saturating_add(bytes)
}

/// What a value takes in memory beside what it may share with others, in bytes: lists in a list are its own.
pub(super) fn cost_shared(value: &Value) -> u64 {
    let own = |value: &Value| match &value.data {
        Data::List(items) => items.len() as u64 * VALUE,
        Data::Object(items) => items.keys().map(|key| ATTRIBUTE + key.len() as u64).sum(),
        _ => 0,
    };
    let inner = match &value.data {
        Data::List(items) => items.iter().map(own).sum(),
        _ => 0,
    };
    VALUE + own(value) + inner
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
