//! What a `bootstrap` stage makes: a distribution's root out of its packages.
//! Knows names of suites and packages, not how or from where they are installed.

use impasto_store::key::{Describe, Sink, field};
use serde::{Deserialize, Serialize};

/// A root file system out of packages. Where the packages come from is the host's business.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootstrapSpec {
    /// `debian`.
    pub distribution: String,
    /// The release's code name, or `stable`, `testing`, …
    pub suite: String,
    /// Sections of the archive, such as `main`.
    pub components: Vec<String>,
    /// The distribution's name of the machine, such as `amd64`.
    pub architecture: String,
    /// What is installed beside `packages`: `essential`, or all that has priority `required` (`minbase`).
    pub variant: String,
    /// Packages, each as apt-get takes it.
    pub packages: Vec<String>,
    /// Whether recommended packages are installed too.
    pub recommends: bool,
    /// Lines of the image's `/etc/apt/sources.list`; those that its apt gives as an example where none are given.
    pub sources: Option<Vec<String>>,
}

impl Describe for BootstrapSpec {
    fn describe(&self, sink: &mut dyn Sink) {
        // No `..`: a new field does not compile until it is keyed.
        let BootstrapSpec {
            distribution,
            suite,
            components,
            architecture,
            variant,
            packages,
            recommends,
            sources,
        } = self;
        field(sink, "distribution", distribution);
        field(sink, "suite", suite);
        field(sink, "components", components);
        field(sink, "architecture", architecture);
        field(sink, "variant", variant);
        field(sink, "packages", packages);
        field(sink, "recommends", recommends);
        field(sink, "sources", sources);
    }
}
