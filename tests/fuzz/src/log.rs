//! Bytes as what a stage prints: cut anywhere, with a secret in it.

use impasto::engine::log::{Lines, Redactor};
use impasto_stages::Secret;

const SECRET: &str = "hunter2-of-the-fuzzer";

/// No line may hold the secret, nor anything that a terminal acts on.
pub fn run(data: &[u8]) {
    let secret = Secret::new(SECRET);
    let mut lines = Lines::new(Redactor::new([&secret].into_iter()));
    let mut check = |line: String| {
        assert!(!line.contains(SECRET), "the secret shows");
        assert!(
            !line.chars().any(char::is_control),
            "a control character shows"
        );
    };
    let cut = data
        .first()
        .map_or(0, |byte| usize::from(*byte))
        .min(data.len());
    lines.push(&data[..cut], &mut check);
    lines.push(SECRET.as_bytes(), &mut check);
    lines.push(&data[cut..], &mut check);
    lines.finish(&mut check);
}
