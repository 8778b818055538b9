//! Functions between encodings: base64, JSON, digests.

use std::collections::BTreeMap;

use impasto_stages::{Data, Number, NumberError, Value};
use sha2::{Digest, Sha256};

use super::{Fail, Function, exactly, function, text_arg};
use crate::recipe::convert;

pub(super) static FUNCTIONS: &[Function] = &[
    function(
        "base64decode",
        "base64decode(text)",
        exactly(1),
        "The decoded content of a base64 string.",
        |args| {
            let text = text_arg(&args, 0)?;
            let bytes = decode(&text).ok_or_else(|| super::wrong(&args, 0, "base64"))?;
            let text = String::from_utf8(bytes)
                .map_err(|_| Fail::arg(0, "the decoded bytes are not UTF-8 text"))?;
            Ok(Value::string(text))
        },
    ),
    function(
        "base64encode",
        "base64encode(text)",
        exactly(1),
        "A string encoded as base64.",
        |args| Ok(Value::string(encode(text_arg(&args, 0)?.as_bytes()))),
    ),
    function(
        "jsondecode",
        "jsondecode(text)",
        exactly(1),
        "The value of a JSON document.",
        |args| {
            let text = text_arg(&args, 0)?;
            match serde_json::from_str(&text) {
                Ok(json) => from_json(json).map_err(|number| {
                    Fail::arg(0, format!("the number {number} {}", NumberError::TooLong))
                }),
                // The error's text has no part of the JSON in it, only the place.
                Err(error) => Err(Fail::arg(0, format!("this is not valid JSON: {error}"))),
            }
        },
    )
    .costs(|args| {
        // Each of these begins or ends a value.
        let text = args[0].as_str().unwrap_or_default();
        text.len() as u64 + 200 * text.bytes().filter(|byte| b",:[{".contains(byte)).count() as u64
    }),
    function(
        "jsonencode",
        "jsonencode(value)",
        exactly(1),
        "A value as JSON on one line, with sorted keys.",
        |args| {
            let json = to_json(&args[0])
                .ok_or_else(|| Fail::arg(0, "a stage cannot be encoded as JSON"))?;
            Ok(Value::string(json.to_string()))
        },
    )
    .costs(super::cost_of_all),
    function(
        "sha256",
        "sha256(text)",
        exactly(1),
        "The SHA-256 of a string, in hexadecimal.",
        |args| {
            use std::fmt::Write;
            let digest = Sha256::digest(text_arg(&args, 0)?.as_bytes());
            let mut hex = String::with_capacity(64);
            for byte in digest {
                let _ = write!(hex, "{byte:02x}");
            }
            Ok(Value::string(hex))
        },
    ),
];

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group
            .iter()
            .fold(0u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - group.len()));
        for index in 0..4 {
            let sextet = (word >> (18 - 6 * index)) as usize & 63;
            out.push(if index <= group.len() {
                ALPHABET[sextet] as char
            } else {
                '='
            });
        }
    }
    out
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let bytes: Vec<u8> = text
        .bytes()
        .filter(|byte| !matches!(byte, b'\n' | b'\r'))
        .collect();
    if !bytes.len().is_multiple_of(4) {
        return None;
    }
    let mut out = Vec::with_capacity(bytes.len() / 4 * 3);
    let last = bytes.len().saturating_sub(4);
    for (at, group) in bytes.chunks(4).enumerate() {
        let padding = group.iter().rev().take_while(|byte| **byte == b'=').count();
        if padding > 2 || padding > 0 && at * 4 != last {
            return None;
        }
        let mut word = 0u32;
        for byte in &group[..4 - padding] {
            let sextet = ALPHABET.iter().position(|letter| letter == byte)?;
            word = word << 6 | sextet as u32;
        }
        word <<= 6 * padding;
        out.extend_from_slice(&word.to_be_bytes()[1..4 - padding]);
    }
    Some(out)
}

/// A value of a JSON document.
///
/// # Errors
/// It holds a number that would have to be rounded: its text.
pub(in crate::recipe) fn from_json(json: serde_json::Value) -> Result<Value, String> {
    Ok(match json {
        serde_json::Value::Null => Value::new(Data::Null),
        serde_json::Value::Bool(truth) => convert::truth(truth),
        serde_json::Value::Number(number) => {
            convert::number(Number::parse(number.as_str()).map_err(|_| number.as_str().to_owned())?)
        }
        serde_json::Value::String(text) => Value::string(text),
        serde_json::Value::Array(items) => {
            convert::list(items.into_iter().map(from_json).collect::<Result<_, _>>()?)
        }
        serde_json::Value::Object(items) => {
            let items = items
                .into_iter()
                .map(|(key, item)| Ok((key, from_json(item)?)));
            convert::object(items.collect::<Result<BTreeMap<_, _>, String>>()?)
        }
    })
}

fn to_json(value: &Value) -> Option<serde_json::Value> {
    Some(match &value.data {
        Data::Null => serde_json::Value::Null,
        Data::Bool(truth) => (*truth).into(),
        Data::Number(number) => serde_json::Value::Number(number.to_string().parse().ok()?),
        Data::String(text) => text.as_ref().into(),
        Data::List(items) => items
            .iter()
            .map(to_json)
            .collect::<Option<Vec<_>>>()?
            .into(),
        Data::Object(items) => {
            let items = items
                .iter()
                .map(|(key, item)| Some((key.clone(), to_json(item)?)));
            serde_json::Value::Object(items.collect::<Option<_>>()?)
        }
        Data::Stage(_) | Data::StageFile { .. } => return None,
    })
}
