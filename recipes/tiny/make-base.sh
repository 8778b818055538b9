#!/usr/bin/env bash
# Makes DIR/base.qcow2: a GPT disk of 64 MiB with one ext4 that holds a static busybox. Needs busybox-static, e2fsprogs,
# fdisk and qemu-utils; no root. The same tools give the same bytes.
set -euo pipefail
dir=${1:?usage: make-base.sh DIR}
export PATH="$PATH:/usr/sbin:/sbin" SOURCE_DATE_EPOCH=1700000000 E2FSPROGS_FAKE_TIME=1700000000
uuid=7d1f4a66-1b2c-4d3e-8f90-a1b2c3d4e5f6
mkdir -p "$dir"
[ ! -e "$dir/base.qcow2" ] || exit 0
tree=$(mktemp -d "$dir/tree.XXXXXX")
raw=$(mktemp "$dir/raw.XXXXXX")
trap 'rm -rf "$tree" "$raw"' EXIT
mkdir -p "$tree"/{bin,dev,etc,proc,root,run,sys,tmp,usr/bin,var}
chmod 755 "$tree"
cp /bin/busybox "$tree/bin/busybox"
for applet in $(/bin/busybox --list); do [ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"; done
echo 'root:x:0:0:root:/root:/bin/sh' > "$tree/etc/passwd"
echo 'root:x:0:' > "$tree/etc/group"
printf 'NAME=Tiny\nVERSION_ID=1\n' > "$tree/etc/os-release"
echo "UUID=$uuid / ext4 defaults 0 1" > "$tree/etc/fstab"
find "$tree" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
truncate -s 64M "$raw"
sfdisk -q --no-reread --no-tell-kernel "$raw" <<T
label: gpt
label-id: 6A3B2C1D-0000-4000-8000-000000000001
unit: sectors
start=2048, size=126976, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid=6A3B2C1D-0000-4000-8000-000000000013, name=root
T
mke2fs -q -F -t ext4 -b 4096 -L root -U "$uuid" -d "$tree" "$raw" \
  -E "offset=$((2048 * 512)),hash_seed=$uuid,root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard" 15872
qemu-img convert -q -f raw -O qcow2 -c -o compression_type=zstd "$raw" "$dir/base.qcow2.part"
mv "$dir/base.qcow2.part" "$dir/base.qcow2"
