//! What everything stands on: the process, its environment, files to read, words for people. Knows nothing of images.
//!
//! * [`bounded`] alone opens files to read them.
//! * [`cancel`] tells work to stop.
//! * [`escape`] makes texts from outside safe to show; [`human`] says numbers and errors; [`table`] lines texts up; [`time`] reads and
//!   shows dates.
//! * [`host`] alone reads the environment, the clock and the current directory.
//! * [`io`] is the error of a file that cannot be read or written.
//! * [`interrupt`] is what SIGINT, SIGTERM and SIGHUP do.

pub mod bounded;
pub mod cancel;
pub mod escape;
pub mod host;
pub mod human;
pub mod interrupt;
pub mod io;
pub mod table;
pub mod time;
