#!/usr/bin/env bash
# What diffoscope finds between two disks: diffoscope.sh DIR A B PARTITION SECONDS (A and B are raw images)
# Mounts that partition's ext4 of both as DIR/a and DIR/b, read-only and where nobody else sees it, and writes
# DIR/found.json. Devices in it are not opened. Needs root, fdisk, util-linux and diffoscope-minimal.
set -euo pipefail
dir=$1 a=$2 b=$3 partition=$4 limit=$5
if [ -z "${DIFFOSCOPE_ALONE:-}" ]; then
  DIFFOSCOPE_ALONE=1 exec unshare --mount --propagation private "$0" "$@"
fi
show() {
  local start
  start=$(sfdisk --dump "$1" | awk -v part="$1$partition" '$1 == part { sub(/.*start= */, ""); sub(/,.*/, ""); print }')
  [ -n "$start" ] || { echo "$1 has no partition $partition" >&2; exit 1; }
  mkdir -p "$2"
  mount -t ext4 -o "loop,ro,noload,nodev,nosuid,noexec,offset=$((start * 512))" "$1" "$2"
}
show "$a" "$dir/a"
show "$b" "$dir/b"
status=0
timeout "$limit" diffoscope --exclude-directory-metadata=yes --no-progress --json "$dir/found.json" "$dir/a" "$dir/b" || status=$?
case $status in
  0 | 1) ;;
  124) echo "diffoscope took longer than $limit s" >&2; exit 124 ;;
  *) echo "diffoscope failed: exit code $status" >&2; exit "$status" ;;
esac
