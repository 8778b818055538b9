# The work of a `system` stage: functions, and below them one call for each setting. They write files of Debian and systemd,
# and use the image's own tools where these know more. Nothing is started.

# No systemd to talk to.
export SYSTEMD_OFFLINE=1

fail() {
    printf 'impasto: %s\n' "$1"
    shift
    for line; do printf '  help: %s\n' "$line"; done
    exit 1
}
has() { command -v "$1" >/dev/null; }
need() { has "$1" || fail "this image has no $1" "install it by a stage of kind packages: $2"; }

# Writes standard input to a file of root's.
write() {
    mkdir -p "$(dirname "$1")"
    cat >"$1"
    chmod "${2:-0644}" "$1"
}

set_host_name() {
    printf '%s\n' "$1" | write /etc/hostname
    short=${1%%.*}
    own="127.0.1.1	$1"
    [ "$short" = "$1" ] || own="$own $short"
    [ -s /etc/hosts ] || printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' | write /etc/hosts
    # Debian's place for the own name is beside localhost.
    awk -v own="$own" '
        $1 == "127.0.1.1" { next }
        { print }
        $1 == "127.0.0.1" && !done { print own; done = 1 }
        END { if (!done) print own }
    ' /etc/hosts >/run/impasto-hosts
    cat /run/impasto-hosts >/etc/hosts
}

set_timezone() {
    [ -f "/usr/share/zoneinfo/$1" ] || fail "this image has no time zone $1" \
        'install it by a stage of kind packages: tzdata, and tzdata-legacy for old names'
    ln -sfn "/usr/share/zoneinfo/$1" /etc/localtime
    printf '%s\n' "$1" | write /etc/timezone
}

set_locale() {
    case $1 in
        C | POSIX | C.UTF-8 | C.utf8) ;;
        *)
            need locale-gen locales
            charset=${1#*.}
            [ "$charset" != "$1" ] || charset=ISO-8859-1
            grep -qxF "$1 ${charset%%@*}" /usr/share/i18n/SUPPORTED || fail "there is no locale $1" \
                'see /usr/share/i18n/SUPPORTED in the image'
            grep -qxF "$1 ${charset%%@*}" /etc/locale.gen || printf '%s\n' "$1 ${charset%%@*}" >>/etc/locale.gen
            locale-gen >/dev/null
            ;;
    esac
    printf 'LANG=%s\n' "$1" | write /etc/default/locale
    # systemd's own name for the same file.
    [ -L /etc/locale.conf ] || printf 'LANG=%s\n' "$1" | write /etc/locale.conf
}

set_keymap() {
    printf 'XKBMODEL="pc105"\nXKBLAYOUT="%s"\nXKBVARIANT=""\nXKBOPTIONS=""\n\nBACKSPACE="guess"\n' "$1" |
        write /etc/default/keyboard
    [ -L /etc/vconsole.conf ] || printf 'KEYMAP=%s\n' "$1" | write /etc/vconsole.conf
}

add_group() {
    need groupadd passwd
    ! grep -q "^$1:" /etc/group || fail "the group $1 exists already" 'remove it from groups'
    groupadd ${2:+--gid "$2"} "$1"
}

# The first number from 1000 that is free in these files: useradd would take the one behind the last.
free_id() {
    awk -F: '{ taken[$3] = 1 } END { for (id = 1000; id in taken; id++); print id }' "$@"
}

# Name, UID, shell, groups, hash of the password, whether sudo is allowed, public keys. What comes of it is what `disk` writes
# for the same words, but for the file of sudo.
add_user() {
    user=$1 uid=$2 shell=$3 groups=$4 hash=$5 sudo=$6
    shift 6
    need useradd passwd
    if [ "$user" != root ]; then
        ! grep -q "^$user:" /etc/passwd || fail "the user $user exists already" 'remove it from users'
        ! grep -q "^$user:" /etc/group || fail "there is a group called $user" 'use another name in users'
        uid=${uid:-$(free_id /etc/passwd /etc/group)}
        gid=$uid
        ! awk -F: -v gid="$gid" '$3 == gid { found = 1 } END { exit !found }' /etc/group || gid=$(free_id /etc/group)
        groupadd --gid "$gid" "$user"
        useradd --create-home --gid "$gid" --uid "$uid" --shell "$shell" ${groups:+--groups "$groups"} "$user"
        chmod 0700 "/home/$user"
    fi
    [ -z "$hash" ] || usermod --password "$hash" "$user"
    if [ -n "$sudo" ]; then
        need sudo sudo
        # One file for each: sudo skips files with a dot in their names.
        printf '%s ALL=(ALL:ALL) NOPASSWD: ALL\n' "$user" | write "/etc/sudoers.d/91-impasto-$user" 0440
    fi
    [ $# -gt 0 ] || return 0
    home=$(awk -F: -v user="$user" '$1 == user { print $6 }' /etc/passwd)
    mkdir -p "$home/.ssh"
    printf '%s\n' "$@" | write "$home/.ssh/authorized_keys" 0600
    chmod 0700 "$home/.ssh"
    chown -R "$user:" "$home/.ssh"
}

add_interface() {
    [ -f /usr/lib/systemd/systemd-networkd ] || [ -f /lib/systemd/systemd-networkd ] ||
        fail 'this image has no systemd-networkd' 'install it by a stage of kind packages: systemd'
    printf '%s' "$2" | write "/etc/systemd/network/$1"
    set_units enable systemd-networkd.service
    # It would write a configuration of its own, which comes first.
    if [ -d /etc/cloud/cloud.cfg.d ]; then
        printf 'network: { config: disabled }\n' | write /etc/cloud/cloud.cfg.d/60-impasto-network.cfg
    fi
}

# What is done, then units.
set_units() {
    need systemctl systemd
    verb=$1 mask=
    [ "$verb" != mask ] || mask=yes
    shift
    for unit; do
        # A unit is what systemd finds of it, or the template that it is an instance of.
        template=$unit
        case $unit in *@*) template="${unit%%@*}@.${unit##*.}" ;; esac
        found=
        for at in /etc/systemd/system /usr/lib/systemd/system /lib/systemd/system; do
            if [ -e "$at/$unit" ] || [ -L "$at/$unit" ] || [ -e "$at/$template" ]; then found=yes; fi
        done
        # What is masked may be still to come.
        [ -n "$found$mask" ] || [ -e "/etc/init.d/${unit%.service}" ] || fail "this image has no unit $unit" \
            'install what brings it before this stage, or correct its name'
        systemctl --quiet "$verb" "$unit"
    done
}

set_kernel_arguments() {
    need update-grub grub2-common
    # Read after /etc/default/grub, and the 50-impasto.cfg of a disk, whose arguments stay; before, those of an earlier stage.
    own=/etc/default/grub.d/60-impasto-system.cfg
    mkdir -p "${own%/*}"
    printf 'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX %s"\n' "$1" >>"$own"
    chmod 0644 "$own"
    update-grub
    # It finds no kernel on a root that it does not know, and says so by success.
    ! ls /boot/vmlinuz-* >/dev/null 2>&1 || grep -q '^[[:space:]]*linux' /boot/grub/grub.cfg ||
        fail 'update-grub wrote a configuration without a kernel' 'run update-grub in `impasto shell` to see why'
}

# The initramfs puts memory over what the machine writes to before systemd starts, so that no unit can be too early.
set_read_only() {
    need update-initramfs initramfs-tools
    [ -f /etc/fstab ] && awk '$2 == "/" && $1 !~ /^#/ { found = 1 } END { exit !found }' /etc/fstab ||
        fail 'this image has no root in /etc/fstab' 'add its line there, by a stage of kind run'
    awk '
        $2 == "/" && $1 !~ /^#/ {
            count = split($4, options, ",")
            $4 = "ro"
            for (i = 1; i <= count; i++)
                if (options[i] !~ /^(rw|ro|defaults|x-systemd\.growfs)$/) $4 = $4 "," options[i]
        }
        { print }
    ' /etc/fstab >/run/impasto-fstab
    cat /run/impasto-fstab >/etc/fstab
    grep -qx overlay /etc/initramfs-tools/modules || echo overlay >>/etc/initramfs-tools/modules
    # The programs here may be klibc's, which are few. Modes are those of the directories below: the upper one's count.
    write /etc/initramfs-tools/scripts/init-bottom/impasto-read-only 0755 <<'END'
#!/bin/sh
# Written by impasto, for the `read_only` of a stage of kind system: memory over what the machine writes to.
[ "$1" != prereqs ] || exit 0
memory=/run/impasto-memory
mkdir -p $memory
mount -t tmpfs -o mode=0700,size=50% tmpfs $memory
for at in etc:0755 home:0755 root:0700 var:0755; do
    name=${at%:*}
    mkdir -m 0755 $memory/$name
    mkdir -m "${at#*:}" $memory/$name/upper
    mkdir -m 0755 $memory/$name/work
    mount -t overlay -o "lowerdir=$rootmnt/$name,upperdir=$memory/$name/upper,workdir=$memory/$name/work" \
        overlay "$rootmnt/$name"
done
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$rootmnt/tmp"
END
    # What would write to the root, or grow it.
    for unit in grub-common.service; do
        [ ! -e "/lib/systemd/system/$unit" ] || set_units mask "$unit"
    done
    if [ -d /etc/cloud/cloud.cfg.d ]; then
        printf 'growpart: { mode: "off" }\nresize_rootfs: false\n' | write /etc/cloud/cloud.cfg.d/60-impasto-read-only.cfg
    fi
    update-initramfs -u -k all
}
