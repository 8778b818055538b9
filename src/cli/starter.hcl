# A recipe: stages, each of which builds on the disk or the files of others. Only what changed runs again.
#   impasto plan     what a build would run, and why
#   impasto build    builds it
#   impasto stages   the kinds of stages, and what each takes

recipe {
  name = "starter"
  # Stands for "now" in what is built, so that the same recipe gives the same bytes.
  source_date_epoch = 1700000000
}

# Set it by --var greeting=…, by a --var-file, or by IMPASTO_VAR_greeting.
variable "greeting" {
  type    = string
  default = "built by impasto"
}

# A Debian out of its packages. To begin with an image that you have: stage "fetch" "base" { path = "base.qcow2" }
stage "bootstrap" "root" {
  suite = "bookworm"
  packages = [
    "linux-image-cloud-amd64", "systemd-sysv", "udev", "dbus", "grub2-common", "grub-pc-bin",
    "systemd-resolved", "openssh-server", "sudo", "cloud-init", "cloud-guest-utils", "e2fsprogs",
  ]
}

# A disk that boots. UEFI too: add "efi", and the packages grub-efi-amd64-signed and shim-signed.
stage "disk" "base" {
  tree       = stage.root
  size       = "4GiB"
  bootloader = ["bios"]
}

stage "copy" "config" {
  from = stage.base
  files = {
    "/etc/motd" = { content = "${var.greeting}\n" }
    # cloud-init would look for a locale that needs a package.
    "/etc/cloud/cloud.cfg.d/50-image.cfg" = { content = "locale: C.UTF-8\n" }
  }
}

# A script inside the image. $${OUT} is the shell's; ${var.greeting} is the recipe's.
stage "run" "setup" {
  from = stage.config
  script = <<-EOT
    . /etc/os-release
    echo "$${PRETTY_NAME}" > /tmp/version.txt
  EOT
  output = { "version.txt" = "/tmp/version.txt" }
}

# What belongs to one machine must not be in all that are made of it.
stage "cleanup" "clean" {
  from = stage.setup
}

stage "convert" "qcow2" {
  from   = stage.clean
  format = "qcow2"
}

# Appears as out/starter.qcow2 and out/starter/version.txt, each with its .sha256.
image "starter" {
  name  = "starter"
  files = [stage.qcow2, stage.setup.files["version.txt"]]
}
