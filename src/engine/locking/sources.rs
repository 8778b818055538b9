//! What stages get from elsewhere, for the lock: found out, and compared with what there is now.
//! Knows nodes and entries; servers are asked by a [`Resolver`].

use std::io::{self, Read};

use impasto_stages::action::{Hints, ImportAs, Step};
use impasto_stages::source::{FileRequest, SourceRequest};
use impasto_store::inputs::Access;
use impasto_store::{Error as StoreError, Store};
use rustix::process::Signal;

use super::apply::source_request;
use super::renew::RenewError;
use super::run::LockRun;
use crate::debian::packages::files;
use crate::engine::cause::{SourceLocation, What};
use crate::engine::graph::{Graph, Node, NodeId};
use crate::engine::job::git_place;
use crate::lock::LockSource;
use crate::net::{Checksum, Downloader, Options, Redirects};
use crate::sandbox::die_with_parent;
use crate::source::git::{Git, GitPlace};
use crate::source::{FileQuery, Found, FoundFile, KnownFile, Resolver, SourceLookupError};

/// Bytes of a file beside the recipe that is read whole, at most.
const MAX_LOCAL: u64 = 16 << 20;

/// Something from elsewhere that is another one than the lock has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewerSource {
    /// What it is called: the URL without what may be secret.
    pub url: String,
    /// `image`, `file` or `commit`.
    pub what: &'static str,
    /// The beginning of the digest in the lock.
    pub locked: String,
    /// When the locked one last changed, or was asked for (RFC 3339).
    pub locked_date: String,
    /// When the one of now last changed, where the server says so (RFC 3339).
    pub date: Option<String>,
    /// The beginning of the digest of now, where that is known without getting anything.
    pub newest: Option<String>,
}

/// Why a source has no entry.
enum SourceProblem {
    Source(SourceLookupError),
    Store(StoreError),
}

impl From<SourceLookupError> for SourceProblem {
    fn from(error: SourceLookupError) -> Self {
        SourceProblem::Source(error)
    }
}

impl From<StoreError> for SourceProblem {
    fn from(error: StoreError) -> Self {
        SourceProblem::Store(error)
    }
}

impl SourceProblem {
    fn of(self, node: &Node, shown_dir: &str) -> RenewError {
        match self {
            SourceProblem::Store(error) => RenewError::Store(error),
            SourceProblem::Source(source) => RenewError::Source {
                stage: node.label.clone(),
                place: node
                    .place
                    .as_ref()
                    .map(|origin| SourceLocation::of(What::Stage, shown_dir, origin)),
                source,
            },
        }
    }
}

impl LockRun<'_> {
    /// Finds out what a node gets from elsewhere. `before` is the entry that it has for the same request: it stays where
    /// nothing else is served.
    pub(super) fn resolve_source(
        &mut self,
        graph: &Graph,
        id: NodeId,
        before: Option<&LockSource>,
    ) -> Result<LockSource, RenewError> {
        let node = graph.node(id);
        let (lines, request) = source_request(node).expect("BUG: nothing from elsewhere");
        let before = before.filter(|before| before.request == lines);
        let begun = self.begin(&node.label);
        let (store, now) = (self.store.clone(), self.config.now);
        let hints = hints(node);
        let answer = match request {
            SourceRequest::Git { reference } => {
                let commit = self.commit(node, reference.as_deref())?;
                match before.filter(|before| before.commit.as_ref() == Some(&commit)) {
                    Some(before) => Ok(before.clone()),
                    None => Ok(LockSource {
                        commit: Some(commit),
                        date: date(now),
                        ..LockSource::default()
                    }),
                }
            }
            SourceRequest::File(request) => self.ask(node, |resolver, read| {
                let query = file_query(hints, request, read);
                match resolver.look(&query, before.map(known).as_ref())? {
                    Found::Same => Ok(before.cloned().unwrap_or_default()),
                    Found::Other(found) => Ok(file_entry(resolver, &store, &query, found, now)?),
                }
            }),
        };
        let combinations = node
            .combinations
            .iter()
            .map(|place| graph.combination_name(*place));
        let entry = LockSource {
            name: node.stage.to_string(),
            combinations: combinations.filter(|name| !name.is_empty()).collect(),
            request: lines,
            ..answer?
        };
        let unusable = |problem| RenewError::Unusable {
            stage: node.label.clone(),
            problem,
        };
        entry.check_written().map_err(unusable)?;
        self.end_source(&node.label, &entry, begun);
        Ok(entry)
    }

    /// What there is now in place of what a node has, where that is something else.
    pub(super) fn newer_source(
        &mut self,
        node: &Node,
        entry: &LockSource,
    ) -> Result<Option<NewerSource>, RenewError> {
        let (_, request) = source_request(node).expect("BUG: nothing from elsewhere");
        let hints = hints(node);
        let found = match request {
            SourceRequest::Git { reference } => {
                let commit = self.commit(node, reference.as_deref())?;
                let is_other = entry.commit.as_ref() != Some(&commit);
                is_other.then_some(("commit", None, Some(commit)))
            }
            SourceRequest::File(request) => self.ask(node, |resolver, read| {
                let query = file_query(hints, request, read);
                Ok(match resolver.look(&query, Some(&known(entry)))? {
                    Found::Same => None,
                    Found::Other(found) => Some((what(node), found.info.modified, None)),
                })
            })?,
        };
        let url = hints.urls.first().map(String::as_str).unwrap_or_default();
        Ok(found.map(|(what, modified, newest)| NewerSource {
            url: impasto_stages::source::public(url),
            what,
            locked: entry.short(),
            locked_date: entry.date.clone(),
            date: modified.map(date),
            newest: newest.map(|digits| digits.chars().take(12).collect()),
        }))
    }

    /// The commit that a name of a repository stands for now.
    fn commit(&mut self, node: &Node, reference: Option<&str>) -> Result<String, RenewError> {
        let scratch = self.store.scratch().map_err(RenewError::Store)?;
        let hints = hints(node);
        let url = hints.urls.first().map(String::as_str).unwrap_or_default();
        let place = git_place(url, &self.recipe.dir);
        let (scope, cancel) = (&self.recipe.scope, self.cancel.clone());
        let git = Git {
            dir: scratch.path(),
            limit: MAX_LOCAL,
            offline: matches!(place, GitPlace::Url(_)) && (self.config.proxies)().is_offline(),
            timeout: hints.timeout,
            cancel: &cancel,
            prepare: &|command| die_with_parent(command, Signal::KILL),
            may_read: &|path| scope.open(path, Access::Examine).map(drop),
        };
        let dir = self.config.dir.clone();
        let found = self.watch(Some(&node.label), || git.resolve(&place, reference));
        found.map_err(|error| SourceProblem::Source(error.into()).of(node, &dir))
    }

    /// Asks servers, while it is told how much has come.
    fn ask<T: Send>(
        &mut self,
        node: &Node,
        work: impl FnOnce(&Resolver<'_>, &ReadLocal<'_>) -> Result<T, SourceProblem> + Send,
    ) -> Result<T, RenewError> {
        let scratch = self.store.scratch().map_err(RenewError::Store)?;
        let hints = hints(node);
        let options = Options {
            redirects: hints
                .redirects
                .clone()
                .map_or(Redirects::Anywhere, Redirects::Hosts),
            timeout: hints.timeout,
            meter: Some(self.meter.clone()),
            ..Options::default()
        };
        let proxies = (self.config.proxies)();
        let dir = self.config.dir.clone();
        let downloader = Downloader::new(&proxies, scratch.path(), &self.cancel, options);
        let downloader =
            downloader.map_err(|error| SourceProblem::Source(error.into()).of(node, &dir))?;
        let resolver = Resolver {
            downloader: &downloader,
            now: self.config.now,
        };
        let recipe = self.recipe;
        let read = |path: &str| {
            let file = recipe.scope.open_file(&recipe.dir.join(path))?;
            let mut bytes = Vec::new();
            file.take(MAX_LOCAL + 1).read_to_end(&mut bytes)?;
            match bytes.len() as u64 > MAX_LOCAL {
                true => Err(io::Error::other("it is larger than 16 MiB")),
                false => Ok(bytes),
            }
        };
        let done = self.watch(Some(&node.label), || work(&resolver, &read));
        done.map_err(|problem| problem.of(node, &dir))
    }
}

/// What reads a file beside the recipe.
type ReadLocal<'r> = dyn Fn(&str) -> io::Result<Vec<u8>> + Sync + 'r;

/// The hints of the Action that gets something from elsewhere.
fn hints(node: &Node) -> &Hints {
    let mut all = node.lowered.actions.iter().map(|action| &action.hints);
    all.find(|hints| hints.source.is_some())
        .expect("BUG: nothing from elsewhere")
}

fn file_query<'q>(
    hints: &'q Hints,
    request: &'q FileRequest,
    read: &'q ReadLocal<'q>,
) -> FileQuery<'q> {
    FileQuery {
        urls: &hints.urls,
        checksum: request.checksum.as_ref(),
        signed_by: &request.signed_by,
        read,
    }
}

/// What an entry says of a file.
fn known(entry: &LockSource) -> KnownFile<'_> {
    KnownFile {
        size: entry.size,
        modified: entry.seconds(),
        etag: entry.etag.as_deref(),
        listed: entry.listed.as_deref(),
    }
}

/// The entry of a file that was found. Where nobody says its SHA-256 it is got, and kept for the stage.
fn file_entry(
    resolver: &Resolver<'_>,
    store: &Store,
    query: &FileQuery<'_>,
    found: FoundFile,
    now: u64,
) -> Result<LockSource, SourceProblem> {
    let FoundFile {
        info,
        checksum,
        signer,
    } = found;
    let (sha256, size) = match checksum {
        Some(Checksum::Sha256(sha256)) => (sha256, info.size),
        other => {
            let (sha256, file) = resolver.get(query.urls, other)?;
            let name = impasto_stages::source::public(query.urls.first().map_or("", |url| url));
            let blob = files::keep_file(store, sha256, &name, file, now)?;
            (sha256, Some(blob.size))
        }
    };
    Ok(LockSource {
        sha256: Some(sha256),
        size,
        listed: checksum.map(|checksum| checksum.to_string()),
        etag: info.etag,
        date: date(info.modified.unwrap_or(now)),
        signer,
        ..LockSource::default()
    })
}

/// A time as the lock has it.
fn date(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok();
    let time = time.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

/// What a node's file is to its user.
fn what(node: &Node) -> &'static str {
    let steps = node.lowered.actions.iter().flat_map(|action| &action.steps);
    let mut kinds = steps.filter_map(|step| match step {
        Step::Fetch { as_a, .. } => Some(*as_a),
        _ => None,
    });
    match kinds.next() {
        Some(ImportAs::File) | None => "file",
        Some(ImportAs::Disk | ImportAs::Auto) => "image",
    }
}
