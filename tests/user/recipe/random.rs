//! Random texts and damaged recipes: an answer, never a crash, in bounded time.

use std::time::{Duration, Instant};

use impasto::recipe::{format, parse_bytes};
use impasto_stages::Registry;
use proptest::prelude::*;

/// Pieces that recipes are made of, so that random texts come near to recipes.
const PIECES: &[&str] = &[
    "stage",
    "\"run\"",
    "\"x\"",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "=",
    "==",
    "=>",
    "\n",
    " ",
    "\"",
    "${",
    "%{",
    "~}",
    "}",
    "if",
    "else",
    "endif",
    "for",
    "in",
    "endfor",
    "...",
    ".",
    "*",
    "[*]",
    ",",
    ":",
    "?",
    "var.a",
    "local.b",
    "matrix.c",
    "stage.x",
    ".files[\"f\"]",
    "<<EOT\n",
    "<<-EOT\n",
    "EOT\n",
    "\nEOT\n",
    "#",
    "//",
    "/*",
    "*/",
    "1",
    "1.5e9",
    "null",
    "true",
    "!",
    "-",
    "&&",
    "upper",
    "(\"a\")",
    "variable",
    "locals",
    "matrix",
    "recipe",
    "image",
    "\\",
    "\\u00e4",
    "ä",
    "\u{202e}",
    "\r\n",
    "type = list(string)",
    "default = []",
    "try(",
    "template(",
    "a = ",
    "from = stage.x",
    "commands = [\"x\"]",
];

const VALID: &str = r#"recipe { name = "r" }
variable "a" {
  type    = list(string)
  default = ["x"]
}
locals {
  b = [for i, x in var.a : "${i}-${upper(x)}" if x != ""]
  t = <<-EOT
    a %{ if true ~} b ${join(",", var.a)} %{ else }c%{ endif }
      $${SHELL}
  EOT
}
matrix { c = ["1", "2"] }
stage "fetch" "x" {
  url      = "https://example.org/x"
  checksum = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
}
stage "run" "y" {
  from     = stage.x
  when     = matrix.c == "1" || can(var.a[5])
  commands = concat(local.b, [local.t, matrix.c])
  env      = { for k in var.a : k => "v"... if false }
  output   = { "f" = "/f" }
}
image "i" {
  name  = "i-${matrix.c}"
  files = [stage.z]
}
stage "convert" "z" {
  from   = try(stage.nope, stage.x)
  format = "raw"
}
"#;

fn answer(bytes: &[u8]) {
    let start = Instant::now();
    if let Err(diagnostics) = parse_bytes(bytes, &Registry::default()) {
        assert!(diagnostics.errors() > 0);
        assert!(!diagnostics.render(false).is_empty());
        assert!(!diagnostics.render(true).is_empty());
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(once) = format("x", text)
    {
        let twice = format("x", &once).map_err(|errors| errors.render(false));
        assert_eq!(twice.as_ref(), Ok(&once), "twice is once:\n{text}");
    }
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "too slow: {:?}",
        String::from_utf8_lossy(bytes)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        answer(&bytes);
    }

    #[test]
    fn random_pieces_are_answered(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..60)) {
        answer(pieces.concat().as_bytes());
    }

    #[test]
    fn damaged_recipes_are_answered(
        cuts in prop::collection::vec((0usize..VALID.len(), 0usize..8, prop::sample::select(PIECES)), 1..6),
    ) {
        let mut text = VALID.as_bytes().to_vec();
        for (at, len, piece) in cuts {
            let start = at.min(text.len());
            let end = (start + len).min(text.len());
            text.splice(start..end, piece.bytes());
        }
        answer(&text);
    }
}

#[test]
fn the_undamaged_recipe_is_wrong_in_one_thing_only() {
    let errors =
        parse_bytes(VALID.as_bytes(), &Registry::default()).expect_err("a stage is unknown");
    assert_eq!(errors.errors(), 1, "{errors}");
    assert!(
        parse_bytes(
            VALID.replace("stage.nope", "stage.x").as_bytes(),
            &Registry::default()
        )
        .is_ok()
    );
}
