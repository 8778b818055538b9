//! What steps see of the place where they run. Every build has the same; an audit has another, to find what depends on it.
//!
//! Knows names and numbers, not how they get into a sandbox. What is here is part of what steps mean: a change of the
//! default is a new `ENGINE_EPOCH`.

/// The environment of steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestEnvironment {
    pub host_name: String,
    /// `LANG`.
    pub lang: String,
    /// `TZ`.
    pub timezone: String,
    /// How many of the machine's CPUs steps may use; all where none is said.
    pub cpus: Option<u32>,
    /// Whether directories list their files in another order: those that impasto lays out, and those of disks that it
    /// makes, whose file systems hash names with another seed.
    pub reordered: bool,
}

impl Default for GuestEnvironment {
    fn default() -> Self {
        GuestEnvironment {
            host_name: "impasto".to_owned(),
            lang: "C.UTF-8".to_owned(),
            timezone: "UTC".to_owned(),
            cpus: None,
            reordered: false,
        }
    }
}

impl GuestEnvironment {
    /// Others in every respect.
    pub fn variation() -> Self {
        GuestEnvironment {
            host_name: "elsewhere".to_owned(),
            lang: "et_EE.UTF-8".to_owned(),
            // Needs no database of time zones: a day ahead for most of it.
            timezone: "<+14>-14".to_owned(),
            cpus: Some(1),
            reordered: true,
        }
    }
}
