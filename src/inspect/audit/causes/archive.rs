//! Archives that differ: in the order of their members, within one of them, or in what is told of them.
//! Knows members, not the forms they are written in.

use super::members::{Form, Member, members};
use super::packed::{inflate, within};
use super::{CauseKind, CauseMatch, CauseScope, content};

/// Members with other contents that are looked into.
const LOOKED_INTO: usize = 16;

/// What looking into a member costs beside its length, of what may be unpacked in all.
const LOOK: usize = 4096;

/// Finds the first reason: order, then contents, then times, then owners and numbers.
pub(super) fn find(scope: &CauseScope<'_>, before: &[u8], after: &[u8]) -> Option<CauseMatch> {
    let ((form, first), (other, second)) = (members(before)?, members(after)?);
    if form != other || first.is_empty() {
        return None;
    }
    let archive = ArchivePair {
        scope,
        form,
        initramfs: form == Form::Cpio && is_initramfs(scope.path, &first),
    };
    let named = |members: &[Member]| {
        members
            .iter()
            .map(|member| member.name.clone())
            .collect::<Vec<_>>()
    };
    let (names, other_names) = (named(&first), named(&second));
    if names != other_names {
        return archive.names(names, other_names);
    }
    let pairs = || first.iter().zip(&second);
    let part =
        |bytes, member: &Member| <[u8]>::get(bytes, member.content.clone()).unwrap_or_default();
    let differing = pairs()
        .filter(|(a, b)| part(before, a) != part(after, b))
        .take(LOOKED_INTO);
    let mut deeper =
        differing.filter_map(|(a, b)| archive.member(a, part(before, a), b, part(after, b)));
    if let Some(found) = deeper.next() {
        return Some(found);
    }
    // What lies in an archive whose contents nobody understands is no matter of its form.
    if pairs().any(|(a, b)| part(before, a) != part(after, b)) {
        return None;
    }
    if pairs().any(|(a, b)| a.time != b.time) {
        return Some(archive.found(CauseKind::ArchiveTimes, "with different times"));
    }
    let owners = pairs().any(|(a, b)| a.other != b.other);
    owners.then(|| {
        archive.found(
            CauseKind::ArchiveOwners,
            "with different modes, owners or inode numbers",
        )
    })
}

/// The kernel's first file system, by its name or by what is in it.
fn is_initramfs(path: &[u8], members: &[Member]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let has = |name: &[u8]| {
        members
            .iter()
            .any(|member| member.name.strip_prefix(b"./").unwrap_or(&member.name) == name)
    };
    name.starts_with(b"initr")
        || name.ends_with(b".img")
        || has(b"init")
        || has(b"kernel/x86/microcode")
}

struct ArchivePair<'a> {
    scope: &'a CauseScope<'a>,
    form: Form,
    initramfs: bool,
}

impl ArchivePair<'_> {
    fn found(&self, kind: CauseKind, how: &str) -> CauseMatch {
        if self.initramfs {
            return CauseMatch::new(
                CauseKind::Initramfs,
                format!("is an initramfs, a cpio archive of the same members {how}"),
            );
        }
        CauseMatch::new(
            kind,
            format!(
                "is an archive ({}) of the same members {how}",
                self.form.name()
            ),
        )
    }

    fn names(&self, mut before: Vec<Vec<u8>>, mut after: Vec<Vec<u8>>) -> Option<CauseMatch> {
        before.sort_unstable();
        after.sort_unstable();
        (before == after).then(|| self.found(CauseKind::ArchiveOrder, "in a different order"))
    }

    /// Why a member's content differs.
    fn member(
        &self,
        first: &Member,
        before: &[u8],
        second: &Member,
        after: &[u8],
    ) -> Option<CauseMatch> {
        let scope = self.scope;
        // Members may overlap, and lie in each other: looking into one is paid for like unpacking it.
        let cost = before.len() + after.len() + LOOK;
        let left = scope.left.get().checked_sub(cost)?;
        scope.left.set(left);
        // What follows a cpio is the file itself, not one of its members.
        let path = if first.name.is_empty() {
            scope.path
        } else {
            &first.name
        };
        let scope = CauseScope {
            path,
            depth: scope.depth + 1,
            ..*scope
        };
        let unpacked = |member: &Member, bytes| Some(inflate(&scope, bytes, member.deflated?));
        let found = match (unpacked(first, before), unpacked(second, after)) {
            (None, None) => by_name(&scope, before, after),
            (Some(before), Some(after)) => by_name(&scope, &before?, &after?),
            _ => None,
        };
        found.map(|found| within(found, &first.name))
    }
}

/// A member's name may tell as much as a path.
fn by_name(scope: &CauseScope<'_>, before: &[u8], after: &[u8]) -> Option<CauseMatch> {
    if before == after {
        return None;
    }
    let name = scope
        .path
        .strip_prefix(b"./")
        .or(scope.path.strip_prefix(b"/"))
        .unwrap_or(scope.path);
    let path = [b"/", name].concat();
    super::known::exact(
        &CauseScope {
            path: &path,
            ..*scope
        },
        Some((before, after)),
    )
    .or_else(|| content(scope, before, after))
}
