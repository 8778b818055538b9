# The ramdisk of the Ironic Python Agent: kernel, ramdisk, tar.gz, ISO and instance images.
# What is in it, what was tried, and what Packer's users type instead: README.md.

recipe {
  name              = "tinyipa"
  source_date_epoch = 1700000000
}

variable "arch" {
  type        = string
  default     = env("ARCH")
  description = "x86_64, aarch64, or all of them; this machine's where it is empty."
  validation {
    condition     = contains(["", "all", "x86_64", "aarch64"], var.arch)
    error_message = "arch is x86_64, aarch64 or all"
  }
}

variable "branch_path" {
  type        = string
  default     = env("BRANCH_PATH")
  description = "Ends the files' names: tinyipa-x86_64-BRANCH.gz."
}

variable "require_biosdevname" {
  type        = bool
  default     = env("TINYIPA_REQUIRE_BIOSDEVNAME") == "true"
  description = "Whether biosdevname is in the ramdisk. There is none for aarch64."
}

variable "require_ipmitool" {
  type        = bool
  default     = env("TINYIPA_REQUIRE_IPMITOOL") != "false"
  description = "Whether ipmitool is in the ramdisk."
}

variable "require_tests" {
  type        = bool
  default     = false
  description = "Whether nothing is written before the agent has answered in a machine: minutes, without KVM."
}

matrix {
  arch = var.arch == "all" ? ["x86_64", "aarch64"] : [var.arch == "" ? host_architecture() : var.arch]
}

locals {
  debian = { x86_64 = "amd64", aarch64 = "arm64" }[matrix.arch]
  serial = { x86_64 = "ttyS0", aarch64 = "ttyAMA0" }[matrix.arch]
  branch = var.branch_path == "" ? "" : "-${var.branch_path}"
  name   = "tinyipa-${matrix.arch}${local.branch}"
  # Documents nobody reads there, and what the kernel gets from elsewhere.
  left_out = [
    "/boot/*", "/initrd.img*", "/vmlinuz*", "/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*",
    "/usr/share/locale/*", "/var/cache/*", "/var/lib/apt/lists/*",
  ]
}

# make build

stage "bootstrap" "root" {
  suite        = "bookworm"
  architecture = local.debian
  packages = concat([
    # tiny-initramfs and usr-is-merged stand in for larger packages, which nothing here needs.
    "linux-image-cloud-${local.debian}", "tiny-initramfs", "usr-is-merged", "systemd-sysv", "udev", "dbus", "kmod",
    "iproute2", "systemd-resolved", "ca-certificates", "python3",
    # What the agent runs.
    "dmidecode", "dosfstools", "e2fsprogs", "efibootmgr", "gdisk", "hdparm", "lshw", "lvm2", "mdadm", "nvme-cli",
    "open-iscsi", "parted", "pciutils", "psmisc", "qemu-utils", "smartmontools", "util-linux",
  ],
  var.require_ipmitool ? ["ipmitool"] : [],
  var.require_biosdevname && matrix.arch == "x86_64" ? ["biosdevname"] : [],
  )
}

stage "vendor" "wheels" {
  lock    = "requirements.txt"
  python  = "cp311"
  machine = local.debian
}

stage "disk" "base" {
  tree     = stage.root
  size     = "4GiB"
  table    = "none"
  growpart = false
  hostname = "tinyipa"
}

stage "run" "agent" {
  from   = stage.base
  script = file("scripts/install-agent.sh")
  inputs = { wheels = stage.wheels }
}

stage "cleanup" "clean" { from = stage.agent }

# The last one before the ramdisk: an edit of your own files runs this, what is made of the ramdisk, and nothing else.
stage "copy" "overlay" {
  from  = stage.clean
  files = { "/" = "overlay" }
}

# make finalise

stage "initramfs" "ramdisk" {
  from    = stage.overlay
  exclude = concat(local.left_out, ["/etc/fstab"])
  level   = 9
}

stage "archive" "bundle" {
  format = "tar.gz"
  files = {
    "${local.name}.gz"      = stage.ramdisk
    "${local.name}.vmlinuz" = stage.ramdisk.files["kernel"]
  }
}

# make iso

stage "iso" "cd" {
  when      = matrix.arch == "x86_64"
  kernel    = stage.ramdisk.files["kernel"]
  initramfs = stage.ramdisk
  arguments = ["console=tty0", "console=ttyS0,115200"]
  label     = "TINYIPA"
}

# make instance-images: a small system for Ironic to deploy, as a file system of 150 MiB, and with its kernel and ramdisk

stage "bootstrap" "instance_root" {
  suite        = "bookworm"
  architecture = local.debian
  packages     = ["linux-image-cloud-${local.debian}", "initramfs-tools", "usr-is-merged", "systemd-sysv", "udev"]
}

stage "disk" "instance_base" {
  tree     = stage.instance_root
  size     = "2GiB"
  table    = "none"
  growpart = false
  hostname = "tiny-instance"
}

stage "run" "instance_boot" {
  from     = stage.instance_base
  commands = ["cp /boot/vmlinuz-* /tmp/vmlinuz", "cp /boot/initrd.img-* /tmp/initrd"]
  output   = { vmlinuz = "/tmp/vmlinuz", initrd = "/tmp/initrd" }
}

stage "archive" "instance_tree" {
  from    = stage.instance_base
  format  = "tar"
  exclude = concat(local.left_out, ["/usr/lib/modules/*"]) # the drivers are in its ramdisk
}

stage "disk" "instance" {
  tree     = stage.instance_tree
  size     = "150MiB"
  table    = "none"
  growpart = false
  hostname = "tiny-instance"
}

stage "convert" "instance_part" {
  from   = stage.instance
  format = "raw"
}

stage "archive" "instance_uec" {
  format = "tar.gz"
  files = {
    "tiny-instance-vmlinuz"  = stage.instance_boot.files["vmlinuz"]
    "tiny-instance-initrd"   = stage.instance_boot.files["initrd"]
    "tiny-instance-part.img" = stage.instance_part
  }
}

# Machines take minutes, so `impasto test` runs these. What must not appear untested: --var require_tests=true.

stage "test" "agent_answers" {
  kernel    = stage.ramdisk.files["kernel"]
  initramfs = stage.ramdisk
  # The machine has no disk that the agent could wait for.
  arguments = ["console=${local.serial}", "ipa-api-url=http://10.0.2.2:6385", "ipa-insecure=1", "ipa-disk-wait-attempts=1"]
  # On ARM the agent takes the number of sockets from ACPI, which is UEFI's.
  firmware = matrix.arch == "aarch64" ? ["uefi"] : null
  memory   = "2560MiB"
  serve    = { "6385" = "tests/ironic-api.py" }
  timeout  = "40m"
  checks = {
    lookup    = { served = "GET /v1/lookup", timeout = "30m" }
    heartbeat = { served = "POST /v1/heartbeat/", after = ["lookup"], timeout = "10m" }
  }
}

stage "test" "cd_boots" {
  when     = matrix.arch == "x86_64"
  iso      = stage.cd
  firmware = ["bios", "uefi"]
  memory   = "2560MiB"
  timeout  = "40m"
  checks = {
    agent  = { console = "Starting ironic-python-agent version: 13.0.0", timeout = "30m" }
    serves = { console = "Started API service", after = ["agent"], timeout = "10m" }
  }
}

stage "test" "instance_boots" {
  image     = stage.instance
  kernel    = stage.instance_boot.files["vmlinuz"]
  initramfs = stage.instance_boot.files["initrd"]
  arguments = ["root=LABEL=root", "console=${local.serial}"]
  timeout   = "40m"
  checks    = { login = { console = "tiny-instance login:", timeout = "30m" } }
}

image "tinyipa" {
  name   = local.name
  layout = "flat"
  files = merge({
    "${local.name}.gz"                                       = stage.ramdisk
    "${local.name}.vmlinuz"                                  = stage.ramdisk.files["kernel"]
    "${local.name}.tar.gz"                                   = stage.bundle
    "tiny-instance-part-${matrix.arch}${local.branch}.img"   = stage.instance_part
    "tiny-instance-uec-${matrix.arch}${local.branch}.tar.gz" = stage.instance_uec
  }, matrix.arch == "x86_64" ? { "${local.name}.iso" = stage.cd } : {})
  tags     = { arch = matrix.arch, agent = "13.0.0" }
  requires = var.require_tests ? [stage.agent_answers] : []
  manifest = var.arch == "all" ? "build-manifest-${matrix.arch}.txt" : "build-manifest.txt"
  budget   = { files = { "${local.name}.gz" = "160MB" } }
}
