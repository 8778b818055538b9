//! What everything stands on: the process, its surroundings, files to read. Knows nothing of images.
//!
//! * [`bounded`] alone opens files to read them.
//! * [`host`] alone reads the environment, the clock and the current directory.
//! * [`interrupt`] is what SIGINT, SIGTERM and SIGHUP do.

pub mod bounded;
pub mod host;
pub mod interrupt;
