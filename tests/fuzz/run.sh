#!/usr/bin/env bash
# First the tests' own generators, run long: CASES (default 5,000) of each property, CHANGES (default 20,000) of each seed.
# Then every parser under libFuzzer for SECONDS_EACH (default 60) seconds, where there is a nightly toolchain.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PROPTEST_CASES=${CASES:-5000} IMPASTO_TORTURE_REPLAY=${CHANGES:-20000}
echo "PROPTEST_CASES=$PROPTEST_CASES IMPASTO_TORTURE_REPLAY=$IMPASTO_TORTURE_REPLAY"
tests/run.sh 'test(/replay|seeds_of|hostile|mutant|mutated|damage|nothing_panics|no_bytes|any_bytes|any_conditions|any_text|arbitrary|random|the_order_is_one|is_written_the_same|comes_back|never_shows/)' \
  --profile torture
cd tests/fuzz
if ! cargo +nightly --version >/dev/null 2>&1; then
  echo 'no libFuzzer: it needs a nightly toolchain (rustup toolchain install nightly)'
  exit
fi
cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz
# libdeflate is linked twice under the sanitizer: no violation of ours.
export ASAN_OPTIONS=detect_odr_violation=0
for target in fuzz_targets/*.rs; do
  name=$(basename "$target" .rs)
  mkdir -p "corpus/$name"
  cargo +nightly fuzz run --fuzz-dir . "$name" "corpus/$name" "seeds/$name" -- -max_total_time="${SECONDS_EACH:-60}" -rss_limit_mb=2048
done
