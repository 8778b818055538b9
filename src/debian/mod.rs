//! Debian and what descends from it: archives, packages, apt, and roots made of packages.
//! Knows Debian's formats by `crate::deb`, and locks; knows no graph.
//!
//! * [`mirror`] is where the host gets Debian's packages; [`archive`] gets signed indexes and files from there.
//! * [`distribution`] is how Debian's archives differ from Ubuntu's.
//! * [`packages`] resolves what a stage installs to exact files, and fetches them.
//! * [`tools`] lays packages out as a tree of tools, the toolbox; [`toolbox`] is our own work with a distribution's programs: roots out of packages.

pub mod archive;
pub mod distribution;
pub mod mirror;
pub mod packages;
pub mod toolbox;
pub mod tools;
