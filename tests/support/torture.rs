//! How often a test that repeats itself with random choices does so: seldom in `make test`, often in `make torture`.
//! Knows names and numbers, not what is repeated.
//!
//! A test of this kind has `torture` in its name, takes its count and seed from here, and prints what came of it.

use std::time::SystemTime;

/// The rounds of a test: the variable `IMPASTO_TORTURE_<NAME>`; else `small`, so many times more as the variable
/// `IMPASTO_TORTURE` says. Printed.
pub(crate) fn count(name: &str, small: u64) -> u64 {
    let variable = format!("IMPASTO_TORTURE_{}", name.to_uppercase());
    let number = |variable: &str| {
        let text = std::env::var(variable).ok()?;
        Some(
            text.parse::<u64>()
                .unwrap_or_else(|_| panic!("{variable} is not a number: {text}")),
        )
    };
    let count = number(&variable).unwrap_or_else(|| small * number("IMPASTO_TORTURE").unwrap_or(1));
    println!("{variable}={count}");
    count
}

/// Where the random choices start: the variable `IMPASTO_TEST_SEED`, or the clock. Printed.
pub(crate) fn seed() -> u64 {
    let seed = match std::env::var("IMPASTO_TEST_SEED") {
        Ok(seed) => seed.parse().expect("IMPASTO_TEST_SEED is a number"),
        Err(_) => SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1,
    };
    println!("IMPASTO_TEST_SEED={seed}");
    seed
}
