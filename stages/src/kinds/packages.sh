# The work of a `packages` stage. Before it stand its parameters, as shell variables, and `answers`, which prints the
# answers for debconf.
#
# Whatever apt fetches lies below /run, which is in memory: neither lists nor archives nor addresses of mirrors get into
# the image. Its own sources of packages are read, and stay as they are.

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

policy=/run/impasto/apt
work=/run/impasto/packages
mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/parts"
# Apt fetches as a user of its own.
chmod 0755 "$work"

os() { (. /etc/os-release && eval "printf %s \"\${$1-}\"") 2>/dev/null || :; }
id=$(os ID)
suite=${suite:-$(os VERSION_CODENAME)}
mirror() { sed -n "s/^$1 //p" "$policy/mirrors" 2>/dev/null || :; }
archive=$(mirror archive)
security=$(mirror security)

# The image's sources, but for Debian's own archives, which the host's mirrors stand in for.
others() {
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
        [ -f "$file" ] || continue
        name=${file##*/}
        [ "$file" = /etc/apt/sources.list ] && name=00-image.list
        awk -v found="$work/found" -v own="$suite" -v stanzas="${file##*.}" '
            BEGIN { if (stanzas == "sources") { RS = ""; ORS = "\n\n" } }
            # The key tells, where there is one; else the path right below the host, as mirrors have it.
            function debians(uri, suite, key, components) {
                sub(/-(updates|security|backports|backports-sloppy|proposed-updates)$/, "", suite)
                sub(/\/updates$/, "", suite)
                if (suite != own && suite !~ /^(old)*stable$|^testing$|^unstable$|^sid$/) return 0
                if (key ~ /[^ \t]/) return key ~ /debian-archive-/
                gsub(/(^|[ \t])(main|contrib|non-free|non-free-firmware)/, "", components)
                if (components ~ /[^ \t]/) return 0
                sub(/\/+$/, "", uri)
                return uri ~ /^[a-z+]+:\/\/[^\/]+\/debian(-security)?$/ || uri ~ /\/\/security\.debian\./ ||
                    uri ~ /^mirror\+file:.*\/debian(-security)?\.list$/
            }
            function note(suites, components,   i, n, words) {
                n = split(components, words, " ")
                for (i = 1; i <= n; i++) printf "component %s\n", words[i] >> found
                n = split(suites, words, " ")
                for (i = 1; i <= n; i++) printf "suite %s\n", words[i] >> found
            }
            function line(text,   key, uri, suite, fields) {
                sub(/#.*/, "", text)
                if (text !~ /^[ \t]*deb[ \t[]/) return 0
                sub(/^[ \t]*deb[ \t]*/, "", text)
                key = ""
                if (text ~ /^\[/) {
                    key = substr(text, 1, index(text, "]"))
                    if (!sub(/.*signed-by=/, "", key)) key = ""
                    sub(/[] \t].*/, "", key)
                    text = substr(text, index(text, "]") + 1)
                }
                split(text, fields, " ")
                uri = fields[1]; suite = fields[2]
                sub(/^[ \t]*[^ \t]+[ \t]+[^ \t]+/, "", text)
                if (!debians(uri, suite, key, text)) return 0
                note(suite, text)
                return 1
            }
            function field(text, name,   lower, at) {
                lower = "\n" tolower(text)
                at = index(lower, "\n" name ":")
                if (!at) return ""
                text = substr(text, at + length(name) + 1)
                sub(/\n.*/, "", text)
                return text
            }
            function stanza(text,   plain, uris, suites, n, i, u, s) {
                plain = text
                gsub(/(^|\n)#[^\n]*/, "", plain)
                sub(/^\n/, "", plain)
                gsub(/\n[ \t]+/, " ", plain)
                if (tolower(field(plain, "enabled")) ~ /^ *(no|false|0|off)/) return 0
                n = split(field(plain, "uris"), u, " ")
                split(field(plain, "suites"), s, " ")
                for (i = 1; i <= n; i++) if (debians(u[i], s[1], field(plain, "signed-by"), field(plain, "components"))) {
                    note(field(plain, "suites"), field(plain, "components"))
                    return 1
                }
                return 0
            }
            stanzas == "sources" { if (!stanza($0)) print; next }
            { if (!line($0)) print }
        ' "$file" >"$work/parts/$name"
    done
}

# A file of the mirror; $3 says what an archive without it means.
demand() {
    case $1 in
    file:* | copy:*)
        [ -e "${1#*:}/dists/$2/InRelease" ] || [ -e "${1#*:}/dists/$2/Release" ]
        return
        ;;
    esac
    for name in InRelease Release; do
        if /usr/lib/apt/apt-helper -c="$work/apt.conf" download-file "$1/dists/$2/$name" "$work/probe" >"$work/said" 2>&1
        then return 0
        fi
        # Absent, as a server of files or of objects says it.
        grep -qE ' 40[34] ' "$work/said" || {
            sed 's/^/  /' "$work/said"
            fail "the mirror $1 cannot be reached" 'choose another with --mirror URL or IMPASTO_MIRROR, or try again'
        }
    done
    return 1
}

{
    cat <<'CONFIG'
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Install-Recommends;
#clear Acquire::http::Proxy;
#clear Acquire::https::Proxy;
#clear Acquire::http::Proxy-Auto-Detect;
#clear Acquire::https::Proxy-Auto-Detect;
APT::Update::Error-Mode "any";
APT::Get::Assume-Yes "true";
APT::Get::AutomaticRemove "false";
APT::Cmd::Pattern-Only "true";
APT::Install-Suggests "false";
APT::Color "0";
quiet "1";
Acquire::Languages "none";
Acquire::PDiffs "false";
Acquire::Retries "3";
Acquire::http::Timeout "60";
Acquire::https::Timeout "60";
Dir::Log::Planner "";
DPkg::Use-Pty "0";
DPkg::Options { "--force-confdef"; "--force-confold"; "--force-unsafe-io"; };
CONFIG
    printf 'APT::Install-Recommends "%s";\n' "$recommends"
    printf 'Dir::State::lists "%s/lists/";\nDir::Cache "%s/";\nDir::Cache::archives "%s/archives/";\n' "$work" "$work" "$work"
    if [ "$id" = debian ]; then
        printf 'Dir::Etc::SourceList "%s/sources.list";\nDir::Etc::SourceParts "%s/parts/";\n' "$work" "$work"
    fi
    # An image without certificates can still check the host's mirror.
    if [ -s "$policy/ca-certificates.crt" ]; then
        printf 'Acquire::https::CAInfo "%s/ca-certificates.crt";\n' "$policy"
    fi
    printf 'Dir::Etc::netrc "%s/auth.conf";\n' "$policy"
    case $archive$security in
    *file:* | *copy:*)
        # A mirror that stands still has no date to keep to, and its files need not be for apt's own user.
        printf 'Acquire::Check-Valid-Until "false";\nAPT::Sandbox::User "root";\n'
        ;;
    esac
    cat "$policy/proxy.conf"
} >"$work/apt.conf"
chmod 0600 "$work/apt.conf"

: >"$work/found"
: >"$work/sources.list"
if [ "$id" = debian ]; then
    [ -n "$suite" ] || fail 'this Debian does not say in /etc/os-release which release it is' \
        'say it: `suite = "sid"`'
    [ -n "$archive" ] || fail 'this host knows no mirror of Debian: its apt has none configured' \
        'name one with --mirror URL or IMPASTO_MIRROR, such as the one of Debian nearest to you'
    keyring=
    for file in /usr/share/keyrings/debian-archive-keyring.gpg /usr/share/keyrings/debian-archive-keyring.pgp; do
        [ -z "$keyring" ] && [ -s "$file" ] && keyring=$file
    done
    [ -n "$keyring" ] || fail 'the image cannot check what a mirror gives it: it has no package debian-archive-keyring' \
        'add debian-archive-keyring to the packages of the stage that makes the image'
    others
    [ -n "$components" ] || components=$(awk '$1 == "component" && !seen[$2]++ { print $2 }' "$work/found" | tr '\n' ' ')
    components=${components% }
    components=${components:-main}
    # The names of other suites that the image uses, such as backports.
    more=$(awk -v own="$suite-" '$1 == "suite" && index($2, own) == 1 && !seen[$2]++ { print $2 }' "$work/found")
    used=
    use() {
        printf 'deb [signed-by=%s] %s %s %s\n' "$keyring" "$1" "$2" "$components" >>"$work/sources.list"
        used="$used $2"
    }
    demand "$archive" "$suite" || fail "the mirror $archive has no suite $suite" \
        'the image says this suite in /etc/os-release; choose another mirror with --mirror URL or IMPASTO_MIRROR'
    use "$archive" "$suite"
    for other in "$suite-updates" $more; do
        case " $used $suite-security " in *" $other "*) continue ;; esac
        if demand "$archive" "$other"; then use "$archive" "$other"; else say "the mirror has no suite $other"; fi
    done
    if [ -z "$security" ]; then
        say 'no mirror of security updates is known'
    elif demand "$security" "$suite-security"; then
        use "$security" "$suite-security"
    elif demand "$security" "$suite/updates"; then
        use "$security" "$suite/updates"
    else
        say "the mirror of security updates has no suite $suite-security"
    fi
    say "packages of$used ($components) from $archive${security:+ and $security}"
else
    say "the image is ${id:-of an unknown distribution}, not Debian: its own sources of packages are used as they are"
fi

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

apt update || fail 'the lists of packages cannot be read: what apt says is above' \
    'the address may be wrong, or the image may not know the key that signed them'

# What would be done is asked first: then nothing is changed where it cannot be done, and every name is known to be one.
explain() {
    cat "$work/said"
    names=$(sed -n "
        s/^E: Unable to locate package //p
        s/^E: Package '\(.*\)' has no installation candidate$/\1/p
        s/^E: Version '\(.*\)' for '\(.*\)' was not found$/\2=\1/p
        s/^E: Release '\(.*\)' for '\(.*\)' was not found$/\2\/\1/p
    " "$work/said" | sort -u | tr '\n' ' ')
    names=${names% }
    case $names in
    '') fail 'these packages cannot be installed together: what apt says is above' ;;
    *' '*) what="there are no packages $names here" ;;
    *) what="there is no package $names here" ;;
    esac
    fail "$what" 'check the names; what comes from elsewhere needs its archive: see `repositories`, and `components`'
}
attempt() {
    LC_ALL=C apt -s "$@" >"$work/said" 2>&1 || explain
    apt --download-only "$@" || fail 'the packages cannot be fetched: what apt says is above' \
        'choose another mirror with --mirror URL or IMPASTO_MIRROR, or try again'
    "$last"
    apt -qq "$@" || fail 'apt could not do it: what it says is above'
}

# Takes the host's /etc/resolv.conf off the image's, which some packages put a link in the place of. Of the programs that
# can do it, not every image has the first.
uncover() {
    file=$(readlink -f /etc/resolv.conf) || return 0
    grep -q " $file " /proc/self/mountinfo || return 0
    if has umount; then
        umount -l "$file" || :
    else
        case $(uname -m) in x86_64) call=166 ;; aarch64 | riscv64) call=39 ;; *) call=52 ;; esac
        perl -e 'syscall($ARGV[0] + 0, $ARGV[1], 2)' "$call" "$file" || :
    fi
}
last=:

answers >"$work/answers"
if [ -s "$work/answers" ]; then
    has debconf-set-selections || fail 'the image has no package debconf, which keeps the answers of `debconf`'
    debconf-set-selections "$work/answers" || fail 'debconf does not take the answers: what it says is above'
fi
if [ "$upgrade" = true ]; then attempt upgrade --with-new-pkgs; fi
set -- $install
for name in $remove; do set -- "$@" "$name-"; done
if [ $# -gt 0 ]; then
    last=uncover
    attempt install --purge "$@"
fi
if [ "$autoremove" = true ]; then attempt autoremove --purge; fi

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
