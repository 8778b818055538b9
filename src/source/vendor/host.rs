//! Where this host's cargo, pip and npm get files: addresses, certificates and logins out of their own settings.
//! Knows their files, variables and words; fetches nothing, and has no address of its own: where nothing is set, the
//! program itself is asked for the one that it was built with.
//!
//! None of it gets into a key or a result: files are known by their hashes.

mod ini;
mod programs;

use std::path::PathBuf;

use super::VendorError;
use crate::base::bounded;
use crate::base::host::Host;
use crate::net::{Login, Place};

/// How cargo's settings call the registry that it uses unless told otherwise.
pub(super) const DEFAULT_REGISTRY: &str = "crates-io";

/// Debian's file of the certificates that the host believes.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Replacements of sources that are followed.
const REPLACEMENTS: usize = 10;

/// The settings of this host.
pub struct VendorHost {
    host: Host,
}

/// A sparse registry of crates.
pub(super) struct CrateIndex {
    /// With a login in it, perhaps.
    pub(super) url: String,
    token: Option<String>,
}

impl CrateIndex {
    /// A file of it.
    pub(super) fn place(&self, url: &str) -> Result<Place, VendorError> {
        let login = self.token.clone().map(Login::Header);
        Ok(place(url)?.with_login(login))
    }

    /// As messages call it.
    pub(super) fn shown(&self) -> String {
        Place::url(&self.url).map_or_else(String::new, |place| place.shown())
    }
}

fn settings(problem: impl Into<String>, help: &str) -> VendorError {
    VendorError::Settings {
        problem: problem.into(),
        help: help.to_owned(),
    }
}

/// A URL of the settings or of an index.
pub(super) fn place(url: &str) -> Result<Place, VendorError> {
    Place::url(url).ok_or_else(|| {
        let shown = url.rsplit('@').next().unwrap_or_default();
        settings(
            format!("{shown:?} is not an http or https URL"),
            "correct it in the settings of the host's cargo, pip or npm",
        )
    })
}

impl VendorHost {
    pub fn new(host: Host) -> VendorHost {
        VendorHost { host }
    }

    /// Certificates (PEM) that the host's programs believe.
    pub fn authorities(&self) -> Vec<u8> {
        let named = [
            "SSL_CERT_FILE",
            "CARGO_HTTP_CAINFO",
            "PIP_CERT",
            "NODE_EXTRA_CA_CERTS",
        ];
        let named = named.iter().filter_map(|name| self.host.var(name));
        let mut paths: Vec<_> = named.map(PathBuf::from).collect();
        paths.push(CERTIFICATES.into());
        paths.extend(self.pip("cert").map(PathBuf::from));
        paths.extend(self.npmrc("cafile").map(PathBuf::from));
        let cargo = self.cargo_settings("config.toml");
        let own = cargo
            .get("http")
            .and_then(|http| http.get("cainfo")?.as_str());
        paths.extend(own.map(PathBuf::from));
        paths.sort();
        paths.dedup();
        let read = |path: &PathBuf| bounded::read(path, bounded::TEXT).ok();
        paths.iter().filter_map(read).flatten().collect()
    }

    /// The text of a file of settings; empty where it cannot be read.
    fn text(&self, path: &std::path::Path) -> String {
        bounded::read_text(path, bounded::LINES).unwrap_or_default()
    }

    fn home(&self, name: &str) -> Option<PathBuf> {
        self.host.home().map(|home| home.join(name))
    }

    /// The directory of cargo's settings: those of a recipe's directory are not the host's.
    fn cargo_settings(&self, name: &str) -> toml::Table {
        let home = self.host.var("CARGO_HOME").map(PathBuf::from);
        let Some(home) = home.or_else(|| self.home(".cargo")) else {
            return toml::Table::new();
        };
        let text = self.text(&home.join(name));
        let text = if text.is_empty() {
            // As it was called before.
            self.text(&home.join(name.trim_end_matches(".toml")))
        } else {
            text
        };
        toml::from_str(&text).unwrap_or_default()
    }

    /// The registry that cargo takes for a source of a lock.
    pub(super) fn crates(&self, source: &str) -> Result<CrateIndex, VendorError> {
        let table = self.cargo_settings("config.toml");
        let of = |table_name: &str, name: &str, field: &str| {
            let found = table.get(table_name)?.get(name)?.get(field)?.as_str()?;
            Some(found.to_owned())
        };
        let variable = |name: &str, field: &str| {
            let name = name.to_ascii_uppercase().replace('-', "_");
            self.host
                .var(&format!("CARGO_REGISTRIES_{name}_{field}"))
                .map(str::to_owned)
        };
        let url = source.strip_prefix("registry+").unwrap_or(source);
        let mut name = if super::cargo::is_default(source) {
            Some(DEFAULT_REGISTRY.to_owned())
        } else {
            named_registry(&table, url)
        };
        for _ in 0..REPLACEMENTS {
            let replaced = name
                .as_deref()
                .and_then(|name| of("source", name, "replace-with"));
            match replaced {
                Some(other) => name = Some(other),
                None => break,
            }
        }
        let index = match &name {
            Some(name) => of("source", name, "registry")
                .or_else(|| variable(name, "INDEX"))
                .or_else(|| of("registries", name, "index"))
                .or_else(|| programs::cargo_index().filter(|_| name == DEFAULT_REGISTRY)),
            None => Some(url.to_owned()),
        };
        let called = name.as_deref().unwrap_or(url);
        let Some(index) = index else {
            return Err(settings(
                format!("nothing on this host says where the registry {called} is"),
                "install cargo, or name a registry in $CARGO_HOME/config.toml: [source.crates-io] with \
                 replace-with = \"mirror\", and [source.mirror] with registry = \"sparse+https://…\"",
            ));
        };
        let Some(sparse) = index.strip_prefix("sparse+") else {
            return Err(settings(
                format!(
                    "the registry {called} has an index that is a git repository, which is not read here"
                ),
                "name its sparse index in $CARGO_HOME/config.toml: registry = \"sparse+https://…\"",
            ));
        };
        let token = name
            .filter(|name| name != DEFAULT_REGISTRY)
            .and_then(|name| {
                let stored = self.cargo_settings("credentials.toml");
                let stored = stored
                    .get("registries")
                    .and_then(|all| all.get(&name)?.get("token")?.as_str());
                variable(&name, "TOKEN").or(stored.map(str::to_owned))
            });
        Ok(CrateIndex {
            url: sparse.to_owned(),
            token,
        })
    }

    /// A setting of pip's: of its environment, else of its files, the user's first.
    fn pip(&self, name: &str) -> Option<String> {
        let variable = format!("PIP_{}", name.to_ascii_uppercase().replace('-', "_"));
        if let Some(value) = self.host.var(&variable).filter(|value| !value.is_empty()) {
            return Some(value.to_owned());
        }
        let named = self.host.var("PIP_CONFIG_FILE").map(PathBuf::from);
        let user = self.host.config_dir().join("pip/pip.conf");
        let old = self.home(".pip/pip.conf");
        let files = named
            .into_iter()
            .chain([user])
            .chain(old)
            .chain(["/etc/xdg/pip/pip.conf".into(), "/etc/pip.conf".into()]);
        let sections = ["download", "install", "global"];
        files
            .into_iter()
            .find_map(|path| ini::pip_value(&self.text(&path), &sections, name))
    }

    /// The Python indexes, the most important first, each without a slash at its end.
    pub(super) fn python(&self) -> Result<Vec<String>, VendorError> {
        let own = self.pip("index-url").or_else(programs::pip_index);
        let Some(own) = own else {
            return Err(settings(
                "nothing on this host says where Python's index is",
                "install pip, or set `index-url` in /etc/pip.conf or PIP_INDEX_URL",
            ));
        };
        let extra = self.pip("extra-index-url").unwrap_or_default();
        let all = [own.as_str()].into_iter().chain(extra.split_whitespace());
        Ok(all
            .map(|url| url.trim_end_matches('/').to_owned())
            .collect())
    }

    /// A page or file of a Python index, with the login that the user's netrc has for its host.
    pub(super) fn python_place(&self, url: &str) -> Result<Place, VendorError> {
        let place = place(url)?;
        if place.has_login() {
            return Ok(place);
        }
        let path = self
            .host
            .var("NETRC")
            .map(PathBuf::from)
            .or_else(|| self.home(".netrc"));
        let text = path.map(|path| self.text(&path)).unwrap_or_default();
        let login = ini::netrc(&text, place.host_name());
        Ok(place.with_login(login))
    }

    /// A setting of npm's.
    fn npmrc(&self, name: &str) -> Option<String> {
        let own = self.host.var("NPM_CONFIG_USERCONFIG").map(PathBuf::from);
        let user = own.or_else(|| self.home(".npmrc"));
        let files = user.into_iter().chain(["/etc/npmrc".into()]);
        let expand = |value: String| ini::expand(&value, |name| self.host.var(name));
        let mut values = files.filter_map(|path| ini::value(&self.text(&path), &[""], name));
        values.next().map(expand)
    }

    /// The registry for packages of a scope, such as `@types`, or for all others.
    pub(super) fn npm(&self, scope: Option<&str>) -> Result<String, VendorError> {
        let variables = ["npm_config_registry", "NPM_CONFIG_REGISTRY"];
        let scoped = scope.and_then(|scope| self.npmrc(&format!("{scope}:registry")));
        let variable = || {
            variables
                .iter()
                .find_map(|name| self.host.var(name))
                .map(str::to_owned)
        };
        let registry = scoped
            .or_else(variable)
            .or_else(|| self.npmrc("registry"))
            .or_else(programs::npm_registry);
        registry.ok_or_else(|| {
            settings(
                "nothing on this host says where npm's registry is",
                "install npm, or set `registry` in ~/.npmrc",
            )
        })
    }

    /// A file of a registry, with the login that npm's settings have for it.
    pub(super) fn npm_place(&self, place: Place, url: &str) -> Place {
        let address = url.split_once(':').map_or("", |(_, rest)| rest);
        let starts = address
            .match_indices('/')
            .skip(2)
            .map(|(at, _)| &address[..=at]);
        // The longest that there is a login for.
        let login = starts
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .find_map(|start| {
                let token = self
                    .npmrc(&format!("{start}:_authToken"))
                    .map(|token| format!("Bearer {token}"));
                let basic = || {
                    self.npmrc(&format!("{start}:_auth"))
                        .map(|basic| format!("Basic {basic}"))
                };
                token.or_else(basic)
            });
        place.with_login(login.map(Login::Header))
    }
}

/// How cargo's settings call the registry with this index.
fn named_registry(table: &toml::Table, url: &str) -> Option<String> {
    let tables = [("registries", "index"), ("source", "registry")];
    tables.iter().find_map(|(kind, field)| {
        let all = table.get(*kind)?.as_table()?;
        let is = |value: &toml::Value| value.get(*field).and_then(toml::Value::as_str) == Some(url);
        all.iter()
            .find(|(_, value)| is(value))
            .map(|(name, _)| name.clone())
    })
}
