//! Compressed files, which differ where what is in them does, or in how they were compressed.
//! Knows gzip and zstd, not what is in them. What is unpacked is bounded for the whole question.

use std::io::Read;

use libdeflater::{DecompressionError, Decompressor};

use super::{CauseKind, CauseMatch, CauseScope, content, shown};

/// Largest content that is unpacked, in bytes.
const LIMIT: usize = 64 << 20;
/// Where a gzip header has the time (RFC 1952, 2.3).
const GZIP_TIME: std::ops::Range<usize> = 4..8;

/// Finds what differs within, or in the header, or in how it was compressed.
pub(super) fn find(scope: &CauseScope<'_>, before: &[u8], after: &[u8]) -> Option<CauseMatch> {
    let gzip = is_gzip(before) && is_gzip(after);
    if !(gzip || is_zstd(before) && is_zstd(after)) {
        return None;
    }
    let times = gzip && before.get(GZIP_TIME) != after.get(GZIP_TIME);
    let header = || {
        times.then(|| {
            CauseMatch::new(
                CauseKind::GzipTime,
                "is a gzip file with a time in its header",
            )
        })
    };
    let (Some(before), Some(after)) = (unpack(scope, before), unpack(scope, after)) else {
        return header();
    };
    if before != after {
        return content(
            &CauseScope {
                depth: scope.depth + 1,
                path: unpacked_name(scope.path),
                ..*scope
            },
            &before,
            &after,
        )
        .or_else(header);
    }
    header().or_else(|| {
        let [first, second] = scope.runs;
        let what = "has the same content when unpacked: it was compressed with a different number of threads";
        (first.cpus != second.cpus).then(|| CauseMatch::new(CauseKind::CpuCount, what))
    })
}

fn is_gzip(content: &[u8]) -> bool {
    content.starts_with(b"\x1f\x8b\x08")
}

fn is_zstd(content: &[u8]) -> bool {
    content.starts_with(b"\x28\xb5\x2f\xfd")
}

fn unpacked_name(name: &[u8]) -> &[u8] {
    let ending = [&b".gz"[..], b".zst", b".zstd"]
        .into_iter()
        .find_map(|ending| name.strip_suffix(ending));
    ending.unwrap_or(name)
}

/// What a compressed content holds; none where it is too long or damaged.
fn unpack(scope: &CauseScope<'_>, content: &[u8]) -> Option<Vec<u8>> {
    let limit = LIMIT.min(scope.left.get());
    // Also what fails takes its time.
    scope
        .left
        .set(scope.left.get().saturating_sub(content.len()));
    let bytes = if is_gzip(content) {
        gunzip(content, limit)?
    } else {
        unzstd(content, limit)?
    };
    scope.left.set(scope.left.get().saturating_sub(bytes.len()));
    Some(bytes)
}

/// Inflates a member of a zip file.
pub(super) fn inflate(scope: &CauseScope<'_>, content: &[u8], length: usize) -> Option<Vec<u8>> {
    if length > LIMIT.min(scope.left.get()) {
        return None;
    }
    let mut bytes = vec![0; length];
    let written = Decompressor::new()
        .deflate_decompress(content, &mut bytes)
        .ok()?;
    bytes.truncate(written);
    scope.left.set(scope.left.get().saturating_sub(length));
    Some(bytes)
}

fn gunzip(content: &[u8], limit: usize) -> Option<Vec<u8>> {
    // The end tells the length of the last member, which is nearly always the only one.
    let told = content
        .last_chunk()
        .map_or(0, |length| u32::from_le_bytes(*length) as usize);
    let mut length = told.clamp(1 << 10, content.len().saturating_mul(1032).max(1 << 10));
    loop {
        if length > limit {
            return None;
        }
        let mut bytes = vec![0; length];
        match Decompressor::new().gzip_decompress(content, &mut bytes) {
            Ok(written) => {
                bytes.truncate(written);
                return Some(bytes);
            }
            Err(DecompressionError::InsufficientSpace) => length = length.saturating_mul(4),
            Err(DecompressionError::BadData) => return None,
        }
    }
}

fn unzstd(content: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(content).ok()?;
    // As much memory as the kernel gives an initramfs, and no more.
    decoder.window_log_max(27).ok()?;
    let mut bytes = Vec::new();
    decoder
        .take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .ok()?;
    (bytes.len() <= limit).then_some(bytes)
}

/// What a finding within a member is told as.
pub(super) fn within(mut found: CauseMatch, member: &[u8]) -> CauseMatch {
    if !member.is_empty() {
        found.members.insert(0, shown(member));
    }
    found
}
