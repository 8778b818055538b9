//! One file per kind, and the list of them.
//! Knows the kinds' names only.

mod archives;
mod bootstrap;
mod build;
mod builder;
mod cleanup;
mod common;
mod convert;
mod copy;
mod debs;
mod disk;
mod fetch;
mod kernel_module;
mod machine;
mod packages;
mod resize;
mod run;
mod steps;
mod system;
mod test;
mod vendor;

#[cfg(test)]
pub(crate) use common::check_volatile;
pub(crate) use common::root;
pub(crate) use convert::files as converted_files;

use crate::registry::Kind;

/// Every kind that impasto ships, in the order of the reference.
pub(crate) const ALL: &[&Kind] = &[
    &fetch::KIND,
    &vendor::KIND,
    &debs::KIND,
    &bootstrap::KIND,
    &disk::KIND,
    &resize::KIND,
    &packages::KIND,
    &run::KIND,
    &copy::KIND,
    &system::KIND,
    &build::KIND,
    &kernel_module::KIND,
    &cleanup::KIND,
    &convert::KIND,
    &test::KIND,
];
