//! Compiled Python, which may name the time of its source.
//! Knows the header of PEP 552, not what is behind it.

use super::{CauseKind, CauseMatch, CauseScope, masks};

/// Magic, flags, time of the source, size of the source: four bytes each.
const HEADER: usize = 16;

/// Finds headers with times that differ.
pub(super) fn find(scope: &CauseScope<'_>, before: &[u8], after: &[u8]) -> Option<CauseMatch> {
    let (time, other) = (source_time(before)?, source_time(after)?);
    if time != other {
        return Some(CauseMatch::new(
            CauseKind::PycTimestamp,
            "is compiled Python that records the time of its source",
        ));
    }
    masks::find(scope, &before[HEADER..], &after[HEADER..])
}

/// The source's time; none where this is no compiled Python, or one that names its source by a hash.
fn source_time(content: &[u8]) -> Option<&[u8]> {
    let (header, _) = content.split_at_checked(HEADER)?;
    (header[2..4] == *b"\r\n" && header[4..8] == [0; 4]).then_some(&header[8..12])
}
