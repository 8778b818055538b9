//! Debian's formats, read in our own process: control files, versions, relations, packages, what dpkg remembers.
//!
//! Knows bytes, which may be anybody's: nothing here panics or takes memory without bound for what it is given. Does not
//! know archives, signatures, recipes or the network, and runs no program.
//!
//! * [`control`] is the form of all of Debian's texts; [`version`] the order of versions; [`relation`] the fields that name
//!   other packages.
//! * [`closure`] takes the packages that a list of names needs out of an index: no solver.
//! * [`package`] reads a `.deb`.
//! * [`status`] tells what is installed.

pub mod closure;
pub mod control;
pub mod package;
pub mod relation;
pub mod status;
pub mod version;
