#!/usr/bin/env bash
# Puts the built program, its completions and its manual where users find them, and takes them away again.
#   package.sh install ROOT PREFIX   into ROOT/PREFIX (ROOT may be empty), in place of what an earlier install put there
#   package.sh uninstall ROOT PREFIX what that put there: its files, and the directories that it made, if they are empty
#   package.sh deb DIR               a Debian package in DIR; prints its path
#   package.sh check                 all of it, in a directory of its own
# Needs target/release/impasto, and binutils; `deb` needs dpkg-deb. No root, but for directories of root's.
set -euo pipefail
shopt -s inherit_errexit
here=$(cd "$(dirname "$0")/../.." && pwd)
program=$here/target/release/impasto
umask 022

# Below PREFIX: what was installed, a path a line, directories that were made first and with a slash at the end.
list=share/impasto/installed

# Makes the tree of files below $1. Debian keeps completions of packages apart from those of the administrator.
tree() {
  local to=$1 zsh=$2
  install -D --mode=755 "$program" "$to/bin/impasto"
  # Lines of the debugger are most of it.
  strip --strip-all "$to/bin/impasto"
  mkdir -p "$to/share/bash-completion/completions" "$to/share/zsh/$zsh" \
    "$to/share/fish/vendor_completions.d"
  "$program" completions bash > "$to/share/bash-completion/completions/impasto"
  "$program" completions zsh > "$to/share/zsh/$zsh/_impasto"
  "$program" completions fish > "$to/share/fish/vendor_completions.d/impasto.fish"
  "$program" man-pages "$to/share/man"
  # As distributions keep them; without a time, so that they are the same every time.
  gzip --best --no-name "$to"/share/man/man*/*
}

install_tree() {
  local prefix=$1$2 from path new=()
  from=$(mktemp -d)
  # The path is set now: the variable is gone when the shell ends.
  # shellcheck disable=SC2064
  trap "rm -rf '$from'" EXIT
  tree "$from" site-functions
  if [ -e "$prefix/$list" ]; then uninstall "$1" "$2"; fi
  mkdir -p "$from/$(dirname "$list")" "$prefix"
  while IFS= read -r path; do
    if [ ! -d "$prefix/$path" ]; then
      mkdir --mode=755 "$prefix/$path"
      new+=("$path/")
    fi
  done < <(cd "$from" && find . -mindepth 1 -type d -printf '%P\n' | sort)
  while IFS= read -r path; do
    install --mode="$(stat --format=%a "$from/$path")" "$from/$path" "$prefix/$path"
    new+=("$path")
  done < <(cd "$from" && find . -type f -printf '%P\n' | sort)
  printf '%s\n' "${new[@]}" "$list" > "$prefix/$list"
  echo "installed $prefix/bin/impasto ($(numfmt --to=si --suffix=B "$(stat --format=%s "$prefix/bin/impasto")")), its completions and its manual; make uninstall removes them"
}

uninstall() {
  local prefix=$1$2 path lines
  if [ ! -e "$prefix/$list" ]; then
    echo "nothing is installed in $prefix: $prefix/$list is not there" >&2
    return 1
  fi
  mapfile -t lines < "$prefix/$list"
  for path in "${lines[@]}"; do
    # The list is a file like any other: it names what is below the prefix.
    case /$path/ in */../* | //*) echo "$prefix/$list names $path" >&2; return 1 ;; esac
  done
  for path in "${lines[@]}"; do [[ $path == */ ]] || rm -f "$prefix/$path"; done
  # Those within others come after them.
  for ((i = ${#lines[@]} - 1; i >= 0; i--)); do
    if [[ ${lines[i]} == */ ]]; then rmdir --ignore-fail-on-non-empty "$prefix/${lines[i]}" 2> /dev/null || true; fi
  done
}

# What a word of Debian's version may be: 0.1.0-dev comes before 0.1.0.
version() { "$program" --version | sed -n '1s/^impasto \([^ ]*\).*/\1/p' | sed 's/-/~/'; }

deb() {
  local dir=$1 root architecture libc name
  architecture=$(dpkg --print-architecture)
  root=$(mktemp -d)
  # shellcheck disable=SC2064
  trap "rm -rf '$root'" EXIT
  chmod 755 "$root"
  tree "$root/usr" vendor-completions
  # The newest version of the C library whose symbols it uses.
  libc=$(objdump -T "$root/usr/bin/impasto" | sed -n 's/.*GLIBC_\([0-9.]*\).*/\1/p' | sort -V | tail -n 1)
  local doc=$root/usr/share/doc/impasto
  mkdir -p "$doc" "$root/DEBIAN"
  gzip --best --no-name < "$here/CHANGELOG.md" > "$doc/changelog.gz"
  {
    printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: impasto\n\n'
    printf 'Files: *\nCopyright: 2026 the impasto developers\nLicense: Expat or Apache-2.0\n\nLicense: Expat\n'
    sed 's/^$/./; s/^/ /' "$here/LICENSE-MIT"
    printf '\nLicense: Apache-2.0\n On Debian systems it is in /usr/share/common-licenses/Apache-2.0.\n'
  } > "$doc/copyright"
  # qemu-storage-daemon serves disks: a part of the first, in newer releases of the second.
  cat > "$root/DEBIAN/control" <<EOF
Package: impasto
Version: $(version)
Architecture: $architecture
Maintainer: the impasto developers <impasto@localhost>
Section: admin
Priority: optional
Installed-Size: $(du --summarize --apparent-size --block-size=1K "$root/usr" | cut -f1)
Depends: libc6 (>= $libc), libgcc-s1, qemu-system-common, qemu-utils
Recommends: qemu-system-x86, ovmf
Suggests: sudo
Description: builds disk images in cached layers
 Every stage of a recipe is cached by what it depends on, only dirty stages run
 again, and impasto can say why.
EOF
  name=impasto_$(version)_$architecture.deb
  mkdir -p "$dir"
  # Times of the commit, so that the same program makes the same package.
  SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$here" log -1 --format=%ct 2> /dev/null || stat --format=%Y "$program")}
  export SOURCE_DATE_EPOCH
  find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
  dpkg-deb --root-owner-group -Z"${COMPRESSION:-xz}" --build "$root" "$dir/$name" > /dev/null
  echo "$dir/$name"
}

# What is below a directory, with a digest of each file.
listing() { (cd "$1" && find . \( -type d -printf '%p/\n' \) -o \( -type f -exec sha256sum {} + \) | sort); }

check() {
  local work before after
  work=$(mktemp -d)
  # shellcheck disable=SC2064
  trap "rm -rf '$work'" EXIT
  mkdir -p "$work/root/opt/bin"
  echo 'not ours' > "$work/root/opt/bin/other"
  before=$(listing "$work/root")
  # Twice: the second takes the place of the first.
  (install_tree "$work/root" /opt) > /dev/null
  (install_tree "$work/root" /opt) > /dev/null
  "$work/root/opt/bin/impasto" --version > /dev/null
  [ "$(stat --format=%s "$work/root/opt/bin/impasto")" -lt $((40 << 20)) ] || { echo 'the program is not stripped' >&2; return 1; }
  [ -s "$work/root/opt/share/man/man1/impasto-build.1.gz" ] || { echo 'no page for impasto build' >&2; return 1; }
  [ -s "$work/root/opt/share/man/man7/impasto-lock.7.gz" ] || { echo 'no page for the topic lock' >&2; return 1; }
  (uninstall "$work/root" /opt)
  after=$(listing "$work/root")
  diff <(echo "$before") <(echo "$after") || { echo 'uninstall leaves something behind' >&2; return 1; }
  command -v dpkg-deb > /dev/null || { echo 'no Debian package: dpkg-deb is missing'; return; }
  local package database=(--root="$work/debian" --force-not-root --force-depends --force-script-chrootless --log=/dev/null)
  package=$(COMPRESSION=none deb "$work")
  mkdir -p "$work/debian/var/lib/dpkg"/{info,updates}
  : > "$work/debian/var/lib/dpkg/status"
  dpkg "${database[@]}" --install "$package" > /dev/null 2>&1
  "$work/debian/usr/bin/impasto" --version > /dev/null
  dpkg "${database[@]}" --purge impasto > /dev/null 2>&1
  after=$(cd "$work/debian" && find . ! -path './var*' ! -path . -type f)
  [ -z "$after" ] || { echo "the package leaves $after behind" >&2; return 1; }
}

[ -x "$program" ] || { echo 'target/release/impasto is not there: make build' >&2; exit 1; }
command=${1:-}
shift || true
case $command in
  install) install_tree "$@" ;;
  uninstall | deb | check) "$command" "$@" ;;
  *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
