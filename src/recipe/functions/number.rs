//! Functions of numbers.

use impasto_stages::{Number, NumberError, Value};

use super::{Fail, Function, at_least, exactly, function, int_arg, list_arg, number_arg, text_arg};
use crate::recipe::convert::{number, to_number};

pub(super) static FUNCTIONS: &[Function] = &[
    function(
        "abs",
        "abs(number)",
        exactly(1),
        "The absolute value of a number.",
        |args| {
            let value = number_arg(&args, 0)?;
            Ok(number(if value < Number::Int(0) {
                value.negated()
            } else {
                value
            }))
        },
    ),
    function(
        "ceil",
        "ceil(number)",
        exactly(1),
        "The number rounded up to a whole number.",
        |args| Ok(number(number_arg(&args, 0)?.negated().floor().negated())),
    ),
    function(
        "floor",
        "floor(number)",
        exactly(1),
        "The number rounded down to a whole number.",
        |args| Ok(number(number_arg(&args, 0)?.floor())),
    ),
    function(
        "log",
        "log(number, base)",
        exactly(2),
        "The logarithm of a number to a base.",
        |args| {
            result(Number::from_f64(
                number_arg(&args, 0)?
                    .as_f64()
                    .log(number_arg(&args, 1)?.as_f64()),
            ))
        },
    ),
    function(
        "max",
        "max(numbers...)",
        at_least(1),
        "The largest of the numbers.",
        |args| extreme(&args, |a, b| a > b),
    ),
    function(
        "min",
        "min(numbers...)",
        at_least(1),
        "The smallest of the numbers.",
        |args| extreme(&args, |a, b| a < b),
    ),
    function(
        "parseint",
        "parseint(text, base)",
        exactly(2),
        "A string parsed as a whole number in a base from 2 to 36.",
        parseint,
    ),
    function(
        "pow",
        "pow(number, power)",
        exactly(2),
        "A number raised to a power.",
        |args| {
            let (base, exponent) = (number_arg(&args, 0)?, number_arg(&args, 1)?);
            result(match exponent {
                Number::Int(exponent) if exponent >= 0 => power(base, exponent),
                Number::Int(exponent) => power(base, exponent.saturating_neg())
                    .and_then(|value| Number::Int(1).over(value)),
                exponent => Number::from_f64(base.as_f64().powf(exponent.as_f64())),
            })
        },
    ),
    function(
        "signum",
        "signum(number)",
        exactly(1),
        "-1, 0 or 1: the sign of a number.",
        |args| {
            Ok(number(Number::Int(
                number_arg(&args, 0)?.cmp(&Number::Int(0)) as i64,
            )))
        },
    ),
    function(
        "sum",
        "sum(list)",
        exactly(1),
        "The sum of a list's numbers.",
        |args| {
            let mut sum = Number::Int(0);
            for item in list_arg(&args, 0)? {
                let Some(next) = to_number(item) else {
                    return Err(Fail::arg(
                        0,
                        "the list contains something that is not a number",
                    ));
                };
                sum = result_of(sum.plus(next))?;
            }
            Ok(number(sum))
        },
    ),
];

fn power(base: Number, exponent: i64) -> Result<Number, NumberError> {
    let (mut product, mut square, mut left) = (Number::Int(1), base, exponent);
    // Square and multiply: what is too long is so after few steps.
    while left > 0 {
        if left & 1 == 1 {
            product = product.times(square)?;
        }
        left >>= 1;
        if left > 0 {
            square = square.times(square)?;
        }
    }
    Ok(product)
}

fn result_of(number: Result<Number, NumberError>) -> Result<Number, Fail> {
    number.map_err(|error| Fail::new(format!("the result {error}")))
}

fn result(found: Result<Number, NumberError>) -> Result<Value, Fail> {
    result_of(found).map(number)
}

fn extreme(args: &[Value], better: fn(Number, Number) -> bool) -> Result<Value, Fail> {
    let mut best = number_arg(args, 0)?;
    for index in 1..args.len() {
        let next = number_arg(args, index)?;
        if better(next, best) {
            best = next;
        }
    }
    Ok(number(best))
}

fn parseint(args: Vec<Value>) -> Result<Value, Fail> {
    let text = text_arg(&args, 0)?;
    let base = match int_arg(&args, 1)? {
        base @ 2..=36 => base as u32,
        other => {
            return Err(Fail::arg(
                1,
                format!("the base must be from 2 to 36, not {other}"),
            ));
        }
    };
    let wrong = || super::wrong(&args, 0, &format!("a whole number in base {base}"));
    if text.starts_with('+') {
        return Err(wrong());
    }
    let whole = i128::from_str_radix(&text, base).map_err(|_| wrong())?;
    result(Number::parse(&whole.to_string()))
}
