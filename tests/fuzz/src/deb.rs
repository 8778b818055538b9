//! Bytes as a Debian package.

use std::io::Read;

use impasto::deb::control::Stanza;
use impasto::deb::package::Package;
use impasto_store::sha256::Sha256;

/// Must never panic; what is read of a package must be what its type promises, in an index too.
pub fn run(data: &[u8]) {
    let Ok(package) = Package::read(data) else {
        return;
    };
    assert!(!package.field("Package").contains('/'), "a name is a path");
    let stanza = package.index_stanza("pool/x.deb", data.len() as u64, Sha256::of(data));
    let stanza = Stanza::only(&stanza).expect("an entry of an index is one stanza");
    assert_eq!(stanza.get("Package"), Some(package.field("Package")));
    assert_eq!(stanza.get("Filename"), Some("pool/x.deb"));
    // A few bytes may well unpack to very many.
    if let Ok(data) = package.data() {
        let mut buffer = Vec::new();
        let _ = data.take(1 << 24).read_to_end(&mut buffer);
    }
}
