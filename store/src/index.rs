//! `state/index`: what the claims say, in one file, so that a build in which nothing changed opens no claim.
//! Knows summaries; it is a cache, rebuilt from the claims themselves.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::claim::{Caveat, Claim, Isolation, Outputs};
use crate::digest::{ActionDigest, ClaimId};
use crate::error::Result;
use crate::record::{MAGIC_LEN, decode_unchecked, encode, frame};
use crate::store::{Store, lock};

const NAME: &str = "state/index";
pub(crate) const MAGIC: &[u8; MAGIC_LEN] = b"impaIDX1";

/// What a look-up needs of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimSummary {
    pub claim: ClaimId,
    pub result: Outputs,
    /// What a reader must know before believing it.
    pub caveats: BTreeSet<Caveat>,
    /// How strongly it was isolated.
    pub isolation: Isolation,
    pub writer: String,
    /// What it took, in milliseconds.
    pub wall_ms: u64,
}

impl ClaimSummary {
    /// The summary of a claim.
    pub fn of(claim: &Claim, id: ClaimId) -> ClaimSummary {
        ClaimSummary {
            claim: id,
            result: claim.result.clone(),
            caveats: claim.caveats.clone(),
            isolation: claim.isolation,
            writer: claim.writer.clone(),
            wall_ms: claim.cost.wall_ms,
        }
    }
}

type ClaimMap = HashMap<ActionDigest, Vec<ClaimSummary>>;

#[derive(Debug, Default)]
pub(crate) struct Index {
    map: ClaimMap,
    /// Not to be taken over again from what another process wrote.
    removed: HashSet<ClaimId>,
    dirty: bool,
}

/// Decodes the body of the index; what cannot be decoded is an empty index. For untrusted bytes.
pub fn decode_index(body: &[u8]) -> Vec<(ActionDigest, Vec<ClaimSummary>)> {
    decode_unchecked(body).unwrap_or_default()
}

impl Store {
    /// What the claims about an Action say, sorted by id. Out of the index where it knows the Action; else out of the
    /// claims themselves, of which damaged ones count as absent.
    pub fn lookup(&self, action: &ActionDigest) -> Result<Vec<ClaimSummary>> {
        if let Some(found) = self.with_index(|index| index.map.get(action).cloned()) {
            return Ok(found);
        }
        let (claims, _) = self.claims(action)?;
        let found: Vec<_> = claims
            .iter()
            .map(|(id, claim)| ClaimSummary::of(claim, *id))
            .collect();
        if !found.is_empty() {
            self.with_index(|index| {
                index.map.insert(*action, found.clone());
                index.dirty = true;
            });
        }
        Ok(found)
    }

    pub(crate) fn index_add(&self, claim: &Claim, id: ClaimId) {
        // What other claims there are must not be hidden by an entry that knows only this one. Without an entry the claims
        // themselves are read.
        if self.lookup(&claim.action).is_err() {
            return;
        }
        self.with_index(|index| {
            index.removed.remove(&id);
            index.add(claim.action, ClaimSummary::of(claim, id));
            index.dirty = true;
        });
    }

    pub(crate) fn index_remove(&self, action: &ActionDigest, id: &ClaimId) {
        self.with_index(|index| {
            index.removed.insert(*id);
            if let Some(list) = index.map.get_mut(action) {
                list.retain(|summary| summary.claim != *id);
                if list.is_empty() {
                    index.map.remove(action);
                }
            }
            index.dirty = true;
        });
    }

    fn with_index<T>(&self, use_it: impl FnOnce(&mut Index) -> T) -> T {
        let mut guard = lock(&self.inner.index);
        use_it(guard.get_or_insert_with(|| Index {
            map: self.read_index(),
            ..Index::default()
        }))
    }

    fn read_index(&self) -> ClaimMap {
        let body = self.cache_read(NAME, MAGIC).ok().flatten();
        body.map(|body| decode_index(&body).into_iter().collect())
            .unwrap_or_default()
    }

    pub(crate) fn flush_index(&self) -> Result<()> {
        let mut guard = lock(&self.inner.index);
        let Some(index) = guard.as_mut().filter(|index| index.dirty) else {
            return Ok(());
        };
        // Another process may have added entries meanwhile. One that is lost in the race costs a look at the claims.
        for (action, list) in self.read_index() {
            for summary in list {
                if !index.removed.contains(&summary.claim) {
                    index.add(action, summary);
                }
            }
        }
        let mut list: Vec<_> = index.map.iter().collect();
        list.sort_unstable_by_key(|(action, _)| **action);
        self.fs().replace(NAME, &frame(MAGIC, &encode(&list)))?;
        index.dirty = false;
        Ok(())
    }
}

impl Index {
    fn add(&mut self, action: ActionDigest, summary: ClaimSummary) {
        let list = self.map.entry(action).or_default();
        if let Err(at) = list.binary_search_by_key(&summary.claim, |known| known.claim) {
            list.insert(at, summary);
        }
    }
}
