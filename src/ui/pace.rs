//! How fast bytes come, and so how long the rest of them takes.
//! Knows the last seconds only: a rate is of now, not of all the time.

use std::collections::VecDeque;
use std::time::Duration;

use crate::base::human::{about, bytes};

/// What was seen of some bytes, lately.
#[derive(Debug, Default)]
pub(super) struct Pace {
    what: &'static str,
    seen: VecDeque<(Duration, u64)>,
}

/// How far back a rate looks.
const WINDOW: Duration = Duration::from_secs(5);
/// Over less time than this there is no rate worth showing.
const LEAST: Duration = Duration::from_millis(900);

impl Pace {
    /// Takes note of what is there at a time.
    pub(super) fn note(&mut self, what: &'static str, done: u64, at: Duration) {
        if self.what != what || self.seen.back().is_some_and(|(_, before)| *before > done) {
            self.seen.clear();
            self.what = what;
        }
        if self
            .seen
            .back()
            .is_none_or(|(last, _)| at.saturating_sub(*last) >= Duration::from_millis(100))
        {
            self.seen.push_back((at, done));
        }
        // One that is older stays, so that a rate over the whole window can be told.
        while self
            .seen
            .get(1)
            .is_some_and(|(then, _)| at.saturating_sub(*then) >= WINDOW)
        {
            self.seen.pop_front();
        }
    }

    /// Bytes a second; none where that cannot be told yet.
    pub(super) fn rate(&self, now: Duration) -> Option<f64> {
        let (first, last) = (self.seen.front()?, self.seen.back()?);
        let time = now.saturating_sub(first.0);
        (time >= LEAST).then(|| (last.1 - first.1) as f64 / time.as_secs_f64())
    }

    /// How long what is left takes; none where that cannot be told.
    pub(super) fn left(&self, total: Option<u64>, now: Duration) -> Option<Duration> {
        let left = total?.saturating_sub(self.seen.back()?.1);
        let rate = self.rate(now).filter(|rate| *rate > 0.0)?;
        // A century is no answer.
        Some(Duration::from_secs_f64((left as f64 / rate).min(1e9)))
    }

    /// All of it as words: `download 68.1 MB of 187 MB, 12.3 MB/s, ~10 s left`.
    pub(super) fn text(
        &mut self,
        what: &'static str,
        done: u64,
        total: Option<u64>,
        now: Duration,
    ) -> String {
        self.note(what, done, now);
        if done == 0 && total.is_none() {
            return what.to_owned();
        }
        let mut text = format!("{what} {}", bytes(done));
        if let Some(total) = total {
            text += &format!(" of {}", bytes(total));
        }
        if let Some(rate) = self.rate(now) {
            text += &format!(", {}/s", bytes(rate as u64));
        }
        if let Some(left) = self
            .left(total, now)
            .filter(|left| *left >= Duration::from_millis(500))
        {
            text += &format!(", {} left", about(left));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_the_last_seconds() {
        let mut pace = Pace::default();
        let at = Duration::from_millis;
        assert_eq!(
            pace.text("download", 0, Some(100_000_000), at(0)),
            "download 0 B of 100 MB"
        );
        assert_eq!(
            pace.text("download", 10_000_000, Some(100_000_000), at(1000)),
            "download 10.0 MB of 100 MB, 10.0 MB/s, ~9 s left"
        );
        // It stops: what it was ten seconds ago says nothing.
        for second in 2..=12 {
            pace.text("download", 10_000_000, Some(100_000_000), at(second * 1000));
        }
        assert_eq!(
            pace.text("download", 10_000_000, Some(100_000_000), at(13_000)),
            "download 10.0 MB of 100 MB, 0 B/s"
        );
        // Another phase, without a known end.
        assert_eq!(pace.text("import", 1000, None, at(14_000)), "import 1.0 kB");
    }
}
