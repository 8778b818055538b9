#!/usr/bin/env bash
# The pipeline that people write by hand: by-hand.sh DIR SUITE SIZE PACKAGES KEYRING SOURCE…
# mmdebstrap into a directory, mke2fs -d, and a qcow2 with zstd. No partition table, boot loader or configuration.
set -euo pipefail
dir=$1 suite=$2 size=$3 packages=$4
shift 4
export SOURCE_DATE_EPOCH=1700000000
mmdebstrap --quiet --mode=root --variant=essential --format=directory --include="$packages" \
  --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' "$suite" "$dir/tree" "$@"
truncate -s "$size" "$dir/disk.raw"
mke2fs -q -F -t ext4 -L root -d "$dir/tree" "$dir/disk.raw"
qemu-img convert -f raw -O qcow2 -c -o compression_type=zstd "$dir/disk.raw" "$dir/disk.qcow2"
