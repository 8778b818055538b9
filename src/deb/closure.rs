//! All packages that a list of names needs, out of an index.
//!
//! Made for one use: to lock the toolbox on a host that has no apt. It is no solver: it takes the first alternative that is
//! there, never goes back on a choice, and looks at no `Conflicts` or `Breaks`. Knows stanzas; does not know where they come
//! from.

use std::collections::{BTreeMap, HashMap};

use super::control::Stanza;
use super::relation::{self, Relation, RelationError};
use super::version::{self, Version};

/// A set of packages that cannot be completed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClosureError {
    /// A package that was asked for is not there.
    #[error("the index has no package {name}")]
    Unknown { name: String },
    /// A package that another needs is not there.
    #[error("{needed_by} depends on {relation}, which the index does not have")]
    Missing {
        /// What is needed, with its alternatives.
        relation: String,
        /// The package that needs it.
        needed_by: String,
    },
    /// A package's field cannot be read.
    #[error("the field {field} of {package} cannot be read")]
    Field {
        package: String,
        field: &'static str,
        /// What is wrong with it.
        source: RelationError,
    },
}

/// The packages of an index by name; of several versions the latest.
struct StanzaIndex<'a> {
    packages: HashMap<&'a str, Stanza<'a>>,
    /// Who provides a name, and as which version; by the provider's name.
    providers: HashMap<&'a str, BTreeMap<&'a str, Option<Version<'a>>>>,
}

impl<'a> StanzaIndex<'a> {
    fn new(stanzas: impl IntoIterator<Item = Stanza<'a>>, architecture: &str) -> Self {
        let mut latest: HashMap<&str, (&str, Stanza<'_>, Option<&str>)> = HashMap::new();
        for stanza in stanzas {
            let fields = stanza.get_all(["Package", "Version", "Architecture", "Provides"]);
            let [Some(name), Some(found), Some(of), provides] = fields else {
                continue;
            };
            if of != architecture && of != "all" {
                continue;
            }
            // Of two that are equal the first stays: its source was named first.
            if latest
                .get(name)
                .is_none_or(|(known, ..)| version::compare(known, found).is_lt())
            {
                latest.insert(name, (found, stanza, provides));
            }
        }
        let mut packages = HashMap::with_capacity(latest.len());
        let mut providers: HashMap<_, BTreeMap<_, _>> = HashMap::new();
        for (name, (_, stanza, provides)) in latest {
            packages.insert(name, stanza);
            // One who cannot be read provides nothing: whether it is needed shows where nobody else does.
            let provides = provides
                .and_then(|field| relation::parse(field).ok())
                .unwrap_or_default();
            for provided in provides.into_iter().flatten() {
                let version = provided.version.map(|(_, version)| version);
                providers
                    .entry(provided.name)
                    .or_default()
                    .insert(name, version);
            }
        }
        StanzaIndex {
            packages,
            providers,
        }
    }

    /// The package that an alternative means: the one of this name, or the first that provides it.
    fn choose(&self, relation: &Relation<'_>) -> Option<&'a str> {
        let own = self
            .packages
            .get_key_value(relation.name)
            .filter(|(name, stanza)| {
                let version = stanza
                    .get("Version")
                    .and_then(|text| Version::parse(text).ok());
                relation.is_satisfied_by(name, version.as_ref())
            });
        let provided = || {
            let all = self.providers.get(relation.name)?;
            let fits = |version: &Option<Version<'_>>| {
                relation.is_satisfied_by(relation.name, version.as_ref())
            };
            all.iter()
                .find(|(_, version)| fits(version))
                .map(|(name, _)| *name)
        };
        own.map(|(name, _)| *name).or_else(provided)
    }
}

/// The packages of `names` and all that these need by `Depends` and `Pre-Depends`, sorted by name. Packages of other
/// architectures do not count.
///
/// # Errors
/// A package is missing, or what it says it needs cannot be read.
pub fn closure<'a>(
    stanzas: impl IntoIterator<Item = Stanza<'a>>,
    names: &[&str],
    architecture: &str,
) -> Result<Vec<Stanza<'a>>, ClosureError> {
    let index = StanzaIndex::new(stanzas, architecture);
    let mut chosen = BTreeMap::new();
    let mut todo = Vec::new();
    for name in names {
        let wanted = Relation::parse(name)
            .ok()
            .and_then(|relation| index.choose(&relation));
        todo.push(wanted.ok_or_else(|| ClosureError::Unknown {
            name: (*name).to_owned(),
        })?);
    }
    while let Some(name) = todo.pop() {
        let stanza = index.packages[name];
        if chosen.insert(name, stanza).is_some() {
            continue;
        }
        let fields = ["Pre-Depends", "Depends"];
        for (field, value) in fields.into_iter().zip(stanza.get_all(fields)) {
            let groups = relation::parse(value.unwrap_or_default());
            let groups = groups.map_err(|source| ClosureError::Field {
                package: name.to_owned(),
                field,
                source,
            })?;
            for group in groups {
                let missing = || ClosureError::Missing {
                    relation: group
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join(" | "),
                    needed_by: name.to_owned(),
                };
                todo.push(
                    group
                        .iter()
                        .find_map(|relation| index.choose(relation))
                        .ok_or_else(missing)?,
                );
            }
        }
    }
    Ok(chosen.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::super::control::stanzas;
    use super::*;

    const INDEX: &str = "\
Package: a
Version: 1
Architecture: amd64
Pre-Depends: lib (>= 2)
Depends: none | virtual, all-of-it:any

Package: lib
Version: 1
Architecture: amd64

Package: lib
Version: 10
Architecture: amd64

Package: lib
Version: 11
Architecture: arm64

Package: z-provider
Version: 1
Architecture: amd64
Provides: virtual

Package: provider
Version: 1
Architecture: amd64
Provides: virtual (= 5), other
Depends: a

Package: all-of-it
Version: 1
Architecture: all

Package: broken
Version: 1
Architecture: all
Depends: virtual (>= 6) | lib (>= 11)

Package: odd
Version: 1
Architecture: all
Depends: a b
";

    fn names(names: &[&str]) -> Result<Vec<String>, String> {
        let found = closure(stanzas(INDEX), names, "amd64").map_err(|error| error.to_string())?;
        Ok(found
            .iter()
            .map(|one| {
                format!(
                    "{} {}",
                    one.get("Package").unwrap(),
                    one.get("Version").unwrap()
                )
            })
            .collect())
    }

    #[test]
    fn what_is_needed_is_found_through_circles_and_providers() {
        assert_eq!(
            names(&["a"]).unwrap(),
            ["a 1", "all-of-it 1", "lib 10", "provider 1"]
        );
        assert_eq!(names(&["other", "lib"]).unwrap(), names(&["a"]).unwrap());
        assert_eq!(names(&[]).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_is_missing_is_named_with_who_needs_it() {
        let message =
            "broken depends on virtual (>= 6) | lib (>= 11), which the index does not have";
        assert_eq!(names(&["lib", "broken"]).unwrap_err(), message);
        assert_eq!(
            names(&["nano"]).unwrap_err(),
            "the index has no package nano"
        );
        assert_eq!(
            names(&["../x"]).unwrap_err(),
            "the index has no package ../x"
        );
        assert_eq!(
            names(&["odd"]).unwrap_err(),
            "the field Depends of odd cannot be read"
        );
    }
}
