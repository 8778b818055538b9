//! What a `vendor` stage makes: the files that a language's own lock names.
//! Knows languages and machines, not how locks are read or where files are.

use impasto_store::key::{Atom, Describe, Sink, field};

/// Whose lock it is, and for what its files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VendorSpec {
    /// A Cargo.lock: crates, which are for every machine.
    Cargo,
    /// A requirements.txt with hashes.
    Python(PythonTarget),
    /// A package-lock.json.
    Npm {
        /// The distribution's name of the machine, such as `amd64`.
        machine: String,
    },
}

/// The interpreter that wheels are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PythonTarget {
    /// Its minor version: 11 is Python 3.11.
    pub minor: u32,
    /// The distribution's name of the machine, such as `amd64`.
    pub machine: String,
    /// The minor version of its C library: 36 is glibc 2.36.
    pub glibc: u32,
}

impl Describe for VendorSpec {
    fn describe(&self, sink: &mut dyn Sink) {
        match self {
            VendorSpec::Cargo => sink.put(Atom::Variant(0, "cargo")),
            VendorSpec::Python(target) => {
                // No `..`: a new field does not compile until it is keyed.
                let PythonTarget {
                    minor,
                    machine,
                    glibc,
                } = target;
                sink.put(Atom::Variant(1, "python"));
                field(sink, "python", minor);
                field(sink, "machine", machine);
                field(sink, "glibc", glibc);
            }
            VendorSpec::Npm { machine } => {
                sink.put(Atom::Variant(2, "npm"));
                field(sink, "machine", machine);
            }
        }
    }
}
