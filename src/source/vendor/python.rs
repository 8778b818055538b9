//! Wheels and sources: where a Python index has what a requirements file names, and which file is the interpreter's.
//! Knows indexes of PEP 503; compares no versions, as the hashes say which files are meant.

use std::path::PathBuf;

use impasto_stages::vendor::PythonTarget;

use super::host::VendorHost;
use super::page::{IndexLink, links};
use super::requirements::Requirement;
use super::wheel::{PythonFile, tags};
use super::{GetPages, LockedFile, VendorError, VendorFile, VendorItem, download, sha256};
use crate::net::{Checksum, Download, Expected};
use crate::source::tree::{TreeBuilder, TreeContent};

/// Bytes of a project's page: those with ten thousand files have a few MB.
const MOST_PAGE: u64 = 64 << 20;

fn wanted(item: &VendorItem) -> &Requirement {
    match &item.what {
        LockedFile::Wheel(wanted) => wanted,
        _ => panic!("BUG: not a requirement"),
    }
}

pub(super) fn locate(
    target: &PythonTarget,
    items: &[&VendorItem],
    host: &VendorHost,
    get: &mut GetPages<'_>,
) -> Result<Vec<VendorFile>, VendorError> {
    let indexes = host.python()?;
    let tags = tags(target);
    let (mut pages, mut places) = (Vec::new(), Vec::new());
    for item in items {
        for index in &indexes {
            let url = format!("{index}/{}/", wanted(item).name);
            pages.push(Download {
                name: Some(format!("the index's page of {}", wanted(item).name)),
                expected: Expected::page(MOST_PAGE),
                places: vec![host.python_place(&url)?],
            });
            places.push(url);
        }
    }
    let pages = get(pages)?;
    let pages: Vec<_> = pages.into_iter().zip(places).collect();
    let mut files = Vec::with_capacity(items.len());
    for (item, pages) in items.iter().zip(pages.chunks(indexes.len())) {
        let mut found = Vec::new();
        let mut known = false;
        for (page, url) in pages {
            known |= page.is_some();
            let text = String::from_utf8_lossy(page.as_deref().unwrap_or_default());
            found.extend(links(url, &text));
        }
        files.push(choose(target, &tags, item, found, known, host)?);
    }
    Ok(files)
}

/// The best of the files that the lock allows.
fn choose(
    target: &PythonTarget,
    tags: &[String],
    item: &VendorItem,
    found: Vec<IndexLink>,
    known: bool,
    host: &VendorHost,
) -> Result<VendorFile, VendorError> {
    let wanted = wanted(item);
    let missing = |problem: String, help: &str| VendorError::Index {
        item: item.name.clone(),
        problem,
        help: help.to_owned(),
    };
    if !known {
        let help = "check the name, and which index the host's pip uses";
        return Err(missing("the index does not know it".to_owned(), help));
    }
    let offered = found.len();
    let allowed = |link: &IndexLink| {
        let sha256 = link.sha256.as_deref().and_then(sha256);
        sha256.filter(|sha256| wanted.sha256.contains(sha256))
    };
    let allowed: Vec<_> = found
        .into_iter()
        .filter_map(|link| Some((allowed(&link)?, link)))
        .collect();
    if allowed.is_empty() {
        let help = "lock it again with hashes, by `uv pip compile --generate-hashes` or `pip-compile \
                    --generate-hashes`; an index that is not the one it was locked from may have other files";
        let problem =
            format!("none of the {offered} files that the index has has a hash of the lock");
        return Err(missing(problem, help));
    }
    let count = allowed.len();
    let ranked = allowed.into_iter().filter_map(|(sha256, link)| {
        let rank = PythonFile::of(&link.name)?.rank(tags)?;
        // By name where all else is equal, so that the order of the page does not matter.
        Some((rank, link.name.clone(), sha256, link))
    });
    let best = ranked.min_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    let Some((_, name, sha256, link)) = best else {
        let problem = format!(
            "none of the {count} files that the lock names is for cp3{} on {} with glibc 2.{}, nor is there its source",
            target.minor, target.machine, target.glibc
        );
        let help = "lock it for this interpreter and machine, such as by `uv pip compile --universal --generate-hashes`";
        return Err(missing(problem, help));
    };
    let place = host.python_place(&link.url)?;
    Ok(VendorFile {
        download: download(&name, Checksum::Sha256(sha256), vec![place]),
        name,
    })
}

/// A file beside the others, as `pip --find-links` takes them.
pub(super) fn add(tree: &mut TreeBuilder, name: &str, file: PathBuf) -> Result<(), VendorError> {
    Ok(tree.file(name, 0o644, TreeContent::File(file))?)
}
