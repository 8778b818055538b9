//! One line that says what is waited for, how long, and how far it is: for commands that are no run of stages.
//! Knows a meter and a terminal; where there is none, it says nothing.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use impasto_store::meter::Meter;

use super::live::EVERY;
use super::pace::Pace;
use super::screen::{Screen, Stderr};
use super::style::BUSY;
use crate::base::host::Host;
use crate::base::human::seconds;

/// What is waited for, until it is dropped.
#[derive(Debug)]
pub struct Wait {
    shared: Option<Arc<WaitShared>>,
    ticker: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct WaitShared {
    now: Mutex<Now>,
    over: Condvar,
    meter: Arc<Meter>,
}

#[derive(Debug)]
struct Now {
    /// A word for it, and of what.
    word: &'static str,
    what: String,
    since: Instant,
    over: bool,
}

/// How long it must take before it is worth a line.
const PATIENCE: Duration = Duration::from_millis(300);

impl Wait {
    /// Waits for something of which `meter` tells how far it is. On a terminal a line says so while it takes.
    pub fn new(host: &Host, word: &'static str, what: &str, meter: &Arc<Meter>) -> Wait {
        if !host.draws() {
            return Wait {
                shared: None,
                ticker: None,
            };
        }
        let now = Now {
            word,
            what: what.to_owned(),
            since: Instant::now(),
            over: false,
        };
        let shared = Arc::new(WaitShared {
            now: Mutex::new(now),
            over: Condvar::new(),
            meter: meter.clone(),
        });
        let (drawn, colour) = (shared.clone(), host.colour());
        let draw = move || drawn.draw(Screen::new(Stderr, colour));
        let ticker = std::thread::Builder::new()
            .name("view".to_owned())
            .spawn(draw)
            .ok();
        Wait {
            shared: Some(shared),
            ticker,
        }
    }
}

impl WaitShared {
    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self, mut screen: Screen<Stderr>) {
        let mut pace = Pace::default();
        let mut now = self.lock();
        while !now.over {
            let took = now.since.elapsed();
            if took >= PATIENCE {
                let mut line = format!("{BUSY}{:>8}{BUSY:#}  {}", now.word, now.what);
                line += &format!("  {}", seconds(took));
                // What is all there is not what is waited for.
                if let Some(reading) = self
                    .meter
                    .read()
                    .filter(|reading| reading.total != Some(reading.done))
                {
                    line += &format!(
                        "  {}",
                        pace.text(reading.what, reading.done, reading.total, took)
                    );
                }
                screen.draw(&[line]);
            }
            now = self
                .over
                .wait_timeout(now, EVERY)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        screen.draw(&[]);
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.lock().over = true;
            shared.over.notify_all();
        }
        if let Some(ticker) = self.ticker.take() {
            // A line that could not be drawn is no reason to fail.
            let _ = ticker.join();
        }
    }
}
