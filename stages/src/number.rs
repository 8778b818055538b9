//! Numbers of recipes: exact decimals of up to 28 digits, and an error where more would be needed.
//! Knows digits; knows no syntax of recipes.

use std::cmp::Ordering;
use std::fmt;

use rust_decimal::{Decimal, RoundingStrategy};

/// A number. What has a fraction, or does not fit an `i64`, is a decimal; so that each number has one form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    Int(i64),
    /// Any other number, without zeros at its end.
    Decimal(Decimal),
}

/// Why there is no such number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// The text does not spell a number.
    #[error("is not a number")]
    Text,
    /// It would have to be rounded.
    #[error("has more than 28 digits")]
    TooLong,
    /// A division by zero.
    #[error("is divided by zero")]
    Zero,
}

impl Number {
    /// Reads a decimal number: digits, a point, an exponent; a sign may stand before it.
    ///
    /// # Errors
    /// The text spells no number, or one that would have to be rounded.
    pub fn parse(text: &str) -> Result<Number, NumberError> {
        if let Ok(whole) = text.parse() {
            return Ok(Number::Int(whole));
        }
        let negative = text.starts_with('-');
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (digits, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((digits, exponent)) => (digits, Some(exponent)),
            None => (unsigned, None),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !all(whole) || !all(fraction) || whole.len() + fraction.len() == 0 {
            return Err(NumberError::Text);
        }
        let exponent = match exponent {
            None => 0,
            Some(text) => {
                let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
                if digits.is_empty() || !all(digits) {
                    return Err(NumberError::Text);
                }
                // One that does not fit is out of range with whatever digits stand before it.
                text.parse::<i32>().unwrap_or(if text.starts_with('-') {
                    i32::MIN
                } else {
                    i32::MAX
                })
            }
        };
        let digits = format!("{whole}{fraction}");
        let kept = digits.trim_end_matches('0');
        if kept.is_empty() {
            return Ok(Number::Int(0));
        }
        // Digits after the point; fewer than none where zeros follow.
        let dropped = (digits.len() - kept.len()) as i64;
        let scale = fraction.len() as i64 - dropped - i64::from(exponent);
        let mantissa: i128 = kept
            .trim_start_matches('0')
            .parse()
            .map_err(|_| NumberError::TooLong)?;
        let zeros = u32::try_from(-scale.min(0))
            .ok()
            .and_then(|zeros| 10i128.checked_pow(zeros));
        let mantissa = zeros
            .and_then(|zeros| mantissa.checked_mul(zeros))
            .ok_or(NumberError::TooLong)?;
        let scale = u32::try_from(scale.max(0)).map_err(|_| NumberError::TooLong)?;
        let mantissa = if negative { -mantissa } else { mantissa };
        let decimal =
            Decimal::try_from_i128_with_scale(mantissa, scale).map_err(|_| NumberError::TooLong)?;
        Ok(Number::from_decimal(decimal))
    }

    /// A float as the shortest digits that tell it from others.
    ///
    /// # Errors
    /// It is not finite, or too large or small.
    pub fn from_f64(float: f64) -> Result<Number, NumberError> {
        Number::parse(&float.to_string())
    }

    pub fn as_f64(self) -> f64 {
        match self {
            Number::Int(whole) => whole as f64,
            Number::Decimal(decimal) => decimal.to_string().parse().unwrap_or(f64::NAN),
        }
    }

    /// The whole number that it is, if it is one.
    pub fn as_whole(self) -> Option<i128> {
        match self {
            Number::Int(whole) => Some(whole.into()),
            Number::Decimal(decimal) => (decimal.scale() == 0).then(|| decimal.mantissa()),
        }
    }

    /// With so many digits after the point, rounded to the nearest, halves to the even one.
    pub fn fixed(self, digits: usize) -> String {
        let places = u32::try_from(digits)
            .unwrap_or(u32::MAX)
            .min(Decimal::MAX_SCALE);
        let rounded = self
            .decimal()
            .round_dp_with_strategy(places, RoundingStrategy::MidpointNearestEven)
            .normalize();
        let text = rounded.to_string();
        let known = text
            .split_once('.')
            .map_or(0, |(_, fraction)| fraction.len());
        let point = if known == 0 && digits > 0 { "." } else { "" };
        format!("{text}{point}{}", "0".repeat(digits - known))
    }

    /// The sum.
    ///
    /// # Errors
    /// It would have to be rounded.
    pub fn plus(self, other: Number) -> Result<Number, NumberError> {
        if let (Number::Int(a), Number::Int(b)) = (self, other)
            && let Some(sum) = a.checked_add(b)
        {
            return Ok(Number::Int(sum));
        }
        let (a, b) = (self.decimal(), other.decimal());
        let sum = a.checked_add(b).ok_or(NumberError::TooLong)?;
        exact(
            sum,
            sum.is_zero() || sum.scale() >= a.scale().max(b.scale()),
        )
    }

    /// The difference.
    ///
    /// # Errors
    /// As those of [`Number::plus`].
    pub fn minus(self, other: Number) -> Result<Number, NumberError> {
        self.plus(other.negated())
    }

    /// The product.
    ///
    /// # Errors
    /// It would have to be rounded.
    pub fn times(self, other: Number) -> Result<Number, NumberError> {
        if let (Number::Int(a), Number::Int(b)) = (self, other)
            && let Some(product) = a.checked_mul(b)
        {
            return Ok(Number::Int(product));
        }
        let (a, b) = (self.decimal(), other.decimal());
        let product = a.checked_mul(b).ok_or(NumberError::TooLong)?;
        exact(
            product,
            a.is_zero() || b.is_zero() || product.scale() >= a.scale() + b.scale(),
        )
    }

    /// The quotient, rounded to 28 digits where it has no end.
    ///
    /// # Errors
    /// The other one is zero; the quotient is too large or small.
    pub fn over(self, other: Number) -> Result<Number, NumberError> {
        let (a, b) = (self.decimal(), other.decimal());
        if b.is_zero() {
            return Err(NumberError::Zero);
        }
        let quotient = a.checked_div(b).ok_or(NumberError::TooLong)?;
        exact(quotient, a.is_zero() || !quotient.is_zero())
    }

    /// What is left when it is divided; it has the sign of the dividend.
    ///
    /// # Errors
    /// The other one is zero; the two are too far apart.
    pub fn rest(self, other: Number) -> Result<Number, NumberError> {
        let (a, b) = (self.decimal(), other.decimal());
        if b.is_zero() {
            return Err(NumberError::Zero);
        }
        a.checked_rem(b)
            .map(Number::from_decimal)
            .ok_or(NumberError::TooLong)
    }

    /// With the other sign.
    pub fn negated(self) -> Number {
        Number::from_decimal(-self.decimal())
    }

    /// The nearest whole number that is not larger.
    pub fn floor(self) -> Number {
        Number::from_decimal(self.decimal().floor())
    }

    fn decimal(self) -> Decimal {
        match self {
            Number::Int(whole) => Decimal::from(whole),
            Number::Decimal(decimal) => decimal,
        }
    }

    fn from_decimal(decimal: Decimal) -> Number {
        let decimal = decimal.normalize();
        match i64::try_from(decimal.mantissa()) {
            Ok(whole) if decimal.scale() == 0 => Number::Int(whole),
            _ => Number::Decimal(decimal),
        }
    }
}

/// The library rounds what has too many digits.
fn exact(decimal: Decimal, is_exact: bool) -> Result<Number, NumberError> {
    if is_exact {
        Ok(Number::from_decimal(decimal))
    } else {
        Err(NumberError::TooLong)
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        self.decimal().cmp(&other.decimal())
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Number::Int(whole) => whole.fmt(f),
            Number::Decimal(decimal) => decimal.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(text: &str) -> Number {
        Number::parse(text).unwrap()
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        for text in [
            "0",
            "-1",
            "9223372036854775808",
            "18446744073709551616",
            "0.1",
            "-0.0000000000000000000000000001",
        ] {
            assert_eq!(number(text).to_string(), text);
        }
        assert_eq!(
            number("79228162514264337593543950335").to_string(),
            "79228162514264337593543950335"
        );
        for (text, same) in [
            ("1e3", "1000"),
            ("1.50", "1.5"),
            ("-0.0", "0"),
            ("0e999999999999", "0"),
            ("25e-1", "2.5"),
        ] {
            assert_eq!(number(text), number(same), "{text}");
        }
        for text in [
            "79228162514264337593543950336",
            "1e29",
            "1e-29",
            "0.12345678901234567890123456789",
            "1e99999999999",
        ] {
            assert_eq!(Number::parse(text), Err(NumberError::TooLong), "{text}");
        }
        for text in [
            "", "-", ".", "1_000", "1e", "1e+", "0x10", "1.2.3", "--1", " 1", "inf", "NaN", "e5",
            "٣",
        ] {
            assert_eq!(Number::parse(text), Err(NumberError::Text), "{text}");
        }
    }

    #[test]
    fn nothing_is_rounded_in_silence() {
        assert_eq!(number("0.1").plus(number("0.2")), Ok(number("0.3")));
        assert_eq!(
            number("9223372036854775807").plus(number("1")),
            Ok(number("9223372036854775808"))
        );
        assert_eq!(
            number("18446744073709551616").minus(number("18446744073709551615")),
            Ok(number("1"))
        );
        assert_eq!(
            number("4294967296").times(number("4294967296")),
            Ok(number("18446744073709551616"))
        );
        assert_eq!(number("1").over(number("8")), Ok(number("0.125")));
        assert_eq!(
            number("1").over(number("3")).unwrap().to_string(),
            "0.3333333333333333333333333333"
        );
        assert_eq!(number("-7.5").rest(number("2")), Ok(number("-1.5")));
        let large = number("7922816251426433759354395033.5");
        for wrong in [
            large.plus(number("0.01")),
            large.times(number("1.1")),
            number("1e-20").times(number("1e-20")),
            number("1e-28").over(number("3")),
            number("79228162514264337593543950335").plus(number("1")),
        ] {
            assert_eq!(wrong, Err(NumberError::TooLong));
        }
        assert_eq!(number("1").over(number("0")), Err(NumberError::Zero));
        assert!(
            number("9007199254740993") > number("9007199254740992"),
            "floats cannot tell them apart"
        );
    }

    #[test]
    fn digits_after_the_point_are_as_many_as_wanted() {
        let shown: Vec<_> = [
            ("2.5", 0),
            ("3.5", 0),
            ("1", 2),
            ("0.125", 2),
            ("-1.005", 1),
            ("9007199254740993", 1),
        ]
        .map(|(text, digits)| number(text).fixed(digits))
        .into();
        assert_eq!(
            shown,
            ["2", "4", "1.00", "0.12", "-1.0", "9007199254740993.0"]
        );
        assert_eq!(number("0.1").fixed(40), format!("0.1{}", "0".repeat(39)));
    }

    proptest! {
        #[test]
        fn numbers_are_read_as_they_are_written(mantissa in any::<i64>(), scale in 0u32..=28) {
            let decimal = Number::from_decimal(Decimal::from_i128_with_scale(mantissa.into(), scale));
            prop_assert_eq!(Number::parse(&decimal.to_string()), Ok(decimal));
        }

        #[test]
        fn a_float_keeps_its_text(float in -1e15f64..1e15) {
            if let Ok(number) = Number::from_f64(float) {
                prop_assert_eq!(number.as_f64(), float);
            }
        }
    }
}
