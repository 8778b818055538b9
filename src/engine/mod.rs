//! From a recipe to its results: the graph of stages, what of it must run and why, and the one loop that runs it.
//! Knows no command and prints nothing; what happens is an [`event`].
//!
//! ```text
//! Recipe ─ graph ─→ Graph ─ locking ─ plan ─→ cached, dirty or pending
//!                                            │ run, schedule
//!                                            ↓
//!    user's files ←─ publish ─ job ─→ sandbox, or our own code ─→ store
//! ```
//!
//! * [`graph`] makes equal stages of different combinations one node; [`locking`] gives stages their exact packages.
//! * [`inputs`] hashes files; [`plan`] binds a node's inputs and looks its key up; [`reason`] says why it must run.
//! * [`schedule`] is a pure state machine; [`run`] is the one loop around it; [`job`] is one unit of work, and [`chain`]
//!   are those of a node. Whatever is known of each node is a [`graph::NodeMap`].
//! * [`history`] is the history of runs, and may be lost; [`roots`] is what the collector keeps for a checkout.
//! * [`log`] keeps what stages print, [`failed`] the state in which one failed.
//! * [`cause`] finds out why a stage failed, [`hints`] is what others say of it; [`forecast`] how long a build takes.
//! * [`publish`] writes files for the user.

pub mod cause;
pub mod chain;
pub mod event;
pub mod failed;
pub mod forecast;
pub mod graph;
pub mod hints;
pub mod history;
mod ignored;
pub mod inputs;
pub mod job;
pub mod locking;
pub mod log;
mod node;
pub mod plan;
pub mod publish;
pub mod reason;
pub mod roots;
pub mod run;
pub mod schedule;
