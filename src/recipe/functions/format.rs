//! `format` and `formatlist`: specifications as printf has them, read as Go reads them.

use impasto_stages::{Data, Number, Value};

use super::text::bounded;
use super::{Fail, text_arg};
use crate::recipe::convert::{list, show, to_bool, to_number, to_text};

/// Largest width and precision.
const MAX_WIDTH: usize = 1 << 16;

pub(super) fn format(args: Vec<Value>) -> Result<Value, Fail> {
    let spec = text_arg(&args, 0)?;
    let values: Vec<&Value> = args[1..].iter().collect();
    Ok(Value::string(apply(&spec, &values)?))
}

pub(super) fn formatlist(args: Vec<Value>) -> Result<Value, Fail> {
    let spec = text_arg(&args, 0)?;
    let mut count = None;
    for (index, value) in args.iter().enumerate().skip(1) {
        if let Data::List(items) = &value.data {
            if count.is_some_and(|count| count != items.len()) {
                return Err(Fail::arg(index, "the lists differ in length"));
            }
            count = Some(items.len());
        }
    }
    let mut out = Vec::new();
    let mut bytes = 0;
    for index in 0..count.unwrap_or(1) {
        let values: Vec<&Value> = args[1..]
            .iter()
            .map(|value| match &value.data {
                Data::List(items) => &items[index],
                _ => value,
            })
            .collect();
        let text = apply(&spec, &values)?;
        bytes += text.len();
        bounded(bytes)?;
        out.push(Value::string(text));
    }
    Ok(list(out))
}

/// One `%…` of a specification.
#[derive(Default)]
struct Verb {
    minus: bool,
    plus: bool,
    space: bool,
    zero: bool,
    sharp: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

fn apply(spec: &str, values: &[&Value]) -> Result<String, Fail> {
    let mut out = String::with_capacity(spec.len());
    let mut chars = spec.chars().peekable();
    let (mut next, mut used, mut indexed) = (0, 0, false);
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let mut verb = Verb::default();
        while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '+' | ' ' | '0' | '#')) {
            match flag {
                '-' => verb.minus = true,
                '+' => verb.plus = true,
                ' ' => verb.space = true,
                '0' => verb.zero = true,
                _ => verb.sharp = true,
            }
        }
        verb.width = digits(&mut chars)?;
        if chars.next_if_eq(&'.').is_some() {
            verb.precision = Some(digits(&mut chars)?.unwrap_or(0));
        }
        if chars.next_if_eq(&'[').is_some() {
            let number = digits(&mut chars)?.unwrap_or(0);
            if chars.next() != Some(']') || number == 0 {
                return Err(Fail::arg(
                    0,
                    "`%[` must be followed by a number from 1 and `]`",
                ));
            }
            next = number - 1;
            indexed = true;
        }
        let Some(letter) = chars.next() else {
            return Err(Fail::arg(0, "the format ends within a `%` verb")
                .help("`%%` stands for a percent sign"));
        };
        let Some(value) = values.get(next) else {
            return Err(Fail::arg(
                0,
                format!(
                    "there is no value for `%{letter}`: only {} are given",
                    values.len()
                ),
            ));
        };
        next += 1;
        used = used.max(next);
        write(&mut out, letter, &verb, value, next)?;
        bounded(out.len())?;
    }
    if used < values.len() && !indexed {
        let message = format!(
            "{} values are given, but the format uses {used}",
            values.len()
        );
        return Err(Fail::arg(0, message));
    }
    Ok(out)
}

fn digits(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Option<usize>, Fail> {
    let mut number = None;
    while let Some(digit) = chars.next_if(char::is_ascii_digit) {
        let digit = digit as usize - '0' as usize;
        number = Some(
            number
                .unwrap_or(0usize)
                .saturating_mul(10)
                .saturating_add(digit),
        );
    }
    match number {
        Some(number) if number > MAX_WIDTH => {
            Err(Fail::arg(0, "a width or precision is too large"))
        }
        number => Ok(number),
    }
}

fn write(
    out: &mut String,
    letter: char,
    verb: &Verb,
    value: &Value,
    arg: usize,
) -> Result<(), Fail> {
    let wrong = |wanted: &str| {
        Fail::arg(
            arg,
            format!("`%{letter}` needs {wanted}, found {}", show(value)),
        )
    };
    let whole = || {
        to_number(value)
            .and_then(Number::as_whole)
            .ok_or_else(|| wrong("a whole number"))
    };
    let number = || to_number(value).ok_or_else(|| wrong("a number"));
    let mut numeric = true;
    let body = match letter {
        'd' => whole()?.to_string(),
        'b' => radix(whole()?, verb, "0b", |n| format!("{n:b}")),
        'o' => radix(whole()?, verb, "0", |n| format!("{n:o}")),
        'x' | 'X' => {
            let text = match &value.data {
                Data::String(text) if to_number(value).is_none() => {
                    text.bytes().map(|byte| format!("{byte:02x}")).collect()
                }
                _ => radix(whole()?, verb, "0x", |n| format!("{n:x}")),
            };
            if letter == 'X' {
                text.to_uppercase()
            } else {
                text
            }
        }
        'f' | 'F' => number()?.fixed(verb.precision.unwrap_or(6)),
        'e' | 'E' => {
            let text = exponent(number()?.as_f64(), verb.precision.unwrap_or(6));
            if letter == 'E' {
                text.to_uppercase()
            } else {
                text
            }
        }
        'g' | 'G' => number()?.to_string(),
        't' => {
            numeric = false;
            to_bool(value)
                .ok_or_else(|| wrong("true or false"))?
                .to_string()
        }
        's' | 'q' | 'v' => {
            numeric = letter == 'v' && matches!(value.data, Data::Number(_));
            let text = match (to_text(value), letter) {
                (Some(text), _) => text.to_string(),
                (None, 'v') if matches!(value.data, Data::Null) => "null".to_owned(),
                (None, 'v') => {
                    return Err(wrong("a string, a number or a boolean")
                        .help("use `jsonencode(…)` for lists"));
                }
                (None, _) => return Err(wrong("a string")),
            };
            let text = match verb.precision {
                Some(count) if !numeric => text.chars().take(count).collect(),
                _ => text,
            };
            if letter == 'q' {
                serde_json::Value::from(text).to_string()
            } else {
                text
            }
        }
        other => {
            let help = "known: %s %v %q %d %b %o %x %X %e %f %g %t %%";
            return Err(Fail::arg(0, format!("unknown verb `%{other}`")).help(help));
        }
    };
    let (sign, digits) = match body.strip_prefix('-') {
        Some(digits) if numeric => ("-", digits),
        _ if numeric && verb.plus => ("+", body.as_str()),
        _ if numeric && verb.space => (" ", body.as_str()),
        _ => ("", body.as_str()),
    };
    let missing = verb
        .width
        .unwrap_or(0)
        .saturating_sub(sign.len() + digits.chars().count());
    if verb.minus {
        out.extend([sign, digits, &" ".repeat(missing)]);
    } else if verb.zero {
        out.extend([sign, &"0".repeat(missing), digits]);
    } else {
        out.extend([&" ".repeat(missing), sign, digits]);
    }
    Ok(())
}

fn radix(number: i128, verb: &Verb, prefix: &str, spell: fn(u128) -> String) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!(
        "{sign}{}{}",
        if verb.sharp { prefix } else { "" },
        spell(number.unsigned_abs())
    )
}

/// `1.5e+06`: Go's exponent has a sign and at least two digits.
fn exponent(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => text,
    }
}
