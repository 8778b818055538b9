# Every stage plants one reason for which two builds differ; `clean` plants what impasto itself puts back.

stage "fetch" "base" { path = "base.qcow2" }

stage "run" "clean" {
  from     = stage.base
  commands = ["mkdir -p /var/lib/systemd /var/log/apt; head -c 512 /dev/urandom >/var/lib/systemd/random-seed; date >/var/log/apt/term.log"]
}

stage "run" "machine_id" {
  from     = stage.base
  commands = ["tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id"]
}

stage "run" "ssh_host_keys" {
  from = stage.base
  script = <<-EOT
    mkdir -p /etc/ssh
    for type in ecdsa ed25519; do
      key=/etc/ssh/ssh_host_$${type}_key
      { echo "-----BEGIN OPENSSH PRIVATE KEY-----"; head -c 300 /dev/urandom | base64; echo "-----END OPENSSH PRIVATE KEY-----"; } >$key
      echo "ssh-$type $(head -c 60 /dev/urandom | base64 -w 0) root@image" >$key.pub
    done
  EOT
}

stage "run" "bytecode" {
  from = stage.base
  script = <<-EOT
    mkdir -p /usr/lib/python3/__pycache__
    word() { printf "$(printf '\\%03o\\%03o\\%03o\\%03o' $(($1 & 255)) $(($1 >> 8 & 255)) $(($1 >> 16 & 255)) $(($1 >> 24 & 255)))"; }
    { printf '\247\r\r\n\0\0\0\0'; word "$(date +%s)"; word 4; printf code; } >/usr/lib/python3/__pycache__/own.cpython-311.pyc
  EOT
}

stage "run" "build_id" {
  from = stage.base
  script = <<-EOT
    zeros() { head -c "$1" /dev/zero; }
    {
      # ELF, 64 bits, little endian; one program header at byte 64.
      printf '\177ELF\002\001\001'; zeros 9; printf '\002\0\076\0\001\0\0\0'; zeros 8; printf '\100'; zeros 19
      printf '\100\0\070\0\001\0\100\0'; zeros 4
      # A note of 36 bytes at byte 120.
      printf '\004\0\0\0\004\0\0\0\170'; zeros 23; printf '\044'; zeros 7; printf '\044'; zeros 7; printf '\004'; zeros 7
      printf '\004\0\0\0\024\0\0\0\003\0\0\0GNU\0'; head -c 20 /dev/urandom
      echo code
    } >/usr/bin/own
  EOT
}

stage "run" "random_seed" {
  from     = stage.base
  commands = ["mkdir -p /srv; head -c 512 /dev/urandom >/srv/pool"]
}

stage "run" "directory_order" {
  from     = stage.base
  inputs   = { tree = "tree" }
  commands = ["cd /run/impasto/inputs/tree; mkdir -p /srv; find . -type f >/srv/list"]
}

stage "run" "build_time" {
  from     = stage.base
  commands = ["mkdir -p /srv; date >/srv/built"]
}

stage "run" "host_name" {
  from     = stage.base
  commands = ["mkdir -p /srv; echo \"made on $(hostname)\" >/srv/host"]
}

stage "run" "initramfs" {
  from     = stage.base
  inputs   = { tree = "tree" }
  commands = ["mkdir -p /boot; cd /run/impasto/inputs/tree; find . -type f | cpio -o -H newc | gzip >/boot/initrd.img"]
}

stage "run" "locale" {
  from     = stage.base
  commands = ["mkdir -p /srv; echo \"$LANG\" >/srv/lang"]
}

stage "run" "time_zone" {
  from     = stage.base
  commands = ["mkdir -p /srv; date -d @1000000000 >/srv/zone"]
}

stage "run" "salt" {
  from = stage.base
  script = <<-EOT
    hash=$(head -c 64 /dev/urandom | base64 -w 0 | head -c 86)
    echo 'root:$6$'"$(head -c 8 /proc/sys/kernel/random/uuid)\$$hash:19000:0:99999:7:::" >/etc/shadow
  EOT
}

stage "run" "log" {
  from     = stage.base
  commands = ["mkdir -p /var/log; cat /proc/uptime >/var/log/own.log"]
}
