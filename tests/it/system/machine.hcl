
# The recipe's image, set up and with a read-only root; `recipes` boots it.
stage "resize" "larger" {
  from = stage.clean
  size = "6GiB"
}

stage "packages" "languages" {
  from    = stage.larger
  install = ["locales", "kbd", "cron", "tzdata"]
}

stage "system" "set" {
  from             = stage.languages
  hostname         = "web.example.org"
  timezone         = "Europe/Berlin"
  locale           = "de_DE.UTF-8"
  keymap           = "de"
  enable           = ["fstrim.timer"]
  disable          = ["ssh.service"]
  mask             = ["cron.service"]
  groups           = { web = { gid = 1700 } }
  users            = { deploy = { groups = ["web", "www-data"], sudo = true, uid = 1600 } }
  interfaces       = { "en*" = { addresses = ["10.0.2.15/24"], gateways = ["10.0.2.2"], name_servers = ["10.0.2.3"] } }
  kernel_arguments = ["sysrq_always_enabled", "loglevel=5"]
  read_only        = true
}

stage "test" "set_up" {
  image        = stage.set
  boot_timeout = "15m"
  timeout      = "30m"
  checks = {
    healthy   = { run = "test \"$(systemctl is-system-running --wait)\" = running || { systemctl --failed; false; }", timeout = "5m" }
    arguments = { run = "for word in console=ttyS0,115200 sysrq_always_enabled loglevel=5; do grep -qw $word /proc/cmdline || exit 1; done" }
    read_only = { run = "findmnt -no OPTIONS / | grep -q ^ro, && ! touch /usr/x && touch /etc/x /var/x /home/x /root/x /tmp/x" }
    size      = { run = "test $(df -B1M --output=size / | tail -n 1) -ge 5700" }
    machine   = { run = "test -s /etc/machine-id && findmnt -no FSTYPE /etc | grep -qx overlay && stat -c %a /root | grep -qx 700" }
    name      = { run = "test $(hostname -f) = web.example.org" }
    time      = { run = "date +%Z | grep -qE '^CES?T$'" }
    locale    = { run = "localectl status | grep LANG=de_DE.UTF-8 && LC_ALL=de_DE.UTF-8 date +%A | grep -q tag" }
    keymap    = { run = "localectl status | grep 'VC Keymap: de' && localectl status | grep 'X11 Layout: de'" }
    units     = { run = "systemctl is-active fstrim.timer && test $(systemctl is-enabled ssh) = disabled && ! systemctl is-active ssh && test $(systemctl is-enabled cron) = masked" }
    users     = { run = "id deploy | grep -F 'uid=1600(deploy)' | grep -F '1700(web)' | grep -F 'www-data' && su deploy -c 'sudo -n id -u' | grep -qx 0" }
    network   = { run = "ip -4 -o address show | grep -F '10.0.2.15/24' && ip route | grep -F 'default via 10.0.2.2' && resolvectl dns | grep -F 10.0.2.3" }
  }
}

# As Debian's own images have it: /etc/default/grub, and nothing of `disk`.
stage "run" "own_grub" {
  from     = stage.clean
  commands = [
    "rm /etc/default/grub.d/50-impasto.cfg",
    "printf 'GRUB_DEFAULT=0\\nGRUB_TIMEOUT=0\\nGRUB_CMDLINE_LINUX_DEFAULT=quiet\\nGRUB_CMDLINE_LINUX=\"console=ttyS0,115200 panic=30\"\\nGRUB_TERMINAL=serial\\n' >/etc/default/grub",
    "update-grub",
  ]
}

stage "system" "one_argument" {
  from             = stage.own_grub
  kernel_arguments = ["loglevel=6"]
}

stage "system" "two_arguments" {
  from             = stage.one_argument
  kernel_arguments = ["sysrq_always_enabled"]
}

stage "test" "own_arguments" {
  image        = stage.two_arguments
  boot_timeout = "15m"
  timeout      = "30m"
  checks = {
    arguments = { run = "for word in quiet panic=30 loglevel=6 sysrq_always_enabled; do grep -qw $word /proc/cmdline || exit 1; done" }
  }
}
