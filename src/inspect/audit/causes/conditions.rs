//! What a run's conditions look like in a text: windows of time, offsets of time zones, spellings of a name.
//! Knows runs, not contents.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::AuditRun;

/// Seconds by which clocks may differ.
const SLACK: i64 = 2;
/// 9999-12-31T23:59:59Z.
const LATEST: i64 = 253_402_300_799;

/// Seconds since 1970 in which a build ran. One whose start is not known may have run at any time before its end.
pub(super) fn window(run: &AuditRun) -> (i64, i64) {
    // No clock is beyond the year 9999.
    let second = |at: u64| i64::try_from(at).unwrap_or(i64::MAX).min(LATEST);
    (second(run.started) - SLACK, second(run.ended) + SLACK)
}

/// The offset of the run's time zone when it ended: seconds east of UTC, and the zone's abbreviation then.
pub(super) fn zone(run: &AuditRun) -> Option<(i64, String)> {
    let name = run.timezone.strip_prefix(':').unwrap_or(&run.timezone);
    let zone = if name.is_empty() {
        Some(TimeZone::UTC)
    } else {
        TimeZone::posix(name).ok()
    };
    let zone = zone.or_else(|| TimeZone::get(name).ok())?;
    let at = Timestamp::from_second(i64::try_from(run.ended).ok()?).ok()?;
    let info = zone.to_offset_info(at);
    Some((
        i64::from(info.offset().seconds()),
        info.abbreviation().to_owned(),
    ))
}

/// How an offset is written: `+0930`, `+09:30`, and `+09` where it is of whole hours.
pub(super) fn offsets(seconds: i64) -> Vec<String> {
    let (sign, minutes) = (
        if seconds < 0 { '-' } else { '+' },
        seconds.unsigned_abs() / 60,
    );
    let (hours, minutes) = (minutes / 60, minutes % 60);
    let mut spellings = vec![
        format!("{sign}{hours:02}:{minutes:02}"),
        format!("{sign}{hours:02}{minutes:02}"),
    ];
    if minutes == 0 {
        spellings.push(format!("{sign}{hours:02}"));
    }
    spellings
}

/// Host name in full, and its first part.
pub(super) fn host_names(run: &AuditRun) -> Vec<&str> {
    let first = run.host_name.split('.').next().unwrap_or_default();
    words([run.host_name.as_str(), first])
}

/// `LANG` in full, and without its encoding.
pub(super) fn langs(run: &AuditRun) -> Vec<&str> {
    let first = run.lang.split(['.', '@']).next().unwrap_or_default();
    // "C" and "POSIX" are words of other meanings.
    words([
        run.lang.as_str(),
        if first.contains('_') { first } else { "" },
    ])
}

/// The recipe's path and its directory.
pub(super) fn paths(run: &AuditRun) -> Vec<&str> {
    let parent = run.path.rsplit_once('/').map_or("", |(parent, _)| parent);
    words([
        run.path.as_str(),
        if parent.len() > 4 { parent } else { "" },
    ])
}

/// Those that are long enough to be told from other text.
fn words<const N: usize>(words: [&str; N]) -> Vec<&str> {
    words.into_iter().filter(|word| word.len() > 1).collect()
}
