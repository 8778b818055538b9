//! Bytes as a recipe's text: parsed, evaluated, checked, and formatted where it is valid.

use impasto::recipe::{format, parse_bytes};
use impasto_stages::Registry;

/// Must never panic, and what it says must be safe to show.
pub fn run(data: &[u8]) {
    if let Err(errors) = parse_bytes(data, &Registry::default()) {
        let shown = errors.render(false);
        assert!(!shown.contains('\u{1b}'), "an escape in a message");
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(formatted) = format("recipe.hcl", text)
    {
        let again = format("recipe.hcl", &formatted).expect("formatted text can be formatted");
        assert_eq!(formatted, again, "formatting twice");
    }
}
