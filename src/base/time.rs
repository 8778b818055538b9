//! Times as servers and archives write them, and as people read them. Knows no clock.

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

/// Reads a time as HTTP and Release files give it (`Sat, 11 Jul 2026 10:16:37 UTC`), in seconds since 1970.
pub fn parse(text: &str) -> Option<u64> {
    static PARSER: DateTimeParser = DateTimeParser::new().relaxed_weekday(true);
    // The RFC's own word for it is GMT; archives write either.
    let text = text.trim();
    let text = text
        .strip_suffix("UTC")
        .map_or_else(|| text.to_owned(), |rest| format!("{rest}GMT"));
    let seconds = PARSER.parse_timestamp(text).ok()?.as_second();
    u64::try_from(seconds).ok()
}

/// A time for people, in UTC.
pub fn date(seconds: u64) -> String {
    let time = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(
        || format!("{seconds} s"),
        |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_archives_are_read() {
        for text in [
            "Sat, 11 Jul 2026 10:16:37 UTC",
            " Sat, 11 Jul 2026 10:16:37 GMT",
            "Sat, 11 Jul 2026 12:16:37 +0200",
        ] {
            let read = parse(text);
            assert_eq!(
                read.map(date).as_deref(),
                Some("2026-07-11 10:16 UTC"),
                "{text}"
            );
        }
        for text in [
            "",
            "UTC",
            "2026-07-11",
            "Sat, 11 Jul 1926 10:16:37 UTC",
            "Sat, 31 Jun 2026 10:16:37 UTC",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
