//! Debian: archives, packages, apt, and roots made of packages. Other distributions would be rooms beside this one.
//!
//! * [`mirror`] is where the host gets Debian's packages; [`archive`] gets signed indexes and files from there.
//! * [`deb`] reads Debian's formats, and lays packages out as a tree of tools.
//! * [`packages`] resolves what a stage installs to exact files, and fetches them.
//! * [`toolbox`] is our own work with a distribution's programs: roots out of packages.

pub mod archive;
pub mod deb;
pub mod mirror;
pub mod packages;
pub mod toolbox;
