//! What steps with the host's network see of the host: its resolver, its hosts, and its policy of networks.
//! Knows files, not what the policy's say nor who reads them.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use impasto_stages::Secret;
use serde_bytes::ByteBuf;

use super::SandboxError;
use crate::base::bounded;

/// The host's own policy for steps with network, such as its mirrors: files and directories that these steps find below
/// `/run/impasto`, at paths relative to it.
#[derive(Default)]
pub struct NetworkPolicy {
    /// Path, permission bits and content.
    pub files: Vec<(String, u32, Vec<u8>)>,
    /// Directories of the host that can be read there: path, and path on the host.
    pub directories: Vec<(String, PathBuf)>,
    /// What claims record of it.
    pub facts: BTreeMap<String, String>,
    /// What must not be shown, such as passwords.
    pub secrets: Vec<Secret>,
}

/// Why there is no policy.
pub type PolicyError = Arc<dyn Error + Send + Sync>;

/// Reads the policy.
pub type ReadPolicy = Box<dyn Fn() -> Result<NetworkPolicy, PolicyError> + Send + Sync>;

/// The policy, read once, when the first job with network needs it. The default has nothing in it.
#[derive(Default)]
pub struct LazyPolicy {
    read: Option<ReadPolicy>,
    policy: OnceLock<Result<NetworkPolicy, PolicyError>>,
}

impl LazyPolicy {
    pub fn new(read: ReadPolicy) -> Self {
        LazyPolicy {
            read: Some(read),
            policy: OnceLock::new(),
        }
    }

    /// # Errors
    /// It cannot be read.
    pub fn get(&self) -> Result<&NetworkPolicy, SandboxError> {
        let read = || match &self.read {
            Some(read) => read(),
            None => Ok(NetworkPolicy::default()),
        };
        let policy = self.policy.get_or_init(read).as_ref();
        policy.map_err(|error| SandboxError::Policy(error.clone()))
    }
}

/// The host's files that steps with network see in place of the image's.
const HOST_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// Longest host file that is handed in, in bytes.
const MAX_HOST_FILE: u64 = 64 << 10;

/// Files of the host, as a [`Setup`](super::protocol::Setup) names them.
#[derive(Default)]
pub(super) struct HostView {
    pub(super) overlays: Vec<(String, ByteBuf)>,
    pub(super) policy: Vec<(String, u32, ByteBuf)>,
}

impl HostView {
    /// What steps see that have the network by this policy, and whose own host has this name.
    pub(super) fn new(
        policy: Option<&NetworkPolicy>,
        host_name: &str,
    ) -> Result<Self, SandboxError> {
        let Some(policy) = policy else {
            return Ok(HostView::default());
        };
        let files = policy.files.iter();
        Ok(HostView {
            overlays: host_files(host_name)?,
            policy: files
                .map(|(path, mode, content)| (path.clone(), *mode, ByteBuf::from(content.clone())))
                .collect(),
        })
    }
}

fn host_files(host_name: &str) -> Result<Vec<(String, ByteBuf)>, SandboxError> {
    let read = |path: &str| -> Result<_, SandboxError> {
        Ok(read_host_file(path, MAX_HOST_FILE)?.map(|text| (path.to_owned(), text)))
    };
    let mut files = HOST_FILES
        .into_iter()
        .filter_map(|path| read(path).transpose())
        .collect::<Result<Vec<_>, _>>()?;
    for (path, text) in &mut files {
        if path == "/etc/hosts" {
            // Programs look up their own host; without an answer here they would wait for a name server.
            text.extend_from_slice(format!("\n127.0.1.1 {host_name}\n").as_bytes());
        }
    }
    Ok(files
        .into_iter()
        .map(|(path, text)| (path, ByteBuf::from(text)))
        .collect())
}

/// A file of the host, up to a length in bytes; none where there is none.
fn read_host_file(path: &str, limit: u64) -> Result<Option<Vec<u8>>, SandboxError> {
    let mut content = Vec::new();
    match bounded::open(path).and_then(|file| file.take(limit).read_to_end(&mut content)) {
        Ok(_) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SandboxError::io("read", path)(error)),
    }
}
