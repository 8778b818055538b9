//! The software bill of materials in SPDX 2.3, as JSON.
//!
//! Knows the document's form (<https://spdx.github.io/spdx-spec/v2.3/>); what is in it comes from a [`Bill`]. Nothing in it
//! depends on when or where it is written.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::copyright::Copyright;
use super::licenses::{self, References};
use super::{Bill, PackageOrigin, SbomPackage, System};
use crate::inspect::diff::installed::PURL_TYPE;
use crate::inspect::diff::plain;

/// What is not said.
const NOTHING: &str = "NOASSERTION";
/// The document's and the image's identifiers.
const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const IMAGE: &str = "SPDXRef-Image";

/// What a document is about.
pub struct Subject<'a> {
    /// How the image is called.
    pub name: &'a str,
    /// What names its content, such as `disk-` and its DiskDigest: the document's namespace is made of it.
    pub content: String,
    /// Seconds since 1970 that stand for when the document was made.
    pub epoch: u64,
}

/// Writes the document. `copyrights` are the packages' copyright files, in their order.
pub fn document(subject: &Subject<'_>, bill: &Bill, copyrights: &[Option<Vec<u8>>]) -> String {
    let name = plain::name(subject.name.as_bytes());
    let mut references = References::new();
    let mut ids = HashSet::new();
    let mut packages = vec![image(&name, bill)];
    let mut relationships = vec![relationship(DOCUMENT, "DESCRIBES", IMAGE)];
    for (at, found) in bill.packages.iter().enumerate() {
        let copyright = copyrights
            .get(at)
            .and_then(Option::as_deref)
            .and_then(Copyright::parse);
        let declared = copyright.map(|copyright| licenses::declared(&copyright, &mut references));
        let id = unique(id(found), &mut ids);
        relationships.push(relationship(IMAGE, "CONTAINS", &id));
        packages.push(package(found, &id, declared, &bill.system));
    }
    let references: Vec<Value> = references
        .into_iter()
        .map(|(id, (name, text))| json!({ "licenseId": id, "name": name, "extractedText": text }))
        .collect();
    let mut document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": name,
        "documentNamespace": format!("https://spdx.org/spdxdocs/impasto-{}", subject.content),
        "creationInfo": {
            "created": time(subject.epoch),
            "creators": [concat!("Tool: impasto-", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "relationships": relationships,
    });
    if !references.is_empty() {
        document["hasExtractedLicensingInfos"] = Value::Array(references);
    }
    serde_json::to_string_pretty(&document).expect("BUG: a document is not JSON") + "\n"
}

/// A time as SPDX writes it; one that no calendar has is the epoch.
pub(super) fn time(seconds: u64) -> String {
    let time = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

fn relationship(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

fn image(name: &str, bill: &Bill) -> Value {
    let system = bill
        .system
        .name
        .as_ref()
        .map(|name| format!("A disk with {name}. "))
        .unwrap_or_default();
    let unlisted = bill.unlisted.map(|unlisted| {
        format!(
            "Not described here: {} files that no package lists, {} of them kernel modules.",
            unlisted.files, unlisted.kernel_modules
        )
    });
    let comment =
        system + &unlisted.unwrap_or_else(|| "It has no lists of its packages' files.".to_owned());
    json!({
        "SPDXID": IMAGE,
        "name": name,
        "downloadLocation": NOTHING,
        "filesAnalyzed": false,
        "primaryPackagePurpose": "OPERATING_SYSTEM",
        "licenseConcluded": NOTHING,
        "licenseDeclared": NOTHING,
        "copyrightText": NOTHING,
        "comment": comment,
    })
}

fn package(package: &SbomPackage, id: &str, declared: Option<String>, system: &System) -> Value {
    let origin = package.origin.clone().unwrap_or_default();
    let mut source = format!(
        "built from the source package {} {}",
        package.source.name, package.source.version
    );
    if let (Some(archive), Some(path), None) = (&origin.archive, &origin.path, location(&origin)) {
        source += &format!("; from the archive {archive}, {path}");
    }
    let mut value = json!({
        "SPDXID": id,
        "name": package.name,
        "versionInfo": package.version,
        "downloadLocation": location(&origin).unwrap_or_else(|| NOTHING.to_owned()),
        "filesAnalyzed": false,
        "licenseConcluded": NOTHING,
        "licenseDeclared": declared.as_deref().unwrap_or(NOTHING),
        "copyrightText": NOTHING,
        "sourceInfo": source,
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": purl(package, system),
        }],
    });
    if let Some(sha256) = origin.sha256 {
        value["checksums"] = json!([{ "algorithm": "SHA256", "checksumValue": sha256 }]);
    }
    if let Some(state) = &package.state {
        value["comment"] = json!(format!("Its installation is incomplete: {state}."));
    }
    value
}

/// Where a package can be had; an archive that is a directory of some host is nowhere to others.
pub(super) fn location(origin: &PackageOrigin) -> Option<String> {
    let (archive, path) = (origin.archive.as_ref()?, origin.path.as_ref()?);
    let is_url = archive.starts_with("http://") || archive.starts_with("https://");
    let url = format!(
        "{}/{}",
        archive.trim_end_matches('/'),
        path.trim_start_matches('/')
    );
    (is_url && url.bytes().all(|byte| byte.is_ascii_graphic())).then_some(url)
}

/// The package's address (<https://github.com/package-url/purl-spec>).
pub(super) fn purl(package: &SbomPackage, system: &System) -> String {
    let id = system.id.as_deref().unwrap_or("debian");
    let distro = system
        .version
        .as_ref()
        .map(|version| format!("&distro={}-{}", encoded(id), encoded(version)));
    format!(
        "pkg:{PURL_TYPE}/{}/{}@{}?arch={}{}",
        encoded(id),
        encoded(&package.name.to_ascii_lowercase()),
        encoded(&package.version),
        encoded(&package.architecture),
        distro.unwrap_or_default()
    )
}

/// With `%` and two digits for what an address has its own use for.
fn encoded(text: &str) -> String {
    escaped(text, "%", |byte| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':')
    })
}

fn escaped(text: &str, mark: &str, stays: impl Fn(u8) -> bool) -> String {
    text.bytes()
        .map(|byte| {
            if stays(byte) {
                char::from(byte).to_string()
            } else {
                format!("{mark}{byte:02X}")
            }
        })
        .collect()
}

/// An identifier may have letters, digits, dots and hyphens.
fn id(package: &SbomPackage) -> String {
    let name = format!(
        "{}-{}-{}",
        package.name, package.version, package.architecture
    );
    format!(
        "SPDXRef-deb-{}",
        escaped(&name, "-", |byte| byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.'))
    )
}

fn unique(id: String, known: &mut HashSet<String>) -> String {
    let mut found = id.clone();
    let mut number = 1;
    while !known.insert(found.clone()) {
        number += 1;
        found = format!("{id}-{number}");
    }
    found
}
