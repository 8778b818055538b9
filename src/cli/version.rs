//! What `impasto -V` says: version, the commit that it was built from, and the format of its stores.
//! Knows what the build script found.

use std::sync::LazyLock;

use impasto_store::{FORMAT_FEATURES, FORMAT_VERSION};

/// The text after the program's name; without a commit where the build script found none.
pub(super) fn line() -> &'static str {
    static LINE: LazyLock<String> = LazyLock::new(|| {
        let mut parts: Vec<_> = option_env!("IMPASTO_COMMIT")
            .map(|commit| format!("commit {commit}"))
            .into_iter()
            .collect();
        parts.push(format!("store format {FORMAT_VERSION}"));
        parts.extend(
            FORMAT_FEATURES
                .iter()
                .map(|feature| format!("with {feature}")),
        );
        format!("{} ({})", env!("CARGO_PKG_VERSION"), parts.join(", "))
    });
    &LINE
}
