# A Debian that boots under BIOS and UEFI, on any hypervisor and cloud that supports cloud-init.
# What is in it and why: README.md.

recipe {
  name              = "debian-${var.release}"
  source_date_epoch = 1700000000
}

variable "size" {
  type        = string
  default     = "4GiB"
  description = "Size of the disk. The root grows at boot to the disk that it finds itself on."
}

variable "extra" {
  type        = list(string)
  default     = []
  description = "Further packages, for all variants."
}

variable "admin_keys" {
  type        = list(string)
  default     = []
  description = "Public SSH keys of a user `admin` with sudo. Without any there is no such user: cloud-init makes them."
}

variable "firmware" {
  type        = list(string)
  default     = ["bios", "uefi", "secure-boot"]
  description = "What the test `boots` starts the image with: a machine each."
}

locals {
  suite = { "12" = "bookworm", "13" = "trixie" }[var.release]
  admin = { admin = { ssh_keys = var.admin_keys, sudo = true } }
}

matrix {
  variant = ["minimal", "development"]
}

stage "bootstrap" "root" {
  suite = local.suite
  packages = concat([
    # Kernel, init, boot loaders for BIOS and UEFI with Secure Boot.
    "linux-image-cloud-amd64", "initramfs-tools", "zstd", "systemd-sysv", "udev", "dbus",
    "grub2-common", "grub-pc-bin", "grub-efi-amd64-bin", "grub-efi-amd64-signed", "shim-signed",
    # Network, DNS, time, remote login.
    "iproute2", "netbase", "systemd-resolved", "systemd-timesyncd", "openssh-server", "ca-certificates", "sudo",
    # Adapts to the host: keys and users from the cloud, a root as large as the disk, the hypervisor's guest agent.
    "cloud-init", "cloud-guest-utils", "e2fsprogs", "qemu-guest-agent",
  ], var.extra)
}

stage "disk" "base" {
  tree     = stage.root
  size     = var.size
  hostname = "debian"
  seed     = "debian-${var.release}"
  users    = length(var.admin_keys) > 0 ? local.admin : {}
}

stage "packages" "tools" {
  from    = stage.base
  when    = matrix.variant == "development"
  install = ["gdb", "strace", "htop", "vim", "less", "curl"]
}

stage "copy" "settings" {
  from = matrix.variant == "development" ? stage.tools : stage.base
  files = {
    # The image's sources are those of the release, which cloud-init would rewrite at first boot, and its locale
    # needs no package, which cloud-init would look for.
    "/etc/cloud/cloud.cfg.d/50-image.cfg" = { content = "apt:\n  preserve_sources_list: true\nlocale: C.UTF-8\n" }
  }
}

stage "run" "configure" {
  from   = stage.settings
  script = file("scripts/configure.sh")
  env    = { VARIANT = matrix.variant }
}

stage "run" "versions" {
  from   = stage.configure
  script = file("scripts/detect-versions.sh")
  output = { "image-version.txt" = "/tmp/image-version.txt" }
}

stage "cleanup" "clean" {
  from = stage.configure
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
  image    = stage.clean
  firmware = var.firmware
  tags     = ["full"]
  disk     = "8GiB" # larger than the image: the root has to grow
  # Emulated on a busy machine it takes minutes.
  boot_timeout = "15m"
  timeout      = "30m"
  ssh          = { timeout = "5m" }
  checks = {
    target     = { target = "multi-user" }
    agent      = { guest_agent = true, addresses = true }
    cloud_init = { cloud_init = "done", after = ["target"], timeout = "10m" }
    ssh        = { ssh = "sudo true", after = ["cloud_init"] }
    healthy    = { run = "test \"$(systemctl is-system-running --wait)\" = running || { systemctl --failed; false; }", after = ["cloud_init"], timeout = "5m" }
    grown      = { run = "test $(df -B1G --output=size / | tail -n 1) -ge 7", after = ["cloud_init"] }
  }
}

image "debian" {
  name     = "debian-${var.release}-${matrix.variant}"
  files    = [stage.qcow2, stage.versions.files["image-version.txt"]]
  requires = [stage.content]
  tags     = { os = "debian-${var.release}", variant = matrix.variant }
  metadata = { versions = stage.versions.files["image-version.txt"] }
  manifest = "manifest.json"
  budget = {
    size     = matrix.variant == "minimal" ? "250MB" : "300MB"
    packages = matrix.variant == "minimal" ? 260 : 320
  }
}
