# The work of a `packages` stage. Before it stand its parameters, as shell variables, and `answers`, which prints the
# answers for debconf.
#
# The files to install lie in $offered, beside lists of what is to come of it; there is no network. What apt writes of its
# own lies below /run, which is in memory. The image's sources of packages stay as they are, and are not read.

# One stream, so that what is said last comes last.
exec 2>&1

fail() {
    printf 'impasto: %s\n' "$1"
    shift
    for line; do printf '  help: %s\n' "$line"; done
    exit 1
}
say() { printf 'impasto: %s\n' "$*"; }
has() { command -v "$1" >/dev/null; }

has apt-get && has dpkg || fail 'this image has no apt-get and dpkg' \
    '`packages` is for Debian and what comes of it; use a `run` stage with the image'\''s own tool'

offered=/run/impasto/packages
work=/run/impasto/apt
mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/parts"
chmod 0755 "$work"
cat >"$work/apt.conf" <<CONFIG
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Install-Recommends;
APT::Update::Error-Mode "any";
APT::Get::Assume-Yes "true";
APT::Get::AutomaticRemove "false";
APT::Get::allow-downgrades "true";
APT::Get::allow-change-held-packages "true";
APT::Get::allow-remove-essential "true";
APT::Cmd::Pattern-Only "true";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Sandbox::User "root";
APT::Color "0";
quiet "1";
Acquire::Languages "none";
Dir::Log::Planner "";
Dir::State::lists "$work/lists/";
Dir::Cache "$work/";
Dir::Cache::archives "$work/archives/";
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "$work/parts/";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "$work/parts/";
DPkg::Use-Pty "0";
DPkg::Options { "--force-confdef"; "--force-confold"; "--force-unsafe-io"; };
CONFIG
printf 'deb [trusted=yes] file:%s ./\n' "$offered" >"$work/sources.list"

apt() { apt-get -c="$work/apt.conf" "$@"; }
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true APT_LISTCHANGES_FRONTEND=none
export UCF_FORCE_CONFFOLD=1 NEEDRESTART_SUSPEND=1

# No service is started here. The image's own policy, where it has one, comes back in every case.
guard=/usr/sbin/policy-rc.d
kept=
restore() {
    # A package that brings one keeps it.
    ! grep -qs 'of impasto' "$guard" || rm -f "$guard"
    if [ -z "$kept" ]; then return 0; fi
    if [ -e "$guard" ]; then rm -f "$kept"; else mv "$kept" "$guard"; fi
    kept=
}
if [ -e "$guard" ] || [ -L "$guard" ]; then
    mv "$guard" "$guard.impasto"
    kept=$guard.impasto
fi
trap restore EXIT
printf '#!/bin/sh\n# of impasto\nexit 101\n' >"$guard"
chmod 0755 "$guard"

dpkg --configure -a || fail 'the image has packages that are half installed, and cannot be configured'
for architecture in $architectures; do dpkg --add-architecture "$architecture"; done

answers >"$work/answers"
if [ -s "$work/answers" ]; then
    has debconf-set-selections || fail 'the image has no package debconf, which keeps the answers of `debconf`'
    debconf-set-selections "$work/answers" || fail 'debconf does not take the answers: what it says is above'
fi

if [ -s "$offered/install" ] || [ -s "$offered/remove" ]; then
    apt -qq update || fail 'the list of the locked packages cannot be read: what apt says is above'
    # Everything is named with its version, so that nothing is left to decide.
    set --
    while read -r name architecture version; do
        case $architecture in all) set -- "$@" "$name=$version" ;; *) set -- "$@" "$name:$architecture=$version" ;; esac
    done <"$offered/install"
    while read -r name architecture version; do
        case $architecture in all) set -- "$@" "$name-" ;; *) set -- "$@" "$name:$architecture-" ;; esac
    done <"$offered/remove"
    stale() {
        fail 'this image is not what the lock was made for: what apt says is above' \
            'a stage below has changed packages by itself: let a `packages` stage do that, then lock again: impasto update'
    }
    LC_ALL=C apt -s --purge install -- "$@" >"$work/said" 2>&1 || {
        cat "$work/said"
        stale
    }
    # What would be done is compared with what the lock says will be done.
    sed -n 's/^Inst \([^ :]*\)\(:[^ ]*\)\{0,1\} \(\[[^]]*\] \)\{0,1\}(\([^ ]*\) .*/+ \1 \4/p
        s/^\(Remv\|Purg\) \([^ :]*\)\(:[^ ]*\)\{0,1\} .*/- \2/p' "$work/said" | sort -u >"$work/would"
    {
        while read -r name architecture version; do printf '+ %s %s\n' "$name" "$version"; done <"$offered/install"
        while read -r name architecture version; do printf -- '- %s\n' "$name"; done <"$offered/remove"
    } | sort -u >"$work/shall"
    cmp -s "$work/would" "$work/shall" || {
        comm -23 "$work/would" "$work/shall" | sed 's/^/impasto: apt would do here, and the lock does not know of: /'
        comm -13 "$work/would" "$work/shall" | sed 's/^/impasto: the lock says, and apt would not do here: /'
        stale
    }
    apt-mark showmanual | sort >"$work/manual"
    began=$(date +%s%3N)
    apt -qq --purge install -- "$@" || fail 'apt could not do it: what it says is above'
    say "apt took $(($(date +%s%3N) - began)) ms"
    # Packages that came for others are not kept for their own sake.
    for name in $wanted; do printf '%s\n' "${name%%:*}"; done | sort -u - "$work/manual" >"$work/kept"
    while read -r name architecture version; do
        case $architecture in all) name=$name ;; *) name=$name:$architecture ;; esac
        grep -qxF -e "${name%%:*}" -e "$name" "$work/kept" || printf '%s\n' "$name"
    done <"$offered/install" >"$work/automatic"
    [ ! -s "$work/automatic" ] || xargs apt-mark auto <"$work/automatic" >/dev/null
fi
for name in $hold; do apt-mark -q hold "$name" >/dev/null || fail "$name cannot be held: what apt-mark says is above"; done

restore
trap - EXIT
left=$(dpkg --audit)
[ -z "$left" ] || {
    printf '%s\n' "$left"
    fail 'packages are left half installed: see above'
}

# A boot loader that does not know the newest kernel boots an older one, or none: nothing else would notice.
kernels=$(for kernel in /boot/vmlinuz-*; do [ ! -f "$kernel" ] || printf '%s\n' "${kernel#/boot/vmlinuz-}"; done | sort -V)
newest=$(printf '%s\n' "$kernels" | tail -n 1)
menu=/boot/grub/grub.cfg
# Whether the menu has an entry for a kernel.
listed() {
    while read -r word path rest; do
        case $word in linux | linuxefi | linux16) ;; *) continue ;; esac
        for file in "$path" "/boot$path"; do
            [ "$(readlink -f -- "$file")" = "$(readlink -f -- "/boot/vmlinuz-$1")" ] || continue
            case $rest in *root=/dev/loop*) continue ;; esac
            return 0
        done
    done <"$menu"
    return 1
}
# Whether the menu has an entry for every kernel, and none for one that is gone.
current() {
    for kernel in $kernels; do listed "$kernel" || return 1; done
    while read -r word path rest; do
        case $word in linux | linuxefi | linux16) [ -f "$path" ] || [ -f "/boot$path" ] || return 1 ;; esac
    done <"$menu"
}
if [ -n "$newest" ] && [ -f "$menu" ]; then
    # Debian's hook leaves the menu as it is where it believes to be in a container, as since systemd 256 it does here.
    if ! current && has update-grub; then update-grub || :; fi
    listed "$newest" || fail "the image would not boot its newest kernel: $menu has no entry for /boot/vmlinuz-$newest" \
        'look at what update-grub says above; the root file system must be known to it by its UUID'
    if has update-initramfs && [ ! -f "/boot/initrd.img-$newest" ]; then
        fail "the image would not boot its newest kernel: there is no /boot/initrd.img-$newest" \
            'look at what update-initramfs says above'
    fi
    say "boots linux $newest by $menu"
fi
