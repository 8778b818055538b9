//! The times that a text tells: dates in the usual spellings, seconds since 1970, times of day.
//! Knows spellings, not when a build ran.
//!
//! A text that tells no offset may mean UTC or the time zone of whoever wrote it; whoever asks says which ones are possible.

use std::ops::Range;
use std::sync::LazyLock;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use regex::bytes::{Captures, Regex, RegexBuilder};

/// Longest spelling, in bytes.
const LONGEST: usize = 64;
/// Seconds of a day.
const DAY: i64 = 86_400;
/// 1972-03-01.
const MARCH_OF_1972: i64 = 68_256_000;

/// A time that a text tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spoken {
    pub(super) place: Range<usize>,
    /// Which time it is.
    time: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Time {
    /// Seconds since 1970 in UTC.
    Epoch(i64),
    /// A date, with its offset to UTC where it is told: its fields as if they were UTC, and how many seconds they span.
    Date {
        at: i64,
        span: i64,
        offset: Option<i64>,
    },
    /// The same without year: fields of 1972, which has a 29th of February.
    Yearless { at: i64, span: i64 },
    /// Seconds since midnight.
    OfDay { at: i64, span: i64 },
}

impl Spoken {
    /// Whether it lies in a window, in UTC or at one of these offsets.
    pub(super) fn within(&self, window: (i64, i64), offsets: &[i64]) -> bool {
        let (first, last) = window;
        let meets = |at: i64, span: i64| at <= last && at.saturating_add(span) > first;
        let mut possible = std::iter::once(0).chain(offsets.iter().copied());
        match self.time {
            Time::Epoch(at) => meets(at, 1),
            Time::Date {
                at,
                span,
                offset: Some(offset),
            } => meets(at - offset, span),
            Time::Date {
                at,
                span,
                offset: None,
            } => possible.any(|offset| meets(at - offset, span)),
            // What returns every year or day lies in every window that is as long.
            Time::Yearless { at, span } => {
                last.saturating_sub(first) >= 366 * DAY
                    || possible.any(|offset| returns(first + offset, last + offset, at, span))
            }
            Time::OfDay { at, span } => {
                last.saturating_sub(first) >= DAY
                    || possible.any(|offset| {
                        let at = at - offset;
                        // The last time of day that is not after the window's end.
                        let latest = last - (last - at).rem_euclid(DAY);
                        meets(latest, span)
                    })
            }
        }
    }

    /// The same in seconds of UTC, where it tells a time of day and not only a date; `offset` is meant where none is told.
    pub(super) fn utc(&self, offset: i64) -> Option<i64> {
        match self.time {
            Time::Date {
                at,
                span,
                offset: told,
            } if span < DAY => Some(at - told.unwrap_or(offset)),
            Time::Yearless { at, span } if span < DAY => Some(at - offset),
            Time::OfDay { at, .. } => Some((at - offset).rem_euclid(DAY)),
            _ => None,
        }
    }

    /// Whether it tells a time of day.
    pub(super) fn has_clock(&self) -> bool {
        self.utc(0).is_some()
    }
}

/// Whether a date without year lies in a window; `at` is of 1972, a leap year, and leap years return after four.
fn returns(first: i64, last: i64, at: i64, span: i64) -> bool {
    // From March on, the same day of the next year is a day earlier.
    let march = i64::from(at >= MARCH_OF_1972);
    [0, 366 - march, 731 - march, 1096 - march]
        .into_iter()
        .any(|days| {
            let at = at + days * DAY;
            let latest = last - (last - at).rem_euclid(1461 * DAY);
            latest + span > first
        })
}

const WEEKDAY: &str = r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*,? +)?";
const CLOCK: &str = r"(?<H>\d\d?)[:.h](?<M>\d\d)(?:[:.m](?<S>\d\d)(?:[.,]\d+)?)?";
const ZONE: &str = r"(?<z>[+-]\d\d(?::?\d\d)?|(?-i:Z|[A-Z]{2,5})\b)";
const MONTH: &str = r"(?<b>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?";

/// The spellings, each anchored; the first that fits counts.
static SPELLINGS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let patterns = [
        // 2026-11-20T17:21:34Z, 2026/11/20 17:21, 2026-11-20
        format!(r"(?<y>\d{{4}})[-/.](?<m>\d\d)[-/.](?<d>\d\d)(?:[T_ ,-]{{1,2}}{CLOCK})?(?: ?{ZONE})?"),
        // 20261120T172134Z, 20261120172134, 20261120
        r"(?<y>\d{4})(?<m>\d\d)(?<d>\d\d)(?:[T_-]?(?<H>\d\d)(?<M>\d\d)(?<S>\d\d)?)?(?<z>Z|[+-]\d{4})?\b".to_owned(),
        // Fri, 20 Nov 2026 17:21:34 +0000
        format!(
            r"{WEEKDAY}(?<d>\d\d?)[ -]{MONTH}[ ,-]{{1,2}}(?<y>\d{{4}})(?:[ T,]{{1,2}}{CLOCK})?(?: ?(?<p>[AP]M))?(?: ?{ZONE})?"
        ),
        // Nov 20 17:21:34 UTC 2026, Nov 20 2026 17:21:34, Nov 20 17:21
        format!(
            r"{WEEKDAY}{MONTH} {{1,2}}(?<d>\d\d?)(?:,? +(?<y>\d{{4}})\b)?(?:,? +{CLOCK})?(?: (?<p>[AP]M))?(?: {ZONE})?(?: (?<y2>\d{{4}})\b)?"
        ),
        // 11/20/2026 and 20.11.2026
        format!(
            r"(?<i>\d\d?)[/.](?<j>\d\d?)[/.](?<y>\d{{4}}|\d\d)\b(?:[ ,]{{1,2}}{CLOCK})?(?: (?<p>[AP]M))?(?: {ZONE})?"
        ),
        // Seconds since 1970, also with milliseconds, microseconds and nanoseconds.
        r"(?<e>\d{10})(?:\d{3}|\d{6}|\d{9})?(?:\.\d+)?\b".to_owned(),
        format!(r"{CLOCK}(?: (?<p>[AP]M))?(?: ?{ZONE})?"),
    ];
    let regex = |pattern: &String| {
        let mut builder = RegexBuilder::new(&format!("^(?:{pattern})"));
        builder
            .case_insensitive(true)
            .unicode(false)
            .build()
            .expect("BUG: a spelling's pattern is wrong")
    };
    patterns.iter().map(regex).collect()
});

/// All times in a text, in their order, apart.
pub(super) fn times(text: &[u8]) -> Vec<Spoken> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let before = at.checked_sub(1).map(|before| text[before]);
        match spelled(before, &text[at..text.len().min(at + LONGEST)]) {
            Some((length, time)) => {
                found.push(Spoken {
                    place: at..at + length,
                    time,
                });
                at += length.max(1);
            }
            None => at += 1,
        }
    }
    found
}

/// The time that a text begins with, behind another byte.
fn spelled(before: Option<u8>, text: &[u8]) -> Option<(usize, Time)> {
    let first = text.first()?;
    let behind = |is: fn(&u8) -> bool| before.as_ref().is_some_and(is);
    let begins = match first {
        b'0'..=b'9' => {
            !behind(u8::is_ascii_digit) && text.get(1).is_some_and(|byte| byte.is_ascii_graphic())
        }
        byte => b"JFMASONDTWjfmasondtw".contains(byte) && !behind(u8::is_ascii_alphanumeric),
    };
    if !begins {
        return None;
    }
    SPELLINGS.iter().find_map(|spelling| {
        let captures = spelling.captures(text)?;
        Some((captures.get(0)?.len(), time(&captures)?))
    })
}

fn time(captures: &Captures<'_>) -> Option<Time> {
    let text = |name: &str| {
        captures
            .name(name)
            .and_then(|found| std::str::from_utf8(found.as_bytes()).ok())
    };
    let number = |name: &str| text(name).and_then(|text| text.parse::<i64>().ok());
    if let Some(epoch) = number("e") {
        return Some(Time::Epoch(epoch));
    }
    let (mut hour, minute, second) = (number("H"), number("M"), number("S"));
    match (text("p").map(str::to_ascii_uppercase).as_deref(), hour) {
        (Some("PM"), Some(at @ 1..=11)) => hour = Some(at + 12),
        (Some("AM"), Some(12)) => hour = Some(0),
        _ => {}
    }
    let span = if second.is_some() {
        1
    } else if hour.is_some() {
        60
    } else {
        DAY
    };
    let (hour, minute, second) = (hour.unwrap_or(0), minute.unwrap_or(0), second.unwrap_or(0));
    let day = number("d");
    let month = text("b").map_or_else(|| number("m"), month);
    let at = |year: i64, month: i64, day: i64| {
        let small = |number: i64| i8::try_from(number).ok();
        let year = i16::try_from(if year < 100 { year + 2000 } else { year }).ok()?;
        let date = DateTime::new(
            year,
            small(month)?,
            small(day)?,
            small(hour)?,
            small(minute)?,
            small(second)?,
            0,
        );
        Some(
            date.ok()?
                .to_zoned(TimeZone::UTC)
                .ok()?
                .timestamp()
                .as_second(),
        )
    };
    let year = number("y").or_else(|| number("y2"));
    let offset = text("z").and_then(offset);
    if let (Some(i), Some(j), Some(year)) = (number("i"), number("j"), year) {
        // Month first, if it can be; whoever means the other is right by chance only.
        let at = at(year, i, j).or_else(|| at(year, j, i))?;
        return Some(Time::Date { at, span, offset });
    }
    match (year, month, day) {
        (Some(year), Some(month), Some(day)) => Some(Time::Date {
            at: at(year, month, day)?,
            span,
            offset,
        }),
        (None, Some(month), Some(day)) => Some(Time::Yearless {
            at: at(1972, month, day)?,
            span,
        }),
        // Only seconds make a clock of what may be a version or a ratio.
        (None, None, None) if span < DAY => Some(Time::OfDay {
            at: at(1970, 1, 1)?,
            span,
        }),
        _ => None,
    }
}

fn month(name: &str) -> Option<i64> {
    let names = [
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ];
    let place = names
        .iter()
        .position(|month| name.eq_ignore_ascii_case(month))?;
    i64::try_from(place + 1).ok()
}

/// Seconds east of UTC. Names of zones but UTC's own are not known: several have one name.
fn offset(text: &str) -> Option<i64> {
    if text.eq_ignore_ascii_case("z")
        || text.eq_ignore_ascii_case("utc")
        || text.eq_ignore_ascii_case("gmt")
    {
        return Some(0);
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let hours: i64 = digits.get(..2)?.parse().ok()?;
    let minutes: i64 = digits
        .get(2..)
        .filter(|rest| !rest.is_empty())
        .map_or(Ok(0), str::parse)
        .ok()?;
    Some(sign * (hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-20 17:21:34 UTC.
    const NOW: i64 = 1_795_195_294;

    fn all_within(texts: &[&str], offsets: &[i64]) {
        for text in texts {
            let told = times(text.as_bytes());
            assert!(
                told.len() == 1 && told[0].within((NOW - 5, NOW + 5), offsets),
                "{text}: {told:?}"
            );
            assert!(
                !told[0].within((NOW + 400 * DAY, NOW + 400 * DAY + 60), offsets)
                    || told[0].place.len() < 9,
                "{text}"
            );
        }
    }

    #[test]
    fn dates_are_read_in_every_usual_spelling() {
        all_within(
            &[
                "2026-11-20T17:21:34Z",
                "at 2026-11-20 17:21:34.123456 +0000.",
                "2026-11-20 19:21:34+02:00",
                "2026/11/20 17:21",
                "2026-11-20",
                "20261120T172134Z",
                "image-20261120172134.img",
                "build-20261120",
                "Fri, 20 Nov 2026 17:21:34 +0000",
                "20-Nov-2026 17:21",
                "Fri Nov 20 17:21:34 UTC 2026",
                "Fri Nov 20 17:21:34 2026",
                "Nov 20 2026 17:21:34",
                "November 20, 2026",
                "Nov 20 17:21:34 host",
                "Fri Nov 20 05:21:34 PM UTC 2026",
                "11/20/2026 17:21:34",
                "20.11.2026 17:21",
                "1795195294",
                "t=1795195294123 ms",
                "1795195294.123456789",
                "17:21:34",
            ],
            &[],
        );
        all_within(&["Sat Nov 21 07:21:34 +14 2026"], &[]);
        all_within(&["2026-11-21 07:21:34", "07:21:34"], &[14 * 3600]);
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "version 1.2",
            "12345",
            "99999999",
            "deadbeef",
            "2026-13-41",
            "jan",
            "25:61:61",
            "mark",
        ] {
            assert_eq!(times(text.as_bytes()), [], "{text}");
        }
    }
}
