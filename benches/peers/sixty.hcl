recipe {
  name              = "pk"
  source_date_epoch = 1700000000
}
variable "one" { default = "gdb" }
stage "bootstrap" "root" {
  distribution = "debian"
  suite        = "bookworm"
  packages     = ["systemd-sysv", "apt"]
}
stage "disk" "base" {
  tree       = stage.root
  size       = "4GiB"
  bootloader = []
}
stage "packages" "tools" {
  from    = stage.base
  install = concat([
    "aptitude", "bc", "bash-completion", "bind9-dnsutils", "bzip2", "ca-certificates", "cpio", "cron", "curl", "dbus",
    "debconf-utils", "dialog", "diffutils", "dmidecode", "dosfstools", "ed", "ethtool", "file", "gawk", "git",
    "gnupg", "htop", "iftop", "iotop", "iproute2", "iptables", "iputils-ping", "jq", "less", "logrotate",
    "lsof", "lvm2", "make", "mc", "mdadm", "mtr-tiny", "nano", "net-tools", "nfs-common", "openssh-client",
    "parted", "patch", "pciutils", "perl", "procps", "psmisc", "python3", "rsync", "rsyslog", "screen",
    "socat", "strace", "sudo", "sysstat", "tcpdump", "tmux", "unzip", "vim", "wget"], [var.one])
}
stage "run" "configure" {
  from = stage.tools
  commands = ["echo hello > /etc/motd", "useradd -m someone"]
}
stage "cleanup" "clean" { from = stage.configure }
stage "convert" "qcow2" {
  from = stage.clean
  format = "qcow2"
}
