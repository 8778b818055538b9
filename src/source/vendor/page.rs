//! Links of a project's page in a Python index (PEP 503): name of the file, address, and checksum.
//! Knows as much of HTML as such pages have; trusts nothing that they say.

use reqwest::Url;

/// A file that an index offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IndexLink {
    /// The file's name: the last part of its address, decoded.
    pub(super) name: String,
    /// Without its fragment.
    pub(super) url: String,
    /// Hexadecimal digits, in lower case.
    pub(super) sha256: Option<String>,
}

/// The links of a page that lies at `base`.
pub(super) fn links(base: &str, page: &str) -> Vec<IndexLink> {
    let Ok(base) = Url::parse(base) else {
        return Vec::new();
    };
    let mut links = Vec::new();
    let mut rest = page;
    while let Some((_, tag)) = rest.split_once('<') {
        rest = tag;
        let Some(tag) = tag.strip_prefix(['a', 'A']) else {
            continue;
        };
        if !tag.starts_with(char::is_whitespace) {
            continue;
        }
        rest = tag;
        let Some(end) = rest.find('>') else { break };
        let href = attribute(&rest[..end], "href");
        rest = &rest[end..];
        links.extend(href.and_then(|href| link(&base, &href)));
    }
    links
}

fn link(base: &Url, href: &str) -> Option<IndexLink> {
    let mut url = base.join(href).ok()?;
    let fragment = url.fragment().unwrap_or_default();
    let sha256 = fragment
        .split('&')
        .find_map(|part| part.strip_prefix("sha256="))
        .map(str::to_ascii_lowercase);
    url.set_fragment(None);
    let name = url.path_segments()?.next_back()?;
    let name = name
        .replace("%2B", "+")
        .replace("%2b", "+")
        .replace("%21", "!");
    Some(IndexLink {
        name,
        url: url.into(),
        sha256,
    })
}

/// The value of an attribute in the inner text of a tag.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let lower = tag.to_ascii_lowercase();
    let mut from = 0;
    loop {
        let at = from + lower[from..].find(name)?;
        from = at + name.len();
        let before = tag[..at].chars().next_back();
        let value = tag[from..].trim_start().strip_prefix('=');
        let (Some(value), true) = (value, before.is_none_or(char::is_whitespace)) else {
            continue;
        };
        let value = value.trim_start();
        let value = match value.chars().next()? {
            quote @ ('"' | '\'') => value[1..].split(quote).next()?,
            _ => value.split_whitespace().next()?,
        };
        return Some(decoded(value));
    }
}

/// Replaces the references that addresses have in HTML.
fn decoded(text: &str) -> String {
    let known = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#x27;", "'"),
        ("&#39;", "'"),
        ("&amp;", "&"),
    ];
    known
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_absolute_and_know_their_checksum() {
        let page = r##"<!DOCTYPE html><html><body><h1>Links</h1>
<a href="../../files/x-1.0%2Blocal-py3-none-any.whl#sha256=AB12" data-requires-python="&gt;=3.8" >x</a><br/>
<A data-href="no" href='https://files.example/x-1.0.tar.gz?token=a&amp;b=c#md5=1'>x</A>
<a name="top">no address</a> <a href=plain.zip>x</a> <a href="broken"##;
        let link = |name: &str, url: &str, sha256: Option<&str>| IndexLink {
            name: name.to_owned(),
            url: url.to_owned(),
            sha256: sha256.map(str::to_owned),
        };
        assert_eq!(
            links("https://index.example/simple/x/", page),
            [
                link(
                    "x-1.0+local-py3-none-any.whl",
                    "https://index.example/files/x-1.0%2Blocal-py3-none-any.whl",
                    Some("ab12")
                ),
                link(
                    "x-1.0.tar.gz",
                    "https://files.example/x-1.0.tar.gz?token=a&b=c",
                    None
                ),
                link(
                    "plain.zip",
                    "https://index.example/simple/x/plain.zip",
                    None
                ),
            ]
        );
        assert_eq!(links("no address", page), []);
    }
}
