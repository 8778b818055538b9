#!/usr/bin/env bash
# The same edit by mkosi in incremental mode: mkosi.sh DIR IMAGE SCRIPT CLEANUP (IMAGE is not used: it installs its own).
# The first run fills its cache; an edit of the postinst script then copies the cached tree and makes the image again.
set -euo pipefail
dir=$1 script=$3
cd "$dir"
cat > mkosi.postinst <<SCRIPT
#!/bin/sh
set -eu
[ "\${1:-final}" = final ] || exit 0
mkdir -p /etc/ssh/sshd_config.d
VARIANT=minimal
$(sed 1d "$script")
SCRIPT
chmod +x mkosi.postinst
mirror=$(apt-get indextargets --format '$(SITE)' 'Codename: bookworm' 'Created-By: Packages' 2> /dev/null | head -n 1)
exec mkosi --nspawn-keep-unit --incremental --force --distribution debian --release bookworm --mirror "${IMPASTO_MIRROR:-$mirror}" \
  --format gpt_ext4 --root-size 4G --output "$dir/image.raw" --qcow2 \
  --package linux-image-cloud-amd64,cloud-init,openssh-server,qemu-guest-agent,sudo build
