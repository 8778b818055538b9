//! What is in a disk, what changed, where it comes from, and whether it comes out the same again.
//! Knows results, not how they were made.
//!
//! * [`diff`] compares two disks, and says which stage a disk's bytes come from.
//! * [`audit`] tells two builds of a recipe apart.
//! * [`sbom`] lists a disk's packages, with origins and licences.

pub mod audit;
pub mod diff;
pub mod sbom;
