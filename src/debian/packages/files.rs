//! Package files in the store: each under its SHA-256, as the result of the Action that would fetch it.
//! Knows the store; fetches nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::Path;

use impasto_stages::action::{Action, Bound, ENGINE_EPOCH, Executor, ImportAs, Step};
use impasto_stages::package_set::LockedPackage;
use impasto_store::blob::BlobRef;
use impasto_store::claim::{Claim, Cost, FileContent, Isolation, OutputFile, Outputs, capped};
use impasto_store::refs::Root;
use impasto_store::sha256::Sha256;
use impasto_store::{Error as StoreError, Store};

/// What a package file is called among its Action's results.
const NAME: &str = "package";

/// The Action that gets a file by its digest.
fn action(sha256: Sha256) -> Action<Bound> {
    let mut action = Action::new("package", 1, Executor::Host);
    let as_a = ImportAs::File;
    action.steps.push(Step::Fetch { sha256, as_a });
    action
}

/// The file with this SHA-256, where the store has it.
///
/// # Errors
/// The store cannot be read.
pub fn find(store: &Store, sha256: Sha256) -> Result<Option<BlobRef>, StoreError> {
    for claim in store.lookup(&action(sha256).digest())? {
        if let Some(FileContent::Blob(blob)) =
            claim.result.files.get(NAME).map(|file| &file.content)
            && store.has_blob(&blob.digest)?
        {
            return Ok(Some(*blob));
        }
    }
    Ok(None)
}

/// Takes a package file into the store whose SHA-256 has been verified. `now` is in seconds since 1970.
///
/// # Errors
/// It cannot be read, or the store cannot be written.
pub fn keep(
    store: &Store,
    package: &LockedPackage,
    content: impl io::Read,
    now: u64,
) -> Result<BlobRef, StoreError> {
    let what = format!(
        "{} {} {}",
        package.name, package.version, package.architecture
    );
    keep_file(store, package.sha256, &what, content, now)
}

/// The same for any file, which records call `what`.
///
/// # Errors
/// It cannot be read, or the store cannot be written.
pub fn keep_file(
    store: &Store,
    sha256: Sha256,
    what: &str,
    content: impl io::Read,
    now: u64,
) -> Result<BlobRef, StoreError> {
    let blob = store.put_blob(content)?;
    keep_blob(store, &action(sha256), (what, NAME), blob, now)?;
    Ok(blob)
}

/// Remembers a blob as what an Action got that nothing of a recipe is part of. `names` are what records call it, and its
/// name among the Action's files.
///
/// # Errors
/// The store cannot be written.
pub fn keep_blob(
    store: &Store,
    action: &Action<Bound>,
    (what, name): (&str, &str),
    blob: BlobRef,
    now: u64,
) -> Result<(), StoreError> {
    let file = OutputFile {
        content: FileContent::Blob(blob),
        mode: 0o644,
    };
    store.put_claim(&Claim {
        action: action.digest(),
        kind: action.kind.to_owned(),
        stage: what.to_owned(),
        node: what.to_owned(),
        recipe: String::new(),
        result: Outputs {
            files: BTreeMap::from([(name.to_owned(), file)]),
            ..Outputs::default()
        },
        caveats: BTreeSet::new(),
        sandbox: "host".to_owned(),
        isolation: Isolation::Host,
        facts: BTreeMap::new(),
        writer: String::new(),
        created: now,
        engine_epoch: u64::from(ENGINE_EPOCH),
        cost: Cost {
            wall_ms: 0,
            cpu_ms: 0,
            stored_bytes: blob.size,
        },
        log: None,
        fields: capped(action.explain()),
        root: None,
        extra: BTreeMap::new(),
    })?;
    Ok(())
}

/// Writes a file of the store.
///
/// # Errors
/// It is gone or damaged, or cannot be written.
pub fn write(store: &Store, blob: &BlobRef, path: &Path) -> Result<(), StoreError> {
    let io = |source| StoreError::Io {
        verb: "write",
        path: path.to_owned(),
        source,
    };
    let mut file = File::create_new(path).map_err(io)?;
    io::copy(&mut store.open_blob(&blob.digest)?, &mut file).map_err(io)?;
    Ok(())
}

/// What the collector is to keep so that files with these digests stay in the store.
///
/// # Errors
/// The store cannot be read.
pub fn roots(
    store: &Store,
    digests: impl Iterator<Item = Sha256>,
) -> Result<Vec<Root>, StoreError> {
    let mut roots = Vec::new();
    for sha256 in digests {
        let action = action(sha256).digest();
        roots.extend(
            store
                .lookup(&action)?
                .into_iter()
                .map(|claim| Root::Claim(action, claim.claim)),
        );
    }
    Ok(roots)
}

/// The name of the file of a package, in the directory that installation reads.
pub fn file_name(package: &LockedPackage) -> String {
    let version = package.version.replace(':', "%3a");
    format!("{}_{version}_{}.deb", package.name, package.architecture)
}
