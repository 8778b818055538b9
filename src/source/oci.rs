//! Container images as trees of files: OCI layouts and what `docker save` writes, as tar archives. Layers are laid over each
//! other in order, what they delete is gone, and every part is checked against the digest that names it.
//! Knows archives; gets nothing from a registry.
//!
//! Owners and permission bits stay, as a root file system needs them. Devices, pipes and sockets are left out, as a running
//! system makes its own; extended attributes are not kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::Arc;

use impasto_store::sha256::{Sha256, Sha256Reader};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::archive::{ArchiveTreeError, TreePart, TreeUnpacker, broken, text};
use super::tree::{FilePart, TreeBuilder, TreeContent};

/// Bytes of a document of an image, at most.
const MAX_DOCUMENT: u64 = 16 << 20;

/// How deep lists of images may lie in each other.
const MAX_DEPTH: usize = 4;

/// Layers of an image, at most.
const MAX_LAYERS: usize = 1000;

/// Symbolic links that are followed on the way to a member.
const MAX_LINKS: usize = 40;

/// What the names of deletions begin with (OCI image specification, layer filesystem changeset).
const WHITEOUT: &str = ".wh.";

/// What says that nothing below the directory is left of the layers before.
const OPAQUE: &str = ".wh..wh..opq";

/// What names a part of an image.
#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// `index.json`, and lists of images.
#[derive(Deserialize)]
struct ImageIndex {
    manifests: Vec<Descriptor>,
}

/// A manifest, or a list of further ones.
#[derive(Deserialize)]
struct ImageManifest {
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

/// An image of `docker save`, in its `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    layers: Vec<String>,
}

/// What a configuration says of layers: digests of them unpacked.
#[derive(Deserialize)]
struct ImageConfig {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// An archive with an image in it.
pub struct ImageArchive {
    file: Arc<File>,
    /// Where the bytes of each member are, and how many, by its name.
    members: BTreeMap<String, (u64, u64)>,
}

impl ImageArchive {
    /// The image in a plain tar archive; none where it holds something else.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of(archive: &File) -> Result<Option<ImageArchive>, ArchiveTreeError> {
        let read = |source| ArchiveTreeError::Read { source };
        let mut reader = archive.try_clone().map_err(read)?;
        reader.rewind().map_err(read)?;
        let mut members = BTreeMap::new();
        let mut tar = tar::Archive::new(reader);
        for entry in tar.entries_with_seek().map_err(broken)? {
            // Whether it is an archive at all is said by whoever unpacks it.
            let Ok(entry) = entry else { return Ok(None) };
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
            // Archives of roots are long, and begin otherwise.
            if members.len() > 100_000 {
                return Ok(None);
            }
            if entry.header().entry_type().is_file() {
                members.insert(name, (entry.raw_file_position(), entry.size()));
            }
        }
        let is_oci = members.contains_key("oci-layout") && members.contains_key("index.json");
        if !is_oci && !members.contains_key("manifest.json") {
            return Ok(None);
        }
        let image = ImageArchive {
            file: Arc::new(archive.try_clone().map_err(read)?),
            members,
        };
        // Other archives have a file of that name too.
        let is_saved = || {
            image
                .document::<Vec<SavedImage>>("manifest.json", None)
                .is_ok()
        };
        Ok((is_oci || is_saved()).then_some(image))
    }

    /// The files of its one image, or of the one for `architecture` (`amd64`) among several.
    ///
    /// # Errors
    /// A part is missing or is not what its digest says, or a layer cannot be unpacked.
    pub fn tree(
        &self,
        unpacker: &TreeUnpacker<'_>,
        architecture: &str,
        part: &TreePart,
    ) -> Result<TreeBuilder, ArchiveTreeError> {
        let layers = match self.members.contains_key("index.json") {
            true => self.layers(architecture)?,
            false => self.saved()?,
        };
        if layers.len() > MAX_LAYERS {
            return Err(damaged("its image has more than 1000 layers".to_owned()));
        }
        let mut root = LayeredRoot::default();
        let mut left = unpacker.limit;
        for layer in &layers {
            let limit = TreeUnpacker {
                limit: left,
                ..*unpacker
            };
            let mut plain = limit.plain(self.part(&layer.name)?)?;
            if let Some(expected) = layer.unpacked {
                let found = sha256_of(&mut plain)?;
                check(&layer.name, expected, found)?;
            }
            left = left.saturating_sub(plain.metadata().map_or(0, |stat| stat.len()));
            root.apply(plain, unpacker)?;
        }
        root.into_tree(part)
    }

    /// The layers of an OCI image, the lowest first.
    fn layers(&self, architecture: &str) -> Result<Vec<ImageLayer>, ArchiveTreeError> {
        let index: ImageIndex = self.document("index.json", None)?;
        let mut candidates = index.manifests;
        for _ in 0..MAX_DEPTH {
            let chosen = choose(&candidates, architecture)?;
            let (name, digest) = blob(&chosen.digest)?;
            let manifest: ImageManifest = self.document(&name, Some(digest))?;
            if manifest.manifests.is_empty() {
                let layers = manifest.layers.iter().map(|layer| {
                    let (name, digest) = blob(&layer.digest)?;
                    check(&name, digest, sha256_of(&mut self.part(&name)?)?)?;
                    Ok(ImageLayer {
                        name,
                        unpacked: None,
                    })
                });
                return layers.collect();
            }
            candidates = manifest.manifests;
        }
        Err(damaged(
            "its lists of images lie in each other too deep".to_owned(),
        ))
    }

    /// The layers of the image that `docker save` wrote, the lowest first.
    fn saved(&self) -> Result<Vec<ImageLayer>, ArchiveTreeError> {
        let images: Vec<SavedImage> = self.document("manifest.json", None)?;
        let [image] = images.as_slice() else {
            return Err(damaged(format!(
                "it holds {} images, not one",
                images.len()
            )));
        };
        // The configuration is named by its digest, and names the layers by theirs.
        let base = image.config.rsplit('/').next().unwrap_or_default();
        let digest = base.trim_end_matches(".json").parse::<Sha256>();
        let digest = digest
            .map_err(|_| damaged("its configuration is not named by its digest".to_owned()))?;
        let config: ImageConfig = self.document(&image.config, Some(digest))?;
        let ids = config.rootfs.diff_ids;
        if ids.len() != image.layers.len() {
            return Err(damaged("its configuration is of other layers".to_owned()));
        }
        let layers = image.layers.iter().zip(ids).map(|(name, id)| {
            Ok(ImageLayer {
                name: name.clone(),
                unpacked: Some(digest_of(&id)?),
            })
        });
        layers.collect()
    }

    fn document<T: DeserializeOwned>(
        &self,
        name: &str,
        digest: Option<Sha256>,
    ) -> Result<T, ArchiveTreeError> {
        let mut bytes = Vec::new();
        let mut part = self.part(name)?.take(MAX_DOCUMENT);
        part.read_to_end(&mut bytes).map_err(broken)?;
        if let Some(digest) = digest {
            check(name, digest, Sha256::of(&bytes))?;
        }
        serde_json::from_slice(&bytes)
            .map_err(|error| damaged(format!("{name} is not what it should be: {error}")))
    }

    fn part(&self, name: &str) -> Result<FilePart<'_>, ArchiveTreeError> {
        let found = self.members.get(name);
        let (offset, size) = found.ok_or_else(|| damaged(format!("{name} is not in it")))?;
        Ok(FilePart::new(&self.file, *offset, *size))
    }
}

struct ImageLayer {
    /// The member's name.
    name: String,
    /// What it must be when it is not compressed any more, where that is what names it.
    unpacked: Option<Sha256>,
}

/// The image that is meant.
fn choose<'d>(
    all: &'d [Descriptor],
    architecture: &str,
) -> Result<&'d Descriptor, ArchiveTreeError> {
    if let [only] = all {
        return Ok(only);
    }
    let fits = |one: &&Descriptor| {
        let platform = one.platform.as_ref();
        platform.is_some_and(|one| one.os == "linux" && one.architecture == architecture)
    };
    let mut fitting = all.iter().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(damaged(format!(
            "it holds {} images, none of them for {architecture}",
            all.len()
        ))),
        (Some(_), Some(_)) => Err(damaged(format!(
            "it holds several images for {architecture}"
        ))),
    }
}

fn digest_of(text: &str) -> Result<Sha256, ArchiveTreeError> {
    let digits = text
        .strip_prefix("sha256:")
        .and_then(|digits| digits.parse().ok());
    digits.ok_or_else(|| damaged(format!("{text:?} is not a SHA-256 digest")))
}

/// The member that a digest names.
fn blob(digest: &str) -> Result<(String, Sha256), ArchiveTreeError> {
    let sha256 = digest_of(digest)?;
    Ok((format!("blobs/sha256/{sha256}"), sha256))
}

fn sha256_of(reader: &mut (impl Read + Seek)) -> Result<Sha256, ArchiveTreeError> {
    let mut hashed = Sha256Reader::new(&mut *reader);
    io::copy(&mut hashed, &mut io::sink()).map_err(broken)?;
    let sha256 = hashed.finish();
    reader.rewind().map_err(broken)?;
    Ok(sha256)
}

fn check(name: &str, expected: Sha256, found: Sha256) -> Result<(), ArchiveTreeError> {
    match expected == found {
        true => Ok(()),
        false => Err(damaged(format!(
            "{name} has the wrong checksum: expected sha256:{expected}, got sha256:{found}"
        ))),
    }
}

fn damaged(reason: String) -> ArchiveTreeError {
    ArchiveTreeError::Damaged { reason }
}

/// Something in the root that layers make.
#[derive(Clone)]
enum LayerNode {
    Dir,
    File {
        layer: Arc<File>,
        offset: u64,
        size: u64,
    },
    Link {
        target: String,
    },
}

#[derive(Clone)]
struct OwnedNode {
    node: LayerNode,
    mode: u32,
    owner: (u64, u64),
}

/// What layers come to, by path.
#[derive(Default)]
struct LayeredRoot {
    nodes: BTreeMap<String, OwnedNode>,
}

impl LayeredRoot {
    /// Lays a layer over those before.
    fn apply(&mut self, layer: File, unpacker: &TreeUnpacker<'_>) -> Result<(), ArchiveTreeError> {
        let content = layer
            .try_clone()
            .map_err(|source| ArchiveTreeError::Read { source })?;
        let content = Arc::new(content);
        let mut fresh = BTreeSet::new();
        let mut tar = tar::Archive::new(layer);
        for entry in tar.entries_with_seek().map_err(broken)? {
            unpacker.go_on(self.nodes.len())?;
            let entry = entry.map_err(broken)?;
            let name = text(&entry.path_bytes())?;
            let header = entry.header();
            let plain = name.trim_start_matches("./").trim_end_matches('/');
            if matches!(plain, "" | ".") || header.entry_type().is_pax_global_extensions() {
                continue;
            }
            super::tree::check_path(plain).map_err(|source| ArchiveTreeError::Member {
                name: name.clone(),
                source,
            })?;
            let (dir, base) = plain.rsplit_once('/').unwrap_or(("", plain));
            let dir = self.resolved(dir, &name)?;
            let below = |base: &str| match &*dir {
                "" => base.to_owned(),
                dir => format!("{dir}/{base}"),
            };
            if base == OPAQUE {
                self.remove_below(&dir, &fresh);
                continue;
            }
            if let Some(gone) = base.strip_prefix(WHITEOUT) {
                let gone = below(gone);
                // It is about the layers before: this one may bring another of that name.
                if !fresh.contains(&gone) {
                    self.nodes.remove(&gone);
                }
                self.remove_below(&gone, &fresh);
                continue;
            }
            let path = below(base);
            let node = match header.entry_type() {
                tar::EntryType::Directory => LayerNode::Dir,
                tar::EntryType::Symlink => LayerNode::Link {
                    target: text(&entry.link_name_bytes().unwrap_or_default())?,
                },
                tar::EntryType::Regular | tar::EntryType::Continuous => LayerNode::File {
                    layer: content.clone(),
                    offset: entry.raw_file_position(),
                    size: entry.size(),
                },
                tar::EntryType::Link => {
                    let target = text(&entry.link_name_bytes().unwrap_or_default())?;
                    let known = target.trim_start_matches("./").trim_start_matches('/');
                    let (dir, base) = known.rsplit_once('/').unwrap_or(("", known));
                    let dir = self.resolved(dir, &name)?;
                    let known = format!("{dir}/{base}");
                    let Some(node) = self.nodes.get(known.trim_start_matches('/')).cloned() else {
                        return Err(ArchiveTreeError::HardLink { name, target });
                    };
                    self.put(&path, node, &mut fresh);
                    continue;
                }
                // A running system makes its own devices, pipes and sockets.
                tar::EntryType::Block | tar::EntryType::Char | tar::EntryType::Fifo => continue,
                _ => {
                    let what = "of an unknown type";
                    return Err(ArchiveTreeError::Special { name, what });
                }
            };
            let number = |number: io::Result<u64>| number.map_err(broken);
            let node = OwnedNode {
                node,
                mode: header.mode().map_err(broken)? & 0o7777,
                owner: (number(header.uid())?, number(header.gid())?),
            };
            self.put(&path, node, &mut fresh);
        }
        Ok(())
    }

    /// Puts something into its place. A directory over a directory keeps what is in it.
    fn put(&mut self, path: &str, node: OwnedNode, fresh: &mut BTreeSet<String>) {
        for (at, _) in path.match_indices('/') {
            let parent = &path[..at];
            let is_dir = |known: &OwnedNode| matches!(known.node, LayerNode::Dir);
            if !self.nodes.get(parent).is_some_and(is_dir) {
                let dir = OwnedNode {
                    node: LayerNode::Dir,
                    mode: 0o755,
                    owner: (0, 0),
                };
                self.nodes.insert(parent.to_owned(), dir);
            }
        }
        if !matches!(node.node, LayerNode::Dir) {
            self.remove_below(path, &BTreeSet::new());
        }
        self.nodes.insert(path.to_owned(), node);
        fresh.insert(path.to_owned());
    }

    /// Removes what lies below a path, but for what this layer brought.
    fn remove_below(&mut self, path: &str, fresh: &BTreeSet<String>) {
        let prefix = match path {
            "" => String::new(),
            path => format!("{path}/"),
        };
        let below = self.nodes.range(prefix.clone()..);
        let gone: Vec<_> = below
            .map(|(path, _)| path)
            .take_while(|path| path.starts_with(&prefix))
            .filter(|path| !fresh.contains(*path))
            .cloned()
            .collect();
        for path in gone {
            self.nodes.remove(&path);
        }
    }

    /// A directory's path without symbolic links, each of which is followed within the root.
    fn resolved(&self, dir: &str, name: &str) -> Result<String, ArchiveTreeError> {
        let mut left: Vec<String> = dir.split('/').rev().map(str::to_owned).collect();
        let mut path: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(part) = left.pop() {
            match &*part {
                "" | "." => continue,
                ".." => {
                    path.pop();
                    continue;
                }
                _ => path.push(part),
            }
            if let Some(LayerNode::Link { target }) =
                self.nodes.get(&path.join("/")).map(|known| &known.node)
            {
                links += 1;
                if links > MAX_LINKS {
                    return Err(damaged(format!(
                        "the way to {name:?} leads through too many links"
                    )));
                }
                path.pop();
                if target.starts_with('/') {
                    path.clear();
                }
                left.extend(target.split('/').rev().map(str::to_owned));
            }
        }
        Ok(path.join("/"))
    }

    fn into_tree(self, part: &TreePart) -> Result<TreeBuilder, ArchiveTreeError> {
        let mut tree = TreeBuilder::new();
        let top = self
            .nodes
            .keys()
            .filter(|path| !path.contains('/'))
            .take(12)
            .cloned()
            .collect();
        for (name, OwnedNode { node, mode, owner }) in self.nodes {
            let Some(path) = part.path(&name) else {
                continue;
            };
            let added = match node {
                LayerNode::Dir => tree.dir(path, mode),
                LayerNode::Link { target } => tree.link(path, &target),
                LayerNode::File {
                    layer: file,
                    offset,
                    size,
                } => tree.file(path, mode, TreeContent::Part { file, offset, size }),
            };
            added.map_err(|source| ArchiveTreeError::Member {
                name: name.clone(),
                source,
            })?;
            tree.own(path, owner);
        }
        match tree.is_empty() {
            true => Err(ArchiveTreeError::Nothing {
                place: part.shown(),
                top,
            }),
            false => Ok(tree),
        }
    }
}

#[cfg(test)]
mod tests;
