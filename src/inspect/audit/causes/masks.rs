//! Texts that are equal but for one thing, such as a host's name: each mask blanks one out, and what makes the texts equal is
//! the reason.
//!
//! Knows lines and conditions, no formats of files. Only what differs is looked at, and not more than a bounded part of it.

use std::collections::HashMap;
use std::ops::Range;

use super::spoken::{Spoken, times};
use super::{AuditRun, CauseKind, CauseMatch, CauseScope, conditions};

/// Bytes of differing lines that are looked at, of each content.
const LOOKED_AT: usize = 32 << 10;
/// Bytes of one line that are looked at, and how much before its first difference is.
const LINE: usize = 4 << 10;
const CONTEXT: usize = 64;

/// What is blanked out, most specific first.
const MASKS: &[CauseKind] = &[
    // Paths may have a host's name in them.
    CauseKind::BuildPath,
    CauseKind::HostName,
    CauseKind::Locale,
    CauseKind::BuildTime,
    CauseKind::TimeZone,
    CauseKind::CpuCount,
    CauseKind::RandomId,
];

/// The reason that makes both contents equal, or the fewest that do so together.
pub(super) fn find(scope: &CauseScope<'_>, before: &[u8], after: &[u8]) -> Option<CauseMatch> {
    let differing = differing(before, after);
    // Both of these blank out times: alone first, as one may hide the other.
    let attempts = [Some(CauseKind::TimeZone), Some(CauseKind::BuildTime), None];
    let needed = attempts.into_iter().find_map(|left_out| {
        let masks: Vec<_> = MASKS
            .iter()
            .copied()
            .filter(|mask| Some(*mask) != left_out)
            .collect();
        let needed = fewest(scope, &differing, masks)?;
        // A date says nothing unless it is one of the builds'.
        (!needed.contains(&CauseKind::BuildTime) || is_of_builds(scope, &differing))
            .then_some(needed)
    });
    let Some(needed) = needed else {
        return clocks(&differing);
    };
    let kind = *needed.first()?;
    if needed == [CauseKind::RandomId] && differing.iter().all(|text| is_checksums(text)) {
        return Some(CauseMatch::new(
            CauseKind::Checksums,
            "lists checksums of files that differ",
        ));
    }
    let told: Vec<_> = needed
        .iter()
        .map(|mask| describe(*mask, scope.runs))
        .collect();
    Some(CauseMatch::new(
        kind,
        format!("contains {}", told.join(", and ")),
    ))
}

/// The fewest of these masks that make both texts equal; none where all together do not.
fn fewest(
    scope: &CauseScope<'_>,
    differing: &[Vec<u8>; 2],
    mut masks: Vec<CauseKind>,
) -> Option<Vec<CauseKind>> {
    let equal = |masks: &[CauseKind]| {
        masked(scope, differing, 0, masks) == masked(scope, differing, 1, masks)
    };
    if !equal(&masks) {
        return None;
    }
    for mask in MASKS.iter().rev() {
        let without: Vec<_> = masks
            .iter()
            .copied()
            .filter(|other| other != mask)
            .collect();
        if without.len() < masks.len() && equal(&without) {
            masks = without;
        }
    }
    Some(masks)
}

/// A reason that is surely there, though others are as well.
pub(super) fn among_others(
    scope: &CauseScope<'_>,
    before: &[u8],
    after: &[u8],
) -> Option<CauseMatch> {
    let differing = differing(before, after);
    let found = |words: [Vec<&str>; 2]| {
        let has = |text: usize, run: usize| {
            words[run]
                .iter()
                .any(|word| !places(&differing[text], word).is_empty())
        };
        has(0, 0) && has(1, 1) && !has(0, 1)
    };
    let [first, second] = scope.runs;
    let by_words = [
        (
            CauseKind::HostName,
            [
                conditions::host_names(first),
                conditions::host_names(second),
            ],
        ),
        (
            CauseKind::BuildPath,
            [conditions::paths(first), conditions::paths(second)],
        ),
        (
            CauseKind::Locale,
            [conditions::langs(first), conditions::langs(second)],
        ),
    ];
    let by_words = by_words
        .into_iter()
        .find_map(|(kind, words)| found(words).then_some(kind));
    let kind =
        by_words.or_else(|| is_of_builds(scope, &differing).then_some(CauseKind::BuildTime))?;
    Some(CauseMatch::new(
        kind,
        format!(
            "contains {}, and differs in more",
            describe(kind, scope.runs)
        ),
    ))
}

fn describe(mask: CauseKind, runs: &[AuditRun; 2]) -> String {
    let both = |what: &str, of: fn(&AuditRun) -> String| {
        let [first, second] = runs.each_ref().map(|run| super::shown(of(run).as_bytes()));
        format!("{what}, {first} in one build and {second} in the other")
    };
    match mask {
        CauseKind::HostName => both("the host name", |run| run.host_name.clone()),
        CauseKind::BuildPath => "the path of the recipe".to_owned(),
        CauseKind::TimeZone => both("what depends on the time zone", |run| run.timezone.clone()),
        CauseKind::Locale => both("what depends on the locale", |run| run.lang.clone()),
        CauseKind::BuildTime => "the time of the build".to_owned(),
        CauseKind::CpuCount => both("the number of CPUs", |run| run.cpus.to_string()),
        _ => "UUIDs or other random identifiers".to_owned(),
    }
}

/// Numbers that differ, where one is a time of day of which nothing says that it is one of the builds'.
fn clocks(differing: &[Vec<u8>; 2]) -> Option<CauseMatch> {
    let [before, after] = differing
        .each_ref()
        .map(|text| blanked(text, |_| runs_of(text, u8::is_ascii_digit)));
    let [first, second] = differing.each_ref().map(|text| clock_texts(text));
    let told = before == after && first != second && !first.is_empty();
    told.then(|| {
        CauseMatch::new(
            CauseKind::BuildTime,
            "is equal except for numbers, times of day among them",
        )
    })
}

fn clock_texts(text: &[u8]) -> Vec<&[u8]> {
    let clocks = times(text).into_iter().filter(Spoken::has_clock);
    clocks
        .filter_map(|told| text.get(told.place))
        .filter(|text| text.contains(&b':'))
        .collect()
}

/// Whether each text tells a time of its own build that the other does not tell.
fn is_of_builds(scope: &CauseScope<'_>, differing: &[Vec<u8>; 2]) -> bool {
    let offsets = offsets(scope.runs);
    let texts = [0, 1].map(|side| {
        let text = &differing[side];
        let window = conditions::window(&scope.runs[side]);
        let own = times(text)
            .into_iter()
            .filter(|told| told.within(window, &offsets));
        own.filter_map(|told| text.get(told.place))
            .collect::<Vec<_>>()
    });
    let only = |side: usize| {
        texts[side]
            .iter()
            .any(|text| !texts[1 - side].contains(text))
    };
    only(0) && only(1)
}

fn offsets(runs: &[AuditRun; 2]) -> Vec<i64> {
    runs.iter()
        .filter_map(conditions::zone)
        .map(|(offset, _)| offset)
        .collect()
}

/// Lines of `md5sum` and its family.
fn is_checksums(text: &[u8]) -> bool {
    let sum = |line: &[u8]| {
        let digits = line
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        digits >= 32 && line.get(digits) == Some(&b' ') && line.len() > digits + 2
    };
    text.split(|byte| *byte == b'\n')
        .all(|line| line.is_empty() || sum(line))
}

/// What differs of two contents: lines, or strings between zero bytes, with a bounded part of each.
fn differing(before: &[u8], after: &[u8]) -> [Vec<u8>; 2] {
    let lines = |content| {
        <[u8]>::split(content, |byte: &u8| matches!(byte, b'\n' | 0)).collect::<Vec<&[u8]>>()
    };
    let (before, after) = (lines(before), lines(after));
    let mut out = [Vec::new(), Vec::new()];
    if before.len() == after.len() {
        for (before, after) in before
            .iter()
            .zip(&after)
            .filter(|(before, after)| before != after)
        {
            let same = before
                .iter()
                .zip(*after)
                .take_while(|(before, after)| before == after)
                .count();
            let begin = same.saturating_sub(CONTEXT);
            for (out, line) in out.iter_mut().zip([before, after]) {
                out.extend_from_slice(&line[begin..line.len().min(begin + LINE)]);
                out.push(b'\n');
            }
            if out.iter().any(|out| out.len() > LOOKED_AT) {
                break;
            }
        }
        return out;
    }
    let mut count: HashMap<&[u8], i64> = HashMap::new();
    before
        .iter()
        .for_each(|line| *count.entry(line).or_default() += 1);
    after
        .iter()
        .for_each(|line| *count.entry(line).or_default() -= 1);
    for (sign, (out, lines)) in [1, -1]
        .into_iter()
        .zip(out.iter_mut().zip([&before, &after]))
    {
        for line in lines {
            let Some(left) = count.get_mut(line).filter(|left| **left * sign > 0) else {
                continue;
            };
            *left -= sign;
            out.extend_from_slice(&line[..line.len().min(LINE)]);
            out.push(b'\n');
            if out.len() > LOOKED_AT {
                break;
            }
        }
    }
    out
}

/// The text of one side with everything blanked out that these masks find.
fn masked(
    scope: &CauseScope<'_>,
    texts: &[Vec<u8>; 2],
    side: usize,
    masks: &[CauseKind],
) -> Vec<u8> {
    let runs = scope.runs;
    let words = |text: &[u8], words: [Vec<&str>; 2]| {
        let mut words = words.concat();
        // One may be part of another: the longer first.
        words.sort_by_key(|word| std::cmp::Reverse(word.len()));
        let mut text = text.to_vec();
        for word in words {
            text = blanked(&text, |text| places(text, word));
        }
        text
    };
    let mut text = texts[side].clone();
    // Digits of identifiers look like numbers and times.
    let (first, rest): (Vec<_>, Vec<_>) =
        masks.iter().partition(|mask| **mask == CauseKind::RandomId);
    for mask in first.into_iter().chain(rest) {
        text = match mask {
            CauseKind::HostName => words(&text, runs.each_ref().map(conditions::host_names)),
            CauseKind::BuildPath => words(&text, runs.each_ref().map(conditions::paths)),
            CauseKind::Locale => words(&text, runs.each_ref().map(conditions::langs)),
            CauseKind::TimeZone => {
                let zones = runs.each_ref().map(conditions::zone);
                let offset = zones[side].as_ref().map_or(0, |(offset, _)| *offset);
                zone_words(&in_utc(&text, offset), runs, &zones)
            }
            CauseKind::BuildTime => {
                let (windows, offsets) = (runs.each_ref().map(conditions::window), offsets(runs));
                let of_build =
                    |told: &Spoken| windows.iter().any(|window| told.within(*window, &offsets));
                blanked(&text, |text| {
                    times(text)
                        .into_iter()
                        .filter(of_build)
                        .map(|told| told.place)
                        .collect()
                })
            }
            CauseKind::CpuCount => {
                let counts = runs.each_ref().map(|run| run.cpus.to_string().into_bytes());
                blanked(&text, |text| {
                    let numbers = runs_of(text, u8::is_ascii_digit);
                    numbers
                        .into_iter()
                        .filter(|place| counts.iter().any(|count| *count == text[place.clone()]))
                        .collect()
                })
            }
            _ => blanked(&text, identifiers),
        };
    }
    text
}

/// Writes times as seconds of UTC.
fn in_utc(text: &[u8], offset: i64) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut end = 0;
    for told in times(text) {
        let Some(seconds) = told.utc(offset) else {
            continue;
        };
        out.extend_from_slice(&text[end..told.place.start]);
        out.extend_from_slice(format!("@{seconds}").as_bytes());
        end = told.place.end;
    }
    out.extend_from_slice(&text[end..]);
    out
}

/// Blanks out names of the runs' time zones and their offsets.
fn zone_words(text: &[u8], runs: &[AuditRun; 2], zones: &[Option<(i64, String)>; 2]) -> Vec<u8> {
    let mut words: Vec<String> = runs.iter().map(|run| run.timezone.clone()).collect();
    for (offset, abbreviation) in zones.iter().flatten() {
        words.extend(conditions::offsets(*offset));
        words.push(abbreviation.clone());
    }
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    let mut text = text.to_vec();
    for word in words.iter().filter(|word| word.len() > 1) {
        text = blanked(&text, |text| places(text, word));
    }
    text
}

/// Where a word stands, not as a part of a longer one.
fn places(text: &[u8], word: &str) -> Vec<Range<usize>> {
    let word = word.as_bytes();
    if word.is_empty() || word.len() > text.len() {
        return Vec::new();
    }
    let joins = |byte: Option<&u8>, edge: Option<&u8>| {
        byte.is_some_and(u8::is_ascii_alphanumeric) && edge.is_some_and(u8::is_ascii_alphanumeric)
    };
    let mut found: Vec<Range<usize>> = Vec::new();
    for at in 0..=text.len() - word.len() {
        let end = at + word.len();
        let apart = found.last().is_none_or(|last| last.end <= at);
        if apart && text[at] == word[0] && text[at..end] == *word {
            let before = at.checked_sub(1).and_then(|before| text.get(before));
            if !joins(before, word.first()) && !joins(text.get(end), word.last()) {
                found.push(at..end);
            }
        }
    }
    found
}

/// Runs of bytes of one class.
fn runs_of(text: &[u8], class: fn(&u8) -> bool) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for (at, _) in text.iter().enumerate().filter(|(_, byte)| class(byte)) {
        match found.last_mut() {
            Some(last) if last.end == at => last.end = at + 1,
            _ => found.push(at..at + 1),
        }
    }
    found
}

/// UUIDs, long numbers in hexadecimal or base 64, and endings that `mktemp` makes.
fn identifiers(text: &[u8]) -> Vec<Range<usize>> {
    let words = runs_of(text, |byte| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+')
    });
    words
        .into_iter()
        .filter(|place| is_identifier(&text[place.clone()], &text[..place.start]))
        .collect()
}

fn is_identifier(word: &[u8], before: &[u8]) -> bool {
    let has = |class: fn(&u8) -> bool| word.iter().any(class);
    let hex = word
        .iter()
        .all(|byte| byte.is_ascii_hexdigit() || *byte == b'-')
        && has(u8::is_ascii_digit);
    // Dates are digits and dashes, too.
    let long = hex && (word.len() >= 32 || word.len() >= 12 && has(u8::is_ascii_alphabetic));
    let mixed =
        has(u8::is_ascii_digit) && has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase);
    long || mixed && word.len() >= 20 || before.ends_with(b"tmp.") && word.len() >= 6
}

/// A text with a mark in place of each of these places, which are ascending and apart.
fn blanked(text: &[u8], places: impl FnOnce(&[u8]) -> Vec<Range<usize>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut end = 0;
    for place in places(text) {
        out.extend_from_slice(text.get(end..place.start).unwrap_or_default());
        out.push(1);
        end = place.end;
    }
    out.extend_from_slice(text.get(end..).unwrap_or_default());
    out
}

/// The same for a name of which there is only one: what of it is of the run.
pub(super) fn of_name(scope: &CauseScope<'_>, side: usize) -> Option<CauseMatch> {
    let (run, other) = (&scope.runs[side], &scope.runs[1 - side]);
    let name = scope
        .path
        .rsplit(|byte| *byte == b'/')
        .next()
        .unwrap_or_default();
    let has = |words: Vec<&str>, of_other: Vec<&str>| {
        words
            .iter()
            .any(|word| !of_other.contains(word) && !places(name, word).is_empty())
    };
    let (window, offsets) = (conditions::window(run), offsets(scope.runs));
    let kind = if has(conditions::host_names(run), conditions::host_names(other)) {
        CauseKind::HostName
    } else if has(conditions::langs(run), conditions::langs(other)) {
        CauseKind::Locale
    } else if times(name).iter().any(|told| told.within(window, &offsets)) {
        CauseKind::BuildTime
    } else if !identifiers(name).is_empty() {
        CauseKind::RandomId
    } else {
        return None;
    };
    let what = match kind {
        CauseKind::RandomId => "a random identifier".to_owned(),
        CauseKind::BuildTime => "the time of the build".to_owned(),
        kind => describe(kind, scope.runs),
    };
    Some(CauseMatch::new(
        kind,
        format!("exists in only one build, and its name contains {what}"),
    ))
}
