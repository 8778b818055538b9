#!/usr/bin/env bash
# Fuzzes every parser for SECONDS_EACH (default 60) seconds. Needs a nightly toolchain.
set -euo pipefail
cd "$(dirname "$0")"
cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz
# libdeflate is linked twice under the sanitizer: no violation of ours.
export ASAN_OPTIONS=detect_odr_violation=0
for target in fuzz_targets/*.rs; do
  name=$(basename "$target" .rs)
  mkdir -p "corpus/$name"
  cargo +nightly fuzz run --fuzz-dir . "$name" "corpus/$name" "seeds/$name" -- -max_total_time="${SECONDS_EACH:-60}" -rss_limit_mb=2048
done
