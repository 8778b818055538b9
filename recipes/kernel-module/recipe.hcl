# A Debian 12 with two kernels, and an example file system as a module for both. See README.md.

recipe {
  name              = "kernel-module"
  source_date_epoch = 1700000000
}

stage "bootstrap" "root" {
  suite = "bookworm"
  packages = [
    # The release's own kernel, and the newer one from its security archive.
    "linux-image-cloud-amd64", "linux-image-6.12-cloud-amd64",
    "systemd-sysv", "udev", "kmod", "e2fsprogs", "initramfs-tools", "zstd", "grub2-common", "grub-pc-bin",
  ]
}

stage "disk" "base" {
  tree       = stage.root
  size       = "2GiB"
  bootloader = ["bios"]
  hostname   = "kernel-module"
  networking = "none"
  growpart   = false
}

stage "copy" "settings" {
  from = stage.base
  files = {
    # What a virtual machine needs to find its root, and nothing else: a small initramfs unpacks faster.
    "/etc/initramfs-tools/conf.d/small" = { content = "MODULES=list\n" }
    "/etc/initramfs-tools/modules"      = { content = "virtio_pci\nvirtio_blk\next4\n" }
    # Runs instead of a normal boot with the kernel argument `systemd.unit=check-impastofs.service`.
    "/etc/systemd/system/check-impastofs.service" = "files/check-impastofs.service"
    "/usr/local/sbin/check-impastofs"             = { source = "files/check-impastofs.sh", mode = "0755" }
  }
}

stage "run" "initramfs" {
  from     = stage.settings
  commands = ["update-initramfs -u -k all"]
}

stage "kernel_module" "module" {
  from         = stage.initramfs
  source       = "impastofs"
  modules      = ["impastofs"]
  modules_load = ["impastofs"]
  ccache       = "kernel-modules"
}

stage "cleanup" "clean" { from = stage.module }

stage "convert" "qcow2" {
  from   = stage.clean
  format = "qcow2"
}

image "kernel-module" {
  name  = "kernel-module"
  files = [stage.qcow2, stage.module.files["modules.tar"], stage.module.files["report.txt"]]
}
