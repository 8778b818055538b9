//! Which sandboxes there are, and which of them a run has.
//! Knows their names and what they are worth, not how they work.

use std::path::PathBuf;
use std::sync::Arc;

use impasto_store::claim::Isolation;

use super::{GuestEnvironment, LazyPolicy, NamespaceSandbox, Sandbox};

/// A sandbox of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxKind {
    Namespace,
}

impl SandboxKind {
    /// All of them, the best first.
    pub const ALL: [SandboxKind; 1] = [SandboxKind::Namespace];

    /// As recipes, `--sandbox` and claims call it.
    pub const fn name(self) -> &'static str {
        match self {
            SandboxKind::Namespace => "namespace",
        }
    }

    /// For the help of `--sandbox`.
    pub const fn summary(self) -> &'static str {
        match self {
            SandboxKind::Namespace => "Namespaces of this host's kernel; needs root",
        }
    }

    /// How strongly it isolates.
    pub const fn isolation(self) -> Isolation {
        match self {
            SandboxKind::Namespace => Isolation::Namespace,
        }
    }

    /// Whether only root can use it.
    pub const fn needs_root(self) -> bool {
        match self {
            SandboxKind::Namespace => true,
        }
    }

    /// The sandbox. `executable` is the impasto binary.
    pub fn sandbox(self, executable: PathBuf) -> Arc<dyn Sandbox> {
        match self {
            SandboxKind::Namespace => Arc::new(NamespaceSandbox::new(executable)),
        }
    }
}

/// The sandbox of a run, and what steps see of the host in it.
#[derive(Clone)]
pub struct SandboxSetup {
    /// Where steps run; why they cannot, where they cannot.
    pub sandbox: Result<Arc<dyn Sandbox>, String>,
    pub environment: GuestEnvironment,
    /// What steps with network are given.
    pub policy: Arc<LazyPolicy>,
}

impl SandboxSetup {
    /// A sandbox in which steps see what they do in every build, and nothing of the host's policy.
    pub fn plain(sandbox: Result<Arc<dyn Sandbox>, String>) -> Self {
        SandboxSetup {
            sandbox,
            environment: GuestEnvironment::default(),
            policy: Arc::default(),
        }
    }
}
