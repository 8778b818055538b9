//! What a checkout of a recipe keeps from the collector: the last results of its nodes, made or found, and its packages.
//! Knows names and results; what they need is the store's knowledge.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use impasto_store::digest::{ActionDigest, ClaimId};
use impasto_store::refs::Checkout;
use impasto_store::{Error as StoreError, Store};
use serde::{Deserialize, Serialize};

use crate::debian::packages::tools;
use crate::engine::graph::Graph;
use crate::engine::history::{EARLIER, MEMORY, RecipeHistory, RecipeState, recipes};

/// The state file in which earlier versions, which had no roots, remembered packages.
const PACKAGES: &str = "packages";
/// How long a use of a checkout need not be noted again, in seconds.
const FRESH_SECS: u64 = 3600;

/// What of packages a recipe uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedPackages {
    /// SHA-256 of files, in hexadecimal.
    pub files: BTreeSet<String>,
    /// Names of the toolbox' trees.
    pub trees: BTreeSet<String>,
}

impl UsedPackages {
    /// What a graph's lock names.
    pub fn of(graph: &Graph) -> UsedPackages {
        let lock = graph.lock();
        let entries = lock.toolbox.iter().chain(&lock.stages);
        let files = entries
            .flat_map(|entry| &entry.packages)
            .map(|package| package.file.sha256.to_string())
            .collect();
        let trees = graph.toolbox().map(|set| tools::name(set).to_string());
        UsedPackages {
            files,
            trees: trees.into_iter().collect(),
        }
    }
}

/// What a run uses of the store.
#[derive(Debug, Clone, Default)]
pub struct InUse<'u> {
    /// The result of every unit of work that is known, under its name.
    pub results: Vec<(String, (ActionDigest, ClaimId))>,
    /// The packages of the lock.
    pub packages: Option<&'u UsedPackages>,
    /// Where the whole recipe was built: its nodes' names, with the number of units of those that were needed. What the
    /// root has under other names is gone from the recipe.
    pub whole: Option<HashMap<String, Option<usize>>>,
}

impl InUse<'_> {
    /// Takes it over into what the checkout keeps, and says whether that changed anything.
    fn enter(&self, checkout: &mut Checkout) -> bool {
        let mut changed = false;
        for (name, run) in &self.results {
            match checkout.results.get_mut(name) {
                Some(runs) if runs.first() == Some(run) => continue,
                Some(runs) => {
                    runs.retain(|known| known != run);
                    runs.insert(0, *run);
                    runs.truncate(1 + EARLIER);
                }
                None => drop(checkout.results.insert(name.clone(), vec![*run])),
            }
            changed = true;
        }
        if let Some(packages) = self.packages
            && (&checkout.packages, &checkout.trees) != (&packages.files, &packages.trees)
        {
            (checkout.packages, checkout.trees) = (packages.files.clone(), packages.trees.clone());
            changed = true;
        }
        if let Some(whole) = &self.whole
            && checkout.results.len() != self.results.len()
        {
            let before = checkout.results.len();
            checkout.results.retain(|name, _| {
                let (node, unit) = chain_step_of(name);
                whole
                    .get(node)
                    .is_some_and(|units| units.is_none_or(|units| unit < units))
            });
            changed |= checkout.results.len() != before;
        }
        changed
    }
}

/// The node and the unit of a unit's name.
fn chain_step_of(name: &str) -> (&str, usize) {
    let parts = name
        .rsplit_once('#')
        .and_then(|(node, unit)| Some((node, unit.parse().ok()?)));
    parts.unwrap_or((name, 0))
}

impl RecipeState<'_> {
    /// Keeps what a run uses from the collector, durably, where that is news. Results of nodes that are not named stay.
    ///
    /// # Errors
    /// The store cannot be written; or what is kept already cannot be read, and this is not the whole recipe: then
    /// nothing is changed, so that the collector refuses until the whole recipe is built.
    pub fn keep(&self, in_use: &InUse<'_>) -> Result<(), StoreError> {
        let first = || Ok(self.earlier_version()?.unwrap_or_default());
        let enter = |checkout: &mut Checkout| in_use.enter(checkout);
        match self.store.update_checkout(&self.name, first, enter) {
            Err(StoreError::RootDamaged { path, reason }) if in_use.whole.is_some() => {
                tracing::debug!(path = %path.display(), reason, "rewritten");
                let mut checkout = Checkout::default();
                in_use.enter(&mut checkout);
                self.store.put_checkout(&self.name, &checkout)
            }
            other => other,
        }
    }

    /// Notes that the checkout is used; `now` is in seconds since 1970. Its results are kept for a while from then on.
    pub fn touch(&self, now: u64) {
        if let Err(error) = self
            .store
            .freshen_checkout(&self.name, now.saturating_sub(FRESH_SECS) as i64)
        {
            tracing::debug!(%error, "the use of the checkout cannot be recorded");
        }
    }

    /// What a version without roots remembered; nothing where there is nothing of the kind.
    fn earlier_version(&self) -> Result<Option<Checkout>, StoreError> {
        let memory: Option<RecipeHistory> = self.look(MEMORY)?;
        let packages: Option<UsedPackages> = self.look(PACKAGES)?;
        if memory.is_none() && packages.is_none() {
            return Ok(None);
        }
        let UsedPackages { files, trees } = packages.unwrap_or_default();
        let nodes = memory.unwrap_or_default().nodes;
        let results: BTreeMap<_, _> = nodes
            .into_iter()
            .map(|(name, memory)| (name, memory.runs().collect()))
            .collect();
        Ok(Some(Checkout {
            results,
            packages: files,
            trees,
        }))
    }

    /// A state file that tells what to keep: where it cannot be read, that is not known.
    fn look<T: serde::de::DeserializeOwned>(&self, file: &str) -> Result<Option<T>, StoreError> {
        let Some(bytes) = self.store.state_look(&[&self.name, file])? else {
            return Ok(None);
        };
        let decoded = bytes
            .and_then(|bytes| rmp_serde::from_slice(&bytes).map_err(|error| error.to_string()));
        let path = self.store.path().join("state").join(&self.name).join(file);
        decoded
            .map(Some)
            .map_err(|reason| StoreError::RootDamaged { path, reason })
    }
}

/// Gives a root to every recipe of which a version without roots remembered results.
///
/// # Errors
/// What a recipe keeps cannot be read, or the store cannot be written. Nothing is changed in the first case.
pub fn adopt(store: &Store) -> Result<(), StoreError> {
    let mut found = Vec::new();
    for name in recipes(store)? {
        let state = RecipeState { store, name };
        if store.checkout(&state.name)?.is_none()
            && let Some(checkout) = state.earlier_version()?
        {
            found.push((state.name, checkout));
        }
    }
    // Before anything is written: whether all other roots can be read.
    store.checkouts(u64::MAX)?;
    found
        .iter()
        .try_for_each(|(name, checkout)| store.put_checkout(name, checkout))
}

/// Forgets the history of a checkout whose root expired, so that it does not become a root again.
///
/// # Errors
/// The store cannot be written.
pub fn forget(store: &Store, root: &str) -> Result<(), StoreError> {
    [MEMORY, PACKAGES]
        .iter()
        .try_for_each(|file| store.state_remove(&[root, file]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(number: u8) -> (ActionDigest, ClaimId) {
        let action = ActionDigest::of(&[number]);
        (action, ClaimId(action.0))
    }

    fn results(list: &[(&str, u8)]) -> Vec<(String, (ActionDigest, ClaimId))> {
        list.iter()
            .map(|(name, number)| ((*name).to_owned(), run(*number)))
            .collect()
    }

    #[test]
    fn the_last_result_is_first_and_earlier_ones_are_bounded() {
        let mut checkout = Checkout::default();
        for number in 0..100 {
            assert!(
                InUse {
                    results: results(&[("a", number)]),
                    ..InUse::default()
                }
                .enter(&mut checkout)
            );
        }
        assert_eq!(checkout.results["a"].len(), 1 + EARLIER);
        let back = InUse {
            results: results(&[("a", 98)]),
            ..InUse::default()
        };
        assert!(back.enter(&mut checkout));
        assert_eq!(checkout.results["a"][..3], [run(98), run(99), run(97)]);
        assert!(!back.enter(&mut checkout), "nothing is new");
    }

    #[test]
    fn a_part_drops_nothing_and_a_whole_build_what_is_gone() {
        let mut checkout = Checkout::default();
        let first = InUse {
            results: results(&[("a", 1), ("b", 2), ("b#1", 3), ("b#2", 4), ("gone", 5)]),
            ..InUse::default()
        };
        assert!(first.enter(&mut checkout));
        assert!(
            InUse {
                results: results(&[("unneeded#1", 6)]),
                ..InUse::default()
            }
            .enter(&mut checkout)
        );
        assert_eq!(checkout.results.len(), 6);
        let whole = [("a", Some(1)), ("b", Some(2)), ("unneeded", None)];
        let whole = whole.map(|(name, units)| (name.to_owned(), units)).into();
        let last = InUse {
            results: results(&[("a", 1), ("b", 2), ("b#1", 3)]),
            whole: Some(whole),
            packages: None,
        };
        assert!(last.enter(&mut checkout));
        assert_eq!(
            checkout.results.keys().collect::<Vec<_>>(),
            ["a", "b", "b#1", "unneeded#1"]
        );
        assert!(!last.enter(&mut checkout));
    }
}
