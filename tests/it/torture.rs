//! Tests with a long form: how often they do what they do.

/// How many times a test does its work: `IMPASTO_TORTURE_<name>`, or few times in the ordinary suite.
pub(crate) fn count(name: &str, small: u64) -> u64 {
    let variable = format!("IMPASTO_TORTURE_{name}");
    let count = std::env::var(&variable).ok().map_or(small, |text| text.parse().unwrap());
    println!("{variable}={count}");
    count
}
