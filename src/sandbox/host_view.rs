//! What steps with the host's network see of the host: its resolver, its hosts, and its policy of mirrors.
//! Knows files, not who reads them.

use std::io::{self, Read};
use std::path::Path;

use serde_bytes::ByteBuf;

use super::SandboxError;
use super::process::io_error;
use super::protocol::RUN_DIR;
use crate::base::bounded;
use crate::debian::mirror::{self, MirrorError, Mirrors};

/// The host's files that steps with network see in place of the image's.
const HOST_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// Longest host file that is handed in, in bytes.
const MAX_HOST_FILE: u64 = 64 << 10;

/// Certificates that the host believes, for images that have none yet. Debian's name for them.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Longest file of certificates that is handed in, in bytes: it shares a frame with other files.
const MAX_CERTIFICATES: u64 = 700 << 10;

/// Files and directories of the host, as a [`Setup`](super::protocol::Setup) names them.
#[derive(Default)]
pub(super) struct HostView {
    pub(super) overlays: Vec<(String, ByteBuf)>,
    pub(super) policy: Vec<(String, u32, ByteBuf)>,
    pub(super) trees: Vec<(String, String)>,
    pub(super) caches: Vec<(String, String)>,
}

impl HostView {
    /// What steps with network see, whose own host has this name.
    pub(super) fn with_network(mirrors: &Mirrors, host_name: &str) -> Result<Self, SandboxError> {
        let dir = mirror::DIR.strip_prefix(RUN_DIR).expect("BUG: the policy lies elsewhere").trim_start_matches('/');
        let policy = mirrors.files().into_iter();
        let policy = policy.map(|(name, mode, text)| (format!("{dir}/{name}"), mode, ByteBuf::from(text.into_bytes())));
        let certificates = read_host_file(CERTIFICATES, MAX_CERTIFICATES)?;
        // Half of them would be none.
        let certificates = certificates.filter(|text| (text.len() as u64) < MAX_CERTIFICATES);
        let certificates = certificates.map(|text| (format!("{dir}/ca-certificates.crt"), 0o644, ByteBuf::from(text)));
        let trees = mirrors.directories().map(|(name, path)| {
            let host = path.to_str().ok_or_else(|| MirrorError::NoDirectory { path: path.to_owned() });
            Ok((format!("{dir}/{name}"), host.map_err(SandboxError::Mirror)?.to_owned()))
        });
        Ok(HostView {
            overlays: host_files(host_name)?,
            policy: policy.chain(certificates).collect(),
            trees: trees.collect::<Result<_, SandboxError>>()?,
            caches: Vec::new(),
        })
    }
}

fn host_files(host_name: &str) -> Result<Vec<(String, ByteBuf)>, SandboxError> {
    let read = |path: &str| Ok(read_host_file(path, MAX_HOST_FILE)?.map(|text| (path.to_owned(), text)));
    let mut files = HOST_FILES.into_iter().filter_map(|path| read(path).transpose()).collect::<Result<Vec<_>, _>>()?;
    for (path, text) in &mut files {
        if path == "/etc/hosts" {
            // Programs look up their own host; without an answer here they would wait for a name server.
            text.extend_from_slice(format!("\n127.0.1.1 {host_name}\n").as_bytes());
        }
    }
    Ok(files.into_iter().map(|(path, text)| (path, ByteBuf::from(text))).collect())
}

/// A file of the host, up to a length in bytes; none where there is none.
fn read_host_file(path: &str, limit: u64) -> Result<Option<Vec<u8>>, SandboxError> {
    let mut content = Vec::new();
    match bounded::open(path).and_then(|file| file.take(limit).read_to_end(&mut content)) {
        Ok(_) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", Path::new(path), error)),
    }
}
