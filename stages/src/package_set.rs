//! Packages as stages ask for them, and as a lock names them: exact files.
//! Knows names, versions and digests; knows no archive, no solver and no lock file.

use std::collections::BTreeMap;

use impasto_store::digest::{BlobDigest, ContentDigest};
use impasto_store::key::{self, Describe, Segment, Sink, map};
use impasto_store::sha256::Sha256;
use serde::{Deserialize, Serialize};

/// The Debian name of the machine that this program is for.
pub const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};

/// A package file, named by its content: the facts that go with a file wherever it goes, from an archive's index to a disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LockedPackage {
    pub name: String,
    /// The machine that it is for, or `all`.
    pub architecture: String,
    pub version: String,
    pub sha256: Sha256,
    /// Length of the file in bytes.
    pub size: u64,
}

/// A package without its file: one that is installed, or taken out.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageName {
    pub name: String,
    /// The machine that it is for, or `all`.
    pub architecture: String,
    pub version: String,
}

/// What an Action does with packages: these files, and no others, are put in; these packages are taken out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackageSet {
    /// Put in, in order of name and architecture.
    pub install: Vec<LockedPackage>,
    /// Taken out, in order of name and architecture.
    pub remove: Vec<PackageName>,
}

impl PackageSet {
    /// The name of what is in it: equal sets have equal names.
    pub fn content(&self) -> ContentDigest {
        ContentDigest::Blob(BlobDigest(key::digest(BlobDigest::hasher(), self)))
    }
}

impl Describe for PackageSet {
    fn describe(&self, sink: &mut dyn Sink) {
        // No `..`: a new field does not compile until it is keyed.
        let PackageSet { install, remove } = self;
        let pairs = |name: &str, architecture: &str| match architecture {
            "all" => name.to_owned(),
            _ => format!("{name}:{architecture}"),
        };
        let install: BTreeMap<String, _> = install
            .iter()
            .map(|package| (pairs(&package.name, &package.architecture), package))
            .collect();
        let remove: BTreeMap<String, _> = remove
            .iter()
            .map(|package| (pairs(&package.name, &package.architecture), package))
            .collect();
        map(sink, install.iter().map(|(name, package)| (name, *package)));
        sink.enter(Segment::Field("removed"));
        map(sink, remove.iter().map(|(name, package)| (name, *package)));
        sink.leave();
    }
}

impl Describe for LockedPackage {
    fn describe(&self, sink: &mut dyn Sink) {
        // Name and architecture are the key that leads here; the digest implies the size.
        let LockedPackage {
            name: _,
            architecture: _,
            version,
            sha256,
            size: _,
        } = self;
        format!("{version} sha256:{sha256}").describe(sink);
    }
}

impl Describe for PackageName {
    fn describe(&self, sink: &mut dyn Sink) {
        let PackageName {
            name: _,
            architecture: _,
            version,
        } = self;
        version.describe(sink);
    }
}

/// What a stage wants of a package manager, before anything is known of archives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackageRequest {
    /// Where the packages go.
    pub root: RequestRoot,
    /// Packages to put in, as NAME, NAME=VERSION, NAME/SUITE or NAME:ARCHITECTURE.
    pub install: Vec<String>,
    /// Packages to take out, by name.
    pub remove: Vec<String>,
    /// Packages that stay as they are, by name.
    pub hold: Vec<String>,
    /// The user's own package files, relative to the recipe.
    pub files: Vec<String>,
    /// Whether everything installed is brought up to date.
    pub upgrade: bool,
    /// Whether what nothing needs any more is taken out.
    pub autoremove: bool,
    /// Whether recommended packages come too.
    pub recommends: bool,
    /// The release; that of the disk where none is said.
    pub suite: Option<String>,
    /// Parts of the distribution's archive; those of the disk where none are said.
    pub components: Vec<String>,
    /// Further machines whose packages may be put in.
    pub architectures: Vec<String>,
    /// The keys that sign the distribution's own archives, armored; those that impasto knows where there are none.
    pub keys: Option<String>,
    pub repositories: Vec<Repository>,
    /// Which of several versions is chosen.
    pub pins: Vec<Pin>,
    /// Whether only files of the packages that are named are read: what they depend on is neither fetched nor keyed.
    pub named_only: bool,
}

/// Where requested packages go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum RequestRoot {
    /// Into the disk that the stage stands on.
    #[default]
    Disk,
    /// Into a root of their own.
    Own {
        distribution: String,
        architecture: String,
        /// What comes beside those that are named: `essential` or `minbase`.
        variant: String,
    },
    /// Into a root of their own, of the release of a disk, with what is needed to compile modules for each of that disk's
    /// kernels.
    Builder {
        /// The stage that makes the disk.
        image: String,
    },
}

/// An archive beside the distribution's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repository {
    /// How the recipe calls it.
    pub name: String,
    /// Its address; the distribution's own mirror where there is none.
    pub uri: Option<String>,
    /// Its suite, or a path that ends in `/`.
    pub suite: String,
    pub components: Vec<String>,
    /// The keys that may sign it, armored; the distribution's own where there are none.
    pub signed_by: Option<String>,
    /// Whether it is believed without a signature.
    pub trusted: bool,
    /// Which of the stage's secrets is `USER:PASSWORD` for it.
    pub login: Option<String>,
}

/// A rule for which version of a package is chosen (apt_preferences(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin {
    /// The package, or a pattern of names.
    pub package: String,
    /// Which versions: `version 1.2*`, `release a=stable`, `origin HOST`.
    pub pin: String,
    /// How much they are preferred.
    pub priority: i64,
}

impl PackageRequest {
    /// The request as lines of text, which a lock keeps to tell what changed. Equal requests have equal lines.
    pub fn lines(&self) -> Vec<String> {
        // No `..`: a new field does not compile until the lock knows it.
        let PackageRequest {
            root,
            install,
            remove,
            hold,
            files,
            upgrade,
            autoremove,
            recommends,
            suite,
            components,
            architectures,
            keys,
            repositories,
            pins,
            named_only: _,
        } = self;
        let mut lines = Vec::new();
        match root {
            RequestRoot::Disk => {}
            RequestRoot::Own {
                distribution,
                architecture,
                variant,
            } => {
                lines.push(format!("root {distribution} {architecture} {variant}"));
            }
            RequestRoot::Builder { image: _ } => lines.push("builder".to_owned()),
        }
        let mut list = |word: &str, items: &[String]| {
            let mut items: Vec<_> = items.iter().map(|item| format!("{word} {item}")).collect();
            items.sort_unstable();
            items.dedup();
            lines.append(&mut items);
        };
        list("suite", suite.as_slice());
        list("component", components);
        list("architecture", architectures);
        list("install", install);
        list("remove", remove);
        list("hold", hold);
        list("file", files);
        for (word, set) in [
            ("upgrade", upgrade),
            ("autoremove", autoremove),
            ("recommends", recommends),
        ] {
            lines.extend(set.then(|| word.to_owned()));
        }
        if let Some(keys) = keys {
            let digest = BlobDigest::of(keys.as_bytes());
            lines.push(format!("signed-by {}", digest.short()));
        }
        for Repository {
            name,
            uri,
            suite,
            components,
            signed_by,
            trusted,
            login: _,
        } in repositories
        {
            let uri = uri.as_deref().unwrap_or("-");
            let mut line = format!("repository {name} {uri} {suite}");
            components
                .iter()
                .for_each(|component| line += &format!(" {component}"));
            if *trusted {
                line += " trusted";
            }
            if let Some(keys) = signed_by {
                line += &format!(" signed-by {}", BlobDigest::of(keys.as_bytes()).short());
            }
            lines.push(line);
        }
        for Pin {
            package,
            pin,
            priority,
        } in pins
        {
            lines.push(format!("pin {package} {pin} {priority}"));
        }
        lines
    }

    /// Whether the packages go into a root that only compiles kernel modules.
    pub fn is_builder(&self) -> bool {
        matches!(self.root, RequestRoot::Builder { .. })
    }

    /// Whether a package is asked for by its name, and not only because others need it.
    pub fn names(&self, package: &str) -> bool {
        self.install
            .iter()
            .any(|wanted| wanted.split([':', '=', '/']).next() == Some(package))
    }
}
