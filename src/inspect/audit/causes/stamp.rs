//! Times as binary numbers: seconds since 1970 in four bytes of either order, as many formats hold them.
//! Knows numbers, no formats.

use super::{CauseKind, CauseMatch, CauseScope, conditions};

/// Most bytes that may differ: more than a few times are something else.
const MOST: usize = 4096;
/// 2000-01-01: smaller numbers are no times, where it is not known when a build started.
const EARLIEST: i64 = 946_684_800;

/// Finds contents whose bytes are equal but for times of their own builds.
pub(super) fn find(scope: &CauseScope<'_>, before: &[u8], after: &[u8]) -> Option<CauseMatch> {
    if before.len() != after.len() {
        return None;
    }
    let windows = scope.runs.each_ref().map(conditions::window);
    let told = |bytes: &[u8], side: usize, at: usize| -> [bool; 2] {
        let number = bytes
            .get(at..)
            .and_then(<[u8]>::first_chunk::<4>)
            .copied()
            .unwrap_or_default();
        [u32::from_le_bytes(number), u32::from_be_bytes(number)].map(|number| {
            let (first, last) = windows[side];
            (first.max(EARLIEST)..=last).contains(&i64::from(number))
        })
    };
    let is_time = |at: usize| {
        let [before, after] = [told(before, 0, at), told(after, 1, at)];
        before[0] && after[0] || before[1] && after[1]
    };
    let (mut explained, mut found) = (0, false);
    let differing = before
        .iter()
        .zip(after)
        .enumerate()
        .filter(|(_, (before, after))| before != after);
    for (count, (at, _)) in differing.enumerate() {
        if count > MOST {
            return None;
        }
        if at < explained {
            continue;
        }
        let place = (at.saturating_sub(3)..=at).find(|place| is_time(*place))?;
        (explained, found) = (place + 4, true);
    }
    found.then(|| {
        CauseMatch::new(
            CauseKind::BuildTime,
            "contains the time of the build as a binary number",
        )
    })
}
