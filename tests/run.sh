#!/usr/bin/env bash
# Runs tests: `tests/run.sh EXPRESSION [ARGUMENTS OF cargo nextest run]…`; the expression is one of nextest's, such as all().
# Most make disks, devices, mounts and files of other owners, so they run as root; those of tests/user the caller runs. An
# ordinary user compiles them all, and what is in target/ stays that user's.
set -euo pipefail
cd "$(dirname "$0")/.."
# Where ordinary users have no mke2fs and sfdisk.
export PATH=$PATH:/usr/sbin:/sbin
expression=$1
shift
run=(--workspace --locked)
if [ "$(id -u)" = 0 ]; then exec cargo nextest run "${run[@]}" "$@" -E "$expression"; fi
as_user=0 as_root=0
cargo nextest run "${run[@]}" "$@" -E "($expression) and binary(user)" || as_user=$?
# Root compiles nothing, and asks no cargo.
dir=target/as-root
mkdir -p "$dir"
cargo metadata --format-version 1 --locked > "$dir/metadata.json"
cargo nextest list "${run[@]}" --list-type binaries-only --message-format json > "$dir/binaries.json"
tests/as-root.sh "$(command -v cargo-nextest)" nextest run \
  --cargo-metadata "$dir/metadata.json" --binaries-metadata "$dir/binaries.json" "$@" \
  -E "($expression) and not binary(user)" || as_root=$?
# One of the two may have nothing to run, which nextest says by 4.
if [ "$as_user" = 4 ]; then exit "$as_root"; fi
if [ "$as_root" = 4 ]; then exit "$as_user"; fi
exit "$((as_user ? as_user : as_root))"
