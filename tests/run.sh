#!/usr/bin/env bash
# Runs tests: `tests/run.sh EXPRESSION [ARGUMENTS OF cargo nextest run]…`; the expression is one of nextest's, such as all().
# All is compiled by the caller. For an ordinary user the tests of the package impasto, which make disks, devices and files of
# other owners, are run as root; those of the store and of the stages are not.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin
expression=$1
shift
run=(--workspace --locked)
if [ "$(id -u)" = 0 ]; then exec cargo nextest run "${run[@]}" "$@" -E "$expression"; fi
failed=0
cargo nextest run "${run[@]}" --no-tests=pass "$@" -E "($expression) - package(impasto)" || failed=$?
# Root compiles nothing, and asks no cargo.
dir=target/as-root
mkdir -p "$dir"
cargo metadata --format-version 1 --locked > "$dir/metadata.json"
cargo nextest list "${run[@]}" --list-type binaries-only --message-format json > "$dir/binaries.json"
tests/as-root.sh "$(command -v cargo-nextest)" nextest run \
  --cargo-metadata "$dir/metadata.json" --binaries-metadata "$dir/binaries.json" --no-tests=pass "$@" \
  -E "($expression) & package(impasto)" || failed=$?
exit "$failed"
