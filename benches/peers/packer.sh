#!/usr/bin/env bash
# The same image by Packer's qemu builder: packer.sh DIR IMAGE SCRIPT CLEANUP
# Boots IMAGE (under TCG, as there is no KVM that all hosts have), runs both scripts over SSH, compresses the disk.
set -euo pipefail
dir=$1 image=$2 script=$3 cleanup=$4
mkdir -p "$dir/http"
[ -e "$dir/key" ] || ssh-keygen -q -t ed25519 -N '' -f "$dir/key"
printf 'instance-id: packer\n' > "$dir/http/meta-data"
printf '#cloud-config\nssh_authorized_keys: ["%s"]\n' "$(cat "$dir/key.pub")" > "$dir/http/user-data"
cat > "$dir/template.json" <<JSON
{
  "builders": [{
    "type": "qemu",
    "accelerator": "tcg",
    "machine_type": "q35",
    "cpus": 2,
    "memory": 1024,
    "headless": true,
    "disk_image": true,
    "iso_url": "$image",
    "iso_checksum": "none",
    "format": "qcow2",
    "disk_compression": true,
    "disk_interface": "virtio",
    "net_device": "virtio-net",
    "http_directory": "$dir/http",
    "qemuargs": [
      ["-cpu", "max"],
      ["-smbios", "type=1,serial=ds=nocloud-net;s=http://10.0.2.2:{{ .HTTPPort }}/"]
    ],
    "ssh_username": "debian",
    "ssh_private_key_file": "$dir/key",
    "ssh_timeout": "15m",
    "shutdown_command": "sudo poweroff",
    "output_directory": "$dir/out",
    "vm_name": "debian.qcow2"
  }],
  "provisioners": [{
    "type": "shell",
    "execute_command": "sudo env VARIANT=minimal {{ .Vars }} sh '{{ .Path }}'",
    "scripts": ["$script", "$cleanup"]
  }]
}
JSON
export PACKER_CACHE_DIR=$dir/cache CHECKPOINT_DISABLE=1
exec packer build -force "$dir/template.json"
