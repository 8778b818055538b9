//! How far a long piece of work is, in bytes: written by whoever works, read by whoever shows it.
//! Knows numbers, not what they mean; costs an atomic addition a batch.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Counts the bytes of one phase of work after another.
#[derive(Debug, Default)]
pub struct Meter {
    phase: Mutex<Option<Phase>>,
    done: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Phase {
    what: &'static str,
    total: Option<u64>,
}

/// What a meter shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// What is done, such as `sealing`.
    pub what: &'static str,
    /// Bytes so far.
    pub done: u64,
    /// Bytes in all, where that is known; never below `done`.
    pub total: Option<u64>,
}

impl Reading {
    /// The same when all is done.
    pub fn finished(self) -> Reading {
        let all = self.total.unwrap_or(self.done);
        Reading {
            done: all,
            total: Some(all),
            ..self
        }
    }
}

impl Meter {
    /// A new phase begins; the one before it, if any, is over.
    pub fn begin(&self, what: &'static str, total: Option<u64>) {
        let mut phase = self.lock();
        self.done.store(0, Ordering::Relaxed);
        *phase = Some(Phase { what, total });
    }

    /// More of the phase `what` is to come than was known, which begins where it is not the present one.
    pub fn extend(&self, what: &'static str, bytes: u64) {
        let mut phase = self.lock();
        match &mut *phase {
            Some(Phase { what: now, total }) if *now == what => {
                *total = total.map(|total| total + bytes)
            }
            _ => {
                self.done.store(0, Ordering::Relaxed);
                *phase = Some(Phase {
                    what,
                    total: Some(bytes),
                });
            }
        }
    }

    /// Bytes are done.
    pub fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes are done, or, where they are negative, have to be done again.
    pub fn change(&self, bytes: i64) {
        // What belongs to a phase that is over takes nothing from the next one.
        let changed = |done: u64| Some(done.saturating_add_signed(bytes));
        let _ = self
            .done
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
    }

    /// No phase goes on.
    pub fn end(&self) {
        *self.lock() = None;
    }

    /// How far the present phase is.
    pub fn read(&self) -> Option<Reading> {
        let phase = self.lock();
        let Phase { what, total } = (*phase)?;
        let done = self.done.load(Ordering::Relaxed);
        Some(Reading {
            what,
            done: total.map_or(done, |total| done.min(total)),
            total,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Phase>> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts what is read or written through it.
#[derive(Debug)]
pub struct Metered<'m, T> {
    inner: T,
    meter: &'m Meter,
}

impl<'m, T> Metered<'m, T> {
    /// Counts with a meter.
    pub fn new(inner: T, meter: &'m Meter) -> Self {
        Metered { inner, meter }
    }
}

impl<T: std::io::Read> std::io::Read for Metered<'_, T> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.meter.add(count as u64);
        Ok(count)
    }
}

impl<T: std::io::Write> std::io::Write for Metered<'_, T> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.meter.add(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_each_other_and_never_show_more_than_all() {
        let meter = Meter::default();
        assert_eq!(meter.read(), None);
        meter.begin("sealing", Some(100));
        meter.add(70);
        meter.add(70);
        assert_eq!(
            meter.read(),
            Some(Reading {
                what: "sealing",
                done: 100,
                total: Some(100)
            })
        );
        meter.extend("packages", 10);
        meter.extend("packages", 20);
        meter.add(15);
        meter.change(-5);
        assert_eq!(
            meter.read(),
            Some(Reading {
                what: "packages",
                done: 10,
                total: Some(30)
            })
        );
        let all = meter.read().map(Reading::finished);
        assert_eq!(
            all,
            Some(Reading {
                what: "packages",
                done: 30,
                total: Some(30)
            })
        );
        meter.end();
        assert_eq!(meter.read(), None);
    }

    #[test]
    fn what_is_copied_is_counted() {
        let meter = Meter::default();
        meter.begin("import", Some(6));
        std::io::copy(&mut Metered::new(&b"abcdef"[..], &meter), &mut Vec::new()).unwrap();
        assert_eq!(meter.read().map(|reading| reading.done), Some(6));
        std::io::copy(
            &mut &b"ab"[..],
            &mut Metered::new(Vec::new(), &Meter::default()),
        )
        .unwrap();
    }
}
