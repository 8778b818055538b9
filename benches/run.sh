#!/usr/bin/env bash
# Runs all benchmarks, or those named: `benches/run.sh [ROW…]`. Rows: noop oneline plan seal convert formats inputs chain demo trees
# packages tests media vendor, and exchanges, which takes an hour and runs only where it is named.
# `--readme` puts the rows of this commit into benches/README.md, where all are measured. `--small` runs every row once on tiny data,
# in the profile of the tests and without the peers that are missing: `make test` does that.
# Needs root, for the sandbox and to empty the page cache (sudo is asked where the caller is somebody else), and zstd, b3sum,
# ninja, strace, qemu-utils and mmdebstrap; `trees` and `exchanges` also casync, restic and diffoscope-minimal, and say so where
# they are missing; `media` pigz, cpio and xorriso. Writes to target/bench/ only.
set -euo pipefail
cd "$(dirname "$0")/.."
# cargo compiles as the caller, and has what it compiled started as root.
target=$(rustc --version --verbose | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
export "CARGO_TARGET_${target}_RUNNER=$PWD/tests/as-root.sh"
if [ "${1:-}" = --small ]; then
  exec cargo test --locked --quiet --bench peers -- "$@"
fi
missing=()
for tool in zstd b3sum ninja:ninja-build strace qemu-img:qemu-utils qemu-storage-daemon:qemu-system-common mmdebstrap; do
  command -v "${tool%%:*}" > /dev/null || missing+=("${tool##*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "the benchmarks need: apt-get install ${missing[*]}" >&2
  exit 1
fi
cargo bench --locked --quiet --bench peers -- "$@"
