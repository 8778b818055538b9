//! The software bill of materials in CycloneDX 1.5, as JSON.
//!
//! Knows the document's form (<https://cyclonedx.org/docs/1.5/json/>); what is in it comes from a [`Bill`]. Nothing in it
//! depends on when or where it is written.

use impasto_store::digest::BlobDigest;
use serde_json::{Value, json};

use super::copyright::Copyright;
use super::licenses::{self, References};
use super::spdx::{Subject, location, purl, time};
use super::{Bill, SbomPackage, System};
use crate::inspect::diff::plain;

/// Writes the document. `copyrights` are the packages' copyright files, in their order.
pub fn document(subject: &Subject<'_>, bill: &Bill, copyrights: &[Option<Vec<u8>>]) -> String {
    let components: Vec<Value> = (bill.packages.iter().enumerate())
        .map(|(at, package)| {
            let copyright = copyrights.get(at).and_then(Option::as_deref);
            component(package, copyright, &bill.system)
        })
        .collect();
    let name = plain::name(subject.name.as_bytes());
    let mut image = json!({ "type": "operating-system", "bom-ref": "image", "name": name });
    if let Some(system) = &bill.system.name {
        image["description"] = json!(format!("A disk with {system}."));
    }
    if let Some(version) = &bill.system.version {
        image["version"] = json!(version);
    }
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": format!("urn:uuid:{}", uuid(&subject.content)),
        "version": 1,
        "metadata": {
            "timestamp": time(subject.epoch),
            "tools": { "components": [{
                "type": "application", "name": "impasto", "version": env!("CARGO_PKG_VERSION"),
            }] },
            "component": image,
        },
        "components": components,
        "dependencies": [{
            "ref": "image",
            "dependsOn": components.iter().map(|component| &component["bom-ref"]).collect::<Vec<_>>(),
        }],
    });
    serde_json::to_string_pretty(&document).expect("BUG: a document is not JSON") + "\n"
}

fn component(package: &SbomPackage, copyright: Option<&[u8]>, system: &System) -> Value {
    let purl = purl(package, system);
    let mut value = json!({
        "type": "library",
        "bom-ref": purl,
        "name": package.name,
        "version": package.version,
        "purl": purl,
    });
    let mut references = References::new();
    let declared = copyright
        .and_then(Copyright::parse)
        .map(|copyright| licenses::declared(&copyright, &mut references));
    if let Some(declared) = declared.filter(|declared| declared != "NOASSERTION") {
        // An expression may only hold SPDX's own identifiers; a name may be anything.
        value["licenses"] = match references.is_empty() {
            true => json!([{ "expression": declared }]),
            false => json!([{ "license": { "name": declared } }]),
        };
    }
    let Some(origin) = &package.origin else {
        return value;
    };
    if let Some(sha256) = &origin.sha256 {
        value["hashes"] = json!([{ "alg": "SHA-256", "content": sha256 }]);
    }
    if let Some(url) = location(origin) {
        value["externalReferences"] = json!([{ "type": "distribution", "url": url }]);
    }
    value
}

/// A UUID of version 8 (RFC 9562: its bits are the maker's) that names a content.
fn uuid(content: &str) -> String {
    let digits = BlobDigest::of(content.as_bytes()).to_string();
    let part = |from: usize, to: usize| &digits[from..to];
    format!(
        "{}-{}-8{}-8{}-{}",
        part(0, 8),
        part(8, 12),
        part(12, 15),
        part(15, 18),
        part(18, 30)
    )
}
