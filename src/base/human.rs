//! Numbers and errors as people say them: sizes, durations, causes.
//! Knows no terminal.

use std::error::Error;
use std::time::Duration;

/// An error, what caused it, what caused that, and so on.
pub fn chain<'e>(
    error: &'e (dyn Error + 'static),
) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// What caused an error, a text each, the nearest first.
pub fn causes(error: &(dyn Error + 'static)) -> Vec<String> {
    chain(error).skip(1).map(ToString::to_string).collect()
}

/// An error and its causes on one line.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    chain(error)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// A duration as people say it: `0.02 s`, `3.6 s`, `2 min 10 s`.
pub fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 0.995 {
        format!("{seconds:.2} s")
    } else if seconds < 119.95 {
        format!("{seconds:.1} s")
    } else {
        let whole = seconds.round() as u64;
        format!("{} min {} s", whole / 60, whole % 60)
    }
}

/// How long something takes that is not known for sure: `<1 s`, `~9 s`, `~2 min 10 s`, `~1 h 5 min`.
pub fn about(duration: Duration) -> String {
    let seconds = duration.as_secs_f64().round() as u64;
    match seconds {
        0 => "<1 s".to_owned(),
        1..60 => format!("~{seconds} s"),
        60..600 => {
            // Seconds would pretend.
            let tens = (seconds + 5) / 10 * 10;
            match tens % 60 {
                0 => format!("~{} min", tens / 60),
                rest => format!("~{} min {rest} s", tens / 60),
            }
        }
        600..3600 => format!("~{} min", (seconds + 30) / 60),
        _ => match (seconds + 30) / 60 {
            minutes if minutes % 60 == 0 => format!("~{} h", minutes / 60),
            minutes => format!("~{} h {} min", minutes / 60, minutes % 60),
        },
    }
}

/// A number of bytes as people say it: `512 B`, `1.2 kB`, `569 MB`.
pub fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if value < 999.5 || unit == "TB" {
            return if unit == "B" || value >= 99.95 {
                format!("{value:.0} {unit}")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1000.0;
    }
    unreachable!("BUG: the last unit takes every number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_said_as_people_say_them() {
        let durations: Vec<_> = [0, 20, 3600, 130_000]
            .map(|ms| seconds(Duration::from_millis(ms)))
            .into();
        assert_eq!(durations, ["0.00 s", "0.02 s", "3.6 s", "2 min 10 s"]);
        let left = [
            0, 9400, 59_600, 61_000, 127_000, 599_000, 3_540_000, 3_900_000,
        ]
        .map(Duration::from_millis);
        assert_eq!(
            left.map(about),
            [
                "<1 s",
                "~9 s",
                "~1 min",
                "~1 min",
                "~2 min 10 s",
                "~10 min",
                "~59 min",
                "~1 h 5 min"
            ]
        );
        let sizes: Vec<_> = [0, 999, 1000, 1_234_567, 569_000_000, 999_999_999, u64::MAX]
            .map(bytes)
            .into();
        assert_eq!(
            sizes,
            [
                "0 B",
                "999 B",
                "1.0 kB",
                "1.2 MB",
                "569 MB",
                "1.0 GB",
                "18446744 TB"
            ]
        );
    }
}
