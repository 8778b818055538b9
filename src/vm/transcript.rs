//! What a serial console has shown: its end in bounded memory, and what was watched for, however much comes after it.
//! Knows bytes, not the machine they come from.

use std::io::{self, Read};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::base::escape::neutralise;

/// Bytes that are kept.
const KEPT: usize = 1 << 20;
/// The longest line that is shown of a console.
const MAX_LINE: usize = 400;

/// A serial console's text. One thread fills it, others wait for it.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    state: Mutex<TranscriptText>,
    news: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct TranscriptText {
    /// The end of what was shown.
    pub(super) bytes: Vec<u8>,
    /// How many bytes before that are gone.
    pub(super) dropped: usize,
    /// Whether nothing more will come.
    pub(super) ended: bool,
    watched: Vec<Watched>,
}

/// A text that is looked for in all that comes.
#[derive(Debug)]
struct Watched {
    text: Vec<u8>,
    /// When it came first.
    seen: Option<Instant>,
}

impl Transcript {
    pub(super) fn lock(&self) -> MutexGuard<'_, TranscriptText> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for news, at most so long.
    pub(super) fn wait<'t>(
        &self,
        text: MutexGuard<'t, TranscriptText>,
        time: Duration,
    ) -> MutexGuard<'t, TranscriptText> {
        self.news
            .wait_timeout(text, time)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    /// Looks for a text from now on, and in what is kept.
    pub(super) fn watch(&self, text: &str) {
        let mut shown = self.lock();
        let text = text.as_bytes().to_vec();
        let seen = find(&shown.bytes, &text).map(|_| Instant::now());
        shown.watched.push(Watched { text, seen });
    }

    /// When a text that is watched for came first.
    pub(super) fn seen(&self, text: &str) -> Option<Instant> {
        let shown = self.lock();
        let watched = shown
            .watched
            .iter()
            .find(|watched| watched.text == text.as_bytes());
        watched.and_then(|watched| watched.seen)
    }

    fn push(&self, bytes: &[u8]) {
        let mut shown = self.lock();
        shown.bytes.extend_from_slice(bytes);
        let TranscriptText {
            bytes: all,
            watched,
            ..
        } = &mut *shown;
        for watched in watched.iter_mut().filter(|watched| watched.seen.is_none()) {
            // The text's beginning may have come before.
            let from = all.len().saturating_sub(bytes.len() + watched.text.len());
            if find(&all[from..], &watched.text).is_some() {
                watched.seen = Some(Instant::now());
            }
        }
        // Twice as much, so that what is kept is moved rarely.
        if shown.bytes.len() > 2 * KEPT {
            let excess = shown.bytes.len() - KEPT;
            shown.bytes.drain(..excess);
            shown.dropped += excess;
        }
        self.news.notify_all();
    }

    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.news.notify_all();
    }

    /// Reads a console to its end.
    pub(super) fn fill(&self, mut console: impl Read, sink: &mut dyn FnMut(&[u8])) {
        let mut buffer = [0; 4096];
        loop {
            match console.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    sink(&buffer[..count]);
                    self.push(&buffer[..count]);
                }
            }
        }
        self.end();
    }

    /// What is kept, as lines that are safe to show, after a line that says what is gone.
    pub(super) fn lines(&self) -> Vec<String> {
        let (bytes, dropped) = {
            let shown = self.lock();
            (shown.bytes.clone(), shown.dropped)
        };
        let gone = (dropped > 0).then(|| format!("[{dropped} bytes before this are left out]"));
        let lines = bytes.split(|byte| *byte == b'\n').map(|line| {
            let line = neutralise(line);
            match line.char_indices().nth(MAX_LINE) {
                Some((cut, _)) => format!("{}…", &line[..cut]),
                None => line,
            }
        });
        gone.into_iter().chain(lines).collect()
    }
}

pub(super) fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    if text.is_empty() {
        return Some(0);
    }
    memchr::memmem::find(bytes, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_takes_bounded_memory_and_hides_nothing_that_is_watched() {
        let transcript = Transcript::default();
        transcript.watch("Kernel panic");
        transcript.watch("never");
        transcript.fill(&b"early Kernel "[..], &mut |_| {});
        transcript.fill(&b"panic - not syncing\n"[..], &mut |_| {});
        let flood = b"0123456789abcdef".repeat(8 << 16);
        transcript.fill(&flood[..], &mut |_| {});
        assert!(transcript.lock().bytes.len() <= 2 * KEPT + 4096);
        assert!(transcript.seen("Kernel panic").is_some());
        assert!(transcript.seen("never").is_none());
        let lines = transcript.lines();
        assert!(
            lines[0].ends_with("bytes before this are left out]"),
            "{}",
            lines[0]
        );
        assert!(
            lines
                .iter()
                .all(|line| line.chars().count() <= MAX_LINE + 1)
        );
    }
}
