//! ELF files: their build id, and which of their sections differ.
//! Knows headers, sections and notes of both widths and byte orders (gABI), no code.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{CauseKind, CauseMatch, CauseScope, masks, shown};

/// Type of a note that is a segment, and of one that is a section.
const PT_NOTE: u64 = 4;
const SHT_NOTE: u64 = 7;
const SHT_NOBITS: u64 = 8;
/// Type of GNU's note that is a build id.
const NT_GNU_BUILD_ID: u64 = 3;
/// Most headers and notes that are read, and names of sections that are told.
const MOST: u64 = 4096;
const NAMED: usize = 6;

/// Finds build ids that differ; what else differs is told before it, as the id follows from it.
pub(super) fn find(scope: &CauseScope<'_>, before: &[u8], after: &[u8]) -> Option<CauseMatch> {
    let elves = [Elf::read(before)?, Elf::read(after)?];
    let ids = elves.each_ref().map(Elf::build_id);
    let id = |side: usize| {
        ids[side]
            .clone()
            .and_then(|place| elves[side].bytes.get(place))
    };
    if id(0) == id(1) {
        return None;
    }
    let blanked = [0, 1].map(|side| {
        let mut bytes = elves[side].bytes.to_vec();
        if let Some(id) = ids[side].clone().and_then(|place| bytes.get_mut(place)) {
            id.fill(0);
        }
        bytes
    });
    if blanked[0] == blanked[1] {
        return Some(CauseMatch::new(
            CauseKind::BuildId,
            "is an ELF file that differs only in its build ID",
        ));
    }
    let sections = differing(&blanked);
    let placed = if sections.is_empty() {
        String::new()
    } else {
        format!(", but {}", sections.join(", "))
    };
    let found = masks::find(scope, &blanked[0], &blanked[1]);
    if let Some(found) = found.or_else(|| masks::among_others(scope, &blanked[0], &blanked[1])) {
        return Some(CauseMatch {
            what: format!("{}; its build ID follows from that", found.what),
            ..found
        });
    }
    let what = format!(
        "is an ELF file that was compiled differently: more than its build ID differs{placed}"
    );
    Some(CauseMatch::new(CauseKind::BuildId, what))
}

/// Names of sections that are not the same.
fn differing(bytes: &[Vec<u8>; 2]) -> Vec<String> {
    let sections = bytes.each_ref().map(|bytes| {
        Elf::read(bytes)
            .map(|elf| elf.sections())
            .unwrap_or_default()
    });
    let [before, after] = &sections;
    let names = before
        .keys()
        .chain(after.keys().filter(|name| !before.contains_key(*name)));
    let differs = names.filter(|name| {
        let content = |side: usize| {
            sections[side]
                .get(*name)
                .and_then(|place| bytes[side].get(place.clone()))
        };
        content(0) != content(1)
    });
    differs.take(NAMED).map(|name| shown(name)).collect()
}

/// An ELF file's header.
struct Elf<'a> {
    bytes: &'a [u8],
    wide: bool,
    little: bool,
}

impl<'a> Elf<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (ident, _) = bytes.split_first_chunk::<16>()?;
        let known =
            ident.starts_with(b"\x7fELF") && matches!(ident[4], 1 | 2) && matches!(ident[5], 1 | 2);
        known.then_some(Elf {
            bytes,
            wide: ident[4] == 2,
            little: ident[5] == 1,
        })
    }

    /// A number of up to eight bytes.
    fn number(&self, at: u64, width: u64) -> Option<u64> {
        let bytes = self.bytes.get(range(at, width)?)?;
        let add = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(if self.little {
            bytes.iter().rev().fold(0, add)
        } else {
            bytes.iter().fold(0, add)
        })
    }

    /// A number whose place and width depend on the file's width: at `narrow` with four bytes, at `wide` with eight.
    fn word(&self, base: u64, narrow: u64, wide: u64) -> Option<u64> {
        let (at, width) = if self.wide { (wide, 8) } else { (narrow, 4) };
        self.number(base.checked_add(at)?, width)
    }

    /// Places of the headers of a table: its offset, and sizes and counts of entries, at these places of the file's header.
    fn table(&self, offset: (u64, u64), counts: (u64, u64)) -> Vec<u64> {
        let read = || {
            let start = self.word(0, offset.0, offset.1)?;
            let at = if self.wide { counts.1 } else { counts.0 };
            let (size, count) = (self.number(at, 2)?, self.number(at + 2, 2)?);
            Some(
                (0..count.min(MOST))
                    .filter_map(|entry| start.checked_add(entry * size))
                    .collect(),
            )
        };
        read().unwrap_or_default()
    }

    /// Section headers: name's place in the table of names, type, place of the content.
    fn section_headers(&self) -> Vec<(u64, u64, Option<Range<usize>>)> {
        let headers = self.table((0x20, 0x28), (0x2e, 0x3a));
        let read = |header: u64| {
            let place = || {
                range(
                    self.word(header, 0x10, 0x18)?,
                    self.word(header, 0x14, 0x20)?,
                )
            };
            let kind = self.number(header.checked_add(4)?, 4)?;
            Some((
                self.number(header, 4)?,
                kind,
                place().filter(|_| kind != SHT_NOBITS),
            ))
        };
        headers.into_iter().filter_map(read).collect()
    }

    /// Sections with content, by name.
    fn sections(&self) -> BTreeMap<&'a [u8], Range<usize>> {
        let headers = self.section_headers();
        let names = self
            .number(if self.wide { 0x3e } else { 0x32 }, 2)
            .and_then(|at| headers.get(usize::try_from(at).ok()?));
        let names = names
            .and_then(|(_, _, place)| self.bytes.get(place.clone()?))
            .unwrap_or_default();
        let name = |at: u64| {
            names
                .get(usize::try_from(at).ok()?..)?
                .split(|byte| *byte == 0)
                .next()
        };
        headers
            .iter()
            .filter_map(|(at, _, place)| {
                Some((name(*at).filter(|name| !name.is_empty())?, place.clone()?))
            })
            .collect()
    }

    /// Where the build id is.
    fn build_id(&self) -> Option<Range<usize>> {
        let segments = self
            .table((0x1c, 0x20), (0x2a, 0x36))
            .into_iter()
            .filter_map(|header| {
                let note = self.number(header, 4)? == PT_NOTE;
                range(
                    self.word(header, 0x04, 0x08)?,
                    self.word(header, 0x10, 0x20)?,
                )
                .filter(|_| note)
            });
        let sections = self
            .section_headers()
            .into_iter()
            .filter(|(_, kind, _)| *kind == SHT_NOTE);
        let mut places = segments.chain(sections.filter_map(|(_, _, place)| place));
        places.find_map(|place| self.id_in(place))
    }

    fn id_in(&self, notes: Range<usize>) -> Option<Range<usize>> {
        let end = u64::try_from(notes.end.min(self.bytes.len())).ok()?;
        let mut at = u64::try_from(notes.start).ok()?;
        let padded = |length: u64| length.checked_next_multiple_of(4);
        for _ in 0..MOST {
            let (name, length, kind) = (
                self.number(at, 4)?,
                self.number(at + 4, 4)?,
                self.number(at + 8, 4)?,
            );
            let content = at.checked_add(12)?.checked_add(padded(name)?)?;
            let place = range(content, length).filter(|place| place.end as u64 <= end)?;
            if kind == NT_GNU_BUILD_ID && self.bytes.get(range(at + 12, name)?)? == b"GNU\0" {
                return Some(place);
            }
            at = content.checked_add(padded(length)?)?;
        }
        None
    }
}

fn range(start: u64, length: u64) -> Option<Range<usize>> {
    let end = start.checked_add(length)?;
    Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}
