//! Gets the indexes of packages that a Release names, and unpacks them.
//! Knows which file holds an index and in which forms; does not read what it says.

use impasto_store::sha256::Sha256;
use rayon::prelude::*;

use super::ArchiveSource;
use super::client::{self, Client, DownloadSource};
use super::error::ArchiveError;
use super::release::{Release, ReleaseEntry};
use super::signed::download;
use super::unpack::{DecompressError, FORMATS, IndexCompression, unpack};

use crate::base::bounded;
use crate::net::{Download, DownloadCause, DownloadError, Expected};

/// An index of packages, as the Release states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageIndex {
    /// The component; empty where the archive is flat.
    pub component: String,
    /// Whose packages; `all` where those for all architectures are apart. Empty where the archive is flat.
    pub architecture: String,
    /// Path of its text below the Release.
    pub path: String,
    /// That of its text.
    pub sha256: Sha256,
    pub text: Vec<u8>,
}

/// Where texts of indexes are kept from run to run, by their SHA-256. What it gives is verified again.
pub trait Cache: Sync {
    /// A text that was put.
    fn get(&self, sha256: Sha256) -> Option<Vec<u8>>;
    /// Keeps a text, or does not.
    fn put(&self, sha256: Sha256, text: &[u8]);
}

/// Files in the order in which they were wanted; none where one is gone.
type Packed = Vec<Option<Vec<u8>>>;

/// An index that is wanted.
struct Sought<'a> {
    component: String,
    architecture: String,
    path: String,
    entry: &'a ReleaseEntry,
    text: Option<Vec<u8>>,
}

impl Client {
    /// Gets the indexes of packages that a source wants, in the order of components and architectures. Packages for all
    /// architectures are an index of their own only where the others do not hold them.
    ///
    /// # Errors
    /// The Release names no such index, it cannot be had, or it is not what the Release states.
    pub fn indexes(
        &self,
        source: &ArchiveSource,
        release: &Release,
        cache: &dyn Cache,
    ) -> Result<Vec<PackageIndex>, ArchiveError> {
        let mut sought = sought(source, release)?;
        sought
            .par_iter_mut()
            .for_each(|index| index.text = cached(cache, index.entry));
        // A mirror need not have every form that the Release names: the next is asked for what is missing.
        let mut gone: Option<DownloadError> = None;
        for (format, suffix) in FORMATS {
            let missing: Vec<usize> = (0..sought.len())
                .filter(|&i| {
                    sought[i].text.is_none()
                        && release
                            .files
                            .contains_key(&format!("{}{suffix}", sought[i].path))
                })
                .collect();
            if missing.is_empty() {
                continue;
            }
            let jobs = missing
                .iter()
                .map(|&i| wanted_file(source, release, &format!("{}{suffix}", sought[i].path)))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| download(source, error))?;
            let (packed, error) = self.packed(source, jobs)?;
            gone = gone.or(error);
            let texts: Vec<_> = missing
                .into_par_iter()
                .zip(packed)
                .filter_map(|(i, packed)| {
                    Some((i, unpacked(source, &sought[i], format, suffix, packed?)))
                })
                .collect();
            for (i, text) in texts {
                let text = text?;
                cache.put(sought[i].entry.sha256, &text);
                sought[i].text = Some(text);
            }
        }
        let found = sought.into_iter().map(|index| match index.text {
            Some(text) => Ok(PackageIndex {
                component: index.component,
                architecture: index.architecture,
                path: index.path,
                sha256: index.entry.sha256,
                text,
            }),
            None => {
                let (name, url) = (Some(index.path), "any mirror".to_owned());
                let error = gone.take().unwrap_or(DownloadError {
                    name,
                    url,
                    cause: DownloadCause::Gone { code: None },
                });
                Err(download(source, error))
            }
        });
        found.collect()
    }

    /// Gets files into memory; none for those that are gone, with the error of the first of them.
    fn packed(
        &self,
        source: &ArchiveSource,
        wanted: Vec<Download>,
    ) -> Result<(Packed, Option<DownloadError>), ArchiveError> {
        let mut packed: Vec<Option<std::io::Result<Vec<u8>>>> =
            wanted.iter().map(|_| None).collect();
        let names: Vec<_> = wanted.iter().map(|file| file.name.clone()).collect();
        // How long each may be was checked while it was downloaded.
        let got = self.downloader.get(
            wanted,
            &mut |index, path| packed[index] = Some(bounded::read(path, u64::MAX)),
            &mut |_, _| {},
        );
        let failed = got.err().unwrap_or_default();
        let (gone, other): (Vec<_>, Vec<_>) = failed
            .into_iter()
            .partition(|(_, e)| matches!(e.cause, DownloadCause::Gone { .. }));
        if let Some((_, error)) = other.into_iter().next() {
            return Err(download(source, error));
        }
        let read = packed.into_iter().zip(names).map(|(bytes, name)| {
            bytes.transpose().map_err(|error| {
                let cause = DownloadCause::Read { source: error };
                download(
                    source,
                    DownloadError {
                        name,
                        url: "what was downloaded".to_owned(),
                        cause,
                    },
                )
            })
        });
        Ok((
            read.collect::<Result<_, _>>()?,
            gone.into_iter().next().map(|(_, error)| error),
        ))
    }
}

/// The indexes that a source wants, and what the Release states of each.
fn sought<'a>(
    source: &ArchiveSource,
    release: &'a Release,
) -> Result<Vec<Sought<'a>>, ArchiveError> {
    if source.suite.ends_with('/') {
        return Ok(vec![wanted(
            source,
            release,
            "",
            "",
            "Packages".to_owned(),
        )?]);
    }
    let mut found = Vec::new();
    for component in &source.components {
        let path = |architecture: &str| format!("{component}/binary-{architecture}/Packages");
        let all = !release.all_within
            && release.architectures.iter().any(|name| name == "all")
            && release.files.contains_key(&path("all"));
        for architecture in &source.architectures {
            let own = release.files.contains_key(&path(architecture));
            if own || !all {
                found.push(wanted(
                    source,
                    release,
                    component,
                    architecture,
                    path(architecture),
                )?);
            }
        }
        if all {
            found.push(wanted(source, release, component, "all", path("all"))?);
        }
    }
    Ok(found)
}

fn wanted<'a>(
    source: &ArchiveSource,
    release: &'a Release,
    component: &str,
    architecture: &str,
    path: String,
) -> Result<Sought<'a>, ArchiveError> {
    let Some(entry) = release.files.get(&path) else {
        return Err(ArchiveError::NoIndex {
            archive: source.name.clone(),
            path,
            components: release.components.clone(),
            architectures: release.architectures.clone(),
        });
    };
    let (component, architecture) = (component.to_owned(), architecture.to_owned());
    Ok(Sought {
        component,
        architecture,
        path,
        entry,
        text: None,
    })
}

fn cached(cache: &dyn Cache, entry: &ReleaseEntry) -> Option<Vec<u8>> {
    cache
        .get(entry.sha256)
        .filter(|text| text.len() as u64 == entry.size && Sha256::of(text) == entry.sha256)
}

/// What to get: by hash first, where a file is not replaced while it is read.
fn wanted_file(
    source: &ArchiveSource,
    release: &Release,
    path: &str,
) -> Result<Download, DownloadError> {
    let entry = &release.files[path];
    let by_hash = release.by_hash.then(|| {
        let dir = path
            .rsplit_once('/')
            .map_or(String::new(), |(dir, _)| format!("{dir}/"));
        format!("{dir}by-hash/SHA256/{}", entry.sha256)
    });
    let paths: Vec<String> = by_hash.into_iter().chain([path.to_owned()]).collect();
    let places = source.bases.iter().flat_map(|mirror| {
        paths.iter().map(|path| DownloadSource {
            mirror: mirror.clone(),
            path: source.path(path),
        })
    });
    let places: Vec<_> = places.collect();
    let name = format!("{path} of {}", source.name);
    client::download(name, Expected::exact(entry.size, entry.sha256), &places)
}

fn unpacked(
    source: &ArchiveSource,
    index: &Sought<'_>,
    format: IndexCompression,
    suffix: &str,
    packed: Vec<u8>,
) -> Result<Vec<u8>, ArchiveError> {
    let path = || format!("{}{suffix}", index.path);
    let unlike = |what| ArchiveError::Unlike {
        archive: source.name.clone(),
        path: path(),
        what,
    };
    let text = match unpack(format, packed, index.entry.size) {
        Ok(text) => text,
        Err(DecompressError::TooLong) => {
            return Err(unlike(format!(
                "it unpacks to more than {} bytes",
                index.entry.size
            )));
        }
        Err(DecompressError::Broken(error)) => {
            return Err(ArchiveError::Unpack {
                archive: source.name.clone(),
                path: path(),
                source: error,
            });
        }
    };
    let got = Sha256::of(&text);
    if got == index.entry.sha256 {
        Ok(text)
    } else {
        Err(unlike(format!(
            "it unpacks to sha256:{got} instead of sha256:{}",
            index.entry.sha256
        )))
    }
}
