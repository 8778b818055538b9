//! Functions of numbers.

use impasto_stages::{Data, Number, Value};

use super::{Fail, Function, at_least, exactly, function, int_arg, list_arg, number_arg, text_arg};
use crate::recipe::convert::{number, to_number};

pub(super) static FUNCTIONS: &[Function] = &[
    function("abs", "abs(number)", exactly(1), "The number without its sign.", |args| {
        Ok(number(match number_arg(&args, 0)? {
            Number::Int(whole) => whole.checked_abs().map_or(Number::Float((whole as f64).abs()), Number::Int),
            Number::Float(float) => Number::Float(float.abs()),
        }))
    }),
    function("ceil", "ceil(number)", exactly(1), "The nearest whole number that is not smaller.", |args| {
        Ok(round(number_arg(&args, 0)?, f64::ceil))
    }),
    function("floor", "floor(number)", exactly(1), "The nearest whole number that is not larger.", |args| {
        Ok(round(number_arg(&args, 0)?, f64::floor))
    }),
    function("log", "log(number, base)", exactly(2), "The logarithm of a number to a base.", |args| {
        finite(number_arg(&args, 0)?.as_f64().log(number_arg(&args, 1)?.as_f64()))
    }),
    function("max", "max(numbers...)", at_least(1), "The largest of the numbers.", |args| {
        extreme(&args, |a, b| a.as_f64() > b.as_f64())
    }),
    function("min", "min(numbers...)", at_least(1), "The smallest of the numbers.", |args| {
        extreme(&args, |a, b| a.as_f64() < b.as_f64())
    }),
    function(
        "parseint",
        "parseint(text, base)",
        exactly(2),
        "The whole number that a text spells in a base, 2 to 36.",
        parseint,
    ),
    function("pow", "pow(number, power)", exactly(2), "A number to a power.", |args| {
        let (base, power) = (number_arg(&args, 0)?, number_arg(&args, 1)?);
        if let (Number::Int(base), Number::Int(power)) = (base, power)
            && let Some(whole) = u32::try_from(power).ok().and_then(|power| base.checked_pow(power))
        {
            return Ok(number(Number::Int(whole)));
        }
        finite(base.as_f64().powf(power.as_f64()))
    }),
    function("signum", "signum(number)", exactly(1), "-1, 0 or 1: the sign of a number.", |args| {
        let float = number_arg(&args, 0)?.as_f64();
        Ok(number(Number::Int(if float > 0.0 {
            1
        } else if float < 0.0 {
            -1
        } else {
            0
        })))
    }),
    function("sum", "sum(list)", exactly(1), "The sum of a list's numbers.", |args| {
        let mut whole = Some(0i64);
        let mut float = 0.0;
        for item in list_arg(&args, 0)? {
            let Some(next) = to_number(item) else {
                return Err(Fail::arg(0, "the list holds something that is no number"));
            };
            whole = match next {
                Number::Int(next) => whole.and_then(|sum| sum.checked_add(next)),
                Number::Float(_) => None,
            };
            float += next.as_f64();
        }
        whole.map_or_else(|| finite(float), |whole| Ok(number(Number::Int(whole))))
    }),
];

fn round(value: Number, by: fn(f64) -> f64) -> Value {
    number(match value {
        Number::Int(whole) => Number::Int(whole),
        Number::Float(float) => Number::from_f64(by(float)),
    })
}

fn finite(float: f64) -> Result<Value, Fail> {
    if float.is_finite() {
        Ok(number(Number::from_f64(float)))
    } else {
        Err(Fail::new("the result is no finite number"))
    }
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
        other => return Err(Fail::arg(1, format!("a base from 2 to 36 is needed, not {other}"))),
    };
    let wrong = || super::wrong(&args, 0, &format!("a whole number in base {base}"));
    if text.starts_with('+') {
        return Err(wrong());
    }
    let whole = i64::from_str_radix(&text, base).map_err(|_| wrong())?;
    Ok(Value::new(Data::Number(Number::Int(whole))))
}
