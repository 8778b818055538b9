//! How many machines run at once: as many as fit into the memory that was free.
//! Knows bytes, not what the machines do.

use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::base::bounded;
use crate::base::cancel::CancelToken;

/// How soon who waits notices that it was cancelled.
const TICK: Duration = Duration::from_millis(50);
/// What QEMU takes beside the guest's memory, in bytes: its code, caches of translated code, the picture.
const OVERHEAD: u64 = 384 << 20;

/// Memory that machines share.
#[derive(Debug)]
pub struct MachinePool {
    /// Bytes for all of them.
    limit: u64,
    used: Mutex<u64>,
    freed: Condvar,
}

/// A machine's part of a pool, for as long as it lives.
#[derive(Debug)]
pub struct MachinePermit<'p> {
    pool: &'p MachinePool,
    bytes: u64,
}

impl MachinePool {
    /// A pool of so many bytes.
    pub fn new(limit: u64) -> Self {
        MachinePool {
            limit,
            used: Mutex::new(0),
            freed: Condvar::new(),
        }
    }

    /// A pool of three quarters of what the host can give now.
    pub fn of_host() -> Self {
        MachinePool::new(available() / 4 * 3)
    }

    /// Waits until a machine of so much memory fits in. One that fits in by no means runs alone: the host may swap, or
    /// refuse. None where it was cancelled meanwhile.
    pub fn enter(&self, memory: u64, cancel: &CancelToken) -> Option<MachinePermit<'_>> {
        let bytes = memory.saturating_add(OVERHEAD);
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while *used > 0 && used.saturating_add(bytes) > self.limit {
            if cancel.is_cancelled() {
                return None;
            }
            used = self
                .freed
                .wait_timeout(used, TICK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        *used = used.saturating_add(bytes);
        Some(MachinePermit { pool: self, bytes })
    }
}

impl Drop for MachinePermit<'_> {
    fn drop(&mut self) {
        let mut used = self
            .pool
            .used
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *used = used.saturating_sub(self.bytes);
        self.pool.freed.notify_all();
    }
}

/// Bytes that the host can give without swapping, as the kernel estimates; plenty where it does not tell.
fn available() -> u64 {
    let text = bounded::read_text(Path::new("/proc/meminfo"), bounded::LINES).unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn ten_machines_of_four_gib_never_run_at_once_in_24() {
        let pool = Arc::new(MachinePool::new(24 * GIB / 4 * 3));
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let machines: Vec<_> = (0..10)
            .map(|_| {
                let (pool, now, most) = (pool.clone(), now.clone(), most.clone());
                std::thread::spawn(move || {
                    let permit = pool.enter(4 * GIB, &CancelToken::new()).unwrap();
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(30));
                    now.fetch_sub(1, Ordering::SeqCst);
                    drop(permit);
                })
            })
            .collect();
        machines
            .into_iter()
            .for_each(|machine| machine.join().unwrap());
        let most = most.load(Ordering::SeqCst);
        assert!((2..=4).contains(&most), "{most}");
        assert_eq!(*pool.used.lock().unwrap(), 0);
    }

    #[test]
    fn one_that_is_too_large_runs_alone_and_a_cancelled_one_not_at_all() {
        let pool = MachinePool::new(GIB);
        let alone = pool.enter(64 * GIB, &CancelToken::new()).unwrap();
        let cancel = CancelToken::new();
        cancel.cancel();
        assert!(pool.enter(1, &cancel).is_none());
        drop(alone);
        assert!(pool.enter(1, &cancel).is_some());
    }
}
