# An Ubuntu that boots under BIOS and UEFI with Secure Boot, on any hypervisor and cloud that supports cloud-init.
# Where its packages come from, and what of this was tried: README.md.

recipe {
  name              = "ubuntu-24.04"
  source_date_epoch = 1700000000
}

variable "size" {
  type        = string
  default     = "4GiB"
  description = "Size of the disk. The root grows at boot to the disk that it finds itself on."
}

variable "archive_keys" {
  type        = string
  default     = ""
  description = "A file of the keys that sign the mirror, if you sign one of your own. Default: Ubuntu's."
}

variable "firmware" {
  type        = list(string)
  default     = ["bios", "uefi", "secure-boot"]
  description = "What the test `boots` starts the image with: a machine each."
}

stage "bootstrap" "root" {
  distribution = "ubuntu"
  suite        = "noble"
  signed_by    = var.archive_keys == "" ? null : file(var.archive_keys)
  packages = [
    # Kernel, init, boot loaders for BIOS and UEFI with Secure Boot.
    "linux-image-virtual", "initramfs-tools", "zstd", "systemd-sysv", "udev", "dbus",
    "grub2-common", "grub-pc-bin", "grub-efi-amd64-bin", "grub-efi-amd64-signed", "shim-signed",
    # Network, DNS, time, remote login.
    "iproute2", "netbase", "systemd-resolved", "systemd-timesyncd", "openssh-server", "ca-certificates", "sudo",
    # Adapts to the host: keys and users from the cloud, a root as large as the disk, the hypervisor's guest agent.
    "cloud-init", "cloud-guest-utils", "e2fsprogs", "qemu-guest-agent",
  ]
}

stage "disk" "base" {
  tree     = stage.root
  size     = var.size
  hostname = "ubuntu"
  seed     = "ubuntu-24.04"
}

stage "copy" "settings" {
  from = stage.base
  files = {
    # The image's sources are those of the release, which cloud-init would rewrite at first boot, and its locale
    # needs no package, which cloud-init would look for.
    "/etc/cloud/cloud.cfg.d/50-image.cfg" = { content = "apt:\n  preserve_sources_list: true\nlocale: C.UTF-8\n" }
  }
}

stage "cleanup" "clean" {
  from = stage.settings
}

stage "convert" "qcow2" {
  from   = stage.clean
  format = "qcow2"
}

# Decided by reading the disk, in a moment: the image requires it, so every build runs it.
stage "test" "content" {
  image = stage.clean
  tags  = ["quick"]
  checks = {
    boot    = { exists = ["/boot/grub/grub.cfg", "/boot/efi/EFI/BOOT/BOOTX64.EFI", "/etc/os-release"] }
    lean    = { absent = ["gcc", "/root/.bash_history", "/etc/ssh/ssh_host_ed25519_key"] }
    secrets = { no_secrets = true }
  }
}

# Machines take minutes, so `impasto test` runs it. An image that must not appear untested requires it too.
stage "test" "boots" {
  image        = stage.clean
  firmware     = var.firmware
  tags         = ["full"]
  disk         = "8GiB" # larger than the image: the root has to grow
  boot_timeout = "15m"
  timeout      = "30m"
  checks = {
    target     = { target = "multi-user" }
    agent      = { guest_agent = true, addresses = true }
    cloud_init = { cloud_init = "done", after = ["target"], timeout = "10m" }
    grown      = { run = "test $(df -B1G --output=size / | tail -n 1) -ge 7", after = ["cloud_init"] }
  }
}

image "ubuntu" {
  name     = "ubuntu-24.04"
  files    = [stage.qcow2]
  requires = [stage.content]
  tags     = { os = "ubuntu-24.04" }
  manifest = "manifest.json"
}
