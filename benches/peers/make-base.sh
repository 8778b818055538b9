#!/usr/bin/env bash
# Makes DIR/base.raw and DIR/base.qcow2: a GPT disk of 3 GiB with one ext4 that holds about 600 MB of Debian. Needs root,
# mmdebstrap, e2fsprogs, fdisk and qemu-utils. Packages come from where the host's own apt gets them.
set -euo pipefail
dir=${1:?usage: make-base.sh DIR}
export SOURCE_DATE_EPOCH=1700000000 E2FSPROGS_FAKE_TIME=1700000000
uuid=7d1f4a66-1b2c-4d3e-8f90-a1b2c3d4e5f7
packages=linux-image-cloud-amd64,systemd-sysv,openssh-server,python3,perl,cloud-init,gdb,git,vim-nox
mkdir -p "$dir"
[ ! -e "$dir/base.qcow2" ] || exit 0
mapfile -t sources < <(apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
  'Created-By: Packages' 'Architecture: amd64' 'Origin: Debian')
[ "${#sources[@]}" -gt 0 ] || { echo 'apt knows no Debian archive: run apt-get update' >&2; exit 1; }
suite=$(apt-get indextargets --format '$(CODENAME)' 'Created-By: Packages' 'Origin: Debian' | head -n 1)
work=$(mktemp -d "$dir/make.XXXXXX")
trap 'rm -rf "$work"' EXIT
mmdebstrap --quiet --mode=root --variant=minbase --architectures=amd64 --aptopt='Acquire::Languages "none"' \
  --aptopt='APT::Install-Recommends "false"' --include="$packages" --format=directory \
  "$suite" "$work/tree" "${sources[@]}"
printf 'UUID=%s / ext4 defaults 0 1\n' "$uuid" > "$work/tree/etc/fstab"
: > "$work/tree/etc/resolv.conf"
find "$work/tree" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
truncate -s 3G "$work/raw"
sfdisk -q --no-reread --no-tell-kernel "$work/raw" <<T
label: gpt
label-id: 6A3B2C1D-0000-4000-8000-000000000002
unit: sectors
start=2048, size=6287360, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid=6A3B2C1D-0000-4000-8000-000000000023, name=root
T
/usr/sbin/mke2fs -q -F -t ext4 -b 4096 -L root -U "$uuid" -d "$work/tree" \
  -E "offset=$((2048 * 512)),hash_seed=$uuid,root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard" \
  "$work/raw" 785920
qemu-img convert -q -f raw -O qcow2 "$work/raw" "$work/qcow2"
mv "$work/raw" "$dir/base.raw"
mv "$work/qcow2" "$dir/base.qcow2"
