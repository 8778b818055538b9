//! Which proxy a URL is asked through: that of its host goes before that of its scheme. Or that nobody is asked at all.
//! Does not know who said so.

use reqwest::{NoProxy, Proxy, Url};

/// The proxies of a host. Shows no addresses: they may hold passwords.
#[derive(Clone, Default)]
pub struct Proxies {
    /// Scheme, host where it is for one host alone, and address; none asks the server itself.
    entries: Vec<(String, Option<String>, Option<Url>)>,
    /// Hosts and networks that are asked themselves, as `no_proxy` lists them.
    except: String,
    /// Whether no server may be asked.
    offline: bool,
}

impl Proxies {
    /// The same, but no server may be asked.
    #[must_use]
    pub fn offline(self) -> Proxies {
        Proxies {
            offline: true,
            ..self
        }
    }

    /// Whether no server may be asked.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// No proxies, but for hosts and networks that are asked themselves should some be added.
    pub fn except(list: &str) -> Proxies {
        Proxies {
            entries: Vec::new(),
            except: list.to_owned(),
            offline: false,
        }
    }

    /// Adds a proxy for a scheme, or for one host alone: `http://ADDRESS`, `ADDRESS`, or none, where the server itself is
    /// asked. Of several for the same the first counts.
    pub fn add(&mut self, scheme: &str, host: Option<&str>, address: Option<&str>) {
        let address = address.and_then(|address| match address.contains("://") {
            true => Url::parse(address).ok(),
            false => Url::parse(&format!("http://{address}")).ok(),
        });
        let host = host.map(str::to_ascii_lowercase);
        self.entries
            .push((scheme.to_ascii_lowercase(), host, address));
    }

    /// The rules, of which the first that has a proxy for a URL counts.
    pub(super) fn rules(&self) -> Vec<Proxy> {
        let mut rules = Vec::new();
        for (scheme, host, address) in &self.entries {
            if let (Some(host), Some(address)) = (host, address) {
                let (scheme, host, address) = (scheme.clone(), host.clone(), address.clone());
                rules.push(Proxy::custom(move |url| {
                    (url.scheme() == scheme && url.host_str() == Some(&host))
                        .then(|| address.clone())
                }));
            }
        }
        for scheme in ["http", "https"] {
            let mut of_scheme = self.entries.iter().filter(|(of, ..)| of == scheme);
            let Some((.., Some(address))) = of_scheme.clone().find(|(_, host, _)| host.is_none())
            else {
                continue;
            };
            let direct = of_scheme.by_ref().filter(|(.., address)| address.is_none());
            let direct = direct.filter_map(|(_, host, _)| host.as_deref());
            let except: Vec<_> = direct.chain([self.except.as_str()]).collect();
            let rule = match scheme {
                "http" => Proxy::http(address.clone()),
                _ => Proxy::https(address.clone()),
            };
            // A rule of its own, as one that decides by itself asks no list of exceptions.
            let except = NoProxy::from_string(&except.join(","));
            rules.extend(rule.map(|rule| rule.no_proxy(except)));
        }
        rules
    }
}
