//! Bytes as Debian's texts: stanzas, versions, relations, what dpkg remembers, copyright files.

use impasto::deb::closure::closure;
use impasto::deb::control::{StanzaWriter, stanzas};
use impasto::deb::relation::{self, Relation};
use impasto::deb::status;
use impasto::deb::version::{Version, compare};
use impasto::inspect::sbom::copyright::Copyright;
use impasto::inspect::sbom::licenses::{References, declared};

/// Must never panic; what is written must read back, and versions must have one order.
pub fn run(data: &[u8]) {
    let mut writer = StanzaWriter::new();
    let mut versions = Vec::new();
    for stanza in stanzas(data) {
        writer.fields_of(&stanza, &[]).end();
        for (name, value) in stanza.fields() {
            assert!(stanza.bytes(&String::from_utf8_lossy(name)).is_some());
            let Ok(text) = std::str::from_utf8(value) else {
                continue;
            };
            if let Ok(version) = Version::parse(text) {
                assert!(compare(text, text).is_eq());
                versions.push(version);
            }
            for relation in relation::parse(text).into_iter().flatten().flatten() {
                assert_eq!(
                    Relation::parse(&relation.to_string()).as_ref(),
                    Ok(&relation)
                );
            }
        }
    }
    for triple in versions.windows(3) {
        assert_eq!(
            triple[0].cmp(&triple[1]),
            triple[1].cmp(&triple[0]).reverse()
        );
        if triple[0] <= triple[1] && triple[1] <= triple[2] {
            assert!(triple[0] <= triple[2], "{triple:?}");
        }
    }
    let written = writer.finish();
    let fields = |text: &[u8]| {
        stanzas(text)
            .map(|stanza| stanza.fields().count())
            .sum::<usize>()
    };
    assert_eq!(fields(&written), fields(data));
    let _ = closure(stanzas(data), &["a"], "amd64");
    let automatic = status::automatic(data);
    for entry in status::entries(data) {
        let _ = (
            entry.source(),
            status::is_automatic(&entry, &automatic, b"amd64"),
        );
    }
    if let Some(copyright) = Copyright::parse(data) {
        let mut references = References::new();
        assert!(!declared(&copyright, &mut references).is_empty());
    }
}
