//! The same lines or words in another order.
//! Knows bytes and how locales sort, no formats of files.

use super::{CauseKind, CauseMatch, CauseScope};

/// Finds the same lines, strings or words in another order.
pub(super) fn find(scope: &CauseScope<'_>, before: &[u8], after: &[u8]) -> Option<CauseMatch> {
    if before.len() != after.len() || histogram(before) != histogram(after) {
        return None;
    }
    let newline: fn(&u8) -> bool = |byte| *byte == b'\n';
    let zero: fn(&u8) -> bool = |byte| *byte == 0;
    let between_words: fn(&u8) -> bool =
        |byte| byte.is_ascii_whitespace() || b"\0,;:\"'[](){}".contains(byte);
    for (what, separates) in [
        ("lines", newline),
        ("strings", zero),
        ("words", between_words),
    ] {
        let split = |content| {
            <[u8]>::split(content, separates)
                .filter(|part| !part.is_empty())
                .collect::<Vec<&[u8]>>()
        };
        let (before, after) = (split(before), split(after));
        if same(&before, &after) {
            return Some(reason(scope, what, &before, &after));
        }
    }
    None
}

/// How often each byte is there: what is in another order has the same ones.
fn histogram(content: &[u8]) -> [u32; 256] {
    let mut counts = [0_u32; 256];
    content
        .iter()
        .for_each(|byte| counts[usize::from(*byte)] = counts[usize::from(*byte)].wrapping_add(1));
    counts
}

fn same(before: &[&[u8]], after: &[&[u8]]) -> bool {
    let (mut before, mut after) = (before.to_vec(), after.to_vec());
    before.sort_unstable();
    after.sort_unstable();
    before.len() > 1 && before == after
}

fn reason(scope: &CauseScope<'_>, what: &str, before: &[&[u8]], after: &[&[u8]]) -> CauseMatch {
    let by_bytes = |parts: &[&[u8]]| parts.is_sorted();
    let [first, second] = scope.runs;
    let collated = by_bytes(before) && by_locale(after) || by_bytes(after) && by_locale(before);
    if first.lang != second.lang && collated {
        let what = format!("has the same {what}, sorted by another locale's rules");
        return CauseMatch::new(CauseKind::Collation, what);
    }
    let what = format!(
        "has the same {what} in a different order, as a directory or a hash table lists them"
    );
    CauseMatch::new(CauseKind::DirectoryOrder, what)
}

/// Whether parts may be sorted as locales do: upper and lower case are one, and punctuation comes first or does not count.
fn by_locale(parts: &[&[u8]]) -> bool {
    let letters = |part: &[u8]| -> Vec<u8> {
        part.iter()
            .filter(|byte| byte.is_ascii_alphanumeric() || !byte.is_ascii())
            .map(u8::to_ascii_lowercase)
            .collect()
    };
    // Punctuation before digits before letters.
    let all = |part: &[u8]| -> Vec<(u8, u8)> {
        let class = |byte: &u8| {
            if byte.is_ascii_alphabetic() || !byte.is_ascii() {
                2
            } else {
                u8::from(byte.is_ascii_digit())
            }
        };
        part.iter()
            .map(|byte| (class(byte), byte.to_ascii_lowercase()))
            .collect()
    };
    parts.is_sorted_by_key(|part| letters(part)) || parts.is_sorted_by_key(|part| all(part))
}
