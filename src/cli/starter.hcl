# A recipe consists of stages, which build on the disks and files of other stages. Only what changed runs again.
#   impasto plan     shows what a build would run, and why
#   impasto build    builds it
#   impasto stages   lists the stage kinds; impasto stages KIND explains one

recipe {
  name = "starter"
  # The time stamp for everything that is built, so that the same recipe gives identical bytes.
  source_date_epoch = 1700000000
}

# Set it with --var greeting=…, a --var-file, or IMPASTO_VAR_greeting.
variable "greeting" {
  type    = string
  default = "built by impasto"
}

# A Debian root file system from packages. To start from an existing image: stage "fetch" "base" { path = "base.qcow2" }
stage "bootstrap" "root" {
  suite = "bookworm"
  packages = [
    "linux-image-cloud-amd64", "systemd-sysv", "udev", "dbus", "grub2-common", "grub-pc-bin",
    "systemd-resolved", "openssh-server", "sudo", "cloud-init", "cloud-guest-utils", "e2fsprogs",
  ]
}

# A bootable disk. For UEFI, add "efi" and the packages grub-efi-amd64-signed and shim-signed.
stage "disk" "base" {
  tree       = stage.root
  size       = "4GiB"
  bootloader = ["bios"]
}

stage "copy" "config" {
  from = stage.base
  files = {
    "/etc/motd" = { content = "${var.greeting}\n" }
    # cloud-init's default locale would need another package.
    "/etc/cloud/cloud.cfg.d/50-image.cfg" = { content = "locale: C.UTF-8\n" }
  }
}

# A script that runs inside the image. $${OUT} is a shell variable; ${var.greeting} is the recipe's.
stage "run" "setup" {
  from = stage.config
  script = <<-EOT
    . /etc/os-release
    echo "$${PRETTY_NAME}" > /tmp/version.txt
  EOT
  output = { "version.txt" = "/tmp/version.txt" }
}

# Removes what must not be shared by all machines made from this image, such as host keys.
stage "cleanup" "clean" {
  from = stage.setup
}

stage "convert" "qcow2" {
  from   = stage.clean
  format = "qcow2"
}

# Written to out/starter.qcow2 and out/starter/version.txt, each with its .sha256.
image "starter" {
  name  = "starter"
  files = [stage.qcow2, stage.setup.files["version.txt"]]
}
